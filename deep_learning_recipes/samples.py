"""How good generated images are, beside what real ones get and what a trivial rival does.

All is measured in the features of a classifier that was trained on the real images
(`train_judge`), as pixels say little about likeness. No number alone is enough: a model
that repeats one perfect image has a precision of 1, one that copies its training images
the best distance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import euclidean_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from deep_learning_recipes import classifiers, figures, training
from deep_learning_recipes.run import Run

NEIGHBORS = 3  # k of precision, by Kynkäänniemi et al.
NEIGHBORS_COVERED = 5  # k of coverage, by Naeem et al.
COMPONENTS = 64  # of the rival that draws Gaussian codes, and of features in color
LEAST_SIDE = 64  # of the pictures that EfficientNet-Lite0 is given
AT_ONCE = 500
COLOR_AT_ONCE = 64
# 1 where higher is better, -1 where lower is; 0: as near to 1 as can be.
BETTER = {
    "frechet": -1,
    "precision": 1,
    "coverage": 1,
    "two sample accuracy": -1,
    "class distance": -1,
    "nearest": 0,
}

Features = Callable[[np.ndarray], np.ndarray]


@dataclass
class Judge:
    """A classifier of the real images, by whose eyes samples are seen."""

    features: Features
    """(n, height, width, channels) to (n, features)"""
    classify: Features
    """(n, height, width, channels) to (n,) classes"""
    classes: int
    train: np.ndarray
    """real images, (n, height, width, channels) in [0, 1], that generators learn from"""
    held_out: np.ndarray
    """others, that samples are held against"""
    accuracy: float
    """on held-out images: how far its eyes can be trusted"""

    def directions(self, images: np.ndarray) -> np.ndarray:
        """Features of length 1, by which neighbors are found: what is nothing in
        particular has small features, and would lie near to everything."""
        return normalize(self.features(images))

    @cached_property
    def of_train(self) -> np.ndarray:
        """Directions of the training images."""
        return self.directions(self.train)

    @cached_property
    def of_held_out(self) -> np.ndarray:
        """Features of the held-out images."""
        return self.features(self.held_out)

    @cached_property
    def usual_distance(self) -> float:
        """Median distance of held-out images to the nearest training image."""
        held_out = normalize(self.of_held_out)
        return float(np.median(nearest_distances(held_out, self.of_train)))


def train_judge(train, test, *, classes: int, run: Run, epochs: int = 6) -> Judge:
    """Of gray images: trains a small convnet, whose last hidden layer's 64 numbers are
    the features. In color: EfficientNet-Lite0, which knows ImageNet, with the 64
    principal components of its features on the training images, and a logistic
    regression of the classes.

    train, test: (x, y), x in [0, 1] of shape (n, height, width, channels).
    """
    x, y = train
    x_test, y_test = test
    if x.shape[-1] == 1:
        features, classify = learn_to_see(x, y, classes, epochs, run)
    else:
        features, classify = see_by_imagenet(x, y)
    accuracy = float(np.mean(classify(x_test) == y_test))
    return Judge(features, classify, classes, x, x_test, accuracy)


def learn_to_see(
    x, y, classes: int, epochs: int, run: Run
) -> tuple[Features, Features]:
    images = keras.Input(x.shape[1:], name="images")
    hidden = images
    for filters in (16, 32, 64):
        hidden = layers.Conv2D(filters, 3, strides=2, padding="same")(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
    hidden = layers.Dense(64, "relu")(layers.Flatten()(hidden))
    logits = layers.Dense(classes)(layers.Dropout(0.3)(hidden))

    learner = keras.Model(images, logits, name="judge")
    learner.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    training.fit(learner, x, y, epochs=epochs, batch_size=64, callbacks=run.callbacks)

    seen = keras.Model(images, hidden, name="features")

    def classify(pictures: np.ndarray) -> np.ndarray:
        return in_parts(learner, pictures).argmax(axis=-1)

    return partial(in_parts, seen), classify


def see_by_imagenet(x, y) -> tuple[Features, Features]:
    size = tuple(max(side, LEAST_SIDE) for side in x.shape[1:3])
    network = classifiers.load("EfficientNetLite0", size=size).model
    images = keras.Input(x.shape[1:], name="images")
    seen = keras.Model(network.input, network.get_layer("avg_pool").output)
    # Not by a Resizing layer, whose default is training=True: it would pass that on.
    seen = keras.Model(images, seen(ops.image.resize(images, size)), name="features")

    def look(pictures: np.ndarray) -> np.ndarray:
        # Compiled, as an eager call would keep the maps of all layers in memory.
        return seen.predict(pictures, batch_size=COLOR_AT_ONCE, verbose=0)

    known = look(x)
    pca = PCA(min(COMPONENTS, *known.shape), random_state=0).fit(known)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    head.fit(pca.transform(known), y)

    def features(pictures: np.ndarray) -> np.ndarray:
        return pca.transform(look(pictures))

    def classify(pictures: np.ndarray) -> np.ndarray:
        return head.predict(features(pictures))

    return features, classify


def in_parts(model: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The model's answers, without all of its activations in memory at once."""
    parts = np.array_split(x, range(AT_ONCE, len(x), AT_ONCE))
    return np.concatenate([np.asarray(model(part)) for part in parts])


