"""Parameter servers: they keep the weights, workers compute steps, the chief hands
these out.

Each worker reads the weights, computes a gradient and has it applied, without waiting
for the
others: asynchronous stochastic gradient descent. A step may thus start from weights
that others have changed meanwhile, so training is not that of one device, nor the same
twice; it learns. In return a worker that is lost costs nothing but its steps under way,
which others repeat. (Dean et al., Large scale distributed deep networks, 2012, section
4.1)
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import socket
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.replicas import Logs, Replicas, Step

STEPS_OF_A_PART = 16
PARTS_FOR_A_WORKER = 4
SECONDS_TO_START = 600.0
SECONDS_OF_SILENCE = 5.0

Cluster = dict[str, list[str]]


class Strategy(tf.distribute.ParameterServerStrategy):
    """Of the chief. What it creates in `scope()` lies on the parameter servers; what it
    computes itself, such as `model.predict`, reads them from there."""

    def __init__(self, cluster: Cluster):
        super().__init__(tf.distribute.cluster_resolver.TFConfigClusterResolver())
        self.workers = len(cluster["worker"])

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        """The data set itself: Keras asks for it in predict and evaluate, which the
        chief runs."""
        return dataset


class ParameterServers(Replicas):
    """Training by the workers of a cluster, one replica each, that share the
    weights."""

    sees_all = False

    def __init__(self, strategy: Strategy):
        self.strategy = strategy
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return self.strategy.scope()

    def run(
        self, step: Step, model: keras.Model, batches: list[Any], shares: list[Any]
    ) -> Logs:
        return self.strategy.run(step, args=(batches[0],))

    def schedule(
        self,
        part_of_epoch: Callable[[Any], None],
        data: Any,
        order: tf.Tensor,
        batch_size: int,
    ) -> None:
        """Has the workers call `part_of_epoch(data)`, each time on a few batches, until
        the whole of `data`, in that order, is done."""
        steps = math.ceil(len(order) / batch_size)
        steps_of_a_part = min(
            STEPS_OF_A_PART, steps // (PARTS_FOR_A_WORKER * self.strategy.workers)
        )
        examples = max(1, steps_of_a_part) * batch_size
        for first in range(0, len(order), examples):
            indices = order[first : first + examples]
            rows = functools.partial(tf.gather, indices=indices)
            part = keras.tree.map_structure(rows, data)
            self.coordinator.schedule(part_of_epoch, args=(part,))
        self.coordinator.join()


class Apart(keras.StatelessScope):
    """Within it `variables` are zero and change for this step alone; all others are as
    ever."""

    def __init__(self, variables: list[keras.Variable]):
        zeros = [
            (variable, tf.zeros(variable.shape, variable.dtype))
            for variable in variables
        ]
        super().__init__(zeros, initialize_variables=False)

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        variable, value = update
        if self.get_current_value(variable) is not None:
            super().add_update(update)
        else:
            self.__exit__()
            variable.assign(value)
            self.__enter__()


def counting_apart(step: Step, model: keras.Model) -> Step:
    """`step`, whose counts are added to the model's metrics in one piece.

    Metrics assign what they have read and increased. Workers that do so at the same
    time would overwrite each other's counts.
    """

    def step_apart(batch: Any) -> Logs:
        variables = list(model.metrics_variables)
        with Apart(variables) as apart:
            logs = step(batch)
        for variable in variables:
            variable.value.assign_add(apart.get_current_value(variable))
        return logs

    return step_apart


class Server:
    """A worker or a parameter server: does what the chief asks for as long as the chief
    lives."""

    def __init__(self, cluster: Cluster, kind: str, index: int):
        self.cluster, self.kind, self.index = cluster, kind, index

    def serve(self) -> None:
        """Returns soon after the chief's process has ended, however it did.

        Raises UsageError if the chief does not start within ten minutes.
        """
        devices = {"GPU": 0} if self.kind == "ps" else {}
        tf.distribute.Server(
            self.cluster,
            job_name=self.kind,
            task_index=self.index,
            config=tf.compat.v1.ConfigProto(device_count=devices),
        )
        (chief,) = self.cluster["chief"]
        wait_for("chief 0", chief)
        heard = time.monotonic()
        while time.monotonic() - heard < SECONDS_OF_SILENCE:
            if answers(chief):
                heard = time.monotonic()
            time.sleep(1)


def connect(cluster: Cluster) -> Strategy:
    """The chief's strategy, once all others are there.

    Raises UsageError if one of them does not start within ten minutes.
    """
    for kind in ("ps", "worker"):
        for index, address in enumerate(cluster[kind]):
            wait_for(f"{kind} {index}", address)
    # The strategy warns of each computation that is not handed to workers, among them
    # all tracing.
    tf.get_logger().addFilter(_is_no_warning_of_local_work)
    tf.config.set_visible_devices([], "GPU")
    strategy = Strategy(cluster)
    if strategy.num_replicas_in_sync > 1:
        raise UsageError(
            "--strategy parameter_server: a worker trains on one GPU; give each its own by "
            "CUDA_VISIBLE_DEVICES"
        )
    return strategy


def wait_for(name: str, address: str) -> None:
    """Returns when something listens at HOST:PORT."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not answers(address):
        if time.monotonic() > deadline:
            raise UsageError(f"TF_CONFIG: {name} does not answer at {address}")
        time.sleep(0.2)


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _is_no_warning_of_local_work(record: logging.LogRecord) -> bool:
    return "without using `ClusterCoordinator.schedule`" not in record.getMessage()
