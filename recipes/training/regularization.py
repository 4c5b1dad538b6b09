"""Regularization: weights that are kept small, few or bounded.

A network with more weights than it has examples learns the examples by heart, noise
and all. A penalty λ·R(W) is added to its loss. For R = ‖W‖²/2 (L2) the update is a
decay, W ← (1 − ηλ)·W − η·∂J/∂W: large weights shrink most, so that many inputs keep
some. For R = ‖W‖₁ (L1) each weight moves towards zero by the same ηλ, and most arrive
there. Max-norm has no penalty: after the usual update the weights into a neuron are
scaled back if they are longer than c.
Half of the inputs here are pixels of digits, half are noise. Look at training and test
by strength, at whose weights end at zero, and at who still listens to the noise.

Lectures: SEL Regularization; CS L2 Regularization, L1 Regularization, Bias
    regularization
Paper: Krogh and Hertz, A simple weight decay can improve generalization, 1991 (equation
    2); Tibshirani, Regression shrinkage and selection via the lasso, 1996; Srivastava
    et al., Dropout, 2014 (section 5.1, max-norm)
Tags: weight decay, l1, l2, lasso, max-norm, overfitting, sparsity, feature selection
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    images: Annotated[int, Interval(ge=50, le=900)] = 200
    """digits to train on: few, so that they can be learned by heart"""
    units: Annotated[int, Interval(ge=2)] = 64
    """width of the hidden layer"""
    starts: int = 4
    """networks of each kind"""
    epochs: int = 150
    """passes over the digits to train on"""
    batch_size: int = 20
    """digits a gradient is averaged over"""


QUICK = Config(starts=1, epochs=80)
FULL = Config(starts=10, epochs=500)

# --------------------------------------------------------------------------------------
# The idea: what an update does to the weights besides going down
# --------------------------------------------------------------------------------------

# Each function takes a kernel (..., inputs, outputs), the loss's gradient by it, the
# learning rate, and a strength, and returns the next kernel. Strengths and kernels of
# many networks do alike: (networks, 1, 1) and (networks, inputs, outputs).


def l2_update(kernel, gradient, learning_rate, strength):
    """kernel_regularizer=keras.regularizers.L2(strength / 2)

    The penalty is strength/2 · Σ w², its gradient strength · w.
    """
    return (1 - learning_rate * strength) * kernel - learning_rate * gradient


def l1_update(kernel, gradient, learning_rate, strength):
    """kernel_regularizer=keras.regularizers.L1(strength)

    The penalty is strength · Σ |w|, whose slope is the same however small w is.
    """
    slope = gradient + strength * ops.sign(kernel)
    return kernel - learning_rate * slope


def max_norm_update(kernel, gradient, learning_rate, bound):
    """kernel_constraint=keras.constraints.MaxNorm(bound)"""
    kernel = kernel - learning_rate * gradient
    norms = ops.sqrt(ops.sum(kernel**2, axis=-2, keepdims=True))
    return kernel * ops.minimum(1.0, bound / ops.maximum(norms, 1e-7))


def build_model(inputs: int = 128, units: int = 64) -> keras.Model:
    """A small network for digits. Input: (batch, inputs). Output: (batch, 10) logits.

    By Keras alone it would be regularized where it is built: layers.Dense(64, "relu",
    kernel_regularizer=keras.regularizers.L2(0.01))
    """
    x = keras.Input((inputs,), name="x")
    hidden = layers.Dense(units, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name="digits")


def near_zero(kernel: np.ndarray) -> float:
    """The share of weights that are less than a hundredth of the largest."""
    sizes = np.abs(kernel)
    return float(np.mean(sizes < 0.01 * sizes.max()))


def participation_ratio(kernel: np.ndarray) -> float:
    """Over how many of its inputs a neuron's weights are spread, (Σw²)² / Σw⁴: from 1
    to all of them. kernel: (inputs, outputs).

    Mean over neurons, weighted by Σw², as those that died have nothing to spread.
    """
    squares = np.sum(kernel**2, axis=0)
    fourths = np.sum(kernel**4, axis=0)
    if not squares.any():
        return 0.0
    ratios = squares**2 / np.maximum(fourths, 1e-30)
    return float(np.average(ratios, weights=squares))


# --------------------------------------------------------------------------------------
# The experiment: ladders of strengths, on digits beside noise
# --------------------------------------------------------------------------------------


@dataclass
class Method:
    """How weights are regularized."""

    update: Callable
    strengths: tuple[float, ...]
    """the first one is none"""
    biases: bool = False
    """whether the biases are, too"""


METHODS = {
    "L2": Method(l2_update, strengths=(0, 0.003, 0.01, 0.03, 0.1, 0.2)),
    "L1": Method(l1_update, strengths=(0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01)),
    "max-norm": Method(max_norm_update, strengths=(np.inf, 4, 2, 1, 0.7, 0.5)),
    "L2, biases too": Method(
        l2_update, strengths=(0, 0.003, 0.01, 0.03, 0.1, 0.2), biases=True
    ),
}
STRENGTHS = 6
PIXELS = 64
# The best of 0.03, 0.05, 0.1, 0.2 and 0.4 by validation loss without regularization, on seeds
# that are not reported.
LEARNING_RATE = 0.1


@tf.function(jit_compile=True)
def train_epoch(model, rows, strengths, batches, x, y):
    """A step of all networks on each batch, by gradient descent.

    rows: variable (networks, weights), as many for each method, one after the other.
    strengths: (networks, 1, 1). batches: (steps, batch size) rows of x and y.
    """
    for index in tf.range(batches.shape[0]):
        images = tf.gather(x, batches[index])
        labels = tf.gather(y, batches[index])
        gradients = stacks.gradients(model, rows, images, labels)
        updated = []
        for method, values, slopes, of_method in zip(
            METHODS.values(),
            tf.split(rows, len(METHODS)),
            tf.split(gradients, len(METHODS)),
            tf.split(strengths, len(METHODS)),
            strict=True,
        ):
            updated.append(update_all(model, method, values, slopes, of_method))
        rows.assign(tf.concat(updated, axis=0))


def update_all(model, method: Method, rows, gradients, strengths):
    """Kernels by the method's update, biases by it only where the method says so."""
    updated = []
    for weight, gradient in zip(
        stacks.weights_of(model, rows),
        stacks.weights_of(model, gradients),
        strict=True,
    ):
        is_kernel = len(weight.shape) == 3
        if is_kernel:
            new = method.update(weight, gradient, LEARNING_RATE, strengths)
        elif method.biases:
            new = method.update(weight, gradient, LEARNING_RATE, strengths[:, 0])
        else:
            new = weight - LEARNING_RATE * gradient
        updated.append(new)
    return stacks.rows_of(updated)


