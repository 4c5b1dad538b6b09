"""Folds beside scikit-learn's, early stopping beside Keras's callback, training beside
Keras's own, overstatement beside order statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import KFold, StratifiedKFold

from deep_learning_recipes.training import stacks
from recipes import model_selection as recipe


def test_parts_are_disjoint_and_random():
    random = np.random.default_rng(0)
    parts = recipe.split(50, (20, 10, 15), random)
    assert [len(part) for part in parts] == [20, 10, 15]
    assert len(set(np.concatenate(parts))) == 45
    assert not np.array_equal(parts[0], np.sort(parts[0]))
    assert not np.array_equal(recipe.split(50, (50,), random)[0], np.arange(50))
    with pytest.raises(ValueError, match="51 of 50"):
        recipe.split(50, (50, 1), random)


@pytest.mark.parametrize(("examples", "folds"), [(50, 5), (53, 5), (7, 7), (9, 2)])
def test_folds_partition_the_data_as_those_of_scikit_learn(examples, folds):
    ours = recipe.k_folds(examples, folds, np.random.default_rng(0))
    theirs = list(KFold(folds, shuffle=True, random_state=0).split(np.zeros(examples)))
    held_out = np.concatenate([part for _, part in ours])
    assert sorted(held_out) == list(range(examples))
    for train, part in ours:
        assert sorted([*train, *part]) == list(range(examples))
    sizes = [(len(train), len(part)) for train, part in ours]
    assert sizes == [(len(train), len(part)) for train, part in theirs]
    assert not np.array_equal(held_out, np.arange(examples))


def test_stratified_folds_have_each_class_as_those_of_scikit_learn():
    random = np.random.default_rng(0)
    y = random.choice(3, size=103, p=[0.7, 0.2, 0.1])
    ours = recipe.stratified_folds(y, 5, random)
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(y, y)
    assert sorted(np.concatenate([part for _, part in ours])) == list(range(103))
    for train, part in ours:
        assert not set(train) & set(part)
    found = np.array([np.bincount(y[part], minlength=3) for _, part in ours])
    expected = np.array([np.bincount(y[part], minlength=3) for _, part in theirs])
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))
    again = recipe.stratified_folds(y, 5, random)
    assert set(again[0][1]) != set(ours[0][1])


@pytest.mark.parametrize("folds", [1, 6])
def test_impossible_folds_are_refused(folds):
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"2 to 5 folds are possible, not {folds}"):
        recipe.k_folds(5, folds, random)
    with pytest.raises(ValueError, match="2 to 5 folds"):
        recipe.stratified_folds(np.zeros(5, int), folds, random)


@pytest.mark.parametrize(
    "losses",
    [
        [5.0, 4.0, 3.0, 3.5, 3.2, 2.0, 1.0],
        [5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 1.0],
        [1.0, 1.0, 1.0, 1.0],
        [3.0, 2.0, 1.0],
    ],
)
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_stops_where_the_callback_of_keras_does(losses, patience):
    callback = keras.callbacks.EarlyStopping("val_loss", patience=patience)
    inputs = keras.Input((1,))
    callback.set_model(keras.Model(inputs, inputs))
    callback.model.stop_training = False
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        if callback.model.stop_training:
            break
    assert recipe.stop_early(losses, patience) == (callback.best_epoch, epoch)


def test_the_best_is_chosen():
    correct = np.array([[1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]])
    assert recipe.choose(correct) == 1


def trained(correct):
    nothing = np.zeros((len(correct), 1, 2))
    return recipe.Trained(nothing, correct, correct, nothing)


def test_overstatement_is_that_of_the_highest_of_as_many_normal_numbers():
    """Equally good networks that err independently: 16 of them lie 1.766 deviations
    above the mean."""
    random = np.random.default_rng(0)
    correct = random.random((16, 4000)) < 0.8
    found = recipe.choose_often(trained(correct), 16, 100, 1500, random)
    deviation = 100 * np.sqrt(0.8 * 0.2 / 100)
    assert found.overstated == pytest.approx(1.766 * deviation, rel=0.1)
    assert found.fresh == pytest.approx(0.8, abs=0.01)
    assert found.true == pytest.approx(0.8, abs=0.01)
    single = recipe.choose_often(trained(correct), 1, 100, 1500, random)
    assert single.overstated == pytest.approx(0, abs=0.5)
    assert single.average == single.true


def test_errors_of_estimates_by_hand():
    held_out = np.array([[1, 1, 0, 0]] * recipe.FOLDS)
    train = np.tile([[1, 1, 1, 0, 0]], (recipe.FOLDS, 1))
    rows = [np.array([index]) for index in range(recipe.FOLDS)]
    nothing = np.zeros((recipe.FOLDS, 1, 2))
    found = recipe.Trained(nothing, held_out, train, nothing)
    errors = recipe.estimate(found, rows)
    np.testing.assert_allclose(errors.single, [0.5])
    np.testing.assert_allclose(errors.folds, [0.1])


def test_networks_train_as_keras_does_each_on_rows_of_its_own():
    random = np.random.default_rng(0)
    x = random.uniform(size=(1100, 64)).astype("float32")
    y = random.integers(10, size=1100)
    parts = recipe.Parts(x[:100], y[:100], x[100:], y[100:])
    groups = [
        recipe.Group([np.arange(40)], np.array([0.1])),
        recipe.Group([np.arange(40, 100)], np.array([0.5])),
    ]
    stack = recipe.Stack(groups, parts)
    first = stack.rows.numpy()
    orders = [stack.order(rows, random) for rows in stack.training_rows]
    assert set(orders[0]) == set(range(40))
    assert set(orders[1]) == set(range(40, 100))
    shape = 2, recipe.STEPS_PER_EPOCH, recipe.BATCH_SIZE
    batches = np.reshape(orders, shape).swapaxes(0, 1)
    losses = stack.train_epoch(tf.constant(batches)).numpy()

    model = recipe.build_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index, rate in enumerate((0.1, 0.5)):
        stacks.set_weights(model, first[index])
        model.compile(keras.optimizers.SGD(rate), loss)
        for batch in batches[:, index]:
            model.train_on_batch(x[batch], y[batch])
        np.testing.assert_allclose(stacks.row_of(model), stack.rows[index], atol=1e-4)
        own = float(loss(y[100:600], model(x[100:600])))
        assert losses[0, index] == pytest.approx(own, rel=1e-3)
    answers = np.argmax(model(x[100:]), axis=1)
    np.testing.assert_array_equal(
        stack.correct(x[100:], y[100:])[1], answers == y[100:]
    )


def test_training_images_choose_those_that_are_right_most_often_on_them():
    train = np.zeros((3, recipe.OF_CANDIDATES + 5))
    train[:2, : recipe.OF_CANDIDATES] = 1  # two fit all that they trained on
    train[2, recipe.OF_CANDIDATES :] = 1  # one is right on others of the images
    held_out = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    trained = recipe.Trained(np.zeros((3, 1, 2)), held_out, train, np.zeros((3, 1)))
    assert recipe.choose_by_training(trained) == (0.5 + 0.75) / 2
