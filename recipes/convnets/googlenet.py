"""GoogLeNet looks with filters of several sizes at once.

An Inception module gives the same maps to 1×1, 3×3 and 5×5 convolutions and to a pool,
and joins their outputs as channels. Naively that explodes: k²·C_in·C_out multiply-adds
at every place, and the pool hands on all C_in channels, so each module is deeper than
the last. A bottleneck of 1×1 convolutions before the large filters and after the pool
leaves C_r ≪ C_in channels: C_in·C_r + k²·C_r·C_out.
No dense layers at the end: the mean of each map, then one linear classifier. Two
auxiliary heads on the way there add 0.3 of their loss each, in training only.
Look at multiply-adds and channels module by module, at accuracy with and without
bottlenecks, and at what share of the early layers' gradient comes from each head.

Lectures: SEL CNN architectures; CS CNN Architectures
Paper: Szegedy et al., Going deeper with convolutions, 2014 (Table 1, Figures 2 and 3);
    batch norm as in Ioffe and Szegedy, Batch normalization, 2015
Tags: inception, bottleneck, auxiliary classifier, 1x1 convolution, cnn, imagenet
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import architectures, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos or textures (embedded), cifar10 where Keras can download
    or has cached it, or your own images: a folder with one subfolder a class, or an
    .npz file"""
    image_size: Annotated[int, Interval(ge=8, le=224)] = 32
    """side of the images in pixels"""
    modules: Literal[2, 3, 4, 9] = 4
    """Inception modules of the networks that are trained"""
    width: Annotated[float, Interval(gt=0, le=2)] = 0.125
    """their filters, as a share of GoogLeNet's"""
    epochs: int = 6
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 2e-2
    """of AdamW at the start; it falls to 0 along a cosine"""
    auxiliary_weight: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """of each auxiliary head's loss"""
    starts: int = 2
    """random starts of each network; accuracies are their means"""
    equal_cost: bool = True
    """trains a naive network of equal multiply-adds as well"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """images at once, for which milliseconds per image are measured; none: not at all"""


QUICK = Config(
    image_size=20, modules=2, epochs=2, starts=1, equal_cost=False, batch_sizes=()
)
FULL = Config(modules=9, width=0.25, epochs=40, starts=5)

# --------------------------------------------------------------------------------------
# The idea: filters of several sizes side by side, behind bottlenecks
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filters:
    """Of one Inception module, in the columns of the paper's Table 1."""

    one: int
    """1×1"""
    reduce_three: int
    """1×1 before the 3×3"""
    three: int
    """3×3"""
    reduce_five: int
    """1×1 before the 5×5"""
    five: int
    """5×5"""
    pool: int
    """1×1 after the pool"""


MODULES = {
    "3a": Filters(64, 96, 128, 16, 32, 32),
    "3b": Filters(128, 128, 192, 32, 96, 64),
    "4a": Filters(192, 96, 208, 16, 48, 64),
    "4b": Filters(160, 112, 224, 24, 64, 64),
    "4c": Filters(128, 128, 256, 24, 64, 64),
    "4d": Filters(112, 144, 288, 32, 64, 64),
    "4e": Filters(256, 160, 320, 32, 128, 128),
    "5a": Filters(256, 160, 320, 32, 128, 128),
    "5b": Filters(384, 192, 384, 48, 128, 128),
}
AUXILIARY = ("4a", "4d")  # modules that an auxiliary head reads


@keras.saving.register_keras_serializable(package="googlenet")
class LocalResponseNormalization(layers.Layer):
    """x / (1 + α/n · Σ x²)^β, the sum over n = 5 neighboring channels. It has no
    weights."""

    def call(self, x):
        # TensorFlow's α is the paper's α/n.
        return tf.nn.local_response_normalization(
            x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75
        )


