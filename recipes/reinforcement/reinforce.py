"""REINFORCE: a policy learns from the returns of whole episodes.

The value of a policy is J(θ) = E[r(τ)] over its trajectories. Because ∇p = p ∇log p,
the gradient of that expectation is an expectation of gradients, ∇J = E[Σₜ Gₜ ∇log
π(aₜ|sₜ)], where Gₜ is the discounted reward from step t on: play, then make the actions
that paid off more probable. It needs no model of the world, but it is noisy. Taking a
baseline away, Gₜ − b, changes nothing of the mean and much of the variance: b is a
moving average of the returns, or a second network's V(sₜ).
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
from matplotlib import pyplot as plt

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

BASELINES = ("none", "average", "learned")
LABELS = {"none": "no baseline", "average": "moving average", "learned": "learned V(s)"}


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


class Agent:
    """A policy π(a|s), and a baseline: none, average (moving) or learned (a network
    V(s))."""

    def __init__(self, observations: int, actions: int, config: Config, baseline: str):
        self.baseline, self.gamma, self.value_steps = (
            baseline,
            config.gamma,
            config.value_steps,
        )
        self.policy = build_network(observations, actions, config.units, "policy")
        self.value = build_network(observations, 1, config.units, "value")
        self.optimizers = [
            keras.optimizers.Adam(config.learning_rate) for _ in range(2)
        ]
        for optimizer, network in zip(
            self.optimizers, (self.policy, self.value), strict=True
        ):
            optimizer.build(network.trainable_variables)
        self.average = tf.Variable(0.0)

    @tf.function(reduce_retracing=True)
    def probabilities(self, observation):
        return tf.nn.softmax(self.policy(observation))

    def act(self, observations) -> np.ndarray:
        """The most probable actions."""
        return self.probabilities(observations.astype("float32")).numpy().argmax(axis=1)

    def play(self, envs: gymnasium.vector.VectorEnv, seed: int, random) -> dict:
        """An episode in each environment. Returns arrays of (steps, episodes, ...)."""
        observation, _ = envs.reset(seed=seed)
        alive = np.ones(envs.num_envs, bool)
        steps, last, terminated = [], observation.copy(), np.zeros(envs.num_envs, bool)
        while alive.any():
            probabilities = self.probabilities(observation.astype("float32")).numpy()
            bounds = probabilities.cumsum(axis=1)[:, :-1]
            action = (bounds < random.random((envs.num_envs, 1))).sum(axis=1)
            following, reward, ended, cut, _ = envs.step(action)
            steps.append((observation, action, reward * alive, alive))
            last[alive], terminated[alive] = following[alive], ended[alive]
            alive = (
                alive & ~ended & ~cut
            )  # where it is over, a new episode starts by itself
            observation = following
        names = ("observations", "actions", "rewards", "alive")
        episodes = dict(
            zip(names, map(np.array, zip(*steps, strict=True)), strict=True)
        )
        # A time limit is no end: what would have followed is unknown, unless there is a
        # V(s).
        beyond = np.zeros(envs.num_envs)
        if self.baseline == "learned":
            beyond = np.where(
                terminated, 0, np.squeeze(self.value(last.astype("float32")), -1)
            )
        episodes["returns"] = returns_to_go(
            episodes["rewards"], episodes["alive"], self.gamma, beyond
        )
        return episodes

    def objective(self, observations, actions, returns, baseline: str):
        """Σₜ (Gₜ − b) log π(aₜ|sₜ), whose gradient is the estimate. All are (steps,
        ...)."""
        if baseline == "learned":
            returns = returns - tf.stop_gradient(
                tf.squeeze(self.value(observations), -1)
            )
        elif baseline == "average":
            returns = returns - self.average
        logits = self.policy(observations)
        minus_log = tf.nn.sparse_softmax_cross_entropy_with_logits(actions, logits)
        return -tf.reduce_sum(returns * minus_log)

    @tf.function(reduce_retracing=True)
    def learn(self, observations, actions, returns, episodes):
        """One step up the gradient, from the steps of all episodes in one row."""
        with tf.GradientTape() as tape:
            loss = (
                -self.objective(observations, actions, returns, self.baseline)
                / episodes
            )
        gradients = tape.gradient(loss, self.policy.trainable_variables)
        self.optimizers[0].apply(gradients, self.policy.trainable_variables)
        self.average.assign(0.9 * self.average + 0.1 * tf.reduce_mean(returns))
        for _ in range(self.value_steps if self.baseline == "learned" else 0):
            with tf.GradientTape() as tape:
                error = returns - tf.squeeze(self.value(observations), -1)
                loss = tf.reduce_mean(tf.square(error))
            gradients = tape.gradient(loss, self.value.trainable_variables)
            self.optimizers[1].apply(gradients, self.value.trainable_variables)

    @tf.function(reduce_retracing=True)
    def gradient(self, observations, actions, returns, baseline: str):
        """The estimate of ∇J from one episode alone, as one vector."""
        with tf.GradientTape() as tape:
            objective = self.objective(observations, actions, returns, baseline)
        gradients = tape.gradient(objective, self.policy.trainable_variables)
        return tf.concat([tf.reshape(each, [-1]) for each in gradients], axis=0)


def steps_of(episodes: dict, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Observations, actions and returns of the steps that are True in chosen (steps,
    episodes)."""
    observations = episodes["observations"][chosen].astype("float32")
    return observations, episodes["actions"][chosen], episodes["returns"][chosen]


