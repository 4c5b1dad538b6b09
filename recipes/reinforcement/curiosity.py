"""Curiosity: where a reward is far away, an agent that seeks surprise finds it.

A goal behind three doors pays once, and chance hardly ever leads there. So the agent
learns a model of its world, a network p(s′ | s, a) of what it will observe after an
action, and takes the model's error, −log p(s′ | s, a), for a reward of its own: what is
new pays, and what has been seen often is predicted well and becomes dull. Such a bonus
has a famous weakness: a screen of random noise is never predicted well, and an agent
may watch it for ever. Counting the visits of each state, 1/√n, is not fooled, but asks
to know what a state is.
Look at the maps of where each agent has been, and at what a noisy screen does to them.

Lectures: N18 Deep reinforcement learning (deep predictive models, surprising states)
Paper: Pathak et al., Curiosity-driven exploration by self-supervised prediction, 2017;
    Stadie et al., Incentivizing exploration in reinforcement learning with deep
    predictive models, 2015; Burda et al., Large-scale study of curiosity-driven
    learning, 2019 (noisy screen)
Tags: intrinsic motivation, exploration, sparse reward, icm, noisy tv, prediction error,
    rl
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    updates: Annotated[int, Interval(ge=50)] = 1000
    """of the agent's plans and of its model of the world"""
    horizon: int = 4
    """steps of each copy of the world between two updates"""
    copies: int = 16
    """of the world; they share one agent"""
    limit: int = 100
    """steps of an episode, if the goal is not reached before"""
    discount: Annotated[float, Interval(ge=0, le=1)] = 0.98
    """what a reward is worth one step later, γ"""
    exploration: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """share of actions taken at random, ε"""
    bonus: float = 0.003
    """what an error of one nat, or a first visit, is worth beside the goal's 1"""
    learning_rate: float = 1e-2
    """of the model of the world"""


QUICK = Config(updates=500)
FULL = Config(updates=3000)

