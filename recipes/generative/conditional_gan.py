"""Conditional GAN: forged pictures of a class on demand.

The class y becomes an extra input of both networks: the generator G makes a picture of
random numbers z and of y, the discriminator D says whether a picture is real, and of
that class. D learns to raise log D(x, y) + log(1 − D(G(z, y), y)), and G to raise
log D(G(z, y), y). So a good picture of the wrong class is found out. Tell y to G alone,
and nothing makes G listen: D is content with pictures of any class.
What the class leaves open is left to z: how thick a stroke is, how slanted, how wide. The
same z has a like hand in every class.
Look at the columns of one z through all classes, and at the same sheet when D is not
told.

Lectures: N18 6.1 Data Prediction; SEL Generative Models; INFO Lecture 8
Paper: Mirza and Osindero, Conditional generative adversarial nets, 2014 (equation 2);
    Miyato and Koyama, cGANs with projection discriminator, 2018 (the form of D);
    Radford et al., Unsupervised representation learning with deep convolutional
    generative adversarial networks, 2016 (section 3)
Tags: cgan, generative adversarial network, class-conditional, controllable
    generation, disentanglement, generative model
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import (
    UsageError,
    as_metric,
    data,
    figures,
    samples,
    training,
)
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), photos (embedded, in color: --size 32), mnist /
    fashion_mnist where Keras can download or has cached them, or your own images: a
    folder with one subfolder a class, or an .npz file"""
    size: Annotated[int, Interval(ge=8, le=64)] = 28
    """side of the images in pixels, a multiple of 4"""
    noise_size: Annotated[int, Interval(ge=2)] = 64
    """random numbers z that a picture is made of, beside its class"""
    filters: int = 16
    """of the convolutions at half the side; at a quarter of it there are twice as many"""
    units: int = 256
    """of the dense layer that sees the whole picture, in both networks"""
    epochs: int = 25
    """passes over the training images"""
    batch_size: Annotated[int, Interval(ge=2)] = 32
    """real images, and as many forged ones, that a gradient is averaged over"""
    generator_learning_rate: float = 2e-3
    """of G's Adam, at the first step; it falls to 0 along a cosine"""
    discriminator_learning_rate: float = 5e-4
    """the same of D's"""
    images: Annotated[int, Interval(ge=100)] = 1000
    """to draw for what is measured"""


QUICK = Config(
    data="digits",
    size=8,
    noise_size=16,
    units=64,
    epochs=18,
    generator_learning_rate=4e-3,
    discriminator_learning_rate=1e-3,
    images=400,
)
FULL = Config(filters=48, units=1024, epochs=150)

# --------------------------------------------------------------------------------------
# The idea: the class as an extra input of both networks
# --------------------------------------------------------------------------------------


def discriminator_loss(real_logits, fake_logits):
    """−log D(x, y) − log(1 − D(G(z, y), y)), the mean over the batch. Logits: (batch, 1)."""
    real = ops.binary_crossentropy(
        ops.ones_like(real_logits), real_logits, from_logits=True
    )
    fake = ops.binary_crossentropy(
        ops.zeros_like(fake_logits), fake_logits, from_logits=True
    )
    return ops.mean(real) + ops.mean(fake)


def generator_loss(fake_logits):
    """−log D(G(z, y), y), the mean over the batch."""
    losses = ops.binary_crossentropy(
        ops.ones_like(fake_logits), fake_logits, from_logits=True
    )
    return ops.mean(losses)


