"""Ranges by hand, steps against Keras's optimizer, strategies on a loss that is known,
importances of variables that matter and that do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from deep_learning_recipes import UsageError
from deep_learning_recipes.training import stacks
from recipes import hyperparameter_search as recipe


def test_a_logarithmic_range_has_as_many_values_in_each_decade():
    rates = recipe.Range(1e-3, 1.0)
    drawn = rates.at(np.random.default_rng(0).uniform(size=4000))
    expected = stats.loguniform(1e-3, 1.0)
    assert stats.kstest(drawn, expected.cdf).pvalue > 0.01
    np.testing.assert_allclose(rates.grid(3), [10**-2.5, 10**-1.5, 10**-0.5])
    linear = recipe.Range(0.0, 0.6, logarithmic=False)
    np.testing.assert_allclose(linear.grid(3), [0.1, 0.3, 0.5])


def known_loss(settings):
    """Lowest, 0, at a learning rate of 0.1; momentum matters a little."""
    rate = np.log10(settings["learning_rate"])
    return (rate + 1) ** 2 + 0.1 * settings["momentum"]


@pytest.mark.parametrize("strategy", recipe.STRATEGIES)
def test_each_strategy_spends_the_budget_within_the_ranges(strategy, tmp_path):
    config = recipe.Config(values=2, epochs=9)
    search = recipe.build_search(strategy, 0.0, 1, config, str(tmp_path))
    trials = []
    spent = 0
    while spent < 8 * 9:
        trial = search.next_trial()
        assert list(trial.settings) == list(recipe.VARIABLES)
        for name, each in recipe.ranges(0.0).items():
            slack = 1e-6 * each.high
            assert each.low - slack <= trial.settings[name] <= each.high + slack
        trial.told(known_loss(trial.settings), np.full((2, 3), len(trials)))
        trials.append(trial)
        spent += trial.epochs
    rates = {trial.settings["learning_rate"] for trial in trials}
    if strategy == recipe.GRID:
        assert len(trials) == 8
        assert len(rates) == 2
        assert search.next_trial() is None
    if strategy == recipe.RATES:
        assert len(trials) == len(rates) == 8
        momenta = [trial.settings["momentum"] for trial in trials]
        np.testing.assert_allclose(momenta, 0.475)
    if strategy in (recipe.RANDOM, recipe.LINEAR, recipe.BAYESIAN):
        assert len(trials) == len(rates) == 8


def test_hyperband_goes_on_with_the_best_from_where_they_were(tmp_path):
    config = recipe.Config(values=2, epochs=9)
    search = recipe.build_search(recipe.HYPERBAND, 0.0, 0, config, str(tmp_path))
    losses = {}
    for number in range(30):
        trial = search.next_trial()
        if trial.state is not None:
            break
        losses[number] = known_loss(trial.settings)
        trial.told(losses[number], np.full((2, 3), number))
    assert trial.state[0, 0] == min(losses, key=losses.get)
    assert trial.epochs == 2  # to three in all, after one


def test_by_hand_goes_on_the_same_way_while_it_helps():
    ranges = {
        "first": recipe.Range(0.0, 1.0, logarithmic=False),
        "second": recipe.Range(0.0, 1.0, logarithmic=False),
    }
    hand = recipe.ByHand(ranges)
    asked = []
    for loss in (5.0, 4.0, 6.0, 7.0, 3.0):
        asked.append(tuple(hand.ask().values()))
        hand.tell(loss)
    asked.append(tuple(hand.ask().values()))
    assert asked == [
        (0.5, 0.5),
        (0.75, 0.5),  # better
        (1.0, 0.5),  # worse: back
        (0.5, 0.5),  # worse as well: the next knob
        (0.75, 0.25),  # better, the way it was going
        (0.75, 0.0),
    ]


def test_steps_are_those_of_keras():
    random = np.random.default_rng(0)
    x = random.uniform(size=(60, 64)).astype("float32")
    y = random.integers(10, size=60)
    keras.utils.set_random_seed(0)
    model = recipe.build_model()
    start = stacks.row_of(model)
    states = np.stack([np.stack([start, 0 * start])] * 2)
    settings = np.array([[0.02, 0.9, 1e-2], [0.1, 0.0, 0.0]], "float32")
    batches = random.integers(60, size=(5, 16))
    found = recipe.train_epoch(
        model,
        tf.constant(states),
        tf.constant(settings),
        tf.constant(batches),
        tf.constant(x),
        tf.constant(y),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index, (rate, momentum, decay) in enumerate(settings):
        stacks.set_weights(model, start)
        optimizer = keras.optimizers.SGD(float(rate), momentum=float(momentum))
        for batch in batches:
            with tf.GradientTape() as tape:
                squares = sum(tf.nn.l2_loss(each) for each in model.trainable_variables)
                value = loss(y[batch], model(x[batch])) + decay * squares
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        np.testing.assert_allclose(stacks.row_of(model), found[index, 0], atol=1e-5)


def test_the_variable_that_matters_is_found():
    random = np.random.default_rng(0)
    x = random.uniform(size=(200, 3))
    losses = (x[:, 1] - 0.3) ** 2 + 0.01 * random.normal(size=200)
    first, second, third = recipe.importance(x, losses, seed=0)
    assert second > 1
    assert max(abs(first), abs(third)) < 0.1


def test_unknown_strategies_get_one_line():
    config = recipe.Config(strategies=("grid", "luck"))
    with pytest.raises(UsageError, match="luck"):
        recipe.run_searches(None, config, None)
