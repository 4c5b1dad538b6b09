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


def build_stages(
    inputs: int, units: int, depth: int, devices: list[str], classes: int = 10
) -> list[keras.Model]:
    """A dense classifier as a chain of networks, one on each device.

    The first takes (batch, inputs), the last gives (batch, classes) logits. The hidden
    layers are dealt out evenly; their initial weights do not depend on the devices.
    """
    widths = [inputs, *[units] * depth]
    stages = []
    for number, mine in enumerate(np.array_split(np.arange(depth), len(devices))):
        with tf.device(devices[number]):
            x = hidden = keras.Input((widths[mine[0]],))
            for index in mine:
                start = keras.initializers.HeNormal(seed=int(index))
                hidden = layers.Dense(units, "relu", kernel_initializer=start)(hidden)
            if number == len(devices) - 1:
                start = keras.initializers.HeNormal(seed=depth)
                hidden = layers.Dense(classes, kernel_initializer=start)(hidden)
            stages.append(keras.Model(x, hidden, name=f"stage_{number + 1}"))
    return stages


def make_step(
    stages: list[keras.Model], devices: list[str], optimizers: list, micro_batches: int
):
    """A training step: each micro-batch through all stages, forward and back, then one
    update.

    There is no schedule in it: TensorFlow starts an operation once its inputs are
    there, so one micro-batch is in the second stage while the next is in the first.
    """
    variables = [variable for stage in stages for variable in stage.trainable_variables]

    @tf.function
    def step(x, y):
        sums = [0.0] * len(variables)
        parts = zip(tf.split(x, micro_batches), tf.split(y, micro_batches), strict=True)
        for x_part, y_part in parts:
            with tf.GradientTape() as tape:
                hidden = x_part
                for stage, device in zip(stages, devices, strict=True):
                    with tf.device(device):
                        hidden = stage(hidden, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y_part, hidden)
                loss = tf.reduce_mean(losses) / micro_batches
            gradients = tape.gradient(loss, variables)
            sums = [total + each for total, each in zip(sums, gradients, strict=True)]
        for stage, optimizer, device in zip(stages, optimizers, devices, strict=True):
            own = stage.trainable_variables
            mine, sums = sums[: len(own)], sums[len(own) :]
            with tf.device(device):
                optimizer.apply_gradients(zip(mine, own, strict=True))

    return step


def train(
    x, y, devices: list[str], micro_batches: int, setting: dict
) -> dict[str, np.ndarray]:
    """Trains the classifier on the given devices. Returns its weights, and the bytes of
    variables (weights and momentum) on each device."""
    stages = build_stages(
        x.shape[1], setting["units"], setting["depth"], devices, setting["classes"]
    )
    optimizers = []
    for stage, device in zip(stages, devices, strict=True):
        with tf.device(device):
            optimizers.append(
                keras.optimizers.SGD(setting["learning_rate"], momentum=0.9)
            )
            optimizers[-1].build(stage.trainable_variables)
    step = make_step(stages, devices, optimizers, micro_batches)
    random = np.random.default_rng(setting["seed"])
    for _ in range(setting["epochs"]):
        order = random.permutation(len(x))
        for first in range(
            0, len(x) - setting["batch_size"] + 1, setting["batch_size"]
        ):
            batch = order[first : first + setting["batch_size"]]
            step(tf.constant(x[batch]), tf.constant(y[batch]))
    held = dict.fromkeys(devices, 0)
    for owner in (*stages, *optimizers):
        for variable in owner.variables:
            device = variable.value.device.rpartition("device:")[2]
            held[device] += int(np.prod(variable.shape)) * variable.value.dtype.size
    weights = np.concatenate(
        [np.ravel(w) for stage in stages for w in stage.get_weights()]
    )
    return {"weights": weights, "bytes": np.array(list(held.values()))}


def train_all(folder: str) -> None:
    """Trains on one device, split over several, and with micro-batches. Devices are
    laid out once a process, which is why this has one of its own."""
    setting = json.loads(Path(folder, "setting.json").read_text())
    stages, micro_batches = setting["stages"], setting["micro_batches"]
    keras.config.set_floatx(
        "float64"
    )  # in 32 bits rounding grows, step by step, to the first digit
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * stages
    tf.config.set_logical_device_configuration(cpu, logical)
    arrays = np.load(Path(folder, "data.npz"))
    variants = {
        "whole": (1, 1),
        "split": (stages, 1),
        "pipelined": (stages, micro_batches),
    }
    for name, (count, parts) in variants.items():
        devices = [f"CPU:{index}" for index in range(count)]
        found = train(arrays["x"], arrays["y"], devices, parts, setting)
        np.savez(Path(folder, f"{name}.npz"), **found)


