"""Dropout: units that are switched off at random, so that none is relied on.

In each training step every unit is dropped with probability p: x ← m·x, where m is 0 or
1. In the mean over masks m that is (1 − p)·x. Test-scaled dropout makes up for it when
it answers, where nothing is dropped, x ← (1 − p)·x; inverted dropout while it trains,
x ← m·x / (1 − p), and then answers as it is. DropConnect drops weights instead of
units. Monte Carlo dropout goes on dropping when it answers and takes the mean of many
answers, whose entropy says how unsure the network is.
Look at the losses by p, at what the scale is for, at networks that lose half of their
units, and at how sure each is of what it gets wrong.

Lectures: SEL Dropout layers; CS Dropout, DropConnect; N18 1.3.2 Dropout
Paper: Srivastava et al., Dropout: a simple way to prevent neural networks from
    overfitting, 2014; Wan et al., Regularization of neural networks using DropConnect,
    2013; Gal and Ghahramani, Dropout as a Bayesian approximation, 2016 (equation 6)
Tags: dropconnect, monte carlo, uncertainty, overfitting, regularization, predictive
    entropy, bayesian
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    images: Annotated[int, Interval(ge=100, le=3000)] = 500
    """digits to train on: few, so that they can be learned by heart"""
    units: Annotated[int, Interval(ge=2)] = 400
    """width of the two hidden layers"""
    starts: int = 2
    """networks of each kind"""
    epochs: int = 45
    """passes over the digits to train on"""
    batch_size: int = 50
    """digits a gradient is averaged over"""
    passes: Annotated[int, Interval(ge=2)] = 50
    """answers that Monte Carlo dropout takes the mean of"""


QUICK = Config(images=300, units=200, starts=3, epochs=40, passes=15)
FULL = Config(units=800, starts=5, epochs=100, passes=200)

# --------------------------------------------------------------------------------------
# The idea: drop at random, and keep the mean
# --------------------------------------------------------------------------------------

# In these functions x has any shape; rate is the share to drop, in [0, 1), a number or
# an array that goes with x.


def keep_some(x, rate, seed):
    """x, where each number is 0 with probability rate."""
    draws = keras.random.uniform(ops.shape(x), dtype=x.dtype, seed=seed)
    return ops.where(draws >= rate, x, 0)


def inverted_dropout(x, rate, seed, training):
    """keras.layers.Dropout(rate)"""
    if not training:
        return x
    return keep_some(x, rate, seed) / (1 - rate)


def test_scaled_dropout(x, rate, seed, training):
    """As it was first published; the answers have to know of it."""
    if not training:
        return x * (1 - rate)
    return keep_some(x, rate, seed)


class Dropping(layers.Layer):
    """A layer that drops units while it trains."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        check_rate(rate)
        self.rate = rate
        self.seed = keras.random.SeedGenerator(seed)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, not {rate}")


@keras.saving.register_keras_serializable("dropout")
class InvertedDropout(Dropping):
    """Drops and scales while it trains."""

    def call(self, x, training=False):
        return inverted_dropout(x, self.rate, self.seed, training)


@keras.saving.register_keras_serializable("dropout")
class ScaledDropout(Dropping):
    """Drops while it trains and scales while it answers."""

    def call(self, x, training=False):
        return test_scaled_dropout(x, self.rate, self.seed, training)


@keras.saving.register_keras_serializable("dropout")
class DropConnect(layers.Dense):
    """A dense layer that drops weights while it trains: the same ones for a batch."""

    def __init__(self, units: int, rate: float, seed: int | None = None, **kwargs):
        super().__init__(units, **kwargs)
        check_rate(rate)
        self.rate = rate
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, x, training=False):
        kernel = inverted_dropout(self.kernel, self.rate, self.seed, training)
        return self.activation(ops.matmul(x, kernel) + self.bias)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def build_model(kind: str, rate: float, units: int, pixels: int = 196) -> keras.Model:
    """A network that drops in both hidden layers.

    kind: "inverted", "test-scaled" or "DropConnect". Input: (batch, pixels). Output:
    (batch, 10) logits.
    """
    x = hidden = keras.Input((pixels,), name="x")
    for _ in range(2):
        if kind == "DropConnect":
            hidden = DropConnect(units, rate, activation="relu")(hidden)
        else:
            hidden = layers.Dense(units, "relu")(hidden)
        if kind == "inverted":
            hidden = InvertedDropout(rate)(hidden)
        if kind == "test-scaled":
            hidden = ScaledDropout(rate)(hidden)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name="digits")


