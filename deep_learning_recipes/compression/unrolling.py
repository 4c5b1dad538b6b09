"""Recurrent layers without a loop, as LiteRT takes them at any batch size and in any
mode."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tf_keras

from deep_learning_recipes import UsageError
from deep_learning_recipes.private_keras import all_layers

LONGEST = 256
"""Steps of a sequence that are unrolled: the file grows with each by the size of the
cell's graph, and the conversion takes ten seconds here."""


@contextlib.contextmanager
def unrolled(model: Any) -> Iterator[None]:
    """Within, recurrent layers write their steps one after the other, where the length
    of the sequences is known and at most `LONGEST`."""
    found = [
        layer
        for layer in _recurrent(model)
        if not layer.unroll and 0 < _steps(layer) <= LONGEST
    ]
    for layer in found:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in found:
            layer.unroll = False


def check_recurrent(model: Any) -> None:
    """Raises UsageError for recurrent layers that a file would compute otherwise."""
    for layer in all_layers(model):
        if isinstance(layer, tf_keras.layers.RNN):
            # The converter fuses them into operations that keep their last state.
            raise UsageError(
                f"layer {layer.name!r} is of tf_keras: convert the Keras 3 model, which "
                "to_keras and the results of prune and cluster hold"
            )
    for layer in _recurrent(model):
        if layer.stateful:
            raise UsageError(
                f"layer {layer.name!r} is stateful, which a LiteRT file cannot be: make "
                "its states an input (initial_state) and an output (return_state)"
            )


def _recurrent(model: Any) -> list[keras.layers.RNN]:
    layers = all_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.RNN)]


def _steps(layer: Any) -> int:
    """The length of the sequences that the layer was built for; 0 for any."""
    config = layer.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"sequences_shape": config.get("input_shape")}
    return (shapes.get("sequences_shape") or (None, None))[1] or 0
