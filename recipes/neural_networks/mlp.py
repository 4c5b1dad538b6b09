"""A multilayer perceptron: from one neuron to a network that reads digits.

A neuron weighs its inputs and squashes the sum, h(x) = g(w·x + b), so alone it can only
split its inputs by a straight line. A layer is many neurons side by side, and layers
stack, hˡ = g(Wˡ hˡ⁻¹ + bˡ), so the network bends that line. The last layer's softmax
turns scores into probabilities; mini-batch gradient descent lowers the cross-entropy
−log p(right class).
Look at how far one hidden layer gets, how little more depth adds on a small data set,
and which of the simpler methods does just as well: try those first.

Lectures: N18 1.1 Basics, 1.2 Training; SEL DL basics; ICME Network depth and width; CS
    Classifiers
Paper: Rumelhart, Hinton and Williams, Learning representations by back-propagating
    errors, 1986
Tags: dense network, feed-forward, fully connected, softmax, cross-entropy, sgd,
    classification
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits, make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from deep_learning_recipes import UsageError, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    shapes: tuple[str, ...] = ("linear", "4", "16", "128", "128-128", "128-128-128")
    """networks to compare, each by the widths of its hidden layers; linear has none"""
    restarts: int = 3
    """random starts of each network; accuracies are their means"""
    epochs: int = 60
    """passes over the training images"""
    batch_size: int = 32
    """examples a gradient is averaged over"""
    learning_rate: float = 0.05
    """of stochastic gradient descent"""
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """share of the last step that is kept"""


QUICK = Config(shapes=("linear", "4", "128", "128-128"), restarts=3, epochs=30)
FULL = Config(
    data="mnist", shapes=("linear", "4", "128", "128-128", "512-512"), epochs=30
)


# --------------------------------------------------------------------------------------
# The idea: layers of neurons, and the same in NumPy
# --------------------------------------------------------------------------------------


def build_mlp(
    inputs: int, widths: tuple[int, ...] = (128,), classes: int = 10
) -> keras.Model:
    """A multilayer perceptron. Input: (batch, inputs) floats. Output: (batch, classes)
    logits."""
    x = hidden = keras.Input((inputs,), name="x")
    for index, width in enumerate(widths, start=1):
        # He's initialization keeps the variance of ReLU layers from layer to layer.
        hidden = layers.Dense(
            width,
            activation="relu",
            kernel_initializer="he_normal",
            name=f"hidden_{index}",
        )(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(x, logits, name="-".join(map(str, widths)) or "linear")


def forward(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The same network in NumPy. weights: W¹, b¹, W², b², ...; x: (batch, inputs).
    Returns probabilities (batch, classes)."""
    hidden = x
    for index in range(0, len(weights) - 2, 2):
        hidden = np.maximum(0, hidden @ weights[index] + weights[index + 1])
    logits = hidden @ weights[-2] + weights[-1]
    # Softmax does not change when all logits move alike; this way exp cannot overflow.
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cross_entropy(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Mean of −log p(right class), in nats."""
    return float(-np.log(probabilities[np.arange(len(y)), y]).mean())


def compile_for_sgd(
    model: keras.Model, learning_rate: float, momentum: float
) -> keras.Model:
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate, momentum=momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def standalone(epochs: int = 60) -> None:
    """One network alone, on scikit-learn's digits: the main of a standalone copy."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        pixels / 16, labels, test_size=0.2, random_state=0
    )
    model = build_mlp(inputs=64, widths=(128,))
    compile_for_sgd(model, learning_rate=0.05, momentum=0.9)
    model.fit(x, y, epochs=epochs, batch_size=32, validation_data=(x_test, y_test))

    probabilities = forward(model.get_weights(), x_test)
    accuracy = np.mean(probabilities.argmax(axis=1) == y_test)
    loss = cross_entropy(probabilities, y_test)
    print(f"In NumPy: accuracy {accuracy:.4f}, cross-entropy {loss:.4f}")


# --------------------------------------------------------------------------------------
# The experiment: by width and depth, and beside simpler methods
# --------------------------------------------------------------------------------------


