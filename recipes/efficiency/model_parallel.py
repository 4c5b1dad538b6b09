"""Model parallelism: the layers of one large network, spread over several devices.

Each device holds a run of layers (a stage), with their weights, gradients and optimizer
state, and hands its activations on to the next. One batch after the other keeps a
single device busy at a time; so a batch is cut into M micro-batches that follow each
other through the S stages, as on an assembly line. Filling and emptying the line leaves
a device idle for (S − 1)/(M + S − 1) of the time. Gradients of the micro-batches add up
to the batch's: nothing changes but where and when.
Look at the time line of the devices, and at the memory of each.

Lectures: CS Efficient Methods and Hardware (Parallelism)
Paper: Huang et al., GPipe: efficient training of giant neural networks, 2019 (section
    2.3)
Tags: pipeline parallelism, gpipe, micro-batches, distributed training, multi-gpu
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, data, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    stages: int = 4
    """devices, each with its run of layers"""
    micro_batches: int = 8
    """parts of a batch that follow each other through the stages"""
    depth: int = 8
    """hidden layers"""
    units: int = 128
    """width of the hidden layers"""
    epochs: int = 20
    """passes over the training images"""
    batch_size: int = 128
    """examples of a batch, a multiple of micro_batches"""
    learning_rate: float = 0.03
    """of stochastic gradient descent with momentum"""


QUICK = Config(stages=3, depth=6, micro_batches=4, epochs=5)
FULL = Config(data="mnist", depth=16, units=1024, epochs=3)


# --------------------------------------------------------------------------------------
# The idea: stages on devices, and micro-batches that follow each other through them
# --------------------------------------------------------------------------------------


def build_stages(
    inputs: int, units: int, depth: int, devices: list[str], classes: int = 10
) -> list[keras.Model]:
    """A dense classifier as a chain of networks, one on each device.

    The first takes (batch, inputs), the last gives (batch, classes) logits. The hidden
    layers are dealt out evenly; their initial weights do not depend on the devices.
    """
    widths = [inputs, *[units] * depth]
    shares = np.array_split(np.arange(depth), len(devices))
    stages = []
    for number, (device, mine) in enumerate(zip(devices, shares, strict=True)):
        with tf.device(device):
            x = keras.Input((widths[mine[0]],))
            hidden = x
            for index in mine:
                start = keras.initializers.HeNormal(seed=int(index))
                hidden = layers.Dense(units, "relu", kernel_initializer=start)(hidden)
            if number == len(devices) - 1:
                start = keras.initializers.HeNormal(seed=depth)
                hidden = layers.Dense(classes, kernel_initializer=start)(hidden)
            stages.append(keras.Model(x, hidden, name=f"stage_{number + 1}"))
    return stages


class Pipeline:
    """Stages on their devices, each with an optimizer of its own there."""

    def __init__(
        self,
        stages: list[keras.Model],
        devices: list[str],
        optimizers: list[keras.Optimizer],
        micro_batches: int,
    ):
        self.stages = stages
        self.devices = devices
        self.optimizers = optimizers
        self.micro_batches = micro_batches
        self.variables = []
        for stage in stages:
            self.variables.extend(stage.trainable_variables)

    def logits(self, x):
        """A micro-batch (examples, inputs) through all stages. Returns (examples,
        classes)."""
        hidden = x
        for stage, device in zip(self.stages, self.devices, strict=True):
            with tf.device(device):
                hidden = stage(hidden, training=True)
        return hidden

    def gradients(self, x, y):
        """A micro-batch's part of the batch's gradient: forward, and all the way
        back."""
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, self.logits(x))
            loss = tf.reduce_mean(losses) / self.micro_batches
        return tape.gradient(loss, self.variables)

    @tf.function
    def step(self, x, y):
        """One update by one batch.

        There is no schedule in it: TensorFlow starts an operation once its inputs are
        there, so one micro-batch is in the second stage while the next is in the first.
        """
        sums = [0.0] * len(self.variables)
        x_parts = tf.split(x, self.micro_batches)
        y_parts = tf.split(y, self.micro_batches)
        for x_part, y_part in zip(x_parts, y_parts, strict=True):
            gradients = self.gradients(x_part, y_part)
            sums = [total + each for total, each in zip(sums, gradients, strict=True)]
        self.update(sums)

    def update(self, gradients: list) -> None:
        """Each stage by its own optimizer, where it is."""
        first = 0
        for stage, optimizer, device in zip(
            self.stages, self.optimizers, self.devices, strict=True
        ):
            own = stage.trainable_variables
            with tf.device(device):
                optimizer.apply(gradients[first : first + len(own)], own)
            first += len(own)


def build_pipeline(
    inputs: int, devices: list[str], micro_batches: int, setting: dict
) -> Pipeline:
    """setting: units, depth, classes and learning_rate."""
    stages = build_stages(
        inputs, setting["units"], setting["depth"], devices, setting["classes"]
    )
    optimizers = []
    for stage, device in zip(stages, devices, strict=True):
        with tf.device(device):
            optimizer = keras.optimizers.SGD(setting["learning_rate"], momentum=0.9)
            optimizer.build(stage.trainable_variables)
        optimizers.append(optimizer)
    return Pipeline(stages, devices, optimizers, micro_batches)


def time_line(stages: int, micro_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """When each stage may start each micro-batch's forward and backward pass, in units
    of one pass through one stage: two arrays (stages, micro_batches).

    A pass waits for its neighbor's result and for the stage to be free, the forward
    passes come first, and the backward passes of the last micro-batch lead, as in the
    paper's figure 2.
    """
    forward = np.zeros((stages, micro_batches), int)
    backward = np.zeros((stages, micro_batches), int)
    free = np.zeros(stages, int)
    for passes, direction in ((forward, 1), (backward, -1)):
        for part in range(micro_batches)[::direction]:
            ready = 0
            for stage in range(stages)[::direction]:
                start = max(ready, free[stage])
                passes[stage, part] = start
                ready = start + 1
                free[stage] = ready
    return forward, backward


def idle_share(stages: int, micro_batches: int) -> float:
    """The share of the devices' time in which they wait for each other."""
    _, backward = time_line(stages, micro_batches)
    return 1 - 2 * micro_batches / (backward.max() + 1)


