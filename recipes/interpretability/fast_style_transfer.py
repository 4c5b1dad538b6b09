"""Fast style transfer: learn once what optimization does anew for each picture.

A feed-forward network f is trained on photographs x to make the energy of style
transfer small, E = E_content(f(x), x) + w · E_style(f(x)) + v · total variation, for
one style; log E, so that each photograph counts alike. Then any picture takes one pass.
Down to a quarter of the resolution, a few residual blocks, and up again, by resizing
and convolving. Instance normalization takes out each picture's own contrast, which the
style replaces.
Look at how many steps of optimization a single pass is worth, and what they cost.

Lectures: CS Visualizing & Understanding (Fast style transfer); N18 4.3
Paper: Johnson et al., Perceptual losses for real-time style transfer and
    super-resolution, 2016; Ulyanov et al., Instance normalization, 2016
Tags: neural style, image stylization, perceptual loss, feed-forward, real-time,
    instance normalization
"""

import math
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import (
    UsageError,
    classifiers,
    data,
    figures,
    painting,
    training,
)
from deep_learning_recipes.lbfgs import LBFGS
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    style: str = "painting"
    """painting, brick, grass, gravel, a photograph's name (such as flower), or a
    picture file"""
    image: str = ""
    """a picture file of your own, PNG or JPEG, to be painted as well"""
    style_weight: float = 60.0
    """of the style's energy against the content's"""
    smoothness: float = 3.0
    """weight of the total variation: neighbors' mean difference in brightness, 0 to
    1"""
    style_size: int = 128
    """side of the style in pixels of the photographs: the smaller, the finer the
    strokes"""
    test_size: int = 256
    """side of the photographs, three of which are kept for the test"""
    size: int = 128
    """side of the crops of the others to train on"""
    crops: int = 240
    """to train on"""
    epochs: int = 5
    """passes over them"""
    batch_size: int = 2
    """crops a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam, falling along a cosine"""
    width: int = 16
    """filters of the painter at full resolution; twice and three times as many below"""
    filters: int = 48
    """in each layer of the network whose maps are compared"""
    steps: int = 60
    """of optimization, to compare with"""
    model: str = ""
    """a network in place of random filters: EfficientNetLite0, which needs no download
    and keeps more of the content's shapes (style_transfer measures it); one of
    keras.applications, such as VGG19, whose pictures are the papers'; or a
    .keras file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""


QUICK = Config(
    style_size=64,
    test_size=96,
    size=64,
    crops=140,
    epochs=3,
    learning_rate=3e-3,
    width=12,
    filters=24,
    steps=12,
)
FULL = Config(
    style_size=256,
    test_size=512,
    size=256,
    crops=2_000,
    epochs=20,
    width=32,
    filters=128,
)

# --------------------------------------------------------------------------------------
# The idea: a network learns to make the energy of any picture small
# --------------------------------------------------------------------------------------

CONTENT_LAYER = 2  # the third


def build_network(filters: int) -> keras.Model:
    """Random filters, which do where none are trained (see texture_synthesis). Input:
    (batch, height, width, 3). Outputs: the maps of each layer."""
    picture = keras.Input((None, None, 3), name="picture")
    x = picture
    maps = []
    for kernel_size in (5, 3, 3, 3):
        x = layers.AveragePooling2D(2)(x) if maps else x
        x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
        maps.append(x)

    network = keras.Model(picture, maps, name="random_filters")
    for kernel in network.weights[::2]:
        # Without a mean they answer to contrast, not to brightness.
        values = keras.random.normal(kernel.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        length = ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True))
        kernel.assign(values / length)
    return network


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the
    places."""
    _, height, width, _ = ops.shape(maps)
    products = ops.einsum("bhwi,bhwj->bij", maps, maps)
    return products / ops.cast(height * width, maps.dtype)


def relative(values, targets):
    """‖values − targets‖² / ‖targets‖² of each picture, (batch,); 0 where the targets
    are."""
    axes = tuple(range(1, len(values.shape)))
    apart = ops.sum((values - targets) ** 2, axis=axes)
    return ops.divide_no_nan(apart, ops.sum(targets**2, axis=axes))


