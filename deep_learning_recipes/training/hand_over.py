"""Training by `model.fit`: on a TPU, eagerly, or one device on a tf.data.Dataset."""

import keras
import tensorflow as tf

from deep_learning_recipes.training import private_keras
from deep_learning_recipes.training.callbacks import first_epoch
from deep_learning_recipes.training.prepare import Training, take

STEPS_PER_EXECUTION = 16


def hand_over(
    training: Training, callbacks: keras.callbacks.CallbackList
) -> keras.callbacks.History:
    """Lets `model.fit` train on the same batches in the same order."""
    model = training.model
    if model.built and model.optimizer is not None:
        # So that callbacks can restore its variables.
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
    start = first_epoch(training, callbacks)
    data = training.data
    if not isinstance(data, tf.data.Dataset):
        # Keras looks at a batch even where all epochs are done.
        data = batches(training, range(start, max(training.epochs, start + 1)))
    validation_data = training.validation_data
    if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
        validation_data = tf.data.Dataset.from_tensor_slices(validation_data)
        validation_data = validation_data.batch(training.batch_size)
    if not model.run_eagerly:
        set_steps_per_execution(model, training.steps)
    return model.fit(
        data,
        steps_per_epoch=training.steps,
        epochs=training.epochs,
        initial_epoch=start,
        shuffle=False,  # a dataset brings its own order
        validation_data=validation_data,
        callbacks=callbacks,
    )


def batches(training: Training, epochs: range) -> tf.data.Dataset:
    """The batches of the epochs with these numbers, one epoch after the other."""

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.data.Dataset.from_tensor_slices(training.order_of(epoch))
        return order.batch(training.batch_size, training.drop_remainder)

    def batch_of(indices: tf.Tensor) -> tuple:
        return take(training.data, indices)

    indices = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(indices_of)
    found = indices.map(batch_of, num_parallel_calls=tf.data.AUTOTUNE)
    return found.prefetch(tf.data.AUTOTUNE)


def set_steps_per_execution(model: keras.Model, steps: int | None) -> None:
    """As many as may be, of those that divide an epoch's steps: an execution that went
    past its epoch would eat the next one's batches."""
    choices = range(1, STEPS_PER_EXECUTION + 1)
    largest = max(each for each in choices if (steps or each) % each == 0)
    if model.steps_per_execution != largest:
        model.steps_per_execution = largest
        private_keras.forget_functions(model)
