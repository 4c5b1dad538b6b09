"""A run's folder: made, locked, found again, and what is written into it as JSON."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from deep_learning_recipes import UsageError
from deep_learning_recipes.files import replacing

SETTINGS = "config.json"
LOCK = ".lock"


@contextlib.contextmanager
def open_folder(name: str, out: Path | None, resume: bool) -> Iterator[Path]:
    """The folder of a run, which is this process's alone meanwhile: `out`, or a new one
    in runs/NAME. If the run ends in an exception and has kept nothing, its folder goes.

    Raises UsageError if it can't be written, holds something else already, or another
    run is at work in it.
    """
    is_new = out is None or not _exists(out)
    try:
        folder = out or _new_folder(Path("runs", name))
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except OSError as error:
        if isinstance(error, filelock.Timeout):
            raise UsageError(
                f"--out {out}: another run is at work in it; wait for it, or name a new "
                "folder"
            ) from error
        raise UsageError(
            f"--out {out or 'runs'}: cannot be written ({error.strerror}); name another "
            "folder"
        ) from error
    try:
        if not resume and {each.name for each in folder.iterdir()} != {LOCK}:
            raise UsageError(
                f"--out {folder}: not empty; name a new folder, or --resume"
            )
        yield folder
    except BaseException:
        if is_new and {each.name for each in folder.iterdir()} <= {LOCK, SETTINGS}:
            shutil.rmtree(folder)
            if out is None:
                remove_empty(folder.parent)
                remove_empty(folder.parent.parent)
        raise
    finally:
        lock.release()


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:  # its name is too long
        return False


def _new_folder(parent: Path) -> Path:
    """Made here, and by nobody else: two runs may start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    started = time.strftime("%Y-%m-%dT%H-%M-%S")
    for count in itertools.count(1):
        folder = parent / (started if count == 1 else f"{started}-{count}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is a next number")


def remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def require_writable(folder: Path, flag: str) -> None:
    """Raises UsageError, naming the flag, where the folder could not be made or written
    into. Writes nothing."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"{flag} {folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {folder}: cannot be written; name another folder")


def newest_unfinished(name: str) -> Path:
    """The newest run of the recipe below runs/ that was interrupted."""
    for settings in sorted(Path("runs", name).glob(f"*/{SETTINGS}"), reverse=True):
        folder = settings.parent
        if not is_finished(folder) and not _is_at_work(folder):
            return folder
    raise UsageError(
        f"--resume: no interrupted run in runs/{name}; start without --resume"
    )


def _is_at_work(folder: Path) -> bool:
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            return False
    except filelock.Timeout:
        return True


def read_record(folder: Path) -> dict[str, Any]:
    """What the run in `folder` has written of its measurements so far; nothing where it
    has written nothing that can be read."""
    try:
        record = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` went through to its end."""
    return read_record(folder).get("finished") is True


def read_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """What the interrupted run in `folder` was started with: "config", "options", and
    of the user's own "data" a fingerprint."""
    if is_finished(folder):
        raise UsageError(
            f"--resume: the run in {folder} is finished; start without --resume"
        )
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        found = {part: dict(settings[part]) for part in ("config", "options")}
        found["data"] = dict(settings.get("data", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--resume: {folder} holds no run; start without --resume"
        ) from error
    return found


def write_settings(
    folder: Path, config: Any, options: Any, data: dict[str, int]
) -> None:
    """Writes config.json, which `read_settings` reads."""
    settings = {
        "options": dataclasses.asdict(options),
        "config": dataclasses.asdict(config),
        "data": data,
    }
    write_json(folder / SETTINGS, settings)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file as a whole: beside, then renamed. What is not finite becomes
    null."""
    text = json.dumps(_plain(record), indent=1) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
