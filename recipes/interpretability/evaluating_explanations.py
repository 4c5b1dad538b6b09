"""Do explanations explain? Seven methods and two impostors where the truth is known.

A heat map that looks right proves nothing: an edge detector's looks right too. So each
method is asked what can be measured. Localization: does it light the digit, whose
pixels are known? Deletion: does the class's probability fall when the pixels rated
highest are blackened first; insertion: does it rise when they are the first to come
into a blurred picture (mean over the way)? Randomization: a map that stays as it was
when random weights replace the layers', from the last one down, cannot have told what
the network learned. Shortcut: another network learns labels that only a small colored
mark in a corner gives away; what explains it has to light the mark.
Look at the table: the edge detector points at the digits, noise passes randomization;
deletion and insertion together unmask both, without the truth that overlap with the
digit needs.

Lectures: N18 7.3 Evaluating Methods; CS Visualizing & Understanding
Paper: Adebayo et al., Sanity checks for saliency maps, 2018; Petsiuk et al., RISE, 2018
    (deletion, insertion); Sundararajan et al., Axiomatic attribution for deep networks,
    2017 (equation 1)
Tags: xai, explainability, attribution, integrated gradients, sanity checks,
    faithfulness, insertion, deletion
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from deep_learning_recipes import classifiers, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: int = 32
    """side of the pictures in pixels"""
    train_scenes: int = 3000
    """pictures to learn from: a digit on a photograph"""
    epochs: int = 8
    """passes over them; the network that learns marks, which is easier, makes a third"""
    batch_size: int = 32
    """pictures a gradient is averaged over"""
    explained: int = 64
    """held-out pictures to explain, of those that the network reads rightly"""
    samples: int = 16
    """gradients that SmoothGrad averages; integrated gradients takes twice as many"""


QUICK = Config(
    size=24, train_scenes=1000, epochs=6, batch_size=16, explained=20, samples=8
)
FULL = Config(train_scenes=12_000, epochs=20, explained=256)

# --------------------------------------------------------------------------------------
# The idea: seven explanations, two impostors, and what to ask them
# --------------------------------------------------------------------------------------


def gradients_at(parts: keras.Model, images, classes):
    """A layer's output, and the gradients of the classes' logits with respect to it.
    parts: see `split`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        output, logits = parts(images, training=False)
        scores = tf.gather(logits, classes, batch_dims=1)
    return output, tape.gradient(scores, output)


def gradient(parts: keras.Model, images, classes):
    """With respect to the pictures, (n, height, width, 3)."""
    _, gradients = gradients_at(parts, images, classes)
    return gradients


def smooth_gradients(parts: keras.Model, images, classes, samples: int, noise=0.15):
    """The gradients' mean over noisy copies of the pictures (Smilkov et al.,
    SmoothGrad, 2017)."""
    noises = tf.random.stateless_normal((samples, *images.shape), (0, 0), stddev=noise)
    gradients = tf.map_fn(lambda each: gradient(parts, images + each, classes), noises)
    return tf.reduce_mean(gradients, axis=0)


def integrated_gradients(parts: keras.Model, images, classes, steps: int):
    """Each number's part, (n, height, width, 3), in the logit less that of a black
    picture."""
    points = (tf.range(steps, dtype=tf.float32) + 0.5) / steps
    gradients = tf.map_fn(lambda part: gradient(parts, part * images, classes), points)
    return images * tf.reduce_mean(gradients, axis=0)


@tf.custom_gradient
def guided_relu(x):
    def backward(upstream):
        return tf.nn.relu(upstream) * tf.cast(x > 0, x.dtype)

    return tf.nn.relu(x), backward


def guided(model: keras.Model) -> keras.Model:
    """The same layers and weights around ReLUs that let only positive gradients
    back."""
    hidden = model.input
    for layer in model.layers[1:]:
        is_relu = layer.name.startswith("relu")
        hidden = layers.Activation(guided_relu)(hidden) if is_relu else layer(hidden)
    return keras.Model(model.input, hidden)


def grad_cam(parts: keras.Model, images, classes):
    """The maps of a layer, each weighed by the mean of its gradient."""
    maps, gradients = gradients_at(parts, images, classes)
    heat = maps * tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(heat, axis=-1, keepdims=True))
    return tf.image.resize(heat, images.shape[1:3])


