import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize, rosen, rosen_der

from deep_learning_recipes.lbfgs import LBFGS


def rosenbrock(x):
    return tf.reduce_sum(
        100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1
    )


def test_it_finds_the_minima_that_scipy_finds_in_about_as_many_steps():
    starts = np.array([[-1.2, 1, -1.2, 1], [2, 2, 2, 2], [0, 0, 0, 0]], "float32")
    solver = LBFGS(rosenbrock, starts, steps_per_call=10)
    solver.minimize(range(8))
    np.testing.assert_allclose(rosenbrock(solver.x), solver.value, atol=1e-6)
    for start, x in zip(starts, solver.x.numpy(), strict=True):
        found = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B")
        assert found.nit < 80
        np.testing.assert_allclose(x, found.x, atol=2e-3)


def test_a_quadratic_is_solved_in_a_few_more_steps_than_it_has_dimensions():
    random = np.random.default_rng(0)
    root = random.normal(size=(6, 6))
    matrix, right = (root @ root.T + np.eye(6)).astype("float32"), np.ones(6, "float32")

    def quadratic(x):
        return tf.einsum("ni,ij,nj->n", x, matrix, x) / 2 - tf.linalg.matvec(x, right)

    solver = LBFGS(quadratic, np.zeros((1, 6), "float32"), steps_per_call=20)
    solver.minimize(range(1))
    np.testing.assert_allclose(solver.x[0], np.linalg.solve(matrix, right), atol=1e-3)


def test_rows_do_not_disturb_each_other():
    starts = np.array([[-1.2, 1.0], [30.0, -30.0]], "float32")
    both = LBFGS(rosenbrock, starts, steps_per_call=15)
    both.minimize(range(2))
    for row, start in enumerate(starts):
        alone = LBFGS(rosenbrock, start[None], steps_per_call=15)
        alone.minimize(range(2))
        np.testing.assert_allclose(both.x[row], alone.x[0], rtol=1e-3)


def test_it_never_goes_up_and_stays_at_a_minimum_or_before_a_wall():
    def walled(x):  # no number beyond 1
        return tf.reduce_sum(tf.math.sqrt(1 - x) + 3 * x**2, axis=1)

    start = np.array([[0.99, -0.5]], "float32")
    solver = LBFGS(walled, start, first_step=10.0, steps_per_call=1)
    last = float(walled(start)[0])
    for _ in range(30):
        solver.minimize(range(1))
        assert float(solver.value[0]) <= last
        last = float(solver.value[0])
    assert np.isfinite(solver.x).all()
    best = minimize(lambda x: float(walled(x[None])[0]), [0.0, 0.0]).x
    np.testing.assert_allclose(solver.x[0], best, atol=1e-2)


def test_pictures_keep_their_shape_and_a_saved_state_goes_on_alike():
    target = np.random.default_rng(1).uniform(size=(2, 5, 4, 3)).astype("float32")

    def distance(x):
        return tf.reduce_sum(
            (x - target) ** 4 + 0.1 * (x - target) ** 2, axis=(1, 2, 3)
        )

    first = LBFGS(distance, np.zeros_like(target), steps_per_call=3)
    first.minimize(range(1))
    second = LBFGS(distance, np.ones_like(target), steps_per_call=3)
    for mine, other in zip(second.state, first.state, strict=True):
        mine.assign(other)
    first.minimize(range(4))
    second.minimize(range(4))
    assert first.x.shape == target.shape
    np.testing.assert_allclose(first.x, second.x, atol=1e-6)
    np.testing.assert_allclose(first.x, target, atol=0.02)


@pytest.mark.parametrize("memory", [1, 5])
def test_more_memory_needs_no_more_steps(memory):
    solver = LBFGS(
        rosenbrock, np.zeros((1, 10), "float32"), memory=memory, steps_per_call=60
    )
    solver.minimize(range(1))
    assert solver.value[0] < {1: 5.0, 5: 1e-3}[memory]


def test_a_start_that_is_no_number_is_said():
    solver = LBFGS(
        lambda x: tf.reduce_sum(tf.math.log(x), axis=1), tf.constant([[1.0], [-1.0]])
    )
    with pytest.raises(ValueError, match="is no number where it starts"):
        solver.minimize(range(2))
