"""Convolution: one small kernel for every place of a picture.

O[i, j, k] = Σ_uvc X[S·i + D·u, S·j + D·v, c] · F[u, v, c, k]: the inner product of the
kernel F_k and the patch at (i, j), with stride S and dilation D, after P zeros were put
around X. The output is (W − F + 2P)/S + 1 wide. Loops over the places say it, im2col
makes one matrix product of it, and Fourier's transform a product of numbers.
Look at weights and multiplications beside a dense network's, at what a shifted picture
gives, at the pixels that an output depends on, and at which way is fastest for which
kernel.

Lectures: SEL Convolutional neural networks; ICME Convolutions; N18 4.1 Convolutional
    Neural Networks; CS CNN Architectures
Paper: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016
    (sections 2 to 5); Mathieu et al., Fast training of convolutional networks through
    FFTs, 2014 (section 2.3)
Tags: conv2d, im2col, fft, padding, dilation, receptive field, equivariance, cnn
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from numpy.lib.stride_tricks import sliding_window_view

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k, digits, textures or photos (embedded), mnist / fashion_mnist / cifar10
    where Keras can download or has cached them, or your own images: a folder with one
    subfolder a class, or an .npz file"""
    convolutions: int = 2
    """N, convolutions before a pool: networks with 1 to so many are trained, and the
    best of them on validation images is reported"""
    filters: int = 12
    """of each convolution"""
    units: int = 128
    """of the dense network's hidden layer"""
    epochs: int = 10
    """passes over the training images"""
    batch_size: int = 32
    """images a gradient is averaged over"""
    restarts: int = 2
    """random starts of each network; accuracies are their means"""


QUICK = Config(convolutions=1, epochs=3, restarts=1)
FULL = Config(convolutions=3, filters=32, epochs=30, restarts=5)

# --------------------------------------------------------------------------------------
# The idea: the patch at each place, times the kernel
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """How a layer looks at what is below it: a convolution's or a pooling's."""

    size: int = 3
    """F, pixels across"""
    stride: int = 1
    """S, pixels from one place to the next"""
    padding: int = 0
    """P, zeros on each side"""
    dilation: int = 1
    """D, pixels from one weight to the next"""

    @property
    def extent(self) -> int:
        """Pixels from the first weight to the last: F, if none are left out between."""
        return self.dilation * (self.size - 1) + 1


def output_size(size: int, window: Window) -> Fraction:
    """(W − F + 2P)/S + 1. If that is no whole number the window does not fit: layers
    round down, and the last pixels are seen by no place."""
    room = size - window.extent + 2 * window.padding
    return Fraction(room, window.stride) + 1


def pad(images: np.ndarray, padding: int) -> np.ndarray:
    around = (padding, padding)
    return np.pad(images, [(0, 0), around, around, (0, 0)])


# All four: images (batch, height, width, channels), kernel (F, F, channels, filters).
# They return (batch, places down, places across, filters).


