"""Model selection: choosing a network without fooling oneself.

Train on one part of the data, choose on a second, report on a third. What was chosen on
some images looks better on these than it is: of k networks that are equally good, the
best on n images was lucky there, by about σ·√(2 ln k / n). So the images that choose
can't report. Early stopping chooses an epoch in the same way: the one of the lowest
validation loss. Where data are few, k folds let each example be trained on and held
out, and the estimate is steadier than that of a single split.
Look at how much the best of many networks overstates itself, by the number of
candidates and of images.

Lectures: N18 1.2.5 Hyperparameters; ICME Why do we need a test set?; CS Cross
    Validation
Paper: Cawley and Talbot, On over-fitting in model selection and subsequent selection
    bias in performance evaluation, 2010; Prechelt, Early stopping, but when?, 1998
Tags: cross-validation, k-fold, early stopping, validation set, test set, selection
    bias, winner's curse
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    seeds: Annotated[int, Interval(ge=2, le=200)] = 8
    """networks at each learning rate, and eight times as many that differ in nothing
    but their seed"""
    data_sets: Annotated[int, Interval(ge=2, le=200)] = 60
    """small ones, of which the accuracy is estimated by folds and by a single split"""
    epochs: Annotated[int, Interval(ge=10)] = 60
    """passes over the training images"""
    patience: int = 8
    """epochs without a better validation loss after which a training stops"""
    draws: Annotated[int, Interval(ge=10)] = 2000
    """choices that each overstatement is averaged over"""


QUICK = Config(seeds=4, data_sets=40, draws=500)
FULL = Config(seeds=40, data_sets=200, epochs=200, draws=20_000)

# --------------------------------------------------------------------------------------
# The idea: images that choose don't report
# --------------------------------------------------------------------------------------


def split(
    examples: int, sizes: Sequence[int], random: np.random.Generator
) -> list[np.ndarray]:
    """Rows of disjoint random parts of the given sizes: train, validation, test.

    Raises ValueError if there are not as many examples.
    """
    if sum(sizes) > examples:
        raise ValueError(f"{sum(sizes)} of {examples} examples are wanted")
    order = random.permutation(examples)
    ends = np.cumsum(sizes)
    return np.split(order[: ends[-1]], ends[:-1])


def k_folds(
    examples: int, folds: int, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each fold the rows to train on and the rows held out. Each example is held out
    once; folds differ by one example at most.

    sklearn.model_selection.KFold(folds, shuffle=True).split(x)

    Raises ValueError unless there are two folds or more, and an example for each.
    """
    if not 2 <= folds <= examples:
        raise ValueError(f"2 to {examples} folds are possible, not {folds}")
    parts = np.array_split(random.permutation(examples), folds)
    return [(np.setdiff1d(np.arange(examples), part), part) for part in parts]


