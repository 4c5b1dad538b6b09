"""Bare `keras.ops` operations as layers, where tf_keras has one that does the same."""

from typing import Any

import numpy as np
import tf_keras

from deep_learning_recipes.compression.activations import tf_keras_activation


def layer_for_operation(
    operation: Any, call: dict, inputs: list[Any], options: dict[str, Any]
) -> Any:
    """The tf_keras layer that computes what a `keras.ops` operation does, or None. With
    layers TF Model Optimization knows what it sees."""
    kind = type(operation).__name__
    values = [*call["args"], *call["kwargs"].values()]
    config = operation.get_config()
    shapes = [tuple(each.shape) for each in inputs]
    layers = tf_keras.layers
    if any(not each.dtype.is_floating for each in inputs):
        return None
    if kind in ("Relu", "Sigmoid", "Tanh", "Silu"):
        return layers.Activation(tf_keras_activation(kind.lower()), **options)
    if kind == "Softmax" and config.get("axis", -1) == -1:
        return layers.Activation("softmax", **options)
    if kind in ("Add", "Subtract", "Multiply", "Maximum", "Minimum"):
        same = (
            len(inputs) == len(values) == 2
            and shapes[0] == shapes[1]
            and shapes[0][0] is None
        )
        return getattr(layers, kind)(**options) if same else None
    if kind == "Concatenate" and len({each.dtype for each in inputs}) == 1:
        return layers.Concatenate(axis=config.get("axis", -1), **options)
    if kind == "Mean" and len(shapes[0]) == 4:
        axis = config.get("axis") or ()
        if tuple(axis if isinstance(axis, (list, tuple)) else [axis]) == (1, 2):
            keepdims = config.get("keepdims", False)
            return layers.GlobalAveragePooling2D(keepdims=keepdims, **options)
    if kind == "Reshape":
        first, *rest = config.get("newshape", (None,))
        known = None not in shapes[0][1:] and all(each and each > 0 for each in rest)
        if first == -1 and known and rest and np.prod(rest) == np.prod(shapes[0][1:]):
            return layers.Reshape(tuple(rest), **options)
    return None
