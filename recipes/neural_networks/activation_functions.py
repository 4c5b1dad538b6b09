"""Activation functions: what bends a layer, and what each bend costs.

Sigmoid and tanh squash; far from 0 their slope is almost 0, they saturate, and through
many layers little of the gradient is left. ReLU, max(0, x), passes it on whole, or not
at all: a unit that is below 0 for every example gets no gradient any more, it is dead.
Leaky ReLU, PReLU (a slope that is learned) and ELU keep a slope there; maxout, the
larger of two linear functions, contains ReLU and leaky ReLU, and takes twice the
weights. What is never negative gives all weights of a neuron gradients of one sign.
Softmax is for the last layer: exp(zᵢ) / Σ exp(zⱼ) makes probabilities of scores, and
saturates as a sigmoid does unless the loss is −log p.
Look at the slopes, and at who learns in a deep network.

Lectures: CS Activation functions; N18 1.1.4 Activation Function; INFO 5 Training
Paper: Goodfellow et al., Maxout networks, 2013; He et al., Delving deep into
    rectifiers, 2015 (PReLU); Clevert et al., Fast and accurate deep network learning by
    ELUs, 2016
Tags: relu, leaky relu, prelu, elu, sigmoid, tanh, maxout, vanishing gradient
"""

import timeit
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    depth: int = 6
    """hidden layers of each network"""
    units: int = 64
    """width of each"""
    epochs: int = 15
    """passes over the training images"""
    learning_rate: float = 0.001
    """of Adam"""
    high_learning_rate: float = 0.03
    """at which ReLUs die"""


QUICK = Config(epochs=6)
FULL = Config(data="mnist", units=256, epochs=30)


# --------------------------------------------------------------------------------------
# The idea: what bends a layer, and its slope
# --------------------------------------------------------------------------------------

# Value and slope of each, for x as an array.
FORMULAS = {
    "sigmoid": (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
    ),
    "tanh": (
        lambda x: np.tanh(x),
        lambda x: 1 - np.tanh(x) ** 2,
    ),
    "ReLU": (
        lambda x: np.maximum(0, x),
        lambda x: np.where(x > 0, 1.0, 0.0),
    ),
    "leaky ReLU": (
        lambda x: np.maximum(0.01 * x, x),
        lambda x: np.where(x > 0, 1, 0.01),
    ),
    "ELU": (
        lambda x: np.where(x > 0, x, np.expm1(x)),
        lambda x: np.where(x > 0, 1, np.exp(x)),
    ),
}
LAYERS = {
    "sigmoid": lambda: layers.Activation("sigmoid"),
    "tanh": lambda: layers.Activation("tanh"),
    "ReLU": lambda: layers.ReLU(),
    "leaky ReLU": lambda: layers.LeakyReLU(0.01),
    "PReLU": lambda: layers.PReLU(keras.initializers.Constant(0.25)),
    "ELU": lambda: layers.ELU(),
}


