"""What others make of an export: TensorFlow's C API, OpenVINO, and `check`, on spoiled
ones too.

TF Serving itself is not to be had from a package index; the C API is the code that it
is made of.
"""

import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import openvino
import pytest
import tensorflow as tf
from conftest import command
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from deep_learning_recipes import serving
from deep_learning_recipes.serving import check, layout, saved_model

WHEEL = Path(tf.sysconfig.get_lib())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A classifier shaped like LeNet, its export, images, and its probabilities for
    them."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 1), name="images")
    x = keras.layers.Conv2D(6, 5, activation="relu")(images)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(16, 5, activation="gelu")(x)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))
    x = keras.layers.Dropout(0.5)(x)
    model = serving.classifier(
        keras.Model(images, keras.layers.Dense(10)(x), name="lenet")
    )
    example = np.random.default_rng(0).random((3, 32, 32, 1)).astype("float32")
    path = serving.export(model, tmp_path_factory.mktemp("models") / "lenet", example)
    return path, example, np.asarray(model(example)["probabilities"])


@pytest.fixture
def copied(exported):
    """A copy of the export that a test may spoil."""
    return Path(shutil.copytree(exported[0].parent.parent, "models")) / "lenet" / "1"


def test_a_c_program_runs_the_export_without_python(exported):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) on this machine")
    libraries = [
        WHEEL / "libtensorflow_cc.so.2",
        WHEEL / "libtensorflow_framework.so.2",
    ]
    if not all(library.exists() for library in libraries):
        pytest.skip(
            "TensorFlow's wheel for this platform holds no libtensorflow_cc.so.2"
        )
    source = Path(__file__).with_name("run_saved_model.c")
    build = [compiler, source, "-o", "run", f"-I{WHEEL / 'include'}", *libraries]
    subprocess.run([*build, f"-Wl,-rpath,{WHEEL}"], check=True)

    path, example, expected = exported
    (graph,) = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
    signature = graph.signature_def["serving_default"]
    tensors = [signature.inputs["images"].name, signature.outputs["probabilities"].name]
    for count in (1, 3):
        sizes = [str(size) for size in example[:count].shape]
        finished = subprocess.run(
            ["./run", path, *tensors, *sizes],
            input=example[:count].tobytes(),
            capture_output=True,
        )
        assert finished.returncode == 0, finished.stderr[-2000:]
        got = np.frombuffer(finished.stdout, "float32").reshape(count, 10)
        np.testing.assert_allclose(got, expected[:count], atol=1e-5)


def test_openvino_reads_the_export_and_agrees(exported):
    path, example, expected = exported
    core = openvino.Core()
    # Else it may compute in bfloat16 or float16 where the processor can.
    compiled = core.compile_model(
        core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for count in (1, 3):
        outputs = compiled({"images": example[:count]})
        np.testing.assert_allclose(
            outputs["probabilities"], expected[:count], atol=1e-4
        )


def test_warm_up_records_replay_with_the_recorded_answers(exported):
    path, example, expected = exported
    bundle = check.Bundle(path)
    records = {
        check.signature_of(record): record for record in bundle.warm_up_records()
    }
    assert set(records) == {"serving_default", "classify_bytes"}
    answer = bundle.replay(records["serving_default"])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    encoded = tf.make_ndarray(
        records["classify_bytes"].predict_log.request.inputs["image_bytes"]
    )
    assert [each[:4] for each in encoded] == [b"\x89PNG"] * 3
    # Eight bits a pixel change the answer, but little.
    answer = bundle.replay(records["classify_bytes"])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.01)


def test_check_reads_any_level_of_the_folder(copied, capsys):
    for folder in (copied, copied.parent, copied.parent.parent):
        assert check.check(folder)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"ok     {copied if folder is not copied else folder}"
    assert lines[1:] == [f"ok     {copied.parent.parent / 'models.config'}"]


def lose_weights(path):
    (path / "variables" / "variables.data-00000-of-00001").unlink()


def other_answer(path):
    (record, second) = check.Bundle(path).warm_up_records()
    answer = record.predict_log.response.outputs["probabilities"]
    answer.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(answer) + np.float32(0.001)))
    with tf.io.TFRecordWriter(str(path / layout.WARM_UP)) as writer:
        for each in (record, second):
            writer.write(each.SerializeToString())


def no_version(path):
    (path / "saved_model.pb").unlink()


def cut_model(path):
    data = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(data[: len(data) // 2])


def other_tag(path):
    change(path, lambda graph: graph.meta_info_def.ClearField("tags"))


def custom_operation(path):
    change(
        path, lambda graph: graph.graph_def.node.add(name="mine", op="MyOwnOperation")
    )


def no_default_signature(path):
    change(path, lambda graph: graph.signature_def.pop("serving_default"))


def fixed_batch(path):
    def fix(graph):
        signature = graph.signature_def["serving_default"]
        signature.inputs["images"].tensor_shape.dim[0].size = 3

    change(path, fix)


def no_warm_up(path):
    (path / layout.WARM_UP).unlink()


def cut_warm_up(path):
    data = (path / layout.WARM_UP).read_bytes()
    (path / layout.WARM_UP).write_bytes(data[:-10])


def unlisted(path):
    (path.parents[1] / "models.config").write_text(saved_model.config(["other"]))


def change(path, edit):
    model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(model.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lose_weights, "FAULT", "does not load: "),
        (
            other_answer,
            "FAULT",
            "serving_default: probabilities differs from the recorded answer",
        ),
        (no_version, "FAULT", "saved_model.pb cannot be read: "),
        (cut_model, "FAULT", "saved_model.pb cannot be read: "),
        (other_tag, "FAULT", "no graph with the tag `serve`"),
        (custom_operation, "FAULT", "TF Serving lacks the operations {MyOwnOperation}"),
        (
            no_default_signature,
            "FAULT",
            "no signature serving_default; there is {classify_bytes}",
        ),
        (
            fixed_batch,
            "FAULT",
            "serving_default: a batch of 1: input 'images' must be of shape",
        ),
        (no_warm_up, "note ", "serving_default: no warm-up record"),
        (cut_warm_up, "FAULT", "does not load: "),
        (unlisted, "FAULT", "lenet is not in it"),
    ],
)
def test_check_finds_what_is_wrong(spoil, kind, message, copied, capsys):
    spoil(copied)
    assert check.check(copied.parents[1]) == (kind != "FAULT")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(kind) and message in line for line in lines), lines


def test_check_wants_a_number_for_a_name(copied, capsys):
    copied.rename(copied.with_name("newest"))
    assert not check.check(copied.with_name("newest"))
    assert "the folder's name must be a whole number" in capsys.readouterr().out


def test_the_command_exits_with_1_for_a_fault_and_2_for_bad_input(copied):
    no_version(copied)
    finished = command("-m", "deep_learning_recipes.serving", "check", "models")
    assert finished.returncode == 1
    assert finished.stdout.startswith(
        "FAULT  models/lenet/1  saved_model.pb cannot be read"
    )
    Path("empty").mkdir()
    for folder, message in [
        ("nothing", "no such folder"),
        ("empty", "no NAME/VERSION"),
    ]:
        finished = command("-m", "deep_learning_recipes.serving", "check", folder)
        assert finished.returncode == 2
        assert finished.stderr.startswith(f"error: {folder}: {message}")
        assert finished.stderr.count("\n") == 1