def variance(agent: Agent, episodes: dict, baseline: str) -> float:
    """Of the episodes' estimates of the gradient, summed over the weights."""
    each = np.eye(episodes["alive"].shape[1], dtype=bool)
    rows = [steps_of(episodes, episodes["alive"] & only) for only in each]
    return np.var(
        [agent.gradient(*row, baseline) for row in rows], axis=0, ddof=1
    ).sum()


def train(
    agent: Agent,
    envs,
    random,
    scores: np.ndarray,
    variances: np.ndarray | None,
    updates: Iterable[int],
) -> None:
    """REINFORCE. updates: the numbers of the updates, such as range(100).

    It fills in scores (updates,), the mean return of each update's episodes, and every
    tenth row of variances (updates, 3), if asked for, the variance of their gradients
    under each of BASELINES.
    """
    for update in updates:
        episodes = agent.play(envs, int(random.integers(2**31)), random)
        if variances is not None and update % 10 == 5:
            variances[update] = [
                variance(agent, episodes, baseline) for baseline in BASELINES
            ]
        agent.learn(*steps_of(episodes, episodes["alive"]), float(envs.num_envs))
        scores[update] = episodes["rewards"].sum(axis=0).mean()


def plot_learning(scores: dict[str, np.ndarray], variances: np.ndarray) -> plt.Figure:
    """Returns while it learned, and the variance of the gradient, by baseline."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    for baseline, curve in scores.items():
        left.plot(np.arange(1, len(curve) + 1), curve, label=LABELS[baseline])
    left.set(
        xlabel="update", ylabel="mean return", title="What it earns while it learns"
    )
    left.legend(loc="lower right")
    measured = np.flatnonzero(np.isfinite(variances[:, 0]))
    for baseline, curve in zip(BASELINES, variances.T, strict=True):
        right.plot(measured + 1, curve[measured], "o-", label=LABELS[baseline])
    right.set(xlabel="update", ylabel="variance, summed over the weights", yscale="log")
    right.set_title("Gradients of the same episodes, one by one")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(1 + len(config.rivals))
    if unknown := set(config.rivals) - set(BASELINES[:2]):
        raise UsageError(f"--rivals {min(unknown)}: choose among {BASELINES[:2]}")
    envs = environments.make_vec(config.env, config.episodes)
    sizes = environments.require_vectors_and_choices(config.env, envs)
    threshold = environments.find(config.env).reward_threshold  # some have none
    trials = environments.make_vec(config.env, 100)
    random, untrained = np.random.default_rng(run.seed), Agent(*sizes, config, "none")
    chance = untrained.play(trials, run.seed, random)["rewards"].sum(axis=0).mean()
    scores, agents, variances = (
        {},
        {},
        np.full((config.updates, len(BASELINES)), np.nan),
    )
    for baseline in (*config.rivals, "learned"):
        keras.utils.set_random_seed(run.seed)  # all start from the same policy
        agent = agents[baseline] = Agent(*sizes, config, baseline)
        random = np.random.default_rng(run.seed)
        scores[baseline] = curve = np.full(config.updates, np.nan)
        measured = variances if baseline == "learned" else None
        learned = [agent.policy, agent.value, *agent.optimizers, agent.average]
        kept = {"agent": learned, "random": random, "curves": [curve, variances]}
        show = lambda curve=curve: {"return": curve[np.isfinite(curve)][-1]}  # noqa: E731
        loop = run.loop(
            LABELS[baseline], config.updates, kept, unit="updates", show=show
        )
        train(agent, envs, random, curve, measured, loop)

    # Greedy, on seeds that training has not seen.
    returns = {
        baseline: environments.evaluate(agent.act, trials, seed=2**31 + run.seed).mean()
        for baseline, agent in agents.items()
    }
    run.metric("return", returns["learned"])
    if "none" in returns:
        run.metric("return_without_baseline", returns["none"])
    run.curve("mean return", range(config.updates), scores["learned"], xlabel="update")
    run.figure("learning", plot_learning(scores, variances))
    strips = {}
    for name, agent in {"untrained": untrained, "trained": agents["learned"]}.items():
        strips[name] = environments.film(
            config.env, agent.probabilities, pictures=10, every=2
        )
    if strips["trained"] is not None:
        title = "One picture in 2 steps; white: over"
        run.figure("film", figures.image_rows(strips, title=title))

    if np.isfinite(variances).any():  # it is measured in every tenth update
        _, average, learned = np.nanmedian(variances / variances[:, :1], axis=0)
        run.metric("variance_with_learned_baseline", learned, unit="of that without")
        run.claim(
            "A baseline takes variance away from the gradient",
            holds=average < 0.8 and learned < 0.6,
            measured=f"variance {average:.2f} with a moving average, {learned:.2f} with "
            "V(s), of that without (median over the training)",
        )
    compared = set(agents) == set(BASELINES)
    if compared and config.updates >= Config.updates:  # else too short to tell
        late = {
            kind: curve[config.updates // 2 :].mean() for kind, curve in scores.items()
        }
        run.claim(
            "With less variance the policy keeps what it has learned",
            holds=late["learned"] > 1.05 * late["none"],
            measured=f"mean return in the second half of training {late['none']:.0f} without, "
            f"{late['average']:.0f} with a moving average, {late['learned']:.0f} with V(s)",
        )
    run.metric("return_untrained", chance)
    if threshold is not None:
        run.claim(
            f"Playing and making what paid off more probable solves {config.env}",
            holds=returns["learned"] >= threshold,
            measured=f"after {config.updates * config.episodes:,} episodes a mean return "
            f"of {returns['learned']:.1f} in 100 greedy ones (solved: {threshold:.0f}; "
            f"untrained: {chance:.1f})",
        )

    example = trials.reset(seed=run.seed)[0][:3]
    run.export(serving.policy(agents["learned"].policy), example=example)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
