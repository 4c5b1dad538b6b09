"""Penalties of linear critics by hand and by finite differences, one step of linear
networks by hand, the Dirac-GAN by automatic differentiation and by eigenvalues, both
distances by SciPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import linalg, optimize, special, stats

from deep_learning_recipes import modes, training
from deep_learning_recipes.run.recorder import Recorder
from recipes.generative import wgan


@pytest.fixture
def random():
    return np.random.default_rng(0)


def linear_critic(weights):
    critic = wgan.build_critic(len(weights), depth=0)
    critic.set_weights([np.reshape(weights, (-1, 1)), np.array([0.7])])
    return critic


def batch(random, *shape):
    return tf.constant(random.normal(size=shape), tf.float32)


def test_penalties_of_a_linear_critic_are_exact(random):
    critic = linear_critic([3.0, -4.0])  # its slope is 5 everywhere
    real, fake = batch(random, 6, 2), batch(random, 6, 2)
    share = tf.constant(random.uniform(size=(6, 1)), tf.float32)
    found = float(wgan.gradient_penalty(critic, real, fake, share))
    assert found == pytest.approx((5 - 1) ** 2, rel=1e-5)
    found = float(wgan.r1_penalty(critic, real, fake, share))
    assert found == pytest.approx(0.5 * 5**2, rel=1e-5)


def test_a_critic_without_a_slope_has_a_penalty_with_a_gradient(random):
    critic = linear_critic([0.0, 0.0])
    real, fake = batch(random, 6, 2), batch(random, 6, 2)
    with tf.GradientTape() as tape:
        penalty = wgan.gradient_penalty(critic, real, fake, 0.5 * tf.ones((6, 1)))
    assert float(penalty) == pytest.approx(1, abs=1e-5)
    gradients = tape.gradient(penalty, critic.trainable_variables[:1])
    assert np.all(np.isfinite(gradients[0]))


def test_slopes_are_those_of_finite_differences(random):
    critic = wgan.build_critic(3, units=8)
    x = random.normal(size=(5, 3)).astype("float32")
    found = np.asarray(wgan.squared_slopes(critic, tf.constant(x)))
    expected = np.zeros(5)
    for axis in range(3):
        step = np.zeros(3, "float32")
        step[axis] = 1e-3
        rise = np.asarray(critic(x + step)) - np.asarray(critic(x - step))
        expected += (rise[:, 0] / 2e-3) ** 2
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_slopes_of_pictures_are_taken_over_all_of_their_numbers(random):
    inputs = keras.Input((2, 3, 1))
    critic = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    weights = critic.get_weights()[0]
    found = wgan.squared_slopes(critic, batch(random, 4, 2, 3, 1))
    np.testing.assert_allclose(found, np.full(4, np.sum(weights**2)), rtol=1e-5)


def test_the_penalty_looks_between_a_sample_and_its_forgery(random):
    """f(x) = x², whose slope 2x says where it was looked at."""
    inputs = keras.Input((1,))
    critic = keras.Model(inputs, keras.ops.square(inputs))
    real, fake = batch(random, 50, 1), batch(random, 50, 1)
    share = tf.constant(random.uniform(size=(50, 1)), tf.float32)
    places = share * real + (1 - share) * fake
    expected = np.mean((2 * np.abs(places) - 1) ** 2)
    found = float(wgan.gradient_penalty(critic, real, fake, share))
    assert found == pytest.approx(expected, rel=1e-4)
    expected = 0.5 * np.mean(4 * np.square(real))
    found = float(wgan.r1_penalty(critic, real, fake, share))
    assert found == pytest.approx(expected, rel=1e-5)


def linear_adversaries(game, **settings):
    keras.utils.set_random_seed(3)
    generator = wgan.build_generator(3, 2, depth=0)
    model = wgan.Adversaries(generator, linear_critic([0.5, -0.2]), game, **settings)
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.25))
    return model


@pytest.mark.parametrize("name", wgan.GAMES)
def test_a_step_of_linear_networks_is_that_by_hand(name, random, monkeypatch):
    game = wgan.GAMES[name]
    model = linear_adversaries(game, critic_steps=1)
    x = random.normal(size=(5, 2)).astype("float32")
    first, second = random.normal(size=(2, 5, 3)).astype("float32")
    draws = iter([first, second])
    monkeypatch.setattr(keras.random, "normal", lambda shape, seed: next(draws))
    maps, shift = model.generator.get_weights()
    weights, bias = (each[..., 0] for each in model.critic.get_weights())
    is_classifier = name.startswith("GAN")

    model.train_step(tf.constant(x))

    fake = first @ maps + shift
    of_real, of_fake = -np.ones(5), np.ones(5)
    if is_classifier:
        of_real = special.expit(x @ weights + bias) - 1
        of_fake = special.expit(fake @ weights + bias)
    slope = (of_real @ x + of_fake @ fake) / 5
    length = np.linalg.norm(weights)
    if name == "gradient penalty":
        slope = slope + game.weight * 2 * (length - 1) * weights / length
    if name == "GAN with R1":
        slope = slope + game.weight * weights
    moved = weights - 0.25 * slope
    moved_bias = bias - 0.25 * (of_real.sum() + of_fake.sum()) / 5
    if name == "weight clipping":
        moved = np.clip(moved, -game.clip, game.clip)
        moved_bias = np.clip(moved_bias, -game.clip, game.clip)
    found = model.critic.get_weights()
    np.testing.assert_allclose(found[0][:, 0], moved, rtol=1e-4)
    np.testing.assert_allclose(found[1], [moved_bias], rtol=1e-4)

    of_scores = -np.ones(5)
    if is_classifier:
        of_scores = special.expit((second @ maps + shift) @ moved + moved_bias) - 1
    slopes = np.outer(second.T @ of_scores, moved) / 5
    found = model.generator.get_weights()
    np.testing.assert_allclose(found[0], maps - 0.5 * slopes, rtol=1e-4, atol=1e-6)
    expected = shift - 0.5 * of_scores.mean() * moved
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-6)


def test_shares_are_one_for_each_example_and_new_each_time(random):
    model = linear_adversaries(wgan.GAMES["gradient penalty"])
    first = np.asarray(model.draw_shares(batch(random, 500, 4, 3, 2)))
    assert first.shape == (500, 1, 1, 1)
    assert stats.kstest(first.ravel(), "uniform").pvalue > 1e-3
    assert not np.allclose(first, model.draw_shares(batch(random, 500, 4, 3, 2)))


def test_each_critic_step_sees_examples_and_noise_of_its_own(random, monkeypatch):
    model = linear_adversaries(wgan.GAMES["gradient penalty"], critic_steps=3)
    seen = []
    draws = []
    step = model.critic_step
    draw = model.draw_noise

    def recorded_step(x):
        seen.append(np.array(x))
        step(x)

    def recorded_draw(count):
        draws.append(np.array(draw(count)))
        return draws[-1]

    monkeypatch.setattr(model, "critic_step", recorded_step)
    monkeypatch.setattr(model, "draw_noise", recorded_draw)
    x = random.normal(size=(12, 2)).astype("float32")
    model.train_step(tf.constant(x))
    together = np.concatenate(seen)
    assert {tuple(row) for row in together} == {tuple(row) for row in x}
    assert [each.shape for each in draws] == [(4, 3)] * 4
    assert len(np.unique(np.concatenate(draws)[:, 0])) == 16


@pytest.mark.parametrize("name", ["gradient penalty", "GAN with R1"])
def test_both_optimizers_go_on_after_an_interruption(name, tmp_path, random):
    x = random.normal(size=(40, 2)).astype("float32")

    def new_model():
        keras.utils.set_random_seed(1)
        generator = wgan.build_generator(3, 2, 8, batch_normalization=True)
        critic = wgan.build_critic(2, 8)
        model = wgan.Adversaries(generator, critic, wgan.GAMES[name], 2, name="small")
        wgan.compile_adversaries(model, 1e-2, steps=8)
        return model

    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(model, folder, resume=False, more=()):
        recorder = Recorder(tmp_path / folder, resume=resume, seconds_between_saves=0)
        callbacks = [recorder, *more]
        training.fit(
            model, x, epochs=4, batch_size=20, seed=0, callbacks=callbacks, verbose=0
        )

    def state_of(model):
        optimizers = (model.optimizer, model.critic_optimizer)
        variables = [each for optimizer in optimizers for each in optimizer.variables]
        return [np.array(each) for each in (*model.variables, *variables)]

    whole = new_model()
    fit(whole, "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), "cut", more=[Killed()])
    resumed = new_model()
    fit(resumed, "cut", resume=True)
    assert int(resumed.optimizer.iterations) == 8
    assert int(resumed.critic_optimizer.iterations) == 16
    for one, other in zip(state_of(resumed), state_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


SLOPES = {"GAN": wgan.slope_of_gan, "WGAN": wgan.slope_of_wgan}


@pytest.mark.parametrize("gamma", [0.0, 0.4])
@pytest.mark.parametrize("name", SLOPES)
def test_the_field_is_the_gradients_of_both_losses(name, gamma, random):
    for place in random.normal(size=(5, 2)):
        theta, psi = tf.Variable(place[0]), tf.Variable(place[1])
        with tf.GradientTape(persistent=True) as tape:
            real, fake = 0.0 * psi, theta * psi
            critic_loss = wgan.wasserstein_critic_loss(real, fake)
            if name == "GAN":
                critic_loss = wgan.discriminator_loss(real, fake)
            # The slope of ψ·x in x is ψ. The generator wants the opposite of it all.
            penalized = critic_loss + 0.5 * gamma * psi**2
        expected = (tape.gradient(critic_loss, theta), -tape.gradient(penalized, psi))
        found = wgan.dirac_field(*place, SLOPES[name], gamma)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("name", SLOPES)
def test_eigenvalues_are_those_of_the_fields_jacobian(name, gamma):
    def field(place):
        return np.array(wgan.dirac_field(*place, SLOPES[name], gamma))

    step = 1e-5
    jacobian = np.stack(
        [(field(each) - field(-each)) / (2 * step) for each in step * np.eye(2)], axis=1
    )
    expected = linalg.eigvals(jacobian)
    slope = float(SLOPES[name](0.0))
    found = np.array(wgan.dirac_eigenvalues(slope, gamma))
    np.testing.assert_allclose(
        np.sort_complex(found), np.sort_complex(expected), atol=1e-6
    )
    assert np.all(found.real < 0) == (gamma > 0)


def test_many_small_steps_go_as_the_eigenvalues_say():
    gamma = 0.4
    path = wgan.play_dirac((1e-3, 0.0), 4000, 0.005, wgan.slope_of_gan, gamma)
    real_part = max(np.real(wgan.dirac_eigenvalues(0.5, gamma)))
    shrunk = np.linalg.norm(path[-1]) / np.linalg.norm(path[0])
    assert np.log(shrunk) / (4000 * 0.005) == pytest.approx(real_part, abs=0.02)


def test_steps_at_once_leave_by_the_factor_by_hand():
    """|1 + hλ| a step, where λ = ±i."""
    path = wgan.play_dirac((1.0, 0.0), 50, 0.1, wgan.slope_of_wgan)
    expected = np.sqrt(1 + 0.1**2) ** np.arange(51)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), expected)
    in_turn = wgan.play_dirac((1.0, 0.0), 5000, 0.1, wgan.slope_of_wgan, alternate=True)
    lengths = np.linalg.norm(in_turn, axis=1)
    assert 0.9 < lengths.min() < lengths.max() < 1.1


def test_the_clipped_critic_of_a_line_finds_w1(random):
    """Of one weight, at most 1: |E[x] − E[y]|, and W₁ where one law is the other moved."""
    real = random.normal(size=400)
    fake = real + 0.8

    def loss(weight):
        return float(wgan.wasserstein_critic_loss(weight * real, weight * fake))

    best = optimize.minimize_scalar(loss, bounds=(-1, 1), method="bounded")
    expected = stats.wasserstein_distance(real, fake)
    assert -best.fun == pytest.approx(expected, rel=1e-4)


def test_the_penalized_critic_of_a_line_is_a_little_too_steep():
    """f(x) = −a·x of point masses at 0 and d: a·d − λ·(a − 1)² is most at 1 + d/2λ."""
    distance, weight = 2.0, 10.0
    game = wgan.Game(penalty=wgan.gradient_penalty, weight=weight)
    real, fake = tf.zeros((4, 1)), distance * tf.ones((4, 1))

    def loss(slope):
        critic = linear_critic([-slope])
        _, total = wgan.critic_objective(game, critic, real, fake, 0.5 * real)
        return float(total)

    best = optimize.minimize_scalar(loss, bounds=(0.5, 2), method="bounded")
    assert best.x == pytest.approx(1 + distance / (2 * weight), abs=1e-2)


def test_far_bumps_are_log_2_apart_and_w1_is_their_distance(random):
    assert wgan.jensen_shannon(0.0) == pytest.approx(0, abs=1e-9)
    for distance in (1.0, 3.0):
        assert wgan.jensen_shannon(distance) == pytest.approx(np.log(2), abs=1e-3)
        real, fake = wgan.draw_bumps(np.full(5000, distance), random)
        found = stats.wasserstein_distance(real[:, 0], fake[:, 0])
        assert found == pytest.approx(distance, abs=0.02)
        np.testing.assert_array_equal(real[:, 1], fake[:, 1])


def test_jensen_shannon_is_that_of_draws():
    """E_p[log p/m] + E_q[log q/m] by draws, where the bumps overlap."""
    random = np.random.default_rng(1)
    distance, deviation = 0.15, wgan.BUMP_DEVIATION
    terms = []
    for mean, other in ((0.0, distance), (distance, 0.0)):
        x = random.normal(mean, deviation, 200_000)
        p = stats.norm.pdf(x, mean, deviation)
        q = stats.norm.pdf(x, other, deviation)
        terms.append(np.mean(np.log(2 * p / (p + q))))
    assert wgan.jensen_shannon(distance) == pytest.approx(np.mean(terms), abs=3e-3)


@pytest.mark.parametrize(("epochs", "ends"), [(100, [12, 25, 50, 100]), (6, [1, 3, 6])])
def test_stages_end_with_the_training(epochs, ends):
    assert wgan.ends_of_stages(epochs) == ends


def test_unevenness_is_a_total_variation():
    assert wgan.unevenness(np.repeat(modes.GRID, 8, axis=0)) == pytest.approx(
        0, abs=1e-9
    )
    assert wgan.unevenness(modes.GRID[:16]) == pytest.approx(9 / 25)
    assert wgan.unevenness(modes.GRID[:1]) == pytest.approx(24 / 25)
