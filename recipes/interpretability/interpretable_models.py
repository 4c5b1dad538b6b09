"""Models that can be read: additive, monotonic, sparse, rules, and prototypes.

Instead of asking a black box afterwards, build a model that shows what it does. An
additive model (NAM) is a sum of small networks, one a column, logit = b + Σ fⱼ(xⱼ), and
each fⱼ can be drawn. A monotonic one has no negative weight, so no answer can fall when
a column rises. A sparse one pays for every column it lets through a gate. A rule list
is the first "if" that applies. A prototype network compares an image with learned ones
and shows them, by decoding them.
Look at what each costs in accuracy beside a black box, and at what it promises: that is
counted. On thirty measurements it costs little; on ten digits a rule list is too long
to read.

Lectures: N18 7.2 Interpretability Methods (during training), 7.1 Why Interpretability
Paper: Agarwal et al., Neural additive models, 2021 (section 3);
    Li et al., Deep learning for case-based reasoning through prototypes, 2018
Tags: nam, gam, rule list, glass box, white box, case-based reasoning, tabular data, xai
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Ge
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from deep_learning_recipes import data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    folds: Annotated[int, Ge(2)] = 3
    """parts of the table of tumours; each is held out once"""
    units: int = 32
    """width of hidden layers"""
    epochs: int = 80
    """passes over the table"""
    gate_price: float = 0.03
    """of each column that the sparse model lets through, for a gate that is open"""
    rules: int = 8
    """in the rule list, at most"""
    prototype_epochs: int = 120
    """passes over the digits"""
    learning_rate: float = 3e-3
    """of AdamW"""


QUICK = Config(folds=2, epochs=50, prototype_epochs=30)
FULL = Config(folds=10, units=64, epochs=300, prototype_epochs=600)


def build_dense(columns: int, units: int, price: float = 0.0) -> keras.Model:
    """Input: (batch, columns). Output: (batch, 1) logits, as of all models of the
    table. Where gates have a price, each column goes through one, at price·|gate|, and
    the next layer's weights keep the length 1: else they would grow and the gates
    shrink for nothing."""
    hidden = x = keras.Input((columns,), name="columns")
    if price:
        options = {
            "kernel_initializer": "ones",
            "kernel_regularizer": keras.regularizers.L1(price),
        }
        hidden = layers.EinsumDense("bc,c->bc", (columns,), name="gates", **options)(x)
    norm = keras.constraints.UnitNorm() if price else None
    hidden = layers.Dense(units, activation="relu", kernel_constraint=norm)(hidden)
    hidden = layers.Dense(units, activation="relu")(hidden)
    return keras.Model(x, layers.Dense(1)(hidden))


def build_additive(columns: int, units: int) -> tuple[keras.Model, keras.Model]:
    """A network a column, side by side: logits (batch, 1), and their parts (batch,
    columns)."""
    x = keras.Input((columns,), name="columns")
    hidden = ops.expand_dims(x, -1)
    for width, into, g in (
        (units, 1, "relu"),
        (units, units, "relu"),
        (1, units * columns, None),
    ):
        start = keras.initializers.RandomNormal(stddev=(2 / into) ** 0.5)
        options = {"bias_axes": "co", "kernel_initializer": start}
        hidden = layers.EinsumDense("bci,cio->bco", (columns, width), g, **options)(
            hidden
        )
    shapes = hidden[:, :, 0]
    return keras.Model(x, ops.sum(shapes, axis=1, keepdims=True)), keras.Model(
        x, shapes
    )


def build_monotonic(signs: np.ndarray, units: int) -> keras.Model:
    """Rises with columns of sign 1 and falls with those of −1: weights ≥ 0, and a
    rising g."""
    x = keras.Input(signs.shape, name="columns")
    hidden = x * signs.astype("float32")
    for width, g in ((units, "tanh"), (units, "tanh"), (1, None)):
        start = keras.initializers.RandomUniform(0, 2 / hidden.shape[1])
        options = {
            "kernel_initializer": start,
            "kernel_constraint": keras.constraints.NonNeg(),
        }
        hidden = layers.Dense(width, activation=g, **options)(hidden)
    return keras.Model(x, hidden)


def wrong_steps(
    model: keras.Model, x: np.ndarray, signs: np.ndarray, points: int = 40
) -> float:
    """Share of steps on a grid along each column, from each row, that go against its
    sign."""
    grid = np.linspace(x.min(axis=0), x.max(axis=0), points)
    is_moved = np.eye(x.shape[1], dtype=bool)[:, None, None]
    rows = np.where(is_moved, grid, x[:, None])  # (columns, rows, points, columns)
    logits = np.asarray(model(rows.reshape(-1, x.shape[1]))).reshape(rows.shape[:3])
    return float(np.mean(np.diff(signs[:, None, None] * logits) < -1e-5))


def grow_rules(x, y, rules: int, conditions: int = 2, fewest: int = 10) -> list:
    """A rule list, greedily: the surest rule, (hits + 1) / (rows + classes), for the
    rows that no rule has taken yet, and so on. A rule is a list of (column, is above,
    threshold), and the shares of classes among the rows it takes, `fewest` at least.
    The last one has no condition."""
    thresholds = np.quantile(x, np.linspace(0.02, 0.98, 20), axis=0).T
    one_hot = np.eye(y.max() + 1)[y]
    rows, found = np.arange(len(x)), []
    while len(found) < rules and len(rows) >= fewest:
        taken, rule, surest = np.ones(len(rows), bool), [], 0.0
        for _ in range(conditions):
            above = x[rows][:, :, None] > thresholds
            takes = np.stack([~above, above]) & taken[:, None, None]
            hits = np.tensordot(takes, one_hot[rows], (1, 0))
            count = hits.sum(axis=-1)
            sure = (
                (hits.max(axis=-1) + 1) / (count + one_hot.shape[1]) * (count >= fewest)
            )
            best = side, column, k = np.unravel_index(sure.argmax(), sure.shape)
            if sure[best] > surest:
                surest, taken = sure[best], takes[side, :, column, k]
                rule.append((column, side == 1, thresholds[column, k]))
        found.append((rule, one_hot[rows[taken]].mean(axis=0)))
        rows = rows[~taken]
    return [*found, ([], one_hot[rows if len(rows) else slice(None)].mean(axis=0))]


def apply_rules(rules: list, x: np.ndarray) -> np.ndarray:
    """The class that the first rule that applies to a row says. (rows,)"""
    said = np.full(len(x), -1)
    for rule, shares in rules:
        applies = said < 0
        for column, is_above, threshold in rule:
            applies &= (x[:, column] > threshold) == is_above
        said[applies] = shares.argmax()
    return said


class Prototypes(layers.Layer):
    """Squared distances (batch, prototypes) of codes (batch, width) to learned codes.
    Has a price on the distance of prototypes to the nearest code, and of codes to the
    nearest prototype."""

    def __init__(self, count: int, price: float, **options):
        super().__init__(**options)
        self.count, self.price = count, price

    def build(self, shape):
        self.codes = self.add_weight(
            (self.count, shape[-1]), "random_uniform", name="codes"
        )

    def call(self, inputs):
        distances = ops.sum((inputs[:, None] - self.codes) ** 2, axis=-1)
        nearest = [ops.mean(ops.min(distances, axis=axis)) for axis in (0, 1)]
        self.add_loss(self.price * sum(nearest))
        return distances


def build_prototype_network(
    units: int, count: int = 15, pixels: int = 64, classes: int = 10
):
    """Li et al.'s network of flat images, and its decoder. Outputs: `logits`, of
    nothing but the distances to the prototypes, and `image`, what the decoder makes of
    the code."""
    images = keras.Input((pixels,), name="images")
    code = layers.Dense(units // 2)(layers.Dense(4 * units, activation="relu")(images))
    codes = keras.Input(code.shape[1:], name="codes")
    hidden = layers.Dense(4 * units, activation="relu")(codes)
    decoder = keras.Model(codes, layers.Dense(pixels, activation="sigmoid")(hidden))
    distances = Prototypes(count, price=0.05, name="prototypes")(code)
    logits = layers.Dense(classes, use_bias=False, name="votes")(distances)
    return keras.Model(images, {"logits": logits, "image": decoder(code)}), decoder


def plot_shapes(shapes: keras.Model, x, center, spread, names: list[str]) -> plt.Figure:
    """The six shapes that vary most, over the columns' own units, with the rows that
    there are."""
    grid, at_rows = (
        np.linspace(*np.quantile(x, (0.01, 0.99), axis=0), 200),
        np.asarray(shapes(x)),
    )
    chosen = np.argsort(-at_rows.std(axis=0))[:6]
    added = np.asarray(shapes(grid)) - at_rows.mean(axis=0)
    figure, panels = plt.subplots(2, 3, figsize=(10, 5.4), sharey=True)
    for axes, j in zip(panels.flat, chosen, strict=True):
        axes.plot(grid[:, j] * spread[j] + center[j], added[:, j])
        ticks = np.clip(x[:, j], grid[0, j], grid[-1, j]) * spread[j] + center[j]
        axes.plot(ticks, np.full(len(x), added[:, chosen].min()), "k|", alpha=0.15)
        axes.set(
            xlabel=names[j], ylabel="added to the logit" if axes in panels[:, 0] else ""
        )
        axes.locator_params(axis="x", nbins=4)
    figure.suptitle("Additive model: above 0 speaks for benign (marks below: the rows)")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(4 * config.folds + 1)  # four networks of each fold, and the prototypes

    def train(model, x, y, loss, epochs, **more):
        model.compile(
            keras.optimizers.AdamW(config.learning_rate, weight_decay=0.1), loss, **more
        )
        training.fit(model, x, y, epochs=epochs, callbacks=run.callbacks)

    x, y = (
        np.concatenate(part)
        for part in zip(*data.load_table("breast_cancer"), strict=True)
    )
    scores: dict[str, list[float]] = {}
    parts = StratifiedKFold(config.folds, shuffle=True, random_state=run.seed).split(
        x, y
    )
    for shown, held_out in parts:
        scale = x[shown].mean(axis=0), x[shown].std(axis=0)
        x_train, x_test = (
            (x[rows] - scale[0]) / scale[1] for rows in (shown, held_out)
        )
        y_train, y_test = y[shown], y[held_out]
        signs = np.sign(np.corrcoef(x_train.T, y_train)[-1, :-1])
        additive, shapes = build_additive(x.shape[1], config.units)
        networks = {
            "black box": build_dense(x.shape[1], config.units),
            "additive": additive,
        }
        networks["monotonic"] = build_monotonic(signs, config.units)
        networks["sparse"] = build_dense(x.shape[1], config.units, config.gate_price)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        for model in networks.values():
            train(
                model, x_train, y_train[:, None].astype("float32"), loss, config.epochs
            )
        gates = networks["sparse"].get_layer("gates").kernel
        is_open = np.abs(gates) > 0.1 * np.abs(gates).max()
        gates.assign(gates * is_open)
        said = {
            name: np.asarray(model(x_test))[:, 0] > 0
            for name, model in networks.items()
        }
        said["rule list"] = apply_rules(
            grow_rules(x_train, y_train, config.rules), x_test
        )
        for method in (
            LogisticRegression(),
            DecisionTreeClassifier(max_depth=4, random_state=0),
        ):
            said[type(method).__name__] = method.fit(x_train, y_train).predict(x_test)
        for name, classes in said.items():
            scores.setdefault(name, []).append(np.mean(classes == y_test))
    mean = {name: float(np.mean(each)) for name, each in scores.items()}
    for name in ("additive", *mean):  # the additive one first
        run.metric(f"accuracy_{name.replace(' ', '_')}", mean[name])
    run.figure(
        "shapes",
        plot_shapes(shapes, x_train, *scale, data.feature_names("breast_cancer")),
    )
    worst = min(mean[name] for name in ("additive", "monotonic", "sparse"))
    run.claim(
        "On thirty measurements an additive, a monotonic and a sparse model lose little",
        holds=worst > mean["black box"] - 0.03 and is_open.sum() <= 0.6 * x.shape[1],
        measured=", ".join(f"{name} {value:.3f}" for name, value in mean.items())
        + f"; gates leave {is_open.sum()} of {x.shape[1]} columns",
    )
    wrong = [
        wrong_steps(networks[name], x_test, signs)
        for name in ("monotonic", "black box")
    ]
    run.claim(
        "A monotonic network never goes against a column's sign; a black box often does",
        holds=wrong[0] == 0 and wrong[1] > 0.1,
        measured=f"{wrong[0]:.1%} and {wrong[1]:.1%} of the steps on a grid go against it",
    )
    (x_train, y_train), (x_test, y_test) = (
        (a.reshape(-1, 64), b) for a, b in data.load("digits")
    )
    lists = [grow_rules(x_train, y_train, rules) for rules in (config.rules, 100)]
    by_few, by_many = (np.mean(apply_rules(each, x_test) == y_test) for each in lists)
    nearest = KNeighborsClassifier(3).fit(x_train, y_train)
    by_neighbors = nearest.score(x_test, y_test)
    run.claim(
        "Rule lists can be too long to understand: of ten digits a short one says little",
        holds=by_few < 0.6 and len(lists[1]) > 30 and by_many < by_neighbors - 0.05,
        measured=f"{len(lists[0])} rules {by_few:.3f}, {len(lists[1])} rules {by_many:.3f}; "
        f"three nearest neighbors {by_neighbors:.3f}",
    )
    model, decoder = build_prototype_network(config.units)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses, weights = (
        {"logits": crossentropy, "image": "mse"},
        {"logits": 1.0, "image": 10.0},
    )
    targets = {"logits": y_train, "image": x_train}
    train(
        model, x_train, targets, losses, config.prototype_epochs, loss_weights=weights
    )
    accuracy = np.mean(np.argmax(model(x_test)["logits"], axis=1) == y_test)
    distances = model.get_layer("prototypes")
    images = np.asarray(decoder(distances.codes))
    read_as = np.argmax(model.get_layer("votes")(distances(distances.codes)), axis=1)
    run.metric("digits_accuracy_prototypes", accuracy)
    agreed = int(np.sum(nearest.predict(images) == read_as))
    options = {
        "title": "Prototypes, as they are read",
        "captions": list(read_as),
        "columns": 5,
    }
    run.figure("prototypes", figures.image_grid(images.reshape(-1, 8, 8, 1), **options))
    run.claim(
        "Prototypes show what they stand for: decoded, they look like what they are read as",
        holds=agreed >= 0.7 * len(read_as) and accuracy > 0.9,
        measured=f"{agreed} of {len(read_as)} (for {len(set(read_as))} digits) by nearest images; "
        f"accuracy {accuracy:.3f}, of nearest neighbors {by_neighbors:.3f}",
    )
    columns = keras.Input(x.shape[1:], name="columns")
    standard = layers.Rescaling(1 / scale[1], -scale[0] / scale[1])(columns)
    outputs = {
        "probability_benign": ops.sigmoid(additive(standard)),
        "added": shapes(standard),
    }
    run.export(keras.Model(columns, outputs), example=x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
