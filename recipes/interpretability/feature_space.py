"""Feature space: pictures alike to a network, and pictures alike in their pixels.

The last layer but one turns a picture into a vector. The nearest vectors by L2 distance
are pictures of the same thing; the nearest by pixels are pictures in the same colors.
PCA lays the vectors flat along the two directions of most variance, t-SNE so that
neighbors stay neighbors, whatever becomes of the long distances. Look at both planes,
and at who stands next to whom, also for digits of a kind that the network was never
shown.

Lectures: CS Visualizing & Understanding (cluster by L2-nn, PCA, t-SNE)
Paper: Krizhevsky et al., ImageNet classification with deep convolutional networks, 2012
    (section 6.1, neighbours); van der Maaten and Hinton, Visualizing data using t-SNE,
    2008
Tags: embeddings, t-sne, pca, nearest neighbors, dimensionality reduction, image
    retrieval
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import adjusted_rand_score

from deep_learning_recipes import classifiers, data, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: int = 48
    """side of the scenes in pixels"""
    scenes: int = 3000
    """pictures of a digit on a photograph to train on"""
    held_out: int = 500
    """pictures whose neighbors are looked for, among each other"""
    neighbors: int = 5
    """of each picture"""
    unseen: tuple[Annotated[int, Interval(ge=0, le=9)], ...] = (3, 6, 8)
    """digits that a second network is never shown"""
    epochs: int = 7
    """passes over the pictures"""
    batch_size: int = 64
    """pictures a gradient is averaged over"""
    learning_rate: float = 5e-3
    """of Adam at first; it falls to zero along a cosine"""
    image: str = ""
    """a picture of your own (PNG, JPEG), whose neighbors are drawn too"""


QUICK = Config(size=24, scenes=1000, held_out=250, epochs=6, batch_size=32)
FULL = Config(scenes=10_000, held_out=2000, epochs=20)


def build_model(input_shape=(48, 48, 3), classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, *input_shape) in [0, 1]. Output: (batch, classes)
    logits, of the layer `features`, (batch, 64)."""
    x = images = keras.Input(input_shape, name="images")
    for number, filters in enumerate((16, 32, 64, 64), start=1):
        x = layers.Conv2D(
            filters, 3 if number > 1 else 5, padding="same", use_bias=False
        )(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x) if number <= 2 else x
    features = layers.GlobalMaxPooling2D(name="features")(x)
    return keras.Model(
        images, layers.Dense(classes, name="logits")(features), name="reader"
    )


def with_features(model: keras.Model) -> keras.Model:
    """The same network with a dict for its output: `logits` and `features`."""
    outputs = {"logits": model.output, "features": model.get_layer("features").output}
    return keras.Model(model.input, outputs)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i − b_j|² = |a_i|² − 2 a_i·b_j + |b_j|², for vectors (n, d) and (m, d): (n,
    m)."""
    lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    return np.maximum(lengths - 2 * a @ b.T, 0)


def nearest(vectors: np.ndarray, count: int) -> np.ndarray:
    """The numbers of each vector's `count` nearest others, nearest first, (n,
    count)."""
    distances = squared_distances(vectors, vectors)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def agreement(vectors: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The share of each vector's `count` neighbors that have its label, (n,)."""
    return np.mean(labels[nearest(vectors, count)] == labels[:, None], axis=1)


def principal_components(vectors: np.ndarray, count: int = 2) -> np.ndarray:
    """The vectors' coordinates along their directions of most variance, (n, count)."""
    centered = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    return centered @ directions[:count].T


def cluster(vectors: np.ndarray, labels: np.ndarray) -> float:
    """How well ten k-means clusters are the ten digits: 1 if they are, 0 by chance
    (adjusted Rand index)."""
    clusters = KMeans(10, n_init=5, random_state=0).fit_predict(vectors)
    return float(adjusted_rand_score(labels, clusters))


def plot_planes(planes: dict[str, np.ndarray], labels: np.ndarray) -> plt.Figure:
    """Points (n, 2) for each named plane; a picture is drawn as its digit."""
    figure, panels = plt.subplots(1, len(planes), figsize=(5.2 * len(planes), 5))
    colors = plt.get_cmap("tab10")
    for axes, (name, points) in zip(panels, planes.items(), strict=True):
        for label in np.unique(labels):
            x, y = points[labels == label].T
            axes.plot(x, y, linestyle="", marker=f"${label}$", color=colors(label))
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.04 * (high - low)
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), xticks=[], yticks=[])
        axes.set(ylim=(low[1] - margin[1], high[1] + margin[1]), title=name)
    figure.suptitle("Held-out pictures laid flat, each drawn as its digit")
    return figure


