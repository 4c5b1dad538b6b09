"""What all tests share: one core for each worker, a folder of one's own, a recipe's
real run."""

import ctypes
import gc
import json
import os
import random
import resource
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import fresh
import pytest

# Each of the two workers gets one core; set before TensorFlow is imported.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads that each keep memory of their own would keep much of what was freed.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

# A job in the background is started deaf to Ctrl-C, and hands that on to what it
# starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
GIGABYTES_OF_A_WORKER = 3.0
# The recipes that run twice today, to see whether the same seed gives the same metrics:
# every 20th, another day others; `make test-all` runs all twice. Workers inherit it.
TWICE_TODAY = slice(
    int(os.environ.setdefault("DAY", str(date.today().toordinal()))) % 20, None, 20
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker runs all tests of a file, and of those that every recipe comes under
    all tests of a recipe: so what they share is done once. (The marks that pytest-xdist
    has for it are without effect since pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFileOrRecipe(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            is_of_all = file.endswith(("test_contract.py", "test_own_data_by_path.py"))
            is_of_a_recipe = is_of_all and test.endswith("]")
            return test[test.index("[") :] if is_of_a_recipe else file

    return ByFileOrRecipe(config, log)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test works in an empty folder: nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def same_draws():
    """Layers that are given no seed draw theirs from here: a test that passes once
    passes again."""
    random.seed(0)


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Models of one file's tests do not stay alive while others run."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session")
def recipe_processes():
    """Runs recipes in processes of their own."""
    recipes = fresh.Recipes()
    yield recipes
    recipes.pool.shutdown()


@pytest.fixture(scope="session")
def export_reader():
    """Reads exports in a process without Keras."""
    reader = fresh.Reader()
    yield reader
    reader.pool.shutdown()


def pytest_sessionfinish(session):
    """A worker tells the most memory that it held."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        output["gigabytes"] = kilobytes / 2**20
    if getattr(session.config, "too_much_memory", False):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A worker that held too much fails the run: with three times as many recipes there
    must be room for two of them."""
    gigabytes = getattr(node, "workeroutput", {}).get("gigabytes", 0)
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    reporter.write_line(f"{node.gateway.id} held {gigabytes:.2f} GB at most")
    if gigabytes > GIGABYTES_OF_A_WORKER:
        reporter.write_line(f"that is more than {GIGABYTES_OF_A_WORKER} GB", red=True)
        node.config.too_much_memory = True


@pytest.fixture
def seeded():
    """Keras begins anew, with its random numbers at seed 0."""
    import keras

    keras.utils.clear_session(free_memory=False)  # a collection takes a second
    keras.utils.set_random_seed(0)


OWN_ENVIRONMENTS = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env):
    """Pays 1 for a step to the right (action 0), -1 for one to the left (action -1)."""

    observation_space = spaces.Box(-9, 9, (1,), np.float64)
    action_space = spaces.Discrete(2, start=-1)

    def __init__(self, length=5):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.place = 0.0
        return np.array([self.place]), {}

    def step(self, action):
        paid = 1.0 if action == 0 else -1.0
        self.place = min(max(self.place + paid, -9), 9)
        over = self.length is not None and abs(self.place) >= self.length
        return np.array([self.place]), paid, over, False, {}


gymnasium.register("Corridor-v0", entry_point=Corridor, max_episode_steps=30)
gymnasium.register("Endless-v3", entry_point=Corridor, kwargs={"length": None})
'''


@pytest.fixture
def own_module(monkeypatch):
    """A module in the current folder that registers environments."""
    Path("my_corridors.py").write_text(OWN_ENVIRONMENTS)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    yield "my_corridors"
    sys.modules.pop("my_corridors", None)
    import gymnasium

    for name in ("Corridor-v0", "Endless-v3"):
        gymnasium.registry.pop(name, None)


@dataclass
class Finished:
    """What a recipe's command line left behind."""

    code: int
    folder: Path
    exports: list[tuple[Any, Any]]
    """of each export: the example and the outputs of the model for it"""

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text())


def run_in_process(name: str, folder: Path, *arguments: str) -> Finished:
    """`python -m recipes.NAME --out FOLDER ...` in this process, which has TensorFlow
    already."""
    import recipes  # noqa: F401 (quiets TensorFlow before it is imported)
    from deep_learning_recipes.run import Run

    exports = []
    export = Run.export

    def remember(run, model, example):
        exports.append((example, model(example, training=False)))
        export(run, model, example)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "export", remember)
        patch.setattr(sys, "argv", [name, "--out", str(folder), *arguments])
        with pytest.raises(SystemExit) as exit_request:
            runpy.run_module(f"recipes.{name}", run_name="__main__", alter_sys=True)
    return Finished(exit_request.value.code or 0, folder, exports)


def command(
    *arguments: str, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` in a process of its own, with its output as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
