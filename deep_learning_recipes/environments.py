"""Gymnasium environments by name, or one clear line why there is none."""

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from deep_learning_recipes import UsageError, did_you_mean

FRAMES = (4, 84, 84)


def find(name: str, flag: str = "--env") -> gymnasium.envs.registration.EnvSpec:
    """What Gymnasium knows of the environment that the user named by `flag`.

    Raises UsageError for a name that it does not know.
    """
    if name.startswith("ALE/"):
        with contextlib.suppress(ImportError):
            import ale_py

            gymnasium.register_envs(ale_py)
    try:
        return gymnasium.spec(name)
    except gymnasium.error.NamespaceNotFound as error:
        if name.startswith("ALE/"):
            raise UsageError(
                f"{flag} {name}: Atari games need an extra: "
                "pip install deep-learning-recipes[atari]"
            ) from error
        raise UsageError(f"{flag} {name}: Gymnasium has no such environment") from error
    except gymnasium.error.UnregisteredEnv as error:
        near = did_you_mean(name, list(gymnasium.registry))
        raise UsageError(
            f"{flag} {name}: Gymnasium has no such environment{near}"
        ) from error


def solved_at(name: str) -> float:
    """The mean return at which an environment counts as solved.

    Raises UsageError for one that does not say so.
    """
    threshold = find(name).reward_threshold
    if threshold is None:
        raise UsageError(
            f"--env {name}: it does not say at which return it is solved; this recipe asks for one "
            "that does, as CartPole-v1 and LunarLander-v3 do"
        )
    return threshold


def make_vec(name: str, num_envs: int, **settings: Any) -> gymnasium.vector.VectorEnv:
    """`num_envs` copies of an environment that step together: its own vectorized form
    where it has one, else one after the other. After an episode's end the next step
    resets its copy, and is no transition. A game of Atari ("ALE/Pong-v5") shows the
    last four frames, (4, 84, 84) bytes of gray, skips three of four, and gives of its
    rewards the sign.

    settings: arguments of the environment, such as is_slippery=True.
    Raises UsageError for a name that Gymnasium does not know, and for packages that are
    missing.
    """
    vectorized = find(name).vector_entry_point and not settings
    mode = "vector_entry_point" if vectorized else "sync"
    try:
        with warnings.catch_warnings():
            # A later version is there, or a wrapper was left out: nothing that a run
            # should say.
            warnings.simplefilter("ignore")
            return gymnasium.make_vec(
                name, num_envs, vectorization_mode=mode, **settings
            )
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"--env {name}: {error}") from error


def require_vectors_and_choices(
    name: str, envs: gymnasium.vector.VectorEnv
) -> tuple[int, int]:
    """The length of an observation and the number of actions.

    Raises UsageError for observations that are not vectors and actions that are not
    choices.
    """
    count = require_choices(name, envs)
    observations = envs.single_observation_space
    if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
        raise UsageError(
            f"--env {name}: its observations are no vectors ({observations}); this recipe reads "
            "vectors, as in CartPole-v1 or LunarLander-v3"
        )
    return observations.shape[0], count


def require_vectors_or_frames(name: str, envs: gymnasium.vector.VectorEnv) -> None:
    """Raises UsageError for actions that are not choices, and for observations other
    than vectors and the frames of Atari's games as `make_vec` prepares them."""
    require_choices(name, envs)
    observations = envs.single_observation_space
    is_box = isinstance(observations, spaces.Box)
    shape = observations.shape or ()
    if not is_box or (len(shape) != 1 and shape != FRAMES):
        what = "images that nothing prepares" if is_box else "no vectors"
        raise UsageError(
            f"--env {name}: its observations are {what} ({observations}); this recipe reads "
            "vectors, as in CartPole-v1 or LunarLander-v3, and Atari's games, as ALE/Pong-v5"
        )


def require_choices(name: str, envs: gymnasium.vector.VectorEnv) -> int:
    """The number of actions. Raises UsageError for actions that are not choices."""
    actions = envs.single_action_space
    if not isinstance(actions, spaces.Discrete):
        raise UsageError(
            f"--env {name}: its actions are continuous ({actions}); this recipe chooses among a "
            "few, as in CartPole-v1 or LunarLander-v3"
        )
    return int(actions.n)


def evaluate(
    act: Callable[[np.ndarray], Any], envs: gymnasium.vector.VectorEnv, *, seed: int
) -> np.ndarray:
    """The return, not discounted, of one whole episode in each environment:
    (environments,).

    act: gives actions for observations, both (environments, ...).
    """
    observations, _ = envs.reset(seed=seed)
    returns, alive = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while alive.any():
        observations, rewards, ended, cut, _ = envs.step(np.asarray(act(observations)))
        returns += rewards * alive
        alive &= ~(ended | cut)
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


def film(
    name: str, values: Callable[[np.ndarray], Any], *, pictures: int, every: int
) -> np.ndarray:
    """One picture in `every` steps of an episode, (pictures, height, width, 3) in [0,
    1].

    values: gives (1, actions) for an observation (1, ...); the largest one is taken.
    After the episode's end the pictures are white. Of a game of Atari they show what
    the network sees.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draw without a window
    if name.startswith("ALE/"):
        envs = make_vec(name, 1)
    else:
        envs = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make(name, render_mode="rgb_array")]
        )

    def picture() -> np.ndarray:
        if name.startswith("ALE/"):
            return np.repeat(observation[0, -1, ..., None] / 255, 3, axis=-1)
        return np.asarray(envs.render())[0] / 255

    observation, _ = envs.reset(seed=0)
    frames, over = [picture()], False
    for step in range(1, every * (pictures - 1) + 1):
        if not over:
            numbers = np.asarray(values(np.asarray(observation, "float32")))
            observation, _, ended, cut, _ = envs.step(numbers.argmax(axis=-1))
            over = bool(ended[0] or cut[0])
        if step % every == 0:
            frames.append(np.ones_like(frames[0]) if over else picture())
    envs.close()
    return np.array(frames)
