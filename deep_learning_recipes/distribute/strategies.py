"""A tf.distribute strategy by name, or one clear line why there is none."""

import json
import os
import socket
from typing import Any

import keras
import tensorflow as tf

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.distribute import parameter_server
from deep_learning_recipes.distribute.launch import most_processes
from deep_learning_recipes.distribute.replicas import Mirrored, Replicas, Workers

NAMES = ("auto", "cpu", "gpu", "mirrored", "multi_worker", "parameter_server", "tpu")
SECONDS_FOR_TPU = 3.0


def strategy(
    name: str = "auto",
) -> tuple[tf.distribute.Strategy | Workers | parameter_server.Server, str]:
    """The strategy of that name, whose `scope()` to train in, and a few words that say
    what was taken.

    name: `auto` (the TPU of TPU_NAME, the cluster of TF_CONFIG, the GPUs that are
        there, else the
    CPU), `cpu`, `gpu`, `mirrored` (all GPUs), `mirrored:N` (N GPUs, or N logical CPUs
    of this machine for trying out), `multi_worker` (this process is one of those in
    TF_CONFIG), `parameter_server` (likewise; all but the chief get a `Server`, and
    train by its `serve()` alone), or `tpu`. Call it before TensorFlow has run anything:
    devices are laid out once a process. Raises UsageError for an unknown name and for a
    device that is not there.
    """
    kind, colon, count = name.partition(":")
    if kind not in NAMES or (colon and kind != "mirrored"):
        near = did_you_mean(kind, list(NAMES))
        raise UsageError(
            f"--strategy {name}: choose one of {', '.join(NAMES)}, mirrored:N{near}"
        )
    if kind == "auto":
        kind = "tpu" if os.environ.get("TPU_NAME") else kind
        if os.environ.get("TF_CONFIG"):
            kind = "parameter_server" if has_parameter_servers() else "multi_worker"
    if kind == "tpu":
        return _tpu()
    if kind == "multi_worker":
        return _multi_worker()
    if kind == "parameter_server":
        return _parameter_server()
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "mirrored":
        return _mirrored(name, colon, count, len(gpus))
    if kind == "gpu" and not gpus:
        raise UsageError(
            "--strategy gpu: TensorFlow sees no GPU here; use --strategy cpu"
        )
    if kind == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        return tf.distribute.get_strategy(), f"CPU ({os.cpu_count()} cores)"
    if kind == "auto" and len(gpus) > 1:
        return tf.distribute.MirroredStrategy(), f"{len(gpus)} GPUs, mirrored"
    return tf.distribute.get_strategy(), "one GPU"


def _mirrored(
    name: str, colon: str, count: str, gpus: int
) -> tuple[tf.distribute.Strategy, str]:
    most = gpus or most_processes()
    # Python reads no number of thousands of digits.
    is_number = count.isdecimal() and len(count) <= len(str(most))
    if colon and not (is_number and 1 <= int(count) <= most):
        raise UsageError(
            f"--strategy {name}: N must be a whole number from 1 to {most} here, "
            f"as in mirrored:{min(2, most)}"
        )
    replicas = int(count) if count else gpus
    if replicas == 0:
        raise UsageError(
            "--strategy mirrored: TensorFlow sees no GPU here; mirrored:2 tries two logical CPUs"
        )
    if gpus:
        devices = [f"GPU:{index}" for index in range(replicas)]
        return tf.distribute.MirroredStrategy(devices), f"{replicas} GPUs, mirrored"
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    # The default collective all-reduce breaks on CPUs for the second model of a
    # process.
    mirrored = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    return mirrored, f"{replicas} logical CPUs, mirrored"


def worker_number() -> int | None:
    """The number of this process among the workers of TF_CONFIG, 0 for the chief; None
    without it.

    Raises UsageError for a TF_CONFIG that cannot be understood.
    """
    cluster, task = _tf_config()
    if not cluster:
        return None
    # As in TensorFlow: a chief, if there is one, comes before the workers.
    return task["index"] + (task["type"] == "worker" and len(cluster.get("chief", ())))


def has_parameter_servers() -> bool:
    """Whether TF_CONFIG names any. Raises UsageError if it cannot be understood."""
    return bool(_tf_config()[0].get("ps"))


