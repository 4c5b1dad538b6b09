"""Weight sharing: a kernel of a few values, and a number of four bits for each weight.

k-means clusters the weights of a kernel, and each weight is replaced by its cluster's
centroid. Of n weights and k clusters it takes n·log₂ k bits, and 32·k for the codebook
of centroids, in place of 32·n. The centroids are then trained on: a weight is its
cluster's centroid, so a centroid's gradient is the sum of its weights' gradients,
∂L/∂c_k = Σ_ij ∂L/∂w_ij · 1(label_ij = k). The paper starts k-means evenly over the
weights' range, since few weights are large, but matter most.
Look at how many bits are needed, before and after the centroids are trained, and at
what k-means leaves of where it started.

Lectures: CS Efficient Methods and Hardware (Weight Sharing, Trained Quantization)
Paper: Han, Mao and Dally, Deep compression, 2016 (section 3, equations 1 to 3, figures
    3, 6 and 8)
Tags: weight clustering, k-means, codebook, centroids, model compression, tfmot
"""

from dataclasses import dataclass, field
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, compression, data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer (tested on other writers), digits; mnist / fashion_mnist if
    available; or your own: a folder of images by class, an .npz file, or a table
    (.csv, .parquet) with --target"""
    units: int = 256
    """width of the two hidden layers"""
    bits: tuple[Annotated[int, Interval(ge=1, le=8)], ...] = (1, 2, 3, 4, 6, 8)
    """of a weight: kernels of 2^bits values; 1, 2 and 4 are needed"""
    restarts: int = 2
    """random starts of the network; accuracies are their means"""
    epochs: int = 30
    """passes over the training images in float32"""
    centroid_epochs: int = 8
    """passes over the training images that train the centroids"""
    learning_rate: float = 1e-3
    """of Adam; it falls to 0 along a cosine"""


QUICK = Config(bits=(1, 2, 4), epochs=20, centroid_epochs=6)
FULL = Config(data="mnist", units=512, centroid_epochs=3)
STARTS = ("linear", "random", "density")

# --------------------------------------------------------------------------------------
# The idea: k-means over a kernel's weights, and gradients of its centroids
# --------------------------------------------------------------------------------------


def build_model(inputs: int, units: int, classes: int = 10) -> keras.Model:
    """Input: (batch, inputs) floats. Output: (batch, classes) logits."""
    x = keras.Input((inputs,), name="x")
    hidden = x
    for _ in range(2):
        hidden = layers.Dense(units, activation="relu")(hidden)
    logits = layers.Dense(classes)(hidden)
    return keras.Model(x, logits, name="float32")


def get_kernels(model: keras.Model) -> list[keras.Variable]:
    return [
        variable for variable in model.trainable_variables if len(variable.shape) > 1
    ]


def first_centroids(
    values: np.ndarray, clusters: int, start: str, random: np.random.Generator
) -> np.ndarray:
    """Where k-means starts (section 3.2), (clusters,): evenly over the range of
    `values` (linear), at random ones of them, or with equally many of them between
    neighbors (density)."""
    if start == "linear":
        return np.linspace(values.min(), values.max(), clusters)
    if start == "random":
        return np.sort(random.choice(values.ravel(), clusters, replace=False))
    return np.quantile(values, (np.arange(clusters) + 0.5) / clusters)


def k_means(values: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm on numbers (equation 2), until nothing moves. centroids:
    ascending. Returns the labels, in the shape of `values`, and the centroids. An empty
    cluster stays where it is."""
    # On a line a cluster is an interval, so that sorted values and their running sums
    # are enough.
    ordered = np.sort(values, axis=None).astype("float64")
    running = np.concatenate([[0], np.cumsum(ordered)])
    before = None
    while not np.array_equal(before, centroids):
        before = centroids
        halfway = (centroids[1:] + centroids[:-1]) / 2
        edges = [0, *np.searchsorted(ordered, halfway, side="right"), len(ordered)]
        counts = np.diff(edges)
        sums = np.diff(running[edges])
        centroids = np.where(counts > 0, sums / np.maximum(counts, 1), before)
    return np.searchsorted(halfway, values), centroids.astype("float32")