def simpler_methods() -> dict[str, ClassifierMixin]:
    """scikit-learn's classics, for the same pixels."""
    return {
        "logistic regression": LogisticRegression(max_iter=2000),
        "kernel machine (SVC)": SVC(C=10),
        "decision tree": DecisionTreeClassifier(random_state=0),
        "random forest": RandomForestClassifier(300, random_state=0),
        "3 nearest neighbors": KNeighborsClassifier(3),
    }


def widths_of(shape: str) -> tuple[int, ...]:
    """'128-64' is (128, 64), 'linear' is no hidden layer."""
    if shape == "linear":
        return ()
    return tuple(map(int, shape.split("-")))


def plot_regions(
    models: dict[str, keras.Model], x: np.ndarray, y: np.ndarray
) -> plt.Figure:
    """Where each two-class network says which class, under the points it is asked
    about."""
    horizontal, vertical = np.meshgrid(
        np.linspace(-2, 3, 200), np.linspace(-1.5, 2, 200)
    )
    grid = np.stack([horizontal.ravel(), vertical.ravel()], axis=1).astype("float32")
    figure, panels = plt.subplots(1, len(models), figsize=(9, 3.6), sharey=True)
    for axes, (title, model) in zip(panels, models.items(), strict=True):
        share = forward(model.get_weights(), grid)[:, 1].reshape(horizontal.shape)
        filled = axes.contourf(
            horizontal, vertical, share, 20, cmap="PuOr", vmin=0, vmax=1, alpha=0.7
        )
        axes.contour(horizontal, vertical, share, [0.5], colors="black")
        axes.scatter(
            *x[y == 0].T, s=12, c="#E69F00", edgecolors="black", linewidths=0.4
        )
        axes.scatter(
            *x[y == 1].T, s=12, c="#0072B2", edgecolors="black", linewidths=0.4
        )
        axes.set(title=title, xlabel="first input")
    panels[0].set_ylabel("second input")
    figure.colorbar(filled, ax=panels, label="probability of the blue class")
    return figure


