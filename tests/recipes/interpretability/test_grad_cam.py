"""Grad-CAM and its kin against CAM, tf-keras-vis, formulas by NumPy, and counts by
hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from keras import layers
from PIL import Image

from recipes import grad_cam as gc


@pytest.fixture(scope="module")
def scene():
    """A network whose weights are random, five pictures and classes."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    model = gc.build_model()
    # Else BatchNormalization does nothing, and so does not test anything.
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [random.uniform(0.5, 1.5, w.shape) for w in layer.weights]
            )
    x = random.uniform(size=(5, 24, 24, 3)).astype("float32")
    return model, tf.constant(x), tf.constant([3, 0, 9, 3, 5])


@pytest.fixture
def maps_and_gradients():
    maps, gradients = np.random.default_rng(1).normal(size=(2, 3, 4, 5, 6))
    return np.maximum(maps, 0), gradients


def test_grad_cam_is_equations_1_and_2(maps_and_gradients):
    maps, gradients = maps_and_gradients
    expected = np.zeros((3, 4, 5))
    for n in range(3):
        for k in range(6):
            weight = gradients[n, :, :, k].sum() / 20
            expected[n] += weight * maps[n, :, :, k]
    found = gc.grad_cam(maps, gradients)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-6)
    assert 0 < np.mean(expected > 0) < 1


def test_grad_cam_plus_plus_is_equation_19_of_its_paper(maps_and_gradients):
    """α = g² / (2g² + ΣA g³), normalized, times ReLU of the gradient."""
    maps, g = maps_and_gradients
    sums = maps.sum(axis=(1, 2), keepdims=True)
    alpha = g**2 / (2 * g**2 + sums * g**3)
    alpha /= alpha.sum(axis=(1, 2), keepdims=True)
    weights = (alpha * np.maximum(g, 0)).sum(axis=(1, 2), keepdims=True)
    expected = np.maximum((weights * maps).sum(axis=-1), 0)
    np.testing.assert_allclose(gc.grad_cam_plus_plus(maps, g), expected, rtol=1e-5)


