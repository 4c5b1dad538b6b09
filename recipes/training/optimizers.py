"""Optimizers: what each adds to "step against the gradient", and what it is good for.

Plain gradient descent takes w ← w − α·g. In a valley that is steep across and flat
along (a taco shell, whose Hessian has a large condition number) the rate α that the
steep side allows is far too small for the flat one. Momentum sums up what points the
same way, v ← ρ·v + g; Nesterov's looks ahead. AdaGrad, RMSprop and Adam divide each
weight's gradient by its usual size, g / √(mean of g²), so that flat directions get
larger steps; but only if the valley lies along the axes.
Look at the paths (trajectories.gif moves), at what happens to each optimizer as the
same valley is rotated, and at who is fast on digits.

Lectures: CS Problems with SGD, Momentum, AdaGrad, RMSProp, Adam; SEL Optimization; N18
    1.2 Training
Paper: Kingma and Ba, Adam: a method for stochastic optimization, 2015 (algorithm 1);
    Duchi et al., Adaptive subgradient methods, 2011; Sutskever et al., On the importance
    of initialization and momentum in deep learning, 2013 (Nesterov's, section 2)
Tags: sgd, momentum, nesterov, adagrad, rmsprop, adam, condition number, saddle point
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import animation
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    condition_number: Annotated[float, Interval(gt=1, le=1e4)] = 300.0
    """of the surfaces: the highest curvature, of the lowest"""
    steps: int = 1500
    """at most, on a surface"""
    rates: Annotated[int, Interval(ge=2)] = 13
    """learning rates that each optimizer may choose from, on digits"""
    starts: Annotated[int, Interval(ge=2)] = 8
    """random starts on digits; half of them choose the rate, the others are reported"""
    looks: int = 30
    """times that the loss on digits is looked at, after ten steps each"""
    batch_size: int = 64
    """digits a gradient is averaged over"""
    frames: int = 60
    """of the moving picture"""


QUICK = Config(condition_number=100, steps=600, rates=7, starts=4, looks=16, frames=8)
FULL = Config(rates=21, starts=20, looks=100, frames=120)

# --------------------------------------------------------------------------------------
# The idea: six ways to turn gradients into a step
# --------------------------------------------------------------------------------------

MOMENTUM = 0.9  # ρ, the share of the velocity that friction leaves
DECAY = 0.9  # of RMSprop's mean of squares
BETA_1 = 0.9  # of Adam's mean
BETA_2 = 0.999  # of Adam's mean of squares
EPSILON = 1e-7  # nothing is divided by zero

# Each function takes the gradient, what it remembers (arrays like the gradient, zero at
# first) and the number of the step (1, 2, ...). It returns the direction, of which the
# weights go `learning_rate` times the opposite way, and what it remembers now. NumPy
# arrays and tensors do alike.


def gradient_descent(gradient, memory, step):
    """keras.optimizers.SGD(learning_rate)"""
    return gradient, memory


def momentum(gradient, memory, step, left=MOMENTUM):
    """keras.optimizers.SGD(learning_rate, momentum=0.9)"""
    (velocity,) = memory
    velocity = left * velocity + gradient
    return velocity, (velocity,)


def nesterov(gradient, memory, step, left=MOMENTUM):
    """keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)

    The gradient belongs where the velocity will have carried the weights. Here the
    weights stand there already, and the direction goes on to the next such place.
    """
    (velocity,) = memory
    velocity = left * velocity + gradient
    return gradient + left * velocity, (velocity,)


def adagrad(gradient, memory, step):
    """keras.optimizers.Adagrad(learning_rate, initial_accumulator_value=0)

    The sum of squares only grows, so the steps only shrink.
    """
    (squares,) = memory
    squares = squares + gradient**2
    return gradient / (squares + EPSILON) ** 0.5, (squares,)


def rmsprop(gradient, memory, step):
    """keras.optimizers.RMSprop(learning_rate, rho=0.9)"""
    (squares,) = memory
    squares = DECAY * squares + (1 - DECAY) * gradient**2
    return gradient / (squares + EPSILON) ** 0.5, (squares,)


def adam_without_correction(gradient, memory, step):
    """Adam, were it not for the lines that make up for memories that begin at zero."""
    mean, squares = memory
    mean = BETA_1 * mean + (1 - BETA_1) * gradient
    squares = BETA_2 * squares + (1 - BETA_2) * gradient**2
    return mean / (squares**0.5 + EPSILON), (mean, squares)


def adam(gradient, memory, step):
    """keras.optimizers.Adam(learning_rate)"""
    _, (mean, squares) = adam_without_correction(gradient, memory, step)

    # After t steps the weights of the average add up to 1 − βᵗ, not to 1.
    unbiased_mean = mean / (1 - BETA_1**step)
    unbiased_squares = squares / (1 - BETA_2**step)
    direction = unbiased_mean / (unbiased_squares**0.5 + EPSILON)
    return direction, (mean, squares)


@dataclass
class Rule:
    """How an optimizer turns gradients into steps."""

    direction: Callable
    memories: int
    """arrays that it remembers"""


RULES = {
    "gradient descent": Rule(gradient_descent, memories=0),
    "momentum": Rule(momentum, memories=1),
    "Nesterov": Rule(nesterov, memories=1),
    "AdaGrad": Rule(adagrad, memories=1),
    "RMSprop": Rule(rmsprop, memories=1),
    "Adam": Rule(adam, memories=2),
    "Adam, uncorrected": Rule(adam_without_correction, memories=2),
}


def minimize(
    slope: Callable, start: np.ndarray, rule: Rule, learning_rate, steps: int
) -> np.ndarray:
    """The path of a minimization, (steps + 1, *start.shape).

    slope: gives the gradient at points of start's shape. learning_rate: a number, or an
        array that goes with the points.
    """
    point = np.array(start, "float64")
    memory = tuple(np.zeros_like(point) for _ in range(rule.memories))
    path = [point]
    for step in range(1, steps + 1):
        direction, memory = rule.direction(slope(point), memory, step)
        # What diverges stays far away, but finite.
        point = np.clip(point - learning_rate * direction, -FAR, FAR)
        path.append(point)
    return np.array(path)


FAR = 1e6


def build_model() -> keras.Model:
    """A small network for digits. Input: (batch, 64). Output: (batch, 10) logits."""
    x = keras.Input((64,), name="x")
    hidden = layers.Dense(32, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name="digits")


# --------------------------------------------------------------------------------------
# The experiment: valleys, a saddle, and digits
# --------------------------------------------------------------------------------------

LEARNING_RATES = np.logspace(-4, 1, 51)  # to choose from, on surfaces
FRICTIONS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # ρ to choose from, likewise


@dataclass
class Surface:
    """A function of two numbers to go down on. Points are (..., 2)."""

    loss: Callable
    slope: Callable
    starts: np.ndarray
    """(starts, 2)"""
    target: float
    """loss at which a minimization has arrived"""


def valley(condition_number: float, degrees: float) -> Surface:
    """½ xᵀHx, whose curvatures are 1 and the condition number, rotated."""
    angle = np.deg2rad(degrees)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    hessian = np.outer(along, along) + condition_number * np.outer(across, across)
    turns = np.arange(0.1, 2 * np.pi, np.pi / 8)
    return Surface(
        loss=lambda point: 0.5 * np.sum(point @ hessian * point, axis=-1),
        slope=lambda point: point @ hessian,
        starts=3 * np.stack([np.cos(turns), np.sin(turns)], axis=1),
        target=1e-3,
    )


def saddle(condition_number: float) -> Surface:
    """κ·x²/2 − y²/2 + y⁴/4: a steep wall along x, and a ridge at y = 0 that falls to
    the minima at y = ±1 so gently that plain steps hardly notice."""

    def slope(point):
        x = point[..., 0]
        y = point[..., 1]
        return np.stack([condition_number * x, y**3 - y], axis=-1)

    def loss(point):
        x = point[..., 0]
        y = point[..., 1]
        return condition_number * x**2 / 2 - y**2 / 2 + y**4 / 4

    beside = [[1, 1e-1], [1, 1e-2], [1, 1e-3], [1, 1e-4]]
    return Surface(loss, slope, starts=np.array(beside), target=-0.25 + 1e-3)


def steps_until_below(losses: np.ndarray, target: float) -> np.ndarray:
    """After how many steps the losses (steps + 1, ...) stay below the target; one more
    than there are where they do not."""
    numbers = np.arange(1, len(losses) + 1).reshape(-1, *[1] * (losses.ndim - 1))
    return np.max(np.where(losses >= target, numbers, 0), axis=0)


@dataclass
class Race:
    """How an optimizer fares on a surface."""

    steps: np.ndarray
    """to the target at each of the learning rates, means over starts"""
    path: np.ndarray
    """from the first start at the rate that suits it best, (steps + 1, 2)"""

    @property
    def best(self) -> int:
        """the place of the rate that suits it best"""
        return int(np.argmin(self.steps))


def race(surface: Surface, rule: Rule, steps: int) -> Race:
    """Tries all learning rates from all starts at once."""
    start = np.broadcast_to(
        surface.starts, (len(LEARNING_RATES), *surface.starts.shape)
    )
    rates = LEARNING_RATES[:, np.newaxis, np.newaxis]
    path = minimize(surface.slope, start, rule, rates, steps)
    needed = steps_until_below(surface.loss(path), surface.target).mean(axis=1)
    return Race(needed, path[:, np.argmin(needed), 0])


def fewest_steps(surface: Surface, direction: Callable, steps: int) -> float:
    """To the target, at the best of the FRICTIONS and its best rate."""
    found = []
    for left in FRICTIONS:
        rule = Rule(partial(direction, left=left), memories=1)
        found.append(race(surface, rule, steps).steps.min())
    return float(min(found))


@dataclass
class Regressions:
    """Linear regressions on some inputs, as many as there are draws."""

    hessians: np.ndarray
    """(draws, inputs, inputs)"""
    solutions: np.ndarray
    """weights at the minima, (draws, inputs)"""

    def condition_numbers(self) -> np.ndarray:
        """(draws,)"""
        return np.linalg.cond(self.hessians)

    def steps(self, most: int) -> np.ndarray:
        """What gradient descent takes from 0 to a thousandth of the distance, at the
        best rate for each, 2 / (highest + lowest curvature): (draws,)."""
        curvatures = np.linalg.eigvalsh(self.hessians)
        rates = 2 / (curvatures[:, -1] + curvatures[:, 0])

        def slope(points):
            return np.einsum("dij,dj->di", self.hessians, points - self.solutions)

        path = minimize(
            slope,
            np.zeros_like(self.solutions),
            RULES["gradient descent"],
            rates[:, np.newaxis],
            most,
        )
        lengths = np.linalg.norm(self.solutions, axis=-1)
        distances = np.linalg.norm(path - self.solutions, axis=-1) / lengths
        return steps_until_below(distances, 1e-3)


def draw_regressions(
    x: np.ndarray, y: np.ndarray, size: int, random: np.random.Generator
) -> Regressions:
    """Of y, (examples,), on some of the inputs x, (examples, inputs), which are
    standardized."""
    hessians = []
    solutions = []
    for _ in range(20):
        some = x[:, random.choice(x.shape[1], size, replace=False)]
        hessian = some.T @ some / len(x)
        hessians.append(hessian)
        solutions.append(np.linalg.solve(hessian, some.T @ y / len(x)))
    return Regressions(np.array(hessians), np.array(solutions))


STEPS_PER_LOOK = 10
LOSS_ON_DIGITS = 0.2  # in nats, on all digits to train on: where a training has arrived


@dataclass
class Trained:
    """Networks for digits: by optimizer, learning rate and start."""

    rates: np.ndarray
    """(rates,)"""
    losses: np.ndarray
    """on all digits to train on, (looks, optimizers, rates, starts)"""
    squares: dict[str, np.ndarray]
    """by optimizer: the median weight's accumulated squares of gradients, (looks,
    rates, starts)"""
    weights: np.ndarray
    """at the end, (optimizers, rates, starts, weights)"""

    def steps(self) -> np.ndarray:
        """to the loss wanted, (optimizers, rates, starts)"""
        return STEPS_PER_LOOK * steps_until_below(self.losses, LOSS_ON_DIGITS)

    def chosen(self) -> np.ndarray:
        """The place of each optimizer's rate, (optimizers,): the one of the fewest
        steps in the first half of the starts, which is not reported; of equal ones that
        of the lowest loss."""
        half = self.losses.shape[-1] // 2
        steps = self.steps()[..., :half].mean(axis=-1)
        losses = self.losses[-1, ..., :half].mean(axis=-1)
        return np.lexsort((losses, steps))[:, 0]

    def reported(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Of values (..., optimizers, rates, starts) those of the other half at the
        rate chosen, by optimizer, (..., starts)."""
        half = self.losses.shape[-1] // 2
        places = enumerate(self.chosen())
        return {
            name: values[..., index, rate, half:]
            for name, (index, rate) in zip(RULES, places, strict=True)
        }


