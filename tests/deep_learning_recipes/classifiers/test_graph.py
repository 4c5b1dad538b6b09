"""A network opened up says what it said before."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deep_learning_recipes import classifiers

SIZE = 16


def two_outputs(images):
    x = inner = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, activation="relu")(x)
    backbone = keras.Model(inner, [x, layers.MaxPooling2D()(x)])
    fine, coarse = backbone(images)
    mean = layers.GlobalAveragePooling2D()
    return layers.Concatenate()([mean(fine), layers.GlobalMaxPooling2D()(coarse)])


def dict_outputs(images):
    x = inner = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, activation="relu")(x)
    backbone = keras.Model(inner, {"z": x, "a": layers.MaxPooling2D()(x)})
    found = backbone(images)
    mean = layers.GlobalAveragePooling2D()(found["z"])
    return layers.Concatenate()([mean, layers.GlobalMaxPooling2D()(found["a"])])


def two_inputs(images):
    first, second = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(4, 3)(first) * layers.Conv2D(4, 3)(second)
    both = keras.Model([first, second], layers.GlobalAveragePooling2D()(x))
    return both([images, ops.mean(images, axis=-1, keepdims=True)])


def dict_inputs(images):
    first, second = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 1))
    x = layers.Conv2D(4, 3)(first) * layers.Conv2D(4, 3)(second)
    both = keras.Model({"rgb": first, "gray": second}, layers.Flatten()(x))
    return both({"rgb": images, "gray": ops.mean(images, axis=-1, keepdims=True)})


def called_twice(images):
    inner = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inner))
    tower = keras.Model(inner, x)
    return layers.Subtract()([tower(images), tower(images[:, ::-1])])


def equal_names(images):
    def block(seed):
        inner = keras.Input((SIZE, SIZE, 3))
        x = layers.Conv2D(3, 3, padding="same", name="conv")(inner)
        x = x + inner
        return keras.Model(inner, ops.relu(x), name=f"block{seed}")

    return layers.Flatten()(block(2)(block(1)(images)))


def frozen_base(images):
    inner = keras.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inner))
    base = keras.Model(inner, layers.Dropout(0.5)(x))
    base.trainable = False
    return layers.GlobalAveragePooling2D()(base(images, training=False))


BUILDS = (
    two_outputs,
    dict_outputs,
    two_inputs,
    dict_inputs,
    called_twice,
    equal_names,
    frozen_base,
)


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("policy", ["float32", "float16", "bfloat16"])
def test_nested_models_of_any_form_say_the_same(build, policy, tmp_path):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        images = keras.Input((SIZE, SIZE, 3))
        outputs = layers.Dense(3, activation="softmax")(build(images))
    finally:
        keras.config.set_dtype_policy(before)
    model = keras.Model(images, outputs)
    model.save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    pictures = np.random.default_rng(0).random((3, SIZE, SIZE, 3), "float32")
    expected = np.asarray(model.predict(pictures, verbose=0), "float32")
    tolerance = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[policy]
    np.testing.assert_allclose(
        own.probabilities(pictures), expected, atol=min(tolerance, 1e-2)
    )
    opened = own.opened_probabilities(pictures)
    np.testing.assert_allclose(opened, expected, atol=2 * tolerance)
    assert opened.dtype == "float32"
    assert not any(isinstance(layer, keras.Model) for layer in own.model.layers)


def test_a_network_of_a_fixed_batch_size_answers_any_number(tmp_path):
    images = keras.Input(batch_shape=(4, SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))
    model = keras.Model(images, layers.Dense(1, activation="sigmoid")(x))
    model.save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    pictures = np.random.default_rng(0).random((6, SIZE, SIZE, 3), "float32")
    expected = np.concatenate([model(pictures[:4]), model(pictures[2:])])[
        [0, 1, 2, 3, 6, 7]
    ]
    found = own.probabilities(pictures)[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-6)
