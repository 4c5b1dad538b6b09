"""Learning the learning rate: the gradient of a whole training.

T steps of gradient descent, w ← w − α ∇l(w), are a program like any other, so what
comes out, the validation loss L(w_T), has a derivative by what went in: ∂L/∂α, the
hypergradient. Reverse mode runs through the unrolled steps backwards and through each
step's own gradient, which takes second derivatives, for every learning rate at once:
here one for each layer. Descend along it, each time from new weights on new batches,
and the rates train themselves.
Look at the path of the rates through the landscape that a grid search has to visit
point by point.

Lectures: N18 2.2.2 Meta-Optimization, 2.1 Basic Autodiff (autodiff of autodiff)
Paper: Maclaurin, Duvenaud and Adams, Gradient-based hyperparameter optimization through
    reversible learning, 2015 (section 3); Wu et al., Understanding short-horizon bias,
    2018
Tags: meta-learning, hypergradient, learning to learn, hyperparameter optimization,
    unrolled optimization, bilevel optimization
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    steps: int = 20
    """T, steps of gradient descent that are differentiated through"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    meta_steps: int = 40
    """steps of the learning rates, each by the hypergradients of eight trainings"""
    meta_learning_rate: float = 0.3
    """of Adam, for the logarithms of the learning rates; it falls to 0 along a
    cosine"""
    start: float = 0.01
    """learning rate of every layer at first"""
    grid: Annotated[int, Interval(ge=2)] = 13
    """learning rates, in each direction, that a grid search tries between 0.001 and
    30"""


QUICK = Config(meta_steps=30, grid=9)
FULL = Config(steps=100, meta_steps=100, grid=25)

AVERAGED = 8  # trainings whose hypergradients make a step of the learning rates
# trainings that a final loss is the median of, from weights nobody has tuned for
TRIALS = 10


def build_model(dtype: str = "float32") -> keras.Model:
    """Input: (batch, 64) pixels in [0, 1]. Output: (batch, 10) logits."""
    pixels = keras.Input((64,), dtype=dtype, name="x")
    hidden = layers.Dense(32, activation="tanh", dtype=dtype, name="hidden")(pixels)
    return keras.Model(
        pixels, layers.Dense(10, dtype=dtype, name="logits")(hidden), name="mlp"
    )