class SharedWeights(keras.Model):
    """A network whose kernels' weights are centroids, of which nothing else is trained.

    codebooks: of each kernel labels, integers in its shape, and centroids,
        (clusters,)."""

    def __init__(
        self, network: keras.Model, codebooks: list[tuple[np.ndarray, np.ndarray]]
    ):
        super().__init__(name="shared")
        self.network = network
        self.labels = [labels.astype("int32") for labels, _ in codebooks]
        self.centroids = [keras.Variable(centroids) for _, centroids in codebooks]
        self.share()

    def share(self) -> None:
        """Writes each weight's centroid into the network."""
        kernels = get_kernels(self.network)
        for kernel, labels, centroids in zip(
            kernels, self.labels, self.centroids, strict=True
        ):
            kernel.assign(ops.take(centroids, labels))

    def sum_by_cluster(self, gradients: list) -> list:
        """The centroids' gradients, given those of the kernels (equation 3)."""
        triples = zip(gradients, self.labels, self.centroids, strict=True)
        return [
            ops.segment_sum(ops.ravel(gradient), labels.ravel(), centroids.shape[0])
            for gradient, labels, centroids in triples
        ]

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self.network(x, training=True))
        gradients = tape.gradient(loss, get_kernels(self.network))
        self.optimizer.apply(self.sum_by_cluster(gradients), self.centroids)
        self.share()
        return {"batch_loss": loss}


def shared_bytes(model: keras.Model, bits: int) -> int:
    """Labels of `bits` bits and a float32 codebook for each kernel; biases in
    float32."""
    kernels = get_kernels(model)
    weights = sum(kernel.numpy().size for kernel in kernels)
    biases = model.count_params() - weights
    return int(np.ceil(weights * bits / 8)) + 4 * len(kernels) * 2**bits + 4 * biases


# --------------------------------------------------------------------------------------
# The experiment: bits before and after training, by where k-means starts
# --------------------------------------------------------------------------------------


BATCH_SIZE = 32
TRAINED = "linear, centroids trained"
FOUR = 4  # bits that the figure of centroids and the export are of
SECOND = 1  # the kernel that the figure is of
FIRST_START = STARTS[0]


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run
    random: np.random.Generator

    def fit(self, model: keras.Model, epochs: int) -> None:
        steps = epochs * len(self.x) // BATCH_SIZE
        rate = self.config.learning_rate
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(schedule), loss)
        callbacks = self.run.callbacks
        training.fit(model, self.x, self.y, epochs=epochs, callbacks=callbacks)

    def test_loss(self, model: keras.Model) -> float:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return float(loss(self.y_test, model(self.x_test)))

    def accuracy(self, model: keras.Model) -> float:
        logits = model(self.x_test)
        return float(np.mean(np.argmax(logits, axis=1) == self.y_test))


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    random = np.random.default_rng(run.seed)
    return Task(x, y, x_test, y_test, classes, config, run, random)


def require_weights(network: keras.Model, config: Config) -> None:
    """Raises UsageError for kernels of fewer weights than the values they share."""
    fewest = min(np.prod(kernel.shape) for kernel in get_kernels(network))
    bits = max(config.bits)
    if fewest < 2**bits:
        raise UsageError(
            f"--units {config.units}: a kernel of {fewest} weights cannot share "
            f"{2**bits} values; take more units, or fewer --bits than {bits}"
        )


@dataclass
class Clustered:
    """A network whose weights share values, and where k-means put them."""

    shared: SharedWeights
    first: np.ndarray
    """centroids of the second kernel before k-means, (clusters,)"""
    found: np.ndarray
    """and after it"""


def cluster(network: keras.Model, bits: int, start: str, task: Task) -> Clustered:
    """Lets the network's weights share values."""
    kernels = [kernel.numpy() for kernel in get_kernels(network)]
    firsts = [first_centroids(each, 2**bits, start, task.random) for each in kernels]
    codebooks = [
        k_means(kernel, first) for kernel, first in zip(kernels, firsts, strict=True)
    ]
    shared = SharedWeights(network, codebooks)
    _, found = codebooks[SECOND]
    return Clustered(shared, firsts[SECOND], found)


