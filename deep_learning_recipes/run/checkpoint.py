"""Checkpoints: named arrays in a file that is replaced as a whole, and read again as the
newest one that is whole."""

import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.files import previous, replacing

Read = TypeVar("Read")
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as an npz, and keeps the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, keep_the_last=True) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def is_there(path: Path) -> bool:
    return path.exists() or previous(path).exists()


def load(path: Path, read: Callable[[dict[str, np.ndarray]], Read]) -> Read:
    """What `read` makes of the arrays of a checkpoint; of the one before, with a word,
    where the disk has damaged the last one.

    Raises UsageError where neither can be read.
    """
    for each in (path, previous(path)):
        try:
            with np.load(each) as saved:
                found = read(dict(saved))
        except DAMAGED:
            continue
        if each != path:
            print(f"{path} is damaged: going on from the one before", file=sys.stderr)
        return found
    raise UsageError(f"--resume: {path} is damaged; delete it to train this part again")