def train_on_digits(
    model: keras.Model, starts: np.ndarray, x, y, config: Config, run: Run
) -> Trained:
    """All optimizers at all rates from all starts, at once. starts: (starts,
    weights)."""
    random = np.random.default_rng(run.seed)
    rates = np.logspace(-4, 1, config.rates)
    shape = len(RULES), config.rates, config.starts
    networks = np.tile(starts, (config.rates, 1)).astype("float32")
    rows = tf.Variable(np.tile(networks, (len(RULES), 1)))
    memories = [
        [tf.Variable(np.zeros_like(networks)) for _ in range(rule.memories)]
        for rule in RULES.values()
    ]
    of_networks = np.tile(np.repeat(rates, config.starts), len(RULES))
    of_networks = tf.constant(of_networks[:, np.newaxis], "float32")
    x = tf.constant(x)
    y = tf.constant(y)

    losses = np.zeros((config.looks, *shape))
    squares = {name: np.zeros((config.looks, *shape[1:])) for name in DIVIDING}
    state = {"all": [rows, memories, losses, squares, random]}
    name = f"{len(of_networks)} networks"
    for look in run.loop(name, config.looks, state, unit="looks"):
        batches = [
            random.choice(len(x), config.batch_size, replace=False)
            for _ in range(STEPS_PER_LOOK)
        ]
        first_step = tf.constant(1 + STEPS_PER_LOOK * look)
        found = train_some(
            model, rows, memories, first_step, of_networks, tf.constant(batches), x, y
        )
        # What diverged is no number any more.
        losses[look] = np.nan_to_num(found, nan=FAR).reshape(shape)
        for name, of_optimizer in squares.items():
            sums = memories[list(RULES).index(name)][0].numpy()
            middle = np.median(sums, axis=-1)
            of_optimizer[look] = middle.reshape(shape[1:])
    return Trained(rates, losses, squares, rows.numpy().reshape(*shape, -1))


