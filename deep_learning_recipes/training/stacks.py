"""Many small networks of one architecture as one: their weights lie in one array, so
that one compiled call trains them all.

What PyTorch does by `torch.func.stack_module_state` and `vmap`. A comparison over
seeds, rates and strengths then costs little more than a single training. Each network
has a row: what works on rows (update rules, Keras's elementwise optimizers such as
Adam) works on each network by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def stack(build: Callable[[], keras.Model], count: int) -> tuple[keras.Model, Any]:
    """A network that gives the computation, and the starting weights of `count` of
    them.

    build: makes a network, with a start of its own at each call. It may hold nothing
        but trainable weights of one type (no batch normalization).

    Returns the network and its starts, float (count, weights of a network).
    Raises ValueError for a network with other variables.
    """
    model = build()
    if model.non_trainable_variables:
        names = ", ".join(each.path for each in model.non_trainable_variables)
        raise ValueError(f"{model.name} holds what is not trained: {names}")
    rows = [_flat(model)]
    rows.extend(_flat(build()) for _ in range(count - 1))
    return model, np.stack(rows)


def _flat(model: keras.Model) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def weights_of(model: keras.Model, rows: Any) -> list[Any]:
    """The model's weights of each network, (networks, *shape) each, in the order of
    `model.weights`. rows: (networks, weights)."""
    sizes = [int(np.prod(weight.shape)) for weight in model.weights]
    parts = tf.split(rows, sizes, axis=1)
    return [
        tf.reshape(part, (-1, *weight.shape))
        for part, weight in zip(parts, model.weights, strict=True)
    ]


def call(model: keras.Model, rows: Any, x: Any) -> Any:
    """What each network says of the same examples.

    rows: (networks, weights). x: (batch, ...). Returns (networks, batch, ...).
    """
    # Copies of x, as a product of two stacks is far faster than one by a shared matrix.
    copies = tf.repeat(x[tf.newaxis], tf.shape(rows)[0], axis=0)
    return call_each(model, rows, copies)


def call_each(model: keras.Model, rows: Any, x: Any) -> Any:
    """What each network says of examples of its own.

    rows: (networks, weights). x: (networks, batch, ...). Returns (networks, batch,
    ...).
    """
    return tf.vectorized_map(
        lambda each: model.stateless_call(*each)[0], (weights_of(model, rows), [], x)
    )


def set_weights(model: keras.Model, row: Any) -> None:
    """Gives the model the weights of one network, (weights,)."""
    weights = weights_of(model, np.asarray(row)[np.newaxis])
    model.set_weights([weight[0].numpy() for weight in weights])
