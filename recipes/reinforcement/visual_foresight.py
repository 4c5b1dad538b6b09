"""Visual foresight: see in advance what a push will do, and choose by what is seen.

A gripper pushes a block about at random, and a network learns from the film: a frame and an action
give the next frame. It paints nothing, it moves what is there: for each color it gives kernels of
probabilities for moves by −2 ... 2 pixels, and by these the pixels of that color flow. So the same
network says where a chosen pixel will be, P(place | frame, actions). To fulfill a goal image, try
out actions in foresight alone: the cross-entropy method draws sequences of actions, keeps the best
tenth and draws anew around those; one step is done, and from what is seen then it plans again. The
cost is how far the block's pixels are expected to be from their place in the goal image,
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

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops, optimizers

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
GRIPPER, BLOCK, REACH = (
    1.0,
    2.0,
    2.0,
)  # the radii of the two discs; the largest |action|
HOLD, UNROLL = 2, 2  # steps that an action lasts, and that are foreseen in training
ROUNDS, ELITES = 3, 5  # of the cross-entropy method
STEPS, NEAR = (
    15,
    1.0,
)  # to reach a goal in; how near the block must be at their end, in pixels
PLACES = np.stack(np.indices((SIDE, SIDE)), axis=-1).astype("float32")


def make_room(place, other):
    """place, moved straight away from other until the two discs only touch."""
    away = place - other
    distance = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-6)
    return other + away / distance * np.maximum(distance, GRIPPER + BLOCK)


def push(gripper, block, action) -> tuple[np.ndarray, np.ndarray]:
    """A step of the world: the gripper goes by the action, and shoves the block if it
    is in the way. All are (..., 2), rows and columns in pixels. Returns the new places
    of both."""
    for _ in range(4):  # in parts, so that the gripper does not jump over the block
        gripper = np.clip(gripper + action / 4, GRIPPER - 0.5, SIDE - 0.5 - GRIPPER)
        block = np.clip(make_room(block, gripper), BLOCK - 0.5, SIDE - 0.5 - BLOCK)
        gripper = make_room(gripper, block)  # a block at the border does not give way
    return gripper, block


def draw(gripper, block) -> np.ndarray:
    """Frames (..., SIDE, SIDE, 2) in [0, 1]: one color for the gripper, one for the
    block."""
    places = np.stack([gripper, block], axis=-2)[..., None, None, :, :]
    distance = np.linalg.norm(PLACES[:, :, None] - places, axis=-1)
    return np.clip(np.array([GRIPPER, BLOCK]) + 0.5 - distance, 0, 1).astype("float32")


def set_up(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of grippers, within 3 pixels of their blocks, and of blocks; (count, 2)
    each."""
    block = random.uniform(BLOCK + 0.5, SIDE - 1.5 - BLOCK, (count, 2))
    angle = random.uniform(0, 2 * np.pi, count)
    distance = GRIPPER + BLOCK + random.uniform(0, 3, (count, 1))
    gripper = block + distance * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return push(gripper, block, 0)  # brings it onto the board


