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

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt
from scipy.optimize import least_squares

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

BENDS = {"tanh": (np.tanh, lambda h: 1 - h**2), "linear": (np.copy, np.ones_like)}

STEEPNESS = 20  # of the constructed steps, over the width of a stair
LIPSCHITZ = (
    np.pi + 0.9 * np.pi + 0.5
)  # no slope of `curve` is steeper: the sum of its terms' own


def curve(x: np.ndarray) -> np.ndarray:
    """A continuous function of x in [−1, 1], with a kink at 0. x: (points, 1)."""
    return np.sin(np.pi * x) + 0.3 * np.sin(3 * np.pi * x) + 0.5 * np.abs(x)


def surface(x: np.ndarray) -> np.ndarray:
    """A hill, a hollow and a slope over [−1, 1]². x: (points, 2). Returns (points,
    1)."""
    hill, hollow = (np.sum((x - at) ** 2, axis=1) for at in ([0.4, 0.3], [-0.4, -0.4]))
    return (np.exp(-4 * hill) - np.exp(-6 * hollow) + 0.3 * x[:, 0])[:, np.newaxis]


def build_network(
    inputs: int, neurons: int, activation: str = "sigmoid"
) -> keras.Model:
    """One hidden layer. Input: (batch, inputs). Output: (batch, 1)."""
    x = keras.Input((inputs,), name="x")
    # Steps of some steepness, all over the inputs' range.
    spread = keras.initializers.RandomUniform(-4, 4)
    start = {"kernel_initializer": spread, "bias_initializer": spread}
    hidden = layers.Dense(neurons, activation, name="hidden", **start)(x)
    value = layers.Dense(1, name="value")(hidden)
    return keras.Model(x, value, name=f"{activation}-{neurons}")


def bump(start: float, end: float, steepness: float) -> keras.Model:
    """Two neurons that are near 1 from start to end, and near 0 elsewhere."""
    model = build_network(1, 2)
    steps = np.array([[steepness, steepness]]), -steepness * np.array([start, end])
    model.set_weights([*steps, np.array([[1.0], [-1.0]]), np.zeros(1)])
    return model


def construct(function, neurons: int) -> keras.Model:
    """A network for a function on [−1, 1] without training: neurons + 1 stairs, each as
    high as the function in its middle. Where two bumps meet, one's step down and the
    other's step up are the same neuron."""
    stair = 2 / (neurons + 1)
    steepness = STEEPNESS / stair
    between = -1 + stair * np.arange(1, neurons + 1)
    heights = function(np.append(between, 1)[:, np.newaxis] - stair / 2)
    model = build_network(1, neurons)
    steps = np.full((1, neurons), steepness), -steepness * between
    model.set_weights([*steps, np.diff(heights, axis=0), heights[0]])
    return model


