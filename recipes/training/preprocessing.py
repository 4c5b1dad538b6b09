"""Preprocessing: centering, scaling and whitening what a network is fed.

The mean of each feature is subtracted; then each is divided by its standard deviation
σ, or all together are whitened, so that their covariance is the identity. With the
eigenvectors U and eigenvalues λ of the covariance:

    centered   x − μ              PCA-whitened   (x − μ) U / √λ
    standardized   (x − μ) / σ    ZCA-whitened   (x − μ) U / √λ Uᵀ

The statistics are those of the training data and belong to the model, so that whoever
uses it sends raw features. A loss is a bowl as narrow as the features are unequal in
scale and correlated: its condition number is what gradient descent has to wait for.
Look at the condition numbers beside the epochs that a network needs, and at what
whitening does to pictures.

Lectures: CS Data Preprocessing; SEL Data preprocessing; N18 1.2.6 Tricks; INFO Batch
    Normalization
Paper: LeCun et al., Efficient backprop, 1998 (section 4.3); Krizhevsky, Learning
    multiple layers of features from tiny images, 2009 (appendix A, ZCA)
Tags: normalization, standardization, zca, pca, mean subtraction, condition
    number, data leakage
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.linear_model import RidgeClassifier

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    starts: int = 3
    """networks of each kind and learning rate"""
    table_epochs: int = 60
    """passes over the table of wines"""
    image_epochs: int = 6
    """passes over the crops of photographs"""


QUICK = Config(starts=2, table_epochs=40, image_epochs=3)
FULL = Config(starts=10, table_epochs=300, image_epochs=30)

# --------------------------------------------------------------------------------------
# The idea: x → (x − mean) · matrix, both from the training data
# --------------------------------------------------------------------------------------

TINY = 1e-7  # of the largest eigenvalue; below that there is nothing to scale up
SMOOTHING = 0.01  # ε, of the largest eigenvalue

# Each function takes x, (examples, features), and gives the mean, (features,), and the
# matrix, (features, features).


def leave(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x as it is."""
    return np.zeros(x.shape[1]), np.eye(x.shape[1])


