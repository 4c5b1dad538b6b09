"""Gymnasium environments by name, or one clear line why there is none."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from deep_learning_recipes import UsageError, did_you_mean


def find(name: str, flag: str = "--env") -> gymnasium.envs.registration.EnvSpec:
    """What Gymnasium knows of the environment that the user named by `flag`.

    Raises UsageError for a name that it does not know.
    """
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
        raise UsageError(f"{flag} {name}: Gymnasium has no such environment{near}") from error


def make_vec(name: str, num_envs: int, **settings: Any) -> gymnasium.vector.VectorEnv:
    """`num_envs` copies of an environment that step together: its own vectorised form where it has
    one, else one after the other. After an episode's end the next step resets its copy, and is no
    transition.

    settings: arguments of the environment, such as is_slippery=True.
    Raises UsageError for a name that Gymnasium does not know, and for packages that are missing.
    """
    vectorised = find(name).vector_entry_point and not settings
    mode = "vector_entry_point" if vectorised else "sync"
    try:
        with warnings.catch_warnings():
            # A later version is there, or a wrapper was left out: nothing that a run should say.
            warnings.simplefilter("ignore")
            return gymnasium.make_vec(name, num_envs, vectorization_mode=mode, **settings)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"--env {name}: {error}") from error


def require_vectors_and_choices(name: str, envs: gymnasium.vector.VectorEnv) -> tuple[int, int]:
    """The length of an observation and the number of actions.

    Raises UsageError for observations that are not vectors and actions that are not choices.
    """
    observations, actions = envs.single_observation_space, envs.single_action_space
    if not isinstance(actions, spaces.Discrete):
        raise UsageError(
            f"--env {name}: its actions are continuous ({actions}); this recipe chooses among a "
            "few, as in CartPole-v1 or LunarLander-v3"
        )
    if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
        raise UsageError(
            f"--env {name}: its observations are no vectors ({observations}); this recipe reads "
            "vectors, as in CartPole-v1 or LunarLander-v3"
        )
    return observations.shape[0], int(actions.n)


def film(
    name: str, values: Callable[[np.ndarray], Any], *, pictures: int, every: int
) -> np.ndarray:
    """One picture in `every` steps of an episode, (pictures, height, width, 3) in [0, 1].

    values: gives (1, actions) for an observation (1, ...); the largest one is taken. After the
    episode's end the pictures are white.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # draw without a window
    env = gymnasium.make(name, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frames, over = [np.asarray(env.render()) / 255], False
    for step in range(1, every * (pictures - 1) + 1):
        if not over:
            numbers = np.asarray(values(np.asarray(observation, "float32")[None]))
            observation, _, ended, cut, _ = env.step(int(numbers.argmax()))
            over = ended or cut
        if step % every == 0:
            frames.append(np.ones_like(frames[0]) if over else np.asarray(env.render()) / 255)
    env.close()
    return np.array(frames)
