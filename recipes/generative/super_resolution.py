"""Super-resolution: a small photograph made large, sharper than by interpolation.

A photograph y is shrunk to x; a network G learns the way back. It works at the small
size, and its last convolution gives r²·3 numbers at each place, which pixel shuffle
lays out as r × r pixels: sub-pixel convolution. What it learns is what bicubic
interpolation leaves out, G(x) = bicubic(x) + shuffle(h(x)).
Many photographs shrink to the same x. By |y − G(x)| the best answer is their median:
near to y in each pixel, and smooth. A perceptual loss asks instead that G(x) has the
features of y in a network φ that knows ImageNet, Σ|φ(y) − φ(G(x))|², wherever exactly
the pixels lie. (SRGAN adds a discriminator to it, which takes longer than this.)
Look at PSNR and SSIM beside bicubic and Lanczos on photographs that training never saw,
and at what the pictures lose in pixels that are nearer in features.

Lectures: INFO Lecture 7 (Generative models)
Paper: Shi et al., Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, 2016 (equations 3 and 4); Ledig et al.,
    Photo-realistic single image super-resolution using a generative adversarial
    network, 2017 (equation 5)
Tags: espcn, srgan, sub-pixel convolution, pixel shuffle, upscaling, psnr, ssim,
    perceptual loss
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deep_learning_recipes import UsageError, classifiers, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    image: str = ""
    """a picture file of your own, of any size, to be enlarged as well"""
    factor: Annotated[int, Interval(ge=2, le=4)] = 2
    """r, by which height and width grow"""
    size: Annotated[int, Interval(ge=96, le=1024)] = 256
    """side of the photographs, rounded down to a multiple of the factor"""
    crop: Annotated[int, Interval(ge=64, le=256)] = 64
    """side of the pieces to train on, rounded down as well"""
    crops: int = 1600
    """pieces to train on"""
    filters: int = 32
    """of each convolution of the generator"""
    blocks: int = 4
    """residual blocks of the generator"""
    epochs: int = 4
    """passes over the pieces by |y − G(x)|"""
    tuning_epochs: int = 2
    """passes after that, by features"""
    batch_size: int = 16
    """pieces a gradient is averaged over"""
    learning_rate: float = 2e-3
    """of Adam, falling to 0 along a cosine"""


QUICK = Config(
    size=128,
    crops=800,
    filters=16,
    blocks=1,
    epochs=4,
    tuning_epochs=1,
    batch_size=8,
    learning_rate=3e-3,
)
FULL = Config(
    size=512, crops=20_000, filters=64, blocks=16, epochs=40, tuning_epochs=20
)

# --------------------------------------------------------------------------------------
# The idea: sub-pixel convolution, and a loss beyond the pixel
# --------------------------------------------------------------------------------------


def pixel_shuffle(x, factor: int):
    """(batch, height, width, r²·channels) to (batch, r·height, r·width, channels): each
    place's numbers become r × r pixels. Equation 4 of Shi et al."""
    _, height, width, numbers = ops.shape(x)
    channels = numbers // factor**2
    x = ops.reshape(x, (-1, height, width, factor, factor, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, factor * height, factor * width, channels))


@keras.saving.register_keras_serializable(package="super_resolution")
class PixelShuffle(layers.Layer):
    """`pixel_shuffle` as a layer, for pictures of any height and width."""

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return pixel_shuffle(x, self.factor)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def cubic(distance):
    """Keys's cubic convolution kernel, a = −1/2, at distances in small pixels."""
    near = np.abs(distance)
    inner = 1.5 * near**3 - 2.5 * near**2 + 1
    outer = -0.5 * near**3 + 2.5 * near**2 - 4 * near + 2
    return np.where(near < 1, inner, np.where(near < 2, outer, 0))


def bicubic_kernel(factor: int) -> np.ndarray:
    """(5, 5, 3, r²·3): bicubic interpolation is a sub-pixel convolution as well."""
    # Where the large pixels' centers lie, from the center of their small pixel.
    centers = (np.arange(factor) + 0.5) / factor - 0.5
    weights = cubic(np.arange(-2, 3) - centers[:, np.newaxis])
    kernel = np.einsum("iy,jx,cd->yxcijd", weights, weights, np.eye(3))
    return kernel.reshape(5, 5, 3, 3 * factor**2).astype("float32")


