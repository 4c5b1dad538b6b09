"""Opens up the network that a user names by --model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import keras
import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.classifiers import efficientnet_lite, files
from deep_learning_recipes.classifiers.graph import inline
from deep_learning_recipes.classifiers.head import Head, find_head
from deep_learning_recipes.classifiers.network import Classifier
from deep_learning_recipes.classifiers.pixel_range import find_range

if TYPE_CHECKING:
    from deep_learning_recipes.run import Run

USUAL_SIZE = 224  # of a network that takes pictures of any size


class Flags(Protocol):
    """The fields of a recipe's `Config` that say which network."""

    model: str
    pixel_range: tuple[float, float] | None


def from_flags(config: Flags, run: Run) -> Classifier:
    """The network that a user named by --model, and --pixel-range where its graph does
    not tell. Prints what was found out and assumed. Raises as `load` does."""
    own = load(config.model, pixel_range=config.pixel_range)
    for note in own.notes:
        run.print(note)
    return own


def load(
    name: str,
    *,
    weights: str | None = "imagenet",
    pixel_range: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> Classifier:
    """The network that a user named by --model.

    name: "EfficientNetLite0", whose ImageNet weights are there without a download; a
        network of keras.applications ("MobileNetV2"); or a .keras file, a classifier of
        pictures. What has a name takes its preprocessing along. Nested models are opened
        up, a final softmax or sigmoid is taken off, and it computes in float32.
    weights: "imagenet" (what is not included comes from Keras's cache, or is
        downloaded), or None for random ones.
    pixel_range: the least and the largest value of the pixels that the network in a
        file takes, such as (0, 255); None: as its graph says, else (0, 1).
    size: height and width of the pictures, for a network that takes any, such as
        EfficientNetLite0; None: (224, 224) there.

    Raises UsageError for an unknown name, a file that Keras cannot load, weights that
    cannot be downloaded, a network that does not turn one picture into one vector or
    cannot be opened up, a range that is none, and a size that it does not take.
    """
    is_file = name.endswith(".keras")
    if pixel_range is not None:
        check_range(pixel_range, name, is_file)
    if name.lower() == efficientnet_lite.NAME.lower():
        # It is built here, so that there is nothing to open up.
        included = efficientnet_lite.load_model(
            size or (USUAL_SIZE, USUAL_SIZE), weights
        )
        return Classifier(included, efficientnet_lite.class_names())
    if is_file:
        source, preprocess = files.load_file(Path(name)), None
    else:
        source, preprocess = files.load_application(name, weights)
    files.check_shapes(source, name)
    source = keras.Model(source.inputs[0], source.outputs[0], name=source.name)
    notes = []
    low, high = 0.0, 255.0
    if preprocess is None:
        found = find_range(source) if pixel_range is None else None
        low, high = pixel_range or found or (0.0, 1.0)
        if pixel_range is None:
            notes.append(range_note(source.name, low, high, is_sure=bool(found)))

    scale = keras.layers.Rescaling(high - low, low, name="pixels", dtype="float32")

    def prepare(images: Any) -> Any:
        pixels = images if (low, high) == (0, 1) else scale(images)
        return pixels if preprocess is None else preprocess(pixels)

    shape = input_shape(source, size, name)
    images = keras.Input(shape, name="images")
    some = np.random.default_rng(0).random((2, *shape), "float32")
    try:
        (outputs,) = inline(source, prepare(images))
        answered = answers(source, prepare(some))
    except Exception as error:  # a foreign layer's `get_config` or `call`, for example
        raise UsageError(
            f"--model {name}: it cannot be opened up layer by layer: "
            f"{files.reason(error)}"
        ) from error
    are_independent = is_file and files.is_of_independent_classes(Path(name))
    head = find_head(outputs, answered, are_independent=are_independent)
    if head.ends_in_logits:
        notes.append(logits_note(source.name, head, are_independent))

    def ask(images: np.ndarray) -> np.ndarray:
        return head.probabilities(answers(source, prepare(images)))

    count = head.logits.shape[-1]
    names = [f"class {number}" for number in range(count)]
    if preprocess is not None and count == 1000:
        names = efficientnet_lite.class_names()
    opened = keras.Model(images, head.logits, name=source.name)
    return Classifier(opened, names, head.squash, ask, notes)


def input_shape(
    source: keras.Model, size: tuple[int, int] | None, name: str
) -> tuple[int, int, int]:
    """(height, width, channels) of the pictures. Raises UsageError for a size other than
    the network's own."""
    _, height, width, channels = source.inputs[0].shape
    asked_height, asked_width = size or (None, None)
    shape = (
        height or asked_height or USUAL_SIZE,
        width or asked_width or USUAL_SIZE,
        channels,
    )
    if size is not None and shape[:2] != tuple(size):
        raise UsageError(
            f"--model {name}: it takes pictures of {shape[0]} by {shape[1]} pixels, not "
            f"of {size[0]} by {size[1]}"
        )
    return shape


def check_range(pixel_range: Sequence[float], name: str, is_file: bool) -> None:
    """Raises UsageError for a range that is none, or that is known already."""
    flag = f"--pixel-range {' '.join(f'{each:g}' for each in pixel_range)}"
    if not is_file:
        raise UsageError(f"{flag}: that of {name} is known; leave the flag out")
    if not all(map(math.isfinite, pixel_range)) or pixel_range[0] >= pixel_range[1]:
        raise UsageError(
            f"{flag}: the least value comes first, then the largest, such as 0 255"
        )


def logits_note(name: str, head: Head, are_independent: bool) -> str:
    classes = "classes that exclude each other"
    if head.is_binary:
        classes = "two classes"
    elif are_independent:
        classes = "independent classes, as its loss says"
    return f"{name}: its outputs are taken for logits of {classes}"


def range_note(name: str, low: float, high: float, *, is_sure: bool) -> str:
    pixels = f"{name}: pixels from {low:g} to {high:g}"
    if is_sure:
        return f"{pixels}, as the first arithmetic in it says"
    return f"{pixels} are assumed, as nothing in it tells; --pixel-range says others"


def answers(model: keras.Model, pixels: Any) -> np.ndarray:
    """What a network says, (n, numbers) float32, of n pictures in its own range."""
    pixels = np.asarray(pixels)
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        pixels = np.rint(pixels)
    # A network of a fixed batch size gets full batches, the last filled by repeating.
    size = model.inputs[0].shape[0] or len(pixels)
    said = []
    for start in range(0, len(pixels), size):
        batch = np.resize(pixels[start:], (size, *pixels.shape[1:]))
        said.append(np.asarray(model(batch, training=False), "float32"))
    return np.concatenate(said)[: len(pixels)]
