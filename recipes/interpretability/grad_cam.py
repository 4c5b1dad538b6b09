"""Grad-CAM: where in the picture a convnet sees a class.

A convolution's maps A still know where; the class's logit y knows what. Grad-CAM weighs
each map by the mean of its gradient, α_k = mean_ij ∂y/∂A_ij^k, and keeps what speaks
for the class: ReLU(Σ_k α_k A^k). In a network that ends in global average pooling and
one dense layer that is the class activation map (CAM), with the dense layer's weights
as α_k. Grad-CAM++ averages the positive gradients alone; Score-CAM asks for no
gradient: α_k is the class's probability where the picture shows only what map k lights
up on.
Look at two digits in one picture, each explained by its own class, and at the layers:
early ones find whatever is bright, the last one tells the classes apart.

Lectures: CS Visualizing & Understanding; N18 7.2 Interpretability Methods
Paper: Selvaraju et al., Grad-CAM, 2017 (equations 1 and 2, and section 3.1 on CAM);
    Zhou et al.,
Learning deep features for discriminative localization, 2016; Chattopadhay et al.,
Grad-CAM++, 2018; Wang et al., Score-CAM, 2020
Tags: gradcam, class activation map, grad-cam++, score-cam, heatmap, localization, xai,
    explainability
"""

import contextlib
import io
import warnings
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
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
    model: str = ""
    """a .keras file or a network of keras.applications, to explain instead of the one
    trained"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""


QUICK = Config(size=32, train_scenes=1500, explained=32)
FULL = Config(size=64, train_scenes=12_000, epochs=20, explained=256)
LAYERS = ("layer1", "layer2", "layer3", "layer4")


def build_model(classes=10) -> keras.Model:
    """Four convolutions, then the mean of each map and one dense layer: the head that
    CAM needs. Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch,
    classes) logits. The maps `layer3` and `layer4` are at a quarter of the picture's
    resolution."""
    x = images = keras.Input((None, None, 3), name="images")
    for name, filters in zip(LAYERS, (16, 32, 64, 64), strict=True):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu", name=name)(x)
        if name in ("layer1", "layer2"):
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="scenes")


def class_maps(model: keras.Model) -> keras.Model:
    """CAM (Zhou et al., equation 2): the head's weights applied at each place, for all
    classes: (batch, height, width, classes)."""
    weights = np.asarray(model.get_layer("logits").kernel)
    maps = ops.relu(ops.matmul(model.get_layer("layer4").output, weights))
    outputs = {"probabilities": ops.softmax(model.output), "class_maps": maps}
    return keras.Model(model.input, outputs, name="class_maps")


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


def grad_cam(parts: keras.Model, images, classes):
    maps, gradients = maps_and_gradients(parts, images, classes)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)  # equation 1
    return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))  # equation 2


def grad_cam_plus_plus(parts: keras.Model, images, classes):
    """The score is exp(y) and the network piecewise linear, so that the three
    derivatives are exp(y) times g, g² and g³, and each place's α = g² / (2g² + g³ ΣA)
    is 1 / (2 + g ΣA)."""
    maps, gradients = maps_and_gradients(parts, images, classes)
    below = 2 + gradients * tf.reduce_sum(maps, axis=(1, 2), keepdims=True)
    shares = tf.where(gradients == 0, 0.0, tf.math.divide_no_nan(1.0, below))
    shares = tf.math.divide_no_nan(
        shares, tf.reduce_sum(shares, axis=(1, 2), keepdims=True)
    )
    weights = tf.reduce_sum(shares * tf.nn.relu(gradients), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))


def score_cam(parts: keras.Model, images, classes, channels: int = 64):
    """One pass of all pictures for each channel, each picture behind its own map as
    a mask. Of more than 64 channels those are asked that differ most from place to
    place."""
    maps, _ = parts(images, training=False)
    spread = tf.math.reduce_std(maps, axis=(1, 2))
    chosen = tf.math.top_k(spread, min(channels, maps.shape[-1])).indices
    maps = tf.gather(maps, chosen, axis=3, batch_dims=1)
    masks = tf.image.resize(maps, tf.shape(images)[1:3])
    masks -= tf.reduce_min(masks, axis=(1, 2), keepdims=True)
    masks /= tf.reduce_max(masks, axis=(1, 2), keepdims=True) + 1e-7

    def probability(mask):
        _, logits = parts(images * mask[..., tf.newaxis], training=False)
        return tf.gather(tf.nn.softmax(logits), classes, batch_dims=1)

    weights = tf.map_fn(
        probability, tf.transpose(masks, (3, 0, 1, 2))
    )  # (channels, batch)
    return tf.nn.relu(tf.einsum("nhwk,kn->nhw", maps, weights))


METHODS = {
    "Grad-CAM": grad_cam,
    "Grad-CAM++": grad_cam_plus_plus,
    "Score-CAM": score_cam,
}


def compile_methods(model: keras.Model, layer: str) -> dict:
    """By name a compiled function of images (n, height, width, channels) and classes
    (n,): maps (n, height, width), brought to the pictures' size."""
    parts = split(model, layer)

    def explain(method, images, classes):
        maps = method(parts, images, classes)
        return tf.image.resize(maps[..., tf.newaxis], images.shape[1:3])[..., 0]

    return {
        name: tf.function(partial(explain, method)) for name, method in METHODS.items()
    }


