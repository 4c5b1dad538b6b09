"""Dropout against Keras's layer, expectations by many masks, stacks against single
networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import dropout as recipe

ONES = np.ones((400, 500), "float32")
N = ONES.size


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.8])
def test_kept_share_and_scale_are_those_of_keras(rate):
    ours = np.array(recipe.InvertedDropout(rate, seed=0)(ONES, training=True))
    theirs = np.array(keras.layers.Dropout(rate, seed=1)(ONES, training=True))
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / N)
    assert np.mean(ours > 0) == pytest.approx(1 - rate, abs=5 * deviation)
    assert np.mean(theirs > 0) == pytest.approx(1 - rate, abs=5 * deviation)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_both_forms_answer_what_they_give_in_the_mean(rate):
    x = np.tile(np.linspace(-1, 2, 7, dtype="float32"), (40_000, 1))
    for layer in (recipe.InvertedDropout, recipe.ScaledDropout):
        drops = layer(rate, seed=0)
        mean = np.array(drops(x, training=True)).mean(axis=0)
        answers = np.array(drops(x[:1], training=False))[0]
        np.testing.assert_allclose(mean, answers, atol=0.05)
    np.testing.assert_allclose(answers, (1 - rate) * x[0], rtol=1e-6)


def test_dropconnect_drops_weights_and_keeps_the_mean():
    layer = recipe.DropConnect(3, 0.4, seed=0)
    x = np.eye(5, dtype="float32")
    whole = np.array(layer(x))
    dense = keras.layers.Dense(3)
    dense.build((None, 5))
    dense.set_weights([layer.kernel.numpy(), layer.bias.numpy()])
    np.testing.assert_allclose(whole, dense(x), atol=1e-6)
    passes = np.array([layer(x, training=True) for _ in range(200)])
    # Of each weight alone, as each input asks for one row of the kernel.
    kept = np.mean(passes != 0)
    assert kept == pytest.approx(0.6, abs=0.05)
    np.testing.assert_allclose(passes.mean(axis=0), whole, atol=0.25)
    nonzero = passes[0] != 0
    np.testing.assert_allclose(passes[0][nonzero], whole[nonzero] / 0.6, rtol=1e-5)


def test_a_rate_that_drops_all_is_refused():
    for make in (recipe.InvertedDropout, recipe.ScaledDropout):
        with pytest.raises(ValueError, match="below 1"):
            make(1.0)
    with pytest.raises(ValueError, match="below 1"):
        recipe.DropConnect(3, -0.1)


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_a_saved_model_answers_the_same(kind, tmp_path):
    model = recipe.build_model(kind, 0.5, units=4, pixels=6)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)
    assert np.abs(model(x, training=True) - model(x)).max() > 1e-3


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_a_stack_answers_as_its_networks_do(kind):
    stack = recipe.Stack(kind, starts=2, units=6, seed=0)
    x = np.random.default_rng(0).uniform(size=(4, 196)).astype("float32")
    logits = stack.by_rate(stack.call(tf.constant(x), training=False))
    for index in (0, recipe.HALF):
        model = recipe.build_model(kind, recipe.RATES[index], units=6)
        for variable, weight in zip(
            model.trainable_variables, stack.at(index), strict=True
        ):
            variable.assign(weight[1].reshape(variable.shape))
        np.testing.assert_allclose(logits[index, 1], model(x), atol=1e-5)


def test_a_stack_drops_what_its_rates_say(monkeypatch):
    """Of networks whose kernels let each unit through, by the share of zeros."""
    rates = np.float32([0, 0.25, 0.5, 0.75])[:, np.newaxis, np.newaxis]
    eye = np.tile(np.eye(50, dtype="float32"), (4, 1, 1))
    zeros = np.zeros((4, 1, 50), "float32")
    weights = [eye, zeros] * 3
    x = tf.ones((400, 50))
    seed = keras.random.SeedGenerator(0)
    found = recipe.call("inverted", weights, rates, x, seed, training=True)
    kept = np.mean(found.numpy() > 0, axis=(1, 2))
    np.testing.assert_allclose(kept, (1 - rates.ravel()) ** 2, atol=0.02)


def test_without_dropout_a_stack_trains_as_keras_does():
    random = np.random.default_rng(0)
    x = random.uniform(size=(40, 196)).astype("float32")
    y = random.integers(10, size=40)
    stack = recipe.Stack("inverted", starts=1, units=6, seed=0)
    model = recipe.build_model("inverted", 0.0, units=6)
    for variable, weight in zip(model.trainable_variables, stack.at(0), strict=True):
        variable.assign(weight[0].reshape(variable.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(recipe.LEARNING_RATE), loss)
    batches = np.arange(40).reshape(4, 10)
    for batch in batches:
        model.train_on_batch(x[batch], y[batch])
    stack.train_epoch(tf.constant(batches), tf.constant(x), tf.constant(y))
    found = stack.by_rate(stack.call(tf.constant(x), training=False))[0, 0]
    np.testing.assert_allclose(found, model(x), atol=1e-4)


def test_entropy_and_monte_carlo_by_hand():
    uniform = np.full((2, 10), 0.1)
    np.testing.assert_allclose(recipe.entropy(uniform), np.log(10))
    np.testing.assert_allclose(recipe.entropy(np.eye(3)), 0, atol=1e-9)
    model = recipe.build_model("inverted", 0.0, units=4, pixels=6)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    found = recipe.monte_carlo(model, x, passes=2)
    np.testing.assert_allclose(found, keras.ops.softmax(model(x)), atol=1e-6)


def test_auroc_is_of_wrong_against_right():
    probabilities = np.array([[[0.6, 0.4], [0.9, 0.1], [0.8, 0.2]]])
    found = recipe.Answers(np.log(probabilities), probabilities, 0.67)
    y = np.array([1, 0, 0])
    assert found.auroc(y) == 1
    assert found.confidence_in_errors(y) == pytest.approx(0.6)
    assert found.loss(y) == pytest.approx(-np.log([0.4, 0.9, 0.8]).mean())
