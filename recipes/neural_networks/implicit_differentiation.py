"""Implicit differentiation: the gradient of a solution without the solver's steps.

Where z solves g(z, θ) = 0, it moves with θ so that g stays zero: ∂g/∂z · dz/dθ =
−∂g/∂θ. So its gradient takes one linear system, whatever found the solution and however
long that took. Here z is a network's equilibrium, z = tanh(z W + x U + b), a layer of
any depth, or the optimum of ridge regression, w = (XᵀX + λI)⁻¹ Xᵀy, which gives the
validation error a gradient by λ. Look at what the unrolled iteration has to keep for
its backward pass, and the implicit one does not.

Lectures: N18 2.2.3 Implicit Function Theorem
Paper: Bai, Kolter and Koltun, Deep equilibrium models, 2019 (theorem 1)
Tags: deq, deep equilibrium model, implicit layer, fixed point, implicit function
    theorem, ridge regression, bilevel optimization
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    width: int = 64
    """numbers in the equilibrium z"""
    iterations: int = 40
    """of z ← tanh(W z + U x + b), and of the linear system behind it"""
    epochs: int = 12
    """passes over the training digits"""
    counts: tuple[int, ...] = (5, 10, 20, 40, 80)
    """iterations for which memory and error are measured"""


QUICK = Config(epochs=5, counts=(5, 20, 80))
FULL = Config(width=256, epochs=40)


# --------------------------------------------------------------------------------------
# The idea: one linear system behind a solution, whatever found it
# --------------------------------------------------------------------------------------


class Contraction(keras.constraints.Constraint):
    """Keeps ‖W‖₂ ≤ 0.8. As |tanh′| ≤ 1, z ↦ tanh(z W + ...) then brings any two z
    nearer to each other, and iterating it ends at the one fixed point."""

    def __call__(self, w):
        return w / keras.ops.maximum(1.0, keras.ops.norm(w, ord=2) / 0.8)


def repeat(function, start: tf.Tensor, times: int) -> tf.Tensor:
    """function(function(... start)), as a loop in the graph."""
    (end,) = tf.while_loop(
        lambda _: True, lambda z: (function(z),), (start,), maximum_iterations=times
    )
    return end


@keras.saving.register_keras_serializable("implicit_differentiation")
class Equilibrium(layers.Layer):
    """(batch, features) to the fixed point z (batch, units) of z = tanh(z W + x U + b).

    implicit: by the implicit function theorem; otherwise through all iterations, which
        are kept."""

    def __init__(
        self, units: int, iterations: int = 40, implicit: bool = True, **options
    ):
        super().__init__(**options)
        self.units = units
        self.iterations = iterations
        self.implicit = implicit

    def build(self, shape):
        self.w = self.add_weight(
            (self.units, self.units), "orthogonal", name="w", constraint=Contraction()
        )
        self.w.assign(self.w.constraint(self.w))
        self.u = self.add_weight((shape[-1], self.units), name="u")
        self.b = self.add_weight((self.units,), "zeros", name="b")

    def step(self, z, injected):
        return tf.tanh(z @ self.w + injected)

    def call(self, x):
        injected = x @ tf.convert_to_tensor(self.u) + self.b
        return self.find(injected) if self.implicit else self.unroll(injected)

    def unroll(self, injected):
        z = tf.zeros_like(injected)
        for _ in range(self.iterations):
            z = self.step(z, injected)
        return z

    def find(self, injected):
        zeros = tf.zeros_like(injected)
        fixed = repeat(lambda z: self.step(z, injected), zeros, self.iterations)
        # Nothing of the search is kept.
        fixed = tf.stop_gradient(fixed)
        # One more step from there has ∂f/∂θ, and no part of dz/dθ: this puts it in.
        return self.solved(self.step(fixed, injected))

    def solved(self, stepped):
        """The value of the step; its gradient g becomes (I − J)⁻ᵀ g with J = ∂f/∂z at
        the fixed point, the solution of h = g + Jᵀ h, which is iterated as z was."""
        w = tf.convert_to_tensor(self.w)
        slope = 1 - tf.stop_gradient(stepped) ** 2

        @tf.custom_gradient
        def identity(stepped):
            def backward(g):
                transposed = tf.transpose(w)
                return repeat(
                    lambda h: g + (h * slope) @ transposed, g, self.iterations
                )

            return tf.identity(stepped), backward

        return identity(stepped)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "iterations": self.iterations,
            "implicit": self.implicit,
        }


def build_classifier(
    width: int, iterations: int, implicit: bool, dtype="float32"
) -> keras.Model:
    """Input: (batch, 64) pixels. Output: (batch, 10) logits, linear in the
    equilibrium."""
    x = keras.Input((64,), name="x", dtype=dtype)
    z = Equilibrium(width, iterations, implicit, dtype=dtype, name="equilibrium")(x)
    logits = layers.Dense(10, dtype=dtype, name="logits")(z)
    return keras.Model(x, logits, name="implicit" if implicit else "unrolled")


def ridge(x, y, penalty):
    """w = (XᵀX + λI)⁻¹ Xᵀy, and its matrix."""
    matrix = x.T @ x + penalty * np.eye(x.shape[1])
    return np.linalg.solve(matrix, x.T @ y), matrix


def validation_error(w, x, y) -> float:
    return float(np.mean((x @ w - y) ** 2))


def slope_by_theorem(w, matrix, x, y) -> float:
    """d(validation error)/dλ. The optimum has (XᵀX + λI) w − Xᵀy = 0, so dw/dλ =
    −matrix⁻¹ w."""
    return float(-2 * np.mean((x @ w - y) * (x @ np.linalg.solve(matrix, w))))


# --------------------------------------------------------------------------------------
# The experiment: what each gradient keeps, the same training, a penalty's gradient
# --------------------------------------------------------------------------------------

MODES = {"unrolled": False, "implicit": True}
BATCH = 32
LEARNING_RATE = 3e-3
PATIENTS = 30  # to fit the ridge regression to; the others choose the penalty
DESCENT_STEPS = 2000  # of the solver that is differentiated through
PENALTIES = np.logspace(-2, 3, 200)
PENALTY_STEPS = 200
DIFFERENCE = 1e-5  # of the penalty
# Operations whose output is no tensor of its own: weights, and other names of tensors.
FREE = {"Const", "Placeholder", "ReadVariableOp", "Identity", "Reshape", "Shape"}


def bytes_of(tensor: tf.Tensor) -> int:
    """A tensor's bytes; of the list that a loop fills for its backward pass, those of as
    many elements as it makes rounds."""
    if tensor.dtype != tf.variant:
        return tensor.shape.num_elements() * tensor.dtype.size
    loop = tensor.op
    empty = loop.inputs[tensor.value_index].op  # the list before the first round
    shape = tf.get_static_value(empty.inputs[0])
    rounds = tf.get_static_value(empty.inputs[1])
    size = empty.get_attr("element_dtype").size
    return int(rounds) * math.prod(shape.tolist()) * size


def gradients_and_memory(loss, variables) -> tuple[np.ndarray, int]:
    """The gradient by all variables, flat, and the bytes kept for it: of those tensors
    of the forward pass that the backward pass reads, weights and tensors by another name
    only not counted. loss: a function without arguments."""
    before = {}

    @tf.function(autograph=False)
    def traced():
        with tf.GradientTape() as tape:
            value = loss()
        before.update({each.name: each.type for each in value.graph.get_operations()})
        return tape.gradient(value, variables)

    graph = traced.get_concrete_function().graph
    read = {}
    for operation in graph.get_operations():
        if operation.name in before:
            continue
        for tensor in operation.inputs:
            if before.get(tensor.op.name, "Const") not in FREE:
                read[tensor.name] = bytes_of(tensor)
    gradient = np.concatenate([part.numpy().ravel() for part in traced()])
    return gradient, sum(read.values())


@dataclass
class Costs:
    """By way, one number for each count of iterations."""

    memory: dict[str, list[int]]
    """bytes kept for the backward pass"""
    errors: dict[str, list[float]]
    """of the gradient, relative to that of twice as many iterations as ever, unrolled"""


def measure_costs(config: Config, x, y) -> Costs:
    """One batch's gradient and what it keeps, by the number of iterations."""
    start = build_classifier(config.width, 1, True, "float64").get_weights()

    def batch_gradient(iterations: int, implicit: bool):
        model = build_classifier(config.width, iterations, implicit, "float64")
        model.set_weights(start)

        def loss():
            logits = model(x.astype("float64"))
            losses = keras.losses.sparse_categorical_crossentropy(
                y, logits, from_logits=True
            )
            return tf.reduce_mean(losses)

        return gradients_and_memory(loss, model.trainable_variables)

    exact, _ = batch_gradient(2 * config.counts[-1], implicit=False)
    costs = Costs({}, {})
    for mode, implicit in MODES.items():
        costs.memory[mode] = []
        costs.errors[mode] = []
        for iterations in config.counts:
            gradient, kept = batch_gradient(iterations, implicit)
            error = np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
            costs.memory[mode].append(kept)
            costs.errors[mode].append(float(error))
    return costs


