import numpy as np
import pytest

from deep_learning_recipes.pictures import pattern_distance, recolour


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_pattern_distance_sees_direction_and_grain_and_not_place_or_contrast(random):
    stripes = np.tile(np.sin(np.arange(96) / 2), (96, 1))[..., None].repeat(3, -1) / 2 + 0.5
    noise = random.uniform(size=stripes.shape)
    assert pattern_distance(stripes, stripes) == 0
    assert pattern_distance(stripes, np.roll(stripes, 7, axis=1)) < 0.1
    assert pattern_distance(noise, 0.2 + noise / 2) < 0.05
    assert pattern_distance(stripes, stripes.transpose(1, 0, 2)) > 0.4
    assert pattern_distance(stripes, noise) > 0.5
    assert pattern_distance(noise, random.uniform(size=stripes.shape)) < 0.1


def test_recolour_gives_the_mean_and_covariance_of_the_other(random):
    mixing = 0.05 * random.normal(size=(2, 3, 3))
    pictures = 0.5 + random.normal(size=(2, 20, 20, 3)) @ mixing[0]
    like = 0.4 + random.normal(size=(2, 30, 30, 3)) @ mixing[1] * 0.7
    for found, other in zip(recolour(pictures, like), like, strict=True):
        found, other = found.reshape(-1, 3), other.reshape(-1, 3)
        np.testing.assert_allclose(found.mean(axis=0), other.mean(axis=0), atol=1e-3)
        np.testing.assert_allclose(np.cov(found.T), np.cov(other.T), rtol=0.05, atol=1e-5)


def test_recolour_to_the_own_colours_changes_nothing_and_grey_becomes_grey(random):
    pictures = random.uniform(0.2, 0.8, size=(1, 16, 16, 3))
    np.testing.assert_allclose(recolour(pictures, pictures), pictures, atol=1e-4)
    grey = random.uniform(0.4, 0.6, size=(1, 16, 16, 1)).repeat(3, axis=-1)
    found = recolour(pictures, grey)
    assert np.ptp(found, axis=-1).mean() < 0.02
