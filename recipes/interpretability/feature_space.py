"""Feature space: pictures alike to a network, and pictures alike in their pixels.

The last layer but one turns a picture into a vector. The nearest vectors by L2 distance
are pictures of the same thing; the nearest by pixels are pictures in the same colors.
PCA lays the vectors flat along the two directions of most variance, t-SNE so that
neighbors stay neighbors, whatever becomes of the long distances. Look at who stands
next to whom: crops of photographs to a network that learned on ImageNet, without their
colors as well, then digits on photographs, also of a kind that the network was never
shown. And look at both planes.

Lectures: CS Visualizing & Understanding (cluster by L2-nn, PCA, t-SNE)
Paper: Krizhevsky et al., ImageNet classification with deep convolutional networks, 2012
    (section 6.1, neighbours); van der Maaten and Hinton, Visualizing data using t-SNE,
    2008
Tags: embeddings, t-sne, pca, nearest neighbors, dimensionality reduction, image
    retrieval
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import adjusted_rand_score

from deep_learning_recipes import UsageError, classifiers, data, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: Annotated[int, Interval(ge=24, le=256)] = 48
    """side of the scenes in pixels"""
    scenes: Annotated[int, Interval(ge=100)] = 3000
    """pictures of a digit on a photograph to train on"""
    held_out: Annotated[int, Interval(ge=100)] = 500
    """pictures whose neighbors are looked for, among each other"""
    neighbors: Annotated[int, Interval(ge=1, le=20)] = 5
    """of each picture"""
    unseen: tuple[Annotated[int, Interval(ge=0, le=9)], ...] = (3, 6, 8)
    """digits that a second network is never shown, from two to nine of them"""
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

CROPS = 180  # of nine photographs
CROP = 64  # side in pixels

# --------------------------------------------------------------------------------------
# The idea: distances between vectors, and two ways to lay them flat
# --------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------
# The experiment: crops of photographs, then digits on photographs
# --------------------------------------------------------------------------------------


def plot_planes(planes: dict[str, np.ndarray], labels: np.ndarray) -> plt.Figure:
    """Points (n, 2) for each named plane, drawn as their digits; each digit stands large
    where the median of its points is."""
    figure, panels = plt.subplots(1, len(planes), figsize=(5.2 * len(planes), 5))
    colors = plt.get_cmap("tab10")
    outline = [withStroke(linewidth=4, foreground="white")]
    for axes, (name, points) in zip(panels, planes.items(), strict=True):
        for label in np.unique(labels):
            of_label = points[labels == label]
            axes.plot(
                *of_label.T,
                linestyle="",
                marker=f"${label}$",
                color=colors(label),
                alpha=0.6,
                markersize=5,
            )
            axes.annotate(
                str(label),
                np.median(of_label, axis=0),
                color=colors(label),
                fontsize=20,
                weight="bold",
                ha="center",
                va="center",
                path_effects=outline,
            )
        axes.set(title=name, xticks=[], yticks=[])
    figure.suptitle("Held-out pictures laid flat, each drawn as its digit")
    return figure


def plot_neighbors(
    images: np.ndarray, asked: np.ndarray, found: dict[str, np.ndarray], title: str
) -> plt.Figure:
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
    figure.suptitle(title)
    return figure


class Neighborhood(NamedTuple):
    """Pictures in several spaces."""

    images: np.ndarray
    """(n, height, width, 3)"""
    labels: np.ndarray
    """(n,)"""
    spaces: dict[str, np.ndarray]
    """name: vectors, (n, d)"""

    def agreements(self, count: int) -> dict[str, float]:
        """The mean share of neighbors with the same label, by space."""
        return {
            name: float(agreement(vectors, self.labels, count).mean())
            for name, vectors in self.spaces.items()
        }

    def draw(self, asked: np.ndarray, title: str) -> plt.Figure:
        """The nearest five in features and in pixels of some pictures, by number."""
        found = {
            name: nearest(self.spaces[name], 5)[asked]
            for name in ("features", "pixels")
        }
        return plot_neighbors(self.images, self.images[asked], found, title)


def see_crops(seed: int) -> Neighborhood:
    """Gray crops of nine photographs, as a network sees them that learned on ImageNet.
    They are gray, as colors alone tell most of the nine apart."""
    _, (crops, photos) = data.load("photos", size=CROP, seed=seed)
    gray = crops[:CROPS].mean(axis=-1, keepdims=True)
    images = np.repeat(gray, 3, axis=-1)
    network = classifiers.load("EfficientNetLite0", size=(CROP, CROP))
    features = network.model.get_layer("avg_pool").output
    encoder = keras.Model(network.model.input, features)
    spaces = {
        "features": encoder.predict(images, verbose=0),
        "pixels": images.reshape(len(images), -1),
        "brightness": gray.mean(axis=(1, 2)),
    }
    classifiers.shuffle_weights(network.model, seed)
    spaces["shuffled weights"] = encoder.predict(images, verbose=0)
    return Neighborhood(images, photos[:CROPS], spaces)


def ask_imagenet(config: Config, run: Run) -> None:
    run.print("laying crops of photographs out by EfficientNet-Lite0's features ...")
    seen = see_crops(run.seed)
    same = seen.agreements(config.neighbors)
    run.metrics("same_photograph", same)
    strongest = max((name for name in same if name != "features"), key=same.__getitem__)
    run.compare(
        "To a network that learned on ImageNet, crops of one photograph are alike, "
        "without their colors as well",
        same,
        more="features",
        less=strongest,
        by=0.2,
    )
    asked = np.arange(9)  # one of each photograph
    title = "Gray crops of photographs and their neighbors"
    run.figure("photographs", seen.draw(asked, title))


def train(images: np.ndarray, labels: np.ndarray, config: Config, run: Run):
    """A network that reads digits, with its features."""
    model = build_model(images.shape[1:])
    steps = config.epochs * -(-len(labels) // config.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    training.fit(
        model,
        images,
        labels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return with_features(model)


def cluster(vectors: np.ndarray, labels: np.ndarray) -> float:
    """How well ten k-means clusters are the ten digits: 1 if they are, 0 by chance
    (adjusted Rand index)."""
    clusters = KMeans(10, n_init=5, random_state=0).fit_predict(vectors)
    return float(adjusted_rand_score(labels, clusters))


def color_difference(seen: Neighborhood, space: str, count: int) -> float:
    """How far a picture's mean color is from its neighbors', in [0, 1]."""
    colors = seen.images.mean(axis=(1, 2))
    neighbors = nearest(seen.spaces[space], count)
    return float(np.mean(np.abs(colors[neighbors] - colors[:, np.newaxis])))


def judge_neighbors(seen: Neighborhood, config: Config, run: Run) -> None:
    same = seen.agreements(config.neighbors)
    run.metrics("same_digit", same)
    run.compare(
        "Neighbors in feature space show the same digit, neighbors in pixels seldom do",
        {name: same[name] for name in ("features", "pixels")},
        more="features",
        less="pixels",
        by=0.4,
    )
    run.compare(
        "It is training that brings them together",
        {name: same[name] for name in ("features", "untrained features")},
        more="features",
        less="untrained features",
        by=0.4,
    )
    run.compare(
        "What neighbors in pixels share is the color: it differs less than among "
        "neighbors in feature space",
        {
            name: color_difference(seen, name, config.neighbors)
            for name in ("features", "pixels")
        },
        more="features",
        less="pixels",
        times=1.25,
    )
    run.compare(
        "So pictures cluster by digit in feature space, without a label, and not in "
        "pixels (adjusted Rand index of ten clusters)",
        {
            name: cluster(seen.spaces[name], seen.labels)
            for name in ("features", "pixels")
        },
        more="features",
        less="pixels",
        by=0.2,
    )
    in_pixels = agreement(seen.spaces["pixels"], seen.labels, config.neighbors)
    asked = np.argsort(in_pixels, kind="stable")[:6]
    title = "Held-out pictures and their neighbors"
    run.figure("neighbors", seen.draw(asked, title))


def judge_unseen(narrow: keras.Model, seen: Neighborhood, config: Config, run: Run):
    """Neighbors of digits that `narrow` was never shown, among each other."""
    strangers = np.isin(seen.labels, config.unseen)
    images = seen.images[strangers]
    spaces = {
        "features": narrow.predict(images, verbose=0)["features"],
        "pixels": images.reshape(len(images), -1),
    }
    unseen = Neighborhood(images, seen.labels[strangers], spaces)
    digits = ", ".join(map(str, config.unseen))
    run.compare(
        f"Features serve for digits that the network was never shown ({digits})",
        unseen.agreements(config.neighbors),
        more="features",
        less="pixels",
        by=0.1,
    )


def require_strangers(labels: np.ndarray, config: Config) -> None:
    """Raises UsageError for unseen digits that cannot be told apart, or leave none."""
    digits = " ".join(map(str, config.unseen))
    if not 2 <= len(set(config.unseen)) <= 9:
        raise UsageError(
            f"--unseen {digits}: take from two to nine digits, such as 3 6 8"
        )
    strangers = int(np.isin(labels, config.unseen).sum())
    if strangers <= config.neighbors:
        raise UsageError(
            f"--unseen {digits}: there are {strangers} pictures of them, too few for "
            f"--neighbors {config.neighbors}; take more --held-out than {len(labels)}"
        )


def judge_planes(seen: Neighborhood, config: Config, run: Run) -> None:
    pixels = seen.spaces["pixels"]
    features = seen.spaces["features"]
    tsne = TSNE(init="pca", random_state=run.seed)
    planes = {
        "PCA of pixels": principal_components(pixels),
        "PCA of features": principal_components(features),
        "t-SNE of features": tsne.fit_transform(features),
    }
    run.figure("planes", plot_planes(planes, seen.labels))
    flat = Neighborhood(seen.images, seen.labels, planes)
    same = flat.agreements(config.neighbors)
    run.metrics("same_digit", same)
    run.compare(
        "In two dimensions t-SNE keeps pictures of a digit together, PCA lays digits over "
        "each other",
        {name: same[name] for name in ("t-SNE of features", "PCA of features")},
        more="t-SNE of features",
        less="PCA of features",
        by=0.15,
    )
    kept = {
        name: trustworthiness(features, planes[name], n_neighbors=config.neighbors)
        for name in ("t-SNE of features", "PCA of features")
    }
    run.compare(
        "Who is near in t-SNE's plane was near in feature space (trustworthiness)",
        kept,
        more="t-SNE of features",
        less="PCA of features",
        by=0.03,
    )


def draw_own(picture: np.ndarray, model: keras.Model, seen: Neighborhood) -> plt.Figure:
    """A picture of the user's, (size, size, 3), and its neighbors."""
    one = picture[np.newaxis]
    own = {
        "features": np.asarray(model(one)["features"]),
        "pixels": one.reshape(1, -1),
    }
    found = {}
    for name, vector in own.items():
        distances = squared_distances(vector, seen.spaces[name])
        found[name] = np.argsort(distances, axis=1)[:, :5]
    return plot_neighbors(seen.images, one, found, "Your picture and its neighbors")


