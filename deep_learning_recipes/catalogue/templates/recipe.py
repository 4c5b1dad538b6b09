"""Odd or even: a hidden layer tells what no single plane can.

A network without a hidden layer scores each class by a weighted sum, z = W x + b. Where
two scores are equal is a plane, and the odd digits do not all lie on one side of any. A
hidden layer, h = max(0, V x + c), bends that border: z = W h + b. Training lowers the
cross-entropy −log p(right class), where p = exp(z) / Σ exp(z).
Look at what the layer is worth, and at what is left of that without its bend: two
matrices in a row are one.

Lectures: N18 1.1 Basics, 1.2 Training
Paper: Rumelhart, Hinton and Williams, Learning representations by back-propagating
    errors, 1986
Tags: logistic regression, relu, cross-entropy, classification, parity
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist where Keras can download or has cached it, or your own
    images: a folder with one subfolder a class, or an .npz file"""
    units: int = 64
    """width of the hidden layer"""
    restarts: int = 5
    """random starts of each network; accuracies are their means"""
    epochs: int = 30
    """passes over the training images"""
    batch_size: int = 32
    """examples a gradient is averaged over"""
    learning_rate: float = 0.01
    """of Adam; the best of 0.001, 0.003 and 0.01 for all networks, chosen on a fifth of
    the training images"""


QUICK = Config(restarts=3, epochs=15)
FULL = Config(data="mnist", units=512, epochs=10, learning_rate=1e-3)

# What bends the hidden layer of each network.
ACTIVATIONS = {
    "hidden layer": "relu",
    "without ReLU": "linear",
    "no hidden layer": None,
}


# --------------------------------------------------------------------------------------
# The idea: scores, their loss, and a layer that bends the border
# --------------------------------------------------------------------------------------


def cross_entropy(labels, logits):
    """−log p(right class), (batch,). labels: (batch,). logits: (batch, classes)."""
    log_p = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
    right = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
    return -ops.sum(right * log_p, axis=-1)


def build_network(
    shape: tuple[int, ...], units: int, activation: str | None, name: str | None = None
) -> keras.Model:
    """Input: (batch, *shape) floats in [0, 1]. Output: the logits of even and odd,
    (batch, 2).

    activation: of the hidden layer; None leaves the layer out.
    """
    images = keras.Input(shape, name="images")
    x = layers.Flatten()(images)

    if activation is not None:
        x = layers.Dense(units, activation=activation, name="hidden")(x)

    logits = layers.Dense(2, name="logits")(x)
    return keras.Model(images, logits, name=name)


# --------------------------------------------------------------------------------------
# The experiment: the layer as it is, without its bend, and no layer at all
# --------------------------------------------------------------------------------------


def train(name: str, config: Config, images, run: Run):
    """Trains a network from several starts. Returns the last one, and of all the
    held-out losses (epochs, restarts) and accuracies (restarts,)."""
    (x_train, y_train), held_out = images
    losses = []
    accuracies = []

    for _ in range(config.restarts):
        network = build_network(
            x_train.shape[1:],
            config.units,
            ACTIVATIONS[name],
            name=name.replace(" ", "-"),
        )
        network.compile(
            optimizer=keras.optimizers.Adam(config.learning_rate),
            loss=cross_entropy,
            metrics=["accuracy"],
        )
        history = training.fit(
            network,
            x_train,
            y_train,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_data=held_out,
            callbacks=run.callbacks,
        ).history
        losses.append(history["val_loss"])
        accuracies.append(history["val_accuracy"][-1])

    return network, np.transpose(losses), accuracies


def draw_comparison(losses, accuracies):
    """Loss by epoch, and the accuracy of each start at the end."""
    return figures.panels(
        figures.Panel(
            title="Held-out loss",
            xlabel="epoch",
            ylabel="cross-entropy",
            lines=losses,
        ),
        figures.Panel(
            title="Held-out digits told odd from even",
            xlabel="accuracy",
            bars=accuracies,
            number="{:.1%}",
        ),
    )


def main(config: Config, run: Run) -> None:
    run.plan(len(ACTIVATIONS) * config.restarts)
    (x_train, y_train), (x_test, y_test) = data.load(config.data)
    images = (x_train, y_train % 2), (x_test, y_test % 2)

    networks = {}
    losses = {}
    accuracies = {}
    for name in ACTIVATIONS:
        networks[name], losses[name], accuracies[name] = train(
            name, config, images, run
        )

    means = {name: float(np.mean(each)) for name, each in accuracies.items()}
    run.metrics("test_accuracy", means, unit="odd or even")
    run.compare(
        "A hidden layer tells odd from even where no single plane can",
        means,
        more="hidden layer",
        less="no hidden layer",
        by=0.03,
    )
    run.compare(
        "Its bend does that: without ReLU the same layer falls behind",
        means,
        more="hidden layer",
        less="without ReLU",
        by=0.03,
    )

    run.figure("comparison", draw_comparison(losses, accuracies))
    run.export(serving.classifier(networks["hidden layer"]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
