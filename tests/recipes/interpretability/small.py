"""Small networks and pictures that several tests explain or paint with."""

from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image


def scene(build_model) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A recipe's network for 16 pixels with random statistics, and pictures with the
    classes asked for."""
    keras.utils.set_random_seed(0)
    model = build_model(16)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(
                rng.uniform(0.5, 2, layer.moving_variance.shape)
            )
    return (
        model,
        rng.uniform(size=(5, 16, 16, 3)).astype("float32"),
        np.array([3, 0, 9, 3, 5]),
    )


def save_classifier_and_picture() -> None:
    """`own.keras`, of pictures 24 by 20, and `own.png`, 40 by 30, in the current
    folder."""
    keras.utils.set_random_seed(0)
    images = keras.Input((24, 20, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(images))
    keras.Model(images, layers.Dense(3, activation="softmax")(x)).save("own.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype="uint8")
    Image.fromarray(pixels).save("own.png")


def save_two_convolutions(file: Path, size: int) -> str:
    """A network of two resolutions for square pictures; returns the file's name."""
    picture = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, activation="relu")(picture)
    x = layers.Conv2D(4, 3, activation="relu")(layers.MaxPooling2D()(x))
    keras.Model(picture, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))).save(file)
    return str(file)