DIVIDING = ("AdaGrad", "RMSprop")  # by a memory of squares that is their only one


@tf.function(jit_compile=True)
def train_some(model, rows, memories, first_step, rates, batches, x, y):
    """A step of all networks on each batch.

    rows: variable (networks, weights), as many for each optimizer, one after the other.
    memories: for each optimizer its variables, (its networks, weights). rates:
    (networks, 1). batches: (steps, batch size) rows of x and y. Returns the losses on
    all of x, (networks,).
    """
    step = tf.cast(first_step, "float32")
    for batch in batches:
        gradients = stacks.gradients(
            model, rows, tf.gather(x, batch), tf.gather(y, batch)
        )
        of_each = tf.split(gradients, len(RULES))
        directions = []
        for rule, gradient, variables in zip(
            RULES.values(), of_each, memories, strict=True
        ):
            direction, memory = rule.direction(gradient, tuple(variables), step)
            directions.append(direction)
            for variable, value in zip(variables, memory, strict=True):
                variable.assign(value)
        rows.assign_sub(rates * tf.concat(directions, axis=0))
        step += 1
    return stacks.losses(model, rows, x, y)


SHOWN = [name for name in RULES if name != "Adam, uncorrected"]


def draw_paths(surfaces: dict[str, Surface], races: dict[str, dict[str, Race]]):
    """The surfaces, and where each optimizer has been. Returns the figure, and a
    function that shows the paths up to a step."""
    figure, grid = plt.subplots(1, len(surfaces), figsize=(13, 4.8))
    lines = []
    for axes, (title, surface) in zip(grid, surfaces.items(), strict=True):
        draw_contours(axes, surface)
        axes.set(title=title, xlabel="first weight")
        for index, name in enumerate(SHOWN):
            (line,) = axes.plot(
                [],
                [],
                color=figures.COLORS[index],
                linestyle=figures.DASHES[index],
                marker=figures.MARKERS[index],
                markersize=4,
                markevery=(0, 25),
                linewidth=1.3,
                label=name,
            )
            lines.append((line, races[title][name].path))
    grid[0].set_ylabel("second weight")
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6
    )

    def show(step: int) -> None:
        for line, path in lines:
            line.set_data(*path[: step + 1].T)

    return figure, show


