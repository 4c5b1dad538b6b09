"""Catastrophic forgetting: what a network loses of task A while it learns task B.

Stochastic gradient descent sees the current task alone, so nothing holds the weights that an
earlier one needs. Rehearsal mixes a few kept examples of the earlier tasks into each batch. Elastic
weight consolidation (EWC) keeps no example: it ties each weight to its old value by a spring as
stiff as the old task is sensitive to it, L(θ) = L_B(θ) + Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)², where F is the
diagonal of the Fisher information, F = E_x E_{y ~ p(y|x)} [(∂ log p(y|x) / ∂θ)²].
Tasks are digits with their pixels in a new order each time. Look at A's accuracy while B and C are
learned, at the matrices, and at the new digits, where EWC has nothing to hold on to.

Lectures: N18 3.2 Intriguing Properties (catastrophic forgetting is a real issue with SGD)
Paper: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017 (equation 3)
"""

from dataclasses import dataclass
from itertools import pairwise

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), or mnist / fashion_mnist where Keras can download or has cached them"""
    units: int = 256
    """width of the hidden layer"""
    epochs: int = 60
    """passes over the images of each task"""
    batch_size: int = 32
    """images of the new task in a step; rehearsal adds as many of each earlier one"""
    learning_rate: float = 0.05
    """of plain stochastic gradient descent, without momentum, which would remember too"""
    memory: int = 50
    """images that rehearsal keeps of each task"""
    strength: float = 30.0
    """λ of EWC; a step overshoots where learning rate · λ · F nears 2"""
    strengths: tuple[float, ...] = (0.3, 3.0, 100.0)
    """other λ to compare, of EWC and of springs that are equally stiff for all weights"""
    fisher_images: int = 1000
    """images that the Fisher information is averaged over"""


QUICK = Config(units=128, epochs=40, strengths=(3.0,), fisher_images=500)
FULL = Config(data="mnist", units=512, epochs=10)

NEW_PIXELS, NEW_DIGITS = "new order of pixels", "new digits"


def build_network(pixels: int, units: int, classes: int = 10) -> keras.Model:
    """One hidden layer. Input: (batch, pixels) in [0, 1]. Output: (batch, classes) logits."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(classes, dtype="float32", name="logits")(hidden))


@tf.function(reduce_retracing=True)
def expected_squares(network: keras.Model, images: tf.Tensor) -> list[tf.Tensor]:
    """Σ_y p(y|x) (∂ log p(y|x) / ∂θ)² of each image x: (batch, *shape) for each weight."""

    def of_one(image):
        with tf.GradientTape() as tape:
            log_p = ops.log_softmax(network(image[None]))[0]
        jacobians = tape.jacobian(log_p, network.trainable_variables)  # (classes, *shape)
        return [tf.tensordot(tf.exp(log_p), tf.square(each), 1) for each in jacobians]

    return tf.vectorized_map(of_one, images)


def fisher_information(network: keras.Model, x: np.ndarray, batch: int = 50) -> list[np.ndarray]:
    """The Fisher information's diagonal, an array for each weight: the mean over images x of the
    expectation over the network's own answers. (Squares for the labels' sake alone, the "empirical
    Fisher", would all but vanish on images that were learned by heart.)"""
    parts = [expected_squares(network, x[at : at + batch]) for at in range(0, len(x), batch)]
    return [np.concatenate(part).mean(axis=0) for part in zip(*parts, strict=True)]


def even_out(importance: list[np.ndarray]) -> list[np.ndarray]:
    """The mean over all weights, for each of them."""
    mean = np.concatenate([each.ravel() for each in importance]).mean()
    return [np.full_like(each, mean) for each in importance]


class Learner(keras.Model):
    """A network that learns one task after the other, and the springs that hold its weights."""

    def __init__(self, network: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        shapes = [weight.shape for weight in network.trainable_variables]
        self.stiffness = [self.add_weight(s, "zeros", trainable=False) for s in shapes]
        self.rest = [self.add_weight(s, "zeros", trainable=False) for s in shapes]

    def call(self, x):
        return self.network(x)

    def springs(self):
        return zip(self.stiffness, self.rest, self.network.trainable_variables, strict=True)

    def restart(self, weights: list[np.ndarray]) -> None:
        """Puts the network to these weights, free of springs."""
        self.network.set_weights(weights)
        for variable in [*self.stiffness, *self.rest]:
            variable.assign(ops.zeros_like(variable))

    def consolidate(self, strength: float, importance: list[np.ndarray]) -> None:
        """Ties each weight to its value of now by a spring of stiffness λF. Earlier springs stay:
        two on one weight pull as one does, as stiff as both, at rest at their weighted mean."""
        for (stiffness, rest, weight), each in zip(self.springs(), importance, strict=True):
            added = ops.convert_to_tensor(strength * each)
            share = ops.divide_no_nan(added, stiffness + added)
            rest.assign(rest + share * (weight - rest))
            stiffness.assign(stiffness + added)

    def penalty(self):
        """Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)², the second term of equation 3."""
        return sum(ops.sum(k / 2 * ops.square(weight - rest)) for k, rest, weight in self.springs())

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) + self.penalty()


