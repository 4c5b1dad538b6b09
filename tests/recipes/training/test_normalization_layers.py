"""Each layer against its definition in NumPy and against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import normalization_layers as recipe

SHAPE = (5, 4, 3, 8)


def draw(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(2, 3, size=SHAPE).astype("float32")


def with_gamma_and_beta(layer):
    """None of them as they begin."""
    random = np.random.default_rng(1)
    layer.build(SHAPE)
    gamma = random.uniform(0.5, 2, size=SHAPE[-1])
    beta = random.normal(size=SHAPE[-1])
    layer.set_weights([gamma, beta, *layer.get_weights()[2:]])
    return layer


def by_loops(x, kind):
    """From the definition: what shares a mean and a variance, one set at a time."""
    images, _, _, channels = x.shape
    y = np.zeros_like(x)
    size = {"layer": channels, "group": channels // recipe.GROUPS}.get(kind, 1)
    for channel in range(0, channels, size):
        together = slice(channel, channel + size)
        sets = [slice(None)] if kind == "batch" else range(images)
        for image in sets:
            part = x[image, ..., together]
            y[image, ..., together] = (part - part.mean()) / np.sqrt(part.var() + 1e-3)
    return y


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_each_is_its_definition(kind):
    layer = recipe.build_normalization(kind, SHAPE[-1], momentum=0.9)
    layer = with_gamma_and_beta(layer)
    x = draw()
    expected = layer.gamma * by_loops(x, kind) + layer.beta
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "of_keras"),
    [
        ("batch", keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3)),
        ("layer", keras.layers.GroupNormalization(1)),
        ("group", keras.layers.GroupNormalization(recipe.GROUPS)),
        ("instance", keras.layers.GroupNormalization(-1)),
    ],
)
def test_outputs_gradients_and_state_are_those_of_keras(kind, of_keras):
    ours = recipe.build_normalization(kind, SHAPE[-1], momentum=0.9)
    ours = with_gamma_and_beta(ours)
    theirs = with_gamma_and_beta(of_keras)
    x = tf.constant(draw())
    weights = tf.constant(draw(2))
    found = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(weights * y)
        gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
        found.append([y, *gradients, layer(x), *layer.get_weights()])
    for own, expected in zip(*found, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_one_group_is_layer_normalization():
    ours = recipe.GroupNormalization(1)
    theirs = keras.layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-3)
    np.testing.assert_allclose(ours(draw()), theirs(draw()), atol=1e-5)


def test_only_batch_norm_answers_otherwise_in_other_company():
    x = draw()
    other = np.concatenate([x[:1], 5 * draw(3)[1:]])
    for kind in recipe.KINDS:
        layer = recipe.build_normalization(kind, SHAPE[-1], momentum=0.9)
        away = layer(x, training=True)[0] - layer(other, training=True)[0]
        largest = np.abs(away).max()
        assert largest > 0.1 if kind == "batch" else largest < 1e-6


def test_reach_shows_what_is_normalized_together():
    for kind in recipe.KINDS:
        layer = recipe.build_normalization(kind, channels=8, momentum=0.9)
        expected = np.zeros((3, 8))
        if kind == "batch":
            expected[:, 0] = 1
        else:
            expected[0, : {"layer": 8, "group": 2, "instance": 1}[kind]] = 1
        found = recipe.reach(layer, images=3, channels=8) > 0.9
        np.testing.assert_array_equal(found, expected)


def test_the_convolution_is_that_of_keras():
    x = keras.Input((8, 8, 3))
    ours = keras.Model(x, recipe.convolve(x, 4, strides=2))
    theirs = keras.layers.Conv2D(4, 3, 2, padding="same", use_bias=False)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    theirs.build(images.shape)
    theirs.set_weights([ours.get_weights()[0].reshape(3, 3, 3, 4)])
    np.testing.assert_allclose(ours(images), theirs(images), atol=1e-5)


def test_the_smaller_a_batch_the_farther_its_mean():
    network = recipe.build_network("batch")
    x = np.random.default_rng(0).normal(size=(200, 8, 8, 3)).astype("float32")
    errors = recipe.errors_of_means(network, x, seed=0)
    # Independent places: 16 of each image count, so 1 / √(16 · size), nearly.
    for size in (2, 8):
        assert errors[size] == pytest.approx(1 / np.sqrt(16 * size), rel=0.3)


def test_companions_give_statistics_and_no_loss():
    keras.utils.set_random_seed(0)
    model = recipe.build_network("batch")
    rows = tf.constant([stacks.row_of(model)])
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(6, 8, 8, 3)), "float32")
    labels = tf.constant(random.integers(9, size=2))
    found = recipe.gradients_of_first(model, rows, images, labels)
    with tf.GradientTape() as tape:
        logits = model(images, training=True)[:2]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    expected = tape.gradient(loss, model.trainable_variables)
    of_weights = stacks.weights_of(model, found)
    places = {id(each): place for place, each in enumerate(model.weights)}
    for variable, gradient in zip(model.trainable_variables, expected, strict=True):
        ours = of_weights[places[id(variable)]][0]
        np.testing.assert_allclose(ours, gradient, atol=1e-5)
