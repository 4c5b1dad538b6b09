import keras
import numpy as np
import pytest
from keras import ops
from scipy.integrate import quad
from scipy.stats import kstest, norm

from recipes.generative import denoising_autoencoder as recipe


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_noise_is_gaussian_and_of_the_amount(random):
    x = random.random((20, 8, 8, 1)).astype("float32")
    noise = np.asarray(recipe.add_noise(ops.convert_to_tensor(x), 0.3, 1)) - x
    assert kstest(noise.ravel(), norm(0, 0.3).cdf).pvalue > 1e-3


def test_masking_sets_the_share_to_zero_and_keeps_the_rest(random):
    x = 0.5 + 0.5 * random.random((50, 8, 8, 1)).astype("float32")
    masked = np.asarray(recipe.mask_pixels(ops.convert_to_tensor(x), 0.7, 1))
    assert np.mean(masked == 0) == pytest.approx(0.7, abs=0.03)
    np.testing.assert_array_equal(masked[masked > 0], x[masked > 0])


def test_half_of_the_rows_are_lost():
    x = ops.ones((2, 6, 4, 1))
    masked = np.asarray(recipe.mask_half(x, 0.5))
    assert masked[:, :3].min() == 1
    assert masked[:, 3:].max() == 0


@pytest.mark.parametrize("kind", recipe.DAMAGES)
def test_damage_is_done_in_training_alone(kind, random):
    x = 0.5 + random.random((4, 8, 8, 1)).astype("float32")
    damage = recipe.Damage(kind, 0.5)
    np.testing.assert_array_equal(damage(x), x)
    np.testing.assert_array_equal(damage(x, training=False), x)
    first = np.asarray(damage(x, training=True))
    assert not np.allclose(first, x)
    if kind != "half":
        assert not np.allclose(damage(x, training=True), first)


def test_a_saved_model_has_its_damage(tmp_path, random):
    x = random.random((2, 8, 12, 1)).astype("float32")
    damage = recipe.Damage("masking", 0.25)
    model = recipe.build_autoencoder((8, 12, 1), damage, filters=2, code_size=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)
    again = loaded.get_layer(damage.name)
    assert (again.kind, again.amount) == ("masking", 0.25)
    assert model(x).shape == x.shape


def test_damage_has_no_weight_and_a_plain_network_none_of_it():
    shape = (8, 8, 1)
    damaged = recipe.build_autoencoder(shape, recipe.Damage("noise", 1.0))
    plain = recipe.build_autoencoder(shape)
    assert damaged.count_params() == plain.count_params()
    assert len(damaged.layers) == len(plain.layers) + 1


@pytest.mark.parametrize("damaged", [-1.3, 0.0, 0.2, 0.9])
def test_posterior_mean_is_bayes_rule(damaged):
    deviation = 0.7
    likelihoods = {x: norm.pdf(damaged, x, deviation) for x in (-1, 1)}
    total = sum(likelihoods.values())
    expected = sum(x * each / total for x, each in likelihoods.items())
    assert recipe.posterior_mean(damaged, deviation) == pytest.approx(expected)


def test_no_answer_has_a_smaller_error_than_the_posterior_mean():
    deviation = 0.7

    def error(answer):
        def weighted(damaged):
            return sum(
                0.5 * norm.pdf(damaged, x, deviation) * (answer(damaged) - x) ** 2
                for x in (-1, 1)
            )

        return quad(weighted, -6, 6)[0]

    def mean(damaged):
        return recipe.posterior_mean(damaged, deviation)

    best = error(mean)
    assert best < error(lambda damaged: damaged)
    assert best < error(np.sign)
    assert best < error(lambda damaged: mean(damaged) + 0.05)
    assert best < error(lambda damaged: mean(damaged) - 0.05)


def test_change_is_the_score(random):
    """Tweedie: E[x | x̃] − x̃ = σ²·∇log p(x̃), here by differences of log p."""
    deviation = 0.7
    damaged = random.uniform(-2, 2, 20)

    def log_density(x):
        return np.log(0.5 * sum(norm.pdf(x, mean, deviation) for mean in (-1, 1)))

    step = 1e-4
    slope = (log_density(damaged + step) - log_density(damaged - step)) / (2 * step)
    change = recipe.posterior_mean(damaged, deviation) - damaged
    np.testing.assert_allclose(change, deviation**2 * slope, atol=1e-5)


def test_linear_rival_is_least_squares(random):
    x = random.random((300, 2, 2, 1))
    damaged = x + 0.5 * random.standard_normal(x.shape)
    found = recipe.fit_linear(x, damaged)
    inputs = np.c_[damaged.reshape(300, -1), np.ones(300)]
    penalty = recipe.PENALTY * np.diag([1, 1, 1, 1, 0])
    weights = np.linalg.solve(
        inputs.T @ inputs + penalty, inputs.T @ x.reshape(300, -1)
    )
    expected = inputs @ weights
    np.testing.assert_allclose(found.predict(damaged.reshape(300, -1)), expected)


def test_the_nearest_upper_half_gives_its_lower_half(random):
    x_train = random.random((30, 6, 4, 1))
    x = x_train[[3, 17]].copy()
    x[:, 3:] = 0.5
    halves = recipe.complete(lambda damaged: damaged, x_train, x, x)
    np.testing.assert_array_equal(halves.one_of_them, x_train[[3, 17], 3:])
    np.testing.assert_array_equal(halves.true, x[:, 3:])


def test_spiral_is_one(random):
    points = recipe.draw_spiral(1000, random)
    radius = np.linalg.norm(points, axis=1)
    angle = np.arctan2(points[:, 1], points[:, 0])
    turned = radius * 3 * np.pi - angle
    np.testing.assert_allclose(np.cos(turned), 1, atol=1e-4)
    assert radius.max() <= 1