def softmax(z: np.ndarray) -> np.ndarray:
    """exp(zᵢ) / Σ exp(zⱼ), (..., classes): positive, with the sum 1."""
    # It does not change when all z move alike; so exp cannot overflow.
    exponentials = np.exp(z - z.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax_jacobian(p: np.ndarray) -> np.ndarray:
    """∂pᵢ/∂zⱼ = pᵢ (δᵢⱼ − pⱼ) of probabilities (..., classes): all 0 where one of them
    is 1. Returns (..., classes, classes)."""
    p = p[..., np.newaxis]
    return p * (np.eye(p.shape[-2]) - np.swapaxes(p, -1, -2))


@keras.saving.register_keras_serializable("activation_functions")
class Maxout(layers.Layer):
    """max(w₁·x + b₁, w₂·x + b₂) for each unit. Input: (batch, features). Output:
    (batch, units)."""

    def __init__(self, units: int, **options):
        super().__init__(**options)
        self.units = units

    def build(self, input_shape):
        shape = (input_shape[-1], 2 * self.units)
        # The larger of two normal numbers has the mean square of either: so 1/n, not
        # He's 2/n.
        self.kernel = self.add_weight(
            shape=shape, initializer="lecun_normal", name="kernel"
        )
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros", name="bias")

    def call(self, x):
        both = ops.matmul(x, self.kernel) + self.bias
        return ops.maximum(both[:, : self.units], both[:, self.units :])

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def hidden_layer(name: str, units: int, bias: float = 0.0, number: int = 1):
    """A dense layer and what bends it, named bend_1, bend_2, ...; maxout is both.
    bias: that of every unit at the start."""
    if name == "maxout":
        return [Maxout(units, name=f"bend_{number}")]
    # Each with the initialization that keeps its variance: Glorot's for what squashes.
    start = "glorot_normal" if name in ("sigmoid", "tanh") else "he_normal"
    dense = layers.Dense(
        units,
        kernel_initializer=start,
        bias_initializer=keras.initializers.Constant(bias),
        name=f"dense_{number}",
    )
    bend = LAYERS[name]()
    bend.name = f"bend_{number}"
    return [dense, bend]


def build_network(
    name: str, inputs: int, depth: int, units: int, classes: int, bias: float = 0.0
) -> keras.Model:
    """Input: (batch, inputs). Output: (batch, classes) logits. What leaves the
    activations is what the layers named bend_1, bend_2, ... give."""
    x = keras.Input((inputs,), name="x")
    hidden = x
    for number in range(1, depth + 1):
        for layer in hidden_layer(name, units, bias, number):
            hidden = layer(hidden)
    logits = layers.Dense(classes, name="logits")(hidden)
    return keras.Model(x, logits, name=name.replace(" ", "-"))


def as_maxout(relu: keras.Model, slope: float) -> keras.Model:
    """A maxout network that computes what a network of (leaky) ReLUs does: one of the
    two linear functions is the ReLU's, the other the same times the slope below 0."""
    depth = len(bends_of(relu))
    units = relu.get_layer("dense_1").units
    inputs = relu.input_shape[-1]
    classes = relu.output_shape[-1]
    model = build_network("maxout", inputs, depth, units, classes)

    *hidden, kernel, bias = relu.get_weights()
    pairs = [np.concatenate([each, slope * each], axis=-1) for each in hidden]
    model.set_weights([*pairs, kernel, bias])
    return model


def bends_of(model: keras.Model) -> list[layers.Layer]:
    return [layer for layer in model.layers if layer.name.startswith("bend")]


def hidden_values(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """What each activation gives for x: (examples, units) of each hidden layer."""
    outputs = [layer.output for layer in bends_of(model)]
    values = keras.Model(model.input, outputs)(x)
    return [np.asarray(each) for each in keras.tree.flatten(values)]


def dead_share(model: keras.Model, x: np.ndarray) -> float:
    """Share of hidden units whose slope is 0 for every example: those that no gradient
    reaches."""
    is_dead = [np.all(values == 0, axis=0) for values in hidden_values(model, x)]
    return float(np.mean(is_dead))


def saturated_share(model: keras.Model, x: np.ndarray, slope: float) -> float:
    """Share of units and examples for which an ELU's slope is below `slope`. It is 1
    plus the value where that is negative."""
    is_flat = [np.mean(values + 1 < slope) for values in hidden_values(model, x)]
    return float(np.mean(is_flat))


def one_sign_share(values: np.ndarray) -> float:
    """Share of the examples for which all weights of a neuron behind get gradients of
    one sign: the gradient by weight i is the error times input i. values: (examples,
    inputs of the neuron)."""
    positive = np.all(values >= 0, axis=1)
    negative = np.all(values <= 0, axis=1)
    return float(np.mean(positive | negative))


def gradient_sizes(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root mean square of the loss's gradient by each hidden layer's kernel, first
    layer first."""
    kernels = [each for each in model.trainable_variables if each.name == "kernel"][:-1]
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
    return np.array([float(tf.sqrt(tf.reduce_mean(each**2))) for each in gradients])


# --------------------------------------------------------------------------------------
# The experiment: one deep network, bent in seven ways
# --------------------------------------------------------------------------------------

NAMES = (*LAYERS, "maxout")
BIAS = 0.1  # that is said to keep ReLUs alive
STARTS = 5  # that it is measured over
LEAKY_SLOPE = 0.01  # that a leaky ReLU never falls below
TIMED_UNITS = 256


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    def build(self, name: str, start: int = 0, bias: float = 0.0) -> keras.Model:
        """The network before training. start: one of several."""
        keras.utils.set_random_seed(self.run.seed + 1000 * start)
        config = self.config
        inputs = self.x.shape[1]
        return build_network(
            name, inputs, config.depth, config.units, self.classes, bias
        )

    def train(self, model: keras.Model, learning_rate: float) -> list[float]:
        """Returns the loss by epoch."""
        model.compile(
            optimizer=keras.optimizers.Adam(learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        history = training.fit(
            model,
            self.x,
            self.y,
            epochs=self.config.epochs,
            callbacks=self.run.callbacks,
        )
        return history.history["loss"]

    def accuracy(self, model: keras.Model) -> float:
        return float(np.mean(np.argmax(model(self.x_test), axis=1) == self.y_test))


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    return Task(x, y, x_test, y_test, classes, config, run)


@dataclass
class Studied:
    """A network before training, and after it."""

    gradients: np.ndarray
    """root mean square by each layer's kernel, before"""
    means: np.ndarray
    """of each layer's activations, of their root mean square, before"""
    one_sign: float
    """share of examples that give a neuron's weights gradients of one sign, before"""
    losses: list[float]
    """by epoch"""
    accuracy: float
    """on held-out data"""
    model: keras.Model


def study(task: Task, name: str) -> Studied:
    model = task.build(name)
    values = hidden_values(model, task.x)
    gradients = gradient_sizes(model, task.x, task.y)
    losses = task.train(model, task.config.learning_rate)
    return Studied(
        gradients=gradients,
        means=np.array([each.mean() / np.sqrt(np.mean(each**2)) for each in values]),
        one_sign=float(np.mean([one_sign_share(each) for each in values])),
        losses=losses,
        accuracy=task.accuracy(model),
        model=model,
    )


def metric_name(name: str, what: str) -> str:
    return f"{name.replace(' ', '_').lower()}_{what}"


def judge_depth(studied: dict[str, Studied], run: Run) -> None:
    compared = {name: studied[name] for name in ("sigmoid", "tanh", "ReLU")}
    ratios = {
        name: each.gradients[-1] / each.gradients[0] for name, each in compared.items()
    }
    sigmoid, *others = compared.values()
    run.claim(
        "Sigmoids saturate: layer by layer less of the gradient is left, and a deep "
        "network learns late; tanh and ReLU pass it on",
        holds=ratios["sigmoid"] > 50 * max(ratios["tanh"], ratios["ReLU"])
        and sigmoid.accuracy + 0.1 < min(each.accuracy for each in others),
        measured="gradient in the last layer, of that in the first, and test accuracy: "
        + ", ".join(
            f"{name} {ratios[name]:,.1f} and {each.accuracy:.3f}"
            for name, each in compared.items()
        ),
    )


def judge_signs(studied: dict[str, Studied], run: Run) -> None:
    share = {name: each.one_sign for name, each in studied.items()}
    run.claim(
        "After an activation that is never negative all gradients of a neuron's weights "
        "have one sign; after tanh or ELU they have not",
        holds=min(share["sigmoid"], share["ReLU"]) == 1
        and max(share["tanh"], share["ELU"]) < 0.01,
        measured="share of examples: "
        + ", ".join(
            f"{name} {share[name]:.3f}" for name in ("sigmoid", "ReLU", "tanh", "ELU")
        ),
    )


def judge_centers(studied: dict[str, Studied], run: Run) -> None:
    center = {name: abs(each.means.mean()) for name, each in studied.items()}
    run.claim(
        "tanh is centered on zero, ReLU is not, ELU comes closer than ReLU",
        holds=center["tanh"] < 0.15
        and center["ReLU"] > 0.4
        and center["ELU"] < 0.7 * center["ReLU"],
        measured="mean activation, of its root mean square: "
        + ", ".join(
            f"{name} {center[name]:.2f}" for name in ("sigmoid", "ReLU", "ELU", "tanh")
        ),
    )


def judge_death(studied: dict[str, Studied], task: Task) -> None:
    """At the high learning rate."""
    run = task.run
    high = task.config.high_learning_rate
    usual = dead_share(studied["ReLU"].model, task.x)
    trained = {}
    for name in ("ReLU", "leaky ReLU", "ELU"):
        trained[name] = task.build(name)
        task.train(trained[name], high)

    dead = dead_share(trained["ReLU"], task.x)
    dead_leaky = dead_share(trained["leaky ReLU"], task.x)
    run.metric("dead_relus", dead, unit=f"of all, at {high:g}")
    run.claim(
        "A high learning rate kills ReLUs; leaky ones do not die",
        holds=dead > 0.3 + usual and dead_leaky == 0,
        measured=f"dead at {high:g}: {dead:.1%}, leaky {dead_leaky:.1%}; ReLU at "
        f"{task.config.learning_rate:g} {usual:.1%}",
    )

    saturated = saturated_share(trained["ELU"], task.x, LEAKY_SLOPE)
    usually = saturated_share(studied["ELU"].model, task.x, LEAKY_SLOPE)
    run.metric("saturated_elus", saturated, unit=f"of all slopes, at {high:g}")
    run.claim(
        "ELU saturates far below 0: a high learning rate drives units to where a leaky "
        "ReLU's slope would be larger",
        holds=saturated > 0.1 + usually,
        measured=f"share of slopes below {LEAKY_SLOPE:g} over units and examples at "
        f"{high:g}: {saturated:.1%}; at {task.config.learning_rate:g} {usually:.1%}",
    )


def judge_bias(task: Task) -> None:
    """Before training, over several starts, and after it at the high learning rate."""

    def dead(bias: float) -> np.ndarray:
        networks = [task.build("ReLU", start, bias) for start in range(STARTS)]
        return np.array([dead_share(network, task.x) for network in networks])

    run = task.run
    high = task.config.high_learning_rate
    without = dead(0.0)
    with_bias = dead(BIAS)
    model = task.build("ReLU", bias=BIAS)
    task.train(model, high)
    trained = dead_share(model, task.x)
    run.metric("dead_relus_at_the_start", without.mean())
    run.metric("dead_relus_at_the_start_of_positive_bias", with_bias.mean())
    run.metric("dead_relus_of_positive_bias", trained, unit=f"of all, at {high:g}")
    # In a deep network what the bias adds is one more thing that all examples share.
    run.claim(
        f"A bias of {BIAS:g}, said to keep ReLUs alive, does not do so in a deep network: "
        "no fewer are dead before training, and a high learning rate kills them, too",
        holds=with_bias.mean() > 0.7 * without.mean()
        and trained > 0.2 + with_bias.mean(),
        measured=f"dead before training, in {STARTS} starts: {without.min():.1%} to "
        f"{without.max():.1%} without, {with_bias.min():.1%} to {with_bias.max():.1%} "
        f"with; at {high:g} {trained:.1%} with",
    )


def judge_maxout(studied: dict[str, Studied], task: Task) -> None:
    relu = studied["ReLU"].model
    leaky = studied["leaky ReLU"].model
    maxout = studied["maxout"].model
    apart = [
        np.max(np.abs(as_maxout(model, slope)(task.x_test) - model(task.x_test)))
        for model, slope in ((relu, 0.0), (leaky, 0.01))
    ]
    last = relu.get_layer("logits").count_params()
    once = relu.count_params() - last
    twice = maxout.count_params() - last
    task.run.claim(
        "Maxout contains ReLU and leaky ReLU, for twice the weights",
        any_data=True,
        holds=max(apart) < 1e-4 and twice == 2 * once,
        measured=f"with their weights its logits differ by {max(apart):.0e}; hidden "
        f"weights {twice:,} and {once:,}",
    )


def judge_softmax(model: keras.Model, task: Task) -> None:
    """Of held-out data, each called wrong: by the class after its own."""
    z = np.asarray(model(task.x_test), "float64")
    p = softmax(z)
    wrong = np.eye(task.classes)[(task.y_test + 1) % task.classes]
    # ∂L/∂z = ∂L/∂p · ∂p/∂z.
    jacobians = softmax_jacobian(p)
    by_square = np.einsum("ni,nij->nj", 2 * (p - wrong), jacobians)
    by_log = np.einsum("ni,nij->nj", -wrong / p, jacobians)
    of_square = np.median(np.linalg.norm(by_square, axis=1))
    of_log = np.median(np.linalg.norm(by_log, axis=1))
    moved = np.abs(softmax(z + 1000) - p).max()
    task.run.claim(
        "Softmax saturates too: of a confident mistake squared error passes little back, "
        "−log p undoes the softmax and passes p − e(y)",
        holds=of_log > 20 * of_square
        and np.abs(by_log - (p - wrong)).max() < 1e-9
        and moved < 1e-9,
        measured=f"median gradient by the logits, had each label been wrong: "
        f"{of_square:.1e} by squared error, {of_log:.2f} by −log p; all logits 1000 "
        f"higher move p by {moved:.0e}",
    )


def milliseconds(function, x: tf.Tensor) -> float:
    """Median time of a compiled call."""
    compiled = tf.function(function)
    times = timeit.repeat(lambda: compiled(x).numpy(), number=1, repeat=50)
    return 1000 * float(np.median(times))


def time_activations(run: Run) -> None:
    """Each alone, and with the dense layer before it: maxout is both in one."""
    numbers = tf.random.normal((1000, 1000), seed=run.seed)
    for name, layer in LAYERS.items():
        took = milliseconds(layer(), numbers)
        run.metric(metric_name(name, "of_a_million"), took, unit="ms", timing=True)

    batch = tf.random.normal((1000, TIMED_UNITS), seed=run.seed)
    for name in NAMES:
        layer = keras.Sequential(hidden_layer(name, TIMED_UNITS))
        layer.build(batch.shape)
        took = milliseconds(layer, batch)
        run.metric(metric_name(name, "layer"), took, unit="ms", timing=True)


def draw_functions() -> Figure:
    """Values (black) and slopes (orange)."""
    x = np.linspace(-6, 4, 401)
    figure, panels = plt.subplots(1, len(FORMULAS), figsize=(12, 3), sharey=True)
    for axes, (name, (value, slope)) in zip(panels, FORMULAS.items(), strict=True):
        axes.plot(x, value(x), "k", label="value")
        axes.plot(x, slope(x), color="#D55E00", linestyle="--", label="slope")
        axes.set(title=name, xlabel="x", ylim=(-1.2, 2.2))
    panels[0].legend(loc="upper left")
    return figure


def draw_gradients(studied: dict[str, Studied]) -> Figure:
    by_layer = figures.Panel(
        title="Gradient by the kernel, before training",
        xlabel="hidden layer",
        ylabel="root mean square",
        lines={name: each.gradients for name, each in studied.items()},
        yscale="log",
    )
    means = figures.Panel(
        title="Mean activation, before training",
        xlabel="hidden layer",
        ylabel="of its root mean square",
        lines={name: each.means for name, each in studied.items()},
    )
    return figures.panels(by_layer, means)


def main(config: Config, run: Run) -> None:
    run.plan(len(NAMES) + 4)
    task = load_task(config, run)
    studied = {name: study(task, name) for name in NAMES}
    run.metric("test_accuracy", studied["ReLU"].accuracy)
    for name, each in studied.items():
        run.metric(metric_name(name, "test_accuracy"), each.accuracy)
    time_activations(run)

    judge_depth(studied, run)
    judge_signs(studied, run)
    judge_centers(studied, run)
    judge_death(studied, task)
    judge_bias(task)
    judge_maxout(studied, task)
    judge_softmax(studied["ReLU"].model, task)
    slopes = [w.numpy() for w in studied["PReLU"].model.weights if w.name == "alpha"]
    run.metric("learned_slope_of_prelu", np.mean(slopes), unit="mean")

    run.figure("functions", draw_functions())
    run.figure("gradients", draw_gradients(studied))
    losses = {name: each.losses for name, each in studied.items()}
    figure = figures.curves(
        losses, title="Training loss", ylabel="cross-entropy (nats)", yscale="log"
    )
    run.figure("losses", figure)
    run.export(serving.classifier(studied["ReLU"].model), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
