"""A folder that Hugging Face's `datasets` saved to disk."""

from pathlib import Path
from typing import Any

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own import memory
from deep_learning_recipes.data.own.parts import (
    choose,
    hold_out,
    warn_of_absent,
)
from deep_learning_recipes.data.own.said import counted, listed, say
from deep_learning_recipes.data.picture_files import pixels_of
from deep_learning_recipes.data.pixels import Part, Split

TEST = ("test", "validation", "val")
LARGEST_DEFAULT = 32


def read_images(path: Path, size: int | None, channels: int | None, most: int) -> Split:
    """Images and labels of the columns that the data set declares so.

    size, channels, most: as of a folder's.
    """
    train, test = splits(path)
    image, label = image_columns(path, train)
    first = train[0][image]
    side = size or min(LARGEST_DEFAULT, *first.size)
    colors = channels or (1 if first.mode in ("1", "L") else 3)
    names = names_of(path, train, label)
    say(path, f"images of column {image} become {side} × {side}, classes by {label}")
    x, y = read_part(path, train, image, label, side, colors, most)
    if test is None:
        rows, held_out = hold_out(y, names, path)
        return (x[rows], y[rows]), (x[held_out], y[held_out])
    x_test, y_test = read_part(path, test, image, label, side, colors, most)
    warn_of_absent(y_test, names, path)
    return (x, y), (x_test, y_test)


def read_text(path: Path) -> list[str]:
    """The texts of all rows, in their order."""
    train, _ = splits(path)
    strings = [
        name
        for name, feature in train.features.items()
        if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    if not strings:
        raise UsageError(
            f"{path}: no column of text; there are {listed(list(train.features))}"
        )
    name = "text" if "text" in strings else strings[0]
    return list(train[name])


def class_names(path: Path) -> list[str]:
    train, _ = splits(path)
    _, label = image_columns(path, train)
    return names_of(path, train, label)


def splits(path: Path) -> tuple[Any, Any]:
    """The part to train on, and that to test on or None."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{path}: a data set saved by Hugging Face; reading it takes a package more: "
            "pip install datasets"
        ) from error
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder can fail in every way there is
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path}: cannot be loaded ({reason})") from error
    if not isinstance(found, dict):
        return found, None
    if "train" not in found:
        raise UsageError(
            f"{path}: no part is called train; there are {listed(list(found))}"
        )
    test = next((found[name] for name in TEST if name in found), None)
    return found["train"], test


def image_columns(path: Path, part: Any) -> tuple[str, str]:
    """The columns of images and of their labels."""
    kinds = {name: type(feature).__name__ for name, feature in part.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not images or not labels:
        raise UsageError(
            f"{path}: it takes a column of images and one of class labels; there are "
            f"{listed([f'{name} ({kind})' for name, kind in kinds.items()])}"
        )
    return images[0], labels[0]


def names_of(path: Path, part: Any, label: str) -> list[str]:
    names = list(part.features[label].names)
    if len(names) < 2:
        raise UsageError(f"{path}: one class only ({listed(names)}); two are needed")
    return names


def read_part(
    path: Path,
    part: Any,
    image: str,
    label: str,
    side: int,
    colors: int,
    most: int,
) -> Part:
    labels = np.array(part[label], "int64")
    if labels.min() < 0:
        raise UsageError(f"{path}: column {label} has rows without a label (-1)")
    rows = choose(labels, most, path)
    what = f"images of {side} × {side} × {colors}"
    memory.require(path, len(rows), 4 * side * side * colors, what)
    x = np.empty((len(rows), side, side, colors), "float32")
    for place, row in enumerate(counted(rows.tolist(), path, "read")):
        x[place] = pixels_of(part[row][image], (side, side), colors)
    return x, labels[rows]
