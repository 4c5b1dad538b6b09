"""Applied deep-learning recipes: one self-contained module for each lecture topic.

The theme folders stand on this package's path, so recipes/generative/vae.py runs as
`python -m recipes.vae` and imports as `recipes.vae`.
"""

import os
from pathlib import Path

# TensorFlow's start-up notes would bury a recipe's first lines; a value set by the user
# wins. A few lines remain that it prints before it reads this (tensorflow#100442).
# Errors reach Python anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__path__ += sorted(
    str(folder)
    for folder in Path(__file__).parent.iterdir()
    if folder.is_dir() and not folder.name.startswith(("_", "."))
)
