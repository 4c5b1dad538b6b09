"""Three ways to convolve against Keras's layer and SciPy; sizes and fields by hand."""

import itertools
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import signal

from recipes import convolution as recipe

Window = recipe.Window

WINDOWS = [
    Window(size, stride, padding, dilation)
    for size, stride, padding, dilation in itertools.product(
        (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)
    )
]
SHAPES = [(9, 9), (10, 13)]


@pytest.fixture
def random():
    return np.random.default_rng(0)


def by_keras(images, kernel, window):
    """Keras does not pad and stride at once by a number: the zeros are put first."""
    padded = keras.ops.pad(images, [(0, 0)] + 2 * [2 * (window.padding,)] + [(0, 0)])
    # TensorFlow can't stride and dilate at once either: each n-th place is taken.
    everywhere = keras.ops.conv(padded, kernel, dilation_rate=window.dilation)
    return np.asarray(everywhere)[:, :: window.stride, :: window.stride]


@pytest.mark.parametrize("way", recipe.WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_way_is_keras_convolution(way, shape, random):
    images = random.normal(size=(2, *shape, 3)).astype("float32")
    for window in WINDOWS:
        kernel = random.normal(size=(window.size, window.size, 3, 4)).astype("float32")
        expected = by_keras(images, kernel, window)
        found = recipe.WAYS[way](images, kernel, window)
        assert found.shape == expected.shape, window
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=str(window))


@pytest.mark.parametrize("way", recipe.WAYS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_each_way_is_the_layer_with_its_stride(way, stride, random):
    images = random.normal(size=(2, 11, 8, 2)).astype("float32")
    layer = keras.layers.Conv2D(5, 3, strides=stride)
    expected = np.asarray(layer(images))
    found = recipe.WAYS[way](images, np.asarray(layer.kernel), Window(3, stride))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "window", [Window(3), Window(3, 2, 1), Window(3, 1, 2, 2)], ids=str
)
def test_keras_takes_the_same_window(window, random):
    images = random.normal(size=(2, 9, 8, 3)).astype("float32")
    kernel = random.normal(size=(3, 3, 3, 4)).astype("float32")
    expected = recipe.convolve_im2col(images, kernel, window)
    found = recipe.convolve_keras(images, kernel, window)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("way", recipe.WAYS)
def test_same_padding_is_that_of_the_layer(way, random):
    images = random.normal(size=(2, 8, 8, 2)).astype("float32")
    layer = keras.layers.Conv2D(5, 5, padding="same")
    expected = np.asarray(layer(images))
    found = recipe.WAYS[way](images, np.asarray(layer.kernel), Window(5, padding=2))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("way", recipe.WAYS)
def test_each_way_is_scipys_correlation(way, random):
    image = random.normal(size=(8, 10))
    kernel = random.normal(size=(3, 3))
    expected = signal.correlate(image, kernel, mode="valid")
    images = image[np.newaxis, :, :, np.newaxis]
    found = recipe.WAYS[way](images, kernel[:, :, np.newaxis, np.newaxis], Window(3))
    np.testing.assert_allclose(found[0, :, :, 0], expected, atol=1e-12)