def library_maps(
    model: keras.Model, layer: str, images, classes
) -> dict[str, np.ndarray]:
    """The same methods by tf-keras-vis, at the layer's own resolution."""
    options = {"penultimate_layer": layer, "seek_penultimate_conv_layer": False}
    options |= {"expand_cam": False, "normalize_cam": False}
    score = CategoricalScore([int(each) for each in classes])
    methods = Gradcam(model), GradcamPlusPlus(model), Scorecam(model)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):  # Score-CAM's bar
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        maps = [np.asarray(method(score, images, **options)) for method in methods]
    return dict(zip(METHODS, maps, strict=True))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The lowest Pearson correlation of n pairs of maps, but for those that show
    nothing at all."""
    shown = a.any(axis=(1, 2)) | b.any(axis=(1, 2))
    pairs = np.stack([a[shown], b[shown]], axis=1).reshape(shown.sum(), 2, -1)
    return min(np.corrcoef(pair)[0, 1] for pair in pairs)


def plot_layers(found: dict[tuple[str, str], tuple[float, float, float]]) -> plt.Figure:
    """One panel for each measure: by layer for each method, and dashed what knows no
    layer."""
    titles = (
        "Highest point on the digit",
        "Overlap with the digit",
        "On its own half of a pair",
    )
    figure, panels = plt.subplots(1, 3, figsize=(13, 4))
    for i, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for name, marker in zip(METHODS, "os^", strict=True):
            axes.plot(
                LAYERS,
                [found[name, each][i] for each in LAYERS],
                marker=marker,
                label=name,
            )
        for name, style in (("brightness", "--"), ("center", ":")):
            axes.axhline(found[name, "images"][i], ls=style, color="0.4", label=name)
        axes.set(title=title, ylim=(0, 1.03), ylabel="mean over held-out pictures")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def main(config: Config, run: Run) -> None:
    if config.model:
        own = classifiers.load(config.model)
        methods = compile_methods(own.model, own.last_convolution)
        classifiers.explain_own(run, own, own.pictures(config.image), methods)
        return
    size, n = config.size, config.explained
    picture = (
        classifiers.read_image(config.image, (size, size)) if config.image else None
    )
    train, test = data.load_scenes(config.train_scenes, 500, size=size, seed=run.seed)
    model = build_model()
    rate = keras.optimizers.schedules.CosineDecay(
        5e-3, config.epochs * len(train.labels) // 32
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    options = {"epochs": config.epochs, "batch_size": 32, "callbacks": run.callbacks}
    training.fit(model, train.images, train.labels, **options)
    if picture is not None:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        classifiers.explain_own(
            run, own, picture[None], compile_methods(model, "layer4")
        )

    x, y, masks = test.images[:n], test.labels[:n], test.masks[:n]
    differ = y != np.roll(y, 1)
    pairs = np.concatenate([x, np.roll(x, 1, axis=0)], axis=2)[
        differ
    ]  # two, side by side
    tasks = (x, y), (pairs, y[differ]), (pairs, np.roll(y, 1)[differ])
    maps, found = {}, {}
    methods = {
        (n, layer): m
        for layer in LAYERS
        for n, m in compile_methods(model, layer).items()
    }
    methods["brightness", "images"] = lambda images, _: images.mean(axis=-1)
    methods["center", "images"] = lambda images, _: np.broadcast_to(
        np.outer(np.hanning(size), np.hanning(images.shape[2])), images.shape[:3]
    )
    for key, method in methods.items():
        of_scenes, *maps[key] = (np.asarray(method(*task)) for task in tasks)
        own_left = np.concatenate([maps[key][0], maps[key][1][:, :, ::-1]])
        found[key] = (
            classifiers.pointing_game(of_scenes, masks, tolerance=2).mean(),
            classifiers.overlap(of_scenes, masks).mean(),
            classifiers.share_on_object(own_left, np.arange(2 * size) < size).mean(),
        )
    cam, plus_plus, score = (found[name, "layer4"] for name in METHODS)
    bright, middle = found["brightness", "images"], found["center", "images"]
    by_layer = [found["Grad-CAM", layer][2] for layer in LAYERS]

    run.metric("on_own_half_of_two_digits", cam[2])
    run.metric("test_accuracy", model.evaluate(test.images, test.labels, verbose=0)[1])
    for (name, layer), values in found.items():
        for measure, value in zip(
            ("pointing_game", "overlap", "own_half"), values, strict=True
        ):
            run.metric(f"{name}_{layer}_{measure}", value)
    run.figure("layers", plot_layers(found))
    columns = {
        f"{name} of the left digit": maps[name, "layer4"][0][:5] for name in METHODS
    }
    columns["Grad-CAM of the right digit"] = maps["Grad-CAM", "layer4"][1][:5]
    title = "Two digits in one picture, each explained by its own class"
    run.figure(
        "two_digits", figures.heat_maps(pairs[:5], columns, title=title, overlay=False)
    )
    explainer, some = class_maps(model), (tf.constant(x[:16]), tf.constant(y[:16]))
    cams = np.moveaxis(explainer(some[0])["class_maps"], -1, 1)[np.arange(16), y[:16]]
    ours = {
        name: METHODS[name](split(model, "layer4"), *some).numpy() for name in METHODS
    }
    theirs = library_maps(model, "layer4", *some)
    equal = {f"tf-keras-vis's {n}": correlation(ours[n], theirs[n]) for n in METHODS}
    equal["CAM"] = correlation(ours["Grad-CAM"], cams)
    masked = equal["tf-keras-vis's Score-CAM"]
    run.claim(
        "The lines here draw what tf-keras-vis draws (Score-CAM: but for how masks are resized), "
        "and before a mean and a dense layer Grad-CAM is CAM",
        holds=sorted(equal.values())[1] > 0.9999 and masked > 0.97,
        measured="lowest correlation "
        + ", ".join(f"{n} {v:.5f}" for n, v in equal.items()),
    )
    run.claim(
        "The deeper the layer, the better Grad-CAM tells two digits apart: the first cannot at all",
        holds=by_layer[0] < 0.6
        and by_layer[1] + 0.05 < by_layer[2] < by_layer[3] - 0.05,
        measured="on its own half (chance 0.50): "
        + ", ".join(f"{each:.2f}" for each in by_layer),
    )
    run.claim(
        "Without negative weights, as in Grad-CAM++ and Score-CAM, much less of the map is left on "
        "the right one of two digits",
        holds=max(plus_plus[2], score[2]) < cam[2] - 0.08,
        measured=f"Grad-CAM {cam[2]:.2f}, Grad-CAM++ {plus_plus[2]:.2f}, Score-CAM {score[2]:.2f}",
    )
    run.claim(
        "Finding the object proves little: Grad-CAM overlaps it far more than the center does, but "
        "brightness, which asks no network, far more still",
        holds=bright[1] - 0.1 > cam[1] > middle[1] + 0.1,
        measured=f"overlap {cam[1]:.2f}, center {middle[1]:.2f}, brightness {bright[1]:.2f}",
    )
    run.export(explainer, example=x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
