"""Density estimation: how likely each point is, by six kinds of model.

From points alone, p(x) is to be found, so that held-out points are likely. A histogram
counts in cells; a kernel estimate lays a bump over each point; a mixture of Gaussians
has few bumps, moved by expectation maximization (k-means is its limit for equal, small
variances). Neural networks factor or transform. A masked autoregressive network gives
each number's distribution given those before it, p(x) = Π_i p(x_i | x_1, ..., x_{i−1}).
A normalizing flow bends x, by steps that can be undone, into z of a law that is known:
log p(x) = log p(z) + log |det ∂z/∂x|.
On a line and in the plane all come near to the law that the points were drawn by. Look
at the maps, and at what happens as the points have more numbers: cells and bumps run out
of points to fill them.

Lectures: SEL Unsupervised Learning; INFO Generative Models
Paper: Germain et al., MADE: masked autoencoder for distribution estimation, 2015
    (sections 3 and 4); Dinh et al., Density estimation using Real NVP, 2017 (equations
    2 to 6); Ho et al., Flow++, 2019 (the coupling by a mixture of logistics, section 3.2)
Tags: gaussian mixture, normalizing flow, kernel density, likelihood, expectation
    maximization, clustering, k-means, curse of dimensionality
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
from scipy.special import logsumexp
from sklearn.metrics import euclidean_distances

from deep_learning_recipes import UsageError, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    sizes: tuple[int, ...] = (2, 4, 8, 16)
    """numbers in a point, even; the plane, 2, is always among them"""
    points: Annotated[int, Interval(ge=100)] = 10_000
    """to learn from; a twentieth as many choose bins, bandwidth and components, and a
    fifth as many are held out"""
    width: int = 128
    """units of the networks' hidden layers"""
    components: int = 10
    """in each of the mixtures that the networks have for a number"""
    couplings: Annotated[int, Interval(ge=2)] = 2
    """steps of the flow"""
    epochs: int = 40
    """passes over the points"""
    batch_size: int = 256
    """points a gradient is averaged over"""
    learning_rate: float = 4e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""


QUICK = Config(sizes=(2, 8), points=4000, width=64, epochs=30, learning_rate=1e-2)
FULL = Config(
    sizes=(2, 4, 8, 16, 32), points=50_000, width=256, couplings=4, epochs=100
)

# --------------------------------------------------------------------------------------
# The idea: count, lay bumps, factor, or bend
# --------------------------------------------------------------------------------------

LOG_2_PI = math.log(2 * math.pi)
BOX = (-3.0, 3.0)  # where all points lie, along each axis
FLOOR = 0.01  # variance of one more point that each Gaussian of a mixture has


class Histogram:
    """Counts in cells of a grid over the box, `bins` along each axis. One point more is
    spread over all cells, so that no cell is impossible."""

    def __init__(self, x: np.ndarray, bins: int):
        """x: (n, size)."""
        self.bins = bins
        self.cells, self.counts = np.unique(self.cell(x), return_counts=True)
        self.total = len(x)

    def cell(self, x: np.ndarray) -> np.ndarray:
        """The number of each point's cell, (n,)."""
        low, high = BOX
        along = np.floor((x - low) / (high - low) * self.bins).astype(int)
        along = np.clip(along, 0, self.bins - 1)
        return along @ self.bins ** np.arange(x.shape[1])

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """(n,)."""
        low, high = BOX
        log_volume = x.shape[1] * math.log((high - low) / self.bins)
        log_cells = x.shape[1] * math.log(self.bins)
        cell = self.cell(x)
        place = np.searchsorted(self.cells, cell).clip(max=len(self.cells) - 1)
        counts = np.where(self.cells[place] == cell, self.counts[place], 0)
        shares = (counts + math.exp(-log_cells)) / (self.total + 1)
        inside = np.all((x >= low) & (x < high), axis=1)
        return np.where(inside, np.log(shares) - log_volume, -np.inf)


