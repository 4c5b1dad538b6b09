"""Saliency: which pixels would change the score, asked of the gradient.

The gradient of a class's logit with respect to the picture, ∂S_c/∂x, says for every
pixel how much the score would move if the pixel did. Its absolute value, and of that
the largest of the color channels, is a map of where the network looks: one backward
pass, no labels of places needed. The raw map is speckled; SmoothGrad averages the maps
of noisy copies of the picture. The few pixels that it is surest of tell the object's
color, and that cuts the object out.
Look at a cat, a cup and a rocket in one picture, by a network that learned on ImageNet;
at how much of each map lies on a digit, and at what an untrained network draws.

Lectures: CS Visualizing & Understanding (Saliency Maps); N18 §7 (input-feature
    importance)
Paper: Simonyan et al., Deep inside convolutional networks: visualising image
    classification models and saliency maps, 2014 (section 3); Smilkov et al.,
    SmoothGrad: removing noise by adding noise, 2017
Tags: saliency map, smoothgrad, vanilla gradient, attribution, sensitivity map, heatmap,
    xai, explainability
"""

import functools
import timeit
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.scores import CategoricalScore

from deep_learning_recipes import classifiers, data, figures, training
from deep_learning_recipes.run import Run, cli


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
    learning_rate: float = 5e-3
    """of Adam at the start; it falls to 0 along a cosine"""
    samples: int = 20
    """noisy copies of a picture that SmoothGrad averages"""
    noise: float = 0.2
    """their noise's standard deviation, in ranges of the picture's values"""
    explained: int = 200
    """held-out scenes that are explained and measured"""
    model: str = ""
    """EfficientNetLite0 (needs no download), a .keras file or a network of
    keras.applications, to explain in place of one trained here"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""


QUICK = Config(size=24, scenes=1200, epochs=6, batch_size=32, samples=10, explained=100)
FULL = Config(size=64, scenes=20_000, epochs=20, samples=50, explained=500)


# --------------------------------------------------------------------------------------
# The idea: the gradient of a logit with respect to the pixels
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


@tf.function
def gradient(model: keras.Model, images, classes):
    """∂S_c/∂x of one class for each image, the shape of the images. S_c is the logit: a
    probability near 1 hardly moves. An image's score depends on no other image, so one
    call serves them all."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = tf.gather(model(images, training=False), classes, batch_dims=1)
    return tape.gradient(scores, images)


def saliency(model: keras.Model, images, classes):
    """max over the channels of |∂S_c/∂x|, (batch, height, width): section 3.1 of
    Simonyan et al."""
    return tf.reduce_max(tf.abs(gradient(model, images, classes)), axis=-1)


@tf.function
def smooth_gradient(model: keras.Model, images, classes, samples: int, noise: float):
    """SmoothGrad, (batch, height, width): max over the channels of |∂S_c/∂x| averaged
    over noisy copies of the images.

    noise: its standard deviation as a share of each image's range. The paper averages
    the gradients with their signs; like tf-keras-vis we average magnitudes, which
    cannot cancel.
    """
    span = tf.reduce_max(images, (1, 2, 3), True) - tf.reduce_min(
        images, (1, 2, 3), True
    )
    total = tf.zeros_like(images)
    for i in tf.range(samples):
        drawn = tf.random.stateless_normal(
            tf.shape(images), seed=[0, i], dtype=images.dtype
        )
        total += tf.abs(gradient(model, images + noise * span * drawn, classes))
    return tf.reduce_max(total, axis=-1) / float(samples)


def tf_keras_vis_saliency(model: keras.Model, images, classes, **options) -> np.ndarray:
    """The same by tf-keras-vis: SmoothGrad with smooth_samples=, smooth_noise=."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        score = CategoricalScore(np.asarray(classes).tolist())
        return Saliency(model, clone=False)(
            score, images, normalize_map=False, **options
        )


def segment(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The object's pixels, (n, height, width) bool, from nothing but a map of what
    matters.

    After Simonyan et al., section 3.2, who learn the object's colors from the pixels
    above the map's 95 % quantile and cut the picture by GraphCut: here the median of
    those colors stands for the object, and Otsu's threshold cuts the colors into near
    and far.
    """
    found = np.empty(maps.shape, bool)
    for i, (image, heat) in enumerate(zip(images, maps, strict=True)):
        color = np.median(image[heat >= np.quantile(heat, 0.95)], axis=0)
        distances = np.linalg.norm(image - color, axis=-1)
        found[i] = distances <= threshold_otsu(distances)
    return found


def intersection_over_union(found: np.ndarray, masks: np.ndarray) -> float:
    return float(np.mean((found & masks).sum((1, 2)) / (found | masks).sum((1, 2))))


