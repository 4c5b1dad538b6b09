"""GoogLeNet against the paper's table, the module against counts by hand and NumPy, and
gradients against one loss at a time."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deep_learning_recipes import architectures
from recipes import googlenet as recipe

# Table 1 of the paper: places across and channels of what each row hands on.
TABLE = {
    "conv1": (112, 64),
    "pool1": (56, 64),
    "conv2": (56, 192),
    "pool2": (28, 192),
    "3a": (28, 256),
    "3b": (28, 480),
    "pool3": (14, 480),
    "4a": (14, 512),
    "4b": (14, 512),
    "4c": (14, 512),
    "4d": (14, 528),
    "4e": (14, 832),
    "pool4": (7, 832),
    "5a": (7, 832),
    "5b": (7, 1024),
}
# Thousands of parameters and millions of multiply-adds of the modules, its last columns.
PARAMETERS = [159, 380, 364, 437, 463, 580, 840, 1072, 1388]
MULTIPLY_ADDS = [128, 304, 73, 88, 100, 119, 170, 54, 71]


@pytest.fixture(scope="module")
def googlenet():
    yield recipe.build_model()
    keras.utils.clear_session()


def test_layers_have_the_papers_shapes(googlenet):
    for row, (side, channels) in TABLE.items():
        name = f"{row}_join" if row[0].isdigit() else row
        assert googlenet.get_layer(name).output.shape == (None, side, side, channels)
    assert googlenet.get_layer("mean").output.shape == (None, 1024)
    assert googlenet.output.shape == (None, 1000)


def test_parameters_and_depth(googlenet):
    assert googlenet.count_params() == 6_998_552
    assert recipe.depth(googlenet) == 22
    # Three layers of the stem, two in each of nine modules, and the last.
    assert 3 + 2 * len(recipe.MODULES) + 1 == 22


def test_modules_have_the_papers_parameters(googlenet):
    """The paper's column is lower than the sum of its filters' weights, by 10 % in 4c;
    its multiply-adds agree better."""
    for name, thousands in zip(recipe.MODULES, PARAMETERS, strict=True):
        own = [layer for layer in googlenet.layers if layer.name.startswith(name)]
        found = sum(layer.count_params() for layer in own)
        assert found == pytest.approx(1000 * thousands, rel=0.11), name


def test_modules_have_the_papers_multiply_adds(googlenet):
    found = recipe.growth(googlenet)
    assert found.channels == [TABLE[name][1] for name in recipe.MODULES]
    for name, count, millions in zip(
        recipe.MODULES, found.multiply_adds, MULTIPLY_ADDS, strict=True
    ):
        assert count == pytest.approx(1e6 * millions, rel=0.06), name


def test_multiply_adds_of_all(googlenet):
    """1.58 G by count. The paper's column adds up to 1.50 G, as it has 34 M for the
    first layer, whose 7 · 7 · 3 · 64 weights at 112 · 112 places make 118 M."""
    paper = 34 + 360 + sum(MULTIPLY_ADDS) + 1
    assert paper == 1502
    first = 112 * 112 * 7 * 7 * 3 * 64
    found = architectures.multiply_adds(googlenet)
    assert found == 1_582_671_872
    assert found == pytest.approx(1e6 * (paper - 34) + first, rel=0.01)


def test_alexnet_has_nine_times_as_many_not_twelve():
    of_table = 2.7 + 112 + sum(PARAMETERS) + 1000
    fewer = recipe.ALEXNET_PARAMETERS / 6_998_552
    assert fewer == pytest.approx(8.71, abs=0.01)
    fewer_by_table = recipe.ALEXNET_PARAMETERS / (1000 * of_table)
    assert fewer_by_table == pytest.approx(9.0, abs=0.1)


def test_auxiliary_heads_are_the_papers():
    model = recipe.build_model(auxiliary=True)
    assert [output.shape for output in model.outputs] == [(None, 1000)] * 3
    for module, channels in (("4a", 512), ("4d", 528)):
        pool = model.get_layer(f"head_{module}_pool")
        assert pool.output.shape == (None, 4, 4, channels)
        dense = model.get_layer(f"head_{module}_dense")
        assert dense.kernel.shape == (4 * 4 * 128, 1024)
    # 1×1 convolutions, dense layers of 1,024 and 1,000, with biases, by hand.
    by_hand = sum(
        (channels + 1) * 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000
        for channels in (512, 528)
    )
    assert model.count_params() == 6_998_552 + by_hand
    assert recipe.without_heads(model).count_params() == 6_998_552
    keras.utils.clear_session()


def test_the_lectures_module():
    """28 × 28 × 256: 128 1×1, 192 3×3, 96 5×5, and 64 wherever it narrows."""
    places = 28 * 28
    naive = places * 256 * (128 + 9 * 192 + 25 * 96)
    three = places * 64 * 9 * 192
    bottleneck = places * (256 * (128 + 64 + 64 + 64) + 64 * 25 * 96) + three
    models = {is_naive: recipe.build_example(is_naive) for is_naive in (True, False)}
    assert architectures.multiply_adds(models[True]) == naive == 854_196_224
    assert architectures.multiply_adds(models[False]) == bottleneck == 271_351_808
    assert models[True].output.shape[1:] == (28, 28, 672)
    assert models[False].output.shape[1:] == (28, 28, 480)
    # The course adds up to 358 M: as if the 3×3 were there twice.
    assert round((bottleneck + three) / 1e6) == 358


def test_naive_modules_hand_on_what_they_get():
    channels = 192
    for filters in recipe.MODULES.values():
        channels += filters.one + filters.three + filters.five
    assert channels == 4944
    x = keras.Input((28, 28, 192))
    y = x
    for name, filters in recipe.MODULES.items():
        y = recipe.inception(y, filters, naive=True, name=name)
        keras.utils.clear_session()
        if name == "4a":
            break
    assert y.shape[-1] == 192 + 64 + 128 + 32 + 128 + 192 + 96 + 192 + 208 + 48


def relu(x):
    return np.maximum(x, 0)


def correlate(x, kernel):
    """Loops over the kernel, zeros around: (batch, h, w, c) → (batch, h, w, filters)."""
    size = kernel.shape[0]
    around = size // 2
    padded = np.pad(x, [(0, 0), (around, around), (around, around), (0, 0)])
    height, width = x.shape[1:3]
    total = 0
    for u in range(size):
        for v in range(size):
            total = total + padded[:, u : u + height, v : v + width] @ kernel[u, v]
    return total


def highest_around(x):
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    height, width = x.shape[1:3]
    return np.max(
        [padded[:, u : u + height, v : v + width] for u in range(3) for v in range(3)],
        axis=0,
    )


@pytest.mark.parametrize("naive", [True, False])
def test_a_module_is_its_branches_side_by_side(naive):
    filters = recipe.Filters(2, 3, 4, 2, 3, 2)
    maps = keras.Input((6, 7, 5))
    model = keras.Model(maps, recipe.inception(maps, filters, naive, name="m"))
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(2, 6, 7, 5)).astype("float32")

    def conv(x, branch):
        layer = model.get_layer(f"m_{branch}")
        return relu(correlate(x, np.asarray(layer.kernel)) + np.asarray(layer.bias))

    pool = highest_around(x)
    branches = [
        conv(x, "1x1"),
        conv(x if naive else conv(x, "3x3_reduce"), "3x3"),
        conv(x if naive else conv(x, "5x5_reduce"), "5x5"),
        pool if naive else conv(pool, "pool_1x1"),
    ]
    expected = np.concatenate(branches, axis=-1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-3)
    assert expected.shape[-1] == (2 + 4 + 3 + 5 if naive else 2 + 4 + 3 + 2)


def test_local_response_normalization_by_loops():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype("float32") * 50
    expected = np.zeros_like(x)
    for c in range(8):
        around = x[..., max(0, c - 2) : c + 3]
        total = 1 + 1e-4 / 5 * np.sum(around**2, axis=-1)
        expected[..., c] = x[..., c] / total**0.75
    found = recipe.LocalResponseNormalization()(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_depth_is_that_of_the_longest_path():
    x = keras.Input((4, 4, 3))
    long = layers.Conv2D(3, 1)(layers.Conv2D(3, 1)(x))
    joined = layers.Add()([layers.ReLU()(long), layers.Conv2D(3, 1)(x)])
    out = layers.Dense(2)(layers.Flatten()(joined))
    assert recipe.depth(keras.Model(x, out)) == 3
    assert recipe.depth(keras.Model(x, joined)) == 2


MODULES = recipe.SMALL_MODULES[4]


@pytest.fixture
def small():
    keras.utils.set_random_seed(0)
    return recipe.build_model(
        (32, 32, 3),
        5,
        modules=MODULES,
        small=True,
        width=0.0625,
        auxiliary=True,
        name="small",
    )


def pictures(count=12):
    random = np.random.default_rng(1)
    x = random.uniform(size=(count, 32, 32, 3)).astype("float32")
    return x, random.integers(5, size=count)


def test_gradient_norms_are_those_of_one_loss_at_a_time(small):
    x, y = pictures()
    for layer in small.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    norms = recipe.gradient_norms(small, x, y, weight=0.25)
    names = [layer.name for layer in recipe.trunk_layers(small)]
    assert norms.shape == (3, len(names))
    for output, weight in ((0, 1.0), (1, 0.25), (2, 0.25)):
        for name in ("conv1", "3a_5x5", "4a_1x1"):
            kernel = small.get_layer(name).kernel
            with tf.GradientTape() as tape:
                logits = small(x, training=True)[output]
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                loss = weight * tf.reduce_mean(loss)
            expected = np.linalg.norm(tape.gradient(loss, kernel))
            found = norms[output, names.index(name)]
            assert found == pytest.approx(expected, rel=1e-3)
    # A head says nothing to what comes after it.
    assert norms[1, names.index("4d_1x1")] == 0
    assert norms[2, names.index("4d_1x1")] > 0
    assert norms[2, names.index("5a_1x1")] == 0


def test_what_is_trained_is_the_weighted_sum(small):
    x, y = pictures()
    recipe.compile_with_heads(small, keras.optimizers.SGD(0.0), weight=0.3)
    logits = small(x, training=False)
    each = [
        float(np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, found)))
        for found in logits
    ]
    total = small.evaluate(x, (y, y, y), batch_size=12, verbose=0, return_dict=True)
    expected = each[0] + 0.3 * (each[1] + each[2])
    assert total["loss"] == pytest.approx(expected, rel=1e-4)


def test_without_heads_it_is_the_same_network(small):
    x, _ = pictures()
    used = recipe.without_heads(small)
    np.testing.assert_array_equal(used(x), small(x)[0])
    assert not any(layer.name.startswith("head") for layer in used.layers)
    plain = recipe.build_model(
        (32, 32, 3), 5, modules=MODULES, small=True, width=0.0625
    )
    assert plain.count_params() == used.count_params()


def test_the_naive_rival_costs_no_more():
    build = partial(
        recipe.build_model, (32, 32, 3), 5, modules=MODULES, small=True, width=0.125
    )
    bottleneck = build()
    build = partial(build, naive=True)
    affordable = architectures.multiply_adds(bottleneck)
    width = recipe.affordable_width(build, 0.125, affordable)
    cost = architectures.multiply_adds(build(width=width))
    assert 0.9 * affordable < cost <= affordable


def test_a_saved_model_is_the_same(tmp_path, small):
    x = keras.Input((8, 8, 6))
    model = keras.Model(x, recipe.LocalResponseNormalization()(x))
    model.save(tmp_path / "norm.keras")
    again = keras.saving.load_model(tmp_path / "norm.keras")
    maps = np.random.default_rng(0).normal(size=(1, 8, 8, 6))
    np.testing.assert_array_equal(again(maps), model(maps))


def test_shares_by_hand():
    norms = np.array([[[3.0, 4.0, 1.0], [0.0, 5.0, 0.0]], [[1, 0, 0], [3, 0, 0]]])
    reach = recipe.Reach(["3a"], ["conv1", "conv1_more", "3a_1x1"], norms)
    # √(3² + 4²) to √(0² + 5²), and 1 to 3.
    np.testing.assert_allclose(reach.shares("conv1"), [(0.5 + 0.25) / 2, 0.625])
    # In the second start nothing reaches 3a at all.
    np.testing.assert_allclose(reach.shares("3a"), [0.5, 0.0])
    assert reach.from_heads() == pytest.approx(0.625)
