"""Keras 3 models as tf_keras models and back: TF Model Optimization works on tf_keras
alone.

The graph is read from `model.get_config()`, the format of saved models. Each layer is
made anew by the tf_keras class of the same name, bare `keras.ops` by a layer that calls
the same operation, and the weights are copied. The source model is never touched.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

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
LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
MADE_WITH_STATE = ("Normalization", *LOOKUPS)
"""Layers whose tf_keras counterpart is made with what they found in `adapt`."""
RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
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


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class KerasOperation(tf_keras.layers.Layer):
    """Calls a `keras.ops` operation of a Keras 3 graph within a tf_keras graph.

    operation: the operation, serialized by `keras.saving`.
    template: its arguments `{"args": [...], "kwargs": {...}}` as `get_config` writes
        them, with the number of an input in the place of each tensor.
    """

    def __init__(self, operation: dict, template: dict, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.operation = keras.saving.deserialize_keras_object(operation)
        # tf_keras would wrap dicts among its attributes into classes of its own.
        self.made_from = SimpleNamespace(operation=operation, template=template)

    def call(self, inputs: Any) -> Any:
        return self.compute(tf.nest.flatten(inputs))

    @tf.autograph.experimental.do_not_convert
    def compute(self, tensors: list[Any]) -> Any:
        args, kwargs = _arguments(
            self.made_from.template, lambda tensor: tensors[tensor["config"]]
        )
        # Not __call__, which looks for Keras 3's symbolic tensors.
        return self.operation.call(*args, **kwargs)

    def get_config(self) -> dict:
        return {**super().get_config(), **vars(self.made_from)}


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class LayerNormalization(tf_keras.layers.LayerNormalization):
    """tf_keras's, rounding as Keras 3."""

    def call(self, inputs: Any) -> Any:
        return self.compute(inputs)

    @tf.autograph.experimental.do_not_convert
    def compute(self, inputs: Any) -> Any:
        outputs = keras.ops.layer_normalization(
            inputs, self.gamma, self.beta, axis=list(self.axis), epsilon=self.epsilon
        )
        return tf.cast(outputs, self.compute_dtype)


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class MultiHeadAttention(tf_keras.layers.MultiHeadAttention):
    """tf_keras's, rounding as Keras 3: it computes softmax(q·kᵀ/√d)·v in one go where
    nobody asks for the scores and nothing is dropped."""

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: Any = None,
        use_causal_mask: bool = False,
    ) -> Any:
        self.in_one_go = not (return_attention_scores or self._dropout)
        return super().call(
            query,
            value,
            key=key,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    @tf.autograph.experimental.do_not_convert
    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: Any = None,
    ) -> Any:
        if not self.in_one_go or len(query.shape) != 4:
            return super()._compute_attention(
                query, key, value, attention_mask, training
            )
        if attention_mask is not None:
            while len(attention_mask.shape) < 4:
                attention_mask = tf.expand_dims(attention_mask, -3)
            attention_mask = tf.cast(attention_mask, tf.bool)
        scale = 1 / math.sqrt(self._key_dim)
        return keras.ops.dot_product_attention(
            query, key, value, mask=attention_mask, scale=scale
        ), None


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class SpectralNormalization(tf_keras.layers.SpectralNormalization):
    """tf_keras's, which cannot be built beside Keras 3: it takes its InputSpec from
    tf.keras."""

    def build(self, input_shape: Any) -> None:
        tf_keras.layers.Wrapper.build(self, input_shape)
        self.kernel = getattr(self.layer, "kernel", None)
        if self.kernel is None:
            self.kernel = self.layer.embeddings
        self.kernel_shape = self.kernel.shape.as_list()
        self.vector_u = self.add_weight(
            "vector_u", (1, self.kernel_shape[-1]), self.kernel.dtype, trainable=False
        )


OWN = {
    each.__name__: each
    for each in (LayerNormalization, MultiHeadAttention, SpectralNormalization)
}
"""Classes that take the place of tf_keras's own, by name."""


