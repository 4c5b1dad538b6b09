"""`train_on_servers.py [--out DIR]`: a run of the command line on parameter servers,
watched."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import training
from deep_learning_recipes.run import cli


@dataclass
class Config:
    epochs: int = 8
    """passes over the data"""


class OwnStep(keras.Model):
    """A train_step with a metric of its own, and a log that is no metric."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.tracker = keras.metrics.Mean(name="own")

    @property
    def metrics(self):
        return [self.tracker]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self.network(x)[:, 0] - y))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        self.tracker.update_state(loss, sample_weight=keras.ops.shape(x)[0])
        return {"own": self.tracker.result(), "last": loss}


def network():
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    )


def main(config, run):
    x = np.random.default_rng(0).normal(size=(2_001, 8)).astype("float32")
    y = x.sum(axis=1)

    # At a learning rate of zero the loss of an epoch is known beforehand.
    still = network()
    still.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
    expected = still.evaluate(x, y, verbose=0, return_dict=True)
    found = training.fit(
        still, x, y, epochs=3, batch_size=8, verbose=0, validation_data=(x, y)
    )
    for name, value in expected.items():
        run.metric(f"expected_{name}", value)
        for epoch in range(3):
            run.metric(f"found_{name}_{epoch}", found.history[name][epoch])
            run.metric(f"found_val_{name}_{epoch}", found.history[f"val_{name}"][epoch])
    on_servers = [
        "/job:ps/" in v.value.device
        for v in still.variables + still.optimizer.variables
    ]
    run.metric("share_on_servers", np.mean(on_servers))
    run.metric("servers", len({v.value.device for v in still.variables}))

    own = OwnStep(network())
    own.compile(keras.optimizers.Adam(0.01))
    history = training.fit(
        own, x, y, epochs=config.epochs, callbacks=run.callbacks
    ).history
    run.metric("epochs", len(history["own"]))
    run.metric("first_loss", history["own"][0])
    run.metric("last_loss", history["own"][-1])
    run.metric("last_batch", history["last"][-1])
    run.claim(
        "It learns", holds=history["own"][-1] < 0.5, measured=str(history["own"][-1])
    )


if __name__ == "__main__":
    cli(main, quick=Config(), full=Config())
