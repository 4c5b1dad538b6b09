"""The graph of a Keras 3 model, as its config describes it: the format of saved
models."""

from typing import Any

import keras

from deep_learning_recipes.compression.counterparts import (
    BUILD_IT,
    check_layer,
    describe,
)


def as_functional(model: keras.Model) -> keras.Model:
    """The graph of a Sequential or functional model, or of a subclass of them."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise ValueError(f"a Keras 3 model (keras.Model) is needed, not a {kind}")
    try:
        if isinstance(model, keras.Sequential):
            # Its `input` and `output` are those of the model it is nested in.
            inputs = _alone(model.inputs)
            outputs = _alone(model.outputs)
        else:
            inputs = model.input
            outputs = model.output
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(model, keras.Sequential):
            way_out = "it is not built: begin with keras.Input(shape), or call it on data once"
        else:
            way_out = f"a subclass's graph cannot be seen; use {BUILD_IT}"
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}): {way_out}"
        ) from error
    return keras.Model(inputs, outputs, name=model.name)


def config_of(graph: keras.Model) -> dict:
    """The graph's config, after a look at what is in it."""
    for operation in graph.operations:
        if isinstance(operation, keras.Model):
            continue
        if isinstance(operation, keras.layers.Layer):
            check_layer(operation)
        elif not type(operation).__module__.startswith("keras."):
            raise ValueError(
                f"{describe(operation)}: only Keras's own operations are known"
            )
    try:
        return graph.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{graph.name!r}: a part of it has no config: {error}"
        ) from error


def _alone(tensors: list[Any]) -> Any:
    """A list's only tensor by itself."""
    return tensors[0] if len(tensors) == 1 else tensors
