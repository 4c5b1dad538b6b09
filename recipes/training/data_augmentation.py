"""Data augmentation: more pictures out of few, by changes that keep the label.

A digit that is moved, turned or stretched a little is the same digit. Such changes,
drawn anew each time a picture is seen, are layers at the front of the network: they act
while it trains, f(T(x)) for a random T, and do nothing when it answers, f(x). PCA
jitter adds to all pixels of a picture p·diag(λ)^½·α, along the directions p in which
colors vary most, α normal; lens distortion takes each pixel from r·(1 + k·r²); mixup
trains on μ·x + (1 − μ)·x′ with labels mixed alike.
Look at one photograph under all transforms, at what each is worth with ten examples of
a class, and at the rotation that goes so far that a 6 becomes a 9.

Lectures: CS Data Augmentation; INFO 4 Computer vision, Image augmentation
Paper: Krizhevsky et al., ImageNet classification with deep convolutional neural
    networks, 2012 (section 4.1); Zhang et al., mixup: beyond empirical risk
    minimization, 2018 (equation 1)
Tags: mixup, random crop, flip, rotation, color jitter, pca jitter, lens distortion,
    overfitting
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, data, did_you_mean, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist where Keras can download or has cached it,
    or your own images: a folder with one subfolder a class, or an .npz file"""
    size: Annotated[int, Interval(ge=8, le=128)] = 16
    """side of the images in pixels"""
    images: int = 10
    """of each class to train on, at most half of those that are there"""
    transforms: tuple[str, ...] = ()
    """to compare with none (names as in the figures); none given: all"""
    starts: int = 3
    """networks of each kind"""
    steps: Annotated[int, Interval(ge=50)] = 600
    """of each training"""
    batch_size: Annotated[int, Interval(ge=1, le=1024)] = 32
    """images a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(
    size=14,
    transforms=("rotation", "full turn"),
    starts=2,
    steps=400,
    learning_rate=2e-3,
)
FULL = Config(size=28, starts=10, steps=3000)

# --------------------------------------------------------------------------------------
# The idea: layers that change pictures while the network trains
# --------------------------------------------------------------------------------------


def principal_colors(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which the pixels' colors vary, and how much along each.

    images: (n, height, width, channels). Returns deviations (channels,) and directions
    (channels, channels), one a column.
    """
    pixels = images.reshape(-1, images.shape[-1])
    covariance = np.atleast_2d(np.cov(pixels, rowvar=False))
    variances, directions = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(variances, 0)), directions


@keras.saving.register_keras_serializable("data_augmentation")
class PCAJitter(layers.Layer):
    """Adds one color to all pixels of a picture, drawn as the colors of pixels vary.

    factor: its standard deviation, of theirs. deviations, directions: as
    `principal_colors` gives them. Pixels stay in [0, 1].
    """

    def __init__(self, factor, deviations, directions, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.deviations = np.asarray(deviations, "float32")
        self.directions = np.asarray(directions, "float32")
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        shape = (ops.shape(images)[0], len(self.deviations))
        alpha = keras.random.normal(shape, stddev=self.factor, seed=self.generator)
        colors = ops.matmul(alpha * self.deviations, self.directions.T)
        colors = ops.cast(colors[:, None, None, :], images.dtype)
        return ops.clip(images + colors, 0, 1)

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "deviations": self.deviations.tolist(),
            "directions": self.directions.tolist(),
        }


@keras.saving.register_keras_serializable("data_augmentation")
class LensDistortion(layers.Layer):
    """Bends straight lines as a lens does: what was at r·(1 + k·r²) comes to r.

    r: the distance from the middle, of half the side. k: drawn for each picture from
    −factor to factor; above 0 a barrel, below 0 a pincushion. What comes in is black.
    """

    def __init__(self, factor: float, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        shape = (ops.shape(images)[0], 1, 1, 1)
        k = keras.random.uniform(shape, -self.factor, self.factor, seed=self.generator)
        changed = distort(ops.cast(images, "float32"), k)
        return ops.cast(changed, images.dtype)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def distort(images, k):
    """images: (batch, height, width, channels). k: (batch, 1, 1, 1)."""
    batch, height, width, channels = ops.shape(images)
    middle_y = (height - 1) / 2
    middle_x = (width - 1) / 2
    y = ops.reshape(ops.arange(height, dtype="float32"), (1, -1, 1, 1)) - middle_y
    x = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, -1, 1)) - middle_x
    squares = (2 * y / height) ** 2 + (2 * x / width) ** 2
    stretch = 1 + k * squares

    # Where each pixel of the picture comes from: its image, row, column and channel.
    whole = (batch, height, width, channels)
    image = ops.reshape(ops.arange(batch, dtype="float32"), (-1, 1, 1, 1))
    channel = ops.reshape(ops.arange(channels, dtype="float32"), (1, 1, 1, -1))
    places = [image, middle_y + y * stretch, middle_x + x * stretch, channel]
    places = ops.stack([ops.broadcast_to(place, whole) for place in places])
    return ops.image.map_coordinates(images, places, order=1, fill_mode="constant")


