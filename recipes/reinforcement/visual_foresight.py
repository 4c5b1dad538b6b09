"""Visual foresight: foresee what each push will look like, and choose by what you foresee.

A gripper pushes a block about at random, and a network learns from the film: a frame and an action
give the next frame. It paints nothing, it moves what is there: for each colour it gives kernels of
probabilities for moves by −2 ... 2 pixels, and by these the pixels of that colour flow. So the same
network says where a chosen pixel will be, P(place | frame, actions). To fulfil a goal image, try
out actions in foresight alone: the cross-entropy method draws sequences of actions, keeps the best
tenth and draws anew around those; one step is done, and from what is seen then it plans again. The
cost is how far the block's pixels are expected to be from their place in the goal image,
E|place − goal|, summed over the steps.
Look at the plan's film beside what happened, and at which ways of planning reach the goal.

Lectures: N18 Model-based Intelligence (deep visual foresight)
Paper: Finn and Levine, Deep visual foresight for planning robot motion, 2017; Ebert et al., Visual
    foresight: model-based deep reinforcement learning for vision-based robotic control, 2018
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    films: int = 6000
    """of random pushes, to learn from"""
    units: int = 128
    """width of the network's two hidden layers"""
    epochs: int = 8
    """passes over the films"""
    learning_rate: float = 2e-3
    """of Adam at first; falls to 0"""
    horizon: int = 8
    """steps that a plan foresees; even"""
    candidates: int = 50
    """sequences of actions drawn in a round of the cross-entropy method"""
    tasks: int = 60
    """goal images to reach"""


QUICK = Config(films=4000, epochs=6, candidates=40, tasks=40)
FULL = Config(films=100_000, units=512, candidates=400, tasks=200)

SIDE = 16  # pixels; the centres of the corners' pixels are (0, 0) and (15, 15)
GRIPPER, BLOCK, REACH = 1.0, 2.0, 2.0  # the radii of the two discs; the largest |action|
HOLD = 2  # steps that an action lasts in films and plans: one alone gets nowhere
FILM, UNROLL = 8, 4  # steps of a film, and of the parts of it that the network learns to foresee
ROUNDS, ELITES = 3, 5  # of the cross-entropy method
STEPS, NEAR = 15, 1.0  # to reach a goal in; how near the block must be at their end, in pixels
PLACES = np.stack(np.indices((SIDE, SIDE)), axis=-1).astype("float32")


def keep_in(place, radius):
    """Discs that do not stick out of the board."""
    return np.clip(place, radius - 0.5, SIDE - 0.5 - radius)


def make_room(place, other):
    """place, moved straight away from other until the two discs only touch."""
    away = place - other
    distance = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-6)
    return other + away / distance * np.maximum(distance, GRIPPER + BLOCK)


def push(gripper, block, action) -> tuple[np.ndarray, np.ndarray]:
    """A step of the world: the gripper goes by the action, and shoves the block if it is in the
    way. All are (..., 2), rows and columns in pixels. Returns the new places of both."""
    action = np.clip(action, -REACH, REACH)
    for _ in range(4):  # in parts, so that the gripper does not jump over the block
        gripper = keep_in(gripper + action / 4, GRIPPER)
        block = keep_in(make_room(block, gripper), BLOCK)
        gripper = make_room(gripper, block)  # a block at the border does not give way
    return gripper, block


def draw(gripper, block) -> np.ndarray:
    """Frames (..., SIDE, SIDE, 2) in [0, 1]: one colour for the gripper, one for the block."""
    frames = []
    for place, radius in ((gripper, GRIPPER), (block, BLOCK)):
        distance = np.linalg.norm(PLACES - place[..., None, None, :], axis=-1)
        frames.append(np.clip(radius + 0.5 - distance, 0, 1))
    return np.stack(frames, axis=-1).astype("float32")