@tf.function(jit_compile=True)
def logits_of(model, rows, x):
    return stacks.call(model, rows, x)


@dataclass
class Trained:
    """Networks of all methods at all strengths."""

    model: keras.Model
    losses: dict[str, np.ndarray]
    """cross-entropies on the digits to train on, to choose by, and to report, (methods,
    strengths, starts)"""
    accuracies: dict[str, np.ndarray]
    """likewise"""
    classes: dict[str, np.ndarray]
    """read in them, (methods, strengths, starts, digits)"""
    rows: np.ndarray
    """(methods, strengths, starts, weights)"""

    def chosen(self, name: str) -> int:
        """The place of the strength that validates best, none left out."""
        index = list(METHODS).index(name)
        means = self.losses["validation"][index].mean(axis=-1)
        return 1 + int(means[1:].argmin())

    def of(self, name: str, values: np.ndarray) -> np.ndarray:
        """Of values (methods, strengths, ...) those at the strength chosen; of "none"
        those without."""
        if name == "none":
            return values[0, 0]
        return values[list(METHODS).index(name), self.chosen(name)]

    def gap(self, name: str) -> float:
        """By how much the loss is higher on test digits."""
        gaps = self.losses["test"] - self.losses["training"]
        return float(self.of(name, gaps).mean())

    def kernels(self, name: str) -> np.ndarray:
        """Of the hidden layer, (starts, inputs, units)."""
        rows = self.of(name, self.rows)
        return stacks.weights_of(self.model, rows)[0].numpy()


