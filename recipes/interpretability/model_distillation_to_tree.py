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
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge, Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeRegressor

from deep_learning_recipes import data, training
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

SOURCES = (
    "labels",
    "the network's answers",
    "made-up rows, their origin's labels",
    "made-up rows, the network's answers",
)


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
    return (x[origins] + spread * x.std(axis=0) * noise).astype("float32"), origins


def grow(x: np.ndarray, probabilities: np.ndarray, depth: int) -> DecisionTreeRegressor:
    """A tree from rows (rows, columns) to probabilities (rows, classes)."""
    return DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, probabilities)


def depths_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """How many questions lead to each node. (nodes,)"""
    depths = np.zeros(tree.tree_.node_count, int)
    for node, children in enumerate(children_of(tree)):
        depths[children[children > 0]] = depths[node] + 1
    return depths


def children_of(tree: DecisionTreeRegressor) -> np.ndarray:
    """The numbers of each node's children, yes and no; −1 at leaves. (nodes, 2)"""
    return np.stack([tree.tree_.children_left, tree.tree_.children_right], axis=1)


def classes_by_depth(
    tree: DecisionTreeRegressor, x: np.ndarray, depth: int
) -> np.ndarray:
    """What the tree says if it may ask 1, 2, ... `depth` questions: (depth, rows)
    classes."""
    path = tree.decision_path(x).toarray().astype(bool)
    classes = tree.tree_.value[:, :, 0].argmax(axis=1)
    levels = depths_of(tree)
    # A child has a higher number than its parent, so the last node of a path is the
    # largest.
    nodes = np.arange(len(levels))
    last = [
        np.where(path & (levels <= d), nodes, 0).max(axis=1)
        for d in range(1, depth + 1)
    ]
    return classes[np.array(last)]


def as_network(tree: DecisionTreeRegressor) -> keras.Model:
    """The same tree as a network: all questions at once, then the leaf whose path they
    agree with. Outputs: `probabilities` (batch, classes) and `leaf` (batch,), its
    number in the tree."""
    nodes = tree.tree_
    inner, leaves = (
        np.flatnonzero(nodes.feature >= 0),
        np.flatnonzero(nodes.feature < 0),
    )
    # +1 where a leaf wants a yes, −1 where it wants a no, 0 where the question is not
    # on its path.
    wanted = np.zeros((nodes.node_count, nodes.node_count), "float32")
    for node in inner:
        for child, answer in zip(children_of(tree)[node], (1, -1), strict=True):
            wanted[:, child] = wanted[:, node]
            wanted[node, child] = answer
    wanted = wanted[np.ix_(inner, leaves)]
    # scikit-learn compares 32-bit numbers with a 64-bit threshold: round it down, not
    # to nearest.
    rounded = nodes.threshold[inner].astype("float32")
    above = rounded > nodes.threshold[inner]
    thresholds = np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    columns = keras.Input((tree.n_features_in_,), name="columns")
    yes = ops.cast(
        ops.take(columns, nodes.feature[inner], axis=1) <= thresholds, "float32"
    )
    agreements = ops.matmul(2 * yes - 1, wanted) - np.abs(wanted).sum(axis=0)
    reached = ops.cast(agreements > -0.5, "float32")
    probabilities = ops.matmul(reached, nodes.value[leaves, :, 0].astype("float32"))
    leaf = ops.matmul(reached, leaves[:, None].astype("float32"))[:, 0]
    return keras.Model(columns, {"probabilities": probabilities, "leaf": leaf})


def draw_tree(
    tree: DecisionTreeRegressor, names: list[str], classes: list[str]
) -> plt.Figure:
    """Questions in the columns' units; yes goes left. Leaves say a class and how sure
    it is."""
    nodes, levels, children = tree.tree_, depths_of(tree), children_of(tree)
    is_leaf = nodes.feature < 0
    places = np.cumsum(is_leaf) - 1.0  # of the leaves; the others are set below
    figure, axes = plt.subplots(figsize=(11, 5))
    for node in reversed(range(nodes.node_count)):  # children before their parents
        values = nodes.value[node, :, 0]
        if is_leaf[node]:
            share = nodes.n_node_samples[node] / nodes.n_node_samples[0]
            text = f"{classes[values.argmax()]}\n{values.max():.0%} sure\n{share:.0%} of rows"
        else:
            places[node] = places[children[node]].mean()
            text = f"{names[nodes.feature[node]]}\n≤ {nodes.threshold[node]:.4g}?"
            for child, answer in zip(children[node], ("yes", "no"), strict=True):
                line = [places[node], places[child]], [-levels[node], -levels[child]]
                axes.plot(*line, color="#999999", zorder=0)
                axes.text(
                    *np.mean(line, axis=1), answer, ha="center", backgroundcolor="white"
                )
        color = (
            ("#F5C76A", "#A6D8F2")[values.argmax() % 2] if is_leaf[node] else "white"
        )
        box = {"boxstyle": "round", "facecolor": color, "edgecolor": "#666666"}
        style = {"ha": "center", "va": "center", "fontsize": 9, "bbox": box}
        axes.text(places[node], -levels[node], text, **style)
    axes.set_axis_off()
    axes.set_title(
        "What the network does, in few questions (shares of the made-up rows)"
    )
    return figure


