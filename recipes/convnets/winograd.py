"""Winograd convolution: the same 3×3 convolution with fewer multiplications.

F(m×m, 3×3) makes a tile of m×m outputs out of a patch d of n×n inputs, n = m + 2, and a
kernel g: Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Only ⊙ multiplies data by weights: n² times
where sliding the kernel takes 9·m² times, 36/16 = 2.25 at m = 2 and 144/36 = 4 at m =
4. The matrices come from polynomials: a convolution is a product of two of them, and a
product is known from its values at enough points (Toom and Cook). With more points come
larger entries, and with larger entries more rounding.
Look at the error by tile and precision, and at the time: transforms cost, and channels
share them.

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

from deep_learning_recipes import data, serving, training
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

TILES = (2, 4, 6, 8)
POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-1/4")]


def transforms(tile: int, kernel: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bᵀ (n, n), G (n, kernel) and Aᵀ (tile, n) of F(tile, kernel), n = tile + kernel −
    1, as exact
    fractions: y = Aᵀ[(G g) ⊙ (Bᵀ d)] has y[i] = Σ g[k]·d[i + k].

    Rows of G and columns of Aᵀ are powers of the points; the last point is infinity,
    where a polynomial's value is its highest coefficient. Rows of Bᵀ are Lagrange's
    polynomials, whose denominators move to G, where they are paid once a kernel.
    """
    points = POINTS[: tile + kernel - 2]
    others = [[each for each in points if each != point] for point in points]
    b = np.array(
        [[*polyfromroots(rest), 0] for rest in others] + [polyfromroots(points)]
    )
    denominators = [
        math.prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)
    ]
    g = np.vander(points, kernel, increasing=True) / np.array(denominators)[:, None]
    a = np.vander(points, tile, increasing=True)
    g, a = (np.vstack([each, np.eye(each.shape[1], dtype=int)[-1]]) for each in (g, a))
    return b, g, a.T


@keras.saving.register_keras_serializable("winograd")
class WinogradConv2D(layers.Layer):
    """`layers.Conv2D(filters, 3, padding="same")` by F(tile×tile, 3×3), with the same
    weights. Input: (batch, height, width, channels) of known height and width."""

    def __init__(self, filters, tile=2, activation=None, **kwargs):
        super().__init__(**kwargs)
        if not 2 <= tile < len(POINTS):
            raise ValueError(f"tile={tile}: it must be from 2 to {len(POINTS) - 1}")
        self.filters, self.tile = filters, tile
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(3, 3, input_shape[-1], self.filters), name="kernel"
        )
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        _, height, width, channels = x.shape
        m, n = self.tile, self.tile + 2
        down, across = (
            math.ceil(height / m),
            math.ceil(width / m),
        )  # the last tiles may stand over
        x = ops.pad(
            x, [(0, 0), (1, down * m - height + 1), (1, across * m - width + 1), (0, 0)]
        )
        b, g, a = (
            ops.convert_to_tensor(t.astype("float64"), x.dtype) for t in transforms(m)
        )

        # Bᵀ d B of all patches: a strided slice has row i of each. Channels stay last.
        rows = [x[:, i : i + down * m - m + 1 : m] for i in range(n)]
        rows = ops.tensordot(b, ops.stack(rows), axes=1)
        columns = [rows[:, :, :, i : i + across * m - m + 1 : m] for i in range(n)]
        patches = ops.tensordot(
            b, ops.stack(columns), axes=1
        )  # (column, row, batch, down, ...)
        patches = ops.reshape(patches, (n * n, -1, channels))

        kernels = ops.einsum("xi,yj,ijck->yxck", g, g, ops.cast(self.kernel, x.dtype))
        # ⊙, summed over channels before the way back: n² matrix products (section 4.1).
        products = ops.matmul(
            patches, ops.reshape(kernels, (n * n, channels, self.filters))
        )
        products = ops.tensordot(a, ops.reshape(products, (n, n, -1)), axes=1)
        outputs = ops.tensordot(a, ops.swapaxes(products, 0, 1), axes=1)
        outputs = ops.reshape(outputs, (m, m, -1, down, across, self.filters))
        outputs = ops.transpose(outputs, (2, 3, 0, 4, 1, 5))
        outputs = ops.reshape(outputs, (-1, down * m, across * m, self.filters))
        return self.activation(
            outputs[:, :height, :width] + ops.cast(self.bias, x.dtype)
        )

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        own = {"filters": self.filters, "tile": self.tile, "activation": activation}
        return super().get_config() | own


