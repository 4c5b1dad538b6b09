"""Importances against scikit-learn's, the network's own derivative, and networks
trained alone."""

import keras
import numpy as np
import pytest
from scipy.integrate import dblquad
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import make_friedman1
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss

from recipes import feature_importance as fi


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4))
    return x, x[:, 0] * x[:, 1] + x[:, 2] + random.normal(size=60)


@pytest.fixture(scope="module")
def stack():
    model = fi.build_stack(np.ones((3, 4)), units=8)
    random = np.random.default_rng(1)
    model.set_weights([random.normal(size=each.shape) for each in model.get_weights()])
    return model


class Network(RegressorMixin, BaseEstimator):
    """One network of a stack, as scikit-learn wants to see it."""

    def __init__(self, stack=None, number=0):
        self.stack = stack
        self.number = number

    def fit(self, x, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, x):
        return np.asarray(self.stack(x))[:, self.number]


def test_permutation_importance_equals_scikit_learns_for_the_same_shuffles(
    table, stack
):
    x, y = table
    repeats, seed = 5, 7
    # scikit-learn draws a seed, shuffles each column with it, and shuffles what is
    # shuffled.
    state = np.random.RandomState(
        np.random.RandomState(seed).randint(np.iinfo(np.int32).max + 1)
    )
    indices, order, orders = np.arange(len(x)), np.arange(len(x)), []
    for _ in range(repeats):
        state.shuffle(indices)
        order = order[indices]
        orders.append(order)
    changed = fi.permuted(x, np.array(orders), [[j] for j in range(4)])
    ours = fi.rise(stack, x, y, changed, fi.squared_error)
    for number in range(3):
        theirs = permutation_importance(
            Network(stack, number),
            x,
            y,
            scoring="neg_mean_squared_error",
            n_repeats=repeats,
            random_state=seed,
        ).importances
        np.testing.assert_allclose(ours[..., number], theirs, rtol=1e-4, atol=1e-4)


def test_a_group_is_permuted_together_and_nothing_else_changes(table):
    x, _ = table
    order = np.random.default_rng(0).permutation(len(x))
    ((changed,),) = fi.permuted(x, order[None], [[1, 3]])
    np.testing.assert_array_equal(changed[:, [1, 3]], x[order][:, [1, 3]])
    np.testing.assert_array_equal(changed[:, [0, 2]], x[:, [0, 2]])


def test_the_mean_in_its_place_takes_a_linear_models_column_away(table):
    x, y = table
    for j, changed in enumerate(fi.without(x)):
        np.testing.assert_allclose(changed[:, j], x[:, j].mean())
        others = np.arange(4) != j
        np.testing.assert_array_equal(changed[:, others], x[:, others])
    # In a linear model it costs w²·Var(x) − 2w·Cov(x, residual), and residuals have no
    # covariance.
    line = LinearRegression().fit(x, y)
    costs = [np.mean((y - line.predict(c)) ** 2) for c in fi.without(x)]
    expected = line.coef_**2 * x.var(axis=0) + np.mean((y - line.predict(x)) ** 2)
    np.testing.assert_allclose(costs, expected)


def test_slopes_equal_finite_differences(table, stack):
    x, _ = table
    found = fi.slopes(stack, x)
    assert found.shape == (60, 3, 4)
    step = 1e-2
    for j in range(4):
        move = step * np.eye(4)[j]
        difference = (np.asarray(stack(x + move)) - np.asarray(stack(x - move))) / (
            2 * step
        )
        # A kink within the step is rare.
        errors = np.abs(found[:, :, j] - difference * x[:, j].std())
        assert np.median(errors) < 1e-2
        assert np.mean(errors < 0.05) > 0.9


def test_the_losses_are_scikit_learns():
    y = np.array([0, 1, 1, 0, 1])
    logits = np.array([-800.0, 2.0, -1.0, 0.5, 30.0])
    (found,) = fi.log_loss(y, logits[:, None])
    assert found == pytest.approx(
        log_loss(y, 1 / (1 + np.exp(-logits.clip(-700)))), rel=1e-6
    )
    assert fi.squared_error(
        np.array([1.0, 2.0]), np.array([[3.0], [2.0]])
    ).tolist() == [2]


def test_friedmans_table_is_scikit_learns():
    x, y = make_friedman1(50, random_state=0)
    np.testing.assert_allclose(fi.friedman(x), y)


def test_the_truth_is_twice_the_variance_that_a_column_explains():
    found = fi.truth(7, np.random.default_rng(0))
    # 2·Var(10x) = 200/12, 2·Var(5x) = 50/12, 2·Var(20(x − ½)²) = 800·(1/80 − 1/144).
    np.testing.assert_allclose(found[3:5], [200 / 12, 50 / 12], rtol=0.02)
    assert found[2] == pytest.approx(800 * (1 / 80 - 1 / 144), rel=0.02)
    # 2·E Var(10 sin(πab) | b), by quadrature.
    squares, _ = dblquad(lambda a, b: np.sin(np.pi * a * b) ** 2, 0, 1, 0, 1)
    b = (np.arange(4000) + 0.5) / 4000
    means = (1 - np.cos(np.pi * b)) / (np.pi * b)
    np.testing.assert_allclose(
        found[:2], 200 * (squares - np.mean(means**2)), rtol=0.02
    )
    np.testing.assert_array_equal(found[5:], 0)


def test_a_network_of_a_stack_is_a_network_of_its_own(table):
    x = table[0].astype("float32")
    y = table[1].astype("float32")
    masks = np.array([[1, 1, 1, 1], [1, 0, 1, 1.0]])
    stack = fi.build_stack(masks, units=6)
    alone = fi.select(stack, masks, np.array([1]))
    blind = keras.Sequential(
        [keras.layers.Dense(n, a) for n, a in ((6, "relu"), (6, "relu"), (1, None))]
    )
    blind.build((None, 4))
    blind.set_weights([each[0] for each in alone.get_weights()])
    for model, targets in ((stack, np.repeat(y[:, None], 2, 1)), (alone, y[:, None])):
        model.compile(keras.optimizers.Adam(0.01, epsilon=1e-12), "mse")
        model.fit(x, targets, epochs=3, batch_size=20, shuffle=False, verbose=0)
    blind.compile(keras.optimizers.Adam(0.01, epsilon=1e-12), "mse")
    hidden = x * masks[1].astype("float32")
    blind.fit(hidden, y, epochs=3, batch_size=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(stack(x)[:, 1], alone(x)[:, 0], atol=1e-4)
    np.testing.assert_allclose(stack(x)[:, 1], blind(hidden)[:, 0], atol=1e-4)
    moved = x + np.array([0, 5, 0, 0], "float32")
    np.testing.assert_array_equal(stack(moved)[:, 1], stack(x)[:, 1])


def test_weights_start_with_hes_variance():
    kernel = fi.build_stack(np.ones((40, 50)), 64).get_weights()[0]
    assert kernel.var() == pytest.approx(2 / 50, rel=0.05)


def test_unlike_columns_are_no_copies_of_each_other():
    random = np.random.default_rng(0)
    a, b, c = random.normal(size=(3, 200))
    x = np.stack([a, a + 0.1 * b, b, b - 0.1 * c, c], axis=1)
    chosen = fi.unlike_columns(fi.Table(x, a, x, a), 3)
    assert 4 in chosen
    assert len({0, 1} & set(chosen)) == 1
    assert len({2, 3} & set(chosen)) == 1
