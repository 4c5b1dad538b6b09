"""Generalized advantages by hand and by their sums; the update against an exact
gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_in_process
from walk import Walk

from recipes import actor_critic

GAMMA = 0.9


def make_agent(observations=1, **settings):
    keras.utils.set_random_seed(0)
    config = actor_critic.Config(gamma=GAMMA, **settings)
    agent = actor_critic.Agent(observations, 2, config.learning_rate, steps=100)
    return agent, config


def advantages(trace, terminated=False, over=False):
    """Of three steps that pay 1, 2, 3 with V = 10, 20, 30 and 40 after them; the second
    one ends or is cut short, if so asked."""
    column = lambda *values: np.array(values)[:, None]  # noqa: E731
    return actor_critic.generalized_advantages(
        column(1.0, 2, 3),
        column(10.0, 20, 30),
        column(20.0, 30, 40),
        column(False, terminated, False),
        column(False, over, False),
        0.5,
        trace,
    )[:, 0]


def test_lambda_0_is_the_error_of_one_step():
    # 1 + 20/2 − 10 = 1, 2 + 30/2 − 20 = −3, 3 + 40/2 − 30 = −7
    np.testing.assert_allclose(advantages(0.0), [1, -3, -7])


def test_lambda_1_is_the_return_less_the_value():
    # Returns 3 + 40/2 = 23, 2 + 23/2 = 13.5, 1 + 13.5/2 = 7.75
    np.testing.assert_allclose(advantages(1.0), [7.75 - 10, 13.5 - 20, 23 - 30])


def test_between_them_the_errors_are_summed_with_weights():
    # γλ = 1/4: −7, −3 − 7/4 = −4.75, 1 − 4.75/4 = −0.1875
    np.testing.assert_allclose(advantages(0.5), [-0.1875, -4.75, -7])


def test_an_end_is_worth_nothing_beyond_and_a_time_limit_is():
    # Neither lets the third step's error through; the end takes V = 30 away: 2 − 20 =
    # −18.
    np.testing.assert_allclose(advantages(0.5, over=True), [1 - 3 / 4, -3, -7])
    np.testing.assert_allclose(advantages(0.5, True, True), [1 - 18 / 4, -18, -7])


def played(whole, **settings):
    """What the agent is given to learn in one update, and the record of that update."""
    agent, config = make_agent(copies=2, epochs=2, batches=3, **settings)
    given = []
    agent.learn = lambda *arrays: given.append(arrays)
    record = np.zeros((1, 2))
    random = np.random.default_rng(0)
    train = actor_critic.train_by_returns if whole else actor_critic.train
    train(agent, Walk(), config, random, record, range(1))
    return agent, given[0], record[0]


def test_the_step_that_resets_is_left_out():
    _, (states, actions, _, returns, batches), record = played(
        False, horizon=8, trace=1.0
    )
    # The first copy: 3 steps, reset, 3 steps, reset; the second: 5, reset, 2.
    np.testing.assert_array_equal(
        states[:, 0].reshape(8, 2).T[0], [0, 1, 2, 3, 0, 1, 2, 3]
    )
    np.testing.assert_array_equal(
        states[:, 0].reshape(8, 2).T[1], [0, 1, 2, 3, 4, 5, 0, 1]
    )
    assert set(batches.ravel()) == set(range(16)) - {2 * 3, 2 * 7, 2 * 5 + 1}
    assert batches.shape == (6, 6)
    assert set(batches[:3].ravel()) == set(batches[3:].ravel())
    assert (batches[:3] != batches[3:]).any()  # each pass shuffles
    np.testing.assert_allclose(record, [13, np.mean([3, 5, 3])])
    assert len(actions) == 16


def test_returns_go_through_a_time_limit_and_not_through_an_end():
    scale = 0.5
    agent, (_, _, advantages, returns, _), _ = played(
        False, horizon=8, trace=1.0, reward_scale=scale
    )
    beyond = float(agent.critic(np.array([[5.0]]))[0, 0])
    ended = sum(scale * GAMMA**step for step in range(3))
    cut = sum(scale * GAMMA**step for step in range(5)) + GAMMA**5 * beyond
    np.testing.assert_allclose(returns[:2], [ended, cut], rtol=1e-5)
    start = float(agent.critic(np.array([[0.0]]))[0, 0])
    np.testing.assert_allclose(advantages[:2], [ended - start, cut - start], rtol=1e-4)
    # A step later the state is 1, which has a value of its own.
    value = float(agent.critic(np.array([[1.0]]))[0, 0])
    assert abs(value) > 1e-3
    np.testing.assert_allclose(returns[2], scale * (1 + GAMMA), rtol=1e-5)
    np.testing.assert_allclose(advantages[2], scale * (1 + GAMMA) - value, rtol=1e-4)


def test_reinforce_plays_one_episode_in_each_copy_and_asks_no_critic():
    _, (_, _, advantages, _, batches), record = played(
        True, horizon=9, trace=1.0, reward_scale=1.0
    )
    first, second = advantages.reshape(9, 2).T
    np.testing.assert_allclose(
        first[:3], [1 + GAMMA + GAMMA**2, 1 + GAMMA, 1], rtol=1e-6
    )
    np.testing.assert_allclose(second[4], 1)
    assert set(batches.ravel()) == {0, 2, 4, 1, 3, 5, 7, 9}
    np.testing.assert_allclose(record, [8, 4])


def test_actions_are_drawn_by_their_probabilities():
    agent, config = make_agent(copies=2, horizon=300)
    kernel, bias = agent.actor.weights[-2:]
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.log([0.9, 0.1]))
    given = []
    agent.learn = lambda *arrays: given.append(arrays)
    random = np.random.default_rng(0)
    actor_critic.train(agent, Walk(), config, random, np.zeros((1, 2)), range(1))
    assert given[0][1].mean() == pytest.approx(0.1, abs=0.04)


def test_entropy_is_sought(monkeypatch):
    monkeypatch.setattr(actor_critic, "ENTROPY", 1.0)
    agent, _ = make_agent(learning_rate=0.03)
    agent.actor.weights[-1].assign([2.0, 0.0])
    nothing, rows = np.zeros(2, "float32"), np.tile(np.arange(2), (100, 1))
    states = np.array([[0.0], [1.0]], "float32")
    before = np.array(agent.probabilities(states))[:, 0]
    agent.learn(states, np.array([0, 1]), nothing, nothing, rows)
    after = np.array(agent.probabilities(states))[:, 0]
    assert (np.abs(after - 0.5) < np.abs(before - 0.5) - 0.05).all()


def test_the_learning_rate_falls_to_zero():
    agent, _ = make_agent(learning_rate=0.01)
    agent.optimizer.iterations.assign(50)
    assert float(agent.optimizer.learning_rate) == pytest.approx(0.005)
    agent.optimizer.iterations.assign(100)
    assert float(agent.optimizer.learning_rate) == 0


def test_the_first_update_goes_along_the_gradient_of_the_advantage_actor_critic(
    monkeypatch,
):
    monkeypatch.setattr(actor_critic, "ENTROPY", 0.0)
    agent, _ = make_agent(observations=3)
    random = np.random.default_rng(1)
    states = random.normal(size=(6, 3)).astype("float32")
    actions = random.integers(2, size=6)
    advantages, returns = random.normal(size=(2, 6)).astype("float32")
    seen = []
    agent.optimizer.apply = lambda gradients, weights: seen.extend(gradients)
    tf.config.run_functions_eagerly(True)
    try:
        agent.learn(states, actions, advantages, returns, np.arange(6)[None])
    finally:
        tf.config.run_functions_eagerly(False)

    # E[A ∇log π] with A of mean 0 and deviation 1, and the critic's squared error, as
    # they stand.
    normal = (advantages - advantages.mean()) / advantages.std()
    with tf.GradientTape() as tape:
        chosen = tf.reduce_sum(
            tf.nn.softmax(agent.actor(states)) * np.eye(2)[actions], axis=1
        )
        loss = -tf.reduce_mean(normal * tf.math.log(chosen))
        loss += tf.reduce_mean((returns - agent.critic(states)[:, 0]) ** 2) / 2
    expected = tape.gradient(loss, agent.weights)
    for found, exact in zip(seen, expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize(("shift", "pulls"), [([0.0, 2.0], False), ([2.0, 0.0], True)])
def test_where_the_policy_has_moved_too_far_nothing_pulls_further(
    monkeypatch, shift, pulls
):
    monkeypatch.setattr(actor_critic, "ENTROPY", 0.0)
    agent, _ = make_agent()
    states = np.array([[0.0], [1.0]], "float32")
    # Action 1 was good in one state and action 0 bad in the other: both ask for more of
    # action 1.
    actions, advantages = np.array([1, 0]), np.array([1.0, -1], "float32")
    seen = []

    def apply(gradients, weights):
        seen.append(
            [np.abs(each).max() for each in gradients[: len(agent.actor.weights)]]
        )
        agent.actor.weights[-1].assign(shift)

    agent.optimizer.apply = apply
    tf.config.run_functions_eagerly(True)
    try:
        rows = np.tile(np.arange(2), (2, 1))
        agent.learn(states, actions, advantages, np.zeros(2, "float32"), rows)
    finally:
        tf.config.run_functions_eagerly(False)
    assert max(seen[0]) > 0
    assert (max(seen[1]) > 0) == pulls


def test_the_critic_learns_the_returns():
    agent, _ = make_agent(learning_rate=0.01)
    states = np.array([[0.0], [1.0]], "float32")
    returns = np.array([1.0, -1], "float32")
    rows = np.tile(np.arange(2), (300, 1))
    agent.learn(states, np.array([0, 1]), np.zeros(2, "float32"), returns, rows)
    np.testing.assert_allclose(np.squeeze(agent.critic(states)), returns, atol=0.3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--rivals", "sarsa"],
            "--rivals sarsa: choose among 'λ = 0', 'one pass', 'REINFORCE'",
        ),
        (["--env", "Taxi-v4"], "its observations are no vectors"),
        (["--env", "Pendulum-v1"], "--env Pendulum-v1: its actions are continuous"),
    ],
)
def test_bad_input_is_said_in_one_line(flags, said, tmp_path, capsys):
    assert run_in_process("actor_critic", tmp_path / "run", *flags).code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors
