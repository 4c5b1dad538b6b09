"""Data parallelism: the same network on many devices, each with its share of the batch.

The gradient of a batch is a mean over its examples, ∇L = (1/n) Σ ∇lᵢ, so it may be
summed in any order: each replica adds up its slice, one all-reduce adds up the
replicas, and all take the same step. At the same global batch nothing changes but the
time. Two things break that: a batch that does not divide evenly, where the mean of the
replicas' means is not the mean over the examples; and a layer that looks at its slice
alone, as ordinary batch normalization does.
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
from matplotlib.figure import Figure

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


# --------------------------------------------------------------------------------------
# The idea: each replica adds up its slice, one all-reduce adds up the replicas
# --------------------------------------------------------------------------------------


def build_model(
    inputs: int, units: int, normalization: str = "none", classes: int = 10
) -> keras.Model:
    """A dense classifier. Input: (batch, inputs). Output: (batch, classes) logits.

    normalization: none, ordinary (statistics of a replica's slice) or synchronized (of
        the batch).
    """
    x = keras.Input((inputs,), name="x")
    hidden = x
    for _ in range(2):
        dense = layers.Dense(units, use_bias=False, kernel_initializer="he_normal")
        hidden = dense(hidden)
        if normalization != "none":
            synchronized = normalization == "synchronized"
            hidden = layers.BatchNormalization(synchronized=synchronized)(hidden)
        # Smooth: at the kink of a ReLU mere rounding decides which side an example is
        # on, and weights that should be equal drift apart.
        hidden = layers.Activation("gelu")(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(x, logits, name="network")


class Replicas:
    """A network on all devices of a tf.distribute strategy, and the step that trains
    it.

    mean_of_means: average the replicas' mean losses, as if each had as many examples.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.Optimizer,
        mean_of_means: bool = False,
    ):
        self.strategy = strategy
        self.model = model
        self.optimizer = optimizer
        self.mean_of_means = mean_of_means

    def step_of_replica(self, x, y):
        """Done by each replica at the same time. x: the whole batch, (examples,
        inputs); y: (examples,)."""
        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group
        replicas = self.strategy.num_replicas_in_sync
        examples = tf.shape(x)[0]
        mine = slice(
            examples * number // replicas,
            examples * (number + 1) // replicas,
        )
        with tf.GradientTape() as tape:
            logits = self.model(x[mine], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y[mine], logits)
            if self.mean_of_means:
                loss = tf.reduce_mean(losses) / replicas
            else:
                loss = tf.reduce_sum(losses) / tf.cast(examples, "float32")
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        # Keras adds up the gradients of all replicas (an all-reduce) before the step.
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    @tf.function(reduce_retracing=True)
    def step(self, x, y):
        self.strategy.run(self.step_of_replica, args=(x, y))


def train(strategy, x, y, setting: dict, normalization="none", mean_of_means=False):
    """Trains on all replicas of a strategy. x: (examples, inputs); y: (examples,);
    setting: seed, units, classes, learning_rate, epochs, batch_size.

    Returns the trained weights, flat, and the seconds of the median step.
    """
    keras.utils.set_random_seed(setting["seed"])
    with strategy.scope():
        model = build_model(
            x.shape[1], setting["units"], normalization, setting["classes"]
        )
        optimizer = keras.optimizers.SGD(setting["learning_rate"], momentum=0.9)
        optimizer.build(model.trainable_variables)
    replicas = Replicas(strategy, model, optimizer, mean_of_means)

    random = np.random.default_rng(setting["seed"])
    seconds = []
    for _ in range(setting["epochs"]):
        order = random.permutation(len(x))
        for first in range(0, len(x), setting["batch_size"]):
            batch = order[first : first + setting["batch_size"]]
            started = time.perf_counter()
            replicas.step(tf.constant(x[batch]), tf.constant(y[batch]))
            seconds.append(time.perf_counter() - started)
    weights = [np.ravel(weight) for weight in model.trainable_variables]
    return np.concatenate(weights), np.median(seconds)


# --------------------------------------------------------------------------------------
# The experiment: logical CPUs, processes, and what breaks the equality
# --------------------------------------------------------------------------------------

ROUNDING = 1e-5  # how far apart weights may be that were added up in another order


def mirror(count: int) -> tf.distribute.Strategy:
    """So many logical CPUs of this process."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(count)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def train_all(folder: str, number: int) -> None:
    """A worker's part: trains with the others of TF_CONFIG. The first one then trains
    every variant on logical CPUs, and writes weights and seconds to found.npz.

    Devices are laid out once a process, hence all this is done in processes of their
    own.
    """
    setting = json.loads(Path(folder, "setting.json").read_text())
    counts = setting["replicas"]
    arrays = np.load(Path(folder, "data.npz"))
    x = arrays["x"]
    y = arrays["y"]
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * max(counts)
    tf.config.set_logical_device_configuration(cpu, logical)

    found = {}
    workers = tf.distribute.MultiWorkerMirroredStrategy()
    found["workers"], found["workers_seconds"] = train(workers, x, y, setting)
    if number > 0:
        return

    for count in counts:
        strategy = mirror(count)
        found[f"{count}"], found[f"{count}_seconds"] = train(strategy, x, y, setting)
        if count in counts[:2]:
            for kind in ("ordinary", "synchronized"):
                found[f"{count}_{kind}"], _ = train(strategy, x, y, setting, kind)
    # On the last number of devices: the odd last batch weighed wrongly.
    found["mean_of_means"], _ = train(strategy, x, y, setting, mean_of_means=True)
    np.savez(Path(folder, "found.npz"), **found)


def free_addresses(count: int) -> list[str]:
    """Of ports on this machine."""
    addresses = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            addresses.append(f"127.0.0.1:{server.getsockname()[1]}")
    return addresses


def start_worker(folder: str, number: int, addresses: list[str]) -> subprocess.Popen:
    """A process that runs `train_all`."""
    call = f"run_path({__file__!r})['train_all']({folder!r}, {number})"
    task = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": number},
    }
    return subprocess.Popen(
        [sys.executable, "-c", f"from runpy import run_path; {call}"],
        env={**os.environ, "TF_CONFIG": json.dumps(task)},
        stderr=subprocess.PIPE,
        text=True,
    )


def train_everywhere(x, y, setting: dict) -> dict[str, np.ndarray]:
    """What the processes found that run `train_all`, one for each worker."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), x=x, y=y)
        Path(folder, "setting.json").write_text(json.dumps(setting))
        addresses = free_addresses(setting["workers"])
        processes = [
            start_worker(folder, number, addresses) for number in range(len(addresses))
        ]
        errors = [process.communicate()[1] for process in processes]
        if any(process.returncode for process in processes):
            raise RuntimeError("\n".join(["a process failed:", *errors]))
        return dict(np.load(Path(folder, "found.npz")))


@dataclass
class Differences:
    """The largest difference of a weight from those of one device, which had the same
    kind of normalization."""

    logical: dict[int, float]
    """by number of logical CPUs"""
    workers: float
    mean_of_means: float
    ordinary: float
    """with ordinary batch normalization"""
    synchronized: float
    """with batch normalization over the whole batch"""


def difference(found: dict[str, np.ndarray], name: str, reference: str) -> float:
    """The largest of a weight."""
    return float(np.abs(found[name] - found[reference]).max())


def compare(found: dict[str, np.ndarray], config: Config) -> Differences:
    first, second = config.replicas[:2]
    one = f"{first}"
    return Differences(
        logical={
            count: difference(found, f"{count}", one) for count in config.replicas[1:]
        },
        workers=difference(found, "workers", one),
        mean_of_means=difference(found, "mean_of_means", one),
        ordinary=difference(found, f"{second}_ordinary", f"{first}_ordinary"),
        synchronized=difference(
            found, f"{second}_synchronized", f"{first}_synchronized"
        ),
    )


def seconds_of_a_step(found: dict[str, np.ndarray], config: Config) -> dict[str, float]:
    seconds = {
        f"{count} logical": float(found[f"{count}_seconds"])
        for count in config.replicas
    }
    seconds[f"{config.workers} processes"] = float(found["workers_seconds"])
    return seconds


def report_times(seconds: dict[str, float], batch_size: int, run: Run) -> None:
    """The scaling table."""
    one, *_ = seconds.values()
    run.print(f"{'':14} step in ms   images/s   speed-up")
    for name, each in seconds.items():
        rate = batch_size / each
        run.print(f"{name:14} {1000 * each:10.2f} {rate:10,.0f} {one / each:10.2f}")
        metric = f"images_a_second_{name.replace(' ', '_')}"
        run.metric(metric, rate, unit="1/s", timing=True)


