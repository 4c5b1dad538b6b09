"""The perceptron against hand counts, NumPy and SciPy."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from recipes import mlp


@pytest.mark.parametrize(
    ("inputs", "widths", "classes", "parameters"),
    [
        (3, (4,), 2, 26),  # the lecture's 3-4-2: 20 weights and 6 biases
        (3, (4, 4), 1, 41),  # the lecture's poll, 3-4-4-1
        (64, (), 10, 650),
    ],
)
def test_parameters_as_counted_by_hand(inputs, widths, classes, parameters):
    assert mlp.build_mlp(inputs, widths, classes).count_params() == parameters


def test_the_numpy_forward_pass_equals_keras():
    model = mlp.build_mlp(5, (7, 6), classes=3)
    # Biases start at zero, where a pass that forgot them would go unnoticed.
    model.set_weights(
        [np.random.default_rng(0).normal(size=w.shape) for w in model.get_weights()]
    )
    x = np.random.default_rng(1).normal(size=(11, 5)).astype("float32")
    expected = softmax(np.asarray(model(x)), axis=1)
    np.testing.assert_allclose(mlp.forward(model.get_weights(), x), expected, atol=1e-6)


def test_softmax_survives_large_logits():
    weights = [np.eye(2) * 1000, np.zeros(2)]
    np.testing.assert_allclose(mlp.forward(weights, np.eye(2)), np.eye(2))


def test_cross_entropy_is_minus_log_p_of_the_right_class():
    assert mlp.cross_entropy(np.array([[0.25, 0.75]]), np.array([0])) == pytest.approx(
        np.log(4)
    )
    logits = np.random.default_rng(0).normal(size=(6, 4))
    y = np.array([0, 1, 2, 3, 0, 1])
    found = mlp.cross_entropy(softmax(logits, axis=1), y)
    assert found == pytest.approx(-log_softmax(logits, axis=1)[np.arange(6), y].mean())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert found == pytest.approx(float(loss(y, logits)), rel=1e-5)


def test_the_simpler_methods_read_digits_as_well_as_they_are_known_to():
    from deep_learning_recipes import data

    (x_train, y_train), (x_test, y_test) = data.load("digits")
    x_train, x_test = x_train.reshape(-1, 64), x_test.reshape(-1, 64)
    accuracies = {
        name: method.fit(x_train, y_train).score(x_test, y_test)
        for name, method in mlp.simpler_methods().items()
    }
    assert accuracies["kernel machine (SVC)"] > 0.985
    assert accuracies["3 nearest neighbors"] > 0.975
    assert 0.94 < accuracies["logistic regression"] < 0.975
    assert 0.8 < accuracies["decision tree"] < accuracies["random forest"]
