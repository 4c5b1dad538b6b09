"""Applied deep-learning recipes: one self-contained module for each lecture topic.

The theme folders stand on this package's path, so recipes/generative/vae.py runs as
`python -m recipes.vae` and imports as `recipes.vae`.
"""

import os
import sys
from pathlib import Path

# TensorFlow's later notes would bury a recipe's first lines; a value set by the user
# wins. What it prints while it loads, `startup` keeps aside.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__path__ += sorted(
    str(folder)
    for folder in Path(__file__).parent.iterdir()
    if folder.is_dir() and not folder.name.startswith(("_", "."))
)


def _begin(name: str) -> None:
    """Before `python -m recipes.NAME` runs: a mistyped name, or the loading that takes
    seconds."""
    if not any(Path(folder, f"{name}.py").is_file() for folder in __path__):
        from deep_learning_recipes import UsageError, catalogue

        try:
            catalogue.find_recipe(name)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    from deep_learning_recipes import startup

    startup.begin(name, verbose="--verbose" in sys.argv)


# While Python looks for the module that -m names, argv[0] still is "-m".
if sys.argv[0] == "-m" and "-m" in sys.orig_argv:
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if _module.startswith("recipes."):
        _begin(_module.removeprefix("recipes."))
