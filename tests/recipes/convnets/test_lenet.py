"""LeNet-5 against Keras's layers and the paper's counts; and what a shift is."""

import keras
import numpy as np
import pytest
from scipy import signal

from recipes import lenet

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_convolution_is_keras_layer(random):
    images = random.normal(size=(3, 9, 11, 2)).astype("float32")
    layer = keras.layers.Conv2D(4, 5, bias_initializer="random_normal")
    expected = layer(images)
    found = lenet.convolve(images, layer.kernel, layer.bias)
    assert found.shape == (3, 5, 7, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_convolution_is_scipys_correlation(random):
    image = random.normal(size=(8, 8))
    one_filter = random.normal(size=(5, 5))
    expected = signal.correlate2d(image, one_filter, mode="valid") + 2
    found = lenet.convolve(
        image[np.newaxis, :, :, np.newaxis],
        one_filter[:, :, np.newaxis, np.newaxis],
        np.array([2.0]),
    )
    np.testing.assert_allclose(found[0, :, :, 0], expected, atol=1e-5)


def test_a_shifted_image_has_shifted_maps(random):
    images = random.normal(size=(2, 12, 12, 1)).astype("float32")
    filters = random.normal(size=(5, 5, 1, 3)).astype("float32")
    maps = np.asarray(lenet.convolve(images, filters, np.zeros(3, "float32")))
    moved = lenet.convolve(lenet.shift(images, 2), filters, np.zeros(3, "float32"))
    np.testing.assert_allclose(moved[:, 2:, 2:], maps[:, :-2, :-2], atol=1e-5)


def test_the_pooling_is_keras_layer(random):
    maps = random.normal(size=(2, 6, 8, 3)).astype("float32")
    expected = keras.layers.MaxPooling2D(2)(maps)
    np.testing.assert_array_equal(lenet.max_pool(maps), expected)


def test_the_maps_of_the_two_functions_are_those_of_the_network(random):
    model = lenet.build_lenet()
    images = random.uniform(size=(2, 32, 32, 1)).astype("float32")
    both = [model.get_layer(name).output for name in ("C1", "C3")]
    expected = keras.Model(model.input, both)(images)
    for found, maps in zip(lenet.feature_maps(model, images), expected, strict=True):
        assert found.shape == maps.shape
        np.testing.assert_allclose(found, maps, atol=1e-5)


def test_layer_shapes_and_counts_of_the_paper():
    model = lenet.build_lenet()
    shapes = {
        "C1": (None, 28, 28, 6),
        "S2": (None, 14, 14, 6),
        "C3": (None, 10, 10, 16),
        "S4": (None, 5, 5, 16),
        "C5": (None, 120),
        "F6": (None, 84),
        "logits": (None, 10),
    }
    assert {name: model.get_layer(name).output.shape for name in shapes} == shapes
    counts = {name: model.get_layer(name).count_params() for name in shapes}
    assert counts == {
        "C1": 156,
        "S2": 0,
        "C3": 2_416,
        "S4": 0,
        "C5": 48_120,
        "F6": 10_164,
        "logits": 850,
    }
    assert model.count_params() == 61_706


@pytest.mark.parametrize("name", lenet.DENSE)
def test_a_rival_has_about_as_many_weights_and_no_more(name):
    model = lenet.build_dense(name, lenet.DENSE[name].units)
    assert model.name == name
    assert 0.95 * 61_706 < model.count_params() <= 61_706


def test_every_weight_gets_a_gradient(random):
    model = lenet.build_lenet()
    lenet.compile_classifier(model, 1e-3, steps=10)
    before = model.get_weights()
    x = random.uniform(size=(64, 32, 32, 1)).astype("float32")
    model.train_on_batch(x, np.arange(64) % 10)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.abs(new - old).max() > 0


def test_the_learning_rate_falls_to_zero():
    model = lenet.build_dense("small", (2,))
    lenet.compile_classifier(model, 0.1, steps=10)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(10)
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-8)


def test_shift_moves_right_and_down_and_fills_with_black():
    image = np.zeros((1, 4, 4, 1))
    image[0, 0, 1] = 1.0
    image[0, 3, 3] = 1.0  # leaves the image
    expected = np.zeros((1, 4, 4, 1))
    expected[0, 2, 3] = 1.0
    np.testing.assert_array_equal(lenet.shift(image, 2), expected)
