"""REINFORCE: a policy learns from the returns of whole episodes.

The value of a policy is J(θ) = E[r(τ)] over its trajectories. Because ∇p = p ∇log p,
the gradient of that expectation is an expectation of gradients, ∇J = E[Σₜ Gₜ ∇log
π(aₜ|sₜ)], where Gₜ is the discounted reward from step t on: play, then make the actions
that paid off more probable. It needs no model of the world, but it is noisy. Taking a
baseline away, Gₜ − b, changes nothing of the mean and much of the variance: b is a
moving average of the returns, or a second network's V(sₜ). (In front of step t the
gradient has γᵗ, which is left out here, as is usual: late steps would hardly count.)
Look at the variance of the gradient under the three baselines, and at what it does to
learning.

Lectures: CS Reinforcement Learning (REINFORCE, simple baseline)
Paper: Williams, Simple statistical gradient-following algorithms for connectionist
    reinforcement learning, 1992 (theorem 1)
Tags: policy gradient, monte carlo, baseline, score function, log-derivative trick,
    variance reduction, cartpole, rl
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import gymnasium
import keras
import numpy as np
import tensorflow as tf
from annotated_types import Ge, Interval
from keras import layers
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, environments, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    env: str = "CartPole-v1"
    """a Gymnasium environment with a vector of observations and discrete actions"""
    updates: int = 80
    """steps of gradient ascent"""
    episodes: Annotated[int, Ge(2)] = 16
    """played at once for each update"""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.99
    """discount of a reward for each step that it lies ahead"""
    learning_rate: float = 0.01
    """of Adam, for the policy and for the learned baseline"""
    units: int = 64
    """width of the hidden layer of both"""
    value_steps: int = 10
    """steps of gradient descent of the learned baseline in each update"""
    rivals: tuple[str, ...] = ("none", "average")
    """what to compare the learned baseline with: none, average, both, or nothing"""


QUICK = Config(updates=30, rivals=())
FULL = Config(updates=300, episodes=32)

# --------------------------------------------------------------------------------------
# The idea: make the actions that paid off more probable
# --------------------------------------------------------------------------------------

BASELINES = ("none", "average", "learned")
AVERAGE_MOMENTUM = 0.9


def returns_to_go(rewards, alive, gamma: float, beyond) -> np.ndarray:
    """Gₜ = rₜ + γ Gₜ₊₁ of each episode. rewards, alive: (steps, episodes); alive is
    False after an episode's end. beyond: (episodes,), what is expected after the last
    step. Returns floats."""
    returns = np.zeros(rewards.shape, "float32")
    following = np.array(beyond, "float32")
    for step in reversed(range(len(rewards))):
        following = np.where(alive[step], rewards[step] + gamma * following, following)
        returns[step] = following * alive[step]
    return returns


def objective(logits, actions, advantages):
    """Σₜ (Gₜ − b) log π(aₜ|sₜ), whose gradient is the estimate of ∇J. logits: (steps,
    actions); actions, advantages Gₜ − b: (steps,)."""
    minus_log = tf.nn.sparse_softmax_cross_entropy_with_logits(actions, logits)
    return -tf.reduce_sum(advantages * minus_log)


def build_network(
    observations: int, outputs: int, units: int, name: str
) -> keras.Model:
    """Input: (batch, observations) floats. Output: (batch, outputs), logits or a
    value."""
    observation = keras.Input((observations,), name="observation")
    hidden = layers.Dense(units, activation="tanh")(observation)
    # Outputs near zero: all actions equally probable, nothing expected.
    small = keras.initializers.Orthogonal(0.01)
    outputs = layers.Dense(outputs, kernel_initializer=small)(hidden)
    return keras.Model(observation, outputs, name=name)


@dataclass
class Episodes:
    """Played at once; all are (steps, episodes, ...)."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    alive: np.ndarray
    """False after an episode's end"""
    returns: np.ndarray

    @property
    def mean_return(self) -> float:
        """Undiscounted."""
        return float(self.rewards.sum(axis=0).mean())

    def steps(self, episode: int | None = None) -> tuple[np.ndarray, ...]:
        """Observations, actions and returns of an episode's steps, or of all, in one
        row."""
        chosen = self.alive.copy()
        if episode is not None:
            chosen[:, np.arange(chosen.shape[1]) != episode] = False
        observations = self.observations[chosen].astype("float32")
        return observations, self.actions[chosen], self.returns[chosen]


