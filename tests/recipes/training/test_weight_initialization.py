"""First weights against Keras's initializers and against theory."""

import keras
import numpy as np
import pytest

from recipes import weight_initialization as recipe

OF_KERAS = {
    "zeros": keras.initializers.Zeros(),
    "constant": keras.initializers.Constant(0.02),
    "small": keras.initializers.RandomNormal(stddev=0.01, seed=0),
    "large": keras.initializers.RandomNormal(stddev=1.0, seed=0),
    "Xavier": keras.initializers.LecunNormal(seed=0),
    "He": keras.initializers.HeNormal(seed=0),
    "orthogonal": keras.initializers.Orthogonal(seed=0),
}


@pytest.mark.parametrize("name", OF_KERAS)
def test_mean_and_variance_are_those_of_keras(name):
    random = np.random.default_rng(0)
    ours = recipe.INITIALIZATIONS[name](random, 300, 200)
    keras_has = np.array(OF_KERAS[name]((300, 200)))
    assert ours.shape == keras_has.shape
    size = ours.std()
    assert size == pytest.approx(keras_has.std(), rel=0.02, abs=1e-8)
    assert ours.mean() == pytest.approx(keras_has.mean(), abs=0.02 * size + 1e-7)


def test_variances_are_one_and_two_of_the_inputs():
    random = np.random.default_rng(0)
    assert recipe.xavier(random, 500, 400).var() == pytest.approx(1 / 500, rel=0.02)
    assert recipe.he(random, 500, 400).var() == pytest.approx(2 / 500, rel=0.02)


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 40), (60, 20), (20, 60)])
def test_orthogonal_kernels_keep_lengths(inputs, outputs):
    kernel = recipe.orthogonal(np.random.default_rng(0), inputs, outputs)
    x = np.random.default_rng(1).normal(size=(7, inputs))
    if inputs > outputs:  # only of what lies in the space that is kept
        x = x @ kernel @ kernel.T
    before = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(np.linalg.norm(x @ kernel, axis=1), before)


def test_powers_of_a_half_and_of_one_and_a_half():
    """The lecture's diagonal matrices, in place of the random ones."""
    x = np.ones((1, 2))
    for factor in (0.5, 1.5):
        hidden = x
        for _ in range(16):
            hidden = hidden @ (factor * np.eye(2))
        assert hidden[0, 0] == pytest.approx(factor**16)
        random = np.random.default_rng(0)
        found = recipe.growth(recipe.xavier, np.eye(64), 16, random, gain=factor)
        assert found == pytest.approx(factor**16, rel=0.2)


def test_relu_lets_half_of_the_variance_through():
    random = np.random.default_rng(0)
    of_xavier = recipe.growth(recipe.xavier, np.eye(300), 4, random, relu=True)
    assert of_xavier == pytest.approx(2**-2, rel=0.1)
    of_he = recipe.growth(recipe.he, np.eye(300), 4, random, relu=True)
    assert of_he == pytest.approx(1, rel=0.1)


def test_signals_are_what_layers_give_and_the_gradients_of_the_loss():
    random = np.random.default_rng(0)
    network = recipe.build_network("tanh", depth=3, units=5, inputs=4, classes=3)
    recipe.set_first_weights(network, recipe.large, random)
    x = random.normal(size=(6, 4)).astype("float32")
    y = np.array([0, 1, 2, 0, 1, 2])
    activations, gradients = recipe.signals(network, x, y)
    kernels = [layer.get_weights()[0] for layer in network.layers[1:]]
    hidden = x
    for kernel, found in zip(kernels, activations, strict=False):
        hidden = np.tanh(hidden @ kernel)
        np.testing.assert_allclose(found, hidden, atol=1e-5)
    # By hand: the logits' gradient is (p − e(y)) / 6, and back through each kernel.
    logits = hidden @ kernels[-1]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    back = (p - np.eye(3)[y]) / 6 @ kernels[-1].T
    np.testing.assert_allclose(gradients[2], back, atol=1e-5)
    back = (back * (1 - activations[2] ** 2)) @ kernels[2].T
    np.testing.assert_allclose(gradients[1], back, atol=1e-5)


def test_different_neurons_are_counted_by_their_weights():
    kernel = np.array([[1.0, 1, 2, 1], [0, 0, 0, 1]])
    assert recipe.different_neurons(kernel) == 3
