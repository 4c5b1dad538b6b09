"""An exported network once more in another format: a file in the version's folder, where
TF Serving, which reads the SavedModel alone, passes over it.

What is written is the signature `serving_default`, with the names and the free batch
size that it has there. `classify_bytes` takes files as text, and stays the SavedModel's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import UsageError, files
from deep_learning_recipes.serving.endpoint import Endpoint, as_numpy

if TYPE_CHECKING:
    import keras

FILES = {"onnx": "model.onnx", "litert": "model.tflite"}
PACKAGES = {"onnx": ["onnx", "onnxruntime", "tf2onnx"], "litert": ["ai_edge_litert"]}

BATCHES = (1, 5)
"""sizes tried beside the example's own"""

Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def require_converters(formats: Iterable[str]) -> None:
    """Raises UsageError, with what to install, if a format's packages are not there."""
    for name in formats:
        missing = [
            package
            for package in PACKAGES[name]
            if importlib.util.find_spec(package) is None
        ]
        if missing:
            raise UsageError(
                f"--export-format {name}: {', '.join(missing)} cannot be found; "
                f"pip install {' '.join(PACKAGES[name])}"
            )


def write_as(model: keras.Model, version: Path, name: str, example: Any) -> Path:
    """Writes an exported model's network in another format and returns the file's path.

    model, example: as `serving.export` took them.
    version: the folder that it returned.
    name: of the format: onnx or litert.

    The file is compared with the network, on the example and in batches of one and
    five, before it gets its name. Raises UsageError if the network cannot be converted
    or answers otherwise; no file is left then.
    """
    from deep_learning_recipes.serving.bundle import first_line
    from deep_learning_recipes.serving.saved_model import find_endpoints

    endpoint = find_endpoints(model, example)["serving_default"]
    try:
        with quiet_converters():
            if name == "onnx":
                content, run = to_onnx(endpoint)
            else:
                content, run = to_litert(model)
            difference = largest_difference(endpoint, run)
    except Exception as error:  # whatever a converter or a runtime says
        raise UsageError(f"{FILES[name]}: {first_line(error)}") from error
    if difference:
        raise UsageError(f"{FILES[name]} answers otherwise: {difference}")

    with files.folder_beside(version.parent) as folder:
        beside = folder / FILES[name]
        beside.write_bytes(content)
        return beside.replace(version / FILES[name])


def to_onnx(endpoint: Endpoint) -> tuple[bytes, Runner]:
    """An ONNX file, and how ONNX Runtime runs it."""
    import onnx
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    function = tf.function(endpoint.function, input_signature=endpoint.specifications)
    converted, _ = tf2onnx.convert.from_function(function, endpoint.specifications)
    # tf2onnx writes what it cannot express under TensorFlow's name.
    unknown = {
        node.op_type
        for node in converted.graph.node
        if not onnx.defs.has(node.op_type, node.domain)
    }
    if unknown:
        raise UsageError(f"ONNX has no operation {', '.join(sorted(unknown))}")

    content = converted.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(outputs, session.run(None, inputs), strict=True))

    return content, run


def to_litert(model: keras.Model) -> tuple[bytes, Runner]:
    """A LiteRT file of 32-bit floats, and how LiteRT runs it."""
    from deep_learning_recipes import compression

    content = compression.to_litert(model)
    runner = compression.LiteRTModel(content)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = runner.predict(inputs)
        if len(runner.outputs) == 1:
            (name,) = runner.outputs
            return {name: outputs}
        return outputs

    return content, run


def largest_difference(endpoint: Endpoint, run: Runner) -> str:
    """Where the answers differ from the network's, in words; "" if they do nowhere."""
    import tensorflow as tf

    from deep_learning_recipes.serving import check

    is_free = all(each.shape[0] is None for each in endpoint.specifications)
    examples = [endpoint.inputs]
    for size in BATCHES if is_free else ():
        repeated = {
            name: np.resize(value, (size, *value.shape[1:]))
            for name, value in endpoint.inputs.items()
        }
        examples.append(repeated)

    for inputs in examples:
        wanted = as_numpy(endpoint.function(*map(tf.constant, inputs.values())))
        answered = run(inputs)
        if set(answered) != set(wanted):
            return f"its outputs are {', '.join(sorted(answered))}"
        for name, value in wanted.items():
            recorded = tf.make_tensor_proto(value)
            if difference := check.largest_difference(answered[name], recorded):
                count = len(next(iter(inputs.values())))
                return f"{name} differs by {difference} in a batch of {count}"
    return ""


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Keeps off the screen what tf2onnx logs; its failures are found otherwise."""
    from deep_learning_recipes.compression.litert import quiet

    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
