"""A deep Q-network learns to balance a pole from rewards alone.

Q(s, a) is the discounted reward to come after action a in state s. It obeys Bellman's
equation Q(s, a) = r + γ·max Q(s', a'), so a network is trained to make its two sides
agree. That alone is unsteady. Two things steady it: replay (learn from a shuffle of old
transitions, not from the newest) and a target network (an older copy stands on the
right side). The news of a reward travels back one step with each copy; with n-step
returns, here r₁ + γ·r₂ + γ²·r₃ + γ³·max Q, it travels three.
Look at what replay and a target network are worth: without replay the agent earns far
less while it learns, and with targets of one step the errors grow several times as
large without a target network. What three steps, double and dueling are worth differs
from seed to seed in an environment this small: that is recorded, and nothing is claimed
of it. Look at the end of an episode, too: a terminal state is worth 0, but an episode
that a time limit cut short would have gone on.

Lectures: CS Q-learning, Experience Replay; N18 6.4 Deep reinforcement learning
Paper: Mnih et al., Human-level control through deep reinforcement learning, 2015
    (algorithm 1)
Tags: rl, deep q-learning, experience replay, target network, double dqn, dueling,
    n-step returns, cartpole
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Annotated

import gymnasium as gym
import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops

from deep_learning_recipes import environments, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    env: str = "CartPole-v1"
    """a Gymnasium environment with vector observations and a few actions"""
    steps: int = 60_000
    """steps in the environment to learn from"""
    environments: int = 8
    """copies of the environment that run side by side"""
    steps_per_update: int = 10
    """environment steps for each gradient step"""
    batch_size: int = 128
    """transitions a gradient is averaged over"""
    learning_rate: float = 2.5e-4
    """of Adam"""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.99
    """what a reward one step later is worth"""
    n_steps: int = 3
    """rewards that are added up before the network's value stands for the rest"""
    replay_size: int = 10_000
    """the newest transitions, to learn from; 1: no replay, the newest block alone"""
    target_every: int = 50
    """updates after which the target network is copied; 1: no target network"""
    double: bool = True
    """the online network chooses the next action, the target network judges it"""
    dueling: bool = True
    """Q is a state's value plus each action's advantage"""
    agents: int = 6
    """how many to train: the default one, then those of ABLATIONS"""


QUICK = Config(steps=20_000, environments=16, agents=2)
FULL = Config(steps=200_000, replay_size=50_000)

# What is taken away. With one step each, a value depends the most on the network's own
# estimate: there a target network is put to the test.
ABLATIONS = {
    "no replay": {"replay_size": 1},
    "one step": {"n_steps": 1},
    "one step, no target": {"n_steps": 1, "target_every": 1},
    "not double": {"double": False},
    "not dueling": {"dueling": False},
}

# Steps of all environments, at least, between two calls that learn.
ROWS = 10

# --------------------------------------------------------------------------------------
# The idea: Bellman's equation, the network Q, and what steadies it
# --------------------------------------------------------------------------------------


def td_targets(returns, discounts, next_values, chooser):
    """The right side of Bellman's equation, return + discount·Q(s', a'), (batch,).

    returns, discounts: (batch,) of the rewards up to s', and of what s' is worth.
    next_values: (batch, actions), the target network's values of s'.
    chooser: (batch, actions), whose largest picks a': the target network's values too,
        or for double Q-learning the learning network's (van Hasselt et al., 2016).
    """
    best = tf.argmax(chooser, axis=-1)
    value_of_next = tf.gather(next_values, best, batch_dims=1)
    return returns + discounts * value_of_next


def epsilon(step: int, steps: int) -> float:
    """The share of random actions: from 1 along a line to 0.05 at half of the steps."""
    return max(0.05, 1 - 1.9 * step / steps)


def build_q_network(observation_size: int, actions: int, dueling: bool) -> keras.Model:
    """The values of all actions. Input: (batch, size). Output: (batch, actions)."""
    observation = keras.Input((observation_size,), name="observation")
    x = layers.Dense(120, activation="relu")(observation)
    x = layers.Dense(84, activation="relu")(x)
    values = layers.Dense(actions, dtype="float32", name="advantages")(x)

    if dueling:
        # Q = V + (A − mean A). Without the mean a constant could wander between V and A
        # (Wang et al., 2016).
        state_value = layers.Dense(1, dtype="float32", name="state_value")(x)
        advantages = values - ops.mean(values, axis=-1, keepdims=True)
        values = state_value + advantages

    return keras.Model(observation, values, name="q-network")


