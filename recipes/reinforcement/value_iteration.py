"""Value iteration and policy iteration solve a decision process whose rules are known.

The best value of a state obeys Bellman's equation, V(s) = max_a [R(s,a) + γ Σ_s'
P(s'|s,a) V(s')]. Value iteration uses the right side as an update. Each sweep over all
states brings the worst error down by γ or more, so the error after k sweeps is at most
γᵏ times the first one. Policy iteration solves the linear system of one policy's values
exactly, takes the best action everywhere, and repeats: few rounds, each more expensive.
Look at the straight lines of the errors, at the detours that the arrows make around the
holes, and at the episodes that earn what the tables promise, once the time limit is
accounted for.

Lectures: CS Deep Reinforcement Learning (Markov decision process, Q-value function)
Paper: Bellman, Dynamic programming, 1957; Howard, Dynamic programming and Markov
    processes, 1960
Tags: mdp, markov decision process, bellman equation, dynamic programming, planning,
    frozenlake, rl
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import gymnasium
import keras
import numpy as np
from annotated_types import Gt, Interval
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    discount: Annotated[float, Interval(gt=0, lt=1)] = 0.99
    """what a reward is worth one step later, γ"""
    tolerance: Annotated[float, Gt(0)] = 1e-9
    """largest error of a value at which value iteration stops"""
    episodes: int = 4000
    """played in each environment to measure what its policy earns"""


QUICK = Config(episodes=2000)
FULL = Config(discount=0.999, episodes=10_000)

# --------------------------------------------------------------------------------------
# The idea: Bellman's equation as an update, and as a linear system
# --------------------------------------------------------------------------------------


@dataclass
class Model:
    """A Markov decision process as arrays, for products in place of loops over
    states."""

    transitions: np.ndarray
    """P[s, a, s'], of going on in s': sums to less than 1 where it may end"""
    rewards: np.ndarray
    """R[s, a], expected in the step"""
    start: np.ndarray
    """probability of each first state"""


def read_model(environment: gymnasium.Env, past_the_end: bool = False) -> Model:
    """The rules of an environment of Gymnasium's toy-text family, from its table `P`.

    past_the_end: the mistake of counting on rewards after the episode is over.
    """
    rules = environment.unwrapped
    states = environment.observation_space.n
    actions = environment.action_space.n
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    for state, action in np.ndindex(rewards.shape):
        # Two slips may lead to the same place: their probabilities add up.
        for probability, following, reward, terminated in rules.P[state][action]:
            rewards[state, action] += probability * reward
            if past_the_end or not terminated:
                transitions[state, action, following] += probability
    return Model(transitions, rewards, rules.initial_state_distrib)


def action_values(model: Model, values: np.ndarray, discount: float) -> np.ndarray:
    """Bellman's right side before the maximum, Q[s, a] = R[s, a] + γ Σ P[s, a, s']
    V[s']."""
    return model.rewards + discount * model.transitions @ values


def value_iteration(
    model: Model, discount: float, tolerance: float
) -> list[np.ndarray]:
    """The values after 0, 1, 2, ... sweeps, until none can be further than `tolerance`
    from the optimum: by contraction that distance is at most γ / (1 − γ) times the last
    change."""
    sweeps = [np.zeros(len(model.rewards))]
    change = np.inf
    while change * discount > tolerance * (1 - discount):
        values = action_values(model, sweeps[-1], discount).max(axis=1)
        change = np.abs(values - sweeps[-1]).max()
        sweeps.append(values)
    return sweeps


def evaluate_policy(model: Model, policy: np.ndarray, discount: float) -> np.ndarray:
    """The values V[s] of always taking action policy[s]: solves (I − γ P_π) V = R_π."""
    states = np.arange(len(policy))
    system = np.eye(len(policy)) - discount * model.transitions[states, policy]
    return np.linalg.solve(system, model.rewards[states, policy])


def evaluate_for(
    model: Model, policy: np.ndarray, discount: float, steps: int
) -> np.ndarray:
    """The same when time is up after so many steps: each sweep from 0 adds one step."""
    states = np.arange(len(policy))
    values = np.zeros(len(policy))
    for _ in range(steps):
        values = action_values(model, values, discount)[states, policy]
    return values


@dataclass
class Solution:
    policy: np.ndarray
    """the best action in each state, (states,)"""
    values: np.ndarray
    """V*[s]"""
    rounds: int
    """policies that were evaluated"""


def policy_iteration(model: Model, discount: float) -> Solution:
    """Evaluates a policy and takes the best actions, until none is better."""
    states = np.arange(len(model.rewards))
    policy = np.zeros(len(states), int)
    rounds = 0
    while True:
        values = evaluate_policy(model, policy, discount)
        rounds += 1
        promised = action_values(model, values, discount)
        # Among actions that tie but for rounding, a switch would never come to an end.
        is_better = promised.max(axis=1) > promised[states, policy] + 1e-9
        if not is_better.any():
            return Solution(policy, values, rounds)
        policy = np.where(is_better, promised.argmax(axis=1), policy)


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (states, actions) as a network. Input: observation
    (batch,) of state numbers. Output: (batch, actions)."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, dtype="float32", name="table")
    found = table(observation)
    table.set_weights([values])
    return keras.Model(observation, found, name="table")


# --------------------------------------------------------------------------------------
# The experiment: two ways to the optimum, and what real episodes earn
# --------------------------------------------------------------------------------------

LAKE = "FrozenLake-v1"
LARGE_LAKE = "FrozenLake8x8-v1"
TAXI = "Taxi-v4"
CLIFF = "CliffWalking-v1"

STEP_LIMITS = {
    LAKE: 100,
    LARGE_LAKE: 200,
    TAXI: 200,
    CLIFF: 200,  # it has none of its own
}

# What the actions 0 to 3 mean.
ARROWS = {
    LAKE: "←↓→↑",
    LARGE_LAKE: "←↓→↑",
    CLIFF: "↑→↓←",
}


@dataclass
class Solved:
    """An environment, solved in both ways."""

    environment: gymnasium.Env
    model: Model
    sweeps: list[np.ndarray]
    """the values after 0, 1, 2, ... sweeps of value iteration"""
    solution: Solution
    """by policy iteration"""
    discount: float

    @property
    def errors(self) -> np.ndarray:
        """of the worst state after each sweep"""
        apart = np.array(self.sweeps) - self.solution.values
        return np.abs(apart).max(axis=1)

    def sweeps_to_the_best_policy(self) -> int:
        """After so many sweeps the best actions by the values are the best policy,
        though the values are not yet right."""
        for sweep, values in enumerate(self.sweeps):
            policy = action_values(self.model, values, self.discount).argmax(axis=1)
            earned = evaluate_policy(self.model, policy, self.discount)
            if np.abs(earned - self.solution.values).max() < 1e-9:
                return sweep
        return len(self.sweeps)

    def slowest_ratio(self) -> float:
        """The largest by which a sweep multiplied the worst error."""
        # Below a millionth it would be a ratio of rounding errors.
        ratios = [
            after / before for before, after in pairwise(self.errors) if before > 1e-6
        ]
        return max(ratios)


def solve(name: str, config: Config) -> Solved:
    environment = gymnasium.make(name, max_episode_steps=STEP_LIMITS[name])
    model = read_model(environment)
    return Solved(
        environment,
        model,
        sweeps=value_iteration(model, config.discount, config.tolerance),
        solution=policy_iteration(model, config.discount),
        discount=config.discount,
    )


def play(
    environment: gymnasium.Env, policy: np.ndarray, discount: float, seeds
) -> np.ndarray:
    """Discounted return and plain return of one real episode for each seed, (episodes,
    2)."""
    returns = []
    for seed in seeds:
        state, _ = environment.reset(seed=int(seed))
        discounted = 0.0
        plain = 0.0
        weight = 1.0
        is_over = False
        while not is_over:
            state, reward, terminated, truncated, _ = environment.step(policy[state])
            discounted += weight * reward
            plain += reward
            weight *= discount
            is_over = terminated or truncated
        returns.append((discounted, plain))
    return np.array(returns)


@dataclass
class Earned:
    """What real episodes earned: means, and their standard errors."""

    discounted: float
    discounted_error: float
    plain: float
    plain_error: float
    promised: float
    """by the values of the start, discounted and up to the time limit"""


def earn(name: str, solved: Solved, seeds: np.ndarray, run: Run) -> Earned:
    policy = solved.solution.policy
    tracked = run.track(seeds, name, unit="episodes")
    returns = play(solved.environment, policy, solved.discount, tracked)
    discounted, plain = returns.mean(axis=0)
    # All walks along the cliff are the same: the last term stands for rounding there.
    errors = returns.std(axis=0) / len(seeds) ** 0.5 + 1e-9
    limit = STEP_LIMITS[name]
    values = evaluate_for(solved.model, policy, solved.discount, limit)
    return Earned(
        discounted=discounted,
        discounted_error=errors[0],
        plain=plain,
        plain_error=errors[1],
        promised=values @ solved.model.start,
    )


def earn_all(solved: dict[str, Solved], config: Config, run: Run) -> dict[str, Earned]:
    random = np.random.default_rng(run.seed)
    earned = {}
    for name, each in solved.items():
        seeds = random.integers(2**31, size=config.episodes)
        earned[name] = earn(name, each, seeds, run)
    return earned


def judge_sweeps(solved: dict[str, Solved], config: Config, run: Run) -> None:
    gamma = config.discount
    ratios = {name: each.slowest_ratio() for name, each in solved.items()}
    run.claim(
        "Each sweep of value iteration brings the worst error down by the discount γ or "
        "more",
        holds=max(ratios.values()) < gamma * (1 + 1e-6),
        measured=f"slowest sweep at γ = {gamma:g}: "
        + ", ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items()),
    )
    apart = max(each.errors[-1] for each in solved.values())
    run.claim(
        "Value iteration and policy iteration end at the same values",
        holds=apart < 2 * config.tolerance,
        measured=f"furthest apart {apart:.1e}, asked for {config.tolerance:.0e}",
    )


def judge_rounds(solved: dict[str, Solved], run: Run) -> None:
    """Rounds beside sweeps, both until the policy is the best."""
    rounds = {name: each.solution.rounds for name, each in solved.items()}
    sweeps = {name: each.sweeps_to_the_best_policy() for name, each in solved.items()}
    fewer = [3 * rounds[name] < sweeps[name] for name in (LAKE, LARGE_LAKE)]
    as_many = [2 * rounds[name] > sweeps[name] for name in (TAXI, CLIFF)]
    run.claim(
        "Policy iteration needs few rounds on the slippery lakes, where value iteration "
        "needs at least three times as many sweeps to the best policy; where every step "
        "is certain, about as many",
        holds=all(fewer) and all(as_many),
        measured=", ".join(
            f"{name} {rounds[name]} rounds, {sweeps[name]} sweeps "
            f"({len(each.sweeps) - 1} until the values are right)"
            for name, each in solved.items()
        ),
    )


def judge_episodes(earned: dict[str, Earned], run: Run) -> None:
    """What the policies earn in real episodes, against what the tables promise."""
    run.metric("frozen_lake_success_rate", earned[LAKE].plain)
    run.metric("frozen_lake_8x8_success_rate", earned[LARGE_LAKE].plain)
    run.metric("taxi_return", earned[TAXI].plain)
    distances = [
        abs(each.discounted - each.promised) / each.discounted_error
        for each in earned.values()
    ]
    run.claim(
        "Episodes earn what the value of the start promises, counted up to the time limit",
        holds=max(distances) < 4,
        measured="mean discounted return ± its standard error, of the promised: "
        + ", ".join(
            f"{name} {each.discounted:.3f} ± {each.discounted_error:.3f} of "
            f"{each.promised:.3f}"
            for name, each in earned.items()
        ),
    )


def judge_time_limit(lake: Solved, earned: Earned, run: Run) -> None:
    success = earned.plain
    error = earned.plain_error
    policy = lake.solution.policy
    within = evaluate_for(lake.model, policy, 1.0, STEP_LIMITS[LAKE]) @ lake.model.start
    endless = evaluate_policy(lake.model, policy, 1.0) @ lake.model.start
    run.claim(
        "An endless horizon promises more than a time limit lets through",
        holds=abs(success - within) < 4 * error and success < endless - 3 * error,
        measured=f"{LAKE}: goal reached in {success:.3f} ± {error:.3f} of episodes; "
        f"{within:.3f} expected in {STEP_LIMITS[LAKE]} steps, {endless:.3f} without a "
        "limit",
    )


def judge_the_end(taxi: Solved, earned: Earned, run: Run) -> None:
    mistaken = read_model(taxi.environment, past_the_end=True)
    values = policy_iteration(mistaken, taxi.discount).values
    wrong = values @ taxi.model.start
    run.claim(
        "What lies past the end must count nothing: else the values promise what nobody "
        "earns",
        holds=wrong > earned.discounted + 20 * earned.discounted_error,
        measured=f"{TAXI}: {wrong:.1f} promised with rewards past the end, "
        f"{earned.promised:.1f} without, {earned.discounted:.1f} earned",
    )


def tiles_of(name: str, environment: gymnasium.Env) -> np.ndarray:
    """The letters of a map, (rows, columns): S start, F free, H hole or cliff, G
    goal."""
    if name != CLIFF:
        return environment.unwrapped.desc.astype(str)
    rows = [list("F" * 12)] * 3
    rows.append(list("S" + "H" * 10 + "G"))
    return np.array(rows)


def draw_map(figure: Figure, axes: plt.Axes, name: str, solved: Solved) -> None:
    """Values as colors, best actions as arrows, and what stands on the grid."""
    tiles = tiles_of(name, solved.environment)
    values = solved.solution.values.reshape(tiles.shape)
    policy = solved.solution.policy.reshape(tiles.shape)
    shown = np.where(np.isin(tiles, ["H", "G"]), np.nan, values)
    colors = axes.imshow(shown)
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for (row, column), tile in np.ndenumerate(tiles):
        arrow = ARROWS[name][policy[row, column]]
        axes.text(
            column,
            row,
            {"H": "✕", "G": "★"}.get(tile, arrow),
            color="white" if shown[row, column] < middle else "black",
            fontsize=14,
            ha="center",
            va="center",
        )
    axes.set(title=name, xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(colors, ax=axes, label="value V(s)", orientation="horizontal")


def draw_maps(solved: dict[str, Solved]) -> Figure:
    figure, grid = plt.subplots(
        1, len(ARROWS), figsize=(13, 4.2), width_ratios=[4, 5, 8]
    )
    for axes, name in zip(grid, ARROWS, strict=True):
        draw_map(figure, axes, name, solved[name])
    figure.suptitle("Best action and value of each state (✕ hole or cliff, ★ goal)")
    return figure


def draw_errors(solved: dict[str, Solved], discount: float) -> Figure:
    """The worst state's error by sweep beside the bound γᵏ, as shares of the first
    error, as long as they are more than a billionth."""
    lines = {}
    for name, each in solved.items():
        shares = each.errors / each.errors[0]
        shown = np.count_nonzero(shares > 1e-9)
        lines[name] = (np.arange(shown), shares[:shown])
    longest = max(len(each.sweeps) for each in solved.values())
    sweeps = np.arange(longest)
    lines[f"bound γᵏ, γ = {discount:g}"] = (sweeps, discount**sweeps)
    return figures.curves(
        lines,
        title="Each sweep brings the worst error down by γ or more",
        xlabel="sweep k",
        ylabel="largest error / first error",
        yscale="log",
    )


def main(config: Config, run: Run) -> None:
    solved = {name: solve(name, config) for name in STEP_LIMITS}
    judge_sweeps(solved, config, run)
    judge_rounds(solved, run)

    earned = earn_all(solved, config, run)
    judge_episodes(earned, run)
    judge_time_limit(solved[LAKE], earned[LAKE], run)
    judge_the_end(solved[TAXI], earned[TAXI], run)

    run.figure("maps", draw_maps(solved))
    run.figure("errors", draw_errors(solved, config.discount))
    lake = solved[LAKE]
    table = action_values(lake.model, lake.solution.values, config.discount)
    policy = serving.policy(build_table(table))
    run.export(policy, example=np.array([0, 6, 14], "int32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
