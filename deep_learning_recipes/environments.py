"""Gymnasium environments by name, or one clear line why there is none."""

import functools
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers.vector import TransformAction
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, did_you_mean, figures

STEPS_OF_AN_EPISODE = 1_000
"""where an environment sets no limit itself: what never ends could not be measured"""


def find(name: str, flag: str = "--env") -> gymnasium.envs.registration.EnvSpec:
    """What Gymnasium knows of the environment that the user named by `flag`.

    name: such as "CartPole-v1", or "MODULE:NAME-v0" for one that a module registers
        when it is imported; it may lie in the current folder.

    Raises UsageError for a name that it does not know.
    """
    module, _, own_name = name.rpartition(":")
    if module:
        _import(module, f"{flag} {name}")
    try:
        return gymnasium.spec(own_name)
    except gymnasium.error.Error as error:
        near = did_you_mean(own_name, _newest_versions()) if own_name else ""
        raise UsageError(
            f"{flag} {name or repr(name)}: Gymnasium has no such environment"
            f"{near or '; names are such as CartPole-v1'}"
        ) from error


def _import(module: str, flag_and_name: str) -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except Exception as error:  # it is the user's code
        raise UsageError(
            f"{flag_and_name}: {module} cannot be imported "
            f"({type(error).__name__}: {error})"
        ) from error


def _newest_versions() -> list[str]:
    """Of each registered environment the name with the highest version."""
    newest: dict[str, int] = {}
    for spec in gymnasium.registry.values():
        plain = f"{spec.namespace}/{spec.name}" if spec.namespace else spec.name
        newest[plain] = max(spec.version or 0, newest.get(plain, 0))
    return [f"{plain}-v{version}" for plain, version in newest.items()]


def steps_of_an_episode(name: str) -> int:
    """After how many steps an episode is cut short: the environment's own limit, else
    STEPS_OF_AN_EPISODE, which is then said once."""
    return find(name).max_episode_steps or _limit_of(name)


@functools.cache
def _limit_of(name: str) -> int:
    print(
        f"{name} sets its episodes no limit: here they are cut after "
        f"{STEPS_OF_AN_EPISODE:,} steps",
        file=sys.stderr,
    )
    return STEPS_OF_AN_EPISODE


def make_vec(name: str, num_envs: int, **settings: Any) -> gymnasium.vector.VectorEnv:
    """`num_envs` copies of an environment that step together: its own vectorized form
    where it has one, else one after the other. After an episode's end the next step
    resets its copy, and is no transition. Actions that are choices count from 0, as
    networks' outputs do, whatever the environment calls them.

    settings: arguments of the environment, such as is_slippery=True. With
        max_episode_steps=None an environment without a limit stays without.
    Raises UsageError for a name that Gymnasium does not know, and for packages that are
    missing.
    """
    spec = find(name)
    vectorized = spec.vector_entry_point and spec.max_episode_steps and not settings
    mode = "vector_entry_point" if vectorized else "sync"
    if not vectorized:
        settings.setdefault("max_episode_steps", steps_of_an_episode(name))
    try:
        with warnings.catch_warnings():
            # A later version is there, or a wrapper was left out: nothing that a run
            # should say.
            warnings.simplefilter("ignore")
            envs = gymnasium.make_vec(
                spec, num_envs, vectorization_mode=mode, **settings
            )
    except (gymnasium.error.Error, ImportError) as error:
        raise UsageError(f"--env {name}: {_first_line(error)}") from error
    return _counted_from_zero(envs)


