"""A plain recurrent network, and what becomes of its gradient through time.

An Elman cell reads a sequence step by step. Its state h is all that it remembers:

    h_t = tanh(W_xh x_t + W_hh h_{t−1} + b)        scores_t = W_hy h_t + b_y

Backpropagation through time (BPTT) goes the same way back. From step to step the
gradient is multiplied by W_hhᵀ and by the slope of tanh, so over many steps it vanishes
or explodes. Truncated BPTT cuts it at the border of each chunk, clipping makes a long
gradient short: g · min(1, limit / |g|).
Look at the scores of "hello", letter by letter, with a state and without; at the norm of
the gradient by how far it has gone back; and at the triangle of what each chunk learns.

Lectures: ICME Recurrent neural networks; CS RNNs, Backpropagation through time; SEL
    Recurrent nets; INFO Lecture 6
Paper: Elman, Finding structure in time, 1990; Pascanu et al., On the difficulty of
    training recurrent neural networks, 2013 (equation 5, algorithm 1)
Tags: simplernn, elman network, bptt, truncated bptt, gradient clipping, exploding
    gradient, vanishing gradient, orthogonal initialization
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import figures
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    units: Annotated[int, Interval(ge=2)] = 16
    """numbers in the state of the networks that remember a bit"""
    chunks: tuple[Annotated[int, Interval(ge=2, le=200)], ...] = (3, 6, 12, 24)
    """steps between two cuts of the gradient, of truncated BPTT; the longest is the
    whole sequence. A bit is to be remembered for three quarters of each"""
    distance: Annotated[int, Interval(ge=4, le=400)] = 60
    """steps of the sequences on which first weights are compared"""
    steps: int = 400
    """of gradient descent, one on each batch"""
    batch_size: int = 32
    """sequences that a gradient is averaged over"""
    starts: int = 4
    """networks of each setting and learning rate"""


QUICK = Config(chunks=(4, 16), steps=250, batch_size=16, starts=3)
FULL = Config(units=32, steps=2000, starts=12)

WORD = "hello"
LETTERS = "helo"
# --------------------------------------------------------------------------------------
# The idea: one step forward, the same step back
# --------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Of one network, or of a stack of networks, with an axis of these in front."""

    input: np.ndarray
    """W_xh, (inputs, units)"""
    recurrent: np.ndarray
    """W_hh, (units, units)"""
    bias: np.ndarray
    """b, (1, units)"""
    output: np.ndarray
    """W_hy, (units, classes)"""
    output_bias: np.ndarray
    """b_y, (1, classes)"""


class Activation(NamedTuple):
    function: Callable
    slope: Callable
    """of the function, from its value"""


ACTIVATIONS = {
    "linear": Activation(lambda a: a, np.ones_like),
    "tanh": Activation(np.tanh, lambda h: 1 - h**2),
    "ReLU": Activation(
        lambda a: np.maximum(a, 0), lambda h: np.asarray(h > 0, h.dtype)
    ),
}


def step(x, state, input_kernel, recurrent_kernel, bias, activation):
    """h_t = φ(x_t W_xh + h_{t−1} W_hh + b). x: (..., batch, inputs). state and result:
    (..., batch, units)."""
    return activation(x @ input_kernel + state @ recurrent_kernel + bias)


@keras.saving.register_keras_serializable("vanilla_rnn")
class ElmanCell(layers.Layer):
    """The cell for `keras.layers.RNN`; the two are what `keras.layers.SimpleRNN` is."""

    def __init__(self, units: int, activation="tanh", **options):
        super().__init__(**options)
        self.units = units
        self.activation = keras.activations.get(activation)
        self.state_size = units
        self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(
            (shape[-1], self.units), "glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (self.units, self.units), "orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, x, states, training=False):
        state = step(
            x,
            states[0],
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            self.activation,
        )
        return state, [state]

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        own = {"units": self.units, "activation": activation}
        return {**super().get_config(), **own}


