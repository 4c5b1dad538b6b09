"""An example of a model's inputs: checked before anything is written, and as a request."""

from __future__ import annotations

import base64
import json
import keyword
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from deep_learning_recipes import UsageError

NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
"""what TensorFlow takes for the name of a node"""


def check_names(inputs: Mapping[str, Any]) -> None:
    """Raises UsageError for an input name that a SavedModel's signature cannot hold."""
    for name in inputs:
        if not NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
            raise UsageError(
                f"input {name!r} has a name that no SavedModel takes; rename it by "
                "keras.Input(name=...): ASCII letters, digits, '_', '.' and '-', a "
                "letter or digit first, and no word of Python"
            )


def as_arrays(inputs: Mapping[str, Any], example: Any) -> dict[str, np.ndarray]:
    """An example as one array for each symbolic input, of its type and shape.

    example: an array, or several in the order of the inputs, or a dict of them.
    Raises UsageError for what the inputs do not take: they share a number of rows, of
    one or more, but for those without a batch axis.
    """
    if not isinstance(example, Mapping):
        example = dict(zip(inputs, in_order(inputs, example), strict=True))
    if missing := inputs.keys() - example.keys():
        raise UsageError(f"the example lacks the inputs {sorted(missing)}")
    if unknown := example.keys() - inputs.keys():
        raise UsageError(
            f"the example has {sorted(unknown)}, but the inputs are {sorted(inputs)}"
        )
    arrays = {
        name: as_array(name, tensor, example[name]) for name, tensor in inputs.items()
    }
    sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise UsageError(f"the example needs rows, as many for each input: {sizes}")
    return arrays


def in_order(inputs: Mapping[str, Any], example: Any) -> list[Any]:
    """An example that is no dict as a list with a value for each input."""
    several = isinstance(example, list | tuple)
    if len(inputs) == 1:
        wrapped = several and len(example) == 1 and hasattr(example[0], "shape")
        return list(example) if wrapped else [example]
    if not several or len(example) != len(inputs):
        raise UsageError(
            f"the example must hold an array for each input: {sorted(inputs)}"
        )
    return list(example)


def as_array(name: str, tensor: Any, value: Any) -> np.ndarray:
    """A value as an array of a symbolic input's type and shape."""
    import tensorflow as tf

    shape, dtype = tf.TensorShape(tensor.shape), tf.as_dtype(tensor.dtype)
    if shape.rank and shape[0] is not None:
        raise UsageError(
            f"input {name!r} has a fixed batch size of {shape[0]}, but clients send any: "
            "use keras.Input(shape), without the batch"
        )
    try:
        array = np.asarray(value, object if dtype == tf.string else None)
        converted = array.astype(dtype.as_numpy_dtype)
        kept = (
            all(isinstance(each, str | bytes) for each in array.flat)
            if dtype == tf.string
            else array.dtype.kind not in "USO"
            and (dtype.is_floating or np.array_equal(converted, array))
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the example of input {name!r}: {error}") from error
    if not kept:
        raise UsageError(f"the example of input {name!r} must hold {dtype.name} alone")
    if not shape.is_compatible_with(array.shape):
        raise UsageError(
            f"the example of input {name!r} must be of shape {shape}, not {array.shape}"
        )
    return converted


def request_body(inputs: Mapping[str, np.ndarray]) -> str:
    """A body for REST's :predict: the first example in row format, or the whole in
    column format where an input has no batch axis.

    Numbers that are not finite are written NaN and Infinity, as TF Serving reads them.
    """
    if all(value.ndim for value in inputs.values()):
        body: dict[str, Any] = {
            "instances": [{name: as_json(value[0]) for name, value in inputs.items()}]
        }
    else:
        body = {"inputs": {name: as_json(value) for name, value in inputs.items()}}
    return json.dumps(body) + "\n"


def as_json(value: Any) -> Any:
    """An array or string as JSON's lists, numbers and texts; bytes that are no UTF-8
    in base64."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [as_json(each) for each in value] if value.ndim else as_json(value[()])
    if isinstance(value, np.ndarray | np.generic):
        known = value.dtype.kind in "biuf"  # bfloat16's kind is V
        return (value if known else value.astype(np.float32)).tolist()
    return value
