"""What a command line asks of the user's data besides its path.

Recipes hand over a path alone; what stands beside it on the command line reaches the
loaders from here, and a call's own arguments come before it.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What `asking` was told."""

    target: str = ""
    """the column of a table to predict"""
    max_examples: int = 0
    """to use at most; 0: all"""


_asked: ContextVar[Asked] = ContextVar("asked")


@contextlib.contextmanager
def asking(target: str = "", max_examples: int = 0) -> Iterator[None]:
    """Loaders within use these where their own arguments say nothing."""
    token = _asked.set(Asked(target, max_examples))
    try:
        yield
    finally:
        _asked.reset(token)


def asked(target: str | None = None, max_examples: int | None = None) -> Asked:
    """A call's own arguments, and for those that are None what was asked."""
    usual = _asked.get(Asked())
    return Asked(
        usual.target if target is None else target,
        usual.max_examples if max_examples is None else max_examples,
    )
