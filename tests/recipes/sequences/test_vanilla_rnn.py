"""The cell against Keras's own, gradients by hand against autodiff, and the flow of
gradients against powers of a matrix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import vanilla_rnn as recipe

TIME, NETWORKS, BATCH, INPUTS, UNITS, CLASSES = 6, 3, 4, 2, 5, 3
TANH = recipe.ACTIVATIONS["tanh"]


def some_stack(dtype="float64"):
    random = np.random.default_rng(0)
    networks = [
        recipe.draw_weights(random, INPUTS, UNITS, CLASSES) for _ in range(NETWORKS)
    ]
    stack = recipe.stacked(networks)
    return recipe.Weights(
        *[(part + random.normal(size=part.shape) / 4).astype(dtype) for part in stack]
    )


def some_task(last=2):
    random = np.random.default_rng(1)
    x = random.normal(size=(TIME, NETWORKS, BATCH, INPUTS))
    labels = random.integers(CLASSES, size=(last, NETWORKS, BATCH))
    return x, labels


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_the_cell_is_that_of_keras(activation):
    ours = keras.layers.RNN(recipe.ElmanCell(UNITS, activation), return_sequences=True)
    theirs = keras.layers.SimpleRNN(UNITS, activation=activation, return_sequences=True)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, INPUTS)).astype("float32")
    ours.build(x.shape)
    theirs.build(x.shape)
    random = np.random.default_rng(2)
    weights = [random.normal(size=each.shape) for each in theirs.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_a_saved_cell_keeps_its_activation(tmp_path):
    x = keras.Input((None, INPUTS))
    model = keras.Model(x, keras.layers.RNN(recipe.ElmanCell(UNITS, "relu"))(x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    example = np.random.default_rng(0).normal(size=(2, TIME, INPUTS))
    np.testing.assert_allclose(again(example), model(example), rtol=1e-6)


def test_states_are_those_of_keras_for_each_network_of_a_stack():
    stack = some_stack("float32")
    x, _ = some_task()
    states = recipe.read(stack, x.astype("float32"), TANH)
    assert np.all(states[0] == 0)
    for k in range(NETWORKS):
        layer = keras.layers.SimpleRNN(UNITS, return_sequences=True)
        layer.build((None, TIME, INPUTS))
        layer.set_weights([stack.input[k], stack.recurrent[k], stack.bias[k, 0]])
        expected = np.swapaxes(layer(np.swapaxes(x[:, k], 0, 1)), 0, 1)
        np.testing.assert_allclose(states[1:, k], expected, rtol=2e-5, atol=1e-6)


def losses_by_tensorflow(weights, x, labels, chunk):
    """Σ of the networks' losses, the state a mere number where a chunk begins."""
    h = tf.zeros((NETWORKS, BATCH, UNITS), "float64")
    states = []
    for t in range(TIME):
        if chunk and (TIME - t) % chunk == 0:
            h = tf.stop_gradient(h)
        h = tf.tanh(x[t] @ weights.input + h @ weights.recurrent + weights.bias)
        states.append(h)
    scores = tf.stack(states[-len(labels) :]) @ weights.output + weights.output_bias
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
    return tf.reduce_sum(tf.reduce_mean(losses, axis=(0, 2)))


@pytest.mark.parametrize("chunk", [None, 1, 2, 4])
@pytest.mark.parametrize("last", [1, TIME])
def test_gradients_are_those_of_autodiff_truncated_or_not(chunk, last):
    stack = some_stack()
    x, labels = some_task(last)
    answers = recipe.answer(stack, x, labels, TANH)
    found = recipe.gradients_of(stack, x, labels, answers, TANH, chunk)
    variables = recipe.Weights(*[tf.Variable(part) for part in stack])
    with tf.GradientTape() as tape:
        loss = losses_by_tensorflow(variables, x, labels, chunk)
    np.testing.assert_allclose(answers.losses.sum(), loss, rtol=1e-9)
    expected = tape.gradient(loss, list(variables))
    for own, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-10)


def test_each_network_has_its_own_chunk():
    stack = some_stack()
    x, labels = some_task()
    answers = recipe.answer(stack, x, labels, TANH)
    chunks = np.array([1, 3, TIME])
    together = recipe.gradients_of(
        stack, x, labels, answers, TANH, chunks[:, None, None]
    )
    for k, chunk in enumerate(chunks):
        alone = recipe.gradients_of(stack, x, labels, answers, TANH, chunk)
        np.testing.assert_allclose(together.recurrent[k], alone.recurrent[k])


def test_slopes_of_relu_are_those_of_differences():
    a = np.array([-2.0, -0.1, 0.3, 4.0])
    for activation in recipe.ACTIVATIONS.values():
        slopes = activation.slope(activation.function(a))
        steps = activation.function(a + 1e-6) - activation.function(a - 1e-6)
        np.testing.assert_allclose(slopes, steps / 2e-6, atol=1e-6)