def test_of_even_gradients_grad_cam_plus_plus_leaves_out_the_negative_ones(
    maps_and_gradients,
):
    maps, gradients = maps_and_gradients
    even = np.broadcast_to(gradients[:, :1, :1], maps.shape)
    found = gc.grad_cam_plus_plus(maps, even)
    expected = gc.grad_cam(maps, np.maximum(even, 0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradients_are_those_of_the_classes_logits(scene):
    """Moved a little, a map changes the logit by so much: here the head is linear."""
    model, x, classes = scene
    maps, gradients = gc.maps_and_gradients(gc.split(model, "layer4"), x, classes)
    kernel, bias = model.get_layer("logits").get_weights()
    for i, label in enumerate(classes.numpy()):
        expected = np.broadcast_to(kernel[:, label] / 36, (6, 6, 64))
        np.testing.assert_allclose(gradients[i], expected, rtol=1e-5)
    logits = maps.numpy().mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(x), logits, rtol=1e-4, atol=1e-5)


def test_grad_cam_of_a_mean_and_a_dense_layer_is_cam(scene):
    model, x, classes = scene
    parts = gc.split(model, "layer4")
    ours = gc.explain("Grad-CAM", parts, x, classes, channels=0).numpy()
    features = parts(x)[0].numpy()
    kernel, _ = model.get_layer("logits").get_weights()
    cam = np.maximum(np.einsum("nhwk,kn->nhw", features, kernel[:, classes]), 0)
    np.testing.assert_allclose(ours * 6 * 6, cam, rtol=1e-4, atol=1e-5)
    outputs = gc.class_maps(model)(x)
    maps = np.asarray(outputs["class_maps"])[np.arange(5), :, :, classes]
    np.testing.assert_allclose(maps, cam, rtol=1e-4, atol=1e-5)
    assert cam.any(axis=(1, 2)).sum() >= 3
    softmax = tf.nn.softmax(model(x))
    np.testing.assert_allclose(outputs["probabilities"], softmax, atol=1e-6)


@pytest.mark.parametrize("layer", ["layer1", "layer4"])
def test_own_maps_are_those_of_tf_keras_vis(scene, layer):
    model, x, classes = scene
    theirs = gc.library_maps(model, layer, x, classes)
    for name in gc.METHODS:
        ours = gc.explain(name, gc.split(model, layer), x, classes, channels=64).numpy()
        assert ours.shape == theirs[name].shape
        if name == "Score-CAM" and layer != "layer1":
            # tf-keras-vis stretches a map from the middle of its first cell to that of
            # its last.
            assert gc.lowest_correlation(ours, theirs[name]) > 0.99
        else:
            # Grad-CAM++'s factor exp(y) differs from picture to picture.
            peaks = ours.max(axis=(1, 2), keepdims=True)
            scale = theirs[name].max(axis=(1, 2), keepdims=True)
            scaled = ours * scale / np.maximum(peaks, 1e-20)
            np.testing.assert_allclose(scaled, theirs[name], rtol=1e-3, atol=1e-6)


def test_score_cam_weighs_maps_by_what_their_masks_let_through():
    """Two maps, a network that sees brightness: by hand."""
    maps = np.zeros((1, 2, 2, 2), "float32")
    maps[0, 0, 0, 0] = 4.0
    maps[0, 1, :, 1] = 2.0
    images = np.full((1, 2, 2, 3), 0.5, "float32")
    found = gc.score_cam(maps, images, lambda x: tf.reduce_mean(x, (1, 2, 3)), 2)
    # The masks let through a quarter and a half of the light.
    np.testing.assert_allclose(found, [[[4 / 8, 0], [2 / 4, 2 / 4]]], rtol=1e-5)


def test_score_cam_asks_for_the_channels_that_differ_most_over_the_place(scene):
    model, x, classes = scene
    parts = gc.split(model, "layer2")
    maps = parts(x)[0].numpy()
    one = gc.explain("Score-CAM", parts, x, classes, channels=1).numpy()
    for picture, heat in zip(maps, one, strict=True):
        widest = picture[..., picture.std(axis=(0, 1)).argmax()]
        correlation = np.corrcoef(heat.ravel(), widest.ravel())[0, 1]
        assert correlation == pytest.approx(1, abs=1e-5)


def test_explainers_take_arrays_and_bring_maps_to_the_pictures_size(scene):
    model, x, classes = scene
    for explain in gc.explainers(model, "layer4", channels=4).values():
        assert explain(x.numpy(), classes.numpy()).shape == (5, 24, 24)


def test_the_lowest_correlation_leaves_out_what_shows_nothing():
    a, b = np.random.default_rng(0).random((2, 4, 5, 6))
    a[2] = b[2] = 0
    expected = min(np.corrcoef(a[i].ravel(), b[i].ravel())[0, 1] for i in (0, 1, 3))
    assert gc.lowest_correlation(a, b) == pytest.approx(expected)


def test_pairs_show_two_classes_each_on_its_half():
    images = np.arange(4).reshape(4, 1, 1, 1) * np.ones((4, 2, 3, 3))
    pairs = gc.pair_up(images, np.array([5, 5, 7, 8]))
    np.testing.assert_array_equal(pairs.left, [5, 7, 8])
    np.testing.assert_array_equal(pairs.right, [8, 5, 7])
    np.testing.assert_array_equal(pairs.images[1, 0, :, 0], [2, 2, 2, 1, 1, 1])


def test_what_asks_no_network_is_measured_as_such(scene):
    """The center is on both halves; brightness of the left half alone is on it."""
    images = np.zeros((2, 8, 8, 3), "float32")
    images[:, 2:4, 2:4] = 1
    masks = images[..., 0] > 0
    scenes = gc.data.Scenes(images, np.array([1, 2]), masks, np.zeros((2, 4), int))
    dark = np.concatenate([images, 0 * images], axis=2)
    pairs = gc.Pairs(dark, np.array([1, 2]), np.array([2, 1]))
    found = gc.measure(gc.brightness, scenes, pairs)
    assert found == {"pointing_game": 1, "overlap": 1, "own_half": 1}
    found = gc.measure(gc.center, scenes, pairs)
    assert found["own_half"] == pytest.approx(0.5)


def test_a_network_and_a_picture_of_ones_own(tmp_path):
    keras.utils.set_random_seed(0)
    images = keras.Input((20, 30, 3))
    x = layers.Conv2D(4, 3, activation="relu")(images)
    x = layers.GlobalMaxPooling2D()(x)
    keras.Model(images, layers.Dense(3, activation="softmax")(x)).save("own.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    Image.fromarray(pixels).save("own.png")
    own = ("--model", "own.keras", "--image", "own.png")
    finished = run_in_process("grad_cam", tmp_path / "one", *own)
    assert finished.code == 0
    assert finished.metrics["figures"] == ["own.png"]
    names = ["picture_0_class", "picture_0_probability"]
    assert list(finished.metrics["metrics"]) == names


def test_a_bad_file_fails_before_anything_is_trained(tmp_path, capsys):
    finished = run_in_process("grad_cam", tmp_path / "run", "--image", "none.png")
    assert finished.code == 2
    assert "none.png" in capsys.readouterr().err
