"""Batch normalization: each layer's input held to one scale by its batch.

Before each activation a neuron's outputs are brought to mean 0 and variance 1 over the
batch, and from there to a mean β and a standard deviation γ that the network learns:

    x̂ = (x − μ) / √(σ² + ε)        y = γ·x̂ + β

μ and σ² of a batch in training, their moving averages when the network is used. So the
scale of the weights below no longer matters, rates that would explode a plain network
train, and an example's answer hangs on who else is in its batch.
Look at the two maps of losses, by learning rate and by scale of the first weights, each
at the same place with and without.

Lectures: SEL Batch Normalization; CS Batch normalization layer; N18 1.3.3 Batch
    Normalization; INFO Batch Normalization; ICME Normalization
Paper: Ioffe and Szegedy, Batch normalization: accelerating deep network training by
    reducing internal covariate shift, 2015 (algorithms 1 and 2)
Tags: batchnorm, bn, moving average, internal covariate shift, learning rate,
    initialization
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    depth: Annotated[int, Interval(ge=1)] = 6
    """hidden layers"""
    units: int = 48
    """width of each"""
    starts: int = 3
    """networks of each kind, scale and learning rate"""
    epochs: int = 15
    """passes over the training images"""
    batch_size: Annotated[int, Interval(ge=2, le=1000)] = 32
    """examples that are normalized together"""


QUICK = Config(depth=5, units=32, starts=2, epochs=8)
FULL = Config(depth=10, units=64, starts=5, epochs=50)

# --------------------------------------------------------------------------------------
# The idea: mean and variance of the batch, then γ and β
# --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("batch_normalization")
class BatchNormalization(layers.Layer):
    """Each channel of a batch to mean β and standard deviation γ, both learned.

    What `keras.layers.BatchNormalization(momentum=..., epsilon=...)` does. x: (batch,
    ..., channels); the mean is over all but the channels, so over the places of an image
    as well. Returns the same shape. In training the mean and variance are those of the
    batch, else moving averages of what training has seen (algorithms 1 and 2).

    momentum: share of the old value that a moving average keeps at each batch.
    epsilon: added to the variance, so that nothing is divided by 0.
    """

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3, **options):
        super().__init__(**options)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, shape):
        size = shape[-1:]
        self.gamma = self.add_weight(size, "ones", name="gamma")
        self.beta = self.add_weight(size, "zeros", name="beta")
        self.moving_mean = self.add_weight(
            size, "zeros", trainable=False, name="moving_mean"
        )
        self.moving_variance = self.add_weight(
            size, "ones", trainable=False, name="moving_variance"
        )

    def call(self, x, training=False):
        if training:
            axes = list(range(len(x.shape) - 1))
            mean = ops.mean(x, axes)
            variance = ops.mean(ops.square(x - mean), axes)
            self.remember(mean, variance)
        else:
            mean = self.moving_mean
            variance = self.moving_variance
        normalized = (x - mean) / ops.sqrt(variance + self.epsilon)
        return self.gamma * normalized + self.beta

    def remember(self, mean, variance):
        """Moves the averages toward a batch's mean and variance."""
        keep = self.momentum
        self.moving_mean.assign(keep * self.moving_mean + (1 - keep) * mean)
        self.moving_variance.assign(keep * self.moving_variance + (1 - keep) * variance)

    def get_config(self):
        own = {"momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


def build_network(
    normalized: bool, depth: int = 6, units: int = 48, scale: float = 1
) -> keras.Model:
    """A deep dense network, with batch normalization before each ReLU or without.

    Input: (batch, 64). Output: (batch, 10) logits. scale: of the first weights, times
    He's standard deviation √(2/n).
    """
    kernels = keras.initializers.VarianceScaling(2 * scale**2, distribution="normal")
    x = hidden = keras.Input((64,), name="x")
    for index in range(1, depth + 1):
        # Of a bias the mean that is subtracted would leave nothing; β takes its place.
        hidden = layers.Dense(
            units,
            use_bias=not normalized,
            kernel_initializer=kernels,
            name=f"hidden_{index}",
        )(hidden)
        if normalized:
            hidden = BatchNormalization(momentum=0.9, name=f"norm_{index}")(hidden)
        hidden = layers.ReLU()(hidden)
    logits = layers.Dense(10, name="logits")(hidden)
    return keras.Model(x, logits, name="normalized" if normalized else "plain")


@tf.function(reduce_retracing=True)
def answer_in_training(network: keras.Model, x):
    """Logits by the statistics of this batch alone; the moving averages stay as they
    are. x: (batch, 64). Returns (batch, 10)."""
    logits, _ = network.stateless_call(
        network.trainable_variables, network.non_trainable_variables, x, training=True
    )
    return logits


def spread_over_companions(
    network: keras.Model,
    image: np.ndarray,
    others: np.ndarray,
    batch_size: int,
    random: np.random.Generator,
    draws: int = 20,
) -> float:
    """Standard deviation of an image's logits over random companions in its batch.

    image: (64,). others: (images, 64).
    """
    found = []
    for _ in range(draws):
        companions = random.choice(others, batch_size - 1, replace=False)
        batch = np.concatenate([image[np.newaxis], companions])
        found.append(answer_in_training(network, batch)[0])
    return float(np.std(found, axis=0).mean())


def learn_identity(x: np.ndarray, steps: int = 20, learning_rate: float = 0.3):
    """Trains γ and β alone, by gradient descent, to give back what the layer takes.

    x: (examples, channels). Returns the layer, and the mean squared error before and
    after.
    """
    layer = BatchNormalization()
    optimizer = keras.optimizers.SGD(learning_rate)
    errors = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            # Of each channel by itself, as each has its own γ and β.
            error = ops.sum(ops.mean(ops.square(layer(x, training=True) - x), axis=0))
        gradients = tape.gradient(error, layer.trainable_variables)
        optimizer.apply(gradients, layer.trainable_variables)
        errors.append(float(error) / x.shape[1])
    return layer, errors[0], errors[-1]


# --------------------------------------------------------------------------------------
# The experiment: rates and first weights, with and without
# --------------------------------------------------------------------------------------

# The lowest are for networks without it whose first weights are large; where they are
# small, none up to 1000 trained one.
LEARNING_RATES = (1e-6, 1e-5, 1e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the first weights, of He's
HE = SCALES.index(1.0)
MOMENTUM = 0.9
HELD_OUT = 360
TRAINS = 0.85  # accuracy on test digits from which a network counts as trained
EARLY = 2  # epochs, after which the losses show who is fast
WORST = 1e3  # nats; what is worse, or no number, counts as this
BATCH_SIZES = (4, 16, 64, 256)


@dataclass
class Digits:
    """Standardized as a whole."""

    x: np.ndarray
    """to train on, (images, 64)"""
    y: np.ndarray
    """their labels"""
    x_seen: np.ndarray
    """some of x, as many as there are to choose by and to report: all three one after
    the other, (3 · images, 64)"""
    y_seen: np.ndarray
    """their labels"""

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x_seen[-HELD_OUT:], self.y_seen[-HELD_OUT:]


def load_digits(seed: int) -> Digits:
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    order = np.random.default_rng(seed).permutation(len(x))
    valid, train = np.split(order, [HELD_OUT])
    mean = x[train].mean()
    deviation = x[train].std()
    x = (x - mean) / deviation
    x_test = (x_test - mean) / deviation
    some = train[:HELD_OUT]
    return Digits(
        x[train],
        y[train],
        np.concatenate([x[some], x[valid], x_test[:HELD_OUT]]),
        np.concatenate([y[some], y[valid], y_test[:HELD_OUT]]),
    )


@dataclass
class Trained:
    """Networks with or without, (epochs, scales, rates, starts) each."""

    train: np.ndarray
    """loss on images to train on"""
    validation: np.ndarray
    """loss on images to choose by"""
    test: np.ndarray
    """loss on images to report"""
    accuracy: np.ndarray
    """on these"""
    rows: np.ndarray
    """weights at the end, (scales, rates, starts, weights)"""

    def chosen(self, scale: int) -> int:
        """The place of the rate that validates best for first weights of a scale."""
        return int(self.validation[-1, scale].mean(axis=-1).argmin())

    def fastest(self) -> int:
        """That of the rate which validates best after a few epochs, for He's scale."""
        return int(self.validation[:EARLY][-1, HE].mean(axis=-1).argmin())

    def accuracies(self) -> np.ndarray:
        """At the end, (scales, rates): means of the starts."""
        return self.accuracy[-1].mean(axis=-1)


@tf.function  # XLA makes this one slower: the sums over the batch
def train_epoch(model, rows, velocity, rates, batches, x, y):
    """Gradient descent with momentum, a step of all networks on each batch. rows,
    velocity: variables (networks, weights). rates: (networks, 1)."""
    for batch in batches:
        images = tf.gather(x, batch)
        labels = tf.gather(y, batch)
        gradients = stacks.gradients(model, rows, images, labels, training=True)
        velocity.assign(MOMENTUM * velocity + gradients)
        averaged = stacks.updated(model, rows, images)
        rows.assign(averaged - rates * velocity)


@tf.function
def losses_and_hits(model, rows, x, y):
    """Of each image, (networks, images)."""
    logits = tf.cast(stacks.call(model, rows, x), "float32")
    labels = tf.repeat(y[tf.newaxis], tf.shape(rows)[0], axis=0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return losses, tf.argmax(logits, axis=-1) == labels


def train(normalized: bool, digits: Digits, config: Config, run: Run) -> Trained:
    """All scales at all rates from all starts, at once."""
    random = np.random.default_rng(run.seed)
    first = [
        stacks.row_of(build_network(normalized, config.depth, config.units, scale))
        for scale in SCALES
        for _ in range(config.starts)
    ]
    # The same starts for each of the rates.
    shape = len(SCALES), len(LEARNING_RATES), config.starts
    of_rates = np.reshape(first, (shape[0], 1, shape[2], -1))
    rows = np.repeat(of_rates, shape[1], axis=1).reshape(np.prod(shape), -1)
    rows = tf.Variable(rows)
    velocity = tf.Variable(tf.zeros_like(rows))
    rates = np.tile(np.repeat(LEARNING_RATES, config.starts), len(SCALES))
    rates = tf.constant(rates[:, np.newaxis], "float32")

    model = build_network(normalized, config.depth, config.units)
    losses = np.zeros((3, config.epochs, *shape))
    accuracy = np.zeros((config.epochs, *shape))
    x = tf.constant(digits.x)
    y = tf.constant(digits.y)
    x_seen = tf.constant(digits.x_seen)
    y_seen = tf.constant(digits.y_seen)
    state = {"all": [rows, velocity, losses, accuracy, random]}
    name = f"{len(rates)} {model.name} networks"
    for epoch in run.loop(name, config.epochs, state, unit="epochs"):
        steps = len(digits.x) // config.batch_size
        order = random.permutation(len(digits.x))[: steps * config.batch_size]
        batches = tf.constant(order.reshape(steps, -1))
        train_epoch(model, rows, velocity, rates, batches, x, y)

        found, hits = losses_and_hits(model, rows, x_seen, y_seen)
        of_parts = np.split(stacks.bounded(found, WORST), 3, axis=1)
        losses[:, epoch] = np.mean(of_parts, axis=-1).reshape(3, *shape)
        accuracy[epoch] = hits.numpy()[:, -HELD_OUT:].mean(axis=1).reshape(shape)
    return Trained(*losses, accuracy, rows.numpy().reshape(*shape, -1))


def judge_training(trained: dict[str, Trained], config: Config, run: Run) -> None:
    normalized = trained["normalized"]
    accuracy = normalized.accuracies()[HE, normalized.chosen(HE)]
    run.metric("test_accuracy", accuracy)

    highest = {}
    for name, found in trained.items():
        trains = found.accuracies()[HE] > TRAINS
        highest[name] = np.max(np.array(LEARNING_RATES), where=trains, initial=0)
    run.compare(
        "Larger learning rates train: the largest that does is at least three times "
        "that of a network without",
        highest,
        more="normalized",
        less="plain",
        times=2.9,
    )

    at_best = {}
    at_one = {}
    for name, found in trained.items():
        accuracies = found.accuracies()
        rates = [found.chosen(scale) for scale in range(len(SCALES))]
        at_best[name] = accuracies[range(len(SCALES)), rates].min()
        at_one[name] = accuracies[:, found.chosen(HE)].min()
    run.metrics("test_accuracy_of_the_worst_scale", at_best)
    ends = f"{SCALES[0]:g} to {SCALES[-1]:g} times He's"
    run.compare(
        f"It depends less on the first weights: the worst of {ends} ends far better, "
        "each scale at its own best rate",
        at_best,
        more="normalized",
        less="plain",
        by=0.5,
    )
    run.compare(
        "So it does at one rate for all of them, the best one for He's",
        at_one,
        more="normalized",
        less="plain",
        by=0.3,
    )

    early = {
        name: found.test[:EARLY][-1, HE, found.fastest()].mean()
        for name, found in trained.items()
    }
    run.metrics("early_test_loss", early)
    run.compare(
        "It trains faster from He's weights as well: test loss after "
        f"{min(EARLY, config.epochs)} epochs, each at the rate that is best by then",
        early,
        more="plain",
        less="normalized",
        times=1.1,
    )


def judge_ends(trained: dict[str, Trained], run: Run) -> None:
    tests = {}
    gaps = {}
    for name, found in trained.items():
        place = HE, found.chosen(HE)
        tests[name] = found.test[-1][place].mean()
        gaps[name] = tests[name] - found.train[-1][place].mean()
    run.metrics("test_loss", tests)
    run.metrics("gap_to_training_loss", gaps)
    plain = tests["plain"]
    normalized = tests["normalized"]
    run.claim(
        "The noise that this brings does not cost: each at its best rate, the test loss "
        "ends no higher",
        holds=normalized < 1.15 * plain,
        measured=f"test loss plain {plain:.3f}, normalized {normalized:.3f} (less than "
        f"1.15 times wanted); gap plain {gaps['plain']:.3f}, normalized "
        f"{gaps['normalized']:.3f}",
    )


def judge_batches(network: keras.Model, digits: Digits, run: Run) -> dict[int, float]:
    """Returns the spread of an image's logits by the size of its batch."""
    random = np.random.default_rng(run.seed)
    x, y = digits.test
    spreads = {}
    for size in BATCH_SIZES:
        of_images = [
            spread_over_companions(network, image, digits.x, size, random)
            for image in x[:5]
        ]
        spreads[size] = float(np.mean(of_images))
    few = BATCH_SIZES[1]
    many = BATCH_SIZES[-1]
    run.compare(
        "In training an example's logits hang on its companions, the more the fewer "
        "there are: their standard deviation over batches",
        {f"{size} in a batch": spread for size, spread in spreads.items()},
        more=f"{few} in a batch",
        less=f"{many} in a batch",
        times=2,
    )

    of_one_class = [np.flatnonzero(y == digit) for digit in range(10)]
    mixed = np.array_split(random.permutation(len(y)), 10)
    accuracies = {
        "moving averages": np.mean(np.argmax(network(x), axis=1) == y),
        "mixed batches": accuracy_by_batches(network, x, y, mixed),
        "batches of one class": accuracy_by_batches(network, x, y, of_one_class),
    }
    run.compare(
        "In use it needs the moving averages: by the statistics of their batch mixed test "
        "digits are known, but not those that come sorted by class",
        accuracies,
        more=min(("moving averages", "mixed batches"), key=accuracies.get),
        less="batches of one class",
        by=0.3,
    )
    return spreads


def accuracy_by_batches(network: keras.Model, x, y, batches: list[np.ndarray]) -> float:
    """Each batch, rows of x and y, normalized by itself."""
    hits = np.zeros(len(y), bool)
    for batch in batches:
        logits = answer_in_training(network, x[batch])
        hits[batch] = np.argmax(logits, axis=1) == y[batch]
    return float(hits.mean())


def judge_identity(digits: Digits, run: Run) -> None:
    x = digits.x[:, digits.x.std(axis=0) > 0.1]  # pixels that are more than background
    layer, before, after = learn_identity(x)
    away = max(
        np.abs(layer.gamma - x.std(axis=0)).max(),
        np.abs(layer.beta - x.mean(axis=0)).max(),
    )
    run.claim(
        "The layer can recover the identity, and gradient descent finds it: γ = σ, β = μ",
        holds=away < 0.02 and after < 1e-3 * before,
        measured=f"of {x.shape[1]} pixels γ and β at most {away:.3f} away from σ and μ; "
        f"mean squared error {before:.2g} at γ = 1, β = 0 and {after:.1g} learned",
    )


def draw_maps(trained: dict[str, Trained]) -> plt.Figure:
    """Test accuracy by scale and rate, with and without."""
    figure, grid = plt.subplots(1, len(trained), figsize=(12, 4.2), sharey=True)
    for axes, (name, found) in zip(grid, trained.items(), strict=True):
        accuracies = found.accuracies()
        image = axes.imshow(accuracies, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(accuracies):
            color = "black" if value > 0.5 else "white"
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color=color,
                fontsize=8,
            )
        axes.set_title(name)
        axes.set_xlabel("learning rate")
        labels = [f"{rate:g}" for rate in LEARNING_RATES]
        axes.set_xticks(range(len(LEARNING_RATES)), labels, fontsize=8)
        axes.set_yticks(range(len(SCALES)), SCALES)
        axes.grid(visible=False)
    grid[0].set_ylabel("first weights, times He's")
    figure.colorbar(image, ax=grid, label="accuracy on test digits")
    return figure


def draw_training(trained: dict[str, Trained]) -> plt.Figure:
    fast = {}
    best = {}
    for name, found in trained.items():
        for part, losses in (("test", found.test), ("training", found.train)):
            fast[f"{name}, {part}"] = losses[:, HE, found.fastest()]
            best[f"{name}, {part}"] = losses[:, HE, found.chosen(HE)]
    titles = {
        f"At the rate that is best after {EARLY} epochs": fast,
        "At the rate that is best at the end": best,
    }
    shown = [
        figures.Panel(
            title=title,
            xlabel="epoch",
            ylabel="loss (nats)",
            lines=lines,
            yscale="log",
        )
        for title, lines in titles.items()
    ]
    return figures.panels(*shown)


def draw_spreads(spreads: dict[int, float]) -> plt.Figure:
    sizes = np.array(list(spreads))
    found = np.array(list(spreads.values()))
    panel = figures.Panel(
        title="An example's logits over random companions",
        xlabel="batch size",
        ylabel="standard deviation",
        lines={
            "measured": (sizes, found),
            "1/√(batch size)": (sizes, found[0] * np.sqrt(sizes[0] / sizes)),
        },
        xscale="log",
        xticks=sizes,
        ylim=(0, None),
    )
    return figures.panels(panel)


def main(config: Config, run: Run) -> None:
    run.plan(2)
    digits = load_digits(run.seed)
    judge_identity(digits, run)
    trained = {
        "plain": train(False, digits, config, run),
        "normalized": train(True, digits, config, run),
    }
    judge_training(trained, config, run)
    run.figure("maps", draw_maps(trained))
    run.figure("training", draw_training(trained))

    found = trained["normalized"]
    network = build_network(True, config.depth, config.units)
    stacks.set_weights(network, found.rows[HE, found.chosen(HE), 0])
    spreads = judge_batches(network, digits, run)
    judge_ends(trained, run)
    run.figure("spreads", draw_spreads(spreads))
    run.export(serving.classifier(network), example=digits.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
