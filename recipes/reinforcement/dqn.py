"""A deep Q-network learns to balance a pole from rewards alone.

Q(s, a) is the discounted reward to come after action a in state s. It obeys Bellman's equation
Q(s, a) = r + γ·max Q(s', a'), so a network is trained to make its two sides agree. That alone is
unsteady. Replay (learn from a shuffle of old transitions, not the newest) and a target network (an
older copy stands on the right side) steady it; n-step returns, double and dueling speed it up.
Look at what is lost without each. An episode that a time limit cut short would have gone on: the
value of its last state counts, where that of a terminal state is 0.

Lectures: CS Q-learning, Experience Replay; N18 6.4 Deep reinforcement learning
Paper: Mnih et al., Human-level control through deep reinforcement learning, 2015 (algorithm 1)
"""

import time
from dataclasses import dataclass, replace

import gymnasium as gym
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import environments, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    env: str = "CartPole-v1"
    """a Gymnasium environment with vector observations and a few actions, or ALE/... (Atari)"""
    steps: int = 60_000
    """steps in the environment to learn from"""
    environments: int = 8
    """copies of the environment that run side by side"""
    steps_per_update: int = 10
    """environment steps for each gradient step"""
    batch_size: int = 128
    """transitions a gradient is averaged over"""
    learning_rate: float = 5e-4
    """of Adam"""
    gamma: float = 0.99
    """what a reward one step later is worth"""
    replay_size: int = 10_000
    """the newest transitions, to learn from; 1 means that there is no replay: the newest block"""
    target_every: int = 20
    """updates after which the target network is copied; 1 means that there is none"""
    n_steps: int = 3
    """rewards that are added up before the network's value stands for the rest"""
    double: bool = True
    """the online network chooses the next action, the target network judges it"""
    dueling: bool = True
    """Q is a state's value plus each action's advantage"""
    prioritised: bool = False
    """draw transitions more often the more wrong their values were"""
    limit_is_end: bool = False
    """take an episode that a time limit cut short for one that ended by itself"""
    ablations: int = 7
    """train this many of ABLATIONS too, to compare with (0: one agent alone)"""
    evaluation_episodes: int = 100
    """greedy ones, after training, on seeds that it has not seen"""


QUICK = Config(steps=30_000, ablations=3)
FULL = Config(steps=200_000, replay_size=50_000)
ROWS_PER_BLOCK = 10  # steps of all environments between two calls that learn
ABLATIONS = {
    "no replay": {"replay_size": 1},
    "one step": {"n_steps": 1},
    "one step, no target network": {"n_steps": 1, "target_every": 1},
    "not double": {"double": False},
    "not dueling": {"dueling": False},
    "prioritised": {"prioritised": True},
    "time limit is an end": {"limit_is_end": True},
}


def build_q_network(shape, actions, dueling=False) -> keras.Model:
    """Q of all actions, (batch, actions). Input: (batch, size), or (batch, 4, 84, 84) frames in
    0..255, for the convolutions of Mnih et al., 2015."""
    observation = x = keras.Input(shape, name="observation")
    if len(shape) == 3:
        x = layers.Rescaling(1 / 255)(layers.Permute((2, 3, 1))(x))
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = layers.Conv2D(filters, size, stride, activation="relu")(x)
        x = layers.Flatten()(x)
    for units in (512,) if len(shape) == 3 else (120, 84):
        x = layers.Dense(units, activation="relu")(x)
    values = layers.Dense(actions, dtype="float32", name="advantages")(x)
    if dueling:  # less the mean: else a constant could wander between V and A (Wang et al., 2016)
        state_value = layers.Dense(1, dtype="float32", name="state_value")(x)
        values = state_value + values - ops.mean(values, axis=-1, keepdims=True)
    return keras.Model(observation, values, name="q-network")


def td_targets(returns, discounts, next_values, chooser):
    """Returns + discount·Q_target(s', argmax chooser(s')), (batch,). The chooser is the target
    network too, or for double Q-learning the one that learns (van Hasselt et al., 2016)."""
    return returns + discounts * tf.gather(next_values, tf.argmax(chooser, -1), batch_dims=1)