# --------------------------------------------------------------------------------------
# The experiment: one device, several, and several with micro-batches
# --------------------------------------------------------------------------------------


@dataclass
class Trained:
    weights: np.ndarray
    """of all stages, one after the other, flat"""
    bytes: np.ndarray
    """of variables (weights and momentum), on each device"""


def bytes_by_device(pipeline: Pipeline) -> np.ndarray:
    held = dict.fromkeys(pipeline.devices, 0)
    for owner in (*pipeline.stages, *pipeline.optimizers):
        for variable in owner.variables:
            device = variable.value.device.rpartition("device:")[2]
            held[device] += int(np.prod(variable.shape)) * variable.value.dtype.size
    return np.array(list(held.values()))


def train(x, y, devices: list[str], micro_batches: int, setting: dict) -> Trained:
    """Trains the classifier on the given devices."""
    pipeline = build_pipeline(x.shape[1], devices, micro_batches, setting)
    random = np.random.default_rng(setting["seed"])
    size = setting["batch_size"]
    for _ in range(setting["epochs"]):
        order = random.permutation(len(x))
        for first in range(0, len(x) - size + 1, size):
            batch = order[first : first + size]
            pipeline.step(tf.constant(x[batch]), tf.constant(y[batch]))

    weights = []
    for stage in pipeline.stages:
        weights.extend(np.ravel(weight) for weight in stage.get_weights())
    return Trained(np.concatenate(weights), bytes_by_device(pipeline))


def train_all(folder: str) -> None:
    """Trains on one device, split over several, and with micro-batches. Devices are
    laid out once a process, which is why this has one of its own."""
    setting = json.loads(Path(folder, "setting.json").read_text())
    stages = setting["stages"]
    # In 32 bits rounding grows, step by step, to the first digit.
    keras.config.set_floatx("float64")
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * stages
    tf.config.set_logical_device_configuration(cpu, logical)

    arrays = np.load(Path(folder, "data.npz"))
    variants = {
        "whole": (1, 1),
        "split": (stages, 1),
        "pipelined": (stages, setting["micro_batches"]),
    }
    for name, (count, parts) in variants.items():
        devices = [f"CPU:{index}" for index in range(count)]
        found = train(arrays["x"], arrays["y"], devices, parts, setting)
        np.savez(Path(folder, f"{name}.npz"), **vars(found))


