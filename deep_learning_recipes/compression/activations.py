"""Activation functions as tf_keras takes them."""

from typing import Any

import keras
import tf_keras

SAME_ACTIVATIONS = {
    "elu",
    "exponential",
    "gelu",
    "linear",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
}
"""Activations that the two compute alike. Others of one name differ: tf_keras's
hard_sigmoid is another function. They go over as Keras 3's own."""


def tf_keras_activation(name: str) -> Any:
    """The activation as a name or a function, which can be saved with the model."""
    if name in ("silu", "swish"):
        return "swish"
    if name in SAME_ACTIVATIONS:
        return name
    function = keras.activations.get(name)
    register = tf_keras.saving.register_keras_serializable(
        "deep_learning_recipes", name
    )
    return function if _is_registered(name) else register(function)


def _is_registered(name: str) -> bool:
    return (
        tf_keras.saving.get_registered_object(f"deep_learning_recipes>{name}")
        is not None
    )