class Replay:
    """The newest steps of all environments, preallocated: (rows, environments, ...). In the step
    after an end a vector environment resets and ignores the action. That row holds the episode's
    last state, to bootstrap from, but is no transition: its priority stays 0."""

    def __init__(self, config: Config, shape: tuple[int, ...], dtype, random: np.random.Generator):
        self.n_steps, self.gamma, self.random = config.n_steps, config.gamma, random
        self.limit_is_end = config.limit_is_end
        rows = max(config.replay_size // config.environments, ROWS_PER_BLOCK) + config.n_steps
        each = rows, config.environments
        self.observations = np.zeros((*each, *shape), dtype)
        self.actions, self.rewards = np.zeros(each, "int32"), np.zeros(each, "float32")
        self.terminated, self.ended = np.zeros(each, bool), np.zeros(each, bool)
        self.priorities, self.count = np.zeros(each), np.array(0)  # count: of all rows written
        self.in_a_row = 0  # of them since these environments began: a checkpoint leaves it out

    def add(self, observations, actions, rewards, terminated, truncated):
        """Writes a row. The one n steps before it now has all its rewards, and may be drawn."""
        row, ready = ((self.count - back) % len(self.actions) for back in (0, self.n_steps))
        self.observations[row], self.actions[row] = observations, actions
        self.rewards[row], self.priorities[row] = rewards, 0
        self.ended[row] = terminated | truncated
        self.terminated[row] = self.ended[row] if self.limit_is_end else terminated
        if self.in_a_row >= self.n_steps:
            self.priorities[ready] = np.where(self.ended[ready - 1], 0, self.priorities.max() or 1)
        self.count += 1
        self.in_a_row += 1

    def sample(self, shape, beta=1.0):
        """Draws in proportion to the priorities. Returns the flat places and arrays of `shape`, the
        last with what makes up for the uneven draw: (N·P)^-β (Schaul et al., 2016, section 3.4)."""
        total = np.cumsum(self.priorities)
        places = np.searchsorted(total, self.random.random(shape) * total[-1], side="right")
        at = np.divmod(places, self.actions.shape[1])
        weights = self.priorities[at] ** -beta
        weights = (weights / weights.max(axis=-1, keepdims=True)).astype("float32")
        return places, (self.observations[at], self.actions[at], *self.n_step_returns(*at), weights)

    def n_step_returns(self, row, column):
        """The discounted rewards of n steps from there, or fewer where the episode ends; by what
        the state after them is discounted: 0 if terminal, but not if time was up; that state."""
        returns, discounts = np.zeros(row.shape, "float32"), np.ones(row.shape, "float32")
        goes_on = np.ones(row.shape, bool)
        for _ in range(self.n_steps):
            ended, factor = self.ended[row, column], self.gamma * ~self.terminated[row, column]
            returns += goes_on * discounts * self.rewards[row, column]
            discounts *= np.where(goes_on, factor, 1)
            row = (row + goes_on) % len(self.actions)
            goes_on &= ~ended
        return returns, discounts, self.observations[row, column]


class Agent:
    """A Q-network, its target network and its replay: how they act and learn, block by block."""

    def __init__(self, config: Config, envs: gym.vector.VectorEnv, seed: int):
        self.config, self.envs = config, envs
        self.random, space = np.random.default_rng(seed), envs.single_observation_space
        self.actions = int(envs.single_action_space.n)
        self.network = build_q_network(space.shape, self.actions, config.dueling)
        self.target = build_q_network(space.shape, self.actions, config.dueling)
        self.target.set_weights(self.network.get_weights())
        self.replay = Replay(config, space.shape, space.dtype, self.random)
        self.rows = max(ROWS_PER_BLOCK, config.n_steps + 1)
        self.blocks = -(-config.steps // (self.rows * envs.num_envs))
        # Of each block: episodes that ended, the sum of their returns, the mean size of TD errors.
        self.history = np.zeros((self.blocks, 3))
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.network.trainable_variables)
        use_xla = len(space.shape) == 1  # on a CPU it slows convolutions down
        self.values = tf.function(self.network, jit_compile=use_xla, reduce_retracing=True)
        self.train = tf.function(self.train_batches, jit_compile=use_xla)
        self.observations = None

    def state(self) -> dict:
        """All that a checkpoint keeps. What is inside the environments it cannot: they begin anew,
        and so do the returns of their episodes."""
        replay = {k: v for k, v in vars(self.replay).items() if isinstance(v, np.ndarray)}
        learned = [self.network, self.target, self.optimizer]
        return {"learned": learned, "replay": replay, "random": self.random, "log": self.history}

    def epsilon(self, block: int) -> float:
        """The share of random actions: from 1 along a line to 0.05 at half time."""
        return max(0.05, 1 - 0.95 * block / (0.5 * self.blocks))

    def collect(self, block: int) -> None:
        """Acts ε-greedily for a block of rows, and remembers them."""
        if self.observations is None:
            self.observations, _ = self.envs.reset(seed=int(self.random.integers(2**31)))
            self.returns, self.started = np.zeros(self.envs.num_envs), time.perf_counter()
        for _ in range(self.rows):
            actions = self.random.integers(self.actions, size=self.envs.num_envs)
            explores = self.random.random(len(actions)) < self.epsilon(block)
            actions = np.where(explores, actions, self.act(self.observations))
            following, rewards, terminated, truncated, _ = self.envs.step(actions)
            self.replay.add(self.observations, actions, rewards, terminated, truncated)
            self.observations, ended = following, terminated | truncated
            self.returns += rewards
            self.history[block, :2] += ended.sum(), self.returns[ended].sum()
            self.returns[ended] = 0

    def act(self, observations) -> np.ndarray:
        return self.values(observations).numpy().argmax(axis=-1)

    def learn(self, block: int) -> None:
        """All the updates that the steps so far allow, in one compiled call. α = 0 draws evenly."""
        due = (block + 1) * self.rows * self.envs.num_envs // self.config.steps_per_update
        shape = due - int(self.optimizer.iterations), self.config.batch_size
        # β of proportional draws goes from 0.4 to 1.
        places, batches = self.replay.sample(shape, 0.4 + 0.6 * block / self.blocks)
        errors = self.train(*batches).numpy()
        self.history[block, 2] = errors.mean()
        alpha = 0.6 * self.config.prioritised
        self.replay.priorities.ravel()[places] = (errors + 1e-6) ** alpha

    def train_batches(self, observations, actions, returns, discounts, following, weights):
        """An update for each batch (updates, batch, ...). Returns the sizes of the TD errors."""
        errors = tf.TensorArray(tf.float32, size=len(actions))
        for i in tf.range(len(actions)):
            next_values = self.target(following[i])
            chooser = self.network(following[i]) if self.config.double else next_values
            targets = td_targets(returns[i], discounts[i], next_values, chooser)
            with tf.GradientTape() as tape:
                values = tf.gather(self.network(observations[i]), actions[i], batch_dims=1)
                # Clipped as in the paper, errors at the few ends cannot hold the values down.
                loss = tf.reduce_mean(weights[i] * tf.square(targets - values))
            gradients = tape.gradient(loss, self.network.trainable_variables)
            self.optimizer.apply(gradients, self.network.trainable_variables)
            copies = self.optimizer.iterations % self.config.target_every == 0
            for old, new in zip(self.target.variables, self.network.variables, strict=True):
                old.assign(tf.where(copies, new, old))
            errors = errors.write(i, tf.abs(targets - values))
        return errors.stack()

    def progress(self) -> dict[str, float]:
        """What to show: the mean return of recent episodes, the speed, the share of chance."""
        ended, total, _ = self.history[self.history[:, 0] > 0][-10:].sum(axis=0)
        done = np.count_nonzero(self.history[:, 2])
        speed = self.replay.in_a_row * self.envs.num_envs / (time.perf_counter() - self.started)
        return {"return": total / max(ended, 1), "steps/s": speed, "ε": self.epsilon(done)}

    def evaluate(self, envs: gym.vector.VectorEnv, seed: int) -> np.ndarray:
        """The returns of one greedy episode in each environment."""
        observations, _ = envs.reset(seed=seed)
        returns, alive = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
        while alive.any():
            observations, rewards, terminated, truncated, _ = envs.step(self.act(observations))
            returns += rewards * alive
            alive &= ~(terminated | truncated)
        return returns


def plot_learning(log: dict[str, np.ndarray], steps: int, title: str) -> plt.Figure:
    """The return of episodes and the TD error while they learned. log: `Agent.history` by name."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    window = np.ones(30)
    for name, (ended, total, error) in ((name, each.T) for name, each in log.items()):
        place = np.linspace(0, steps, len(ended))
        ended, total = (np.convolve(each, window, "same") for each in (ended, total))
        left.plot(place, total / np.maximum(ended, 1), label=name)
        right.plot(place, np.convolve(error, window / 30, "same"))
    left.set(title=title, xlabel="steps in the environment", ylabel="return of an episode")
    right.set(title="How far the two sides of Bellman's equation differ", yscale="log")
    right.set(xlabel="steps in the environment", ylabel="mean |TD error|")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def main(config: Config, run: Run) -> None:
    trials = environments.make_vec(config.env, config.evaluation_episodes)
    environments.require_vectors_or_frames(config.env, trials)
    chosen = list(ABLATIONS.items())[: config.ablations]
    agents, returns, late, peak, values = {}, {}, {}, {}, {}
    for name, change in [("as set", {}), *chosen]:
        keras.utils.set_random_seed(run.seed)
        copies = environments.make_vec(config.env, config.environments)
        agent = agents[name] = Agent(replace(config, **change), copies, run.seed)
        steps = agent.rows * config.environments
        unit = f"x {steps} steps"
        for block in run.loop(name, agent.blocks, agent.state(), unit=unit, show=agent.progress):
            agent.collect(block)
            agent.learn(block)
        returns[name] = agent.evaluate(trials, seed=2**31 + run.seed)
        ended, total, _ = agent.history[agent.blocks // 2 :].sum(axis=0)
        late[name], peak[name] = total / max(ended, 1), agent.history[:, 2].max()
        if name == "as set":
            run.metric("return", returns[name].mean(), unit=f"over {len(returns[name])} episodes")
            run.metric("steps_per_second", agent.progress()["steps/s"], timing=True)
        run.metric(f"late_return_{name}".replace(" ", "_"), late[name], unit="second half")
        starts, _ = trials.reset(seed=2**31 + run.seed)
        values[name] = float(agent.values(starts).numpy().max(axis=-1).mean())
        run.print(
            f"{name}: {returns[name].mean():.1f} late {late[name]:.1f} peak {peak[name]:.2f} value {values[name]:.2f}"
        )

    agent, own = agents["as set"], returns["as set"]
    untrained = Agent(config, trials, run.seed)
    chance = untrained.evaluate(trials, seed=2**31 + run.seed).mean()
    solved = gym.spec(config.env).reward_threshold
    run.claim(
        f"Rewards alone teach it to play {config.env}",
        holds=own.mean() >= (chance + 1 if solved is None else solved),
        measured=f"after {config.steps:,} steps a mean return of {own.mean():.1f} in {len(own)} "
        f"greedy episodes (solved: {solved}; untrained: {chance:.1f})",
    )
    if "no replay" in late:
        run.claim(
            "Who learns from the newest steps alone, without replay, earns less",
            holds=late["no replay"] < 0.75 * late["as set"],
            measured=f"mean return in the second half of training {late['no replay']:.0f} without "
            f"replay, {late['as set']:.0f} with it",
        )
    if "one step" in late:
        run.claim(
            f"Adding up {config.n_steps} rewards before the network's guess learns faster than one",
            holds=late["one step"] < 0.9 * late["as set"],
            measured=f"mean return in the second half of training {late['one step']:.0f} with one "
            f"reward, {late['as set']:.0f} with {config.n_steps}",
        )
    if "one step, no target network" in late:
        free, held = peak["one step, no target network"], peak["one step"]
        run.claim(
            "Without a target network the targets run away from the network that chases them",
            holds=free > 1.5 * held,
            measured=f"largest TD error of a block {free:.1f} without, {held:.1f} with (one-step "
            "targets)",
        )
    log = {name: each.history for name, each in agents.items()}
    run.figure("learning", plot_learning(log, config.steps, config.env))
    strips = {
        f"{name}, 1 step in {every}": environments.film(
            config.env, player.values, pictures=10, every=every
        )
        for name, player, every in (("untrained", untrained, 2), ("trained", agent, 50))
    }
    run.figure("film", figures.image_rows(strips, title="White: the episode is over"))
    run.export(serving.policy(agent.network), example=starts[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
