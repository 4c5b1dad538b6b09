"""REINFORCE against enumeration: all trajectories of a small process, by their
probability."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from walk import Walk

from recipes import reinforce

GAMMA = 0.8
STEPS = 3


def make_agent(baseline, observations=1, actions=2):
    keras.utils.set_random_seed(0)
    config = reinforce.Config(gamma=GAMMA, units=3)
    agent = reinforce.Agent(observations, actions, config, baseline)
    random = np.random.default_rng(0)
    for network in (agent.policy, agent.value):
        network.set_weights(
            [random.normal(size=w.shape) for w in network.get_weights()]
        )
    agent.average.assign(1.5)
    return agent


def test_returns_are_discounted_sums():
    rewards = np.array([[1.0, 5], [2, 0], [3, 0]])
    alive = np.array([[True, True], [True, False], [True, False]])
    found = reinforce.returns_to_go(rewards, alive, 0.5, np.array([8.0, 4.0]))
    # By hand: 3 + 8/2 = 7, 2 + 7/2 = 5.5, 1 + 5.5/2 = 3.75; and 5 + 4/2 = 7 where one
    # step was.
    np.testing.assert_allclose(found, [[3.75, 7], [5.5, 0], [7, 0]])


def test_an_end_is_worth_nothing_beyond_and_a_time_limit_is():
    agent = make_agent("learned")
    episodes = agent.play(Walk(), seed=0, random=np.random.default_rng(0))
    assert episodes.alive.sum(axis=0).tolist() == [3, 5]
    assert episodes.rewards.sum(axis=0).tolist() == [3, 5]
    assert episodes.mean_return == 4
    beyond = float(agent.value(np.array([[5.0]]))[0, 0])
    ended = sum(GAMMA**step for step in range(3))
    cut = sum(GAMMA**step for step in range(5)) + GAMMA**5 * beyond
    np.testing.assert_allclose(episodes.returns[0], [ended, cut], rtol=1e-5)
    without = make_agent("none").play(Walk(), seed=0, random=np.random.default_rng(0))
    unseen = sum(GAMMA**step for step in range(5))
    np.testing.assert_allclose(without.returns[0], [ended, unseen], rtol=1e-5)


def trajectories():
    """All of the process with two states: action 1 leads to the other one, state 1 pays
    2 and action 0 pays 1; STEPS steps from state 0. Observations are one-hot."""
    for actions in itertools.product((0, 1), repeat=STEPS):
        state, states, rewards = 0, [], []
        for action in actions:
            states.append(state)
            rewards.append(2.0 * state + (action == 0))
            state ^= action
        yield np.eye(2, dtype="float32")[states], np.array(actions), np.array(rewards)


def value_of_the_policy(agent):
    """J(θ) = Σ p(τ) Σ γᵗ rₜ, in TensorFlow, to be differentiated as it stands."""
    total = 0.0
    for states, actions, rewards in trajectories():
        probabilities = tf.gather(
            tf.nn.softmax(agent.policy(states)), actions, batch_dims=1
        )
        total += tf.reduce_prod(probabilities) * np.sum(
            rewards * GAMMA ** np.arange(STEPS)
        )
    return total


@pytest.mark.parametrize("baseline", reinforce.BASELINES)
def test_the_estimator_is_right_on_average_under_each_baseline(baseline):
    agent = make_agent(baseline, observations=2)
    with tf.GradientTape() as tape:
        value = value_of_the_policy(agent)
    gradients = tape.gradient(value, agent.policy.trainable_variables)
    exact = np.concatenate([np.ravel(gradient) for gradient in gradients])

    mean = np.zeros_like(exact)
    for states, actions, rewards in trajectories():
        chosen = np.array(tf.nn.softmax(agent.policy(states)))[
            np.arange(STEPS), actions
        ]
        # The estimator leaves out γᵗ in front of step t, as is usual: put it back
        # through returns and baselines of one step at a time.
        alive = np.ones((STEPS, 1), bool)
        returns = reinforce.returns_to_go(rewards[:, None], alive, GAMMA, np.zeros(1))[
            :, 0
        ]
        for step in range(STEPS):
            one = slice(step, step + 1)
            estimate = agent.gradient(states[one], actions[one], returns[one], baseline)
            mean += chosen.prod() * GAMMA**step * np.array(estimate)
    np.testing.assert_allclose(mean, exact, atol=1e-5)


def test_learning_goes_up_the_gradient_and_fits_the_baseline():
    agent = make_agent("learned", observations=2)
    states, actions, _ = next(iter(trajectories()))
    returns = np.array([3.0, 2, 1], "float32") + 10
    probability = np.array(agent.probabilities(states))[:, 0]
    error = np.mean((returns - np.squeeze(agent.value(states))) ** 2)
    for _ in range(5):
        agent.learn(states, actions, returns, 1.0)
    assert (np.array(agent.probabilities(states))[:, 0] > probability).all()
    assert np.mean((returns - np.squeeze(agent.value(states))) ** 2) < error


def test_variances_are_those_of_the_episodes_gradients_until_it_is_solved():
    agent = make_agent("learned")
    envs = Walk()
    random = np.random.default_rng(0)
    curves = reinforce.Curves.of_length(4)
    reinforce.train(agent, envs, random, curves, np.inf, range(4))
    np.testing.assert_array_equal(np.isfinite(curves.variances[:, 0]), [0, 1, 0, 1])
    np.testing.assert_array_equal(curves.returns, 4)
    solved = reinforce.Curves.of_length(4)
    reinforce.train(agent, envs, random, solved, 4, range(4))
    assert not np.isfinite(solved.variances).any()

    episodes = agent.play(envs, seed=0, random=random)
    rows = [episodes.steps(episode) for episode in range(2)]
    assert [len(actions) for _, actions, _ in rows] == [3, 5]
    assert len(episodes.steps()[1]) == 8
    one, other = (np.array(agent.gradient(*row, "none")) for row in rows)
    # Of two numbers: half their squared difference.
    expected = np.sum((one - other) ** 2) / 2
    found = reinforce.variance(agent, episodes, "none")
    assert found == pytest.approx(expected, rel=1e-4)


def test_actions_are_drawn_by_their_probabilities():
    agent = make_agent("none", observations=1, actions=3)
    envs = Walk()
    drawn = [
        agent.play(envs, 0, np.random.default_rng(seed)).actions[0, 0]
        for seed in range(400)
    ]
    expected = np.array(agent.probabilities(np.zeros((1, 1), "float32")))[0]
    found = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / len(drawn)))
    assert agent.act(np.zeros((1, 1)))[0] == expected.argmax()
