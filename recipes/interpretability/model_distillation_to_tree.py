"""Distill a network into a decision tree: twelve questions for thousands of weights.

A tree that is grown on a network's answers, not on the labels, says in rules what the
network does. Its fidelity is the share of held-out rows on which both say the same. Far
down a branch few rows are left to choose a question by; but a network, unlike the
world, answers as many rows as one likes to make up. So rows are drawn around the real
ones, and the tree learns the network's probabilities for them, by squared error (for
labels, as 0 and 1, that is the Gini impurity).
Look at fidelity by depth, at what the made-up rows add and how much of it their
origin's labels would add too, at the tree, and at how the first question changes with
the rows that a tree grew on.

Lectures: N18 7.2 Interpretability Methods (distill your model), 7.1 Why
    Interpretability (trees)
Paper: Craven and Shavlik, Extracting tree-structured representations of trained
    networks, 1996; Frosst and Hinton, Distilling a neural network into a soft decision
    tree, 2017
Tags: surrogate model, trepan, cart, rule extraction, global explanation, fidelity, xai
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge, Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeRegressor

from deep_learning_recipes import data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    folds: Annotated[int, Ge(2)] = 4
    """parts of each table; each is held out once"""
    made_up: int = 6000
    """rows drawn around the training rows for the network to answer"""
    spread: float = 0.4
    """how far around, in standard deviations of each column"""
    depth: Annotated[int, Interval(ge=6)] = 12
    """of the deepest trees: the longest row of questions"""
    drawn_depth: Annotated[int, Interval(ge=1, le=6)] = 3
    """of the tree that is drawn and exported"""
    resamples: int = 8
    """of the training rows in each part, to see how much a tree depends on them"""
    units: int = 64
    """width of the network's two hidden layers"""
    epochs: int = 60
    """passes over the training rows"""


QUICK = Config(folds=2, made_up=4000, resamples=6, epochs=40)
FULL = Config(folds=10, made_up=50_000, resamples=20, epochs=100)

# --------------------------------------------------------------------------------------
# The idea: a tree learns what the network says of rows that are made up
# --------------------------------------------------------------------------------------


def build_network(x: np.ndarray, units: int, classes: int) -> keras.Model:
    """The black box. Input: (batch, columns). Output: (batch, classes) logits."""
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    rows = keras.Input(x.shape[1:], name="columns")
    hidden = layers.Rescaling(1 / spread, -x.mean(axis=0) / spread)(rows)
    for _ in range(2):
        hidden = layers.Dropout(0.2)(layers.Dense(units, activation="relu")(hidden))
    return keras.Model(rows, layers.Dense(classes)(hidden))


def draw_around(x: np.ndarray, count: int, spread: float, random: np.random.Generator):
    """`count` rows near those of x (rows, columns), and which row each was drawn
    around."""
    origins = random.integers(0, len(x), count)
    noise = random.normal(size=(count, x.shape[1]))
    drawn = x[origins] + spread * x.std(axis=0) * noise
    return drawn.astype("float32"), origins


def grow(x: np.ndarray, probabilities: np.ndarray, depth: int) -> DecisionTreeRegressor:
    """A tree from rows (rows, columns) to probabilities (rows, classes)."""
    return DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, probabilities)


def children_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """The numbers of each node's children, yes and no; −1 at leaves. (nodes, 2)"""
    return np.stack([tree.tree_.children_left, tree.tree_.children_right], axis=1)


def depths_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """How many questions lead to each node. (nodes,)"""
    depths = np.zeros(tree.tree_.node_count, int)
    for node, children in enumerate(children_of(tree)):
        depths[children[children > 0]] = depths[node] + 1
    return depths


def classes_by_depth(
    tree: DecisionTreeRegressor, x: np.ndarray, depth: int
) -> np.ndarray:
    """What the tree says if it may ask 1, 2, ... `depth` questions: (depth, rows)
    classes."""
    is_on_path = tree.decision_path(x).toarray().astype(bool)
    classes = tree.tree_.value[:, :, 0].argmax(axis=1)
    depths = depths_of(tree)
    # A child has a higher number than its parent: a path's last node is the largest.
    nodes = np.arange(len(depths))
    said = []
    for asked in range(1, depth + 1):
        last = np.where(is_on_path & (depths <= asked), nodes, 0).max(axis=1)
        said.append(classes[last])
    return np.array(said)


