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
from matplotlib.figure import Figure

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

# --------------------------------------------------------------------------------------
# The idea: glimpses, a network that remembers them, and places learned from rewards
# --------------------------------------------------------------------------------------

POLICIES = ("learned", "random", "round")

# Where `round` looks, the same in every picture: the center, corners, edges, and anew.
# Of rounds as wide as this, 0.35 and 0.5 this one reads most.
FAR = 0.25
ROUND = FAR * np.array(
    [
        (0, 0),
        (-1, -1),
        (1, 1),
        (-1, 1),
        (1, -1),
        (-1, 0),
        (1, 0),
        (0, -1),
        (0, 1),
    ],
    "float32",
)


def averaging(location, patch: int, scale: int, side: int):
    """For each number of a location (..., 2) in [−1, 1] a matrix (patch, side), whose
    rows average `scale` neighboring pixels each, next to each other around it. Beyond
    the edge is nothing."""
    middle = (location + 1) / 2 * side
    first = ops.round(middle - patch * scale / 2)[..., None, None]
    first = first + scale * ops.arange(patch, dtype=location.dtype)[:, None]
    pixel = ops.arange(side, dtype=location.dtype)
    is_in = (pixel >= first) & (pixel < first + scale)
    return ops.cast(is_in, location.dtype) / scale


def glimpse(pictures, location, patch: int, scales: int):
    """Patches of 1, 2, 4, ... times the size around a location (batch, 2), all averaged
    down to patch × patch: (batch, scales · patch²). Products of matrices, as a CPU
    likes them."""
    side = pictures.shape[1]
    seen = []
    for scale in range(scales):
        averages = averaging(location, patch, 2**scale, side)
        rows = averages[:, 0]
        columns = ops.transpose(averages[:, 1], (0, 2, 1))
        seen.append(rows @ pictures @ columns)
    return ops.reshape(ops.stack(seen, axis=1), (-1, scales * patch**2))


@dataclass
class Choices:
    """Of places to look at: (batch, 2) and (batch,), or (batch, choices, ...)."""

    chosen: keras.KerasTensor
    """locations as drawn, before they are kept in the picture"""
    mean: keras.KerasTensor
    """what they were drawn around"""
    value: keras.KerasTensor
    """the return that was expected, (batch,)"""


def stack(choices: list[Choices]) -> Choices:
    """Choices one after the other: (batch, choices, ...)."""
    return Choices(
        chosen=ops.stack([each.chosen for each in choices], axis=1),
        mean=ops.stack([each.mean for each in choices], axis=1),
        value=ops.stack([each.value for each in choices], axis=1),
    )


def reinforce_loss(returns, choices: Choices, sigma: float):
    """Its gradient by μ is −(R − b) ∇log N(l; μ, σ²); that by the baseline fits b to
    R. returns: (batch, choices)."""
    distance = ops.sum(ops.square(choices.chosen - choices.mean), axis=-1)
    log_density = -distance / (2 * sigma**2)  # + a constant
    error = returns - choices.value
    advantage = ops.stop_gradient(error)
    return ops.mean(ops.square(error)) - ops.mean(advantage * log_density)


def mean_of_later(rewards):
    """Rewards (batch, glimpses); returns of the choices in between (batch, glimpses −
    1)."""
    backwards = ops.flip(rewards[:, 1:], axis=1)
    sums = ops.flip(ops.cumsum(backwards, axis=1), axis=1)
    counts = ops.arange(rewards.shape[1] - 1, 0, -1, dtype=rewards.dtype)
    return sums / counts


