"""Hypergradients against finite differences and a training that is worked out by
hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from recipes import meta_optimization as recipe

RANDOM = np.random.default_rng(0)


def some_batches(steps):
    """x (steps, 16, 64) and y (steps, 16)."""
    return RANDOM.uniform(size=(steps, 16, 64)), RANDOM.integers(10, size=(steps, 16))


def constants(model):
    return [tf.constant(each) for each in recipe.draw_start(RANDOM, model)]


@pytest.mark.parametrize("steps", [1, 6])
def test_the_hypergradient_equals_finite_differences(steps):
    model = recipe.build_model("float64")
    weights, batches = constants(model), some_batches(steps)
    held_out = tuple(each[0] for each in some_batches(1))
    at = np.log([0.2, 0.9])
    loss, gradient = recipe.hypergradient(
        model, tf.constant(at), weights, batches, held_out
    )
    for index, step in enumerate(np.eye(2) * 1e-5):
        up, down = (
            float(
                recipe.hypergradient(
                    model, tf.constant(at + each), weights, batches, held_out
                )[0]
            )
            for each in (step, -step)
        )
        assert float(gradient[index]) == pytest.approx((up - down) / 2e-5, rel=1e-6)
        assert down < loss < up or up < loss < down


def test_each_layer_has_its_own_rate():
    model = recipe.build_model("float64")
    weights = constants(model)
    trained = recipe.descend(
        model, weights, tf.constant([0.0, 0.5], tf.float64), some_batches(3)
    )
    moved = [bool(np.any(a != b)) for a, b in zip(weights, trained, strict=True)]
    assert moved == [False, False, True, True]


def test_descent_equals_keras_sgd():
    model = recipe.build_model("float64")
    weights, (x, y) = constants(model), some_batches(4)
    trained = recipe.descend(
        model, weights, tf.constant([0.3, 0.3], tf.float64), (x, y)
    )
    model.set_weights(weights)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(keras.optimizers.SGD(0.3), loss)
    for batch in zip(x, y, strict=True):
        model.train_on_batch(*batch)
    for ours, theirs in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_one_step_by_hand():
    """With one layer, logits x w and weights 0: after a step w = α(e(y) − p)xᵀ, p = ½
    each."""
    x = keras.Input((1,), dtype="float64")
    model = keras.Model(x, layers.Dense(2, use_bias=False, dtype="float64")(x))
    batch = np.array([[[3.0]]]), np.array([[0]])
    (w,) = recipe.descend(
        model, [tf.zeros((1, 2), tf.float64)], tf.constant([0.1], tf.float64), batch
    )
    np.testing.assert_allclose(w, [[0.15, -0.15]])


def test_weights_start_as_glorots_uniform():
    model = recipe.build_model()
    kernel, bias, _, _ = recipe.draw_start(np.random.default_rng(0), model)
    reach = np.sqrt(6 / (64 + 32))
    assert 0.99 * reach < np.abs(kernel).max() <= reach
    assert kernel.std() == pytest.approx(reach / np.sqrt(3), rel=0.05)
    assert not bias.any()


def test_batches_are_rows_of_the_data():
    x, y = np.arange(50), np.arange(50) % 10
    drawn_x, drawn_y = recipe.draw_batches(np.random.default_rng(0), x, y, 7, 5)
    assert drawn_x.shape == (7, 5)
    np.testing.assert_array_equal(drawn_x % 10, drawn_y)
