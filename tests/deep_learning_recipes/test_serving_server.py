"""`serve`: what it answers to good and to malformed requests, and that no request is
ever lost."""

import base64
import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import keras
import numpy as np
import ovmsclient
import pytest
import requests
import tensorflow as tf
from conftest import command
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from werkzeug.test import Client

from deep_learning_recipes import serving
from deep_learning_recipes.serving import rest, saved_model
from deep_learning_recipes.serving.bundle import MAXIMUM_BYTES, Bundle, RequestError
from deep_learning_recipes.serving.library import Library

EXAMPLE = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


def write_module(path, call, **inputs):
    """A SavedModel of one function, made in milliseconds."""
    names = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name)
        for name, spec in inputs.items()
    }
    module = tf.Module()
    module.call = tf.function(call, input_signature=list(names.values()))
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})


def write_version(folder, version):
    """A model that answers with its own version, put in place at once."""
    beside = folder / f".writing-{version}"
    write_module(
        beside,
        lambda x: {"version": tf.zeros_like(x, tf.int32) + version},
        x=tf.TensorSpec((None,), tf.float32),
    )
    beside.rename(folder / str(version))


class Server:
    """A running `serve FOLDER`."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "deep_learning_recipes.serving",
                "serve",
                str(folder),
            ]
            + ["--port", "0", "--rest-port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = next(line for line in self.process.stdout if line.startswith("gRPC"))
        self.grpc = line.removeprefix("gRPC ").partition(",")[0]
        self.rest = line.partition("http://")[2].partition("/")[0]
        self.channel = grpc.insecure_channel(self.grpc)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self.channel
        )
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def post(self, name, body):
        body = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return requests.post(
            f"http://{self.rest}/v1/models/{name}:predict", data=body, timeout=60
        )

    def stop(self):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """saved_models with `small` (a classifier of vectors) and `eyes` (one of
    images)."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    x = keras.Input((4,), name="x")
    images = keras.Input((8, 8, 1), name="images")
    flat = keras.layers.Flatten()(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "check_in_a_fresh_process", lambda path: None)
        small = serving.classifier(keras.Model(x, keras.layers.Dense(5)(x)))
        serving.export(small, folder / "small", EXAMPLE)
        eyes = serving.classifier(keras.Model(images, keras.layers.Dense(3)(flat)))
        pictures = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")
        serving.export(eyes, folder / "eyes", pictures)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    loaded = tf.saved_model.load(str(folder / "small" / "1"))
    outputs = loaded.signatures["serving_default"](x=tf.constant(EXAMPLE))
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def server(folder):
    server = Server(folder)
    yield server
    assert server.stop() == 0


def test_ovmsclient_talks_to_it(server, expected):
    for client in (
        ovmsclient.make_grpc_client(server.grpc),
        ovmsclient.make_http_client(server.rest),
    ):
        for version in (0, 1):  # 0 is this client's word for the newest
            outputs = client.predict({"x": EXAMPLE}, "small", version)
            assert set(outputs) == {"probabilities", "classes"}
            np.testing.assert_allclose(
                outputs["probabilities"], expected["probabilities"], atol=1e-6
            )
            np.testing.assert_array_equal(outputs["classes"], expected["classes"])
        assert client.get_model_status("small")[1]["state"] == "AVAILABLE"
        metadata = client.get_model_metadata("small")
        if (
            "inputs" in metadata
        ):  # over REST it reads OpenVINO's names of the fields only
            assert metadata["model_version"] == 1
            assert metadata["inputs"] == {"x": {"shape": [-1, 4], "dtype": "DT_FLOAT"}}
        with pytest.raises(
            ModelNotFoundError, match=r"Servable not found for request: Latest"
        ):
            client.predict({"x": EXAMPLE}, "nothing")
        with pytest.raises(InvalidInputError, match=r"must be of shape \(None, 4\)"):
            client.predict({"x": EXAMPLE[:, :3]}, "small")


