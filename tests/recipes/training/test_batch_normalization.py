"""The layer against Keras's own, step for step, and against its equations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import batch_normalization as recipe


def both_layers(shape):
    """Ours and Keras's with the same γ and β, none of them as they begin."""
    random = np.random.default_rng(0)
    ours = recipe.BatchNormalization(momentum=0.9)
    theirs = keras.layers.BatchNormalization(momentum=0.9)
    for layer in (ours, theirs):
        layer.build(shape)
    weights = [random.uniform(0.5, 2, size=shape[-1]) for _ in range(4)]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


@pytest.mark.parametrize("shape", [(8, 3), (4, 5, 6, 3)])
def test_outputs_gradients_and_moving_averages_are_those_of_keras(shape):
    ours, theirs = both_layers(shape)
    random = np.random.default_rng(1)
    for _ in range(3):
        x = tf.constant(random.normal(2, 3, size=shape), "float32")
        weights = tf.constant(random.normal(size=shape), "float32")
        found = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(weights * y)
            gradients = tape.gradient(loss, [x, layer.gamma, layer.beta])
            found.append([y, *gradients])
        for own, expected in zip(*found, strict=True):
            np.testing.assert_allclose(own, expected, atol=2e-5)
    for own, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5)
    np.testing.assert_allclose(ours(x), theirs(x), atol=2e-5)


def test_a_batch_comes_out_with_mean_beta_and_deviation_gamma():
    layer = recipe.BatchNormalization(epsilon=1e-9)
    layer.build((None, 2))
    gamma, beta = np.array([2, 0.5]), np.array([7, -1])
    layer.set_weights([gamma, beta, np.zeros(2), np.ones(2)])
    x = np.random.default_rng(0).normal(30, [5, 0.2], size=(200, 2))
    y = layer(x.astype("float32"), training=True).numpy()
    np.testing.assert_allclose(y.mean(axis=0), [7, -1], atol=1e-4)
    np.testing.assert_allclose(y.std(axis=0), [2, 0.5], rtol=1e-3)


def test_gamma_of_sigma_and_beta_of_mu_are_the_identity():
    x = np.random.default_rng(0).normal([3, -2], [0.5, 4], size=(50, 2))
    x = x.astype("float32")
    layer = recipe.BatchNormalization(epsilon=1e-9)
    layer.build(x.shape)
    layer.set_weights([x.std(axis=0), x.mean(axis=0), np.zeros(2), np.ones(2)])
    np.testing.assert_allclose(layer(x, training=True), x, atol=1e-4)


def test_the_identity_is_learned():
    x = np.random.default_rng(0).normal([1, -2], [0.5, 2], size=(50, 2))
    layer, before, after = recipe.learn_identity(x.astype("float32"))
    np.testing.assert_allclose(layer.gamma, x.std(axis=0), atol=2e-3)
    np.testing.assert_allclose(layer.beta, x.mean(axis=0), atol=2e-3)
    assert before > 1
    assert after < 1e-6


def test_the_scale_of_weights_does_not_matter_to_what_follows():
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 64)).astype("float32")
    network = recipe.build_network(True, depth=2, units=5)
    logits = recipe.answer_in_training(network, x).numpy()
    hidden = network.get_layer("hidden_1")
    hidden.set_weights([7 * hidden.get_weights()[0]])
    np.testing.assert_allclose(recipe.answer_in_training(network, x), logits, atol=1e-2)


def test_looking_at_a_batch_leaves_the_moving_averages():
    network = recipe.build_network(True, depth=1, units=3)
    before = network.get_weights()
    recipe.answer_in_training(network, np.ones((4, 64), "float32"))
    for found, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_companions_matter_with_the_layer_alone():
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 64)).astype("float32")
    spreads = {
        normalized: recipe.spread_over_companions(
            recipe.build_network(normalized, depth=2, units=5), x[0], x[1:], 8, random
        )
        for normalized in (False, True)
    }
    assert spreads[False] < 1e-6
    assert spreads[True] > 0.05


def test_first_weights_have_the_scale_asked_for():
    for scale in (0.1, 3):
        network = recipe.build_network(False, depth=1, units=500, scale=scale)
        kernel = network.get_layer("hidden_1").get_weights()[0]
        assert kernel.std() == pytest.approx(scale * np.sqrt(2 / 64), rel=0.03)


def test_a_network_is_saved_and_loaded(tmp_path):
    network = recipe.build_network(True, depth=1, units=3)
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).normal(size=(4, 64))
    np.testing.assert_allclose(again(x), network(x), atol=1e-6)
    assert again.get_layer("norm_1").momentum == 0.9
