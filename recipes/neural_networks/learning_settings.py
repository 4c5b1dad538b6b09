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


QUICK = Config(restarts=2, epochs=30)
FULL = Config(data="mnist", units=512, restarts=5)

WITHHELD = -1
LABELS = ("digit", "odd", "high")
STEPS, LENGTH = (1, 2, 3), 6  # the rule of rows, and how many digits stand in one
FEW, ALL, NONE, SOME = (
    "supervised",
    "supervised, all labels",
    "unsupervised",
    "semi-supervised",
)
MULTI, TRANSFER, STRUCTURED = "multi-task", "transfer", "structured"
ORDER = (FEW, NONE, SOME, MULTI, TRANSFER, STRUCTURED, ALL)


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
    return {
        FEW: [withhold(x, y, digit=few)],
        NONE: [withhold(x, y, pixels=every)],
        SOME: 3
        * [withhold(x, y, digit=few)],  # from the second on with answers of its own
        MULTI: [withhold(x, y, digit=few, odd=few, high=few)],
        TRANSFER: [withhold(x, y, odd=every, high=every), withhold(x, y, digit=few)],
        ALL: [withhold(x, y, digit=every)],
    }


def trust(told: dict[str, np.ndarray], logits) -> dict[str, np.ndarray]:
    """The digits told, and where none is, the network's answers of which it is 90 %
    sure."""
    p = ops.convert_to_numpy(ops.softmax(logits))
    own = np.where(p.max(axis=1) > 0.9, p.argmax(axis=1), WITHHELD)
    return {**told, "digit": np.where(told["digit"] == WITHHELD, own, told["digit"])}


