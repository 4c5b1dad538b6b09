"""Binary and ternary networks: weights of one or two bits, learned at full precision.

The network computes with Wᵇ = sign(W), or with α·Wᵗ, where Wᵗ is 0 for |W| ≤
0.7·mean|W|, else sign(W), and α the mean of |W| over the rest. Their derivative is 0
nearly everywhere, so the gradient goes straight through to the latent W as if nothing
had been rounded: small steps add up in float32 until a weight flips. BinaryConnect
keeps W within [−H, H], as what lies beyond moves nothing; its stochastic form draws +1
with probability (W/H + 1)/2 at each training step. All matrices are rounded, the first
and the last too; batch normalization stays in float32.
Each kind of network has the learning rate that is best for it on validation images.
Look at what rounding a finished network does instead, at the bytes of the files, which
are packed, read back and run, and at the latent weights before and after.

Lectures: CS Efficient Methods and Hardware (Binary/Ternary Net)
Paper: Courbariaux, Bengio and David, BinaryConnect: training deep neural networks with
    binary weights during propagations, 2015; Li, Zhang and Liu, Ternary weight
    networks, 2016
Tags: binaryconnect, 1-bit, straight-through estimator, ste, quantization, model
    compression
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import MinLen
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer, digits (embedded), mnist where Keras can download or has cached
    it, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    units: tuple[int, ...] = (256, 256)
    """of the hidden layers"""
    restarts: int = 3
    """random starts of each network; accuracies are their means"""
    epochs: int = 30
    """passes over the training images"""
    learning_rates: Annotated[tuple[float, ...], MinLen(1)] = (3e-3, 1e-2, 3e-2)
    """of Adam at the start, to choose from on validation images; they fall to 0 along a
    cosine"""


QUICK = Config(restarts=2, epochs=12, learning_rates=(1e-2,))
FULL = Config(data="mnist", units=(1024, 1024, 1024), epochs=100)
BATCH_SIZE = 64

# --------------------------------------------------------------------------------------
# The idea: compute with rounded weights, learn with the gradient at full precision
# --------------------------------------------------------------------------------------


def binarize(weights):
    """sign(W), where 0 counts as +1 (BinaryConnect, eq. 1)."""
    return ops.where(weights >= 0, 1.0, -1.0)


def reach(shape: tuple[int, int]) -> float:
    """H, which bounds a matrix's latent weights: Glorot's coefficient (BinaryConnect,
    2.5)."""
    return math.sqrt(1.5 / sum(shape))


def binarize_at_random(weights, seed):
    """+1 with probability (W/H + 1)/2 cut to [0, 1], else −1 (BinaryConnect, eq. 2 and
    3)."""
    chance = ops.clip((weights / reach(weights.shape) + 1) / 2, 0, 1)
    drawn = keras.random.uniform(ops.shape(weights), seed=seed)
    return ops.where(drawn < chance, 1.0, -1.0)


def ternarize(weights):
    """α·Wᵗ with the threshold 0.7·mean|W| (Ternary weight networks, section 2)."""
    size = ops.abs(weights)
    kept = ops.cast(size > 0.7 * ops.mean(size), weights.dtype)
    alpha = ops.sum(size * kept) / ops.sum(kept)
    return alpha * kept * ops.sign(weights)


BITS = {"binary": 1, "stochastic": 1, "ternary": 2, "float": 32}
RULES = {
    "binary": binarize,
    "stochastic": binarize,
    "ternary": ternarize,
    "float": ops.copy,
}


@keras.saving.register_keras_serializable("binary_networks")
class Clip(keras.constraints.Constraint):
    """Keeps latent weights within [−H, H] after each step."""

    def __call__(self, weights):
        return ops.clip(weights, -reach(weights.shape), reach(weights.shape))


@keras.saving.register_keras_serializable("binary_networks")
class RoundedDense(layers.Dense):
    """A dense layer whose latent kernel, in float32, is rounded before each use of it.
    scheme: binary, stochastic (binary once it is trained), ternary, or float (not
    rounded)."""

    def __init__(self, units, scheme="float", **options):
        super().__init__(units, **options)
        self.scheme = scheme
        if scheme == "stochastic":
            self.draws = keras.random.SeedGenerator()

    def get_config(self):
        return {**super().get_config(), "scheme": self.scheme}

    def call(self, x, training=False):
        rounded = RULES[self.scheme](self.kernel)
        if self.scheme == "stochastic" and training:
            rounded = binarize_at_random(self.kernel, self.draws)
        # Forward this is exactly `rounded`; backward the gradient goes straight to the
        # kernel.
        nothing = self.kernel - ops.stop_gradient(self.kernel)
        return ops.matmul(x, ops.stop_gradient(rounded) + nothing)


def build_model(
    inputs: int, units: tuple[int, ...], classes: int, scheme: str
) -> keras.Model:
    """Dense layers, each with batch normalization. Output: (batch, classes) logits."""
    options = {"scheme": scheme, "use_bias": False}
    if scheme in ("binary", "stochastic"):
        options["kernel_constraint"] = Clip()
        # Uniform in [−H, H].
        options["kernel_initializer"] = keras.initializers.VarianceScaling(
            0.25, "fan_avg", "uniform"
        )

    images = keras.Input((inputs,), name="x")
    x = images
    for index, width in enumerate(units, start=1):
        x = RoundedDense(width, name=f"dense_{index}", **options)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    x = RoundedDense(classes, **options)(x)
    logits = layers.BatchNormalization(momentum=0.9)(x)
    return keras.Model(images, logits, name=f"{scheme}-{units[0]}")


def run_rounded(
    network: keras.Model, weights: list[np.ndarray], rule, images
) -> keras.Model:
    """Gives a float network weights, its matrices put through `rule`, and takes the
    means and variances of batch normalization anew: those in `weights` may belong to
    other matrices."""
    rounded = [np.asarray(rule(each)) if each.ndim > 1 else each for each in weights]
    network.set_weights(rounded)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    network(images, training=True)
    return network


def pack(weights: list[np.ndarray], bits: int) -> bytes:
    """A model's weights as a file holds them: vectors as float32; of each matrix one
    float32 scale, then a bit for each weight: is it positive? With two bits also: is it
    negative?"""
    parts = []
    for array in weights:
        if array.ndim > 1 and bits < 32:
            scale = np.abs(array).max().astype("<f4")
            planes = [array > 0, array < 0][:bits]
            parts.append(scale.tobytes())
            parts.append(np.packbits(planes).tobytes())
        else:
            parts.append(array.tobytes())
    return b"".join(parts)


def unpack(packed: bytes, shapes: list[tuple[int, ...]], bits: int) -> list[np.ndarray]:
    """What `pack` has put away, for a model whose weights have these shapes."""
    file = io.BytesIO(packed)
    weights = []
    for shape in shapes:
        size = math.prod(shape)
        if len(shape) > 1 and bits < 32:
            array = read_matrix(file, size, bits)
        else:
            array = np.frombuffer(file.read(4 * size), "<f4")
        weights.append(array.reshape(shape))
    return weights


def read_matrix(file: io.BytesIO, size: int, bits: int) -> np.ndarray:
    """A matrix of one or two bits a weight, (size,) in float32."""
    scale = np.frombuffer(file.read(4), "<f4")
    octets = np.frombuffer(file.read(math.ceil(bits * size / 8)), "u1")
    planes = np.unpackbits(octets, count=bits * size).reshape(bits, size)
    positive = planes[0].astype("<f4")
    # Of one bit, what is not positive is negative.
    negative = planes[1].astype("<f4") if bits == 2 else 1 - positive
    return scale * (positive - negative)


# --------------------------------------------------------------------------------------
# The experiment: rounded in training, rounded later, and a float network as small
# --------------------------------------------------------------------------------------

VALIDATION_SHARE = 0.3  # of the training images
SMALL = "float_small"


@dataclass
class Kind:
    """A network that is compared: how it is trained, and what rounds it then."""

    trained_as: str
    rule: Callable
    bits: int


KINDS = {
    "binary": Kind("binary", binarize, 1),
    "stochastic": Kind("stochastic", binarize, 1),
    "ternary": Kind("ternary", ternarize, 2),
    "float": Kind("float", ops.copy, 32),
    "binary_later": Kind("float", binarize, 1),
    "ternary_later": Kind("float", ternarize, 2),
    SMALL: Kind(SMALL, ops.copy, 32),
}


@keras.saving.register_keras_serializable("binary_networks")
class DecayFromPeak(keras.optimizers.schedules.LearningRateSchedule):
    """Along a cosine from a peak, which may be set without tracing anew, to 0."""

    def __init__(self, steps: int):
        self.peak = keras.Variable(0.0, trainable=False)
        self.shape = keras.optimizers.schedules.CosineDecay(1.0, steps)

    def __call__(self, step):
        return self.peak * self.shape(step)

    def get_config(self):
        return {"steps": self.shape.decay_steps}


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    def build(self, scheme: str, shrink: float = 1.0) -> keras.Model:
        units = tuple(max(1, round(shrink * each)) for each in self.config.units)
        return build_model(self.x.shape[1], units, self.classes, scheme)

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training images to train on while rates are chosen, and of
        those to choose by. The latter are the last ones, which other writers wrote, as
        they did the test images. The former are repeated until they are as many as all,
        so that an epoch has as many steps."""
        kept = round((1 - VALIDATION_SHARE) * len(self.x))
        numbers = np.arange(len(self.x))
        return np.resize(numbers[:kept], len(self.x)), numbers[kept:]


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    return Task(x, y, x_test, y_test, classes, config, run)


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.argmax(model(x), axis=1) == y))


