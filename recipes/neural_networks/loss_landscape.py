"""The loss landscape: where training ends, what lies between, how wide the valleys are.

A loss over thousands of weights is not convex, yet gradient descent finds its way.
Three looks at it: many restarts, to see whether they end in bad local optima; straight
lines, (1 − t)·w + t·w′, to a solution from its own start and from another solution;
curvature, the largest eigenvalue of the Hessian H, by power iteration v ← Hv / |Hv|,
where Hv is the gradient of the gradient's product with v and H itself is never written
down. Look at how alike the restarts end, at the hills between solutions, at the
surfaces around two minima that are equally low, and at what more images do to a
minimum.

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
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving
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
# --------------------------------------------------------------------------------------
# The idea: a network is a point, and many points descend at once
# --------------------------------------------------------------------------------------

LEARNING_RATE = 0.3


def build_model(neurons: int, dtype: str = "float32") -> keras.Model:
    """One network. Input: (batch, 64) pixels in [0, 1]. Output: (batch, 10) logits."""
    x = keras.Input((64,), dtype=dtype, name="x")
    hidden = keras.layers.Dense(neurons, "silu", dtype=dtype, name="hidden")(x)
    logits = keras.layers.Dense(10, dtype=dtype, name="logits")(hidden)
    return keras.Model(x, logits, name="mlp")


def weights_at(model: keras.Model, points) -> list[tf.Tensor]:
    """Points (networks, weights) as the model's weights, (networks, *shape) each."""
    sizes = [np.prod(weight.shape) for weight in model.weights]
    parts = tf.split(points, sizes, axis=1)
    return [
        tf.reshape(part, (-1, *weight.shape))
        for part, weight in zip(parts, model.weights, strict=True)
    ]


def draw_starts(neurons: int, widths) -> tf.Variable:
    """A start for each network. Neurons beyond its width have zero weights, which stay
    zero."""
    points = []
    for width in widths:
        kernel, bias, kernel_out, bias_out = build_model(neurons).get_weights()
        kernel[:, width:] = 0
        kernel_out[width:] = 0
        weights = (kernel, bias, kernel_out, bias_out)
        points.append(np.concatenate([each.ravel() for each in weights]))
    return tf.Variable(points)


def logits_of(model: keras.Model, points, x):
    """Every network on the same images (batch, 64). Returns (networks, batch, 10)."""
    # Multiplied as a stack of copies: far faster.
    copies = tf.tile(x[tf.newaxis], (points.shape[0], 1, 1))

    def one(weights_and_images):
        outputs, _ = model.stateless_call(*weights_and_images)
        return outputs

    return tf.vectorized_map(one, (weights_at(model, points), [], copies))