def load_weights(model: keras.Model, flat_weights: np.ndarray) -> None:
    shapes = [weight.shape for weight in model.weights]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    parts = np.split(flat_weights, ends)
    model.set_weights(
        [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    )


def judge_equality(found: Differences, accuracy: float, config, run: Run) -> None:
    largest = max(found.logical.values())
    run.claim(
        "At the same global batch replicas learn the same weights as one device",
        holds=largest < ROUNDING and accuracy > 0.9,
        measured=f"{config.replicas[-1]} logical CPUs: no weight differs by more than "
        f"{largest:.1e} after {config.epochs} epochs; test accuracy {accuracy:.4f}",
    )
    run.claim(
        "So do processes that know each other only by their addresses",
        holds=found.workers < ROUNDING,
        measured=f"{config.workers} workers: at most {found.workers:.1e}",
    )


def judge_ragged(found: Differences, examples: int, config: Config, run: Run) -> None:
    most = config.replicas[-1]
    run.claim(
        "A ragged batch needs weights: the mean of the replicas' means is another "
        "gradient",
        holds=found.mean_of_means > 10 * max(found.logical.values()),
        measured=f"last batch of {examples % config.batch_size} examples on {most} "
        f"replicas: {found.mean_of_means:.1e}, weighed by examples "
        f"{found.logical[most]:.1e}",
    )


def judge_normalization(found: Differences, replicas: int, run: Run) -> None:
    run.claim(
        "Ordinary batch normalization sees a slice only and learns other weights; "
        "synchronized statistics mend it",
        holds=found.ordinary > 1e-3 and found.synchronized < found.ordinary / 10,
        measured=f"{replicas} replicas: ordinary {found.ordinary:.1e}, synchronized "
        f"{found.synchronized:.1e}",
    )


def draw_differences(
    found: Differences, seconds: dict[str, float], workers: int
) -> Figure:
    """Differences of weights, and the time of a step by replicas."""
    bars = {f"{count} logical CPUs": each for count, each in found.logical.items()}
    bars[f"{workers} processes"] = found.workers
    bars["synchronized\nbatch normalization"] = found.synchronized
    bars["mean of the\nreplicas' means"] = found.mean_of_means
    bars["ordinary\nbatch normalization"] = found.ordinary

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
    # Logarithms have no 0.
    values = [max(each, 1e-9) for each in bars.values()]
    colors = ["#D55E00" if each > 1e-4 else "#0072B2" for each in values]
    left.barh(list(bars), values, color=colors)
    left.axvline(ROUNDING, color="black", linestyle=":", label="rounding stays below")
    left.set(
        title="Apart from one device's weights",
        xlabel="largest difference of a weight (logarithmic)",
        xscale="log",
        xlim=(1e-9, 10),
    )
    left.legend(loc="upper right", fontsize="small")

    right.barh(
        list(seconds), [1000 * each for each in seconds.values()], color="#009E73"
    )
    right.set(title="A step of the same global batch", xlabel="milliseconds")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    if config.batch_size > len(x_train):
        raise UsageError(
            f"--batch-size {config.batch_size}: there are {len(x_train)} examples to "
            "train on, and whole batches are needed here"
        )
    # Whole batches, and a last one with an odd number of examples.
    whole = len(x_train) - len(x_train) % config.batch_size
    examples = whole - config.batch_size // 2 + 1
    x = x_train[:examples]
    y = y_train[:examples].astype("int32")

    setting = {**vars(config), "seed": run.seed, "classes": classes}
    trained = train_everywhere(x, y, setting)
    found = compare(trained, config)
    seconds = seconds_of_a_step(trained, config)

    model = build_model(x.shape[1], config.units, classes=classes)
    load_weights(model, trained[f"{config.replicas[-1]}"])
    accuracy = float(np.mean(np.asarray(model(x_test)).argmax(axis=1) == y_test))
    run.metric("test_accuracy", accuracy)
    report_times(seconds, config.batch_size, run)
    run.metric("numbers_in_an_all_reduce", model.count_params())

    judge_equality(found, accuracy, config, run)
    judge_ragged(found, examples, config, run)
    judge_normalization(found, config.replicas[1], run)
    run.figure("differences", draw_differences(found, seconds, config.workers))
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
