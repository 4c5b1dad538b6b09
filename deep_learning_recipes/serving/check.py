"""Checks exports as TF Serving would meet them: layout, tags, operations, signatures,
replay."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from deep_learning_recipes.serving import layout, operations
from deep_learning_recipes.serving.bundle import Bundle, RequestError, first_line, names
from deep_learning_recipes.serving.findings import FAULT, NOTE, Findings, show
from deep_learning_recipes.serving.probe import try_guess, try_record

TOLERANCE = 1e-4
TOLERANCE_16_BIT = 1e-2


def check(folder: Path, trust: bool = False) -> bool:
    """Checks all versions in `folder` (saved_models, saved_models/NAME, or one version)
    in this process and prints one line for each finding. True if there is no fault.
    Raises UsageError if there is no version.

    trust: run graphs that reach for files, the network or Python, too.
    """
    return show(folder, functools.partial(examine, trust=trust))


def examine(path: Path, trust: bool) -> Findings:
    """What is wrong in a version, or in a models.config. Graphs that reach out of their
    process are run only on `trust`."""
    if path.name == layout.CONFIG:
        return list(config_findings(path.parent))
    return list(findings(path, trust))


def findings(path: Path, trust: bool = False) -> Iterator[tuple[str, str]]:
    """What TF Serving would refuse in a version, or answer otherwise than recorded."""
    if not layout.is_version(path.name):
        yield (
            FAULT,
            f"the folder's name must be a whole number, the version, up to "
            f"{layout.LARGEST_VERSION}, not {path.name!r}",
        )
    file = path / layout.MODEL
    try:
        if file.exists() and not file.is_file():
            raise OSError("it is no regular file")
        model = SavedModel.FromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        yield FAULT, f"{layout.MODEL} cannot be read: {error}"
        return
    tagged = [
        graph
        for graph in model.meta_graphs
        if set(graph.meta_info_def.tags) == {"serve"}
    ]
    if not tagged:
        yield FAULT, "no graph with the tag `serve` alone"
        return
    if lacking := operations.unknown_to_tf_serving(tagged[0]):
        yield FAULT, f"TF Serving lacks the operations {names(lacking)}"
        return
    if not trust and (outside := operations.reaching_out(tagged[0])):
        yield (
            FAULT,
            f"not run: {names(outside)} may reach files, the network or other "
            "processes; --trust runs it all the same",
        )
        return
    try:
        bundle = Bundle(path)
        records = bundle.warm_up_records()
    except Exception as error:  # whatever lies in the folder
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
        yield from try_guess(bundle, name)


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
        elif difference := largest_difference(answered[name], response):
            yield (
                FAULT,
                f"{signature}: {name} differs from the recorded answer by {difference}",
            )
    inputs = record.predict_log.request.inputs
    arrays = {name: tf.make_ndarray(value) for name, value in inputs.items()}
    yield from try_record(bundle, signature, arrays, answered)


def signature_of(record: PredictionLog) -> str:
    return record.predict_log.request.model_spec.signature_name or "serving_default"


def largest_difference(got: np.ndarray, recorded: TensorProto) -> str:
    """The largest difference in words, or "" if it is within the precision of the
    numbers."""
    # Looked at before a tensor is made of it, which may be larger than the memory.
    shape = tuple(dim.size for dim in recorded.tensor_shape.dim)
    if (got.shape, tf.as_dtype(got.dtype).as_datatype_enum) != (shape, recorded.dtype):
        known = recorded.dtype in DataType.values()
        name = DataType.Name(recorded.dtype) if known else recorded.dtype
        return f"its type or shape: {got.dtype.name} {got.shape}, {name} {shape}"
    try:
        want = tf.make_ndarray(recorded)
    except (TypeError, ValueError) as error:
        return f"being unreadable: {first_line(error)}"
    if want.dtype.kind in "OSU":
        return "" if np.array_equal(got, want) else "its text"
    tolerance = TOLERANCE_16_BIT if want.dtype.itemsize == 2 else TOLERANCE
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    got, want = got.astype(kind), want.astype(kind)
    close = np.isclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):  # inf - inf
        return f"{np.max(np.abs(got - want)[~close]):.2g}"


def config_findings(folder: Path) -> Iterator[tuple[str, str]]:
    """Whether models.config lists the models that stand beside it."""
    try:
        text = (folder / layout.CONFIG).read_text("utf-8")
        config = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
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