def monte_carlo(model: keras.Model, x, passes: int = 50) -> np.ndarray:
    """Probabilities of each class, means over masks, (batch, classes)."""
    answers = [ops.softmax(model(x, training=True)) for _ in range(passes)]
    return np.mean(answers, axis=0)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """In nats, over the last axis: 0 is sure, log(classes) has no idea."""
    logarithms = np.log(np.maximum(probabilities, 1e-12))
    return -np.sum(probabilities * logarithms, axis=-1)


# --------------------------------------------------------------------------------------
# The experiment: many networks at once, that drop different shares
# --------------------------------------------------------------------------------------

KINDS = ("inverted", "test-scaled", "DropConnect")
RATES = (0.0, 0.25, 0.5, 0.75)
HALF = RATES.index(0.5)
SIZE = 14  # of the images, in pixels
# The best of 5e-4, 1e-3, 2e-3 and 4e-3 by validation loss without dropout, on seeds
# that are not reported.
LEARNING_RATE = 1e-3


def call(kind: str, weights, rates, x, seed, training: bool):
    """What a stack of networks, all as `build_model` builds them, says of the same
    images.

    weights: kernel and bias of each layer, (networks, inputs, outputs) and (networks,
    1, outputs). rates: (networks, 1, 1). x: (batch, pixels). Returns logits (networks,
    batch, 10).
    """
    hidden = tf.repeat(x[tf.newaxis], tf.shape(rates)[0], axis=0)
    for layer in range(2):
        kernel = weights[2 * layer]
        bias = weights[2 * layer + 1]
        if kind == "DropConnect":
            kernel = inverted_dropout(kernel, rates, seed, training)
        hidden = tf.nn.relu(hidden @ kernel + bias)
        if kind == "inverted":
            hidden = inverted_dropout(hidden, rates, seed, training)
        if kind == "test-scaled":
            hidden = test_scaled_dropout(hidden, rates, seed, training)
    return hidden @ weights[4] + weights[5]


def losses_of(logits, y):
    """Cross-entropies in nats, (networks,). logits: (networks, batch, 10)."""
    labels = tf.repeat(y[tf.newaxis], tf.shape(logits)[0], axis=0)
    found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(found, axis=1)


class Stack:
    """Networks of one kind at all rates, `starts` of each one after the other, that
    train at once."""

    def __init__(self, kind: str, starts: int, units: int, seed: int):
        self.kind = kind
        self.starts = starts
        self.rates = np.repeat(np.float32(RATES), starts)[:, np.newaxis, np.newaxis]
        self.seed = keras.random.SeedGenerator(seed)
        random = np.random.default_rng(seed)
        self.weights = []
        # The same starts at each rate, and for each kind.
        for inputs, outputs in ((SIZE**2, units), (units, units), (units, 10)):
            scale = np.sqrt(2 / inputs)
            kernels = random.normal(scale=scale, size=(starts, inputs, outputs))
            kernels = np.tile(kernels, (len(RATES), 1, 1)).astype("float32")
            biases = np.zeros((len(kernels), 1, outputs), "float32")
            self.weights += [tf.Variable(kernels), tf.Variable(biases)]
        self.optimizer = keras.optimizers.Adam(LEARNING_RATE)
        self.optimizer.build(self.weights)

    @tf.function
    def train_epoch(self, batches, x, y):
        """batches: (steps, batch size) rows of x and y."""
        for batch in batches:
            images = tf.gather(x, batch)
            labels = tf.gather(y, batch)
            with tf.GradientTape() as tape:
                logits = self.call(images, training=True)
                # Of no other network does a loss depend on the weights.
                loss = tf.reduce_sum(losses_of(logits, labels))
            gradients = tape.gradient(loss, self.weights)
            self.optimizer.apply(gradients, self.weights)

    def call(self, x, training: bool):
        return call(self.kind, self.weights, self.rates, x, self.seed, training)

    def by_rate(self, values) -> np.ndarray:
        """(networks, ...) as (rates, starts, ...)."""
        values = np.asarray(values)
        return values.reshape(len(RATES), self.starts, *values.shape[1:])

    def at(self, index: int) -> list[np.ndarray]:
        """The weights of the networks of one rate."""
        return [self.by_rate(weight)[index] for weight in self.weights]

    def state(self) -> list:
        return [self.weights, self.optimizer, self.seed.state.value]


