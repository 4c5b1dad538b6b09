"""Look at the data before training: balance, splits, copies, outliers, wrong labels.

Faults are planted in a table of digits, so that finding them can be counted: labels
changed at random, images turned on their side, test images copied into the training
set. A copy is nearer than any other image can be. An outlier lies in a region of its
class that is emptier than its neighbors' regions (LOF). A wrong label contradicts the
neighbors', or networks that did not see
it: confident learning takes class j for possible where p(j) exceeds its mean over the
images that are labeled j, and suspects a label if the likeliest possible class is
another one.
Look at the pictures of suspects, and at what a random split hides that a split by
writer shows.

Lectures: N18 7.2 Interpretability Methods (before training: exploratory data analysis)
Paper: Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in
    dataset labels, 2021 (section 3); Breunig et al., LOF: identifying density-based
    local outliers, 2000
Tags: eda, data cleaning, label noise, confident learning, anomaly detection,
    duplicates, data leakage
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge, Interval
from keras import layers, ops
from matplotlib import pyplot as plt
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


def nearest(
    x: np.ndarray, among: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the `count` nearest rows of `among`, and their numbers, the nearest
    first."""
    squares = (among**2).sum(
        axis=1
    ) - 2 * x @ among.T  # but for |x|², which changes no order
    rows = np.argsort(squares, axis=1)[:, :count]
    distances = np.linalg.norm(
        x[:, None] - among[rows], axis=2
    )  # exact, where they are small
    return distances, rows


