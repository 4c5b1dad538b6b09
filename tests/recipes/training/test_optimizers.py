"""Update rules against Keras's optimizers, step for step, and paths worked out by
hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import optimizers as recipe

RATE = 0.07
KERAS = {
    "gradient descent": lambda: keras.optimizers.SGD(RATE),
    "momentum": lambda: keras.optimizers.SGD(RATE, momentum=0.9),
    "Nesterov": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True),
    "AdaGrad": lambda: keras.optimizers.Adagrad(RATE, initial_accumulator_value=0.0),
    "RMSprop": lambda: keras.optimizers.RMSprop(RATE, rho=0.9),
    "Adam": lambda: keras.optimizers.Adam(RATE),
}


@pytest.mark.parametrize("name", KERAS)
def test_each_rule_equals_keras_step_for_step(name):
    random = np.random.default_rng(0)
    gradients = random.normal(size=(12, 5)) * [1, 10, 0.1, 1, 0]
    start = random.normal(size=5)
    variable = keras.Variable(start, dtype="float64")
    optimizer = KERAS[name]()
    optimizer.build([variable])
    expected = [start]
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
        expected.append(np.array(variable))
    left = iter(gradients)
    path = recipe.minimize(lambda _: next(left), start, recipe.RULES[name], RATE, 12)
    # Keras adds ε to Adam's root before it is corrected.
    np.testing.assert_allclose(path, expected, atol=1e-5)


def test_without_correction_the_first_step_is_too_large():
    """(1 − β₁)·g / √((1 − β₂)·g²) = 0.1 / √0.001, whatever the gradient."""
    for gradient in (1e-2, 1.0, 100.0):
        memory = (np.zeros(1), np.zeros(1))
        g = np.array([gradient])
        direction, _ = recipe.adam_without_correction(g, memory, 1)
        assert direction == pytest.approx(0.1 / np.sqrt(0.001), rel=1e-3)
        direction, _ = recipe.adam(g, memory, 1)
        assert direction == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("surface", "points"),
    [
        (recipe.valley(100, 0), None),
        (recipe.valley(100, 45), None),
        (recipe.saddle(100), None),
    ],
    ids=["valley", "rotated", "saddle"],
)
def test_slopes_are_those_of_the_losses(surface, points):
    points = np.random.default_rng(1).normal(size=(20, 2))
    for axis in range(2):
        step = 1e-6 * np.eye(2)[axis]
        difference = surface.loss(points + step) - surface.loss(points - step)
        np.testing.assert_allclose(
            surface.slope(points)[:, axis], difference / 2e-6, rtol=1e-4, atol=1e-5
        )


def test_rotated_valleys_have_the_same_curvatures():
    for degrees in (0, 30, 45):
        slope = recipe.valley(50, degrees).slope
        hessian = np.array([slope(each) for each in np.eye(2)])
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [1, 50])


def test_steps_until_below_counts_to_the_last_time_above():
    losses = np.array([[9, 9, 0], [1, 9, 0], [9, 9, 0], [1, 9, 0]])
    np.testing.assert_array_equal(recipe.steps_until_below(losses, 2), [3, 4, 0])


def test_gradient_descent_needs_what_its_condition_number_says():
    """A quadratic's slowest part shrinks by (κ − 1) / (κ + 1) at the best rate."""
    for number in (3.0, 40.0):
        surface = recipe.valley(number, 30)
        angle = np.deg2rad(30)
        start = np.array([np.cos(angle), np.sin(angle)])  # along the flattest axis
        rule = recipe.RULES["gradient descent"]
        path = recipe.minimize(surface.slope, start, rule, 2 / (1 + number), 400)
        distance = np.linalg.norm(path, axis=1)
        steps = recipe.steps_until_below(distance, 1e-3)
        kept = (number - 1) / (number + 1)
        assert steps == np.ceil(np.log(1e-3) / np.log(kept))


def test_regressions_descend_to_the_least_squares():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)) @ random.normal(size=(6, 6))
    y = random.normal(size=200)
    found = recipe.draw_regressions(x, y, 6, random)
    # All draws hold all inputs, in some order.
    expected = np.linalg.svd(x, compute_uv=False)
    condition_number = (expected[0] / expected[-1]) ** 2
    np.testing.assert_allclose(found.condition_numbers(), condition_number, rtol=1e-6)
    of_numpy = np.linalg.lstsq(x, y, rcond=None)[0]
    for solution in found.solutions:
        np.testing.assert_allclose(np.sort(solution), np.sort(of_numpy), atol=1e-8)
    # At most what its condition number says, and nearly that.
    kept = (condition_number - 1) / (condition_number + 1)
    most = np.log(1e-3) / np.log(kept)
    steps = found.steps(int(2 * most))
    assert np.all(steps <= np.ceil(most))
    assert np.all(steps > most / 4)


def test_the_best_friction_of_a_valley_is_that_of_polyak():
    """ρ = ((√κ − 1) / (√κ + 1))², 0.67 for 100: the usual 0.9 takes longer."""
    surface = recipe.valley(100, 45)
    usual = recipe.race(surface, recipe.RULES["momentum"], 400).steps.min()
    best = recipe.fewest_steps(surface, recipe.momentum, 400)
    rule = recipe.Rule(lambda *a: recipe.momentum(*a, left=0.7), memories=1)
    assert best <= recipe.race(surface, rule, 400).steps.min() < usual / 2


def test_stacked_training_is_that_of_each_network_alone():
    """Ten steps of all networks, against Keras's own for one of them."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(60, 64)).astype("float32")
    y = random.integers(10, size=60)
    keras.utils.set_random_seed(0)
    models = [recipe.build_model() for _ in range(2)]
    model = models[0]
    starts = np.stack([stacks.row_of(each) for each in models])
    count = len(recipe.RULES)
    rows = tf.Variable(np.tile(starts, (count, 1)))
    memories = [
        [tf.Variable(np.zeros_like(starts)) for _ in range(rule.memories)]
        for rule in recipe.RULES.values()
    ]
    rates = tf.tile(tf.constant([[0.02], [RATE]]), (count, 1))
    batches = np.array([random.choice(60, 16, replace=False) for _ in range(10)])
    first = tf.constant(1)
    losses = recipe.train_some(
        model, rows, memories, first, rates, tf.constant(batches), x, tf.constant(y)
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for index, name in enumerate(recipe.RULES):
        if name not in KERAS:
            continue
        stacks.set_weights(model, starts[1])
        model.compile(KERAS[name](), loss_of)
        for batch in batches:
            model.train_on_batch(x[batch], y[batch])
        alone = float(loss_of(y, model(x)))
        assert float(losses[2 * index + 1]) == pytest.approx(alone, rel=2e-3), name