def transforms(images: np.ndarray) -> dict[str, list[layers.Layer]]:
    """The layers of each transform, by name. images: what PCA jitter takes its colors
    from."""
    black = {"fill_mode": "constant", "fill_value": 0.0}
    deviations, directions = principal_colors(images)
    return {
        "crop": [
            layers.RandomZoom((-0.2, 0.0), **black),
            layers.RandomTranslation(0.1, 0.1, **black),
        ],
        "translation": [layers.RandomTranslation(0.12, 0.12, **black)],
        "rotation": [layers.RandomRotation(0.05, **black)],
        "stretch": [layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **black)],
        # Keras 3.15 saves it, but cannot load it again: its factors go both ways.
        "shear": [layers.RandomShear(0.2, 0.2, **black)],
        "lens": [LensDistortion(0.3)],
        "brightness": [layers.RandomBrightness(0.3, value_range=(0, 1))],
        "contrast": [layers.RandomContrast(0.5, value_range=(0, 1))],
        "PCA jitter": [PCAJitter(0.5, deviations, directions)],
        "flip": [layers.RandomFlip("horizontal")],
        "full turn": [layers.RandomRotation(0.5, **black)],
        "mixup": [layers.MixUp(0.2)],  # stands before the model: see `mix`
    }


def build_network(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A small convnet. Input: (batch, height, width, channels) in [0, 1]. Output:
    (batch, classes) logits."""
    x = hidden = keras.Input(shape, name="image")
    for filters in (16, 32):
        hidden = layers.Conv2D(filters, 3, padding="same", activation="relu")(hidden)
        hidden = layers.MaxPooling2D()(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(64, "relu")(hidden)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="network")


@keras.saving.register_keras_serializable("data_augmentation")
class WhileTraining(layers.Wrapper):
    """A layer that does nothing unless the network trains.

    Keras's random layers take training=True where nobody says so: in a model of theirs
    model(x) gives other answers than model.predict(x).
    """

    def call(self, images, training=False):
        if not training:
            return images
        return self.layer(images, training=True)


def augmented(augmentation: list[layers.Layer], network: keras.Model) -> keras.Model:
    """The network behind layers that change its images while it trains: `fit` and
    `evaluate` it as any other, and export it as it is."""
    x = hidden = keras.Input(network.input_shape[1:], name="image")
    for layer in augmentation:
        hidden = WhileTraining(layer)(hidden)
    return keras.Model(x, network(hidden), name="augmented")


def mix(mixup: layers.Layer, images, labels):
    """Mixes each image and its label with another one's by keras.layers.MixUp.

    labels: (batch, classes), one-hot. It needs both, so it stands before the model:
    tf.data.Dataset.map(partial(mix, keras.layers.MixUp(0.2)))
    """
    mixed = mixup({"images": images, "labels": labels}, training=True)
    return mixed["images"], mixed["labels"]


# --------------------------------------------------------------------------------------
# The experiment: one network from few images, under each transform
# --------------------------------------------------------------------------------------

STEPS_PER_CALL = 50
GEOMETRY = ("crop", "rotation", "shear")
COLORS = ("brightness", "contrast", "PCA jitter")


@dataclass
class Parts:
    """Few images to train on, others to choose by, and those to report."""

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    names: list[str]


def load_parts(config: Config, seed: int) -> Parts:
    (x, y), test = data.load(config.data, size=config.size)
    names = data.class_names(config.data)
    random = np.random.default_rng(seed)
    few = []
    for label in range(len(names)):
        rows = random.permutation(np.flatnonzero(y == label))
        few.append(rows[: max(1, min(config.images, len(rows) // 2))])
    few = np.concatenate(few)
    rest = random.permutation(np.setdiff1d(np.arange(len(x)), few))[:1000]
    if not len(rest):
        raise UsageError(
            f"--data {config.data}: all {len(x)} images to train on are needed for "
            "that, and none is left to choose a transform by. More images, two or more "
            "of a class, are needed"
        )
    return Parts((x[few], y[few]), (x[rest], y[rest]), test, names)


def change(layers_of_it: list, images, labels):
    """What the layers in front of a network, or MixUp, make of a batch."""
    for layer in layers_of_it:
        if isinstance(layer, layers.MixUp):
            images, labels = mix(layer, images, labels)
        else:
            images = layer(images, training=True)
    return images, labels


class Trainer:
    """One network that is trained again and again, compiled once."""

    def __init__(self, parts: Parts, config: Config, run: Run):
        self.config = config
        self.run = run
        self.parts = parts
        x, y = parts.training
        classes = len(parts.names)
        self.x = tf.constant(x)
        self.y = tf.one_hot(y, classes)
        starts = [build_network(x.shape[1:], classes) for _ in range(config.starts)]
        self.network = starts[0]
        self.starts = [network.get_weights() for network in starts]
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.network.trainable_variables)
        self.fresh = [variable.numpy() for variable in self.optimizer.variables]

    def train(self, name: str, layers_of_it: list, start: int) -> None:
        """Leaves the trained weights in the network."""
        self.network.set_weights(self.starts[start])
        for variable, value in zip(self.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)
        seeds = [each.value for layer in layers_of_it for each in layer.variables]
        # The same images in the same order under each transform.
        random = np.random.default_rng([self.run.seed, start])
        calls = self.config.steps // STEPS_PER_CALL
        state = {"all": [self.network, self.optimizer, random, seeds]}
        for _ in self.run.loop(
            f"{name}, start {start + 1}", calls, state, unit="calls"
        ):
            shape = STEPS_PER_CALL, self.config.batch_size
            rows = random.integers(len(self.x), size=shape).ravel()
            # All batches of a call at once, as each image is drawn for alone.
            images, labels = change(
                layers_of_it, tf.gather(self.x, rows), tf.gather(self.y, rows)
            )
            self.train_some(
                tf.reshape(images, (*shape, *self.x.shape[1:])),
                tf.reshape(labels, (*shape, -1)),
            )

    @tf.function
    def train_some(self, batches, labels):
        """batches: (steps, batch size, height, width, channels). labels: (steps, batch
        size, classes)."""
        weights = self.network.trainable_variables
        for step in tf.range(tf.shape(batches)[0]):
            with tf.GradientTape() as tape:
                logits = self.network(batches[step], training=True)
                logits = tf.cast(logits, "float32")
                losses = tf.nn.softmax_cross_entropy_with_logits(labels[step], logits)
                loss = tf.reduce_mean(losses)
            self.optimizer.apply(tape.gradient(loss, weights), weights)

    def read(self, images: np.ndarray) -> np.ndarray:
        """The most probable class of each image."""
        return self.network.predict(images, batch_size=500, verbose=0).argmax(axis=1)


def check_names(asked: tuple[str, ...], known: list[str]) -> list[str]:
    for name in asked:
        if name not in known:
            raise UsageError(
                f"--transforms: unknown transform {name!r}{did_you_mean(name, known)} "
                f"({', '.join(known)})"
            )
    return [name for name in known if not asked or name in asked]


@dataclass
class Results:
    """Under one transform, or none."""

    validation: np.ndarray
    """accuracies, (starts,)"""
    test: np.ndarray
    """likewise"""
    swapped: np.ndarray
    """shares of 6 read as 9 and of 9 read as 6, (starts,); 0 without such classes"""
    weights: list[np.ndarray]
    """of the last network"""


def train(name: str, layers_of_it: list, trainer: Trainer, config: Config) -> Results:
    x_valid, y_valid = trainer.parts.validation
    x_test, y_test = trainer.parts.test
    names = np.array(trainer.parts.names)
    validation = []
    test = []
    swapped = []
    for start in range(config.starts):
        trainer.train(name, layers_of_it, start)
        validation.append(np.mean(trainer.read(x_valid) == y_valid))
        found = trainer.read(x_test)
        test.append(np.mean(found == y_test))
        swapped.append(share_swapped(names[y_test], names[found]))
    weights = trainer.network.get_weights()
    return Results(np.array(validation), np.array(test), np.array(swapped), weights)


def share_swapped(names: np.ndarray, found: np.ndarray) -> float:
    """Of the images of a 6 or a 9 those that are read as the other."""
    is_six = names == "6"
    is_nine = names == "9"
    swapped = is_six & (found == "9") | is_nine & (found == "6")
    return float(swapped.sum() / max(1, np.sum(is_six | is_nine)))


def judge(results: dict[str, Results], names: list[str], run: Run) -> None:
    means = {name: float(each.test.mean()) for name, each in results.items()}
    if run.has("--transforms", means, *GEOMETRY, *COLORS):
        kinds = {
            "geometry": float(np.mean([means[name] for name in GEOMETRY])),
            "colors": float(np.mean([means[name] for name in COLORS])),
            "none": means["none"],
        }
        run.compare(
            "Gray digits differ by geometry: crops, rotation and shear help more than "
            "changes of brightness, contrast and color do (means of three)",
            kinds,
            more="geometry",
            less="colors",
            by=0.01,
        )
    if run.has("--transforms", means, "rotation", "full turn"):
        run.compare(
            "Few images go further where each is rotated a little every time it is seen",
            {name: means[name] for name in ("none", "rotation")},
            more="rotation",
            less="none",
            by=0.005,
        )
        run.compare(
            "A transform that breaks the label hurts: rotation by any angle",
            {name: means[name] for name in ("none", "full turn")},
            more="none",
            less="full turn",
            by=0.02,
        )
        if {"6", "9"} <= set(names):
            swapped = {
                name: float(results[name].swapped.mean())
                for name in ("none", "rotation", "full turn")
            }
            run.metrics("swapped_6_and_9", swapped)
            run.compare(
                "It makes 6 and 9 of each other: the share of them read as the other",
                swapped,
                more="full turn",
                less="rotation",
                by=0.05,
            )


def draw_photograph(photograph: np.ndarray) -> plt.Figure:
    """One picture (height, width, channels) twice under each transform."""
    shown = transforms(photograph[np.newaxis])
    del shown["mixup"]  # one picture has nothing to be mixed with
    figure, grid = plt.subplots(4, 6, figsize=(13, 9.6))
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(np.squeeze(photograph), cmap="gray", vmin=0, vmax=1)
    grid[0, 0].set_title("as it is")
    pairs = grid.reshape(-1, 2)
    for (name, layers_of_it), pair in zip(shown.items(), pairs[1:], strict=True):
        images = np.stack([photograph, photograph])
        for layer in layers_of_it:
            images = layer(images, training=True)
        for axes, image in zip(pair, np.asarray(images), strict=True):
            axes.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
        pair[0].set_title(name)
    figure.suptitle("One photograph, two draws of each transform")
    return figure


def draw_digits(trainer: Trainer, names: list[str], of_each: dict) -> plt.Figure:
    """The first images to train on, as the network sees them."""
    x = trainer.x[:: max(1, len(trainer.x) // 10)][:10]
    y = trainer.y[:: max(1, len(trainer.y) // 10)][:10]
    rows = {"none": x.numpy()}
    for name in names:
        images, _ = change(of_each[name], x, y)
        rows[name] = np.clip(images, 0, 1)
    return figures.image_rows(
        rows, title="Images to train on, as the network sees them"
    )


def draw_accuracies(results: dict[str, Results], images: int) -> plt.Figure:
    """From the transform that helps most to the one that hurts most."""
    order = sorted(results, key=lambda name: -results[name].test.mean())
    figure, axes = plt.subplots(figsize=(9, 0.38 * len(order) + 1.8))
    for row, name in enumerate(order):
        values = results[name].test
        axes.plot(values, np.full(len(values), row), "k.", markersize=5)
        axes.plot(values.mean(), row, "D", color=figures.COLORS[0], markersize=9)
        axes.annotate(
            f"{values.mean():.1%}",
            (values.max(), row),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    none = results["none"].test.mean()
    axes.axvline(none, color=figures.COLORS[1], linestyle="--", label="none")
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    axes.set(
        xlabel="accuracy on test images: each start, and their mean",
        title=f"{images} images of a class, by transform",
    )
    axes.margins(x=0.12)
    axes.legend(loc="lower right")
    return figure


def main(config: Config, run: Run) -> None:
    parts = load_parts(config, run.seed)
    of_each = transforms(parts.training[0])
    names = check_names(config.transforms, list(of_each))
    run.plan((1 + len(names)) * config.starts)
    trainer = Trainer(parts, config, run)
    results = {"none": train("none", [], trainer, config)}
    for name in names:
        results[name] = train(name, of_each[name], trainer, config)

    best = max(results, key=lambda name: results[name].validation.mean())
    run.print(f"validation picks: {best}")
    run.metric("test_accuracy", results[best].test.mean())
    run.metrics(
        "test_accuracy", {name: each.test.mean() for name, each in results.items()}
    )
    judge(results, parts.names, run)

    own = run.own_data
    photograph = parts.training[0][0] if own else data.load_photos(160)[1]
    run.figure("photograph", draw_photograph(photograph))
    run.figure("images", draw_digits(trainer, names, of_each))
    run.figure("accuracies", draw_accuracies(results, config.images))
    trainer.network.set_weights(results[best].weights)
    in_front = [] if best in ("none", "mixup") else of_each[best]
    model = augmented(in_front, trainer.network)
    run.export(serving.classifier(model), example=parts.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
