import keras
import numpy as np
import pytest
from scipy.linalg import sqrtm

from deep_learning_recipes.painting import VARIANCE, Recolor, texture_distance


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_texture_distance_sees_direction_grain_and_rare_edges_and_not_place(random):
    stripes = (
        np.tile(np.sin(np.arange(96) / 2), (96, 1))[..., None].repeat(3, -1) / 2 + 0.5
    )
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
    gaussian = peaks.mean() + peaks.std() * random.normal(size=(96, 96, 1)).repeat(
        3, -1
    )
    assert texture_distance(gaussian, peaks) > 0.3


def test_texture_distance_is_in_standard_deviations(random):
    noise = random.normal(size=(64, 64, 3))
    half, plain = texture_distance(0.5 * noise, noise), texture_distance(noise, noise)
    assert plain == 0
    # |x| / 2 on average: of a normal distribution sqrt(2 / π) / 2.
    assert half == pytest.approx(0.4, abs=0.03)


def test_recolor_gives_the_mean_and_covariance_of_the_other(random):
    mixing = 0.05 * random.normal(size=(3, 3, 3))
    pictures = 0.5 + random.normal(size=(2, 20, 20, 3)) @ mixing[:2, None]
    other = 0.4 + random.normal(size=(30, 30, 3)) @ mixing[2] * 0.7
    for found, own in zip(
        np.asarray(Recolor.like(other)(pictures)), pictures, strict=True
    ):
        found, own, wanted = (each.reshape(-1, 3) for each in (found, own, other))
        np.testing.assert_allclose(found.mean(axis=0), wanted.mean(axis=0), atol=1e-3)
        # By SciPy: W C W for C = cov(own), where W = (C + variance)^-1/2 ·
        # cov(wanted)^1/2.
        whitening = np.linalg.inv(sqrtm(np.cov(own.T) + VARIANCE * np.eye(3)))
        map_ = whitening @ sqrtm(np.cov(wanted.T))
        np.testing.assert_allclose(
            np.cov(found.T), map_.T @ np.cov(own.T) @ map_, rtol=0.05, atol=1e-4
        )


def test_a_recolored_picture_stays_upright_and_a_flat_one_flat(random):
    picture = random.uniform(0.2, 0.8, size=(1, 16, 16, 3))
    same = np.asarray(Recolor.like(picture[0])(picture))
    np.testing.assert_allclose(same, picture, atol=0.01)
    grain = 0.5 + 0.002 * random.normal(size=(1, 16, 16, 3))
    assert np.asarray(Recolor.like(picture[0])(grain)).std() < 0.02
    gray = random.uniform(0.4, 0.6, size=(16, 16, 1)).repeat(3, axis=-1)
    assert np.ptp(np.asarray(Recolor.like(gray)(picture)), axis=-1).mean() < 0.02


def test_recolor_comes_back_from_a_file(random, tmp_path):
    x = keras.Input((None, None, 3))
    model = keras.Model(x, Recolor.like(random.uniform(size=(8, 8, 3)))(x))
    model.save(tmp_path / "recolor.keras")
    again = keras.models.load_model(tmp_path / "recolor.keras")
    pictures = random.uniform(size=(2, 8, 12, 3))
    np.testing.assert_allclose(again(pictures), model(pictures), atol=1e-6)
