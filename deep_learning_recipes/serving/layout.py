"""Where things stand in a folder of exports: NAME/VERSION/saved_model.pb, as TF Serving
polls."""

from pathlib import Path

from deep_learning_recipes import UsageError, files

MODEL = "saved_model.pb"
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
CONFIG = "models.config"
LARGEST_VERSION = 2**63 - 1
"""TF Serving passes over folders with a larger number"""


def versions(folder: Path) -> dict[int, Path]:
    """The versions in a model's folder (saved_models/NAME) by number, the newest
    last."""
    found = {
        int(path.name): path
        for path in folder.iterdir()
        if is_version(path.name) and path.is_dir()
    }
    return dict(sorted(found.items()))


def is_version(name: str) -> bool:
    """Whether TF Serving takes a folder of that name for a version."""
    digits = name.isascii() and name.isdecimal() and len(name) < 100
    return digits and int(name) <= LARGEST_VERSION


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
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    found = list(versions(folder).values()) + misnamed(folder)
    for path in below:
        if not path.name.startswith("."):
            found += [*versions(path).values(), *misnamed(path)]
    if not found:
        raise UsageError(
            f"{folder}: no NAME/VERSION/{MODEL} in it; make one by --export"
        )
    return found


def misnamed(folder: Path) -> list[Path]:
    """SavedModels in a model's folder that TF Serving passes over, since their names
    are no versions."""
    return sorted(
        path.parent
        for path in folder.glob(f"[!.]*/{MODEL}")
        if not is_version(path.parent.name)
    )


def require_models(folder: Path) -> None:
    """Raises UsageError, with what to do, if no model stands below `folder`
    (saved_models)."""
    found = find_versions(folder)
    if not models(folder):
        if not any(is_version(path.name) for path in found):
            raise UsageError(
                f"{found[0]}: the folder's name must be a whole number, the version"
            )
        around = folder.parent if versions(folder) else folder.parent.parent
        raise UsageError(f"{folder} is one model; serve the folder around it, {around}")


def replace(path: Path, text: str) -> None:
    """Writes a file beside and renames it into place: who reads it sees the old or the
    new one. Several may write at once."""
    with files.folder_beside(path.parent) as folder:
        beside = folder / path.name
        beside.write_text(text, "utf-8")
        beside.replace(path)
