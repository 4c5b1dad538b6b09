"""The VAE's formulas against SciPy, Monte Carlo, finite differences, and a model whose
likelihood is known."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import special, stats

from recipes import vae

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def small_vae(likelihood="bernoulli", latent_size=2):
    encoder = vae.build_encoder(6, latent_size, 8)
    decoder = vae.build_decoder(6, latent_size, 8, likelihood)
    return vae.VAE(encoder, decoder, name="small")


def test_the_closed_form_kl_equals_monte_carlo(random):
    mean = random.normal(size=(3, 4)).astype("float32")
    log_variance = random.normal(size=(3, 4)).astype("float32")
    deviation = np.exp(0.5 * log_variance)
    z = mean + deviation * random.normal(size=(100_000, 3, 4))
    log_ratio = stats.norm.logpdf(z, mean, deviation) - stats.norm.logpdf(z)
    of_draws = log_ratio.sum(axis=-1)
    error = of_draws.std(axis=0) / np.sqrt(len(z))
    found = np.asarray(vae.kl_divergence(mean, log_variance))
    assert np.all(np.abs(found - of_draws.mean(axis=0)) < 5 * error)


def test_the_kl_of_the_prior_itself_is_zero():
    zeros = np.zeros((1, 4), "float32")
    np.testing.assert_allclose(vae.kl_divergence(zeros, zeros), 0, atol=1e-7)


def test_log_normal_equals_scipy(random):
    x, mean = random.normal(size=(2, 5, 3)).astype("float32")
    log_variance = random.normal(size=(5, 1)).astype("float32")
    expected = stats.norm.logpdf(x, mean, np.exp(0.5 * log_variance)).sum(axis=-1)
    found = vae.log_normal(x, mean, log_variance)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_log_bernoulli_equals_scipy(random):
    x = random.integers(2, size=(4, 6)).astype("float32")
    logits = random.normal(size=(4, 6)).astype("float32")
    expected = stats.bernoulli.logpmf(x, special.expit(logits)).sum(axis=-1)
    np.testing.assert_allclose(vae.log_bernoulli(x, logits), expected, rtol=1e-5)


def test_the_reparameterized_gradient_equals_finite_differences(random):
    """d/dμ and d/d log σ² of E[f(z)], f(z) = Σ z³, with the noise held fixed."""
    noise = random.normal(size=(200, 3))
    parameters = random.normal(size=(2, 1, 3))

    def expectation(values):
        z = values[0] + np.exp(0.5 * values[1]) * noise
        return np.mean(np.sum(z**3, axis=-1))

    mean = tf.Variable(parameters[0])
    log_variance = tf.Variable(parameters[1])
    with tf.GradientTape() as tape:
        z = vae.reparameterize(mean, log_variance, tf.constant(noise))
        value = tf.reduce_mean(tf.reduce_sum(z**3, axis=-1))
    gradients = np.stack(tape.gradient(value, [mean, log_variance]))
    for index in np.ndindex(parameters.shape):
        step = np.zeros_like(parameters)
        step[index] = 1e-5
        slope = (expectation(parameters + step) - expectation(parameters - step)) / 2e-5
        assert gradients[index] == pytest.approx(slope, rel=1e-5)


def weights_of(model):
    """Kernel and bias of each layer, in the order of `loss_by_scipy`."""
    encoder = model.encoder
    decoder = model.decoder
    layers = [*encoder.layers[1:3], encoder.get_layer("mean")]
    layers += [encoder.get_layer("log_variance")]
    layers += [*decoder.layers[1:3], decoder.get_layer("logits")]
    if "log_variance" in decoder.output:
        layers += [decoder.get_layer("log_variance")]
    return [weight for layer in layers for weight in layer.trainable_variables]


def loss_by_scipy(weights, x, noise, beta, likelihood):
    """−mean(log p(x|z) − β KL) of `small_vae`, in double precision."""
    weights = iter(weights)

    def dense(inputs):
        return inputs @ next(weights) + next(weights)

    def hidden(inputs):
        return np.maximum(dense(np.maximum(dense(inputs), 0)), 0)

    of_image = hidden(x)
    mean = dense(of_image)
    log_variance = dense(of_image)
    z = mean + np.exp(log_variance / 2) * noise
    of_code = hidden(z)
    means = special.expit(dense(of_code))
    if likelihood == "gaussian":
        deviation = np.exp(dense(of_code) / 2)
        log_likelihood = stats.norm.logpdf(x, means, deviation)
    else:
        log_likelihood = x * np.log(means) + (1 - x) * np.log(1 - means)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    return -np.mean(log_likelihood.sum(axis=1) - beta * kl.sum(axis=1))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_training_step_goes_down_the_gradient(likelihood, random, monkeypatch):
    model = small_vae(likelihood)
    model.beta = 3.0
    # At biases of 0 an image without a white pixel stands on the kink of every ReLU.
    for weight in weights_of(model):
        if len(weight.shape) == 1:
            weight.assign(random.normal(scale=0.3, size=weight.shape))
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    x = random.integers(2, size=(16, 6)).astype("float32")
    noise = random.normal(size=(16, 2)).astype("float32")
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: noise)
    before = [np.array(weight, "float64") for weight in weights_of(model)]

    logs = model.train_step(ops.convert_to_tensor(x))

    assert len(before) == len(model.trainable_variables)
    for number, weight in enumerate(weights_of(model)):
        moved = before[number] - np.array(weight)
        assert np.abs(moved).max() > 0, weight.path
        for index in np.ndindex(*before[number].shape):
            losses = []
            for step in (1e-5, -1e-5):
                changed = [each.copy() for each in before]
                changed[number][index] += step
                losses.append(loss_by_scipy(changed, x, noise, 3.0, likelihood))
            slope = (losses[0] - losses[1]) / 2e-5
            assert moved[index] == pytest.approx(slope, rel=1e-3, abs=2e-5)
    loss = loss_by_scipy(before, x, noise, 3.0, likelihood)
    found = float(3 * logs["kl"] - logs["reconstruction"])
    assert found == pytest.approx(loss, rel=1e-4)


class Linear:
    """x = ½ + W z + noise, with W's columns at right angles: log p(x) and the true
    p(z|x) have closed forms. q is the truth, its σ `wider` times as wide."""

    noise = 0.05

    def __init__(self, random, wider=1.0):
        self.columns = 0.06 * np.linalg.qr(random.normal(size=(6, 2)))[0]
        precision = 1 + 0.06**2 / self.noise**2
        x = keras.Input((6,))
        mean = ops.matmul(x - 0.5, self.columns.astype("float32"))
        mean = mean / self.noise**2 / precision
        log_variance = ops.zeros_like(mean) + math.log(wider**2 / precision)
        encoder = keras.Model(x, [mean, log_variance])
        z = keras.Input((2,))
        means = 0.5 + ops.matmul(z, self.columns.T.astype("float32"))
        outputs = {
            "logits": ops.log(means / (1 - means)),
            "log_variance": 0 * z[:, :1] + 2 * math.log(self.noise),
        }
        self.model = vae.VAE(encoder, keras.Model(z, outputs))
        codes = random.normal(size=(50, 2))
        errors = self.noise * random.normal(size=(50, 6))
        self.x = (0.5 + codes @ self.columns.T + errors).astype("float32")

    @property
    def log_p(self):
        covariance = self.columns @ self.columns.T + self.noise**2 * np.eye(6)
        return stats.multivariate_normal.logpdf(self.x, np.full(6, 0.5), covariance)


@pytest.mark.parametrize("samples", [1, 5])
def test_with_the_true_posterior_the_bound_is_log_p_whatever_is_drawn(random, samples):
    linear = Linear(random)
    log_weights = np.asarray(linear.model.log_weights(linear.x, samples))
    assert log_weights.shape == (samples, 50)
    expected = np.tile(linear.log_p, (samples, 1))
    np.testing.assert_allclose(log_weights, expected, atol=2e-4)
    bound = vae.importance_weighted_bound(log_weights)
    np.testing.assert_allclose(bound, linear.log_p, atol=2e-4)


def test_with_another_posterior_the_bound_rises_from_the_elbo_to_log_p(random):
    """The ELBO gives away KL(q ‖ p(z|x)), here that of a normal twice as wide."""
    linear = Linear(random, wider=2.0)
    given_away = 2 * 0.5 * (2.0**2 - 1 - np.log(2.0**2))
    elbo = linear.log_p.mean() - given_away

    log_weights = linear.model.log_weights(linear.x, 2048)
    bounds = []
    for count in (1, 4, 16, 2048):
        groups = ops.split(log_weights, 2048 // count)
        each = [vae.importance_weighted_bound(group) for group in groups]
        bounds.append(np.mean(each))
    reconstruction, kl = linear.model.elbo_terms(np.tile(linear.x, (500, 1)))
    assert np.mean(reconstruction - kl) == pytest.approx(elbo, abs=0.05)
    assert bounds[0] == pytest.approx(elbo, abs=0.05)
    assert np.all(np.diff(bounds) > 0.02)
    assert bounds[-1] == pytest.approx(linear.log_p.mean(), abs=0.02)


def test_the_bound_is_the_log_of_a_mean(random):
    log_weights = random.normal(size=(7, 3)).astype("float32")
    expected = np.log(np.mean(np.exp(log_weights), axis=0))
    found = vae.importance_weighted_bound(log_weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_grid_finds_the_likelihood_that_draws_from_the_prior_find(random):
    model = small_vae()
    x = random.integers(2, size=(5, 6)).astype("float32")
    z = random.normal(size=(50_000, 2)).astype("float32")
    logits = np.asarray(model.decoder(z)["logits"], "float64")
    log_likelihood = -np.logaddexp(0, (1 - 2 * x[:, np.newaxis]) * logits).sum(axis=-1)
    expected = np.log(np.mean(np.exp(log_likelihood), axis=1))
    found = vae.log_likelihood_by_grid(model, x)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_mean_bounds_draw_each_number_of_codes_in_groups(monkeypatch, random):
    model = small_vae()
    log_weights = random.normal(size=(64, 3)).astype("float32")
    monkeypatch.setattr(model, "log_weights", lambda x, samples: log_weights)
    found = vae.mean_bounds(model, None)
    assert list(found) == [1, 4, 16, 64]
    for count, bound in found.items():
        means = np.exp(log_weights).reshape(-1, count, 3).mean(axis=1)
        assert bound == pytest.approx(np.log(means).mean(), rel=1e-4)


def test_a_mixture_is_a_distribution_over_all_images(random):
    x = random.integers(2, size=(40, 6)).astype("float64")
    mixture = vae.Mixture(x, 3, random)
    every_image = np.array(list(itertools.product([0, 1], repeat=6)))
    assert np.exp(mixture.log_likelihood(every_image)).sum() == pytest.approx(1)


def test_a_mixture_finds_the_classes_that_the_images_are_from(random):
    means = np.array([[0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6])
    classes = (random.random(3000) < 0.25).astype(int)
    x = random.binomial(1, means[classes]).astype("float64")
    mixture = vae.Mixture(x, 2, random)
    order = np.argsort(mixture.priors)[::-1]
    np.testing.assert_allclose(mixture.priors[order], [0.75, 0.25], atol=0.03)
    np.testing.assert_allclose(mixture.means[order], means, atol=0.06)
    drawn = mixture.sample(3000, random)
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=0.05)


def test_independent_pixels_are_a_mixture_of_one_class(random):
    x = random.binomial(1, 0.3, size=(50, 6)).astype("float64")
    share = (x.sum(axis=0) * 51 + x.sum(axis=0) + 0.5) / 51 / 51
    mixture = vae.Mixture(x, 1, random)
    expected = stats.bernoulli.logpmf(x, share).sum(axis=1)
    np.testing.assert_allclose(mixture.log_likelihood(x), expected, rtol=1e-10)


def test_precision_asks_for_the_third_nearest_neighbor():
    """Real ones at 0, 1, 2, 3, 10: the balls around them reach 3, 2, 2, 3 and 9."""
    real = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    drawn = np.array([[-2.9], [-3.1], [0.5], [18.9], [19.1]])
    assert vae.precision(drawn, real) == pytest.approx(3 / 5)
    # The recall: balls around the drawn ones reach 19.0 at least from all but 0.5.
    assert vae.precision(real, drawn) == 1


def test_precision_of_the_same_density_is_high_and_of_averages_low(random):
    real, alike = random.integers(2, size=(2, 300, 8))
    assert vae.precision(alike, real) > 0.9
    assert vae.precision(alike + 5, real) == 0


def test_samples_are_black_and_white_and_learned_from_the_same_images(random):
    model = small_vae()
    x = random.binomial(1, [0.05, 0.1, 0.5, 0.9, 0.5, 0.95], size=(500, 6))
    mixture = vae.Mixture(x.astype("float64"), 2, random)
    samples = vae.draw_samples(model, mixture, x, 400, random)
    assert list(samples) == ["decoder", "mixture", "Gaussian"]
    for drawn in samples.values():
        assert drawn.shape == (400, 6)
        assert set(np.unique(drawn)) == {0, 1}
    for name in ("mixture", "Gaussian"):
        share = samples[name].mean(axis=0)
        np.testing.assert_allclose(share, x.mean(axis=0), atol=0.12)
