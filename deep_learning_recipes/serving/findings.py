"""What `check` finds, printed one line each."""

from collections.abc import Callable
from pathlib import Path

from deep_learning_recipes.serving import layout

OK, NOTE, FAULT = "ok   ", "note ", "FAULT"
Findings = list[tuple[str, str]]
"""NOTE or FAULT, and the text"""


def show(folder: Path, examine: Callable[[Path], Findings]) -> bool:
    """Prints what `examine` finds in each version below `folder` (saved_models,
    saved_models/NAME, or one version) and in its models.config. True if there is no
    fault. Raises UsageError if there is no version.
    """
    paths = layout.find_versions(folder)
    if (folder / layout.CONFIG).exists():
        paths = [*paths, folder / layout.CONFIG]
    good = True
    for path in paths:
        found = examine(path)
        good = good and all(kind != FAULT for kind, _ in found)
        for kind, text in found or [(OK, "")]:
            print(f"{kind}  {path}  {text}".rstrip(), flush=True)
    return good
