"""Q-learning finds the best actions by trying them, without being told the rules.

A table Q[s, a] holds what action a in state s is worth. After each step it moves
toward what came of it, Q[s, a] ← Q[s, a] + α (r + γ max_a' Q[s', a'] − Q[s, a]). The
maximum makes it learn the best policy's values while it acts by another, which now and
then tries something at random. SARSA puts the action it really takes next in place of
the maximum, and so learns to live with its own slips. An episode that has ended is
worth nothing more; one that a time limit cut short still is.
Look at the tables that meet the optimum, and at the two paths along the cliff.

Lectures: CS Deep Reinforcement Learning (Bellman equation, Q-learning)
Paper: Watkins and Dayan, Q-learning, 1992; Pardo et al., Time limits in reinforcement
    learning, 2018
Tags: rl, sarsa, temporal difference, td learning, tabular, epsilon-greedy, off-policy,
    frozenlake
"""

import os
from dataclasses import dataclass
from typing import Annotated

import gymnasium
import keras
import numpy as np
from annotated_types import Ge, Interval
from gymnasium.vector import VectorEnv
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, environments, figures, serving
from deep_learning_recipes.run import Run, cli

LAKE, CLIFF = "FrozenLake-v1", "CliffWalking-v1"
os.environ.setdefault(
    "SDL_VIDEODRIVER", "dummy"
)  # frames go to arrays: no display is needed


@dataclass
class Config:
    environments: tuple[str, ...] = (LAKE, CLIFF, "Taxi-v4")
    """of Gymnasium's toy-text family: their rules are read to know the optimum, not to
    learn"""
    agents: int = 4
    """that learn independently of each other, each a table of its own"""
    copies: int = 8
    """of the environment that each agent acts in at once"""
    steps: Annotated[int, Ge(1000)] = 15_000
    """of each copy"""
    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    """what a reward is worth one step later, γ"""
    learning_rate: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """α at first; it falls to 2 % of that in a straight line"""
    exploration: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """share of actions taken at random, ε"""
    evaluation_episodes: int = 100
    """of each agent, without random actions, on seeds of their own"""


QUICK = Config(environments=(CLIFF, LAKE), copies=5, steps=4500)
FULL = Config(environments=(LAKE, "FrozenLake8x8-v1", CLIFF, "Taxi-v4"), steps=60_000)
BLOCK = 500  # steps between two checkpoints


def begin(envs: VectorEnv, config: Config, steps: int, seed: int) -> dict:
    """What learning changes: the tables and how often each entry was updated, both
    (agents, states, actions); the returns of episodes, (steps, copies of all agents),
    at the steps that end them, NaN elsewhere; and the random generator."""
    shape = config.agents, envs.single_observation_space.n, envs.single_action_space.n
    return {
        "table": np.ones(
            shape
        ),  # more than they find at first: they try what they have not
        "visits": np.zeros(shape, int),
        "returns": np.full((steps, envs.num_envs), np.nan),
        "random": np.random.default_rng(seed),
    }


def learn(
    state: dict,
    envs: VectorEnv,
    config: Config,
    blocks,
    on_policy=False,
    limit_is_end=False,
) -> None:
    """Q-learning, or SARSA with `on_policy`; `limit_is_end` makes the mistake of taking
    a time limit for an end. state: see `begin`. blocks: numbers of blocks of BLOCK
    steps, from range(n).
    """
    table, visits, random = state["table"], state["visits"], state["random"]
    agent = np.repeat(np.arange(config.agents), config.copies)
    steps, copies = state["returns"].shape

    def act(place):
        noise = 1e-9 * random.random(
            (copies, table.shape[2])
        )  # among equals, any will do
        greedy = (table[agent, place] + noise).argmax(axis=1)
        is_random = random.random(copies) < config.exploration
        return np.where(is_random, random.integers(table.shape[2], size=copies), greedy)

    for block in blocks:
        # All begin anew: a checkpoint between two blocks cannot hold what is inside
        # them.
        place, _ = envs.reset(seed=int(random.integers(2**31)))
        action, is_running, returns = (
            act(place),
            np.ones(copies, bool),
            np.zeros(copies),
        )
        for step in range(block * BLOCK, min(block * BLOCK + BLOCK, steps)):
            following, rewards, terminated, truncated, _ = envs.step(action)
            next_action = act(following)
            options = table[agent, following]
            values = (
                options[range(copies), next_action]
                if on_policy
                else options.max(axis=1)
            )
            has_ended = terminated | truncated if limit_is_end else terminated
            targets = rewards + config.discount * np.where(has_ended, 0, values)
            rate = config.learning_rate * (1 - 0.98 * step / steps)
            # After an end the copy's next step is its reset: no action led there. Where
            # two copies are at the same entry, one of them counts.
            entry = agent[is_running], place[is_running], action[is_running]
            table[entry] += rate * (targets[is_running] - table[entry])
            visits[entry] += 1
            returns += rewards
            is_running = ~(terminated | truncated)
            state["returns"][step, ~is_running] = returns[~is_running]
            returns[~is_running] = 0
            place, action = following, next_action