def stratified_folds(
    y: np.ndarray, folds: int, random: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `k_folds`, with each class in all folds alike, to one example.

    sklearn.model_selection.StratifiedKFold(folds, shuffle=True).split(x, y)
    """
    if not 2 <= folds <= len(y):
        raise ValueError(f"2 to {len(y)} folds are possible, not {folds}")
    # Class by class, dealt to the folds in turn.
    shuffled = random.permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    parts = [by_class[first::folds] for first in range(folds)]
    return [(np.setdiff1d(np.arange(len(y)), part), part) for part in parts]


def stop_early(losses: Sequence[float], patience: int) -> tuple[int, int]:
    """The epoch of the lowest validation loss so far, and the one at which the training
    stops, as none of `patience` epochs since was better; both from 0.

    keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
    """
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience:
            return best, epoch
    return best, len(losses) - 1


def choose(correct: np.ndarray) -> int:
    """The candidate that is right most often. correct: (candidates, images) of 0 or 1."""
    return int(correct.mean(axis=1).argmax())


def build_network(inputs: int = 64, classes: int = 10) -> keras.Model:
    """A small network. Input: (batch, inputs). Output: (batch, classes) logits."""
    x = keras.Input((inputs,), name="x")
    hidden = layers.Dense(32, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="network")


# --------------------------------------------------------------------------------------
# The experiment: many candidates, and a large part that tells the truth
# --------------------------------------------------------------------------------------

TRAIN = 1000  # images; the others are held out, and tell how good a network is
WATCHED = 1000  # of those held out: their losses are known after each epoch
AT_ONCE = 500  # images that all networks answer together
OF_CANDIDATES = 200  # images that candidates train on
FEW, FOLDS = 100, 5  # images of a small data set
BATCH_SIZE = 20
STEPS_PER_EPOCH = OF_CANDIDATES // BATCH_SIZE
LEARNING_RATES = np.logspace(-2, 0, 8)
USUAL_RATE = 0.1
SIZES = (30, 100, 300)  # images that choose


@dataclass
class Parts:
    """Images of 8×8 pixels, flat, and labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_held_out: np.ndarray
    y_held_out: np.ndarray


def load_parts(seed: int) -> Parts:
    (x, y), (x_test, y_test) = data.load("mnist_5k", size=8)
    x = np.concatenate([x, x_test]).reshape(len(x) + len(x_test), -1)
    y = np.concatenate([y, y_test])
    sizes = TRAIN, len(x) - TRAIN
    train, held_out = split(len(x), sizes, np.random.default_rng(seed))
    return Parts(x[train], y[train], x[held_out], y[held_out])


@dataclass
class Group:
    """Networks that have a training set each."""

    training_rows: list[np.ndarray]
    """of the training images, for each network"""
    rates: np.ndarray
    """(networks,)"""


@dataclass
class Trained:
    """What became of a group, (networks, ...)."""

    losses: np.ndarray
    """on both halves of the watched images, (networks, epochs, 2)"""
    held_out: np.ndarray
    """0 or 1 on all images that are held out, (networks, images)"""
    train: np.ndarray
    """0 or 1 on all training images, (networks, images)"""
    rows: np.ndarray
    """weights, (networks, weights)"""

    def of(self, group: slice) -> "Trained":
        return Trained(
            self.losses[group],
            self.held_out[group],
            self.train[group],
            self.rows[group],
        )


class Stack:
    """All networks, which train at once."""

    def __init__(self, groups: list[Group], parts: Parts) -> None:
        self.training_rows = [rows for each in groups for rows in each.training_rows]
        rates = np.concatenate([each.rates for each in groups])
        self.rates = tf.constant(rates[:, np.newaxis], "float32")
        self.network = build_network()
        starts = [stacks.row_of(build_network()) for _ in rates]
        self.rows = tf.Variable(np.array(starts))
        self.x = tf.constant(parts.x_train)
        self.y = tf.constant(parts.y_train)
        half = WATCHED // 2
        self.watched = [
            (
                tf.constant(parts.x_held_out[first : first + half]),
                tf.constant(parts.y_held_out[first : first + half]),
            )
            for first in (0, half)
        ]
        self.parts = parts

    @tf.function(jit_compile=True)
    def train_epoch(self, batches):
        """batches: (steps, networks, batch size) rows of the training images. Returns
        the losses on both halves of the watched images, (2, networks)."""
        for batch in batches:
            x = tf.gather(self.x, batch)
            y = tf.gather(self.y, batch)
            gradients = stacks.gradients_each(self.network, self.rows, x, y)
            self.rows.assign_sub(self.rates * gradients)
        found = [stacks.losses(self.network, self.rows, *half) for half in self.watched]
        return tf.stack(found)

    @tf.function(jit_compile=True)
    def answers(self, x):
        """(networks, images) classes."""
        return tf.argmax(stacks.call(self.network, self.rows, x), axis=-1)

    def correct(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """0 or 1, (networks, images)."""
        parts = [
            self.answers(tf.constant(x[first : first + AT_ONCE]))
            for first in range(0, len(x), AT_ONCE)
        ]
        return np.concatenate(parts, axis=1) == y

    def train(self, config: Config, run: Run) -> Trained:
        random = np.random.default_rng(run.seed)
        networks = len(self.training_rows)
        losses = np.zeros((config.epochs, 2, networks), "float32")
        state = {"all": [self.rows, losses, random]}
        for epoch in run.loop(
            f"{networks} networks", config.epochs, state, unit="epochs"
        ):
            orders = [self.order(rows, random) for rows in self.training_rows]
            shape = networks, STEPS_PER_EPOCH, BATCH_SIZE
            batches = np.reshape(orders, shape).swapaxes(0, 1)
            losses[epoch] = self.train_epoch(tf.constant(batches))
        parts = self.parts
        return Trained(
            np.moveaxis(losses, 2, 0),
            self.correct(parts.x_held_out, parts.y_held_out),
            self.correct(parts.x_train, parts.y_train),
            self.rows.numpy(),
        )

    @staticmethod
    def order(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """As many rows as an epoch has, each as often as the others, to one."""
        needed = STEPS_PER_EPOCH * BATCH_SIZE
        passes = -(-needed // len(rows))
        shuffled = [random.permutation(rows) for _ in range(passes)]
        return np.concatenate(shuffled)[:needed]


def plan_groups(parts: Parts, config: Config, seed: int) -> tuple[list[Group], list]:
    """Candidates of different rates, candidates of different seeds, and the networks of
    all folds. Returns the folds' held-out rows as well, (data sets × folds,)."""
    random = np.random.default_rng(seed)
    first = np.arange(OF_CANDIDATES)
    count = len(LEARNING_RATES) * config.seeds
    rates = Group([first] * count, np.repeat(LEARNING_RATES, config.seeds))
    seeds = Group([first] * count, np.full(count, USUAL_RATE))
    trained_on, held_out = [], []
    for _ in range(config.data_sets):
        few = random.choice(TRAIN, FEW, replace=False)
        for train, rest in stratified_folds(parts.y_train[few], FOLDS, random):
            trained_on.append(few[train])
            held_out.append(few[rest])
    folds = Group(trained_on, np.full(len(trained_on), USUAL_RATE))
    return [rates, seeds, folds], held_out


@dataclass
class Choices:
    """What many choices of the best candidate gave, in the mean."""

    reported: float
    """accuracy on the images that chose"""
    fresh: float
    """accuracy of the chosen on as many other images"""
    true: float
    """accuracy of the chosen"""
    average: float
    """accuracy of the average candidate"""

    @property
    def overstated(self) -> float:
        """points, of 100"""
        return 100 * (self.reported - self.true)


def choose_often(
    trained: Trained,
    candidates: int,
    images: int,
    draws: int,
    random: np.random.Generator,
) -> Choices:
    """Choices among some candidates by some of the held-out images; all others of them
    tell how good each candidate is."""
    networks, everything = trained.held_out.shape
    totals = trained.held_out.sum(axis=1)
    found = np.zeros((draws, 4))
    for draw in range(draws):
        some = random.permutation(networks)[:candidates]
        order = random.permutation(everything)
        choosing = order[:images]
        others = order[images : 2 * images]
        here = trained.held_out[some][:, choosing]
        best = choose(here)
        true = (totals[some] - here.sum(axis=1)) / (everything - images)
        found[draw, 0] = here[best].mean()
        found[draw, 1] = trained.held_out[some[best], others].mean()
        found[draw, 2] = true[best]
        found[draw, 3] = true.mean()
    return Choices(*found.mean(axis=0))


def choose_by_training(trained: Trained) -> float:
    """Accuracy on held-out images of what is right most often on the images that all
    candidates trained on; where several are, their mean."""
    seen = trained.train[:, :OF_CANDIDATES].mean(axis=1)
    best = seen == seen.max()
    return float(trained.held_out[best].mean())


def ladder(count: int) -> list[int]:
    """1, 4, 16, ... and all candidates."""
    return [number for number in (1, 4, 16, 64) if number < count] + [count]


def choose_by_each(trained: Trained, config: Config, run: Run, name: str):
    """By number of images and of candidates."""
    random = np.random.default_rng(run.seed)
    found = {}
    for images in run.track(SIZES, f"choices, {name}"):
        for candidates in ladder(len(trained.held_out)):
            found[images, candidates] = choose_often(
                trained, candidates, images, config.draws, random
            )
    return found


def judge_choices(by_rate, by_seed, by_training: float, most: int, run: Run) -> None:
    """by_training: accuracy of what the training images choose among rates."""
    few = SIZES[0]
    many = SIZES[-1]
    chosen = by_rate[100, most]
    run.metrics(
        "overstated",
        {f"{images} images": by_seed[images, most].overstated for images in SIZES},
        unit="points",
    )
    run.compare(
        "Validation picks the model: what is right most often on 100 images is far better "
        "than the average candidate",
        {"chosen": chosen.true, "average": chosen.average},
        more="chosen",
        less="average",
        by=0.05,
    )
    run.claim(
        "Among these candidates that is to leave out those that have learned too little, "
        "which training accuracy does about as well",
        holds=abs(by_training - chosen.true) < 0.03,
        measured=f"chosen on 100 validation images {chosen.true:.3f}, by training "
        f"accuracy {by_training:.3f} (less than 0.03 apart wanted)",
    )
    best = by_seed[100, most]
    run.claim(
        "Choosing on the test set overstates it, even among networks that differ in their "
        "seed only; on other images the chosen is as good as it is",
        holds=best.overstated > 1 and abs(best.fresh - best.true) < 0.012,
        measured=f"best of {most} on 100 images: {best.reported:.3f} there, "
        f"{best.fresh:.3f} on 100 others, {best.true:.3f} in truth",
    )
    run.claim(
        "The more candidates, the more: a single one is not overstated",
        holds=abs(by_seed[100, 1].overstated) < 0.7
        and by_seed[100, 4].overstated > by_seed[100, 1].overstated + 0.3
        and best.overstated > by_seed[100, 4].overstated + 0.3,
        measured="points on 100 images: "
        + ", ".join(
            f"{number} candidates {by_seed[100, number].overstated:.2f}"
            for number in ladder(most)
        ),
    )
    run.compare(
        "The fewer images, the more",
        {
            f"{few} images": by_seed[few, most].overstated,
            f"{many} images": by_seed[many, most].overstated,
        },
        more=f"{few} images",
        less=f"{many} images",
        by=1,
    )


@dataclass
class Stopped:
    """Losses on the half of the watched images that did not stop the trainings,
    (networks,)."""

    stopped: np.ndarray
    last: np.ndarray
    lowest: np.ndarray
    epochs: np.ndarray
    """after which it stopped"""


def stop_all(trained: Trained, patience: int) -> Stopped:
    found = []
    for losses in trained.losses:
        validation, test = losses.T
        best, end = stop_early(validation, patience)
        found.append((test[best], test[-1], test.min(), end + 1))
    return Stopped(*np.transpose(found))


def judge_stopping(stopped: Stopped, config: Config, run: Run) -> None:
    early = float(np.mean(stopped.stopped - stopped.lowest))
    late = float(np.mean(stopped.last - stopped.lowest))
    run.metric("epochs_until_stopped", stopped.epochs.mean())
    run.compare(
        f"Early stopping ends near the best epoch; going on does not, at rates above "
        f"{USUAL_RATE}, which overfit in this time",
        {"stopped early": early, f"all {config.epochs} epochs": late},
        more=f"all {config.epochs} epochs",
        less="stopped early",
        times=2,
    )


@dataclass
class Estimates:
    """Errors of estimated accuracies, (data sets,)."""

    single: np.ndarray
    folds: np.ndarray


def estimate(trained: Trained, held_out: list[np.ndarray]) -> Estimates:
    """Of the networks of all folds: the accuracy on what each held out, less the true
    one."""
    pairs = zip(trained.train, held_out, strict=True)
    found = np.array([correct[rows].mean() for correct, rows in pairs])
    errors = found - trained.held_out.mean(axis=1)
    by_fold = errors.reshape(-1, FOLDS)
    return Estimates(by_fold[:, 0], by_fold.mean(axis=1))


def judge_folds(errors: Estimates, run: Run) -> None:
    spread = {
        "single split": root_mean_square(errors.single),
        f"{FOLDS} folds": root_mean_square(errors.folds),
    }
    run.metrics("error_of_estimate", spread)
    run.compare(
        f"Of {FEW} images {FOLDS} folds estimate the accuracy more closely than a single "
        "split",
        spread,
        more="single split",
        less=f"{FOLDS} folds",
        times=1.3,
    )


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def draw_choices(by_rate, by_seed, most: int) -> plt.Figure:
    numbers = np.array(ladder(most))
    shown = []
    for title, found in (("Rates and seeds", by_rate), ("Seeds alone", by_seed)):
        lines = {}
        for images in SIZES:
            overstated = [found[images, number].overstated for number in numbers]
            lines[f"{images} images"] = (numbers, overstated)
        shown.append(
            figures.Panel(
                title=title,
                xlabel="candidates",
                ylabel="overstated (points of accuracy)",
                lines=lines,
                xscale="log",
                xticks=numbers,
            )
        )
    return figures.panels(*shown, title="The best on the test set, reported on it")


def draw_stopping(trained: Trained, patience: int) -> plt.Figure:
    """The network of the lowest validation loss."""
    lowest = trained.losses[:, :, 0].min(axis=1)
    losses = trained.losses[lowest.argmin()]
    best, end = stop_early(losses[:, 0], patience)
    epochs = np.arange(1, len(losses) + 1)
    panel = figures.Panel(
        title="Early stopping",
        xlabel="epoch",
        ylabel="loss (nats)",
        lines={
            "validation": (epochs, losses[:, 0]),
            "test": (epochs, losses[:, 1]),
        },
        points={
            "best so far": ([best + 1], [losses[best, 0]]),
            "stops": ([end + 1], [losses[end, 0]]),
        },
    )
    return figures.panels(panel)


def draw_folds(errors: Estimates) -> plt.Figure:
    panel = figures.Panel(
        title=f"Accuracy estimated from {FEW} images, less the true one",
        xlabel="size of the error; each dot a data set",
        bars={
            "single split": np.abs(errors.single),
            f"{FOLDS} folds": np.abs(errors.folds),
        },
    )
    return figures.panels(panel)


def main(config: Config, run: Run) -> None:
    run.plan(1)
    keras.utils.set_random_seed(run.seed)
    parts = load_parts(run.seed)
    groups, held_out = plan_groups(parts, config, run.seed)
    stack = Stack(groups, parts)
    trained = stack.train(config, run)
    most = len(groups[0].rates)
    of_rates = trained.of(slice(0, most))
    of_seeds = trained.of(slice(most, 2 * most))
    of_folds = trained.of(slice(2 * most, None))

    by_rate = choose_by_each(of_rates, config, run, "rates and seeds")
    by_seed = choose_by_each(of_seeds, config, run, "seeds")
    judge_choices(by_rate, by_seed, choose_by_training(of_rates), most, run)
    run.figure("choices", draw_choices(by_rate, by_seed, most))

    fast = slice(int(np.sum(groups[0].rates <= USUAL_RATE)), most)
    stopped = stop_all(trained.of(fast), config.patience)
    judge_stopping(stopped, config, run)
    run.figure("early_stopping", draw_stopping(of_rates, config.patience))

    errors = estimate(of_folds, held_out)
    judge_folds(errors, run)
    run.figure("folds", draw_folds(errors))

    # What is reported has chosen nothing.
    best = choose(of_rates.held_out[:, :WATCHED])
    run.metric("test_accuracy", of_rates.held_out[best, WATCHED:].mean())
    stacks.set_weights(stack.network, of_rates.rows[best])
    run.export(serving.classifier(stack.network), example=parts.x_held_out[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
