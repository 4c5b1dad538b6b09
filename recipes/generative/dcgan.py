"""DCGAN: forged pictures by convolutional networks.

A generator G makes a picture of random numbers z ~ N(0, I); a discriminator D says how
likely a picture is real. D learns to raise log D(x) + log(1 − D(G(z))), and G, by the
gradient that comes back through D, to raise log D(G(z)). In a DCGAN neither pools: G
doubles the side by transposed convolutions, D halves it by strides, both with batch
normalization, ReLU in G and leaky ReLU in D.
G has no way back from a picture to z, yet z turns out to be a map: between two latents
lie pictures, and what all pictures of one kind have in common can be added to others.
The losses say who is ahead, not how good the pictures are; a distance in the features
of a classifier does.
Look at the digits, at the way from one to another, at what the arithmetic changes, and
at a loss of G that does not fall while its pictures get better.

Lectures: SEL Generative Models; CS Generative Models; INFO Lecture 8
Paper: Radford et al., Unsupervised representation learning with deep convolutional
    generative adversarial networks, 2016 (sections 3 and 6); Goodfellow et al.,
    Generative adversarial nets, 2014 (algorithm 1)
Tags: gan, generative adversarial network, latent space, interpolation, vector
    arithmetic, fid, generative model, sampling
"""

import math
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors

from deep_learning_recipes import UsageError, data, figures, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), photos (embedded, in color: --size 32), mnist /
    fashion_mnist where Keras can download or has cached them, or your own images: a
    folder with one subfolder a class, or an .npz file"""
    size: Annotated[int, Interval(ge=8, le=64)] = 28
    """side of the images in pixels, a multiple of 4"""
    latent_size: Annotated[int, Interval(ge=2)] = 64
    """random numbers that a picture is made of"""
    filters: int = 16
    """of the convolutions at half the side; at a quarter of it there are twice as many"""
    units: int = 256
    """of the dense layer that sees the whole picture, in both networks"""
    epochs: Annotated[int, Interval(ge=2)] = 30
    """passes over the training images"""
    batch_size: Annotated[int, Interval(ge=2)] = 32
    """real images, and as many forged ones, that a gradient is averaged over"""
    generator_learning_rate: float = 2e-3
    """of G's Adam, at the first step; it falls to 0 along a cosine"""
    discriminator_learning_rate: float = 1e-3
    """the same of D's"""
    images: Annotated[int, Interval(ge=100)] = 1000
    """to draw for what is measured"""


QUICK = Config(
    data="digits",
    size=8,
    latent_size=16,
    units=64,
    epochs=24,
    batch_size=64,
    generator_learning_rate=4e-3,
    discriminator_learning_rate=2e-3,
    images=400,
)
FULL = Config(filters=48, units=1024, epochs=200)

# --------------------------------------------------------------------------------------
# The idea: one network that forges, one that judges
# --------------------------------------------------------------------------------------


def discriminator_loss(real_logits, fake_logits):
    """−log D(x) − log(1 − D(G(z))), the mean over the batch. Logits: (batch, 1)."""
    real = ops.binary_crossentropy(
        ops.ones_like(real_logits), real_logits, from_logits=True
    )
    fake = ops.binary_crossentropy(
        ops.zeros_like(fake_logits), fake_logits, from_logits=True
    )
    return ops.mean(real) + ops.mean(fake)


def generator_loss(fake_logits):
    """−log D(G(z)), the mean over the batch. Its slope is steep where D is not fooled,
    just where that of log(1 − D(G(z))) is flat."""
    losses = ops.binary_crossentropy(
        ops.ones_like(fake_logits), fake_logits, from_logits=True
    )
    return ops.mean(losses)


