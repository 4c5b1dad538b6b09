"""mlpconv against dense layers and NumPy, sizes by hand, and class maps against the
logits."""

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes import architectures
from recipes import network_in_network as recipe

Block = recipe.Block


@pytest.fixture
def random():
    return np.random.default_rng(0)


def with_random_weights(model, random):
    for weight in model.weights:
        # Moving variances have to be positive.
        weight.assign(np.abs(random.normal(size=weight.shape)) * 0.2 + 0.05)
    return model


# Weights and biases of each layer: k · k · channels · filters + filters.
CIFAR_BY_HAND = [
    (5 * 5 * 3 + 1) * 192,
    (192 + 1) * 160,
    (160 + 1) * 96,
    (5 * 5 * 96 + 1) * 192,
    (192 + 1) * 192,
    (192 + 1) * 192,
    (3 * 3 * 192 + 1) * 192,
    (192 + 1) * 192,
    (192 + 1) * 10,
]
IMAGENET_BY_HAND = [
    (11 * 11 * 3 + 1) * 96,
    (96 + 1) * 96,
    (96 + 1) * 96,
    (5 * 5 * 96 + 1) * 256,
    (256 + 1) * 256,
    (256 + 1) * 256,
    (3 * 3 * 256 + 1) * 384,
    (384 + 1) * 384,
    (384 + 1) * 384,
    (3 * 3 * 384 + 1) * 1024,
    (1024 + 1) * 1024,
    (1024 + 1) * 1000,
]


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]


def test_parameters_for_cifar_by_hand():
    model = recipe.build_model((32, 32, 3), 10, blocks=recipe.CIFAR)
    found = [layer.count_params() for layer in convolutions(model)]
    assert found == CIFAR_BY_HAND
    assert model.count_params() == sum(CIFAR_BY_HAND) == 966_986
    sides = [layer.output.shape[1] for layer in convolutions(model)]
    assert sides == [32] * 3 + [16] * 3 + [8] * 3


def test_parameters_for_imagenet_by_hand():
    model = recipe.build_model()
    found = [layer.count_params() for layer in convolutions(model)]
    assert found == IMAGENET_BY_HAND
    assert model.count_params() == sum(IMAGENET_BY_HAND) == 7_595_176
    sides = [layer.output.shape[1] for layer in convolutions(model)]
    # (224 − 11) / 4 + 1 = 54, then halves.
    assert sides == [54] * 3 + [27] * 3 + [14] * 3 + [7] * 3
    by_hand = [
        side * side * (count - layer.filters)  # without biases
        for side, count, layer in zip(
            sides, IMAGENET_BY_HAND, convolutions(model), strict=True
        )
    ]
    assert architectures.multiply_adds(model) == sum(by_hand)
    keras.utils.clear_session()


def test_a_1x1_convolution_is_a_dense_layer_on_the_channels(random):
    x = random.normal(size=(2, 5, 4, 6)).astype("float32")
    convolution = layers.Conv2D(3, 1, activation="relu")
    dense = layers.Dense(3, activation="relu")
    expected = dense(x)
    convolution(x)
    convolution.kernel.assign(dense.kernel[None, None])
    convolution.bias.assign(dense.bias)
    np.testing.assert_allclose(convolution(x), expected, atol=1e-6)


def test_mlpconv_is_a_model_of_dense_layers_on_each_patch(random):
    block = Block((6, 5, 4), kernel_size=3, padding="valid")
    maps = keras.Input((7, 8, 2))
    model = keras.Model(maps, recipe.mlpconv(maps, block))
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(3, 7, 8, 2)).astype("float32")

    patch = keras.Input((3 * 3 * 2,))
    y = patch
    for units in block.filters:
        y = layers.Dense(units, "relu")(y)
    dense = keras.Model(patch, y)
    dense.set_weights(
        [
            weight.reshape(-1, weight.shape[-1]) if weight.ndim == 4 else weight
            for weight in model.get_weights()
        ]
    )
    found = np.asarray(model(x))
    assert found.shape == (3, 5, 6, 4)
    for i in range(5):
        for j in range(6):
            expected = dense(x[:, i : i + 3, j : j + 3].reshape(3, -1))
            np.testing.assert_allclose(found[:, i, j], expected, rtol=1e-4, atol=1e-4)

    kernels = [weight for weight in dense.get_weights() if weight.ndim == 2]
    biases = [weight for weight in dense.get_weights() if weight.ndim == 1]
    slid = recipe.slide_dense_network(x, kernels, biases)
    np.testing.assert_allclose(found, slid, rtol=1e-4, atol=1e-4)


def small(image_shape=(32, 32, 3), **options):
    return recipe.build_model(
        image_shape, 5, blocks=recipe.CIFAR, width=0.05, normalize=True, **options
    )


def test_logits_are_the_means_of_class_maps(random):
    model = with_random_weights(small(), random)
    x = random.uniform(size=(2, 32, 32, 3)).astype("float32")
    maps = recipe.class_maps(model, x)
    assert maps.shape == (2, 8, 8, 5)
    logits = model(x, training=False)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, rtol=1e-4)


def test_class_maps_take_pictures_of_any_size(random):
    model = with_random_weights(small(), random)
    larger = small((None, None, 3))
    larger.set_weights(model.get_weights())
    x = random.uniform(size=(1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        recipe.class_maps(larger, x), recipe.class_maps(model, x), rtol=1e-5
    )
    wide = random.uniform(size=(1, 64, 96, 3)).astype("float32")
    assert recipe.class_maps(larger, wide).shape == (1, 16, 24, 5)


def test_the_dense_head_can_be_the_mean(random):
    """With weights 1/64 for its own map and 0 for others."""
    mean = with_random_weights(small(), random)
    dense = small(dense_head=True)
    of_head = np.tile(np.eye(5, dtype="float32") / 64, (64, 1))
    dense.set_weights([*mean.get_weights(), of_head, np.zeros(5, "float32")])
    assert dense.count_params() == mean.count_params() + 64 * 5 * 5 + 5
    x = random.uniform(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        dense(x, training=False), mean(x, training=False), rtol=1e-4
    )


def test_linear_filters_have_as_many_parameters():
    task = architectures.Task(
        train=(np.zeros((1, 32, 32, 3)), np.zeros(1)),
        valid=(np.zeros((1, 32, 32, 3)), np.zeros(1)),
        test=(np.zeros((1, 32, 32, 3)), np.zeros(1)),
        classes=7,
    )
    ways = recipe.ways_to_build(task, recipe.Config())
    mean = ways[recipe.MEAN]()
    plain = ways[recipe.LINEAR_FILTERS]()
    # Three k×k convolutions and the maps: the 1×1 in between are gone.
    assert len(convolutions(mean)) == 9
    assert len(convolutions(plain)) == 4
    assert mean.count_params() <= plain.count_params() < 1.1 * mean.count_params()
    assert mean.output.shape == plain.output.shape == (None, 7)


def test_means_of_the_maps_over_each_tile(random):
    maps = random.normal(size=(6, 6, 5))
    mosaic = recipe.Mosaic(np.zeros((24, 24, 3)), np.zeros((3, 3), int), maps)
    found = mosaic.of_tiles
    assert found.shape == (3, 3, 5)
    for row in range(3):
        for column in range(3):
            tile = maps[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(found[row, column], tile.mean(axis=(0, 1)))