class Trainer:
    """Networks of one architecture. One model starts anew each time: to trace another
    takes longer than to train it."""

    def __init__(self, model: keras.Model, task: Task):
        self.task = task
        self.model = model
        steps = task.config.epochs * math.ceil(len(task.x) / BATCH_SIZE)
        self.schedule = DecayFromPeak(steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(self.schedule), loss, metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)

    def train(self, start, rate: float, shown=slice(None)) -> list[np.ndarray]:
        """The weights after a training from `start`, with an optimizer as if new.
        shown: which of the training images."""
        self.model.set_weights(start)
        for variable in self.model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        self.schedule.peak.assign(rate)
        training.fit(
            self.model,
            self.task.x[shown],
            self.task.y[shown],
            epochs=self.task.config.epochs,
            batch_size=BATCH_SIZE,
            callbacks=self.task.run.callbacks,
        )
        return self.model.get_weights()


def build_small(packed_bytes: int, task: Task) -> keras.Model:
    """The narrowest float network that takes as many bytes."""
    for share in np.linspace(0.02, 1, 99):
        model = task.build("float", share)
        if 4 * model.count_params() >= packed_bytes:
            break
    return model


def build_trainers(task: Task) -> dict[str, Trainer]:
    """By what networks are trained as."""
    trainers = {scheme: Trainer(task.build(scheme), task) for scheme in RULES}
    packed = pack(task.build("binary").get_weights(), BITS["binary"])
    trainers[SMALL] = Trainer(build_small(len(packed), task), task)
    return trainers