def losses_of(model: keras.Model, points, x, y):
    """Cross-entropy of each network in nats, (networks,). x: (images, 64); y:
    (images,)."""
    labels = tf.tile(y[tf.newaxis], (points.shape[0], 1))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels, logits_of(model, points, x)
    )
    return tf.reduce_mean(losses, axis=1)


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
    already. batches: (steps, batch size) rows of x and y. Returns the losses,
    (networks,)."""
    goes_on = losses_of(model, points, x, y) > target
    rates = LEARNING_RATE * tf.cast(goes_on, x.dtype)
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
        values = tf.reduce_sum(directions * products, axis=1)
        directions = products
    return values


def line(start, end, t):
    """(1 − t)·start + t·end, (networks, points, weights). start, end: (networks,
    weights); t: (points,)."""
    t = t[:, tf.newaxis]
    return (1 - t) * start[:, tf.newaxis] + t * end[:, tf.newaxis]


def draw_direction(random: np.random.Generator, weights) -> np.ndarray:
    """A random direction (weights,) in which each neuron's are as long as its own; 0
    for biases."""
    parts = []
    for weight in weights:
        is_kernel = len(weight.shape) > 1
        drawn = random.normal(size=weight.shape)
        length = np.linalg.norm(weight, axis=0) * is_kernel
        parts.append(np.ravel(drawn / np.linalg.norm(drawn, axis=0) * length))
    return np.concatenate(parts)


# --------------------------------------------------------------------------------------
# The experiment: restarts, lines, and two kinds of minima
# --------------------------------------------------------------------------------------

EXAMPLES = 300  # to train on; the others are held out
NARROW = 3  # neurons
BATCH = 20  # images of a restart's batch
STEPS_OF_A_CALL = 20
CALLS = 60  # that small and whole batches have to come down to the target
TARGET = 0.05  # nats at which they stop
POWER_STEPS = 60
KERAS_EPOCHS = 10  # that Keras's fit is timed on
SIZES = (75, 300, 1200)  # images to train on, where their number is looked at


@dataclass
class Task:
    x: tf.Tensor
    y: tf.Tensor
    x_test: np.ndarray
    y_test: np.ndarray
    model: keras.Model
    random: np.random.Generator
    run: Run

    def train(self, name: str, points: tf.Variable, size: int, calls: int, target=0.0):
        """By batches of so many images. Returns the final losses, (networks,)."""
        losses = np.full(points.shape[0], np.inf)
        state = {"all": [points, losses, self.random]}
        for _ in self.run.loop(name, calls, state, unit="calls"):
            if losses.max() > target:
                batches = tf.constant(self.draw_batches(size))
                losses[:] = descend(self.model, points, self.x, self.y, batches, target)
        return losses

    def draw_batches(self, size: int) -> list[np.ndarray]:
        return [
            self.random.choice(len(self.x), size, replace=False)
            for _ in range(STEPS_OF_A_CALL)
        ]

    def losses(self, points) -> np.ndarray:
        """Of points (..., weights)."""
        flat = tf.reshape(tf.cast(points, tf.float32), (-1, points.shape[-1]))
        found = tf.function(losses_of, jit_compile=True)(
            self.model, flat, self.x, self.y
        )
        return np.reshape(found, points.shape[:-1])

    def test_accuracies(self, points) -> np.ndarray:
        """(networks,)."""
        logits = logits_of(self.model, points, self.x_test)
        return np.mean(np.argmax(logits, axis=-1) == self.y_test, axis=-1)


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load("digits")
    x = np.concatenate([x, x_test]).reshape(-1, 64)
    y = np.append(y, y_test)
    random = np.random.default_rng(run.seed)
    rows = random.permutation(len(x))
    x = x[rows]
    y = y[rows]
    return Task(
        tf.constant(x[:EXAMPLES]),
        tf.constant(y[:EXAMPLES]),
        x[EXAMPLES:],
        y[EXAMPLES:],
        build_model(config.neurons),
        random,
        run,
    )


def with_images(task: Task, count: int) -> Task:
    """The same task with so many images to train on. They are repeated to the largest
    of the sizes, so that one compiled call serves them all; all are tested on the same
    others."""
    more = max(SIZES) - len(task.x)
    x = np.concatenate([task.x, task.x_test[:more]])[:count]
    y = np.concatenate([task.y, task.y_test[:more]])[:count]
    return replace(
        task,
        x=tf.constant(np.resize(x, (max(SIZES), 64))),
        y=tf.constant(np.resize(y, max(SIZES))),
        x_test=task.x_test[more:],
        y_test=task.y_test[more:],
    )


def restart(task: Task, config: Config) -> tuple[dict[str, np.ndarray], float]:
    """Final losses of narrow and of wide networks, all trained at once, and the seconds
    that each took."""
    started = time.perf_counter()
    widths = np.repeat([NARROW, config.neurons], config.restarts)
    points = draw_starts(config.neurons, widths)
    name = f"{len(widths)} restarts"
    ends = task.train(name, points, BATCH, config.steps // STEPS_OF_A_CALL)
    seconds = (time.perf_counter() - started) / len(ends)
    narrow, wide = np.split(ends, 2)
    names = (f"{config.neurons} neurons", f"{NARROW} neurons")
    return dict(zip(names, (wide, narrow), strict=True)), seconds


def seconds_of_keras(task: Task, config: Config) -> float:
    """That one restart would take by Keras's fit, from the time of ten epochs."""
    task.model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x = task.x.numpy()
    y = task.y.numpy()
    task.model.fit(x, y, batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    task.model.fit(x, y, batch_size=BATCH, epochs=KERAS_EPOCHS, verbose=0)
    steps = KERAS_EPOCHS * EXAMPLES / BATCH
    return (time.perf_counter() - started) * config.steps / steps


@dataclass
class Minima:
    """Networks trained from the same starts to the same loss."""

    points: tf.Tensor
    losses: np.ndarray
    sharpness: np.ndarray
    test_accuracies: np.ndarray


def find_minima(task: Task, starts, config: Config) -> dict[str, Minima]:
    """By small batches and by the whole one."""
    return {
        "small batches": find(task, "small batches", starts, config.small_batch),
        "whole batch": find(task, "whole batch", starts, EXAMPLES),
    }


def find(
    task: Task, name: str, starts, size: int, calls: int = CALLS, target: float = TARGET
) -> Minima:
    points = tf.Variable(starts)
    losses = task.train(name, points, size, calls, target)
    points = tf.convert_to_tensor(points)
    directions = tf.constant(task.random.normal(size=points.shape), tf.float32)
    eigenvalues = sharpness(task.model, points, directions, task.x, task.y, POWER_STEPS)
    accuracies = task.test_accuracies(points)
    return Minima(points, losses, eigenvalues.numpy(), accuracies)


def find_by_size(task: Task, starts, config: Config) -> dict[int, Minima]:
    """From the same starts, by as many steps, with more and more images."""
    calls = config.steps // STEPS_OF_A_CALL
    return {
        count: find(
            with_images(task, count),
            f"{count} images",
            starts,
            BATCH,
            calls,
            target=0.0,
        )
        for count in SIZES
    }


def judge_restarts(ends: dict[str, np.ndarray], run: Run) -> None:
    wide, narrow = ends.values()
    of_wide, of_narrow = ends
    run.metric("restarts_worst_loss", wide.max(), unit="nats")
    run.claim(
        "Bad local optima are unlikely where weights are many: all restarts end equally "
        "low",
        holds=np.ptp(wide) < 0.02 and np.ptp(narrow) > 0.1,
        measured=f"final losses {wide.min():.4f} to {wide.max():.4f} nats with "
        f"{of_wide}, {narrow.min():.2f} to {narrow.max():.2f} with {of_narrow}",
    )


def climb(losses: np.ndarray) -> np.ndarray:
    """The most that each line goes up from its lowest point so far, (lines,)."""
    return np.max(losses - np.minimum.accumulate(losses, axis=1), axis=1)


def judge_lines(lines: dict[str, np.ndarray], run: Run) -> None:
    down = climb(lines["from its start"])
    over = climb(lines["from another solution"])
    run.metric("hill_between_solutions", over.mean(), unit="nats")
    run.claim(
        "Strangely non-convex: from a start all is downhill, between solutions is a hill",
        holds=down.max() < 0.03 and over.min() > 0.05,
        measured=f"climbs of at most {down.max():.3f} nats, {over.min():.2f} to "
        f"{over.max():.2f}",
    )


def judge_minima(minima: dict[str, Minima], run: Run) -> None:
    small = minima["small batches"]
    whole = minima["whole batch"]
    flat = small.sharpness.mean()
    sharp = whole.sharpness.mean()
    of_flat = small.test_accuracies.mean()
    of_sharp = whole.test_accuracies.mean()
    run.metric("small_batches_sharpness", flat)
    run.metric("whole_batch_sharpness", sharp)
    run.claim(
        "Small batches find flatter minima, but these do not test better here than the "
        "sharp ones",
        holds=max(small.losses.max(), whole.losses.max()) <= TARGET
        and sharp > 2 * flat
        and of_flat < of_sharp + 0.01,
        measured=f"largest eigenvalue {flat:.2f}, whole batch {sharp:.2f}; test accuracy "
        f"{of_flat:.4f}, {of_sharp:.4f}; loss {small.losses.mean():.3f}, "
        f"{whole.losses.mean():.3f}",
    )


def judge_sizes(by_size: dict[int, Minima], run: Run) -> None:
    curvature = {count: each.sharpness.mean() for count, each in by_size.items()}
    accuracy = {count: each.test_accuracies.mean() for count, each in by_size.items()}
    few, *_, many = SIZES
    for count in SIZES:
        run.metric(f"sharpness_of_{count}_images", curvature[count])
        run.metric(f"test_accuracy_of_{count}_images", accuracy[count])
    run.claim(
        "After as many steps minima of more images are sharper and less deep, and test "
        "better",
        holds=curvature[many] > 2 * curvature[few]
        and by_size[many].losses.mean() > 2 * by_size[few].losses.mean()
        and accuracy[many] > accuracy[few] + 0.03,
        measured="; ".join(
            f"{count} images: largest eigenvalue {curvature[count]:.3f}, test accuracy "
            f"{accuracy[count]:.4f}, loss {by_size[count].losses.mean():.4f}"
            for count in SIZES
        ),
    )


def judge_speed(seconds: float, alone: float, networks: int, run: Run) -> None:
    run.metric("speedup_over_keras_fits", alone / seconds, timing=True)
    run.claim(
        "Many small networks train in compiled calls faster than one after another by "
        "Keras's fit",
        holds=alone / seconds > 4,
        measured=f"{seconds:.2f} s for each of {networks}; alone "
        f"{alone / seconds:.0f} times that",
    )


def slice_through(minima: Minima, task: Task, span: np.ndarray) -> np.ndarray:
    """Losses around the first minimum, (points, points), along two random directions,
    which are drawn from the same numbers each time."""
    random = np.random.default_rng(task.run.seed)
    weights = [each[0] for each in weights_at(task.model, minima.points)]
    directions = [draw_direction(random, weights) for _ in range(2)]
    steps = np.stack(np.meshgrid(span, span), axis=-1)
    return task.losses(np.array(minima.points[0]) + steps @ directions)


def draw_sizes(by_size: dict[int, Minima]) -> Figure:
    measures = {
        "Sharpness": [each.sharpness for each in by_size.values()],
        "Test accuracy": [each.test_accuracies for each in by_size.values()],
        "Training loss": [each.losses for each in by_size.values()],
    }
    units = ("largest eigenvalue of H", "share of held-out images", "nats")
    shown = [
        figures.Panel(
            title=title,
            xlabel="images to train on",
            ylabel=unit,
            lines={"": (SIZES, np.array(values))},
            xscale="log",
            xticks=SIZES,
            ylim=None if title == "Test accuracy" else (0, None),
        )
        for (title, values), unit in zip(measures.items(), units, strict=True)
    ]
    title = "More images, as many steps (mean and range of the starts)"
    return figures.panels(*shown, title=title)


def draw_surfaces(span: np.ndarray, surfaces: dict[str, np.ndarray]) -> Figure:
    """Losses (points, points) around minima, from the side and from above, on one
    scale."""
    low = np.min(list(surfaces.values()))
    top = np.max(list(surfaces.values()))
    norm = LogNorm(low, top)  # the valley's floor is of interest
    marks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    figure = plt.figure(figsize=(10, 8))
    for column, (title, losses) in enumerate(surfaces.items(), start=1):
        hill = figure.add_subplot(2, 2, column, projection="3d", title=title)
        hill.plot_surface(
            *np.meshgrid(span, span),
            losses,
            rcount=41,
            ccount=41,
            norm=norm,
            cmap="cividis",
        )
        hill.set(zlim=(0, top), zlabel="loss (nats)")
        axes = figure.add_subplot(2, 2, 2 + column, aspect="equal")
        levels = np.geomspace(low, top, 25)
        filled = axes.contourf(span, span, losses, levels, norm=norm)
        contours = axes.contour(span, span, losses, marks[1:-1], colors="white")
        axes.clabel(contours, fmt="%g")
        axes.set(xlabel="first random direction", ylabel="second random direction")
    for axes in figure.axes:
        axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    figure.colorbar(
        filled, ax=figure.axes, ticks=marks, format="%g", label="training loss (nats)"
    )
    return figure


def draw_valleys(t, lines: dict, ends: dict, minima: dict[str, Minima]) -> Figure:
    """lines: losses (lines, points); ends: losses (restarts,)."""
    straight = figures.Panel(
        title="Straight lines to solutions",
        xlabel="t",
        ylabel="training loss (nats)",
        lines={name: (t, losses.T) for name, losses in lines.items()},
    )
    restarts = figures.Panel(
        title="Where restarts end",
        xlabel="share of the networks",
        ylabel="final training loss (nats), at most",
        lines={
            name: ((np.arange(len(losses)) + 1) / len(losses), np.sort(losses))
            for name, losses in ends.items()
        },
    )
    equally_low = figures.Panel(
        title="Minima equally low",
        xlabel="largest eigenvalue of H",
        ylabel="test accuracy",
        points={
            name: (each.sharpness, each.test_accuracies)
            for name, each in minima.items()
        },
    )
    return figures.panels(straight, restarts, equally_low)


def main(config: Config, run: Run) -> None:
    run.plan(3 + len(SIZES))
    task = load_task(config, run)
    ends, seconds = restart(task, config)
    alone = seconds_of_keras(task, config)

    starts = draw_starts(config.neurons, [config.neurons] * config.solutions)
    minima = find_minima(task, starts, config)
    solutions = minima["small batches"].points
    t = np.linspace(0, 1, config.resolution, dtype="float32")
    lines = {
        "from its start": task.losses(line(starts, solutions, t)),
        "from another solution": task.losses(
            line(tf.roll(solutions, 1, axis=0), solutions, t)
        ),
    }
    by_size = find_by_size(task, starts, config)
    judge_restarts(ends, run)
    judge_lines(lines, run)
    judge_minima(minima, run)
    judge_sizes(by_size, run)
    judge_speed(seconds, alone, 2 * config.restarts, run)

    run.figure("valleys", draw_valleys(t, lines, ends, minima))
    run.figure("sizes", draw_sizes(by_size))
    span = np.linspace(-1, 1, config.resolution)
    surfaces = {
        f"Found by {name}, sharpness {each.sharpness[0]:.1f}": slice_through(
            each, task, span
        )
        for name, each in minima.items()
    }
    run.figure("surfaces", draw_surfaces(span, surfaces))
    model = task.model
    model.set_weights([each[0] for each in weights_at(model, solutions)])
    run.export(serving.classifier(model), example=task.x_test[-3:])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