def build_model(letters: int, units: int) -> keras.Model:
    """Reads letters. Input: ids (batch, time). Outputs: the scores of each possible next
    letter and their softmax, (batch, time, letters)."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = ops.one_hot(ids, letters)
    states = layers.RNN(ElmanCell(units), return_sequences=True, name="states")(x)
    scores = layers.Dense(letters, dtype="float32", name="scores")(states)
    outputs = {"scores": scores, "probabilities": ops.softmax(scores)}
    return keras.Model(ids, outputs, name="elman")


def read(weights: Weights, x: np.ndarray, activation: Activation) -> np.ndarray:
    """All states, the empty one first: (time + 1, ..., batch, units). x: (time, ...,
    batch, inputs)."""
    units = weights.recurrent.shape[-1]
    states = np.zeros((len(x) + 1, *x.shape[1:-1], units), x.dtype)
    for t in range(len(x)):
        states[t + 1] = step(
            x[t],
            states[t],
            weights.input,
            weights.recurrent,
            weights.bias,
            activation.function,
        )
    return states


def bptt(weights: Weights, states, direct, activation: Activation, chunk=None):
    """The gradient of the loss by each h_t W_hh + ..., before its activation, by
    backpropagation through time: (time, ..., batch, units).

    states: (time + 1, ..., batch, units), of `read`. direct: the gradient by each state
    as far as it comes from that step's own scores, (time, ..., batch, units).
    chunk: truncates. Counted from the end, the gradient does not pass from one chunk to
        the one before it; an array (networks, 1, 1) gives each its own. None: no cuts.
    """
    time = len(direct)
    gradients = np.zeros_like(direct)
    from_later = np.zeros_like(direct[0])
    for t in reversed(range(time)):
        arriving = direct[t] + from_later
        gradients[t] = activation.slope(states[t + 1]) * arriving
        from_later = gradients[t] @ transposed(weights.recurrent)
        if chunk is not None:
            is_border = (time - t) % chunk == 0
            from_later = np.where(is_border, 0, from_later)
    return gradients


def transposed(stack: np.ndarray) -> np.ndarray:
    """Each matrix of a stack, (..., rows, columns), becomes (..., columns, rows)."""
    return np.swapaxes(stack, -1, -2)


def in_one_batch(values: np.ndarray) -> np.ndarray:
    """(time, networks, batch, k) as (networks, time · batch, k)."""
    time, networks, batch, k = values.shape
    return values.swapaxes(0, 1).reshape(networks, time * batch, k)


@dataclass
class Answers:
    """Of a stack of networks at the last steps of their sequences."""

    states: np.ndarray
    """(time + 1, networks, batch, units)"""
    probabilities: np.ndarray
    """(last steps, networks, batch, classes)"""
    losses: np.ndarray
    """cross-entropy in nats, (networks,)"""
    accuracies: np.ndarray
    """(networks,)"""


def answer(weights: Weights, x, labels, activation: Activation) -> Answers:
    """x: (time, networks, batch, inputs). labels: (last steps, networks, batch)."""
    states = read(weights, x, activation)
    scores = states[-len(labels) :] @ weights.output + weights.output_bias
    shifted = scores - scores.max(axis=-1, keepdims=True)
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)

    right = np.take_along_axis(probabilities, labels[..., np.newaxis], axis=-1)
    losses = -np.log(np.maximum(right[..., 0], 1e-30))
    hits = scores.argmax(axis=-1) == labels
    return Answers(
        states, probabilities, losses.mean(axis=(0, 2)), hits.mean(axis=(0, 2))
    )


def gradients_of(
    weights: Weights, x, labels, answers: Answers, activation: Activation, chunk=None
) -> Weights:
    """Of each network's mean cross-entropy. chunk: as of `bptt`."""
    last, _, batch = labels.shape
    classes = weights.output.shape[-1]
    targets = np.eye(classes, dtype=x.dtype)[labels]
    of_scores = (answers.probabilities - targets) / (last * batch)

    states = answers.states
    direct = np.zeros_like(states[1:])
    direct[-last:] = of_scores @ transposed(weights.output)
    by_step = in_one_batch(bptt(weights, states, direct, activation, chunk))
    of_scores = in_one_batch(of_scores)

    # Each matrix is used at every step: its gradient is the sum over them.
    return Weights(
        input=transposed(in_one_batch(x)) @ by_step,
        recurrent=transposed(in_one_batch(states[:-1])) @ by_step,
        bias=by_step.sum(axis=1, keepdims=True),
        output=transposed(in_one_batch(states[-last:])) @ of_scores,
        output_bias=of_scores.sum(axis=1, keepdims=True),
    )


def norms(gradients: Weights) -> np.ndarray:
    """|g| over all weights of each network, (networks, 1, 1)."""
    squares = [np.sum(part**2, axis=(1, 2), keepdims=True) for part in gradients]
    return np.sqrt(sum(squares))


def clip_by_norm(gradients: Weights, limit) -> Weights:
    """g · min(1, limit / |g|): the direction stays, the length is at most the limit."""
    factors = np.minimum(1, limit / np.maximum(norms(gradients), 1e-30))
    return Weights(*[part * factors for part in gradients])


def descend(weights: Weights, gradients: Weights, learning_rate) -> None:
    """One step of plain gradient descent, in place."""
    for weight, gradient in zip(weights, gradients, strict=True):
        weight -= learning_rate * gradient


def write(model: keras.Model, first: int, length: int) -> list[int]:
    """Feeds back the likeliest next letter, again and again. Returns ids (length,)."""
    ids = [first]
    while len(ids) < length:
        scores = model(np.array([ids]))["scores"]
        ids.append(int(ops.argmax(scores[0, -1])))
    return ids


