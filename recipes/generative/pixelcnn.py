"""PixelCNN: a picture painted pixel by pixel, and its likelihood as a product.

Any distribution of pictures is a product of distributions of one pixel, each given all
that come before it in reading order: p(x) = Π_i p(x_i | x_1, ..., x_{i−1}). A network of
convolutions that never look at the pixel itself or at a later one gives all factors at
once, so log p(x) is exact, and training is classification: which gray level comes next.
A mask on the filters does it, but a stack of such filters misses a part of what was
painted above and to the right: the blind spot. Two stacks, one for the rows above and
one for the row so far, see all of it; each layer is a gate, tanh(a)·σ(b).
Painting has to go one pixel after the other. Look at what each network sees of a
picture, at the bits per pixel beside file formats, at the digits, and at the lower
halves it finds for one upper half.

Lectures: INFO Generative Models (PixelRNN and PixelCNN); SEL Generative Models
Paper: van den Oord et al., Pixel recurrent neural networks, 2016 (equation 1, figure 2);
    van den Oord et al., Conditional image generation with PixelCNN decoders, 2016
    (equation 2, figures 1 and 2)
Tags: autoregressive, masked convolution, gated, bits per dimension,
    generative model, lossless compression, inpainting
"""

import gzip
import io
import math
import time
from dataclasses import dataclass
from typing import Annotated

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from deep_learning_recipes import data, figures, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    size: Annotated[int, Interval(ge=4, le=64)] = 14
    """side of the images in pixels"""
    levels: Annotated[int, Interval(ge=2, le=16)] = 4
    """shades of gray that a pixel may have"""
    filters: int = 24
    """of each convolution"""
    blocks: int = 5
    """gated layers of the two stacks, each sees one pixel farther"""
    epochs: int = 8
    """passes over the training images"""
    batch_size: int = 32
    """images a gradient is averaged over"""
    learning_rate: float = 4e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""


QUICK = Config(data="digits", size=8, filters=16, blocks=2, epochs=6)
FULL = Config(size=28, filters=48, blocks=12, epochs=40)

# --------------------------------------------------------------------------------------
# The idea: no pixel may look at itself or at a later one
# --------------------------------------------------------------------------------------

FIRST = 3  # pixels that the first convolution sees to each side