def plot_neighbors(images, asked, found: dict[str, np.ndarray]) -> plt.Figure:
    """Rows of a picture (of `asked`, (n, height, width, 3)) and its neighbors in each
    space: numbers (n, count) of `images`."""
    count = next(iter(found.values())).shape[1]
    widths = [1, *len(found) * [0.25, *count * [1]]]
    size = (sum(widths), len(asked) + 0.8)
    figure, grid = plt.subplots(
        len(asked), len(widths), figsize=size, width_ratios=widths, squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].set_title("asked", fontsize=10)
    for i, picture in enumerate(asked):
        grid[i, 0].imshow(picture)
        for k, (name, numbers) in enumerate(found.items()):
            places = grid[i, 2 + k * (count + 1) :]
            for axes, number in zip(places, numbers[i], strict=False):
                axes.imshow(images[number])
            if i == 0:
                places[0].set_title(f"nearest in {name}", fontsize=10, loc="left")
    figure.suptitle("Held-out pictures and their neighbors")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2)
    size = (config.size, config.size)
    picture = classifiers.read_image(config.image, size) if config.image else None
    train, test = data.load_scenes(
        config.scenes, config.held_out, size=config.size, seed=run.seed
    )

    def fit(images, labels) -> keras.Model:
        model = build_model((*size, 3))
        steps = config.epochs * math.ceil(len(labels) / config.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        options = {"epochs": config.epochs, "batch_size": config.batch_size}
        training.fit(model, images, labels, callbacks=run.callbacks, **options)
        return with_features(model)

    model = fit(train.images, train.labels)
    shown = ~np.isin(train.labels, config.unseen)
    narrow = fit(train.images[shown], train.labels[shown])
    outputs = model.predict(test.images, verbose=0)
    run.metric(
        "test_accuracy", np.mean(outputs["logits"].argmax(axis=1) == test.labels)
    )

    count, labels = config.neighbors, test.labels
    spaces = {
        "features": outputs["features"],
        "pixels": test.images.reshape(len(labels), -1),
        "untrained features": with_features(build_model((*size, 3))).predict(
            test.images, verbose=0
        )["features"],
    }
    same = {
        name: agreement(vectors, labels, count).mean()
        for name, vectors in spaces.items()
    }
    likeness = {
        name: np.mean(
            np.abs(
                test.images[nearest(vectors, count)].mean((2, 3))
                - test.images.mean((1, 2))[:, None]
            )
        )
        for name, vectors in spaces.items()
    }
    strangers = np.isin(labels, config.unseen)
    found = {"pixels": spaces["pixels"]}
    found["features"] = narrow.predict(test.images, verbose=0)["features"]
    unseen = {
        name: agreement(v[strangers], labels[strangers], count).mean()
        for name, v in found.items()
    }
    rand = {name: cluster(vectors, labels) for name, vectors in spaces.items()}

    planes = {
        "PCA of pixels": principal_components(spaces["pixels"]),
        "PCA of features": principal_components(spaces["features"]),
        "t-SNE of features": TSNE(init="pca", random_state=run.seed).fit_transform(
            spaces["features"]
        ),
    }
    flat = {
        name: agreement(points, labels, count).mean() for name, points in planes.items()
    }
    kept = {
        name: trustworthiness(spaces["features"], points, n_neighbors=count)
        for name, points in planes.items()
        if name.endswith("of features")
    }
    for name, value in same.items():
        run.metric(f"same_digit_{name.replace(' ', '_')}", value)
    for name, value in flat.items():
        run.metric(f"same_digit_{name.replace(' ', '_')}", value)
    run.figure("planes", plot_planes(planes, labels))
    asked = np.flatnonzero(agreement(spaces["pixels"], labels, count) < 0.5)[:6]
    rows = {name: nearest(spaces[name], 5)[asked] for name in ("features", "pixels")}
    run.figure("neighbors", plot_neighbors(test.images, test.images[asked], rows))
    if picture is not None:
        own = np.asarray(model(picture[None])["features"]), picture.reshape(1, -1)
        rows = {
            name: np.argsort(squared_distances(vector, spaces[name]), axis=1)[:, :5]
            for name, vector in zip(("features", "pixels"), own, strict=True)
        }
        run.figure("neighbors-own", plot_neighbors(test.images, picture[None], rows))

    run.claim(
        "Neighbors in feature space show the same digit, neighbors in pixels seldom do",
        holds=same["features"] > max(same["pixels"], same["untrained features"]) + 0.4,
        measured=", ".join(f"{name} {value:.2f}" for name, value in same.items())
        + f" of {count} neighbors",
    )
    run.claim(
        "What neighbors in pixels share is the color",
        holds=likeness["pixels"] < 0.8 * likeness["features"],
        measured=f"difference of mean color {likeness['pixels']:.3f}, of neighbors in feature "
        f"space {likeness['features']:.3f}",
    )
    run.claim(
        "So pictures cluster by digit in feature space, without a label, and not in pixels",
        holds=rand["features"] > rand["pixels"] + 0.2,
        measured=f"adjusted Rand index of ten clusters {rand['features']:.2f}, of pixels "
        f"{rand['pixels']:.2f}",
    )
    run.claim(
        "Features serve for digits that the network was never shown",
        holds=unseen["features"] > unseen["pixels"] + 0.1,
        measured=f"{', '.join(map(str, config.unseen))} among each other: same digit "
        f"{unseen['features']:.2f}, by pixels {unseen['pixels']:.2f}",
    )
    pca, tsne = "PCA of features", "t-SNE of features"
    run.claim(
        "In two dimensions t-SNE keeps neighbors together, PCA lays digits over each other",
        holds=flat[tsne] > flat[pca] + 0.15 and kept[tsne] > kept[pca] + 0.03,
        measured=f"same digit among neighbors {flat[tsne]:.2f}, PCA {flat[pca]:.2f}; "
        f"trustworthiness {kept[tsne]:.3f}, PCA {kept[pca]:.3f}",
    )
    probabilities = {"probabilities": ops.softmax(model.output["logits"])}
    served = keras.Model(
        model.input, {**probabilities, "features": model.output["features"]}
    )
    run.export(served, example=test.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
