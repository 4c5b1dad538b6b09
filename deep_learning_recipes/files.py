"""Files that are never seen half-written, and that a power cut cannot take."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: there nothing is locked, and nothing swept
    fcntl = None  # type: ignore[assignment]

WRITING = ".writing-"


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


@contextlib.contextmanager
def folder_beside(parent: Path) -> Iterator[Path]:
    """A folder of one's own in `parent`, to write in what is renamed into its place
    afterwards. For any number of writers; what those left who were killed is removed.
    """
    sweep(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=WRITING, dir=parent))
        lock = lock_folder(folder, wait=True)
        if folder.exists():  # else swept by another, before it was locked
            break
        unlock(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock(lock)


def sweep(parent: Path) -> None:
    """Removes the folders of `folder_beside` whose process is dead."""
    for folder in parent.glob(f"{WRITING}*"):
        lock = lock_folder(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            unlock(lock)


def lock_folder(folder: Path, wait: bool) -> int | None:
    """Locks a folder as long as this process lives, or until `unlock`. None if that
    cannot be done: another has the lock, say, or the disk is of a kind without them."""
    if fcntl is None:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(lock)
        return None
    return lock


def unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