def convolve_loops(images, kernel, window: Window) -> np.ndarray:
    """The definition: at each place, the inner product of its patch and each filter."""
    images = pad(images, window.padding)
    batch, height, width, _ = images.shape
    unpadded = replace(window, padding=0)
    rows = math.floor(output_size(height, unpadded))
    columns = math.floor(output_size(width, unpadded))
    outputs = np.zeros((batch, rows, columns, kernel.shape[-1]), images.dtype)

    for i in range(rows):
        for j in range(columns):
            top = i * window.stride
            left = j * window.stride
            down = slice(top, top + window.extent, window.dilation)
            across = slice(left, left + window.extent, window.dilation)
            patch = images[:, down, across]
            outputs[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return outputs


def patches(images: np.ndarray, window: Window) -> np.ndarray:
    """Views, not copies: (batch, places down, places across, channels, F, F)."""
    images = pad(images, window.padding)
    extent = (window.extent, window.extent)
    everywhere = sliding_window_view(images, extent, axis=(1, 2))
    at_places = everywhere[:, :: window.stride, :: window.stride]
    return at_places[..., :: window.dilation, :: window.dilation]


def convolve_im2col(images, kernel, window: Window) -> np.ndarray:
    """Each patch becomes a row, each filter a column: one matrix product, as fast
    libraries make it. The price is memory: each pixel is copied F² times."""
    found = patches(images, window)
    places = found.shape[:3]
    rows = found.transpose(0, 1, 2, 4, 5, 3).reshape(math.prod(places), -1)
    columns = kernel.reshape(rows.shape[1], -1)
    return (rows @ columns).reshape(*places, -1)


def convolve_fft(images, kernel, window: Window) -> np.ndarray:
    """The transform of a correlation is the product of the transforms, one of them
    conjugated: no sum over the kernel is left, whatever its size."""
    images = pad(images, window.padding)
    size = images.shape[1:3]
    spread = np.zeros((window.extent, window.extent, *kernel.shape[2:]), kernel.dtype)
    spread[:: window.dilation, :: window.dilation] = kernel

    of_images = np.fft.rfft2(images, size, axes=(1, 2))
    of_kernel = np.fft.rfft2(spread, size, axes=(0, 1))
    product = np.einsum("bijc,ijck->bijk", of_images, of_kernel.conj(), optimize=True)
    everywhere = np.fft.irfft2(product, size, axes=(1, 2))

    # The last places wrap around to the other side: they are none of ours.
    rows = size[0] - window.extent + 1
    columns = size[1] - window.extent + 1
    return everywhere[:, : rows : window.stride, : columns : window.stride]


def convolve_keras(images, kernel, window: Window) -> np.ndarray:
    """The way to use in practice. On CPUs it has either a stride or a dilation."""
    maps = ops.conv(
        pad(images, window.padding),
        kernel,
        strides=window.stride,
        dilation_rate=window.dilation,
    )
    return np.asarray(maps)


def max_pool(images: np.ndarray, window: Window) -> np.ndarray:
    """The highest number of each patch, in each channel:
    keras.layers.MaxPooling2D(size, stride)."""
    return patches(images, window).max(axis=(-2, -1))


def windows_of(model: keras.Model) -> list[Window]:
    """Those of a plain chain of convolutions and poolings, up to the first layer that
    sees everything."""
    windows = []
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            size = layer.kernel_size[0]
            dilation = layer.dilation_rate[0]
            windows.append(Window(size, layer.strides[0], dilation=dilation))
        elif isinstance(layer, layers.MaxPooling2D):
            windows.append(Window(layer.pool_size[0], layer.strides[0]))
        elif not isinstance(layer, layers.InputLayer):
            break
    return windows


def receptive_field(windows: list[Window]) -> int:
    """How many pixels across an output depends on, through layers from the first to the
    last: r = 1 + Σ (extent − 1) · strides of all layers before."""
    pixels = 1
    step = 1  # pixels of the picture from one place of this layer to the next
    for window in windows:
        pixels += (window.extent - 1) * step
        step *= window.stride
    return pixels


def convolution(x, filters: int, kernel_size: int = 3):
    """Conv → ReLU by Keras's layer, with so many zeros around that places are kept."""
    layer = layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
    )
    return layer(x)


