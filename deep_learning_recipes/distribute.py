"""A tf.distribute strategy by name, or one clear line why there is none."""

import os

import tensorflow as tf

from deep_learning_recipes import UsageError

NAMES = ("auto", "cpu", "gpu", "mirrored", "tpu")


def strategy(name: str = "auto") -> tuple[tf.distribute.Strategy, str]:
    """The strategy of that name, and a few words that say what was taken.

    name: `auto` (the GPUs that are there, else the CPU), `cpu`, `gpu`, `mirrored` (all GPUs),
    `mirrored:N` (N GPUs, or N logical CPUs of this machine for trying out), or `tpu`.
    Call it before TensorFlow has run anything: devices are laid out once a process.
    Raises UsageError for an unknown name and for a device that is not there.
    """
    kind, colon, count = name.partition(":")
    if kind not in NAMES or (colon and kind != "mirrored"):
        raise UsageError(f"--strategy {name}: choose one of {', '.join(NAMES)}, mirrored:N")
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "tpu":
        return _tpu()
    if kind == "mirrored":
        return _mirrored(name, count, len(gpus))
    if kind == "gpu" and not gpus:
        raise UsageError("--strategy gpu: TensorFlow sees no GPU here; use --strategy cpu")
    if kind == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        return tf.distribute.get_strategy(), f"CPU ({os.cpu_count()} cores)"
    if kind == "auto" and len(gpus) > 1:
        return tf.distribute.MirroredStrategy(), f"{len(gpus)} GPUs, mirrored"
    return tf.distribute.get_strategy(), "one GPU"


def _mirrored(name: str, count: str, gpus: int) -> tuple[tf.distribute.Strategy, str]:
    if count and (not count.isdecimal() or int(count) < 1):
        raise UsageError(f"--strategy {name}: N must be a whole number from 1, as in mirrored:2")
    replicas = int(count) if count else gpus
    if replicas == 0:
        raise UsageError(
            "--strategy mirrored: TensorFlow sees no GPU here; mirrored:2 tries two logical CPUs"
        )
    if 0 < gpus < replicas:
        raise UsageError(f"--strategy {name}: only {gpus} GPU(s) here; ask for at most as many")
    if gpus:
        devices = [f"GPU:{index}" for index in range(replicas)]
        return tf.distribute.MirroredStrategy(devices), f"{replicas} GPUs, mirrored"
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    # The default collective all-reduce breaks on CPUs for the second model of a process.
    mirrored = tf.distribute.MirroredStrategy(
        [f"CPU:{index}" for index in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    return mirrored, f"{replicas} logical CPUs, mirrored"


def _tpu() -> tuple[tf.distribute.Strategy, str]:
    # TensorFlow's own search takes half a minute to find out that there is none.
    if not os.environ.get("TPU_NAME") and not tf.config.list_physical_devices("TPU"):
        raise UsageError("--strategy tpu: no TPU is attached and TPU_NAME is not set; set it")
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", ""))
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    tpu = tf.distribute.TPUStrategy(resolver)
    return tpu, f"TPU, {tpu.num_replicas_in_sync} replicas"