class Energy:
    """E_content + w · E_style + v · total variation of pictures (n, height, width, 3),
    (n,), given the maps of their contents in the `layer`. style: (height, width, 3)."""

    def __init__(
        self, network: keras.Model, style: np.ndarray, weight: float, smoothness: float
    ):
        self.network = network
        self.weight = weight
        self.smoothness = smoothness
        self.grams = [gram_matrix(maps) for maps in network(style[np.newaxis])]
        self.layer = min(CONTENT_LAYER, len(self.grams) - 1)

    def goal(self, pictures):
        """The maps that tell their contents."""
        return self.network(pictures)[self.layer]

    def __call__(self, pictures, goal):
        pictures = tf.convert_to_tensor(pictures)
        all_maps = self.network(pictures)
        mean = ops.mean(goal, axis=(1, 2), keepdims=True)
        content = relative(all_maps[self.layer] - mean, goal - mean)

        by_layer = [
            relative(gram_matrix(maps), gram)
            for maps, gram in zip(all_maps, self.grams, strict=True)
        ]
        style = ops.mean(by_layer, axis=0)
        pixels = ops.cast(ops.size(pictures[0]), "float32")
        variation = tf.image.total_variation(pictures) / pixels
        return content + self.weight * style + self.smoothness * variation


def convolve(x, filters: int, kernel_size: int = 3, strides: int = 1, **options):
    edge = (kernel_size // 2, kernel_size // 2)
    # Zeros would leave a frame.
    x = ops.pad(x, ((0, 0), edge, edge, (0, 0)), mode="reflect")
    return layers.Conv2D(filters, kernel_size, strides, **options)(x)


def normalize(x, activation: str = "relu"):
    """By instance: each picture's channels to mean 0 and deviation 1, scaled and
    shifted as is learned."""
    x = layers.GroupNormalization(groups=-1, epsilon=1e-5)(x)
    return layers.Activation(activation)(x)


def residual_block(x, filters: int):
    change = normalize(convolve(x, filters))
    change = normalize(convolve(change, filters), "linear")
    return layers.Add()([x, change])


def build_painter(width: int) -> keras.Model:
    """(batch, height, width, 3) in [0, 1] to the same; height and width are multiples
    of 4."""
    picture = keras.Input((None, None, 3), name="picture")
    x = normalize(convolve(picture, width, kernel_size=5))
    x = normalize(convolve(x, 2 * width, strides=2))
    x = normalize(convolve(x, 3 * width, strides=2))
    for _ in range(3):
        x = residual_block(x, 3 * width)

    for filters in (2 * width, width):
        # A transposed convolution would leave a checkerboard (Odena et al., 2016).
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        x = normalize(convolve(x, filters))
    x = convolve(x, 3, kernel_size=5, activation="sigmoid", dtype="float32")
    return keras.Model(picture, x, name="painter")


class Apprentice(keras.Model):
    """Trains a painter: x are photographs in the style's colors, y is not used."""

    def __init__(self, painter: keras.Model, energy: Energy, **kwargs):
        super().__init__(**kwargs)
        self.painter = painter
        self.energy = energy

    def call(self, photographs, training=False):
        return self.painter(photographs, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        energies = self.energy(y_pred, self.energy.goal(x))
        return ops.mean(ops.log(energies))


def random_crops(photos: np.ndarray, size: int, count: int, random) -> np.ndarray:
    """(count, size, size, 3): squares of the photographs (n, side, side, 3), half
    flipped."""
    squares = np.lib.stride_tricks.sliding_window_view(
        photos, (size, size), axis=(1, 2)
    )
    photo, top, left = [
        random.integers(limit, size=count) for limit in squares.shape[:3]
    ]
    crops = np.moveaxis(squares[photo, top, left], 1, -1)
    crops[1::2] = crops[1::2, :, ::-1]
    return crops


# --------------------------------------------------------------------------------------
# The experiment: one pass beside steps of optimization, on photographs never seen
# --------------------------------------------------------------------------------------

TEST_PHOTOS = ("temple", "cat", "coffee")  # the painter never sees them
# Root mean square of the optimizer's: with shorter ones it gets there later.
FIRST_STEP = 0.05


@dataclass
class Sizes:
    """Sides in pixels."""

    crops: int
    test: int
    style: int


def choose_sizes(network: keras.Model, config: Config) -> Sizes:
    """Those of the config, or what a network of the user's takes."""
    sizes = Sizes(config.size, config.test_size, config.style_size)
    said = f"--size {sizes.crops} --test-size {sizes.test} --style-size {sizes.style}"
    if config.model:
        side = network.input.shape[1]
        sizes = Sizes(side, side, side)
        said = f"--model {config.model}, pictures of {side} pixels"

    is_multiple = sizes.crops % 4 == 0 and sizes.test % 4 == 0
    if not is_multiple or not 40 <= sizes.crops <= sizes.test or sizes.style < 40:
        raise UsageError(
            f"{said}: 40 <= size <= test-size, multiples of 4; 40 <= style-size"
        )
    return sizes


@dataclass
class Task:
    style: np.ndarray
    crops: np.ndarray
    """to train on, in the style's colors"""
    test: np.ndarray
    """photographs as they are, (3, side, side, 3)"""
    recolored: np.ndarray
    """the same in the style's colors"""
    recolor: painting.Recolor
    energy: Energy
    goal: tf.Tensor
    """maps of the photographs' contents"""

    def energy_of(self, pictures) -> float:
        """The mean over the test pictures."""
        return float(np.mean(self.energy(pictures, self.goal)))


def load_task(network: keras.Model, sizes: Sizes, config: Config, run: Run) -> Task:
    style = data.load_picture(config.style, sizes.style)
    loaded = data.load_photos(sizes.test)
    photos = dict(zip(data.class_names("photos"), loaded, strict=True))
    test = np.stack([photos.pop(name) for name in TEST_PHOTOS])

    random = np.random.default_rng(run.seed)
    others = np.stack(list(photos.values()))
    crops = random_crops(others, sizes.crops, config.crops, random)
    recolor = painting.Recolor.like(style)
    energy = Energy(network, style, config.style_weight, config.smoothness)
    recolored = recolor(test)
    return Task(
        style,
        np.asarray(recolor(crops)),
        test,
        recolored,
        recolor,
        energy,
        energy.goal(recolored),
    )


def train(painter: keras.Model, task: Task, config: Config, run: Run) -> None:
    updates = math.ceil(config.crops / config.batch_size) * config.epochs
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, updates)
    apprentice = Apprentice(painter, task.energy)
    apprentice.compile(keras.optimizers.Adam(rate))
    training.fit(
        apprentice,
        task.crops,
        task.crops,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


def as_service(painter: keras.Model, task: Task) -> keras.Model:
    """From photographs as they are."""
    photograph = keras.Input(task.test.shape[1:], name="photograph")
    painted = painter(task.recolor(photograph))
    return keras.Model(photograph, {"picture": painted}, name="painter")


@dataclass
class Race:
    """A pass beside optimization, of all test pictures at once."""

    energies: np.ndarray
    """after each step, means over the pictures"""
    reached: float
    """by the pass"""
    step_seconds: float
    """for one picture, as the next"""
    pass_seconds: float
    optimized: np.ndarray

    @property
    def worth(self) -> int:
        """The steps to the energy of a pass: one more than all, if they never got
        there."""
        return int(np.sum(self.energies > self.reached)) + 1

    @property
    def speed_up(self) -> float:
        return self.worth * self.step_seconds / self.pass_seconds


def race(paint: Callable, task: Task, config: Config, run: Run) -> Race:
    """paint: a compiled function of photographs. The optimizer begins with the
    photographs in the style's colors, as the painter does."""
    reached = task.energy_of(paint(task.test))
    solver = LBFGS(
        lambda pictures: task.energy(pictures, task.goal),
        task.recolored,
        first_step=FIRST_STEP,
        steps_per_call=1,
    )
    energies = np.full(config.steps, np.nan)
    of_steps = np.full(config.steps, np.nan)
    of_passes = np.full(config.steps, np.nan)
    state = {"solver": solver.state, "curves": [energies, of_steps, of_passes]}
    for step in run.loop("optimization", config.steps, state):
        of_steps[step] = timeit.timeit(solver.advance, number=1)
        energies[step] = np.mean(solver.value)
        # In turns, so that both meet the same load of the machine.
        of_passes[step] = timeit.timeit(lambda: paint(task.test).numpy(), number=1)
    return Race(
        energies,
        reached,
        np.median(of_steps) / len(task.test),
        np.median(of_passes) / len(task.test),
        np.clip(solver.x, 0, 1),
    )


def judge_race(found: Race, before: float, task: Task, run: Run) -> None:
    """before: the energy of the photographs themselves."""
    worth = found.worth
    run.metric("speed_up", found.speed_up, unit="times", timing=True)
    run.metric("steps_that_a_pass_is_worth", worth)
    share = found.reached / before
    run.metric("energy_left", share, unit="of the photographs' own")
    last = found.energies[-1]
    run.claim(
        "One pass over a picture not seen before does more than a step of optimization, "
        "though not as much as many",
        holds=worth >= 2 and share < 0.7 and last < 0.8 * found.reached,
        measured=f"energy from {before:.2f} to {found.reached:.2f} in a pass, which "
        f"optimization reaches after {worth} steps (after {len(found.energies)}: "
        f"{last:.2f})",
    )
    run.claim(
        "To the same energy a pass is at least twice as fast as optimization",
        holds=found.speed_up > 2,
        measured=f"{1000 * found.pass_seconds:.0f} ms against "
        f"{1000 * worth * found.step_seconds:.0f} ms for a photograph of "
        f"{task.test.shape[1]} pixels: {found.speed_up:.0f} times",
    )


def distance_to(style: np.ndarray, pictures) -> float:
    """Mean distance of local patterns over the pictures."""
    found = []
    for picture in np.asarray(pictures):
        found.append(painting.texture_distance(picture, style))
    return float(np.mean(found))


def judge_style(painted: np.ndarray, untaught: np.ndarray, task: Task, run: Run):
    """untaught: what the painter made before its training."""
    before = distance_to(task.style, task.recolored)
    after = distance_to(task.style, painted)
    without = distance_to(task.style, untaught)
    run.claim(
        "The pass takes on the style, also by a statistic that no network has a part in",
        holds=after < 0.9 * min(before, without),
        measured=f"distance of local patterns to the style from {before:.3f} to "
        f"{after:.3f}; by a painter without training {without:.3f}",
    )


def draw_pictures(task: Task, painted, optimized, steps: int) -> Figure:
    rows = {
        "photograph": [*task.test, task.style],
        "one pass": painted,
        f"{steps} steps of optimization": optimized,
    }
    title = "Photographs that the painter has never seen"
    return figures.picture_table(rows, title=title, captions=[*TEST_PHOTOS, "style"])


def draw_work(found: Race) -> Figure:
    title = (
        f"A pass takes {1000 * found.pass_seconds:.0f} ms, a step of optimization "
        f"{1000 * found.step_seconds:.0f} ms"
    )
    panel = figures.Panel(
        title=title,
        xlabel="step of optimization",
        ylabel="energy",
        lines={"optimization": found.energies},
        levels={"one pass": found.reached},
    )
    return figures.panels(panel)


def main(config: Config, run: Run) -> None:
    run.plan(1 if config.model else 2)  # the painter, and optimization
    if config.model:
        network = classifiers.from_flags(config, run).convolutions
    else:
        network = build_network(config.filters)
    sizes = choose_sizes(network, config)
    if config.image:  # a bad one is said before anything is trained
        own = classifiers.read_image(config.image, (sizes.test, sizes.test))

    task = load_task(network, sizes, config, run)
    painter = build_painter(config.width)
    untaught = np.asarray(painter(task.recolored))
    train(painter, task, config, run)
    service = as_service(painter, task)
    paint = tf.function(lambda batch: service(batch, training=False)["picture"])
    painted = np.asarray(paint(task.test))
    run.export(service, example=task.test)
    if config.image:
        rows = {"": [own, paint(own[np.newaxis])[0]]}
        run.figure("own", figures.picture_table(rows, title=config.image))

    before = task.energy_of(task.recolored)
    if config.model:
        share = task.energy_of(painted) / before
        run.metric("energy_left", share, unit="of the photographs' own")
        rows = {"photograph": [*task.test, task.style], "one pass": painted}
        title = f"Painted with {config.model}"
        run.figure("pictures", figures.picture_table(rows, title=title))
        return

    found = race(paint, task, config, run)
    judge_race(found, before, task, run)
    judge_style(painted, untaught, task, run)
    pictures = draw_pictures(task, painted, found.optimized, config.steps)
    run.figure("pictures", pictures)
    run.figure("work", draw_work(found))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
