"""The public function: what `fit` promises, and the order of its work."""

import random
from typing import Any

import keras

from deep_learning_recipes.training.callbacks import callback_list
from deep_learning_recipes.training.hand_over import hand_over
from deep_learning_recipes.training.loop import train_epochs
from deep_learning_recipes.training.prepare import (
    Training,
    check_arguments,
    on_device,
    validation_on_device,
    who_trains,
)


def fit(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    batch_size: int = 32,
    epochs: int = 1,
    validation_data: Any = None,
    callbacks: Any = None,
    shuffle: bool = True,
    seed: int | None = None,
    initial_epoch: int = 0,
    verbose: int | str = "auto",
    jit_compile: bool | None = None,
) -> keras.callbacks.History:
    """Train a compiled model, custom `train_step` included, as `keras.Model.fit` does,
    but faster.

    Several replicas (a `MirroredStrategy`, or the workers of `--strategy multi_worker`)
    divide each batch among them and end with the weights of a single device, whatever
    the size of the last batch, masks and the reductions of Keras's losses included. A
    loss, metric or `train_step` of your own must give means over the examples: a trial
    on one batch refuses others before training, save for a `train_step` that draws
    random numbers (other than dropout's) or has moving averages. What a replica works
    out from its slice alone differs: random numbers, and the statistics of
    BatchNormalization (not with `synchronized=True` under a MirroredStrategy).

    With parameter servers the workers train asynchronously, so the weights are not
    those of a single device nor the same twice: `distribute.parameter_server` says
    more.

    On a TPU, with `run_eagerly=True`, or given a `tf.data.Dataset` this hands over to
    `model.fit` and sets `model.steps_per_execution` to 16, or less so that it divides
    an epoch's steps. The cores of a TPU leave out the last, smaller batch of arrays.
    Under a MirroredStrategy a Dataset is trained here, all its batches as on a single
    device, one call for each; `run_eagerly=True` is refused.

    Args:
        model: A compiled `keras.Model`.
        x, y, sample_weight: Arrays, or nested dicts, tuples and lists of arrays, whose
            first axis counts the examples. Or `x` alone: a batched `tf.data.Dataset`.
        batch_size: Examples per step. The last, smaller batch of an epoch is trained as
            well.
        epochs: The epoch to stop before, counted from 0 whatever `initial_epoch` is.
        validation_data: `(x, y)`, `(x, y, sample_weight)` or a batched
            `tf.data.Dataset`.
        callbacks: Keras callbacks. All that act once an epoch work: EarlyStopping,
            TensorBoard, ReduceLROnPlateau, LearningRateScheduler, ModelCheckpoint,
            BackupAndRestore. The `on_train_batch_*` hooks are called once an epoch,
            with the index of its last batch: TerminateOnNaN acts at the end of the
            epoch, and a callback that needs every batch draws a warning: use
            `model.fit` for it. A callback may have a method `restore(model) -> int`:
            called once all variables exist, before `on_train_begin`, it may load them
            and fill `model.history.history`, and returns how many epochs are done;
            training goes on there.
        shuffle: Draw a new order each epoch. It depends on `seed` and the epoch's
            number alone, so a resumed run sees the same batches.
        seed: None draws one from Python's `random`, which `keras.utils.set_random_seed`
            seeds: the same program started again draws the same.
        initial_epoch: The epoch to start from, unless a callback restored a later one.
        verbose: 0 silent, 1 progress bar, 2 a line per epoch; "auto" means 1, or 0
            where a callback says by `shows_progress = True` that it shows it.
        jit_compile: Compile with XLA. None: yes if the model was compiled with
            `jit_compile=True`, or on a CPU for long training without convolutions and
            loops, which XLA makes slower, and without strings, which it lacks.

    Returns:
        The History that `keras.Model.fit` returns.

    Raises:
        ValueError: The model is not compiled, or the arrays or numbers make no sense.
        UsageError: Several replicas or parameter servers cannot train the model as one
            device would.
        tf.errors.InvalidArgumentError: An index or a label is out of bounds, with and
            without XLA.
    """
    check_arguments(model, x, y, sample_weight, batch_size, epochs, initial_epoch)
    training = Training(
        model=model,
        replicas=who_trains(model, x),
        data=on_device(x, y, sample_weight),
        validation_data=validation_on_device(validation_data),
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=shuffle,
        seed=random.randrange(2**31) if seed is None else seed,
        jit_compile=jit_compile,
    )
    callbacks = callback_list(training, callbacks, verbose)
    if training.replicas is None:
        return hand_over(training, callbacks)
    return train_epochs(training, training.replicas, callbacks)
