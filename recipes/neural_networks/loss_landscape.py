"""The loss landscape: where training ends, what lies between, how wide the valleys are.

A loss over thousands of weights is not convex, yet gradient descent finds its way.
Three looks at
it: many restarts, to see whether they end in bad local optima; straight lines, (1 −
t)·w + t·w′, to a solution from its own start and from another solution; curvature, the
largest eigenvalue of the Hessian H, by power iteration v ← Hv / |Hv|, where Hv is the
gradient of the gradient's product with v and H itself is never written down. Look at
how alike the restarts end, at the hills between solutions, and at the surfaces around
two minima that are equally low.

All networks train at once, and all points of a line or a surface are networks too: a
network is a point, the vector of its weights, and the model is mapped over points
(networks, weights) by `tf.vectorized_map` in one compiled call.

Lectures: N18 3.2 Intriguing Properties; CS Optimization
Paper: Li et al., Visualizing the loss landscape of neural nets, 2018 (section 4: filter
    normalization); Keskar et al., On large-batch training for deep learning, 2017
Tags: loss surface, local minima, sharp minima, flat minima, hessian eigenvalue,
    curvature, mode connectivity
"""

import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm

from deep_learning_recipes import data, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    neurons: int = 32
    """width of the hidden layer; a narrow network of 3 is compared with it"""
    restarts: int = 30
    """networks of each width, each with its own start"""
    steps: int = 3000
    """of stochastic gradient descent with batches of 20, for each restart"""
    solutions: int = 16
    """networks trained to one loss by small batches, and as many by the whole one"""
    small_batch: int = 4
    """images that a small batch's gradient is averaged over"""
    resolution: int = 41
    """points of a line, and of a surface in each direction"""


QUICK = Config(restarts=12, steps=1500, solutions=8, resolution=31)
FULL = Config(neurons=128, restarts=100, steps=20_000, solutions=64, resolution=61)
EXAMPLES, NARROW, BATCH, LEARNING_RATE = 300, 3, 20, 0.3
TARGET, CALL = (
    0.05,
    20,
)  # nats at which small and whole batches stop; steps in a compiled call


def build_model(neurons: int, dtype: str = "float32") -> keras.Model:
    """One network. Input: (batch, 64) pixels in [0, 1]. Output: (batch, 10) logits."""
    x = keras.Input((64,), dtype=dtype, name="x")
    hidden = keras.layers.Dense(neurons, "silu", dtype=dtype, name="hidden")(x)
    return keras.Model(
        x, keras.layers.Dense(10, dtype=dtype, name="logits")(hidden), name="mlp"
    )


def weights_at(model: keras.Model, points) -> list[tf.Tensor]:
    """Points (networks, weights) as the model's weights, (networks, *shape) each."""
    parts = tf.split(points, [np.prod(each.shape) for each in model.weights], axis=1)
    return [
        tf.reshape(p, (-1, *w.shape)) for p, w in zip(parts, model.weights, strict=True)
    ]


def draw_starts(neurons: int, widths) -> tf.Variable:
    """A start for each network. Neurons beyond its width have zero weights, which stay
    zero."""
    starts = [build_model(neurons).get_weights() for _ in widths]
    for (kernel, _, kernel_out, _), width in zip(starts, widths, strict=True):
        kernel[:, width:], kernel_out[width:] = 0, 0
    return tf.Variable([np.concatenate([w.ravel() for w in each]) for each in starts])


def logits_of(model: keras.Model, points, x):
    """Every network on the same images (batch, 64). Returns (networks, batch, 10)."""
    copies = tf.tile(
        x[tf.newaxis], (points.shape[0], 1, 1)
    )  # multiplied as a stack: far faster
    weights = weights_at(model, points)
    return tf.vectorized_map(
        lambda e: model.stateless_call(*e)[0], (weights, [], copies)
    )


def losses_of(model: keras.Model, points, x, y):
    """Cross-entropy of each network in nats, (networks,). x: (images, 64); y:
    (images,)."""
    labels = tf.tile(y[tf.newaxis], (points.shape[0], 1))
    logits = logits_of(model, points, x)
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), axis=1
    )


def gradients_of(model: keras.Model, points, x, y):
    """Each network's gradient. No loss depends on another's weights, so it is that of
    their sum."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        loss = tf.reduce_sum(losses_of(model, points, x, y))
    return tape.gradient(loss, points)


@tf.function(jit_compile=True)
def descend(model: keras.Model, points: tf.Variable, x, y, batches, target):
    """A step of each network on each batch, unless its loss is down at the target
    already.
    batches: (steps, batch size) rows of x and y. Returns the losses, (networks,)."""
    rates = LEARNING_RATE * tf.cast(losses_of(model, points, x, y) > target, x.dtype)
    for rows in batches:
        gradients = gradients_of(model, points, tf.gather(x, rows), tf.gather(y, rows))
        points.assign_sub(rates[:, tf.newaxis] * gradients)
    return losses_of(model, points, x, y)


def hessian_product(model: keras.Model, points, directions, x, y):
    """H v of each network. directions: (networks, weights)."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        slope = tf.reduce_sum(gradients_of(model, points, x, y) * directions)
    return tape.gradient(slope, points)


