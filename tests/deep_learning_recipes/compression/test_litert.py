"""LiteRT files against the models they were made of, and against the affine formula in
NumPy."""

import gzip
import itertools

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from deep_learning_recipes.compression import (
    MODES,
    LiteRTModel,
    SavedModel,
    benchmark,
    measure,
    quantize_aware,
    table,
    to_litert,
    to_tf_keras,
)
from deep_learning_recipes.compression import converter as converters

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(30, 8, 8, 1)).astype("float32")
EXTRA = RANDOM.normal(size=(30, 3)).astype("float32")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1), name="images")
    x = layers.Conv2D(6, 3, activation="relu")(images)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(4, name="logits")(x), name="small")


@pytest.fixture(scope="module")
def int8(classifier):
    return LiteRTModel(to_litert(classifier, "int8", IMAGES))


@pytest.fixture(scope="module")
def two_in_two_out():
    keras.utils.set_random_seed(0)
    images, extra = (
        keras.Input((8, 8, 1), name="images"),
        keras.Input((3,), name="extra"),
    )
    x = layers.Concatenate()([layers.Flatten()(images), extra])
    x = layers.Dense(8, activation="relu")(x)
    outputs = {"logits": layers.Dense(5)(x), "angle": layers.Dense(2)(x)}
    return keras.Model([images, extra], outputs)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_computes_the_model(classifier, mode):
    expected = np.asarray(classifier(IMAGES))
    model = LiteRTModel(to_litert(classifier, mode, IMAGES))
    # Of 2⁸ steps over the range of the outputs, a few; of 2¹⁶ with 8-bit weights,
    # fewer.
    bounds = {
        "float32": 1e-6,
        "float16": 1e-3,
        "dynamic": 0.02,
        "int8": 0.03,
        "int16x8": 0.02,
    }
    error = np.abs(model.predict(IMAGES) - expected).max() / np.ptp(expected)
    assert error < bounds[mode]
    # And the mode does something: only float32 is exact.
    assert (error > 1e-6) == (mode != "float32")


def test_smaller_with_fewer_bits(classifier):
    wide = keras.Sequential([keras.Input((64,)), layers.Dense(512), layers.Dense(64)])
    x = RANDOM.normal(size=(50, 64)).astype("float32")
    sizes = {mode: len(to_litert(wide, mode, x)) for mode in MODES}
    assert 1.9 < sizes["float32"] / sizes["float16"] < 2.05
    for mode in ("dynamic", "int8", "int16x8"):
        # Each of the 576 output channels has a scale (4 bytes) and a zero point (8).
        assert 3.3 < sizes["float32"] / sizes[mode] < 4


@pytest.mark.parametrize(("mode", "dtype"), [("int8", "int8"), ("int16x8", "int16")])
def test_integers_in_and_out(classifier, mode, dtype):
    model = LiteRTModel(to_litert(classifier, mode, IMAGES))
    (source,), (output,) = model.inputs.values(), model.outputs.values()
    assert source.dtype == output.dtype == dtype
    assert source.shape == (None, 8, 8, 1)
    raw = model.invoke({"images": source.quantize(IMAGES)})
    assert {value.dtype for value in raw.values()} == {np.dtype(dtype)}


def test_the_input_keeps_within_half_a_step(int8):
    tensor = int8.inputs["images"]
    again = tensor.dequantize(tensor.quantize(IMAGES))
    assert np.abs(again - IMAGES).max() <= tensor.scale / 2 * 1.01
    # What lies outside the calibrated range stops at the last integer.
    assert tensor.quantize(np.array([1e9, -1e9])).tolist() == [127, -128]


