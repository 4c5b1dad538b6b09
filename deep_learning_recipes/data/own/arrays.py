"""An .npz file of x and y, or of x_train, y_train, x_test and y_test."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.data.own import memory
from deep_learning_recipes.data.own.parts import (
    choose,
    encode,
    hold_out,
    warn_of_absent,
)
from deep_learning_recipes.data.own.said import say
from deep_learning_recipes.data.picture_files import FULL_SCALES
from deep_learning_recipes.data.pixels import Split, resize, set_channels

PARTS = ("x_train", "y_train", "x_test", "y_test")
LARGEST_DEFAULT = 32
SMALL_COUNT = 64
"""below it the highest pixel is white: 16, say, where dots were counted"""


@dataclass
class Labeled:
    """One part; labels of the whole file are numbered alike."""

    x: np.ndarray
    y: np.ndarray


def read_images(path: Path, size: int | None, channels: int | None, most: int) -> Split:
    """Images (n, height, width), with a last axis of 1, 3 or 4 channels or without.

    size, channels, most: as of a folder's.
    """
    return as_split(path, *read(path, most), size, channels)


def read_vectors(path: Path, most: int) -> Split:
    """Rows (n, features) as they are in the file; images flat, in [0, 1]."""
    train, test = read(path, most)
    if train.x.ndim > 2:
        (x, y), (x_test, y_test) = as_split(path, train, test, None, None)
        return (x.reshape(len(x), -1), y), (x_test.reshape(len(x_test), -1), y_test)
    x = train.x.astype("float32")
    return (x, train.y), (test.x.astype("float32"), test.y)


def as_split(
    path: Path, train: Labeled, test: Labeled, size: int | None, channels: int | None
) -> Split:
    images = as_images(path, train.x)
    test_images = as_images(path, test.x)
    black, white = found_range(path, images, test_images)
    height, width = images.shape[1:3]
    side = size or min(LARGEST_DEFAULT, height, width)
    if (height, width) != (side, side):
        say(path, f"images of {height} × {width} pixels become {side} × {side}")
    colors = channels or (1 if images.shape[-1] == 1 else 3)
    x = finished(images, black, white, side, colors)
    x_test = finished(test_images, black, white, side, colors)
    return (x, train.y), (x_test, test.y)


def class_names(path: Path) -> list[str]:
    with opened(path) as arrays:
        _, names = labels(path, arrays)
    return names


def read(path: Path, most: int) -> tuple[Labeled, Labeled]:
    """Both parts as they are in the file; one part is split."""
    with opened(path) as arrays:
        require_memory(path, most)
        numbers, names = labels(path, arrays)
        if "x" in arrays.files:
            x = checked(path, arrays, "x", len(numbers["y"]))
            rows = choose(numbers["y"], most, path)
            x, y = x[rows], numbers["y"][rows]
            train, test = hold_out(y, names, path)
            return Labeled(x[train], y[train]), Labeled(x[test], y[test])
        found = {}
        for name in ("train", "test"):
            y = numbers[f"y_{name}"]
            x = checked(path, arrays, f"x_{name}", len(y))
            rows = choose(y, most, path)
            found[name] = Labeled(x[rows], y[rows])
    train_part, test_part = found["train"], found["test"]
    if train_part.x.shape[1:] != test_part.x.shape[1:]:
        raise UsageError(
            f"{path}: x_train holds examples of shape {train_part.x.shape[1:]}, x_test "
            f"of {test_part.x.shape[1:]}"
        )
    warn_of_absent(test_part.y, names, path)
    return train_part, test_part


def opened(path: Path) -> np.lib.npyio.NpzFile:
    """Raises UsageError for a file that is no .npz or lacks the arrays."""
    try:
        arrays = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: no .npz file, or a damaged one") from error
    names = list(getattr(arrays, "files", ()))
    if {"x", "y"} <= set(names) or set(PARTS) <= set(names):
        return arrays
    wanted = "x and y, or x_train, y_train, x_test and y_test"
    near = did_you_mean("x_train", names) if names else ""
    raise UsageError(
        f"{path}: it has {', '.join(names) or 'no arrays'}; needed are {wanted}{near}"
    )


def array(path: Path, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return arrays[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise UsageError(
                f"{path}: {name} holds Python objects, which are not opened (rows of "
                "different lengths, or None?); save it as numbers of one shape"
            ) from error
        raise UsageError(f"{path}: {name} is damaged ({error})") from error


def labels(
    path: Path, arrays: np.lib.npyio.NpzFile
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The labels of each part, numbered alike, and what they stand for."""
    if "y" in arrays.files:
        numbers, names = encode(array(path, arrays, "y"), path, "y")
        return {"y": numbers}, names
    train = array(path, arrays, "y_train")
    test = array(path, arrays, "y_test")
    if train.shape[1:] != test.shape[1:]:
        raise UsageError(
            f"{path}: y_train and y_test hold labels of different shapes: "
            f"{train.shape[1:]} and {test.shape[1:]}"
        )
    numbers, names = encode(np.concatenate([train, test]), path, "y")
    of_train, of_test = np.split(numbers, [len(train)])
    unknown = sorted(set(of_test.tolist()) - set(of_train.tolist()))
    if unknown:
        raise UsageError(
            f"{path}: y_test has the class {names[unknown[0]]}, which y_train lacks"
        )
    return {"y_train": of_train, "y_test": of_test}, names