def draw_contours(axes: plt.Axes, surface: Surface) -> None:
    side = 1.1 * np.abs(surface.starts).max()
    first, second = np.meshgrid(
        np.linspace(-side, side, 200), np.linspace(-side, side, 200)
    )
    losses = surface.loss(np.stack([first, second], axis=-1))
    # Even steps of the root, so that the bottom of a steep valley has lines as well.
    heights = np.sqrt(losses - losses.min())
    axes.contourf(first, second, heights, 14, cmap="Greys", alpha=0.5)
    axes.set(xlim=(-side, side), ylim=(-side, side))
    axes.grid(visible=False)


def draw_digits(trained: Trained) -> plt.Figure:
    """Loss by step at each optimizer's own rate, and by the rate after all steps."""
    steps = STEPS_PER_LOOK * np.arange(1, len(trained.losses) + 1)
    lines = trained.reported(trained.losses)
    by_step = figures.Panel(
        title="Each at the rate that suits it",
        xlabel="step",
        ylabel="training loss (nats)",
        lines={name: (steps, values) for name, values in lines.items()},
        yscale="log",
        levels={"to be reached": LOSS_ON_DIGITS},
    )
    last = np.minimum(trained.losses[-1], 10)
    by_rate = figures.Panel(
        title=f"After {steps[-1]} steps",
        xlabel="learning rate",
        lines={name: (trained.rates, last[index]) for index, name in enumerate(RULES)},
        xscale="log",
        yscale="log",
        levels={"to be reached": LOSS_ON_DIGITS},
    )
    return figures.panels(by_step, by_rate)


