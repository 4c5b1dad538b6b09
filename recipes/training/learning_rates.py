"""Learning rates: how to find one, and how to lower it.

Too low a rate crawls, too high a one jumps about above the bottom, and beyond that the
loss explodes. The range test finds the good ones in one short training: raise the rate
step by step, α·cᵗ, and see where the loss falls and where it turns up. A schedule
begins high, to get far, and ends low, to come to rest: exponential e⁻ᵏᵗ, 1/(1 + k·t),
halving every few epochs, a cosine; warm restarts jump up again, and a warm-up climbs
first, while gradients are still wild.
Look at the range test beside the losses that each constant rate ends with, and at what
a schedule does for momentum and for Adam.

Lectures: CS Learning rate decay; SEL Learning rate decay; N18 1.2.6 Tricks; ICME
    Hyperparameters
Paper: Smith, Cyclical learning rates for training neural networks, 2017 (section 3.3,
    the range test); Loshchilov and Hutter, SGDR: stochastic gradient descent with warm
    restarts, 2017 (equation 5)
Tags: learning rate schedule, decay, cosine, warm restarts, sgdr, warm-up, range test,
    lr finder
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    steps: Annotated[int, Interval(ge=100)] = 600
    """of each training"""
    starts: int = 4
    """networks of each kind"""
    rates: Annotated[int, Interval(ge=5)] = 9
    """learning rates that each schedule may start from"""
    batch_size: int = 32
    """examples a gradient is averaged over"""


QUICK = Config(steps=400, starts=2, rates=7)
FULL = Config(steps=3000, starts=10, rates=17)

# --------------------------------------------------------------------------------------
# The idea: the rate as a function of the step
# --------------------------------------------------------------------------------------

LAST = 0.01  # of the first rate, where a decay ends
HALVINGS = 8
WARM_UP = 0.1  # share of all steps
CYCLES = (1, 2, 4)  # lengths of the cycles between warm restarts

# Each function gives what the first rate is multiplied by at step 0, 1, ..., total − 1.
# steps: array.


def constant(steps: np.ndarray, total: int) -> np.ndarray:
    """A number as learning_rate."""
    return np.ones(len(steps))


def exponential(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.ExponentialDecay(rate, total, decay_rate=0.01)"""
    return np.exp(np.log(LAST) * steps / total)


