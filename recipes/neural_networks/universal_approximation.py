"""One hidden layer can draw any continuous function, given enough neurons.

A sigmoid neuron is a soft step, σ(k(x − b)): b says where, k how steep. Two steps, one
up and one down, make a bump; bumps side by side make a staircase that follows any
continuous function f, so a network can be *written down* that errs by no more than f
varies within a stair's width. Training finds a better one of the same size: its slopes
do what the staircase needs many steps for. Without a bend in the neuron no number of
them helps.
Look at the error as neurons are added: constructed, trained, and trained without the
bend.

Lectures: N18 1.1.2 Capacity of Neural Networks
Paper: Cybenko, Approximation by superpositions of a sigmoidal function, 1989 (theorem
    2)
Tags: function approximation, regression, curve fitting, expressivity, sigmoid, width
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.optimize import least_squares

from deep_learning_recipes import figures
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    neurons: tuple[int, ...] = (2, 4, 8, 16, 32)
    """widths of the hidden layer to compare"""
    restarts: int = 3
    """random starts of each trained network; errors are their medians"""
    evaluations: int = 100
    """of the network on all points in training, at most"""


QUICK = Config(neurons=(2, 8, 32), restarts=5)
FULL = Config(neurons=(2, 4, 8, 16, 32, 64, 128, 256), restarts=5, evaluations=300)

# --------------------------------------------------------------------------------------
# The idea: steps, bumps, stairs, and what training makes of them
# --------------------------------------------------------------------------------------

STEEPNESS = 20  # of the constructed steps, over the width of a stair
# What a neuron does to its sum h, and the slope of that, in terms of its output.
BENDS = {
    "tanh": (np.tanh, lambda output: 1 - output**2),
    "linear": (np.copy, np.ones_like),
}


def build_network(
    inputs: int, neurons: int, activation: str = "sigmoid"
) -> keras.Model:
    """One hidden layer. Input: (batch, inputs). Output: (batch, 1)."""
    x = keras.Input((inputs,), name="x")
    # Steps of some steepness, all over the inputs' range.
    hidden = layers.Dense(
        neurons,
        activation,
        kernel_initializer=keras.initializers.RandomUniform(-4, 4),
        bias_initializer=keras.initializers.RandomUniform(-4, 4),
        name="hidden",
    )(x)
    value = layers.Dense(1, name="value")(hidden)
    return keras.Model(x, value, name=f"{activation}-{neurons}")


def bump(start: float, end: float, steepness: float) -> keras.Model:
    """Two neurons that are near 1 from start to end, and near 0 elsewhere."""
    model = build_network(1, 2)
    kernel = np.array([[steepness, steepness]])
    bias = -steepness * np.array([start, end])
    up_and_down = np.array([[1.0], [-1.0]])
    model.set_weights([kernel, bias, up_and_down, np.zeros(1)])
    return model


def construct(function: Callable, neurons: int) -> keras.Model:
    """A network for a function on [−1, 1] without training: neurons + 1 stairs, each as
    high as the function in its middle. Where two bumps meet, one's step down and the
    other's step up are the same neuron."""
    stair = 2 / (neurons + 1)
    steepness = STEEPNESS / stair
    steps = -1 + stair * np.arange(1, neurons + 1)
    middles = np.append(steps, 1)[:, np.newaxis] - stair / 2
    heights = function(middles)

    model = build_network(1, neurons)
    kernel = np.full((1, neurons), steepness)
    bias = -steepness * steps
    model.set_weights([kernel, bias, np.diff(heights, axis=0), heights[0]])
    return model


def bound(neurons: int, slope: float) -> float:
    """What the constructed network's error cannot exceed for a function that is nowhere
    steeper than the slope.

    At the nearest step the network is between the heights of two stairs, whose middles
    are within a stair's width. The n-th step beyond it is at least n − ½ stairs away,
    where a sigmoid differs from 0 or 1 by less than exp(−STEEPNESS·(n − ½)), of a
    height within slope·stair.
    """
    tails = 2 * np.exp(-STEEPNESS / 2) / (1 - np.exp(-STEEPNESS))
    return slope * 2 / (neurons + 1) * (1 + tails)


