"""AlexNet: the network whose win in 2012 made convnets the standard.

Five convolutions and three dense layers, 61 million weights, with what was new together:
rectified linear units, which do not saturate; pools that overlap (3×3, every second
pixel); local response normalization, b = a / (k + α Σ a²)^β over n neighboring filters;
dropout; and two towers, one for each graphics card of the time, which meet only at the
third convolution and in the dense layers.
Look at how many epochs ReLU and tanh need to the same loss, at what each of the other
parts does here when it is added, and at the filters of the first layer.

Lectures: N18 1.1 Introduction; ICME CNN architectures; CS CNN Architectures
Paper: Krizhevsky et al., ImageNet classification with deep convolutional neural
    networks, 2012 (sections 3 and 4.2, figures 1 and 2)
Tags: cnn, imagenet, lrn, relu, overlapping pooling, grouped convolution, ilsvrc
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import architectures, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos, textures, digits (embedded), cifar10 where Keras can
    download or has cached it, or your own images: a folder with one subfolder a class,
    or an .npz file"""
    learning_rates: tuple[float, ...] = (1e-3, 2e-3)
    """of ReLU and of tanh the best one is taken, on validation images"""
    epochs: int = 8
    """passes over the training images"""
    starts: Annotated[int, Interval(ge=0)] = 1
    """random starts of each network with one part more; 0: these are not trained"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """of images, for which milliseconds are measured"""


QUICK = Config(learning_rates=(1e-3,), epochs=3, starts=0, batch_sizes=())
FULL = Config(learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), epochs=40, starts=5)

# --------------------------------------------------------------------------------------
# The idea: five convolutions in two towers, and three dense layers
# --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="alexnet")
class LocalResponseNormalization(layers.Layer):
    """b_i = a_i / (k + α Σ_j a_j²)^β, the sum over the n filters nearest to i at the
    same place: those that answer strongly hold their neighbors down."""

    def __init__(self, n=5, k=2.0, alpha=1e-4, beta=0.75, **kwargs):
        super().__init__(**kwargs)
        self.n = n
        self.k = k
        self.alpha = alpha
        self.beta = beta

    def call(self, maps):
        # TensorFlow's α multiplies the sum, as the paper's; Caffe's is α·n.
        return tf.nn.local_response_normalization(
            maps,
            depth_radius=self.n // 2,
            bias=self.k,
            alpha=self.alpha,
            beta=self.beta,
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        mine = {"n": self.n, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return super().get_config() | mine


@dataclass(frozen=True)
class Parts:
    """What the paper put together. Without all of them it is a plain convnet."""

    activation: str = "relu"
    alpha: float | None = 1e-4
    """of the local response normalization; None: without"""
    pool_size: int = 3
    """pixels across, of which every second one begins a pool: those of 3 overlap"""
    dropout: float = 0.5
    """share of the inputs of both wide dense layers"""
    towers: int = 2
    """parts of the filters that see only their own part below"""


def initializer_of(activation: str) -> str:
    """First weights that keep the size of the signal: a ReLU halves its square."""
    return "he_normal" if activation == "relu" else "glorot_normal"


def convolution(x, filters: int, kernel_size: int, parts: Parts, **arguments):
    """Conv → ReLU."""
    layer = layers.Conv2D(
        filters,
        kernel_size,
        activation=parts.activation,
        kernel_initializer=initializer_of(parts.activation),
        **arguments,
    )
    return layer(x)


def convolution_in_towers(x, filters: int, kernel_size: int, parts: Parts):
    """Each tower has its share of the filters, on its share of the maps below: what
    Conv2D(groups=2) computes, which processors learn several times more slowly."""
    if parts.towers == 1:
        return convolution(x, filters, kernel_size, parts, padding="same")
    maps = [
        convolution(below, filters // parts.towers, kernel_size, parts, padding="same")
        for below in ops.split(x, parts.towers, axis=-1)
    ]
    return layers.Concatenate()(maps)


def build_model(
    image_shape: tuple[int, int, int] = (227, 227, 3),
    classes: int = 1000,
    filters: Sequence[int] = (96, 256, 384, 384, 256),
    units: int = 4096,
    first_kernel_size: int = 11,
    first_stride: int = 4,
    parts: Parts = Parts(),
    scale: float = 1.0,
    offset: float = 0.0,
    initializer: str | None = None,
    name: str = "alexnet",
) -> keras.Model:
    """Input: (batch, *image_shape). It computes on images · scale + offset. Output:
    (batch, classes) logits."""
    initializer = initializer or initializer_of(parts.activation)
    images = keras.Input(image_shape, name="images")
    x = images
    if scale != 1.0 or offset != 0.0:
        x = layers.Rescaling(scale, offset)(x)

    # The shapes on the right are those of the paper's size.
    x = convolution(x, filters[0], first_kernel_size, parts, strides=first_stride)
    if parts.alpha is not None:
        x = LocalResponseNormalization(alpha=parts.alpha)(x)  # 55 × 55 × 96
    x = layers.MaxPooling2D(parts.pool_size, strides=2)(x)  # 27 × 27 × 96

    x = convolution_in_towers(x, filters[1], 5, parts)
    if parts.alpha is not None:
        x = LocalResponseNormalization(alpha=parts.alpha)(x)  # 27 × 27 × 256
    x = layers.MaxPooling2D(parts.pool_size, strides=2)(x)  # 13 × 13 × 256

    # Here each tower sees both of them.
    x = convolution(x, filters[2], 3, parts, padding="same")  # 13 × 13 × 384
    x = convolution_in_towers(x, filters[3], 3, parts)
    x = convolution_in_towers(x, filters[4], 3, parts)
    x = layers.MaxPooling2D(parts.pool_size, strides=2)(x)  # 6 × 6 × 256

    x = layers.Flatten()(x)
    for _ in range(2):
        if parts.dropout:
            x = layers.Dropout(parts.dropout)(x)
        dense = layers.Dense(
            units,
            parts.activation,
            kernel_initializer=initializer,
        )
        x = dense(x)
    logits = layers.Dense(classes, name="logits", kernel_initializer=initializer)(x)
    return keras.Model(images, logits, name=name)


def outline(**arguments) -> keras.Model:
    """A network to count and to look at, without its weights' quarter gigabyte."""
    with keras.StatelessScope(initialize_variables=False):
        return build_model(**arguments)


