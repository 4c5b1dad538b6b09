"""Data parallelism: where the equality comes from, in closed form."""

import keras
import numpy as np
import tensorflow as tf

from recipes import data_parallel

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(37, 5)).astype("float32")
Y = RANDOM.integers(0, 10, 37).astype("int32")
SETTING = {
    "seed": 0,
    "units": 8,
    "classes": 10,
    "learning_rate": 0.1,
    "epochs": 2,
    "batch_size": 16,
}


def test_parameters_with_and_without_normalization():
    assert data_parallel.build_model(5, 8).count_params() == 5 * 8 + 8 * 8 + 8 * 10 + 10
    trainable = data_parallel.build_model(5, 8, "ordinary").trainable_variables
    assert (
        sum(np.prod(v.shape) for v in trainable) == 5 * 8 + 8 * 8 + 8 * 10 + 10 + 4 * 8
    )


def test_one_replica_trains_as_keras_does():
    found, seconds = data_parallel.train(tf.distribute.get_strategy(), X, Y, SETTING)
    assert seconds > 0
    keras.utils.set_random_seed(0)
    model = data_parallel.build_model(5, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    random = np.random.default_rng(0)
    for _ in range(2):
        order = random.permutation(37)
        model.fit(X[order], Y[order], batch_size=16, shuffle=False, verbose=0)
    expected = np.concatenate([np.ravel(w) for w in model.trainable_variables])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_mean_of_means_is_the_mean_for_equal_shares_only():
    strategy = tf.distribute.get_strategy()
    # With one replica both are the same, ragged batch or not.
    found = [
        data_parallel.train(strategy, X, Y, SETTING, mean_of_means=m)[0] for m in (0, 1)
    ]
    np.testing.assert_allclose(*found, atol=1e-6)
