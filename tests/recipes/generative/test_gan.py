"""The game's formulas by hand, by SciPy and by brute force; one step of linear networks
by hand; both optimizers after an interruption."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from deep_learning_recipes import training
from deep_learning_recipes.run.recorder import Recorder
from recipes.generative import gan


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_discriminators_loss_is_minus_the_value(random):
    real, fake = random.normal(size=(2, 7, 1)).astype("float32")
    value = np.log(special.expit(real)).mean() + np.log1p(-special.expit(fake)).mean()
    assert float(gan.discriminator_loss(real, fake)) == pytest.approx(-value, rel=1e-5)


def test_confident_logits_have_finite_losses():
    real, fake = np.float32([[-200.0]]), np.float32([[200.0]])
    assert float(gan.discriminator_loss(real, fake)) == pytest.approx(400)
    assert float(gan.minimax_loss(fake)) == pytest.approx(-200)
    assert float(gan.non_saturating_loss(-fake)) == pytest.approx(200)


@pytest.mark.parametrize("name", gan.GENERATOR_LOSSES)
def test_slopes_in_the_logit_are_those_by_hand(name):
    logits = tf.constant([-9.0, -1.0, 0.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = gan.GENERATOR_LOSSES[name](logits)
    share = special.expit(logits)  # D
    expected = -share if name == "minimax" else share - 1
    np.testing.assert_allclose(4 * tape.gradient(loss, logits), expected, rtol=1e-5)
    losses = {"minimax": np.log1p(-share), "non-saturating": -np.log(share)}
    assert float(loss) == pytest.approx(losses[name].mean(), rel=1e-4)


def value_of(answers, p, q):
    return np.sum(p * np.log(answers)) + np.sum(q * np.log(1 - answers))


def test_no_discriminator_has_a_higher_value_than_the_best(random):
    p, q = random.dirichlet(np.ones(5), size=2)
    best = gan.optimal_discriminator(p, q)
    grid = np.linspace(0.001, 0.999, 999)
    of_grid = p[:, np.newaxis] * np.log(grid) + q[:, np.newaxis] * np.log(1 - grid)
    np.testing.assert_allclose(grid[of_grid.argmax(axis=1)], best, atol=1e-3)
    assert value_of(best, p, q) >= of_grid.max(axis=1).sum()


def test_the_best_value_is_the_jensen_shannon_divergence(random):
    p, q = random.dirichlet(np.ones(5), size=2)
    value = value_of(gan.optimal_discriminator(p, q), p, q)
    assert gan.jensen_shannon(value) == pytest.approx(jensenshannon(p, q) ** 2)
    value = value_of(gan.optimal_discriminator(p, p), p, p)
    assert value == pytest.approx(-np.log(4))
    assert gan.jensen_shannon(value) == pytest.approx(0, abs=1e-12)


def linear_gan(**settings):
    keras.utils.set_random_seed(3)
    generator = gan.build_generator(3, 2, depth=0)
    model = gan.GAN(generator, gan.build_discriminator(2, depth=0), **settings)
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.25))
    return model


@pytest.mark.parametrize("name", gan.GENERATOR_LOSSES)
def test_a_step_of_linear_networks_is_that_by_hand(name, random, monkeypatch):
    model = linear_gan(generator_loss=gan.GENERATOR_LOSSES[name])
    x = random.normal(size=(5, 2)).astype("float32")
    first, second = random.normal(size=(2, 5, 3)).astype("float32")
    draws = iter([first, second])
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: next(draws))
    maps, shift = (each.astype("float64") for each in model.generator.get_weights())
    weights, bias = (each[..., 0] for each in model.discriminator.get_weights())

    logs = model.train_step(tf.constant(x))

    fake = first @ maps + shift
    of_real = special.expit(x @ weights + bias) - 1
    of_fake = special.expit(fake @ weights + bias)
    slope = (of_real @ x + of_fake @ fake) / 5
    slope_of_bias = (of_real.sum() + of_fake.sum()) / 5
    value = np.log(1 + of_real).mean() + np.log1p(-of_fake).mean()
    moved = weights - 0.25 * slope
    moved_bias = bias - 0.25 * slope_of_bias
    found = model.discriminator.get_weights()
    np.testing.assert_allclose(found[0][:, 0], moved, rtol=1e-4)
    np.testing.assert_allclose(found[1], [moved_bias], rtol=1e-4, atol=1e-6)

    # The generator meets the discriminator after its step, with noise of its own.
    share = special.expit((second @ maps + shift) @ moved + moved_bias)
    of_logits = -share if name == "minimax" else share - 1
    slopes = np.outer(second.T @ of_logits, moved) / 5
    found = model.generator.get_weights()
    np.testing.assert_allclose(found[0], maps - 0.5 * slopes, rtol=1e-4, atol=1e-6)
    slope_of_shift = of_logits.mean() * moved
    np.testing.assert_allclose(found[1], shift - 0.5 * slope_of_shift, rtol=1e-4)

    norm = np.sqrt(np.sum(slopes**2) + np.sum(slope_of_shift**2))
    assert float(logs["generator_gradient"]) == pytest.approx(norm, rel=1e-4)
    norm = np.sqrt(np.sum(slope**2) + slope_of_bias**2)
    assert float(logs["discriminator_gradient"]) == pytest.approx(norm, rel=1e-4)
    assert float(logs["value"]) == pytest.approx(value, rel=1e-4)


def test_each_of_k_steps_sees_examples_and_noise_of_its_own(random, monkeypatch):
    model = linear_gan(discriminator_steps=3)
    seen = []
    draws = []
    step = model.discriminator_step
    draw = model.draw_noise

    def recorded_step(x):
        seen.append(np.array(x))
        step(x)

    def recorded_draw(count):
        draws.append(np.array(draw(count)))
        return draws[-1]

    monkeypatch.setattr(model, "discriminator_step", recorded_step)
    monkeypatch.setattr(model, "draw_noise", recorded_draw)
    x = random.normal(size=(12, 2)).astype("float32")
    model.train_step(tf.constant(x))
    assert [len(each) for each in seen] == [4, 4, 4]
    together = np.concatenate(seen)
    assert {tuple(row) for row in together} == {tuple(row) for row in x}
    assert [each.shape for each in draws] == [(4, 3)] * 4
    assert len(np.unique(np.concatenate(draws)[:, 0])) == 16


def test_generator_steps_leave_the_discriminator_alone(random):
    model = linear_gan()
    before = model.discriminator.get_weights()
    model.generator_step(4)
    for old, new in zip(before, model.discriminator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def small_gan():
    keras.utils.set_random_seed(1)
    generator = gan.build_generator(3, 2, 8, batch_normalization=True)
    discriminator = gan.build_discriminator(2, 8)
    model = gan.GAN(generator, discriminator, discriminator_steps=2, name="small")
    gan.compile_gan(model, 1e-2, 5e-3, steps=20)
    return model


def state_of(model):
    optimizers = (model.optimizer, model.discriminator_optimizer)
    variables = [each for optimizer in optimizers for each in optimizer.variables]
    return [np.array(each) for each in (*model.variables, *variables)]


def test_both_optimizers_go_on_after_an_interruption(tmp_path, random):
    x = random.normal(size=(40, 2)).astype("float32")

    def fit(model, folder, resume=False, stop_after=None):
        class Killed(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == stop_after:
                    raise KeyboardInterrupt

        recorder = Recorder(folder, resume=resume, seconds_between_saves=0)
        return training.fit(
            model, x, epochs=5, batch_size=20, seed=0, callbacks=[recorder, Killed()]
        )

    whole = small_gan()
    history = fit(whole, tmp_path / "whole").history
    with pytest.raises(KeyboardInterrupt):
        fit(small_gan(), tmp_path / "cut", stop_after=2)
    resumed = small_gan()
    again = fit(resumed, tmp_path / "cut", resume=True).history

    assert again == history
    assert int(resumed.optimizer.iterations) == 10
    assert int(resumed.discriminator_optimizer.iterations) == 20
    expected = state_of(whole)
    found = state_of(resumed)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_both_rates_reach_0_with_the_last_step():
    model = small_gan()
    training.fit(model, np.ones((40, 2), "float32"), batch_size=8, epochs=4, verbose=0)
    for optimizer in (model.optimizer, model.discriminator_optimizer):
        assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("count", "kept"), [(64, 60), (60, 60), (7, 20)])
def test_batches_are_whole(count, kept):
    x = np.arange(2 * count).reshape(count, 2)
    batches = gan.whole_batches(x, 20)
    assert batches.shape == (kept, 2)
    assert {tuple(row) for row in batches} <= {tuple(row) for row in x}


def test_energy_distance_is_scipys(random):
    one, other = random.normal(size=(2, 300))
    expected = stats.energy_distance(one, 1.3 * other + 0.2) ** 2
    found = gan.energy_distance(one[:, np.newaxis], 1.3 * other[:, np.newaxis] + 0.2)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_bent_laws_correlation_is_that_by_hand(random):
    points = gan.draw_law(200_000, random)
    expected = 0.6 / np.sqrt(0.6**2 + 0.5**2 * 2 + 0.3**2)
    assert np.corrcoef(points.T)[0, 1] == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.02)


def test_known_densities_are_densities():
    x = np.linspace(-12, 12, 20_001)
    for density in (gan.density_of_samples, gan.density_of_forgeries):
        assert np.trapezoid(density(x), x) == pytest.approx(1, abs=1e-6)
