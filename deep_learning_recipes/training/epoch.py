"""An epoch of a model's steps as a single call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from deep_learning_recipes.distribute.parameter_server import ParameterServers
from deep_learning_recipes.distribute.replicas import Logs, Replicas
from deep_learning_recipes.training import bounds, private_keras, xla
from deep_learning_recipes.training.prepare import Training, count, take
from deep_learning_recipes.training.step import spec_of_batches, trace_step


def compile_epoch(
    training: Training, replicas: Replicas, step_name: str, data: Any
) -> Callable[[Any, Any], Logs]:
    """An epoch of `train_step` or `test_step`: a function of (data, order) that returns
    logs.

    It stays with the model until that is compiled again or other weights get trainable.
    """
    model = training.model
    batch_size = training.batch_size
    batch_spec = spec_of_batches(data)
    is_dataset = isinstance(data, tf.data.Dataset)
    steps = 0 if is_dataset else math.ceil(count(data) / batch_size) * training.epochs
    smallest_batch = 1 if is_dataset else count(data) % batch_size or batch_size
    # A batch with fewer examples than replicas counts once.
    may_not_count = smallest_batch < replicas.count
    key = repr(
        (
            step_name,
            is_dataset,
            batch_spec,
            batch_size,
            may_not_count,
            training.jit_compile,
            xla.is_repaid(steps),
        )
    )
    known = private_keras.compiled_epochs(model)
    if key in known:
        return known[key]

    step = trace_step(model, replicas, step_name, batch_spec, may_not_count)
    epoch: Callable[[Any, Any], Logs]
    if isinstance(replicas, ParameterServers):
        epoch = EpochInParts(model, replicas, step, batch_size, batch_spec)
    elif is_dataset:
        epoch = EpochOfDataset(model, replicas, step, batch_size, batch_spec)
    else:
        use_xla = xla.choose(training, replicas, step, steps)
        epoch = EpochInOneCall(model, replicas, step, batch_size, use_xla)
        epoch.must_use_xla = bool(training.jit_compile)
    private_keras.keep_epoch(model, key, epoch)
    return epoch


class Epoch:
    """What the kinds of epochs share: the loop over the batches, and the logs."""

    def __init__(
        self, model: keras.Model, replicas: Replicas, step: Any, batch_size: int
    ):
        self.model = model
        self.replicas = replicas
        self.step = step
        """as `trace_step` returns it"""
        self.batch_size = batch_size

    def step_on(self, data: Any, indices: tf.Tensor) -> tuple[Logs, tf.Tensor]:
        slices, shares = self.replicas.divide(indices)
        return self.step([take(data, each) for each in slices], shares)

    def steps_on(self, data: Any, order: tf.Tensor) -> Logs:
        """The logs of the last step. The last slice simply ends where the order does."""

        def step_at(start: tf.Tensor) -> Logs:
            logs, _ = self.step_on(data, order[start : start + self.batch_size])
            return logs

        def is_left(start: tf.Tensor, _: Logs) -> tf.Tensor:
            return start < tf.size(order)

        nothing, _ = self.nothing()
        return self.loop(is_left, step_at, nothing)

    def checked_steps_on(self, data: Any, order: tf.Tensor) -> tuple[Logs, tf.Tensor]:
        """The same for XLA, which wants batches of one size: a smaller one goes by
        itself. It ends after a step with an index out of bounds, and returns that."""
        examples = order.shape[0]
        looped = examples - examples % self.batch_size

        def step_at(start: tf.Tensor) -> tuple[Logs, tf.Tensor]:
            return self.step_on(data, tf.slice(order, [start], [self.batch_size]))

        def is_left(start: tf.Tensor, last: tuple[Logs, tf.Tensor]) -> tf.Tensor:
            _, found = last
            return tf.logical_and(start < looped, tf.reduce_all(found[:, 1] <= 0))

        logs, found = self.loop(is_left, step_at, self.nothing())
        if looped < examples:
            logs, found_last = self.step_on(data, order[looped:])
            found = tf.where(found[:, 1:] > 0, found, found_last)
        return logs, found

    def loop(self, is_left: Callable, step_at: Callable, nothing: Any) -> Any:
        """What the last step returned."""

        def next_step(start: tf.Tensor, _: Any) -> tuple[tf.Tensor, Any]:
            return start + self.batch_size, step_at(start)

        _, last = tf.while_loop(is_left, next_step, (0, nothing), parallel_iterations=1)
        return last

    def nothing(self) -> tuple[Logs, tf.Tensor]:
        """What a step might return, before the first."""
        return keras.tree.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), self.step.structured_outputs
        )

    def logs_of_epoch(self, logs: Logs) -> Logs:
        """The last step's logs, or in their place, as in model.fit, metrics of the whole
        epoch."""
        self.replicas.settle(self.model)
        metrics = self.model.get_metrics_result()
        if set(metrics) == set(logs):
            return metrics
        if self.replicas.sees_all:
            return logs
        totals = self.replicas.add_up(list(logs.values()))
        logs = dict(zip(logs, totals, strict=True))
        # Results of the last step's metrics hold one replica's examples, or one
        # batch's. A step that leaves out some of the metrics has a loss of its own, and
        # Keras's tracker of the loss stays 0.
        return {
            name: logs[name] if name == "loss" else metrics.get(name, logs[name])
            for name in logs
        }


class EpochInOneCall(Epoch):
    """An epoch that is one `tf.function`."""

    must_use_xla = False
    """whether to fail where XLA does, rather than do without"""

    def __init__(
        self,
        model: keras.Model,
        replicas: Replicas,
        step: Any,
        batch_size: int,
        use_xla: bool,
    ):
        super().__init__(model, replicas, step, batch_size)
        self.compiled = self.compile(use_xla)

    def compile(self, use_xla: bool) -> Callable[[Any, tf.Tensor], Logs]:
        def whole_epoch(data: Any, order: tf.Tensor) -> Logs:
            self.model.reset_metrics()
            return self.logs_of_epoch(self.steps_on(data, order))

        def whole_epoch_of_xla(data: Any, order: tf.Tensor) -> tuple[Logs, tf.Tensor]:
            self.model.reset_metrics()
            logs, found = self.checked_steps_on(data, order)
            return self.logs_of_epoch(logs), found

        if not use_xla:
            return tf.function(whole_epoch, autograph=False)
        by_xla = tf.function(whole_epoch_of_xla, autograph=False, jit_compile=True)

        def checked_epoch(data: Any, order: tf.Tensor) -> Logs:
            logs, found = by_xla(data, order)
            bounds.check(self.step.graph, found)
            return logs

        return checked_epoch

    def __call__(self, data: Any, order: tf.Tensor) -> Logs:
        try:
            with self.replicas.context():
                return self.compiled(data, order)
        except tf.errors.InvalidArgumentError as error:
            # XLA says so before any step has run.
            if self.must_use_xla or "tf2xla" not in str(error):
                raise
            warnings.warn(xla.GOING_ON, stacklevel=4)
            self.compiled = self.compile(use_xla=False)
            return self.compiled(data, order)


class EpochOfDataset(Epoch):
    """An epoch whose batches a tf.data.Dataset brings: a call for each."""

    def __init__(
        self,
        model: keras.Model,
        replicas: Replicas,
        step: Any,
        batch_size: int,
        batch_spec: Any,
    ):
        super().__init__(model, replicas, step, batch_size)
        self.step_on_batch = tf.function(
            self.whole_batch, input_signature=[batch_spec], autograph=False
        )
        self.end = tf.function(self.logs_of_epoch, autograph=False)

    def whole_batch(self, batch: Any) -> Logs:
        examples = tf.shape(keras.tree.flatten(batch)[0])[0]
        logs, _ = self.step_on(batch, tf.range(examples))
        return logs

    def __call__(self, data: tf.data.Dataset, order: None) -> Logs:
        with self.replicas.context():
            self.model.reset_metrics()
            logs: Logs = {}
            for batch in data:
                logs = self.step_on_batch(batch)
            return self.end(logs)


class EpochInParts(Epoch):
    """An epoch that the workers of parameter servers compute in parts."""

    def __init__(
        self,
        model: keras.Model,
        servers: ParameterServers,
        step: Any,
        batch_size: int,
        batch_spec: Any,
    ):
        super().__init__(model, servers, step, batch_size)
        self.servers = servers
        with servers.context():
            self.last_logs = {
                name: tf.Variable(tf.zeros(spec.shape, spec.dtype), trainable=False)
                for name, spec in step.structured_outputs[0].items()
            }
        self.part_of_epoch = tf.function(
            self.train_part, input_signature=[batch_spec], autograph=False
        )

    def train_part(self, data: Any) -> None:
        logs = self.steps_on(data, tf.range(tf.shape(keras.tree.flatten(data)[0])[0]))
        for name, value in logs.items():
            self.last_logs[name].assign(value)

    def __call__(self, data: Any, order: tf.Tensor) -> Logs:
        self.model.reset_metrics()
        self.servers.schedule(self.part_of_epoch, data, order, self.batch_size)
        logs = {
            name: tf.convert_to_tensor(value) for name, value in self.last_logs.items()
        }
        return self.logs_of_epoch(logs)
