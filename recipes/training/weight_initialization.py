"""Weight initialization: first weights that let signals through many layers.

A layer of n inputs multiplies the variance of what comes in by n·Var(w). After L layers
that is (n·Var(w))ᴸ: a little less than 1 for each and nothing arrives, a little more
and it explodes; and the gradient on its way back meets the same numbers. Xavier takes
Var(w) = 1/n, which keeps the variance through tanh; a ReLU lets half of it through, so
He takes 2/n. Orthogonal kernels keep the length of every single input. And equal
weights, zeros among them, stay equal: their neurons all learn the same.
Look at the histograms layer by layer, at the gradients, and at who learns.

Lectures: ICME Weight Initialization; CS Initialization; SEL Activations, Initializing
    Weights; N18 1.2.4 Initialization; INFO 5 Training
Paper: Glorot and Bengio, Understanding the difficulty of training deep feedforward
    neural networks, 2010; He et al., Delving deep into rectifiers, 2015 (equation 10);
    Saxe et al., Exact solutions to the nonlinear dynamics of learning, 2014
Tags: xavier, glorot, kaiming, he initialization, orthogonal, vanishing gradient,
    exploding gradient
"""

from collections.abc import Callable
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
    depth: Annotated[int, Interval(ge=4)] = 16
    """hidden layers"""
    units: Annotated[int, Interval(ge=2)] = 64
    """width of each"""
    starts: int = 3
    """networks of each kind"""
    epochs: int = 8
    """passes over the training images"""
    batch_size: int = 64
    """examples a gradient is averaged over"""


QUICK = Config(depth=12, starts=1, epochs=3)
FULL = Config(depth=32, units=128, starts=10, epochs=30)

# --------------------------------------------------------------------------------------
# The idea: how large the first weights are
# --------------------------------------------------------------------------------------

# Each function draws a kernel (inputs, outputs).


