"""Winograd convolution against Lavin and Gray's matrices, SciPy, Keras, and counts by
hand."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.signal import correlate, correlate2d

from recipes import winograd

RANDOM = np.random.default_rng(0)

# Bᵀ, G and Aᵀ as printed in section 4.1 (F(2, 3)) and section 4.3 (F(4, 3)) of the
# paper.
PRINTED = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], ["1/2", "1/2", "1/2"], ["1/2", "-1/2", "1/2"], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            ["1/4", 0, 0],
            ["-1/6", "-1/6", "-1/6"],
            ["-1/6", "1/6", "-1/6"],
            ["1/24", "1/12", "1/6"],
            ["1/24", "-1/12", "1/6"],
            [0, 0, 1],
        ],
        [
            [1, 1, 1, 1, 1, 0],
            [0, 1, -1, 2, -2, 0],
            [0, 1, 1, 4, 4, 0],
            [0, 1, -1, 8, -8, 1],
        ],
    ),
}


@pytest.mark.parametrize("tile", PRINTED)
def test_the_matrices_are_the_papers(tile):
    """Up to a sign that two of the three share at a point, which their product does not
    show."""
    signs = 1
    for ours, printed, by_column in zip(
        winograd.transforms(tile), PRINTED[tile], (False, False, True), strict=True
    ):
        ours = ours.T if by_column else ours
        printed = np.vectorize(Fraction, otypes=[object])(
            np.array(printed, dtype=object)
        )
        printed = printed.T if by_column else printed
        same, opposite = (ours == printed).all(axis=1), (ours == -printed).all(axis=1)
        assert (same | opposite).all()
        signs = signs * np.where(same, 1, -1)
    assert (signs == 1).all()


class Counted:
    """An exact number that counts how often two of its kind are multiplied: data by
    weights."""

    multiplications = 0

    def __init__(self, value):
        self.value = Fraction(int(value)) if not isinstance(value, Fraction) else value

    def __add__(self, other):
        return Counted(self.value + other.value)

    def __mul__(self, other):
        if isinstance(other, Counted):
            Counted.multiplications += 1
            other = other.value
        return Counted(self.value * other)

    __rmul__ = __mul__


@pytest.mark.parametrize(("tile", "count"), [(2, 16), (4, 36), (6, 64), (8, 100)])
def test_a_tile_is_exact_in_fractions_and_takes_so_many_multiplications(tile, count):
    """Sliding the kernel takes 9 for each of the outputs: 36 (2.25 times) and 144 (4
    times)."""
    b, g, a = winograd.transforms(tile)
    patch, kernel = (
        RANDOM.integers(-9, 10, (tile + 2, tile + 2)),
        RANDOM.integers(-9, 10, (3, 3)),
    )
    data, weights = (
        np.vectorize(Counted, otypes=[object])(each) for each in (patch, kernel)
    )
    Counted.multiplications = 0
    outputs = a @ ((g @ weights @ g.T) * (b @ data @ b.T)) @ a.T
    assert Counted.multiplications == count
    exact = np.vectorize(lambda each: each.value, otypes=[object])(outputs)
    assert (exact == correlate2d(patch, kernel, mode="valid")).all()


def test_other_kernels_than_three():
    b, g, a = winograd.transforms(3, kernel=2)
    data, weights = RANDOM.integers(-9, 10, 4), RANDOM.integers(-9, 10, 2)
    expected = correlate(data, weights, mode="valid")
    assert (a @ ((g @ weights) * (b @ data)) == expected).all()


@pytest.mark.parametrize("tile", range(2, 9))
@pytest.mark.parametrize("size", [(12, 12), (7, 5), (1, 3)])
def test_the_layer_equals_keras_and_tensorflow(tile, size):
    layer = winograd.WinogradConv2D(5, tile, activation="relu", dtype="float64")
    x = RANDOM.normal(size=(2, *size, 3))
    layer.build(x.shape)
    kernel, bias = RANDOM.normal(size=(3, 3, 3, 5)), RANDOM.normal(size=5)
    layer.set_weights([kernel, bias])
    direct = layers.Conv2D(5, 3, padding="same", activation="relu", dtype="float64")
    direct.build(x.shape)
    direct.set_weights([kernel, bias])
    outputs = layer(x).numpy()
    np.testing.assert_allclose(outputs, direct(x), atol=1e-8)
    np.testing.assert_allclose(
        outputs, tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias), atol=1e-8
    )
    padded = np.pad(x[0], [(1, 1), (1, 1), (0, 0)])
    by_scipy = sum(
        correlate2d(padded[..., c], kernel[..., c, 2], "valid") for c in range(3)
    )
    np.testing.assert_allclose(
        outputs[0, ..., 2], np.maximum(by_scipy + bias[2], 0), atol=1e-8
    )


def test_gradients_equal_those_of_the_direct_convolution():
    x, kernel = (
        tf.constant(RANDOM.normal(size=(2, 6, 7, 3))),
        RANDOM.normal(size=(3, 3, 3, 4)),
    )
    layer = winograd.WinogradConv2D(4, 4, dtype="float64")
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        ours = tf.reduce_sum(layer(x) ** 3)
        direct = tf.reduce_sum(tf.nn.conv2d(x, layer.kernel.value, 1, "SAME") ** 3)
    for of in (x, layer.kernel.value):
        expected = tape.gradient(direct, of)
        np.testing.assert_allclose(
            tape.gradient(ours, of), expected, rtol=1e-6, atol=1e-6
        )


def test_taking_over_leaves_other_layers_and_the_model_alone(tmp_path):
    x = images = keras.Input((12, 12, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="usual")(x)
    x = layers.Conv2D(4, 3, padding="same", dilation_rate=2, name="dilated")(x)
    x = layers.Conv2D(4, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="no_bias")(x)
    x = layers.Conv2D(4, 3, padding="same", strides=2, name="strided")(x)
    x = layers.Conv2D(4, 3, name="valid")(x)
    x = layers.Conv2D(4, 1, padding="same", name="one")(x)
    model = keras.Model(images, x)
    before = model.get_weights()
    taken = winograd.take_over(model, 4)
    kinds = {
        layer.name
        for layer in taken.layers
        if isinstance(layer, winograd.WinogradConv2D)
    }
    assert kinds == {"usual"}
    assert taken.get_layer("usual").tile == 4
    data = RANDOM.normal(size=(2, 12, 12, 2)).astype("float32")
    np.testing.assert_allclose(taken(data), model(data), atol=1e-5)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    taken.save(tmp_path / "taken.keras")
    loaded = keras.models.load_model(tmp_path / "taken.keras")
    np.testing.assert_array_equal(loaded(data), taken(data))


def test_the_policy_is_what_the_layers_compute_in():
    model = winograd.build_model((8, 8, 1))
    for tile in (0, 2):
        half = winograd.take_over(model, tile, "mixed_float16")
        computed = [each for each in half.layers if "conv" in each.name]
        assert [each.compute_dtype for each in computed] == ["float16"] * 4
        assert {each.dtype for each in half.weights} == {"float32"}


def test_multiplications_counted_in_the_graph():
    """Of Conv2D: outputs × 9 × channels; of F(m×m, 3×3): tiles × (m + 2)² × channels ×
    filters."""
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, layers.Conv2D(5, 3, padding="same")(images))
    assert winograd.multiplications(model) == 8 * 8 * 5 * 9 * 3
    assert winograd.multiplications(winograd.take_over(model, 4)) == 2 * 2 * 36 * 3 * 5
    assert winograd.multiplications(winograd.take_over(model, 6)) == 2 * 2 * 64 * 3 * 5


def test_relative_errors_of_16_bits_are_its_roundings():
    errors = winograd.relative_errors("mixed_float16", seed=0)
    assert 2**-13 < errors[0] < errors[2] < errors[4] < 0.01


def test_an_impossible_tile_is_named():
    with pytest.raises(ValueError, match="tile=9: it must be from 2 to 8"):
        winograd.WinogradConv2D(4, 9)