def judge_costs(costs: Costs, counts: tuple[int, ...], run: Run) -> None:
    first = counts[0]
    last = counts[-1]
    errors = {mode: found[-1] for mode, found in costs.errors.items()}
    run.metric("kept_for_backward", costs.memory["implicit"][-1] / 1024, unit="kB")
    run.claim(
        "The implicit gradient is the one that unrolling comes to",
        holds=max(errors.values()) < 1e-6,
        measured=f"relative error after {last} iterations "
        + ", ".join(f"{error:.0e} {mode}" for mode, error in errors.items())
        + f" ({2 * last} unrolled iterations taken for exact)",
    )
    kept = costs.memory["implicit"]
    unrolled = costs.memory["unrolled"]
    run.claim(
        "It keeps as much for the backward pass however long the search was; unrolling "
        "keeps all",
        holds=kept[0] == kept[-1] and unrolled[-1] / unrolled[0] > 0.7 * last / first,
        measured=f"{first} to {last} iterations: {kept[0] / 1024:.0f} to "
        f"{kept[-1] / 1024:.0f} kB implicit, {unrolled[0] / 1024:.0f} to "
        f"{unrolled[-1] / 1024:.0f} kB unrolled",
    )


def train(mode: str, x, y, config: Config, run: Run) -> keras.Model:
    keras.utils.set_random_seed(run.seed)  # the same start for both
    model = build_classifier(config.width, config.iterations, MODES[mode])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=["accuracy"])
    training.fit(model, x, y, epochs=config.epochs, callbacks=run.callbacks)
    return model


