"""Many small networks of one architecture as one: their weights lie in one array, a row
each, so that one compiled call trains them all.

What PyTorch does by `torch.func.stack_module_state` and `vmap`. A comparison over
seeds, rates and strengths then costs little more than a single training. What works on
rows (update rules, Keras's elementwise optimizers such as Adam) works on each network
by itself.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def row_of(model: keras.Model) -> np.ndarray:
    """The weights of one network, (weights,). Rows of networks of one architecture make
    a stack, (networks, weights).

    Raises ValueError for a model that holds more than trainable weights (batch
    normalization), which a row has no place for.
    """
    if model.non_trainable_variables:
        names = ", ".join(each.path for each in model.non_trainable_variables)
        raise ValueError(f"{model.name} holds what is not trained: {names}")
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


def losses(model: keras.Model, rows: Any, x: Any, y: Any) -> Any:
    """Each network's cross-entropy in nats, (networks,), its outputs taken as logits.

    rows: (networks, weights). x: (batch, ...). y: (batch,) labels.
    """
    logits = tf.cast(call(model, rows, x), "float32")
    labels = tf.repeat(y[tf.newaxis], tf.shape(rows)[0], axis=0)
    found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(found, axis=1)


def gradients(model: keras.Model, rows: Any, x: Any, y: Any) -> Any:
    """The gradient of each network's loss by its own weights, (networks, weights).

    No other loss depends on them, so it is that of the sum.
    """
    with tf.GradientTape() as tape:
        values = tf.identity(rows)
        tape.watch(values)
        loss = tf.reduce_sum(losses(model, values, x, y))
    return tape.gradient(loss, values)


def set_weights(model: keras.Model, row: Any) -> None:
    """Gives the model the weights of one network, (weights,)."""
    weights = weights_of(model, np.asarray(row)[np.newaxis])
    model.set_weights([weight[0].numpy() for weight in weights])
