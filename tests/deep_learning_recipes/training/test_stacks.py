"""Stacked networks against each of them alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deep_learning_recipes.training import stacks


def build():
    x = keras.Input((4, 4, 1))
    hidden = layers.Conv2D(3, 2, activation="tanh")(x)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(hidden)))


def test_a_stack_says_what_its_networks_say():
    built = [build() for _ in range(3)]
    alone_now = built[2].get_weights()
    model = built[0]
    rows = np.stack([stacks.row_of(each) for each in built])
    assert rows.shape == (3, model.count_params())
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    alone = np.array([each(x) for each in built])
    np.testing.assert_allclose(stacks.call(model, rows, x), alone, atol=1e-5)
    each_its_own = np.stack([x, 2 * x, 3 * x])
    alone = np.array([b(e) for b, e in zip(built, each_its_own, strict=True)])
    found = stacks.call_each(model, rows, each_its_own)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    stacks.set_weights(model, rows[2])
    for found, expected in zip(model.get_weights(), alone_now, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_losses_and_gradients_are_those_of_each_network_alone():
    built = [build() for _ in range(3)]
    random = np.random.default_rng(0)
    x = random.normal(size=(5, 4, 4, 1)).astype("float32")
    y = np.array([0, 1, 1, 0, 1])
    rows = tf.constant([stacks.row_of(each) for each in built])
    found = stacks.losses(built[0], rows, x, y)
    slopes = stacks.gradients(built[0], rows, x, y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index, model in enumerate(built):
        with tf.GradientTape() as tape:
            expected = loss(y, model(x))
        assert float(found[index]) == pytest.approx(float(expected), rel=1e-5)
        parts = tape.gradient(expected, [each.value for each in model.weights])
        flat = np.concatenate([np.ravel(part) for part in parts])
        np.testing.assert_allclose(slopes[index], flat, atol=1e-6)


def test_each_network_may_have_examples_of_its_own():
    built = [build() for _ in range(3)]
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 5, 4, 4, 1)).astype("float32")
    y = random.integers(0, 2, (3, 5))
    rows = tf.constant([stacks.row_of(each) for each in built])
    losses = stacks.losses_each(built[0], rows, x, y)
    slopes = stacks.gradients_each(built[0], rows, x, y)
    for index in range(3):
        alone = rows[index : index + 1]
        expected = stacks.losses(built[0], alone, x[index], y[index])
        assert float(losses[index]) == pytest.approx(float(expected[0]), rel=1e-5)
        slope = stacks.gradients(built[0], alone, x[index], y[index])
        np.testing.assert_allclose(slopes[index], slope[0], atol=1e-6)


def build_normalized():
    x = keras.Input((3,))
    hidden = layers.BatchNormalization(momentum=0.8)(layers.Dense(4)(x))
    return keras.Model(x, layers.Dense(2)(hidden))


def test_moving_averages_are_those_of_each_network_alone():
    built = [build_normalized() for _ in range(2)]
    model = built[0]
    rows = tf.constant([stacks.row_of(each) for each in built])
    random = np.random.default_rng(0)
    x = random.normal(loc=2, size=(6, 3)).astype("float32")
    y = np.array([0, 1, 1, 0, 1, 0])
    in_training = stacks.call(model, rows, x, training=True)
    slopes = stacks.gradients(model, rows, x, y, training=True)
    seen = stacks.updated(model, rows, x)
    afterwards = stacks.call(model, seen, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index, alone in enumerate(built):
        with tf.GradientTape() as tape:
            logits = alone(x, training=True)  # and this moves its averages
            value = loss(y, logits)
        np.testing.assert_allclose(in_training[index], logits, atol=1e-5)
        np.testing.assert_allclose(seen[index], stacks.row_of(alone), atol=1e-6)
        np.testing.assert_allclose(afterwards[index], alone(x), atol=1e-5)
        by_name = dict(
            zip(
                [each.path for each in alone.trainable_variables],
                tape.gradient(value, alone.trainable_variables),
                strict=True,
            )
        )
        expected = [
            np.ravel(by_name.get(each.path, np.zeros(each.shape)))
            for each in alone.weights
        ]
        np.testing.assert_allclose(slopes[index], np.concatenate(expected), atol=1e-6)


def test_what_is_frozen_has_no_gradient():
    model = build()
    model.layers[1].trainable = False
    rows = tf.constant([stacks.row_of(model)])
    x = np.ones((2, 4, 4, 1), "float32")
    slopes = stacks.gradients(model, rows, x, np.array([0, 1]), training=True)[0]
    frozen = model.layers[1].count_params()
    assert not np.any(slopes[:frozen])
    assert np.any(slopes[frozen:])


def test_seeds_are_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)])
    with pytest.raises(ValueError, match="seed"):
        stacks.row_of(model)


def test_what_diverged_counts_as_the_worst():
    losses = np.array([0.5, np.nan, np.inf, 1e6], "float32")
    np.testing.assert_array_equal(stacks.bounded(losses, 9.0), [0.5, 9, 9, 9])
