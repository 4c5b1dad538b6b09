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

import math
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import keras
import numpy as np
from annotated_types import Ge
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from deep_learning_recipes import data, training
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


# --------------------------------------------------------------------------------------
# The idea: five models that show what they do
# --------------------------------------------------------------------------------------


def build_dense(columns: int, units: int, price: float = 0.0) -> keras.Model:
    """Input: (batch, columns). Output: (batch, 1) logits, as of all models of the
    table. Where gates have a price, each column goes through one, at price·|gate|, and
    the next layer's weights keep the length 1: else they would grow and the gates
    shrink for nothing."""
    x = keras.Input((columns,), name="columns")
    hidden = x
    norm = None
    if price:
        hidden = layers.EinsumDense(
            "bc,c->bc",
            (columns,),
            kernel_initializer="ones",
            kernel_regularizer=keras.regularizers.L1(price),
            name="gates",
        )(x)
        norm = keras.constraints.UnitNorm()
    hidden = layers.Dense(units, activation="relu", kernel_constraint=norm)(hidden)
    hidden = layers.Dense(units, activation="relu")(hidden)
    return keras.Model(x, layers.Dense(1)(hidden))


def build_additive(columns: int, units: int) -> tuple[keras.Model, keras.Model]:
    """A network a column, side by side: logits (batch, 1), and their parts (batch,
    columns)."""
    x = keras.Input((columns,), name="columns")
    hidden = ops.expand_dims(x, -1)
    # Width, activation, and inputs of He's start. Small ones keep the parts near 0.
    widths = (
        (units, "relu", 1),
        (units, "relu", units),
        (1, None, units * columns),
    )
    for width, activation, inputs in widths:
        hidden = layers.EinsumDense(
            "bci,cio->bco",
            (columns, width),
            activation,
            bias_axes="co",
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=(2 / inputs) ** 0.5
            ),
        )(hidden)
    parts = hidden[:, :, 0]
    logits = ops.sum(parts, axis=1, keepdims=True)
    return keras.Model(x, logits), keras.Model(x, parts)


def build_monotonic(signs: np.ndarray, units: int) -> keras.Model:
    """Rises with columns of sign 1 and falls with those of −1, signs (columns,): no
    weight is below 0, and tanh rises."""
    x = keras.Input(signs.shape, name="columns")
    hidden = x * signs.astype("float32")
    for width, activation in ((units, "tanh"), (units, "tanh"), (1, None)):
        hidden = layers.Dense(
            width,
            activation,
            # Positive weights add up: without the division tanh would saturate.
            kernel_initializer=keras.initializers.RandomUniform(0, 2 / hidden.shape[1]),
            kernel_constraint=keras.constraints.NonNeg(),
        )(hidden)
    return keras.Model(x, hidden)


class Condition(NamedTuple):
    column: int
    is_above: bool
    """the threshold; or else at most it"""
    threshold: float


class Rule(NamedTuple):
    conditions: list[Condition]
    """which all have to hold; the last rule has none"""
    shares: np.ndarray
    """of the classes among the training rows that it takes, (classes,)"""


def find_rule(x, one_hot, thresholds, conditions: int, fewest: int):
    """The surest rule of at least `fewest` rows of x, (hits + 1) / (rows + classes),
    found condition by condition, and which rows it takes, (rows,). one_hot: (rows,
    classes); thresholds: (columns, thresholds)."""
    above = x[:, :, np.newaxis] > thresholds
    sides = np.stack([~above, above])  # (2, rows, columns, thresholds)
    taken = np.ones(len(x), bool)
    found: list[Condition] = []
    surest = 0.0
    for _ in range(conditions):
        takes = sides & taken[:, np.newaxis, np.newaxis]
        hits = np.tensordot(takes, one_hot, (1, 0))
        count = hits.sum(axis=-1)
        sure = (hits.max(axis=-1) + 1) / (count + one_hot.shape[1])
        sure = np.where(count >= fewest, sure, 0)

        best = np.unravel_index(sure.argmax(), sure.shape)
        if sure[best] <= surest:
            break
        surest = sure[best]
        side, column, number = best
        taken = takes[side, :, column, number]
        found.append(Condition(column, side == 1, thresholds[column, number]))
    return found, taken


