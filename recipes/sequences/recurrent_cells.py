"""Recurrent cells with gates: what remembers how long, and which gates are needed.

A gate is a sigmoid of the input and the last output, a number in (0, 1) for each unit. An
LSTM multiplies its memory c by one of them and adds what another lets in:

    c_t = f ⊙ c_{t−1} + i ⊙ tanh(g)        h_t = o ⊙ tanh(c_t)

Where f is near 1 the memory stays, and so does its gradient. Peepholes let gates see c; a
coupled gate takes i = 1 − f; a GRU does so too and has no c beside h; the last cell here
has a forget gate alone. All of them are written as one step from the same kinds of
weights.
They are one cell with some gates left out or tied, so networks of all kinds, tasks,
rates and starts are trained in one compiled call.
Look at what each cell learns (an Elman cell whose first weights are orthogonal needs no
gate to copy, but hardly adds), at the first bias of the forget gate, at how far a verb
may be from its subject, and at a memory that counts.

Lectures: SEL Recurrent nets, LSTMs variants; ICME LSTM; CS Long Short Term Memory; INFO
    Lecture 6
Paper: Hochreiter and Schmidhuber, Long short-term memory, 1997 (the adding problem); Gers
    et al., Learning to forget, 2000, Learning precise timing with LSTM recurrent
    networks, 2003 (peepholes); Cho et al., Learning phrase representations, 2014 (GRU);
    van der Westhuizen and Lasenby, The unreasonable effectiveness of the forget gate,
    2018; Weiss et al., On the practical computational power of finite precision RNNs,
    2018 (counting)
Tags: lstm, gru, peephole, forget gate, forget bias, long-term dependency, counting,
    janet
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, figures
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    cells: tuple[str, ...] = (
        "Elman",
        "LSTM",
        "peephole LSTM",
        "coupled LSTM",
        "GRU",
        "forget gate only",
    )
    """which to compare"""
    units: Annotated[int, Interval(ge=2)] = 12
    """of each cell"""
    time: Annotated[int, Interval(ge=12, le=200)] = 24
    """steps of a sequence"""
    steps: int = 500
    """of Adam, one on each batch; ten are one call"""
    batch_size: int = 24
    """sequences that a gradient is averaged over"""
    starts: int = 2
    """networks of each cell, task and learning rate"""


QUICK = Config(
    cells=("Elman", "LSTM", "GRU"), units=8, time=18, steps=200, batch_size=16
)
FULL = Config(units=24, time=60, steps=4000, batch_size=64, starts=6)

# --------------------------------------------------------------------------------------
# The idea: one step of each cell
# --------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Of one cell, or of a stack of cells, with an axis of these in front. The blocks of
    a matrix, one for each gate and one for the update, lie side by side."""

    input: tf.Tensor
    """(inputs, blocks · units)"""
    recurrent: tf.Tensor
    """(units, blocks · units)"""
    bias: tf.Tensor
    """(1, blocks · units)"""
    extra: tf.Tensor
    """(1, extra · units): peepholes, or the GRU's second bias"""


def blocks_of(x, h, weights: Weights, count: int):
    """x W + h U + b, cut into its blocks, (..., batch, units) each."""
    total = x @ weights.input + h @ weights.recurrent + weights.bias
    return ops.split(total, count, axis=-1)


def elman(x, states, weights: Weights):
    """No gate: h = tanh(x W + h U + b)."""
    (h,) = states
    (update,) = blocks_of(x, h, weights, 1)
    return (ops.tanh(update),)


def lstm(x, states, weights: Weights):
    """Three gates, and a memory c beside the output h, as `keras.layers.LSTM`."""
    h, c = states
    i, f, g, o = blocks_of(x, h, weights, 4)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def peephole_lstm(x, states, weights: Weights):
    """The gates see the memory, each unit its own: i and f the old one, o the new one."""
    h, c = states
    i, f, g, o = blocks_of(x, h, weights, 4)
    peep_i, peep_f, peep_o = ops.split(weights.extra, 3, axis=-1)
    forget = ops.sigmoid(f + peep_f * c)
    write = ops.sigmoid(i + peep_i * c)
    c = forget * c + write * ops.tanh(g)
    return ops.sigmoid(o + peep_o * c) * ops.tanh(c), c


def coupled_lstm(x, states, weights: Weights):
    """What is forgotten makes room for as much that is new: i = 1 − f."""
    h, c = states
    f, g, o = blocks_of(x, h, weights, 3)
    forget = ops.sigmoid(f)
    c = forget * c + (1 - forget) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def gru(x, states, weights: Weights):
    """Cho et al.: z keeps, r hides parts of the state from the update; as
    `keras.layers.GRU(reset_after=False)`."""
    (h,) = states
    units = h.shape[-1]
    z, r, _ = blocks_of(x, h, weights, 3)
    hidden = ops.sigmoid(r) * h
    update = ops.tanh(
        x @ weights.input[..., 2 * units :]
        + hidden @ weights.recurrent[..., 2 * units :]
        + weights.bias[..., 2 * units :]
    )
    keep = ops.sigmoid(z)
    return (keep * h + (1 - keep) * update,)


