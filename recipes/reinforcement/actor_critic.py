"""Advantage actor-critic: a critic tells the actor if an action was worth more.

REINFORCE waits for the end of an episode and weighs its actions by what they earned.
Here a second network, the critic V(s), stands in for the rest: after a few steps the
actor follows ∇J = E[A(s, a) ∇log π(a|s)] with the advantage A = Q(s, a) − V(s). One
step's estimate of it is the error δ = r + γ V(s′) − V(s): little variance, but as wrong
as the critic. The sum of all that follow, Σ (γλ)ˡ δ₊ₗ, goes from there (λ = 0) to the
whole return less V(s) (λ = 1): much variance, no error. An end is worth nothing beyond;
a time limit is no end, so V(s′) counts there. To learn more than once from the same
steps (--epochs), the objective is clipped where π has moved too far.
Look at how λ decides how fast it learns, and at how many steps REINFORCE takes.

Lectures: CS Reinforcement Learning (Actor-Critic)
Paper: Mnih et al., Asynchronous methods for deep reinforcement learning, 2016; Schulman
    et al., High-dimensional continuous control using generalized advantage estimation,
    2016 (equations 11 to 16), and Proximal policy optimization algorithms, 2017
    (equation 7)
Tags: a2c, ppo, gae, generalized advantage estimation, policy gradient, rl, lunarlander,
    cartpole
"""

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Gt, Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, environments, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    env: str = "CartPole-v1"
    """a Gymnasium environment with a vector of observations and discrete actions"""
    steps: int = 100_000
    """of the environment, all copies together"""
    copies: int = 32
    """of the environment, which step together"""
    horizon: int = 16
    """steps of each copy between two updates"""
    epochs: int = 4
    """passes over the steps of an update; with 1 it is the plain advantage
    actor-critic"""
    batches: int = 4
    """steps of gradient descent in each pass"""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.99
    """discount of a reward for each step that it lies ahead"""
    trace: Annotated[float, Interval(ge=0, le=1)] = 0.95
    """λ of the advantages, from 0 to 1"""
    learning_rate: float = 3e-3
    """of Adam, from which it falls to zero"""
    reward_scale: Annotated[float, Gt(0)] = 0.1
    """factor of the rewards that it learns from: V(s) should be of the order of 1 to
    10"""
    rivals: tuple[str, ...] = ("λ = 0", "one pass", "REINFORCE")
    """what to compare with: some of these, or none"""


QUICK = Config(steps=50_000, rivals=("one pass",))
FULL = Config(
    env="LunarLander-v3",
    steps=1_200_000,
    horizon=128,
    batches=16,
    gamma=0.995,
    trace=0.98,
    learning_rate=1e-3,
    reward_scale=0.05,
    rivals=(),
)

CLIP = 0.2  # how far the probability of an action may move in one update, of itself
ENTROPY = 0.01  # weight of the policy's entropy, which keeps it trying
RIVALS = {
    "λ = 0": {"trace": 0.0},
    "one pass": {"epochs": 1, "batches": 1},
    "REINFORCE": {
        "copies": 16,
        "epochs": 1,
        "batches": 1,
        "trace": 1.0,
        "learning_rate": 0.01,
    },
}
SOONER = {
    "λ = 0": "The sum of errors that follow teaches sooner than that of one step (λ = 0)",
    "REINFORCE": "With a critic it takes fewer steps than REINFORCE",
}
MORE = {
    "λ = 0": "The sum of errors that follow teaches more than that of one step (λ = 0)",
    "one pass": "Several passes over the same steps, clipped, make more of them than one",
    "REINFORCE": "With a critic it earns more in as many steps than REINFORCE",
}


def build_network(observations: int, outputs: int, scale: float) -> keras.Model:
    """Input: (batch, observations) floats. Output: (batch, outputs), logits or a
    value."""
    observation = hidden = keras.Input((observations,), name="observation")
    for _ in range(2):
        hidden = layers.Dense(64, activation="tanh", kernel_initializer="orthogonal")(
            hidden
        )
    initializer = keras.initializers.Orthogonal(scale)
    return keras.Model(
        observation, layers.Dense(outputs, kernel_initializer=initializer)(hidden)
    )


def generalized_advantages(rewards, values, following, terminated, over, gamma, trace):
    """Aₜ = δₜ + γλ Aₜ₊₁ with δₜ = rₜ + γ V(sₜ₊₁) − V(sₜ), within each episode.

    All are (steps, copies). values, following: V of a step's state and of the one it
    led to;
    terminated: ended of itself; over: that, or cut by a time limit; trace: λ."""
    errors = rewards + gamma * following * ~terminated - values
    advantages, advantage = np.zeros_like(errors), 0.0
    for step in reversed(range(len(errors))):
        advantage = errors[step] + gamma * trace * ~over[step] * advantage
        advantages[step] = advantage
    return advantages