def causal_mask(size: int, include_self: bool) -> np.ndarray:
    """1 where a filter (size, size) may look: what comes before its middle in reading
    order, and the middle itself if `include_self` (types B and A of the paper)."""
    places = np.arange(size * size).reshape(size, size)
    middle = places[size // 2, size // 2]
    return (places < middle + include_self).astype("float32")


class MaskedConv2D(layers.Layer):
    """A convolution whose kernel is multiplied by a mask (height, width) of 0 and 1."""

    def __init__(self, filters: int, mask: np.ndarray, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.mask = mask[..., np.newaxis, np.newaxis]

    def build(self, shape):
        kernel_shape = (*self.mask.shape[:2], shape[-1], self.filters)
        self.kernel = self.add_weight(shape=kernel_shape, name="kernel")
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        kernel = self.kernel * ops.cast(self.mask, x.dtype)
        return ops.conv(x, kernel, padding="same") + self.bias


def build_masked(levels: int, filters: int, blocks: int) -> keras.Model:
    """The first PixelCNN, one stack of masked filters, with a blind spot. Input: images
    (batch, height, width, 1) in [0, 1]. Output: logits of the levels of each pixel,
    (batch, height, width, levels)."""
    images = keras.Input((None, None, 1), name="images")
    x = MaskedConv2D(filters, causal_mask(2 * FIRST + 1, include_self=False))(images)
    for _ in range(blocks):
        branch = MaskedConv2D(filters, causal_mask(3, include_self=True))(ops.relu(x))
        x = x + branch
    logits = read_out(x, levels, filters)
    return keras.Model(images, logits, name="masked")


def read_out(x, levels: int, filters: int):
    """From features to logits, each pixel for itself."""
    x = layers.Conv2D(2 * filters, 1, activation="relu")(ops.relu(x))
    # What likelihoods are made of stays in 32 bits, whatever --precision says.
    return layers.Conv2D(levels, 1, dtype="float32", name="logits")(x)


def shift_down(x):
    """Each place gets the pixel above. From then on a filter may look at its own place,
    as what it finds there has been painted before."""
    return layers.ZeroPadding2D(((1, 0), (0, 0)))(x)[:, :-1]


def shift_right(x):
    """Each place gets the pixel to the left."""
    return layers.ZeroPadding2D(((0, 0), (1, 0)))(x)[:, :, :-1]


def look_up(x, filters: int, rows: int, sides: int):
    """A convolution of this row and those above, `sides` pixels to the left and right.
    Its mask would leave a whole rectangle, so it is a filter of that size."""
    x = layers.ZeroPadding2D(((rows - 1, 0), (sides, sides)))(x)
    return layers.Conv2D(filters, (rows, 2 * sides + 1))(x)


def look_left(x, filters: int, pixels: int):
    """A convolution of this pixel and those to the left in its row."""
    x = layers.ZeroPadding2D(((0, 0), (pixels - 1, 0)))(x)
    return layers.Conv2D(filters, (1, pixels))(x)


def gate(x):
    """tanh(a)·σ(b), a and b the halves of the channels."""
    a, b = ops.split(x, 2, axis=-1)
    return ops.tanh(a) * ops.sigmoid(b)


def build_above(filters: int, blocks: int) -> keras.Model:
    """The stack that sees the rows above. Input: images (batch, height, width, 1).
    Output: what it tells the blocks of the other stack, (batch, height, width, blocks,
    2 · filters)."""
    images = keras.Input((None, None, 1), name="images")
    x = look_up(shift_down(images), filters, rows=FIRST, sides=FIRST)
    told = []
    for _ in range(blocks):
        x = look_up(x, 2 * filters, rows=2, sides=1)
        told.append(layers.Conv2D(2 * filters, 1)(x))
        x = gate(x)
    return keras.Model(images, ops.stack(told, axis=-2), name="above")


def build_row(levels: int, filters: int, blocks: int) -> keras.Model:
    """The stack that sees the row so far. Inputs: images, or one row of them, and what
    the other stack tells of it. Output: logits (batch, height, width, levels)."""
    images = keras.Input((None, None, 1), name="images")
    told = keras.Input((None, None, blocks, 2 * filters), name="told")
    x = look_left(shift_right(images), filters, pixels=FIRST)
    for each in ops.unstack(told, axis=-2):
        branch = look_left(x, 2 * filters, pixels=2) + each
        x = x + layers.Conv2D(filters, 1)(gate(branch))
    logits = read_out(x, levels, filters)
    return keras.Model([images, told], logits, name="row")


def build_gated(levels: int, filters: int, blocks: int) -> keras.Model:
    """The gated PixelCNN, without a blind spot. Input and output: as of
    `build_masked`."""
    images = keras.Input((None, None, 1), name="images")
    above = build_above(filters, blocks)
    row = build_row(levels, filters, blocks)
    logits = row([images, above(images)])
    return keras.Model(images, logits, name="gated")


def quantize(x, levels: int):
    """Gray in [0, 1] as one of the levels 0, ..., levels − 1."""
    return ops.cast(ops.minimum(x * levels, levels - 1), "int32")


def to_gray(level, levels: int):
    """The levels 0, ..., levels − 1 as gray in [0, 1]."""
    return ops.cast(level, "float32") / (levels - 1)


def bits(logits, level):
    """−log₂ p(x_i | x_1, ..., x_{i−1}), (batch, height, width). Their sum is −log₂ p(x),
    the size of the picture's file if this is its arithmetic code. level: of each pixel,
    (batch, height, width)."""
    nats = ops.sparse_categorical_crossentropy(level, logits, from_logits=True)
    return nats / math.log(2)


def draw_level(logits, uniform):
    """The level at which the sum of the probabilities reaches a random number of
    [0, 1): (batch,) from logits (batch, levels)."""
    reached = ops.cumsum(ops.softmax(logits), axis=-1)[:, :-1]
    return ops.sum(ops.cast(uniform[:, None] >= reached, "int32"), axis=-1)


def paint_naively(network, images, uniform, pixels: int):
    """All of the network for each of the first pixels. images: (batch, height, width,
    1). uniform: (batch, height, width) random numbers in [0, 1)."""
    images = np.array(images)
    width = images.shape[2]
    for place in range(pixels):
        r, c = divmod(place, width)
        logits = network(images)[:, r, c]
        level = draw_level(logits, uniform[:, r, c])
        images[:, r, c, 0] = to_gray(level, logits.shape[-1])
    return images


class Painter:
    """Paints by a trained gated network, in one compiled call that repeats little: one
    stack is asked once for each row, the other once for each pixel, and both are shown
    no more than what they see from there."""

    def __init__(self, network: keras.Model, blocks: int):
        self.above = network.get_layer("above")
        self.row = network.get_layer("row")
        self.reach = FIRST + blocks  # pixels up, and to the left

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 1], tf.float32),
            tf.TensorSpec([None, None, None], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def paint(self, images, uniform, first_row):
        """Paints from this row on. images: (batch, height, width, 1), whose earlier
        rows stay. uniform: (batch, height, width) random numbers in [0, 1)."""
        height = tf.shape(images)[1]
        for r in tf.range(first_row, height):
            top = tf.maximum(r - self.reach, 0)
            told = self.above(images[:, top : r + 1])[:, -1:]
            row = self.paint_row(images[:, r : r + 1], told, uniform[:, r])
            is_row = tf.range(height)[:, None, None] == r
            images = tf.where(is_row, row, images)
        return images

    def paint_row(self, row, told, uniform):
        """row: (batch, 1, width, 1). told: what the stack above tells of it."""
        width = tf.shape(row)[2]
        for c in tf.range(width):
            left = tf.maximum(c - self.reach, 0)
            seen = [row[:, :, left : c + 1], told[:, :, left : c + 1]]
            logits = self.row(seen)[:, 0, -1]
            level = draw_level(logits, uniform[:, c])
            gray = to_gray(level, logits.shape[-1])
            is_here = tf.range(width)[:, None] == c
            row = tf.where(is_here, gray[:, None, None, None], row)
        return row


def dependence(network, image, pixels):
    """|∂ Σ logits of pixel i / ∂ pixel j| for some pixels i, by their numbers in reading
    order, and all pixels j: (pixels, height · width). image: (height, width, 1).

    There is one copy of the picture for each i, whose logits alone are summed."""
    copies = tf.tile(image[None], (len(pixels), 1, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(copies)
        logits = tf.reduce_sum(network(copies), axis=-1)
        logits = tf.reshape(logits, (len(pixels), -1))
        own = tf.gather(logits, pixels[:, None], axis=1, batch_dims=1)
    slopes = tape.gradient(own, copies)
    return np.abs(slopes).reshape(len(pixels), -1)


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)


# --------------------------------------------------------------------------------------
# The experiment: what each sees, bits beside file formats, digits and halves of them
# --------------------------------------------------------------------------------------

DRAWN = 1000  # pictures at most, as many as are held out
NAIVE_PIXELS = 4  # that the naive loop is timed on
COMPLETED = 200  # upper halves at most
COMPLETIONS = ("first", "second", "third")  # lower halves for each of them
SHEET_COLUMNS = (1, 20)  # images side by side in a file


@dataclass
class Images:
    """Of a few levels of gray."""

    level: np.ndarray
    """(n, height, width)"""
    x: np.ndarray
    """the levels as gray in [0, 1], (n, height, width, 1)"""
    y: np.ndarray
    """classes, (n,), which the judge of the samples learns"""


def load(config: Config, seed: int) -> tuple[Images, Images]:
    """To train on, and held out."""
    parts = data.load(config.data, size=config.size, channels=1, seed=seed)
    found = []
    for x, y in parts:
        level = np.asarray(quantize(x[..., 0], config.levels))
        gray = np.asarray(to_gray(level, config.levels))[..., np.newaxis]
        found.append(Images(level, gray, y))
    train_images, held_out = found
    return train_images, held_out


def train(
    model: keras.Model, images: Images, held_out: Images, config: Config, run: Run
) -> np.ndarray:
    """Returns the bits per held-out pixel by epoch."""
    steps = config.epochs * math.ceil(len(images.x) / config.batch_size)
    compile_model(model, config.learning_rate, steps)
    history = training.fit(
        model,
        images.x,
        images.level,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation_data=(held_out.x, held_out.level),
        callbacks=run.callbacks,
    ).history
    return np.array(history["val_loss"]) / math.log(2)


class Histogram:
    """Each pixel for itself: how often it had each level."""

    def __init__(self, level: np.ndarray, levels: int):
        """level: (n, height, width)."""
        counts = np.stack([(level == each).sum(axis=0) for each in range(levels)], -1)
        self.probabilities = (counts + 1) / (len(level) + levels)

    def bits(self, level: np.ndarray) -> float:
        """Mean over the pixels."""
        chosen = np.take_along_axis(self.probabilities[None], level[..., None], -1)
        return float(-np.log2(chosen).mean())

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """Levels from random numbers in [0, 1), both (n, height, width)."""
        reached = self.probabilities.cumsum(axis=-1)[..., :-1]
        return (uniform[..., None] >= reached).sum(axis=-1)


class Table:
    """How often each level came after those of the four neighbors that are before it:
    left, above to the left, above, above to the right."""

    def __init__(self, level: np.ndarray, levels: int):
        """level: (n, height, width)."""
        self.levels = levels
        shares = np.bincount(level.ravel(), minlength=levels) + 1
        shares = shares / shares.sum()
        counts = np.zeros((levels**4, levels))
        np.add.at(counts, (self.contexts(level), level), 1)
        # Where little was counted, the shares of all pixels count.
        totals = counts.sum(axis=1, keepdims=True)
        self.probabilities = (counts + shares) / (totals + 1)

    def contexts(self, level: np.ndarray) -> np.ndarray:
        """The neighbors as one number, (n, height, width)."""
        padded = np.pad(level, ((0, 0), (1, 0), (1, 1)))
        neighbors = (
            padded[:, 1:, :-2],
            padded[:, :-1, :-2],
            padded[:, :-1, 1:-1],
            padded[:, :-1, 2:],
        )
        return sum(each * self.levels**i for i, each in enumerate(neighbors))

    def bits(self, level: np.ndarray) -> float:
        """Mean over the pixels."""
        return float(-np.log2(self.probabilities[self.contexts(level), level]).mean())

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """As of `Histogram`, one pixel after the other."""
        level = np.zeros(uniform.shape, "int64")
        reached = self.probabilities.cumsum(axis=-1)[:, :-1]
        for r, c in np.ndindex(uniform.shape[1:]):
            here = reached[self.contexts(level[:, : r + 1])[:, r, c]]
            level[:, r, c] = (uniform[:, r, c, None] >= here).sum(axis=-1)
        return level


def file_bits(level: np.ndarray) -> dict[str, float]:
    """Bits per pixel of lossless files of all images (n, height, width) on one sheet,
    each format's smaller of a tall and a wide one."""
    found = []
    for columns in SHEET_COLUMNS:
        sheet = lay_out(level, columns)
        sizes = file_sizes(sheet)
        found.append({name: 8 * size / sheet.size for name, size in sizes.items()})
    return {name: min(each[name] for each in found) for name in found[0]}


def lay_out(level: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, height, width) as one of (rows · height, columns · width); what would
    fill no row is left out."""
    _, height, width = level.shape
    columns = min(columns, len(level))
    whole = level[: len(level) // columns * columns]
    tiles = whole.reshape(-1, columns, height, width).transpose(0, 2, 1, 3)
    return tiles.reshape(-1, columns * width).astype("uint8")


def file_sizes(sheet: np.ndarray) -> dict[str, int]:
    """In bytes. PNG packs 2 or 4 levels into 1 or 2 bits of a pixel, else 4."""
    depth = next(bits for bits in (1, 2, 4) if sheet.max() < 2**bits)
    palette = Image.fromarray(sheet, "P")
    palette.putpalette(np.repeat(np.arange(16, dtype="uint8") * 17, 3).tobytes())
    png = io.BytesIO()
    palette.save(png, "PNG", optimize=True, bits=depth)
    webp = io.BytesIO()
    Image.fromarray(sheet * 17).save(webp, "WEBP", lossless=True, quality=100, method=6)
    return {
        "PNG": len(png.getvalue()),
        "gzip": len(gzip.compress(sheet.tobytes(), 9)),
        "WebP": len(webp.getvalue()),
    }


def sensitivities(network, image: np.ndarray) -> np.ndarray:
    """As of `dependence`, (pixels, pixels), some pixels at a time."""
    count = image.shape[0] * image.shape[1]
    parts = np.array_split(np.arange(count), math.ceil(count / 49))
    return np.concatenate([dependence(network, image, part) for part in parts])


def judge_order(networks, image: np.ndarray, run: Run) -> None:
    """Largest derivative with respect to earlier pixels, and to all others."""
    found = {name: sensitivities(each, image) for name, each in networks.items()}
    later = {name: float(np.triu(each).max()) for name, each in found.items()}
    earlier = {name: float(each.max()) for name, each in found.items()}
    run.claim(
        "What is said of a pixel does not depend on itself or on a later one, in either "
        "network: all such derivatives are 0",
        holds=max(later.values()) == 0 and min(earlier.values()) > 0,
        measured=", ".join(
            f"{name}: at most {later[name]:g}, with respect to earlier ones "
            f"{earlier[name]:.3g}"
            for name in networks
        ),
        any_data=True,
    )


def find_views(networks, reach: int, seed: int) -> dict[str, np.ndarray]:
    """Which pixels of a noisy picture the logits of its middle depend on, by network:
    (2 · reach + 1, 2 · reach + 1)."""
    side = 2 * reach + 1
    random = np.random.default_rng(seed)
    middle = np.array([side * reach + reach])
    views = {name: np.zeros((side, side), bool) for name in networks}
    for name, network in networks.items():
        for _ in range(4):
            noise = random.random((side, side, 1)).astype("float32")
            slopes = dependence(network, noise, middle)
            views[name] |= slopes.reshape(side, side) > 0
    return views


def judge_views(views: dict[str, np.ndarray], run: Run) -> None:
    side = len(views["gated"])
    before = causal_mask(side, include_self=False) > 0
    missed = {name: int(np.sum(before & ~view)) for name, view in views.items()}
    run.metrics("blind_pixels", missed)
    run.claim(
        "A stack of masked filters has a blind spot above to the right; two stacks see "
        "all pixels before, as far as they reach",
        holds=missed["gated"] == 0 and missed["masked"] > 0,
        measured=f"of {before.sum()} pixels before: masked misses {missed['masked']}, "
        f"gated {missed['gated']}",
        any_data=True,
    )


def judge_bits(found: dict[str, float], config: Config, run: Run) -> None:
    """found: bits per held-out pixel by name."""
    run.metrics("bits_per_pixel", found)
    formats = [found[name] for name in ("PNG", "gzip", "WebP")]
    run.claim(
        "Held-out images take fewer bits per pixel than by a histogram of each pixel, by "
        "a table of four neighbors, and in the best of three file formats",
        holds=found["gated"] < 0.85 * found["histogram"]
        and found["gated"] < 0.85 * found["table"]
        and found["gated"] < 0.75 * min(formats),
        measured=", ".join(f"{name} {each:.3f}" for name, each in found.items()),
    )
    # In pictures of 8×8 pixels nearly nothing is blind, and seeds differ by as much.
    if config.size > 8:
        run.compare(
            "Gates without a blind spot are worth bits: with as many weights that are "
            "not masked, the gated network needs fewer",
            found,
            more="masked",
            less="gated",
            by=0.008,
        )


def paint(painter: Painter, network, count: int, side: int, run: Run) -> np.ndarray:
    """Paints pictures, (count, side, side, 1), and compares its speed."""
    random = np.random.default_rng(run.seed)
    uniform = random.random((count, side, side), "float32")
    blank = np.zeros((count, side, side, 1), "float32")
    painter.paint(blank[:2], uniform[:2], 0)  # compiles

    # Of the processor, as what else runs on the machine would count as well otherwise.
    start = time.process_time()
    images = painter.paint(blank, uniform, 0).numpy()
    seconds = time.process_time() - start
    start = time.process_time()
    paint_naively(network, blank, uniform, NAIVE_PIXELS)
    naive_seconds = time.process_time() - start
    judge_speed(
        {
            "compiled": images.size / seconds,
            "naive": count * NAIVE_PIXELS / naive_seconds,
        },
        run,
    )
    return images


def judge_speed(speeds: dict[str, float], run: Run) -> None:
    run.metrics("pixels_per_cpu_second", speeds, timing=True)
    run.compare(
        "One compiled call that repeats little paints far faster than the whole network "
        "for each pixel (pixels per second of the processor, of all pictures at once)",
        speeds,
        more="compiled",
        less="naive",
        times=4,
        any_data=True,
    )


def draw_from(rival, count: int, config: Config, seed: int) -> np.ndarray:
    """Pictures by a table or histogram, (count, size, size, 1)."""
    random = np.random.default_rng(seed)
    level = rival.draw(random.random((count, config.size, config.size)))
    return np.asarray(to_gray(level, config.levels))[..., np.newaxis]


def judge_samples(
    drawn: dict[str, np.ndarray],
    images: Images,
    held_out: Images,
    config: Config,
    run: Run,
) -> None:
    classes = len(data.class_names(config.data))
    judge = samples.train_judge(
        (images.x, images.y), (held_out.x, held_out.y), classes=classes, run=run
    )
    scores = samples.report(run, drawn, judge)
    frechet = {name: each.frechet for name, each in scores.items()}
    run.claim(
        "Painted pictures are nearer to held-out ones than those that a table of four "
        "neighbors or each pixel's usual levels give (Fréchet distance)",
        holds=all(
            frechet["gated"] < 0.85 * frechet[rival] for rival in ("table", "histogram")
        ),
        measured=", ".join(f"{name} {each:.3g}" for name, each in frechet.items()),
    )


def complete(painter: Painter, x: np.ndarray, seed: int) -> np.ndarray:
    """Several lower halves for each upper half: (completions, n, height, width, 1)."""
    random = np.random.default_rng(seed)
    half = x.shape[1] // 2
    copies = np.tile(x, (len(COMPLETIONS), 1, 1, 1))
    uniform = random.random(copies.shape[:3], "float32")
    painted = painter.paint(copies, uniform, half).numpy()
    return painted.reshape(len(COMPLETIONS), *x.shape)


def judge_completions(completed: np.ndarray, x: np.ndarray, run: Run) -> None:
    """By how often they differ, and how gray they are."""
    half = x.shape[1] // 2
    mean = completed.mean(axis=0)
    grays = {
        "painted": samples.grayness(completed[:, :, half:]),
        "their mean": samples.grayness(mean[:, half:]),
        "true": samples.grayness(x[:, half:]),
    }
    differ = np.any(completed[0] != completed[1], axis=(1, 2, 3)).mean()
    run.metrics("grayness_half", grays)
    run.claim(
        "One upper half gets several lower halves, each about as sharp as a true one; "
        "their mean, the best guess in squared error, is blurred",
        holds=differ > 0.9
        and abs(grays["painted"] / grays["true"] - 1) < 0.15
        and grays["their mean"] > 1.2 * grays["painted"],
        measured=f"{differ:.0%} differ; grayness: "
        + ", ".join(f"{name} {each:.3f}" for name, each in grays.items()),
    )


def draw_views(views: dict[str, np.ndarray]) -> Figure:
    side = len(views["gated"])
    before = causal_mask(side, include_self=False) > 0
    figure, grid = plt.subplots(1, 2, figsize=(10, 5.6))
    palette = ("0.93", figures.COLORS[1], figures.COLORS[0], "black")
    words = ("comes later", "before, but not seen", "seen", "the pixel itself")
    for (name, view), axes in zip(views.items(), grid, strict=True):
        kinds = np.where(view, 2, np.where(before, 1, 0))
        kinds[side // 2, side // 2] = 3
        colors = np.array([matplotlib.colors.to_rgb(each) for each in palette])
        axes.imshow(colors[kinds])
        axes.set_xticks(np.arange(side + 1) - 0.5, [])
        axes.set_yticks(np.arange(side + 1) - 0.5, [])
        axes.tick_params(length=0)
        axes.grid(visible=True, color="white", alpha=1)
        axes.set_title(name)
    patches = [
        matplotlib.patches.Patch(color=color, label=word)
        for color, word in zip(palette, words, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=4)
    figure.suptitle("What the answer for one pixel depends on")
    return figure


def draw_bits(found: dict[str, float], by_epoch: dict[str, np.ndarray]) -> Figure:
    learning = figures.Panel(
        title="While they learn",
        xlabel="epoch",
        ylabel="bits per held-out pixel",
        lines=by_epoch,
        levels={"table of neighbors": found["table"]},
    )
    rivals = figures.Panel(
        title="Held-out images: lower is better",
        xlabel="bits per pixel",
        bars=found,
        number="{:.3f}",
    )
    return figures.panels(learning, rivals)


def draw_surprise(network, x, level) -> Figure:
    """Images, and below them the bits of their pixels."""
    found = np.asarray(bits(network(x), level))
    figure, grid = plt.subplots(2, len(x), figsize=(1.35 * len(x) + 0.9, 3.4))
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for picture, spent, (above, below) in zip(x, found, grid.T, strict=True):
        above.imshow(picture, cmap="gray", vmin=0, vmax=1)
        drawn = below.imshow(spent, vmin=0, vmax=np.quantile(found, 0.99))
        below.set_xlabel(f"{spent.sum():.0f} bits")
    figure.colorbar(drawn, ax=grid, label="bits", extend="max", aspect=15, pad=0.01)
    figure.suptitle("Where a picture's bits go: held-out images, pixel by pixel")
    return figure


def draw_samples(drawn: dict[str, np.ndarray], x: np.ndarray) -> Figure:
    rows = {"held out": x, **drawn}
    title = "Held-out images, and pictures that were drawn"
    return figures.image_rows(rows, title=title, columns=12)


def draw_completions(x: np.ndarray, completed: np.ndarray) -> Figure:
    given = x.copy()
    given[:, x.shape[1] // 2 :] = 0.5
    rows = {"given": given}
    rows |= dict(zip(COMPLETIONS, completed, strict=True))
    rows["mean"] = completed.mean(axis=0)
    rows["true"] = x
    return figures.image_rows(rows, title="Lower halves for one upper half", columns=12)


def build_scorer(network, size: int, levels: int) -> keras.Model:
    """How surprising a picture is. Input: (batch, size, size, 1) in [0, 1]. Outputs:
    {"bits": (batch,), "bits_by_pixel": (batch, size, size)}."""
    images = keras.Input((size, size, 1), name="images")
    level = quantize(images[..., 0], levels)
    logits = network(to_gray(level, levels)[..., None])
    by_pixel = bits(logits, level)
    outputs = {"bits": ops.sum(by_pixel, axis=(1, 2)), "bits_by_pixel": by_pixel}
    return keras.Model(images, outputs, name="scorer")


def main(config: Config, run: Run) -> None:
    run.plan(3)
    images, held_out = load(config, run.seed)
    networks = {
        "masked": build_masked(config.levels, 2 * config.filters, config.blocks),
        "gated": build_gated(config.levels, config.filters, config.blocks),
    }
    by_epoch = {
        name: train(network, images, held_out, config, run)
        for name, network in networks.items()
    }
    gated = networks["gated"]
    run.metric("bits_per_pixel", by_epoch["gated"][-1])

    # What each pixel may know: all before it, four of them, none.
    rivals: dict[str, Table | Histogram] = {
        "table": Table(images.level, config.levels),
        "histogram": Histogram(images.level, config.levels),
    }
    found = {name: float(each[-1]) for name, each in by_epoch.items()}
    found |= {name: each.bits(held_out.level) for name, each in rivals.items()}
    found |= file_bits(held_out.level)
    judge_bits(found, config, run)
    run.figure("bits", draw_bits(found, by_epoch))
    surprise = draw_surprise(gated, held_out.x[:8], held_out.level[:8])
    run.figure("surprise", surprise)

    judge_order(networks, held_out.x[0], run)
    views = find_views(networks, FIRST + config.blocks, run.seed)
    judge_views(views, run)
    run.figure("views", draw_views(views))

    painter = Painter(gated, config.blocks)
    count = min(DRAWN, len(held_out.x))
    drawn = {"gated": paint(painter, gated, count, config.size, run)}
    for name, rival in rivals.items():
        drawn[name] = draw_from(rival, count, config, run.seed)
    judge_samples(drawn, images, held_out, config, run)
    run.figure("samples", draw_samples(drawn, held_out.x))

    some = held_out.x[:COMPLETED]
    completed = complete(painter, some, run.seed)
    judge_completions(completed, some, run)
    run.figure("completions", draw_completions(some, completed))
    scorer = build_scorer(gated, config.size, config.levels)
    run.export(scorer, example=held_out.x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
