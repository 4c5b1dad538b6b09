"""Mini-batches: how many examples a gradient should be averaged over.

The gradient of a mini-batch, g = 1/B·Σ∇Lᵢ, is right on average and off by chance: its
noise falls as 1/√B, while its cost grows as B. So four times the images halve the
noise. Where examples resemble each other a few stand for all: of 1,200 copies of each
image, 1,199 teach nothing. How many images a gradient needs until its noise is as large
as itself, tr(Σ)/|G|², says how alike they are, and rises as the network learns.
Look at the noise by batch size, and at the steps, images and seconds that each size
takes to the same loss, at the learning rate that suits it.

Lectures: CS Optimization; N18 1.2.6 Tricks; INFO 5 Training; ICME Hyperparameters
Paper: Robbins and Monro, A stochastic approximation method, 1951; McCandlish et al., An
    empirical model of large-batch training, 2018 (the simple noise scale)
Tags: batch size, sgd, gradient noise, stochastic gradient descent, noise scale, powers
    of two, linear scaling rule
"""

import time
from dataclasses import dataclass
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
    starts: int = 5
    """networks for each batch size and learning rate"""
    looks: int = 60
    """how often each is measured while it trains"""
    draws: Annotated[int, Interval(ge=10)] = 500
    """mini-batches that the noise of each size is measured on"""
    copies: Annotated[int, Interval(ge=2, le=10_000)] = 1200
    """of each duplicated digit"""
    repeats: int = 30
    """times that each duration is measured; the shortest counts"""


QUICK = Config(starts=1, looks=30, draws=100, repeats=20)
FULL = Config(starts=20, looks=100, draws=5000, repeats=100)

# --------------------------------------------------------------------------------------
# The idea: the gradient of a few examples in place of all
# --------------------------------------------------------------------------------------


def epoch_of_batches(
    examples: int, batch_size: int, random: np.random.Generator
) -> list[np.ndarray]:
    """Rows of the examples, each in one of the batches, in random order. The last batch
    is smaller where the size does not divide the examples.

    `model.fit(x, y, batch_size=..., shuffle=True)` draws the same way.
    """
    order = random.permutation(examples)
    return [
        order[first : first + batch_size] for first in range(0, examples, batch_size)
    ]


def mini_batch_step(network: keras.Model, x, y, learning_rate: float) -> None:
    """Steps down the gradient of a mini-batch's mean loss. x: (batch, inputs). y:
    (batch,) labels. With all examples in it this is gradient descent.

    Keras: network.compile(keras.optimizers.SGD(learning_rate), loss), then
    network.train_on_batch(x, y).
    """
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses_of_examples(network, x, y))
    gradients = tape.gradient(loss, network.trainable_variables)
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        variable.assign_sub(learning_rate * gradient)


def losses_of_examples(network: keras.Model, x, y) -> tf.Tensor:
    """Cross-entropy in nats, (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, network(x))


@tf.function
def gradient(network: keras.Model, x, y) -> tf.Tensor:
    """The gradient of the mean loss by all weights, (weights,)."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses_of_examples(network, x, y))
    gradients = tape.gradient(loss, network.trainable_variables)
    return tf.concat([tf.reshape(each, [-1]) for each in gradients], axis=0)


@tf.function
def gradients_of_examples(network: keras.Model, x, y) -> tf.Tensor:
    """The gradient of each example's loss, (examples, weights). That of a mini-batch is
    the mean of its rows."""
    with tf.GradientTape() as tape:
        losses = losses_of_examples(network, x, y)
    jacobians = tape.jacobian(losses, network.trainable_variables)
    return tf.concat([tf.reshape(each, [len(x), -1]) for each in jacobians], axis=1)


def gradient_noise(gradients: np.ndarray, batches: np.ndarray) -> float:
    """How far the gradients of mini-batches lie from that of all examples, of that
    one's length: the root of the mean square.

    gradients: (examples, weights). batches: (draws, batch size) rows of them.
    """
    whole = gradients.mean(axis=0)
    draws, batch_size = batches.shape
    # How often each example is in each batch: one product gives all means.
    counts = [np.bincount(batch, minlength=len(gradients)) for batch in batches]
    means = np.array(counts, "float32") @ gradients / batch_size
    mean_square = np.sum((means - whole) ** 2) / draws
    return float(np.sqrt(mean_square) / np.linalg.norm(whole))


