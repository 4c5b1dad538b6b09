"""What a run keeps of each training: checkpoints, TensorBoard curves, a line of
progress."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.run import checkpoint
from deep_learning_recipes.run.display import Display, ProgressLine
from deep_learning_recipes.training.state import state_variables


class Recorder(keras.callbacks.Callback):
    """Keeps each training of a run in files, and shows its progress in one line.

    One recorder serves all the trainings of a run, numbered in their order. In `folder`
    it writes checkpoints/NN-MODEL.npz (weights, optimizer, random state, history;
    replaced as a whole, after each epoch, unless `seconds_between_saves` have not
    passed) and logs/NN-MODEL (TensorBoard).

    With `resume=True` a training goes on after the last epoch that its checkpoint
    holds, and one that had ended is not repeated: `training.fit` asks `restore` for the
    number of epochs done. List callbacks that change the weights when training ends
    (EarlyStopping) before this one.
    """

    shows_progress = True

    def __init__(
        self,
        folder: Path,
        *,
        resume: bool = False,
        display: Display | None = None,
        seconds_between_saves: float = 1.0,
        on_save: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.on_save = on_save
        self.seconds_between_saves = seconds_between_saves
        self.folder = folder
        self.resume = resume
        self.display = display or Display()
        self.trainings = 0
        self.epochs_done = 0
        # Its own record: Keras's History comes after this callback and lacks the
        # current epoch.
        self.history: dict[str, list[float]] = {}
        self.progress: ProgressLine | None = None

    @property
    def name(self) -> str:
        return f"{self.trainings + 1:02d}-{self.model.name}"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / f"{self.name}.npz"

    def on_train_begin(self, logs=None):
        self.writer = tf.summary.create_file_writer(
            str(self.folder / "logs" / self.name)
        )
        self.saved = time.monotonic()
        self.progress = self.display.training(
            self.model.name, self.params["epochs"], "epochs", self.epochs_done
        )

    def restore(self, model: keras.Model) -> int:
        """Puts `model` and its optimizers into the state of the checkpoint, if there is
        one to resume from, and returns the number of epochs that need not be trained
        again."""
        if not self.resume or not checkpoint.is_there(self.checkpoint):
            return 0
        arrays, record = checkpoint.load(self.checkpoint, read)
        variables = state_variables(model)
        if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
            raise UsageError(
                f"{self.checkpoint} holds another network than {model.name!r}: the recipe has "
                "changed since; start again without --resume"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        self.history = record["history"]
        model.history.history = {
            name: list(values) for name, values in self.history.items()
        }
        self.epochs_done = record["epochs_done"]
        return self.params["epochs"] if record["ended"] else self.epochs_done

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.epochs_done = epoch + 1
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        with self.writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
        self.progress.update(epoch + 1, logs)
        # Epochs of milliseconds would spend their time on writing files.
        if time.monotonic() - self.saved > self.seconds_between_saves:
            self._save(ended=False)

    def on_train_end(self, logs=None):
        # All that was trained, also where nothing was left to train.
        last = {name: values[-1] for name, values in self.history.items()}
        self.progress.finish(self.epochs_done, last)
        self.writer.close()
        self._save(ended=True)
        self.trainings += 1
        self.epochs_done, self.history = 0, {}

    def close(self) -> None:
        """Gives the terminal back when a training was interrupted."""
        if self.progress is not None:
            self.progress.close()

    def _save(self, *, ended: bool) -> None:
        record = {
            "epochs_done": self.epochs_done,
            "ended": ended,
            "history": self.history,
        }
        contents: dict[str, Any] = {
            f"array_{index}": np.array(variable)
            for index, variable in enumerate(state_variables(self.model))
        }
        contents["record"] = np.array(json.dumps(record))
        checkpoint.save(self.checkpoint, contents)
        self.on_save()
        self.saved = time.monotonic()


def read(saved: dict[str, np.ndarray]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The values of the variables, in their order, and what is known of the training.

    Raises KeyError where something is missing.
    """
    record = json.loads(str(saved["record"]))
    arrays = [saved[f"array_{index}"] for index in range(len(saved) - 1)]
    return arrays, {key: record[key] for key in ("history", "epochs_done", "ended")}
