"""Fast style transfer: a network learns once what optimisation does anew for each picture.

A feed-forward network f is trained on photographs x to make the energies of style transfer small,
E_content(f(x), x) + w · E_style(f(x)), for one style. Then any picture takes one pass. Down to a
quarter of the resolution, a few residual blocks, and up again: by resizing and convolving, for
transposed convolutions leave a checkerboard. Instance normalisation takes out each picture's own
contrast, which the style replaces.
Look at how many steps of optimisation a single pass is worth, and what they cost.

Lectures: CS Visualizing & Understanding (Fast style transfer); N18 4.3
Paper: Johnson et al., Perceptual losses for real-time style transfer and super-resolution, 2016;
    Ulyanov et al., Instance normalization, 2016; Odena et al., Deconvolution and checkerboard
    artifacts, 2016
"""

import time
import timeit
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from deep_learning_recipes import classifiers, data, figures, pictures, training
from deep_learning_recipes.lbfgs import LBFGS
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    style: str = "painting"
    """painting, brick, grass, gravel, a photograph's name (such as flower), or a picture file"""
    image: str = ""
    """a picture of your own, PNG or JPEG, to be painted as well"""
    style_weight: float = 10.0
    """of the style's energy against the content's"""
    size: int = 96
    """side of the pictures to train on"""
    test_size: int = 256
    """side of the photographs kept for the test"""
    filters: int = 48
    """in each layer of the network whose maps are compared"""
    width: int = 16
    """filters of the painter at full resolution; twice and three times as many below"""
    crops: int = 80
    """of photographs, to train on"""
    epochs: int = 8
    """passes over them"""
    batch_size: int = 4
    """pictures a gradient is averaged over"""
    learning_rate: float = 3e-3
    """of Adam, falling along a cosine"""
    steps: int = 100
    """of optimisation, to compare with"""
    model: str = ""
    """a .keras file or a network of keras.applications (VGG19) in place of random filters"""


QUICK = Config(size=64, test_size=96, filters=24, width=8, crops=40, steps=60)
FULL = Config(size=256, test_size=512, filters=128, width=32, crops=20_000)

TEST_PHOTOS = "temple", "cat", "coffee"  # the network never sees them
KERNELS = 5, 3, 3, 3
CONTENT_LAYER = 2  # the third
BLOCKS = 3


def build_network(filters: int) -> keras.Model:
    """Random filters, which do where none are trained (see texture_synthesis). Input: (batch,
    height, width, 3). Outputs: the maps of each layer."""
    picture = x = keras.Input((None, None, 3), name="picture")
    maps = []
    for kernel_size in KERNELS:
        x = layers.AveragePooling2D(2)(x) if maps else x
        x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
        maps.append(x)
    network = keras.Model(picture, maps, name="random_filters")
    for kernel in network.weights[::2]:
        values = keras.random.normal(kernel.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        kernel.assign(values / ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True)))
    return network