def noise_scale(gradients: np.ndarray) -> float:
    """The batch size of which the noise is as large as the gradient itself: tr(Σ)/|G|².

    gradients: (examples, weights).
    """
    whole = gradients.mean(axis=0)
    total_variance = gradients.var(axis=0).sum()
    return float(total_variance / (whole @ whole))


def build_network(inputs: int = 64, classes: int = 10) -> keras.Model:
    """A small network. Input: (batch, inputs). Output: (batch, classes) logits."""
    x = keras.Input((inputs,), name="x")
    hidden = layers.Dense(64, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="digits")


# --------------------------------------------------------------------------------------
# The experiment: duplicates, noise, and the way to a loss by batch size
# --------------------------------------------------------------------------------------

EXAMPLES = 1024  # to train on
ORIGINALS = 100  # of which the duplicated data consist
STEPS_PER_LOOK = {1: 50, 4: 20, 16: 10, 64: 5, 256: 3, EXAMPLES: 3}  # by batch size
LEARNING_RATES = 2.0 ** np.arange(-7, 3)
WANTED_LOSS = 0.25  # nats, on held-out digits: where a training has arrived
WORST = 1e3  # nats; what is worse, or no number, counts as this
NOISE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TIMED_TOGETHER = 20  # steps
AROUND_POWERS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)


@dataclass
class Parts:
    """Digits to train on, to choose by and to report."""

    x: tf.Tensor
    y: tf.Tensor
    x_valid: tf.Tensor
    y_valid: tf.Tensor
    x_test: tf.Tensor
    y_test: tf.Tensor


def load_parts(seed: int) -> Parts:
    (x, y), (x_test, y_test) = data.load_vectors("digits")
    rows = np.random.default_rng(seed).permutation(len(x))
    train, valid = np.split(rows, [EXAMPLES])
    arrays = x[train], y[train], x[valid], y[valid], x_test, y_test
    return Parts(*map(tf.constant, arrays))


