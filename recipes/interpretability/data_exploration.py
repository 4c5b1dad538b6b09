"""Look at the data before training: balance, splits, copies, outliers, wrong labels.

Faults are planted in a table of digits, so that finding them can be counted: labels
changed at random, images turned on their side, test images copied into the training
set, pixels dimmed in the test set. A dimmed pixel is distributed otherwise than in
training. A copy is nearer than any other image can be. An outlier lies in a region that
is emptier than its neighbors' regions (LOF). A wrong label contradicts the neighbors',
or networks that did not see it: confident learning takes class j for possible where
p(j) exceeds its mean over the images that are labeled j, and suspects a label if the
likeliest possible class is another one.
Look at each feature, at the pictures of suspects, at outliers that are alike and so
hide each other, and at what a random split hides that a split by writer shows.

Lectures: N18 7.2 Interpretability Methods (before training: exploratory data analysis)
Paper: Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in
    dataset labels, 2021 (section 3); Breunig et al., LOF: identifying density-based
    local outliers, 2000
Tags: eda, data cleaning, label noise, confident learning, anomaly detection,
    duplicates, data leakage
"""

from dataclasses import dataclass, replace
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge, Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import ks_2samp
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    mislabeled: Annotated[float, Interval(gt=0, lt=0.5)] = 0.03
    """share of the training labels that are changed"""
    turned: int = 20
    """training images that are turned by a right angle"""
    copies: int = 20
    """test images that are also trained on, with a little noise"""
    neighbors: int = 10
    """images that a label is compared with; twice as many for outliers"""
    folds: Annotated[int, Ge(2)] = 5
    """parts of the training set; each is judged by a network of the others"""
    units: int = 64
    """width of the networks' hidden layer"""
    epochs: int = 60
    """passes over the training images"""
    learning_rate: float = 2e-3
    """of Adam"""


QUICK = Config(epochs=40)
FULL = Config(folds=20, units=256, epochs=100)


# --------------------------------------------------------------------------------------
# The idea: look at each feature, at neighbors, and at who contradicts a label
# --------------------------------------------------------------------------------------


def separation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of each feature's variance that lies between the classes' means, η²:
    (features,), 0 for a feature that never changes. x: (rows, features); y: (rows,)."""
    between = np.zeros(x.shape[1])
    for label in np.unique(y):
        of_label = x[y == label]
        between += len(of_label) * (of_label.mean(axis=0) - x.mean(axis=0)) ** 2
    total = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
    return np.divide(between, total, out=np.zeros(x.shape[1]), where=total > 0)


@dataclass
class Shift:
    """How far two tables' features are apart, by the test of Kolmogorov and Smirnov."""

    distances: np.ndarray
    """the largest gap between the two distribution functions, (features,)"""
    is_found: np.ndarray
    """(features,) whether chance would make one such gap in 100 tables"""


def shift_of_features(a: np.ndarray, b: np.ndarray) -> Shift:
    """a, b: (rows, features)."""
    tests = [ks_2samp(a[:, column], b[:, column]) for column in range(a.shape[1])]
    distances = np.array([test.statistic for test in tests])
    # Many features are asked, so that each may err the more seldom (Bonferroni).
    probabilities = np.array([test.pvalue for test in tests])
    return Shift(distances, probabilities < 0.01 / len(tests))


