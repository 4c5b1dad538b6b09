"""Writes a Keras model as a SavedModel that TF Serving loads, with all that stands
around it."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import UsageError, files
from deep_learning_recipes.serving import layout
from deep_learning_recipes.serving.encoded import classify_bytes
from deep_learning_recipes.serving.endpoint import Endpoint, as_numpy
from deep_learning_recipes.serving.example import as_arrays, check_names, request_body

if TYPE_CHECKING:
    import keras

CLASSIFIER_OUTPUTS = {"probabilities", "classes"}


def classifier(
    model: keras.Model, class_names: Sequence[str] | None = None
) -> keras.Model:
    """A classifier's logits as what a client wants to see: `probabilities` (batch,
    classes) and `classes` (batch,), the most probable one: its number, or its name
    where `class_names` are given, in the order of the logits."""
    import keras

    inputs, logits = ends(model)
    outputs = {
        "probabilities": keras.ops.softmax(logits),
        "classes": largest(logits),
    }
    numbered = keras.Model(inputs, outputs, name=model.name)
    return numbered if class_names is None else with_class_names(numbered, class_names)


def is_classifier(model: keras.Model) -> bool:
    """Whether it is what `classifier` returns."""
    return isinstance(model.output, dict) and set(model.output) == CLASSIFIER_OUTPUTS


def with_class_names(model: keras.Model, class_names: Sequence[str]) -> keras.Model:
    """A `classifier` that answers with names (strings) in place of numbers.

    Raises UsageError unless there is a name for each class.
    """
    import keras

    from deep_learning_recipes.serving.names import ClassNames

    outputs = dict(model.output)
    classes = outputs["probabilities"].shape[-1]
    if classes != len(class_names):
        raise UsageError(
            f"{model.name!r} tells {classes} classes, and there are {len(class_names)} "
            "names"
        )
    outputs["classes"] = ClassNames(class_names, name="classes")(outputs["classes"])
    return keras.Model(model.input, outputs, name=model.name)


def policy(model: keras.Model) -> keras.Model:
    """A network's number for each action (a Q-value, a logit) as what an agent asks
    for: `action` (batch,), the one with the largest, and `values` (batch, actions), the
    numbers themselves."""
    import keras

    inputs, values = ends(model)
    outputs = {"action": largest(values), "values": values}
    return keras.Model(inputs, outputs, name=model.name)


def ends(model: keras.Model) -> tuple[Any, Any]:
    """A model's symbolic inputs and outputs. Raises UsageError for one that has none: a
    Sequential or an own class that was not called on a keras.Input."""
    try:
        return model.input, model.output
    except (AttributeError, ValueError) as error:
        raise UsageError(
            f"{model.name!r} is no functional model yet: begin it with keras.Input, or "
            "wrap it by x = keras.Input(...); keras.Model(x, model(x))"
        ) from error


def largest(values: keras.KerasTensor) -> keras.KerasTensor:
    """The index of the largest value along the last axis."""
    import keras

    # ops.argmax tells −0 from 0 by a Bitcast, which OpenVINO cannot read.
    _, indices = keras.ops.top_k(values, 1)
    return keras.ops.squeeze(indices, axis=-1)


def export(model: keras.Model, folder: Path | str, example: Any) -> Path:
    """Writes `model` into `folder` (saved_models/NAME) as the next version and returns
    its path.

    model: functional; its outputs are a dict, whose keys become the names that a client
    sees, as the names of its `keras.Input`s do.
    folder: its name is the model's, by which clients ask for it.
    example: a small batch of inputs (an array, or a dict of arrays by input name). The
    written model must give the same outputs for it; it becomes the warm-up record and
    request.json.

    The signature is `serving_default`. A classifier of images in [0, 1] (see
    `classifier`) also gets `classify_bytes`, which takes `image_bytes`, a batch of
    encoded PNG, JPEG, GIF or BMP files.

    The version is written beside, checked in a fresh process and renamed into place, so
    that a server which polls the folder never sees half a model, and two exports at
    once get two versions. NAME/request.json and the parent's models.config are brought
    up to date. Raises UsageError if the folder can't be written, the outputs have no
    names, the model was never called or the example does not fit it, RuntimeError if
    the written model differs or something is missing; no version is left then.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            beside = stack.enter_context(files.folder_beside(folder))
        except OSError as error:
            raise UsageError(
                f"--export {folder}: cannot be written ({error.strerror})"
            ) from error
        written = beside / "1"
        endpoints = find_endpoints(model, example)
        write(model, endpoints, written)
        write_warm_up(folder.name, endpoints, written / layout.WARM_UP)
        body = request_body(endpoints["serving_default"].inputs)
        check_in_a_fresh_process(written)
        # Before the version: should this fail, none is left.
        layout.replace(folder / "request.json", body)
        path = _claim_version(written, folder)
    write_config(folder.parent)
    return path


