"""Bellman's equation against hand-worked processes, random play and a linear system's
solution."""

import gymnasium
import numpy as np
import pytest

from deep_learning_recipes import serving
from recipes import value_iteration as recipe

RANDOM = np.random.default_rng(0)

# Two states. In 0: stay (reward 1) or move to 1 (reward 0). In 1: stay (reward 2) or
# end (5). With γ = 0.9: V(1) = 2 / (1 − 0.9) = 20, V(0) = max(1 / (1 − 0.9), 0.9 · 20)
# = 18.
BY_HAND = recipe.Model(
    transitions=np.array([[[1.0, 0], [0, 1]], [[0, 1], [0, 0]]]),
    rewards=np.array([[1.0, 0], [2, 5]]),
    start=np.array([1.0, 0]),
)


def random_model(states=7, actions=3):
    transitions = RANDOM.dirichlet(np.ones(states), size=(states, actions))
    transitions[-1] *= 0.5  # ends with probability 1/2
    return recipe.Model(
        transitions, RANDOM.normal(size=(states, actions)), np.ones(states) / 7
    )


def test_both_methods_find_the_values_worked_by_hand():
    values = recipe.value_iteration(BY_HAND, 0.9, 1e-8)[-1]
    np.testing.assert_allclose(values, [18, 20], atol=1e-8)
    solution = recipe.policy_iteration(BY_HAND, 0.9)
    np.testing.assert_allclose(solution.values, [18, 20])
    assert list(solution.policy) == [1, 0]
    # First 'stay' everywhere (10 and 20), then 'move' in 0: nothing better is left.
    assert solution.rounds == 2


def test_the_first_sweeps_by_hand():
    sweeps = recipe.value_iteration(BY_HAND, 0.9, 1e-8)
    np.testing.assert_allclose(sweeps[0], [0, 0])
    np.testing.assert_allclose(sweeps[1], [1, 5])
    np.testing.assert_allclose(sweeps[2], [max(1.9, 4.5), max(6.5, 5)])


def test_action_values_equal_the_sum_written_out():
    model = random_model()
    values = RANDOM.normal(size=7)
    found = recipe.action_values(model, values, 0.8)
    for state in range(7):
        for action in range(3):
            following = sum(
                model.transitions[state, action, s] * values[s] for s in range(7)
            )
            expected = model.rewards[state, action] + 0.8 * following
            assert found[state, action] == pytest.approx(expected)


def test_policy_evaluation_equals_many_sweeps():
    model = random_model()
    policy = RANDOM.integers(3, size=7)
    exact = recipe.evaluate_policy(model, policy, 0.9)
    np.testing.assert_allclose(
        recipe.evaluate_for(model, policy, 0.9, 400), exact, atol=1e-8
    )
    one_step = recipe.evaluate_for(model, policy, 0.9, 1)
    np.testing.assert_allclose(one_step, model.rewards[np.arange(7), policy])


@pytest.mark.parametrize("discount", [0.5, 0.95])
def test_a_sweep_brings_any_two_tables_closer_by_the_discount(discount):
    model = random_model()
    for _ in range(20):
        one, other = RANDOM.normal(size=(2, 7))
        before = np.abs(one - other).max()
        swept = [
            recipe.action_values(model, v, discount).max(axis=1) for v in (one, other)
        ]
        assert np.abs(swept[0] - swept[1]).max() <= discount * before


def test_value_iteration_stops_within_the_tolerance():
    model = random_model()
    best = recipe.policy_iteration(model, 0.97).values
    for tolerance in (1e-1, 1e-3, 1e-6):
        sweeps = recipe.value_iteration(model, 0.97, tolerance)
        assert np.abs(sweeps[-1] - best).max() <= tolerance
        # And not much later: half as many sweeps would not do.
        assert np.abs(sweeps[len(sweeps) // 2] - best).max() > tolerance


def test_the_best_policy_is_known_before_the_values_are_right():
    sweeps = recipe.value_iteration(BY_HAND, 0.9, 1e-8)
    solution = recipe.policy_iteration(BY_HAND, 0.9)
    solved = recipe.Solved(None, BY_HAND, sweeps, solution, 0.9)
    # After k sweeps V(1) is 5 and more, and V(0) 1, 4.5, ...: in 0 it is best to move
    # from the first sweep on, in 1 to stay when 2 + 0.9 V(1) is more than 5.
    assert solved.sweeps_to_the_best_policy() == 1
    assert len(sweeps) > 100
    np.testing.assert_allclose(solved.errors[:2], [20, 17])
    assert solved.slowest_ratio() == pytest.approx(0.9, abs=1e-6)


def test_no_policy_of_a_small_process_beats_policy_iteration():
    model = random_model(states=7)
    best = recipe.policy_iteration(model, 0.9).values
    all_policies = np.stack(np.meshgrid(*[range(3)] * 7), axis=-1).reshape(-1, 7)
    for policy in all_policies[RANDOM.integers(len(all_policies), size=300)]:
        assert np.all(recipe.evaluate_policy(model, policy, 0.9) <= best + 1e-9)


def test_the_model_is_what_the_environment_does():
    """Frequencies of real steps from one state, in the corner where two slips stay in
    place."""
    environment = gymnasium.make("FrozenLake-v1")
    model = recipe.read_model(environment)
    environment.reset(seed=0)
    counts = np.zeros(16)
    for _ in range(3000):
        environment.reset()
        counts[environment.step(0)[0]] += 1
    np.testing.assert_allclose(model.transitions[0, 0, [0, 4]], [2 / 3, 1 / 3])
    np.testing.assert_allclose(counts / 3000, model.transitions[0, 0], atol=0.04)


def test_a_step_that_ends_the_episode_leads_nowhere():
    environment = gymnasium.make("FrozenLake-v1")
    model = recipe.read_model(environment)
    # 'Right' in state 14 slips up, goes right onto the goal (15), or slips down and
    # stays.
    np.testing.assert_allclose(model.transitions[14, 2, [10, 14]], [1 / 3, 1 / 3])
    assert model.transitions[14, 2].sum() == pytest.approx(2 / 3)
    assert model.rewards[14, 2] == pytest.approx(1 / 3)
    past = recipe.read_model(environment, past_the_end=True)
    np.testing.assert_allclose(past.transitions.sum(axis=2), 1)


def test_the_cliff_is_thirteen_steps_long():
    model = recipe.read_model(gymnasium.make("CliffWalking-v1"))
    values = recipe.policy_iteration(model, 0.99).values
    assert values[36] == pytest.approx(-(1 - 0.99**13) / (1 - 0.99))


def test_the_lakes_known_optimum():
    """Without a time limit the slippery 4x4 lake is crossed in 14 of 17 attempts."""
    model = recipe.read_model(gymnasium.make("FrozenLake-v1"))
    policy = recipe.policy_iteration(model, 0.9999).policy
    assert recipe.evaluate_policy(model, policy, 1.0)[0] == pytest.approx(14 / 17)


def test_play_discounts_and_stops_at_the_time_limit():
    environment = gymnasium.make("CliffWalking-v1", max_episode_steps=3)
    up = np.zeros(48, int)
    returns = recipe.play(environment, up, 0.5, seeds=[0, 1])
    np.testing.assert_allclose(returns, [[-1.75, -3]] * 2)


def test_the_served_policy_takes_the_best_action():
    table = RANDOM.normal(size=(9, 4))
    outputs = serving.policy(recipe.build_table(table))(np.arange(9, dtype="int32"))
    np.testing.assert_array_equal(outputs["action"], table.argmax(axis=1))
    np.testing.assert_allclose(outputs["values"], table, rtol=1e-6)
