"""Layer by layer against `keras.applications`; counts and shapes of the papers; blocks
by hand."""

import gc
import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from deep_learning_recipes import architectures
from recipes import resnet as recipe

Style = recipe.Style


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def cleared():
    yield
    keras.utils.clear_session()
    gc.collect()


def trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [
        (18, 11_173_962),
        (34, 21_282_122),
        (50, 23_520_842),
        (101, 42_512_970),
        (152, 58_156_618),
    ],
)
def test_parameters_of_the_lectures_table(depth, parameters):
    model = recipe.build_model(depth, (32, 32, 3), 10, small_images=True)
    assert trainable(model) == parameters
    assert model.output.shape == (None, 10)


@pytest.mark.parametrize(
    ("depth", "parameters", "multiply_adds"),
    [
        # Multiply-adds in units of 10⁹ as in table 1, which rounds.
        (18, 11_689_512, 1.8),
        (34, 21_797_672, 3.6),
        (50, 25_557_032, 3.8),
        (101, 44_549_160, 7.6),
        (152, 60_192_808, 11.3),
    ],
)
def test_cost_at_the_papers_size(depth, parameters, multiply_adds):
    model = recipe.build_model(depth)
    cost = architectures.cost(model)
    assert trainable(model) == cost.parameters == parameters
    assert cost.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=0.025)


@pytest.mark.parametrize("depth", [18, 50])
def test_shapes_of_table_1(depth):
    model = recipe.build_model(depth)
    blocks, bottleneck = recipe.TABLE_1[depth]
    assert model.get_layer("conv1_conv").output.shape[1:] == (112, 112, 64)
    for stage, (count, side) in enumerate(zip(blocks, (56, 28, 14, 7), strict=True)):
        filters = 64 * 2**stage * (4 if bottleneck else 1)
        for index in range(1, count + 1):
            layer = model.get_layer(f"conv{stage + 2}_block{index}_out")
            assert layer.output.shape[1:] == (side, side, filters)
    # The paper counts convolutions and the dense layer, but not those of shortcuts.
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, layers.Conv2D | layers.Dense)
        and not layer.name.endswith("_0_conv")
    ]
    assert len(weighted) == depth


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # Table 6: 0.27 M, 0.46 M, 0.85 M and 1.7 M.
    [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)],
)
def test_parameters_of_the_small_networks(depth, parameters):
    for residual in (True, False):
        model = recipe.build_small(depth, residual=residual)
        assert trainable(model) == parameters
    sides = [model.get_layer(f"conv{stage}_block1_out") for stage in (2, 3, 4)]
    shapes = [layer.output.shape[1:] for layer in sides]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


@pytest.mark.parametrize("depth", [2, 10, 21, -4])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match="6n"):
        recipe.build_small(depth)


# --------------------------------------------------------------------------------------
# keras.applications
# --------------------------------------------------------------------------------------


def draw_weights(model, random):
    """Statistics and biases too, so that nothing is trivially the same. Kernels keep a
    signal's size."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [
                    random.uniform(0.5, 1.2, size),
                    random.normal(0, 0.2, size),
                    random.normal(0, 0.2, size),
                    random.uniform(0.5, 1.5, size),
                ]
            )
        elif getattr(layer, "bias", None) is not None and layer.name != "conv1_conv":
            # Not the first one, as zeros for the pool are put beside it in V2.
            layer.bias.assign(random.normal(0, 0.2, layer.bias.shape))


def copy_folded(theirs, ours):
    """A bias in front of a normalization is the same as another mean."""
    for layer in ours.layers:
        if not layer.weights:
            continue
        weights = theirs.get_layer(layer.name).get_weights()
        if isinstance(layer, layers.Conv2D):
            layer.set_weights(weights[:1])
        elif isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = weights
            before = layer.name.replace("_bn", "_conv")
            bias = theirs.get_layer(before).get_weights()[1]
            layer.set_weights([gamma, beta, mean - bias, variance])
        else:
            layer.set_weights(weights)


def outputs_of(model, names, images):
    outputs = [model.get_layer(name).output for name in names]
    return keras.Model(model.input, outputs)(images)


def assert_alike(ours, theirs, images, names):
    names = [*names, "predictions"]
    found = outputs_of(ours, names, images)
    expected = outputs_of(theirs, names, images)
    for name, one, other in zip(names, found, expected, strict=True):
        scale = float(ops.max(ops.abs(other)))
        assert scale > 1e-3, name
        difference = float(ops.max(ops.abs(one - other))) / scale
        assert difference < 1e-4, (name, difference)


@pytest.mark.parametrize("depth", [50, 152])
def test_it_is_keras_resnet(depth, random):
    """All of our layers have a layer of that name there, which gives the same maps."""
    size = 64
    build = getattr(keras.applications, f"ResNet{depth}")
    theirs = build(
        weights=None, classifier_activation=None, input_shape=(size, size, 3)
    )
    draw_weights(theirs, random)
    ours = recipe.build_model(depth, (size, size, 3))
    assert [layer.name for layer in ours.layers[1:]] == [
        layer.name for layer in theirs.layers[1:]
    ]
    copy_folded(theirs, ours)
    images = random.normal(size=(2, size, size, 3)).astype("float32")
    ends = [layer.name for layer in ours.layers if layer.name.endswith("_out")]
    assert_alike(ours, theirs, images, ["conv1_relu", "pool1_pool", *ends])


def build_like_keras_v2(size):
    """Keras has the stride in the last block of a stage; the paper in the first. So its
    stages are put together here from the recipe's."""
    style = Style(bottleneck=True, preactivation=True)
    images = keras.Input((size, size, 3))
    x = recipe.stem(images, 64, 7, 2, style)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    for stage, count in enumerate((3, 4, 6, 3)):
        strides = [1] * (count - 1) + [2 if stage < 3 else 1]
        x = recipe.stack_blocks(x, strides, 64 * 2**stage, style, f"conv{stage + 2}")
    return keras.Model(images, recipe.head(x, 1000, style))


