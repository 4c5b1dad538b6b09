"""Keras callbacks in a training whose epochs are single calls."""

import warnings
from typing import Any

import keras

from deep_learning_recipes.training import private_keras
from deep_learning_recipes.training.prepare import Training

BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


def callback_list(
    training: Training, callbacks: Any, verbose: int | str
) -> keras.callbacks.CallbackList:
    """The user's callbacks, the History, and a progress bar where one is wanted: of the
    chief, unless a callback shows the progress itself."""
    shown_already = any(
        getattr(each, "shows_progress", False) for each in callbacks or ()
    )
    if training.replicas is not None and not training.replicas.is_chief:
        verbose = 0
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0 and not (verbose == "auto" and shown_already),
        verbose=verbose,
        epochs=training.epochs,
        steps=training.steps,
        model=training.model,
    )


def first_epoch(training: Training, callbacks: keras.callbacks.CallbackList) -> int:
    """Has callbacks restore what they saved, and returns the epoch to start from."""
    restored = [
        each.restore(training.model)
        for each in callbacks.callbacks
        if hasattr(each, "restore")
    ]
    return max([training.initial_epoch, *restored])


def warn_of_batch_hooks(callbacks: keras.callbacks.CallbackList) -> None:
    """Warns of callbacks that want to be called for every batch."""
    for callback in callbacks.callbacks:
        hooks = [getattr(callback, name) for name in BATCH_HOOKS]
        if not all(map(private_keras.is_of_keras, hooks)):
            warnings.warn(
                f"{type(callback).__name__} has a hook for batches, which is called once an epoch "
                "here: if it needs every batch, use model.fit",
                stacklevel=4,  # the line that calls fit
            )
