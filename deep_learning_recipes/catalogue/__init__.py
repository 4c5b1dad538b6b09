"""Finds the recipes and reads their headers, without importing any of them.

Importing this needs neither TensorFlow nor NumPy, so that `python -m recipes` answers at
once. Its other files are imported by who needs them: `listing`, `new`, `results`, ...
"""

from deep_learning_recipes.catalogue.headers import (
    LECTURES,
    THEMES,
    Recipe,
    find_recipes,
    package_folder,
    read_header,
)
from deep_learning_recipes.catalogue.search import find_recipe

__all__ = [
    "LECTURES",
    "THEMES",
    "Recipe",
    "find_recipe",
    "find_recipes",
    "package_folder",
    "read_header",
]
