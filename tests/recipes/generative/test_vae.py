"""The VAE's formulas against SciPy, Monte Carlo and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from recipes import vae

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def small_vae(likelihood="bernoulli"):
    return vae.VAE(
        vae.build_encoder(6, 2, 8),
        vae.build_decoder(6, 2, 8, likelihood),
        likelihood,
        name="small",
    )


def test_the_closed_form_kl_equals_monte_carlo():
    mean = RANDOM.normal(size=(3, 4)).astype("float32")
    log_variance = RANDOM.normal(size=(3, 4)).astype("float32")
    deviation = np.exp(0.5 * log_variance)
    z = mean + deviation * RANDOM.normal(size=(400_000, 3, 4))
    log_ratio = stats.norm.logpdf(z, mean, deviation) - stats.norm.logpdf(z)
    expected = log_ratio.sum(axis=-1).mean(axis=0)
    error = log_ratio.sum(axis=-1).std(axis=0) / np.sqrt(400_000)
    found = np.asarray(vae.kl_divergence(mean, log_variance))
    assert np.all(np.abs(found - expected) < 5 * error)
    np.testing.assert_allclose(
        vae.kl_divergence(np.zeros((1, 4)), np.zeros((1, 4))), 0, atol=1e-7
    )


def test_log_normal_equals_scipy():
    x, mean = RANDOM.normal(size=(2, 5, 3)).astype("float32")
    log_variance = RANDOM.normal(size=(5, 1)).astype("float32")
    expected = stats.norm.logpdf(x, mean, np.exp(0.5 * log_variance)).sum(axis=-1)
    np.testing.assert_allclose(
        vae.log_normal(x, mean, log_variance), expected, rtol=1e-5
    )


def test_the_bernoulli_likelihood_equals_scipy():
    model = small_vae()
    x = (RANDOM.uniform(size=(4, 6)) > 0.5).astype("float32")
    z = RANDOM.normal(size=(4, 2)).astype("float32")
    probability = 1 / (1 + np.exp(-np.asarray(model.decoder(z)["logits"])))
    expected = stats.bernoulli.logpmf(x, probability).sum(axis=-1)
    np.testing.assert_allclose(model.log_likelihood(x, z), expected, rtol=1e-4)


def test_the_reparameterised_gradient_equals_finite_differences():
    """d/dμ and d/d log σ² of E[f(z)], f(z) = Σ z³, with the noise held fixed."""
    noise = RANDOM.normal(size=(200, 3))
    parameters = RANDOM.normal(size=(2, 1, 3))

    def expectation(values):
        z = values[0] + np.exp(0.5 * values[1]) * noise
        return np.mean(np.sum(z**3, axis=-1))

    mean, log_variance = (tf.Variable(each, dtype="float64") for each in parameters)
    with tf.GradientTape() as tape:
        z = vae.sample(mean, log_variance, tf.constant(noise))
        value = tf.reduce_mean(tf.reduce_sum(z**3, axis=-1))
    gradients = np.stack(tape.gradient(value, [mean, log_variance]))
    for index in np.ndindex(parameters.shape):
        step = np.zeros_like(parameters)
        step[index] = 1e-5
        slope = (expectation(parameters + step) - expectation(parameters - step)) / 2e-5
        assert gradients[index] == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_every_weight_gets_a_gradient(likelihood):
    model = small_vae(likelihood)
    model.compile("adam")
    x = RANDOM.uniform(size=(16, 6)).astype("float32")
    before = [np.array(weight) for weight in model.trainable_variables]
    model.fit(x, batch_size=16, verbose=0)
    assert len(before) == (16 if likelihood == "gaussian" else 14)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert np.abs(np.array(weight) - old).max() > 0, weight.path


def test_the_importance_weighted_bound_nears_the_likelihood_from_below():
    """With one latent number the likelihood itself is an integral that a grid can
    do."""
    model = vae.VAE(vae.build_encoder(6, 1, 8), vae.build_decoder(6, 1, 8, "bernoulli"))
    x = (RANDOM.uniform(size=(5, 6)) > 0.5).astype("float32")
    grid = np.linspace(-8, 8, 4001)[:, None].astype("float32")
    joint = [
        np.asarray(model.log_likelihood(np.repeat(each[None], len(grid), 0), grid))
        for each in x
    ]
    density = np.exp(np.array(joint)) * stats.norm.pdf(grid[:, 0])
    log_likelihood = np.log(np.trapezoid(density, grid[:, 0], axis=1))

    reconstruction, kl = np.mean([np.stack(model.terms(x)) for _ in range(500)], axis=0)
    elbo = reconstruction - kl
    bound = np.asarray(model.importance_weighted_bound(x, samples=2000))
    assert np.all(elbo < log_likelihood + 0.02)
    np.testing.assert_allclose(bound, log_likelihood, atol=0.03)
    assert np.mean(bound) > np.mean(elbo)


def test_told_apart_is_a_half_for_the_same_density_and_one_for_distant_ones():
    real, alike, distant = RANDOM.normal(size=(3, 1000, 4))
    assert vae.told_apart(alike, real) == pytest.approx(0.5, abs=0.04)
    assert vae.told_apart(distant + 50, real) == 1
    # Averages lie near all images and are told apart all the same.
    assert vae.told_apart(0.01 * alike, real) > 0.7