@keras.saving.register_keras_serializable(package="super_resolution")
class Bicubic(layers.Layer):
    """Bicubic interpolation of (batch, height, width, 3), edges repeated."""

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        kernel = bicubic_kernel(self.factor)
        for axis in (1, 2):
            first = ops.take(x, [0, 0], axis)
            last = ops.take(x, [-1, -1], axis)
            x = ops.concatenate([first, x, last], axis)
        return pixel_shuffle(ops.conv(x, kernel), self.factor)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def residual_block(x, filters: int):
    change = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    change = layers.Conv2D(filters, 3, padding="same")(change)
    return layers.Add()([x, change])


def build_generator(
    factor: int, filters: int = 32, blocks: int = 4, name: str = "generator"
) -> keras.Model:
    """G: (batch, height, width, 3) in [0, 1] to (batch, r·height, r·width, 3), nearly
    so. Before training it is bicubic interpolation."""
    small = keras.Input((None, None, 3), name="small")
    first = layers.Conv2D(filters, 3, padding="same", activation="relu")(small)
    hidden = first
    for _ in range(blocks):
        hidden = residual_block(hidden, filters)
    hidden = layers.Add()([first, hidden])

    # All convolutions work at the small size, where they cost r² times less.
    detail = layers.Conv2D(
        3 * factor**2, 3, padding="same", kernel_initializer="zeros"
    )(hidden)
    detail = PixelShuffle(factor)(detail)
    smooth = Bicubic(factor, dtype="float32")(small)
    large = layers.Add(dtype="float32", name="large")([smooth, detail])
    return keras.Model(small, large, name=name)


def feature_loss(features: keras.Model, y, fake):
    """Squared distance of the features' directions at each place, the mean over places
    and the sum over layers. Equation 5 of Ledig et al., but directions: so that no layer
    and no bright place outweighs the others (Zhang et al., The unreasonable
    effectiveness of deep features as a perceptual metric, 2018, equation 1)."""
    loss = 0.0
    for of_true, of_fake in zip(features(y), features(fake), strict=True):
        apart = ops.normalize(of_true, axis=-1) - ops.normalize(of_fake, axis=-1)
        loss += ops.mean(ops.sum(ops.square(apart), axis=-1))
    return loss


class Perceptual(keras.Model):
    """Trains a generator by features. `fit(x, y)`: small pictures and large ones."""

    def __init__(self, generator, features, **kwargs):
        super().__init__(**kwargs)
        self.generator = generator
        self.features = features
        self.features.trainable = False

    def call(self, x, training=False):
        return self.generator(x, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return feature_loss(self.features, y, y_pred)


def enlarge(generator: keras.Model, picture, factor: int, tile: int = 128):
    """A picture (height, width, 3) of any size to (r·height, r·width, 3) in [0, 1].

    Tile by tile, so that a large one needs little memory. Around each tile as much is
    seen as its pixels depend on: the result is that of a single pass.
    """
    margin = sum(isinstance(layer, layers.Conv2D) for layer in generator.layers) + 2
    height, width, channels = picture.shape
    large = np.empty((factor * height, factor * width, channels), "float32")
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            rows = slice(max(top - margin, 0), top + tile + margin)
            columns = slice(max(left - margin, 0), left + tile + margin)
            answer = np.asarray(generator(picture[np.newaxis, rows, columns]))[0]

            place = large[factor * top :, factor * left :]
            place = place[: factor * tile, : factor * tile]
            above = factor * (top - rows.start)
            before = factor * (left - columns.start)
            inner = answer[above:, before:]
            place[:] = inner[: place.shape[0], : place.shape[1]]
    return np.clip(large, 0, 1)


# --------------------------------------------------------------------------------------
# The experiment: photographs that training never saw, by four ways to enlarge
# --------------------------------------------------------------------------------------

TEST_PHOTOS = ("temple", "cat", "coffee")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}
TEXTURES = ("brick", "grass", "gravel")  # to train on as well
SCALES = (1, 0.75, 0.5)  # of the photographs to train on
# Of EfficientNet-Lite0: what is trained by, and what is measured by.
TRAINING_LAYERS = (
    "stem_activation",
    "block2a_expand_activation",
    "block3a_expand_activation",
)
MEASURING_LAYERS = ("block4a_expand_activation", "block6a_expand_activation")
BORDER = 8  # pixels that are not measured, as ways differ in what they put beyond


