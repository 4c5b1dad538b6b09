"""The tokens of vision transformers, as maps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from deep_learning_recipes import classifiers
from deep_learning_recipes.classifiers.tokens import find_grid


@keras.saving.register_keras_serializable("tests")
class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        token = ops.repeat(self.token, ops.shape(x)[0], axis=0)
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape):
        return shape[0], shape[1] + 1, shape[2]


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A block of someone's own, which cannot be opened up."""

    def build(self, shape):
        self.norm, self.attend = (
            layers.LayerNormalization(),
            layers.MultiHeadAttention(2, 4),
        )
        self.norm.build(shape)
        self.attend.build(shape, shape)

    def call(self, x):
        normal = self.norm(x)
        return x + self.attend(normal, normal)

    def compute_output_shape(self, shape):
        return shape


def transformer(kind, height=24, width=32):
    """Patches of 8 pixels, two blocks, and the class token or the mean."""
    keras.utils.set_random_seed(0)
    images = keras.Input((height, width, 3))
    if "patches" in kind:
        x = ops.image.extract_patches(images, 8, padding="valid")
        x = layers.Dense(8)(ops.reshape(x, (-1, height * width // 64, 192)))
    else:
        x = layers.Conv2D(8, 8, strides=8)(images)
        x = layers.Reshape((-1, 8))(x)
    if "token" in kind:
        x = ClassToken()(x)
    for _ in range(2):
        if "block" in kind:
            x = Block()(x)
        else:
            y = layers.LayerNormalization()(x)
            x = x + layers.MultiHeadAttention(2, 4)(query=y, value=y)
    x = layers.LayerNormalization()(x)
    x = x[:, 0] if "token" in kind else layers.GlobalAveragePooling1D()(x)
    return keras.Model(images, layers.Dense(3, activation="softmax")(x))


KINDS = "mean", "token", "patches, mean", "patches, token", "block, token"


@pytest.mark.parametrize("kind", KINDS)
def test_a_transformer_says_the_same_and_has_maps_of_its_tokens(kind, tmp_path):
    from recipes import grad_cam

    model = transformer(kind)
    model.save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    pictures = np.random.default_rng(0).random((2, 24, 32, 3), "float32")
    expected = model.predict(pictures, verbose=0)
    np.testing.assert_allclose(own.probabilities(pictures), expected, atol=1e-6)
    np.testing.assert_allclose(own.opened_probabilities(pictures), expected, atol=1e-5)
    maps = own.model.get_layer(own.last_convolution).output
    assert maps.shape[1:] == (3, 4, 8)
    methods = grad_cam.explainers(own.model, own.last_convolution, 8, own.squash)
    for method in methods.values():
        found = np.asarray(method(pictures, expected.argmax(axis=1)))
        assert found.shape == (2, 24, 32)
        assert np.isfinite(found).all()
    parts = grad_cam.split(own.model, own.last_convolution)
    _, slopes = grad_cam.maps_and_gradients(parts, tf.constant(pictures), [0, 1])
    assert np.abs(np.asarray(slopes)).max() > 0


def test_a_token_stands_at_its_place(tmp_path):
    """A bright patch changes the token of that place most."""
    transformer("token").save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    first = next(each for each in own.model.layers if "token_maps" in each.name)
    tokens = keras.Model(own.model.input, first.output)
    picture = np.zeros((1, 24, 32, 3), "float32")
    bright = picture.copy()
    bright[0, 8:16, 24:32] = 1
    change = np.abs(np.asarray(tokens(bright) - tokens(picture)))[0].sum(-1)
    assert np.unravel_index(change.argmax(), change.shape) == (1, 3)
    assert np.count_nonzero(change) == 1


@pytest.mark.parametrize(
    ("tokens", "picture", "expected"),
    [
        (196, (224, 224), ((14, 14), 0)),
        (197, (224, 224), ((14, 14), 1)),
        (198, (224, 224), ((14, 14), 2)),
        (261, (224, 224), ((16, 16), 5)),
        (12, (24, 32), ((3, 4), 0)),
        (13, (24, 32), ((3, 4), 1)),
        (12, (32, 24), ((4, 3), 0)),
        (15, (24, 24), None),
        (1, (24, 24), None),
    ],
)
def test_the_grid_of_so_many_tokens(tokens, picture, expected):
    assert find_grid((None, tokens, 8), *picture) == expected


def test_a_transformer_without_convolutions_has_none_to_look_at(tmp_path):
    transformer("patches, mean").save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    with pytest.raises(classifiers.network.UsageError, match="no convolution"):
        own.first_convolution  # noqa: B018 (a property)