def occlusion(parts: keras.Model, images, classes, cells=8):
    """How much of the logit is lost under a soft black patch around each of 8 x 8
    places."""
    patches = tf.reshape(tf.eye(cells**2), (-1, cells, cells, 1))

    def logit(patch):
        covered = images * (1 - tf.image.resize(patch, images.shape[1:3]))
        _, logits = parts(covered, training=False)
        return tf.gather(logits, classes, batch_dims=1)

    nothing = tf.zeros_like(patches[0])
    lost = tf.nn.relu(logit(nothing) - tf.map_fn(logit, patches))
    maps = tf.reshape(tf.transpose(lost), (-1, cells, cells, 1))
    return tf.image.resize(maps, images.shape[1:3])


def edge_detector(images, _):
    """An impostor that sees no network."""
    return tf.norm(tf.image.sobel_edges(images), axis=-1)


def random_noise(images, _):
    """An impostor that sees nothing."""
    return tf.random.uniform(tf.shape(images))


IMPOSTORS = {"edge detector": edge_detector, "random noise": random_noise}


@tf.function
def mean_probability(model, images, maps, classes, instead, steps=20):
    """The class's probability (n,), mean while pixels are replaced, those rated highest
    first."""
    n, height, width, _ = images.shape
    order = tf.argsort(tf.reshape(maps, (n, -1)), direction="DESCENDING", stable=True)
    ranks = tf.reshape(tf.argsort(order), (n, height, width, 1))

    def probability(step):
        pixels = tf.where(ranks < step * height * width // steps, instead, images)
        probabilities = tf.nn.softmax(model(pixels, training=False))
        return tf.gather(probabilities, classes, batch_dims=1)

    found = tf.map_fn(probability, tf.range(steps + 1), fn_output_signature=tf.float32)
    return tf.reduce_mean((found[1:] + found[:-1]) / 2, axis=0)


def build_model(classes=10) -> keras.Model:
    """Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes)
    logits."""
    images = keras.Input((None, None, 3), name="images")
    hidden = images
    for number, filters in enumerate((16, 32, 64, 64), start=1):
        hidden = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"layer{number}"
        )(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.Activation("relu", name=f"relu{number}")(hidden)
        if number < 3:
            hidden = layers.MaxPooling2D(2)(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(images, logits, name="scenes")


def split(model: keras.Model, layer: str) -> keras.Model:
    """The model with a layer's output beside its logits; of `images`, the picture
    itself."""
    return keras.Model(model.input, [model.get_layer(layer).output, model.output])


def cascade(model: keras.Model):
    """Yields each layer's name once its weights are random ones, from the last layer
    down."""
    pairs = list(zip(model.layers, build_model().layers, strict=True))
    for layer, fresh in reversed(pairs):
        layer.set_weights(fresh.get_weights())
        if isinstance(layer, (layers.Dense, layers.Conv2D)):
            yield layer.name


def compile_methods(model: keras.Model, samples: int) -> dict[str, Callable]:
    """By name a function of images (n, size, size, 3) and classes (n,): maps (n, size,
    size). They see the weights that the model has when they are called."""
    pixels = split(model, "images")
    last = split(model, "relu4")
    guided_pixels = split(guided(model), "images")
    methods = {
        "gradient": partial(gradient, pixels),
        "gradient × input": lambda x, y: x * gradient(pixels, x, y),
        "SmoothGrad": partial(smooth_gradients, pixels, samples=samples),
        "integrated gradients": partial(
            integrated_gradients, pixels, steps=2 * samples
        ),
        "guided backpropagation": partial(gradient, guided_pixels),
        "Grad-CAM": partial(grad_cam, last),
        "occlusion": partial(occlusion, pixels),
        **IMPOSTORS,
    }

    def strongest_of_colors(method, images, classes):
        return tf.reduce_max(tf.abs(method(images, classes)), axis=-1)

    return {
        name: tf.function(partial(strongest_of_colors, method))
        for name, method in methods.items()
    }


# --------------------------------------------------------------------------------------
# The experiment: digits on photographs, and marks in a corner
# --------------------------------------------------------------------------------------

LEARNING_RATE = 5e-3
TEST_SCENES = 500
# 1: the more, the better; -1: the less.
CHECKS = {
    "share on digit": 1,
    "points at digit": 1,
    "overlap with digit": 1,
    "deletion": -1,
    "insertion": 1,
    "alike with 2 random": -1,
    "alike with all random": -1,
    "points at learned mark": 1,
    "points at unlearned mark": -1,
    "ms per image": -1,
}

Maps = dict[str, np.ndarray]  # by method, (n, size, size)


@dataclass
class Scenes:
    """Held-out pictures that the network reads rightly."""

    images: np.ndarray
    """(n, size, size, 3)"""
    labels: np.ndarray
    masks: np.ndarray
    """which pixels are the digit, (n, size, size)"""
    marked: np.ndarray
    """the images with a mark in the corner"""
    told: np.ndarray
    """the labels that the marks give away"""

    @property
    def corners(self) -> np.ndarray:
        """Which pixels are the mark."""
        return (self.marked != self.images).any(axis=-1)


def mark(images: np.ndarray, labels: np.ndarray, side=5) -> np.ndarray:
    """The images with a square in the label's color in the upper left corner."""
    colors = np.array(list(np.ndindex(2, 2, 3)), "float32")[1:11] / (1, 1, 2)
    marked = images.copy()
    marked[:, :side, :side] = colors[labels][:, np.newaxis, np.newaxis]
    return marked


def train(images, labels, epochs: int, config: Config, run: Run) -> keras.Model:
    model = build_model()
    steps = epochs * len(labels) // config.batch_size
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    training.fit(
        model,
        images,
        labels,
        epochs=epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return model


def explain_all(methods: dict[str, Callable], images, classes) -> Maps:
    return {
        name: np.asarray(method(images, classes)) for name, method in methods.items()
    }


@dataclass
class Explained:
    """The maps of all methods, by what the network has for weights."""

    trained: Maps
    two_random: Maps
    """random weights in the last two layers"""
    all_random: Maps
    learned_marks: Maps
    """of the marked pictures, by the network that has learned the marks"""
    unlearned_marks: Maps
    """of the marked pictures, by the network that has learned digits"""


def explain(model, of_marks, methods, scenes: Scenes) -> Explained:
    """Each time the methods' model is given other weights; in the end it has its own."""
    learned = model.get_weights()
    unlearned_marks = explain_all(methods, scenes.marked, scenes.told)

    randomized = {}
    for name in cascade(model):
        if name in ("layer4", "layer1"):
            randomized[name] = explain_all(methods, scenes.images, scenes.labels)

    model.set_weights(of_marks.get_weights())
    learned_marks = explain_all(methods, scenes.marked, scenes.told)

    model.set_weights(learned)
    trained = explain_all(methods, scenes.images, scenes.labels)
    return Explained(
        trained,
        randomized["layer4"],
        randomized["layer1"],
        learned_marks,
        unlearned_marks,
    )


def check(model, methods, maps: Explained, scenes: Scenes) -> pd.DataFrame:
    """A row for each method, a column for each of the checks."""
    images = scenes.images
    labels = scenes.labels
    black = np.zeros_like(images)
    blurred = gaussian_filter(images, (0, 4, 4, 0))
    rows = {}
    for name, heat in maps.trained.items():
        rows[name] = [
            classifiers.share_on_object(heat, scenes.masks).mean(),
            classifiers.pointing_game(heat, scenes.masks, tolerance=2).mean(),
            classifiers.overlap(heat, scenes.masks).mean(),
            np.mean(mean_probability(model, images, heat, labels, black)),
            np.mean(mean_probability(model, blurred, heat, labels, images)),
            classifiers.rank_correlation(heat, maps.two_random[name]).mean(),
            classifiers.rank_correlation(heat, maps.all_random[name]).mean(),
            points_at(maps.learned_marks[name], scenes.corners),
            points_at(maps.unlearned_marks[name], scenes.corners),
            milliseconds(methods[name], images, labels),
        ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(CHECKS))


def points_at(heat: np.ndarray, corners: np.ndarray) -> float:
    return classifiers.pointing_game(heat, corners, tolerance=6).mean()


def milliseconds(method: Callable, images, labels) -> float:
    """Per image."""
    started = time.perf_counter()
    np.asarray(method(images, labels))
    return 1e3 * (time.perf_counter() - started) / len(images)


def values_of(table: pd.DataFrame, check_name: str) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in table[check_name].items())


def judge_impostors(table: pd.DataFrame, run: Run) -> None:
    # Of the curve of insertion above that of deletion.
    area = table["insertion"] - table["deletion"]
    margin = area.drop(IMPOSTORS).min() - area[list(IMPOSTORS)].max()
    overlap = table["overlap with digit"]
    overlap_margin = overlap.drop(IMPOSTORS).min() - overlap[list(IMPOSTORS)].max()
    run.metric("margin_over_impostors", margin)
    pointing = table.loc["edge detector", "points at digit"]
    leak = table.loc["random noise", "alike with all random"]
    run.claim(
        "Each impostor passes a check; deletion and insertion together unmask both, "
        "without being told where the digit is: of the seven methods each has more area "
        "between the two curves",
        holds=margin > 0.05 and pointing > 0.8 and leak < 0.1,
        measured=f"area larger by {margin:.3f} (overlap with the digit, which is told, "
        f"by {overlap_margin:.3f}); "
        f"deletion: {values_of(table, 'deletion')}; insertion: "
        f"{values_of(table, 'insertion')}; edges point at {pointing:.2f} of the digits, "
        f"noise correlates by {leak:.2f}",
    )


def judge_randomization(table: pd.DataFrame, run: Run) -> None:
    alike = table["alike with 2 random"].drop(IMPOSTORS).sort_values()
    run.claim(
        "With random weights in the last two layers guided backpropagation's map changes "
        "least",
        holds=alike.index[-1] == "guided backpropagation"
        and alike.iloc[-1] > alike.iloc[-2] + 0.05,
        measured="correlation with the original map "
        + values_of(table, "alike with 2 random"),
    )
    leak = table["alike with all random"]
    multiplied = leak[["gradient × input", "integrated gradients"]].min()
    run.claim(
        "What multiplies by the picture shows the picture, even with random weights in "
        "all layers",
        holds=multiplied > leak["gradient"] + 0.1,
        measured="correlation with the original map "
        + values_of(table, "alike with all random"),
    )


def judge_marks(table: pd.DataFrame, run: Run) -> None:
    gain = table["points at learned mark"] - table["points at unlearned mark"]
    least = gain.drop(IMPOSTORS).min()
    run.claim(
        "Each of the seven methods finds the mark that the network goes by, no impostor "
        "does",
        holds=least > 0.3 and least > gain[list(IMPOSTORS)].max() + 0.15,
        measured=f"learned {values_of(table, 'points at learned mark')}; unlearned "
        f"{values_of(table, 'points at unlearned mark')}",
    )


def draw_table(table: pd.DataFrame) -> Figure:
    title = "Seven explanations and two impostors, checked: the brighter, the better"
    return figures.score_table(table.to_dict("index"), CHECKS, title=title)


def draw_maps(maps: Explained, scenes: Scenes) -> Figure:
    """Of the first picture; each map divided by its highest value."""
    networks = {
        "trained": (scenes.images, maps.trained),
        "2 layers random": (scenes.images, maps.two_random),
        "all random": (scenes.images, maps.all_random),
        "learned marks": (scenes.marked, maps.learned_marks),
    }
    rows = {}
    for name, (images, found) in networks.items():
        heat = [each[0] / max(each[0].max(), 1e-12) for each in found.values()]
        rows[name] = [images[0], *heat]
    captions = ["picture", *(name.replace(" ", "\n", 1) for name in maps.trained)]
    return figures.picture_table(
        rows, title="One picture, four networks", captions=captions, width=15
    )


def main(config: Config, run: Run) -> None:
    run.plan(2)
    known, held_out = data.load_scenes(
        config.train_scenes, TEST_SCENES, size=config.size, seed=run.seed
    )
    random = np.random.default_rng(run.seed)
    told = random.integers(0, 10, config.train_scenes + TEST_SCENES)
    told_train = told[: config.train_scenes]
    model = train(known.images, known.labels, config.epochs, config, run)
    marked = mark(known.images, told_train)
    of_marks = train(marked, told_train, -(-config.epochs // 3), config, run)

    read = np.argmax(model(held_out.images, training=False), axis=1)
    chosen = np.flatnonzero(read == held_out.labels)[: config.explained]
    images = held_out.images[chosen]
    told_test = told[config.train_scenes :][: len(chosen)]
    scenes = Scenes(
        images,
        held_out.labels[chosen],
        held_out.masks[chosen],
        mark(images, told_test),
        told_test,
    )
    methods = compile_methods(model, config.samples)
    maps = explain(model, of_marks, methods, scenes)
    table = check(model, methods, maps, scenes)

    judge_impostors(table, run)
    judge_randomization(table, run)
    judge_marks(table, run)
    run.metric("test_accuracy", np.mean(read == held_out.labels))
    by_mark = np.argmax(of_marks(scenes.marked, training=False), axis=1)
    run.metric("accuracy_by_mark", np.mean(by_mark == scenes.told))
    for (name, check_name), value in table.stack().items():
        timing = check_name == "ms per image"
        run.metric(f"{name}, {check_name}", value, timing=timing)
    run.figure("table", draw_table(table))
    run.figure("maps", draw_maps(maps, scenes))
    run.export(serving.classifier(model), example=scenes.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