def build_model(
    convolutions: int,
    stages: int,
    dense: int,
    image_shape: tuple[int, int, int],
    classes: int = 10,
    filters: int = 12,
    units: int = 128,
    name: str = "convnet",
) -> keras.Model:
    """((Conv → ReLU) * N → Pool) * M → (Dense → ReLU) * K → Dense, the lecture's N, M, K
    being convolutions, stages, dense. Without any of them it is a linear classifier.

    Input: (batch, *image_shape) in [0, 1]. Output: (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    x = images
    for _ in range(stages):
        for _ in range(convolutions):
            x = convolution(x, filters)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for _ in range(dense):
        x = layers.Dense(units, "relu", kernel_initializer="he_normal")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=name)


def build_stack(
    kernel_sizes: list[int],
    image_shape: tuple[int, int, int],
    classes: int = 10,
    filters: int = 12,
    name: str = "stack",
) -> keras.Model:
    """A first convolution that all have alike, then those to compare, from C filters to
    C: F²·C² weights each. Of each map only the highest number is kept, so nothing sees
    more than a receptive field. Input and output as of `build_model`."""
    images = keras.Input(image_shape, name="images")
    x = layers.MaxPooling2D(2)(convolution(images, filters))
    for kernel_size in kernel_sizes:
        x = convolution(x, filters, kernel_size)
    x = layers.GlobalMaxPooling2D()(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=name)


def multiply_adds(layer: layers.Layer) -> int:
    """Multiplications by weights for one image: each weight of a dense layer once, each
    of a convolution once at every place. Of a model, those of all its layers."""
    if isinstance(layer, keras.Model):
        return sum(multiply_adds(each) for each in layer.layers)
    if isinstance(layer, layers.Conv2D):
        places = math.prod(layer.output.shape[1:3])
        return places * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Dense):
        return math.prod(layer.kernel.shape)
    return 0


def pixels_seen(model: keras.Model, images) -> np.ndarray:
    """How strongly the outputs in the middle of a model's last maps depend on each
    pixel: the mean size of their gradient over images (batch, height, width, channels).
    Returns (height, width)."""
    images = tf.convert_to_tensor(images, "float32")
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = model(images)
        middle = maps[:, maps.shape[1] // 2, maps.shape[2] // 2]
        total = tf.reduce_sum(middle)
    gradient = tape.gradient(total, images)
    return np.abs(gradient).mean(axis=(0, 3))


def width_of(seen: np.ndarray) -> int:
    """Columns from the first to the last pixel that is seen at all."""
    columns = np.flatnonzero(seen.any(axis=0))
    return int(np.ptp(columns)) + 1 if len(columns) else 0


def compile_classifier(model: keras.Model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


# --------------------------------------------------------------------------------------
# The experiment: shifts, receptive fields, costs, and networks of each pattern
# --------------------------------------------------------------------------------------

IMAGE_SIZE = 20
# On validation images each network does as well by it as by half or twice of it, or
# better.
LEARNING_RATE = 1e-2

STAGES = 2  # the lecture's M: 20 pixels become 10, then 5
STACKS = {"one-3x3": [3], "one-7x7": [7], "three-3x3": [3, 3, 3]}

KERNELS = {
    "blur": np.ones((3, 3)) / 9,
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "horizontal edges": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
    "vertical edges": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "all edges": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
}

WAYS: dict[str, Callable] = {
    "loops": convolve_loops,
    "im2col": convolve_im2col,
    "FFT": convolve_fft,
}
KERNEL_SIZES = (3, 7, 15, 31)
PLACES = 64  # across, of the convolution that is timed
CHANNELS = 4  # its channels and filters
ROUNDS = 3

POOL_SIZES = (1, 2, 4, 8)


def judge_sizes(run: Run) -> None:
    """A 3×3 kernel on 7×7 pixels, of which one column at a time is lit: where that
    changes no output, the kernel never was."""
    lit = np.zeros((7, 7, 7, 1))
    for column in range(7):
        lit[column, :, column] = 1.0
    kernel = np.ones((3, 3, 1, 1))

    found = {}
    for stride, padding in ((1, 0), (2, 0), (3, 0), (3, 1)):
        window = Window(3, stride, padding)
        outputs = convolve_im2col(lit, kernel, window)
        seen = int(outputs.any(axis=(1, 2, 3)).sum())
        exact = float(output_size(7, window))
        found[stride, padding] = (outputs.shape[2], seen, exact)
    run.claim(
        "On 7×7 pixels, a 3×3 kernel has 5 places across at stride 1 and 3 at stride 2; "
        "stride 3 does not fit, and a column is left unseen, unless zeros are put around",
        holds=list(found.values()) == [(5, 7, 5), (3, 7, 3), (2, 6, 7 / 3), (3, 7, 3)],
        measured=", ".join(
            f"stride {stride} padding {padding}: {places} places by (W−F+2P)/S+1 = "
            f"{exact:.3g}, {seen} of 7 columns seen"
            for (stride, padding), (places, seen, exact) in found.items()
        ),
        any_data=True,
    )


def shift_error(layer: Callable, pictures: np.ndarray, shift: int, stride: int = 1):
    """How far a shifted picture's outputs are from the shifted outputs, relative to
    their spread: 0 if a shift goes through the layer, about 1.4 if they have nothing in
    common.

    layer: pictures → maps (batch, height, width, filters). Both pictures are cut from
    one that is larger, so nothing is filled up.
    """
    before = layer(pictures[:, :-shift, :-shift])
    after = layer(pictures[:, shift:, shift:])
    moved = shift // stride
    if moved:
        before = before[:, moved:, moved:]
        after = after[:, :-moved, :-moved]
    return float(np.std(after - before) / np.std(before))


def measure_shifts(pictures: np.ndarray, run: Run) -> dict[str, float]:
    """pictures: (batch, 24, 24, 1)."""
    random = np.random.default_rng(run.seed)
    kernel = random.normal(size=(5, 5, 1, 4))
    errors = {}
    for stride in (1, 2):
        window = Window(5, stride)
        layer = partial(convolve_im2col, kernel=kernel, window=window)
        for shift in (1, 2):
            name = f"convolution, stride {stride}, by {shift}"
            errors[name] = shift_error(layer, pictures, shift, stride)

    # As many inputs and outputs as at stride 1, each pair with a weight of its own.
    side = pictures.shape[1] - 2
    places = side - 4
    weights = random.normal(size=(side * side, places * places * 4))

    def dense(images):
        flat = images.reshape(len(images), -1)
        return (flat @ weights).reshape(-1, places, places, 4)

    errors["dense layer, by 2"] = shift_error(dense, pictures, 2)
    return errors


def measure_pooling(pictures: np.ndarray) -> dict[str, list[float]]:
    """How much maps of edges change when the picture moves by one pixel, by size of the
    pool; and beside it, where as many numbers are kept, but not the highest."""
    kernel = np.stack(list(KERNELS.values()), axis=-1)[:, :, np.newaxis]
    before = edges_of(pictures[:, :-1, :-1], kernel)
    after = edges_of(pictures[:, 1:, 1:], kernel)

    changes = {"max pooling": [], "every n-th number": []}
    for size in POOL_SIZES:
        window = Window(size, stride=size)
        pooled = max_pool(before, window)
        change = max_pool(after, window) - pooled
        changes["max pooling"].append(float(np.std(change) / np.std(pooled)))

        kept = before[:, ::size, ::size]
        change = after[:, ::size, ::size] - kept
        changes["every n-th number"].append(float(np.std(change) / np.std(kept)))
    return changes


def edges_of(pictures: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """ReLU of the three kernels that find edges."""
    maps = convolve_im2col(pictures, kernel[..., 2:], Window(3))
    return np.maximum(maps, 0)


def judge_shifts(errors, changes, run: Run) -> None:
    run.metrics("shift_error", errors)
    run.claim(
        "A convolution is equivariant to shifts: the shifted picture gives the shifted "
        "maps, at stride 2 only for even shifts; a dense layer knows nothing of it",
        holds=errors["convolution, stride 1, by 1"] < 1e-5
        and errors["convolution, stride 2, by 2"] < 1e-5
        and errors["convolution, stride 2, by 1"] > 0.1
        and errors["dense layer, by 2"] > 0.1,
        measured="difference, of the maps' standard deviation: "
        + ", ".join(f"{name} {error:.2g}" for name, error in errors.items()),
        any_data=True,
    )
    pooled = changes["max pooling"]
    kept = changes["every n-th number"]
    run.metric("change_pooled_by_8", pooled[-1])
    run.claim(
        "Pooling makes maps roughly invariant to a shift, the more the larger the pool "
        "is, but not quite; to keep as few numbers without pooling does not",
        holds=all(pooled[i + 1] < 0.9 * pooled[i] for i in range(len(pooled) - 1))
        and pooled[-1] > 0.01
        and kept[-1] > 2 * pooled[-1],
        measured="change by one pixel, of the standard deviation: "
        + ", ".join(
            f"pool {size} {one:.2f} (unpooled {other:.2f})"
            for size, one, other in zip(POOL_SIZES, pooled, kept, strict=True)
        ),
        any_data=True,
    )


@dataclass
class Costs:
    """Of one convolution, by way."""

    milliseconds: dict[str, list[float]]
    """the fastest of several rounds, by kernel size"""
    operations: dict[str, list[float]]
    """multiplications and additions, by kernel size"""


def operations_of_sums(size: int) -> float:
    """A multiplication and an addition for each weight at each place."""
    return 2 * PLACES**2 * size**2 * CHANNELS**2


def operations_of_fft(size: int) -> float:
    """2.5·n·log₂ n for each real transform, of images, filters and outputs, and eight
    for each product of two complex numbers, of which there are n/2."""
    pixels = (PLACES + size - 1) ** 2
    transforms = CHANNELS + CHANNELS**2 + CHANNELS
    of_transforms = 2.5 * pixels * math.log2(pixels) * transforms
    return of_transforms + 8 * pixels / 2 * CHANNELS**2


def measure_costs(run: Run) -> Costs:
    random = np.random.default_rng(run.seed)
    ways = WAYS | {"Keras": convolve_keras}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for size in run.track(KERNEL_SIZES, "kernel sizes"):
        side = PLACES + size - 1
        images = random.normal(size=(1, side, side, CHANNELS)).astype("float32")
        kernel = random.normal(size=(size, size, CHANNELS, CHANNELS))
        kernel = kernel.astype("float32")
        for name, convolve in ways.items():
            seconds = []
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                convolve(images, kernel, Window(size))
                seconds.append(time.perf_counter() - begin)
            milliseconds[name].append(1000 * min(seconds))

    sums = [operations_of_sums(size) for size in KERNEL_SIZES]
    transforms = [operations_of_fft(size) for size in KERNEL_SIZES]
    return Costs(milliseconds, {"sums": sums, "FFT": transforms})


def judge_costs(costs: Costs, run: Run) -> None:
    for name, found in costs.milliseconds.items():
        by_size = {
            f"{name} {size}": value
            for size, value in zip(KERNEL_SIZES, found, strict=True)
        }
        run.metrics("ms", by_size, unit="ms", timing=True)
    time_ratios = np.divide(costs.milliseconds["im2col"], costs.milliseconds["FFT"])
    count_ratios = np.divide(costs.operations["sums"], costs.operations["FFT"])
    run.claim(
        "Fourier's transform pays for large kernels, a matrix product for small ones, in "
        "seconds as in operations",
        holds=time_ratios[0] < 1
        and count_ratios[0] < 1
        and time_ratios[-1] > 2
        and count_ratios[-1] > 2,
        measured="im2col over FFT: "
        + ", ".join(
            f"{size}×{size} {seconds:.2g} times the seconds, {count:.2g} the operations"
            for size, seconds, count in zip(
                KERNEL_SIZES, time_ratios, count_ratios, strict=True
            )
        ),
        any_data=True,
    )


@dataclass
class Results:
    """Of one network from several starts."""

    model: keras.Model
    """the last one"""
    validation: float
    """mean accuracy on images to choose by"""
    test: np.ndarray
    """accuracies on images to report, (starts,)"""

    @property
    def accuracy(self) -> float:
        return float(self.test.mean())


def train(build: Callable[[], keras.Model], parts, config: Config, run: Run) -> Results:
    """parts: (x, y) to train on, to choose by and to report."""
    (x, y), valid, test_set = parts
    steps = config.epochs * math.ceil(len(x) / config.batch_size)
    validation = []
    test = []
    for _ in range(config.restarts):
        model = build()
        compile_classifier(model, LEARNING_RATE, steps)
        training.fit(
            model,
            x,
            y,
            epochs=config.epochs,
            batch_size=config.batch_size,
            callbacks=run.callbacks,
        )
        validation.append(accuracy(model, *valid))
        test.append(accuracy(model, *test_set))
    return Results(model, float(np.mean(validation)), np.array(test))


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    # Eager calls: to trace a model that is asked twice takes longer.
    batches = np.array_split(x, math.ceil(len(x) / 1000))
    logits = np.concatenate([np.asarray(model(batch)) for batch in batches])
    return float(np.mean(logits.argmax(axis=1) == y))


def load_parts(config: Config, run: Run):
    """Images to train on, to choose by and to report."""
    (x, y), test = data.load(config.data, size=IMAGE_SIZE)
    order = np.random.default_rng(run.seed).permutation(len(x))
    count = max(1, len(x) // 5)
    held_out = order[:count]
    rest = order[count:]
    return (x[rest], y[rest]), (x[held_out], y[held_out]), test


def patterns_of(config: Config) -> dict[str, tuple[int, int, int]]:
    """N, M and K of the lecture's pattern, by name."""
    patterns = {"linear": (0, 0, 0), "dense": (0, 0, 1)}
    for convolutions in range(1, config.convolutions + 1):
        patterns[f"convnet-{convolutions}"] = (convolutions, STAGES, 0)
    return patterns