@dataclass
class Conditions:
    """Of linear regressions, by their number of inputs and draws, (INPUTS, draws)."""

    numbers: np.ndarray
    """condition numbers"""
    steps: np.ndarray
    """of gradient descent"""


def measure_conditions(
    x: np.ndarray, y: np.ndarray, most: int, random: np.random.Generator
) -> Conditions:
    """most: steps at most. x, y: as of `draw_regressions`."""
    drawn = [draw_regressions(x, y, size, random) for size in INPUTS]
    return Conditions(
        np.array([each.condition_numbers() for each in drawn]),
        np.array([each.steps(most) for each in drawn]),
    )


def draw_conditions(found: dict[str, Conditions]) -> plt.Figure:
    sizes = np.array(INPUTS)
    titles = {
        "Condition number of linear regression": {
            name: (sizes, each.numbers) for name, each in found.items()
        },
        "Steps of gradient descent to 1/1000": {
            name: (sizes, each.steps) for name, each in found.items()
        },
    }
    shown = [
        figures.Panel(
            title=title,
            xlabel="inputs",
            lines=lines,
            xscale="log",
            yscale="log",
            xticks=sizes,
        )
        for title, lines in titles.items()
    ]
    return figures.panels(*shown)


AHEAD = "valley along the axes"
ROTATED = "the same valley, rotated"
SADDLE = "saddle with a steep wall"
PREFIXES = {AHEAD: "along_the_axes", ROTATED: "rotated", SADDLE: "saddle"}
INPUTS = (2, 4, 8, 16, 32)
WITH_VELOCITY = ("momentum", "Nesterov", "Adam")
WITHOUT = ("gradient descent", "AdaGrad", "RMSprop")


