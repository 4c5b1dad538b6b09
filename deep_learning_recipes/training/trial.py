"""A batch that replicas try before they train: does what they add up to equal what one
device makes of it?

It does as long as losses are means over the examples, or those of Keras. A `train_step`,
a loss or a metric of the user's own may do anything with a batch, and only a trial
shows it.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.replicas import (
    Logs,
    Replicas,
    Step,
    optimizers_of,
)
from deep_learning_recipes.private_keras import all_layers
from deep_learning_recipes.training import private_keras
from deep_learning_recipes.training.prepare import Training, count, take
from deep_learning_recipes.training.step import spec_of_batches, trace

TOLERANCE = 1e-3
TOLERANCE_OF_HALF_PRECISION = 3e-2
"""of 16 bits, and of a GPU, whose products have 10 bits after the point"""
SMALLEST_DIFFERENCE = 1e-6
GRADIENT = "gradient "
DROPOUT = {
    keras.layers.Dropout: "rate",
    keras.layers.AlphaDropout: "rate",
    keras.layers.GaussianDropout: "rate",
    keras.layers.GaussianNoise: "stddev",
}


def try_replicas(training: Training, replicas: Replicas) -> None:
    """Raises UsageError where several replicas would not train as one device does.

    A `train_step` that draws random numbers, other than for dropout, or has moving
    averages cannot be compared, and is not tried. Nothing that training starts from is
    changed.
    """
    model = training.model
    has_own_step = type(model).train_step is not keras.Model.train_step
    harmless = [*model.metrics_variables, *seeds_of_dropout(model)]
    kept = {id(each) for each in model.non_trainable_variables}
    has_state = not kept <= {id(each) for each in harmless}
    if replicas.count == 1 or (has_own_step and has_state):
        return
    spec = spec_of_batches(training.data)
    known, key = private_keras.compiled_epochs(model), repr(("trial", spec))
    if key in known:
        return
    batch = first_batch(training)
    if count(batch) < replicas.count:
        return

    before = [np.array(variable) for variable in model.trainable_variables]
    tried = Trial(model, replicas, has_own_step, spec)
    whole, again, divided = tried.whole(batch), tried.whole(batch), tried.divided(batch)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        variable.assign(value)
    tolerance = _tolerance(model)
    draws_numbers = _first_difference(whole, again, tolerance) is not None
    name = _first_difference(whole, divided, tolerance)
    if name is not None and not draws_numbers:
        raise UsageError(_message(model, has_own_step, replicas, name))
    private_keras.keep_epoch(model, key, tried.run)


def first_batch(training: Training) -> Any:
    if isinstance(training.data, tf.data.Dataset):
        for batch in training.data:
            return batch
        raise ValueError("there is nothing to train on: the tf.data.Dataset is empty")
    return take(training.data, training.order_of(0)[: training.batch_size])


class Trial:
    """One step of a model on a batch, without a change of its weights."""

    def __init__(
        self, model: keras.Model, replicas: Replicas, has_own_step: bool, spec: Any
    ):
        self.replicas = replicas
        step = recording(model) if has_own_step else without_statistics(model)
        with without_dropout(model):
            traced = trace(step, model, replicas, spec, may_not_count=True)
        metrics = [
            metric
            for each in model.metrics
            for metric in getattr(each, "metrics", [each])
            if private_keras.is_own_metric(metric)
        ]

        def run(batches: list[Any], shares: list[tf.Tensor]) -> Logs:
            model.reset_metrics()
            logs, _ = traced(batches, shares)
            totals = replicas.add_up(list(logs.values()))
            replicas.settle(model)
            # Results of metrics hold one replica's examples until they have settled.
            results = set(model.get_metrics_result()) - {"loss"}
            found = dict(zip(logs, totals, strict=True))
            found = {name: found[name] for name in found if name not in results}
            return found | {metric.name: metric.result() for metric in metrics}

        self.run = tf.function(run, autograph=False)

    def whole(self, batch: Any) -> Logs:
        """What one device makes of it: each replica sees all, and one counts."""
        shares = [tf.constant(float(number == 0)) for number in self.replicas.local]
        return self._run([batch] * len(shares), shares)

    def divided(self, batch: Any) -> Logs:
        slices, shares = self.replicas.divide(tf.range(count(batch)))
        return self._run([take(batch, each) for each in slices], shares)

    def _run(self, batches: list[Any], shares: list[tf.Tensor]) -> Logs:
        with self.replicas.context():
            return self.run(batches, shares)


def dropout_layers(model: keras.Model) -> Iterator[tuple[keras.Layer, str]]:
    """Layers that draw numbers in training, and the name of how much they do."""
    for layer in all_layers(model):
        for kind, name in DROPOUT.items():
            if isinstance(layer, kind):
                yield layer, name


def seeds_of_dropout(model: keras.Model) -> list[keras.Variable]:
    return [
        layer.seed_generator.state
        for layer, name in dropout_layers(model)
        if getattr(layer, name) > 0
    ]


@contextlib.contextmanager
def without_dropout(model: keras.Model) -> Iterator[None]:
    """Within it dropout does nothing, also in training."""
    with contextlib.ExitStack() as undo:
        for layer, name in dropout_layers(model):
            undo.callback(setattr, layer, name, getattr(layer, name))
            setattr(layer, name, 0.0)
        yield


def without_statistics(model: keras.Model) -> Step:
    """Keras's `train_step` up to the gradients, without statistics of the batch."""

    def step(batch: Any) -> Logs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=False)
            loss = model.compute_loss(x, y, y_pred, sample_weight, training=False)
        model.compute_metrics(x, y, y_pred, sample_weight)
        gradients = tape.gradient(loss, model.trainable_variables)
        return {"loss": tf.reduce_mean(loss), **_named(gradients)}

    return step


