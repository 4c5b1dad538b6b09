import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from deep_learning_recipes import UsageError, classifiers
from deep_learning_recipes.classifiers import maps


def nested(size=24, head="softmax", scale=None):
    """A backbone within a Sequential within a functional model, batch norm and branches
    in it."""
    x = inputs = keras.Input((size, size, 3))
    y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = keras.ops.relu(y)
    y = layers.Add(name="add")([y, layers.Conv2D(4, 1, name="shortcut")(x)])
    backbone = keras.Model(inputs, layers.MaxPooling2D(name="pool")(y), name="backbone")
    first = [layers.Rescaling(scale, name="rescale")] if scale else []
    stem = [*first, layers.Conv2D(3, 3, padding="same", name="conv")]
    stem = keras.Sequential([keras.Input((size, size, 3)), *stem], name="stem")
    pictures = keras.Input((size, size, 3), name="pictures")
    features = layers.GlobalAveragePooling2D(name="mean")(backbone(stem(pictures)))
    logits = layers.Dense(5, name="logits")(features)
    if head == "softmax":
        outputs = layers.Dense(5, activation="softmax", name="probabilities")(features)
    elif head == "layer":
        outputs = layers.Softmax()(logits)
    elif head == "activation":
        outputs = layers.Activation("softmax")(logits)
    else:
        outputs = logits
    model = keras.Model(pictures, outputs)
    values = np.random.default_rng(0)
    model.set_weights(
        [np.abs(values.normal(size=w.shape)) * 0.2 for w in model.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).random((4, 24, 24, 3), "float32")


@pytest.mark.parametrize("head", ["softmax", "layer", "activation", "logits"])
def test_nested_models_are_opened_and_the_softmax_is_taken_off(
    head, pictures, tmp_path
):
    model = nested(head=head)
    model.save(tmp_path / "nested.keras")
    found = classifiers.load(str(tmp_path / "nested.keras"))
    logits = found.model(pictures, training=False).numpy()
    expected = model(pictures, training=False).numpy()
    if head != "logits":
        np.testing.assert_allclose(logits.sum(1) != 1, True)
        logits = keras.ops.softmax(logits).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert not any(isinstance(layer, keras.Model) for layer in found.model.layers)
    assert found.last_convolution == "add"
    assert found.class_names == [f"class {i}" for i in range(5)]
    # Each layer's own output belongs to the opened graph: maps and logits in one model.
    both = keras.Model(
        found.model.input, [found.model.get_layer("add").output, found.model.output]
    )
    assert both(pictures)[0].shape == (4, 24, 24, 4)


def test_a_layer_used_twice_stays_one_layer(tmp_path, pictures):
    x = keras.Input((24, 24, 3))
    shared = layers.Conv2D(3, 3, padding="same")
    y = layers.Dense(2)(layers.Flatten()(shared(shared(x))))
    model = keras.Model(x, y)
    model.save(tmp_path / "shared.keras")
    found = classifiers.load(str(tmp_path / "shared.keras")).model
    assert found.count_params() == model.count_params()
    np.testing.assert_allclose(found(pictures), model(pictures), rtol=1e-5)


def test_a_network_that_scales_bytes_gets_bytes(pictures, tmp_path):
    model = nested(scale=1 / 255)
    model.save(tmp_path / "bytes.keras")
    found = classifiers.load(str(tmp_path / "bytes.keras")).model
    probabilities = keras.ops.softmax(found(pictures, training=False))
    np.testing.assert_allclose(
        probabilities, model(255 * pictures, training=False), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["MobileNetV2", "resnet50"])
def test_an_application_comes_with_its_preprocessing(name):
    found = classifiers.load(name, weights=None)
    images = np.random.default_rng(0).random((1, 224, 224, 3), "float32")
    module = {"MobileNetV2": keras.applications.mobilenet_v2}.get(
        name, keras.applications.resnet
    )
    source = getattr(keras.applications, {"resnet50": "ResNet50"}.get(name, name))(
        weights=None, classifier_activation=None
    )
    source.set_weights(found.model.get_weights())
    expected = source(module.preprocess_input(255 * images.copy()), training=False)
    np.testing.assert_allclose(
        found.model(images, training=False), expected, rtol=1e-3, atol=1e-4
    )
    assert found.last_convolution == {"MobileNetV2": "out_relu"}.get(
        name, "conv5_block3_out"
    )
    assert len(set(found.class_names)) > 990


def test_bad_names_files_and_networks_get_one_line(tmp_path):
    with pytest.raises(UsageError, match="did you mean MobileNet"):
        classifiers.load("MobileNetV9")
    with pytest.raises(UsageError, match=r"none\.keras: there is no such file"):
        classifiers.load(str(tmp_path / "none.keras"))
    (tmp_path / "text.keras").write_text("no network")
    with pytest.raises(UsageError, match=r"text\.keras: Keras cannot load it"):
        classifiers.load(str(tmp_path / "text.keras"))
    x = keras.Input((8,))
    keras.Model(x, layers.Dense(2)(x)).save(tmp_path / "table.keras")
    with pytest.raises(UsageError, match="from one picture"):
        classifiers.load(str(tmp_path / "table.keras"))
    with pytest.raises(UsageError, match="no convolution"):
        pictures = keras.Input((8, 8, 3), name="x")
        flat = keras.Model(pictures, layers.Dense(2)(layers.Flatten()(pictures)))
        maps.last_convolution(flat)


def test_a_picture_is_turned_upright_cut_and_resized(tmp_path):
    pixels = np.zeros((40, 80, 3), "uint8")
    pixels[:, 40:] = 255, 0, 0
    image = Image.fromarray(pixels)
    image.save(tmp_path / "plain.png")
    found = classifiers.read_image(tmp_path / "plain.png", (20, 20))
    assert found.shape == (20, 20, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :8], 0)
    np.testing.assert_array_equal(found[:, 12:], [[[1, 0, 0]] * 8] * 20)
    gray = classifiers.read_image(tmp_path / "plain.png", (10, 20), 1)
    assert gray.shape == (10, 20, 1)
    assert gray[0, -1, 0] == pytest.approx(0.299, abs=0.01)
    exif = image.getexif()
    exif[0x0112] = 6  # turned a quarter: the red half is below
    image.save(tmp_path / "turned.png", exif=exif)
    turned = classifiers.read_image(tmp_path / "turned.png", (20, 10))
    assert turned[-1].mean(0) == pytest.approx([1, 0, 0])
    assert turned[0].max() == 0

    with pytest.raises(UsageError, match="there is no such file"):
        classifiers.read_image(tmp_path / "none.png", (8, 8))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UsageError, match="cannot read it as a picture"):
        classifiers.read_image(tmp_path / "text.png", (8, 8))


