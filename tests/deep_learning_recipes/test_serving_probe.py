"""`check` on the good models of others, and on what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from deep_learning_recipes.serving import check, layout, saved_model

FLOAT, STRING = tf.float32, tf.string
KERNEL = tf.ones((3, 3, 3, 2))


def save(call, path="models/m/1", **inputs):
    """A SavedModel of one function of tensors (shape, type)."""
    module = tf.Module()
    specs = [tf.TensorSpec(*spec, name=name) for name, spec in inputs.items()]
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, path, signatures=module.call)
    return Path(path)


def record(path, inputs, outputs):
    """A warm-up record as another project's exporter writes it."""
    (path / layout.WARM_UP).parent.mkdir()
    log = PredictionLog()
    for key, value in inputs.items():
        log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    for key, value in outputs.items():
        proto = tf.make_tensor_proto(value)
        log.predict_log.response.outputs[key].CopyFrom(proto)
    with tf.io.TFRecordWriter(str(path / layout.WARM_UP)) as writer:
        writer.write(log.SerializeToString())


def convolution(images):
    """Of one pixel a side it makes none, and says so below seven."""
    x = tf.nn.conv2d(images, KERNEL, 1, "VALID")
    nonempty = tf.debugging.assert_positive(tf.size(x[:, 4:, 4:]))
    with tf.control_dependencies([nonempty]):
        return {"maps": x}


def spectrum(signal):
    frames = tf.signal.frame(signal, 16, 8)
    return {"frames": tf.reduce_sum(frames, -1)}


