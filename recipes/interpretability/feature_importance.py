"""Feature importance: which columns a trained network needs, asked in four ways.

Ablation trains anew without a column; the mean in its place, or a permutation of its
values, takes it from a network that is there, and the loss rises; sensitivity is the
size of the slope, E |∂f/∂xⱼ|·σⱼ. The truth is known here: Friedman's y = 10 sin(πx₁x₂)
+ 20 (x₃ − ½)² + 10x₄ + 5x₅ needs five columns of ten, and permuting column j of f costs
exactly E(f(x) − f(x'))², that is 2·E Var(f | all but xⱼ). Look at who finds the five,
at what becomes of x₄ once its copy stands in the table, and at a real table, where most
columns are nearly copies of others. All networks without a column train at once, as one
stack; all permutations are one batch.

Lectures: N18 7.2 Interpretability Methods (ablation, input-feature importance), 7.3
    Evaluating
Paper: Fisher, Rudin and Dominici, All models are wrong, but many are useful, 2019
    (permutation); Friedman, Multivariate adaptive regression splines, 1991 (the ten
    columns)
Tags: permutation importance, ablation, sensitivity analysis, tabular data, variable
    selection, xai, explainability
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import data, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    examples: Annotated[int, Interval(ge=100)] = 3000
    """rows of Friedman's table, half of them to test on"""
    restarts: int = 4
    """random starts of each network; importances are their means"""
    units: int = 48
    """width of the two hidden layers"""
    epochs: int = 80
    """passes over Friedman's table"""
    repeats: int = 10
    """permutations of each column"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rate: float = 3e-3
    """of AdamW"""


QUICK = Config(examples=2000, epochs=50)
FULL = Config(examples=10_000, restarts=10, units=128, epochs=200, repeats=50)

NEEDED = 5  # Friedman's first columns; the others are noise


# --------------------------------------------------------------------------------------
# The idea: take a column away, or ask how the output leans on it
# --------------------------------------------------------------------------------------


def friedman(x: np.ndarray) -> np.ndarray:
    """Friedman's function of columns (rows, 5 or more) in [0, 1], without noise.
    (rows,)"""
    interaction = np.sin(np.pi * x[:, 0] * x[:, 1])
    bowl = (x[:, 2] - 0.5) ** 2
    return 10 * interaction + 20 * bowl + 10 * x[:, 3] + 5 * x[:, 4]


def truth(
    columns: int, random: np.random.Generator, samples: int = 200_000
) -> np.ndarray:
    """What permuting each column costs Friedman's own function: (columns,)."""
    x, other = random.random((2, samples, columns))
    costs = []
    for column in range(columns):
        is_changed = np.arange(columns) == column
        changed = np.where(is_changed, other, x)
        costs.append(np.mean((friedman(x) - friedman(changed)) ** 2))
    return np.array(costs)


