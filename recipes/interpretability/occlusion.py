"""Occlusion: cover a part of the picture, and see what the network makes of the rest.

A gray square slides over the picture; wherever the class's score falls, something was
covered that the network needs. No gradient, no look inside: the network is asked, and
the answer is its own. Each pixel's heat is the mean fall over all squares that cover
it. All covered copies of a picture go through the network in one batch, where a loop of
`predict` would take one call for each.
Look at where the heat lies, beside a gradient's map, which looks an infinitely small
step ahead, and at how it depends on the square's size and on what fills it.

Lectures: CS Visualizing & Understanding (Occlusion Experiments)
Paper: Zeiler and Fergus, Visualizing and understanding convolutional networks, 2014
    (section 4.2)
Tags: perturbation, attribution, heatmap, black box, sliding window, xai, explainability
"""

import functools
import itertools
import math
import time
import timeit
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_filter

from deep_learning_recipes import (
    UsageError,
    classifiers,
    data,
    figures,
    serving,
    training,
)
from deep_learning_recipes.run import Run, cli

FILLS = ("mean", "gray", "blur")


@dataclass
class Config:
    size: int = 48
    """side of the scenes in pixels"""
    scenes: int = 3000
    """scenes to train on"""
    epochs: int = 8
    """passes over them"""
    batch_size: int = 64
    """scenes a gradient is averaged over"""
    sides: tuple[int, ...] = (4, 8, 16)
    """sides of the occluding square in pixels; it moves by half a side"""
    explained: int = 50
    """held-out scenes that are explained and measured"""
    model: str = ""
    """EfficientNetLite0 (needs no download), a .keras file or a network of
    keras.applications, to explain in place of one trained here"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""


QUICK = Config(
    size=24, scenes=1200, epochs=7, batch_size=32, sides=(4, 8, 12), explained=40
)
FULL = Config(
    size=64, scenes=20_000, epochs=20, sides=(4, 8, 12, 16, 24), explained=500
)


# --------------------------------------------------------------------------------------
# The idea: cover a part, and see how far the logit falls
# --------------------------------------------------------------------------------------


def build_model(size=48, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch,
    classes)."""
    x = images = keras.Input((size, size, 3), name="images")
    for number, filters in enumerate((16, 32, 64, 64), start=1):
        width = 5 if number == 1 else 3
        x = layers.Conv2D(filters, width, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu")(x)
        if number <= 2:
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalMaxPooling2D()(x)  # a digit counts wherever it stands
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="scenes")


def spans(length: int, side: int, stride: int) -> np.ndarray:
    """What a window of one dimension covers, (positions, length) bool: the first begins
    at the border and the last ends there."""
    starts = np.arange(0, length - side + stride, stride)
    starts = np.minimum(starts, length - side)
    within = np.arange(length) - starts[:, None]
    return (within >= 0) & (within < side)


def windows(height: int, width: int, side: int, stride: int) -> np.ndarray:
    """Where the square is put, (positions, height, width) bool: row by row, so that every
    pixel is covered."""
    rows = spans(height, side, stride)
    columns = spans(width, side, stride)
    covers = rows[:, None, :, None] & columns[None, :, None, :]
    return covers.reshape(-1, height, width)


