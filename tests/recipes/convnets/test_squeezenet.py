"""SqueezeNet against the paper's table 1, a module against one convolution, and the
file against Shannon's bound."""

import math

import keras
import numpy as np
import pytest

from deep_learning_recipes import architectures
from recipes import squeezenet as recipe

pytestmark = pytest.mark.usefixtures("seeded")

# Table 1, parameters before pruning.
PARAMETERS = {
    "conv1": 14_208,
    "fire2": 11_920,
    "fire3": 12_432,
    "fire4": 45_344,
    "fire5": 49_440,
    "fire6": 104_880,
    "fire7": 111_024,
    "fire8": 188_992,
    "fire9": 197_184,
    "conv10": 513_000,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def imagenet_model():
    yield recipe.build_model()
    keras.utils.clear_session()


def test_parameters_are_those_of_the_table(imagenet_model):
    found = {}
    for layer in imagenet_model.layers:
        if layer.count_params():
            module = layer.name.split("_")[0]
            found[module] = found.get(module, 0) + layer.count_params()
    assert found == PARAMETERS
    assert sum(found.values()) == imagenet_model.count_params() == 1_248_424


def test_shapes_are_those_of_the_table(imagenet_model):
    for name, (places, maps) in recipe.TABLE.items():
        shape = imagenet_model.get_layer(name).output.shape
        assert shape == (None, places, places, maps), name
    assert imagenet_model.output.shape == (None, 1000)


def test_the_filters_of_a_module_are_those_of_the_table():
    expected = [128, 128, 256, 256, 384, 384, 512, 512]
    assert [recipe.expand_filters(module) for module in recipe.MODULES] == expected


def test_multiply_adds_by_hand(imagenet_model):
    """Weights without biases, at each of the table's places."""
    filters = {"conv1": 96, "conv10": 1000}
    for module in recipe.MODULES:
        expand = recipe.expand_filters(module)
        filters[f"fire{module}"] = expand // 8 + expand
    expected = sum(
        (PARAMETERS[name] - filters[name]) * recipe.TABLE[name][0] ** 2
        for name in PARAMETERS
    )
    assert architectures.multiply_adds(imagenet_model) == expected


def fire_model(squeeze, expand, share_3x3, maps=5):
    inputs = keras.Input((7, 6, maps))
    return keras.Model(inputs, recipe.fire(inputs, squeeze, expand, share_3x3, "fire"))


@pytest.mark.parametrize(("share_3x3", "filters_3x3"), [(0.5, 4), (0.25, 2), (0.8, 6)])
def test_a_module_is_two_convolutions(share_3x3, filters_3x3, random):
    """1×1 filters are 3×3 ones with zeros around: both expand as one convolution."""
    model = fire_model(3, 8, share_3x3)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    squeeze, squeeze_bias, one, one_bias, three, three_bias = model.get_weights()
    assert three.shape == (3, 3, 3, filters_3x3)

    x = random.normal(size=(2, 7, 6, 5)).astype("float32")
    squeezed = np.maximum(x @ squeeze[0, 0] + squeeze_bias, 0)
    kernel = np.concatenate([np.pad(one, [(1, 1), (1, 1), (0, 0), (0, 0)]), three], -1)
    expanded = keras.ops.conv(squeezed, kernel, padding="same")
    expected = np.maximum(expanded + np.concatenate([one_bias, three_bias]), 0)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def test_bypass_is_where_a_module_has_as_many_maps_as_it_gets():
    plain = recipe.build_model((32, 32, 3), 9, small=True)
    bypass = recipe.build_model((32, 32, 3), 9, small=True, bypass=True)
    assert plain.count_params() == bypass.count_params()
    added = [layer.name for layer in bypass.layers if "bypass" in layer.name]
    assert added == ["bypass3", "bypass5", "bypass7", "bypass9"]


def test_a_bypassed_module_of_zeros_is_the_identity(random):
    model = recipe.build_model((32, 32, 3), 9, small=True, bypass=True)
    for layer in model.layers:
        if layer.name.startswith("fire9") and layer.weights:
            layer.set_weights([np.zeros_like(each) for each in layer.get_weights()])
    around = [model.get_layer(name).output for name in ("maxpool8", "bypass9")]
    images = random.uniform(size=(2, 32, 32, 3)).astype("float32")
    before, after = keras.Model(model.input, around)(images)
    np.testing.assert_array_equal(before, after)


def test_all_weights_of_the_small_form_get_a_gradient(random):
    import tensorflow as tf

    model = recipe.build_model((32, 32, 3), 9, small=True, bypass=True, dropout=0)
    images = random.uniform(size=(8, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images) ** 2)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(np.any(gradient != 0) for gradient in gradients)


def test_the_small_networks_are_fifty_times_apart():
    small = recipe.build_model((32, 32, 3), 9, small=True)
    alexnet = recipe.build_alexnet((32, 32, 3), 9)
    convolutions = 25 * 3 * 24 + 25 * 24 * 64 + 9 * (64 * 96 + 96 * 96 + 96 * 64)
    biases = 24 + 64 + 96 + 96 + 64
    dense = (16 * 64 + 1) * 1024 + 1025 * 1024 + 1025 * 9
    assert alexnet.count_params() == convolutions + biases + dense
    assert dense > 0.9 * alexnet.count_params()
    assert 49 < alexnet.count_params() / small.count_params() < 50


# The file.


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.67, 0.9])
def test_pruning_keeps_the_largest_weights(sparsity, random):
    kernel = random.normal(size=(3, 3, 4, 25))
    pruned = recipe.prune(kernel, sparsity)
    kept = pruned != 0
    assert np.sum(~kept) == round(sparsity * 900)
    np.testing.assert_array_equal(pruned[kept], kernel[kept])
    if sparsity:
        assert np.abs(kernel[~kept]).max() < np.abs(kernel[kept]).min()


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_shared_weights_are_few_and_near(bits, random):
    kernel = recipe.prune(random.normal(size=(3, 3, 8, 50)), 0.5)
    shared = recipe.share(kernel, bits)
    np.testing.assert_array_equal(shared == 0, kernel == 0)
    assert len(np.unique(shared)) <= 2**bits
    assert shared.mean() == pytest.approx(kernel.mean())
    # A weight that is larger never gets a smaller value.
    order = np.argsort(kernel[kernel != 0])
    assert np.all(np.diff(shared[kernel != 0][order]) >= 0)
    assert np.abs(shared - kernel).max() <= np.ptp(kernel) / (2**bits - 1)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_what_is_written_is_read_again(bits, random):
    kernels = [random.normal(size=(3, 3, 5, 20)), random.normal(size=(1, 1, 4, 6))]
    arrays = []
    for kernel in kernels:
        shared = recipe.share(recipe.prune(kernel, 0.6), bits)
        arrays += [shared.astype("float16"), random.normal(size=6).astype("float16")]
    arrays.append(random.normal(size=(20, 30)).astype("float16"))  # of 600 values
    arrays.append(np.zeros((4, 4), "float16"))

    file = recipe.write_weights(arrays)
    found = recipe.read_weights(file, [array.shape for array in arrays])
    for before, after in zip(arrays, found, strict=True):
        assert after.dtype == "float32"
        np.testing.assert_array_equal(before.astype("float32"), after)


