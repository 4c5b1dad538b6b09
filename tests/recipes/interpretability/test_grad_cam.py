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
    model = gc.build_model()
    # Else BatchNormalization does nothing, and so does not test anything.
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [
                    np.random.default_rng(1).uniform(0.5, 1.5, w.shape)
                    for w in layer.get_weights()
                ]
            )
    x = np.random.default_rng(0).uniform(size=(5, 24, 24, 3)).astype("float32")
    return model, tf.constant(x), tf.constant([3, 0, 9, 3, 5])


def test_grad_cam_of_a_mean_and_a_dense_layer_is_cam(scene):
    model, x, classes = scene
    ours = gc.grad_cam(gc.split(model, "layer4"), x, classes).numpy()
    features = keras.Model(model.input, model.get_layer("layer4").output)(x).numpy()
    kernel, _ = model.get_layer("logits").get_weights()
    cam = np.maximum(np.einsum("nhwk,kn->nhw", features, kernel[:, classes]), 0)
    np.testing.assert_allclose(ours * 6 * 6, cam, rtol=1e-4, atol=1e-5)
    maps = np.asarray(gc.class_maps(model)(x)["class_maps"])
    np.testing.assert_allclose(
        maps[np.arange(5), :, :, classes], cam, rtol=1e-4, atol=1e-5
    )
    assert cam.any(axis=(1, 2)).sum() >= 3


def test_class_maps_add_up_to_the_logits(scene):
    model, x, _ = scene
    linear = keras.Model(model.input, gc.class_maps(model).output["probabilities"])
    np.testing.assert_allclose(linear(x), tf.nn.softmax(model(x)), atol=1e-6)


@pytest.mark.parametrize("layer", ["layer1", "layer3", "layer4"])
def test_own_maps_are_those_of_tf_keras_vis(scene, layer):
    model, x, classes = scene
    theirs = gc.library_maps(model, layer, x, classes)
    for name, method in gc.METHODS.items():
        ours = method(gc.split(model, layer), x, classes).numpy()
        assert ours.shape == theirs[name].shape
        if name == "Score-CAM" and layer != "layer1":
            # tf-keras-vis stretches a map from the middle of its first cell to that of
            # its last.
            for a, b in zip(ours, theirs[name], strict=True):
                assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
        else:
            # Grad-CAM++'s factor exp(y) differs from picture to picture.
            peaks = ours.max(axis=(1, 2), keepdims=True)
            scale = theirs[name].max(axis=(1, 2), keepdims=True) / np.maximum(
                peaks, 1e-20
            )
            np.testing.assert_allclose(ours * scale, theirs[name], rtol=1e-3, atol=1e-6)


def test_the_lowest_correlation_leaves_out_what_shows_nothing():
    random = np.random.default_rng(0)
    a, b = random.random((2, 4, 5, 6))
    a[2] = b[2] = 0
    expected = min(np.corrcoef(a[i].ravel(), b[i].ravel())[0, 1] for i in (0, 1, 3))
    assert gc.correlation(a, b) == pytest.approx(expected)


def test_score_cam_asks_for_the_channels_that_differ_most_over_the_place(scene):
    model, x, classes = scene
    parts = gc.split(model, "layer2")
    maps = parts(x)[0].numpy()
    one = gc.score_cam(parts, x, classes, channels=1).numpy()
    for picture, heat in zip(maps, one, strict=True):
        widest = picture[..., picture.std(axis=(0, 1)).argmax()]
        assert np.corrcoef(heat.ravel(), widest.ravel())[0, 1] == pytest.approx(
            1, abs=1e-5
        )


def test_a_compiled_method_takes_arrays_and_brings_maps_to_the_pictures_size(scene):
    model, x, classes = scene
    for explain in gc.compile_methods(model, "layer4").values():
        assert explain(x.numpy(), classes.numpy()).shape == (5, 24, 24)


def test_a_network_and_a_picture_of_ones_own(tmp_path):
    keras.utils.set_random_seed(0)
    images = keras.Input((20, 30, 3))
    x = layers.Conv2D(4, 3, activation="relu")(images)
    x = layers.GlobalMaxPooling2D()(x)
    keras.Model(images, layers.Dense(3, activation="softmax")(x)).save("own.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    Image.fromarray(pixels).save("own.png")
    own = ("--model", "own.keras")
    finished = run_in_process("grad_cam", tmp_path / "one", *own, "--image", "own.png")
    assert finished.code == 0
    assert finished.metrics["figures"] == ["own.png"]
    assert list(finished.metrics["metrics"]) == [
        "picture_0_class",
        "picture_0_probability",
    ]
    finished = run_in_process("grad_cam", tmp_path / "photographs", *own)
    assert len(finished.metrics["metrics"]) == 18


def test_a_bad_file_fails_before_anything_is_trained(tmp_path, capsys):
    finished = run_in_process("grad_cam", tmp_path / "run", "--image", "none.png")
    assert finished.code == 2
    assert "none.png" in capsys.readouterr().err