@dataclass
class Photos:
    """Photographs of a size, (size, size, 3) each in [0, 1]."""

    train: list[np.ndarray]
    """of several scales, and textures"""
    test: dict[str, np.ndarray]
    """others, by name"""


def load_photos(config: Config) -> Photos:
    train = []
    test = {}
    for scale in SCALES:
        side = round(scale * config.size / config.factor) * config.factor
        if side < config.crop:
            continue
        photos = data.load_photos(side)
        for name, photo in zip(data.class_names("photos"), photos, strict=True):
            if name not in TEST_PHOTOS:
                train.append(photo)
            elif scale == 1:
                test[name] = photo
    train += [data.load_picture(name, config.size) for name in TEXTURES]
    return Photos(train, test)


def as_bytes(picture: np.ndarray) -> np.ndarray:
    return np.round(255 * picture).astype("uint8")


def resample(picture: np.ndarray, factor: float, kind: Image.Resampling) -> np.ndarray:
    """(height, width, 3) in [0, 1] to (factor·height, factor·width, 3), by bytes as
    files have them. Where it shrinks, Pillow's filters are wide enough to leave no
    aliases."""
    height, width = picture.shape[:2]
    opened = Image.fromarray(as_bytes(picture))
    size = (round(factor * width), round(factor * height))
    return np.asarray(opened.resize(size, kind), "float32") / 255


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    return resample(picture, 1 / factor, Image.Resampling.BICUBIC)


def cut_pieces(pictures: list[np.ndarray], config: Config, seed: int):
    """Small and large pieces, x (crops, crop / r, crop / r, 3) and y (crops, crop, crop,
    3), at random places of the pictures, turned and mirrored at random."""
    random = np.random.default_rng(seed)
    factor = config.factor
    side = config.crop // factor
    shrunk = [shrink(picture, factor) for picture in pictures]
    x = np.empty((config.crops, side, side, 3), "float32")
    y = np.empty((config.crops, config.crop, config.crop, 3), "float32")
    for index in range(config.crops):
        number = random.integers(len(pictures))
        small = shrunk[number]
        top, left = random.integers(len(small) - side + 1, size=2)
        turns = int(random.integers(4))
        step = random.choice([-1, 1])  # -1 mirrors
        piece = small[top : top + side, left : left + side]
        x[index] = np.rot90(piece, turns)[:, ::step]
        top = factor * top
        left = factor * left
        piece = pictures[number][top : top + config.crop, left : left + config.crop]
        y[index] = np.rot90(piece, turns)[:, ::step]
    return x, y


def decaying(learning_rate: float, epochs: int, config: Config):
    steps = epochs * math.ceil(config.crops / config.batch_size)
    return keras.optimizers.schedules.CosineDecay(learning_rate, steps)


