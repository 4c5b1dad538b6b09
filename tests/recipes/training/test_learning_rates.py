"""Schedules against Keras's, training against Keras's optimizers, the range test
against curves whose lowest point is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import learning_rates as recipe

TOTAL = 280
RATE = 0.3
schedules = keras.optimizers.schedules
KERAS = {
    "exponential": schedules.ExponentialDecay(RATE, TOTAL, decay_rate=0.01),
    "1/t": schedules.InverseTimeDecay(RATE, TOTAL, decay_rate=99),
    "halving": schedules.ExponentialDecay(
        RATE, TOTAL / 8, decay_rate=0.5, staircase=True
    ),
    "cosine": schedules.CosineDecay(RATE, TOTAL),
    "warm restarts": schedules.CosineDecayRestarts(RATE, TOTAL / 7, t_mul=2.0),
    "warm-up, cosine": schedules.CosineDecay(
        0.0, decay_steps=0.9 * TOTAL, warmup_target=RATE, warmup_steps=0.1 * TOTAL
    ),
}


@pytest.mark.parametrize("name", KERAS)
def test_each_schedule_is_that_of_keras(name):
    steps = np.arange(TOTAL)
    expected = [float(KERAS[name](step)) for step in steps]
    found = RATE * recipe.SCHEDULES[name](steps, TOTAL)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_schedules_begin_and_end_where_they_say():
    steps = np.arange(TOTAL)
    for name, schedule in recipe.SCHEDULES.items():
        factors = schedule(steps, TOTAL)
        assert factors.max() == pytest.approx(1, abs=0.01)
        assert factors[-1] == 1 if name == "constant" else factors[-1] < 0.011
    rates = recipe.rising(np.arange(5), 1e-4, 1.0)
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss():
    rates = np.logspace(-4, 1, 501)
    losses = np.abs(np.log10(rates) + 0.5)  # lowest at 10 to the power −0.5
    noise = np.random.default_rng(0).normal(scale=0.05, size=501)
    picked = recipe.pick_rate(rates, losses + noise)
    assert np.log10(picked) == pytest.approx(-1.5, abs=0.15)


@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
def test_steps_are_those_of_keras_at_each_networks_own_rates(optimizer):
    random = np.random.default_rng(0)
    x = random.uniform(size=(60, 64)).astype("float32")
    y = random.integers(10, size=60)
    keras.utils.set_random_seed(0)
    model = recipe.build_model()
    start = stacks.row_of(model)
    rows = tf.Variable(np.stack([start, start]))
    memory = [tf.Variable(tf.zeros_like(rows)) for _ in range(2)]
    batches = np.array([random.choice(60, 16, replace=False) for _ in range(6)])
    rates = np.stack([np.linspace(0.02, 0.004, 6), np.full(6, 0.01)], axis=1)
    recipe.train_some(
        model,
        rows,
        memory,
        tf.constant(0),
        tf.constant(rates, "float32"),
        tf.constant(batches),
        tf.constant(x),
        tf.constant(y),
        optimizer == "Adam",
        tf.constant(0.0),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index in range(2):
        if optimizer == "Adam":
            alone = keras.optimizers.Adam(0.1)
        else:
            alone = keras.optimizers.SGD(0.1, momentum=0.9)
        stacks.set_weights(model, start)
        model.compile(alone, loss)
        for batch, rate in zip(batches, rates[:, index], strict=True):
            alone.learning_rate = rate
            model.train_on_batch(x[batch], y[batch])
        if optimizer == "momentum" and index == 0:
            continue  # Keras keeps the rate in the velocity: other steps where it falls
        found = float(stacks.losses(model, rows, tf.constant(x), tf.constant(y))[index])
        assert found == pytest.approx(float(loss(y, model(x))), rel=2e-3)


def test_a_restart_is_where_the_second_cycle_ends():
    losses = np.ones((7 * 24, 2))
    assert recipe.rise_at_restart(losses) == 1
    losses[3 * 24 :] = 2  # cycles of 1, 2 and 4 sevenths
    assert recipe.rise_at_restart(losses) == 2


def test_the_nearest_rate_is_so_in_proportion():
    assert recipe.nearest(np.array([0.01, 0.1, 1.0]), 0.2) == 1
    assert recipe.nearest(np.array([0.01, 0.1, 1.0]), 0.4) == 2