class Learner:
    """A Q-network, the older copy that its targets come from, and how it learns."""

    def __init__(self, config: Config, observation_size: int, actions: int):
        self.config = config
        self.actions = actions
        self.network = build_q_network(observation_size, actions, config.dueling)
        self.target = build_q_network(observation_size, actions, config.dueling)
        self.target.set_weights(self.network.get_weights())
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.network.trainable_variables)

    def update(self, states, actions, returns, discounts, following):
        """One gradient step on one batch. Returns the sizes of the TD errors, (batch,).

        states, following: (batch, size). actions: (batch,) integers.
        returns, discounts: (batch,), of `look_ahead`.
        """
        # The target network judges; who chooses depends on `double`.
        next_values = self.target(following)
        chooser = self.network(following) if self.config.double else next_values
        targets = td_targets(returns, discounts, next_values, chooser)

        with tf.GradientTape() as tape:
            # A sum over one-hot rows, because a gather compiles for longer.
            chosen = tf.one_hot(actions, self.actions)
            values = tf.reduce_sum(chosen * self.network(states), axis=-1)
            # Not clipped as in the paper: the few ends could not hold the values down.
            loss = tf.reduce_mean(tf.square(targets - values))
        gradients = tape.gradient(loss, self.network.trainable_variables)
        self.optimizer.apply(gradients)

        self.copy_to_target_when_due()
        return tf.abs(targets - values)

    def copy_to_target_when_due(self):
        """After every `target_every` updates the older copy becomes the newest."""
        # A choice of values instead of a branch keeps the compiled loop simple.
        is_due = self.optimizer.iterations % self.config.target_every == 0
        for old, new in zip(self.target.variables, self.network.variables, strict=True):
            old.assign(tf.where(is_due, new, old))

    @tf.function(jit_compile=True)
    def update_many(self, batches):
        """An update for each of many batches in one compiled call, which is far faster.

        batches: the arguments of `update`, (updates, batch, ...) each.
        Returns the sizes of the TD errors, (updates, batch).
        """
        updates = len(batches[0])
        errors = tf.TensorArray(tf.float32, size=updates)
        for i in tf.range(updates):
            batch = [part[i] for part in batches]
            errors = errors.write(i, self.update(*batch))
        return errors.stack()


