"""Occlusion against plain loops, and against models whose answer is known."""

import keras
import numpy as np
import pytest
import small
from conftest import run_in_process
from keras import layers
from scipy.ndimage import gaussian_filter

from recipes import occlusion as occ


@pytest.fixture(scope="module")
def scene():
    """A small network, and pictures with the classes asked for."""
    keras.utils.set_random_seed(0)
    pictures = np.random.default_rng(0).uniform(size=(3, 12, 16, 3)).astype("float32")
    images = keras.Input((12, 16, 3))
    x = layers.Conv2D(4, 3, activation="relu")(images)
    model = keras.Model(images, layers.Dense(5)(layers.Flatten()(x)))
    return model, pictures, np.array([3, 0, 4])


def linear_model(height=10, width=9):
    """Three classes, each the sum of all pixels times weights of its own; and these
    weights."""
    keras.utils.set_random_seed(0)
    images = keras.Input((height, width, 3))
    model = keras.Model(
        images, layers.Dense(3, use_bias=False)(layers.Flatten()(images))
    )
    return model, model.get_weights()[0].reshape(height, width, 3, 3)


def test_windows_cover_everything_and_end_at_the_border():
    covers = occ.windows(10, 7, side=4, stride=2)
    corners = []
    for cover in covers:
        rows, columns = np.nonzero(cover)
        assert cover.sum() == 16 and np.ptp(rows) == np.ptp(columns) == 3
        corners.append((rows.min(), columns.min()))
    assert corners == [(row, column) for row in (0, 2, 4, 6) for column in (0, 2, 3)]
    assert covers.any(axis=0).all()
    assert len(occ.windows(8, 8, 8, 4)) == 1
    assert len(occ.windows(48, 48, 8, 4)) == 11 * 11


@pytest.mark.parametrize("fill", ["gray", "mean", "blur"])
def test_it_is_the_loop_of_the_paper(scene, fill):
    model, pictures, classes = scene
    side = 5  # leaves a rest at both borders
    expected = np.zeros((3, 12, 16))
    for i, (picture, number) in enumerate(zip(pictures, classes, strict=True)):
        filling = {
            "gray": np.full_like(picture, 0.5),
            "mean": np.zeros_like(picture) + picture.mean((0, 1)),
            "blur": np.stack(
                [gaussian_filter(picture[..., c], side / 2) for c in range(3)], -1
            ),
        }[fill]
        count = np.zeros((12, 16))
        for top in (0, 2, 4, 6, 7):
            for left in (0, 2, 4, 6, 8, 10, 11):
                window = slice(top, top + side), slice(left, left + side)
                covered = picture.copy()
                covered[window] = filling[window]
                both = model(np.stack([picture, covered])).numpy()[:, number]
                expected[i][window] += both[0] - both[1]
                count[window] += 1
        expected[i] /= count
    found = occ.occlusion(model, pictures, classes, side, fill)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    # However few fit in memory at once.
    few = occ.occlusion(model, pictures, classes, side, fill, batch=4)
    np.testing.assert_allclose(few, found, rtol=1e-4, atol=1e-5)


def test_a_loop_of_predict_gives_the_same(scene):
    model, pictures, classes = scene
    covers = occ.windows(12, 16, 4, 4)
    found = occ.falls(
        model, pictures[:1], np.full_like(pictures[:1], 0.5), classes[:1], covers
    )
    loop = occ.by_predict(model, pictures[0], classes[0], covers)
    assert loop.shape == found.shape == (1, len(covers))
    np.testing.assert_allclose(found, loop, rtol=1e-3, atol=1e-5)


def test_an_additive_model_falls_by_what_the_square_takes_away():
    model, weights = linear_model()
    pictures = np.random.default_rng(0).uniform(size=(2, 10, 9, 3)).astype("float32")
    classes = np.array([2, 0])
    covers = occ.windows(10, 9, 3, 1)
    filling = occ.fillings(pictures, 3)["mean"]
    fallen = occ.falls(model, pictures, filling, classes, covers).numpy()
    assert fallen.shape == (2, 8 * 7)
    for i, number in enumerate(classes):
        worth = (weights[..., number] * (pictures[i] - filling[i])).sum(axis=-1)
        expected = [worth[cover].sum() for cover in covers]
        np.testing.assert_allclose(fallen[i], expected, rtol=1e-3, atol=1e-5)
    steepest = np.abs(weights[..., classes]).max(axis=2)
    rival = occ.saliency(model, pictures, classes)
    np.testing.assert_allclose(rival, np.moveaxis(steepest, -1, 0), atol=1e-6)


def test_nothing_falls_where_nothing_is_covered_though_training_would_drop_units():
    x = keras.Input((6, 6, 3))
    model = keras.Model(x, layers.Dense(2)(layers.Dropout(0.5)(layers.Flatten()(x))))
    images = np.random.default_rng(0).random((3, 6, 6, 3), "float32")
    covers = np.zeros((4, 6, 6), bool)
    fallen = occ.falls(model, images, 0 * images, np.array([0, 1, 0]), covers)
    np.testing.assert_allclose(fallen, np.zeros((3, 4)), atol=1e-6)


def test_one_pixel_that_matters_heats_the_squares_around_it():
    images = keras.Input((9, 9, 1))
    model = keras.Model(
        images, layers.Dense(1, use_bias=False)(layers.Flatten()(images))
    )
    weights = np.zeros((9, 9))
    weights[4, 4] = 2.0
    model.set_weights([weights.reshape(81, 1)])
    pictures = np.ones((1, 9, 9, 1), "float32")
    covers = occ.windows(9, 9, 3, 1)
    fallen = occ.falls(
        model, pictures, np.full_like(pictures, 0.5), np.array([0]), covers
    ).numpy()
    heat = occ.heat_of(fallen, covers)[0]
    # The pixel at (4, 4) is in all of its 9 squares, its neighbor in 6 of 9, the next
    # in 3 of 9.
    steps = np.array([0, 0, 3, 6, 9, 6, 3, 0, 0]) / 9
    np.testing.assert_allclose(heat, np.outer(steps, steps) * 1.0, atol=1e-6)


def test_fillings():
    pictures = np.random.default_rng(0).uniform(size=(2, 8, 6, 3)).astype("float32")
    found = occ.fillings(pictures, 4)
    assert {*found} == {"gray", "mean", "blur"}
    assert all(each.shape == pictures.shape for each in found.values())
    assert all(each.dtype == "float32" for each in found.values())
    np.testing.assert_allclose(
        found["mean"][1, 3, 2], pictures[1].mean((0, 1)), rtol=1e-5
    )
    assert found["blur"].std() < pictures.std() / 2


def test_a_network_and_a_picture_of_ones_own(tmp_path, capsys):
    small.save_classifier_and_picture()
    own = ("--model", "own.keras")
    finished = run_in_process("occlusion", tmp_path / "one", *own, "--image", "own.png")
    assert finished.code == 0 and finished.metrics["figures"] == ["own.png"]
    assert {*finished.metrics["metrics"]} == {
        "picture_0_class",
        "picture_0_probability",
    }
    assert (
        run_in_process("occlusion", tmp_path / "bad", "--image", "none.png").code == 2
    )
    assert "none.png: there is no such file" in capsys.readouterr().err
    assert run_in_process("occlusion", tmp_path / "side", "--sides", "49").code == 2
    assert "49" in capsys.readouterr().err
