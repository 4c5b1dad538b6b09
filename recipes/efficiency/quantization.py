"""Quantization: a network in 8-bit integers, after training or while it trains.

An integer q of b bits stands for the real number x = s·(q − z): the scale s is one
step, the zero point z is the integer that means 0, and q = round(x/s) + z is never
further off than half a step. Weights need no data for their range; that of the
activations is taken from typical inputs (post-training quantization). Each bit less
doubles the step. Where rounding hurts, the network learns to live with it
(quantization-aware training): the forward pass rounds, the backward pass takes the
rounding's slope, 0 almost everywhere, as 1 (the straight-through estimator).
Look at the table (size, what gzip leaves of it, speed, accuracy) and at what 3 and 2
bits do.

Lectures: CS Efficient Methods and Hardware (Quantization)
Paper: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018 (equations 1 and 12; section 3.2 on folding
    batch normalization)
Tags: int8, qat, quantization-aware training, ptq, tflite, litert, model compression,
    tfmot
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import compression, data, serving, training
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

ALL_BITS = (8, 7, 6, 5, 4, 3, 2)


def build_model(input_shape=(8, 8, 1), classes=10) -> keras.Model:
    """A small convolutional network. Input: (batch, height, width, channels) floats in
    [0, 1]. Output: (batch, classes) logits."""
    x = images = keras.Input(input_shape, name="images")
    for index, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(filters, 3, use_bias=False, name=f"conv_{index}")(x)
        x = layers.BatchNormalization(name=f"normalization_{index}")(x)
        x = layers.ReLU(name=f"relu_{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="digits")


def compile_classifier(
    model: keras.Model, learning_rate: float, steps: int
) -> keras.Model:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    return model


def choose_affine(low: float, high: float, bits: int = 8) -> tuple[float, int]:
    """Scale s and zero point z that put [low, high] on the integers −2ᵇ⁻¹ .. 2ᵇ⁻¹ − 1.
    The range is widened to hold 0, which must be exact: zeros pad images and ReLU makes
    many."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-(2 ** (bits - 1)) - low / scale)


def quantize(x: np.ndarray, scale, zero_point: int = 0, bits: int = 8) -> np.ndarray:
    """q = round(x/s) + z, held within b bits; s·(q − z) is about x again."""
    limit = 2 ** (bits - 1)
    return np.clip(np.round(x / scale) + zero_point, -limit, limit - 1).astype("int32")


def fake_quantize(weights, bits: int):
    """Weights rounded to the 2ᵇ − 1 values −m·s .. m·s, m = 2ᵇ⁻¹ − 1, with s = max|w| /
    m, still as floats. The gradient goes straight through, as if nothing had been
    rounded."""
    scale = ops.max(ops.abs(weights)) / (2 ** (bits - 1) - 1)
    rounded = scale * ops.round(weights / scale)
    return weights + ops.stop_gradient(rounded - weights)


class QuantizationAware(keras.Model):
    """Computes, and so trains, a network with rounded kernels; the weights it keeps are
    floats."""

    def __init__(self, network: keras.Model, bits: int) -> None:
        super().__init__(name=f"bits-{bits}")
        self.network, self.bits = network, bits

    def call(self, images):
        weights, fixed = (
            self.network.trainable_variables,
            self.network.non_trainable_variables,
        )
        # Kernels have two axes and more; biases are few and stay as they are.
        weights = [
            fake_quantize(w, self.bits) if len(w.shape) > 1 else w for w in weights
        ]
        return self.network.stateless_call(weights, fixed, images)[0]


