"""Generative adversarial networks: one network forges, the other tells forgeries.

A generator G makes samples out of noise z; a discriminator D says how likely a sample is
real. They play for V(D, G) = E[log D(x)] + E[log(1 − D(G(z)))]: D wants it large, G
small. Against samples of density q the best D is p/(p+q), and then V is
2·JS(p, q) − log 4: least where q = p, where D can only say 1/2. In practice D is never
the best. At first it tells all forgeries, and log(1 − D) has no slope left for G, so G
raises log D instead, which has the same goal. Nothing makes G draw all there is: it may
go from one kind of sample to the next while D runs after it.
Look at the two slopes while D gets better, at the 25 modes that are found or lost, at a
law drawn whole, and at digits.

Lectures: SEL Generative Models; CS Generative Adversarial Networks; INFO Generative
    models
Paper: Goodfellow et al., Generative adversarial nets, 2014 (equation 1, algorithm 1,
    proposition 1 and theorem 1)
Tags: adversarial training, minimax, non-saturating loss, mode collapse, implicit
    density, jensen-shannon, vanishing gradient, equilibrium
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
from scipy import stats
from sklearn.metrics import euclidean_distances

from deep_learning_recipes import data, figures, modes, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    size: Annotated[int, Interval(ge=4, le=64)] = 28
    """side of the images in pixels"""
    components: int = 64
    """principal components that an image is written in"""
    noise_size: int = 64
    """random numbers that an image is made of"""
    units: int = 256
    """of each hidden layer of the networks for images"""
    epochs: int = 100
    """passes over the training images"""
    batch_size: Annotated[int, Interval(ge=2)] = 64
    """images a step of the discriminator sees, and forged ones beside them"""
    learning_rate: float = 1e-3
    """of the generator's Adam, at the first step; the discriminator's is a third of it,
    and both fall to 0 along a cosine"""
    grid_steps: Annotated[int, Interval(ge=100)] = 5000
    """of the generators of 25 Gaussians"""
    toy_units: int = 128
    """of each hidden layer of the networks for points of other laws"""
    toy_steps: Annotated[int, Interval(ge=100)] = 1500
    """of their generators"""
    discriminator_steps: tuple[int, ...] = (1, 5)
    """k, steps of the discriminator for each of the generator, on 25 Gaussians"""


QUICK = Config(
    data="digits",
    size=8,
    components=32,
    units=96,
    epochs=100,
    learning_rate=2e-3,
    grid_steps=400,
    toy_units=64,
    toy_steps=400,
    discriminator_steps=(1,),
)
FULL = Config(
    units=512,
    epochs=600,
    grid_steps=20_000,
    toy_steps=6000,
    discriminator_steps=(1, 2, 5, 10),
)

# --------------------------------------------------------------------------------------
# The idea: a game of two losses
# --------------------------------------------------------------------------------------


def discriminator_loss(real_logits, fake_logits):
    """−V = −E[log D(x)] − E[log(1 − D(G(z)))], from logits of any shape: D = sigmoid."""
    of_real = ops.softplus(-real_logits)  # −log D
    of_fake = ops.softplus(fake_logits)  # −log(1 − D)
    return ops.mean(of_real) + ops.mean(of_fake)


def minimax_loss(fake_logits):
    """E[log(1 − D(G(z)))]. Its slope in the logit is −D: none where D is sure that the
    sample is forged."""
    return -ops.mean(ops.softplus(fake_logits))


def non_saturating_loss(fake_logits):
    """−E[log D(G(z))]. Its slope in the logit is D − 1: −1 where D is sure."""
    return ops.mean(ops.softplus(-fake_logits))


GENERATOR_LOSSES = {"non-saturating": non_saturating_loss, "minimax": minimax_loss}


def build_generator(
    noise_size: int,
    size: int,
    units: int = 128,
    depth: int = 3,
    batch_normalization: bool = False,
) -> keras.Model:
    """Input: noise (batch, noise_size). Output: samples (batch, size). With depth 0 it is
    a linear map."""
    noise = keras.Input((noise_size,), name="noise")
    hidden = noise
    for _ in range(depth):
        hidden = layers.Dense(units)(hidden)
        if batch_normalization:
            hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
    sample = layers.Dense(size, name="sample")(hidden)
    return keras.Model(noise, sample, name="generator")


def build_discriminator(
    size: int, units: int = 128, depth: int = 3, name="discriminator"
) -> keras.Model:
    """Input: samples (batch, size). Output: logits (batch, 1), positive where they look
    real."""
    sample = keras.Input((size,), name="sample")
    hidden = sample
    for _ in range(depth):
        hidden = layers.Dense(units)(hidden)
        hidden = layers.LeakyReLU(0.2)(hidden)
    return keras.Model(sample, layers.Dense(1, name="logit")(hidden), name=name)


class GAN(keras.Model):
    """Trains a generator against a discriminator. `fit(x)`, x: real samples.

    generator_loss: of `GENERATOR_LOSSES`. discriminator_steps: k, steps of D for each
        of G; a batch is shared out among them, so that each sees samples of its own.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        generator_loss=non_saturating_loss,
        discriminator_steps: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.generator_loss = generator_loss
        self.discriminator_steps = discriminator_steps
        self.seed_generator = keras.random.SeedGenerator()
        self.trackers = {
            name: keras.metrics.Mean(name)
            for name in ("value", "discriminator_gradient", "generator_gradient")
        }

    def compile(self, generator_optimizer, discriminator_optimizer):
        super().compile(optimizer=generator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    def call(self, noise):
        return self.generator(noise)

    def draw_noise(self, count: int):
        """z ~ N(0, I), (count, noise_size), anew at each call."""
        shape = (count, self.generator.input_shape[-1])
        return keras.random.normal(shape, seed=self.seed_generator)

    def train_step(self, x):
        steps = self.discriminator_steps
        for start in range(steps):
            self.discriminator_step(x[start::steps])
        self.generator_step(ops.shape(x)[0] // steps)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def discriminator_step(self, x):
        fake = self.generator(self.draw_noise(ops.shape(x)[0]), training=True)
        variables = self.discriminator.trainable_variables
        with tf.GradientTape() as tape:
            real_logits = self.discriminator(x, training=True)
            fake_logits = self.discriminator(fake, training=True)
            loss = discriminator_loss(real_logits, fake_logits)
            scaled = self.discriminator_optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        self.discriminator_optimizer.apply(gradients, variables)

        self.trackers["value"].update_state(-loss)
        norm = tf.linalg.global_norm(gradients)
        self.trackers["discriminator_gradient"].update_state(norm)

    def generator_step(self, count: int):
        noise = self.draw_noise(count)
        variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            fake_logits = self.discriminator(fake, training=True)
            loss = self.generator_loss(fake_logits)
            scaled = self.optimizer.scale_loss(loss)
        # Back through D to the samples, then through G: D itself does not move.
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply(gradients, variables)

        norm = tf.linalg.global_norm(gradients)
        self.trackers["generator_gradient"].update_state(norm)


def compile_gan(
    model: GAN, generator_rate: float, discriminator_rate: float, steps: int
) -> None:
    """steps: of the generator. Adam with little momentum, as the other player's move
    makes old gradients wrong (Radford et al., Unsupervised representation learning with
    deep convolutional generative adversarial networks, 2016, section 4)."""
    rates = keras.optimizers.schedules.CosineDecay(generator_rate, steps)
    generator_optimizer = keras.optimizers.Adam(rates, beta_1=0.5)
    rates = keras.optimizers.schedules.CosineDecay(
        discriminator_rate, steps * model.discriminator_steps
    )
    discriminator_optimizer = keras.optimizers.Adam(rates, beta_1=0.5)
    model.compile(generator_optimizer, discriminator_optimizer)


def optimal_discriminator(p, q):
    """D* = p/(p+q), where samples x have density p and forgeries q (proposition 1)."""
    return p / (p + q)


def jensen_shannon(value):
    """(V + log 4)/2 in nats, of V under the best discriminator (theorem 1): 0 where
    forgeries have the samples' law, log 2 where none looks like a sample."""
    return (value + math.log(4)) / 2


# --------------------------------------------------------------------------------------
# The experiment: the best discriminator, lost modes, a law drawn whole, digits
# --------------------------------------------------------------------------------------

POINTS_BATCH = 128
EXAMPLES = 25_600  # of a law of points
DRAWN = 40_000  # points, to be measured
MEASURED = 3000  # of them, where each has a distance to each
LAW_RATE = 1e-3  # of both players
LAW_STEPS = 3  # k where a law is learned: near the best, D shows the way
XLA_STEPS = 2000  # that repay the seconds that it takes to compile

GRID_UNITS = 64
GRID_RATE = 2e-3  # of both players
FEW = 30  # examples, where a law is learned from few

ALONE_RATE = 3e-3  # of a discriminator of points whose forgeries do not change
ALONE_STEPS = 200  # of a discriminator whose generator waits
IMAGES = 1000  # to draw


def whole_batches(x: np.ndarray, size: int) -> np.ndarray:
    """x without the last, smaller batch; repeated where there is not even one."""
    if len(x) < size:
        return np.resize(x, (size, *x.shape[1:]))
    return x[: len(x) // size * size]


def train(model: GAN, x, run: Run, *, epochs: int, rates, batch_size: int):
    """rates: the learning rates of generator and discriminator. Returns the history."""
    k = model.discriminator_steps
    x = whole_batches(x, batch_size * k)
    steps = epochs * len(x) // (batch_size * k)
    compile_gan(model, *rates, steps=steps)
    history = training.fit(
        model,
        x,
        epochs=epochs,
        batch_size=batch_size * k,
        jit_compile=steps * k > XLA_STEPS,
        callbacks=run.callbacks,
    )
    return history.history


def train_on_points(
    x: np.ndarray, name: str, run: Run, *, units, depth, steps, rate, k
) -> np.ndarray:
    """Points (DRAWN, 2) by a generator that has learned from points x (n, 2) in so many
    steps. depth: of the generator. k: steps of the discriminator for each of them."""
    generator = build_generator(2, 2, units, depth)
    discriminator = build_discriminator(2, units)
    model = GAN(generator, discriminator, discriminator_steps=k, name=name)
    steps_of_epoch = len(x) // (POINTS_BATCH * k)
    train(
        model,
        x,
        run,
        epochs=math.ceil(steps / steps_of_epoch),
        batch_size=POINTS_BATCH,
        rates=(rate, rate),
    )
    return np.asarray(generator(model.draw_noise(DRAWN)))


def train_discriminator(real, fake, name: str, config: Config, run: Run) -> keras.Model:
    """A new one, against forgeries that do not change. real, fake: (n, size)."""
    discriminator = build_discriminator(real.shape[1], config.toy_units, name=name)
    x = np.concatenate([real, fake]).astype("float32")
    y = np.repeat([[1.0], [0.0]], [len(real), len(fake)], axis=0)
    size = 2 * POINTS_BATCH
    epochs = math.ceil(config.toy_steps * size / len(x))
    steps = epochs * math.ceil(len(x) / size)
    rates = keras.optimizers.schedules.CosineDecay(ALONE_RATE, steps)
    discriminator.compile(
        optimizer=keras.optimizers.Adam(rates),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    training.fit(
        discriminator,
        x,
        y,
        epochs=epochs,
        batch_size=size,
        jit_compile=steps > XLA_STEPS,
        callbacks=run.callbacks,
    )
    return discriminator


def density_of_samples(x):
    """p: two bumps on a line."""
    return 0.5 * stats.norm.pdf(x, -1.5, 0.4) + 0.5 * stats.norm.pdf(x, 1.0, 0.6)


def density_of_forgeries(x):
    """q: one that lies over both."""
    return stats.norm.pdf(x, 0.0, 1.2)


def learn_known_densities(config: Config, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line, and D of a discriminator that has seen draws of p and q."""
    random = np.random.default_rng(run.seed)
    is_left = random.random(EXAMPLES) < 0.5
    real = np.where(
        is_left,
        random.normal(-1.5, 0.4, EXAMPLES),
        random.normal(1.0, 0.6, EXAMPLES),
    )
    fake = random.normal(0.0, 1.2, EXAMPLES)
    discriminator = train_discriminator(
        real[:, np.newaxis], fake[:, np.newaxis], "known-densities", config, run
    )
    x = np.linspace(-3, 3, 241, dtype="float32")
    logits = discriminator(x[:, np.newaxis])
    return x, np.asarray(ops.sigmoid(logits))[:, 0]


def judge_best(x: np.ndarray, answers: np.ndarray, run: Run) -> None:
    p = density_of_samples(x)
    q = density_of_forgeries(x)
    weights = (p + q) / np.sum(p + q)
    away = float(np.sum(weights * np.abs(answers - optimal_discriminator(p, q))))
    half = float(np.sum(weights * np.abs(answers - 0.5)))
    run.metric("distance_from_optimal_discriminator", away)
    run.compare(
        "Against forgeries that do not change the discriminator learns p/(p+q) (mean "
        "distance, beside that of the answer 1/2)",
        {"the answer 1/2": half, "discriminator": away},
        more="the answer 1/2",
        less="discriminator",
        times=6,
        any_data=True,
    )


def learn_grid(config: Config, run: Run) -> dict[str, np.ndarray]:
    """By name, points of 25 Gaussians, and of generators that learned from them."""
    random = np.random.default_rng(run.seed)
    x = modes.draw_grid(EXAMPLES, random)
    found = {"real": modes.draw_grid(DRAWN, random)}
    for k in config.discriminator_steps:
        found[f"k = {k}"] = train_on_points(
            x,
            f"grid-{k}",
            run,
            units=GRID_UNITS,
            depth=3,
            steps=config.grid_steps,
            rate=GRID_RATE,
            k=k,
        )
    return found


def judge_grid(found: dict[str, np.ndarray], run: Run) -> None:
    counts = {name: modes.count_modes(points) for name, points in found.items()}
    run.metrics("modes", counts)
    if run.has("--discriminator-steps", counts, "k = 5"):
        run.claim(
            "Mode collapse: of 25 Gaussians on a grid the generator draws some and loses "
            "the others, and to keep the discriminator near its best, by five steps for "
            "each of the generator, is no cure",
            holds=counts["real"] == 25
            and 3 <= counts["k = 5"] < 16
            and counts.get("k = 1", 3) < 25,
            measured=", ".join(
                f"{name}: {each} modes" for name, each in counts.items()
            ),
            any_data=True,
        )


def draw_law(count: int, random: np.random.Generator) -> np.ndarray:
    """Points (count, 2) of a bent law: the second number hangs on the first and on its
    square."""
    first = random.standard_normal(count)
    noise = 0.3 * random.standard_normal(count)
    second = 0.6 * first + 0.5 * (first**2 - 1) + noise
    return np.stack([first, second], axis=1).astype("float32")


def learn_law(config: Config, run: Run) -> dict[str, np.ndarray]:
    """By name, points of the law, and of generators that learned it."""
    random = np.random.default_rng(run.seed + 1)
    x = draw_law(EXAMPLES, random)
    few = np.resize(x[:FEW], x.shape)
    held_out = draw_law(DRAWN, random)
    apart = np.stack([held_out[:, 0], random.permutation(held_out[:, 1])], axis=1)

    def learn(x, name: str, depth: int = 3) -> np.ndarray:
        return train_on_points(
            x,
            name,
            run,
            units=config.toy_units,
            depth=depth,
            steps=config.toy_steps,
            rate=LAW_RATE,
            k=LAW_STEPS,
        )

    return {
        "real": held_out,
        "GAN": learn(x, "law"),
        "linear generator": learn(x, "law-linear", depth=0),
        f"{FEW} examples": learn(few, "law-few"),
        "each number by itself": apart,
    }


def energy_distance(one: np.ndarray, other: np.ndarray) -> float:
    """2·E|X − Y| − E|X − X'| − E|Y − Y'| of points (n, size): 0 where the laws agree."""
    one = one[:MEASURED]
    other = other[:MEASURED]
    between = euclidean_distances(one, other).mean()
    within_one = euclidean_distances(one, one).mean()
    within_other = euclidean_distances(other, other).mean()
    return float(2 * between - within_one - within_other)


def judge_law(found: dict[str, np.ndarray], run: Run) -> None:
    random = np.random.default_rng(run.seed + 1000)
    held_out = draw_law(DRAWN, random)
    distances = {
        name: energy_distance(points, held_out) for name, points in found.items()
    }
    correlations = {
        name: float(np.corrcoef(points.T)[0, 1]) for name, points in found.items()
    }
    run.metrics("energy_distance", distances)
    run.metrics("correlation", correlations)
    rivals = [name for name in distances if name not in ("real", "GAN")]
    nearest = min(distances[name] for name in rivals)
    run.claim(
        "With capacity and data enough, samples come from the whole joint: a bent law is "
        "drawn nearer to the truth than by a linear generator, from few examples, or "
        "number by number (energy distance)",
        holds=distances["GAN"] < 0.5 * nearest,
        measured=", ".join(f"{name} {each:.4f}" for name, each in distances.items()),
        any_data=True,
    )


def find_values(found, config: Config, run: Run) -> dict[str, float]:
    """V of new discriminators on points that they have not learned from. It takes a new
    one: the generator's own says 1/2 as well where it has learned nothing."""
    random = np.random.default_rng(run.seed + 2000)
    real = draw_law(DRAWN, random)
    half = DRAWN // 2
    values = {}
    for name in ("GAN", "linear generator"):
        fake = found[name]
        discriminator = train_discriminator(
            real[:half], fake[:half], f"new-{name.split()[0].lower()}", config, run
        )
        loss = discriminator_loss(
            discriminator(real[half:]), discriminator(fake[half:])
        )
        values[name] = -float(loss)
    return values


def judge_equilibrium(values: dict[str, float], run: Run) -> None:
    run.metrics("value", values)
    above = {name: value + math.log(4) for name, value in values.items()}
    run.claim(
        "Where the law is met, a new discriminator finds nothing to tell: V is near "
        "−log 4, that of D = 1/2; where it is not, V is higher",
        holds=above["GAN"] < 0.1 and above["GAN"] < 0.3 * above["linear generator"],
        measured=f"−log 4 = {-math.log(4):.3f}; "
        + ", ".join(f"{name} {value:.3f}" for name, value in values.items()),
        any_data=True,
    )


def build_gan(size: int, config: Config, name: str) -> GAN:
    """For codes of images, (batch, size)."""
    generator = build_generator(
        config.noise_size, size, config.units, depth=2, batch_normalization=True
    )
    discriminator = build_discriminator(size, config.units, depth=2)
    return GAN(generator, discriminator, name=name)


def slopes_of(model: GAN, noise) -> dict[str, tf.Tensor]:
    """Norms of both losses' gradients in the generator's weights."""
    variables = model.generator.trainable_variables
    slopes = {}
    for name, generator_loss in GENERATOR_LOSSES.items():
        with tf.GradientTape() as tape:
            fake = model.generator(noise, training=True)
            loss = generator_loss(model.discriminator(fake, training=True))
        slopes[name] = tf.linalg.global_norm(tape.gradient(loss, variables))
    return slopes


def watch_slopes(x: np.ndarray, config: Config, run: Run) -> dict[str, np.ndarray]:
    """Both losses' gradients at a generator that waits while the discriminator trains, at
    every tenth step and before the first. x: codes."""
    model = build_gan(x.shape[1], config, "alone")
    rate = config.learning_rate
    compile_gan(model, rate, rate, steps=100 * ALONE_STEPS)
    train_alone = tf.function(model.discriminator_step)
    measure = tf.function(slopes_of)
    random = np.random.default_rng(run.seed)
    noise = model.draw_noise(256)

    found = [measure(model, noise)]
    for number in run.track(range(1, ALONE_STEPS + 1), "discriminator alone"):
        train_alone(tf.constant(random.choice(x, config.batch_size)))
        if number % 10 == 0:
            found.append(measure(model, noise))
    return {name: np.array([each[name] for each in found]) for name in GENERATOR_LOSSES}


def judge_slopes(slopes: dict[str, np.ndarray], run: Run) -> None:
    last = {name: float(values[-1]) for name, values in slopes.items()}
    run.metrics("gradient", last)
    run.compare(
        "Early, where the discriminator tells forgeries with ease, log(1 − D) has hardly "
        "a slope left for the generator and −log D has a steep one (gradient norm at a "
        f"generator that has waited for {ALONE_STEPS} steps)",
        last,
        more="non-saturating",
        less="minimax",
        times=10,
    )


def judge_digits(scores: dict[str, samples.Scores], run: Run) -> None:
    run.compare(
        "Near more of the held-out pictures there is one of its own than among draws of a "
        "Gaussian with the same principal components (coverage)",
        {name: each.coverage for name, each in scores.items()},
        more="GAN",
        less="Gaussian",
        times=1.4,
    )
    nearest = scores["GAN"].nearest
    run.claim(
        "They are no copies: they are as far from the nearest training image as held-out "
        "images are, or farther",
        holds=nearest > 0.9,
        measured=f"distance {nearest:.2f} of that of held-out images",
    )


def draw_best(x: np.ndarray, answers: np.ndarray) -> Figure:
    p = density_of_samples(x)
    q = density_of_forgeries(x)
    densities = figures.Panel(
        title="Two known densities",
        xlabel="x",
        ylabel="density",
        lines={"samples, p": (x, p), "forgeries, q": (x, q)},
    )
    best = figures.Panel(
        title="What the discriminator says",
        xlabel="x",
        ylabel="D(x)",
        lines={"learned": (x, answers), "p/(p+q)": (x, optimal_discriminator(p, q))},
        levels={"1/2": 0.5},
        ylim=(0, 1),
    )
    return figures.panels(densities, best)


def draw_gradients(slopes: dict[str, np.ndarray], history) -> Figure:
    number = 10 * np.arange(len(slopes["minimax"]))
    names = {"non-saturating": "−log D", "minimax": "log(1 − D)"}
    waiting = figures.Panel(
        title="A generator that waits",
        xlabel="steps of the discriminator alone",
        ylabel="gradient norm",
        lines={names[name]: (number, values) for name, values in slopes.items()},
        yscale="log",
    )
    playing = figures.Panel(
        title="Both play: digits",
        xlabel="epoch",
        ylabel="gradient norm",
        lines={
            player: history[f"{player}_gradient"]
            for player in ("generator", "discriminator")
        },
        yscale="log",
    )
    return figures.panels(waiting, playing)


def scatter(found: dict[str, np.ndarray], captions, limit: float, title: str) -> Figure:
    """Named points (n, 2) side by side."""
    figure, grid = plt.subplots(
        1,
        len(found),
        figsize=(2.9 * len(found), 4.2),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, (name, points) in zip(grid[0], found.items(), strict=True):
        axes.scatter(*points[:2500].T, s=3, alpha=0.4, linewidths=0)
        axes.set(title=f"{name}\n{captions[name]}", aspect="equal")
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="$x_1$")
    grid[0, 0].set_ylabel("$x_2$")
    figure.suptitle(title)
    return figure


def draw_modes(found: dict[str, np.ndarray]) -> Figure:
    captions = {
        name: f"{modes.count_modes(points)} modes" for name, points in found.items()
    }
    return scatter(found, captions, 2.6, "25 Gaussians, and what generators draw")


def draw_laws(found: dict[str, np.ndarray]) -> Figure:
    captions = {
        name: f"correlation {np.corrcoef(points.T)[0, 1]:.2f}"
        for name, points in found.items()
    }
    return scatter(found, captions, 4, "A bent law, and what generators draw")


def main(config: Config, run: Run) -> None:
    run.plan(8 + len(config.discriminator_steps))
    x, answers = learn_known_densities(config, run)
    judge_best(x, answers, run)
    run.figure("best", draw_best(x, answers))

    grid = learn_grid(config, run)
    judge_grid(grid, run)
    run.figure("modes", draw_modes(grid))

    law = learn_law(config, run)
    judge_law(law, run)
    judge_equilibrium(find_values(law, config, run), run)
    run.figure("law", draw_laws(law))

    (images, labels), test = data.load(
        config.data, size=config.size, channels=1, seed=run.seed
    )
    codes = samples.Codes(images, config.components)
    encoded = codes.encode(images)
    slopes = watch_slopes(encoded, config, run)
    judge_slopes(slopes, run)

    model = build_gan(encoded.shape[1], config, "digits")
    rates = (config.learning_rate, config.learning_rate / 3)
    history = train(
        model,
        encoded,
        run,
        epochs=config.epochs,
        batch_size=config.batch_size,
        rates=rates,
    )
    run.figure("gradients", draw_gradients(slopes, history))
    drawn = np.asarray(codes.decode(model.generator(model.draw_noise(IMAGES))))
    names = data.class_names(config.data)
    judge = samples.train_judge((images, labels), test, classes=len(names), run=run)
    labels = judge.classify(drawn)
    title = "Forged, by the class that a classifier sees"
    run.figure("digits", samples.draw_by_class(drawn, labels, names, title))
    scores = samples.report(run, {"GAN": drawn}, judge)
    judge_digits(scores, run)

    generator = model.generator
    served = keras.Model(generator.input, {"image": codes.decode(generator.output)})
    run.export(served, example=np.zeros((2, config.noise_size), "float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
