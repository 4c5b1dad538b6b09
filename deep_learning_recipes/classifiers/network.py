"""A user's own network and picture, for the recipes that look into networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import UsageError, data, did_you_mean
from deep_learning_recipes.data.pictures import read_picture
from deep_learning_recipes.data.pixels import set_channels

if TYPE_CHECKING:
    import keras

USUAL_SIZE = 224  # of a network that takes pictures of any size


@dataclass
class Classifier:
    """A network with what is needed to ask it about a picture."""

    model: keras.Model
    """one graph without nested models: (batch, height, width, 1 or 3) in [0, 1] to
    logits"""
    class_names: list[str]
    """what the logits stand for"""

    @property
    def last_convolution(self) -> str:
        return last_convolution(self.model)

    @property
    def convolutions(self) -> keras.Model:
        """From the picture to the maps of its first convolution at each resolution,
        finest first.

        Raises UsageError for a network without convolutions.
        """
        return convolutions(self.model)

    def read(self, files: Sequence[str | Path]) -> np.ndarray:
        """Pictures (n, height, width, channels) as the network takes them. See
        `read_image`."""
        _, height, width, channels = self.model.inputs[0].shape
        return np.stack([read_image(file, (height, width), channels) for file in files])

    def pictures(self, file: str | Path = "") -> np.ndarray:
        """The picture in a file as `read` gives it, or where none is given the nine
        photographs of `data.load_photos`, squeezed into the network's proportions."""
        import keras

        if file:
            return self.read([file])
        _, height, width, channels = self.model.inputs[0].shape
        photos = set_channels(data.load_photos(max(height, width)), channels)
        return np.asarray(keras.ops.image.resize(photos, (height, width)))


def load(name: str, *, weights: str | None = "imagenet") -> Classifier:
    """The network that a user named by --model.

    name: a network of keras.applications ("MobileNetV2"), whose preprocessing becomes a
        part of it; or a .keras file, a classifier of pictures in [0, 1]. One that
        begins with Rescaling(1/255) takes bytes, and gets them. Nested models are
        opened up, a final softmax or sigmoid is taken off.
    weights: "imagenet" (from Keras's cache, or downloaded), or None for random ones.

    Raises UsageError for an unknown name, a file that is none of Keras's, weights that
    cannot be downloaded, and a network that does not turn one picture into one vector.
    """
    import keras
    from keras import layers

    if name.endswith(".keras"):
        model, preprocess = load_file(Path(name)), None
    else:
        model, preprocess = load_application(name, weights)
    check_shapes(model, name)
    height, width, channels = (
        given or usual
        for given, usual in zip(
            model.inputs[0].shape[1:], (USUAL_SIZE, USUAL_SIZE, 3), strict=True
        )
    )
    images = keras.Input((height, width, channels), name="images")
    if preprocess is not None:
        tensor = preprocess(255 * images)
    else:
        tensor = layers.Rescaling(255)(images) if takes_bytes(model) else images
    flat = without_softmax(keras.Model(images, inline(model, tensor), name=model.name))
    if preprocess is not None and flat.outputs[0].shape[-1] == 1000:
        names = imagenet_names()
    else:
        names = [f"class {number}" for number in range(flat.outputs[0].shape[-1])]
    return Classifier(flat, names)


def load_file(path: Path) -> keras.Model:
    import keras

    if not path.is_file():
        raise UsageError(f"--model {path}: there is no such file")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--model {path}: Keras cannot load it: {reason}") from error


def load_application(name: str, weights: str | None) -> tuple[keras.Model, Any]:
    import keras

    known = {
        each.lower(): each
        for each in dir(keras.applications)
        if each[0].isupper() and callable(getattr(keras.applications, each))
    }
    if name.lower() not in known:
        raise UsageError(
            f"--model {name}: neither a .keras file nor a network of keras.applications"
            f"{did_you_mean(name, list(known.values()))}"
        )
    build = getattr(keras.applications, known[name.lower()])
    module = getattr(keras.applications, build.__module__.rsplit(".", 1)[-1])
    try:
        return build(weights=weights), module.preprocess_input
    except Exception as error:  # Keras raises a bare Exception when it can't download
        if "URL fetch failure" not in str(error) and not isinstance(error, OSError):
            raise
        raise UsageError(
            f"--model {name}: its ImageNet weights are not in Keras's cache and could not be "
            "downloaded; a .keras file needs no network"
        ) from error


def imagenet_names() -> list[str]:
    """The names of ImageNet's thousand classes, from Keras's cache or downloaded into
    it; numbers where neither is possible."""
    from keras.applications.imagenet_utils import decode_predictions

    try:
        decoded = decode_predictions(np.eye(1000), top=1)
    except Exception:  # as in `load_application`; numbers will do
        return [f"class {number}" for number in range(1000)]
    return [found[0][1].replace("_", " ") for found in decoded]


