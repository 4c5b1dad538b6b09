"""Models made small: TF Model Optimization on Keras 3, by a bridge to tf_keras and back."""

from deep_learning_recipes.compression.bridge import to_keras, to_tf_keras

__all__ = ["to_keras", "to_tf_keras"]