@tf.function(jit_compile=True)
def sharpness(model: keras.Model, points, directions, x, y, steps):
    """The eigenvalue of largest size of each network's Hessian, (networks,)."""
    values = tf.zeros(points.shape[0], points.dtype)
    for _ in tf.range(steps):
        directions = tf.math.l2_normalize(directions, axis=1, epsilon=1e-30)
        products = hessian_product(model, points, directions, x, y)
        values, directions = tf.reduce_sum(directions * products, axis=1), products
    return values


def draw_direction(random: np.random.Generator, weights) -> np.ndarray:
    """A random direction (weights,) in which each neuron's are as long as its own; 0
    for biases."""
    parts = []
    for weight in weights:
        drawn = random.normal(size=weight.shape)
        length = np.linalg.norm(weight, axis=0) * (len(weight.shape) > 1)
        parts.append(np.ravel(drawn / np.linalg.norm(drawn, axis=0) * length))
    return np.concatenate(parts)


def plot_surfaces(span: np.ndarray, surfaces: dict[str, np.ndarray]) -> plt.Figure:
    """Losses (points, points) around minima, from the side and from above, on one
    scale."""
    low, top = np.min(list(surfaces.values())), np.max(list(surfaces.values()))
    colors = {
        "cmap": "cividis",
        "norm": LogNorm(low, top),
    }  # the valley's floor is of interest
    marks, ticks = (
        [0.05, 0.1, 0.2, 0.5, 1, 2, 5],
        {"xticks": [-1, 0, 1], "yticks": [-1, 0, 1]},
    )
    figure = plt.figure(figsize=(10, 8))
    for column, (title, losses) in enumerate(surfaces.items(), start=1):
        hill = figure.add_subplot(2, 2, column, projection="3d", title=title)
        hill.plot_surface(
            *np.meshgrid(span, span), losses, rcount=41, ccount=41, **colors
        )
        hill.set(zlim=(0, top), zlabel="loss (nats)", **ticks)
        axes = figure.add_subplot(2, 2, 2 + column, aspect="equal", **ticks)
        filled = axes.contourf(span, span, losses, np.geomspace(low, top, 25), **colors)
        axes.clabel(
            axes.contour(span, span, losses, marks[1:-1], colors="white"), fmt="%g"
        )
        axes.set(xlabel="first random direction", ylabel="second random direction")
    figure.colorbar(
        filled, ax=figure.axes, ticks=marks, format="%g", label="training loss (nats)"
    )
    return figure