def train_in_a_process(x, y, setting: dict) -> dict[str, Trained]:
    """What `train_all` found, run in a fresh process: the network whole, split, and
    pipelined."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), x=x, y=y)
        Path(folder, "setting.json").write_text(json.dumps(setting))
        call = f"run_path({__file__!r})['train_all']({folder!r})"
        program = [sys.executable, "-c", f"from runpy import run_path; {call}"]
        finished = subprocess.run(program, stderr=subprocess.PIPE, text=True)
        if finished.returncode:
            raise RuntimeError(f"the process failed:\n{finished.stderr}")
        found = {}
        for name in ("whole", "split", "pipelined"):
            found[name] = Trained(**np.load(Path(folder, f"{name}.npz")))
    return found


def logits_by(flat_weights: np.ndarray, model: keras.Model, x: np.ndarray):
    """What the model says with these weights, (examples, classes); it keeps them."""
    shapes = [weight.shape for weight in model.weights]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    parts = np.split(flat_weights, ends)
    model.set_weights(
        [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    )
    return np.asarray(model(x))


def check(config: Config, examples: int) -> None:
    if config.batch_size > examples:
        raise UsageError(
            f"--batch-size {config.batch_size}: there are {examples} examples to train "
            "on, and a batch is full here"
        )
    if config.batch_size % config.micro_batches:
        raise UsageError(
            f"--batch-size {config.batch_size} does not divide into "
            f"{config.micro_batches} micro-batches of one size"
        )
    if config.stages > config.depth:
        raise UsageError(
            f"--stages {config.stages}: there are only {config.depth} hidden layers to "
            "deal out; take fewer stages or more --depth"
        )


def judge_function(found: dict[str, Trained], logits, y_test, config, run) -> None:
    """logits: of the whole and of the pipelined network."""
    split = found["whole"].weights - found["split"].weights
    difference = float(np.abs(split).max())
    accuracy = float(np.mean(logits["pipelined"].argmax(axis=1) == y_test))
    run.metric("test_accuracy", accuracy)
    run.claim(
        "Layers on several devices compute what one device computes",
        holds=difference < 1e-5 and accuracy > 0.9,
        measured=f"{config.stages} devices: no weight differs by more than "
        f"{difference:.1e} after {config.epochs} epochs; test accuracy {accuracy:.4f}",
    )
    apart = float(np.abs(logits["whole"] - logits["pipelined"]).max())
    reach = float(np.abs(logits["whole"]).max())
    run.claim(
        "Micro-batches add up to the batch: the pipeline learns the same function",
        holds=apart < 1e-4 * reach,
        measured=f"{config.micro_batches} micro-batches: logits of held-out examples "
        f"differ by at most {apart:.1e}, of up to {reach:.0f}",
    )


def judge_memory(found: dict[str, Trained], stages: int, run: Run) -> None:
    largest = int(found["pipelined"].bytes.max())
    total = int(found["whole"].bytes.sum())
    run.metric("most_bytes_on_a_device_of_the_pipeline", largest)
    run.claim(
        "Memory is split with the layers: no device holds much more than its part",
        holds=largest < 1.5 * total / stages,
        measured=f"weights and optimizer state: {total:,} bytes on one device, at most "
        f"{largest:,} on each of {stages}",
    )


def judge_idle(stages: int, micro_batches: int, run: Run) -> None:
    alone = idle_share(stages, 1)
    idle = idle_share(stages, micro_batches)
    expected = (stages - 1) / (micro_batches + stages - 1)
    run.claim(
        "Micro-batches keep the devices busy: on the time line, with passes of equal "
        "length, the idle share falls from (S−1)/S to (S−1)/(M+S−1)",
        any_data=True,
        holds=np.isclose(idle, expected) and np.isclose(alone, (stages - 1) / stages),
        measured=f"{stages} devices: {alone:.0%} idle with one batch at a "
        f"time, {idle:.0%} with {micro_batches} micro-batches",
    )


def draw_time_line(axes: plt.Axes, stages: int, micro_batches: int) -> None:
    """Who works when, in passes of a whole batch through one stage."""
    forward, backward = time_line(stages, micro_batches)
    width = 1 / micro_batches
    shown = (
        ("forward", forward, "#0072B2", ""),
        ("backward", backward, "#E69F00", "//"),
    )
    for name, passes, color, hatch in shown:
        for stage, part in np.ndindex(passes.shape):
            axes.barh(
                stage,
                width,
                left=width * passes[stage, part],
                height=0.9,
                color=color,
                edgecolor="white",
                hatch=hatch,
                label=name if stage == part == 0 else None,
            )
    plural = "" if micro_batches == 1 else "es"
    axes.set(
        title=f"{micro_batches} micro-batch{plural}: "
        f"idle {idle_share(stages, micro_batches):.0%}",
        xlabel="time, in passes of a batch",
        xlim=(0, 2 * stages),
        yticks=range(stages),
        yticklabels=[f"device {stage + 1}" for stage in range(stages)],
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def draw_pipeline(found: dict[str, Trained], config: Config) -> Figure:
    """The devices' time lines, and what each holds."""
    figure, (alone, line, memory) = plt.subplots(
        1, 3, figsize=(12, 4), width_ratios=(3, 3, 2)
    )
    draw_time_line(alone, config.stages, 1)
    draw_time_line(line, config.stages, config.micro_batches)
    alone.legend(loc="upper center")

    devices = [f"{stage + 1}" for stage in range(config.stages)]
    memory.bar(devices, found["pipelined"].bytes / 1000, color="#009E73")
    memory.axhline(
        found["whole"].bytes.sum() / 1000,
        color="black",
        linestyle=":",
        label="all on one device",
    )
    memory.set(title="Memory", xlabel="device", ylabel="kB of variables")
    memory.margins(y=0.2)
    memory.legend(loc="upper center")
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    check(config, len(x_train))
    setting = {**vars(config), "seed": run.seed, "classes": classes}
    found = train_in_a_process(x_train.astype("float64"), y_train, setting)

    inputs = x_train.shape[1]
    (model,) = build_stages(inputs, config.units, config.depth, ["CPU:0"], classes)
    logits = {}
    for name in ("whole", "pipelined"):
        logits[name] = logits_by(found[name].weights, model, x_test)

    judge_function(found, logits, y_test, config, run)
    judge_memory(found, config.stages, run)
    judge_idle(config.stages, config.micro_batches, run)
    run.figure("pipeline", draw_pipeline(found, config))
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