@dataclass
class Trial:
    """What one random start of the network came to."""

    network: keras.Model
    weights: list[np.ndarray]
    """in float32, as clustered"""
    in_full: float
    """accuracy in float32, trained as long as those with trained centroids"""
    accuracies: dict[tuple[str, int], float] = field(default_factory=dict)
    """by start of k-means, or `TRAINED`, and bits"""
    losses: dict[int, tuple[float, float]] = field(default_factory=dict)
    """on held-out data after k-means and after training the centroids, by bits"""
    values: dict[int, int] = field(default_factory=dict)
    """the most distinct weights of a kernel, by bits"""
    four_bits: list[np.ndarray] = field(default_factory=list)
    """weights of 4 bits, centroids trained"""
    of_four: dict[str, Clustered] = field(default_factory=dict)
    """what k-means found with 4 bits, by its start"""

    @property
    def kernel(self) -> np.ndarray:
        """The second one, in float32."""
        kernels = [each for each in self.weights if each.ndim > 1]
        return kernels[SECOND]


def train_in_full(task: Task) -> Trial:
    config = task.config
    network = build_model(task.x.shape[1], config.units, task.classes)
    require_weights(network, config)
    task.fit(network, config.epochs)
    weights = network.get_weights()
    # As many further epochs as those with trained centroids get.
    task.fit(network, config.centroid_epochs)
    return Trial(network, weights, task.accuracy(network))


def share_weights(trial: Trial, bits: int, task: Task) -> None:
    """Clusters from each start; from the linear one the centroids are trained."""
    network = trial.network
    for start in reversed(STARTS):  # the linear one stays
        network.set_weights(trial.weights)
        clustered = cluster(network, bits, start, task)
        trial.accuracies[start, bits] = task.accuracy(network)
        if bits == FOUR:
            trial.of_four[start] = clustered

    before = task.test_loss(network)
    task.fit(clustered.shared, task.config.centroid_epochs)
    trial.losses[bits] = (before, task.test_loss(network))
    trial.accuracies[TRAINED, bits] = task.accuracy(network)
    values = [len(np.unique(kernel)) for kernel in get_kernels(network)]
    trial.values[bits] = max(values)
    if bits == FOUR:
        trial.four_bits = network.get_weights()


def mean_accuracy(trials: list[Trial], name: str, bits: int) -> float:
    return float(np.mean([trial.accuracies[name, bits] for trial in trials]))


def mean_in_full(trials: list[Trial]) -> float:
    return float(np.mean([trial.in_full for trial in trials]))


def judge_four_bits(trials: list[Trial], run: Run) -> None:
    network = trials[-1].network
    ratio = 4 * network.count_params() / shared_bytes(network, FOUR)
    full = mean_in_full(trials)
    shared = mean_accuracy(trials, TRAINED, FOUR)
    run.metric("compression_ratio_4_bits", ratio)
    run.claim(
        "Four bits a weight are nearly 8 times smaller and lose less than a point and "
        "a half",
        holds=ratio > 7.5 and shared > full - 0.015,
        measured=f"{ratio:.2f} times, codebooks and float32 biases counted; test "
        f"accuracy {shared:.4f} against {full:.4f} in float32",
    )


def judge_one_bit(trials: list[Trial], run: Run) -> None:
    clustered, tuned = np.mean([trial.losses[1] for trial in trials], axis=0)
    run.claim(
        "One bit a weight: training the two centroids takes off a third of the test "
        "loss and more",
        holds=tuned < 2 / 3 * clustered,
        measured=f"test loss {clustered:.3f} after k-means, {tuned:.3f} after "
        f"training; test accuracy {mean_accuracy(trials, FIRST_START, 1):.4f}, "
        f"{mean_accuracy(trials, TRAINED, 1):.4f}",
    )


def judge_values(trials: list[Trial], config: Config, run: Run) -> None:
    most = {}
    for bits in config.bits:
        most[bits] = max(trial.values[bits] for trial in trials)
    run.claim(
        "Of b bits a kernel has at most 2^b values, also after training",
        any_data=True,
        holds=all(count <= 2**bits for bits, count in most.items()),
        measured=", ".join(f"{bits} bits: {count}" for bits, count in most.items()),
    )


def share_of_large(centroids: np.ndarray, kernel: np.ndarray) -> float:
    """Of centroids beyond two standard deviations of the weights."""
    return float(np.mean(np.abs(centroids) > 2 * kernel.std()))