def nearest(
    x: np.ndarray, among: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the `count` nearest rows of `among`, and their numbers, the nearest
    first."""
    # But for |x|², which changes no order.
    squares = (among**2).sum(axis=1) - 2 * x @ among.T
    rows = np.argsort(squares, axis=1)[:, :count]
    # Computed anew: the difference of large numbers is not exact where it is small.
    distances = np.linalg.norm(x[:, np.newaxis] - among[rows], axis=2)
    return distances, rows


def others(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same among the rows of x, each without itself."""
    distances, rows = nearest(x, x, count + 1)
    # A copy of a row may stand before the row itself.
    own = rows == np.arange(len(x))[:, np.newaxis]
    own[~own.any(axis=1), -1] = True
    return distances[~own].reshape(-1, count), rows[~own].reshape(-1, count)


def local_outlier_factor(x: np.ndarray, count: int) -> np.ndarray:
    """How much emptier it is around each row than around its neighbors; 1 inside a
    cluster.

    Breunig et al.'s definitions 5 to 7: a row's reach from a neighbor is at least that
    neighbor's own distance to its last neighbor; density is 1 over the mean reach.
    """
    count = min(count, len(x) - 1)
    distances, rows = others(x, count)
    reach = np.maximum(distances, distances[rows, -1])
    density = 1 / np.maximum(reach.mean(axis=1), 1e-10)
    return density[rows].mean(axis=1) / density


def outliers_of_classes(x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """The factor of each row among those of its class alone."""
    factors = np.zeros(len(x))
    for label in np.unique(y):
        factors[y == label] = local_outlier_factor(x[y == label], count)
    return factors


def build_folds(pixels: int, folds: int, units: int, classes: int = 10) -> keras.Model:
    """A network for each fold, side by side. Output: (batch, folds, classes) logits."""
    x = keras.Input((pixels,), name="pixels")
    hidden = layers.Dense(folds * units, activation="relu")(x)
    hidden = layers.Reshape((folds, units))(hidden)
    logits = layers.EinsumDense(
        "bfu,fuc->bfc",
        (folds, classes),
        bias_axes="fc",
        kernel_initializer="random_normal",
    )(hidden)
    return keras.Model(x, logits, name="folds")


def loss_of_shown(label_and_fold, logits):
    """Mean cross-entropy of the networks, but for the one whose fold holds the image
    out."""
    label, fold = ops.unstack(ops.cast(label_and_fold, "int32"), 2, axis=1)
    folds = logits.shape[1]
    labels = ops.repeat(label[:, None], folds, axis=1)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    is_shown = 1 - ops.one_hot(fold, folds)
    return ops.sum(losses * is_shown, axis=1) / (folds - 1)


def confident_learning(
    probabilities: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, float]:
    """Which labels are suspected, and the share of wrong ones by the confident joint's
    estimate.

    probabilities: (rows, classes), of models that did not see the row. y: (rows,) given
        labels.
    """
    classes = probabilities.shape[1]
    usual = [probabilities[y == label, label].mean() for label in range(classes)]
    possible = probabilities >= np.array(usual)
    likeliest = np.where(possible, probabilities, -1).argmax(axis=1)
    counted = possible.any(axis=1)

    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[counted], likeliest[counted]), 1)
    # Each given label as often as it was given, whether or not some class was possible.
    given = np.bincount(y, minlength=classes)
    joint *= (given / joint.sum(axis=1))[:, np.newaxis]
    wrong_share = 1 - np.trace(joint) / joint.sum()
    return counted & (likeliest != y), float(wrong_share)


def tell_apart(a: np.ndarray, b: np.ndarray, random_state: int) -> float:
    """How well a forest tells rows of a from rows of b that it has not seen: area under
    the ROC curve, 0.5 if both are drawn alike."""
    x = np.concatenate([a, b])
    source = np.repeat([0, 1], [len(a), len(b)])
    parts = StratifiedKFold(4, shuffle=True, random_state=random_state)
    forest = RandomForestClassifier(100, random_state=random_state)
    chances = cross_val_predict(forest, x, source, cv=parts, method="predict_proba")
    return float(roc_auc_score(source, chances[:, 1]))


# --------------------------------------------------------------------------------------
# The experiment: faults are planted, and looked for
# --------------------------------------------------------------------------------------

DIMMED = 4  # pixels of the test images
LEFT_OF_DIMMED = 0.7  # of their brightness
MANY = 8  # times as many neighbors, for outliers that are alike


@dataclass
class Digits:
    x: np.ndarray
    y: np.ndarray
    """the true labels"""
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def every_row(self) -> np.ndarray:
        return np.arange(len(self.x))


def load_digits(name: str) -> Digits:
    (x, y), (x_test, y_test) = data.load(name)
    return Digits(x.reshape(-1, 64), y, x_test.reshape(-1, 64), y_test)