def build_model(input_shape: tuple[int, int, int], classes: int = 10) -> keras.Model:
    """A small VGG. Input: images in [0, 1]. Output: (batch, classes) logits."""
    x = images = keras.Input(input_shape, name="images")
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(classes)(x), name="vgg")


def take_over(model: keras.Model, tile: int, policy: str = "float32") -> keras.Model:
    """The same network with the same weights, where layers like `Conv2D(filters, 3,
    padding="same")` compute by F(tile×tile, 3×3), under a dtype policy. tile=0: as they
    did."""

    def replace(layer):
        config = layer.get_config()
        usual = {
            "kernel_size": (3, 3),
            "strides": (1, 1),
            "dilation_rate": (1, 1),
            "groups": 1,
        }
        usual |= {"padding": "same", "use_bias": True, "data_format": "channels_last"}
        if not isinstance(layer, layers.Conv2D) or not usual.items() <= config.items():
            return layer.__class__.from_config(config)
        if not tile:
            return layers.Conv2D.from_config(config | {"dtype": policy})
        own = {key: config[key] for key in ("name", "filters", "activation")}
        return WinogradConv2D(tile=tile, dtype=policy, **own)

    clone = keras.models.clone_model(model, clone_function=replace)
    clone.set_weights(model.get_weights())
    return clone


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
    model = keras.Model(
        images, layers.Conv2D(64, 3, padding="same", dtype="float64")(images)
    )
    exact = model(x).numpy()
    outputs = {tile: take_over(model, tile, policy)(x).numpy() for tile in (0, *TILES)}
    return {
        n: np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact**2))
        for n, y in outputs.items()
    }


def multiplications(model: keras.Model) -> int:
    """Multiplications of data by a convolution's weights, counted in the graph that
    computes an image; those by constants, in the transforms, are not among them."""
    image = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(model).get_concrete_function(image).graph
    # Each output sums over height, width and channels of the kernel, or over channels.
    summed = {"Conv2D": slice(0, 3), "BatchMatMulV2": slice(1, 2)}
    return sum(
        math.prod(node.outputs[0].shape)
        * math.prod(node.inputs[1].shape[summed[node.type]])
        for node in graph.get_operations()
        if node.type in summed
    )


def time_ratios(channels: int, rounds: int = 9) -> dict[int, float]:
    """Time of a layer's call by tile, over that of Keras's Conv2D: medians of rounds in
    turn."""
    x = tf.random.normal((32, 16, 16, channels))
    # XLA fuses the transforms; TensorFlow's own convolution would be slower by it.
    calls = {0: tf.function(layers.Conv2D(channels, 3, padding="same"))}
    calls |= {
        n: tf.function(WinogradConv2D(channels, n), jit_compile=True) for n in TILES[:2]
    }
    seconds = {tile: [] for tile in calls}
    for _ in range(rounds + 1):  # the first round compiles
        for tile, call in calls.items():
            started = time.perf_counter()
            call(x).numpy()
            seconds[tile].append(time.perf_counter() - started)
    return {
        tile: np.median(seconds[tile][1:]) / np.median(seconds[0][1:])
        for tile in TILES[:2]
    }


