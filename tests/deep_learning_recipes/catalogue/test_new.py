"""`python -m recipes new` in a copy of the checkout."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, command

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.catalogue import new
from deep_learning_recipes.catalogue.planned import PLANNED, Planned

WRITTEN = (
    Path("recipes/vision/odd_or_even.py"),
    Path("tests/recipes/vision/test_odd_or_even.py"),
)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project with one recipe, in which a new one is to be written."""
    package = tmp_path / "recipes"
    (package / "generative").mkdir(parents=True)
    shutil.copy(ROOT / "recipes/generative/vae.py", package / "generative")
    tests = tmp_path / "tests" / "recipes"
    tests.mkdir(parents=True)
    (tests / "test_contract.py").touch()
    monkeypatch.setattr(new, "package_folder", lambda: package)
    teapot = Planned("convnets", "a pot for tea", "kettle, crockery, infusion")
    monkeypatch.setitem(PLANNED, "teapot", teapot)
    return tmp_path


def files():
    return {path for path in Path().rglob("*") if path.is_file()}


def test_a_recipe_and_its_test_are_written(checkout):
    before = files()
    said = new.new_recipe("odd_or_even", "vision")
    assert files() - before == set(WRITTEN)
    assert "python -m recipes.odd_or_even --preset quick" in said
    assert "planned" not in said

    recipe = catalogue.read_header(WRITTEN[0])
    assert (recipe.name, recipe.theme) == ("odd_or_even", "vision")
    assert recipe.tags
    assert "from recipes import odd_or_even as recipe" in WRITTEN[1].read_text()


def test_a_planned_recipe_brings_its_theme(checkout):
    said = new.new_recipe("teapot", None)
    assert Path("recipes/convnets/teapot.py").exists()
    assert "teapot is planned for convnets" in said
    assert "kettle, crockery, infusion" in said
    assert "take it out of deep_learning_recipes/catalogue/planned.py" in said


@pytest.mark.parametrize(
    ("name", "theme", "line"),
    [
        ("odd", "visoin", "no theme 'visoin'; did you mean vision?"),
        ("odd", "xyz", "no theme 'xyz'; the themes are neural_networks, training, "),
        ("odd", None, "--theme is missing; the themes are neural_networks, "),
        ("Odd-1", "vision", "'Odd-1' cannot be a recipe's name"),
        ("../odd", "vision", "'../odd' cannot be a recipe's name"),
        ("lambda", "vision", "'lambda' cannot be a recipe's name"),
        ("vae", "vision", "there is a recipe vae already, in generative"),
        ("vision", "vision", "vision is the name of a theme"),
        ("teapot", "vision", "teapot is planned for convnets; leave --theme vision"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(checkout, name, theme, line):
    before = files()
    with pytest.raises(UsageError, match=f"^(there is )?{line}"):
        new.new_recipe(name, theme)
    assert files() == before


def test_outside_of_a_checkout_nothing_is_written(checkout):
    Path("tests/recipes/test_contract.py").unlink()
    before = files()
    with pytest.raises(UsageError, match="no checkout of the project"):
        new.new_recipe("odd_or_even", "vision")
    assert files() == before


def test_both_are_written_or_none(checkout):
    WRITTEN[1].parent.mkdir()
    WRITTEN[1].write_text("mine")
    with pytest.raises(UsageError, match="test_odd_or_even.py cannot be written"):
        new.new_recipe("odd_or_even", "vision")
    assert not WRITTEN[0].parent.exists()
    assert WRITTEN[1].read_text() == "mine"


def test_what_an_interruption_began_is_taken_away(checkout, monkeypatch):
    opened = Path.open

    def interrupted(path, *arguments, **options):
        if path.name == WRITTEN[1].name:
            raise KeyboardInterrupt
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", interrupted)
    before = files()
    with pytest.raises(KeyboardInterrupt):
        new.new_recipe("odd_or_even", "vision")
    assert files() == before
    assert not WRITTEN[1].parent.exists()


def test_the_new_recipe_keeps_the_contract(tmp_path):
    """From the command to a run, in a project with the real packages."""
    for name in ("recipes", "deep_learning_recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, name, ignore=ignored)
    Path("tests/recipes").mkdir(parents=True)
    for path in [*ROOT.glob("tests/*.py"), ROOT / "tests/recipes/test_contract.py"]:
        shutil.copy(path, path.relative_to(ROOT))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments):
        finished = command("-m", *arguments, env=environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    run("recipes", "new", "odd_or_even", "--theme", "vision")
    run("ruff", "check", *map(str, WRITTEN))
    run("ruff", "format", "--check", *map(str, WRITTEN))
    assert "odd_or_even" in run("recipes", "--theme", "vision")
    told = run("pytest", "-n", "0", "-q", "tests/recipes", "-k", "odd_or_even")
    assert " passed" in told


def test_any_name_keeps_the_lines_short(checkout):
    longest = max([*catalogue_names(), *PLANNED], key=len)
    new.new_recipe(longest + "_x", "vision")
    for path in files():
        if longest in path.name:
            assert max(map(len, path.read_text().splitlines())) <= 88


def catalogue_names():
    return [recipe.name for recipe in catalogue.find_recipes(ROOT / "recipes")]
