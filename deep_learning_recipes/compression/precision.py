"""Models of 16-bit floats, computed in 32."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from deep_learning_recipes.private_keras import all_layers

HALF = ("float16", "bfloat16")


@contextlib.contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Within, all layers of a Keras 3 model compute in 32 bits, with the weights that
    they have. LiteRT and TF Model Optimization know few operations in 16."""
    layers = all_layers(model) if isinstance(model, keras.Model) else []
    policies = {
        layer: layer.dtype_policy
        for layer in layers
        if getattr(layer.dtype_policy, "compute_dtype", "") in HALF
    }
    for layer in policies:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in policies.items():
            layer.dtype_policy = policy


def with_float32_weights(model: Any) -> Any:
    """The model itself; or a copy, if some of its weights have 16 bits."""
    if not isinstance(model, keras.Model) or all(
        keras.backend.standardize_dtype(weight.dtype) not in HALF
        for weight in model.weights
    ):
        return model
    with in_float32(model):
        copy = keras.models.clone_model(model)
    copy.set_weights([np.asarray(weight, "float32") for weight in model.weights])
    for layer in all_layers(copy):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy
