import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm
from sklearn.decomposition import PCA

from recipes.generative import diffusion


@pytest.fixture
def random():
    return np.random.default_rng(0)


def share_at(time):
    return float(diffusion.signal_share(time))


def test_forward_in_one_step_is_that_of_many(random):
    """x_t after one mixture of noise, and after a thousand small ones."""
    times = np.linspace(0, 0.8, 1001)
    shares = np.array([share_at(time) for time in times])
    x = np.full(20_000, 1.5)
    for before, after in zip(shares[:-1], shares[1:], strict=True):
        kept = after / before  # α_t of the papers
        x = np.sqrt(kept) * x + np.sqrt(1 - kept) * random.standard_normal(len(x))
    at_once = diffusion.add_noise(1.5, random.standard_normal(len(x)), shares[-1])
    at_once = np.asarray(at_once)
    assert x.mean() == pytest.approx(at_once.mean(), abs=0.03)
    assert x.std() == pytest.approx(at_once.std(), abs=0.02)
    expected = norm(np.sqrt(shares[-1]) * 1.5, np.sqrt(1 - shares[-1]))
    assert kstest(x, expected.cdf).pvalue > 1e-3


def test_schedule_goes_from_the_picture_to_nearly_nothing_of_it():
    shares = np.array([share_at(time) for time in np.linspace(0, 1, 50)])
    assert shares[0] == 1
    assert 0 < shares[-1] < 0.002
    assert np.all(np.diff(shares) < 0)


def test_clean_picture_comes_back_from_its_own_noise(random):
    x, noise = random.normal(size=(2, 5, 3)).astype("float32")
    x_t = diffusion.add_noise(x, noise, 0.3)
    back = diffusion.predict_clean(x_t, noise, 0.3)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_ddim_step_is_eulers_step_of_the_flow(random):
    """In x̄ = x/√ᾱ and σ = √(1−ᾱ)/√ᾱ the flow is dx̄ = ε dσ (Song et al., equation
    14)."""
    x_t, noise = random.normal(size=(2, 4, 3))
    share, next_share = 0.4, 0.7
    clean = diffusion.predict_clean(x_t, noise, share)
    found = diffusion.ddim_step(clean, noise, share, next_share, 0.0, 0.0)

    sigma, next_sigma = (np.sqrt((1 - a) / a) for a in (share, next_share))
    expected = x_t / np.sqrt(share) + (next_sigma - sigma) * noise
    np.testing.assert_allclose(found / np.sqrt(next_share), expected, rtol=1e-5)


def test_many_ddim_steps_follow_the_flows_own_solution():
    """Of data N(0, s²) the noise is known: √(1−ᾱ)·x_t / (ᾱ·s² + 1 − ᾱ)."""
    deviation = 0.5

    def noise_of(x_t, share):
        return np.sqrt(1 - share) * x_t / (share * deviation**2 + 1 - share)

    begin, end = share_at(0.9), share_at(0.01)
    x_t = np.array([0.7, -1.2])
    times = np.linspace(0.9, 0.01, 2001)
    for before, after in zip(times[:-1], times[1:], strict=True):
        share, next_share = share_at(before), share_at(after)
        noise = noise_of(x_t, share)
        clean = np.asarray(diffusion.predict_clean(x_t, noise, share))
        x_t = np.asarray(diffusion.ddim_step(clean, noise, share, next_share, 0.0, 0.0))

    def flow(sigma, scaled):
        share = 1 / (1 + sigma**2)
        return noise_of(scaled * np.sqrt(share), share)

    sigmas = [np.sqrt((1 - a) / a) for a in (begin, end)]
    start = np.array([0.7, -1.2]) / np.sqrt(begin)
    solved = solve_ivp(flow, sigmas, start, rtol=1e-8, atol=1e-10).y[:, -1]
    np.testing.assert_allclose(x_t, solved * np.sqrt(end), rtol=2e-3)


def test_ddpm_step_has_the_posteriors_mean_and_variance(random):
    """Ho et al., equations 6 and 7: of q(x_s | x_t, x)."""
    share, next_share = 0.3, 0.5
    x, x_t = 0.8, -0.4
    noise = (x_t - np.sqrt(share) * x) / np.sqrt(1 - share)
    fresh = random.standard_normal(100_000)
    found = np.asarray(diffusion.ddim_step(x, noise, share, next_share, fresh, 1.0))

    kept = share / next_share
    mean = (
        np.sqrt(next_share) * (1 - kept) * x + np.sqrt(kept) * (1 - next_share) * x_t
    ) / (1 - share)
    variance = (1 - next_share) / (1 - share) * (1 - kept)
    assert found.mean() == pytest.approx(mean, abs=0.01)
    assert found.var() == pytest.approx(variance, rel=0.02)


