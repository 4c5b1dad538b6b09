"""What a loader tells about the user's data, and how far it has come."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

SECONDS_OF_SILENCE = 2.0
SECONDS_BETWEEN_LINES = 5.0
NAMES_SHOWN = 5

Item = TypeVar("Item")
Tell = Callable[[Path, str], None]
"""`say` or `quiet`"""


def say(path: Path, text: str) -> None:
    """One line about the data at `path`."""
    print(f"{path}: {text}", flush=True)


def quiet(path: Path, text: str) -> None:
    """In place of `say`, where the same data are read again."""


def listed(names: Sequence[object]) -> str:
    """'a, b, c, d, e and 7 more'."""
    shown = ", ".join(str(name) for name in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def counted(items: Sequence[Item], path: Path, verb: str) -> Iterator[Item]:
    """The items, with a line now and then where they take longer than two seconds."""
    due = time.monotonic() + SECONDS_OF_SILENCE
    for done, item in enumerate(items):
        if time.monotonic() > due:
            say(path, f"{verb} {done:,} of {len(items):,} ...")
            due = time.monotonic() + SECONDS_BETWEEN_LINES
        yield item
