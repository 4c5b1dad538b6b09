"""Many small networks of one architecture as one: their weights lie in one array, a row
each, so that one compiled call trains them all.

What PyTorch does by `torch.func.stack_module_state` and `vmap`. A comparison over
seeds, rates and strengths then costs little more than a single training. What works on
rows (update rules, Keras's elementwise optimizers such as Adam) works on each network
by itself.

What a layer keeps and does not learn (the moving averages of batch normalization, a
frozen layer) lies in the row as well. Its gradient is 0; `updated` gives what a batch
makes of it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def row_of(model: keras.Model) -> np.ndarray:
    """The weights of one network, (weights,). Rows of networks of one architecture make
    a stack, (networks, weights).

    Raises ValueError for a model that holds more than weights (the seeds of dropout),
    which a row has no place for.
    """
    weights = {id(each) for each in model.weights}
    more = [each.path for each in model.variables if id(each) not in weights]
    if more:
        raise ValueError(f"{model.name} holds what is no weight: {', '.join(more)}")
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


def rows_of(weights: list[Any]) -> Any:
    """The other way round: (networks, *shape) each become (networks, weights)."""
    return tf.concat([tf.reshape(w, (tf.shape(w)[0], -1)) for w in weights], axis=1)


def call(model: keras.Model, rows: Any, x: Any, training: bool = False) -> Any:
    """What each network says of the same examples.

    rows: (networks, weights). x: (batch, ...). Returns (networks, batch, ...).
    """
    return call_each(model, rows, _copies(rows, x), training)


def call_each(model: keras.Model, rows: Any, x: Any, training: bool = False) -> Any:
    """What each network says of examples of its own.

    rows: (networks, weights). x: (networks, batch, ...). Returns (networks, batch,
    ...).
    """
    return _stateless_call(model, weights_of(model, rows), x, training)[0]


def updated(model: keras.Model, rows: Any, x: Any) -> Any:
    """The rows after the networks have seen a batch in training: what is learned is the
    same, what is kept without a gradient (moving averages) is new.

    rows: (networks, weights). x: (batch, ...). Returns (networks, weights).
    """
    weights = weights_of(model, rows)
    _, kept = _stateless_call(model, weights, _copies(rows, x), training=True)
    places = _places(model, model.non_trainable_variables)
    for place, value in zip(places, kept, strict=True):
        weights[place] = tf.cast(value, rows.dtype)
    return rows_of(weights)


def _copies(rows: Any, x: Any) -> Any:
    # As a product of two stacks is far faster than one by a shared matrix.
    return tf.repeat(x[tf.newaxis], tf.shape(rows)[0], axis=0)


def _stateless_call(model: keras.Model, weights: list[Any], x: Any, training: bool):
    """The outputs, (networks, batch, ...), and what is kept, (networks, *shape)
    each."""
    learned = _places(model, model.trainable_variables)
    kept = _places(model, model.non_trainable_variables)
    fixed = [tf.stop_gradient(weights[place]) for place in kept]
    return tf.vectorized_map(
        lambda each: model.stateless_call(*each, training=training),
        ([weights[place] for place in learned], fixed, x),
    )


def _places(model: keras.Model, variables: list[Any]) -> list[int]:
    """Where in `model.weights` each of these is."""
    places = {id(each): place for place, each in enumerate(model.weights)}
    return [places[id(each)] for each in variables]


def losses(
    model: keras.Model, rows: Any, x: Any, y: Any, training: bool = False
) -> Any:
    """Each network's cross-entropy in nats on the same examples, (networks,), its
    outputs taken as logits.

    rows: (networks, weights). x: (batch, ...). y: (batch,) labels.
    """
    return losses_each(model, rows, _copies(rows, x), _copies(rows, y), training)


def losses_each(
    model: keras.Model, rows: Any, x: Any, y: Any, training: bool = False
) -> Any:
    """As `losses`, each network's on examples of its own: x (networks, batch, ...), y
    (networks, batch)."""
    logits = tf.cast(call_each(model, rows, x, training), "float32")
    found = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return tf.reduce_mean(found, axis=1)


def gradients(
    model: keras.Model, rows: Any, x: Any, y: Any, training: bool = False
) -> Any:
    """The gradient of each network's loss by its own weights, (networks, weights), on
    the same examples."""
    return gradients_each(model, rows, _copies(rows, x), _copies(rows, y), training)


def gradients_each(
    model: keras.Model, rows: Any, x: Any, y: Any, training: bool = False
) -> Any:
    """As `gradients`, on examples of each network's own, as of `losses_each`.

    No other loss depends on a network's weights, so it is that of the sum.
    """
    with tf.GradientTape() as tape:
        values = tf.identity(rows)
        tape.watch(values)
        loss = tf.reduce_sum(losses_each(model, values, x, y, training))
    return tape.gradient(loss, values)


def bounded(losses: Any, worst: float) -> np.ndarray:
    """Losses of networks of which some may have diverged: what is no number, or worse,
    counts as `worst`."""
    return np.minimum(np.nan_to_num(losses, nan=worst, posinf=worst), worst)


def set_weights(model: keras.Model, row: Any) -> None:
    """Gives the model the weights of one network, (weights,)."""
    weights = weights_of(model, np.asarray(row)[np.newaxis])
    model.set_weights([weight[0].numpy() for weight in weights])