def standalone(epochs: int = 300) -> None:
    """The cell learns to write "hello": the main of a standalone copy."""
    ids = np.array([[LETTERS.index(letter) for letter in WORD]])
    model = build_model(len(LETTERS), units=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(0.1, global_clipnorm=1.0),
        loss={"scores": loss, "probabilities": None},
    )
    model.fit(ids[:, :-1], {"scores": ids[:, 1:]}, epochs=epochs, verbose=0)
    written = write(model, ids[0, 0], len(WORD))
    print("".join(LETTERS[number] for number in written))


# --------------------------------------------------------------------------------------
# The experiment: hello, the gradient by its age, and bits to be remembered
# --------------------------------------------------------------------------------------

HELLO_STARTS = 20
HELLO_UNITS = 3
HELLO_STEPS = 600
HELLO_RATE = 0.3
SCALES = (0.8, 1.0, 1.2, 2.0)  # largest singular values
MATRICES = 5  # of each scale
WIDTH = 64  # of these
AGE = 100  # steps that the gradient goes back
WORST = 10.0  # nats; what is worse, or no number, counts as this
FAR = 12  # steps, from which a bit's echo among others is faint
BOLD_RATE = 0.3  # of those tried one at which gradients explode unless clipped
JUDGED = 512  # sequences to choose rates by, and as many to report


def draw_weights(
    random: np.random.Generator,
    inputs: int,
    units: int,
    classes: int,
    scale: float = 1.0,
    orthogonal: bool = True,
) -> Weights:
    """The first weights of one network: Glorot's normal ones, the recurrent matrix
    orthogonal or as the others, times a scale."""
    recurrent = glorot(random, units, units)
    if orthogonal:
        recurrent = draw_orthogonal(random, units)
    return Weights(
        glorot(random, inputs, units),
        np.array(scale * recurrent, "float32"),
        np.zeros((1, units), "float32"),
        glorot(random, units, classes),
        np.zeros((1, classes), "float32"),
    )


