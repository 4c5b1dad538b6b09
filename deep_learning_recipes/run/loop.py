"""Loops of one's own, where `fit` is not the way to train: progress, checkpoints,
resume."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from deep_learning_recipes import UsageError
from deep_learning_recipes.run import checkpoint
from deep_learning_recipes.run.display import Display

SECONDS_BETWEEN_SAVES = 1.0
SHARE_OF_TIME_FOR_SAVES = 0.05
SECONDS_BETWEEN_LOOKS = 0.1


class Loop:
    """The step numbers 0, 1, ... total − 1, like `range(total)`, with a line of
    progress and a file that keeps `state`, so that a resumed run goes on at the step
    after the last one saved.

    path: the checkpoint, an npz: replaced as a whole between two steps, at most once a
        second.
    state: what the steps change, by name: NumPy arrays (changed in place),
        `tf.Variable`s, Keras models, built Keras optimizers, `np.random.Generator`s, or
        lists, tuples and dicts of them.
    show: gives the values to show beside the progress, such as {"return": 21.5}.
    resume: start from the file, if it is there.
    on_save: called after each save.

    Run it to its end: a loop that is left early counts as interrupted.
    Raises UsageError if the file holds another state, TypeError for a state that cannot
    be kept.
    """

    def __init__(
        self,
        path: Path,
        total: int,
        state: Mapping[str, Any],
        *,
        name: str,
        unit: str = "steps",
        show: Callable[[], Mapping[str, float]] = dict,
        resume: bool = False,
        display: Display | None = None,
        on_save: Callable[[], None] = lambda: None,
    ):
        self.path = path
        self.total = total
        self.name = name
        self.unit = unit
        self.show = show
        self.display = display or Display()
        self.on_save = on_save
        self.parts = dict(flatten("state", state))
        self.done = self._restore() if resume and checkpoint.is_there(path) else 0

    def __len__(self) -> int:
        """The number of steps that are left."""
        return self.total - self.done

    def __iter__(self) -> Iterator[int]:
        line = self.display.training(self.name, self.total, self.unit, self.done)
        saved = looked = time.monotonic()
        pause = SECONDS_BETWEEN_SAVES
        try:
            while self.done < self.total:
                yield self.done
                self.done += 1
                now = time.monotonic()
                if now - looked > SECONDS_BETWEEN_LOOKS:
                    looked = now
                    line.update(self.done, self.show())
                if now - saved > pause:
                    self.save()
                    saved = time.monotonic()
                    # A large replay memory must not spend the time on writing files.
                    pause = max(
                        SECONDS_BETWEEN_SAVES, (saved - now) / SHARE_OF_TIME_FOR_SAVES
                    )
            self.save()
            line.finish(self.done, self.show())
        finally:
            line.close()

    def save(self) -> None:
        """Writes the state beside, then renames it into place."""
        contents = {name: as_array(part) for name, part in self.parts.items()}
        checkpoint.save(self.path, {**contents, "done": np.array(self.done)})
        self.on_save()

    def _restore(self) -> int:
        done, arrays = checkpoint.load(
            self.path, lambda arrays: (int(arrays.pop("done")), arrays)
        )
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != {name: as_array(part).shape for name, part in self.parts.items()}:
            raise UsageError(
                f"{self.path} holds another state than {self.name!r}: the recipe or its settings "
                "have changed since; start again without --resume"
            )
        for name, part in self.parts.items():
            assign(part, arrays[name])
        return min(done, self.total)


def flatten(name: str, state: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a state that hold values, each with a name of its own."""
    if isinstance(state, Mapping):
        for key, part in state.items():
            yield from flatten(f"{name}.{key}", part)
    elif isinstance(state, (list, tuple)):
        for index, part in enumerate(state):
            yield from flatten(f"{name}.{index}", part)
    elif isinstance(state, (keras.Model, keras.optimizers.Optimizer)):
        if not state.built:
            raise TypeError(
                f"{name}: {state.name!r} has no variables yet; build it first"
            )
        yield from flatten(name, state.variables)
    elif isinstance(
        state, (np.ndarray, np.random.Generator, tf.Variable, keras.Variable)
    ):
        yield name, state
    else:
        raise TypeError(
            f"{name}: a {type(state).__name__} cannot be kept in a checkpoint"
        )


def as_array(part: Any) -> np.ndarray:
    """A part's value. A generator's state is a text; padded, as its numbers vary in
    length."""
    if isinstance(part, np.random.Generator):
        # Some keep their numbers in arrays.
        text = json.dumps(part.bit_generator.state, default=np.ndarray.tolist)
        return np.array(text.ljust(1000))
    return np.array(part)


def assign(part: Any, value: np.ndarray) -> None:
    """Gives a part the value that `as_array` gave."""
    if isinstance(part, np.random.Generator):
        kept = json.loads(str(value))
        kept["state"] = {
            name: np.array(number, "uint64") if isinstance(number, list) else number
            for name, number in kept["state"].items()
        }
        part.bit_generator.state = kept
    elif isinstance(part, np.ndarray):
        part[...] = value
    else:
        part.assign(value)
