"""Settings of learning: which labels a network gets to see.

One data set, one small network, the same number of steps; what differs is what is known
in training. Supervised: the label y of each image x. Unsupervised: x alone.
Semi-supervised: x of all and y of some. Multi-task: several labels of an image, y₁, y₂,
y₃. Transfer: such labels, but only one of them is asked for at the end. Structured:
labels that depend on one another, here digits in rows, where each is 1, 2 or 3 more
than the one before, so that a row y is read as a whole, argmax_y Σₜ log p(yₜ|xₜ) + log
p(yₜ|yₜ₋₁), by Viterbi's algorithm.
Look at the table: what each setting sees, and what it reads of the same held-out
digits.

Lectures: N18 3.1 Types (supervised to structured)
Paper: Lee, Pseudo-label: the simple and efficient semi-supervised learning method,
    2013; Caruana, Multitask learning, 1997; Viterbi, Error bounds for convolutional
    codes, 1967
Tags: supervised, unsupervised, semi-supervised, multi-task, transfer learning,
    pseudo-label, structured prediction, viterbi
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from deep_learning_recipes import UsageError, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist where Keras can download or has cached it, or your own
    images: a folder with one subfolder a class, or an .npz file"""
    labels: Annotated[int, Interval(ge=10)] = 60
    """labeled images where labels are few, as many of each digit; rows hold six of
    them"""
    units: Annotated[int, Interval(ge=2)] = 128
    """width of the body's first layer; its second is half as wide"""
    restarts: int = 3
    """random starts and choices of the labeled images; accuracies are their means"""
    epochs: int = 90
    """passes over as many images as the training set has, shared among a setting's
    stages"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(epochs=30)
FULL = Config(data="mnist", units=512, restarts=5)


# --------------------------------------------------------------------------------------
# The idea: one network, and what it is told
# --------------------------------------------------------------------------------------

WITHHELD = -1
SURE = 0.9  # probability from which on a network's own answer is trusted
LABELS = ("digit", "odd", "high")

FEW = "supervised"
ALL = "supervised, all labels"
NONE = "unsupervised"
SOME = "semi-supervised"
MULTI = "multi-task"
TRANSFER = "transfer"
STRUCTURED = "structured"


def withhold(x: np.ndarray, y: np.ndarray, **seen: np.ndarray) -> dict[str, np.ndarray]:
    """What can be told of each image: its digit, whether that is odd, whether it is in
    the upper half (5 or more), and its own pixels. Only that of the images `seen`
    (indices, by name) is; all else is −1."""
    found = {}
    half = math.ceil((int(y.max()) + 1) / 2)
    known_of = {"digit": y, "odd": y % 2, "high": y // half, "pixels": x}
    for name, known in known_of.items():
        found[name] = np.full_like(known, WITHHELD)
        indices = seen.get(name, [])
        found[name][indices] = known[indices]
    return found


def sights(x: np.ndarray, y: np.ndarray, few: np.ndarray) -> dict[str, list[dict]]:
    """What each setting is told, stage after stage. few: indices of the labeled
    images."""
    every = np.arange(len(y))
    few_digits = withhold(x, y, digit=few)
    return {
        FEW: [few_digits],
        NONE: [withhold(x, y, pixels=every)],
        # From the second stage on with answers of its own.
        SOME: [few_digits, few_digits, few_digits],
        MULTI: [withhold(x, y, digit=few, odd=few, high=few)],
        TRANSFER: [withhold(x, y, odd=every, high=every), few_digits],
        ALL: [withhold(x, y, digit=every)],
    }


def trust(told: dict[str, np.ndarray], logits) -> dict[str, np.ndarray]:
    """The digits told, and where none is, the network's answers of which it is 90 %
    sure."""
    p = ops.convert_to_numpy(ops.softmax(logits))
    own = np.where(p.max(axis=1) > SURE, p.argmax(axis=1), WITHHELD)
    digits = np.where(told["digit"] == WITHHELD, own, told["digit"])
    return {**told, "digit": digits}


def is_told(labels: np.ndarray) -> np.ndarray:
    """Of which images a label, or the pixels, are known, (images,)."""
    return labels.reshape(len(labels), -1)[:, 0] != WITHHELD


def squared_error(pixels, decoded):
    """(batch,), 0 where the pixels are withheld."""
    squares = ops.square(pixels - decoded)
    return ops.sum(ops.where(pixels == WITHHELD, 0.0, squares), axis=-1)


def build_network(
    pixels: int, units: int, learning_rate: float, classes: int = 10
) -> keras.Model:
    """A body of two layers, and on its code a head for each label and a decoder. Input:
    (batch, pixels) in [0, 1]. Outputs: logits of digit, odd and high; pixels."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(units, activation="relu")(x)
    code = layers.Dense(units // 2, activation="relu", name="code")(hidden)
    outputs = {
        "digit": layers.Dense(classes, dtype="float32")(code),
        "odd": layers.Dense(2, dtype="float32")(code),
        "high": layers.Dense(2, dtype="float32")(code),
    }
    decoded = layers.Dense(units, activation="relu")(code)
    outputs["pixels"] = layers.Dense(pixels, dtype="float32")(decoded)
    network = keras.Model(x, outputs, name="network")

    # Where a label is withheld the loss is 0.
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=WITHHELD
    )
    losses = {**dict.fromkeys(LABELS, loss), "pixels": squared_error}
    network.compile(keras.optimizers.Adam(learning_rate), losses)
    network.optimizer.build(network.trainable_variables)
    return network


