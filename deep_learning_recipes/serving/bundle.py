"""One version of a model, loaded and run as TF Serving does it: graph, signatures,
session."""

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from deep_learning_recipes.serving import layout

DEFAULT_SIGNATURE = "serving_default"
MAXIMUM_BYTES = 32 * 2**20
"""of a request, and of each tensor in it"""
MAXIMUM_RANK = 32
"""TensorFlow's session ends the process on a tensor of strings with more dimensions"""


class RequestError(Exception):
    """A request that cannot be answered, with TF Serving's code for it."""

    def __init__(self, code: grpc.StatusCode, message: str):
        # Names that a client sends stand in it: gRPC carries no more than some thousand.
        super().__init__(message if len(message) <= 1000 else message[:997] + "...")
        self.code = code


invalid = functools.partial(RequestError, grpc.StatusCode.INVALID_ARGUMENT)


class Bundle:
    """A loaded version. Threads may call `predict` at once; the session ends with the
    last reference to the bundle, so a request that is under way finishes on the version
    it began with.

    It takes the route of TF Serving, and so meets its errors: SignatureDefs and a
    session, where tf.saved_model.load would rebuild Python functions.
    """

    def __init__(self, path: Path):
        self.path = path
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = {
            name: signature
            for name, signature in loaded.signature_def.items()
            if signature.method_name  # __saved_model_init_op has none
        }
        with self.session.graph.as_default():
            self.calls = {
                name: self.session.make_callable(
                    {key: info.name for key, info in signature.outputs.items()},
                    [info.name for info in signature.inputs.values()],
                )
                for name, signature in self.signatures.items()
                if runs(signature)
            }

    def predict(
        self,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs a signature ("" is serving_default).

        inputs: TensorProtos or arrays by input name.
        outputs: the names of those to return; none for all.
        Raises RequestError for what the signature does not take and for what the graph
        refuses.
        """
        signature = self.signature(name, grpc.StatusCode.FAILED_PRECONDITION)
        if not runs(signature):
            raise invalid("the signature has sparse or ragged tensors, or no outputs")
        if missing_or_extra := set(inputs) ^ set(signature.inputs):
            raise invalid(
                f"inputs {names(inputs)} do not match the signature's {names(signature.inputs)}: "
                f"{names(missing_or_extra)} sent extra or missing"
            )
        wanted = list(outputs) or list(signature.outputs)
        if unknown := set(wanted) - set(signature.outputs):
            raise invalid(
                f"output {names(unknown)} is not in the signature: {names(signature.outputs)}"
            )
        fed = [
            as_array(key, inputs[key], info) for key, info in signature.inputs.items()
        ]
        try:
            results = self.calls[name or DEFAULT_SIGNATURE](*fed)
        except tf.errors.OpError as error:
            raise RequestError(STATUS[error.error_code], first_line(error)) from error
        return {key: results[key] for key in wanted}

    def signature(self, name: str, code: grpc.StatusCode) -> Any:
        """The SignatureDef of that name ("" is serving_default). Raises RequestError
        with `code` if there is none: TF Serving's gRPC and REST differ in it."""
        try:
            return self.signatures[name or DEFAULT_SIGNATURE]
        except KeyError:
            raise RequestError(
                code,
                f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found; there is '
                f"{names(self.signatures)}",
            ) from None

    def warm_up_records(self) -> list[PredictionLog]:
        """The recorded requests to Predict of this version; none if it has no such
        file."""
        path = self.path / layout.WARM_UP
        if not path.exists():
            return []
        records = [
            PredictionLog.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(path))
        ]
        return [record for record in records if record.HasField("predict_log")]

    def replay(self, record: PredictionLog) -> dict[str, np.ndarray]:
        """Answers a recorded request."""
        request = record.predict_log.request
        return self.predict(request.model_spec.signature_name, request.inputs)


def runs(signature: Any) -> bool:
    """Whether a SignatureDef can be run: its tensors are dense, and one comes out."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.outputs) and all(info.name for info in tensors)


STATUS = {status.value[0]: status for status in grpc.StatusCode}
"""gRPC's status by TensorFlow's number for it"""


def as_array(name: str, value: Any, info: Any) -> np.ndarray:
    """A TensorProto or an array as what the TensorInfo of input `name` asks for."""
    dtype = tf.as_dtype(info.dtype)
    is_proto = not isinstance(value, np.ndarray)
    given = value.dtype if is_proto else tf.as_dtype(value.dtype).as_datatype_enum
    if given != info.dtype:
        given = DataType.Name(given) if given in DataType.values() else given
        raise invalid(
            f"input {name!r} must be of type {DataType.Name(info.dtype)}, not {given}"
        )
    # Looked at before a tensor is made of them: a shape of a few bytes can ask for
    # terabytes.
    shape = (
        [dim.size for dim in value.tensor_shape.dim] if is_proto else list(value.shape)
    )
    if not fits(shape, info.tensor_shape):
        wanted = tf.TensorShape(info.tensor_shape)
        raise invalid(f"input {name!r} must be of shape {wanted}, not {tuple(shape)}")
    if len(shape) > MAXIMUM_RANK:
        raise invalid(f"input {name!r} has more than {MAXIMUM_RANK} dimensions")
    if math.prod(shape) * dtype.size > MAXIMUM_BYTES:
        raise invalid(f"input {name!r} of shape {tuple(shape)} is larger than 32 MiB")
    if not is_proto:
        return value
    try:
        return tf.make_ndarray(value)
    except (TypeError, ValueError) as error:
        raise invalid(f"input {name!r}: {first_line(error)}") from error


def fits(shape: list[int], wanted: Any) -> bool:
    """Whether a shape is one of those that a TensorShapeProto allows."""
    if min(shape, default=0) < 0:
        return False
    if wanted.unknown_rank:
        return True
    free = [dim.size for dim in wanted.dim]
    return len(shape) == len(free) and all(
        size == given or size == -1 for size, given in zip(free, shape, strict=True)
    )


def names(several: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(several)) + "}"


def first_line(error: Exception) -> str:
    """What an error says, without the heading and the nodes of the graph that
    TensorFlow adds."""
    message = error.message if isinstance(error, tf.errors.OpError) else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = [line for line in lines if line != "Graph execution error:"]
    return said[0] if said else type(error).__name__
