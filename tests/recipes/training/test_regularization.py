"""Updates against Keras's regularizers and constraint, step for step; measures by
hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes.training import stacks
from recipes import regularization as recipe

RATE = recipe.LEARNING_RATE


def some(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def test_l2_without_a_gradient_is_a_linear_decay():
    kernel = some(5, 3)
    found = recipe.l2_update(kernel, 0 * kernel, learning_rate=0.1, strength=0.3)
    np.testing.assert_allclose(found, (1 - 0.1 * 0.3) * kernel, rtol=1e-6)


def test_l1_takes_the_same_from_each_weight():
    kernel = np.array([[2.0, -0.5], [0.0, 1.0]], "float32")
    found = recipe.l1_update(kernel, 0 * kernel, learning_rate=0.1, strength=0.3)
    np.testing.assert_allclose(found, [[1.97, -0.47], [0, 0.97]], rtol=1e-6)


def test_max_norm_is_the_constraint_of_keras():
    kernel = some(5, 3)
    gradient = some(3, 5).T
    found = recipe.max_norm_update(kernel, gradient, 0.1, 1.5)
    expected = keras.constraints.MaxNorm(1.5)(kernel - 0.1 * gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    norms = np.linalg.norm(found, axis=0)
    assert norms.max() == pytest.approx(1.5, rel=1e-5)
    free = recipe.max_norm_update(kernel, gradient, 0.1, np.inf)
    np.testing.assert_allclose(free, kernel - 0.1 * gradient, rtol=1e-6)
    zeros = recipe.max_norm_update(0 * kernel, 0 * kernel, 0.1, 1.5)
    np.testing.assert_array_equal(zeros, 0)


def of_keras(name, strength):
    """The same network, regularized by Keras."""
    model = recipe.build_model(units=6)
    regularizer = None
    constraint = None
    if name == "L1":
        regularizer = keras.regularizers.L1(strength)
    elif name == "max-norm":
        constraint = keras.constraints.MaxNorm(strength)
    else:
        regularizer = keras.regularizers.L2(strength / 2)
    x = keras.Input((128,))
    hidden = x
    for layer in model.layers[1:]:
        config = layer.get_config()
        config["kernel_regularizer"] = regularizer
        config["kernel_constraint"] = constraint
        if recipe.METHODS[name].biases:
            config["bias_regularizer"] = regularizer
        hidden = keras.layers.Dense.from_config(config)(hidden)
    return keras.Model(x, hidden)


def test_training_is_that_of_keras_step_for_step():
    """Each method at its third strength, all methods in one call."""
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 128)).astype("float32")
    y = random.integers(10, size=40)
    batches = random.permutation(40).reshape(4, 10)
    keras.utils.set_random_seed(0)
    model = recipe.build_model(units=6)
    # Biases that are worth regularizing.
    start = stacks.row_of(model)
    start[start == 0] = 0.5
    rows = tf.Variable(np.tile(start, (len(recipe.METHODS), 1)))
    used = [method.strengths[3] for method in recipe.METHODS.values()]
    strengths = tf.constant(np.reshape(used, (-1, 1, 1)), "float32")
    recipe.train_epoch(
        model, rows, strengths, tf.constant(batches), tf.constant(x), tf.constant(y)
    )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for row, (name, strength) in zip(
        rows.numpy(), zip(recipe.METHODS, used, strict=True), strict=True
    ):
        alone = of_keras(name, strength)
        stacks.set_weights(alone, start)
        alone.compile(keras.optimizers.SGD(RATE), loss)
        for batch in batches:
            alone.train_on_batch(x[batch], y[batch])
        np.testing.assert_allclose(row, stacks.row_of(alone), atol=2e-5)


def test_measures_by_hand():
    kernel = np.array([[1.0, 3.0], [1.0, 0.0], [1.0, 0.02], [1.0, 0.0]])
    assert recipe.near_zero(kernel) == pytest.approx(3 / 8)
    # Spread over four inputs at length² 4, and over one at length² 9.
    expected = (4 * 4 + 9 * 1) / (4 + 9)
    assert recipe.participation_ratio(kernel) == pytest.approx(expected, rel=1e-3)
    assert recipe.participation_ratio(0 * kernel) == 0


def test_noise_stands_beside_the_same_pixels():
    loud = recipe.load_parts(100, seed=0, noise=1.0)
    quiet = recipe.load_parts(100, seed=0, noise=0.0)
    for name, (inputs, labels) in loud.items():
        pixels = inputs[:, : recipe.PIXELS].numpy()
        noise = inputs[:, recipe.PIXELS :].numpy()
        np.testing.assert_array_equal(pixels, quiet[name][0][:, : recipe.PIXELS])
        assert not quiet[name][0][:, recipe.PIXELS :].numpy().any()
        assert noise.std() == pytest.approx(1, abs=0.05)
        np.testing.assert_array_equal(labels, quiet[name][1])
    test = loud["test"][0].numpy()
    redrawn = loud["redrawn"][0].numpy()
    np.testing.assert_array_equal(test[:, :64], redrawn[:, :64])
    assert abs(np.corrcoef(test[:, 64:].ravel(), redrawn[:, 64:].ravel())[0, 1]) < 0.03