def gru_reset_after(x, states, weights: Weights):
    """r after the product, with a bias of its own (cuDNN); as `keras.layers.GRU()`."""
    (h,) = states
    z_x, r_x, update_x = ops.split(x @ weights.input + weights.bias, 3, axis=-1)
    z_h, r_h, update_h = ops.split(h @ weights.recurrent + weights.extra, 3, axis=-1)
    keep = ops.sigmoid(z_x + z_h)
    update = ops.tanh(update_x + ops.sigmoid(r_x + r_h) * update_h)
    return (keep * h + (1 - keep) * update,)


def forget_gate_only(x, states, weights: Weights):
    """One gate: h = f ⊙ h + (1 − f) ⊙ tanh(x W + h U + b)."""
    (h,) = states
    f, g = blocks_of(x, h, weights, 2)
    forget = ops.sigmoid(f)
    return (forget * h + (1 - forget) * ops.tanh(g),)


class Cell(NamedTuple):
    step: Callable
    """(x, states, weights) to the new states, the output first"""
    blocks: tuple[str, ...]
    """what its matrices are for, in their order"""
    states: int = 1
    extra: int = 0
    """vectors beside the matrices"""


CELLS = {
    "Elman": Cell(elman, ("update",)),
    "LSTM": Cell(lstm, ("write", "keep", "update", "open"), states=2),
    "peephole LSTM": Cell(
        peephole_lstm, ("write", "keep", "update", "open"), states=2, extra=3
    ),
    "coupled LSTM": Cell(coupled_lstm, ("keep", "update", "open"), states=2),
    "GRU": Cell(gru, ("keep", "reset", "update")),
    "GRU, reset after": Cell(gru_reset_after, ("keep", "reset", "update"), extra=3),
    "forget gate only": Cell(forget_gate_only, ("keep", "update")),
}


def parameter_count(cell: Cell, inputs: int, units: int) -> int:
    """blocks · units · (inputs + units + 1), and what is beside."""
    return len(cell.blocks) * units * (inputs + units + 1) + cell.extra * units


@keras.saving.register_keras_serializable("recurrent_cells")
class RecurrentCell(layers.Layer):
    """A cell of CELLS for `keras.layers.RNN`. The gate that keeps begins with a bias of
    1, as Gers et al. advise: the memory stays at first."""

    def __init__(self, kind: str, units: int, **options):
        super().__init__(**options)
        self.kind = kind
        self.units = units
        self.cell = CELLS[kind]
        self.state_size = [units] * self.cell.states
        self.output_size = units

    def build(self, shape):
        width = len(self.cell.blocks) * self.units
        keeps = [float(name == "keep") for name in self.cell.blocks]
        first_bias = np.repeat(keeps, self.units)[np.newaxis]
        self.kernel = self.add_weight(
            (shape[-1], width), "glorot_uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (self.units, width), "orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight(
            (1, width), keras.initializers.Constant(first_bias), name="bias"
        )
        self.extra = None
        if self.cell.extra:
            self.extra = self.add_weight(
                (1, self.cell.extra * self.units), "zeros", name="extra"
            )

    def call(self, x, states, training=False):
        weights = Weights(self.kernel, self.recurrent_kernel, self.bias, self.extra)
        states = self.cell.step(x, states, weights)
        return states[0], list(states)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "units": self.units}