@dataclass
class Bridge:
    """A tf_keras model that was made from a Keras 3 model, and which layer became
    which."""

    model: tf_keras.Model
    layers: dict[tuple[str, ...], tf_keras.layers.Layer] = field(default_factory=dict)
    """the tf_keras layer by the path of the Keras 3 layer: its name, after the names of
    the models it is nested in"""
    names: dict[tuple[str, ...], str] = field(default_factory=dict)
    """what each is called in tf_keras"""


def to_tf_keras(model: keras.Model) -> tf_keras.Model:
    """Returns a tf_keras model that computes exactly what `model` does, with its
    weights.

    model: a built Keras 3 model, Sequential or functional, with any structure of inputs
        and outputs, nested models and shared layers. Layers keep their names. It is not
        touched.

    The new model is not compiled. Raises ValueError, naming the layer and what to use
    in its place, for a layer or an option that tf_keras does not know.
    """
    return bridge(model).model


def to_keras(tf_model: tf_keras.Model, like: keras.Model) -> keras.Model:
    """Returns a Keras 3 model with the structure of `like` and the weights of
    `tf_model`.

    tf_model: made from `like` by `to_tf_keras` and trained since, or stripped of the
        wrappers of TF Model Optimization. Layers are found by name.
    like: the Keras 3 model; it is not touched. If it is compiled, the new model is as
        well, with an optimizer that starts anew.

    Raises ValueError if a layer of `like` is missing in `tf_model` or its weights do
    not fit.
    """
    _check_is_tf_keras(tf_model)
    copy = copy_of(like)
    for path, layer in weighted_layers(copy).items():
        if type(layer).__name__ in MADE_WITH_STATE:
            continue
        try:
            found = tf_model
            for name in path:
                found = found.get_layer(name)
        except ValueError as error:
            raise ValueError(
                f"tf_model has no layer {'/'.join(path)!r}: it was not made from `like`, or still "
                "has the wrappers of TF Model Optimization (strip them first)"
            ) from error
        assign(layer, found.get_weights())
    return copy


def copy_of(model: keras.Model) -> keras.Model:
    """A Keras 3 model that shares nothing with `model`: the same graph, weights, and
    compilation with an optimizer that starts anew."""
    graph = as_functional(model)
    if isinstance(model, keras.Sequential):
        copy = keras.Sequential.from_config(model.get_config())
    else:
        copy = keras.Model.from_config(graph.get_config())
    copy.set_weights(graph.get_weights())
    copied = weighted_layers(copy)
    for path, layer in weighted_layers(model).items():
        copied[path].trainable = layer.trainable
        if isinstance(layer, keras.layers.Normalization):
            copied[path].finalize_state()
    if model.compiled and (config := model.get_compile_config()):
        copy.compile_from_config(config)
    return copy


def weighted_layers(
    model: keras.Model, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], Any]:
    """All layers that hold weights, those of nested models included, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= weighted_layers(layer, (*path, layer.name))
        elif layer.weights:
            found[(*path, layer.name)] = layer
    return found


def as_functional(model: keras.Model) -> keras.Model:
    """The graph of a Sequential or functional model, or of a subclass of them."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise ValueError(f"a Keras 3 model (keras.Model) is needed, not a {kind}")
    try:
        if isinstance(model, keras.Sequential):
            # Its `input` and `output` are those of the model it is nested in.
            inputs, outputs = (
                each[0] if len(each) == 1 else each
                for each in (model.inputs, model.outputs)
            )
        else:
            inputs, outputs = model.input, model.output
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(model, keras.Sequential):
            way_out = "it is not built: begin with keras.Input(shape), or call it on data once"
        else:
            way_out = f"a subclass's graph cannot be seen; use {BUILD_IT}"
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}): {way_out}"
        ) from error
    return keras.Model(inputs, outputs, name=model.name)


def bridge(
    model: keras.Model, *, prefix: str = "", inline: bool = False, split: bool = False
) -> Bridge:
    """`to_tf_keras`, with the correspondence of layers.

    prefix: goes before the name of each layer but the inputs. TF Model Optimization
        expands layers into others with automatic names, which may be taken otherwise.
    inline: put nested models' layers into the one graph (TF Model Optimization's
        quantization takes no nested models).
    split: make two layers of each SeparableConv2D, NAME_depthwise and NAME_pointwise,
        as its quantization would do under names of its own.
    """
    return _Builder(prefix, inline, split, {}).build(model)


