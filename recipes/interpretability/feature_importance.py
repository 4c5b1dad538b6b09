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


def friedman(x: np.ndarray) -> np.ndarray:
    """Friedman's function of columns (rows, 5 or more) in [0, 1], without noise.
    (rows,)"""
    interaction, bowl = np.sin(np.pi * x[:, 0] * x[:, 1]), (x[:, 2] - 0.5) ** 2
    return 10 * interaction + 20 * bowl + 10 * x[:, 3] + 5 * x[:, 4]


def build_stack(masks: np.ndarray, units: int) -> keras.Model:
    """Independent networks side by side, each on the columns that its row of `masks`
    (networks, columns; 0 or 1) leaves it. Output: (batch, networks). Adam does not
    mind the scale of a gradient, so the mean of all losses teaches each as if it
    were alone."""
    networks, columns = masks.shape
    x = keras.Input((columns,), name="columns")
    hidden = ops.expand_dims(x, 1) * masks.astype("float32")
    for inputs, outputs in ((columns, units), (units, units), (units, 1)):
        hidden = layers.EinsumDense(
            "bni,nio->bno",
            (networks, outputs),
            bias_axes="no",
            activation=None if outputs == 1 else "relu",
            # He's: the ready-made one would count the networks as inputs.
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=math.sqrt(2 / inputs)
            ),
        )(hidden)
    return keras.Model(x, ops.squeeze(hidden, -1))


def select(stack: keras.Model, masks: np.ndarray, chosen: np.ndarray) -> keras.Model:
    """A stack of its own of the `chosen` networks (their numbers)."""
    smaller = build_stack(masks[chosen], stack.layers[-2].get_weights()[0].shape[1])
    smaller.set_weights([weights[chosen] for weights in stack.get_weights()])
    return smaller


