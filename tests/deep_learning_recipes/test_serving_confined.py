"""`check` on SavedModels of strangers: what reaches out is not run, what does not end is
ended."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import command
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from deep_learning_recipes.serving import check, confined, operations

FLOATS = tf.TensorSpec((None,), tf.float32, name="x")
raw = tf.raw_ops


def save(call, path="models/m/1", module=None):
    module = module or tf.Module()
    module.call = tf.function(call, input_signature=[FLOATS], autograph=False)
    tf.saved_model.save(module, path, signatures=module.call)
    return Path(path)


def graph_of(path):
    (graph,) = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
    return graph


def write(x):
    tf.io.write_file("stolen", "1")
    return {"y": x}


def write_in_a_loop(x):
    def body(i):
        tf.io.write_file("stolen", "1")
        return i + 1

    tf.while_loop(lambda i: i < 3, body, [0])
    return {"y": x}


def write_in_a_branch(x):
    def branch():
        with tf.control_dependencies([tf.io.write_file("stolen", "1")]):
            return tf.identity(x)

    return {"y": tf.cond(tf.size(x) > 1, branch, lambda: x)}


@tf.function
def inner(x):
    tf.io.write_file("stolen", "1")
    return x


def write_in_a_function(x):
    return {"y": tf.map_fn(inner, x)}


def write_by_a_dataset(x):
    cached = tf.data.Dataset.range(3).cache("stolen")
    return {"y": x + tf.cast(cached.reduce(np.int64(0), lambda a, b: a + b), x.dtype)}


def read_by_a_dataset(x):
    lines = tf.data.TextLineDataset("/etc/passwd").map(tf.strings.length)
    return {"y": x + tf.cast(lines.reduce(0, lambda a, b: a + b), x.dtype)}


def summary(x):
    writer = raw.SummaryWriter(shared_name="w")
    raw.CreateSummaryFileWriter(
        writer=writer, logdir="stolen", max_queue=1, flush_millis=1, filename_suffix=""
    )
    return {"y": x}


def print_into_a_file(x):
    tf.print(x, output_stream="file://stolen")
    return {"y": x}


def save_a_checkpoint(x):
    raw.SaveV2(prefix="stolen", tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    return {"y": x}


def text(value):
    return tf.strings.length(value)


HOSTILE = {
    "WriteFile": write,
    "WriteFile in a loop": write_in_a_loop,
    "WriteFile in a branch": write_in_a_branch,
    "WriteFile in a function": write_in_a_function,
    "ReadFile": lambda x: {"y": text(tf.io.read_file("/etc/passwd"))},
    "MatchingFiles": lambda x: {"y": tf.io.matching_files("/root/*")},
    "CacheDatasetV2": write_by_a_dataset,
    "TextLineDataset": read_by_a_dataset,
    "CreateSummaryFileWriter": summary,
    "PrintV2": print_into_a_file,
    "SaveV2": save_a_checkpoint,
    "RestoreV2": lambda x: {
        "y": raw.RestoreV2(
            prefix="other", tensor_names=["x"], shape_and_slices=[""], dtypes=[x.dtype]
        )[0]
    },
    "DebugIdentity": lambda x: {
        "y": raw.DebugIdentity(input=x, debug_urls=["file:///tmp/stolen"])
    },
    "DecodeProtoV2": lambda x: {
        "y": raw.DecodeProtoV2(
            bytes=[b""],
            message_type="a",
            field_names=["b"],
            output_types=[tf.int32],
            descriptor_source="/etc/passwd",
        ).sizes
    },
    "ImmutableConst": lambda x: {
        "y": raw.ImmutableConst(
            dtype=tf.uint8, shape=(9,), memory_region_name="/etc/passwd"
        )
    },
    "PyFunc": lambda x: {"y": tf.numpy_function(np.sin, [x], tf.float32)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_reaches_out_is_seen_wherever_it_hides(name):
    assert name.split()[0] in operations.reaching_out(graph_of(save(HOSTILE[name])))


def test_nor_does_it_hide_in_what_the_loader_runs():
    graph = graph_of(save(lambda x: {"y": x}))
    assert operations.reaching_out(graph) == set()
    node = graph.graph_def.node.add(name="bad", op="WriteFile", input=["a", "b"])
    assert operations.reaching_out(graph) == set()  # nothing asks for it
    for collection in ("saved_model_main_op", "legacy_init_op"):
        graph.collection_def[collection].node_list.value.append("bad")
        assert operations.reaching_out(graph) == {"WriteFile"}
        graph.collection_def[collection].Clear()
    graph.signature_def["__saved_model_init_op"].outputs["init"].name = "bad:0"
    assert operations.reaching_out(graph) == {"WriteFile"}
    del graph.signature_def["__saved_model_init_op"]
    (restore,) = (
        each
        for each in graph.graph_def.node
        if each.name == graph.saver_def.restore_op_name
    )
    restore.input.append("^bad")
    assert operations.reaching_out(graph) == {"WriteFile"}
    node.op = "RestoreV2"
    assert operations.reaching_out(graph) == set()
    del restore.input[-1]
    # A function that TensorFlow puts in the place of another.
    library = graph.graph_def.library.function.add()
    library.signature.name = "swapped"
    library.node_def.add(name="bad", op="WriteFile")
    assert operations.reaching_out(graph) == set()
    library.attr["api_implements"].s = b"lstm"
    assert operations.reaching_out(graph) == {"WriteFile"}


def keras_models():
    x = keras.Input((6, 3), name="x")
    tokens = keras.layers.TextVectorization(output_sequence_length=4)
    tokens.adapt(["a b", "b c d"])
    text = keras.Input((1,), dtype="string", name="text")
    words = keras.layers.Embedding(9, 2)(tokens(text))
    looked_up = keras.layers.StringLookup(vocabulary=["a", "b"])(text)
    yield text, {"y": words, "z": looked_up}
    for layer in (
        keras.layers.LSTM(3),
        keras.layers.Bidirectional(keras.layers.GRU(2)),
        keras.layers.Conv1D(2, 3),
        keras.layers.BatchNormalization(),
        keras.layers.MultiHeadAttention(2, 2),
        keras.layers.GaussianNoise(0.1),
    ):
        attention = isinstance(layer, keras.layers.MultiHeadAttention)
        yield x, {"y": layer(x, x) if attention else layer(x)}


def test_models_of_keras_keep_to_memory():
    for number, (inputs, outputs) in enumerate(keras_models()):
        model = keras.Model(inputs, outputs)
        path = Path("models", str(number))
        model.export(str(path), format="tf_saved_model", verbose=False)
        assert operations.reaching_out(graph_of(path)) == set()


def test_variables_tables_and_random_numbers_do():
    initializer = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    table = tf.lookup.StaticHashTable(initializer, 0)
    module = tf.Module()
    module.table, module.counter = table, tf.Variable(0.0)

    def call(x):
        module.counter.assign_add(1.0)
        noise = tf.random.normal(tf.shape(x)) + tf.random.uniform(tf.shape(x))
        found = tf.cast(table.lookup(tf.constant(["a"])), x.dtype)
        shuffled = (
            tf.data.Dataset.range(5).shuffle(5).reduce(np.int64(0), lambda a, b: a + b)
        )
        tf.debugging.assert_all_finite(x, "")
        return {"y": x + noise + found + module.counter + tf.cast(shuffled, x.dtype)}

    path = save(call, module=module)
    assert operations.reaching_out(graph_of(path)) == set()


WORDS = (
    "file",
    "path",
    "url",
    "address",
    "director",
    "python",
    "rpc",
    "remote",
    "debug",
)


def test_no_operation_that_names_a_file_or_an_address_is_overlooked():
    """Holds the lists to the registry of the TensorFlow that is installed."""
    innocent = {
        *("ShardedFilename", "ShardedFilespec"),  # join texts
        *("InitializeTableFromTextFile", "InitializeTableFromTextFileV2"),
        *(
            "TensorSliceDataset",
            "CTCBeamSearchDecoder",
            "BoostedTreesExampleDebugOutputs",
        ),
        *("Copy", "CopyHost", "VarHandleOp", "DebugNumericSummaryV2"),
        *("DebugGradientIdentity", "DebugGradientRefIdentity"),
        *("ParseExampleV2", "ParseSequenceExample", "ParseSequenceExampleV2"),
        "ParseSingleSequenceExample",
    }
    named = set()
    for name in dir(tf.raw_ops):
        definition = op_def_registry.get(name)
        if definition is None:
            continue
        words = [name, *(each.name for each in definition.attr)]
        words += [each.name for each in definition.input_arg]
        said = " ".join(words).lower()
        if any(word in said for word in WORDS):
            named.add(name)
    assert len(named) > 40
    assert {name for name in named if operations.keeps_to_memory(name)} <= innocent


def test_a_stranger_is_examined_without_harm(capsys):
    save(lambda x: {"y": x + 1.0}, "models/good/1")
    save(write, "models/writes/1")
    save(lambda x: {"y": x, "m": tf.zeros((10**5, 10**5)) + x[0]}, "models/greedy/1")
    Path("models/cut/1").mkdir(parents=True)
    Path("models/cut/1/saved_model.pb").write_bytes(b"\xff" * 100)
    Path("models/models.config").write_bytes(b"\xff\xfe")
    assert not confined.check(Path("models"))
    lines = dict.fromkeys(("cut", "good", "greedy", "writes", "models.config"), "")
    for line in capsys.readouterr().out.splitlines():
        name = line.split()[1].split("/")[1]
        lines[name] += line
    assert "FAULT" not in lines["good"]
    assert "note   models/good/1  serving_default: no warm-up record" in lines["good"]
    assert "serving_default: not tried, since it refuses zeros: " in lines["greedy"]
    assert "FAULT  models/cut/1  saved_model.pb cannot be read" in lines["cut"]
    assert "cannot be read: " in lines["models.config"]
    assert "FAULT  models/writes/1  not run: {WriteFile} may reach" in lines["writes"]
    assert not Path("stolen").exists()


def test_what_does_not_end_is_ended(monkeypatch, capsys):
    monkeypatch.setattr(confined, "SECONDS", 1.0)

    def endless(x):
        (turns,) = tf.while_loop(lambda i: i >= 0, lambda i: [i * 1], [tf.constant(0)])
        return {"y": x + tf.cast(turns, x.dtype)}

    save(endless)
    assert not confined.check(Path("models"))
    assert "FAULT  models/m/1  took longer than 1 seconds" in capsys.readouterr().out


@pytest.mark.long
def test_a_crash_is_told_and_the_next_version_examined(capsys):
    def abort(x):
        with tf.control_dependencies([raw.Abort(error_msg="bad")]):
            return {"y": tf.identity(x)}

    save(abort, "models/a/1")
    save(lambda x: {"y": x}, "models/b/1")
    assert not confined.check(Path("models"))
    out = capsys.readouterr().out
    assert "FAULT  models/a/1  ended the process that ran it by SIGABRT" in out
    assert "note   models/b/1  serving_default: no warm-up record" in out


@pytest.mark.long
def test_only_trust_runs_it():
    path = save(write)
    checking = ("-m", "deep_learning_recipes.serving", "check")
    finished = command(*checking, str(path))
    assert finished.returncode == 1
    assert "--trust runs it all the same" in finished.stdout
    assert not Path("stolen").exists()
    assert command(*checking, "--trust", str(path)).returncode == 0
    assert Path("stolen").exists()


def test_a_file_that_never_ends_is_not_read(capsys):
    endless = Path("models/endless/1")
    endless.mkdir(parents=True)
    (endless / "saved_model.pb").symlink_to("/dev/zero")
    assert not check.check(endless)
    assert "saved_model.pb cannot be read: it is no regular" in capsys.readouterr().out


def test_a_file_of_holes_buys_no_time_and_memory():
    with Path("holes").open("wb") as file:
        file.truncate(2**40)
    Path("full").write_bytes(bytes(10**6))
    assert confined.bytes_of(Path("holes")) < 10**6
    assert 10**6 <= confined.bytes_of(Path()) < 2 * 10**6
