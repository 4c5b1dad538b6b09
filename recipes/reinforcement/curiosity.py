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

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import figures, serving
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


QUICK = Config(updates=600, copies=32)
FULL = Config(updates=3000)

# S: start, G: goal, T: where the screen hangs.
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
"""

# --------------------------------------------------------------------------------------
# The idea: the error of a model of the world is a reward
# --------------------------------------------------------------------------------------

GRID = np.array([list(row) for row in ROOMS.strip().splitlines()])
CELLS = GRID.size  # numbered row by row
WALL = GRID.ravel() == "#"
MOVES = np.array([-GRID.shape[1], GRID.shape[1], -1, 1])  # up, down, left, right
ACTIONS = len(MOVES)
PIXELS = 16  # of the screen
SWEEPS = 12  # of a plan


def cell_of(mark: str) -> int:
    """The number of the cell that bears a mark on the map."""
    return int(np.flatnonzero(GRID.ravel() == mark)[0])


START = cell_of("S")
GOAL = cell_of("G")
SCREEN = cell_of("T")


def move(cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The numbers of the cells that the actions lead to; a wall is run into, in
    vain."""
    following = cells + MOVES[actions]
    return np.where(WALL[following], cells, following)


def observe(cells: np.ndarray, noise: np.random.Generator | None) -> np.ndarray:
    """What is seen in the cells: where one is, and the screen, black from afar and
    without noise. Returns (copies, CELLS + PIXELS) floats in [0, 1]."""
    screen = np.zeros((len(cells), PIXELS))
    if noise is not None:
        is_near = (cells == SCREEN)[:, np.newaxis]
        screen = noise.integers(2, size=screen.shape) * is_near
    return np.hstack([np.eye(CELLS)[cells], screen]).astype("float32")


