"""The order of the examples: new in each epoch, by the seed and the epoch alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import BATCH_SIZE

from deep_learning_recipes import training

pytestmark = pytest.mark.usefixtures("seeded")


class Recorder(keras.Model):
    """Does not learn; remembers the order in which it sees the numbers 0, 1, 2, ..."""

    def __init__(self, examples):
        super().__init__()
        self.seen = keras.Variable(np.zeros(examples), dtype="int32", trainable=False)
        self.position = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, numbers):
        count = tf.shape(numbers)[0]
        places = (self.position.value + tf.range(count))[:, None]
        self.seen.assign(tf.tensor_scatter_nd_update(self.seen.value, places, numbers))
        self.position.assign(self.position.value + count)
        return {"count": tf.cast(count, tf.float32)}


class OrderOfEpochs(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.orders = []

    def on_epoch_end(self, epoch, logs=None):
        self.orders.append(self.model.seen.numpy().astype(int).tolist())
        self.model.position.assign(0)


def orders_of(epochs, initial_epoch=0, seed=None, jit_compile=False):
    model, recorder = Recorder(45), OrderOfEpochs()
    model.compile()
    training.fit(
        model,
        np.arange(45, dtype="int32"),
        batch_size=BATCH_SIZE,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=[recorder],
        seed=seed,
        jit_compile=jit_compile,
        verbose=0,
    )
    return recorder.orders


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_epoch_sees_each_example_once_in_a_new_order(jit_compile):
    orders = orders_of(4, seed=3, jit_compile=jit_compile)
    assert [sorted(order) for order in orders] == [list(range(45))] * 4
    assert len(set(map(tuple, orders))) == 4
    assert orders_of(4, initial_epoch=2, seed=3, jit_compile=jit_compile) == orders[2:]
    assert orders_of(1, seed=4, jit_compile=jit_compile) != orders[:1]


def test_seed_comes_from_set_random_seed():
    keras.utils.set_random_seed(5)
    first, second = orders_of(1), orders_of(1)
    keras.utils.set_random_seed(5)
    assert (orders_of(1), orders_of(1)) == (first, second)
    assert first != second
