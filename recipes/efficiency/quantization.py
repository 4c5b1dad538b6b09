"""Quantization: a network in 8-bit integers, after training or while it trains.

An integer q of b bits stands for the real number x = s·(q − z): the scale s is one
step, the zero point z is the integer that means 0, and q = round(x/s) + z is never
further off than half a step. Weights need no data for their range; that of the
activations is taken from typical inputs (post-training quantization). Each bit less
doubles the step. Where rounding hurts, the network learns to live with it
(quantization-aware training): the forward pass rounds, the backward pass takes the
rounding's slope, 0 almost everywhere, as 1 (the straight-through estimator).
Look at the table (size, what gzip leaves of it, speed, accuracy) and at what 3 and 2
bits do, by three ways to them.

Lectures: CS Efficient Methods and Hardware (Quantization)
Paper: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018 (equations 1 and 12; section 3.2 on folding
    batch normalization)
Tags: int8, qat, quantization-aware training, ptq, tflite, litert, model compression,
    tfmot
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import compression, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own images: a folder with one subfolder a class, or an .npz file"""
    epochs: int = 20
    """passes over the training images in 32 bits"""
    tuning_epochs: int = 6
    """passes after that for every network: in 32 bits, or aware of the rounding"""
    tuned_bits: tuple[Annotated[int, Interval(ge=2, le=8)], ...] = (4, 3, 2)
    """of the networks that are tuned aware of the rounding; 2 is needed"""
    further_files: tuple[str, ...] = ("dynamic", "Keras int4")
    """kinds of files beside those that are compared"""
    batch_size: int = 32
    """examples a gradient is averaged over"""
    learning_rate: float = 2e-3
    """of Adam at the start; it falls to 0 along a cosine, and tuning starts at a
    quarter"""
    sparsity: Annotated[float, Interval(ge=0, lt=1)] = 0.7
    """share of weights to prune before they are shared and quantized (PCQAT); 0 leaves
    this out"""


QUICK = Config(
    epochs=8,
    tuning_epochs=3,
    tuned_bits=(2,),
    further_files=(),
    batch_size=64,
    sparsity=0.0,
)
FULL = Config(data="mnist", epochs=10)

# --------------------------------------------------------------------------------------
# The idea: real numbers as integers, and learning with the rounding in sight
# --------------------------------------------------------------------------------------