class FlatNetwork:
    """A network v·g(Wᵀx + b) + c with all its weights in one vector, and its derivatives
    written down: by v it is g, by b v·g′, by W x·v·g′."""

    def __init__(self, model: keras.Model, x: np.ndarray, y: np.ndarray):
        weights = model.get_weights()
        self.shapes = [each.shape for each in weights]
        self.ends = np.cumsum([each.size for each in weights])[:-1]
        self.start = np.concatenate([each.ravel() for each in weights])
        self.bend, self.slope = BENDS[model.get_layer("hidden").activation.__name__]
        self.x = x
        self.y = y

    def unpack(self, vector: np.ndarray) -> list[np.ndarray]:
        """W (inputs, neurons), b (neurons,), v (neurons, 1) and c (1,)."""
        parts = zip(np.split(vector, self.ends), self.shapes, strict=True)
        return [part.reshape(shape) for part, shape in parts]

    def residuals(self, vector: np.ndarray) -> np.ndarray:
        """(points,)."""
        kernel, bias, outward, constant = self.unpack(vector)
        outputs = self.bend(self.x @ kernel + bias) @ outward + constant
        return (outputs - self.y)[:, 0]

    def jacobian(self, vector: np.ndarray) -> np.ndarray:
        """(points, weights)."""
        kernel, bias, outward, _ = self.unpack(vector)
        hidden = self.bend(self.x @ kernel + bias)
        by_bias = self.slope(hidden) * outward.T
        by_kernel = self.x[:, :, np.newaxis] * by_bias[:, np.newaxis]
        by_constant = np.ones((len(self.x), 1))
        flat = by_kernel.reshape(len(self.x), -1)
        return np.hstack([flat, by_bias, hidden, by_constant])


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, evaluations: int) -> None:
    """Lowers the squared error by Levenberg and Marquardt's method, which solves a
    least squares problem at each step: for a small network it gets much further than
    gradient descent. x: (points, inputs), y: (points, 1)."""
    network = FlatNetwork(model, x, y)
    found = least_squares(
        network.residuals,
        network.start.astype("float64"),
        network.jacobian,
        method="lm",
        x_scale="jac",
        max_nfev=evaluations,
    )
    model.set_weights(network.unpack(found.x))


# --------------------------------------------------------------------------------------
# The experiment: a curve and a surface, by more and more neurons
# --------------------------------------------------------------------------------------

POINTS = 500  # to train on, and as many new ones
# No slope of `curve` is steeper: the sum of its terms' own.
LIPSCHITZ = np.pi + 0.9 * np.pi + 0.5
FINE = np.linspace(-1, 1, 2001)[:, np.newaxis]
SHOWN_STAIRS = (8, 32)  # neurons


def curve(x: np.ndarray) -> np.ndarray:
    """A continuous function of x in [−1, 1], with a kink at 0. x: (points, 1)."""
    return np.sin(np.pi * x) + 0.3 * np.sin(3 * np.pi * x) + 0.5 * np.abs(x)


def surface(x: np.ndarray) -> np.ndarray:
    """A hill, a hollow and a slope over [−1, 1]². x: (points, 2). Returns (points,
    1)."""
    to_hill = np.sum((x - [0.4, 0.3]) ** 2, axis=1)
    to_hollow = np.sum((x - [-0.4, -0.4]) ** 2, axis=1)
    height = np.exp(-4 * to_hill) - np.exp(-6 * to_hollow) + 0.3 * x[:, 0]
    return height[:, np.newaxis]


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


@dataclass
class Job:
    """What networks are trained for."""

    function: Callable
    inputs: int
    activation: str


# tanh(a) = 2σ(2a) − 1: the same steps, but about 0, which trains faster.
JOBS = {
    "curve": Job(curve, 1, "tanh"),
    "surface": Job(surface, 2, "tanh"),
    "no bend": Job(curve, 1, "linear"),
}


@dataclass
class Fits:
    """Networks that were trained for a job, by width."""

    models: dict[int, keras.Model]
    """of the last restart"""
    errors: dict[int, list[float]]
    """root mean square on new points, of each restart"""

    def error(self, neurons: int) -> float:
        return float(np.median(self.errors[neurons]))


