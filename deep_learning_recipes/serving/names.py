"""The layer that answers with the names of classes. Importing it imports Keras."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("deep_learning_recipes")
class ClassNames(keras.layers.Layer):
    """Names (batch,), strings, for the numbers of classes (batch,)."""

    def __init__(self, class_names: Sequence[str], **options: Any):
        super().__init__(**options)
        self.class_names = list(class_names)

    def call(self, numbers: Any) -> tf.Tensor:
        return tf.gather(tf.constant(self.class_names), numbers)

    def compute_output_spec(self, numbers: Any) -> keras.KerasTensor:
        return keras.KerasTensor(numbers.shape, dtype="string")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_names": self.class_names}
