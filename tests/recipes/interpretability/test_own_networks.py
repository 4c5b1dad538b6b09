"""Every recipe that takes --model takes networks of all kinds, and records what the
network itself says of the picture."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from keras import layers, ops
from PIL import Image, PngImagePlugin
from skimage import data as photographs

from deep_learning_recipes import classifiers
from recipes import (
    fast_style_transfer,
    filter_visualization,
    grad_cam,
    style_transfer,
    texture_synthesis,
)

HEIGHT, WIDTH = 32, 28
EXPLAINING = (
    "grad_cam",
    "saliency",
    "occlusion",
    "guided_backpropagation",
    "filter_visualization",
)
# What else takes --model, with little to do.
DRAWING = {
    "activation_maximization": ("--steps", "10"),
    "feature_inversion": ("--steps", "10", "--photos", "1"),
    "deep_dream": ("--steps", "1", "--octaves", "2", "--size", "32"),
    "texture_synthesis": ("--steps", "5", "--textures", "brick"),
    "style_transfer": ("--steps", "5", "--styles", "brick"),
}


def mean_of_maps(x):
    x = layers.Conv2D(6, 3, activation="relu", padding="same")(x)
    x = ops.relu(layers.Conv2D(8, 3, padding="same")(layers.MaxPooling2D(2)(x)))
    return layers.GlobalAveragePooling2D()(x)


def tutorial(x):
    x = layers.RandomZoom(0.2)(layers.RandomFlip("horizontal")(x))
    return layers.Dense(3, "softmax")(mean_of_maps(layers.Rescaling(1 / 255)(x)))


def in_two_parts(x):
    inner = keras.Input(x.shape[1:])
    maps = layers.DepthwiseConv2D(3, activation="relu")(inner)
    parts = keras.Model(inner, [maps, layers.SeparableConv2D(4, 3)(maps)])(x)
    means = [layers.GlobalAveragePooling2D()(each) for each in parts]
    return ops.softmax(layers.Dense(3)(layers.Concatenate()(means)))


# By name: what the network is, its channels, its pixels' largest value.
NETWORKS = {
    "one sigmoid": (lambda x: layers.Dense(1, "sigmoid")(mean_of_maps(x)), 3, 1),
    "sigmoids": (lambda x: layers.Dense(4, "sigmoid")(mean_of_maps(x)), 3, 1),
    "augmented": (tutorial, 3, 255),
    "gray": (lambda x: layers.Dense(3, "softmax")(mean_of_maps(x)), 1, 1),
    "in two parts": (in_two_parts, 3, 1),
    "float16": (lambda x: layers.Dense(1, "sigmoid")(in_two_parts(x)), 1, 1),
    "bfloat16": (lambda x: layers.Dense(3, "softmax")(mean_of_maps(x)), 3, 1),
}


def save_network(name):
    """`own.keras` and `own.png` in the current folder; returns the model's own answer,
    the class and its probability."""
    build, channels, top = NETWORKS[name]
    keras.utils.set_random_seed(1)
    if "float16" in name:
        keras.config.set_dtype_policy(name)
    try:
        images = keras.Input((HEIGHT, WIDTH, channels))
        model = keras.Model(images, build(images), name="own")
    finally:
        keras.config.set_dtype_policy("float32")
    random = np.random.default_rng(5)
    model.set_weights([random.normal(0, 0.3, w.shape) for w in model.get_weights()])
    model.save("own.keras")
    pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), "uint8")
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    image.save("own.png")
    shown = np.asarray(image).reshape(1, HEIGHT, WIDTH, channels) * (top / 255)
    answer = model.predict(shown, verbose=0)[0].astype("float32")
    if len(answer) == 1:
        answer = np.array([1 - answer[0], answer[0]])
    return int(answer.argmax()), float(answer.max())


PAIRS = [("grad_cam", network) for network in NETWORKS]
PAIRS += [(recipe, "float16") for recipe in EXPLAINING[1:]]
PAIRS += [
    pytest.param(recipe, network, marks=pytest.mark.long)
    for recipe in EXPLAINING[1:]
    for network in ("one sigmoid", "augmented")
]


@pytest.mark.parametrize(("recipe", "network"), PAIRS)
def test_what_is_recorded_is_what_the_network_says(recipe, network, tmp_path, capsys):
    number, probability = save_network(network)
    flags = "--model", "own.keras", "--image", "own.png"
    finished = run_in_process(recipe, tmp_path / "run", *flags)
    assert finished.code == 0
    found = finished.metrics["metrics"]
    assert found["picture_0_class"]["value"] == number
    assert found["picture_0_probability"]["value"] == pytest.approx(
        probability, abs=1e-3
    )
    assert "opened up" not in capsys.readouterr().out


EXPLAINED = [
    pytest.param(recipe, marks=() if recipe == "grad_cam" else pytest.mark.long)
    for recipe in EXPLAINING
]


@pytest.mark.parametrize("recipe", EXPLAINED)
def test_the_network_that_needs_no_download_explains_a_picture(recipe, tmp_path):
    """Under any spelling of its name; the cat is found."""
    Image.fromarray(photographs.chelsea()).save("cat.png")
    flags = "--preset", "quick", "--model", "efficientnetlite0", "--image", "cat.png"
    finished = run_in_process(recipe, tmp_path / "run", *flags)
    assert finished.code == 0
    if recipe != "filter_visualization":
        found = finished.metrics["metrics"]
        assert found["picture_0_class"]["value"] in (281, 282, 285)


@pytest.mark.parametrize("recipe", DRAWING)
def test_what_draws_takes_gray_oblong_networks_of_half_precision(recipe, tmp_path):
    save_network("float16")
    flags = "--preset", "quick", "--model", "own.keras", *DRAWING[recipe]
    finished = run_in_process(recipe, tmp_path / "run", *flags)
    assert finished.code == 0
    found = finished.metrics["metrics"].values()
    assert all(each["value"] is not None for each in found)


@pytest.mark.long
def test_a_painter_learns_from_a_gray_network_of_oblong_pictures(tmp_path):
    images = keras.Input((40, 48, 1))
    keras.Model(images, layers.Dense(2)(mean_of_maps(images))).save("own.keras")
    flags = "--model", "own.keras", "--crops", "4", "--epochs", "1", "--width", "2"
    finished = run_in_process("fast_style_transfer", tmp_path / "run", *flags)
    assert finished.code == 0


@pytest.mark.parametrize("recipe", [*EXPLAINING, *DRAWING, "fast_style_transfer"])
def test_the_range_of_pixels_can_be_said(recipe, tmp_path, capsys):
    save_network("one sigmoid")
    flags = "--model", "own.keras", "--pixel-range", "2", "-1"
    assert run_in_process(recipe, tmp_path / "run", *flags).code == 2
    assert "--pixel-range 2 -1: the least value" in capsys.readouterr().err


def test_bad_files_end_the_run_with_one_line(tmp_path, capsys):
    save_network("one sigmoid")
    Path("cut.keras").write_bytes(Path("own.keras").read_bytes()[:3000])
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2**21, zip=True)
    Image.new("RGB", (8, 8)).save("text.png", pnginfo=text)
    for flags, said in {
        ("--model", "cut.keras"): "error: --model cut.keras: Keras cannot load it",
        ("--image", "text.png"): "error: --image text.png: Pillow cannot read it",
    }.items():
        for recipe in ("grad_cam", "saliency"):
            code = run_in_process(recipe, tmp_path / f"{recipe}{flags[0]}", *flags).code
            assert code == 2
            lines = capsys.readouterr().err.strip().splitlines()
            assert len(lines) == 1
            assert lines[0].startswith(said)


def test_a_range_that_was_said_is_taken(tmp_path):
    save_network("sigmoids")
    model = keras.models.load_model("own.keras")
    pixels = np.asarray(Image.open("own.png"))[None] / 255 * 2 - 1
    answer = model.predict(pixels, verbose=0)[0]
    flags = "--model", "own.keras", "--image", "own.png", "--pixel-range", "-1", "1"
    found = run_in_process("saliency", tmp_path / "run", *flags).metrics["metrics"]
    assert found["picture_0_class"]["value"] == answer.argmax()
    assert found["picture_0_probability"]["value"] == pytest.approx(answer.max())


@pytest.mark.parametrize("recipe", [*EXPLAINING, *DRAWING, "fast_style_transfer"])
def test_without_convolutions_there_are_maps_or_one_line(recipe, tmp_path, capsys):
    images = keras.Input((16, 16, 3))
    x = layers.Dense(8, "relu")(layers.Flatten()(layers.Rescaling(1 / 255)(images)))
    keras.Model(images, layers.Dense(3, "softmax")(x)).save("own.keras")
    flags = DRAWING.get(recipe, ())
    code = run_in_process(recipe, tmp_path / "run", "--model", "own.keras", *flags).code
    needs_none = "saliency", "occlusion", "guided_backpropagation"
    needs_none += ("activation_maximization",)
    assert code == (0 if recipe in needs_none else 2)
    if code:
        assert "no convolution" in capsys.readouterr().err


def test_maps_explain_the_class_that_one_sigmoid_says(tmp_path):
    """At P = .12 the class is 0, whose logit is -z: what speaks against z."""
    save_network("one sigmoid")
    model = keras.models.load_model("own.keras")
    image = tf.constant(np.asarray(Image.open("own.png"))[None] / 255, "float32")
    p = float(model(image)[0, 0])
    dense = model.layers[-1]
    dense.bias.assign(dense.bias - np.log(p / (1 - p)) - 2)
    model.save("own.keras")
    operations = [each for each in model.operations if "relu" in each.name.lower()]
    parts = keras.Model(model.input, [operations[-1].output, dense.input])
    with tf.GradientTape() as tape:
        tape.watch(image)
        maps, features = parts(image)
        z = features @ dense.kernel + dense.bias
    weights = -np.asarray(tape.gradient(z, maps)).mean((1, 2), keepdims=True)
    expected = np.maximum((weights * np.asarray(maps)).sum(-1), 0)
    own = classifiers.load("own.keras")
    split = grad_cam.split(own.model, own.last_convolution)
    found = grad_cam.explain("Grad-CAM", split, image, np.array([0]), channels=8)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert expected.max() > 0
    own_weights = grad_cam.explain(
        "Score-CAM", split, image, np.array([0]), 8, squash=own.squash
    )
    usual = grad_cam.explain("Score-CAM", split, image, np.array([0]), 8)
    assert np.abs(np.asarray(own_weights) - np.asarray(usual)).max() > 1e-3
    expected = 1 / (1 + np.exp(-2))
    assert own.probabilities(np.asarray(image))[0] == pytest.approx(
        [expected, 1 - expected], abs=1e-4
    )


def test_a_layer_that_is_blind_to_the_target_counts_for_nothing():
    zero, one = np.zeros((2, 2, 3, 3), "float32"), np.ones((2, 2, 3, 3), "float32")
    target = np.concatenate([zero[:1], one[:1]])
    for recipe in (style_transfer, fast_style_transfer):
        found = np.asarray(recipe.relative(3 * one, target))
        np.testing.assert_allclose(found, [0, 4])
    grams = texture_synthesis.distances([3 * one[:, 0]], [target[:, 0]])
    np.testing.assert_allclose(np.asarray(grams), [[0], [4]])


def test_filters_of_every_kind_of_convolution():
    """Laid over a picture of one bright pixel, a filter shows itself, turned by 180°."""
    picture = np.zeros((1, 5, 5, 3), "float32")
    picture[0, 2, 2] = 1
    for layer in (
        layers.Conv2D(4, 3, use_bias=False),
        layers.SeparableConv2D(4, 3, use_bias=False, depth_multiplier=2),
        layers.DepthwiseConv2D(3, use_bias=False, depth_multiplier=2),
    ):
        shown = np.asarray(layer(picture))[0]
        kernel = filter_visualization.filters_of(layer)
        np.testing.assert_allclose(kernel.sum(2), shown[::-1, ::-1], atol=1e-5)
    layer = layers.Conv2DTranspose(4, 3, use_bias=False)
    shown = np.asarray(layer(picture))[0, 2:5, 2:5]
    np.testing.assert_allclose(
        filter_visualization.filters_of(layer).sum(2), shown, atol=1e-5
    )
    many = layers.Conv2D(4, 3)
    many.build((None, 8, 8, 12))
    assert filter_visualization.filters_of(many).shape == (3, 3, 1, 4)