def train(model: keras.Model, x, y, epochs: int, config: Config, run: Run) -> None:
    training.fit(
        model,
        x,
        y,
        epochs=epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


def train_generators(
    x, y, features: keras.Model, config: Config, run: Run
) -> dict[str, keras.Model]:
    """By pixels; and from there by features."""
    generators = {
        name: build_generator(config.factor, config.filters, config.blocks, name)
        for name in ("L1", "features")
    }
    by_pixels = generators["L1"]
    rate = decaying(config.learning_rate, config.epochs, config)
    by_pixels.compile(keras.optimizers.Adam(rate), loss="mean_absolute_error")
    train(by_pixels, x, y, config.epochs, config, run)

    by_features = generators["features"]
    by_features.set_weights(by_pixels.get_weights())
    model = Perceptual(by_features, features, name="features")
    rate = decaying(config.learning_rate / 2, config.tuning_epochs, config)
    model.compile(keras.optimizers.Adam(rate))
    train(model, x, y, config.tuning_epochs, config, run)
    return generators


def maps_of(network: keras.Model, names: tuple[str, ...]) -> keras.Model:
    """φ: pictures as the network takes them to the maps of its layers of these names."""
    maps = [network.get_layer(name).output for name in names]
    return keras.Model(network.input, maps, name="features")


def enlarge_all(generators, small: np.ndarray, factor: int) -> dict[str, np.ndarray]:
    """A small picture by each way to enlarge it, all from the same bytes."""
    ways = {
        name: resample(small, factor, kind) for name, kind in INTERPOLATIONS.items()
    }
    for name, generator in generators.items():
        ways[name] = enlarge(generator, small, factor)
    return ways


@dataclass
class Quality:
    """Of an enlarged picture, beside the true one."""

    psnr: float
    """peak signal-to-noise ratio, decibels"""
    ssim: float
    """structural similarity, 1 at best"""
    feature_distance: float
    """in deeper layers of ImageNet's network than were trained by"""
    sharpness: float
    """mean squared difference of neighboring pixels, of the true picture's"""


class Meter:
    """Measures enlarged pictures against the true ones."""

    def __init__(self, features: keras.Model):
        self.features = features
        self.side = features.input.shape[1]  # of the tiles that it is shown

    def measure(self, true: np.ndarray, found: np.ndarray) -> Quality:
        """Of (height, width, 3) both; pixels without a border."""
        inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
        pixels = (true[inner], found[inner])
        return Quality(
            psnr=peak_signal_noise_ratio(*pixels, data_range=1),
            ssim=structural_similarity(*pixels, data_range=1, channel_axis=-1),
            feature_distance=self.feature_distance(true, found),
            sharpness=gradient_energy(found) / gradient_energy(true),
        )

    def feature_distance(self, true: np.ndarray, found: np.ndarray) -> float:
        pieces = (cut_tiles(true, self.side), cut_tiles(found, self.side))
        return float(feature_loss(self.features, *pieces))


def gradient_energy(picture: np.ndarray) -> float:
    down = np.diff(picture, axis=0)
    right = np.diff(picture, axis=1)
    return float(np.mean(down**2) + np.mean(right**2))


def cut_tiles(picture: np.ndarray, side: int) -> np.ndarray:
    """All whole tiles, (n, side, side, 3)."""
    rows = len(picture) // side
    columns = picture.shape[1] // side
    tiles = picture[: rows * side, : columns * side]
    tiles = tiles.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, side, side, 3)


Qualities = dict[str, dict[str, Quality]]
"""by photograph and way"""


def mean_of(qualities: Qualities, measure: str) -> dict[str, float]:
    """By way, the mean over photographs."""
    ways = next(iter(qualities.values()))
    return {
        way: float(
            np.mean([getattr(each[way], measure) for each in qualities.values()])
        )
        for way in ways
    }


def judge_pixels(qualities: Qualities, config: Config, run: Run) -> None:
    psnr = mean_of(qualities, "psnr")
    ssim = mean_of(qualities, "ssim")
    run.metric("psnr", psnr["L1"], unit="dB")
    run.metrics("psnr", psnr, unit="dB")
    run.metrics("ssim", ssim)
    gains = {
        measure: [
            getattr(of["L1"], measure)
            - max(getattr(of[rival], measure) for rival in INTERPOLATIONS)
            for of in qualities.values()
        ]
        for measure in ("psnr", "ssim")
    }
    run.claim(
        f"Enlarged by {config.factor}, each photograph that training never saw comes out "
        "nearer to the true one than by bicubic and by Lanczos interpolation, in PSNR "
        "(0.1 dB at least) and in SSIM",
        holds=min(gains["psnr"]) > 0.1 and min(gains["ssim"]) > 0,
        measured="; ".join(
            f"{name}: "
            + ", ".join(
                f"{way} {of[way].psnr:.2f} dB and {of[way].ssim:.3f}"
                for way in (*INTERPOLATIONS, "L1")
            )
            for name, of in qualities.items()
        ),
    )


def judge_trade(qualities: Qualities, run: Run) -> None:
    psnr = mean_of(qualities, "psnr")
    distance = mean_of(qualities, "feature_distance")
    sharpness = mean_of(qualities, "sharpness")
    run.metrics("feature_distance", distance)
    run.metrics("sharpness", sharpness)
    run.claim(
        "Trained by features its pictures are nearer to the true ones in deeper features "
        "than those, and farther from them in pixels (means over photographs)",
        holds=distance["features"] < 0.98 * distance["L1"]
        and psnr["features"] < psnr["L1"] - 0.1,
        measured="; ".join(
            f"{way}: {psnr[way]:.2f} dB, sharpness {sharpness[way]:.2f}, feature distance "
            f"{distance[way]:.3f}"
            for way in psnr
        ),
    )