class _Builder:
    """Makes one tf_keras graph."""

    def __init__(
        self, prefix: str, inline: bool, split: bool, shared: dict[int, Any]
    ) -> None:
        self.prefix, self.inline, self.split = prefix, inline, split
        self.shared = shared
        """tf_keras layers by the identity of the Keras 3 layer, for all graphs of a
        model"""
        self.layers: dict[tuple[str, ...], tf_keras.layers.Layer] = {}
        self.names: set[str] = set()

    def build(self, model: keras.Model) -> Bridge:
        graph = as_functional(model)
        config = _config_of(graph)
        inputs = {
            (data["name"], 0): [_input(data)]
            for data in config["layers"]
            if data["class_name"] == "InputLayer"
        }
        entrances = _map_histories(
            config["input_layers"], lambda history: inputs[history[:2]][0]
        )
        outputs = self.run(graph, config, inputs, ())
        names = {path: layer.name for path, layer in self.layers.items()}
        model = tf_keras.Model(entrances, outputs, name=model.name)
        return Bridge(model, self.layers, names)

    def run(
        self, graph: Any, config: dict, tensors: dict, path: tuple[str, ...]
    ) -> Any:
        """Calls the layers of a graph one after the other and returns its outputs.

        tensors: the outputs (a flat list) of each call of a layer, by the layer's name
            and the call's number; holds the inputs' when it begins.
        """
        operations = {operation.name: operation for operation in graph.operations}

        def tensor_of(data: dict) -> Any:
            name, call, index = data["config"]["keras_history"]
            return tensors[name, call][index]

        def is_known(data: dict) -> bool:
            return tuple(data["config"]["keras_history"][:2]) in tensors

        pending = [
            (data, number, call)
            for data in config["layers"]
            for number, call in enumerate(data["inbound_nodes"])
        ]
        while pending:
            waiting = []
            for data, number, call in pending:
                if all(map(is_known, _tensors_in(call))):
                    here = (*path, data["name"])
                    outputs = self.call(
                        operations[data["name"]], data, call, tensor_of, here
                    )
                    tensors[data["name"], number] = tf.nest.flatten(outputs)
                else:
                    waiting.append((data, number, call))
            if len(waiting) == len(pending):
                raise ValueError(f"the graph of {graph.name!r} cannot be followed")
            pending = waiting

        def output_of(history: tuple[str, int, int]) -> Any:
            name, call, index = history
            if (name, call) not in tensors or _counts_from_one(operations[name]):
                call -= 1
            return tensors[name, call][index]

        return _map_histories(config["output_layers"], output_of)

    def call(
        self,
        operation: Any,
        data: dict,
        call: dict,
        tensor_of: Callable,
        path: tuple[str, ...],
    ) -> Any:
        """Calls what stands for `operation` as the recorded `call` says."""
        if not isinstance(operation, keras.layers.Layer):
            return self.call_operation(operation, data, call, tensor_of, path)
        args, kwargs = _arguments(call, tensor_of)
        kwargs.pop(
            "training", None
        )  # in Keras 3 the model's own `training` overrides it
        if isinstance(operation, keras.Model) and self.inline:
            return self.call_inline(operation, args, kwargs, path)
        is_new = id(operation) not in self.shared
        if is_new:
            self.shared[id(operation)] = self.make(operation, data, path)
        self.layers[path] = layer = self.shared[id(operation)]
        try:
            outputs = layer(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"{_describe(operation)}: tf_keras cannot call it so: {error}"
            ) from error
        if is_new and not isinstance(operation, keras.Model):
            _copy_weights(operation, layer)
        return outputs

    def call_inline(
        self, model: Any, args: Any, kwargs: dict, path: tuple[str, ...]
    ) -> Any:
        graph = as_functional(model)
        config = _config_of(graph)
        names: list[str] = []
        _map_histories(config["input_layers"], lambda history: names.append(history[0]))
        structure = args[0] if args else kwargs["inputs"]
        if isinstance(structure, dict):
            given = [structure[name] for name in config["input_layers"]]
        else:
            given = tf.nest.flatten(structure)
        tensors = {
            (name, 0): [tensor] for name, tensor in zip(names, given, strict=True)
        }
        return self.run(graph, config, tensors, path)

    def make(self, operation: Any, data: dict, path: tuple[str, ...]) -> Any:
        if isinstance(operation, keras.Model):
            nested = _Builder("", False, False, self.shared).build(operation)
            self.layers |= {
                (*path, *below): layer for below, layer in nested.layers.items()
            }
            layer = nested.model
        elif self.split and isinstance(operation, keras.layers.SeparableConv2D):
            return _Split(operation, self.name(path))
        else:
            layer = _make_layer(operation, data["config"], self.name(path))
        layer.trainable = operation.trainable
        return layer

    def call_operation(
        self,
        operation: Any,
        data: dict,
        call: dict,
        tensor_of: Callable,
        path: tuple[str, ...],
    ) -> Any:
        inputs = [tensor_of(each) for each in _tensors_in(call)]
        options = {"name": self.name(path), "dtype": inputs[0].dtype.name}
        layer = _layer_for_operation(operation, call, inputs, options)
        if layer is None:
            keys = ("module", "class_name", "config", "registered_name")
            serialized = {key: data[key] for key in keys}
            layer = KerasOperation(serialized, _numbered(call), **options)
        return layer(inputs[0] if len(inputs) == 1 else inputs)

    def name(self, path: tuple[str, ...]) -> str:
        wanted = name = self.prefix + "_".join(path)
        count = 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name


