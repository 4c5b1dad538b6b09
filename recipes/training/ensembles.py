"""Ensembles: the average of several models, and two ways to get it from one training.

Models that began at other weights are wrong about other examples, so the average of
their probabilities, p(y|x) = 1/M Σ pₘ(y|x), is wrong about fewer. It costs M trainings,
and M networks whenever it answers. A snapshot ensemble takes its members from one
training: the rate falls along a cosine to 0, jumps up, falls again, and each time the
network has come to rest its weights are kept. Polyak averaging keeps a running mean of
the weights themselves, w̄ ← β·w̄ + (1 − β)·w: one training, one network.
Look at the table of costs: what each way takes in steps and in networks at test time,
and what it gives for them. An average is also less sure than its members. That alone
lowers a log loss, and one number does it too, so each way is judged again at its best
temperature, p^(1/T).

Lectures: CS Model Ensembles; SEL Model Ensembles, SGDR
Paper: Huang et al., Snapshot ensembles: train 1, get M for free, 2017 (equation 2);
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992
Tags: bagging, sgdr, ema, exponential moving average, swa, weight averaging, warm
    restarts, temperature scaling
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    members: Annotated[int, Interval(ge=2, le=20)] = 5
    """networks of an ensemble, and cycles of a training that snapshots are taken of"""
    groups: Annotated[int, Interval(ge=1, le=20)] = 4
    """ensembles of each kind, of which the mean is reported"""
    epochs: Annotated[int, Interval(ge=1, le=1000)] = 6
    """of each cycle"""
    ema_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.99
    """share of the running mean of the weights that stays in each step"""


QUICK = Config(members=3, epochs=6)
FULL = Config(groups=10, epochs=20)

# --------------------------------------------------------------------------------------
# The idea: averages of probabilities, snapshots, averages of weights
# --------------------------------------------------------------------------------------


def average_probabilities(logits: tf.Tensor) -> tf.Tensor:
    """What an ensemble says: the mean of its members' probabilities.

    logits: (members, examples, classes). Returns (examples, classes).
    """
    return tf.reduce_mean(tf.nn.softmax(logits), axis=0)


def cyclic_cosine(steps: np.ndarray, total: int, cycles: int) -> np.ndarray:
    """What the first rate is multiplied by at each of `steps`, array: a cosine from 1
    to 0, anew in each cycle (equation 2, and SGDR's).

    keras.optimizers.schedules.CosineDecayRestarts(rate, total / cycles, t_mul=1.0) is
    the same.
    """
    length = total / cycles
    within = steps % length
    return (1 + np.cos(np.pi * within / length)) / 2


def update_average(average, weights, step, momentum: float):
    """The running mean of the weights after a step, the first of which is step 0.

    keras.optimizers.SGD(use_ema=True, ema_momentum=0.99) does this.
    """
    # The mean begins at the first weights that were trained, not at 0.
    kept = tf.where(step == 0, 0.0, momentum)
    return kept * average + (1 - kept) * weights


def build_model(name: str = "digits", units: int = 32) -> keras.Model:
    """A small network for digits. Input: (batch, 144). Output: (batch, 10) logits."""
    x = keras.Input((144,), name="x")
    hidden = layers.Dense(units, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name=name)


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T), normalized: less sure above 1, surer below. (..., classes)"""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def build_ensemble(members: Sequence[keras.Model]) -> keras.Model:
    """One network of several that take the same input. Output: the logarithm of the
    members' mean probabilities, which is what softmax takes for logits."""
    x = keras.Input(members[0].input.shape[1:], name="x")
    probabilities = [ops.softmax(member(x)) for member in members]
    mean = layers.Average()(probabilities)
    return keras.Model(x, ops.log(mean + 1e-12), name="ensemble")


# --------------------------------------------------------------------------------------
# The experiment: what each way costs and gives
# --------------------------------------------------------------------------------------

SIDE = 12  # of the digits, in pixels
UNITS = 32  # of a network
BATCH_SIZE = 32
MOMENTUM = 0.9
LEARNING_RATES = (0.03, 0.1, 0.3)  # to choose from, for each way by itself
TEMPERATURES = np.geomspace(0.6, 3, 12)  # likewise


@tf.function(jit_compile=True)
def train_epoch(
    model, rows, velocity, averages, first_step, rates, batches, x, y, ema_momentum
):
    """A step of each network on each of its own batches, at its own rate.

    rows, velocity, averages: variables (networks, weights). rates: (steps, networks).
    batches: (steps, networks, batch size) rows of x and y.
    """
    for index in tf.range(batches.shape[0]):
        images = tf.gather(x, batches[index])
        labels = tf.gather(y, batches[index])
        gradients = stacks.gradients_each(model, rows, images, labels)
        velocity.assign(MOMENTUM * velocity + gradients)
        rows.assign_sub(rates[index][:, tf.newaxis] * velocity)
        step = first_step + index
        averages.assign(update_average(averages, rows, step, ema_momentum))


@dataclass
class Trained:
    """Networks of one schedule, at each learning rate from each start."""

    snapshots: np.ndarray
    """weights at the end of each cycle, (cycles, rates, starts, weights)"""
    averages: np.ndarray
    """running means of the weights at the end, (rates, starts, weights)"""


def train(
    name: str,
    model: keras.Model,
    factors: np.ndarray,
    starts: np.ndarray,
    cycles: int,
    parts,
    config,
    run,
) -> list[Trained]:
    """A training by schedule, rate and start, all at once; each start has batches of
    its own.

    model: of the networks' architecture. factors: what the rates are multiplied by,
    (steps, schedules). starts: (starts, weights). Returns a `Trained` for each
    schedule.
    """
    x, y = parts.train
    random = np.random.default_rng(run.seed)
    schedules = factors.shape[1]
    kinds = schedules * len(LEARNING_RATES)
    rates = factors[:, :, np.newaxis] * LEARNING_RATES
    rates = np.repeat(rates.reshape(-1, kinds), len(starts), axis=1)
    rates = rates.astype("float32")
    rows = tf.Variable(np.tile(starts, (kinds, 1)))
    velocity = tf.Variable(tf.zeros_like(rows))
    averages = tf.Variable(tf.zeros_like(rows))
    snapshots = np.zeros((cycles, *rows.shape), "float32")

    steps = len(x) // BATCH_SIZE
    epochs = len(factors) // steps
    state = {"all": [rows, velocity, averages, snapshots, random]}
    name = f"{rows.shape[0]} networks, {name}"
    for epoch in run.loop(name, epochs, state, unit="epochs"):
        orders = np.array([random.permutation(len(x)) for _ in starts])
        orders = orders[:, : steps * BATCH_SIZE]
        batches = orders.reshape(len(starts), steps, BATCH_SIZE).swapaxes(0, 1)
        first = epoch * steps
        train_epoch(
            model,
            rows,
            velocity,
            averages,
            tf.constant(first),
            tf.constant(rates[first : first + steps]),
            tf.constant(np.tile(batches, (1, kinds, 1))),
            x,
            y,
            tf.constant(config.ema_momentum, "float32"),
        )
        cycle, rest = divmod((epoch + 1) * cycles, epochs)
        if rest == 0:
            snapshots[cycle - 1] = rows.numpy()
    shape = schedules, len(LEARNING_RATES), len(starts), -1
    snapshots = snapshots.reshape(cycles, *shape)
    averages = averages.numpy().reshape(shape)
    return [Trained(snapshots[:, i], averages[i]) for i in range(schedules)]


@dataclass
class Parts:
    """Digits, flat."""

    train: tuple[tf.Tensor, tf.Tensor]
    held_out: tf.Tensor
    """those to choose by, and then those to report"""
    labels: np.ndarray
    """of the held-out ones"""
    validation: int
    """how many of them are to choose by"""


def load_parts(run: Run) -> Parts:
    (x, y), (x_test, y_test) = data.load("mnist_5k", size=SIDE)
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    order = np.random.default_rng(run.seed).permutation(len(x))
    chosen_by, rest = np.split(order, [len(x) // 5])
    return Parts(
        train=(tf.constant(x[rest]), tf.constant(y[rest])),
        held_out=tf.constant(np.concatenate([x[chosen_by], x_test])),
        labels=np.concatenate([y[chosen_by], y_test]),
        validation=len(chosen_by),
    )


@dataclass
class Trainings:
    """Networks of all schedules."""

    constant: Trained
    cosine: Trained
    cycles: Trained
    """a cosine anew in each cycle"""
    long: Trained
    """one cosine, over as many steps as an ensemble's members take together"""
    wide: Trained
    """one cosine, with as many units as they have together"""


def steps_of_a_training(parts: Parts, config: Config) -> int:
    return len(parts.train[0]) // BATCH_SIZE * config.epochs * config.members


def train_all(parts: Parts, config: Config, run: Run) -> Trainings:
    """Many networks by three schedules; a few at a time longer, and wider."""
    count = config.members * config.groups
    starts = np.stack([stacks.row_of(build_model()) for _ in range(count)])
    units = UNITS * config.members
    wide_starts = [
        stacks.row_of(build_model(units=units)) for _ in range(config.groups)
    ]
    model = build_model()
    wide_model = build_model(units=units)
    total = steps_of_a_training(parts, config)
    steps = np.arange(total)
    factors = [
        np.ones(total),
        cyclic_cosine(steps, total, cycles=1),
        cyclic_cosine(steps, total, cycles=config.members),
    ]
    constant, cosine, cycles = train(
        "three schedules",
        model,
        np.stack(factors, axis=1),
        starts,
        config.members,
        parts,
        config,
        run,
    )
    longer = total * config.members
    falling = cyclic_cosine(np.arange(longer), longer, cycles=1)
    (long,) = train(
        "longer",
        model,
        falling[:, np.newaxis],
        starts[: config.groups],
        1,
        parts,
        config,
        run,
    )
    (wide,) = train(
        "wider",
        wide_model,
        factors[1][:, np.newaxis],
        np.stack(wide_starts),
        1,
        parts,
        config,
        run,
    )
    return Trainings(constant, cosine, cycles, long, wide)


@tf.function(jit_compile=True)
def logits_of(model, rows, x):
    """(networks, examples, classes)"""
    return stacks.call(model, rows, x)


def probabilities_of(model: keras.Model, rows: np.ndarray, parts: Parts) -> np.ndarray:
    """Of networks (rates, starts, weights) on the held-out digits, (rates, starts,
    digits, classes)."""
    flat = tf.constant(rows.reshape(-1, rows.shape[-1]))
    found = tf.nn.softmax(logits_of(model, flat, parts.held_out))
    return found.numpy().reshape(*rows.shape[:2], *found.shape[1:])


@dataclass
class Way:
    """One way to a classifier, at the learning rate that validates best."""

    steps: int
    """of gradient descent, in all"""
    networks: int
    """that answer at test time"""
    rate: int
    """place of the learning rate"""
    validation: np.ndarray
    """log loss on the digits to choose by, (runs,)"""
    loss: np.ndarray
    """log loss on the test digits in nats, (runs,)"""
    accuracy: np.ndarray
    """on the test digits, (runs,)"""
    calibrated: np.ndarray
    """log loss on the test digits where each run has the temperature, and all have the
    rate with it, that validate best, (runs,)"""


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """In nats: of (..., digits, classes), (...)."""
    right = probabilities[..., np.arange(len(labels)), labels]
    return -np.log(right + 1e-12).mean(axis=-1)


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """That of the lowest log loss. probabilities: (digits, classes)."""
    losses = [log_loss(at_temperature(probabilities, t), labels) for t in TEMPERATURES]
    return float(TEMPERATURES[np.argmin(losses)])


def calibrate(probabilities: np.ndarray, parts: Parts) -> np.ndarray:
    """Each run's at the temperature that validates best: (rates, runs, digits,
    classes)."""
    labels = parts.labels[: parts.validation]
    calibrated = np.empty_like(probabilities)
    for index in np.ndindex(probabilities.shape[:2]):
        temperature = best_temperature(probabilities[index][: len(labels)], labels)
        calibrated[index] = at_temperature(probabilities[index], temperature)
    return calibrated


def validation_losses(probabilities: np.ndarray, parts: Parts) -> np.ndarray:
    """On the digits to choose by, (rates, runs)."""
    count = parts.validation
    return log_loss(probabilities[:, :, :count], parts.labels[:count])


def judge(probabilities: np.ndarray, parts: Parts, steps: int, networks: int) -> Way:
    """probabilities: (rates, runs, digits, classes)."""
    validation = validation_losses(probabilities, parts)
    rate = int(validation.mean(axis=1).argmin())
    labels = parts.labels[parts.validation :]
    test = probabilities[rate, :, parts.validation :]

    calibrated = calibrate(probabilities, parts)
    rate_of_it = validation_losses(calibrated, parts).mean(axis=1).argmin()
    calibrated_test = calibrated[rate_of_it, :, parts.validation :]
    return Way(
        steps,
        networks,
        rate,
        validation=validation[rate],
        loss=log_loss(test, labels),
        accuracy=np.mean(test.argmax(axis=-1) == labels, axis=-1),
        calibrated=log_loss(calibrated_test, labels),
    )


def in_groups(values: np.ndarray, config: Config) -> np.ndarray:
    """(rates, starts, ...) as (rates, groups, members, ...)."""
    return values.reshape(len(values), config.groups, config.members, *values.shape[2:])


CONSTANT = "one, constant rate"
AVERAGED = "its running mean (EMA)"
COSINE = "one, cosine"
LONG = "one, cosine, longer"
WIDE = "one, as wide as all"
INDEPENDENT = "independent networks"
SHORT = "short independent ones"
SNAPSHOTS = "snapshots of one"
WITHOUT = "snapshots, no restarts"
MEAN_WEIGHTS = "mean of independent weights"
MEAN_SNAPSHOTS = "mean of snapshots' weights"


def compare_ways(
    model: keras.Model, trained: Trainings, steps: int, parts: Parts, config: Config
) -> dict[str, Way]:
    """steps: of a whole training."""
    members = config.members
    wide_model = build_model(units=UNITS * members)
    of_cosine = [
        probabilities_of(model, rows, parts) for rows in trained.cosine.snapshots
    ]
    of_cycles = [
        probabilities_of(model, rows, parts) for rows in trained.cycles.snapshots
    ]
    independent = in_groups(of_cosine[-1], config).mean(axis=2)
    short = in_groups(of_cycles[0], config).mean(axis=2)
    mean_weights = in_groups(trained.cosine.snapshots[-1], config).mean(axis=2)
    mean_snapshots = trained.cycles.snapshots.mean(axis=0)
    found = {
        CONSTANT: (
            probabilities_of(model, trained.constant.snapshots[-1], parts),
            steps,
            1,
        ),
        AVERAGED: (probabilities_of(model, trained.constant.averages, parts), steps, 1),
        COSINE: (of_cosine[-1], steps, 1),
        LONG: (
            probabilities_of(model, trained.long.snapshots[-1], parts),
            steps * members,
            1,
        ),
        WIDE: (
            probabilities_of(wide_model, trained.wide.snapshots[-1], parts),
            steps,
            1,
        ),
        INDEPENDENT: (independent, steps * members, members),
        SHORT: (short, steps, members),
        SNAPSHOTS: (np.mean(of_cycles, axis=0), steps, members),
        WITHOUT: (np.mean(of_cosine, axis=0), steps, members),
        MEAN_WEIGHTS: (
            probabilities_of(model, mean_weights, parts),
            steps * members,
            1,
        ),
        MEAN_SNAPSHOTS: (probabilities_of(model, mean_snapshots, parts), steps, 1),
    }
    return {name: judge(each[0], parts, *each[1:]) for name, each in found.items()}


def best_member(way: Way, config: Config) -> np.ndarray:
    """Test losses of the member of each group that validates best, (groups,)."""
    best = way.validation.reshape(config.groups, -1).argmin(axis=1)
    losses = way.loss.reshape(config.groups, -1)
    return losses[np.arange(config.groups), best]


def disagreement(answers: np.ndarray) -> float:
    """The share of digits on which two members differ, mean over all pairs. answers:
    (members, ..., digits) classes."""
    pairs = itertools.combinations(answers, 2)
    return float(np.mean([np.mean(one != other) for one, other in pairs]))


def measure_disagreements(
    model: keras.Model,
    trained: Trainings,
    ways: dict[str, Way],
    parts: Parts,
    config: Config,
) -> dict[str, float]:
    """Of the members of three ensembles on test digits."""
    independent = in_groups(trained.cosine.snapshots[-1], config)
    members = {
        INDEPENDENT: independent[ways[INDEPENDENT].rate].swapaxes(0, 1),
        SNAPSHOTS: trained.cycles.snapshots[:, ways[SNAPSHOTS].rate],
        WITHOUT: trained.cosine.snapshots[:, ways[WITHOUT].rate],
    }
    found = {}
    for name, rows in members.items():
        answers = probabilities_of(model, rows, parts).argmax(axis=-1)
        found[name] = disagreement(answers[..., parts.validation :])
    return found


def judge_ensemble(ways: dict[str, Way], config: Config, run: Run) -> None:
    """Independent networks beside one of them, and one of more steps or units."""
    losses = {name: float(way.calibrated.mean()) for name, way in ways.items()}
    accuracies = {name: float(way.accuracy.mean()) for name, way in ways.items()}
    run.compare(
        f"The average of {config.members} independent networks is right more often "
        "than they are on average",
        {"average member": accuracies[COSINE], "ensemble": accuracies[INDEPENDENT]},
        more="ensemble",
        less="average member",
        by=0.001,
    )
    run.compare(
        "It is better than the member that validates best, too (log loss)",
        {
            "best member": best_member(ways[COSINE], config).mean(),
            "ensemble": ways[INDEPENDENT].loss.mean(),
        },
        more="best member",
        less="ensemble",
        times=1.05,
    )
    run.compare(
        f"A single network that takes the {config.members} trainings' steps by itself "
        "does not get there (log loss, each at its best temperature)",
        {LONG: losses[LONG], INDEPENDENT: losses[INDEPENDENT]},
        more=LONG,
        less=INDEPENDENT,
        times=1.02,
    )
    run.claim(
        "But a single network as wide as all members together does: it answers and "
        "learns at their cost, and is about as good here, or better (log loss, each at "
        "its best temperature)",
        holds=losses[WIDE] < 1.03 * losses[INDEPENDENT],
        measured=f"{WIDE} {losses[WIDE]:.3f}, {INDEPENDENT} {losses[INDEPENDENT]:.3f} "
        "(less than 1.03 times that wanted)",
    )


def judge_snapshots(
    ways: dict[str, Way], disagreements: dict[str, float], run: Run
) -> None:
    losses = {name: float(way.loss.mean()) for name, way in ways.items()}
    calibrated = {name: float(way.calibrated.mean()) for name, way in ways.items()}
    run.metrics("disagreement", disagreements)
    gain = losses[COSINE] / losses[SNAPSHOTS] - 1
    calibrated_gain = calibrated[COSINE] / calibrated[SNAPSHOTS] - 1
    run.claim(
        "Snapshots of one training have a lower log loss than one network that trained "
        "as long; most of that is that they are less sure, which a temperature does too",
        holds=gain > 0.01 and calibrated_gain < 0.5 * gain,
        measured=f"{COSINE} {losses[COSINE]:.4f}, {SNAPSHOTS} {losses[SNAPSHOTS]:.4f}; "
        f"at the best temperatures {calibrated[COSINE]:.4f} and "
        f"{calibrated[SNAPSHOTS]:.4f}",
    )
    run.compare(
        "Networks of one training differ less than independent ones do (share of test "
        "digits on which two members disagree)",
        {name: disagreements[name] for name in (INDEPENDENT, SNAPSHOTS)},
        more=INDEPENDENT,
        less=SNAPSHOTS,
        times=1.15,
    )
    run.claim(
        "That the restarts let them differ does not show at this scale: as many "
        "snapshots without restarts disagree no less, and are no worse (log loss, each "
        "at its best temperature)",
        holds=disagreements[WITHOUT] > 0.9 * disagreements[SNAPSHOTS]
        and calibrated[WITHOUT] < 1.05 * calibrated[SNAPSHOTS],
        measured=f"{SNAPSHOTS} disagree on {disagreements[SNAPSHOTS]:.3f}, log loss "
        f"{calibrated[SNAPSHOTS]:.3f}; {WITHOUT} {disagreements[WITHOUT]:.3f} (more "
        f"than 0.9 times that wanted) and {calibrated[WITHOUT]:.3f} (less than 1.05 "
        "times that)",
    )
    run.claim(
        "At this scale short trainings of several networks, which cost as many steps, "
        "do about as well as snapshots",
        holds=0.85 < losses[SHORT] / losses[SNAPSHOTS] < 1.15,
        measured=f"log loss: {SHORT} {losses[SHORT]:.3f}, {SNAPSHOTS} "
        f"{losses[SNAPSHOTS]:.3f} (0.85 to 1.15 times that wanted)",
    )


def judge_averages(ways: dict[str, Way], run: Run) -> None:
    """Averages of weights."""
    losses = {name: float(way.loss.mean()) for name, way in ways.items()}
    calibrated = {name: float(way.calibrated.mean()) for name, way in ways.items()}
    accuracies = {name: float(way.accuracy.mean()) for name, way in ways.items()}
    run.claim(
        "At a constant rate a running mean of the weights has a lower log loss than the "
        "last of them, at no cost; at the best temperatures no higher one",
        holds=losses[CONSTANT] > 1.02 * losses[AVERAGED]
        and calibrated[CONSTANT] > calibrated[AVERAGED],
        measured=f"{CONSTANT} {losses[CONSTANT]:.4f}, {AVERAGED} "
        f"{losses[AVERAGED]:.4f} (1.02 times wanted); at the best temperatures "
        f"{calibrated[CONSTANT]:.4f} and {calibrated[AVERAGED]:.4f}",
    )
    kept = accuracies[MEAN_SNAPSHOTS] - accuracies[COSINE]
    lost = accuracies[MEAN_WEIGHTS] - accuracies[COSINE]
    run.claim(
        "Weights can be averaged along one training only: the mean of its snapshots' "
        "weights is a network about as good as one, that of independent networks' "
        "weights is none",
        holds=kept > -0.02 and lost < -0.1,
        measured=f"accuracy: {COSINE} {accuracies[COSINE]:.3f}, {MEAN_SNAPSHOTS} "
        f"{accuracies[MEAN_SNAPSHOTS]:.3f} (at most 0.02 less), {MEAN_WEIGHTS} "
        f"{accuracies[MEAN_WEIGHTS]:.3f} (at least 0.1 less wanted)",
    )


def show_costs(ways: dict[str, Way], run: Run) -> None:
    head = f"{'':28}{'steps':>8}{'networks':>10}{'accuracy':>10}{'log loss':>10}"
    run.print(f"{head}{'calibrated':>12}")
    for name, way in ways.items():
        run.print(
            f"{name:28}{way.steps:8,}{way.networks:10}{way.accuracy.mean():10.2%}"
            f"{way.loss.mean():10.3f}{way.calibrated.mean():12.3f}"
        )
    accuracies = {name: way.accuracy.mean() for name, way in ways.items()}
    losses = {name: way.loss.mean() for name, way in ways.items()}
    calibrated = {name: way.calibrated.mean() for name, way in ways.items()}
    run.metric("test_accuracy", accuracies[INDEPENDENT])
    run.metrics("test_accuracy", accuracies)
    run.metrics("test_loss", losses, unit="nats")
    run.metrics("calibrated_loss", calibrated, unit="nats")


def draw_ways(ways: dict[str, Way]) -> plt.Figure:
    shown = {
        f"{name} ({way.steps:,} steps, {way.networks} at test)": way
        for name, way in ways.items()
        if name != MEAN_WEIGHTS
    }
    loss = figures.Panel(
        title="Log loss",
        xlabel="nats on test digits",
        bars={name: way.loss for name, way in shown.items()},
    )
    calibrated = figures.Panel(
        title="Log loss at the best temperature",
        xlabel="nats on test digits",
        bars={name: way.calibrated for name, way in shown.items()},
    )
    errors = figures.Panel(
        title="Error rate",
        xlabel="percent of test digits",
        bars={name: 100 * (1 - way.accuracy) for name, way in shown.items()},
    )
    figure = figures.panels(loss, calibrated, errors)
    for axes in figure.axes[1:]:
        axes.set_yticklabels([])
    figure.set_size_inches(14, 4.5)
    return figure


def draw_schedule(steps: int, config: Config) -> plt.Figure:
    factors = cyclic_cosine(np.arange(steps), steps, config.members)
    ends = steps // config.members * np.arange(1, config.members + 1) - 1
    panel = figures.Panel(
        title="Where the snapshots are taken",
        xlabel="step",
        ylabel="rate, of the first",
        lines={"cosine, anew in each cycle": (np.arange(steps), factors)},
        points={"snapshot": (ends, factors[ends])},
        ylim=(-0.05, 1.35),
    )
    return figures.panels(panel)


def main(config: Config, run: Run) -> None:
    run.plan(3)
    parts = load_parts(run)
    keras.utils.set_random_seed(run.seed)
    trained = train_all(parts, config, run)
    total = steps_of_a_training(parts, config)

    model = build_model()
    ways = compare_ways(model, trained, total, parts, config)
    disagreements = measure_disagreements(model, trained, ways, parts, config)
    show_costs(ways, run)
    judge_ensemble(ways, config, run)
    judge_snapshots(ways, disagreements, run)
    judge_averages(ways, run)
    run.figure("ways", draw_ways(ways))
    run.figure("schedule", draw_schedule(total, config))

    rows = trained.cosine.snapshots[-1, ways[INDEPENDENT].rate, : config.members]
    members = [build_model(f"member_{index}") for index in range(config.members)]
    for member, row in zip(members, rows, strict=True):
        stacks.set_weights(member, row)
    ensemble = build_ensemble(members)
    run.export(serving.classifier(ensemble), example=parts.held_out[-3:].numpy())


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
