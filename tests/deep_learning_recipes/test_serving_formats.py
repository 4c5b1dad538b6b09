"""ONNX and LiteRT files beside a SavedModel: the same answers, or no file."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes import UsageError, serving
from deep_learning_recipes.serving import formats, layout, saved_model

IMAGES = np.random.default_rng(0).random((3, 8, 8, 1), "float32")

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in formats.PACKAGES["onnx"]),
    reason="pip install '.[onnx]'",
)
each_format = pytest.mark.parametrize(
    "name", ["litert", pytest.param("onnx", marks=needs_onnx)]
)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Spares the seconds of the fresh process."""
    monkeypatch.setattr(saved_model, "check_in_a_fresh_process", lambda path: None)


def classifier(activation="relu"):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1), name="images")
    x = layers.Conv2D(4, 3, activation=activation)(images)
    x = layers.MaxPooling2D(2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    return serving.classifier(keras.Model(images, layers.Dense(5)(x), name="small"))


def two_inputs():
    keras.utils.set_random_seed(0)
    numbers = keras.Input((4,), name="numbers")
    ids = keras.Input((6,), dtype="int32", name="ids")
    read = layers.LSTM(5)(layers.Embedding(9, 3)(ids))
    both = layers.Concatenate()([read, layers.Dense(5)(numbers)])
    outputs = {"value": layers.Dense(1)(both), "features": both}
    return keras.Model({"numbers": numbers, "ids": ids}, outputs, name="two")


EXAMPLE_OF_TWO = {
    "numbers": np.ones((2, 4), "float32"),
    "ids": np.arange(12, dtype="int32").reshape(2, 6) % 9,
}


def answers_of(file, inputs):
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    return runner(**inputs)


@each_format
@pytest.mark.parametrize(
    ("build", "example"),
    [(classifier, {"images": IMAGES}), (two_inputs, EXAMPLE_OF_TWO)],
    ids=["classifier", "two_inputs"],
)
def test_the_file_answers_as_the_model_does(name, build, example):
    """By name, in batches of one, of the example's size and of five."""
    model = build()
    given = example if len(example) > 1 else example["images"]
    version = serving.export(model, Path("models/it"), given)
    file = serving.write_as(model, version, name, given)
    assert file == version / formats.FILES[name]
    for size in (1, 3, 5):
        inputs = {
            key: np.resize(value, (size, *value.shape[1:]))
            for key, value in example.items()
        }
        expected = model(inputs if len(inputs) > 1 else inputs["images"])
        answered = answers_of(file, inputs)
        assert set(answered) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(answered[key], value, atol=1e-5)


@each_format
def test_a_server_still_sees_one_version(name):
    model = classifier()
    folder = Path("models/it")
    version = serving.export(model, folder, IMAGES)
    before = {path.name for path in version.iterdir()}
    serving.write_as(model, version, name, IMAGES)
    assert list(layout.versions(folder)) == [1]
    after = {path.name for path in version.iterdir()}
    assert after - before == {formats.FILES[name]}
    assert {path.name for path in folder.iterdir()} == {"1", "request.json"}


@each_format
def test_other_answers_are_refused_and_leave_no_file(name, monkeypatch):
    def altered(*arguments):
        content, run = convert(*arguments)

        def run_and_shift(inputs):
            answers = run(inputs)
            return {**answers, "probabilities": answers["probabilities"] + 1e-3}

        return content, run_and_shift

    convert = getattr(formats, f"to_{name}")
    monkeypatch.setattr(formats, f"to_{name}", altered)
    model = classifier()
    version = serving.export(model, Path("models/it"), IMAGES)
    before = sorted(version.rglob("*"))
    with pytest.raises(
        UsageError, match=r"answers otherwise: probabilities differs by"
    ):
        serving.write_as(model, version, name, IMAGES)
    assert sorted(version.rglob("*")) == before


@needs_onnx
def test_what_onnx_cannot_express_is_named():
    """tf2onnx writes exact gelu's operation as if ONNX had it."""
    model = classifier("gelu")
    version = serving.export(model, Path("models/it"), IMAGES)
    with pytest.raises(UsageError) as raised:
        serving.write_as(model, version, "onnx", IMAGES)
    assert str(raised.value) == "model.onnx: ONNX has no operation Erfc"
    assert not (version / "model.onnx").exists()


def test_a_disk_that_fills_up_leaves_no_file(monkeypatch):
    model = classifier()
    version = serving.export(model, Path("models/it"), IMAGES)
    before = sorted(Path().rglob("*"))

    def write_half(path, content):
        path.open("wb").write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space"):
        serving.write_as(model, version, "litert", IMAGES)
    assert sorted(Path().rglob("*")) == before


def test_missing_packages_are_said_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as raised:
        formats.require_converters(["onnx"])
    assert str(raised.value) == (
        "--export-format onnx: onnx, onnxruntime, tf2onnx cannot be found; "
        "pip install onnx onnxruntime tf2onnx"
    )