def test_rest_reads_both_formats_and_the_written_request(server, folder, expected):
    written = (folder / "small" / "request.json").read_bytes()
    rows = EXAMPLE.tolist()
    for body in (
        written,
        {"instances": rows},
        {
            "instances": [{"x": row} for row in rows],
            "signature_name": "serving_default",
        },
    ):
        predictions = server.post("small", body).json()["predictions"]
        assert [row["classes"] for row in predictions] == list(expected["classes"])[
            : len(predictions)
        ]
        np.testing.assert_allclose(
            predictions[0]["probabilities"], expected["probabilities"][0], atol=1e-6
        )
    for body in ({"inputs": rows}, {"inputs": {"x": rows}}):
        outputs = server.post("small/versions/1", body).json()["outputs"]
        np.testing.assert_allclose(
            outputs["probabilities"], expected["probabilities"], atol=1e-6
        )
    metadata = requests.get(
        f"http://{server.rest}/v1/models/small/metadata", timeout=60
    ).json()
    assert metadata["model_spec"] == {
        "name": "small",
        "signature_name": "",
        "version": "1",
    }
    signature = metadata["metadata"]["signature_def"]["signature_def"][
        "serving_default"
    ]
    sizes = [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "4"]


def test_encoded_images_come_as_base64(server):
    file = tf.io.encode_png(np.zeros((8, 8, 1), "uint8")).numpy()
    black = server.post("eyes", {"inputs": np.zeros((1, 8, 8, 1)).tolist()}).json()[
        "outputs"
    ]
    value = {"b64": base64.b64encode(file).decode()}
    for body in (
        {"instances": [value, value]},
        {"instances": [{"image_bytes": value}] * 2},
        {"inputs": {"image_bytes": [value, value]}},
    ):
        answer = server.post(
            "eyes", {"signature_name": "classify_bytes", **body}
        ).json()
        if "outputs" in answer:
            probabilities = answer["outputs"]["probabilities"]
        else:
            probabilities = [row["probabilities"] for row in answer["predictions"]]
        np.testing.assert_allclose(probabilities, black["probabilities"] * 2, atol=1e-6)


MALFORMED = [
    ("small", "", 400, "JSON Parse error"),
    ("small", "{", 400, "JSON Parse error"),
    ("small", b"\xff\xfe", 400, "JSON Parse error"),
    ("small", "[" * 100_000, 400, "JSON Parse error"),
    ("small", "[1, 2]", 400, "must be a JSON object"),
    ("small", {}, 400, "must have either 'instances'"),
    (
        "small",
        {"instances": [[0, 0, 0, 0]], "inputs": []},
        400,
        "must have either 'instances'",
    ),
    ("small", {"instances": []}, 400, "at least one element"),
    ("small", {"instances": 3}, 400, "at least one element"),
    ("small", {"instances": [[0, 0, 0, 0], [0]]}, 400, "not of equal lengths"),
    (
        "small",
        {"instances": [[0, 0, 0]]},
        400,
        "must be of shape (None, 4), not (1, 3)",
    ),
    (
        "small",
        {"instances": [{"x": [0, 0, 0, 0]}, {"y": 1}]},
        400,
        "instance 1 has other keys",
    ),
    ("small", {"instances": [{"y": [0, 0, 0, 0]}]}, 400, "no input {y}"),
    ("small", {"inputs": {}}, 400, "{x} sent extra or missing"),
    ("small", {"inputs": [["a", "b", "c", "d"]]}, 400, "must be of type float32"),
    ("small", {"inputs": [[None] * 4]}, 400, "must be of type float32"),
    ("small", {"inputs": [[True] * 4]}, 400, "must be of type float32"),
    ("small", '{"inputs": [[nan, 0, 0, 0]]}', 400, "JSON Parse error"),
    ("small", '{"inputs": [[1e39, 0, 0, 0]]}', 400, "numbers outside of float32"),
    ("small", '{"inputs": [[1e999, 0, 0, 0]]}', 400, "1e999 is too big for a double"),
    ("small", '{"inputs": [[-1e999, 0, 0, 0]]}', 400, "is too big for a double"),
    ("small", {"inputs": [[2**24, 0, 0, 0]]}, 400, "loses digits as float32"),
    ("small", {"inputs": [[10**400, 0, 0, 0]]}, 400, "loses digits as float32"),
    ("small", {"inputs": [[True, 0.5, 0, 0]]}, 400, "of type float32, not bool"),
    ("small", {"inputs": [[{}, 0.5, 0, 0]]}, 400, "of type float32, not dict"),
    ("small", {"instances": [3, {"x": 3}]}, 400, "instance 1 is no object"),
    ("small", {"inputs": [], "signature_name": "other"}, 400, '"other" not found'),
    (
        "small",
        {"inputs": [], "signature_name": 1},
        400,
        "'signature_name' must be a string",
    ),
    (
        "eyes",
        {"inputs": [3], "signature_name": "classify_bytes"},
        400,
        "must hold strings",
    ),
    (
        "eyes",
        {"inputs": ["a"], "signature_name": "classify_bytes"},
        400,
        "Unknown image file",
    ),
    (
        "eyes",
        {"inputs": [{"b64": "?"}], "signature_name": "classify_bytes"},
        400,
        "not base64",
    ),
    ("other", {"inputs": []}, 404, "Servable not found for request: Latest(other)"),
    (
        "small/versions/2",
        {"inputs": []},
        404,
        "not found for request: Specific(small, 2)",
    ),
    ("small/versions/x", {"inputs": []}, 400, "Malformed request: POST"),
    ("small", b" " * 100_000_000, 413, "larger than 33,554,432 bytes"),
]