def judge_training(accuracies: dict[str, float], run: Run) -> None:
    run.claim(
        "An equilibrium layer trains by it as by unrolling",
        holds=abs(accuracies["implicit"] - accuracies["unrolled"]) < 0.015,
        measured="test accuracy "
        + ", ".join(f"{mode} {each:.4f}" for mode, each in accuracies.items()),
    )


@dataclass
class Patients:
    """Of the diabetes data, standardized by the means and deviations of those that the
    regression is fitted to."""

    x: np.ndarray
    y: np.ndarray
    x_held_out: np.ndarray
    y_held_out: np.ndarray

    def error(self, penalty: float) -> float:
        w, _ = ridge(self.x, self.y, penalty)
        return validation_error(w, self.x_held_out, self.y_held_out)

    def slope(self, penalty: float) -> float:
        """Of that error by the penalty."""
        w, matrix = ridge(self.x, self.y, penalty)
        return slope_by_theorem(w, matrix, self.x_held_out, self.y_held_out)


def load_patients(seed: int) -> Patients:
    (x, y), _ = data.load_table("diabetes")
    order = np.random.default_rng(seed).permutation(len(x))
    x = standardize(x[order].astype("float64"), PATIENTS)
    y = standardize(y[order].astype("float64"), PATIENTS)
    return Patients(x[:PATIENTS], y[:PATIENTS], x[PATIENTS:], y[PATIENTS:])


def standardize(values: np.ndarray, count: int) -> np.ndarray:
    """By the mean and the deviation of the first so many."""
    first = values[:count]
    return (values - first.mean(axis=0)) / first.std(axis=0)


