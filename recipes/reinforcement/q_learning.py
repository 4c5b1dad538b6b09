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

import math
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
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, environments, figures, serving
from deep_learning_recipes.run import Run, cli

LAKE = "FrozenLake-v1"
CLIFF = "CliffWalking-v1"

# Frames go to arrays: no display is needed.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


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

# --------------------------------------------------------------------------------------
# The idea: a table that moves toward what came of each action
# --------------------------------------------------------------------------------------

BLOCK = 500  # steps after which all copies begin anew


def values_of_next(options, next_actions, on_policy: bool):
    """What the following states are worth, (copies,).

    options: Q[s', ·], (copies, actions). next_actions: (copies,).
    on_policy: by the action that is taken next (SARSA), else by the best (Q-learning).
    """
    if on_policy:
        return options[np.arange(len(options)), next_actions]
    return options.max(axis=1)


class Agents:
    """Some agents, each with a table of its own, that learn side by side.

    envs: the copies of the environment, the same number for each agent.
    steps: of each copy, in all.
    on_policy: SARSA instead of Q-learning.
    limit_is_end: makes the mistake of taking a time limit for an end.
    """

    def __init__(
        self,
        config: Config,
        envs: VectorEnv,
        steps: int,
        seed: int,
        on_policy: bool = False,
        limit_is_end: bool = False,
    ):
        self.config = config
        self.envs = envs
        self.steps = steps
        self.on_policy = on_policy
        self.limit_is_end = limit_is_end
        self.random = np.random.default_rng(seed)
        self.agent_of_copy = np.repeat(np.arange(config.agents), config.copies)

        states = envs.single_observation_space.n
        actions = envs.single_action_space.n
        shape = (config.agents, states, actions)
        # More than they find at first: they try what they have not.
        self.table = np.ones(shape)
        self.visits = np.zeros(shape, int)

        # Of each episode, at the step that ended it; NaN elsewhere.
        self.returns = np.full((steps, envs.num_envs), np.nan)
        # The best actions after each block.
        blocks = math.ceil(steps / BLOCK)
        self.policies = np.zeros((blocks, config.agents, states), int)

    def act(self, states) -> np.ndarray:
        """ε-greedy actions, (copies,)."""
        values = self.table[self.agent_of_copy, states]
        tie_break = 1e-9 * self.random.random(values.shape)  # among equals, any will do
        greedy = np.argmax(values + tie_break, axis=1)
        explores = self.random.random(len(values)) < self.config.exploration
        anything = self.random.integers(values.shape[1], size=len(values))
        return np.where(explores, anything, greedy)

    def learning_rate(self, step: int) -> float:
        return self.config.learning_rate * (1 - 0.98 * step / self.steps)

    def update(self, entries, targets, rate: float) -> None:
        """Q[s, a] ← Q[s, a] + α (target − Q[s, a]).

        entries: agents, states and actions, (n,) each. Where two are the same, one of
            them counts.
        """
        self.table[entries] += rate * (targets - self.table[entries])
        self.visits[entries] += 1

    def play_block(self, block: int) -> None:
        """BLOCK steps in each copy, with an update after each of them."""
        # All begin anew: a checkpoint between two blocks cannot hold what is inside the
        # environments.
        seed = int(self.random.integers(2**31))
        states, _ = self.envs.reset(seed=seed)
        actions = self.act(states)
        is_running = np.ones(len(states), bool)
        returns = np.zeros(len(states))

        first = block * BLOCK
        for step in range(first, min(first + BLOCK, self.steps)):
            following, rewards, terminated, truncated, _ = self.envs.step(actions)
            next_actions = self.act(following)
            ended = terminated | truncated

            options = self.table[self.agent_of_copy, following]
            values = values_of_next(options, next_actions, self.on_policy)
            stops = ended if self.limit_is_end else terminated
            targets = rewards + self.config.discount * np.where(stops, 0, values)

            # After an end the copy's next step is its reset: no action led there.
            copies = np.flatnonzero(is_running)
            entries = (self.agent_of_copy[copies], states[copies], actions[copies])
            self.update(entries, targets[copies], self.learning_rate(step))

            returns += rewards
            self.returns[step, ended] = returns[ended]
            returns[ended] = 0
            is_running = ~ended
            states = following
            actions = next_actions

        self.policies[block] = self.table.argmax(axis=2)

    def recent_return(self) -> float:
        """The mean of the last hundred episodes."""
        return self.returns[np.isfinite(self.returns)][-100:].mean()

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "table": self.table,
            "visits": self.visits,
            "returns": self.returns,
            "policies": self.policies,
            "random": self.random,
        }


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (states, actions) as a network. Input: observation
    (batch,) of state numbers. Output: (batch, actions)."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, dtype="float32", name="table")
    found = table(observation)
    table.set_weights([values])
    return keras.Model(observation, found, name="table")


