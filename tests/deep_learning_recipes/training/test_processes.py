"""Training in processes of their own: devices and determinism are settled once a
process."""

import os
import subprocess
import sys


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


REPLICAS = """
import numpy as np, keras, tensorflow as tf
from deep_learning_recipes import training
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(70, 4)).astype("float32")
y = (x.sum(1) > 0).astype("int32")

def train(strategy, examples):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    history = training.fit(model, x[:examples], y[:examples], batch_size=16, epochs=4, seed=1,
                           verbose=0, validation_data=(x[:33], y[:33]))
    return model.get_weights()[0], history.history

mirrored = tf.distribute.MirroredStrategy(
    ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
one, _ = train(tf.distribute.get_strategy(), 64)
two, history = train(mirrored, 64)
print(np.abs(one - two).max() < 1e-5)
print(len(history["loss"]) == 4 and history["loss"][-1] < 0.5 * history["loss"][0])

# The second has a batch of one example, which only one replica may count.
with mirrored.scope():
    still = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    still.compile(keras.optimizers.SGD(0.0), "mse", metrics=["accuracy"])
targets = keras.utils.to_categorical(y)
for examples in (32, 33):
    logs = training.fit(still, x[:examples], targets[:examples], batch_size=16, verbose=0).history
    right = (x[:examples] @ still.get_weights()[0]).argmax(1) == y[:examples]
    print(abs(logs["accuracy"][0] - right.mean()) < 1e-5)
"""


def test_two_replicas_learn_the_same():
    assert run_python(REPLICAS).split() == 4 * ["True"]


DETERMINISTIC = """
import numpy as np, keras, tensorflow as tf
from deep_learning_recipes import training
tf.config.experimental.enable_op_determinism()
x = np.random.default_rng(0).normal(size=(40, 8, 8, 1))

def train(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3),
                              keras.layers.Dropout(0.5), keras.layers.Flatten(),
                              keras.layers.Dense(1)])
    model.compile("adam", "mse")
    training.fit(model, x, x.sum((1, 2)), epochs=3, verbose=0, jit_compile=jit_compile)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])

print(all((train(jit) == train(jit)).all() for jit in (False, True)))
"""


def test_deterministic_runs_are_equal_to_the_bit():
    assert run_python(DETERMINISTIC).split() == ["True"]
