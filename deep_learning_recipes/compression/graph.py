"""The graph of a Keras 3 model, built again in tf_keras call by call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from deep_learning_recipes.compression.calls import (
    arguments,
    map_histories,
    numbered,
    tensors_in,
)
from deep_learning_recipes.compression.configs import Translator
from deep_learning_recipes.compression.counterparts import describe
from deep_learning_recipes.compression.functional import as_functional, config_of
from deep_learning_recipes.compression.operations import layer_for_operation
from deep_learning_recipes.compression.tf_keras_layers import (
    KerasOperation,
    SplitSeparable,
)
from deep_learning_recipes.compression.weights import copy_weights


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


@dataclass
class Call:
    """One call of a layer or an operation, as the graph's config records it."""

    operation: Any
    """a Keras 3 layer, model or `keras.ops` operation"""
    data: dict
    """what the config says of it"""
    number: int
    """of the call among those of the operation"""
    arguments: dict
    """positional and keyword arguments"""
    path: tuple[str, ...]
    """the operation's name, after the names of the models it is nested in"""


class Tensors:
    """The tf_keras tensors that are known so far."""

    def __init__(self, inputs: dict[tuple[str, int], list[Any]]) -> None:
        self.known = inputs
        """the outputs of each call, by the operation's name and the call's number"""

    def of(self, data: dict) -> Any:
        name, call, index = data["config"]["keras_history"]
        return self.known[name, call][index]

    def suffice_for(self, call: Call) -> bool:
        histories = (
            data["config"]["keras_history"] for data in tensors_in(call.arguments)
        )
        return all((name, number) in self.known for name, number, _ in histories)


class Builder:
    """Makes one tf_keras graph."""

    def __init__(
        self, prefix: str, inline: bool, split: bool, shared: dict[int, Any]
    ) -> None:
        self.prefix = prefix
        self.inline = inline
        self.split = split
        self.shared = shared
        """tf_keras layers by the identity of the Keras 3 layer, for all graphs of a
        model"""
        self.layers: dict[tuple[str, ...], tf_keras.layers.Layer] = {}
        self.names: set[str] = set()

    def build(self, model: keras.Model) -> Bridge:
        graph = as_functional(model)
        config = config_of(graph)
        inputs = {
            (data["name"], 0): [_input(data)]
            for data in config["layers"]
            if data["class_name"] == "InputLayer"
        }
        entrances = map_histories(
            config["input_layers"], lambda history: inputs[history[:2]][0]
        )
        outputs = self.run(graph, config, inputs, ())
        names = {path: layer.name for path, layer in self.layers.items()}
        twin = tf_keras.Model(entrances, outputs, name=graph.name)
        return Bridge(twin, self.layers, names)

    def run(
        self,
        graph: keras.Model,
        config: dict,
        inputs: dict[tuple[str, int], list[Any]],
        path: tuple[str, ...],
    ) -> Any:
        """Makes the calls of a graph one after the other and returns its outputs.

        inputs: a list of one tensor for each input, by its name and 0.
        path: the names of the models that the graph is nested in.
        """
        tensors = Tensors(inputs)
        operations = {operation.name: operation for operation in graph.operations}
        pending = [
            Call(operations[data["name"]], data, number, call, (*path, data["name"]))
            for data in config["layers"]
            for number, call in enumerate(data["inbound_nodes"])
        ]
        while pending:
            waiting = []
            for call in pending:
                if tensors.suffice_for(call):
                    outputs = tf.nest.flatten(self.call(call, tensors))
                    tensors.known[call.data["name"], call.number] = outputs
                else:
                    waiting.append(call)
            if len(waiting) == len(pending):
                raise ValueError(f"the graph of {graph.name!r} cannot be followed")
            pending = waiting

        def output_of(history: tuple[str, int, int]) -> Any:
            name, number, index = history
            if (name, number) not in tensors.known or _counts_from_one(
                operations[name]
            ):
                number -= 1
            return tensors.known[name, number][index]

        return map_histories(config["output_layers"], output_of)

    def call(self, call: Call, tensors: Tensors) -> Any:
        """Calls what stands for the operation as the config records it."""
        operation = call.operation
        if not isinstance(operation, keras.layers.Layer):
            return self.call_operation(call, tensors)
        args, kwargs = arguments(call.arguments, tensors.of)
        # In Keras 3 the model's own `training` overrides it.
        kwargs.pop("training", None)
        if isinstance(operation, keras.Model) and self.inline:
            return self.call_inline(operation, args, kwargs, call.path)
        is_new = id(operation) not in self.shared
        if is_new:
            self.shared[id(operation)] = self.make(call)
        self.layers[call.path] = layer = self.shared[id(operation)]
        try:
            outputs = layer(*args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"{describe(operation)}: tf_keras cannot call it so: {error}"
            ) from error
        if is_new and not isinstance(operation, keras.Model):
            copy_weights(operation, layer)
        return outputs

    def call_inline(
        self, model: Any, args: Any, kwargs: dict, path: tuple[str, ...]
    ) -> Any:
        graph = as_functional(model)
        config = config_of(graph)
        names: list[str] = []
        map_histories(config["input_layers"], lambda history: names.append(history[0]))
        structure = args[0] if args else kwargs["inputs"]
        if isinstance(structure, dict):
            given = [structure[name] for name in config["input_layers"]]
        else:
            given = tf.nest.flatten(structure)
        inputs = {
            (name, 0): [tensor] for name, tensor in zip(names, given, strict=True)
        }
        return self.run(graph, config, inputs, path)

    def call_operation(self, call: Call, tensors: Tensors) -> Any:
        inputs = [tensors.of(data) for data in tensors_in(call.arguments)]
        options = {"name": self.name(call.path), "dtype": inputs[0].dtype.name}
        layer = layer_for_operation(call.operation, call.arguments, inputs, options)
        if layer is None:
            keys = ("module", "class_name", "config", "registered_name")
            serialized = {key: call.data[key] for key in keys}
            layer = KerasOperation(serialized, numbered(call.arguments), **options)
        return layer(inputs[0] if len(inputs) == 1 else inputs)

    def make(self, call: Call) -> Any:
        """What stands for a layer or a nested model, without its weights."""
        operation = call.operation
        if isinstance(operation, keras.Model):
            nested = Builder("", False, False, self.shared).build(operation)
            self.layers |= {
                (*call.path, *below): layer for below, layer in nested.layers.items()
            }
            layer = nested.model
        elif self.split and isinstance(operation, keras.layers.SeparableConv2D):
            return SplitSeparable(operation, self.name(call.path))
        else:
            translator = Translator(twin_of)
            name = self.name(call.path)
            layer = translator.layer(operation, call.data["config"], name)
        layer.trainable = operation.trainable
        return layer

    def name(self, path: tuple[str, ...]) -> str:
        """A name that no other layer of the graph has."""
        wanted = name = self.prefix + "_".join(path)
        count = 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name


def twin_of(model: keras.Model) -> tf_keras.Model:
    """The tf_keras model that computes what a Keras 3 model does."""
    return Builder("", inline=False, split=False, shared={}).build(model).model


def _counts_from_one(operation: Any) -> bool:
    """In a graph's outputs, Keras numbers the calls of a functional model from 1."""
    return isinstance(operation, keras.Model) and not isinstance(
        operation, keras.Sequential
    )


def _input(data: dict) -> Any:
    config = data["config"]
    return tf_keras.Input(
        batch_shape=tuple(config["batch_shape"]),
        name=data["name"],
        dtype=config["dtype"],
        sparse=config["sparse"],
        ragged=config.get("ragged", False),
    )
