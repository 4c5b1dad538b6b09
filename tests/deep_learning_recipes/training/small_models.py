"""Small models and data for them, and a comparison of the two ways to fit them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from deep_learning_recipes import training

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(45, 6)).astype("float32")
IMAGES = GENERATOR.normal(size=(45, 8, 8, 1)).astype("float32")
LABELS = GENERATOR.integers(0, 3, 45)
TARGETS = GENERATOR.normal(size=(45, 2)).astype("float32")
BATCH_SIZE = 16  # two whole batches and one of 13
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(optimizer="adam", **compile_arguments):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)]
    )
    model.compile(optimizer, CROSS_ENTROPY, metrics=["accuracy"], **compile_arguments)
    return model


def convolutional():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, metrics=["accuracy"]
    )
    return model


def recurrent():
    model = keras.Sequential([keras.Input((8, 8)), layers.LSTM(4), layers.Dense(3)])
    model.compile("adam", CROSS_ENTROPY)
    return model


def two_inputs_two_outputs():
    inputs = {
        "left": keras.Input((6,), name="left"),
        "right": keras.Input((6,), name="right"),
    }
    hidden = layers.Dense(8, "tanh")(
        layers.Concatenate()([inputs["left"], inputs["right"]])
    )
    outputs = {
        "label": layers.Dense(3, name="label")(hidden),
        "target": layers.Dense(2, name="target")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
        loss={"label": CROSS_ENTROPY, "target": "mse"},
        metrics={"label": ["accuracy"]},
    )
    return model


class Ridge(keras.Model):
    """Unbuilt until trained, a custom step, logs that are no metrics."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            error = keras.ops.mean((self(x) - y) ** 2)
            loss = error + 0.01 * keras.ops.sum(self.head.kernel**2)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"error": error, "penalty": loss - error}


class Adversarial(keras.Model):
    """Two optimizers, of which Keras builds neither."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
        self.discriminator = keras.Sequential(
            [keras.Input((2,)), layers.Dense(4), layers.Dense(1)]
        )
        self.loss_tracker = keras.metrics.Mean(name="generator_loss")

    def compile(self):
        super().compile(optimizer=None, loss=None)
        self.generator_optimizer = keras.optimizers.Adam(0.01)
        self.discriminator_optimizer = keras.optimizers.RMSprop(0.01)

    def train_step(self, data):
        noise, real = data
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(noise)
            real_logits, fake_logits = (
                self.discriminator(real),
                self.discriminator(fake),
            )
            generator_loss = keras.ops.mean(keras.ops.softplus(-fake_logits))
            discriminator_loss = keras.ops.mean(
                keras.ops.softplus(fake_logits) + keras.ops.softplus(-real_logits)
            )
        for optimizer, network, loss in (
            (self.generator_optimizer, self.generator, generator_loss),
            (self.discriminator_optimizer, self.discriminator, discriminator_loss),
        ):
            weights = network.trainable_variables
            gradients = tape.gradient(loss, weights)
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.loss_tracker.update_state(generator_loss)
        return {"generator_loss": self.loss_tracker.result()}


def assert_same_training(make, x, y, jit_compile=(None,), callbacks=list, **arguments):
    """Trains equal models, one with Keras's fit and one with ours for each way to
    compile; returns the History of the last."""
    arguments |= {"batch_size": BATCH_SIZE, "epochs": 3, "shuffle": False, "verbose": 0}
    reference = make()
    initial = reference.get_weights()
    keras.utils.set_random_seed(1)
    expected = reference.fit(x, y, callbacks=callbacks(), **arguments)
    for way in jit_compile:
        model = make()
        model.set_weights(initial)
        keras.utils.set_random_seed(1)
        history = training.fit(
            model, x, y, callbacks=callbacks(), jit_compile=way, **arguments
        )
        assert_same_history(history, expected)
        for found, wanted in zip(model.weights, reference.weights, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=wanted.path)
    return history


def assert_same_history(history, expected):
    assert list(history.history) == list(expected.history)
    assert history.epoch == expected.epoch
    for name, values in expected.history.items():
        np.testing.assert_allclose(
            history.history[name], values, rtol=1e-4, err_msg=name
        )
