"""DQN against hand-worked targets, brute force and a trivial environment."""

from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import UsageError, environments
from deep_learning_recipes.run import Run
from deep_learning_recipes.run.loop import Loop
from recipes import dqn


class Corridor(gym.Env):
    """Five places in a row; the way to the right pays 1 at its end, where the episode
    is over."""

    observation_space = gym.spaces.Box(0, 1, (5,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.eye(5, dtype="float32")[0], {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        arrived = self.place == 4
        observation = np.eye(5, dtype="float32")[self.place]
        return observation, float(arrived), arrived, False, {}


def corridors(count):
    # Its time limit is far from what the right way takes: 4 steps.
    makers = [lambda: gym.wrappers.TimeLimit(Corridor(), 12)] * count
    return gym.vector.SyncVectorEnv(makers)


def small(**changes):
    config = dqn.Config(environments=4, steps=400, batch_size=8, replay_size=400)
    return replace(config, **changes)


@pytest.fixture
def eagerly():
    """Compiling takes longer than a few updates do."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def play(agent, blocks):
    for _ in range(blocks * agent.rows):
        agent.step(share_of_random=1.0)


def test_td_targets_as_worked_by_hand():
    returns, discounts = tf.constant([1.0, 1.0, 2.0]), tf.constant([0.9, 0.0, 0.5])
    target = tf.constant([[1.0, 3.0], [5.0, 7.0], [4.0, 2.0]])
    online = tf.constant([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    # 1 + 0.9·3; a terminal state is worth nothing; 2 + 0.5·4
    found = dqn.td_targets(returns, discounts, target, target)
    np.testing.assert_allclose(found, [3.7, 1, 4])
    # Double: online chooses action 0, then 1, 1; the target network judges them.
    found = dqn.td_targets(returns, discounts, target, online)
    np.testing.assert_allclose(found, [1.9, 1, 3])


def step(state, reward, following, *, terminated=False, truncated=False):
    """A step in a single environment, whose states are numbers."""
    return dqn.Step(
        states=np.array([[state]], "float32"),
        actions=np.array([0]),
        rewards=np.array([reward]),
        following=np.array([[following]], "float32"),
        terminated=np.array([terminated]),
        ended=np.array([terminated or truncated]),
        real=np.array([True]),
    )


def test_the_end_of_time_is_no_terminal_state():
    """What follows an end is a reset, whose reward and state must not count."""
    after = step(9, 100.0, 10)
    terminal = [step(1, 2.0, 2), step(2, 3.0, 3, terminated=True), after]
    time_up = [step(1, 2.0, 2), step(2, 3.0, 3, truncated=True), after]
    going_on = [step(1, 2.0, 2), step(2, 3.0, 3), step(3, 4.0, 4)]
    for window, expected in (
        (terminal, (2 + 0.5 * 3, 0, 3)),
        (time_up, (2 + 0.5 * 3, 0.5**2, 3)),
        (going_on, (2 + 0.5 * 3 + 0.5**2 * 4, 0.5**3, 4)),
    ):
        found = [np.ravel(part).item() for part in dqn.look_ahead(window, gamma=0.5)]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_n_step_returns_by_brute_force_over_whole_episodes(n_steps):
    """Episodes are followed one by one here; the agent sees them side by side."""
    random = np.random.default_rng(0)
    agent = dqn.Agent(small(n_steps=n_steps, gamma=0.9), corridors(3), seed=0)
    agent.replay = dqn.Replay(1000, 1)
    expected, episodes = {}, [[] for _ in range(3)]
    marks = np.arange(3.0)  # each observation is a number of its own
    is_reset = np.zeros(3, bool)
    for row in range(100):
        rewards = np.where(is_reset, 100, random.normal(size=3)).astype("float32")
        terminated = ~is_reset & (random.random(3) < 0.15)
        truncated = ~is_reset & ~terminated & (random.random(3) < 0.15)
        following = 3.0 * (row + 1) + np.arange(3)
        agent.remember(
            dqn.Step(
                states=marks[:, None].astype("float32"),
                actions=np.zeros(3, int),
                rewards=rewards,
                following=following[:, None].astype("float32"),
                terminated=terminated,
                ended=terminated | truncated,
                real=~is_reset,
            )
        )
        for i in np.flatnonzero(~is_reset):
            episodes[i].append((marks[i], rewards[i], following[i], terminated[i]))
            if terminated[i] or truncated[i]:
                expected |= by_hand(episodes[i], n_steps, 0.9, ended=True)
                episodes[i] = []
        marks, is_reset = following, terminated | truncated
    for episode in episodes:
        expected |= by_hand(episode, n_steps, 0.9, ended=False)

    replay, count = agent.replay, int(agent.replay.count)
    # All transitions but those that still wait for their rewards, and no others.
    waiting = 3.0 * (100 - n_steps + 1)
    remembered = replay.states[:count, 0]
    assert len(set(remembered)) == count
    assert set(remembered) == {mark for mark in expected if mark < waiting}
    for i, mark in enumerate(remembered):
        total, discount, state = expected[mark]
        assert replay.returns[i] == pytest.approx(total, abs=1e-5)
        assert replay.discounts[i] == pytest.approx(discount)
        assert replay.following[i, 0] == state


def by_hand(episode, n_steps, gamma, ended):
    """{first observation: (return, discount, state after)} of an episode's
    transitions."""
    found = {}
    for start, (mark, *_) in enumerate(episode):
        part = episode[start : start + n_steps]
        if len(part) < n_steps and not ended:
            continue
        total = sum(gamma**k * reward for k, (_, reward, _, _) in enumerate(part))
        *_, after, terminated = part[-1]
        found[mark] = (total, 0.0 if terminated else gamma ** len(part), after)
    return found


def test_what_is_remembered_is_how_the_corridor_works():
    agent = dqn.Agent(small(n_steps=1), corridors(4), seed=0)
    play(agent, blocks=20)
    replay, count = agent.replay, min(int(agent.replay.count), 400)
    starts = replay.states[:count].argmax(-1)
    after = replay.following[:count].argmax(-1)
    walked = np.where(replay.actions[:count] == 1, 1, np.where(starts == 0, 0, -1))
    # The step that resets would jump back to the start.
    np.testing.assert_array_equal(after - starts, walked)
    arrived = after == 4
    assert arrived.any()
    np.testing.assert_array_equal(replay.returns[:count], arrived)
    # Time was up many times: that is no end.
    expected = np.where(arrived, 0, agent.config.gamma)
    np.testing.assert_allclose(replay.discounts[:count], expected)


def numbered(first, count):
    numbers = np.arange(first, first + count)
    return numbers[:, None], numbers, numbers, numbers, numbers[:, None]


def test_new_transitions_overwrite_the_oldest():
    replay = dqn.Replay(size=5, observation_size=1)
    replay.add(*numbered(0, 4))
    replay.add(*numbered(4, 4))
    assert sorted(replay.actions) == [3, 4, 5, 6, 7]
    for part in (replay.states[:, 0], replay.returns, replay.following[:, 0]):
        np.testing.assert_array_equal(part, replay.actions)


def test_all_transitions_are_drawn_alike_and_in_one_piece():
    replay = dqn.Replay(size=10, observation_size=1)
    replay.add(*numbered(3, 4))  # the other six places are empty
    drawn = replay.sample((2, 20_000), np.random.default_rng(0))
    states, actions, returns, discounts, following = drawn
    found, counts = np.unique(actions, return_counts=True)
    assert found.tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(counts / 40_000, 1 / 4, atol=0.01)
    for part in (states[..., 0], returns, discounts, following[..., 0]):
        np.testing.assert_array_equal(part, actions)


def test_without_replay_only_the_newest_block_is_left():
    agent = dqn.Agent(small(replay_size=1), corridors(4), seed=0)
    assert len(agent.replay.actions) == agent.rows * 4


def test_dueling_advantages_have_no_mean():
    network = dqn.build_q_network(4, 3, dueling=True)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    state_value = keras.Model(network.input, network.get_layer("state_value").output)(x)
    values = np.asarray(network(x))
    expected = np.asarray(state_value)[:, 0]
    np.testing.assert_allclose(values.mean(-1), expected, atol=1e-6)
    assert values.std(axis=-1).min() > 1e-4


def dense(x, layer, activation=lambda y: y):
    return activation(x @ np.asarray(layer.kernel) + np.asarray(layer.bias))


def forward(network, x):
    """A Q-network without dueling, in NumPy. Also what its hidden layers put out."""
    first, second, last = (layer for layer in network.layers if layer.weights)
    h1 = dense(x, first, lambda y: np.maximum(y, 0))
    h2 = dense(h1, second, lambda y: np.maximum(y, 0))
    return h1, h2, dense(h2, last)


@pytest.mark.parametrize("double", [False, True])
def test_an_update_follows_the_gradient_of_the_squared_error_worked_in_numpy(double):
    """SGD in Adam's place: a step is then the gradient, here by the chain rule."""
    random = np.random.default_rng(0)
    learner = dqn.Learner(small(double=double, dueling=False, target_every=9), 4, 3)
    keras.utils.set_random_seed(1)
    learner.target = dqn.build_q_network(4, 3, dueling=False)  # differs from the other
    learner.optimizer = keras.optimizers.SGD(0.1)
    learner.optimizer.build(learner.network.trainable_variables)
    states, following = random.normal(size=(2, 8, 4)).astype("float32")
    actions = random.integers(3, size=8).astype("int32")
    returns = random.normal(size=8).astype("float32")
    discounts = random.choice([0, 0.9], size=8).astype("float32")

    h1, h2, values = forward(learner.network, states)
    next_values = forward(learner.target, following)[-1]
    chooser = forward(learner.network, following)[-1] if double else next_values
    rows = np.arange(8)
    targets = returns + discounts * next_values[rows, chooser.argmax(-1)]
    errors = targets - values[rows, actions]
    d_values = np.zeros_like(values)
    d_values[rows, actions] = -2 * errors / 8  # no gradient through the targets
    _, k2, k3 = (np.asarray(w) for w in learner.network.trainable_variables[::2])
    d_h2 = (d_values @ k3.T) * (h2 > 0)
    d_h1 = (d_h2 @ k2.T) * (h1 > 0)
    gradients = []
    for x, d in ((states, d_h1), (h1, d_h2), (h2, d_values)):
        gradients += [x.T @ d, d.sum(axis=0)]
    before = [np.array(w) for w in learner.network.trainable_variables]

    found = learner.update(states, actions, returns, discounts, following)
    np.testing.assert_allclose(found, np.abs(errors), atol=1e-5)
    after = learner.network.trainable_variables
    for old, gradient, new in zip(before, gradients, after, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-5)


def test_many_updates_are_one_after_the_other_and_the_target_is_copied_on_time():
    config = small(target_every=2)
    compiled, single = (dqn.Learner(config, 5, 2) for _ in range(2))
    single.network.set_weights(compiled.network.get_weights())
    single.target.set_weights(compiled.target.get_weights())
    agent = dqn.Agent(config, corridors(4), seed=0)
    play(agent, blocks=2)
    batches = agent.replay.sample((3, 8), agent.random)

    expected, of_the_second = [], None
    for i in range(3):
        errors = single.update(*(tf.constant(part[i]) for part in batches))
        expected.append(errors)
        if i == 1:
            of_the_second = single.network.get_weights()
    errors = compiled.update_many(batches)

    np.testing.assert_allclose(errors, expected, atol=1e-5)
    of_the_third = single.network.get_weights()
    for network, weights in (
        (compiled.network, of_the_third),
        (compiled.target, of_the_second),
    ):
        for found, wanted in zip(network.get_weights(), weights, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    pairs = zip(of_the_second, of_the_third, strict=True)
    assert any((second != third).any() for second, third in pairs)


def test_it_solves_the_corridor_and_knows_what_each_place_is_worth():
    config = small(
        steps=2_000,
        environments=8,
        n_steps=2,
        learning_rate=3e-3,
        replay_size=2_000,
        target_every=10,
        steps_per_update=4,
        batch_size=32,
    )
    keras.utils.set_random_seed(0)
    agent = dqn.Agent(config, corridors(8), seed=0)
    for block in range(config.steps // agent.steps_of_a_block):
        share = dqn.epsilon(block * agent.steps_of_a_block, config.steps)
        for _ in range(agent.rows):
            agent.step(share)
        agent.learn()
    values = np.asarray(agent.learner.network(np.eye(5, dtype="float32")[:4]))
    np.testing.assert_array_equal(values.argmax(-1), 1)
    # The reward is 3, 2, 1 and 0 steps ahead, and never cut by the time limit.
    np.testing.assert_allclose(values[:, 1], 0.99 ** np.array([3, 2, 1, 0]), atol=0.05)
    assert environments.evaluate(agent.act, corridors(5), seed=1).tolist() == [1.0] * 5


def test_a_resumed_run_has_all_that_was_learned_and_begins_new_episodes(
    tmp_path, eagerly
):
    config = small(n_steps=3)
    kept, resumed = (dqn.Agent(config, corridors(4), seed) for seed in (0, 1))
    for _ in Loop(tmp_path / "kept", 1, kept.state(), name="dqn"):
        play(kept, blocks=1)
        kept.learn()
    loop = Loop(tmp_path / "kept", 2, resumed.state(), name="dqn", resume=True)
    assert loop.done == 1
    for part in ("network", "target", "optimizer"):
        pairs = zip(
            getattr(resumed.learner, part).variables,
            getattr(kept.learner, part).variables,
            strict=True,
        )
        for found, expected in pairs:
            np.testing.assert_array_equal(np.array(found), np.array(expected))
    assert int(resumed.learner.optimizer.iterations) > 0
    assert int(resumed.replay.count) == int(kept.replay.count) > 0
    for name in ("states", "actions", "returns", "discounts", "following"):
        found, expected = getattr(resumed.replay, name), getattr(kept.replay, name)
        np.testing.assert_array_equal(found, expected)

    # From here on both draw the same numbers, and so the same updates.
    assert resumed.random.random() == kept.random.random()
    assert resumed.learn() == pytest.approx(kept.learn(), rel=1e-6)
    # No episode of before is joined to a new one: three steps come first.
    assert len(resumed.window) == 0


def test_epsilon_falls_to_a_twentieth_at_half_time():
    for step_number, share in ((0, 1), (250, 0.525), (500, 0.05), (900, 0.05)):
        assert dqn.epsilon(step_number, 1000) == pytest.approx(share)


@pytest.mark.parametrize("name", ["Pendulum-v1", "FrozenLake-v1"])
def test_other_environments_get_one_line(name, tmp_path):
    """Pendulum's actions are continuous, FrozenLake's observations are no vectors."""
    with pytest.raises(UsageError, match=f"--env {name}"):
        dqn.main(dqn.Config(env=name), Run("dqn", tmp_path))


def test_the_vector_cart_pole_moves_as_the_single_one():
    together, single = gym.make_vec("CartPole-v1", 2), gym.make("CartPole-v1").unwrapped
    together.reset(seed=0)
    single.reset(seed=0)
    single.state = together.state[:, 1].copy()
    for action in (0, 1, 1, 0, 1):
        found, *_ = together.step(np.array([0, action]))
        expected, *_ = single.step(action)
        np.testing.assert_allclose(found[1], expected, rtol=1e-5)
