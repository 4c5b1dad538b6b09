"""Diffusion: pictures out of noise, by a network that says which part is noise.

Forward, noise is mixed into a picture, the more the later: x_t = √ᾱ_t·x + √(1−ᾱ_t)·ε,
with ε ~ N(0, I), until nothing of x is left at t = 1. A network learns to tell the noise
from x_t and t alone, by the squared error ‖ε − ε_θ(x_t, t)‖². To draw, one begins with
pure noise and takes a little of the predicted noise away, step by step; DDIM adds none
again, so that the same noise gives the same picture, in far fewer steps. Told the class
in most examples and nothing in the others, the network has two answers; going beyond
the first, away from the second, is guidance.
Pictures are drawn here as the codes of 64 principal components.
Look at noise becoming digits, at few steps against many, and at what guidance gains and
loses.

Lectures: INFO Generative models; SEL Generative Models; CS Generative Models
Paper: Ho et al., Denoising diffusion probabilistic models, 2020 (equations 4, 12 and
    14); Song et al., Denoising diffusion implicit models, 2021 (equations 12 and 16); Ho
    and Salimans, Classifier-free diffusion guidance, 2022 (equation 6)
Tags: ddpm, ddim, score matching, denoising, classifier-free guidance, generative model,
    sampling
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import norm, wasserstein_distance
from sklearn.decomposition import PCA

from deep_learning_recipes import data, figures, samples, training
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
    """numbers in an image's code"""
    width: int = 384
    """units of each layer"""
    blocks: int = 4
    """residual blocks of the network"""
    epochs: int = 150
    """passes over the training images"""
    batch_size: int = 128
    """images a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    ema_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.99
    """of the running mean of the weights, which draws the pictures"""
    drop: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """share of the examples whose class the network is not told"""
    steps: Annotated[int, Interval(ge=2)] = 32
    """from noise to a picture"""
    guidance: Annotated[float, Interval(ge=0)] = 1.0
    """w, how far beyond the network's answer that knows the class"""
    images: Annotated[int, Interval(ge=20)] = 1000
    """to draw for each comparison"""


QUICK = Config(
    data="digits",
    size=8,
    components=32,
    width=128,
    blocks=2,
    epochs=60,
    batch_size=64,
    steps=8,
    images=300,
)
FULL = Config(width=768, blocks=6, epochs=400, ema_momentum=0.999, steps=64)

# --------------------------------------------------------------------------------------
# The idea: mixing noise in, telling it, and taking it out
# --------------------------------------------------------------------------------------


def signal_share(time):
    """ᾱ_t, from 1 at time 0 to 0.001 at time 1, along a cosine (Nichol and Dhariwal,
    Improved denoising diffusion probabilistic models, 2021, equation 17, which at time 1
    would leave nothing to divide by)."""
    return ops.square(ops.cos(0.49 * math.pi * time))


def add_noise(x, noise, share):
    """x_t = √ᾱ·x + √(1−ᾱ)·ε, in one step whatever t is. share: ᾱ, broadcast."""
    return ops.sqrt(share) * x + ops.sqrt(1 - share) * noise


def predict_clean(x_t, noise, share):
    """The x that x_t came from, if that was its noise."""
    return (x_t - ops.sqrt(1 - share) * noise) / ops.sqrt(share)


def guide(with_class, without_class, guidance):
    """(1 + w)·ε(x_t, class) − w·ε(x_t)."""
    return (1 + guidance) * with_class - guidance * without_class


def ddim_step(clean, noise, share, next_share, fresh, eta):
    """From x_t to x_s, s < t: the predicted picture, with less of the predicted noise.

    clean, noise: what the network says of x_t. share, next_share: ᾱ at t and at s.
    fresh: random numbers of x's shape. eta: 0 for DDIM, which takes none of them; 1 for
    DDPM, which replaces as much noise as the forward process had added from s to t.
    """
    replaced = eta**2 * (1 - next_share) / (1 - share) * (1 - share / next_share)
    direction = ops.sqrt(1 - next_share - replaced) * noise
    return ops.sqrt(next_share) * clean + direction + ops.sqrt(replaced) * fresh


