"""A network with what is needed to ask it about a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.classifiers import maps
from deep_learning_recipes.data.picture_files import read_picture
from deep_learning_recipes.data.pixels import set_channels


@dataclass
class Classifier:
    """A network with what is needed to ask it about a picture."""

    model: keras.Model
    """one graph without nested models: (batch, height, width, 1 or 3) in [0, 1] to
    logits"""
    class_names: list[str]
    """what the logits stand for"""
    squash: Callable[[Any], Any] = keras.ops.softmax
    """makes probabilities of logits, (n, classes) both"""
    ask: Callable[[np.ndarray], np.ndarray] | None = None
    """the probabilities that the network itself gives of pictures as `model` takes
    them, asked as it was before it was opened up; None where that was not needed"""
    notes: list[str] = field(default_factory=list)
    """what was found out and assumed about the network, a line each"""

    def opened_probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, classes), of `model`, whose graph is what can be explained."""
        return np.asarray(self.squash(self.model(images, training=False)))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """What the network says of pictures as `read` gives them, (n, classes)."""
        return (self.ask or self.opened_probabilities)(images)

    @property
    def map_names(self) -> list[str]:
        """The layers that make maps, from the first convolution on.

        Raises UsageError, as the next three do, for a network without convolutions.
        """
        return [layer.name for layer in maps.map_layers(self.model)]

    @property
    def first_convolution(self) -> str:
        return str(maps.first_convolution(self.model).name)

    @property
    def last_convolution(self) -> str:
        return maps.last_convolution(self.model)

    @property
    def convolutions(self) -> keras.Model:
        """From the picture to the maps of its first convolution at each resolution,
        finest first."""
        return maps.convolutions(self.model)

    def read(self, files: Sequence[str | Path]) -> np.ndarray:
        """Pictures (n, height, width, channels) as the network takes them. See
        `read_image`."""
        _, height, width, channels = self.model.inputs[0].shape
        return np.stack([read_image(file, (height, width), channels) for file in files])

    def pictures(self, file: str | Path = "") -> np.ndarray:
        """The picture in a file as `read` gives it, or where none is given the nine
        photographs of `data.load_photos`, squeezed into the network's proportions."""
        if file:
            return self.read([file])
        _, height, width, channels = self.model.inputs[0].shape
        photos = set_channels(data.load_photos(max(height, width)), channels)
        return np.asarray(keras.ops.image.resize(photos, (height, width)))


def read_image(
    file: str | Path, size: tuple[int, int] | None, channels: int = 3
) -> np.ndarray:
    """The picture in the file that a user named by --image, as `read_picture` gives it.

    Raises UsageError for a file that is missing or no picture.
    """
    try:
        return read_picture(file, size, channels)
    except UsageError as error:
        raise UsageError(f"--image {error}") from error