# --------------------------------------------------------------------------------------
# The experiment: beside the optimum, along the cliff, and cut short by a time limit
# --------------------------------------------------------------------------------------

STEP_LIMIT = 200  # where the environment has none: a bad policy may walk in circles
TRIED_OFTEN = 100  # times, from which an entry of the table should be right
STEPS_AT_CLIFF = 3000
STEPS_WITH_LIMIT = 4000
TIME_LIMIT = 25  # steps; it cuts most episodes on the lake short
WINDOW = 50  # episodes that a curve is averaged over
POINTS = 10  # of a curve without random actions
FRAMES = 24


def backup(outcomes, best: np.ndarray, discount: float) -> float:
    """The right side of Bellman's equation for one action, by the rules. best: max
    Q[s', ·], (states,)."""
    total = 0.0
    for probability, following, reward, ended in outcomes:
        worth = 0.0 if ended else best[following]
        total += probability * (reward + discount * worth)
    return total


def optimal_values(environment: gymnasium.Env, discount: float) -> np.ndarray:
    """Q*[s, a] by value iteration over the environment's rules, which the agents do not
    see."""
    rules = environment.unwrapped.P
    values = np.zeros((len(rules), len(rules[0])))
    change = np.inf
    while change > 1e-9:
        best = values.max(axis=1)
        before = values.copy()
        for state, action in np.ndindex(values.shape):
            values[state, action] = backup(rules[state][action], best, discount)
        change = np.abs(values - before).max()
    return values


def expected_return(environment: gymnasium.Env, policy: np.ndarray) -> float:
    """What a policy (states,) earns in an episode, on average and up to the time limit:
    exactly, from the rules."""
    rules = environment.unwrapped.P
    rewards = np.zeros(len(policy))
    transitions = np.zeros((len(policy), len(policy)))
    for state, action in enumerate(policy):
        for probability, following, reward, ended in rules[state][action]:
            rewards[state] += probability * reward
            transitions[state, following] += probability * (not ended)

    values = np.zeros(len(policy))
    for _ in range(environment.spec.max_episode_steps):
        values = rewards + transitions @ values
    return float(environment.unwrapped.initial_state_distrib @ values)


@dataclass
class Episode:
    total: float
    """the return, without discount"""
    path: list[int]
    """the states from the first to the last"""


def play(environment: gymnasium.Env, policy: np.ndarray, seed: int) -> Episode:
    state, _ = environment.reset(seed=int(seed))
    episode = Episode(0.0, [state])
    is_over = False
    while not is_over:
        state, reward, terminated, truncated, _ = environment.step(policy[state])
        episode.total += reward
        episode.path.append(state)
        is_over = terminated or truncated
    return episode


def mean_return(environment: gymnasium.Env, policy: np.ndarray, seeds) -> float:
    """Over an episode for each seed."""
    returns = [play(environment, policy, seed).total for seed in seeds]
    return float(np.mean(returns))


def require_tables(config: Config) -> None:
    for name in config.environments:
        environments.find(name, "--environments")
        rules = getattr(gymnasium.make(name).unwrapped, "P", {})
        if not rules or list(rules) != list(range(len(rules))):
            raise UsageError(
                f"--environments {name}: it has no table of states 0, 1, ..., as {LAKE} "
                "has"
            )


def train(
    name: str,
    steps: int,
    config: Config,
    run: Run,
    limit: int | None = None,
    on_policy: bool = False,
    limit_is_end: bool = False,
) -> Agents:
    """limit: of an episode's steps, in place of the environment's own."""
    copies = config.agents * config.copies
    envs = environments.make_vec(name, copies, max_episode_steps=limit)
    agents = Agents(config, envs, steps, run.seed, on_policy, limit_is_end)

    def show():
        return {"return": agents.recent_return(), "ε": config.exploration}

    blocks = math.ceil(steps / BLOCK)
    for block in run.loop(name, blocks, agents.state(), unit="blocks", show=show):
        agents.play_block(block)
    return agents


