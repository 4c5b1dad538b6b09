"""What lies at a path: whether it is there, and of which kind."""

import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from deep_learning_recipes import UsageError, did_you_mean

PICTURES = {
    ".bmp",
    ".dib",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
TEXTS = {".txt", ".md"}
# What systems leave in folders, and no user put there.
LEFT_BY_SYSTEMS = {"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"}


class Kind(StrEnum):
    """In the words of a message."""

    FOLDER = "a folder of images"
    ARRAYS = "an .npz file"
    TABLE = "a table"
    TEXT = "text"
    DATASET = "a data set saved by Hugging Face"


SUFFIXES = {
    ".npz": Kind.ARRAYS,
    ".csv": Kind.TABLE,
    ".tsv": Kind.TABLE,
    ".parquet": Kind.TABLE,
    **dict.fromkeys(TEXTS, Kind.TEXT),
}


def is_own(name: str, known: Iterable[str]) -> bool:
    """Whether `name` is a path to the user's own data. A data set's name is none, even
    where a folder is called so: ./digits is the folder."""
    return name not in known and exists(name)


def exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no such user
        return False


def find(name: str | Path, kinds: Iterable[Kind], taken: str) -> tuple[Path, Kind]:
    """The path and its kind.

    kinds: those that are taken here; `taken` says so in words.
    Raises UsageError for another kind, and for what is of none.
    """
    path = Path(name).expanduser()
    kind = kind_of(path)
    if kind not in kinds:
        raise UsageError(f"{path}: {kind}, and this takes {taken}")
    return path, kind


def kind_of(path: Path) -> Kind:
    """Raises UsageError for an empty folder, and for what is of no known kind."""
    if not path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            return SUFFIXES[path.suffix.lower()]
        if path.suffix.lower() in PICTURES:
            raise UsageError(
                f"{path}: a single picture; name a folder with one subfolder a class"
            )
        raise UsageError(
            f"{path}: no file of a kind that is read: {', '.join(SUFFIXES)}, or a "
            "folder of images"
        )
    if is_saved_dataset(path):
        return Kind.DATASET
    suffixes = set()
    for file in files_below(path):
        if file.suffix.lower() in PICTURES:
            return Kind.FOLDER
        suffixes.add(file.suffix.lower())
    if suffixes & TEXTS:
        return Kind.TEXT
    if not suffixes:
        raise UsageError(f"{path}: the folder is empty")
    raise UsageError(f"{path}: the folder holds no pictures and no text")


def is_saved_dataset(path: Path) -> bool:
    names = {each.name for each in path.iterdir()}
    return "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names


def visible(folder: Path) -> list[Path]:
    """What stands in a folder, in the order of names, without what is hidden or was
    left by a system."""
    return sorted(
        each
        for each in folder.iterdir()
        if not each.name.startswith(".") and each.name not in LEFT_BY_SYSTEMS
    )


def files_below(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All visible files in a folder and deeper, links followed, but in no circle."""
    real = folder.resolve()
    if real in seen:
        return
    for each in visible(folder):
        if each.is_dir():
            yield from files_below(each, seen | {real})
        else:
            yield each


def no_such(kind: str, name: str, known: list[str]) -> UsageError:
    """The one line for a name that is neither a data set's nor a path's."""
    path = Path(name)
    beside = []
    if exists(str(path.parent)) and path.parent.expanduser().is_dir():
        beside = [each.name for each in visible(path.parent.expanduser())]
    if os.sep not in name and not path.suffix and not name.startswith("~"):
        near = did_you_mean(name, [*known, *beside])
        return UsageError(
            f"unknown {kind} {name!r}{near} ({', '.join(known)}), and there is no such "
            "path"
        )
    return UsageError(
        f"{name}: there is no such file or folder{did_you_mean(path.name, beside)}"
    )


def fingerprint(name: str) -> dict[str, int]:
    """How many files lie at a path, their bytes, and when the newest was changed (in
    nanoseconds): enough to see that data changed between a run and its resumption."""
    path = Path(name).expanduser()
    files = list(files_below(path)) if path.is_dir() else [path]
    found = [each.stat() for each in files if each.exists()]
    return {
        "files": len(found),
        "bytes": sum(each.st_size for each in found),
        "newest": max((each.st_mtime_ns for each in found), default=0),
    }
