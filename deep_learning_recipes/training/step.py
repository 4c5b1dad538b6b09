"""One step of a model, traced once for batches of any size: tracing is most of what a
small run costs."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import tensorflow as tf

from deep_learning_recipes.distribute.parameter_server import (
    ParameterServers,
    counting_apart,
)
from deep_learning_recipes.distribute.replicas import (
    Logs,
    Replicas,
    Step,
    counting,
    is_wrapper,
    optimizers_of,
)
from deep_learning_recipes.training import bounds


def spec_of_batches(data: Any) -> Any:
    """What batches of nested tensors, or of a tf.data.Dataset, have in common: all but
    the number of examples. Raises ValueError for a Dataset without batches."""
    if isinstance(data, tf.data.Dataset):
        data = data.element_spec

    def spec_of(array: Any) -> tf.TensorSpec:
        if array.shape.rank == 0:
            raise ValueError("the tf.data.Dataset brings single examples: batch() it")
        is_known = array.shape.rank is not None
        return tf.TensorSpec(
            (None, *array.shape[1:]) if is_known else None, array.dtype
        )

    return keras.tree.map_structure(spec_of, data)


def trace_step(
    model: keras.Model,
    replicas: Replicas,
    step_name: str,
    batch_spec: Any,
    may_not_count: bool,
) -> Any:
    """The model's `train_step` or `test_step` as a concrete function of what
    `replicas.divide` makes of a batch. It returns the logs, and what `bounds.check`
    wants to know.

    may_not_count: whether metrics must leave out what a replica sees without a share of it.
    """
    counts_apart = isinstance(replicas, ParameterServers)
    # Until it is built, a LossScaleOptimizer scales by a constant.
    scales_by_constant = any(
        is_wrapper(each) and not each.built for each in optimizers_of(model)
    )
    step = getattr(model, step_name)
    traced = trace(step, model, replicas, batch_spec)
    if may_not_count or counts_apart or scales_by_constant:
        # Now that all metrics and optimizers have variables.
        traced = trace(step, model, replicas, batch_spec, may_not_count, counts_apart)
    return traced


def trace(
    step: Step,
    model: keras.Model,
    replicas: Replicas,
    batch_spec: Any,
    may_not_count: bool = False,
    counts_apart: bool = False,
) -> Any:
    """The same for any step of the model."""
    if counts_apart:
        step = counting_apart(step, model)
    if may_not_count:
        step = counting(step, model)

    def step_of_replicas(batches: Any, shares: Any) -> tuple[Logs, tf.Tensor]:
        if may_not_count:
            batches = list(zip(batches, shares, strict=True))
        with _variables_created_outside(replicas):
            logs = replicas.run(step, model, batches, shares)
        return logs, bounds.out_of_bounds(tf.compat.v1.get_default_graph())

    slices = len(replicas.local)
    signature = [[batch_spec] * slices, [tf.TensorSpec((), tf.float32)] * slices]
    with replicas.context():
        function = tf.function(step_of_replicas, signature, autograph=False)
        return function.get_concrete_function()


@contextlib.contextmanager
def _variables_created_outside(replicas: Replicas) -> Iterator[None]:
    """Within it a function that is being traced creates its variables outside of
    itself.

    Optimizers and metrics create their variables in the first step. TensorFlow traces
    a function twice that creates variables; created outside of it, once is enough.
    """
    with ThreadPoolExecutor(1) as outside:

        def create_outside(**arguments: Any) -> tf.Variable:
            with replicas.context():
                return tf.Variable(**arguments)

        def create(
            next_creator: Callable[..., tf.Variable], **arguments: Any
        ) -> tf.Variable:
            if callable(arguments["initial_value"]):
                return outside.submit(create_outside, **arguments).result()
            return next_creator(**arguments)

        with tf.variable_creator_scope(create):
            yield
