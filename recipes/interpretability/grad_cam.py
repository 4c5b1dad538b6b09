"""Grad-CAM: where in the picture a convnet sees a class.

The maps A of a convolution still know where; the logit y of a class knows what. Grad-CAM
weighs each map by the mean of its gradient, α_k = mean_ij ∂y/∂A_ij^k, and keeps what
speaks for the class: ReLU(Σ_k α_k A^k). In a network that ends in global average
pooling and one dense layer that is the class activation map (CAM), with the dense
layer's weights as α_k. Grad-CAM++ averages the positive gradients alone; Score-CAM asks
for no gradient: α_k is the class's probability where the picture shows only what map k
lights up on.
Look at a cat, a cup and a rocket in one picture, each found when it is asked for, by a
network that learned on ImageNet; at two digits, where the truth is known; and at the
layers: early ones find whatever is bright, the last one tells the classes apart.

Lectures: CS Visualizing & Understanding; N18 7.2 Interpretability Methods
Paper: Selvaraju et al., Grad-CAM, 2017 (equations 1 and 2, and section 3.1 on CAM);
    Zhou et al., Learning deep features for discriminative localization, 2016;
    Chattopadhay et al., Grad-CAM++, 2018; Wang et al., Score-CAM, 2020
Tags: gradcam, class activation map, grad-cam++, score-cam, heatmap, localization, xai,
    explainability
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits, load_sample_image
from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.scorecam import Scorecam
from tf_keras_vis.utils.scores import CategoricalScore

from deep_learning_recipes import classifiers, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: int = 48
    """side of the pictures in pixels"""
    train_scenes: int = 3000
    """pictures to learn from: a digit on a photograph"""
    epochs: int = 6
    """passes over them"""
    explained: int = 96
    """held-out pictures to explain, and as many with two digits"""
    channels: int = 32
    """of a layer that Score-CAM asks, a pass of the network each: those that differ
    most from place to place"""
    model: str = ""
    """EfficientNetLite0 (needs no download), a .keras file or a network of
    keras.applications, to explain instead of the one trained"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""


QUICK = Config(size=32, train_scenes=1500, explained=32, channels=16)
FULL = Config(size=64, train_scenes=12_000, epochs=20, explained=256, channels=64)

# By name its filters. Layers 1 and 2 are followed by pooling.
LAYERS = {"layer1": 16, "layer2": 32, "layer3": 64, "layer4": 64}
LAST = "layer4"


# --------------------------------------------------------------------------------------
# The idea: what a class's logit gains by each map is the map's weight
# --------------------------------------------------------------------------------------


def grad_cam(maps, gradients):
    """Equations 1 and 2 of the paper: where a class is seen, (n, height, width).

    maps: A, what a layer makes of n pictures, (n, height, width, channels).
    gradients: ∂y/∂A of the class's logit y, of the same shape.
    """
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))


def cam(maps, kernel):
    """CAM (Zhou et al., equation 2): the kernel of the dense layer (channels, classes)
    applied at each place, (n, height, width, classes)."""
    return ops.relu(ops.matmul(maps, kernel))


def grad_cam_plus_plus(maps, gradients):
    """Grad-CAM with the mean over positive gradients alone, each place by its share.

    With exp(y) for the score, and y piecewise linear, the three derivatives are exp(y)
    times g, g² and g³. So the share g² / (2g² + g³ ΣA) is 1 / (2 + g ΣA), and 0 where g
    is 0. Where g is the same all over, as before a mean and a dense layer, the shares
    are too: then this is Grad-CAM without its negative weights.
    """
    below = 2 + gradients * tf.reduce_sum(maps, axis=(1, 2), keepdims=True)
    shares = tf.where(gradients == 0, 0.0, tf.math.divide_no_nan(1.0, below))
    total = tf.reduce_sum(shares, axis=(1, 2), keepdims=True)
    shares = tf.math.divide_no_nan(shares, total)

    positive = tf.nn.relu(gradients)
    weights = tf.reduce_sum(shares * positive, axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))


