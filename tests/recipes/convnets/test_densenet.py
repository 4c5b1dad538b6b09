"""DenseNet beside keras.applications, layer by layer; counts by hand; the readers."""

import gc
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import architectures
from recipes import densenet as recipe

pytestmark = pytest.mark.usefixtures("seeded")

TRAINABLE = {
    "DenseNet-121": 7_978_856,
    "DenseNet-169": 14_149_480,
    "DenseNet-201": 20_013_928,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def freed():
    yield
    keras.utils.clear_session()
    gc.collect()


def randomize(model, random):
    """Other statistics and scales than those at the start, which would hide errors."""
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[-1]
        if name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, size=weight.shape))
        elif name in ("beta", "moving_mean", "bias"):
            weight.assign(random.normal(scale=0.2, size=weight.shape))


@pytest.mark.parametrize("name", recipe.BLOCKS)
def test_each_layer_is_that_of_keras_applications(name, random):
    # Small pictures: the weights are the same, and the maps go by in no time.
    application = getattr(keras.applications, name.replace("-", ""))
    official = application(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    model = recipe.build_model(recipe.BLOCKS[name], image_shape=(64, 64, 3))
    assert architectures.cost(model).parameters == TRAINABLE[name]
    randomize(official, random)
    model.set_weights(official.get_weights())

    joined = [
        [
            each.output
            for each in one.layers
            if isinstance(each, keras.layers.Concatenate)
        ]
        for one in (model, official)
    ]
    assert len(joined[0]) == len(joined[1]) == sum(recipe.BLOCKS[name])
    images = random.uniform(size=(2, 64, 64, 3)).astype("float32")
    found = keras.Model(model.input, [*joined[0], model.output])(images)
    expected = keras.Model(official.input, [*joined[1], official.output])(images)
    for ours, theirs in zip(found, expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)
    np.testing.assert_allclose(found[-1], expected[-1], atol=1e-4)


def parameters_by_hand(depth, growth_rate, bottleneck):
    """Of table 2: three blocks, 3×3 stem, ten classes."""
    maps = 2 * growth_rate if bottleneck else 16
    total = 27 * maps
    for block in range(3):
        for _ in range((depth - 4) // (6 if bottleneck else 3)):
            total += 2 * maps
            if bottleneck:
                inner = 4 * growth_rate
                total += maps * inner + 2 * inner + 9 * inner * growth_rate
            else:
                total += 9 * maps * growth_rate
            maps += growth_rate
        if block < 2:
            kept = maps // 2 if bottleneck else maps
            total += 2 * maps + maps * kept
            maps = kept
    return total + 2 * maps + (maps + 1) * 10


@pytest.mark.parametrize(
    ("depth", "growth_rate", "bottleneck", "known", "millions"),
    [(40, 12, False, 1_019_722, 1.0), (100, 12, True, 769_162, 0.8)],
)
def test_the_cifar_forms_have_the_papers_weights(
    depth, growth_rate, bottleneck, known, millions
):
    model = recipe.build_cifar(depth, growth_rate, bottleneck)
    counted = architectures.cost(model).parameters
    assert counted == parameters_by_hand(depth, growth_rate, bottleneck) == known
    assert round(counted / 1e6, 1) == millions
    # L counts what has weights on the longest way: convolutions, and the dense layer.
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    assert sum(isinstance(layer, kinds) for layer in model.layers) == depth
    assert model.get_layer("features").input.shape[1:3] == (8, 8)


def small(growth_rate=4, depth=3, **options):
    return recipe.build_model(
        [depth] * 3, growth_rate, (32, 32, 3), 9, stem="small", **options
    )


def test_a_layer_is_normalization_relu_and_convolution(random):
    inputs = keras.Input((5, 6, 7))
    outputs = recipe.dense_layer(inputs, 4, True, "layer")
    model = keras.Model(inputs, outputs)
    randomize(model, random)
    x = random.normal(size=(2, 5, 6, 7)).astype("float32")

    def normalized(x, name):
        gamma, beta, mean, variance = model.get_layer(f"layer_{name}_bn").get_weights()
        return np.maximum(gamma * (x - mean) / np.sqrt(variance + 1.001e-5) + beta, 0)

    first = model.get_layer("layer_1_conv").kernel
    second = model.get_layer("layer_2_conv").kernel
    new = keras.ops.conv(normalized(x, 1), first)
    assert new.shape[-1] == 4 * 4
    new = keras.ops.conv(normalized(np.asarray(new), 2), second, padding="same")
    found = np.asarray(model(x))
    np.testing.assert_array_equal(found[..., :7], x)
    np.testing.assert_allclose(found[..., 7:], new, atol=1e-4)


def test_maps_grow_by_k_and_transitions_halve_them():
    model = small(growth_rate=6, depth=4)
    assert model.get_layer("block1_layer4").output.shape[1:] == (16, 16, 12 + 4 * 6)
    assert model.get_layer("transition1_pool").output.shape[1:] == (8, 8, 18)
    assert model.get_layer("block2_layer4").output.shape[-1] == 18 + 24
    assert model.get_layer("transition2_pool").output.shape[-1] == 21


def test_sources_are_where_their_maps_stand(random):
    """By gradient: a layer's output changes the maps of its own source alone."""
    model = small()
    source = model.get_layer("block2_layer2_2_conv").output
    reader = model.get_layer("block2_layer3").output
    images = random.uniform(size=(1, 32, 32, 3)).astype("float32")
    found, joined = keras.Model(model.input, [source, reader])(images)
    places = recipe.maps_of_sources(model, 2, 3)
    np.testing.assert_array_equal(joined[..., places[2]], found)
    assert places[0] == slice(0, model.get_layer("transition1_pool").output.shape[-1])
    assert places[-1].stop == joined.shape[-1]


@pytest.mark.parametrize(
    ("block", "source", "reader"), [(1, 1, 3), (2, 0, 2), (3, 2, 3)]
)
def test_reading_weights_are_those_of_the_source(block, source, reader, random):
    """One source's weights are doubled, then its γ: so is the number, and no other."""
    model = small()
    before = recipe.reading_weights(model, block)
    maps = recipe.maps_of_sources(model, block, reader - 1)[source]
    layer = f"block{block}_layer{reader}_1"
    expected = before.copy()
    expected[source, reader - 1] *= 6

    kernel = model.get_layer(f"{layer}_conv").kernel
    values = kernel.numpy()
    values[:, :, maps] *= -2
    kernel.assign(values)
    gamma = model.get_layer(f"{layer}_bn").gamma
    values = gamma.numpy()
    values[maps] *= 3
    gamma.assign(values)
    np.testing.assert_allclose(
        recipe.reading_weights(model, block), expected, rtol=1e-5
    )


def test_reading_weights_cover_all_that_is_read():
    for block in (1, 2, 3):
        weights = recipe.reading_weights(small(), block)
        assert weights.shape == (4, 4)
        # Source s is written before reader s + 1 reads.
        assert np.array_equal(np.isnan(weights), np.tril(np.ones((4, 4)), -1) > 0)


def test_losses_without_a_source_are_those_of_a_copy(random):
    model = small(depth=2)
    before = model.get_weights()
    images = random.uniform(size=(4, 32, 32, 3)).astype("float32")

    def size(model):
        return float(np.abs(model(images)).sum())

    losses = recipe.losses_without(model, 2, size)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert np.array_equal(np.isnan(losses), np.tril(np.ones((3, 3)), -1) > 0)
    assert np.all(losses[~np.isnan(losses)] != size(model))

    # The second layer reads the first one's four maps, behind the block's eight.
    kernel = model.get_layer("block2_layer2_1_conv").kernel
    values = kernel.numpy()
    values[:, :, 8:12] = 0
    kernel.assign(values)
    assert losses[1, 1] == pytest.approx(size(model))


@pytest.mark.parametrize("keep_nearest", [True, False])
def test_a_cut_layer_reads_what_is_left(keep_nearest, random):
    model = small()
    copy = recipe.cut(model, keep_nearest)
    for block in (1, 2, 3):
        weights = recipe.reading_weights(copy, block)
        for reader in range(1, 4):
            near = weights[reader, reader] > 0
            far = weights[:reader, reader] > 0
            assert near == keep_nearest
            assert np.all(far != keep_nearest)
        assert weights[0, 0] > 0  # a first layer has no other source
    assert all(
        np.all(weight != 0) for weight in model.weights if "kernel" in weight.path
    )


def test_the_rival_is_of_like_depth():
    def depth(model):
        kinds = (keras.layers.Conv2D, keras.layers.Dense)
        found = [layer for layer in model.layers if isinstance(layer, kinds)]
        return len([layer for layer in found if "shortcut" not in layer.name])

    residual = recipe.build_residual(3, 8, (32, 32, 3), 9)
    assert depth(residual) == 3 * 3 * 2 + 2
    assert depth(small()) == depth(residual) + 2  # its two transitions
    widths = [16 * 9 * 8 * 8, 16 * 9 * 16 * 16, 16 * 9 * 32 * 32]
    assert residual.get_layer("stage1_0").output.shape[1:] == (8, 8, 16)
    assert architectures.cost(residual).parameters < sum(widths)


def test_concatenations_by_hand():
    model = small(growth_rate=4, depth=2)
    numbers = 16 * 16 * (12 + 16) + 8 * 8 * (12 + 16) + 4 * 4 * (12 + 16)
    # Blocks begin with 8 maps; 16 are halved by each transition.
    assert recipe.concatenated_bytes(model) == 4 * numbers


def test_all_weights_get_a_gradient(random):
    model = small()
    images = random.uniform(size=(8, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(np.any(gradient != 0) for gradient in gradients)
    assert math.isfinite(float(loss))
