"""Inversions whose answer is known; the measures against NumPy and TensorFlow's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from PIL import Image

from recipes import feature_inversion as fi

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def uniform(*shape):
    return RANDOM.uniform(size=shape).astype("float32")


def invert(features, photos, weights, steps=300, learning_rate=0.05, start=None):
    images = keras.Variable(uniform(*photos.shape) if start is None else start)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    adam = keras.optimizers.Adam(rate, beta_2=0.99)
    step = fi.build_inversion(
        features, features(photos), images, tf.constant(weights), adam
    )
    step(tf.constant(steps))
    return images.numpy()


def test_the_inverse_of_a_linear_layer_that_loses_nothing_is_the_picture():
    photos = uniform(2, 8, 8, 3)
    mixing = tf.constant([[1.0, 0.5, 0.0], [-0.5, 1.0, 0.3], [0.2, 0.0, 1.0]])
    found = invert(lambda x: x @ mixing, photos, [0.0, 0.0])
    np.testing.assert_allclose(found, photos, atol=2e-3)


def test_what_a_layer_loses_does_not_come_back():
    """Of the sum of the channels only the sum returns."""
    photos = uniform(1, 8, 8, 3)
    found = invert(lambda x: tf.reduce_sum(x, axis=-1), photos, [0.0])
    np.testing.assert_allclose(found.sum(axis=-1), photos.sum(axis=-1), atol=5e-3)
    assert np.abs(found - photos).mean() > 0.05


def test_the_prior_chooses_the_smoothest_of_the_pictures_that_fit():
    """Each picture by its own weight: the mean of all pixels says nothing about any of
    them."""
    photos = uniform(2, 8, 8, 3)
    start = np.repeat(uniform(1, 8, 8, 3), 2, axis=0)
    found = invert(lambda x: tf.reduce_mean(x, (1, 2)), photos, [0.1, 0.0], start=start)
    np.testing.assert_allclose(
        found.mean(axis=(1, 2)), photos.mean(axis=(1, 2)), atol=0.02
    )
    smooth, rough = fi.total_variation(found)
    assert smooth < 0.02 < rough
    np.testing.assert_allclose(rough, fi.total_variation(start)[1], rtol=0.2)


def test_the_first_step_goes_down_the_slope_of_the_loss():
    """Adam's first step is its rate times the sign of the gradient."""
    photos, start = uniform(1, 4, 4, 1), 0.25 + 0.5 * uniform(1, 4, 4, 1)
    kernel = tf.constant(RANDOM.normal(size=(3, 3, 1, 2)), "float64")

    def convolve(x):
        return tf.nn.relu(tf.nn.conv2d(x, tf.cast(kernel, x.dtype), 1, "SAME"))

    found = invert(convolve, photos, [0.5], steps=1, learning_rate=0.01, start=start)

    def loss(x):
        error = fi.feature_error(
            convolve(tf.constant(x)), convolve(tf.constant(photos, "float64"))
        )
        return float(tf.reduce_sum(error + 0.5 * fi.total_variation(tf.constant(x))))

    x = start.astype("float64")
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        slope = (loss(x + step) - loss(x - step)) / 2e-6
        expected = -0.01 * np.sign(slope)
        assert (
            found[index] - start[index] == pytest.approx(expected, abs=1e-4)
            or abs(slope) < 1e-5
        )


def test_total_variation_equals_numpy():
    images = uniform(2, 6, 5, 3)
    expected = np.zeros((2, 5, 4, 3))
    for row, column in np.ndindex(5, 4):
        here = images[:, row, column]
        down, right = images[:, row + 1, column], images[:, row, column + 1]
        expected[:, row, column] = np.hypot(down - here, right - here)
    found = fi.total_variation(tf.constant(images))
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2, 3)), rtol=1e-4)


def test_the_feature_error_of_known_features():
    wanted = np.stack([np.full((2, 2, 3), 2.0), np.full((2, 2, 3), 1.0)]).astype(
        "float32"
    )
    found = np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), 1.5)]).astype("float32")
    np.testing.assert_allclose(fi.feature_error(found, wanted), [1.0, 0.25], rtol=1e-5)
    np.testing.assert_allclose(
        fi.feature_error(found[:, 0, 0], wanted[:, 0, 0]), [1.0, 0.25], 1e-5
    )


def test_the_measures_equal_those_of_tensorflow():
    truth = uniform(2, 24, 20, 3)
    images = (
        (truth + 0.1 * RANDOM.normal(size=truth.shape)).clip(0, 1).astype("float32")
    )
    psnr, ssim = fi.compare(images, truth)
    assert psnr == pytest.approx(np.mean(tf.image.psnr(images, truth, 1.0)), rel=1e-4)
    assert ssim == pytest.approx(np.mean(tf.image.ssim(images, truth, 1.0)), abs=1e-4)
    with np.errstate(divide="ignore"):
        assert fi.compare(truth, truth) == (np.inf, 1.0)


def test_layers_are_chosen_from_the_first_to_the_last():
    assert fi.choose(list("abcdefg"), 4) == ["a", "c", "e", "g"]
    assert fi.choose(["maps"], 4) == ["maps"]


def test_a_network_and_a_picture_of_ones_own(tmp_path):
    x = keras.Input((20, 16, 3))
    maps = keras.layers.Conv2D(6, 3, activation="relu", name="maps")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    keras.Model(x, keras.layers.Dense(3, activation="softmax")(pooled)).save(
        "own.keras"
    )
    Image.fromarray((255 * uniform(30, 30, 3)).astype("uint8")).save("own.png")
    flags = "--preset", "quick", "--model", "own.keras", "--image"
    finished = run_in_process("feature_inversion", tmp_path / "run", *flags, "own.png")
    record = finished.metrics
    assert finished.code == 0
    assert record["claims"] == []
    assert list(record["metrics"]) == ["psnr_maps"]
    assert record["figures"] == ["inversions.png"]
    assert record["trainings"] == {"planned": 1, "begun": 1}
    assert (
        run_in_process("feature_inversion", tmp_path / "no", *flags, "no.png").code == 2
    )
    missing = run_in_process(
        "feature_inversion", tmp_path / "none", "--image", "no.png"
    )
    assert missing.code == 2
