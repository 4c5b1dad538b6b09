"""Training that is not the point of a recipe: a classifier is needed, and then looked
into."""

import math
from typing import Any

import keras
import numpy as np

from deep_learning_recipes.training.fit import fit


def fit_classifier(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    callbacks: Any = None,
) -> keras.callbacks.History:
    """Compiles a network that gives logits, and trains it by `fit` on labels y (n,): by
    Adam, whose learning rate falls to 0 along a cosine over all steps. The accuracy is
    its metric."""
    steps = epochs * math.ceil(len(x) / batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return fit(model, x, y, epochs=epochs, batch_size=batch_size, callbacks=callbacks)