@dataclass
class Trained:
    """The networks of one kind at all rates."""

    stack: Stack
    losses: dict[str, np.ndarray]
    """cross-entropies on the digits to train on, to choose by, and to report, (rates,
    starts)"""
    accuracies: dict[str, np.ndarray]
    """likewise"""

    @property
    def chosen(self) -> int:
        """The place of the rate that validates best, 0 left out."""
        means = self.losses["validation"].mean(axis=1)
        return 1 + int(means[1:].argmin())

    @property
    def gaps(self) -> np.ndarray:
        """By how much the loss is higher on test digits, (rates, starts)."""
        return self.losses["test"] - self.losses["training"]


def train(kind: str, parts, config: Config, run: Run) -> Trained:
    stack = Stack(kind, config.starts, config.units, run.seed)
    random = np.random.default_rng(run.seed)
    x, y = parts["training"]
    size = min(config.batch_size, len(x))
    steps = len(x) // size
    state = {"all": [stack.state(), random]}
    name = f"{len(stack.rates)} networks, {kind}"
    for _ in run.loop(name, config.epochs, state, unit="epochs"):
        order = random.permutation(len(x))[: steps * size]
        stack.train_epoch(tf.constant(order.reshape(steps, size)), x, y)

    losses = {}
    accuracies = {}
    for part, (images, labels) in parts.items():
        logits = stack.call(images, training=False)
        losses[part] = stack.by_rate(losses_of(logits, labels))
        right = np.argmax(logits, axis=-1) == labels.numpy()
        accuracies[part] = stack.by_rate(right.mean(axis=1))
    return Trained(stack, losses, accuracies)


def load_parts(images: int, seed: int) -> dict[str, tuple]:
    """Digits to train on, a thousand to choose by, and a thousand to report."""
    (x, y), (x_test, y_test) = data.load("mnist_5k", size=SIZE)
    order = np.random.default_rng(seed).permutation(len(x))
    training = order[:images]
    validation = order[-1000:]
    return {
        name: (tf.constant(pixels.reshape(len(pixels), -1)), tf.constant(labels))
        for name, pixels, labels in (
            ("training", x[training], y[training]),
            ("validation", x[validation], y[validation]),
            ("test", x_test, y_test),
        )
    }


@dataclass
class Answers:
    """Of networks, to test digits."""

    logits: np.ndarray
    """(networks, digits, 10); of several passes the mean"""
    probabilities: np.ndarray
    """likewise"""
    accuracy: float
    """of a single pass, mean over passes and networks"""

    def wrong(self, y: np.ndarray) -> np.ndarray:
        """(networks, digits)"""
        return self.probabilities.argmax(axis=-1) != y

    def loss(self, y: np.ndarray) -> float:
        """Cross-entropy in nats."""
        of_label = self.probabilities[:, np.arange(len(y)), y]
        return float(-np.log(np.maximum(of_label, 1e-12)).mean())

    def auroc(self, y: np.ndarray) -> float:
        """How well the entropy tells wrong answers from right ones: the probability
        that a wrong one has the higher; 0.5 is chance. Mean over networks."""
        wrong = self.wrong(y)
        entropies = entropy(self.probabilities)
        found = [roc_auc_score(*each) for each in zip(wrong, entropies, strict=True)]
        return float(np.mean(found))

    def confidence_in_errors(self, y: np.ndarray) -> float:
        """The mean probability of the answers that are wrong."""
        return float(self.probabilities.max(axis=-1)[self.wrong(y)].mean())


def answer(kind: str, weights, rate: float, test, seed, passes: int = 0) -> Answers:
    """One answer that drops nothing, or the mean of `passes` that do."""
    x, y = test
    rates = np.full((len(weights[0]), 1, 1), rate, "float32")
    logits = np.stack(
        [
            call(kind, weights, rates, x, seed, training=passes > 0)
            for _ in range(max(passes, 1))
        ]
    )
    probabilities = np.asarray(ops.softmax(logits))
    right = logits.argmax(axis=-1) == y.numpy()
    return Answers(logits.mean(axis=0), probabilities.mean(axis=0), right.mean())


