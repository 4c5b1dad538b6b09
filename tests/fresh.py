"""Processes beside the test's own: a recipe runs in one that is new, an export is read in
one that never saw Keras.

A new process would import TensorFlow for five seconds. So each recipe's is forked from
one that has imported it and done nothing else; it ends with the recipe, and with it all
the memory that the recipe took.
"""

import contextlib
import io
import multiprocessing
import resource
import runpy
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IMPORTED = [
    "recipes",
    "tensorflow",
    "keras",
    "deep_learning_recipes.run",
    "skimage",
    "sklearn",
]


@dataclass
class Finished:
    """What a recipe's command line left behind."""

    code: int
    output: str
    """what it printed, errors and a traceback included"""
    exports: list[tuple[Any, Any]]
    """of each export: the example and the outputs of the model for it"""
    gigabytes: float
    """the most memory it held"""


class Recipes:
    """Runs recipes, one after the other, each in a process of its own."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)

    def run(self, name: str, *arguments: str) -> Finished:
        """`python -m recipes.NAME ARGUMENTS`."""
        return self.pool.submit(run_recipe, name, arguments).result(timeout=600)


class Reader:
    """Reads exports in one process without Keras."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context)

    def read(self, version: Path, example: dict[str, np.ndarray]) -> tuple[list, dict]:
        """What `serving check` finds in a version of a SavedModel, and its outputs."""
        return self.pool.submit(read_export, version, example).result(timeout=120)


def run_recipe(name: str, arguments: tuple[str, ...]) -> Finished:
    """In the recipe's process."""
    from deep_learning_recipes.run import Run
    from deep_learning_recipes.serving import saved_model

    exports = []
    export = Run.export

    def remember(run, model, example):
        outputs = model(example, training=False)
        exports.append((example, {key: np.asarray(outputs[key]) for key in outputs}))
        export(run, model, example)

    Run.export = remember
    # One process reads them all afterwards.
    saved_model.check_in_a_fresh_process = lambda path: None
    sys.argv = [name, *arguments]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(f"recipes.{name}", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as request:
            code = request.code or 0
        except Exception:
            traceback.print_exc()
            code = -1
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Finished(code, printed.getvalue(), exports, kilobytes / 2**20)


def read_export(version: Path, example: dict[str, np.ndarray]) -> tuple[list, dict]:
    """In the process without Keras."""
    sys.modules["keras"] = None  # TensorFlow would import it, and goes without
    import tensorflow as tf

    from deep_learning_recipes.serving.check import findings

    found = list(findings(version))
    loaded = tf.saved_model.load(str(version))
    serve = loaded.signatures["serving_default"]
    specification = serve.structured_input_signature[1]
    if len(specification) == 1:
        example = dict(zip(specification, example.values(), strict=True))
    inputs = {
        name: tf.constant(value, specification[name].dtype)
        for name, value in example.items()
    }
    first = serve(**{name: value[:1] for name, value in inputs.items()})
    outputs = {name: value.numpy() for name, value in serve(**inputs).items()}
    for name, value in outputs.items():  # a batch of one gives the same
        assert_agree(first[name].numpy(), value[:1])
    return found, outputs


def assert_agree(one: np.ndarray, other: np.ndarray) -> None:
    """Numbers to 1e-4, strings exactly."""
    if np.asarray(one).dtype.kind in "OSU":
        assert np.asarray(one).tolist() == np.asarray(other).tolist()
    else:
        np.testing.assert_allclose(one, other, atol=1e-4)