def fit_all(x, new, widths: list[int], config: Config, run: Run) -> dict[str, Fits]:
    fits = {name: Fits({}, {}) for name in JOBS}
    every = [(name, neurons) for name in JOBS for neurons in widths]
    for name, neurons in run.track(every, "training", unit="widths"):
        job = JOBS[name]
        known = x[:, : job.inputs]
        unknown = new[:, : job.inputs]
        errors = []
        for _ in range(config.restarts):
            model = build_network(job.inputs, neurons, job.activation)
            train(model, known, job.function(known), config.evaluations)
            outputs = np.asarray(model(unknown))
            errors.append(root_mean_square(outputs - job.function(unknown)))
        fits[name].models[neurons] = model
        fits[name].errors[neurons] = errors
    return fits


def build_stairs(widths: list[int]) -> dict[int, np.ndarray]:
    """By width, how far the constructed networks are from the curve, on a fine grid."""
    return {
        neurons: np.asarray(construct(curve, neurons)(FINE)) - curve(FINE)
        for neurons in widths
    }


def judge_bump(run: Run) -> None:
    places = np.array([[0.05], [-0.6]])
    inside, beside = bump(-0.3, 0.4, 60)(places).numpy().ravel()
    run.claim(
        "Two sigmoids make a bump",
        holds=inside > 0.999 and abs(beside) < 1e-3,
        measured=f"{inside:.4f} in its middle, {beside:.1e} beside it",
    )


def judge_stairs(away: dict[int, np.ndarray], run: Run) -> None:
    worst = {neurons: float(np.abs(each).max()) for neurons, each in away.items()}
    bounds = {neurons: bound(neurons, LIPSCHITZ) for neurons in away}
    narrow = min(away)
    wide = max(away)
    run.claim(
        "Bumps side by side fit without training: the largest error is below its bound, "
        "which falls as the stairs get narrower",
        holds=all(worst[neurons] < bounds[neurons] for neurons in away)
        and (wide == narrow or worst[wide] < worst[narrow] / 2),
        measured=", ".join(
            f"{neurons} neurons {worst[neurons]:.2f} (bound {bounds[neurons]:.2f})"
            for neurons in away
        ),
    )


def judge_widths(fits: dict[str, Fits], shown: list[int], run: Run) -> None:
    """shown: three widths."""
    falls = {
        name: [fits[name].error(neurons) for neurons in shown]
        for name in ("curve", "surface")
    }
    run.claim(
        "The error of trained networks falls as neurons are added",
        holds=all(c < b < a and c < a / 5 for a, b, c in falls.values()),
        measured="with {}, {}, {} neurons: ".format(*shown)
        + "; ".join(
            f"{name} {a:.4f}, {b:.4f}, {c:.4f}" for name, (a, b, c) in falls.items()
        ),
    )


def judge_training(fits: dict[str, Fits], away: dict[int, np.ndarray], run) -> None:
    wide = max(away)
    trained = fits["curve"].error(wide)
    constructed = root_mean_square(away[wide])
    run.claim(
        "Training finds better networks than the construction",
        holds=trained < constructed / 2,
        measured=f"{wide} neurons: {trained:.4f} trained, {constructed:.4f} not",
    )


def judge_bend(fits: dict[str, Fits], x, new, run: Run) -> None:
    line = np.polynomial.Polynomial.fit(x[:, 0], curve(x[:, 0]), 1)
    straight = root_mean_square(line(new[:, 0]) - curve(new[:, 0]))
    widths = list(fits["no bend"].errors)
    unbent = [fits["no bend"].error(neurons) for neurons in widths]
    bent = fits["curve"].error(widths[-1])
    run.claim(
        "It is the bend: without it any number of neurons draws the best straight line",
        holds=np.allclose(unbent, straight, rtol=0.01) and bent < straight / 10,
        measured=f"{unbent[0]:.4f} with {widths[0]} neurons, {unbent[-1]:.4f} with "
        f"{widths[-1]}; least squares {straight:.4f}",
    )


