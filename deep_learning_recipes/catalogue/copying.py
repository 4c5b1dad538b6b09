"""A recipe's file for a project of one's own."""

from pathlib import Path

from deep_learning_recipes import UsageError
from deep_learning_recipes.catalogue.headers import Recipe
from deep_learning_recipes.files import replacing


def copy_recipe(recipe: Recipe, file: Path) -> Path:
    """Writes the recipe's file as `file`, or into it if that is a folder; returns what
    it wrote.

    Raises UsageError if there is such a file already, or if it cannot be written.
    """
    target = file / recipe.path.name if file.is_dir() else file
    if target.exists():
        raise UsageError(f"{target} exists already; name a file that does not")
    try:
        with replacing(target) as copied:
            copied.write(recipe.path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written ({error.strerror}); name another"
        ) from error
    return target
