"""A network that knows nothing, to hold one that knows something against."""

import keras
import numpy as np


def shuffle_weights(model: keras.Model, seed: int) -> None:
    """Brings the numbers within each kernel of a model into random order: it stays as it
    is in shape, scale and statistics, and has forgotten all that it learned. Biases and
    normalizations are left alone."""
    random = np.random.default_rng(seed)
    weights = []
    for each in model.get_weights():
        if each.ndim > 1:
            each = random.permutation(each.ravel()).reshape(each.shape)
        weights.append(each)
    model.set_weights(weights)
