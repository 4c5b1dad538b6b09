"""`fit`: `keras.Model.fit` for arrays that fit in memory, each epoch as one compiled
call.

`keras.Model.fit` goes back to Python for every batch. For the small models of a lecture
that costs more than their arithmetic. Here the arrays are put on the device once, and
an epoch is a single `tf.function` that walks over a fresh permutation of the examples.
Weights, History and progress bar are those of `keras.Model.fit`. `fit_classifier` also
compiles, where the training is not what a recipe is about.
"""

from deep_learning_recipes.training.classifier import fit_classifier
from deep_learning_recipes.training.fit import fit

__all__ = ["fit", "fit_classifier"]