def convolution(
    x,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    *,
    normalize: bool = False,
    kernel_initializer: str = "he_normal",
    name: str = "convolution",
):
    """Conv → ReLU. normalize: batch norm between them. Its β does what biases did, and
    a γ before a ReLU only what the next layer can do."""
    convolve = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=not normalize,
        kernel_initializer=kernel_initializer,
        name=name,
    )
    x = convolve(x)
    if normalize:
        norm = layers.BatchNormalization(momentum=0.9, scale=False, name=f"{name}_norm")
        x = norm(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def inception(
    x,
    filters: Filters,
    naive: bool = False,
    conv: Callable = convolution,
    name: str = "inception",
):
    """(batch, height, width, channels) → (batch, height, width, Σ of its branches).

    naive: the paper's Figure 2a, without the three bottlenecks.
    """
    one = conv(x, filters.one, 1, name=f"{name}_1x1")

    three = x if naive else conv(x, filters.reduce_three, 1, name=f"{name}_3x3_reduce")
    three = conv(three, filters.three, 3, name=f"{name}_3x3")

    five = x if naive else conv(x, filters.reduce_five, 1, name=f"{name}_5x5_reduce")
    five = conv(five, filters.five, 5, name=f"{name}_5x5")

    # Without a 1×1 convolution after it the pool hands on all channels that came in.
    pool = layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    if not naive:
        pool = conv(pool, filters.pool, 1, name=f"{name}_pool_1x1")
    return layers.Concatenate(name=f"{name}_join")([one, three, five, pool])


def stem(images, conv: Callable, width: float):
    """(batch, 224, 224, 3) → (batch, 28, 28, 192): three layers with weights."""
    x = conv(images, scaled(64, width), 7, strides=2, name="conv1")
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = conv(x, scaled(64, width), 1, name="conv2_reduce")
    x = conv(x, scaled(192, width), 3, name="conv2")
    x = LocalResponseNormalization(name="norm2")(x)
    return layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)


def small_stem(images, conv: Callable, width: float):
    """(batch, 32, 32, 3) → (batch, 16, 16, channels)."""
    x = conv(images, scaled(192, width), 3, name="conv1")
    return layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)


def auxiliary_head(
    x, classes: int, conv: Callable, width: float, small: bool, name: str
):
    """A classifier of its own on a module's maps. Returns (batch, classes) logits."""
    if small:  # for maps of any size
        x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    else:
        x = layers.AveragePooling2D(5, 3, name=f"{name}_pool")(x)
    x = conv(x, scaled(128, width), 1, name=f"{name}_conv")
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = layers.Dense(scaled(1024, width), "relu", name=f"{name}_dense")(x)
    x = layers.Dropout(0.7, name=f"{name}_dropout")(x)
    return layers.Dense(classes, name=f"{name}_logits")(x)


def scaled(filters: int, width: float) -> int:
    return max(1, round(width * filters))


def scale(filters: Filters, width: float) -> Filters:
    """At least one of each."""
    return Filters(*(scaled(count, width) for count in vars(filters).values()))


def build_model(
    image_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    modules: Sequence[str] = tuple(MODULES),
    width: float = 1.0,
    small: bool = False,
    naive: bool = False,
    auxiliary: bool = False,
    kernel_initializer: str = "he_normal",
    name: str = "googlenet",
) -> keras.Model:
    """GoogLeNet by Table 1: 6,998,552 weights, 22 layers with weights deep.

    modules: rows of the table, in its order; a pool stands before each new number.
    width: filters, as a share of the paper's.
    small: for images of 32 pixels or so, with batch norm, which learns in few epochs.
    naive: modules without bottlenecks. auxiliary: with a head at 4a and at 4d.

    Input: (batch, *image_shape) in [0, 1]. Output: (batch, classes) logits, or with
    auxiliary heads a list: these, then those of each head.
    """
    conv = partial(convolution, normalize=small, kernel_initializer=kernel_initializer)
    images = keras.Input(image_shape, name="images")
    x = small_stem(images, conv, width) if small else stem(images, conv, width)

    heads = []
    stage = modules[0][0]
    for module in modules:
        if module[0] != stage:
            x = layers.MaxPooling2D(3, 2, padding="same", name=f"pool{stage}")(x)
            stage = module[0]
        x = inception(x, scale(MODULES[module], width), naive, conv, name=module)
        if auxiliary and module in AUXILIARY:
            head = auxiliary_head(x, classes, conv, width, small, f"head_{module}")
            heads.append(head)

    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dropout(0.4, name="dropout")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, [logits, *heads] if heads else logits, name=name)


