"""A folder of images with one subfolder a class."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own import memory
from deep_learning_recipes.data.own.parts import choose, hold_out, warn_of_absent
from deep_learning_recipes.data.own.said import counted, listed, say
from deep_learning_recipes.data.own.source import PICTURES, files_below, visible
from deep_learning_recipes.data.picture_files import read_picture
from deep_learning_recipes.data.pixels import Part, Split

TRAIN = ("train", "training")
# In the order in which they are preferred.
TEST = ("test", "testing", "val", "valid", "validation")
LARGEST_DEFAULT = 32
"""side of images, where nobody asked for another: what two cores can train on"""
SMALLEST = 4
LOOKED_AT = 500
"""files whose headers decide about the side and the colors"""


@dataclass
class Listing:
    """The files of a part, and the class of each."""

    files: list[Path]
    labels: np.ndarray


def read_images(path: Path, size: int | None, channels: int | None, most: int) -> Split:
    """Images and labels, as `data.load` returns them.

    size: side in pixels; None: of the smaller sides the median, at most 32.
    channels: 1 or 3; None: 1 where all are gray.
    most: how many images to read; 0: all.
    """
    train_folder, test_folder = parts(path)
    if train_folder != path:
        used = {train_folder, test_folder}
        unused = [each.name for each in visible(path) if each not in used]
        if unused:
            say(
                path, f"beside {train_folder.name} these are not used: {listed(unused)}"
            )
    folders = classes(train_folder)
    names = [normal(folder.name) for folder in folders]
    train = chosen(listing(train_folder, names), most, path)
    side, colors = settle(path, train.files, size, channels)
    x, y = read_part(path, train, side, colors)
    if test_folder is None:
        rows, held_out = hold_out(y, names, path)
        return (x[rows], y[rows]), (x[held_out], y[held_out])

    check_same_classes(test_folder, names)
    test = chosen(listing(test_folder, names), most, path)
    x_test, y_test = read_part(path, test, side, colors)
    counts = np.bincount(y, minlength=len(names))
    lacking = [names[i] for i in np.flatnonzero(counts == 0)]
    if lacking:
        raise UsageError(f"{train_folder}: no image can be read of {listed(lacking)}")
    if not len(x_test):
        raise UsageError(f"{test_folder}: no image can be read")
    say(
        path,
        f"{len(x):,} images in {train_folder.name}, {len(x_test):,} in "
        f"{test_folder.name}",
    )
    warn_of_absent(y_test, names, path)
    return (x, y), (x_test, y_test)


def class_names(path: Path) -> list[str]:
    train_folder, _ = parts(path)
    return [normal(folder.name) for folder in classes(train_folder)]


def parts(path: Path) -> tuple[Path, Path | None]:
    """The folder to train on, and that to test on if there is one beside."""
    by_name = {each.name.lower(): each for each in visible(path) if each.is_dir()}
    train = next((by_name[name] for name in TRAIN if name in by_name), None)
    if train is None:
        return path, None
    test = next((by_name[name] for name in TEST if name in by_name), None)
    return train, test


def classes(folder: Path) -> list[Path]:
    """The subfolders that hold pictures, one for each class."""
    subfolders = [each for each in visible(folder) if each.is_dir()]
    found = [each for each in subfolders if pictures(each)]
    if not found:
        raise UsageError(
            f"{folder}: no subfolders with pictures; put those of each class into one "
            f"of its own, such as {folder / 'cats'} and {folder / 'dogs'}"
        )
    if len(found) == 1:
        (single,) = found
        inner = [each for each in visible(single) if each.is_dir() and pictures(each)]
        hint = f"; its subfolders look like classes: {single}" if len(inner) > 1 else ""
        raise UsageError(
            f"{folder}: one class only ({single.name}); two are needed{hint}"
        )
    return found


def pictures(folder: Path) -> list[Path]:
    """Also of deeper folders."""
    return [each for each in files_below(folder) if each.suffix.lower() in PICTURES]


def normal(name: str) -> str:
    """Systems write accents in two ways."""
    return unicodedata.normalize("NFC", name)


def check_same_classes(test_folder: Path, names: Sequence[str]) -> None:
    """Raises UsageError where the test part has a class that nothing is learned of."""
    others = [normal(each.name) for each in visible(test_folder) if each.is_dir()]
    unknown = [name for name in others if name not in names]
    if unknown:
        raise UsageError(
            f"{test_folder}: {listed(unknown)} is no class to train on; the classes are "
            f"{listed(names)}"
        )


def listing(folder: Path, names: Sequence[str]) -> Listing:
    """The pictures below `folder`, class by class; says what is left out."""
    label_of = {name: label for label, name in enumerate(names)}
    files: list[Path] = []
    labels: list[int] = []
    others: list[str] = []
    for each in visible(folder):
        if not each.is_dir():
            others.append(each.name)
            continue
        inside = list(files_below(each))
        shown = [file for file in inside if file.suffix.lower() in PICTURES]
        others += [file.name for file in inside if file.suffix.lower() not in PICTURES]
        if normal(each.name) in label_of:
            files += shown
            labels += [label_of[normal(each.name)]] * len(shown)
    if others:
        say(
            folder,
            f"{len(others):,} files are no pictures of a class: {listed(others)}",
        )
    return Listing(files, np.array(labels, "int64"))


def chosen(all_files: Listing, most: int, path: Path) -> Listing:
    indices = choose(all_files.labels, most, path)
    return Listing([all_files.files[i] for i in indices], all_files.labels[indices])


def settle(
    path: Path, files: Sequence[Path], size: int | None, channels: int | None
) -> tuple[int, int]:
    """The side and the channels, from the headers of some files; says what becomes of
    the shapes that they have."""
    from PIL import Image

    step = max(1, len(files) // LOOKED_AT)
    shapes = []
    gray = []
    for file in files[::step]:
        try:
            with Image.open(file) as opened:
                shapes.append(opened.size[::-1])
                gray.append(
                    opened.mode in ("1", "L", "LA", "F") or opened.mode[0] == "I"
                )
        except Exception:  # it is named when it is read
            continue
    if not shapes:
        return size or LARGEST_DEFAULT, channels or 3
    smaller = int(np.median([min(shape) for shape in shapes]))
    side = size or max(SMALLEST, min(smaller, LARGEST_DEFAULT))
    colors = channels or (1 if all(gray) else 3)
    if set(shapes) != {(side, side)}:
        kind = "gray" if colors == 1 else "in color"
        say(
            path, f"images of {described(shapes)} pixels become {side} × {side}, {kind}"
        )
    return side, colors


def described(shapes: Sequence[tuple[int, int]]) -> str:
    """'40 × 56', or '40 × 56 to 300 × 400' (height × width), by area."""
    ordered = sorted(set(shapes), key=lambda shape: shape[0] * shape[1])
    height, width = ordered[0]
    if len(ordered) == 1:
        return f"{height} × {width}"
    largest_height, largest_width = ordered[-1]
    return f"{height} × {width} to {largest_height} × {largest_width}"


def read_part(path: Path, part: Listing, side: int, colors: int) -> Part:
    """The images of a part that can be read; says which cannot."""
    shape = (side, side, colors)
    what = f"images of {side} × {side} × {colors}"
    memory.require(path, len(part.files), 4 * side * side * colors, what)
    x = np.empty((len(part.files), *shape), "float32")
    readable = np.ones(len(part.files), bool)
    unreadable = []
    for index, file in enumerate(counted(part.files, path, "read")):
        try:
            x[index] = read_picture(file, (side, side), colors, whole=True)
        except UsageError:
            readable[index] = False
            unreadable.append(file.name)
    if unreadable:
        say(
            path,
            f"{len(unreadable):,} of {len(part.files):,} files cannot be read and are "
            f"left out: {listed(unreadable)}",
        )
    return x[readable], part.labels[readable]
