"""The listing at any width of the terminal."""

import pytest
from conftest import ROOT

from deep_learning_recipes import catalogue
from deep_learning_recipes.catalogue.listing import listing

RECIPES = catalogue.find_recipes(ROOT / "recipes")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
@pytest.mark.parametrize("words", [[], ["attention"], ["network"]])
def test_words_stay_whole_within_the_terminal(monkeypatch, width, words):
    monkeypatch.setenv("COLUMNS", "10000")
    wide = listing(RECIPES, words=words, theme=None)
    monkeypatch.setenv("COLUMNS", str(width))
    text = listing(RECIPES, words=words, theme=None)
    assert text.split() == wide.split()
    for line in text.splitlines():
        # A single word may be longer than the line.
        assert len(line) <= width or len(line.split()) == 1


def test_titles_hang_beside_their_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    lines = listing(RECIPES, words=["jvp", "vjp"], theme=None).splitlines()
    assert lines[1:4] == [
        "  autodiff  Automatic differentiation: exact derivatives of programs,",
        "            forwards and backwards.",
        "            neural_networks · N18 2.1 Basic Autodiff, 2.2.1 Higher",
    ]


def test_titles_stand_below_their_names_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = listing(RECIPES, words=["jvp", "vjp"], theme=None).splitlines()
    assert lines[1:4] == [
        "  autodiff",
        "    Automatic differentiation: exact",
        "    derivatives of programs, forwards",
    ]


def test_empty_themes_are_not_shown():
    text = listing(RECIPES, words=[], theme=None)
    shown = {theme for theme in catalogue.THEMES if f"\n{theme} — " in text}
    assert shown == {recipe.theme for recipe in RECIPES}
