"""Visual foresight: see in advance what a push will do, and choose by what is seen.

A gripper pushes a block about at random, and a network learns from the film: a frame
and an action give the next frame. It paints nothing, it moves what is there: for each
color it gives kernels of probabilities for moves by −2 ... 2 pixels, and by these the
pixels of that color flow. So the same network says where a chosen pixel will be,
P(place | frame, actions). To fulfill a goal image, try out actions in foresight alone:
the cross-entropy method draws sequences of actions, keeps the best tenth and draws anew
around those; one step is done, and from what is seen then it plans again. The cost is
how far the block's pixels are expected to be from their place in the goal image,
E|place − goal|, summed over the steps.
Look at the plan's film beside what happened, and at which ways of planning reach the
goal.

Lectures: N18 Model-based Intelligence (deep visual foresight)
Paper: Finn and Levine, Deep visual foresight for planning robot motion, 2017; Ebert et
    al., Visual foresight: model-based deep reinforcement learning for vision-based
    robotic control, 2018
Tags: video prediction, model-based rl, mpc, model predictive control, cem, robot,
    planning
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops, optimizers
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    films: int = 16_000
    """of random pushes, to learn from"""
    epochs: int = 8
    """passes over the films"""
    batch_size: int = 64
    """films a gradient is averaged over"""
    horizon: Annotated[int, Interval(ge=2)] = 8
    """steps that a plan foresees; even"""
    candidates: int = 50
    """sequences of actions drawn in a round of the cross-entropy method"""
    tasks: int = 60
    """goal images to reach"""


QUICK = Config(films=6000, epochs=6, batch_size=32, candidates=40, tasks=24)
FULL = Config(films=100_000, candidates=400, tasks=200)

SIDE = 16  # pixels; the centers of the corners' pixels are (0, 0) and (15, 15)
GRIPPER = 1.0  # radius of its disc
BLOCK = 2.0  # radius of its disc
REACH = 2.0  # the largest |action|, in pixels along each axis
HOLD = 2  # steps that an action lasts
ROUNDS = 3  # of the cross-entropy method
ELITES = 5  # the best plans of a round, around which the next one draws

# --------------------------------------------------------------------------------------
# The idea: pixels flow, and a plan is judged by where they are expected to be
# --------------------------------------------------------------------------------------

PLACES = np.stack(np.indices((SIDE, SIDE)), axis=-1).astype("float32")
MOVES = range(-2, 3)  # of a pixel along an axis, in a step


def flow(frames, kernels):
    """Frames (batch, SIDE, SIDE, 2) with each color spread along both axes by its
    kernels (batch, 2 axes, 2 colors, 5). What flows over the border is lost."""
    # A move by k rows is a product with a matrix that is 1 on a diagonal; by a kernel,
    # with a band.
    diagonals = [np.eye(SIDE, k=-move, dtype="float32").ravel() for move in MOVES]
    bands = ops.reshape(kernels, (-1, len(MOVES))) @ np.stack(diagonals)
    bands = ops.reshape(bands, (-1, 2, 2, SIDE, SIDE))
    along_rows = bands[:, 0]
    along_columns = ops.transpose(bands[:, 1], (0, 1, 3, 2))

    colors_first = ops.transpose(frames, (0, 3, 1, 2))
    moved = along_rows @ colors_first @ along_columns
    return ops.transpose(moved, (0, 2, 3, 1))


def mean_place(images):
    """The mean row and column of the pixels of (..., SIDE, SIDE), weighted by their
    values."""
    share = images / (ops.sum(images, axis=(-2, -1), keepdims=True) + 1e-6)
    return ops.sum(share[..., None] * PLACES, axis=(-3, -2))


@tf.function
def foreseen_costs(foresight, frames, goals, plans):
    """E|place − goal| of the block's pixels, summed over the steps foreseen: (tasks,
    candidates).

    foresight: of `build_foresight`. frames, goals: (tasks, SIDE, SIDE, 2).
    plans: (tasks, candidates, steps, 2).
    """
    tasks, candidates, steps, _ = plans.shape
    frames = tf.repeat(frames, candidates, axis=0)
    actions = tf.reshape(tf.cast(plans, tf.float32), (-1, steps, 2))
    blocks = foresight([frames, actions])[..., 1]

    goal_places = mean_place(goals[..., 1])[:, None, None]
    distance = tf.norm(PLACES - goal_places, axis=-1)
    distance = tf.repeat(distance, candidates, axis=0)[:, None]
    total = tf.reduce_sum(blocks * distance, axis=(-2, -1))
    expected = total / tf.reduce_sum(blocks, axis=(-2, -1))
    return tf.reshape(tf.reduce_sum(expected, axis=1), (tasks, candidates))


def cross_entropy_method(costs_of, shape, candidates: int, random) -> np.ndarray:
    """Actions of low cost, (tasks, steps, 2).

    costs_of: from plans (tasks, candidates, steps, 2) to costs (tasks, candidates).
    shape: (tasks, steps / HOLD, 2), of what is chosen.
    """
    mean = np.zeros(shape)
    deviation = np.full(shape, REACH)
    for _ in range(ROUNDS):
        noise = random.normal(size=(shape[0], candidates, *shape[1:]))
        drawn = mean[:, None] + deviation[:, None] * noise
        tried = np.clip(drawn, -REACH, REACH)
        costs = costs_of(tried.repeat(HOLD, axis=2))

        best = np.argsort(costs, axis=1)[:, :ELITES]
        elites = np.take_along_axis(tried, best[:, :, None, None], axis=1)
        mean = elites.mean(axis=1)
        deviation = elites.std(axis=1)
    return elites[:, 0].repeat(HOLD, axis=1)


def build_predictor(units: int = 128) -> keras.Model:
    """frame: (batch, SIDE, SIDE, 2) in [0, 1]. action: (batch, 2) in pixels. Outputs:
    next_frame, and kernels (batch, 2 axes, 2 colors, 5), the probabilities of moves by
    −2 ... 2 pixels."""
    frame = keras.Input((SIDE, SIDE, 2), name="frame")
    action = keras.Input((2,), name="action")

    # Feature points, the mean place of each color: bare pixels would take far more
    # films.
    gripper = mean_place(frame[..., 0])
    block = mean_place(frame[..., 1])
    middle = SIDE / 2
    points = [gripper / middle - 1, block / middle - 1, block - gripper]

    hidden = layers.Concatenate()([*points, action])
    hidden = layers.Dense(units, activation="relu")(hidden)
    hidden = layers.Dense(units, activation="relu")(hidden)
    logits = layers.Dense(2 * 2 * len(MOVES), dtype="float32")(hidden)
    kernels = ops.softmax(ops.reshape(logits, (-1, 2, 2, len(MOVES))))
    outputs = {"next_frame": flow(frame, kernels), "kernels": kernels}
    return keras.Model({"frame": frame, "action": action}, outputs, name="predictor")


def build_foresight(predictor: keras.Model, horizon: int) -> keras.Model:
    """From a frame and actions (batch, horizon, 2) to the frames that follow, each
    foreseen from the one foreseen before: (batch, horizon, SIDE, SIDE, 2)."""
    first = keras.Input((SIDE, SIDE, 2), name="frame")
    actions = keras.Input((horizon, 2), name="actions")
    frame = first
    frames = []
    for step in range(horizon):
        foreseen = predictor({"frame": frame, "action": actions[:, step]})
        frame = foreseen["next_frame"]
        frames.append(frame)
    return keras.Model([first, actions], ops.stack(frames, axis=1), name="foresight")


def make_room(place, other):
    """place, moved straight away from other until the two discs only touch."""
    away = place - other
    distance = np.linalg.norm(away, axis=-1, keepdims=True)
    distance = np.maximum(distance, 1e-6)
    direction = away / distance
    return other + direction * np.maximum(distance, GRIPPER + BLOCK)


def keep_on_board(place, radius: float):
    """place, or the nearest one at which a disc is whole."""
    return np.clip(place, radius - 0.5, SIDE - 0.5 - radius)


def push(gripper, block, action) -> tuple[np.ndarray, np.ndarray]:
    """A step of the world: the gripper goes by the action, and shoves the block if it
    is in the way. All are (..., 2), rows and columns in pixels. Returns the new places
    of both."""
    for _ in range(4):  # in parts, so that the gripper does not jump over the block
        gripper = keep_on_board(gripper + action / 4, GRIPPER)
        block = keep_on_board(make_room(block, gripper), BLOCK)
        gripper = make_room(gripper, block)  # a block at the border does not give way
    return gripper, block


def draw(gripper, block) -> np.ndarray:
    """Frames (..., SIDE, SIDE, 2) in [0, 1]: one color for the gripper, one for the
    block."""
    places = np.stack([gripper, block], axis=-2)[..., None, None, :, :]
    distance = np.linalg.norm(PLACES[:, :, None] - places, axis=-1)
    radii = np.array([GRIPPER, BLOCK])
    return np.clip(radii + 0.5 - distance, 0, 1).astype("float32")


def set_up(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of grippers, within 3 pixels of their blocks, and of blocks; (count, 2)
    each."""
    block = random.uniform(BLOCK + 0.5, SIDE - 1.5 - BLOCK, (count, 2))
    angle = random.uniform(0, 2 * np.pi, count)
    distance = GRIPPER + BLOCK + random.uniform(0, 3, (count, 1))
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    gripper = block + distance * direction
    return push(gripper, block, 0)  # brings it onto the board