def test_malformed_requests_get_a_clear_error_and_the_server_goes_on(server, expected):
    for name, body, status, message in MALFORMED:
        response = server.post(name, body)
        assert (response.status_code, response.headers["Content-Type"]) == (
            status,
            "application/json",
        )
        error = response.json()["error"]
        assert message in error
        assert "\n" not in error
        assert server.post("small", {"inputs": EXAMPLE.tolist()}).status_code == 200
    response = requests.get(f"http://{server.rest}/v1/models/small:predict", timeout=60)
    assert response.json() == {
        "error": "Malformed request: GET /v1/models/small:predict"
    }


def request_for(name="small", signature="", version=None, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        is_proto = isinstance(value, TensorProto)
        request.inputs[key].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return request


def huge(dtype, *sizes):
    """A tensor of a few bytes on the wire and terabytes in memory."""
    proto = tf.make_tensor_proto(np.zeros((1, 4), dtype))
    for dim, size in zip(proto.tensor_shape.dim, sizes, strict=True):
        dim.size = size
    return proto


def test_grpc_errors_have_tensorflow_servings_codes(server, expected):
    code = grpc.StatusCode
    empty = TensorProto()
    cut = tf.make_tensor_proto(EXAMPLE)
    cut.tensor_content = cut.tensor_content[:-2]
    unknown_output = request_for(x=EXAMPLE)
    unknown_output.output_filter.append("scores")
    for request, status, message in [
        (request_for("other", x=EXAMPLE), code.NOT_FOUND, "Latest(other)"),
        (request_for(version=5, x=EXAMPLE), code.NOT_FOUND, "Specific(small, 5)"),
        (
            request_for(signature="other", x=EXAMPLE),
            code.FAILED_PRECONDITION,
            '"other" not found',
        ),
        (request_for(y=EXAMPLE), code.INVALID_ARGUMENT, "{x, y} sent extra or missing"),
        (
            request_for(x=EXAMPLE[:, :3]),
            code.INVALID_ARGUMENT,
            "must be of shape (None, 4)",
        ),
        (
            request_for(x=EXAMPLE.astype("int32")),
            code.INVALID_ARGUMENT,
            "DT_FLOAT, not DT_INT32",
        ),
        (request_for(x=empty), code.INVALID_ARGUMENT, "DT_FLOAT, not DT_INVALID"),
        (request_for(x=cut), code.INVALID_ARGUMENT, "input 'x'"),
        (
            request_for(x=huge("float32", 10**12, 4)),
            code.INVALID_ARGUMENT,
            "larger than 32 MiB",
        ),
        (
            request_for(x=huge("float32", -1, 4)),
            code.INVALID_ARGUMENT,
            "must be of shape",
        ),
        (
            unknown_output,
            code.INVALID_ARGUMENT,
            "output {scores} is not in the signature",
        ),
        (
            request_for(x=np.zeros((2**21, 4), "float64")),
            code.RESOURCE_EXHAUSTED,
            "larger than",
        ),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            server.predictions.Predict(request, 60)
        assert (error.value.code(), message in error.value.details()) == (
            status,
            True,
        ), message
    with pytest.raises(grpc.RpcError) as error:
        server.models.GetModelStatus(
            GetModelStatusRequest(model_spec={"name": "other"}), 60
        )
    assert error.value.code() == code.NOT_FOUND
    no_field = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "small"}
    )
    with pytest.raises(grpc.RpcError) as error:
        server.predictions.GetModelMetadata(no_field, 60)
    assert error.value.code() == code.INVALID_ARGUMENT

    wanted = request_for(x=EXAMPLE)
    wanted.output_filter.append("classes")
    response = server.predictions.Predict(wanted, 60)
    assert set(response.outputs) == {"classes"}
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (
        1,
        "serving_default",
    )
    np.testing.assert_array_equal(
        tf.make_ndarray(response.outputs["classes"]), expected["classes"]
    )