def glorot(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    drawn = random.normal(scale=np.sqrt(2 / (rows + columns)), size=(rows, columns))
    return drawn.astype("float32")


def draw_orthogonal(random: np.random.Generator, units: int) -> np.ndarray:
    basis, triangle = np.linalg.qr(random.normal(size=(units, units)))
    return basis * np.sign(np.diag(triangle))


def stacked(networks: Sequence[Weights]) -> Weights:
    """Networks as one stack."""
    return Weights(*[np.stack(parts) for parts in zip(*networks, strict=True)])


@dataclass
class Hello:
    """A stack of networks that learn what follows each letter of "hello"."""

    weights: Weights
    answers: Answers


def learn_hello(random: np.random.Generator, with_state: bool) -> Hello:
    """with_state: the letters are read as one text, else each alone, in an empty
    state."""
    starts = [
        draw_weights(random, len(LETTERS), HELLO_UNITS, len(LETTERS))
        for _ in range(HELLO_STARTS)
    ]
    weights = stacked(starts)
    ids = np.array([LETTERS.index(letter) for letter in WORD])
    # (time, networks, batch): four steps of one text, or one step of four texts.
    shape = (-1, 1, 1) if with_state else (1, 1, -1)
    labels = np.repeat(ids[1:].reshape(shape), HELLO_STARTS, axis=1)
    read_ids = np.repeat(ids[:-1].reshape(shape), HELLO_STARTS, axis=1)
    x = np.eye(len(LETTERS), dtype="float32")[read_ids]

    tanh = ACTIVATIONS["tanh"]
    for _ in range(HELLO_STEPS):
        answers = answer(weights, x, labels, tanh)
        gradients = gradients_of(weights, x, labels, answers, tanh)
        descend(weights, clip_by_norm(gradients, 1.0), HELLO_RATE)
    return Hello(weights, answer(weights, x, labels, tanh))


def as_model(weights: Weights, network: int) -> keras.Model:
    """One network of a stack, with Keras's layers around the cell."""
    model = build_model(len(LETTERS), HELLO_UNITS)
    own = Weights(*[part[network] for part in weights])
    model.set_weights(
        [own.input, own.recurrent, own.bias[0], own.output, own.output_bias[0]]
    )
    return model


def judge_hello(recurrent: Hello, alone: Hello, run: Run) -> keras.Model:
    """Returns the best network."""
    losses = {
        "with a state": recurrent.answers.losses.mean(),
        "each letter alone": alone.answers.losses.mean(),
    }
    run.metrics("hello_loss", losses, unit="nats per letter")
    run.compare(
        'The state tells the first l of "hello" from the second: mean loss of '
        f"{HELLO_STARTS} networks with {HELLO_UNITS} units",
        losses,
        more="each letter alone",
        less="with a state",
        times=3,
    )
    return as_model(recurrent.weights, int(recurrent.answers.losses.argmin()))


@dataclass
class Flow:
    """Through one kind of recurrent weights, the mean of some matrices."""

    gradient: np.ndarray
    """geometric mean of |d loss_T / d h_{T−k}| / |d loss_T / d h_T| by k, (AGE + 1,)"""
    largest_state: np.ndarray
    """geometric mean of the largest |h_t| of each matrix by t, (AGE,)"""


def draw_gaussian(random: np.random.Generator, units: int) -> np.ndarray:
    """Independent normal weights, scaled to a largest singular value of 1."""
    drawn = random.normal(size=(units, units))
    return drawn / np.linalg.norm(drawn, ord=2)


def flow(
    random: np.random.Generator, activation: Activation, scale: float, draw: Callable
) -> Flow:
    """Random inputs drive the states, and a random gradient goes back from the last."""
    gradients = []
    sizes = []
    for _ in range(MATRICES):
        weights = Weights(
            np.eye(WIDTH), scale * draw(random, WIDTH), np.zeros((1, WIDTH)), None, None
        )
        x = random.normal(scale=0.3, size=(AGE, 1, WIDTH))
        states = read(weights, x, activation)
        direct = np.zeros_like(states[1:])
        direct[-1] = random.normal(size=direct[-1].shape)
        by_step = bptt(weights, states, direct, activation)
        # One step further back each, by the state it came to.
        by_state = by_step @ weights.recurrent.T
        lengths = np.linalg.norm(by_state[::-1, 0], axis=-1)
        gradients.append(np.append(1, lengths / np.linalg.norm(direct[-1])))
        sizes.append(np.abs(states[1:]).max(axis=(1, 2)))
    return Flow(geometric_mean(gradients), geometric_mean(sizes))


def geometric_mean(values) -> np.ndarray:
    logarithms = np.log(np.maximum(values, 1e-200))
    return np.exp(np.mean(logarithms, axis=0))


def measure_flows(random: np.random.Generator) -> dict[tuple[str, float], Flow]:
    """By activation and largest singular value; "Gaussian" is linear, but not
    orthogonal."""
    flows = {
        (name, scale): flow(random, activation, scale, draw_orthogonal)
        for name, activation in ACTIVATIONS.items()
        for scale in SCALES
    }
    linear = ACTIVATIONS["linear"]
    for scale in SCALES:
        flows["Gaussian", scale] = flow(random, linear, scale, draw_gaussian)
    return flows


def judge_flows(flows: dict[tuple[str, float], Flow], run: Run) -> None:
    half = AGE // 2
    after = {key: found.gradient[half] for key, found in flows.items()}
    run.metrics(
        f"gradient_{half}_steps_back",
        {f"{name} {scale:g}": value for (name, scale), value in after.items()},
        unit="times its norm at the last step",
    )
    run.claim(
        "Below 1 the gradient vanishes, whatever the activation: norm after "
        f"{half} steps, singular values of {SCALES[0]}",
        at_most=1e-3,
        measured={name: after[name, SCALES[0]] for name in ACTIVATIONS},
    )
    linear = after["linear", 1.2]
    bent = max(after["tanh", 1.2], after["ReLU", 1.2])
    run.claim(
        "Above 1 it explodes without an activation. The slopes of tanh and ReLU shrink "
        "it: at 1.2 it still vanishes, at 2 it explodes",
        holds=linear > 1e3
        and bent < 0.2
        and min(after["tanh", 2.0], after["ReLU", 2.0]) > 10,
        measured=f"at 1.2 linear {linear:.0f}, tanh {after['tanh', 1.2]:.2g}, ReLU "
        f"{after['ReLU', 1.2]:.1g}; at 2 tanh {after['tanh', 2.0]:.0f}, ReLU "
        f"{after['ReLU', 2.0]:.1g}",
    )
    run.claim(
        "An orthogonal matrix keeps the norm of a linear network's gradient, not that "
        "of a network with tanh or ReLU",
        holds=abs(after["linear", 1.0] - 1) < 1e-6
        and max(after["tanh", 1.0], after["ReLU", 1.0]) < 0.01,
        measured=f"linear {after['linear', 1.0]:.6f}, tanh {after['tanh', 1.0]:.1g}, "
        f"ReLU {after['ReLU', 1.0]:.1g}",
    )
    run.claim(
        "A largest singular value above 1 is needed for an explosion, and not enough: "
        "at 1.2 it vanishes through Gaussian weights, whose other ones are smaller",
        holds=linear > 1e3 and after["Gaussian", 1.2] < 0.1,
        measured=f"orthogonal {linear:.0f}, Gaussian {after['Gaussian', 1.2]:.1g}",
    )
    relu = flows["ReLU", 2.0].largest_state
    tanh = flows["tanh", 2.0].largest_state
    run.claim(
        "The states of ReLU know no bound, those of tanh do: the largest one, at 2",
        holds=relu[-1] > 10 * relu[half - 1] > 100 and tanh.max() <= 1,
        measured=f"ReLU {relu[half - 1]:.3g} after {half} steps and {relu[-1]:.3g} "
        f"after {AGE}, tanh {tanh.max():.3f}",
    )


@dataclass(frozen=True)
class Task:
    """A bit to be remembered among others, and the networks that learn it."""

    name: str
    time: int
    """steps of a sequence"""
    noise: float = 1.0
    """size of the bits that are not asked for"""
    activation: str = "tanh"
    scale: float = 1.0
    """of the first recurrent weights"""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)

    def draw(self, random: np.random.Generator, lags: Sequence[int], batch: int):
        """Sequences of random bits, -1 or 1; beside one of each a flag is up, at the
        same place for a network: that bit is asked for after the last step.

        Returns x (time, networks, batch, 2) and labels (1, networks, batch).
        """
        bits = random.integers(2, size=(self.time, batch))
        networks = range(len(lags))
        flagged = self.time - 1 - np.array(lags)
        x = np.zeros((self.time, len(lags), batch, 2), "float32")
        signs = 2 * bits - 1
        x[..., 0] = self.noise * signs[:, np.newaxis]
        x[flagged, networks, :, 0] = signs[flagged]
        x[flagged, networks, :, 1] = 1
        return x, bits[flagged][np.newaxis]