@dataclass
class Found:
    """What agents learned in one environment, and what the rules say."""

    agents: Agents
    environment: gymnasium.Env
    best_values: np.ndarray
    """Q*[s, a]"""


def solve(name: str, config: Config, run: Run) -> Found:
    agents = train(name, config.steps, config, run)
    limit = environments.find(name).max_episode_steps or STEP_LIMIT
    environment = gymnasium.make(name, max_episode_steps=limit)
    return Found(agents, environment, optimal_values(environment, config.discount))


def judge_optimum(name: str, found: Found, config: Config, run: Run) -> None:
    random = np.random.default_rng(run.seed)
    seeds = random.integers(2**31, size=config.evaluation_episodes)
    exact = found.best_values
    best = mean_return(found.environment, exact.argmax(axis=1), seeds)
    policies = found.agents.policies[-1]
    earned = [mean_return(found.environment, policy, seeds) for policy in policies]

    often = found.agents.visits >= TRIED_OFTEN
    error = np.abs(found.agents.table - exact)[often].mean()
    # A table of one number, the best one, needs no learning.
    of_entries = np.broadcast_to(exact, often.shape)[often]
    of_constant = np.abs(of_entries - np.median(of_entries)).mean()
    run.metric(f"return_{name}", np.mean(earned))
    run.claim(
        f"On {name} Q-learning comes within a tenth of the optimal return, and where it "
        "has been often nearer to Q* than one number for all entries",
        holds=np.mean(earned) > best - 0.1 * abs(best) and error < 0.75 * of_constant,
        measured=f"return {np.mean(earned):.3f} (worst of {len(earned)} agents "
        f"{min(earned):.3f}), {best:.3f} by the optimal policy on the same seeds; mean "
        f"error of entries tried {TRIED_OFTEN} times {error:.3f}, of their median "
        f"{of_constant:.3f}",
    )