def _first_line(error: Exception) -> str:
    """What it says, and how to get a package that is missing."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{line}; try: pip install {error.name}"
    return line


def _counted_from_zero(envs: gymnasium.vector.VectorEnv) -> gymnasium.vector.VectorEnv:
    actions = envs.single_action_space
    if not isinstance(actions, spaces.Discrete) or actions.start == 0:
        return envs
    return TransformAction(
        envs,
        lambda chosen: np.asarray(chosen) + actions.start,
        action_space=spaces.MultiDiscrete([actions.n] * envs.num_envs),
        single_action_space=spaces.Discrete(actions.n),
    )


def require_vectors_and_choices(
    name: str, envs: gymnasium.vector.VectorEnv
) -> tuple[int, int]:
    """The length of an observation and the number of actions.

    Raises UsageError for observations that are not vectors and actions that are not
    choices.
    """
    actions = envs.single_action_space
    if not isinstance(actions, spaces.Discrete):
        kind = {
            spaces.Box: "continuous",
            spaces.MultiDiscrete: "several choices at once",
            spaces.MultiBinary: "several switches at once",
        }.get(type(actions), "of another kind")
        raise UsageError(
            f"--env {name}: its actions are {kind} ({_in_one_line(actions)}); this recipe "
            "chooses among a few, as in CartPole-v1 or LunarLander-v3"
        )
    observations = envs.single_observation_space
    if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
        raise UsageError(
            f"--env {name}: its observations are no vectors "
            f"({_in_one_line(observations)}); this recipe reads vectors, as in "
            "CartPole-v1 or LunarLander-v3"
        )
    return observations.shape[0], int(actions.n)


def _in_one_line(space: spaces.Space) -> str:
    return re.sub(r"\s+", " ", str(space))


def evaluate(
    act: Callable[[np.ndarray], Any], envs: gymnasium.vector.VectorEnv, *, seed: int
) -> np.ndarray:
    """The return, not discounted, of one whole episode in each environment:
    (environments,). Of an episode that has no end after 10,000 steps it is what was
    earned until then, with a warning.

    act: gives actions for observations, both (environments, ...).
    """
    observations, _ = envs.reset(seed=seed)
    returns, alive = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    for _ in range(10 * STEPS_OF_AN_EPISODE):
        observations, rewards, ended, cut, _ = envs.step(np.asarray(act(observations)))
        returns += rewards * alive
        alive &= ~(ended | cut)
        if not alive.any():
            return returns
    warnings.warn(
        f"{alive.sum()} of {envs.num_envs} episodes had no end after "
        f"{10 * STEPS_OF_AN_EPISODE:,} steps: their returns are those until then",
        stacklevel=2,
    )
    return returns


class ReturnLog:
    """What episodes earn while an agent learns in several environments: a moving
    average of the returns of those that ended, by block of steps.

    returns: (blocks,), the average at the end of each block.
    state: what a checkpoint has to keep. What an unfinished episode has earned so far
        is left out: environments begin anew.
    """

    SHARE_OF_THE_NEWEST = 0.05

    def __init__(self, blocks: int, num_envs: int):
        self.returns = np.zeros(blocks)
        self.average = np.array(0.0)
        self.unfinished = np.zeros(num_envs)
        self.state = {"returns": self.returns, "average": self.average}

    def add(self, block: int, rewards: np.ndarray, ended: np.ndarray) -> None:
        """One step of all environments, (num_envs,) each, in a block."""
        self.unfinished += rewards
        for earned in self.unfinished[ended]:
            self.average += self.SHARE_OF_THE_NEWEST * (earned - self.average)
        self.unfinished[ended] = 0
        self.returns[block] = self.average

    def show(self) -> dict[str, float]:
        """For `run.loop`."""
        return {"return": float(self.average)}


# What of an observation tells what an agent does, by the beginning of the name.
MOTIONS = {
    "CartPole": {0: "position of the cart", 2: "angle of the pole in radians"},
    "LunarLander": {0: "horizontal position", 1: "height", 4: "angle in radians"},
    "MountainCar": {0: "position", 1: "velocity"},
}
FIRST_NUMBERS = 2  # of the observations of other environments


def draw_motion(
    name: str, players: Mapping[str, Callable[[np.ndarray], Any]], *, steps: int = 200
) -> Figure:
    """What agents do in one episode from the same start: a panel for each number of the
    observation that shows it, over time.

    players: by name, gives (1, actions) for an observation (1, ...); the largest one is
    taken. A line ends where the episode does.
    """
    paths = {player: observe(name, values, steps) for player, values in players.items()}
    size = next(iter(paths.values())).shape[1]
    shown = {
        i: f"number {i + 1} of the observation" for i in range(size)[:FIRST_NUMBERS]
    }
    for beginning, known in MOTIONS.items():
        # One of the user's own may begin alike, and observe less.
        if name.startswith(beginning) and max(known) < size:
            shown = known
    panels = [
        figures.Panel(
            title=what[0].upper() + what[1:],
            xlabel="step",
            lines={
                player: (np.arange(len(path)), path[:, index])
                for player, path in paths.items()
            },
        )
        for index, what in shown.items()
    ]
    return figures.panels(*panels)


def observe(name: str, values: Callable[[np.ndarray], Any], steps: int) -> np.ndarray:
    """The observations of an episode's first steps, (at most steps + 1, size)."""
    envs = make_vec(name, 1)
    observation, _ = envs.reset(seed=0)
    path = [observation[0]]
    for _ in range(steps):
        numbers = np.asarray(values(np.asarray(observation, "float32")))
        observation, _, ended, cut, _ = envs.step(numbers.argmax(axis=-1))
        if ended[0] or cut[0]:
            break
        path.append(observation[0])
    envs.close()
    return np.array(path)
