"""Vectors and scores where the answer is known."""

import keras
import numpy as np
import pytest
from keras import layers

from recipes import concept_activation_vectors as recipe


def test_the_vector_of_two_heaps_points_from_one_to_the_other():
    random = np.random.default_rng(0)
    direction = np.array([3.0, 0, 4, 0]) / 5
    heap = random.normal(size=(400, 4))
    vector, way, accuracy = recipe.concept_vector(
        heap[:200] + 4 * direction, heap[200:]
    )
    assert vector @ direction > 0.98
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert way == pytest.approx(4, abs=0.3)
    assert accuracy > 0.95
    _, way, accuracy = recipe.concept_vector(heap[:200], heap[200:])
    assert abs(way) < 0.4
    assert 0.35 < accuracy < 0.65


def test_the_vector_is_in_the_channels_own_units():
    """x = s · z turns the plane z · d = 0 into x · (d / s) = 0."""
    random = np.random.default_rng(0)
    direction, units = np.array([3.0, 0, 4, 0]) / 5, np.array([1, 5, 0.5, 2])
    heap = random.normal(size=(600, 4))
    heap[:300] += 4 * direction
    vector, _, _ = recipe.concept_vector(heap[:300] * units, heap[300:] * units)
    expected = direction / units / np.linalg.norm(direction / units)
    assert vector @ expected > 0.98


def test_the_score_is_the_share_of_slopes_that_rise():
    slopes = np.array([[1.0, 0], [2, 5], [-1, 0], [-3, 1]])
    assert recipe.tcav(slopes, np.array([1.0, 0])) == 0.5
    assert recipe.tcav(slopes, np.array([0, 1.0])) == 0.5
    assert recipe.tcav(slopes, np.array([-1.0, 0])) == 0.5
    assert recipe.tcav(slopes, np.array([1.0, 1.0])) == 0.5
    assert recipe.tcav(slopes, np.array([1.0, 3.5])) == 0.75


def test_sensitivities_are_the_heads_weights_behind_a_mean():
    """In a network of the layer, a mean over places and a dense layer they are its
    weights."""
    x = keras.Input((8, 8, 3))
    maps = layers.Conv2D(5, 3, name=recipe.LAYER)(x)
    model = keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(maps)))
    images = np.random.default_rng(0).random((4, 8, 8, 3), "float32")
    found = recipe.sensitivities(model, images, 3)
    expected = model.layers[-1].get_weights()[0][:, 3]
    np.testing.assert_allclose(found, np.tile(expected, (4, 1)), rtol=1e-4)


@pytest.mark.parametrize("concept", recipe.CONCEPTS)
def test_concepts_are_drawn_over_the_picture(concept):
    images = np.full((6, 32, 32, 3), 0.4, "float32")
    drawn = recipe.draw_on(images, concept, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < 0.35
    assert 0.5 < drawn.max() <= 1
    change = drawn - images
    np.testing.assert_allclose(change.mean((1, 2, 3)), 0, atol=0.06)
    assert (
        np.abs(change).max((1, 2, 3)).max() > np.abs(change).max((1, 2, 3)).min() + 0.01
    )
    along = np.abs(change - np.roll(change, (1, -1), (1, 2)))[:, 2:-2, 2:-2].max()
    assert (along < 1e-6) == (concept == "stripes")  # stripes run along a diagonal
