"""Points of the landscape against networks of their own, curvature against other ways
to it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from recipes import loss_landscape as recipe

RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.uniform(size=(30, 64)))
Y = tf.constant(RANDOM.integers(10, size=30))


@pytest.fixture
def model():
    return recipe.build_model(2, "float64")


@pytest.fixture
def points(model):
    return tf.constant(RANDOM.normal(size=(3, model.count_params())))


def move_to(model, point):
    """Gives the model the weights of a point, counted off one by one."""
    values = iter(np.array(point))
    for weight in model.weights:
        weight.assign(
            np.reshape([next(values) for _ in range(np.size(weight))], weight.shape)
        )
    assert next(values, None) is None


def test_a_point_is_a_network(model, points):
    logits = recipe.logits_of(model, points, X)
    losses = recipe.losses_of(model, points, X, Y)
    for index in range(3):
        move_to(model, points[index])
        np.testing.assert_allclose(logits[index], model(X), atol=1e-12)
        expected = -log_softmax(logits[index], axis=1)[np.arange(30), Y].mean()
        assert float(losses[index]) == pytest.approx(expected)


def test_hessian_product_is_the_finite_difference_of_gradients(model, points):
    directions, width = tf.constant(RANDOM.normal(size=points.shape)), 1e-5
    up, down = (
        recipe.gradients_of(model, points + sign * width * directions, X, Y)
        for sign in (1, -1)
    )
    product = recipe.hessian_product(model, points, directions, X, Y)
    np.testing.assert_allclose(product, (up - down) / (2 * width), atol=1e-8)
    losses = [
        recipe.losses_of(model, points + step * directions, X, Y)
        for step in (-1e-4, 0, 1e-4)
    ]
    curvature = (losses[0] - 2 * losses[1] + losses[2]) / 1e-8
    found = tf.reduce_sum(directions * product, axis=1)
    np.testing.assert_allclose(found, curvature, rtol=1e-4)


def test_sharpness_is_the_largest_eigenvalue(model, points):
    size = points.shape[1]
    directions = tf.constant(RANDOM.normal(size=points.shape))
    found = recipe.sharpness(model, points, directions, X, Y, 3000)
    for index in range(3):
        # The same network once for each axis: the products are the rows of its Hessian.
        copies = tf.repeat(points[index : index + 1], size, axis=0)
        hessian = recipe.hessian_product(model, copies, np.eye(size), X, Y)
        values = np.linalg.eigvalsh(hessian)
        largest = values[np.abs(values).argmax()]
        assert float(found[index]) == pytest.approx(largest, rel=1e-3)


def test_networks_descend_together_as_each_would_alone():
    points = recipe.draw_starts(4, [4, 4, 4])
    starts, batches = points.numpy(), np.array([[3, 1, 4], [5, 9, 2]])
    pairs = tf.cast(X, tf.float32), Y
    losses = recipe.descend(
        recipe.build_model(4), points, *pairs, tf.constant(batches), 0.0
    )
    for index, start in enumerate(starts):
        model = recipe.build_model(4)
        move_to(model, start)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(recipe.LEARNING_RATE), loss)
        for rows in batches:
            model.train_on_batch(pairs[0].numpy()[rows], Y.numpy()[rows])
        ours = points[index].numpy()
        flat = np.concatenate([np.ravel(each) for each in model.get_weights()])
        np.testing.assert_allclose(ours, flat, atol=1e-5)
        assert float(losses[index]) == pytest.approx(
            float(loss(Y, model(pairs[0]))), rel=1e-4
        )


def test_networks_at_the_target_stand_still():
    points = recipe.draw_starts(4, [4, 4, 4])
    starts, pairs = points.numpy(), (tf.cast(X, tf.float32), Y)
    model = recipe.build_model(4)
    losses = recipe.losses_of(model, tf.constant(starts), *pairs).numpy()
    target = float(
        np.sort(losses)[:2].mean()
    )  # one is below it, well apart from rounding
    recipe.descend(model, points, *pairs, tf.constant([[0, 1]]), target)
    moved = np.any(points.numpy() != starts, axis=1)
    np.testing.assert_array_equal(moved, losses > target)
    assert moved.sum() == 2


def test_a_narrow_network_stays_narrow():
    points = recipe.draw_starts(5, [2, 5])
    pairs = tf.cast(X, tf.float32), Y
    model = recipe.build_model(5)
    recipe.descend(model, points, *pairs, tf.constant([[0, 1, 2]] * 5), 0.0)
    kernel, _, kernel_out, _ = recipe.weights_at(model, points)
    assert np.count_nonzero(np.any(kernel[0] != 0, axis=0)) == 2
    assert np.count_nonzero(np.any(kernel_out[0] != 0, axis=1)) == 2
    assert np.count_nonzero(np.any(kernel[1] != 0, axis=0)) == 5


def test_a_directions_columns_are_as_long_as_the_neurons(model, points):
    weights = [each[0].numpy() for each in recipe.weights_at(model, points)]
    directions = [
        recipe.draw_direction(np.random.default_rng(s), weights) for s in (0, 1)
    ]
    for direction in directions:
        parts = recipe.weights_at(model, tf.constant(direction[np.newaxis]))
        for weight, part in zip(weights, parts, strict=True):
            if weight.ndim == 1:
                assert not np.any(part)
            else:
                expected = np.linalg.norm(weight, axis=0)
                np.testing.assert_allclose(np.linalg.norm(part[0], axis=0), expected)
    assert abs(np.corrcoef(*directions)[0, 1]) < 0.4


def test_more_images_are_taken_from_the_others_and_never_tested_on():
    x = np.arange(1797.0)[:, np.newaxis] * np.ones(64)
    y = np.arange(1797)
    few = recipe.EXAMPLES
    task = recipe.Task(
        tf.constant(x[:few]), tf.constant(y[:few]), x[few:], y[few:], None, None, None
    )
    for count in recipe.SIZES:
        larger = recipe.with_images(task, count)
        rows, repeats = np.unique(larger.y, return_counts=True)
        np.testing.assert_array_equal(rows, np.arange(count))
        assert np.all(repeats == max(recipe.SIZES) // count)
        np.testing.assert_array_equal(larger.x[:, 0], larger.y)
        np.testing.assert_array_equal(larger.y_test, np.arange(max(recipe.SIZES), 1797))
        np.testing.assert_array_equal(larger.x_test[:, 0], larger.y_test)