class Agent:
    """A policy π(a|s), and a baseline: none, average (moving) or learned (a network
    V(s))."""

    def __init__(self, observations: int, actions: int, config: Config, baseline: str):
        self.baseline = baseline
        self.gamma = config.gamma
        self.value_steps = config.value_steps if baseline == "learned" else 0
        self.policy = build_network(observations, actions, config.units, "policy")
        self.value = build_network(observations, 1, config.units, "value")
        self.policy_optimizer = keras.optimizers.Adam(config.learning_rate)
        self.policy_optimizer.build(self.policy.trainable_variables)
        self.value_optimizer = keras.optimizers.Adam(config.learning_rate)
        self.value_optimizer.build(self.value.trainable_variables)
        self.average = tf.Variable(0.0)

    @tf.function(reduce_retracing=True)
    def probabilities(self, observation):
        return tf.nn.softmax(self.policy(observation))

    def act(self, observations) -> np.ndarray:
        """The most probable actions."""
        return self.probabilities(observations.astype("float32")).numpy().argmax(axis=1)

    def draw(self, observations, random) -> np.ndarray:
        """Actions by their probabilities."""
        probabilities = self.probabilities(observations.astype("float32")).numpy()
        bounds = probabilities.cumsum(axis=1)[:, :-1]
        return (bounds < random.random((len(bounds), 1))).sum(axis=1)

    def play(self, envs: gymnasium.vector.VectorEnv, seed: int, random) -> Episodes:
        """An episode in each environment."""
        observation, _ = envs.reset(seed=seed)
        last = observation.copy()
        alive = np.ones(envs.num_envs, bool)
        terminated = np.zeros(envs.num_envs, bool)
        steps = []
        while alive.any():
            action = self.draw(observation, random)
            following, reward, ended, cut, _ = envs.step(action)
            steps.append((observation, action, reward * alive, alive))
            last[alive] = following[alive]
            terminated[alive] = ended[alive]
            # Where it is over, a new episode starts by itself.
            alive = alive & ~ended & ~cut
            observation = following

        observations, actions, rewards, was_alive = map(
            np.array, zip(*steps, strict=True)
        )
        beyond = self.expect_beyond(last, terminated)
        returns = returns_to_go(rewards, was_alive, self.gamma, beyond)
        return Episodes(observations, actions, rewards, was_alive, returns)

    def expect_beyond(self, last: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        """A time limit is no end: what would have followed is unknown, unless there is a
        V(s)."""
        if self.baseline != "learned":
            return np.zeros(len(last))
        values = np.squeeze(self.value(last.astype("float32")), axis=-1)
        return np.where(terminated, 0, values)

    def advantages(self, observations, returns, baseline: str):
        """Gₜ − b."""
        if baseline == "learned":
            values = tf.squeeze(self.value(observations), axis=-1)
            return returns - tf.stop_gradient(values)
        if baseline == "average":
            return returns - self.average
        return returns

    @tf.function(reduce_retracing=True)
    def learn(self, observations, actions, returns, episodes):
        """One step up the gradient, from the steps of all episodes in one row."""
        advantages = self.advantages(observations, returns, self.baseline)
        with tf.GradientTape() as tape:
            logits = self.policy(observations)
            loss = -objective(logits, actions, advantages) / episodes
        weights = self.policy.trainable_variables
        self.policy_optimizer.apply(tape.gradient(loss, weights), weights)

        mean = tf.reduce_mean(returns)
        self.average.assign(
            AVERAGE_MOMENTUM * self.average + (1 - AVERAGE_MOMENTUM) * mean
        )
        for _ in range(self.value_steps):
            self.fit_value(observations, returns)

    def fit_value(self, observations, returns):
        """One step down the squared error of V(s)."""
        with tf.GradientTape() as tape:
            error = returns - tf.squeeze(self.value(observations), axis=-1)
            loss = tf.reduce_mean(tf.square(error))
        weights = self.value.trainable_variables
        self.value_optimizer.apply(tape.gradient(loss, weights), weights)

    @tf.function(reduce_retracing=True)
    def gradient(self, observations, actions, returns, baseline: str):
        """The estimate of ∇J from one episode alone, as one vector."""
        advantages = self.advantages(observations, returns, baseline)
        with tf.GradientTape() as tape:
            value = objective(self.policy(observations), actions, advantages)
        gradients = tape.gradient(value, self.policy.trainable_variables)
        return tf.concat([tf.reshape(each, [-1]) for each in gradients], axis=0)


def variance(agent: Agent, episodes: Episodes, baseline: str) -> float:
    """Of the episodes' estimates of the gradient, summed over the weights."""
    count = episodes.alive.shape[1]
    estimates = [
        agent.gradient(*episodes.steps(episode), baseline) for episode in range(count)
    ]
    return float(np.var(estimates, axis=0, ddof=1).sum())


# --------------------------------------------------------------------------------------
# The experiment: three baselines
# --------------------------------------------------------------------------------------

LABELS = {"none": "no baseline", "average": "moving average", "learned": "learned V(s)"}
UPDATES_BETWEEN_VARIANCES = 2
NEARLY_SOLVED = 0.9  # of the return from which on the environment counts as solved


@dataclass
class Curves:
    """By update; NaN where nothing was measured."""

    returns: np.ndarray
    """mean of the update's episodes, (updates,)"""
    variances: np.ndarray
    """of the gradients of the same episodes under each of `BASELINES`, (updates, 3)"""

    @classmethod
    def of_length(cls, updates: int) -> "Curves":
        nothing = np.full((updates, len(BASELINES)), np.nan)
        return cls(nothing[:, 0].copy(), nothing)


def train(
    agent: Agent, envs, random, curves: Curves, limit: float, updates: Iterable[int]
) -> None:
    """REINFORCE. updates: the numbers of the updates, such as range(100).

    limit: the return up to which variances are measured. A policy that has solved the
    task has returns that are all alike, and nothing left to learn from.
    """
    for update in updates:
        episodes = agent.play(envs, int(random.integers(2**31)), random)
        curves.returns[update] = episodes.mean_return
        is_turn = update % UPDATES_BETWEEN_VARIANCES == 1
        if is_turn and episodes.mean_return < limit:
            curves.variances[update] = [
                variance(agent, episodes, baseline) for baseline in BASELINES
            ]
        agent.learn(*episodes.steps(), float(envs.num_envs))


@dataclass
class Task:
    name: str
    envs: gymnasium.vector.VectorEnv
    """to train in"""
    trials: gymnasium.vector.VectorEnv
    """to judge in"""
    sizes: tuple[int, int]
    """of an observation, and the number of actions"""
    threshold: float | None
    """the return from which on it counts as solved, if it has one"""


def make_task(config: Config) -> Task:
    envs = environments.make_vec(config.env, config.episodes)
    return Task(
        config.env,
        envs,
        environments.make_vec(config.env, 100),
        environments.require_vectors_and_choices(config.env, envs),
        environments.find(config.env).reward_threshold,
    )


def learn(baseline: str, task: Task, config: Config, run: Run) -> tuple[Agent, Curves]:
    keras.utils.set_random_seed(run.seed)  # all start from the same policy
    agent = Agent(*task.sizes, config, baseline)
    random = np.random.default_rng(run.seed)
    curves = Curves.of_length(config.updates)
    measures = baseline == "learned"
    limit = -np.inf
    if measures:
        limit = np.inf if task.threshold is None else NEARLY_SOLVED * task.threshold

    def show():
        return {"return": curves.returns[np.isfinite(curves.returns)][-1]}

    state = {
        "policy": [agent.policy, agent.policy_optimizer],
        "value": [agent.value, agent.value_optimizer],
        "average": agent.average,
        "random": random,
        "curves": [curves.returns, curves.variances],
    }
    updates = run.loop(
        LABELS[baseline], config.updates, state, unit="updates", show=show
    )
    train(agent, task.envs, random, curves, limit, updates)
    return agent, curves


def judge_variance(curves: Curves, run: Run) -> None:
    measured = np.isfinite(curves.variances[:, 0])
    if not measured.any():
        return
    relative = curves.variances[measured] / curves.variances[measured, :1]
    _, average, learned = np.median(relative, axis=0)
    run.metric("variance_with_average", average, unit="of that without")
    run.metric("variance_with_learned_baseline", learned, unit="of that without")
    run.claim(
        "While the policy learns, a baseline takes much of the gradient's variance away",
        holds=average < 0.7 and learned < 0.6,
        measured=f"variance {average:.2f} with a moving average, {learned:.2f} with "
        f"V(s), of that without, for the same returns (median over {measured.sum()} "
        "updates before it is solved)",
    )


def judge_returns(curves: dict[str, Curves], config: Config, run: Run) -> None:
    """In the second half of training; where that was long enough to tell."""
    if set(curves) != set(BASELINES) or config.updates < Config.updates:
        return
    late = {
        baseline: each.returns[config.updates // 2 :].mean()
        for baseline, each in curves.items()
    }
    run.claim(
        "With less variance the policy keeps what it has learned",
        holds=late["learned"] > 1.05 * late["none"],
        measured="mean return in the second half of training "
        f"{late['none']:.0f} without, {late['average']:.0f} with a moving average, "
        f"{late['learned']:.0f} with V(s)",
    )


def judge_solved(found: float, chance: float, task: Task, config: Config, run) -> None:
    if task.threshold is None:
        return
    run.claim(
        f"Playing and making what paid off more probable solves {task.name}",
        holds=found >= task.threshold,
        measured=f"after {config.updates * config.episodes:,} episodes a mean return of "
        f"{found:.1f} in 100 greedy ones (solved: {task.threshold:.0f}; untrained: "
        f"{chance:.1f})",
    )


def draw_learning(curves: dict[str, Curves]) -> Figure:
    """Returns while it learned, and the variance of the gradient, by baseline."""
    returns = figures.Panel(
        title="What it earns while it learns",
        xlabel="update",
        ylabel="mean return",
        lines={LABELS[baseline]: each.returns for baseline, each in curves.items()},
    )
    variances = curves["learned"].variances
    measured = np.flatnonzero(np.isfinite(variances[:, 0]))
    spread = figures.Panel(
        title="Gradients of the same episodes, one by one",
        xlabel="update",
        ylabel="variance, summed over the weights",
        lines={
            LABELS[baseline]: (measured + 1, variances[measured, index])
            for index, baseline in enumerate(BASELINES)
        },
        yscale="log",
    )
    return figures.panels(returns, spread)


def main(config: Config, run: Run) -> None:
    run.plan(1 + len(config.rivals))
    if unknown := set(config.rivals) - set(BASELINES[:2]):
        raise UsageError(f"--rivals {min(unknown)}: choose among {BASELINES[:2]}")
    task = make_task(config)
    untrained = Agent(*task.sizes, config, "none")
    random = np.random.default_rng(run.seed)
    chance = untrained.play(task.trials, run.seed, random).mean_return

    agents = {}
    curves = {}
    for baseline in (*config.rivals, "learned"):
        agents[baseline], curves[baseline] = learn(baseline, task, config, run)

    # Greedy, on seeds that training has not seen.
    returns = {
        baseline: environments.evaluate(
            agent.act, task.trials, seed=2**31 + run.seed
        ).mean()
        for baseline, agent in agents.items()
    }
    run.metric("return", returns["learned"])
    if "none" in returns:
        run.metric("return_without_baseline", returns["none"])
    run.metric("return_untrained", chance)
    run.curve(
        "mean return",
        range(config.updates),
        curves["learned"].returns,
        xlabel="update",
    )
    judge_variance(curves["learned"], run)
    judge_returns(curves, config, run)
    judge_solved(returns["learned"], chance, task, config, run)

    run.figure("learning", draw_learning(curves))
    players = {
        "untrained": untrained.probabilities,
        "trained": agents["learned"].probabilities,
    }
    run.figure("motion", environments.draw_motion(task.name, players))
    example, _ = task.trials.reset(seed=run.seed)
    run.export(serving.policy(agents["learned"].policy), example=example[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
