"""Learning the learning rate: the gradient of a whole training.

T steps of gradient descent, w ← w − α ∇l(w), are a program like any other, so what
comes out, the validation loss L(w_T), has a derivative by what went in: ∂L/∂α, the
hypergradient. Reverse mode runs through the unrolled steps backwards and through each
step's own gradient, which takes second derivatives, for every learning rate at once:
here one for each layer. Descend along it, each time from new weights on new batches,
and the rates train themselves.
Look at the path of the rates through the landscape that a grid search has to visit
point by point: with two rates a grid of as many trainings finds better ones, but it
grows as a power of the number of rates.

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
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving
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
    30, three trainings at each point"""


QUICK = Config(meta_steps=30, grid=9)
FULL = Config(steps=100, meta_steps=100, grid=25)


# --------------------------------------------------------------------------------------
# The idea: a training is a function of its learning rates
# --------------------------------------------------------------------------------------

LAYERS = 2


def build_model(dtype: str = "float32") -> keras.Model:
    """Input: (batch, 64) pixels in [0, 1]. Output: (batch, 10) logits."""
    pixels = keras.Input((64,), dtype=dtype, name="x")
    hidden = layers.Dense(32, activation="tanh", dtype=dtype, name="hidden")(pixels)
    logits = layers.Dense(10, dtype=dtype, name="logits")(hidden)
    return keras.Model(pixels, logits, name="mlp")


