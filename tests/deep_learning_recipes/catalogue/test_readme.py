"""The README's table of recipes."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.catalogue import readme


def test_the_table_is_fresh():
    assert not readme.update_readme(
        ROOT / "README.md", ROOT / "results", write=False
    ), "run `python -m recipes table`"


def test_the_pictures_of_the_readme_are_there():
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"\((results/[^)]+)\)", text)
    assert shown
    assert [name for name in shown if not (ROOT / name).exists()] == []


def test_a_stale_table_is_rewritten():
    file = Path("README.md")
    file.write_text(
        f"before\n{readme.TABLE_BEGINS}\na stale row\n{readme.TABLE_ENDS}\nafter\n"
    )
    assert readme.update_readme(file, Path("none"), write=True)
    text = file.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "a stale row" not in text
    for recipe in catalogue.find_recipes():
        assert f"[`{recipe.name}`]" in text
    assert not readme.update_readme(file, Path("none"), write=True)
    file.write_text("no marks")
    with pytest.raises(UsageError, match="README.md: the marks"):
        readme.update_readme(file, Path("none"), write=True)
