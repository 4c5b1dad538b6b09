"""A network gets the pixels that it was trained on, wherever it scales them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deep_learning_recipes import UsageError, classifiers

SIZE = 12
BYTES, UNIT, SIGNED = (0, 255), (0, 1), (-1, 1)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def augmented(x):
    x = layers.RandomFlip("horizontal")(x)
    return layers.RandomContrast(0.3)(
        layers.RandomZoom(0.2)(layers.RandomRotation(0.1)(x))
    )


def nested_augmentation(x):
    flips = [layers.RandomFlip(), layers.RandomTranslation(0.1, 0.1)]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *flips])(x)


def normalized(mean, deviation):
    return layers.Normalization(mean=mean, variance=np.square(deviation))


def trained_norm(mean, deviation):
    norm = layers.BatchNormalization()
    norm.build((None, SIZE, SIZE, 3))
    norm.moving_mean.assign(np.full(3, mean))
    norm.moving_variance.assign(np.full(3, deviation**2))
    return norm


FIRST = {
    "Rescaling": (BYTES, layers.Rescaling(1 / 255)),
    "Rescaling to signed": (BYTES, layers.Rescaling(1 / 127.5, -1)),
    "augmentation, Rescaling": (BYTES, lambda x: augmented(x) / 255),
    "Rescaling, augmentation": (
        BYTES,
        lambda x: augmented(layers.Rescaling(1 / 255)(x)),
    ),
    "nested augmentation": (
        BYTES,
        lambda x: layers.Rescaling(1 / 255)(nested_augmentation(x)),
    ),
    "dropout, noise": (
        BYTES,
        lambda x: layers.GaussianNoise(0.9)(layers.Dropout(0.2)(x)) / 256,
    ),
    "ops.multiply": (BYTES, lambda x: ops.multiply(x, 1 / 255)),
    "ops.subtract": (BYTES, lambda x: ops.subtract(x, 127.5)),
    "bytes less mean color": (BYTES, lambda x: (x - 255 * MEAN) / (255 * DEVIATION)),
    "negative": (BYTES, lambda x: (255 - x) / 255),
    "Normalization of bytes": (BYTES, normalized(255 * MEAN, 255 * DEVIATION)),
    "resized, padded, pooled": (
        BYTES,
        lambda x: (
            layers.AveragePooling2D(2)(
                layers.ZeroPadding2D(1)(layers.Resizing(20, 20)(x))
            )
            / 255
        ),
    ),
    "mobilenet": (BYTES, keras.applications.mobilenet_v2.preprocess_input),
    "resnet": (BYTES, keras.applications.resnet50.preprocess_input),
    "densenet": (BYTES, keras.applications.densenet.preprocess_input),
    "batch norm of bytes": (BYTES, lambda x: trained_norm(120, 60)(x)),
    "batch norm of unit": (UNIT, lambda x: trained_norm(0.45, 0.25)(x)),
    "color mean and deviation": (UNIT, lambda x: (x - MEAN) / DEVIATION),
    "Normalization of unit": (UNIT, normalized(MEAN, DEVIATION)),
    "digits": (UNIT, normalized(0.1307, 0.3081)),
    "less a half": (UNIT, lambda x: x - 0.5),
    "unit to signed": (UNIT, layers.Rescaling(2, -1)),
    "unit to bytes": (UNIT, layers.Rescaling(255)),
    "unit to resnet": (
        UNIT,
        lambda x: keras.applications.resnet50.preprocess_input(255 * x),
    ),
    "root": (BYTES, lambda x: ops.sqrt(x / 255)),
    "hue": (BYTES, lambda x: ops.image.rgb_to_hsv(x / 255)),
    "gray": (BYTES, lambda x: ops.image.rgb_to_grayscale(x) / 255),
    "clipped": (UNIT, lambda x: ops.clip(x, 0, 1)),
    "16 bits": ((0, 65535), lambda x: x / 65535),
    "signed to unit": (SIGNED, lambda x: (x + 1) / 2),
    "signed to bytes": (SIGNED, layers.Rescaling(127.5, 127.5)),
}


def saved(first, folder, dtype="float32", policy="float32", size=SIZE):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        images = keras.Input((size, size, 3), dtype=dtype)
        x = layers.Conv2D(8, 3, activation="relu")(first(images))
        x = layers.GlobalAveragePooling2D()(x)
        model = keras.Model(images, layers.Dense(5, "softmax")(x))
    finally:
        keras.config.set_dtype_policy(before)
    model.save(folder / "net.keras")
    return model


def pictures():
    return np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3)) / 255


@pytest.mark.parametrize("first", FIRST)
def test_the_first_arithmetic_says_the_range(first, tmp_path):
    (low, high), build = FIRST[first]
    model = saved(build, tmp_path)
    own = classifiers.load(str(tmp_path / "net.keras"))
    images = pictures().astype("float32")
    expected = model.predict(low + (high - low) * images, verbose=0)
    np.testing.assert_allclose(own.probabilities(images), expected, atol=1e-5)
    np.testing.assert_allclose(own.opened_probabilities(images), expected, atol=1e-4)
    # Called without training=False, too: augmentation is not at work.
    again = ops.softmax(own.model(images))
    np.testing.assert_allclose(again, expected, atol=1e-4)
    assert f"pixels from {low} to {high}, as the first arithmetic" in own.notes[0]


def test_integer_inputs_are_bytes(tmp_path):
    model = saved(lambda x: ops.cast(x, "float32") / 100, tmp_path, dtype="uint8")
    own = classifiers.load(str(tmp_path / "net.keras"))
    between = pictures() * 0.9137  # as after resizing
    for images in (pictures(), between):
        expected = model.predict((255 * images).round().astype("uint8"), verbose=0)
        found = own.probabilities(images.astype("float32"))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16"])
@pytest.mark.parametrize("first", ["Rescaling", "resnet", "color mean and deviation"])
def test_half_precision_tells_as_well(first, policy, tmp_path):
    (low, high), build = FIRST[first]
    if isinstance(build, layers.Layer):
        build = lambda x: layers.Rescaling(1 / 255)(x)  # noqa: E731 (of this policy)
    model = saved(build, tmp_path, policy=policy)
    own = classifiers.load(str(tmp_path / "net.keras"))
    assert f"from {low} to {high}, as" in own.notes[0]
    images = pictures().astype("float32")
    expected = model.predict(low + (high - low) * images, verbose=0).astype("float32")
    np.testing.assert_allclose(own.probabilities(images), expected, atol=1e-2)
    assert own.model.outputs[0].dtype == "float32"
    assert all(w.dtype == "float32" for w in own.model.weights)


OPEN = {
    "convolution": lambda x: x,
    "untrained batch norm": lambda x: layers.BatchNormalization()(x),
    "tanh": lambda x: ops.tanh(x),
    "layer norm": lambda x: layers.LayerNormalization()(x),
}


@pytest.mark.parametrize("first", OPEN)
def test_an_open_range_is_assumed_aloud_or_said(first, tmp_path):
    model = saved(OPEN[first], tmp_path)
    images = pictures().astype("float32")
    own = classifiers.load(str(tmp_path / "net.keras"))
    assert "pixels from 0 to 1 are assumed" in own.notes[0]
    assert "--pixel-range" in own.notes[0]
    np.testing.assert_allclose(own.probabilities(images), model(images), atol=1e-5)
    for low, high in (BYTES, SIGNED, (0, 65535)):
        said = classifiers.load(str(tmp_path / "net.keras"), pixel_range=(low, high))
        assert said.notes == []
        expected = model.predict(low + (high - low) * images, verbose=0)
        np.testing.assert_allclose(said.probabilities(images), expected, atol=1e-4)
        np.testing.assert_allclose(
            said.opened_probabilities(images), expected, atol=1e-4
        )


def test_what_was_said_counts_more_than_the_graph(tmp_path):
    model = saved(layers.Rescaling(1 / 255), tmp_path)
    images = pictures().astype("float32")
    own = classifiers.load(str(tmp_path / "net.keras"), pixel_range=(0, 1))
    np.testing.assert_allclose(own.probabilities(images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    "given", [(1, 0), (2, 2), (0, float("nan")), (0, float("inf"))]
)
def test_a_range_that_is_none_gets_one_line(given, tmp_path):
    saved(layers.Rescaling(1 / 255), tmp_path)
    with pytest.raises(UsageError, match=r"--pixel-range .*such as 0 255"):
        classifiers.load(str(tmp_path / "net.keras"), pixel_range=given)


def test_the_range_of_an_application_is_known():
    with pytest.raises(UsageError, match="--pixel-range 0 1: that of MobileNetV2"):
        classifiers.load("MobileNetV2", weights=None, pixel_range=(0, 1))