def weight_layers(model: keras.Model) -> int:
    """Layers with weights, by which the networks of the challenge were counted (here
    each tower's part of a layer is one of its own)."""
    return sum(bool(layer.weights) for layer in model.layers)


def mean_slope(activation: str, sums) -> float:
    """How much of a gradient an activation lets through: the mean of its derivative at
    these sums, 0 where all of them are saturated."""
    sums = tf.convert_to_tensor(sums, "float32")
    with tf.GradientTape() as tape:
        tape.watch(sums)
        outputs = keras.activations.get(activation)(sums)
    return float(tf.reduce_mean(tape.gradient(outputs, sums)))


def epochs_until(losses: Sequence[float], target: float) -> float:
    """Epochs until the training loss falls to a target, with a straight line between
    two epochs; infinite if it never does."""
    for epoch, loss in enumerate(losses, start=1):
        if loss <= target:
            if epoch == 1:
                return 1.0
            before = losses[epoch - 2]
            return epoch - 1 + (before - target) / (before - loss)
    return float("inf")


# --------------------------------------------------------------------------------------
# The experiment: ReLU against tanh, the other parts left out, and the first filters
# --------------------------------------------------------------------------------------

IMAGE_SIZE = 32
BATCH_SIZE = 32
# The small form: its first filters see 5 × 5 pixels, with no stride.
FILTERS = (16, 32, 48, 48, 32)
UNITS = 128
# The paper's pixels deviate by some 64 from their mean, of 255; here by about 1. An α
# 64² times the paper's does to these numbers what that one does to those.
SCALE = 4.0
OFFSET = -2.0
ALPHA = 0.4

# ReLU and tanh differ in nothing else, as in figure 1; then one part is added at a time.
PLAIN = Parts(alpha=None, pool_size=2, dropout=0.0)
ACTIVATIONS = ("relu", "tanh")
# How far pixels deviate from their mean: as here, and up to the paper's.
DEVIATIONS = (1, 2, 4, 8, 16, 32, 64)
ADDED = {
    "overlapping pools": replace(PLAIN, pool_size=3),
    "normalization": replace(PLAIN, alpha=ALPHA),
    "dropout": replace(PLAIN, dropout=0.5),
    "all three": Parts(alpha=ALPHA),
}