def train(name: str, model, starts, parts, config: Config, run: Run) -> Trained:
    """All methods at all strengths, at once. starts: (starts, weights)."""
    x, y = parts["training"]
    shape = len(METHODS), STRENGTHS, len(starts)
    rows = tf.Variable(np.tile(starts, (shape[0] * shape[1], 1)))
    ladders = np.concatenate([method.strengths for method in METHODS.values()])
    strengths = np.repeat(ladders, len(starts))[:, np.newaxis, np.newaxis]
    strengths = tf.constant(strengths, "float32")

    random = np.random.default_rng(run.seed)
    size = min(config.batch_size, len(x))
    steps = len(x) // size
    state = {"all": [rows, random]}
    name = f"{np.prod(shape)} networks, {name}"
    for _ in run.loop(name, config.epochs, state, unit="epochs"):
        order = random.permutation(len(x))[: steps * size]
        batches = tf.constant(order.reshape(steps, size))
        train_epoch(model, rows, strengths, batches, x, y)

    # One call for all parts, so that it is compiled once.
    sizes = [len(labels) for _, labels in parts.values()]
    inputs = tf.concat([inputs for inputs, _ in parts.values()], axis=0)
    of_parts = tf.split(logits_of(model, rows, inputs), sizes, axis=1)
    losses = {}
    accuracies = {}
    classes = {}
    for part, logits in zip(parts, of_parts, strict=True):
        _, labels = parts[part]
        copies = tf.repeat(labels[tf.newaxis], len(logits), axis=0)
        found = tf.nn.sparse_softmax_cross_entropy_with_logits(copies, logits)
        losses[part] = found.numpy().mean(axis=1).reshape(shape)
        read = np.argmax(logits, axis=-1)
        classes[part] = read.reshape(*shape, -1)
        accuracies[part] = np.mean(read == labels, axis=1).reshape(shape)
    rows_of_each = rows.numpy().reshape(*shape, -1)
    return Trained(model, losses, accuracies, classes, rows_of_each)


def load_parts(images: int, seed: int, noise: float) -> dict[str, tuple]:
    """Digits to train on, five hundred to choose by, and those to report. To the pixels
    of each, standardized as a whole, as many inputs of noise are appended, of that
    standard deviation. "redrawn" are the test digits beside other noise."""
    (x, y), (x_test, y_test) = data.load("digits")
    mean = x.mean()
    deviation = x.std()
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    parts = {}
    for name, pixels, labels in (
        ("training", x[order[:images]], y[order[:images]]),
        ("validation", x[order[-500:]], y[order[-500:]]),
        ("test", x_test, y_test),
        ("redrawn", x_test, y_test),
    ):
        pixels = (pixels.reshape(-1, PIXELS) - mean) / deviation
        beside = noise * random.normal(size=pixels.shape)
        inputs = np.concatenate([pixels, beside], axis=1).astype("float32")
        parts[name] = tf.constant(inputs), tf.constant(labels)
    return parts


SHOWN = ("none", "L2", "L1", "max-norm")


def judge_gaps(trained: Trained, run: Run) -> None:
    accuracies = trained.accuracies["test"]
    losses = trained.losses["test"]
    gaps = {name: trained.gap(name) for name in SHOWN}
    of_each = {name: trained.of(name, accuracies).mean() for name in SHOWN}
    run.metric("test_accuracy", of_each["L1"])
    run.metrics("test_accuracy", of_each)
    of_test = {name: float(trained.of(name, losses).mean()) for name in SHOWN}
    run.metrics("test_loss", of_test)
    run.metrics("gap", gaps)
    for name, method in METHODS.items():
        chosen = method.strengths[trained.chosen(name)]
        run.metrics("chosen_strength", {name: chosen})
    widest = max(SHOWN[1:], key=gaps.get)
    run.compare(
        "Regularized, training and test are closer (L2, L1, max-norm: the widest gap)",
        {name: gaps[name] for name in ("none", widest)},
        more="none",
        less=widest,
        times=1.1,
    )
    worst = max(SHOWN[1:], key=of_test.get)
    run.compare(
        "And the loss on test digits is lower (the highest of the three)",
        {name: of_test[name] for name in ("none", worst)},
        more="none",
        less=worst,
        times=1.1,
    )


