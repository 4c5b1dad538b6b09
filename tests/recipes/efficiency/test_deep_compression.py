"""Deep Compression: the Huffman coder against bounds and another algorithm, pruning,
centroids."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes import deep_compression

RANDOM = np.random.default_rng(0)


def least_bits(counts):
    """Bits of an optimal code: the sum of all merged weights (by sorting, without a
    tree)."""
    counts, total = sorted(c for c in counts if c), 0
    while len(counts) > 1:
        merged = counts[0] + counts[1]
        counts, total = sorted([merged, *counts[2:]]), total + merged
    return total


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 2000), min_size=2, max_size=40).filter(
        lambda c: sum(map(bool, c)) > 1
    )
)
def test_codes_are_optimal_complete_and_within_a_bit_of_the_entropy(counts):
    counts = np.array(counts)
    lengths = deep_compression.huffman_lengths(counts).astype(int)
    assert np.array_equal(lengths > 0, counts > 0)
    assert (
        np.sum(0.5 ** lengths[lengths > 0]) == 1
    )  # Kraft's equality: no code is left over
    assert np.sum(counts * lengths) == least_bits(counts.tolist())
    shares = counts[counts > 0] / counts.sum()
    entropy = -np.sum(shares * np.log2(shares))
    assert entropy - 1e-9 <= np.sum(counts * lengths) / counts.sum() < entropy + 1


def test_canonical_codes_by_hand():
    lengths = np.array([2, 0, 1, 3, 3], "uint8")
    assert deep_compression.canonical_codes(lengths) == {
        2: "0",
        0: "10",
        3: "110",
        4: "111",
    }


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 31), max_size=300))
def test_symbols_come_back(symbols):
    symbols = np.array(symbols, int)
    coded = deep_compression.huffman_encode(symbols, 32)
    assert np.array_equal(
        deep_compression.huffman_decode(coded, 32, len(symbols)), symbols
    )


@pytest.mark.parametrize("symbols", [[], [3], [3] * 9, [0] * 8 + [1]])
def test_few_symbols_come_back(symbols):
    symbols = np.array(symbols, int)
    coded = deep_compression.huffman_encode(symbols, 4)
    assert len(coded) == 4 + -(-len(symbols) // 8)  # a bit a symbol
    assert np.array_equal(
        deep_compression.huffman_decode(coded, 4, len(symbols)), symbols
    )


@pytest.mark.parametrize(
    ("name", "weights"), [("lenet_300_100", 266_610), ("lenet_5", 431_080)]
)
def test_networks_have_the_papers_weights(name, weights):
    assert deep_compression.build_model(name).count_params() == weights


def small_network(seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,))
    hidden = keras.layers.Dense(20, activation="relu")(x)
    return deep_compression.PrunedModel(x, keras.layers.Dense(10)(hidden), name="small")


X = RANDOM.normal(size=(40, 6)).astype("float32")
Y = RANDOM.integers(0, 10, 40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_pruning_takes_the_smallest_weights_and_training_keeps_them_out():
    model = small_network()
    before = [
        each + (each.ndim == 1) for each in model.get_weights()
    ]  # no unit is silent
    model.set_weights(before)
    deep_compression.prune(model, [0.1, 0.25])
    for index, left in ((0, 12), (2, 50)):
        largest = np.argsort(np.abs(before[index]).ravel())[-left:]
        kept = np.flatnonzero(model.get_weights()[index])
        assert set(kept) == set(largest)
    pruned = model.get_weights()
    model.compile(keras.optimizers.Adam(0.01), LOSS)
    model.fit(X, Y, epochs=3, verbose=0)
    for old, new in zip(pruned[::2], model.get_weights()[::2], strict=True):
        assert np.array_equal(old != 0, new != 0)
        # All but what leads to a unit of which nothing goes on.
        assert np.mean(new[old != 0] != old[old != 0]) > 0.8
    assert np.mean(model.get_weights()[1] != before[1]) > 0.8  # biases train as well


def shared_network():
    model = small_network()
    model.set_weights(
        [w + 0.01 * RANDOM.normal(size=w.shape) for w in model.get_weights()]
    )
    deep_compression.prune(model, [0.5, 0.5])
    return deep_compression.SharedWeights(model, bits=2)


def test_a_centroid_steps_by_the_sum_of_its_weights_gradients():
    shared = shared_network()
    with tf.GradientTape() as tape:
        loss = LOSS(Y, shared.network(X))
    gradients = tape.gradient(loss, shared.network.trainable_variables)
    expected = []
    for gradient, labels, centroids in zip(
        gradients, shared.labels, shared.centroids, strict=True
    ):
        sums = [np.sum(gradient.numpy()[labels == k + 1]) for k in range(3)]
        expected.append(centroids.numpy() - 0.1 * np.array(sums))
    shared.compile(keras.optimizers.SGD(0.1), LOSS)
    shared.fit(X, Y, batch_size=len(X), verbose=0)
    for centroids, values in zip(shared.centroids, expected, strict=True):
        np.testing.assert_allclose(centroids, values, atol=1e-5)


def test_the_file_holds_the_trained_network_to_the_last_bit():
    shared = shared_network()
    shared.compile(keras.optimizers.Adam(0.01), LOSS)
    shared.fit(X, Y, epochs=2, verbose=0)
    codebooks = [each.numpy() for each in shared.centroids]
    content = "small", shared.labels, codebooks, 3
    file = deep_compression.write_file(*content, deep_compression.huffman_encode)
    name, weights = deep_compression.read_file(file, deep_compression.huffman_decode)
    decoded = small_network(seed=1)
    decoded.set_weights(weights)
    assert name == "small"
    for found, trained in zip(weights, shared.network.get_weights(), strict=True):
        assert np.array_equal(found, trained)
        assert len(np.unique(found)) <= 4
    assert np.array_equal(decoded(X), shared.network(X))
