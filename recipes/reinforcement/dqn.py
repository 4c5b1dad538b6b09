"""A deep Q-network learns to balance a pole from rewards alone.

Q(s, a) is the discounted reward to come after action a in state s. It obeys Bellman's
equation Q(s, a) = r + γ·max Q(s', a'), so a network is trained to make its two sides
agree. That alone is unsteady. Replay (learn from a shuffle of old transitions, not the
newest) and a target network (an older copy stands on the right side) steady it; n-step
returns, double and dueling are to help too.
Look at what each is worth here. An episode that a time limit cut short would have gone
on: the value of its last state counts, where that of a terminal state is 0.

Lectures: CS Q-learning, Experience Replay; N18 6.4 Deep reinforcement learning
Paper: Mnih et al., Human-level control through deep reinforcement learning, 2015
    (algorithm 1)
Tags: rl, deep q-learning, experience replay, target network, double dqn, dueling,
    cartpole, atari
"""

import time
from dataclasses import dataclass, replace

import gymnasium as gym
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from deep_learning_recipes import environments, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    env: str = "CartPole-v1"
    """a Gymnasium environment with vector observations and a few actions, or ALE/...
    (Atari)"""
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
    gamma: float = 0.99
    """what a reward one step later is worth"""
    replay_size: int = 10_000
    """the newest transitions, to learn from; 1 means that there is no replay: the
    newest block"""
    target_every: int = 50
    """updates after which the target network is copied; 1 means that there is none"""
    n_steps: int = 3
    """rewards that are added up before the network's value stands for the rest"""
    double: bool = True
    """the online network chooses the next action, the target network judges it"""
    dueling: bool = True
    """Q is a state's value plus each action's advantage"""
    prioritized: bool = False
    """draw transitions more often the more wrong their values were"""
    agents: int = 7
    """how many to train: the one as set, then, to compare with it, those of
    ABLATIONS"""


QUICK = Config(agents=2)
FULL = Config(steps=200_000, replay_size=50_000)
ROWS = 10  # steps of all environments, at least, between two calls that learn
ABLATIONS = {"no replay": {"replay_size": 1}, "one step": {"n_steps": 1}}
ABLATIONS |= {
    "moving target": {"n_steps": 1, "target_every": 1},
    "not double": {"double": False},
}
ABLATIONS |= {"not dueling": {"dueling": False}, "prioritized": {"prioritized": True}}


def build_q_network(shape, actions, dueling=False) -> keras.Model:
    """Q of all actions, (batch, actions). Input: (batch, size), or (batch, 4, 84, 84)
    frames in 0..255, for the convolutions of Mnih et al., 2015."""
    observation = x = keras.Input(shape, name="observation")
    if len(shape) == 3:
        x = layers.Rescaling(1 / 255)(layers.Permute((2, 3, 1))(x))
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = layers.Conv2D(filters, size, stride, activation="relu")(x)
        x = layers.Flatten()(x)
    for units in (512,) if len(shape) == 3 else (120, 84):
        x = layers.Dense(units, activation="relu")(x)
    values = layers.Dense(actions, dtype="float32", name="advantages")(x)
    # less the mean: else a constant could wander between V and A (Wang et al., 2016)
    if dueling:
        state_value = layers.Dense(1, dtype="float32", name="state_value")(x)
        values = state_value + values - ops.mean(values, axis=-1, keepdims=True)
    return keras.Model(observation, values, name="q-network")


def td_targets(returns, discounts, next_values, chooser):
    """Returns + discount·Q_target(s', argmax chooser(s')), (batch,). The chooser is the
    target network too, or for double Q-learning the one that learns (van Hasselt et
    al., 2016)."""
    return returns + discounts * tf.gather(
        next_values, tf.argmax(chooser, -1), batch_dims=1
    )


