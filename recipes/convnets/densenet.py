"""DenseNet: every layer reads what all layers before it wrote.

A residual layer adds what it finds to what was there. A dense layer puts its few maps
beside it, k of them, the growth rate, so that nothing is overwritten and each layer of
a block reads all that came before:

    x_ℓ = H_ℓ([x_0, x_1, ..., x_{ℓ−1}])        H = Conv 3×3 · ReLU · BN

As layers find there what others have found already, they can be narrow: k is 12 or 32.
A bottleneck (B) of 4k maps by 1×1 filters comes before the 3×3 filters, and transition
layers between the blocks keep a share θ of the maps (C) and halve the picture.
Look at accuracy by number of weights beside a residual net, at who reads whom inside a
block, and at the price: the concatenations fill the memory.

Lectures: CS CNN Architectures (DenseNet)
Paper: Huang et al., Densely connected convolutional networks, 2016 (equation 2, tables
    1 and 2, figures 4 and 5)
Tags: dense block, feature reuse, growth rate, bottleneck, concatenation, skip
    connections, cnn
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval, Len
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import architectures, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos, textures (embedded, in color) or any other name of
    images; or your own: a folder with one subfolder a class, or an .npz file"""
    growth_rates: Annotated[tuple[int, ...], Len(min_length=1)] = (4, 8)
    """k of the dense networks, maps that each layer adds"""
    widths: Annotated[tuple[int, ...], Len(min_length=1)] = (6, 10)
    """maps of the residual networks' first stage; each of the next two has twice as
    many as the one before"""
    layers_of_a_block: Annotated[int, Interval(ge=1, le=40)] = 3
    """dense layers in each of three blocks, of two convolutions each; a residual stage
    has as many blocks, of two convolutions each"""
    starts: int = 2
    """trainings of each network; accuracies are their means"""
    epochs: int = 7
    """passes over the training images"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """at which the milliseconds of the table are measured"""
    imagenet: bool = True
    """have DenseNet-121 in the table as well"""


QUICK = Config(
    data="textures",
    growth_rates=(8,),
    widths=(10,),
    layers_of_a_block=2,
    starts=1,
    epochs=3,
    batch_sizes=(),
    imagenet=False,
)
FULL = Config(growth_rates=(4, 8, 12, 24), widths=(6, 10, 18, 36), starts=3, epochs=40)

# --------------------------------------------------------------------------------------
# The idea: put new maps beside the old ones
# --------------------------------------------------------------------------------------

EPSILON = 1.001e-5  # that of keras.applications
# Of the moving averages, so that they are there after a few hundred steps.
MOMENTUM = 0.9


def normalize(x, name: str):
    """BN → ReLU."""
    x = layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_bn"
    )(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def convolution(x, filters: int, kernel_size: int, name: str, **options):
    # Without a bias: the next normalization would take it away.
    layer = layers.Conv2D(
        filters,
        kernel_size,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
        **options,
    )
    return layer(x)


def dense_layer(x, growth_rate: int, bottleneck: bool, name: str):
    """x: all maps so far, (batch, height, width, maps). Returns these and behind them k
    new ones."""
    new = x
    if bottleneck:
        new = normalize(new, f"{name}_1")
        new = convolution(new, 4 * growth_rate, 1, f"{name}_1")
    new = normalize(new, f"{name}_2")
    new = convolution(new, growth_rate, 3, f"{name}_2", padding="same")
    return layers.Concatenate(name=name)([x, new])


def dense_block(x, depth: int, growth_rate: int, bottleneck: bool, name: str):
    for index in range(1, depth + 1):
        x = dense_layer(x, growth_rate, bottleneck, f"{name}_layer{index}")
    return x


def transition(x, compression: float, name: str):
    """Keeps the share θ of the maps, and every second place each way."""
    filters = int(compression * x.shape[-1])
    x = convolution(normalize(x, name), filters, 1, name)
    return layers.AveragePooling2D(2, name=f"{name}_pool")(x)


BLOCKS = {  # table 1: dense layers in each block; k is 32
    "DenseNet-121": (6, 12, 24, 16),
    "DenseNet-169": (6, 12, 32, 32),
    "DenseNet-201": (6, 12, 48, 32),
}


def build_model(
    blocks: Sequence[int] = BLOCKS["DenseNet-121"],
    growth_rate: int = 32,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    bottleneck: bool = True,
    compression: float = 0.5,
    stem: str = "imagenet",
    name: str = "densenet",
) -> keras.Model:
    """DenseNet-BC. blocks: dense layers in each.

    stem: "imagenet" (7×7 filters and a pool, a quarter of the places each way are
        left), "small" (3×3 filters, half of them) or "cifar" (3×3 filters, all).

    Input: (batch, *image_shape) in [0, 1]. Output: (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    x = build_stem(images, stem, first_maps(growth_rate, bottleneck))
    for index, depth in enumerate(blocks, start=1):
        if index > 1:
            x = transition(x, compression, f"transition{index - 1}")
        x = dense_block(x, depth, growth_rate, bottleneck, f"block{index}")
    x = normalize(x, "last")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=name)


