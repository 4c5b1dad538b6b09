"""JSON as tensors and tensors as JSON, by the rules of TF Serving's REST interface."""

import base64
import contextlib
import gc
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from deep_learning_recipes.serving.bundle import (
    MAXIMUM_BYTES,
    MAXIMUM_RANK,
    RequestError,
    invalid,
    names,
)

MAXIMUM_LISTS = 2**21
"""lists and objects of a body: even an empty one takes some hundred bytes in Python"""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class TooLarge(Exception):
    """A body that would take too much memory."""


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body, NaN, Infinity and -Infinity included.

    Raises TooLarge before too many lists are made of it, and RequestError for what is
    no JSON, be it only a number that no double holds or half of a surrogate pair.
    """
    if body.count(b"[") + body.count(b"{") > MAXIMUM_LISTS:
        raise TooLarge(f"the body has more than {MAXIMUM_LISTS:,} lists and objects")
    try:
        with without_collecting():
            request = json.loads(body.decode("utf-8-sig"), parse_float=as_float)
        if SURROGATE.search(body):
            json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        said = str(error).partition(" in position")[0]
        raise invalid(f"JSON Parse error: {said}") from error
    if not isinstance(request, dict):
        raise invalid("the body must be a JSON object")
    return request


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """JSON's lists are in no cycle: to look for one meanwhile takes twenty times as
    long as to read them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def as_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too big for a double")
    return number


def read_columns(request: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by input name of a request in row or column format."""
    if ("instances" in request) == ("inputs" in request):
        raise invalid(
            "the body must have either 'instances' (a list of rows) or 'inputs'"
        )
    columns = (
        transposed(request["instances"], inputs)
        if "instances" in request
        else named(request["inputs"], inputs)
    )
    if unknown := columns.keys() - inputs.keys():
        raise invalid(f"no input {names(unknown)}; the signature has {names(inputs)}")
    return {
        key: as_array(key, value, tf.as_dtype(inputs[key].dtype))
        for key, value in columns.items()
    }


def is_base64(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"b64"}
        and isinstance(value["b64"], str)
    )


def is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def named(value: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Column format: an object of named inputs, or the value of the only one."""
    if is_named(value):
        return value
    if len(inputs) != 1:
        raise invalid(f"'inputs' must be an object with the keys {names(inputs)}")
    return {next(iter(inputs)): value}


def transposed(instances: Any, inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Row format as columns: a list of objects of named inputs, or of values of the
    only one."""
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list with at least one element")
    first = instances[0]
    if dict not in set(map(type, instances)):  # quickly told of millions
        return named(instances, inputs)
    for number, row in enumerate(instances):
        if is_named(row) != is_named(first):
            raise invalid(f"instance {number} is no object where the others are, or is")
        if is_named(row) and row.keys() != first.keys():
            raise invalid(
                f"instance {number} has other keys than the first: {names(row)}"
            )
    if not is_named(first):
        return named(instances, inputs)
    return {key: [row[key] for row in instances] for key in first}


def as_array(name: str, value: Any, dtype: tf.DType) -> np.ndarray:
    """A JSON value as an array of the type that input `name` has in the signature."""
    shape, flat = flattened(name, value)
    if dtype == tf.string:
        flat = [as_bytes(name, each) for each in flat]
        return np.array(flat, object).reshape(shape)
    if not (dtype.is_bool or dtype.is_integer or dtype in (tf.float32, tf.float64)):
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"input {name!r}: REST has no {dtype.name}; ask by gRPC",
        )
    if len(flat) * dtype.size > MAXIMUM_BYTES:
        raise invalid(f"input {name!r} of shape {tuple(shape)} is larger than 32 MiB")
    wanted = {bool} if dtype.is_bool else {int} if dtype.is_integer else {int, float}
    types = set(map(type, flat))
    if others := types - wanted:
        given = min(each.__name__ for each in others)
        raise invalid(f"input {name!r} must be of type {dtype.name}, not {given}")
    if (
        dtype.is_integer
        and flat
        and not dtype.min <= min(flat) <= max(flat) <= dtype.max
    ):
        raise invalid(f"input {name!r} has numbers outside of {dtype.name}")
    if dtype.is_floating:
        wholes = [each for each in flat if type(each) is int] if int in types else []
        check_floats(name, flat, wholes, dtype)
    return np.array(flat, dtype.as_numpy_dtype).reshape(shape)


def flattened(name: str, value: Any) -> tuple[list[int], list[Any]]:
    """The shape of a nested list and its values in a row."""
    shape: list[int] = []
    flat = [value]
    while list in (types := set(map(type, flat))):
        if len(types) > 1 or len(set(map(len, flat))) > 1:
            raise invalid(
                f"input {name!r}: its lists are not of equal lengths at each depth"
            )
        shape.append(len(flat[0]))
        if len(shape) > MAXIMUM_RANK:
            raise invalid(f"input {name!r} has more than {MAXIMUM_RANK} dimensions")
        flat = list(itertools.chain.from_iterable(flat))
    return shape, flat


def check_floats(
    name: str, flat: list[Any], wholes: list[int], dtype: tf.DType
) -> None:
    """Refuses what TF Serving refuses: a number beyond the type's range, and a whole one
    that loses digits. NaN and Infinity pass."""
    limit = 2 ** (np.finfo(dtype.as_numpy_dtype).nmant + 1) - 1
    largest = max(map(abs, wholes), default=0)
    if largest > limit:
        raise invalid(
            f"input {name!r}: the whole number {float(min(largest, 10**300)):g} loses "
            f"digits as {dtype.name}; write it with a point"
        )
    numbers = np.array(flat, np.float64)
    if (np.isfinite(numbers) & (np.abs(numbers) > dtype.max)).any():
        raise invalid(f"input {name!r} has numbers outside of {dtype.name}")


def as_bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise invalid(
            f'input {name!r} must hold strings, or {{"b64": "..."}} for bytes'
        )
    # White space between and no padding behind is well, as in TF Serving.
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise invalid(f"input {name!r}: not base64: {error}") from error


def as_list(name: str, value: np.ndarray) -> Any:
    """An output as JSON; bytes as text, or as base64 if the name ends in _bytes."""
    if value.dtype.kind in "biuf":
        return value.tolist()
    if value.dtype != object:
        raise invalid(f"output {name!r}: JSON has no {value.dtype.name}; ask by gRPC")
    if name.endswith("_bytes"):
        encoded = [{"b64": base64.b64encode(each).decode()} for each in value.flat]
    else:
        encoded = [each.decode(errors="replace") for each in value.flat]
    return np.array(encoded, object).reshape(value.shape).tolist()
