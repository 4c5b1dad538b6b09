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
TEXTS = WORDS * (np.arange(5) < GENERATOR.integers(1, 6, (70, 1)))
TEXTS[:8, 1:] = 0  # half of the first batch has one word in each text
TAGS = TEXTS % 3
WEIGHTS = GENERATOR.uniform(0, 2, 70)
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


def compiled(model, optimizer=None, loss=CROSS_ENTROPY):
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss,
        metrics=["accuracy"],
    )
    return model


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def tagger(loss, **embedding):
    """A class for each word."""
    inputs = [keras.Input((5,)), layers.Embedding(9, 4, **embedding)]
    model = keras.Sequential([*inputs, layers.Dense(3)])
    return compiled(model, keras.optimizers.SGD(0.01), loss)


def two_heads():
    inputs = keras.Input((5,))
    words = layers.Embedding(9, 4, mask_zero=True)(inputs)
    text = layers.GlobalAveragePooling1D()(words)
    outputs = {"tags": layers.Dense(3)(words), "label": layers.Dense(2)(text)}
    model = keras.Model(inputs, outputs)
    losses = {"tags": CROSS_ENTROPY, "label": cross_entropy(reduction="sum")}
    model.compile(
        keras.optimizers.SGD(0.01), losses, metrics={"tags": ["accuracy"], "label": []}
    )
    return model


class Masked(keras.Model):
    """A step of its own, with a loss of Keras that leaves out a class."""

    def __init__(self):
        super().__init__()
        self.network = dense()
        self.compile(keras.optimizers.SGD(0.1))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = cross_entropy(ignore_class=0)(y, self.network(x))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"own": loss}

    def test_step(self, data):
        x, y = data
        return {"own": cross_entropy(ignore_class=0)(y, self.network(x))}


MEANS_OVER_OTHER_THINGS = {
    "masked": lambda: (tagger(CROSS_ENTROPY, mask_zero=True), TEXTS, TAGS),
    "ignoring": lambda: (
        tagger(cross_entropy(ignore_class=-1)),
        TEXTS,
        np.where(TEXTS == 0, -1, TAGS),
    ),
    "summed": lambda: (
        compiled(dense(), keras.optimizers.SGD(0.01), cross_entropy(reduction="sum")),
        X,
    ),
    "summed and masked": lambda: (
        tagger(cross_entropy(reduction="sum"), mask_zero=True),
        TEXTS,
        TAGS,
    ),
    "weighted": lambda: (
        compiled(dense(), loss=cross_entropy(reduction="mean_with_sample_weight")),
        X,
        LABELS,
        WEIGHTS,
    ),
    "heads": lambda: (two_heads(), TEXTS, {"tags": TAGS, "label": LABELS}),
    "own and masked": lambda: (Masked(), X),
}


OF_ALL_SIZES = ("classifier", "custom")
OF_THE_HARDEST = ("clipped", "scaled", "embedding")


def dense(*first):
    return keras.Sequential(
        [keras.Input((6,)), *first, layers.Dense(8, "tanh"), layers.Dense(2)]
    )


def make(name):
    """The model of that name, and its data: inputs, or these with targets, or these
    with weights of the examples."""
    if name in MEANS_OVER_OTHER_THINGS:
        return MEANS_OVER_OTHER_THINGS[name]()
    if name == "masked dataset":
        return MEANS_OVER_OTHER_THINGS["masked"]()
    if name in ("classifier", "dataset"):
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


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(16)


def first(examples, arrays):
    return keras.tree.map_structure(lambda array: array[:examples], arrays)


def train(name, sizes, strategy, folder):
    """Trains one model on so many examples each time, and saves what it became."""
    worker = strategies.worker_number() or 0
    keras.utils.set_random_seed(0)
    restart = Restart()
    with strategy.scope():
        model, *arrays = make(name)
        names = ("x", "y", "sample_weight")
        data = {"y": LABELS} | dict(zip(names, arrays, strict=False))
        for examples in sizes:
            of_fit, validation = (
                first(examples, data),
                first(33, (data["x"], data["y"])),
            )
            if "dataset" in name:
                of_fit = {"x": batches(of_fit["x"], of_fit["y"])}
                validation = batches(*validation)
            history = training.fit(
                model,
                **of_fit,
                batch_size=16,
                epochs=3,
                seed=1,
                shuffle=name != "noisy",
                verbose=0,
                validation_data=None if name == "noisy" else validation,
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
    for name in OF_ALL_SIZES:
        train(name, (64, 69, 65), strategy, folder)
    for name in OF_THE_HARDEST:
        train(name, (65,), strategy, folder)
    for name in MEANS_OVER_OTHER_THINGS:
        train(name, (65,), strategy, folder)
    train("heads", (69,), strategy, folder)
    if strategy_name != "multi_worker":
        train("dataset", (69,), strategy, folder)
        train("masked dataset", (65,), strategy, folder)
    names = ["normalized", "noisy"]
    if strategy_name != "multi_worker":
        names.append("synchronized")
    for name in names:
        train(name, (64,), strategy, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