class _Split:
    """The two layers that a SeparableConv2D is made of."""

    def __init__(self, layer: Any, name: str) -> None:
        self.name = name
        self.depthwise = tf_keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{name}_depthwise",
        )
        self.pointwise = tf_keras.layers.Conv2D(
            layer.filters,
            1,
            activation=_activation(keras.activations.serialize(layer.activation)),
            use_bias=layer.use_bias,
            name=f"{name}_pointwise",
        )
        self.depthwise.trainable = self.pointwise.trainable = layer.trainable

    def __call__(self, inputs: Any) -> Any:
        return self.pointwise(self.depthwise(inputs))

    def get_weights(self) -> list[np.ndarray]:
        return self.depthwise.get_weights() + self.pointwise.get_weights()

    def set_weights(self, values: list[np.ndarray]) -> None:
        self.depthwise.set_weights(values[:1])
        self.pointwise.set_weights(values[1:])


def _counts_from_one(operation: Any) -> bool:
    """In a graph's outputs, Keras numbers the calls of a functional model from 1."""
    return isinstance(operation, keras.Model) and not isinstance(
        operation, keras.Sequential
    )


def _config_of(graph: Any) -> dict:
    """The graph's config, after a look at what is in it."""
    for operation in graph.operations:
        if isinstance(operation, keras.Model):
            continue
        if isinstance(operation, keras.layers.Layer):
            _check_layer(operation)
        elif not type(operation).__module__.startswith("keras."):
            raise ValueError(
                f"{_describe(operation)}: only Keras's own operations are known"
            )
    try:
        return graph.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{graph.name!r}: a part of it has no config: {error}"
        ) from error


def _check_layer(layer: Any) -> None:
    if _counterpart(type(layer)) is not None:
        return
    name = type(layer).__name__
    if type(layer) is not getattr(keras.layers, name, None):
        raise ValueError(f"{_describe(layer)}: a class of its own; use {BUILD_IT}")
    other = AUGMENTS if hasattr(layer, "transform_images") else BUILD_IT
    raise ValueError(
        f"{_describe(layer)}: not in tf_keras; use {INSTEAD.get(name, other)}"
    )


def _counterpart(kind: type) -> type | None:
    """The class that stands for a Keras 3 layer's class in tf_keras, if there is
    one."""
    name, module = kind.__name__, kind.__module__
    if module.startswith(
        "keras.src.applications."
    ):  # parts of ConvNeXt, InceptionResNetV2
        return getattr(importlib.import_module(f"tf_{module}"), name, None)
    if kind is not getattr(keras.layers, name, None) or name in DIFFERENT:
        return None
    return OWN.get(name) or getattr(tf_keras.layers, name, None)


def _describe(operation: Any) -> str:
    kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
    return f"{kind} {operation.name!r} ({type(operation).__name__})"