class Codes:
    """Images as numbers in their principal components, and back. All numbers together
    have mean 0 and deviation 1."""

    def __init__(self, x: np.ndarray, components: int):
        """x: (n, height, width, 1) in [0, 1]."""
        flat = x.reshape(len(x), -1)
        pca = PCA(min(components, *flat.shape)).fit(flat)
        self.shape = x.shape[1:]
        self.mean = pca.mean_
        self.scale = np.sqrt(pca.explained_variance_.mean())
        self.axes = pca.components_  # (components, pixels)

    def encode(self, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        return ((flat - self.mean) @ self.axes.T / self.scale).astype("float32")

    def decode(self, codes: Any) -> Any:
        """Arrays or symbolic tensors (n, components) to images in [0, 1]."""
        flat = ops.matmul(codes, self.scale * self.axes) + self.mean
        return ops.reshape(ops.clip(flat, 0, 1), (-1, *self.shape))


@dataclass
class Scores:
    """Of a set of samples."""

    frechet: float
    """distance of two Gaussians, that of the samples' features and that of the real
    ones': 0 where means and covariances agree"""
    precision: float
    """share of the samples that lie among the real images: fidelity, 1 at best"""
    coverage: float
    """share of the real images that have a sample among their near neighbors: diversity,
    nearly 1 at best"""
    two_sample_accuracy: float
    """of one nearest neighbor that tells samples from real images: 0.5 at best, 1 where
    they never mix, under 0.5 where samples are copies of the real images"""
    class_distance: float
    """total variation between the classes' shares: 0 at best, 1 at worst"""
    nearest: float
    """distance to the nearest training image, of that which held-out images have (their
    medians): far under 1 where training images are copied"""


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2·√(Σ₁Σ₂)) of features (n, features): Heusel et al.,
    GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
    2017 (equation 6)."""
    between = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2)
    of_one = np.atleast_2d(np.cov(one, rowvar=False))
    of_other = np.atleast_2d(np.cov(other, rowvar=False))
    # The root's trace is the sum of its eigenvalues, also where features never vary and
    # there is no root; they are real, but for rounding.
    eigenvalues = np.linalg.eigvals(of_one @ of_other).real
    of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    spread = np.trace(of_one) + np.trace(of_other) - 2 * of_root
    return float(max(0.0, between + spread))


def precision(samples: np.ndarray, real: np.ndarray) -> float:
    """Share of the samples that lie within the ball around one of the real points that
    reaches to its third nearest neighbor: Kynkäänniemi et al., Improved precision and
    recall metric for assessing generative models, 2019 (equations 1 and 2)."""
    distances = euclidean_distances(samples, real, squared=True)
    return float(np.mean(np.any(distances <= reach(real, NEIGHBORS), axis=1)))


def coverage(samples: np.ndarray, real: np.ndarray) -> float:
    """Share of the real points whose ball, to the fifth nearest neighbor, holds a sample:
    Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020
    (equation 9). Recall would count the far flung samples of a poor model as coverage.
    """
    distances = euclidean_distances(samples, real, squared=True)
    return float(np.mean(distances.min(axis=0) <= reach(real, NEIGHBORS_COVERED)))


def reach(points: np.ndarray, neighbors: int) -> np.ndarray:
    """From each point to its k-th nearest neighbor among the others, squared,
    (points,)."""
    between = np.sort(euclidean_distances(points, squared=True), axis=1)
    return between[:, neighbors]  # at 0 stands the point itself


def two_sample_accuracy(samples: np.ndarray, real: np.ndarray) -> float:
    """Leave-one-out accuracy of one nearest neighbor, from as many samples as real
    points: Lopez-Paz and Oquab, Revisiting classifier two-sample tests, 2017."""
    count = min(len(samples), len(real))
    points = np.concatenate([samples[:count], real[:count]])
    is_real = np.arange(2 * count) >= count
    neighbors = NearestNeighbors(n_neighbors=1).fit(points)
    _, nearest = neighbors.kneighbors()  # of each among the others
    return float(np.mean(is_real[nearest[:, 0]] == is_real))


def class_distance(one: np.ndarray, other: np.ndarray, classes: int) -> float:
    """Half the sum of the differences between the shares of labels (n,)."""
    shares = [np.bincount(each, minlength=classes) / len(each) for each in (one, other)]
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def grayness(images: np.ndarray) -> float:
    """Mean of 4·p·(1−p) over the pixels: 0 if all are black or white, 1 if all are half
    gray."""
    return float(np.mean(4 * images * (1 - images)))


def nearest_distances(samples: np.ndarray, train: np.ndarray) -> np.ndarray:
    """From each sample to the training point that is nearest, (samples,)."""
    distances, _ = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(samples)
    return distances[:, 0]


def measure(samples: np.ndarray, judge: Judge) -> Scores:
    """Samples, (n, height, width, channels), against the judge's held-out images, and
    their distance to the training images.

    Raises ValueError where a sample is no number or lies outside [0, 1].
    """
    if not np.all((samples >= 0) & (samples <= 1)):
        raise ValueError("samples must lie in [0, 1]; clip what the network gives")
    seen = judge.features(samples)
    frechet = frechet_distance(seen, judge.of_held_out)

    seen = normalize(seen)
    real = normalize(judge.of_held_out)
    nearest = np.median(nearest_distances(seen, judge.of_train))
    return Scores(
        frechet=frechet,
        precision=precision(seen, real),
        coverage=coverage(seen, real),
        two_sample_accuracy=two_sample_accuracy(seen, real),
        class_distance=class_distance(
            judge.classify(samples), judge.classify(judge.held_out), judge.classes
        ),
        nearest=float(nearest / judge.usual_distance),
    )


def draw_gaussian(train: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The trivial rival: images whose principal components are Gaussian, with the means
    and variances of the training images'. (count, height, width, channels)."""
    flat = train.reshape(len(train), -1)
    pca = PCA(min(COMPONENTS, *flat.shape), random_state=seed).fit(flat)
    random = np.random.default_rng(seed)
    deviations = np.sqrt(pca.explained_variance_)
    codes = random.normal(size=(count, len(deviations))) * deviations
    images = pca.inverse_transform(codes).reshape(count, *train.shape[1:])
    return np.clip(images, 0, 1).astype("float32")


