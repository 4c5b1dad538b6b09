"""TF Model Optimization: its import, and what it keeps in private modules (tried on
0.8.1)."""

import os
from typing import Any

import tensorflow as tf


def load_tfmot() -> Any:
    """TF Model Optimization. Its import turns Keras 3 off in the environment, for this
    process's `tf.keras` and all child processes; that is undone."""
    tf.keras.version()  # decides what tf.keras is
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    import tensorflow_model_optimization

    os.environ.pop(name, None)
    if before is not None:
        os.environ[name] = before
    return tensorflow_model_optimization


def load_cluster_weights() -> Any:
    """Its `cluster_weights` that can preserve sparsity."""
    load_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
        cluster,
    )

    return cluster.cluster_weights


def load_default_8bit() -> tuple[type, type, type]:
    """The classes of its 8-bit quantization: the registry of the layers that it knows,
    its scheme, and a config for layers whose outputs alone are quantized."""
    load_tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )

    return (
        default_8bit_quantize_registry.Default8BitQuantizeRegistry,
        default_8bit_quantize_scheme.Default8BitQuantizeScheme,
        default_8bit_quantize_configs.Default8BitOutputQuantizeConfig,
    )