def first_maps(growth_rate: int, bottleneck: bool) -> int:
    """2k, or 16 without bottlenecks (sections 3 and 4)."""
    return 2 * growth_rate if bottleneck else 16


def build_stem(images, kind: str, filters: int):
    if kind == "imagenet":
        x = layers.ZeroPadding2D(3, name="stem_pad")(images)
        x = convolution(x, filters, 7, "stem", strides=2)
        x = normalize(x, "stem")
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        return layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    strides = {"small": 2, "cifar": 1}[kind]
    return convolution(images, filters, 3, "stem", strides=strides, padding="same")


def build_cifar(depth: int, growth_rate: int, bottleneck: bool) -> keras.Model:
    """The networks of table 2, for CIFAR-10, with L weight layers: with bottlenecks
    (BC) they have compression as well."""
    of_a_layer = 2 if bottleneck else 1
    blocks = [(depth - 4) // (3 * of_a_layer)] * 3
    return build_model(
        blocks,
        growth_rate,
        (32, 32, 3),
        classes=10,
        bottleneck=bottleneck,
        compression=0.5 if bottleneck else 1.0,
        stem="cifar",
        name=f"densenet_{depth}_{growth_rate}",
    )


def readers_of(model: keras.Model, block: int) -> list[tuple[layers.Layer, ...]]:
    """The layers that read a block's maps, one after the other: those of the block, and
    what follows it, a transition or the classifier. Of each its normalization, and what
    has the weights."""
    depth = sum(f"block{block}_layer" in each.name for each in concatenations(model))
    names = [f"block{block}_layer{index}_1" for index in range(1, depth + 1)]
    pairs = [(f"{name}_bn", f"{name}_conv") for name in names]
    transition_name = f"transition{block}"
    if any(layer.name == f"{transition_name}_conv" for layer in model.layers):
        pairs.append((f"{transition_name}_bn", f"{transition_name}_conv"))
    else:
        pairs.append(("last_bn", "logits"))
    return [tuple(map(model.get_layer, pair)) for pair in pairs]


def reading_weights(model: keras.Model, block: int) -> np.ndarray:
    """How strongly each layer of a block reads each of its sources: the mean size of
    the weights of its first convolution on the source's maps (figure 5), times the size
    of γ, as the maps are normalized before.

    Returns (sources, readers): sources are the block's input and its layers; readers
    its layers, and what follows the block. What comes after a reader is NaN.
    """
    readers = readers_of(model, block)
    weights = np.full((len(readers), len(readers)), np.nan)
    for reader, (normalization, layer) in enumerate(readers):
        gamma = np.abs(normalization.gamma.numpy())
        kernel = np.abs(layer.kernel.numpy())
        by_map = gamma * kernel.reshape(len(gamma), -1).mean(axis=1)
        for source, maps in enumerate(maps_of_sources(model, block, reader)):
            weights[source, reader] = by_map[maps].mean()
    return weights


def losses_without(model: keras.Model, block: int, loss: Callable) -> np.ndarray:
    """What the network loses where one reader no longer gets one source: loss(model)
    while these weights are 0. (sources, readers), as of `reading_weights`."""
    readers = readers_of(model, block)
    losses = np.full((len(readers), len(readers)), np.nan)
    for reader, (_, layer) in enumerate(readers):
        kernel = layer.kernel.numpy()
        for source, maps in enumerate(maps_of_sources(model, block, reader)):
            without = kernel.copy()
            without[..., maps, :] = 0
            layer.kernel.assign(without)
            losses[source, reader] = loss(model)
        layer.kernel.assign(kernel)
    return losses


def concatenations(model: keras.Model) -> list[layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, layers.Concatenate)]