def test_preactivation_is_keras_resnet_v2(random):
    """A bias of the branch or of a projection stays in the sum that x has become, up to
    the next projection: each normalization on the way has another mean by it."""
    size = 64
    theirs = keras.applications.ResNet50V2(
        weights=None, classifier_activation=None, input_shape=(size, size, 3)
    )
    draw_weights(theirs, random)
    ours = build_like_keras_v2(size)

    bias = np.zeros(64)
    for layer in ours.layers:
        if not layer.weights:
            continue
        weights = theirs.get_layer(layer.name).get_weights()
        if layer.name.endswith(("preact_bn", "post_bn")):
            gamma, beta, mean, variance = weights
            weights = [gamma, beta, mean - bias, variance]
        elif layer.name.endswith("_0_conv"):
            projected = weights[1]
        elif layer.name.endswith("_3_conv"):
            if layer.name.endswith("block1_3_conv"):
                bias = projected
            bias = bias + weights[1]
        layer.set_weights(weights[:1] if isinstance(layer, layers.Conv2D) else weights)

    images = random.normal(size=(2, size, size, 3)).astype("float32")
    inside = [layer.name for layer in ours.layers if layer.name.endswith("preact_relu")]
    assert len(inside) == 16
    assert_alike(ours, theirs, images, [*inside, "post_relu"])


# --------------------------------------------------------------------------------------
# Blocks by hand
# --------------------------------------------------------------------------------------


def normalized(layer, x):
    gamma, beta, mean, variance = (weight.numpy() for weight in layer.variables)
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


