"""Networks by name: EfficientNet-Lite0, a .keras file, or a network of
keras.applications."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.classifiers import efficientnet_lite


def load_file(path: Path) -> keras.Model:
    """Raises UsageError for a file that is missing or that Keras cannot load."""
    if not path.is_file():
        raise UsageError(f"--model {path}: there is no such file")
    try:
        check_sizes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what fails in the next line
            return keras.models.load_model(path, compile=False)
    except Exception as error:  # a foreign file can fail in every way there is
        raise UsageError(
            f"--model {path}: Keras cannot load it: {reason(error)}"
        ) from error


def is_of_independent_classes(path: Path) -> bool:
    """Whether the loss that the network was compiled with takes each output for itself:
    what an end in bare logits leaves open."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    loss = (config.get("compile_config") or {}).get("loss")
    return "binary" in json.dumps(loss).lower()


# What a layer has as many weights of, at least.
WIDTHS = ("units", "filters", "input_dim", "output_dim", "num_heads", "key_dim")


def check_sizes(path: Path) -> None:
    """Raises ValueError for a file that would take all memory: one that is packed a
    hundred times smaller than it is, or whose layers are wider than it has weights."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 100 * max(path.stat().st_size, 10**6):
            raise ValueError(f"unpacked it would have {unpacked / 1e9:.1f} GB")
        config = json.loads(archive.read("config.json"))
    for name, width in widths(config):
        if width > unpacked:
            raise ValueError(f"it has no weights for a layer of {name} {width:,}")


def widths(config: Any) -> Iterator[tuple[str, int]]:
    """The sizes of layers at any depth of a model's configuration."""
    entries = config.items() if isinstance(config, dict) else enumerate(config)
    for name, value in entries:
        if isinstance(value, (dict, list)):
            yield from widths(value)
        elif name in WIDTHS and isinstance(value, int):
            yield name, value


def reason(error: Exception) -> str:
    """The first line of an error's message, as long as a line."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) < 200 else f"{lines[0][:200]} ..."
    return text if isinstance(error, ValueError) else f"{type(error).__name__} {text}"


def load_application(name: str, weights: str | None) -> tuple[keras.Model, Any]:
    """The network, and the preprocessing that makes of bytes what it takes."""
    known = {
        each.lower(): each
        for each in dir(keras.applications)
        if each[0].isupper() and callable(getattr(keras.applications, each))
    }
    included = efficientnet_lite.NAME
    if name.lower() not in known:
        raise UsageError(
            f"--model {name}: neither {included}, which needs no download, nor a .keras "
            "file nor a network of keras.applications"
            f"{did_you_mean(name, [included, *known.values()])}"
        )
    build = getattr(keras.applications, known[name.lower()])
    module = getattr(keras.applications, build.__module__.rsplit(".", 1)[-1])
    try:
        return build(weights=weights), module.preprocess_input
    except Exception as error:  # Keras raises a bare Exception when it can't download
        if "URL fetch failure" not in str(error) and not isinstance(error, OSError):
            raise
        raise UsageError(
            f"--model {name}: its ImageNet weights are not in Keras's cache and could "
            f"not be downloaded; {included} and .keras files need no network"
        ) from error


def check_shapes(model: keras.Model, name: str) -> None:
    """Raises UsageError unless the model maps one picture to one vector."""
    try:
        inputs, outputs = model.inputs, model.outputs
        right = len(inputs) == len(outputs) == 1
        right = right and len(inputs[0].shape) == 4 and len(outputs[0].shape) == 2
        right = right and inputs[0].shape[-1] in (1, 3) and bool(outputs[0].shape[-1])
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise UsageError(
            f"--model {name}: a Sequential or functional classifier is needed, from one "
            "picture (batch, height, width, 1 or 3) to one vector (batch, classes)"
        )
