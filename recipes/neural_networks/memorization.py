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
from matplotlib.figure import Figure
from scipy.stats import binom

from deep_learning_recipes import data, figures, serving, training
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


# --------------------------------------------------------------------------------------
# The idea: many small networks, trained as one
# --------------------------------------------------------------------------------------

CLASSES = 10


def build_model(pixels: int, neurons: int) -> keras.Model:
    """One network. Input: (batch, pixels). Output: (batch, 10) logits."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(
        neurons, "relu", kernel_initializer="he_normal", name="hidden"
    )(x)
    logits = layers.Dense(CLASSES, name="logits")(hidden)
    return keras.Model(x, logits, name="mlp")


def build_stack(count: int, *shape: int) -> list[tf.Variable]:
    """Starts of `count` networks of a shape: (count, *shape) of each of the model's
    weights."""
    starts = [build_model(*shape).get_weights() for _ in range(count)]
    return [tf.Variable(np.stack(each)) for each in zip(*starts, strict=True)]


def logits_of(model: keras.Model, stack, x):
    """Each network on images of its own. x: (networks, batch, pixels). Returns
    (networks, batch, 10) logits. `model` gives the computation, `stack` the weights."""

    def one(weights_and_images):
        logits, _ = model.stateless_call(*weights_and_images)
        return logits

    logits = tf.vectorized_map(one, (list(stack), [], x))
    return tf.cast(logits, tf.float32)


def losses_of(model: keras.Model, stack, x, y, decay):
    """Each network's cross-entropy in nats, and λ/2·|W|² of its kernels, (networks,).
    y: (networks, batch); decay: λ, (networks,)."""
    logits = logits_of(model, stack, x)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    kernels = [each for each in stack if len(each.shape) == 3]
    squares = [tf.reduce_sum(kernel**2, axis=(1, 2)) for kernel in kernels]
    return tf.reduce_mean(cross_entropy, axis=1) + decay / 2 * tf.add_n(squares)


@tf.function(jit_compile=True, reduce_retracing=True)
def train_epoch(model: keras.Model, stack, optimizer, x, y, decay, batches):
    """One epoch of every network. batches: (steps, batch size) rows of x (networks,
    images, pixels) and y (networks, images). Returns the classes they name then,
    (networks, images)."""
    for rows in batches:
        images = tf.gather(x, rows, axis=1)
        labels = tf.gather(y, rows, axis=1)
        with tf.GradientTape() as tape:
            # No network's loss depends on another's weights: the sum's gradient is all
            # of theirs.
            loss = tf.reduce_sum(losses_of(model, stack, images, labels, decay))
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


# --------------------------------------------------------------------------------------
# The experiment: real labels, shuffled ones, and images of noise
# --------------------------------------------------------------------------------------

COMPARED = 0.4  # the share of shuffled labels at which the claims on noise look


@dataclass
class Lineup:
    """Which places of the stack hold which kind of network."""

    shares: list[float]
    """of the labels that are shuffled, lowest first: from none to all"""
    plain: np.ndarray
    """(shares, seeds)"""
    decayed: np.ndarray
    """(shares, seeds), with weight decay"""
    on_noise: np.ndarray
    """(seeds,), with images of noise in place of the digits"""

    @property
    def networks(self) -> int:
        return self.plain.size + self.decayed.size + self.on_noise.size

    @property
    def shown(self) -> dict[str, np.ndarray]:
        """The three kinds of training data of the paper, (seeds,) each."""
        return {
            "real labels": self.plain[0],
            "noise images": self.on_noise,
            "shuffled labels": self.plain[-1],
        }

    @property
    def compared(self) -> int:
        """The row of `plain` and of `decayed` that the claims on noise look at."""
        return self.shares.index(COMPARED)


def line_up(config: Config) -> Lineup:
    shares = sorted({0.0, COMPARED, 1.0, *config.noise})
    by_share = (len(shares), config.seeds)
    count = len(shares) * config.seeds
    places = np.arange(2 * count + config.seeds)
    return Lineup(
        shares=shares,
        plain=places[:count].reshape(by_share),
        decayed=places[count : 2 * count].reshape(by_share),
        on_noise=places[2 * count :],
    )


@dataclass
class Task:
    """The data of each network: first the examples it trains on, then those it
    validates on, then held-out ones, which all networks share."""

    images: np.ndarray
    """(networks, images, 64)"""
    true: np.ndarray
    """(networks, images) labels"""
    given: np.ndarray
    """the same, some of those to train and to validate on shuffled"""
    decay: np.ndarray
    """λ of each network, (networks,)"""
    examples: int
    """to train on"""
    known: int
    """to train and to validate on"""

    def split(self, per_image: np.ndarray) -> list[np.ndarray]:
        """(..., images) into those to train on, to validate on, and held out."""
        return np.split(per_image, [self.examples, self.known], axis=-1)


def draw_task(config: Config, lineup: Lineup, random: np.random.Generator) -> Task:
    (x, y), (x_test, y_test) = data.load("digits")
    known = len(x)
    x = np.concatenate([x, x_test]).reshape(-1, 64)
    y = np.concatenate([y, y_test])
    # To about mean 0 and deviation 1, as the noise images have.
    x = (x - 0.3) / 0.38

    held_out = range(known, len(x))
    rows = [[*random.permutation(known), *held_out] for _ in range(lineup.networks)]
    images = x[rows]
    images[lineup.on_noise] = random.normal(size=images[lineup.on_noise].shape)

    true = y[rows]
    given = true.copy()
    share_of = np.zeros(lineup.networks)
    share_of[lineup.plain] = np.array(lineup.shares)[:, np.newaxis]
    share_of[lineup.decayed] = share_of[lineup.plain]
    for labels, share in zip(given, share_of, strict=True):
        labels[:known] = shuffle_some(random, labels[:known], share)

    decay = np.zeros(lineup.networks, "float32")
    decay[lineup.decayed] = config.weight_decay
    return Task(images, true, given, decay, config.examples, known)


@dataclass
class Trained:
    model: keras.Model
    """with the weights of the first network"""
    answers: np.ndarray
    """the class that each network names, (epochs, networks, images)"""
    seconds: float
    """for each network"""


def train(task: Task, config: Config, random: np.random.Generator, run: Run) -> Trained:
    started = time.perf_counter()
    networks = len(task.images)
    model = build_model(64, config.neurons)
    stack = build_stack(networks, 64, config.neurons)
    optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(stack)
    images = tf.constant(task.images)
    labels = tf.constant(task.given)
    decay = tf.constant(task.decay)

    answers = np.zeros((config.epochs, *task.given.shape), "uint8")
    steps = config.examples // config.batch_size
    state = {"all": [stack, optimizer, answers, random]}
    for epoch in run.loop(f"{networks} networks", config.epochs, state, unit="epochs"):
        order = random.permutation(config.examples)[: steps * config.batch_size]
        batches = tf.constant(order.reshape(steps, config.batch_size))
        answers[epoch] = train_epoch(
            model, stack, optimizer, images, labels, decay, batches
        )

    model.set_weights([each[0].numpy() for each in stack])
    seconds = (time.perf_counter() - started) / networks
    return Trained(model, answers, seconds)


def seconds_alone(fit, task: Task, config: Config) -> float:
    """What training one network by `fit` would take: its first epoch, which compiles,
    and the others at the pace of ten."""
    model = build_model(64, config.neurons)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = task.images[0, : task.examples]
    y = task.given[0, : task.examples]
    started = time.perf_counter()
    fit(model, x, y, batch_size=config.batch_size, epochs=1, verbose=0)
    compiled = time.perf_counter()
    fit(model, x, y, batch_size=config.batch_size, epochs=10, verbose=0)
    pace = (time.perf_counter() - compiled) / 10
    return compiled - started + (config.epochs - 1) * pace


@dataclass
class Accuracies:
    """Shares of the given labels that are named, (epochs, networks)."""

    train: np.ndarray
    validation: np.ndarray
    """these labels are shuffled, too, as are those to train on"""
    test: np.ndarray

    @property
    def epochs_to_fit(self) -> np.ndarray:
        """Epochs until a network has named all its training labels, (networks,)."""
        has_fitted = np.logical_or.accumulate(self.train == 1, axis=0)
        return 1 + np.sum(~has_fitted, axis=0)

    @property
    def stops(self) -> np.ndarray:
        """Early stopping: the epoch that names most validation labels, (networks,)."""
        return self.validation.argmax(axis=0)


def measure(task: Task, answers: np.ndarray) -> Accuracies:
    train, validation, test = task.split(answers == task.given)
    return Accuracies(
        train=train.mean(axis=-1),
        validation=validation.mean(axis=-1),
        test=test.mean(axis=-1),
    )


def at_epochs(values: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """values (epochs, networks) of each network at an epoch of its own, (networks,)."""
    return values[epochs, np.arange(len(epochs))]


@dataclass
class WrongLabels:
    """Shares of the training images with a wrong label, (epochs, networks)."""

    right: np.ndarray
    """that are named by their true class"""
    by_heart: np.ndarray
    """that are named by the wrong label"""


def look_at_wrong_labels(task: Task, answers: np.ndarray) -> WrongLabels:
    """Of networks whose labels are real the shares are no numbers."""
    said, _, _ = task.split(answers)
    true, _, _ = task.split(task.true)
    given, _, _ = task.split(task.given)
    is_wrong = given != true
    count = is_wrong.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return WrongLabels(
            right=np.sum((said == true) & is_wrong, axis=-1) / count,
            by_heart=np.sum((said == given) & is_wrong, axis=-1) / count,
        )


def judge_memory(found: Accuracies, lineup: Lineup, task: Task, run: Run) -> None:
    real = lineup.shown["real labels"]
    shuffled = lineup.shown["shuffled labels"]
    epochs = found.epochs_to_fit
    generalizes = found.test[-1, real]
    at_chance = found.test[-1, shuffled].mean()
    run.metric("shuffled_labels_train_accuracy", found.train[:, shuffled].max(0).mean())
    run.metric("shuffled_labels_test_accuracy", at_chance)
    run.metric("real_labels_test_accuracy", generalizes.mean())

    guesses = len(shuffled) * (task.given.shape[1] - task.known)
    low, high = np.array(binom.interval(0.9999, guesses, 1 / CLASSES)) / guesses
    run.claim(
        "A network that generalizes from real labels memorizes shuffled ones wholly "
        "just as well",
        holds=max(*epochs[real], *epochs[shuffled]) <= len(found.train)
        and generalizes.min() > 0.93
        and low <= at_chance <= high,
        measured=f"all {task.examples:,} training labels right after "
        f"{epochs[real].max()} and {epochs[shuffled].max()} epochs; test "
        f"{generalizes.mean():.3f} and {at_chance:.3f} (guess: {low:.2f} to {high:.2f})",
    )


def judge_order(found: Accuracies, lineup: Lineup, run: Run) -> None:
    by_kind = {name: found.epochs_to_fit[each] for name, each in lineup.shown.items()}
    real, noisy, shuffled = by_kind.values()
    run.metric("epochs_to_fit_real_labels", real.mean())
    run.metric("epochs_to_fit_noise_images", noisy.mean())
    run.metric("epochs_to_fit_shuffled_labels", shuffled.mean())
    run.claim(
        "Real labels are learned faster than noise images, and those faster than "
        "shuffled labels",
        holds=1.1 * real.mean() < noisy.mean() and 1.5 * noisy.max() < shuffled.min(),
        measured=f"all training labels right after {real.min()} to {real.max()} epochs, "
        f"{noisy.min()} to {noisy.max()}, {shuffled.min()} to {shuffled.max()}",
    )


def judge_what_comes_first(wrong: WrongLabels, lineup: Lineup, run: Run) -> None:
    networks = lineup.plain[lineup.compared]
    right = wrong.right[:, networks]
    by_heart = wrong.by_heart[:, networks]
    best_after = 1 + right.argmax(axis=0)
    half_after = 1 + np.argmax(by_heart > 0.5, axis=0)
    run.claim(
        "Where a label is wrong, the network says the right class before it learns it "
        "by heart",
        holds=right.max(axis=0).min() > 0.6
        and np.all(best_after < half_after)
        and by_heart[-1].min() > 0.95,
        measured=f"{COMPARED:.0%} shuffled: {right.max(axis=0).mean():.2f} of these "
        f"images right at best, after {best_after.min()} to {best_after.max()} epochs; "
        f"half by heart after {half_after.min()} to {half_after.max()}, "
        f"{by_heart[-1].mean():.2f} in the end",
    )


def judge_remedies(found: Accuracies, wrong: WrongLabels, lineup: Lineup, run: Run):
    plain = lineup.plain[lineup.compared]
    decayed = lineup.decayed[lineup.compared]
    test = {
        "trained to the end": found.test[-1, plain].mean(),
        "stopped early": at_epochs(found.test, found.stops)[plain].mean(),
        "with weight decay": found.test[-1, decayed].mean(),
    }
    by_heart = {
        "trained to the end": wrong.by_heart[-1, plain].mean(),
        "stopped early": at_epochs(wrong.by_heart, found.stops)[plain].mean(),
        "with weight decay": wrong.by_heart[-1, decayed].mean(),
    }
    plainly, *remedied = test.values()
    run.claim(
        "Early stopping and weight decay keep most noisy labels from being memorized",
        holds=min(remedied) > plainly + 0.08
        and max(by_heart["stopped early"], by_heart["with weight decay"]) < 0.5,
        measured=f"test accuracy with {COMPARED:.0%} shuffled, and wrong labels known by "
        "heart: "
        + ", ".join(f"{test[way]:.3f} and {by_heart[way]:.2f} {way}" for way in test),
    )


def judge_speed(trained: Trained, task: Task, config: Config, run: Run) -> None:
    """The same trainings one after another would take what one takes, times their
    number."""
    by_keras = seconds_alone(keras.Model.fit, task, config) / trained.seconds
    compiled = seconds_alone(training.fit, task, config) / trained.seconds
    run.metric("speedup_over_keras_fits", by_keras, timing=True)
    run.metric("speedup_over_compiled_fits", compiled, timing=True)
    run.claim(
        "Many small networks train in one compiled call, in less time than one after "
        "another",
        holds=by_keras > 4,
        measured=f"{trained.seconds:.2f} s for each of {len(task.images)}; alone "
        f"{by_keras:.1f} times that by Keras's fit, {compiled:.1f} times by compiled "
        "epochs",
    )


def draw_fits(found: Accuracies, lineup: Lineup) -> Figure:
    parts = {
        "Training labels: all are learned": found.train,
        "Test: only real labels help": found.test,
    }
    epochs = np.arange(1, len(found.train) + 1)
    return figures.panels(
        *[
            figures.Panel(
                title=title,
                xlabel="epoch",
                ylabel=f"accuracy (range of {lineup.plain.shape[1]} networks)",
                lines={
                    name: (epochs, accuracies[:, places])
                    for name, places in lineup.shown.items()
                },
                levels={"chance": 1 / CLASSES},
                xscale="log",
                xticks=[1, 3, 10, 30, len(epochs)],
                ylim=(0, 1.03),
            )
            for title, accuracies in parts.items()
        ]
    )


def draw_noise(found: Accuracies, wrong: WrongLabels, lineup: Lineup) -> Figure:
    stopped = at_epochs(found.test, found.stops)
    by_share = figures.Panel(
        title="What noise does to the test accuracy",
        xlabel="share of the training labels that is shuffled",
        ylabel="test accuracy",
        lines={
            "stopped early": (lineup.shares, stopped[lineup.plain]),
            "with weight decay": (lineup.shares, found.test[-1][lineup.decayed]),
            "trained to the end": (lineup.shares, found.test[-1][lineup.plain]),
        },
        ylim=(0, 1.03),
    )
    networks = lineup.plain[lineup.compared]
    by_epoch = figures.Panel(
        title=f"Training images with a wrong label ({COMPARED:.0%} shuffled)",
        xlabel="epoch",
        ylabel="share of them answered with",
        lines={
            "the right class": wrong.right[:, networks],
            "the wrong label it was given": wrong.by_heart[:, networks],
        },
        ylim=(0, 1.03),
    )
    return figures.panels(by_share, by_epoch)


def main(config: Config, run: Run) -> None:
    random = np.random.default_rng(run.seed)
    lineup = line_up(config)
    task = draw_task(config, lineup, random)
    trained = train(task, config, random, run)

    found = measure(task, trained.answers)
    wrong = look_at_wrong_labels(task, trained.answers)
    judge_memory(found, lineup, task, run)
    judge_order(found, lineup, run)
    judge_what_comes_first(wrong, lineup, run)
    judge_remedies(found, wrong, lineup, run)
    judge_speed(trained, task, config, run)

    run.figure("fits", draw_fits(found, lineup))
    run.figure("noise", draw_noise(found, wrong, lineup))
    run.export(serving.classifier(trained.model), example=task.images[0, -3:])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
