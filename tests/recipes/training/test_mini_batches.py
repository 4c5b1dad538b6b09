"""Gradients of batches against Keras's, the noise against its formula, full batches
against gradient descent by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import mini_batches as recipe


@pytest.fixture(scope="module")
def digits():
    random = np.random.default_rng(0)
    x = random.uniform(size=(20, 6)).astype("float32")
    return x, random.integers(3, size=20)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return recipe.build_network(inputs=6, classes=3)


@pytest.fixture(scope="module")
def gradients(network, digits):
    x, y = digits
    return recipe.gradients_of_examples(network, tf.constant(x), tf.constant(y)).numpy()


@pytest.mark.parametrize(("examples", "batch_size"), [(20, 5), (20, 6), (3, 8), (1, 1)])
def test_an_epoch_has_each_example_once(examples, batch_size):
    random = np.random.default_rng(0)
    batches = recipe.epoch_of_batches(examples, batch_size, random)
    assert sorted(np.concatenate(batches)) == list(range(examples))
    assert all(len(batch) == min(batch_size, examples) for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


def test_epochs_differ():
    random = np.random.default_rng(0)
    (first,) = recipe.epoch_of_batches(50, 50, random)
    (second,) = recipe.epoch_of_batches(50, 50, random)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(50))


def test_the_gradient_of_a_batch_is_unbiased(network, digits):
    """The mean over the batches of an epoch is the gradient of all examples."""
    x, y = digits
    whole = recipe.gradient(network, tf.constant(x), tf.constant(y)).numpy()
    for seed in range(2):
        batches = recipe.epoch_of_batches(20, 5, np.random.default_rng(seed))
        of_batches = [
            recipe.gradient(network, tf.constant(x[batch]), tf.constant(y[batch]))
            for batch in batches
        ]
        np.testing.assert_allclose(np.mean(of_batches, axis=0), whole, atol=1e-6)
        assert np.abs(of_batches[0] - whole).max() > 1e-3


def test_a_batchs_gradient_is_the_mean_of_its_examples(network, digits, gradients):
    x, y = digits
    batch = np.array([3, 11, 7])
    found = recipe.gradient(network, tf.constant(x[batch]), tf.constant(y[batch]))
    np.testing.assert_allclose(gradients[batch].mean(axis=0), found, atol=1e-6)


def test_many_copies_have_the_gradient_of_one(network, digits):
    x, y = digits
    one = recipe.gradient(network, tf.constant(x), tf.constant(y))
    copies = tf.constant(np.tile(x, (40, 1))), tf.constant(np.tile(y, 40))
    np.testing.assert_allclose(recipe.gradient(network, *copies), one, atol=1e-5)


def test_steps_are_those_of_keras(digits):
    x, y = digits
    keras.utils.set_random_seed(1)
    ours = recipe.build_network(inputs=6, classes=3)
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(keras.optimizers.SGD(0.1), loss)
    batches = recipe.epoch_of_batches(20, 7, np.random.default_rng(0))
    for batch in batches:
        recipe.mini_batch_step(ours, x[batch], y[batch], learning_rate=0.1)
        theirs.train_on_batch(x[batch], y[batch])
    for found, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_full_batch_is_gradient_descent(digits):
    """On softmax regression, whose gradient is xᵀ(p − y)/n."""
    x, y = digits
    inputs = keras.Input((6,))
    network = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    kernel, bias = network.get_weights()
    (everything,) = recipe.epoch_of_batches(20, 20, np.random.default_rng(0))
    for _ in range(5):
        recipe.mini_batch_step(network, x[everything], y[everything], 0.5)
        scores = np.exp(x @ kernel + bias)
        error = scores / scores.sum(axis=1, keepdims=True) - np.eye(3)[y]
        kernel = kernel - 0.5 * x.T @ error / 20
        bias = bias - 0.5 * error.mean(axis=0)
        np.testing.assert_allclose(network.get_weights()[0], kernel, atol=1e-5)


def test_the_noise_is_that_of_the_formula(gradients):
    """Independent draws: root(tr(Σ)/B)/|G|; without replacement less by (n−B)/(n−1)."""
    random = np.random.default_rng(0)
    for size in (1, 4, 16):
        expected = np.sqrt(recipe.noise_scale(gradients) / size)
        drawn = random.integers(20, size=(20_000, size))
        found = recipe.gradient_noise(gradients, drawn)
        assert found == pytest.approx(expected, rel=0.03)
        once = np.array([random.permutation(20)[:size] for _ in range(20_000)])
        found = recipe.gradient_noise(gradients, once)
        expected *= np.sqrt((20 - size) / 19)
        assert found == pytest.approx(expected, rel=0.03)


def test_the_noise_scale_by_hand():
    gradients = np.array([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), variances 1 and 4
    assert recipe.noise_scale(gradients) == pytest.approx(5 / 8)


def test_steps_until_the_loss_count_whole_looks():
    losses = np.ones((3, 2, len(recipe.LEARNING_RATES), 1))
    losses[1:, :, 2] = 0.1
    losses[2:, 1, 3] = 0.1
    trained = recipe.Trained(4, losses, np.zeros(0))
    assert trained.chosen() == 2
    assert trained.steps == 2 * recipe.STEPS_PER_LOOK[4]
    assert trained.images == 4 * trained.steps
    assert trained.steps_to_loss()[1, 3, 0] == 3 * recipe.STEPS_PER_LOOK[4]
    assert trained.steps_to_loss()[0, 3, 0] == 4 * recipe.STEPS_PER_LOOK[4]
