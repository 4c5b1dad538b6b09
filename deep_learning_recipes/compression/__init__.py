"""Models made small: TF Model Optimization on Keras 3, by a bridge to tf_keras and back."""

from deep_learning_recipes.compression.bridge import to_keras, to_tf_keras
from deep_learning_recipes.compression.optimization import (
    Optimized,
    Report,
    cluster,
    prune,
    quantize_aware,
)

__all__ = ["Optimized", "Report", "cluster", "prune", "quantize_aware", "to_keras", "to_tf_keras"]
