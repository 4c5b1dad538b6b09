"""What training knows of Keras beyond its documentation, in one place.

Tried on Keras 3.15.1 alone. Each function says what would break where another version
of Keras differs; the tests of this package would notice. (What the division among
replicas relies on stands in `distribute.replicas`: the name of a random state's
variable, and that Keras divides losses by `num_replicas_in_sync`; and in
`distribute.losses`.)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras


def epoch_of_backup(model: keras.Model) -> int | None:
    """The epoch at which BackupAndRestore says to go on, from `on_train_begin` on.

    `model._initial_epoch`: it says so nowhere else. By another name, a training that
    was interrupted would go on with the weights of the backup from the first epoch.
    """
    return getattr(model, "_initial_epoch", None)


def is_of_keras(function: Any) -> bool:
    """Whether Keras wrote the function itself.

    By the name of its module, `keras.src...`. If Keras moved, each of its callbacks
    would draw the warning that it has a hook for batches.
    """
    return function.__module__.startswith("keras.")


def is_own_metric(metric: keras.metrics.Metric) -> bool:
    """Whether what a metric gathers was written by a user, not by Keras.

    `metric._fn`: what Keras makes a metric of that is given as a function. By another
    name, such a metric would be taken for one of Keras, and not be tried on replicas.
    """
    return not is_of_keras(getattr(metric, "_fn", type(metric)))


def forget_functions(model: keras.Model) -> None:
    """Lets Keras make its functions anew, for another number of steps per execution.

    `model.train_function`, `model.test_function`: Keras makes those that are None. By
    other names, the old number of steps would stay and eat the next epoch's batches.
    """
    model.train_function = None
    model.test_function = None


@dataclass
class CompiledEpochs:
    """What training keeps with a model."""

    compilation: tuple[Any, ...]
    """what the epochs were compiled for"""
    by_key: dict[str, Callable[..., Any]] = field(default_factory=dict)


def compiled_epochs(model: keras.Model) -> dict[str, Callable[..., Any]]:
    """The epochs compiled for the model; none if it was compiled again since, or other
    weights are trainable.

    They hang on the model as `_compiled_epochs`, so that they live as long as it does.
    Keras tracks lists and dicts among a model's attributes, and leaves other objects
    alone; otherwise saving the model would save them as well, or fail.
    """
    kept = getattr(model, "_compiled_epochs", None)
    if kept is None or kept.compilation != _compilation(model):
        kept = model._compiled_epochs = CompiledEpochs(_compilation(model))
    return kept.by_key


def keep_epoch(model: keras.Model, key: str, epoch: Callable[..., Any]) -> None:
    """Puts a compiled epoch with the others. Tracing it may have made weights."""
    model._compiled_epochs.by_key[key] = epoch
    model._compiled_epochs.compilation = _compilation(model)


def _compilation(model: keras.Model) -> tuple[Any, ...]:
    """Changes with each `model.compile`, and with the weights that are trainable.

    `model.compile` sets `train_function` to None, and `make_train_function` then makes
    a new object. If it kept the old one, a model compiled again would go on training
    with the optimizer, loss and metrics of before.
    """
    model.make_train_function()
    return model.train_function, *map(id, model.trainable_variables)
