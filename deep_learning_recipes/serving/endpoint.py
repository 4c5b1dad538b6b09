"""A signature of a SavedModel, before it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass
class Endpoint:
    """One signature of the SavedModel, and an example of what goes in and what must
    come out."""

    function: Callable[..., dict[str, tf.Tensor]]
    """of tensors in the order of `specifications`"""
    specifications: list[tf.TensorSpec]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def as_numpy(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in outputs.items()}
