"""Activation functions: what bends a layer, and what each bend costs.

Sigmoid and tanh squash; far from 0 their slope is almost 0, they saturate, and through
many layers little of the gradient is left. ReLU, max(0, x), passes it on whole, or not
at all: a unit that is below 0 for every example gets no gradient any more, it is dead.
Leaky ReLU, PReLU (a slope that is learned) and ELU keep a slope there; maxout, the
larger of two linear functions, contains ReLU and leaky ReLU, and takes twice the
weights. What is never negative gives all weights of a neuron gradients of one sign.
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

# Value and slope of each, for x as an array.
FORMULAS = {
    "sigmoid": (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
    ),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "ReLU": (lambda x: np.maximum(0, x), lambda x: 1.0 * (x > 0)),
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
    "ReLU": layers.ReLU,
    "leaky ReLU": lambda: layers.LeakyReLU(0.01),
    "PReLU": lambda: layers.PReLU(keras.initializers.Constant(0.25)),
    "ELU": layers.ELU,
}
NAMES = (*LAYERS, "maxout")


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


def build_network(
    name: str, inputs: int, depth: int, units: int, classes: int
) -> keras.Model:
    """Input: (batch, inputs). Output: (batch, classes) logits. What leaves the
    activations is what the layers named bend_1, bend_2, ... give."""
    x = pixels = keras.Input((inputs,), name="x")
    # Each with the initialization that keeps its variance: Glorot's for what squashes.
    start = "glorot_normal" if name in ("sigmoid", "tanh") else "he_normal"
    for index in range(1, depth + 1):
        bend = Maxout(units) if name == "maxout" else LAYERS[name]()
        bend.name = f"bend_{index}"
        if name != "maxout":
            x = layers.Dense(units, kernel_initializer=start, name=f"dense_{index}")(x)
        x = bend(x)
    return keras.Model(
        pixels, layers.Dense(classes, name="logits")(x), name=name.replace(" ", "-")
    )


def hidden_values(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """What each activation gives for x: (examples, units) of each hidden layer."""
    outputs = [layer.output for layer in model.layers if layer.name.startswith("bend")]
    return [
        np.asarray(each)
        for each in keras.tree.flatten(keras.Model(model.input, outputs)(x))
    ]


def dead_share(model: keras.Model, x: np.ndarray) -> float:
    """Share of hidden units whose slope is 0 for every example: those that no gradient
    reaches."""
    return float(
        np.mean([np.all(each == 0, axis=0) for each in hidden_values(model, x)])
    )


def one_sign_share(values: np.ndarray) -> float:
    """Share of the examples for which all weights of a neuron behind get gradients of
    one sign: the gradient by weight i is the error times input i. values: (examples,
    inputs of the neuron)."""
    return float(np.mean(np.all(values >= 0, axis=1) | np.all(values <= 0, axis=1)))


def gradient_sizes(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root mean square of the loss's gradient by each hidden layer's kernel, first
    layer first."""
    kernels = [each for each in model.trainable_variables if each.name == "kernel"][:-1]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
        )
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
    return np.array([float(tf.sqrt(tf.reduce_mean(each**2))) for each in gradients])


def as_maxout(relu: keras.Model, slope: float) -> keras.Model:
    """A maxout network that computes what a network of (leaky) ReLUs does: one of the
    two linear functions is the ReLU's, the other the same times the slope below 0."""
    depth = sum(layer.name.startswith("bend") for layer in relu.layers)
    units, classes = relu.get_layer("dense_1").units, relu.output_shape[-1]
    model = build_network("maxout", relu.input_shape[-1], depth, units, classes)
    pairs = [
        np.concatenate([each, slope * each], axis=-1)
        for each in relu.get_weights()[:-2]
    ]
    model.set_weights([*pairs, *relu.get_weights()[-2:]])
    return model


def milliseconds(function, x: tf.Tensor) -> float:
    """Median time of a compiled call."""
    compiled = tf.function(function)
    return 1000 * float(
        np.median(timeit.repeat(lambda: compiled(x).numpy(), number=1, repeat=50))
    )


def plot_functions() -> plt.Figure:
    """Values (black) and slopes (orange)."""
    x = np.linspace(-4, 4, 401)
    figure, panels = plt.subplots(1, len(FORMULAS), figsize=(12, 3), sharey=True)
    for axes, (name, (value, slope)) in zip(panels, FORMULAS.items(), strict=True):
        axes.plot(x, value(x), "k", label="value")
        axes.plot(x, slope(x), color="#D55E00", linestyle="--", label="slope")
        axes.set(title=name, xlabel="x", ylim=(-1.2, 2.2))
    panels[0].legend(loc="upper left")
    return figure


def plot_gradients(
    sizes: dict[str, np.ndarray], means: dict[str, list[float]]
) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4))
    for (name, values), marker in zip(sizes.items(), "osv^DPX", strict=True):
        left.semilogy(np.arange(1, len(values) + 1), values, marker=marker, label=name)
        right.plot(np.arange(1, len(values) + 1), means[name], marker=marker)
    left.set(title="Gradient by the kernel, before training", xlabel="hidden layer")
    left.set_ylabel("root mean square")
    right.set(title="Mean activation, of its root mean square", xlabel="hidden layer")
    right.axhline(0, color="black", linewidth=0.8)
    figure.legend(loc="outside right center")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(NAMES) + 2)
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    shape = x.shape[1], config.depth, config.units, classes
    run.figure("functions", plot_functions())

    def train(model: keras.Model, learning_rate: float) -> list[float]:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
        history = training.fit(
            model, x, y, epochs=config.epochs, callbacks=run.callbacks
        )
        return history.history["loss"]

    models, sizes, means, signs, losses, dead = {}, {}, {}, {}, {}, {}
    for name in NAMES:
        keras.utils.set_random_seed(run.seed)
        model = models[name] = build_network(name, *shape)
        values = hidden_values(model, x)
        sizes[name] = gradient_sizes(model, x, y)
        means[name] = [
            float(each.mean() / np.sqrt(np.mean(each**2))) for each in values
        ]
        signs[name] = float(np.mean([one_sign_share(each) for each in values]))
        losses[name] = train(model, config.learning_rate)
    outputs = {name: np.asarray(model(x_test)) for name, model in models.items()}
    accuracies = {
        name: np.mean(each.argmax(axis=1) == y_test) for name, each in outputs.items()
    }
    run.metric("test_accuracy", accuracies["ReLU"])
    for name, value in accuracies.items():
        run.metric(f"{name.replace(' ', '_').lower()}_test_accuracy", value)
    batch = tf.random.normal((1000, 1000), seed=run.seed)
    for name, layer in LAYERS.items():
        cost = milliseconds(layer(), batch)
        run.metric(
            f"{name}_of_a_million".replace(" ", "_").lower(),
            cost,
            unit="ms",
            timing=True,
        )
    run.figure("gradients", plot_gradients(sizes, means))
    run.figure(
        "losses", figures.curves(losses, title="Training loss", ylabel="cross-entropy")
    )

    ratios = {name: float(each[-1] / each[0]) for name, each in sizes.items()}
    run.claim(
        "Sigmoids saturate: layer by layer less of the gradient is left, and a deep network learns "
        "late; tanh and ReLU pass it on",
        holds=ratios["sigmoid"] > 50 * max(ratios["tanh"], ratios["ReLU"])
        and accuracies["sigmoid"] + 0.1 < min(accuracies["tanh"], accuracies["ReLU"]),
        measured="gradient in the last layer, of that in the first, and test accuracy: "
        + ", ".join(
            f"{name} {ratios[name]:,.1f} and {accuracies[name]:.3f}"
            for name in ("sigmoid", "tanh", "ReLU")
        ),
    )
    run.claim(
        "After an activation that is never negative all gradients of a neuron's weights have one "
        "sign; after tanh or ELU they have not",
        holds=min(signs["sigmoid"], signs["ReLU"]) == 1
        and max(signs["tanh"], signs["ELU"]) < 0.01,
        measured="share of examples: "
        + ", ".join(
            f"{name} {signs[name]:.3f}" for name in ("sigmoid", "ReLU", "tanh", "ELU")
        ),
    )
    center = {name: abs(float(np.mean(each))) for name, each in means.items()}
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
    usual = dead_share(models["ReLU"], x)
    for name in ("ReLU", "leaky ReLU"):
        keras.utils.set_random_seed(run.seed)
        model = build_network(name, *shape)
        train(model, config.high_learning_rate)
        dead[name] = dead_share(model, x)
    high = f"{config.high_learning_rate:g}"
    run.metric("dead_relus", dead["ReLU"], unit=f"of all, at {high}")
    run.claim(
        "A high learning rate kills ReLUs; leaky ones do not die",
        holds=dead["ReLU"] > 0.3 + usual and dead["leaky ReLU"] == 0,
        measured=f"dead at {high}: {dead['ReLU']:.1%}, leaky {dead['leaky ReLU']:.1%}; "
        f"ReLU at {config.learning_rate:g} {usual:.1%}",
    )
    apart = max(
        np.max(np.abs(as_maxout(models[name], slope)(x_test) - outputs[name]))
        for name, slope in (("ReLU", 0.0), ("leaky ReLU", 0.01))
    )
    last = models["ReLU"].get_layer("logits").count_params()
    twice, once = (models[name].count_params() - last for name in ("maxout", "ReLU"))
    run.claim(
        "Maxout contains ReLU and leaky ReLU, for twice the weights",
        any_data=True,
        holds=apart < 1e-4 and twice == 2 * once,
        measured=f"with their weights its logits differ by {apart:.0e}; hidden weights "
        f"{twice:,} and {once:,}",
    )
    slopes = [each.numpy() for each in models["PReLU"].weights if each.name == "alpha"]
    run.metric("learned_slope_of_prelu", np.mean(slopes), unit="mean")
    run.export(serving.classifier(models["ReLU"]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