def grow_rules(x, y, rules: int, conditions: int = 2, fewest: int = 10) -> list[Rule]:
    """A rule list, greedily: the surest rule, then the surest for the rows that are
    left, and so on. x: (rows, columns), y: (rows,)."""
    thresholds = np.quantile(x, np.linspace(0.02, 0.98, 20), axis=0).T
    one_hot = np.eye(y.max() + 1)[y]
    rows = np.arange(len(x))
    found: list[Rule] = []
    while len(found) < rules and len(rows) >= fewest:
        rule, taken = find_rule(x[rows], one_hot[rows], thresholds, conditions, fewest)
        found.append(Rule(rule, one_hot[rows[taken]].mean(axis=0)))
        rows = rows[~taken]
    last = one_hot[rows] if len(rows) else one_hot
    found.append(Rule([], last.mean(axis=0)))
    return found


def apply_rules(rules: list[Rule], x: np.ndarray) -> np.ndarray:
    """The class that the first rule that applies to a row says. (rows,)"""
    said = np.full(len(x), -1)
    for rule in rules:
        applies = said < 0
        for column, is_above, threshold in rule.conditions:
            applies &= (x[:, column] > threshold) == is_above
        said[applies] = rule.shares.argmax()
    return said


class Prototypes(layers.Layer):
    """Squared distances (batch, prototypes) of codes (batch, width) to learned codes.
    Has a price on the distance of prototypes to the nearest code, and of codes to the
    nearest prototype."""

    def __init__(self, count: int, price: float, **options):
        super().__init__(**options)
        self.count = count
        self.price = price

    def build(self, shape):
        self.codes = self.add_weight(
            (self.count, shape[-1]), "random_uniform", name="codes"
        )

    def call(self, inputs):
        distances = ops.sum((inputs[:, None] - self.codes) ** 2, axis=-1)
        of_prototypes = ops.mean(ops.min(distances, axis=0))
        of_codes = ops.mean(ops.min(distances, axis=1))
        self.add_loss(self.price * (of_prototypes + of_codes))
        return distances


