"""The tokens of a vision transformer as maps: those that an attention layer takes,
brought back to their places in the picture."""

from __future__ import annotations

import math
from typing import Any

import keras

from deep_learning_recipes.classifiers.private_keras import calls_of

# Tokens that are no place, and come first: none, one for the class, another one for
# distillation, or four registers.
OTHERS = (0, 1, 2, 5)


class TokenMaps(keras.layers.Layer):
    """Tokens (batch, others + height · width, channels) to maps (batch, height, width,
    channels)."""

    def __init__(self, grid: tuple[int, int], others: int, **options: Any):
        super().__init__(**{"dtype": "float32", **options})
        self.grid, self.others = tuple(grid), others

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grid": self.grid, "others": self.others}

    def call(self, tokens: Any) -> Any:
        shape = (-1, *self.grid, tokens.shape[-1])
        return keras.ops.reshape(tokens[:, self.others :], shape)


class Tokens(keras.layers.Layer):
    """Such maps back to tokens, behind the other ones of the tokens given."""

    def __init__(self, others: int, **options: Any):
        super().__init__(**{"dtype": "float32", **options})
        self.others = others

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "others": self.others}

    def call(self, both: Any) -> Any:
        tokens, maps = both
        _, height, width, channels = maps.shape
        flat = keras.ops.reshape(maps, (-1, height * width, channels))
        return keras.ops.concatenate([tokens[:, : self.others], flat], axis=1)


def mixes_tokens(layer: Any) -> bool:
    """Whether it is a layer of Keras's for attention, or one of someone's own that
    turns tokens into as many, as a block with attention in it does."""
    if type(layer).__module__.startswith("keras"):
        return "Attention" in type(layer).__name__
    node = calls_of(layer)[0]
    return bool(node.outputs[0].shape == node.input_tensors[0].shape)


def by_way_of_maps(
    arguments: Any, options: Any, picture: tuple[int, int]
) -> tuple[Any, Any]:
    """The arguments of a layer whose tokens have been maps on the way; as they are
    where the number of tokens fits no grid of the picture's proportions."""
    tokens = keras.tree.flatten((arguments, options))[0]
    shape = getattr(tokens, "shape", ())
    found = find_grid(shape, *picture) or find_grid(shape, 1, 1)
    if found is None:
        return arguments, options
    grid, others = found
    maps = TokenMaps(grid, others)(tokens)
    again = Tokens(others)([tokens, maps])
    return keras.tree.map_structure(
        lambda each: again if each is tokens else each, (arguments, options)
    )


def find_grid(
    shape: tuple[int | None, ...], height: int, width: int
) -> tuple[tuple[int, int], int] | None:
    """((rows, columns), number of other tokens), or None where none fits."""
    if len(shape) != 3 or not shape[1]:
        return None
    for others in OTHERS:
        places = max(shape[1] - others, 0)
        columns = round(math.sqrt(places * width / height))
        rows = columns * height // width
        if rows * columns == places and min(rows, columns) > 1:
            return (rows, columns), others
    return None