def build_core(pixels: int, units: int, classes: int) -> keras.Model:
    """The glimpse, core and action networks. Inputs: what was seen (batch, pixels),
    where (batch, 2), state (batch, units). Outputs: the new state and logits (batch,
    classes)."""
    seen = keras.Input((pixels,), name="seen")
    location = keras.Input((2,), name="location")
    state = keras.Input((units,), name="state")
    what = layers.Dense(units, activation="relu")(seen)
    where = layers.Dense(units // 2, activation="relu")(location)
    both = layers.Dense(units, activation="relu")(layers.Concatenate()([what, where]))

    of_glimpse = layers.Dense(units)(both)
    of_state = layers.Dense(units)(state)
    new_state = layers.ReLU()(layers.Add()([of_glimpse, of_state]))
    logits = layers.Dense(classes, dtype="float32", name="logits")(new_state)
    return keras.Model([seen, location, state], [new_state, logits], name="core")


def build_chooser(units: int) -> keras.Model:
    """The location network and the baseline. Inputs: state (batch, units), last
    location (batch, 2). Outputs: mean of the next location (batch, 2), expected return
    (batch,)."""
    state = keras.Input((units,), name="state")
    location = keras.Input((2,), name="location")
    hidden = layers.Dense(units // 2, activation="relu")(state)
    # It starts by staying where it is; saturated at an edge it would learn nothing.
    small = keras.initializers.RandomNormal(stddev=0.01)
    step = layers.Dense(2, "tanh", kernel_initializer=small, dtype="float32")(hidden)
    mean = ops.clip(location + step, -1, 1)
    value = layers.Dense(1, dtype="float32", name="value")(state)
    value = ops.squeeze(value, axis=-1)
    return keras.Model([state, location], [mean, value], name="chooser")


@dataclass
class Reading:
    """What came of looking at pictures."""

    logits: keras.KerasTensor
    """after each glimpse, (batch, glimpses, classes)"""
    locations: keras.KerasTensor
    """of the glimpses, (batch, glimpses, 2)"""
    choices: Choices | None
    """of a learned policy, one fewer than glimpses"""


class Attention(keras.Model):
    """Looks by one of POLICIES: where it has learned to, anywhere, or on one round of
    places in all pictures."""

    def __init__(self, config: Config, policy: str, classes: int = 10, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.policy = policy
        self.core = build_core(config.scales * config.patch**2, config.units, classes)
        self.chooser = build_chooser(config.units) if policy == "learned" else None
        self.seeds = keras.random.SeedGenerator()

    def call(self, pictures):
        """Logits after each glimpse, and its location. pictures: (batch, side, side) in
        [0, 1]."""
        reading = self.read(pictures)
        return {"logits": reading.logits, "locations": reading.locations}

    def read(self, pictures, exploring=False) -> Reading:
        """exploring: locations are drawn; else each is the mean."""
        pictures = ops.cast(pictures, self.compute_dtype)
        location = ops.zeros_like(pictures[:, 0, :2])
        state = ops.repeat(location[:, :1], self.config.units, axis=1)
        logits = []
        locations = []
        choices = []
        for step in range(self.config.glimpses):
            seen = glimpse(pictures, location, self.config.patch, self.config.scales)
            state, read = self.core([seen, location, state])
            logits.append(read)
            locations.append(location)
            if step == self.config.glimpses - 1:
                break

            if self.policy == "learned":
                choice = self.choose(state, location, exploring)
                choices.append(choice)
                location = ops.clip(choice.chosen, -1, 1)
            elif self.policy == "random":
                shape = ops.shape(location)
                location = keras.random.uniform(shape, -1, 1, seed=self.seeds)
            else:
                place = ROUND[(step + 1) % len(ROUND)]
                location = ops.zeros_like(location) + place
        return Reading(
            logits=ops.stack(logits, axis=1),
            locations=ops.stack(locations, axis=1),
            choices=stack(choices) if choices else None,
        )

    def choose(self, state, location, exploring: bool) -> Choices:
        """Where to look next."""
        # What the core remembers is learned by reading alone.
        mean, value = self.chooser([ops.stop_gradient(state), location])
        chosen = mean
        if exploring:
            noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
            chosen = mean + self.config.sigma * noise
        return Choices(ops.stop_gradient(chosen), mean, value)

    def train_step(self, batch):
        pictures, labels = batch
        labels = ops.repeat(labels[:, None], self.config.glimpses, axis=1)
        with tf.GradientTape() as tape:
            reading = self.read(pictures, exploring=True)
            surprise = ops.sparse_categorical_crossentropy(
                labels, reading.logits, from_logits=True
            )
            loss = ops.mean(surprise)
            probability = ops.exp(-surprise)
            if reading.choices is not None:
                returns = ops.stop_gradient(mean_of_later(probability))
                loss += reinforce_loss(returns, reading.choices, self.config.sigma)
            scaled = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss, "probability": ops.mean(probability[:, -1])}


def paste(pictures: np.ndarray, patches: np.ndarray, random) -> None:
    """Puts a patch (count, size, size) anywhere into each picture (count, side,
    side)."""
    count, side, _ = pictures.shape
    across = np.arange(patches.shape[1])
    last = side - len(across)
    row, column = random.integers(0, last + 1, (2, count, 1, 1))
    numbers = np.arange(count)[:, None, None]
    place = (numbers, row + across[:, None], column + across)
    pictures[place] = np.maximum(pictures[place], patches)


def cut_pieces(digits: np.ndarray, count: int, random) -> np.ndarray:
    """Pieces of any digits, a third as large: (count, size, size)."""
    across = np.arange(digits.shape[1] // 3)
    last = digits.shape[1] - len(across)
    number = random.integers(len(digits), size=(count, 1, 1))
    row, column = random.integers(0, last + 1, (2, count, 1, 1))
    return digits[number, row + across[:, None], column + across]


def clutter(digits, labels, count: int, side: int, random, pieces: int = 4):
    """Pictures (count, side, side) of one digit each among pieces of others, and their
    labels."""
    pictures = np.zeros((count, side, side), "float32")
    for _ in range(pieces):
        paste(pictures, cut_pieces(digits, count, random), random)
    chosen = random.integers(len(digits), size=count)
    paste(pictures, digits[chosen], random)
    return pictures, labels[chosen].astype("int32")


# --------------------------------------------------------------------------------------
# The experiment: places learned, random or fixed, and a network that sees everything
# --------------------------------------------------------------------------------------

HELD_OUT = 4000  # pictures
# Of the dense network, which reads far less with as few units as the others have.
DENSE_UNITS = 512


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    def fit(self, model: keras.Model, loss=None) -> None:
        config = self.config
        steps = config.epochs * math.ceil(config.pictures / config.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss)
        training.fit(
            model,
            self.x,
            self.y,
            epochs=config.epochs,
            batch_size=config.batch_size,
            callbacks=self.run.callbacks,
        )


def load_task(config: Config, run: Run) -> Task:
    of_training, held_out = data.load(config.data, size=config.digit_size, channels=1)
    random = np.random.default_rng(run.seed)
    digits, labels = of_training
    x, y = clutter(digits[..., 0], labels, config.pictures, config.side, random)
    digits, labels = held_out
    x_test, y_test = clutter(digits[..., 0], labels, HELD_OUT, config.side, random)
    classes = len(data.class_names(config.data))
    return Task(x, y, x_test, y_test, classes, config, run)


def train_agent(task: Task, policy: str) -> Attention:
    agent = Attention(task.config, policy, task.classes, name=f"looks-{policy}")
    task.fit(agent)
    return agent


def accuracy_by_glimpse(agent: Attention, task: Task) -> np.ndarray:
    """On held-out pictures, (glimpses,)."""
    logits = np.asarray(agent(task.x_test)["logits"])
    return np.mean(logits.argmax(axis=-1) == task.y_test[:, None], axis=0)


def build_dense_network(task: Task) -> keras.Model:
    """Sees a whole picture at once. Output: (batch, classes) logits."""
    side = task.config.side
    picture = keras.Input((side, side), name="picture")
    hidden = layers.Dense(DENSE_UNITS, "relu")(layers.Flatten()(picture))
    hidden = layers.Dense(DENSE_UNITS, "relu")(hidden)
    logits = layers.Dense(task.classes, dtype="float32")(hidden)
    return keras.Model(picture, logits, name="sees-all")


def train_dense_network(task: Task) -> float:
    """Its accuracy on held-out pictures."""
    network = build_dense_network(task)
    task.fit(network, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    predicted = np.argmax(network(task.x_test), axis=-1)
    return float(np.mean(predicted == task.y_test))


def judge(accuracies: dict[str, np.ndarray], whole: float, task: Task) -> None:
    """whole: accuracy of the dense network."""
    run = task.run
    config = task.config
    learned = accuracies["learned"]
    anywhere = accuracies["random"][-1]
    fixed = accuracies["round"][-1]
    run.metric("accuracy", learned[-1])
    run.metric("accuracy_of_dense_network", whole)
    run.metric("accuracy_random_places", anywhere)
    run.metric("accuracy_fixed_places", fixed)
    run.claim(
        "With the places it has learned, two glimpses read more digits than one, and all "
        "read more than two",
        holds=learned[-1] > learned[1] + 0.02 and learned[1] > learned[0] + 0.1,
        measured="accuracy after each glimpse: "
        + ", ".join(f"{each:.1%}" for each in learned),
    )
    run.claim(
        "Where to look is learned: as many glimpses at random, or on one round of places "
        "for all pictures, read fewer",
        holds=learned[-1] > max(anywhere, fixed) + 0.05,
        measured=f"accuracy {learned[-1]:.1%} learned, {anywhere:.1%} random, "
        f"{fixed:.1%} on a round",
    )
    numbers = config.glimpses * config.scales * config.patch**2
    pixels = config.side**2
    run.claim(
        f"It reads more than a dense network of {DENSE_UNITS} units that sees the whole "
        "picture, from fewer numbers",
        holds=learned[-1] > whole + 0.03 and numbers < 0.5 * pixels,
        measured=f"accuracy {learned[-1]:.1%} from {numbers} numbers a picture, "
        f"{whole:.1%} from {pixels}, after as many epochs",
    )


def seen_by(picture, locations, patch: int, scales: int) -> np.ndarray:
    """A picture (side, side) as it was seen: gray where nothing was, coarse where that
    is all."""
    seen = np.full_like(picture, 0.5)
    for power in reversed(range(scales)):  # the sharp patches come last, on top
        scale = 2**power
        for location in locations:
            averages = np.asarray(averaging(location, patch, scale, len(picture)))
            rows, columns = averages
            patches = rows @ picture @ columns.T
            painted = scale**2 * rows.T @ patches @ columns
            is_seen = np.outer(rows.any(axis=0), columns.any(axis=0))
            seen = np.where(is_seen, painted, seen)
    return seen


def draw_looks(agent: Attention, task: Task) -> Figure:
    """What an agent has seen of held-out pictures by the number of its glimpses."""
    config = task.config
    pictures = task.x_test[:10]
    locations = np.asarray(agent(pictures)["locations"])
    rows = {"picture": pictures}
    for name, count in {"1 glimpse": 1, "2 glimpses": 2, "all": None}.items():
        rows[name] = [
            seen_by(picture, places[:count], config.patch, config.scales)
            for picture, places in zip(pictures, locations, strict=True)
        ]
    return figures.image_rows(rows, title="What it sees of held-out pictures")


def draw_accuracy(accuracies: dict[str, np.ndarray], whole: float) -> Figure:
    names = {"learned": "learned places", "random": "random", "round": "on a round"}
    lines = {names[policy]: by_glimpse for policy, by_glimpse in accuracies.items()}
    return figures.panels(
        figures.Panel(
            title="Held-out cluttered digits",
            xlabel="glimpses",
            ylabel="accuracy",
            lines=lines,
            levels={"dense network, whole picture": whole},
        )
    )


def main(config: Config, run: Run) -> None:
    run.plan(len(POLICIES) + 1)  # and the dense network
    task = load_task(config, run)
    agents = {}
    accuracies = {}
    for policy in POLICIES:
        agents[policy] = train_agent(task, policy)
        accuracies[policy] = accuracy_by_glimpse(agents[policy], task)
    whole = train_dense_network(task)

    judge(accuracies, whole, task)
    run.figure("looks", draw_looks(agents["learned"], task))
    run.figure("accuracy", draw_accuracy(accuracies, whole))

    picture = keras.Input((config.side, config.side), name="picture")
    looked = agents["learned"](picture)
    outputs = {
        "probabilities": ops.softmax(looked["logits"][:, -1]),
        "locations": looked["locations"],
    }
    run.export(keras.Model(picture, outputs), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
