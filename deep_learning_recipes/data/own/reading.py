"""The user's data by path, whatever kind lies there."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own import (
    arrays,
    columns,
    folder,
    saved,
    tabular,
    texts,
    times,
)
from deep_learning_recipes.data.own.asked import Asked
from deep_learning_recipes.data.own.source import Kind, find, kind_of
from deep_learning_recipes.data.pixels import Split

IMAGES = "images: a folder with one subfolder a class, or an .npz file"
VECTORS = f"{IMAGES}, or a table with --target (.csv, .parquet)"
TEXT = "text: a .txt or .md file, or a folder of them"
SERIES = "a series: a .csv file with a column of dates"
PAIRS = "pairs: a .csv file of two columns, or a .tsv or .txt file of lines with a tab"
LABELED = "texts with a class each: a .csv file with --target"
Labeled = tuple[list[str], np.ndarray]
OF_IMAGES = (Kind.FOLDER, Kind.ARRAYS, Kind.DATASET)


def images(name: str, size: int | None, channels: int | None, asked: Asked) -> Split:
    """See `data.load`."""
    with readable(name):
        path, kind = find(name, OF_IMAGES, IMAGES)
        module = {Kind.FOLDER: folder, Kind.ARRAYS: arrays, Kind.DATASET: saved}[kind]
        return module.read_images(path, size, channels, asked.max_examples)


def vectors(name: str, asked: Asked) -> Split:
    """See `data.load_vectors`."""
    with readable(name):
        path, kind = find(name, (*OF_IMAGES, Kind.TABLE), VECTORS)
        if kind is Kind.TABLE:
            return tabular.read(path, asked.target, asked.max_examples)
        if kind is Kind.ARRAYS:
            return arrays.read_vectors(path, asked.max_examples)
    (x, y), (x_test, y_test) = images(name, None, None, asked)
    return (x.reshape(len(x), -1), y), (x_test.reshape(len(x_test), -1), y_test)


def class_names(name: str, asked: Asked) -> list[str]:
    """See `data.class_names`."""
    with readable(name):
        path, kind = find(name, (*OF_IMAGES, Kind.TABLE), VECTORS)
        if kind is Kind.TABLE:
            return tabular.class_names(path, asked.target, asked.max_examples)
        if kind is Kind.ARRAYS:
            return arrays.class_names(path)
        return (
            folder.class_names(path) if kind is Kind.FOLDER else saved.class_names(path)
        )


def features(name: str, asked: Asked) -> list[dict[str, Any]]:
    """What stands for each number of a table's x, as JSON can hold it; nothing for
    other kinds, whose numbers are as they were."""
    path = Path(name).expanduser()
    if path.is_dir() or kind_of(path) is not Kind.TABLE:
        return []
    with readable(name):
        return tabular.described(path, asked.target, asked.max_examples)


def text(name: str, asked: Asked) -> tuple[str, str]:
    """See `data.load_text`."""
    with readable(name):
        path, kind = find(name, (Kind.TEXT, Kind.DATASET), TEXT)
        if kind is Kind.DATASET:
            return texts.split(path, saved.read_text(path), asked.max_examples)
        return texts.read(path, asked.max_examples)


def series(name: str, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """See `data.load_series`."""
    with readable(name):
        path, _ = find(name, (Kind.TABLE,), SERIES)
        return times.read(path, asked.target)


def pairs(name: str, asked: Asked) -> dict[str, tuple[list[str], list[str]]]:
    """See `data.load_pairs`."""
    with readable(name):
        path, _ = find(name, (Kind.TABLE, Kind.TEXT), PAIRS)
        return columns.read_pairs(path, asked.target, asked.max_examples)


def labeled_texts(name: str, asked: Asked) -> tuple[Labeled, Labeled]:
    """See `data.load_labeled_texts`."""
    with readable(name):
        path, _ = find(name, (Kind.TABLE,), LABELED)
        return columns.read_labeled(path, asked.target, asked.max_examples)


def labeled_class_names(name: str, asked: Asked) -> list[str]:
    """The same's classes, in the order of their labels."""
    with readable(name):
        path, _ = find(name, (Kind.TABLE,), LABELED)
        return columns.labeled_class_names(path, asked.target)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """One line for what may not be read, and for what is gone meanwhile."""
    try:
        yield
    except OSError as error:
        where = error.filename or Path(name)
        raise UsageError(
            f"{where}: cannot be read ({error.strerror or error})"
        ) from error