def build_prototype_network(
    units: int,
    count: int = 15,
    pixels: int = 64,
    classes: int = 10,
    price: float = 0.05,
) -> tuple[keras.Model, keras.Model]:
    """Li et al.'s network of flat images, and its decoder. Outputs: `logits`, of
    nothing but the distances to the prototypes, and `image`, what the decoder makes of
    the code."""
    images = keras.Input((pixels,), name="images")
    code = layers.Dense(units // 2)(layers.Dense(4 * units, activation="relu")(images))

    codes = keras.Input(code.shape[1:], name="codes")
    hidden = layers.Dense(4 * units, activation="relu")(codes)
    decoder = keras.Model(codes, layers.Dense(pixels, activation="sigmoid")(hidden))

    distances = Prototypes(count, price, name="prototypes")(code)
    logits = layers.Dense(classes, use_bias=False, name="votes")(distances)
    model = keras.Model(images, {"logits": logits, "image": decoder(code)})
    return model, decoder


# --------------------------------------------------------------------------------------
# The experiment: what each costs in accuracy, and whether it keeps its promise
# --------------------------------------------------------------------------------------

PRICE = 0.05  # of the prototypes' distances

Networks = dict[str, keras.Model]


def wrong_steps(
    model: keras.Model, x: np.ndarray, signs: np.ndarray, points: int = 40
) -> float:
    """Share of steps on a grid along each column, from each row, that go against its
    sign."""
    grid = np.linspace(x.min(axis=0), x.max(axis=0), points)
    is_moved = np.eye(x.shape[1], dtype=bool)[:, np.newaxis, np.newaxis]
    # (columns, rows, points, columns)
    rows = np.where(is_moved, grid, x[:, np.newaxis])
    logits = np.asarray(model(rows.reshape(-1, x.shape[1]))).reshape(rows.shape[:3])
    steps = np.diff(signs[:, np.newaxis, np.newaxis] * logits)
    return float(np.mean(steps < -1e-5))


def train(model: keras.Model, x, y, epochs: int, config: Config, run: Run, **losses):
    """losses: arguments of `compile`."""
    optimizer = keras.optimizers.AdamW(config.learning_rate, weight_decay=0.1)
    model.compile(optimizer, **losses)
    training.fit(model, x, y, epochs=epochs, callbacks=run.callbacks)


@dataclass
class Fold:
    """A part of the table of tumors that is held out, and what was learned from the
    others."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    center: np.ndarray
    """of the columns before they were standardized"""
    spread: np.ndarray
    networks: Networks = field(default_factory=dict)
    parts: keras.Model | None = None
    """of the additive model's logit"""
    open_gates: int = 0

    @property
    def signs(self) -> np.ndarray:
        """Of the columns' correlations with the label."""
        return np.sign(np.corrcoef(self.x.T, self.y)[-1, :-1])


def load_tumors() -> tuple[np.ndarray, np.ndarray]:
    (x, y), (x_test, y_test) = data.load_table("breast_cancer")
    return np.concatenate([x, x_test]), np.concatenate([y, y_test])


def split(folds: int, seed: int) -> list[Fold]:
    x, y = load_tumors()
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    found = []
    for shown, held_out in parts.split(x, y):
        center = x[shown].mean(axis=0)
        spread = x[shown].std(axis=0)
        standard = (x - center) / spread
        fold = Fold(
            standard[shown], y[shown], standard[held_out], y[held_out], center, spread
        )
        found.append(fold)
    return found


def train_networks(fold: Fold, config: Config, run: Run) -> None:
    columns = fold.x.shape[1]
    additive, fold.parts = build_additive(columns, config.units)
    fold.networks = {
        "black box": build_dense(columns, config.units),
        "additive": additive,
        "monotonic": build_monotonic(fold.signs, config.units),
        "sparse": build_dense(columns, config.units, config.gate_price),
    }
    labels = fold.y[:, np.newaxis].astype("float32")
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    for model in fold.networks.values():
        train(model, fold.x, labels, config.epochs, config, run, loss=loss)
    fold.open_gates = close_gates(fold.networks["sparse"])


def close_gates(sparse: keras.Model) -> int:
    """Closes those that are open by less than a tenth of the widest; how many are
    left."""
    gates = sparse.get_layer("gates").kernel
    is_open = np.abs(gates) > 0.1 * np.abs(gates).max()
    gates.assign(gates * is_open)
    return int(is_open.sum())


def accuracies_of(fold: Fold, rules: int) -> dict[str, float]:
    """On the held-out rows."""
    said = {}
    for name, model in fold.networks.items():
        said[name] = np.asarray(model(fold.x_test))[:, 0] > 0
    said["rule list"] = apply_rules(grow_rules(fold.x, fold.y, rules), fold.x_test)

    others = {
        "logistic regression": LogisticRegression(),
        "decision tree": DecisionTreeClassifier(max_depth=4, random_state=0),
    }
    for name, method in others.items():
        said[name] = method.fit(fold.x, fold.y).predict(fold.x_test)
    return {name: np.mean(classes == fold.y_test) for name, classes in said.items()}


def mean_over(folds: list[Fold], rules: int) -> dict[str, float]:
    scores = [accuracies_of(fold, rules) for fold in folds]
    return {name: np.mean([each[name] for each in scores]) for name in scores[0]}


def record(accuracies: dict[str, float], run: Run) -> None:
    """The additive one first."""
    run.metric("accuracy_additive", accuracies["additive"])
    run.metrics("accuracy", accuracies)


def judge_accuracy(accuracies: dict[str, float], gates: int, columns: int, run: Run):
    readable = [accuracies[name] for name in ("additive", "monotonic", "sparse")]
    lowest = accuracies["black box"] - 0.03
    evidence = ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
    run.claim(
        "On thirty measurements an additive, a monotonic and a sparse model lose little; "
        "nor would a line be worse than the black box",
        holds=min(readable) > lowest
        and accuracies["logistic regression"] > accuracies["black box"] - 0.01
        and gates <= 0.6 * columns,
        measured=f"{evidence}; gates leave {gates} of {columns} columns",
    )


def judge_monotony(fold: Fold, run: Run) -> None:
    wrong = {
        name: wrong_steps(fold.networks[name], fold.x_test, fold.signs)
        for name in ("monotonic", "black box")
    }
    run.claim(
        "A monotonic network never goes against a column's sign; a black box often does",
        holds=wrong["monotonic"] == 0 and wrong["black box"] > 0.1,
        measured=f"{wrong['monotonic']:.1%} and {wrong['black box']:.1%} of the steps on "
        "a grid go against it",
    )


@dataclass
class Digits:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_digits() -> Digits:
    (x, y), (x_test, y_test) = data.load("digits")
    return Digits(x.reshape(-1, 64), y, x_test.reshape(-1, 64), y_test)


def judge_rules(digits: Digits, rules: int, by_neighbors: float, run: Run) -> None:
    short = grow_rules(digits.x, digits.y, rules)
    long = grow_rules(digits.x, digits.y, 100)
    by_few = np.mean(apply_rules(short, digits.x_test) == digits.y_test)
    by_many = np.mean(apply_rules(long, digits.x_test) == digits.y_test)
    run.claim(
        "Rule lists can be too long to understand: of ten digits a short one says little",
        holds=by_few < 0.6 and len(long) > 30 and by_many < by_neighbors - 0.05,
        measured=f"{len(short)} rules {by_few:.3f}, {len(long)} rules {by_many:.3f}; "
        f"three nearest neighbors {by_neighbors:.3f}",
    )


@dataclass
class Learned:
    """A prototype network's prototypes."""

    images: np.ndarray
    """decoded, (prototypes, pixels)"""
    read_as: np.ndarray
    """the digits that the network takes them for, (prototypes,)"""
    accuracy: float
    """of the network on held-out images"""


def learn_prototypes(digits: Digits, price: float, config: Config, run: Run) -> Learned:
    model, decoder = build_prototype_network(config.units, price=price)
    train(
        model,
        digits.x,
        {"logits": digits.y, "image": digits.x},
        config.prototype_epochs,
        config,
        run,
        loss={
            "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "image": "mse",
        },
        loss_weights={"logits": 1.0, "image": 10.0},
    )
    prototypes = model.get_layer("prototypes")
    votes = model.get_layer("votes")(prototypes(prototypes.codes))
    said = np.argmax(model(digits.x_test)["logits"], axis=1)
    return Learned(
        images=np.asarray(decoder(prototypes.codes)),
        read_as=np.argmax(votes, axis=1),
        accuracy=np.mean(said == digits.y_test),
    )


def judge_prototypes(
    learned: Learned, free: Learned, nearest: KNeighborsClassifier, run: Run
) -> None:
    """free: without the price on distances."""
    agreed = np.sum(nearest.predict(learned.images) == learned.read_as)
    gaps = {}
    for name, each in {"priced": learned, "free": free}.items():
        distances, _ = nearest.kneighbors(each.images, 1)
        gaps[name] = distances.mean()
    count = len(learned.read_as)
    run.claim(
        "Prototypes show what they stand for: decoded, they look like what they are read "
        "as, and like images that there are, unless their distance has no price",
        holds=agreed >= 0.7 * count
        and learned.accuracy > 0.9
        and gaps["free"] > 1.3 * gaps["priced"],
        measured=f"{agreed} of {count} (for {len(set(learned.read_as))} digits) by "
        f"nearest images; distance to the nearest training image {gaps['priced']:.2f}, "
        f"without the price {gaps['free']:.2f}; accuracy {learned.accuracy:.3f}",
    )


def draw_shapes(fold: Fold, names: list[str]) -> Figure:
    """The six parts that vary most, over the columns' own units, with the rows that
    there are."""
    at_rows = np.asarray(fold.parts(fold.x))
    lowest, highest = np.quantile(fold.x, (0.01, 0.99), axis=0)
    grid = np.linspace(lowest, highest, 200)
    added = np.asarray(fold.parts(grid)) - at_rows.mean(axis=0)
    chosen = np.argsort(-at_rows.std(axis=0))[:6]

    figure, panels = plt.subplots(2, 3, figsize=(10, 5.4), sharey=True)
    floor = added[:, chosen].min()
    for axes, column in zip(panels.flat, chosen, strict=True):
        spread = fold.spread[column]
        center = fold.center[column]
        axes.plot(grid[:, column] * spread + center, added[:, column])
        rows = np.clip(fold.x[:, column], lowest[column], highest[column])
        axes.plot(rows * spread + center, np.full(len(rows), floor), "k|", alpha=0.15)
        axes.set(xlabel=names[column])
        axes.locator_params(axis="x", nbins=4)
    for axes in panels[:, 0]:
        axes.set_ylabel("added to the logit")
    figure.suptitle("Additive model: above 0 speaks for benign (marks below: the rows)")
    return figure


def draw_prototypes(learned: Learned, digits: Digits, nearest) -> Figure:
    """Prototypes from 0 to 9, each above the training image that is nearest to it."""
    order = np.argsort(learned.read_as, kind="stable")
    _, (*rows,) = nearest.kneighbors(learned.images[order], 1)
    columns = 8
    lines = math.ceil(len(order) / columns)
    figure, grid = plt.subplots(2 * lines, columns, figsize=(9.6, 3.1 * lines))
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for place, (prototype, row) in enumerate(zip(order, rows, strict=True)):
        line, column = divmod(place, columns)
        above, below = grid[2 * line : 2 * line + 2, column]
        above.set_title(f"“{learned.read_as[prototype]}”", fontsize=16)
        for axes, image in ((above, learned.images[prototype]), (below, digits.x[row])):
            picture = np.pad(image.reshape(8, 8), 1)
            # Eight pixels a side are hard to read as squares.
            axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="bicubic")
    for line in range(lines):
        grid[2 * line, 0].set_ylabel("prototype")
        grid[2 * line + 1, 0].set_ylabel("nearest\nimage")
    figure.suptitle(
        "Prototypes as they are read, and the nearest training image of each"
    )
    return figure