def train_all(parts, config: Config, run: Run) -> dict[str, Results]:
    image_shape = parts[0][0].shape[1:]
    classes = len(data.class_names(config.data))
    builders = {}
    for name, pattern in patterns_of(config).items():
        builders[name] = partial(
            build_model,
            *pattern,
            image_shape=image_shape,
            classes=classes,
            filters=config.filters,
            units=config.units,
            name=name,
        )
    for name, kernel_sizes in STACKS.items():
        builders[name] = partial(
            build_stack, kernel_sizes, image_shape, classes, config.filters, name
        )
    return {name: train(build, parts, config, run) for name, build in builders.items()}


def judge_patterns(results: dict[str, Results], run: Run) -> str:
    """Returns the name of the convnet that validates best."""
    convnets = {
        name: each.validation
        for name, each in results.items()
        if name.startswith("convnet")
    }
    chosen = max(convnets, key=convnets.get)
    run.metric("test_accuracy", results[chosen].accuracy)
    accuracies = {name: each.accuracy for name, each in results.items()}
    run.metrics("test_accuracy", accuracies)
    tests = {name: accuracies[name] for name in ("linear", "dense", chosen)}
    run.compare(
        "((Conv → ReLU) * N → Pool) * M classifies far better than a linear classifier",
        tests,
        more=chosen,
        less="linear",
        by=0.02,
    )

    convnet = results[chosen].model
    weights = {name: results[name].model.count_params() for name in tests}
    products = {name: multiply_adds(results[name].model) for name in tests}
    run.claim(
        "Fewer parameters, more computation: a convnet beats a dense network of more "
        "weights, as it multiplies each of its own at many places",
        holds=weights[chosen] < weights["dense"]
        and products[chosen] > products["dense"]
        and tests[chosen] > tests["dense"] + 0.005,
        measured=", ".join(
            f"{name} {weights[name]:,} weights, {products[name]:,} multiplications, "
            f"{tests[name]:.1%}"
            for name in ("dense", chosen)
        )
        + f"; a dense layer in place of the first convolution: "
        f"{dense_weights(convnet):,} weights and multiplications, not "
        f"{convnet.layers[1].count_params():,} and "
        f"{multiply_adds(convnet.layers[1]):,}",
    )
    return chosen