def judge_surfaces(races: dict[str, dict[str, Race]], run: Run) -> None:
    best = {
        title: {name: each.steps.min() for name, each in of_surface.items()}
        for title, of_surface in races.items()
    }
    for title, prefix in PREFIXES.items():
        run.metrics(f"steps_{prefix}", {name: best[title][name] for name in SHOWN})
    run.compare(
        "In a narrow valley momentum needs fewer steps than plain gradient descent",
        {name: best[ROTATED][name] for name in ("gradient descent", "momentum")},
        more="gradient descent",
        less="momentum",
        times=1.7,
    )
    plain = best[AHEAD]["gradient descent"]
    adagrad = best[AHEAD]["AdaGrad"]
    rotated = best[ROTATED]["AdaGrad"]
    run.claim(
        "AdaGrad straightens a valley that lies along the axes; in a rotated one it is no "
        "quicker than plain gradient descent",
        holds=10 * adagrad < plain < 1.1 * rotated,
        measured=f"AdaGrad {adagrad:.1f} steps along the axes, {rotated:.1f} rotated; "
        f"gradient descent {plain:.1f}",
    )
    rmsprop = best[AHEAD]["RMSprop"]
    rotated = best[ROTATED]["RMSprop"]
    run.claim(
        "RMSprop feels the rotation as well; and as its steps do not shrink by themselves, "
        "along the axes too it comes to rest no sooner than plain gradient descent",
        holds=rotated > 1.2 * rmsprop and rmsprop > plain,
        measured=f"RMSprop {rmsprop:.1f} steps along the axes, {rotated:.1f} rotated (at "
        f"least 1.2 times wanted); gradient descent {plain:.1f}",
    )
    judge_adam(races, run)
    same = {
        name: best[ROTATED][name] / best[AHEAD][name]
        for name in ("gradient descent", "momentum", "Nesterov")
    }
    run.claim(
        "What moves by the gradient alone does not feel the rotation",
        holds=max(abs(ratio - 1) for ratio in same.values()) < 0.05,
        measured="steps in the rotated valley, of those along the axes: "
        + ", ".join(f"{name} {ratio:.2f}" for name, ratio in same.items()),
    )


def judge_adam(races: dict[str, dict[str, Race]], run: Run) -> None:
    """At all rates that suit it along the axes, as the very best of them is chance."""
    ahead = races[AHEAD]["Adam"].steps
    rotated = races[ROTATED]["Adam"].steps
    suits = ahead <= 1.1 * ahead.min()
    same_rates = float(np.median(rotated[suits] / ahead[suits]))
    own_rate = float(rotated.min() / ahead.min())
    run.claim(
        "Adam feels it at the rates that suit the valley along the axes; at a rate of its "
        "own the rotated one takes it less than twice the steps",
        holds=same_rates > 1.5 and own_rate < 2,
        measured=f"steps rotated, of those along the axes: {same_rates:.2f} times at "
        f"{suits.sum()} rates (median; at least 1.5 wanted), {own_rate:.2f} times at the "
        "best rate for each",
    )