class Explain(layers.Layer):
    """A classifier's probabilities, and the saliency map of its most probable class, as
    a layer: so that the gradient goes into the exported graph."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = self.model(images, training=False)
            scores = tf.reduce_max(logits, axis=-1)
        heat = tf.reduce_max(tf.abs(tape.gradient(scores, images)), axis=-1)
        return {"probabilities": tf.nn.softmax(logits), "saliency": heat}


# --------------------------------------------------------------------------------------
# The experiment: three photographs in one picture, then digits on photographs
# --------------------------------------------------------------------------------------


def explain_objects(run: Run) -> None:
    """The gradients of three classes of ImageNet in one picture, by a network that
    learned them, and by the same one with its weights shuffled."""
    run.print("asking EfficientNet-Lite0 for a cat, a cup and a rocket ...")
    objects = data.load_objects()
    size = objects.images.shape[1:3]
    network = classifiers.load("EfficientNetLite0", size=size).model
    maps = saliency(network, objects.images, objects.labels).numpy()
    classifiers.shuffle_weights(network, run.seed)
    shuffled = saliency(network, objects.images, objects.labels).numpy()

    run.compare(
        "In photographs the gradient follows the question: at each object it is stronger "
        "if asked for that one; with the same weights shuffled it is not",
        {
            "own over others, least": own_over_others(maps, objects),
            "shuffled": own_over_others(shuffled, objects),
        },
        more="own over others, least",
        less="shuffled",
        times=1.3,
    )
    run.figure(
        "objects",
        figures.object_maps(
            objects.images,
            objects.masks,
            {
                "gradient": blurred(maps),
                "the same weights, shuffled": blurred(shuffled),
            },
            names=objects.names,
            title="One picture, asked for three classes (maps blurred, boxes by hand)",
        ),
    )


def own_over_others(maps: np.ndarray, objects: data.Objects) -> float:
    return classifiers.own_over_others(maps, objects.masks).min()


def blurred(maps: np.ndarray) -> np.ndarray:
    """Speckles become regions that can be seen from a seat."""
    return gaussian_filter(maps, (0, 6, 6))


def smoothed(model: keras.Model, images, classes, config: Config) -> np.ndarray:
    maps = smooth_gradient(model, images, classes, config.samples, config.noise)
    return maps.numpy()


def explain_own(
    config: Config, run: Run, own: classifiers.Classifier, images: np.ndarray
) -> None:
    methods = {
        "gradient": functools.partial(saliency, own.model),
        "SmoothGrad": functools.partial(smoothed, own.model, config=config),
    }
    classifiers.explain_own(run, own, images, methods)


def judge_places(run: Run, shares: dict[str, float], size_of_digit: float) -> None:
    """shares: of each map on the digit; the digit's own share of the picture."""
    by_gradient = shares["gradient"]
    untrained = shares["untrained gradient"]
    run.claim(
        "The gradient finds the object without having been told of places: twice the "
        "digit's share of the picture, and half as much again as an untrained network's "
        "map, lies on it",
        holds=by_gradient > max(2 * size_of_digit, 1.5 * untrained),
        measured=f"{by_gradient:.3f} of the map on the digit, which is "
        f"{size_of_digit:.3f} of the picture; untrained {untrained:.3f}",
    )
    other = shares["other class"]
    run.claim(
        "The map tells where, hardly for which class: another class's gradient lies on "
        "the digit nearly as much",
        holds=other > 0.75 * by_gradient,
        measured=f"{other:.3f} of a wrong class's map on the digit, {by_gradient:.3f} of "
        "the right one's",
    )


def judge_segments(
    run: Run,
    images: np.ndarray,
    masks: np.ndarray,
    overlaps: dict[str, float],
    cut: float,
    untrained: list[float],
) -> None:
    """overlaps: of each map's highest pixels with the digit. cut: of what SmoothGrad cuts
    out; untrained: of what it cuts out by networks that have learned nothing."""
    run.compare(
        "Averaging over noisy copies cleans the map: SmoothGrad's highest pixels overlap "
        "more with the digit",
        {name: overlaps[name] for name in ("SmoothGrad", "gradient")},
        more="SmoothGrad",
        less="gradient",
        by=0.015,
    )
    bright = np.stack([each > threshold_otsu(each) for each in images.mean(axis=-1)])
    by_light = intersection_over_union(bright, masks)
    run.metric("brightness_segmentation_iou", by_light)
    by_chance = np.mean(untrained)
    run.claim(
        "Saliency segments without supervision: cut out by the color of the most salient "
        "pixels, the digit comes out better than by the map alone, and not by maps of "
        "untrained networks",
        holds=cut > max(overlaps["SmoothGrad"] + 0.1, by_chance + 0.3),
        measured=f"intersection over union {cut:.3f}; map alone "
        f"{overlaps['SmoothGrad']:.3f}, {len(untrained)} untrained {by_chance:.3f} (a "
        "threshold of the light, if told that digits are lighter than their ground: "
        f"{by_light:.3f})",
    )