def embed(time, frequencies: int = 16):
    """Sines and cosines of the time (batch, 1), so that near times can be told apart:
    (batch, 2 · frequencies)."""
    scales = ops.exp(ops.linspace(0.0, math.log(1000.0), frequencies))
    angles = time * scales
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


def build_network(
    size: int, classes: int, width: int = 384, blocks: int = 4, name: str = "diffusion"
) -> keras.Model:
    """ε_θ. Inputs: x_t (batch, size), time (batch, 1) in [0, 1], and the class (batch,),
    which is `classes` where it is not told. Output: the noise, (batch, size)."""
    x = keras.Input((size,), name="x")
    time = keras.Input((1,), name="time")
    label = keras.Input((), dtype="int32", name="label")

    known = ops.one_hot(label, classes + 1)
    told = layers.Concatenate()([embed(time), known])
    told = layers.Dense(width, "silu")(told)

    hidden = layers.Dense(width)(x)
    for _ in range(blocks):
        branch = layers.LayerNormalization()(hidden)
        branch = layers.Dense(width)(branch) + layers.Dense(width)(told)
        branch = layers.Activation("silu")(branch)
        hidden = hidden + layers.Dense(width)(branch)
    hidden = layers.Dense(size)(layers.LayerNormalization()(hidden))

    # At time 1 x_t is the noise: what is learned is the difference, the less of it the
    # later (Salimans and Ho, Progressive distillation, 2022, section 4).
    share = signal_share(time)
    noise = ops.sqrt(1 - share) * x + ops.sqrt(share) * hidden
    return keras.Model([x, time, label], noise, name=name)