def maps_of_sources(model: keras.Model, block: int, before: int) -> list[slice]:
    """Where the maps of a block's input and of its first `before` layers stand among
    those that the next one reads."""
    first = model.get_layer(f"block{block}_layer1")
    maps_before, maps_made = first.input
    old = maps_before.shape[-1]
    new = maps_made.shape[-1]
    ends = [old + new * layer for layer in range(before + 1)]
    return [slice(0, old)] + [
        slice(begin, end) for begin, end in zip(ends[:-1], ends[1:], strict=True)
    ]


# --------------------------------------------------------------------------------------
# The experiment: beside a residual net, who reads whom, and the memory
# --------------------------------------------------------------------------------------


def residual_block(x, filters: int, strides: int, name: str):
    """Pre-activation, two 3×3 convolutions; the shortcut is 1×1 where shapes differ."""
    new = normalize(x, f"{name}_1")
    new = convolution(new, filters, 3, f"{name}_1", strides=strides, padding="same")
    new = normalize(new, f"{name}_2")
    new = convolution(new, filters, 3, f"{name}_2", padding="same")
    if strides > 1:
        x = convolution(x, filters, 1, f"{name}_shortcut", strides=strides)
    return layers.Add(name=name)([x, new])


def build_residual(
    depth: int, width: int, image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """The rival: three stages of so many blocks, with the stem and the end of the dense
    network."""
    images = keras.Input(image_shape, name="images")
    x = build_stem(images, "small", width)
    for stage in range(3):
        for block in range(depth):
            strides = 2 if stage and not block else 1
            x = residual_block(x, width * 2**stage, strides, f"stage{stage}_{block}")
    x = normalize(x, "last")
    x = layers.GlobalAveragePooling2D(name="features")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="residual")


PARAMETERS_121 = 7_978_856  # trainable, of DenseNet-121
SIZE = 32
LEARNING_RATE = 4e-3
CLOSE = 0.05  # of accuracy, which two networks may differ by and count as alike
TRAININGS = 4  # of each kind that a comparison takes
PICTURES_TO_CUT_BY = 200
MOST_TO_WRITE = 8  # sources of a block, whose numbers have room in its picture


@dataclass
class Result:
    """Of one network from several starts."""

    last: architectures.Trained
    """of the last start"""
    tests: list[float]
    """accuracies on images to report"""

    @property
    def weights(self) -> int:
        return architectures.cost(self.last.model).parameters

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.tests))


def train_networks(task, config: Config, run: Run) -> dict[str, Result]:
    depth = config.layers_of_a_block
    builders = {"linear": partial(architectures.build_linear, task)}
    for rate in sorted(config.growth_rates):
        builders[f"dense, k = {rate}"] = partial(
            build_model,
            [depth] * 3,
            rate,
            task.image_shape,
            task.classes,
            stem="small",
            name=f"dense_{rate}",
        )
    for width in sorted(config.widths):
        builders[f"residual, {width} maps"] = partial(
            build_residual, depth, width, task.image_shape, task.classes
        )
    results = {}
    for name, build in builders.items():
        starts = [
            architectures.train(
                build(), task, run, epochs=config.epochs, learning_rate=LEARNING_RATE
            )
            for _ in range(config.starts)
        ]
        results[name] = Result(starts[-1], [start.test for start in starts])
    return results


def of_kind(results: dict[str, Result], kind: str) -> dict[str, Result]:
    """Those of one kind, fewest weights first."""
    return {name: each for name, each in results.items() if name.startswith(kind)}


def judge_parameters(results: dict[str, Result], run: Run) -> str:
    """Returns the name of the widest dense network."""
    accuracies = {}
    weights = {}
    trainings = []
    for kind in ("dense", "residual"):
        found = of_kind(results, kind).values()
        accuracies[kind] = float(np.mean([each.accuracy for each in found]))
        weights[kind] = sum(each.weights for each in found)
        trainings.append(sum(len(each.tests) for each in found))
    factor = weights["residual"] / weights["dense"]
    run.metric("compression_factor", factor)
    # The accuracy of a single training varies by ten points and more.
    if min(trainings) < TRAININGS:
        run.print(
            f"Fewer than {TRAININGS} trainings of dense or of residual networks: their "
            "accuracies are not compared"
        )
    else:
        run.claim(
            "Dense networks are as accurate as residual ones of like depth with at "
            "most half of their weights: means over the widths, within "
            f"{100 * CLOSE:g} points",
            holds=accuracies["dense"] > accuracies["residual"] - CLOSE and factor > 2,
            measured=f"means: dense {accuracies['dense']:.3f}, residual "
            f"{accuracies['residual']:.3f}, {factor:.1f} times fewer weights; "
            + ", ".join(
                f"{name}: {each.weights:,} weights {each.accuracy:.3f}"
                for name, each in results.items()
            ),
        )
    dense = list(of_kind(results, "dense"))[-1]
    run.compare(
        "It learns far more than a linear classifier of the pixels",
        {name: results[name].accuracy for name in ("linear", dense)},
        more=dense,
        less="linear",
        by=0.1,
    )
    return dense


