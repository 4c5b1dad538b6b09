"""What is frozen stays as it is, heads against scikit-learn, parts against the whole."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.linear_model import LogisticRegression

from deep_learning_recipes import UsageError
from recipes import transfer_learning as recipe


@pytest.fixture
def backbone():
    """Small, with batch norm and a shortcut round two of its layers."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", name="first")(x)
    first = layers.BatchNormalization()(first)
    hidden = layers.ReLU()(first)
    hidden = layers.Conv2D(4, 3, padding="same", name="within")(hidden)
    hidden = layers.Add(name="sum")([first, hidden])
    hidden = layers.Conv2D(6, 3, name="last")(hidden)
    hidden = layers.BatchNormalization(name="last_bn")(hidden)
    hidden = layers.ReLU(name="maps")(hidden)
    outputs = layers.Dense(9)(layers.GlobalAveragePooling2D()(hidden))
    return recipe.build_backbone(keras.Model(x, outputs), "maps")


@pytest.fixture
def images():
    return np.random.default_rng(1).uniform(size=(40, 8, 8, 3)).astype("float32")


def a_head(features, classes):
    y = np.arange(len(features)) % classes
    return recipe.fit_head(features, y, strength=1.0)


def test_features_are_the_means_of_the_maps(backbone, images):
    maps = keras.Model(backbone.input, backbone.get_layer("maps").output)(images)
    np.testing.assert_allclose(backbone(images), np.mean(maps, axis=(1, 2)), atol=1e-6)


def test_the_parts_are_the_whole_and_no_shortcut_is_cut(backbone, images):
    lower, upper = recipe.split(backbone, 0.4)
    # Two layers lie inside of the shortcut; the sum is the first that all goes through.
    assert lower.layers[-1].name == "sum"
    np.testing.assert_allclose(upper(lower(images)), backbone(images), atol=1e-6)
    with pytest.raises(ValueError, match="no place"):
        recipe.split(backbone, 1.0)


def test_features_once_are_those_of_running_the_network_each_time(backbone, images):
    extract = recipe.build_extractor(backbone)
    once = extract(images)
    for places in (np.arange(5), np.arange(30, 40)):
        each_time = backbone(images[places], training=False)
        np.testing.assert_allclose(once[places], each_time, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_network_with_the_head_says_what_the_head_says(backbone, images, classes):
    features = recipe.build_extractor(backbone)(images)
    head = a_head(features, classes)
    assert isinstance(head, LogisticRegression)
    found = tf.nn.softmax(recipe.add_head(backbone, head)(images))
    np.testing.assert_allclose(found, head.predict_proba(features), atol=1e-5)


def test_frozen_weights_and_statistics_stay_and_the_head_learns(backbone, images):
    recipe.freeze(backbone)
    features = recipe.build_extractor(backbone)(images)
    model = recipe.add_head(backbone, a_head(features, 3))
    before = [weight.numpy() for weight in backbone.weights]
    head_before = model.get_layer("logits").get_weights()
    assert len(model.trainable_variables) == 2
    step = recipe.build_step(model, keras.optimizers.Adam(0.01))
    for _ in range(3):
        step(tf.constant(images), np.arange(40) % 3)
    for weight, value in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert np.abs(model.get_layer("logits").get_weights()[0] - head_before[0]).max() > 0


def test_fine_tuning_moves_the_upper_part_alone_and_no_batch_norm(backbone, images):
    recipe.freeze(backbone)
    lower, upper = recipe.split(backbone, 0.4)
    maps = recipe.build_extractor(lower)(images)
    features = recipe.build_extractor(upper)(maps)
    recipe.unfreeze(upper)
    model = recipe.add_head(upper, a_head(features, 3))
    before = {weight.path: weight.numpy() for weight in backbone.weights}
    step = recipe.build_step(model, keras.optimizers.Adam(0.01))
    for _ in range(3):
        step(tf.constant(maps), np.arange(40) % 3)
    moved = {
        weight.path
        for weight in backbone.weights
        if not np.array_equal(weight, before[weight.path])
    }
    assert moved == {
        "last/kernel",
        "last/bias",
    }


def test_a_network_that_forgets_keeps_its_scale_and_knows_nothing(backbone, images):
    before = backbone.get_layer("last").get_weights()[0]
    known = backbone(images).numpy()
    recipe.forget(backbone, images, seed=0)
    after = backbone.get_layer("last").get_weights()[0]
    np.testing.assert_allclose(np.sort(before.ravel()), np.sort(after.ravel()))
    maps = keras.Model(backbone.input, backbone.get_layer("last_bn").output)(images)
    np.testing.assert_allclose(np.mean(maps, axis=(0, 1, 2)), 0, atol=0.01)
    np.testing.assert_allclose(np.std(maps, axis=(0, 1, 2)), 1, atol=0.05)
    assert np.abs(backbone(images) - known).max() > 0.1
    assert backbone.get_layer("last_bn").momentum == 0.99


def test_labeled_pictures_are_of_each_class_and_of_no_other_part():
    config = recipe.Config(labels=(1, 3), draws=2, held_out=20)
    backbone = SimpleNamespace(inputs=[SimpleNamespace(shape=(None, 8, 8, 1))])
    task = recipe.load_task("digits", backbone, config, SimpleNamespace(seed=0))
    assert task.pictures.valid.shape == task.pictures.test.shape == (20, 8, 8, 1)
    for labels, draws in task.draws.items():
        assert len(draws) == 2
        for places in draws:
            counts = np.bincount(task.labels.pool[places])
            np.testing.assert_array_equal(counts, np.full(10, labels))
    drawn = {picture.tobytes() for picture in task.pictures.pool}
    assert not drawn & {picture.tobytes() for picture in task.pictures.valid}


def test_a_class_without_a_picture_to_learn_from_gets_one_line(monkeypatch):
    x = np.zeros((30, 8, 8, 1), "float32")
    y = np.array([0] * 29 + [2])
    monkeypatch.setattr(recipe.data, "load", lambda *_, **__: ((x, y), (x, y)))
    backbone = SimpleNamespace(inputs=[SimpleNamespace(shape=(None, 8, 8, 1))])
    with pytest.raises(UsageError, match="--held-out"):
        recipe.load_task("mine", backbone, recipe.Config(), SimpleNamespace(seed=0))


def test_a_histogram_counts_colors_wherever_they_are():
    red, white = [0.99, 0.0, 0.0], [1.0, 1.0, 1.0]
    images = np.array([[[red, red], [red, white]], [[white, red], [red, red]]])
    found = recipe.color_histograms(images)
    np.testing.assert_array_equal(found[0], found[1])
    shades = recipe.SHADES
    place_of_red = (shades - 1) * shades**2
    assert found[0, place_of_red] == pytest.approx(0.75**0.25)
    assert found[0, -1] == pytest.approx(0.25**0.25)
    assert np.count_nonzero(found[0]) == 2