def find_endpoints(model: keras.Model, example: Any) -> dict[str, Endpoint]:
    """The signatures that `model` gets, by name."""
    import keras
    import tensorflow as tf

    _, outputs = ends(model)
    if not isinstance(outputs, dict):
        raise UsageError(
            f"the outputs of {model.name!r} have no names: a client would see `output_0`; "
            "use keras.Model(inputs, {'probabilities': ...})"
        )
    inputs = input_tensors(model)
    check_names(inputs)
    values = as_arrays(inputs, example)

    def call(*tensors):
        if isinstance(model.input, dict):
            return model(dict(zip(inputs, tensors, strict=True)), training=False)
        return model(keras.tree.pack_sequence_as(model.input, tensors), training=False)

    specifications = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in inputs.items()
    ]
    answers = call(*values.values())
    endpoint = Endpoint(call, specifications, values, as_numpy(answers))
    endpoints = {"serving_default": endpoint}
    if reads_images(model, values):
        endpoints["classify_bytes"] = classify_bytes(endpoint)
    return endpoints


def input_tensors(model: keras.Model) -> dict[str, Any]:
    """A model's symbolic inputs by the names that clients see."""
    if isinstance(model.input, dict):
        return model.input
    if len(model.inputs) == 1 and model.inputs[0].name.startswith("keras_tensor"):
        return {
            "inputs": model.inputs[0]
        }  # Keras counts unnamed inputs: no name to rely on
    return {tensor.name: tensor for tensor in model.inputs}


def reads_images(model: keras.Model, example: dict[str, np.ndarray]) -> bool:
    """Whether the model classifies images (batch, height, width, 1 or 3) in [0, 1]."""
    image, *others = example.values()
    return (
        not others
        and is_classifier(model)
        and image.ndim == 4
        and None not in model.inputs[0].shape[1:]
        and image.shape[-1] in (1, 3)
        and image.min() >= 0
        and image.max() <= 1
    )


def write(model: keras.Model, endpoints: dict[str, Endpoint], path: Path) -> None:
    """Writes the SavedModel itself."""
    import keras

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint.function, endpoint.specifications)
    archive.write_out(str(path), verbose=False)


def write_warm_up(name: str, endpoints: dict[str, Endpoint], path: Path) -> None:
    """Writes one PredictionLog for each signature: TF Serving replays the requests
    before it serves a version, and `check` compares the outputs with the recorded
    responses."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, endpoint in endpoints.items():
            log = PredictionLog()
            request, response = log.predict_log.request, log.predict_log.response
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in endpoint.inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            for key, value in endpoint.outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def check_in_a_fresh_process(path: Path) -> None:
    """Runs `check` on the written version. Raises RuntimeError with the faults it
    finds."""
    finished = subprocess.run(
        [sys.executable, "-m", "deep_learning_recipes.serving"]
        + ["check", "--trust", str(path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CUDA_VISIBLE_DEVICES": "-1",  # the run that exports may fill the GPU
        },
        capture_output=True,
        text=True,
    )
    found = [line for line in finished.stdout.splitlines() if not line.startswith("ok")]
    if found or finished.returncode:
        raise RuntimeError("\n".join(found) or finished.stderr[-2000:])


def write_config(folder: Path) -> None:
    """Brings models.config up to date with the models that stand in `folder`
    (saved_models).

    Each export writes until the file says what the folder holds, so of several at once
    the last one leaves it right.
    """
    written = None
    while written != (found := list(layout.models(folder))):
        layout.replace(folder / layout.CONFIG, config(found))
        written = found


def config(names: list[str]) -> str:
    """A ModelServerConfig in text format."""
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    message = ModelServerConfig()
    for name in names:
        message.model_config_list.config.add(
            name=name, base_path=f"/models/{name}", model_platform="tensorflow"
        )
    # TF Serving takes absolute paths only. /models is where its Docker image looks, and
    # does not change when the folder moves.
    return (
        "# For a server that sees this folder as /models.\n"
        + text_format.MessageToString(message)
    )


def _claim_version(written: Path, folder: Path) -> Path:
    for version in itertools.count(max(layout.versions(folder), default=0) + 1):
        try:
            return written.rename(folder / str(version))
        except OSError:
            # Another export took this number; renaming onto a folder with files in it
            # fails.
            if not (folder / str(version)).exists():
                raise
    raise AssertionError("unreachable")
