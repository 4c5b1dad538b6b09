"""An epoch in one call: traced once, kept with the model, compiled with XLA where that
pays."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import (
    BATCH_SIZE,
    CROSS_ENTROPY,
    IMAGES,
    LABELS,
    TARGETS,
    Ridge,
    X,
    assert_same_training,
    convolutional,
    dense,
    recurrent,
)

from deep_learning_recipes import training
from deep_learning_recipes.distribute.replicas import Replicas
from deep_learning_recipes.training import epoch, prepare, xla

pytestmark = pytest.mark.usefixtures("seeded")


def test_second_fit_traces_nothing_and_compiling_anew_does():
    traces = []

    class Traced(keras.Sequential):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    model = Traced([keras.Input((6,)), layers.Dense(3), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY, metrics=["accuracy"])
    for _ in range(2):
        training.fit(model, X, LABELS, batch_size=BATCH_SIZE, epochs=2, verbose=0)
    assert len(traces) == 1

    frozen, free = model.layers
    frozen.trainable = False
    model.compile("sgd", CROSS_ENTROPY, metrics=[])
    before = [layer.get_weights()[0] for layer in model.layers]
    history = training.fit(model, X, LABELS, batch_size=BATCH_SIZE, verbose=0)
    assert list(history.history) == ["loss"]
    np.testing.assert_array_equal(frozen.get_weights()[0], before[0])
    assert np.abs(free.get_weights()[0] - before[1]).max() > 0


def test_fit_after_one_that_failed():
    model = dense()
    with pytest.raises(ValueError, match="must have rank"):
        training.fit(model, X, np.zeros((45, 2, 2)), verbose=0)
    training.fit(model, X, LABELS, verbose=0)


def test_learning_rate_set_between_fits_counts():
    model = dense("sgd")
    training.fit(model, X, LABELS, verbose=0)
    model.optimizer.learning_rate = 0.0
    before = model.get_weights()
    training.fit(model, X, LABELS, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("make", [Ridge, dense])
def test_the_loss_scale_falls_until_gradients_are_finite(make):
    """From a first scale at which float32 overflows; a step that is traced once could
    not know."""
    model = make()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**127, dynamic_growth_steps=10_000
    )
    loss = CROSS_ENTROPY if make is dense else None
    model.compile(optimizer, loss)
    y = LABELS if make is dense else TARGETS
    training.fit(model, 100 * X, y, batch_size=1, verbose=0, seed=0)
    assert 0 < optimizer.iterations < 45
    assert np.all(np.isfinite(model.get_weights()[0]))


def test_dropout_differs_between_steps():
    model = keras.Sequential([keras.Input((500,)), layers.Dropout(0.5)])

    class Difference(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = model
            self.sums = keras.Variable(np.zeros(500))

        def train_step(self, ones):
            self.sums.assign_add(self.network(ones, training=True)[0] / 2)
            return {"zero": tf.constant(0.0)}

    recorder = Difference()
    recorder.compile()
    for jit_compile in (False, True):
        recorder.sums.assign(np.zeros(500))
        training.fit(
            recorder,
            np.ones((4, 500)),
            batch_size=1,
            verbose=0,
            jit_compile=jit_compile,
        )
        # In four different masks a unit is kept 0 to 4 times; in one repeated mask, 0
        # or 4.
        assert set(recorder.sums.numpy()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_model_is_freed_after_fit():
    model = dense()
    training.fit(model, X, LABELS, verbose=0)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_trained_model_can_be_exported(tmp_path):
    model = dense()
    training.fit(model, X, LABELS, verbose=0)
    model.export(tmp_path / "1", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(loaded.serve(X), model.predict_on_batch(X), atol=1e-6)


def has_xla(model, x, epochs):
    """Whether fit's own choice for the train step is XLA."""
    chosen = []
    original = tf.function

    def spy(*arguments, **options):
        chosen.append(options.get("jit_compile"))
        return original(*arguments, **options)

    settings = prepare.Training(
        model=model,
        replicas=Replicas(),
        data=prepare.on_device(x, LABELS),
        validation_data=None,
        batch_size=1,
        epochs=epochs,
        initial_epoch=0,
        shuffle=True,
        seed=0,
        jit_compile=None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", spy)
        epoch.compile_epoch(settings, Replicas(), "train_step", settings.data)
    return chosen[-1]


def test_xla_where_it_pays():
    assert not has_xla(dense(), X, epochs=1)  # too short
    assert has_xla(dense(), X, epochs=1000)
    assert not has_xla(convolutional(), IMAGES, epochs=1000)
    assert not has_xla(recurrent(), IMAGES[..., 0], epochs=1000)


def test_goes_on_without_xla_where_it_lacks_an_operation(monkeypatch):
    class Sums(layers.Layer):
        def call(self, inputs):
            first = tf.math.segment_sum(inputs, tf.zeros(tf.shape(inputs)[0], tf.int32))
            return inputs + 0 * first

    monkeypatch.setattr(xla, "STEPS_THAT_REPAY_XLA", 1)

    def make():
        model = keras.Sequential([keras.Input((6,)), Sums(), layers.Dense(3)])
        model.compile("sgd", CROSS_ENTROPY)
        return model

    with pytest.warns(UserWarning, match="XLA cannot"):
        assert_same_training(make, X, LABELS)
