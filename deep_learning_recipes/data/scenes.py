"""Pictures with their truth: real digits pasted on photographs, and where each digit
is."""

from dataclasses import dataclass

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.crops import photos
from deep_learning_recipes.data.images import digits
from deep_learning_recipes.data.pixels import LUMINANCE, resize

SIDES = (0.45, 0.6)  # of a digit, in sides of the picture
# what is left of the photographs' light, and the least luminance of a digit above it
DIMMED = 0.5
LIGHT = 0.6
SOURCE = 32  # side in pixels that the digits' 8 x 8 are brought to first


@dataclass
class Scenes:
    """n pictures, each with one digit."""

    images: np.ndarray
    """(n, size, size, 3) float32 in [0, 1]"""
    labels: np.ndarray
    """(n,) int64: the digit"""
    masks: np.ndarray
    """(n, size, size) bool: its pixels"""
    boxes: np.ndarray
    """(n, 4) int64: top, left, bottom and right of its mask in pixels, the last two
    just outside"""


def load_scenes(
    train: int = 3000, test: int = 500, *, size: int = 48, seed: int = 0
) -> tuple[Scenes, Scenes]:
    """Handwritten digits at random places of dimmed photographs, in one light color
    each.

    Digits and photographs' regions of the test part are none of the train part's. The
    digits are real (`digits`), so are the photographs (`photos`); the layout is made.

    train, test: how many; size: side of a picture in pixels, from 24 to 256.
    License: as of `digits` and `photos`.
    Measured: a net of four convolutions and global max pooling 0.99 after 8 epochs, ten
    seconds. Raises UsageError for a number out of range.
    """
    if min(train, test) < 1 or not 24 <= size <= 256:
        raise UsageError(
            f"scenes: train and test must be 1 or more, size 24 to 256, not {train}, {test}, {size}"
        )
    (x_train, y_train), (x_test, y_test) = digits(None, seed)
    (ground_train, _), (ground_test, _) = photos(size, seed)
    rng = np.random.default_rng(seed)
    return (
        compose(x_train, y_train, DIMMED * ground_train, train, rng),
        compose(x_test, y_test, DIMMED * ground_test, test, rng),
    )


def compose(
    x: np.ndarray,
    y: np.ndarray,
    grounds: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> Scenes:
    """Pastes `count` of the digits x, y, all about as often as the others, on random
    grounds."""
    size = grounds.shape[1]
    digit = rng.permutation(np.arange(count) % len(x))
    images = grounds[rng.integers(len(grounds), size=count)]
    masks = np.zeros((count, size, size), bool)
    boxes = np.empty((count, 4), "int64")
    sharp = resize(x, SOURCE)
    sides = rng.integers(int(SIDES[0] * size), int(SIDES[1] * size) + 1, size=count)
    for side in np.unique(sides):
        at = np.flatnonzero(sides == side)
        inks = np.clip(resize(sharp[digit[at]], side) * 1.5, 0, 1)
        for i, ink in zip(at, inks, strict=True):
            top, left = rng.integers(0, size - side + 1, size=2)
            place = images[i, top : top + side, left : left + side]
            place[:] = (1 - ink) * place + ink * draw_color(rng)
            masks[i, top : top + side, left : left + side] = ink[..., 0] > 0.5
            rows, columns = np.nonzero(masks[i])
            boxes[i] = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    return Scenes(images, y[digit], masks, boxes)


def draw_color(rng: np.random.Generator) -> np.ndarray:
    """A random light color: one in four is, so that one of 64 is for certain."""
    colors = rng.random((64, 3), "float32")
    return colors[np.argmax(colors @ LUMINANCE > LIGHT)]
