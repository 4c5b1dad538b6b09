"""Rounded weights against NumPy and least squares, their gradient, and the bytes of the
files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import binary_networks

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(size=(7, 5)).astype("float32")
X = RANDOM.normal(size=(4, 7)).astype("float32")


def layer_of(scheme, matrix=MATRIX):
    layer = binary_networks.RoundedDense(matrix.shape[1], scheme=scheme, use_bias=False)
    layer.build((None, len(matrix)))
    layer.kernel.assign(matrix)
    return layer


def test_binary_weights_are_signs_and_none_is_zero():
    rounded = np.asarray(
        binary_networks.binarize(np.array([-2.0, -1e-9, 0.0, 1e-9, 3.0]))
    )
    np.testing.assert_array_equal(rounded, [-1, -1, 1, 1, 1])


def test_ternary_weights_by_hand():
    # The mean of |W| is 1, so the threshold is 0.7; 1 and 2.4 are kept, and their mean
    # is 1.7.
    rounded = binary_networks.ternarize(np.array([0.1, -0.5, 1.0, -2.4], "float32"))
    np.testing.assert_allclose(rounded, [0, 0, 1.7, -1.7], rtol=1e-6)


def test_ternary_scale_is_the_least_squares_one_and_the_threshold_near_the_best():
    weights = RANDOM.normal(size=5000).astype("float32")
    rounded = np.asarray(binary_networks.ternarize(weights))
    signs = np.sign(rounded)
    assert set(np.unique(signs)) == {-1, 0, 1}
    (scale,), *_ = np.linalg.lstsq(signs[:, None], weights, rcond=None)
    np.testing.assert_allclose(np.abs(rounded).max(), scale, rtol=1e-5)

    def error(threshold):
        kept = np.abs(weights) > threshold
        return np.sum(
            (weights - kept * np.sign(weights) * np.abs(weights[kept]).mean()) ** 2
        )

    best = min(error(threshold) for threshold in np.linspace(0.05, 2, 100))
    assert np.sum((weights - rounded) ** 2) < 1.03 * best


@pytest.mark.parametrize("scheme", ["binary", "ternary", "stochastic", "float"])
def test_forward_uses_the_rounded_weights_and_the_gradient_goes_straight_through(
    scheme,
):
    layer = layer_of(scheme)
    rounded = np.asarray(binary_networks.RULES[scheme](MATRIX))
    upstream = RANDOM.normal(size=(4, 5)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = layer(X)
        loss = tf.reduce_sum(outputs * upstream)
    np.testing.assert_allclose(outputs, X @ rounded, rtol=1e-5, atol=1e-6)
    gradient = tape.gradient(loss, layer.kernel.value)
    np.testing.assert_allclose(gradient, X.T @ upstream, rtol=1e-4, atol=1e-5)


def test_what_the_layer_computes_with_is_exactly_one_of_two_values():
    """w + (sign(w) − w), the usual trick, is not: it rounds."""
    matrix = RANDOM.normal(size=(64, 64)).astype("float32") / 100
    used = np.asarray(layer_of("binary", matrix)(np.eye(64, dtype="float32")))
    assert set(np.unique(used)) == {-1.0, 1.0}


def test_signs_are_drawn_with_their_probability_in_training_only():
    bound = binary_networks.reach((100, 50))
    assert bound == pytest.approx(
        np.sqrt(6 / 150) / 2
    )  # half of Glorot's uniform limit
    shares = np.array([-2, -1, -0.5, 0, 0.2, 1, 2])
    matrix = np.resize(shares, (50, 7)).T.repeat(15, axis=0)[:100] * bound
    layer = layer_of("stochastic", matrix.astype("float32"))
    eye = np.eye(100, dtype="float32")
    draws = np.mean([layer(eye, training=True) for _ in range(40)], axis=0)
    for share in shares:
        here = np.isclose(matrix, share * bound)
        assert draws[here].mean() == pytest.approx(np.clip(share, -1, 1), abs=0.03)
    np.testing.assert_array_equal(layer(eye), np.where(matrix >= 0, 1, -1))


def test_latent_weights_start_and_stay_within_their_bounds():
    keras.utils.set_random_seed(0)
    model = binary_networks.build_model(20, (30,), 3, "binary")
    first = model.get_layer("dense_1").kernel
    bound = binary_networks.reach((20, 30))
    assert 0.95 * bound < np.abs(first).max() <= bound
    model.compile(
        keras.optimizers.SGD(10.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = RANDOM.normal(size=(64, 20)).astype("float32")
    model.fit(x, RANDOM.integers(0, 3, 64), verbose=0)
    moved = np.abs(model.get_layer("dense_1").kernel)
    assert moved.max() == pytest.approx(bound)
    assert np.mean(moved > 0.99 * bound) > 0.1


def test_packed_bits_by_hand():
    matrix = np.float32(0.5) * np.array(
        [[1, -1, 1, 1], [-1, -1, 1, -1], [1, 0, 0, 0]], "float32"
    )
    scale = np.float32(0.5).tobytes()
    assert binary_networks.pack([matrix[:2]], 1) == scale + bytes([0b10110010])
    positive, negative = "101100101000", "010011010000"
    bits = int(positive + negative, 2).to_bytes(3, "big")
    assert binary_networks.pack([matrix], 2) == scale + bits


@pytest.mark.parametrize(("scheme", "bits"), binary_networks.BITS.items())
def test_files_hold_the_weights_exactly_in_the_bytes_they_should(scheme, bits):
    matrices = [
        RANDOM.normal(size=shape).astype("float32") for shape in ((13, 11), (11, 3))
    ]
    matrices = [np.asarray(binary_networks.RULES[scheme](each)) for each in matrices]
    vector = RANDOM.normal(size=11).astype("float32")
    weights = [matrices[0], vector, matrices[1]]
    packed = binary_networks.pack(weights, bits)
    size = {
        1: (4 + 18) + 44 + (4 + 5),
        2: (4 + 36) + 44 + (4 + 9),
        32: 4 * (143 + 11 + 33),
    }
    assert len(packed) == size[bits]
    read = binary_networks.unpack(packed, [each.shape for each in weights], bits)
    for before, after in zip(weights, read, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)
        np.testing.assert_array_equal(np.sign(after), np.sign(before))


def test_batch_statistics_are_those_of_the_rounded_weights():
    keras.utils.set_random_seed(0)
    model = binary_networks.build_model(7, (6,), 3, "float")
    images = RANDOM.normal(size=(50, 7)).astype("float32")
    weights = model.get_weights()
    binary_networks.run_rounded(model, weights, binary_networks.binarize, images)
    answers = images @ np.where(weights[0] >= 0, 1, -1)
    normalize = next(each for each in model.layers if hasattr(each, "moving_mean"))
    np.testing.assert_allclose(
        normalize.moving_mean, answers.mean(axis=0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        normalize.moving_variance, answers.var(axis=0), rtol=1e-3
    )


def test_a_saved_model_loads_and_computes_the_same(tmp_path):
    model = binary_networks.build_model(7, (6,), 3, "ternary")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))


def test_the_rate_falls_along_a_cosine_from_a_peak_that_may_be_set():
    schedule = binary_networks.DecayFromPeak(40)
    for peak in (3e-3, 1e-2):
        schedule.peak.assign(peak)
        expected = keras.optimizers.schedules.CosineDecay(peak, 40)
        for step in (0, 13, 40):
            assert float(schedule(step)) == pytest.approx(
                float(expected(step)), abs=1e-9
            )