@dataclass(frozen=True)
class Setting:
    """How some networks learn it."""

    lag: int
    """steps that lie between the bit and the question"""
    chunk: int
    """steps between two cuts of the gradient"""
    limit: float = 1.0
    """of the gradient's norm"""
    orthogonal: bool = True
    """recurrent weights at the start, else Glorot's normal ones"""


@dataclass
class Learned:
    """The networks of one setting, by learning rate."""

    learning_rates: tuple[float, ...]
    best: int
    """the place of the rate that is best on validation sequences"""
    losses: np.ndarray
    """of each batch on the way, (steps, rates, starts)"""
    norms: np.ndarray
    """of the gradients before clipping, (steps, rates, starts)"""
    test_losses: np.ndarray
    """(rates, starts)"""
    test_accuracies: np.ndarray
    """(rates, starts)"""

    @property
    def best_rate(self) -> float:
        return self.learning_rates[self.best]

    @property
    def accuracies(self) -> np.ndarray:
        """At the best rate, (starts,)."""
        return self.test_accuracies[self.best]


class Stack:
    """Networks of all settings, rates and starts, which learn side by side."""

    def __init__(self, task: Task, settings: list[Setting], config: Config, seed: int):
        self.task = task
        self.activation = ACTIVATIONS[task.activation]
        self.batch_size = config.batch_size
        self.random = np.random.default_rng(seed)
        rates = task.learning_rates
        self.shape = len(settings), len(rates), config.starts

        each = np.repeat(np.array(settings), len(rates) * config.starts)
        self.lags = [setting.lag for setting in each]
        self.chunks = column([setting.chunk for setting in each], "int32")
        self.limits = column([setting.limit for setting in each])
        self.rates = column(np.tile(np.repeat(rates, config.starts), len(settings)))
        # The k-th start of each setting and rate is the same.
        self.weights = stacked(
            [
                draw_weights(
                    np.random.default_rng([seed, i % config.starts]),
                    inputs=2,
                    units=config.units,
                    classes=2,
                    scale=task.scale,
                    orthogonal=setting.orthogonal,
                )
                for i, setting in enumerate(each)
            ]
        )

    def update(self) -> tuple[np.ndarray, np.ndarray]:
        """One step of each network. Returns the losses and the norms of the gradients,
        (networks,) each."""
        x, labels = self.task.draw(self.random, self.lags, self.batch_size)
        answers = answer(self.weights, x, labels, self.activation)
        gradients = gradients_of(
            self.weights, x, labels, answers, self.activation, self.chunks
        )
        descend(self.weights, clip_by_norm(gradients, self.limits), self.rates)
        return answers.losses, norms(gradients)[:, 0, 0]

    def judge(self) -> tuple[np.ndarray, np.ndarray]:
        """Losses and accuracies on fresh sequences, (settings, rates, starts) each."""
        x, labels = self.task.draw(self.random, self.lags, JUDGED)
        answers = answer(self.weights, x, labels, self.activation)
        losses = stacks.bounded(answers.losses, WORST).reshape(self.shape)
        return losses, answers.accuracies.reshape(self.shape)


def column(values, dtype="float32") -> np.ndarray:
    """(networks,) as (networks, 1, 1)."""
    return np.array(values, dtype)[:, np.newaxis, np.newaxis]