def scenarios(train, test, random: np.random.Generator) -> dict[str, list[tuple]]:
    """Two ways to bring something new, each a list of tasks (x, y, x held out, y held out).

    train, test: images (n, pixels) and digits (n,).
    """
    pixels = train[0].shape[1]
    orders = [np.arange(pixels), *(random.permutation(pixels) for _ in "BC")]
    low, high = (
        [(x[is_high == (y >= 5)], y[is_high == (y >= 5)]) for x, y in (train, test)]
        for is_high in (False, True)
    )
    return {
        NEW_PIXELS: [(train[0][:, o], train[1], test[0][:, o], test[1]) for o in orders],
        NEW_DIGITS: [(*part[0], *part[1]) for part in (low, high)],
    }


def mix(task: tuple, kept: list[tuple]) -> list[np.ndarray]:
    """The task's images and digits, and as many of what was kept of each earlier one, repeated."""
    count = len(task[0])
    again = [[np.resize(each, (count, *each.shape[1:])) for each in pair] for pair in kept]
    return [np.concatenate(parts) for parts in zip(task[:2], *again, strict=True)]


def accuracies(network: keras.Model, tasks: list[tuple]) -> list[float]:
    """On the held-out images of each task."""
    return [float(np.mean(np.argmax(network(x), axis=1) == y)) for _, _, x, y in tasks]


def plot_curves(first: list[float], later: dict[str, list[float]]) -> plt.Figure:
    """Accuracy on task A by epoch: while A is learned, and while others are."""
    figure, axes = plt.subplots(figsize=(9.5, 4.2))
    epochs = len(first)
    axes.plot(range(1, epochs + 1), first, color="black", label="the start of all")
    for name, curve in later.items():
        axes.plot(range(epochs, epochs + len(curve) + 1), [first[-1], *curve], label=name)
    for task, name in enumerate("ABC"):
        axes.axvline(epochs * (task + 1), color="grey", linestyle=":")
        axes.text(epochs * (task + 0.5), 1.03, f"learns {name}", ha="center")
    axes.set(xlabel="epoch", ylabel="held-out accuracy on A", ylim=(0, 1.1), xlim=(0, epochs * 3))
    figure.suptitle("What is left of task A while B and C, its pixels in other orders, are learned")
    figure.legend(loc="outside right center")
    return figure


def plot_matrices(matrices: dict[str, dict[str, np.ndarray]]) -> plt.Figure:
    """Accuracies (after which task, on which task), a row for each way to bring something new."""
    columns = max(map(len, matrices.values()))
    figure, grid = plt.subplots(len(matrices), columns, figsize=(2.6 * columns, 6))
    for row, (way, by_method) in zip(grid, matrices.items(), strict=True):
        for axes, (method, matrix) in zip(row, by_method.items(), strict=True):
            picture = axes.imshow(100 * matrix, vmin=0, vmax=100)
            for (after, on), value in np.ndenumerate(matrix):
                color = "black" if value > 0.5 else "white"
                axes.text(on, after, f"{100 * value:.0f}", ha="center", va="center", color=color)
            names = ["0-4", "5-9"] if way == NEW_DIGITS else list("ABC")
            axes.set(title=method, xlabel="read", xticks=range(len(names)), xticklabels=names)
            axes.set(yticks=range(len(names)), yticklabels=names)
            axes.grid(visible=False)
        row[0].set_ylabel(f"{way}\nafter learning")
    figure.colorbar(picture, ax=grid, label="held-out accuracy, %")
    return figure


def plot_trade_off(lines: dict[str, dict], points: dict[str, np.ndarray]) -> plt.Figure:
    """Old tasks against the new one: each method's accuracies at the end, by its strength."""
    figure, axes = plt.subplots(figsize=(8.5, 5))
    for (name, by_strength), color in zip(lines.items(), ("C2", "C3"), strict=True):
        new, old = zip(*((m[-1, -1], m[-1, :-1].mean()) for m in by_strength.values()), strict=True)
        axes.plot(new, old, "o-", color=color, label=f"{name}, by λ")
        for strength, *at in zip(by_strength, new, old, strict=True):
            axes.annotate(f" {strength:g}", at, color=color, va="top")
    for (name, matrix), marker in zip(points.items(), "svD^", strict=False):
        axes.plot(matrix[-1, -1], matrix[-1, :-1].mean(), marker, ms=9, label=name)
    axes.set(xlabel="held-out accuracy on C, the newest task", ylabel="mean of A and B, the old")
    axes.set(title="Keeping the old against learning the new")
    axes.legend()
    return figure


