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
from matplotlib.figure import Figure

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    entries: int = 100
    """numbers of a weight that are checked at the most, chosen at random"""


QUICK = Config(entries=20)
FULL = Config(entries=1000)


# --------------------------------------------------------------------------------------
# The idea: every weight's gradient beside a difference quotient
# --------------------------------------------------------------------------------------

TOLERANCE = 1e-4  # a larger relative error is a wrong gradient


@dataclass
class Checked:
    """‖gradient − quotient‖ / ‖quotient‖ of a weight."""

    entries: int
    """numbers of the weight that were checked"""
    kinks: int
    """those of them whose slope changes within ε"""
    error: float
    """without those"""
    error_with_kinks: float


def converted(config, dtype: str):
    """A Keras config with another floating type in place of float32, however deep it
    stands."""
    if isinstance(config, dict):
        return {key: converted(value, dtype) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(converted(value, dtype) for value in config)
    return dtype if config == "float32" else config


def copy_of(model: keras.Model, dtype: str) -> keras.Model:
    """The same model, with the same weights, in another floating type."""
    own_layers = {type(layer).__name__: type(layer) for layer in model.layers}
    with keras.utils.custom_object_scope(own_layers):
        copy = type(model).from_config(converted(model.get_config(), dtype))
    copy.set_weights(model.get_weights())
    return copy


def loss_of_all_weights(
    model, x, y, loss, training: bool = False, dtype: str = "float64"
):
    """The loss as a function of one long vector, and that vector: all trainable weights
    in `dtype`. The other variables are handed in anew at each call: dropout always
    draws the same mask."""
    copy = copy_of(model, dtype)
    state = [tf.constant(each.value) for each in copy.non_trainable_variables]
    shapes = [weight.shape for weight in copy.trainable_variables]
    sizes = [int(np.prod(shape)) for shape in shapes]
    # A Keras loss computes in float32; its `call` does in the type of what it is given.
    of_examples = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def function(vector: tf.Tensor) -> tf.Tensor:
        parts = zip(tf.split(vector, sizes), shapes, strict=True)
        weights = [tf.reshape(part, shape) for part, shape in parts]
        outputs, _ = copy.stateless_call(weights, state, x, training=training)
        return tf.reduce_mean(of_examples(y, outputs))

    flat = [tf.reshape(weight.value, [-1]) for weight in copy.trainable_variables]
    return function, tf.concat(flat, axis=0)


def difference_quotients(function, vector: tf.Tensor, positions, epsilon):
    """(f(x) − f(x − ε)) / ε and (f(x + ε) − f(x)) / ε of each position; their mean is
    the central quotient (f(x + ε) − f(x − ε)) / 2ε."""
    epsilon = tf.constant(epsilon, vector.dtype)

    def both_sides(position):
        step = epsilon * tf.one_hot(position, len(vector), dtype=vector.dtype)
        return tf.stack([function(vector - step), function(vector + step)])

    @tf.function(autograph=False)
    def losses(positions):
        sides = tf.map_fn(both_sides, positions, fn_output_signature=vector.dtype)
        return function(vector), sides

    middle, sides = losses(tf.constant(positions))
    before = (middle - sides[:, 0]) / epsilon
    after = (sides[:, 1] - middle) / epsilon
    return before.numpy(), after.numpy()


def gradient(function, vector: tf.Tensor) -> np.ndarray:
    with tf.GradientTape() as tape:
        tape.watch(vector)
        value = function(vector)
    return tape.gradient(value, vector).numpy()


def choose_entries(model: keras.Model, count: int) -> dict[str, np.ndarray]:
    """For each weight's path which places of the long vector to check."""
    random = np.random.default_rng(0)
    chosen = {}
    start = 0
    for weight in model.trainable_variables:
        size = int(np.prod(weight.shape))
        chosen[weight.path] = start + random.permutation(size)[:count]
        start += size
    return chosen


def compare(by_tape, before, after, epsilon: float, floor: float) -> Checked:
    """The gradient of some entries with their quotients to both sides. floor: the
    smallest size of a quotient that an error is divided by."""
    central = (before + after) / 2
    off = by_tape - central
    size = max(np.linalg.norm(central), floor)
    # On a smooth loss the slopes of both sides differ by ε f″.
    is_smooth = abs(after - before) < 10 * epsilon * max(abs(central).max(), floor)
    return Checked(
        entries=len(off),
        kinks=int(np.sum(~is_smooth)),
        error=float(np.linalg.norm(off[is_smooth]) / size),
        error_with_kinks=float(np.linalg.norm(off) / size),
    )


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
    chosen = choose_entries(model, entries)
    positions = np.concatenate(list(chosen.values()))
    by_tape = gradient(function, vector)[positions]
    before, after = difference_quotients(function, vector, positions, epsilon)

    # What is this small beside the other gradients may be rounding alone.
    floor = 1e-3 * np.linalg.norm((before + after) / 2) + 1e-12
    checked = {}
    start = 0
    for path, places in chosen.items():
        part = slice(start, start + len(places))
        checked[path] = compare(
            by_tape[part], before[part], after[part], epsilon, floor
        )
        start += len(places)
    if show:
        print_table(checked)
    return checked


def print_table(checked: dict[str, Checked]) -> None:
    print(f"{'weight':40} {'checked':>8} {'kinks':>6} {'relative error':>15}")
    for path, each in checked.items():
        mark = "  WRONG" if each.error > TOLERANCE else ""
        print(f"{path:40} {each.entries:8} {each.kinks:6} {each.error:15.1e}{mark}")


IMAGE = (6, 6, 2)
SEQUENCE = (5, 4)
VECTOR = (6,)
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


def check_layer(
    layer: layers.Layer, shape: tuple[int, ...], entries: int = 100
) -> float:
    """The largest error of the weights of a layer, and of a dense one before it, whose
    gradient comes through the layer. shape: of one input, with the channels last."""
    layer = type(layer).from_config(layer.get_config())
    x = keras.Input(shape)
    before = layers.Dense(shape[-1], name="before")(x)
    # Attention asks with one sequence and looks at another: here the same.
    inputs = 2 if isinstance(layer, layers.MultiHeadAttention) else 1
    out = layer(*[before] * inputs)

    random = np.random.default_rng(0)
    checked = check_gradients(
        keras.Model(x, out),
        random.normal(size=(4, *shape)),
        random.normal(size=(4, *out.shape[1:])),
        keras.losses.MeanSquaredError(),
        entries=entries,
        training=True,
        show=False,
    )
    return max(each.error for each in checked.values())


class SlightlyWrongDense(layers.Dense):
    """A dense layer whose gradient by the kernel is 1 % too large."""

    def call(self, inputs):
        kernel = tf.convert_to_tensor(self.kernel)
        return self.activation(slightly_wrong_product(inputs, kernel) + self.bias)


@tf.custom_gradient
def slightly_wrong_product(x, w):
    def pull_back(g):
        return g @ tf.transpose(w), 1.01 * tf.transpose(x) @ g

    return x @ w, pull_back


def build_mlp(dense: type, activation: str = "relu") -> keras.Model:
    """16 hidden neurons. Input: (batch, 64) pixels. Output: (batch, 10) logits."""
    x = keras.Input((64,), name="x")
    hidden = dense(16, activation, name="hidden")(x)
    logits = layers.Dense(10, name="logits")(hidden)
    return keras.Model(x, logits, name="mlp")


# --------------------------------------------------------------------------------------
# The experiment: right and wrong layers, the best ε, and kinks
# --------------------------------------------------------------------------------------

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EPSILONS = 10.0 ** np.arange(-9, 0)
PLACES = np.arange(0, 1024, 16)  # of the hidden kernel, whose quotients are looked at
FITTED = slice(5, 8)  # those ε at which a power is fitted: from 1e-4 to 1e-2
LARGE = 0.01  # an ε that steps across kinks
KERNEL = "hidden/kernel"


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    entries: int
    run: Run

    def check(self, model: keras.Model, **options) -> dict[str, Checked]:
        """On one batch."""
        return check_gradients(model, self.x[:32], self.y[:32], LOSS, **options)

    def loss_of(self, model: keras.Model, dtype: str):
        """On the same batch, of all weights in one vector, and that vector."""
        return loss_of_all_weights(model, self.x[:32], self.y[:32], LOSS, dtype=dtype)

    def train(self, model: keras.Model) -> float:
        """Returns the accuracy on held-out images."""
        model.compile(keras.optimizers.SGD(0.1, 0.9), LOSS, metrics=["accuracy"])
        training.fit(
            model,
            self.x,
            self.y,
            epochs=15,
            seed=self.run.seed,
            callbacks=self.run.callbacks,
        )
        _, accuracy = model.evaluate(self.x_test, self.y_test, verbose=0)
        return accuracy


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    return Task(x, y, x_test, y_test, config.entries, run)


def judge_layers(errors: dict[str, float], run: Run) -> None:
    largest = max(errors.values())
    run.metric("largest_error_of_a_right_layer", largest)
    run.claim(
        f"The gradients of {len(errors)} kinds of layers agree with central differences",
        holds=largest < 1e-6,
        measured=f"largest relative error {largest:.1e}, of "
        f"{max(errors, key=errors.get)}",
    )


@dataclass
class Pair:
    """A network, and the same with a gradient that is 1 % off."""

    right: keras.Model
    wrong: keras.Model
    checked_right: dict[str, Checked]
    checked_wrong: dict[str, Checked]
    accuracy_right: float
    """on held-out images, after training"""
    accuracy_wrong: float


def plant_a_mistake(task: Task) -> Pair:
    right = build_mlp(layers.Dense)
    wrong = build_mlp(SlightlyWrongDense)
    wrong.set_weights(right.get_weights())
    return Pair(
        right,
        wrong,
        checked_right=task.check(right, entries=task.entries),
        checked_wrong=task.check(wrong, entries=task.entries),
        accuracy_right=task.train(right),
        accuracy_wrong=task.train(wrong),
    )


def judge_mistake(pair: Pair, run: Run) -> None:
    found = pair.checked_wrong[KERNEL].error
    elsewhere = [
        each.error for path, each in pair.checked_wrong.items() if path != KERNEL
    ]
    without = [each.error for each in pair.checked_right.values()]
    others = max(*elsewhere, *without)
    run.metric("error_found_of_one_percent", found)
    run.claim(
        "The check finds a gradient that is 1 % off and where it is; training does not "
        "show it",
        holds=0.0095 < found < 0.0105
        and others < 1e-6
        and abs(pair.accuracy_wrong - pair.accuracy_right) < 0.02,
        measured=f"relative error {found:.4f}, of other weights and of the right network "
        f"at most {others:.0e}; test accuracy {pair.accuracy_right:.4f} with the right "
        f"gradient, {pair.accuracy_wrong:.4f} with the wrong one",
    )


def errors_by_epsilon(task: Task, model: keras.Model) -> dict[str, np.ndarray]:
    """Relative errors of difference quotients, (epsilons,)."""
    errors = {}
    for dtype in ("float64", "float32"):
        function, vector = task.loss_of(model, dtype)
        by_tape = gradient(function, vector)[PLACES]
        one_sided = []
        central = []
        for epsilon in EPSILONS:
            before, after = difference_quotients(function, vector, PLACES, epsilon)
            one_sided.append(np.linalg.norm(after - by_tape))
            central.append(np.linalg.norm((before + after) / 2 - by_tape))
        size = np.linalg.norm(by_tape)
        errors[f"one-sided, {dtype}"] = np.array(one_sided) / size
        errors[f"central, {dtype}"] = np.array(central) / size
    return errors


def power_of(errors: np.ndarray) -> float:
    """p of an error that shrinks as ε^p."""
    logs = np.log(errors[FITTED])
    power, _ = np.polyfit(np.log(EPSILONS[FITTED]), logs, 1)
    return power


def judge_epsilons(errors: dict[str, np.ndarray], run: Run) -> None:
    one = power_of(errors["one-sided, float64"])
    two = power_of(errors["central, float64"])
    run.claim(
        "The error is O(ε) for a one-sided and O(ε²) for a central difference",
        holds=abs(one - 1) < 0.1 and abs(two - 2) < 0.1,
        measured=f"powers {one:.3f} and {two:.3f}",
    )
    in_float32 = errors["central, float32"].min()
    in_float64 = errors["central, float64"].min()
    run.claim(
        "A gradient is checked in float64: rounding in float32 hides small mistakes",
        holds=in_float32 > 1e4 * in_float64,
        measured=f"smallest error at any ε {in_float32:.1e}, in float64 {in_float64:.1e}",
    )


def judge_kinks(task: Task, kinked: keras.Model, smooth: keras.Model) -> None:
    errors = {
        (name, epsilon): task.check(model, epsilon=epsilon, entries=1024, show=False)[
            KERNEL
        ].error_with_kinks
        for name, model in (("ReLU", kinked), ("tanh", smooth))
        for epsilon in (LARGE, 1e-5)
    }
    task.run.claim(
        "Where a step crosses ReLU's kink the quotient mixes two slopes; a smaller ε "
        "helps",
        holds=errors["ReLU", LARGE] > 30 * errors["tanh", LARGE]
        and errors["ReLU", 1e-5] < errors["ReLU", LARGE] / 1000,
        measured=f"error at ε = {LARGE:g} {errors['ReLU', LARGE]:.0e}, with tanh "
        f"{errors['tanh', LARGE]:.0e}; at 1e-5 {errors['ReLU', 1e-5]:.0e} and "
        f"{errors['tanh', 1e-5]:.0e}",
    )


def draw_errors(
    by_epsilon: dict[str, np.ndarray], by_layer: dict[str, float]
) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8))
    styles = zip(by_epsilon.items(), ("o-", "s-", "o--", "s--"), strict=True)
    for (name, errors), style in styles:
        left.loglog(EPSILONS, errors, style, markersize=4, label=name)
    left.set(
        title="Error of a difference quotient", xlabel="step ε", ylabel="relative error"
    )
    left.legend()

    is_wrong = [error > TOLERANCE for error in by_layer.values()]
    bars = right.barh(
        list(by_layer),
        list(by_layer.values()),
        color=["#D55E00" if wrong else "#0072B2" for wrong in is_wrong],
    )
    words = ["wrong" if wrong else "passes" for wrong in is_wrong]
    right.bar_label(bars, words, padding=4, fontsize=9)
    right.axvline(TOLERANCE, color="black", linestyle="--")
    right.set(
        title="Layers checked (dashed: what passes)",
        xlabel="relative error",
        xscale="log",
    )
    right.margins(x=0.2)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2)
    task = load_task(config, run)
    by_layer = {
        name: check_layer(layer, shape, config.entries)
        for name, (layer, shape) in LAYERS.items()
    }
    pair = plant_a_mistake(task)
    judge_mistake(pair, run)
    judge_layers(by_layer, run)

    smooth = build_mlp(layers.Dense, "tanh")
    kinked = build_mlp(layers.Dense)
    by_epsilon = errors_by_epsilon(task, smooth)
    judge_epsilons(by_epsilon, run)
    judge_kinks(task, kinked, smooth)

    shown = {**by_layer, "Dense, 1 % off": pair.checked_wrong[KERNEL].error}
    run.figure("errors", draw_errors(by_epsilon, shown))
    run.export(serving.classifier(pair.right), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
