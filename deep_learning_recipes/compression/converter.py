"""The LiteRT converter, where need be in a process of its own."""

import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.compression.litert import quiet
from deep_learning_recipes.compression.unrolling import LONGEST

INTEGERS = {"int8": tf.int8, "int16x8": tf.int16}
"""The modes whose inputs and outputs are integers."""
CHILD = (
    "import sys; from deep_learning_recipes.compression import converter; "
    "converter.convert_folder(sys.argv[1])"
)


@dataclass
class Settings:
    """What the converter is told."""

    mode: str
    examples: list[dict[str, np.ndarray]] | None
    """batches to take the ranges of activations from"""
    learned_ranges: bool
    """whether the model knows them itself"""


def convert(function: Any, holder: tf.Module, settings: Settings) -> bytes:
    """A concrete function as a LiteRT file.

    holder: has the function's variables.

    Raises UsageError with what the converter says in its first line.
    """
    if settings.mode in INTEGERS and has_loops(function):
        return _convert_in_child(function, holder, settings)
    return _run(
        tf.lite.TFLiteConverter.from_concrete_functions([function], holder), settings
    )


def has_loops(function: Any) -> bool:
    """Whether a concrete function repeats operations. The converter may kill the
    process when it looks for the ranges of integers in a loop."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return any(node.op in ("While", "StatelessWhile") for node in nodes)


def _run(converter: Any, settings: Settings) -> bytes:
    mode, sets = settings.mode, tf.lite.OpsSet
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode in INTEGERS:
        if settings.examples is not None:
            examples = settings.examples
            converter.representative_dataset = lambda: iter(examples)
        if mode == "int16x8":
            converter.target_spec.supported_ops = [
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        elif not settings.learned_ranges:
            converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = INTEGERS[mode]  # of inputs that are floats
        converter.inference_output_type = INTEGERS[mode]
    try:
        with quiet():
            return bytes(converter.convert())
    except Exception as error:  # the converter raises many kinds, over many lines
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(reason[0]) from error


def _convert_in_child(function: Any, holder: tf.Module, settings: Settings) -> bytes:
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        reason = folder / "reason"
        tf.saved_model.save(holder, name, signatures=function)
        (folder / "settings").write_bytes(pickle.dumps(settings))
        finished = subprocess.run(
            [sys.executable, "-c", CHILD, name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
        )
        if (folder / "file").exists():
            return (folder / "file").read_bytes()
        if reason.exists():
            why = reason.read_text()
        else:
            why = f"the converter died with exit code {finished.returncode}"
    raise UsageError(
        f"it holds a loop, which {settings.mode} takes unrolled: give recurrent layers "
        f"sequences of a fixed length, keras.Input((n, ...)) with n up to {LONGEST}, or "
        f"take the mode dynamic or float16 ({why})"
    )


def convert_folder(name: str) -> None:
    """What the child does: converts a SavedModel, and leaves the file or the reason why
    there is none beside it."""
    folder = Path(name)
    settings = pickle.loads((folder / "settings").read_bytes())
    try:
        content = _run(tf.lite.TFLiteConverter.from_saved_model(name), settings)
        (folder / "file").write_bytes(content)
    except UsageError as error:
        words = str(error).split("loc(")[0].split("error: ")[-1]
        (folder / "reason").write_text(words or "the converter refuses it")