def test_clipping_is_that_of_keras():
    random = np.random.default_rng(0)
    parts = [3 * random.normal(size=(1, *shape)) for shape in [(2, 3), (1, 3)]]
    parts = [part.astype("float32") for part in parts]
    gradients = recipe.Weights(*parts, *parts, parts[0])
    variables = [keras.Variable(np.zeros(part.shape)) for part in gradients]
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=0.7)
    optimizer.apply([tf.constant(part) for part in gradients], variables)
    clipped = recipe.clip_by_norm(gradients, 0.7)
    for own, variable in zip(clipped, variables, strict=True):
        np.testing.assert_allclose(own, -variable.numpy(), rtol=1e-5)
    np.testing.assert_allclose(recipe.norms(clipped), 0.7, rtol=1e-5)


def test_clipping_by_hand_each_network_for_itself():
    zeros = np.zeros((2, 1, 1))
    long_and_short = np.array([[[3.0, 4.0]], [[0.3, 0.4]]])
    gradients = recipe.Weights(long_and_short, zeros, zeros, zeros, zeros)
    np.testing.assert_allclose(recipe.norms(gradients).ravel(), [5, 0.5])
    clipped = recipe.clip_by_norm(gradients, 1).input
    np.testing.assert_allclose(clipped, [[[0.6, 0.8]], [[0.3, 0.4]]])
    untouched = recipe.clip_by_norm(gradients, np.inf).input
    np.testing.assert_allclose(untouched, long_and_short)


def test_the_gradient_of_a_linear_network_is_a_power_of_its_matrix():
    recurrent = np.random.default_rng(0).normal(size=(UNITS, UNITS))
    weights = recipe.Weights(np.eye(UNITS), recurrent, np.zeros((1, UNITS)), None, None)
    states = np.zeros((TIME + 1, 1, UNITS))
    direct = np.zeros((TIME, 1, UNITS))
    direct[-1] = 1
    found = recipe.bptt(weights, states, direct, recipe.ACTIVATIONS["linear"])
    power = np.linalg.matrix_power(recurrent, TIME - 1)
    np.testing.assert_allclose(found[0, 0], power @ np.ones(UNITS))


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.2])
def test_the_flow_through_orthogonal_weights_is_a_power_of_their_scale(scale):
    random = np.random.default_rng(0)
    linear = recipe.ACTIVATIONS["linear"]
    found = recipe.flow(random, linear, scale, recipe.draw_orthogonal)
    ages = np.arange(recipe.AGE + 1)
    np.testing.assert_allclose(found.gradient, scale**ages, rtol=1e-9)


def test_orthogonal_and_gaussian_matrices_have_a_largest_singular_value_of_1():
    random = np.random.default_rng(0)
    orthogonal = recipe.draw_orthogonal(random, 7)
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(7), atol=1e-12)
    gaussian = recipe.draw_gaussian(random, 7)
    assert np.linalg.svd(gaussian)[1].max() == pytest.approx(1)


def test_the_bit_that_is_asked_for_stands_beside_the_flag():
    task = recipe.Task("some", time=10, noise=0.1)
    x, labels = task.draw(np.random.default_rng(0), [0, 3, 9], batch=50)
    assert x.shape == (10, 3, 50, 2)
    assert labels.shape == (1, 3, 50)
    for network, lag in enumerate([0, 3, 9]):
        flags = x[:, network, :, 1]
        assert np.all(flags.argmax(axis=0) == 9 - lag)
        assert np.all(flags.sum(axis=0) == 1)
        bits = x[9 - lag, network, :, 0]
        assert np.all(bits == 2 * labels[0, network] - 1)
        others = np.delete(x[:, network, :, 0], 9 - lag, axis=0)
        np.testing.assert_allclose(np.abs(others), 0.1)


def test_hello_is_learned_by_hand_and_written_by_keras():
    random = np.random.default_rng(0)
    learned = recipe.learn_hello(random, with_state=True)
    model = recipe.as_model(learned.weights, 3)
    ids = np.array([[0, 1, 2, 2]])
    probabilities = model(ids)["probabilities"][0]
    np.testing.assert_allclose(
        probabilities, learned.answers.probabilities[:, 3, 0], atol=1e-5
    )
    assert recipe.write(model, 0, 5) == [0, 1, 2, 2, 3]


def test_without_a_state_the_letters_after_l_are_even_at_best():
    alone = recipe.learn_hello(np.random.default_rng(0), with_state=False)
    # Two of four letters cost ln 2 at least.
    assert np.all(alone.answers.losses > np.log(2) / 2 - 1e-6)
    assert np.all(alone.answers.losses < np.log(2) / 2 + 0.02)


def test_what_is_no_number_counts_as_the_worst():
    found = stacks.bounded(np.array([0.5, np.nan, np.inf, 1e9]), recipe.WORST)
    np.testing.assert_array_equal(found, [0.5, *[recipe.WORST] * 3])


def test_running_means_are_those_of_a_loop():
    losses = np.random.default_rng(0).normal(size=(50, 2))
    found = recipe.smoothed(losses, width=7)
    for t in range(50):
        np.testing.assert_allclose(found[t], losses[max(0, t - 6) : t + 1].mean(axis=0))
