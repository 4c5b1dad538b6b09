"""Normalization layers: over the batch, the layer, a group or one channel.

All four bring activations to mean 0 and variance 1 and then learn a scale γ and a shift
β for each channel. They differ in what they take the mean and the variance over, for
images (batch, height, width, channels):

    batch      the batch and all places, each channel by itself
    layer      all places and all channels of one image
    group      all places and the channels of one group, of one image
    instance   all places, each channel of one image by itself

Group norm with one group is layer norm, with a group for each channel instance norm.
Only the first looks at other images: the smaller the batch, the worse its statistics.
Look at the error of batch norm and of group norm as the batch shrinks to two.

Lectures: N18 4.2 Modern Developments; ICME Normalization
Paper: Wu and He, Group normalization, 2018 (equations 1 to 7, figure 1); Ba et al.,
    Layer normalization, 2016; Ulyanov et al., Instance normalization, 2016
Tags: layernorm, groupnorm, instancenorm, group normalization, small batches
"""

from dataclasses import dataclass
from functools import partial
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
    starts: int = 5
    """networks of each kind, batch size and learning rate"""
    epochs: int = 4
    """passes over the training images"""
    train_images: Annotated[int, Interval(ge=32, le=3000)] = 320
    """crops of photographs to train on"""


QUICK = Config(starts=4)
FULL = Config(starts=5, epochs=20, train_images=3000)

# --------------------------------------------------------------------------------------
# The idea: one normalization, four sets to take the mean over
# --------------------------------------------------------------------------------------

EPSILON = 1e-3


def standardize(x, axes: tuple[int, ...]):
    """x to mean 0 and variance 1 over the axes; also that mean and variance."""
    mean = ops.mean(x, axes, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axes, keepdims=True)
    return (x - mean) / ops.sqrt(variance + EPSILON), mean, variance


@keras.saving.register_keras_serializable("normalization_layers")
class GroupNormalization(layers.Layer):
    """Each image's channels, group by group, to mean 0 and variance 1; then γ and β.

    What `keras.layers.GroupNormalization(groups, epsilon=1e-3)` does. x: (batch, height,
    width, channels), the channels a multiple of the groups. One group: layer
    normalization. As many as channels: instance normalization.
    """

    def __init__(self, groups: int, **options):
        super().__init__(**options)
        self.groups = groups

    def build(self, shape):
        self.gamma = self.add_weight(shape[-1:], "ones", name="gamma")
        self.beta = self.add_weight(shape[-1:], "zeros", name="beta")

    def call(self, x):
        _, height, width, channels = x.shape
        size = channels // self.groups
        grouped = ops.reshape(x, (-1, height, width, self.groups, size))
        normalized, _, _ = standardize(grouped, axes=(1, 2, 4))
        return self.gamma * ops.reshape(normalized, ops.shape(x)) + self.beta

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable("normalization_layers")
class BatchNormalization(layers.Layer):
    """Each channel over the batch to mean 0 and variance 1; then γ and β.

    What `keras.layers.BatchNormalization(momentum, epsilon=1e-3)` does. x: (batch,
    height, width, channels). When the network is used, moving averages of mean and
    variance take the batch's place.
    """

    def __init__(self, momentum: float = 0.9, **options):
        super().__init__(**options)
        self.momentum = momentum

    def build(self, shape):
        size = shape[-1:]
        self.gamma = self.add_weight(size, "ones", name="gamma")
        self.beta = self.add_weight(size, "zeros", name="beta")
        self.mean = self.add_weight(size, "zeros", trainable=False, name="mean")
        self.variance = self.add_weight(size, "ones", trainable=False, name="variance")

    def call(self, x, training=False):
        if training:
            normalized, mean, variance = standardize(x, axes=(0, 1, 2))
            self.remember(ops.reshape(mean, [-1]), ops.reshape(variance, [-1]))
        else:
            normalized = (x - self.mean) / ops.sqrt(self.variance + EPSILON)
        return self.gamma * normalized + self.beta

    def remember(self, mean, variance):
        keep = self.momentum
        self.mean.assign(keep * self.mean + (1 - keep) * mean)
        self.variance.assign(keep * self.variance + (1 - keep) * variance)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