def _input(data: dict) -> Any:
    config = data["config"]
    return tf_keras.Input(
        batch_shape=tuple(config["batch_shape"]),
        name=data["name"],
        dtype=config["dtype"],
        sparse=config["sparse"],
        ragged=config.get("ragged", False),
    )


def _make_layer(operation: Any, config: dict, name: str) -> Any:
    kind = type(operation).__name__
    config = dict(config)
    # What `adapt` found is no part of the config.
    if kind == "Normalization":
        for key in ("mean", "variance"):
            if config[key] is None:
                config[key] = np.asarray(getattr(operation, key)).ravel()
    elif kind in MADE_WITH_STATE:
        config["vocabulary"] = operation.get_vocabulary(include_special_tokens=False)
    return _from_config(type(operation), config, name)


def _from_config(source: type, config: dict, name: str) -> Any:
    """The tf_keras layer for a Keras 3 layer's class and config."""
    kind = source.__name__
    where = f"layer {config['name']!r} ({kind})"
    constructor: Any = _counterpart(source)
    if constructor is None:
        raise ValueError(f"{where}: not in tf_keras; use {INSTEAD.get(kind, BUILD_IT)}")
    defaults = _parameters(source)
    accepted = _parameters(constructor)
    options: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("name", "trainable", "dtype"):
            continue
        if key.endswith("_initializer"):
            if key in accepted:
                options[key] = (
                    "zeros"  # the weights are copied; others take time to draw
                )
        elif key == "zero_output_for_mask":
            if value:
                options[key] = True  # tf_keras takes it without naming it
        elif (renamed := RENAMED.get((kind, key), key)) in accepted:
            options[renamed] = _translate(key, value, where)
        elif key not in WITHOUT_EFFECT:
            default = defaults.get(key, False)
            if not _is_default(value, default):
                raise ValueError(
                    f"{where}: tf_keras has no {key}={value!r}; leave it at {default!r}"
                )
    policy = keras.dtype_policies.get(config.get("dtype", "float32"))
    if getattr(policy, "quantization_mode", None):
        raise ValueError(
            f"{where}: already quantized ({policy.name}); use the float model"
        )
    if kind == "BatchNormalization":
        options["fused"] = (
            False  # what Keras 3 computes; the fused kernel rounds otherwise
        )
    if kind not in LOOKUPS:  # their dtype is that of what they look up
        options["dtype"] = policy.name
    return constructor(name=name, **options)


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


def _translate(key: str, value: Any, where: str) -> Any:
    """An option of a Keras 3 layer as tf_keras takes it."""
    if isinstance(value, (list, tuple)):
        return type(value)(_translate(key, each, where) for each in value)
    if key.endswith("activation") and isinstance(value, str):
        return _activation(value)
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    module, kind = value.get("module"), value["class_name"]
    if module == "keras.layers":
        return _from_config(
            getattr(keras.layers, kind), value["config"], value["config"]["name"]
        )
    if module in ("keras.regularizers", "keras.constraints"):
        family = getattr(tf_keras, module.removeprefix("keras."))
        if not hasattr(family, kind):
            raise ValueError(f"{where}: tf_keras has no {key} {kind}")
        return getattr(family, kind)(**value["config"])
    try:
        revived = keras.saving.deserialize_keras_object(value)
    except TypeError:
        revived = None
    if isinstance(revived, keras.Model):
        return to_tf_keras(revived)
    if revived is None or isinstance(revived, keras.layers.Layer):
        name = (
            value["config"]["name"]
            if isinstance(value["config"], dict)
            else value["config"]
        )
        raise ValueError(
            f"{where}: {key} {name!r} ({kind}) is a class of its own; use {BUILD_IT}"
        )
    return revived


def _activation(name: str) -> Any:
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