def others(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same among the rows of x, each without itself."""
    distances, rows = nearest(x, x, count + 1)
    # A copy of a row may stand before the row itself.
    own = rows == np.arange(len(x))[:, None]
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
    hidden = layers.Reshape((folds, units))(
        layers.Dense(folds * units, activation="relu")(x)
    )
    options = {"bias_axes": "fc", "kernel_initializer": "random_normal"}
    return keras.Model(
        x, layers.EinsumDense("bfu,fuc->bfc", (folds, classes), **options)(hidden)
    )


def loss_of_shown(label_and_fold, logits):
    """Mean cross-entropy of the networks, but for the one whose fold holds the image
    out."""
    label, fold = ops.unstack(ops.cast(label_and_fold, "int32"), 2, axis=1)
    folds = logits.shape[1]
    labels = ops.repeat(label[:, None], folds, axis=1)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses * (1 - ops.one_hot(fold, folds)), axis=1) / (folds - 1)


def confident_learning(
    probabilities: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, float]:
    """Which labels are suspected, and the share of wrong ones by the confident joint's
    estimate.

    probabilities: (rows, classes), of models that did not see the row. y: (rows,) given
        labels.
    """
    classes = probabilities.shape[1]
    usual = np.array(
        [probabilities[y == label, label].mean() for label in range(classes)]
    )
    possible = probabilities >= usual
    likeliest = np.where(possible, probabilities, -1).argmax(axis=1)
    counted = possible.any(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[counted], likeliest[counted]), 1)
    # Each given label as often as it was given, whether or not some class was possible.
    joint *= (np.bincount(y, minlength=classes) / joint.sum(axis=1))[:, None]
    return counted & (likeliest != y), float(1 - np.trace(joint) / joint.sum())


def tell_apart(a: np.ndarray, b: np.ndarray, random_state: int) -> float:
    """How well a forest tells rows of a from rows of b that it has not seen: area under
    the ROC curve, 0.5 if both are drawn alike."""
    x, source = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    parts = StratifiedKFold(4, shuffle=True, random_state=random_state)
    forest = RandomForestClassifier(100, random_state=random_state)
    share = cross_val_predict(forest, x, source, cv=parts, method="predict_proba")[:, 1]
    return float(roc_auc_score(source, share))


def plot_overview(counts, distances, is_copy, limit: float, apart: dict) -> plt.Figure:
    """Balance of the classes, distances from test to training images, and how splits
    differ."""
    figure, (balance, gaps, splits) = plt.subplots(1, 3, figsize=(11, 3.6))
    for shift, (name, each) in zip((-0.2, 0.2), counts.items(), strict=True):
        balance.bar(np.arange(len(each)) + shift, each / each.sum(), 0.4, label=name)
    balance.set(title="Balance", xlabel="label", ylabel="share", xticks=np.arange(10))
    balance.margins(y=0.2)
    balance.legend(loc="upper center", ncols=2)
    bins = np.linspace(0, distances.max(), 40)
    gaps.hist([distances[~is_copy], distances[is_copy]], bins, stacked=True)
    gaps.axvline(limit, color="black", linestyle=":")
    gaps.set(title="Copies (orange)", xlabel="distance to the nearest\ntraining image")
    gaps.set_ylabel("test images")
    splits.bar(list(apart), list(apart.values()), 0.5, color="#009E73")
    splits.axhline(0.5, color="black", linestyle=":")
    splits.set(
        title="Test told from training images", ylabel="area under ROC", ylim=(0, 1)
    )
    return figure


def main(config: Config, run: Run) -> None:
    random = np.random.default_rng(run.seed)
    (x, truth), (x_test, y_test) = data.load("digits")
    x, x_test = x.reshape(-1, 64), x_test.reshape(-1, 64)
    leaked = random.choice(len(x_test), config.copies, replace=False)
    copies = np.clip(x_test[leaked] + random.normal(0, 0.02, (config.copies, 64)), 0, 1)

    # Splits, and copies between them.
    (early, _), (late, _) = data.load("digits_by_writer")
    apart = {
        "random": tell_apart(x, x_test, run.seed),
        "by writer": tell_apart(early.reshape(-1, 64), late.reshape(-1, 64), run.seed),
    }
    limit = 0.25 * np.median(others(x, 1)[0])
    distances = nearest(x_test, np.concatenate([x, copies]), 1)[0][:, 0]
    is_copy = np.isin(np.arange(len(x_test)), leaked)
    found = distances < limit

    # Images on their side.
    is_turned = np.zeros(len(x), bool)
    is_turned[random.choice(len(x), config.turned, replace=False)] = True
    mixed = x.copy()
    mixed[is_turned] = np.rot90(x[is_turned].reshape(-1, 8, 8), axes=(1, 2)).reshape(
        -1, 64
    )
    factors = outliers_of_classes(mixed, truth, 2 * config.neighbors)
    at_once = local_outlier_factor(mixed, 2 * config.neighbors)
    by_class, by_all = (
        average_precision_score(is_turned, each) for each in (factors, at_once)
    )

    # Wrong labels.
    wrong = np.zeros(len(x), bool)
    wrong[random.choice(len(x), round(config.mislabeled * len(x)), replace=False)] = (
        True
    )
    y = np.where(wrong, (truth + random.integers(1, 10, len(x))) % 10, truth)
    fold = random.permutation(len(x)) % config.folds
    model = build_folds(64, config.folds, config.units)
    model.compile(keras.optimizers.Adam(config.learning_rate), loss_of_shown)
    targets = np.stack([y, fold], axis=1)
    training.fit(model, x, targets, epochs=config.epochs, callbacks=run.callbacks)
    unseen = np.asarray(ops.softmax(model(x)))[np.arange(len(x)), fold]
    suspected, estimate = confident_learning(unseen, y)
    given = unseen[np.arange(len(x)), y]
    disagree = (y[others(x, config.neighbors)[1]] != y[:, None]).mean(axis=1)
    by_networks, by_neighbors = (
        average_precision_score(wrong, s) for s in (1 - given, disagree)
    )
    precision, recall = wrong[suspected].mean(), suspected[wrong].mean()
    run.metric("wrong_labels_precision", precision)
    run.metric("wrong_labels_recall", recall)
    run.metric("wrong_labels_estimated_share", estimate)
    run.metric("outliers_average_precision", by_class)

    counts = {"training": np.bincount(y), "test": np.bincount(y_test)}
    run.figure("overview", plot_overview(counts, distances, is_copy, limit, apart))
    worst = np.argsort(given)[:30]
    captions = [
        f"{y[row]} → {unseen[row].argmax()}{'' if wrong[row] else ' ?'}"
        for row in worst
    ]
    options = {
        "title": "Given → proposed label (?: was not changed)",
        "captions": captions,
    }
    run.figure("suspects", figures.image_grid(x[worst].reshape(-1, 8, 8, 1), **options))
    rows = {}
    for label in range(10):
        of_label = np.flatnonzero(truth == label)
        ranked = of_label[np.argsort(-factors[of_label])][:9]
        rows[str(label)] = np.concatenate(
            [mixed[of_label].mean(axis=0)[None], mixed[ranked]]
        )
    run.figure(
        "outliers", figures.image_rows(rows, title="Each class: its mean, its outliers")
    )

    run.claim(
        "Networks that did not see a label find most of the wrong ones, with few false alarms",
        holds=precision > 0.75 and recall > 0.6,
        measured=f"confident learning: precision {precision:.2f}, recall {recall:.2f}; by chance "
        f"{wrong.mean():.2f} and {suspected.mean():.2f}",
    )
    run.claim(
        "Neighbors' labels rank wrong ones as well as networks do",
        holds=by_neighbors > by_networks - 0.05 and by_networks > 0.85,
        measured=f"average precision {by_neighbors:.3f} by neighbors, {by_networks:.3f} by "
        f"networks, {wrong.mean():.3f} by chance",
    )
    run.claim(
        "The confident joint tells how many labels are wrong",
        holds=abs(estimate - wrong.mean()) < 0.02,
        measured=f"estimated {estimate:.2%}, planted {wrong.mean():.2%}",
    )
    accuracies = [
        np.mean(each[nearest(x_test, shown, 1)[1][:, 0]] == y_test)
        for shown, each in ((x, y), (x[~suspected], y[~suspected]), (x, truth))
    ]
    run.claim(
        "Leaving out the suspects repairs most of what wrong labels did",
        holds=accuracies[1] - accuracies[0] > 0.5 * (accuracies[2] - accuracies[0]) > 0,
        measured="accuracy of the nearest neighbor: {:.3f} with wrong labels, {:.3f} without "
        "suspects, {:.3f} with true labels".format(*accuracies),
    )
    run.claim(
        "Outliers are outliers of their class: all classes at once hide many of them",
        holds=by_class > 0.9 and by_all < 0.75 * by_class,
        measured=f"{config.turned} turned images: average precision {by_class:.2f} class by class, "
        f"{by_all:.2f} at once; chance {is_turned.mean():.2f}",
    )
    run.claim(
        "Copies between training and test set are found, and nothing else is taken for one",
        holds=bool(np.array_equal(found, is_copy)),
        measured=f"{found.sum()} found of {config.copies}; farthest copy "
        f"{distances[is_copy].max():.2f}, nearest other image {distances[~is_copy].min():.2f}",
    )
    run.claim(
        "A random split hides what a new writer changes: only by writer the parts differ",
        holds=apart["by writer"] > 0.7 and abs(apart["random"] - 0.5) < 0.08,
        measured="area under ROC "
        + ", ".join(f"{n} {each:.2f}" for n, each in apart.items()),
    )
    logits = ops.mean(model.output, axis=1)
    run.export(serving.classifier(keras.Model(model.input, logits)), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
