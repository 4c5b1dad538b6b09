import keras
import numpy as np
import pytest
from keras import layers, ops

from deep_learning_recipes import UsageError, classifiers
from deep_learning_recipes.classifiers import maps

KINDS = {
    "Conv2D": lambda x: layers.Conv2D(4, 3, name="first")(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, name="first")(x),
    "separable": lambda x: layers.SeparableConv2D(4, 3, name="first")(x),
    "transposed": lambda x: layers.Conv2DTranspose(4, 3, name="first")(x),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_convolution_is_one_and_scaling_is_none(kind):
    images = keras.Input((16, 16, 3))
    x = layers.RandomFlip()(layers.Rescaling(1 / 255)(images))
    x = layers.ZeroPadding2D()(layers.BatchNormalization()(x))
    x = layers.ReLU(name="bent")(KINDS[kind](x))
    x = layers.MaxPooling2D(name="pooled")(x)
    model = keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    own = classifiers.Classifier(model, ["a", "b"])
    assert own.map_names == ["first", "bent", "pooled"]
    assert own.first_convolution == "first"
    assert own.last_convolution == "bent"
    (found,) = own.convolutions(np.zeros((5, 16, 16, 3)))
    assert found.shape[0] == 5


WITHOUT = {
    "dense": lambda x: layers.Dense(4, "relu")(layers.Flatten()(x)),
    "scaled": lambda x: layers.Flatten()(layers.Resizing(8, 8)(layers.Rescaling(2)(x))),
    "one place": lambda x: layers.Flatten()(layers.Conv2D(4, 16)(x)),
    "patches of a transformer": lambda x: layers.GlobalAveragePooling1D()(
        layers.MultiHeadAttention(2, 4)(
            *[layers.Dense(8)(ops.reshape(x, (-1, 16, 48)))] * 2
        )
    ),
}


@pytest.mark.parametrize("kind", WITHOUT)
@pytest.mark.parametrize(
    "asked", ["map_names", "first_convolution", "last_convolution", "convolutions"]
)
def test_a_network_without_maps_gets_one_line(kind, asked):
    images = keras.Input((16, 16, 3))
    model = keras.Model(images, layers.Dense(2)(WITHOUT[kind](images)))
    own = classifiers.Classifier(model, ["a", "b"])
    with pytest.raises(UsageError, match="no convolution"):
        getattr(own, asked)


def test_a_layer_called_twice_has_no_maps_of_its_own():
    images = keras.Input((16, 16, 3))
    once = layers.Conv2D(3, 3, name="once")(images)
    twice = layers.Conv2D(3, 3, name="twice")
    x = layers.GlobalAveragePooling2D()(twice(twice(once)))
    model = keras.Model(images, layers.Dense(2)(x))
    assert maps.last_convolution(model) == "once"