def loss_of(model: keras.Model, weights: list[tf.Tensor], x, y):
    """Mean cross-entropy, in nats, of the model with these weights in place of its
    own."""
    logits, _ = model.stateless_call(weights, [], x)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def step(model: keras.Model, weights: list[tf.Tensor], rates, x, y) -> list[tf.Tensor]:
    """w − α ∇l(w), with an α of each layer. rates: (layers,)."""
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = loss_of(model, weights, x, y)
    gradients = tape.gradient(loss, weights)
    # Weights come as kernel, bias, kernel, bias: two for each layer.
    rate_of = [rates[index // 2] for index in range(len(weights))]
    return [
        weight - rate * gradient
        for weight, rate, gradient in zip(weights, rate_of, gradients, strict=True)
    ]


def descend(
    model: keras.Model, weights: list[tf.Tensor], rates, batches
) -> list[tf.Tensor]:
    """The weights after one step of gradient descent on each batch. batches: x (steps,
    batch, 64) and y (steps, batch)."""
    for x, y in zip(*map(tf.unstack, batches), strict=True):
        weights = step(model, weights, rates, x, y)
    return weights


def final_loss(model: keras.Model, rates, weights, batches, held_out):
    """The loss on `held_out` (x, y) after training."""
    trained = descend(model, weights, rates, batches)
    return loss_of(model, trained, *held_out)


def hypergradient(model: keras.Model, log_rates, weights, batches, held_out):
    """The loss after training, and its gradient by the logarithms of the learning rates
    (layers,)."""
    with tf.GradientTape() as tape:
        tape.watch(log_rates)
        loss = final_loss(model, tf.exp(log_rates), weights, batches, held_out)
    return loss, tape.gradient(loss, log_rates)


def draw_start(random: np.random.Generator, model: keras.Model) -> list[np.ndarray]:
    """New weights: Glorot's for kernels (inputs, outputs), 0 for biases."""
    start = []
    for weight in model.weights:
        is_kernel = len(weight.shape) > 1
        if is_kernel:
            reach = np.sqrt(6 / sum(weight.shape))
            drawn = random.uniform(-reach, reach, weight.shape)
        else:
            drawn = np.zeros(weight.shape)
        start.append(drawn.astype(weight.dtype))
    return start


def draw_batches(random: np.random.Generator, x, y, steps: int, batch_size: int):
    """x (steps, batch, 64) and y (steps, batch), drawn with replacement."""
    rows = random.integers(len(x), size=(steps, batch_size))
    return x[rows], y[rows]


# --------------------------------------------------------------------------------------
# The experiment: rates that learn, beside grids of rates
# --------------------------------------------------------------------------------------

AVERAGED = 8  # trainings whose hypergradients make a step of the learning rates
# trainings that a final loss is the median of, from weights nobody has tuned for
TRIALS = 10
TRIALS_OF_A_POINT = 3  # of the grid of both rates
LONGEST = 0.5  # that a hypergradient is cut to


@dataclass
class Trial:
    """A training to come: where it starts, and what it sees."""

    weights: list[np.ndarray]
    batches: tuple[np.ndarray, np.ndarray]


@dataclass
class Task:
    x: np.ndarray
    """images that the weights learn from"""
    y: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]
    """images and labels that the rates learn from"""
    test: tuple[np.ndarray, np.ndarray]
    model: keras.Model
    random: np.random.Generator
    config: Config

    def draw_trial(self) -> Trial:
        config = self.config
        batches = draw_batches(
            self.random, self.x, self.y, config.steps, config.batch_size
        )
        return Trial(draw_start(self.random, self.model), batches)


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    half = len(x) // 2  # the weights learn from one half, the rates from the other
    return Task(
        x=x[:half],
        y=y[:half],
        held_out=(x[half:], y[half:]),
        test=(x_test, y_test),
        model=build_model(),
        random=np.random.default_rng(run.seed),
        config=config,
    )


@dataclass
class Learned:
    """What the rates did while they learned."""

    path: np.ndarray
    """(steps + 1, layers), from the start on"""
    losses: np.ndarray
    """held-out, the median of the trainings at each point of the path, (steps,)"""

    @property
    def stop(self) -> int:
        """Early stopping: a step too far leads over the cliff."""
        return int(self.losses.argmin())

    @property
    def rates(self) -> np.ndarray:
        return self.path[self.stop]


def learn_rates(task: Task, run: Run) -> Learned:
    """Beyond the cliff where training diverges a gradient is thousands of times as long
    as before it: each is cut, several are averaged, the steps get smaller."""
    config = task.config
    start = np.full(LAYERS, np.log(config.start), "float32")
    log_rates = keras.Variable(start, name="log_rates")
    schedule = keras.optimizers.schedules.CosineDecay(
        config.meta_learning_rate, config.meta_steps
    )
    optimizer = keras.optimizers.Adam(schedule, beta_1=0.5, beta_2=0.9)
    optimizer.build([log_rates])
    compiled = tf.function(hypergradient, reduce_retracing=True)

    path = np.full((config.meta_steps + 1, LAYERS), config.start)
    losses = np.zeros(config.meta_steps)
    state = {
        "rates": [log_rates, optimizer],
        "random": task.random,
        "found": [path, losses],
    }
    shown: dict[str, float] = {}
    for number in run.loop(
        "learning rates", config.meta_steps, state, show=lambda: shown
    ):
        gradients = []
        final_losses = []
        for _ in range(AVERAGED):
            trial = task.draw_trial()
            loss, gradient = compiled(
                task.model, log_rates.value, trial.weights, trial.batches, task.held_out
            )
            gradients.append(tf.clip_by_norm(gradient, LONGEST))
            final_losses.append(loss)
        optimizer.apply([tf.reduce_mean(gradients, axis=0)], [log_rates])

        losses[number] = np.median(final_losses)
        path[number + 1] = np.exp(log_rates)
        shown["hidden"], shown["last"] = path[number + 1]
    return Learned(path, losses)


class Judge:
    """Final losses of rates, in trainings that nothing was tuned for."""

    def __init__(self, task: Task):
        self.task = task
        self.trials = [task.draw_trial() for _ in range(TRIALS)]
        self.compiled = tf.function(final_loss, reduce_retracing=True)

    def loss(self, rates, pairs, trials: int = TRIALS) -> float:
        """The median: near the cliff one training of many diverges, and would be all of
        a mean. rates: (layers,); pairs: x and y to measure on."""
        rates = tf.constant(rates, tf.float32)
        losses = [
            self.compiled(self.task.model, rates, trial.weights, trial.batches, pairs)
            for trial in self.trials[:trials]
        ]
        return float(np.median(losses))


@dataclass
class Grid:
    """Held-out losses that a search finds."""

    rates: np.ndarray
    """(points,), in each direction"""
    line: np.ndarray
    """with one rate for both layers, (points,)"""
    surface: np.ndarray
    """(rates of the last layer, rates of the hidden one)"""

    @property
    def best_shared(self) -> np.ndarray:
        """One rate for both layers, twice."""
        return np.full(LAYERS, self.rates[np.nanargmin(self.line)])

    @property
    def best_pair(self) -> np.ndarray:
        place = np.nanargmin(self.surface)
        last, hidden = np.unravel_index(place, self.surface.shape)
        return self.rates[[hidden, last]]


def search(judge: Judge, task: Task, run: Run) -> Grid:
    """What a search costs: the same trainings at every point of a grid."""
    rates = np.geomspace(1e-3, 30, task.config.grid)
    line = [judge.loss([rate, rate], task.held_out) for rate in rates]
    surface = []
    for last in run.track(rates, "grid search", unit="rates"):
        row = [
            judge.loss([hidden, last], task.held_out, TRIALS_OF_A_POINT)
            for hidden in rates
        ]
        surface.append(row)
    return Grid(rates, np.array(line), np.array(surface))


def judge_rates(learned: Learned, grid: Grid, judge: Judge, run: Run) -> None:
    task = judge.task
    config = task.config
    start_loss = judge.loss(np.full(LAYERS, config.start), task.test)
    shared_loss = judge.loss(grid.best_shared, task.test)
    pair_loss = judge.loss(grid.best_pair, task.test)
    learned_loss = judge.loss(learned.rates, task.test)
    hidden, last = learned.rates
    run.metric("test_loss", learned_loss, unit="nats")
    run.metric("start_test_loss", start_loss, unit="nats")
    run.metric("grid_test_loss", shared_loss, unit="nats")
    run.metric("grid_of_pairs_test_loss", pair_loss, unit="nats")
    run.metric("learning_rate_hidden", hidden)
    run.metric("learning_rate_last", last)
    run.claim(
        "A training can be differentiated by its learning rates, and they learn",
        holds=learned_loss < 0.5 * start_loss,
        measured=f"test loss after {config.steps} steps {start_loss:.3f} nats at "
        f"{config.start:g}, {learned_loss:.3f} at the learned {hidden:.2f} and "
        f"{last:.2f}",
    )
    run.claim(
        "One rate for each layer, learned, does as well as the best of a grid of rates "
        "for both; a grid of pairs of rates, with about as many trainings, finds better "
        "ones",
        holds=learned_loss < 1.1 * shared_loss and pair_loss < 0.95 * learned_loss,
        measured=f"test loss {learned_loss:.3f} nats after "
        f"{AVERAGED * config.meta_steps} trainings; {shared_loss:.3f} with "
        f"{grid.best_shared[0]:.2g} for both, the best of {config.grid} "
        f"({TRIALS * config.grid} trainings), {pair_loss:.3f} with "
        f"{grid.best_pair[0]:.2g} and {grid.best_pair[1]:.2g}, the best of "
        f"{config.grid**2} ({TRIALS_OF_A_POINT * config.grid**2} trainings)",
    )


def judge_derivative(task: Task, run: Run) -> None:
    """Beside central differences, in float64."""
    exact = build_model("float64")
    weights = [tf.constant(each) for each in draw_start(task.random, exact)]
    x, y = draw_batches(task.random, task.x, task.y, 5, task.config.batch_size)
    batches = (x.astype("float64"), y)
    held_out = tuple(each[:200] for each in task.held_out)
    at = np.log([0.3, 0.7])
    width = 1e-5

    _, gradient = hypergradient(exact, tf.constant(at), weights, batches, held_out)
    differences = []
    for direction in np.eye(LAYERS):
        above = tf.exp(tf.constant(at + width * direction))
        below = tf.exp(tf.constant(at - width * direction))
        up = final_loss(exact, above, weights, batches, held_out)
        down = final_loss(exact, below, weights, batches, held_out)
        differences.append(float(up - down) / (2 * width))
    error = np.abs(gradient / differences - 1).max()
    run.claim(
        "The hypergradient is the derivative of the final loss",
        holds=error < 1e-5,
        measured=f"relative difference {error:.1e} from central differences, in float64",
    )


def draw_path(learned: Learned, grid: Grid) -> Figure:
    """The rates' way through the final loss."""
    rates = grid.rates
    path = learned.path[: learned.stop + 1]
    # What is worse than knowing nothing is all the same.
    shown = np.minimum(np.nan_to_num(grid.surface, nan=np.inf), np.log(10) * 1.1)
    figure, axes = plt.subplots(figsize=(7.5, 5))
    filled = axes.contourf(rates, rates, shown, 24, cmap="cividis_r")
    axes.plot(*path.T, "w-", linewidth=1.5)
    axes.plot(
        *path.T, "o", color="#D55E00", markersize=3.5, label="path of the hypergradient"
    )
    axes.plot(rates, rates, ":", color="black", label="one rate for both layers")
    white = {"color": "white", "markeredgecolor": "black", "linestyle": "none"}
    axes.plot(*path[0], marker="s", markersize=9, label="start", **white)
    axes.plot(*path[-1], marker="*", markersize=16, label="learned", **white)
    axes.plot(
        *grid.best_shared, marker="X", markersize=10, label="best of these", **white
    )
    axes.plot(
        *grid.best_pair, marker="P", markersize=10, label="best of the grid", **white
    )
    axes.set(
        xscale="log",
        yscale="log",
        title="Held-out loss after training, by learning rates",
        xlabel="learning rate of the hidden layer",
        ylabel="learning rate of the last layer",
        xlim=rates[[0, -1]],
        ylim=rates[[0, -1]],
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=10)
    figure.colorbar(filled, label="cross-entropy (nats); cut off at chance")
    return figure


def draw_search(learned: Learned, grid: Grid, learned_loss: float) -> Figure:
    """Held-out loss after training: by one rate for all layers, and while the rates
    learn."""
    by_rate = figures.Panel(
        title=f"A grid search (median of {TRIALS} trainings)",
        xlabel="learning rate",
        ylabel="held-out cross-entropy (nats)",
        lines={"one rate for all layers": (grid.rates, grid.line)},
        levels={"learned rates": learned_loss},
        xscale="log",
        ylim=(0, 2.6),
    )
    by_step = figures.Panel(
        title=f"The rates learn (median of {AVERAGED})",
        xlabel="step of the learning rates",
        ylabel="held-out cross-entropy (nats)",
        lines={"": learned.losses},
        ylim=(0, 2.6),
    )
    return figures.panels(by_rate, by_step)


def main(config: Config, run: Run) -> None:
    task = load_task(config, run)
    learned = learn_rates(task, run)
    judge = Judge(task)
    grid = search(judge, task, run)
    judge_rates(learned, grid, judge, run)
    judge_derivative(task, run)

    run.figure("path", draw_path(learned, grid))
    learned_loss = judge.loss(learned.rates, task.held_out)
    run.figure("search", draw_search(learned, grid, learned_loss))

    first = judge.trials[0]
    weights = [tf.constant(each) for each in first.weights]
    rates = tf.constant(learned.rates, tf.float32)
    task.model.set_weights(descend(task.model, weights, rates, first.batches))
    run.export(serving.classifier(task.model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