def fillings(images: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """What can stand in the square's place, each of the shape of the images: middle
    gray as in the paper, the picture's mean color, or the picture without what is
    finer than the square."""
    mean = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    blur = gaussian_filter(images, (0, side / 2, side / 2, 0))
    return {"gray": np.full_like(images, 0.5), "mean": mean, "blur": blur}


@tf.function
def falls(model: keras.Model, images, filling, classes, covers):
    """How far the class's logit falls with each of the squares, (batch, positions).

    images, filling: (batch, height, width, channels). classes: (batch,). covers:
        (positions, height, width) bool. All covered copies of an image are one batch of
        the network.
    """

    def score_covered(inputs):
        image, other, number = inputs
        covered = tf.where(covers[..., None], other, image)
        return model(covered, training=False)[:, number]

    scores = tf.gather(model(images, training=False), classes, batch_dims=1)
    arguments = images, filling, classes
    covered = tf.map_fn(score_covered, arguments, fn_output_signature=scores.dtype)
    return scores[:, None] - covered


def heat_of(fallen: np.ndarray, covers: np.ndarray) -> np.ndarray:
    """Each pixel's mean fall over the squares that cover it, (batch, height, width)."""
    return np.einsum("np,phw->nhw", fallen, covers, optimize=True) / covers.sum(axis=0)


def occlusion(
    model: keras.Model, images, classes, side: int, fill="gray", batch=256
) -> np.ndarray:
    """The heat map, (batch, height, width), of a square that moves by half its side."""
    covers = windows(*images.shape[1:3], side, max(side // 2, 1))
    filling = fillings(images, side)[fill]
    # As many at once as fit in memory.
    parts = np.array_split(covers, math.ceil(len(covers) / batch))
    fallen = [falls(model, images, filling, classes, part).numpy() for part in parts]
    return heat_of(np.concatenate(fallen, axis=1), covers)


@tf.function
def saliency(model: keras.Model, images, classes):
    """The rival: max over the channels of |∂S_c/∂x| of the logit, (batch, height,
    width)."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = tf.gather(model(images, training=False), classes, batch_dims=1)
    return tf.reduce_max(tf.abs(tape.gradient(scores, images)), axis=-1)


def by_predict(model: keras.Model, image, number: int, covers) -> np.ndarray:
    """The falls of one image under gray squares, (1, positions), as one would write it
    first."""
    covered = [np.where(cover[..., None], np.float32(0.5), image) for cover in covers]
    scores = [
        model.predict(each[None], verbose=0)[0, number] for each in [image, *covered]
    ]
    return scores[0] - np.array([scores[1:]])


# --------------------------------------------------------------------------------------
# The experiment: squares over three photographs, then over digits on photographs
# --------------------------------------------------------------------------------------


def occlude_objects(model: keras.Model, objects: data.Objects) -> np.ndarray:
    """How far the logit of each object's class falls, (3, height, width), with gray
    squares side by side. One pass through the network serves all three classes."""
    side = objects.images.shape[1] // 4
    covers = windows(*objects.images.shape[1:3], side, side)
    picture = objects.images[:1]
    gray = fillings(picture, side)["gray"]
    whole = np.asarray(model(picture, training=False))[:, objects.labels]
    fallen = []
    for part in np.split(covers, 4):  # what fits in memory
        covered = np.where(part[..., np.newaxis], gray, picture)
        logits = np.asarray(model(covered, training=False))
        fallen.append(whole - logits[:, objects.labels])
    return heat_of(np.concatenate(fallen).T, covers)


def explain_objects(run: Run) -> None:
    """Squares over three things in one picture, before a network that learned on
    ImageNet, and before the same one with its weights shuffled."""
    run.print("covering a cat, a cup and a rocket before EfficientNet-Lite0 ...")
    objects = data.load_objects(112)
    size = objects.images.shape[1:3]
    network = classifiers.load("EfficientNetLite0", size=size).model
    maps = occlude_objects(network, objects)
    classifiers.shuffle_weights(network, run.seed)
    shuffled = occlude_objects(network, objects)

    ratio = classifiers.own_over_others(maps, objects.masks)
    of_shuffled = classifiers.own_over_others(shuffled, objects.masks)
    run.compare(
        "In photographs more of a class's fall is on its object than of another class's; "
        "with the same weights shuffled it is not",
        {"own over others, least": ratio.min(), "shuffled": of_shuffled.min()},
        more="own over others, least",
        less="shuffled",
        times=1.4,
    )
    run.figure(
        "objects",
        figures.object_maps(
            objects.images,
            objects.masks,
            {"learned on ImageNet": maps, "the same weights, shuffled": shuffled},
            names=objects.names,
            title="Where a gray square lowers a class's logit (boxes: drawn by hand)",
        ),
    )


def explain_own(run: Run, own: classifiers.Classifier, images: np.ndarray) -> None:
    """Squares of a sixth and of a third of the pictures' shorter side."""
    shorter = min(images.shape[1:3])
    methods = {}
    for part in (6, 3):
        side = max(shorter // part, 2)
        methods[f"side {side}"] = functools.partial(
            occlusion, own.model, side=side, batch=32
        )
    classifiers.explain_own(run, own, images, methods)


def accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.asarray(model(images)).argmax(axis=1) == labels))


def cover_all(run: Run, model: keras.Model, test: data.Scenes, side: int) -> None:
    """The same gray square where it hides most of the digit, and where it hides
    least."""
    height, width = test.masks.shape[1:]
    covers = windows(height, width, side, side // 2)
    hidden = np.einsum("nhw,phw->np", test.masks, covers, dtype="float32")
    gray = np.float32(0.5)
    most = covers[hidden.argmax(axis=1)]
    least = covers[hidden.argmin(axis=1)]
    on = accuracy(model, np.where(most[..., None], gray, test.images), test.labels)
    off = accuracy(model, np.where(least[..., None], gray, test.images), test.labels)
    whole = accuracy(model, test.images, test.labels)
    run.metric("test_accuracy", whole)
    run.metric("accuracy_digit_covered", on)
    run.metric("accuracy_elsewhere_covered", off)
    run.claim(
        "Cover most of the digit and the network is lost; cover as much elsewhere, it "
        "hardly cares",
        holds=off > whole - 0.15 and on < off - 0.25,
        measured=f"accuracy under {side}² gray pixels: {on:.3f} on the digit, {off:.3f} "
        f"off, {whole:.3f} without",
    )


def draw_all_maps(
    model: keras.Model, images: np.ndarray, classes: np.ndarray, sides: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """By filling and side; the gradient's, and by a network that has not learned."""
    maps = {}
    for fill, side in itertools.product(FILLS, sides):
        maps[f"{fill}_{side}"] = occlusion(model, images, classes, side, fill)
    maps["gradient"] = saliency(model, images, classes).numpy()
    untrained = build_model(images.shape[1])
    maps["untrained"] = occlusion(untrained, images, classes, sides[0], "mean")
    return maps


def measure(heat: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    return {
        "share_on_digit": classifiers.share_on_object(heat, masks).mean(),
        "pointing_game": classifiers.pointing_game(heat, masks).mean(),
        "overlap": classifiers.overlap(heat, masks).mean(),
    }


def judge_maps(
    run: Run,
    found: dict[str, dict[str, float]],
    sides: tuple[int, ...],
    size_of_digit: float,
) -> None:
    """found: the measures of each map. size_of_digit: its share of the picture."""
    best = found[f"mean_{sides[0]}"]
    rivals = {name: found[name] for name in ("gradient", "untrained")}
    share = best["share_on_digit"]
    run.claim(
        "The heat agrees with the object's mask, better than the gradient's map does and "
        "than the heat of an untrained network",
        holds=share > max(each["share_on_digit"] for each in rivals.values()) + 0.15
        and best["overlap"] > max(each["overlap"] for each in rivals.values()) + 0.05,
        measured=f"share on the digit {share:.3f}, intersection over union "
        f"{best['overlap']:.3f}; "
        + "; ".join(
            f"{name} {each['share_on_digit']:.3f} and {each['overlap']:.3f}"
            for name, each in rivals.items()
        ),
    )
    shares = [found[f"mean_{side}"]["share_on_digit"] for side in sides]
    run.claim(
        "The larger the square, the vaguer the map: less and less of the heat is on the "
        "digit",
        holds=all(small > large + 0.05 for small, large in itertools.pairwise(shares)),
        measured=f"share on the digit {np.round(shares, 3).tolist()} at {sides} pixels, "
        f"picture {size_of_digit:.3f}",
    )
    gray = found[f"gray_{sides[0]}"]["share_on_digit"]
    blur = found[f"blur_{sides[0]}"]["share_on_digit"]
    run.claim(
        "What fills the square is part of the question: middle gray, lighter than these "
        "grounds, is itself something to see, and leaves less of the heat on the digit "
        "than the mean color",
        holds=gray < share - 0.15,
        measured=f"share on the digit: gray {gray:.3f}, mean {share:.3f}, blur {blur:.3f}",
    )


def compare_speed(run: Run, model: keras.Model, image: np.ndarray, number: int, side):
    covers = windows(*image.shape[:2], side, side // 2)
    one = image[None]
    gray = np.full_like(one, 0.5)
    batched = functools.partial(falls, model, one, gray, np.array([number]), covers)
    # The first calls of both compile, and are not timed.
    fallen = batched().numpy()
    model.predict(one, verbose=0)

    started = time.perf_counter()
    looped = by_predict(model, image, number, covers)
    loop_seconds = time.perf_counter() - started
    speedup = 5 * loop_seconds / timeit.timeit(batched, number=5)
    difference = np.abs(looped - fallen).max() / np.abs(fallen).max()
    run.metric("times_faster_than_predict", speedup, timing=True)
    run.claim(
        "All covered copies in one batch give what a loop of predict gives, many times "
        "faster",
        holds=difference < 1e-3 and speedup > 5,
        measured=f"largest difference {difference:.1e} of the largest fall; "
        f"{len(covers)} squares",
    )


def plot_measures(
    found: dict[str, dict[str, float]], sides: tuple[int, ...]
) -> plt.Figure:
    """Each measure by the square's side, a line for each filling."""
    panels = []
    for measure, of_gradient in found["gradient"].items():
        lines = {}
        for fill in FILLS:
            values = [found[f"{fill}_{side}"][measure] for side in sides]
            lines[fill] = (sides, values)
        panels.append(
            figures.Panel(
                title=measure.replace("_", " "),
                xlabel="side in pixels",
                lines=lines,
                levels={"gradient": of_gradient},
                xticks=sides,
                ylim=(0, 1),
            )
        )
    title = "Where the heat is, by the square's side and by what fills it"
    return figures.panels(*panels, title=title)


def require_sides(config: Config) -> None:
    sides = config.sides
    if not 2 <= min(sides) <= max(sides) <= config.size:
        raise UsageError(
            f"--sides {sides}: from 2 to the scene's {config.size} pixels are possible"
        )


def main(config: Config, run: Run) -> None:
    if config.model:
        own = classifiers.from_flags(config, run)
        explain_own(run, own, own.pictures(config.image))
        return
    require_sides(config)
    # A bad picture is said before the training, not after it.
    shape = (config.size, config.size)
    picture = classifiers.read_image(config.image, shape) if config.image else None

    explain_objects(run)
    scenes, test = data.load_scenes(config.scenes, 500, size=config.size, seed=run.seed)
    model = build_model(config.size)
    training.fit_classifier(
        model,
        scenes.images,
        scenes.labels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=5e-3,
        callbacks=run.callbacks,
    )
    if picture is not None:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        explain_own(run, own, picture[None])
    cover_all(run, model, test, config.sides[-1])

    images = test.images[: config.explained]
    masks = test.masks[: config.explained]
    seen = np.asarray(model(images, training=False)).argmax(axis=1)
    maps = draw_all_maps(model, images, seen, config.sides)
    found = {name: measure(heat, masks) for name, heat in maps.items()}
    for name, measures in found.items():
        for kind, value in measures.items():
            run.metric(f"{name}_{kind}", value)
    judge_maps(run, found, config.sides, masks.mean())
    compare_speed(run, model, images[0], seen[0], config.sides[-1])

    shown = {f"{side} pixels": maps[f"mean_{side}"] for side in config.sides}
    run.figure(
        "maps",
        figures.heat_maps(
            images[:5],
            {**shown, "gradient": maps["gradient"], "untrained": maps["untrained"]},
            title="Where the digit's logit falls under a square of the mean color",
            captions=[f"read as {digit}" for digit in seen[:5]],
        ),
    )
    run.figure("measures", plot_measures(found, config.sides))
    run.export(serving.classifier(model), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
