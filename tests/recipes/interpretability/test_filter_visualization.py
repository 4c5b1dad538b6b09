"""Receptive fields against gradients, patches and their measures by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from keras import layers
from PIL import Image

from deep_learning_recipes import classifiers, data
from recipes import filter_visualization as recipe


@pytest.mark.parametrize("name", recipe.LAYERS)
def test_a_neuron_sees_its_receptive_field_and_nothing_else(name):
    keras.utils.set_random_seed(0)
    model = recipe.build_model()
    model.set_weights(
        [np.abs(w) + 0.01 for w in model.get_weights()]
    )  # nothing cancels or dies
    size, stride, start = recipe.receptive_field(model, name)
    part = keras.Model(model.input, model.get_layer(name).output)
    images = tf.Variable(np.random.default_rng(0).random((1, 48, 48, 3), "float32"))
    with tf.GradientTape() as tape:
        maps = part(images)
        middle = maps.shape[1] // 2
        answer = tf.reduce_sum(maps[0, middle, middle])
    seen = np.abs(tape.gradient(answer, images)[0]).sum(-1)
    rows, columns = np.nonzero(seen)
    first, last = start + stride * middle, start + stride * middle + size - 1
    # A pool passes one of its pixels on, so that the field's rim may stay out of one
    # gradient.
    pooled = {"relu1": 0, "relu2": 1, "relu3": 3, "relu4": 3}[name]
    assert first <= rows.min() <= first + pooled
    assert last - pooled <= rows.max() <= last
    assert first <= columns.min() <= first + pooled
    assert last - pooled <= columns.max() <= last


def test_receptive_fields_by_hand():
    model = recipe.build_model()
    found = [recipe.receptive_field(model, name) for name in recipe.LAYERS]
    assert found == [(7, 1, -3), (12, 2, -5), (22, 4, -9), (30, 4, -13)]
    with pytest.raises(ValueError, match="strongest: the receptive field"):
        recipe.receptive_field(model, "logits")
    x = keras.Input((9, 9, 1))
    strided = keras.Model(x, layers.Conv2D(1, 3, strides=2, name="stride")(x))
    assert recipe.receptive_field(strided, "stride") == (3, 2, 0)


def test_patches_are_what_stands_at_the_strongest_places():
    images = np.arange(3 * 8 * 8, dtype="float32").reshape(3, 8, 8, 1)
    maps = np.zeros((3, 4, 4, 2))
    maps[2, 1, 3, 1], maps[0, 0, 0, 1], maps[1, 2, 2, 0] = 5, 4, 9
    places = recipe.strongest_places(maps, 1, 2)
    np.testing.assert_array_equal(places, [[2, 1, 3], [0, 0, 0]])
    patches = recipe.cut(images, places, (3, 2, -1))  # rows 1 to 3, columns 5 to 7
    np.testing.assert_array_equal(patches[0], images[2, 1:4, 5:8])
    np.testing.assert_array_equal(patches[1][1:, 1:], images[0, :2, :2])
    np.testing.assert_array_equal(patches[1][0], 0)  # outside the picture


def test_alikeness_and_roughness_of_known_pictures():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 9, 9, 3))
    assert recipe.alikeness(np.stack([one, 2 * one + 3, one - 1])) == pytest.approx(
        1, abs=1e-3
    )
    assert recipe.alikeness(np.stack([one, -one])) == pytest.approx(-1, abs=1e-3)
    expected = np.corrcoef(one.mean(-1).ravel(), other.mean(-1).ravel())[0, 1]
    assert recipe.alikeness(np.stack([one, other])) == pytest.approx(expected, abs=1e-3)
    assert recipe.roughness(rng.normal(size=(40, 40, 3, 4))) == pytest.approx(
        2, rel=0.05
    )
    ramp = np.linspace(-1, 1, 41)[:, None, None, None] * np.ones((1, 41, 1, 1))
    assert recipe.roughness(ramp) < 0.02


def test_a_network_and_a_picture_of_ones_own(tmp_path):
    x = keras.Input((24, 24, 3))
    maps = layers.Conv2D(6, 3, activation="relu", name="edges")(x)
    y = layers.Dense(4, activation="softmax")(layers.GlobalMaxPooling2D()(maps))
    keras.Model(x, y).save(tmp_path / "own.keras")
    Image.fromarray(np.zeros((30, 60, 3), "uint8")).save(tmp_path / "own.png")
    files = "--model", str(tmp_path / "own.keras"), "--image", str(tmp_path / "own.png")
    record = run_in_process("filter_visualization", tmp_path / "run", *files).metrics
    assert record["figures"] == ["own-0.png"]
    assert set(record["metrics"]) == {"picture_0_class", "picture_0_probability"}
    assert record["claims"] == []


def test_receptive_fields_in_a_network_of_sums_and_strides():
    """Which pixels change a neuron of EfficientNet-Lite0, and which do not."""
    model = classifiers.load("EfficientNetLite0", weights=None, size=(112, 112)).model
    images = tf.Variable(np.random.default_rng(0).random((1, 112, 112, 3), "float32"))
    for name, size in zip(recipe.IMAGENET_LAYERS, (11, 19, 67), strict=True):
        field = recipe.receptive_field(model, name)
        assert field[0] == size
        part = keras.Model(model.input, model.get_layer(name).output)
        with tf.GradientTape() as tape:
            maps = part(images)
            middle = maps.shape[1] // 2
            answer = tf.reduce_sum(maps[0, middle, middle])
        seen = np.abs(tape.gradient(answer, images)[0]).sum(-1)
        rows, columns = np.nonzero(seen)
        first = field[2] + field[1] * middle
        assert (rows.min(), rows.max()) == (first, first + size - 1)
        assert (columns.min(), columns.max()) == (first, first + size - 1)


def test_neurons_at_the_edge_are_left_out():
    maps = np.ones((1, 4, 4, 2))
    maps[0, 1, 1, 0] = -3
    found = recipe.within(maps, (3, 2, -1), 8)  # from -1, 1, 3, 5 on, three pixels each
    np.testing.assert_array_equal(found[0, :, :, 1][0], -3)
    np.testing.assert_array_equal(found[0, :, :, 1][:, 0], -3)
    np.testing.assert_array_equal(found[0, 1:, 1:, 1], 1)


def test_tiles_are_the_squares_of_the_photos():
    photos = np.arange(2 * 7 * 7 * 3).reshape(2, 7, 7, 3)
    tiles = recipe.tiles_of(photos, 3)
    assert tiles.shape == (8, 3, 3, 3)
    np.testing.assert_array_equal(tiles[1], photos[0, :3, 3:6])
    np.testing.assert_array_equal(tiles[6], photos[1, 3:6, :3])


def test_a_neuron_that_lights_up_on_the_object_is_found_by_other_pictures():
    masks = np.zeros((4, 16, 16))
    masks[:, :8] = 1
    maps = np.ones((4, 4, 4, 3))  # of a picture four times as large
    maps[:, 2:, :, 1] = 0  # on the object alone
    maps[:, :2, :, 2] = 0.5
    shares = recipe.best_on_object(maps, masks)
    np.testing.assert_allclose(shares, [1 / 2, 1, 1 / 3])


def test_patches_are_counted_by_the_digit_that_they_show():
    scenes = data.Scenes(
        np.zeros((3, 8, 8, 3)), np.array([7, 7, 2]), np.zeros((3, 8, 8)), None
    )
    maps = np.zeros((3, 4, 4, 2))
    maps[..., 1] = np.array([3, 2, 1])[:, None, None]  # the first neuron is dead
    found = recipe.find_patches(maps, (3, 2, -1), scenes, 3)
    assert len(found.neurons) == 1
    assert found.digits[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 2]
    assert found.pure == pytest.approx(2 / 3)