def train(
    task: Task, settings: list[Setting], config: Config, run: Run
) -> dict[Setting, Learned]:
    """All of them at once; rates are chosen on other sequences than are reported."""
    stack = Stack(task, settings, config, run.seed)
    losses = np.zeros((config.steps, len(stack.lags)))
    lengths = np.zeros_like(losses)
    state = {"all": [*stack.weights, stack.random, losses, lengths]}
    name = f"{task.name}: {len(stack.lags)} networks"
    with np.errstate(all="ignore"):  # some of them explode
        for i in run.loop(name, config.steps, state):
            losses[i], lengths[i] = stack.update()
        validation, _ = stack.judge()
        test, accuracies = stack.judge()

    best = validation.mean(axis=-1).argmin(axis=1)
    by_step = (config.steps, *stack.shape)
    return {
        setting: Learned(
            task.learning_rates,
            int(best[i]),
            losses.reshape(by_step)[:, i],
            lengths.reshape(by_step)[:, i],
            test[i],
            accuracies[i],
        )
        for i, setting in enumerate(settings)
    }


def lags_of(config: Config) -> list[int]:
    """What a chunk of each length reaches, and the next shorter one may not."""
    return sorted({3 * chunk // 4 for chunk in config.chunks})


def learn_truncated(config: Config, run: Run) -> dict[Setting, Learned]:
    """Each lag with each chunk."""
    task = Task("truncated", max(config.chunks))
    chunks = sorted(set(config.chunks))
    settings = [Setting(lag, chunk) for lag in lags_of(config) for chunk in chunks]
    return train(task, settings, config, run)


def judge_truncated(learned: dict[Setting, Learned], run: Run) -> None:
    within = {}
    beyond = {}
    for setting, found in learned.items():
        is_within = setting.lag < setting.chunk
        part = within if is_within else beyond
        part[setting] = found.accuracies.mean()
    run.metric("test_accuracy_within_the_chunk", min(within.values()))
    far = [accuracy for setting, accuracy in beyond.items() if setting.lag >= FAR]
    if not far:
        run.print(f"--chunks: no lag of {FAR} steps is beyond a chunk: left out")
        return
    run.metric("test_accuracy_beyond_the_chunk", max(far))
    run.claim(
        "A bit is remembered as far back as the chunk reaches. Beyond it truncated BPTT "
        f"learns little from {FAR} steps on: not to keep the bit, but to read what "
        "happens to be left of it",
        holds=min(within.values()) > 0.9 and max(far) < 0.82,
        measured=f"accuracy at least {min(within.values()):.2f} within the chunk, "
        f"at most {max(far):.2f} beyond, 0.5 by chance",
    )


def cosines(config: Config, seed: int) -> dict[int, float]:
    """Between the truncated and the whole gradient of the first recurrent weights, by
    chunk: means over networks that are to remember a bit for the longest lag."""
    time = max(config.chunks)
    task = Task("cosines", time)
    random = np.random.default_rng(seed)
    starts = [draw_weights(random, 2, config.units, 2) for _ in range(64)]
    weights = stacked(starts)
    x, labels = task.draw(random, [max(lags_of(config))] * len(starts), JUDGED)
    tanh = ACTIVATIONS["tanh"]
    answers = answer(weights, x, labels, tanh)
    whole = gradients_of(weights, x, labels, answers, tanh).recurrent

    found = {}
    for chunk in sorted(set(config.chunks)):
        cut = gradients_of(weights, x, labels, answers, tanh, chunk).recurrent
        products = np.sum(cut * whole, axis=(1, 2))
        lengths = np.linalg.norm(cut, axis=(1, 2)) * np.linalg.norm(whole, axis=(1, 2))
        found[chunk] = float(np.mean(products / lengths))
    return found


def learn_clipped(config: Config, run: Run) -> tuple[Learned, Learned]:
    """With clipping and without. Half of the ReLUs let a gradient pass, which weights
    of √2 make up for."""
    task = Task("clipped", 12, activation="ReLU", scale=2**0.5)
    clipped = Setting(lag=9, chunk=task.time)
    free = Setting(lag=9, chunk=task.time, limit=np.inf)
    learned = train(task, [clipped, free], config, run)
    return learned[clipped], learned[free]


def largest_rate(learned: Learned) -> float:
    """At which most networks learn; 0 if there is none."""
    share = np.mean(learned.test_accuracies > 0.9, axis=1)
    rates = np.array(learned.learning_rates)
    return float(np.max(rates, where=share > 0.6, initial=0))


def judge_clipped(clipped: Learned, free: Learned, run: Run) -> None:
    place = clipped.learning_rates.index(BOLD_RATE)
    run.compare(
        f"Clipping stops the explosion: accuracy at a learning rate of {BOLD_RATE:g}",
        {
            "clipped": clipped.test_accuracies[place].mean(),
            "not clipped": free.test_accuracies[place].mean(),
        },
        more="clipped",
        less="not clipped",
        by=0.15,
    )
    run.metric("test_accuracy_clipped", clipped.accuracies.mean())
    run.metric(
        "test_accuracy_not_clipped",
        free.accuracies.mean(),
        unit=f"at its own best rate, {free.best_rate:g}",
    )
    run.compare(
        "Without it smaller steps are left, by which most networks learn as well: the "
        "largest rate that trains most networks",
        {"clipped": largest_rate(clipped), "not clipped": largest_rate(free)},
        more="clipped",
        less="not clipped",
        times=2,
    )


def learn_from_starts(config: Config, run: Run) -> tuple[Learned, Learned]:
    """From orthogonal weights and from Glorot's normal ones. What lies between is
    small, so that tanh is nearly a line."""
    task = Task(
        "starts", config.distance, noise=0.1, learning_rates=(0.01, 0.03, 0.1, 0.3)
    )
    lag = 3 * task.time // 4
    orthogonal = Setting(lag, task.time)
    glorot_normal = Setting(lag, task.time, orthogonal=False)
    learned = train(task, [orthogonal, glorot_normal], config, run)
    return learned[orthogonal], learned[glorot_normal]


def judge_starts(orthogonal: Learned, normal: Learned, lag: int, run: Run) -> None:
    losses = {
        "orthogonal": orthogonal.test_losses[orthogonal.best].mean(),
        "Glorot normal": normal.test_losses[normal.best].mean(),
    }
    run.metrics("test_loss", losses, unit=f"nats, a bit {lag} steps ago")
    run.compare(
        f"From orthogonal weights a bit is learned over {lag} steps more surely than "
        "from Glorot's normal ones: test loss, each at its own best rate",
        losses,
        more="Glorot normal",
        less="orthogonal",
        times=1.5,
    )


def draw_hello(recurrent: Hello, alone: Hello) -> Figure:
    """States and scores of the best network letter by letter, and the scores of one
    that has no state."""
    best = recurrent.answers.losses.argmin()
    states = recurrent.answers.states[1:, best, 0]
    with_state = recurrent.answers.probabilities[:, best, 0]
    without = alone.answers.probabilities[0, alone.answers.losses.argmin()]
    figure, grid = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=(3, 4, 4))
    shown = {
        "State $h_t$": states,
        "Probability of the next letter": with_state,
        "The same, each letter read alone": without,
    }
    for axes, (title, values) in zip(grid, shown.items(), strict=True):
        is_state = title.startswith("State")
        drawn = axes.imshow(
            values.T,
            cmap="PuOr" if is_state else "Blues",
            vmin=-1 if is_state else 0,
            vmax=1,
            aspect="auto",
        )
        figure.colorbar(drawn, ax=axes, shrink=0.8)
        write_numbers(axes, values.T, is_state)
        axes.set_title(title)
        axes.set_xlabel("letter read")
        axes.set_xticks(range(len(WORD) - 1), WORD[:-1])
        axes.grid(visible=False)
    grid[0].set_ylabel("unit")
    grid[0].set_yticks(range(HELLO_UNITS), range(1, HELLO_UNITS + 1))
    for axes in grid[1:]:
        axes.set_yticks(range(len(LETTERS)), LETTERS)
        axes.set_ylabel("next letter")
        frame_next_letters(axes)
    figure.suptitle(f'"{WORD}", step by step; framed: the letter that comes next')
    return figure


def write_numbers(axes: plt.Axes, values: np.ndarray, is_state: bool) -> None:
    """Each value into its cell."""
    dark = 0.7 if is_state else 0.6
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if abs(value) > dark else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink)