def permuted(x: np.ndarray, orders: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """x (rows, columns) with one group of columns permuted together, by each order
    (repeats, rows): (groups, repeats, rows, columns)."""
    changed = np.tile(x, (len(groups), len(orders), 1, 1))
    for copies, group in zip(changed, groups, strict=True):
        copies[:, :, group] = x[orders][:, :, group]
    return changed


def without(x: np.ndarray) -> np.ndarray:
    """x (rows, columns) with each column at its mean, one at a time: (columns, rows,
    columns)."""
    is_changed = np.eye(x.shape[1], dtype=bool)[:, np.newaxis]
    return np.where(is_changed, x.mean(axis=0), x)


def rise(stack: keras.Model, x: np.ndarray, y: np.ndarray, changed: np.ndarray, loss):
    """How much the mean loss rises from x (rows, columns) to changed (..., rows,
    columns): (..., networks)."""
    rows = np.concatenate([x, changed.reshape(-1, x.shape[1])])
    parts = np.array_split(rows, math.ceil(len(rows) / 10_000))
    outputs = np.concatenate([stack(part) for part in parts])

    # The first table is x itself, the others are the changed ones.
    losses = loss(y, outputs.reshape(-1, len(x), outputs.shape[-1]))
    return (losses[1:] - losses[0]).reshape(*changed.shape[:-2], -1)


def slopes(stack: keras.Model, x: np.ndarray) -> np.ndarray:
    """∂f/∂x at each row, times the column's standard deviation: (rows, networks,
    columns)."""
    inputs = tf.Variable(x, dtype=tf.float32)
    with tf.GradientTape() as tape:
        outputs = stack(inputs)
    return tape.batch_jacobian(outputs, inputs).numpy() * x.std(axis=0)


def squared_error(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Means over the rows: y (rows,), outputs (..., rows, networks) to (...,
    networks)."""
    return ((y[:, np.newaxis] - outputs) ** 2).mean(axis=-2)


def log_loss(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Means of −log p of labels 0 and 1, of the same shapes."""
    return (np.logaddexp(0, logits) - y[:, np.newaxis] * logits).mean(axis=-2)


def build_stack(masks: np.ndarray, units: int) -> keras.Model:
    """Independent networks side by side, each on the columns that its row of `masks`
    (networks, columns; 0 or 1) leaves it. Output: (batch, networks). Adam does not
    mind the scale of a gradient, so the mean of all losses teaches each as if it
    were alone."""
    networks, columns = masks.shape
    x = keras.Input((columns,), name="columns")
    hidden = ops.expand_dims(x, 1) * masks.astype("float32")
    for inputs, outputs in ((columns, units), (units, units), (units, 1)):
        # He's: the ready-made one would count the networks as inputs.
        start = keras.initializers.RandomNormal(stddev=math.sqrt(2 / inputs))
        hidden = layers.EinsumDense(
            "bni,nio->bno",
            (networks, outputs),
            bias_axes="no",
            activation=None if outputs == 1 else "relu",
            kernel_initializer=start,
        )(hidden)
    return keras.Model(x, ops.squeeze(hidden, -1), name="stack")


def select(stack: keras.Model, masks: np.ndarray, chosen: np.ndarray) -> keras.Model:
    """A stack of its own of the `chosen` networks (their numbers)."""
    weights = stack.get_weights()
    units = weights[0].shape[-1]
    smaller = build_stack(masks[chosen], units)
    smaller.set_weights([each[chosen] for each in weights])
    return smaller


# --------------------------------------------------------------------------------------
# The experiment: Friedman's table and a copy in it, then tumors
# --------------------------------------------------------------------------------------

COPIED = 3  # x₄
COPY = 2 * NEEDED  # the number of the last column, which is x₄ again
OF_SIZE = 0.8  # correlation from which on a column of the tumors tells their size


@dataclass
class Table:
    """Standardized columns."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def draw_friedman(config: Config, random: np.random.Generator) -> tuple[Table, float]:
    """Friedman's ten columns and a copy of x₄, and what one unit of y is in the table's
    units."""
    drawn = random.random((config.examples, 2 * NEEDED))
    x = np.concatenate([drawn, drawn[:, [COPIED]]], axis=1)
    y = friedman(x) + random.normal(size=len(x))

    half = config.examples // 2
    x = (x - x[:half].mean(axis=0)) / x[:half].std(axis=0)
    scale = y[:half].std()
    y = (y - y[:half].mean()) / scale
    return Table(x[:half], y[:half], x[half:], y[half:]), scale


def load_tumors() -> Table:
    """Breast cancer: 30 columns, seven of which go with the tumor's size."""
    (x, y), (x_test, y_test) = data.load_table("breast_cancer")
    center = x.mean(axis=0)
    spread = x.std(axis=0)
    return Table((x - center) / spread, 1.0 * y, (x_test - center) / spread, y_test)


@dataclass
class Trained:
    """As many networks for each list of columns that they do not see."""

    all: keras.Model
    masks: np.ndarray
    restarts: int

    def group(self, number: int) -> keras.Model:
        """The networks of one list."""
        first = number * self.restarts
        chosen = np.arange(first, first + self.restarts)
        return select(self.all, self.masks, chosen)

    def losses(self, table: Table, loss) -> np.ndarray:
        """On held-out rows: (lists, restarts)."""
        outputs = np.asarray(self.all(table.x_test))
        return loss(table.y_test, outputs).reshape(-1, self.restarts)


def train(
    table: Table, left_out: list[list[int]], loss, epochs: int, config: Config, run: Run
) -> Trained:
    """Networks for each list of columns in `left_out`, all at once."""
    columns = np.arange(table.x.shape[1])
    is_seen = [~np.isin(columns, group) for group in left_out]
    masks = np.repeat(np.array(is_seen, float), config.restarts, axis=0)
    stack = build_stack(masks, config.units)

    steps = epochs * math.ceil(len(table.x) / config.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    stack.compile(keras.optimizers.AdamW(rate, weight_decay=0.1), loss)
    training.fit(
        stack,
        table.x,
        np.repeat(table.y[:, np.newaxis], len(masks), axis=1),
        epochs=epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return Trained(stack, masks, config.restarts)


def draw_orders(table: Table, repeats: int, random: np.random.Generator) -> np.ndarray:
    """Permutations of the held-out rows, (repeats, rows)."""
    return np.array([random.permutation(len(table.x_test)) for _ in range(repeats)])


def rise_if_permuted(networks: keras.Model, table: Table, orders, groups, loss):
    """Of each group of columns, (groups, networks): the mean over the orders."""
    changed = permuted(table.x_test, orders, groups)
    return rise(networks, table.x_test, table.y_test, changed, loss).mean(axis=1)


def measure_friedman(
    networks: keras.Model,
    of_all: np.ndarray,
    of_one_less: np.ndarray,
    table: Table,
    orders: np.ndarray,
) -> dict[str, np.ndarray]:
    """Importances of the ten columns by each method, (columns, networks). of_all: the
    held-out losses (networks,) with all ten; of_one_less: (columns, networks)."""
    x = table.x_test
    at_mean = rise(networks, x, table.y_test, without(x), squared_error)
    one_by_one = [[column] for column in range(COPY)]
    rises = rise_if_permuted(networks, table, orders, one_by_one, squared_error)
    sensitivity = np.abs(slopes(networks, x)).mean(axis=0).T
    return {
        "trained without": of_one_less - of_all,
        "mean in its place": at_mean[:COPY],
        "permuted": rises,
        "sensitivity": sensitivity[:COPY],
    }


def judge_ranks(found: dict[str, np.ndarray], table: Table, run: Run) -> None:
    """Beside the four methods stands a rival that needs no network."""
    importances = {method: values.mean(axis=1) for method, values in found.items()}
    correlations = np.corrcoef(table.x[:, :COPY].T, table.y)[-1, :-1]
    is_last = []
    evidence = []
    for method, values in importances.items():
        least = values[:NEEDED].min()
        most = values[NEEDED:].max()
        is_last.append(least > 1.2 * most)
        evidence.append(f"{method} {least:.2f}, {most:.2f}")
    of_bowl = abs(correlations[2])
    run.claim(
        "Each of the four methods ranks all planted noise last; a correlation with y "
        "cannot, as it does not see the bowl of x3",
        holds=all(is_last) and of_bowl < 0.1,
        measured=f"least of the five columns, most of the noise: {'; '.join(evidence)}; "
        f"correlation of x3 {of_bowl:.2f}, most of the noise "
        f"{np.abs(correlations[NEEDED:]).max():.2f}",
    )


def judge_permutation(permuted_rises: np.ndarray, exact: np.ndarray, run: Run) -> None:
    """Both (columns,)."""
    of_network = permuted_rises[:NEEDED]
    of_truth = exact[:NEEDED]
    error = np.abs(of_network - of_truth).sum() / exact.sum()
    run.metric("relative_error_of_permutation_importance", error)
    run.claim(
        "Permutation of a network finds what the true function's would, within a fifth",
        holds=error < 0.2,
        measured=f"x1 to x5 {of_network.round(2)}, true {of_truth.round(2)}",
    )


@dataclass
class Copied:
    """Rises of the loss, with and without a copy of x4 in the table."""

    alone: float
    beside_copy: float
    copy: float
    both: float
    without_both: float
    without_x4: float

    def bars(self) -> dict[str, float]:
        return {
            "x4 without a copy": self.alone,
            "x4 beside its copy": self.beside_copy,
            "the copy beside x4": self.copy,
            "x4 and its copy": self.both,
            "trained without both": self.without_both,
            "trained without x4": self.without_x4,
        }


def judge_copy(copied: Copied, run: Run) -> None:
    shared = (copied.beside_copy + copied.copy) / 2
    is_shared = shared < 0.5 * copied.alone < 0.6 * copied.both
    is_hidden = copied.without_x4 < 0.1 * copied.without_both
    run.claim(
        "A copy hides a column: alone each counts less than half, and trained without "
        "it, nothing",
        holds=is_shared and is_hidden,
        measured=f"x4 {copied.alone:.2f}; beside its copy {copied.beside_copy:.2f}, the "
        f"copy {copied.copy:.2f}, both together {copied.both:.2f}; trained without "
        f"{copied.without_both:.2f}, where the copy stays {copied.without_x4:.3f}",
    )


@dataclass
class OfSize:
    """Rises of the log loss by the columns that tell of a tumor's size."""

    names: list[str]
    singles: np.ndarray
    together: float
    never_seen: float
    unlike_singles: np.ndarray
    """of as many columns that are no copies of each other"""
    unlike_together: float

    def bars(self) -> dict[str, float]:
        found = dict(zip(self.names, self.singles, strict=True))
        found["together"] = self.together
        found["trained without"] = self.never_seen
        return found


def columns_of_size(table: Table) -> list[int]:
    """The radius, and what goes with it."""
    correlations = np.corrcoef(table.x.T)[0]
    return np.flatnonzero(np.abs(correlations) > OF_SIZE).tolist()


def unlike_columns(table: Table, count: int) -> list[int]:
    """Columns of which none tells much of another, the next one always that which the
    ones before tell least of."""
    correlations = np.abs(np.corrcoef(table.x.T))
    chosen = [int(correlations.mean(axis=0).argmin())]
    while len(chosen) < count:
        likeness = correlations[chosen].max(axis=0)
        chosen.append(int(likeness.argmin()))
    return chosen


def measure_size(
    networks: keras.Model, losses: np.ndarray, table: Table, orders: np.ndarray
) -> OfSize:
    """losses: (2, networks) with all columns, and without those of size."""

    def permute(columns: list[int]) -> tuple[np.ndarray, float]:
        groups = [[column] for column in columns]
        groups.append(columns)
        rises = rise_if_permuted(networks, table, orders, groups, log_loss)
        *singles, together = rises.mean(axis=1)
        return np.array(singles), together

    size = columns_of_size(table)
    singles, together = permute(size)
    unlike_singles, unlike_together = permute(unlike_columns(table, len(size)))
    names = data.feature_names("breast_cancer")
    return OfSize(
        names=[names[column] for column in size],
        singles=singles,
        together=together,
        never_seen=(losses[1] - losses[0]).mean(),
        unlike_singles=unlike_singles,
        unlike_together=unlike_together,
    )


def judge_size(of_size: OfSize, run: Run) -> None:
    in_all = of_size.singles.sum()
    most = of_size.singles.max()
    is_hidden = of_size.together > max(3 * in_all, 10 * most)
    unlike = of_size.unlike_singles.sum()
    run.claim(
        "Near copies hide each other: permuted together they count many times their "
        "sum, and as many columns that are unlike do not; yet a network that never sees "
        "the copies does as well",
        holds=is_hidden
        and of_size.unlike_together < 2 * unlike
        and of_size.never_seen < 0.3 * of_size.together,
        measured=f"breast cancer, rise of the log loss: {len(of_size.names)} columns of "
        f"size one by one {in_all:.3f} in all, together {of_size.together:.3f}, never "
        f"seen {of_size.never_seen:.3f}; unlike columns {unlike:.3f} in all, together "
        f"{of_size.unlike_together:.3f}",
    )


def names_of_columns() -> list[str]:
    needed = [f"x{number + 1}" for number in range(NEEDED)]
    noise = [f"noise {number + 1}" for number in range(NEEDED)]
    return needed + noise


def draw_importances(found: dict[str, np.ndarray], exact: np.ndarray) -> Figure:
    """Each method's importances (columns, networks) as shares of the largest, with
    their spread."""
    names = names_of_columns()
    colors = ["#0072B2"] * NEEDED + ["#E69F00"] * NEEDED
    figure, grid = plt.subplots(1, len(found), figsize=(11, 3.8), sharey=True)
    for axes, (method, values) in zip(grid, found.items(), strict=True):
        largest = values.mean(axis=1).max()
        axes.barh(
            names,
            values.mean(axis=1) / largest,
            xerr=values.std(axis=1) / largest,
            color=colors,
            error_kw={"elinewidth": 1},
        )
        if method == "permuted":
            of_truth = exact / exact.max()
            axes.plot(of_truth, names, "k|", markersize=13, label="the true function's")
            axes.legend(loc="lower right", fontsize=9)
        axes.set(title=method, xlabel="share of the largest")
        axes.grid(axis="y", visible=False)
    grid[0].invert_yaxis()
    figure.suptitle(
        "Friedman's table: five columns that matter (blue) and five of noise (orange)"
    )
    return figure


def draw_copies(tables: dict[str, dict[str, float]]) -> Figure:
    """A panel of bars for each table: how much the loss rises, by what was taken
    away."""
    figure, grid = plt.subplots(1, len(tables), figsize=(11, 3.8))
    for axes, (title, rises) in zip(grid, tables.items(), strict=True):
        is_trained = ["trained" in name for name in rises]
        colors = np.where(is_trained, "#D55E00", "#0072B2")
        axes.barh(list(rises), list(rises.values()), color=colors)
        # Right of all bars, also of those that fall: on their left stand the names.
        for row, value in enumerate(rises.values()):
            axes.text(max(value, 0), row, f" {value:.2f}", va="center", fontsize=9)
        axes.margins(x=0.12)
        axes.set(title=title, xlabel="rise of the held-out loss")
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
    figure.suptitle("Permuted (blue) or trained without (orange)")
    return figure


def export(networks: keras.Model, example: np.ndarray, run: Run) -> None:
    """The mean probability of the networks."""
    probability = ops.mean(ops.sigmoid(networks.output), axis=-1)
    service = keras.Model(networks.input, {"probability_benign": probability})
    run.export(service, example=example)


def measure_copy(
    networks: keras.Model,
    of_x4: tuple[float, float],
    without_x4: float,
    table: Table,
    orders: np.ndarray,
) -> Copied:
    """networks: those that see x4 and its copy. of_x4: what x4 counts where no copy is,
    permuted and trained without. without_x4: the rise where the copy stays."""
    groups = [[COPIED], [COPY], [COPIED, COPY]]
    rises = rise_if_permuted(networks, table, orders, groups, squared_error)
    beside_copy, copy, both = rises.mean(axis=1)
    alone, without_both = of_x4
    return Copied(alone, beside_copy, copy, both, without_both, without_x4)


def look_at_friedman(config: Config, random: np.random.Generator, run: Run) -> Copied:
    table, scale = draw_friedman(config, random)
    # No copy; a copy; no copy and one column less; a copy in place of x₄.
    one_less = [[column, COPY] for column in range(COPY)]
    left_out = [[COPY], [], *one_less, [COPIED]]
    trained = train(table, left_out, "mse", config.epochs, config, run)
    without_copy = trained.group(0)
    with_copy = trained.group(1)
    losses = trained.losses(table, squared_error)
    run.metric("test_r2", 1 - losses[0].mean() / table.y_test.var())

    orders = draw_orders(table, config.repeats, random)
    found = measure_friedman(without_copy, losses[0], losses[2:-1], table, orders)
    exact = truth(COPY, random) / scale**2
    run.figure("importances", draw_importances(found, exact))
    judge_ranks(found, table, run)
    judge_permutation(found["permuted"].mean(axis=1), exact, run)

    of_x4 = found["permuted"][COPIED].mean(), found["trained without"][COPIED].mean()
    without_x4 = (losses[-1] - losses[1]).mean()
    copied = measure_copy(with_copy, of_x4, without_x4, table, orders)
    judge_copy(copied, run)
    return copied


def main(config: Config, run: Run) -> None:
    run.plan(2)
    random = np.random.default_rng(run.seed)
    copied = look_at_friedman(config, random, run)

    table = load_tumors()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    left_out = [[], columns_of_size(table)]
    epochs = math.ceil(config.epochs / 2)
    trained = train(table, left_out, loss, epochs, config, run)
    networks = trained.group(0)
    losses = trained.losses(table, log_loss)

    orders = draw_orders(table, config.repeats, random)
    of_size = measure_size(networks, losses, table, orders)
    judge_size(of_size, run)
    tables = {
        "A column of Friedman's and a copy": copied.bars(),
        "Breast cancer: columns that tell of size": of_size.bars(),
    }
    run.figure("copies", draw_copies(tables))
    export(networks, table.x_test[:3], run)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