def plot_findings(errors: dict[str, dict[int, float]], ratios) -> plt.Figure:
    """errors: by precision and tile; ratios of times: by channels and tile."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    for (name, error), color in zip(errors.items(), ("C0", "C1"), strict=True):
        left.plot(
            TILES, [error[n] for n in TILES], f"{color}o-", label=f"F(m×m, 3×3), {name}"
        )
        left.axhline(error[0], color=color, linestyle=":", label=f"direct, {name}")
    left.set(
        xlabel="m, side of a tile of outputs", ylabel="relative error", yscale="log"
    )
    left.set(title="Larger tiles round more", xticks=TILES)
    left.legend(fontsize=9)
    for tile, color in ((2, "C0"), (4, "C1")):
        share, name = ((tile + 2) / tile / 3) ** 2, f"F({tile}×{tile}, 3×3)"
        line = [each[tile] for each in ratios.values()]
        right.plot([str(n) for n in ratios], line, f"{color}o-", label=f"{name}: time")
        right.axhline(
            share, color=color, linestyle=":", label=f"{name}: multiplications"
        )
    right.set(
        xlabel="channels and filters", ylabel="ratio to the direct convolution", ylim=0
    )
    right.set(title="Channels share the cost of the transforms")
    right.legend(fontsize=9)
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=config.size)
    classes = len(data.class_names(config.data))
    model = build_model(x_train.shape[1:], classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    hyperparameters = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(model, x_train, y_train, **hyperparameters, callbacks=run.callbacks)

    logits, accuracy, errors = {}, {}, {}
    for name, policy in (("float32", "float32"), ("float16", "mixed_float16")):
        errors[name] = relative_errors(policy, run.seed)
        for tile in (4, 2, 6, 8, 0):
            logits[name, tile] = predict(take_over(model, tile, policy), x_test)
            accuracy[name, tile] = np.mean(logits[name, tile].argmax(axis=1) == y_test)
            label = f"tile_{tile}_{name}" if tile else f"direct_{name}"
            run.metric(f"test_accuracy_{label}", accuracy[name, tile])
            run.metric(f"relative_error_{label}", errors[name][tile])
    ratios = {channels: time_ratios(channels) for channels in config.channels}
    for channels in config.channels:
        for tile, ratio in ratios[channels].items():
            run.metric(
                f"time_ratio_tile_{tile}_{channels}_channels", ratio, timing=True
            )
    run.figure("findings", plot_findings(errors, ratios))

    direct = multiplications(model)
    fewer = {tile: direct / multiplications(take_over(model, tile)) for tile in TILES}
    run.claim(
        "2×2 tiles take 2.25 times fewer multiplications, 4×4 4 times; 6×6 stand over and waste",
        holds=fewer[2] == 2.25 and fewer[4] == 4 and fewer[6] < fewer[4],
        measured=", ".join(f"{n}×{n}: {times:.2f} times" for n, times in fewer.items()),
    )
    apart = [np.abs(logits["float32", n] - logits["float32", 0]).max() for n in TILES]
    right = [accuracy["float32", n] for n in (0, *TILES)]
    run.claim(
        "It is the same convolution: with trained kernels, the same accuracy and logits",
        holds=max(right) - min(right) < 0.003 and max(apart) < 0.02,
        measured=f"accuracy direct {right[0]:.4f}, with tiles {min(right):.4f} to {max(right):.4f};"
        f" largest difference of a logit {apart[0]:.0e} (2×2) to {apart[-1]:.0e} (8×8)",
    )
    error = errors["float32"]
    run.claim(
        "Larger tiles round more: 2×2 hardly more than the direct convolution, each further one "
        "more",
        holds=error[2] < 1.5 * error[0]
        and all(error[n] > 1.5 * error[n - 2] for n in TILES[1:]),
        measured=f"relative errors: direct {error[0]:.1e}, "
        + ", ".join(f"{n}×{n} {error[n]:.1e}" for n in TILES),
    )
    small, direct, large = (accuracy["float16", tile] for tile in (2, 0, 8))
    run.claim(
        "In 16 bits tiles of 2×2 still read as well, tiles of 8×8 no longer",
        holds=abs(small - direct) < 0.01 and large < direct - 0.05,
        measured=f"test accuracy direct {direct:.4f}, 2×2 {small:.4f}, 8×8 {large:.4f}",
    )
    run.export(serving.classifier(take_over(model, 4)), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