def test_no_request_is_lost_while_versions_are_replaced(tmp_path):
    models = tmp_path / "models"
    (models / "counter").mkdir(parents=True)
    write_version(models / "counter", 1)
    server = Server(models)
    seen, done = set(), threading.Event()

    def ask(thread):
        """250 answers, and more until three versions have answered some thread."""
        channel = grpc.insecure_channel(
            server.grpc, [("grpc.use_local_subchannel_pool", 1)]
        )
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        newest = count = 0
        while count < 250 or len(seen) < 3:
            count += 1
            if thread % 2:
                response = stub.Predict(
                    request_for("counter", x=np.zeros(3, "float32")), 60
                )
                versions = tf.make_ndarray(response.outputs["version"]).tolist()
                assert versions == [response.model_spec.version.value] * 3
            else:
                response = server.post("counter", {"instances": [0.0] * 3})
                assert response.status_code == 200, response.text
                versions = response.json()["predictions"]
                assert len(versions) == 3
            (version,) = set(versions)
            assert version >= newest  # never back to an older one
            newest = version
            seen.add(version)
        return count

    def replace():
        for version in itertools.count(2):
            if done.wait(0.8):
                return
            write_version(models / "counter", version)
            shutil.rmtree(models / "counter" / str(version - 1))

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8), timeout=60))
    finally:
        done.set()
        replacing.join()
        code = server.stop()
    assert len(answers) == 8
    assert sum(answers) >= 2000
    assert code == 0


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_sigterm_lets_requests_under_way_finish(protocol, tmp_path):
    def wait(folder):
        """Leaves the file `started` in the folder and returns when it finds the file
        `go`."""
        tf.io.write_file(folder[0] + "/started", "")
        files = tf.constant(0)
        while files == 0:
            files = tf.size(tf.io.matching_files(folder[0] + "/go"))
        return {"found": tf.reshape(files, (1,))}

    write_module(
        tmp_path / "models" / "waits" / "1", wait, folder=tf.TensorSpec((1,), tf.string)
    )
    server = Server(tmp_path / "models")

    def ask():
        if protocol == "REST":
            return server.post("waits", {"inputs": [str(tmp_path)]}).json()["outputs"]
        request = request_for("waits", folder=[str(tmp_path)])
        return tf.make_ndarray(server.predictions.Predict(request, 60).outputs["found"])

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert not answer.done()
        assert server.process.poll() is None
        (tmp_path / "go").touch()
        assert answer.result() == [1]
    assert server.process.wait(timeout=30) == 0
    assert server.process.stdout.read().splitlines()[-1] == "stopped"
    with pytest.raises((requests.ConnectionError, grpc.RpcError)):
        ask()


def test_a_version_that_does_not_load_leaves_the_one_before(tmp_path):
    said = []
    (tmp_path / "m").mkdir()
    write_version(tmp_path / "m", 1)
    library = Library(tmp_path, said.append)
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "saved_model.pb").write_bytes(b"half")
    for _ in range(2):
        library.poll()
    assert library.get("m", None)[0] == 1
    assert said[0] == "m 1 is loaded"
    assert len(said) == 2  # told once
    assert said[1].startswith("m 2 does not load: ")
    states = {
        each.version: each for each in library.status("m", None).model_version_status
    }
    assert states[1].state == states[1].AVAILABLE
    assert states[2].state == states[2].END
    assert states[2].status.error_message in said[1]

    shutil.rmtree(tmp_path / "m" / "2")
    write_version(tmp_path / "m", 2)
    library.poll()
    assert library.get("m", 2)[0] == 2
    assert [
        each.version for each in library.status("m", None).model_version_status
    ] == [2]
    shutil.rmtree(tmp_path / "m")
    library.poll()
    with pytest.raises(RequestError, match="Servable not found"):
        library.get("m", None)


