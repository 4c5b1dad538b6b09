"""Derivatives against paper, SciPy and TensorFlow's own; costs against a count by
hand."""

import numpy as np
import pytest
import tensorflow as tf
from recipes.autodiff import Dual
from scipy.optimize import rosen, rosen_der, rosen_hess

from recipes import autodiff

X = np.array([0.3, -1.2, 0.7, 1.1])
V = np.array([1.0, 0.5, -2.0, 0.25])


def rosenbrock(x):
    return tf.reduce_sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def to_three(x):
    return tf.stack([x[0] * x[1], tf.sin(x[2]), tf.exp(x[3] * x[0])])


def jacobian_on_paper(x):
    return np.array(
        [
            [x[1], x[0], 0, 0],
            [0, 0, np.cos(x[2]), 0],
            [x[3] * np.exp(x[3] * x[0]), 0, 0, x[0] * np.exp(x[3] * x[0])],
        ]
    )


@pytest.mark.parametrize("push", [autodiff.jvp, autodiff.jvp_by_two_vjps])
def test_a_jvp_is_the_jacobian_times_the_vector(push):
    found = push(to_three, tf.constant(X), tf.constant(V))
    np.testing.assert_allclose(found, jacobian_on_paper(X) @ V, rtol=1e-12)


def test_a_vjp_is_the_vector_times_the_jacobian():
    u = np.array([2.0, -1.0, 0.5])
    found = autodiff.vjp(to_three, tf.constant(X), tf.constant(u))
    np.testing.assert_allclose(found, u @ jacobian_on_paper(X), rtol=1e-12)


def test_jacobians_by_columns_and_by_rows():
    expected = jacobian_on_paper(X)
    x = tf.constant(X)
    np.testing.assert_allclose(
        autodiff.jacobian_forwards(to_three, x), expected, rtol=1e-12
    )
    np.testing.assert_allclose(
        autodiff.jacobian_backwards(to_three, x, 3), expected, rtol=1e-12
    )


@pytest.mark.parametrize("push", [autodiff.jvp, autodiff.jvp_by_two_vjps])
def test_gradient_and_hessian_vector_product_of_scipys_rosenbrock(push):
    x, v = tf.constant(X), tf.constant(V)
    assert float(rosenbrock(x)) == pytest.approx(rosen(X))
    np.testing.assert_allclose(
        autodiff.gradient(rosenbrock, x), rosen_der(X), rtol=1e-10
    )
    found = autodiff.hessian_vector(rosenbrock, x, v, push)
    np.testing.assert_allclose(found, rosen_hess(X) @ V, rtol=1e-10)


def test_dual_numbers_follow_the_rules():
    x = Dual(3.0, 1.0)
    square = x * x * x + 2 * x + 5  # x³ + 2x + 5
    assert (square.value, square.slope) == (38, 29)
    sigmoid_like = autodiff.dual_tanh(2 * x)
    assert sigmoid_like.slope == pytest.approx(2 / np.cosh(6) ** 2, rel=1e-6)


def test_dual_numbers_do_not_confuse_perturbations_of_constants():
    y = Dual(2.0, 1.0) * Dual(7.0)
    assert (y.value, y.slope) == (14, 7)


def test_the_network_of_duals_is_the_network():
    f = autodiff.draw_network(4, 3, seed=1)
    duals = f.of_duals(X, V)
    values = [each.value for each in duals]
    np.testing.assert_allclose(values, f(tf.constant(X)), rtol=1e-12)


def test_the_jacobian_on_paper_is_that_of_tensorflow():
    f = autodiff.draw_network(4, 3, seed=1)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    np.testing.assert_allclose(f.jacobian(x), tape.jacobian(y, x), rtol=1e-12)


def test_nested_derivatives():
    x = np.array([0.2, 1.5])
    fourth = autodiff.nth_derivative(lambda x: tf.sin(2 * x), 4)(tf.constant(x))
    np.testing.assert_allclose(fourth, 16 * np.sin(2 * x), rtol=1e-12)
    # tanh‴ = (6t² − 2)(1 − t²)
    t = np.tanh(x)
    np.testing.assert_allclose(
        autodiff.tanh_derivatives(x, 3), (6 * t**2 - 2) * (1 - t**2), rtol=1e-12
    )
    np.testing.assert_array_equal(autodiff.tanh_derivatives(x, 0), t)


def test_operations_as_counted_by_hand():
    w = tf.constant(np.ones((5, 3)))
    x = tf.ones(3, tf.float64)
    # 5 rows of 3 products and 3 sums; and 5 values of tanh
    assert autodiff.count_operations(lambda x: tf.linalg.matvec(w, x), x) == 30
    assert autodiff.count_operations(lambda x: tf.tanh(tf.linalg.matvec(w, x)), x) == 35
    # What the result does not need is not computed.
    assert (
        autodiff.count_operations(lambda x: (tf.linalg.matvec(w, x), 2 * x)[1], x) == 3
    )
    a, b = tf.ones((2, 7)), tf.ones((7, 4))
    assert autodiff.count_operations(tf.matmul, a, b) == 2 * 2 * 7 * 4


def test_costs_grow_with_inputs_forwards_and_with_outputs_backwards():
    forwards, backwards = autodiff.jacobian_costs([(4, 4), (16, 4)]).growth
    assert forwards > 3
    assert backwards < 1.6
    forwards, backwards = autodiff.jacobian_costs([(4, 4), (4, 16)]).growth
    assert forwards < 1.5
    assert backwards > 2


def test_the_square_root_has_its_slope_eagerly_and_compiled():
    for x in (0.01, 1.0, 2.0, 1000.0):
        for f in (autodiff.square_root, tf.function(autodiff.square_root)):
            assert float(f(tf.constant(x, tf.float64))) == pytest.approx(
                x**0.5, rel=1e-10
            )
            slope = float(autodiff.gradient(f, tf.constant(x, tf.float64)))
            assert slope == pytest.approx(0.5 / x**0.5, rel=1e-9)