def judge_gaps(trained: dict[str, Trained], run: Run) -> None:
    found = trained["inverted"]
    accuracies = found.accuracies["test"].mean(axis=1)
    run.metric("test_accuracy", accuracies[found.chosen])
    run.metric("test_accuracy_without", accuracies[0])
    run.compare(
        "The more is dropped, the closer are training and test",
        {
            "gap at p = 0": found.gaps[0].mean(),
            "gap at p = 0.75": found.gaps[-1].mean(),
        },
        more="gap at p = 0",
        less="gap at p = 0.75",
        times=1.1,
    )
    test = found.losses["test"].mean(axis=1)
    run.compare(
        "After as many epochs the loss on test digits is lower with dropout at the p "
        "that validates best than without (the accuracy is not, and a network that "
        "stops early is not among the rivals)",
        {"without": test[0], "with dropout": test[found.chosen]},
        more="without",
        less="with dropout",
        times=1.02,
    )
    chosen = {}
    for kind, each in trained.items():
        chosen[kind] = float(each.losses["test"].mean(axis=1)[each.chosen])
    run.metrics("test_loss", chosen)
    run.metric("test_loss_without", test[0])
    run.metrics(
        "chosen_rate", {kind: RATES[each.chosen] for kind, each in trained.items()}
    )
    run.compare(
        "DropConnect does not do as well, where a whole batch shares one mask",
        {kind: chosen[kind] for kind in ("DropConnect", "inverted")},
        more="DropConnect",
        less="inverted",
        times=1.01,
    )


def judge_scale(trained: Trained, test, passes: int, run: Run) -> None:
    """Of networks with test-scaled dropout: what the scale is for."""
    stack = trained.stack
    weights = stack.at(HALF)
    mean = answer(stack.kind, weights, 0.5, test, stack.seed, passes).logits
    scaled = answer(stack.kind, weights, 0.5, test, stack.seed).logits
    plain = answer(stack.kind, weights, 0.0, test, stack.seed).logits
    size = np.sqrt(np.mean(mean**2))
    off = {
        "scaled": float(np.sqrt(np.mean((scaled - mean) ** 2)) / size),
        "not scaled": float(np.sqrt(np.mean((plain - mean) ** 2)) / size),
    }
    run.metrics("off_the_mean_over_masks", off)
    run.claim(
        "One answer with scaled units stands for the mean over masks; without the scale "
        "it is far off",
        holds=off["scaled"] < 0.3 and off["not scaled"] > 1,
        measured=f"logits differ from the mean of {passes} by {off['scaled']:.0%} of "
        f"their size, without the scale by {off['not scaled']:.0%}",
    )


@dataclass
class Uncertainty:
    """Of networks at p = 0.5 and of those without dropout."""

    single: Answers
    """with dropout, one answer that drops nothing"""
    monte_carlo: Answers
    """of the same networks"""
    without: Answers
    """that never dropped"""
    without_halved: Answers
    """the same, dropping for the first time"""


def ask(trained: Trained, test, passes: int) -> Uncertainty:
    stack = trained.stack
    dropped = stack.at(HALF)
    whole = stack.at(0)
    return Uncertainty(
        single=answer(stack.kind, dropped, 0.0, test, stack.seed),
        monte_carlo=answer(stack.kind, dropped, 0.5, test, stack.seed, passes),
        without=answer(stack.kind, whole, 0.0, test, stack.seed),
        without_halved=answer(stack.kind, whole, 0.5, test, stack.seed, passes),
    )


