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
    found = recipe.find_concept(heap[:200] + 4 * direction, heap[200:])
    assert found.vector @ direction > 0.98
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert found.distance == pytest.approx(4, abs=0.3)
    assert found.accuracy > 0.95
    of_nothing = recipe.find_concept(heap[:200], heap[200:])
    assert abs(of_nothing.distance) < 0.4
    assert 0.35 < of_nothing.accuracy < 0.65


def test_the_vector_is_in_the_channels_own_units():
    """x = s · z turns the plane z · d = 0 into x · (d / s) = 0."""
    random = np.random.default_rng(0)
    direction, units = np.array([3.0, 0, 4, 0]) / 5, np.array([1, 5, 0.5, 2])
    heap = random.normal(size=(600, 4))
    heap[:300] += 4 * direction
    found = recipe.find_concept(heap[:300] * units, heap[300:] * units)
    expected = direction / units / np.linalg.norm(direction / units)
    assert found.vector @ expected > 0.98


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


def test_the_worth_is_the_rise_of_a_linear_logit():
    """Of a logit w · a the way from the others to the concept's is worth its rise."""
    random = np.random.default_rng(0)
    direction = np.array([0.6, 0, 0.8])
    others = random.normal(size=(4000, 3))
    concept = random.normal(size=(4000, 3)) + 4 * direction
    weights = np.array([1.0, 2.0, -0.5])
    found = recipe.find_concept(concept, others)
    rise = (concept @ weights).mean() - (others @ weights).mean()
    assert recipe.worth(np.tile(weights, (5, 1)), found) == pytest.approx(rise, abs=0.1)


@pytest.mark.parametrize("concept", recipe.CONCEPTS)
def test_half_of_the_others_have_the_other_concept(concept):
    grounds = np.full((50, 12, 12, 3), 0.4, "float32")
    examples = recipe.draw_examples(grounds, concept, 8, np.random.default_rng(0))
    is_drawn = (examples != 0.4).any(axis=(1, 2, 3))
    assert is_drawn.tolist() == [True] * 12 + [False] * 4
    is_striped = [
        np.allclose(each[1:, :-1], each[:-1, 1:], atol=1e-6) for each in examples[:12]
    ]
    assert is_striped == [concept == "stripes"] * 8 + [concept == "dots"] * 4
    plain = recipe.draw_examples(grounds, "random", 8, np.random.default_rng(0))
    np.testing.assert_array_equal(plain, grounds[:16])
    np.testing.assert_array_equal(grounds, 0.4 * np.ones_like(grounds))
