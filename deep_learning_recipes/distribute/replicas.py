"""Replicas of a network that train as one: each takes its slice of every batch.

The gradient of a batch is the mean over its examples, so it is the sum of the replicas'
gradients, each weighed by the share of the examples that it saw. That holds for slices
of unequal size too, hence any batch is trained as a single device trains it. (`losses`
sees to those that are another mean, or a sum.) What a
replica works out from its slice alone differs: the statistics of an ordinary
BatchNormalization, and random numbers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes.distribute import losses

Logs = dict[str, tf.Tensor]
Step = Callable[[Any], Logs]
STRIDE_OF_SEEDS = 1_000_003


class Replicas:
    """The only replica: a model on one device, in one process."""

    count = 1
    """replicas in all"""
    local = range(1)
    """the numbers of those that run in this process"""
    is_chief = True
    sees_all = True
    """whether a step's metrics are those of all steps before it in the epoch"""

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """What training runs in."""
        return contextlib.nullcontext()

    def divide(self, indices: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """For each local replica: its slice of a batch, and its share of the batch's
        examples.

        Of a batch with fewer examples than replicas each takes the whole, and the first
        has the only share.
        """
        if self.count == 1:
            return [indices], [tf.constant(1.0)]
        examples = tf.shape(indices)[0]
        enough = examples >= self.count
        slices, shares = [], []
        for number in self.local:
            first = tf.where(enough, examples * number // self.count, 0)
            last = tf.where(enough, examples * (number + 1) // self.count, examples)
            slices.append(indices[first:last])
            share = tf.cast(last - first, tf.float32) / tf.cast(examples, tf.float32)
            shares.append(tf.where(enough, share, float(number == 0)))
        return slices, shares

    def run(
        self, step: Step, model: keras.Model, batches: list[Any], shares: list[Any]
    ) -> Logs:
        """Calls `step(batch)` on each local replica, with gradients and logs weighed by
        its share.

        The logs of all replicas add up to the batch's; `add_up` does that.
        """
        return step(batches[0])

    def add_up(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """The sum over the processes of what each holds."""
        return tensors

    def settle(self, model: keras.Model) -> None:
        """At the end of an epoch: makes one of what each replica kept to itself, namely
        the sums in metrics and moving averages such as those of BatchNormalization."""

    def agree(
        self, model: keras.Model, variables: list[keras.Variable], start: int
    ) -> int:
        """Before training: all take the chief's values, history and epoch to start
        from, which is returned; random states become different for each replica."""
        return start


class Mirrored(Replicas):
    """Several devices of this process under a `tf.distribute.MirroredStrategy`."""

    sees_all = False

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.count = strategy.num_replicas_in_sync
        self.local = range(self.count)

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return self.strategy.scope()

    def run(
        self, step: Step, model: keras.Model, batches: list[Any], shares: list[Any]
    ) -> Logs:
        def weigh(optimizer: Any, gradients: list[Any]) -> list[Any]:
            gradients = scaled(gradients, shares[replica_number()])
            if not must_see_the_sum(optimizer):
                return gradients  # the optimizer adds them up
            context = tf.distribute.get_replica_context()
            known = [gradient for gradient in gradients if gradient is not None]
            total = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, known))
            gradients = [
                None if gradient is None else next(total) for gradient in gradients
            ]
            return scaled(gradients, 1 / self.count)

        def step_on_replica() -> Logs:
            number = replica_number()
            return scale_logs(step(batches[number]), shares[number])

        def add_up(tensor: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

        with (
            unscaled_losses(),
            losses.of_whole_batches(model, lambda: shares[replica_number()], add_up),
            intercepted(model, weigh, clip_by=1 / self.count),
        ):
            logs = self.strategy.run(step_on_replica)
        return {
            name: self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
            for name, value in logs.items()
        }

    def settle(self, model: keras.Model) -> None:
        averages = moving_averages(model)

        def average() -> None:
            context = tf.distribute.get_replica_context()
            for variable in averages:
                value = tf.convert_to_tensor(variable.value)
                variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, value))

        if averages:
            self.strategy.run(average)

    def agree(
        self, model: keras.Model, variables: list[keras.Variable], start: int
    ) -> int:
        def spread(firsts: list[tf.Tensor]) -> None:
            for state, first in zip(random_states(model), firsts, strict=True):
                state.assign(first + seed_offset(state, replica_number()))

        with self.context():
            firsts = [
                tf.convert_to_tensor(state.value) for state in random_states(model)
            ]
            tf.function(
                lambda: self.strategy.run(spread, args=(firsts,)), autograph=False
            )()
        return start


class Workers(Replicas):
    """Several processes, one replica in each; `strategy` carries their sums to each
    other.

    The model is an ordinary one in each process, so all that is not training (evaluate,
    predict, export) works as ever. All start from the chief's weights and add up their
    gradients before the optimizer sees them, so they keep the same weights.
    """

    sees_all = False
    current: Workers | None = None

    def __init__(
        self, strategy: tf.distribute.MultiWorkerMirroredStrategy, number: int
    ):
        self.strategy = strategy
        self.count = strategy.num_replicas_in_sync
        self.local = range(number, number + 1)
        self.is_chief = number == 0
        vectors = [tf.TensorSpec((None,), tf.float64)]
        self._add_up_vectors = tf.function(self.add_up, [vectors], autograph=False)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within it `training.fit` trains with all workers."""
        Workers.current = self
        try:
            yield
        finally:
            Workers.current = None

    def run(
        self, step: Step, model: keras.Model, batches: list[Any], shares: list[Any]
    ) -> Logs:
        def weigh(optimizer: Any, gradients: list[Any]) -> list[Any]:
            known = [
                tf.convert_to_tensor(each) for each in gradients if each is not None
            ]
            total = iter(self.add_up(scaled(known, shares[0])))
            return [None if gradient is None else next(total) for gradient in gradients]

        def add_up(tensor: tf.Tensor) -> tf.Tensor:
            return self.add_up([tensor])[0]

        with (
            losses.of_whole_batches(model, lambda: shares[0], add_up),
            intercepted(model, weigh, clip_by=1.0),
        ):
            return scale_logs(step(batches[0]), shares[0])

    def add_up(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        def all_reduce(*values: tf.Tensor) -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            placed = [
                tf.identity(value) for value in values
            ]  # on this replica's device
            return context.all_reduce(tf.distribute.ReduceOp.SUM, placed)

        return self.strategy.run(all_reduce, args=tuple(tensors)) if tensors else []

    def settle(self, model: keras.Model) -> None:
        sums, averages = list(model.metrics_variables), moving_averages(model)
        totals = self.add_up([tf.cast(each, "float32") for each in (*sums, *averages)])
        for variable, total in zip((*sums, *averages), totals, strict=True):
            divisor = self.count if any(variable is each for each in averages) else 1
            variable.assign(tf.cast(total / divisor, variable.dtype))

    def agree(
        self, model: keras.Model, variables: list[keras.Variable], start: int
    ) -> int:
        # float64 holds the values of all dtypes exactly.
        values = [np.array(variable) for variable in variables]
        vector = [np.empty(0), *(value.ravel().astype(np.float64) for value in values)]
        told = self._of_chief(np.concatenate(vector))
        ends = np.cumsum([value.size for value in values])[:-1]
        for variable, value in zip(variables, np.split(told, ends), strict=True):
            variable.assign(value.reshape(variable.shape).astype(variable.dtype))
        for state in random_states(model):
            state.assign(state.value + seed_offset(state, self.local[0]))
        text = json.dumps([start, model.history.history]).encode()
        (size,) = self._of_chief(np.array([len(text)], np.float64)).astype(int)
        letters = np.frombuffer(text.ljust(size)[:size], np.uint8)
        told = self._of_chief(letters.astype(np.float64)).astype(np.uint8)
        start, model.history.history = json.loads(told.tobytes())
        return start

    def _of_chief(self, vector: np.ndarray) -> np.ndarray:
        return np.array(
            self._add_up_vectors([vector if self.is_chief else 0 * vector])[0]
        )


def counting(step: Step, model: keras.Model) -> Callable[[tuple[Any, tf.Tensor]], Logs]:
    """`step` of (batch, share): the metrics forget a batch of which it has none."""

    def step_that_counts(batch_and_share: tuple[Any, tf.Tensor]) -> Logs:
        batch, share = batch_and_share
        variables = list(model.metrics_variables)
        before = [tf.convert_to_tensor(variable.value) for variable in variables]
        logs = step(batch)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(
                tf.where(share > 0, tf.convert_to_tensor(variable.value), value)
            )
        return logs

    return step_that_counts


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Every optimizer that the model holds (a GAN has two)."""
    found = {
        id(value): value
        for value in (model.optimizer, *vars(model).values())
        if isinstance(value, keras.optimizers.Optimizer)
    }
    return list(found.values())


@contextlib.contextmanager
def unscaled_losses() -> Iterator[None]:
    """Within it a replica counts as the only one.

    Keras divides losses that it makes itself by the number of replicas, but not what a
    train_step computes; a step that adds up both would come out lopsided. Here
    gradients are weighed instead, which suits both, so Keras must not divide. It goes
    by this property.
    """
    tf.distribute.Strategy.num_replicas_in_sync = 1
    try:
        yield
    finally:
        del tf.distribute.Strategy.num_replicas_in_sync


@contextlib.contextmanager
def intercepted(
    model: keras.Model, weigh: Callable[[Any, list[Any]], list[Any]], clip_by: float
) -> Iterator[None]:
    """Within it the model's optimizers apply `weigh(optimizer, gradients)`, and clip to
    thresholds multiplied by `clip_by`."""
    with contextlib.ExitStack() as undo:
        for optimizer in optimizers_of(model):

            def apply(
                gradients, variables=None, optimizer=optimizer, apply=optimizer.apply
            ):
                return apply(weigh(optimizer, list(gradients)), variables)

            optimizer.apply = apply
            undo.callback(delattr, optimizer, "apply")
            clipping = optimizer.inner_optimizer if is_wrapper(optimizer) else optimizer
            for name in ("clipnorm", "global_clipnorm", "clipvalue"):
                if (threshold := getattr(clipping, name)) is not None:
                    undo.callback(setattr, clipping, name, threshold)
                    setattr(clipping, name, threshold * clip_by)
        yield


def is_wrapper(optimizer: Any) -> bool:
    """Whether it scales the loss for another optimizer, which it wraps."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def must_see_the_sum(optimizer: Any) -> bool:
    """Whether the optimizer looks at the whole batch's gradient before it takes a step:
    it clips it, or leaves the step out where the gradient is not finite."""
    return is_wrapper(optimizer) or any(
        (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue)
    )


def scaled(gradients: list[Any], factor: Any) -> list[Any]:
    def scale(gradient: Any) -> Any:
        if gradient is None:
            return None
        if isinstance(gradient, tf.IndexedSlices):
            values = gradient.values * tf.cast(factor, gradient.dtype)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return gradient * tf.cast(factor, gradient.dtype)

    return [scale(gradient) for gradient in gradients]


def scale_logs(logs: Logs, share: Any) -> Logs:
    return {name: tf.cast(value, tf.float32) * share for name, value in logs.items()}


def replica_number() -> int:
    return int(
        tf.get_static_value(
            tf.distribute.get_replica_context().replica_id_in_sync_group
        )
    )


def is_floating(variable: keras.Variable) -> bool:
    return tf.as_dtype(variable.dtype).is_floating


def moving_averages(model: keras.Model) -> list[keras.Variable]:
    """What layers gather outside of training by gradients, such as BatchNormalization's
    means."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [
        v
        for v in model.non_trainable_variables
        if is_floating(v) and id(v) not in metrics
    ]


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the model's `keras.random.SeedGenerator`s."""
    return [
        v for v in model.non_trainable_variables if v.name == "seed_generator_state"
    ]


def seed_offset(state: keras.Variable, number: int) -> tf.Tensor:
    return tf.constant([number * STRIDE_OF_SEEDS, 0], state.dtype)
