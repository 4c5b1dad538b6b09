"""`training.fit` against `keras.Model.fit`: same batches, same weights, same
History."""

import gc
import os
import subprocess
import sys
import warnings
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deep_learning_recipes import training
from deep_learning_recipes.distribute.replicas import Replicas

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(45, 6)).astype("float32")
IMAGES = GENERATOR.normal(size=(45, 8, 8, 1)).astype("float32")
LABELS = GENERATOR.integers(0, 3, 45)
TARGETS = GENERATOR.normal(size=(45, 2)).astype("float32")
BATCH_SIZE = 16  # two whole batches and one of 13
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)


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


def assert_same_training(make, x, y, jit_compile=None, callbacks=list, **arguments):
    """Train two equal models, one with each fit; returns the History of ours."""
    arguments |= {"batch_size": BATCH_SIZE, "epochs": 3, "shuffle": False, "verbose": 0}
    reference, model = make(), make()
    if reference.built:
        model.set_weights(reference.get_weights())
    keras.utils.set_random_seed(1)
    expected = reference.fit(x, y, callbacks=callbacks(), **arguments)
    keras.utils.set_random_seed(1)
    history = training.fit(
        model, x, y, callbacks=callbacks(), jit_compile=jit_compile, **arguments
    )
    assert list(history.history) == list(expected.history)
    assert history.epoch == expected.epoch
    for name, values in expected.history.items():
        np.testing.assert_allclose(
            history.history[name], values, rtol=1e-4, err_msg=name
        )
    for weight, expected_weight in zip(model.weights, reference.weights, strict=True):
        np.testing.assert_allclose(
            weight, expected_weight, atol=1e-5, err_msg=weight.path
        )
    return history


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_dense_with_validation(jit_compile, optimizer):
    history = assert_same_training(
        lambda: dense(optimizer),
        X,
        LABELS,
        jit_compile,
        validation_data=(X[:20], LABELS[:20]),
    )
    assert list(history.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_convolution_and_batch_normalization(jit_compile):
    assert_same_training(convolutional, IMAGES, LABELS, jit_compile)


def test_recurrent():
    assert_same_training(recurrent, IMAGES[..., 0], LABELS)


def test_nested_inputs_several_outputs_and_learning_rate_schedule():
    assert_same_training(
        two_inputs_two_outputs,
        {"left": X, "right": -X},
        {"label": LABELS, "target": TARGETS},
        sample_weight=np.linspace(0, 2, 45),
    )


def test_sample_weights_also_in_validation():
    weights = np.linspace(0, 3, 45)
    assert_same_training(
        lambda: dense(weighted_metrics=["accuracy"]),
        X,
        LABELS,
        sample_weight=weights,
        validation_data=(X, LABELS, weights[::-1].copy()),
    )


def test_validation_on_a_dataset():
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(10)
    assert_same_training(dense, X, LABELS, validation_data=dataset)


def test_custom_train_step_of_an_unbuilt_model():
    def make():
        keras.utils.set_random_seed(0)
        model = Ridge()
        model.compile("adam")
        return model

    assert_same_training(make, X, TARGETS.astype("float64"))


def test_two_optimizers():
    def make():
        keras.utils.set_random_seed(0)
        model = Adversarial()
        model.compile()
        return model

    assert_same_training(make, X, TARGETS)


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


def test_moving_average_of_weights_ends_in_the_weights():
    assert_same_training(
        lambda: dense(keras.optimizers.SGD(0.5, use_ema=True)), X, LABELS
    )


def test_callbacks_of_epochs(tmp_path):
    def callbacks():
        return [
            keras.callbacks.LearningRateScheduler(
                lambda epoch, rate: 0.1 / (epoch + 1)
            ),
            keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=10.0),
            keras.callbacks.EarlyStopping(
                "loss", restore_best_weights=True, min_delta=10.0
            ),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "{epoch}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
        ]

    history = assert_same_training(dense, X, LABELS, callbacks=callbacks)
    assert history.epoch == [0, 1]  # stopped early
    assert (tmp_path / "2.weights.h5").exists()


def test_callback_for_batches_draws_a_warning():
    class Counter(keras.callbacks.Callback):
        batches = ()

        def on_train_batch_end(self, batch, logs=None):
            self.batches += (batch,)

    counter = Counter()
    with pytest.warns(UserWarning, match="Counter has a hook for batches"):
        training.fit(
            dense(), X, LABELS, batch_size=16, epochs=2, verbose=0, callbacks=[counter]
        )
    assert counter.batches == (2, 2)