def choose(rows: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Which of the rows are chosen, (rows,) bool."""
    is_chosen = np.zeros(rows, bool)
    is_chosen[random.choice(rows, count, replace=False)] = True
    return is_chosen


@dataclass
class Leak:
    """Test images that were copied into the training set."""

    is_copy: np.ndarray
    """(test images,)"""
    distances: np.ndarray
    """of the test images to the nearest training image"""
    limit: float
    """below which an image is taken for a copy"""


def leak(digits: Digits, copies: int, random: np.random.Generator) -> Leak:
    is_copy = np.zeros(len(digits.x_test), bool)
    chosen = random.choice(len(digits.x_test), copies, replace=False)
    is_copy[chosen] = True
    noise = random.normal(0, 0.02, (copies, 64))
    copied = np.clip(digits.x_test[chosen] + noise, 0, 1)

    distances, _ = nearest(digits.x_test, np.concatenate([digits.x, copied]), 1)
    to_others, _ = others(digits.x, 1)
    return Leak(is_copy, distances[:, 0], limit=0.25 * np.median(to_others))


@dataclass
class Turned:
    """Training images, some of which lie on their side."""

    x: np.ndarray
    is_turned: np.ndarray
    factors: np.ndarray
    """of each image as an outlier of its class"""
    precision: dict[str, float]
    """average precision of finding the turned ones, by method"""


def turn(digits: Digits, config: Config, random: np.random.Generator) -> Turned:
    is_turned = choose(len(digits.x), config.turned, random)
    x = digits.x.copy()
    upright = digits.x[is_turned].reshape(-1, 8, 8)
    x[is_turned] = np.rot90(upright, axes=(1, 2)).reshape(-1, 64)

    few = 2 * config.neighbors
    many = MANY * config.neighbors
    factors = outliers_of_classes(x, digits.y, few)
    scores = {
        "by class": factors,
        "at once": local_outlier_factor(x, few),
        "at once, many neighbors": local_outlier_factor(x, many),
        "distance to the mean": distance_to_mean(x, digits.y),
    }
    precision = {
        name: average_precision_score(is_turned, each) for name, each in scores.items()
    }
    return Turned(x, is_turned, factors, precision)


def distance_to_mean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A rival that asks no neighbor, (rows,)."""
    means = np.stack([x[y == label].mean(axis=0) for label in range(10)])
    return np.linalg.norm(x - means[y], axis=1)


@dataclass
class Labels:
    """Training labels, some of which were changed."""

    y: np.ndarray
    is_wrong: np.ndarray
    fold: np.ndarray
    """the part that each image belongs to"""


def mislabel(digits: Digits, config: Config, random: np.random.Generator) -> Labels:
    rows = len(digits.y)
    is_wrong = choose(rows, round(config.mislabeled * rows), random)
    another = (digits.y + random.integers(1, 10, rows)) % 10
    fold = random.permutation(rows) % config.folds
    return Labels(np.where(is_wrong, another, digits.y), is_wrong, fold)


@dataclass
class Suspicion:
    """What networks say of images that they did not see."""

    probabilities: np.ndarray
    """(images, classes)"""
    given: np.ndarray
    """of the labels that are given"""
    suspected: np.ndarray
    estimate: float
    """of the share of wrong labels"""


def train(digits: Digits, labels: Labels, config: Config, run: Run) -> keras.Model:
    model = build_folds(64, config.folds, config.units)
    model.compile(keras.optimizers.Adam(config.learning_rate), loss_of_shown)
    targets = np.stack([labels.y, labels.fold], axis=1)
    training.fit(
        model, digits.x, targets, epochs=config.epochs, callbacks=run.callbacks
    )
    return model


def suspect(model: keras.Model, digits: Digits, labels: Labels) -> Suspicion:
    rows = digits.every_row
    probabilities = np.asarray(ops.softmax(model(digits.x)))[rows, labels.fold]
    suspected, estimate = confident_learning(probabilities, labels.y)
    given = probabilities[rows, labels.y]
    return Suspicion(probabilities, given, suspected, estimate)


def judge_labels(
    digits: Digits, labels: Labels, found: Suspicion, neighbors: int, run: Run
) -> None:
    is_wrong = labels.is_wrong
    precision = is_wrong[found.suspected].mean()
    recall = found.suspected[is_wrong].mean()
    run.metric("wrong_labels_precision", precision)
    run.metric("wrong_labels_recall", recall)
    run.metric("wrong_labels_estimated_share", found.estimate)
    run.claim(
        "Networks that did not see a label find most of the wrong ones, with few false "
        "alarms",
        holds=precision > 0.75 and recall > 0.6,
        measured=f"confident learning: precision {precision:.2f}, recall {recall:.2f}; "
        f"by chance {is_wrong.mean():.2f} and {found.suspected.mean():.2f}",
    )

    _, rows = others(digits.x, neighbors)
    disagree = (labels.y[rows] != labels.y[:, np.newaxis]).mean(axis=1)
    by_networks = average_precision_score(is_wrong, 1 - found.given)
    by_neighbors = average_precision_score(is_wrong, disagree)
    run.claim(
        "Neighbors' labels rank wrong ones as well as networks do",
        holds=by_neighbors > by_networks - 0.05 and by_networks > 0.85,
        measured=f"average precision {by_neighbors:.3f} by neighbors, {by_networks:.3f} "
        f"by networks, {is_wrong.mean():.3f} by chance",
    )


def judge_estimate(planted: float, estimate: float, of_clean: float, run: Run) -> None:
    """of_clean: the estimate where no label was changed."""
    run.claim(
        "The confident joint tells about how many labels are wrong: where none was "
        "changed, it counts far fewer",
        holds=abs(estimate - planted) < 0.5 * planted and of_clean < 0.5 * estimate,
        measured=f"estimated {estimate:.2%}, planted {planted:.2%}; without changes "
        f"{of_clean:.2%}",
    )


def judge_repair(digits: Digits, labels: Labels, suspected, random, run: Run) -> None:
    """By the nearest neighbor, which believes every label."""
    as_many = choose(len(digits.x), suspected.sum(), random)

    def accuracy(is_kept, y) -> float:
        _, rows = nearest(digits.x_test, digits.x[is_kept], 1)
        return np.mean(y[is_kept][rows[:, 0]] == digits.y_test)

    everything = np.ones(len(digits.x), bool)
    spoiled = accuracy(everything, labels.y)
    repaired = accuracy(~suspected, labels.y)
    thinned = accuracy(~as_many, labels.y)
    perfect = accuracy(everything, digits.y)
    run.claim(
        "Leaving out the suspects repairs most of what wrong labels did",
        holds=repaired - spoiled > 0.5 * (perfect - spoiled) > 0
        and thinned - spoiled < 0.3 * (perfect - spoiled),
        measured=f"accuracy of the nearest neighbor: {spoiled:.3f} with wrong labels, "
        f"{repaired:.3f} without suspects, {thinned:.3f} without as many others, "
        f"{perfect:.3f} with true labels",
    )


def judge_outliers(turned: Turned, neighbors: int, run: Run) -> None:
    precision = turned.precision
    by_class = precision["by class"]
    at_once = precision["at once"]
    by_many = precision["at once, many neighbors"]
    by_mean = precision["distance to the mean"]
    run.metric("outliers_average_precision", by_class)
    run.claim(
        "Outliers that are alike hide each other: of all classes at once few neighbors "
        "miss them, of each class they do not, and many neighbors do not either",
        holds=min(by_class, by_many) > 0.9 and at_once < 0.75 * by_class,
        measured=f"{turned.is_turned.sum()} turned images: average precision "
        f"{at_once:.2f} of all classes with {2 * neighbors} neighbors, {by_many:.2f} "
        f"with {MANY * neighbors}, {by_class:.2f} class by class with {2 * neighbors}, "
        f"{by_mean:.2f} by the distance to the class's "
        f"mean, {turned.is_turned.mean():.2f} by chance",
    )


def judge_leak(leaked: Leak, run: Run) -> None:
    found = leaked.distances < leaked.limit
    farthest = leaked.distances[leaked.is_copy].max()
    closest = leaked.distances[~leaked.is_copy].min()
    run.claim(
        "Copies between training and test set are found, and nothing else is taken for "
        "one",
        holds=bool(np.array_equal(found, leaked.is_copy)),
        measured=f"{found.sum()} found of {leaked.is_copy.sum()}; farthest copy "
        f"{farthest:.2f}, nearest other image {closest:.2f}",
    )


def judge_splits(apart: dict[str, float], run: Run) -> None:
    run.claim(
        "A random split hides what a new writer changes: only by writer the parts differ",
        holds=apart["by writer"] > 0.7 and abs(apart["random"] - 0.5) < 0.08,
        measured="area under ROC "
        + ", ".join(f"{name} {each:.2f}" for name, each in apart.items()),
    )


@dataclass
class Features:
    """What a look at one pixel after the other finds."""

    separation: np.ndarray
    is_dimmed: np.ndarray
    as_it_is: Shift
    """of the test set"""
    dimmed: Shift
    by_writer: Shift


def dim(digits: Digits, by_writer: Digits, random: np.random.Generator) -> Features:
    """Some pixels that are not dark in at least half of the images get darker in the
    test set."""
    bright = np.flatnonzero(np.median(digits.x, axis=0) >= 0.25)
    is_dimmed = np.zeros(64, bool)
    is_dimmed[random.choice(bright, DIMMED, replace=False)] = True
    x_test = np.where(is_dimmed, LEFT_OF_DIMMED * digits.x_test, digits.x_test)
    return Features(
        separation=separation(digits.x, digits.y),
        is_dimmed=is_dimmed,
        as_it_is=shift_of_features(digits.x, digits.x_test),
        dimmed=shift_of_features(digits.x, x_test),
        by_writer=shift_of_features(by_writer.x, by_writer.x_test),
    )


def judge_features(features: Features, run: Run) -> None:
    found = features.dimmed.is_found
    hits = np.sum(found & features.is_dimmed)
    false_alarms = np.sum(features.as_it_is.is_found)
    by_writer = np.sum(features.by_writer.is_found)
    run.metric("dimmed_pixels_recall", hits / DIMMED)
    run.metric("pixels_that_differ_by_writer", by_writer)
    run.claim(
        "One feature at a time already shows a fault of the sensor: pixels that are "
        "darker in the test set are found, and none where there is no fault",
        holds=hits == found.sum() == DIMMED and false_alarms == 0,
        measured=f"{hits} of {DIMMED} dimmed pixels and {found.sum() - hits} others; as "
        f"the images are {false_alarms}; {by_writer} of 64 differ where writers do",
    )


def draw_features(features: Features, digits: Digits) -> Figure:
    """The pixels as maps, and the values of one of them by class."""
    figure, grid = plt.subplots(1, 4, figsize=(14, 3.9), width_ratios=(1, 1.3, 1, 1))
    of_classes, values, of_dimmed, of_writers = grid
    most = features.separation.argmax()
    row, column = divmod(most, 8)

    draw_map(of_classes, features.separation, "Variance between the classes")
    frame(of_classes, features.separation == features.separation.max())
    values.boxplot(
        [digits.x[digits.y == label, most] for label in range(10)],
        tick_labels=range(10),
        flierprops={"markersize": 3},
    )
    values.set(
        title=f"The framed pixel (row {row}, column {column})",
        xlabel="label",
        ylabel="brightness",
    )
    draw_map(of_dimmed, features.dimmed.distances, "Test set, framed: dimmed")
    frame(of_dimmed, features.is_dimmed)
    draw_map(of_writers, features.by_writer.distances, "Other writers")
    for axes in (of_dimmed, of_writers):
        axes.set_xlabel("distance of the distributions")
    of_classes.set_xlabel("share of the pixel's variance")
    figure.suptitle("Feature by feature: what tells the classes, and what has changed")
    return figure


def draw_map(axes: plt.Axes, values: np.ndarray, title: str) -> None:
    """values: (64,)."""
    drawn = axes.imshow(values.reshape(8, 8), vmin=0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.figure.colorbar(drawn, ax=axes, shrink=0.7)


def frame(axes: plt.Axes, is_framed: np.ndarray) -> None:
    for pixel in np.flatnonzero(is_framed):
        row, column = divmod(pixel, 8)
        corner = (column - 0.5, row - 0.5)
        # Black on white, to be seen on all colors.
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", lw=5))
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", lw=2))


def draw_overview(
    labels: Labels, digits: Digits, leaked: Leak, apart: dict[str, float]
) -> Figure:
    """Balance of the classes, distances from test to training images, and how splits
    differ."""
    figure, (balance, gaps, splits) = plt.subplots(1, 3, figsize=(11, 3.6))
    for shift, name, y in ((-0.2, "training", labels.y), (0.2, "test", digits.y_test)):
        counts = np.bincount(y)
        balance.bar(np.arange(10) + shift, counts / counts.sum(), 0.4, label=name)
    balance.set(title="Balance", xlabel="label", ylabel="share", xticks=np.arange(10))
    balance.margins(y=0.2)
    balance.legend(loc="upper center", ncols=2)

    distances = leaked.distances
    gaps.hist(
        [distances[~leaked.is_copy], distances[leaked.is_copy]],
        np.linspace(0, distances.max(), 40),
        stacked=True,
        label=["others", "copies"],
    )
    gaps.axvline(leaked.limit, color="black", linestyle=":", label="limit")
    gaps.set(
        title="Copies",
        xlabel="distance to the nearest\ntraining image",
        ylabel="test images",
    )
    gaps.legend()

    splits.bar(list(apart), list(apart.values()), 0.5, color="#009E73")
    splits.axhline(0.5, color="black", linestyle=":")
    splits.set(
        title="Test told from training images", ylabel="area under ROC", ylim=(0, 1)
    )
    return figure


def draw_suspects(digits: Digits, labels: Labels, found: Suspicion) -> Figure:
    worst = np.argsort(found.given)[:30]
    captions = []
    for row in worst:
        proposed = found.probabilities[row].argmax()
        mark = "" if labels.is_wrong[row] else " ?"
        captions.append(f"{labels.y[row]} → {proposed}{mark}")
    return figures.image_grid(
        digits.x[worst].reshape(-1, 8, 8, 1),
        title="Given → proposed label (?: was not changed)",
        captions=captions,
    )


def draw_outliers(digits: Digits, turned: Turned) -> Figure:
    rows = {}
    for label in range(10):
        of_label = np.flatnonzero(digits.y == label)
        mean = turned.x[of_label].mean(axis=0, keepdims=True)
        ranked = of_label[np.argsort(-turned.factors[of_label])][:9]
        rows[str(label)] = np.concatenate([mean, turned.x[ranked]])
    return figures.image_rows(rows, title="Each class: its mean, its outliers")


def main(config: Config, run: Run) -> None:
    run.plan(2)
    random = np.random.default_rng(run.seed)
    digits = load_digits("digits")
    by_writer = load_digits("digits_by_writer")
    leaked = leak(digits, config.copies, random)
    turned = turn(digits, config, random)
    labels = mislabel(digits, config, random)
    apart = {
        "random": tell_apart(digits.x, digits.x_test, run.seed),
        "by writer": tell_apart(by_writer.x, by_writer.x_test, run.seed),
    }

    model = train(digits, labels, config, run)
    found = suspect(model, digits, labels)
    unchanged = replace(labels, y=digits.y)
    of_clean = suspect(train(digits, unchanged, config, run), digits, unchanged)

    judge_labels(digits, labels, found, config.neighbors, run)
    planted = labels.is_wrong.mean()
    judge_estimate(planted, found.estimate, of_clean.estimate, run)
    judge_repair(digits, labels, found.suspected, random, run)
    judge_outliers(turned, config.neighbors, run)
    judge_leak(leaked, run)
    judge_splits(apart, run)
    features = dim(digits, by_writer, random)
    judge_features(features, run)

    run.figure("features", draw_features(features, digits))
    run.figure("overview", draw_overview(labels, digits, leaked, apart))
    run.figure("suspects", draw_suspects(digits, labels, found))
    run.figure("outliers", draw_outliers(digits, turned))
    logits = ops.mean(model.output, axis=1)
    service = serving.classifier(keras.Model(model.input, logits))
    run.export(service, example=digits.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