def convolved(layer, x, stride):
    """With a ring of zeros, and each stride-th place: PyTorch's padding=1."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    maps = ops.conv(padded, layer.kernel.numpy(), padding="valid")
    return np.asarray(maps)[:, ::stride, ::stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("residual", [True, False])
def test_a_basic_block_by_hand(stride, residual, random):
    style = Style(residual=residual, projection=False)
    images = keras.Input((6, 6, 4))
    filters = 4 * stride
    outputs = recipe.block(images, filters, stride, style, "conv2_block1")
    model = keras.Model(images, outputs)
    draw_weights(model, random)
    layer = model.get_layer
    x = random.normal(size=(2, 6, 6, 4)).astype("float32")

    branch = convolved(layer("conv2_block1_1_conv"), x, stride)
    branch = np.maximum(normalized(layer("conv2_block1_1_bn"), branch), 0)
    branch = convolved(layer("conv2_block1_2_conv"), branch, 1)
    branch = normalized(layer("conv2_block1_2_bn"), branch)
    new = (filters - 4) // 2
    skip = np.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (new, new)])
    expected = np.maximum(branch + skip if residual else branch, 0)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "residual", "preactivation", "projection"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_weight_gets_a_gradient(kind, normalize, random):
    model = recipe.build_small(
        14,
        (8, 8, 3),
        classes=5,
        filters=4,
        residual=kind != "plain",
        preactivation=kind == "preactivation",
        projection=kind == "projection",
        normalized=normalize,
    )
    images = random.normal(size=(16, 8, 8, 3)).astype("float32")
    labels = np.arange(16) % 5
    norms = recipe.gradient_norms(model, images, labels)
    assert norms.shape == (13,)
    assert np.all(norms > 0)

    reloaded = keras.Model.from_config(model.get_config())
    reloaded.set_weights(model.get_weights())
    np.testing.assert_array_equal(model(images), reloaded(images))


def test_gradient_norms_are_the_slope_along_the_gradient(random):
    """By finite differences: a small step along the gradient of one layer changes the
    loss by the norm times its length."""
    model = recipe.build_small(8, (6, 6, 3), classes=3, filters=2, normalized=False)
    images = random.normal(size=(8, 6, 6, 3)).astype("float32")
    labels = np.arange(8) % 3
    found = recipe.gradient_norms(model, images, labels)[0]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kernel = model.get_layer("conv1_conv").kernel

    first = kernel.numpy()
    gradient = np.zeros_like(first)
    step = 1e-2
    for place in np.ndindex(first.shape):
        ends = []
        for sign in (1, -1):
            moved = first.copy()
            moved[place] += sign * step
            kernel.assign(moved)
            ends.append(float(loss(labels, model(images))))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    assert np.linalg.norm(gradient) == pytest.approx(found, rel=0.03)


# --------------------------------------------------------------------------------------
# Identities
# --------------------------------------------------------------------------------------


@pytest.fixture
def shallow(random):
    model = recipe.build_small(8, (12, 12, 3), classes=4, filters=4)
    draw_weights(model, random)
    return model


def test_a_deeper_network_holds_the_shallower_one(shallow, random):
    deep = recipe.build_small(26, (12, 12, 3), classes=4, filters=4)
    draw_weights(deep, random)
    added = recipe.copy_blocks(shallow, deep)
    assert len(added) == 9
    images = random.normal(size=(5, 12, 12, 3)).astype("float32")
    assert np.abs(np.asarray(deep(images)) - np.asarray(shallow(images))).max() > 1e-2
    recipe.silence(deep, added)
    np.testing.assert_array_equal(deep(images), shallow(images))


def test_so_do_bottlenecks(random):
    def build(counts):
        style = Style(bottleneck=True)
        images = keras.Input((8, 8, 3))
        x = recipe.stem(images, 4, 3, 1, style)
        x = recipe.stack_blocks(x, [1] * counts, 4, style, "conv2")
        return keras.Model(images, recipe.head(x, 3, style))

    shallow, deep = build(1), build(3)
    draw_weights(shallow, random)
    draw_weights(deep, random)
    recipe.silence(deep, recipe.copy_blocks(shallow, deep))
    images = random.normal(size=(5, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(deep(images), shallow(images))


def test_a_plain_network_can_pass_through(random):
    shallow = recipe.build_small(8, (12, 12, 3), 4, filters=4, residual=False)
    deep = recipe.build_small(20, (12, 12, 3), 4, filters=4, residual=False)
    draw_weights(shallow, random)
    draw_weights(deep, random)
    recipe.pass_through(deep, recipe.copy_blocks(shallow, deep))
    images = random.normal(size=(5, 12, 12, 3)).astype("float32")
    np.testing.assert_allclose(deep(images), shallow(images), rtol=1e-4, atol=1e-5)


def test_branch_sizes_by_hand(shallow, random):
    images = random.normal(size=(5, 12, 12, 3)).astype("float32")
    sizes = recipe.branch_sizes(shallow, images)
    assert list(sizes) == ["conv2_block1", "conv3_block1", "conv4_block1"]
    layer = shallow.get_layer
    given = keras.Model(shallow.input, layer("conv1_relu").output)(images)
    added = keras.Model(shallow.input, layer("conv2_block1_2_bn").output)(images)
    expected = np.linalg.norm(added) / np.linalg.norm(given)
    assert sizes["conv2_block1"] == pytest.approx(expected, rel=1e-5)
    recipe.silence(shallow, ["conv2_block1"])
    assert recipe.branch_sizes(shallow, images)["conv2_block1"] == 0


def test_blocks_are_removed_and_put_back(shallow, random):
    """A block that adds nothing is the smallest, and nobody misses it."""
    images = random.normal(size=(40, 12, 12, 3)).astype("float32")
    recipe.silence(shallow, ["conv3_block1"])
    # No class is likelier than the others.
    mean = np.mean(shallow(images), axis=0)
    head = shallow.get_layer("predictions")
    head.bias.assign(head.bias - mean)
    part = images, np.argmax(shallow(images), axis=-1)
    assert len(set(part[1])) > 1
    task = architectures.Task(part, part, part, classes=4)
    before = shallow.get_weights()
    found = recipe.remove_blocks(shallow, task)
    assert min(found.sizes, key=found.sizes.get) == "conv3_block1"
    assert found.kept == found.accuracies == [1, 1]
    for one, other in zip(before, shallow.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_blocks_decay(random):
    model = recipe.build_small(8, (8, 8, 3), classes=3, filters=4)
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=10.0)
    recipe.decay_blocks(optimizer, model)
    before = {weight.path: weight.numpy() for weight in model.trainable_weights}
    gradients = [ops.zeros_like(weight) for weight in model.trainable_weights]
    optimizer.apply(gradients, model.trainable_weights)
    for weight in model.trainable_weights:
        share = 0.9 if "_block" in weight.path else 1
        expected = share * before[weight.path]
        np.testing.assert_allclose(weight, expected, rtol=1e-5, err_msg=weight.path)