def dense_weights(model: keras.Model) -> int:
    """Weights of a dense layer with the same inputs and outputs as the first layer."""
    layer = model.layers[1]
    return math.prod(layer.input.shape[1:]) * math.prod(layer.output.shape[1:])


@dataclass
class Seen:
    """What a network's last maps depend on."""

    by_rule: int
    """pixels across by the formula"""
    by_gradient: int
    """pixels across that have a gradient"""
    strengths: np.ndarray
    """of the gradient by pixel, (height, width)"""


def look(model: keras.Model, images: np.ndarray) -> Seen:
    windows = windows_of(model)
    # The layers are the images, then one for each window.
    maps = keras.Model(model.input, model.layers[len(windows)].output)
    strengths = pixels_seen(maps, images)
    return Seen(receptive_field(windows), width_of(strengths), strengths)


def judge_fields(
    results: dict[str, Results], images: np.ndarray, run: Run
) -> dict[str, Seen]:
    seen = {name: look(results[name].model, images) for name in STACKS}
    weights = {}
    products = {}
    for name in STACKS:
        # Without what all have: the images, a convolution, a pool; and the last two.
        compared = results[name].model.layers[3:-2]
        weights[name] = sum(math.prod(layer.kernel.shape) for layer in compared)
        products[name] = sum(multiply_adds(layer) for layer in compared)
    tests = {name: results[name].accuracy for name in STACKS}
    run.claim(
        "Three 3×3 see what one 7×7 sees, by the formula and by the gradient, and one "
        "3×3 sees less",
        holds=all(each.by_rule == each.by_gradient for each in seen.values())
        and seen["three-3x3"].by_rule == seen["one-7x7"].by_rule
        and seen["one-3x3"].by_rule < seen["one-7x7"].by_rule,
        measured="pixels across, after a first 3×3 and a pool: "
        + ", ".join(
            f"{name} {each.by_rule} by formula, {each.by_gradient} by gradient"
            for name, each in seen.items()
        ),
    )
    run.claim(
        "Three 3×3 classify nearly as well as one 7×7 (within 8 points), with 27/49 of "
        "its weights and multiplications, and both better than one 3×3, which sees less",
        holds=tests["three-3x3"] > tests["one-7x7"] - 0.08
        and 49 * weights["three-3x3"] <= 27 * weights["one-7x7"]
        and 49 * products["three-3x3"] <= 27 * products["one-7x7"]
        and tests["one-7x7"] > tests["one-3x3"] + 0.01
        and tests["three-3x3"] > tests["one-3x3"] + 0.01,
        measured=", ".join(
            f"{name} {tests[name]:.1%} by {weights[name]:,} weights and "
            f"{products[name]:,} multiplications"
            for name in STACKS
        ),
    )
    return seen