def test_progress_bar_counts_steps(capsys):
    training.fit(dense(), X, LABELS, batch_size=BATCH_SIZE, epochs=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed
    assert "3/3" in printed


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


class Resume(keras.callbacks.Callback):
    def __init__(self, weights, optimizer_weights, history):
        super().__init__()
        self.saved = weights, optimizer_weights, history

    def restore(self, model):
        weights, optimizer_weights, history = self.saved
        model.set_weights(weights)
        for variable, value in zip(
            model.optimizer.variables, optimizer_weights, strict=True
        ):
            variable.assign(value)
        model.history.history = {name: list(values) for name, values in history.items()}
        return len(history["loss"])


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["own loop", "keras fit"])
def test_resumed_training_equals_uninterrupted(run_eagerly):
    def make():
        keras.utils.set_random_seed(0)
        return dense(run_eagerly=run_eagerly)

    def train(model, epochs, *callbacks):
        return training.fit(
            model,
            X,
            LABELS,
            epochs=epochs,
            seed=7,
            verbose=0,
            callbacks=list(callbacks),
        )

    whole, half = make(), make()
    expected = train(whole, 4)
    history = train(half, 2)
    saved = Resume(
        half.get_weights(),
        [variable.numpy() for variable in half.optimizer.variables],
        history.history,
    )
    resumed = make()
    history = train(resumed, 4, saved)
    assert history.epoch == [2, 3]
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-5)
    for weight, expected_weight in zip(
        resumed.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weight, expected_weight, atol=1e-6)

    done = make()
    history = train(done, 2, saved)  # nothing left to do
    assert history.history == saved.saved[2]
    np.testing.assert_array_equal(done.get_weights()[0], half.get_weights()[0])


def test_backup_and_restore_resumes(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return training.fit(
            model,
            X,
            LABELS,
            epochs=4,
            seed=7,
            verbose=0,
            callbacks=[backup, *callbacks],
        )

    interrupted, resumed = dense(), dense()
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, Stop())
    assert train(resumed).epoch == [2, 3]


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


def test_learning_rate_set_between_fits_counts():
    model = dense("sgd")
    training.fit(model, X, LABELS, verbose=0)
    model.optimizer.learning_rate = 0.0
    before = model.get_weights()
    training.fit(model, X, LABELS, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.tf, "function", spy)
        training._compile_epoch(
            model,
            Replicas(),
            "train_step",
            training._on_device(x, LABELS),
            1,
            epochs,
            None,
        )
    return chosen[-1]


def test_xla_where_it_pays():
    assert not has_xla(dense(), X, epochs=1)  # too short
    assert has_xla(dense(), X, epochs=1000)
    assert not has_xla(convolutional(), IMAGES, epochs=1000)
    assert not has_xla(recurrent(), IMAGES[..., 0], epochs=1000)


def test_goes_on_without_xla_where_it_lacks_an_operation(monkeypatch):
    class Text(layers.Layer):
        def call(self, inputs):
            lengths = tf.strings.length(tf.strings.as_string(inputs))
            return inputs + 0 * tf.cast(lengths, inputs.dtype)

    monkeypatch.setattr(training, "STEPS_THAT_REPAY_XLA", 1)

    def make():
        model = keras.Sequential([keras.Input((6,)), Text(), layers.Dense(3)])
        model.compile("sgd", CROSS_ENTROPY)
        return model

    with pytest.warns(UserWarning, match="XLA cannot"):
        assert_same_training(make, X, LABELS)


def test_dataset_goes_to_keras():
    reference, model = dense(), dense()
    model.set_weights(reference.get_weights())
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(BATCH_SIZE)
    expected = reference.fit(
        dataset, epochs=2, verbose=0, shuffle=False, validation_data=dataset
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = training.fit(
            model, dataset, epochs=2, verbose=0, validation_data=dataset
        )
    np.testing.assert_allclose(
        model.get_weights()[0], reference.get_weights()[0], atol=1e-6
    )
    np.testing.assert_allclose(
        history.history["val_loss"], expected.history["val_loss"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X, "y": LABELS[:-1]}, r"same number of examples.*\(45, 6\), \(44,\)"),
        ({"x": X, "y": LABELS, "sample_weight": 1.0}, "same number of examples"),
        ({"x": X[:0], "y": LABELS[:0]}, "no examples"),
        ({"x": X, "y": LABELS, "batch_size": 0}, "batch_size=0"),
        ({"x": X, "y": LABELS, "epochs": -1}, "epochs=-1"),
        ({"x": X, "sample_weight": X[:, 0]}, "without y"),
        (
            {"x": X, "y": LABELS, "validation_data": (X, LABELS[:3])},
            "same number of examples",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        training.fit(dense(), **arguments)


def test_model_that_is_not_compiled():
    with pytest.raises(ValueError, match=r"call model.compile\(\.\.\.\) before fit"):
        training.fit(keras.Sequential([layers.Dense(3)]), X, LABELS)


@pytest.mark.parametrize(
    ("drop_remainder", "sizes"), [(False, [16, 16, 13]), (True, [16, 16])]
)
def test_batches_handed_to_keras(drop_remainder, sizes):
    batches = training._batches(
        X, lambda epoch: tf.range(45), range(2), 16, drop_remainder
    )
    assert [len(batch) for batch in batches] == 2 * sizes


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
"""


def test_two_replicas_learn_the_same():
    assert run_python(REPLICAS).split() == ["True", "True"]


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
