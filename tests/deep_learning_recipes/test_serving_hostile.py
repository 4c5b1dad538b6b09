"""REST bodies and connections that are meant to hurt: each gets a short answer in JSON,
in little time and memory, and the next request its own."""

import functools
import http.client
import json
import resource
import socket
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from werkzeug.test import Client

from deep_learning_recipes.serving import layout, rest, server
from deep_learning_recipes.serving.bundle import MAXIMUM_BYTES, RequestError
from deep_learning_recipes.serving.library import Library


def save(path, call, **inputs):
    module = tf.Module()
    specs = [tf.TensorSpec(*spec, name=name) for name, spec in inputs.items()]
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, str(path), signatures=module.call)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(folder / "same/1", lambda x: {"y": x}, x=((None, 2), tf.float32))
    save(folder / "text/1", lambda t: {"y": t}, t=((None,), tf.string))
    save(folder / "any/1", lambda t: {"y": t}, t=(None, tf.string))
    save(folder / "half/1", lambda x: {"y": x}, x=((None,), tf.float16))
    save(
        folder / "types/1",
        lambda x: {"y": tf.cast(x, tf.bfloat16)},
        x=((None,), tf.float64),
    )
    save(folder / "none/1", lambda: {"y": tf.constant(1)})
    return Library(folder, lambda text: None)


@pytest.fixture
def post(library):
    client = Client(rest.application(library))

    def post(name, body):
        raw = body if isinstance(body, bytes) else body.encode()
        response = client.post(f"/v1/models/{name}:predict", data=raw)
        assert response.content_type == "application/json"
        return response.status_code, json.loads(response.text)

    return post


def test_nan_and_infinity_are_taken_and_given(post):
    body = '{"instances": [[NaN, Infinity], [-Infinity, 1e38]]}'
    status, answer = post("same", body)
    assert status == 200
    want = np.array([[np.nan, np.inf], [-np.inf, 1e38]], "float32")
    np.testing.assert_array_equal(np.float32(answer["predictions"]), want)
    assert post("same", '{"inputs": [[16777215, 16777217.0]]}')[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        r'{"inputs": ["\ud800"]}',
        r'{"inputs": ["a\uDFFFb"]}',
        r'{"inputs": ["\udc00\ud800"]}',
        r'{"instances": ["ok", "\ud83d"]}',
        r'{"inputs": {"\ud800": ["a"]}}',
        r'{"\uD800": 1, "inputs": ["a"]}',
        r'{"inputs": ["a"], "signature_name": "\ud800"}',
        r'{"inputs": [{"b64": "\ud800"}]}',
        b'{"inputs": ["\xed\xa0\x80"]}',  # the same without an escape
        b'{"inputs": ["\xff"]}',
        '{"inputs": ["é"]}'.encode("utf-16"),
        b'{"inputs": ["a\nb"]}',
        b"\0",
    ],
)
def test_half_a_surrogate_pair_is_no_json(body, post):
    status, answer = post("text", body)
    assert status == 400
    assert answer["error"].startswith("JSON Parse error: ")
    whole = r'{"inputs": ["\ud83d\ude00 \\ud800 é"]}'
    assert post("text", whole) == (200, {"outputs": ["😀 \\ud800 é"]})
    assert post("text", b'\xef\xbb\xbf{"inputs": ["a"]}')[0] == 200  # a mark of UTF-8


@pytest.mark.parametrize("depth", [2, 32, 33, 64, 65, 70, 300, 900, 100_000])
def test_strings_nested_deep(depth, post):
    body = '{"inputs": ' + "[" * depth + '"a"' + "]" * depth + "}"
    for name in ("text", "any"):
        status, answer = post(name, body)
        assert status == (200 if name == "any" and depth <= 32 else 400), answer
        assert len(str(answer)) < 1000