@pytest.mark.parametrize("way", recipe.WAYS)
def test_the_lectures_example(way):
    """The ICME slide: the first number of the convolved feature is 4."""
    image = np.array(
        [
            [1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0],
            [0, 0, 1, 1, 1],
            [0, 0, 1, 1, 0],
            [0, 1, 1, 0, 0],
        ]
    )
    kernel = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    images = image[np.newaxis, :, :, np.newaxis].astype("float64")
    maps = recipe.WAYS[way](images, kernel[:, :, np.newaxis, np.newaxis], Window(3))
    expected = [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    np.testing.assert_allclose(maps[0, :, :, 0], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("window", "size"),
    [
        (Window(3, stride=1), 5),
        (Window(3, stride=2), 3),
        (Window(3, stride=3), Fraction(7, 3)),
        (Window(3, stride=1, padding=1), 7),
        (Window(3, stride=3, padding=1), 3),  # the poll's answer A, 3 × 3 × 1
        (Window(7), 1),
        (Window(3, dilation=3), 1),
    ],
)
def test_sizes_on_seven_pixels(window, size):
    assert recipe.output_size(7, window) == size
    kernel = np.ones((window.size, window.size, 1, 1))
    for convolve in recipe.WAYS.values():
        maps = convolve(np.ones((1, 7, 7, 1)), kernel, window)
        assert maps.shape == (1, math.floor(size), math.floor(size), 1)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pooling_is_keras_layer(size, stride, random):
    images = random.normal(size=(2, 9, 8, 3)).astype("float32")
    expected = keras.layers.MaxPooling2D(size, stride)(images)
    found = recipe.max_pool(images, Window(size, stride))
    np.testing.assert_array_equal(found, expected)


CHAINS = {
    "one 7×7": ([Window(7)], 7),
    "three 3×3": ([Window(3), Window(3), Window(3)], 7),
    "dilated": ([Window(3), Window(3, dilation=2), Window(3, dilation=4)], 15),
    "strided": ([Window(3, stride=2), Window(3, stride=2), Window(3)], 15),
    "pooled": ([Window(3), Window(2, stride=2), Window(3)], 8),
    "1×1": ([Window(1), Window(1)], 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_receptive_field_is_what_changes_the_output(name, random):
    """By brute force: one pixel after the other is changed."""
    windows, pixels = CHAINS[name]
    assert recipe.receptive_field(windows) == pixels

    columns = 24
    images = np.concatenate([np.zeros((1, columns, columns, 1))] * (columns + 1))
    for column in range(columns):
        images[column + 1, :, column] = 1.0
    maps = images
    for window in windows:
        # An average pool sees what a maximum sees; weights above 0 can't cancel.
        kernel = random.uniform(0.5, 1, size=(window.size, window.size, 1, 1))
        maps = recipe.convolve_im2col(maps, kernel, window)
    middle = maps[:, maps.shape[1] // 2, maps.shape[2] // 2, 0]
    assert np.sum(middle[1:] != middle[0]) == pixels


def chain_of_layers(windows, pixels):
    images = keras.Input((pixels, pixels, 2))
    x = images
    for window in windows:
        layer = keras.layers.Conv2D(
            3, window.size, strides=window.stride, dilation_rate=window.dilation
        )
        x = layer(x)
    return keras.Model(images, x)


@pytest.mark.parametrize("name", ["one 7×7", "three 3×3", "dilated", "strided"])
def test_the_receptive_field_is_that_of_the_gradient(name, random):
    windows, pixels = CHAINS[name]
    model = chain_of_layers(windows, 24)
    images = random.normal(size=(1, 24, 24, 2)).astype("float32")
    assert recipe.windows_of(model) == windows
    seen = recipe.pixels_seen(model, images)
    assert seen.shape == (24, 24)
    assert recipe.width_of(seen) == recipe.width_of(seen.T) == pixels


def test_the_width_of_nothing_is_none():
    assert recipe.width_of(np.zeros((5, 5))) == 0
    assert recipe.width_of(np.eye(5)[:, 1:3]) == 2


def test_windows_end_where_everything_is_seen():
    model = recipe.build_stack([3, 5], (16, 16, 1), classes=3, filters=2)
    expected = [Window(3), Window(2, stride=2), Window(3), Window(5)]
    assert recipe.windows_of(model) == expected
    assert recipe.receptive_field(expected) == 16


@pytest.mark.parametrize("pattern", [(0, 0, 0), (0, 0, 2), (1, 2, 0), (3, 2, 1)])
def test_the_pattern_is_that_of_the_lecture(pattern):
    convolutions, stages, dense = pattern
    model = recipe.build_model(*pattern, image_shape=(12, 12, 1), classes=7)
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    stage = ["Conv2D"] * convolutions + ["MaxPooling2D"]
    assert kinds == stage * stages + ["Flatten"] + ["Dense"] * (dense + 1)
    rectified = [
        layer
        for layer in model.layers
        if getattr(layer, "activation", None) is keras.activations.relu
    ]
    assert len(rectified) == convolutions * stages + dense
    assert model.output.shape == (None, 7)


def test_weights_are_27_and_49_times_the_square_of_the_filters():
    for kernel_sizes, count in (([3, 3, 3], 27), ([7], 49)):
        model = recipe.build_stack(kernel_sizes, (20, 20, 1), filters=6)
        kernels = [
            layer.kernel
            for layer in model.layers[3:]
            if isinstance(layer, keras.layers.Conv2D)
        ]
        assert sum(math.prod(kernel.shape) for kernel in kernels) == count * 6**2


def test_multiplications_are_those_that_tensorflow_counts():
    model = recipe.build_model(2, 1, 1, (8, 8, 3), classes=5, filters=4, units=6)
    call = tf.function(model).get_concrete_function(tf.TensorSpec((1, 8, 8, 3)))
    counted = 0
    for node in call.graph.get_operations():
        # An output is a sum over all of a filter but the filters' own axis.
        if node.type in ("Conv2D", "MatMul"):
            summed = math.prod(node.inputs[1].shape[:-1])
            counted += math.prod(node.outputs[0].shape) * summed
    by_hand = 64 * 9 * 3 * 4 + 64 * 9 * 4 * 4 + 64 * 6 + 6 * 5
    assert recipe.multiply_adds(model) == counted == by_hand


def test_a_dense_layer_in_place_of_a_convolution():
    model = recipe.build_model(1, 1, 0, (8, 8, 3), filters=4)
    assert recipe.dense_weights(model) == (8 * 8 * 3) * (8 * 8 * 4)


def test_only_what_is_equivariant_has_no_shift_error(random):
    pictures = random.uniform(size=(3, 12, 12, 1))

    def squares(images):
        return images**2

    def weighted_by_place(images):
        return images * np.arange(images.shape[2])[:, np.newaxis]

    assert recipe.shift_error(squares, pictures, 1) == 0
    assert recipe.shift_error(weighted_by_place, pictures, 1) > 0.05


def test_operations_of_one_known_convolution():
    sums = recipe.PLACES**2 * recipe.CHANNELS**2
    assert recipe.operations_of_sums(3) == 2 * 9 * sums
    assert recipe.operations_of_sums(6) == 4 * recipe.operations_of_sums(3)
    # A transform of n numbers takes 2.5·n·log₂ n: with one more or less of each, so.
    pixels = recipe.PLACES**2
    expected = 2.5 * pixels * 12 * 24 + 4 * pixels * 16
    assert recipe.operations_of_fft(1) == pytest.approx(expected)
