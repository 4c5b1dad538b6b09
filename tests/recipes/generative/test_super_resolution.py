"""Super-resolution against tf.nn.depth_to_space, Pillow, NumPy and finite
differences."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from recipes.generative import super_resolution as recipe

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def picture(random, height, width):
    return random.random((height, width, 3)).astype("float32")


def trained_alike(factor, filters=4, blocks=1):
    """A generator whose last convolution is not zero."""
    generator = recipe.build_generator(factor, filters, blocks)
    for weight in generator.trainable_variables:
        weight.assign(keras.random.normal(weight.shape, stddev=0.1))
    return generator


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pixel_shuffle_is_depth_to_space_and_there_is_a_way_back(factor, random):
    x = random.random((2, 5, 7, 3 * factor**2)).astype("float32")
    found = recipe.pixel_shuffle(ops.convert_to_tensor(x), factor)
    np.testing.assert_array_equal(found, tf.nn.depth_to_space(x, factor))
    np.testing.assert_array_equal(tf.nn.space_to_depth(found, factor), x)


def test_pixel_shuffle_lays_out_each_place(random):
    x = random.random((1, 2, 3, 8)).astype("float32")
    found = np.asarray(recipe.pixel_shuffle(ops.convert_to_tensor(x), 2))
    for row, column, channel in np.ndindex(4, 6, 2):
        number = 4 * (row % 2) + 2 * (column % 2) + channel
        assert found[0, row, column, channel] == x[0, row // 2, column // 2, number]


def test_a_subpixel_convolution_is_a_transposed_convolution(random):
    """Of stride r, whose kernel holds r × r interleaved ones."""
    factor = 2
    kernel = random.normal(size=(3, 3, 3, 3 * factor**2)).astype("float32")
    x = picture(random, 6, 5)[np.newaxis]
    subpixel = recipe.pixel_shuffle(ops.conv(x, kernel, padding="same"), factor)

    # Each small pixel paints a square of 3r; a convolution's taps look the other way.
    parts = kernel[::-1, ::-1].reshape(3, 3, 3, factor, factor, 3)
    painted = parts.transpose(0, 3, 1, 4, 2, 5).reshape(6, 6, 3, 3)
    expected = np.zeros((6 * factor + 4, 5 * factor + 4, 3))
    for row, column in np.ndindex(6, 5):
        top, left = factor * row, factor * column
        patch = np.einsum("yxcd,c->yxd", painted, x[0, row, column])
        expected[top : top + 6, left : left + 6] += patch
    np.testing.assert_allclose(subpixel[0], expected[2:-2, 2:-2], atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_pillows(factor, random):
    x = picture(random, 9, 12)
    found = np.asarray(recipe.Bicubic(factor)(x[np.newaxis]))[0]
    expected = np.stack(
        [
            Image.fromarray(x[..., color]).resize(
                (12 * factor, 9 * factor), Image.Resampling.BICUBIC
            )
            for color in range(3)
        ],
        axis=-1,
    )
    inner = slice(2 * factor, -2 * factor)  # Pillow renormalizes at the edges
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (8, 5)])
def test_before_training_it_is_bicubic_of_any_size(shape, random):
    x = picture(random, *shape)[np.newaxis]
    generator = recipe.build_generator(3, filters=4, blocks=2)
    expected = recipe.Bicubic(3)(x)
    np.testing.assert_allclose(generator(x), expected, atol=1e-6)
    assert expected.shape == (1, 3 * shape[0], 3 * shape[1], 3)


def test_a_constant_picture_stays_as_it_is_to_the_edge():
    x = np.full((1, 4, 5, 3), 0.7, "float32")
    np.testing.assert_allclose(recipe.Bicubic(4)(x), 0.7, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 40), (33, 18), (3, 3)])
def test_tiles_give_what_a_single_pass_gives(shape, random):
    x = picture(random, *shape)
    generator = trained_alike(2)
    whole = np.clip(generator(x[np.newaxis])[0], 0, 1)
    found = recipe.enlarge(generator, x, 2, tile=10)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_saved_generator_is_the_same(tmp_path, random):
    x = picture(random, 6, 9)[np.newaxis]
    generator = trained_alike(3)
    generator.save(tmp_path / "it.keras")
    loaded = keras.models.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(loaded(x), generator(x), atol=1e-6)


def small_features():
    """Two layers of maps of pictures (batch, 4, 4, 3)."""
    pictures = keras.Input((4, 4, 3))
    maps = layers.Conv2D(5, 1, use_bias=False)(pictures)
    return keras.Model(pictures, [maps, layers.AveragePooling2D(2)(maps)])


def test_feature_loss_by_hand(random):
    features = small_features()
    y, fake = random.random((2, 3, 4, 4, 3)).astype("float32")
    expected = 0.0
    for of_true, of_fake in zip(features(y), features(fake), strict=True):
        of_true, of_fake = (
            np.asarray(maps) / np.linalg.norm(maps, axis=-1, keepdims=True)
            for maps in (of_true, of_fake)
        )
        expected += 2 * np.mean(1 - np.sum(of_true * of_fake, axis=-1))  # by cosines
    assert float(recipe.feature_loss(features, y, fake)) == pytest.approx(
        expected, rel=1e-4
    )
    assert float(recipe.feature_loss(features, y, 0.5 * y)) == pytest.approx(
        0, abs=1e-5
    )


def test_a_step_by_features_changes_the_generator_alone(random):
    x = random.random((2, 2, 2, 3)).astype("float32")
    y = random.random((2, 4, 4, 3)).astype("float32")
    model = recipe.Perceptual(trained_alike(2, 2, 0), small_features())
    model.compile(keras.optimizers.SGD(0.01))
    assert len(model.trainable_variables) == len(model.generator.trainable_variables)
    before = float(recipe.feature_loss(model.features, y, model(x)))
    features = [np.array(weight) for weight in model.features.weights]
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(before, rel=1e-4)
    assert float(recipe.feature_loss(model.features, y, model(x))) < before
    for weight, old in zip(model.features.weights, features, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_pieces_lie_on_each_other(random):
    """The large piece, made small, is the small piece, turned and mirrored alike."""
    config = recipe.Config(size=96, crop=64, crops=12)
    pictures = [
        recipe.resample(picture(random, 12, 12), 8, Image.Resampling.BICUBIC)
        for _ in range(2)
    ]
    x, y = recipe.cut_pieces(pictures, config, seed=1)
    assert x.shape == (12, 32, 32, 3)
    for small, large in zip(x, y, strict=True):
        again = recipe.shrink(large, 2)
        np.testing.assert_allclose(again[4:-4, 4:-4], small[4:-4, 4:-4], atol=1.5 / 255)
    assert not np.allclose(x[0], x[1])


def test_photographs_of_the_test_are_not_trained_on():
    photos = recipe.load_photos(recipe.Config(size=128, crop=64))
    assert set(photos.test) == set(recipe.TEST_PHOTOS)
    assert len(photos.train) == 3 * 6 + 3
    for test in photos.test.values():
        for train in photos.train:
            if len(train) == len(test):
                assert peak_signal_noise_ratio(test, train, data_range=1) < 20


def test_gradient_energy_by_hand():
    ramp = np.zeros((3, 4, 3))
    ramp[:] = 0.1 * np.arange(4)[:, np.newaxis]
    assert recipe.gradient_energy(ramp) == pytest.approx(0.01)


def test_the_busiest_tile_is_where_the_noise_is(random):
    x = np.zeros((40, 65, 3), "float32")
    x[17:30, 33:47] = picture(random, 13, 14)
    assert recipe.busiest(x, 16) == (slice(16, 32), slice(32, 48))
    tiles = recipe.cut_tiles(x, 16)
    assert tiles.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(tiles[6], x[16:32, 32:48])
    assert recipe.busiest(x[:9], 16) == (slice(None), slice(None))


@pytest.mark.parametrize("shape", [(1, 1), (3, 130), (70, 90)])
def test_own_pictures_of_any_size_are_written(shape, random, tmp_path):
    names = []
    run = SimpleNamespace(
        folder=tmp_path, print=names.append, figure=lambda name, _: names.append(name)
    )
    generators = {name: trained_alike(2) for name in ("L1", "features")}
    config = recipe.Config(image="own.png")
    recipe.enlarge_own(picture(random, *shape), generators, config, run)
    for name in ("L1", "features"):
        with Image.open(tmp_path / f"enlarged-{name}.png") as opened:
            assert opened.size == (2 * shape[1], 2 * shape[0])
    assert names[-1] == "own"