def test_a_tensor_of_many_dimensions_does_not_end_the_process(library):
    _, bundle = library.get("any", None)
    proto = tf.make_tensor_proto(np.array([b"a"], object))
    proto.tensor_shape.ClearField("dim")
    for _ in range(33):
        proto.tensor_shape.dim.add(size=1)
    for value in (proto, np.array([b"a"], object).reshape([1] * 33)):
        with pytest.raises(RequestError, match="more than 32 dimensions"):
            bundle.predict("", {"t": value})


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("text", '{"inputs": [{"b64": "é"}]}', "not base64"),
        ("text", '{"inputs": [{"b64": "a"}]}', "not base64"),
        ("text", '{"inputs": [{"b64": 1}]}', "must hold strings"),
        ("text", '{"inputs": [{"b64": "YQ==", "c": 1}]}', "must hold strings"),
        ("text", '{"inputs": [["a"], "b"]}', "not of equal lengths"),
        ("text", '{"inputs": ["b", ["a"]]}', "not of equal lengths"),
        ("text", '{"inputs": null}', "must hold strings"),
        ("text", '{"instances": [[]]}', "must be of shape (None,), not (1, 0)"),
        ("types", '{"inputs": [1.5]}', "output 'y': JSON has no bfloat16"),
        ("none", '{"inputs": 1}', "an object with the keys {}"),
        ("same", '{"inputs": {"' + "k" * 10**6 + '": 1}}', "no input {kkk"),
        ("same", f'{{"inputs": [[{"9" * 5000}, 1]]}}', "JSON Parse error"),
        ("same", '{"inputs": [[Infinity, -1e400]]}', "-1e400 is too big for a double"),
    ],
)
def test_what_no_tensor_can_be_made_of(name, body, message, post):
    status, answer = post(name, body)
    assert status == 400
    assert message in answer["error"]
    assert len(answer["error"]) <= 1000


def test_types_that_tf_servings_json_lacks(post):
    status, answer = post("half", '{"inputs": [1.5]}')
    assert (status, answer["error"]) == (
        501,
        "input 'x': REST has no float16; ask by gRPC",
    )
    assert post("none", '{"inputs": {}}') == (200, {"outputs": 1})
    lenient = '{"inputs": [{"b64": "YWJj\\nZGU"}]}'  # a line's end, no padding
    assert post("text", lenient) == (200, {"outputs": ["abcde"]})


HUGE = {
    "empty lists": b'{"inputs": [' + b"[]," * 10_400_000 + b"[]]}",
    "empty objects": b'{"instances": [' + b"{}," * 10_400_000 + b"{}]}",
    "as many lists as there may be": b'{"inputs": ['
    + b"[]," * (rest.json_tensors.MAXIMUM_LISTS - 4)
    + b"[]]}",
    "numbers": b'{"instances": [' + b"1," * 15_600_000 + b"1]}",
    "texts": b'{"instances": [' + b'"ab",' * 4_000_000 + b'"ab"]}',
}


@pytest.mark.parametrize("kind", HUGE)
def test_bodies_of_31_megabytes_cost_little(kind, post):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    status, answer = post("same", HUGE[kind])
    assert status == (413 if kind.startswith("empty") else 400)
    assert len(answer["error"]) < 1000
    assert time.monotonic() - start < 8
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1e6  # kilobytes


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("same/versions/99999999999999999999", 400, "99999999999999999999 to numeric"),
        (f"same/versions/{'9' * 5000}", 400, "Failed to convert version: 999"),
        ("same/versions/9223372036854775807", 404, "Could not find any versions"),
        ("same/versions/١", 400, "Malformed request"),
        ("same/labels/stable", 400, "no version label 'stable'"),
        ("%ED%A0%80", 404, "Could not find any versions"),
        ("", 400, "Malformed request"),
    ],
)
def test_addresses(path, status, message, library):
    response = Client(rest.application(library)).get(f"/v1/models/{path}")
    assert (response.status_code, message in response.json["error"]) == (status, True)


