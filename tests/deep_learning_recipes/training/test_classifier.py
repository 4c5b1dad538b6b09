"""A classifier is trained as by what one would compile by hand."""

import keras
import numpy as np
from keras import layers

from deep_learning_recipes import training


def build_model():
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    hidden = layers.Dense(8, activation="relu")(x)
    return keras.Model(x, layers.Dense(3)(hidden))


def test_adam_goes_along_a_cosine_that_counts_the_last_smaller_batch():
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 5)).astype("float32")
    y = random.integers(3, size=50)

    ours = build_model()
    history = training.fit_classifier(
        ours, x, y, epochs=3, batch_size=16, learning_rate=0.01
    )
    # 4 batches an epoch, of which the last has 2 examples.
    assert ours.optimizer.iterations == 12
    assert float(ours.optimizer.learning_rate) < 1e-6
    assert list(history.history) == ["accuracy", "loss"]

    theirs = build_model()
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 12)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    training.fit(theirs, x, y, epochs=3, batch_size=16)
    for own, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