def fresh_weights(trainer: Trainer) -> list[np.ndarray]:
    return keras.models.clone_model(trainer.model).get_weights()


def finished(kind: Kind, trainer: Trainer, weights, images) -> keras.Model:
    """The network as it is run: its weights rounded, statistics of `images`."""
    if kind.trained_as == SMALL:
        network = keras.models.clone_model(trainer.model)
    else:
        network = trainer.task.build("float")
    return run_rounded(network, weights, kind.rule, images)


def choose_rates(trainers: dict[str, Trainer], task: Task) -> dict[str, float]:
    """Of each kind, by its accuracy on validation images; of equals the lowest."""
    rates = dict.fromkeys(KINDS, task.config.learning_rates[0])
    if len(task.config.learning_rates) == 1:
        return rates

    shown, validation = task.split()
    best = dict.fromkeys(KINDS, 0.0)
    for trained_as, trainer in trainers.items():
        start = fresh_weights(trainer)
        for rate in sorted(task.config.learning_rates):
            weights = trainer.train(start, rate, shown)
            for name, kind in KINDS.items():
                if kind.trained_as != trained_as:
                    continue
                network = finished(kind, trainer, weights, task.x[shown])
                found = accuracy(network, task.x[validation], task.y[validation])
                if found > best[name]:
                    best[name] = found
                    rates[name] = rate
    return rates


