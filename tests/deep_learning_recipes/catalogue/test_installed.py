"""What a wheel holds: all of both packages."""

import os
import shutil
import sys
from pathlib import Path

from conftest import ROOT, command

from deep_learning_recipes import catalogue


def test_an_installed_wheel_runs_outside_the_checkout():
    source = Path("source")
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("recipes", "deep_learning_recipes"):
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = command(*pip[1:], "wheel", "--no-deps", "--wheel-dir", "wheels", "./source")
    assert built.returncode == 0, built.stderr
    (wheel,) = Path("wheels").glob("*.whl")
    installed = command(
        *pip[1:], "install", "--no-deps", "--target", "site", str(wheel)
    )
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(source)

    # -P and the path: this very installation, not the checkout's.
    environment = {**os.environ, "PYTHONPATH": str(Path("site").resolve())}
    where = command(
        "-c", "import deep_learning_recipes as d; print(d.__file__)", env=environment
    ).stdout
    assert str(Path("site").resolve()) in where
    finished = command(
        "-m",
        "recipes.value_iteration",
        "--preset",
        "quick",
        "--export",
        "models",
        env=environment,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert Path("models/value_iteration/1/saved_model.pb").exists()
    listed = command("-m", "recipes", env=environment).stdout
    for recipe in catalogue.find_recipes(ROOT / "recipes"):
        assert f"  {recipe.name} " in listed
    new = command("-m", "recipes", "new", "mine", "--theme", "vision", env=environment)
    assert new.returncode == 2
    assert "site is no checkout of the project" in new.stderr
    assert list(Path("site").rglob("templates/recipe.py")) != []
