"""Asks a signature for batches of several sizes, made of a recorded or a guessed
input."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from deep_learning_recipes.serving.bundle import MAXIMUM_BYTES, Bundle, RequestError
from deep_learning_recipes.serving.findings import FAULT, NOTE

BATCH_SIZES = (1, 3)
GUESSED_SIZES = (1, 32)
"""of free dimensions other than the batch: of one pixel a convolution may leave none"""


def try_record(
    bundle: Bundle,
    name: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, str]]:
    """Tries a recorded request in other sizes.

    What fails is a fault if the recorded answer has a row for each of the request's. A
    signal or a text may need more than one number: that is a note.
    """
    signature = bundle.signatures[name]
    batch = batch_of(signature, inputs)
    rows = {len(value) for value in batch.values()}
    answered = {
        outputs[key].shape[:1] for key in outputs if is_free(signature.outputs[key])
    }
    by_rows = answered <= {(size,) for size in rows}
    vectors = any(value.ndim > 1 for value in batch.values())
    yield from try_batches(
        bundle, name, inputs, batch, FAULT if by_rows and vectors else NOTE
    )


def try_guess(bundle: Bundle, name: str) -> Iterator[tuple[str, str]]:
    """Tries a signature without a record with zeros. It may rightly refuse them, so
    what fails is a note."""
    refused = ""
    for size in GUESSED_SIZES:
        inputs = guess(bundle.signatures[name], size)
        if inputs is None:
            return
        try:
            bundle.predict(name, inputs)
        except RequestError as error:
            refused = str(error)
            continue
        batch = batch_of(bundle.signatures[name], inputs)
        yield from try_batches(bundle, name, inputs, batch, NOTE)
        return
    yield NOTE, f"{name}: not tried, since it refuses zeros: {refused}"


def try_batches(
    bundle: Bundle,
    name: str,
    inputs: Mapping[str, np.ndarray],
    batch: Mapping[str, np.ndarray],
    kind: str,
) -> Iterator[tuple[str, str]]:
    """Asks for as many rows of `batch`, repeated if need be, as BATCH_SIZES says; the
    other `inputs` stay as they are."""
    for size in BATCH_SIZES if batch else ():
        resized = {
            key: np.resize(value, (size, *value.shape[1:]))
            for key, value in batch.items()
        }
        try:
            outputs = bundle.predict(name, {**inputs, **resized})
        except RequestError as error:
            yield kind, f"{name}: a batch of {size}: {error}"
            continue
        for key, value in outputs.items():
            if value.shape[:1] != (size,):
                yield (
                    NOTE,
                    f"{name}: {size} rows give {key} of shape {value.shape}; REST "
                    "refuses 'instances' then, ask by 'inputs'",
                )


def batch_of(signature: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those inputs that have a row for each example: the first dimension is free (or,
    if none is, there) and the same for all. None of them is if they differ."""
    lists = {name: value for name, value in inputs.items() if value.ndim}
    free = {
        name: value for name, value in lists.items() if is_free(signature.inputs[name])
    }
    batch = free or lists
    return batch if len({len(value) for value in batch.values()}) == 1 else {}


def is_free(info: Any) -> bool:
    """Whether the first dimension of a TensorInfo's tensor can be of any size."""
    shape = info.tensor_shape
    return shape.unknown_rank or bool(shape.dim and shape.dim[0].size == -1)


def guess(signature: Any, size: int) -> dict[str, np.ndarray] | None:
    """The simplest input of a signature: one row, and `size` for each other free
    dimension. None where zeros say nothing ("" is no image file, say)."""
    inputs = {}
    for name, info in signature.inputs.items():
        dtype = tf.as_dtype(info.dtype)
        shape = [dim.size for dim in info.tensor_shape.dim]
        shape = [1 if dim < 0 else dim for dim in shape[:1]] + [
            size if dim < 0 else dim for dim in shape[1:]
        ]
        if dtype == tf.string or not dtype.is_numpy_compatible:
            return None
        if math.prod(shape) * dtype.size > MAXIMUM_BYTES:
            return None
        inputs[name] = np.zeros(shape, dtype.as_numpy_dtype)
    return inputs
