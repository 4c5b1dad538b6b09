"""Files that are never seen half-written, and that a power cut cannot take."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, keep_the_last: bool = False) -> Iterator[BinaryIO]:
    """A file to write beside `path`, renamed into its place at the end: who reads sees
    the old one or the new one, and both are on the disk before the old one goes. For
    one writer at a time.

    keep_the_last: the old one stays, as `previous(path)`.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if keep_the_last and path.exists():
        path.replace(previous(path))
    beside.replace(path)
    _to_disk(path.parent)


def previous(path: Path) -> Path:
    """Where `replacing` keeps what stood there before."""
    return path.with_name(f"{path.name}.previous")


def _to_disk(folder: Path) -> None:
    """The names in a folder are on the disk only after this; Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
