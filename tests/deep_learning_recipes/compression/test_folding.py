"""Folded networks compute what the network did, to the last bits of a float."""

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes.compression import LiteRTModel, fold, to_litert

RANDOM = np.random.default_rng(0)
IMAGES = (255 * RANDOM.uniform(size=(6, 9, 9, 4))).astype("float32")
VECTORS = RANDOM.normal(3, 2, size=(50, 5)).astype("float32")


def scramble(model):
    """Every weight at random, the moving variances positive."""
    for weight in model.weights:
        weight.assign(
            RANDOM.uniform(0.2, 1.5, weight.shape) * RANDOM.choice([1, 1], weight.shape)
        )
        if "kernel" in weight.name:
            weight.assign(RANDOM.normal(size=weight.shape))
    return model


def kinds(model):
    return [
        type(layer).__name__
        for layer in model.layers
        if layer.weights or layer.count_params()
    ]


def assert_same(model, folded, x):
    expected, found = np.asarray(model(x)), np.asarray(folded(x))
    assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()


def test_rescaling_and_normalization_go_into_a_dense_layer():
    normalization = layers.Normalization()
    normalization.adapt(VECTORS)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Rescaling(0.1, 0.3), normalization, layers.Dense(4)]
    )
    scramble(model)
    folded = fold(model)
    assert kinds(folded) == ["Dense"]
    assert_same(model, folded, VECTORS)


def test_an_inverting_normalization():
    normalization = layers.Normalization(
        mean=[1.0, 2, 3, 4, 5], variance=[4.0, 9, 1, 1, 1], invert=True
    )
    model = scramble(
        keras.Sequential([keras.Input((5,)), normalization, layers.Dense(3)])
    )
    assert_same(model, fold(model), VECTORS)


@pytest.mark.parametrize(
    "following",
    [
        lambda: layers.Conv2D(3, 3, activation="relu"),
        lambda: layers.Conv2D(3, 3, strides=2, use_bias=False),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
        lambda: layers.Flatten(),
    ],
    ids=["conv", "strided without bias", "depthwise", "flatten"],
)
def test_batch_normalization_goes_into_what_follows(following):
    model = keras.Sequential(
        [keras.Input((9, 9, 4)), layers.BatchNormalization(), following()]
    )
    model.add(layers.Flatten())
    model.add(layers.Dense(3))
    scramble(model)
    folded = fold(model)
    assert "BatchNormalization" not in kinds(folded)
    assert len(kinds(folded)) == len(kinds(model)) - 1
    assert_same(model, folded, IMAGES)


@pytest.mark.parametrize(
    "before",
    [
        lambda: layers.Conv2D(3, 3, padding="same"),
        lambda: layers.Conv2D(6, 3, use_bias=False, groups=2),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
        lambda: layers.Conv2DTranspose(3, 3, strides=2),
        lambda: layers.Dense(7, use_bias=False),
    ],
    ids=["conv", "grouped", "depthwise", "transposed", "dense"],
)
def test_batch_normalization_goes_into_what_precedes(before):
    image = keras.Input((9, 9, 4))
    x = layers.BatchNormalization(scale=False)(
        layers.BatchNormalization()(before()(image))
    )
    model = scramble(keras.Model(image, layers.ReLU()(x)))
    folded = fold(model)
    assert len(kinds(folded)) == 1
    assert_same(model, folded, IMAGES)


def test_a_scale_goes_into_a_padding_convolution_but_an_offset_does_not():
    """Zeros at the border stand for another value than zeros that were shifted."""
    for offset, expected in ((0.0, ["Conv2D"]), (-1.0, ["DepthwiseConv2D", "Conv2D"])):
        model = keras.Sequential(
            [
                keras.Input((9, 9, 4)),
                layers.Rescaling(1 / 127.5, offset),
                layers.Conv2D(3, 3, padding="same"),
            ]
        )
        folded = fold(scramble(model))
        assert kinds(folded) == expected
        assert_same(model, folded, IMAGES)


def test_after_an_activation_batch_normalization_becomes_a_pointwise_convolution():
    model = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
        ]
    )
    folded = fold(scramble(model))
    assert kinds(folded) == ["Conv2D", "DepthwiseConv2D"]
    assert_same(model, folded, IMAGES)


