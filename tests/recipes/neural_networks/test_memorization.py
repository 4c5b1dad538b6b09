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


def test_one_network_costs_the_compilation_once_and_all_its_epochs(monkeypatch):
    clock = 0.0

    def fit(model, x, y, batch_size, epochs, verbose):
        nonlocal clock
        clock += 5 if epochs == 1 else 2 * epochs

    monkeypatch.setattr(recipe.time, "perf_counter", lambda: clock)
    assert recipe.seconds_of(fit, recipe.build_model(5, 4), X, Y, 4, epochs=101) == 205
