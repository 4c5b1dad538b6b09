"""What `fit` is given: checked, counted, and put on the device."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.parameter_server import ParameterServers
from deep_learning_recipes.distribute.replicas import (
    Mirrored,
    Replicas,
    Workers,
    is_wrapper,
    optimizers_of,
)
from deep_learning_recipes.distribute.strategies import replicas_of


@dataclass(frozen=True)
class Training:
    """One call of `fit`: who trains on what, how often and in which order."""

    model: keras.Model
    replicas: Replicas | None
    """who trains; None where `model.fit` does"""
    data: Any
    """tensors on the device, nested as the model takes them, or a tf.data.Dataset"""
    validation_data: Any
    """the same, or None"""
    batch_size: int
    epochs: int
    initial_epoch: int
    shuffle: bool
    seed: int
    jit_compile: bool | None

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {count(self.data)} examples"
            )

    @property
    def drop_remainder(self) -> bool:
        """Whether an epoch's last, smaller batch is left out: Keras shares a batch out,
        and of that one some replicas might get nothing."""
        strategy = self.model.distribute_strategy
        return self.replicas is None and strategy.num_replicas_in_sync > 1

    @property
    def steps(self) -> int | None:
        """Batches of an epoch; None for a tf.data.Dataset, which is not counted."""
        if isinstance(self.data, tf.data.Dataset):
            return None
        if self.drop_remainder:
            return count(self.data) // self.batch_size
        return math.ceil(count(self.data) / self.batch_size)

    def order_of(self, epoch: int | tf.Tensor) -> Any:
        """The numbers of the examples in the order in which an epoch sees them; None
        for a tf.data.Dataset, which brings its own."""
        if isinstance(self.data, tf.data.Dataset):
            return None
        order = tf.range(count(self.data))
        if not self.shuffle:
            return order
        return tf.random.experimental.stateless_shuffle(order, (self.seed, epoch))


def check_arguments(
    model: keras.Model,
    x: Any,
    y: Any,
    sample_weight: Any,
    batch_size: int,
    epochs: int,
    initial_epoch: int,
) -> None:
    """Raises ValueError for what makes no sense, whoever trains."""
    if not model.compiled:
        raise ValueError(
            "the model is not compiled: call model.compile(...) before fit"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if epochs < 0 or initial_epoch < 0:
        raise ValueError(
            f"epochs={epochs}, initial_epoch={initial_epoch}: must be at least 0"
        )
    is_dataset = isinstance(x, tf.data.Dataset)
    if is_dataset and (y is not None or sample_weight is not None):
        raise ValueError(
            "x is a tf.data.Dataset: let it yield y and sample_weight as well"
        )


def who_trains(model: keras.Model, x: Any) -> Replicas | None:
    """The replicas that train the model, or None where `model.fit` does.

    Raises ValueError where several workers would have to train by `model.fit`, and
    UsageError for a model whose state several replicas cannot share, and for optimizers
    that take some steps otherwise, which Keras cannot under a strategy.
    """
    replicas = replicas_of(model)
    is_cluster = isinstance(replicas, (Workers, ParameterServers))
    has_several = is_cluster or model.distribute_strategy.num_replicas_in_sync > 1
    is_dataset = isinstance(x, tf.data.Dataset)
    if is_cluster and (is_dataset or model.run_eagerly):
        raise ValueError(
            "several workers train on arrays, compiled: not on a tf.data.Dataset, and not with "
            "run_eagerly=True"
        )
    inputs = getattr(model, "inputs", None) or ()
    if has_several and any(each.shape[0] for each in inputs):
        raise UsageError(
            f"--strategy: {model.name!r} takes batches of one size only, to carry a state from one "
            "to the next; train it on a single device, with --strategy cpu or gpu"
        )
    if isinstance(replicas, Mirrored) and model.run_eagerly:
        raise UsageError(
            "--strategy mirrored: several devices train compiled, not with "
            "run_eagerly=True; leave it out, or train with --strategy cpu or gpu"
        )
    strategies = (tf.distribute.MirroredStrategy, tf.distribute.ParameterServerStrategy)
    if isinstance(model.distribute_strategy, strategies):
        check_optimizers(model)
    # Keras divides a batch as if every slice had as many examples, and words.
    goes_to_keras = model.run_eagerly or (
        is_dataset and not isinstance(replicas, Mirrored)
    )
    return None if goes_to_keras else replicas


def check_optimizers(model: keras.Model) -> None:
    """Raises UsageError for what Keras does in some steps only: its condition cannot
    hold what replicas do together."""
    for optimizer in optimizers_of(model):
        inner = optimizer.inner_optimizer if is_wrapper(optimizer) else optimizer
        options = ["gradient_accumulation_steps"]
        if inner.use_ema:
            options.append("ema_overwrite_frequency")
        for option in options:
            if (steps := getattr(inner, option)) is not None:
                raise UsageError(
                    f"--strategy: Keras lacks {type(inner).__name__}({option}={steps}) "
                    "for mirrored devices and parameter servers; leave it out, or train "
                    "with --strategy cpu, gpu or multi_worker"
                )


def on_device(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Tensors for `train_step`, of floatx where they are floating, as `keras.Model.fit`
    makes; a tf.data.Dataset as it is.

    Raises ValueError for arrays of different lengths, or of none.
    """
    if isinstance(x, tf.data.Dataset):
        return x
    if sample_weight is not None and y is None:
        raise ValueError("sample_weight is given without y")
    data = keras.tree.map_structure(
        _to_tensor, keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
    )
    shapes = [tensor.shape for tensor in keras.tree.flatten(data)]
    if len({tuple(shape[:1]) for shape in shapes}) != 1 or shapes[0].rank == 0:
        raise ValueError(
            "x, y and sample_weight need the same number of examples on their first axis; "
            f"their shapes are {', '.join(str(tuple(shape)) for shape in shapes)}"
        )
    if shapes[0][0] == 0:
        raise ValueError("there is nothing to train on: the arrays hold no examples")
    return data


def validation_on_device(validation_data: Any) -> Any:
    """The same for `(x, y)`, `(x, y, sample_weight)`, a tf.data.Dataset or None."""
    if validation_data is None:
        return None
    return on_device(*keras.utils.unpack_x_y_sample_weight(validation_data))


def count(data: Any) -> int:
    """The number of examples in nested tensors."""
    return len(keras.tree.flatten(data)[0])


def take(data: Any, indices: tf.Tensor) -> Any:
    """The examples of nested tensors with these numbers."""
    return keras.tree.map_structure(lambda array: tf.gather(array, indices), data)


def _to_tensor(array: Any) -> tf.Tensor:
    tensor = array if tf.is_tensor(array) else tf.convert_to_tensor(np.asarray(array))
    if tensor.dtype.is_floating:
        return tf.cast(tensor, keras.config.floatx())
    return tensor