@dataclass
class Trained:
    """The networks of one start, as they are run: their weights rounded by now."""

    networks: dict[str, keras.Model]
    latent_first: np.ndarray
    """the binary network's second matrix before training"""
    latent_last: np.ndarray


def train_all(task: Task, trainers: dict[str, Trainer], rates) -> Trained:
    """A network of each kind from a new start, which is the same for all that are
    trained as the same."""
    first = {name: fresh_weights(trainer) for name, trainer in trainers.items()}
    last = {}
    networks = {}
    for name, kind in KINDS.items():
        trainer = trainers[kind.trained_as]
        last[name] = trainer.train(first[kind.trained_as], rates[name])
        networks[name] = finished(kind, trainer, last[name], task.x)
    second = 5  # a matrix and the four vectors of its batch normalization come first
    return Trained(networks, first["binary"][second], last["binary"][second])


@dataclass
class Files:
    """The networks of one start, written in as few bits as they need and read back."""

    sizes: dict[str, int]
    """bytes"""
    vectors: int
    """bytes of biases and of batch normalization, which stay in float32"""
    read_back: dict[str, keras.Model]
    is_same: bool
    """whether all that was read gives what was written gave"""


def write_files(networks: dict[str, keras.Model], task: Task) -> Files:
    sizes = {}
    read_back = {}
    same = []
    for name, network in networks.items():
        bits = KINDS[name].bits
        weights = network.get_weights()
        path = task.run.folder / f"{name}.weights"
        path.write_bytes(pack(weights, bits))
        sizes[name] = path.stat().st_size

        copy = keras.models.clone_model(network)
        copy.set_weights(unpack(path.read_bytes(), [w.shape for w in weights], bits))
        same.append(np.array_equal(copy(task.x_test), network(task.x_test)))
        read_back[name] = copy
    whole = networks["float"].get_weights()
    vectors = sum(each.nbytes for each in whole if each.ndim == 1)
    return Files(sizes, vectors, read_back, all(same))


def judge_training(mean: dict[str, float], run: Run) -> None:
    """mean: test accuracies by name."""
    run.claim(
        "Trained through rounding, one or two bits a weight lose less than two points",
        holds=min(mean["binary"], mean["ternary"]) > mean["float"] - 0.02,
        measured=f"test accuracy float {mean['float']:.4f}, binary "
        f"{mean['binary']:.4f}, signs drawn at random {mean['stochastic']:.4f}, "
        f"ternary {mean['ternary']:.4f}",
    )
    run.claim(
        "Signs taken only after training are half a point and more below signs trained "
        "through",
        holds=mean["binary_later"] < mean["binary"] - 0.005,
        measured=f"binary {mean['binary_later']:.4f} (trained so "
        f"{mean['binary']:.4f}), ternary {mean['ternary_later']:.4f} "
        f"({mean['ternary']:.4f}), batch statistics taken anew",
    )


def judge_bytes(files: Files, run: Run) -> None:
    sizes = files.sizes
    whole = sizes["float"] - files.vectors
    binary = whole / (sizes["binary"] - files.vectors)
    ternary = whole / (sizes["ternary"] - files.vectors)
    run.claim(
        "Matrices take 32 and 16 times fewer bytes; the packed files, read back, run "
        "the same",
        holds=files.is_same and abs(binary - 32) < 0.1 and abs(ternary - 16) < 0.1,
        measured=f"matrices {binary:.2f} and {ternary:.2f} times; files "
        f"{sizes['float']:,}, {sizes['binary']:,}, {sizes['ternary']:,} bytes, "
        f"{files.vectors:,} of them vectors",
    )