def export(fold: Fold, run: Run) -> None:
    """The additive model of columns in their own units, with its parts."""
    columns = keras.Input(fold.center.shape, name="columns")
    standard = layers.Rescaling(1 / fold.spread, -fold.center / fold.spread)(columns)
    outputs = {
        "probability_benign": ops.sigmoid(fold.networks["additive"](standard)),
        "added": fold.parts(standard),
    }
    x, _ = load_tumors()
    run.export(keras.Model(columns, outputs), example=x[:3])


def main(config: Config, run: Run) -> None:
    run.plan(4 * config.folds + 2)  # four networks a fold, and twice the prototypes

    folds = split(config.folds, run.seed)
    for fold in folds:
        train_networks(fold, config, run)
    accuracies = mean_over(folds, config.rules)
    record(accuracies, run)
    open_gates = np.mean([fold.open_gates for fold in folds])
    columns = fold.x.shape[1]
    run.figure("shapes", draw_shapes(fold, data.feature_names("breast_cancer")))
    judge_accuracy(accuracies, open_gates, columns, run)
    judge_monotony(fold, run)

    digits = load_digits()
    nearest = KNeighborsClassifier(3).fit(digits.x, digits.y)
    by_neighbors = nearest.score(digits.x_test, digits.y_test)
    judge_rules(digits, config.rules, by_neighbors, run)

    learned = learn_prototypes(digits, PRICE, config, run)
    free = learn_prototypes(digits, 0.0, config, run)
    run.metric("digits_accuracy_prototypes", learned.accuracy)
    run.metric("digits_accuracy_neighbors", by_neighbors)
    run.figure("prototypes", draw_prototypes(learned, digits, nearest))
    judge_prototypes(learned, free, nearest, run)
    export(fold, run)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
