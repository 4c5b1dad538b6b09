"""Where things stand in a folder of exports: NAME/VERSION/saved_model.pb, as TF Serving
polls."""

import os
import tempfile
from pathlib import Path

from deep_learning_recipes import UsageError

MODEL = "saved_model.pb"
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
CONFIG = "models.config"


def versions(folder: Path) -> dict[int, Path]:
    """The versions in a model's folder (saved_models/NAME) by number, the newest
    last."""
    found = {
        int(path.name): path
        for path in folder.iterdir()
        if path.name.isascii() and path.name.isdecimal() and path.is_dir()
    }
    return dict(sorted(found.items()))


def models(folder: Path) -> dict[str, dict[int, Path]]:
    """The models below a folder (saved_models) by name, each with its versions."""
    found = {
        path.name: versions(path)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    return {name: numbered for name, numbered in found.items() if numbered}


def find_versions(folder: Path) -> list[Path]:
    """The versions below a folder, which is saved_models, saved_models/NAME, or a
    version itself. Raises UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: no such folder; python -m recipes.lenet --export makes one"
        )
    if (folder / MODEL).exists():
        return [folder]
    models_below = {folder.name: versions(folder)} | models(folder)
    found = [path for numbered in models_below.values() for path in numbered.values()]
    if not found:
        raise UsageError(
            f"{folder}: no NAME/VERSION/{MODEL} in it; make one by --export"
        )
    return found


def require_models(folder: Path) -> None:
    """Raises UsageError, with what to do, if no model stands below `folder`
    (saved_models)."""
    find_versions(folder)
    if not models(folder):
        around = folder.parent if versions(folder) else folder.parent.parent
        raise UsageError(f"{folder} is one model; serve the folder around it, {around}")


def replace(path: Path, text: str) -> None:
    """Writes a file beside and renames it into place: who reads it sees the old or the
    new one."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(beside).chmod(0o644)  # mkstemp's files are for their owner alone
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink()
        raise
