"""Value iteration and policy iteration solve a decision process whose rules are known.

The best value of a state obeys Bellman's equation, V(s) = max_a [R(s,a) + γ Σ_s'
P(s'|s,a) V(s')]. Value iteration uses the right side as an update. Each sweep over all
states brings the worst error down by γ or more, so the error after k sweeps is at most
γᵏ times the first one. Policy iteration solves the linear system of one policy's values
exactly, takes the best action everywhere, and
repeats: few rounds, each more expensive.
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

from deep_learning_recipes import UsageError, serving
from deep_learning_recipes.run import Run, cli

LAKE, LARGE_LAKE, TAXI, CLIFF = (
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Taxi-v4",
    "CliffWalking-v1",
)
STEP_LIMITS = {
    LAKE: 100,
    LARGE_LAKE: 200,
    TAXI: 200,
    CLIFF: 200,
}  # the cliff has none of its own
ARROWS = {
    LAKE: "←↓→↑",
    LARGE_LAKE: "←↓→↑",
    CLIFF: "↑→↓←",
}  # what the actions 0 to 3 mean


@dataclass
class Config:
    discount: Annotated[float, Interval(ge=0, lt=1)] = 0.99
    """what a reward is worth one step later, γ"""
    tolerance: Annotated[float, Gt(0)] = 1e-9
    """largest error of a value at which value iteration stops"""
    episodes: int = 4000
    """played in each environment to measure what its policy earns"""


QUICK = Config(episodes=2000)
FULL = Config(discount=0.999, episodes=10_000)


@dataclass
class Model:
    """A Markov decision process as arrays, for products in place of loops over
    states."""

    transitions: (
        np.ndarray
    )  # P[s, a, s'], of going on in s': sums to less than 1 where it may end
    rewards: np.ndarray  # R[s, a], expected in the step
    start: np.ndarray  # probability of each first state


def read_model(environment: gymnasium.Env, past_the_end: bool = False) -> Model:
    """The rules of an environment of Gymnasium's toy-text family, from its table `P`.

    past_the_end: the mistake of counting on rewards after the episode is over.
    """
    rules = environment.unwrapped
    states, actions = environment.observation_space.n, environment.action_space.n
    transitions, rewards = (
        np.zeros((states, actions, states)),
        np.zeros((states, actions)),
    )
    for state in range(states):
        for action in range(actions):
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
    from the
    optimum: by contraction that distance is at most γ / (1 − γ) times the last
        change."""
    sweeps = [np.zeros(len(model.rewards))]
    change = np.inf
    while change * discount > tolerance * (1 - discount):
        sweeps.append(action_values(model, sweeps[-1], discount).max(axis=1))
        change = np.abs(sweeps[-1] - sweeps[-2]).max()
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


