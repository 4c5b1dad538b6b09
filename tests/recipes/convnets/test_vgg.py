"""VGG against Keras's own networks, the paper's table 1 and 2, and counts by hand."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from recipes import vgg as recipe

# Trainable weights at 224 × 224 and 1000 classes: table 2 gives them in millions, as
# 133, 133, 134, 138 and 144.
PARAMETERS = {
    "VGG-11": 132_863_336,
    "VGG-13": 133_047_848,
    "VGG-16-1x1": 133_638_952,
    "VGG-16": 138_357_544,
    "VGG-19": 143_667_240,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def outlines():
    """Graphs without weights: all of them would be 2.7 GB."""
    return {
        name: recipe.outline(stages=stages) for name, stages in recipe.STAGES.items()
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_the_papers_parameters(name, outlines):
    model = outlines[name]
    assert model.count_params() == PARAMETERS[name]
    trainable = sum(math.prod(each.shape) for each in model.trainable_variables)
    assert trainable == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_its_name_counts_layers_with_weights(name, outlines):
    weighted = [layer for layer in outlines[name].layers if layer.weights]
    assert len(weighted) == int(name.split("-")[1])
    assert len(recipe.costs_by_layer(outlines[name])) == len(weighted)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_stage_halves_the_resolution(name, outlines):
    shapes = [
        layer.output.shape[1:]
        for layer in outlines[name].layers
        if isinstance(layer, layers.MaxPooling2D)
    ]
    assert shapes == [
        (112, 112, 64),
        (56, 56, 128),
        (28, 28, 256),
        (14, 14, 512),
        (7, 7, 512),
    ]
    assert outlines[name].output.shape == (None, 1000)


def test_multiply_adds_are_those_counted_by_hand(outlines):
    stages = [
        (224, [(3, 64), (64, 64)]),
        (112, [(64, 128), (128, 128)]),
        (56, [(128, 256), (256, 256), (256, 256)]),
        (28, [(256, 512), (512, 512), (512, 512)]),
        (14, [(512, 512), (512, 512), (512, 512)]),
    ]
    by_hand = 0
    for side, channels in stages:
        by_hand += sum(side**2 * 9 * before * after for before, after in channels)
    by_hand += 25_088 * 4096 + 4096 * 4096 + 4096 * 1000
    costs = recipe.costs_by_layer(outlines["VGG-16"])
    assert sum(cost.multiply_adds for cost in costs.values()) == by_hand
    assert by_hand == pytest.approx(15.5e9, rel=0.01)
    assert costs["dense 1"].weights == 25_088 * 4096 + 4096
    assert costs["conv 3-2"].activations == 56 * 56 * 256
    assert list(costs)[:3] == ["conv 1-1", "conv 1-2", "conv 2-1"]


@pytest.mark.parametrize("name", ["VGG-16", "VGG-19"])
def test_it_is_keras_network(name, random):
    """Layer by layer, at 64 × 64: the convolutions are those of 224 × 224, the first
    dense layer is smaller than there by far."""
    keras.utils.clear_session()
    build = {"VGG-16": keras.applications.VGG16, "VGG-19": keras.applications.VGG19}
    theirs = build[name](
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    ours = recipe.build_model(
        recipe.STAGES[name], image_shape=(64, 64, 3), initializer="zeros"
    )
    pairs = zip(
        [layer for layer in ours.layers if layer.weights],
        [layer for layer in theirs.layers if layer.weights],
        strict=True,
    )
    for our_layer, their_layer in pairs:
        assert our_layer.output.shape == their_layer.output.shape
        assert type(our_layer) is type(their_layer)
        # Theirs begin small and without biases: these reach the logits.
        kernel = np.asarray(their_layer.kernel) * math.sqrt(2)
        bias = random.normal(size=kernel.shape[-1], scale=0.1)
        our_layer.set_weights([kernel, bias])
        their_layer.set_weights([kernel, bias])
    images = random.normal(size=(2, 64, 64, 3)).astype("float32")
    expected = np.asarray(theirs(images))
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours(images), expected, atol=1e-4)


def test_the_last_layers_are_those_of_keras_at_full_size(outlines):
    with keras.StatelessScope(initialize_variables=False):
        theirs = keras.applications.VGG16(weights=None)
    weighted = [layer for layer in theirs.layers if layer.weights]
    ours = [layer for layer in outlines["VGG-16"].layers if layer.weights]
    shapes = [layer.kernel.shape for layer in ours]
    assert shapes == [layer.kernel.shape for layer in weighted]


def test_dropout_stands_behind_both_wide_dense_layers():
    model = recipe.build_model(
        ((3,),), (8, 8, 3), classes=5, filters=(2,), units=4, dropout=0.3
    )
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    dense = ["Dense", "Dropout"]
    assert kinds == ["Conv2D", "MaxPooling2D", "Flatten", *dense, *dense, "Dense"]
    rates = [each.rate for each in model.layers if isinstance(each, layers.Dropout)]
    assert rates == [0.3, 0.3]


@pytest.mark.parametrize(("kernel_sizes", "pixels"), [((3, 3), 5), ((3, 3, 3), 7)])
def test_a_stack_depends_on_as_many_pixels_as_one_that_large(
    kernel_sizes, pixels, random
):
    """By brute force: one pixel after the other is changed."""
    keras.utils.set_random_seed(0)
    stack = recipe.build_stack(kernel_sizes, (11, 11, 4))
    large = recipe.build_stack((pixels,), (11, 11, 4))
    images = random.normal(size=(20, 11, 11, 4))
    inside = np.abs(np.arange(11) - 5) <= pixels // 2
    for model in (stack, large):
        before = np.asarray(model(images))[:, 5, 5]
        for column in range(11):
            changed = images.copy()
            changed[:, :, column] += random.normal(size=(20, 11, 4))
            after = np.asarray(model(changed))[:, 5, 5]
            assert np.any(after != before) == inside[column]
    seen = recipe.pixels_seen(stack, random.normal(size=(32, 11, 11, 4)))
    assert (seen.any(axis=0) == inside).all()
    assert (seen.any(axis=1) == inside).all()


def test_the_field_of_a_stack_is_its_width():
    seen = np.zeros((9, 9))
    assert recipe.Stack(1, 1, seen).width == 0
    seen[2:5, 3:7] = 1
    assert recipe.Stack(1, 1, seen).width == 4


def test_a_relu_halves_the_square_and_he_doubles_it(random):
    """√(F²·C/2)·σ for each layer but at the border."""
    images = random.normal(size=(2, 40, 40, 16)).astype("float32")
    for initializer, factor in (
        ("he_normal", 1.0),
        (recipe.INITIALIZERS["N(0, 0.01²)"], 0.01 * math.sqrt(9 * 16 / 2)),
    ):
        model = recipe.build_model(
            ((3, 3),), (40, 40, 16), 4, (16,), 8, initializer=initializer
        )
        signal = recipe.signal_by_layer(model, images)
        assert len(signal) == 2 + 3
        assert signal[0] == pytest.approx(factor, rel=0.25)
        assert signal[1] / signal[0] == pytest.approx(factor, rel=0.35)


def test_stacks_that_see_no_more_are_compared():
    assert list(recipe.stacks_of(1)) == ["one 3×3"]
    assert list(recipe.stacks_of(2)) == ["one 3×3", "two 3×3", "one 5×5"]
    assert recipe.stacks_of(3) == recipe.STACKS
