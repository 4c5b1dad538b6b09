"""Low rank against counts by hand, Eckart and Young, scikit-learn's PCA and the bounds
of HOSVD."""

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA

from recipes import low_rank

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(20, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    network = low_rank.build_model((8, 8, 1), (6, 10, 16), classes=3)
    for weight in network.weights:  # biases start at 0
        weight.assign(weight + RANDOM.normal(size=weight.shape) / 10)
    return network


def test_multiply_adds_counted_by_hand(model):
    # 3 × 3 over 8 × 8 places, then 4 × 4 after pooling; 2 × 2 × 10 numbers go into the
    # dense layer.
    assert (
        low_rank.multiply_adds(model) == 64 * 9 * 6 + 16 * 9 * 6 * 10 + 40 * 16 + 16 * 3
    )
    halved = low_rank.compress(model, "weights", 0.5, IMAGES)
    ends = 64 * 9 * 6 + 16 * 3
    expected = ends + 16 * (9 * 6 * 5 + 5 * 10) + (40 * 8 + 8 * 16)
    assert low_rank.multiply_adds(halved) == expected
    halved = low_rank.compress(model, "tucker", 0.5, IMAGES)
    expected = ends + 16 * (6 * 3 + 9 * 3 * 5 + 5 * 10) + (40 * 8 + 8 * 16)
    assert low_rank.multiply_adds(halved) == expected


@pytest.mark.parametrize("scheme", low_rank.SCHEMES)
def test_full_rank_is_exact_and_half_is_not(model, scheme):
    logits = np.asarray(model(IMAGES))
    exact = low_rank.compress(model, scheme, 1.0, IMAGES)(IMAGES)
    np.testing.assert_allclose(exact, logits, atol=1e-5)
    half = low_rank.compress(model, scheme, 0.5, IMAGES)(IMAGES)
    assert np.abs(half - logits).max() > 1e-3


def test_the_source_model_is_left_alone(model):
    before = model.get_weights()
    small = low_rank.compress(model, "weights", 0.5, IMAGES)
    for weight in small.weights:
        weight.assign(weight * 0)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)
    )


def test_truncation_leaves_out_the_tail_of_the_singular_values():
    """Eckart and Young: no matrix of that rank is nearer."""
    kernel = RANDOM.normal(size=(3, 3, 4, 12))
    basis, energies = low_rank.basis_of_weights(kernel)
    np.testing.assert_allclose(energies.sum(), np.sum(kernel**2))
    for rank in (1, 5, 11):
        cut = basis[:, :rank]
        error = np.sum((kernel - kernel @ cut @ cut.T) ** 2)
        assert error == pytest.approx(energies[rank:].sum())
        for _ in range(20):
            other, _ = np.linalg.qr(cut + 0.1 * RANDOM.normal(size=cut.shape))
            assert np.sum((kernel - kernel @ other @ other.T) ** 2) > error


def test_responses_are_projected_as_pca_does(model):
    images = RANDOM.uniform(size=(40, 8, 8, 1)).astype("float32")
    answers = np.asarray(
        keras.Model(model.input, model.get_layer("conv_2").output)(images)
    )
    flat = answers.reshape(-1, 10)
    pca = PCA(4).fit(flat)
    _, variances, mean = low_rank.basis_of_responses(model, "conv_2", images)
    np.testing.assert_allclose(variances[:4], pca.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(mean, pca.mean_, rtol=1e-5)
    small = low_rank.compress(model, "responses", 0.4, images)
    got = keras.Model(small.input, small.get_layer("conv_2_2").output)(images)
    expected = pca.inverse_transform(pca.transform(flat))
    np.testing.assert_allclose(np.reshape(got, (-1, 10)), expected, atol=1e-5)


def put_together(kernels):
    """The k × k kernel that three kernels amount to."""
    inward, core, outward = kernels
    return np.einsum("cr,klrs,sd->klcd", inward[0, 0], core, outward[0, 0])


def test_tucker_finds_a_kernel_of_low_rank_exactly():
    core = RANDOM.normal(size=(3, 3, 2, 3))
    kernel = np.einsum(
        "cr,klrs,sd->klcd", RANDOM.normal(size=(6, 2)), core, RANDOM.normal(size=(3, 8))
    )
    kernels = low_rank.tucker2(kernel, 2, 3)
    assert [each.shape for each in kernels] == [
        (1, 1, 6, 2),
        (3, 3, 2, 3),
        (1, 1, 3, 8),
    ]
    np.testing.assert_allclose(put_together(kernels), kernel, atol=1e-12)
    assert np.abs(put_together(low_rank.tucker2(kernel, 1, 3)) - kernel).max() > 0.1
    assert np.abs(put_together(low_rank.tucker2(kernel, 2, 2)) - kernel).max() > 0.1


def test_tucker_errs_within_the_bounds_of_hosvd():
    """At least the larger, at most the sum of what the two unfoldings leave out."""
    kernel = RANDOM.normal(size=(3, 3, 6, 8))
    inward = (
        np.linalg.svd(kernel.transpose(2, 0, 1, 3).reshape(6, -1), compute_uv=False)
        ** 2
    )
    outward = (
        np.linalg.svd(kernel.transpose(3, 0, 1, 2).reshape(8, -1), compute_uv=False)
        ** 2
    )
    error = np.sum((put_together(low_rank.tucker2(kernel, 4, 5)) - kernel) ** 2)
    tails = inward[4:].sum(), outward[5:].sum()
    assert max(tails) <= error <= sum(tails)


def test_the_rival_is_the_narrowest_with_as_many_multiply_adds():
    widths, shape = (8, 16, 32), (8, 8, 1)
    budget = 5000
    rival = low_rank.build_smaller(budget, shape, widths, classes=3)
    first = rival.get_layer("conv_1").filters
    narrower = low_rank.build_model(
        shape, (first - 1, 2 * (first - 1), 4 * (first - 1)), 3
    )
    assert low_rank.multiply_adds(narrower) < budget <= low_rank.multiply_adds(rival)
