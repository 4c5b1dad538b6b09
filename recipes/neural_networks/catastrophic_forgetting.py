"""Catastrophic forgetting: what a network loses of task A while it learns task B.

Stochastic gradient descent sees the current task alone, so nothing holds the weights
that an earlier one needs. Rehearsal mixes a few kept examples of the earlier tasks into
each batch. Elastic weight consolidation (EWC) keeps no example: it ties each weight to
its old value by a spring as stiff as the old task is sensitive to it, L(θ) = L_B(θ) +
Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)², where F is the diagonal of the Fisher information, F = E_x E_{y ~
p(y|x)} [(∂ log p(y|x) / ∂θ)²]. Tasks are digits with their pixels in a new order each
time. Look at A's accuracy while B and C are learned, at the matrices, and at the new
digits, where EWC fails: a network that has never seen them is sure that they are not
meant, so F is small where it will have to change.

Lectures: N18 3.2 Intriguing Properties (catastrophic forgetting is a real issue with
    SGD)
Paper: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017
    (equation 3)
Tags: ewc, elastic weight consolidation, continual learning, lifelong learning,
    incremental learning, rehearsal, permuted mnist
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    units: int = 256
    """width of the hidden layer"""
    epochs: int = 40
    """passes over the images of each task"""
    batch_size: int = 32
    """images of the new task in a step; rehearsal adds as many of each earlier one"""
    learning_rate: float = 0.05
    """of plain stochastic gradient descent, without momentum, which would remember
    too"""
    memory: int = 50
    """images that rehearsal keeps of each task"""
    strength: float = 30.0
    """λ of EWC; a step overshoots where learning rate · λ · F nears 2"""
    strengths: tuple[float, ...] = (3.0, 100.0)
    """other λ to compare, of EWC and of springs that are equally stiff for all
    weights"""


QUICK = Config(units=128, epochs=15, learning_rate=0.1, strengths=(3.0,))
FULL = Config(data="mnist", units=512, epochs=10)

NEW_PIXELS, NEW_DIGITS = "new order of pixels", "new digits"
PLAIN, EWC, EVEN, EVERYTHING = "plain SGD", "EWC", "even springs", "rehearsal of all"


def build_network(pixels: int, units: int, classes: int = 10) -> keras.Model:
    """One hidden layer. Input: (batch, pixels) in [0, 1]. Output: (batch, classes)
    logits."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(classes, dtype="float32", name="logits")(hidden))


@tf.function(reduce_retracing=True)
def expected_squares(network: keras.Model, images: tf.Tensor) -> list[tf.Tensor]:
    """Σ_y p(y|x) (∂ log p(y|x) / ∂θ)² of each image x: (batch, *shape) for each
    weight."""

    def of_one(image):
        with tf.GradientTape() as tape:
            log_p = ops.log_softmax(network(image[None]))[0]
        jacobians = tape.jacobian(
            log_p, network.trainable_variables
        )  # (classes, *shape)
        return [tf.tensordot(tf.exp(log_p), tf.square(each), 1) for each in jacobians]

    return tf.vectorized_map(of_one, images)


def fisher_information(
    network: keras.Model, x: np.ndarray, batch: int = 50
) -> list[np.ndarray]:
    """The Fisher information's diagonal, an array for each weight; y ~ p(y|x), not
    labels."""
    parts = [
        expected_squares(network, x[at : at + batch]) for at in range(0, len(x), batch)
    ]
    return [np.concatenate(part).mean(axis=0) for part in zip(*parts, strict=True)]


