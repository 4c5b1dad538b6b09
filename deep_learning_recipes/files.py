"""Files that are never seen half-written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside `path`, renamed into its place at the end: who reads sees
    the old one or the new one. For one writer at a time."""
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as file:
        yield file
    beside.replace(path)
