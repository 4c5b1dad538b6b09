"""What an export takes for an example, the request that it writes of it, and files of
images."""

import base64
import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deep_learning_recipes import UsageError, serving
from deep_learning_recipes.serving import saved_model
from deep_learning_recipes.serving.bundle import Bundle


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Spares the seconds of the fresh process; `replays` checks in this one."""
    monkeypatch.setattr(saved_model, "check_in_a_fresh_process", lambda path: None)


def replays(path):
    """The answer to the recorded request, as TF Serving computes it."""
    bundle = Bundle(path)
    return bundle.replay(bundle.warm_up_records()[0])


def sizes(length="string"):
    """A model that counts the characters of texts without a feature axis."""
    texts = keras.Input((), dtype="string", name="texts")
    count = keras.layers.Lambda(tf.strings.length, output_shape=())(texts)
    return keras.Model(texts, {"length": count})


def written(folder):
    return json.loads(Path(folder, "request.json").read_text())


def test_texts_without_a_feature_axis():
    for example in (
        np.array(["abc", "de"]),
        ["abc", "de"],
        np.array([b"abc", b"de"], object),
        {"texts": ["abc", "de"]},
    ):
        path = serving.export(sizes(), "models/sizes", example)
        assert replays(path)["length"].tolist() == [3, 2]
        assert written("models/sizes") == {"instances": [{"texts": "abc"}]}
    assert path == Path("models/sizes/4")


@pytest.mark.parametrize("raw", [b"\xff\xd8\xff\xe0", b"a\x80", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text_are_written_in_base64(raw):
    path = serving.export(sizes(), "models/sizes", np.array([raw, b"x"], object))
    assert replays(path)["length"].tolist() == [len(raw), 1]
    assert written("models/sizes") == {
        "instances": [{"texts": {"b64": base64.b64encode(raw).decode()}}]
    }
    serving.export(sizes(), "models/sizes", np.array(["é\0", b"x"], object))
    assert written("models/sizes") == {"instances": [{"texts": "é\0"}]}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_written_as_tf_serving_reads_them(value):
    x = keras.Input((2,), name="x")
    model = keras.Model(x, {"same": keras.layers.Identity()(x)})
    path = serving.export(model, "models/same", np.array([[value, 1], [2, 3]]))
    np.testing.assert_array_equal(replays(path)["same"][0], [value, 1])
    word = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    text = Path("models/same/request.json").read_text()
    assert text == f'{{"instances": [{{"x": [{word}, 1.0]}}]}}\n'


def test_a_flag_without_a_batch_axis_is_asked_by_columns():
    x = keras.Input((2,), name="x")
    flag = keras.Input(batch_shape=(), dtype="bool", name="flag")
    model = keras.Model([x, flag], {"y": keras.ops.where(flag, x, -x)})
    example = {"x": np.ones((3, 2)), "flag": False}
    path = serving.export(model, "models/flag", example)
    assert replays(path)["y"].tolist() == [[-1, -1]] * 3
    body = {"inputs": {"x": [[1.0, 1.0]] * 3, "flag": False}}
    assert written("models/flag") == body


def pair():
    a = keras.Input((2,), name="a")
    b = keras.Input((3,), dtype="int32", name="b")
    total = keras.ops.sum(a, -1) + keras.ops.cast(keras.ops.sum(b, -1), "float32")
    return keras.Model([a, b], {"total": total})


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"a": np.ones((1, 2))}, r"lacks the inputs \['b'\]"),
        ({"a": [[1, 2]], "b": [[1, 2, 3]], "c": 1}, r"has \['c'\], but the inputs are"),
        ([np.ones((1, 2))], r"an array for each input: \['a', 'b'\]"),
        (np.ones((1, 2)), r"an array for each input: \['a', 'b'\]"),
        ({"a": np.ones((1, 2)), "b": np.ones((2, 3))}, "as many for each input"),
        ({"a": np.ones((0, 2)), "b": np.ones((0, 3))}, "needs rows"),
        ({"a": [[1, 2]], "b": [[1.5, 2, 3]]}, "input 'b' must hold int32 alone"),
        ({"a": [[1, 2]], "b": [[2**40, 2, 3]]}, "input 'b' must hold int32 alone"),
        ({"a": [["x", "y"]], "b": [[1, 2, 3]]}, "input 'a'"),
        ({"a": [1, 2], "b": [[1, 2, 3]]}, r"of shape \(None, 2\), not \(2,\)"),
        ({"a": [[1, 2], [3]], "b": [[1, 2, 3]]}, "input 'a'"),
    ],
)
def test_an_example_that_does_not_fit_is_one_line(example, message):
    with pytest.raises(UsageError, match=message) as error:
        serving.export(pair(), "models/pair", example)
    assert "\n" not in str(error.value)
    assert list(Path("models/pair").iterdir()) == []


class Own(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return {"y": self.dense(x)}


def test_a_model_that_was_never_called_is_one_line():
    called = Own()
    called(np.ones((1, 3)))
    plain = keras.Sequential([keras.layers.Dense(2)], name="plain")
    for model in (Own(), called, plain):
        with pytest.raises(UsageError, match=rf"'{model.name}' .* keras\.Input"):
            serving.export(model, "models/own", np.ones((1, 3)))
    for wrap in (serving.classifier, serving.policy):
        with pytest.raises(UsageError, match=r"'plain' is no functional model yet"):
            wrap(plain)
    x = keras.Input((3,), name="x")  # the way out that the line names
    path = serving.export(keras.Model(x, called(x)), "models/own", np.ones((1, 3)))
    want = called(np.ones((1, 3)))["y"]
    np.testing.assert_allclose(replays(path)["y"], want, rtol=1e-5)


def test_a_fixed_batch_is_told_before_anything_is_written():
    x = keras.Input(batch_shape=(4, 3), name="x")
    model = keras.Model(x, {"y": keras.layers.Dense(2)(x)})
    with pytest.raises(UsageError, match="fixed batch size of 4"):
        serving.export(model, "models/fixed", np.ones((4, 3)))


@pytest.mark.parametrize(
    "name", ["two words", "größe", "a:b", "a,b", "_x", "class", "self", "日", "-a"]
)
def test_a_name_that_no_saved_model_takes_is_told_as_it_is(name):
    x = keras.Input((3,), name=name)
    model = keras.Model(x, {"y": keras.layers.Dense(2)(x)})
    with pytest.raises(UsageError, match="has a name that no SavedModel takes") as told:
        serving.export(model, "models/named", np.ones((1, 3)))
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("name", ["a.b", "1a", "a-b", "A", "inputs", "match"])
def test_other_names_reach_the_clients(name):
    x = keras.Input((3,), name=name)
    model = keras.Model(x, {"the sum: Σ": keras.ops.sum(x, -1)})
    path = serving.export(model, "models/named", {name: np.ones((1, 3))})
    (signature,) = Bundle(path).signatures.values()
    assert (set(signature.inputs), set(signature.outputs)) == ({name}, {"the sum: Σ"})


FORMATS = [
    ("RGB", "PNG"),
    ("L", "PNG"),
    ("P", "PNG"),
    ("RGBA", "PNG"),
    ("LA", "PNG"),
    ("RGB", "GIF"),
    ("L", "GIF"),
    ("RGB", "BMP"),
    ("L", "BMP"),
    ("P", "BMP"),
    ("RGBA", "BMP"),
    ("RGB", "JPEG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_promised_format_gives_what_pillow_gives(channels):
    images = keras.Input((8, 12, channels), name="images")
    flat = keras.layers.Flatten()(images)
    keras.utils.set_random_seed(0)
    model = serving.classifier(keras.Model(images, keras.layers.Dense(3)(flat)))
    example = np.random.default_rng(0).random((1, 8, 12, channels))
    path = serving.export(model, "models/eyes", example)

    ramp = (
        np.linspace(0, 255, 12)[None, :, None] * np.linspace(0.2, 1, 8)[:, None, None]
    )
    color = Image.fromarray((ramp * [1, 0.6, 0.2]).round().astype("uint8"))
    files, pixels = [], []
    for mode, kind in FORMATS:
        adaptive = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
        file = io.BytesIO()
        options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
        color.convert(mode, **adaptive).save(file, kind, **options)
        files.append(file.getvalue())
        seen = Image.open(file).convert("RGB").convert("L" if channels == 1 else "RGB")
        pixels.append(np.reshape(seen, (8, 12, channels)) / 255)
    got = Bundle(path).predict(
        "classify_bytes", {"image_bytes": np.array(files, object)}
    )
    want = np.asarray(model(np.array(pixels))["probabilities"])
    for each, *rows in zip(FORMATS, got["probabilities"], want, strict=True):
        np.testing.assert_allclose(*rows, atol=0.02, err_msg=str(each))