def is_told(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(len(labels), -1)[:, 0] != WITHHELD


def squared_error(pixels, decoded):
    """(batch,), 0 where the pixels are withheld."""
    return ops.sum(
        ops.where(pixels == WITHHELD, 0.0, ops.square(pixels - decoded)), axis=-1
    )


def build_network(
    pixels: int, units: int, learning_rate: float, classes: int = 10
) -> keras.Model:
    """A body of two layers, and on its code a head for each label and a decoder. Input:
    (batch, pixels) in [0, 1]. Outputs: logits of digit, odd and high; pixels."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(units, activation="relu")(x)
    code = layers.Dense(units // 2, activation="relu", name="code")(hidden)
    sizes = {"digit": classes, "odd": 2, "high": 2}
    outputs = {
        name: layers.Dense(size, dtype="float32")(code) for name, size in sizes.items()
    }
    decoded = layers.Dense(units, activation="relu")(code)
    outputs["pixels"] = layers.Dense(pixels, dtype="float32")(decoded)
    network = keras.Model(x, outputs, name="network")
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
    codes, codes_test = (np.asarray(each, "float64") for each in (codes, codes_test))
    clusters = KMeans(classes, n_init=10, random_state=0).fit(codes).predict(codes_test)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (clusters, y_test), 1)
    return linear_sum_assignment(counts, maximize=True)[1][clusters]


def draw_rows(
    y: np.ndarray, count: int, random: np.random.Generator, classes: int = 10
) -> np.ndarray:
    """Rows that obey the rule, of images drawn at random: indices (count, 6)."""
    steps = random.choice(STEPS, (count, LENGTH))
    steps[:, 0] = random.integers(classes, size=count)
    digits = np.cumsum(steps, axis=1) % classes
    return np.array(
        [[random.choice(np.flatnonzero(y == d)) for d in row] for row in digits]
    )


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
    best, came_from = log_p[0], []
    for each in log_p[1:]:
        scores = best[:, None] + transitions
        came_from.append(scores.argmax(axis=0))
        best = scores.max(axis=0) + each
    row = [int(best.argmax())]
    for pointers in reversed(came_from):
        row.append(int(pointers[row[-1]]))
    return np.array(row[::-1])


def plot_settings(
    counts: dict[str, list[int]], accuracies: dict[str, list[float]]
) -> plt.Figure:
    """What each setting sees (images, digits, other labels), and what it scores."""
    figure, (seen, scores) = plt.subplots(
        1, 2, figsize=(11, 4.6), sharey=True, width_ratios=(2, 3)
    )
    table = np.array([counts[name] for name in accuracies])
    seen.imshow(
        np.log1p(table), cmap="Blues", vmax=2 * np.log1p(table.max()), aspect="auto"
    )
    for (row, column), count in np.ndenumerate(table):
        seen.text(column, row, f"{count:,}" if count else "–", ha="center", va="center")
    seen.set_xticks(range(3), ["images", "digits", "other labels"])
    seen.set_yticks(range(len(table)), accuracies)
    seen.set_title("what it sees in training")
    for row, values in enumerate(accuracies.values()):
        scores.barh(row, np.mean(values), color="C0")
        scores.plot(values, [row] * len(values), "k.")
        scores.text(1.01, row, f"{np.mean(values):.1%}", va="center")
    start = math.floor(10 * min(0.5, *map(min, accuracies.values()))) / 10
    scores.set(
        xlim=(start, 1),
        xlabel=f"share of held-out digits (bars start at {start:g}; dots: restarts)",
    )
    scores.set_title("what it reads")
    seen.grid(visible=False)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(9 * config.restarts)  # some settings have several stages
    (x_train, y_train), (x_test, y_test) = data.load(config.data)
    classes = len(data.class_names(config.data))
    if len(np.unique(y_test)) < classes:
        raise UsageError(f"--data {config.data}: each class needs a held-out image")
    if config.labels < max(classes, LENGTH):
        raise UsageError(
            f"--labels {config.labels}: at least one of each of the {classes} classes"
        )
    shape = x_test.shape[1:]
    x_train, x_test = (x.reshape(len(x), -1) for x in (x_train, x_test))
    random = np.random.default_rng(run.seed)
    sizes = (x_train.shape[1], config.units, config.learning_rate, classes)
    network = build_network(*sizes)
    encoder = keras.Model(network.input, network.get_layer("code").output)
    variables = [*network.weights, *network.optimizer.variables]

    def fit(told, epochs):
        seen = np.flatnonzero(np.any([is_told(each) for each in told.values()], axis=0))
        shown = np.resize(seen, len(x_train))  # as many steps for all, whatever is seen
        training.fit(
            network,
            x_train[shown],
            {name: each[shown] for name, each in told.items()},
            epochs=epochs,
            batch_size=config.batch_size,
            callbacks=run.callbacks,
        )

    counts, accuracies, alone_in_rows = {}, {name: [] for name in ORDER}, []
    for _ in range(config.restarts):
        fresh = build_network(*sizes)
        start = [
            ops.convert_to_numpy(v)
            for v in (*fresh.weights, *fresh.optimizer.variables)
        ]
        of_each = [
            random.permutation(np.flatnonzero(y_train == d)) for d in range(classes)
        ]
        share = config.labels // classes
        few = np.concatenate([indices[:share] for indices in of_each])
        for name, stages in sights(x_train, y_train, few).items():
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
            for number, told in enumerate(stages):
                own = (
                    trust(told, network(x_train)["digit"])
                    if name == SOME and number
                    else told
                )
                fit(own, config.epochs // len(stages))
            digits, odd, high = (
                max(sum(is_told(t[k])) for t in stages) for k in LABELS
            )
            counts[name] = [
                digits if name in (FEW, MULTI) else len(x_train),
                digits,
                odd + high,
            ]
            logits = network(x_test)["digit"]
            answers = np.argmax(logits, axis=1)
            if name == NONE:
                answers = clusters_named(
                    encoder(x_train), encoder(x_test), y_test, classes
                )
            accuracies[name].append(float(np.mean(answers == y_test)))
            if name == FEW:
                count = config.labels // LENGTH
                rows = draw_rows(y_train[few], count, random, classes)
                transitions = learn_transitions(y_train[few][rows], classes)
                rows, log_p = (
                    draw_rows(y_test, 200, random, classes),
                    np.array(ops.log_softmax(logits)),
                )
                jointly = np.array([viterbi(log_p[row], transitions) for row in rows])
                alone, right = answers[rows], y_test[rows]
                accuracies[STRUCTURED].append(float(np.mean(jointly == right)))
                alone_in_rows.append(float(np.mean(alone == right)))

    counts[STRUCTURED] = counts[FEW]
    run.print(f"{'':23}{'images':>8}{'digits':>8}{'others':>8}{'reads':>8}")
    for name in ORDER:
        row = "".join(f"{count:8,}" for count in counts[name])
        run.print(f"{name:23}{row}{np.mean(accuracies[name]):8.1%}")
    run.figure("settings", plot_settings(counts, accuracies))
    shown = np.argsort(-np.sum(alone != right, axis=1), kind="stable")[:5]
    pairs = zip(alone[shown].ravel(), jointly[shown].ravel(), strict=True)
    captions = [f"{first} → {second}" for first, second in pairs]
    images = x_test[rows[shown].ravel()].reshape(-1, *shape)
    title = "Held-out rows; each digit as it is read alone → jointly"
    run.figure(
        "rows",
        figures.image_grid(images, title=title, captions=captions, columns=LENGTH),
    )

    mean = {name: float(np.mean(each)) for name, each in accuracies.items()}
    for name in (SOME, *ORDER):
        run.metric(f"test_accuracy_{re.sub('[^a-z]+', '_', name)}", mean[name])
    # text, and how much more is read than by supervised learning from few labels
    claims = {
        ALL: (
            "Supervised learning lacks labels: all of them read more than few",
            (0.05, 1),
        ),
        NONE: (
            "Unsupervised: most digits fall into clusters, labels do better",
            (-0.5, 0),
        ),
        SOME: (
            "Semi-supervised: sure answers on images without labels help",
            (0.005, 1),
        ),
        MULTI: (
            "Multi-task: labels that follow from the digit add nothing to it",
            (-0.06, 0.02),
        ),
        TRANSFER: (
            "Transfer: who learned other labels of all images needs few digits",
            (0.01, 1),
        ),
    }
    for name, (text, (low, high)) in claims.items():
        run.claim(
            text,
            holds=low < mean[name] - mean[FEW] < high,
            measured=f"{mean[name]:.3f} {name}; {mean[FEW]:.3f} with {config.labels} labels alone",
        )
    run.claim(
        "Structured: a row that is read as a whole has fewer mistakes than its digits alone",
        holds=mean[STRUCTURED] > np.mean(alone_in_rows) + 0.03,
        measured=f"{mean[STRUCTURED]:.3f} jointly, {np.mean(alone_in_rows):.3f} one by one, of the "
        "same network on the same rows",
    )
    digits = keras.Model(
        network.input, network.output["digit"]
    )  # trained last, on all labels
    run.export(serving.classifier(digits), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
