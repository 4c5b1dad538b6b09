"""Pruning, shared weights and quantization-aware training: Keras 3 in, Keras 3 out."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from deep_learning_recipes import compression, data

TRAINING = {"epochs": 3, "batch_size": 64, "verbose": 0}


@pytest.fixture(scope="module")
def digits():
    (x_train, y_train), (x_test, y_test) = data.load("digits")
    return x_train, y_train, x_test, y_test


@pytest.fixture(scope="module")
def trained(digits):
    """A small convnet with a nested model, a bare operation and BatchNormalization."""
    keras.utils.set_random_seed(0)
    x, y, *_ = digits
    block = keras.Sequential(
        [keras.Input((8, 8, 16)), layers.Conv2D(16, 3, padding="same", name="inner")],
        name="block",
    )
    images = keras.Input((8, 8, 1))
    h = layers.Conv2D(16, 3, padding="same", name="first")(images)
    h = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="normalize")(h))
    h = layers.MaxPooling2D(2)(ops.relu(block(h) + h))
    h = layers.Dense(32, "relu", name="dense")(layers.Flatten()(h))
    model = keras.Model(images, layers.Dense(10, name="logits")(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=10, verbose=0)
    return model


@pytest.fixture(scope="module")
def half(trained, digits):
    """Pruned to a sparsity of a half."""
    return compression.prune(trained, *digits[:2], sparsity=0.5, **TRAINING)


@pytest.fixture(scope="module")
def shared(trained, digits):
    """Sixteen values in each kernel."""
    return compression.cluster(trained, *digits[:2], clusters=16, **TRAINING)


@pytest.fixture(autouse=True)
def untouched(trained):
    """No function changes its source."""
    weights, config = trained.get_weights(), trained.get_config()
    yield
    assert all(
        np.array_equal(a, b)
        for a, b in zip(weights, trained.get_weights(), strict=True)
    )
    assert trained.get_config() == config


def kernels(model):
    nested = model.get_layer("block").get_layer("inner")
    named = {name: model.get_layer(name) for name in ("first", "dense", "logits")}
    return {
        name: np.asarray(each.kernel)
        for name, each in (named | {"inner": nested}).items()
    }


def accuracy(model, digits):
    *_, x, y = digits
    return float(np.mean(np.asarray(model(x)).argmax(axis=1) == y))


def test_prune_reaches_its_sparsity_and_the_model_still_reads(trained, digits):
    x, y, x_test, y_test = digits
    keras.utils.set_random_seed(0)
    sparsity = {"dense": 0.75, "block/inner": 0.5}
    result = compression.prune(
        trained, x, y, sparsity=sparsity, validation_data=(x_test, y_test), **TRAINING
    )
    found = {
        name: np.mean(kernel == 0) for name, kernel in kernels(result.model).items()
    }
    assert found == pytest.approx(
        {"first": 0, "dense": 0.75, "inner": 0.5, "logits": 0}, abs=1e-3
    )
    assert accuracy(result.model, digits) > accuracy(trained, digits) - 0.03

    # What stays is among the larger weights: pruning goes by magnitude.
    before, after = kernels(trained)["dense"], kernels(result.model)["dense"]
    assert np.abs(before[after != 0]).mean() > 2 * np.abs(before[after == 0]).mean()

    report = result.report
    by_name = {each.name: each for each in report.weights}
    assert by_name["dense/kernel"].sparsity == pytest.approx((0, 0.75), abs=1e-3)
    assert by_name["dense/kernel"].distinct[1] <= 0.25 * before.size + 2
    assert report.bytes == 4 * trained.count_params()
    assert report.gzip_bytes[1] < 0.7 * report.gzip_bytes[0]
    assert report.metrics["accuracy"] == pytest.approx(
        (accuracy(trained, digits), accuracy(result.model, digits)), abs=1e-6
    )
    assert "75.0 %" in str(report) and "block/inner/kernel" in str(report)
    # The result is a compiled Keras 3 model, which trains on.
    assert isinstance(result.model, keras.Model)
    result.model.fit(x[:64], y[:64], verbose=0)


def test_prune_all_layers(trained, digits, half):
    at_once = compression.prune(
        trained, *digits[:2], sparsity=0.5, schedule="constant", layers=None, **TRAINING
    )
    for result in (half, at_once):
        for kernel in kernels(result.model).values():
            assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.005)
        assert result.report.sparsity == pytest.approx(0.5, abs=0.005)


def test_prune_goes_on_from_what_is_pruned_already(digits, half):
    more = compression.prune(half.model, *digits[:2], sparsity=0.8, **TRAINING).model
    for name, kernel in kernels(more).items():
        assert np.mean(kernel == 0) == pytest.approx(0.8, abs=0.005)
        # Zeros of before are zeros after, but for few that grow again within a step.
        assert np.mean(kernel[kernels(half.model)[name] == 0] == 0) > 0.97


def test_prune_n_of_m_along_the_input_channels(trained, digits):
    result = compression.prune(trained, *digits[:2], pattern=(2, 4), **TRAINING)
    found = kernels(result.model)
    for name in ("inner", "dense", "logits"):
        rows = np.moveaxis(found[name], -2, -1).reshape(-1, 4)
        assert np.all(np.count_nonzero(rows, axis=1) <= 2)
        assert np.mean(rows == 0) == pytest.approx(0.5, abs=0.01)
    assert np.all(found["first"] != 0)  # one input channel has no four to choose from


def test_cluster_shares_values(trained, digits, shared):
    for kernel in kernels(shared.model).values():
        assert len(np.unique(kernel)) <= 16
    assert accuracy(shared.model, digits) > accuracy(trained, digits) - 0.03


def test_cluster_keeps_zeros_and_what_has_fewer_weights(trained, digits):
    sparsity = {"first": 0.95, "dense": 0.5}
    pruned = compression.prune(trained, *digits[:2], sparsity=sparsity, **TRAINING)
    both = compression.cluster(
        pruned.model,
        *digits[:2],
        clusters=16,
        preserve_sparsity=True,
        layers=["first", "dense"],
        **TRAINING,
    )
    before, after = kernels(pruned.model), kernels(both.model)
    np.testing.assert_array_equal(after["dense"][before["dense"] == 0], 0)
    assert len(np.unique(after["dense"])) <= 16
    assert len(np.unique(after["logits"])) > 16  # was not named
    np.testing.assert_array_equal(after["first"], before["first"])


@pytest.mark.parametrize("clusters", [15, 16, 17])
def test_cluster_leaves_kernels_of_no_more_weights_than_values(clusters, digits):
    x, y, *_ = digits
    images = keras.Input(x.shape[1:])
    hidden = layers.Conv2D(4, 1, name="first")(images)  # 4 weights
    hidden = layers.Conv2D(4, 1, name="second")(hidden)  # 16 weights
    hidden = layers.GlobalAveragePooling2D()(hidden)
    model = keras.Model(images, layers.Dense(10, name="logits")(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    found = compression.cluster(model, x, y, clusters=clusters, **TRAINING).model
    values = {
        name: len(np.unique(found.get_layer(name).kernel))
        for name in ("first", "second", "logits")
    }
    assert values["first"] == 4
    assert values["second"] == min(16, clusters)
    assert values["logits"] <= clusters


@pytest.mark.parametrize(
    ("is_sparse", "is_shared"),
    [(False, False), (True, False), (False, True), (True, True)],
)
def test_quantize_aware_and_what_it_preserves(
    trained, digits, half, shared, is_sparse, is_shared
):
    x, y, x_test, y_test = digits
    if is_sparse and is_shared:
        model = compression.cluster(
            half.model, x, y, clusters=16, preserve_sparsity=True, **TRAINING
        ).model
    elif is_sparse:
        model = half.model
    else:
        model = shared.model if is_shared else trained
    result = compression.quantize_aware(
        model,
        x,
        y,
        preserve_sparsity=is_sparse,
        preserve_clusters=is_shared,
        validation_data=(x_test, y_test),
        **TRAINING,
    )
    before, after = kernels(model), kernels(result.model)
    for name in ("inner", "dense", "logits"):
        if is_sparse:
            np.testing.assert_array_equal(after[name][before[name] == 0], 0)
        if is_shared:
            assert len(np.unique(after[name])) <= 16
        assert np.any(after[name] != before[name])
    assert accuracy(result.model, digits) > accuracy(trained, digits) - 0.04

    converter = tf.lite.TFLiteConverter.from_keras_model(result.tf_keras_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content = converter.convert()
    assert len(content) < 4 * trained.count_params() / 2
    quantized = run_int8(content, x_test)
    assert np.mean(quantized.argmax(axis=1) == y_test) == pytest.approx(
        result.report.metrics["accuracy"][1], abs=0.01
    )


def run_int8(content, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    (given,), (found,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert given["dtype"] == found["dtype"] == np.int8
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    scale, zero = given["quantization"]
    values = np.clip(np.round(x / scale + zero), -128, 127).astype("int8")
    interpreter.set_tensor(given["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(found["index"])


def test_quantize_aware_brings_separable_convolutions_home(digits):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    h = layers.Conv2D(8, 3, activation="relu")(images)
    h = layers.SeparableConv2D(8, 3, activation="relu", name="separable")(h)
    h = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(h)
    model = keras.Model(images, layers.Dense(10)(layers.Flatten()(h)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = compression.quantize_aware(
        model, *digits[:2], loss=loss, epochs=10, learning_rate=0.01, verbose=0
    )
    for one, other in zip(model.get_weights(), result.model.get_weights(), strict=True):
        assert np.all(one.shape == other.shape) and np.any(one != other)
    logits = [
        np.asarray(each(digits[2])) for each in (result.model, result.tf_keras_model)
    ]
    # They differ by rounding to 8 bits, not by other weights.
    assert np.mean(logits[0].argmax(axis=1) == logits[1].argmax(axis=1)) > 0.95
    assert np.abs(logits[0] - logits[1]).mean() < 0.3 * np.abs(logits[0]).mean()
    assert "loss" in result.report.metrics


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (layers.LSTM(4, name="recurrent"), ["'recurrent'", "LSTM", "after training"]),
        (layers.Rescaling(2.0, name="scale"), ["'scale'", "Rescaling", "fold"]),
        (layers.BatchNormalization(name="alone"), ["'alone'", "Conv2D", "fold"]),
    ],
)
def test_quantize_aware_names_what_it_cannot_quantize(layer, words):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
    with pytest.raises(ValueError) as error:
        compression.quantize_aware(model, np.zeros((8, 4, 3)), np.zeros(8), loss="mse")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_bad_arguments_get_one_clear_line(trained, digits):
    x, y = digits[:2]
    calls = {
        "no layer 'dens'.*dense": lambda: compression.prune(
            trained, x, y, layers=["dens"]
        ),
        r"'normalize' \(BatchNormalization\): can prune only": lambda: (
            compression.prune(trained, x, y, layers=["normalize"])
        ),
        "sparsity=1.0": lambda: compression.prune(trained, x, y, sparsity=1.0),
        "schedule='slow'": lambda: compression.prune(trained, x, y, schedule="slow"),
        r"pattern=\(4, 2\)": lambda: compression.prune(trained, x, y, pattern=(4, 2)),
        "clusters=1": lambda: compression.cluster(trained, x, y, clusters=1),
        "epochs=0": lambda: compression.prune(trained, x, y, epochs=0),
        "no examples": lambda: compression.prune(trained, x[:0], y[:0]),
        "tf_keras.optimizers.Adam": lambda: compression.prune(
            trained, x, y, optimizer=keras.optimizers.Adam()
        ),
        "not compiled": lambda: compression.prune(
            keras.Sequential([keras.Input((4,)), layers.Dense(2)]), x, y
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_prune_the_beginning_of_an_application_and_strip_it():
    keras.utils.clear_session(free_memory=False)
    model = keras.applications.MobileNet(
        weights=None,
        include_top=False,
        input_shape=(32, 32, 3),
        pooling="avg",
        alpha=0.25,
    )
    begin = model.get_layer("conv_pw_4_relu").output
    model = keras.Model(model.input, layers.GlobalAveragePooling2D()(begin))
    x = np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype("float32")
    y = np.zeros((8, 64), "float32")
    result = compression.prune(
        model, x, y, sparsity=0.5, epochs=2, loss="mse", verbose=0
    )
    for layer in result.model.layers:
        if type(layer).__name__ == "Conv2D":
            assert np.mean(np.asarray(layer.kernel) == 0) == pytest.approx(
                0.5, abs=0.01
            )
    np.testing.assert_allclose(result.model(x), result.tf_keras_model(x), atol=1e-5)


def test_the_environment_stays_as_it_was(trained, digits):
    assert os.environ.get("TF_USE_LEGACY_KERAS") is None
    assert tf.keras.version().startswith("3.")
    program = "import sys, deep_learning_recipes; print('tensorflow' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert finished.stdout.strip() == "False"