def squared_error(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Means over the rows: y (rows,), outputs (..., rows, networks) to (...,
    networks)."""
    return ((y[:, None] - outputs) ** 2).mean(axis=-2)


def log_loss(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Means of −log p of labels 0 and 1, of the same shapes."""
    return (np.logaddexp(0, logits) - y[:, None] * logits).mean(axis=-2)


def rise(stack: keras.Model, x: np.ndarray, y: np.ndarray, changed: np.ndarray, loss):
    """How much the mean loss rises from x (rows, columns) to changed (..., rows,
    columns): (..., networks)."""
    rows = np.concatenate([x, changed.reshape(-1, x.shape[1])])
    outputs = [
        stack(part) for part in np.array_split(rows, math.ceil(len(rows) / 10_000))
    ]
    losses = loss(
        y, np.concatenate(outputs).reshape(-1, len(x), stack.output.shape[-1])
    )
    return (losses[1:] - losses[0]).reshape(*changed.shape[:-2], -1)


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
    return np.where(np.eye(x.shape[1], dtype=bool)[:, None], x.mean(axis=0), x)


def slopes(stack: keras.Model, x: np.ndarray) -> np.ndarray:
    """∂f/∂x at each row, times the column's standard deviation: (rows, networks,
    columns)."""
    inputs = tf.Variable(x, dtype=tf.float32)
    with tf.GradientTape() as tape:
        outputs = stack(inputs)
    return tape.batch_jacobian(outputs, inputs).numpy() * x.std(axis=0)


def truth(
    columns: int, random: np.random.Generator, samples: int = 200_000
) -> np.ndarray:
    """What permuting each column costs Friedman's own function: (columns,)."""
    x, other = random.random((2, samples, columns))
    changed = [np.where(np.arange(columns) == j, other, x) for j in range(columns)]
    return np.array([np.mean((friedman(x) - friedman(each)) ** 2) for each in changed])


def plot_importances(found: dict, exact: np.ndarray, names: list[str]) -> plt.Figure:
    """Each method's importances (columns, networks) as shares of the largest, with
    their spread."""
    figure, panels = plt.subplots(1, len(found), figsize=(11, 3.8), sharey=True)
    colors = ["#0072B2" if j < NEEDED else "#E69F00" for j in range(len(names))]
    for axes, (title, values) in zip(panels, found.items(), strict=True):
        scale = values.mean(axis=1).max()
        mean, spread = values.mean(axis=1) / scale, values.std(axis=1) / scale
        axes.barh(names, mean, xerr=spread, color=colors, error_kw={"elinewidth": 1})
        if title == "permuted":
            axes.plot(
                exact / exact.max(),
                names,
                "k|",
                markersize=13,
                label="the true function's",
            )
            axes.legend(loc="lower right", fontsize=9)
        axes.set(title=title, xlabel="share of the largest")
        axes.grid(axis="y", visible=False)
    panels[0].invert_yaxis()
    figure.suptitle(
        "Friedman's table: five columns that matter (blue) and five of noise (orange)"
    )
    return figure


def plot_copies(panels: dict[str, dict[str, float]]) -> plt.Figure:
    """A panel of bars for each table: how much the loss rises, by what was taken
    away."""
    figure, both = plt.subplots(1, len(panels), figsize=(11, 3.8))
    for axes, (title, rises) in zip(both, panels.items(), strict=True):
        colors = ["#D55E00" if "trained" in name else "#0072B2" for name in rises]
        bars = axes.barh(list(rises), list(rises.values()), color=colors)
        axes.bar_label(bars, fmt=" %.2f ", fontsize=9)
        axes.margins(x=0.12)
        axes.set(title=title, xlabel="rise of the held-out loss")
        axes.grid(axis="y", visible=False)
        axes.invert_yaxis()
    figure.suptitle("Permuted (blue) or trained without (orange)")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2)
    random = np.random.default_rng(run.seed)
    half, starts = config.examples // 2, config.restarts
    # The last column is a copy of x₄.
    x = random.random((config.examples, 2 * NEEDED))[:, [*range(2 * NEEDED), 3]]
    y = friedman(x) + random.normal(size=len(x))
    x = (x - x[:half].mean(axis=0)) / x[:half].std(axis=0)
    scale = y[:half].std()
    y = (y - y[:half].mean()) / scale
    x_train, y_train, x_test, y_test = x[:half], y[:half], x[half:], y[half:]
    copy = x.shape[1] - 1

    def train(left_out, x, y, loss, epochs):
        """A stack with `starts` networks for each list of columns that are left out."""
        rows = [[j not in group for j in range(x.shape[1])] for group in left_out]
        masks = np.repeat(np.array(rows, float), starts, axis=0)
        stack = build_stack(masks, config.units)
        steps = epochs * math.ceil(len(x) / config.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        stack.compile(keras.optimizers.AdamW(rate, weight_decay=0.1), loss)
        sizes = {
            "epochs": epochs,
            "batch_size": config.batch_size,
            "callbacks": run.callbacks,
        }
        training.fit(stack, x, np.repeat(y[:, None], len(masks), axis=1), **sizes)
        return stack, [
            select(stack, masks, np.arange(k, k + starts)) for k in (0, starts)
        ]

    # Without the copy; with it; without it and one more column; with it instead of x₄.
    left_out = [[copy], [], *([j, copy] for j in range(copy)), [3]]
    stack, (single, double) = train(left_out, x_train, y_train, "mse", config.epochs)
    losses = squared_error(y_test, np.asarray(stack(x_test))).reshape(-1, starts)
    orders = np.array([random.permutation(half) for _ in range(config.repeats)])
    one_by_one = permuted(x_test, orders, [[j] for j in range(copy)])
    found = {
        "trained without": losses[2:-1] - losses[0],
        "mean in its place": rise(
            single, x_test, y_test, without(x_test), squared_error
        )[:copy],
        "permuted": rise(single, x_test, y_test, one_by_one, squared_error).mean(
            axis=1
        ),
        "sensitivity": np.abs(slopes(single, x_test)).mean(axis=0).T[:copy],
    }
    mean = {method: values.mean(axis=1) for method, values in found.items()}
    exact = truth(copy, random) / scale**2
    error = np.abs(mean["permuted"] - exact)[:NEEDED].sum() / exact.sum()
    run.metric("relative_error_of_permutation_importance", error)
    run.metric("test_r2", 1 - losses[0].mean() / y_test.var())
    names = [
        f"x{j}" if j <= NEEDED else f"noise {j - NEEDED}" for j in range(1, copy + 1)
    ]
    run.figure("importances", plot_importances(found, exact, names))
    limits = {name: (v[:NEEDED].min(), v[NEEDED:].max()) for name, v in mean.items()}
    run.claim(
        "Each of the four methods ranks all planted noise last",
        holds=all(least > 1.2 * most for least, most in limits.values()),
        measured="least of the five columns, most of the noise: "
        + "; ".join(
            f"{m} {least:.2f}, {most:.2f}" for m, (least, most) in limits.items()
        ),
    )
    run.claim(
        "Permutation of a network finds what the true function's would, within a fifth",
        holds=error < 0.2,
        measured=f"x1 to x5 {mean['permuted'][:NEEDED].round(2)}, true {exact[:NEEDED].round(2)}",
    )
    changed = permuted(x_test, orders, [[3], [copy], [3, copy]])
    *shared, both = rise(double, x_test, y_test, changed, squared_error).mean(
        axis=(1, 2)
    )
    retrained, alone = (losses[-1] - losses[1]).mean(), mean["permuted"][3]
    anew = mean["trained without"][3]
    run.claim(
        "A copy hides a column: alone each counts less than half, and trained without it, nothing",
        holds=np.mean(shared) < 0.5 * alone < 0.6 * both and retrained < 0.1 * anew,
        measured=f"x4 {alone:.2f}; beside its copy {shared[0]:.2f}, the copy {shared[1]:.2f}, both "
        f"together {both:.2f}; trained without {anew:.2f}, where the copy stays {retrained:.3f}",
    )
    names = [
        "x4 without a copy",
        "x4 beside its copy",
        "the copy beside x4",
        "x4 and its copy",
    ]
    names += ["trained without both", "trained without x4"]
    copies = dict(zip(names, [alone, *shared, both, anew, retrained], strict=True))

    # A real table: 30 columns, seven of which go with the tumour's size.
    (x_train, y_train), (x_test, y_test) = data.load_table("breast_cancer")
    center, spread = x_train.mean(axis=0), x_train.std(axis=0)
    x_train, x_test = (x_train - center) / spread, (x_test - center) / spread
    size = np.flatnonzero(np.abs(np.corrcoef(x_train.T))[0] > 0.8).tolist()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    stack, (network, _) = train(
        [[], size], x_train, 1.0 * y_train, loss, math.ceil(config.epochs / 2)
    )
    losses = log_loss(y_test, np.asarray(stack(x_test))).reshape(-1, starts)
    anew = (losses[1] - losses[0]).mean()
    orders = np.array([random.permutation(len(x_test)) for _ in range(config.repeats)])
    changed = permuted(x_test, orders, [*([j] for j in size), size])
    *singles, together = rise(network, x_test, y_test, changed, log_loss).mean(
        axis=(1, 2)
    )
    names = data.feature_names("breast_cancer")
    table = {names[j]: value for j, value in zip(size, singles, strict=True)}
    table |= {"together": together, "trained without": anew}
    titles = (
        "A column of Friedman's and a copy",
        "Breast cancer: columns that tell of size",
    )
    run.figure("copies", plot_copies(dict(zip(titles, (copies, table), strict=True))))
    run.claim(
        "Near copies hide each other: permuted together they count many times their sum, and yet "
        "a network that never sees them does as well",
        holds=together > max(3 * sum(singles), 10 * max(singles))
        and anew < 0.3 * together,
        measured=f"breast cancer, rise of the log loss: {len(size)} columns of size one by one "
        f"{sum(singles):.3f} in all, together {together:.3f}, never seen {anew:.3f}",
    )
    outputs = {"probability_benign": ops.mean(ops.sigmoid(network.output), axis=-1)}
    run.export(keras.Model(network.input, outputs), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
