"""What a classifier's outputs say: logits or probabilities, of classes that exclude each
other or of independent ones.

A probability near 1 has a gradient near 0: what explains a class starts from its logit.
So the function that makes probabilities of logits, the squash, is taken off the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from deep_learning_recipes.classifiers.private_keras import origin

SQUASHES = {
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
    "hard_sigmoid": keras.activations.hard_sigmoid,
}
# By the names of Keras's classes, which layers and bare operations share.
SQUASHING = {"Softmax": "softmax", "Sigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid"}
KEEPING = ("Identity", "Dropout", "Cast", "ActivityRegularization", "StopGradient")
MOVING = ("Flatten", "Reshape", "Squeeze", "ExpandDims", "Permute", "Transpose")
SMALLEST = 1e-30  # probability whose logarithm still has a slope in float32
AVERAGING = ("Average", "Mean", "GlobalAveragePooling1D", "GlobalAveragePooling2D")


@dataclass
class Head:
    """The end of a classifier."""

    logits: Any
    """(batch, classes), a tensor of the graph"""
    squash: Callable[[Any], Any]
    """makes probabilities of the logits"""
    ends_in_logits: bool
    """whether the network leaves that to its loss"""
    is_binary: bool
    """whether the network gives one number for two classes"""

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Of what the network itself answers, (n, classes)."""
        if self.ends_in_logits:
            both = [-outputs, outputs] if self.is_binary else [outputs]
            return np.asarray(self.squash(np.concatenate(both, axis=-1)))
        both = [1 - outputs, outputs] if self.is_binary else [outputs]
        return np.concatenate(both, axis=-1)


def find_head(
    outputs: Any, answers: np.ndarray, *, are_independent: bool = False
) -> Head:
    """The head of a network that gives one vector.

    outputs: (batch, numbers), the graph's. answers: what the network said of some
    pictures, (n, numbers). are_independent: whether logits are of classes that do not
    exclude each other.

    A single number stands for two classes, of logits -z and z, as sigmoid(-z) is
    1 - sigmoid(z). Where nothing makes probabilities of the outputs they are taken for
    logits: one of two classes, several of classes that exclude each other.
    """
    single = answers.shape[-1] == 1
    logits, squash = before_squash(outputs)
    if not squash and not single and is_distribution(answers):
        logits, squash = LogOdds("softmax")(outputs), "softmax"
    ends_in_logits = not squash
    squash = squash or ("sigmoid" if single or are_independent else "softmax")
    is_binary = single and squash != "softmax"
    if is_binary:
        logits = TwoClasses()(logits)
    return Head(logits, SQUASHES[squash], ends_in_logits, is_binary)


def is_distribution(answers: np.ndarray) -> bool:
    return bool(
        (answers >= 0).all() and np.allclose(answers.sum(axis=-1), 1, atol=1e-2)
    )


def before_squash(tensor: Any) -> tuple[Any, str]:
    """The logits and the name of what makes probabilities of them, or the tensor itself
    and "" where nothing does."""
    operation, inputs = origin(tensor)
    kind = type(operation).__name__
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    if kind in SQUASHING:
        return inputs[0], SQUASHING[kind]
    if activation in SQUASHES:
        if kind == "Activation":
            return inputs[0], activation
        return call_twin(operation, inputs[0], activation="linear"), activation
    if kind in KEEPING or (kind == "Activation" and activation == "linear"):
        return before_squash(inputs[0])
    if kind in (*MOVING, *AVERAGING, "Concatenate"):
        parts, squashes = zip(*map(before_squash, inputs), strict=True)
        if "" not in squashes and len(set(squashes)) == 1:
            squash = squashes[0]
            if kind in MOVING:
                return call_twin(operation, parts[0]), squash
            if kind == "Concatenate" and squash != "softmax":
                return call_twin(operation, list(parts)), squash
            # A mean of probabilities is no function of a mean of logits.
            squash = "softmax" if squash == "softmax" else "sigmoid"
            squash = "sigmoid" if kind == "Concatenate" else squash
            return LogOdds(squash)(tensor), squash
    return tensor, ""


def call_twin(operation: Any, inputs: Any, **changes: Any) -> Any:
    """What a copy with the same weights makes of other inputs: a layer called twice has
    no output of its own."""
    if not isinstance(operation, keras.layers.Layer):
        return operation(inputs)
    twin = type(operation).from_config({**operation.get_config(), **changes})
    outputs = twin(inputs)
    twin.set_weights(operation.get_weights())
    return outputs


class LogOdds(keras.layers.Layer):
    """Logits of which softmax or sigmoid makes these probabilities: logarithms of their
    ratio to what the other classes have, as those of a probability near 1 have no slope
    by themselves."""

    def __init__(self, squash: str, **options: Any):
        super().__init__(**{"dtype": "float32", **options})
        self.squash = squash

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "squash": self.squash}

    def call(self, probabilities: Any) -> Any:
        logits = keras.ops.log(keras.ops.maximum(probabilities, SMALLEST))
        if self.squash == "softmax":
            return logits - keras.ops.mean(logits, axis=-1, keepdims=True)
        return logits - keras.ops.log(keras.ops.maximum(1 - probabilities, SMALLEST))


class TwoClasses(keras.layers.Layer):
    """Logits -z and z of z, (batch, 1)."""

    def __init__(self, **options: Any):
        super().__init__(**{"dtype": "float32", **options})

    def call(self, logits: Any) -> Any:
        return keras.ops.concatenate([-logits, logits], axis=-1)
