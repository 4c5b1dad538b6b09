"""Finds recipes by words, and what is nearest to one that is not there yet."""

import re
from dataclasses import dataclass, field

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.catalogue.headers import (
    Recipe,
    find_recipes,
    package_folder,
    read_header,
    recipe_files,
)
from deep_learning_recipes.catalogue.planned import PLANNED

SHORT = 3
"""letters of a word that must stand alone to be found"""
NEAREST = 3
"""names that are offered in place of one that is not there"""


@dataclass
class Found:
    """The recipes in which all the words of a search occur."""

    named: list[Recipe] = field(default_factory=list)
    """in their name, title and tags, the nearest names first"""
    mentioned: list[Recipe] = field(default_factory=list)
    """elsewhere in their header"""
    planned: list[str] = field(default_factory=list)
    """names of recipes that do not exist yet"""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with the nearest names if there is
    none."""
    files = {path.stem: path for path in recipe_files(package_folder())}
    if name in files:
        return read_header(files[name])
    if name in PLANNED:
        raise UsageError(not_covered([name], find_recipes()))
    raise UsageError(
        f"there is no recipe {name!r}{did_you_mean(name, list(files))}; "
        "`python -m recipes` lists them all"
    )


def search(words: list[str], recipes: list[Recipe], theme: str | None = None) -> Found:
    """The recipes of a theme, or of all, in which every word occurs.

    Case does not count, nor hyphens, underscores or a plural's s. A word of up to three
    letters must stand alone ("rl" is not meant by "early"); a longer one may be part of
    another ("encoder" of "autoencoder").
    """
    found = Found()
    for recipe in recipes:
        if theme not in (None, recipe.theme):
            continue
        if _all_occur(words, _named(recipe)):
            found.named.append(recipe)
        elif _all_occur(words, _header(recipe)):
            found.mentioned.append(recipe)
    found.named.sort(key=lambda recipe: _distance(words, recipe.name))

    for name, planned in PLANNED.items():
        text = _plain(" ".join((name, planned.about, planned.tags)))
        if theme in (None, planned.theme) and _all_occur(words, text):
            found.planned.append(name)
    found.planned.sort(key=lambda name: _distance(words, name))
    return found


def _distance(words: list[str], name: str) -> int:
    """0 if a name is just these words, 1 if it has them all, else 2."""
    if _plain(" ".join(words)) == _plain(name):
        return 0
    return 1 if _all_occur(words, _plain(name)) else 2


def _named(recipe: Recipe) -> str:
    return _plain(", ".join((recipe.name, recipe.title, *recipe.tags)))


def _header(recipe: Recipe) -> str:
    rest = (recipe.theme, recipe.description, *recipe.lectures, recipe.paper)
    return f"{_named(recipe)} {_plain(' '.join(rest))}"


def _all_occur(words: list[str], text: str) -> bool:
    return all(_occurs(_plain(word), text) for word in words)


def _occurs(word: str, text: str) -> bool:
    stem = word.removesuffix("s")
    if len(stem) <= SHORT:
        return re.search(rf"\b{re.escape(stem)}s?\b", text) is not None
    return stem in text


def _plain(text: str) -> str:
    """Lower case, with single spaces for line ends, hyphens and underscores."""
    return " ".join(re.split(r"[\s_-]+", text.lower())).strip()


def not_covered(names: list[str], recipes: list[Recipe]) -> str:
    """One line on planned recipes, and which ones that exist are nearest."""
    near = [name for planned in names for name in nearest(planned, recipes)]
    near = list(dict.fromkeys(near))[:NEAREST]
    if len(names) == 1:
        said = f"{names[0]}: {PLANNED[names[0]].about}. It is not covered yet"
    else:
        said = f"{', '.join(names)} are not covered yet"
    return f"{said}; nearest: {', '.join(near)}" if near else said


def nearest(name: str, recipes: list[Recipe]) -> list[str]:
    """Names of up to three recipes whose names, titles and tags have most tags in common
    with a planned one; where none has any, of its theme."""
    planned = PLANNED[name]
    tags = [name, *planned.tags.split(", ")]

    def likeness(recipe: Recipe) -> tuple[int, bool]:
        return _count(tags, recipe), recipe.theme == planned.theme

    alike = [recipe for recipe in recipes if _count(tags, recipe) > 0]
    if not alike:
        alike = [recipe for recipe in recipes if recipe.theme == planned.theme]
    alike.sort(key=likeness, reverse=True)
    return [recipe.name for recipe in alike[:NEAREST]]


def _count(tags: list[str], recipe: Recipe) -> int:
    named = _named(recipe)
    return sum(_occurs(_plain(tag), named) for tag in tags)