def slope_through_descent(penalty: float, x, y, x_new, y_new, steps: int) -> float:
    """d(validation error)/dλ by differentiating gradient descent on the ridge loss, step
    by step."""
    rate = 1 / (np.linalg.norm(x, 2) ** 2 + penalty)
    w = tf.zeros(x.shape[1], tf.float64)
    variable = tf.Variable(penalty, dtype=tf.float64)
    with tf.GradientTape() as tape:
        for _ in range(steps):
            off = tf.linalg.matvec(x, w) - y
            w -= rate * (tf.linalg.matvec(x, off, transpose_a=True) + variable * w)
        error = tf.reduce_mean((tf.linalg.matvec(x_new, w) - y_new) ** 2)
    return float(tape.gradient(error, variable))


def descend(patients: Patients) -> tuple[list[float], list[float]]:
    """Penalties from 1 down the gradient, on their logarithm, and the errors there."""
    penalty = 1.0
    penalties = []
    errors = []
    for _ in range(PENALTY_STEPS):
        penalties.append(penalty)
        errors.append(patients.error(penalty))
        penalty *= np.exp(-3 * penalty * patients.slope(penalty))
    return penalties, errors


def judge_slope(patients: Patients, run: Run) -> None:
    by_theorem = patients.slope(1.0)
    by_descent = slope_through_descent(
        1.0,
        patients.x,
        patients.y,
        patients.x_held_out,
        patients.y_held_out,
        DESCENT_STEPS,
    )
    above = patients.error(1.0 + DIFFERENCE)
    below = patients.error(1.0 - DIFFERENCE)
    by_differences = (above - below) / (2 * DIFFERENCE)
    run.claim(
        "By the optimum's own equation a hyper-parameter has a gradient, with no solver "
        "in it",
        holds=abs(by_descent / by_theorem - 1) < 1e-5
        and abs(by_differences / by_theorem - 1) < 1e-5,
        measured=f"of the validation error by λ: {by_theorem:.8f} by theorem, "
        f"{by_descent:.8f} through {DESCENT_STEPS:,} steps of descent, "
        f"{by_differences:.8f} by differences",
    )


def judge_path(penalties, errors, on_grid, run: Run) -> None:
    best = min(on_grid)
    run.claim(
        "Going down that gradient finds the penalty that a grid finds",
        holds=errors[-1] < best * 1.001 and errors[-1] < errors[0] - 0.005,
        measured=f"validation error {errors[0]:.4f} at λ = 1, {errors[-1]:.4f} at "
        f"{penalties[-1]:.2f}; best of {len(PENALTIES)} {best:.4f} at "
        f"{PENALTIES[np.argmin(on_grid)]:.2f}",
    )


def draw_findings(counts, costs: Costs, path, on_grid) -> Figure:
    kilobytes = {
        mode: (counts, [each / 1024 for each in kept])
        for mode, kept in costs.memory.items()
    }
    memory = figures.Panel(
        title="Kept for the backward pass",
        xlabel="iterations",
        ylabel="kB",
        lines=kilobytes,
        ylim=(0, None),
    )
    errors = figures.Panel(
        title="Error of the gradient",
        xlabel="iterations",
        ylabel="relative error",
        lines={mode: (counts, found) for mode, found in costs.errors.items()},
        yscale="log",
    )
    penalty = figures.Panel(
        title="Ridge regression",
        xlabel="penalty λ",
        ylabel="validation error",
        lines={"grid": (PENALTIES, on_grid)},
        points={"down the gradient": path},
        xscale="log",
    )
    return figures.panels(memory, errors, penalty)


def main(config: Config, run: Run) -> None:
    run.plan(2)
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)

    costs = measure_costs(config, x[:BATCH], y[:BATCH])
    models = {mode: train(mode, x, y, config, run) for mode in MODES}
    accuracies = {
        mode: model.evaluate(x_test, y_test, verbose=0)[1]
        for mode, model in models.items()
    }
    run.metric("test_accuracy", accuracies["implicit"])
    judge_costs(costs, config.counts, run)
    judge_training(accuracies, run)

    patients = load_patients(run.seed)
    judge_slope(patients, run)
    penalties, errors = descend(patients)
    on_grid = [patients.error(penalty) for penalty in PENALTIES]
    judge_path(penalties, errors, on_grid, run)

    path = (penalties, errors)
    run.figure("gradients", draw_findings(config.counts, costs, path, on_grid))
    run.export(serving.classifier(models["implicit"]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
