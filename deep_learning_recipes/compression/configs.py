"""Configs of Keras 3 layers as tf_keras layers."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tf_keras

from deep_learning_recipes.compression.activations import tf_keras_activation
from deep_learning_recipes.compression.counterparts import (
    BUILD_IT,
    INSTEAD,
    LOOKUPS,
    MADE_WITH_STATE,
    counterpart,
)

WITHOUT_EFFECT = {
    "activity_regularizer",  # is None or accepted
    "autocast",
    "bounding_box_format",
    "flash_attention",
    "gptq_unpacked_column_size",
    "lora_alpha",
    "quantization_config",
    "seed",
    "use_cudnn",
    "vocabulary_size",
}
"""Options of Keras 3 that tf_keras lacks and that do not change what a layer
computes."""
RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}


@dataclass
class Translator:
    """Makes tf_keras layers of Keras 3 layers and their configs."""

    twin_of: Callable[[keras.Model], tf_keras.Model]
    """makes the tf_keras model of a whole Keras 3 model, which a layer may hold"""

    def layer(self, operation: Any, config: dict, name: str) -> Any:
        """The tf_keras layer for a Keras 3 layer with this config, without its
        weights."""
        kind = type(operation).__name__
        config = dict(config)
        # What `adapt` found is no part of the config.
        if kind == "Normalization":
            for key in ("mean", "variance"):
                if config[key] is None:
                    config[key] = np.asarray(getattr(operation, key)).ravel()
        elif kind in MADE_WITH_STATE:
            config["vocabulary"] = operation.get_vocabulary(
                include_special_tokens=False
            )
        return self.from_config(type(operation), config, name)

    def from_config(self, source: type, config: dict, name: str) -> Any:
        """The tf_keras layer for a Keras 3 layer's class and config."""
        kind = source.__name__
        where = f"layer {config['name']!r} ({kind})"
        constructor: Any = counterpart(source)
        if constructor is None:
            raise ValueError(
                f"{where}: not in tf_keras; use {INSTEAD.get(kind, BUILD_IT)}"
            )
        options = self.options(source, constructor, config, where)
        policy = keras.dtype_policies.get(config.get("dtype", "float32"))
        if getattr(policy, "quantization_mode", None):
            raise ValueError(
                f"{where}: already quantized ({policy.name}); use the float model"
            )
        if kind == "BatchNormalization":
            # What Keras 3 computes; the fused kernel rounds otherwise.
            options["fused"] = False
        if kind not in LOOKUPS:  # their dtype is that of what they look up
            options["dtype"] = policy.name
        return constructor(name=name, **options)

    def options(
        self, source: type, constructor: type, config: dict, where: str
    ) -> dict[str, Any]:
        """A config as arguments of the tf_keras class."""
        kind = source.__name__
        defaults = _parameters(source)
        accepted = _parameters(constructor)
        options: dict[str, Any] = {}
        for key, value in config.items():
            if key in ("name", "trainable", "dtype"):
                continue
            if key.endswith("_initializer"):
                if key in accepted:
                    # The weights are copied; other initializers take time to draw.
                    options[key] = "zeros"
            elif key == "zero_output_for_mask":
                if value:
                    options[key] = True  # tf_keras takes it without naming it
            elif (renamed := RENAMED.get((kind, key), key)) in accepted:
                options[renamed] = self.option(key, value, where)
            elif key not in WITHOUT_EFFECT:
                default = defaults.get(key, False)
                if not _is_default(value, default):
                    raise ValueError(
                        f"{where}: tf_keras has no {key}={value!r}; leave it at {default!r}"
                    )
        return options

    def option(self, key: str, value: Any, where: str) -> Any:
        """An option of a Keras 3 layer as tf_keras takes it."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.option(key, each, where) for each in value)
        if key.endswith("activation") and isinstance(value, str):
            return tf_keras_activation(value)
        if not isinstance(value, dict) or "class_name" not in value:
            return value
        module = value.get("module")
        kind = value["class_name"]
        if module == "keras.layers":
            return self.from_config(
                getattr(keras.layers, kind), value["config"], value["config"]["name"]
            )
        if module in ("keras.regularizers", "keras.constraints"):
            family = getattr(tf_keras, module.removeprefix("keras."))
            if not hasattr(family, kind):
                raise ValueError(f"{where}: tf_keras has no {key} {kind}")
            return getattr(family, kind)(**value["config"])
        return self.revive(key, value, where)

    def revive(self, key: str, value: dict, where: str) -> Any:
        """The object that Keras 3 serialized, with a model in its place in tf_keras."""
        try:
            revived = keras.saving.deserialize_keras_object(value)
        except TypeError:
            revived = None
        if isinstance(revived, keras.Model):
            return self.twin_of(revived)
        if revived is None or isinstance(revived, keras.layers.Layer):
            kind = value["class_name"]
            config = value["config"]
            name = config["name"] if isinstance(config, dict) else config
            raise ValueError(
                f"{where}: {key} {name!r} ({kind}) is a class of its own; use {BUILD_IT}"
            )
        return revived


@functools.cache
def _parameters(constructor: Any) -> dict[str, Any]:
    """Names and defaults of what a class and its bases can be made with."""
    found: dict[str, Any] = {}
    for base in inspect.getmro(constructor):
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(
                vars(base)["__init__"]
            ).parameters.items():
                found.setdefault(name, parameter.default)
    return found


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return value is None or value == default or value == "channels_last"