def entries_of(cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """A number for each cell and action in it: its row in a table of both."""
    return cells * ACTIONS + actions


def one_hot_entries() -> np.ndarray:
    """Every cell and action as the model reads them, (CELLS · ACTIONS, CELLS +
    ACTIONS)."""
    entries = np.arange(CELLS * ACTIONS)
    cells = np.eye(CELLS)[entries // ACTIONS]
    actions = np.eye(ACTIONS)[entries % ACTIONS]
    return np.hstack([cells, actions]).astype("float32")


ONE_HOT = one_hot_entries()


def build_model() -> keras.Model:
    """p(s′ | s, a). Input: one-hot (batch, CELLS + ACTIONS). Outputs: logits of the next
    cell (batch, CELLS), and of the screen's pixels (batch, PIXELS)."""
    cell_and_action = keras.Input((CELLS + ACTIONS,), name="cell_and_action")
    hidden = layers.Dense(64, activation="relu")(cell_and_action)
    place = layers.Dense(CELLS, dtype="float32", name="place")(hidden)
    screen = layers.Dense(PIXELS, dtype="float32", name="screen")(hidden)
    return keras.Model(cell_and_action, [place, screen], name="model")


class Agent:
    """A table of action values; for its bonus a model of the world, or counts.

    kind: one of KINDS.
    """

    def __init__(self, config: Config, kind: str):
        self.config = config
        self.kind = kind
        shape = (CELLS, ACTIONS)
        self.values = np.zeros(shape)
        self.visits = np.zeros(shape, int)

        # What came of each action when it was last taken.
        self.following = np.zeros(shape, int)
        self.rewards = np.zeros(shape)
        self.seen = np.zeros((CELLS * ACTIONS, CELLS + PIXELS), "float32")

        self.model = build_model()
        self.optimizer = keras.optimizers.Adam(config.learning_rate)
        self.optimizer.build(self.model.trainable_variables)

    def act(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Actions (copies,): of the highest value, or with probability ε any."""
        tie_break = 1e-9 * random.random((len(cells), ACTIONS))
        best = np.argmax(self.values[cells] + tie_break, axis=1)
        explores = random.random(len(cells)) < self.config.exploration
        anything = random.integers(ACTIONS, size=len(cells))
        return np.where(explores, anything, best)

    def remember(self, cells, actions, following, seen) -> None:
        """What came of one step in each copy. seen: (copies, CELLS + PIXELS)."""
        np.add.at(self.visits, (cells, actions), 1)
        self.following[cells, actions] = following
        self.rewards[cells, actions] = following == GOAL
        self.seen[entries_of(cells, actions)] = seen

    def errors(self, entries, seen):
        """−log p(s′ | s, a) in nats, (batch,), of what was seen (batch, CELLS + PIXELS)
        after entries (batch,)."""
        place, screen = self.model(tf.gather(ONE_HOT, entries))
        of_place = tf.nn.softmax_cross_entropy_with_logits(seen[:, :CELLS], place)
        of_pixels = tf.nn.sigmoid_cross_entropy_with_logits(seen[:, CELLS:], screen)
        return of_place + tf.reduce_sum(of_pixels, axis=1)

    @tf.function(jit_compile=True)
    def learn(self, entries, seen):
        """A gradient step of the model on what the last steps brought."""
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(self.errors(entries, seen))
        gradients = tape.gradient(error, self.model.trainable_variables)
        self.optimizer.apply(gradients)

    @tf.function(jit_compile=True)
    def surprise(self, seen):
        """The errors of all entries, for what was last seen after them."""
        return self.errors(tf.range(len(seen)), seen)

    def bonus(self) -> np.ndarray:
        """The agent's own reward for each cell and action, (CELLS, ACTIONS)."""
        if self.kind == "counts":
            return self.config.bonus / np.sqrt(np.maximum(self.visits, 1))
        if self.kind == "surprise":
            errors = np.reshape(self.surprise(self.seen), self.values.shape)
            return self.config.bonus * errors
        return np.zeros(self.values.shape)

    def plan(self) -> None:
        """Q(s, a) ← r + bonus + γ max Q(s′, ·) where (s, a) has been tried; 0
        elsewhere."""
        rewards = self.rewards + self.bonus()
        is_tried = self.visits > 0
        goes_on = self.config.discount * (self.following != GOAL)
        for _ in range(SWEEPS):
            best = self.values.max(axis=1)[self.following]
            self.values[...] = is_tried * (rewards + goes_on * best)


class Copies:
    """Where each copy of the world stands, and since how many steps, (copies,) each."""

    def __init__(self, count: int):
        self.cells = np.full(count, START)
        self.clock = np.zeros(count, int)

    def go(self, following: np.ndarray, limit: int) -> np.ndarray:
        """Takes the copies to the following cells, and those whose episode ends there
        back to the start. Returns which ended, (copies,)."""
        self.clock += 1
        ended = (following == GOAL) | (self.clock >= limit)
        self.cells[:] = np.where(ended, START, following)
        self.clock[ended] = 0
        return ended


class Record:
    """What happened in each update, (updates,) each."""

    def __init__(self, updates: int):
        self.known = np.zeros(updates)  # cells visited so far
        self.ended = np.zeros(updates)  # episodes
        self.reached = np.zeros(updates)  # the goal


def update(agent: Agent, copies: Copies, random, noise, record: Record, number: int):
    """A few steps in each copy; then the model learns from them, and the agent plans.

    noise: the generator of the screen's pixels; None: it is black.
    """
    entries = []
    seen = []
    for _ in range(agent.config.horizon):
        cells = copies.cells.copy()
        actions = agent.act(cells, random)
        following = move(cells, actions)
        observed = observe(following, noise)
        agent.remember(cells, actions, following, observed)
        ended = copies.go(following, agent.config.limit)

        entries.append(entries_of(cells, actions))
        seen.append(observed)
        record.ended[number] += ended.sum()
        record.reached[number] += (following == GOAL).sum()

    if agent.kind == "surprise":
        agent.learn(np.concatenate(entries).astype("int32"), np.concatenate(seen))
    agent.plan()
    record.known[number] = agent.visits.any(axis=1).sum()


# --------------------------------------------------------------------------------------
# The experiment: without a bonus, with one for counts, with one for surprise
# --------------------------------------------------------------------------------------

KINDS = ("no bonus", "counts", "surprise")
NOISY = "surprise, noisy screen"
LATE = 0.2  # share of the updates, the last ones, in which the goal counts
WINDOW = 50  # updates over which a curve is averaged


@dataclass
class Trained:
    """An agent, and how it came to be what it is."""

    agent: Agent
    record: Record

    @property
    def cells(self) -> float:
        """that it has visited"""
        return self.record.known[-1]

    @property
    def success(self) -> float:
        """share of the late episodes that ended at the goal"""
        late = int(LATE * len(self.record.ended))
        ended = self.record.ended[-late:].sum()
        return self.record.reached[-late:].sum() / max(ended, 1)

    @property
    def share_at_screen(self) -> float:
        """of its steps, those begun before the screen"""
        visits = self.agent.visits
        return visits[SCREEN].sum() / visits.sum()


def train(config: Config, name: str, run: Run) -> Trained:
    """An agent of the kind that its name begins with."""
    keras.utils.set_random_seed(run.seed)  # all begin with the same weights
    kind, *screen = name.split(", ")
    agent = Agent(config, kind)
    copies = Copies(config.copies)
    record = Record(config.updates)
    random = np.random.default_rng([run.seed, 0])
    noise = np.random.default_rng([run.seed, 1])

    tables = [agent.values, agent.visits, agent.following, agent.rewards, agent.seen]
    state = {
        "tables": tables,
        "model": [agent.model, agent.optimizer],
        "copies": vars(copies),
        "record": vars(record),
        "random": [random, noise],
    }

    def show():
        return {"cells": record.known.max()}

    for number in run.loop(name, config.updates, state, unit="updates", show=show):
        update(agent, copies, random, noise if screen else None, record, number)
    return Trained(agent, record)


def judge_exploration(trained: dict[str, Trained], run: Run) -> None:
    curious = trained["surprise"]
    plain = trained["no bonus"]
    counting = trained["counts"]
    to_see = (~WALL).sum() - 1  # at the goal nobody acts
    run.metric("goal_reached", curious.success, unit="of the last fifth's episodes")
    run.metric("goal_reached_without_bonus", plain.success)
    run.metric("cells_visited", curious.cells, unit=f"of {to_see}")
    run.metric("cells_visited_without_bonus", plain.cells)
    run.claim(
        "Who seeks surprise gets to see more of the world",
        holds=curious.cells > 1.3 * plain.cells,
        measured=f"{curious.cells:.0f} of {to_see} cells before the goal with it, "
        f"{plain.cells:.0f} without, {counting.cells:.0f} with one for counts",
    )
    run.claim(
        "Curiosity finds a reward that chance does not",
        holds=curious.success > 0.5 and plain.success < 0.05,
        measured=f"goal reached in {curious.success:.0%} of the last fifth's episodes, "
        f"{plain.success:.0%} without the bonus, {counting.success:.0%} with counts",
    )


def judge_boredom(agent: Agent, run: Run) -> None:
    """Errors of the model for what was tried seldom and often."""
    is_tried = agent.visits > 0
    times = agent.visits[is_tried]
    errors = agent.bonus()[is_tried] / agent.config.bonus
    seldom = np.quantile(times, 0.1)
    often = np.quantile(times, 0.5)
    new = errors[times <= seldom].mean()
    dull = errors[times > often].mean()
    run.claim(
        "What has been seen often is no longer surprising",
        holds=dull < 0.5 * new,
        measured=f"{dull:.2f} nats for what was tried more than {often:.0f} times, "
        f"{new:.2f} nats for what was tried at most {seldom:.0f} times",
    )


def judge_noise(trained: dict[str, Trained], run: Run) -> None:
    noisy = trained[NOISY]
    black = trained["surprise"]
    run.claim(
        "A screen of noise, which nobody can predict, holds the curious agent fast",
        holds=noisy.share_at_screen > 0.5 > black.share_at_screen
        and noisy.cells < 0.7 * black.cells,
        measured=f"{noisy.share_at_screen:.0%} of its steps before the screen "
        f"({black.share_at_screen:.1%} when that is black), {noisy.cells:.0f} cells "
        f"seen, goal reached in {noisy.success:.0%}",
    )


def draw_visits(trained: dict[str, Trained]) -> Figure:
    """Where each agent has been."""
    never = np.log10(0.5)
    visits = {name: each.agent.visits.sum(axis=1) for name, each in trained.items()}
    most = max(np.log10(counts.max()) for counts in visits.values())
    figure, grid = plt.subplots(2, 2, figsize=(11, 4.4))
    for axes, (name, counts) in zip(grid.flat, visits.items(), strict=True):
        steps = np.log10(np.maximum(counts, 0.5))
        shown = np.where(WALL, np.nan, steps).reshape(GRID.shape)
        colors = axes.imshow(shown, vmin=never, vmax=most)
        axes.set(title=f"{name}: {(counts > 0).sum()} cells", xticks=[], yticks=[])
        axes.set_facecolor("0.65")  # walls
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        write_mark(axes, "S")
        write_mark(axes, "G")
        if name == NOISY:
            write_mark(axes, "T")
    bar = figure.colorbar(colors, ax=grid, shrink=0.8, label="steps in the cell")
    bar.set_ticks([never, 0, 2, 4], labels=["never", "1", "100", "10,000"])
    figure.suptitle(
        "Where each agent has been: S start, G goal, T noisy screen; walls are gray"
    )
    return figure


def write_mark(axes: plt.Axes, mark: str) -> None:
    """A letter on its cell, black on a white disc: legible on every color."""
    row, column = divmod(cell_of(mark), GRID.shape[1])
    axes.plot(column, row, "o", color="white", markeredgecolor="black", markersize=15)
    axes.text(column, row, mark, ha="center", va="center_baseline", weight="bold")


def draw_progress(trained: dict[str, Trained], steps: int) -> Figure:
    """Cells known, and how often the goal is reached, while it learns. steps: of an
    update, in all copies."""
    known = {}
    success = {}
    for name, each in trained.items():
        record = each.record
        taken = steps * np.arange(1, len(record.known) + 1) / 1000
        known[name] = (taken, record.known)
        window = np.ones(WINDOW)
        ended = np.convolve(record.ended, window, "valid")
        reached = np.convolve(record.reached, window, "valid")
        success[name] = (taken[WINDOW - 1 :], reached / np.maximum(ended, 1))
    return figures.panels(
        figures.Panel(
            title="Cells known",
            xlabel="thousand steps",
            ylabel="cells",
            lines=known,
        ),
        figures.Panel(
            title="Goal reached",
            xlabel="thousand steps",
            ylabel=f"share of {WINDOW} updates' episodes",
            lines=success,
        ),
    )


def build_table(values: np.ndarray) -> keras.Model:
    """A table of action values (cells, actions) as a network. Input: (batch,) numbers
    of cells."""
    observation = keras.Input((), dtype="int32", name="observation")
    table = layers.Embedding(*values.shape, weights=[values], name="table")
    return keras.Model(observation, table(observation), name="table")


def main(config: Config, run: Run) -> None:
    names = (*KINDS, NOISY)
    run.plan(len(names))
    trained = {}
    for name in names:
        trained[name] = train(config, name, run)

    judge_exploration(trained, run)
    judge_boredom(trained["surprise"].agent, run)
    judge_noise(trained, run)

    run.figure("visits", draw_visits(trained))
    steps = config.horizon * config.copies
    run.figure("progress", draw_progress(trained, steps))
    table = build_table(trained["surprise"].agent.values)
    run.export(serving.policy(table), example=np.arange(30, 33))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
