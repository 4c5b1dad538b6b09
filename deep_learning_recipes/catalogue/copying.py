"""A recipe's file for a project of one's own."""

from pathlib import Path

from deep_learning_recipes import UsageError
from deep_learning_recipes.catalogue.headers import Recipe, recipe_files
from deep_learning_recipes.catalogue.standalone import has_standalone, standalone_source
from deep_learning_recipes.files import replacing


def copy_recipe(recipe: Recipe, file: Path, *, standalone: bool = False) -> Path:
    """Writes the recipe's file as `file`, or into it if that is a folder; returns what
    it wrote.

    standalone: what it writes runs without this package (see `catalogue.standalone`).

    Raises UsageError if there is such a file already, if it cannot be written, or if
    the recipe has no standalone form.
    """
    source = recipe.path.read_text(encoding="utf-8")
    if standalone:
        source = standalone_form(recipe, source)
    target = file / recipe.path.name if file.is_dir() else file
    if target.exists():
        raise UsageError(f"{target} exists already; name a file that does not")
    try:
        with replacing(target) as copied:
            copied.write(source.encode())
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}); name another"
        ) from error
    return target


def standalone_form(recipe: Recipe, source: str) -> str:
    """The recipe as a file of its own. Raises UsageError, naming those that have one,
    if it has none."""
    if has_standalone(source):
        return standalone_source(source)
    files = recipe_files(recipe.path.parents[1])
    others = [
        file.stem for file in files if has_standalone(file.read_text(encoding="utf-8"))
    ]
    raise UsageError(
        f"{recipe.name} has no standalone form yet; copy it without --standalone, or one "
        f"of these: {', '.join(sorted(others))}"
    )
