"""Folds layers that only scale and shift into their neighbors, as quantization wants
it.

Rescaling, Normalization and (once trained) BatchNormalization compute s·x + t for each
channel. In front of a layer W·x + b that is W·s·x + (b + W·t), behind it s·W·x + (s·b +
t): one layer less, and no tensor of its own to quantize. See Jacob et al., 2018,
section 3.2 (batch normalization).
"""

from typing import Any

import keras
import numpy as np

from deep_learning_recipes.compression.functional import as_functional
from deep_learning_recipes.private_keras import calls_in

CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
SCALING = ("Rescaling", "Normalization", "BatchNormalization")


def fold(model: keras.Model) -> keras.Model:
    """The same function without Rescaling, Normalization and BatchNormalization.

    Each goes into the Dense or convolution behind which it stands (no activation
    between), else into the one that follows it (a Flatten may stand between). Where
    neither will do, as for an offset before a convolution that pads with zeros, one of
    images becomes a 1 × 1 DepthwiseConv2D, which quantization-aware training knows.

    model: functional or Sequential, trained (the moving averages become part of the
        weights).
    Returns a new, uncompiled functional model, equal up to float rounding at inference,
    with the names of the layers that stay; `model` is left alone. Raises ValueError
    with the layer's name where it can't be done.
    """
    try:
        graph = as_functional(model)
    except ValueError as error:
        raise ValueError(
            f"{getattr(model, 'name', model)!r}: only functional and built Sequential Keras 3 "
            "models can be folded"
        ) from error
    return _Folding(graph).result()


