"""`python -m recipes new`: a recipe that runs as it stands, and its test, to start from."""

import keyword
import re
from pathlib import Path

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.catalogue.headers import (
    THEMES,
    package_folder,
    recipe_files,
)
from deep_learning_recipes.catalogue.planned import PLANNED

TEMPLATES = Path(__file__).parent / "templates"


def new_recipe(name: str, theme: str | None) -> str:
    """Writes recipes/THEME/NAME.py and tests/recipes/THEME/test_NAME.py into the checkout
    that runs this, or neither. Returns what to do next.

    theme: may be None for a recipe that is planned.

    Raises UsageError for a name or a theme that cannot be, and outside of a checkout.
    """
    project = package_folder().parent
    if not (project / "tests" / "recipes" / "test_contract.py").exists():
        raise UsageError(
            f"{project} is no checkout of the project: it has no tests/recipes; "
            "clone the project to add a recipe"
        )
    _check_name(name)
    theme = _choose_theme(name, theme)

    recipe = Path("recipes", theme, f"{name}.py")
    test = Path("tests", "recipes", theme, f"test_{name}.py")
    test_text = _template("test_recipe.py").replace(
        "import name as recipe", f"import {name} as recipe"
    )
    _write_all({project / recipe: _template("recipe.py"), project / test: test_text})
    return "\n".join(_next_steps(name, recipe, test))


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} cannot be a recipe's name: it takes lower-case letters, digits "
            "and underscores, begins with a letter, and is no word of Python's"
        )
    taken = {path.stem: path.parent.name for path in recipe_files(package_folder())}
    if name in taken:
        raise UsageError(f"there is a recipe {name} already, in {taken[name]}")
    if name in THEMES:
        raise UsageError(f"{name} is the name of a theme; name the recipe otherwise")


def _choose_theme(name: str, theme: str | None) -> str:
    """The theme that was asked for, or that of the planned recipe."""
    themes = list(THEMES)
    if theme is not None and theme not in themes:
        near = did_you_mean(theme, themes) or f"; the themes are {', '.join(themes)}"
        raise UsageError(f"there is no theme {theme!r}{near}")

    planned = PLANNED[name].theme if name in PLANNED else None
    if theme is None and planned is None:
        raise UsageError(f"--theme is missing; the themes are {', '.join(themes)}")
    if theme is not None and planned not in (None, theme):
        raise UsageError(f"{name} is planned for {planned}; leave --theme {theme} out")
    return str(theme or planned)


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _write_all(texts: dict[Path, str]) -> None:
    """Writes new files, or none of them. Raises UsageError if one cannot be."""
    made: list[Path] = []
    try:
        for path, text in texts.items():
            if not path.parent.exists():
                path.parent.mkdir()
                made.append(path.parent)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except BaseException as error:
        _remove(made)
        if isinstance(error, OSError):
            raise UsageError(
                f"{path} cannot be written ({error.strerror}); nothing was written"
            ) from error
        raise


def _remove(made: list[Path]) -> None:
    """Takes away what was made, the newest first."""
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _next_steps(name: str, recipe: Path, test: Path) -> list[str]:
    lines = [
        f"{recipe}",
        f"{test}",
        "",
        "They run as they stand:",
        f"  python -m recipes.{name} --preset quick",
        f"  python -m pytest tests/recipes -k {name}",
        "CONTRIBUTING.md says how to go on.",
    ]
    if name in PLANNED:
        planned = PLANNED[name]
        lines += [
            "",
            f"{name} is planned for {planned.theme}: {planned.about}.",
            f"Its tags there: {planned.tags}.",
            "Now take it out of deep_learning_recipes/catalogue/planned.py.",
        ]
    return lines