def judge_costs(run: Run) -> None:
    of_towers = architectures.cost(outline())
    whole = outline(parts=Parts(towers=1))
    of_whole = architectures.cost(whole)
    run.claim(
        "Eight layers with weights have 61 million; two towers save a third of the "
        "multiply-adds and hardly any weights, as these lie in the dense layers",
        holds=weight_layers(whole) == 8
        and 60e6 < of_towers.parameters < of_whole.parameters < 63e6
        and of_towers.multiply_adds < 0.67 * of_whole.multiply_adds,
        measured=f"with towers {of_towers.parameters:,} parameters and "
        f"{of_towers.multiply_adds / 1e9:.2f}·10⁹ multiply-adds, without "
        f"{of_whole.parameters:,} and {of_whole.multiply_adds / 1e9:.2f}·10⁹",
        any_data=True,
    )


def train(
    task: architectures.Task,
    parts: Parts,
    learning_rate: float,
    config: Config,
    run: Run,
    name: str,
) -> architectures.Trained:
    model = build_model(
        task.image_shape,
        task.classes,
        FILTERS,
        UNITS,
        first_kernel_size=5,
        first_stride=1,
        parts=parts,
        scale=SCALE,
        offset=OFFSET,
        name=name,
    )
    return architectures.train(
        model,
        task,
        run,
        epochs=config.epochs,
        batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
    )


@dataclass
class Chosen:
    """Of an activation, at the learning rate that validates best."""

    learning_rate: float
    trained: architectures.Trained


def train_activations(task, config: Config, run: Run) -> dict[str, Chosen]:
    chosen = {}
    for activation in ACTIVATIONS:
        parts = replace(PLAIN, activation=activation)
        found = [
            Chosen(rate, train(task, parts, rate, config, run, activation))
            for rate in config.learning_rates
        ]
        chosen[activation] = max(found, key=lambda each: each.trained.validation)
    return chosen


def judge_activations(
    chosen: dict[str, Chosen], linear: architectures.Trained, run: Run
) -> float:
    """Returns the lowest training loss that both of them reach."""
    tests = {name: each.trained.test for name, each in chosen.items()}
    run.metric("test_accuracy", tests["relu"])
    run.metrics("learning_rate", {n: each.learning_rate for n, each in chosen.items()})
    losses = {name: each.trained.losses for name, each in chosen.items()}
    target = max(found[-1] for found in losses.values())
    epochs = {name: epochs_until(found, target) for name, found in losses.items()}
    run.metrics("epochs_to_the_same_loss", epochs)
    run.claim(
        "That ReLU learns faster, six times in the paper (SGD on CIFAR-10), does not show "
        "here, by Adam from first weights of the right size: tanh takes no more epochs to "
        "the training loss that both reach",
        holds=epochs["tanh"] <= epochs["relu"],
        measured=f"to {target:.2f} nats: "
        + ", ".join(
            f"{name} {count:.1f} of {len(losses[name])} epochs, then {tests[name]:.1%} "
            "on held-out images"
            for name, count in epochs.items()
        ),
    )
    run.compare(
        "It classifies far better than a linear classifier",
        {"alexnet": tests["relu"], "linear": linear.test},
        more="alexnet",
        less="linear",
        by=0.05,
    )
    return target


def measure_slopes(task: architectures.Task) -> dict[str, list[float]]:
    """Of both activations behind the first convolution, untrained, by how far the
    pixels deviate."""
    images = SCALE * task.train[0][:200] + OFFSET
    slopes = {}
    for activation in ACTIVATIONS:
        initializer = keras.initializers.get(initializer_of(activation))
        kernel = initializer((5, 5, images.shape[-1], FILTERS[0]))
        sums = np.asarray(ops.conv(images, kernel))
        slopes[activation] = [mean_slope(activation, d * sums) for d in DEVIATIONS]
    return slopes


def judge_slopes(slopes: dict[str, list[float]], run: Run) -> None:
    kept = {name: found[-1] / found[0] for name, found in slopes.items()}
    run.claim(
        "Tanh saturates where sums are large, and lets hardly any gradient through; ReLU "
        "does not, whatever their size",
        holds=kept["relu"] > 0.9 and kept["tanh"] < 0.2,
        measured="mean slope behind the first convolution: "
        + ", ".join(
            f"{name} {found[0]:.2f} where pixels deviate by {DEVIATIONS[0]}, "
            f"{found[-1]:.3f} by {DEVIATIONS[-1]}"
            for name, found in slopes.items()
        ),
    )


def train_parts(task, plain: Chosen, config: Config, run: Run):
    """Each part alone, and all: a list of `Trained` by name, at the plain network's
    learning rate."""
    found = {"none of them": [plain.trained]}
    for name, parts in ADDED.items():
        found[name] = [
            train(task, parts, plain.learning_rate, config, run, name.replace(" ", "-"))
            for _ in range(config.starts)
        ]
    return found


