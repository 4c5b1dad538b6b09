"""Layers against their formulas; what is off when the network answers; labels and
pixel ranges kept."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from deep_learning_recipes import UsageError, serving
from recipes import data_augmentation as recipe

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.uniform(size=(6, 12, 12, 3)).astype("float32")
GRAY = RANDOM.uniform(size=(6, 12, 12, 1)).astype("float32")


@pytest.mark.parametrize("images", [COLOR, GRAY], ids=["color", "gray"])
@pytest.mark.parametrize("name", recipe.transforms(COLOR))
def test_shapes_labels_and_the_range_of_pixels_are_kept(name, images):
    labels = np.eye(6, dtype="float32")
    changed, kept = recipe.change(recipe.transforms(images)[name], images, labels)
    changed = np.array(changed)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.abs(changed - images).max() > 0.01
    if name == "mixup":
        np.testing.assert_allclose(np.sum(kept, axis=1), 1, rtol=1e-6)
    else:
        assert kept is labels


def test_each_image_is_drawn_for_alone():
    same = np.repeat(COLOR[:1], 8, axis=0)
    labels = np.eye(8, dtype="float32")
    for name, layers in recipe.transforms(COLOR).items():
        changed = np.array(recipe.change(layers, same, labels)[0])
        apart = np.abs(changed - changed[:1]).max(axis=(1, 2, 3))
        if name != "mixup":  # of eight equal images
            assert np.sum(apart > 1e-3) >= 2, name


def test_principal_colors_are_those_of_the_covariance():
    deviations, directions = recipe.principal_colors(COLOR)
    rebuilt = directions @ np.diag(deviations**2) @ directions.T
    np.testing.assert_allclose(rebuilt, np.cov(COLOR.reshape(-1, 3).T), atol=1e-6)
    deviation, _ = recipe.principal_colors(GRAY)
    assert deviation[0] == pytest.approx(GRAY.std(), rel=1e-3)


def test_pca_jitter_has_the_covariance_of_the_pixels_colors():
    mixing = np.array([[1, 0.5, 0.2], [0, 0.3, 0.1], [0, 0, 0.2]])
    pixels = 0.5 + 0.05 * RANDOM.normal(size=(50, 20, 20, 3)) @ mixing
    deviations, directions = recipe.principal_colors(pixels)
    jitter = recipe.PCAJitter(0.5, deviations, directions, seed=0)
    middle = np.full((20_000, 1, 1, 3), 0.5, "float32")
    added = np.array(jitter(middle, training=True))[:, 0, 0] - 0.5
    expected = 0.5**2 * np.cov(pixels.reshape(-1, 3).T)
    np.testing.assert_allclose(
        np.cov(added.T), expected, atol=0.05 * np.abs(expected).max()
    )
    np.testing.assert_allclose(added.mean(axis=0), 0, atol=1e-3)
    # All pixels of a picture get the same color.
    flat = np.full((2, 4, 4, 3), 0.5, "float32")
    added = np.array(jitter(flat, training=True)) - 0.5
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape))


@pytest.mark.parametrize("k", [0.0, 0.4, -0.3])
def test_distortion_takes_each_pixel_from_where_scipy_does(k):
    found = recipe.distort(COLOR, np.full((6, 1, 1, 1), k, "float32"))
    middle = (12 - 1) / 2
    rows, columns = np.mgrid[:12, :12] - middle
    scale = 1 + k * ((rows / 6) ** 2 + (columns / 6) ** 2)
    places = [middle + rows * scale, middle + columns * scale]
    for image in range(6):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                COLOR[image, :, :, channel], places, order=1, mode="constant"
            )
            # At the rim SciPy and Keras differ in what lies beyond it.
            inside = np.all([(p > 0) & (p < 11) for p in places], axis=0)
            close = np.array(found)[image, :, :, channel][inside]
            np.testing.assert_allclose(close, expected[inside], atol=1e-4)
    if k == 0:
        np.testing.assert_allclose(found, COLOR, atol=1e-5)


def test_mixup_mixes_labels_as_it_mixes_images():
    labels = np.eye(6, dtype="float32")
    images, mixed = recipe.mix(keras.layers.MixUp(0.2, seed=0), COLOR, labels)
    expected = np.einsum("ij,jhwc->ihwc", mixed, COLOR)
    np.testing.assert_allclose(images, expected, atol=1e-5)


@pytest.mark.parametrize("name", recipe.transforms(COLOR))
def test_what_answers_and_what_is_exported_change_nothing(name):
    if name == "mixup":
        return
    network = recipe.build_network((12, 12, 3), classes=4)
    model = recipe.augmented(recipe.transforms(COLOR)[name], network)
    np.testing.assert_allclose(model(COLOR), network(COLOR), atol=1e-6)
    exported = serving.classifier(model)(COLOR)["probabilities"]
    expected = keras.ops.softmax(network(COLOR))
    np.testing.assert_allclose(exported, expected, atol=1e-5)
    many = np.tile(COLOR, (8, 1, 1, 1))  # of a few a flip may leave all as they are
    assert np.abs(model(many, training=True) - network(many)).max() > 1e-4


def test_own_layers_are_saved_and_loaded(tmp_path):
    network = recipe.build_network((12, 12, 3), classes=4)
    deviations, directions = recipe.principal_colors(COLOR)
    own = [
        recipe.PCAJitter(0.3, deviations, directions),
        recipe.LensDistortion(0.3),
        keras.layers.RandomTranslation(0.2, 0.2),
    ]
    model = recipe.augmented(own, network)
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(again(COLOR), model(COLOR), atol=1e-6)
    loaded = again.layers[1].layer
    np.testing.assert_allclose(loaded.directions, directions, atol=1e-6)
    assert np.abs(again(COLOR, training=True) - again(COLOR)).max() > 1e-4


def test_training_is_that_of_keras_and_begins_anew_each_time(monkeypatch):
    monkeypatch.setattr(recipe, "STEPS_PER_CALL", 3)
    config = recipe.Config(size=12, starts=1, steps=6, batch_size=4)
    parts = recipe.Parts((COLOR, np.arange(6) % 2), None, None, ["a", "b"])
    run = Told()
    trainer = recipe.Trainer(parts, config, run)
    trainer.train("none", [], 0)
    first = trainer.network.get_weights()
    trainer.train("none", [], 0)
    for one, two in zip(first, trainer.network.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)

    alone = recipe.build_network((12, 12, 3), classes=2)
    alone.set_weights(trainer.starts[0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    alone.compile(keras.optimizers.Adam(config.learning_rate), loss)
    random = np.random.default_rng([run.seed, 0])
    rows = [random.integers(6, size=(3, 4)) for _ in range(2)]
    for batch in np.concatenate(rows):
        alone.train_on_batch(COLOR[batch], parts.training[1][batch])
    np.testing.assert_allclose(alone(COLOR), trainer.network(COLOR), atol=1e-3)


class Told:
    """A run of which only the loop is used."""

    seed = 0

    def loop(self, name, total, state, unit):
        return range(total)


def test_few_images_are_of_each_class_and_apart_from_the_others():
    parts = recipe.load_parts(recipe.Config(size=8, images=3), seed=0)
    x, y = parts.training
    np.testing.assert_array_equal(np.bincount(y), np.full(10, 3))
    others = {image.tobytes() for image in parts.validation[0]}
    assert not others & {image.tobytes() for image in x}
    assert len(parts.validation[1]) == 1000


def test_swapped_is_counted_by_hand():
    names = np.array(["6", "6", "9", "1", "9"])
    found = np.array(["9", "6", "6", "9", "4"])
    assert recipe.share_swapped(names, found) == pytest.approx(2 / 4)
    assert recipe.share_swapped(names[3:4], found[3:4]) == 0


def test_an_unknown_transform_is_one_line():
    known = list(recipe.transforms(GRAY))
    assert recipe.check_names((), known) == known
    assert recipe.check_names(("flip",), known) == ["flip"]
    with pytest.raises(UsageError, match="rotation"):
        recipe.check_names(("rotatoin",), known)
