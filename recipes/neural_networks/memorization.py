"""A network memorizes anything, even labels that mean nothing.

Shuffle the labels of the training images and there is nothing left to learn, yet the
same network, trained the same way, still gets every one of them right: it has room
enough to learn the list by heart. So it is not a lack of capacity that makes it
generalize from real labels. But the two are learned differently: what many images share
comes in the first epochs, the list takes ten times as long, and with some labels wrong
the network is at its best in between.
Look at the order in which real labels, noise images and shuffled labels are fitted, and
at what the network says of wrongly labeled images before it has learned them by heart.

All networks train at once: each weight of the model becomes a stack, (networks,
*shape), the model is mapped over the stack by `tf.vectorized_map`, and one compiled
call is an epoch of all of them.

Lectures: N18 3.2 Intriguing Properties, 1.2 Training; SEL DL basics
Paper: Zhang et al., Understanding deep learning requires rethinking generalization,
    2017 (section 2); Arpit et al., A closer look at memorization in deep networks, 2017
Tags: random labels, overfitting, generalization, label noise, capacity
"""

import time
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from scipy.stats import binom

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    examples: int = 1000
    """training images of each network; the other training images validate it"""
    seeds: int = 5
    """networks of each kind, each with its own start, images and labels"""
    noise: tuple[Annotated[float, Interval(gt=0, le=1)], ...] = (0.2, 0.6, 0.8)
    """shares of shuffled labels to train with, besides 0, 0.4 and 1"""
    neurons: int = 256
    """width of the hidden layer"""
    weight_decay: float = 0.02
    """λ of the penalty λ/2·|W|² of the regularized networks"""
    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 100
    """examples a gradient is averaged over"""
    learning_rate: float = 5e-3
    """of Adam"""


QUICK = Config(examples=500, seeds=3, noise=(), epochs=70, batch_size=50)
FULL = Config(seeds=20, noise=(0.1, 0.2, 0.6, 0.8, 0.9), neurons=512, epochs=200)

CLASSES = 10


def build_model(pixels: int, neurons: int) -> keras.Model:
    """One network. Input: (batch, pixels). Output: (batch, 10) logits."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(
        neurons, "relu", kernel_initializer="he_normal", name="hidden"
    )(x)
    return keras.Model(x, layers.Dense(CLASSES, name="logits")(hidden), name="mlp")


def build_stack(count: int, *shape: int) -> list[tf.Variable]:
    """Starts of `count` networks of a shape: (count, *shape) of each of the model's
    weights."""
    starts = [build_model(*shape).get_weights() for _ in range(count)]
    return [tf.Variable(np.stack(each)) for each in zip(*starts, strict=True)]


def logits_of(model: keras.Model, stack, x):
    """Each network on images of its own. x: (networks, batch, pixels). Returns
    (networks, batch, 10) logits. `model` gives the computation, `stack` the weights."""
    logits = tf.vectorized_map(
        lambda each: model.stateless_call(*each)[0], (list(stack), [], x)
    )
    return tf.cast(logits, tf.float32)


def losses_of(model: keras.Model, stack, x, y, decay):
    """Each network's cross-entropy in nats, and λ/2·|W|² of its kernels. y: (networks,
    batch);
    decay: (networks,). Returns (networks,)."""
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        y, logits_of(model, stack, x)
    )
    squares = [
        tf.reduce_sum(each**2, axis=(1, 2)) for each in stack if len(each.shape) == 3
    ]
    return tf.reduce_mean(cross_entropy, axis=1) + decay / 2 * tf.add_n(squares)


@tf.function(jit_compile=True, reduce_retracing=True)
def train_epoch(model: keras.Model, stack, optimizer, x, y, decay, batches):
    """One epoch of every network. batches: (steps, batch size) rows of x (networks,
    images, pixels) and y (networks, images). Returns the classes they name then,
    (networks, images)."""
    for rows in batches:
        batch = tf.gather(x, rows, axis=1), tf.gather(y, rows, axis=1)
        with tf.GradientTape() as tape:
            # No network's loss depends on another's weights: the sum's gradient is all
            # of theirs.
            loss = tf.reduce_sum(losses_of(model, stack, *batch, decay))
        optimizer.apply(tape.gradient(loss, stack), stack)
    return tf.argmax(logits_of(model, stack, x), axis=-1)


def shuffle_some(
    random: np.random.Generator, y: np.ndarray, share: float
) -> np.ndarray:
    """The labels after a share of them, drawn at random, was shuffled among
    themselves."""
    rows = random.choice(len(y), round(share * len(y)), replace=False)
    shuffled = y.copy()
    shuffled[rows] = y[random.permutation(rows)]
    return shuffled


def seconds_of(fit, model: keras.Model, x, y, batch_size: int, epochs: int) -> float:
    """What training one network alone takes: the first epoch, which compiles, then as
    ten more."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    started = time.perf_counter()
    fit(model, x, y, batch_size=batch_size, epochs=1, verbose=0)
    compiled = time.perf_counter()
    fit(model, x, y, batch_size=batch_size, epochs=10, verbose=0)
    return compiled - started + (epochs - 1) * (time.perf_counter() - compiled) / 10


