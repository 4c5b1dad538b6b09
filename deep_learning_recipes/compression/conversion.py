"""Keras models as LiteRT (TensorFlow Lite) files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.compression.converter import (
    INTEGERS,
    Settings,
    convert,
    has_loops,
)
from deep_learning_recipes.compression.litert import Tensor, check
from deep_learning_recipes.compression.precision import in_float32, with_float32_weights
from deep_learning_recipes.compression.unrolling import check_recurrent, unrolled

if TYPE_CHECKING:
    import keras

MODES = {
    "float32": "as it is",
    "float16": "weights in 16 bits, computed in 32",
    "dynamic": "weights in 8 bits, where a layer has 1,024 or more; activations on the fly",
    "int8": "weights, activations, inputs and outputs in 8 bits (a rare operation stays in floats)",
    "int16x8": "weights in 8 bits; activations, inputs and outputs in 16",
}


def to_litert(
    model: keras.Model, mode: str = "float32", representative_data: Any = None
) -> bytes:
    """Converts a model to LiteRT.

    Args:
        model: A functional or Sequential Keras 3 model; or a tf_keras model, as
            quantization-aware training leaves it: its own ranges are used then.
        mode: One of `MODES`.
        representative_data: For int8 and int16x8, some hundred typical inputs (an
            array, or a dict of arrays by input name, first axis examples), from which
            the ranges of the activations are taken. Not needed for a model that learned
            its ranges.

    Returns:
        The file's bytes. Its signature has the model's names of inputs and outputs, and
        a batch of any size (or of the size that the model has). Recurrent layers are
        unrolled for that, if their sequences have a fixed length of at most 256; with
        others, the file takes one example at a time, and is none of integers.

    Raises:
        ValueError: unknown mode, no or unfit representative data, a layer that LiteRT
            cannot express, or a model that `keras.Model.quantize` changed.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    model = (
        getattr(model, "_functional", None) or model
    )  # what a Sequential holds once built
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name!r} has no inputs: make it functional, or start with an Input"
        )
    _refuse_quantized_by_keras(model)
    check_recurrent(model)
    model = with_float32_weights(model)
    inputs = _input_tensors(model)
    settings = Settings(
        mode,
        examples=None,
        learned_ranges=any("Quantize" in type(each).__name__ for each in model.layers),
    )
    if mode in INTEGERS and representative_data is not None:
        settings.examples = _examples(representative_data, inputs)
    elif mode in INTEGERS and not settings.learned_ranges:
        raise ValueError(
            f"mode {mode!r} needs representative_data: some hundred typical inputs, from which "
            "the ranges of the activations are taken"
        )
    for name, tensor in inputs.items():
        if mode == "int16x8" and "float" not in str(tensor.dtype):
            raise UsageError(
                f"mode int16x8 takes real numbers, and {name!r} holds {tensor.dtype}: "
                "choose int8 or dynamic"
            )
    try:
        return _convert(model, inputs, settings)
    except UsageError as error:
        raise UsageError(
            f"{model.name!r} does not convert to {mode}: {error}"
        ) from error


def _convert(model: Any, inputs: dict[str, Any], settings: Settings) -> bytes:
    """Without loops where that takes something: LiteRT's want batches of a fixed size,
    and no integers."""
    free = any(tensor.shape[0] is None for tensor in inputs.values())
    with unrolled(model) if free or settings.mode in INTEGERS else nullcontext():
        function, holder = _trace(model, inputs)
    try:
        return convert(function, holder, settings)
    except UsageError:
        if settings.mode in INTEGERS or not free or not has_loops(function):
            raise
    return convert(*_trace(model, inputs, batch=1), settings)


def _refuse_quantized_by_keras(model: Any) -> None:
    """LiteRT refuses Keras's int8, and takes its int4 but computes something else."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            _refuse_quantized_by_keras(layer)
        mode = getattr(layer, "quantization_mode", None)
        if mode:
            raise ValueError(
                f"layer {layer.name!r} was quantized to {mode} by keras.Model.quantize, which "
                "LiteRT does not run: convert the model as it was before, or export a SavedModel"
            )


def _input_tensors(model: Any) -> dict[str, Any]:
    """The model's symbolic inputs by name."""
    from deep_learning_recipes.serving.saved_model import input_tensors

    names = getattr(model, "input_names", None)
    if names is not None and not isinstance(model.input, dict):  # tf_keras
        return dict(zip(names, model.inputs, strict=True))
    return input_tensors(model)


def _trace(
    model: Any, inputs: dict[str, Any], batch: int | None = None
) -> tuple[Any, Any]:
    """The model of either Keras as a concrete function with the model's names, and what
    holds its variables.

    batch: examples at a time, where the model takes any number.
    """
    import tensorflow as tf

    def call(**tensors: Any) -> dict[str, Any]:
        if isinstance(model.input, dict):
            outputs = model(tensors, training=False)
        else:
            ordered = [tensors[name] for name in inputs]
            outputs = model(ordered if len(ordered) > 1 else ordered[0], training=False)
        if isinstance(outputs, dict):
            return outputs
        flat = tf.nest.flatten(outputs)
        names = list(getattr(model, "output_names", ()))
        if len(set(names)) != len(flat):
            names = [f"output_{index}" for index in range(len(flat))]
        return dict(zip(names, flat, strict=True))

    specifications = {
        name: tf.TensorSpec(
            (tensor.shape[0] or batch, *tensor.shape[1:]), tensor.dtype, name=name
        )
        for name, tensor in inputs.items()
    }
    with in_float32(model):
        function = tf.function(call, autograph=False).get_concrete_function(
            **specifications
        )
    holder = tf.Module()
    holder.held = [
        v if isinstance(v, tf.Variable) else v.value for v in model.variables
    ]
    return function, holder


def _examples(data: Any, inputs: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Representative data as batches of the model's size, else of one example. Raises
    ValueError if it does not fit."""
    import tensorflow as tf

    if not isinstance(data, Mapping):
        if len(inputs) > 1:
            raise ValueError(
                f"give representative_data as a dict of {', '.join(inputs)}"
            )
        data = {next(iter(inputs)): data}
    if set(data) != set(inputs):
        raise ValueError(
            f"representative_data for {', '.join(map(repr, data))}: the model takes "
            f"{', '.join(map(repr, inputs))}"
        )
    arrays = {}
    for name, tensor in inputs.items():
        dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
        shape = tuple(tensor.shape)
        arrays[name] = check(
            f"representative {name}", data[name], Tensor(shape, dtype, 0.0, 0)
        )
        arrays[name] = arrays[name].astype(dtype)
    size = max(tensor.shape[0] or 1 for tensor in inputs.values())
    count = min(map(len, arrays.values()))
    # The last batch is filled up from the beginning, which leaves the ranges as they are.
    rows = np.resize(np.arange(count), (math.ceil(count / size), size))
    return [{name: value[row] for name, value in arrays.items()} for row in rows]