def choose_affine(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale s and zero point z that put [low, high] on the integers −2ᵇ⁻¹ .. 2ᵇ⁻¹ − 1.
    The range is widened to hold 0, which must be exact: zeros pad images and ReLU makes
    many."""
    low = min(low, 0.0)
    high = max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-(2 ** (bits - 1)) - low / scale)


def quantize(x: np.ndarray, scale, zero_point: int = 0, bits: int = 8) -> np.ndarray:
    """q = round(x/s) + z, held within b bits; s·(q − z) is about x again."""
    limit = 2 ** (bits - 1)
    return np.clip(np.round(x / scale) + zero_point, -limit, limit - 1).astype("int32")


def largest_step(bits: int) -> int:
    """m = 2ᵇ⁻¹ − 1: weights are rounded to −m·s .. m·s, so that 0 is in the middle."""
    return 2 ** (bits - 1) - 1


def round_to(weights, scale, bits: int):
    """s·round(w/s), held within −m·s .. m·s."""
    limit = largest_step(bits)
    return scale * ops.clip(ops.round(weights / scale), -limit, limit)


def scale_of_largest(weights, bits: int):
    """s = max|w| / m, which cuts no weight off."""
    reach = ops.max(ops.abs(weights))
    # Weights that are all 0 have no range.
    return ops.maximum(reach, keras.config.epsilon()) / largest_step(bits)


def scale_of_least_squares(weights, bits: int):
    """The s whose rounded weights have the smallest squared error, among 100 up to that
    of the largest weight: it cuts the largest off and has smaller steps for the many
    others."""
    scales = scale_of_largest(weights, bits) * ops.linspace(0.01, 1.0, 100)
    errors = [
        ops.sum(ops.square(weights - round_to(weights, scale, bits)))
        for scale in scales
    ]
    return scales[int(ops.argmin(ops.stack(errors)))]


def fake_quantize(weights, bits: int):
    """Weights rounded to b bits, still as floats. The gradient goes straight through, as
    if nothing had been rounded."""
    rounded = round_to(weights, scale_of_largest(weights, bits), bits)
    return weights + ops.stop_gradient(rounded - weights)


def is_kernel(weight) -> bool:
    """Kernels have two axes and more; biases are few and stay as they are."""
    return len(weight.shape) > 1


class QuantizationAware(keras.Model):
    """Computes, and so trains, a network with rounded kernels; the weights it keeps are
    floats."""

    def __init__(self, network: keras.Model, bits: int) -> None:
        super().__init__(name=f"bits-{bits}")
        self.network = network
        self.bits = bits

    def call(self, images):
        weights = [
            fake_quantize(weight, self.bits) if is_kernel(weight) else weight
            for weight in self.network.trainable_variables
        ]
        fixed = self.network.non_trainable_variables
        outputs, _ = self.network.stateless_call(weights, fixed, images)
        return outputs


def build_model(input_shape=(8, 8, 1), classes=10) -> keras.Model:
    """A small convolutional network. Input: (batch, height, width, channels) floats in
    [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input(input_shape, name="images")
    hidden = images
    for index, filters in enumerate((32, 64), start=1):
        name = f"conv_{index}"
        hidden = layers.Conv2D(filters, 3, use_bias=False, name=name)(hidden)
        hidden = layers.BatchNormalization(name=f"normalization_{index}")(hidden)
        hidden = layers.ReLU(name=f"relu_{index}")(hidden)
    hidden = layers.Flatten(name="flatten")(hidden)
    hidden = layers.Dense(64, activation="relu", name="hidden")(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(images, logits, name="digits")


def compile_classifier(
    model: keras.Model, learning_rate: float, steps: int
) -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    return model


def copy_of(network: keras.Model) -> keras.Model:
    """The same architecture with the same weights, which are its own."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def round_kernels(network: keras.Model, bits: int, scale_of: Callable) -> keras.Model:
    """A copy whose kernels are rounded, after training. scale_of: (weights, bits) to s."""
    rounded = copy_of(network)
    for weight in rounded.trainable_variables:
        if is_kernel(weight):
            scale = scale_of(weight, bits)
            weight.assign(round_to(weight, scale, bits))
    return rounded


# --------------------------------------------------------------------------------------
# The experiment: fewer and fewer bits, and files of every kind
# --------------------------------------------------------------------------------------

ALL_BITS = (8, 7, 6, 5, 4, 3, 2)
KERNELS = ("conv_1", "conv_2", "hidden", "logits")
FILES = ("float32", "float16", "int8", "Keras float32", "Keras int8")
TYPICAL = 200  # images that tell the range of activations
SCALES = {
    "rounded, scale of the largest weight": scale_of_largest,
    "rounded, scale of least squares": scale_of_least_squares,
}


@dataclass
class Task:
    """Images and labels, and how long a network is tuned on them."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    config: Config
    run: Run

    @property
    def tuning(self) -> dict:
        """What compression's trainings are told."""
        return {
            "epochs": self.config.tuning_epochs,
            "learning_rate": self.config.learning_rate / 4,
            "batch_size": self.config.batch_size,
            "verbose": 2,
        }

    def train(self, model: keras.Model, epochs: int, learning_rate: float) -> float:
        """Returns the accuracy on held-out images."""
        steps = epochs * math.ceil(len(self.x) / self.config.batch_size)
        compile_classifier(model, learning_rate, steps)
        training.fit(
            model,
            self.x,
            self.y,
            epochs=epochs,
            batch_size=self.config.batch_size,
            callbacks=self.run.callbacks,
        )
        return model.evaluate(self.x_test, self.y_test, verbose=0)[1]

    def tune(self, model: keras.Model) -> float:
        """As long as every other network."""
        rate = self.config.learning_rate / 4
        return self.train(model, self.config.tuning_epochs, rate)

    def accuracy(self, model: keras.Model) -> float:
        logits = np.asarray(model(self.x_test))
        return float(np.mean(logits.argmax(axis=1) == self.y_test))


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load(config.data)
    return Task(x, y, x_test, y_test, config, run)


def relative_errors(network: keras.Model) -> dict[str, list[float]]:
    """Of each kernel, by bits: the error's deviation over the weights'."""
    errors = {}
    for name in KERNELS:
        kernel = network.get_layer(name).kernel.numpy()
        errors[name] = [
            float(np.std(fake_quantize(kernel, bits) - kernel) / np.std(kernel))
            for bits in ALL_BITS
        ]
    return errors


def round_and_train(
    network: keras.Model, start: keras.Model, task: Task
) -> dict[str, dict[int, float]]:
    """Accuracies by way and bits: the tuned network rounded afterwards, or tuned with
    the rounding in sight from the same start."""
    accuracies = {}
    for name, scale_of in SCALES.items():
        accuracies[name] = {
            bits: task.accuracy(round_kernels(network, bits, scale_of))
            for bits in ALL_BITS
        }
    accuracies["rounded while training"] = {
        bits: task.tune(QuantizationAware(copy_of(start), bits))
        for bits in task.config.tuned_bits
    }
    return accuracies


def write_files(network: keras.Model, start: keras.Model, task: Task) -> dict:
    """The network as a file of each kind, by name."""
    kinds = (*FILES, *task.config.further_files)
    files: dict = {}
    for kind in kinds:
        if not kind.startswith("Keras"):
            files[kind] = compression.to_litert(network, kind, task.x[:TYPICAL])

    compile_classifier(start, task.config.learning_rate, 1)
    aware = compression.quantize_aware(start, task.x, task.y, **task.tuning)
    files["int8 QAT"] = compression.to_litert(aware.tf_keras_model, "int8")
    if task.config.sparsity:
        files["int8 PCQAT"] = prune_share_and_quantize(start, task)

    for kind in kinds:
        if kind.startswith("Keras"):
            files[kind] = save_by_keras(network, kind, task)
    return files


def prune_share_and_quantize(start: keras.Model, task: Task) -> bytes:
    """A LiteRT file of 8-bit weights, most of them 0 and the others one of 16 values."""
    pruned = compression.prune(
        start, task.x, task.y, sparsity=task.config.sparsity, **task.tuning
    )
    shared = compression.cluster(
        pruned.model,
        task.x,
        task.y,
        clusters=16,
        preserve_sparsity=True,
        **task.tuning,
    )
    small = compression.quantize_aware(
        shared.model,
        task.x,
        task.y,
        preserve_sparsity=True,
        preserve_clusters=True,
        **task.tuning,
    )
    return compression.to_litert(small.tf_keras_model, "int8")


def save_by_keras(network: keras.Model, kind: str, task: Task):
    """A SavedModel of Keras's own quantization."""
    mode = kind.removeprefix("Keras ")
    copy = copy_of(network)
    if mode != "float32":  # Keras knows no way to quantize a convolution
        copy.quantize(mode, filters=["hidden", "logits"])
    folder = task.run.folder / f"keras-{mode}"
    copy.export(folder, format="tf_saved_model", verbose=False)
    return compression.SavedModel(folder)


def stored_kernel(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The integers of a LiteRT file's kernel of this shape."""
    reader = Interpreter(model_content=content)
    reader.allocate_tensors()
    (index,) = [
        tensor["index"]
        for tensor in reader.get_tensor_details()
        if tuple(tensor["shape"]) == shape
    ]
    return reader.get_tensor(index)


def record_files(rows: dict, run: Run) -> None:
    for name in sorted(rows, key=lambda each: each != "int8"):
        row = rows[name]
        key = name.lower().replace(" ", "_")
        run.metric(f"{key}_test_accuracy", row.accuracy)
        if "Keras" not in name:  # a SavedModel's size wanders by a few bytes
            run.metric(f"{key}_bytes", row.size)
            run.metric(f"{key}_gzip_bytes", row.gzip_size)
        run.metric(f"{key}_latency", row.milliseconds, unit="ms", timing=True)


def in_words(rows: dict, names) -> str:
    return "; ".join(
        f"{name} {rows[name].size:,} bytes, {rows[name].accuracy:.4f}" for name in names
    )


def judge_sizes(rows: dict, run: Run) -> None:
    exact = rows["float32"]
    half = rows["float16"]
    eight = rows["int8"]
    aware = rows["int8 QAT"]
    run.claim(
        "Int8 files are nearly 4 times smaller, float16 twice, at the same accuracy, "
        "which leaves nothing for quantization-aware training to gain",
        holds=half.size < 0.52 * exact.size
        and eight.size < 0.29 * exact.size
        and min(half.accuracy, eight.accuracy) > exact.accuracy - 0.01
        and exact.accuracy - 0.04 < aware.accuracy < eight.accuracy + 0.015,
        measured=in_words(rows, ("float32", "float16", "int8", "int8 QAT")),
    )


def judge_formula(network: keras.Model, content: bytes, task: Task) -> None:
    """content: the int8 file."""
    kernel = network.get_layer("hidden").kernel.numpy().T
    scales = np.abs(kernel).max(axis=1, keepdims=True) / largest_step(8)
    ours = quantize(kernel, scales)
    equal = np.mean(ours == stored_kernel(content, kernel.shape))

    given = compression.LiteRTModel(content).inputs["images"]
    typical = task.x[:TYPICAL]
    scale, zero_point = choose_affine(typical.min(), typical.max())
    again = scale * (quantize(task.x_test, scale, zero_point) - zero_point)
    error = np.abs(again - task.x_test).max()
    task.run.claim(
        "x ≈ s·(q − z) is all there is: the formula finds the file's integers, and is at "
        "most half a step off",
        holds=equal > 0.999
        and zero_point == given.zero_point
        and round(scale, 5) == round(given.scale, 5)
        and error < 0.501 * scale,
        measured=f"{equal:.2%} of {ours.size:,} weights equal; pixels: s {scale:.6f}, z "
        f"{zero_point}, LiteRT {given.scale:.6f}, {given.zero_point}; off by "
        f"{error / scale:.3f} s",
    )


def judge_bits(errors: dict[str, list[float]], accuracies, exact: float, run) -> None:
    """exact: the accuracy in 32 bits."""
    growth = [
        after / before
        for each in errors.values()
        for before, after in zip(each[:4], each[1:5], strict=True)
    ]
    by_largest, by_least_squares = [accuracies[name] for name in SCALES]
    run.claim(
        "From 8 bits to 4, each bit less doubles the error and costs hardly any accuracy",
        holds=min(growth) > 1.7 and max(growth) < 2.5 and by_largest[4] > exact - 0.02,
        measured=f"error × {min(growth):.2f} to {max(growth):.2f}; accuracy in 4 bits "
        f"{by_largest[4]:.4f}, in 32 {exact:.4f}",
    )
    trained = accuracies["rounded while training"]
    if not run.has("--tuned-bits", trained, 2):
        return
    lost = exact - by_largest[2]
    run.claim(
        "2 bits (−s, 0, s) with s of the largest weight ruin a network; training with "
        "the rounding in sight brings back more than half of what was lost, and so does "
        "the s of least squares without any training",
        holds=lost > 0.1
        and by_least_squares[2] > by_largest[2] + lost / 2
        and trained[2] > by_largest[2] + lost / 2,
        measured=f"32 bits {exact:.4f}; 2 bits by the largest weight "
        f"{by_largest[2]:.4f}, by least squares {by_least_squares[2]:.4f}, trained "
        f"{trained[2]:.4f}",
    )


def judge_pruned(rows: dict, run: Run) -> None:
    aware = rows["int8 QAT"]
    tiny = rows["int8 PCQAT"]
    run.claim(
        "Pruned and shared among 16 values first, the int8 file zips to about half its "
        "size",
        holds=tiny.gzip_size < 0.6 * aware.gzip_size
        and tiny.accuracy > rows["float32"].accuracy - 0.02,
        measured=f"{aware.gzip_size:,} and {tiny.gzip_size:,} bytes, accuracy "
        f"{tiny.accuracy:.4f}",
    )


def judge_keras(rows: dict, run: Run) -> None:
    saved = rows["Keras int8"].size / rows["Keras float32"].size
    litert = rows["int8"].size / rows["float32"].size
    accuracy = rows["Keras int8"].accuracy
    run.claim(
        "Keras's own int8 leaves convolutions in 32 bits: it saves less, at the same "
        "accuracy",
        holds=saved > 1.2 * litert and accuracy > rows["float32"].accuracy - 0.015,
        measured=in_words(rows, [name for name in rows if "Keras" in name]),
    )


def draw_sizes(rows: dict) -> Figure:
    bars = {
        f"{name}, accuracy {row.accuracy:.1%}": row.gzip_size / 1000
        for name, row in rows.items()
    }
    sizes = figures.Panel(
        title="LiteRT files, and Keras's SavedModels, which hold each weight twice",
        xlabel="gzip'd size in kB",
        bars=bars,
    )
    return figures.panels(sizes)


def draw_bits(errors: dict[str, list[float]], accuracies) -> Figure:
    by_bits = figures.Panel(
        title="Each bit less doubles the error",
        xlabel="bits of a weight",
        ylabel="error's deviation over the weights'",
        lines={name: (ALL_BITS, values) for name, values in errors.items()},
        xlim=(8.3, 1.7),
        yscale="log",
    )
    ways = figures.Panel(
        title="Three ways to few bits",
        xlabel="bits of a weight",
        ylabel="held-out accuracy",
        lines={
            name: (list(found), list(found.values()))
            for name, found in accuracies.items()
        },
        xlim=(8.3, 1.7),
    )
    return figures.panels(by_bits, ways)


def main(config: Config, run: Run) -> None:
    run.plan(2 + len(config.tuned_bits))
    task = load_task(config, run)

    # Every network below starts from these weights and is tuned for as long.
    classes = len(data.class_names(config.data))
    learned = build_model(task.x.shape[1:], classes)
    task.train(learned, config.epochs, config.learning_rate)
    start = compression.fold(learned)
    network = copy_of(start)
    task.tune(network)

    errors = relative_errors(network)
    accuracies = round_and_train(network, start, task)
    run.figure("bits", draw_bits(errors, accuracies))

    files = write_files(network, start, task)
    measured = compression.benchmark(files, task.x_test, task.y_test)
    run.print(compression.table(measured))
    rows = {row.name: row for row in measured}
    run.figure("sizes", draw_sizes(rows))
    record_files(rows, run)

    judge_sizes(rows, run)
    judge_formula(network, files["int8"], task)
    judge_bits(errors, accuracies, rows["float32"].accuracy, run)
    if config.sparsity:
        judge_pruned(rows, run)
    judge_keras(rows, run)
    run.export(serving.classifier(network), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