def test_a_dense_layer_by_the_affine_formula():
    """The interpreter's integers, from its scales and zero points alone: q = round(x/s)
    + z in, int32 sums of products, one real multiplier out (Jacob et al., 2018,
    equation 7)."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((20,), name="x"), layers.Dense(7)])
    model.layers[0].bias.assign(RANDOM.normal(size=7))
    x = RANDOM.normal(size=(200, 20)).astype("float32")
    content = to_litert(model, "int8", x)

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()
    (kernel,) = [
        d for d in details if d["dtype"] == np.int8 and tuple(d["shape"]) == (7, 20)
    ]
    (bias,) = [
        d for d in details if d["dtype"] == np.int32 and tuple(d["shape"]) == (7,)
    ]
    weights = interpreter.get_tensor(kernel["index"]).astype(np.int64)
    scales = kernel["quantization_parameters"]["scales"].astype(np.float64)
    assert not kernel["quantization_parameters"]["zero_points"].any()
    # The file's weights are what rounding gives.
    real = np.asarray(model.layers[0].kernel, np.float64).T
    ratio = np.broadcast_to(scales.reshape(-1, 1), real.shape)
    np.testing.assert_array_equal(weights, np.round(real / ratio))

    runner = LiteRTModel(content)
    (source,), (output,) = runner.inputs.values(), runner.outputs.values()
    q = np.clip(np.round(x / source.scale) + source.zero_point, -128, 127).astype(
        np.int64
    )
    sums = (q - source.zero_point) @ weights.T + interpreter.get_tensor(bias["index"])
    expected = np.round(sums * source.scale * scales / output.scale) + output.zero_point
    expected = np.clip(expected, -128, 127)
    (found,) = runner.invoke({"x": q.astype("int8")}).values()
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found == expected) > 0.98
    np.testing.assert_allclose(
        runner.predict(x), output.scale * (found - float(output.zero_point)), rtol=1e-6
    )


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_any_batch_size_gives_the_same(classifier, mode):
    model = LiteRTModel(to_litert(classifier, mode, IMAGES), num_threads=2)
    whole = model.predict(IMAGES)
    for count in (1, 3, 30):
        np.testing.assert_allclose(
            model.predict(IMAGES[:count]), whole[:count], atol=1e-6
        )
    invoke, batches = model.invoke, []
    model.invoke = lambda inputs: (
        batches.append(len(inputs["images"])) or invoke(inputs)
    )
    np.testing.assert_allclose(model.predict(IMAGES, batch_size=7), whole, atol=1e-6)
    assert batches == [7, 7, 7, 7, 2]


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_inputs_and_outputs_go_by_name(two_in_two_out, mode):
    data = {"images": IMAGES, "extra": EXTRA}
    model = LiteRTModel(to_litert(two_in_two_out, mode, data))
    assert set(model.inputs) == set(data)
    found = model.predict(data)
    expected = two_in_two_out([IMAGES, EXTRA])
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, atol=1e-5 if mode == "float32" else 0.1
        )
    with pytest.raises(ValueError, match=r"as a dict: .*'extra' \(None, 3\)"):
        model.predict(IMAGES)
    with pytest.raises(
        ValueError, match="'extra' 29, 'images' 30|'images' 30, 'extra' 29"
    ):
        model.predict({"images": IMAGES, "extra": EXTRA[1:]})
    with pytest.raises(
        ValueError, match="representative_data as a dict of images, extra"
    ):
        to_litert(two_in_two_out, "int8", IMAGES)


def test_several_outputs_in_a_list_get_the_layers_names():
    x = keras.Input((3,), name="x")
    model = keras.Model(
        x, [layers.Dense(2, name="left")(x), layers.Dense(4, name="right")(x)]
    )
    found = LiteRTModel(to_litert(model)).predict(EXTRA)
    assert {name: value.shape for name, value in found.items()} == {
        "left": (30, 2),
        "right": (30, 4),
    }


def test_integer_inputs_stay_integers():
    tokens = keras.Input((4,), dtype="int32", name="tokens")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 6)(tokens))
    model = keras.Model(tokens, layers.Dense(3)(x))
    data = RANDOM.integers(0, 10, (20, 4))
    for mode in ("float32", "int8"):
        runner = LiteRTModel(to_litert(model, mode, data))
        assert runner.inputs["tokens"].dtype == np.int32
        np.testing.assert_allclose(runner.predict(data), model(data), atol=0.01)
    with pytest.raises(ValueError, match="'tokens' is float64: the model takes int32"):
        runner.predict(data / 2)
    with pytest.raises(ValueError, match="int16x8.*'tokens' holds int32.*int8"):
        to_litert(model, "int16x8", data)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            IMAGES[..., 0],
            r"'images' has shape \(30, 8, 8\): the model takes \(None, 8, 8, 1\)",
        ),
        (IMAGES[:, :7], r"shape \(30, 7, 8, 1\)"),
        (IMAGES[:0], "no example"),
        (IMAGES.astype(str), "is <U.*: the model takes real numbers"),
        (IMAGES + 1j, "is complex64"),
        (IMAGES * np.nan, "NaN"),
        ({"pictures": IMAGES}, r"inputs 'pictures': the model takes 'images'"),
    ],
)
def test_wrong_input_gets_one_clear_line(int8, x, message):
    with pytest.raises(ValueError, match=message) as error:
        int8.predict(x)
    assert "\n" not in str(error.value)


def test_wrong_requests_get_one_clear_line(classifier, int8, tmp_path):
    for make, message in [
        (
            lambda: to_litert(classifier, "int4"),
            "'int4': choose one of float32, .*, int16x8",
        ),
        (lambda: to_litert(classifier, "int8"), "needs representative_data"),
        (
            lambda: to_litert(classifier, "int8", IMAGES[:, 1:]),
            r"representative images.*7, 8, 1",
        ),
        (
            lambda: to_litert(classifier, "int8", {"x": IMAGES}),
            "for 'x': the model takes 'images'",
        ),
        (lambda: LiteRTModel(b"PK\3\4 no model"), "not a LiteRT"),
        (lambda: LiteRTModel(int8.content[: int8.size // 2]), "damaged"),
        (lambda: LiteRTModel(int8.content, num_threads=0), "num_threads=0"),
        (lambda: benchmark({}, IMAGES, IMAGES, repeats=0), "repeats=0"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        LiteRTModel(tmp_path / "none.tflite")


def test_an_operation_that_litert_lacks_is_refused_in_one_line():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.ops.erfinv(keras.ops.tanh(x)), name="odd")
    with pytest.raises(ValueError, match="'odd' does not convert to int8") as error:
        to_litert(model, "int8", RANDOM.normal(size=(5, 4)))
    assert "\n" not in str(error.value)


def test_reads_a_file(classifier, tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(to_litert(classifier))
    np.testing.assert_allclose(
        LiteRTModel(path).predict(IMAGES), classifier(IMAGES), atol=1e-5
    )


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_what_keras_quantised_serves_as_a_saved_model_and_is_refused_here(
    mode, tmp_path
):
    """LiteRT converts Keras's int4 but then computes something else: hence the
    refusal."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), layers.Dense(16), layers.Dense(4)])
    x = RANDOM.normal(size=(30, 20)).astype("float32")
    exact = np.asarray(model(x))
    model.quantize(mode)
    with pytest.raises(
        ValueError, match=f"quantized to {mode} by keras.Model.quantize"
    ):
        to_litert(model)
    model.export(tmp_path / "model", format="tf_saved_model", verbose=False)
    saved = SavedModel(tmp_path / "model")
    np.testing.assert_allclose(saved.predict(x), model(x), atol=1e-6)
    assert np.abs(saved.predict(x) - exact).max() < (0.05 if mode == "int8" else 0.5)
    assert 0 < saved.gzip_size < saved.size


