"""Exports: layout, versions, signatures; nothing half-written, nothing that differs."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from scipy.special import softmax
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from deep_learning_recipes import UsageError, serving
from deep_learning_recipes.serving import layout, saved_model

EXAMPLE = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


@pytest.fixture
def logits():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.layers.Dense(5)(x), name="small")


@pytest.fixture
def model(logits):
    return serving.classifier(logits)


@pytest.fixture
def unchecked(monkeypatch):
    """Spares the seconds of the fresh process where the test looks at something
    else."""
    monkeypatch.setattr(saved_model, "check_in_a_fresh_process", lambda path: None)


def test_versions_are_whole_numbers_from_one(model, unchecked):
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path(
        "models/small/1"
    )
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path(
        "models/small/2"
    )
    Path("models/small/7").mkdir()
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path(
        "models/small/8"
    )
    found = sorted(path.name for path in Path("models/small").iterdir())
    assert found == ["1", "2", "7", "8", "request.json"]


def test_a_classifier_gives_probabilities_and_classes(logits, model):
    path = serving.export(model, Path("models/small"), EXAMPLE)
    loaded = tf.saved_model.load(str(path))
    assert set(loaded.signatures) == {
        "serving_default"
    }  # not of images: no classify_bytes
    for count in (1, 3):  # the batch size is free
        x = np.resize(EXAMPLE, (count, 4))
        expected = np.asarray(logits(x))
        outputs = loaded.signatures["serving_default"](x=tf.constant(x))
        assert set(outputs) == {"probabilities", "classes"}
        np.testing.assert_allclose(
            outputs["probabilities"], softmax(expected, axis=1), atol=1e-6
        )
        np.testing.assert_array_equal(outputs["classes"], expected.argmax(axis=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_classifier_also_reads_encoded_files(channels, unchecked):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 12, channels), name="images")
    hidden = keras.layers.Flatten()(images)
    model = serving.classifier(
        keras.Model(images, keras.layers.Dense(3)(hidden), name="eyes")
    )
    example = np.random.default_rng(0).random((2, 8, 12, channels)).astype("float32")
    path = serving.export(model, Path("models/eyes"), example)
    classify = tf.saved_model.load(str(path)).signatures["classify_bytes"]

    # A smooth picture, so that JPEG and the two ways to resize differ little.
    ramp = (
        np.linspace(0, 255, 12)[None, :, None] * np.linspace(0.2, 1, 8)[:, None, None]
    )
    picture = np.repeat(ramp, channels, axis=2).round().astype("uint8")
    pillow = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    larger = pillow.resize((36, 24), Image.Resampling.BILINEAR)
    files = [
        encoded(pillow, "PNG"),
        encoded(pillow.convert("RGB" if channels == 1 else "L"), "PNG"),
        encoded(pillow, "JPEG", quality=95),
        encoded(larger, "PNG"),
    ]
    got = classify(image_bytes=tf.constant(files))["probabilities"].numpy()
    expected = np.asarray(model(picture[None] / 255)["probabilities"])
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(got[1], expected[0], atol=1e-6)
    np.testing.assert_allclose(got[2:], np.repeat(expected, 2, axis=0), atol=0.02)

    # Black and white stripes of one pixel are gray at a third of the size, and no
    # stripes.
    stripes = Image.fromarray(np.tile(np.array([0, 255], "uint8"), (24, 18)))
    got = classify(image_bytes=tf.constant([encoded(stripes, "PNG")]))["probabilities"]
    gray = model(np.full((1, 8, 12, channels), 0.5, "float32"))["probabilities"]
    np.testing.assert_allclose(got, gray, atol=0.05)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_images_that_are_not_in_0_to_1_have_no_encoded_form():
    images = keras.Input((8, 8, 1), name="images")
    hidden = keras.layers.Flatten()(images)
    model = serving.classifier(keras.Model(images, keras.layers.Dense(3)(hidden)))
    centered = {"images": np.linspace(-1, 1, 64).reshape(1, 8, 8, 1)}
    assert not saved_model.reads_images(model, centered)
    assert saved_model.reads_images(model, {"images": abs(centered["images"])})
    plain = keras.Model(images, {"image": keras.layers.Conv2D(1, 1)(images)})
    assert not saved_model.reads_images(plain, {"images": abs(centered["images"])})


def test_several_inputs_keep_their_names(unchecked):
    first, second = (
        keras.Input((2,), name="first"),
        keras.Input((3,), dtype="int32", name="second"),
    )
    total = keras.ops.sum(first, -1) + keras.ops.cast(
        keras.ops.sum(second, -1), "float32"
    )
    example = {"first": np.ones((2, 2)), "second": np.full((2, 3), 10)}
    for inputs in ([first, second], {"first": first, "second": second}):
        path = serving.export(
            keras.Model(inputs, {"total": total}), Path("models/sum"), example
        )
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        outputs = serve(first=tf.ones((1, 2)), second=tf.constant([[1, 2, 3]]))
        assert outputs["total"].numpy() == [8.0]
    body = json.loads(Path("models/sum/request.json").read_text())
    assert body == {"instances": [{"first": [1.0, 1.0], "second": [10, 10, 10]}]}


def test_outputs_without_names_are_refused(logits):
    with pytest.raises(ValueError, match="the outputs of 'small' have no names"):
        serving.export(logits, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []


def test_the_warm_up_holds_each_signature_with_its_answer(model, unchecked):
    path = serving.export(model, Path("models/small"), EXAMPLE)
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    (record,) = [
        PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))
    ]
    request, response = record.predict_log.request, record.predict_log.response
    assert request.model_spec.name == "small"
    assert request.model_spec.signature_name == "serving_default"
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["x"]), EXAMPLE)
    np.testing.assert_allclose(
        tf.make_ndarray(response.outputs["probabilities"]),
        model(EXAMPLE)["probabilities"],
    )


def test_the_configuration_lists_the_models(model, unchecked):
    for name in ("b", "a", "b"):
        serving.export(model, Path("models", name), EXAMPLE)
    Path("models/notes").mkdir()
    text = Path("models/models.config").read_text()
    config = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert [(each.name, each.base_path) for each in config] == [
        ("a", "/models/a"),
        ("b", "/models/b"),
    ]
    assert {each.model_platform for each in config} == {"tensorflow"}
    found = {path.name for path in Path("models").iterdir()}
    assert found == {"a", "b", "notes", "models.config"}


def test_configurations_written_at_once_end_up_complete():
    def export(name):
        Path("models", name, "1").mkdir(parents=True)
        saved_model.write_config(Path("models"))

    names = [f"model-{index:02}" for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(export, names))
    assert Path("models/models.config").read_text() == saved_model.config(names)


def test_exports_at_once_get_different_versions():
    # Written one after the other (Keras's export is not made for threads), then renamed
    # at once.
    folders = []
    for index in range(4):
        written = Path(f"written-{index}")
        written.mkdir()
        (written / "saved_model.pb").touch()
        folders.append(written)
    target = Path("models")
    target.mkdir()
    with ThreadPoolExecutor(4) as pool:
        paths = list(
            pool.map(lambda folder: saved_model._claim_version(folder, target), folders)
        )
    assert sorted(path.name for path in paths) == ["1", "2", "3", "4"]


@keras.saving.register_keras_serializable()
class OtherwiseInGraphs(keras.layers.Layer):
    """Gives one answer in Python and another in the graph that is exported."""

    def call(self, x):
        return x if tf.executing_eagerly() else x + 1.0


def test_a_model_that_differs_is_refused_and_removed():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, {"y": OtherwiseInGraphs()(x)})
    with pytest.raises(RuntimeError, match="y differs from the recorded answer by 1"):
        serving.export(model, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []
    assert not Path("models/models.config").exists()


@pytest.mark.parametrize("name", ["variables/variables.index", layout.WARM_UP])
def test_an_export_with_a_missing_file_is_refused_and_removed(name, model, monkeypatch):
    check = saved_model.check_in_a_fresh_process

    def lose(path):
        (path / name).unlink()
        check(path)

    monkeypatch.setattr(saved_model, "check_in_a_fresh_process", lose)
    with pytest.raises(RuntimeError, match=r"does not load|no warm-up record"):
        serving.export(model, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []


def test_the_check_runs_without_keras_and_sees_python_operations():
    # A function that calls back into Python can be saved, and fails in any other
    # process.
    module = tf.Module()
    module.call = tf.function(
        lambda x: {"y": tf.numpy_function(np.sin, [x], tf.float32)},
        input_signature=[tf.TensorSpec((None,), tf.float32, name="x")],
    )
    tf.saved_model.save(module, "models/1", signatures={"serving_default": module.call})
    with pytest.raises(RuntimeError, match="TF Serving lacks the operations {PyFunc}"):
        saved_model.check_in_a_fresh_process(Path("models/1"))


def test_a_crash_in_the_middle_leaves_no_version(model, monkeypatch):
    def crash(self, path, **options):
        Path(path).mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", crash)
    with pytest.raises(OSError, match="disk full"):
        serving.export(model, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_bad_input(model):
    with pytest.raises(UsageError, match="--export /proc/nothing: cannot be written"):
        serving.export(model, Path("/proc/nothing"), EXAMPLE)
