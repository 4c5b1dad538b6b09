"""`serve`: TF Serving's gRPC and REST interfaces for trying out. It is not TF
Serving: Python answers each request by itself, without batching, access control or
encryption."""

import contextlib
import functools
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from deep_learning_recipes import UsageError
from deep_learning_recipes.serving import rest
from deep_learning_recipes.serving.bundle import MAXIMUM_BYTES, RequestError, invalid
from deep_learning_recipes.serving.library import Library

THREADS = 8
CONNECTIONS = 64
"""that REST reads or answers at once"""
REQUEST_SECONDS = 20
"""for a request over REST to arrive whole"""
CROWDED_SECONDS = 3
"""for the same while others wait for its place"""
GRACE_SECONDS = 10
"""for requests that are under way when the server is told to stop"""


def serve(folder: Path, host: str, port: int, rest_port: int) -> int:
    """Answers requests to the models below `folder` until SIGTERM or Ctrl-C; returns 0.

    Port 0 takes a free one. Raises UsageError if a port cannot be had.
    """
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    with listen(host, rest_port, "--rest-port") as listener:
        grpc_server, port = bind_grpc(host, port)
        library = Library(folder, functools.partial(print, flush=True))
        add_services(grpc_server, library)
        rest_server = RestServer(host, listener, library)
        grpc_server.start()
        threading.Thread(target=rest_server.serve_forever, daemon=True).start()
        polling = threading.Thread(target=library.keep_polling, args=[stop])
        polling.start()
        address = f"http://{host}:{listener.getsockname()[1]}/v1/models/"
        print(
            f"gRPC {host}:{port}, REST {address}; for trying out, not TF Serving",
            flush=True,
        )
        stop.wait()
        rest_server.stop()
        grpc_server.stop(GRACE_SECONDS).wait()
        polling.join()
    print("stopped", flush=True)
    return 0


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket. Raises UsageError if the host is none of this machine, or the
    port cannot be had."""
    try:
        # Any free port: what fails here is the host.
        socket.create_server((host, 0)).close()
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {host or repr(host)}: no IPv4 address of this machine; 127.0.0.1 for "
            "it alone, 0.0.0.0 for all that reach it"
        ) from error
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        reason = said.partition(" (")[0]  # Python adds the address
        raise UsageError(
            f"{flag} {port}: {reason}; name another, or 0 for a free one"
        ) from error


def bind_grpc(host: str, port: int) -> tuple[grpc.Server, int]:
    server = grpc.server(
        ThreadPoolExecutor(THREADS),
        options=[
            ("grpc.max_receive_message_length", MAXIMUM_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or two servers would share the port in silence
        ],
    )
    listen(
        host, port, "--port"
    ).close()  # its error says what is wrong, gRPC's does not
    try:
        return server, server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise UsageError(f"--port {port}: cannot be had; name another") from error


def add_services(server: grpc.Server, library: Library) -> None:
    """Adds TF Serving's PredictionService and ModelService."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(library), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(library), server
    )


def answered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a RequestError the status of the call."""

    @functools.wraps(method)
    def wrapper(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except RequestError as error:
            context.abort(error.code, str(error))

    return wrapper


def asked_version(request: Any) -> int | None:
    """The version that a request names, if it names one."""
    spec = request.model_spec
    if spec.version_label:
        raise invalid(f"no version label {spec.version_label!r}: ask by number")
    return spec.version.value if spec.HasField("version") else None


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods answer UNIMPLEMENTED."""

    def __init__(self, library: Library):
        self.library = library

    @answered
    def Predict(self, request):
        version, bundle = self.library.get(
            request.model_spec.name, asked_version(request)
        )
        name = request.model_spec.signature_name
        outputs = bundle.predict(name, request.inputs, request.output_filter)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = name or "serving_default"
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    @answered
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid("metadata_field must be signature_def")
        version, bundle = self.library.get(
            request.model_spec.name, asked_version(request)
        )
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        signatures = get_model_metadata_pb2.SignatureDefMap(
            signature_def=bundle.signatures
        )
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, library: Library):
        self.library = library

    @answered
    def GetModelStatus(self, request):
        return self.library.status(request.model_spec.name, asked_version(request))


class Handler(WSGIRequestHandler):
    """Reads one request, whose whole must be there in time, and answers in JSON."""

    timeout = GRACE_SECONDS  # for a client that does not read its answer
    error_content_type = "application/json"
    error_message_format = '{"error": "%(message)s"}\n'

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(InTime(self.connection, self.server))

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Of what is no HTTP; the message quotes it."""
        quoted = json.dumps(message)[1:-1] if message else None
        super().send_error(code, quoted, explain)

    def log(self, *_):
        """Requests are not logged, one by one."""


class InTime(io.RawIOBase):
    """What a connection sends within REQUEST_SECONDS, or CROWDED_SECONDS if the server
    has no place left; TimeoutError after that.

    A timeout of the socket begins anew with each byte, so who sends one at a time would
    keep a thread for ever.
    """

    def __init__(self, connection: socket.socket, server: Any):
        self.connection, self.server = connection, server
        self.start = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while True:
                seconds = CROWDED_SECONDS if self.server.crowded else REQUEST_SECONDS
                left = self.start + seconds - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the request did not arrive in time")
                self.connection.settimeout(min(left, 0.5))
                with contextlib.suppress(TimeoutError):
                    return self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(GRACE_SECONDS)


class RestServer(ThreadedWSGIServer):
    """TF Serving's REST interface on a listening socket, a thread for each connection,
    and no more of them than CONNECTIONS: the next one waits its turn."""

    def __init__(self, host: str, listener: socket.socket, library: Library):
        port = listener.getsockname()[1]
        super().__init__(
            host, port, rest.application(library), Handler, fd=listener.fileno()
        )
        self.connections = 0
        self.crowded = self.stopping = False
        self.changed = threading.Condition()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            self.crowded = self.connections >= CONNECTIONS
            self.changed.wait_for(
                lambda: self.connections < CONNECTIONS or self.stopping
            )
            self.crowded = False
            self.connections += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Until the answer is written to the last byte."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.changed:
                self.connections -= 1
                self.changed.notify_all()

    def stop(self) -> None:
        """Takes no more connections and waits for the answers under way."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.shutdown()
        with self.changed:
            self.changed.wait_for(lambda: self.connections == 0, GRACE_SECONDS)
