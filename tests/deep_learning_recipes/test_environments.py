"""Environments by name: found, or one line that says what to do."""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from deep_learning_recipes import UsageError, environments
from deep_learning_recipes.environments import (
    draw_motion,
    evaluate,
    find,
    make_vec,
    observe,
    require_vectors_and_choices,
    steps_of_an_episode,
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
        ("", "names are such as CartPole-v1"),
        ("CartPole", "did you mean CartPole-v1"),
        ("CartPole-v1 ", "did you mean CartPole-v1"),
        ("LunarLander-v2", "did you mean LunarLander-v3"),
        ("Taxi-v3", "did you mean Taxi-v4"),
        ("a/b/c", "no such environment"),
        ("no_such_module:Walk-v0", "no_such_module cannot be imported"),
        ("math:Walk-v0", "no such environment"),
        ("nowhere/Pong-v5", "no such environment"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_vec(name, 1)
    assert f"--env {name or repr(name)}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Pendulum-v1", "actions are continuous"), ("FrozenLake-v1", "no vectors")],
)
def test_other_spaces_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        require_vectors_and_choices(name, make_vec(name, 1))


def left(observation):
    assert observation.shape == (1, 4)
    return np.array([[1.0, 0.0]])


def test_an_episode_is_observed_until_it_is_over():
    path = observe("CartPole-v1", left, steps=50)
    cart = gymnasium.make("CartPole-v1")
    expected = [cart.reset(seed=0)[0]]
    over = False
    while not over:
        seen, _, over, _, _ = cart.step(0)
        expected.append(seen)
    np.testing.assert_allclose(path, expected[:-1])
    assert len(observe("CartPole-v1", left, steps=3)) == 4


def test_motion_has_a_panel_for_each_number_that_tells_it():
    figure = draw_motion("CartPole-v1", {"left": left, "again": left}, steps=4)
    position, angle = figure.axes
    assert position.get_title() == "Position of the cart"
    assert angle.get_title() == "Angle of the pole in radians"
    path = observe("CartPole-v1", left, steps=4)
    for axes, index in ((position, 0), (angle, 2)):
        for line in axes.lines:
            np.testing.assert_allclose(line.get_ydata(), path[:, index])


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


def test_an_environment_of_ones_own_whose_actions_count_from_minus_one(own_module):
    name = f"{own_module}:Corridor-v0"
    envs = make_vec(name, 2)
    assert require_vectors_and_choices(name, envs) == (1, 2)
    assert envs.single_action_space == spaces.Discrete(2)
    envs.reset(seed=0)
    _, rewards, *_ = envs.step(np.array([0, 1]))
    assert list(rewards) == [-1, 1]
    right = evaluate(lambda seen: np.ones(len(seen), int), envs, seed=0)
    assert list(right) == [5, 5]
    assert envs.action_space.contains(envs.action_space.sample())


@pytest.mark.parametrize("start", [-3, 1, 7])
def test_actions_count_from_zero(start):
    class Told(gymnasium.Env):
        observation_space = spaces.Box(0, 9, (1,))
        action_space = spaces.Discrete(3, start=start)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, "float32"), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(1, "float32"), float(action), True, False, {}

    gymnasium.register("Told-v0", entry_point=Told)
    envs = make_vec("Told-v0", 3)
    envs.reset(seed=0)
    _, rewards, *_ = envs.step(np.array([0, 1, 2]))
    assert list(rewards) == [start, start + 1, start + 2]
    gymnasium.registry.pop("Told-v0")


def test_an_episode_without_an_end_is_cut_and_that_is_said(own_module, capsys):
    name = f"{own_module}:Endless-v3"
    assert steps_of_an_episode(name) == 1_000
    assert "cut after 1,000 steps" in capsys.readouterr().err
    envs = make_vec(name, 2)
    assert list(evaluate(lambda seen: np.ones(2, int), envs, seed=0)) == [1000, 1000]
    assert steps_of_an_episode("CartPole-v1") == 500
    assert capsys.readouterr().err == "", "said once"


def test_evaluation_ends_even_if_no_episode_does(own_module):
    find(f"{own_module}:Endless-v3")
    endless = gymnasium.make_vec("Endless-v3", 2, vectorization_mode="sync")
    with pytest.warns(UserWarning, match="2 of 2 episodes had no end after 10,000"):
        returns = evaluate(lambda seen: np.zeros(2, int), endless, seed=0)
    assert list(returns) == [10_000, 10_000]


def test_motion_of_one_that_begins_like_a_known_one_and_observes_less(monkeypatch):
    monkeypatch.setattr(environments, "observe", lambda *_: np.zeros((4, 2)))
    figure = draw_motion("CartPoleSmall-v0", {"one": left}, steps=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Number 1 of the observation", "Number 2 of the observation"]


def test_motion_of_an_unknown_environment_shows_its_first_numbers(own_module):
    name = f"{own_module}:Corridor-v0"
    figure = draw_motion(name, {"one": lambda seen: np.eye(2)[:1]}, steps=3)
    assert figure.axes[0].get_title() == "Number 1 of the observation"


def test_a_module_that_fails_is_named_with_its_error():
    Path("my_broken_envs.py").write_text("1 / 0")
    with pytest.raises(UsageError, match=r"cannot be imported \(ZeroDivisionError"):
        find("my_broken_envs:Walk-v0")


def test_a_missing_package_is_named(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("mujoco")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"--env Ant-v5: .*gymnasium\[mujoco\]"):
        make_vec("Ant-v5", 1)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UsageError, match="--env phys2d/CartPole-v1: .*jax"):
        make_vec("phys2d/CartPole-v1", 1)


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Box(-1, 1, (2,)), "continuous"),
        (spaces.MultiDiscrete([2, 3]), "several choices at once"),
        (spaces.MultiBinary(4), "several switches at once"),
        (spaces.Tuple([spaces.Discrete(2)]), "of another kind"),
        (spaces.Dict(go=spaces.Discrete(2)), "of another kind"),
    ],
)
def test_actions_are_called_what_they_are(space, kind):
    envs = SimpleNamespace(single_action_space=space)
    with pytest.raises(UsageError, match=f"its actions are {kind} ") as caught:
        require_vectors_and_choices("Walk-v0", envs)
    assert "\n" not in str(caught.value)