def stored_kernel(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The integers of a LiteRT file's kernel of this shape."""
    reader = Interpreter(model_content=content)
    reader.allocate_tensors()
    (index,) = [
        t["index"] for t in reader.get_tensor_details() if tuple(t["shape"]) == shape
    ]
    return reader.get_tensor(index)


def plot_table(rows: dict[str, tuple[int, float]]) -> plt.Figure:
    """Each file's gzip'd size in bytes as a bar, with its accuracy."""
    figure, axes = plt.subplots(figsize=(8.5, 4.2))
    for name, (size, accuracy) in rows.items():
        axes.barh(name, size / 1000, color="#999999" if "Keras" in name else "#0072B2")
        axes.text(
            size / 1000,
            name,
            f" {size / 1000:.0f} kB, {accuracy:.1%} right",
            va="center",
        )
    axes.set(xlabel="gzip'd size in kB", xmargin=0.35)
    axes.set_title(
        "LiteRT (blue); SavedModel (gray), where Keras writes each weight twice"
    )
    axes.invert_yaxis()
    return figure


def plot_bits(
    errors: dict[str, list[float]], accuracies: dict[str, dict]
) -> plt.Figure:
    """Both by the bits of a weight: the kernels' errors, and the accuracies of two ways
    to them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    for name, values in errors.items():
        left.plot(ALL_BITS, [100 * value for value in values], marker="o", label=name)
    left.set(
        title="Each bit less doubles the error",
        yscale="log",
        ylabel="error / spread in %",
    )
    for name, values in accuracies.items():
        right.plot(
            list(values), [100 * v for v in values.values()], marker="o", label=name
        )
    right.set(
        title="Training with the rounding in sight", ylabel="held-out accuracy in %"
    )
    for axes in (left, right):
        axes.set(xlabel="bits of a weight", xlim=(8.3, 1.7))
        axes.legend()
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2 + len(config.tuned_bits))
    (x_train, y_train), (x_test, y_test) = data.load(config.data)
    typical, size = x_train[:200], config.batch_size

    def train(model, epochs, learning_rate):
        compile_classifier(
            model, learning_rate, epochs * math.ceil(len(x_train) / size)
        )
        settings = {"epochs": epochs, "batch_size": size, "callbacks": run.callbacks}
        training.fit(model, x_train, y_train, **settings)
        return model.evaluate(x_test, y_test, verbose=0)[1]

    def copy(model):
        twin = keras.models.clone_model(model)
        twin.set_weights(model.get_weights())
        return twin

    # Every network below starts from these weights and is tuned for as long.
    classes = len(data.class_names(config.data))
    learned = build_model(x_train.shape[1:], classes)
    train(learned, config.epochs, config.learning_rate)
    start = compression.fold(learned)
    tuning = {"epochs": config.tuning_epochs, "learning_rate": config.learning_rate / 4}
    network = copy(start)
    train(network, **tuning)

    # Weights of fewer and fewer bits, rounded afterwards or all along.
    errors, rounded, trained = {}, {}, {}
    for name in ("conv_1", "conv_2", "hidden", "logits"):
        w = network.get_layer(name).kernel.numpy()
        errors[name] = [
            np.std(fake_quantize(w, bits) - w) / np.std(w) for bits in ALL_BITS
        ]
    for bits in ALL_BITS:
        logits = QuantizationAware(network, bits)(x_test)
        rounded[bits] = np.mean(np.argmax(logits, axis=1) == y_test)
    for bits in config.tuned_bits:
        trained[bits] = train(QuantizationAware(copy(start), bits), **tuning)
    ways = {"rounded afterwards": rounded, "rounded while training": trained}
    run.figure("bits", plot_bits(errors, ways))

    # The same network as a file of each kind.
    files: dict = {}
    kinds = ("float32", "float16", "int8", "Keras float32", "Keras int8")
    kinds += config.further_files
    for mode in (each for each in kinds if "Keras" not in each):
        files[mode] = compression.to_litert(network, mode, typical)
    how = {**tuning, "batch_size": size, "verbose": 2}
    compile_classifier(start, config.learning_rate, 1)
    aware = compression.quantize_aware(start, x_train, y_train, **how)
    files["int8 QAT"] = compression.to_litert(aware.tf_keras_model, "int8")
    if config.sparsity:
        pruned = compression.prune(
            start, x_train, y_train, sparsity=config.sparsity, **how
        ).model
        kept = {"preserve_sparsity": True, **how}
        shared = compression.cluster(
            pruned, x_train, y_train, clusters=16, **kept
        ).model
        kept["preserve_clusters"] = True
        small = compression.quantize_aware(shared, x_train, y_train, **kept)
        files["int8 PCQAT"] = compression.to_litert(small.tf_keras_model, "int8")
    for mode in (each[6:] for each in kinds if "Keras" in each):
        twin = copy(network)
        if mode != "float32":  # Keras knows no way to quantize a convolution
            twin.quantize(mode, filters=["hidden", "logits"])
        twin.export(
            run.folder / f"keras-{mode}", format="tf_saved_model", verbose=False
        )
        files[f"Keras {mode}"] = compression.SavedModel(run.folder / f"keras-{mode}")
    measured = compression.benchmark(files, x_test, y_test)
    run.print(compression.table(measured))
    rows = {row.name: row for row in measured}
    run.figure(
        "sizes",
        plot_table({n: (row.gzip_size, row.accuracy) for n, row in rows.items()}),
    )
    for name, row in sorted(rows.items(), key=lambda pair: pair[0] != "int8"):
        key = name.lower().replace(" ", "_")
        run.metric(f"{key}_test_accuracy", row.accuracy)
        if "Keras" not in name:  # a SavedModel's size wanders by a few bytes
            run.metric(f"{key}_bytes", row.size)
            run.metric(f"{key}_gzip_bytes", row.gzip_size)
        run.metric(f"{key}_latency", row.milliseconds, unit="ms", timing=True)

    show = {n: f"{n} {row.size:,} bytes, {row.accuracy:.4f}" for n, row in rows.items()}
    exact, half, eight, qat = (
        rows[n] for n in ("float32", "float16", "int8", "int8 QAT")
    )
    run.claim(
        "Int8 files are nearly 4 times smaller, float16 twice, and lose no point, which leaves "
        "nothing for tuning (QAT) to gain",
        holds=half.size < 0.52 * exact.size
        and eight.size < 0.29 * exact.size
        and min(half.accuracy, eight.accuracy) > exact.accuracy - 0.01
        and exact.accuracy - 0.04 < qat.accuracy < eight.accuracy + 0.015,
        measured="; ".join(
            show[name] for name in ("float32", "float16", "int8", "int8 QAT")
        ),
    )
    kernel = network.get_layer("hidden").kernel.numpy().T
    ours = quantize(kernel, np.abs(kernel).max(axis=1, keepdims=True) / 127)
    equal = np.mean(ours == stored_kernel(files["int8"], kernel.shape))
    given = compression.LiteRTModel(files["int8"]).inputs["images"]
    s, z = choose_affine(typical.min(), typical.max())
    error = np.abs(s * (quantize(x_test, s, z) - z) - x_test).max()
    run.claim(
        "x ≈ s·(q − z) is all there is: the formula finds the file's integers, to half a step",
        holds=equal > 0.999
        and (z, round(s, 5)) == (given.zero_point, round(given.scale, 5))
        and error < 0.501 * s,
        measured=f"{equal:.2%} of {ours.size:,} weights equal; pixels: s {s:.6f}, z {z}, LiteRT "
        f"{given.scale:.6f}, {given.zero_point}; off by {error / s:.3f} s",
    )
    growth = [
        b / a
        for each in errors.values()
        for a, b in zip(each[:4], each[1:5], strict=True)
    ]
    run.claim(
        "From 8 bits to 4, each bit less doubles the error and costs hardly any accuracy",
        holds=min(growth) > 1.7
        and max(growth) < 2.5
        and rounded[4] > exact.accuracy - 0.02,
        measured=f"error × {min(growth):.2f} to {max(growth):.2f}; 4 bits {rounded[4]:.4f}",
    )
    if run.has("--tuned-bits", trained, 2):
        run.claim(
            "2 bits (−s, 0, s) ruin a network, unless it was trained with the rounding in "
            "sight",
            holds=trained[2] > rounded[2] + 0.1 and trained[2] > exact.accuracy - 0.08,
            measured=f"rounded: 3 bits {rounded[3]:.4f}, 2 {rounded[2]:.4f}; trained: "
            f"{trained[2]:.4f}",
        )
    if config.sparsity:
        tiny = rows["int8 PCQAT"]
        run.claim(
            "Pruned and shared among 16 values first, the int8 file zips to about half its size",
            holds=tiny.gzip_size < 0.6 * qat.gzip_size
            and tiny.accuracy > exact.accuracy - 0.02,
            measured=f"{qat.gzip_size:,} and {tiny.gzip_size:,} bytes, {tiny.accuracy:.4f}",
        )
    saved, saved_8 = rows["Keras float32"], rows["Keras int8"]
    run.claim(
        "Keras's own int8 leaves convolutions in 32 bits: it saves less, at the same accuracy",
        holds=saved_8.size / saved.size > 1.2 * eight.size / exact.size
        and saved_8.accuracy > exact.accuracy - 0.015,
        measured="; ".join(text for name, text in show.items() if "Keras" in name),
    )
    run.export(serving.classifier(network), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