def build_generator(
    image_shape: tuple[int, int, int],
    latent_size: int = 64,
    filters: int = 16,
    units: int = 256,
) -> keras.Model:
    """G. Input: (batch, latent_size). Output: (batch, height, width, channels) in [0, 1];
    height and width are multiples of 4."""
    height, width, channels = image_shape
    latent = keras.Input((latent_size,), name="latent")

    # The paper's deeper network has convolutions only. With two of them, which see a
    # few pixels each, it takes a dense layer to agree on one shape.
    x = layers.Dense(units, use_bias=False)(latent)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)

    maps = (height // 4, width // 4, 2 * filters)
    x = layers.Dense(math.prod(maps), use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    x = layers.Reshape(maps)(x)

    x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)

    # No normalization where pictures leave; the sigmoid is the paper's tanh, in [0, 1].
    image = layers.Conv2DTranspose(
        channels,
        4,
        strides=2,
        padding="same",
        activation="sigmoid",
        dtype="float32",
        name="image",
    )(x)
    return keras.Model(latent, image, name="generator")


def build_discriminator(
    image_shape: tuple[int, int, int], filters: int = 16, units: int = 256
) -> keras.Model:
    """D. Input: (batch, height, width, channels) in [0, 1]. Output: the logits that it
    is real, (batch, 1)."""
    image = keras.Input(image_shape, name="image")
    x = layers.Rescaling(2.0, -1.0)(image)

    # No normalization where pictures enter.
    x = layers.Conv2D(filters, 4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(0.2)(x)

    x = layers.Conv2D(2 * filters, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.LeakyReLU(0.2)(x)

    x = layers.Flatten()(x)
    x = layers.Dense(units, use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.LeakyReLU(0.2)(x)
    return keras.Model(image, layers.Dense(1, dtype="float32")(x), name="discriminator")


class DCGAN(keras.Model):
    """Trains the two in turn: `compile(generator_optimizer, discriminator_optimizer)`,
    then `fit(x)` with x (n, height, width, channels) in [0, 1]."""

    def __init__(self, generator, discriminator, **kwargs):
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.latent_size = generator.input.shape[-1]
        self.seed_generator = keras.random.SeedGenerator()
        self.d_loss = keras.metrics.Mean("d_loss")
        self.g_loss = keras.metrics.Mean("g_loss")
        self.d_gradient = keras.metrics.Mean("d_gradient")
        self.g_gradient = keras.metrics.Mean("g_gradient")

    def compile(self, generator_optimizer, discriminator_optimizer):
        super().compile(optimizer=None)
        # Keras scales the loss for one optimizer, but knows nothing of two.
        if self.dtype_policy.name == "mixed_float16":
            wrap = keras.optimizers.LossScaleOptimizer
            generator_optimizer = wrap(generator_optimizer)
            discriminator_optimizer = wrap(discriminator_optimizer)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer

    def call(self, latents):
        return self.generator(latents)

    def forge(self, count):
        """Pictures of fresh random latents."""
        shape = (count, self.latent_size)
        latents = keras.random.normal(shape, seed=self.seed_generator)
        return self.generator(latents, training=True)

    def update_discriminator(self, x):
        """One step of D on real pictures and as many forged ones."""
        fake = self.forge(ops.shape(x)[0])
        optimizer = self.discriminator_optimizer
        with tf.GradientTape() as tape:
            # Real and forged apart: each batch is normalized by its own statistics.
            real_logits = self.discriminator(x, training=True)
            fake_logits = self.discriminator(fake, training=True)
            loss = discriminator_loss(real_logits, fake_logits)
            scaled = optimizer.scale_loss(loss)  # does nothing but in float16

        gradients = tape.gradient(scaled, self.discriminator.trainable_variables)
        optimizer.apply(gradients, self.discriminator.trainable_variables)
        self.d_loss.update_state(loss)
        self.d_gradient.update_state(length(gradients) / optimizer.scale_loss(1.0))

    def update_generator(self, count):
        """One step of G on pictures forged anew, by the gradient that comes back through
        D, which stays as it is."""
        optimizer = self.generator_optimizer
        with tf.GradientTape() as tape:
            fake_logits = self.discriminator(self.forge(count), training=True)
            loss = generator_loss(fake_logits)
            scaled = optimizer.scale_loss(loss)

        gradients = tape.gradient(scaled, self.generator.trainable_variables)
        optimizer.apply(gradients, self.generator.trainable_variables)
        self.g_loss.update_state(loss)
        self.g_gradient.update_state(length(gradients) / optimizer.scale_loss(1.0))

    def train_step(self, x):
        self.update_discriminator(x)
        self.update_generator(ops.shape(x)[0])
        return {
            "d_loss": self.d_loss.result(),
            "g_loss": self.g_loss.result(),
            "d_gradient": self.d_gradient.result(),
            "g_gradient": self.g_gradient.result(),
        }


def length(gradients):
    """The norm of all of a network's gradients together."""
    return ops.sqrt(sum(ops.sum(ops.square(each)) for each in gradients))


def compile_dcgan(
    model: DCGAN, generator_rate: float, discriminator_rate: float, steps: int
) -> None:
    # Two networks that follow each other circle around where they should rest: less
    # momentum than usual (the paper's 0.5), and steps that get smaller, settle them.
    schedule = keras.optimizers.schedules.CosineDecay
    model.compile(
        generator_optimizer=keras.optimizers.Adam(
            schedule(generator_rate, steps), beta_1=0.5
        ),
        discriminator_optimizer=keras.optimizers.Adam(
            schedule(discriminator_rate, steps), beta_1=0.5
        ),
    )


def interpolate(one, other, share):
    """From one latent to another, (n, latent_size) both, along the arc between them. On
    the straight line the numbers would be smaller halfway than any that G has seen.

    share: 0 at the first, 1 at the second. What was drawn at random is never parallel,
        which would leave no arc.
    """
    one_direction = one / np.linalg.norm(one, axis=-1, keepdims=True)
    other_direction = other / np.linalg.norm(other, axis=-1, keepdims=True)
    cosine = np.sum(one_direction * other_direction, axis=-1, keepdims=True)
    angle = np.arccos(cosine)
    of_one = np.sin((1 - share) * angle) / np.sin(angle)
    of_other = np.sin(share * angle) / np.sin(angle)
    return of_one * one + of_other * other


def mean_difference(latents, has, lacks):
    """What to add to a latent: the mean of those whose pictures have a property, minus
    the mean of those whose pictures lack it.

    latents: (n, latent_size). has, lacks: (n,) booleans.
    """
    return latents[has].mean(axis=0) - latents[lacks].mean(axis=0)


# --------------------------------------------------------------------------------------
# The experiment: digits, the ways between them, and sums of latents
# --------------------------------------------------------------------------------------

STEPS = 10  # pictures on a way that is shown
BY_EPOCH = 500  # images at most that are measured after each epoch
EACH_PAIR = 5  # images of a class, to be turned into each other class
LEAST_OF_CLASS = 10  # images whose mean latent stands for a class


class FrechetByEpoch(keras.callbacks.Callback):
    """Adds to each epoch's logs how far the pictures of the same latents are from
    held-out ones. Listed before what keeps the logs."""

    def __init__(self, latents: np.ndarray, judge: samples.Judge):
        super().__init__()
        self.latents = latents
        self.judge = judge

    def on_epoch_end(self, epoch, logs=None):
        images = draw(self.model.generator, self.latents)
        seen = self.judge.features(images)
        logs["frechet"] = samples.frechet_distance(seen, self.judge.of_held_out)


def draw(generator: keras.Model, latents: np.ndarray) -> np.ndarray:
    """(n, latent_size) to (n, height, width, channels), a part at a time."""
    return samples.in_parts(generator, latents.astype("float32"))


def train(x: np.ndarray, judge: samples.Judge, config: Config, run: Run):
    """Returns the networks and what they logged by epoch."""
    generator = build_generator(
        x.shape[1:], config.latent_size, config.filters, config.units
    )
    discriminator = build_discriminator(x.shape[1:], config.filters, config.units)
    model = DCGAN(generator, discriminator, name="dcgan")
    steps = config.epochs * math.ceil(len(x) / config.batch_size)
    compile_dcgan(
        model,
        config.generator_learning_rate,
        config.discriminator_learning_rate,
        steps,
    )
    random = np.random.default_rng(run.seed + 1)
    count = min(BY_EPOCH, len(judge.held_out))
    latents = random.standard_normal((count, config.latent_size))
    history = training.fit(
        model,
        x,
        epochs=config.epochs,
        batch_size=config.batch_size,
        jit_compile=False,
        callbacks=[FrechetByEpoch(latents, judge), *run.callbacks],
    )
    return model, history.history


@dataclass
class Drawn:
    """Pictures of random latents."""

    latents: np.ndarray
    """(n, latent_size)"""
    images: np.ndarray
    """(n, height, width, channels)"""
    labels: np.ndarray
    """(n,): the classes that the judge reads"""

    @property
    def brightness(self) -> np.ndarray:
        """Mean of the pixels, (n,): of digits it is how thick the strokes are."""
        return self.images.mean(axis=(1, 2, 3))


def draw_random(
    generator: keras.Model, judge: samples.Judge, count: int, seed: int
) -> Drawn:
    random = np.random.default_rng(seed)
    latents = random.standard_normal((count, generator.input.shape[-1]))
    images = draw(generator, latents)
    return Drawn(latents, images, judge.classify(images))


def judge_pictures(scores: dict[str, samples.Scores], run: Run) -> None:
    run.compare(
        "Its pictures are nearer to held-out ones than draws of a Gaussian with the same "
        "principal components (Fréchet distance)",
        {name: each.frechet for name, each in scores.items()},
        more="Gaussian",
        less="dcgan",
        times=1.5,
    )
    found = scores["dcgan"]
    run.claim(
        "They show all kinds of what is there, and are no copies: most held-out images "
        "have one of them nearby, and they are about as far from the nearest training "
        "image as held-out images are",
        holds=found.coverage > 0.6 and found.nearest > 0.6,
        measured=f"coverage {found.coverage:.2f} (real images "
        f"{scores['real'].coverage:.2f}); distance to the nearest training image "
        f"{found.nearest:.2f} of that of held-out images",
    )


def judge_losses(history: dict[str, list[float]], run: Run) -> None:
    """From the second epoch on: in the first everything changes."""
    frechet = history["frechet"][1] / history["frechet"][-1]
    loss = history["g_loss"][1] / history["g_loss"][-1]
    run.claim(
        "The losses do not tell how good the pictures are: the Fréchet distance falls "
        "far, the generator's loss does not",
        holds=frechet > 2 and loss < 1.3,
        measured=f"from epoch 2 to {len(history['g_loss'])}: Fréchet distance "
        f"{history['frechet'][1]:.1f} to {history['frechet'][-1]:.1f}, generator's loss "
        f"{history['g_loss'][1]:.2f} to {history['g_loss'][-1]:.2f}",
    )


def judge_ways(
    generator: keras.Model, drawn: Drawn, judge: samples.Judge, run: Run
) -> None:
    """Halfway between the pictures of two latents, by latent and by pixels."""
    half = len(drawn.latents) // 2
    between = interpolate(drawn.latents[:half], drawn.latents[half : 2 * half], 0.5)
    halfway = {
        "the ends": drawn.images[:half],
        "by latent": draw(generator, between),
        "by pixels": (drawn.images[:half] + drawn.images[half : 2 * half]) / 2,
    }
    real = judge.directions(judge.held_out)
    precisions = {
        name: samples.precision(judge.directions(images), real)
        for name, images in halfway.items()
    }
    grays = {name: samples.grayness(images) for name, images in halfway.items()}
    run.metrics("precision_halfway", precisions)
    run.metrics("grayness_halfway", grays)
    run.claim(
        "Between two latents lies a picture of its own, as black and white as those at "
        "the ends, and as many lie among the real ones; halfway between their pixels lie "
        "both in gray, and fewer are like real ones",
        holds=precisions["by latent"] > precisions["the ends"] - 0.15
        and precisions["by latent"] > precisions["by pixels"] + 0.05
        and grays["by latent"] < grays["by pixels"] - 0.03,
        measured=", ".join(
            f"{name}: precision {precisions[name]:.2f}, grayness {grays[name]:.3f}"
            for name in halfway
        ),
    )


def classes_of(drawn: Drawn) -> list[int]:
    """The classes with enough pictures to take means of."""
    labels, counts = np.unique(drawn.labels, return_counts=True)
    return labels[counts >= LEAST_OF_CLASS].tolist()


def brighter(drawn: Drawn, classes: list[int]) -> np.ndarray:
    """Bright pictures' mean latent minus dark ones', (latent_size,): within each class,
    as some classes are brighter than others, and then the mean over these classes."""
    differences = []
    for label in classes:
        of_class = drawn.labels == label
        middle = np.median(drawn.brightness[of_class])
        bright = of_class & (drawn.brightness > middle)
        dark = of_class & (drawn.brightness < middle)
        differences.append(mean_difference(drawn.latents, bright, dark))
    return np.mean(differences, axis=0)


def of_length(like: np.ndarray, seed: int) -> np.ndarray:
    """Random directions as long as others, (n, latent_size): what arithmetic is compared
    with."""
    directions = np.random.default_rng(seed).standard_normal(like.shape)
    lengths = np.linalg.norm(directions, axis=-1, keepdims=True)
    return directions * np.linalg.norm(like, axis=-1, keepdims=True) / lengths


def judge_brightness(generator, found: Drawn, tried: Drawn, judge, run: Run) -> None:
    """What makes pictures of the first classes brighter, added to those of the rest and
    taken away from them."""
    classes = classes_of(found)
    middle = len(classes) // 2
    direction = brighter(found, classes[:middle])
    others = np.isin(tried.labels, classes[middle:])
    latents = tried.latents[others]
    labels = tried.labels[others]
    directions = {"brighter": np.tile(direction, (len(latents), 1))}
    directions["random"] = of_length(directions["brighter"], run.seed)

    changes = {}
    kept = {}
    for name, added in directions.items():
        plus = draw(generator, latents + added)
        minus = draw(generator, latents - added)
        changes[name] = float((plus.mean() - minus.mean()) / tried.brightness.std())
        kept[name] = float(np.mean(judge.classify(plus) == labels))
    run.metrics("change_of_brightness", changes)
    run.metrics("class_kept", kept)
    run.claim(
        "Sums of latents mean something: bright pictures' mean latent minus dark ones', "
        "found in half of the classes, makes pictures of the others brighter where it is "
        "added than where it is taken away, and most keep their class",
        holds=changes["brighter"] > abs(changes["random"]) + 0.2
        and kept["brighter"] > 0.5,
        measured="; ".join(
            f"{name}: {changes[name]:+.2f} standard deviations of brightness, class kept "
            f"{kept[name]:.2f}"
            for name in changes
        ),
    )


def judge_classes(generator, found: Drawn, tried: Drawn, judge, run: Run) -> None:
    """The mean latent of one class taken away, and another's added."""
    latents = []
    differences = []
    wanted = []
    for one, other in permutations(classes_of(found), 2):
        some = tried.latents[tried.labels == one][:EACH_PAIR]
        is_other = found.labels == other
        difference = mean_difference(found.latents, is_other, found.labels == one)
        latents.extend(some)
        differences.extend([difference] * len(some))
        wanted.extend([other] * len(some))

    added = {"class means": np.array(differences)}
    added["random"] = of_length(added["class means"], run.seed)
    shares = {}
    for name, difference in added.items():
        images = draw(generator, np.array(latents) + difference)
        shares[name] = float(np.mean(judge.classify(images) == wanted))
    run.metrics("class_reached", shares)
    run.compare(
        "Another class's mean latent in place of its own class's turns many a picture "
        "into that class, a random direction of the same length hardly any (the share "
        "that the judge takes for it)",
        shares,
        more="class means",
        less="random",
        by=0.2,
    )


def draw_nearest(drawn: Drawn, judge: samples.Judge) -> Figure:
    """Are they copies?"""
    shown = drawn.images[:10]
    neighbors = NearestNeighbors(n_neighbors=1).fit(judge.of_train)
    _, nearest = neighbors.kneighbors(judge.directions(shown))
    rows = {
        "forged": shown,
        "nearest in training": judge.train[nearest[:, 0]],
        "held out": judge.held_out,
    }
    return figures.image_rows(rows, title="Forged pictures beside real ones")


def draw_training(history: dict[str, list[float]]) -> Figure:
    losses = figures.Panel(
        title="Losses",
        xlabel="epoch",
        ylabel="loss",
        lines={"discriminator": history["d_loss"], "generator": history["g_loss"]},
    )
    norms = figures.Panel(
        title="Gradients",
        xlabel="epoch",
        ylabel="norm of the gradient",
        lines={
            "discriminator": history["d_gradient"],
            "generator": history["g_gradient"],
        },
        ylim=(0, None),
    )
    frechet = figures.Panel(
        title="Distance from held-out images",
        xlabel="epoch",
        ylabel="Fréchet distance",
        lines={"generator": history["frechet"]},
        yscale="log",
    )
    return figures.panels(losses, norms, frechet)


def draw_ways(generator: keras.Model, drawn: Drawn) -> Figure:
    rows = {}
    for way in range(3):
        one = drawn.latents[2 * way]
        other = drawn.latents[2 * way + 1]
        shares = np.linspace(0, 1, STEPS)
        latents = np.stack([interpolate(one, other, share) for share in shares])
        rows[f"{way + 1}: latent"] = draw(generator, latents)
        first = drawn.images[2 * way]
        last = drawn.images[2 * way + 1]
        rows[f"{way + 1}: pixels"] = np.stack(
            [(1 - share) * first + share * last for share in shares]
        )
    return figures.image_rows(
        rows, title="From picture to picture, by latent and by pixels", columns=STEPS
    )


def draw_arithmetic(
    generator: keras.Model, found: Drawn, tried: Drawn, names: list[str]
) -> Figure:
    """A row for each picture: what is added to its latent grows from left to right."""
    classes = classes_of(found)
    middle = len(classes) // 2
    amounts = np.linspace(-2, 2, STEPS)[:, np.newaxis]
    direction = brighter(found, classes[:middle])
    rows = {}
    for label in classes[middle:][:4]:
        latents = tried.latents[tried.labels == label][:1]
        if len(latents):
            rows[f"{names[label]}: bright"] = draw(
                generator, latents + amounts * direction
            )

    amounts = np.linspace(0, 1.5, STEPS)[:, np.newaxis]
    for one, other in pairwise(classes[:5]):
        latents = tried.latents[tried.labels == one][:1]
        difference = mean_difference(
            found.latents, found.labels == other, found.labels == one
        )
        if len(latents):
            rows[f"{names[one]} → {names[other]}"] = draw(
                generator, latents + amounts * difference
            )
    title = (
        "A latent plus −2 to 2 times bright − dark; plus 0 to 1.5 times class − class"
    )
    return figures.image_rows(rows, title=title, columns=STEPS)


def main(config: Config, run: Run) -> None:
    if config.size % 4:
        raise UsageError(f"--size must be a multiple of 4, not {config.size}")
    run.plan(2)
    (x, y), (x_test, y_test) = data.load(config.data, size=config.size, seed=run.seed)
    names = data.class_names(config.data)
    judge = samples.train_judge((x, y), (x_test, y_test), classes=len(names), run=run)
    model, history = train(x, judge, config, run)
    generator = model.generator
    drawn = draw_random(generator, judge, config.images, run.seed)
    run.metric("frechet", samples.measure(drawn.images, judge).frechet)
    title = "Pictures of random latents, by the class that the judge reads"
    sheet = samples.draw_by_class(drawn.images, drawn.labels, names, title)
    run.figure("samples", sheet)
    run.figure("nearest", draw_nearest(drawn, judge))
    run.figure("training", draw_training(history))

    scores = samples.report(run, {"dcgan": drawn.images}, judge)
    judge_pictures(scores, run)
    judge_losses(history, run)
    judge_ways(generator, drawn, judge, run)
    run.figure("ways", draw_ways(generator, drawn))

    # What is found in some pictures is tried on others.
    tried = draw_random(generator, judge, config.images, run.seed + 1000)
    if len(classes_of(drawn)) >= 2:
        judge_brightness(generator, drawn, tried, judge, run)
        judge_classes(generator, drawn, tried, judge, run)
        run.figure("arithmetic", draw_arithmetic(generator, drawn, tried, names))

    outputs = {"image": generator.output}
    example = drawn.latents[:2].astype("float32")
    run.export(keras.Model(generator.inputs, outputs), example=example)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