def mean_of_kernels(trained: Trained, measure: Callable) -> dict[str, float]:
    """Of the hidden layer's kernels, means over starts."""
    return {
        name: float(np.mean([measure(each) for each in trained.kernels(name)]))
        for name in SHOWN
    }


def judge_weights(trained: Trained, run: Run) -> None:
    zeros = mean_of_kernels(trained, near_zero)
    spread = mean_of_kernels(trained, participation_ratio)
    run.metrics("near_zero", zeros)
    run.metrics("inputs_of_a_neuron", spread)
    run.compare(
        "L1 makes weights sparse, L2 does not: the share below a hundredth of the "
        "largest",
        {name: zeros[name] for name in ("L1", "L2")},
        more="L1",
        less="L2",
        by=0.3,
    )
    run.claim(
        "L2's weights are spread over many inputs, L1's over few; over most those of "
        "neither, of which nothing is left out",
        holds=spread["L2"] > 1.5 * spread["L1"] and spread["none"] > spread["L2"],
        measured=f"participation ratio L2 {spread['L2']:.1f}, L1 {spread['L1']:.1f} (at "
        f"least 1.5 times wanted), none {spread['none']:.1f}",
    )

    longest = {name: float(norms_of(trained, name).max()) for name in SHOWN}
    bound = METHODS["max-norm"].strengths[trained.chosen("max-norm")]
    run.claim(
        "Max-norm holds its bound, which weights outgrow where nothing holds them",
        holds=longest["max-norm"] <= bound * 1.0001 and longest["none"] > bound * 1.1,
        measured=f"longest weight vector {longest['max-norm']:.3f} at c = {bound:g}, "
        f"{longest['none']:.3f} without (the usual 3 or 4 binds nothing here)",
    )


def norms_of(trained: Trained, name: str) -> np.ndarray:
    """Of the weights into each hidden neuron, (starts, units)."""
    return np.linalg.norm(trained.kernels(name), axis=1)


def judge_noise(trained: Trained, run: Run) -> dict[str, float]:
    """The share of test digits that are read otherwise once their noise is redrawn."""
    changed = trained.classes["test"] != trained.classes["redrawn"]
    found = {name: float(trained.of(name, changed).mean()) for name in SHOWN}
    run.metrics("changed_by_noise", found)
    run.compare(
        "Under L1 a network listens less to noise than under L2 (though it still does): "
        "answers that change with it",
        {name: found[name] for name in ("L2", "L1")},
        more="L2",
        less="L1",
        times=1.2,
    )
    return found


def judge_rivals(trained: Trained, alone: Trained, run: Run) -> None:
    """alone: networks whose inputs are pixels and zeros."""
    leads = {}
    for name, each in (("beside noise", trained), ("pixels alone", alone)):
        losses = each.losses["test"]
        of_l2 = each.of("L2", losses).mean()
        leads[name] = float(of_l2 / each.of("L1", losses).mean())
    run.metrics("l2_loss_of_l1_loss", leads)
    beside = leads["beside noise"]
    without = leads["pixels alone"]
    run.claim(
        "L1's lead over L2 comes from inputs to leave out: on pixels alone most of it is "
        "gone",
        holds=beside > 1.05 and without - 1 < 0.5 * (beside - 1),
        measured=f"L2's test loss, of L1's: {beside:.2f} beside noise (at least 1.05 "
        f"wanted), {without:.2f} on pixels alone (at most half as much above 1)",
    )

    losses = trained.losses["test"]
    index = trained.chosen("L2")
    kernels_only = losses[list(METHODS).index("L2"), index].mean()
    with_biases = losses[list(METHODS).index("L2, biases too"), index].mean()
    by_kernels = abs(trained.of("none", losses).mean() - kernels_only)
    by_biases = abs(with_biases - kernels_only)
    run.compare(
        "Regularizing the biases too hardly matters: what each changes of the test loss",
        {"kernels": by_kernels, "biases": by_biases},
        more="kernels",
        less="biases",
        times=5,
    )