def inverse_time(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.InverseTimeDecay(rate, total, decay_rate=99)"""
    speed = 1 / LAST - 1
    return 1 / (1 + speed * steps / total)


def halving(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.ExponentialDecay(rate, total / 8, decay_rate=0.5,
    staircase=True)"""
    return 0.5 ** np.floor(HALVINGS * steps / total)


def cosine(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.CosineDecay(rate, total)"""
    return (1 + np.cos(np.pi * steps / total)) / 2


def warm_restarts(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.CosineDecayRestarts(rate, total / 7, t_mul=2)"""
    factors = np.ones(len(steps))
    begin = 0.0
    for cycle in CYCLES:
        length = total * cycle / sum(CYCLES)
        within = steps >= begin
        factors[within] = cosine(steps[within] - begin, length)
        begin += length
    return factors


def warm_up(steps: np.ndarray, total: int) -> np.ndarray:
    """keras.optimizers.schedules.CosineDecay(0, decay_steps=0.9 * total,
    warmup_target=rate, warmup_steps=0.1 * total)"""
    climb = WARM_UP * total
    falling = cosine(steps - climb, total - climb)
    return np.where(steps < climb, steps / climb, falling)


SCHEDULES: dict[str, Callable] = {
    "constant": constant,
    "exponential": exponential,
    "1/t": inverse_time,
    "halving": halving,
    "cosine": cosine,
    "warm restarts": warm_restarts,
    "warm-up, cosine": warm_up,
}


def rising(steps: np.ndarray, low: float, high: float) -> np.ndarray:
    """The range test's rates: from low to high, each step by the same factor."""
    return low * (high / low) ** (steps / (len(steps) - 1))


def pick_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate at which the loss of a range test was lowest.

    rates, losses: (steps,), the losses those of the batches before each step. They are
    averaged over a tenth of the steps, as batches differ.
    """
    width = max(1, len(losses) // 10)
    weights = np.ones(width) / width
    smooth = np.convolve(losses, weights, mode="valid")
    lowest = np.argmin(smooth) + width // 2
    return float(rates[lowest] / 10)


def build_model() -> keras.Model:
    """A small network for digits. Input: (batch, 64). Output: (batch, 10) logits."""
    x = keras.Input((64,), name="x")
    hidden = layers.Dense(64, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name="digits")


# --------------------------------------------------------------------------------------
# The experiment: constant rates, the range test, and schedules
# --------------------------------------------------------------------------------------

STEPS_PER_CALL = 50
NOISE = 0.4  # standard deviation, of pixels in [0, 1]
MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
LOWEST = {"momentum": 1e-4, "Adam": 1e-5}
HIGHEST = {"momentum": 10.0, "Adam": 1.0}
FAR_OFF = 50  # times the best rate, and a part of it: what is too high and too low
WORST = 1e3  # nats; what is worse, or no number, counts as this


@tf.function(jit_compile=True)
def train_some(model, rows, memory, first_step, rates, batches, x, y, is_adam, noise):
    """A step of all networks on each batch, each at its own rate.

    rows: variable (networks, weights). memory: two variables of that shape. rates:
    (steps, networks). batches: (steps, batch size) rows of x and y. noise: standard
    deviation. Returns the losses of the batches before each step, (steps, networks).
    """
    count = batches.shape[0]
    losses = tf.TensorArray("float32", size=count)
    for index in tf.range(count):
        images = tf.gather(x, batches[index])
        # Fresh noise keeps the gradients of the batches apart to the end, as they are
        # where there is much to learn.
        seed = tf.stack([first_step + index, 0])
        images += noise * tf.random.stateless_normal(tf.shape(images), seed)
        batch = images, tf.gather(y, batches[index])
        losses = losses.write(index, stacks.losses(model, rows, *batch))
        gradients = stacks.gradients(model, rows, *batch)
        if is_adam:
            step = tf.cast(first_step + index + 1, "float32")
            direction = adam(gradients, memory, step)
        else:
            memory[0].assign(MOMENTUM * memory[0] + gradients)
            direction = memory[0]
        rows.assign_sub(rates[index][:, tf.newaxis] * direction)
    return losses.stack()


def adam(gradients, memory, step):
    mean, squares = memory
    mean.assign(BETA_1 * mean + (1 - BETA_1) * gradients)
    squares.assign(BETA_2 * squares + (1 - BETA_2) * gradients**2)
    unbiased_mean = mean / (1 - BETA_1**step)
    unbiased_squares = squares / (1 - BETA_2**step)
    return unbiased_mean / (tf.sqrt(unbiased_squares) + EPSILON)


@dataclass
class Trained:
    """Networks that trained at once."""

    batch_losses: np.ndarray
    """before each step, (steps, networks)"""
    validation: np.ndarray
    """loss on images to choose by, after each call, (calls, networks)"""
    test: np.ndarray
    """loss on images to report, at the end, (networks,)"""
    rows: np.ndarray
    """weights, (networks, weights)"""


def train(
    name: str,
    optimizer: str,
    rates: np.ndarray,
    parts,
    config: Config,
    run: Run,
    noise: float = NOISE,
) -> Trained:
    """rates: (steps, networks). Networks i, i + starts, i + 2·starts, ... have the same
    start, and all the same batches."""
    (x, y), valid, test = parts
    random = np.random.default_rng(run.seed)
    keras.utils.set_random_seed(run.seed)
    model = build_model()
    starts = [stacks.row_of(build_model()) for _ in range(config.starts)]
    steps, networks = rates.shape
    rows = tf.Variable(np.tile(starts, (networks // config.starts, 1)))
    memory = [tf.Variable(tf.zeros_like(rows)) for _ in range(2)]
    calls = steps // STEPS_PER_CALL
    batch_losses = np.zeros((calls, STEPS_PER_CALL, networks), "float32")
    validation = np.zeros((calls, networks), "float32")

    losses_of = tf.function(partial(stacks.losses, model), jit_compile=True)

    state = {"all": [rows, memory, batch_losses, validation, random]}
    for call in run.loop(f"{networks} networks, {name}", calls, state, unit="calls"):
        first = call * STEPS_PER_CALL
        batches = [
            random.choice(len(x), config.batch_size, replace=False)
            for _ in range(STEPS_PER_CALL)
        ]
        batch_losses[call] = train_some(
            model,
            rows,
            memory,
            tf.constant(first),
            tf.constant(rates[first : first + STEPS_PER_CALL], "float32"),
            tf.constant(batches),
            x,
            y,
            optimizer == "Adam",
            tf.constant(noise, "float32"),
        )
        validation[call] = losses_of(rows, *valid)
    return Trained(
        stacks.bounded(batch_losses.reshape(-1, networks), WORST),
        stacks.bounded(validation, WORST),
        stacks.bounded(losses_of(rows, *test), WORST),
        rows.numpy(),
    )


def load_parts(run: Run):
    """Digits to train on, to choose by and to report."""
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    rows = np.random.default_rng(run.seed).permutation(len(x))
    held_out, rest = np.split(rows, [len(x) // 5])
    return [
        (tf.constant(a), tf.constant(b))
        for a, b in ((x[rest], y[rest]), (x[held_out], y[held_out]), (x_test, y_test))
    ]


def grid(optimizer: str, count: int) -> np.ndarray:
    low = LOWEST[optimizer]
    high = HIGHEST[optimizer]
    return np.logspace(np.log10(low), np.log10(high), count)


@dataclass
class Scheduled:
    """One optimizer under schedules from all first rates."""

    names: list[str]
    """of the schedules"""
    rates: np.ndarray
    """(rates,)"""
    trained: Trained
    shape: tuple[int, int, int]
    """schedules, rates, starts"""

    def validation(self) -> np.ndarray:
        """At the end, (schedules, rates, starts)."""
        return self.trained.validation[-1].reshape(self.shape)

    def tests(self) -> np.ndarray:
        """Losses on the images to report, (schedules, rates, starts)."""
        return self.trained.test.reshape(self.shape)

    def chosen(self, name: str) -> int:
        """The place of the first rate that validates best under a schedule."""
        index = self.names.index(name)
        return int(self.validation()[index].mean(axis=-1).argmin())

    def test(self, name: str) -> np.ndarray:
        """Losses at that rate on the images to report, (starts,)."""
        index = self.names.index(name)
        return self.tests()[index, self.chosen(name)]

    def batches(self, name: str) -> np.ndarray:
        """Losses of the batches at that rate, (steps, starts)."""
        index = self.names.index(name)
        losses = self.trained.batch_losses.reshape(-1, *self.shape)
        return losses[:, index, self.chosen(name)]


def train_schedules(
    optimizer: str,
    parts,
    config: Config,
    run: Run,
    names: tuple[str, ...] = tuple(SCHEDULES),
    noise: float = NOISE,
) -> Scheduled:
    first = grid(optimizer, config.rates)
    total = config.steps - config.steps % STEPS_PER_CALL
    steps = np.arange(total)
    factors = np.stack([SCHEDULES[name](steps, total) for name in names], axis=1)
    rates = factors[:, :, np.newaxis] * first
    rates = np.repeat(rates.reshape(total, -1), config.starts, axis=1)
    title = optimizer if noise else f"{optimizer}, no noise"
    trained = train(title, optimizer, rates, parts, config, run, noise)
    shape = len(names), len(first), config.starts
    return Scheduled(list(names), first, trained, shape)


@dataclass
class RangeTest:
    """One short training of momentum while the rate rises."""

    rates: np.ndarray
    """(steps,)"""
    losses: np.ndarray
    """of the batches before each step, (steps, networks)"""

    @property
    def picked(self) -> float:
        return pick_rate(self.rates, self.losses.mean(axis=1))


def test_range(low: float, high: float, parts, config: Config, run: Run) -> RangeTest:
    """Half as long as a training."""
    total = max(config.steps // 2 // STEPS_PER_CALL, 2) * STEPS_PER_CALL
    rates = rising(np.arange(total), low, high)
    of_each = np.repeat(rates[:, np.newaxis], config.starts, axis=1)
    name = f"range test from {low:g}"
    trained = train(name, "momentum", of_each, parts, config, run)
    return RangeTest(rates, trained.batch_losses)


def judge_range(
    tested: RangeTest, moved: RangeTest, scheduled: Scheduled, parts, config, run: Run
) -> None:
    """Trains at the rate that the test picked. moved: a test of another range."""
    total = config.steps - config.steps % STEPS_PER_CALL
    of_each = np.full((total, config.starts), tested.picked)
    trained = train("at the rate picked", "momentum", of_each, parts, config, run)
    best = float(scheduled.test("constant").mean())
    found = float(trained.test.mean())
    run.metric("rate_picked", tested.picked)
    run.metric("rate_best_of_grid", scheduled.rates[scheduled.chosen("constant")])
    run.claim(
        "The range test finds the size of rate that a grid of whole trainings does, at a "
        "part of the steps; at the rate picked the test loss is at most half above that "
        "of the best",
        holds=found < 1.5 * best,
        measured=f"test loss {found:.3f} at {tested.picked:.2g}, which took "
        f"{len(tested.rates)} steps; {best:.3f} at the best of {len(scheduled.rates)} "
        f"rates, which took {len(scheduled.rates) * total}",
    )
    # The best rate happens to lie in the middle of the range that is tested.
    apart = max(tested.picked, moved.picked) / min(tested.picked, moved.picked)
    run.claim(
        "It picks much the same rate from a range ten times as high",
        at_most=2.5,
        measured={"times apart": apart},
    )


def judge_constant(scheduled: Scheduled, run: Run) -> dict[str, int]:
    """The four curves of the lecture; returns their places among the rates."""
    rates = scheduled.rates
    good = scheduled.chosen("constant")
    places = {
        "too low": nearest(rates, rates[good] / FAR_OFF),
        "good": good,
        "high": nearest(rates, rates[good] * np.sqrt(FAR_OFF)),
        "too high": nearest(rates, rates[good] * FAR_OFF),
    }
    losses = scheduled.tests()[0].mean(axis=-1)
    run.claim(
        f"Rates have an optimum: about a {FAR_OFF}th of the rate crawls, about {FAR_OFF} "
        "times it learns nothing (a guess costs ln 10 = 2.3 nats)",
        holds=losses[places["too low"]] > 1.5 * losses[good]
        and losses[places["too high"]] > 2,
        measured="test loss in nats: "
        + ", ".join(
            f"{name} {rates[place]:.2g}: {losses[place]:.3g}"
            for name, place in places.items()
        ),
    )
    return places


def nearest(rates: np.ndarray, wanted: float) -> int:
    """The place of the rate that is nearest, in proportion."""
    return int(np.argmin(np.abs(np.log(rates / wanted))))


def judge_schedules(
    scheduled: dict[str, Scheduled], without_noise: Scheduled, run: Run
) -> None:
    """without_noise: momentum on the same images each time, whose gradients agree."""
    gains = {}
    for optimizer, found in scheduled.items():
        tests = {name: float(found.test(name).mean()) for name in SCHEDULES}
        run.metrics(f"test_loss_{optimizer.lower()}", tests)
        gains[optimizer] = 1 - tests["cosine"] / tests["constant"]
    momentum = scheduled["momentum"]
    run.compare(
        "A rate that falls to zero ends lower than the best constant one (momentum)",
        {name: momentum.test(name).mean() for name in ("constant", "cosine")},
        more="constant",
        less="cosine",
        times=1.05,
    )
    constant = without_noise.test("constant").mean()
    gains["momentum without noise"] = 1 - without_noise.test("cosine").mean() / constant
    run.claim(
        "It averages out the noise of gradients: where none is added to the images, it "
        "gains less",
        holds=gains["momentum without noise"] < gains["momentum"] - 0.02,
        measured=f"test loss saved by the cosine: with noise {gains['momentum']:.1%}, "
        f"without {gains['momentum without noise']:.1%} (at least 2 points less wanted)",
    )
    run.claim(
        "Adam gains by it as well",
        holds=gains["Adam"] > 0.02,
        measured="test loss saved by the cosine: "
        + ", ".join(f"{name} {gains[name]:.1%}" for name in scheduled),
    )

    restarted = rise_at_restart(momentum.batches("warm restarts"))
    control = rise_at_restart(momentum.batches("cosine"))
    run.compare(
        "A warm restart leaves where the training had come to rest: the loss rises, which "
        "a cosine's does not by then",
        {"warm restart": restarted, "cosine": control},
        more="warm restart",
        less="cosine",
        times=1.1,
    )


def rise_at_restart(losses: np.ndarray) -> float:
    """Loss after the second restart, of that before. losses: (steps, starts)."""
    losses = losses.mean(axis=1)
    restart = len(losses) * sum(CYCLES[:2]) // sum(CYCLES)
    width = len(losses) // 24
    before = losses[restart - width : restart].mean()
    after = losses[restart + width : restart + 3 * width].mean()
    return float(after / before)


def draw_constant(scheduled: Scheduled, places: dict[str, int]) -> figures.Panel:
    """Loss by step at the four rates."""
    validation = scheduled.trained.validation.reshape(-1, *scheduled.shape)
    calls = STEPS_PER_CALL * np.arange(1, len(validation) + 1)
    lines = {
        f"{name}: {scheduled.rates[place]:.2g}": (calls, validation[:, 0, place])
        for name, place in places.items()
    }
    return figures.Panel(
        title="Constant rates",
        xlabel="step",
        ylabel="validation loss (nats)",
        lines=lines,
        yscale="log",
    )


def draw_range(tested: RangeTest, scheduled: Scheduled) -> figures.Panel:
    return figures.Panel(
        title=f"The range test picks {tested.picked:.2g}",
        xlabel="learning rate",
        ylabel="loss (nats)",
        lines={
            "range test, batches": (tested.rates, np.minimum(tested.losses, 10)),
            "whole trainings, validation": (
                scheduled.rates,
                np.minimum(scheduled.validation()[0], 10),
            ),
        },
        xscale="log",
        yscale="log",
    )


def draw_schedules() -> plt.Figure:
    steps = np.arange(200)
    return figures.curves(
        {name: each(steps, 200) for name, each in SCHEDULES.items()},
        title="Schedules",
        xlabel="step, of 200",
        ylabel="rate, of the first",
    )


def draw_losses(scheduled: dict[str, Scheduled]) -> plt.Figure:
    shown = [
        figures.Panel(
            title=f"{optimizer}, each at its best first rate",
            xlabel="test loss (nats)",
            bars={name: found.test(name) for name in SCHEDULES},
        )
        for optimizer, found in scheduled.items()
    ]
    return figures.panels(*shown)


def best_model(scheduled: Scheduled, name: str) -> keras.Model:
    """One of those that trained under a schedule, at its rate."""
    index = scheduled.names.index(name)
    networks = scheduled.trained.rows.reshape(*scheduled.shape, -1)
    model = build_model()
    stacks.set_weights(model, networks[index, scheduled.chosen(name), 0])
    return model


def main(config: Config, run: Run) -> None:
    run.plan(6)
    parts = load_parts(run)
    scheduled = {
        optimizer: train_schedules(optimizer, parts, config, run)
        for optimizer in LOWEST
    }
    momentum = scheduled["momentum"]
    model = best_model(momentum, "cosine")
    x_test, y_test = parts[2]
    answers = np.argmax(model(x_test), axis=1)
    run.metric("test_accuracy", np.mean(answers == y_test))

    without_noise = train_schedules(
        "momentum", parts, config, run, names=("constant", "cosine"), noise=0.0
    )
    low = LOWEST["momentum"]
    high = HIGHEST["momentum"]
    tested = test_range(low, high, parts, config, run)
    moved = test_range(10 * low, 10 * high, parts, config, run)
    places = judge_constant(momentum, run)
    judge_range(tested, moved, momentum, parts, config, run)
    judge_schedules(scheduled, without_noise, run)
    constant_rates = draw_constant(momentum, places)
    by_rate = draw_range(tested, momentum)
    run.figure("rates", figures.panels(constant_rates, by_rate))
    run.figure("schedules", draw_schedules())
    run.figure("losses", draw_losses(scheduled))

    run.export(serving.classifier(model), example=x_test[:3].numpy())


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