class Learner(keras.Model):
    """A network that learns one task after the other, and the springs that hold its
    weights."""

    def __init__(self, network: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        weights = network.trainable_variables
        self.stiffness = [
            self.add_weight(w.shape, "zeros", trainable=False) for w in weights
        ]
        self.rest = [
            self.add_weight(w.shape, "zeros", trainable=False) for w in weights
        ]
        self.springs = list(zip(self.stiffness, self.rest, weights, strict=True))

    def call(self, x):
        return self.network(x)

    def restart(self, weights: list[np.ndarray]) -> None:
        """Puts the network to these weights, free of springs."""
        self.network.set_weights(weights)
        for stiffness in self.stiffness:
            stiffness.assign(ops.zeros_like(stiffness))

    def consolidate(self, strength: float, importance: list[np.ndarray]) -> None:
        """Ties each weight to its value of now by a spring of stiffness λF. Earlier
        springs stay: two on one weight pull as one does, as stiff as both, at rest at
        their weighted mean."""
        for (stiffness, rest, weight), each in zip(
            self.springs, importance, strict=True
        ):
            added = ops.convert_to_tensor(strength * each)
            share = ops.divide_no_nan(added, stiffness + added)
            rest.assign(rest + share * (weight - rest))
            stiffness.assign(stiffness + added)

    def compute_loss(self, *args, **kwargs):
        """Equation 3: the loss of the task, and Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)²."""
        penalty = sum(
            ops.sum(k * ops.square(weight - rest)) for k, rest, weight in self.springs
        )
        return super().compute_loss(*args, **kwargs) + penalty / 2


def old_classes(classes: int) -> int:
    """How many of them come first, where the others are new: half, 0 to 4 of digits."""
    return math.ceil(classes / 2)


def scenarios(train, test, random: np.random.Generator) -> dict[str, list[tuple]]:
    """Two ways to bring something new: lists of tasks (x, y, held-out x, held-out y), x
    flat."""
    pixels = train[0].shape[1]
    half = old_classes(int(train[1].max()) + 1)
    orders = [np.arange(pixels), *(random.permutation(pixels) for _ in "BC")]
    masks = [
        [y < half for _, y in (train, test)],
        [y >= half for _, y in (train, test)],
    ]
    return {
        NEW_DIGITS: [
            (train[0][a], train[1][a], test[0][b], test[1][b]) for a, b in masks
        ],
        NEW_PIXELS: [
            (train[0][:, o], train[1], test[0][:, o], test[1]) for o in orders
        ],
    }


def mix(task: tuple, kept: list[tuple]) -> list[np.ndarray]:
    """The task's images and digits, and as many of what was kept of each earlier one,
    repeated."""
    again = [
        [np.resize(each, (len(task[0]), *each.shape[1:])) for each in pair]
        for pair in kept
    ]
    return [np.concatenate(parts) for parts in zip(task[:2], *again, strict=True)]


def plot_matrices(
    matrices: dict[str, dict[str, np.ndarray]], shown: list[str], parts: list[str]
) -> plt.Figure:
    """Accuracies (after which task, on which task), a row for each way to bring
    something new."""
    figure, grid = plt.subplots(2, len(shown), figsize=(2.6 * len(shown), 5.6))
    for row, way in zip(grid, (NEW_PIXELS, NEW_DIGITS), strict=True):
        for axes, method in zip(row, shown, strict=True):
            percent = 100 * matrices[way][method]
            picture = axes.imshow(percent, vmin=0, vmax=100)
            for (after, on), value in np.ndenumerate(percent):
                color = "black" if value > 50 else "white"
                axes.text(
                    on, after, f"{value:.0f}", ha="center", va="center", color=color
                )
            names = parts if way == NEW_DIGITS else list("ABC")
            axes.set(title=method, xlabel="read")
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(names)), names)
            axes.grid(visible=False)
        row[0].set_ylabel(f"{way}\nafter learning")
    figure.colorbar(picture, ax=grid, label="held-out accuracy, %")
    return figure


def plot_trade_off(ends: dict[str, np.ndarray]) -> plt.Figure:
    """Old tasks against the new one, by each method's accuracies at the end,
    (tasks,)."""
    figure, axes = plt.subplots(figsize=(8.5, 5))
    colors = {PLAIN: "C0", EWC: "C2", EVERYTHING: "C3", EVEN: "C4"}
    for name, end in ends.items():
        kind, _, strength = name.partition(", λ = ")
        place, style = (end[-1], end[:-1].mean()), {"color": colors.get(kind, "C1")}
        axes.plot(*place, "o" if strength else "s", ms=8, label=kind, **style)
        axes.annotate(f"{strength}   ", place, ha="right", va="center", **style)
    by_name = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(by_name.values(), by_name.keys())
    axes.set(
        xlabel="held-out accuracy on C, the newest task",
        ylabel="mean of A and B, the old",
    )
    axes.set(
        title="Keeping the old against learning the new: by λ of EWC and even springs"
    )
    return figure