def build_model(kind: str, words: int, units: int, classes: int) -> keras.Model:
    """Reads numbers of words, -1 where there is none. Input: (batch, time). Output:
    probabilities of classes after the last word, (batch, classes)."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = ops.one_hot(ids, words)
    h = layers.RNN(RecurrentCell(kind, units), name="cell")(x)
    scores = layers.Dense(classes, dtype="float32", name="scores")(h)
    return keras.Model(ids, {"probabilities": ops.softmax(scores)}, name="recurrent")


class Wiring(NamedTuple):
    """What a kind of cell has, 1 or 0; of a stack, (networks, 1, 1) each."""

    forgets: float
    """the state is kept in part, by a gate"""
    coupled: float
    """what is written is 1 − what is kept, else it has a gate of its own"""
    outputs: float
    """a gate between the memory and the output, and a tanh"""
    peeps: float
    """gates see the memory"""
    resets: float
    """a gate between the state and the update"""


WIRINGS = {
    "Elman": Wiring(forgets=0, coupled=1, outputs=0, peeps=0, resets=0),
    "LSTM": Wiring(forgets=1, coupled=0, outputs=1, peeps=0, resets=0),
    "peephole LSTM": Wiring(forgets=1, coupled=0, outputs=1, peeps=1, resets=0),
    "coupled LSTM": Wiring(forgets=1, coupled=1, outputs=1, peeps=0, resets=0),
    "GRU": Wiring(forgets=1, coupled=1, outputs=0, peeps=0, resets=1),
    "forget gate only": Wiring(forgets=1, coupled=1, outputs=0, peeps=0, resets=0),
}
BLOCKS = ("write", "keep", "open", "reset", "update")  # of the cell that is all of them


def any_cell(x, states, weights: Weights, wiring: Wiring):
    """One step of a stack of cells of any kinds: the same as their own steps."""
    h, c = states
    units = h.shape[-1]
    gates = 4 * units
    i, f, o, r = ops.split(
        x @ weights.input[..., :gates]
        + h @ weights.recurrent[..., :gates]
        + weights.bias[..., :gates],
        4,
        axis=-1,
    )
    peep_i, peep_f, peep_o = ops.split(wiring.peeps * weights.extra, 3, axis=-1)

    keep = wiring.forgets * ops.sigmoid(f + peep_f * c)
    own_write = ops.sigmoid(i + peep_i * c)
    write = wiring.coupled * (1 - keep) + (1 - wiring.coupled) * own_write
    shown = h * gate_or_1(wiring.resets, r)
    update = ops.tanh(
        x @ weights.input[..., gates:]
        + shown @ weights.recurrent[..., gates:]
        + weights.bias[..., gates:]
    )
    c = keep * c + write * update

    squashed = wiring.outputs * ops.tanh(c) + (1 - wiring.outputs) * c
    h = gate_or_1(wiring.outputs, o + peep_o * c) * squashed
    return h, c


def gate_or_1(has_gate, total):
    """σ(total) where there is a gate."""
    return 1 - has_gate + has_gate * ops.sigmoid(total)


class Network(NamedTuple):
    """A stack of networks, (networks, ...) each."""

    cell: Weights
    output: tf.Tensor
    """(units, outputs)"""
    output_bias: tf.Tensor
    """(1, outputs)"""


def run_states(network: Network, wiring: Wiring, x):
    """All outputs and memories, (time, networks, batch, units) each. x: (time, networks,
    batch, inputs)."""
    h = tf.zeros((*x.shape[1:-1], network.output.shape[-2]))
    c = h
    outputs = tf.TensorArray(tf.float32, x.shape[0])
    memories = tf.TensorArray(tf.float32, x.shape[0])
    for t in tf.range(x.shape[0]):
        h, c = any_cell(x[t], (h, c), network.cell, wiring)
        outputs = outputs.write(t, h)
        memories = memories.write(t, c)
    return outputs.stack(), memories.stack()


def scores_of(network: Network, wiring: Wiring, x):
    """(time, networks, batch, outputs)."""
    outputs, _ = run_states(network, wiring, x)
    return outputs @ network.output + network.output_bias


# --------------------------------------------------------------------------------------
# The experiment: what each cell learns, by lag, by bias, and by counting
# --------------------------------------------------------------------------------------

INPUTS = 6
OUTPUTS = 4
LEARNING_RATES = (0.01, 0.03, 0.1)
CALL = 10  # steps of a compiled call
JUDGED = 240  # sequences to choose rates by, and as many to report
BIASES = (1.0, 0.0, -1.0)
SYMBOLS = 4
N_GRAMS = (1, 3, 5)


@dataclass
class Batch:
    """Sequences of a task. All tasks have as many inputs and outputs."""

    x: np.ndarray
    """(time, batch, INPUTS)"""
    labels: np.ndarray
    """(time, batch)"""
    values: np.ndarray
    """in place of labels, for sums"""
    asked: np.ndarray
    """1 where an answer is wanted, (time, batch)"""


def empty(time: int, batch: int) -> Batch:
    return Batch(
        np.zeros((time, batch, INPUTS), "float32"),
        np.zeros((time, batch), "int32"),
        np.zeros((time, batch), "float32"),
        np.zeros((time, batch), "float32"),
    )


@dataclass(frozen=True)
class Adding:
    """Two numbers in [0, 1] among others are marked; their sum is asked for at the end.
    The first one came `lag` steps ago, the second since."""

    lag: int
    sums: bool = True

    def draw(self, random: np.random.Generator, time: int, count: int) -> Batch:
        batch = empty(time, count)
        rows = np.arange(count)
        first = time - 1 - self.lag
        second = random.integers(first + 1, time, size=count)
        numbers = random.uniform(size=(time, count))
        batch.x[first:, :, 0] = numbers[first:]
        batch.x[first, :, 1] = 1
        batch.x[second, rows, 1] = 1
        batch.values[-1] = numbers[first] + numbers[second, rows]
        batch.asked[-1] = 1
        return batch


@dataclass(frozen=True)
class Copying:
    """Two symbols, then nothing, then both are asked for in their order. Each was to be
    remembered for `lag` steps."""

    lag: int
    sums: bool = False

    def draw(self, random: np.random.Generator, time: int, count: int) -> Batch:
        batch = empty(time, count)
        symbols = random.integers(SYMBOLS, size=(2, count))
        for place in range(2):
            asked = time - 2 + place
            batch.x[asked - self.lag, :, :SYMBOLS] = np.eye(SYMBOLS)[symbols[place]]
            batch.x[asked, :, SYMBOLS] = 1
            batch.labels[asked] = symbols[place]
            batch.asked[asked] = 1
        return batch


WORDS = ("cat", "cats", "dog", "dogs", "that", "verb")


@dataclass(frozen=True)
class Agreement:
    """The cat(s) that the dog(s), that the dog(s), ... was or were: the verb agrees with
    the first word, whatever stands between. `between`: how many dogs; None draws it."""

    between: int | None = None
    sums: bool = False

    def draw(self, random: np.random.Generator, time: int, count: int) -> Batch:
        batch = empty(time, count)
        most = (time - 2) // 2
        for row in range(count):
            between = self.between
            if between is None:
                between = random.integers(most + 1)
            subject = random.integers(2)
            words = [subject]
            for dog in random.integers(2, size=between):
                words += [WORDS.index("that"), 2 + dog]
            words.append(WORDS.index("verb"))
            batch.x[-len(words) :, row] = np.eye(INPUTS)[words]
            batch.labels[-1, row] = subject
        batch.asked[-1] = 1
        return batch


@dataclass(frozen=True)
class Counting:
    """aⁿbⁿ: after each b, does another one come, or the end? `n`: None draws it."""

    n: int | None = None
    sums: bool = False

    def draw(self, random: np.random.Generator, time: int, count: int) -> Batch:
        batch = empty(time, count)
        for row in range(count):
            n = self.n or random.integers(1, time // 2 + 1)
            batch.x[:n, row, 0] = 1
            batch.x[n : 2 * n, row, 1] = 1
            batch.labels[2 * n - 1, row] = 1
            batch.asked[n : 2 * n, row] = 1
        return batch


@dataclass(frozen=True)
class Kind:
    """Networks that differ in learning rate and start alone."""

    cell: str
    task: Adding | Copying | Agreement | Counting
    keep_bias: float = 1.0
    """first bias of the gate that keeps the memory"""


def draw_network(random: np.random.Generator, kind: Kind, units: int) -> Network:
    """The first weights: orthogonal from state to state, Glorot's elsewhere."""
    blocks = len(BLOCKS)
    recurrent = [
        np.linalg.qr(random.normal(size=(units, units)))[0] for _ in range(blocks)
    ]
    bias = np.zeros((blocks, units))
    bias[BLOCKS.index("keep")] = kind.keep_bias
    return Network(
        Weights(
            np.hstack([glorot(random, INPUTS, units) for _ in range(blocks)]),
            np.hstack(recurrent),
            bias.reshape(1, -1),
            np.zeros((1, 3 * units)),
        ),
        glorot(random, units, OUTPUTS),
        np.zeros((1, OUTPUTS)),
    )


