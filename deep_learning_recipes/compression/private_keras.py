"""What compression knows of Keras beyond its documentation, in one place.

Tried on Keras 3.15.1 and tf_keras 2.21 alone. Each function says what would break where
another version differs. Beside them `tf_keras_layers.MultiHeadAttention` overrides a
private method of tf_keras, which is no longer developed.
"""

from typing import Any

import keras


def module_of_application(kind: type) -> str | None:
    """The module of tf_keras with the counterpart of a layer that an application
    brings along (ConvNeXt, InceptionResNetV2); None for other layers.

    The modules have the same names but for the first letters. If Keras moved its own,
    these layers would count as a user's.
    """
    module = kind.__module__
    return f"tf_{module}" if module.startswith("keras.src.applications.") else None


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What a compiled model was compiled with: the objects themselves, where
    `get_compile_config` gives names, by which one's own are not found.

    `model._compile_config.config`: by another name, no compiled model could be copied.
    """
    return dict(model._compile_config.config) if model.compiled else {}


def schedule_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The optimizer's learning rate or the schedule of it.

    `optimizer._learning_rate`: by another name, copies of models compiled with a
    schedule of one's own would be refused.
    """
    return getattr(optimizer, "_learning_rate", None)


def masking_as_within(wrapper: Any) -> Any:
    """A wrapper of TF Model Optimization that passes masks on if the layer within does.
    As they are, they hand them to layers that take none, and to nobody else.

    `wrapper._call_spec._expects_mask_arg`: by another name, models with Masking or
    `mask_zero` could not be pruned or clustered.
    """
    wrapper._call_spec._expects_mask_arg = False
    wrapper.supports_masking = wrapper.layer.supports_masking
    return wrapper