def without_heads(model: keras.Model) -> keras.Model:
    """What is used after training: the same layers, without the auxiliary heads."""
    return keras.Model(model.input, model.outputs[0], name=model.name)


def compile_with_heads(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, weight: float = 0.3
) -> None:
    """loss = loss of the logits + weight · (loss of each auxiliary head)."""
    heads = len(model.outputs) - 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=optimizer,
        loss=[loss] * (1 + heads),
        loss_weights=[1.0] + [weight] * heads,
    )


def depth(model: keras.Model) -> int:
    """Layers with weights (convolutional and dense) on the longest path of the
    graph."""
    depths: dict[int, int] = {}  # of each tensor between the layers
    for layer in model.layers:
        inputs = keras.tree.flatten(layer.input)
        before = max((depths[id(each)] for each in inputs), default=0)
        weighs = isinstance(layer, layers.Conv2D | layers.Dense)
        depths[id(layer.output)] = before + weighs
    return max(depths.values())


def trunk_layers(model: keras.Model) -> list[layers.Layer]:
    """Convolutions from the images to the last module, in the graph's order, without
    those of auxiliary heads."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, layers.Conv2D) and not layer.name.startswith("head")
    ]


def gradient_norms(
    model: keras.Model, images, labels, weight: float = 0.3
) -> np.ndarray:
    """How much of the gradient comes from where: the norm of each loss's own gradient,
    weighted as in training, by each convolution of the trunk.

    Returns (outputs, convolutions); 0 where a head lies before the convolution.
    """
    kernels = [layer.kernel for layer in trunk_layers(model)]
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(images, training=True)
        losses = []
        for i, logits in enumerate(outputs):
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, logits, from_logits=True
            )
            losses.append(ops.mean(loss) * (weight if i else 1.0))

    norms = np.zeros((len(losses), len(kernels)))
    for i, loss in enumerate(losses):
        gradients = tape.gradient(loss, kernels)
        for j, gradient in enumerate(gradients):
            if gradient is not None:
                norms[i, j] = tf.norm(gradient)
    return norms


# --------------------------------------------------------------------------------------
# The experiment: what bottlenecks save, what they cost, and who teaches early layers
# --------------------------------------------------------------------------------------

# A module that CS231n works out: 28 × 28 places, 256 channels come in.
EXAMPLE_SHAPE = (28, 28, 256)
EXAMPLE = Filters(128, 64, 192, 64, 96, 64)

ALEXNET_PARAMETERS = 60_965_224  # with its two groups
PAPER_MULTIPLY_ADDS = 1.502e9  # the sum of Table 1's column

MEASURED_BATCHES = 4  # over which gradient norms are averaged

# Rows of Table 1 that the networks are made of which are trained here.
SMALL_MODULES = {
    2: ("4a", "5a"),
    3: ("3a", "4a", "5a"),
    4: ("3a", "4a", "4d", "5a"),
    9: tuple(MODULES),
}

NAIVE = "naive"
EQUAL_COST = "naive, equal cost"
BOTTLENECK = "bottleneck"
HEADS = "with auxiliary heads"
LINEAR = "linear"

GLOROT = "GoogLeNet, Glorot's first weights"
HE = "GoogLeNet, He's first weights"
AFTER = "small form, trained"
LOOKS = {
    "logits": {"color": figures.COLORS[0], "label": "logits"},
    "head at 4a": {"color": figures.COLORS[1], "hatch": "//", "label": "head at 4a"},
    "head at 4d": {"color": figures.COLORS[4], "hatch": "..", "label": "head at 4d"},
}


def build_example(naive: bool) -> keras.Model:
    maps = keras.Input(EXAMPLE_SHAPE)
    return keras.Model(maps, inception(maps, EXAMPLE, naive))


def judge_example(run: Run) -> None:
    naive = build_example(naive=True)
    bottleneck = build_example(naive=False)
    before = architectures.multiply_adds(naive)
    after = architectures.multiply_adds(bottleneck)
    run.metrics("example_multiply_adds", {"naive": before, "bottleneck": after})
    three = bottleneck.get_layer("inception_3x3")
    of_three = architectures.multiply_adds(keras.Model(three.input, three.output))
    run.claim(
        "CS231n's module costs 854 M multiply-adds naively, and hands on 672 channels "
        "for 256; with bottlenecks of 64 it hands on 480 for less than a third (the "
        "course's 358 M have the 3×3 twice)",
        holds=naive.output.shape[-1] == 672
        and bottleneck.output.shape[-1] == 480
        and round(before / 1e6) == 854
        and 3 * after < before
        and round((after + of_three) / 1e6) == 358,
        measured=f"naive {before / 1e6:.1f} M, {naive.output.shape[-1]} channels; "
        f"bottleneck {after / 1e6:.1f} M, {bottleneck.output.shape[-1]} channels, of it "
        f"the 3×3 {of_three / 1e6:.1f} M",
        any_data=True,
    )


@dataclass
class Growth:
    """Of a network, module by module."""

    multiply_adds: list[int]
    channels: list[int]
    """that the module hands on"""


def growth(model: keras.Model) -> Growth:
    """Read off the graph: each module is a model of what comes in and what goes out."""
    found = Growth([], [])
    for name in MODULES:
        maps = model.get_layer(f"{name}_1x1").input
        joined = model.get_layer(f"{name}_join").output
        module = keras.Model(maps, joined)
        found.multiply_adds.append(architectures.multiply_adds(module))
        found.channels.append(joined.shape[-1])
    return found


def judge_size(googlenet: keras.Model, run: Run) -> None:
    cost = architectures.cost(googlenet)
    layers_deep = depth(googlenet)
    fewer = ALEXNET_PARAMETERS / cost.parameters
    run.metric("times_fewer_parameters_than_alexnet", fewer)
    run.claim(
        "GoogLeNet has 22 layers with weights and 7 M parameters: 8.7 times fewer than "
        "AlexNet's 61 M by count, where the paper and the course say 12 times",
        holds=cost.parameters == 6_998_552 and layers_deep == 22 and 8.7 < fewer < 8.8,
        measured=f"{layers_deep} layers on the longest path; {cost.parameters:,} "
        f"parameters, {fewer:.2f} times fewer than {ALEXNET_PARAMETERS:,}; "
        f"{cost.multiply_adds / 1e9:.2f} G multiply-adds (the paper's column adds up to "
        f"{PAPER_MULTIPLY_ADDS / 1e9:.2f} G)",
        any_data=True,
    )


def judge_growth(googlenet: keras.Model, run: Run) -> None:
    # Only counted: 97 million random numbers would take their time.
    naive = build_model(naive=True, kernel_initializer="zeros", name="naive")
    of = {"bottleneck": growth(googlenet), "naive": growth(naive)}
    weights = {"bottleneck": googlenet.count_params(), "naive": naive.count_params()}
    of_all = {
        "bottleneck": architectures.multiply_adds(googlenet),
        "naive": architectures.multiply_adds(naive),
    }
    saved = of_all["naive"] / of_all["bottleneck"]
    run.metric("times_fewer_multiply_adds_by_bottlenecks", saved)
    products = {name: sum(each.multiply_adds) for name, each in of.items()}
    channels = {name: each.channels[-1] for name, each in of.items()}
    run.metrics("multiply_adds_of_nine_modules", products)
    run.claim(
        "Without bottlenecks the pool hands on all that comes in: channels pile up "
        "module by module, and with them the multiply-adds of all later ones, 10 times "
        "as many in all",
        holds=products["naive"] > 10 * products["bottleneck"]
        and channels["naive"] > 4 * channels["bottleneck"],
        measured="; ".join(
            f"{name} {products[name] / 1e9:.2f} G in nine modules, {channels[name]:,} "
            f"channels after the last, {weights[name]:,} parameters of the network"
            for name in of
        ),
        any_data=True,
    )
    run.figure("growth", draw_growth(of))


def draw_growth(of: dict[str, Growth]) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2))
    places = np.arange(len(MODULES))
    for i, (name, found) in enumerate(of.items()):
        left.bar(
            places + 0.4 * (i - 0.5),
            np.array(found.multiply_adds) / 1e6,
            width=0.4,
            color=figures.COLORS[i],
            hatch=("", "//")[i],
            edgecolor="white",
            label=name,
        )
        right.plot(
            places,
            found.channels,
            color=figures.COLORS[i],
            marker=figures.MARKERS[i],
            label=name,
        )
    left.set(title="What each module costs", ylabel="multiply-adds (millions)")
    right.set(title="What each module hands on", ylabel="channels", ylim=(0, None))
    for axes in (left, right):
        axes.set_xticks(places, list(MODULES))
        axes.set_xlabel("module of GoogLeNet")
        axes.legend()
    return figure


def build_small(
    task: architectures.Task, config: Config, **options
) -> Callable[..., keras.Model]:
    """Builds networks for the task."""
    return partial(
        build_model,
        task.image_shape,
        task.classes,
        modules=SMALL_MODULES[config.modules],
        width=config.width,
        small=True,
        **options,
    )


def ways_to_build(
    task: architectures.Task, config: Config
) -> dict[str, Callable[[], keras.Model]]:
    bottleneck = build_small(task, config, name="bottleneck")
    naive = build_small(task, config, naive=True, name="naive")
    ways = {BOTTLENECK: bottleneck, NAIVE: naive}
    if config.equal_cost:
        affordable = architectures.multiply_adds(bottleneck())
        width = affordable_width(naive, config.width, affordable)
        ways[EQUAL_COST] = partial(naive, width=width, name="naive_equal_cost")
    return ways | {LINEAR: partial(architectures.build_linear, task)}


def affordable_width(build: Callable, width: float, multiply_adds: int) -> float:
    """The width, below one that is too wide, at which a network costs nearly, and at
    most, so many multiply-adds. One filter of each kind costs what it costs."""
    cost = architectures.multiply_adds(build(width=width))
    # The cost of most layers grows with the square of the width.
    width *= math.sqrt(multiply_adds / cost)
    while width > 1e-3:
        if architectures.multiply_adds(build(width=width)) <= multiply_adds:
            break
        width *= 0.97
    return width


def train(
    build: Callable, task: architectures.Task, config: Config, run: Run
) -> list[architectures.Trained]:
    """From several starts."""
    return architectures.train_starts(
        build,
        config.starts,
        task,
        run,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )


@dataclass
class Reach:
    """Which losses reach which convolutions of a network with auxiliary heads."""

    modules: Sequence[str]
    names: list[str]
    """of the convolutions"""
    norms: np.ndarray
    """of gradients, (starts, outputs, convolutions)"""

    @property
    def parts(self) -> list[str]:
        return ["conv1", *self.modules]

    @property
    def losses(self) -> list[str]:
        read = [module for module in self.modules if module in AUXILIARY]
        return ["logits", *(f"head at {module}" for module in read)]

    def shares(self, part: str) -> np.ndarray:
        """Of each loss in the sum of their gradients' norms, (outputs,): means of the
        starts. part: what the convolutions' names begin with."""
        chosen = [name.startswith(part) for name in self.names]
        of_part = np.linalg.norm(self.norms[..., chosen], axis=-1)
        # A dead network has no gradient at all.
        of_part /= np.maximum(of_part.sum(axis=-1, keepdims=True), 1e-30)
        return of_part.mean(axis=0)

    def from_heads(self) -> float:
        """Share of the auxiliary heads in what reaches the first layer."""
        return float(self.shares("conv1")[1:].sum())


