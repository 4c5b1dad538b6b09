"""DQN and actor-critic on CartPole-v1 against PyTorch, stable-baselines3 and a Keras
tutorial.

    python benchmarks/reinforcement.py [--seconds 90] [--seeds 3] [--first-seed 0]

Each learns until 100 greedy episodes earn 475 on average, or until its seconds or steps
are over. They are asked after every 2,500 steps, while the clock stands still; a
compilation is on the clock. The speed is that after the first 12,500 steps, with
acting, learning and the environment in it. They take turns, seed by seed, and have one
thread each: networks as small as these gain nothing from a second one, and PyTorch
loses much by it on a busy machine. What is shown are medians.

- our `dqn`: the recipe's default preset; for a fair speed also with CleanRL's
hyper-parameters (as
  many updates of as large batches for as many steps), but 100 environments side by side
- our `actor_critic`: the recipe's default preset
- PyTorch: a loop in one file with the hyper-parameters of CleanRL's dqn.py
- stable-baselines3: DQN and A2C with the hyper-parameters that RL Baselines3 Zoo found
for them
- Keras tutorial: eager calls to act, an eager GradientTape to learn; hyper-parameters
as PyTorch's

PyTorch and stable-baselines3 (the `bench` extra) are left out where they are not
installed.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a checkout need not be installed

import gymnasium  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

from deep_learning_recipes import environments  # noqa: E402
from recipes import actor_critic, dqn  # noqa: E402

try:
    import torch
except ImportError:
    torch = None
try:
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError:
    stable_baselines3, BaseCallback = None, object

ENV, SOLVED, STEPS_PER_CHECK, WARM_UP = "CartPole-v1", 475, 2_500, 12_500
# Of CleanRL's dqn.py; the exploration falls from 1 to 0.05 over half of the steps.
STEPS, LEARNING_STARTS, TRAIN_EVERY, TARGET_EVERY = 500_000, 10_000, 10, 500
LEARNING_RATE, BUFFER, GAMMA, BATCH = 2.5e-4, 10_000, 0.99, 128
OURS, OURS_AS_CLEANRL, OUR_ACTOR_CRITIC, TORCH, KERAS = (
    "dqn, default preset",
    "dqn, as CleanRL sets it",
    "actor_critic, default preset",
    "PyTorch, CleanRL's settings",
    "Keras tutorial, eager",
)


@dataclass
class Referee:
    """Takes the time of one contestant, and tells it when to stop."""

    limit: float
    """seconds of learning"""
    trials: gymnasium.vector.VectorEnv
    checks: list[tuple[int, float, float]] = field(default_factory=list)
    """steps done, seconds on the clock, mean return"""

    def __post_init__(self) -> None:
        self.seconds, self.resumed = 0.0, time.perf_counter()

    def is_over(self, steps: int, act: Callable[[np.ndarray], np.ndarray]) -> bool:
        """For every step, or many at once: checks when it is time, and says whether to
        stop."""
        if steps // STEPS_PER_CHECK <= (
            self.checks[-1][0] // STEPS_PER_CHECK if self.checks else 0
        ):
            return False
        self.seconds += time.perf_counter() - self.resumed
        value = environments.evaluate(act, self.trials, seed=10_000).mean()
        self.checks.append((steps, self.seconds, value))
        self.resumed = time.perf_counter()
        return value >= SOLVED or self.seconds > self.limit

    def speed(self) -> float:
        """Steps a second after the warm-up; over all where there is nothing after
        it."""
        late = [check for check in self.checks if check[0] >= WARM_UP]
        first = late[0] if len(late) > 1 else (0, 0.0)
        return (self.checks[-1][0] - first[0]) / (self.checks[-1][1] - first[1])


def ours(config: dqn.Config, referee: Referee, seed: int) -> None:
    agent = dqn.Agent(config, environments.make_vec(ENV, config.environments), seed)
    for step in range(0, config.steps, agent.steps_of_a_block):
        share_of_random = dqn.epsilon(step, config.steps)
        for _ in range(agent.rows):
            agent.step(share_of_random)
        agent.learn()
        if referee.is_over(step + agent.steps_of_a_block, agent.act):
            return


def ours_default(referee: Referee, seed: int) -> None:
    ours(dqn.Config(), referee, seed)


def ours_as_cleanrl(referee: Referee, seed: int) -> None:
    config = dqn.Config(
        steps=STEPS,
        environments=100,
        steps_per_update=TRAIN_EVERY,
        target_every=TARGET_EVERY // TRAIN_EVERY,
        learning_rate=LEARNING_RATE,
        replay_size=BUFFER,
        gamma=GAMMA,
        batch_size=BATCH,
        n_steps=1,
        double=False,
        dueling=False,
    )
    ours(config, referee, seed)


def ours_actor_critic(referee: Referee, seed: int) -> None:
    config = actor_critic.Config()
    envs = environments.make_vec(ENV, config.copies)
    updates = config.steps // (config.copies * config.horizon)
    descents = updates * config.epochs * config.batches
    agent = actor_critic.Agent(4, 2, config.learning_rate, descents)
    record = np.zeros((updates, 2))

    def until_over():
        for update in range(updates):
            yield update
            if referee.is_over(int(record[update, 0]), agent.act):
                return

    actor_critic.train(
        agent, envs, config, np.random.default_rng(seed), record, until_over()
    )


def one_by_one(referee: Referee, seed: int, act, learn, copy) -> None:
    """The loop that CleanRL and the tutorials have: one environment, one step at a
    time.

    act: actions for observations; learn: an update from a batch; copy: renews the
        target network.
    """
    env, draws = gymnasium.make(ENV), np.random.default_rng(seed)
    buffer = {
        "observations": np.zeros((BUFFER, 4), "float32"),
        "following": np.zeros((BUFFER, 4), "float32"),
        "actions": np.zeros(BUFFER, "int64"),
        "rewards": np.zeros(BUFFER, "float32"),
        "terminated": np.zeros(BUFFER, "float32"),
    }
    observation, _ = env.reset(seed=seed)
    for step in range(STEPS):
        epsilon = max(0.05, 1 - 0.95 * step / (0.5 * STEPS))
        explores = random.random() < epsilon
        action = random.randrange(2) if explores else int(act(observation[None])[0])
        following, reward, terminated, truncated, _ = env.step(action)
        transition = observation, following, action, reward, terminated
        for array, value in zip(buffer.values(), transition, strict=True):
            array[step % BUFFER] = value
        observation = env.reset()[0] if terminated or truncated else following
        if step >= LEARNING_STARTS and step % TRAIN_EVERY == 0:
            rows = draws.integers(min(step + 1, BUFFER), size=BATCH)
            learn(**{name: array[rows] for name, array in buffer.items()})
        if step >= LEARNING_STARTS and step % TARGET_EVERY == 0:
            copy()
        if referee.is_over(step + 1, act):
            return


def pytorch(referee: Referee, seed: int) -> None:
    torch.manual_seed(seed)
    network, target = (
        torch.nn.Sequential(
            torch.nn.Linear(4, 120),
            torch.nn.ReLU(),
            torch.nn.Linear(120, 84),
            torch.nn.ReLU(),
            torch.nn.Linear(84, 2),
        )
        for _ in range(2)
    )
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def act(observations):
        with torch.no_grad():
            return network(torch.from_numpy(observations)).argmax(1).numpy()

    def learn(**batch):
        parts = {name: torch.from_numpy(array) for name, array in batch.items()}
        with torch.no_grad():
            best = target(parts["following"]).max(1).values
            goal = parts["rewards"] + GAMMA * best * (1 - parts["terminated"])
        values = (
            network(parts["observations"])
            .gather(1, parts["actions"][:, None])
            .squeeze(1)
        )
        loss = torch.nn.functional.mse_loss(goal, values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    one_by_one(
        referee, seed, act, learn, lambda: target.load_state_dict(network.state_dict())
    )


def keras_tutorial(referee: Referee, seed: int) -> None:
    network, target = (
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(120, activation="relu"),
                layers.Dense(84, activation="relu"),
                layers.Dense(2),
            ]
        )
        for _ in range(2)
    )
    target.set_weights(network.get_weights())
    optimizer = keras.optimizers.Adam(LEARNING_RATE)

    def act(observations):
        return tf.argmax(network(observations, training=False), axis=1).numpy()

    def learn(observations, following, actions, rewards, terminated):
        best = tf.reduce_max(target(following), axis=1)
        goal = rewards + GAMMA * best * (1 - terminated)
        with tf.GradientTape() as tape:
            values = tf.reduce_sum(
                network(observations) * tf.one_hot(actions, 2), axis=1
            )
            loss = tf.reduce_mean(tf.square(goal - values))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, network.trainable_variables, strict=True)
        )

    one_by_one(
        referee, seed, act, learn, lambda: target.set_weights(network.get_weights())
    )


class Check(BaseCallback):
    """Asks the referee within stable-baselines3's own loop."""

    def __init__(self, referee: Referee):
        super().__init__()
        self.referee = referee

    def _on_step(self) -> bool:
        def act(observations):
            return self.model.predict(observations, deterministic=True)[0]

        return not self.referee.is_over(self.num_timesteps, act)


