"""The game by hand, the densities against SciPy, the dream against a loop over its
steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from recipes import world_model as wm

RANDOM = np.random.default_rng(0)
SIDE = wm.SIDE


@pytest.fixture(scope="module")
def dynamics():
    keras.utils.set_random_seed(0)
    model = wm.Dynamics(latent_size=3, units=5, actions=3)
    model.set_weights([0.5 * RANDOM.normal(size=w.shape) for w in model.get_weights()])
    return model


def calm(monkeypatch):
    monkeypatch.setattr(wm, "WIND", 0.0)


def test_a_ball_falls_bounces_and_is_caught(monkeypatch):
    calm(monkeypatch)
    state = np.array(
        [[0.5, 0, -1, 0], [14.5, SIDE - 3, 1, 13], [5, SIDE - 3, 0, 9], [5, 3, 0, 5]]
    )
    after, caught = wm.play(state, np.array([0, 1, 2, 1]), RANDOM)
    # By hand: 0.5 − 1 = −0.5 comes back to 0.5, 14.5 + 1 = 15.5 to 14.5; bats stay on
    # the board.
    np.testing.assert_allclose(after[0], [0.5, 1, 1, 0])
    np.testing.assert_allclose(after[1], [14.5, SIDE - 2, -1, 13])
    np.testing.assert_allclose(after[2], [5, SIDE - 2, 0, 10])
    assert caught.tolist() == [
        0,
        1,
        0,
        0,
    ]  # the last one is right below, but the ball is not down


def test_a_frame_shows_ball_and_bat_and_no_velocity():
    state = np.array([[5.0, 3, 1, 9], [5.0, 3, -1, 9]])
    first, second = wm.draw(state).reshape(2, SIDE, SIDE)
    np.testing.assert_array_equal(first, second)
    assert np.unravel_index(first[:-1].argmax(), (SIDE - 1, SIDE)) == (3, 5)
    assert np.flatnonzero(first[-1] > 0.4).tolist() == [7, 8, 9, 10, 11]
    assert first.max() == 1 and first.min() >= 0


def test_a_whole_game_lasts_until_the_ball_is_down():
    def at_rest(frames, memory):
        return np.ones(300, int), memory

    games = wm.play_games(at_rest, 2, 300, np.random.default_rng(0))
    assert games.frames.shape == (300, SIDE - 1, SIDE**2)
    assert games.actions.shape == (300, SIDE - 2)
    assert (games.catches[:, :-1] == 0).all()
    # Five columns of sixteen, a little less at the edges.
    assert games.caught == pytest.approx(0.28, abs=0.07)


def test_a_player_gets_back_what_it_remembers():
    seen = []

    def player(frames, memory):
        seen.append(memory[0, 0])
        return np.ones(2, int), memory + 1

    wm.play_games(player, 1, 2, np.random.default_rng(0))
    assert seen == list(range(SIDE - 2))


def test_a_random_player_keeps_an_action_for_three_steps():
    player = wm.RandomPlayer(500, np.random.default_rng(0))
    games = wm.play_games(player, 1, 500, np.random.default_rng(0))
    for start in range(0, SIDE - 2 - 3, 3):
        three = games.actions[:, start : start + 3]
        assert (three == three[:, :1]).all()
    assert set(games.actions.ravel()) == {0, 1, 2}


def test_steps_one_by_one_are_met_without_memory(dynamics):
    z = RANDOM.normal(size=(4, 6, 3)).astype("float32")
    actions = np.eye(3, dtype="float32")[RANDOM.integers(3, size=(4, 6))]
    alone, _ = wm.one_by_one((z, actions))
    assert alone.shape == (24, 1, 3)
    outputs = np.asarray(dynamics.network(list(wm.one_by_one((z, actions)))))
    first = np.asarray(dynamics.network([z[:, 2:3], actions[:, 2:3]]))
    np.testing.assert_allclose(outputs.reshape(4, 6, -1)[:, 2], first[:, 0], atol=1e-6)


def test_surprise_equals_scipy(dynamics):
    z, following = RANDOM.normal(size=(2, 4, 6, 3)).astype("float32")
    actions = np.eye(3, dtype="float32")[RANDOM.integers(3, size=(4, 6))]
    rewards = RANDOM.integers(2, size=(4, 6)).astype("float32")
    outputs = np.asarray(dynamics.network([z, actions]))
    deviation = np.exp(np.clip(outputs[..., 4:], -5, 2))
    expected = -stats.norm.logpdf(following, z + outputs[..., 1:4], deviation).sum(
        axis=-1
    )
    of_z, of_reward = dynamics.surprise(z, actions, following, rewards)
    np.testing.assert_allclose(of_z, expected, rtol=1e-4)
    probability = 1 / (1 + np.exp(-outputs[..., 0]))
    np.testing.assert_allclose(
        of_reward, -stats.bernoulli.logpmf(rewards, probability), rtol=1e-3, atol=1e-5
    )


def test_remembering_step_by_step_is_the_network_over_the_whole_game(dynamics):
    z = RANDOM.normal(size=(4, 6, 3)).astype("float32")
    actions = RANDOM.integers(3, size=(4, 6))
    whole = dynamics.network([z, np.eye(3, dtype="float32")[actions]])
    state = np.zeros((4, 5), "float32")
    for step in range(6):
        state = dynamics.remember(state, z[:, step], actions[:, step])
        np.testing.assert_allclose(dynamics.head(state), whole[:, step], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_dream_is_what_a_loop_over_its_steps_gives(dynamics, temperature):
    controllers = RANDOM.normal(size=(2, 8, 3)).astype("float32")
    first = RANDOM.normal(size=(4, 3)).astype("float32")
    noise = RANDOM.normal(size=(5, 4, 3)).astype("float32")
    caught, seen = dynamics.dream(
        *map(tf.constant, (controllers, first, noise, np.float32(temperature)))
    )
    assert caught.shape == (2, 4) and seen.shape == (5, 8, 3)
    for tried, controller in enumerate(controllers):
        for game, z in enumerate(first):
            state, total = np.zeros(5), 0.0
            for step in range(5):
                action = np.argmax(np.concatenate([z, state]) @ controller)
                state = np.asarray(dynamics.remember(state[None], z[None], [action]))[0]
                outputs = np.asarray(dynamics.head(state[None]))[0]
                deviation = np.exp(np.clip(outputs[4:], -5, 2)) * np.sqrt(temperature)
                z = z + outputs[1:4] + deviation * noise[step, game]
                total += 1 / (1 + np.exp(-outputs[0]))
                np.testing.assert_allclose(seen[step, 4 * tried + game], z, atol=1e-3)
            assert float(caught[tried, game]) == pytest.approx(total, abs=1e-3)


def test_a_player_does_in_the_game_what_its_controller_does_in_a_dream(dynamics):
    controller = RANDOM.normal(size=(8, 3)).astype("float32")
    vae = wm.VAE(SIDE**2, 3)
    player = wm.build_player(vae.encoder, dynamics, controller)
    frames = RANDOM.random((6, SIDE**2)).astype("float32")
    memory = RANDOM.normal(size=(6, 5)).astype("float32")
    answer = player({"frame": frames, "memory": memory})
    z = np.asarray(vae.encoder(frames)[0])
    expected = (np.hstack([z, memory]) @ controller).argmax(axis=1)
    np.testing.assert_array_equal(answer["action"], expected)
    after = dynamics.remember(memory, z, expected)
    np.testing.assert_allclose(answer["next_memory"], after, atol=1e-5)


def test_the_terms_of_the_autoencoder_are_the_bound_of_a_gaussian():
    keras.utils.set_random_seed(0)
    vae = wm.VAE(12, 2)
    # Far enough from zero for the deviations to differ and the decoder to see what is
    # drawn.
    for network in (vae.encoder, vae.decoder):
        network.set_weights(
            [0.3 * RANDOM.normal(size=w.shape) for w in network.get_weights()]
        )
    vae.encoder.weights[-1].assign(vae.encoder.get_weights()[-1] + 1)  # of log σ²
    frames = RANDOM.random((5, 12)).astype("float32")
    mean, log_variance = map(np.asarray, vae.encoder(frames))
    drawn = np.asarray(keras.random.normal((20_000, 5, 2)))
    deviation = np.exp(log_variance / 2)
    z = mean + deviation * drawn
    ratio = stats.norm.logpdf(z, mean, deviation) - stats.norm.logpdf(z)
    found = vae.terms(np.tile(frames, (4000, 1)))
    assert float(found["kl"]) == pytest.approx(ratio.sum(axis=-1).mean(), rel=0.02)
    logits = np.asarray(vae.decoder(z.reshape(-1, 2))).reshape(20_000, 5, 12)
    log_density = stats.norm.logpdf(frames, 1 / (1 + np.exp(-logits)), 0.1)
    constant = 12 * stats.norm.logpdf(0, 0, 0.1)
    expected = constant - log_density.sum(axis=-1).mean()
    assert float(found["errors"]) == pytest.approx(expected, rel=0.02)


def test_a_step_of_evolution_by_hand():
    weights, velocity = np.array([7.0]), np.array([0.6])
    wm.climb(
        weights, velocity, np.array([[1.0], [2.0], [4.0]]), np.array([5.0, 1.0, 3.0])
    )
    # Ranks 1, 0 and 1/2, less 1/2: (1/2 · 1 − 1/2 · 2 + 0 · 4) / 3
    assert velocity == pytest.approx(wm.MOMENTUM * 0.6 - 1 / 6)
    assert weights == pytest.approx(7 + velocity)


def test_deviations_are_kept_within_bounds(dynamics):
    outputs = np.array([[0.3, 1, 2, 3, -9, 0.5, 9]], "float32")
    mean, log_sigma, logit = dynamics.outlook(np.full((1, 3), 10.0, "float32"), outputs)
    np.testing.assert_allclose(mean, [[11, 12, 13]])
    np.testing.assert_allclose(log_sigma, [[-5, 0.5, 2]])
    np.testing.assert_allclose(logit, [0.3])


def test_evolution_climbs():
    random, best = np.random.default_rng(0), np.array([1.0, -2, 0.5])
    weights, velocity = np.zeros((2, 3))
    for _ in range(60):
        noise = 0.3 * random.normal(size=(32, 3))
        noise = np.concatenate([noise, -noise])
        wm.climb(
            weights, velocity, noise, -np.sum((weights + noise - best) ** 2, axis=1)
        )
    np.testing.assert_allclose(weights, best, atol=0.15)


def test_all_weights_learn():
    keras.utils.set_random_seed(0)
    model = wm.Dynamics(latent_size=3, units=5, actions=3)
    model.compile("adam")
    z = RANDOM.normal(size=(8, 4, 3)).astype("float32")
    actions = np.eye(3, dtype="float32")[RANDOM.integers(3, size=(8, 4))]
    before = [np.array(weight) for weight in model.trainable_variables]
    for _ in range(2):
        model.train_step(((z, actions, z + 1, np.ones((8, 4), "float32")),))
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert np.abs(np.array(weight) - old).max() > 0, weight.path
