"""Weight sharing: k-means against scikit-learn, centroids' gradients against finite
differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.cluster import KMeans

from recipes import weight_sharing

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=(30, 40)).astype("float32")
X = RANDOM.normal(size=(25, 5)).astype("float32")
Y = RANDOM.integers(0, 10, 25)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("start", weight_sharing.STARTS)
def test_k_means_finds_what_scikit_learn_finds(start):
    first = weight_sharing.first_centroids(VALUES, 8, start, np.random.default_rng(1))
    labels, centroids = weight_sharing.k_means(VALUES, first)
    rival = KMeans(
        8, init=first[:, None], n_init=1, tol=0, max_iter=1000, algorithm="lloyd"
    )
    rival.fit(VALUES.reshape(-1, 1).astype("float64"))
    np.testing.assert_allclose(centroids, rival.cluster_centers_[:, 0], atol=1e-5)
    assert np.mean(labels.ravel() == rival.labels_) == 1


def test_an_empty_cluster_stays_where_it_is():
    values = np.array([0.0, 0.1, 0.9])
    labels, centroids = weight_sharing.k_means(values, np.array([0.0, 0.5, 1.0]))
    assert labels.tolist() == [0, 0, 2]
    np.testing.assert_allclose(centroids, [0.05, 0.5, 0.9], atol=1e-6)


def test_starts_by_their_definitions():
    random = np.random.default_rng(0)
    linear, drawn, density = (
        weight_sharing.first_centroids(VALUES, 5, start, random)
        for start in weight_sharing.STARTS
    )
    np.testing.assert_allclose(np.diff(linear), np.ptp(VALUES) / 4, rtol=1e-4)
    assert np.isin(drawn, VALUES).all()
    assert np.all(np.diff(drawn) > 0)
    shares = [np.mean(each > VALUES) for each in density]
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.002)


def shared_network():
    keras.utils.set_random_seed(0)
    network = weight_sharing.build_model(5, 7)
    kernels = [kernel.numpy() for kernel in weight_sharing.get_kernels(network)]
    codebooks = [
        weight_sharing.k_means(each, np.linspace(each.min(), each.max(), 4))
        for each in kernels
    ]
    return weight_sharing.SharedWeights(network, codebooks)


def test_the_centroids_gradients_equal_finite_differences():
    shared = shared_network()
    with tf.GradientTape() as tape:
        loss = LOSS(Y, shared.network(X))
    gradients = tape.gradient(loss, weight_sharing.get_kernels(shared.network))
    for sums, centroids in zip(
        shared.sum_by_cluster(gradients), shared.centroids, strict=True
    ):
        values = centroids.numpy()
        for index in range(len(values)):
            losses = []
            for step in (1e-2, -1e-2):
                centroids.assign(values + step * (np.arange(len(values)) == index))
                shared.share()
                losses.append(float(LOSS(Y, shared.network(X))))
            centroids.assign(values)
            slope = (losses[0] - losses[1]) / 2e-2
            assert float(sums[index]) == pytest.approx(slope, abs=5e-3, rel=0.02)


def test_training_moves_centroids_only():
    shared = shared_network()
    before = shared.network.get_weights()
    shared.compile(keras.optimizers.Adam(0.01), LOSS)
    shared.fit(X, Y, epochs=3, verbose=0)
    for old, new in zip(before, shared.network.get_weights(), strict=True):
        if old.ndim == 1:
            assert np.array_equal(old, new)
        else:
            assert np.all(old != new)
            assert len(np.unique(new)) <= 4
    kernels = weight_sharing.get_kernels(shared.network)
    for kernel, labels, centroids in zip(
        kernels, shared.labels, shared.centroids, strict=True
    ):
        assert np.array_equal(kernel.numpy(), centroids.numpy()[labels])


def test_bytes_by_hand():
    model = weight_sharing.build_model(5, 7)
    # 35 + 49 + 70 weights of 4 bits, three codebooks of 16 float32, 24 biases.
    assert weight_sharing.shared_bytes(model, 4) == 77 + 3 * 16 * 4 + 24 * 4
