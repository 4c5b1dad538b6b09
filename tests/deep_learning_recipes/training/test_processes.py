"""Training in a process of its own, for devices and determinism are settled once a
process."""

import json
import os

import pytest
from conftest import command

PROGRAM = """
import json
import keras, numpy as np, tensorflow as tf
from deep_learning_recipes import training
from deep_learning_recipes.distribute import strategies

mirrored, _ = strategies.strategy("mirrored:2")
answers = {}
x = np.random.default_rng(0).normal(size=(70, 4)).astype("float32")
y = (x.sum(1) > 0).astype("int32")

def classifier():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = classifier()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    history = training.fit(model, x[:64], y[:64], batch_size=16, epochs=4, seed=1,
                           verbose=0, validation_data=(x[:33], y[:33]))
    return model.get_weights()[0], history.history["loss"]

one, _ = train(tf.distribute.get_strategy())
two, losses = train(mirrored)
answers["difference of two replicas to one"] = np.abs(one - two).max()
answers["losses of two replicas"] = losses

# The second has a batch of one example, which only one replica may count.
with mirrored.scope():
    still = classifier()
    still.compile(keras.optimizers.SGD(0.0), "mse", metrics=["accuracy"])
targets = keras.utils.to_categorical(y)
answers["found accuracy"] = []
answers["accuracy"] = []
for examples in (32, 33):
    history = training.fit(still, x[:examples], targets[:examples], batch_size=16, verbose=0)
    right = (x[:examples] @ still.get_weights()[0]).argmax(1) == y[:examples]
    answers["found accuracy"].append(history.history["accuracy"][0])
    answers["accuracy"].append(right.mean())

tf.config.experimental.enable_op_determinism()
images = np.random.default_rng(0).normal(size=(40, 8, 8, 1))

def noisy_weights(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3),
                              keras.layers.Dropout(0.5), keras.layers.Flatten(),
                              keras.layers.Dense(1)])
    model.compile("adam", "mse")
    training.fit(model, images, images.sum((1, 2)), batch_size=20, epochs=3, verbose=0,
                 jit_compile=jit_compile)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])

answers["deterministic"] = [
    bool((noisy_weights(jit_compile) == noisy_weights(jit_compile)).all())
    for jit_compile in (False, True)
]
print(json.dumps(answers, default=float))
"""


@pytest.fixture(scope="module")
def answers():
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = command("-c", PROGRAM, env=quiet)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_two_replicas_learn_the_same(answers):
    assert answers["difference of two replicas to one"] < 1e-5
    losses = answers["losses of two replicas"]
    assert len(losses) == 4
    assert losses[-1] < 0.5 * losses[0]


def test_a_batch_of_fewer_examples_than_replicas_counts_once(answers):
    assert answers["found accuracy"] == pytest.approx(answers["accuracy"], abs=1e-5)


def test_deterministic_runs_are_equal_to_the_bit(answers):
    assert answers["deterministic"] == [True, True]
