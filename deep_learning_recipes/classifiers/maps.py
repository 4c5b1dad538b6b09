"""The layers of a network whose outputs are maps: convolutions and what follows them."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from deep_learning_recipes import UsageError
from deep_learning_recipes.classifiers.graph import inline
from deep_learning_recipes.classifiers.private_keras import calls_of
from deep_learning_recipes.classifiers.tokens import TokenMaps
from deep_learning_recipes.data.pixels import LUMINANCE
from deep_learning_recipes.private_keras import calls_in

CONVOLUTIONS = (
    layers.Conv2D,
    layers.Conv2DTranspose,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
)
NO_MAPS = "it has no convolution whose maps could be looked at"
# They make no maps of their own.
PASSING = (layers.MaxPooling2D, layers.AveragePooling2D, layers.Dropout)


def map_layers(model: keras.Model) -> list[Any]:
    """The layers, from the first convolution on, that make maps (batch, height, width,
    channels) of more than one place. Raises UsageError for a network without any."""
    found = [each for each in _with_maps(model) if not isinstance(each, TokenMaps)]
    if not any(isinstance(layer, CONVOLUTIONS) for layer in found):
        raise UsageError(f"{model.name}: {NO_MAPS}")
    return found


def _with_maps(model: keras.Model) -> list[Any]:
    seen: set[int] = set()
    found = []
    for node in calls_in(model):
        layer = node.operation
        is_first = isinstance(layer, (*CONVOLUTIONS, TokenMaps))
        if not is_first and not any(id(each) in seen for each in node.input_tensors):
            continue
        seen.update(id(each) for each in node.outputs)
        shape = node.outputs[0].shape
        if (
            isinstance(layer, layers.Layer)
            and len(calls_of(layer)) == len(node.outputs) == 1
            and len(shape) == 4
            and 1 not in shape[1:3]
        ):
            found.append(layer)
    return found


def last_convolution(model: keras.Model) -> str:
    """The name of the layer whose maps are the last ones: the last convolution, with
    what normalizes, adds or bends it, before any pooling; in a transformer the tokens
    that its last attention takes.

    Raises UsageError for a network without maps.
    """
    for layer in reversed(_with_maps(model)):
        if not isinstance(layer, PASSING):
            return str(layer.name)
    raise UsageError(f"{model.name}: {NO_MAPS}")


def first_convolution(model: keras.Model) -> Any:
    """The first convolution, a layer. Raises UsageError for a network without any."""
    return next(layer for layer in map_layers(model) if isinstance(layer, CONVOLUTIONS))


def convolutions(model: keras.Model) -> keras.Model:
    """From square pictures in color to the maps of a network's first convolution at
    each resolution, finest first, with the activation that is part of the layer.

    Raises UsageError for a network without any, and for one that takes other pictures
    and cannot do with these.
    """
    first: dict[int, Any] = {}
    for layer in map_layers(model):
        if isinstance(layer, CONVOLUTIONS):
            first.setdefault(layer.output.shape[1], layer.output)
    outputs = [first[size] for size in sorted(first, reverse=True)]
    images = model.inputs[0]
    _, height, width, channels = images.shape
    if height != width or channels != 3:
        side = min(height, width)
        images = keras.Input((side, side, 3), name="images")
        gray = keras.ops.matmul(images, LUMINANCE[:, None])
        part = keras.Model(model.inputs[0], outputs)
        try:
            outputs = inline(part, images if channels == 3 else gray)
        except ValueError as error:
            raise UsageError(
                f"{model.name}: it takes pictures of {height} by {width} pixels only, "
                "and square ones are needed"
            ) from error
    # Keras gives a list of one output without the list, but takes it off only once.
    return keras.Model(images, outputs if outputs[1:] else [outputs])