def bound(neurons: int) -> float:
    """What the constructed network's error cannot exceed for a function of slope ≤
    LIPSCHITZ.

    At the nearest step the network is between the heights of two stairs, whose middles
    are within a stair's width. The n-th step beyond it is at least n − ½ stairs away,
    where a sigmoid differs from 0 or 1 by less than exp(−STEEPNESS·(n − ½)), of a
    height within LIPSCHITZ·stair.
    """
    tails = 2 * np.exp(-STEEPNESS / 2) / (1 - np.exp(-STEEPNESS))
    return LIPSCHITZ * 2 / (neurons + 1) * (1 + tails)


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, evaluations: int) -> None:
    """Lowers the squared error by Levenberg and Marquardt's method, which solves a
    least squares problem at each step: for a small network it gets much further than
    gradient descent.

    The network's derivatives are so simple that they are written down: of v·g(Wᵀx + b)
    + c by v it is g, by b v·g′, by W x·v·g′.
    """
    bend, slope = BENDS[model.get_layer("hidden").activation.__name__]
    start = model.get_weights()
    shapes = [each.shape for each in start]
    ends = np.cumsum([each.size for each in start])[:-1]

    def unpack(vector):
        parts = zip(np.split(vector, ends), shapes, strict=True)
        return [part.reshape(shape) for part, shape in parts]

    def residuals(vector):
        kernel, bias, outward, constant = unpack(vector)
        return (bend(x @ kernel + bias) @ outward + constant - y)[:, 0]

    def jacobian(vector):
        kernel, bias, outward, _ = unpack(vector)
        hidden = bend(x @ kernel + bias)
        by_bias = slope(hidden) * outward.T
        by_kernel = x[:, :, np.newaxis] * by_bias[:, np.newaxis]
        one = np.ones((len(x), 1))
        return np.hstack([by_kernel.reshape(len(x), -1), by_bias, hidden, one])

    vector = np.concatenate([each.ravel() for each in start]).astype("float64")
    options = {"method": "lm", "x_scale": "jac", "max_nfev": evaluations}
    found = least_squares(residuals, vector, jacobian, **options)
    model.set_weights(unpack(found.x))


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def plot_construction(stairs: dict[int, keras.Model]) -> plt.Figure:
    """Two sigmoids, their bump, and staircases."""
    x = np.linspace(-1, 1, 801)[:, np.newaxis]
    figure, panels = plt.subplots(1, 1 + len(stairs), figsize=(11, 3.4))
    for steepness, style in ((20, "-"), (60, "--")):
        panels[0].plot(
            x, bump(-0.3, 0.4, steepness)(x), style, label=f"k = {steepness}"
        )
    panels[0].set(title="σ(k(x + 0.3)) − σ(k(x − 0.4))", xlabel="x", ylim=(-0.1, 1.35))
    panels[0].legend(loc="upper right", ncols=2)
    for axes, (neurons, model) in zip(panels[1:], stairs.items(), strict=True):
        axes.plot(x, curve(x), color="black", label="the function")
        axes.plot(x, model(x), color="#D55E00", label="the network")
        axes.set(title=f"{neurons} neurons, not trained", xlabel="x", ylim=(-1.5, 2.2))
    panels[1].legend(loc="upper left", ncols=2, fontsize=10)
    return figure


def plot_fits(
    curves: dict[int, keras.Model], surfaces: dict[int, keras.Model]
) -> plt.Figure:
    """Trained networks of some widths, in one and in two dimensions."""
    x = np.linspace(-1, 1, 801)[:, np.newaxis]
    side = np.linspace(-1, 1, 100)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    columns = 1 + len(curves)
    figure, rows = plt.subplots(
        2, columns, figsize=(2.75 * columns, 5.4), height_ratios=(1, 1.15)
    )
    titles = ["the function", *(f"{n} neurons, trained" for n in curves)]
    values = [curve(x), *(model(x) for model in curves.values())]
    heights = [surface(plane), *(model(plane) for model in surfaces.values())]
    for axes, title, value in zip(rows[0], titles, values, strict=True):
        axes.plot(x, curve(x), color="#999999", linewidth=3)
        axes.plot(x, value, color="#D55E00" if axes is not rows[0, 0] else "black")
        axes.set(title=title, ylim=(-1.5, 1.8), xticks=(-1, 0, 1))
    for axes, value in zip(rows[1], heights, strict=True):
        height = np.reshape(value, (100, 100))
        picture = axes.contourf(
            side, side, height, np.linspace(-1.5, 1.5, 21), extend="both"
        )
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal", xlabel="x₁")
    rows[1, 0].set_ylabel("x₂")
    figure.colorbar(picture, ax=rows[1], label="value", ticks=(-1, 0, 1))
    return figure


def plot_errors(neurons: tuple[int, ...], errors: dict[str, list[float]]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8.5, 4.2))
    for (name, values), marker in zip(errors.items(), "osv^", strict=True):
        axes.loglog(neurons, values, marker=marker, label=name)
    axes.set_xticks(neurons, [str(each) for each in neurons])
    axes.minorticks_off()
    axes.set(
        xlabel="neurons in the hidden layer",
        ylabel="root mean square error, new points",
    )
    axes.set_title("More neurons, smaller error: if the neurons bend")
    figure.legend(loc="outside right upper")
    return figure