def glorot(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return random.normal(scale=np.sqrt(2 / (rows + columns)), size=(rows, columns))


def stacked(items: list):
    """Nested tuples of arrays as one, with an axis in front."""
    return tf.nest.map_structure(lambda *each: np.stack(each).astype("float32"), *items)


class Stack:
    """Networks of all kinds, rates and starts, trained at once by Adam."""

    def __init__(self, kinds: list[Kind], config: Config, seed: int):
        self.kinds = kinds
        self.config = config
        self.shape = len(kinds), len(LEARNING_RATES), config.starts
        self.random = np.random.default_rng(seed)
        each = [
            (kind, start)
            for kind in kinds
            for _ in LEARNING_RATES
            for start in range(config.starts)
        ]
        networks = [
            draw_network(np.random.default_rng([seed, start]), kind, config.units)
            for kind, start in each
        ]
        self.network = tf.nest.map_structure(tf.Variable, stacked(networks))
        self.mean = tf.nest.map_structure(zeros_like, self.network)
        self.square = tf.nest.map_structure(zeros_like, self.network)
        wirings = [WIRINGS[kind.cell] for kind, _ in each]
        self.wiring = Wiring(*[column(part) for part in zip(*wirings, strict=True)])
        rates = np.repeat(LEARNING_RATES, config.starts)
        self.rates = column(np.tile(rates, len(kinds)))

        self.tasks = list(dict.fromkeys(kind.task for kind in kinds))
        self.task_of = np.array([self.tasks.index(kind.task) for kind, _ in each])
        self.sums = tf.constant([float(kind.task.sums) for kind, _ in each])

    def draw(self, count: int) -> list[np.ndarray]:
        """Of each task: x, labels, values and what is asked, (time, tasks, ...) each."""
        time = self.config.time
        drawn = [task.draw(self.random, time, count) for task in self.tasks]
        parts = ("x", "labels", "values", "asked")
        return [
            np.stack([getattr(batch, part) for batch in drawn], axis=1)
            for part in parts
        ]

    def losses(self, network: Network, x, labels, values, asked):
        """Cross-entropy in nats, of sums the squared error: the mean over what is asked,
        (networks,)."""
        scores = scores_of(network, self.wiring, self.own(x))
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
            self.own(labels), scores
        )
        squares = tf.square(scores[..., 0] - self.own(values))
        sums = self.sums[:, tf.newaxis]
        found = sums * squares + (1 - sums) * entropy
        asked = self.own(asked)
        return tf.reduce_sum(found * asked, (0, 2)) / tf.reduce_sum(asked, (0, 2))

    def own(self, of_tasks):
        """(time, tasks, ...) as (time, networks, ...)."""
        return tf.gather(of_tasks, self.task_of, axis=1)

    @tf.function(jit_compile=True)
    def update_many(self, done, x, labels, values, asked):
        """A step of all networks on each batch, (steps, time, tasks, ...). done: steps so
        far."""
        for k in tf.range(CALL):
            network = tf.nest.map_structure(tf.identity, self.network)
            with tf.GradientTape() as tape:
                tape.watch(tf.nest.flatten(network))
                losses = self.losses(network, x[k], labels[k], values[k], asked[k])
                loss = tf.reduce_sum(losses)  # no network's depends on another
            gradients = tape.gradient(loss, tf.nest.flatten(network))
            self.descend(clip_by_norm(gradients), done + tf.cast(k + 1, tf.float32))

    def descend(self, gradients, step):
        """Adam, at each network's own rate."""
        weights = tf.nest.flatten(self.network)
        means = tf.nest.flatten(self.mean)
        squares = tf.nest.flatten(self.square)
        for i, gradient in enumerate(gradients):
            means[i].assign(0.9 * means[i] + 0.1 * gradient)
            squares[i].assign(0.99 * squares[i] + 0.01 * gradient**2)
            mean = means[i] / (1 - 0.9**step)
            size = tf.sqrt(squares[i] / (1 - 0.99**step)) + 1e-7
            weights[i].assign_sub(self.rates * mean / size)

    def judge(self) -> np.ndarray:
        """Losses on fresh sequences, (kinds, rates, starts)."""
        losses = self.losses(self.network, *self.draw(JUDGED))
        return losses.numpy().reshape(self.shape)

    def part(self, numbers) -> tuple[Network, Wiring]:
        """Some of the networks."""
        network = tf.nest.map_structure(
            lambda weights: tf.gather(weights, numbers), self.network
        )
        return network, Wiring(*[part[numbers] for part in self.wiring])


