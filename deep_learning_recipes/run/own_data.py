"""A run on the user's own data: which path it is, and whether that is still the same
when the run is resumed."""

import contextlib
from pathlib import Path
from typing import Any

from deep_learning_recipes import UsageError
from deep_learning_recipes.data import own
from deep_learning_recipes.data.labels import CLASS_NAMES
from deep_learning_recipes.run.folder import read_settings

NAMES = {*CLASS_NAMES, "prose"}


def path_of(config: Any) -> str:
    """The path that --data names; "" for a data set's name, and where there is no such
    flag."""
    name = getattr(config, "data", "")
    return name if own.is_own(name, NAMES) else ""


def asking(options: Any) -> contextlib.AbstractContextManager[None]:
    """Loaders within know what the command line says of the data beside the path."""
    return own.asking(
        target=getattr(options, "target", ""),
        max_examples=getattr(options, "max_examples", 0),
    )


def check_unchanged(folder: Path, path: str) -> None:
    """Raises UsageError where the data at `path` are no longer those that the run in
    `folder` was started with."""
    before = read_settings(folder)["data"]
    if not path or not before:
        return
    now = own.fingerprint(path)
    if now != before:
        raise UsageError(
            f"--resume: {path} has changed since the run in {folder} was started "
            f"({before['files']:,} files of {before['bytes']:,} bytes then, "
            f"{now['files']:,} of {now['bytes']:,} now); start anew without --resume"
        )
