"""Recurrent attention: a network that reads a picture in glimpses and learns where.

A glimpse is a small patch, sharp in the middle and coarse around it. A recurrent
network takes in one after the other, names the digit after each, and says where to look
next. What it reads is learned by cross-entropy. A crop has no derivative with respect
to its place, so the places are drawn, l ~ N(μ, σ²), and learned by REINFORCE: (R − b)
∇log N(l; μ, σ²), where R is what the later glimpses brought and b, the return that a
third network expected, takes variance away.
Look at the accuracy by number of glimpses, and at what the network saw of each picture.

The paper's μ is a place in the picture; here it is a step away from the last one, which
is learned in fewer pictures. A reward is the probability of the right digit, not
whether it was the likeliest.

Lectures: CS Reinforcement Learning (recurrent attention models)
Paper: Mnih et al., Recurrent models of visual attention, 2014 (figure 1, section 3)
Tags: ram, hard attention, visual attention, foveation, policy gradient, cluttered
    mnist, rl
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Gt
from keras import layers, ops

from deep_learning_recipes import data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist where Keras can download or has cached it, or your own
    images: a folder with one subfolder a class, or an .npz file"""
    digit_size: int = 12
    """side of a digit in pixels; clutter is made of pieces a third as large"""
    side: int = 32
    """of a picture in pixels"""
    pictures: int = 40_000
    """made for training, one digit in each"""
    glimpses: int = 5
    """at each picture; the first one is at its center"""
    patch: int = 6
    """pixels across the sharp patch of a glimpse; each coarser one has as many, twice
    as large"""
    scales: int = 2
    """patches in a glimpse"""
    units: int = 128
    """width of the networks"""
    sigma: Annotated[float, Gt(0)] = 0.2
    """standard deviation of a place in training; 1 is half a picture"""
    epochs: int = 8
    """passes over the pictures"""
    batch_size: int = 256
    """pictures a gradient is averaged over"""
    learning_rate: float = 2e-3
    """of Adam at first; it falls to zero along a cosine"""


QUICK = Config(
    side=24,
    pictures=9000,
    glimpses=3,
    units=96,
    epochs=7,
    batch_size=64,
    learning_rate=4e-3,
)
FULL = Config(
    data="mnist",
    digit_size=28,
    side=60,
    pictures=100_000,
    patch=12,
    scales=3,
    epochs=50,
)

POLICIES = ("learned", "random", "center")


