"""Climbs whose way is known, and the measures of pictures held to counts by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from PIL import Image
from scipy.ndimage import gaussian_filter

from recipes import deep_dream as dd

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def uniform(*shape):
    return RANDOM.uniform(0.4, 0.6, size=shape).astype("float32")


def pointwise(stride=1):
    """A layer that finds twice the pixel, at every stride-th pixel."""
    x = keras.Input((None, None, 1))
    double = keras.layers.Conv2D(
        1, 1, stride, use_bias=False, kernel_initializer="ones"
    )
    model = keras.Model(x, double(x))
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    return model


def test_the_activity_is_the_mean_square():
    images = uniform(2, 4, 6, 1)
    expected = np.mean((2 * images) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(dd.activity(pointwise(), images), expected, rtol=1e-5)


@pytest.mark.parametrize("jitter", [0, 3])
def test_a_step_goes_up_the_slope_by_its_size_and_moves_nothing_else(jitter):
    """The slope of the mean square of 2x is proportional to x, wherever the picture was
    moved."""
    images = uniform(2, 6, 8, 1)
    climb = dd.build_climb(pointwise(), 0.01)
    found = climb(images, 1, jitter, 5)
    expected = images + 0.01 * images / images.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_stay_in_range():
    found = np.asarray(dd.build_climb(pointwise(), 0.5)(uniform(1, 6, 6, 1), 20, 2, 0))
    assert found.min() >= 0 and found.max() == 1


def test_jitter_reaches_the_pixels_that_the_layer_skips():
    images = uniform(1, 8, 8, 1)
    climb = dd.build_climb(pointwise(stride=4), 0.001)
    still, moved = (
        np.asarray(climb(images, 300, jitter, 0)) - images for jitter in (0, 2)
    )
    again = np.asarray(climb(images, 300, 2, 0)) - images
    assert np.count_nonzero(np.abs(still) > 1e-6) == 4
    assert np.count_nonzero(np.abs(moved) > 1e-6) == 64
    np.testing.assert_array_equal(moved, again)


def test_a_dream_carries_what_it_added_from_octave_to_octave():
    photos, seen = tf.constant(uniform(1, 16, 12, 3)), []

    def climb(images, steps, jitter, seed):
        seen.append((tuple(images.shape), steps, jitter, seed))
        return images + 0.1

    found = dd.dream(climb, photos, [0.5, 0.75, 1.0], steps=7, jitter=2, seed=10)
    shapes = (1, 8, 6, 3), (1, 12, 9, 3), (1, 16, 12, 3)
    assert seen == [(shape, 7, 2, 10 + octave) for octave, shape in enumerate(shapes)]
    np.testing.assert_allclose(found, photos + 0.3, atol=1e-5)


@pytest.mark.parametrize("cycles", [2, 8])
def test_the_wavelength_of_a_wave(cycles):
    rows = np.sin(2 * np.pi * cycles * np.arange(32) / 32)
    waves = np.broadcast_to(rows[:, None, None], (32, 32, 3))
    pictures = np.stack([0.3 + waves, waves.transpose(1, 0, 2), 5 * waves])
    np.testing.assert_allclose(dd.wavelength(pictures), 32 / cycles, rtol=1e-6)


def test_the_wavelength_of_two_waves_is_their_geometric_mean_by_energy():
    places = 2 * np.pi * np.arange(64) / 64
    both = np.sin(2 * places) + np.sqrt(3) * np.sin(16 * places)
    picture = np.broadcast_to(both[:, None, None], (64, 64, 1))[None]
    assert dd.wavelength(picture) == pytest.approx([32**0.25 * 4**0.75])


def test_coherence_is_high_for_lines_and_low_for_noise():
    rows, columns = np.indices((64, 64))
    lines = np.sin(0.8 * rows + 0.3 * columns)
    rings = np.sin(0.8 * np.hypot(rows - 31.5, columns - 31.5))
    noise = RANDOM.normal(size=(64, 64))
    pictures = np.stack([lines, rings, noise])[..., None]
    of_lines, of_rings, of_noise = dd.coherence(np.repeat(pictures, 3, axis=-1))
    assert of_lines > 0.95
    assert 0.7 < of_rings < of_lines
    assert of_noise < 0.35


def test_coherence_equals_that_of_the_structure_tensors_eigenvalues():
    pictures = uniform(2, 40, 32, 3)
    gray = gaussian_filter(pictures.mean(axis=-1), 1, axes=(1, 2))
    for found, picture in zip(dd.coherence(pictures), gray, strict=True):
        down, right = np.gradient(picture)
        products = [down**2, down * right, down * right, right**2]
        tensors = np.stack([gaussian_filter(each, 3) for each in products], axis=-1)
        low, high = np.linalg.eigvalsh(tensors.reshape(-1, 2, 2)).T
        assert found == pytest.approx((high - low).sum() / (high + low).sum())


def test_a_network_that_forgets_has_other_weights_and_statistics_of_the_photos():
    x = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3, use_bias=False)(x)
    normalized = keras.layers.BatchNormalization(epsilon=1e-6, name="maps")(maps)
    model = keras.Model(x, keras.layers.ReLU()(normalized))
    photos, before = uniform(6, 16, 16, 3), model.get_weights()
    random = dd.forget(model, photos)
    found = keras.Model(random.input, random.get_layer("maps").output)(photos)
    np.testing.assert_allclose(np.mean(found, axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(np.var(found, axis=(0, 1, 2)), 1, atol=1e-2)
    assert np.abs(random.get_weights()[0] - before[0]).min() > 1e-6
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_features_of_pictures_of_any_size():
    x = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(2 * x - 1)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(maps)))
    features, images = dd.features_of(model, "maps"), uniform(1, 16, 16, 3)
    expected = keras.Model(x, maps)(images)
    np.testing.assert_allclose(features(images), expected, rtol=1e-5)
    assert features(uniform(2, 20, 11, 3)).shape == (2, 18, 9, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_and_a_picture_of_ones_own(channels, tmp_path):
    x = keras.Input((20, 16, channels))
    maps = keras.layers.Conv2D(6, 3, activation="relu", name="maps")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    keras.Model(x, keras.layers.Dense(3, activation="softmax")(pooled)).save(
        "own.keras"
    )
    pixels = RANDOM.integers(256, size=(30, 40, 3), dtype="uint8")
    Image.fromarray(pixels).save("own.png")
    flags = "--preset", "quick", "--size", "40", "--model", "own.keras"
    image = ("--image", "own.png") if channels == 3 else ()
    finished = run_in_process("deep_dream", tmp_path / "run", *flags, *image)
    record = finished.metrics
    assert finished.code == 0
    assert record["claims"] == []
    assert list(record["metrics"]) == ["coherence_maps"]
    assert record["figures"] == ["dreams.png"]
    assert record["trainings"] == {"planned": 1, "begun": 1}


def test_a_missing_picture_ends_the_run_at_once(tmp_path):
    assert run_in_process("deep_dream", tmp_path / "no", "--image", "no.png").code == 2


def test_noise_of_the_same_spectrum_has_it_and_no_lines():
    changes = np.zeros((2, 32, 32, 3))
    changes[:, 8] = changes[:, :, 20] = 1
    noise = dd.same_spectrum(changes, np.random.default_rng(0))
    expected = np.abs(np.fft.fft2(changes, axes=(1, 2)))
    found = np.abs(np.fft.fft2(noise, axes=(1, 2)))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.abs(np.corrcoef(noise.ravel(), changes.ravel())[0, 1]) < 0.5