def judge_rival(mean: dict[str, float], files: Files, run: Run) -> None:
    run.claim(
        "A float network in as few bytes is less accurate",
        holds=mean["binary"] > mean[SMALL] + 0.005,
        measured=f"binary {mean['binary']:.4f} in {files.sizes['binary']:,} bytes, "
        f"float {mean[SMALL]:.4f} in {files.sizes[SMALL]:,}",
    )


def share_at_the_ends(latent: np.ndarray) -> float:
    """Of weights within 5 % of ±H."""
    return float(np.mean(np.abs(latent) > 0.95 * reach(latent.shape)))


def judge_latent(trained: Trained, run: Run) -> None:
    first = share_at_the_ends(trained.latent_first)
    last = share_at_the_ends(trained.latent_last)
    run.claim(
        "Latent weights are driven to the ends, where no small step flips them",
        holds=last > 2 * first,
        measured=f"within 5 % of ±H: {first:.1%} at first, {last:.1%} trained",
    )


def color_of(name: str) -> str:
    if "float" in name:
        return "#777777"
    return "#D55E00" if "later" in name else "#0072B2"


def draw_findings(
    accuracies: dict[str, list[float]], sizes: dict[str, int], trained: Trained
) -> Figure:
    """Accuracies by start, with the bytes of the files; a matrix's latent weights over
    H."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(3, 2))
    for row, (name, values) in enumerate(accuracies.items()):
        mean = np.mean(values)
        left.barh(row, mean, color=color_of(name))
        left.plot(values, [row] * len(values), "k.", markersize=5)
        text = f"{mean:.1%}, {sizes[name]:,} bytes"
        left.text(0.02, row, text, va="center", c="w")
    left.set(
        title="Rounded in training (blue), later (orange), float (gray)",
        xlabel="test accuracy",
        xlim=(0, 1),
        yticks=range(len(accuracies)),
        yticklabels=[name.replace("_", ", ") for name in accuracies],
    )
    left.invert_yaxis()
    left.grid(axis="y", visible=False)

    shown = {"at first": trained.latent_first, "trained": trained.latent_last}
    for label, kernel in shown.items():
        style = "stepfilled" if label == "at first" else "step"
        share = kernel.ravel() / reach(kernel.shape)
        right.hist(share, 40, alpha=0.8, label=label, histtype=style, linewidth=2)
    right.set(
        title="Latent weights, binary, layer 2",
        xlabel="weight / H",
        ylabel="number of weights",
    )
    right.legend()
    return figure


def main(config: Config, run: Run) -> None:
    tried = len(config.learning_rates) if len(config.learning_rates) > 1 else 0
    run.plan(len(KINDS) * config.restarts + (len(RULES) + 1) * tried)
    task = load_task(config, run)
    trainers = build_trainers(task)
    rates = choose_rates(trainers, task)
    trained = [train_all(task, trainers, rates) for _ in range(config.restarts)]
    files = write_files(trained[-1].networks, task)

    accuracies = {}
    for name in KINDS:
        accuracies[name] = [
            accuracy(each.networks[name], task.x_test, task.y_test) for each in trained
        ]
    mean = {name: float(np.mean(values)) for name, values in accuracies.items()}
    for name in KINDS:
        run.metric(f"{name}_test_accuracy", mean[name])
        run.metric(f"{name}_file", files.sizes[name], unit="bytes")
        run.print(f"{name}: learning rate {rates[name]:g}")

    judge_training(mean, run)
    judge_bytes(files, run)
    judge_rival(mean, files, run)
    judge_latent(trained[-1], run)
    run.figure("findings", draw_findings(accuracies, files.sizes, trained[-1]))
    run.export(serving.classifier(files.read_back["binary"]), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