def judge_library(
    run: Run, model: keras.Model, images, classes, maps: np.ndarray
) -> None:
    library = tf_keras_vis_saliency(model, images, classes)
    difference = np.abs(maps - library).max() / library.max()
    run.claim(
        "Three lines of gradient are all that it takes: tf-keras-vis gives the same maps",
        holds=difference < 1e-4,
        measured=f"largest difference {difference:.1e} of the highest value over "
        f"{len(images)} scenes",
    )


def record(
    run: Run,
    shares: dict[str, float],
    overlaps: dict[str, float],
    cuts: dict[str, float],
    size_of_digit: float,
) -> None:
    run.metric("share_on_digit", shares["gradient"])
    run.metric("digit_share_of_picture", size_of_digit)
    for name, share in shares.items():
        prefix = name.lower().replace(" ", "_")
        run.metric(f"{prefix}_share_on_digit", share)
        run.metric(f"{prefix}_overlap", overlaps[name])
        run.metric(f"{prefix}_segmentation_iou", cuts[name])


def measure(
    config: Config, run: Run, model: keras.Model, images: np.ndarray, masks: np.ndarray
) -> None:
    """The claims, on held-out scenes (n, size, size, 3), of which no label is used."""
    seen = np.asarray(model(images, training=False)).argmax(axis=1)
    other = (seen + np.random.default_rng(run.seed).integers(1, 10, len(seen))) % 10
    # What a network finds before it has learned differs from start to start.
    untrained = [build_model(config.size) for _ in range(3)]
    by_untrained = [smoothed(each, images, seen, config) for each in untrained]
    maps = {
        "gradient": saliency(model, images, seen).numpy(),
        "SmoothGrad": smoothed(model, images, seen, config),
        "other class": saliency(model, images, other).numpy(),
        "untrained gradient": saliency(untrained[0], images, seen).numpy(),
        "untrained SmoothGrad": by_untrained[0],
    }
    shares = {}
    overlaps = {}
    found = {}
    cuts = {}
    for name, each in maps.items():
        shares[name] = classifiers.share_on_object(each, masks).mean()
        overlaps[name] = classifiers.overlap(each, masks).mean()
        found[name] = segment(images, each)
        cuts[name] = intersection_over_union(found[name], masks)
    cuts_by_untrained = [cuts["untrained SmoothGrad"]]
    for each in by_untrained[1:]:
        cut = intersection_over_union(segment(images, each), masks)
        cuts_by_untrained.append(cut)

    record(run, shares, overlaps, cuts, masks.mean())
    seconds = timeit.timeit(lambda: saliency(model, images, seen).numpy(), number=1)
    run.metric("maps_a_second", len(images) / seconds, timing=True)
    judge_places(run, shares, masks.mean())
    judge_segments(run, images, masks, overlaps, cuts["SmoothGrad"], cuts_by_untrained)
    judge_library(run, model, images[:32], seen[:32], maps["gradient"][:32])
    draw_maps(run, model, images[:6], {name: each[:6] for name, each in maps.items()})
    draw_segments(run, images, maps["SmoothGrad"], found["SmoothGrad"], masks)


def draw_maps(run: Run, model: keras.Model, images: np.ndarray, maps) -> None:
    probabilities = tf.nn.softmax(model(images, training=False)).numpy()
    captions = [f"{each.argmax()}: {each.max():.2f}" for each in probabilities]
    shown = ("gradient", "SmoothGrad", "untrained gradient")
    run.figure(
        "maps",
        figures.heat_maps(
            images,
            {name: maps[name] for name in shown},
            title="Where a digit's logit comes from (digit seen: its probability)",
            captions=captions,
        ),
    )


def draw_segments(run: Run, images, heat: np.ndarray, found, masks) -> None:
    rows = {
        "scene": images,
        "SmoothGrad": heat / heat.max((1, 2), keepdims=True),
        "cut out": found,
        "truth": masks,
    }
    title = "Cut out by the most salient color"
    run.figure("segments", figures.image_rows(rows, title=title))


def main(config: Config, run: Run) -> None:
    if config.model:
        own = classifiers.from_flags(config, run)
        explain_own(config, run, own, own.pictures(config.image))
        return
    shape = (config.size, config.size)
    # A bad picture is said before the training, not after it.
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
        learning_rate=config.learning_rate,
        callbacks=run.callbacks,
    )
    if picture is not None:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        explain_own(config, run, own, picture[None])

    accuracy = model.evaluate(test.images, test.labels, verbose=0)[1]
    run.metric("test_accuracy", accuracy)
    images = test.images[: config.explained]
    measure(config, run, model, images, test.masks[: config.explained])
    scene = keras.Input((*shape, 3), name="images")
    explained = Explain(model, dtype="float32")(scene)
    run.export(keras.Model(scene, explained), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