def frame_next_letters(axes: plt.Axes) -> None:
    for place, letter in enumerate(WORD[1:]):
        corner = (place - 0.47, LETTERS.index(letter) - 0.47)
        frame = plt.Rectangle(
            corner, 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.5
        )
        axes.add_patch(frame)


def draw_flows(flows: dict[tuple[str, float], Flow]) -> Figure:
    ages = np.arange(AGE + 1)
    titles = {
        "linear": "Linear, orthogonal weights",
        "Gaussian": "Linear, Gaussian weights",
        "tanh": "tanh, orthogonal weights",
        "ReLU": "ReLU, orthogonal weights",
    }
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), sharex=True, sharey=True)
    for axes, (name, title) in zip(grid.flat, titles.items(), strict=True):
        for scale, dashes, color in zip(
            SCALES, figures.DASHES, figures.COLORS, strict=False
        ):
            axes.plot(
                ages,
                flows[name, scale].gradient,
                linestyle=dashes,
                color=color,
                label=f"largest singular value {scale:g}",
            )
        axes.set_title(title)
        axes.set_yscale("log")
        axes.set_ylim(1e-12, 1e12)
    for axes in grid[:, 0]:
        axes.set_ylabel("norm of the gradient")
    for axes in grid[1]:
        axes.set_xlabel("steps that it has gone back")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    return figure