def _layer_for_operation(
    operation: Any, call: dict, inputs: list[Any], options: dict[str, Any]
) -> Any:
    """The tf_keras layer that computes what a `keras.ops` operation does, or None. With
    layers TF Model Optimization knows what it sees."""
    kind = type(operation).__name__
    values = [*call["args"], *call["kwargs"].values()]
    config = operation.get_config()
    shapes = [tuple(each.shape) for each in inputs]
    layers = tf_keras.layers
    if any(not each.dtype.is_floating for each in inputs):
        return None
    if kind in ("Relu", "Sigmoid", "Tanh", "Silu"):
        return layers.Activation(_activation(kind.lower()), **options)
    if kind == "Softmax" and config.get("axis", -1) == -1:
        return layers.Activation("softmax", **options)
    if kind in ("Add", "Subtract", "Multiply", "Maximum", "Minimum"):
        same = (
            len(inputs) == len(values) == 2
            and shapes[0] == shapes[1]
            and shapes[0][0] is None
        )
        return getattr(layers, kind)(**options) if same else None
    if kind == "Concatenate" and len({each.dtype for each in inputs}) == 1:
        return layers.Concatenate(axis=config.get("axis", -1), **options)
    if kind == "Mean" and len(shapes[0]) == 4:
        axis = config.get("axis") or ()
        if tuple(axis if isinstance(axis, (list, tuple)) else [axis]) == (1, 2):
            keepdims = config.get("keepdims", False)
            return layers.GlobalAveragePooling2D(keepdims=keepdims, **options)
    if kind == "Reshape":
        first, *rest = config.get("newshape", (None,))
        known = None not in shapes[0][1:] and all(each and each > 0 for each in rest)
        if first == -1 and known and rest and np.prod(rest) == np.prod(shapes[0][1:]):
            return layers.Reshape(tuple(rest), **options)
    return None


def _copy_weights(source: Any, target: Any) -> None:
    if type(source).__name__ in MADE_WITH_STATE:
        return
    values = [np.asarray(variable) for variable in variables_of(source)]
    check_shapes(source, values, target.get_weights())
    target.set_weights(values)


def variables_of(layer: Any) -> list[Any]:
    """A Keras 3 layer's variables in the order of tf_keras, which puts the vector that
    SpectralNormalization keeps behind the weights of its layer."""
    return sorted(layer.weights, key=lambda variable: variable.name == "vector_u")


def check_shapes(layer: Any, own: Any, other: Any) -> None:
    """Raises ValueError unless two lists of arrays, of a Keras 3 layer and of what
    stands for it, have the same shapes."""
    shapes, others = ([tuple(each.shape) for each in arrays] for arrays in (own, other))
    if shapes != others:
        raise ValueError(
            f"{_describe(layer)}: its weights have shapes {shapes} in Keras 3, {others} in tf_keras"
        )


def assign(layer: Any, values: list[np.ndarray]) -> None:
    """Gives a Keras 3 layer the weights of what stands for it in tf_keras."""
    variables = variables_of(layer)
    check_shapes(layer, variables, values)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _check_is_tf_keras(model: Any) -> None:
    if not isinstance(model, tf_keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise ValueError(f"a tf_keras.Model is needed, not a {kind}")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _tensors_in(value: Any) -> Iterator[dict]:
    """The tensors among a call's arguments as the config writes them."""
    if _is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(each)


def _replace_tensors(value: Any, replace: Callable[[dict], Any], revive: bool) -> Any:
    if _is_tensor(value):
        return replace(value)
    if isinstance(value, dict):
        if revive and "class_name" in value:
            return keras.saving.deserialize_keras_object(value)
        return {
            key: _replace_tensors(each, replace, revive) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_tensors(each, replace, revive) for each in value)
    return value


def _arguments(call: dict, tensor_of: Callable[[dict], Any]) -> tuple[Any, dict]:
    revived = _replace_tensors(call, tensor_of, revive=True)
    return revived["args"], revived["kwargs"]


def _numbered(call: dict) -> dict:
    """The call with the number of an input in the place of each tensor."""
    count = iter(range(sum(1 for _ in _tensors_in(call))))
    return _replace_tensors(
        call,
        lambda _: {"class_name": "__keras_tensor__", "config": next(count)},
        revive=False,
    )


def _map_histories(
    structure: Any, function: Callable[[tuple[str, int, int]], Any]
) -> Any:
    """Maps each [layer, call, index] in the structure of a graph's inputs or
    outputs."""
    if isinstance(structure, dict):
        return {key: _map_histories(each, function) for key, each in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(tuple(structure))
    return type(structure)(_map_histories(each, function) for each in structure)