def score_cam(maps, images, probability, channels: int):
    """Grad-CAM with a probability in place of each mean gradient: that of the class
    when the picture shows only what the map lights up on.

    probability: of the classes (n,), a function of pictures like `images`. channels:
    how many maps are asked, those that differ most from place to place.
    """
    maps = most_varied(maps, channels)
    masks = masks_from(maps, images.shape[1:3])

    def weight(mask):
        return probability(images * mask[..., tf.newaxis])

    weights = tf.map_fn(weight, tf.transpose(masks, (3, 0, 1, 2)))  # (channels, n)
    return tf.nn.relu(tf.einsum("nhwk,kn->nhw", maps, weights))


def most_varied(maps, channels: int):
    """The channels of each picture's maps that differ most from place to place."""
    spread = tf.math.reduce_std(maps, axis=(1, 2))
    chosen = tf.math.top_k(spread, min(channels, maps.shape[-1])).indices
    return tf.gather(maps, chosen, axis=3, batch_dims=1)


def masks_from(maps, size):
    """Maps as masks from 0 to 1, at the pictures' size."""
    masks = tf.image.resize(maps, size)
    masks -= tf.reduce_min(masks, axis=(1, 2), keepdims=True)
    return masks / (tf.reduce_max(masks, axis=(1, 2), keepdims=True) + 1e-7)


def build_model(classes=10) -> keras.Model:
    """Four convolutions, then the mean of each map and one dense layer: the head that
    CAM needs.

    Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes)
    logits. The maps of layers 3 and 4 have a quarter of the picture's resolution.
    """
    images = keras.Input((None, None, 3), name="images")
    x = images
    for name, filters in LAYERS.items():
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu", name=name)(x)
        if name in ("layer1", "layer2"):
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="scenes")


def split(model: keras.Model, layer: str) -> keras.Model:
    """The model with a layer's maps (batch, height, width, channels) beside its
    logits."""
    return keras.Model(model.input, [model.get_layer(layer).output, model.output])


def maps_and_gradients(parts: keras.Model, images, classes):
    """A layer's maps, and the gradients of the classes' logits with respect to them."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        maps, logits = parts(images, training=False)
        scores = tf.gather(logits, classes, batch_dims=1)
    return maps, tape.gradient(scores, maps)


METHODS = ("Grad-CAM", "Grad-CAM++", "Score-CAM")


def explain(
    method: str,
    parts: keras.Model,
    images,
    classes,
    channels: int,
    squash: Callable = tf.nn.softmax,
):
    """A method's maps (n, height, width) at the resolution of the layer at which the
    network is split.

    images: a tensor (n, height, width, 1 or 3). classes: (n,) integers. squash: makes
    probabilities of the logits.
    """

    def probability(shown):
        _, logits = parts(shown, training=False)
        return tf.gather(squash(logits), classes, batch_dims=1)

    if method == "Score-CAM":
        maps, _ = parts(images, training=False)
        return score_cam(maps, images, probability, channels)
    combine = {"Grad-CAM": grad_cam, "Grad-CAM++": grad_cam_plus_plus}[method]
    return combine(*maps_and_gradients(parts, images, classes))


def explainers(
    model: keras.Model,
    layer: str,
    channels: int = 64,
    squash: Callable = tf.nn.softmax,
) -> dict[str, Callable]:
    """By name of the method a function of images (n, height, width, 1 or 3) and classes
    (n,): maps (n, height, width), brought to the pictures' size."""
    parts = split(model, layer)

    def explain_at_full_size(method, images, classes):
        images = tf.convert_to_tensor(images)
        maps = explain(method, parts, images, classes, channels, squash)
        return tf.image.resize(maps[..., tf.newaxis], images.shape[1:3])[..., 0]

    return {name: partial(explain_at_full_size, name) for name in METHODS}