def judge_nesterov(surface: Surface, races: dict[str, Race], config, run: Run) -> None:
    """At the usual ρ, and each rival at the one that suits it."""
    names = {"momentum": momentum, "Nesterov": nesterov}
    usual = {name: races[name].steps.min() for name in names}
    own = {
        name: fewest_steps(surface, direction, config.steps)
        for name, direction in names.items()
    }
    run.metrics("steps_at_best_friction", own)
    run.claim(
        f"At ρ = {MOMENTUM:g} looking ahead, as Nesterov does, saves steps; where each has "
        "a ρ that suits the valley, it saves little",
        holds=usual["momentum"] > 1.5 * usual["Nesterov"]
        and own["momentum"] < 1.35 * own["Nesterov"],
        measured=f"steps at {MOMENTUM:g} momentum {usual['momentum']:.1f}, Nesterov "
        f"{usual['Nesterov']:.1f} (at least 1.5 times wanted); at the best of "
        f"{len(FRICTIONS)} ρ {own['momentum']:.1f} and {own['Nesterov']:.1f} (at most 1.35)",
    )


def judge_saddle(races: dict[str, Race], config: Config, run: Run) -> None:
    steps = {name: races[name].steps.min() for name in SHOWN}
    slowest = max(SHOWN[1:], key=steps.get)
    plain = RULES["gradient descent"]
    without_wall = race(saddle(1), plain, config.steps).steps.min()
    run.claim(
        "A steep wall keeps plain gradient descent at a saddle longer than any other; "
        "without the wall it is soon away",
        holds=steps["gradient descent"] > 1.3 * steps[slowest]
        and without_wall < 0.2 * steps["gradient descent"],
        measured=f"gradient descent {steps['gradient descent']:.1f} steps, {slowest} "
        f"{steps[slowest]:.1f} (at least 1.3 times wanted); without the wall gradient "
        f"descent {without_wall:.1f}",
    )


def show_paths(surfaces, races, config: Config, run: Run) -> None:
    """A picture of the paths, and one that moves."""
    figure, show = draw_paths(surfaces, races)
    moving = animation.FuncAnimation(figure, show, frames=config.frames)
    # Beside the record, as no figure of the run's can move.
    moving.save(run.folder / "trajectories.gif", writer="pillow", fps=10, dpi=70)
    show(config.steps)
    run.figure("trajectories", figure)


def judge_dimensions(config: Config, run: Run) -> None:
    """Pixels of digits, and the same pixels without what they have in common."""
    (x, labels), _ = data.load("digits")
    x = x.reshape(len(x), -1)
    x = x[:, x.std(axis=0) > 0.05]  # pixels that are more than background
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = np.where(labels % 2, 1.0, -1.0)
    random = np.random.default_rng(run.seed)
    digits = measure_conditions(x, y, config.steps, random)
    uncorrelated = np.stack([random.permutation(pixel) for pixel in x.T], axis=1)
    shuffled = measure_conditions(uncorrelated, y, config.steps, random)
    found = {"digits": digits, "each pixel shuffled": shuffled}
    run.figure("condition", draw_conditions(found))

    few = INPUTS[1]
    many = INPUTS[-1]
    numbers = {
        f"{few} inputs": np.median(digits.numbers[1]),
        f"{many} inputs": np.median(digits.numbers[-1]),
        f"{many} shuffled": np.median(shuffled.numbers[-1]),
    }
    steps = {
        f"{few} inputs": np.median(digits.steps[1]),
        f"{many} inputs": np.median(digits.steps[-1]),
        f"{many} shuffled": np.median(shuffled.steps[-1]),
    }
    run.metrics("condition_number", numbers)
    run.compare(
        "The more inputs that have something in common, the larger the condition number "
        "(each pixel shuffled by itself, it stays small)",
        numbers,
        more=f"{many} inputs",
        less=max((f"{few} inputs", f"{many} shuffled"), key=numbers.get),
        times=8,
    )
    run.compare(
        "And with it the steps that plain gradient descent takes in linear regression",
        steps,
        more=f"{many} inputs",
        less=max((f"{few} inputs", f"{many} shuffled"), key=steps.get),
        times=5,
    )