def plot_accuracies(
    networks: dict[str, list[float]], others: dict[str, float]
) -> plt.Figure:
    """Networks' accuracies (each start a point, the mean a bar) beside the other
    methods'."""
    names = [*others, *networks]
    values = [*others.values(), *(np.mean(starts) for starts in networks.values())]
    colors = ["#999999"] * len(others) + ["#0072B2"] * len(networks)
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    axes.barh(names, values, color=colors)
    for name, starts in networks.items():
        axes.plot(starts, [name] * len(starts), "k.", markersize=4)
    for row, value in enumerate(values):
        axes.text(1.003, row, f"{100 * value:.1f} %", va="center", fontsize=9)
    lowest = min(min(starts) for starts in networks.values())
    start = math.floor(10 * min(0.7, lowest, *values)) / 10
    axes.set(xlim=(start, 1), xlabel=f"held-out accuracy (bars start at {start:g})")
    figure.suptitle(
        "Networks by hidden widths (blue; dots: starts), simpler methods (gray)"
    )
    axes.grid(axis="y", visible=False)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2 + len(config.shapes) * config.restarts)
    for shape in config.shapes:
        if not re.fullmatch(r"linear|[1-9]\d{0,3}(-[1-9]\d{0,3})*", shape):
            raise UsageError(
                f"--shapes {shape}: widths of hidden layers are such as 128-64, or linear"
            )
    # One neuron a class against a hidden layer, where a straight line cannot be right.
    x, y = make_moons(1000, noise=0.15, random_state=0)
    x = x.astype("float32")
    moons = {}
    for title, widths in {"no hidden layer": (), "16 hidden neurons": (16,)}.items():
        model = compile_for_sgd(build_mlp(2, widths, classes=2), 0.1, config.momentum)
        training.fit(model, x[:500], y[:500], epochs=60, callbacks=run.callbacks)
        moons[title] = model
    straight, bent = (
        float(np.mean(forward(model.get_weights(), x[500:]).argmax(axis=1) == y[500:]))
        for model in moons.values()
    )
    run.figure("regions", plot_regions(moons, x[500:], y[500:]))
    run.claim(
        "A neuron alone splits the plane by a straight line; a hidden layer bends it",
        any_data=True,
        holds=bent > straight + 0.05,
        measured=f"interleaved moons: accuracy {straight:.3f} without, {bent:.3f} with 16 neurons",
    )

    # The same on the data set, by width and depth. A fifth of what there is to train on
    # chooses among networks and among methods; the test part is only reported.
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    rows = np.random.default_rng(run.seed).permutation(len(x))
    held_out, rest = np.split(rows, [max(1, len(x) // 5)])
    x_train, y_train = x[rest], y[rest]
    x_valid, y_valid = x[held_out], y[held_out]
    accuracies: dict[str, list[float]] = {}
    validation = {}
    losses = {}
    for shape in config.shapes:
        widths = widths_of(shape)
        accuracies[shape] = []
        validation[shape] = 0.0
        for _ in range(config.restarts):
            model = build_mlp(x.shape[1], widths, classes)
            compile_for_sgd(model, config.learning_rate, config.momentum)
            history = training.fit(
                model,
                x_train,
                y_train,
                epochs=config.epochs,
                batch_size=config.batch_size,
                validation_data=(x_valid, y_valid),
                callbacks=run.callbacks,
            ).history
            answers = forward(model.get_weights(), x_test).argmax(axis=1)
            accuracies[shape].append(float(np.mean(answers == y_test)))
            validation[shape] += history["val_accuracy"][-1] / config.restarts
        losses[shape] = history["val_loss"]
    mean = {shape: float(np.mean(starts)) for shape, starts in accuracies.items()}
    best = max(validation, key=validation.__getitem__)
    methods = {
        name: method.fit(x_train, y_train) for name, method in simpler_methods().items()
    }
    others = {name: method.score(x_test, y_test) for name, method in methods.items()}
    strongest = max(methods, key=lambda name: methods[name].score(x_valid, y_valid))
    run.metric("test_accuracy", mean[best])
    if "linear" in mean:
        run.metric("linear_test_accuracy", mean["linear"])
    run.metric("simpler_method_test_accuracy", others[strongest])
    run.figure("accuracies", plot_accuracies(accuracies, others))
    run.figure(
        "losses",
        figures.curves(
            losses, title="Validation loss of the last start", ylabel="cross-entropy"
        ),
    )
    if run.has("--shapes", mean, "linear", "128"):
        run.claim(
            "One hidden layer beats the linear classifier",
            holds=mean["128"] > mean["linear"] + 0.003,
            measured=f"test accuracy {mean['128']:.4f} with 128 neurons, "
            f"{mean['linear']:.4f} linear",
        )
    if run.has("--shapes", mean, "4", "128"):
        run.claim(
            "Too narrow a layer loses what the classes need: width is capacity",
            holds=mean["128"] > mean["4"] + 0.03,
            measured=f"test accuracy {mean['4']:.4f} with 4 neurons, {mean['128']:.4f} "
            "with 128",
        )
    if run.has("--shapes", mean, "128", "128-128"):
        run.claim(
            f"A second hidden layer hardly matters with {len(x_train):,} images",
            holds=abs(mean["128-128"] - mean["128"]) < 0.015,
            measured=f"test accuracy {mean['128-128']:.4f} with two, {mean['128']:.4f} "
            "with one",
        )
    run.claim(
        "Try other methods first: a simpler one comes within half a point or wins",
        holds=others[strongest] > mean[best] - 0.005,
        measured=f"chosen by validation: {strongest} {others[strongest]:.4f}, network "
        f"{best} {mean[best]:.4f} of test",
    )

    # All that the last network does fits in four lines of NumPy.
    probabilities = forward(model.get_weights(), x_valid)
    ours = cross_entropy(probabilities, y_valid)
    keras_loss = losses[shape][-1]
    run.claim(
        "Matrix products, max(0, ·) and −log p are all there is: NumPy finds Keras's loss",
        any_data=True,
        holds=abs(ours - keras_loss) < 1e-4,
        measured=f"cross-entropy {ours:.6f} in NumPy, {keras_loss:.6f} in Keras",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
