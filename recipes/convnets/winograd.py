"""Winograd convolution: the same 3×3 convolution with fewer multiplications.

F(m×m, 3×3) makes a tile of m×m outputs out of a patch d of n×n inputs, n = m + 2, and a
kernel g: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Only ⊙ multiplies data by weights: n² times
where sliding the kernel takes 9·m² times, 36/16 = 2.25 at m = 2 and 144/36 = 4 at m =
4. The matrices come from polynomials: a convolution is a product of two of them, and a
product is known from its values at enough points (Toom and Cook). With more points come
larger entries, and with larger entries more rounding.
Look at the error by tile and precision, at where 16 bits fail, and at the time:
transforms cost, and channels share them.

Lectures: CS Efficient Methods and Hardware
Paper: Lavin and Gray, Fast algorithms for convolutional neural networks, 2016 (sections
    4.1 to 4.3)
Tags: fast convolution, toom-cook, minimal filtering, conv2d, flops
"""

import math
import time
from dataclasses import dataclass
from fractions import Fraction

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from numpy.polynomial.polynomial import polyfromroots

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own images: a folder with one subfolder a class, or an .npz file"""
    size: int = 16
    """side of the images in pixels"""
    channels: tuple[int, ...] = (16, 64, 256)
    """channels (and filters) of the layers that are timed, on 32 maps of 16 × 16"""
    epochs: int = 12
    """passes over the training images"""
    batch_size: int = 32
    """examples a gradient is averaged over"""


QUICK = Config(size=8, channels=(16,), epochs=6)
FULL = Config(data="mnist", size=32, channels=(16, 64, 256, 512))

# --------------------------------------------------------------------------------------
# The idea: convolutions as products at points
# --------------------------------------------------------------------------------------

POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-1/4")]


def transforms(tile: int, kernel: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bᵀ (n, n), G (n, kernel) and Aᵀ (tile, n) of F(tile, kernel), n = tile + kernel −
    1, as exact fractions: y = Aᵀ[(G g) ⊙ (Bᵀ d)] has y[i] = Σ g[k]·d[i + k].

    Rows of G and columns of Aᵀ are powers of the points; the last point is infinity,
    where a polynomial's value is its highest coefficient. Rows of Bᵀ are Lagrange's
    polynomials, whose denominators move to G, where they are paid once a kernel.
    """
    points = POINTS[: tile + kernel - 2]
    rows = []
    denominators = []
    for point in points:
        others = [each for each in points if each != point]
        rows.append([*polyfromroots(others), 0])
        denominators.append([math.prod(point - other for other in others)])
    rows.append(polyfromroots(points))

    b = np.array(rows)
    g = np.vander(points, kernel, increasing=True) / np.array(denominators)
    g = np.vstack([g, highest_coefficient(kernel)])
    a = np.vander(points, tile, increasing=True)
    a = np.vstack([a, highest_coefficient(tile)])
    return b, g, a.T


def highest_coefficient(size: int) -> np.ndarray:
    return np.eye(size, dtype=int)[-1]


def transform_patches(x, b, tile: int):
    """Bᵀ d B of all patches d, which overlap by two.

    x: (batch, height, width, channels), both sides two more than a multiple of tile.
    Returns (n, n, batch, down, across, channels), in front column and row of a patch.
    """
    size = tile + 2
    height = x.shape[1] - size + 1
    width = x.shape[2] - size + 1
    # A strided slice has row i of every patch.
    rows = [x[:, i : i + height : tile] for i in range(size)]
    rows = ops.tensordot(b, ops.stack(rows), axes=1)
    columns = [rows[:, :, :, i : i + width : tile] for i in range(size)]
    return ops.tensordot(b, ops.stack(columns), axes=1)


def transform_kernels(kernels, g):
    """G g Gᵀ of all kernels g, (3, 3, channels, filters). Returns (n, n, channels,
    filters), in front column and row, as of the patches."""
    return ops.einsum("xi,yj,ijck->yxck", g, g, kernels)


def multiply(patches, kernels):
    """⊙, with its sum over channels before the way back: n² matrix products (section
    4.1). Returns (n, n, batch · down · across · filters)."""
    size, _, channels, filters = kernels.shape
    patches = ops.reshape(patches, (size**2, -1, channels))
    products = ops.matmul(patches, ops.reshape(kernels, (size**2, channels, filters)))
    return ops.reshape(products, (size, size, -1))


