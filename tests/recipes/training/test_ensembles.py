"""Averages by hand, the schedule and the running mean against Keras's, steps of many
networks against Keras's optimizer."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import ensembles as recipe


def log_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def test_an_ensemble_says_the_mean_of_its_members_probabilities():
    odds = np.array([[[3.0, 1.0]], [[1.0, 4.0]]])  # two members, one example
    found = recipe.average_probabilities(tf.constant(np.log(odds)))
    np.testing.assert_allclose(found, [[(3 / 4 + 1 / 5) / 2, (1 / 4 + 4 / 5) / 2]])


def test_its_log_loss_is_at_most_the_mean_of_theirs():
    """Jensen's inequality; equal only where all members say the same."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=3, size=(5, 40, 10))
    labels = random.integers(10, size=40)
    members = [log_loss(tf.nn.softmax(each).numpy(), labels) for each in logits]
    together = recipe.average_probabilities(tf.constant(logits)).numpy()
    assert log_loss(together, labels) < np.mean(members) - 0.1
    same = recipe.average_probabilities(tf.constant(logits[[0, 0, 0]])).numpy()
    assert log_loss(same, labels) == pytest.approx(members[0])


def test_the_network_of_an_ensemble_says_so_too():
    keras.utils.set_random_seed(0)
    members = [recipe.build_model(f"member_{index}") for index in range(3)]
    x = np.random.default_rng(0).uniform(size=(4, 144)).astype("float32")
    expected = np.mean([tf.nn.softmax(member(x)) for member in members], axis=0)
    found = tf.nn.softmax(recipe.build_ensemble(members)(x))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_cycles_are_those_of_keras():
    steps = np.arange(0, 120, 3)
    for cycles in (1, 4):
        schedule = keras.optimizers.schedules.CosineDecayRestarts(
            0.5, 120 / cycles, t_mul=1.0
        )
        expected = [float(schedule(step)) for step in steps]
        found = 0.5 * recipe.cyclic_cosine(steps, 120, cycles)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_running_mean_in_closed_form():
    """After the steps 0 to n it is βⁿ·w₀ + (1 − β)·Σ βⁿ⁻ⁱ·wᵢ over the steps i from 1."""
    weights = np.random.default_rng(0).normal(size=(7, 3))
    average = np.zeros(3)
    for step, each in enumerate(weights):
        average = recipe.update_average(average, each, step, 0.8)
    shares = 0.2 * 0.8 ** (6.0 - np.arange(7))
    shares[0] = 0.8**6
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(average, shares @ weights, atol=1e-6)


def test_steps_and_running_means_are_those_of_keras():
    random = np.random.default_rng(0)
    x = random.uniform(size=(60, 144)).astype("float32")
    y = random.integers(10, size=60)
    keras.utils.set_random_seed(0)
    model = recipe.build_model()
    starts = [stacks.row_of(recipe.build_model()) for _ in range(2)]
    rows = tf.Variable(np.stack(starts))
    velocity = tf.Variable(tf.zeros_like(rows))
    averages = tf.Variable(tf.zeros_like(rows))
    batches = random.integers(60, size=(5, 2, 16))
    rates = np.tile([0.02, 0.1], (5, 1)).astype("float32")
    recipe.train_epoch(
        model,
        rows,
        velocity,
        averages,
        tf.constant(0),
        tf.constant(rates),
        tf.constant(batches),
        tf.constant(x),
        tf.constant(y),
        tf.constant(0.9),
    )
    for index, rate in enumerate((0.02, 0.1)):
        stacks.set_weights(model, starts[index])
        optimizer = keras.optimizers.SGD(
            rate, momentum=0.9, use_ema=True, ema_momentum=0.9
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        for batch in batches[:, index]:
            model.train_on_batch(x[batch], y[batch])
        np.testing.assert_allclose(stacks.row_of(model), rows[index], atol=1e-5)
        optimizer.finalize_variable_values(model.trainable_variables)
        np.testing.assert_allclose(stacks.row_of(model), averages[index], atol=1e-5)


def test_the_rate_is_chosen_on_digits_that_are_not_reported():
    labels = np.array([0, 0, 1, 1])  # the first two are to choose by
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    unsure = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    parts = SimpleNamespace(labels=labels, validation=2)
    way = recipe.judge(np.array([[unsure], [sure]]), parts, steps=10, networks=1)
    assert way.rate == 1
    assert way.validation[0] == pytest.approx(-np.log(0.9))
    assert way.loss[0] == pytest.approx(-np.log([0.2, 0.7]).mean())
    assert way.accuracy[0] == 0.5


def test_a_temperature_is_chosen_on_digits_that_are_not_reported():
    labels = np.array([0, 0, 0, 1, 1])  # the first three are to choose by
    # Two of three right: 0.96 is too sure, and a temperature lowers it toward 2/3.
    sure = np.array([[0.96, 0.04], [0.96, 0.04], [0.04, 0.96], [0.9, 0.1], [0.1, 0.9]])
    parts = SimpleNamespace(labels=labels, validation=3)
    way = recipe.judge(np.array([[sure]]), parts, steps=10, networks=1)
    np.testing.assert_allclose(way.loss, -np.log([0.1, 0.9]).mean())
    odds = 9 ** (1 / recipe.TEMPERATURES[-1])  # the highest one
    expected = -np.log([1 / (1 + odds), odds / (1 + odds)]).mean()
    np.testing.assert_allclose(way.calibrated, expected)


def test_a_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(size=(5, 10))
    found = recipe.at_temperature(tf.nn.softmax(logits).numpy(), 2.5)
    np.testing.assert_allclose(found, tf.nn.softmax(logits / 2.5), atol=1e-12)


def test_disagreement_is_counted_over_pairs():
    answers = np.array([[1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 0]])
    assert recipe.disagreement(answers) == pytest.approx((1 + 2 + 1) / 3 / 4)


def test_the_best_member_is_that_of_each_group_on_validation():
    way = SimpleNamespace(
        validation=np.array([3.0, 1.0, 2.0, 5.0]), loss=np.array([0.1, 0.2, 0.3, 0.4])
    )
    config = recipe.Config(groups=2, members=2)
    np.testing.assert_allclose(recipe.best_member(way, config), [0.2, 0.3])