def draw_band(axes: plt.Axes, x, values: np.ndarray, label: str, **style) -> None:
    """Mean over networks and the range between them. x: (points,); values: (points,
    networks)."""
    (line,) = axes.plot(x, values.mean(axis=1), label=label, **style)
    axes.fill_between(
        x, values.min(axis=1), values.max(axis=1), color=line.get_color(), alpha=0.2
    )
    axes.set_ylim(0, 1.03)


def plot_fits(parts: dict[str, dict[str, np.ndarray]]) -> plt.Figure:
    """Accuracies (epochs, networks) by part of the data and by what was learned."""
    figure, panels = plt.subplots(1, len(parts), figsize=(10, 4.2), sharey=True)
    for axes, (title, accuracies) in zip(panels, parts.items(), strict=True):
        for name, values in accuracies.items():
            draw_band(axes, np.arange(1, len(values) + 1), values, name)
        axes.axhline(1 / CLASSES, color="black", linestyle=":", label="chance")
        axes.set(title=title, xlabel="epoch", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel(f"accuracy (mean, range of {values.shape[1]} networks)")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    return figure


def plot_noise(
    noise, rules: dict[str, np.ndarray], said: dict[str, np.ndarray]
) -> plt.Figure:
    """Test accuracies (shares, networks); answers where a label is wrong (epochs,
    networks)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    for (name, values), marker in zip(rules.items(), "os^", strict=True):
        draw_band(left, noise, values, name, marker=marker)
    left.set(title="What noise does to the test accuracy", ylabel="test accuracy")
    left.set_xlabel("share of the training labels that is shuffled")
    for (name, values), color in zip(said.items(), ("#CC79A7", "#E69F00"), strict=True):
        draw_band(right, np.arange(1, len(values) + 1), values, name, color=color)
    right.set(
        title="Training images with a wrong label",
        xlabel="epoch",
        ylabel="share of them",
    )
    left.legend(loc="lower left")
    right.legend(loc="center right", title="answered with (40 % shuffled)")
    return figure


def main(config: Config, run: Run) -> None:
    (x, y), (x_test, y_test) = data.load("digits")
    n, known, random = config.examples, len(x), np.random.default_rng(run.seed)
    x, y = np.concatenate([x, x_test]).reshape(-1, 64), np.concatenate([y, y_test])
    x = (x - 0.3) / 0.38  # about mean 0 and deviation 1, as the noise images have

    # Networks by weight decay, share of shuffled labels, seed; at last those on noise
    # images.
    noise = sorted({0.0, 0.4, 1.0, *config.noise})
    kinds = [(share, decay) for decay in (0.0, config.weight_decay) for share in noise]
    networks = [kind for kind in [*kinds, (0.0, 0.0)] for _ in range(config.seeds)]
    groups = np.arange(len(networks)).reshape(-1, config.seeds)
    plain, decayed, (on_noise,) = np.split(groups, [len(noise), 2 * len(noise)])

    # Each has its own images to train on (the first n) and to validate on; they share
    # the tests.
    rows = [[*random.permutation(known), *range(known, len(x))] for _ in networks]
    images, true = x[rows], y[rows]
    images[on_noise] = random.normal(size=images[on_noise].shape)
    given = true.copy()
    for labels, (share, _) in zip(given, networks, strict=True):
        labels[:known] = shuffle_some(random, labels[:known], share)

    # All of them train at once. What each says of each image is kept for every epoch.
    started = time.perf_counter()
    model = build_model(64, config.neurons)
    stack = build_stack(len(networks), 64, config.neurons)
    optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(stack)
    answers = np.zeros((config.epochs, *given.shape), "uint8")
    state = {"all": [stack, optimizer, answers, random]}
    on_device = [
        tf.constant(each) for each in (images, given, [decay for _, decay in networks])
    ]
    for epoch in run.loop(
        f"{len(networks)} networks", config.epochs, state, unit="epochs"
    ):
        order = random.permutation(n)[: n - n % config.batch_size]
        batches = tf.constant(order.reshape(-1, config.batch_size))
        answers[epoch] = train_epoch(model, stack, optimizer, *on_device, batches)
    seconds = (time.perf_counter() - started) / len(networks)
    parts = np.split(answers == given, [n, known], axis=-1)
    train, validation, test = (
        part.mean(axis=-1) for part in parts
    )  # (epochs, networks)
    shown = {
        "real labels": plain[0],
        "noise images": on_noise,
        "shuffled labels": plain[-1],
    }
    titles = {
        "Training labels: all are learned": train,
        "Test: only real labels help": test,
    }
    fits = {
        part: {name: of[:, k] for name, k in shown.items()}
        for part, of in titles.items()
    }
    run.figure("fits", plot_fits(fits))
    epochs = 1 + np.sum(
        ~np.logical_or.accumulate(train == 1), axis=0
    )  # until all are right
    real, noisy, shuffled = (epochs[each] for each in shown.values())
    generalizes, at_chance = test[-1, plain[0]], test[-1, plain[-1]].mean()
    tests = config.seeds * len(x_test)
    low, high = np.array(binom.interval(0.9999, tests, 1 / CLASSES)) / tests

    # Early stopping: at the epoch at which most of the validation labels, noisy too,
    # are met.
    best = np.take_along_axis(test, validation.argmax(axis=0)[np.newaxis], axis=0)[0]
    rules = {"stopped early": best[plain], "with weight decay": test[-1, decayed]}
    rules["trained to the end"] = test[-1, plain]
    early, regularized, end = (
        values[noise.index(0.4)].mean() for values in rules.values()
    )
    some = np.s_[..., plain[noise.index(0.4)], :n]
    wrong = given[some] != true[some]
    said = {
        name: np.sum((answers[some] == y[some]) & wrong, axis=-1) / wrong.sum(axis=-1)
        for name, y in (
            ("the right class", true),
            ("the wrong label it was given", given),
        )
    }
    run.figure("noise", plot_noise(noise, rules, said))
    right, by_heart = said.values()

    # The same trainings one after another would take what one takes, times their
    # number.
    pairs = images[0, :n], given[0, :n], config.batch_size, config.epochs
    speedup = {
        name: seconds_of(fit, build_model(64, config.neurons), *pairs) / seconds
        for name, fit in (
            ("keras_fits", keras.Model.fit),
            ("compiled_fits", training.fit),
        )
    }

    run.metric("shuffled_labels_train_accuracy", train[:, plain[-1]].max(axis=0).mean())
    run.metric("shuffled_labels_test_accuracy", at_chance)
    run.metric("real_labels_test_accuracy", generalizes.mean())
    run.metric("epochs_to_fit_real_labels", real.mean())
    run.metric("epochs_to_fit_shuffled_labels", shuffled.mean())
    for name, ratio in speedup.items():
        run.metric(f"speedup_over_{name}", ratio, timing=True)
    run.claim(
        "A network that generalizes from real labels memorizes shuffled ones wholly just as well",
        holds=max(*real, *shuffled) <= config.epochs
        and generalizes.min() > 0.93
        and low <= at_chance <= high,
        measured=f"all {n:,} training labels right after {real.max()} and {shuffled.max()} epochs; "
        f"test {generalizes.mean():.3f} and {at_chance:.3f} (guess: {low:.2f} to {high:.2f})",
    )
    run.claim(
        "Real labels are learned faster than noise images, and those faster than shuffled labels",
        holds=1.1 * real.mean() < noisy.mean() and 1.5 * noisy.max() < shuffled.min(),
        measured=f"all training labels right after {real.min()} to {real.max()} epochs, "
        f"{noisy.min()} to {noisy.max()}, {shuffled.min()} to {shuffled.max()}",
    )
    run.claim(
        "Where a label is wrong, the network says the right class before it learns it by heart",
        holds=right.max(axis=0).min() > 0.6 and by_heart[-1].min() > 0.95,
        measured=f"40 % shuffled: {right.max(axis=0).mean():.2f} of these images right at best; "
        f"{by_heart[-1].mean():.2f} learned by heart in the end",
    )
    run.claim(
        "Early stopping and weight decay keep noisy labels from being memorized",
        holds=min(early, regularized) > end + 0.08,
        measured=f"test accuracy with 40 % shuffled: {end:.3f} trained to the end, {early:.3f} "
        f"stopped early, {regularized:.3f} with weight decay",
    )
    run.claim(
        "Many small networks train in one compiled call, in less time than one after another",
        holds=speedup["keras_fits"] > 4,
        measured=f"{seconds:.2f} s for each of {len(networks)}; alone {speedup['keras_fits']:.1f} "
        f"times that by Keras's fit, {speedup['compiled_fits']:.1f} times by compiled epochs",
    )
    model.set_weights([each[0].numpy() for each in stack])
    run.export(serving.classifier(model), example=images[0, -3:])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