def optimal_values(environment: gymnasium.Env, discount: float) -> np.ndarray:
    """Q*[s, a] by value iteration over the environment's rules, which the agents do not
    see."""
    rules = environment.unwrapped.P
    values, change = np.zeros((len(rules), len(rules[0]))), np.inf

    def backup(outcomes, best):
        return sum(
            p * (r + discount * best[s] * (not ended)) for p, s, r, ended in outcomes
        )

    while change > 1e-9:
        best, before = values.max(axis=1), values
        values = np.array([[backup(a[i], best) for i in a] for a in rules.values()])
        change = np.abs(values - before).max()
    return values


def play(
    environment: gymnasium.Env, policy: np.ndarray, seeds
) -> tuple[np.ndarray, list[int]]:
    """The return of one episode for each seed, (episodes,), and the states of the last
    one."""
    returns = []
    for seed in seeds:
        state, _ = environment.reset(seed=int(seed))
        path, total, is_over = [state], 0.0, False
        while not is_over:
            state, reward, terminated, truncated, _ = environment.step(policy[state])
            total, is_over = total + reward, terminated or truncated
            path.append(state)
        returns.append(total)
    return np.array(returns), path


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (states, actions) as a network. Input: observation
    (batch,) of state numbers. Output: (batch, actions)."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, dtype="float32", name="table")
    found = table(observation)
    table.set_weights([values])
    return keras.Model(observation, found, name="table")


def plot_returns(runs: dict[str, tuple[np.ndarray, float]], agents: int) -> plt.Figure:
    """Returns while learning: the agents' mean with the worst and best shaded, and the
    optimum."""
    figure, panels = plt.subplots(
        1, len(runs), figsize=(4.2 * len(runs), 4), squeeze=False
    )
    for axes, (name, (returns, optimum)) in zip(panels[0], runs.items(), strict=True):
        steps, curves = np.linspace(0, len(returns), 41)[1:], []
        for own in np.split(returns, agents, axis=1):
            ends, _ = np.nonzero(np.isfinite(own))
            width = min(50, len(ends))
            if not width:
                continue  # no episode of this copy has ended
            weights = np.ones(width) / width
            means = np.convolve(own[np.isfinite(own)], weights, "valid")
            curves.append(np.interp(steps, ends[width - 1 :], means))
        axes.set(title=name, xlabel="steps of each copy", ylabel="return of an episode")
        if not curves:
            continue
        axes.plot(
            steps, np.mean(curves, axis=0), label="while learning, mean of 50 episodes"
        )
        axes.fill_between(
            steps, np.min(curves, axis=0), np.max(curves, axis=0), alpha=0.25
        )
        axes.axhline(optimum, color="black", linestyle="--", label="optimal policy")
        axes.set_ylim(bottom=np.quantile(curves, 0.1))
        axes.locator_params(axis="x", nbins=4)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return figure