class Kernel:
    """The mean of Gaussian bumps, one over each point x (n, size)."""

    def __init__(self, x: np.ndarray, bandwidth: float):
        self.x = x
        self.bandwidth = bandwidth

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """(n,)."""
        parts = np.array_split(x, math.ceil(len(x) / 500))
        return np.concatenate([self.of_part(part) for part in parts])

    def of_part(self, x: np.ndarray) -> np.ndarray:
        log_bumps = log_spherical(x, self.x, self.bandwidth)
        return logsumexp(log_bumps, axis=1) - math.log(len(self.x))


def log_spherical(x: np.ndarray, means: np.ndarray, deviation: float) -> np.ndarray:
    """log N(x; μ, σ²·I) of points (n, size) and means (k, size): (n, k)."""
    distances = euclidean_distances(x, means, squared=True)
    log_volume = x.shape[1] * (math.log(deviation) + 0.5 * LOG_2_PI)
    return -0.5 * distances / deviation**2 - log_volume


def k_means(x: np.ndarray, count: int, random: np.random.Generator, steps: int = 30):
    """Each point to the nearest mean, each mean to the middle of its points, in turns.
    Returns the means, (count, size)."""
    means = first_means(x, count, random)
    for _ in range(steps):
        nearest = euclidean_distances(x, means, squared=True).argmin(axis=1)
        for k in np.unique(nearest):
            means[k] = x[nearest == k].mean(axis=0)
    return means


