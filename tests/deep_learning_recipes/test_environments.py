"""Environments by name: found, or one line that says what to do."""

import importlib.util

import pytest

from deep_learning_recipes import UsageError
from deep_learning_recipes.environments import make_vec, require_vectors_and_choices


@pytest.mark.parametrize(("name", "sizes"), [("CartPole-v1", (4, 2)), ("LunarLander-v3", (8, 4))])
def test_environments_by_name(name, sizes):
    envs = make_vec(name, 3)
    observation, _ = envs.reset(seed=0)
    assert observation.shape == (3, sizes[0])
    assert require_vectors_and_choices(name, envs) == sizes


def test_settings_reach_the_environment():
    envs = make_vec("FrozenLake-v1", 2, is_slippery=False)
    envs.reset(seed=0)
    observation, *_ = envs.step([2, 2])  # right, for certain
    assert list(observation) == [1, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cartpole-v1", "CartPole-v1"),
        ("CartPole-v7", "did you mean CartPole-v"),
        ("nonsense", "no such environment"),
        ("nowhere/Pong-v5", "no such environment"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_vec(name, 1)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is not None, reason="Atari is there")
def test_atari_needs_its_extra():
    with pytest.raises(UsageError, match=r"deep-learning-recipes\[atari\]"):
        make_vec("ALE/Pong-v5", 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Pendulum-v1", "actions are continuous"), ("FrozenLake-v1", "no vectors")],
)
def test_other_spaces_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        require_vectors_and_choices(name, make_vec(name, 1))
