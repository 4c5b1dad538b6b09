"""Exports: layout, versions, nothing half-written, and a model that differs is refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from deep_learning_recipes import UsageError, serving

EXAMPLE = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.layers.Dense(5)(x), name="small")


def test_versions_are_whole_numbers_from_one(model):
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path("models/small/1")
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path("models/small/2")
    Path("models/small/7").mkdir()
    assert serving.export(model, Path("models/small"), EXAMPLE) == Path("models/small/8")
    assert sorted(p.name for p in Path("models/small").iterdir()) == ["1", "2", "7", "8"]


def test_a_classifier_gives_probabilities_and_classes(model):
    path = serving.export(serving.classifier(model), Path("models/small"), EXAMPLE)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    logits = np.asarray(model(EXAMPLE))
    for count in (1, 3):  # the batch size is free
        outputs = signature(x=tf.constant(EXAMPLE[:count]))
        assert set(outputs) == {"probabilities", "classes"}
        np.testing.assert_allclose(
            outputs["probabilities"], softmax(logits[:count], axis=1), atol=1e-6
        )
        np.testing.assert_array_equal(outputs["classes"], logits[:count].argmax(axis=1))


def test_exports_at_once_get_different_versions(model):
    # Written one after the other (Keras's export is not made for threads), then renamed at once.
    folders = []
    for index in range(4):
        written = Path(f"written-{index}")
        written.mkdir()
        (written / "saved_model.pb").touch()
        folders.append(written)
    target = Path("models")
    target.mkdir()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda folder: serving._claim_version(folder, target), folders))
    assert sorted(path.name for path in paths) == ["1", "2", "3", "4"]


def test_a_model_that_differs_is_refused_and_removed(model, monkeypatch):
    export = keras.Model.export

    def spoiled(self, path, **options):
        export(self, path, **options)
        self.layers[-1].kernel.assign_add(np.ones((4, 5)))  # the model goes on training, say

    monkeypatch.setattr(keras.Model, "export", spoiled)
    with pytest.raises(RuntimeError, match="the exported 'small' differs by"):
        serving.export(model, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []


def test_a_crash_in_the_middle_leaves_no_version(model, monkeypatch):
    def crash(self, path, **options):
        Path(path).mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "export", crash)
    with pytest.raises(OSError, match="disk full"):
        serving.export(model, Path("models/small"), EXAMPLE)
    assert list(Path("models/small").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_bad_input(model):
    with pytest.raises(UsageError, match="--export /proc/nothing: cannot be written"):
        serving.export(model, Path("/proc/nothing"), EXAMPLE)
