import numpy as np
import pytest

from deep_learning_recipes.pictures import texture_distance


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_texture_distance_sees_direction_grain_and_rare_edges_and_not_place(random):
    stripes = np.tile(np.sin(np.arange(96) / 2), (96, 1))[..., None].repeat(3, -1) / 2 + 0.5
    noise = random.uniform(size=stripes.shape)
    assert texture_distance(stripes, stripes) == 0
    assert texture_distance(stripes, np.roll(stripes, 7, axis=1)) < 0.1
    assert texture_distance(random.uniform(size=stripes.shape), noise) < 0.1
    assert texture_distance(noise[:, ::2, ::2].repeat(2, 1), noise) > 0.3
    assert texture_distance(stripes.transpose(1, 0, 2), stripes) > 0.5
    assert texture_distance(stripes, noise) > 0.3
    # Of the same power spectrum: a few high peaks, or Gaussian noise.
    peaks = np.zeros((96, 96, 3))
    peaks[random.integers(96, size=30), random.integers(96, size=30)] = 1
    gaussian = peaks.mean() + peaks.std() * random.normal(size=(96, 96, 1)).repeat(3, -1)
    assert texture_distance(gaussian, peaks) > 0.3


def test_texture_distance_is_in_standard_deviations(random):
    noise = random.normal(size=(64, 64, 3))
    half, plain = texture_distance(0.5 * noise, noise), texture_distance(noise, noise)
    assert plain == 0
    # |x| / 2 on average: of a normal distribution sqrt(2 / π) / 2.
    assert half == pytest.approx(0.4, abs=0.03)