def reach_at_first(model: keras.Model, run: Run) -> Reach:
    """Of a network of the paper's size before training, on two photographs."""
    random = np.random.default_rng(run.seed)
    photos = data.load_photos(224)
    chosen = random.choice(len(photos), 2, replace=False)
    labels = random.integers(1000, size=2)
    norms = gradient_norms(model, photos[chosen], labels)
    names = [layer.name for layer in trunk_layers(model)]
    return Reach(list(MODULES), names, norms[np.newaxis])


def train_with_heads(
    build: Callable, task: architectures.Task, config: Config, run: Run
) -> tuple[list[architectures.Trained], Reach]:
    """As `train`, but by the sum of the losses. The networks are returned without their
    heads, as they are used; gradients are those after training."""
    trained = []
    norms = []
    for _ in range(config.starts):
        model = build()
        trained.append(fit_with_heads(model, task, config, run))
        norms.append(mean_norms(model, task, config, run))
    names = [layer.name for layer in trunk_layers(model)]
    return trained, Reach(SMALL_MODULES[config.modules], names, np.array(norms))


def fit_with_heads(
    model: keras.Model, task: architectures.Task, config: Config, run: Run
) -> architectures.Trained:
    x, y = task.train
    steps = config.epochs * math.ceil(len(x) / config.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.0)
    compile_with_heads(model, optimizer, config.auxiliary_weight)
    begin = time.perf_counter()
    history = training.fit(
        model,
        x,
        (y,) * len(model.outputs),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    used = without_heads(model)
    return architectures.Trained(
        model=used,
        losses=history.history["loss"],
        train_accuracy=architectures.accuracy(used, *task.train),
        validation=architectures.accuracy(used, *task.valid),
        test=architectures.accuracy(used, *task.test),
        seconds=time.perf_counter() - begin,
    )


def mean_norms(
    model: keras.Model, task: architectures.Task, config: Config, run: Run
) -> np.ndarray:
    """Of a few batches to train on; the moving averages stay as they are."""
    random = np.random.default_rng(run.seed)
    kept = model.get_weights()
    x, y = task.train
    found = []
    for _ in range(MEASURED_BATCHES):
        batch = random.integers(len(x), size=config.batch_size)
        found.append(gradient_norms(model, x[batch], y[batch], config.auxiliary_weight))
    model.set_weights(kept)
    return np.mean(found, axis=0)


def accuracies(results: dict[str, list[architectures.Trained]]) -> dict[str, float]:
    """On test images, means of the starts."""
    return {
        name: float(np.mean([each.test for each in trained]))
        for name, trained in results.items()
    }


def judge_accuracy(
    results: dict[str, list[architectures.Trained]], config: Config, run: Run
) -> None:
    tests = accuracies(results)
    costs = {
        name: architectures.multiply_adds(trained[0].model)
        for name, trained in results.items()
    }
    run.compare(
        "Inception modules with bottlenecks classify far better than a linear classifier",
        {name: tests[name] for name in (BOTTLENECK, LINEAR)},
        more=BOTTLENECK,
        less=LINEAR,
        by=0.1,
    )
    run.claim(
        "Bottlenecks cost little or no accuracy at equal training: within 10 points of "
        "a naive network of at least 2.5 times the multiply-adds",
        holds=tests[BOTTLENECK] > tests[NAIVE] - 0.1
        and costs[NAIVE] > 2.5 * costs[BOTTLENECK],
        measured=", ".join(
            f"{name} {tests[name]:.1%} by {costs[name] / 1e6:.2f} M"
            for name in (BOTTLENECK, NAIVE)
        ),
    )
    if config.equal_cost:
        run.claim(
            "At equal multiply-adds they lose nothing either: at most 8 points below a "
            "naive network of fewer filters (that they win shows in some runs only)",
            holds=tests[BOTTLENECK] > tests[EQUAL_COST] - 0.08,
            measured=", ".join(
                f"{name} {tests[name]:.1%} by {costs[name] / 1e6:.2f} M"
                for name in (BOTTLENECK, EQUAL_COST)
            ),
        )
    run.claim(
        "Auxiliary heads change accuracy little here, within 10 points either way (the "
        "paper: half a point better)",
        holds=abs(tests[HEADS] - tests[BOTTLENECK]) < 0.1,
        measured=", ".join(f"{name} {tests[name]:.1%}" for name in (HEADS, BOTTLENECK)),
    )


def judge_reach(reach: dict[str, Reach], run: Run) -> None:
    from_heads = {name: found.from_heads() for name, found in reach.items()}
    short = {GLOROT: "glorot", HE: "he", AFTER: "trained"}
    by_name = {short[name]: share for name, share in from_heads.items()}
    run.metrics("share_of_heads_in_first_gradient", by_name)
    run.claim(
        "Auxiliary heads feed early layers where the last loss fades on its way down: "
        "with Glorot's first weights most of the first layer's gradient is theirs, "
        "with He's less, and so it is after training with batch norm",
        holds=from_heads[GLOROT] > 0.6
        and from_heads[HE] < from_heads[GLOROT] - 0.1
        and from_heads[AFTER] < from_heads[GLOROT] - 0.1,
        measured="share of the heads in the norms at the first convolution: "
        + ", ".join(f"{name} {share:.0%}" for name, share in from_heads.items()),
    )


def draw_reach(reach: dict[str, Reach]) -> plt.Figure:
    figure, grid = plt.subplots(
        1,
        len(reach),
        figsize=(13, 4.4),
        sharey=True,
        width_ratios=[2 + len(each.parts) for each in reach.values()],
    )
    for axes, (name, found) in zip(grid, reach.items(), strict=True):
        shares = np.array([found.shares(part) for part in found.parts])
        below = np.zeros(len(shares))
        for loss, of_parts in zip(found.losses, shares.T, strict=True):
            look = LOOKS[loss]
            axes.bar(found.parts, of_parts, bottom=below, edgecolor="white", **look)
            below += of_parts
        axes.set(title=name, xlabel="first layer, then the modules")
        axes.grid(visible=False)
    grid[0].set_ylabel("share of the gradient's norm")
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle("Whose loss reaches which layers")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan((4 + config.equal_cost) * config.starts)
    task = architectures.load_task(config.data, run.seed, size=config.image_size)
    with_heads = build_model(auxiliary=True)
    googlenet = without_heads(with_heads)
    judge_growth(googlenet, run)
    judge_size(googlenet, run)
    judge_example(run)

    glorot = build_model(auxiliary=True, kernel_initializer="glorot_uniform")
    reach = {
        GLOROT: reach_at_first(glorot, run),
        HE: reach_at_first(with_heads, run),
    }

    ways = ways_to_build(task, config)
    results = {name: train(build, task, config, run) for name, build in ways.items()}
    heads = build_small(task, config, auxiliary=True, name="with_heads")
    results[HEADS], reach[AFTER] = train_with_heads(heads, task, config, run)
    judge_accuracy(results, config, run)
    judge_reach(reach, run)
    run.figure("reach", draw_reach(reach))

    tests = accuracies(results)
    architectures.report(
        run,
        trained={
            name: replace(trained[0], test=tests[name])
            for name, trained in results.items()
        },
        imagenet={"GoogLeNet": googlenet},
        batch_sizes=config.batch_sizes,
    )
    model = results[HEADS][0].model
    run.export(serving.classifier(model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
