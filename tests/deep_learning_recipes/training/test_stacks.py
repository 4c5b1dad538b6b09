"""Stacked networks against each of them alone."""

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes.training import stacks


def build():
    x = keras.Input((4, 4, 1))
    hidden = layers.Conv2D(3, 2, activation="tanh")(x)
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(hidden)))


def test_a_stack_says_what_its_networks_say():
    built = []

    def remember():
        built.append(build())
        return built[-1]

    model, rows = stacks.stack(remember, 3)
    assert rows.shape == (3, model.count_params())
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype("float32")
    alone = np.array([each(x) for each in built])
    np.testing.assert_allclose(stacks.call(model, rows, x), alone, atol=1e-5)
    each_its_own = np.stack([x, 2 * x, 3 * x])
    alone = np.array([b(e) for b, e in zip(built, each_its_own, strict=True)])
    found = stacks.call_each(model, rows, each_its_own)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    stacks.set_weights(model, rows[2])
    for found, expected in zip(
        model.get_weights(), built[2].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_is_not_trained_is_refused():
    def normalized():
        return keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])

    with pytest.raises(ValueError, match="moving_mean"):
        stacks.stack(normalized, 2)