def _tf_config() -> tuple[dict[str, list[str]], dict[str, Any]]:
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return {}, {}
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        cluster[task["type"]][task["index"]]
        if task["index"] < 0:
            raise IndexError
        for addresses in cluster.values():
            for address in addresses:
                port_of(address)
        return cluster, task
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UsageError(
            'TF_CONFIG: it must be {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
            '"worker", "index": N}} with a task of the cluster'
        ) from error


def _multi_worker() -> tuple[Workers, str]:
    number = worker_number()
    if has_parameter_servers():
        raise UsageError(
            "--strategy multi_worker: TF_CONFIG names parameter servers; use parameter_server"
        )
    if number is None:
        raise UsageError(
            "--strategy multi_worker: TF_CONFIG is not set; try a cluster on this machine with "
            "python -m deep_learning_recipes.distribute launch --workers 2 -m recipes.NAME"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # one for each process; those of one machine take turns
        tf.config.set_visible_devices([gpus[number % len(gpus)]], "GPU")
    # Waits until all are there.
    workers = Workers(tf.distribute.MultiWorkerMirroredStrategy(), number)
    device = "one GPU" if gpus else "CPU"
    return workers, f"worker {number + 1} of {workers.count} (TF_CONFIG), {device} each"


def _parameter_server() -> tuple[
    parameter_server.Strategy | parameter_server.Server, str
]:
    cluster, task = _tf_config()
    if not cluster:
        raise UsageError(
            "--strategy parameter_server: TF_CONFIG is not set; try a cluster on this machine with "
            "python -m deep_learning_recipes.distribute launch --workers 2 --parameter-servers 1 "
            "-m recipes.NAME"
        )
    counts = {kind: len(cluster.get(kind, ())) for kind in ("chief", "worker", "ps")}
    if counts["chief"] != 1 or not counts["worker"] or not counts["ps"]:
        found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise UsageError(
            "TF_CONFIG: parameter_server needs a cluster of one chief, at least one worker and at "
            f"least one ps, not {found}"
        )
    size = f"{counts['worker']} workers, {counts['ps']} ps (TF_CONFIG)"
    if task["type"] != "chief":
        server = parameter_server.Server(cluster, task["type"], task["index"])
        return server, f"{task['type']} {task['index']} of {size}"
    return parameter_server.connect(cluster), f"chief of {size}"


def port_of(address: str) -> int:
    """Of HOST:PORT. Raises ValueError where it is none."""
    port = int(address.rpartition(":")[2])
    if not 0 < port < 2**16:
        raise ValueError(f"{port}: no port")
    return port


def _tpu_address(name: str) -> tuple[str, int]:
    """Where to ask for a TPU: itself if it is named by its address, else Google
    Cloud."""
    address = name.partition("grpc://")[2]
    if not address:
        return "metadata.google.internal", 80
    host, colon, _ = address.rpartition(":")
    try:
        return (host, port_of(address)) if colon else (address, 8470)
    except ValueError as error:
        raise UsageError(
            f"--strategy tpu: TPU_NAME is {name}, but the address of a TPU is "
            "grpc://HOST:PORT, with a port from 1 to 65535"
        ) from error


def _tpu() -> tuple[tf.distribute.Strategy, str]:
    # TensorFlow's own search takes half a minute or more to find out that there is
    # none.
    name = os.environ.get("TPU_NAME", "")
    if name in ("", "local") and not tf.config.list_physical_devices("TPU"):
        state = "is not set" if not name else f"is {name}"
        raise UsageError(
            f"--strategy tpu: no TPU is attached and TPU_NAME {state}; set it"
        )
    if name not in ("", "local"):
        host, port = _tpu_address(name)
        try:
            socket.create_connection((host, port), SECONDS_FOR_TPU).close()
        except OSError as error:
            raise UsageError(
                f"--strategy tpu: TPU_NAME is {name}, but {host}:{port} does not answer ({error})"
            ) from error
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    tpu = tf.distribute.TPUStrategy(resolver)
    return tpu, f"TPU, {tpu.num_replicas_in_sync} replicas"


def replicas_of(model: keras.Model) -> Replicas | None:
    """How `model` is to be trained; None where that is Keras's own part (TPU, other
    strategies)."""
    strategy = model.distribute_strategy
    if isinstance(strategy, parameter_server.Strategy):
        return parameter_server.ParameterServers(strategy)
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        return Mirrored(strategy) if strategy.num_replicas_in_sync > 1 else None
    with strategy.scope():
        if tf.distribute.has_strategy():
            return None
    return Workers.current or Replicas()