class Stack:
    """Networks from several starts at all learning rates, which train at once."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self.parts = parts
        self.network = build_network()
        starts = [stacks.row_of(build_network()) for _ in range(config.starts)]
        self.shape = len(LEARNING_RATES), config.starts
        self.first = np.tile(starts, (len(LEARNING_RATES), 1)).astype("float32")
        self.rows = tf.Variable(self.first)
        rates = np.repeat(LEARNING_RATES, config.starts)
        self.rates = tf.constant(rates[:, np.newaxis], "float32")

    # Batches of any size without a trace of their own.
    @tf.function(input_signature=[tf.TensorSpec((None, None), "int64")])
    def train_some(self, batches):
        """A step of all networks on each batch, rows of the digits to train on."""
        for batch in batches:
            x = tf.gather(self.parts.x, batch)
            y = tf.gather(self.parts.y, batch)
            gradients = stacks.gradients(self.network, self.rows, x, y)
            self.rows.assign_sub(self.rates * gradients)

    @tf.function
    def held_out(self):
        """Losses on the digits to choose by, and on those to report, (2, networks)."""
        parts = self.parts
        return tf.stack(
            [
                stacks.losses(self.network, self.rows, parts.x_valid, parts.y_valid),
                stacks.losses(self.network, self.rows, parts.x_test, parts.y_test),
            ]
        )

    def losses(self) -> np.ndarray:
        """As `held_out`, (2, rates, starts)."""
        found = self.held_out().numpy().reshape(2, *self.shape)
        return stacks.bounded(found, WORST)


@dataclass
class Trained:
    """Networks of one batch size, by learning rate and start."""

    batch_size: int
    losses: np.ndarray
    """on the digits to choose by and on those to report, (looks, 2, rates, starts)"""
    rows: np.ndarray
    """weights at the end, (rates, starts, weights)"""
    seconds_per_step: float = 0.0
    """of one network"""

    def steps_to_loss(self) -> np.ndarray:
        """(2, rates, starts). What does not arrive counts as all steps and one more
        look."""
        per_look = STEPS_PER_LOOK[self.batch_size]
        never = np.ones((1, *self.losses.shape[1:]), bool)
        arrived = np.concatenate([self.losses < WANTED_LOSS, never])
        return per_look * (1 + arrived.argmax(axis=0))

    def chosen(self) -> int:
        """The place of the learning rate that validation digits prefer."""
        return int(self.steps_to_loss()[0].mean(axis=1).argmin())

    @property
    def learning_rate(self) -> float:
        return float(LEARNING_RATES[self.chosen()])

    @property
    def steps(self) -> float:
        """to the wanted test loss, at the rate chosen"""
        return float(self.steps_to_loss()[1, self.chosen()].mean())

    @property
    def images(self) -> float:
        return self.steps * self.batch_size

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_per_step


def train(
    stack: Stack, batch_size: int, name: str, config: Config, run: Run
) -> Trained:
    random = np.random.default_rng([run.seed, batch_size])
    per_look = STEPS_PER_LOOK[batch_size]
    batches: list[np.ndarray] = []
    while len(batches) < config.looks * per_look:
        batches += epoch_of_batches(EXAMPLES, batch_size, random)

    stack.rows.assign(stack.first)
    losses = np.full((config.looks, 2, *stack.shape), WORST)
    state = {"all": [stack.rows, losses]}
    for look in run.loop(f"batches of {name}", config.looks, state, unit="looks"):
        some = batches[look * per_look : (look + 1) * per_look]
        stack.train_some(tf.constant(np.array(some)))
        losses[look] = stack.losses()
    return Trained(batch_size, losses, stack.rows.numpy().reshape(*stack.shape, -1))


def seconds_of_steps(
    sizes: list[int], config: Config, run: Run
) -> dict[int, np.ndarray]:
    """What a step of one network takes, by batch size, (repeats,). They take turns, so
    that other work on the machine troubles all of them alike."""
    network = build_network()
    images = tf.TensorSpec((None, 64), "float32")
    labels = tf.TensorSpec((None,), "int64")

    @tf.function(input_signature=[images, labels])
    def some_steps(x, y):
        for _ in tf.range(TIMED_TOGETHER):
            mini_batch_step(network, x, y, learning_rate=1e-6)

    random = np.random.default_rng(run.seed)
    batches = {}
    for size in sizes:
        x = tf.constant(random.uniform(size=(size, 64)), "float32")
        batches[size] = x, tf.constant(random.integers(10, size=size))
        some_steps(*batches[size])

    durations = {size: np.zeros(config.repeats) for size in sizes}
    for turn in run.track(range(config.repeats), "durations"):
        for size, batch in batches.items():
            started = time.perf_counter()
            some_steps(*batch)
            duration = time.perf_counter() - started
            durations[size][turn] = duration / TIMED_TOGETHER
    return durations


def judge_copies(stack: Stack, config: Config, run: Run) -> None:
    """A gradient of many copies, and what one pass over them is worth."""
    network = stack.network
    stacks.set_weights(network, stack.first[0])
    x = stack.parts.x[:ORIGINALS]
    y = stack.parts.y[:ORIGINALS]
    x_copies = tf.tile(x, (config.copies, 1))
    y_copies = tf.tile(y, (config.copies,))
    one, seconds_of_one = timed_gradient(network, x, y)
    many, seconds_of_many = timed_gradient(network, x_copies, y_copies)
    difference = np.linalg.norm(many - one) / np.linalg.norm(one)
    times = seconds_of_many / seconds_of_one
    run.metric("cost_of_copies", times, unit="times", timing=True)
    run.claim(
        "Duplicates teach nothing: their gradient is that of the originals, at many "
        "times the cost",
        holds=difference < 1e-3 and times > config.copies / 60,
        measured=f"{config.copies:,} copies of {ORIGINALS} digits: gradients differ by "
        f"{difference:.1e} of their length and take {times:.0f} times as long",
    )

    # One pass in one batch: a single step, of any length.
    stack.rows.assign(stack.first - stack.rates * many)
    in_one = stack.losses()
    # The same pass in mini-batches. Row r of the copies is digit r modulo ORIGINALS.
    stack.rows.assign(stack.first)
    random = np.random.default_rng(run.seed)
    order = epoch_of_batches(config.copies * ORIGINALS, ORIGINALS, random)
    stack.train_some(tf.constant(np.array(order) % ORIGINALS))
    in_many = stack.losses()
    run.compare(
        f"A pass over all copies is one step as one batch; in batches of {ORIGINALS} it "
        "is a training",
        {"one batch": test_loss(in_one), "mini-batches": test_loss(in_many)},
        more="one batch",
        less="mini-batches",
        times=1.5,
    )


def timed_gradient(network: keras.Model, x, y) -> tuple[np.ndarray, float]:
    durations = []
    for _ in range(5):
        started = time.perf_counter()
        found = gradient(network, x, y).numpy()
        durations.append(time.perf_counter() - started)
    return found, min(durations)


def test_loss(losses: np.ndarray) -> float:
    """At the learning rate that validates best. losses: (2, rates, starts)."""
    valid, test = losses.mean(axis=2)
    return float(test[valid.argmin()])


@dataclass
class Noise:
    """Of a network's gradients by batch size, (sizes,)."""

    independent: list[float]
    """examples drawn one by one from all"""
    within_epoch: list[float]
    """each example at most once"""
    one_class: list[float]
    """all of a batch from one class, as in data that is sorted and not shuffled"""


