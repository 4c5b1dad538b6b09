"""Losses of replicas that mean over something else than the examples of a batch.

What a loss makes of a slice counts by the slice's share of the examples. A mean over
the tokens that a mask leaves, over those that `ignore_class` leaves, or over weights
counts by these instead, and a sum counts in full: here such a loss is multiplied so
that the replicas' losses, weighed by shares, add up to the loss of the batch.

Keras reduces the losses of all its Loss classes by one function, which it does not
document: `keras.src.losses.loss.reduce_weighted_values`, tried on Keras 3.15.1. By
another name, there would be an AttributeError.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses import loss as losses_of_keras


@contextlib.contextmanager
def of_whole_batches(
    model: keras.Model,
    share_here: Callable[[], tf.Tensor],
    add_up: Callable[[tf.Tensor], tf.Tensor],
) -> Iterator[None]:
    """Within it losses are of such a size that they can be weighed by shares.

    share_here: gives this replica's share of the batch's examples.
    add_up: gives the sum of a tensor over the replicas.
    """
    reduce_by_keras = losses_of_keras.reduce_weighted_values
    compute_loss = model.compute_loss
    has_several = keras.tree.is_nested(model.loss)
    computing = threading.local()  # each replica has a thread

    def compute_compiled_loss(*arguments: Any, **named: Any) -> tf.Tensor:
        computing.compiled = True
        try:
            return compute_loss(*arguments, **named)
        finally:
            computing.compiled = False

    def reduce(
        values: Any,
        sample_weight: Any = None,
        mask: Any = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> tf.Tensor:
        loss = reduce_by_keras(values, sample_weight, mask, reduction, dtype)
        is_compiled = getattr(computing, "compiled", False)
        if reduction in (None, "none") or tf.convert_to_tensor(values).shape.rank == 0:
            return loss
        share = share_here()
        if reduction != "mean_with_sample_weight":
            sample_weight = None
        if reduction == "sum":
            if is_compiled:  # a train_step divides a sum as it likes
                loss *= tf.cast(tf.math.divide_no_nan(1.0, share), loss.dtype)
        elif mask is not None or sample_weight is not None:
            ones = tf.ones_like(values, "float32")
            divisor = reduce_by_keras(ones, sample_weight, mask, "sum", "float32")
            # Of a batch that all see, those without a share count nothing.
            divisor = tf.where(share > 0, tf.stop_gradient(divisor), 0)
            part = tf.math.divide_no_nan(divisor, add_up(divisor) * share)
            loss *= tf.cast(part, loss.dtype)
        if has_several and is_compiled:
            # Keras keeps the mean of each of several, whatever the size of a slice.
            whole = add_up(tf.cast(loss, tf.float32) * share)
            loss += tf.stop_gradient(tf.cast(whole, loss.dtype) - loss)
        return loss

    losses_of_keras.reduce_weighted_values = reduce
    model.compute_loss = compute_compiled_loss
    try:
        yield
    finally:
        losses_of_keras.reduce_weighted_values = reduce_by_keras
        del model.compute_loss