def film(count: int, steps: int, random) -> tuple[np.ndarray, np.ndarray]:
    """Random pushes: frames (count, steps + 1, ...) and actions (count, steps, 2)."""
    gripper, block = set_up(count, random)
    frames = [draw(gripper, block)]
    chosen = random.uniform(-REACH, REACH, (count, steps // HOLD, 2))
    actions = chosen.repeat(HOLD, axis=1)
    for step in range(steps):
        gripper, block = push(gripper, block, actions[:, step])
        frames.append(draw(gripper, block))
    return np.stack(frames, axis=1), actions.astype("float32")


# --------------------------------------------------------------------------------------
# The experiment: how far it foresees, and which goals are reached by which plans
# --------------------------------------------------------------------------------------

UNROLL = 2  # steps foreseen in training
HELD_OUT = 500  # films
STEPS = 15  # to reach a goal in
NEAR = 1.0  # pixel from its goal at which the block counts as there
LEARNING_RATE = 4e-3


def train(config: Config, random, run: Run) -> keras.Model:
    """A predictor that has seen films of random pushes."""
    frames, actions = film(config.films, UNROLL, random)
    predictor = build_predictor()
    model = build_foresight(predictor, UNROLL)
    steps = config.epochs * math.ceil(len(frames) / config.batch_size)
    rate = optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(optimizers.Adam(rate), loss="mse")
    training.fit(
        model,
        [frames[:, 0], actions],
        frames[:, 1:],
        epochs=config.epochs,
        batch_size=config.batch_size,
        jit_compile=False,
        callbacks=run.callbacks,
    )
    return predictor


def squared_error(guess: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Summed over a frame's pixels, by steps ahead, (steps,)."""
    of_each = np.square(guess - happened).sum(axis=(2, 3, 4))
    return of_each.mean(axis=0)


def measure_errors(foresight: keras.Model, frames, actions) -> dict[str, np.ndarray]:
    """Squared errors of a frame by steps ahead, (steps,): of what is foreseen and of
    guesses that know less."""
    first = frames[:, :1]
    foreseen = np.asarray(foresight([frames[:, 0], actions]))
    of_others = np.asarray(foresight([frames[:, 0], actions[::-1]]))
    block_left = foreseen.copy()
    block_left[..., 1] = first[..., 1]

    happened = frames[:, 1:]
    return {
        "foreseen": squared_error(foreseen, happened),
        "gripper foreseen, block left": squared_error(block_left, happened),
        "with another film's actions": squared_error(of_others, happened),
        "the first frame": squared_error(first, happened),
    }


@dataclass
class Tasks:
    """Where gripper and block are, and where the block should be, (tasks, 2) each."""

    gripper: np.ndarray
    block: np.ndarray
    goal: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """of the goals, (tasks, SIDE, SIDE, 2); the gripper is out of the picture"""
        return draw(np.full_like(self.goal, -9), self.goal)


def draw_tasks(count: int, random) -> Tasks:
    """Goals between 4 and 7 pixels away from the block."""
    gripper, block = set_up(20 * count, random)
    goal = block[::-1]
    distance = np.linalg.norm(block - goal, axis=-1)
    chosen = np.flatnonzero((distance > 4) & (distance < 7))[:count]
    return Tasks(gripper[chosen], block[chosen], goal[chosen])


def costs_in_foresight(foresight, goals, gripper, block, plans):
    """Costs (tasks, candidates) of plans from where gripper and block are now."""
    return foreseen_costs(foresight, draw(gripper, block), goals, plans)


def costs_in_the_world(goal, gripper, block, plans) -> np.ndarray:
    """The same from the places themselves, by what the world would do."""
    gripper = gripper[:, None]
    block = block[:, None]
    total = 0.0
    for action in np.moveaxis(plans, 2, 0):
        gripper, block = push(gripper, block, action)
        total = total + np.linalg.norm(block - goal[:, None], axis=-1)
    return total


class Planner:
    """Chooses by costs.

    costs: from gripper, block (tasks, 2) and plans (tasks, candidates, steps, 2) to
        (tasks, candidates).
    """

    def __init__(self, costs, config: Config):
        self.costs = costs
        self.config = config

    def plan(self, gripper, block, random) -> np.ndarray:
        """The actions of the next steps, (tasks, horizon, 2)."""
        costs_of = partial(self.costs, gripper, block)
        shape = (len(gripper), self.config.horizon // HOLD, 2)
        return cross_entropy_method(costs_of, shape, self.config.candidates, random)

    def act(self, step, gripper, block, last, random) -> np.ndarray:
        """The next action, (tasks, 2). last: the one before."""
        actions = self.plan(gripper, block, random)
        return actions[:, 0]


class Chance:
    """Chooses at random, and holds each action as long as plans do."""

    def act(self, step, gripper, block, last, random) -> np.ndarray:
        if step % HOLD:
            return last
        return random.uniform(-REACH, REACH, last.shape)


@dataclass
class Paths:
    """Where gripper and block went, (STEPS + 1, tasks, 2) each."""

    gripper: np.ndarray
    block: np.ndarray

    def reached(self, goal: np.ndarray) -> np.ndarray:
        """Whether the block is at its goal after each step, (STEPS, tasks)."""
        return np.linalg.norm(self.block[1:] - goal, axis=-1) < NEAR


def follow(player, tasks: Tasks, name: str, run: Run) -> Paths:
    random = np.random.default_rng(2**31 + run.seed)
    shape = (STEPS + 1, *tasks.goal.shape)
    paths = Paths(np.zeros(shape), np.zeros(shape))
    paths.gripper[0] = tasks.gripper
    paths.block[0] = tasks.block
    action = np.zeros(tasks.goal.shape)
    state = {"paths": vars(paths), "action": action, "random": random}
    for step in run.loop(name, STEPS, state):
        gripper = paths.gripper[step]
        block = paths.block[step]
        action[:] = player.act(step, gripper, block, action, random)
        gripper, block = push(gripper, block, action)
        paths.gripper[step + 1] = gripper
        paths.block[step + 1] = block
    return paths


def judge_foresight(errors: dict[str, np.ndarray], run: Run) -> None:
    means = {name: curve.mean() for name, curve in errors.items()}
    foreseen = means.pop("foreseen")
    run.metric("error", foreseen, unit="squared, of a frame")
    rivals = ", ".join(f"{name} {error:.2f}" for name, error in means.items())
    run.claim(
        "In held-out films it foresees what the actions do, to the block as well",
        holds=foreseen < 0.6 * min(means.values()),
        measured=f"squared error of a frame {foreseen:.2f}; {rivals}",
    )


def judge_plans(shares: dict[str, np.ndarray], tasks: int, run: Run) -> None:
    """shares: of the goals reached, by step."""
    foreseen = shares["foreseen"][-1]
    world = shares["tried in the world"][-1]
    chance = shares["at random"][-1]
    run.metric("reached_in_the_world", world)
    run.claim(
        "Choosing actions by what is foreseen reaches goal images; chance does not",
        holds=foreseen > chance + 0.4,
        measured=f"after {STEPS} steps the block is within {NEAR:g} pixel of the goal in "
        f"{foreseen:.1%} of {tasks} tasks, at random in {chance:.1%}",
    )
    run.claim(
        "What was learned from films alone reaches at least six in ten of as many goals as "
        "plans tried in the world itself",
        holds=foreseen > 0.6 * world,
        measured=f"{foreseen:.1%} reached, {world:.1%} by trying as much in the world",
    )


def paint(frames: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Frames (n, SIDE, SIDE, 2) as pictures on paper, (n, SIDE, SIDE, 3): the gripper
    orange, the block blue, its goal (SIDE, SIDE, 2) gray."""
    orange = np.array([0.84, 0.37, 0.0])
    blue = np.array([0.0, 0.45, 0.7])
    inks = 1 - np.stack([orange, blue])
    return np.clip(0.95 - frames @ inks - 0.25 * goal[..., 1:], 0, 1)


def draw_film(foresight, planner: Planner, paths: Paths, tasks: Tasks, seed) -> Figure:
    """The task with the longest way to a goal that was reached: as it was foreseen at
    first, and as it happened."""
    way = np.linalg.norm(paths.block[-1] - paths.block[0], axis=-1)
    task = np.argmax(way * paths.reached(tasks.goal)[-1])
    happened = draw(paths.gripper[:, task], paths.block[:, task])

    random = np.random.default_rng(2**31 + seed)
    plans = planner.plan(paths.gripper[0], paths.block[0], random)
    first_plan = plans[task, None].astype("float32")
    foreseen = np.asarray(foresight([happened[:1], first_plan]))[0]
    foreseen = np.concatenate([happened[:1], foreseen])
    goal = tasks.images[task]
    return figures.image_rows(
        {"foreseen at first": paint(foreseen, goal), "happened": paint(happened, goal)},
        title="Step by step: gripper (orange), block (blue), its place in the goal "
        "image (gray)",
        columns=len(foreseen),
    )


def main(config: Config, run: Run) -> None:
    if config.horizon % 2:
        raise UsageError(f"--horizon {config.horizon}: it must be even, such as 8")
    run.plan(4)  # the predictor, and three ways of acting
    random = np.random.default_rng(run.seed)
    predictor = train(config, random, run)
    foresight = build_foresight(predictor, config.horizon)
    frames, actions = film(HELD_OUT, config.horizon, random)
    errors = measure_errors(foresight, frames, actions)

    tasks = draw_tasks(config.tasks, random)
    by_foresight = partial(costs_in_foresight, foresight, tasks.images)
    by_world = partial(costs_in_the_world, tasks.goal)
    players = {
        "foreseen": Planner(by_foresight, config),
        "tried in the world": Planner(by_world, config),
        "at random": Chance(),
    }
    paths = {}
    shares = {}
    for name, player in players.items():
        paths[name] = follow(player, tasks, name, run)
        shares[name] = paths[name].reached(tasks.goal).mean(axis=1)

    run.metric("reached", shares["foreseen"][-1], unit="of the goals")
    judge_foresight(errors, run)
    judge_plans(shares, config.tasks, run)

    of_errors = figures.curves(
        errors,
        title="Foresight on held-out films",
        xlabel="steps ahead",
        ylabel="squared error of a frame",
    )
    run.figure("errors", of_errors)
    of_plans = figures.curves(
        shares, title="Planning", xlabel="step", ylabel="share of the goals reached"
    )
    run.figure("reached", of_plans)
    planner = players["foreseen"]
    of_film = draw_film(foresight, planner, paths["foreseen"], tasks, run.seed)
    run.figure("film", of_film)
    run.export(predictor, example={"frame": frames[:3, 0], "action": actions[:3, 0]})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