KINDS = ("batch", "layer", "group", "instance")
GROUPS = 4


def build_normalization(kind: str, channels: int, momentum: float) -> layers.Layer:
    """kind: one of KINDS."""
    groups = {"layer": 1, "group": GROUPS, "instance": channels}
    if kind == "batch":
        return BatchNormalization(momentum)
    return GroupNormalization(groups[kind])


def convolve(x, channels: int, strides: int):
    """What `layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)` does,
    as one product of matrices, in which many networks at once are faster."""
    patches = ops.image.extract_patches(x, 3, strides, padding="same")
    return layers.Dense(channels, use_bias=False, kernel_initializer="he_normal")(
        patches
    )


def build_network(kind: str, classes: int = 9, momentum: float = 0.9) -> keras.Model:
    """A convnet with one kind of normalization before each ReLU.

    Input: (batch, 8, 8, 3). Output: (batch, classes) logits. momentum: of batch norm's
    moving averages.
    """
    x = hidden = keras.Input((8, 8, 3), name="image")
    for channels, strides in ((16, 2), (32, 2), (32, 1)):
        hidden = convolve(hidden, channels, strides)
        hidden = build_normalization(kind, channels, momentum)(hidden)
        hidden = layers.ReLU()(hidden)
    logits = layers.Dense(classes, name="logits")(layers.Flatten()(hidden))
    return keras.Model(x, logits, name=f"{kind}_norm")


def reach(layer: layers.Layer, images: int, channels: int) -> np.ndarray:
    """Which activations one output depends on, in training: the share of places of each
    image and channel that the first image's first channel hears of. Returns (images,
    channels)."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(images, 4, 4, channels)), "float32")
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)[0, 0, 0, 0]
    return np.mean(tape.gradient(y, x).numpy() != 0, axis=(1, 2))


# --------------------------------------------------------------------------------------
# The experiment: the four in one convnet, as the batch shrinks
# --------------------------------------------------------------------------------------

BATCH_SIZES = (32, 8, 2)
LEARNING_RATES = (0.03, 0.1, 0.3)  # at 32 images a batch, in proportion at fewer
MOMENTUM = 0.9  # of gradient descent
HELD_OUT = 600  # images to choose the rate by
COMPANIONS = 30  # images that a batch of two is normalized with, for comparison


@dataclass
class Crops:
    """Crops of photographs at 8×8, the classes which photograph it is."""

    x: np.ndarray
    """to train on, (images, 8, 8, 3)"""
    y: np.ndarray
    """their labels"""
    x_seen: np.ndarray
    """to choose by, and then those of other regions, to report"""
    y_seen: np.ndarray
    """their labels"""


def shrink(x: np.ndarray) -> np.ndarray:
    """(images, 32, 32, 3) to (images, 8, 8, 3), the means of 4×4 pixels."""
    return x.reshape(len(x), 8, 4, 8, 4, 3).mean(axis=(2, 4))


def load_crops(images: int, seed: int) -> Crops:
    (x, y), (x_test, y_test) = data.load("photos")
    order = np.random.default_rng(seed).permutation(len(x))
    valid = order[:HELD_OUT]
    train = order[HELD_OUT : HELD_OUT + images]
    mean = x[train].mean()
    deviation = x[train].std()
    return Crops(
        (shrink(x[train]) - mean) / deviation,
        y[train],
        (shrink(np.concatenate([x[valid], x_test])) - mean) / deviation,
        np.concatenate([y[valid], y_test]),
    )


@dataclass
class Trained:
    """Networks of one kind."""

    validation: np.ndarray
    """accuracy on images to choose by, (batch sizes, rates, starts)"""
    test: np.ndarray
    """accuracy on images to report, (batch sizes, rates, starts)"""
    rows: np.ndarray
    """weights, (batch sizes, rates, starts, weights)"""

    def chosen(self, size: int) -> int:
        """The place of the rate that validates best at a batch size's place."""
        return int(self.validation[size].mean(axis=-1).argmax())

    def accuracies(self) -> np.ndarray:
        """Test accuracies at the rates chosen, (batch sizes, starts)."""
        return np.array(
            [of_size[self.chosen(size)] for size, of_size in enumerate(self.test)]
        )