def loss_of(model: keras.Model, weights: list[tf.Tensor], x, y):
    """Mean cross-entropy, in nats, of the model with these weights in place of its
    own."""
    logits, _ = model.stateless_call(weights, [], x)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def descend(
    model: keras.Model, weights: list[tf.Tensor], rates, batches
) -> list[tf.Tensor]:
    """The weights after one step of gradient descent on each batch. rates: (layers,);
    batches: x (steps, batch, 64) and y (steps, batch)."""
    for x, y in zip(*map(tf.unstack, batches), strict=True):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = loss_of(model, weights, x, y)
        gradients = tape.gradient(loss, weights)
        # Weights come as kernel, bias, kernel, bias: two for each layer.
        weights = [
            weight - rates[index // 2] * gradient
            for index, (weight, gradient) in enumerate(
                zip(weights, gradients, strict=True)
            )
        ]
    return weights


def hypergradient(model: keras.Model, log_rates, weights, batches, held_out):
    """The loss on `held_out` (x, y) after training, and its gradient by the logarithms
    of the learning rates (layers,)."""
    with tf.GradientTape() as tape:
        tape.watch(log_rates)
        trained = descend(model, weights, tf.exp(log_rates), batches)
        loss = loss_of(model, trained, *held_out)
    return loss, tape.gradient(loss, log_rates)


def draw_start(random: np.random.Generator, model: keras.Model) -> list[np.ndarray]:
    """New weights: Glorot's for kernels (inputs, outputs), 0 for biases."""
    reach = {each.shape: np.sqrt(6 / sum(each.shape)) for each in model.weights}
    return [
        random.uniform(-reach[each.shape], reach[each.shape], each.shape).astype(
            each.dtype
        )
        if len(each.shape) > 1
        else np.zeros(each.shape, each.dtype)
        for each in model.weights
    ]


def draw_batches(random: np.random.Generator, x, y, steps: int, batch_size: int):
    """x (steps, batch, 64) and y (steps, batch), drawn with replacement."""
    rows = random.integers(len(x), size=(steps, batch_size))
    return x[rows], y[rows]


def plot_path(
    grid: np.ndarray, losses: np.ndarray, path: np.ndarray, best
) -> plt.Figure:
    """The rates' way through the final loss. losses: (grid of layer 2, grid of layer
    1)."""
    figure, axes = plt.subplots(figsize=(7.5, 5))
    # What is worse than knowing nothing is all the same.
    shown = np.minimum(np.nan_to_num(losses, nan=np.inf), np.log(10) * 1.1)
    filled = axes.contourf(grid, grid, shown, 24, cmap="cividis_r")
    white = {"color": "white", "markeredgecolor": "black"}
    axes.plot(*path.T, "w-", linewidth=1.5)
    axes.plot(
        *path.T, "o", color="#D55E00", markersize=3.5, label="path of the hypergradient"
    )
    axes.plot(*path[0], "s", markersize=9, label="start", **white)
    axes.plot(*path[-1], "*", markersize=16, label="learned", **white)
    axes.plot(grid, grid, ":", color="black", label="one rate for both layers")
    axes.plot(best, best, "X", markersize=10, label="best of these", **white)
    axes.set(
        xscale="log",
        yscale="log",
        title="Held-out loss after training, by learning rates",
    )
    axes.set(
        xlabel="learning rate of the hidden layer",
        ylabel="learning rate of the last layer",
    )
    axes.set(xlim=grid[[0, -1]], ylim=grid[[0, -1]])
    figure.legend(loc="outside lower center", ncols=3, fontsize=10)
    figure.colorbar(filled, label="cross-entropy (nats); cut off at chance")
    return figure


def plot_search(
    grid, line: list[float], learned: float, losses: np.ndarray
) -> plt.Figure:
    """Held-out loss after training: by one rate for all layers, and while the rates
    learn."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), sharey=True)
    left.semilogx(grid, line, "o-", label="one rate for all layers")
    left.axhline(learned, color="#D55E00", linestyle="--", label="learned rates")
    left.set(
        xlabel="learning rate", ylabel="held-out cross-entropy (nats)", ylim=(0, 2.6)
    )
    left.set_title(f"A grid search (median of {TRIALS} trainings)")
    left.legend(loc="lower left")
    right.plot(np.arange(1, len(losses) + 1), losses, color="#D55E00")
    right.set(
        xlabel="step of the learning rates",
        title=f"The rates learn (median of {AVERAGED})",
    )
    return figure


def main(config: Config, run: Run) -> None:
    (x, y), (x_test, y_test) = data.load("digits")
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    half = len(x) // 2  # the weights learn from one half, the rates from the other
    held_out, test = (x[half:], y[half:]), (x_test, y_test)
    model, random = build_model(), np.random.default_rng(run.seed)

    def draw(steps: int = config.steps):
        batches = draw_batches(random, x[:half], y[:half], steps, config.batch_size)
        return draw_start(random, model), batches

    # The rates' own training. Beyond the cliff where training diverges a gradient is
    # thousands of times as long as before it: each is cut, several are averaged, the
    # steps get smaller.
    start = np.full(2, np.log(config.start), "float32")
    log_rates = keras.Variable(start, name="log_rates")
    schedule = keras.optimizers.schedules.CosineDecay(
        config.meta_learning_rate, config.meta_steps
    )
    optimizer = keras.optimizers.Adam(schedule, beta_1=0.5, beta_2=0.9)
    optimizer.build([log_rates])
    compiled = tf.function(hypergradient, reduce_retracing=True)
    path, losses = (
        np.full((config.meta_steps + 1, 2), config.start),
        np.zeros(config.meta_steps),
    )
    state = {"rates": [log_rates, optimizer], "random": random, "found": [path, losses]}
    step = 0
    show = lambda: dict(zip(("hidden", "last"), path[step + 1], strict=True))  # noqa: E731
    for step in run.loop("learning rates", config.meta_steps, state, show=show):
        found = [
            compiled(model, log_rates.value, *draw(), held_out) for _ in range(AVERAGED)
        ]
        gradient = tf.reduce_mean(
            [tf.clip_by_norm(each, 0.5) for _, each in found], axis=0
        )
        optimizer.apply([gradient], [log_rates])
        losses[step] = np.median([loss for loss, _ in found])
        path[step + 1] = np.exp(log_rates)
    stop = int(losses.argmin())  # early stopping: a step too far leads over the cliff
    learned = path[stop]

    # What a search costs: the same trainings at every point of a grid.
    @tf.function(reduce_retracing=True)
    def final_loss(rates, weights, batches, x, y):
        return loss_of(model, descend(model, weights, rates, batches), x, y)

    trials = [draw() for _ in range(TRIALS)]
    grid = np.geomspace(1e-3, 30, config.grid)

    def typical_loss(rates, pairs, trials=trials) -> float:
        """The median: near the cliff one training of many diverges, and would be all of
        a mean."""
        rates = tf.constant(rates, tf.float32)
        return float(np.median([final_loss(rates, *trial, *pairs) for trial in trials]))

    line = [typical_loss([rate, rate], held_out) for rate in grid]
    best = grid[np.nanargmin(line)]
    run.figure(
        "search", plot_search(grid, line, typical_loss(learned, held_out), losses)
    )
    rows = run.track(grid, "grid search", unit="rates")
    surface = np.array(
        [[typical_loss([a, b], held_out, trials[:1]) for a in grid] for b in rows]
    )
    run.figure("path", plot_path(grid, surface, path[: stop + 1], best))

    start_loss, best_loss, learned_loss = (
        typical_loss(rates, test) for rates in ([config.start] * 2, [best] * 2, learned)
    )
    run.metric("test_loss", learned_loss, unit="nats")
    run.metric("start_test_loss", start_loss, unit="nats")
    run.metric("grid_test_loss", best_loss, unit="nats")
    run.metric("learning_rate_hidden", learned[0])
    run.metric("learning_rate_last", learned[1])
    run.claim(
        "A training can be differentiated by its learning rates, and they learn",
        holds=learned_loss < 0.5 * start_loss,
        measured=f"test loss after {config.steps} steps {start_loss:.3f} nats at {config.start:g}, "
        f"{learned_loss:.3f} at the learned {learned[0]:.2f} and {learned[1]:.2f}",
    )
    run.claim(
        "One rate for each layer, learned, does as well as the best of a grid of rates for both",
        holds=learned_loss < 1.1 * best_loss,
        measured=f"test loss {learned_loss:.3f} nats after {AVERAGED * config.meta_steps} "
        f"trainings; {best_loss:.3f} with {best:.2g} for both, the best of {config.grid}",
    )
    exact = build_model("float64")
    weights = [tf.constant(each) for each in draw_start(random, exact)]
    batch_x, batch_y = draw(5)[1]
    pairs = (batch_x.astype("float64"), batch_y), tuple(each[:200] for each in held_out)
    at, width = np.log([0.3, 0.7]), 1e-5
    _, gradient = hypergradient(exact, tf.constant(at), weights, *pairs)
    losses_beside = [
        [
            float(hypergradient(exact, tf.constant(at + sign), weights, *pairs)[0])
            for sign in row
        ]
        for row in np.stack([np.eye(2), -np.eye(2)], axis=1) * width
    ]
    differences = np.array([(up - down) / (2 * width) for up, down in losses_beside])
    error = np.abs(gradient / differences - 1).max()
    run.claim(
        "The hypergradient is the derivative of the final loss",
        holds=error < 1e-5,
        measured=f"relative difference {error:.1e} from central differences, in float64",
    )
    weights, batches = trials[0]
    weights, rates = (
        [tf.constant(each) for each in weights],
        tf.constant(learned, tf.float32),
    )
    model.set_weights(descend(model, weights, rates, batches))
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
