"""AlexNet against the paper's counts and shapes, NumPy's sums and two separate
towers."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes import architectures
from recipes import alexnet as recipe

Parts = recipe.Parts
SMALL = {
    "image_shape": (32, 32, 3),
    "classes": 4,
    "filters": (4, 8, 6, 6, 4),
    "units": 8,
    "first_kernel_size": 5,
    "first_stride": 1,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("towers", "parameters"), [(2, 60_965_224), (1, 62_378_344)])
def test_it_has_the_papers_parameters(towers, parameters):
    model = recipe.outline(parts=Parts(towers=towers))
    assert model.count_params() == parameters
    # Three of the eight are there once in each tower.
    assert recipe.weight_layers(model) == 8 + 3 * (towers - 1)


def test_shapes_are_those_of_figure_2():
    model = recipe.outline(parts=Parts(towers=1))
    kept = (layers.Conv2D, layers.MaxPooling2D, layers.Flatten)
    shapes = [each.output.shape[1:] for each in model.layers if isinstance(each, kept)]
    assert shapes == [
        (55, 55, 96),
        (27, 27, 96),
        (27, 27, 256),
        (13, 13, 256),
        (13, 13, 384),
        (13, 13, 384),
        (13, 13, 256),
        (6, 6, 256),
        (9216,),
    ]


def test_kernels_of_towers_see_half_of_the_maps_below():
    kernels = [each.kernel.shape for each in recipe.outline().layers if each.weights]
    assert kernels == [
        (11, 11, 3, 96),
        *2 * [(5, 5, 48, 128)],
        (3, 3, 256, 384),
        *2 * [(3, 3, 192, 192)],
        *2 * [(3, 3, 192, 128)],
        (9216, 4096),
        (4096, 4096),
        (4096, 1000),
    ]


def test_multiply_adds_are_those_counted_by_hand():
    found = {
        towers: architectures.multiply_adds(recipe.outline(parts=Parts(towers=towers)))
        for towers in (1, 2)
    }
    for towers in (1, 2):
        by_hand = 55**2 * 11**2 * 3 * 96
        by_hand += 27**2 * 5**2 * 96 * 256 // towers
        by_hand += 13**2 * 3**2 * 256 * 384
        by_hand += 13**2 * 3**2 * 384 * (384 + 256) // towers
        by_hand += 9216 * 4096 + 4096 * 4096 + 4096 * 1000
        assert found[towers] == by_hand
    assert found[2] == pytest.approx(0.72e9, rel=0.01)
    assert found[1] == pytest.approx(1.14e9, rel=0.01)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_normalization_is_the_papers_formula(n, random):
    maps = random.normal(size=(2, 3, 4, 9)).astype("float32")
    layer = recipe.LocalResponseNormalization(n=n, k=1.5, alpha=0.3, beta=0.6)
    expected = np.empty_like(maps)
    filters = maps.shape[-1]
    for i in range(filters):
        first = max(0, i - n // 2)
        last = min(filters - 1, i + n // 2)
        squares = sum(maps[..., j] ** 2 for j in range(first, last + 1))
        expected[..., i] = maps[..., i] / (1.5 + 0.3 * squares) ** 0.6
    np.testing.assert_allclose(layer(maps), expected, rtol=1e-5, atol=1e-6)


def test_normalization_holds_neighbors_down():
    maps = np.zeros((1, 1, 1, 9), "float32")
    maps[..., 3] = 1.0
    layer = recipe.LocalResponseNormalization(alpha=1.0)
    alone = np.asarray(layer(maps))[0, 0, 0, 3]
    maps[..., 5] = 10.0
    beside = np.asarray(layer(maps))[0, 0, 0, 3]
    maps[..., 5] = 0.0
    maps[..., 6] = 10.0  # the third neighbor is out of reach
    away = np.asarray(layer(maps))[0, 0, 0, 3]
    assert beside < 0.2 * alone
    assert away == alone


def test_the_layer_is_saved_and_loaded(tmp_path, random):
    model = recipe.build_model(**SMALL, parts=Parts(alpha=0.4))
    model.save(tmp_path / "alexnet.keras")
    loaded = keras.saving.load_model(tmp_path / "alexnet.keras")
    images = random.uniform(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    alphas = [
        layer.alpha
        for layer in loaded.layers
        if isinstance(layer, recipe.LocalResponseNormalization)
    ]
    assert alphas == [0.4, 0.4]


def test_towers_are_keras_groups(random):
    images = keras.Input((13, 13, 8))
    maps = recipe.convolution_in_towers(images, 6, 3, Parts())
    model = keras.Model(images, maps)
    kernels, biases = [], []
    for layer in model.layers:
        if layer.weights:
            kernels.append(random.normal(size=layer.kernel.shape))
            biases.append(random.normal(size=layer.bias.shape))
            layer.set_weights([kernels[-1], biases[-1]])
    grouped = layers.Conv2D(6, 3, padding="same", activation="relu", groups=2)
    grouped.build(images.shape)
    grouped.set_weights([np.concatenate(kernels, -1), np.concatenate(biases)])
    some = random.normal(size=(2, 13, 13, 8)).astype("float32")
    np.testing.assert_allclose(model(some), grouped(some), atol=1e-4)


def test_towers_meet_at_the_third_convolution(random):
    model = recipe.build_model(**SMALL, parts=Parts(alpha=None))
    inner = [each for each in model.layers if isinstance(each, layers.Conv2D)]
    images = random.uniform(size=(4, 32, 32, 3)).astype("float32")
    outputs = [inner[1].output, inner[2].output, inner[3].output]
    look = keras.Model(model.input, outputs)
    first, second, both = (np.asarray(each) for each in look(images))
    # Without the half of the first filters that the second tower sees:
    kernel, bias = inner[0].get_weights()
    kernel[..., 2:] = 0
    inner[0].set_weights([kernel, bias])
    alike, changed, mixed = (np.asarray(each) for each in look(images))
    np.testing.assert_array_equal(alike, first)
    assert np.abs(changed - second).max() > 1e-3
    assert np.abs(mixed - both).max() > 1e-3


def test_all_weights_learn(random):
    model = recipe.build_model(**SMALL)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(weight) for weight in model.trainable_variables]
    images = random.uniform(size=(8, 32, 32, 3)).astype("float32")
    model.fit(images, np.arange(8) % 4, verbose=0)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(weight).all()
        assert not np.array_equal(weight, old), weight.path


def test_pools_of_three_overlap():
    overlapping = recipe.build_model(**SMALL)
    separate = recipe.build_model(**SMALL, parts=Parts(pool_size=2))
    for model, size in ((overlapping, 3), (separate, 2)):
        pools = [each for each in model.layers if isinstance(each, layers.MaxPooling2D)]
        assert {pool.pool_size for pool in pools} == {(size, size)}
        assert {pool.strides for pool in pools} == {(2, 2)}


def test_each_part_can_be_left_out():
    model = recipe.build_model(
        **SMALL, parts=Parts("tanh", alpha=None, dropout=0.0, towers=1)
    )
    kinds = {type(layer) for layer in model.layers}
    assert not kinds & {recipe.LocalResponseNormalization, layers.Dropout}
    weighted = [layer for layer in model.layers if layer.weights]
    activations = [layer.activation for layer in weighted]
    assert activations == 7 * [keras.activations.tanh] + [keras.activations.linear]


def test_epochs_until_a_loss():
    losses = [2.0, 1.0, 0.5]
    assert recipe.epochs_until(losses, 2.5) == 1
    assert recipe.epochs_until(losses, 1.5) == 1.5
    assert recipe.epochs_until(losses, 1.0) == 2
    assert recipe.epochs_until(losses, 0.75) == 2.5
    assert math.isinf(recipe.epochs_until(losses, 0.1))


def test_slopes_are_the_derivatives(random):
    sums = random.normal(size=(3, 4, 5)) * 2
    assert recipe.mean_slope("relu", sums) == pytest.approx(np.mean(sums > 0), abs=1e-6)
    slopes = 1 - np.tanh(sums) ** 2
    assert recipe.mean_slope("tanh", sums) == pytest.approx(slopes.mean(), abs=1e-5)
    assert recipe.mean_slope("tanh", sums * 1e3) < 0.02