def main(config: Config, run: Run) -> None:
    strengths = (*config.strengths, config.strength)
    run.plan(15 + 8 * len(strengths))  # 3 tasks by all methods, 2 without even springs
    train, test = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    half = old_classes(classes)
    parts = [f"0-{half - 1}", f"{half}-{classes - 1}"]
    network = build_network(train[0].shape[1], config.units, classes)
    learner = Learner(network, name="learner")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(
        keras.optimizers.SGD(config.learning_rate), loss, metrics=["accuracy"]
    )
    start = network.get_weights()

    def learn(tasks, memory=0, strength=0.0, even=False):
        """Task after task: accuracies (after which, on which), and those on the first
        by epoch."""
        learner.restart(start)
        kept, curve, matrix = [], [], []
        for task in tasks:
            curve += training.fit(
                learner,
                *mix(task, kept),
                epochs=config.epochs,
                batch_size=config.batch_size * (1 + len(kept)),
                validation_data=tasks[0][2:],
                seed=run.seed,
                callbacks=run.callbacks,
            ).history["val_accuracy"]
            matrix.append(
                [np.mean(np.argmax(network(x), axis=1) == y) for _, _, x, y in tasks]
            )
            if memory:
                kept.append([each[:memory] for each in task[:2]])
            if strength and task is not tasks[-1]:
                # More images change little.
                importance = fisher_information(network, task[0][:500])
                mean = np.concatenate([each.ravel() for each in importance]).mean()
                evened = [np.full_like(each, mean) for each in importance]
                learner.consolidate(strength, evened if even else importance)
        return np.array(matrix), curve

    few, ewc = f"rehearsal of {config.memory}", f"{EWC}, λ = {config.strength:g}"
    methods = {
        PLAIN: {},
        few: {"memory": config.memory},
        EVERYTHING: {"memory": len(train[0])},
    }
    for strength in strengths:
        methods[f"{EVEN}, λ = {strength:g}"] = {"strength": strength, "even": True}
        methods[f"{EWC}, λ = {strength:g}"] = {"strength": strength}
    matrices, curves = {}, {}
    for way, tasks in scenarios(train, test, np.random.default_rng(run.seed)).items():
        matrices[way] = {}
        for name, settings in methods.items():
            if way == NEW_DIGITS and name.startswith(EVEN):
                continue
            matrices[way][name], curves[way, name] = learn(tasks, **settings)

    lines = {name: curves[NEW_PIXELS, name] for name in (PLAIN, few, ewc, EVERYTHING)}
    title = (
        "What is left of task A while B and C, its pixels in other orders, are learned"
    )
    figure = figures.curves(lines, title=title, ylabel="held-out accuracy on A")
    for task, name in enumerate("ABC"):
        figure.axes[0].axvline(config.epochs * (task + 1), color="gray", linestyle=":")
        figure.axes[0].text(
            config.epochs * (task + 0.5), 1.03, f"learns {name}", ha="center"
        )
    figure.axes[0].set_ylim(0, 1.1)
    run.figure("forgetting", figure)
    run.figure("matrices", plot_matrices(matrices, list(lines), parts))
    ends = {name: matrix[-1] for name, matrix in matrices[NEW_PIXELS].items()}
    run.figure("trade_off", plot_trade_off(ends))

    for name, method in {
        "ewc": ewc,
        "sgd": PLAIN,
        "rehearsal": few,
        "joint": EVERYTHING,
    }.items():
        run.metric(f"mean_test_accuracy_{name}", ends[method].mean())
        run.metric(f"test_accuracy_on_first_task_{name}", ends[method][0])
    before, after_b = matrices[NEW_PIXELS][PLAIN][:2, 0]
    lost, on_c = before - ends[PLAIN][0], ends[PLAIN][-1]
    run.claim(
        "SGD forgets: accuracy on A falls apart as it learns B and C, though the network holds all",
        holds=lost > 0.2 and ends[EVERYTHING].min() > before - 0.08,
        measured=f"on A {before:.3f}, after B {after_b:.3f}, after C {ends[PLAIN][0]:.3f}; the "
        f"worst of the three, all images rehearsed: {ends[EVERYTHING].min():.3f}",
    )
    for name, text in {
        few: f"Rehearsal of {config.memory} images a task saves more than half of what A loses",
        ewc: "EWC saves more than half of it too, without keeping an image",
    }.items():
        saved = (ends[name][0] - ends[PLAIN][0]) / lost if lost else 0.0
        run.claim(
            text,
            holds=saved > 0.5 and ends[name][-1] > on_c - 0.1,
            measured=f"{saved:.0%} saved: on A {ends[name][0]:.3f}; the cost: on C "
            f"{ends[name][-1]:.3f}, {on_c:.3f} by plain SGD",
        )
    best_even = max(end.mean() for name, end in ends.items() if name.startswith(EVEN))
    run.claim(
        "What counts is which weights are held: springs of even stiffness do worse at any λ",
        holds=ends[ewc].mean() > best_even + 0.05,
        measured=f"mean of the three tasks {ends[ewc].mean():.3f}, {best_even:.3f} at best",
    )
    on_low = {name: matrix[-1, 0] for name, matrix in matrices[NEW_DIGITS].items()}
    best = max(value for name, value in on_low.items() if name.startswith(EWC))
    run.claim(
        "New digits in the same outputs defeat EWC at any λ; rehearsal still holds",
        holds=best < 0.6 < 0.8 < on_low[few],
        measured=f"on {parts[0]} after {parts[1]}: plain SGD {on_low[PLAIN]:.3f}, EWC "
        f"{best:.3f} at its best λ, rehearsal {on_low[few]:.3f}",
    )
    run.export(serving.classifier(network), example=test[0][:3])  # EWC after A, B and C


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
