"""Checks exports as TF Serving would meet them: layout, tags, operations, signatures,
replay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from deep_learning_recipes.serving import layout
from deep_learning_recipes.serving.bundle import Bundle, RequestError, first_line, names

BATCH_SIZES = (1, 3)
OK, NOTE, FAULT = "ok   ", "note ", "FAULT"
TOLERANCE = 1e-4
TOLERANCE_16_BIT = 1e-2
PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""call back into the Python process that wrote them; TensorFlow registers them, TF
Serving not"""


def check(folder: Path) -> bool:
    """Checks all versions in `folder` (saved_models, saved_models/NAME, or one version)
    and prints one line for each finding. True if there is no fault. Raises UsageError
    if there is no version.
    """
    reports = {path: list(findings(path)) for path in layout.find_versions(folder)}
    if (folder / layout.CONFIG).exists():
        reports[folder / layout.CONFIG] = list(config_findings(folder))
    for path, found in reports.items():
        for kind, text in found or [(OK, "")]:
            print(f"{kind}  {path}  {text}".rstrip())
    return all(kind != FAULT for found in reports.values() for kind, _ in found)


def findings(path: Path) -> Iterator[tuple[str, str]]:
    """What TF Serving would refuse in a version, or answer otherwise than recorded."""
    if not path.name.isdecimal():
        yield (
            FAULT,
            f"the folder's name must be a whole number, the version, not {path.name!r}",
        )
    try:
        model = SavedModel.FromString((path / layout.MODEL).read_bytes())
    except (OSError, DecodeError) as error:
        yield FAULT, f"{layout.MODEL} cannot be read: {error}"
        return
    tagged = [
        graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags
    ]
    if not tagged:
        yield FAULT, "no graph with the tag `serve`"
        return
    if lacking := unknown_operations(tagged[0]):
        yield FAULT, f"TF Serving lacks the operations {names(lacking)}"
        return
    try:
        bundle = Bundle(path)
        records = bundle.warm_up_records()
    except (tf.errors.OpError, DecodeError, OSError, RuntimeError, ValueError) as error:
        yield FAULT, f"does not load: {first_line(error)}"
        return
    if "serving_default" not in bundle.signatures:
        yield (
            FAULT,
            f"no signature serving_default; there is {names(bundle.signatures)}",
        )
    for record in records:
        yield from replay(bundle, record)
    for name in sorted(
        set(bundle.signatures) - {signature_of(record) for record in records}
    ):
        yield NOTE, f"{name}: no warm-up record; the first request to it will be slow"
        example = zeros(bundle.signatures[name])
        if all(
            value.dtype != object for value in example.values()
        ):  # "" is no image file, say
            yield from try_batches(bundle, name, example)


def unknown_operations(graph: tf.compat.v1.MetaGraphDef) -> set[str]:
    """The operations of a graph that TensorFlow's own server does not know."""
    library = graph.graph_def.library.function
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for function in library for node in function.node_def}
    used -= {function.signature.name for function in library}
    return {
        operation
        for operation in used
        if operation in PYTHON_OPERATIONS
        or not (operation.startswith("_") or hasattr(tf.raw_ops, operation))
    }


def replay(bundle: Bundle, record: PredictionLog) -> Iterator[tuple[str, str]]:
    """Compares the answer to a recorded request with the recorded response, and tries
    the request in batches of other sizes."""
    signature = signature_of(record)
    try:
        answered = bundle.replay(record)
    except RequestError as error:
        yield FAULT, f"{signature}: the warm-up record is refused: {error}"
        return
    for name, response in record.predict_log.response.outputs.items():
        if name not in answered:
            yield (
                FAULT,
                f"{signature}: no output {name!r}, which the warm-up record holds",
            )
        elif difference := largest_difference(
            answered[name], tf.make_ndarray(response)
        ):
            yield (
                FAULT,
                f"{signature}: {name} differs from the recorded answer by {difference}",
            )
    inputs = record.predict_log.request.inputs
    arrays = {name: tf.make_ndarray(value) for name, value in inputs.items()}
    yield from try_batches(bundle, signature, arrays)


def try_batches(
    bundle: Bundle, signature: str, inputs: dict[str, np.ndarray]
) -> Iterator[tuple[str, str]]:
    """Runs a signature on as many rows of `inputs`, repeated if need be, as BATCH_SIZES
    says."""
    for size in BATCH_SIZES:
        batch = {
            name: np.resize(value, (size, *value.shape[1:]))
            for name, value in inputs.items()
        }
        try:
            for name, value in bundle.predict(signature, batch).items():
                if value.shape[:1] != (size,):
                    yield (
                        FAULT,
                        f"{signature}: {size} rows give {name} of shape {value.shape}",
                    )
        except RequestError as error:
            yield FAULT, f"{signature}: a batch of {size}: {error}"


def zeros(signature: Any) -> dict[str, np.ndarray]:
    """The simplest input of a signature: one row, and 1 for every other free
    dimension."""
    return {
        name: np.zeros(
            [max(dim.size, 1) for dim in info.tensor_shape.dim],
            tf.as_dtype(info.dtype).as_numpy_dtype,
        )
        for name, info in signature.inputs.items()
    }


def signature_of(record: PredictionLog) -> str:
    return record.predict_log.request.model_spec.signature_name or "serving_default"


def largest_difference(got: np.ndarray, want: np.ndarray) -> str:
    """The largest difference in words, or "" if it is within the precision of the
    numbers."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"its type or shape: {got.dtype.name} {got.shape}, {want.dtype.name} {want.shape}"
    if want.dtype.kind in "OSU":
        return "" if np.array_equal(got, want) else "its text"
    tolerance = TOLERANCE_16_BIT if want.dtype.itemsize == 2 else TOLERANCE
    got, want = got.astype(np.float64), want.astype(np.float64)
    if np.allclose(got, want, rtol=tolerance, atol=tolerance):
        return ""
    return f"{np.max(np.abs(got - want)):.2g}"


def config_findings(folder: Path) -> Iterator[tuple[str, str]]:
    """Whether models.config lists the models that stand beside it."""
    try:
        text = (folder / layout.CONFIG).read_text()
        config = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    except text_format.ParseError as error:
        yield FAULT, f"cannot be read: {first_line(error)}"
        return
    listed, found = {model.name for model in config}, set(layout.models(folder))
    for name in sorted(found - listed):
        yield FAULT, f"{name} is not in it; export once more, or add it"
    for name in sorted(listed - found):
        yield (
            FAULT,
            f"lists {name}, which is not in the folder: the server would wait for it",
        )