def clusters_named(codes, codes_test, y_test: np.ndarray, classes: int = 10):
    """As many clusters of the codes as there are digits, and for each held-out image
    the digit of its cluster: names go one to one, so that as many as can be are right,
    the usual score of a clustering."""
    kmeans = KMeans(classes, n_init=10, random_state=0)
    kmeans.fit(np.asarray(codes, "float64"))
    clusters = kmeans.predict(np.asarray(codes_test, "float64"))
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (clusters, y_test), 1)
    _, digit_of = linear_sum_assignment(counts, maximize=True)
    return digit_of[clusters]


def learn_transitions(rows: np.ndarray, classes: int = 10) -> np.ndarray:
    """log p(next digit | digit), (classes, classes), by how often rows (n, length) step
    by each, plus 1."""
    steps = (np.diff(rows, axis=1) % classes).ravel()
    counts = 1 + np.bincount(steps, minlength=classes)
    differences = (np.arange(classes)[None] - np.arange(classes)[:, None]) % classes
    return np.log(counts / counts.sum())[differences]


def viterbi(log_p: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """The row of digits (length,) with the highest Σ log_p[t, yₜ] + transitions[yₜ₋₁,
    yₜ]."""
    best = log_p[0]
    came_from = []
    for each in log_p[1:]:
        scores = best[:, None] + transitions
        came_from.append(scores.argmax(axis=0))
        best = scores.max(axis=0) + each

    # The last digit of the best row, and from there back to the first.
    row = [int(best.argmax())]
    for pointers in reversed(came_from):
        row.append(int(pointers[row[-1]]))
    return np.array(row[::-1])


# --------------------------------------------------------------------------------------
# The experiment: every setting from the same starts, on the same held-out digits
# --------------------------------------------------------------------------------------

ORDER = (FEW, NONE, SOME, MULTI, TRANSFER, STRUCTURED, ALL)
STEPS = (1, 2, 3)  # from a digit of a row to the next
LENGTH = 6  # digits of a row
TEST_ROWS = 200


@dataclass
class Task:
    x: np.ndarray
    """(images, pixels)"""
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    shape: tuple[int, ...]
    """of one image"""
    classes: int
    random: np.random.Generator
    config: Config
    run: Run

    def draw_labeled(self) -> np.ndarray:
        """The few images whose digits are told, as many of each: indices."""
        share = self.config.labels // self.classes
        few = [
            self.random.permutation(np.flatnonzero(self.y == digit))[:share]
            for digit in range(self.classes)
        ]
        return np.concatenate(few)


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load(config.data)
    classes = len(data.class_names(config.data))
    if len(np.unique(y_test)) < classes:
        raise UsageError(f"--data {config.data}: each class needs a held-out image")
    if config.labels < max(classes, LENGTH):
        raise UsageError(
            f"--labels {config.labels}: at least one of each of the {classes} classes"
        )
    return Task(
        x=x.reshape(len(x), -1),
        y=y,
        x_test=x_test.reshape(len(x_test), -1),
        y_test=y_test,
        shape=x.shape[1:],
        classes=classes,
        random=np.random.default_rng(run.seed),
        config=config,
        run=run,
    )


class Student:
    """The network, which begins each setting at the same start."""

    def __init__(self, task: Task):
        self.task = task
        self.network = self.build()
        code = self.network.get_layer("code").output
        self.encoder = keras.Model(self.network.input, code)

    def build(self) -> keras.Model:
        config = self.task.config
        return build_network(
            self.task.x.shape[1], config.units, config.learning_rate, self.task.classes
        )

    def draw_start(self) -> None:
        self.start = [ops.convert_to_numpy(each) for each in state_of(self.build())]

    def learn(self, setting: str, stages: list[dict]) -> None:
        """All stages of a setting, one after the other."""
        for variable, value in zip(state_of(self.network), self.start, strict=True):
            variable.assign(value)
        epochs = self.task.config.epochs // len(stages)
        for number, told in enumerate(stages):
            if setting == SOME and number > 0:
                told = trust(told, self.network(self.task.x)["digit"])
            self.fit(told, epochs)

    def fit(self, told: dict[str, np.ndarray], epochs: int) -> None:
        # As many steps for all, whatever is seen.
        shown = np.resize(np.flatnonzero(is_anything_told(told)), len(self.task.x))
        training.fit(
            self.network,
            self.task.x[shown],
            {name: each[shown] for name, each in told.items()},
            epochs=epochs,
            batch_size=self.task.config.batch_size,
            callbacks=self.task.run.callbacks,
        )

    def logits(self) -> np.ndarray:
        """Of the digits of held-out images."""
        return np.asarray(self.network(self.task.x_test)["digit"])

    def accuracy(self, setting: str) -> float:
        if setting == NONE:
            codes = self.encoder(self.task.x)
            return self.accuracy_of_clusters(codes, self.encoder(self.task.x_test))
        return float(np.mean(self.logits().argmax(axis=1) == self.task.y_test))

    def accuracy_of_clusters(self, codes, codes_test) -> float:
        y_test = self.task.y_test
        digits = clusters_named(codes, codes_test, y_test, self.task.classes)
        return float(np.mean(digits == y_test))


def state_of(network: keras.Model) -> list:
    return [*network.weights, *network.optimizer.variables]


def is_anything_told(told: dict[str, np.ndarray]) -> np.ndarray:
    """Of which images, (images,)."""
    return np.any([is_told(each) for each in told.values()], axis=0)


@dataclass
class Seen:
    """How much of the training set a setting has seen."""

    images: int
    digits: int
    other_labels: int


def count_seen(setting: str, stages: list[dict]) -> Seen:
    images = np.any([is_anything_told(told) for told in stages], axis=0)
    if setting == SOME:  # answers on the images without labels are its own
        images[:] = True
    told = {
        label: max(int(is_told(stage[label]).sum()) for stage in stages)
        for label in LABELS
    }
    return Seen(int(images.sum()), told["digit"], told["odd"] + told["high"])


def draw_rows(
    y: np.ndarray, count: int, random: np.random.Generator, classes: int = 10
) -> np.ndarray:
    """Rows that obey the rule, of images drawn at random: indices (count, 6)."""
    steps = random.choice(STEPS, (count, LENGTH))
    steps[:, 0] = random.integers(classes, size=count)
    digits = np.cumsum(steps, axis=1) % classes
    images_of = [np.flatnonzero(y == digit) for digit in range(classes)]
    rows = [[random.choice(images_of[digit]) for digit in row] for row in digits]
    return np.array(rows)


@dataclass
class Rows:
    """Rows of held-out digits, (rows, length) each."""

    images: np.ndarray
    """indices of the test set"""
    right: np.ndarray
    alone: np.ndarray
    """as the network reads each digit by itself"""
    jointly: np.ndarray
    """as it reads the row by Viterbi's algorithm"""


def read_rows(student: Student, few: np.ndarray) -> Rows:
    """By transitions that are learned from rows of the labeled images alone."""
    task = student.task
    labels = task.y[few]
    count = task.config.labels // LENGTH
    rows = draw_rows(labels, count, task.random, task.classes)
    transitions = learn_transitions(labels[rows], task.classes)

    images = draw_rows(task.y_test, TEST_ROWS, task.random, task.classes)
    logits = student.logits()
    log_p = np.array(ops.log_softmax(logits))
    return Rows(
        images=images,
        right=task.y_test[images],
        alone=logits.argmax(axis=1)[images],
        jointly=np.array([viterbi(log_p[row], transitions) for row in images]),
    )


@dataclass
class Found:
    seen: dict[str, Seen]
    accuracies: dict[str, list[float]]
    """of each setting by restart"""
    rows: list[Rows]
    """by restart"""

    @property
    def means(self) -> dict[str, float]:
        return {name: float(np.mean(each)) for name, each in self.accuracies.items()}


def compare_settings(student: Student, task: Task) -> Found:
    found = Found(seen={}, accuracies={name: [] for name in ORDER}, rows=[])
    for _ in range(task.config.restarts):
        student.draw_start()
        few = task.draw_labeled()
        for setting, stages in sights(task.x, task.y, few).items():
            student.learn(setting, stages)
            found.seen[setting] = count_seen(setting, stages)
            found.accuracies[setting].append(student.accuracy(setting))
            if setting == FEW:
                rows = read_rows(student, few)
                found.rows.append(rows)
                jointly = float(np.mean(rows.jointly == rows.right))
                found.accuracies[STRUCTURED].append(jointly)
    found.seen[STRUCTURED] = found.seen[FEW]
    return found


def print_table(found: Found, run: Run) -> None:
    run.print(f"{'':23}{'images':>8}{'digits':>8}{'others':>8}{'reads':>8}")
    for name in ORDER:
        seen = found.seen[name]
        run.print(
            f"{name:23}{seen.images:8,}{seen.digits:8,}{seen.other_labels:8,}"
            f"{found.means[name]:8.1%}"
        )


def judge_settings(found: Found, of_pixels: float, task: Task) -> None:
    mean = found.means
    labels = f"{mean[FEW]:.3f} with {task.config.labels} labels alone"

    def judge(setting: str, text: str, low: float, high: float) -> None:
        """low, high: how much more it reads than from few labels alone."""
        more = mean[setting] - mean[FEW]
        measured = f"{mean[setting]:.3f} {setting}; {labels}"
        task.run.claim(text, holds=low < more < high, measured=measured)

    judge(
        ALL,
        "Supervised learning lacks labels: all of them read more than few",
        low=0.05,
        high=1,
    )
    task.run.claim(
        "Unsupervised: most digits fall into clusters, of a code no better than of the "
        "pixels; labels do better",
        holds=0.5 < mean[NONE] < mean[FEW] and mean[NONE] < of_pixels + 0.05,
        measured=f"{mean[NONE]:.3f} {NONE}, {of_pixels:.3f} by clusters of the pixels; "
        f"{labels}",
    )
    judge(
        SOME,
        "Semi-supervised: sure answers on images without labels help",
        low=0.005,
        high=1,
    )
    judge(
        MULTI,
        "Multi-task: labels that follow from the digit add nothing to it",
        low=-0.06,
        high=0.02,
    )
    judge(
        TRANSFER,
        "Transfer: who learned other labels of all images needs few digits",
        low=0.01,
        high=1,
    )


def judge_structure(found: Found, run: Run) -> None:
    jointly = found.means[STRUCTURED]
    alone = np.mean([rows.alone == rows.right for rows in found.rows])
    run.claim(
        "Structured: a row that is read as a whole has fewer mistakes than its digits "
        "alone",
        holds=jointly > alone + 0.03,
        measured=f"{jointly:.3f} jointly, {alone:.3f} one by one, of the same network on "
        "the same rows",
    )


def draw_settings(found: Found) -> Figure:
    """What each setting sees (images, digits, other labels), and what it scores."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), sharey=True, width_ratios=(2, 3)
    )
    seen = [found.seen[name] for name in ORDER]
    table = np.array([[s.images, s.digits, s.other_labels] for s in seen])
    shades = np.log1p(table)
    left.imshow(shades, cmap="Blues", vmax=2 * shades.max(), aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        text = f"{count:,}" if count else "–"
        left.text(column, row, text, ha="center", va="center")
    left.set_xticks(range(3), ["images", "digits", "other labels"])
    left.set_yticks(range(len(ORDER)), ORDER)
    left.set_title("what it sees in training")
    left.grid(visible=False)

    for row, name in enumerate(ORDER):
        accuracies = found.accuracies[name]
        right.plot(accuracies, [row] * len(accuracies), "k.")
        right.plot(np.mean(accuracies), row, "o", color="C0", markersize=9)
        right.text(1.01, row, f"{np.mean(accuracies):.1%}", va="center")
    lowest = min(min(each) for each in found.accuracies.values())
    right.set(
        xlim=(math.floor(10 * min(0.5, lowest)) / 10, 1),
        xlabel="held-out accuracy (small dots: restarts)",
        title="what it reads",
    )
    return figure


def draw_rows_read(rows: Rows, task: Task, count: int = 5) -> Figure:
    """The rows with most mistakes of digits read alone."""
    mistakes = np.sum(rows.alone != rows.right, axis=1)
    shown = np.argsort(-mistakes, kind="stable")[:count]
    alone = rows.alone[shown].ravel()
    jointly = rows.jointly[shown].ravel()
    images = task.x_test[rows.images[shown].ravel()]
    return figures.image_grid(
        images.reshape(-1, *task.shape),
        title="Held-out rows; each digit as it is read alone → jointly",
        captions=[
            f"{one} → {other}" for one, other in zip(alone, jointly, strict=True)
        ],
        columns=LENGTH,
    )


def main(config: Config, run: Run) -> None:
    run.plan(9 * config.restarts)  # some settings have several stages
    task = load_task(config, run)
    student = Student(task)
    found = compare_settings(student, task)
    of_pixels = student.accuracy_of_clusters(task.x, task.x_test)

    print_table(found, run)
    for name in (SOME, *ORDER):  # the first stands in the README's table
        run.metric(f"test_accuracy_{re.sub('[^a-z]+', '_', name)}", found.means[name])
    run.metric("test_accuracy_clusters_of_pixels", of_pixels)
    judge_settings(found, of_pixels, task)
    judge_structure(found, run)

    run.figure("settings", draw_settings(found))
    run.figure("rows", draw_rows_read(found.rows[-1], task))
    # Trained last, on all labels.
    digits = keras.Model(student.network.input, student.network.output["digit"])
    run.export(serving.classifier(digits), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