def main(config: Config, run: Run) -> None:
    splits = [(x.reshape(len(x), -1), y) for x, y in data.load(config.data)]
    network = build_network(splits[0][0].shape[1], config.units)
    learner = Learner(network, name="learner")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.SGD(config.learning_rate), loss, metrics=["accuracy"])
    start = network.get_weights()

    def fit(task, first, kept=()):
        """Learns the task and returns the accuracy on the first one after each epoch."""
        return training.fit(
            learner,
            *mix(task, kept),
            epochs=config.epochs,
            batch_size=config.batch_size * (1 + len(kept)),
            validation_data=first[2:],
            callbacks=run.callbacks,
        ).history["val_accuracy"]

    def go_on(tasks, learned, memory=0, strength=0.0, even=False):
        """From the weights that learned the first task on to the others: accuracies (after which
        task, on which task), and the first one's by epoch."""
        learner.restart(learned)
        rows, curve, kept = [accuracies(network, tasks)], [], []
        for earlier, new in pairwise(tasks):
            if memory:
                kept.append([each[:memory] for each in earlier[:2]])
            if strength:
                importance = fisher_information(network, earlier[0][: config.fisher_images])
                learner.consolidate(strength, even_out(importance) if even else importance)
            curve += fit(new, tasks[0], kept)
            rows.append(accuracies(network, tasks))
        return np.array(rows), curve

    plain, everything = "plain SGD", "rehearsal of all"
    few, ewc = f"rehearsal of {config.memory}", f"EWC, λ = {config.strength:g}"
    methods = {
        plain: {},
        few: {"memory": config.memory},
        ewc: {"strength": config.strength},
        everything: {"memory": len(splits[0][0])},
    }
    strengths = sorted({config.strength, *config.strengths})
    matrices, by_strength = {}, {}
    for way, tasks in scenarios(*splits, np.random.default_rng(run.seed)).items():
        learner.restart(start)
        first_curve = fit(tasks[0], tasks[0])
        learned = network.get_weights()
        done = {name: go_on(tasks, learned, **settings) for name, settings in methods.items()}
        matrices[way] = {name: matrix for name, (matrix, _) in done.items()}
        by_strength[way] = {
            name: {s: go_on(tasks, learned, strength=s, even=even)[0] for s in strengths}
            for name, even in {"even springs": True, "EWC": False}.items()
        }
        if way == NEW_PIXELS:
            curves = {name: curve for name, (_, curve) in done.items()}
            run.figure("forgetting", plot_curves(first_curve, curves))
            to_serve = network.get_weights()
    pixels, digits = matrices[NEW_PIXELS], matrices[NEW_DIGITS]
    run.figure("matrices", plot_matrices(matrices))
    points = {name: pixels[name] for name in (plain, few, everything)}
    run.figure("trade_off", plot_trade_off(by_strength[NEW_PIXELS], points))

    mean = {name: matrix[-1].mean() for name, matrix in pixels.items()}
    first = {name: matrix[-1, 0] for name, matrix in pixels.items()}
    newest = {name: matrix[-1, -1] for name, matrix in pixels.items()}
    names = {"ewc": ewc, "sgd": plain, "rehearsal": few, "rehearsal_of_all": everything}
    for name, method in names.items():
        run.metric(f"mean_test_accuracy_{name}", mean[method])
        run.metric(f"test_accuracy_on_first_task_{name}", first[method])
    before = pixels[plain][0, 0]
    run.claim(
        "SGD forgets: accuracy on A falls apart as it learns B and C, though the network holds all",
        holds=first[plain] < before - 0.2 and pixels[everything][-1].min() > before - 0.08,
        measured=f"on A {before:.3f}, after B {pixels[plain][1, 0]:.3f}, after C "
        f"{first[plain]:.3f}; all images rehearsed: {first[everything]:.3f} on A, the worst of "
        f"three {pixels[everything][-1].min():.3f}",
    )
    for name, text in {
        few: f"Rehearsing {config.memory} images of each task saves more than half of the loss",
        ewc: "EWC saves more than half without an image kept, and pays on the newest task",
    }.items():
        saved = (first[name] - first[plain]) / (before - first[plain])
        run.claim(
            text,
            holds=saved > 0.5 and newest[name] > newest[plain] - 0.1,
            measured=f"{saved:.0%} of A's loss; on A {first[name]:.3f}, on C {newest[name]:.3f} "
            f"({newest[plain]:.3f} by plain SGD)",
        )
    best_even = max(m[-1].mean() for m in by_strength[NEW_PIXELS]["even springs"].values())
    run.claim(
        "Which weights are held is what counts: springs of even stiffness do worse at any λ",
        holds=mean[ewc] > best_even + 0.05,
        measured=f"mean of the three tasks {mean[ewc]:.3f}, even springs {best_even:.3f} at best",
    )
    firm = max(m[-1, 0] for m in by_strength[NEW_DIGITS]["EWC"].values())
    run.claim(
        "New digits in the same outputs defeat EWC: of a network that is sure, the Fisher is all "
        "but zero where they must rise; rehearsal holds",
        holds=firm < 0.6 < 0.8 < digits[few][-1, 0],
        measured=f"on 0-4 after 5-9: plain SGD {digits[plain][-1, 0]:.3f}, EWC {firm:.3f} at its "
        f"best λ, rehearsal {digits[few][-1, 0]:.3f}",
    )
    network.set_weights(to_serve)
    run.export(serving.classifier(network), example=splits[1][0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
