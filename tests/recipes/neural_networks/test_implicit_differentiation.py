"""The implicit gradient against dense linear algebra, unrolling, differences and
gradient checking; memory against a count by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import Ridge

from recipes import gradient_checking
from recipes import implicit_differentiation as implicit

RANDOM = np.random.default_rng(0)
BATCH, FEATURES, UNITS = 6, 3, 5
X = RANDOM.normal(size=(BATCH, FEATURES))


def layer(implicitly=True, iterations=200):
    keras.utils.set_random_seed(0)
    made = implicit.Equilibrium(UNITS, iterations, implicitly, dtype="float64")
    made.build((None, FEATURES))
    made.b.assign(np.linspace(-0.5, 0.5, UNITS))
    return made


@pytest.mark.parametrize("implicitly", [True, False])
def test_the_layer_ends_at_a_fixed_point(implicitly):
    made = layer(implicitly)
    z = made(X).numpy()
    w, u, b = (np.asarray(each) for each in made.weights)
    np.testing.assert_allclose(np.tanh(z @ w + X @ u + b), z, atol=1e-12)
    assert np.abs(z).max() > 0.1


def gradients(made, g):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = made(x)
    return [
        each.numpy()
        for each in tape.gradient(z, [*made.trainable_weights, x], tf.constant(g))
    ]


def test_the_gradient_is_that_of_the_dense_linear_system():
    """h = (I − J)⁻ᵀ g with J built in full for each example, then the chain rule by
    hand."""
    made, g = layer(), RANDOM.normal(size=(BATCH, UNITS))
    z = made(X).numpy()
    w, u, _ = (np.asarray(each) for each in made.weights)
    by_a = np.empty_like(z)  # by what goes into tanh
    for row in range(BATCH):
        slope = np.diag(1 - z[row] ** 2)
        jacobian = slope @ w.T  # ∂ tanh(zW + ...)_i / ∂ z_j
        by_a[row] = slope @ np.linalg.solve((np.eye(UNITS) - jacobian).T, g[row])
    expected = [z.T @ by_a, X.T @ by_a, by_a.sum(axis=0), by_a @ u.T]
    for found, right in zip(gradients(made, g), expected, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-10)


def test_the_gradient_is_that_of_unrolling():
    g = RANDOM.normal(size=(BATCH, UNITS))
    pairs = zip(gradients(layer(True), g), gradients(layer(False), g), strict=True)
    for found, right in pairs:
        np.testing.assert_allclose(found, right, atol=1e-10)


def test_the_layer_passes_the_gradient_check():
    x = keras.Input((FEATURES,))
    model = keras.Model(x, implicit.Equilibrium(UNITS, 100, name="own")(x))
    y = RANDOM.normal(size=(BATCH, UNITS))
    rows = gradient_checking.check_gradients(
        model, X, y, keras.losses.MeanSquaredError()
    )
    assert max(row.error for row in rows.values()) < 1e-6


def test_the_constraint_bounds_the_largest_singular_value():
    large, small = RANDOM.normal(size=(7, 7)), 0.1 * np.eye(7)
    constraint = implicit.Contraction()
    assert np.linalg.norm(constraint(large), 2) == pytest.approx(0.8, rel=1e-5)
    scaled = large * 0.8 / np.linalg.norm(large, 2)
    np.testing.assert_allclose(constraint(large), scaled, rtol=1e-5)
    np.testing.assert_array_equal(constraint(small), small)


def kept_by(model, x, y):
    def loss():
        losses = keras.losses.sparse_categorical_crossentropy(
            y, model(x), from_logits=True
        )
        return tf.reduce_mean(losses)

    _, kept = implicit.gradients_and_memory(loss, model.trainable_variables)
    return kept


def test_memory_as_counted_by_hand():
    """float64, 4 examples. Unrolled: z after each iteration, (4, 8), and in the last
    layer too; the logits' part is the same for both."""
    x, y = RANDOM.normal(size=(4, 64)), np.array([0, 1, 2, 3])
    kept = {}
    for count in (10, 11, 20):
        for implicitly in (True, False):
            model = implicit.build_classifier(8, count, implicitly, "float64")
            kept[count, implicitly] = kept_by(model, x, y)
    a_state = 4 * 8 * 8
    assert kept[11, False] - kept[10, False] == a_state
    assert kept[20, False] - kept[10, False] == 10 * a_state
    assert kept[20, True] == kept[10, True] <= kept[10, False]


@pytest.mark.parametrize("iterations", [10, 20])
def test_what_a_loop_in_the_graph_keeps_is_seen(iterations):
    """Differentiated through, it fills lists with z before and after tanh, (6, 5), and
    with W, (5, 5), one of each a round."""
    w = tf.Variable(0.1 * np.eye(UNITS))
    injected = tf.constant(RANDOM.normal(size=(BATCH, UNITS)))

    def loss():
        zeros = tf.zeros_like(injected)
        z = implicit.repeat(lambda z: tf.tanh(z @ w + injected), zeros, iterations)
        return tf.reduce_sum(z)

    gradient, kept = implicit.gradients_and_memory(loss, [w])
    a_round = 2 * BATCH * UNITS * 8 + UNITS * UNITS * 8
    assert kept == pytest.approx(iterations * a_round, rel=0.01)
    assert np.abs(gradient).max() > 0


def test_ridge_equals_scikit_learn():
    x, y = RANDOM.normal(size=(20, 4)), RANDOM.normal(size=20)
    w, _ = implicit.ridge(x, y, 2.5)
    np.testing.assert_allclose(
        w, Ridge(alpha=2.5, fit_intercept=False).fit(x, y).coef_, rtol=1e-8
    )


def test_the_slope_by_the_penalty_equals_differences_and_descent():
    x, y = RANDOM.normal(size=(20, 4)), RANDOM.normal(size=20)
    new = RANDOM.normal(size=(30, 4)), RANDOM.normal(size=30)
    low, high = (
        implicit.validation_error(implicit.ridge(x, y, p)[0], *new)
        for p in (2.4999, 2.5001)
    )
    found = implicit.slope_by_theorem(*implicit.ridge(x, y, 2.5), *new)
    assert found == pytest.approx((high - low) / 2e-4, rel=1e-5)
    assert implicit.slope_through_descent(2.5, x, y, *new, steps=500) == pytest.approx(
        found
    )