def film(count: int, steps: int, random) -> tuple[np.ndarray, np.ndarray]:
    """Random pushes: frames (count, steps + 1, ...) and actions (count, steps, 2)."""
    places = [set_up(count, random)]
    actions = random.uniform(-REACH, REACH, (count, steps // HOLD, 2)).repeat(
        HOLD, axis=1
    )
    for step in range(steps):
        places.append(push(*places[-1], actions[:, step]))
    gripper, block = np.stack(places, axis=2)
    return draw(gripper, block), actions.astype("float32")


def mean_place(images):
    """The mean row and column of the pixels of (..., SIDE, SIDE), weighted by their
    values."""
    share = images / (ops.sum(images, axis=(-2, -1), keepdims=True) + 1e-6)
    return ops.sum(share[..., None] * PLACES, axis=(-3, -2))


def build_predictor(units: int = 128) -> keras.Model:
    """frame: (batch, SIDE, SIDE, 2) in [0, 1]. action: (batch, 2) in pixels. Outputs:
    next_frame, and kernels (batch, 2 axes, 2 colors, 5), the probabilities of moves by
    −2 ... 2 pixels."""
    frame, action = (
        keras.Input((SIDE, SIDE, 2), name="frame"),
        keras.Input((2,), name="action"),
    )
    # Feature points, the mean place of each color: bare pixels would take far more
    # films.
    gripper, block = (mean_place(frame[..., color]) for color in range(2))
    points = [gripper / (SIDE / 2) - 1, block / (SIDE / 2) - 1, block - gripper]
    hidden = layers.Concatenate()([*points, action])
    hidden = layers.Dense(units, activation="relu")(hidden)
    hidden = layers.Dense(units, activation="relu")(hidden)
    logits = layers.Dense(2 * 2 * 5, dtype="float32")(hidden)
    kernels = ops.softmax(ops.reshape(logits, (-1, 2, 2, 5)))
    outputs = {"next_frame": flow(frame, kernels), "kernels": kernels}
    return keras.Model({"frame": frame, "action": action}, outputs, name="predictor")


def flow(frames, kernels):
    """Frames (batch, SIDE, SIDE, 2) with each color spread along both axes by its
    kernels (batch, 2, 2, 5). What flows over the border is lost."""
    # A move by k rows is a product with a matrix that is 1 on a diagonal; by a kernel,
    # with a band.
    moves = np.stack(
        [np.eye(SIDE, k=-move, dtype="float32").ravel() for move in range(-2, 3)]
    )
    bands = ops.reshape(ops.reshape(kernels, (-1, 5)) @ moves, (-1, 2, 2, SIDE, SIDE))
    rows, columns = bands[:, 0], ops.transpose(bands[:, 1], (0, 1, 3, 2))
    colors_first = rows @ ops.transpose(frames, (0, 3, 1, 2)) @ columns
    return ops.transpose(colors_first, (0, 2, 3, 1))


def build_foresight(predictor: keras.Model, horizon: int) -> keras.Model:
    """From a frame and actions (batch, horizon, 2) to the frames that follow, each
    foreseen from the one foreseen before: (batch, horizon, SIDE, SIDE, 2)."""
    frame = keras.Input((SIDE, SIDE, 2), name="frame")
    actions = keras.Input((horizon, 2), name="actions")
    frames = [frame]
    for step in range(horizon):
        frames.append(
            predictor({"frame": frames[-1], "action": actions[:, step]})["next_frame"]
        )
    return keras.Model(
        [frame, actions], ops.stack(frames[1:], axis=1), name="foresight"
    )


def cross_entropy_method(costs_of, shape, candidates: int, random) -> np.ndarray:
    """Actions of low cost, (tasks, steps, 2), of which shape = (tasks, steps / HOLD, 2)
    are chosen.
    costs_of: from plans (tasks, candidates, steps, 2) to costs (tasks, candidates)."""
    mean, deviation = np.zeros(shape), np.full(shape, REACH)
    for _ in range(ROUNDS):
        noise = random.normal(size=(shape[0], candidates, *shape[1:]))
        tried = np.clip(mean[:, None] + deviation[:, None] * noise, -REACH, REACH)
        order = np.argsort(costs_of(tried.repeat(HOLD, axis=2)), axis=1)[
            :, :ELITES, None, None
        ]
        elites = np.take_along_axis(tried, order, axis=1)
        mean, deviation = elites.mean(axis=1), elites.std(axis=1)
    return elites[:, 0].repeat(HOLD, axis=1)


@tf.function
def foreseen_costs(foresight, frames, goals, plans):
    """E|place − goal| of the block's pixels, summed over the steps foreseen: (tasks,
    candidates). frames and goals: (tasks, SIDE, SIDE, 2). plans: (tasks, candidates,
    steps, 2)."""
    tasks, candidates, steps, _ = plans.shape
    frames = tf.repeat(frames, candidates, axis=0)
    blocks = foresight(
        [frames, tf.reshape(tf.cast(plans, tf.float32), (-1, steps, 2))]
    )[..., 1]
    distance = tf.norm(PLACES - mean_place(goals[..., 1])[:, None, None], axis=-1)
    distance = tf.repeat(distance, candidates, axis=0)[:, None]
    expected = tf.reduce_sum(blocks * distance, (-2, -1)) / tf.reduce_sum(
        blocks, (-2, -1)
    )
    return tf.reshape(tf.reduce_sum(expected, axis=1), (tasks, candidates))


def simulated_costs(gripper, block, goal, plans) -> np.ndarray:
    """The same from the places themselves, by what the world would do."""
    gripper, block, total = gripper[:, None], block[:, None], 0.0
    for action in np.moveaxis(plans, 2, 0):
        gripper, block = push(gripper, block, action)
        total = total + np.linalg.norm(block - goal[:, None], axis=-1)
    return total


def main(config: Config, run: Run) -> None:
    if config.horizon % 2:
        raise UsageError(f"--horizon {config.horizon}: it must be even, such as 8")
    run.plan(4)  # the predictor, and three ways of planning
    random = np.random.default_rng(run.seed)
    frames, actions = film(config.films, UNROLL, random)
    predictor = build_predictor()
    model = build_foresight(predictor, UNROLL)
    steps = config.epochs * -(-len(frames) // config.batch_size)
    rate = optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(optimizers.Adam(rate), loss="mse")
    fit = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(
        model,
        [frames[:, 0], actions],
        frames[:, 1:],
        **fit,
        jit_compile=False,
        callbacks=run.callbacks,
    )

    frames, actions = film(500, config.horizon, random)  # held out
    long = build_foresight(predictor, config.horizon)
    guesses = {
        "foreseen": long([frames[:, 0], actions]),
        "with another film's actions": long([frames[:, 0], actions[::-1]]),
        "the first frame": frames[:, :1],
    }
    errors = {
        name: np.square(guess - frames[:, 1:]).sum(axis=(2, 3, 4)).mean(axis=0)
        for name, guess in guesses.items()
    }

    gripper, block = set_up(20 * config.tasks, random)
    distance = np.linalg.norm(block - block[::-1], axis=-1)
    chosen = np.flatnonzero((distance > 4) & (distance < 7))[: config.tasks]
    start, goal = (gripper[chosen], block[chosen]), block[::-1][chosen]
    goals = draw(np.full_like(goal, -9), goal)  # the gripper is out of the picture
    ways = {
        "foreseen": lambda places, plans: foreseen_costs(
            long, draw(*places), goals, plans
        ),
        "tried in the world": lambda places, plans: simulated_costs(
            *places, goal, plans
        ),
        "at random": None,
    }

    sizes = (config.tasks, config.horizon // HOLD, 2), config.candidates

    def plan(name, places, random):
        return cross_entropy_method(partial(ways[name], places), *sizes, random)

    paths, reached = {}, {}
    for name in ways:
        random = np.random.default_rng(2**31 + run.seed)
        paths[name] = places = np.zeros((STEPS + 1, 2, config.tasks, 2))
        places[0], action = start, np.zeros((config.tasks, 2))
        for step in run.loop(name, STEPS, {"all": [places, action, random]}):
            if name != "at random":
                action[:] = plan(name, places[step], random)[:, 0]
            elif step % HOLD == 0:
                action[:] = random.uniform(-REACH, REACH, action.shape)
            places[step + 1] = push(*places[step], action)
        reached[name] = np.linalg.norm(places[1:, 1] - goal, axis=-1) < NEAR
    shares = {name: each.mean(axis=1) for name, each in reached.items()}
    foresight, world, chance = (share[-1] for share in shares.values())
    run.metric("reached", foresight, unit="of the goals")
    foreseen, others, first_frame = (curve.mean() for curve in errors.values())
    run.metric("error", foreseen)
    run.claim(
        "In held-out films it foresees what the actions do",
        holds=foreseen < 0.6 * min(others, first_frame),
        measured=f"squared error of a frame {foreseen:.2f}, with another film's actions "
        f"{others:.2f}, of the first frame {first_frame:.2f}",
    )
    run.claim(
        "Choosing actions by what is foreseen reaches goal images; chance does not",
        holds=foresight > chance + 0.4,
        measured=f"after {STEPS} steps the block is within {NEAR:g} pixel of the goal in "
        f"{foresight:.1%} of {config.tasks} tasks, at random in {chance:.1%}",
    )
    run.claim(
        "What was learned from films alone plans nearly as well as the world itself would",
        holds=foresight > 0.6 * world,
        measured=f"{foresight:.1%} reached, {world:.1%} by trying as much in the world",
    )
    labels = {
        "title": "Foresight",
        "xlabel": "steps ahead",
        "ylabel": "squared error of a frame",
    }
    run.figure("errors", figures.curves(errors, **labels))
    labels = {
        "title": "Planning",
        "xlabel": "step",
        "ylabel": "share of the goals reached",
    }
    run.figure("reached", figures.curves(shares, **labels))
    places = paths["foreseen"]
    way = (
        np.linalg.norm(places[-1, 1] - places[0, 1], axis=-1) * reached["foreseen"][-1]
    )
    task = np.argmax(way)
    happened = draw(*places.swapaxes(0, 1)[:, :, task])
    first_plan = plan("foreseen", places[0], random)[task, None].astype("float32")
    guess = np.concatenate([happened[:1], long([happened[:1], first_plan])[0]])
    inks = 1 - np.array([[0.84, 0.37, 0.0], [0.0, 0.45, 0.7]])
    paint = lambda row: np.clip(0.95 - row @ inks - 0.25 * goals[task, ..., 1:], 0, 1)  # noqa: E731
    rows = {"foreseen at first": paint(guess), "happened": paint(happened)}
    title = "Step by step: gripper (orange), block (blue), its place in the goal image (gray)"
    run.figure("film", figures.image_rows(rows, title=title, columns=len(guess)))
    run.export(predictor, example={"frame": frames[:3, 0], "action": actions[:3, 0]})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