def transform_back(products, a):
    """AᵀYA of all products Y, whose column and row stand in front. Returns (tile, tile,
    ...), in front row and column of a tile of outputs."""
    columns = ops.tensordot(a, products, axes=1)
    rows_first = ops.swapaxes(columns, 0, 1)
    return ops.tensordot(a, rows_first, axes=1)


@keras.saving.register_keras_serializable("winograd")
class WinogradConv2D(layers.Layer):
    """`layers.Conv2D(filters, 3, padding="same")` by F(tile×tile, 3×3), with the same
    weights. Input: (batch, height, width, channels) of known height and width."""

    def __init__(self, filters, tile=2, activation=None, **kwargs):
        super().__init__(**kwargs)
        if not 2 <= tile < len(POINTS):
            raise ValueError(f"tile={tile}: it must be from 2 to {len(POINTS) - 1}")
        self.filters = filters
        self.tile = tile
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(shape=shape, name="kernel")
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        _, height, width, _ = x.shape
        matrices = [as_tensor(matrix, x.dtype) for matrix in transforms(self.tile)]
        b, g, a = matrices

        # The last tiles may stand over.
        down = math.ceil(height / self.tile)
        across = math.ceil(width / self.tile)
        below = down * self.tile - height + 1
        beside = across * self.tile - width + 1
        x = ops.pad(x, [(0, 0), (1, below), (1, beside), (0, 0)])

        patches = transform_patches(x, b, self.tile)
        kernels = transform_kernels(ops.cast(self.kernel, x.dtype), g)
        tiles = transform_back(multiply(patches, kernels), a)

        outputs = ops.reshape(
            tiles, (self.tile, self.tile, -1, down, across, self.filters)
        )
        outputs = ops.transpose(outputs, (2, 3, 0, 4, 1, 5))
        shape = (-1, down * self.tile, across * self.tile, self.filters)
        outputs = ops.reshape(outputs, shape)[:, :height, :width]
        return self.activation(outputs + ops.cast(self.bias, x.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "tile": self.tile,
            "activation": keras.activations.serialize(self.activation),
        }


def as_tensor(matrix: np.ndarray, dtype: str):
    """A matrix of fractions."""
    return ops.convert_to_tensor(matrix.astype("float64"), dtype)


# What a layer must be for `WinogradConv2D` to stand in for it.
REPLACEABLE = {
    "kernel_size": (3, 3),
    "strides": (1, 1),
    "dilation_rate": (1, 1),
    "groups": 1,
    "padding": "same",
    "use_bias": True,
    "data_format": "channels_last",
}


def is_replaceable(layer: layers.Layer) -> bool:
    if not isinstance(layer, layers.Conv2D):
        return False
    return REPLACEABLE.items() <= layer.get_config().items()


def take_over(model: keras.Model, tile: int, policy: str = "float32") -> keras.Model:
    """The same network with the same weights, where layers like `Conv2D(filters, 3,
    padding="same")` compute by F(tile×tile, 3×3), under a dtype policy. tile=0: as they
    did."""

    def replace(layer):
        config = layer.get_config()
        if not is_replaceable(layer):
            return layer.__class__.from_config(config)
        if tile == 0:
            return layers.Conv2D.from_config({**config, "dtype": policy})
        return WinogradConv2D(
            config["filters"],
            tile,
            activation=config["activation"],
            name=config["name"],
            dtype=policy,
        )

    clone = keras.models.clone_model(model, clone_function=replace)
    clone.set_weights(model.get_weights())
    return clone


def build_model(input_shape: tuple[int, int, int], classes: int = 10) -> keras.Model:
    """A small VGG. Input: images in [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input(input_shape, name="images")
    hidden = images
    for filters in (32, 64):
        for _ in range(2):
            hidden = layers.Conv2D(filters, 3, padding="same")(hidden)
            hidden = layers.ReLU()(hidden)
        hidden = layers.MaxPooling2D(2)(hidden)
    hidden = layers.Dropout(0.5)(layers.Flatten()(hidden))
    return keras.Model(images, layers.Dense(classes)(hidden), name="vgg")


# --------------------------------------------------------------------------------------
# The experiment: multiplications, rounding by tile and precision, time by channels
# --------------------------------------------------------------------------------------

TILES = (2, 4, 6, 8)
TIMED = (2, 4)  # tiles
ROUNDS = 9
PRECISIONS = {
    "float32": "float32",
    "float16": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
}


def label_of(tile: int, precision: str) -> str:
    """For the names of metrics."""
    return f"tile_{tile}_{precision}" if tile else f"direct_{precision}"


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits (images, classes), computed eagerly: to trace a model that is asked
    once takes longer."""
    batches = np.array_split(images, math.ceil(len(images) / 500))
    return np.concatenate([model(batch) for batch in batches])


def relative_errors(policy: str, seed: int) -> dict[int, float]:
    """Root mean square error of one layer's outputs on random data, relative to the
    outputs' own, by tile; 0 is Keras's Conv2D."""
    x = np.random.default_rng(seed).normal(size=(8, 24, 24, 64))
    images = keras.Input(x.shape[1:])
    convolution = layers.Conv2D(64, 3, padding="same", dtype="float64")
    model = keras.Model(images, convolution(images))
    exact = model(x).numpy()

    errors = {}
    for tile in (0, *TILES):
        outputs = np.asarray(take_over(model, tile, policy)(x), "float64")
        error = np.mean((outputs - exact) ** 2) / np.mean(exact**2)
        errors[tile] = float(np.sqrt(error))
    return errors


def multiplications(model: keras.Model) -> int:
    """Multiplications of data by a convolution's weights, counted in the graph that
    computes an image; those by constants, in the transforms, are not among them."""
    image = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(model).get_concrete_function(image).graph
    # Each output sums over height, width and channels of the kernel, or over channels.
    summed = {"Conv2D": slice(0, 3), "BatchMatMulV2": slice(1, 2)}
    count = 0
    for node in graph.get_operations():
        if node.type in summed:
            outputs = math.prod(node.outputs[0].shape)
            count += outputs * math.prod(node.inputs[1].shape[summed[node.type]])
    return count


def time_ratios(channels: int) -> dict[int, float]:
    """Time of a layer's call by tile, over that of Keras's Conv2D: medians of rounds in
    turn."""
    x = tf.random.normal((32, 16, 16, channels))
    # XLA fuses the transforms; TensorFlow's own convolution would be slower by it.
    calls = {0: tf.function(layers.Conv2D(channels, 3, padding="same"))}
    for tile in TIMED:
        calls[tile] = tf.function(WinogradConv2D(channels, tile), jit_compile=True)

    seconds = {tile: [] for tile in calls}
    for _ in range(ROUNDS + 1):  # the first round compiles
        for tile, call in calls.items():
            started = time.perf_counter()
            call(x).numpy()
            seconds[tile].append(time.perf_counter() - started)
    medians = {tile: np.median(found[1:]) for tile, found in seconds.items()}
    return {tile: medians[tile] / medians[0] for tile in TIMED}


def train(model: keras.Model, x, y, config: Config, run: Run) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    training.fit(
        model,
        x,
        y,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


def judge_multiplications(model: keras.Model, run: Run) -> None:
    direct = multiplications(model)
    factors = {tile: direct / multiplications(take_over(model, tile)) for tile in TILES}
    for tile, factor in factors.items():
        run.metric(f"multiplications_saved_tile_{tile}", factor)
    run.claim(
        "2×2 tiles take 2.25 times fewer multiplications, 4×4 4 times; tiles of 6×6 "
        "stand over the maps' edges and gain less",
        holds=factors[2] == 2.25 and factors[4] == 4 and factors[6] < factors[4],
        measured=", ".join(
            f"{n}×{n}: {factor:.2f} times" for n, factor in factors.items()
        ),
    )


def judge_sameness(logits: dict[int, np.ndarray], accuracy, run: Run) -> None:
    """By tile, in 32 bits."""
    apart = {tile: np.abs(logits[tile] - logits[0]).max() for tile in TILES}
    accuracies = [accuracy[tile] for tile in TILES]
    lowest = min(accuracies)
    highest = max(accuracies)
    run.claim(
        "It is the same convolution: with trained kernels, the same accuracy and logits "
        "in 32 bits",
        holds=max(highest, accuracy[0]) - min(lowest, accuracy[0]) < 0.003
        and max(apart.values()) < 0.02,
        measured=f"accuracy direct {accuracy[0]:.4f}, with tiles {lowest:.4f} to "
        f"{highest:.4f}; largest difference of a logit {apart[2]:.0e} (2×2) to "
        f"{apart[8]:.0e} (8×8)",
    )


def judge_rounding(errors: dict[str, dict[int, float]], run: Run) -> None:
    """By precision and tile."""
    error = errors["float32"]
    half = errors["float16"]
    run.claim(
        "Larger tiles round more: each further one more, in 32 and in 16 bits; 2×2 "
        "hardly more than the direct convolution in 32 bits, in 16 bits already twice "
        "as much",
        holds=error[2] < 1.5 * error[0]
        and half[2] > 1.5 * half[0]
        and all(error[tile] > 1.5 * error[tile - 2] for tile in TILES[1:])
        and all(half[tile] > 1.5 * half[tile - 2] for tile in TILES[1:]),
        measured="relative errors: "
        + "; ".join(
            f"{name}: direct {found[0]:.1e}, "
            + ", ".join(f"{n}×{n} {found[n]:.1e}" for n in TILES)
            for name, found in (("32 bits", error), ("16 bits", half))
        ),
    )


def judge_range(accuracy, errors: dict[str, dict[int, float]], run: Run) -> None:
    """accuracy: by tile, in float16."""
    half = errors["float16"][8]
    brain = errors["bfloat16"][8]
    run.claim(
        "In float16 tiles of 2×2 are as accurate as the direct convolution, tiles of "
        "8×8 are useless; not by rounding, but as small numbers fall out of its range: "
        "bfloat16, which rounds 8 times as coarsely and reaches as far down as float32, "
        "has a much smaller error",
        holds=abs(accuracy[2] - accuracy[0]) < 0.01
        and accuracy[8] < accuracy[0] - 0.05
        and brain < 0.2 * half,
        measured=f"test accuracy in float16 direct {accuracy[0]:.4f}, 2×2 "
        f"{accuracy[2]:.4f}, 8×8 {accuracy[8]:.4f}; relative error of 8×8 in float16 "
        f"{half:.3g}, in bfloat16 {brain:.3g}",
    )


def draw_findings(errors: dict[str, dict[int, float]], ratios) -> plt.Figure:
    """errors: by precision and tile; ratios of times: by channels and tile."""
    rounding = figures.Panel(
        title="Larger tiles round more",
        xlabel="m, side of a tile of outputs",
        ylabel="relative error",
        lines={
            name: (TILES, [error[tile] for tile in TILES])
            for name, error in errors.items()
        },
        levels={f"direct, {name}": error[0] for name, error in errors.items()},
        yscale="log",
        xticks=TILES,
    )
    channels = list(ratios)
    cost = figures.Panel(
        title="Channels share the cost of the transforms",
        xlabel="channels and filters",
        ylabel="ratio to the direct convolution",
        lines={
            f"F({tile}×{tile}, 3×3): time": (
                channels,
                [ratios[each][tile] for each in channels],
            )
            for tile in TIMED
        },
        levels={
            "as fast as direct": 1.0,
            **{
                f"F({tile}×{tile}, 3×3): multiplications": ((tile + 2) / tile / 3) ** 2
                for tile in TIMED
            },
        },
        xscale="log",
        xticks=channels,
        ylim=(0, None),
    )
    return figures.panels(rounding, cost)


def predict_all(
    model: keras.Model, x: np.ndarray, policy: str
) -> dict[int, np.ndarray]:
    """Logits by tile."""
    return {tile: predict(take_over(model, tile, policy), x) for tile in (0, *TILES)}


def accuracies_of(logits: dict[int, np.ndarray], y: np.ndarray) -> dict[int, float]:
    return {
        tile: float(np.mean(found.argmax(axis=1) == y))
        for tile, found in logits.items()
    }


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=config.size)
    classes = len(data.class_names(config.data))
    model = build_model(x_train.shape[1:], classes)
    judge_multiplications(model, run)

    train(model, x_train, y_train, config, run)
    single = predict_all(model, x_test, "float32")
    half = predict_all(model, x_test, "mixed_float16")
    accuracy = {
        "float32": accuracies_of(single, y_test),
        "float16": accuracies_of(half, y_test),
    }
    errors = {
        name: relative_errors(policy, run.seed) for name, policy in PRECISIONS.items()
    }
    ratios = {channels: time_ratios(channels) for channels in config.channels}

    for name, found in accuracy.items():
        for tile, value in found.items():
            run.metric(f"test_accuracy_{label_of(tile, name)}", value)
    for name, found in errors.items():
        for tile, value in found.items():
            run.metric(f"relative_error_{label_of(tile, name)}", value)
    for channels, found in ratios.items():
        for tile, value in found.items():
            name = f"time_ratio_tile_{tile}_{channels}_channels"
            run.metric(name, value, timing=True)
    run.figure("findings", draw_findings(errors, ratios))

    judge_sameness(single, accuracy["float32"], run)
    judge_rounding(errors, run)
    judge_range(accuracy["float16"], errors, run)
    run.export(serving.classifier(take_over(model, 4)), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