def check_shapes(model: keras.Model, name: str) -> None:
    """Raises UsageError unless the model maps one picture to one vector."""
    try:
        inputs, outputs = model.inputs, model.outputs
        right = len(inputs) == len(outputs) == 1
        right = right and len(inputs[0].shape) == 4 and len(outputs[0].shape) == 2
        right = right and inputs[0].shape[-1] in (1, 3)
    except (AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise UsageError(
            f"--model {name}: a Sequential or functional classifier is needed, from one picture "
            "(batch, height, width, 1 or 3) to one vector (batch, classes)"
        )


def takes_bytes(model: keras.Model) -> bool:
    """Whether the first thing it does is to scale pixels of 0 to 255 down."""
    from keras import layers

    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        if hasattr(layer, "layers"):  # a nested model
            return takes_bytes(layer)
        return isinstance(layer, layers.Rescaling) and np.max(layer.scale) < 0.02
    return False


def inline(model: keras.Model, tensor: Any) -> Any:
    """Calls copies of a model's layers, those of nested models among them, one by one
    on `tensor`.

    A nested model hides its layers' outputs from the outer graph, so that no gradient
    with respect to them can be asked for. Copies have their own place in the new graph
    and the same weights.
    """
    import keras

    copies: dict[int, Any] = {}
    names: set[str] = set()

    def copy(operation: Any) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if id(operation) not in copies:
            config = operation.get_config()
            while config["name"] in names:
                config["name"] += "_again"
            names.add(config["name"])
            copies[id(operation)] = type(operation).from_config(config)
        return copies[id(operation)]

    def call(model: keras.Model, tensor: Any) -> Any:
        graph = keras.Model(model.inputs, model.outputs)
        tensors = {id(graph.inputs[0]): tensor}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments, options = node.arguments.fill_in(tensors)
                if isinstance(node.operation, keras.Model):
                    outputs = call(node.operation, arguments[0])
                else:
                    outputs = copy(node.operation)(*arguments, **options)
                for old, new in zip(
                    node.outputs, keras.tree.flatten(outputs), strict=True
                ):
                    tensors[id(old)] = new
        return tensors[id(graph.outputs[0])]

    output = call(model, tensor)
    originals = {id(layer): layer for layer in all_layers(model)}
    for key, layer in copies.items():
        layer.set_weights(originals[key].get_weights())
    return output


def all_layers(model: keras.Model) -> list[Any]:
    """The layers of a model, and in place of nested models theirs."""
    return [
        each
        for layer in model.layers
        for each in (all_layers(layer) if hasattr(layer, "layers") else [layer])
    ]


def without_softmax(model: keras.Model) -> keras.Model:
    """The logits of a classifier. A probability near 1 has a gradient near 0: what
    explains a class starts from its logit."""
    import keras

    squash = (keras.activations.softmax, keras.activations.sigmoid)
    last = model.layers[-1]
    if last.output is not model.outputs[0]:
        return model  # it ends in a bare operation of keras.ops
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and last.activation in squash
    ):
        return keras.Model(model.inputs[0], last.input, name=model.name)
    if getattr(last, "activation", None) in squash:
        last.activation = keras.activations.linear
    return model


def last_convolution(model: keras.Model) -> str:
    """The name of the layer whose maps are the last ones: the last convolution, with
    what normalizes, adds or bends it, before any pooling.

    Raises UsageError for a network without maps.
    """
    from keras import layers

    passed = (
        layers.MaxPooling2D,
        layers.AveragePooling2D,
        layers.Dropout,
        layers.InputLayer,
    )
    for layer in reversed(model.layers):
        shape = getattr(layer.output, "shape", ())
        if len(shape) == 4 and min(shape[1:3]) > 1 and not isinstance(layer, passed):
            return str(layer.name)
    raise UsageError(
        f"{model.name}: it has no convolution whose maps could be looked at"
    )


def convolutions(model: keras.Model) -> keras.Model:
    """From the picture to the maps of its first convolution at each resolution, finest
    first, with the activation that is part of the layer. Raises UsageError for a
    network without any."""
    import keras

    first = {
        layer.output.shape[1]: layer.output
        for layer in reversed(model.layers)
        if isinstance(layer, keras.layers.Conv2D)
    }
    if not first:
        raise UsageError(
            f"{model.name}: it has no convolution whose maps could be looked at"
        )
    return keras.Model(
        model.inputs[0], [first[size] for size in sorted(first, reverse=True)]
    )


def read_image(
    file: str | Path, size: tuple[int, int], channels: int = 3
) -> np.ndarray:
    """The picture in the file that a user named by --image, as `read_picture` gives it.

    Raises UsageError for a file that is missing or no picture.
    """
    try:
        return read_picture(file, size, channels)
    except UsageError as error:
        raise UsageError(f"--image {error}") from error