GOOD = {
    "fully convolutional": (convolution, {"images": ((None, None, None, 3), FLOAT)}),
    "a flag beside a batch": (
        lambda x, flag: {"y": tf.where(flag, x, -x)},
        {"x": ((None, 4), FLOAT), "flag": ((), tf.bool)},
    ),
    "two scalars": (
        lambda a, b: {"y": a + b},
        {"a": ((), FLOAT), "b": ((), FLOAT)},
    ),
    "one signal": (spectrum, {"signal": ((None,), FLOAT)}),
    "a fixed batch": (lambda x: {"y": x + 1.0}, {"x": ((4, 2), FLOAT)}),
    "labels": (
        lambda x: {"scores": x, "labels": tf.constant(["cat", "dog"])},
        {"x": ((None, 2), FLOAT)},
    ),
    "any rank": (lambda x: {"y": x * 2.0}, {"x": (None, FLOAT)}),
    "texts": (lambda t: {"n": tf.strings.length(t)}, {"t": ((None,), STRING)}),
    "a table beside a batch": (
        lambda x, table: {"y": tf.gather(table, x)},
        {"x": ((None,), tf.int32), "table": ((5, 2), FLOAT)},
    ),
    "a huge input": (lambda x: {"y": x[:, 0]}, {"x": ((None, 10**9, 10**9), FLOAT)}),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_models_of_others_have_no_fault(name, capsys):
    call, inputs = GOOD[name]
    save(call, **inputs)
    assert check.check(Path("models"))
    out = capsys.readouterr().out
    assert "no warm-up record" in out
    assert "FAULT" not in out
    # One pixel was too little to guess, 32 were enough.
    assert "not tried" not in out


def test_an_input_that_cannot_be_guessed_is_a_note(capsys):
    def even(x):
        with tf.control_dependencies([tf.debugging.assert_equal(x[0], 7.0)]):
            return {"y": x}

    save(even, x=((None,), FLOAT))
    assert check.check(Path("models"))
    assert "note   models/m/1  serving_default: not tried" in capsys.readouterr().out


RECORDED = {
    "fully convolutional": {"images": np.ones((2, 9, 9, 3), "float32")},
    "a flag beside a batch": {"x": np.ones((2, 4), "float32"), "flag": np.array(True)},
    "one signal": {"signal": np.ones(64, "float32")},
    "labels": {"x": np.ones((2, 2), "float32")},
    "any rank": {"x": np.ones((2, 2), "float32")},
    "texts": {"t": np.array([b"a", b"bc"], object)},
}


@pytest.mark.parametrize("name", RECORDED)
def test_nor_have_they_with_a_record(name, capsys):
    call, inputs = GOOD[name]
    path = save(call, **inputs)
    tensors = {key: tf.constant(value) for key, value in RECORDED[name].items()}
    record(path, RECORDED[name], {k: v.numpy() for k, v in call(**tensors).items()})
    assert check.check(Path("models"))
    out = capsys.readouterr().out
    assert "FAULT" not in out
    if name == "labels":  # true of TF Serving as well, and worth to know
        assert "3 rows give labels of shape (2,); REST refuses 'instances'" in out
    elif name != "one signal":
        assert out == "ok     models/m/1\n"


def test_a_batch_that_is_fixed_in_the_graph_is_a_fault(capsys):
    path = save(lambda x: {"y": tf.reshape(x, (2, 4))}, x=((None, 4), FLOAT))
    ones = np.ones((2, 4), "float32")
    record(path, {"x": ones}, {"y": ones})
    assert not check.check(path)
    assert (
        "FAULT  models/m/1  serving_default: a batch of 1: " in capsys.readouterr().out
    )


def test_also_beside_an_input_that_has_no_rows(capsys):
    path = save(
        lambda x, table: {"y": tf.reshape(x, (2, 4)) + table[0]},
        x=((None, 4), FLOAT),
        table=((5, 4), FLOAT),
    )
    ones = np.ones((2, 4), "float32")
    record(path, {"x": ones, "table": np.zeros((5, 4), "float32")}, {"y": ones})
    assert not check.check(path)
    assert (
        "FAULT  models/m/1  serving_default: a batch of 1: " in capsys.readouterr().out
    )


@pytest.mark.parametrize("other", [1.5, np.nan])
def test_numbers_that_are_not_finite_are_compared(other, capsys):
    path = save(lambda x: {"y": x}, x=((None, 2), FLOAT))
    values = np.array([[np.nan, np.inf]], "float32")
    record(path, {"x": values}, {"y": values})
    assert check.check(path)
    assert capsys.readouterr().out.startswith("ok")
    (path / layout.WARM_UP).unlink()
    (path / layout.WARM_UP).parent.rmdir()
    record(path, {"x": values}, {"y": np.array([[np.nan, other]], "float32")})
    assert not check.check(path)
    assert "y differs from the recorded answer" in capsys.readouterr().out


def test_a_recorded_answer_of_another_type_is_told(capsys):
    path = save(lambda x: {"y": x}, x=((None, 2), FLOAT))
    ones = np.ones((1, 2), "float32")
    for answer, message in [
        (np.ones((1, 2), "float64"), "type or shape: float32 (1, 2), DT_DOUBLE (1, 2)"),
        (np.ones((2, 2), "float32"), "type or shape: float32 (1, 2), DT_FLOAT (2, 2)"),
        (np.array([[b"a", b"b"]], object), "by its type or shape: float32"),
        (np.ones((1, 2), "complex64"), "by its type or shape: float32"),
    ]:
        record(path, {"x": ones}, {"y": answer})
        assert not check.check(path)
        assert message in capsys.readouterr().out
        (path / layout.WARM_UP).unlink()
        (path / layout.WARM_UP).parent.rmdir()


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": 0},
        {"dtype": 20},  # a resource
        {"dtype": 123456},
        {"tensor_shape": {"dim": [{"size": 10**9}, {"size": 10**9}]}},
        {"tensor_shape": {"unknown_rank": True}},
        {"tensor_content": b"123"},
    ],
)
def test_a_recorded_answer_that_is_no_tensor_is_told(change, capsys):
    path = save(lambda x: {"y": x}, x=((None, 2), FLOAT))
    ones = np.ones((1, 2), "float32")
    record(path, {"x": ones}, {"y": ones})
    file = path / layout.WARM_UP
    (raw,) = (each.numpy() for each in tf.data.TFRecordDataset(str(file)))
    log = PredictionLog.FromString(raw)
    answer = log.predict_log.response.outputs["y"]
    for field in change:
        answer.ClearField(field)
    answer.MergeFrom(TensorProto(**change))
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(log.SerializeToString())
    assert not check.check(path)
    assert "y differs from the recorded answer by " in capsys.readouterr().out


def test_records_of_other_requests_are_left_to_tf_serving(capsys):
    path = save(lambda x: {"y": x}, x=((None, 2), FLOAT))
    record(path, {}, {})
    log = PredictionLog()
    log.classify_log.request.CopyFrom(ClassificationRequest())
    with tf.io.TFRecordWriter(str(path / layout.WARM_UP)) as writer:
        writer.write(log.SerializeToString())
    assert check.check(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"model_config_list {", None])
def test_a_configuration_that_cannot_be_read_is_a_fault(content, capsys):
    save(lambda x: {"y": x}, x=((None, 2), FLOAT))
    config = Path("models/models.config")
    config.mkdir() if content is None else config.write_bytes(content)
    assert not check.check(Path("models"))
    assert "FAULT  models/models.config  cannot be read: " in capsys.readouterr().out


def test_the_check_of_an_own_export_lets_no_note_pass():
    path = save(
        lambda x: {"y": tf.reduce_mean(x, 0, keepdims=True)}, x=((None, 2), FLOAT)
    )
    ones = np.ones((1, 2), "float32")
    record(path, {"x": ones}, {"y": ones})
    with pytest.raises(RuntimeError, match=r"3 rows give y of shape \(1, 2\)"):
        saved_model.check_in_a_fresh_process(path)
