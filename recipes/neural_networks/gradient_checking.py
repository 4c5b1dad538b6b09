"""Gradient checking: hold it to what the loss does when a weight is moved.

(f(x + ε) − f(x − ε)) / 2ε needs the forward pass alone, so it exposes what is wrong in
a backward pass. `check_gradients(model, x, y, loss)` does that for every weight of a
Keras model, in float64, and prints a table. It is for layers with a gradient of their
own: a small mistake in one hardly shows in training. Look at the error as ε shrinks: ε²
falls faster than ε, until rounding takes over (in float32 at once), and at ReLU's kink,
where a step of ε mixes two slopes.

Lectures: N18 1.2.7 Gradient Checking; CS Autodifferentiation
Paper: Bengio, Practical recommendations for gradient-based training of deep
    architectures, 2012
Tags: grad check, finite differences, numerical gradient, central difference, debugging
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    entries: int = 100
    """numbers of a weight that are checked at the most, chosen at random"""


QUICK = Config(entries=20)
FULL = Config(entries=1000)
TOLERANCE = 1e-4


@dataclass
class Checked:
    """‖gradient − quotient‖ / ‖quotient‖ of a weight, without and with entries near a
    kink."""

    entries: int
    kinks: int
    error: float
    error_with_kinks: float


def converted(config, dtype: str):
    """A Keras config with another floating type in place of float32, however deep it
    stands."""
    if isinstance(config, dict):
        return {key: converted(value, dtype) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(converted(value, dtype) for value in config)
    return dtype if config == "float32" else config


def loss_of_all_weights(
    model, x, y, loss, training: bool = False, dtype: str = "float64"
):
    """The loss as a function of one long vector, and that vector: all trainable weights
    in `dtype`. The other variables are handed in anew at each call: dropout always
    draws the same mask."""
    with keras.utils.custom_object_scope(
        {type(each).__name__: type(each) for each in model.layers}
    ):
        copy = type(model).from_config(converted(model.get_config(), dtype))
    copy.set_weights(model.get_weights())
    state = [tf.constant(each.value) for each in copy.non_trainable_variables]
    shapes = [weight.shape for weight in copy.trainable_variables]
    # A Keras loss computes in float32; its `call` does in the type of what it is given.
    of_examples = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def function(vector: tf.Tensor) -> tf.Tensor:
        parts = tf.split(vector, [int(np.prod(shape)) for shape in shapes])
        weights = [
            tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        outputs, _ = copy.stateless_call(weights, state, x, training=training)
        return tf.reduce_mean(of_examples(y, outputs))

    flat = [tf.reshape(weight.value, [-1]) for weight in copy.trainable_variables]
    return function, tf.concat(flat, axis=0)


def difference_quotients(function, vector: tf.Tensor, positions, epsilon) -> tuple:
    """(f(x) − f(x − ε)) / ε and (f(x + ε) − f(x)) / ε of each position; their mean is
    the central quotient (f(x + ε) − f(x − ε)) / 2ε."""

    @tf.function(autograph=False)
    def losses(positions, epsilon):
        def moved(position):
            step = epsilon * tf.one_hot(position, len(vector), dtype=vector.dtype)
            return tf.stack([function(vector - step), function(vector + step)])

        return function(vector), tf.map_fn(
            moved, positions, fn_output_signature=vector.dtype
        )

    middle, ends = losses(tf.constant(positions), tf.constant(epsilon, vector.dtype))
    return ((middle - ends[:, 0]) / epsilon).numpy(), (
        (ends[:, 1] - middle) / epsilon
    ).numpy()


def gradient(function, vector: tf.Tensor) -> np.ndarray:
    with tf.GradientTape() as tape:
        tape.watch(vector)
        value = function(vector)
    return tape.gradient(value, vector).numpy()


def check_gradients(
    model, x, y, loss, *, epsilon=1e-5, entries=100, training=False, show=True
) -> dict[str, Checked]:
    """Compares the gradient of every trainable weight with central differences and
    prints a table.

    model: a functional or Sequential Keras model; its own layers need a `get_config`.
    loss: a Keras loss or a function of (y, outputs); its mean is taken.
    entries: how many of each weight to check at the most. training: as in `model(x,
        training=...)`.
    Returns what was found by the weights' paths; an `error` above 1e-4 is a wrong
    gradient.
    """
    function, vector = loss_of_all_weights(model, x, y, loss, training)
    random, start, chosen = np.random.default_rng(0), 0, {}
    for weight in model.trainable_variables:
        size = int(np.prod(weight.shape))
        chosen[weight.path] = start + random.permutation(size)[:entries]
        start += size
    positions = np.concatenate(list(chosen.values()))
    found = gradient(function, vector)[positions]
    left, right = difference_quotients(function, vector, positions, epsilon)
    ends = np.cumsum([len(each) for each in chosen.values()])[:-1]
    # What is this small beside the other gradients may be rounding alone.
    rows, floor = {}, 1e-3 * np.linalg.norm((left + right) / 2) + 1e-12
    parts = zip(
        chosen, *(np.split(each, ends) for each in (found, left, right)), strict=True
    )
    for name, by_tape, before, after in parts:
        central = (before + after) / 2
        off, size = by_tape - central, max(np.linalg.norm(central), floor)
        # On a smooth loss the slopes of both sides differ by ε f″.
        smooth = abs(after - before) < 10 * epsilon * max(abs(central).max(), floor)
        errors = np.linalg.norm(off[smooth]) / size, np.linalg.norm(off) / size
        rows[name] = Checked(len(off), int(np.sum(~smooth)), *map(float, errors))
    if show:
        print(f"{'weight':40} {'checked':>8} {'kinks':>6} {'relative error':>15}")
        for name, row in rows.items():
            mark = "  WRONG" * (row.error > TOLERANCE)
            print(f"{name:40} {row.entries:8} {row.kinks:6} {row.error:15.1e}{mark}")
    return rows


class SlightlyWrongDense(layers.Dense):
    """A dense layer whose gradient by the kernel is 1 % too large."""

    def call(self, inputs):
        @tf.custom_gradient
        def product(x, w):
            return x @ w, lambda g: (g @ tf.transpose(w), 1.01 * tf.transpose(x) @ g)

        return self.activation(
            product(inputs, tf.convert_to_tensor(self.kernel)) + self.bias
        )


IMAGE, SEQUENCE, VECTOR = (6, 6, 2), (5, 4), (6,)
LAYERS = {
    "Dense": (layers.Dense(3), VECTOR),
    "ReLU": (layers.ReLU(), VECTOR),
    "Conv2D": (layers.Conv2D(3, 3), IMAGE),
    "MaxPooling2D": (layers.MaxPooling2D(2), IMAGE),
    "BatchNormalization": (layers.BatchNormalization(), IMAGE),
    "LayerNormalization": (layers.LayerNormalization(), SEQUENCE),
    "Dropout": (layers.Dropout(0.5, seed=0), VECTOR),
    "LSTM": (layers.LSTM(3), SEQUENCE),
    "MultiHeadAttention": (layers.MultiHeadAttention(2, 3), SEQUENCE),
}


def check_layer(layer: layers.Layer, shape: tuple[int, ...], **options) -> float:
    """The largest error of the weights of a layer, and of a dense one before it, whose
    gradient comes through the layer. shape: of one input, with the channels last."""
    layer = type(layer).from_config(layer.get_config())
    x = keras.Input(shape)
    before = layers.Dense(shape[-1], name="before")(x)
    out = (
        layer(before, before)
        if isinstance(layer, layers.MultiHeadAttention)
        else layer(before)
    )
    model, random = keras.Model(x, out), np.random.default_rng(0)
    x, y = random.normal(size=(4, *shape)), random.normal(size=(4, *out.shape[1:]))
    options = {"training": True, "show": False, **options}
    checked = check_gradients(model, x, y, keras.losses.MeanSquaredError(), **options)
    return max(row.error for row in checked.values())


def build_mlp(dense: type, activation: str = "relu") -> keras.Model:
    """16 hidden neurons. Input: (batch, 64) pixels. Output: (batch, 10) logits."""
    x = keras.Input((64,), name="x")
    logits = layers.Dense(10, name="logits")(dense(16, activation, name="hidden")(x))
    return keras.Model(x, logits, name="mlp")


def plot(
    epsilons, errors: dict[str, list[float]], layer_errors: dict[str, float]
) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8))
    for name, values in errors.items():
        left.loglog(epsilons, values, "o-", markersize=4, label=name)
    left.set(
        title="Error of a difference quotient", xlabel="step ε", ylabel="relative error"
    )
    left.legend()
    colors = [
        "#D55E00" if error > TOLERANCE else "#0072B2" for error in layer_errors.values()
    ]
    right.barh(list(layer_errors), list(layer_errors.values()), color=colors)
    right.axvline(TOLERANCE, color="black", linestyle="--")
    right.set(
        title="Layers checked (dashed: what passes)",
        xlabel="relative error",
        xscale="log",
    )
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2)
    (x, y), (x_test, y_test) = data.load("digits")
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    errors = {
        name: check_layer(*each, entries=config.entries)
        for name, each in LAYERS.items()
    }
    models = [build_mlp(layers.Dense), build_mlp(SlightlyWrongDense)]
    models[1].set_weights(models[0].get_weights())
    batch, accuracies = (x[:32], y[:32], loss), []
    right, wrong = (
        check_gradients(each, *batch, entries=config.entries) for each in models
    )
    for model in models:
        model.compile(keras.optimizers.SGD(0.1, 0.9), loss, metrics=["accuracy"])
        training.fit(model, x, y, epochs=15, seed=run.seed, callbacks=run.callbacks)
        accuracies.append(model.evaluate(x_test, y_test, verbose=0)[1])
    found, others = (
        wrong["hidden/kernel"].error,
        max(each.error for each in right.values()),
    )
    run.metric("error_found_of_one_percent", found)
    run.metric("largest_error_of_a_right_layer", max(errors.values()))
    run.claim(
        "The gradients of every kind of layer agree with central differences",
        holds=max(errors.values()) < 1e-6,
        measured=f"largest relative error of {len(errors)} kinds {max(errors.values()):.1e}",
    )
    run.claim(
        "The check finds a gradient that is 1 % off, which training does not show",
        holds=0.0095 < found < 0.0105
        and others < 1e-6
        and abs(np.diff(accuracies)[0]) < 0.02,
        measured=f"relative error {found:.4f}, else {others:.0e}; test accuracy "
        f"{accuracies[0]:.4f} with the right gradient, {accuracies[1]:.4f} with the wrong one",
    )
    smooth, kinked = build_mlp(layers.Dense, "tanh"), build_mlp(layers.Dense)
    epsilons, places, curves = 10.0 ** np.arange(-9, 0), np.arange(0, 1024, 16), {}
    for dtype in ("float64", "float32"):
        function, vector = loss_of_all_weights(smooth, *batch, dtype=dtype)
        by_tape = gradient(function, vector)[places]
        sides = [
            difference_quotients(function, vector, places, each) for each in epsilons
        ]
        for name, share in (("one-sided", 0), ("central", 0.5)):
            off = [
                share * before + (1 - share) * after - by_tape
                for before, after in sides
            ]
            curves[f"{name}, {dtype}"] = np.linalg.norm(off, axis=1) / np.linalg.norm(
                by_tape
            )
    run.figure("errors", plot(epsilons, curves, {**errors, "Dense, 1 % off": found}))
    errors_by_epsilon = np.log(
        [curves["one-sided, float64"][5:8], curves["central, float64"][5:8]]
    )
    one, two = np.polyfit(np.log(epsilons[5:8]), errors_by_epsilon.T, 1)[0]
    run.claim(
        "The error is O(ε) for a one-sided and O(ε²) for a central difference",
        holds=abs(one - 1) < 0.1 and abs(two - 2) < 0.1,
        measured=f"powers {one:.3f} and {two:.3f}",
    )
    in_float32, in_float64 = (
        curves[f"central, {each}"].min() for each in ("float32", "float64")
    )
    run.claim(
        "A gradient is checked in float64: rounding in float32 hides small mistakes",
        holds=in_float32 > 1e4 * in_float64,
        measured=f"smallest error at any ε {in_float32:.1e}, in float64 {in_float64:.1e}",
    )
    large = {"epsilon": 0.01, "entries": 1024, "show": False}
    checks = [check_gradients(model, *batch, **large) for model in (smooth, kinked)]
    of_tanh, of_relu = (each["hidden/kernel"].error_with_kinks for each in checks)
    run.claim(
        "Where a step crosses ReLU's kink the quotient mixes two slopes; a smaller ε helps",
        holds=of_relu > 30 * of_tanh and right["hidden/kernel"].error_with_kinks < 1e-6,
        measured=f"error at ε = 0.01 {of_relu:.0e}, with tanh {of_tanh:.0e}; with ReLU at 1e-5 "
        f"{right['hidden/kernel'].error_with_kinks:.0e}",
    )
    run.export(serving.classifier(models[0]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