def judge_digits(races: dict[str, dict[str, Race]], trained: Trained, run: Run) -> None:
    steps = {
        name: values.mean()
        for name, values in trained.reported(trained.steps()).items()
    }
    run.metrics("steps_on_digits", steps)
    sums, none = "with a sum of gradients", "without"
    run.compare(
        "On digits, too, those that sum up gradients need fewer steps than those that "
        "do not (means of three each)",
        {
            sums: np.mean([steps[name] for name in WITH_VELOCITY]),
            none: np.mean([steps[name] for name in WITHOUT]),
        },
        more=none,
        less=sums,
        times=1.5,
    )

    chosen = dict(zip(RULES, trained.chosen(), strict=True))
    rates = {}
    for name in DIVIDING:
        squares = trained.squares[name][:, chosen[name]].mean(axis=-1)
        rates[name] = np.sqrt(squares[0] / squares[-1])
    run.compare(
        "AdaGrad's steps shrink for good, as its sum only grows; RMSprop's mean forgets",
        {f"{name}, last rate of first": rate for name, rate in rates.items()},
        more="RMSprop, last rate of first",
        less="AdaGrad, last rate of first",
        times=1.3,
    )

    at = chosen["Adam"]
    first = {
        name: trained.losses[0, list(RULES).index(name), at].mean()
        for name in ("Adam", "Adam, uncorrected")
    }
    uncorrected = steps["Adam, uncorrected"]
    run.claim(
        "Without bias correction Adam's first steps are too large at the rate that suits "
        "it with; at a rate of its own it arrives as soon",
        holds=first["Adam, uncorrected"] > first["Adam"] + 0.05
        and uncorrected < 1.4 * steps["Adam"],
        measured=f"loss after {STEPS_PER_LOOK} steps at the same rate: Adam "
        f"{first['Adam']:.3f}, uncorrected {first['Adam, uncorrected']:.3f} (at least "
        f"0.05 more wanted); steps at each one's own {steps['Adam']:.1f} and "
        f"{uncorrected:.1f} (at most 1.4 times)",
    )


def main(config: Config, run: Run) -> None:
    run.plan(1)
    surfaces = {
        AHEAD: valley(config.condition_number, degrees=0),
        ROTATED: valley(config.condition_number, degrees=45),
        SADDLE: saddle(config.condition_number),
    }
    races = {
        title: {name: race(surface, rule, config.steps) for name, rule in RULES.items()}
        for title, surface in run.track(list(surfaces.items()), "surfaces")
    }
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    model = build_model()
    starts = np.stack([stacks.row_of(build_model()) for _ in range(config.starts)])
    trained = train_on_digits(model, starts, x, y, config, run)
    adam_at = list(RULES).index("Adam")
    stacks.set_weights(model, trained.weights[adam_at, trained.chosen()[adam_at], -1])
    run.metric("test_accuracy", np.mean(np.argmax(model(x_test), axis=1) == y_test))

    judge_surfaces(races, run)
    judge_nesterov(surfaces[ROTATED], races[ROTATED], config, run)
    judge_saddle(races[SADDLE], config, run)
    show_paths(surfaces, races, config, run)
    judge_dimensions(config, run)
    judge_digits(races, trained, run)
    run.figure("digits", draw_digits(trained))
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
