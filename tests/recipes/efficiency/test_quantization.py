"""The affine formula and fake quantization against TensorFlow's own, and by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import quantization

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.2, 5.0), (-4.0, -1.0), (0.0, 1.0)]
)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_affine_formula_covers_the_range_to_half_a_step(low, high, bits):
    scale, zero_point = quantization.choose_affine(low, high, bits)
    x = np.linspace(min(low, 0), max(high, 0), 1001)
    q = quantization.quantize(x, scale, zero_point, bits)
    assert q.min() == -(2 ** (bits - 1))
    assert q.max() == 2 ** (bits - 1) - 1
    assert len(np.unique(q)) == 2**bits
    # z is rounded too, so at an end of the range half a step more may be cut.
    error = np.abs(scale * (q - zero_point) - x)
    assert error.max() <= scale * 1.001
    inner = (q > q.min()) & (q < q.max())
    assert not inner.any() or error[inner].max() <= scale / 2 * 1.001
    assert quantization.quantize(np.zeros(1), scale, zero_point, bits) == zero_point


def test_the_affine_formula_by_hand():
    """Pixels in [0, 1]: 255 steps, and the lowest integer means 0."""
    scale, zero_point = quantization.choose_affine(0.0, 1.0)
    assert (scale, zero_point) == (pytest.approx(1 / 255), -128)
    q = quantization.quantize(np.array([0, 0.4, 1.0, 2.0, -1.0]), scale, zero_point)
    assert q.tolist() == [-128, 102 - 128, 127, 127, -128]


@pytest.mark.parametrize("bits", [8, 5, 3, 2])
def test_fake_quantisation_is_tensorflows_with_the_same_range(bits):
    weights = RANDOM.normal(size=(20, 30)).astype("float32")
    reach = np.abs(weights).max()
    expected = tf.quantization.fake_quant_with_min_max_args(
        weights, -reach, reach, num_bits=bits, narrow_range=True
    )
    found = np.asarray(quantization.fake_quantize(weights, bits))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) <= 2**bits - 1
    if bits == 2:
        np.testing.assert_allclose(np.unique(found), [-reach, 0, reach], rtol=1e-6)


def test_a_kernel_of_zeros_stays_zero():
    zeros = np.zeros((3, 4), "float32")
    for bits in (8, 2):
        np.testing.assert_array_equal(quantization.fake_quantize(zeros, bits), zeros)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_scale_of_least_squares_is_that_of_a_search(bits):
    weights = RANDOM.standard_t(4, size=(30, 20)).astype("float32")
    limit = 2 ** (bits - 1) - 1

    def error(scale):
        rounded = scale * np.clip(np.round(weights / scale), -limit, limit)
        return np.square(weights - rounded).sum()

    largest = float(quantization.scale_of_largest(weights, bits))
    found = float(quantization.scale_of_least_squares(weights, bits))
    best = min(error(scale) for scale in largest * np.linspace(0.001, 1, 2000))
    assert error(found) < 1.05 * best
    assert error(found) <= error(largest)
    if bits == 2:
        assert error(found) < 0.5 * error(largest)


def test_rounding_afterwards_leaves_the_network_and_its_biases_alone():
    keras.utils.set_random_seed(0)
    network = quantization.build_model()
    before = network.get_weights()
    rounded = quantization.round_kernels(network, 2, quantization.scale_of_largest)
    for weight, old, new in zip(
        network.weights, before, rounded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, old)
        if weight.name == "kernel":
            assert len(np.unique(new)) == 3
        else:
            np.testing.assert_array_equal(new, old)


def test_the_gradient_goes_straight_through():
    """As TensorFlow's within the range: d(rounded)/d(weight) is taken as 1, not as
    0."""
    weights = tf.constant(RANDOM.normal(size=(6, 5)).astype("float32"))
    factors = RANDOM.normal(size=(6, 5)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = tf.reduce_sum(factors * quantization.fake_quantize(weights, 3))
    np.testing.assert_allclose(tape.gradient(loss, weights), factors, rtol=1e-6)


def test_a_network_aware_of_rounding_computes_with_rounded_kernels_and_exact_biases():
    keras.utils.set_random_seed(0)
    network = quantization.build_model()
    x = RANDOM.uniform(size=(5, 8, 8, 1)).astype("float32")
    for weight in network.weights:
        if weight.name == "bias":
            weight.assign(RANDOM.normal(size=weight.shape))
    before = network.get_weights()
    found = np.asarray(quantization.QuantizationAware(network, 3)(x))
    for weight, value in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)  # its own weights stay
        if weight.name == "kernel":
            step = np.abs(value).max() / 3
            weight.assign(step * np.round(value / step))
    np.testing.assert_allclose(found, network(x), atol=1e-5)


def test_every_weight_learns_through_the_rounding():
    keras.utils.set_random_seed(0)
    model = quantization.QuantizationAware(quantization.build_model(), 2)
    quantization.compile_classifier(model, 1e-3, steps=10)
    x = RANDOM.uniform(size=(64, 8, 8, 1)).astype("float32")
    before = [weight.numpy() for weight in model.network.trainable_variables]
    model.fit(x, np.arange(64) % 10, verbose=0)
    after = [weight.numpy() for weight in model.network.trainable_variables]
    assert len(after) == 10
    assert all(np.abs(b - a).max() > 0 for a, b in zip(before, after, strict=True))


def test_the_networks_weights_counted_by_hand():
    """Kernels and biases of both dense layers, kernels of the convolutions, 4 numbers a
    channel of batch normalization."""
    dense = (16 * 64) * 64 + 64 + 64 * 10 + 10
    assert (
        quantization.build_model().count_params()
        == 9 * 32 + 9 * 32 * 64 + 4 * 96 + dense
    )


def test_the_stored_kernel_is_that_of_the_file():
    from deep_learning_recipes import compression

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(7)])
    content = compression.to_litert(model, "int8", RANDOM.normal(size=(20, 12)))
    found = quantization.stored_kernel(content, (7, 12))
    assert found.dtype == np.int8
    kernel = model.layers[0].kernel.numpy().T
    scales = np.abs(kernel).max(axis=1, keepdims=True) / 127
    np.testing.assert_array_equal(found, quantization.quantize(kernel, scales))
