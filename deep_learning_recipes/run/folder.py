"""A run's folder: made, found again, and what is written into it as JSON."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from deep_learning_recipes import UsageError
from deep_learning_recipes.files import replacing


def open_folder(folder: Path, resume: bool) -> bool:
    """Makes the run's folder; True if it is new. Raises UsageError if it can't be
    written or holds something else already."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and any(folder.iterdir()):
            raise UsageError(
                f"--out {folder}: not empty; name a new folder, or --resume"
            )
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror})"
        ) from error
    return new


def newest_unfinished(name: str) -> Path:
    """The newest run of the recipe below runs/ that was interrupted."""
    for settings in sorted(Path("runs", name).glob("*/config.json"), reverse=True):
        if not is_finished(settings.parent):
            return settings.parent
    raise UsageError(
        f"--resume: no interrupted run in runs/{name}; start without --resume"
    )


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` went through to its end."""
    try:
        return bool(json.loads((folder / "metrics.json").read_text())["finished"])
    except FileNotFoundError:
        return False


def read_settings(folder: Path) -> dict[str, Any]:
    """What the interrupted run in `folder` was started with: "config" and "options"."""
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume: {folder} holds no run; start without --resume"
        ) from error
    if is_finished(folder):
        raise UsageError(
            f"--resume: the run in {folder} is finished; start without --resume"
        )
    return settings


def write_settings(folder: Path, config: Any, options: Any) -> None:
    """Writes config.json, which `read_settings` reads."""
    settings = {
        "options": dataclasses.asdict(options),
        "config": dataclasses.asdict(config),
    }
    write_json(folder / "config.json", settings)


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