def plot_valleys(t, lines: dict, ends: dict, minima: dict) -> plt.Figure:
    """lines: losses (lines, points); ends: losses (restarts,); minima: sharpness, test
    accuracy."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2))
    for name, losses in lines.items():
        (line,) = left.plot(t, losses.mean(axis=0), label=name)
        left.fill_between(
            t, losses.min(0), losses.max(0), color=line.get_color(), alpha=0.2
        )
    left.set(
        title="Straight lines to solutions", xlabel="t", ylabel="training loss (nats)"
    )
    bins = np.linspace(0, max(map(np.max, ends.values())), 31)
    middle.hist(
        list(ends.values()), bins, label=list(ends), histtype="stepfilled", alpha=0.8
    )
    middle.set(
        title="Where restarts end",
        xlabel="final training loss (nats)",
        ylabel="networks",
    )
    for (name, values), marker in zip(minima.items(), "os", strict=True):
        right.plot(*values, marker, label=name)
    right.set(
        title="Minima equally low",
        ylabel="test accuracy",
        xlabel="largest eigenvalue of H",
    )
    for axes in figure.axes:
        axes.legend(loc="center" if axes is right else "upper right")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(3)
    (x, y), (x_test, y_test) = data.load("digits")
    random, n = np.random.default_rng(run.seed), EXAMPLES
    rows = random.permutation(len(x) + len(x_test))
    x, y = np.concatenate([x, x_test]).reshape(-1, 64)[rows], np.append(y, y_test)[rows]
    pairs = tf.constant(x[:n]), tf.constant(y[:n])
    model, compiled = (
        build_model(config.neurons),
        tf.function(losses_of, jit_compile=True),
    )

    def train(
        name: str, points: tf.Variable, size: int, calls: int, target: float
    ) -> np.ndarray:
        losses = np.full(points.shape[0], np.inf)
        for _ in run.loop(name, calls, {"all": [points, losses, random]}, unit="calls"):
            if losses.max() > target:
                batches = [random.choice(n, size, replace=False) for _ in range(CALL)]
                losses[:] = descend(model, points, *pairs, tf.constant(batches), target)
        return losses

    # Many restarts of a narrow and of a wide network, all at once.
    started = time.perf_counter()
    points = draw_starts(
        config.neurons, np.repeat([NARROW, config.neurons], config.restarts)
    )
    ends = train(
        f"{points.shape[0]} restarts", points, BATCH, config.steps // CALL, 0.0
    )
    seconds = (time.perf_counter() - started) / len(ends)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:n], y[:n], batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    model.fit(x[:n], y[:n], batch_size=BATCH, epochs=10, verbose=0)
    speedup = (
        (time.perf_counter() - started) * config.steps * BATCH / (10 * n) / seconds
    )
    narrow, wide = np.split(ends, 2)

    # The same starts to the same loss, by small batches and by the whole one.
    starts = draw_starts(config.neurons, [config.neurons] * config.solutions)
    solutions, minima, losses = {}, {}, []
    for name, size in (("small batches", config.small_batch), ("whole batch", n)):
        points = tf.Variable(starts)
        losses.append(train(name, points, size, 60, TARGET))
        solutions[name] = points = tf.convert_to_tensor(points)
        directions = tf.constant(random.normal(size=points.shape), tf.float32)
        right = np.argmax(logits_of(model, points, x[n:]), axis=-1) == y[n:]
        minima[name] = (
            sharpness(model, points, directions, *pairs, 60).numpy(),
            right.mean(axis=-1),
        )
    (flat, flat_test), (sharp, sharp_test) = np.mean(list(minima.values()), axis=2)

    # Straight lines to each solution; every point is a network, (lines, points).
    found, t = (
        solutions["small batches"],
        np.linspace(0, 1, config.resolution, dtype="float32"),
    )
    lines, at = {}, t[:, np.newaxis]
    for name, origin in {
        "its start": starts,
        "another solution": tf.roll(found, 1, 0),
    }.items():
        points = (1 - at) * origin[:, tf.newaxis] + at * found[:, tf.newaxis]
        values = compiled(model, tf.reshape(points, (-1, points.shape[-1])), *pairs)
        lines[f"from {name}"] = np.reshape(values, (-1, len(t)))
    down, over = (
        np.max(v - np.minimum.accumulate(v, axis=1), axis=1) for v in lines.values()
    )
    both = {f"{config.neurons} neurons": wide, f"{NARROW} neurons": narrow}
    run.figure("valleys", plot_valleys(t, lines, both, minima))

    # Slices through a minimum of each kind, along the same random numbers.
    span, surfaces = np.linspace(-1, 1, config.resolution), {}
    steps = np.stack(np.meshgrid(span, span), axis=-1).reshape(-1, 2)
    for name, points in solutions.items():
        draws, weights = (
            np.random.default_rng(run.seed),
            [w[0] for w in weights_at(model, points)],
        )
        plane = np.array(points[0]) + steps @ [
            draw_direction(draws, weights) for _ in range(2)
        ]
        values = compiled(model, tf.cast(plane, tf.float32), *pairs)
        title = f"Found by {name}, sharpness {minima[name][0][0]:.1f}"
        surfaces[title] = np.reshape(values, (len(span), -1))
    run.figure("surfaces", plot_surfaces(span, surfaces))

    run.metric("restarts_worst_loss", wide.max(), unit="nats")
    run.metric("hill_between_solutions", over.mean(), unit="nats")
    run.metric("small_batches_sharpness", flat)
    run.metric("whole_batch_sharpness", sharp)
    run.metric("speedup_over_keras_fits", speedup, timing=True)
    run.claim(
        "Bad local optima are unlikely where weights are many: all restarts end equally low",
        holds=np.ptp(wide) < 0.02 and np.ptp(narrow) > 0.1,
        measured=f"final losses {wide.min():.4f} to {wide.max():.4f} nats with {config.neurons} "
        f"neurons, {narrow.min():.2f} to {narrow.max():.2f} with {NARROW}",
    )
    run.claim(
        "Strangely non-convex: from a start all is downhill, between solutions is a hill",
        holds=down.max() < 0.03 and over.min() > 0.05,
        measured=f"climbs of at most {down.max():.3f} nats, {over.min():.2f} to {over.max():.2f}",
    )
    run.claim(
        "Small batches find flatter minima, but these do not test better here than the sharp ones",
        holds=np.max(losses) <= TARGET
        and sharp > 2 * flat
        and flat_test < sharp_test + 0.01,
        measured=f"largest eigenvalue {flat:.2f}, whole batch {sharp:.2f}; test accuracy "
        f"{flat_test:.4f}, {sharp_test:.4f}; loss {losses[0].mean():.3f}, {losses[1].mean():.3f}",
    )
    run.claim(
        "Many small networks train in compiled calls faster than one after another by Keras's fit",
        holds=speedup > 4,
        measured=f"{seconds:.2f} s for each of {len(ends)}; alone {speedup:.0f} times that",
    )
    model.set_weights([each[0] for each in weights_at(model, found)])
    run.export(serving.classifier(model), example=x[-3:])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