def policy_iteration(
    model: Model, discount: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """The optimal policy, its values, and the number of rounds (evaluations) that
    took."""
    states = np.arange(len(model.rewards))
    policy, rounds = np.zeros(len(states), int), 0
    while True:
        values, rounds = evaluate_policy(model, policy, discount), rounds + 1
        promised = action_values(model, values, discount)
        # Among actions that tie but for rounding, a switch would never come to an end.
        better = promised.max(axis=1) > promised[states, policy] + 1e-9
        if not better.any():
            return policy, values, rounds
        policy = np.where(better, promised.argmax(axis=1), policy)


def play(
    environment: gymnasium.Env, policy: np.ndarray, discount: float, seeds
) -> np.ndarray:
    """Discounted return and plain return of one real episode for each seed, (episodes,
    2)."""
    returns = []
    for seed in seeds:
        state, _ = environment.reset(seed=int(seed))
        discounted, plain, weight, is_over = 0.0, 0.0, 1.0, False
        while not is_over:
            state, reward, terminated, truncated, _ = environment.step(policy[state])
            discounted, plain = discounted + weight * reward, plain + reward
            weight, is_over = weight * discount, terminated or truncated
        returns.append((discounted, plain))
    return np.array(returns)


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (states, actions) as a network. Input: observation
    (batch,) of state numbers. Output: (batch, actions)."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, dtype="float32", name="table")
    found = table(observation)
    table.set_weights([values])
    return keras.Model(observation, found, name="table")


def plot_maps(solved: dict[str, tuple]) -> plt.Figure:
    """Values as colors and best actions as arrows on the grids, with what stands on
    them."""
    figure, panels = plt.subplots(
        1, len(solved), figsize=(13, 4.2), width_ratios=[4, 5, 8]
    )
    for axes, (name, (tiles, policy, values)) in zip(
        panels, solved.items(), strict=True
    ):
        shown = np.where(
            np.isin(tiles, ["H", "G"]), np.nan, values.reshape(tiles.shape)
        )
        colors = axes.imshow(shown)
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for (place, tile), action in zip(np.ndenumerate(tiles), policy, strict=True):
            text = {"H": "✕", "G": "★"}.get(tile, ARROWS[name][action])
            color = "white" if shown[place] < middle else "black"
            axes.text(
                *place[::-1], text, color=color, fontsize=14, ha="center", va="center"
            )
        axes.set(title=name, xticks=[], yticks=[])
        axes.grid(visible=False)
        figure.colorbar(colors, ax=axes, label="value V(s)", orientation="horizontal")
    figure.suptitle("Best action and value of each state (✕ hole or cliff, ★ goal)")
    return figure


def plot_errors(errors: dict[str, np.ndarray], discount: float) -> plt.Figure:
    """The worst state's error by sweep beside the bound γᵏ, as shares of the first
    error."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    for name, error in errors.items():
        axes.plot(error / error[0], label=name)
    sweeps = np.arange(max(map(len, errors.values())))
    axes.plot(sweeps, discount**sweeps, "k--", label=f"bound γᵏ, γ = {discount:g}")
    axes.set(
        yscale="log",
        ylim=(1e-9, 2),
        xlabel="sweep k",
        ylabel="largest error / first error",
    )
    axes.set(
        title="Value iteration: each sweep brings the worst error down by γ or more"
    )
    figure.legend(loc="outside right upper")
    return figure


def main(config: Config, run: Run) -> None:
    gamma = config.discount
    if not 0 < gamma < 1 or config.tolerance <= 0:
        raise UsageError("--discount must lie between 0 and 1, --tolerance above 0")
    environments = {
        n: gymnasium.make(n, max_episode_steps=m) for n, m in STEP_LIMITS.items()
    }
    models = {
        name: read_model(environment) for name, environment in environments.items()
    }
    sweeps = {
        name: value_iteration(m, gamma, config.tolerance) for name, m in models.items()
    }
    solved = {name: policy_iteration(model, gamma) for name, model in models.items()}
    errors = {n: np.abs(np.array(sweeps[n]) - solved[n][1]).max(axis=1) for n in models}

    # Below a millionth the ratio would be one of rounding errors.
    ratios = {
        name: max(after / before for before, after in pairwise(each) if before > 1e-6)
        for name, each in errors.items()
    }
    run.claim(
        "Each sweep of value iteration brings the worst error down by the discount γ or more",
        holds=max(ratios.values()) < gamma * (1 + 1e-6),
        measured=f"slowest sweep at γ = {gamma:g}: "
        + ", ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items()),
    )
    apart = max(error[-1] for error in errors.values())
    run.claim(
        "Value iteration and policy iteration end at the same values",
        holds=apart < 2 * config.tolerance,
        measured=f"furthest apart {apart:.1e}, asked for {config.tolerance:.0e}",
    )
    rounds, swept = (
        {n: solved[n][2] for n in models},
        {n: len(sweeps[n]) - 1 for n in models},
    )
    run.claim(
        "Policy iteration needs few rounds on the slippery lakes, where values take long to settle;"
        " where every step is certain, about as many as value iteration needs sweeps",
        holds=all(15 * rounds[name] < swept[name] for name in (LAKE, LARGE_LAKE))
        and all(2 * rounds[name] > swept[name] for name in (TAXI, CLIFF)),
        measured=", ".join(
            f"{n} {rounds[n]} rounds, {swept[n]} sweeps" for n in models
        ),
    )

    # What the policies earn in real episodes, against what the tables promise.
    random = np.random.default_rng(run.seed)
    means, deviations, promised = {}, {}, {}
    for name, environment in environments.items():
        seeds = random.integers(2**31, size=config.episodes)
        seeds = run.track(seeds, name, unit="episodes")
        policy, limit = solved[name][0], STEP_LIMITS[name]
        returns = play(environment, policy, gamma, seeds)
        means[name] = returns.mean(axis=0)
        # All walks along the cliff are the same: the last term stands for rounding
        # there.
        deviations[name] = returns.std(axis=0) / config.episodes**0.5 + 1e-9
        promised[name] = (
            evaluate_for(models[name], policy, gamma, limit) @ models[name].start
        )
    run.metric("frozen_lake_success_rate", means[LAKE][1])
    run.metric("frozen_lake_8x8_success_rate", means[LARGE_LAKE][1])
    run.metric("taxi_return", means[TAXI][1])
    run.claim(
        "Episodes earn what the value of the start promises, counted up to the time limit",
        holds=all(
            abs(means[n][0] - promised[n]) < 4 * deviations[n][0] for n in models
        ),
        measured="mean discounted return ± its standard error, of the promised: "
        + ", ".join(
            f"{n} {means[n][0]:.3f} ± {deviations[n][0]:.3f} of {promised[n]:.3f}"
            for n in models
        ),
    )
    success, error = means[LAKE][1], deviations[LAKE][1]
    within = evaluate_for(models[LAKE], solved[LAKE][0], 1.0, STEP_LIMITS[LAKE])[0]
    endless = evaluate_policy(models[LAKE], solved[LAKE][0], 1.0)[0]
    run.claim(
        "An endless horizon promises more than a time limit lets through",
        holds=abs(success - within) < 4 * error and success < endless - 3 * error,
        measured=f"{LAKE}: goal reached in {success:.3f} ± {error:.3f} of episodes; {within:.3f} "
        f"expected in {STEP_LIMITS[LAKE]} steps, {endless:.3f} without a limit",
    )
    _, values, _ = policy_iteration(
        read_model(environments[TAXI], past_the_end=True), gamma
    )
    wrong = values @ models[TAXI].start
    run.claim(
        "What lies past the end must count nothing: else the values promise what nobody earns",
        holds=wrong > means[TAXI][0] + 20 * deviations[TAXI][0],
        measured=f"{TAXI}: {wrong:.1f} promised with rewards past the end, "
        f"{promised[TAXI]:.1f} without, {means[TAXI][0]:.1f} earned",
    )

    tiles = {n: environments[n].unwrapped.desc.astype(str) for n in (LAKE, LARGE_LAKE)}
    tiles[CLIFF] = np.array([list("F" * 12)] * 3 + [list("S" + "H" * 10 + "G")])
    run.figure("maps", plot_maps({n: (tiles[n], *solved[n][:2]) for n in tiles}))
    run.figure("errors", plot_errors(errors, gamma))
    table = action_values(models[LAKE], solved[LAKE][1], gamma)
    run.export(
        serving.policy(build_table(table)), example=np.array([0, 6, 14], "int32")
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