def center(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """keras.layers.Normalization(mean=x.mean(axis=0), variance=1)"""
    return x.mean(axis=0), np.eye(x.shape[1])


def standardize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """keras.layers.Normalization(), after adapt(x)"""
    deviations = x.std(axis=0)
    constant = deviations == 0
    scales = 1 / np.where(constant, 1, deviations)
    return x.mean(axis=0), np.diag(scales)


def whiten_by_pca(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sklearn.decomposition.PCA(whiten=True).fit(x)"""
    eigenvalues, vectors = principal_axes(x)
    return x.mean(axis=0), vectors * inverse_roots(eigenvalues)


def whiten_by_zca(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As by PCA and then rotated back, so that what comes out stays as near to x as
    whitened data can."""
    eigenvalues, vectors = principal_axes(x)
    return x.mean(axis=0), vectors * inverse_roots(eigenvalues) @ vectors.T


def whiten_smoothly(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By ZCA with 1/√(λ + ε), which leaves small what is hardly there."""
    eigenvalues, vectors = principal_axes(x)
    epsilon = SMOOTHING * eigenvalues.max()
    return x.mean(axis=0), vectors / np.sqrt(eigenvalues + epsilon) @ vectors.T


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The covariance's eigenvalues, (features,), the largest first, and its
    eigenvectors in columns."""
    centered = x - x.mean(axis=0, dtype="float64")
    covariance = centered.T @ centered / len(x)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return eigenvalues[::-1], vectors[:, ::-1]


def inverse_roots(eigenvalues: np.ndarray) -> np.ndarray:
    """1/√λ, and 0 where the data have no extent."""
    has_extent = eigenvalues > TINY * eigenvalues.max()
    return np.where(has_extent, 1 / np.sqrt(np.where(has_extent, eigenvalues, 1)), 0)


METHODS: dict[str, Callable] = {
    "raw": leave,
    "centered": center,
    "standardized": standardize,
    "PCA-whitened": whiten_by_pca,
    "ZCA-whitened": whiten_by_zca,
    "ZCA, smoothed": whiten_smoothly,
}


@keras.saving.register_keras_serializable("preprocessing")
class Preprocessing(layers.Layer):
    """Features by one of the METHODS, with statistics that `adapt` takes from data.

    x: (batch, ...), all but the batch taken as features. Returns the same shape. The
    statistics are weights that are not trained: they are saved and exported with the
    model.
    """

    def __init__(self, method: str, **options):
        super().__init__(**options)
        self.method = method

    def build(self, shape):
        size = int(np.prod(shape[1:]))
        self.mean = self.add_weight((size,), "zeros", trainable=False, name="mean")
        self.matrix = self.add_weight(
            (size, size), "identity", trainable=False, name="matrix"
        )

    def adapt(self, x: np.ndarray) -> None:
        """x: (examples, ...), the training data alone."""
        mean, matrix = METHODS[self.method](np.reshape(x, (len(x), -1)))
        self.mean.assign(mean)
        self.matrix.assign(matrix)

    def call(self, x):
        flat = ops.reshape(x, (-1, self.mean.shape[0]))
        return ops.reshape((flat - self.mean) @ self.matrix, ops.shape(x))

    def get_config(self):
        return {**super().get_config(), "method": self.method}


def condition_number(x: np.ndarray) -> float:
    """Of the Hessian of linear regression on x and a bias, (1/n) Σ (x, 1)(x, 1)ᵀ: its
    largest eigenvalue by its smallest that is not 0. x: (examples, features)."""
    with_bias = np.column_stack([x, np.ones(len(x))]).astype("float64")
    singular = np.linalg.svd(with_bias, compute_uv=False)
    eigenvalues = singular**2
    return float(eigenvalues[0] / eigenvalues[eigenvalues > 1e-13 * eigenvalues[0]][-1])


def build_dense(method: str, features: int = 13, classes: int = 3) -> keras.Model:
    """Input: (batch, features), raw. Output: (batch, classes) logits."""
    # Raw features may be of any size: half precision begins after they are scaled.
    x = keras.Input((features,), name="features")
    hidden = Preprocessing(method, dtype="float32", name="preprocessing")(x)
    hidden = layers.Dense(16, "relu", kernel_initializer="he_normal")(hidden)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="dense")


def build_convnet(method: str, classes: int = 9) -> keras.Model:
    """Input: (batch, 8, 8, 3), raw. Output: (batch, classes) logits."""
    x = keras.Input((8, 8, 3), name="image")
    hidden = Preprocessing(method, dtype="float32", name="preprocessing")(x)
    hidden = layers.ReLU()(convolve(hidden, 8, strides=2))
    hidden = layers.ReLU()(convolve(hidden, 16, strides=1))
    hidden = layers.Flatten()(hidden)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="convnet")


def convolve(x, channels: int, strides: int):
    """What `layers.Conv2D(channels, 3, strides, padding="same")` does, as one product
    of matrices, in which many networks at once are faster."""
    patches = ops.image.extract_patches(x, 3, strides, padding="same")
    return layers.Dense(channels, kernel_initializer="he_normal")(patches)


# --------------------------------------------------------------------------------------
# The experiment: a table, photographs, and a leak
# --------------------------------------------------------------------------------------

MOMENTUM = 0.9
TABLE_RATES = tuple(np.logspace(-8, 0, 17))
IMAGE_RATES = (0.003, 0.01, 0.03, 0.1)
LOSS = 0.2  # nats on held-out wines, to be reached
EARLY = 2  # epochs over photographs, after which the losses show who is fast
FEW = 30  # wines that statistics are taken from, where a leak should show
SPLITS = 20
WORST = 1e3  # nats; what is worse, or no number, counts as this


@dataclass
class Parts:
    """What to train on, to choose by and to report: arrays x and labels y of each."""

    x: np.ndarray
    y: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass
class Trained:
    """Networks of all methods, (epochs, methods, rates, starts) each."""

    validation: np.ndarray
    """loss on what to choose by"""
    test: np.ndarray
    """loss on what to report"""
    validation_accuracy: np.ndarray
    """on what to choose by"""
    accuracy: np.ndarray
    """on what to report"""
    rows: np.ndarray
    """weights at the end, (methods, rates, starts, weights)"""

    def chosen(self, method: str) -> int:
        """The place of the rate that validates best at the end."""
        index = list(METHODS).index(method)
        return int(self.validation[-1, index].mean(axis=-1).argmin())

    def fastest(self, method: str) -> int:
        """That of the rate which validates best on average over the epochs."""
        index = list(METHODS).index(method)
        return int(self.validation[:, index].mean(axis=(0, -1)).argmin())

    def epochs(self, method: str) -> np.ndarray:
        """Until the loss on what to report is below LOSS at the fastest rate, (starts,);
        one more than there are where it never is."""
        index = list(METHODS).index(method)
        reached = self.test[:, index, self.fastest(method)] < LOSS
        first = np.where(reached.any(axis=0), reached.argmax(axis=0), len(reached))
        return first + 1

    def early(self, method: str) -> float:
        """Loss on what to report after a few epochs, at the rate that validates best by
        then."""
        index = list(METHODS).index(method)
        rate = self.validation[:EARLY][-1, index].mean(axis=-1).argmin()
        return float(self.test[:EARLY][-1, index, rate].mean())

    def accuracies(self, method: str) -> np.ndarray:
        """At the end, at the rate of the highest accuracy on what to choose by,
        (starts,)."""
        index = list(METHODS).index(method)
        rate = self.validation_accuracy[-1, index].mean(axis=-1).argmax()
        return self.accuracy[-1, index, rate]


@tf.function
def train_epoch(model, rows, velocity, rates, batches, x, y):
    """Gradient descent with momentum, a step of all networks on each batch. rows,
    velocity: variables (networks, weights). rates: (networks, 1)."""
    for batch in batches:
        gradients = stacks.gradients(
            model, rows, tf.gather(x, batch), tf.gather(y, batch)
        )
        velocity.assign(MOMENTUM * velocity + gradients)
        rows.assign_sub(rates * velocity)


@tf.function
def losses_and_hits(model, rows, x, y):
    """Of each example, (networks, examples)."""
    logits = tf.cast(stacks.call(model, rows, x), "float32")
    labels = tf.repeat(y[tf.newaxis], tf.shape(rows)[0], axis=0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return losses, tf.argmax(logits, axis=-1) == labels


def first_rows(build: Callable, x: np.ndarray, starts: int) -> np.ndarray:
    """The same starts for each method, with its statistics of x: (methods, starts,
    weights)."""
    flat = x.reshape(len(x), -1)
    statistics = [method(flat) for method in METHODS.values()]
    rows = []
    for _ in range(starts):
        model = build("raw")
        for of_method in statistics:
            model.get_layer("preprocessing").set_weights(of_method)
            rows.append(stacks.row_of(model))
    by_start = np.reshape(rows, (starts, len(METHODS), -1))
    return by_start.swapaxes(0, 1)


def train(
    build: Callable, parts: Parts, rates, batch_size: int, epochs: int, config, run: Run
) -> Trained:
    """All methods at all rates from all starts, at once."""
    random = np.random.default_rng(run.seed)
    model = build("raw")
    first = first_rows(build, parts.x, config.starts)
    shape = len(METHODS), len(rates), config.starts
    rows = np.repeat(first[:, np.newaxis], len(rates), axis=1)
    rows = tf.Variable(rows.reshape(np.prod(shape), -1))
    velocity = tf.Variable(tf.zeros_like(rows))
    of_each = np.tile(np.repeat(rates, config.starts), len(METHODS))
    of_each = tf.constant(of_each[:, np.newaxis], "float32")
    x = tf.constant(parts.x)
    y = tf.constant(parts.y)
    x_seen = tf.constant(np.concatenate([parts.x_valid, parts.x_test]))
    y_seen = tf.constant(np.concatenate([parts.y_valid, parts.y_test]))
    held_out = len(parts.x_valid)
    losses = np.zeros((2, epochs, *shape))
    accuracies = np.zeros((2, epochs, *shape))

    state = {"all": [rows, velocity, losses, accuracies, random]}
    name = f"{len(of_each)} {model.name} networks"
    for epoch in run.loop(name, epochs, state, unit="epochs"):
        steps = len(parts.x) // batch_size
        order = random.permutation(len(parts.x))[: steps * batch_size]
        batches = tf.constant(order.reshape(steps, batch_size))
        train_epoch(model, rows, velocity, of_each, batches, x, y)

        found, hits = losses_and_hits(model, rows, x_seen, y_seen)
        valid, test = np.split(stacks.bounded(found, WORST), [held_out], axis=1)
        losses[0, epoch] = valid.mean(axis=1).reshape(shape)
        losses[1, epoch] = test.mean(axis=1).reshape(shape)
        hits = hits.numpy()
        accuracies[0, epoch] = hits[:, :held_out].mean(axis=1).reshape(shape)
        accuracies[1, epoch] = hits[:, held_out:].mean(axis=1).reshape(shape)
    return Trained(*losses, *accuracies, rows.numpy().reshape(*shape, -1))


def load_wines(seed: int) -> Parts:
    (x, y), test = data.load_table("wine")
    order = np.random.default_rng(seed).permutation(len(x))
    valid, train = np.split(order, [30])
    return Parts(x[train], y[train], x[valid], y[valid], *test)


def load_crops(seed: int) -> Parts:
    """Crops of photographs at 8×8; those to report are of other regions."""
    (x, y), (x_test, y_test) = data.load("photos")
    order = np.random.default_rng(seed).permutation(len(x))
    valid = order[:300]
    train = order[300:1100]
    return Parts(
        shrink(x[train]),
        y[train],
        shrink(x[valid]),
        y[valid],
        shrink(x_test),
        y_test,
    )


def shrink(x: np.ndarray) -> np.ndarray:
    """(images, 32, 32, 3) to (images, 8, 8, 3), the means of 4×4 pixels."""
    return x.reshape(len(x), 8, 4, 8, 4, 3).mean(axis=(2, 4))


def apply(method: str, x_train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x with the statistics of x_train. Both: (examples, features)."""
    mean, matrix = METHODS[method](x_train)
    return (x - mean) @ matrix


@dataclass
class Leak:
    """One method with statistics of the training data, and of all data."""

    variances: np.ndarray
    """mean square of unseen features, (splits, 2)"""
    accuracies: np.ndarray
    """of a ridge classifier on unseen data, (splits, 2)"""


def leak(method: str, x: np.ndarray, y: np.ndarray, seed: int) -> Leak:
    """Splits of a few rows to train on and the rest, unseen."""
    random = np.random.default_rng(seed)
    variances = np.zeros((SPLITS, 2))
    accuracies = np.zeros((SPLITS, 2))
    for split in range(SPLITS):
        train, unseen = np.split(random.permutation(len(x)), [FEW])
        for place, source in enumerate((x[train], x)):
            found = apply(method, source, x[unseen])
            variances[split, place] = np.mean(found**2)
            model = RidgeClassifier()
            model.fit(apply(method, source, x[train]), y[train])
            accuracies[split, place] = model.score(found, y[unseen])
    return Leak(variances, accuracies)


def judge_table(parts: Parts, trained: Trained, run: Run) -> dict[str, float]:
    """Returns the condition number of held-out wines by method."""
    conditions = {
        method: condition_number(apply(method, parts.x, parts.x_test))
        for method in METHODS
    }
    accuracy = trained.accuracies("standardized").mean()
    run.metric("test_accuracy_of_wines", accuracy)
    run.metrics("condition_number", conditions)
    ladder = ["raw", "centered", "standardized", "ZCA-whitened"]
    steps = [conditions[method] for method in ladder]
    run.claim(
        "Each step makes the bowl rounder: centering, scaling, then whitening (held-out "
        "wines, statistics of the training wines)",
        holds=all(high > 3 * low for high, low in zip(steps, steps[1:], strict=False)),
        measured="condition number: "
        + ", ".join(f"{method} {conditions[method]:.2g}" for method in ladder)
        + " (each at least 3 times the next)",
    )
    epochs = {method: float(trained.epochs(method).mean()) for method in METHODS}
    run.metrics("epochs_to_loss", epochs)
    run.compare(
        "Normalized beats raw: epochs to a test loss of "
        f"{LOSS}, each at its own best rate ({len(trained.test) + 1} where it is not "
        "reached); centering alone does not do it here",
        epochs,
        more=min(("raw", "centered"), key=epochs.get),
        less="standardized",
        times=4,
    )
    scaled = epochs["standardized"]
    whitened = epochs["ZCA-whitened"]
    run.claim(
        "Whitening makes the bowl of linear regression rounder still, but saves this "
        "network less than an epoch",
        holds=whitened > scaled - 1,
        measured=f"epochs standardized {scaled:.2f}, ZCA-whitened {whitened:.2f}",
    )
    return conditions


def judge_images(trained: Trained, run: Run) -> None:
    early = {method: trained.early(method) for method in METHODS}
    run.metrics("early_test_loss", early)
    run.compare(
        "A convnet wants its inputs centered and scaled: test loss after "
        f"{min(EARLY, len(trained.test))} epochs, each at its own best rate",
        early,
        more="raw",
        less="standardized",
        times=1.05,
    )
    means = {method: float(trained.accuracies(method).mean()) for method in METHODS}
    run.metrics("test_accuracy", means)
    run.compare(
        "It does not want whitening beyond that: test accuracy",
        means,
        more="standardized",
        less=max(("PCA-whitened", "ZCA-whitened"), key=means.get),
        by=0.03,
    )
    run.compare(
        "As that brings out the noise: smoothed, so that what is hardly there stays small, "
        "ZCA costs less",
        means,
        more="ZCA, smoothed",
        less="ZCA-whitened",
        by=0.03,
    )
    gain = means["ZCA, smoothed"] - means["standardized"]
    run.claim(
        "But whitening that is smoothed does not bring more than scaling does either",
        holds=gain < 0.03,
        measured=f"test accuracy smoothed {means['ZCA, smoothed']:.3f}, standardized "
        f"{means['standardized']:.3f} ({gain:+.3f}, less than +0.03 wanted)",
    )


def judge_leak(run: Run) -> None:
    (x, y), (x_test, y_test) = data.load_table("wine")
    x = np.concatenate([x, x_test]).astype("float64")
    y = np.concatenate([y, y_test])
    found = {
        method: leak(method, x, y, run.seed)
        for method in ("standardized", "PCA-whitened")
    }
    honest, leaky = found["PCA-whitened"].variances.mean(axis=0)
    run.compare(
        f"Statistics are the training data's: unseen wines, whitened by {FEW}, vary more "
        "than those do, which a leak of the unseen into the statistics hides",
        {"variance, training wines alone": honest, "variance, with leak": leaky},
        more="variance, training wines alone",
        less="variance, with leak",
        times=1.3,
    )
    gains = {
        method: float(np.diff(each.accuracies, axis=1).mean())
        for method, each in found.items()
    }
    run.claim(
        "In the accuracy reported the leak is not visible here",
        holds=all(abs(gain) < 0.03 for gain in gains.values()),
        measured="accuracy with leak less without: "
        + ", ".join(f"{method} {gain:+.3f}" for method, gain in gains.items())
        + f" (mean of {SPLITS} splits; within 0.03)",
    )


def draw_clouds(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> plt.Figure:
    """Two features under each method. x: (examples, 2)."""
    figure, grid = plt.subplots(1, len(METHODS), figsize=(14, 3.2))
    for axes, method in zip(grid, METHODS, strict=True):
        found = apply(method, x, x)
        for label in np.unique(y):
            axes.plot(
                *found[y == label].T,
                figures.MARKERS[label],
                color=figures.COLORS[label],
                markersize=3,
            )
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set_title(method)
        axes.axis("equal")
    grid[0].set(xlabel=names[0], ylabel=names[1])
    return figure


def draw_losses(on_table: Trained, on_images: Trained) -> plt.Figure:
    shown = []
    for title, trained in (("Wines", on_table), ("Photographs", on_images)):
        lines = {
            method: trained.test[:, index, trained.fastest(method)]
            for index, method in enumerate(METHODS)
        }
        panel = figures.Panel(
            title=title,
            xlabel="epoch",
            ylabel="test loss (nats)",
            lines=lines,
            yscale="log",
        )
        shown.append(panel)
    return figures.panels(*shown, title="Each at its fastest rate")


def draw_numbers(conditions: dict[str, float], on_images: Trained) -> plt.Figure:
    table = figures.Panel(
        title="Held-out wines",
        xlabel="condition number",
        bars=conditions,
        xscale="log",
        number="{:.2g}",
    )
    images = figures.Panel(
        title="A convnet on photographs",
        xlabel="test accuracy",
        bars={method: on_images.accuracies(method) for method in METHODS},
        number="{:.3f}",
    )
    return figures.panels(table, images)


def draw_images(x: np.ndarray) -> plt.Figure:
    """Photographs under each method, each picture stretched to the range of colors.
    x: (images, 8, 8, 3)."""
    flat = x.reshape(len(x), -1)
    rows = {}
    for method in METHODS:
        found = apply(method, flat, flat[:8]).reshape(-1, 8, 8, 3)
        low = found.min(axis=(1, 2, 3), keepdims=True)
        high = found.max(axis=(1, 2, 3), keepdims=True)
        rows[method] = (found - low) / (high - low)
    return figures.image_rows(rows, title="What the convnet is fed", columns=8)


def main(config: Config, run: Run) -> None:
    run.plan(2)
    wines = load_wines(run.seed)
    judge_leak(run)
    on_table = train(
        build_dense, wines, TABLE_RATES, 16, config.table_epochs, config, run
    )
    conditions = judge_table(wines, on_table, run)
    names = data.feature_names("wine")
    pair = [names.index("total_phenols"), names.index("flavanoids")]
    run.figure(
        "clouds", draw_clouds(wines.x[:, pair], wines.y, ("phenols", "flavanoids"))
    )

    crops = load_crops(run.seed)
    run.figure("photographs", draw_images(crops.x))
    on_images = train(
        build_convnet, crops, IMAGE_RATES, 32, config.image_epochs, config, run
    )
    judge_images(on_images, run)
    run.figure("losses", draw_losses(on_table, on_images))
    run.figure("numbers", draw_numbers(conditions, on_images))

    index = list(METHODS).index("standardized")
    model = build_dense("standardized")
    row = on_table.rows[index, on_table.chosen("standardized"), 0]
    stacks.set_weights(model, row)
    run.export(serving.classifier(model), example=wines.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