def zeros_like(variable: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros_like(variable))


def column(values) -> np.ndarray:
    """(networks,) as (networks, 1, 1)."""
    return np.array(values, "float32")[:, np.newaxis, np.newaxis]


def clip_by_norm(gradients):
    """Each network's to at most 1."""
    squares = [tf.reduce_sum(part**2, (1, 2), keepdims=True) for part in gradients]
    factors = tf.minimum(1.0, tf.math.rsqrt(tf.add_n(squares) + 1e-12))
    return [part * factors for part in gradients]


@dataclass
class Learned:
    """The networks of each kind, at the rate that is best for it on validation
    sequences."""

    stack: Stack
    best: np.ndarray
    """places of the rates, (kinds,)"""
    test: np.ndarray
    """losses, (kinds, rates, starts)"""

    def losses(self, kind: Kind) -> np.ndarray:
        """(starts,)."""
        place = self.stack.kinds.index(kind)
        return self.test[place, self.best[place]]

    def networks(self, kind: Kind) -> tuple[Network, Wiring]:
        place = self.stack.kinds.index(kind)
        numbers = np.arange(self.test.size).reshape(self.test.shape)
        return self.stack.part(numbers[place, self.best[place]])


def train(kinds: list[Kind], config: Config, run: Run) -> Learned:
    stack = Stack(kinds, config, run.seed)
    calls = max(1, config.steps // CALL)
    kept = [*tf.nest.flatten((stack.network, stack.mean, stack.square)), stack.random]
    name = f"{len(stack.task_of)} networks"
    for call in run.loop(name, calls, {"all": kept}, unit="calls"):
        batches = [stack.draw(config.batch_size) for _ in range(CALL)]
        parts = [np.stack(part) for part in zip(*batches, strict=True)]
        stack.update_many(tf.constant(float(CALL * call)), *parts)
    best = stack.judge().mean(axis=-1).argmin(axis=1)
    return Learned(stack, best, stack.judge())


def accuracy_of(networks: tuple[Network, Wiring], batch: Batch) -> np.ndarray:
    """Share of the networks that answer all that is asked of a sequence, (batch,)."""
    network, wiring = networks
    count = network.output.shape[0]
    x = np.repeat(batch.x[:, np.newaxis], count, axis=1)
    answers = tf.argmax(scores_of(network, wiring, x), axis=-1).numpy()
    is_right = answers == batch.labels[:, np.newaxis]
    all_right = np.all(is_right | (batch.asked[:, np.newaxis] == 0), axis=0)
    return all_right.mean(axis=0)


def as_model(network: Network, kind: str, number: int) -> keras.Model:
    """One network of a stack as Keras's layers around its own kind of cell."""
    cell = CELLS[kind]
    units = network.output.shape[-2]
    classes = network.output.shape[-1]
    model = build_model(kind, INPUTS, units, classes)
    parts = []
    for part in network.cell[:3]:
        blocks = np.split(part[number].numpy(), len(BLOCKS), axis=-1)
        own = [blocks[BLOCKS.index(name)] for name in cell.blocks]
        parts.append(np.hstack(own))
    if cell.extra:
        parts.append(network.cell.extra[number])
    output = network.output[number]
    model.set_weights([*parts, output, network.output_bias[number, 0]])
    return model


def kinds_of(config: Config) -> list[Kind]:
    kinds = []
    for cell in config.cells:
        for task in tasks_of(config):
            kinds.append(Kind(cell, task))
    if "LSTM" in config.cells:
        far = tasks_of(config)[2]
        kinds += [Kind("LSTM", far, bias) for bias in BIASES[1:]]
    return kinds


def tasks_of(config: Config) -> list:
    time = config.time
    return [
        Adding(time // 3),
        Adding(time - 2),
        Copying(time - 3),
        Agreement(),
        Counting(),
    ]


def check(config: Config) -> None:
    for name in config.cells:
        if name not in WIRINGS:
            known = ", ".join(f'"{each}"' for each in WIRINGS)
            raise UsageError(f"--cells {name}: there is no such cell, but {known}")
    if len(set(config.cells)) < len(config.cells):
        raise UsageError("--cells names one of them twice")


def judge_memory(learned: Learned, config: Config, run: Run) -> dict[str, dict]:
    """Who adds and copies over which lag. Returns the losses of all starts, by task and
    cell."""
    near, far, copying, *_ = tasks_of(config)
    found = {}
    for name, task in {
        f"Adding over {far.lag} steps: squared error": far,
        f"Adding over {near.lag} steps: squared error": near,
        f"Copying over {copying.lag} steps: loss in nats": copying,
    }.items():
        found[name] = {cell: learned.losses(Kind(cell, task)) for cell in config.cells}
        means = {cell: losses.mean() for cell, losses in found[name].items()}
        prefix = "adding_mse" if task.sums else "copying_loss"
        run.metrics(f"{prefix}_lag_{task.lag}", means)
    return found


def judge_cells(learned: Learned, config: Config, run: Run) -> None:
    """That gates help wherever a memory is needed is not claimed: an Elman cell whose
    first weights are orthogonal copies as well, or better."""
    if not run.has("--cells", config.cells, "Elman", "GRU"):
        return
    far = tasks_of(config)[1]
    adding = {cell: learned.losses(Kind(cell, far)).mean() for cell in ("Elman", "GRU")}
    run.compare(
        f"A GRU adds over {far.lag} steps, where a cell without gates learns little: "
        "squared error, 1/6 for one who always says the mean",
        adding,
        more="Elman",
        less="GRU",
        times=3,
    )


def judge_biases(learned: Learned, config: Config, run: Run) -> dict[str, np.ndarray]:
    """Returns the losses of all starts, by the first bias of the forget gate."""
    if not run.has("--cells", config.cells, "LSTM"):
        return {}
    copying = tasks_of(config)[2]
    losses = {
        f"forget bias {bias:g}": learned.losses(Kind("LSTM", copying, bias))
        for bias in BIASES
    }
    means = {name: found.mean() for name, found in losses.items()}
    for bias, mean in zip(("1", "0", "minus_1"), means.values(), strict=True):
        run.metric(f"copying_loss_forget_bias_{bias}", mean, unit="nats")
    run.compare(
        f"A forget gate that begins open learns to copy over {copying.lag} steps, one "
        "that begins shut does not: loss, each at its own best rate",
        means,
        more="forget bias -1",
        less="forget bias 1",
        times=1.5,
    )
    return losses


def n_gram_accuracies(config: Config, random: np.random.Generator) -> dict:
    """By order, then by the number of dogs: how often the more frequent verb after the
    last few words is right, counted on as many sentences as a network has seen."""
    seen = Agreement().draw(random, config.time, config.steps * config.batch_size)
    found = {}
    for order in N_GRAMS:
        counts = Counter(zip(contexts(seen, order), seen.labels[-1], strict=True))
        found[order] = {}
        for between in distances_of(config):
            batch = Agreement(between).draw(random, config.time, JUDGED)
            guesses = [
                counts[context, 1] > counts[context, 0]
                for context in contexts(batch, order)
            ]
            found[order][between] = np.mean(guesses == batch.labels[-1])
    return found


def judge_agreement(
    cells: dict[str, dict[int, float]], n_grams: dict[int, dict[int, float]], run: Run
) -> None:
    farthest = max(n_grams[N_GRAMS[0]])
    at_end = {cell: found[farthest] for cell, found in cells.items()}
    run.metrics(f"agreement_accuracy_{farthest}_dogs_between", at_end)
    gated = [accuracy for cell, accuracy in at_end.items() if cell != "Elman"]
    if not gated:
        return
    order = max(N_GRAMS)
    best = n_grams[order][farthest]
    found = ", ".join(f"{cell} {accuracy:.2f}" for cell, accuracy in at_end.items())
    run.claim(
        f"With gates a verb agrees with its subject across {farthest} other nouns. An "
        f"n-gram of {order} words guesses where the subject lies further back",
        holds=min(gated) > 0.9 and best < 0.7 and n_grams[order][1] > 0.9,
        measured=f"accuracy {found}; n-gram {best:.2f}, across one noun "
        f"{n_grams[order][1]:.2f}",
    )


def judge_counting(
    cells: dict[str, dict[int, float]], config: Config, run: Run
) -> None:
    trained_to = config.time // 2
    reach = {cell: longest_count(found) for cell, found in cells.items()}
    run.metrics("counts_to", reach, unit=f"n of aⁿbⁿ, trained to {trained_to}")
    beyond = {
        cell: float(np.mean([found[n] for n in found if n > trained_to]))
        for cell, found in cells.items()
    }
    run.metrics("counts_beyond", beyond, unit="share of networks, mean over n")
    if run.has("--cells", config.cells, "LSTM", "GRU"):
        run.compare(
            f"Trained to count to {trained_to}, an LSTM counts further than a GRU, whose "
            "state cannot leave (-1, 1): share of networks that tell the end, mean over "
            f"n from {trained_to + 1} to {2 * trained_to}",
            beyond,
            more="LSTM",
            less="GRU",
            times=1.5,
        )


def longest_count(found: dict[int, float]) -> int:
    """The largest n up to which all networks are right; 0 if they fail at 1."""
    reached = 0
    for n, accuracy in found.items():
        if accuracy < 1:
            break
        reached = n
    return reached


def contexts(batch: Batch, order: int) -> list[bytes]:
    """The last words before the verb of each sentence."""
    words = batch.x[-1 - order : -1].argmax(axis=-1) + batch.x[-1 - order : -1].sum(-1)
    return [row.tobytes() for row in words.T]


def distances_of(config: Config) -> range:
    return range((config.time - 2) // 2 + 1)


def joined(batches: list[Batch]) -> Batch:
    """Batches of as many steps as one."""
    parts = [[b.x, b.labels, b.values, b.asked] for b in batches]
    return Batch(*[np.concatenate(part, axis=1) for part in zip(*parts, strict=True)])


def agreement_accuracies(
    learned: Learned, config: Config, random: np.random.Generator
) -> dict[str, dict[int, float]]:
    """By cell, then by the number of dogs between."""
    distances = distances_of(config)
    count = JUDGED // 4
    batch = joined([Agreement(k).draw(random, config.time, count) for k in distances])
    found = {}
    for cell in config.cells:
        accuracies = accuracy_of(learned.networks(Kind(cell, Agreement())), batch)
        means = accuracies.reshape(len(distances), count).mean(axis=1)
        found[cell] = dict(zip(distances, means.tolist(), strict=True))
    return found


def counting_accuracies(
    learned: Learned, config: Config
) -> dict[str, dict[int, float]]:
    """By cell, then by n: the share of networks that tell the end of aⁿbⁿ."""
    numbers = range(1, 2 * (config.time // 2) + 1)
    random = np.random.default_rng(0)  # a sequence of known n leaves nothing to draw
    time = 2 * max(numbers)
    batch = joined([Counting(n).draw(random, time, 1) for n in numbers])
    found = {}
    for cell in config.cells:
        accuracies = accuracy_of(learned.networks(Kind(cell, Counting())), batch)
        found[cell] = dict(zip(numbers, accuracies.tolist(), strict=True))
    return found


def memory_while_counting(learned: Learned, n: int) -> np.ndarray:
    """The memories of an LSTM's units while it reads aⁿbⁿ, (2 n, units)."""
    network, wiring = learned.networks(Kind("LSTM", Counting()))
    batch = Counting(n).draw(np.random.default_rng(0), 2 * n, 1)
    x = np.repeat(batch.x[:, np.newaxis], network.output.shape[0], axis=1)
    _, memories = run_states(network, wiring, x)
    return memories[:, 0, 0].numpy()


def counters(memory: np.ndarray) -> np.ndarray:
    """The units, those first whose memory follows the number of a's less that of b's
    best: the size of its correlation. memory: (2 n, units)."""
    n = len(memory) // 2
    count = np.append(np.arange(1, n + 1), np.arange(n - 1, -1, -1))
    deviations = memory - memory.mean(axis=0)
    of_count = count - count.mean()
    lengths = np.linalg.norm(deviations, axis=0) * np.linalg.norm(of_count)
    alike = of_count @ deviations / np.maximum(lengths, 1e-9)
    return np.argsort(-np.abs(alike))


def draw_losses(losses: dict[str, dict[str, np.ndarray]]) -> Figure:
    shown = [
        figures.Panel(title=name, xlabel=name.split(": ")[1], bars=of_cells)
        for name, of_cells in losses.items()
    ]
    for panel in shown:
        panel.title = panel.title.split(": ")[0]
    return figures.panels(*shown)


def draw_biases(losses: dict[str, np.ndarray], lag: int) -> Figure:
    panel = figures.Panel(
        title=f"An LSTM that is to copy over {lag} steps, by its first forget bias",
        xlabel="loss in nats",
        bars=losses,
        levels={"chance": np.log(SYMBOLS)},
    )
    return figures.panels(panel)


def draw_agreement(
    cells: dict[str, dict[int, float]], n_grams: dict[int, dict[int, float]]
) -> Figure:
    lines = {cell: curve(found) for cell, found in cells.items()}
    for order, found in n_grams.items():
        lines[f"n-gram of {order}"] = curve(found)
    panel = figures.Panel(
        title="The cat(s) that the dog(s) ... was or were",
        xlabel="nouns between subject and verb",
        ylabel="accuracy on test sentences",
        lines=lines,
        ylim=(0.4, 1.05),
    )
    return figures.panels(panel)


def curve(found: dict[int, float]) -> tuple[list, list]:
    return list(found), list(found.values())


def draw_counting(
    cells: dict[str, dict[int, float]], memory: np.ndarray | None, trained_to: int
) -> Figure:
    """Who counts how far, and the memory of an LSTM while it counts."""
    by_n = figures.Panel(
        title=f"The end of aⁿbⁿ, trained to n = {trained_to}",
        xlabel="n",
        ylabel="share of networks that tell it",
        xticks=range(0, 2 * trained_to + 1, max(1, trained_to // 4)),
        lines={cell: curve(found) for cell, found in cells.items()},
        ylim=(-0.05, 1.05),
    )
    if memory is None:
        return figures.panels(by_n)
    n = len(memory) // 2
    shown = counters(memory)[:3]
    over_time = figures.Panel(
        title=f"Memories of an LSTM, {n} times a, then {n} times b",
        xlabel="letters read",
        ylabel="c of three units",
        lines={f"unit {unit + 1}": memory[:, unit] for unit in shown},
    )
    return figures.panels(by_n, over_time)


def main(config: Config, run: Run) -> None:
    check(config)
    run.plan(1)
    learned = train(kinds_of(config), config, run)
    random = np.random.default_rng([run.seed, 1])
    run.figure("losses", draw_losses(judge_memory(learned, config, run)))
    judge_cells(learned, config, run)
    by_bias = judge_biases(learned, config, run)
    if by_bias:
        run.figure("forget_bias", draw_biases(by_bias, config.time - 3))

    agreement = agreement_accuracies(learned, config, random)
    n_grams = n_gram_accuracies(config, random)
    judge_agreement(agreement, n_grams, run)
    run.figure("agreement", draw_agreement(agreement, n_grams))

    counting = counting_accuracies(learned, config)
    judge_counting(counting, config, run)
    trained_to = config.time // 2
    memory = None
    if "LSTM" in config.cells:
        memory = memory_while_counting(learned, trained_to)
    run.figure("counting", draw_counting(counting, memory, trained_to))

    shown = config.cells[-1]
    network, _ = learned.networks(Kind(shown, Agreement()))
    model = as_model(network, shown, 0)
    run.export(model, example=np.array([[0, 4, 3, 4, 2, 5]], "int32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