def main(config: Config, run: Run) -> None:
    widths = sorted(set(config.neurons))
    narrow, middle, wide = widths[0], widths[len(widths) // 2], widths[-1]
    fine = np.linspace(-1, 1, 2001)[:, np.newaxis]
    inside, beside = bump(-0.3, 0.4, 60)(np.array([[0.05], [-0.6]])).numpy().ravel()
    differences = {
        n: np.asarray(construct(curve, n)(fine)) - curve(fine) for n in widths
    }
    worst = {
        neurons: float(np.abs(each).max()) for neurons, each in differences.items()
    }
    run.figure(
        "construction", plot_construction({n: construct(curve, n) for n in (8, 32)})
    )

    # tanh(a) = 2σ(2a) − 1: the same steps, but about 0, which trains faster.
    x, new = np.random.default_rng(run.seed).uniform(-1, 1, (2, 500, 2))
    jobs = {"curve": (curve, 1, "tanh"), "surface": (surface, 2, "tanh")}
    jobs["no bend"] = (curve, 1, "linear")
    models: dict[str, dict[int, keras.Model]] = {name: {} for name in jobs}
    errors: dict[str, list[float]] = {name: [] for name in jobs}
    every = [(name, neurons) for name in jobs for neurons in widths]
    for name, neurons in run.track(every, "training", unit="widths"):
        function, inputs, activation = jobs[name]
        found = []
        for _ in range(config.restarts):
            model = build_network(inputs, neurons, activation)
            train(model, x[:, :inputs], function(x[:, :inputs]), config.evaluations)
            outputs = np.asarray(model(new[:, :inputs]))
            found.append(root_mean_square(outputs - function(new[:, :inputs])))
        models[name][neurons] = model
        errors[name].append(float(np.median(found)))
    staircase = [root_mean_square(each) for each in differences.values()]
    # Of the curve the last digits depend on how arrays lie in memory, and training
    # multiplies that.
    run.metric("error", errors["surface"][-1], unit="of the surface")
    fits = (
        {n: models[name][n] for n in (narrow, middle, wide)}
        for name in ("curve", "surface")
    )
    run.figure("fits", plot_fits(*fits))
    names = (
        "curve, no bend",
        "curve, constructed",
        "curve, trained",
        "surface, trained",
    )
    curves = (errors["no bend"], staircase, errors["curve"], errors["surface"])
    run.figure("errors", plot_errors(widths, dict(zip(names, curves, strict=True))))

    run.claim(
        "Two sigmoids make a bump",
        holds=inside > 0.999 and abs(beside) < 1e-3,
        measured=f"{inside:.4f} in its middle, {beside:.1e} beside it",
    )
    run.claim(
        "Bumps side by side fit without training: the largest error is below its bound, which "
        "falls as the stairs get narrower",
        holds=all(worst[n] < bound(n) for n in widths)
        and (wide == narrow or worst[wide] < worst[narrow] / 2),
        measured=", ".join(
            f"{n} neurons {worst[n]:.2f} (bound {bound(n):.2f})" for n in widths
        ),
    )
    if len(widths) >= 3:
        shown = [widths.index(n) for n in (narrow, middle, wide)]
        falls = {
            name: [errors[name][index] for index in shown]
            for name in ("curve", "surface")
        }
        run.claim(
            "The error of trained networks falls as neurons are added",
            holds=all(c < b < a and c < a / 5 for a, b, c in falls.values()),
            measured=f"with {narrow}, {middle}, {wide} neurons: "
            + "; ".join(
                f"{name} {a:.4f}, {b:.4f}, {c:.4f}" for name, (a, b, c) in falls.items()
            ),
        )
    run.claim(
        "Training finds better networks than the construction",
        holds=errors["curve"][-1] < staircase[-1] / 2,
        measured=f"{wide} neurons: {errors['curve'][-1]:.4f} trained, {staircase[-1]:.4f} not",
    )
    line = np.polynomial.Polynomial.fit(x[:, 0], curve(x[:, 0]), 1)
    straight = root_mean_square(line(new[:, 0]) - curve(new[:, 0]))
    run.claim(
        "It is the bend: without it any number of neurons draws the best straight line",
        holds=np.allclose(errors["no bend"], straight, rtol=0.01)
        and errors["curve"][-1] < straight / 10,
        measured=f"{errors['no bend'][0]:.4f} with {narrow} neurons, {errors['no bend'][-1]:.4f} "
        f"with {wide}; least squares {straight:.4f}",
    )
    network = models["curve"][wide]
    served = keras.Model(network.input, {"value": network.output}, name=network.name)
    run.export(served, example=fine[::500].astype("float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
