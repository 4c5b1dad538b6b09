"""Kernels: the weights that are pruned and clustered."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.compression.weights import weighted_layers

SUPPORTED = (
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "Embedding",
    "SeparableConv1D",
    "SeparableConv2D",
)
"""Layers whose kernels TF Model Optimization prunes and clusters (of separable ones,
the pointwise kernel)."""


def choose_layers(
    model: keras.Model, names: Sequence[str] | None, kinds: Sequence[str], verb: str
) -> dict[tuple[str, ...], Any]:
    """The layers to change, by path; without names all that can be and are not frozen."""
    holding = weighted_layers(model)
    able = {
        path: each for path, each in holding.items() if type(each).__name__ in kinds
    }
    if names is None:
        if not able:
            raise ValueError(
                f"{model.name!r} has no layer to {verb}: none of {', '.join(kinds)}"
            )
        chosen = {path: each for path, each in able.items() if each.trainable}
        if not chosen:
            raise UsageError(
                f"{model.name!r}: all layers to {verb} are frozen; set trainable=True in some"
            )
        return chosen
    chosen = {}
    for name in names:
        path = tuple(name.split("/"))
        if path not in holding:
            known = ["/".join(each) for each in able]
            raise ValueError(
                f"{model.name!r} has no layer {name!r} with weights{did_you_mean(name, known)}"
            )
        if path not in able:
            kind = type(holding[path]).__name__
            raise ValueError(
                f"layer {name!r} ({kind}): can {verb} only {', '.join(kinds)}"
            )
        if not able[path].trainable:
            raise UsageError(
                f"layer {name!r} is frozen: set its trainable=True, or do not name it"
            )
        chosen[path] = able[path]
    return chosen


def kernel_of(layer: Any) -> Any:
    """The largest of a layer's variables."""
    return max((np.asarray(each) for each in layer.weights), key=np.size)


def input_channels(layer: Any) -> int:
    """The channels that a layer's kernel takes in."""
    return kernel_of(layer).shape[-2]


def kernels_of(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights but biases and the like, by the path of the layer and their name."""
    return {
        "/".join((*path, variable.name)): np.asarray(variable)
        for path, layer in weighted_layers(model).items()
        for variable in layer.weights
        if len(variable.shape) > 1
    }