class Agent:
    """An actor π(a|s) and a critic V(s)."""

    def __init__(self, observations: int, actions: int, config: Config, updates: int):
        self.actor = build_network(observations, actions, 0.01)
        self.critic = build_network(observations, 1, 1.0)
        rate = keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate, updates, 0.0
        )
        self.weights = self.actor.trainable_variables + self.critic.trainable_variables
        self.optimizer = keras.optimizers.Adam(rate, epsilon=1e-5, clipnorm=0.5)
        self.optimizer.build(self.weights)

    @tf.function(reduce_retracing=True)
    def probabilities(self, observation):
        return tf.nn.softmax(self.actor(observation))

    @tf.function(jit_compile=True)
    def learn(self, observations, actions, advantages, returns, batches):
        """A step of gradient descent for each row of batches, which are numbers of
        samples. The rest is (samples, ...)."""
        actions = tf.one_hot(
            actions, self.actor.output_shape[-1]
        )  # a gather compiles for longer
        before = tf.reduce_sum(
            actions * tf.nn.log_softmax(self.actor(observations)), axis=-1
        )
        for chosen in batches:
            observation, action = (
                tf.gather(observations, chosen),
                tf.gather(actions, chosen),
            )
            advantage = tf.gather(advantages, chosen)
            # On a scale of its own the advantage suits one learning rate whatever the
            # rewards are.
            advantage -= tf.reduce_mean(advantage)
            advantage /= tf.sqrt(tf.reduce_mean(tf.square(advantage))) + 1e-8
            with tf.GradientTape() as tape:
                log_policy = tf.nn.log_softmax(self.actor(observation))
                taken = tf.reduce_sum(action * log_policy, axis=-1)
                # At a ratio of 1 its gradient is that of log π.
                ratio = tf.exp(taken - tf.gather(before, chosen))
                clipped = tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP)
                gain = tf.minimum(ratio * advantage, clipped * advantage)
                entropy = -tf.reduce_sum(tf.exp(log_policy) * log_policy, axis=-1)
                error = tf.gather(returns, chosen) - tf.squeeze(
                    self.critic(observation), -1
                )
                loss = tf.reduce_mean(0.5 * tf.square(error) - gain - ENTROPY * entropy)
            self.optimizer.apply(tape.gradient(loss, self.weights), self.weights)


