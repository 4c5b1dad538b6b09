"""Data parallelism: the same network on many devices, each with its share of the batch.

The gradient of a batch is a mean over its examples, ∇L = (1/n) Σ ∇lᵢ, so it may be
summed in any
order: each replica adds up its slice, one all-reduce adds up the replicas, and all take
the same step. At the same global batch nothing changes but the time. Two things break
that: a batch that does not divide evenly, where the mean of the replicas' means is not
the mean over the examples; and a layer that looks at its slice alone, as ordinary batch
normalization does.
Look at the differences from one device, on a logarithmic axis; and at the scaling
table: logical CPUs share the cores of one machine, so here it shows what replicas cost,
not what they gain.

Lectures: CS Efficient Methods and Hardware (Parallelism)
Paper: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017
    (section 2.3)
Tags: distributed training, multi-gpu, tpu, mirroredstrategy, all-reduce, scaling
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import MinLen
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
    replicas: Annotated[tuple[int, ...], MinLen(2)] = (1, 2, 4)
    """numbers of logical CPUs to compare; the first is the reference"""
    workers: int = 2
    """processes of the cluster on this machine"""
    epochs: int = 12
    """passes over the training images"""
    batch_size: int = 128
    """examples of the global batch, shared out among all replicas"""
    learning_rate: float = 0.1
    """of stochastic gradient descent with momentum"""
    units: int = 256
    """width of the hidden layers"""


QUICK = Config(replicas=(1, 2), epochs=3)
FULL = Config(data="mnist", epochs=5)


def build_model(
    inputs: int, units: int, normalization: str = "none", classes: int = 10
) -> keras.Model:
    """A dense classifier. Input: (batch, inputs). Output: (batch, classes) logits.

    normalization: none, ordinary (statistics of a replica's slice) or synchronized (of
        the batch).
    """
    x = hidden = keras.Input((inputs,), name="x")
    for _ in range(2):
        hidden = layers.Dense(units, use_bias=False, kernel_initializer="he_normal")(
            hidden
        )
        if normalization != "none":
            synchronized = normalization == "synchronized"
            hidden = layers.BatchNormalization(synchronized=synchronized)(hidden)
        hidden = layers.ReLU()(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(x, logits, name="network")


def train(strategy, x, y, setting: dict, normalization="none", mean_of_means=False):
    """Trains on all replicas of a tf.distribute strategy. x: (examples, inputs), y:
    (examples,).

    mean_of_means: average the replicas' mean losses, as if each had as many examples.
    Returns the trained weights, and the seconds of the median step.
    """
    keras.utils.set_random_seed(setting["seed"])
    with strategy.scope():
        model = build_model(
            x.shape[1], setting["units"], normalization, setting["classes"]
        )
        optimizer = keras.optimizers.SGD(setting["learning_rate"], momentum=0.9)
        optimizer.build(model.trainable_variables)

    def step_of_replica(x_batch, y_batch):
        replica = tf.distribute.get_replica_context()
        number, count = replica.replica_id_in_sync_group, strategy.num_replicas_in_sync
        examples = tf.shape(x_batch)[0]
        mine = slice(examples * number // count, examples * (number + 1) // count)
        with tf.GradientTape() as tape:
            logits = model(x_batch[mine], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                y_batch[mine], logits
            )
            if mean_of_means:
                loss = tf.reduce_mean(losses) / count
            else:
                loss = tf.reduce_sum(losses) / tf.cast(examples, "float32")
        gradients = tape.gradient(loss, model.trainable_variables)
        # Keras adds up the gradients of all replicas (an all-reduce) before the step.
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )

    @tf.function(reduce_retracing=True)
    def step(x_batch, y_batch):
        strategy.run(step_of_replica, args=(x_batch, y_batch))

    random, seconds = np.random.default_rng(setting["seed"]), []
    for _ in range(setting["epochs"]):
        order = random.permutation(len(x))
        for first in range(0, len(x), setting["batch_size"]):
            batch = order[first : first + setting["batch_size"]]
            started = time.perf_counter()
            step(tf.constant(x[batch]), tf.constant(y[batch]))
            seconds.append(time.perf_counter() - started)
    weights = [np.ravel(weight) for weight in model.trainable_variables]
    return np.concatenate(weights), np.median(seconds)


def train_all(folder: str, number: int) -> None:
    """A worker's part: trains with the others of TF_CONFIG. The first one then trains
    every variant on logical CPUs, and writes weights and seconds to found.npz.

    Devices are laid out once a process, hence all this is done in processes of their
    own.
    """
    setting = json.loads(Path(folder, "setting.json").read_text())
    arrays = np.load(Path(folder, "data.npz"))
    x, y = arrays["x"], arrays["y"]
    found = {}
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * max(setting["replicas"])
    tf.config.set_logical_device_configuration(cpu, logical)
    workers = tf.distribute.MultiWorkerMirroredStrategy()
    found["workers"], found["workers_seconds"] = train(workers, x, y, setting)
    if number > 0:
        return
    for count in setting["replicas"]:
        mirrored = tf.distribute.MirroredStrategy(
            [f"CPU:{index}" for index in range(count)],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
        found[f"{count}"], found[f"{count}_seconds"] = train(mirrored, x, y, setting)
        if count in setting["replicas"][:2]:
            for kind in ("ordinary", "synchronized"):
                found[f"{count}_{kind}"], _ = train(mirrored, x, y, setting, kind)
    # On the last number of devices: the odd last batch weighed wrongly.
    found["mean_of_means"], _ = train(mirrored, x, y, setting, mean_of_means=True)
    np.savez(Path(folder, "found.npz"), **found)


def train_everywhere(x, y, setting: dict) -> dict[str, np.ndarray]:
    """What the processes found that run `train_all`, one for each worker."""
    with contextlib.ExitStack() as stack:
        sockets = [
            socket.create_server(("127.0.0.1", 0)) for _ in range(setting["workers"])
        ]
        addresses = [
            f"127.0.0.1:{stack.enter_context(s).getsockname()[1]}" for s in sockets
        ]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), x=x, y=y)
        Path(folder, "setting.json").write_text(json.dumps(setting))
        processes = []
        for number in range(setting["workers"]):
            call = f"run_path({__file__!r})['train_all']({folder!r}, {number})"
            program = [sys.executable, "-c", f"from runpy import run_path; {call}"]
            task = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": number},
            }
            environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
            pipe = subprocess.PIPE
            processes.append(
                subprocess.Popen(program, env=environment, stderr=pipe, text=True)
            )
        errors = [process.communicate()[1] for process in processes]
        if any(process.returncode for process in processes):
            raise RuntimeError("\n".join(["a process failed:", *errors]))
        return dict(np.load(Path(folder, "found.npz")))


def plot_differences(
    differences: dict[str, float], times: dict[str, float]
) -> plt.Figure:
    """Largest difference of a weight from one device's, and the time of a step by
    replicas."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), width_ratios=(3, 2))
    names = list(differences)[::-1]
    values = [max(differences[name], 1e-9) for name in names]
    left.barh(
        names,
        values,
        color=["#D55E00" if value > 1e-4 else "#0072B2" for value in values],
    )
    left.axvline(1e-5, color="black", linestyle=":")
    left.set(xscale="log", xlim=(1e-9, 10), xlabel="largest difference of a weight")
    left.set_title("Trained apart from one device (dotted: rounding)")
    left.grid(axis="y", visible=False)
    right.bar(
        list(times), [1000 * seconds for seconds in times.values()], color="#009E73"
    )
    right.set(ylabel="milliseconds", title="A step of the same global batch")
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    if config.batch_size > len(x_train):
        raise UsageError(
            f"--batch-size {config.batch_size}: there are {len(x_train)} examples to "
            "train on, and whole batches are needed here"
        )
    y_train = y_train.astype("int32")
    # Whole batches, and a last one with an odd number of examples.
    examples = (
        len(x_train) - len(x_train) % config.batch_size - config.batch_size // 2 + 1
    )
    setting = {**vars(config), "seed": run.seed, "classes": classes}
    found = train_everywhere(x_train[:examples], y_train[:examples], setting)

    first, *others = config.replicas
    most = config.replicas[-1]

    def difference(name, reference=f"{first}"):
        return float(np.abs(found[name] - found[reference]).max())

    synchronized, ordinary = (
        difference(f"{others[0]}_{kind}", f"{first}_{kind}")
        for kind in ("synchronized", "ordinary")
    )
    differences = {f"{count} logical CPUs": difference(f"{count}") for count in others}
    differences[f"{config.workers} processes"] = difference("workers")
    differences["synchronized BatchNormalization"] = synchronized
    differences["mean of the replicas' means"] = difference("mean_of_means")
    differences["ordinary BatchNormalization"] = ordinary
    times = {f"{count} logical": found[f"{count}_seconds"] for count in config.replicas}
    times[f"{config.workers} processes"] = found["workers_seconds"]
    run.figure("differences", plot_differences(differences, times))

    model = build_model(x_train.shape[1], config.units, classes=classes)
    shapes = [weight.shape for weight in model.weights]
    parts = np.split(
        found[f"{most}"], np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    )
    model.set_weights([part.reshape(s) for part, s in zip(parts, shapes, strict=True)])
    accuracy = float(np.mean(np.asarray(model(x_test)).argmax(axis=1) == y_test))
    run.metric("test_accuracy", accuracy)
    run.print(f"{'':14} step in ms   images/s   speed-up")
    for name, seconds in times.items():
        rate, speed_up = (
            config.batch_size / seconds,
            found[f"{first}_seconds"] / seconds,
        )
        run.print(f"{name:14} {1000 * seconds:10.2f} {rate:10,.0f} {speed_up:10.2f}")
        run.metric(
            f"images_a_second_{name.replace(' ', '_')}", rate, unit="1/s", timing=True
        )
    run.metric("numbers_in_an_all_reduce", model.count_params())

    largest = max(difference(f"{count}") for count in others)
    run.claim(
        "At the same global batch replicas learn the same weights as one device",
        holds=largest < 1e-5 and accuracy > 0.9,
        measured=f"{most} logical CPUs: no weight differs by more than {largest:.1e} after "
        f"{config.epochs} epochs; test accuracy {accuracy:.4f}",
    )
    run.claim(
        "So do processes that know each other only by their addresses",
        holds=difference("workers") < 1e-5,
        measured=f"{config.workers} workers: at most {difference('workers'):.1e}",
    )
    run.claim(
        "A ragged batch needs weights: the mean of the replicas' means is another gradient",
        holds=difference("mean_of_means") > 10 * largest,
        measured=f"last batch of {examples % config.batch_size} examples on {most} replicas: "
        f"{difference('mean_of_means'):.1e}, weighed by examples {difference(f'{most}'):.1e}",
    )
    run.claim(
        "Ordinary batch normalization sees a slice only and learns other weights; synchronized "
        "statistics mend it",
        holds=ordinary > 1e-3 and synchronized < ordinary / 10,
        measured=f"{others[0]} replicas: ordinary {ordinary:.1e}, synchronized {synchronized:.1e}",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