def draw_kernels(picture: np.ndarray) -> plt.Figure:
    """What kernels made by hand make of a gray picture (height, width)."""
    figure, grid = plt.subplots(
        2, len(KERNELS) + 1, figsize=(13, 4.6), height_ratios=(1, 2)
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    grid[1, 0].imshow(picture, cmap="gray", vmin=0, vmax=1)
    grid[1, 0].set_title("picture")

    images = picture[np.newaxis, ..., np.newaxis]
    for column, (name, kernel) in enumerate(KERNELS.items(), start=1):
        above = grid[0, column]
        above.imshow(kernel, cmap="PuOr", vmin=-8, vmax=8)
        for (row, place), weight in np.ndenumerate(kernel):
            text = f"{weight:.2g}"
            color = "white" if weight > 4 else "black"
            above.text(place, row, text, ha="center", va="center", color=color)
        maps = convolve_im2col(images, kernel[..., np.newaxis, np.newaxis], Window(3))
        below = grid[1, column]
        below.set_title(name)
        if kernel.sum() == 0:
            below.imshow(maps[0, ..., 0], cmap="PuOr", vmin=-1, vmax=1)
        else:
            below.imshow(maps[0, ..., 0], cmap="gray", vmin=0, vmax=1)
    figure.suptitle("One kernel, at every place (purple: above 0, orange: below)")
    return figure


def draw_fields(seen: dict[str, Seen]) -> plt.Figure:
    figure, grid = plt.subplots(1, len(seen), figsize=(4 * len(seen), 4.2))
    for axes, (name, each) in zip(grid, seen.items(), strict=True):
        strengths = each.strengths / (each.strengths.max() or 1)
        # The square root, as the rim is seen hundreds of times more faintly.
        drawn = axes.imshow(np.sqrt(strengths), vmin=0, vmax=1)
        axes.set(title=f"{name}: {each.by_gradient} pixels across")
        axes.set(xlabel="column", ylabel="row")
        axes.set(xticks=range(0, strengths.shape[1], 4))
        axes.set(yticks=range(0, strengths.shape[0], 4))
        axes.grid(visible=False)
    figure.colorbar(drawn, ax=grid, label="√ gradient, of its largest", shrink=0.8)
    figure.suptitle("Pixels on which an output in the middle depends")
    return figure


def draw_shifts(errors: dict[str, float], changes) -> plt.Figure:
    bars = figures.Panel(
        title="Shifted picture against shifted maps",
        xlabel="difference / standard deviation",
        bars=errors,
        number="{:.2g}",
    )
    lines = {name: (POOL_SIZES, found) for name, found in changes.items()}
    pools = figures.Panel(
        title="Maps of edges, picture moved by one pixel",
        xlabel="numbers across a pool",
        ylabel="change / standard deviation",
        lines=lines,
        ylim=(0, None),
        xticks=POOL_SIZES,
        xscale="log",
    )
    return figures.panels(bars, pools)


def draw_costs(costs: Costs) -> plt.Figure:
    shown = []
    for ylabel, by_way in (
        ("operations", costs.operations),
        ("milliseconds", costs.milliseconds),
    ):
        lines = {name: (KERNEL_SIZES, found) for name, found in by_way.items()}
        panel = figures.Panel(
            title=f"{PLACES}×{PLACES} places, {CHANNELS} channels and filters",
            xlabel="kernel size F",
            ylabel=ylabel,
            lines=lines,
            xscale="log",
            yscale="log",
            xticks=KERNEL_SIZES,
        )
        shown.append(panel)
    return figures.panels(*shown)


def draw_networks(results: dict[str, Results]) -> plt.Figure:
    shown = figures.Panel(
        title="Held-out accuracy and cost",
        xlabel="weights",
        ylabel="accuracy",
        points={
            f"{name}: {multiply_adds(each.model):,} multiplications": (
                [each.model.count_params()] * len(each.test),
                each.test,
            )
            for name, each in results.items()
        },
        xscale="log",
        xticks=(1_000, 3_000, 10_000, 30_000, 100_000),
    )
    return figures.panels(shown)


def main(config: Config, run: Run) -> None:
    networks = len(patterns_of(config)) + len(STACKS)
    run.plan(networks * config.restarts)
    parts = load_parts(config, run)
    (x, _), _, _ = parts
    results = train_all(parts, config, run)
    chosen = judge_patterns(results, run)
    seen = judge_fields(results, x[:300], run)
    run.figure("networks", draw_networks(results))
    run.figure("receptive_fields", draw_fields(seen))

    judge_sizes(run)
    photos = data.load_photos(131).mean(axis=-1, keepdims=True)
    small = data.load_photos(24).mean(axis=-1, keepdims=True)
    errors = measure_shifts(small, run)
    changes = measure_pooling(photos)
    judge_shifts(errors, changes, run)
    run.figure("shifts", draw_shifts(errors, changes))
    run.figure("kernels", draw_kernels(photos[1, ..., 0]))

    costs = measure_costs(run)
    judge_costs(costs, run)
    run.figure("costs", draw_costs(costs))
    run.export(serving.classifier(results[chosen].model), example=x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