def set_up(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of grippers and of blocks, (count, 2) each; a gripper is within 2 pixels of its block,
    on any side."""
    block = random.uniform(BLOCK + 0.5, SIDE - 1.5 - BLOCK, (count, 2))
    angle = random.uniform(0, 2 * np.pi, count)
    distance = GRIPPER + BLOCK + random.uniform(0, 2, (count, 1))
    gripper = block + distance * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return keep_in(make_room(keep_in(gripper, GRIPPER), block), GRIPPER), block


def film(count: int, steps: int, random) -> tuple[np.ndarray, np.ndarray]:
    """Random pushes: frames (count, steps + 1, ...) and actions (count, steps, 2)."""
    places = [set_up(count, random)]
    actions = random.uniform(-REACH, REACH, (count, steps // HOLD, 2)).repeat(HOLD, axis=1)
    for step in range(steps):
        places.append(push(*places[-1], actions[:, step]))
    gripper, block = np.stack(places, axis=2)
    return draw(gripper, block), actions.astype("float32")


def mean_place(images):
    """The mean row and column of the pixels of (..., SIDE, SIDE), weighted by their values."""
    share = images / (ops.sum(images, axis=(-2, -1), keepdims=True) + 1e-6)
    return ops.sum(share[..., None] * PLACES, axis=(-3, -2))


def build_predictor(units: int) -> keras.Model:
    """frame: (batch, SIDE, SIDE, 2) in [0, 1]. action: (batch, 2) in pixels. Outputs: next_frame,
    and kernels (batch, 2 axes, 2 colours, 5), the probabilities of moves by −2 ... 2 pixels."""
    frame, action = keras.Input((SIDE, SIDE, 2), name="frame"), keras.Input((2,), name="action")
    # Feature points (Finn et al., Deep spatial autoencoders for visuomotor learning, 2016): the mean
    # place of each colour. From bare pixels a dense network needs far more films.
    points = [mean_place(frame[..., colour]) / (SIDE / 2) - 1 for colour in range(2)]
    hidden = layers.Concatenate()([*points, action / REACH])
    hidden = layers.Dense(units, activation="relu")(hidden)
    hidden = layers.Dense(units, activation="relu")(hidden)
    logits = layers.Dense(2 * 2 * 5, dtype="float32")(hidden)
    kernels = ops.softmax(layers.Reshape((2, 2, 5))(logits))
    outputs = {"next_frame": flow(frame, kernels), "kernels": kernels}
    return keras.Model({"frame": frame, "action": action}, outputs, name="predictor")


def flow(frames, kernels):
    """Frames (batch, SIDE, SIDE, 2) with each colour spread along both axes by its kernels
    (batch, 2, 2, 5). What flows over the border is lost."""
    # A move by k rows is a product with a matrix that is 1 on a diagonal; by a kernel, with a band.
    moves = np.stack([np.eye(SIDE, k=-move, dtype="float32").ravel() for move in range(-2, 3)])
    bands = ops.reshape(ops.reshape(kernels, (-1, 5)) @ moves, (-1, 2, 2, SIDE, SIDE))
    rows, columns = bands[:, 0], ops.transpose(bands[:, 1], (0, 1, 3, 2))
    colours_first = rows @ ops.transpose(frames, (0, 3, 1, 2)) @ columns
    return ops.transpose(colours_first, (0, 2, 3, 1))


def build_foresight(predictor: keras.Model, horizon: int) -> keras.Model:
    """From a frame and actions (batch, horizon, 2) to the frames that follow, each foreseen from
    the one foreseen before: (batch, horizon, SIDE, SIDE, 2)."""
    frame = first = keras.Input((SIDE, SIDE, 2), name="frame")
    actions = keras.Input((horizon, 2), name="actions")
    frames = []
    for step in range(horizon):
        frame = predictor({"frame": frame, "action": actions[:, step]})["next_frame"]
        frames.append(frame)
    return keras.Model([first, actions], ops.stack(frames, axis=1), name="foresight")


def expected_distance(frames, goals):
    """E|place − goal| in pixels, where the place is drawn from the block's pixels.
    frames: (..., SIDE, SIDE, 2), goals: the same of one block each. Returns (...)."""
    block = frames[..., 1]
    goal = mean_place(goals[..., 1])[..., None, None, :]
    distance = ops.sqrt(ops.sum((PLACES - goal) ** 2, axis=-1))
    return ops.sum(block * distance, axis=(-2, -1)) / ops.sum(block, axis=(-2, -1))


def pixel_distance(frames, goals):
    """The squared differences of the block's pixels from the goal image's, summed."""
    return ops.sum((frames - goals)[..., 1] ** 2, (-2, -1))


def cross_entropy_method(costs_of, shape, candidates: int, random) -> np.ndarray:
    """Actions of low cost, (tasks, horizon, 2) = shape. costs_of: from candidates of shape
    (tasks, candidates, horizon, 2) to their costs (tasks, candidates)."""
    mean, deviation = np.zeros(shape), np.full(shape, REACH)
    for _ in range(ROUNDS):
        noise = random.normal(size=(shape[0], candidates, *shape[1:]))
        tried = np.clip(mean[:, None] + deviation[:, None] * noise, -REACH, REACH)
        order = np.argsort(costs_of(tried), axis=1)[:, :ELITES, None, None]
        elites = np.take_along_axis(tried, order, axis=1)
        mean, deviation = elites.mean(axis=1), elites.std(axis=1)
    return elites[:, 0]


def foreseen_costs(foresight: keras.Model, cost):
    """A function of frames and goals (tasks, ...) and actions (tasks, candidates, horizon, 2)."""

    @tf.function
    def costs_of(frames, goals, actions):
        tasks, candidates, horizon, _ = actions.shape
        frames = tf.repeat(frames, candidates, axis=0)
        foreseen = foresight([frames, tf.reshape(actions, (-1, horizon, 2))])
        goals = tf.repeat(goals, candidates, axis=0)[:, None]
        costs = tf.reduce_sum(cost(foreseen, goals), axis=1)
        return tf.reshape(costs, (tasks, candidates))

    return costs_of


def simulated_costs(gripper, block, goal, actions) -> np.ndarray:
    """The same from the true places, by the world itself: what a perfect foresight would give."""
    gripper, block, total = gripper[:, None], block[:, None], 0.0
    for step in range(actions.shape[2]):
        gripper, block = push(gripper, block, actions[:, :, step])
        total = total + np.linalg.norm(block - goal[:, None], axis=-1)
    return total


def set_tasks(count: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Places of grippers, of blocks and, 4 to 7 pixels from those, of blocks in goal images."""
    gripper, block = set_up(20 * count, random)
    _, goal = set_up(20 * count, random)
    distance = np.linalg.norm(goal - block, axis=-1)
    chosen = np.flatnonzero((distance > 4) & (distance < 7))[:count]
    return gripper[chosen], block[chosen], goal[chosen]


def in_colour(frames) -> np.ndarray:
    """Frames as red, green and blue in [0, 1]: an orange gripper and a blue block on white."""
    inks = 1 - np.array([[0.84, 0.37, 0.0], [0.0, 0.45, 0.7]])
    return np.clip(1 - np.asarray(frames) @ inks, 0, 1)


def plot_film(goal, foreseen, happened) -> plt.Figure:
    """Frames (count, SIDE, SIDE, 2) of a plan's foresight and of what happened; white: not seen.
    The goal's outline is drawn over all of them."""
    figure, grid = plt.subplots(2, len(happened), figsize=(len(happened) + 1, 2.7))
    rows = {"foreseen\nat the start": foreseen, "happened": happened}
    for (name, frames), line in zip(rows.items(), grid, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for step, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            if step >= len(frames):
                axes.axis("off")
                continue
            axes.imshow(in_colour(frames[step]))
            axes.contour(goal[..., 1], levels=[0.5], colors="black", linewidths=1)
            axes.set_title(f"{step}", fontsize=9, pad=3)
    figure.suptitle(
        "Gripper (orange) and block (blue) by step; outlined: the block in the goal image"
    )
    return figure


def plot_measures(errors: dict, distances: dict) -> plt.Figure:
    """Errors by how far ahead they are foreseen; distances from the goal by way of planning."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, curve in errors.items():
        left.plot(np.arange(1, len(curve) + 1), curve, "o-", label=name)
    left.set(xlabel="steps ahead", ylabel="squared error of a frame, summed over the pixels")
    left.set(title="Foresight of held-out films", ylim=(0, None))
    left.legend()
    for name, distance in distances.items():
        share = np.arange(1, len(distance) + 1) / len(distance)
        right.step(np.sort(distance), share, where="post", label=name)
    right.axvline(NEAR, color="black", linewidth=1, linestyle=":")
    right.set(xlabel="the block's distance from the goal at the end, in pixels", ylim=(0, 1.02))
    right.set(ylabel="share of the tasks", title="How near it came (dotted: near enough)")
    right.legend()
    return figure


def main(config: Config, run: Run) -> None:
    random = np.random.default_rng(run.seed)
    frames, actions = film(config.films, FILM, random)
    starts = range(0, FILM, UNROLL)
    parts = [
        np.concatenate([each[:, start : start + length] for start in starts])
        for each, length in ((frames, UNROLL + 1), (actions, UNROLL))
    ]
    predictor = build_predictor(config.units)
    model = build_foresight(predictor, UNROLL)
    steps = config.epochs * -(-len(parts[0]) // 64)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), loss="mse")
    training.fit(
        model,
        [parts[0][:, 0], parts[1]],
        parts[0][:, 1:],
        epochs=config.epochs,
        batch_size=64,
        jit_compile=False,
        callbacks=run.callbacks,
    )

    # Films not seen in training; foreseen too with the actions of other films.
    frames, actions = film(500, FILM, random)
    foresight = build_foresight(predictor, FILM)
    guesses = {
        "foreseen": foresight([frames[:, 0], actions]),
        "with another film's actions": foresight([frames[:, 0], actions[::-1]]),
        "the first frame": frames[:, :1],
    }
    errors = {
        name: np.sum((guess - frames[:, 1:]) ** 2, axis=(2, 3, 4)).mean(axis=0)
        for name, guess in guesses.items()
    }

    *start, goal = set_tasks(config.tasks, random)
    goals = draw(np.full_like(goal, -9), goal)  # the gripper is out of the picture
    long, short = (build_foresight(predictor, steps) for steps in (config.horizon, HOLD))

    def seen(foresight, cost):
        """Costs of plans for what is seen of the places of gripper and block."""
        costs_of = foreseen_costs(foresight, cost)
        return lambda places, plans: costs_of(draw(*places), goals, plans.astype("float32")).numpy()

    names = f"{HOLD} steps of foresight", "difference of pixels", "expected distance", "true world"
    costs = (
        seen(short, expected_distance),
        seen(long, pixel_distance),
        seen(long, expected_distance),
        lambda places, plans: simulated_costs(*places, goal, plans),
    )
    ways = {"random actions": None} | dict(zip(names, costs, strict=True))

    def plan(name, places, random):
        """Actions for each task, (tasks, steps, 2)."""
        steps = HOLD if name == names[0] else config.horizon
        return cross_entropy_method(
            lambda tried: ways[name](places, tried.repeat(HOLD, axis=2)),
            (config.tasks, steps // HOLD, 2),
            config.candidates,
            random,
        ).repeat(HOLD, axis=1)

    distances, paths = {}, {}
    for name in ways:
        random = np.random.default_rng(2**31 + run.seed)
        paths[name] = places = np.zeros((STEPS + 1, 2, config.tasks, 2))
        places[0] = start
        action = np.zeros((config.tasks, 2))
        for step in run.loop(name, STEPS, {"all": [places, action, random]}):
            if name != "random actions":
                action[:] = plan(name, places[step], random)[:, 0]
            elif step % HOLD == 0:
                action[:] = random.uniform(-REACH, REACH, action.shape)
            places[step + 1] = push(*places[step], action)
        distances[name] = np.linalg.norm(places[-1, 1] - goal, axis=-1)
    at_random, with_short, with_pixels, with_distance, with_truth = (
        np.mean(distance < NEAR) for distance in distances.values()
    )

    run.metric("reached", with_distance, unit="of the goals")
    run.metric("reached_at_random", at_random, unit="of the goals")
    run.metric("reached_with_the_true_world", with_truth, unit="of the goals")
    run.metric("error_foreseen", errors["foreseen"].mean(), unit="squared, of a frame")
    foreseen, others_actions, first_frame = (curve.mean() for curve in errors.values())
    run.claim(
        "The network foresees what the actions do: in held-out films, better than if it is told "
        "another film's actions, and than the first frame",
        holds=foreseen < 0.6 * min(others_actions, first_frame),
        measured=f"squared error of a frame over {FILM} steps {foreseen:.2f}, with others' actions "
        f"{others_actions:.2f}, of the first frame {first_frame:.2f}",
    )
    first, last = errors["foreseen"][[0, -1]]
    run.claim(
        "Errors add up: the further ahead, the worse it is foreseen",
        holds=last > 1.5 * first,
        measured=f"squared error {first:.2f} after a step, {last:.2f} after {FILM}",
    )
    run.claim(
        "Choosing actions by their foreseen frames reaches goal images that chance does not",
        holds=with_distance > at_random + 0.4,
        measured=f"block within {NEAR:g} pixel of its goal after {STEPS} steps in "
        f"{with_distance:.1%} of {config.tasks} tasks, at random in {at_random:.1%}",
    )
    run.claim(
        "It takes long foresight: the gripper must often go round the block first",
        holds=with_distance > with_short + 0.15,
        measured=f"{with_distance:.1%} reached with {config.horizon} steps, {with_short:.1%} with "
        f"{HOLD}",
    )
    run.claim(
        "The expected distance shows the way from afar, where a difference of pixels is blind",
        holds=with_distance > with_pixels + 0.1,
        measured=f"{with_distance:.1%} reached, {with_pixels:.1%} by the difference of pixels",
    )
    run.claim(
        "What was learned from film alone plans nearly as well as the true world would",
        holds=with_distance > 0.75 * with_truth,
        measured=f"{with_distance:.1%} reached, {with_truth:.1%} with the world itself to try "
        "the same number of actions in",
    )

    run.figure("measures", plot_measures(errors, distances))
    places = paths[names[2]]
    pushed = np.linalg.norm(places[-1, 1] - places[0, 1], axis=-1)
    task = np.argmax(np.where(distances[names[2]] < NEAR, pushed, 0))
    happened = draw(*places.swapaxes(0, 1)[:, :, task])
    first_plan = plan(names[2], places[0], random)[task]
    guess = long([happened[:1], first_plan[None].astype("float32")])[0]
    foreseen = np.concatenate([happened[:1], guess])
    run.figure("film", plot_film(goals[task], foreseen, happened))
    run.export(predictor, example={"frame": frames[:3, 0], "action": actions[:3, 0]})


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
