"""Three photographs in one picture: where is what?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deep_learning_recipes.data.crops import load_photos
from deep_learning_recipes.data.labels import class_names


@dataclass
class Objects:
    """A cat, a cup and a rocket beside each other, the same picture for each."""

    images: np.ndarray
    """(3, size, 3 · size, 3) float32 in [0, 1]"""
    names: tuple[str, ...]
    """of their classes, as ImageNet has them"""
    labels: np.ndarray
    """(3,) int64, of ImageNet's thousand classes"""
    masks: np.ndarray
    """(3, size, 3 · size) bool, a rough box around each object, drawn by hand"""


# By the photograph's name: ImageNet's class and its number, and the box's top, bottom,
# left and right as parts of the square.
BOXES = {
    "cat": ("Egyptian cat", 285, (0.0, 1.0, 0.0, 0.96)),
    "coffee": ("espresso", 967, (0.03, 0.65, 0.17, 0.82)),
    "rocket": ("missile", 657, (0.3, 1.0, 0.35, 0.65)),
}


def load_objects(size: int = 224) -> Objects:
    """Three of scikit-image's photographs as one picture, for maps that shall find what
    they are asked for.

    License: as of `photos`. Raises UsageError for a size out of `load_photos`'s range.
    Measured: a box is 0.32, 0.13 and 0.07 of the picture, which is what a map that finds
    nothing has in it.
    """
    order = class_names("photos")
    photos = load_photos(size)[[order.index(name) for name in BOXES]]
    picture = np.concatenate(list(photos), axis=1)
    masks = np.zeros((len(BOXES), *picture.shape[:2]), bool)
    for place, (_, _, box) in enumerate(BOXES.values()):
        top, bottom, left, right = (round(size * part) for part in box)
        start = place * size
        masks[place, top:bottom, start + left : start + right] = True
    return Objects(
        images=np.repeat(picture[np.newaxis], len(BOXES), axis=0),
        names=tuple(name for name, _, _ in BOXES.values()),
        labels=np.array([number for _, number, _ in BOXES.values()]),
        masks=masks,
    )