def paths_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """(nodes, nodes): +1 where the way to a node (column) takes a question's (row) yes,
    −1 where it takes the no, 0 where the question is not on it."""
    count = tree.tree_.node_count
    wanted = np.zeros((count, count), "float32")
    for node, children in enumerate(children_of(tree)):
        if tree.tree_.feature[node] < 0:  # a leaf asks nothing
            continue
        for child, answer in zip(children, (1, -1), strict=True):
            wanted[:, child] = wanted[:, node]
            wanted[node, child] = answer
    return wanted


def rounded_down(thresholds: np.ndarray) -> np.ndarray:
    """The highest 32-bit numbers that are not above: scikit-learn compares 32-bit
    columns with 64-bit thresholds."""
    rounded = thresholds.astype("float32")
    below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > thresholds, below, rounded)


def as_network(tree: DecisionTreeRegressor) -> keras.Model:
    """The same tree as a network: all questions at once, then the leaf whose path they
    agree with. Outputs: `probabilities` (batch, classes) and `leaf` (batch,), its
    number in the tree."""
    nodes = tree.tree_
    inner = np.flatnonzero(nodes.feature >= 0)
    leaves = np.flatnonzero(nodes.feature < 0)
    wanted = paths_of(tree)[np.ix_(inner, leaves)]
    thresholds = rounded_down(nodes.threshold[inner])

    columns = keras.Input((tree.n_features_in_,), name="columns")
    asked = ops.take(columns, nodes.feature[inner], axis=1)
    yes = ops.cast(asked <= thresholds, "float32")
    # As many agreements as the path has questions, at one leaf alone.
    missing = ops.matmul(2 * yes - 1, wanted) - np.abs(wanted).sum(axis=0)
    reached = ops.cast(missing > -0.5, "float32")
    probabilities = ops.matmul(reached, nodes.value[leaves, :, 0].astype("float32"))
    leaf = ops.matmul(reached, leaves[:, np.newaxis].astype("float32"))[:, 0]
    return keras.Model(columns, {"probabilities": probabilities, "leaf": leaf})


# --------------------------------------------------------------------------------------
# The experiment: trees of labels and of answers, by the questions that they may ask
# --------------------------------------------------------------------------------------

LABELS = "labels"
ANSWERS = "the network's answers"
DRAWN_LABELS = "made-up rows, their origin's labels"
DRAWN_ANSWERS = "made-up rows, the network's answers"

