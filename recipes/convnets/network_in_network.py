"""Network in Network puts a small dense network behind every filter.

A convolution is linear in its patch. An mlpconv block slides a dense network over the
image instead: a k×k convolution, its first layer, then two 1×1 convolutions, which are
dense layers on the channels of each pixel: y[i, j] = ReLU(W·x[i, j] + b).
The last block has one map for each class, and the mean of a map is its logit: no dense
layer, no weights, nothing to overfit, and the maps say where a class was seen.
Look at the same network with a dense layer in the place of the mean, at linear filters
of as many parameters, and at the class maps over several pictures in one.

Lectures: CS CNN Architectures; SEL CNN architectures
Paper: Lin et al., Network in network, 2013 (sections 3 and 4.6); batch norm as in Ioffe
    and Szegedy, Batch normalization, 2015
Tags: nin, mlpconv, 1x1 convolution, global average pooling, cnn, imagenet, localization
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import architectures, data, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos or textures (embedded), cifar10 where Keras can download
    or has cached it, or your own images: a folder with one subfolder a class, or an
    .npz file"""
    image_size: Annotated[int, Interval(ge=8, le=224)] = 32
    """side of the images in pixels"""
    width: Annotated[float, Interval(gt=0, le=2)] = 0.125
    """filters, as a share of the paper's network for CIFAR-10"""
    epochs: int = 6
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 5e-3
    """of AdamW at the start; it falls to 0 along a cosine. Of 2e-3, 5e-3 and 2e-2 this
    is best on validation images, or within a point of it, for each network"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """between the blocks; the paper's 0.5 is for networks eight times as wide"""
    starts: int = 2
    """random starts of each network; accuracies are their means"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """images at once, for which milliseconds per image are measured; none: not at all"""


QUICK = Config(image_size=24, epochs=4, starts=1, batch_sizes=())
FULL = Config(width=0.5, epochs=60, dropout=0.5, starts=5)

# --------------------------------------------------------------------------------------
# The idea: a dense network slid over the image, and the mean of a map as logit
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One mlpconv: k×k, then 1×1 for each further number of filters."""

    filters: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: str = "same"


# For images of 32 pixels: 966,986 weights for ten classes.
CIFAR = (
    Block((192, 160, 96), kernel_size=5),
    Block((192, 192, 192), kernel_size=5),
    Block((192, 192), kernel_size=3),  # and one map for each class
)
# For images of 224 pixels: 7,595,176 weights for a thousand classes.
IMAGENET = (
    Block((96, 96, 96), kernel_size=11, strides=4, padding="valid"),
    Block((256, 256, 256), kernel_size=5),
    Block((384, 384, 384), kernel_size=3),
    Block((1024, 1024), kernel_size=3),
)


def scale(block: Block, width: float) -> Block:
    filters = tuple(max(1, round(width * count)) for count in block.filters)
    return replace(block, filters=filters)


def linear_filters(block: Block) -> Block:
    """The k×k convolution alone."""
    return replace(block, filters=block.filters[:1])