ROOMS = """
#############################
#      #      #      #      #
#      #             #      #
#      #      #      #      #
#S     #      #      #     G#
#      #      #      #      #
#      #      #      #      #
#T            #             #
#############################
"""  # S: start, G: goal, T: where the screen hangs, if there is one
GRID = np.array([list(row) for row in ROOMS.strip().splitlines()])
WALL = GRID.ravel() == "#"
START, GOAL, SCREEN = (int(np.flatnonzero(GRID.ravel() == mark)[0]) for mark in "SGT")
MOVES = np.array([-GRID.shape[1], GRID.shape[1], -1, 1])  # up, down, left, right
ENTRY = np.arange(
    WALL.size * len(MOVES)
)  # a number for each cell and action in it; one-hot:
ONE_HOT = np.hstack([np.eye(WALL.size)[ENTRY // 4], np.eye(4)[ENTRY % 4]]).astype(
    "float32"
)
PIXELS = 16  # of the screen
KINDS = ("no bonus", "counts", "surprise")


def move(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The numbers of the cells that the actions lead to; a wall is run into, in
    vain."""
    following = states + MOVES[actions]
    return np.where(WALL[following], states, following)


def observe(states: np.ndarray, noise: np.random.Generator | None) -> np.ndarray:
    """What is seen in the cells: where one is, and the screen, black from afar and
    without noise. Returns (copies, cells + PIXELS) floats in [0, 1]."""
    screen = np.zeros((len(states), PIXELS))
    if noise is not None:
        screen = noise.integers(2, size=screen.shape) * (states == SCREEN)[:, None]
    return np.hstack([np.eye(WALL.size)[states], screen]).astype("float32")


class Agent:
    """A table of action values and, for the bonus, a model of the world or counts."""

    def __init__(self, config: Config, kind: str):
        self.config, self.kind = config, kind
        self.values = np.zeros((WALL.size, len(MOVES)))
        self.visits = np.zeros(self.values.shape, int)
        # What came of each action when it was last taken: the next cell, the reward,
        # what was seen.
        self.following, self.rewards = (
            np.zeros_like(self.visits),
            np.zeros_like(self.values),
        )
        self.seen = np.zeros((self.values.size, WALL.size + PIXELS), "float32")
        # From a cell and an action to logits of the next cell and of the pixels.
        cell_and_action = keras.Input((WALL.size + len(MOVES),), name="cell_and_action")
        hidden = layers.Dense(64, activation="relu")(cell_and_action)
        heads = [
            layers.Dense(count, dtype="float32")(hidden)
            for count in (WALL.size, PIXELS)
        ]
        self.model = keras.Model(cell_and_action, heads, name="model")
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.model.trainable_variables)

    def errors(self, entries, seen):
        """−log p(s′ | s, a) in nats, (batch,), of what was seen (batch, cells + PIXELS)
        after entries (batch,), numbers of a cell and an action in it."""
        place, screen = self.model(tf.gather(ONE_HOT, entries))
        places = tf.nn.softmax_cross_entropy_with_logits(seen[:, : WALL.size], place)
        pixels = tf.nn.sigmoid_cross_entropy_with_logits(seen[:, WALL.size :], screen)
        return places + tf.reduce_sum(pixels, axis=1)

    @tf.function(jit_compile=True)
    def learn(self, entries, seen):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(self.errors(entries, seen))
        self.optimizer.apply(tape.gradient(error, self.model.trainable_variables))

    @tf.function(jit_compile=True)
    def surprise(self, seen):
        """The errors of each cell and action, for what was last seen after them."""
        return self.errors(tf.range(len(seen)), seen)

    def bonus(self) -> np.ndarray:
        """Of each cell and action that has been tried: (cells, 4)."""
        if self.kind == "counts":
            return self.config.bonus / np.sqrt(np.maximum(self.visits, 1))
        errors = (
            self.surprise(self.seen) if self.kind == "surprise" else 0 * self.visits
        )
        return self.config.bonus * np.reshape(errors, self.values.shape)

    def plan(self) -> None:
        """Q(s, a) ← r + bonus + γ max Q(s′, ·), where (s, a) has been tried; 0
        elsewhere."""
        rewards, tried = self.rewards + self.bonus(), self.visits > 0
        goes_on = self.config.discount * (self.following != GOAL)
        for _ in range(12):
            best = self.values.max(axis=1)[self.following]
            self.values[...] = tried * (rewards + goes_on * best)


def train(agent: Agent, random, record, noise, updates: Iterable[int]) -> None:
    """Plays and plans in turn. updates: such as range(500). record: (updates, 3), of
    each the cells known, the episodes that ended and those at the goal. noise: of the
    screen, or None."""
    config, copies = agent.config, agent.config.copies
    state, clock = np.full(copies, START), np.zeros(copies, int)
    for update in updates:
        entries, seen, ended, reached = [], [], 0, 0
        for _ in range(config.horizon):
            among_equals = agent.values[state] + 1e-9 * random.random(
                (copies, len(MOVES))
            )
            is_random = random.random(copies) < config.exploration
            drawn = random.integers(len(MOVES), size=copies)
            action = np.where(is_random, drawn, among_equals.argmax(axis=1))
            following = move(state, action)
            np.add.at(agent.visits, (state, action), 1)
            agent.following[state, action] = following
            agent.rewards[state, action] = following == GOAL
            entries.append(state * len(MOVES) + action)
            seen.append(observe(following, noise))
            agent.seen[entries[-1]] = seen[-1]
            clock += 1
            over = (following == GOAL) | (clock >= config.limit)
            ended, reached = ended + over.sum(), reached + (following == GOAL).sum()
            state, clock = np.where(over, START, following), np.where(over, 0, clock)
        if agent.kind == "surprise":
            agent.learn(np.concatenate(entries).astype("int32"), np.concatenate(seen))
        agent.plan()
        record[update] = agent.visits.any(axis=1).sum(), ended, reached


def plot_visits(visits: dict[str, np.ndarray]) -> plt.Figure:
    """Where each agent has been."""
    figure, panels = plt.subplots(2, 2, figsize=(10.5, 4))
    for axes, (name, counts) in zip(panels.flat, visits.items(), strict=True):
        shown = np.where(WALL, np.nan, np.log10(np.maximum(counts.sum(axis=1), 0.5)))
        colors = axes.imshow(shown.reshape(GRID.shape), vmin=np.log10(0.5), vmax=4)
        axes.set(
            title=f"{name}: {(counts.sum(axis=1) > 0).sum()} cells",
            xticks=[],
            yticks=[],
        )
        axes.grid(visible=False)
        for mark, place in {"S": START, "G": GOAL}.items():
            row, column = divmod(place, GRID.shape[1])
            axes.text(
                column, row, mark, ha="center", va="center", color="C1", weight="bold"
            )
    bar = figure.colorbar(colors, ax=panels, shrink=0.8, label="steps in the cell")
    bar.set_ticks([np.log10(0.5), 0, 2, 4], labels=["never", "1", "100", "10,000"])
    return figure


def plot_progress(records: dict[str, np.ndarray], steps: int) -> plt.Figure:
    """How many cells are known, and how often the goal is reached, while it learns."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    for name, record in records.items():
        taken = steps * np.arange(1, len(record) + 1) / 1000
        left.plot(taken, record[:, 0], label=name)
        ended, reached = (
            np.convolve(part, np.ones(50), "valid") for part in record[:, 1:].T
        )
        right.plot(taken[49:], reached / np.maximum(ended, 1))
    left.set(title="Cells known", xlabel="thousand steps", ylabel="cells")
    right.set(
        title="Goal reached",
        xlabel="thousand steps",
        ylabel="share of 50 updates' episodes",
    )
    figure.legend(loc="outside lower center", ncols=len(records))
    return figure


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (cells, actions) as a network. Input: (batch,) numbers
    of cells."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, weights=[values], name="table")
    return keras.Model(observation, table(observation), name="table")


def main(config: Config, run: Run) -> None:
    run.plan(len(KINDS) + 1)  # the last one before a noisy screen
    agents, records, success = {}, {}, {}
    for name in (*KINDS, "surprise, noisy screen"):
        keras.utils.set_random_seed(run.seed)
        agent = agents[name] = Agent(config, name.split(",")[0])
        random, noise = (
            np.random.default_rng([run.seed, number]) for number in range(2)
        )
        record = records[name] = np.zeros((config.updates, 3))
        tables = [
            agent.values,
            agent.visits,
            agent.following,
            agent.rewards,
            agent.seen,
            record,
        ]
        learned = [agent.model, agent.optimizer]
        kept = {"tables": tables, "model": learned, "random": [random, noise]}
        show = lambda record=record: {"cells": record[:, 0].max()}  # noqa: E731
        loop = run.loop(name, config.updates, kept, unit="updates", show=show)
        train(agent, random, record, noise if "screen" in name else None, loop)
        _, ended, reached = record[-config.updates // 5 :].sum(axis=0)
        success[name] = reached / max(ended, 1)

    known = {name: record[-1, 0] for name, record in records.items()}
    share = {
        name: each.visits[SCREEN].sum() / each.visits.sum()
        for name, each in agents.items()
    }
    run.metric("cells_visited", known["surprise"])
    run.metric("cells_visited_without", known["no bonus"])
    run.metric("success", success["surprise"])
    run.figure(
        "visits", plot_visits({name: agent.visits for name, agent in agents.items()})
    )
    run.figure("progress", plot_progress(records, config.horizon * config.copies))

    run.claim(
        "Who seeks surprise gets to see more of the world",
        holds=known["surprise"] > 1.3 * known["no bonus"],
        measured=f"{known['surprise']:.0f} of {(~WALL).sum() - 1} cells before the goal with it, "
        f"{known['no bonus']:.0f} without, {known['counts']:.0f} with one for counts",
    )
    run.claim(
        "Curiosity finds a reward that chance does not",
        holds=success["surprise"] > 0.5 > 0.05 > success["no bonus"],
        measured=f"goal reached in {success['surprise']:.0%} of the last fifth's episodes, "
        f"{success['no bonus']:.0%} without the bonus, {success['counts']:.0%} with counts",
    )
    tried = agents["surprise"].visits
    errors = agents["surprise"].bonus()[tried > 0] / config.bonus
    seldom, often = np.quantile(tried[tried > 0], (0.1, 0.5))
    dull, new = (
        errors[tried[tried > 0] > often].mean(),
        errors[tried[tried > 0] <= seldom].mean(),
    )
    run.claim(
        "What has been seen often is no longer surprising",
        holds=dull < 0.5 * new,
        measured=f"{dull:.2f} nats for what was tried more than {often:.0f} times, "
        f"{new:.2f} nats for what was tried at most {seldom:.0f} times",
    )
    noisy = "surprise, noisy screen"
    run.claim(
        "A screen of noise, which nobody can predict, holds the curious agent fast",
        holds=share[noisy] > 0.5 > share["surprise"]
        and known[noisy] < 0.7 * known["surprise"],
        measured=f"{share[noisy]:.0%} of its steps before the screen ({share['surprise']:.1%} when "
        f"that is black), {known[noisy]:.0f} cells seen, goal reached in {success[noisy]:.0%}",
    )
    run.export(
        serving.policy(build_table(agents["surprise"].values)),
        example=np.arange(30, 33),
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
