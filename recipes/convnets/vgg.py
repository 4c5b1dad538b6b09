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

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import architectures, data, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos, textures, digits (embedded), cifar10 where Keras can
    download or has cached it, or your own images: a folder with one subfolder a class,
    or an .npz file"""
    filters: int = 16
    """of each convolution, where stacks are compared"""
    epochs: int = 8
    """passes over the training images"""
    starts: int = 2
    """random starts of each network; accuracies are their means"""


QUICK = Config(filters=8, epochs=3, starts=1)
FULL = Config(filters=32, epochs=30, starts=5)

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
    initializer: str | keras.initializers.Initializer = "he_normal",
    scale: float = 1.0,
    offset: float = 0.0,
    name: str = "vgg",
) -> keras.Model:
    """((Conv → ReLU) * N → Pool) * 5 → (Dense → ReLU → Dropout) * 2 → Dense.

    stages: the kernel sizes of each stage's convolutions. filters: one number a stage.
    Input: (batch, *image_shape). Output: (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    x = layers.Rescaling(scale, offset)(images)
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
DROPOUT = 0.2
LEARNING_RATE = 2e-3
BATCH_SIZE = 64

# By name: what the second and third stage stack, all of it from C channels to C. The
# first stage is one 3×3 for all, as its channels are the picture's three.
STACKS = {
    "one 3×3": (3,),
    "two 3×3": (3, 3),
    "one 5×5": (5,),
    "three 3×3": (3, 3, 3),
    "one 7×7": (7,),
}
PAIRS = {"two 3×3": "one 5×5", "three 3×3": "one 7×7"}  # see equally much

# VGG-16's own stages on small pictures, its filters and units thinned out.
THIN_FILTERS = (8, 16, 32, 64, 64)
INITIALIZERS = {
    "He": "he_normal",
    "Glorot": "glorot_normal",
    "N(0, 0.01²)": keras.initializers.RandomNormal(stddev=0.01),
}
TRAINED_INITIALIZERS = ("He", "N(0, 0.01²)")
SIGNAL_SIZE = 112  # pixels across the pictures whose signal is followed


def judge_costs(costs: dict[str, Cost], run: Run) -> None:
    """costs: VGG-16's, by layer."""
    weights = sum(cost.weights for cost in costs.values())
    products = sum(cost.multiply_adds for cost in costs.values())
    dense_weights = sum(cost.weights for cost in costs.values() if cost.kind == "dense")
    convolution_products = sum(
        cost.multiply_adds for cost in costs.values() if cost.kind == "convolution"
    )
    early = sum(
        cost.activations
        for name, cost in costs.items()
        if name.startswith(("conv 1", "conv 2"))
    )
    activations = sum(cost.activations for cost in costs.values())
    run.claim(
        "Of VGG-16's weights nine tenths lie in the dense layers, of its multiplications "
        "99 % in the convolutions, of its activations most in the first two stages",
        holds=weights == 138_357_544
        and len(costs) == 16
        and dense_weights > 0.89 * weights
        and convolution_products > 0.99 * products
        and early > 0.6 * activations,
        measured=f"{dense_weights:,} of {weights:,} weights in {len(costs)} layers, "
        f"{convolution_products / 1e9:.2f} of {products / 1e9:.2f}·10⁹ multiply-adds, "
        f"{early / 1e6:.1f} of {activations / 1e6:.1f}·10⁶ activations",
        any_data=True,
    )


@dataclass
class Stack:
    """Convolutions of C channels, on random maps."""

    weights: int
    """without biases"""
    multiply_adds: int
    """for one image"""
    seen: np.ndarray
    """size of the gradient by pixel, (height, width)"""

    @property
    def width(self) -> int:
        """Pixels across with a gradient: the receptive field."""
        columns = np.flatnonzero(self.seen.any(axis=0))
        return int(np.ptp(columns)) + 1 if len(columns) else 0


def look_at_stacks(config: Config, run: Run) -> dict[str, Stack]:
    maps = np.random.default_rng(run.seed).normal(size=(64, 15, 15, config.filters))
    found = {}
    for name, kernel_sizes in STACKS.items():
        model = build_stack(kernel_sizes, maps.shape[1:])
        convolutions = model.layers[1:]
        found[name] = Stack(
            sum(math.prod(layer.kernel.shape) for layer in convolutions),
            sum(architectures.multiply_adds(layer) for layer in convolutions),
            pixels_seen(model, maps),
        )
    return found


def judge_stacks(stacks: dict[str, Stack], run: Run) -> None:
    shares = {}
    for small, large in PAIRS.items():
        of_weights = stacks[small].weights / stacks[large].weights
        of_products = stacks[small].multiply_adds / stacks[large].multiply_adds
        shares[small] = (of_weights, of_products)
    run.claim(
        "Two 3×3 see what a 5×5 sees, three what a 7×7 sees, with 18/25 and 27/49 of the "
        "weights and multiply-adds",
        holds=all(
            stacks[small].width == stacks[large].width for small, large in PAIRS.items()
        )
        and np.allclose(shares["two 3×3"], 18 / 25)
        and np.allclose(shares["three 3×3"], 27 / 49),
        measured="pixels across by the gradient "
        + ", ".join(f"{name} {stack.width}" for name, stack in stacks.items())
        + "; "
        + ", ".join(
            f"{name} {weights:.3f} of the weights, {products:.3f} of the multiply-adds"
            for name, (weights, products) in shares.items()
        ),
        any_data=True,
    )


def train(task, run: Run, epochs: int, **arguments):
    """A network of `build_model`, its arguments besides those that all have alike."""
    model = build_model(
        image_shape=task.image_shape,
        classes=len(task.classes),
        units=UNITS,
        dropout=DROPOUT,
        **arguments,
    )
    return architectures.train(
        model,
        task,
        run,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
    )


def train_stacks(task, config: Config, run: Run) -> dict[str, list]:
    """Each stack from several starts: what `architectures.train` found."""
    found = {}
    for name, kernel_sizes in STACKS.items():
        found[name] = [
            train(
                task,
                run,
                config.epochs,
                stages=((3,), kernel_sizes, kernel_sizes),
                filters=(config.filters,) * 3,
                name=name.replace(" ", "-").replace("×", "x"),
            )
            for _ in range(config.starts)
        ]
    return found


def judge_accuracies(trained: dict[str, list], linear: float, run: Run) -> None:
    tests = {
        name: float(np.mean([each.test for each in found]))
        for name, found in trained.items()
    }
    run.metrics("test_accuracy", tests)
    print(tests, {k: np.mean([e.losses[-1] for e in v]) for k, v in trained.items()})


def train_thin(task, config: Config, run: Run) -> dict[str, list]:
    """VGG-16 with few filters, from first weights of each kind."""
    found = {}
    for name in TRAINED_INITIALIZERS:
        found[name] = train(
            task,
            run,
            config.epochs,
            stages=STAGES["VGG-16"],
            filters=THIN_FILTERS,
            initializer=INITIALIZERS[name],
            name="vgg-16-thin",
        )
    return found


def follow_signals(run: Run) -> dict[str, np.ndarray]:
    """Through VGG-16 with the paper's filters, by kind of its first weights."""
    photos = data.load_photos(SIGNAL_SIZE)[:2]
    images = (photos - photos.mean()) / photos.std()
    found = {}
    for name, initializer in INITIALIZERS.items():
        model = build_model(image_shape=images.shape[1:], initializer=initializer)
        found[name] = signal_by_layer(model, images)
    return found


def judge_starts(signals, thin, task, run: Run) -> None:
    print({k: v.round(4) for k, v in signals.items()})
    print({k: (v.losses, v.test) for k, v in thin.items()})


def draw_costs(costs: dict[str, Cost]) -> plt.Figure:
    shown = []
    for title, unit, field in (
        ("Weights", 1e6, "weights"),
        ("Multiply-adds", 1e9, "multiply_adds"),
        ("Activations", 1e6, "activations"),
    ):
        values = {name: getattr(cost, field) / unit for name, cost in costs.items()}
        panel = figures.Panel(title=title, xlabel=f"{unit:g}", bars=values)
        shown.append(panel)
    return figures.panels(*shown, title="VGG-16, by layer")


def draw_fields(stacks: dict[str, Stack]) -> plt.Figure:
    figure, grid = plt.subplots(1, len(stacks), figsize=(14, 3.4), sharey=True)
    for axes, (name, stack) in zip(grid, stacks.items(), strict=True):
        drawn = axes.imshow(stack.seen / stack.seen.max(), vmin=0, vmax=1)
        axes.set(title=f"{name}: {stack.width} across", xlabel="column")
        axes.set(xticks=range(0, 15, 7), yticks=range(0, 15, 7))
        axes.grid(visible=False)
    grid[0].set_ylabel("row")
    figure.colorbar(drawn, ax=grid, label="gradient, of its largest")
    figure.suptitle("Pixels on which an output in the middle depends")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(STACKS) * config.starts + len(TRAINED_INITIALIZERS) + 1)
    costs = costs_by_layer(outline())
    judge_costs(costs, run)
    run.figure("costs", draw_costs(costs))
    stacks = look_at_stacks(config, run)
    judge_stacks(stacks, run)
    run.figure("receptive_fields", draw_fields(stacks))

    task = architectures.load_task(config.data, run.seed, size=IMAGE_SIZE)
    linear = architectures.train(
        architectures.build_linear(task), task, run, epochs=config.epochs
    )
    trained = train_stacks(task, config, run)
    judge_accuracies(trained, linear.test, run)
    thin = train_thin(task, config, run)
    signals = follow_signals(run)
    judge_starts(signals, thin, task, run)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