class Diffusion(keras.Model):
    """Trains a network to tell the noise. `fit(x, y)`: x (n, size) with mean 0 and
    deviation 1 over all numbers, y (n,) classes from 0 on."""

    def __init__(self, network, classes: int, drop: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.classes = classes
        self.drop = drop
        self.seed_generator = keras.random.SeedGenerator()
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, inputs):
        return self.network(inputs)

    def noise_loss(self, x, y):
        """‖ε − ε_θ(x_t, t)‖² at random times, its mean over all numbers."""
        batch = ops.shape(x)[0]
        time = keras.random.uniform((batch, 1), seed=self.seed_generator)
        noise = keras.random.normal(ops.shape(x), seed=self.seed_generator)
        chance = keras.random.uniform((batch,), seed=self.seed_generator)
        label = ops.where(chance < self.drop, self.classes, ops.cast(y, "int32"))

        x_t = add_noise(x, noise, signal_share(time))
        found = self.network([x_t, time, label])
        return ops.mean(ops.square(noise - found))

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.noise_loss(x, y)
            scaled = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(scaled, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def denoise(network, classes, limit, x_t, label, time, next_time, guidance, eta, fresh):
    """One step of drawing, from time to next_time: (batch, size) to (batch, size).

    label: (batch,). limit: (size,), the farthest from 0 that a number of a picture can
    be. guidance, eta, fresh: as of `guide` and `ddim_step`.
    """
    times = time * ops.ones_like(x_t[:, :1])
    untold = ops.full_like(label, classes)
    with_class = network([x_t, times, label])
    without_class = network([x_t, times, untold])
    noise = guide(with_class, without_class, guidance)

    share = signal_share(time)
    clean = ops.clip(predict_clean(x_t, noise, share), -limit, limit)
    # After the clip it is other noise that leads from the picture to x_t.
    noise = (x_t - ops.sqrt(share) * clean) / ops.sqrt(1 - share)
    return ddim_step(clean, noise, share, signal_share(next_time), fresh, eta)


class Sampler:
    """Draws by a trained network, each step one compiled call."""

    def __init__(self, network: keras.Model, classes: int, limit: np.ndarray):
        """limit: as of `denoise`."""
        self.network = network
        step = partial(denoise, network, classes, limit)
        self.step = tf.function(step, jit_compile=True)

    def draw(self, label, steps: int, guidance=0.0, eta=0.0, seed: int = 0):
        """label: (n,) classes. Returns x_t at all times, from noise at the first to
        pictures at the last: (steps + 1, n, size)."""
        random = np.random.default_rng(seed)
        shape = (len(label), self.network.inputs[0].shape[-1])
        label = tf.constant(label, tf.int32)
        guidance = tf.constant(guidance, tf.float32)
        eta = tf.constant(eta, tf.float32)
        times = tf.linspace(1.0, 0.0, steps + 1)

        x_t = tf.constant(random.standard_normal(shape), tf.float32)
        path = [x_t]
        for index in range(steps):
            time = times[index]
            next_time = times[index + 1]
            fresh = tf.constant(random.standard_normal(shape), tf.float32)
            x_t = self.step(x_t, label, time, next_time, guidance, eta, fresh)
            path.append(x_t)
        return np.stack(path)


class Codes:
    """Images as numbers in their principal components, and back. All numbers together
    have mean 0 and deviation 1, so the later components, which matter less, are drowned
    by noise sooner."""

    def __init__(self, x: np.ndarray, components: int):
        """x: (n, height, width, 1) in [0, 1]."""
        flat = x.reshape(len(x), -1)
        pca = PCA(min(components, *flat.shape)).fit(flat)
        self.shape = x.shape[1:]
        self.mean = pca.mean_
        self.scale = np.sqrt(pca.explained_variance_.mean())
        self.axes = pca.components_  # (components, pixels)
        self.limit = np.abs(self.encode(x)).max(axis=0)

    def encode(self, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        return ((flat - self.mean) @ self.axes.T / self.scale).astype("float32")

    def decode(self, codes):
        """Arrays or symbolic tensors (n, components) to images in [0, 1]."""
        flat = ops.matmul(codes, self.scale * self.axes) + self.mean
        return ops.reshape(ops.clip(flat, 0, 1), (-1, *self.shape))


def build_generator(
    network, classes: int, codes: Codes, steps: int, guidance: float
) -> keras.Model:
    """All steps in one network. Inputs: noise (batch, components) and label (batch,).
    Output: {"image": (batch, height, width, 1)}, the same for the same noise."""
    noise = keras.Input(network.inputs[0].shape[1:], name="noise")
    label = keras.Input((), dtype="int32", name="label")
    times = np.linspace(1, 0, steps + 1).tolist()
    x_t = noise
    for time, next_time in pairwise(times):
        x_t = denoise(
            network,
            classes,
            codes.limit,
            x_t,
            label,
            time,
            next_time,
            guidance,
            0.0,
            0.0,
        )
    outputs = {"image": codes.decode(x_t)}
    return keras.Model({"noise": noise, "label": label}, outputs, name="generator")


def compile_model(model, learning_rate: float, steps: int, ema_momentum: float) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=ema_momentum)
    model.compile(optimizer)


# --------------------------------------------------------------------------------------
# The experiment: a mixture on a line, then digits by steps and by guidance
# --------------------------------------------------------------------------------------

STEPS = (2, 4, 8, 16)  # beside those of the Config
GUIDANCES = (0.0, 0.5, 1.0, 2.0, 4.0)  # and that of the Config
GENERATOR_STEPS = 8

MIXTURE_MEANS = (-1.2, 0.6)
MIXTURE_SHARES = (0.3, 0.7)
MIXTURE_DEVIATION = 0.25
MIXTURE_EXAMPLES = 4000
MIXTURE_STEPS = 50
MIXTURE_EPOCHS = 100


def train(network, x, y, config: Config, run: Run, *, classes: int, epochs: int):
    """Returns the losses by epoch; the network keeps the running mean of its weights."""
    model = Diffusion(network, classes, config.drop, name=network.name)
    steps = epochs * math.ceil(len(x) / config.batch_size)
    compile_model(model, config.learning_rate, steps, config.ema_momentum)
    history = training.fit(
        model,
        x,
        y,
        epochs=epochs,
        batch_size=config.batch_size,
        jit_compile=True,
        callbacks=run.callbacks,
    )
    return history.history["loss"]


def draw_mixture(count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 1)."""
    means = random.choice(MIXTURE_MEANS, size=count, p=MIXTURE_SHARES)
    return random.normal(means, MIXTURE_DEVIATION)[:, np.newaxis].astype("float32")


def learn_mixture(config: Config, run: Run) -> np.ndarray:
    """Draws from a line's mixture, (steps + 1, examples): all of the way."""
    random = np.random.default_rng(run.seed)
    x = draw_mixture(MIXTURE_EXAMPLES, random)
    y = np.zeros(len(x), "int32")
    network = build_network(1, classes=1, width=64, blocks=2, name="mixture")
    train(network, x, y, config, run, classes=1, epochs=MIXTURE_EPOCHS)
    sampler = Sampler(network, classes=1, limit=np.abs(x).max(axis=0))
    return sampler.draw(y, MIXTURE_STEPS, seed=run.seed)[..., 0]


def judge_mixture(path: np.ndarray, run: Run) -> None:
    random = np.random.default_rng(run.seed + 1000)
    held_out = draw_mixture(MIXTURE_EXAMPLES, random)[:, 0]
    again = draw_mixture(MIXTURE_EXAMPLES, random)[:, 0]
    gaussian = random.normal(held_out.mean(), held_out.std(), MIXTURE_EXAMPLES)
    distances = {
        "diffusion": wasserstein_distance(path[-1], held_out),
        "Gaussian": wasserstein_distance(gaussian, held_out),
        "the mixture itself": wasserstein_distance(again, held_out),
    }
    run.metrics("wasserstein_distance", distances)
    run.compare(
        "Out of Gaussian noise come draws of a mixture of two Gaussians (Wasserstein "
        "distance)",
        distances,
        more="Gaussian",
        less="diffusion",
        times=3,
    )


@dataclass
class Digits:
    """A trained network, and what it is judged by."""

    codes: Codes
    sampler: Sampler
    judge: samples.Judge
    labels: np.ndarray
    """the classes to draw, (images,), in the held-out images' shares"""
    seed: int

    def draw(self, steps: int, guidance: float, eta: float = 0.0) -> np.ndarray:
        path = self.sampler.draw(self.labels, steps, guidance, eta, self.seed)
        return np.asarray(self.codes.decode(path[-1]))

    def score(self, images: np.ndarray) -> samples.Scores:
        return samples.measure(images, self.judge)

    def agreement(self, images: np.ndarray) -> float:
        """Share of the images that the judge takes for the class they were to be of."""
        return float(np.mean(self.judge.classify(images) == self.labels))


def learn_digits(config: Config, run: Run) -> Digits:
    (x, y), (x_test, y_test) = data.load(
        config.data, size=config.size, channels=1, seed=run.seed
    )
    classes = len(data.class_names(config.data))
    codes = Codes(x, config.components)
    network = build_network(
        codes.axes.shape[0], classes, config.width, config.blocks, name="diffusion"
    )
    encoded = codes.encode(x)
    train(network, encoded, y, config, run, classes=classes, epochs=config.epochs)
    sampler = Sampler(network, classes, codes.limit)
    judge = samples.train_judge((x, y), (x_test, y_test), classes=classes, run=run)

    random = np.random.default_rng(run.seed)
    labels = random.choice(y_test, config.images)
    return Digits(codes, sampler, judge, labels, run.seed)


def compare_steps(digits: Digits, config: Config, run: Run):
    """By eta and number of steps, the images and their scores."""
    ladder = sorted({steps for steps in STEPS if steps < config.steps} | {config.steps})
    images = {}
    scores = {}
    for steps in run.track(ladder, "numbers of steps"):
        for eta in (0, 1):
            images[eta, steps] = digits.draw(steps, config.guidance, eta)
            scores[eta, steps] = digits.score(images[eta, steps])
    return images, scores


def judge_steps(images, scores, run: Run) -> None:
    ladder = sorted({steps for _, steps in scores})
    few = ladder[0]
    many = ladder[-1]
    frechet = {f"{steps} steps": scores[0, steps].frechet for steps in ladder}
    run.metrics("frechet_ddim", frechet)
    run.metrics(
        "frechet_ddpm", {f"{steps} steps": scores[1, steps].frechet for steps in ladder}
    )
    run.compare(
        "DDIM's pictures are better in many steps than in few (Fréchet distance)",
        frechet,
        more=f"{few} steps",
        less=f"{many} steps",
        times=1.3,
    )

    middle = ladder[len(ladder) // 2]
    alike = {
        "DDIM": distance(images[0, middle], images[0, many]),
        "DDPM": distance(images[1, middle], images[1, many]),
    }
    usual = distance(images[0, many], np.roll(images[0, many], 1, axis=0))
    run.claim(
        "By DDIM the same noise gives the same picture in few steps and in many; by DDPM, "
        "which adds noise on the way, another",
        holds=alike["DDIM"] < 0.5 * usual and alike["DDIM"] < 0.7 * alike["DDPM"],
        measured=f"root mean square difference of pictures in {middle} and in {many} steps: "
        f"DDIM {alike['DDIM']:.3f}, DDPM {alike['DDPM']:.3f}; of pictures from other "
        f"noise {usual:.3f}",
    )


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of the pixels, the median over pictures."""
    squares = np.square(one - other).reshape(len(one), -1)
    return float(np.median(np.sqrt(squares.mean(axis=1))))


@dataclass
class Guided:
    """What a guidance gives."""

    images: np.ndarray
    scores: samples.Scores
    agreement: float


def compare_guidances(digits: Digits, config: Config, run: Run) -> dict[float, Guided]:
    found = {}
    for guidance in run.track(sorted({*GUIDANCES, config.guidance}), "guidances"):
        images = digits.draw(config.steps, guidance)
        scores = digits.score(images)
        found[guidance] = Guided(images, scores, digits.agreement(images))
    return found


def judge_guidances(found: dict[float, Guided], run: Run) -> None:
    agreements = {f"w {w:g}": each.agreement for w, each in found.items()}
    coverages = {f"w {w:g}": each.scores.coverage for w, each in found.items()}
    precisions = {f"w {w:g}": each.scores.precision for w, each in found.items()}
    run.metrics("agreement", agreements)
    run.metrics("precision", precisions)
    run.metrics("coverage", coverages)
    none = found[min(found)]
    strong = found[max(found)]
    run.claim(
        "Guidance trades diversity for fidelity: the stronger, the more of the pictures "
        "show the class that was asked for, but beyond a point they cover fewer of the "
        "real ones",
        holds=strong.agreement > none.agreement + 0.02
        and strong.scores.precision > none.scores.precision + 0.02
        and strong.scores.coverage < max(coverages.values()) - 0.05,
        measured=", ".join(
            f"w = {w:g}: class shown {each.agreement:.3f}, precision "
            f"{each.scores.precision:.2f}, coverage {each.scores.coverage:.2f}"
            for w, each in found.items()
        ),
    )


def judge_pictures(guided: Guided, scores: dict[str, samples.Scores], run: Run) -> None:
    run.compare(
        "Its pictures are nearer to held-out ones than draws of a Gaussian with the same "
        "principal components (Fréchet distance)",
        {name: each.frechet for name, each in scores.items()},
        more="Gaussian",
        less="diffusion",
        times=3,
    )
    run.claim(
        "Nearly all show the class that was asked for, and they are no copies: they are "
        "about as far from the nearest training image as held-out images are",
        holds=guided.agreement > 0.9 and scores["diffusion"].nearest > 0.6,
        measured=f"class shown {guided.agreement:.3f}; distance "
        f"{scores['diffusion'].nearest:.2f} of that of held-out images",
    )


def draw_mixture_path(path: np.ndarray) -> Figure:
    figure, (ways, ends) = plt.subplots(
        1, 2, figsize=(9, 4), sharey=True, width_ratios=(3, 1)
    )
    times = np.linspace(1, 0, len(path))
    ways.plot(times, path[:, :80], color=figures.COLORS[0], alpha=0.35, linewidth=0.8)
    ways.set(title="DDIM from noise to a mixture", xlabel="time t", ylabel="$x_t$")
    ways.set(xlim=(1, 0), ylim=(-3, 3))

    grid = np.linspace(-3, 3, 300)
    density = sum(
        share * norm.pdf(grid, mean, MIXTURE_DEVIATION)
        for mean, share in zip(MIXTURE_MEANS, MIXTURE_SHARES, strict=True)
    )
    ends.hist(
        path[-1],
        60,
        density=True,
        orientation="horizontal",
        color=figures.COLORS[0],
        alpha=0.5,
        label="drawn",
    )
    ends.plot(density, grid, color=figures.COLORS[1], linestyle="--", label="mixture")
    ends.set(title="At time 0", xlabel="density")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_paths(digits: Digits, config: Config, names: list[str]) -> Figure:
    """Pictures at some of the times, from noise to digits."""
    wanted = np.linspace(0, config.steps, 10).round().astype(int)
    labels, first = np.unique(digits.labels, return_index=True)
    path = digits.sampler.draw(
        digits.labels, config.steps, config.guidance, seed=digits.seed
    )
    rows = {
        f"class {names[label]}": np.asarray(digits.codes.decode(path[wanted, index]))
        for label, index in zip(labels[:5], first[:5], strict=True)
    }
    title = "From noise (time 1, left) to pictures (time 0, right)"
    return figures.image_rows(rows, title=title)


def draw_trades(
    steps_scores, guided: dict[float, Guided], real: samples.Scores
) -> Figure:
    ladder = sorted({steps for _, steps in steps_scores})
    by_steps = figures.Panel(
        title="Quality by number of steps",
        xlabel="steps",
        ylabel="Fréchet distance",
        lines={
            name: (ladder, [steps_scores[eta, steps].frechet for steps in ladder])
            for name, eta in (("DDIM", 0), ("DDPM", 1))
        },
        levels={"real images": real.frechet},
        ylim=(0, None),
        xscale="log",
        xticks=ladder,
    )
    weights = list(guided)
    by_guidance = figures.Panel(
        title="What guidance gains and loses",
        xlabel="guidance w",
        ylabel="share",
        lines={
            "class shown": (weights, [each.agreement for each in guided.values()]),
            "precision": (weights, [each.scores.precision for each in guided.values()]),
            "coverage": (weights, [each.scores.coverage for each in guided.values()]),
        },
        ylim=(0, 1.02),
    )
    return figures.panels(by_steps, by_guidance)


def main(config: Config, run: Run) -> None:
    run.plan(3)
    path = learn_mixture(config, run)
    judge_mixture(path, run)
    run.figure("mixture", draw_mixture_path(path))

    digits = learn_digits(config, run)
    guided = compare_guidances(digits, config, run)
    chosen = guided[config.guidance]
    run.metric("frechet", chosen.scores.frechet)
    names = data.class_names(config.data)
    sheet = samples.draw_by_class(chosen.images, digits.labels, names, "Drawn by class")
    run.figure("digits", sheet)
    run.figure("paths", draw_paths(digits, config, names))

    scores = samples.report(run, {"diffusion": chosen.images}, digits.judge)
    judge_pictures(chosen, scores, run)
    judge_guidances(guided, run)
    images, steps_scores = compare_steps(digits, config, run)
    judge_steps(images, steps_scores, run)
    run.figure("trades", draw_trades(steps_scores, guided, scores["real"]))

    network = digits.sampler.network
    generator = build_generator(
        network, len(names), digits.codes, GENERATOR_STEPS, config.guidance
    )
    noise = np.zeros((2, network.inputs[0].shape[-1]), "float32")
    run.export(generator, example={"noise": noise, "label": np.array([0, 1], "int32")})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
