"""The stack of networks against each network alone, and the labels that are
shuffled."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from recipes import memorization as recipe

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 12, 5)).astype("float32")
Y = RANDOM.integers(10, size=(3, 12))
DECAY = np.array([0.0, 0.1, 0.5], "float32")


@pytest.fixture
def stack():
    """Three networks of 5 inputs and 4 neurons, with biases that a pass cannot forget
    unseen."""
    return [tf.Variable(each + 0.1) for each in recipe.build_stack(3, 5, 4)]


def alone(stack, index):
    model = recipe.build_model(5, 4)
    model.set_weights([each[index].numpy() for each in stack])
    return model


def test_networks_start_differently_as_keras_starts_them():
    kernel, bias, _, _ = recipe.build_stack(3, 64, 256)
    assert kernel.shape == (3, 64, 256)
    assert np.all(bias == 0)
    np.testing.assert_allclose(np.std(kernel, axis=(1, 2)), np.sqrt(2 / 64), rtol=0.05)
    assert np.abs(np.corrcoef(np.reshape(kernel, (3, -1))) - np.eye(3)).max() < 0.05


def test_each_network_of_the_stack_sees_its_own_images(stack):
    logits = recipe.logits_of(recipe.build_model(5, 4), stack, X)
    for index in range(3):
        np.testing.assert_allclose(
            logits[index], alone(stack, index)(X[index]), atol=1e-5
        )


def test_losses_are_cross_entropy_and_half_the_decay_times_the_squares(stack):
    model = recipe.build_model(5, 4)
    losses = recipe.losses_of(model, stack, X, Y, DECAY)
    logs = log_softmax(recipe.logits_of(model, stack, X), axis=-1)
    for index in range(3):
        penalty = (
            sum(np.sum(stack[kernel][index] ** 2.0) for kernel in (0, 2))
            * DECAY[index]
            / 2
        )
        expected = penalty - logs[index, np.arange(12), Y[index]].mean()
        assert float(losses[index]) == pytest.approx(expected, rel=1e-5)


def test_networks_train_together_as_each_would_alone(stack):
    models = [alone(stack, index) for index in range(3)]
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(stack)
    batches = np.array([[3, 1, 4, 0], [5, 9, 2, 6], [8, 11, 7, 10]])
    for _ in range(2):
        answers = recipe.train_epoch(
            models[0], stack, optimizer, X, Y, DECAY, tf.constant(batches)
        )
    for index, model in enumerate(models):
        for layer in model.layers[1:]:
            layer.kernel.regularizer = keras.regularizers.L2(float(DECAY[index]) / 2)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        for rows in [*batches, *batches]:
            model.train_on_batch(X[index][rows], Y[index][rows])
        for ours, theirs in zip(stack, model.get_weights(), strict=True):
            np.testing.assert_allclose(ours[index], theirs, atol=1e-5)
        np.testing.assert_array_equal(
            answers[index], np.argmax(model(X[index]), axis=-1)
        )


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_labels_is_shuffled(share):
    y = np.repeat(np.arange(10), 500)
    shuffled = recipe.shuffle_some(np.random.default_rng(1), y, share)
    np.testing.assert_array_equal(np.bincount(shuffled), np.bincount(y))
    # A tenth of what is shuffled comes out right.
    assert np.mean(shuffled != y) == pytest.approx(0.9 * share, abs=0.02)
    np.testing.assert_array_equal(y, np.repeat(np.arange(10), 500))


CONFIG = recipe.Config(
    examples=100, seeds=2, noise=(0.7,), neurons=4, batch_size=20, epochs=101
)


def draw_task():
    lineup = recipe.line_up(CONFIG)
    return lineup, recipe.draw_task(CONFIG, lineup, np.random.default_rng(0))


def test_each_place_of_the_stack_learns_what_the_lineup_says():
    lineup, task = draw_task()
    assert lineup.shares == [0, 0.4, 0.7, 1]
    assert lineup.networks == len(task.images) == 4 * 2 + 4 * 2 + 2
    is_wrong = np.mean((task.given != task.true)[:, : task.known], axis=-1)
    for kind in (lineup.plain, lineup.decayed):
        for share, places in zip(lineup.shares, kind, strict=True):
            np.testing.assert_allclose(is_wrong[places], 0.9 * share, atol=0.03)
    assert np.all(is_wrong[lineup.on_noise] == 0)
    assert np.all(task.decay[lineup.plain] == 0)
    assert np.all(task.decay[lineup.on_noise] == 0)
    np.testing.assert_allclose(task.decay[lineup.decayed], CONFIG.weight_decay)


def test_held_out_images_are_the_same_and_never_shuffled():
    lineup, task = draw_task()
    _, validation, held_out = task.split(task.true)
    assert validation.shape[1] == task.known - CONFIG.examples
    assert np.ptp(held_out, axis=0).max() == 0
    np.testing.assert_array_equal(task.split(task.given)[2], held_out)
    _, _, images = task.split(np.moveaxis(task.images, 2, 0))
    assert np.ptp(images[:, lineup.plain.ravel()], axis=1).max() == 0
    assert np.ptp(images[:, lineup.on_noise], axis=1).max() > 1


def test_epochs_and_stops_as_counted_by_hand():
    found = recipe.Accuracies(
        train=np.array([[0.5, 1.0], [1.0, 0.9], [0.8, 1.0]]),
        validation=np.array([[0.1, 0.7], [0.3, 0.6], [0.2, 0.5]]),
        test=np.array([[1, 2], [3, 4], [5, 6]]),
    )
    np.testing.assert_array_equal(found.epochs_to_fit, [2, 1])
    np.testing.assert_array_equal(found.stops, [1, 0])
    np.testing.assert_array_equal(recipe.at_epochs(found.test, found.stops), [3, 2])


def test_wrong_labels_are_answered_rightly_or_by_heart():
    task = recipe.Task(
        images=np.zeros((1, 5, 1)),
        true=np.array([[0, 1, 2, 3, 9]]),
        given=np.array([[0, 7, 7, 7, 9]]),
        decay=np.zeros(1),
        examples=4,
        known=4,
    )
    wrong = recipe.look_at_wrong_labels(task, np.array([[[0, 1, 7, 7, 9]]]))
    assert wrong.right == pytest.approx(1 / 3)
    assert wrong.by_heart == pytest.approx(2 / 3)


def test_one_network_costs_the_compilation_once_and_all_its_epochs(monkeypatch):
    clock = 0.0

    def fit(model, x, y, batch_size, epochs, verbose):
        nonlocal clock
        clock += 5 if epochs == 1 else 2 * epochs

    monkeypatch.setattr(recipe.time, "perf_counter", lambda: clock)
    _, task = draw_task()
    assert recipe.seconds_alone(fit, task, CONFIG) == 205
