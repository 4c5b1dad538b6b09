"""Formulas against SciPy and automatic differentiation; counts worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.special import expit, softmax

from recipes import activation_functions as recipe
from recipes import gradient_checking

X = np.linspace(-6, 6, 241) + 0.013  # not at the kink


@pytest.mark.parametrize("name", recipe.FORMULAS)
def test_values_and_slopes_equal_kerass(name):
    value, slope = recipe.FORMULAS[name]
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        layer = recipe.LAYERS[name]()
        layer.dtype_policy = "float64"
        expected = layer(x)
    np.testing.assert_allclose(value(X), expected, atol=1e-9)
    np.testing.assert_allclose(slope(X), tape.gradient(expected, x), atol=1e-9)


def test_sigmoid_and_its_slope_by_scipy():
    value, slope = recipe.FORMULAS["sigmoid"]
    np.testing.assert_allclose(value(X), expit(X))
    np.testing.assert_allclose(slope(X), expit(X) * expit(-X))


def test_softmax_and_its_jacobian():
    z = np.random.default_rng(0).normal(0, 3, size=(4, 5))
    p = recipe.softmax(z)
    np.testing.assert_allclose(p, softmax(z, axis=-1))
    np.testing.assert_allclose(recipe.softmax(z + 1000), p)
    with tf.GradientTape() as tape:
        logits = tf.Variable(z)
        expected = tf.nn.softmax(logits)
    jacobians = tape.batch_jacobian(expected, logits)
    np.testing.assert_allclose(recipe.softmax_jacobian(p), jacobians, atol=1e-12)


def test_maxout_by_hand():
    layer = recipe.Maxout(1)
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0, -2.0], [3.0, 0.0]]), np.array([0.5, 1.0])])
    # max(1·1 + 3·1 + 0.5, −2·1 + 1) = 4.5; max(−2 − 3 + 0.5, 4 + 1) = 5
    np.testing.assert_allclose(
        layer(np.array([[1.0, 1.0], [-2.0, -1.0]])), [[4.5], [5.0]]
    )
    assert recipe.Maxout.from_config(layer.get_config()).units == 1


def test_maxout_has_the_gradient_that_differences_find():
    assert gradient_checking.check_layer(recipe.Maxout(3), (6,)) < 1e-6


def test_maxout_keeps_the_mean_square_of_what_it_gets():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(2000, 400)).astype("float32")
    for _ in range(3):
        x = recipe.Maxout(400)(x)
        assert float(tf.reduce_mean(x**2)) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(("name", "slope"), [("ReLU", 0.0), ("leaky ReLU", 0.01)])
def test_maxout_contains_relus(name, slope):
    model = recipe.build_network(name, 5, depth=3, units=4, classes=2)
    model.set_weights(
        [np.random.default_rng(1).normal(size=w.shape) for w in model.get_weights()]
    )
    x = np.random.default_rng(2).normal(size=(50, 5)).astype("float32")
    twin = recipe.as_maxout(model, slope)
    np.testing.assert_allclose(twin(x), model(x), atol=1e-4)
    assert twin.count_params() - 10 == 2 * (model.count_params() - 10)


def test_dead_units_are_counted():
    model = recipe.build_network("ReLU", 2, depth=1, units=4, classes=2)
    kernel, bias, *rest = model.get_weights()
    kernel[:] = [[1, -1, -1, 0], [0, 0, -1, 0]]
    bias[:] = [0, 0, -1, 2]
    model.set_weights([kernel, bias, *rest])
    x = np.array([[1.0, 1.0], [2.0, 0.0]])  # the second and the third are never above 0
    assert recipe.dead_share(model, x) == 0.5


def test_saturated_elus_are_counted():
    model = recipe.build_network("ELU", 1, depth=1, units=3, classes=2)
    _, _, *rest = model.get_weights()
    # −10 for both examples, −10 for one of them, never below 0: 3 of 6.
    kernel = np.array([[0.0, -10.0, 1.0]])
    bias = np.array([-10.0, 0.0, 0.0])
    model.set_weights([kernel, bias, *rest])
    x = np.array([[1.0], [0.0]])
    assert recipe.saturated_share(model, x, 0.01) == pytest.approx(1 / 2)


def test_a_network_starts_with_the_bias_it_is_given():
    model = recipe.build_network("ReLU", 3, depth=2, units=4, classes=2, bias=0.1)
    for number in (1, 2):
        bias = model.get_layer(f"dense_{number}").get_weights()[1]
        np.testing.assert_allclose(bias, 0.1)


def test_signs_are_one_where_no_input_is_negative():
    values = np.array([[1.0, 2, 0], [-1, -2, 0], [1, -1, 0], [0.1, 0.2, -0.1]])
    assert recipe.one_sign_share(values) == 0.5


def test_gradient_sizes_by_hand():
    """One hidden unit, identity weights: the gradient by the first kernel is (p − e) w₂
    x."""
    model = recipe.build_network("leaky ReLU", 1, depth=1, units=1, classes=2)
    model.set_weights(
        [np.ones((1, 1)), np.zeros(1), np.array([[1.0, -1.0]]), np.zeros(2)]
    )
    p = expit(2 * 3.0)
    expected = abs((p - 1) - (1 - p)) * 3
    found = recipe.gradient_sizes(model, np.array([[3.0]]), np.array([0]))
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_what_squashes_starts_by_glorot_and_the_rest_by_he():
    for name, variance in {"tanh": 2 / 600, "ReLU": 2 / 400}.items():
        model = recipe.build_network(name, 400, depth=1, units=200, classes=2)
        kernel = model.get_layer("dense_1").get_weights()[0]
        assert kernel.var() == pytest.approx(variance, rel=0.05)
    assert isinstance(model.get_layer("bend_1"), layers.ReLU)