def draw_construction() -> Figure:
    """Two sigmoids, their bump, and staircases."""
    x = np.linspace(-1, 1, 801)[:, np.newaxis]
    bumps = figures.Panel(
        title="σ(k(x + 0.3)) − σ(k(x − 0.4))",
        xlabel="x",
        lines={
            f"k = {steepness}": (x[:, 0], bump(-0.3, 0.4, steepness)(x)[:, 0])
            for steepness in (20, 60)
        },
        ylim=(-0.1, 1.35),
    )
    stairs = [
        figures.Panel(
            title=f"{neurons} neurons, not trained",
            xlabel="x",
            lines={
                "the function": (x[:, 0], curve(x)[:, 0]),
                "the network": (x[:, 0], construct(curve, neurons)(x)[:, 0]),
            },
            ylim=(-1.5, 2.2),
        )
        for neurons in SHOWN_STAIRS
    ]
    return figures.panels(bumps, *stairs)


def draw_fits(fits: dict[str, Fits], shown: list[int]) -> Figure:
    """Trained networks of some widths, in one and in two dimensions."""
    x = np.linspace(-1, 1, 801)[:, np.newaxis]
    side = np.linspace(-1, 1, 100)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    titles = ["the function", *(f"{neurons} neurons, trained" for neurons in shown)]
    values = [curve(x)]
    heights = [surface(plane)]
    for neurons in shown:
        values.append(np.asarray(fits["curve"].models[neurons](x)))
        heights.append(np.asarray(fits["surface"].models[neurons](plane)))

    columns = len(titles)
    figure, (above, below) = plt.subplots(
        2, columns, figsize=(2.75 * columns, 5.4), height_ratios=(1, 1.15)
    )
    for axes, title, value in zip(above, titles, values, strict=True):
        axes.plot(x, curve(x), color="0.6", linewidth=3)
        axes.plot(x, value, color=figures.COLORS[1], linestyle="--")
        axes.set(title=title, ylim=(-1.5, 1.8), xticks=(-1, 0, 1))
    for axes, height in zip(below, heights, strict=True):
        picture = axes.contourf(
            side,
            side,
            height.reshape(100, 100),
            np.linspace(-1.5, 1.5, 21),
            extend="both",
        )
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal", xlabel="x₁")
    below[0].set_ylabel("x₂")
    figure.colorbar(picture, ax=below, label="value", ticks=(-1, 0, 1))
    return figure


def draw_errors(fits: dict[str, Fits], away: dict[int, np.ndarray]) -> Figure:
    """Means over the restarts, with the lowest and the highest."""
    widths = list(away)
    lines = {
        "curve, no bend": errors_of(fits["no bend"]),
        "curve, constructed": [root_mean_square(each) for each in away.values()],
        "curve, trained": errors_of(fits["curve"]),
        "surface, trained": errors_of(fits["surface"]),
    }
    return figures.panels(
        figures.Panel(
            title="More neurons, smaller error: if the neurons bend",
            xlabel="neurons in the hidden layer",
            ylabel="root mean square error, new points",
            lines={name: (widths, values) for name, values in lines.items()},
            xscale="log",
            yscale="log",
            xticks=widths,
        )
    )


def errors_of(fits: Fits) -> np.ndarray:
    """(widths, restarts)."""
    return np.array(list(fits.errors.values()))


def main(config: Config, run: Run) -> None:
    widths = sorted(set(config.neurons))
    shown = [widths[0], widths[len(widths) // 2], widths[-1]]
    away = build_stairs(widths)
    x, new = np.random.default_rng(run.seed).uniform(-1, 1, (2, POINTS, 2))
    fits = fit_all(x, new, widths, config, run)

    # Of the curve the last digits depend on how arrays lie in memory, and training
    # multiplies that.
    run.metric("error", fits["surface"].error(widths[-1]), unit="of the surface")
    judge_bump(run)
    judge_stairs(away, run)
    if len(widths) >= 3:
        judge_widths(fits, shown, run)
    judge_training(fits, away, run)
    judge_bend(fits, x, new, run)

    run.figure("construction", draw_construction())
    run.figure("fits", draw_fits(fits, shown))
    run.figure("errors", draw_errors(fits, away))
    network = fits["curve"].models[widths[-1]]
    served = keras.Model(network.input, {"value": network.output}, name=network.name)
    run.export(served, example=FINE[::500].astype("float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