class _Folding:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = calls_in(model)
        self.calls: dict[Any, int] = {}
        self.maker: dict[int, Any] = {}
        self.users: dict[int, list[Any]] = {}
        for node in self.nodes:
            self.calls[node.operation] = self.calls.get(node.operation, 0) + 1
            for tensor in node.outputs:
                self.maker[id(tensor)] = node
            for tensor in node.input_tensors:
                self.users.setdefault(id(tensor), []).append(node)
        self.ends = {id(tensor) for tensor in model.outputs}
        self.dropped: set[Any] = set()
        self.pointwise: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self.changed: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def result(self) -> Any:
        scaling = [
            node for node in self.nodes if type(node.operation).__name__ in SCALING
        ]
        for node in scaling:
            if self.calls[node.operation] > 1:
                raise ValueError(
                    f"{_named(node.operation)} is used {self.calls[node.operation]} times: give "
                    "each place a layer of its own"
                )
            if "float" not in str(node.input_tensors[0].dtype):
                raise ValueError(
                    f"{_named(node.operation)} reads {node.input_tensors[0].dtype}: declare the "
                    "input as keras.Input(..., dtype='float32')"
                )
        left = [node for node in scaling if not self.goes_back(node)]
        # From the end, so that of two in a row the second is gone when the first is
        # folded.
        for node in reversed(left):
            if not self.goes_forward(node):
                self.becomes_pointwise(node)
        return self.rebuild()

    def goes_back(self, node: Any) -> bool:
        """Folds into the layer before, if it serves this one alone."""
        tensor = node.input_tensors[0]
        while id(tensor) in self.maker and self.is_only_use(tensor):
            before = self.maker[id(tensor)]
            layer = before.operation
            if layer in self.dropped:
                tensor = before.input_tensors[0]
                continue
            if self.calls[layer] > 1 or not _is_linear(layer):
                return False
            scale, offset = _scale_and_offset(node)
            kernel, bias = self.weights(layer)
            kind = type(layer).__name__
            if kind == "DepthwiseConv2D":
                factor = scale.reshape(kernel.shape[2:])
            elif kind == "Conv2DTranspose":
                factor = scale[:, None]
            else:
                factor = scale
            self.changed[layer] = kernel * factor, bias * scale + offset
            self.dropped.add(node.operation)
            return True
        return False

    def goes_forward(self, node: Any) -> bool:
        """Folds into the layer that follows, if there is but one."""
        scale, offset = _scale_and_offset(node)
        tensor = node.outputs[0]
        while self.is_only_use(tensor):
            (after,) = self.users[id(tensor)]
            layer = after.operation
            kind = type(layer).__name__
            if self.calls[layer] > 1:
                return False
            if kind == "Flatten" and layer.data_format == "channels_last":
                times = after.outputs[0].shape[-1] // len(scale)
                scale = np.tile(scale, times)
                offset = np.tile(offset, times)
            elif layer not in self.dropped:
                break
            tensor = after.outputs[0]
        else:
            return False
        pads = getattr(layer, "padding", "valid") != "valid" and np.any(offset)
        if pads or getattr(layer, "data_format", "channels_last") != "channels_last":
            return False
        if kind == "Dense" or (kind in CONVOLUTIONS and layer.groups == 1):
            kernel, bias = self.weights(layer)
            shift = (kernel * offset[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
        elif kind == "DepthwiseConv2D":
            kernel, bias = self.weights(layer)
            shift = (kernel * offset[:, None]).sum(axis=(0, 1)).ravel()
        else:
            return False
        self.changed[layer] = kernel * scale[:, None], bias + shift
        self.dropped.add(node.operation)
        return True

    def becomes_pointwise(self, node: Any) -> None:
        if len(node.outputs[0].shape) != 4:
            raise ValueError(
                f"{_named(node.operation)} can't be folded: no Dense or convolution without an "
                "activation of its own stands right before it, and none right after it takes it. "
                "Move it next to one, or convert without fold: to_litert takes it as it is, "
                "quantization-aware training does not"
            )
        self.pointwise[node.operation] = _scale_and_offset(node)

    def is_only_use(self, tensor: Any) -> bool:
        return len(self.users.get(id(tensor), ())) == 1 and id(tensor) not in self.ends

    def weights(self, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias (zeros if there is none) as folded so far, in float64."""
        if layer not in self.changed:
            kernel = np.asarray(layer.kernel, np.float64)
            transposed = type(layer).__name__ == "Conv2DTranspose"
            outputs = kernel.shape[-2 if transposed else -1]
            if type(layer).__name__ == "DepthwiseConv2D":
                outputs *= kernel.shape[2]
            bias = (
                np.zeros(outputs)
                if layer.bias is None
                else np.asarray(layer.bias, np.float64)
            )
            self.changed[layer] = kernel, bias
        return self.changed[layer]

    def rebuild(self) -> Any:
        copies: dict[Any, Any] = {}

        def copy(operation: Any) -> Any:
            if operation not in copies:
                copies[operation] = make(operation)
            return copies[operation]

        def make(operation: Any) -> Any:
            if operation in self.dropped or not isinstance(operation, keras.Layer):
                return operation
            if operation in self.pointwise:
                return keras.layers.DepthwiseConv2D(
                    1, dtype=operation.dtype_policy, name=operation.name
                )
            if isinstance(operation, keras.Model):
                return fold(operation)
            config = operation.get_config()
            if operation in self.changed:
                config["use_bias"] = True
            return type(operation).from_config(config)

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if operation in self.dropped:
                return args[0]
            # Sequential passes it to every layer.
            if kwargs.get("mask", operation) is None:
                del kwargs["mask"]
            return operation(*args, **kwargs)

        clone = keras.models.clone_model(
            self.model, clone_function=copy, call_function=call
        )
        for old, new in copies.items():
            if old in self.pointwise:
                scale, offset = self.pointwise[old]
                new.set_weights([scale[None, None, :, None], offset])
            elif old in self.changed:
                new.set_weights(self.changed[old])
            elif new is not old and not isinstance(old, keras.Model):
                new.set_weights(old.get_weights())
        return clone


def _named(layer: Any) -> str:
    return f"{type(layer).__name__} {layer.name!r}"


def _is_linear(layer: Any) -> bool:
    """Whether the layer is W·x + b, with no activation behind."""
    kinds = (*CONVOLUTIONS, "DepthwiseConv2D", "Conv2DTranspose", "Dense")
    return (
        type(layer).__name__ in kinds
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _scale_and_offset(node: Any) -> tuple[np.ndarray, np.ndarray]:
    """s and t of s·x + t, for each channel of the last axis, in float64."""
    layer = node.operation
    shape = node.outputs[0].shape
    kind = type(layer).__name__
    if kind == "Rescaling":
        scale = layer.scale
        offset = layer.offset
    elif kind == "Normalization":
        epsilon = keras.config.epsilon()
        deviation = np.maximum(np.sqrt(np.asarray(layer.variance, np.float64)), epsilon)
        mean = np.asarray(layer.mean, np.float64)
        scale, offset = (
            (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
        )
    else:
        variance = np.asarray(layer.moving_variance, np.float64)
        scale = 1 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * np.asarray(layer.gamma, np.float64)
        offset = -np.asarray(layer.moving_mean, np.float64) * scale
        if layer.center:
            offset = offset + np.asarray(layer.beta, np.float64)
        if layer.axis not in (-1, len(shape) - 1):
            raise ValueError(
                f"{_named(layer)} is along axis {layer.axis}, not along the last one"
            )
    scale = np.asarray(scale, np.float64)
    offset = np.asarray(offset, np.float64)
    for each in (scale, offset):
        if each.size not in (1, shape[-1]) or (
            each.size > 1 and each.shape[-1] != shape[-1]
        ):
            raise ValueError(
                f"{_named(layer)} is not along the last axis, which has {shape[-1]}"
            )
    return np.broadcast_to(scale.ravel(), shape[-1]), np.broadcast_to(
        offset.ravel(), shape[-1]
    )