def cut(model: keras.Model, keep_nearest: bool) -> keras.Model:
    """A copy, whose readers no longer get some of their sources in a block: all but the
    nearest one, or (not keep_nearest) the nearest one alone. The block's input is a
    source, and the only one of its first layer, which keeps it."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for block in range(1, count_blocks(model) + 1):
        for reader, (_, layer) in enumerate(readers_of(copy, block)):
            sources = maps_of_sources(copy, block, reader)
            gone = sources[:-1] if keep_nearest else sources[-1:]
            kernel = layer.kernel.numpy()
            for maps in gone if reader else []:
                kernel[..., maps, :] = 0
            layer.kernel.assign(kernel)
    return copy


def count_blocks(model: keras.Model) -> int:
    return max(int(each.name[5]) for each in concatenations(model))


@dataclass
class Reuse:
    """Who reads whom in one block, (sources, readers) both."""

    weights: np.ndarray
    """mean size, as of `reading_weights`"""
    rise: np.ndarray
    """of the test loss, where one reader no longer gets one source"""


def measure_reuse(model: keras.Model, task, run: Run) -> list[Reuse]:
    x, y = task.test
    some = slice(0, PICTURES_TO_CUT_BY)
    before, _ = loss_and_accuracy(model, x[some], y[some])

    def rise(model: keras.Model) -> float:
        return loss_and_accuracy(model, x[some], y[some])[0] - before

    blocks = range(1, count_blocks(model) + 1)
    return [
        Reuse(reading_weights(model, block), losses_without(model, block, rise))
        for block in run.track(blocks, "blocks")
    ]


def judge_reuse(model: keras.Model, found: list[Reuse], task, run: Run) -> None:
    far = []
    near = []
    for reuse in found:
        for reader in range(1, len(reuse.weights)):
            near.append(reuse.weights[reader, reader])
            far.append(reuse.weights[:reader, reader].mean())
    ratio = float(np.mean(far) / np.mean(near))
    run.metric("far_over_near", ratio)

    networks = {
        "all sources": model,
        "nearest source only": cut(model, keep_nearest=True),
        "without the nearest": cut(model, keep_nearest=False),
    }
    losses = {}
    accuracies = {}
    for name, network in networks.items():
        losses[name], accuracies[name] = loss_and_accuracy(network, *task.test)
    run.metrics("test_loss", losses)
    run.metrics("test_accuracy", accuracies)
    run.claim(
        "Layers, transitions and the classifier reuse what was found long before: on "
        "sources that are not the nearest they have weights of like size, and without "
        "these sources more than a third of the accuracy is lost",
        holds=ratio > 0.5
        and accuracies["nearest source only"] < 2 / 3 * accuracies["all sources"],
        measured=f"mean size of the weights, far over nearest: {ratio:.2f}; test loss "
        + ", ".join(
            f"{name} {loss:.3f} (accuracy {accuracies[name]:.3f})"
            for name, loss in losses.items()
        ),
    )


def loss_and_accuracy(
    model: keras.Model, x: np.ndarray, y: np.ndarray
) -> tuple[float, float]:
    parts = np.array_split(x, math.ceil(len(x) / 300))
    logits = np.concatenate([np.asarray(model(part)) for part in parts])
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    right = logits.argmax(axis=1) == y
    return float(np.mean(losses)), float(np.mean(right))


def judge_memory(results: dict[str, Result], run: Run) -> None:
    """All that layers hand on, concatenations among it, as plain code keeps it."""
    costs = {
        name: architectures.cost(list(of_kind(results, name).values())[-1].last.model)
        for name in ("dense", "residual")
    }
    dense = costs["dense"]
    residual = costs["residual"]
    factor = (dense.activation_bytes / dense.parameters) / (
        residual.activation_bytes / residual.parameters
    )
    run.claim(
        "The price is memory: with fewer weights it keeps more activations, for each "
        "weight three times as many bytes and more; the widest of both",
        holds=factor > 3 and dense.activation_bytes > residual.activation_bytes,
        measured="; ".join(
            f"{name} {cost.activation_bytes:,} bytes for {cost.parameters:,} weights"
            for name, cost in costs.items()
        )
        + f": {factor:.1f} times as many for each",
        any_data=True,
    )
    model = list(of_kind(results, "dense").values())[-1].last.model
    share = concatenated_bytes(model) / costs["dense"].activation_bytes
    run.metric("share_of_concatenations", share)


def concatenated_bytes(model: keras.Model) -> int:
    numbers = sum(math.prod(each.output.shape[1:]) for each in concatenations(model))
    return 4 * numbers


def judge_imagenet(run: Run) -> keras.Model:
    """Returns DenseNet-121."""
    model = build_model()
    counted = architectures.cost(model).parameters
    run.metric("parameters_densenet_121", counted)
    run.claim(
        "DenseNet-121 has 8.0 million weights, the count of keras.applications",
        holds=counted == PARAMETERS_121,
        measured=f"{counted:,} that training changes",
        any_data=True,
    )
    return model


def draw_parameters(results: dict[str, Result]) -> plt.Figure:
    lines = {}
    for kind in ("dense", "residual"):
        found = of_kind(results, kind).values()
        lines[kind] = (
            [each.weights for each in found],
            [each.tests for each in found],
        )
    panel = figures.Panel(
        title="Held-out accuracy and size, by growth rate and width",
        xlabel="weights",
        ylabel="test accuracy",
        lines=lines,
        levels={"linear classifier of the pixels": results["linear"].accuracy},
        xscale="log",
    )
    return figures.panels(panel)


def draw_training(results: dict[str, Result]) -> plt.Figure:
    losses = {name: each.last.losses for name, each in results.items()}
    return figures.curves(
        losses, title="Training, epoch by epoch", ylabel="cross entropy (nats)"
    )


def draw_reuse(found: list[Reuse]) -> plt.Figure:
    figure, grid = plt.subplots(
        2, len(found), figsize=(4.2 * len(found), 7.4), squeeze=False
    )
    # Each reader by itself: of its strongest source.
    shares = [each.weights / np.nanmax(each.weights, axis=0) for each in found]
    draw_row(figure, grid[0], shares, "mean |γ·w|, of the reader's largest")
    rises = [each.rise for each in found]
    draw_row(figure, grid[1], rises, "rise of the test loss without it (nats)")
    for axes in grid[:, 0]:
        axes.set_ylabel("source")
    for block, axes in enumerate(grid[0], start=1):
        axes.set_title(f"block {block}")
    figure.suptitle("Who reads whom: by size of the weights, and by what is lost")
    return figure


def draw_row(figure: plt.Figure, row, maps: list[np.ndarray], label: str) -> None:
    """maps: (sources, readers) of each block, drawn by one scale from 0."""
    highest = max(np.nanmax(each) for each in maps)
    for block, (values, axes) in enumerate(zip(maps, row, strict=True), start=1):
        drawn = axes.imshow(values, vmin=0, vmax=highest)
        for (source, reader), value in np.ndenumerate(values):
            if len(values) <= MOST_TO_WRITE and not np.isnan(value):
                color = "black" if value > 0.5 * highest else "white"
                text = f"{value:.2f}"
                axes.text(reader, source, text, ha="center", va="center", color=color)
        numbers = [str(layer) for layer in range(1, len(values))]
        last = "end" if block == len(maps) else "transition"
        axes.set_xticks(range(len(values)), [*numbers, last])
        axes.set_yticks(range(len(values)), ["input", *numbers])
        axes.set_xlabel("layer that reads")
        axes.grid(visible=False)
    figure.colorbar(drawn, ax=row, label=label)


def main(config: Config, run: Run) -> None:
    networks = 1 + len(set(config.growth_rates)) + len(set(config.widths))
    run.plan(networks * config.starts)
    imagenet_models = {}
    if config.imagenet:
        imagenet_models["DenseNet-121"] = judge_imagenet(run)

    task = architectures.load_task(config.data, run.seed, size=SIZE)
    results = train_networks(task, config, run)
    widest = judge_parameters(results, run)
    run.figure("parameters", draw_parameters(results))
    run.figure("training", draw_training(results))

    model = results[widest].last.model
    found = measure_reuse(model, task, run)
    judge_reuse(model, found, task, run)
    run.figure("feature_reuse", draw_reuse(found))
    judge_memory(results, run)
    architectures.report(
        run,
        {name: each.last for name, each in results.items()},
        imagenet_models,
        batch_sizes=config.batch_sizes,
    )
    run.export(serving.classifier(model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
