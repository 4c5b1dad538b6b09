"""A long training, which XLA would shorten, gives the answers of a short one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import CROSS_ENTROPY, LABELS, X, assert_same_training, dense

from deep_learning_recipes import UsageError, training
from deep_learning_recipes.training import xla

pytestmark = pytest.mark.usefixtures("seeded")

TEXTS = tf.constant([["red green"], ["blue"], ["green blue red"]] * 15)
WORDS = np.random.default_rng(0).integers(0, 10, (45, 4))


@pytest.fixture
def chosen(monkeypatch):
    """What was chosen for each epoch that was compiled."""
    choices = []
    choose = xla.choose
    monkeypatch.setattr(
        xla, "choose", lambda *a: choices.append(choose(*a)) or choices[-1]
    )
    return choices


@pytest.fixture(params=[1, 10**9], ids=["long", "short"])
def length(request, monkeypatch):
    """Whether the training counts as long enough for XLA."""
    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", request.param)
    return request.param


def vectorized():
    vectorize = layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["red green blue"])
    return vectorize


def looked_up():
    lookup = layers.StringLookup(vocabulary=["red green", "blue"])
    return keras.Sequential([lookup, layers.Reshape((1,))])


def lengths():
    return layers.Lambda(tf.strings.length, output_shape=(1,))


def text_model(first):
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            first,
            layers.Embedding(100, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
    model.compile("adam", CROSS_ENTROPY, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("first", [vectorized, looked_up, lengths])
def test_strings_are_never_for_xla(monkeypatch, chosen, first):
    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", 1)
    first = first()
    validation = (TEXTS[:20], LABELS[:20])

    def make():
        keras.utils.set_random_seed(0)
        return text_model(first)

    assert_same_training(make, TEXTS, LABELS, validation_data=validation)
    assert chosen == [False, False]


class Within(layers.Layer):
    """Makes of numbers what XLA lacks, and of that numbers again."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        keys, values = tf.constant([0, 1]), tf.constant([0.0, 1.0])
        initializer = tf.lookup.KeyValueTensorInitializer(keys, values)
        self.table = tf.lookup.StaticHashTable(initializer, 0.5)

    def call(self, inputs):
        return inputs + {
            "string": self.string,
            "string in a function": tf.function(self.string),
            "table": lambda x: self.table.lookup(tf.cast(x, tf.int32)),
            "list": self.list_of_tensors,
        }[self.how](inputs)

    def string(self, x):
        return tf.cast(tf.strings.length(tf.strings.as_string(x)), x.dtype)

    def list_of_tensors(self, x):
        array = tf.TensorArray(tf.float32, 2, element_shape=(6,))
        return array.write(0, x[0]).write(1, x[1]).stack()[:1]


@pytest.mark.parametrize("how", ["string", "string in a function", "table", "list"])
def test_neither_are_strings_tables_and_lists_within(monkeypatch, chosen, how):
    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", 1)
    model = keras.Sequential([keras.Input((6,)), Within(how), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY)
    training.fit(model, X, LABELS, verbose=0)
    assert chosen == [False]


def test_xla_for_strings_is_refused_or_done_without():
    first = vectorized()
    with pytest.raises(UsageError, match="^jit_compile=True: XLA has no strings"):
        training.fit(text_model(first), TEXTS, LABELS, verbose=0, jit_compile=True)
    model = keras.Sequential([keras.Input((6,)), Within("string"), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY, jit_compile=True)
    with pytest.warns(UserWarning, match="XLA cannot"):
        training.fit(model, X, LABELS, verbose=0)


def test_conditions_and_texts_of_assertions_do_not_keep_xla_away(chosen, monkeypatch):
    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", 1)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    training.fit(dense(optimizer), X, LABELS, verbose=0)
    tags = keras.Sequential(
        [keras.Input((6,)), layers.Reshape((6, 1)), layers.Dense(3)]
    )
    tags.compile("sgd", CROSS_ENTROPY)
    training.fit(tags, X, np.zeros((45, 6)), verbose=0, jit_compile=True)
    assert chosen == [True, True]


class OwnLoss(keras.Model):
    """A train_step with a loss of its own, of (labels, a row of outputs for each)."""

    def __init__(self, loss):
        super().__init__()
        self.network = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
        self.own_loss = loss

    def train_step(self, data):
        x, labels = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.own_loss(labels, self.network(x)))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"own": loss}

    def test_step(self, data):
        x, labels = data
        return {"own": tf.reduce_mean(self.own_loss(labels, self.network(x)))}


LOSSES = {
    "gather": lambda labels, z: tf.gather(z, labels, batch_dims=1),
    "take_along_axis": lambda labels, z: keras.ops.take_along_axis(
        z, labels[:, None], axis=1
    ),
    "gather_nd": lambda labels, z: tf.gather_nd(
        tf.transpose(z)[:, :1], labels[:, None]
    ),
    "scatter_nd": lambda labels, z: tf.scatter_nd(labels[:, None], z, (3, 3)) ** 2,
    "scatter_update": lambda labels, z: tf.tensor_scatter_nd_update(
        tf.zeros((3, 3)), labels[:, None], z
    ),
    "segments": lambda labels, z: tf.math.unsorted_segment_sum(z, labels, 3) ** 2,
    "function": lambda labels, z: tf.function(tf.gather)(z, labels, batch_dims=1),
    "division": lambda labels, z: z[:, 0] * tf.cast(9 // (3 - labels), tf.float32),
    "inverse": lambda labels, z: (
        z[:, 0] * tf.linalg.inv(tf.cast(3 - labels, tf.float32)[:, None, None])
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_index_out_of_bounds_fails_at_any_length(length, loss, where):
    def train(labels, validation_labels):
        model = OwnLoss(LOSSES[loss])
        model.compile("sgd")
        training.fit(
            model,
            X,
            labels,
            validation_data=(X, validation_labels),
            batch_size=16,
            verbose=0,
        )

    good, bad = LABELS.astype("int32"), LABELS.astype("int32")
    bad[-2] = 3  # in the last, smaller batch or in any other: the order is random
    train(good, good)
    with pytest.raises(tf.errors.InvalidArgumentError):
        train(*(bad, good) if where == "training" else (good, bad))


def words_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Embedding(10, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
    model.compile("adam", CROSS_ENTROPY)
    return model


@pytest.mark.parametrize(
    ("place", "words", "labels", "message"),
    [
        (0, 10, 0, r"indices\[.*\] = 10 is not in \[0, 10\)"),
        (44, -11, 0, r"indices\[.*\] = -1 is not in \[0, 10\)"),
        (44, 0, 3, r"label value of 3 which is outside the valid range of \[0, 3\)"),
        (20, 0, -1, r"label value of -1 which is outside the valid range of \[0, 3\)"),
    ],
)
def test_words_and_labels_out_of_bounds_are_named(
    length, chosen, place, words, labels, message
):
    x, y = WORDS.copy(), LABELS.copy()
    x[place, 1] += words - x[place, 1] if words else 0
    y[place] = labels or y[place]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        training.fit(
            words_model(), x, y, batch_size=16, shuffle=False, verbose=0, epochs=2
        )
    assert chosen == [length == 1]


def test_words_and_labels_within_bounds_are_trained_as_by_keras(chosen, monkeypatch):
    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", 1)
    x = WORDS.copy()
    x[0, 0] = -1  # Keras counts from the end

    def make():
        keras.utils.set_random_seed(0)
        return words_model()

    assert_same_training(make, x, LABELS, validation_data=(x, LABELS))
    assert chosen == [True, True]