def test_first_convolutions_at_each_resolution():
    x = picture = keras.Input((32, 32, 3))
    for block in range(3):
        for n in range(2):
            x = layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv{n}")(x)
        x = layers.MaxPooling2D(2)(x)
    model = keras.Model(picture, layers.Dense(2)(layers.Flatten()(x)))
    found = classifiers.Classifier(model, ["a", "b"]).convolutions
    names = [tensor._keras_history.operation.name for tensor in found.outputs]
    assert names == ["block0_conv0", "block1_conv0", "block2_conv0"]


def test_first_convolutions_of_a_network_without_any():
    picture = keras.Input((8, 8, 3))
    model = keras.Model(picture, layers.Dense(2)(layers.Flatten()(picture)))
    with pytest.raises(UsageError, match="no convolution"):
        maps.convolutions(model)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_a_file_or_else_the_photographs(channels, tmp_path):
    images = keras.Input((20, 30, channels))
    own = classifiers.Classifier(keras.Model(images, layers.Flatten()(images)), ["a"])
    photos = own.pictures()
    assert photos.shape == (9, 20, 30, channels)
    assert 0 <= photos.min() < 0.1
    assert 0.9 < photos.max() <= 1
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "red.png")
    found = own.pictures(tmp_path / "red.png")
    assert found.shape == (1, 20, 30, channels)
    np.testing.assert_allclose(found[..., 0], 1 if channels == 3 else 76 / 255)


def test_predictions_are_recorded_and_captioned():
    class Run(dict):
        metric = dict.__setitem__

    run = Run()
    captions = classifiers.record(
        run, [[0.25, 0.75, 0], [1, 0, 0]], ["cat", "dog", "owl"]
    )
    assert captions == ["dog 0.75", "cat 1.00"]
    assert run == {
        "picture_0_class": 1,
        "picture_0_probability": 0.75,
        "picture_1_class": 0,
        "picture_1_probability": 1,
    }