def first_means(x: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Points to begin with, each drawn in proportion to the squared distance from those
    before (Arthur and Vassilvitskii, k-means++, 2007)."""
    chosen = [x[random.integers(len(x))]]
    distances = np.full(len(x), np.inf)
    for _ in range(count - 1):
        distances = np.minimum(distances, np.sum((x - chosen[-1]) ** 2, axis=1))
        chosen.append(x[random.choice(len(x), p=distances / distances.sum())])
    return np.array(chosen)


class GaussianMixture:
    """p(x) = Σ_k π_k·N(x; μ_k, Σ_k), by expectation maximization from the clusters of
    k-means. x: (n, size)."""

    def __init__(
        self, x: np.ndarray, count: int, random: np.random.Generator, steps: int = 25
    ):
        means = k_means(x, count, random, steps=10)
        nearest = euclidean_distances(x, means, squared=True).argmin(axis=1)
        self.maximize(x, np.eye(count)[nearest])
        for _ in range(steps):
            self.maximize(x, self.responsibilities(x))

    def maximize(self, x: np.ndarray, shares: np.ndarray) -> None:
        """The M step: weights, means and covariances. shares: the responsibilities, (n,
        k)."""
        size = x.shape[1]
        counts = shares.sum(axis=0) + 1e-6
        self.weights = counts / counts.sum()
        self.means = shares.T @ x / counts[:, None]
        self.covariances = np.empty((len(counts), size, size))
        for k, mean in enumerate(self.means):
            away = x - mean
            scatter = (shares[:, k, None] * away).T @ away
            # One more point, spread alike in all directions, keeps a Gaussian from
            # collapsing onto a few points.
            scatter += FLOOR * np.eye(size)
            self.covariances[k] = scatter / (counts[k] + 1)

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """log π_k + log N(x; μ_k, Σ_k), (n, k)."""
        found = np.empty((len(x), len(self.means)))
        for k, (mean, covariance) in enumerate(
            zip(self.means, self.covariances, strict=True)
        ):
            root = np.linalg.cholesky(covariance)
            white = (x - mean) @ np.linalg.inv(root).T
            log_volume = np.log(np.diag(root)).sum() + 0.5 * len(mean) * LOG_2_PI
            found[:, k] = -0.5 * np.sum(white**2, axis=1) - log_volume
        return found + np.log(self.weights)

    def responsibilities(self, x: np.ndarray) -> np.ndarray:
        """The E step: p(k | x), (n, k)."""
        log_joint = self.log_joint(x)
        return np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """(n,)."""
        return logsumexp(self.log_joint(x), axis=1)


class MaskedDense(layers.Layer):
    """A dense layer whose kernel is multiplied by a mask (inputs, outputs)."""

    def __init__(self, mask: np.ndarray, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.mask = mask.astype("float32")
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(shape=self.mask.shape, name="kernel")
        self.bias = self.add_weight(
            shape=(self.mask.shape[1],), initializer="zeros", name="bias"
        )

    def call(self, x):
        kernel = self.kernel * ops.cast(self.mask, x.dtype)
        return self.activation(ops.matmul(x, kernel) + self.bias)


def mixture_parameters(x, size: int, components: int):
    """Features (batch, ·) of size · 3 · components numbers as the logits of the shares,
    the means, and the log scales of a mixture for each number: (batch, size, components)
    each. The means begin side by side, as equal ones would stay together."""
    x = layers.Reshape((size, 3, components))(x)
    logits, means, log_scales = ops.unstack(x, axis=2)
    return logits, means + ops.linspace(-2.0, 2.0, components), log_scales - 1


def build_made(size: int, width: int, components: int) -> keras.Model:
    """A masked autoregressive network. Input: points (batch, size). Outputs: logits,
    means and log deviations of a mixture of Gaussians for each number, from the numbers
    before it, (batch, size, components) each."""
    inputs = np.arange(size)
    # A hidden unit of degree m sees the numbers up to m; it serves those after m.
    hidden = np.arange(width) % max(size - 1, 1)
    outputs = np.repeat(inputs, 3 * components)
    points = keras.Input((size,), name="points")
    x = MaskedDense(inputs[:, None] <= hidden, "silu")(points)
    x = MaskedDense(hidden[:, None] <= hidden, "silu")(x)
    x = MaskedDense(hidden[:, None] <= hidden, "silu")(x)
    # What likelihoods are made of stays in 32 bits, whatever --precision says.
    x = MaskedDense(hidden[:, None] < outputs, dtype="float32")(x)
    return keras.Model(points, mixture_parameters(x, size, components), name="made")


def made_log_density(made, x):
    """Σ_i log p(x_i | x_1, ..., x_{i−1}), (batch,): mixtures of Gaussians."""
    logits, means, log_deviations = made(x)
    away = (x[..., None] - means) * ops.exp(-log_deviations)
    log_normals = -0.5 * (ops.square(away) + LOG_2_PI) - log_deviations
    log_terms = ops.log_softmax(logits, axis=-1) + log_normals
    return ops.sum(ops.logsumexp(log_terms, axis=-1), axis=-1)


def made_sample(made, uniform, normal):
    """Draws points, (batch, size), one number after the other. uniform, normal: random
    numbers of that shape, which choose a Gaussian and draw from it."""
    size = normal.shape[1]
    x = ops.zeros_like(normal)
    for i in range(size):
        logits, means, log_deviations = made(x)
        reached = ops.cumsum(ops.softmax(logits[:, i]), axis=-1)[:, :-1]
        chosen = ops.sum(ops.cast(uniform[:, i, None] >= reached, "int32"), axis=-1)
        chosen = ops.one_hot(chosen, logits.shape[-1])
        mean = ops.sum(chosen * means[:, i], axis=-1)
        deviation = ops.exp(ops.sum(chosen * log_deviations[:, i], axis=-1))
        drawn = mean + deviation * normal[:, i]
        x = x + drawn[:, None] * ops.one_hot(i, size)
    return x


def bend(x, logits, means, log_scales):
    """z = logit F(x), where F is the distribution function of a mixture of logistics: if
    x is drawn from the mixture, z is from one logistic. And log dz/dx = log F′(x) −
    log F(x) − log (1 − F(x)). Both (batch, size)."""
    away = (x[..., None] - means) * ops.exp(-log_scales)
    log_shares = ops.log_softmax(logits, axis=-1)
    log_below = log_shares + ops.log_sigmoid(away)
    log_above = log_shares + ops.log_sigmoid(-away)
    log_densities = log_below + ops.log_sigmoid(-away) - log_scales

    log_cdf = ops.logsumexp(log_below, axis=-1)
    log_survival = ops.logsumexp(log_above, axis=-1)
    log_density = ops.logsumexp(log_densities, axis=-1)
    return log_cdf - log_survival, log_density - log_cdf - log_survival


def unbend(z, logits, means, log_scales, steps: int = 40):
    """The x that is bent to z, by halving an interval."""
    low = ops.full_like(z, -20.0)
    high = ops.full_like(z, 20.0)
    for _ in range(steps):
        middle = (low + high) / 2
        reached, _ = bend(middle, logits, means, log_scales)
        low = ops.where(reached < z, middle, low)
        high = ops.where(reached < z, high, middle)
    return (low + high) / 2


def steering(size: int, step: int) -> np.ndarray:
    """Which numbers steer in this step, every other one, in turns: (size,)."""
    return (np.arange(size) + step) % 2 == 1


def build_coupling(size: int, width: int, components: int, step: int) -> keras.Model:
    """How each number is bent, by those that steer. Input: points (batch, size).
    Outputs: as of `mixture_parameters`."""
    points = keras.Input((size,), name="points")
    x = ops.where(steering(size, step), points, 0.0)
    x = layers.Dense(width, "silu")(x)
    x = layers.Dense(width, "silu")(x)
    x = layers.Dense(3 * size * components, dtype="float32")(x)
    outputs = mixture_parameters(x, size, components)
    return keras.Model(points, outputs, name=f"coupling_{step}")


def build_flow(size: int, width: int, components: int, couplings: int) -> keras.Model:
    """A normalizing flow. Input: points x (batch, size). Outputs: z (batch, size), and
    log |det ∂z/∂x| (batch,). In each step the numbers that steer stay as they are, so
    the Jacobian is a triangle and its determinant a product."""
    points = keras.Input((size,), name="points")
    x = points
    log_det = ops.zeros_like(x[:, 0])
    for step in range(couplings):
        coupling = build_coupling(size, width, components, step)
        steers = steering(size, step)
        bent, log_slope = bend(x, *coupling(x))
        x = ops.where(steers, x, bent)
        log_det = log_det + ops.sum(ops.where(steers, 0.0, log_slope), axis=-1)
    return keras.Model(points, [x, log_det], name="flow")


def flow_log_density(flow, x):
    """log p(z) + log |det ∂z/∂x|, (batch,): z is from logistics, p(z) = σ(z)·σ(−z)."""
    z, log_det = flow(x)
    return log_det + ops.sum(ops.log_sigmoid(z) + ops.log_sigmoid(-z), axis=-1)


def flow_inverse(flow, z):
    """From z to x, (batch, size): the steps undone, the last one first. Where z is drawn
    from logistics, z = logit u of uniform u, x is drawn from the density."""
    size = z.shape[1]
    couplings = [each for each in flow.layers if each.name.startswith("coupling")]
    for step in reversed(range(len(couplings))):
        # What steers was not changed, so it tells the same on the way back.
        steers = steering(size, step)
        unbent = unbend(z, *flow.get_layer(f"coupling_{step}")(z))
        z = ops.where(steers, z, unbent)
    return z


LOG_DENSITIES = {"autoregressive": made_log_density, "flow": flow_log_density}


class MaximumLikelihood(keras.Model):
    """Trains a network so that the points are likely. `compile(optimizer)`, `fit(x)`."""

    def __init__(self, network, log_density, **kwargs):
        """log_density: a function of network and points."""
        super().__init__(**kwargs)
        self.network = network
        self.log_density = log_density
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, x):
        return self.log_density(self.network, x)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = -ops.mean(self(x))
            scaled = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(scaled, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def compile_model(model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    # Where a density is steep, a few points would have very large gradients.
    optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)
    model.compile(optimizer=optimizer)


# --------------------------------------------------------------------------------------
# The experiment: a line, two moons, and more and more pairs of moons at once
# --------------------------------------------------------------------------------------

NAMES = ("histogram", "kernel", "mixture", "autoregressive", "flow")

# What is chosen by validation points.
BINS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
BANDWIDTHS = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
COMPONENTS = (1, 4, 16, 64)

LINE_POINTS = 2000
LINE_MEANS = np.array([-1.5, 0.0, 1.3])
LINE_DEVIATIONS = np.array([0.15, 0.5, 0.2])
LINE_SHARES = np.array([0.3, 0.4, 0.3])
MOON_DEVIATION = 0.12
CLUSTERS = 8  # of k-means, beside a mixture of as many Gaussians


class Line:
    """The law of points on a line: three Gaussians."""

    size = 1

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        kind = random.choice(3, size=count, p=LINE_SHARES)
        x = random.normal(LINE_MEANS[kind], LINE_DEVIATIONS[kind])
        return x[:, None]

    def log_density(self, x: np.ndarray) -> np.ndarray:
        away = (x - LINE_MEANS) / LINE_DEVIATIONS
        log_normals = -0.5 * (away**2 + LOG_2_PI) - np.log(LINE_DEVIATIONS)
        return logsumexp(log_normals + np.log(LINE_SHARES), axis=1)


class Moons:
    """The law of points with so many numbers: each pair of them lies on one of two
    arcs, with Gaussian noise. An arc is 32 Gaussians, so the density is known."""

    def __init__(self, size: int):
        angle = np.linspace(0, np.pi, 32)
        upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
        self.size = size
        self.centers = 1.2 * (np.concatenate([upper, lower]) - [0.5, 0.25])

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        chosen = random.integers(len(self.centers), size=(count, self.size // 2))
        noise = random.normal(0, MOON_DEVIATION, size=(count, self.size // 2, 2))
        x = self.centers[chosen] + noise
        return x.reshape(count, self.size)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        log_bumps = log_spherical(x.reshape(-1, 2), self.centers, MOON_DEVIATION)
        log_pairs = logsumexp(log_bumps, axis=1) - math.log(len(self.centers))
        return log_pairs.reshape(len(x), -1).sum(axis=1)


@dataclass
class Points:
    """Drawn by one law, (n, size) each."""

    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray


def draw_points(law, count: int, random: np.random.Generator) -> Points:
    return Points(
        train=law.draw(count, random),
        validation=law.draw(max(count // 20, 100), random),
        held_out=law.draw(max(count // 5, 200), random),
    )


def best(candidates, validation: np.ndarray):
    """The one to which the validation points are likeliest."""
    return max(candidates, key=lambda each: each.log_density(validation).mean())


class Learned:
    """A trained network as the other estimators."""

    def __init__(self, network: keras.Model, log_density):
        self.network = network
        self.of_batch = log_density

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.of_batch(self.network, x.astype("float32")))


def learn(name: str, x: np.ndarray, config: Config, run: Run) -> Learned:
    size = x.shape[1]
    if name == "flow":
        network = build_flow(size, config.width, config.components, config.couplings)
    else:
        network = build_made(size, config.width, config.components)
    log_density = LOG_DENSITIES[name]
    model = MaximumLikelihood(network, log_density, name=f"{name}-{size}")
    # Fewer points get more passes, so that all networks take as many steps.
    epochs = config.epochs * max(config.points // len(x), 1)
    steps = epochs * math.ceil(len(x) / config.batch_size)
    compile_model(model, config.learning_rate, steps)
    training.fit(
        model,
        x.astype("float32"),
        epochs=epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return Learned(network, log_density)


def estimate(points: Points, config: Config, run: Run) -> dict:
    """Estimators by name."""
    x, validation = points.train, points.validation
    size = x.shape[1]
    random = np.random.default_rng(run.seed)
    # Cells have to be numbered in 63 bits.
    bins = [each for each in BINS if each**size < 2**63]
    found = {
        "histogram": best([Histogram(x, each) for each in bins], validation),
        "kernel": best([Kernel(x, each) for each in BANDWIDTHS], validation),
        "mixture": best(
            [GaussianMixture(x, each, random) for each in COMPONENTS], validation
        ),
    }
    for name in LOG_DENSITIES:
        found[name] = learn(name, x, config, run)
    return found


def excess(estimators: dict, law, x: np.ndarray) -> dict[str, float]:
    """How many nats less likely held-out points are than by the law itself, per number:
    the Kullback-Leibler divergence from the law, but for chance."""
    by_law = law.log_density(x)
    return {
        name: float(np.mean(by_law - each.log_density(x))) / law.size
        for name, each in estimators.items()
    }


def integral(estimator, size: int, cells: int) -> float:
    """Of the density over the box, as a sum over a grid. cells: along each axis, a
    multiple of all `BINS`, so that none of these is cut."""
    x, volume = grid_points(size, cells)
    return float(np.exp(estimator.log_density(x)).sum() * volume)


def grid_points(size: int, cells: int) -> tuple[np.ndarray, float]:
    """Middles of cells of the box, (cells^size, size), and the volume of a cell."""
    low, high = BOX
    step = (high - low) / cells
    along = low + step * (np.arange(cells) + 0.5)
    x = np.stack(np.meshgrid(*[along] * size, indexing="ij"), axis=-1)
    return x.reshape(-1, size), step**size


def judge_integrals(line: dict, plane: dict, run: Run) -> None:
    found = {f"{name}, line": integral(each, 1, 960) for name, each in line.items()}
    found |= {f"{name}, plane": integral(each, 2, 96) for name, each in plane.items()}
    run.claim(
        "Each density sums to 1 over the line or the plane",
        at_least=0.98,
        at_most=1.02,
        measured=found,
        any_data=True,
    )


def judge_plane(line: dict[str, float], plane: dict[str, float], run: Run) -> None:
    run.metrics("excess_line", line, unit="nats per number")
    run.claim(
        "Of one or two numbers all come near to the law: held-out points are nearly as "
        "likely as by the law itself (nats per number below it)",
        holds=max(*line.values(), *plane.values()) < 0.15,
        measured="line: "
        + ", ".join(f"{name} {each:.3f}" for name, each in line.items())
        + "; plane: "
        + ", ".join(f"{name} {each:.3f}" for name, each in plane.items()),
    )


def judge_sizes(by_size: dict[int, dict[str, float]], run: Run) -> None:
    few = by_size[min(by_size)]
    many = by_size[max(by_size)]
    networks = max(many[name] for name in LOG_DENSITIES)
    run.claim(
        f"With {max(by_size)} numbers histogram, kernel and mixture, which fill space "
        "with cells or bumps, are far from the law, and the networks, which factor or "
        "bend, are not (nats per number below it)",
        holds=all(
            many[name] > few[name] + 0.1 and networks < 0.6 * many[name]
            for name in ("histogram", "kernel", "mixture")
        ),
        measured=", ".join(
            f"{name} {few[name]:.3f} to {many[name]:.3f}" for name in many
        ),
    )


def judge_clusters(points: Points, run: Run):
    """Returns the means of k-means, and a mixture of as many Gaussians."""
    random = np.random.default_rng(run.seed)
    x = points.train
    means = k_means(x, CLUSTERS, random)
    mixture = GaussianMixture(x, CLUSTERS, random)

    nearest = euclidean_distances(x, means, squared=True)
    deviation = math.sqrt(nearest.min(axis=1).mean() / x.shape[1])
    hard = log_spherical(points.held_out, means, deviation)
    by_law = Moons(2).log_density(points.held_out).mean()
    found = {
        "k-means": by_law - (logsumexp(hard, axis=1) - math.log(CLUSTERS)).mean(),
        "mixture": by_law - mixture.log_density(points.held_out).mean(),
    }
    run.metrics("excess_of_clusters", found, unit="nats")
    run.compare(
        f"{CLUSTERS} Gaussians of shapes of their own, each point shared among them, tell "
        "more than the clusters of k-means, which are round and alike (nats below the "
        "law)",
        found,
        more="k-means",
        less="mixture",
        by=0.1,
    )
    return means, mixture


def draw_all(estimators: dict, count: int, random: np.random.Generator):
    """Points by the networks, (count, size) each."""
    size = estimators["flow"].network.input.shape[1]
    normal = random.standard_normal((count, size)).astype("float32")
    uniform = random.random((count, size), "float32")
    z = random.logistic(size=(count, size)).astype("float32")
    made = estimators["autoregressive"].network
    flow = estimators["flow"].network
    return {
        "autoregressive": np.asarray(made_sample(made, uniform, normal)),
        "flow": np.asarray(flow_inverse(flow, z)),
    }


def judge_draws(estimators: dict, run: Run) -> dict[str, np.ndarray]:
    law = Moons(2)
    random = np.random.default_rng(run.seed)
    drawn = draw_all(estimators, 2000, random)
    drawn["law"] = law.draw(2000, random)
    flow = estimators["flow"].network
    z, _ = flow(drawn["law"].astype("float32"))
    error = float(np.abs(np.asarray(flow_inverse(flow, z)) - drawn["law"]).max())
    log_densities = {name: law.log_density(each) for name, each in drawn.items()}
    edge = np.quantile(log_densities["law"], 0.01)
    shares = {name: float(np.mean(each > edge)) for name, each in log_densities.items()}
    run.metrics("share_on_moons", shares)
    run.claim(
        "The flow can be undone, and what the networks draw lies on the moons: likelier "
        "by the law than all but a hundredth of its own points",
        holds=error < 1e-3 and min(shares.values()) > 0.85,
        measured=f"there and back {error:.2g}; "
        + ", ".join(f"{name} {each:.3f}" for name, each in shares.items()),
    )
    return drawn


def draw_line(line: dict, x: np.ndarray) -> Figure:
    law = Line()
    grid, _ = grid_points(1, 600)
    shown = {
        name: (grid[:, 0], np.exp(each.log_density(grid)))
        for name, each in line.items()
    }
    of_law = (grid[:, 0], np.exp(law.log_density(grid)))
    counted = figures.Panel(
        title="By counting",
        xlabel="x",
        ylabel="density",
        lines={
            "law": of_law,
            "histogram": shown["histogram"],
            "kernel": shown["kernel"],
        },
    )
    fitted = figures.Panel(
        title="By likelihood",
        xlabel="x",
        ylabel="density",
        lines={
            "law": of_law,
            "mixture": shown["mixture"],
            "autoregressive": shown["autoregressive"],
            "flow": shown["flow"],
        },
    )
    return figures.panels(counted, fitted, title=f"Densities from {len(x)} points")


def draw_maps(plane: dict, found: dict[str, float]) -> Figure:
    """The law and all estimates in the plane."""
    law = Moons(2)
    across, up = np.meshgrid(np.linspace(-2.4, 2.4, 144), np.linspace(-1.6, 1.6, 96))
    x = np.stack([across, up], axis=-1).reshape(-1, 2)
    top = np.exp(law.log_density(law.centers)).max()
    figure, grid = plt.subplots(2, 3, figsize=(10.5, 5), sharex=True, sharey=True)
    for (name, each), axes in zip(
        {"law": law, **plane}.items(), grid.flat, strict=True
    ):
        density = np.exp(each.log_density(x)).reshape(across.shape)
        drawn = axes.imshow(
            density, origin="lower", extent=(-2.4, 2.4, -1.6, 1.6), vmin=0, vmax=top
        )
        axes.set_title(f"{name}: {found[name]:.3f} nats" if name in found else name)
        axes.grid(visible=False)
    figure.colorbar(drawn, ax=grid, label="density")
    figure.suptitle("Densities in the plane, and nats per number below the law")
    return figure


def draw_sizes(by_size: dict[int, dict[str, float]]) -> Figure:
    sizes = list(by_size)
    panel = figures.Panel(
        title="What more numbers in a point cost: held-out points, against the law",
        xlabel="numbers in a point",
        ylabel="nats per number below the law",
        lines={
            name: (sizes, [by_size[size][name] for size in sizes]) for name in NAMES
        },
        xscale="log",
        xticks=sizes,
        ylim=(0, None),
    )
    return figures.panels(panel)


def draw_clusters(
    x: np.ndarray, means, mixture, drawn: dict[str, np.ndarray]
) -> Figure:
    """k-means, a mixture of as many Gaussians, and points that the networks drew."""
    figure, grid = plt.subplots(2, 2, figsize=(10.5, 7), sharex=True, sharey=True)
    x = x[:2000]
    hard = euclidean_distances(x, means, squared=True).argmin(axis=1)
    soft = mixture.responsibilities(x)
    palette = plt.get_cmap("Dark2")(np.arange(CLUSTERS))[:, :3]
    first, second, third, last = grid.flat
    first.scatter(*x.T, s=5, color=palette[hard])
    first.plot(*means.T, "k*", markersize=11)
    first.set_title(f"k-means: each point to one of {CLUSTERS}")
    second.scatter(*x.T, s=5, color=np.clip(soft @ palette, 0, 1))
    for mean, covariance in zip(mixture.means, mixture.covariances, strict=True):
        second.plot(*outline(mean, covariance), color="black", linewidth=1)
    second.set_title("mixture: shared among Gaussians (at 2 deviations)")
    third.scatter(*drawn["autoregressive"].T, s=5, color=figures.COLORS[0])
    third.set_title("drawn by the autoregressive network")
    last.scatter(*drawn["flow"].T, s=5, color=figures.COLORS[0])
    last.set_title("drawn by the flow")
    last.set(xlim=(-2.4, 2.4), ylim=(-1.7, 1.7))
    for axes in grid[1]:
        axes.set_xlabel("$x_1$")
    for axes in grid[:, 0]:
        axes.set_ylabel("$x_2$")
    return figure


def outline(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The ellipse two deviations from the mean, (2, 100)."""
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return mean[:, None] + 2 * np.linalg.cholesky(covariance) @ circle


def main(config: Config, run: Run) -> None:
    sizes = sorted({2, *config.sizes})
    if any(size % 2 for size in sizes):
        raise UsageError("--sizes must be even, as points are pairs of numbers")
    run.plan(2 + 2 * len(sizes))
    random = np.random.default_rng(run.seed)
    on_line = draw_points(Line(), LINE_POINTS, random)
    line = estimate(on_line, config, run)
    of_line = excess(line, Line(), on_line.held_out)
    run.figure("line", draw_line(line, on_line.train))

    points = {size: draw_points(Moons(size), config.points, random) for size in sizes}
    estimators = {size: estimate(points[size], config, run) for size in sizes}
    by_size = {
        size: excess(estimators[size], Moons(size), points[size].held_out)
        for size in sizes
    }
    plane = estimators[2]
    run.metric("nats_below_law", by_size[sizes[-1]]["flow"], unit="nats per number")
    for size, found in by_size.items():
        run.metrics(f"excess_of_{size}_numbers", found, unit="nats per number")
    judge_integrals(line, plane, run)
    judge_plane(of_line, by_size[2], run)
    if max(sizes) >= 8:
        judge_sizes(by_size, run)
    run.figure("maps", draw_maps(plane, by_size[2]))
    run.figure("sizes", draw_sizes(by_size))

    means, mixture = judge_clusters(points[2], run)
    drawn = judge_draws(plane, run)
    run.figure("clusters", draw_clusters(points[2].train, means, mixture, drawn))
    flow = plane["flow"].network
    latent, _ = flow.output
    outputs = {"latent": latent, "log_density": flow_log_density(flow, flow.input)}
    example = points[2].held_out[:3].astype("float32")
    run.export(keras.Model(flow.input, outputs), example=example)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