def class_maps(model: keras.Model) -> keras.Model:
    """The network with CAM's maps of all classes beside the probabilities."""
    kernel = np.asarray(model.get_layer("logits").kernel)
    outputs = {
        "probabilities": ops.softmax(model.output),
        "class_maps": cam(model.get_layer(LAST).output, kernel),
    }
    return keras.Model(model.input, outputs, name="class_maps")


def standalone(epochs: int = 6) -> None:
    """Grad-CAM alone, of digits on a photograph: the main of a standalone copy."""
    random = np.random.default_rng(0)
    photograph = load_sample_image("china.jpg") / 255
    digits, labels = load_digits(return_X_y=True)
    images = np.empty((len(digits), 48, 48, 3), "float32")
    for image, digit in zip(images, digits, strict=True):
        top, left = random.integers(0, 360, size=2)
        image[:] = photograph[top : top + 48, left : left + 48] / 2
        row, column = random.integers(0, 24, size=2)
        strokes = np.kron(digit.reshape(8, 8, 1) / 16, np.ones((3, 3, 1)))
        image[row : row + 24, column : column + 24] += strokes / 2

    model = build_model()
    model.compile(
        optimizer=keras.optimizers.Adam(5e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, labels, epochs=epochs, validation_split=0.2)

    shown = images[-8:]
    maps = explainers(model, LAST)["Grad-CAM"](shown, labels[-8:])
    maps = maps / (np.max(maps, axis=(1, 2), keepdims=True) + 1e-7)
    gray = np.repeat(maps[..., np.newaxis], 3, axis=-1)
    rows = [np.concatenate(row, axis=1) for row in (shown, gray)]
    plt.imsave("grad_cam.png", np.concatenate(rows))
    print("grad_cam.png: digits on a photograph, and where the network sees them")


# --------------------------------------------------------------------------------------
# The experiment: maps held to where things are, in photographs and layer by layer
# --------------------------------------------------------------------------------------

SHUFFLINGS = 5


def find_objects(objects: data.Objects, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM's map of each object, (3, height, width), by a network that learned on
    ImageNet, and by the same one with its weights shuffled, again and again,
    (shufflings, 3, height, width)."""
    size = objects.images.shape[1:3]
    network = classifiers.load("EfficientNetLite0", size=size)
    grad_cam_of = explainers(network.model, network.last_convolution)["Grad-CAM"]
    maps = np.asarray(grad_cam_of(objects.images, objects.labels))
    shuffled = []
    for number in range(SHUFFLINGS):
        classifiers.shuffle_weights(network.model, seed + number)
        shuffled.append(grad_cam_of(objects.images, objects.labels))
    return maps, np.stack(shuffled)


def points_at(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether each map is highest on its object, (n,); an empty one points nowhere."""
    hits = classifiers.pointing_game(maps, masks, 15)
    return hits.astype(bool) & maps.any(axis=(1, 2))


def concentration(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How much of each map is on its object, times what an even map has, (n,)."""
    return classifiers.share_on_object(maps, masks) / masks.mean(axis=(1, 2))


def claim_objects(
    run: Run, objects: data.Objects, maps: np.ndarray, shuffled: np.ndarray
) -> None:
    """Holds maps to boxes: what they have of their own, and what others have of it."""
    masks = objects.masks
    trained = concentration(maps, masks)
    untrained = np.mean([concentration(each, masks) for each in shuffled], axis=0)
    for network, each in {"trained": trained, "shuffled": untrained}.items():
        by_name = dict(zip(objects.names, each, strict=True))
        run.metrics(f"in_its_box_{network}", by_name)

    hits = points_at(maps, masks)
    shuffled_hits = np.array([points_at(each, masks) for each in shuffled])
    run.claim(
        "Grad-CAM on the cat points at the cat, on the cup at the cup, on the rocket at "
        "the rocket; with the same weights shuffled it mostly does not",
        holds=hits.all() and trained.min() > 2 and shuffled_hits.mean() < 0.6,
        measured=f"highest point on {hits.sum()} of {len(hits)}, in {SHUFFLINGS} "
        f"shufflings on {shuffled_hits.sum()} of {shuffled_hits.size}; in the box of "
        f"each at least {trained.min():.1f} times what an even map has, shuffled "
        f"{untrained.min():.1f} to {untrained.max():.1f} on average",
    )

    ratios = classifiers.own_over_others(maps, objects.masks)
    run.claim(
        "It asks for the class, not for what stands out: the map of another class has "
        "far less on an object",
        at_least=3.0,
        measured={
            f"{name}, times": ratio
            for name, ratio in zip(objects.names, ratios, strict=True)
        },
    )


def draw_objects(
    objects: data.Objects, maps: np.ndarray, shuffled: np.ndarray
) -> plt.Figure:
    return figures.object_maps(
        objects.images,
        objects.masks,
        {"learned on ImageNet": maps, "the same weights, shuffled": shuffled},
        names=objects.names,
        title="One picture, asked for three classes (boxes: drawn by hand)",
    )


def train_on(scenes: data.Scenes, config: Config, run: Run) -> keras.Model:
    model = build_model()
    steps = config.epochs * len(scenes.labels) // 32
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    training.fit(
        model,
        scenes.images,
        scenes.labels,
        epochs=config.epochs,
        batch_size=32,
        callbacks=run.callbacks,
    )
    return model


@dataclass
class Pairs:
    """n pictures of two digits side by side, of two classes."""

    images: np.ndarray
    """(n, height, 2 · width, 3)"""
    left: np.ndarray
    """(n,) classes of the digits on the left"""
    right: np.ndarray
    """(n,) classes of those on the right"""


def pair_up(images: np.ndarray, labels: np.ndarray) -> Pairs:
    """Each picture beside the one before it, where these show different digits."""
    differ = labels != np.roll(labels, 1)
    side_by_side = np.concatenate([images, np.roll(images, 1, axis=0)], axis=2)
    return Pairs(
        side_by_side[differ],
        left=labels[differ],
        right=np.roll(labels, 1)[differ],
    )


def brightness(images, classes):
    """A map that asks no network."""
    return images.mean(axis=-1)


def center(images, classes):
    """A map that does not even ask the picture."""
    n, height, width, _ = images.shape
    bump = np.outer(np.hanning(height), np.hanning(width))
    return np.broadcast_to(bump, (n, height, width))


def measure(explainer: Callable, scenes: data.Scenes, pairs: Pairs) -> dict[str, float]:
    """Means over pictures: whether the highest point is on the digit, the map's overlap
    with the digit, and how much of it is on the left where the left digit is asked
    for."""
    maps = np.asarray(explainer(scenes.images, scenes.labels))
    of_left = np.asarray(explainer(pairs.images, pairs.left))
    width = of_left.shape[2]
    left_half = np.arange(width) < width / 2
    return {
        "pointing_game": classifiers.pointing_game(maps, scenes.masks, 2).mean(),
        "overlap": classifiers.overlap(maps, scenes.masks).mean(),
        "own_half": classifiers.share_on_object(of_left, left_half).mean(),
    }


def measure_layers(
    model: keras.Model, scenes: data.Scenes, pairs: Pairs, channels: int
) -> dict[str, dict[str, dict[str, float]]]:
    """By method and layer what `measure` finds. Score-CAM, which takes a pass of the
    network for each channel, explains the last layer only."""
    found: dict[str, dict] = {method: {} for method in METHODS}
    for layer in LAYERS:
        for method, explainer in explainers(model, layer, channels).items():
            if method != "Score-CAM" or layer == LAST:
                found[method][layer] = measure(explainer, scenes, pairs)
    return found


def library_maps(
    model: keras.Model, layer: str, images, classes
) -> dict[str, np.ndarray]:
    """The same methods by tf-keras-vis, at the layer's own resolution."""
    score = CategoricalScore([int(each) for each in classes])
    libraries = {
        "Grad-CAM": Gradcam(model),
        "Grad-CAM++": GradcamPlusPlus(model),
        "Score-CAM": Scorecam(model),
    }
    maps = {}
    for name, library in libraries.items():
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message="The structure of `inputs`")
            found = library(
                score,
                images,
                penultimate_layer=layer,
                seek_penultimate_conv_layer=False,
                expand_cam=False,
                normalize_cam=False,
            )
        maps[name] = np.asarray(found)
    return maps


def lowest_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The lowest Pearson correlation of n pairs of maps (n, height, width), but for
    those that show nothing at all."""
    correlations = []
    for one, other in zip(a, b, strict=True):
        if one.any() or other.any():
            pair = np.corrcoef(one.ravel(), other.ravel())
            correlations.append(pair[0, 1])
    return float(min(correlations))


def compare_with_cam(model: keras.Model, images, labels: np.ndarray) -> float:
    """The lowest correlation of Grad-CAM's maps with CAM's."""
    ours = explain("Grad-CAM", split(model, LAST), images, labels, channels=0)
    of_all_classes = np.asarray(class_maps(model)(images)["class_maps"])
    cams = of_all_classes[np.arange(len(labels)), :, :, labels]
    return lowest_correlation(np.asarray(ours), cams)


def compare_with_library(model: keras.Model, images, labels) -> dict[str, float]:
    """The lowest correlations of each method's maps with those of tf-keras-vis."""
    theirs = library_maps(model, LAST, images, labels)
    every_channel = LAYERS[LAST]
    correlations = {}
    for method in METHODS:
        ours = explain(method, split(model, LAST), images, labels, every_channel)
        correlations[method] = lowest_correlation(np.asarray(ours), theirs[method])
    return correlations


def draw_layers(
    found: dict[str, dict[str, dict[str, float]]],
    references: dict[str, dict[str, float]],
) -> plt.Figure:
    """A panel for each measure: by layer for each method, and what knows no layer."""
    titles = {
        "pointing_game": "Highest point on the digit",
        "overlap": "Overlap with the digit",
        "own_half": "On its own half of a pair",
    }
    numbers = {layer: number for number, layer in enumerate(LAYERS, start=1)}
    shown = []
    for measured, title in titles.items():
        lines = {}
        for method, by_layer in found.items():
            x = [numbers[layer] for layer in by_layer]
            lines[method] = (x, [each[measured] for each in by_layer.values()])
        panel = figures.Panel(
            title=title,
            xlabel="layer",
            ylabel="mean over held-out pictures",
            lines=lines,
            levels={name: each[measured] for name, each in references.items()},
            xticks=list(numbers.values()),
            ylim=(0, 1.03),
        )
        shown.append(panel)
    return figures.panels(*shown)


def draw_pairs(model: keras.Model, pairs: Pairs, channels: int) -> plt.Figure:
    """Pictures of two digits, and what each method sees of the one on the left."""
    images = pairs.images[:5]
    methods = explainers(model, LAST, channels)
    columns = {
        f"{name} of the left digit": np.asarray(method(images, pairs.left[:5]))
        for name, method in methods.items()
    }
    columns["Grad-CAM of the right digit"] = np.asarray(
        methods["Grad-CAM"](images, pairs.right[:5])
    )
    title = "Two digits in one picture, each explained by its own class"
    return figures.heat_maps(images, columns, title=title)


def record(
    run: Run,
    found: dict[str, dict[str, dict[str, float]]],
    references: dict[str, dict[str, float]],
) -> None:
    for method, by_layer in found.items():
        for layer, measures in by_layer.items():
            run.metrics(f"{method}_{layer}", measures)
    for name, measures in references.items():
        run.metrics(name, measures)


def claim_places(
    run: Run,
    found: dict[str, dict[str, dict[str, float]]],
    references: dict[str, dict[str, float]],
) -> None:
    by_layer = [each["own_half"] for each in found["Grad-CAM"].values()]
    run.claim(
        "The deeper the layer, the better Grad-CAM tells two digits apart: the first "
        "cannot at all",
        holds=by_layer[0] < 0.6
        and by_layer[1] + 0.03 < by_layer[2] < by_layer[3] - 0.03,
        measured="on its own half (chance 0.50): "
        + ", ".join(f"{each:.2f}" for each in by_layer),
    )

    cam = found["Grad-CAM"][LAST]["own_half"]
    plus_plus = found["Grad-CAM++"][LAST]["own_half"]
    score = found["Score-CAM"][LAST]["own_half"]
    run.claim(
        "Without negative weights, as in Grad-CAM++ and Score-CAM, much less of the map "
        "is left on the right one of two digits",
        holds=max(plus_plus, score) < cam - 0.08,
        measured=f"Grad-CAM {cam:.2f}, Grad-CAM++ {plus_plus:.2f}, Score-CAM {score:.2f}",
    )

    overlap = found["Grad-CAM"][LAST]["overlap"]
    middle = references["center"]["overlap"]
    bright = references["brightness"]["overlap"]
    run.claim(
        "Finding the object proves little: Grad-CAM overlaps it far more than the center "
        "does, but brightness, which asks no network, far more still",
        holds=bright - 0.1 > overlap > middle + 0.1,
        measured=f"overlap {overlap:.2f}, center {middle:.2f}, brightness {bright:.2f}",
    )


def first_of(scenes: data.Scenes, n: int) -> data.Scenes:
    return data.Scenes(
        scenes.images[:n], scenes.labels[:n], scenes.masks[:n], scenes.boxes[:n]
    )


def explain_own(config: Config, run: Run) -> None:
    """The user's network, and the user's picture or the nine photographs."""
    own = classifiers.from_flags(config, run)
    layer = own.last_convolution
    methods = explainers(own.model, layer, config.channels, own.squash)
    classifiers.explain_own(run, own, own.pictures(config.image), methods)


def main(config: Config, run: Run) -> None:
    if config.model:
        explain_own(config, run)
        return
    run.plan(1)
    size = config.size
    if config.image:  # a bad one is said before anything is trained
        picture = classifiers.read_image(config.image, (size, size))

    run.print("asking EfficientNet-Lite0 for a cat, a cup and a rocket ...")
    objects = data.load_objects()
    maps, shuffled = find_objects(objects, run.seed)
    run.figure("objects", draw_objects(objects, maps, shuffled[0]))

    train, test = data.load_scenes(config.train_scenes, 500, size=size, seed=run.seed)
    model = train_on(train, config, run)
    if config.image:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        methods = explainers(model, LAST, config.channels)
        classifiers.explain_own(run, own, picture[np.newaxis], methods)

    scenes = first_of(test, config.explained)
    pairs = pair_up(scenes.images, scenes.labels)
    found = measure_layers(model, scenes, pairs, config.channels)
    references = {
        "brightness": measure(brightness, scenes, pairs),
        "center": measure(center, scenes, pairs),
    }
    run.metric("on_own_half_of_two_digits", found["Grad-CAM"][LAST]["own_half"])
    run.metric("test_accuracy", model.evaluate(test.images, test.labels, verbose=0)[1])
    record(run, found, references)
    claim_objects(run, objects, maps, shuffled)
    claim_places(run, found, references)

    some = tf.constant(scenes.images[:6])
    labels = scenes.labels[:6]
    run.claim(
        "Before a mean and a dense layer Grad-CAM is CAM",
        at_least=0.9999,
        measured={"lowest correlation": compare_with_cam(model, some, labels)},
    )
    run.claim(
        "The lines here draw what tf-keras-vis draws (Score-CAM: but for how masks are "
        "resized)",
        at_least=0.97,
        measured=compare_with_library(model, some, labels),
    )

    run.figure("layers", draw_layers(found, references))
    run.figure("two_digits", draw_pairs(model, pairs, config.channels))
    run.export(class_maps(model), example=scenes.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
