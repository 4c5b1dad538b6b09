"""Pruning: most weights of a trained network can go.

Weights near 0 do little, so set the smallest to 0 by a mask, w ← m ⊙ w with m = [|w| > t], and the
answer hardly changes; at some share it does. Retraining the weights that are left, under the mask,
brings the accuracy back, and pruning a little and retraining, again and again, goes furthest. GPUs
want a pattern: in 2:4 sparsity two of each four weights are 0.
Look at how far each way gets before the accuracy falls, at the weights' distribution, where pruning
leaves two hills and nothing around 0, and at the pixels that no weight looks at any more.

Lectures: CS Efficient Methods and Hardware (Pruning)
Paper: Han et al., Learning both weights and connections for efficient neural networks, 2015
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import compression, data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), or mnist / fashion_mnist where Keras can download or has cached them"""
    sparsities: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98)
    """shares of weights to remove; iterative pruning goes through them one after the other"""
    restarts: int = 3
    """trained networks to prune; accuracies are their means"""
    epochs: int = 15
    """passes over the training images before pruning"""
    retraining_epochs: int = 6
    """passes after each step of iterative pruning; pruning at once gets as many in all"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(sparsities=(0.75, 0.9, 0.98), restarts=2, epochs=10, retraining_epochs=5)
FULL = Config(data="mnist", retraining_epochs=10)

LAST_LAYER = 3
"""How many times the share of weights the last layer keeps: it is small, and the paper prunes it
less (its table 3 keeps 8, 9 and 26 % of LeNet-300-100's layers)."""


class Prunable(keras.Model):
    """A network whose kernels are multiplied by masks of 0 and 1 after each training step."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="prunable")
        self.network = network
        self.kernels = [each for each in network.trainable_weights if each.name == "kernel"]
        self.masks = [
            self.add_weight(shape=kernel.shape, initializer="ones", trainable=False)
            for kernel in self.kernels
        ]

    def call(self, inputs):
        return self.network(inputs)

    def train_step(self, batch):
        logs = super().train_step(batch)
        self.apply_masks()
        return logs

    def apply_masks(self) -> None:
        for kernel, mask in zip(self.kernels, self.masks, strict=True):
            kernel.assign(kernel * mask)

    def set_masks(self, masks: list[np.ndarray]) -> None:
        for variable, mask in zip(self.masks, masks, strict=True):
            variable.assign(mask)
        self.apply_masks()

    def snapshot(self) -> list[np.ndarray]:
        """Weights, masks and the optimizer's moments, to start from here again by `restore`."""
        return [np.array(each) for each in (*self.variables, *self.optimizer.variables)]

    def restore(self, values: list[np.ndarray]) -> None:
        for variable, value in zip((*self.variables, *self.optimizer.variables), values, strict=True):
            variable.assign(value)


def build_network(input_shape=(28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-300-100. Input: (batch, 28, 28, 1) floats in [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input(input_shape, name="images")
    x = layers.Flatten()(images)
    x = layers.Dense(300, activation="relu", name="hidden_1")(x)
    x = layers.Dense(100, activation="relu", name="hidden_2")(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="lenet-300-100")


def magnitude_mask(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """0 for the share `sparsity` of weights that are nearest 0, 1 for the others."""
    removed = round(sparsity * kernel.size)
    mask = np.ones(kernel.size, "float32")
    mask[np.argsort(np.abs(kernel), axis=None)[:removed]] = 0
    return mask.reshape(kernel.shape)


def two_of_four_mask(kernel: np.ndarray) -> np.ndarray:
    """1 for the two largest of each four weights that follow one another along the inputs of a
    neuron. kernel: (inputs, units), inputs a multiple of 4."""
    fours = np.abs(kernel.T).reshape(-1, 4)
    ranks = fours.argsort(axis=1).argsort(axis=1)
    return (ranks >= 2).astype("float32").reshape(kernel.T.shape).T


def shares_to_remove(sparsity: float, kernels: int) -> list[float]:
    """The sparsity of each kernel; the last one keeps more."""
    return [sparsity] * (kernels - 1) + [max(0.0, 1 - LAST_LAYER * (1 - sparsity))]


def magnitude_masks(model: Prunable, sparsity: float) -> list[np.ndarray]:
    shares = shares_to_remove(sparsity, len(model.kernels))
    kernels = [np.asarray(kernel) for kernel in model.kernels]
    return [magnitude_mask(*each) for each in zip(kernels, shares, strict=True)]


def times_fewer(masks: list[np.ndarray]) -> float:
    """How many times fewer weights are left."""
    return sum(mask.size for mask in masks) / sum(mask.sum() for mask in masks)


def accuracy_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.asarray(model(x)).argmax(axis=1) == y))


def plot_curves(ways: dict[str, list[float]], sparsities, dense: float) -> plt.Figure:
    """Held-out accuracy by sparsity for each way of pruning."""
    figure, axes = plt.subplots(figsize=(8.5, 4.2))
    axes.axhline(dense, color="black", linestyle="--", label="all weights")
    for (name, accuracies), marker in zip(ways.items(), "ovs^", strict=False):
        axes.plot(range(len(sparsities)), accuracies, marker=marker, label=name)
    axes.set_xticks(range(len(sparsities)), [f"{100 * each:g} %" for each in sparsities])
    axes.set(xlabel="weights removed (of the last layer fewer)", ylabel="held-out accuracy")
    axes.set_title("Retraining brings back what pruning takes")
    figure.legend(loc="outside right upper")
    return figure


def plot_weights(before: np.ndarray, after: np.ndarray, pixels: np.ndarray) -> plt.Figure:
    """The first layer's weights before and after pruning, and how many weights see each pixel."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 3.6), width_ratios=(1.2, 1.2, 1)
    )
    kept = after[after != 0]
    reach = 1.1 * np.quantile(np.abs(kept), 0.995)
    bins = np.linspace(-reach, reach, 81)
    left.hist(before.ravel(), bins, color="#0072B2")
    left.set(title=f"Before: {before.size:,} weights", xlabel="weight", ylabel="how many")
    middle.hist(kept, bins, color="#D55E00")
    middle.set(title=f"After: {len(kept):,} weights are left", xlabel="weight")
    picture = right.imshow(pixels, vmin=0)
    right.set(title="Weights on each pixel", xticks=[], yticks=[])
    right.grid(visible=False)
    figure.colorbar(picture, ax=right, shrink=0.85)
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=28)
    levels = sorted(config.sparsities)
    names = ("pruned at once", "at once, retrained", "step by step, retrained")
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    dense, structured = [], []

    def train(model: Prunable, epochs: int) -> None:
        training.fit(
            model,
            x_train,
            y_train,
            batch_size=config.batch_size,
            epochs=epochs,
            callbacks=run.callbacks,
        )

    for _ in range(config.restarts):
        model = Prunable(build_network(x_train.shape[1:]))
        model.compile(
            optimizer=keras.optimizers.Adam(config.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        train(model, config.epochs)
        trained = model.snapshot()
        dense_kernels = [np.array(kernel) for kernel in model.kernels]
        dense.append(accuracy_of(model, x_test, y_test))

        model.set_masks([two_of_four_mask(kernel) for kernel in dense_kernels])
        train(model, config.retraining_epochs)
        structured.append(accuracy_of(model, x_test, y_test))

        accuracies: dict[str, list[float]] = {name: [] for name in names}
        for step, sparsity in enumerate(levels, start=1):
            model.restore(trained)
            model.set_masks(magnitude_masks(model, sparsity))
            accuracies[names[0]].append(accuracy_of(model, x_test, y_test))
            train(model, step * config.retraining_epochs)
            accuracies[names[1]].append(accuracy_of(model, x_test, y_test))
        model.restore(trained)
        ratios = []
        for sparsity in levels:
            model.set_masks(magnitude_masks(model, sparsity))
            train(model, config.retraining_epochs)
            accuracies[names[2]].append(accuracy_of(model, x_test, y_test))
            ratios.append(times_fewer([np.asarray(mask) for mask in model.masks]))
            if sparsity == 0.9:
                first_kernel, first_mask = np.array(model.kernels[0]), np.array(model.masks[0])
                at_90 = model.snapshot()
        for name in names:
            found[name].append(accuracies[name])
    print(found, dense, structured, ratios)
    del first_kernel, first_mask, at_90, compression, serving


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