def plot_paths(values: np.ndarray, paths: dict[str, list[int]]) -> plt.Figure:
    """The greedy walks along the cliff, over the values V(s) that Q-learning found."""
    figure, axes = plt.subplots(figsize=(9, 3.9))
    shown = np.where(np.arange(48) > 36, np.nan, values).reshape(4, 12)
    colors = axes.imshow(shown, cmap="Greys_r")
    for (name, path), style in zip(paths.items(), ("o-C1", "s-C0"), strict=True):
        rows, columns = np.unravel_index(path, (4, 12))
        axes.plot(columns, rows, style, label=f"{name}, {len(path) - 1} steps")
    axes.text(5.5, 3, "cliff", ha="center", va="center")
    axes.set(title="The learned paths without random actions", xticks=[], yticks=[])
    axes.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=2)
    figure.colorbar(colors, label="value V(s) by Q-learning", shrink=0.7)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(config.environments) + 4)  # two on the cliff, two with a time limit
    for name in config.environments:
        environments.find(name, "--environments")
        rules = getattr(gymnasium.make(name).unwrapped, "P", {})
        if not rules or list(rules) != list(range(len(rules))):
            raise UsageError(
                f"--environments {name}: it has no table of states 0, 1, ..., as {LAKE} has"
            )
    copies = config.agents * config.copies

    def train(name, steps, limit=None, **how):
        envs = environments.make_vec(name, copies, max_episode_steps=limit)
        state = begin(envs, config, steps, run.seed)
        recent = lambda: state["returns"][np.isfinite(state["returns"])][-100:].mean()  # noqa: E731
        show = lambda: {"return": recent(), "ε": config.exploration}  # noqa: E731
        blocks = run.loop(name, -(-steps // BLOCK), state, unit="blocks", show=show)
        learn(state, envs, config, blocks, **how)
        return state

    seeds = np.random.default_rng(run.seed).integers(
        2**31, size=config.evaluation_episodes
    )
    curves, tables = {}, {}
    for name in config.environments:
        state = train(name, config.steps)
        tables[name], often = state["table"], state["visits"] >= 100
        # A policy that is not the best may walk in circles.
        limit = environments.find(name).max_episode_steps or 200
        environment = gymnasium.make(name, max_episode_steps=limit)
        exact = optimal_values(environment, config.discount)
        best = play(environment, exact.argmax(axis=1), seeds)[0].mean()
        found = [
            play(environment, each.argmax(axis=1), seeds)[0].mean()
            for each in tables[name]
        ]
        error = np.abs(tables[name] - exact)[often].mean()
        run.metric(f"return_{name}", np.mean(found))
        run.claim(
            f"On {name} Q-learning reaches the optimal return, and Q* where it has been often",
            holds=np.mean(found) > best - 0.1 * abs(best)
            and error < 0.1 * np.ptp(exact),
            measured=f"return {np.mean(found):.3f} (worst of {len(found)} agents {min(found):.3f}),"
            f" {best:.3f} by the optimal policy on the same seeds; mean error {error:.3f} of "
            f"entries tried 100 times, Q* spans {exact.min():.2f} to {exact.max():.2f}",
        )
        curves[name] = state["returns"], best

    # The cliff, by the best policy's values and by the values of what it does itself.
    cliff = gymnasium.make(CLIFF, max_episode_steps=200)
    found, paths, late = {}, {}, {}
    for name in ("Q-learning", "SARSA"):
        state = train(CLIFF, 3000, on_policy=name == "SARSA")
        found[name], late[name] = state["table"], np.nanmean(state["returns"][2000:])
        _, paths[name] = play(cliff, found[name][0].argmax(axis=1), [run.seed])
    shortest, safe = (len(path) - 1 for path in paths.values())
    run.claim(
        "Q-learning finds the shortest path although its own slips make it fall; SARSA keeps off "
        "the edge and falls less",
        holds=shortest == 13 < safe < 30 and late["SARSA"] > late["Q-learning"] + 10,
        measured=f"paths of {shortest} and {safe} steps, mean return while exploring "
        f"{late['Q-learning']:.1f} and {late['SARSA']:.1f}",
    )

    # A limit that cuts most episodes short, taken for what it is and for an end.
    exact = optimal_values(gymnasium.make(LAKE), config.discount)[0].max()
    right, wrong = (
        train(LAKE, 4000, limit=25, limit_is_end=is_end)["table"][:, 0]
        .max(axis=1)
        .mean()
        for is_end in (False, True)
    )
    run.claim(
        "A time limit is no end: taken for one, the start looks worth far less than it is",
        holds=abs(right - exact) < 0.12 < 0.2 < exact - wrong,
        measured=f"{LAKE} cut at 25 steps: value of the start {exact:.3f}, learned {right:.3f}, "
        f"with limits as ends {wrong:.3f}",
    )

    run.figure("returns", plot_returns(curves, config.agents))
    run.figure("cliff", plot_paths(found["Q-learning"][0].max(axis=1), paths))
    name = config.environments[-1]
    watched = gymnasium.make(name, render_mode="rgb_array_list", max_episode_steps=23)
    play(watched, tables[name][0].argmax(axis=1), [run.seed])
    frames = np.array(watched.render()) / 255
    steps, title = (
        list(map(str, range(24))),
        f"An episode of {name} without random actions",
    )
    run.figure(
        "episode", figures.image_grid(frames, title=title, captions=steps, columns=8)
    )
    policy = serving.policy(build_table(tables[config.environments[0]][0]))
    run.export(policy, example=np.arange(3))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