def activate(x, normalize: bool, name: str):
    """ReLU, with batch norm before it where `normalize` says so."""
    if normalize:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def mlpconv(x, block: Block, normalize: bool = False, name: str = "mlpconv"):
    """(batch, height, width, channels) → (batch, places down, places across, filters).

    At each place the patch goes through a dense network with ReLU after each layer.
    """
    convolve = layers.Conv2D(
        block.filters[0],
        block.kernel_size,
        strides=block.strides,
        padding=block.padding,
        use_bias=not normalize,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    x = activate(convolve(x), normalize, convolve.name)
    for number, filters in enumerate(block.filters[1:], start=1):
        on_each_pixel = layers.Conv2D(
            filters,
            1,
            use_bias=not normalize,
            kernel_initializer="he_normal",
            name=f"{name}_1x1_{number}",
        )
        x = activate(on_each_pixel(x), normalize, on_each_pixel.name)
    return x


def build_model(
    image_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    blocks: Sequence[Block] = IMAGENET,
    width: float = 1.0,
    normalize: bool = False,
    dense_head: bool = False,
    dropout: float = 0.5,
    name: str = "network_in_network",
) -> keras.Model:
    """Blocks with pools between them; at the end a 1×1 convolution to one map for each
    class, and the mean of each map.

    width: filters, as a share of the blocks'. normalize: with batch norm, which learns
    in few epochs. dense_head: a dense layer on all numbers of the class maps instead of
    their means; then the size of the images is fixed.

    Input: (batch, *image_shape) in [0, 1]. Output: (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    x = images
    for number, block in enumerate(blocks, start=1):
        if number > 1:
            x = layers.MaxPooling2D(3, 2, "same", name=f"pool{number - 1}")(x)
            x = layers.Dropout(dropout, name=f"dropout{number - 1}")(x)
        x = mlpconv(x, scale(block, width), normalize, name=f"block{number}")

    maps = layers.Conv2D(classes, 1, name="class_maps")(x)
    if dense_head:
        flat = layers.Flatten(name="flatten")(maps)
        logits = layers.Dense(classes, name="logits")(flat)
    else:
        logits = layers.GlobalAveragePooling2D(name="logits")(maps)
    return keras.Model(images, logits, name=name)


def class_maps(model: keras.Model, images) -> np.ndarray:
    """Where each class is seen: (batch, places down, places across, classes). The
    logits are their means. Without a dense head a model of `image_shape` (None, None,
    3) takes images of any size."""
    maps = keras.Model(model.input, model.get_layer("class_maps").output)
    return np.asarray(maps(images, training=False))


def slide_dense_network(images: np.ndarray, kernels, biases) -> np.ndarray:
    """What an mlpconv is, without convolutions: at every place the patch, as a vector,
    goes through dense layers. No zeros are put around.

    images: (batch, height, width, channels). kernels: of the dense layers, the first
    one (k·k·channels, filters). Returns (batch, places down, places across, filters).
    """
    batch, height, width, channels = images.shape
    size = math.isqrt(kernels[0].shape[0] // channels)
    rows = height - size + 1
    columns = width - size + 1
    outputs = np.zeros((batch, rows, columns, kernels[-1].shape[1]))
    for i in range(rows):
        for j in range(columns):
            x = images[:, i : i + size, j : j + size].reshape(batch, -1)
            for kernel, bias in zip(kernels, biases, strict=True):
                x = np.maximum(x @ kernel + bias, 0)
            outputs[:, i, j] = x
    return outputs


# --------------------------------------------------------------------------------------
# The experiment: the mean beside a dense layer, 1×1 convolutions beside linear filters
# --------------------------------------------------------------------------------------

MEAN = "mean of class maps"
DENSE = "dense head"
LINEAR_FILTERS = "linear filters"
LINEAR = "linear"

TILES = 16  # pictures across a mosaic, and down


def judge_sizes(imagenet: keras.Model, run: Run) -> None:
    """Of the paper's forms, by count."""
    cifar = build_model((32, 32, 3), 10, blocks=CIFAR)
    heads = {
        MEAN: imagenet.count_params(),
        DENSE: build_model(dense_head=True).count_params(),
    }
    run.claim(
        "The mean of class maps is a head without weights: 7.6 M parameters for "
        "ImageNet, where one dense layer on these maps alone would bring 49 M; for "
        "CIFAR-10 0.97 M in all",
        holds=heads[MEAN] == 7_595_176
        and heads[DENSE] - heads[MEAN] == 49 * 1000 * 1000 + 1000
        and cifar.count_params() == 966_986,
        measured=", ".join(f"{name} {count:,}" for name, count in heads.items())
        + f"; for CIFAR-10 {cifar.count_params():,}",
        any_data=True,
    )


def judge_identity(run: Run) -> None:
    """A block with random weights against the dense network at every place."""
    random = np.random.default_rng(run.seed)
    images = random.normal(size=(2, 9, 8, 3)).astype("float32")
    block = Block((6, 5, 4), kernel_size=3, padding="valid")
    maps = keras.Input((None, None, 3))
    model = keras.Model(maps, mlpconv(maps, block))
    kernels = []
    biases = []
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.bias.assign(random.normal(size=layer.bias.shape))
            kernel = np.asarray(layer.kernel, "float64")
            kernels.append(kernel.reshape(-1, kernel.shape[-1]))
            biases.append(np.asarray(layer.bias, "float64"))
    slid = slide_dense_network(images, kernels, biases)
    difference = float(np.abs(slid - np.asarray(model(images))).max())
    run.claim(
        "An mlpconv is a small dense network that slides over the image: a convolution, "
        "then 1×1 convolutions, give the same numbers at every place",
        holds=difference < 1e-5 and slid.std() > 0.1,
        measured=f"largest difference {difference:.1e} of numbers with a standard "
        f"deviation of {slid.std():.2g}",
        any_data=True,
    )


def ways_to_build(
    task: architectures.Task, config: Config
) -> dict[str, Callable[[], keras.Model]]:
    build = partial(
        build_model,
        task.image_shape,
        task.classes,
        blocks=CIFAR,
        width=config.width,
        normalize=True,
        dropout=config.dropout,
    )
    plain = partial(build, blocks=[linear_filters(block) for block in CIFAR])
    width = width_of_parameters(plain, config.width, build().count_params())
    return {
        MEAN: partial(build, name="mean_of_maps"),
        DENSE: partial(build, dense_head=True, name="dense_head"),
        LINEAR_FILTERS: partial(plain, width=width, name="linear_filters"),
        LINEAR: partial(architectures.build_linear, task),
    }


def width_of_parameters(build: Callable, width: float, parameters: int) -> float:
    """The width at which a network has at least so many parameters, and hardly more."""
    # A network without 1×1 convolutions is never less than half as wide as with them.
    width *= 0.5
    while build(width=width).count_params() < parameters:
        width *= 1.02
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


def mean_of(trained: list[architectures.Trained], what: str) -> float:
    return float(np.mean([getattr(each, what) for each in trained]))


def judge_heads(results: dict[str, list[architectures.Trained]], run: Run) -> None:
    tests = {name: mean_of(found, "test") for name, found in results.items()}
    gaps = {
        name: mean_of(found, "train_accuracy") - tests[name]
        for name, found in results.items()
    }
    parameters = {
        name: architectures.cost(found[0].model).parameters
        for name, found in results.items()
    }
    run.metrics("test_accuracy", tests)
    run.metrics("gap_train_to_test", gaps)
    run.compare(
        "Network in Network classifies far better than a linear classifier",
        {name: tests[name] for name in (MEAN, LINEAR)},
        more=MEAN,
        less=LINEAR,
        by=0.1,
    )
    run.compare(
        "The mean of class maps has no weights and regularizes: the gap from training to "
        "test accuracy is narrower than with a dense layer on the same maps",
        {name: gaps[name] for name in (MEAN, DENSE)},
        more=DENSE,
        less=MEAN,
        by=0.01,
    )
    run.claim(
        "So test accuracy is higher, by 2 points or more, with fewer parameters",
        holds=tests[MEAN] > tests[DENSE] + 0.02
        and parameters[MEAN] < parameters[DENSE],
        measured=", ".join(
            f"{name} {tests[name]:.1%}, {parameters[name]:,} parameters"
            for name in (MEAN, DENSE)
        ),
    )
    products = {
        name: architectures.multiply_adds(found[0].model)
        for name, found in results.items()
    }
    run.claim(
        "At equal parameters and multiply-adds 1×1 convolutions gain little or nothing "
        "over more linear filters here, where networks are narrow and learn briefly: "
        "at most 6 points better, at most 15 worse",
        holds=-0.15 < tests[MEAN] - tests[LINEAR_FILTERS] < 0.06
        and 0.8 < products[MEAN] / products[LINEAR_FILTERS] < 1.25,
        measured=", ".join(
            f"{name} {tests[name]:.1%} ({parameters[name]:,} parameters, "
            f"{products[name] / 1e6:.2f} M multiply-adds)"
            for name in (MEAN, LINEAR_FILTERS)
        ),
    )


@dataclass
class Mosaic:
    """Test pictures side by side, in one that is larger than any the network saw."""

    picture: np.ndarray
    """(tiles · side, tiles · side, 3)"""
    classes: np.ndarray
    """of the tiles, (tiles, tiles)"""
    maps: np.ndarray
    """(tiles · places, tiles · places, classes)"""

    @property
    def of_tiles(self) -> np.ndarray:
        """Means of the maps over each tile, (tiles, tiles, classes): what would be the
        logits of its picture, were it alone."""
        tiles = len(self.classes)
        places = len(self.maps) // tiles
        inside = self.maps[: tiles * places, : tiles * places]
        return inside.reshape(tiles, places, tiles, places, -1).mean(axis=(1, 3))


def look_at_mosaic(
    trained: keras.Model, task: architectures.Task, config: Config, run: Run
) -> Mosaic:
    x, y = task.test
    chosen = np.random.default_rng(run.seed).permutation(len(x))
    chosen = np.resize(chosen, (TILES, TILES))
    rows = [np.concatenate(list(x[row]), axis=1) for row in chosen]
    picture = np.concatenate(rows, axis=0)

    # The same weights, for a picture of any size.
    model = build_model(
        (None, None, 3),
        task.classes,
        blocks=CIFAR,
        width=config.width,
        normalize=True,
    )
    model.set_weights(trained.get_weights())
    maps = class_maps(model, picture[np.newaxis])[0]
    return Mosaic(picture, y[chosen], maps)


def judge_maps(mosaic: Mosaic, model: keras.Model, run: Run) -> None:
    by_maps = mosaic.of_tiles.argmax(axis=-1)
    side = len(mosaic.picture) // TILES
    tiles = mosaic.picture.reshape(TILES, side, TILES, side, 3)
    tiles = tiles.swapaxes(1, 2).reshape(TILES**2, side, side, 3)
    alone = architectures.accuracy(model, tiles, mosaic.classes.ravel())
    together = float(np.mean(by_maps == mosaic.classes))
    elsewhere = float(np.mean(by_maps == np.roll(mosaic.classes, 1, axis=(0, 1))))
    run.metrics("mosaic_accuracy", {"alone": alone, "in one picture": together})
    run.claim(
        f"Class maps say where: over {TILES**2} pictures in one, the mean of the maps "
        "above each is right at least half as often as on this picture alone (neighbors "
        "reach over its borders), and more often than for the picture beside it",
        holds=together > 0.5 * alone and together > elsewhere + 0.05,
        measured=f"alone {alone:.1%}, in one picture {together:.1%}, with the classes "
        f"of the pictures beside them {elsewhere:.1%}",
    )


def draw_maps(mosaic: Mosaic, names: Sequence[str]) -> plt.Figure:
    """A corner of it, and the maps of the classes that are best known there."""
    shown = min(4, TILES)
    side = len(mosaic.picture) // TILES
    places = len(mosaic.maps) // TILES
    classes = mosaic.classes[:shown, :shown]
    picture = mosaic.picture[: shown * side, : shown * side]
    maps = mosaic.maps[: shown * places, : shown * places]
    maps = np.exp(maps - maps.max(axis=-1, keepdims=True))
    maps /= maps.sum(axis=-1, keepdims=True)

    known = mosaic.of_tiles[:shown, :shown].argmax(axis=-1) == classes
    hits = [np.sum(known & (classes == label)) for label in range(maps.shape[-1])]
    best = np.argsort(hits)[::-1][:3]

    figure, grid = plt.subplots(1, 1 + len(best), figsize=(13, 3.9))
    extent = (0, shown, shown, 0)
    grid[0].imshow(picture, vmin=0, vmax=1, extent=extent)
    grid[0].set_title("16 test pictures in one")
    for axes, label in zip(grid[1:], best, strict=True):
        heat = axes.imshow(maps[..., label], vmin=0, vmax=1, extent=extent)
        axes.set_title(f"map of {names[label]!r}")
        for row, column in np.argwhere(classes == label):
            frame = plt.Rectangle(
                (column + 0.03, row + 0.03), 0.94, 0.94, fill=False, color="white", lw=2
            )
            axes.add_patch(frame)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    figure.colorbar(heat, ax=grid, label="softmax of the maps at each place")
    figure.suptitle("Where a class is seen (frames: pictures of this class)")
    return figure


def draw_accuracies(results: dict[str, list[architectures.Trained]]) -> plt.Figure:
    parts = {"Test pictures": "test", "Pictures to train on": "train_accuracy"}
    return figures.panels(
        *(
            figures.Panel(
                title=title,
                xlabel="accuracy",
                bars={
                    name: [getattr(each, what) for each in trained]
                    for name, trained in results.items()
                },
                number="{:.1%}",
            )
            for title, what in parts.items()
        )
    )


def main(config: Config, run: Run) -> None:
    run.plan(4 * config.starts)
    task = architectures.load_task(config.data, run.seed, size=config.image_size)
    ways = ways_to_build(task, config)
    results = {name: train(build, task, config, run) for name, build in ways.items()}
    judge_heads(results, run)

    model = results[MEAN][0].model
    mosaic = look_at_mosaic(model, task, config, run)
    judge_maps(mosaic, model, run)
    run.figure("maps", draw_maps(mosaic, data.class_names(config.data)))
    run.figure("accuracies", draw_accuracies(results))
    judge_identity(run)
    imagenet = build_model()
    judge_sizes(imagenet, run)

    architectures.report(
        run,
        trained={
            name: replace(trained[0], test=mean_of(trained, "test"))
            for name, trained in results.items()
        },
        imagenet={"Network in Network": imagenet},
        batch_sizes=config.batch_sizes,
    )
    run.export(serving.classifier(model), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
