"""Quantization-aware training: weights and activations in 8 bits, their ranges learned."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from deep_learning_recipes import UsageError
from deep_learning_recipes.compression.bridge import bridge
from deep_learning_recipes.compression.fine_tuning import PREFIX, FineTuning, Optimized
from deep_learning_recipes.compression.graph import Bridge
from deep_learning_recipes.compression.tf_keras_layers import KerasOperation
from deep_learning_recipes.compression.tfmot import load_default_8bit, load_tfmot

FOLDED_INTO = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")
"""Layers that take in the BatchNormalization behind them."""


def quantize_aware(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
    **training: Any,
) -> Optimized:
    """Fine-tunes under 8-bit quantization of weights and activations, whose ranges are
    learned.

    preserve_sparsity: keep zeros (PQAT), for a model from `prune`.
    preserve_clusters: keep shared weights (CQAT), for one from `cluster`; both: PCQAT.
    training: as for `prune`.

    The result's `tf_keras_model` converts to an int8 model with the learned ranges; its
    metrics in the report are those of the quantized model. `model` holds the fine-tuned
    weights as floats. BatchNormalization with few steps: its moving statistics must
    follow; give it momentum=0.9.

    Raises ValueError for layers that TF Model Optimization cannot quantize. Fold
    Rescaling and lone BatchNormalization into their neighbors first; recurrent and 1-D
    layers, Embedding and LayerNormalization want quantization after training.
    """
    tfmot = load_tfmot()
    registry, default_scheme, quantize_outputs = load_default_8bit()
    tuning = FineTuning(model, x, y, **training)
    twin = bridge(model, prefix=PREFIX, inline=True, split=True)
    _check_quantizable(twin, registry())

    def annotate(layer: Any) -> Any:
        config = quantize_outputs() if isinstance(layer, KerasOperation) else None
        return tfmot.quantization.keras.quantize_annotate_layer(layer, config)

    combine = tfmot.experimental.combine
    if preserve_clusters:
        scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity)
    elif preserve_sparsity:
        scheme = combine.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = default_scheme()
    trained = _quantized(twin.model, annotate, scheme)
    tuning.fit(trained)
    metrics = tuning.evaluate(tuning.stand_in)
    if preserve_clusters:
        trained = combine.strip_clustering_cqat(trained)
    return tuning.result(trained, twin, metrics)


def _quantized(network: tf_keras.Model, annotate: Any, scheme: Any) -> tf_keras.Model:
    """The network with quantizers around its layers."""
    quantization = load_tfmot().quantization.keras
    # TF Model Optimization looks for the outputs in a list.
    flat = tf_keras.Model(network.inputs, network.outputs)
    try:
        with quantization.quantize_scope():
            annotated = tf_keras.models.clone_model(flat, clone_function=annotate)
            made = quantization.quantize_apply(annotated, scheme)
    except (RuntimeError, ValueError) as error:
        reason = str(error).replace(PREFIX, "").splitlines()[0]
        raise UsageError(
            f"{network.name!r}: TF Model Optimization cannot quantize it in training "
            f"({reason}); quantize it after training (to_litert(model, 'int8'))"
        ) from error
    return tf_keras.Model(
        tf.nest.pack_sequence_as(network.input, made.inputs),
        tf.nest.pack_sequence_as(network.output, made.outputs),
        name=network.name,
    )


def _check_quantizable(twin: Bridge, registry: Any) -> None:
    """Raises ValueError for a layer that TF Model Optimization cannot quantize."""
    names = {layer.name: "/".join(path) for path, layer in twin.layers.items()}
    for layer in twin.model.layers:
        kind = type(layer).__name__
        if isinstance(layer, (tf_keras.layers.InputLayer, KerasOperation)):
            continue
        where = f"layer {names.get(layer.name, layer.name)!r} ({kind})"
        if kind == "BatchNormalization":
            before = layer.inbound_nodes[0].inbound_layers
            if type(before).__name__ in FOLDED_INTO:
                linear = before.activation is tf_keras.activations.linear
                if linear and len(before.outbound_nodes) == 1:
                    continue
                why = "what it takes is used elsewhere, too"
                if not linear:
                    why = "an activation stands before it"
                raise UsageError(
                    f"{where}: {why}; fold it: quantize_aware(fold(model), ..., loss=...)"
                )
            raise ValueError(
                f"{where}: stands alone; put it after {' or '.join(FOLDED_INTO)}, or fold it"
            )
        if kind == "Rescaling":
            raise ValueError(
                f"{where}: cannot be quantized; fold it into the next layer's weights"
            )
        if not registry.supports(layer) or kind == "ActivityRegularization":
            raise ValueError(
                f"{where}: TF Model Optimization cannot quantize it in training; quantize the "
                "model after training instead (to_litert(model, 'int8'))"
            )