def judge_uncertainty(found: Uncertainty, y: np.ndarray, run: Run) -> None:
    run.compare(
        "A network that trained with dropout depends on no single units: it does better "
        "where half of them are gone",
        {
            "dropout": found.monte_carlo.accuracy,
            "no dropout": found.without_halved.accuracy,
        },
        more="dropout",
        less="no dropout",
        by=0.03,
    )
    named = {
        "Monte Carlo": found.monte_carlo,
        "one answer": found.single,
        "no dropout": found.without,
    }
    aurocs = {name: each.auroc(y) for name, each in named.items()}
    sure = {name: each.confidence_in_errors(y) for name, each in named.items()}
    run.metrics("auroc", aurocs)
    run.metrics("confidence_in_errors", sure)
    run.metrics("loss", {name: each.loss(y) for name, each in named.items()})
    run.claim(
        "Monte Carlo's entropy is higher where the answer is wrong (that it tells so "
        "better than one softmax does not show: each AUROC)",
        at_least=0.8,
        measured=aurocs,
    )
    run.compare(
        "Monte Carlo dropout is less sure of its errors than one answer is",
        {name: sure[name] for name in ("one answer", "Monte Carlo")},
        more="one answer",
        less="Monte Carlo",
        by=0.04,
    )


def draw_losses(trained: dict[str, Trained]) -> plt.Figure:
    shown = []
    for kind, found in trained.items():
        lines = {
            "test": (RATES, found.losses["test"]),
            "training, nothing dropped": (RATES, found.losses["training"]),
        }
        panel = figures.Panel(
            title=kind,
            xlabel="share dropped, p",
            ylabel="cross-entropy (nats)",
            lines=lines,
            ylim=(0, 1.5),
            xticks=RATES,
        )
        shown.append(panel)
    return figures.panels(*shown, title="Training and test by share dropped")


def draw_entropies(found: Uncertainty, y: np.ndarray) -> plt.Figure:
    """Of right and of wrong answers."""
    named = {
        "no dropout": found.without,
        "dropout, one answer": found.single,
        "Monte Carlo dropout": found.monte_carlo,
    }
    figure, grid = plt.subplots(1, len(named), figsize=(13, 4), sharey=True)
    bins = np.linspace(0, np.log(10), 24)
    for axes, (name, answers) in zip(grid, named.items(), strict=True):
        entropies = entropy(answers.probabilities)
        wrong = answers.wrong(y)
        axes.hist(entropies[~wrong], bins, density=True, alpha=0.6, label="right")
        axes.hist(
            entropies[wrong],
            bins,
            density=True,
            histtype="step",
            linewidth=2,
            linestyle="--",
            label="wrong",
        )
        axes.set(title=f"{name}: AUROC {answers.auroc(y):.2f}")
        axes.set(xlabel="entropy of the answer (nats)")
    grid[0].set_ylabel("density")
    grid[0].legend(loc="upper right")
    figure.suptitle("How unsure the networks are of test digits, at p = 0.5")
    return figure


def draw_unsure(found: Answers, x: np.ndarray, y: np.ndarray) -> plt.Figure:
    """The digits that the first network is least sure of."""
    probabilities = found.probabilities[0]
    most = np.argsort(-entropy(probabilities))[:10]
    read_as = probabilities.argmax(axis=-1)
    captions = [f"{y[i]} read as {read_as[i]}" for i in most]
    return figures.image_grid(
        x[most].reshape(-1, SIZE, SIZE, 1),
        title="What Monte Carlo dropout is least sure of",
        captions=captions,
    )


def model_of(trained: Trained, units: int) -> keras.Model:
    """The first network at the rate that validates best."""
    index = trained.chosen
    model = build_model(trained.stack.kind, RATES[index], units)
    weights = trained.stack.at(index)
    for variable, weight in zip(model.trainable_variables, weights, strict=True):
        variable.assign(weight[0].reshape(variable.shape))
    return model


def main(config: Config, run: Run) -> None:
    run.plan(len(KINDS))
    parts = load_parts(config.images, run.seed)
    x_test = parts["test"][0].numpy()
    y_test = parts["test"][1].numpy()
    trained = {kind: train(kind, parts, config, run) for kind in KINDS}
    judge_gaps(trained, run)
    judge_scale(trained["test-scaled"], parts["test"], config.passes, run)
    found = ask(trained["inverted"], parts["test"], config.passes)
    judge_uncertainty(found, y_test, run)

    run.figure("losses", draw_losses(trained))
    run.figure("entropies", draw_entropies(found, y_test))
    run.figure("unsure", draw_unsure(found.monte_carlo, x_test, y_test))
    model = model_of(trained["inverted"], config.units)
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
