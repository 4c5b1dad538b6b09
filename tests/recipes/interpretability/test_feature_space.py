"""Neighbors, components and clusters against scikit-learn; agreement by hand."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from recipes import feature_space as recipe


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8)


def test_distances_and_neighbors_equal_scikit_learns(vectors):
    distances, numbers = NearestNeighbors(n_neighbors=5).fit(vectors).kneighbors()
    np.testing.assert_array_equal(recipe.nearest(vectors, 5), numbers)
    found = recipe.squared_distances(vectors, vectors[:9])
    assert found.shape == (60, 9)
    np.testing.assert_allclose(np.sqrt(found[numbers[3, 0], 3]), distances[3, 0])


def test_principal_components_equal_scikit_learns(vectors):
    expected = PCA(3).fit_transform(vectors)
    found = recipe.principal_components(vectors, 3)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


def test_agreement_by_hand():
    points = np.array([[0.0], [1.0], [3.0], [10.0]])
    # Nearest two: 1 3, 0 3, 1 0, 3 1
    found = recipe.agreement(points, np.array([0, 0, 1, 1]), 2)
    np.testing.assert_array_equal(found, [0.5, 0.5, 0, 0.5])


def test_clusters_of_ten_heaps_are_the_heaps():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 8)
    heaps = 100 * rng.normal(size=(10, 4))[labels] + rng.normal(size=(80, 4))
    assert recipe.cluster(heaps, labels) == pytest.approx(1)
    assert recipe.cluster(heaps, rng.permutation(labels)) < 0.2


def test_features_are_what_the_logits_are_made_of():
    model = recipe.build_model()
    both = recipe.with_features(model)
    outputs = both(np.random.default_rng(0).random((2, 48, 48, 3), "float32"))
    weights, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(
        outputs["logits"],
        outputs["features"].numpy() @ weights + bias,
        rtol=1e-3,
        atol=1e-5,
    )
