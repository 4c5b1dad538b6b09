"""SavedModels that TF Serving loads: NAME/VERSION/, named outputs, checked before they count."""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError

TOLERANCE = 1e-4


def classifier(model: keras.Model) -> keras.Model:
    """A classifier's logits as what a client wants to see: `probabilities` (batch, classes) and
    `classes` (batch,), the most probable one."""
    logits = model.output
    outputs = {
        "probabilities": keras.ops.softmax(logits),
        "classes": keras.ops.argmax(logits, axis=-1),
    }
    return keras.Model(model.input, outputs, name=model.name)


def export(model: keras.Model, folder: Path, example: Any) -> Path:
    """Writes `model` into `folder` (saved_models/NAME) as the next version and returns its path.

    model: its outputs should be a dict, whose keys become the names that a client sees.
    example: a small batch of inputs; the written model must give the same outputs for it.

    The version is written beside and renamed into place, so that a server which polls the folder
    never sees half a model, and two exports at once get two versions.
    Raises UsageError if the folder can't be written, RuntimeError if the written model differs.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    except OSError as error:
        raise UsageError(f"--export {folder}: cannot be written ({error.strerror})") from error
    try:
        model.export(beside / "model", format="tf_saved_model", verbose=False)
        check(model, beside / "model", example)
        return _claim_version(beside / "model", folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check(model: keras.Model, path: Path, example: Any) -> None:
    """Raises RuntimeError unless the SavedModel at `path` answers as `model` does."""
    loaded = tf.saved_model.load(str(path))  # the name keeps its variables alive
    served = loaded.serve(example)
    expected = model(example, training=False)
    for want, got in zip(tf.nest.flatten(expected), tf.nest.flatten(served), strict=True):
        difference = np.max(np.abs(np.asarray(want, np.float64) - np.asarray(got, np.float64)))
        if not difference <= TOLERANCE:
            raise RuntimeError(f"the exported {model.name!r} differs by {difference:.2g}")


def _claim_version(written: Path, folder: Path) -> Path:
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    for version in itertools.count(max(taken, default=0) + 1):
        try:
            return written.rename(folder / str(version))
        except OSError:
            # Another export took this number; renaming onto a folder with files in it fails.
            if not (folder / str(version)).exists():
                raise
    raise AssertionError("unreachable")
