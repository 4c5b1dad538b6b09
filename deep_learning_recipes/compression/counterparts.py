"""Which layers of Keras 3 tf_keras has, and what to use in place of the others."""

import importlib
from typing import Any

import keras
import tf_keras

from deep_learning_recipes.compression import private_keras
from deep_learning_recipes.compression.tf_keras_layers import OWN

INSTEAD = {
    "RandomCrop": "CenterCrop, or the same layer in the data pipeline",
    "Lambda": "keras.ops on the tensors themselves, or an Activation layer",
    "RMSNormalization": "LayerNormalization",
    "GroupQueryAttention": "MultiHeadAttention",
    "ReversibleEmbedding": "Embedding, and Dense for the way back",
    "AdaptiveAveragePooling1D": "AveragePooling1D or GlobalAveragePooling1D",
    "AdaptiveAveragePooling2D": "AveragePooling2D or GlobalAveragePooling2D",
    "AdaptiveAveragePooling3D": "AveragePooling3D or GlobalAveragePooling3D",
    "AdaptiveMaxPooling1D": "MaxPooling1D or GlobalMaxPooling1D",
    "AdaptiveMaxPooling2D": "MaxPooling2D or GlobalMaxPooling2D",
    "AdaptiveMaxPooling3D": "MaxPooling3D or GlobalMaxPooling3D",
    "STFTSpectrogram": "keras.ops.stft, or spectrograms computed in the data pipeline",
    "MelSpectrogram": "spectrograms computed in the data pipeline",
}
"""For layers that tf_keras has no counterpart of."""
DIFFERENT = ("Lambda", "RandomCrop")
"""Layers that both have, but not the same: a Lambda cannot be seen into, and tf_keras's
RandomCrop resizes in inference, where Keras 3 leaves the image as it is."""
AUGMENTS = "the same layer in the data pipeline (dataset.map), outside of the model"
BUILD_IT = "a functional model of layers from keras.layers and of keras.ops, which can be seen into"
LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
MADE_WITH_STATE = ("Normalization", *LOOKUPS)
"""Layers whose tf_keras counterpart is made with what they found in `adapt`."""


def counterpart(kind: type) -> type | None:
    """The class that stands for a Keras 3 layer's class in tf_keras, if there is
    one."""
    name = kind.__name__
    module = private_keras.module_of_application(kind)
    if module is not None:
        return getattr(importlib.import_module(module), name, None)
    if kind is not getattr(keras.layers, name, None) or name in DIFFERENT:
        return None
    return OWN.get(name) or getattr(tf_keras.layers, name, None)


def check_layer(layer: Any) -> None:
    """Raises ValueError, with a way out, for a layer that tf_keras does not have."""
    if counterpart(type(layer)) is not None:
        return
    name = type(layer).__name__
    if type(layer) is not getattr(keras.layers, name, None):
        raise ValueError(f"{describe(layer)}: a class of its own; use {BUILD_IT}")
    other = AUGMENTS if hasattr(layer, "transform_images") else BUILD_IT
    raise ValueError(
        f"{describe(layer)}: not in tf_keras; use {INSTEAD.get(name, other)}"
    )


def describe(operation: Any) -> str:
    """What messages call a layer or an operation."""
    kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
    return f"{kind} {operation.name!r} ({type(operation).__name__})"
