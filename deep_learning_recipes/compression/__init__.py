"""Smaller, faster networks: LiteRT (TensorFlow Lite) models from Keras 3, run and measured."""

from deep_learning_recipes.compression.folding import fold
from deep_learning_recipes.compression.litert import MODES, LiteRTModel, to_litert
from deep_learning_recipes.compression.measure import Measurement, SavedModel, benchmark, table

__all__ = [
    "MODES",
    "LiteRTModel",
    "Measurement",
    "SavedModel",
    "benchmark",
    "fold",
    "table",
    "to_litert",
]
