"""What `python -m recipes` prints: the recipes by theme, or those that were searched
for."""

import shutil
import textwrap

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.catalogue.headers import THEMES, Recipe, by_theme
from deep_learning_recipes.catalogue.planned import PLANNED
from deep_learning_recipes.catalogue.search import Found, not_covered, search

NARROW = 30
"""columns that a title needs beside the names; with fewer it stands below its name"""


class _Page:
    """Lines as wide as the terminal, with whole words."""

    def __init__(self, recipes: list[Recipe]):
        self.lines: list[str] = []
        self.width = shutil.get_terminal_size().columns
        self.column = max(len(recipe.name) for recipe in recipes) + 4

    def text(self, text: str = "") -> None:
        """A paragraph; all but its first line is indented."""
        self.lines += self._wrap(text, "", "  ") or [""]

    def entry(self, name: str, *texts: str) -> None:
        """A name with texts beside it, or below it on a narrow terminal."""
        beside = self.width - self.column >= NARROW
        indent = " " * (self.column if beside else 4)
        lines = [line for text in texts for line in self._wrap(text, indent, indent)]
        if beside:
            lines[0] = f"  {name}".ljust(self.column) + lines[0].lstrip()
        else:
            lines.insert(0, f"  {name}")
        self.lines += lines

    def _wrap(self, text: str, first: str, others: str) -> list[str]:
        return textwrap.wrap(
            text,
            self.width,
            initial_indent=first,
            subsequent_indent=others,
            break_long_words=False,
            break_on_hyphens=False,
        )


def listing(recipes: list[Recipe], *, words: list[str], theme: str | None) -> str:
    """The recipes of a theme, or of all, in which all the words occur, as text for this
    terminal's width.

    Raises UsageError if there is no such theme or no such recipe.
    """
    themes = list(by_theme(recipes))
    if theme is not None and theme not in THEMES:
        near = did_you_mean(theme, themes) or f"; the themes are {', '.join(themes)}"
        raise UsageError(f"there is no theme {theme!r}{near}")
    found = search(words, recipes, theme)
    listed = found.named + found.mentioned
    if not listed and not words:
        offered = f"the themes are {', '.join(themes)}"
        raise UsageError(f"theme {theme} has no recipe yet; {offered}")
    if not listed:
        raise UsageError(_nothing(words, found, recipes))

    page = _Page(listed)
    if words:
        _add_found(found, page)
    else:
        _add_shelves(listed, page)
    page.text()
    plural = "" if len(listed) == 1 else "s"
    first = f"python -m recipes.{listed[0].name}"
    page.text(f"{len(listed)} recipe{plural}. Run one: {first}")
    return "\n".join(page.lines)


def _nothing(words: list[str], found: Found, recipes: list[Recipe]) -> str:
    """One line for a search that no recipe matches."""
    asked = " ".join(words)
    if asked in found.planned:
        return not_covered([asked], recipes)
    if found.planned:
        return not_covered(found.planned, recipes)
    names = [recipe.name for recipe in recipes]
    tags = [tag for recipe in recipes for tag in recipe.tags]
    near = did_you_mean(asked, names) or did_you_mean(asked, [*PLANNED, *tags])
    return f"no recipe matches {asked!r}{near}; `python -m recipes` lists them all"


def _add_shelves(recipes: list[Recipe], page: _Page) -> None:
    for theme, shelf in by_theme(recipes).items():
        page.text()
        page.text(f"{theme} — {THEMES[theme]}")
        for recipe in shelf:
            page.entry(recipe.name, recipe.title)


def _add_found(found: Found, page: _Page) -> None:
    page.text()
    for recipe in found.named:
        _add_header(recipe, page)
    if found.named and found.mentioned:
        page.text()
        page.text("Mentioned by:")
    for recipe in found.mentioned:
        _add_header(recipe, page)
    if found.planned:
        page.text()
    for name in found.planned:
        page.text(f"{name}: {PLANNED[name].about}. It is not covered yet")


def _add_header(recipe: Recipe, page: _Page) -> None:
    lectures = f"{recipe.theme} · {'; '.join(recipe.lectures)}"
    page.entry(recipe.name, recipe.title, lectures, recipe.paper)
