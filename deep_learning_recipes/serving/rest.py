"""TF Serving's REST interface over a library: JSON in row and column format, base64
strings."""

import json
import re
import threading
import traceback
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
)
from werkzeug.wrappers import Request, Response

from deep_learning_recipes.serving import json_tensors, layout
from deep_learning_recipes.serving.bundle import (
    MAXIMUM_BYTES,
    RequestError,
    first_line,
    invalid,
)
from deep_learning_recipes.serving.library import Library

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PATH = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?(:predict|/metadata)?"
)
HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""as in TF Serving; the others are 500"""
READING = threading.Lock()
"""One body at a time becomes arrays: Python would not read two of them faster, and both
would need their memory."""


class LimitedRequest(Request):
    # One byte more, or a body sent in chunks would be cut at the limit without a word.
    max_content_length = MAXIMUM_BYTES + 1


def application(library: Library) -> "WSGIApplication":
    """The WSGI application that answers every request in JSON, be it well formed or
    not."""

    @LimitedRequest.application
    def answer(request: Request) -> Response:
        try:
            return as_response(route(library, request), 200)
        except RequestError as error:
            return as_error(str(error), HTTP_STATUS.get(error.code, 500))
        except json_tensors.TooLarge as error:
            return as_error(str(error), 413)
        except RequestEntityTooLarge:
            return as_error(f"the body is larger than {MAXIMUM_BYTES:,} bytes", 413)
        except ClientDisconnected:
            return as_error("the body did not arrive whole, or not in time", 408)
        except HTTPException as error:
            return as_error(error.description or error.name, error.code or 500)
        except Exception as error:
            traceback.print_exc()
            return as_error(f"{type(error).__name__}: {first_line(error)}", 500)

    return answer


def as_error(message: str, status: int) -> Response:
    return as_response({"error": message}, status)


def as_response(body: dict[str, Any], status: int) -> Response:
    # Numbers that are not finite are written NaN and Infinity, as TF Serving writes
    # them.
    return Response(json.dumps(body) + "\n", status, content_type="application/json")


def route(library: Library, request: Request) -> dict[str, Any]:
    matched = PATH.fullmatch(request.path)
    method = "POST" if matched and matched[4] == ":predict" else "GET"
    if matched is None or request.method != method:
        raise invalid(f"Malformed request: {request.method} {request.path}")
    name, version = matched[1], None
    if matched[2]:
        if not layout.is_version(matched[2]):
            raise invalid(f"Failed to convert version: {matched[2]} to numeric.")
        version = int(matched[2])
    if matched[3]:
        raise invalid(f"no version label {matched[3]!r}: ask by number")
    if matched[4] == ":predict":
        body = request.get_data()
        if len(body) > MAXIMUM_BYTES:
            raise RequestEntityTooLarge
        return predict(library, name, version, body)
    if matched[4] == "/metadata":
        return metadata(library, name, version)
    return as_dict(library.status(name, version))


def metadata(library: Library, name: str, version: int | None) -> dict[str, Any]:
    loaded, bundle = library.get(name, version)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(loaded)},
        "metadata": {
            "signature_def": as_dict(SignatureDefMap(signature_def=bundle.signatures))
        },
    }


def as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def predict(
    library: Library, name: str, version: int | None, body: bytes
) -> dict[str, Any]:
    """Answers {"instances": [...]} by {"predictions": [...]}, {"inputs": ...} by
    {"outputs": ...}; a single named output stands there without its name."""
    _, bundle = library.get(name, version)
    with READING:
        request = json_tensors.parse(body)
        signature_name = request.get("signature_name", "")
        if not isinstance(signature_name, str):
            raise invalid("'signature_name' must be a string")
        signature = bundle.signature(signature_name, grpc.StatusCode.INVALID_ARGUMENT)
        inputs = json_tensors.read_columns(request, signature.inputs)
        rows = "instances" in request
        del request
    results = bundle.predict(signature_name, inputs)
    sizes = {value.shape[:1] for value in results.values()}
    if rows and (len(sizes) > 1 or () in sizes):
        raise invalid(
            "the outputs are not of one batch size: ask by 'inputs', not 'instances'"
        )
    outputs = {key: json_tensors.as_list(key, each) for key, each in results.items()}
    (first, *others) = outputs.values()
    if not rows:
        return {"outputs": outputs if others else first}
    if not others:
        return {"predictions": first}
    return {
        "predictions": [
            dict(zip(outputs, row, strict=True))
            for row in zip(*outputs.values(), strict=True)
        ]
    }