@dataclass
class Step:
    """One step in each of several environments, (environments, ...) each."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    following: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    """terminated, or cut short by a time limit"""
    real: np.ndarray
    """False for the step after an end: it is a reset, and no transition"""


def look_ahead(window, gamma: float):
    """What came of the first of some steps in a row: (environments, ...) each.

    Returns the discounted sum of the rewards up to the last step or the episode's end,
    the discount of the state after them, and that state.
    """
    first = window[0]
    count = len(first.rewards)
    returns = np.zeros(count)
    discounts = np.ones(count)
    following = first.following
    goes_on = np.ones(count, bool)

    for step in window:
        returns += np.where(goes_on, discounts * step.rewards, 0)
        following = np.where(goes_on[:, None], step.following, following)
        # A terminal state is worth nothing; one at which time was up would have gone on.
        after = gamma * discounts * ~step.terminated
        discounts = np.where(goes_on, after, discounts)
        goes_on = goes_on & ~step.ended

    return returns, discounts, following


class Replay:
    """The newest transitions, in a ring: new ones overwrite the oldest."""

    def __init__(self, size: int, observation_size: int):
        self.states = np.zeros((size, observation_size), "float32")
        self.actions = np.zeros(size, "int32")
        self.returns = np.zeros(size, "float32")
        self.discounts = np.zeros(size, "float32")
        self.following = np.zeros((size, observation_size), "float32")
        self.count = np.array(0)  # of all transitions ever added

    def add(self, states, actions, returns, discounts, following):
        """Writes some transitions, (n, ...) each."""
        places = (self.count + np.arange(len(actions))) % len(self.actions)
        self.states[places] = states
        self.actions[places] = actions
        self.returns[places] = returns
        self.discounts[places] = discounts
        self.following[places] = following
        self.count += len(actions)

    def sample(self, shape, random: np.random.Generator):
        """Transitions drawn evenly: the arguments of `update`, (*shape, ...) each."""
        filled = min(int(self.count), len(self.actions))
        places = random.integers(filled, size=shape)
        return (
            self.states[places],
            self.actions[places],
            self.returns[places],
            self.discounts[places],
            self.following[places],
        )


class Agent:
    """A learner and its replay, at play in many environments side by side."""

    def __init__(self, config: Config, envs: gym.vector.VectorEnv, seed: int):
        (size,) = envs.single_observation_space.shape
        self.config = config
        self.envs = envs
        self.actions = int(envs.single_action_space.n)
        self.random = np.random.default_rng(seed)

        # A block of steps is what is played between two calls that learn.
        rows_of_an_update = math.ceil(config.steps_per_update / envs.num_envs)
        self.rows = max(ROWS, rows_of_an_update)
        self.steps_of_a_block = self.rows * envs.num_envs

        self.learner = Learner(config, size, self.actions)
        self.replay = Replay(max(config.replay_size, self.steps_of_a_block), size)
        # Made once for batches of any size: nothing is looked up at each step.
        signature = tf.TensorSpec((None, size), tf.float32)
        values = tf.function(self.learner.network)
        self.values = values.get_concrete_function(signature)

        self.observations, _ = envs.reset(seed=seed)
        self.just_ended = np.zeros(envs.num_envs, bool)
        self.window = deque(maxlen=config.n_steps)

    def act(self, observations) -> np.ndarray:
        """The actions of the highest value, (batch,)."""
        values = self.values(tf.constant(observations, tf.float32))
        return np.argmax(values, axis=-1)

    def step(self, share_of_random: float):
        """Acts ε-greedily, once in each environment, and remembers what came of it.

        Returns the rewards and which episodes ended, (environments,) each.
        """
        greedy = self.act(self.observations)
        anything = self.random.integers(self.actions, size=len(greedy))
        explores = self.random.random(len(greedy)) < share_of_random
        actions = np.where(explores, anything, greedy)

        following, rewards, terminated, truncated, _ = self.envs.step(actions)
        ended = terminated | truncated
        step = Step(
            states=self.observations,
            actions=actions,
            rewards=rewards,
            following=following,
            terminated=terminated,
            ended=ended,
            real=~self.just_ended,
        )
        self.remember(step)

        self.observations = following
        self.just_ended = ended
        return rewards, ended

    def remember(self, step: Step):
        """Adds to the replay the transitions that have all their rewards now."""
        self.window.append(step)
        if len(self.window) < self.config.n_steps:
            return

        returns, discounts, following = look_ahead(self.window, self.config.gamma)
        first = self.window[0]
        self.replay.add(
            first.states[first.real],
            first.actions[first.real],
            returns[first.real],
            discounts[first.real],
            following[first.real],
        )

    def learn(self) -> float:
        """The updates due after a block of steps. Returns the mean size of their TD
        errors."""
        updates = self.steps_of_a_block // self.config.steps_per_update
        shape = (updates, self.config.batch_size)
        batches = self.replay.sample(shape, self.random)
        return float(np.mean(self.learner.update_many(batches)))

    def state(self) -> dict:
        """What a checkpoint keeps. Environments cannot be kept: they begin anew."""
        return {
            "network": self.learner.network,
            "target": self.learner.target,
            "optimizer": self.learner.optimizer,
            "replay": vars(self.replay),
            "random": self.random,
        }


def standalone(steps: int = 60_000) -> None:
    """The default agent, in CartPole: the main of a standalone copy."""
    config = Config(steps=steps)
    envs = gym.make_vec(
        config.env, config.environments, vectorization_mode="vector_entry_point"
    )
    agent = Agent(config, envs, seed=0)
    blocks = math.ceil(steps / agent.steps_of_a_block)
    earned = 0.0
    episodes = 0
    for block in range(1, blocks + 1):
        for _ in range(agent.rows):
            rewards, ended = agent.step(epsilon(block * agent.steps_of_a_block, steps))
            earned += rewards.sum()
            episodes += ended.sum()
        agent.learn()
        if block % 50 == 0 or block == blocks:
            return_of_each = earned / max(episodes, 1)
            print(
                f"{block * agent.steps_of_a_block:,} steps: return {return_of_each:.0f}"
            )
            earned = 0.0
            episodes = 0
    agent.learner.network.save("dqn.keras")


# --------------------------------------------------------------------------------------
# The experiment: the default agent, and agents without one thing each
# --------------------------------------------------------------------------------------


def train(config: Config, name: str, run: Run):
    """An agent; what it earned and how large its TD errors were, (blocks,) each."""
    keras.utils.set_random_seed(run.seed)  # all begin with the same weights
    envs = environments.make_vec(config.env, config.environments)
    agent = Agent(config, envs, run.seed)
    blocks = math.ceil(config.steps / agent.steps_of_a_block)
    log = environments.ReturnLog(blocks, config.environments)
    errors = np.zeros(blocks)

    state = {"agent": agent.state(), "log": log.state, "errors": errors}
    loop = run.loop(
        name,
        blocks,
        state,
        unit="blocks",
        show=log.show,
        not_kept="the environments",
    )
    for block in loop:
        share_of_random = epsilon(block * agent.steps_of_a_block, config.steps)
        for _ in range(agent.rows):
            rewards, ended = agent.step(share_of_random)
            log.add(block, rewards, ended)
        errors[block] = agent.learn()
    return agent, log.returns, errors


def draw_learning(config: Config, steps, returns, errors):
    """Returns and TD errors of all agents over the steps in the environment."""
    return figures.panels(
        figures.Panel(
            title=f"{config.env}: return, moving average",
            xlabel="steps",
            ylabel="return",
            lines={name: (steps, values) for name, values in returns.items()},
        ),
        figures.Panel(
            title="TD error, mean of a block",
            xlabel="steps",
            ylabel="|TD error|",
            yscale="log",
            lines={name: (steps, values) for name, values in errors.items()},
        ),
    )


def draw_motion(config: Config, agent: Agent):
    """What the agent does in one episode, and what it did before it learned."""
    network = agent.learner.network
    players = {"untrained": keras.models.clone_model(network), "trained": network}
    return environments.draw_motion(config.env, players)


def claim_what_was_learned(config: Config, agent: Agent, run: Run):
    """Greedy episodes on seeds that training has not seen."""
    trials = environments.make_vec(config.env, 100)
    actions = trials.single_action_space.n
    random = np.random.default_rng(run.seed)
    seed = 2**30 + run.seed
    played = environments.evaluate(agent.act, trials, seed=seed)
    by_chance = environments.evaluate(
        lambda observations: random.integers(actions, size=len(observations)),
        trials,
        seed=seed,
    )
    run.metric("return", played.mean(), unit="over 100 greedy episodes on unseen seeds")
    run.metric("return_at_random", by_chance.mean(), unit="on the same seeds")
    run.compare(
        f"Trained, it earns far more than random actions in {config.env}",
        {"trained": played.mean(), "at random": by_chance.mean()},
        more="trained",
        less="at random",
        by=2 * abs(by_chance.mean()),
    )

    goal = environments.find(config.env).reward_threshold  # some have none
    if goal is not None and config.steps >= Config.steps:  # else too short to tell
        run.claim(
            f"Trained, it solves {config.env}",
            at_least=goal,
            measured={"mean return": played.mean()},
        )


def claim_what_parts_are_worth(returns, errors, run: Run):
    """Compares agents by what they earn while they learn, and by their TD errors.

    Two differences are claimed; the others are recorded only, since they are no larger
    than those between seeds.
    """
    late = {name: values[len(values) // 2 :].mean() for name, values in returns.items()}
    run.metrics("late_return", late, unit="while it learns, in the second half")
    if "no replay" in late:
        run.compare(
            "Without replay it earns less while it learns",
            late,
            more="default",
            less="no replay",
            by=0.25 * abs(late["default"]),
        )

    peak = {name: values.max() for name, values in errors.items()}
    run.metrics("peak_td_error", peak, unit="largest mean of a block")
    if "one step, no target" in peak:
        run.compare(
            "With targets of one step, a target network holds the TD errors down",
            peak,
            more="one step, no target",
            less="one step",
            times=2,
        )


def main(config: Config, run: Run) -> None:
    names = ["default", *ABLATIONS][: config.agents]
    run.plan(len(names))
    envs = environments.make_vec(config.env, 3)
    environments.require_vectors_and_choices(config.env, envs)

    agents = {}
    returns = {}
    errors = {}
    for name in names:
        changed = replace(config, **ABLATIONS.get(name, {}))
        agents[name], returns[name], errors[name] = train(changed, name, run)
    agent = agents["default"]
    steps = agent.steps_of_a_block * np.arange(1, len(returns["default"]) + 1)

    claim_what_was_learned(config, agent, run)
    claim_what_parts_are_worth(returns, errors, run)

    run.curve("mean return", steps, returns["default"], xlabel="step")
    run.figure("learning", draw_learning(config, steps, returns, errors))
    run.figure("motion", draw_motion(config, agent))
    observations, _ = envs.reset(seed=run.seed)
    run.export(serving.policy(agent.learner.network), example=observations)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
