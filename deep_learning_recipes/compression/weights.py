"""Weights between Keras 3 layers and what stands for them in tf_keras."""

from typing import Any

import keras
import numpy as np

from deep_learning_recipes.compression.counterparts import MADE_WITH_STATE, describe


def weighted_layers(
    model: keras.Model, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], Any]:
    """All layers that hold weights, those of nested models included, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= weighted_layers(layer, (*path, layer.name))
        elif layer.weights:
            found[(*path, layer.name)] = layer
    return found


def copy_weights(source: Any, target: Any) -> None:
    """Gives what stands for a Keras 3 layer in tf_keras the layer's weights."""
    if type(source).__name__ in MADE_WITH_STATE:
        return
    values = [np.asarray(variable) for variable in variables_of(source)]
    check_shapes(source, values, target.get_weights())
    target.set_weights(values)


def assign(layer: Any, values: list[np.ndarray]) -> None:
    """Gives a Keras 3 layer the weights of what stands for it in tf_keras."""
    variables = variables_of(layer)
    check_shapes(layer, variables, values)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def variables_of(layer: Any) -> list[Any]:
    """A Keras 3 layer's variables in the order of tf_keras, which puts the vector that
    SpectralNormalization keeps behind the weights of its layer."""
    return sorted(layer.weights, key=lambda variable: variable.name == "vector_u")


def check_shapes(layer: Any, own: Any, other: Any) -> None:
    """Raises ValueError unless two lists of arrays, of a Keras 3 layer and of what
    stands for it, have the same shapes."""
    shapes = [tuple(each.shape) for each in own]
    others = [tuple(each.shape) for each in other]
    if shapes != others:
        raise ValueError(
            f"{describe(layer)}: its weights have shapes {shapes} in Keras 3, {others} in tf_keras"
        )