def train(
    agent: Agent, envs, config: Config, random, record, updates, whole=False
) -> None:
    """Plays a few steps, learns from them, and so on. updates: such as range(200).
    record: (updates, 2), of each the steps so far and the mean return of the 20 last
    episodes.
    whole: REINFORCE, which plays an episode in each copy, and knows no critic."""
    observation, copies, recent, taken = (
        None,
        envs.num_envs,
        deque(maxlen=20),
        record[:, 0].max(),
    )
    for update in updates:
        if observation is None or whole:
            observation, _ = envs.reset(seed=int(random.integers(2**31)))
            returns, idle = np.zeros(copies), np.zeros(copies, bool)
        steps = []
        for _ in range(config.horizon):
            probabilities = agent.probabilities(observation.astype("float32")).numpy()
            drawn = random.random((copies, 1))
            action = (probabilities.cumsum(axis=1)[:, :-1] < drawn).sum(axis=1)
            following, reward, terminated, cut, _ = envs.step(action)
            over = terminated | cut
            scaled = config.reward_scale * reward
            steps.append(
                (observation, following, action, scaled, terminated, over, ~idle)
            )
            returns = np.where(idle, 0, returns + reward)
            recent.extend(returns[over & ~idle])
            # After an end the next step resets: it takes no action and is no
            # transition.
            observation, idle = following, over | (whole & idle)
        parts = map(np.array, zip(*steps, strict=True))
        *states, actions, rewards, terminated, over, counts = parts
        states = [part.reshape(over.size, -1).astype("float32") for part in states]
        values = [
            np.reshape(agent.critic(part), over.shape) * (not whole) for part in states
        ]
        advantages = generalized_advantages(
            rewards, *values, terminated, over, config.gamma, config.trace
        )
        targets = (
            part.ravel().astype("float32")
            for part in (advantages, advantages + values[0])
        )
        # Always as many samples, for which `learn` is compiled once: a few are taken
        # twice.
        valid, size = np.flatnonzero(counts), -(-over.size // config.batches)
        passes = [random.permutation(valid) for _ in range(config.epochs)]
        batches = np.concatenate(
            [np.resize(each, (config.batches, size)) for each in passes]
        )
        agent.learn(states[0], actions.ravel(), *targets, batches)
        taken += counts.sum()
        record[update] = taken, np.mean(recent) if recent else np.nan


def mean_return(record: np.ndarray, steps: float) -> float:
    """The mean return over the first `steps` steps of the environment. record: see
    `train`."""
    known = record[np.isfinite(record[:, 1])]
    return float(np.interp(np.linspace(0, steps, 500), *known.T).mean())


def steps_to_solve(record: np.ndarray, threshold: float) -> float | None:
    """After how many steps 20 episodes first earned as much on average; None: never.
    record: see `train`."""
    solved = np.flatnonzero(record[:, 1] >= threshold)
    return float(record[solved[0], 0]) if len(solved) else None


def in_words(steps: float | None) -> str:
    return "never" if steps is None else f"after {steps:,.0f} steps"


def plot_learning(
    records: dict[str, np.ndarray], threshold: float | None
) -> plt.Figure:
    """The return while it learns, by the number of steps in the environment."""
    figure, axes = plt.subplots(figsize=(8.5, 4))
    for name, record in records.items():
        axes.plot(record[:, 0] / 1000, record[:, 1], label=name)
    if threshold is not None:
        axes.axhline(threshold, color="gray", linestyle=":", label="solved")
    axes.set(
        xlabel="thousand steps of the environment", ylabel="mean return of 20 episodes"
    )
    figure.legend(loc="outside right upper")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(1 + len(config.rivals))
    if unknown := set(config.rivals) - set(RIVALS):
        raise UsageError(
            f"--rivals {min(unknown)}: choose among {', '.join(map(repr, RIVALS))}"
        )
    trials = environments.make_vec(config.env, 100)
    sizes = environments.require_vectors_and_choices(config.env, trials)
    threshold = environments.find(config.env).reward_threshold  # some have none
    if config.steps < config.copies * config.horizon:
        raise UsageError(
            f"--steps {config.steps}: the {config.copies} copies make "
            f"{config.copies * config.horizon} steps in one update; at least as many"
        )
    agents, records, returns = {}, {}, {}
    for name in ("actor-critic", *config.rivals):
        setting = replace(config, **RIVALS.get(name, {}))
        updates = config.steps // (setting.copies * setting.horizon)
        if name == "REINFORCE":
            setting, updates = (
                replace(setting, horizon=environments.steps_of_an_episode(config.env)),
                25,
            )
        keras.utils.set_random_seed(run.seed)
        agent = agents[name] = Agent(
            *sizes, setting, updates * setting.epochs * setting.batches
        )
        random, started = np.random.default_rng(run.seed), time.perf_counter()
        record = records[name] = np.zeros((updates, 2))

        def show(record=record, started=started):
            steps, mean = record[record[:, 0].argmax()]
            return {"return": mean, "steps/s": steps / (time.perf_counter() - started)}

        state = [agent.actor, agent.critic, agent.optimizer, random, record]
        loop = run.loop(
            name,
            updates,
            {"agent": state},
            unit="updates",
            show=show,
            not_kept="the environments",
        )
        envs = environments.make_vec(config.env, setting.copies)
        train(agent, envs, setting, random, record, loop, whole=name == "REINFORCE")

        def act(observation, agent=agent):
            return (
                agent.probabilities(observation.astype("float32"))
                .numpy()
                .argmax(axis=1)
            )

        # Greedy, on seeds that training has not seen.
        returns[name] = environments.evaluate(act, trials, seed=2**31 + run.seed).mean()

    agent, found = agents["actor-critic"], returns["actor-critic"]
    run.metric("return", found)
    run.curve("mean return", *records["actor-critic"].T, xlabel="environment steps")
    run.figure("learning", plot_learning(records, threshold))
    untrained = keras.models.clone_model(agent.actor)
    players = {"untrained": untrained, "trained": agent.actor}
    run.figure("motion", environments.draw_motion(config.env, players))

    if threshold is not None:
        first = steps_to_solve(records["actor-critic"], threshold)
        if first is not None:
            run.metric("steps_to_solve", first)
        run.claim(
            f"An actor and a critic solve {config.env}",
            holds=found >= threshold,
            measured=f"after {config.steps:,} steps a mean return of {found:.1f} in 100 "
            f"greedy episodes on fresh seeds (solved: {threshold:.0f})",
        )
    for name in config.rivals:
        pair = records["actor-critic"], records[name]
        if name in SOONER and threshold is not None:
            first, later = (steps_to_solve(record, threshold) for record in pair)
            run.claim(
                SOONER[name],
                holds=first is not None and (later is None or first < 0.85 * later),
                measured=f"20 episodes of {threshold:.0f} on average: "
                f"{in_words(first)}, {name}: {in_words(later)} of {pair[1][-1, 0]:,.0f}",
            )
            continue
        steps = min(record[-1, 0] for record in pair)
        own, others = (mean_return(record, steps) for record in pair)
        run.claim(
            MORE[name],
            holds=own > others + 0.15 * abs(others),
            measured=f"mean return over the first {steps:,.0f} steps {own:.0f}, {name} "
            f"{others:.0f}",
        )

    example, _ = trials.reset(seed=run.seed)
    run.export(serving.policy(agent.actor), example=example[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