def test_a_fault_of_the_server_is_told_in_json(library, post, monkeypatch, capsys):
    monkeypatch.setattr(rest, "predict", lambda *_: 1 / 0)
    assert post("same", "{}") == (500, {"error": "ZeroDivisionError: division by zero"})
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number", ["99999999999999999999", "9223372036854775808", "9" * 5000, "²", "-1"]
)
def test_folders_that_tf_serving_passes_over(number, tmp_path):
    if len(number) < 255:
        save(tmp_path / "m" / number, lambda: {"y": tf.constant(1)})
        (path,) = layout.find_versions(tmp_path)
        assert path.name == number
    assert not layout.is_version(number)
    save(tmp_path / "m" / "9223372036854775807", lambda: {"y": tf.constant(2)})
    said = []
    library = Library(tmp_path, said.append)
    assert said == ["m 9223372036854775807 is loaded"]
    assert library.get("m", None)[0] == 2**63 - 1
    assert library.status("m", None).model_version_status[0].version == 2**63 - 1


@pytest.fixture
def listening(library, monkeypatch):
    """The port of a REST server that waits a second for a whole request, for two at
    once."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    with server.listen("127.0.0.1", 0, "--rest-port") as listener:
        rest_server = server.RestServer("127.0.0.1", listener, library)
        thread = threading.Thread(target=rest_server.serve_forever, args=[0.05])
        thread.start()
        yield listener.getsockname()[1]
        rest_server.stop()
        thread.join()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


HEAD = b"POST /v1/models/same:predict HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD + b"X-Long: ", HEAD + b"Content-Length: 99\r\n\r\n"],
    ids=["nothing", "headers", "body"],
)
def test_who_drips_is_cut_off(sent, listening):
    start = time.monotonic()
    with connect(listening) as connection:
        connection.sendall(sent)
        connection.settimeout(0.2)
        answer = b""
        while time.monotonic() - start < 8:
            try:
                connection.sendall(b" ")
                received = connection.recv(1000)
                answer += received
                if not received:
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert 0.9 < time.monotonic() - start < 5
    if sent.endswith(b"\r\n\r\n") and answer:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error": "the body did not arrive whole' in answer


def test_more_connections_than_threads_wait_their_turn(listening, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 60)
    monkeypatch.setattr(server, "CROWDED_SECONDS", 1)
    dripping = [connect(listening) for _ in range(5)]  # two hold the places at a time
    answers = []

    def ask():
        client = http.client.HTTPConnection("127.0.0.1", listening, timeout=10)
        client.request("GET", "/v1/models/same")
        answers.append(client.getresponse().status)
        client.close()

    asking = [threading.Thread(target=ask) for _ in range(6)]
    for each in asking:
        each.start()
    time.sleep(0.3)
    serving = [t for t in threading.enumerate() if "process_request" in t.name]
    assert len(serving) == 2
    for each in asking:
        each.join()
    assert answers == [200] * 6
    for each in dripping:
        each.close()


@pytest.mark.parametrize(
    ("size", "status"), [(MAXIMUM_BYTES, 400), (MAXIMUM_BYTES + 1, 413)]
)
def test_a_body_in_chunks_is_whole_or_too_large(size, status, listening):
    client = http.client.HTTPConnection("127.0.0.1", listening, timeout=10)
    chunk = b" " * 2**20
    chunks = iter(functools.partial(next, iter([chunk] * (size // 2**20)), b""), b"")
    parts = [*chunks, b"{" * (size % 2**20)]
    client.request("POST", "/v1/models/same:predict", iter(parts), encode_chunked=True)
    response = client.getresponse()
    error = json.loads(response.read())["error"]
    assert response.status == status
    assert ("larger than 33,554,432" if status == 413 else "JSON Parse error") in error


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"A: b\r\n" * 200 + b"\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nabc",
        b"\xff\xfe\0\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_answer_or_none_but_no_html(raw, listening, capfd):
    with connect(listening) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(10_000):
            answer += received
    assert b"<" not in answer
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2] or answer)["error"]
    client = http.client.HTTPConnection("127.0.0.1", listening, timeout=10)
    client.request("GET", "/v1/models/same")
    assert client.getresponse().status == 200
    assert "Traceback" not in capfd.readouterr().err
