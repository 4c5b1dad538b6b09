"""DQN against hand-worked targets, brute force and a trivial environment."""

import copy
from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import environments
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
        return (
            np.eye(5, dtype="float32")[self.place],
            float(arrived),
            arrived,
            False,
            {},
        )


def corridors(count):
    # Its time limit is far from what the right way takes: 4 steps.
    makers = [lambda: gym.wrappers.TimeLimit(Corridor(), 12)] * count
    return gym.vector.SyncVectorEnv(makers)


def small(**changes):
    return replace(
        dqn.Config(environments=4, steps=400, batch_size=8, replay_size=400), **changes
    )


def test_td_targets_as_worked_by_hand():
    returns, discounts = tf.constant([1.0, 1.0, 2.0]), tf.constant([0.9, 0.0, 0.5])
    target = tf.constant([[1.0, 3.0], [5.0, 7.0], [4.0, 2.0]])
    online = tf.constant([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    # 1 + 0.9·3; a terminal state is worth nothing; 2 + 0.5·4
    np.testing.assert_allclose(
        dqn.td_targets(returns, discounts, target, target), [3.7, 1, 4]
    )
    # Double: online chooses action 0, then 1, 1; the target network judges them.
    np.testing.assert_allclose(
        dqn.td_targets(returns, discounts, target, online), [1.9, 1, 3]
    )


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_n_step_returns_by_brute_force_over_whole_episodes(n_steps):
    """Episodes are followed one by one here; the replay holds them side by side in a
    ring."""
    config = small(n_steps=n_steps, environments=3, replay_size=120, gamma=0.9)
    random = np.random.default_rng(0)
    replay = dqn.Replay(config, 10, (1,), "float32", random)
    expected, episodes, block = {}, [[] for _ in range(3)], []
    sizes = iter([1, 9, 4, 6] * 5)  # of blocks: 100 rows in all
    size = next(sizes)
    marks = np.arange(3.0)  # each observation is a number of its own
    is_reset = np.zeros(3, bool)
    for row in range(100):  # more than twice around the ring
        rewards = np.where(is_reset, 0, random.normal(size=3)).astype("float32")
        terminated = ~is_reset & (random.random(3) < 0.15)
        truncated = ~is_reset & ~terminated & (random.random(3) < 0.15)
        block.append(
            (marks[:, None], np.zeros(3), rewards, terminated, terminated | truncated)
        )
        if len(block) == size:
            replay.add(*map(np.array, zip(*block, strict=True)))
            block, size = [], next(sizes, None)
        following = 3.0 * (row + 1) + np.arange(3)
        for i in np.flatnonzero(~is_reset):
            episodes[i].append((marks[i], rewards[i], following[i], terminated[i]))
            if terminated[i] or truncated[i]:
                expected |= by_hand(episodes[i], n_steps, 0.9, ended=True)
                episodes[i] = []
        marks, is_reset = following, terminated | truncated
    for episode in episodes:
        expected |= by_hand(episode, n_steps, 0.9, ended=False)

    drawn = np.nonzero(replay.priorities)
    returns, discounts, places = (
        replay.returns[drawn],
        replay.discounts[drawn],
        replay.after[drawn],
    )
    first_marks, after = (
        replay.observations[drawn][:, 0],
        replay.observations.ravel()[places],
    )
    # All transitions of the newest rows but those that still wait, and no others.
    newest = 3.0 * (100 - len(replay.actions))
    waiting = 3.0 * (100 - n_steps)
    assert set(first_marks) == {mark for mark in expected if newest <= mark < waiting}
    for mark, *found in zip(first_marks, returns, discounts, after, strict=True):
        total, discount, state = expected[mark]
        assert found[0] == pytest.approx(total, abs=1e-5)
        assert found[1] == pytest.approx(discount)
        if discount:
            assert found[2] == state


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


def test_the_step_that_resets_is_no_transition():
    environments_, config = corridors(4), small(n_steps=1)
    agent = dqn.Agent(config, environments_, seed=0)
    for _ in range(8):
        agent.collect()
    replay = agent.replay
    rows = int(replay.count) - 1  # the last one waits
    starts = np.argmax(replay.observations[:rows], -1)
    moves = np.argmax(replay.observations[1 : rows + 1], -1) - starts
    drawn = replay.priorities[:rows] > 0
    walked = np.where(replay.actions[:rows] == 1, 1, np.where(starts == 0, 0, -1))
    np.testing.assert_array_equal(moves[drawn], walked[drawn])
    # Left out is what follows an end, and nothing else; both kinds of ends occur.
    np.testing.assert_array_equal(~drawn[1:], replay.ended[: rows - 1])
    ends = replay.ended[:rows]
    assert (
        replay.terminated[:rows][ends].any()
        and not replay.terminated[:rows][ends].all()
    )
    # What a time limit cut short still has a future; what arrived has none.
    at = np.nonzero(ends & drawn)
    arrived, after = (
        replay.terminated[at],
        replay.observations.reshape(-1, 5)[replay.after[at]],
    )
    np.testing.assert_allclose(replay.discounts[at], np.where(arrived, 0, config.gamma))
    np.testing.assert_array_equal(np.argmax(after, -1) == 4, arrived)


def test_prioritised_draws_and_weights():
    random = np.random.default_rng(0)
    replay = dqn.Replay(small(n_steps=1, prioritized=True), 10, (1,), "float32", random)
    replay.priorities[0, :3] = 1, 2, 5
    places, (*_, weights) = replay.sample((1, 80_000), beta=0.5)
    shares = np.bincount(places[0], minlength=3) / 80_000
    np.testing.assert_allclose(shares[:3], [1 / 8, 2 / 8, 5 / 8], atol=0.01)
    assert set(places[0]) == {0, 1, 2}
    # (N·P)^-β over its largest: P = 1/8, 2/8, 5/8.
    for place, weight in ((0, 1.0), (1, 2**-0.5), (2, 5**-0.5)):
        np.testing.assert_allclose(weights[places == place], weight, rtol=1e-6)


def test_without_priorities_all_transitions_are_drawn_alike():
    replay = dqn.Replay(small(), 10, (1,), "float32", np.random.default_rng(0))
    replay.priorities[2, 1:3] = replay.priorities[5, 0] = 1
    replay.actions[2, 1:3], replay.actions[5, 0] = (1, 2), 3
    replay.after[2, 1:3], replay.after[5, 0] = (4, 5), 6
    replay.observations[1, :3, 0] = 10, 20, 30  # at the places 4, 5, 6
    places, (_, actions, _, _, following, weights) = replay.sample((2, 30_000))
    found, counts = np.unique(places, return_counts=True)
    assert found.tolist() == [2 * 4 + 1, 2 * 4 + 2, 5 * 4]
    np.testing.assert_allclose(counts / 60_000, 1 / 3, atol=0.01)
    np.testing.assert_array_equal(following[..., 0], 10 * actions)
    np.testing.assert_array_equal(weights, 1)


def test_only_prioritised_replay_changes_what_is_drawn():
    for prioritized in (False, True):
        agent = dqn.Agent(small(prioritized=prioritized), corridors(4), seed=0)
        agent.collect()
        agent.learn(0)
        kinds = np.unique(agent.replay.priorities[agent.replay.priorities > 0])
        assert (len(kinds) > 1) == prioritized


def test_dueling_advantages_have_no_mean():
    network = dqn.build_q_network((4,), 3, dueling=True)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    state_value = keras.Model(network.input, network.get_layer("state_value").output)(x)
    values = np.asarray(network(x))
    np.testing.assert_allclose(
        values.mean(-1), np.asarray(state_value)[:, 0], atol=1e-6
    )
    assert values.std(axis=-1).min() > 1e-4


def test_the_network_for_frames_is_that_of_the_paper():
    # 8,224 + 32,832 + 36,928 of the convolutions, 1,606,144 and 3,078 of the dense
    # layers
    network = dqn.build_q_network((4, 84, 84), 6)
    assert network.count_params() == 1_687_206
    assert network.output_shape == (None, 6)


def test_an_update_is_a_gradient_step_on_the_squared_error_and_the_target_is_copied_on_time():
    config = small(n_steps=1, target_every=2, double=False, dueling=False)
    agent = dqn.Agent(config, corridors(4), seed=0)
    agent.collect()
    _, batches = agent.replay.sample((3, 8))
    network = keras.models.clone_model(agent.network)
    network.set_weights(agent.network.get_weights())
    target = [np.array(v) for v in agent.target.get_weights()]
    optimizer = keras.optimizers.Adam.from_config(agent.optimizer.get_config())
    old = keras.models.clone_model(network)
    for index in range(3):
        observations, actions, returns, discounts, following, _ = (
            each[index] for each in batches
        )
        old.set_weights(target)
        goal = returns + discounts * np.asarray(old(following)).max(-1)
        with tf.GradientTape() as tape:
            chosen = tf.reduce_sum(network(observations) * tf.one_hot(actions, 2), -1)
            loss = keras.losses.MeanSquaredError()(goal[:, None], chosen[:, None])
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        if index == 1:
            target = network.get_weights()
    agent.train(*batches)
    for found, expected in zip(
        agent.network.get_weights(), network.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(agent.target.get_weights(), target, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_solves_the_corridor_and_knows_what_each_place_is_worth():
    config = small(
        steps=6_000,
        environments=8,
        n_steps=2,
        learning_rate=3e-3,
        replay_size=2_000,
        target_every=20,
    )
    keras.utils.set_random_seed(0)
    agent = dqn.Agent(config, corridors(8), seed=0)
    for block in range(agent.blocks):
        agent.collect()
        agent.learn(block)
    values = np.asarray(agent.network(np.eye(5, dtype="float32")[:4]))
    np.testing.assert_array_equal(values.argmax(-1), 1)
    # The reward is 3, 2, 1 and 0 steps ahead, and never cut by the time limit.
    np.testing.assert_allclose(values[:, 1], 0.99 ** np.array([3, 2, 1, 0]), atol=0.05)
    assert environments.evaluate(agent.act, corridors(5), seed=1).tolist() == [1.0] * 5


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    """The environments' inner state, which a checkpoint cannot hold, is carried over by
    hand."""
    config = small(env="CartPole-v1", steps=480, prioritized=True)

    def begin(seed):
        keras.utils.set_random_seed(seed)
        return dqn.Agent(
            config, environments.make_vec(config.env, config.environments), seed
        )

    def go_on(agent, file, blocks, resume=False):
        loop = Loop(tmp_path / file, blocks, agent.state, name="dqn", resume=resume)
        assert loop.done == (6 if resume else 0)
        return loop

    def train(agent, blocks):
        for block in blocks:
            agent.collect()
            agent.learn(block)

    whole = begin(0)
    train(whole, go_on(whole, "half", 6))
    names = ("envs", "returns", "observations", "started")
    inner = {name: copy.deepcopy(getattr(whole, name)) for name in names}
    in_a_row = whole.replay.in_a_row
    train(whole, range(6, whole.blocks))

    resumed = begin(99)
    loop = go_on(resumed, "half", resumed.blocks, resume=True)
    assert (
        resumed.observations is None
    )  # without what is carried over by hand it begins anew
    vars(resumed).update(inner)
    resumed.replay.in_a_row = in_a_row
    train(resumed, loop)
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 48
    for found, expected in zip(
        resumed.network.weights, whole.network.weights, strict=True
    ):
        np.testing.assert_array_equal(np.array(found), np.array(expected))
    np.testing.assert_array_equal(resumed.history, whole.history)
    assert whole.history.all(axis=0).any()


def test_a_resumed_run_joins_no_episode_of_before_to_a_new_one(tmp_path):
    config = small(n_steps=3, steps=800)
    agents = [dqn.Agent(config, corridors(4), seed) for seed in (0, 1)]
    agents[0].collect()
    for _ in Loop(tmp_path / "kept", 1, agents[0].state, name="dqn"):
        pass
    Loop(tmp_path / "kept", 20, agents[1].state, name="dqn", resume=True)
    agents[1].collect()
    first_new_row = 10
    waiting = agents[1].replay.priorities[first_new_row - 3 : first_new_row]
    np.testing.assert_array_equal(waiting, 0)
    assert (agents[1].replay.priorities[: first_new_row - 3] > 0).any()
    assert (agents[1].replay.priorities[first_new_row : first_new_row + 7] > 0).any()


def test_epsilon_falls_to_a_twentieth_at_half_time():
    agent = dqn.Agent(small(steps=4_000), corridors(4), seed=0)
    assert agent.blocks == 100
    for row, share in ((0, 1), (250, 0.525), (500, 0.05), (900, 0.05)):
        agent.replay.count[...] = row
        assert agent.progress()["ε"] == pytest.approx(share)


def test_the_vector_cart_pole_moves_as_the_single_one():
    together, single = gym.make_vec("CartPole-v1", 2), gym.make("CartPole-v1").unwrapped
    together.reset(seed=0)
    single.reset(seed=0)
    single.state = together.state[:, 1].copy()
    for action in (0, 1, 1, 0, 1):
        found, *_ = together.step(np.array([0, action]))
        expected, *_ = single.step(action)
        np.testing.assert_allclose(found[1], expected, rtol=1e-5)
