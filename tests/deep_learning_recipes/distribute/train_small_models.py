"""`train_small_models.py STRATEGY FOLDER`: trains small models and saves what they
became."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from deep_learning_recipes import training
from deep_learning_recipes.distribute import strategies
from deep_learning_recipes.training.state import state_variables

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(70, 6)).astype("float32")
WORDS = GENERATOR.integers(0, 9, (70, 5))
LABELS = (X.sum(axis=1) > 0).astype("int32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Mixed(keras.Model):
    """A step of its own that adds up a loss of Keras's making, which Keras divides by
    the number of replicas, and one of its own making, which it does not; and two
    optimizers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            keras.Sequential([keras.Input((6,)), layers.Dense(2)]) for _ in "ab"
        )
        self.tracker = keras.metrics.Mean("own")

    def compile(self):
        super().compile(optimizer=None, loss=None)
        self.first_optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.second_optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.05)

    def terms(self, data):
        x, y = data
        logits = self.first(x) + self.second(x)
        own = keras.ops.mean(keras.ops.square(logits), axis=-1)
        self.tracker.update_state(own)
        return CROSS_ENTROPY(y, logits) + 0.3 * keras.ops.mean(own)

    def train_step(self, data):
        with tf.GradientTape(persistent=True) as tape:
            loss = self.terms(data)
        for network, optimizer in (
            (self.first, self.first_optimizer),
            (self.second, self.second_optimizer),
        ):
            weights = network.trainable_variables
            optimizer.apply_gradients(
                zip(tape.gradient(loss, weights), weights, strict=True)
            )
        return {"own": self.tracker.result()}

    def test_step(self, data):
        self.terms(data)
        return {"own": self.tracker.result()}


class Noise(keras.Model):
    """Sums up what it draws, one number for each replica, in the gradient of its
    weights."""

    def __init__(self):
        super().__init__()
        self.sums = self.add_weight(shape=(2,), initializer="zeros", name="sums")
        self.seed_generator = keras.random.SeedGenerator(3)

    def train_step(self, data):
        x, _ = data
        drawn = keras.random.uniform((1,), seed=self.seed_generator)
        # Column 0 holds the first half of each batch: -1, the second: 1.
        here = keras.ops.mean(x[:, 0])
        place = keras.ops.stack([here < 0, here > 0])
        gradient = -keras.ops.cast(place, "float32") * drawn
        self.optimizer.apply_gradients([(gradient, self.sums)])
        return {"drawn": keras.ops.sum(drawn)}


def compiled(model, optimizer=None):
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        CROSS_ENTROPY,
        metrics=["accuracy"],
    )
    return model


def dense(*first):
    return keras.Sequential(
        [keras.Input((6,)), *first, layers.Dense(8, "tanh"), layers.Dense(2)]
    )


def make(name):
    """The model of that name, and its inputs."""
    if name == "classifier":
        return compiled(dense(), keras.optimizers.Adam(0.01)), X
    if name == "clipped":
        return compiled(dense(), keras.optimizers.SGD(0.5, global_clipnorm=0.1)), X
    if name == "scaled":
        optimizer = keras.optimizers.SGD(0.1, clipnorm=0.1)
        return compiled(dense(), keras.optimizers.LossScaleOptimizer(optimizer)), X
    if name == "embedding":
        inputs = [
            keras.Input((5,)),
            layers.Embedding(9, 4),
            layers.GlobalAveragePooling1D(),
        ]
        return compiled(keras.Sequential([*inputs, layers.Dense(2)])), WORDS
    if name == "normalized":
        return compiled(dense(layers.BatchNormalization())), X
    if name == "synchronized":
        return compiled(dense(layers.BatchNormalization(synchronized=True))), X
    if name == "noisy":
        model = Noise()
        model.compile(keras.optimizers.SGD(1.0))
        return model, np.resize(np.repeat([-1.0, 1.0], 8), (70, 1)).astype("float32")
    model = Mixed()
    model.compile()
    return model, X


class Restart(keras.callbacks.Callback):
    """Lets each training begin where the first one did."""

    start = None

    def restore(self, model):
        variables = state_variables(model)
        if self.start is None:
            self.start = [np.array(variable) for variable in variables]
        for variable, value in zip(variables, self.start, strict=True):
            variable.assign(value)
        return 0


def train(name, sizes, strategy, folder):
    """Trains one model on so many examples each time, and saves what it became."""
    worker = strategies.worker_number() or 0
    keras.utils.set_random_seed(0)
    restart = Restart()
    with strategy.scope():
        model, x = make(name)
        for examples in sizes:
            history = training.fit(
                model,
                x[:examples],
                LABELS[:examples],
                batch_size=16,
                epochs=3,
                seed=1,
                shuffle=name != "noisy",
                verbose=0,
                validation_data=None if name == "noisy" else (x[:33], LABELS[:33]),
                callbacks=[restart],
            ).history
            path = Path(folder, f"{worker}-{name}-{examples}")
            weights = [
                np.array(weight)
                for weight in model.weights
                if weight.name != "seed_generator_state"
            ]
            np.savez(path.with_suffix(".npz"), *weights)
            path.with_suffix(".json").write_text(json.dumps(history))


def main(strategy_name, folder):
    strategy, _ = strategies.strategy(strategy_name)
    for name in ("classifier", "clipped", "scaled", "embedding", "custom"):
        train(name, (64, 69, 65), strategy, folder)
    names = ["normalized", "noisy"]
    if strategy_name != "multi_worker":
        names.append("synchronized")
    for name in names:
        train(name, (64,), strategy, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