def recording(model: keras.Model) -> Step:
    """The model's own `train_step`, whose gradients are returned, not applied."""
    of_thread: dict[int, list[Any]] = {}  # each replica has one

    def record(gradients: Any, variables: Any = None) -> None:
        of_thread[threading.get_ident()].extend(gradients)

    def step(batch: Any) -> Logs:
        of_thread[threading.get_ident()] = []
        for optimizer in optimizers_of(model):
            optimizer.apply = record  # the replicas take it away again
        logs = model.train_step(batch)
        return {**logs, **_named(of_thread.pop(threading.get_ident()))}

    return step


def _named(gradients: list[Any]) -> Logs:
    return {
        # The sum of an embedding's rows is as good as the rows.
        f"{GRADIENT}{number}": tf.reduce_sum(gradient.values, axis=0)
        if isinstance(gradient, tf.IndexedSlices)
        else gradient
        for number, gradient in enumerate(gradients)
        if gradient is not None
    }


def _first_difference(expected: Logs, found: Logs, tolerance: float) -> str | None:
    """The name of what differs by more than rounding does; all gradients are compared
    together, and first."""
    gradients = [name for name in expected if name.startswith(GRADIENT)]
    others = [[name] for name in expected if not name.startswith(GRADIENT)]
    for together in (gradients, *others):
        whole, divided = (
            np.concatenate([np.float64(each).ravel() for each in flat])
            for flat in (
                keras.tree.flatten([[0.0], *(values[name] for name in together)])
                for values in (expected, found)
            )
        )
        allowed = tolerance * np.linalg.norm(whole) + SMALLEST_DIFFERENCE
        if np.linalg.norm(whole - divided) > allowed:
            return together[0]
    return None


def _tolerance(model: keras.Model) -> float:
    precisions = {layer.compute_dtype for layer in all_layers(model)}
    if precisions & {"float16", "bfloat16"} or tf.config.list_physical_devices("GPU"):
        return TOLERANCE_OF_HALF_PRECISION
    return TOLERANCE


def _message(
    model: keras.Model, has_own_step: bool, replicas: Replicas, name: str
) -> str:
    losses = [
        str(getattr(each, "name", None) or getattr(each, "__name__", each))
        for each in keras.tree.flatten(model.loss)
    ]
    if name != "loss" and not name.startswith(GRADIENT):
        what = f"what it logs as {name!r}"
    elif has_own_step:
        what = "the loss of its train_step"
    else:
        what = f"its loss {', '.join(losses)}"
    return (
        f"--strategy: {replicas.count} replicas cannot train {model.name!r} as one "
        f"device would: {what} is no mean over the examples; train it on a single "
        "device, with --strategy cpu or gpu"
    )