def clutter(
    digits, labels, count: int, side: int, random: np.random.Generator, pieces: int = 4
):
    """Pictures (count, side, side) of one digit each among pieces of others, and their
    labels."""
    pictures = np.zeros((count, side, side), "float32")
    picture, across = np.arange(count)[:, None, None], np.arange(digits.shape[1] // 3)

    def paste(patches):
        across = np.arange(patches.shape[1])
        row, column = random.integers(0, side - len(across) + 1, (2, count, 1, 1))
        place = picture, row + across[:, None], column + across
        pictures[place] = np.maximum(pictures[place], patches)

    for _ in range(pieces):
        other = random.integers(len(digits), size=(count, 1, 1))
        row, column = random.integers(
            0, digits.shape[1] - len(across) + 1, (2, count, 1, 1)
        )
        paste(digits[other, row + across[:, None], column + across])
    chosen = random.integers(len(digits), size=count)
    paste(digits[chosen])
    return pictures, labels[chosen].astype("int32")


def averaging(location, patch: int, scale: int, side: int):
    """For each number of a location (..., 2) in [−1, 1] a matrix (patch, side), whose
    rows average `scale` neighboring pixels each, next to each other around it. Beyond
    the edge is nothing."""
    first = ops.round((location + 1) / 2 * side - patch * scale / 2)[..., None, None]
    first = first + scale * ops.arange(patch, dtype=location.dtype)[:, None]
    pixel = ops.arange(side, dtype=location.dtype)
    return ops.cast((pixel >= first) & (pixel < first + scale), location.dtype) / scale


def glimpse(pictures, location, patch: int, scales: int):
    """Patches of 1, 2, 4, ... times the size around a location (batch, 2), all averaged
    down to patch × patch: (batch, scales · patch²). Products of matrices, as a CPU
    likes them."""
    seen = []
    for scale in range(scales):
        both = averaging(location, patch, 2**scale, pictures.shape[1])
        seen.append(both[:, 0] @ pictures @ ops.transpose(both[:, 1], (0, 2, 1)))
    return ops.reshape(ops.stack(seen, axis=1), (-1, scales * patch**2))


def build_core(pixels: int, units: int, classes: int) -> keras.Model:
    """The glimpse, core and action networks. Inputs: what was seen (batch, pixels),
    where (batch, 2), state (batch, units). Outputs: the new state and logits (batch,
    classes)."""
    seen, location = (
        keras.Input((pixels,), name="seen"),
        keras.Input((2,), name="location"),
    )
    state = keras.Input((units,), name="state")
    what = layers.Dense(units, activation="relu")(seen)
    where = layers.Dense(units // 2, activation="relu")(location)
    both = layers.Dense(units, activation="relu")(layers.Concatenate()([what, where]))
    new = layers.ReLU()(
        layers.Add()([layers.Dense(units)(both), layers.Dense(units)(state)])
    )
    logits = layers.Dense(classes, dtype="float32", name="logits")(new)
    return keras.Model([seen, location, state], [new, logits], name="core")


def build_chooser(units: int) -> keras.Model:
    """The location network and the baseline. Inputs: state (batch, units), last
    location (batch, 2). Outputs: mean of the next location (batch, 2), expected return
    (batch,)."""
    state, location = (
        keras.Input((units,), name="state"),
        keras.Input((2,), name="location"),
    )
    hidden = layers.Dense(units // 2, activation="relu")(state)
    # It starts by staying where it is; saturated at an edge it would learn nothing.
    small = keras.initializers.RandomNormal(stddev=0.01)
    step = layers.Dense(2, "tanh", kernel_initializer=small, dtype="float32")(hidden)
    value = layers.Dense(1, dtype="float32", name="value")(state)
    mean = ops.clip(location + step, -1, 1)
    return keras.Model(
        [state, location], [mean, ops.squeeze(value, axis=-1)], name="chooser"
    )


def mean_of_later(rewards):
    """Rewards (batch, glimpses); returns of the choices in between (batch, glimpses −
    1)."""
    later = ops.flip(ops.cumsum(ops.flip(rewards[:, 1:], axis=1), axis=1), axis=1)
    return later / ops.arange(rewards.shape[1] - 1, 0, -1, dtype=rewards.dtype)


def reinforce_loss(returns, chosen, mean, value, sigma: float):
    """Its gradient by μ is −(R − b) ∇log N(l; μ, σ²); that by the baseline fits b to
    R."""
    log_density = -ops.sum(ops.square(chosen - mean), axis=-1) / (
        2 * sigma**2
    )  # + a constant
    advantage = ops.stop_gradient(returns - value)
    return ops.mean(ops.square(returns - value)) - ops.mean(advantage * log_density)


class Attention(keras.Model):
    """Looks by a policy of POLICIES: where it has learned to, anywhere, or at the
    center alone."""

    def __init__(self, config: Config, policy: str, classes: int = 10, **kwargs):
        super().__init__(**kwargs)
        self.config, self.policy = config, policy
        self.core = build_core(config.scales * config.patch**2, config.units, classes)
        self.chooser = build_chooser(config.units) if policy == "learned" else None
        self.seeds = keras.random.SeedGenerator()

    def call(self, pictures, exploring=False):
        """Logits after each glimpse (batch, glimpses, classes), locations (batch, glimpses,
        2). Then, of a learned policy, the chosen locations (before they are kept in the
        picture), their means and the expected returns, (batch, glimpses − 1, ...)."""
        location = ops.zeros_like(pictures[:, 0, :2])
        state = ops.repeat(location[:, :1], self.config.units, axis=1)
        glimpses, choices = [], []
        for step in range(self.config.glimpses):
            seen = glimpse(pictures, location, self.config.patch, self.config.scales)
            state, logits = self.core([seen, location, state])
            glimpses.append((logits, location))
            if self.policy == "random":
                location = keras.random.uniform(
                    ops.shape(location), -1, 1, seed=self.seeds
                )
            elif self.policy == "learned" and step < self.config.glimpses - 1:
                # What the core remembers is learned by reading alone.
                mean, value = self.chooser([ops.stop_gradient(state), location])
                noise = (
                    keras.random.normal(ops.shape(mean), seed=self.seeds)
                    if exploring
                    else 0.0
                )
                chosen = ops.stop_gradient(mean + self.config.sigma * noise)
                location = ops.clip(chosen, -1, 1)
                choices.append((chosen, mean, value))
        columns = [*zip(*glimpses, strict=True), *zip(*choices, strict=True)]
        return [ops.stack(column, axis=1) for column in columns]

    def train_step(self, batch):
        pictures, labels = batch
        with tf.GradientTape() as tape:
            logits, _, *choices = self(pictures, exploring=True)
            labels = ops.repeat(labels[:, None], self.config.glimpses, axis=1)
            log_probability = -ops.sparse_categorical_crossentropy(
                labels, logits, from_logits=True
            )
            loss = -ops.mean(log_probability)
            if choices:
                returns = ops.stop_gradient(mean_of_later(ops.exp(log_probability)))
                loss += reinforce_loss(returns, *choices, self.config.sigma)
            scaled = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"loss": loss, "probability": ops.mean(ops.exp(log_probability[:, -1]))}


def seen_by(picture, locations, patch: int, scales: int) -> np.ndarray:
    """A picture (side, side) as it was seen: gray where nothing was, coarse where that
    is all."""
    seen = np.full_like(picture, 0.5)
    for scale in 2 ** np.arange(scales)[::-1]:
        for location in locations:
            rows, columns = np.asarray(
                averaging(location, patch, int(scale), len(picture))
            )
            painted = scale**2 * rows.T @ (rows @ picture @ columns.T) @ columns
            seen = np.where(
                np.outer(rows.any(axis=0), columns.any(axis=0)), painted, seen
            )
    return seen


def main(config: Config, run: Run) -> None:
    run.plan(len(POLICIES) + 1)  # and the dense network
    (x_train, y_train), (x_test, y_test) = data.load(
        config.data, size=config.digit_size, channels=1
    )
    classes = len(data.class_names(config.data))
    strewn = config.side, np.random.default_rng(run.seed)
    x, y = clutter(x_train[..., 0], y_train, config.pictures, *strewn)
    x_test, y_test = clutter(x_test[..., 0], y_test, 4000, *strewn)

    def fit(model, **losses):
        steps = config.epochs * math.ceil(config.pictures / config.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        model.compile(optimizer=keras.optimizers.Adam(rate), **losses)
        passes = {"epochs": config.epochs, "batch_size": config.batch_size}
        training.fit(model, x, y, callbacks=run.callbacks, **passes)
        return model

    accuracies, agents = {}, {}
    for policy in POLICIES:
        agent = Attention(config, policy, classes, name=f"looks-{policy}")
        agents[policy] = fit(agent)
        logits, locations, *_ = map(np.asarray, agent(x_test))
        accuracies[policy] = np.mean(logits.argmax(axis=-1) == y_test[:, None], axis=0)
        if policy == "learned":
            rows = {"picture": x_test}
            for name, count in {
                "1 glimpse": 1,
                "2 glimpses": 2,
                "all": config.glimpses,
            }.items():
                looks = zip(x_test[:10], locations[:10, :count], strict=True)
                rows[name] = [
                    seen_by(*look, config.patch, config.scales) for look in looks
                ]
            run.figure(
                "looks",
                figures.image_rows(rows, title="What it sees of held-out pictures"),
            )

    picture = keras.Input((config.side, config.side), name="picture")
    hidden = layers.Dense(config.units, "relu")(layers.Flatten()(picture))
    hidden = layers.Dense(config.units, "relu")(hidden)
    rival = keras.Model(
        picture, layers.Dense(classes, dtype="float32")(hidden), name="sees-all"
    )
    fit(rival, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    whole = float(np.mean(np.argmax(rival(x_test), axis=-1) == y_test))

    learned, anywhere, center = (accuracies[policy] for policy in POLICIES)
    read, pixels = config.glimpses * config.scales * config.patch**2, config.side**2
    run.metric("accuracy", learned[-1])
    run.metric("accuracy_of_dense_network", whole)
    run.claim(
        "The more glimpses, the more digits are read, with the locations it has learned",
        holds=learned[-1] > learned[1] + 0.02 and learned[1] > learned[0] + 0.1,
        measured="accuracy after each glimpse: "
        + ", ".join(f"{each:.1%}" for each in learned),
    )
    run.claim(
        "Where to look is learned: with as many glimpses, random and fixed ones read fewer",
        holds=learned[-1] > max(anywhere[-1], center[-1]) + 0.05,
        measured=f"accuracy {learned[-1]:.1%} learned, {anywhere[-1]:.1%} random, "
        f"{center[-1]:.1%} at the center",
    )
    run.claim(
        "It reads more than a dense network that sees the whole picture, from fewer numbers",
        holds=learned[-1] > whole + 0.03 and read < 0.5 * pixels,
        measured=f"accuracy {learned[-1]:.1%} from {read} numbers a picture, {whole:.1%} from "
        f"{pixels}, after as many epochs",
    )
    lines = {f"{policy} locations": accuracies[policy] for policy in POLICIES}
    lines["dense network,\nwhole picture"] = np.full(config.glimpses, whole)
    labels = {
        "xlabel": "glimpses",
        "ylabel": "accuracy",
        "title": "Held-out cluttered digits",
    }
    run.figure("accuracy", figures.curves(lines, **labels))
    logits, locations, *_ = agents["learned"](picture)
    outputs = {"probabilities": ops.softmax(logits[:, -1]), "locations": locations}
    run.export(keras.Model(picture, outputs), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
