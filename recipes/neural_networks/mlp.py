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
from matplotlib.figure import Figure
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
    if not re.fullmatch(r"linear|[1-9]\d{0,3}(-[1-9]\d{0,3})*", shape):
        raise UsageError(
            f"--shapes {shape}: widths of hidden layers are such as 128-64, or linear"
        )
    if shape == "linear":
        return ()
    return tuple(map(int, shape.split("-")))


@dataclass
class Task:
    """A fifth of what there is to train on chooses among networks and among methods;
    the test part is only reported."""

    x: np.ndarray
    """(images, pixels)"""
    y: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    rows = np.random.default_rng(run.seed).permutation(len(x))
    valid, rest = np.split(rows, [max(1, len(x) // 5)])
    return Task(
        x[rest], y[rest], x[valid], y[valid], x_test, y_test, classes, config, run
    )


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    answers = forward(model.get_weights(), x).argmax(axis=1)
    return float(np.mean(answers == y))


@dataclass
class Results:
    """Of one network from several starts."""

    accuracies: list[float]
    """on test images, (starts,)"""
    test_losses: list[float]
    """cross-entropy on test images in nats, (starts,)"""
    validation: list[float]
    """accuracies on validation images, (starts,)"""
    losses: np.ndarray
    """on validation images, (epochs, starts)"""
    model: keras.Model
    """the last one"""

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))


def train(shape: str, task: Task) -> Results:
    config = task.config
    accuracies = []
    test_losses = []
    validation = []
    losses = []
    for _ in range(config.restarts):
        model = build_mlp(task.x.shape[1], widths_of(shape), task.classes)
        compile_for_sgd(model, config.learning_rate, config.momentum)
        history = training.fit(
            model,
            task.x,
            task.y,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_data=(task.x_valid, task.y_valid),
            callbacks=task.run.callbacks,
        ).history
        probabilities = forward(model.get_weights(), task.x_test)
        accuracies.append(accuracy(model, task.x_test, task.y_test))
        test_losses.append(cross_entropy(probabilities, task.y_test))
        validation.append(history["val_accuracy"][-1])
        losses.append(history["val_loss"])
    return Results(accuracies, test_losses, validation, np.transpose(losses), model)


@dataclass
class Moons:
    """Two interleaved classes in the plane, where a straight line cannot be right."""

    x: np.ndarray
    """(points, 2), held out"""
    y: np.ndarray
    networks: dict[str, keras.Model]


def learn_moons(config: Config, run: Run) -> Moons:
    """By one neuron a class, and with a hidden layer."""
    x, y = make_moons(1000, noise=0.15, random_state=0)
    x = x.astype("float32")
    networks = {}
    for title, widths in {"no hidden layer": (), "16 hidden neurons": (16,)}.items():
        model = compile_for_sgd(build_mlp(2, widths, classes=2), 0.1, config.momentum)
        training.fit(model, x[:500], y[:500], epochs=60, callbacks=run.callbacks)
        networks[title] = model
    return Moons(x[500:], y[500:], networks)


def judge_moons(moons: Moons, run: Run) -> None:
    straight, bent = [
        accuracy(model, moons.x, moons.y) for model in moons.networks.values()
    ]
    run.claim(
        "A neuron alone splits the plane by a straight line; a hidden layer bends it",
        any_data=True,
        holds=bent > straight + 0.05,
        measured=f"interleaved moons: accuracy {straight:.3f} without, {bent:.3f} with "
        "16 neurons",
    )


def judge_shapes(results: dict[str, Results], task: Task) -> None:
    run = task.run
    mean = {shape: each.accuracy for shape, each in results.items()}
    loss = {shape: np.mean(each.test_losses) for shape, each in results.items()}
    if run.has("--shapes", mean, "linear", "128"):
        # A few images more or less are chance; the loss tells the two apart.
        run.claim(
            "One hidden layer beats the linear classifier",
            holds=loss["128"] < 0.9 * loss["linear"] and mean["128"] > mean["linear"],
            measured=f"test cross-entropy {loss['128']:.3f} nats with 128 neurons, "
            f"{loss['linear']:.3f} linear; accuracy {mean['128']:.4f}, "
            f"{mean['linear']:.4f}",
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
            f"A second hidden layer hardly matters with {len(task.x):,} images",
            holds=abs(mean["128-128"] - mean["128"]) < 0.015,
            measured=f"test accuracy {mean['128-128']:.4f} with two, {mean['128']:.4f} "
            "with one",
        )


@dataclass
class Chosen:
    """What is best on validation images, and its accuracy on test images."""

    name: str
    accuracy: float


def choose_network(results: dict[str, Results]) -> Chosen:
    validation = {shape: np.mean(each.validation) for shape, each in results.items()}
    best = max(validation, key=validation.__getitem__)
    return Chosen(best, results[best].accuracy)


def choose_method(methods: dict[str, ClassifierMixin], task: Task) -> Chosen:
    validation = {
        name: method.score(task.x_valid, task.y_valid)
        for name, method in methods.items()
    }
    best = max(validation, key=validation.__getitem__)
    return Chosen(best, methods[best].score(task.x_test, task.y_test))


def judge_methods(network: Chosen, method: Chosen, run: Run) -> None:
    run.claim(
        "Try other methods first: a simpler one comes within half a point or wins",
        holds=method.accuracy > network.accuracy - 0.005,
        measured=f"chosen by validation: {method.name} {method.accuracy:.4f}, network "
        f"{network.name} {network.accuracy:.4f} of test",
    )


def judge_numpy(results: Results, task: Task) -> None:
    """All that the last network does fits in four lines of NumPy."""
    probabilities = forward(results.model.get_weights(), task.x_valid)
    ours = cross_entropy(probabilities, task.y_valid)
    keras_loss = results.losses[-1, -1]
    task.run.claim(
        "Matrix products, max(0, ·) and −log p are all there is: NumPy finds Keras's "
        "loss",
        any_data=True,
        holds=abs(ours - keras_loss) < 1e-4,
        measured=f"cross-entropy {ours:.6f} in NumPy, {keras_loss:.6f} in Keras",
    )


def draw_regions(moons: Moons) -> Figure:
    """Where each two-class network says which class, under the points it is asked
    about."""
    horizontal, vertical = np.meshgrid(
        np.linspace(-2, 3, 200), np.linspace(-1.5, 2, 200)
    )
    grid = np.stack([horizontal.ravel(), vertical.ravel()], axis=1).astype("float32")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axes, (title, model) in zip(panels, moons.networks.items(), strict=True):
        share = forward(model.get_weights(), grid)[:, 1].reshape(horizontal.shape)
        filled = axes.contourf(
            horizontal, vertical, share, 20, cmap="PuOr", vmin=0, vmax=1, alpha=0.7
        )
        axes.contour(horizontal, vertical, share, [0.5], colors="black")
        for label, (marker, color) in enumerate((("o", "#E69F00"), ("^", "#0072B2"))):
            points = moons.x[moons.y == label]
            axes.scatter(
                *points.T, s=14, marker=marker, c=color, edgecolors="k", linewidths=0.4
            )
        axes.set(title=title, xlabel="first input")
    panels[0].set_ylabel("second input")
    figure.colorbar(filled, ax=panels, label="probability of the blue class")
    return figure


def draw_accuracies(
    results: dict[str, Results], methods: dict[str, ClassifierMixin], task: Task
) -> Figure:
    """A point for each method, and for each network its starts and their mean."""
    names = [*methods, *results]
    figure, axes = plt.subplots(figsize=(8, 4.2))
    means = []
    for method in methods.values():
        means.append(method.score(task.x_test, task.y_test))
    axes.plot(means, list(methods), "s", color="#666666", label="simpler methods")
    for name, each in results.items():
        axes.plot(each.accuracies, [name] * len(each.accuracies), "k.", markersize=5)
        means.append(each.accuracy)
    axes.plot(
        means[len(methods) :],
        list(results),
        "o",
        color="#0072B2",
        label="networks by hidden widths (dots: starts)",
    )
    for row, value in enumerate(means):
        axes.text(1.01, row, f"{100 * value:.1f} %", va="center", fontsize=9)

    lowest = min(*means, *[min(each.accuracies) for each in results.values()])
    start = math.floor(10 * min(0.5, lowest)) / 10
    axes.set(xlim=(start, 1.005), xlabel="held-out accuracy")
    axes.set_yticks(range(len(names)), names)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2 + len(config.shapes) * config.restarts)
    for shape in config.shapes:
        widths_of(shape)  # refuses what is none before anything is trained
    moons = learn_moons(config, run)
    judge_moons(moons, run)

    task = load_task(config, run)
    results = {shape: train(shape, task) for shape in config.shapes}
    methods = {
        name: method.fit(task.x, task.y) for name, method in simpler_methods().items()
    }
    network = choose_network(results)
    method = choose_method(methods, task)
    run.metric("test_accuracy", network.accuracy)
    if "linear" in results:
        run.metric("linear_test_accuracy", results["linear"].accuracy)
    run.metric("simpler_method_test_accuracy", method.accuracy)
    judge_shapes(results, task)
    judge_methods(network, method, run)
    last = results[config.shapes[-1]]
    judge_numpy(last, task)

    run.figure("regions", draw_regions(moons))
    run.figure("accuracies", draw_accuracies(results, methods, task))
    losses = figures.curves(
        {shape: each.losses for shape, each in results.items()},
        title=f"Validation loss (mean and range of {config.restarts} starts)",
        ylabel="cross-entropy (nats)",
        yscale="log",
    )
    run.figure("losses", losses)
    run.export(serving.classifier(last.model), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