@pytest.mark.parametrize("sparsity", [0.3, 0.67])
def test_the_coded_numbers_are_near_the_entropy(sparsity, random):
    """A Huffman code takes at least the entropy and less than one bit more."""
    kernel = recipe.share(recipe.prune(random.normal(size=(9, 10_000)), sparsity), 5)
    counts = np.unique(kernel, return_counts=True)[1]
    shares = counts / kernel.size
    entropy = -np.sum(shares * np.log2(shares))
    size = len(recipe.write_weights([kernel]))
    assert entropy < 8 * size / kernel.size < entropy + 1


def test_sparse_bytes_by_hand():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    kernel = np.zeros((4, 4))
    kernel[0] = 1.0
    model.set_weights([kernel, np.zeros(4)])
    # A bit for each weight, five for each that is not 0; the codebook; the biases.
    assert recipe.sparse_bytes(model, 5) == (16 + 4 * 5) / 8 + 2 + 2 * 4
    assert recipe.sparse_bytes(model, 32) == (16 + 4 * 32) / 8 + 2 * 4


def test_a_copy_with_changed_kernels_leaves_the_network_alone(random):
    model = recipe.build_model((32, 32, 3), 9, small=True, dropout=0)
    before = model.get_weights()
    copy = recipe.with_kernels(model, np.zeros_like)
    for old, new, changed in zip(
        before, model.get_weights(), copy.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
        assert math.prod(changed.shape) == old.size
        assert changed.ndim == 1 or not changed.any()
