"""Environments by name: found, or one line that says what to do."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from deep_learning_recipes import UsageError
from deep_learning_recipes.environments import (
    FRAMES,
    evaluate,
    film,
    make_vec,
    require_vectors_and_choices,
    require_vectors_or_frames,
    solved_at,
)


@pytest.mark.parametrize(
    ("name", "sizes"), [("CartPole-v1", (4, 2)), ("LunarLander-v3", (8, 4))]
)
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


def test_atari_needs_its_extra(monkeypatch):
    games = [name for name in gymnasium.registry if name.startswith("ALE/")]
    for name in games:
        monkeypatch.delitem(gymnasium.registry, name)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UsageError, match=r"deep-learning-recipes\[atari\]"):
        make_vec("ALE/Pong-v5", 1)


def test_atari_shows_its_last_four_frames():
    pytest.importorskip("ale_py")
    envs = make_vec("ALE/Pong-v5", 2)
    require_vectors_or_frames("ALE/Pong-v5", envs)
    before, _ = envs.reset(seed=0)
    assert before.shape == (2, *FRAMES)
    assert before.dtype == np.uint8
    after, *_ = envs.step(np.array([2, 3]))
    np.testing.assert_array_equal(after[:, :-1], before[:, 1:])
    envs.close()
    pictures = film(
        "ALE/Pong-v5", lambda observation: np.eye(6)[:1], pictures=3, every=2
    )
    assert pictures.shape == (3, 84, 84, 3)


def test_images_that_nothing_prepares_are_refused():
    class Pictures(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        action_space = spaces.Discrete(2)

    with pytest.raises(UsageError, match="nothing prepares"):
        require_vectors_or_frames(
            "Pictures-v0", gymnasium.vector.SyncVectorEnv([Pictures])
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [("Pendulum-v1", "actions are continuous"), ("FrozenLake-v1", "no vectors")],
)
def test_other_spaces_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        require_vectors_and_choices(name, make_vec(name, 1))
    with pytest.raises(UsageError, match=message):
        require_vectors_or_frames(name, make_vec(name, 1))


def test_a_film_goes_white_where_the_episode_is_over():
    def left(observation):
        assert observation.shape == (1, 4)
        return np.array([[1.0, 0.0]])

    pictures = film("CartPole-v1", left, pictures=5, every=4)
    assert pictures.shape == (5, 400, 600, 3)
    assert [bool((picture == 1).all()) for picture in pictures] == [False] * 3 + [
        True
    ] * 2


def test_evaluation_counts_one_whole_episode_of_each():
    class Stairs(gymnasium.Env):
        """Pays the step's number; over after as many steps as its seed's last digit
        says."""

        observation_space, action_space = spaces.Box(0, 99, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.last, self.place = (seed or 2) % 10, 0
            return np.zeros(1, "float32"), {}

        def step(self, action):
            self.place += int(action)
            over = self.place == self.last
            return np.zeros(1, "float32"), float(self.place), over, False, {}

    envs = gymnasium.vector.SyncVectorEnv([Stairs] * 3)
    found = evaluate(
        lambda observations: np.ones(len(observations), int), envs, seed=11
    )
    assert found.tolist() == [1, 1 + 2, 1 + 2 + 3]


def test_the_return_at_which_it_is_solved_or_one_line():
    assert solved_at("CartPole-v1") == 475
    with pytest.raises(
        UsageError, match="--env Pendulum-v1: it does not say at which return"
    ):
        solved_at("Pendulum-v1")
