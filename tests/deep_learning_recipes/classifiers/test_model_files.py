"""Files that are no networks, or hostile ones, get one line, and soon."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from deep_learning_recipes import UsageError, classifiers


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A good file's members by name."""
    file = tmp_path_factory.mktemp("net") / "good.keras"
    images = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(images))
    keras.Model(images, layers.Dense(2, "softmax", name="head")(x)).save(file)
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def changed(parts, change):
    config = json.loads(parts["config.json"])
    change(config)
    return {**parts, "config.json": json.dumps(config).encode()}


def layer(config, name):
    return next(x for x in config["config"]["layers"] if x["name"] == name)


def foreign_module(config):
    found = layer(config, "conv")
    found.update(module="no_such_package.layers", class_name="Swirl")
    found["registered_name"] = "Swirl"


def unknown_class(config):
    layer(config, "conv").update(
        module=None, class_name="Swirl", registered_name="Mine>Swirl"
    )


def huge(config):
    layer(config, "head")["config"]["units"] = 10**12


def negative(config):
    layer(config, "head")["config"]["units"] = -1


def other_units(config):
    layer(config, "head")["config"]["units"] = 3


def lambda_layer(config):
    found = layer(config, "conv")
    found.update(class_name="Lambda", registered_name=None, module="keras.layers")
    found["config"] = {"name": "conv", "function": {"class_name": "__lambda__"}}


CHANGES = (foreign_module, unknown_class, huge, negative, other_units, lambda_layer)


def write(file, parts):
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in parts.items():
            opened.writestr(name, content)


def refused(file):
    with pytest.raises(
        UsageError, match=rf"{file.name}: Keras cannot load it"
    ) as found:
        classifiers.load(str(file))
    message = str(found.value)
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_config_that_cannot_be_built_gets_one_line(change, parts, tmp_path):
    write(tmp_path / "bad.keras", changed(parts, change))
    refused(tmp_path / "bad.keras")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{}", "[]", "", "null"]
)
def test_a_config_that_is_none_gets_one_line(text, parts, tmp_path):
    write(tmp_path / "bad.keras", {**parts, "config.json": text})
    refused(tmp_path / "bad.keras")


@pytest.mark.parametrize(
    "kind", ["cut", "head", "junk", "empty", "no zip", "no weights"]
)
def test_a_broken_file_gets_one_line(kind, parts, tmp_path):
    file = tmp_path / "bad.keras"
    write(file, parts)
    whole = file.read_bytes()
    if kind == "no weights":
        write(file, {k: v for k, v in parts.items() if "weights" not in k})
    else:
        junk = np.random.default_rng(0).bytes(500)
        broken = {
            "cut": whole[: len(whole) // 2],
            "head": whole[:4],
            "junk": whole[:100] + junk + whole[600:],
            "empty": b"",
            "no zip": junk,
        }
        file.write_bytes(broken[kind])
    refused(file)


def test_a_file_packed_to_explode_gets_one_line(parts, tmp_path):
    """300 megabytes of spaces, 300 kilobytes packed."""
    file = tmp_path / "bad.keras"
    write(file, {k: v for k, v in parts.items() if k != "config.json"})
    with (
        zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as opened,
        opened.open("config.json", "w", force_zip64=True) as config,
    ):
        for _ in range(30):
            config.write(b" " * 10**7)
    with pytest.raises(UsageError, match=r"unpacked it would have 0\.3 GB"):
        classifiers.load(str(file))


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_broken_weights_get_one_line(junk, parts, tmp_path):
    write(tmp_path / "bad.keras", {**parts, "model.weights.h5": junk})
    refused(tmp_path / "bad.keras")


@keras.saving.register_keras_serializable("tests")
class Forgetful(layers.Layer):
    """A layer of one's own whose config lacks what its constructor needs."""

    def __init__(self, width=None, **options):
        super().__init__(**options)
        self.width = width

    def get_config(self):
        return {"name": self.name, "wide": 3}

    @classmethod
    def from_config(cls, config):
        if Forgetful.broken:
            raise RuntimeError("no such width\nat all")
        return cls(name=config["name"])

    def call(self, x):
        if Forgetful.broken and not isinstance(x, keras.KerasTensor):
            raise RuntimeError("no such width\nat all")
        return x

    broken = False


def test_a_layer_that_cannot_be_copied_gets_one_line(tmp_path):
    images = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(Forgetful()(images))
    keras.Model(images, layers.Dense(2)(x)).save(tmp_path / "net.keras")
    assert classifiers.load(str(tmp_path / "net.keras")).model.count_params() == 8
    model = keras.models.load_model(tmp_path / "net.keras")
    Forgetful.broken = True
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(classifiers.files, "load_file", lambda path: model)
            with pytest.raises(UsageError, match="opened up .*no such width$"):
                classifiers.load(str(tmp_path / "net.keras"))
    finally:
        Forgetful.broken = False
