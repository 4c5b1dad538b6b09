"""A network's graph, opened up: the layers of nested models stand in it one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from deep_learning_recipes.classifiers.private_keras import copy_of_bare
from deep_learning_recipes.classifiers.tokens import by_way_of_maps, mixes_tokens
from deep_learning_recipes.private_keras import calls_in

# What is put before and behind a user's network has names that its layers cannot have.
RESERVED = ("images", "pixels", "log_odds", "two_classes")


def is_graph(operation: Any) -> bool:
    """Whether it is a Sequential or functional model, whose layers can be called one by
    one. A subclass of keras.Model with a `call` of its own is a layer like others."""
    return isinstance(operation, keras.Model) and bool(
        getattr(operation, "inputs", None)
    )


def walk(model: keras.Model, inputs: list[Any], call: Callable[..., Any]) -> list[Any]:
    """Goes through a model's graph, and through those of nested models, and returns its
    outputs.

    inputs: what stands for the model's inputs. call: a function of an operation, its
        arguments and its options that returns what stands for its outputs.
    """
    graph = keras.Model(model.inputs, model.outputs)
    tensors = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for node in calls_in(graph):
        arguments, options = node.arguments.fill_in(tensors)
        if is_graph(node.operation):
            given = arguments[0] if arguments else options["inputs"]
            outputs: Any = walk(node.operation, keras.tree.flatten(given), call)
        else:
            if takes_training(node.operation):
                # As `predict` does. Keras records True for augmentation.
                options = {**options, "training": False}
            outputs = call(node.operation, arguments, options)
        for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[id(old)] = new
    return [tensors[id(each)] for each in graph.outputs]


def takes_training(operation: Any) -> bool:
    return "training" in inspect.signature(operation.call).parameters


def inline(model: keras.Model, tensor: Any) -> list[Any]:
    """Calls copies of a model's layers, those of nested models among them, one by one
    on `tensor`, and returns the outputs.

    A nested model hides its layers' outputs from the outer graph, so that no gradient
    with respect to them can be asked for. Copies have their own place in the new graph
    and the same weights; they compute in float32, as float16 knows no small gradient.
    """
    copies: dict[int, tuple[Any, Any]] = {}
    names = set(RESERVED)

    def unique(name: str) -> str:
        while name in names:
            name += "_again"
        names.add(name)
        return name

    def copy_of(layer: Any) -> Any:
        if id(layer) not in copies:
            config = layer.get_config()
            config["name"] = unique(config["name"])
            if "dtype" in config and layer.dtype_policy.quantization_mode is None:
                config["dtype"] = "float32"
            copies[id(layer)] = layer, type(layer).from_config(config)
        return copies[id(layer)][1]

    def call(operation: Any, arguments: Any, options: Any) -> Any:
        if isinstance(operation, keras.layers.Layer):
            if mixes_tokens(operation):
                size = tensor.shape[1:3]
                arguments, options = by_way_of_maps(arguments, options, size)
            return copy_of(operation)(*arguments, **options)
        if type(operation).__name__ == "Relu":
            # A layer can be found: for its maps, and for a gradient of another rule.
            relu = keras.layers.ReLU(name=unique(operation.name), dtype="float32")
            return relu(*arguments, **options)
        bare = copy_of_bare(operation, unique(operation.name))
        return bare(*arguments, **options)

    outputs = walk(model, [tensor], call)
    for layer, twin in copies.values():
        twin.set_weights(layer.get_weights())
    return outputs
