"""Models that replicas can and cannot train as one device does; trains them all."""

import json

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from deep_learning_recipes import training
from deep_learning_recipes.distribute import strategies

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
LABELS = (X.sum(axis=1) > 0).astype("int32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Largest(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.max(ops.square(y_pred))


class Contrastive(keras.losses.Loss):
    """Compares each example with all others of the batch."""

    def call(self, y_true, y_pred):
        return ops.logsumexp(ops.matmul(y_pred, ops.transpose(y_pred)), axis=1)


class Maximum(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="maximum")
        self.maximum = self.add_variable((), "zeros", name="maximum")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.maximum.assign(ops.maximum(self.maximum, ops.max(ops.abs(y_pred))))

    def result(self):
        return self.maximum


def largest(y_true, y_pred):
    return ops.max(ops.abs(y_pred))


def mean_square(y_true, y_pred):
    """A mean over the examples, although a number."""
    return ops.mean(ops.square(y_pred))


class OwnStep(keras.Model):
    def __init__(self, loss=ops.mean, clip_norm=None, log=None, first=()):
        super().__init__()
        self.network = network(*first)
        self.own_loss, self.clip_norm, self.log = loss, clip_norm, log

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits = self.network(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = self.own_loss(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"own": self.log(losses) if self.log else ops.mean(losses)}


def network(*first):
    return keras.Sequential(
        [keras.Input((6,)), *first, layers.Dense(8, "tanh"), layers.Dense(2)]
    )


def compiled(model, loss=None, optimizer="adam", **arguments):
    model.compile(optimizer, loss, **arguments)
    return model


def own_step(optimizer="adam", **arguments):
    return compiled(OwnStep(**arguments), optimizer=optimizer)


def sgd(**arguments):
    return keras.optimizers.SGD(0.1, **arguments)


def scaled(**arguments):
    return keras.optimizers.LossScaleOptimizer(sgd(**arguments))


def mean_of_large(losses):
    is_large = ops.cast(losses > 0.7, "float32")
    return ops.sum(is_large * losses) / ops.sum(is_large)


REFUSED = {
    "loss": lambda: compiled(network(), Largest()),
    "loss with dropout": lambda: compiled(network(layers.Dropout(0.5)), Largest()),
    "loss with batch normalization": lambda: compiled(
        network(layers.BatchNormalization()), Contrastive()
    ),
    "function": lambda: compiled(network(), largest),
    "no reduction": lambda: compiled(
        network(layers.Dropout(0.5)),
        keras.losses.SparseCategoricalCrossentropy(True, reduction=None, name="ce"),
    ),
    "metric": lambda: compiled(
        network(), CROSS_ENTROPY, metrics=["accuracy", Maximum()]
    ),
    "function as metric": lambda: compiled(
        network(layers.Dropout(0.5)), CROSS_ENTROPY, metrics=[largest]
    ),
    "own sum": lambda: own_step(loss=ops.sum),
    "own mask": lambda: own_step(loss=mean_of_large),
    "own sum with dropout": lambda: own_step(
        loss=ops.sum, first=[layers.Dropout(0.5), layers.GaussianNoise(0.1)]
    ),
    "own clipping": lambda: own_step(clip_norm=0.1),
    "own log": lambda: own_step(log=ops.max),
    "eager": lambda: compiled(network(), CROSS_ENTROPY, run_eagerly=True),
    "accumulation": lambda: compiled(
        network(), CROSS_ENTROPY, sgd(gradient_accumulation_steps=2)
    ),
    "accumulation, own step": lambda: own_step(scaled(gradient_accumulation_steps=3)),
    "overwriting": lambda: compiled(
        network(), CROSS_ENTROPY, sgd(use_ema=True, ema_overwrite_frequency=5)
    ),
}
TRAINED = {
    "function": lambda: compiled(network(), mean_square),
    "metrics": lambda: compiled(
        network(),
        CROSS_ENTROPY,
        metrics=[
            "accuracy",
            mean_square,
            keras.metrics.SparseTopKCategoricalAccuracy(1),
        ],
    ),
    "regularizer": lambda: compiled(
        network(layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l1")),
        CROSS_ENTROPY,
    ),
    "moving average": lambda: compiled(
        network(), CROSS_ENTROPY, sgd(use_ema=True, ema_overwrite_frequency=None)
    ),
    "half precision": lambda: compiled(
        network(layers.Dense(32, "relu", dtype="mixed_bfloat16")), CROSS_ENTROPY
    ),
    "own step": own_step,
    "own step with dropout": lambda: own_step(
        first=[layers.Dropout(0.5), layers.GaussianDropout(0.5)]
    ),
    "own step with moving averages": lambda: own_step(
        first=[layers.BatchNormalization()]
    ),
    "own step that draws": lambda: own_step(
        loss=lambda losses: ops.mean(losses * tf.random.uniform(tf.shape(losses)))
    ),
}


def train(make, strategy, fits=1):
    """What was said in the last of so many fits, and whether the weights are as
    before."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        before = model.get_weights()
        for _ in range(fits):
            try:
                training.fit(model, X, LABELS, batch_size=16, verbose=0)
                said = ""
            except ValueError as error:
                said = str(error)
        after = model.get_weights()
    return said, all(np.array_equal(a, b) for a, b in zip(before, after, strict=False))


def main():
    mirrored, _ = strategies.strategy("mirrored:2")
    answers = {
        "refused": {name: train(make, mirrored) for name, make in REFUSED.items()},
        "refused again": train(REFUSED["loss"], mirrored, fits=2),
        "trained": {name: train(make, mirrored) for name, make in TRAINED.items()},
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