def test_the_benchmark_measures_what_it_says(classifier, int8, tmp_path, monkeypatch):
    scores = np.asarray(classifier(IMAGES))
    y = scores.argmax(axis=1)
    y[:6] = (y[:6] + 1) % 4
    classifier.export(tmp_path / "model", format="tf_saved_model", verbose=False)
    # A clock that counts its readings: every call takes one tick.
    monkeypatch.setattr(measure, "time", _Clock())
    rows = benchmark(
        {"float32": to_litert(classifier), "saved": SavedModel(tmp_path / "model")},
        IMAGES,
        y,
        repeats=5,
    )
    file, saved = rows
    assert file.size == len(to_litert(classifier))
    assert file.gzip_size == len(gzip.compress(to_litert(classifier), mtime=0))
    assert file.accuracy == saved.accuracy == pytest.approx(24 / 30)
    assert (
        file.milliseconds == file.milliseconds_two_threads == saved.milliseconds == 1000
    )
    assert saved.milliseconds_two_threads is None
    on_disk = sum(
        p.stat().st_size for p in (tmp_path / "model").rglob("*") if p.is_file()
    )
    assert saved.size == on_disk
    header, *lines = table(rows).splitlines()
    assert "gzip" in header
    assert [line.split()[0] for line in lines] == ["float32", "saved"]
    assert f"{file.size:,}" in lines[0]
    assert "0.8000" in lines[0]