def judge_starts(trials: list[Trial], run: Run) -> None:
    trial = trials[-1]
    first = {}
    found = {}
    for start in STARTS:
        clustered = trial.of_four[start]
        first[start] = share_of_large(clustered.first, trial.kernel)
        found[start] = share_of_large(clustered.found, trial.kernel)
    others = [first[start] for start in STARTS if start != FIRST_START]
    shares = [f"{start} {first[start]:.0%}, {found[start]:.0%}" for start in STARTS]
    run.claim(
        "A linear start gives the rare large weights more centroids; k-means levels it "
        "out",
        holds=first[FIRST_START] > max(others) + 0.15
        and np.ptp(list(found.values())) < 0.15,
        measured="share of 16 centroids beyond two standard deviations, before and "
        f"after k-means: {', '.join(shares)}",
    )

    accuracies = {start: mean_accuracy(trials, start, FOUR) for start in STARTS}
    run.claim(
        "Not visible with 4 bits here: the paper's gain by the linear start (under a "
        "point)",
        holds=np.ptp(list(accuracies.values())) < 0.01,
        measured=", ".join(f"{start} {each:.4f}" for start, each in accuracies.items()),
    )


def judge_official(trial: Trial, task: Task) -> None:
    """TF Model Optimization on the same trained network."""
    trial.network.set_weights(trial.weights)
    official = compression.cluster(
        trial.network,
        task.x,
        task.y,
        clusters=2**FOUR,
        epochs=task.config.centroid_epochs,
        verbose=0,
    ).model
    ours = trial.accuracies[TRAINED, FOUR]
    theirs = task.accuracy(official)
    task.run.claim(
        "TF Model Optimization's clustering of the same network comes within four "
        "points of it",
        holds=abs(ours - theirs) < 0.04,
        measured=f"test accuracy with 16 values {ours:.4f} here, {theirs:.4f} by TF "
        "Model Optimization (which trains biases as well)",
    )


def draw_accuracies(trials: list[Trial], bits: tuple[int, ...]) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for name, marker in zip((*STARTS, TRAINED), "o^Ds", strict=True):
        accuracies = [mean_accuracy(trials, name, each) for each in bits]
        dashes = "-" if name == TRAINED else "--"
        axes.plot(bits, accuracies, marker=marker, linestyle=dashes, label=name)
    axes.axhline(mean_in_full(trials), color="black", linewidth=1, label="float32")
    axes.set(
        title="How many bits are needed?",
        xlabel="bits a weight",
        ylabel="test accuracy",
    )
    axes.set_xticks(bits)
    axes.legend(title="start of k-means")
    return figure


def draw_centroids(trial: Trial) -> Figure:
    """Where each start puts its centroids, before and after k-means, under the
    weights."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 5), sharex=True, height_ratios=(3, 2)
    )
    top.hist(trial.kernel.ravel(), 120, color="#999999")
    top.set(
        title="Weights of the second kernel, and 16 centroids",
        ylabel="number of weights",
        yscale="log",
    )
    rows = []
    for start in reversed(STARTS):
        color = f"C{STARTS.index(start)}"
        clustered = trial.of_four[start]
        shown = {"at first": clustered.first, "k-means": clustered.found}
        for when, centroids in shown.items():
            height = np.full(len(centroids), -len(rows))
            bottom.plot(centroids, height, "|", markersize=13, mew=2, color=color)
            rows.append(f"{start}, {when}")
    bottom.set_yticks(-np.arange(len(rows)), rows)
    bottom.set(xlabel="weight", ylim=(0.7 - len(rows), 0.7))
    return figure


def main(config: Config, run: Run) -> None:
    run.plan((2 + len(config.bits)) * config.restarts)
    task = load_task(config, run)
    trials = []
    for _ in range(config.restarts):
        trial = train_in_full(task)
        for bits in config.bits:
            share_weights(trial, bits, task)
        trials.append(trial)

    for bits in sorted(config.bits, key=lambda bits: bits != FOUR):  # 4 bits first
        accuracy = mean_accuracy(trials, TRAINED, bits)
        run.metric(f"test_accuracy_{bits}_bits", accuracy)
    run.metric("test_accuracy_float32", mean_in_full(trials))
    run.figure("accuracies", draw_accuracies(trials, config.bits))

    if run.has("--bits", config.bits, 1):
        judge_one_bit(trials, run)
    judge_values(trials, config, run)
    if run.has("--bits", config.bits, FOUR):
        judge_four_bits(trials, run)
        judge_starts(trials, run)
        judge_official(trials[-1], task)
        run.figure("centroids", draw_centroids(trials[-1]))
        trials[-1].network.set_weights(trials[-1].four_bits)
    run.export(serving.classifier(trials[-1].network), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
