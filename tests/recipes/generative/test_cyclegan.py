"""CycleGAN's losses and steps against NumPy and finite differences, the entropy against
scikit-learn and SciPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats
from sklearn.metrics import mutual_info_score

from recipes.generative import cyclegan as recipe

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def small(activation, name):
    """Pictures (batch, 4, 4, 1) to the same, by a weight of each pixel."""
    pictures = keras.Input((4, 4, 1))
    answers = layers.Conv2D(1, 3, padding="same", activation=activation)(pictures)
    return keras.Model(pictures, answers, name=name)


def small_cyclegan():
    model = recipe.CycleGAN(
        (small("sigmoid", "to-y"), small("sigmoid", "to-x")),
        (small(None, "of-y"), small(None, "of-x")),
        cycle_weight=3.0,
        identity_weight=2.0,
    )
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
    return model


def generators_by_hand(model, x, y):
    """Equation 3, in NumPy but for the networks."""

    def run(network, pictures):
        return np.asarray(network(pictures), "float64")

    there = run(model.to_y, x)
    back = run(model.to_x, y)
    adversarial = np.mean((run(model.discriminator_y, there) - 1) ** 2)
    adversarial += np.mean((run(model.discriminator_x, back) - 1) ** 2)
    cycle = np.mean(np.abs(run(model.to_x, there) - x))
    cycle += np.mean(np.abs(run(model.to_y, back) - y))
    identity = np.mean(np.abs(run(model.to_y, y) - y))
    identity += np.mean(np.abs(run(model.to_x, x) - x))
    return adversarial, cycle, adversarial + 3.0 * cycle + 2.0 * identity


def discriminators_by_hand(model, x, y, fake_x, fake_y):
    def run(network, pictures):
        return np.asarray(network(pictures), "float64")

    of_y = np.mean((run(model.discriminator_y, y) - 1) ** 2)
    of_y += np.mean(run(model.discriminator_y, fake_y) ** 2)
    of_x = np.mean((run(model.discriminator_x, x) - 1) ** 2)
    of_x += np.mean(run(model.discriminator_x, fake_x) ** 2)
    return 0.5 * (of_y + of_x)


def slopes(loss, weight):
    """Finite differences of a loss with respect to all of a weight's numbers."""
    value = np.array(weight)
    found = np.zeros(value.shape)
    for index in np.ndindex(value.shape):
        step = np.zeros_like(value)
        step[index] = 1e-2
        weight.assign(value + step)
        above = loss()
        weight.assign(value - step)
        found[index] = (above - loss()) / 2e-2
    weight.assign(value)
    return found


def test_a_step_goes_down_each_players_own_slope(random):
    model = small_cyclegan()
    x, y = random.random((2, 5, 4, 4, 1)).astype("float32")
    fake_y = np.asarray(model.to_y(x))
    fake_x = np.asarray(model.to_x(y))

    def loss_of_generators():
        return generators_by_hand(model, x, y)[-1]

    def loss_of_discriminators():
        return discriminators_by_hand(model, x, y, fake_x, fake_y)

    players = {
        loss_of_generators: (model.to_y, model.to_x),
        loss_of_discriminators: (model.discriminator_y, model.discriminator_x),
    }
    expected = {
        weight.path: slopes(loss, weight)
        for loss, networks in players.items()
        for network in networks
        for weight in network.trainable_variables
    }
    adversarial, cycle, _ = generators_by_hand(model, x, y)
    discriminator = loss_of_discriminators()
    variables = model.trainable_variables
    before = {weight.path: np.array(weight) for weight in variables}
    logs = model.train_step((x, y))

    assert set(before) == set(expected)
    for weight in variables:
        moved = before[weight.path] - np.array(weight)
        assert np.abs(moved).max() > 0, weight.path
        slope = expected[weight.path]
        np.testing.assert_allclose(moved, slope, rtol=0.05, atol=5e-3)
    assert float(logs["adversarial"]) == pytest.approx(adversarial, rel=1e-4)
    assert float(logs["cycle"]) == pytest.approx(cycle, rel=1e-4)
    assert float(logs["discriminator"]) == pytest.approx(discriminator, rel=1e-4)


def test_both_optimizers_are_kept_for_a_resumed_run(random):
    from deep_learning_recipes.training.state import state_variables

    model = small_cyclegan()
    x, y = random.random((2, 5, 4, 4, 1)).astype("float32")
    model.train_step((x, y))
    kept = {id(variable) for variable in state_variables(model)}
    for optimizer in (model.optimizer, model.discriminator_optimizer):
        assert {id(variable) for variable in optimizer.variables} <= kept