def residual_network():
    image = keras.Input((9, 9, 4), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.BatchNormalization()(
        layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    )
    shortcut = x = layers.ReLU()(x)
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, shortcut]) * 0.5)
    inner = keras.Sequential(
        [keras.Input((9, 9, 8)), layers.BatchNormalization(), layers.Conv2D(4, 1)],
        name="inner",
    )
    x = layers.GlobalAveragePooling2D()(inner(x))
    outputs = {"logits": layers.Dense(3, name="logits")(x), "features": x}
    return scramble(keras.Model(image, outputs, name="residual"))


def test_a_residual_network_with_a_nested_one():
    model = residual_network()
    before = [weight.numpy() for weight in model.weights]
    expected = {name: np.asarray(value) for name, value in model(IMAGES).items()}
    folded = fold(model)
    assert not any(
        type(layer).__name__ in ("Rescaling", "BatchNormalization")
        for layer in (*folded.layers, *folded.get_layer("inner").layers)
    )
    found = folded(IMAGES)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 3e-6 * np.abs(value).max()
    # The source is as it was.
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    np.testing.assert_array_equal(model(IMAGES)["logits"], expected["logits"])


def test_a_folded_network_converts_to_integers():
    model = residual_network()
    folded = fold(keras.Model(model.input, model.output["logits"]))
    x = (255 * RANDOM.uniform(size=(100, 9, 9, 4))).astype("float32")
    expected = np.asarray(folded(x))
    found = LiteRTModel(to_litert(folded, "int8", x)).predict(x)
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_a_compiled_network_folds_too():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Rescaling(0.1), layers.Dense(4)]
    )
    model.compile("adam", "mse")
    model.fit(VECTORS, np.zeros((50, 4)), verbose=0)
    folded = fold(model)
    assert not folded.compiled
    assert_same(model, folded, VECTORS)


def test_what_another_place_needs_too_is_not_changed():
    """A layer that is used twice, a tensor that is an output itself, groups of
    channels."""
    image = keras.Input((9, 9, 4))
    shared = layers.Conv2D(4, 1)
    twice = layers.BatchNormalization()(shared(layers.ReLU()(shared(image))))
    between = layers.Conv2D(4, 3)(image)
    outputs = {"before": between, "after": layers.BatchNormalization()(between)}
    grouped = layers.Conv2D(6, 3, groups=2)(layers.BatchNormalization()(image))
    for end, expected in [
        (twice, ["Conv2D", "DepthwiseConv2D"]),
        (outputs, ["Conv2D", "DepthwiseConv2D"]),
        (grouped, ["DepthwiseConv2D", "Conv2D"]),
    ]:
        model = scramble(keras.Model(image, end))
        folded = fold(model)
        assert kinds(folded) == expected
        found, wanted = (keras.tree.flatten(each(IMAGES)) for each in (folded, model))
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.max(np.abs(ours - theirs)) < 3e-6 * np.max(np.abs(theirs))


def test_a_pixel_that_never_varies_is_divided_as_keras_does():
    normalization = layers.Normalization(mean=[1.0] * 5, variance=[0.0, 1, 1, 1, 1])
    model = scramble(
        keras.Sequential([keras.Input((5,)), normalization, layers.Dense(3)])
    )
    normalization.variance = np.array([[0.0, 1, 1, 1, 1]], "float32")
    assert_same(model, fold(model), VECTORS)


def test_what_cannot_be_folded_says_so():
    x = keras.Input((5,))
    lone = layers.ReLU()(layers.BatchNormalization(name="lone")(layers.ReLU()(x)))
    shared = layers.BatchNormalization(name="shared")
    twice = layers.Add()([shared(layers.Dense(5)(x)), shared(x)])
    image = keras.Input((9, 9, 4))
    sideways = layers.Conv2D(2, 1)(
        layers.BatchNormalization(axis=1, name="sideways")(image)
    )
    byte = keras.Input((9, 9, 4), dtype="uint8")
    bytes_in = layers.Conv2D(2, 1)(layers.Rescaling(1 / 255, name="scale")(byte))
    for source, outputs, message in [
        (x, lone, "BatchNormalization 'lone' can't be folded: .*Move it"),
        (x, twice, "BatchNormalization 'shared' is used 2 times"),
        (image, sideways, "'sideways' is along axis 1"),
        (byte, bytes_in, "Rescaling 'scale' reads uint8: declare"),
    ]:
        with pytest.raises(ValueError, match=message):
            fold(keras.Model(source, outputs))
    with pytest.raises(ValueError, match="only functional and built Sequential"):
        fold(keras.Sequential([layers.Dense(3)], name="unbuilt"))
