"""The loop over the epochs: trains, validates, and tells the callbacks."""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from deep_learning_recipes.distribute.replicas import Logs, Mirrored, Replicas
from deep_learning_recipes.training import private_keras
from deep_learning_recipes.training.callbacks import first_epoch, warn_of_batch_hooks
from deep_learning_recipes.training.epoch import compile_epoch
from deep_learning_recipes.training.prepare import Training, count
from deep_learning_recipes.training.state import state_variables
from deep_learning_recipes.training.trial import try_replicas


def train_epochs(
    training: Training, replicas: Replicas, callbacks: keras.callbacks.CallbackList
) -> keras.callbacks.History:
    """Trains until the last epoch is done or a callback stops it."""
    warn_of_batch_hooks(callbacks)
    model = training.model
    train = compile_epoch(training, replicas, "train_step", training.data)
    validate = validation(training, replicas, callbacks)

    # All variables exist now, so callbacks can restore them.
    start = first_epoch(training, callbacks)
    start = replicas.agree(model, state_variables(model), start)
    try_replicas(training, replicas)
    model.stop_training = False
    callbacks.on_train_begin()
    start = private_keras.epoch_of_backup(model) or start

    logs: Logs = {}
    for epoch in range(start, training.epochs):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_train_batch_begin(0)
        logs = dict(train(training.data, training.order_of(epoch)))
        callbacks.on_train_batch_end((training.steps or 1) - 1, logs)
        logs.update({f"val_{name}": value for name, value in validate().items()})
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    if isinstance(model.optimizer, keras.optimizers.Optimizer) and training.epochs > 0:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    callbacks.on_train_end(logs)
    return model.history


def validation(
    training: Training, replicas: Replicas, callbacks: keras.callbacks.CallbackList
) -> Callable[[], Logs]:
    """A function that returns the logs of the validation data; none without any."""
    model = training.model
    data = training.validation_data
    if data is None:
        return dict
    is_dataset = isinstance(data, tf.data.Dataset)
    if is_dataset and not isinstance(replicas, Mirrored):
        return functools.partial(
            model.evaluate, data, callbacks=callbacks, return_dict=True
        )
    test = compile_epoch(training, replicas, "test_step", data)
    order = None if is_dataset else tf.range(count(data))

    def evaluate() -> Logs:
        callbacks.on_test_begin()
        logs = test(data, order)
        callbacks.on_test_end(logs)
        return logs

    return evaluate
