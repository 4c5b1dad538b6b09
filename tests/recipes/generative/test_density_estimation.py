import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import quad
from scipy.special import logit, softmax
from scipy.stats import kstest, logistic, multivariate_normal, norm
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from recipes.generative import density_estimation as recipe


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def moons(random):
    return recipe.Moons(2).draw(600, random)


def shaken(network, amount=0.3):
    """With random weights everywhere, also where they begin at 0."""
    random = np.random.default_rng(3)
    for weight in network.trainable_weights:
        weight.assign_add(amount * random.standard_normal(weight.shape))
    return network


@pytest.fixture
def made():
    keras.utils.set_random_seed(0)
    return shaken(recipe.build_made(size=4, width=12, components=3))


@pytest.fixture
def flow():
    keras.utils.set_random_seed(0)
    return shaken(recipe.build_flow(4, width=12, components=3, couplings=3))


def test_histogram_is_numpys(random):
    x = random.uniform(-3, 3, size=(500, 2))
    histogram = recipe.Histogram(x, bins=6)
    counts, _, _ = np.histogram2d(*x.T, bins=6, range=[recipe.BOX] * 2)
    expected = (counts + 1 / 36) / 501
    middles = -2.5 + np.arange(6)
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    found = np.exp(histogram.log_density(grid)).reshape(6, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_histogram_of_one_cell_is_uniform(random):
    x = random.uniform(-3, 3, size=(50, 16))
    found = recipe.Histogram(x, bins=1).log_density(x[:3])
    np.testing.assert_allclose(found, -16 * np.log(6))


def test_kernel_estimate_is_the_mean_of_scipys_normals(moons, random):
    x = moons.astype("float64")
    at = random.normal(size=(700, 2))  # more than one part
    found = recipe.Kernel(x, 0.2).log_density(at)
    bumps = sum(multivariate_normal(each, 0.2**2).pdf(at) for each in x)
    np.testing.assert_allclose(np.exp(found), bumps / len(x), rtol=1e-5, atol=1e-12)


def test_k_means_is_scikit_learns_from_the_same_start(moons):
    x = moons.astype("float64")
    start = recipe.first_means(x, 6, np.random.default_rng(1))
    found = recipe.k_means(x, 6, np.random.default_rng(1), steps=100)
    theirs = KMeans(6, init=start, n_init=1, tol=0, algorithm="lloyd").fit(x)
    np.testing.assert_allclose(found, theirs.cluster_centers_, atol=1e-6)


def test_mixture_is_scikit_learns_from_the_same_start(moons, monkeypatch):
    """Without the floor, which theirs has otherwise."""
    x = moons.astype("float64")
    monkeypatch.setattr(recipe, "FLOOR", 0.0)
    found = recipe.GaussianMixture(x, 4, np.random.default_rng(1), steps=0)
    theirs = GaussianMixture(
        4,
        weights_init=found.weights,
        means_init=found.means,
        precisions_init=np.linalg.inv(found.covariances),
        max_iter=15,
        tol=0,
        reg_covar=0,
    )
    with pytest.warns(match="converge"):
        theirs.fit(x)
    again = recipe.GaussianMixture(x, 4, np.random.default_rng(1), steps=15)
    # A point's worth in the denominator: covariances are smaller by 1 / (n_k + 1).
    np.testing.assert_allclose(again.means, theirs.means_, atol=0.02)
    np.testing.assert_allclose(again.weights, theirs.weights_, atol=0.01)
    np.testing.assert_allclose(again.log_density(x).mean(), theirs.score(x), atol=0.01)


def test_expectation_maximization_never_loses_likelihood(moons, monkeypatch):
    x = moons.astype("float64")
    monkeypatch.setattr(recipe, "FLOOR", 0.0)
    likelihoods = [
        recipe.GaussianMixture(x, 5, np.random.default_rng(2), steps=steps)
        .log_density(x)
        .mean()
        for steps in (0, 1, 2, 5, 10, 20)
    ]
    assert np.all(np.diff(likelihoods) > -2e-3)
    assert likelihoods[-1] > likelihoods[0] + 0.02


def test_mixture_is_the_sum_of_its_gaussians(moons, random):
    mixture = recipe.GaussianMixture(moons, 3, random)
    at = random.normal(size=(20, 2))
    expected = sum(
        weight * multivariate_normal(mean, covariance).pdf(at)
        for weight, mean, covariance in zip(
            mixture.weights, mixture.means, mixture.covariances, strict=True
        )
    )
    np.testing.assert_allclose(np.exp(mixture.log_density(at)), expected, rtol=1e-6)
    np.testing.assert_allclose(mixture.responsibilities(at).sum(axis=1), 1)


def test_k_means_is_the_mixtures_limit_for_equal_small_variances(moons, random):
    x = moons.astype("float64")
    mixture = recipe.GaussianMixture(x, 5, random)
    mixture.weights = np.full(5, 0.2)
    mixture.covariances = np.tile(1e-6 * np.eye(2), (5, 1, 1))
    shares = mixture.responsibilities(x)
    distances = np.linalg.norm(x[:, None] - mixture.means, axis=2)
    np.testing.assert_array_equal(shares.argmax(axis=1), distances.argmin(axis=1))
    assert np.mean(shares.max(axis=1) > 0.999) > 0.99
    mixture.maximize(x, shares)
    for k in range(5):
        own = x[distances.argmin(axis=1) == k].mean(axis=0)
        np.testing.assert_allclose(mixture.means[k], own, atol=0.01)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_conditional_depends_on_its_own_or_a_later_number(size, random):
    keras.utils.set_random_seed(0)
    made = shaken(recipe.build_made(size=size, width=12, components=3))
    x = tf.constant(random.normal(size=(1, size)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        parameters = tf.concat([each[0] for each in made(x)], axis=-1)
    slopes = np.asarray(tape.jacobian(parameters, x))[:, :, 0]  # of, parameter, from
    depends = np.any(slopes != 0, axis=1)
    np.testing.assert_array_equal(depends, np.tri(size, k=-1, dtype=bool))


def test_autoregressive_density_is_a_product_of_mixtures(made, random):
    x = random.normal(size=(3, 4)).astype("float32")
    logits, means, log_deviations = (np.asarray(each) for each in made(x))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    densities = norm.pdf(x[..., None], means, np.exp(log_deviations))
    expected = np.log((shares * densities).sum(axis=-1)).sum(axis=-1)
    found = recipe.made_log_density(made, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_log_determinant_is_that_of_the_jacobian(flow, random):
    x = tf.constant(random.normal(size=(6, 4)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z, log_det = flow(x)
    jacobians = tape.batch_jacobian(z, x)
    expected = np.log(np.abs(np.linalg.det(jacobians)))
    np.testing.assert_allclose(log_det, expected, atol=1e-4)
    assert np.abs(expected).min() > 1e-3


def test_bending_is_the_logit_of_the_distribution_function(random):
    x = random.normal(size=(5, 2)).astype("float32")
    logits, means, log_scales = random.normal(size=(3, 5, 2, 4)).astype("float32")
    z, log_slope = recipe.bend(x, logits, means, log_scales)
    shares = softmax(logits, axis=-1)
    scales = np.exp(log_scales)
    reached = (shares * logistic.cdf(x[..., None], means, scales)).sum(axis=-1)
    density = (shares * logistic.pdf(x[..., None], means, scales)).sum(axis=-1)
    np.testing.assert_allclose(z, logit(reached), rtol=1e-3, atol=1e-4)
    slope = density / (reached * (1 - reached))
    np.testing.assert_allclose(log_slope, np.log(slope), rtol=1e-3, atol=1e-4)
    back = recipe.unbend(z, logits, means, log_scales)
    np.testing.assert_allclose(back, x, atol=1e-3)


def test_bending_far_out_is_finite():
    shape = (1, 2, 3)
    x = np.array([[-30.0, 30.0]], "float32")
    z, log_slope = recipe.bend(x, *np.zeros((3, *shape), "float32"))
    np.testing.assert_allclose(z, x, rtol=1e-5)
    np.testing.assert_allclose(log_slope, 0, atol=1e-5)


def test_flow_comes_back(flow, random):
    x = random.normal(size=(50, 4)).astype("float32")
    z, _ = flow(x)
    np.testing.assert_allclose(recipe.flow_inverse(flow, z), x, atol=1e-4)
    assert np.abs(np.asarray(z) - x).mean() > 0.1


@pytest.mark.parametrize("size", [2, 3])
def test_every_number_of_a_flow_steers_and_is_steered(size, random):
    keras.utils.set_random_seed(0)
    flow = shaken(recipe.build_flow(size, width=12, components=3, couplings=4))
    x = tf.constant(random.normal(size=(1, size)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z, _ = flow(x)
    assert np.all(np.asarray(tape.batch_jacobian(z, x)) != 0)


@pytest.mark.parametrize("name", recipe.LOG_DENSITIES)
def test_densities_of_networks_integrate_to_1(name):
    keras.utils.set_random_seed(0)
    build = {
        "autoregressive": lambda: recipe.build_made(2, width=8, components=3),
        "flow": lambda: recipe.build_flow(2, width=8, components=3, couplings=3),
    }
    network = shaken(build[name](), 0.15)
    along = np.arange(-9, 9, 0.04, "float32")
    x = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    log_density = recipe.LOG_DENSITIES[name](network, x)
    assert np.exp(log_density).sum() * 0.04**2 == pytest.approx(1, abs=0.01)


def test_laws_density_is_that_of_its_draws(random):
    """E_p[1/p] over a region is its volume."""
    law = recipe.Moons(2)
    x = law.draw(200_000, random)
    near = np.all(np.abs(x - [0.6, -0.55]) < 0.25, axis=1)
    volume = np.mean(near / np.exp(law.log_density(x)))
    assert volume == pytest.approx(0.25, rel=0.1)
    assert np.abs(x).max() < 3


def test_law_of_more_numbers_is_a_product_over_pairs(random):
    law = recipe.Moons(4)
    x = law.draw(5, random)
    variance = recipe.MOON_DEVIATION**2
    expected = np.ones(5)
    for pair in (x[:, :2], x[:, 2:]):
        bumps = [multivariate_normal(each, variance).pdf(pair) for each in law.centers]
        expected *= np.mean(bumps, axis=0)
    np.testing.assert_allclose(np.exp(law.log_density(x)), expected, rtol=1e-6)


def test_line_integrates_to_1_and_is_drawn(random):
    law = recipe.Line()

    def density(x):
        return np.exp(law.log_density(np.array([[x]])))[0]

    assert quad(density, -4, 4, limit=200)[0] == pytest.approx(1, abs=1e-6)

    def cdf(x):
        each = norm.cdf(x[:, None], recipe.LINE_MEANS, recipe.LINE_DEVIATIONS)
        return each @ recipe.LINE_SHARES

    assert kstest(law.draw(3000, random)[:, 0], cdf).pvalue > 1e-3


def test_draws_of_the_autoregressive_network_have_its_density(random):
    keras.utils.set_random_seed(0)
    made = shaken(recipe.build_made(size=2, width=8, components=3), 0.2)
    normal = random.standard_normal((4000, 2)).astype("float32")
    uniform = random.random((4000, 2), "float32")
    x = np.asarray(recipe.made_sample(made, uniform, normal))
    logits, means, log_deviations = (np.asarray(each) for each in made(x))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    # What its own distribution function makes of each number is uniform.
    levels = (shares * norm.cdf(x[..., None], means, np.exp(log_deviations))).sum(-1)
    for column in levels.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(levels.T)[0, 1]) < 0.05


def test_networks_learn_by_maximum_likelihood(moons):
    keras.utils.set_random_seed(0)
    network = recipe.build_made(size=2, width=16, components=4)
    model = recipe.MaximumLikelihood(network, recipe.made_log_density)
    before = -float(np.mean(recipe.made_log_density(network, moons)))
    recipe.compile_model(model, 1e-2, 100)
    model.fit(moons, epochs=10, batch_size=64, verbose=0)
    assert -float(np.mean(recipe.made_log_density(network, moons))) < before - 0.3


def test_best_is_chosen_by_validation_points(random):
    x = random.normal(0, 0.5, size=(300, 1))
    found = recipe.best(
        [recipe.Kernel(x, each) for each in (0.001, 0.15, 3.0)],
        random.normal(0, 0.5, size=(300, 1)),
    )
    assert found.bandwidth == 0.15


def test_excess_of_the_law_is_none(random):
    law = recipe.Moons(4)
    x = law.draw(100, random)
    shifted = recipe.Moons(4)
    shifted.centers = shifted.centers + 0.12
    found = recipe.excess({"law": law, "shifted": shifted}, law, x)
    assert found["law"] == 0
    assert found["shifted"] > 0.1