def sb3_dqn(referee: Referee, seed: int) -> None:
    model = stable_baselines3.DQN(
        "MlpPolicy",
        ENV,
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    model.learn(50_000, callback=Check(referee))


def sb3_a2c(referee: Referee, seed: int) -> None:
    from stable_baselines3.common.env_util import make_vec_env

    model = stable_baselines3.A2C(
        "MlpPolicy", make_vec_env(ENV, 8, seed=seed), seed=seed
    )
    model.learn(500_000, callback=Check(referee))


def median(referees: list[Referee], value: Callable[[Referee], float]) -> str:
    """Of all seeds, where those that did not solve it count as later than any."""
    values = sorted(
        value(each) if each.checks[-1][2] >= SOLVED else float("inf")
        for each in referees
    )
    middle = values[(len(values) - 1) // 2]
    return (
        "not reached" if middle == float("inf") else f"{middle:,.1f}".removesuffix(".0")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=90, help="for each at the most"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # What is to be measured: a function of (referee, seed) that learns until it is
    # over.
    contestants = {OURS: ours_default, OURS_AS_CLEANRL: ours_as_cleanrl}
    contestants[OUR_ACTOR_CRITIC] = ours_actor_critic
    if torch is None:
        print("PyTorch is not installed: pip install '.[bench]'")
    else:
        torch.set_num_threads(1)
        contestants[TORCH] = pytorch
    if stable_baselines3 is None:
        print("stable-baselines3 is not installed: pip install '.[bench]'")
    else:
        contestants |= {
            "stable-baselines3 DQN": sb3_dqn,
            "stable-baselines3 A2C": sb3_a2c,
        }
    contestants[KERAS] = keras_tutorial

    found = {name: [] for name in contestants}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name, contestant in contestants.items():
            random.seed(seed)
            keras.utils.set_random_seed(seed)
            found[name].append(
                Referee(arguments.seconds, environments.make_vec(ENV, 100))
            )
            contestant(found[name][-1], seed)
            steps, seconds, value = found[name][-1].checks[-1]
            speed = found[name][-1].speed()
            print(
                f"seed {seed}  {name:30}{value:6.1f} after {seconds:5.1f} s and {steps:7,} steps, "
                f"{speed:7,.0f} a second",
                flush=True,
            )

    print(
        f"\n{ENV}, medians of {arguments.seeds} seeds, {arguments.seconds:.0f} s at the most"
    )
    print(
        f"{'':30}{'steps/s':>9}{'times PyTorch':>15}{'seconds to 475':>16}{'steps to 475':>14}"
    )
    speeds = {name: np.median([each.speed() for each in found[name]]) for name in found}
    for name, referees in found.items():
        seconds = median(referees, lambda referee: referee.checks[-1][1])
        steps = median(referees, lambda referee: referee.checks[-1][0])
        times = f"{speeds[name] / speeds[TORCH]:.1f}" if TORCH in speeds else ""
        print(f"{name:30}{speeds[name]:9,.0f}{times:>15}{seconds:>16}{steps:>14}")


if __name__ == "__main__":
    main()
