"""The loss and the network against SciPy, NumPy and a count by hand."""

import numpy as np
import pytest
from scipy.special import log_softmax

from recipes import name as recipe


def test_cross_entropy_is_minus_log_p_of_the_right_class():
    logits = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    labels = np.array([0, 1, 1, 0, 1, 0])
    expected = -log_softmax(logits, axis=1)[np.arange(6), labels]
    np.testing.assert_allclose(
        recipe.cross_entropy(labels, logits), expected, rtol=1e-5
    )


def test_the_network_equals_its_equation():
    random = np.random.default_rng(0)
    network = recipe.build_network((5,), units=7, activation="relu")
    # Biases start at zero, where a network that forgot them would go unnoticed.
    weights = [random.normal(size=each.shape) for each in network.get_weights()]
    network.set_weights(weights)
    v, c, w, b = weights
    x = random.normal(size=(11, 5)).astype("float32")
    expected = np.maximum(0, x @ v + c) @ w + b
    np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("relu", 64 * 4 + 4 + 4 * 2 + 2),
        ("linear", 64 * 4 + 4 + 4 * 2 + 2),
        (None, 64 * 2 + 2),
    ],
)
def test_parameters_as_counted_by_hand(activation, parameters):
    assert recipe.build_network((8, 8, 1), 4, activation).count_params() == parameters