def judge_parts(found, run: Run) -> None:
    tests = {n: float(np.mean([e.test for e in each])) for n, each in found.items()}
    losses = {
        n: float(np.mean([e.losses[-1] for e in each])) for n, each in found.items()
    }
    run.metrics("test_accuracy_with", tests)
    run.metrics("training_loss_with", losses)
    none = tests["none of them"]
    small = {n: tests[n] - none for n in ("overlapping pools", "normalization")}
    run.claim(
        "Overlapping pools and normalization change little: held-out accuracy by less "
        "than 12 points either way (in the paper they are worth 0.4 and 1.4 points)",
        holds=all(abs(change) < 0.12 for change in small.values()),
        measured=f"{none:.1%} without, with them "
        + ", ".join(f"{name} {change:+.1%}" for name, change in small.items()),
    )
    run.compare(
        "Dropout makes learning slower, which so few epochs do not pay back: training "
        "loss after as many of them",
        losses,
        more="dropout",
        less="none of them",
        by=0.1,
    )


def draw_activations(
    chosen: dict[str, Chosen], target: float, slopes: dict[str, list[float]]
) -> plt.Figure:
    lines = {
        f"{name}, learning rate {each.learning_rate:g}": each.trained.losses
        for name, each in chosen.items()
    }
    epochs = max(len(losses) for losses in lines.values())
    training = figures.Panel(
        title="Each at its best learning rate",
        xlabel="epoch",
        ylabel="training loss (nats)",
        lines=lines,
        levels={"loss that both reach": target},
        xticks=range(1, epochs + 1, math.ceil(epochs / 10)),
    )
    saturation = figures.Panel(
        title="Behind the first convolution, untrained",
        xlabel="deviation of the pixels",
        ylabel="mean slope of the activation",
        lines={name: (DEVIATIONS, found) for name, found in slopes.items()},
        xscale="log",
        xticks=DEVIATIONS,
        ylim=(0, None),
    )
    return figures.panels(training, saturation)


def draw_parts(found) -> plt.Figure:
    tests = figures.Panel(
        title="Held-out accuracy",
        xlabel="accuracy (dots: starts)",
        bars={name: [each.test for each in runs] for name, runs in found.items()},
    )
    losses = figures.Panel(
        title="Training loss while it learned",
        xlabel="nats",
        bars={name: [each.losses[-1] for each in runs] for name, runs in found.items()},
    )
    return figures.panels(tests, losses, title="One part added to the plain network")


def draw_filters(model: keras.Model) -> plt.Figure:
    """The first layer's kernels as pictures: 0 is gray, and each has its own scale."""
    first = next(each for each in model.layers if isinstance(each, layers.Conv2D))
    kernels = np.moveaxis(np.asarray(first.kernel), -1, 0)
    highest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    pictures = 0.5 + 0.5 * kernels / np.maximum(highest, 1e-9)
    figure, grid = plt.subplots(2, len(pictures) // 2, figsize=(10, 3.2))
    for axes, picture in zip(grid.flat, pictures, strict=True):
        axes.imshow(picture)
        axes.axis("off")
    figure.suptitle("First filters after training, 5 × 5 pixels in color")
    return figure


def main(config: Config, run: Run) -> None:
    activations = len(ACTIVATIONS) * len(config.learning_rates)
    run.plan(1 + activations + len(ADDED) * config.starts)
    judge_costs(run)

    task = architectures.load_task(config.data, run.seed, size=IMAGE_SIZE)
    linear = architectures.train(
        architectures.build_linear(task), task, run, epochs=config.epochs
    )
    chosen = train_activations(task, config, run)
    target = judge_activations(chosen, linear, run)
    slopes = measure_slopes(task)
    judge_slopes(slopes, run)
    run.figure("activations", draw_activations(chosen, target, slopes))

    plain = chosen["relu"]
    if config.starts:
        found = train_parts(task, plain, config, run)
        judge_parts(found, run)
        run.figure("parts", draw_parts(found))

    small = plain.trained
    run.figure("first_filters", draw_filters(small.model))
    timed = build_model(initializer="zeros") if config.batch_sizes else outline()
    architectures.report(
        run,
        trained={"linear": linear, "AlexNet-small": small},
        imagenet={"AlexNet": timed},
        batch_sizes=config.batch_sizes,
    )
    run.export(serving.classifier(small.model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