def build_painter(width: int, upsampling="resize") -> keras.Model:
    """(batch, height, width, 3) in [0, 1] to the same; height and width are multiples of 4."""

    def convolve(x, filters, kernel_size=3, strides=1, activation="relu", layer=layers.Conv2D):
        x = layer(filters, kernel_size, strides, padding="same", use_bias=False)(x)
        x = layers.GroupNormalization(groups=-1)(x)  # of one channel each: instance normalisation
        return layers.Activation(activation)(x)

    def enlarge(x, filters):
        if upsampling == "resize":
            return convolve(layers.UpSampling2D(2)(x), filters)
        return convolve(x, filters, strides=2, layer=layers.Conv2DTranspose)

    picture = keras.Input((None, None, 3), name="picture")
    x = convolve(picture, width, kernel_size=5)
    x = convolve(x, 2 * width, strides=2)
    x = convolve(x, 3 * width, strides=2)
    for _ in range(BLOCKS):
        change = convolve(convolve(x, 3 * width), 3 * width, activation="linear")
        x = layers.Add()([x, change])
    x = enlarge(enlarge(x, 2 * width), width)
    x = layers.Conv2D(3, 5, padding="same", activation="sigmoid", dtype="float32")(x)
    return keras.Model(picture, x, name="painter")


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the places."""
    _, height, width, _ = ops.shape(maps)
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / ops.cast(height * width, maps.dtype)


def relative(values, targets):
    """‖values − targets‖² / ‖targets‖² of each picture, (batch,)."""
    axes = tuple(range(1, len(values.shape)))
    return ops.sum((values - targets) ** 2, axis=axes) / ops.sum(targets**2, axis=axes)


class Energy:
    """E_content + w · E_style of pictures (n, height, width, 3), (n,), given the maps of their
    contents in the `layer`."""

    def __init__(self, network: keras.Model, style: np.ndarray, style_weight: float):
        self.network, self.style_weight = network, style_weight
        self.grams = [gram_matrix(maps) for maps in network(style[None])]
        self.layer = min(CONTENT_LAYER, len(self.grams) - 1)

    def __call__(self, pictures, goal):
        mean = ops.mean(goal, axis=(1, 2), keepdims=True)
        all_maps = self.network(pictures)
        content = relative(all_maps[self.layer] - mean, goal - mean)
        pairs = zip(all_maps, self.grams, strict=True)
        style = [relative(gram_matrix(maps), gram) for maps, gram in pairs]
        return content + self.style_weight * ops.mean(ops.stack(style), axis=0)


class Apprentice(keras.Model):
    """Trains a painter: x are photographs, y the same in the style's colours."""

    def __init__(self, painter: keras.Model, energy: Energy, **kwargs):
        super().__init__(**kwargs)
        self.painter, self.energy = painter, energy

    def call(self, photographs, training=False):
        return self.painter(photographs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(self.energy(y_pred, self.energy.network(y)[self.energy.layer]))


def random_crops(photos: np.ndarray, size: int, count: int, random) -> np.ndarray:
    """(count, size, size, 3): squares of the photographs (n, side, side, 3), half flipped."""
    squares = np.lib.stride_tricks.sliding_window_view(photos, (size, size), axis=(1, 2))
    places = (random.integers(limit, size=count) for limit in squares.shape[:3])
    crops = np.moveaxis(squares[tuple(places)], 1, -1)
    crops[1::2] = crops[1::2, :, ::-1]
    return crops


def checkerboard(painted: np.ndarray) -> float:
    """How much power stands at the periods of 2 and 4 pixels against that around them: 1 if no more
    than there. painted: (n, side, side, 3), the side a multiple of 4."""
    side = painted.shape[1]
    power = np.mean(np.abs(np.fft.fft2(painted.mean(axis=-1))) ** 2, axis=0)
    logarithms = []
    for corner in np.ndindex(4, 4):
        if corner != (0, 0):  # the mean
            around = [np.arange(-3, 4) + k * side // 4 for k in corner]
            square = power[np.ix_(around[0] % side, around[1] % side)]
            logarithms.append(np.log(square[3, 3] / np.median(square)))
    return float(np.exp(np.mean(logarithms)))


def main(config: Config, run: Run) -> None:
    own = config.image and classifiers.read_image(config.image, (config.test_size,) * 2)
    style = data.load_picture(config.style, config.test_size)
    if config.model:
        network = classifiers.load(config.model).convolutions
        size = test_size = network.input.shape[1]
    else:
        network = build_network(config.filters)
        size, test_size = config.size, config.test_size
    random = np.random.default_rng(run.seed)
    photos = dict(zip(data.class_names("photos"), data.load_photos(test_size), strict=True))
    test = np.stack([photos.pop(name) for name in TEST_PHOTOS])
    crops = random_crops(np.stack(list(photos.values())), size, config.crops, random)
    goals, test_goals = (pictures.recolour(each, [style] * len(each)) for each in (crops, test))
    energy = Energy(network, style, config.style_weight)
    goal = network(test_goals)[energy.layer]

    painter = build_painter(config.width)
    updates = -(-config.crops // config.batch_size) * config.epochs
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, updates)
    apprentice = Apprentice(painter, energy)
    apprentice.compile(keras.optimizers.Adam(rate))
    settings = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(apprentice, crops, goals, callbacks=run.callbacks, **settings)
    paint = tf.function(lambda batch: painter(batch, training=False))
    painted = np.asarray(paint(test))
    if config.image:
        rows = {"": [own, np.asarray(paint(own[None]))[0]]}
        run.figure("own", figures.picture_table(rows, title=config.image))
    reached, before = (float(np.mean(energy(each, goal))) for each in (painted, test_goals))
    run.metric("energy_left", reached / before, unit="of the photographs' own")
    run.export(keras.Model(painter.input, {"picture": painter.output}), example=test)
    if config.model:
        rows = {"photograph": [*test, style], "one pass": painted}
        run.figure("pictures", figures.picture_table(rows, title=f"Painted with {config.model}"))
        return

    solver = LBFGS(lambda batch: energy(batch, goal), test_goals, steps_per_call=1)
    energies, seconds = np.full((2, config.steps), np.nan)
    state = {"solver": solver.state, "curves": [energies, seconds]}
    for step in run.loop("optimisation", config.steps, state):
        started = time.perf_counter()
        solver.advance()
        energies[step] = np.mean(solver.value)
        seconds[step] = time.perf_counter() - started
    passes = timeit.repeat(lambda: np.asarray(paint(test)), number=1, repeat=5)
    step_seconds, pass_seconds = (np.median(each) / len(test) for each in (seconds, passes))
    worth = int(np.sum(energies > reached)) + 1  # of all steps and one more, if it never got there
    speed_up = worth * step_seconds / pass_seconds
    run.metric("steps_that_a_pass_is_worth", worth)
    run.metric("speed_up", speed_up, unit="times", timing=True)
    run.claim(
        "One pass over a picture not seen before does what takes optimisation many steps",
        holds=worth >= 10 and reached < 0.5 * before,
        measured=f"energy from {before:.2f} to {reached:.2f} in a pass, which optimisation reaches "
        f"after {worth} steps (after {config.steps}: {energies[-1]:.2f})",
    )
    run.claim(
        "To the same energy it is over ten times faster than optimisation",
        holds=speed_up > 10,
        measured=f"{1000 * pass_seconds:.0f} ms against {worth * step_seconds:.1f} s for a "
        f"photograph of {config.test_size} pixels: {speed_up:.0f} times",
    )
    boards = {"once trained": checkerboard(painted)}
    for upsampling in ("resize", "transposed"):
        keras.utils.set_random_seed(run.seed)
        untrained = build_painter(config.width, upsampling=upsampling)
        boards[upsampling] = checkerboard(np.asarray(untrained(test, training=False)))
    run.claim(
        "Transposed convolutions leave a checkerboard before any training; resizing does not",
        holds=boards["transposed"] > 3 * max(boards["resize"], boards["once trained"]),
        measured="power at periods of 2 and 4 pixels, of that around them: "
        + ", ".join(f"{board:.1f} {name}" for name, board in boards.items()),
    )

    rows = {"photograph": [*test, style], "one pass": painted}
    rows[f"{config.steps} steps"] = np.clip(solver.x, 0, 1)
    captions = [*TEST_PHOTOS, "style"]
    run.figure("pictures", figures.picture_table(rows, title="Not seen before", captions=captions))
    lines = {"optimisation": energies, "one pass": np.full(config.steps, reached)}
    title = f"A pass: {1000 * pass_seconds:.0f} ms. A step: {1000 * step_seconds:.0f} ms"
    run.figure("work", figures.curves(lines, title=title, ylabel="energy", xlabel="step"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