def main(config: Config, run: Run) -> None:
    run.plan(2)
    shape = (config.size, config.size, 3)
    picture = classifiers.read_image(config.image, shape[:2]) if config.image else None
    train_part, test_part = data.load_scenes(
        config.scenes, config.held_out, size=config.size, seed=run.seed
    )
    require_strangers(test_part.labels, config)
    ask_imagenet(config, run)

    model = train(train_part.images, train_part.labels, config, run)
    is_shown = ~np.isin(train_part.labels, config.unseen)
    narrow = train(
        train_part.images[is_shown], train_part.labels[is_shown], config, run
    )

    images, labels = test_part.images, test_part.labels
    outputs = model.predict(images, verbose=0)
    untrained = with_features(build_model(shape)).predict(images, verbose=0)
    spaces = {
        "features": outputs["features"],
        "pixels": images.reshape(len(images), -1),
        "untrained features": untrained["features"],
    }
    seen = Neighborhood(images, labels, spaces)
    accuracy = np.mean(outputs["logits"].argmax(axis=1) == labels)
    judge_neighbors(seen, config, run)
    run.metric("test_accuracy", accuracy)
    judge_unseen(narrow, seen, config, run)
    judge_planes(seen, config, run)
    if picture is not None:
        run.figure("neighbors-own", draw_own(picture, model, seen))

    served = {
        "probabilities": ops.softmax(model.output["logits"]),
        "features": model.output["features"],
    }
    run.export(keras.Model(model.input, served), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