def zeros(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer="zeros" """
    return np.zeros((inputs, outputs))


def constant(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer=keras.initializers.Constant(0.02)"""
    return np.full((inputs, outputs), 0.02)


def small(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer=keras.initializers.RandomNormal(stddev=0.01)"""
    return random.normal(scale=0.01, size=(inputs, outputs))


def large(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer=keras.initializers.RandomNormal(stddev=1)"""
    return random.normal(scale=1, size=(inputs, outputs))


def xavier(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer="lecun_normal"; where a layer has as many outputs as inputs,
    "glorot_normal" is the same"""
    return random.normal(scale=np.sqrt(1 / inputs), size=(inputs, outputs))


def he(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer="he_normal" """
    return random.normal(scale=np.sqrt(2 / inputs), size=(inputs, outputs))


def orthogonal(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """kernel_initializer="orthogonal" """
    tall = random.normal(size=(max(inputs, outputs), min(inputs, outputs)))
    columns, triangle = np.linalg.qr(tall)
    # Without it the signs that QR chooses would not be random.
    columns = columns * np.sign(np.diag(triangle))
    return columns if inputs >= outputs else columns.T


INITIALIZATIONS: dict[str, Callable] = {
    "zeros": zeros,
    "constant": constant,
    "small": small,
    "large": large,
    "Xavier": xavier,
    "He": he,
    "orthogonal": orthogonal,
}


def build_network(
    activation: str,
    depth: int = 16,
    units: int = 64,
    inputs: int = 64,
    classes: int = 10,
) -> keras.Model:
    """A deep dense network.

    Input: (batch, inputs), of mean square 1. Output: (batch, classes) logits.
    """
    x = hidden = keras.Input((inputs,), name="x")
    for index in range(1, depth + 1):
        hidden = layers.Dense(units, activation, name=f"hidden_{index}")(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(x, logits, name="network")


def set_first_weights(
    network: keras.Model, initialize: Callable, random: np.random.Generator
) -> None:
    """Kernels of one kind, and biases of 0."""
    for layer in network.layers[1:]:
        kernel = initialize(random, *layer.kernel.shape)
        layer.set_weights([kernel, np.zeros(layer.units)])


def signals(
    network: keras.Model, x: np.ndarray, y: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What each hidden layer gives, and the loss's gradient by that: (examples, units)
    for each layer."""
    hidden = [layer.output for layer in network.layers[1:-1]]
    opened = keras.Model(network.input, [*hidden, network.output])
    with tf.GradientTape() as tape:
        *activations, logits = opened(tf.constant(x))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, activations)
    return [each.numpy() for each in activations], [each.numpy() for each in gradients]


def root_mean_squares(values: list[np.ndarray]) -> np.ndarray:
    """(layers,)"""
    return np.array(
        [np.sqrt(np.mean(np.square(each, dtype="float64"))) for each in values]
    )


def different_neurons(kernel: np.ndarray) -> int:
    """Neurons of a layer whose incoming weights are no other's. kernel: (inputs,
    units)."""
    return len(np.unique(np.round(kernel, 6), axis=1).T)


# --------------------------------------------------------------------------------------
# The experiment: signals before training, and who learns
# --------------------------------------------------------------------------------------

ACTIVATIONS = ("tanh", "relu")
LEARNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # to choose from, for each initialization
MOMENTUM = 0.9
GAINS = (0.5, 1.0, 1.5)  # of linear layers: standard deviation times √n


@dataclass
class Trained:
    """Networks of one activation, (initializations, rates, starts, ...)."""

    validation: np.ndarray
    """accuracies on images that no gradient has seen"""
    test: np.ndarray
    """accuracies on the test images"""
    rows: np.ndarray
    """weights"""

    def chosen(self, name: str) -> int:
        """The place of the rate that validates best for an initialization."""
        index = list(INITIALIZATIONS).index(name)
        return int(self.validation[index].mean(axis=-1).argmax())

    def accuracies(self) -> dict[str, np.ndarray]:
        """Test accuracies at the rate chosen, (starts,), by initialization."""
        return {
            name: self.test[index, self.chosen(name)]
            for index, name in enumerate(INITIALIZATIONS)
        }


@tf.function(jit_compile=True)
def train_epoch(model, rows, velocity, rates, batches, x, y):
    """Gradient descent with momentum, a step of all networks on each batch. rows,
    velocity: variables (networks, weights). rates: (networks, 1)."""
    for batch in batches:
        gradients = stacks.gradients(
            model, rows, tf.gather(x, batch), tf.gather(y, batch)
        )
        velocity.assign(MOMENTUM * velocity + gradients)
        rows.assign_sub(rates * velocity)


@tf.function(jit_compile=True)
def answers(model, rows, x):
    """(networks, examples) classes."""
    return tf.argmax(stacks.call(model, rows, x), axis=-1)


def train(activation: str, parts, config: Config, run: Run) -> Trained:
    """All initializations at all rates from all starts, at once."""
    (x, y), (x_valid, y_valid), (x_test, y_test) = parts
    random = np.random.default_rng(run.seed)
    model = build_network(activation, config.depth, config.units)
    first = []
    for initialize in INITIALIZATIONS.values():
        for _ in range(config.starts):
            set_first_weights(model, initialize, random)
            first.append(stacks.row_of(model))
    # The same starts for each of the rates.
    shape = len(INITIALIZATIONS), len(LEARNING_RATES), config.starts
    of_rates = np.reshape(first, (shape[0], 1, shape[2], -1))
    rows = np.repeat(of_rates, shape[1], axis=1).reshape(np.prod(shape), -1)
    rows = tf.Variable(rows)
    velocity = tf.Variable(tf.zeros_like(rows))
    rates = np.repeat(LEARNING_RATES, config.starts)
    rates = np.tile(rates, len(INITIALIZATIONS))[:, np.newaxis].astype("float32")

    state = {"all": [rows, velocity, random]}
    name = f"{len(rates)} networks, {activation}"
    for _ in run.loop(name, config.epochs, state, unit="epochs"):
        steps = len(x) // config.batch_size
        order = random.permutation(len(x))[: steps * config.batch_size]
        batches = tf.constant(order.reshape(steps, -1))
        train_epoch(model, rows, velocity, tf.constant(rates), batches, x, y)

    validation = np.mean(answers(model, rows, x_valid) == y_valid, axis=1)
    test = np.mean(answers(model, rows, x_test) == y_test, axis=1)
    return Trained(
        validation.reshape(shape),
        test.reshape(shape),
        rows.numpy().reshape(*shape, -1),
    )


def load_parts(run: Run):
    """Digits to train on, to choose by and to report, standardized as a whole."""
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    mean = x.mean()
    deviation = x.std()
    x = (x - mean) / deviation
    x_test = (x_test - mean) / deviation
    rows = np.random.default_rng(run.seed).permutation(len(x))
    held_out, rest = np.split(rows, [len(x) // 5])
    return (
        (tf.constant(x[rest]), tf.constant(y[rest])),
        (tf.constant(x[held_out]), y[held_out]),
        (tf.constant(x_test), y_test),
    )


def signals_of_each(activation: str, x, y, config: Config, seed: int):
    """By initialization what `signals` gives."""
    network = build_network(activation, config.depth, config.units)
    found = {}
    for name, initialize in INITIALIZATIONS.items():
        set_first_weights(network, initialize, np.random.default_rng(seed))
        found[name] = signals(network, x, y)
    return found


def growth(
    initialize: Callable,
    x: np.ndarray,
    depth: int,
    random: np.random.Generator,
    gain: float = 1.0,
    relu: bool = False,
) -> float:
    """By how much the root mean square grows through layers whose kernels are times a
    gain, linear or with ReLU: the geometric mean of ten networks."""
    found = []
    for _ in range(10):
        hidden = x
        for _ in range(depth):
            units = hidden.shape[1]
            hidden = hidden @ (gain * initialize(random, units, units))
            if relu:
                hidden = np.maximum(hidden, 0)
        found.append(root_mean_squares([hidden])[0] / root_mean_squares([x])[0])
    return float(np.exp(np.mean(np.log(found))))


def judge_signals(before, config: Config, x, run: Run) -> None:
    """before: (activations, gradients) by activation function and initialization."""
    random = np.random.default_rng(run.seed)
    grown = {
        gain: growth(xavier, x[:100], config.depth, random, gain=gain) for gain in GAINS
    }
    expected = {gain: gain**config.depth for gain in GAINS}
    run.claim(
        f"What a layer does to the size of a signal, {config.depth} layers do to its "
        "power: half vanishes, one and a half explodes",
        holds=all(0.5 < grown[gain] / expected[gain] < 2 for gain in GAINS),
        measured="linear layers: "
        + ", ".join(
            f"{gain:g} gives {grown[gain]:.2g} ({gain:g}^{config.depth} = "
            f"{expected[gain]:.2g})"
            for gain in GAINS
        ),
    )

    small_in_tanh = last_of_first(before["tanh"]["small"][0])
    large_in_relu = last_of_first(before["relu"]["large"][0])
    flat = {name: saturated(before["tanh"][name][0]) for name in ("large", "Xavier")}
    run.claim(
        "Small weights let nothing through; large ones saturate tanh, which Xavier's do "
        "not, and explode ReLU",
        holds=small_in_tanh < 1e-6
        and flat["large"] > 0.5
        and flat["Xavier"] < 0.05
        and large_in_relu > 1e6,
        measured=f"last layer of first: small {small_in_tanh:.0e} in tanh, large "
        f"{large_in_relu:.0e} in ReLU; of tanh beyond 0.99: large {flat['large']:.0%}, "
        f"Xavier {flat['Xavier']:.1%}",
    )
    judge_relu(x[:100], config, run)
    backward = {
        name: last_of_first(gradients[::-1])
        for name, (_, gradients) in before["tanh"].items()
    }
    run.claim(
        "Through tanh Xavier's let the gradient back to the first layer; small weights "
        "do not",
        holds=backward["Xavier"] > 0.1 and backward["small"] < 1e-6,
        measured=f"gradient at the first layer, of that at the last: Xavier "
        f"{backward['Xavier']:.2g}, small {backward['small']:.0e}",
    )


def judge_relu(x: np.ndarray, config: Config, run: Run) -> None:
    """He's weights with the ReLU that they are made for and without, beside Xavier's.
    Each draws weights of its own: of the same ones He's are Xavier's times √2."""
    random = np.random.default_rng(run.seed)
    depth = config.depth
    with_relu = growth(he, x, depth, random, relu=True)
    without = growth(he, x, depth, random)
    of_xavier = growth(xavier, x, depth, random, relu=True)
    doubled = 2 ** (depth / 2)
    run.claim(
        f"He's keep a ReLU network's signal through {depth} layers (within a factor of 3); "
        "Xavier's lose half of its variance in each, and He's double it where there is no "
        "ReLU",
        holds=1 / 3 < with_relu < 3
        and 1 / 3 < of_xavier * doubled < 3
        and 1 / 3 < without / doubled < 3,
        measured=f"last layer of the input: He {with_relu:.2g}, Xavier {of_xavier:.2g} "
        f"({1 / doubled:.2g} expected), He without ReLU {without:.3g} ({doubled:.3g} "
        "expected)",
    )


def last_of_first(values: list[np.ndarray]) -> float:
    sizes = root_mean_squares(values)
    return float(sizes[-1] / sizes[0]) if sizes[0] else 0.0


def saturated(activations: list[np.ndarray]) -> float:
    """Share of tanh's outputs that have almost no slope."""
    return float(np.mean([np.mean(np.abs(each) > 0.99) for each in activations]))


def judge_lengths(config: Config, x: np.ndarray, run: Run) -> None:
    """Orthogonal and Gaussian kernels in a linear network: what each input's length
    becomes."""
    random = np.random.default_rng(run.seed)
    spreads = {}
    for name in ("Xavier", "orthogonal"):
        hidden = x
        for _ in range(config.depth):
            kernel = INITIALIZATIONS[name](random, hidden.shape[1], hidden.shape[1])
            hidden = hidden @ kernel
        ratios = np.linalg.norm(hidden, axis=1) / np.linalg.norm(x, axis=1)
        spreads[name] = float(ratios.max() / ratios.min())
    run.claim(
        "Orthogonal kernels keep the length of every input, Gaussian ones stretch some "
        "more than others",
        holds=spreads["orthogonal"] < 1.001 and spreads["Xavier"] > 1.5,
        measured=f"longest of shortest after {config.depth} linear layers: orthogonal "
        f"{spreads['orthogonal']:.4f}, Xavier {spreads['Xavier']:.2f} times",
    )


def judge_training(trained: dict[str, Trained], config: Config, run: Run) -> None:
    means = {}
    for activation, found in trained.items():
        means[activation] = {
            name: float(each.mean()) for name, each in found.accuracies().items()
        }
    run.metric("test_accuracy", means["relu"]["He"])
    for activation, of_each in means.items():
        run.metrics(f"test_accuracy_{activation}", of_each)

    wrong = ("zeros", "constant", "small", "large")
    best_wrong = max(wrong, key=means["tanh"].get)
    xavier_or_he = min(("Xavier", "He"), key=means["tanh"].get)
    run.compare(
        "A deep tanh network learns from Xavier's weights and from He's, not from equal, "
        "small or large ones",
        {name: means["tanh"][name] for name in ("Xavier", "He", best_wrong)},
        more=xavier_or_he,
        less=best_wrong,
        by=0.1,
    )
    run.compare(
        "A deep ReLU network wants He's: Xavier's do not get it as far in this time",
        {name: means["relu"][name] for name in ("He", "Xavier")},
        more="He",
        less="Xavier",
        by=0.1,
    )

    neurons = {}
    for name in ("constant", "Xavier"):
        index = list(INITIALIZATIONS).index(name)
        found = trained["tanh"]
        row = found.rows[index, found.chosen(name), 0]
        kernel = row[: 64 * config.units].reshape(64, config.units)
        neurons[name] = different_neurons(kernel)
    run.claim(
        "Neurons that begin equal stay equal as they learn",
        holds=neurons["constant"] == 1 and neurons["Xavier"] == config.units,
        measured=f"different neurons of {config.units} in the first layer after "
        f"{config.epochs} epochs: constant {neurons['constant']}, Xavier "
        f"{neurons['Xavier']}",
    )


def draw_histograms(before, depth: int) -> plt.Figure:
    """tanh's outputs, by layer and initialization."""
    shown = ("small", "large", "Xavier", "orthogonal")
    layers_shown = [1, depth // 2, depth]
    figure, grid = plt.subplots(len(shown), len(layers_shown), figsize=(10, 7))
    for name, row in zip(shown, grid, strict=True):
        activations, _ = before["tanh"][name]
        for layer, axes in zip(layers_shown, row, strict=True):
            axes.hist(activations[layer - 1].ravel(), np.linspace(-1, 1, 41))
            axes.set(yticks=[], xlim=(-1.05, 1.05))
            if name == shown[0]:
                axes.set_title(f"layer {layer}")
            if name == shown[-1]:
                axes.set_xlabel("tanh's output")
        row[0].set_ylabel(name)
    figure.suptitle("Outputs of a deep tanh network before training")
    return figure


def draw_signals(of_function, activation: str) -> plt.Figure:
    """Sizes of activations and gradients by layer."""
    shown = []
    for place, title in enumerate(("outputs, forward", "their gradients, backward")):
        lines = {
            name: np.maximum(root_mean_squares(found[place]), 1e-16)
            for name, found in of_function.items()
            if name not in ("zeros", "constant")
        }
        panel = figures.Panel(
            title=f"{activation}: {title}",
            xlabel="layer",
            ylabel="root mean square",
            lines=lines,
            yscale="log",
        )
        shown.append(panel)
    return figures.panels(*shown)


def draw_accuracies(trained: dict[str, Trained]) -> plt.Figure:
    shown = [
        figures.Panel(
            title=activation,
            xlabel="accuracy on held-out digits",
            bars=found.accuracies(),
            levels={"chance": 0.1},
            number="{:.3f}",
        )
        for activation, found in trained.items()
    ]
    return figures.panels(*shown, title="Who learns, each at its own learning rate")


def main(config: Config, run: Run) -> None:
    run.plan(len(ACTIVATIONS))
    parts = load_parts(run)
    (x, y), _, _ = parts
    some = x[:500].numpy()
    labels = y[:500].numpy()
    before = {
        activation: signals_of_each(activation, some, labels, config, run.seed)
        for activation in ACTIVATIONS
    }
    judge_signals(before, config, some, run)
    judge_lengths(config, some, run)
    run.figure("histograms", draw_histograms(before, config.depth))
    for activation, of_function in before.items():
        run.figure(f"signals_{activation}", draw_signals(of_function, activation))

    trained = {
        activation: train(activation, parts, config, run) for activation in ACTIVATIONS
    }
    judge_training(trained, config, run)
    run.figure("accuracies", draw_accuracies(trained))

    found = trained["relu"]
    index = list(INITIALIZATIONS).index("He")
    model = build_network("relu", config.depth, config.units)
    stacks.set_weights(model, found.rows[index, found.chosen("He"), 0])
    run.export(serving.classifier(model), example=some[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