@dataclass
class Walk:
    """Agents that learned to walk along the cliff."""

    agents: Agents
    paths: list[list[int]]
    """of each agent without random actions"""

    @property
    def steps(self) -> list[int]:
        return [len(path) - 1 for path in self.paths]

    @property
    def late_return(self) -> float:
        """with random actions, in the last third"""
        return float(np.nanmean(self.agents.returns[2 * STEPS_AT_CLIFF // 3 :]))


def walk_the_cliff(config: Config, run: Run) -> dict[str, Walk]:
    """By the best policy's values, and by the values of what the agents do themselves."""
    cliff = gymnasium.make(CLIFF, max_episode_steps=STEP_LIMIT)
    walks = {}
    for name in ("Q-learning", "SARSA"):
        on_policy = name == "SARSA"
        agents = train(CLIFF, STEPS_AT_CLIFF, config, run, on_policy=on_policy)
        policies = agents.policies[-1]
        paths = [play(cliff, policy, run.seed).path for policy in policies]
        walks[name] = Walk(agents, paths)
    return walks


def judge_cliff(walks: dict[str, Walk], run: Run) -> None:
    shortest = walks["Q-learning"]
    safe = walks["SARSA"]
    run.claim(
        "Q-learning finds the shortest path although its own slips make it fall; SARSA "
        "takes a longer one and earns more while it explores",
        holds=max(shortest.steps) == 13
        and min(safe.steps) > 13
        and np.median(safe.steps) < 30
        and safe.late_return > shortest.late_return + 10,
        measured=f"paths of {shortest.steps} and {safe.steps} steps, mean return while "
        f"exploring {shortest.late_return:.1f} and {safe.late_return:.1f}",
    )


def value_of_start(agents: Agents) -> float:
    """max Q[0, ·], the mean of all agents."""
    return float(agents.table[:, 0].max(axis=1).mean())


def judge_limit(config: Config, run: Run) -> None:
    """A limit that cuts most episodes short, taken for what it is and for an end."""
    exact = optimal_values(gymnasium.make(LAKE), config.discount)[0].max()
    right = value_of_start(train(LAKE, STEPS_WITH_LIMIT, config, run, TIME_LIMIT))
    mistaken = train(LAKE, STEPS_WITH_LIMIT, config, run, TIME_LIMIT, limit_is_end=True)
    wrong = value_of_start(mistaken)
    run.claim(
        "A time limit is no end: taken for one, the start looks worth far less than it "
        "is",
        holds=abs(right - exact) < 0.12 and exact - wrong > 0.2,
        measured=f"{LAKE} cut at {TIME_LIMIT} steps: value of the start {exact:.3f}, "
        f"learned {right:.3f}, with limits as ends {wrong:.3f}",
    )


def smooth_returns(agents: Agents) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,), and the mean return of the last episodes by then, (points,
    agents)."""
    steps = np.linspace(0, len(agents.returns), 41)[1:]
    curves = []
    for own in np.split(agents.returns, agents.config.agents, axis=1):
        ends, _ = np.nonzero(np.isfinite(own))
        width = min(WINDOW, len(ends))
        if not width:
            continue  # no episode of this agent has ended
        window = np.ones(width) / width
        means = np.convolve(own[np.isfinite(own)], window, "valid")
        curves.append(np.interp(steps, ends[width - 1 :], means))
    return steps, np.transpose(curves)


def greedy_returns(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,), and what the tables earn by then without random actions,
    (points, agents)."""
    policies = found.agents.policies
    blocks = np.linspace(0, len(policies) - 1, min(POINTS, len(policies))).round()
    blocks = blocks.astype(int)
    returns = [
        [expected_return(found.environment, policy) for policy in policies[block]]
        for block in blocks
    ]
    steps = np.minimum((blocks + 1) * BLOCK, found.agents.steps)
    return steps, np.array(returns)


def draw_returns(solved: dict[str, Found]) -> Figure:
    """Returns while learning and without random actions, beside the optimum: the mean
    of the agents, with the worst and the best shaded."""
    panels = []
    for name, found in solved.items():
        optimum = expected_return(found.environment, found.best_values.argmax(axis=1))
        greedy = greedy_returns(found)
        learning = smooth_returns(found.agents)
        lines = {"without random actions": greedy}
        if learning[1].size:
            lines[f"while learning, mean of {WINDOW} episodes"] = learning
        lowest = np.quantile(learning[1] if learning[1].size else greedy[1], 0.1)
        room = 0.1 * (optimum - lowest)
        panels.append(
            figures.Panel(
                title=name,
                xlabel="steps of each copy",
                ylabel="return of an episode",
                lines=lines,
                levels={"optimal policy": optimum},
                ylim=(lowest - room, optimum + room),
            )
        )
    return figures.panels(*panels)


def draw_paths(walks: dict[str, Walk]) -> Figure:
    """The first agents' walks along the cliff, over the values V(s) that Q-learning
    found."""
    figure, axes = plt.subplots(figsize=(9, 3.9))
    values = walks["Q-learning"].agents.table[0].max(axis=1)
    is_cliff = np.arange(48) > 36
    shown = np.where(is_cliff, np.nan, values).reshape(4, 12)
    colors = axes.imshow(shown, cmap="Greys_r")
    styles = {"Q-learning": "o-C1", "SARSA": "s--C0"}
    for name, walk in walks.items():
        rows, columns = np.unravel_index(walk.paths[0], (4, 12))
        label = f"{name}, {walk.steps[0]} steps"
        axes.plot(columns, rows, styles[name], label=label)
    axes.text(5.5, 3, "cliff", ha="center", va="center")
    axes.text(11.2, 3.3, "goal", ha="center", va="center")
    axes.text(-0.2, 3.35, "start", ha="center", va="center", color="white")
    axes.set(title="The learned paths without random actions", xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2)
    figure.colorbar(colors, label="value V(s) by Q-learning", shrink=0.7)
    return figure


def draw_episode(name: str, policy: np.ndarray, seed: int) -> Figure:
    watched = gymnasium.make(
        name, render_mode="rgb_array_list", max_episode_steps=FRAMES - 1
    )
    play(watched, policy, seed)
    return figures.image_grid(
        np.array(watched.render()) / 255,
        title=f"An episode of {name} without random actions, step by step",
        captions=list(map(str, range(FRAMES))),
        columns=8,
    )


def main(config: Config, run: Run) -> None:
    run.plan(len(config.environments) + 4)  # two on the cliff, two with a time limit
    require_tables(config)
    solved = {}
    for name in config.environments:
        solved[name] = solve(name, config, run)
        judge_optimum(name, solved[name], config, run)

    walks = walk_the_cliff(config, run)
    judge_cliff(walks, run)
    judge_limit(config, run)

    run.figure("returns", draw_returns(solved))
    run.figure("cliff", draw_paths(walks))
    last = config.environments[-1]
    policy = solved[last].agents.policies[-1][0]
    run.figure("episode", draw_episode(last, policy, run.seed))
    table = solved[config.environments[0]].agents.table[0]
    run.export(serving.policy(build_table(table)), example=np.arange(3))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
