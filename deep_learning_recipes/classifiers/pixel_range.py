"""What values a network's pixels have: found by following them through its graph."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from deep_learning_recipes.classifiers.graph import walk

Range = tuple[float, float]
BYTES, UNIT, SIGNED = (0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)
SIXTEEN_BITS = (0.0, 65535.0)


class FirstWeights(Exception):
    """Ends the way of some pictures through a graph, where they meet weights."""

    def __init__(self, operation: Any, values: Any):
        self.operation, self.values = operation, values


def find_range(model: keras.Model) -> Range | None:
    """The least and the largest value of the pixels that a network takes; None where
    its graph leaves it open.

    Even pictures go through all that comes before the first weights: augmentation,
    which does nothing at inference, and arithmetic, whether of layers or of bare
    operations. Whoever divides by 255 has bytes before; whoever subtracts a half has
    not.
    """
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        return BYTES
    size = [side or 32 for side in model.inputs[0].shape[1:]]
    zero, one, half, full = (
        _before_weights(model, size, value) for value in (0, 1, 128, 255)
    )
    if zero is None or one is None or half is None or full is None:
        return None
    slope = (full - zero) / 255
    matters = slope != 0
    if not matters.any():
        return None  # such as what subtracts each picture's own mean
    if not np.allclose((half - zero) / 128, slope, rtol=0.05):
        return _range_of_curve(np.abs(one - zero).mean(), np.abs(full - zero).mean())
    zero, slope = zero[matters], slope[matters]
    middle = float(np.median(-zero / slope))  # what becomes 0
    steepness = float(np.median(np.abs(slope)))
    if steepness < 1e-4:
        return SIXTEEN_BITS
    if steepness < 0.02 or middle > 2:
        return BYTES
    if middle < -0.25:
        return SIGNED
    if steepness > 50 or middle > 0.02:
        return UNIT
    return None


def _range_of_curve(first: float, whole: float) -> Range | None:
    """Where what happens is bent: how far the values go from 0 to 1, and from 0 to
    255."""
    if first > 0.9 * whole:  # cut off beyond 1
        return UNIT
    return BYTES if first < 0.3 * whole and whole < 10 else None


def _before_weights(
    model: keras.Model, size: list[int], value: float
) -> np.ndarray | None:
    """What a picture whose pixels all have that value has become in its middle."""

    def call(operation: Any, arguments: Any, options: Any) -> Any:
        is_normalization = isinstance(operation, keras.layers.Normalization)
        if getattr(operation, "weights", ()) and not is_normalization:
            raise FirstWeights(operation, keras.tree.flatten(arguments)[0])
        return operation(*arguments, **options)

    picture = keras.ops.full((1, *size), value, dtype="float32")
    try:
        walk(model, [picture], call)
    except FirstWeights as reached:
        values = np.asarray(keras.ops.cast(reached.values, "float32"), "float64")[0]
        if values.ndim == 3:
            values = values[values.shape[0] // 2, values.shape[1] // 2]
        first = reached.operation
        if isinstance(first, keras.layers.BatchNormalization):
            # Its statistics are those of the pictures that it was trained on.
            spread = np.sqrt(np.asarray(first.moving_variance) + first.epsilon)
            values = (values - np.asarray(first.moving_mean)) / spread
        return values
    except Exception:  # one picture alone, or one of a single color, is not for it
        return None
    return None
