"""VGG: depth from nothing but small filters.

Each stage convolves by 3×3 at one resolution, then pools to half of it and doubles the
filters. Two stacked 3×3 depend on 5×5 pixels, three on 7×7, with 18/25 and 27/49 of the
weights, and with a ReLU after each. So depth costs little, and of the 138 million
weights of VGG-16 the dense layers have 124 million, while nearly all multiplications
lie in the convolutions. A deep plain network trains only if its first weights keep the
size of the signal: W ~ N(0, 2/(F²·C)), where the paper's N(0, 0.01²) let it fade and
took first layers from a shallower network that was trained before.
Look at where weights and multiplications lie, at what stacks see and how they classify,
and at the size of the signal from layer to layer.

Lectures: N18 1.1 Introduction; ICME CNN architectures; SEL Convolutional neural networks;
    CS CNN Architectures
Paper: Simonyan and Zisserman, Very deep convolutional networks for large-scale image
    recognition, 2014 (table 1, sections 2.3, 3.1 and 4); He et al., Delving deep into
    rectifiers, 2015 (section 2.2)
Tags: cnn, imagenet, vgg16, vgg19, convnet, receptive field, he initialization
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, architectures, data, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos, textures, digits (embedded), cifar10 where Keras can
    download or has cached it, or your own images: a folder with one subfolder a class,
    or an .npz file"""
    convolutions: Annotated[int, Interval(ge=1, le=3)] = 3
    """stacks of 3×3 are compared up to so many of them"""
    filters: int = 16
    """of each convolution, where stacks are compared"""
    network: str = "VGG-16"
    """whose depth is trained, with few filters, from different first weights: VGG-11,
    VGG-13, VGG-16, VGG-16-1x1 or VGG-19"""
    epochs: int = 8
    """passes over the training images"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """share of the dense layers' outputs that is left out in training: half in the
    paper, for more epochs than here"""
    starts: int = 2
    """random starts of each network; accuracies are their means"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """of images, for which milliseconds are measured"""


QUICK = Config(
    convolutions=2,
    network="VGG-11",
    epochs=4,
    starts=1,
    batch_sizes=(),
)
FULL = Config(filters=32, epochs=30, dropout=0.5, starts=5)

# --------------------------------------------------------------------------------------
# The idea: stages of 3×3 convolutions, each at half the resolution of the one before
# --------------------------------------------------------------------------------------

# Table 1, its columns A, B, C, D and E: the kernel sizes of each stage's convolutions.
# The name counts layers with weights: these, and three dense ones.
STAGES = {
    "VGG-11": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "VGG-13": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "VGG-16-1x1": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "VGG-16": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "VGG-19": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
FILTERS = (64, 128, 256, 512, 512)  # by stage


def convolution(x, filters: int, kernel_size: int = 3, initializer="he_normal"):
    """Conv → ReLU, with so many zeros around that the resolution is kept."""
    layer = layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        activation="relu",
        kernel_initializer=initializer,
    )
    return layer(x)


def build_model(
    stages: Sequence[Sequence[int]] = STAGES["VGG-16"],
    image_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    filters: Sequence[int] = FILTERS,
    units: int = 4096,
    dropout: float = 0.5,
    initializer: str | dict = "he_normal",
    scale: float = 1.0,
    offset: float = 0.0,
    name: str = "vgg",
) -> keras.Model:
    """((Conv → ReLU) * N → Pool) * 5 → (Dense → ReLU → Dropout) * 2 → Dense.

    stages: the kernel sizes of each stage's convolutions. filters: one number a stage.
    Input: (batch, *image_shape). It computes on images · scale + offset. Output:
    (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    x = images
    if scale != 1.0 or offset != 0.0:
        x = layers.Rescaling(scale, offset)(x)
    for kernel_sizes, width in zip(stages, filters, strict=True):
        for kernel_size in kernel_sizes:
            x = convolution(x, width, kernel_size, initializer)
        x = layers.MaxPooling2D(2)(x)

    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(units, "relu", kernel_initializer=initializer)(x)
        x = layers.Dropout(dropout)(x)
    logits = layers.Dense(classes, name="logits", kernel_initializer=initializer)(x)
    return keras.Model(images, logits, name=name)


def build_stack(
    kernel_sizes: Sequence[int], image_shape: tuple[int, int, int]
) -> keras.Model:
    """Convolutions alone, each from C channels to C, so with F²·C² weights.

    Input: (batch, *image_shape). Output: maps of the same shape.
    """
    images = keras.Input(image_shape, name="images")
    x = images
    for kernel_size in kernel_sizes:
        x = convolution(x, image_shape[-1], kernel_size)
    return keras.Model(images, x)


def outline(**arguments) -> keras.Model:
    """A network to count and to look at, without its weights' half gigabyte."""
    with keras.StatelessScope(initialize_variables=False):
        return build_model(**arguments)


@dataclass(frozen=True)
class Cost:
    """Of one layer, for one image."""

    kind: str
    """convolution or dense"""
    weights: int
    """with biases"""
    multiply_adds: int
    """each weight of a dense layer once, each of a convolution once at every place"""
    activations: int
    """numbers that it puts out"""


def costs_by_layer(model: keras.Model) -> dict[str, Cost]:
    """Of its layers with weights, from the graph; convolutions are called by stage and
    place in it."""
    costs = {}
    stage = 1
    place = 1
    dense = 1
    for layer in model.layers:
        if isinstance(layer, layers.MaxPooling2D):
            stage += 1
            place = 1
        elif isinstance(layer, layers.Conv2D):
            places = math.prod(layer.output.shape[1:3])
            costs[f"conv {stage}-{place}"] = Cost(
                "convolution",
                layer.count_params(),
                places * math.prod(layer.kernel.shape),
                math.prod(layer.output.shape[1:]),
            )
            place += 1
        elif isinstance(layer, layers.Dense):
            costs[f"dense {dense}"] = Cost(
                "dense",
                layer.count_params(),
                math.prod(layer.kernel.shape),
                layer.units,
            )
            dense += 1
    return costs


def pixels_seen(model: keras.Model, images) -> np.ndarray:
    """How strongly the output in the middle of a model's maps depends on each pixel: the
    mean size of its gradient. images: (batch, height, width, channels). Returns (height,
    width)."""
    images = tf.convert_to_tensor(images, "float32")
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = model(images)
        middle = maps[:, maps.shape[1] // 2, maps.shape[2] // 2]
        total = tf.reduce_sum(middle)
    gradient = tape.gradient(total, images)
    return np.abs(gradient).mean(axis=(0, 3))


def signal_by_layer(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The root mean square of what each convolution puts out, then of what each dense
    layer does: (layers with weights,)."""
    outputs = [
        layer.output
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.Dense))
    ]
    values = keras.Model(model.input, outputs)(images)
    return np.array([np.sqrt(np.mean(np.square(value))) for value in values])


# --------------------------------------------------------------------------------------
# The experiment: what small filters cost, see and learn, and where deep ones begin
# --------------------------------------------------------------------------------------

IMAGE_SIZE = 32
UNITS = 64
LEARNING_RATE = 2e-3
DEEP_LEARNING_RATE = 1e-3  # at twice of it some starts of VGG-16 learn nothing
BATCH_SIZE = 32
# The paper takes the mean off; this brings most pixels of [0, 1] to −1 to 1 as well.
SCALE = 4.0
OFFSET = -2.0

# What the second and the third stage stack, all of it from C channels to C. The first
# stage is one 3×3 for all, as its channels are those of the picture.
STACKS = {
    "one 3×3": (3,),
    "two 3×3": (3, 3),
    "one 5×5": (5,),
    "three 3×3": (3, 3, 3),
    "one 7×7": (7,),
}
SMALL = ("one 3×3", "two 3×3", "three 3×3")
REPLACED = {"two 3×3": "one 5×5", "three 3×3": "one 7×7"}  # see as much
SHARES = {"two 3×3": 18 / 25, "three 3×3": 27 / 49}
MAP_SHAPE = (15, 15, 16)  # of random maps, to look at what a stack sees

# VGG-16's own stages for small pictures: its filters and units thinned out.
THIN_FILTERS = (8, 16, 32, 64, 64)
INITIALIZERS = {
    "He": "he_normal",
    "Glorot": "glorot_normal",
    # Not one object: it would draw the same numbers for layers of the same shape.
    "N(0, 0.01²)": {"class_name": "RandomNormal", "config": {"stddev": 0.01}},
}
COMPARED = ("He", "N(0, 0.01²)")  # by training as well
SIGNAL_SIZE = 64  # pixels across the photographs whose signal is followed


def judge_costs(costs: dict[str, Cost], run: Run) -> None:
    """costs: VGG-16's, by layer."""
    weights = sum(cost.weights for cost in costs.values())
    products = sum(cost.multiply_adds for cost in costs.values())
    activations = sum(cost.activations for cost in costs.values())
    dense_weights = sum(cost.weights for cost in costs.values() if cost.kind == "dense")
    convolved = sum(
        cost.multiply_adds for cost in costs.values() if cost.kind == "convolution"
    )
    early = sum(
        cost.activations
        for name, cost in costs.items()
        if name.startswith(("conv 1", "conv 2"))
    )
    run.claim(
        "Of VGG-16's weights nine tenths lie in the dense layers, of its multiply-adds "
        "99 % in the convolutions, of their outputs most in the first two stages",
        holds=len(costs) == 16
        and dense_weights > 0.89 * weights
        and convolved > 0.99 * products
        and early > 0.6 * activations,
        measured=f"{dense_weights:,} of {weights:,} weights, {convolved / 1e9:.2f} of "
        f"{products / 1e9:.2f}·10⁹ multiply-adds, {early / 1e6:.1f} of "
        f"{activations / 1e6:.1f}·10⁶ outputs, in {len(costs)} layers with weights",
        any_data=True,
    )


@dataclass
class Stack:
    """Convolutions on random maps."""

    weights: int
    """without biases"""
    multiply_adds: int
    """for one image"""
    seen: np.ndarray
    """mean size of the gradient by pixel, (height, width)"""

    @property
    def width(self) -> int:
        """Pixels across that have a gradient: the receptive field."""
        columns = np.flatnonzero(self.seen.any(axis=0))
        return int(np.ptp(columns)) + 1 if len(columns) else 0


def look_at_stacks(seed: int) -> dict[str, Stack]:
    maps = np.random.default_rng(seed).normal(size=(64, *MAP_SHAPE))
    found = {}
    for name, kernel_sizes in STACKS.items():
        model = build_stack(kernel_sizes, MAP_SHAPE)
        weights = sum(math.prod(layer.kernel.shape) for layer in model.layers[1:])
        products = architectures.multiply_adds(model)
        found[name] = Stack(weights, products, pixels_seen(model, maps))
    return found


def judge_stacks(stacks: dict[str, Stack], run: Run) -> None:
    holds = True
    words = [f"{name} {stack.width} pixels" for name, stack in stacks.items()]
    for small, large in REPLACED.items():
        weights = stacks[small].weights / stacks[large].weights
        products = stacks[small].multiply_adds / stacks[large].multiply_adds
        holds &= stacks[small].width == stacks[large].width
        holds &= np.allclose([weights, products], SHARES[small])
        words.append(
            f"{small} {weights:.3f} of the weights of {large}, {products:.3f} of its "
            "multiply-adds"
        )
    run.claim(
        "Two 3×3 see what one 5×5 sees, three what one 7×7 sees, with 18/25 and 27/49 of "
        "the weights and multiply-adds",
        holds=holds,
        measured="across, by the gradient: " + ", ".join(words),
        any_data=True,
    )


def stacks_of(convolutions: int) -> dict[str, tuple[int, ...]]:
    """Those that see no more than so many 3×3."""
    radius = {
        name: sum(kernel_size // 2 for kernel_size in kernel_sizes)
        for name, kernel_sizes in STACKS.items()
    }
    return {name: STACKS[name] for name in STACKS if radius[name] <= convolutions}


def train(
    task: architectures.Task,
    config: Config,
    run: Run,
    learning_rate: float = LEARNING_RATE,
    **arguments,
) -> architectures.Trained:
    """A network of `build_model`, by what it does not share with the others."""
    model = build_model(
        image_shape=task.image_shape,
        classes=task.classes,
        units=UNITS,
        dropout=config.dropout,
        scale=SCALE,
        offset=OFFSET,
        **arguments,
    )
    return architectures.train(
        model,
        task,
        run,
        epochs=config.epochs,
        batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
    )


def train_stacks(task: architectures.Task, config: Config, run: Run):
    """From several starts each: a list of `Trained` by name."""
    trained = {}
    for name, kernel_sizes in stacks_of(config.convolutions).items():
        trained[name] = []
        for _ in range(config.starts):
            found = train(
                task,
                config,
                run,
                stages=((3,), kernel_sizes, kernel_sizes),
                filters=(config.filters,) * 3,
                name=name.replace(" ", "-").replace("×", "x"),
            )
            trained[name].append(found)
    return trained


def judge_accuracies(trained, linear: architectures.Trained, run: Run) -> None:
    tests = {
        name: float(np.mean([each.test for each in found]))
        for name, found in trained.items()
    }
    validation = {
        name: float(np.mean([each.validation for each in found]))
        for name, found in trained.items()
    }
    best = max(validation, key=validation.get)
    run.metric("test_accuracy", tests[best])
    run.metrics("test_accuracy", tests)
    run.compare(
        "The network that validates best classifies far better than a linear classifier",
        {best: tests[best], "linear": linear.test},
        more=best,
        less="linear",
        by=0.05,
    )

    pairs = {small: large for small, large in REPLACED.items() if small in tests}
    if not pairs:
        return
    stacked = float(np.mean([tests[small] for small in pairs]))
    large = float(np.mean([tests[large] for large in pairs.values()]))
    run.claim(
        "Small filters do the work of large ones: on held-out images the stacks are at "
        "most 8 points behind what they replace, with fewer weights (that they are "
        "better, by 7 points in the paper, does not show here, nor that depth pays)",
        holds=stacked > large - 0.08,
        measured=f"on average {stacked:.1%} and {large:.1%}; "
        + ", ".join(f"{name} {test:.1%}" for name, test in tests.items()),
    )


def train_thin(task: architectures.Task, config: Config, run: Run):
    """A deep one with few filters, by its first weights: `Trained` by name."""
    trained = {}
    for name in COMPARED:
        trained[name] = train(
            task,
            config,
            run,
            DEEP_LEARNING_RATE,
            stages=STAGES[config.network],
            filters=THIN_FILTERS,
            initializer=INITIALIZERS[name],
            name=f"thin-{config.network}",
        )
    return trained


def follow_signals() -> dict[str, np.ndarray]:
    """Through VGG-16 before training, with the paper's filters, by its first weights:
    relative to what the first layer puts out with He's, (convolutions,)."""
    photos = data.load_photos(SIGNAL_SIZE)[:2]
    images = (photos - photos.mean()) / photos.std()
    found = {}
    for name, initializer in INITIALIZERS.items():
        # Of the dense layers only the convolutions' inputs matter here.
        model = build_model(
            image_shape=images.shape[1:], units=8, classes=8, initializer=initializer
        )
        found[name] = signal_by_layer(model, images)[:-3]
    return found


def judge_starts(signals: dict[str, np.ndarray], thin, run: Run) -> None:
    he, fixed = COMPARED
    kept = {name: float(signal[-1] / signal[0]) for name, signal in signals.items()}
    run.claim(
        "Through thirteen convolutions of the paper's width the signal keeps its size "
        "with He's first weights (a third to three times); Glorot's let it fade tenfold "
        "and more, N(0, 0.01²) ten thousandfold",
        holds=1 / 3 < kept[he] < 3 and kept["Glorot"] < 0.1 and kept[fixed] < 1e-4,
        measured="the last layer's outputs, of the first one's: "
        + ", ".join(f"{name} {share:.2g}" for name, share in kept.items()),
        any_data=True,
    )
    losses = {name: each.losses[-1] for name, each in thin.items()}
    run.metrics("training_loss", losses)
    run.compare(
        "So a deep network learns from He's first weights, and not from N(0, 0.01²): "
        "training loss after as many epochs",
        losses,
        more=fixed,
        less=he,
        by=0.05,
    )


def draw_costs(costs: dict[str, Cost]) -> plt.Figure:
    shown = []
    for title, xlabel, unit, field in (
        ("weights", "millions", 1e6, "weights"),
        ("multiply-adds", "billions, for one image", 1e9, "multiply_adds"),
        ("outputs", "millions, for one image", 1e6, "activations"),
    ):
        values = {name: getattr(cost, field) / unit for name, cost in costs.items()}
        panel = figures.Panel(title=title, xlabel=xlabel, bars=values, number="{:.2f}")
        shown.append(panel)
    return figures.panels(*shown, title="Where VGG-16's costs lie, by layer")


def draw_fields(stacks: dict[str, Stack]) -> plt.Figure:
    figure, grid = plt.subplots(1, len(stacks), figsize=(14, 3.4), sharey=True)
    for axes, (name, stack) in zip(grid, stacks.items(), strict=True):
        drawn = axes.imshow(stack.seen / (stack.seen.max() or 1), vmin=0, vmax=1)
        axes.set(title=f"{name}: {stack.width} across", xlabel="column")
        axes.set(xticks=range(0, MAP_SHAPE[1], 7), yticks=range(0, MAP_SHAPE[0], 7))
        axes.grid(visible=False)
    grid[0].set_ylabel("row")
    figure.colorbar(drawn, ax=grid, label="gradient, of its largest")
    figure.suptitle("Pixels on which an output in the middle depends")
    return figure


def draw_accuracies(
    trained, stacks: dict[str, Stack], linear: architectures.Trained
) -> plt.Figure:
    tests = figures.Panel(
        title="Held-out accuracy (dots: starts)",
        xlabel="accuracy",
        bars={name: [each.test for each in found] for name, found in trained.items()},
        levels={"linear classifier": linear.test},
    )
    weights = figures.Panel(
        title="Weights of one stage's convolutions",
        xlabel="times C², the squared number of channels",
        bars={name: stacks[name].weights / MAP_SHAPE[-1] ** 2 for name in trained},
    )
    return figures.panels(tests, weights)


def draw_starts(signals: dict[str, np.ndarray], thin) -> plt.Figure:
    by_layer = figures.Panel(
        title="Signal through VGG-16, untrained",
        xlabel="convolution",
        ylabel="root mean square of outputs",
        lines=signals,
        yscale="log",
    )
    epochs = len(thin[COMPARED[0]].losses)
    ticks = range(1, epochs + 1, math.ceil(epochs / 8))
    by_epoch = figures.Panel(
        title="Trained, with few filters",
        xlabel="epoch",
        ylabel="training loss (nats)",
        lines={name: each.losses for name, each in thin.items()},
        xticks=ticks,
    )
    return figures.panels(by_layer, by_epoch)


def main(config: Config, run: Run) -> None:
    if config.network not in STAGES:
        raise UsageError(
            f"--network {config.network}: it is one of {', '.join(STAGES)}"
        )
    compared = stacks_of(config.convolutions)
    run.plan(1 + len(compared) * config.starts + len(COMPARED))
    costs = costs_by_layer(outline())
    judge_costs(costs, run)
    run.figure("costs", draw_costs(costs))
    stacks = look_at_stacks(run.seed)
    judge_stacks(stacks, run)
    run.figure("receptive_fields", draw_fields(stacks))

    task = architectures.load_task(config.data, run.seed, size=IMAGE_SIZE)
    linear = architectures.train(
        architectures.build_linear(task), task, run, epochs=config.epochs
    )
    trained = train_stacks(task, config, run)
    judge_accuracies(trained, linear, run)
    run.figure("accuracies", draw_accuracies(trained, stacks, linear))

    signals = follow_signals()
    thin = train_thin(task, config, run)
    judge_starts(signals, thin, run)
    run.figure("first_weights", draw_starts(signals, thin))

    small = trained[SMALL[config.convolutions - 1]][-1]
    timed = build_model(initializer="zeros") if config.batch_sizes else outline()
    architectures.report(
        run,
        trained={"linear": linear, "VGG-small": small},
        imagenet={"VGG-16": timed},
        batch_sizes=config.batch_sizes,
    )
    run.export(serving.classifier(small.model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