def test_a_request_finishes_on_the_version_it_began_with(tmp_path):
    (tmp_path / "m").mkdir()
    write_version(tmp_path / "m", 1)
    library = Library(tmp_path, lambda text: None)
    version, bundle = library.get("m", None)
    write_version(tmp_path / "m", 2)
    shutil.rmtree(tmp_path / "m" / "1")
    library.poll()
    assert library.get("m", None)[0] == 2
    x = np.zeros(2, "float32")
    assert bundle.predict("", {"x": x})["version"].tolist() == [1, 1]


def test_rest_knows_every_type(tmp_path):
    def call(flag, number, text):
        return {
            "chosen": tf.where(flag, number, -number),
            "text": tf.strings.join([text, "ü"]),
            "raw_bytes": text,
            "whole": tf.constant(3),
        }

    write_module(
        tmp_path / "mixed" / "1",
        call,
        flag=tf.TensorSpec((None,), tf.bool),
        number=tf.TensorSpec((None,), tf.int16),
        text=tf.TensorSpec((None,), tf.string),
    )
    client = Client(rest.application(Library(tmp_path, lambda text: None)))

    def post(body):
        return client.post("/v1/models/mixed:predict", data=json.dumps(body)).json

    inputs = {"flag": [True, False], "number": [1, 2], "text": ["a", {"b64": "Yg=="}]}
    assert post({"inputs": inputs}) == {
        "outputs": {
            "chosen": [1, -2],
            "text": ["aü", "bü"],
            "raw_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}],
            "whole": 3,
        }
    }
    for change, message in [
        ({"flag": [1, 0]}, "input 'flag' must be of type bool"),
        ({"number": [1.5, 2]}, "input 'number' must be of type int16"),
        ({"number": [1, 40_000]}, "input 'number' has numbers outside of int16"),
        ({"number": [1, 10**30]}, "input 'number' has numbers outside of int16"),
        ({"text": [1, "a"]}, "input 'text' must hold strings"),
    ]:
        assert message in post({"inputs": {**inputs, **change}})["error"]
    row = {"flag": True, "number": 1, "text": "a"}
    assert "ask by 'inputs'" in post({"instances": [row]})["error"]
    assert (
        "an object with the keys {flag, number, text}"
        in post({"instances": [1]})["error"]
    )


def test_the_largest_tensor_is_bounded(folder):
    bundle = Bundle(folder / "small" / "1")
    rows = MAXIMUM_BYTES // 16
    assert (
        len(bundle.predict("", {"x": np.zeros((rows, 4), "float32")})["classes"])
        == rows
    )
    with pytest.raises(RequestError, match="larger than 32 MiB"):
        bundle.predict("", {"x": np.zeros((rows + 1, 4), "float32")})


def test_bad_input_is_one_line_and_exit_code_2(folder, server):
    Path("empty").mkdir()
    taken = server.rest.partition(":")[2]
    for arguments, message in [
        (["nothing"], "nothing: no such folder"),
        (["empty"], "empty: no NAME/VERSION/saved_model.pb in it"),
        (
            [str(folder / "small")],
            f"is one model; serve the folder around it, {folder}",
        ),
        (
            [str(folder), "--port", "0", "--rest-port", taken],
            "Address already in use; name",
        ),
        (
            [str(folder), "--rest-port", "0", "--port", taken],
            "Address already in use; name",
        ),
        ([str(folder), "--rest-port", "99999"], "--rest-port 99999: "),
        ([str(folder), "--host", "nope"], "--host nope: no IPv4 address of this"),
    ]:
        finished = command("-m", "deep_learning_recipes.serving", "serve", *arguments)
        assert finished.returncode == 2, finished.stderr
        (line,) = [
            line for line in finished.stderr.splitlines() if line.startswith("error: ")
        ]
        assert message in line
        assert "Traceback" not in finished.stderr