def draw_truncated(
    learned: dict[Setting, Learned], found_cosines: dict[int, float]
) -> Figure:
    """The triangle of lags and chunks, and how much of the gradient a chunk sees."""
    lags = sorted({setting.lag for setting in learned})
    chunks = sorted({setting.chunk for setting in learned})
    accuracies = np.zeros((len(lags), len(chunks)))
    for setting, found in learned.items():
        place = lags.index(setting.lag), chunks.index(setting.chunk)
        accuracies[place] = found.accuracies.mean()

    figure, (triangle, likeness) = plt.subplots(1, 2, figsize=(12, 4.2))
    image = triangle.imshow(accuracies, vmin=0.5, vmax=1, aspect="auto")
    for (row, column_), value in np.ndenumerate(accuracies):
        ink = "black" if value > 0.75 else "white"
        is_within = lags[row] < chunks[column_]
        note = "" if is_within else "\nout of reach"
        triangle.text(
            column_, row, f"{value:.2f}{note}", ha="center", va="center", color=ink
        )
    triangle.set_title("Accuracy on test sequences")
    triangle.set_xlabel("steps of a chunk")
    triangle.set_ylabel("steps to remember a bit")
    triangle.set_xticks(range(len(chunks)), chunks)
    triangle.set_yticks(range(len(lags)), lags)
    triangle.grid(visible=False)
    figure.colorbar(image, ax=triangle, label="accuracy (0.5 is chance)")

    likeness.plot(list(found_cosines), list(found_cosines.values()), "o-")
    likeness.set_title(f"At the start, a bit {lags[-1]} steps ago")
    likeness.set_xlabel("steps of a chunk")
    likeness.set_ylabel("cosine of the truncated\nand the whole gradient")
    likeness.set_ylim(0, 1.05)
    return figure


def draw_clipped(clipped: Learned, free: Learned) -> Figure:
    rates = np.array(clipped.learning_rates)
    by_rate = figures.Panel(
        title="A bit 9 steps ago, ReLU",
        xlabel="learning rate",
        ylabel="accuracy on test sequences",
        lines={
            "clipped to a norm of 1": (rates, clipped.test_accuracies),
            "not clipped": (rates, free.test_accuracies),
        },
        xscale="log",
        xticks=rates,
        ylim=(0.4, 1.05),
    )
    place = clipped.learning_rates.index(BOLD_RATE)
    steps = np.arange(1, len(clipped.norms) + 1)
    over_time = figures.Panel(
        title=f"One network at a learning rate of {BOLD_RATE:g}",
        xlabel="step",
        ylabel="norm of the gradient before clipping",
        lines={
            "clipped to a norm of 1": (steps, shown_norms(clipped, place)),
            "not clipped": (steps, shown_norms(free, place)),
        },
        yscale="log",
    )
    return figures.panels(by_rate, over_time)


def shown_norms(learned: Learned, place: int) -> np.ndarray:
    """Of the first start, within what an axis can show."""
    found = np.nan_to_num(learned.norms[:, place, 0], nan=1e12)
    return np.clip(found, 1e-6, 1e12)


def draw_starts(orthogonal: Learned, normal: Learned, lag: int) -> Figure:
    lines = {}
    for name, found in (("orthogonal", orthogonal), ("Glorot normal", normal)):
        losses = stacks.bounded(found.losses[:, found.best], WORST)
        lines[f"{name}, rate {found.best_rate:g}"] = smoothed(losses)
    panel = figures.Panel(
        title=f"A bit {lag} steps ago: the mean of the networks, lowest to highest",
        xlabel="step",
        ylabel="loss of the last 20 batches (nats)",
        lines=lines,
        levels={"chance": np.log(2)},
        ylim=(0, 1),
    )
    return figures.panels(panel)


def smoothed(losses: np.ndarray, width: int = 20) -> np.ndarray:
    """Mean of the last few steps, (steps, starts)."""
    sums = np.cumsum(losses, axis=0)
    before = np.concatenate([np.zeros((width, losses.shape[1])), sums])[: len(sums)]
    counts = np.minimum(np.arange(1, len(sums) + 1), width)
    return (sums - before) / counts[:, np.newaxis]


def main(config: Config, run: Run) -> None:
    run.plan(3)
    random = np.random.default_rng(run.seed)
    recurrent = learn_hello(random, with_state=True)
    alone = learn_hello(random, with_state=False)
    model = judge_hello(recurrent, alone, run)
    run.figure("hello", draw_hello(recurrent, alone))

    flows = measure_flows(random)
    judge_flows(flows, run)
    run.figure("gradients", draw_flows(flows))

    learned = learn_truncated(config, run)
    judge_truncated(learned, run)
    found_cosines = cosines(config, run.seed)
    for chunk, cosine in found_cosines.items():
        run.metric(f"cosine_of_gradients_chunk_{chunk}", cosine)
    run.figure("truncated", draw_truncated(learned, found_cosines))

    clipped, free = learn_clipped(config, run)
    judge_clipped(clipped, free, run)
    run.figure("clipped", draw_clipped(clipped, free))

    orthogonal, normal = learn_from_starts(config, run)
    lag = 3 * config.distance // 4
    judge_starts(orthogonal, normal, lag, run)
    run.figure("starts", draw_starts(orthogonal, normal, lag))
    run.export(model, example=np.array([[0, 1, 2, 2]], "int32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