def checked(
    path: Path, arrays: np.lib.npyio.NpzFile, name: str, count: int
) -> np.ndarray:
    """x as numbers, as many as there are labels. Raises UsageError otherwise."""
    x = array(path, arrays, name)
    if x.dtype.kind not in "biuf":
        raise UsageError(f"{path}: {name} holds {x.dtype.name}, not numbers")
    if x.ndim < 2:
        raise UsageError(
            f"{path}: {name} has the shape {x.shape}; examples have axes of their own: "
            "(n, features), (n, height, width) or (n, height, width, channels)"
        )
    if len(x) != count:
        raise UsageError(f"{path}: {name} has {len(x):,} examples, its y {count:,}")
    if x.dtype.kind == "f":
        broken = np.count_nonzero(~np.isfinite(x))
        if broken:
            raise UsageError(
                f"{path}: {name} has {broken:,} values that are NaN or infinite"
            )
    return x


def require_memory(path: Path, most: int) -> None:
    """By the shapes that stand in the file's headers."""
    total = 0
    each = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.startswith("x"):
                continue
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                if version == (1, 0):
                    shape, _, _ = np.lib.format.read_array_header_1_0(member)
                else:
                    shape, _, _ = np.lib.format.read_array_header_2_0(member)
            if len(shape) > 1:
                total += shape[0]
                each = max(each, 4 * int(np.prod(shape[1:])))
    memory.require(path, min(total, most or total), each, "examples")


def as_images(path: Path, x: np.ndarray) -> np.ndarray:
    """(n, height, width, 1, 3 or 4). Raises UsageError for what is no image."""
    if x.ndim == 3:
        return x[..., np.newaxis]
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4):
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3, 4):
        say(path, "the second axis holds the channels; it becomes the last")
        return np.moveaxis(x, 1, -1)
    if x.ndim == 2:
        raise UsageError(
            f"{path}: x has the shape {x.shape}, a table; this takes images, (n, height, "
            "width) or (n, height, width, channels)"
        )
    raise UsageError(
        f"{path}: x has the shape {x.shape}; images are (n, height, width), or with 1, 3 "
        "or 4 channels as a last axis"
    )


def found_range(path: Path, x: np.ndarray, x_test: np.ndarray) -> tuple[float, float]:
    """What stands for black and for white; says it where it is not 0 and 1."""
    low = float(min(x.min(), x_test.min()))
    high = float(max(x.max(), x_test.max()))
    if low == high:
        raise UsageError(f"{path}: all pixels are {low:g}")
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low < 0:
        is_centered = low >= -1 and high <= 1
        black, white = (-1.0, 1.0) if is_centered else (low, high)
    else:
        black = 0.0
        white = white_of(high)
    say(path, f"pixels from {low:g} to {high:g}: {black:g} is black, {white:g} white")
    return black, white


def white_of(highest: float) -> float:
    """The scale of pixels from 0 on: bytes, or more bits; small counts are their own."""
    if highest < SMALL_COUNT:
        return highest
    return float(next((scale for scale in FULL_SCALES if highest <= scale), highest))


def finished(
    x: np.ndarray, black: float, white: float, side: int, channels: int
) -> np.ndarray:
    """Images in [0, 1], of this side and number of channels, on white where they are
    transparent."""
    scaled = (x.astype("float32") - black) / (white - black)
    scaled = np.clip(scaled, 0, 1)
    if scaled.shape[-1] == 4:
        opacity = scaled[..., 3:]
        scaled = scaled[..., :3] * opacity + 1 - opacity
    return set_channels(resize(scaled, side), channels)
