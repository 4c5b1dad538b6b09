"""SavedModels for TF Serving: export them, check them, and try them out on a laptop.

    run.export(serving.classifier(model), example)     # or serving.export(model, folder, example)
    python -m deep_learning_recipes.serving check saved_models
    python -m deep_learning_recipes.serving serve saved_models

Importing this package imports neither Keras nor TensorFlow: `check` and `serve` need no
Keras.
"""

from deep_learning_recipes.serving.formats import write_as
from deep_learning_recipes.serving.saved_model import (
    classifier,
    export,
    is_classifier,
    policy,
    with_class_names,
)

__all__ = [
    "classifier",
    "export",
    "is_classifier",
    "policy",
    "with_class_names",
    "write_as",
]