def draw_by_class(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """A row of images (n, height, width, channels) for each of the first ten classes that
    are there. labels: (n,)."""
    rows = {}
    for label, name in enumerate(names[:10]):
        of_class = images[labels == label]
        if len(of_class):
            rows[name] = of_class[:12]
    return figures.image_rows(rows, title=title, columns=12)


def report(
    run: Run, samples: Mapping[str, np.ndarray], judge: Judge
) -> dict[str, Scores]:
    """Scores of named samples, of real images ("real") and of Gaussian codes
    ("Gaussian"), as metrics and as a table.

    Real are training images, as many as there are held-out ones; only how near they
    come to the training images is that of the held-out ones, 1 by definition.
    """
    count = len(judge.held_out)
    random = np.random.default_rng(run.seed)
    some = judge.train[random.permutation(len(judge.train))[:count]]
    scores = {name: measure(images, judge) for name, images in samples.items()}
    gaussian = draw_gaussian(judge.train, count, run.seed)
    scores["Gaussian"] = measure(gaussian, judge)
    scores["real"] = measure(some, judge)
    scores["real"].nearest = 1.0

    for field in fields(Scores):
        values = {name: getattr(each, field.name) for name, each in scores.items()}
        run.metrics(field.name, values)
    table = {
        name: {
            measure.replace("_", " "): value for measure, value in vars(each).items()
        }
        for name, each in scores.items()
    }
    title = "Samples against held-out images"
    run.figure("scores", figures.score_table(table, BETTER, title=title))
    return scores
