"""`python -m recipes copy NAME FILE --standalone`: a file that needs no package of ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from deep_learning_recipes.catalogue import headers
from deep_learning_recipes.catalogue.standalone import (
    has_standalone,
    standalone_source,
)

# By name the arguments that make it short.
SHORT = {
    "mlp": {"epochs": 1},
    "vae": {"epochs": 1},
    "dqn": {"steps": 1600},
    "lenet": {"epochs": 1},
    "char_rnn": {"epochs": 1},
    "vanilla_rnn": {"epochs": 1},
    "grad_cam": {"epochs": 1},
    "pruning": {"epochs": 1},
    "temporal_convolution": {"epochs": 1},
}
ALWAYS_RUN = ("mlp", "vae", "dqn")

# The packages are not to be found, as where they were never installed.
RUN = """
import sys
sys.modules["deep_learning_recipes"] = None
sys.modules["recipes"] = None
for name, arguments in {short}.items():
    __import__(name).standalone(**arguments)
    print("ran", name)
"""


def recipes_main(*arguments):
    import recipes.__main__

    return recipes.__main__.main(list(arguments))


def with_standalone():
    files = headers.recipe_files(ROOT / "recipes")
    return [file for file in files if has_standalone(file.read_text())]


def run_without_the_package(names):
    for name in names:
        assert recipes_main("copy", name, f"{name}.py", "--standalone") == 0
    short = {name: SHORT[name] for name in names}
    finished = subprocess.run(
        [sys.executable, "-c", RUN.format(short=short)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for name in names:
        assert f"ran {name}\n" in finished.stdout


def test_three_run_without_the_package():
    run_without_the_package(ALWAYS_RUN)
    assert Path("vae.png").exists()


@pytest.mark.long
def test_the_others_run_without_the_package():
    run_without_the_package([name for name in SHORT if name not in ALWAYS_RUN])


def test_each_is_a_whole_file_of_third_party_packages():
    assert {file.stem for file in with_standalone()} == set(SHORT)
    for file in with_standalone():
        copied = Path(file.name)
        copied.write_text(standalone_source(file.read_text()))
        tree = ast.parse(copied.read_text())
        assert ast.get_docstring(tree) == ast.get_docstring(ast.parse(file.read_text()))
        packages = {
            node.module.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not packages & {"deep_learning_recipes", "recipes"}
        main = tree.body[-1]
        assert ast.unparse(main.body) == "standalone()"

    # Nothing is missing, nothing is imported in vain, and it reads as the recipe does.
    ruff = [sys.executable, "-m", "ruff"]
    for check in (["check", "--select", "F"], ["format", "--check"]):
        finished = subprocess.run(
            [*ruff, *check, "--isolated", "."], capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr


RECIPE = '''"""A title.

Lectures: none
"""

import math
from collections import Counter, deque

import numpy as np

from deep_learning_recipes import data, environments
from deep_learning_recipes.run import Run, cli


class Config:
    environments = 3


QUICK = Config()
# What the idea needs.
BASE = 2
SCALE = BASE * 3

# ----
# The idea: to scale
# ----


def scaled(x):
    return deque(SCALE * x)


def standalone():
    print(scaled(np.ones(3)), Config().environments)


# ----
# The experiment
# ----


def main(config: Config, run: Run) -> None:
    print(math.pi, Counter(), data, environments, QUICK)
'''

STANDALONE = '''"""A title.

Lectures: none
"""

from collections import deque

import numpy as np


class Config:
    environments = 3


# What the idea needs.
BASE = 2


SCALE = BASE * 3


# ----
# The idea: to scale
# ----


def scaled(x):
    return deque(SCALE * x)


def standalone():
    print(scaled(np.ones(3)), Config().environments)


if __name__ == "__main__":
    standalone()
'''


def test_what_only_the_experiment_uses_goes():
    assert standalone_source(RECIPE) == STANDALONE


def test_a_recipe_without_it_says_which_have_it(capsys):
    assert recipes_main("copy", "autodiff", "a.py", "--standalone") == 2
    line = capsys.readouterr().err
    assert line == (
        "error: autodiff has no standalone form yet; copy it without --standalone, or "
        f"one of these: {', '.join(sorted(SHORT))}\n"
    )
    assert list(Path().iterdir()) == []


def test_what_is_there_is_not_overwritten(capsys):
    Path("mine.py").write_text("mine")
    assert recipes_main("copy", "mlp", "mine.py", "--standalone") == 2
    assert "mine.py exists already" in capsys.readouterr().err
    assert Path("mine.py").read_text() == "mine"