@tf.function
def train_epoch(model, rows, velocity, rates, order, batch_size, companions, x, y):
    """Gradient descent with momentum, a step of all networks on each batch.

    rows, velocity: variables (networks, weights). rates: (networks, 1). order:
    (images,), rows of x and y. batch_size: a tensor, so that all sizes share a graph.
    companions: (steps or more, images) that each batch is normalized with, of which no
    loss is taken; there may be none.
    """
    for step in tf.range(tf.size(order) // batch_size):
        batch = order[step * batch_size : (step + 1) * batch_size]
        images = tf.gather(x, tf.concat([batch, companions[step]], axis=0))
        labels = tf.gather(y, batch)
        gradients = gradients_of_first(model, rows, images, labels)
        if model.non_trainable_variables:
            # Moving averages over as many images, whatever the size of a batch.
            share = tf.cast(batch_size / BATCH_SIZES[0], "float32")
            rows.assign_add(share * (stacks.updated(model, rows, images) - rows))
        velocity.assign(MOMENTUM * velocity + gradients)
        rows.assign_sub(rates * velocity)


def gradients_of_first(model, rows, images, labels):
    """By each network's weights, (networks, weights), of its loss on the first images:
    as many as there are labels."""
    networks = tf.shape(rows)[0]
    of_each = tf.repeat(labels[tf.newaxis], networks, axis=0)
    with tf.GradientTape() as tape:
        values = tf.identity(rows)
        tape.watch(values)
        logits = stacks.call(model, values, images, training=True)
        first = tf.cast(logits[:, : tf.size(labels)], "float32")
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(of_each, first)
        loss = tf.reduce_sum(tf.reduce_mean(losses, axis=1))
    return tape.gradient(loss, values)


def answers(model, rows, x):
    """(networks, images) classes."""
    return tf.argmax(stacks.call(model, rows, x), axis=-1)


def train(kind: str, crops: Crops, config: Config, run: Run) -> Trained:
    """All rates from all starts at once, one batch size after the other."""
    random = np.random.default_rng(run.seed)
    model = build_network(kind)
    first = [stacks.row_of(build_network(kind)) for _ in range(config.starts)]
    first = np.tile(first, (len(LEARNING_RATES), 1))
    rows = tf.Variable(first)
    velocity = tf.Variable(tf.zeros_like(rows))
    rates = np.repeat(LEARNING_RATES, config.starts)[:, np.newaxis]
    shape = len(BATCH_SIZES), len(LEARNING_RATES), config.starts
    hits = np.zeros((*shape, len(crops.x_seen)), bool)
    ends = np.zeros((*shape, first.shape[1]), "float32")
    x = tf.constant(crops.x)
    y = tf.constant(crops.y)
    # Of the same shape for all sizes, which share a graph.
    no_companions = tf.zeros((len(crops.x), 0), "int32")
    compiled_answers = tf.function(partial(answers, model))

    state = {"all": [rows, velocity, hits, ends, random]}
    name = f"{len(rates) * len(BATCH_SIZES)} networks, {kind} norm"
    for done in run.loop(name, len(BATCH_SIZES) * config.epochs, state, unit="epochs"):
        place, epoch = divmod(done, config.epochs)
        size = BATCH_SIZES[place]
        if epoch == 0:
            rows.assign(first)
            velocity.assign(tf.zeros_like(velocity))
        # As many images for each size; a rate falls to 0, or its last steps were noise.
        now = rates * size / BATCH_SIZES[0] * (1 - epoch / config.epochs)
        train_epoch(
            model,
            rows,
            velocity,
            tf.constant(now, "float32"),
            tf.constant(random.permutation(len(crops.x)), "int32"),
            tf.constant(size),
            no_companions,
            x,
            y,
        )
        if epoch == config.epochs - 1:
            found = compiled_answers(rows, tf.constant(crops.x_seen))
            hits[place] = np.reshape(found == crops.y_seen, hits.shape[1:])
            ends[place] = rows.numpy().reshape(ends.shape[1:])
    return Trained(
        hits[..., :HELD_OUT].mean(axis=-1), hits[..., HELD_OUT:].mean(axis=-1), ends
    )


def train_with_companions(
    rate: float, crops: Crops, config: Config, run: Run
) -> np.ndarray:
    """Batch norm in batches of two, normalized as if they were larger. Returns test
    accuracies, (networks,)."""
    random = np.random.default_rng(run.seed)
    model = build_network("batch")
    # Half as many networks, as each of their steps is as long as one of 32 images.
    networks = max(config.starts // 2, 1)
    rows = tf.Variable([stacks.row_of(build_network("batch")) for _ in range(networks)])
    velocity = tf.Variable(tf.zeros_like(rows))
    x = tf.constant(crops.x)
    y = tf.constant(crops.y)
    images = len(crops.x)
    batch_size = BATCH_SIZES[-1]
    count = min(COMPANIONS, images)

    state = {"all": [rows, velocity, random]}
    name = f"{networks} networks, with companions"
    for epoch in run.loop(name, config.epochs, state, unit="epochs"):
        order = random.permutation(images)
        companions = [
            random.choice(images, count, replace=False)
            for _ in range(images // batch_size)
        ]
        now = rate * batch_size / BATCH_SIZES[0] * (1 - epoch / config.epochs)
        train_epoch(
            model,
            rows,
            velocity,
            tf.constant(now, "float32"),
            tf.constant(order, "int32"),
            tf.constant(batch_size),
            tf.constant(np.array(companions), "int32"),
            x,
            y,
        )
    found = tf.function(partial(answers, model))(rows, tf.constant(crops.x_seen))
    hits = found == crops.y_seen
    return np.mean(hits[:, HELD_OUT:], axis=1)


def errors_of_means(network: keras.Model, x: np.ndarray, seed: int) -> dict[int, float]:
    """How far a batch's mean is from that of all images before the first normalization,
    by batch size: root mean square, in standard deviations of a channel."""
    random = np.random.default_rng(seed)
    first = next(each for each in network.layers if "normalization" in each.name)
    activations = keras.Model(network.input, first.input)(x).numpy()
    mean = activations.mean(axis=(0, 1, 2))
    deviation = activations.std(axis=(0, 1, 2))
    errors = {}
    for size in BATCH_SIZES:
        batches = [
            activations[random.choice(len(x), size, replace=False)] for _ in range(200)
        ]
        means = np.mean(batches, axis=(1, 2, 3))
        errors[size] = float(np.sqrt(np.mean(((means - mean) / deviation) ** 2)))
    return errors


def judge(trained: dict[str, Trained], run: Run) -> None:
    largest = BATCH_SIZES[0]
    smallest = BATCH_SIZES[-1]
    means = {}
    for kind, found in trained.items():
        by_size = dict(zip(BATCH_SIZES, found.accuracies().mean(axis=-1), strict=True))
        means[kind] = by_size
        run.metrics(f"test_accuracy_{kind}", {f"at {b}": by_size[b] for b in by_size})
    lost = {kind: means[kind][largest] - means[kind][smallest] for kind in means}
    run.compare(
        f"Batch norm falls as the batch shrinks to {smallest}",
        {
            f"at {largest}": means["batch"][largest],
            f"at {smallest}": means["batch"][smallest],
        },
        more=f"at {largest}",
        less=f"at {smallest}",
        by=0.03,
    )
    run.claim(
        "Group norm holds its accuracy",
        at_most=0.03,  # it may gain: at as many images, more steps
        measured={f"lost from {largest} to {smallest}": lost["group"]},
    )
    others = [kind for kind in KINDS if kind != "batch"]
    run.compare(
        f"What a batch of {smallest} costs, against {largest}, batch norm alone pays: "
        "accuracy lost",
        lost,
        more="batch",
        less=max(others, key=lost.get),
        by=0.02,
    )


def judge_statistics(found: Trained, crops: Crops, config: Config, run: Run) -> None:
    """The same small batches and the same rate, but statistics of more images."""
    smallest = BATCH_SIZES[-1]
    rate = LEARNING_RATES[found.chosen(-1)]
    with_companions = train_with_companions(rate, crops, config, run)
    accuracies = {
        f"batches of {smallest}": found.accuracies()[-1].mean(),
        f"with {COMPANIONS} companions": with_companions.mean(),
    }
    run.metrics("test_accuracy", accuracies)
    run.compare(
        f"It is the statistics that batches of {smallest} lack: normalized together with "
        f"{COMPANIONS} more images, of which no loss is taken, they train better",
        accuracies,
        more=f"with {COMPANIONS} companions",
        less=f"batches of {smallest}",
        by=0.02,
    )


def draw_reach() -> plt.Figure:
    """What each kind takes a mean over, as its gradients tell."""
    images, channels = 6, 8
    figure, grid = plt.subplots(1, len(KINDS), figsize=(12, 3.2), sharey=True)
    for axes, kind in zip(grid, KINDS, strict=True):
        layer = build_normalization(kind, channels, momentum=0.9)
        axes.imshow(reach(layer, images, channels), vmin=0, vmax=1)
        axes.set(title=f"{kind} norm", xlabel="channel")
        axes.set_xticks(range(channels), range(1, channels + 1))
        axes.set_yticks(range(images), range(1, images + 1))
        axes.grid(visible=False)
    grid[0].set_ylabel("image of the batch")
    figure.suptitle("What the first image's first channel is normalized with (bright)")
    return figure


def draw_accuracies(trained: dict[str, Trained]) -> plt.Figure:
    panel = figures.Panel(
        title="Each at its own learning rate",
        xlabel="images in a batch",
        ylabel="accuracy on test crops",
        lines={
            f"{kind} norm": (np.array(BATCH_SIZES), found.accuracies())
            for kind, found in trained.items()
        },
        xscale="log",
        xticks=BATCH_SIZES,
    )
    return figures.panels(panel)


def main(config: Config, run: Run) -> None:
    run.plan(len(KINDS) + 1)
    crops = load_crops(config.train_images, run.seed)
    run.figure("reach", draw_reach())
    trained = {kind: train(kind, crops, config, run) for kind in KINDS}
    judge(trained, run)
    judge_statistics(trained["batch"], crops, config, run)
    run.figure("accuracies", draw_accuracies(trained))

    found = trained["batch"]
    network = build_network("batch")
    stacks.set_weights(network, found.rows[0, found.chosen(0), 0])
    errors = errors_of_means(network, crops.x, run.seed)
    run.compare(
        "The smaller a batch, the worse its statistics: error of the mean before the "
        "first normalization, in standard deviations",
        {f"{size} images": error for size, error in errors.items()},
        more=f"{BATCH_SIZES[-1]} images",
        less=f"{BATCH_SIZES[0]} images",
        times=2,
    )

    found = trained["group"]
    network = build_network("group")
    stacks.set_weights(network, found.rows[-1, found.chosen(-1), 0])
    run.export(serving.classifier(network), example=crops.x_seen[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
