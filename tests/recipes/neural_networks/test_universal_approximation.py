"""Constructed and trained networks against NumPy, hand-worked steps and their
bounds."""

import keras
import numpy as np
import pytest
from scipy.special import expit

from recipes import universal_approximation as recipe


def test_a_bump_is_the_difference_of_two_sigmoids():
    x = np.linspace(-1, 1, 41)[:, np.newaxis]
    expected = expit(30 * (x + 0.2)) - expit(30 * (x - 0.5))
    np.testing.assert_allclose(recipe.bump(-0.2, 0.5, 30)(x), expected, atol=1e-6)


def test_a_staircase_by_hand():
    """Three stairs over [−1, 1] for f(x) = x: heights −2/3, 0, 2/3, steps at ∓1/3."""
    model = recipe.construct(lambda x: x, 2)
    middles = np.array([[-2 / 3], [0], [2 / 3]])
    np.testing.assert_allclose(model(middles), middles, atol=1e-4)
    np.testing.assert_allclose(
        model(np.array([[-1 / 3], [1 / 3]])), [[-1 / 3], [1 / 3]], atol=1e-4
    )
    assert model.get_layer("hidden").units == 2


@pytest.mark.parametrize("neurons", [1, 3, 10, 50, 200])
def test_no_constructed_network_errs_by_more_than_the_bound(neurons):
    x = np.linspace(-1, 1, 5001)[:, np.newaxis]
    error = np.abs(recipe.construct(recipe.curve, neurons)(x) - recipe.curve(x)).max()
    assert error < recipe.bound(neurons, recipe.LIPSCHITZ)
    # The steepest function of that slope comes near half the bound: it is no idle one.
    steep = np.abs(
        recipe.construct(lambda t: recipe.LIPSCHITZ * t, neurons)(x)
        - recipe.LIPSCHITZ * x
    )
    assert (
        0.45 * recipe.bound(neurons, recipe.LIPSCHITZ)
        < steep.max()
        < recipe.bound(neurons, recipe.LIPSCHITZ)
    )


def test_no_slope_of_the_curve_is_steeper_than_its_lipschitz_constant():
    x = np.linspace(-1, 1, 100_001)[:, np.newaxis]
    slopes = np.abs(np.diff(recipe.curve(x), axis=0) / np.diff(x, axis=0))
    assert 0.9 * recipe.LIPSCHITZ < slopes.max() < recipe.LIPSCHITZ


def test_the_surface_by_hand():
    found = recipe.surface(np.array([[0.4, 0.3], [-0.4, -0.4]]))
    apart = 0.8**2 + 0.7**2
    expected = [[1 - np.exp(-6 * apart) + 0.12], [np.exp(-4 * apart) - 1 - 0.12]]
    np.testing.assert_allclose(found, expected)


def test_training_without_a_bend_is_least_squares():
    x = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    y = recipe.surface(x)
    keras.utils.set_random_seed(0)
    model = recipe.build_network(2, 3, "linear")
    recipe.train(model, x, y, 50)
    columns = np.hstack([x, np.ones((100, 1))])
    expected = columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    np.testing.assert_allclose(model(x), expected, atol=1e-4)


def test_training_finds_a_network_again():
    """Data of a network with one neuron is fitted by one neuron."""
    keras.utils.set_random_seed(0)
    x = np.linspace(-1, 1, 50)[:, np.newaxis]
    model = recipe.build_network(1, 1, "tanh")
    recipe.train(model, x, 2 * np.tanh(3 * x - 1) + 0.5, 100)
    assert recipe.root_mean_square(model(x) - (2 * np.tanh(3 * x - 1) + 0.5)) < 1e-4