class _Clock:
    def __init__(self):
        self.ticks = itertools.count()

    def perf_counter(self):
        return next(self.ticks)


def test_a_benchmark_of_no_classifier_is_refused(two_in_two_out):
    model = LiteRTModel(to_litert(two_in_two_out))
    monster = {"images": IMAGES, "extra": EXTRA}
    with pytest.raises(ValueError, match="pair: a classifier gives one"):
        benchmark({"pair": model}, monster, np.zeros(30))


def test_converting_writes_nothing_to_the_screen(classifier, capfd):
    LiteRTModel(to_litert(classifier, "int8", IMAGES)).predict(IMAGES)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_quantisation_aware_model_converts_by_the_ranges_it_learned():
    """No representative data; the file answers as the trained model with its fake
    quantization."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1), name="images")
    x = layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(images))
    model = keras.Model(images, layers.Dense(4, name="logits")(x))
    y = IMAGES.mean(axis=(1, 2, 3)).argsort() % 4
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    aware = quantize_aware(model, IMAGES, y, epochs=3, verbose=0).tf_keras_model
    content = to_litert(aware, "int8")
    runner = LiteRTModel(content)
    (source,), (output,) = runner.inputs.values(), runner.outputs.values()
    assert source.dtype == output.dtype == np.int8
    steps = np.abs(runner.predict(IMAGES) - np.asarray(aware(IMAGES))) / output.scale
    assert steps.max() < 2.01
    assert set(runner.inputs) == {"images"}


SERIES = RANDOM.normal(size=(20, 6, 3)).astype("float32")


def recurrent(*stack, length=6, batch_size=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((length, 3), batch_size=batch_size, name="series")
    return keras.Sequential([inputs, *stack, layers.Dense(2, name="y")])


def nested_with_states():
    inputs = keras.Input((6, 3), name="series")
    inner = recurrent(layers.GRU(4, return_sequences=True))
    whole, _, carry = layers.LSTM(5, return_sequences=True, return_state=True)(inputs)
    x = layers.Concatenate()([inner(inputs), whole])
    return keras.Model(inputs, layers.LSTM(5)(x, initial_state=[carry, carry]))


def of_cells():
    inputs = keras.Input((6, 3), name="series")
    cells = [layers.LSTMCell(4), layers.GRUCell(3)]
    return keras.Model(inputs, layers.RNN(cells)(inputs))


RECURRENT = {
    "LSTM": lambda: recurrent(layers.LSTM(4)),
    "GRU": lambda: recurrent(layers.GRU(4, go_backwards=True), layers.Dense(3)),
    "SimpleRNN": lambda: recurrent(layers.SimpleRNN(4)),
    "Bidirectional": lambda: recurrent(layers.Bidirectional(layers.GRU(3), "sum")),
    "nested, with states": nested_with_states,
    "cells": of_cells,
    "batches of 1": lambda: recurrent(layers.LSTM(4), batch_size=1),
    "batches of 4": lambda: recurrent(layers.LSTM(4), batch_size=4),
}


def compare(model, mode, x=SERIES):
    """The file's largest error as a share of the outputs' range, and the file."""
    size = model.inputs[0].shape[0] or len(x)
    parts = [model(x[start : start + size]) for start in range(0, len(x), size)]
    expected = np.concatenate(parts)
    file = LiteRTModel(to_litert(model, mode, x))
    return np.abs(file.predict(x) - expected).max() / np.ptp(expected), file


@pytest.mark.parametrize("mode", ["float32", "int8"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_convert_unrolled(name, mode):
    keras.utils.set_random_seed(0)
    model = RECURRENT[name]()
    error, file = compare(model, mode)
    assert error < (1e-6 if mode == "float32" else 0.05)
    assert file.inputs["series"].shape == model.inputs[0].shape
    # The model is as it was.
    assert not any(getattr(layer, "unroll", False) for layer in model.layers)


@pytest.mark.parametrize(
    ("mode", "bound"), [("float16", 1e-3), ("dynamic", 0.03), ("int16x8", 0.02)]
)
def test_recurrent_layers_convert_in_the_other_modes(mode, bound):
    model = recurrent(layers.Bidirectional(layers.LSTM(8, return_sequences=True)))
    assert compare(model, mode)[0] < bound


@pytest.mark.parametrize("length", [None, 300])
def test_sequences_of_any_length_or_long_ones_go_one_at_a_time(length):
    model = recurrent(layers.Bidirectional(layers.GRU(4)), length=length)
    error, file = compare(model, "float32", np.resize(SERIES, (5, 300, 3)))
    assert error < 1e-5
    assert file.inputs["series"].shape == (1, length, 3)
    assert file.size < 30_000
    if length is None:
        np.testing.assert_allclose(file.predict(SERIES), model(SERIES), atol=1e-5)


def test_a_converter_that_dies_takes_nobody_along(monkeypatch):
    model = recurrent(layers.LSTM(4), length=None)
    dies = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(converters, "CHILD", dies)
    words = r"int8: it holds a loop.*keras.Input\(\(n, ...\)\).*float16.*exit code -11"
    with pytest.raises(ValueError, match=words) as error:
        to_litert(model, "int8", SERIES)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_loops_of_integers_convert_in_a_process_of_their_own():
    """A loop of another kind, which the converter takes; and those that kill it."""
    x = keras.Input((4,), name="x")
    h = keras.ops.fori_loop(0, 3, lambda _, h: 1.1 * h, x)
    model = keras.Model(x, layers.Dense(2)(h))
    assert compare(model, "int8", SERIES[:, 0, [0, 1, 2, 0]])[0] < 0.03
    for size, why in [(None, "the converter refuses it"), (1, "exit code -11")]:
        with pytest.raises(ValueError, match=f"it holds a loop.*{why}"):
            free = recurrent(layers.LSTM(4), length=None, batch_size=size)
            to_litert(free, "int8", SERIES)


def test_recurrent_layers_that_would_keep_their_state_are_refused():
    model = recurrent(layers.LSTM(4, stateful=True, name="memory"), batch_size=1)
    with pytest.raises(ValueError, match="'memory' is stateful.*return_state"):
        to_litert(model)
    model = recurrent(layers.Bidirectional(layers.LSTM(4), name="both"), batch_size=1)
    with pytest.raises(ValueError, match="'forward_.*lstm.*tf_keras.*Keras 3 model"):
        to_litert(to_tf_keras(model))


@pytest.mark.parametrize("mode", ["int8", "int16x8"])
def test_a_fixed_batch_takes_its_ranges_from_batches(mode):
    """Of 30 examples the last two fill no batch, and count all the same."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1), batch_size=4, name="images")
    x = layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(images))
    model = keras.Model(images, layers.Dense(4)(x))
    data = IMAGES.copy()
    data[-1] *= 10
    file = LiteRTModel(to_litert(model, mode, data))
    assert file.inputs["images"].shape == (4, 8, 8, 1)
    found = file.predict(data[-4:])
    assert np.abs(found - model(data[-4:])).max() < 0.03 * np.ptp(model(data[-4:]))


def in_precision(policy):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1), name="images")
    x = layers.Rescaling(2.0, dtype=policy)(images)
    x = layers.Conv2D(6, 3, activation="relu", dtype=policy)(x)
    x = layers.SeparableConv2D(4, 3, dtype=policy)(x)
    x = layers.BatchNormalization(dtype=policy)(keras.ops.relu(x) + 0.5)
    inner = keras.Sequential([keras.Input((64,)), layers.Dense(8, dtype=policy)])
    x = inner(layers.Flatten(dtype=policy)(x))
    return keras.Model(images, layers.Dense(4, dtype=policy)(x))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_models_of_half_precision_convert_as_they_compute_in_32_bits(policy):
    model, exact = in_precision(policy), in_precision("float32")
    exact.set_weights([np.asarray(weight, "float32") for weight in model.weights])
    found = LiteRTModel(to_litert(model)).predict(IMAGES)
    np.testing.assert_allclose(found, exact(IMAGES), atol=1e-5)
    assert LiteRTModel(to_litert(model, "int8", IMAGES)).size < 20_000
    assert {each.dtype_policy.name for each in model.layers[1:3]} == {policy}
    assert model(IMAGES).dtype == policy.removeprefix("mixed_")
