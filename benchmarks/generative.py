"""Generative models: steps of a DCGAN by `training.fit`, Keras `fit`, a `train_step` as
tutorials write it, and a PyTorch loop; and pictures painted by a PixelCNN in one
compiled call beside the loop that asks the whole network for each pixel.

    python benchmarks/generative.py [--rounds 5]

All take turns within each round, so that whatever else the machine does hits all of
them; the tables show medians over the rounds. PyTorch (the `bench` extra) is left out
where it is not installed.
"""

import argparse
import statistics
from collections.abc import Callable

import fit
import keras
import numpy as np
import tensorflow as tf
from fit import DEFAULTS, OURS, TORCH, torch

from deep_learning_recipes import training
from recipes.generative import dcgan, pixelcnn

TUTORIAL = "keras fit, a tutorial's train_step"
BATCH_SIZE = 64
STEPS = 40  # of an epoch
SHAPE = (28, 28, 1)
RATE = 1e-3
TARGETS = {TUTORIAL: 1.1, TORCH: 1.0}

PICTURES = 64
NAIVE_PIXELS = 14  # that the naive loops are timed on; each takes as long
SPEED_UP = 20


def networks():
    settings = dcgan.Config()
    generator = dcgan.build_generator(
        SHAPE, settings.latent_size, settings.filters, settings.units
    )
    discriminator = dcgan.build_discriminator(SHAPE, settings.filters, settings.units)
    return generator, discriminator