def measure_noise(gradients: np.ndarray, y, config: Config, run: Run) -> Noise:
    random = np.random.default_rng(run.seed)
    noise = Noise([], [], [])
    of_classes = [np.flatnonzero(y == label) for label in range(10)]
    for size in run.track(NOISE_SIZES, "noise by batch size"):
        shape = config.draws, size
        drawn = random.integers(len(gradients), size=shape)
        noise.independent.append(gradient_noise(gradients, drawn))
        # The first of as many shuffled epochs.
        shuffled = [random.permutation(len(gradients))[:size] for _ in range(shape[0])]
        noise.within_epoch.append(gradient_noise(gradients, np.array(shuffled)))
        classes = random.integers(10, size=shape[0])
        alike = [random.choice(of_classes[label], size) for label in classes]
        noise.one_class.append(gradient_noise(gradients, np.array(alike)))
    return noise


def exponent(noise: list[float]) -> float:
    """k of noise ∝ sizeᵏ: the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(NOISE_SIZES), np.log(noise), 1)[0])


def judge_noise(noise: Noise, run: Run) -> None:
    found = exponent(noise.independent)
    of_one_class = exponent(noise.one_class)
    run.metric("noise_exponent", found)
    run.metric("noise_exponent_one_class", of_one_class)
    run.claim(
        "Noise falls as one by the root of the batch size, if examples are drawn at "
        "random",
        holds=abs(found + 0.5) < 0.04 and of_one_class > -0.25,
        measured=f"as size to the power {found:.3f}; batches of one class each, as in "
        f"sorted data, {of_one_class:.3f}",
    )


def judge_noise_scale(stack: Stack, row: np.ndarray, run: Run) -> np.ndarray:
    """row: the weights of a trained network. Returns the gradients of an untrained
    one."""
    x, y = stack.parts.x, stack.parts.y
    network = stack.network
    stacks.set_weights(network, stack.first[0])
    before = gradients_of_examples(network, x, y).numpy()
    # It gives all classes the same, so that what the gradients share is in the labels.
    undecided = network.layers[-1]
    undecided.set_weights([np.zeros_like(each) for each in undecided.get_weights()])
    random = np.random.default_rng(run.seed)
    any_labels = tf.constant(random.permutation(y))
    scales = {
        "labels": noise_scale(gradients_of_examples(network, x, y).numpy()),
        "labels shuffled": noise_scale(
            gradients_of_examples(network, x, any_labels).numpy()
        ),
    }
    stacks.set_weights(network, row)
    scales["untrained"] = noise_scale(before)
    scales["trained"] = noise_scale(gradients_of_examples(network, x, y).numpy())
    run.metrics("noise_scale", scales, unit="images")
    run.compare(
        "A few digits speak for all, as those of a class are alike: with shuffled labels "
        "it takes many more until the gradient stands out of the noise",
        {name: scales[name] for name in ("labels", "labels shuffled")},
        more="labels shuffled",
        less="labels",
        times=5,
    )
    run.compare(
        "As the network learns, what the examples agree on is spent and noise is left",
        {name: scales[name] for name in ("untrained", "trained")},
        more="trained",
        less="untrained",
        times=1.5,
    )
    return before


def judge_sizes(trained: dict[str, Trained], run: Run) -> None:
    steps = {name: each.steps for name, each in trained.items()}
    images = {name: each.images for name, each in trained.items()}
    seconds = {name: each.seconds for name, each in trained.items()}
    rates = {name: each.learning_rate for name, each in trained.items()}
    run.metrics("steps_to_loss", steps)
    run.metrics("images_to_loss", images)
    run.metrics("seconds_to_loss", seconds, unit="s", timing=True)
    run.metrics("learning_rate", rates)
    run.compare(
        "Larger batches need fewer steps",
        {"1 image": steps["1"], "64 images": steps["64"]},
        more="1 image",
        less="64 images",
        times=5,
    )
    run.claim(
        "But not for long: from there to all images the steps do not even halve",
        holds=steps["all"] > steps["64"] / 2,
        measured=f"64 images {steps['64']:.0f} steps, all {EXAMPLES} {steps['all']:.0f}",
    )
    run.compare(
        "So a loss costs many times the images if each step looks at all of them",
        {"all": images["all"], "16 images": images["16"]},
        more="all",
        less="16 images",
        times=5,
    )
    run.compare(
        "A higher learning rate suits larger batches (that of the fewest steps)",
        {"256 images": rates["256"], "1 image": rates["1"]},
        more="256 images",
        less="1 image",
        times=3,
    )
    middle = min(("16", "64", "256"), key=seconds.get)
    run.claim(
        "In seconds the quickest is neither one image nor all, but in between",
        holds=1.3 * seconds[middle] < min(seconds["1"], seconds["all"]),
        measured=", ".join(f"{name}: {1000 * t:.1f}" for name, t in seconds.items())
        + f" milliseconds; {middle} is best (the ends have to take 1.3 times as long)",
    )


def judge_powers(durations: dict[int, np.ndarray], run: Run) -> None:
    """Each power of two against its neighbors, one image less and one more, of the same
    turn: what else the machine does troubles all three."""
    gains = {}
    for size in AROUND_POWERS[1::3]:
        less = durations[size - 1] / (size - 1)
        more = durations[size + 1] / (size + 1)
        of_turns = np.sqrt(less * more) * size / durations[size]
        gains[f"{size}"] = float(np.median(of_turns))
    run.metrics("speed_of_powers_of_two", gains, unit="times", timing=True)
    middle = float(np.median(list(gains.values())))
    run.claim(
        "Powers of two gain nothing to speak of over their neighbors here",
        holds=middle < 1.3,
        measured="images per second, of the mean of one more and one less: "
        + ", ".join(f"{size} {gain:.2f}" for size, gain in gains.items())
        + f" (median {middle:.2f}, at most 1.3)",
    )


def draw_noise(noise: Noise) -> plt.Figure:
    sizes = np.array(NOISE_SIZES)
    panel = figures.Panel(
        title="Noise of a mini-batch's gradient",
        xlabel="batch size",
        ylabel="of the gradient's length",
        lines={
            "drawn from all": (sizes, noise.independent),
            "within an epoch": (sizes, noise.within_epoch),
            "of one class": (sizes, noise.one_class),
            "1/√size": (sizes, noise.independent[0] / np.sqrt(sizes)),
        },
        xscale="log",
        yscale="log",
        xticks=NOISE_SIZES[::3],
    )
    return figures.panels(panel)


def draw_sizes(trained: dict[str, Trained]) -> plt.Figure:
    sizes = np.array([each.batch_size for each in trained.values()])
    measured = {
        "Steps": [each.steps for each in trained.values()],
        "Images": [each.images for each in trained.values()],
        "Milliseconds": [1000 * each.seconds for each in trained.values()],
    }
    shown = [
        figures.Panel(
            title=name,
            xlabel="batch size",
            lines={f"to a loss of {WANTED_LOSS}": (sizes, np.array(values))},
            xscale="log",
            yscale="log",
            xticks=(1, 16, 256),
        )
        for name, values in measured.items()
    ]
    return figures.panels(*shown, title="Each batch size at the rate that suits it")


def draw_rates(trained: dict[str, Trained]) -> plt.Figure:
    """Steps by learning rate, and the losses at the best of them by images seen."""
    steps, losses = {}, {}
    for name, each in trained.items():
        steps[name] = (LEARNING_RATES, each.steps_to_loss()[1].mean(axis=1))
        looks = np.arange(1, len(each.losses) + 1)
        images = each.batch_size * STEPS_PER_LOOK[each.batch_size] * looks
        losses[name] = (images, each.losses[:, 1, each.chosen()].mean(axis=1))
    by_rate = figures.Panel(
        title=f"Steps to a loss of {WANTED_LOSS}",
        xlabel="learning rate",
        ylabel="steps (at most all)",
        lines=steps,
        xscale="log",
        yscale="log",
        xticks=LEARNING_RATES[::3],
    )
    by_images = figures.Panel(
        title="Each at the rate that suits it",
        xlabel="images seen",
        ylabel="test loss (nats)",
        lines=losses,
        xscale="log",
        yscale="log",
    )
    return figures.panels(by_rate, by_images, title="By batch size")


def draw_durations(durations: dict[int, float]) -> plt.Figure:
    speeds, gains = {}, {}
    for place in range(0, len(AROUND_POWERS), 3):
        sizes = AROUND_POWERS[place : place + 3]
        of_sizes = np.array([size / durations[size] for size in sizes])
        speeds[f"around {sizes[1]}"] = ([-1, 0, 1], of_sizes)
        gains[f"around {sizes[1]}"] = ([-1, 0, 1], of_sizes / of_sizes[1])
    in_images = figures.Panel(
        title="Powers of two and their neighbors",
        xlabel="batch size, from the power of two",
        ylabel="images per second",
        lines=speeds,
        xticks=(-1, 0, 1),
        yscale="log",
    )
    of_powers = figures.Panel(
        title="The same, of the power of two's",
        xlabel="batch size, from the power of two",
        lines=gains,
        xticks=(-1, 0, 1),
        ylim=(0, 1.5),
    )
    return figures.panels(in_images, of_powers)


def main(config: Config, run: Run) -> None:
    run.plan(len(STEPS_PER_LOOK))
    keras.utils.set_random_seed(run.seed)
    stack = Stack(load_parts(run.seed), config)
    trained = {}
    for batch_size in STEPS_PER_LOOK:
        name = "all" if batch_size == EXAMPLES else f"{batch_size}"
        trained[name] = train(stack, batch_size, name, config, run)

    best = trained["16"]
    row = best.rows[best.chosen(), 0]
    network = stack.network
    stacks.set_weights(network, row)
    answers = np.argmax(network(stack.parts.x_test), axis=1)
    run.metric("test_accuracy", np.mean(answers == stack.parts.y_test))
    judge_copies(stack, config, run)

    gradients = judge_noise_scale(stack, row, run)
    noise = measure_noise(gradients, stack.parts.y.numpy(), config, run)
    judge_noise(noise, run)
    run.figure("noise", draw_noise(noise))

    sizes = sorted({*STEPS_PER_LOOK, *AROUND_POWERS})
    durations = seconds_of_steps(sizes, config, run)
    shortest = {size: of_size.min() for size, of_size in durations.items()}
    for each in trained.values():
        each.seconds_per_step = float(shortest[each.batch_size])
    judge_sizes(trained, run)
    judge_powers(durations, run)
    run.figure("batch_sizes", draw_sizes(trained))
    run.figure("learning_rates", draw_rates(trained))
    run.figure("powers_of_two", draw_durations(shortest))

    stacks.set_weights(network, row)
    run.export(serving.classifier(network), example=stack.parts.x_test[:3].numpy())


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