class Replay:
    """The newest steps of all environments: (rows, environments, ...). The step after
    an end is a
    reset: its row holds the last state, but is no transition, and its priority stays
        0."""

    def __init__(
        self, config: Config, rows: int, shape, dtype, random: np.random.Generator
    ):
        self.config, self.random, copies = config, random, config.environments
        each = max(config.replay_size // copies, rows) + config.n_steps, copies
        self.observations, self.actions = (
            np.zeros((*each, *shape), dtype),
            np.zeros(each, "int32"),
        )
        self.rewards, self.returns, self.discounts = (
            np.zeros(each, "float32") for _ in range(3)
        )
        self.terminated, self.ended = np.zeros(each, bool), np.zeros(each, bool)
        self.after, self.priorities = np.zeros(each, int), np.zeros(each)
        self.count = np.array(0)  # of all rows written
        self.in_a_row = (
            0  # of them since these environments began: a checkpoint leaves it out
        )

    def add(self, observations, actions, rewards, terminated, ended):
        """Writes a block of rows. Those n steps before have all their rewards now, and
        may be drawn, with the sum of these (fewer where the episode ended), by what the
        state after them is discounted (0 if it is terminal, but not if time was up) and
        where that state is."""
        copies, row = (
            actions.shape[1],
            (self.count + np.arange(len(actions))) % len(self.actions),
        )
        self.observations[row], self.actions[row] = observations, actions
        self.rewards[row], self.priorities[row] = rewards, 0
        self.terminated[row], self.ended[row] = terminated, ended
        ready = row[max(0, self.config.n_steps - self.in_a_row) :] - self.config.n_steps
        self.priorities[ready] = np.where(
            self.ended[ready - 1], 0, self.priorities.max() or 1
        )
        place = ready[:, None] % len(self.actions) * copies + np.arange(copies)
        returns, discounts, goes_on = 0, np.ones(place.shape, "float32"), True
        for _ in range(self.config.n_steps):
            returns = returns + goes_on * discounts * self.rewards.take(place)
            discounts *= np.where(
                goes_on, self.config.gamma * ~self.terminated.take(place), 1
            )
            over = self.ended.take(place)
            place, goes_on = (
                (place + goes_on * copies) % self.actions.size,
                goes_on & ~over,
            )
        self.returns[ready], self.discounts[ready], self.after[ready] = (
            returns,
            discounts,
            place,
        )
        self.count += len(row)
        self.in_a_row += len(row)

    def sample(self, shape, beta=1.0):
        """Draws by priority. Returns places, batches and (N·P)^-β of Schaul et al.,
        2016, 3.4."""
        drawn = np.flatnonzero(self.priorities)
        chances = self.priorities.take(drawn) / self.priorities.sum()
        places = self.random.choice(
            drawn, shape, p=chances if self.config.prioritized else None
        )
        weights = self.priorities.take(places) ** -beta
        weights = (weights / weights.max(axis=-1, keepdims=True)).astype("float32")
        parts = (self.actions, self.returns, self.discounts, self.after)
        *parts, after = (part.take(places) for part in parts)
        states = self.observations.reshape(-1, *self.observations.shape[2:])
        return places, (states[places], *parts, states[after], weights)


class Agent:
    """A Q-network, its target network and its replay: how they act and learn, block by
    block."""

    def __init__(self, config: Config, envs: gym.vector.VectorEnv, seed: int):
        self.config, self.envs, space = config, envs, envs.single_observation_space
        self.actions, self.random = (
            int(envs.single_action_space.n),
            np.random.default_rng(seed),
        )
        self.network = build_q_network(space.shape, self.actions, config.dueling)
        self.target = build_q_network(space.shape, self.actions, config.dueling)
        self.target.set_weights(self.network.get_weights())
        self.rows = max(
            ROWS, config.n_steps + 1, -(-config.steps_per_update // envs.num_envs)
        )
        self.replay = Replay(config, self.rows, space.shape, space.dtype, self.random)
        self.blocks = -(-config.steps // (self.rows * envs.num_envs))
        self.history = np.zeros(
            (self.blocks, 2)
        )  # of each block: recent return, mean |TD error|
        self.recent, self.started = np.array(0.0), time.perf_counter()
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.network.trainable_variables)
        signature = tf.TensorSpec(
            (None, *space.shape), space.dtype
        )  # no look-up at each step
        self.values = tf.function(self.network).get_concrete_function(signature)
        # On a CPU, XLA slows convolutions down.
        self.train = tf.function(self.train_batches, jit_compile=len(space.shape) == 1)
        self.observations, self.returns = None, np.zeros(envs.num_envs)
        # For checkpoints. What is inside the environments cannot be kept: they begin
        # anew.
        memory = [
            each for each in vars(self.replay).values() if isinstance(each, np.ndarray)
        ]
        learned = [self.network, self.target, self.optimizer, self.history, self.recent]
        self.state = {"learned": learned, "memory": memory, "random": self.random}

    def progress(self) -> dict[str, float]:
        """A moving average of the returns, the speed, the share of random actions."""
        speed = (
            self.replay.in_a_row
            * self.envs.num_envs
            / (time.perf_counter() - self.started)
        )
        epsilon = max(0.05, 1 - 1.9 * self.replay.count / (self.rows * self.blocks))
        return {"return": self.recent, "steps/s": speed, "ε": epsilon}

    def act(self, observations) -> np.ndarray:
        return self.values(tf.constant(observations)).numpy().argmax(axis=-1)

    def collect(self) -> None:
        """Acts ε-greedily for a block of rows. ε falls from 1 to 0.05 in half the
        time."""
        if self.observations is None:
            self.observations, _ = self.envs.reset(
                seed=int(self.random.integers(2**30))
            )
        each, block = (self.rows, self.envs.num_envs), []
        explores = self.random.random(each) < self.progress()["ε"]
        tried = self.random.integers(self.actions, size=each)
        for row in range(self.rows):
            actions = np.where(explores[row], tried[row], self.act(self.observations))
            following, rewards, terminated, truncated, _ = self.envs.step(actions)
            ended = terminated | truncated
            block.append((self.observations, actions, rewards, terminated, ended))
            self.observations, self.returns = following, self.returns + rewards
            for finished in self.returns[ended]:
                self.recent += 0.05 * (finished - self.recent)
            self.returns[ended] = 0
        self.replay.add(*map(np.array, zip(*block, strict=True)))

    def learn(self, block: int) -> None:
        """All the updates that the steps so far allow, in one compiled call. α = 0
        draws evenly."""
        due = (
            (block + 1) * self.rows * self.envs.num_envs // self.config.steps_per_update
        )
        shape = due - int(self.optimizer.iterations), self.config.batch_size
        places, batches = self.replay.sample(
            shape, beta=0.4 + 0.6 * block / self.blocks
        )
        errors = self.train(*batches).numpy()
        self.history[block] = self.recent, errors.mean()
        self.replay.priorities.ravel()[places] = (errors + 1e-6) ** (
            0.6 * self.config.prioritized
        )

    def train_batches(
        self, observations, actions, returns, discounts, following, weights
    ):
        """An update for each batch (updates, batch, ...). Returns the sizes of the TD
        errors."""
        errors = tf.TensorArray(tf.float32, size=len(actions))
        for i in tf.range(len(actions)):
            next_values = self.target(following[i])
            chooser = self.network(following[i]) if self.config.double else next_values
            targets = td_targets(returns[i], discounts[i], next_values, chooser)
            with tf.GradientTape() as tape:
                chosen = tf.one_hot(
                    actions[i], self.actions
                )  # a gather compiles for longer
                values = tf.reduce_sum(chosen * self.network(observations[i]), axis=-1)
                # Not clipped as in the paper: the few ends could not hold the values
                # down.
                loss = tf.reduce_mean(weights[i] * tf.square(targets - values))
            self.optimizer.apply(tape.gradient(loss, self.network.trainable_variables))
            is_time = self.optimizer.iterations % self.config.target_every == 0
            for old, new in zip(
                self.target.variables, self.network.variables, strict=True
            ):
                old.assign(tf.where(is_time, new, old))
            errors = errors.write(i, tf.abs(targets - values))
        return errors.stack()


def main(config: Config, run: Run) -> None:
    trials = environments.make_vec(config.env, 100)
    environments.require_vectors_or_frames(config.env, trials)
    agents, late, peak = {}, {}, {}
    for name, change in [("as set", {}), *ABLATIONS.items()][: config.agents]:
        copies = environments.make_vec(config.env, config.environments)
        agent = agents[name] = Agent(replace(config, **change), copies, run.seed)
        for block in run.loop(
            name, agent.blocks, agent.state, unit="blocks", show=agent.progress
        ):
            agent.collect()
            agent.learn(block)
        if name == "as set":
            trained, speed = agent, agent.progress()["steps/s"]
            returns = environments.evaluate(agent.act, trials, seed=2**30 + run.seed)
            run.metric(
                "return",
                returns.mean(),
                unit="over 100 greedy episodes on unseen seeds",
            )
            run.metric("steps_per_second", speed, timing=True)
            run.curve(
                "mean return", range(agent.blocks), agent.history[:, 0], xlabel="block"
            )
        late[name] = agent.history[agent.blocks // 2 :, 0].mean()
        peak[name] = agent.history[:, 1].max()
        run.metric(
            f"late_return_{name.replace(' ', '_')}",
            late[name],
            unit="in the second half",
        )

    if (solved := gym.spec(config.env).reward_threshold) is not None:
        found = (
            f"{returns.mean():.1f} after {config.steps:,} steps (solved: {solved:.0f})"
        )
        run.claim(
            f"It solves {config.env}", holds=returns.mean() >= solved, measured=found
        )
    for name, other, measured, least, text in (
        (
            "no replay",
            "as set",
            late,
            1.33,
            "Without replay it earns less while it learns",
        ),
        (
            "one step",
            "moving target",
            peak,
            1.7,
            "A target network holds the errors down",
        ),
    ):
        if name in agents and other in agents:
            what = "late return" if measured is late else "largest mean |TD error|"
            numbers = (
                f"{what}: {name} {measured[name]:.1f}, {other} {measured[other]:.1f}"
            )
            run.claim(
                text, holds=measured[other] > least * measured[name], measured=numbers
            )
    for column, (what, scale) in enumerate(
        {"return": "linear", "|TD error|": "log"}.items()
    ):
        lines = {name: agent.history[:, column] for name, agent in agents.items()}
        figure = figures.curves(
            lines, title=config.env, ylabel=what, xlabel="block", yscale=scale
        )
        run.figure(("returns", "errors")[column], figure)
    film = environments.film(config.env, trained.network, pictures=10, every=50)
    run.figure(
        "film", figures.image_grid(film, title="Trained: each 50th step", columns=5)
    )
    run.export(
        serving.policy(trained.network), example=trials.reset(seed=run.seed)[0][:3]
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