class Tutorial(keras.Model):
    """Two steps on one concatenated batch, labels with noise, as in many a tutorial."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.loss_function = keras.losses.BinaryCrossentropy(from_logits=True)
        self.d_tracker = keras.metrics.Mean("d_loss")
        self.g_tracker = keras.metrics.Mean("g_loss")

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer

    def train_step(self, real):
        count = tf.shape(real)[0]
        size = self.generator.input_shape[-1]
        fake = self.generator(tf.random.normal((count, size)), training=True)
        both = tf.concat([fake, real], axis=0)
        labels = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], axis=0)
        labels += 0.05 * tf.random.uniform(tf.shape(labels))
        with tf.GradientTape() as tape:
            d_loss = self.loss_function(labels, self.discriminator(both, training=True))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)

        noise = tf.random.normal((count, size))
        with tf.GradientTape() as tape:
            logits = self.discriminator(self.generator(noise, training=True))
            g_loss = self.loss_function(tf.zeros((count, 1)), logits)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        self.d_tracker.update_state(d_loss)
        self.g_tracker.update_state(g_loss)
        return {"d_loss": self.d_tracker.result(), "g_loss": self.g_tracker.result()}


def torch_networks():
    nn = torch.nn
    settings = dcgan.Config()
    filters = settings.filters
    units = settings.units
    generator = nn.Sequential(
        nn.Linear(settings.latent_size, units, bias=False),
        nn.BatchNorm1d(units),
        nn.ReLU(),
        nn.Linear(units, 7 * 7 * 2 * filters, bias=False),
        nn.BatchNorm1d(7 * 7 * 2 * filters),
        nn.ReLU(),
        nn.Unflatten(1, (2 * filters, 7, 7)),
        nn.ConvTranspose2d(2 * filters, filters, 4, 2, 1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.ConvTranspose2d(filters, 1, 4, 2, 1),
        nn.Sigmoid(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, filters, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(filters, 2 * filters, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * filters),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 2 * filters, units, bias=False),
        nn.BatchNorm1d(units),
        nn.LeakyReLU(0.2),
        nn.Linear(units, 1),
    )
    return generator, discriminator


def torch_epoch(x) -> Callable[[], None]:
    generator, discriminator = torch_networks()
    g_optimizer = torch.optim.Adam(generator.parameters(), RATE, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), RATE, betas=(0.5, 0.999))
    loss_function = torch.nn.BCEWithLogitsLoss()
    images = torch.tensor(np.moveaxis(x, -1, 1))
    size = dcgan.Config().latent_size
    ones = torch.ones(BATCH_SIZE, 1)
    zeros = torch.zeros(BATCH_SIZE, 1)

    def train():
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            with torch.no_grad():
                fake = generator(torch.randn(BATCH_SIZE, size))
            d_optimizer.zero_grad()
            loss = loss_function(discriminator(images[chosen]), ones)
            loss = loss + loss_function(discriminator(fake), zeros)
            loss.backward()
            d_optimizer.step()

            g_optimizer.zero_grad()
            fake = generator(torch.randn(BATCH_SIZE, size))
            loss_function(discriminator(fake), ones).backward()
            g_optimizer.step()

    return train


def trainers() -> dict[str, Callable[[], None]]:
    """By name, a function that trains for an epoch."""
    x = np.random.default_rng(0).random((STEPS * BATCH_SIZE, *SHAPE), "float32")

    def recipe():
        model = dcgan.DCGAN(*networks())
        dcgan.compile_dcgan(model, RATE, RATE, 100 * STEPS)
        return model

    ours = recipe()
    by_keras = recipe()
    tutorial = Tutorial(*networks())
    tutorial.compile(
        keras.optimizers.Adam(RATE, beta_1=0.5), keras.optimizers.Adam(RATE, beta_1=0.5)
    )
    found = {
        OURS: lambda: training.fit(ours, x, batch_size=BATCH_SIZE, verbose=0),
        DEFAULTS: lambda: by_keras.fit(x, batch_size=BATCH_SIZE, verbose=0),
        TUTORIAL: lambda: tutorial.fit(x, batch_size=BATCH_SIZE, verbose=0),
    }
    if torch is not None:
        found[TORCH] = torch_epoch(x)
    return found


def take_turns(entries: dict[str, Callable[[], object]], rounds: int) -> dict:
    """Median seconds by name."""
    for action in entries.values():
        action()  # compiles
    measured: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, action in entries.items():
            measured[name].append(fit.seconds(action))
    return {name: statistics.median(found) for name, found in measured.items()}


def report_training(rounds: int) -> None:
    found = take_turns(trainers(), rounds)
    print(f"DCGAN, 28x28, batch {BATCH_SIZE}")
    for name, seconds in found.items():
        print(
            f"  {name:43}{STEPS / seconds:8.1f} steps/s"
            f"{seconds / found[OURS]:8.2f} times our time"
        )
    for rival, target in TARGETS.items():
        if rival in found:
            ratio = found[rival] / found[OURS]
            verdict = "reached" if ratio >= target else "MISSED"
            print(f"  {OURS} over {rival}: {ratio:.2f}x, target {target}x: {verdict}")
    print(flush=True)


def report_painting(size: int, rounds: int) -> None:
    settings = pixelcnn.Config()
    network = pixelcnn.build_gated(settings.levels, settings.filters, settings.blocks)
    painter = pixelcnn.Painter(network, settings.blocks)
    blank = np.zeros((PICTURES, size, size, 1), "float32")
    uniform = np.random.default_rng(0).random((PICTURES, size, size), "float32")
    compiled = tf.function(network, input_signature=[tf.TensorSpec(blank.shape)])
    entries = {
        "one compiled call": lambda: painter.paint(blank, uniform, 0).numpy(),
        "naive loop": lambda: pixelcnn.paint_naively(
            network, blank, uniform, NAIVE_PIXELS
        ),
        "naive loop, network compiled": lambda: pixelcnn.paint_naively(
            compiled, blank, uniform, NAIVE_PIXELS
        ),
    }
    found = take_turns(entries, rounds)
    speeds = {name: PICTURES * NAIVE_PIXELS / each for name, each in found.items()}
    speeds["one compiled call"] = blank.size / found["one compiled call"]
    print(f"PixelCNN, {PICTURES} pictures of {size}x{size}")
    for name, speed in speeds.items():
        print(f"  {name:43}{speed:10,.0f} pixels/s")
    ratio = speeds["one compiled call"] / speeds["naive loop"]
    verdict = "reached" if ratio >= SPEED_UP else "MISSED"
    print(f"  over the naive loop: {ratio:.0f}x, target {SPEED_UP}x: {verdict}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    report_training(rounds)
    for size in (14, 28):
        report_painting(size, rounds)


if __name__ == "__main__":
    main()