def build_generator(
    image_shape: tuple[int, int, int],
    classes: int,
    noise_size: int = 64,
    filters: int = 16,
    units: int = 256,
) -> keras.Model:
    """G. Inputs: noise z (batch, noise_size) and label y (batch,). Output: (batch, height,
    width, channels) in [0, 1]; height and width are multiples of 4."""
    height, width, channels = image_shape
    noise = keras.Input((noise_size,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    x = layers.Concatenate()([noise, ops.one_hot(label, classes)])

    x = layers.Dense(units, use_bias=False)(x)
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

    image = layers.Conv2DTranspose(
        channels,
        4,
        strides=2,
        padding="same",
        activation="sigmoid",
        dtype="float32",
        name="image",
    )(x)
    return keras.Model({"noise": noise, "label": label}, image, name="generator")


def build_discriminator(
    image_shape: tuple[int, int, int],
    classes: int,
    filters: int = 16,
    units: int = 256,
) -> keras.Model:
    """D. Inputs: image (batch, height, width, channels) in [0, 1] and label y (batch,).
    Output: the logits that it is a real one of that class, (batch, 1)."""
    image = keras.Input(image_shape, name="image")
    label = keras.Input((), dtype="int32", name="label")
    x = layers.Rescaling(2.0, -1.0)(image)

    x = layers.Conv2D(filters, 4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(0.2)(x)

    x = layers.Conv2D(2 * filters, 4, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.LeakyReLU(0.2)(x)

    x = layers.Flatten()(x)
    x = layers.Dense(units, use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.LeakyReLU(0.2)(x)

    # Is it real? And is it of that class: the features' product with the class's vector.
    is_real = layers.Dense(1, dtype="float32", name="is_real")(x)
    told = layers.Dense(units, use_bias=False)(ops.one_hot(label, classes))
    fits = layers.Dot(axes=1, dtype="float32", name="fits")([x, told])
    logits = layers.Add(dtype="float32")([is_real, fits])
    return keras.Model({"image": image, "label": label}, logits, name="discriminator")


class ConditionalGAN(keras.Model):
    """Trains the two in turn: `compile(generator_optimizer, discriminator_optimizer)`,
    then `fit(x, y)` with x (n, height, width, channels) in [0, 1] and y (n,) from 0 on."""

    def __init__(self, generator, discriminator, tell_discriminator=True, **kwargs):
        """tell_discriminator: if False, D is told class 0 of every picture."""
        super().__init__(**kwargs)
        self.generator = generator
        self.discriminator = discriminator
        self.tell_discriminator = tell_discriminator
        self.noise_size = generator.input["noise"].shape[-1]
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

    def call(self, inputs):
        return self.generator(inputs)

    def forge(self, label):
        """Pictures of these classes (batch,), from fresh noise."""
        shape = (ops.shape(label)[0], self.noise_size)
        noise = keras.random.normal(shape, seed=self.seed_generator)
        return self.generator({"noise": noise, "label": label}, training=True)

    def judge(self, image, label):
        """D's logits that these are real pictures of these classes, (batch, 1)."""
        if not self.tell_discriminator:
            label = ops.zeros_like(label)
        return self.discriminator({"image": image, "label": label}, training=True)

    def update_discriminator(self, x, label):
        """One step of D on real pictures and as many forged ones, of the same classes."""
        fake = self.forge(label)
        optimizer = self.discriminator_optimizer
        with tf.GradientTape() as tape:
            # Real and forged apart: each batch is normalized by its own statistics.
            loss = discriminator_loss(self.judge(x, label), self.judge(fake, label))
            scaled = optimizer.scale_loss(loss)  # does nothing but in float16

        gradients = tape.gradient(scaled, self.discriminator.trainable_variables)
        optimizer.apply(gradients, self.discriminator.trainable_variables)
        self.d_loss.update_state(loss)
        self.d_gradient.update_state(length(gradients) / optimizer.scale_loss(1.0))

    def update_generator(self, label):
        """One step of G on pictures forged anew, told to G and to D as the same class."""
        optimizer = self.generator_optimizer
        with tf.GradientTape() as tape:
            loss = generator_loss(self.judge(self.forge(label), label))
            scaled = optimizer.scale_loss(loss)

        gradients = tape.gradient(scaled, self.generator.trainable_variables)
        optimizer.apply(gradients, self.generator.trainable_variables)
        self.g_loss.update_state(loss)
        self.g_gradient.update_state(length(gradients) / optimizer.scale_loss(1.0))

    def train_step(self, batch):
        x, y = batch
        label = ops.cast(y, "int32")
        self.update_discriminator(x, label)
        self.update_generator(label)
        return {
            "d_loss": self.d_loss.result(),
            "g_loss": self.g_loss.result(),
            "d_gradient": self.d_gradient.result(),
            "g_gradient": self.g_gradient.result(),
        }


def length(gradients):
    """The norm of all of a network's gradients together."""
    return ops.sqrt(sum(ops.sum(ops.square(each)) for each in gradients))


def compile_gan(
    model: ConditionalGAN, generator_rate: float, discriminator_rate: float, steps: int
) -> None:
    # Two networks that follow each other circle around where they should rest: less
    # momentum than usual, and steps that get smaller, settle them.
    schedule = keras.optimizers.schedules.CosineDecay
    model.compile(
        generator_optimizer=keras.optimizers.Adam(
            schedule(generator_rate, steps), beta_1=0.5
        ),
        discriminator_optimizer=keras.optimizers.Adam(
            schedule(discriminator_rate, steps), beta_1=0.5
        ),
    )


# --------------------------------------------------------------------------------------
# The experiment: the class told to both networks, and to G alone
# --------------------------------------------------------------------------------------

TOLD = {"both": True, "G alone": False}
BY_EPOCH = 300  # images that are read after each epoch
HANDS = 100  # noises that are drawn in every class


class AgreementByEpoch(keras.callbacks.Callback):
    """Adds to each epoch's logs the share of the pictures that show the class asked for.
    Listed before what keeps the logs."""

    def __init__(self, noise: np.ndarray, labels: np.ndarray, judge: samples.Judge):
        super().__init__()
        self.noise = noise
        self.labels = labels
        self.judge = judge

    def on_epoch_end(self, epoch, logs=None):
        images = draw(self.model.generator, self.noise, self.labels)
        logs["agreement"] = agreement(images, self.labels, self.judge)


def draw(generator: keras.Model, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """noise (n, noise_size), labels (n,). Returns (n, height, width, channels)."""
    parts = range(samples.AT_ONCE, len(labels), samples.AT_ONCE)
    inputs = zip(np.split(noise, parts), np.split(labels, parts), strict=True)
    return np.concatenate(
        [np.asarray(generator({"noise": z, "label": label})) for z, label in inputs]
    )


def draw_noise(count: int, size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, size)).astype("float32")


def agreement(images: np.ndarray, labels: np.ndarray, judge: samples.Judge) -> float:
    """Share of the images that the judge takes for the class they were to be of."""
    return float(np.mean(judge.classify(images) == labels))


def train(name: str, x, y, judge: samples.Judge, config: Config, run: Run):
    """Returns the networks and what they logged by epoch."""
    shape = x.shape[1:]
    generator = build_generator(
        shape, judge.classes, config.noise_size, config.filters, config.units
    )
    discriminator = build_discriminator(
        shape, judge.classes, config.filters, config.units
    )
    model = ConditionalGAN(
        generator, discriminator, TOLD[name], name=as_metric(f"told {name}")
    )
    steps = config.epochs * math.ceil(len(x) / config.batch_size)
    compile_gan(
        model,
        config.generator_learning_rate,
        config.discriminator_learning_rate,
        steps,
    )
    noise = draw_noise(BY_EPOCH, config.noise_size, run.seed + 1)
    labels = np.resize(np.arange(judge.classes, dtype="int32"), BY_EPOCH)
    history = training.fit(
        model,
        x,
        y,
        epochs=config.epochs,
        batch_size=config.batch_size,
        jit_compile=False,
        callbacks=[AgreementByEpoch(noise, labels, judge), *run.callbacks],
    )
    return model, history.history


def judge_agreement(images, labels, judge: samples.Judge, run: Run) -> None:
    """images: by who is told the class."""
    shown = {
        f"told to {name}": agreement(each, labels, judge)
        for name, each in images.items()
    }
    run.metrics("agreement", shown)
    run.claim(
        "Asked for a class, it draws it",
        at_least=0.85,
        measured={"told to both": shown["told to both"]},
    )
    run.compare(
        "The class has to be told to both networks: where D does not know what was asked "
        "for, G does not listen (share of the pictures that show the class asked for)",
        shown,
        more="told to both",
        less="told to G alone",
        by=0.5,
    )


def judge_copies(scores: dict[str, samples.Scores], run: Run) -> None:
    run.claim(
        "Its pictures are no copies: they are about as far from the nearest training "
        "image as held-out images are",
        at_least=0.6,
        measured={"share of their distance": scores["both"].nearest},
    )


def spread_in_classes(seen: np.ndarray, labels: np.ndarray) -> float:
    """Root mean square distance of features (n, features) from their class's mean."""
    squares = []
    for label in np.unique(labels):
        of_class = seen[labels == label]
        squares.append(np.sum((of_class - of_class.mean(axis=0)) ** 2, axis=1))
    return float(np.sqrt(np.concatenate(squares).mean()))


def judge_noise(model, images, labels, y_test, judge: samples.Judge, run: Run) -> None:
    """What is left to z: pictures of one class differ, and the same z has a like hand in
    every class."""
    spread = spread_in_classes(judge.features(images), labels)
    real_spread = spread_in_classes(judge.of_held_out, y_test)
    run.metric("spread_in_classes", spread / real_spread)
    run.claim(
        "One class is not one picture: by other noise they differ, if less than real ones "
        "(distance from the class's mean in the judge's features)",
        at_least=0.3,
        measured={"share of that of held-out images": spread / real_spread},
    )

    noise = draw_noise(HANDS, model.noise_size, run.seed + 2)
    hands = draw_hands(model.generator, noise, judge.classes)
    brightness = hands.mean(axis=(2, 3, 4))  # (classes, noises)
    between = np.corrcoef(brightness)[np.triu_indices(judge.classes, 1)]
    run.metric("correlation_between_classes", between.mean())
    run.claim(
        "The same noise has a like hand in every class: where it makes a bright picture "
        "of one class (thick strokes) it does so of the others (correlation; 0 if noise "
        "meant something else in each class)",
        at_least=0.1,
        measured={"mean over the pairs of classes": float(between.mean())},
    )


def draw_hands(generator, noise: np.ndarray, classes: int) -> np.ndarray:
    """Each noise (n, noise_size) in every class: (classes, n, height, width, channels)."""
    labels = np.repeat(np.arange(classes, dtype="int32"), len(noise))
    images = draw(generator, np.tile(noise, (classes, 1)), labels)
    return images.reshape(classes, len(noise), *images.shape[1:])


def draw_sheet(generator, noise: np.ndarray, names: list[str], title: str) -> Figure:
    """A row for each class, a column for each noise."""
    hands = draw_hands(generator, noise, len(names))
    rows = dict(zip(names[:10], hands[:10], strict=True))
    return figures.image_rows(rows, title=title, columns=len(noise))


def draw_training(histories: dict[str, dict[str, list[float]]]) -> Figure:
    both = histories["both"]
    losses = figures.Panel(
        title="Losses, told to both",
        xlabel="epoch",
        ylabel="loss",
        lines={"discriminator": both["d_loss"], "generator": both["g_loss"]},
    )
    norms = figures.Panel(
        title="Gradients, told to both",
        xlabel="epoch",
        ylabel="norm of the gradient",
        lines={"discriminator": both["d_gradient"], "generator": both["g_gradient"]},
        ylim=(0, None),
    )
    shown = figures.Panel(
        title="Class shown",
        xlabel="epoch",
        ylabel="share of the pictures",
        lines={
            f"told to {name}": history["agreement"]
            for name, history in histories.items()
        },
        ylim=(0, 1.02),
    )
    return figures.panels(losses, norms, shown)


def main(config: Config, run: Run) -> None:
    if config.size % 4:
        raise UsageError(f"--size must be a multiple of 4, not {config.size}")
    run.plan(3)
    (x, y), (x_test, y_test) = data.load(config.data, size=config.size, seed=run.seed)
    names = data.class_names(config.data)
    if len(names) < 2:
        raise UsageError("--data: images of one class leave nothing to ask for")
    judge = samples.train_judge((x, y), (x_test, y_test), classes=len(names), run=run)

    models = {}
    histories = {}
    for name in TOLD:
        models[name], histories[name] = train(name, x, y, judge, config, run)
    run.figure("training", draw_training(histories))

    noise = draw_noise(12, config.noise_size, run.seed + 3)
    for name, model in models.items():
        title = f"The class told to {name}: a column for each noise"
        figure = draw_sheet(model.generator, noise, names, title)
        run.figure(f"told_to_{as_metric(name)}", figure)

    noise = draw_noise(config.images, config.noise_size, run.seed)
    labels = np.random.default_rng(run.seed).choice(y_test, config.images)
    labels = labels.astype("int32")
    images = {
        name: draw(model.generator, noise, labels) for name, model in models.items()
    }
    judge_agreement(images, labels, judge, run)
    scores = samples.report(run, images, judge)
    judge_copies(scores, run)
    judge_noise(models["both"], images["both"], labels, y_test, judge, run)

    generator = models["both"].generator
    exported = keras.Model(generator.input, {"image": generator.output})
    run.export(exported, example={"noise": noise[:2], "label": labels[:2]})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