def draw_losses(trained: Trained) -> plt.Figure:
    shown = []
    for name in SHOWN[1:]:
        index = list(METHODS).index(name)
        strengths = METHODS[name].strengths[1:]
        none = trained.losses["test"][0, 0].mean()
        panel = figures.Panel(
            title=f"{name}: validation picks {strengths[trained.chosen(name) - 1]:g}",
            xlabel="bound c" if name == "max-norm" else "strength λ",
            ylabel="cross-entropy (nats)",
            lines={
                "test": (strengths, trained.losses["test"][index, 1:]),
                "training": (strengths, trained.losses["training"][index, 1:]),
            },
            levels={"test, none": none},
            xscale="log",
            xticks=strengths,
            ylim=(0, 1),
        )
        shown.append(panel)
    return figures.panels(*shown, title="Training and test by strength")


def draw_kernels(trained: Trained, units: int = 8) -> plt.Figure:
    """Weights into the hidden neurons that have most: pixels above, noise below."""
    units = min(units, trained.kernels("none").shape[2])
    figure, grid = plt.subplots(
        len(SHOWN), units, figsize=(units + 1.5, 7.5), squeeze=False
    )
    for name, line in zip(SHOWN, grid, strict=True):
        kernel = trained.kernels(name)[0]
        strongest = np.argsort(-norms_of(trained, name)[0])[:units]
        reach = np.abs(kernel[:, strongest]).max()
        for unit, axes in zip(strongest, line, strict=True):
            picture = kernel[:, unit].reshape(16, 8)
            axes.imshow(picture, cmap="PuOr", vmin=-reach, vmax=reach)
            axes.axhline(7.5, color="black", linewidth=1)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
        line[0].set_ylabel(name)
    figure.suptitle(
        f"Weights into {units} hidden neurons: pixels above the line, noise below"
    )
    return figure


def draw_weights(trained: Trained, changed: dict[str, float]) -> plt.Figure:
    near = figures.Panel(
        title="Near zero",
        xlabel="share of the weights",
        bars=mean_of_kernels(trained, near_zero),
        number="{:.0%}",
    )
    spread = figures.Panel(
        title="Inputs of a neuron",
        xlabel="participation ratio, of 128",
        bars=mean_of_kernels(trained, participation_ratio),
        number="{:.0f}",
    )
    deaf = figures.Panel(
        title="Noise redrawn",
        xlabel="share of answers that change",
        bars=changed,
        number="{:.1%}",
    )
    return figures.panels(near, spread, deaf)


def main(config: Config, run: Run) -> None:
    run.plan(2)
    models = [build_model(2 * PIXELS, config.units) for _ in range(config.starts)]
    starts = np.stack([stacks.row_of(model) for model in models])
    model = models[0]
    parts = load_parts(config.images, run.seed, noise=1.0)
    trained = train("beside noise", model, starts, parts, config, run)
    judge_gaps(trained, run)
    judge_weights(trained, run)
    changed = judge_noise(trained, run)

    # Of the same shape, so that what was compiled is used again.
    only_pixels = load_parts(config.images, run.seed, noise=0.0)
    alone = train("pixels alone", model, starts, only_pixels, config, run)
    judge_rivals(trained, alone, run)

    run.figure("losses", draw_losses(trained))
    run.figure("kernels", draw_kernels(trained))
    run.figure("weights", draw_weights(trained, changed))
    stacks.set_weights(model, trained.of("L1", trained.rows)[0])
    run.export(serving.classifier(model), example=parts["test"][0][:3].numpy())


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