def plot_by_depth(
    found: dict[str, np.ndarray], of_network: dict[str, float]
) -> plt.Figure:
    """found: of each table the fidelity and accuracy of its trees, (2, sources,
    depths)."""
    figure, panels = plt.subplots(
        len(found), 2, figsize=(10, 3.5 * len(found)), squeeze=False
    )
    for row, (table, scores) in zip(panels, found.items(), strict=True):
        for axes, what, curves in zip(
            row, ("fidelity", "accuracy"), scores, strict=True
        ):
            for name, curve in zip(SOURCES, curves, strict=True):
                style = (
                    ".--" if "origin" in name else ".-"
                )  # it often lies under another
                axes.plot(range(1, len(curve) + 1), 100 * curve, style, label=name)
            axes.set(xlabel="questions at most", title=f"{table}: {what}")
        row[0].set_ylabel("% of held-out rows")
        row[1].axhline(
            100 * of_network[table], color="black", linestyle=":", label="the network"
        )
    figure.legend(
        *panels[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2 * config.folds)  # of each table
    random = np.random.default_rng(run.seed)

    def train(x, y):
        """A network, as a function from rows to probabilities."""
        model = build_network(x, config.units, int(y.max()) + 1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        training.fit(model, x, y, epochs=config.epochs, callbacks=run.callbacks)
        return lambda rows: np.asarray(ops.softmax(model(rows)))

    scores, of_network = {}, {}
    first, apart = [], []
    tables = {
        "digits": data.load("digits"),
        "breast cancer": data.load_table("breast_cancer"),
    }
    for table, loaded in tables.items():
        x, y = (np.concatenate(part) for part in zip(*loaded, strict=True))
        x, one_hot = x.reshape(len(x), -1), np.eye(y.max() + 1)
        parts = StratifiedKFold(
            config.folds, shuffle=True, random_state=run.seed
        ).split(x, y)
        scores[table], of_network[table] = [], []
        for shown, held_out in parts:
            x_train, y_train, x_test, y_test = (
                x[shown],
                y[shown],
                x[held_out],
                y[held_out],
            )
            network = train(x_train, y_train)
            drawn, origins = draw_around(x_train, config.made_up, config.spread, random)
            rows, labels = np.concatenate([x_train, drawn]), one_hot[y_train]
            by_origin = np.concatenate([labels, labels[origins]])
            pairs = (x_train, labels), (x_train, network(x_train)), (rows, by_origin)
            trees = [
                grow(*pair, config.depth) for pair in (*pairs, (rows, network(rows)))
            ]
            said = np.array(
                [classes_by_depth(tree, x_test, config.depth) for tree in trees]
            )
            answers = network(x_test).argmax(axis=1)
            scores[table].append(
                [np.mean(said == each, axis=2) for each in (answers, y_test)]
            )
            of_network[table].append(np.mean(answers == y_test))
            if table == "breast cancer":
                small = grow(rows, network(rows), config.drawn_depth)
                said = []
                for _ in range(config.resamples):
                    again = random.integers(0, len(x_train), len(x_train))
                    tree = grow(x_train[again], labels[again], config.depth)
                    first.append(int(tree.tree_.feature[0]))
                    said.append(tree.predict(x_test).argmax(axis=1))
                apart += [np.mean(a != b) for a, b in itertools.combinations(said, 2)]

    mean = {table: np.mean(each, axis=0) for table, each in scores.items()}
    right = {table: float(np.mean(each)) for table, each in of_network.items()}
    (fidelity, accuracy), (cancer_fidelity, cancer) = mean.values()
    run.metric("digits_fidelity", fidelity[3, -1])
    run.metric("digits_accuracy", accuracy[3, -1])
    run.metric("digits_accuracy_of_a_tree_of_labels", accuracy[0, -1])
    drawn_fidelity = cancer_fidelity[3, config.drawn_depth - 1]
    run.figure("by_depth", plot_by_depth(mean, right))
    columns, classes = (
        data.feature_names("breast_cancer"),
        data.class_names("breast_cancer"),
    )
    run.figure("tree", draw_tree(small, columns, classes))

    run.claim(
        "A tree learns more from the network than from the labels, but only by made-up rows",
        holds=accuracy[3, -1] > max(accuracy[:2, -1]) + 0.02,
        measured=f"digits, {config.depth} questions: accuracy {accuracy[0, -1]:.3f} of labels, "
        f"{accuracy[1, -1]:.3f} of answers, {accuracy[3, -1]:.3f} with made-up rows; breast cancer "
        f"{cancer[0, -1]:.3f}, {cancer[1, -1]:.3f}, {cancer[3, -1]:.3f}",
    )
    run.claim(
        "Near the data it is the rows that help: their origin's labels teach as well as answers",
        holds=abs(accuracy[3, -1] - accuracy[2, -1]) < 0.02,
        measured=f"digits, made-up rows: accuracy {accuracy[3, -1]:.3f} of answers, "
        f"{accuracy[2, -1]:.3f} of their origin's labels",
    )
    third, sixth, last = fidelity[3, [2, 5, -1]]
    run.claim(
        "Fidelity is bought with depth: a tree that can be read says little of ten digits",
        holds=third + 0.15 < sixth and sixth + 0.03 < last and last < 0.97,
        measured=f"digits, fidelity: {third:.3f} with 3 questions, {sixth:.3f} with 6, {last:.3f} "
        f"with {config.depth}",
    )
    run.claim(
        "Where a few columns decide, a tree of a few questions tells what the network does",
        holds=drawn_fidelity > 0.9 and right["breast cancer"] > 0.95,
        measured=f"breast cancer: fidelity {drawn_fidelity:.3f} with {config.drawn_depth} "
        f"questions; the network's accuracy {right['breast cancer']:.3f}",
    )
    roots, differ = len(set(first)), float(np.mean(apart))
    run.claim(
        "A tree does not tell the most important column: its first question changes with the rows "
        "it grew on, though they come from one table, and so do its answers",
        holds=roots > 2 and differ > 0.04,
        measured=f"{len(first)} trees of resampled rows of tumours begin with {roots} columns; two "
        f"of them differ in {differ:.1%} of the answers",
    )
    run.export(as_network(small), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