# Lines that lie on one another can be told apart by these.
STYLES = {
    LABELS: {"marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "-"},
    ANSWERS: {"marker": "s", "markersize": 4, "linestyle": "--"},
    DRAWN_LABELS: {"marker": "^", "markersize": 8, "fillstyle": "none"},
    DRAWN_ANSWERS: {"marker": "D", "markersize": 4, "linestyle": "--"},
}

Curves = dict[str, np.ndarray]


@dataclass
class Lesson:
    """What a tree is grown on."""

    rows: np.ndarray
    probabilities: np.ndarray


@dataclass
class Fold:
    """A part of a table that is held out, and a network of the others."""

    x: np.ndarray
    labels: np.ndarray
    """one-hot, (rows, classes)"""
    x_test: np.ndarray
    y_test: np.ndarray
    network: Callable[[np.ndarray], np.ndarray]
    """from rows to probabilities"""
    lessons: dict[str, Lesson]

    @property
    def answers(self) -> np.ndarray:
        return self.network(self.x_test).argmax(axis=1)


def train(x, y, config: Config, run: Run) -> Callable[[np.ndarray], np.ndarray]:
    model = build_network(x, config.units, int(y.max()) + 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    training.fit(model, x, y, epochs=config.epochs, callbacks=run.callbacks)
    return lambda rows: np.asarray(ops.softmax(model(rows)))


def write_lessons(x, labels, network, config: Config, random) -> dict[str, Lesson]:
    drawn, origins = draw_around(x, config.made_up, config.spread, random)
    rows = np.concatenate([x, drawn])
    of_origin = np.concatenate([labels, labels[origins]])
    return {
        LABELS: Lesson(x, labels),
        ANSWERS: Lesson(x, network(x)),
        DRAWN_LABELS: Lesson(rows, of_origin),
        DRAWN_ANSWERS: Lesson(rows, network(rows)),
    }


def split(loaded, config: Config, random: np.random.Generator, run: Run) -> list[Fold]:
    """loaded: a table's training and test part."""
    (x, y), (x_test, y_test) = loaded
    x = np.concatenate([x, x_test])
    x = x.reshape(len(x), -1)
    y = np.concatenate([y, y_test])
    one_hot = np.eye(y.max() + 1)
    parts = StratifiedKFold(config.folds, shuffle=True, random_state=run.seed)
    folds = []
    for shown, held_out in parts.split(x, y):
        labels = one_hot[y[shown]]
        network = train(x[shown], y[shown], config, run)
        lessons = write_lessons(x[shown], labels, network, config, random)
        fold = Fold(x[shown], labels, x[held_out], y[held_out], network, lessons)
        folds.append(fold)
    return folds


@dataclass
class Scores:
    """Of one table, means over the folds."""

    fidelity: Curves
    """by lesson, (depth,): the share of held-out rows on which tree and network agree"""
    accuracy: Curves
    of_network: float
    """its accuracy"""
    of_majority: float
    """fidelity of the commonest answer"""


def measure(folds: list[Fold], depth: int) -> Scores:
    fidelity: dict[str, list] = {name: [] for name in STYLES}
    accuracy: dict[str, list] = {name: [] for name in STYLES}
    of_network = []
    of_majority = []
    for fold in folds:
        answers = fold.answers
        of_network.append(np.mean(answers == fold.y_test))
        of_majority.append(np.bincount(answers).max() / len(answers))
        for name, lesson in fold.lessons.items():
            tree = grow(lesson.rows, lesson.probabilities, depth)
            said = classes_by_depth(tree, fold.x_test, depth)
            fidelity[name].append(np.mean(said == answers, axis=1))
            accuracy[name].append(np.mean(said == fold.y_test, axis=1))
    return Scores(
        {name: np.mean(each, axis=0) for name, each in fidelity.items()},
        {name: np.mean(each, axis=0) for name, each in accuracy.items()},
        float(np.mean(of_network)),
        float(np.mean(of_majority)),
    )


@dataclass
class Resampled:
    """Trees that were grown on other rows of the same table."""

    first: list[int]
    """the column of each tree's first question"""
    differ: float
    """the share of held-out rows on which two of one fold disagree"""


def resample(
    folds: list[Fold], lesson: str, config: Config, random: np.random.Generator
) -> Resampled:
    first = []
    apart = []
    for fold in folds:
        rows = fold.lessons[lesson].rows
        probabilities = fold.lessons[lesson].probabilities
        said = []
        for _ in range(config.resamples):
            again = random.integers(0, len(rows), len(rows))
            tree = grow(rows[again], probabilities[again], config.depth)
            first.append(int(tree.tree_.feature[0]))
            said.append(tree.predict(fold.x_test).argmax(axis=1))
        apart += [np.mean(a != b) for a, b in itertools.combinations(said, 2)]
    return Resampled(first, float(np.mean(apart)))


def judge_lessons(digits: Scores, tumors: Scores, depth: int, run: Run) -> None:
    # Single trees are of varying luck: means over how much they may ask.
    few = slice(2, 6)
    by_few = {name: curve[few].mean() for name, curve in digits.accuracy.items()}
    last = {name: curve[-1] for name, curve in digits.accuracy.items()}
    of_tumors = {name: curve[-1] for name, curve in tumors.accuracy.items()}
    of_rows = max(by_few[LABELS], by_few[ANSWERS])
    run.claim(
        "On the rows that there are a network teaches a tree no more than the labels do; "
        "made-up rows teach it more, above all where it may ask little",
        holds=by_few[DRAWN_ANSWERS] > of_rows + 0.03
        and abs(last[ANSWERS] - last[LABELS]) < 0.02,
        measured=f"digits, accuracy with 3 to 6 questions: {by_few[LABELS]:.3f} of "
        f"labels, {by_few[ANSWERS]:.3f} of answers, {by_few[DRAWN_ANSWERS]:.3f} with "
        f"made-up rows; with {depth} {last[LABELS]:.3f}, {last[ANSWERS]:.3f}, "
        f"{last[DRAWN_ANSWERS]:.3f}; breast cancer with {depth} {of_tumors[LABELS]:.3f}, "
        f"{of_tumors[ANSWERS]:.3f}, {of_tumors[DRAWN_ANSWERS]:.3f}",
    )

    gap = (digits.accuracy[DRAWN_ANSWERS] - digits.accuracy[DRAWN_LABELS])[2:].mean()
    run.claim(
        "Near the data it is the rows that help: their origin's labels teach no worse "
        "than answers",
        holds=gap < 0.02,
        measured=f"digits, made-up rows: accuracy with {depth} questions "
        f"{last[DRAWN_ANSWERS]:.3f} of answers, {last[DRAWN_LABELS]:.3f} of their "
        f"origin's labels; answers by {gap:+.3f} better with 3 to {depth}",
    )


def judge_depth(digits: Scores, depth: int, run: Run) -> None:
    third, sixth, last = digits.fidelity[DRAWN_ANSWERS][[2, 5, -1]]
    run.claim(
        "Fidelity is bought with depth: a tree that can be read says little of ten "
        "digits",
        holds=third + 0.15 < sixth and sixth + 0.03 < last and last < 0.97,
        measured=f"digits, fidelity: {third:.3f} with 3 questions, {sixth:.3f} with 6, "
        f"{last:.3f} with {depth}",
    )


def judge_few_questions(tumors: Scores, depth: int, run: Run) -> None:
    asked = tumors.fidelity[DRAWN_ANSWERS][depth - 1]
    never_asked = tumors.fidelity[LABELS][depth - 1]
    run.claim(
        "Where a few columns decide, a tree of a few questions tells what the network "
        "does; a tree of the labels, which never asked it, does so nearly as well",
        holds=asked > 0.9
        and asked - never_asked < 0.04
        and asked > tumors.of_majority + 0.2
        and tumors.of_network > 0.95,
        measured=f"breast cancer, {depth} questions: fidelity {asked:.3f}, of labels "
        f"{never_asked:.3f}, of the commonest answer {tumors.of_majority:.3f}; the "
        f"network's accuracy {tumors.of_network:.3f}",
    )


def judge_resampled(of_labels: Resampled, of_answers: Resampled, run: Run) -> None:
    roots = len(set(of_labels.first))
    roots_of_answers = len(set(of_answers.first))
    run.claim(
        "A tree of labels does not tell the most important column: its first question "
        "changes with the rows it grew on, though they come from one table, and so do "
        "its answers; with made-up rows they change less",
        holds=roots > 2 and of_labels.differ > max(0.04, 1.2 * of_answers.differ),
        measured=f"{len(of_labels.first)} trees of resampled rows of tumors begin with "
        f"{roots} columns; two of them differ in {of_labels.differ:.1%} of the answers; "
        f"of made-up rows, answered by the network, {roots_of_answers} columns, "
        f"{of_answers.differ:.1%}",
    )


def places_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """From left to right: leaves side by side, parents in the middle above their
    children. (nodes,)"""
    is_leaf = tree.tree_.feature < 0
    places = np.cumsum(is_leaf) - 1.0
    children = children_of(tree)
    for node in reversed(range(len(places))):  # children before their parents
        if not is_leaf[node]:
            places[node] = places[children[node]].mean()
    return places


def describe(tree: DecisionTreeRegressor, node: int, names, classes) -> str:
    nodes = tree.tree_
    if nodes.feature[node] >= 0:
        return f"{names[nodes.feature[node]]}\n≤ {nodes.threshold[node]:.4g}?"
    values = nodes.value[node, :, 0]
    share = nodes.n_node_samples[node] / nodes.n_node_samples[0]
    called = classes[values.argmax()]
    return f"{called}\n{values.max():.0%} sure\n{share:.0%} of rows"


def draw_tree(
    tree: DecisionTreeRegressor, names: list[str], classes: list[str]
) -> Figure:
    """Questions in the columns' units; yes goes left. Leaves say a class and how sure
    it is."""
    nodes = tree.tree_
    depths = depths_of(tree)
    places = places_of(tree)
    figure, axes = plt.subplots(figsize=(11, 5))
    for node, children in enumerate(children_of(tree)):
        color = "white"
        if nodes.feature[node] < 0:
            color = ("#F5C76A", "#A6D8F2")[nodes.value[node, :, 0].argmax() % 2]
        else:
            for child, answer in zip(children, ("yes", "no"), strict=True):
                x = places[[node, child]]
                y = -depths[[node, child]]
                axes.plot(x, y, color="#999999", zorder=0)
                axes.text(
                    x.mean(), y.mean(), answer, ha="center", backgroundcolor="white"
                )
        axes.text(
            places[node],
            -depths[node],
            describe(tree, node, names, classes),
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round", "facecolor": color, "edgecolor": "#666666"},
        )
    axes.set_axis_off()
    axes.set_title("What the network does, in few questions")
    return figure


def draw_by_depth(tables: dict[str, Scores]) -> Figure:
    figure, grid = plt.subplots(
        len(tables), 2, figsize=(10, 3.5 * len(tables)), squeeze=False
    )
    for (table, scores), row in zip(tables.items(), grid, strict=True):
        pair = {"fidelity": scores.fidelity, "accuracy": scores.accuracy}
        for axes, (measured, curves) in zip(row, pair.items(), strict=True):
            for name, color in zip(STYLES, figures.COLORS, strict=False):
                depths = np.arange(1, len(curves[name]) + 1)
                percent = 100 * curves[name]
                axes.plot(depths, percent, color=color, label=name, **STYLES[name])
            axes.set(xlabel="questions at most", title=f"{table}: {measured}")
        row[0].set_ylabel("% of held-out rows")
        row[1].axhline(
            100 * scores.of_network, color="black", linestyle=":", label="the network"
        )
    handles = grid[0, 1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2 * config.folds)  # of each table
    random = np.random.default_rng(run.seed)
    of_digits = split(data.load("digits"), config, random, run)
    of_tumors = split(data.load_table("breast_cancer"), config, random, run)
    digits = measure(of_digits, config.depth)
    tumors = measure(of_tumors, config.depth)
    run.metric("digits_fidelity", digits.fidelity[DRAWN_ANSWERS][-1])
    run.metric("digits_accuracy", digits.accuracy[DRAWN_ANSWERS][-1])
    run.metric("digits_accuracy_of_a_tree_of_labels", digits.accuracy[LABELS][-1])

    judge_lessons(digits, tumors, config.depth, run)
    judge_depth(digits, config.depth, run)
    judge_few_questions(tumors, config.drawn_depth, run)
    judge_resampled(
        resample(of_tumors, LABELS, config, random),
        resample(of_tumors, DRAWN_ANSWERS, config, random),
        run,
    )

    fold = of_tumors[-1]
    lesson = fold.lessons[DRAWN_ANSWERS]
    small = grow(lesson.rows, lesson.probabilities, config.drawn_depth)
    columns = data.feature_names("breast_cancer")
    classes = data.class_names("breast_cancer")
    run.figure("by_depth", draw_by_depth({"digits": digits, "breast cancer": tumors}))
    run.figure("tree", draw_tree(small, columns, classes))
    run.export(as_network(small), example=fold.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