def busiest(picture: np.ndarray, side: int) -> tuple[slice, slice]:
    """Rows and columns of the tile with the most detail; of all where it is smaller."""
    if min(picture.shape[:2]) < side:
        return slice(None), slice(None)
    tiles = cut_tiles(picture, side)
    number = int(np.argmax([gradient_energy(tile) for tile in tiles]))
    row, column = divmod(number, picture.shape[1] // side)
    return (
        slice(row * side, (row + 1) * side),
        slice(column * side, (column + 1) * side),
    )


def draw_crops(photos, pictures, config: Config) -> Figure:
    """photos: true ones by name. pictures: enlarged ones by name and way."""
    rows = {}
    for name, photo in photos.items():
        place = busiest(photo, config.crop)
        ways = {**pictures[name], "true": photo}
        rows[name] = [picture[place] for picture in ways.values()]
    captions = [*next(iter(pictures.values())), "true"]
    title = f"Photographs that training never saw, enlarged by {config.factor}"
    return figures.picture_table(rows, title=title, captions=captions, width=14)


def draw_trade(qualities: Qualities) -> Figure:
    psnr = mean_of(qualities, "psnr")
    distance = mean_of(qualities, "feature_distance")
    plane = figures.Panel(
        title="Near in pixels, or near in features",
        xlabel="PSNR, dB (higher is better)",
        ylabel="feature distance (lower is better)",
        points={way: ([psnr[way]], [distance[way]]) for way in psnr},
    )
    sharp = figures.Panel(
        title="Sharpness",
        xlabel="squared difference of neighbors, of the true picture's",
        bars=mean_of(qualities, "sharpness"),
        levels={"true picture": 1.0},
        number="{:.2f}",
    )
    return figures.panels(plane, sharp)


def enlarge_own(picture: np.ndarray, generators, config: Config, run: Run) -> None:
    """Writes the whole picture, and draws its busiest part by each way."""
    factor = config.factor
    for name in generators:
        large = enlarge(generators[name], picture, factor)
        path = run.folder / f"enlarged-{name}.png"
        Image.fromarray(as_bytes(large)).save(path)
        run.print(f"{config.image}, enlarged by {factor}: {path}")
    part = picture[busiest(picture, config.crop // factor)]
    ways = {"given": part, **enlarge_all(generators, part, factor)}
    title = f"A part of {Path(config.image).name}, enlarged by {factor}"
    rows = {"": list(ways.values())}
    figure = figures.picture_table(rows, title=title, captions=[*ways], width=14)
    run.figure("own", figure)


def main(config: Config, run: Run) -> None:
    config = replace(
        config,
        size=config.size // config.factor * config.factor,
        crop=config.crop // config.factor * config.factor,
    )
    if config.crop + 2 * BORDER > config.size:
        raise UsageError(f"--crop {config.crop} is too large for --size {config.size}")
    own = classifiers.read_image(config.image, None) if config.image else None
    run.plan(2)
    photos = load_photos(config)
    x, y = cut_pieces(photos.train, config, run.seed)
    side = (config.crop, config.crop)
    network = classifiers.load("EfficientNetLite0", size=side).model
    features = maps_of(network, TRAINING_LAYERS)
    generators = train_generators(x, y, features, config, run)

    meter = Meter(maps_of(network, MEASURING_LAYERS))
    qualities = {}
    pictures = {}
    for name, photo in photos.test.items():
        small = shrink(photo, config.factor)
        ways = enlarge_all(generators, small, config.factor)
        given = resample(small, config.factor, Image.Resampling.NEAREST)
        pictures[name] = {"given": given, **ways}
        qualities[name] = {
            way: meter.measure(photo, each) for way, each in ways.items()
        }
    judge_pixels(qualities, config, run)
    judge_trade(qualities, run)
    run.figure("crops", draw_crops(photos.test, pictures, config))
    run.figure("trade", draw_trade(qualities))
    if own is not None:
        enlarge_own(own, generators, config, run)

    generator = generators["L1"]
    outputs = {"image": ops.clip(generator.output, 0, 1)}
    run.export(keras.Model(generator.inputs, outputs), example=x[:2])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
