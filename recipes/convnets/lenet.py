"""LeNet-5 reads handwritten digits.

A convolution slides one small filter over the whole image, out[i, j] = Σ f[u,
v]·in[i+u, j+v], so a stroke is found wherever it stands, with the same few weights.
Pooling halves the map, and the next convolution sees twice as much of the image; two
such stages, then dense layers, are LeNet-5.
Look at how many weights a dense network needs for the same accuracy, at what each does
when the digits are shifted by two pixels, and at the maps: strokes first, then parts of
digits.

Lectures: SEL CNN architectures; CS CNN Architectures; ICME Stacking layers
Paper: LeCun et al., Gradient-based learning applied to document recognition, 1998
Tags: cnn, convolutional neural network, pooling, mnist, image classification
"""

import math
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), or mnist / fashion_mnist where Keras can download or has
    cached them"""
    epochs: int = 20
    """passes over the training images"""
    batch_size: int = 32
    """examples a gradient is averaged over"""
    learning_rate: float = 3e-3
    """of AdamW at the start; it falls to 0 along a cosine"""
    restarts: int = 3
    """random starts of each network; accuracies are their means"""
    dense_units: tuple[int, ...] = (32, 58, 512)
    """widths of the one-layer dense networks to compare with; 58 units have as many
    weights"""


QUICK = Config(epochs=10, restarts=2, dense_units=(32, 58))
FULL = Config(data="mnist", epochs=30)


def build_model(input_shape=(32, 32, 1), classes=10) -> keras.Model:
    """LeNet-5 in its modern form: ReLU and max pooling instead of tanh and scaled
    averages.

    Input: (batch, 32, 32, 1) floats in [0, 1]. Output: (batch, classes) logits. The
    paper's names of the layers: C1 and C3 convolve, S2 and S4 pool, C5 and F6 are
    dense.
    """
    images = keras.Input(input_shape, name="images")
    x = layers.Conv2D(6, 5, activation="relu", name="C1")(images)  # 28 × 28 × 6
    x = layers.MaxPooling2D(2, name="S2")(x)  # 14 × 14 × 6
    x = layers.Conv2D(16, 5, activation="relu", name="C3")(x)  # 10 × 10 × 16
    x = layers.MaxPooling2D(2, name="S4")(x)  # 5 × 5 × 16
    x = layers.Flatten()(x)
    x = layers.Dense(120, activation="relu", name="C5")(x)
    x = layers.Dense(84, activation="relu", name="F6")(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="lenet")


def build_dense(units: int, input_shape=(32, 32, 1), classes=10) -> keras.Model:
    """The rival: one hidden layer that sees all pixels at once. Output: (batch,
    classes) logits."""
    images = keras.Input(input_shape, name="images")
    x = layers.Flatten()(images)
    x = layers.Dense(units, activation="relu")(x)
    return keras.Model(images, layers.Dense(classes)(x), name=f"dense-{units}")


def compile_classifier(
    model: keras.Model, learning_rate: float, steps: int
) -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def shift(images: np.ndarray, pixels: int) -> np.ndarray:
    """Moves images (batch, height, width, channels) right and down; what leaves comes
    in black."""
    moved = np.zeros_like(images)
    moved[:, pixels:, pixels:] = images[:, :-pixels, :-pixels]
    return moved


def plot_maps(model: keras.Model, image: np.ndarray) -> plt.Figure:
    """The filters of C1 over what they find in one image, and what C3 makes of that."""
    maps = keras.Model(
        model.input, [model.get_layer("C1").output, model.get_layer("C3").output]
    )
    first, second = (np.asarray(each[0]) for each in maps(image[None]))
    filters = np.asarray(model.get_layer("C1").kernel)
    reach = np.abs(filters).max()
    figure, grid = plt.subplots(4, 8, figsize=(9, 5))
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(image[..., 0], cmap="gray")
    grid[0, 0].set_title("image", fontsize=9)
    for index in range(6):
        panel = grid[0, index + 2]
        picture = panel.imshow(
            filters[:, :, 0, index], cmap="PuOr", vmin=-reach, vmax=reach
        )
        panel.set_title(f"C1 filter {index + 1}", fontsize=8)
        grid[1, index + 2].imshow(first[:, :, index])
        grid[1, index + 2].set_title("finds", fontsize=8)
    for index in range(16):
        grid[2 + index // 8, index % 8].imshow(second[:, :, index])
    grid[2, 0].set_title("C3 maps", fontsize=9)
    figure.colorbar(picture, ax=grid, label="weight in C1", shrink=0.25, anchor=(0, 1))
    figure.suptitle("From strokes (C1, five by five pixels) to parts of digits (C3)")
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=32)
    x_shifted = shift(x_test, 2)
    steps = config.epochs * math.ceil(len(x_train) / config.batch_size)
    results, losses = {}, {}
    builders = {"lenet": build_model}
    builders |= {
        f"dense-{units}": partial(build_dense, units) for units in config.dense_units
    }
    for name, build in builders.items():
        accuracies, shifted_accuracies = [], []
        for _ in range(config.restarts):
            model = compile_classifier(build(), config.learning_rate, steps)
            history = training.fit(
                model,
                x_train,
                y_train,
                epochs=config.epochs,
                batch_size=config.batch_size,
                validation_data=(x_test, y_test),
                callbacks=run.callbacks,
            ).history
            accuracies.append(history["val_accuracy"][-1])
            shifted_accuracies.append(model.evaluate(x_shifted, y_test, verbose=0)[1])
        weights = model.count_params()
        results[name] = (weights, np.mean(accuracies), np.mean(shifted_accuracies))
        losses[f"{name}, {weights:,} weights"] = history["val_loss"]
        if name == "lenet":
            lenet = model

    for name, (weights, accuracy, shifted_accuracy) in results.items():
        prefix = "" if name == "lenet" else f"{name}_"
        run.metric(f"{prefix}test_accuracy", accuracy)
        run.metric(f"{prefix}test_accuracy_shifted", shifted_accuracy)
        run.metric(f"{prefix}weights", weights)
    weights, accuracy, shifted = results.pop("lenet")
    run.figure(
        "losses",
        figures.curves(
            losses, title="Held-out loss", ylabel="cross-entropy", yscale="log"
        ),
    )
    run.figure("maps", plot_maps(lenet, x_test[0]))
    logits = np.asarray(lenet(x_test))
    wrong = np.flatnonzero(logits.argmax(axis=1) != y_test)
    shown = np.concatenate([wrong, np.flatnonzero(logits.argmax(axis=1) == y_test)])[
        :20
    ]
    captions = [f"{y_test[i]} read as {logits[i].argmax()}" for i in shown]
    run.figure(
        "readings",
        figures.image_grid(
            x_test[shown], title="Held-out digits, the errors first", captions=captions
        ),
    )

    run.claim(
        "LeNet-5 reads at least 98 % of the held-out digits",
        holds=accuracy >= 0.98,
        measured=f"test accuracy {accuracy:.4f} on {len(x_test):,} images",
    )
    no_larger = [each for each in results.values() if each[0] <= weights]
    best_weights, best_accuracy, _ = max(no_larger, key=lambda each: each[1])
    run.claim(
        "Shared weights are worth more: no dense net of at most as many weights reads as well",
        holds=accuracy > best_accuracy + 0.003,
        measured=f"{accuracy:.4f} with {weights:,} weights, dense {best_accuracy:.4f} with "
        f"{best_weights:,}",
    )
    rival_shifted = max(each[2] for each in results.values())
    run.claim(
        "A filter finds a stroke wherever it stands: shifted digits cost a dense net far more",
        holds=shifted > rival_shifted + 0.05,
        measured=f"shifted by 2 of 32 pixels: LeNet {shifted:.3f}, best dense {rival_shifted:.3f}",
    )
    run.export(serving.classifier(lenet), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
