"""Q-learning and SARSA against exact values, resets and time limits against counts by
hand."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
from conftest import run_in_process

from deep_learning_recipes.run.loop import Loop
from recipes import q_learning as recipe

CONFIG = recipe.Config(agents=2, copies=4)


def learn(name, steps, limit=None, config=CONFIG, **how):
    copies = config.agents * config.copies
    envs = gymnasium.make_vec(name, copies, "sync", max_episode_steps=limit)
    agents = recipe.Agents(config, envs, steps, seed=0, **how)
    for block in range(math.ceil(steps / recipe.BLOCK)):
        agents.play_block(block)
    return agents


def exact_values_of_random_actions(name, discount):
    """Q of the policy that takes every action equally often, by solving the linear
    system."""
    environment = gymnasium.make(name)
    rules = environment.unwrapped.P
    states, actions = environment.observation_space.n, environment.action_space.n
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    for state, by_action in rules.items():
        for action, outcomes in by_action.items():
            for probability, following, reward, terminated in outcomes:
                rewards[state, action] += probability * reward
                transitions[state, action, following] += probability * (not terminated)
    values = np.linalg.solve(
        np.eye(states) - discount * transitions.mean(axis=1), rewards.mean(axis=1)
    )
    return rewards + discount * transitions @ values


def test_optimal_values_of_the_cliff_by_hand():
    values = recipe.optimal_values(gymnasium.make("CliffWalking-v1"), 0.9)
    to_the_goal = -(1 - 0.9**13) / (1 - 0.9)
    assert values[36].max() == pytest.approx(to_the_goal)
    assert values[36, 0] == pytest.approx(to_the_goal)  # up
    assert values[36, 1] == pytest.approx(
        -100 + 0.9 * to_the_goal
    )  # into the cliff, and back
    assert values[35, 2] == pytest.approx(-1)  # down onto the goal: nothing follows


def test_optimal_values_solve_bellmans_equation_on_the_lake():
    environment = gymnasium.make("FrozenLake-v1")
    values = recipe.optimal_values(environment, 0.99)
    for state, by_action in environment.unwrapped.P.items():
        for action, outcomes in by_action.items():
            right = sum(
                p * (r + 0.99 * values[s].max() * (not end))
                for p, s, r, end in outcomes
            )
            assert values[state, action] == pytest.approx(right, abs=1e-7)


def test_q_learning_finds_the_optimal_values_of_the_cliff():
    agents = learn("CliffWalking-v1", 1500)
    exact = recipe.optimal_values(gymnasium.make("CliffWalking-v1"), CONFIG.discount)
    often = agents.visits >= 50
    assert often.any(axis=(1, 2)).all()
    expected = np.stack([exact] * 2)
    np.testing.assert_allclose(agents.table[often], expected[often], atol=0.05)


def test_sarsa_learns_the_values_of_what_it_does():
    """With random actions only, SARSA finds the random policy's values, Q-learning does
    not."""
    config = dataclasses.replace(CONFIG, exploration=1.0, discount=0.9, copies=8)
    exact = exact_values_of_random_actions("FrozenLake-v1", 0.9)
    optimal = recipe.optimal_values(gymnasium.make("FrozenLake-v1"), 0.9)
    sarsa = learn("FrozenLake-v1", 3000, config=config, on_policy=True)
    greedy = learn("FrozenLake-v1", 3000, config=config)
    often = sarsa.visits.min(axis=0) > 100
    assert np.abs(sarsa.table.mean(axis=0) - exact)[often].mean() < 0.02
    # Beside them, the maximum's answer: at least the optimum's, which lies well above.
    assert np.mean((optimal - exact)[often]) > 0.03
    assert np.mean((greedy.table.mean(axis=0) - optimal)[often]) > -0.01


def test_resets_are_not_learned_from():
    """With a limit of 3 every fourth step of a copy is its reset."""
    config = dataclasses.replace(CONFIG, copies=1)
    agents = learn("CliffWalking-v1", 40, limit=3, config=config)
    assert list(agents.visits.sum(axis=(1, 2))) == [30, 30]
    steps, copies = np.nonzero(np.isfinite(agents.returns))
    for copy in range(2):
        assert list(steps[copies == copy]) == list(range(2, 40, 4))
    assert set(agents.returns[steps, copies]) <= {-3.0, -102.0, -201.0}


def test_a_limit_taken_for_an_end_forgets_what_would_follow():
    """One step an episode: up from the start costs 1, and leads to where no value is
    known yet."""
    config = dataclasses.replace(CONFIG, agents=1, copies=1)
    right = learn("CliffWalking-v1", 400, limit=1, config=config)
    wrong = learn("CliffWalking-v1", 400, limit=1, config=config, limit_is_end=True)
    # The state above stays at the first value of 1: −1 + 0.99 · 1, or −1 with nothing
    # to follow.
    assert right.table[0, 36, 0] == pytest.approx(-1 + 0.99, abs=1e-6)
    assert wrong.table[0, 36, 0] == pytest.approx(-1, abs=1e-6)


def test_agents_learn_from_their_own_copies_alone():
    updates = learn("Taxi-v4", 10).visits.sum(axis=(1, 2))
    assert np.all(updates <= 40)
    assert np.all(updates >= 30)  # two copies at the same entry count once


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    envs = gymnasium.make_vec("FrozenLake-v1", 8, "sync")
    steps = 4 * recipe.BLOCK - 100

    def go_on(total, seed=0, resume=False):
        agents = recipe.Agents(CONFIG, envs, steps, seed)
        state = agents.state()
        loop = Loop(tmp_path / "kept", total, state, name="lake", resume=resume)
        assert loop.done == (2 if resume else 0)
        for block in loop:
            agents.play_block(block)
        return state

    whole = go_on(4)
    go_on(2)
    resumed = go_on(4, seed=99, resume=True)
    for name in ("table", "visits", "returns", "policies"):
        np.testing.assert_array_equal(resumed[name], whole[name])
    assert np.isfinite(whole["returns"][-200:]).any()


def test_play_returns_the_path():
    up_right_down = np.full(48, 1)
    up_right_down[36] = 0
    up_right_down[35] = 2
    cliff = gymnasium.make("CliffWalking-v1", max_episode_steps=50)
    episode = recipe.play(cliff, up_right_down, seed=0)
    assert episode.total == -13
    assert episode.path == [36, *range(24, 36), 47]
    assert recipe.mean_return(cliff, up_right_down, [0, 1]) == -13
    assert recipe.expected_return(cliff, up_right_down) == pytest.approx(-13)


def test_the_expected_return_is_what_many_episodes_earn():
    lake = gymnasium.make("FrozenLake-v1", max_episode_steps=20)
    policy = recipe.optimal_values(lake, 0.99).argmax(axis=1)
    expected = recipe.expected_return(lake, policy)
    assert 0.05 < expected < 0.6
    earned = recipe.mean_return(lake, policy, range(2000))
    assert earned == pytest.approx(expected, abs=4 * 0.5 / 2000**0.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FrozenLake-v9", "did you mean FrozenLake-v1"),
        ("CartPole-v1", "no table of states"),
    ],
)
def test_an_environment_that_cannot_serve_gets_one_line(
    name, message, capsys, tmp_path
):
    finished = run_in_process("q_learning", tmp_path / "run", "--environments", name)
    assert finished.code == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "error:" in line
    ]
    assert name in line
    assert message in line