@pytest.mark.parametrize("size", [8, 12, 16])
def test_shapes(size, random):
    x = random.random((2, size, size, 1)).astype("float32")
    translated = np.asarray(recipe.build_generator(size, 4, 1)(x))
    assert translated.shape == x.shape
    assert 0 <= translated.min() <= translated.max() <= 1
    scores = recipe.build_discriminator(size, 4)(x)
    assert scores.shape == (2, size // 4, size // 4, 1)


def test_conditional_entropy_is_that_of_scikit_learn(random):
    before = random.integers(10, size=500)
    after = np.where(random.random(500) < 0.6, before, random.integers(10, size=500))
    marginal = stats.entropy(np.bincount(before), base=2)
    expected = marginal - mutual_info_score(before, after) / np.log(2)
    assert recipe.conditional_entropy(before, after) == pytest.approx(expected)


def test_conditional_entropy_of_what_is_known():
    before = np.repeat(np.arange(4), 5)
    assert recipe.conditional_entropy(before, before) == pytest.approx(0)
    # Exchanged one for one nothing is lost, merged in pairs a bit is.
    assert recipe.conditional_entropy(before, (before + 1) % 4) == pytest.approx(0)
    assert recipe.conditional_entropy(before, before // 2) == pytest.approx(1)
    assert recipe.conditional_entropy(before, 0 * before) == pytest.approx(2)


def test_the_bound_is_zero_where_images_are_known_and_all_where_none_is(random):
    images = random.random((32, 6))
    assert recipe.entropy_bound(images, images) == pytest.approx(0, abs=1e-3)
    nothing = np.zeros((32, 6)) + 0.5
    assert recipe.entropy_bound(nothing, images) == pytest.approx(5, abs=0.02)


def test_the_bound_is_met_where_pairs_look_alike(random):
    """Images that are the same but for a pair's number: one bit is lost, and no more."""
    images = np.repeat(10 * random.random((16, 6)), 2, axis=0)
    assert recipe.entropy_bound(images, images) == pytest.approx(1, abs=1e-3)


def test_the_bound_is_above_the_entropy_of_a_known_channel(random):
    """Corners of a square with Gaussian noise: the posterior is known."""
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    number = random.integers(4, size=400)
    deviation = 0.4
    guesses = corners[number] + deviation * random.standard_normal((400, 2))
    distances = ((guesses[:, np.newaxis] - corners) ** 2).sum(axis=-1)
    posterior = np.exp(-distances / (2 * deviation**2))
    posterior /= posterior.sum(axis=1, keepdims=True)
    entropy = -np.mean(np.sum(posterior * np.log2(posterior), axis=1))
    # Of 400 images, 100 at each corner: log₂ 100 bits more.
    found = recipe.entropy_bound(guesses, corners[number])
    expected = entropy + np.log2(400) - 2
    assert expected - 0.15 < found < expected + 0.15


class ByMean:
    """A judge that reads the class off the brightness."""

    def classify(self, images):
        return np.round(10 * images.mean(axis=(1, 2, 3))).astype(int)

    def features(self, images):
        return images.reshape(len(images), -1)[:, :3]


def constant(levels):
    images = np.broadcast_to(
        np.asarray(levels, "float32").reshape(-1, 1, 1, 1), (len(levels), 4, 4, 1)
    )
    return images.copy()


def test_what_is_measured_of_a_translation():
    labels = np.array([1, 2, 3, 4])
    images = constant(labels / 10)
    domain = recipe.Domain(images, labels, images, labels)

    def brighter(x):
        return x + 0.1

    def back(x):
        return x - 0.1

    found = recipe.translate(brighter, back, domain, domain, ByMean(), seed=0)
    assert found.kept == 0
    assert found.class_entropy == pytest.approx(0)  # exchanged, not lost
    assert found.cycle_error == pytest.approx(0, abs=1e-6)
    expected = recipe.NOISE * np.sqrt(2 / np.pi)
    assert found.cycle_error_from_noise == pytest.approx(expected, rel=0.2)
    assert found.frechet == pytest.approx(3 * 0.1**2, rel=1e-3)
    same = recipe.translate(np.asarray, np.asarray, domain, domain, ByMean(), seed=0)
    assert same.kept == 1
    assert same.frechet == pytest.approx(0, abs=1e-6)


def test_a_training_sees_images_without_pairs(monkeypatch, random):
    """As many of each, and the class of one says nothing of the other's."""
    seen = {}

    def fit(model, x, y, **options):
        seen.update(x=x, y=y)

    monkeypatch.setattr(recipe.training, "fit", fit)
    labels = np.arange(300) % 10
    printed = recipe.Domain(
        np.tile(constant(labels / 10), (1, 2, 2, 1)), labels, None, None
    )
    written = recipe.Domain(printed.x[:200], labels[:200], None, None)
    digits = recipe.Digits(printed, written, judge=None, has_same_classes=True)
    run = SimpleNamespace(seed=0, callbacks=[])
    recipe.train(digits, recipe.WITH, recipe.Config(size=8, filters=2, blocks=1), run)
    x, y = (np.round(10 * seen[name].mean(axis=(1, 2, 3))) for name in "xy")
    assert len(x) == len(y) == 300
    np.testing.assert_array_equal(np.sort(x), np.sort(labels))
    assert np.mean(x == y) < 0.2
