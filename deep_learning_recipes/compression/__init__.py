"""Models made small: TF Model Optimization on Keras 3, by a bridge to tf_keras and
back; LiteRT (TensorFlow Lite) files of them, run and measured."""

from deep_learning_recipes.compression.bridge import to_keras, to_tf_keras
from deep_learning_recipes.compression.clustering import cluster
from deep_learning_recipes.compression.conversion import MODES, to_litert
from deep_learning_recipes.compression.fine_tuning import Optimized
from deep_learning_recipes.compression.folding import fold
from deep_learning_recipes.compression.litert import LiteRTModel
from deep_learning_recipes.compression.measure import (
    Measurement,
    SavedModel,
    benchmark,
    table,
)
from deep_learning_recipes.compression.pruning import prune
from deep_learning_recipes.compression.quantization import quantize_aware
from deep_learning_recipes.compression.report import Report

__all__ = [
    "MODES",
    "LiteRTModel",
    "Measurement",
    "Optimized",
    "Report",
    "SavedModel",
    "benchmark",
    "cluster",
    "fold",
    "prune",
    "quantize_aware",
    "table",
    "to_keras",
    "to_litert",
    "to_tf_keras",
]