def test_guidance_of_zero_is_the_answer_that_knows_the_class():
    assert diffusion.guide(2.0, 5.0, 0.0) == 2.0
    assert diffusion.guide(2.0, 5.0, 1.0) == -1.0


def test_exact_noise_draws_the_mixture(random):
    """With the noise that the mixture's own density implies, the sampler draws the
    mixture: what is left to the network is to learn that."""
    means = np.array(diffusion.MIXTURE_MEANS)
    shares = np.array(diffusion.MIXTURE_SHARES)
    deviation = diffusion.MIXTURE_DEVIATION

    def noise_of(inputs):
        x_t, time, _ = inputs
        share = diffusion.signal_share(time)
        variance = share * deviation**2 + 1 - share
        away = x_t - tf.sqrt(share) * tf.constant(means, tf.float32)
        weights = tf.nn.softmax(-(away**2) / (2 * variance) + np.log(shares))
        score = -tf.reduce_sum(weights * away, axis=1, keepdims=True) / variance
        return -tf.sqrt(1 - share) * score

    class Exact:
        inputs = (keras.Input((1,)),)

        def __call__(self, inputs):
            return noise_of(inputs)

    sampler = diffusion.Sampler(Exact(), 1, np.array([3.0], "float32"))
    drawn = sampler.draw(np.zeros(4000, "int32"), 100)[-1, :, 0]

    def cdf(x):
        return shares @ norm.cdf((x - means[:, np.newaxis]) / deviation)

    assert kstest(drawn, cdf).statistic < 0.03


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return diffusion.build_network(size=6, classes=3, width=16, blocks=2)


def test_loss_is_the_squared_error_of_the_noise(network):
    """The network's own answer at the same draws, by hand."""
    model = diffusion.Diffusion(network, classes=3, drop=0.0)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype("float32")
    y = np.array([0, 1, 2, 0, 1])
    state = model.seed_generator.state.numpy()
    found = float(model.noise_loss(x, y))

    model.seed_generator.state.assign(state)
    time = np.asarray(keras.random.uniform((5, 1), seed=model.seed_generator))
    noise = np.asarray(keras.random.normal((5, 6), seed=model.seed_generator))
    share = np.cos(0.49 * np.pi * time) ** 2
    x_t = np.sqrt(share) * x + np.sqrt(1 - share) * noise
    answer = np.asarray(network([x_t, time, y.astype("int32")]))
    assert found == pytest.approx(np.mean((answer - noise) ** 2), rel=1e-4)


@pytest.mark.parametrize(("drop", "matters"), [(1.0, False), (0.0, True)])
def test_dropped_classes_reach_no_network(network, drop, matters):
    model = diffusion.Diffusion(network, classes=3, drop=drop)
    x = np.ones((8, 6), "float32")
    losses = []
    state = model.seed_generator.state.numpy()
    for label in (0, 2):
        model.seed_generator.state.assign(state)
        losses.append(float(model.noise_loss(x, np.full(8, label))))
    assert (losses[0] != losses[1]) == matters


def test_codes_are_those_of_scikit_learn_and_come_back(random):
    x = np.clip(random.normal(0.5, 0.1, size=(50, 3, 3, 1)), 0, 1)
    codes = diffusion.Codes(x, 9)
    found = codes.encode(x)
    theirs = PCA(9).fit_transform(x.reshape(50, -1))
    np.testing.assert_allclose(found / found.std(), theirs / theirs.std(), atol=1e-4)
    np.testing.assert_allclose(np.square(found).mean(), 1, rtol=0.05)
    np.testing.assert_allclose(codes.decode(found), x, atol=1e-5)


def test_generator_draws_what_the_sampler_draws(network, random):
    x = random.random((40, 3, 2, 1)).astype("float32")
    codes = diffusion.Codes(x, 6)
    generator = diffusion.build_generator(network, 3, codes, steps=5, guidance=1.5)
    label = np.array([0, 1, 2, 1], "int32")
    path = diffusion.Sampler(network, 3, codes.limit).draw(label, 5, guidance=1.5)
    images = generator({"noise": path[0], "label": label})["image"]
    np.testing.assert_allclose(images, codes.decode(path[-1]), atol=1e-4)
    other = generator({"noise": path[0], "label": label[::-1].copy()})["image"]
    assert not np.allclose(images, other, atol=1e-3)


def test_every_step_stays_within_the_pictures_range(network):
    limit = np.full(6, 0.1, "float32")
    path = diffusion.Sampler(network, 3, limit).draw(np.zeros(20, "int32"), 4)
    assert np.all(np.abs(path[-1]) <= 0.1 + 1e-6)
    assert path.shape == (5, 20, 6)
