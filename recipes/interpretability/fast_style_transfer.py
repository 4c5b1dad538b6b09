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

import timeit
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

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

TEST_PHOTOS = "temple", "cat", "coffee"  # the painter never sees them
CONTENT_LAYER = 2  # the third


def build_network(filters: int) -> keras.Model:
    """Random filters, which do where none are trained (see texture_synthesis). Input:
    (batch, height, width, 3). Outputs: the maps of each layer."""
    picture = x = keras.Input((None, None, 3), name="picture")
    maps = []
    for kernel_size in (5, 3, 3, 3):
        x = layers.AveragePooling2D(2)(x) if maps else x
        x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
        maps.append(x)
    network = keras.Model(picture, maps, name="random_filters")
    for kernel in network.weights[::2]:
        values = keras.random.normal(kernel.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        kernel.assign(
            values / ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True))
        )
    return network


def build_painter(width: int) -> keras.Model:
    """(batch, height, width, 3) in [0, 1] to the same; height and width are multiples
    of 4."""

    def convolve(x, filters, kernel_size=3, strides=1, **options):
        edge = (kernel_size // 2,) * 2
        x = ops.pad(
            x, ((0, 0), edge, edge, (0, 0)), mode="reflect"
        )  # zeros would leave a frame
        return layers.Conv2D(filters, kernel_size, strides, **options)(x)

    def normalize(x, activation="relu"):
        x = layers.GroupNormalization(groups=-1, epsilon=1e-5)(
            x
        )  # of a channel each: by instance
        return layers.Activation(activation)(x)

    picture = keras.Input((None, None, 3), name="picture")
    x = normalize(convolve(picture, width, kernel_size=5))
    x = normalize(convolve(x, 2 * width, strides=2))
    x = normalize(convolve(x, 3 * width, strides=2))
    for _ in range(3):
        change = normalize(convolve(x, 3 * width))
        x = layers.Add()([x, normalize(convolve(change, 3 * width), "linear")])
    for filters in (2 * width, width):
        # A transposed convolution would leave a checkerboard (Odena et al., 2016).
        x = normalize(
            convolve(layers.UpSampling2D(2, interpolation="bilinear")(x), filters)
        )
    x = convolve(x, 3, kernel_size=5, activation="sigmoid", dtype="float32")
    return keras.Model(picture, x, name="painter")


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the
    places."""
    _, height, width, _ = ops.shape(maps)
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / ops.cast(
        height * width, maps.dtype
    )


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
        self.network, self.weight, self.smoothness = network, weight, smoothness
        self.grams = [gram_matrix(maps) for maps in network(style[None])]
        self.layer = min(CONTENT_LAYER, len(self.grams) - 1)

    def __call__(self, pictures, goal):
        pictures = tf.convert_to_tensor(pictures)
        mean = ops.mean(goal, axis=(1, 2), keepdims=True)
        all_maps = self.network(pictures)
        content = relative(all_maps[self.layer] - mean, goal - mean)
        pairs = zip(all_maps, self.grams, strict=True)
        style = ops.mean(
            [relative(gram_matrix(maps), gram) for maps, gram in pairs], axis=0
        )
        pixels = ops.cast(ops.size(pictures[0]), "float32")
        variation = tf.image.total_variation(pictures) / pixels
        return content + self.weight * style + self.smoothness * variation


class Apprentice(keras.Model):
    """Trains a painter: x are photographs in the style's colors, y is not used."""

    def __init__(self, painter: keras.Model, energy: Energy, **kwargs):
        super().__init__(**kwargs)
        self.painter, self.energy = painter, energy

    def call(self, photographs, training=False):
        return self.painter(photographs, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        goal = self.energy.network(x)[self.energy.layer]
        return ops.mean(ops.log(self.energy(y_pred, goal)))


def random_crops(photos: np.ndarray, size: int, count: int, random) -> np.ndarray:
    """(count, size, size, 3): squares of the photographs (n, side, side, 3), half
    flipped."""
    squares = np.lib.stride_tricks.sliding_window_view(
        photos, (size, size), axis=(1, 2)
    )
    places = (random.integers(limit, size=count) for limit in squares.shape[:3])
    crops = np.moveaxis(squares[tuple(places)], 1, -1)
    crops[1::2] = crops[1::2, :, ::-1]
    return crops


def main(config: Config, run: Run) -> None:
    run.plan(1 if config.model else 2)  # the painter, and optimization
    size, test_size, style_size = config.size, config.test_size, config.style_size
    if config.model:
        network = classifiers.from_flags(config, run).convolutions
        size = test_size = style_size = network.input.shape[1]
    else:
        network = build_network(config.filters)
    if size % 4 or test_size % 4 or not 40 <= size <= test_size or style_size < 40:
        sizes = f"--size {size} --test-size {test_size} --style-size {style_size}"
        if config.model:
            sizes = f"--model {config.model}, pictures of {size} pixels"
        raise UsageError(
            f"{sizes}: 40 <= size <= test-size, multiples of 4; 40 <= style-size"
        )
    own = config.image and classifiers.read_image(config.image, (test_size, test_size))
    style = data.load_picture(config.style, style_size)
    random = np.random.default_rng(run.seed)
    photos = dict(
        zip(data.class_names("photos"), data.load_photos(test_size), strict=True)
    )
    test = np.stack([photos.pop(name) for name in TEST_PHOTOS])
    recolor = painting.Recolor.like(style)
    x = np.asarray(
        recolor(random_crops(np.stack([*photos.values()]), size, config.crops, random))
    )
    energy = Energy(network, style, config.style_weight, config.smoothness)
    test_goals = recolor(test)
    goal = network(test_goals)[energy.layer]

    painter = build_painter(config.width)
    updates = -(-config.crops // config.batch_size) * config.epochs
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, updates)
    apprentice = Apprentice(painter, energy)
    apprentice.compile(keras.optimizers.Adam(rate))
    settings = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(apprentice, x, x, callbacks=run.callbacks, **settings)

    photograph = keras.Input((test_size, test_size, 3), name="photograph")
    service = keras.Model(
        photograph, {"picture": painter(recolor(photograph))}, name="painter"
    )
    paint = tf.function(lambda batch: service(batch, training=False)["picture"])
    painted = np.asarray(paint(test))
    if config.image:
        rows = {"": [own, paint(own[None])[0]]}
        run.figure("own", figures.picture_table(rows, title=config.image))
    reached, before = (
        float(np.mean(energy(each, goal))) for each in (painted, test_goals)
    )
    run.export(service, example=test)
    rows = {"photograph": [*test, style], "one pass": painted}
    if config.model:
        run.metric("energy_left", reached / before, unit="of the photographs' own")
        run.figure(
            "pictures",
            figures.picture_table(rows, title=f"Painted with {config.model}"),
        )
        return

    solver = LBFGS(lambda batch: energy(batch, goal), test_goals, steps_per_call=1)
    energies, of_steps, of_passes = np.full((3, config.steps), np.nan)
    state = {"solver": solver.state, "curves": [energies, of_steps, of_passes]}
    for step in run.loop("optimization", config.steps, state):
        of_steps[step] = timeit.timeit(solver.advance, number=1)
        energies[step] = np.mean(solver.value)
        # In turns, so that both meet the same load of the machine.
        of_passes[step] = timeit.timeit(lambda: paint(test).numpy(), number=1)
    step_seconds = np.median(of_steps) / len(test)
    pass_seconds = np.median(of_passes) / len(test)
    worth = (
        int(np.sum(energies > reached)) + 1
    )  # of all steps and one more, if it never got there
    speed_up = worth * step_seconds / pass_seconds
    run.metric("speed_up", speed_up, unit="times", timing=True)
    run.metric("steps_that_a_pass_is_worth", worth)
    run.metric("energy_left", reached / before, unit="of the photographs' own")
    run.claim(
        "One pass over a picture not seen before does more than a step of optimization, though "
        "not as much as many",
        holds=worth >= 2 and reached < 0.7 * before and energies[-1] < 0.8 * reached,
        measured=f"energy from {before:.2f} to {reached:.2f} in a pass, which optimization reaches "
        f"after {worth} steps (after {config.steps}: {energies[-1]:.2f})",
    )
    run.claim(
        "To the same energy a pass is at least twice as fast as optimization",
        holds=speed_up > 2,
        measured=f"{1000 * pass_seconds:.0f} ms against {1000 * worth * step_seconds:.0f} ms for a "
        f"photograph of {test_size} pixels: {speed_up:.0f} times",
    )
    far_before, far = (
        np.mean([painting.texture_distance(each, style) for each in batch])
        for batch in (np.asarray(test_goals), painted)
    )
    run.claim(
        "The pass takes on the style, also by a statistic that no network has a part in",
        holds=far < 0.9 * far_before,
        measured=f"distance of local patterns to the style from {far_before:.3f} to {far:.3f}",
    )

    rows[f"{config.steps} steps"] = np.clip(solver.x, 0, 1)
    captions = [*TEST_PHOTOS, "style"]
    run.figure(
        "pictures",
        figures.picture_table(rows, title="Not seen before", captions=captions),
    )
    lines = {"optimization": energies, "one pass": np.full(config.steps, reached)}
    title = f"A pass {1000 * pass_seconds:.0f} ms, a step {1000 * step_seconds:.0f} ms"
    run.figure(
        "work", figures.curves(lines, title=title, ylabel="energy", xlabel="step")
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
