"""Data sets that are there without a network, and the user's own by path, split into
train and test in a fixed way.

Importing this costs nothing; each loader imports the library that holds its data.
"""

from deep_learning_recipes.data.crops import load_photos
from deep_learning_recipes.data.images import load, load_vectors
from deep_learning_recipes.data.labels import class_names
from deep_learning_recipes.data.objects import Objects, load_objects
from deep_learning_recipes.data.pairs import Pairs, load_pairs
from deep_learning_recipes.data.pictures import load_picture
from deep_learning_recipes.data.scenes import Scenes, load_scenes
from deep_learning_recipes.data.series import load_series
from deep_learning_recipes.data.tables import feature_names, load_table
from deep_learning_recipes.data.text import (
    labeled_class_names,
    load_labeled_texts,
    load_names,
    load_text,
)

__all__ = [
    "Objects",
    "Pairs",
    "Scenes",
    "class_names",
    "feature_names",
    "labeled_class_names",
    "load",
    "load_labeled_texts",
    "load_names",
    "load_objects",
    "load_pairs",
    "load_photos",
    "load_picture",
    "load_scenes",
    "load_series",
    "load_table",
    "load_text",
    "load_vectors",
]
