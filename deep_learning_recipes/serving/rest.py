"""TF Serving's REST interface over a library: JSON in row and column format, base64
strings."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from deep_learning_recipes.serving.bundle import (
    MAXIMUM_BYTES,
    RequestError,
    invalid,
    names,
)
from deep_learning_recipes.serving.library import Library

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?(:predict|/metadata)?")
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class LimitedRequest(Request):
    max_content_length = MAXIMUM_BYTES


def application(library: Library) -> "WSGIApplication":
    """The WSGI application that answers every request, be it well formed or not."""

    @LimitedRequest.application
    def answer(request: Request) -> Response:
        try:
            return as_response(route(library, request), 200)
        except RequestError as error:
            return as_response({"error": str(error)}, HTTP_STATUS.get(error.code, 500))
        except RequestEntityTooLarge:
            return as_response(
                {"error": f"the body is larger than {MAXIMUM_BYTES:,} bytes"}, 413
            )

    return answer


def as_response(body: dict[str, Any], status: int) -> Response:
    # Numbers that are not finite are written NaN and Infinity, as TF Serving writes
    # them.
    return Response(json.dumps(body) + "\n", status, content_type="application/json")


def route(library: Library, request: Request) -> dict[str, Any]:
    matched = PATH.fullmatch(request.path)
    method = "POST" if matched and matched[3] == ":predict" else "GET"
    if matched is None or request.method != method:
        raise invalid(f"Malformed request: {request.method} {request.path}")
    name, version = matched[1], int(matched[2]) if matched[2] else None
    if matched[3] == ":predict":
        return predict(library, name, version, request.get_data())
    if matched[3] == "/metadata":
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
    request = parse(body)
    signature_name = request.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' must be a string")
    signature = bundle.signature(signature_name, grpc.StatusCode.INVALID_ARGUMENT)
    if ("instances" in request) == ("inputs" in request):
        raise invalid(
            "the body must have either 'instances' (a list of rows) or 'inputs'"
        )
    rows = "instances" in request
    columns = (
        transposed(request["instances"], signature.inputs)
        if rows
        else named(request["inputs"], signature.inputs)
    )
    inputs = {
        key: as_array(key, value, tf.as_dtype(signature.inputs[key].dtype))
        for key, value in columns.items()
        if key in signature.inputs
    }
    if unknown := columns.keys() - inputs.keys():
        raise invalid(
            f"no input {names(unknown)}; the signature has {names(signature.inputs)}"
        )
    results = bundle.predict(signature_name, inputs)
    sizes = {value.shape[:1] for value in results.values()}
    if rows and (len(sizes) > 1 or () in sizes):
        raise invalid(
            "the outputs are not of one batch size: ask by 'inputs', not 'instances'"
        )
    outputs = {key: as_list(key, value) for key, value in results.items()}
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


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body."""

    def refuse(constant: str) -> NoReturn:
        raise invalid(f"JSON has no {constant}: numbers must be finite")

    try:
        request = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise invalid("the body must be a JSON object")
    return request


def is_base64(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"b64"}
        and isinstance(value["b64"], str)
    )


def named(value: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Column format: an object of named inputs, or the value of the only one."""
    if isinstance(value, dict) and not is_base64(value):
        return value
    if len(inputs) != 1:
        raise invalid(f"'inputs' must be an object with the keys {names(inputs)}")
    return {next(iter(inputs)): value}


def transposed(instances: Any, inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Row format as columns: a list of objects of named inputs, or of values of the
    only one."""
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list with at least one element")
    rows = [named(instance, inputs) for instance in instances]
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise invalid(
                f"instance {number} has other keys than the first: {names(row)}"
            )
    return {key: [row[key] for row in rows] for key in rows[0]}


def as_array(name: str, value: Any, dtype: tf.DType) -> np.ndarray:
    """A JSON value as an array of the type that input `name` has in the signature."""
    try:
        array = np.array(value, object if dtype == tf.string else None)
    except (ValueError, OverflowError) as error:
        raise invalid(
            f"input {name!r}: its lists are not of equal lengths at each depth"
        ) from error
    if dtype == tf.string:
        return np.array([as_bytes(name, each) for each in array.flat], object).reshape(
            array.shape
        )
    wanted = np.dtype(dtype.as_numpy_dtype)
    kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "fiu"
    if array.dtype.kind not in kinds and array.size:
        raise invalid(
            f"input {name!r} must be of type {dtype.name}, not {array.dtype.name}"
        )
    if (
        dtype.is_integer
        and array.size
        and not dtype.min <= array.min() <= array.max() <= dtype.max
    ):
        raise invalid(f"input {name!r} has numbers outside of {dtype.name}")
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if dtype.is_floating and not np.isfinite(converted).all():
        raise invalid(f"input {name!r} has numbers outside of {dtype.name}")
    return converted


def as_bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise invalid(
            f'input {name!r} must hold strings, or {{"b64": "..."}} for bytes'
        )
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise invalid(f"input {name!r}: not base64: {error}") from error


def as_list(name: str, value: np.ndarray) -> Any:
    """An output as JSON; bytes as text, or as base64 if the name ends in _bytes."""
    if value.dtype != object:
        return value.tolist()
    if name.endswith("_bytes"):
        encoded = [{"b64": base64.b64encode(each).decode()} for each in value.flat]
    else:
        encoded = [each.decode(errors="replace") for each in value.flat]
    return np.array(encoded, object).reshape(value.shape).tolist()
