"""Saliency against finite differences, tf-keras-vis, and models whose gradient is
known."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from conftest import run_in_process
from keras import layers

from recipes import saliency as sal


@pytest.fixture(scope="module")
def scene():
    return small.scene(sal.build_model)


def test_it_is_the_largest_absolute_difference_quotient_of_the_channels():
    keras.utils.set_random_seed(1)
    x = images = keras.Input((4, 4, 3), dtype="float64")
    x = layers.Conv2D(4, 3, activation="tanh", dtype="float64")(x)
    x = layers.Flatten(dtype="float64")(x)  # float32 would be lost in the step
    model = keras.Model(images, layers.Dense(3, dtype="float64")(x))
    pictures = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
    classes, step = [2, 0], 1e-6
    expected = np.zeros((2, 4, 4))
    for i, row, column, channel in np.ndindex(pictures.shape):
        scores = []
        for sign in (1, -1):
            moved = pictures[i : i + 1].copy()
            moved[0, row, column, channel] += sign * step
            scores.append(float(model(moved)[0, classes[i]]))
        slope = abs(scores[0] - scores[1]) / (2 * step)
        expected[i, row, column] = max(expected[i, row, column], slope)
    found = sal.saliency(model, tf.constant(pictures), tf.constant(classes))
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_map_of_a_linear_model_is_its_weights():
    images = keras.Input((4, 5, 3))
    model = keras.Model(images, layers.Dense(2)(layers.Flatten()(images)))
    kernel = np.abs(model.layers[-1].get_weights()[0]).reshape(4, 5, 3, 2).max(axis=2)
    found = sal.saliency(model, np.zeros((2, 4, 5, 3), "float32"), np.array([1, 0]))
    np.testing.assert_allclose(found, [kernel[..., 1], kernel[..., 0]], rtol=1e-6)


def test_it_is_that_of_tf_keras_vis(scene):
    library = sal.tf_keras_vis_saliency(*scene)
    assert library.shape == (5, 16, 16)
    np.testing.assert_allclose(sal.saliency(*scene), library, rtol=1e-4, atol=1e-6)


def test_smooth_gradient_without_noise_is_the_gradient(scene):
    smooth = sal.smooth_gradient(*scene, 3, 0.0)
    np.testing.assert_allclose(smooth, sal.saliency(*scene), rtol=1e-4, atol=1e-6)


def test_smooth_gradient_comes_to_that_of_tf_keras_vis(scene):
    # Other random numbers: what they share is what is left of 60 copies.
    smooth = sal.smooth_gradient(*scene, 60, 0.2).numpy()
    keras.utils.set_random_seed(0)
    library = sal.tf_keras_vis_saliency(*scene, smooth_samples=60, smooth_noise=0.2)
    np.testing.assert_allclose(smooth.mean((1, 2)), library.mean((1, 2)), rtol=0.08)
    assert np.abs(smooth - library).mean() < 0.2 * library.mean()


def test_smooth_gradient_of_a_square_knows_the_size_of_the_noise():
    # The gradient of x² is 2x, and E|2(x + n)| for x = 0 is 2σ √(2/π); σ is a share of
    # the range.
    images = keras.Input((30, 30, 1))
    squares = layers.Multiply()([images, images])
    model = keras.Model(images, layers.GlobalAveragePooling2D()(squares))
    pictures = np.zeros((1, 30, 30, 1), "float32")
    pictures[0, 0, 0] = 4.0
    smooth = (
        900 * sal.smooth_gradient(model, pictures, np.array([0]), 200, 0.25).numpy()[0]
    )
    assert smooth[1:].mean() == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.01)
    assert smooth[0, 0] == pytest.approx(8.0, rel=0.05)


def test_segment_cuts_out_all_of_the_salient_color():
    image = np.full((20, 20, 3), 0.2) + np.random.default_rng(0).uniform(
        0, 0.1, (20, 20, 3)
    )
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 4:12, 5:9] = True
    image[masks[0]] = (0.9, 0.3, 0.1)
    image[15:18, 15:18] = (
        0.1,
        0.3,
        0.9,
    )  # as far from the ground, but of another color
    maps = np.zeros((1, 20, 20))
    maps[0, 4:12, 6:9] = 1.0
    np.testing.assert_array_equal(sal.segment(image[None], maps), masks)
    assert sal.intersection_over_union(masks, masks) == 1.0
    half = masks & (np.arange(20)[:, None] < 8)
    assert sal.intersection_over_union(half, masks) == 0.5


def test_the_exported_layer_explains_the_most_probable_class(scene):
    model, pictures, _ = scene
    images = keras.Input((16, 16, 3))
    outputs = keras.Model(images, sal.Explain(model)(images))(pictures)
    logits = model(pictures).numpy()
    expected = sal.saliency(model, pictures, logits.argmax(axis=1))
    np.testing.assert_allclose(outputs["saliency"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        outputs["probabilities"], tf.nn.softmax(logits), atol=1e-6
    )


def test_a_network_and_a_picture_of_ones_own(tmp_path, capsys):
    small.save_classifier_and_picture()
    own = ("--model", "own.keras", "--samples", "2")
    finished = run_in_process("saliency", tmp_path / "one", *own, "--image", "own.png")
    assert finished.code == 0
    assert finished.metrics["figures"] == ["own.png"]
    assert {*finished.metrics["metrics"]} == {
        "picture_0_class",
        "picture_0_probability",
    }
    assert finished.metrics["claims"] == []
    finished = run_in_process("saliency", tmp_path / "photographs", *own)
    assert len(finished.metrics["metrics"]) == 18
    assert run_in_process("saliency", tmp_path / "bad", "--image", "none.png").code == 2
    assert "none.png: there is no such file" in capsys.readouterr().err