def train_in_a_process(x, y, setting: dict) -> list[dict[str, np.ndarray]]:
    """What `train_all` found, run in a fresh process: on one device, split, with
    micro-batches."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), x=x, y=y)
        Path(folder, "setting.json").write_text(json.dumps(setting))
        call = f"run_path({__file__!r})['train_all']({folder!r})"
        program = [sys.executable, "-c", f"from runpy import run_path; {call}"]
        finished = subprocess.run(program, stderr=subprocess.PIPE, text=True)
        if finished.returncode:
            raise RuntimeError(f"the process failed:\n{finished.stderr}")
        names = ("whole", "split", "pipelined")
        return [dict(np.load(Path(folder, f"{name}.npz"))) for name in names]


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
                passes[stage, part] = max(ready, free[stage])
                ready = free[stage] = passes[stage, part] + 1
    return forward, backward


def idle_share(stages: int, micro_batches: int) -> float:
    """The share of the devices' time in which they wait for each other."""
    return 1 - 2 * micro_batches / (time_line(stages, micro_batches)[1].max() + 1)


def plot_time_lines(
    stages: int, micro_batches: int, kilobytes: np.ndarray
) -> plt.Figure:
    """Who works when, and what each device holds; kilobytes: of one device, then of
    each."""
    figure, (alone, line, memory) = plt.subplots(
        1, 3, figsize=(11, 3.6), width_ratios=(3, 4, 2)
    )
    for axes, parts in ((alone, 1), (line, micro_batches)):
        for passes, color in zip(
            time_line(stages, parts), ("#0072B2", "#E69F00"), strict=True
        ):
            for stage, part in np.ndindex(passes.shape):
                left, width = passes[stage, part] / parts, 1 / parts
                axes.barh(
                    stage, width, left=left, color=color, edgecolor="white", height=0.9
                )
        idle = idle_share(stages, parts)
        axes.set(
            yticks=range(stages), yticklabels=[f"device {i + 1}" for i in range(stages)]
        )
        axes.set(xlim=(0, 2 * stages), xlabel="time, in passes of a batch")
        axes.set_title(f"{parts} micro-batch{'es' * (parts > 1)}: idle {idle:.0%}")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    memory.bar([f"{i + 1}" for i in range(stages)], kilobytes[1:], color="#009E73")
    memory.axhline(kilobytes[0], color="black", linestyle=":")
    memory.set(
        xlabel="device", ylabel="kB of variables", title="Memory (dotted: one device)"
    )
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    if config.batch_size > len(x_train):
        raise UsageError(
            f"--batch-size {config.batch_size}: there are {len(x_train)} examples to "
            "train on, and a batch is full here"
        )
    setting = {**vars(config), "seed": run.seed, "classes": classes}
    whole, split, pipelined = train_in_a_process(
        x_train.astype("float64"), y_train, setting
    )

    (model,) = build_stages(
        x_train.shape[1], config.units, config.depth, ["CPU:0"], classes
    )
    shapes = [weight.shape for weight in model.weights]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    logits = []
    for each in (whole, pipelined):
        parts = zip(np.split(each["weights"], ends), shapes, strict=True)
        model.set_weights([part.reshape(shape) for part, shape in parts])
        logits.append(np.asarray(model(x_test)))
    accuracy = float(np.mean(logits[1].argmax(axis=1) == y_test))
    differences = (
        whole["weights"] - split["weights"],
        logits[0] - logits[1],
        logits[0],
    )
    difference, apart, reach = (float(np.abs(each).max()) for each in differences)
    idle, idle_alone = (idle_share(config.stages, n) for n in (config.micro_batches, 1))
    largest, total = int(pipelined["bytes"].max()), int(whole["bytes"].sum())
    run.metric("test_accuracy", accuracy)
    run.metric("most_bytes_on_a_device_of_the_pipeline", largest)
    kilobytes = np.array([total, *pipelined["bytes"]]) / 1000
    run.figure(
        "pipeline", plot_time_lines(config.stages, config.micro_batches, kilobytes)
    )

    run.claim(
        "Layers on several devices compute what one device computes",
        holds=difference < 1e-5 and accuracy > 0.9,
        measured=f"{config.stages} devices: no weight differs by more than {difference:.1e} after "
        f"{config.epochs} epochs; test accuracy {accuracy:.4f}",
    )
    run.claim(
        "Micro-batches add up to the batch: the pipeline learns the same function",
        holds=apart < 1e-4 * reach,
        measured=f"{config.micro_batches} micro-batches: logits of held-out examples differ by at "
        f"most {apart:.1e}, of up to {reach:.0f}",
    )
    run.claim(
        "Memory is split with the layers: no device holds much more than its part",
        holds=largest < 1.5 * total / config.stages,
        measured=f"weights and optimizer state: {total:,} bytes on one device, at most {largest:,} "
        f"on each of {config.stages}",
    )
    run.claim(
        "Micro-batches keep the devices busy: the idle share falls from (S−1)/S to (S−1)/(M+S−1)",
        any_data=True,
        holds=np.isclose(
            idle, (config.stages - 1) / (config.micro_batches + config.stages - 1)
        )
        and np.isclose(idle_alone, (config.stages - 1) / config.stages),
        measured=f"time line of {config.stages} devices: {idle_alone:.0%} idle with one batch at a "
        f"time, {idle:.0%} with {config.micro_batches} micro-batches",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
