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


class Contraction(keras.constraints.Constraint):
    """Keeps ‖W‖₂ ≤ 0.8. As |tanh′| ≤ 1, z ↦ tanh(z W + ...) then brings any two z
    nearer to each other, and iterating it ends at the one fixed point."""

    def __call__(self, w):
        return w / keras.ops.maximum(1.0, keras.ops.norm(w, ord=2) / 0.8)


@keras.saving.register_keras_serializable("implicit_differentiation")
class Equilibrium(layers.Layer):
    """(batch, features) to the fixed point z (batch, units) of z = tanh(z W + x U + b).

    implicit: by the implicit function theorem; otherwise through all iterations, which
        are kept."""

    def __init__(
        self, units: int, iterations: int = 40, implicit: bool = True, **options
    ):
        super().__init__(**options)
        self.units, self.iterations, self.implicit = units, iterations, implicit

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
        z = tf.zeros_like(injected)
        if not self.implicit:
            for _ in range(self.iterations):
                z = self.step(z, injected)
            return z
        # Nothing of the search is kept.
        fixed = tf.stop_gradient(
            repeat(lambda z: self.step(z, injected), z, self.iterations)
        )
        # One more step from there has ∂f/∂θ, and no part of dz/dθ: this puts it in.
        return self.solved(self.step(fixed, injected))

    def solved(self, stepped):
        """The value of the step; its gradient g becomes (I − J)⁻ᵀ g with J = ∂f/∂z at
        the fixed point, the solution of h = g + Jᵀ h, which is iterated as z was."""
        w, slope = tf.convert_to_tensor(self.w), 1 - tf.stop_gradient(stepped) ** 2

        @tf.custom_gradient
        def identity(stepped):
            def backward(g):
                return repeat(
                    lambda h: g + (h * slope) @ tf.transpose(w), g, self.iterations
                )

            return tf.identity(stepped), backward

        return identity(stepped)

    def get_config(self):
        own = {
            "units": self.units,
            "iterations": self.iterations,
            "implicit": self.implicit,
        }
        return {**super().get_config(), **own}


def repeat(function, start: tf.Tensor, times: int) -> tf.Tensor:
    """function(function(... start)), as a loop in the graph."""
    return tf.while_loop(
        lambda _: True, lambda z: (function(z),), (start,), maximum_iterations=times
    )[0]


def build_classifier(
    width: int, iterations: int, implicit: bool, dtype="float32"
) -> keras.Model:
    """Input: (batch, 64) pixels. Output: (batch, 10) logits, linear in the
    equilibrium."""
    x = keras.Input((64,), name="x", dtype=dtype)
    z = Equilibrium(width, iterations, implicit, dtype=dtype, name="equilibrium")(x)
    logits = layers.Dense(10, dtype=dtype, name="logits")(z)
    return keras.Model(x, logits, name="implicit" if implicit else "unrolled")


def gradients_and_memory(model: keras.Model, x, y) -> tuple[np.ndarray, int]:
    """The gradient by all weights, flat, and the bytes kept for it: of those tensors of
    the forward pass that the backward pass reads, weights and tensors by another name
    only not counted."""
    before = {}

    @tf.function(autograph=False)
    def traced():
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                y, model(x), from_logits=True
            )
            loss = tf.reduce_mean(losses)
        before.update({each.name: each.type for each in loss.graph.get_operations()})
        return tape.gradient(loss, model.trainable_variables)

    free = {"Const", "Placeholder", "ReadVariableOp", "Identity", "Reshape", "Shape"}
    read = {
        tensor.name: tensor.shape.num_elements() * tensor.dtype.size
        for operation in traced.get_concrete_function().graph.get_operations()
        if operation.name not in before
        for tensor in operation.inputs
        if before.get(tensor.op.name, "Const") not in free
    }
    return np.concatenate([part.numpy().ravel() for part in traced()]), sum(
        read.values()
    )


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


def slope_through_descent(penalty: float, x, y, x_new, y_new, steps: int) -> float:
    """The same by differentiating gradient descent on the ridge loss, step by step."""
    w, rate = (
        tf.zeros(x.shape[1], tf.float64),
        1 / (np.linalg.norm(x, 2) ** 2 + penalty),
    )
    with tf.GradientTape() as tape:
        variable = tf.Variable(penalty, dtype=tf.float64)
        for _ in range(steps):
            off = tf.linalg.matvec(x, w) - y
            w -= rate * (tf.linalg.matvec(x, off, transpose_a=True) + variable * w)
        error = tf.reduce_mean((tf.linalg.matvec(x_new, w) - y_new) ** 2)
    return float(tape.gradient(error, variable))


def plot(counts, memory, errors, penalties, curve, path) -> plt.Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4))
    for mode in memory:
        left.plot(counts, np.array(memory[mode]) / 1024, "o-", label=mode)
        middle.semilogy(counts, errors[mode], "o-", label=mode)
    left.set(title="Kept for the backward pass", xlabel="iterations", ylabel="kB")
    middle.set(
        title="Error of the gradient", xlabel="iterations", ylabel="relative error"
    )
    right.semilogx(penalties, curve, color="#999999", label="grid")
    right.semilogx(
        *path, "o-", color="#D55E00", markersize=3, label="down the gradient"
    )
    right.set(title="Ridge regression", xlabel="penalty λ", ylabel="validation error")
    for axes in (left, middle, right):
        axes.legend()
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(2)
    (x, y), (x_test, y_test) = data.load("digits")
    x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    modes, first, last = (
        {"unrolled": False, "implicit": True},
        config.counts[0],
        config.counts[-1],
    )
    # One batch's gradient and what it keeps, by the number of iterations.
    start = build_classifier(config.width, 1, True, "float64").get_weights()

    def batch_gradient(count: int, implicit: bool) -> tuple[np.ndarray, int]:
        model = build_classifier(config.width, count, implicit, "float64")
        model.set_weights(start)
        return gradients_and_memory(model, x[:32].astype("float64"), y[:32])

    exact, _ = batch_gradient(2 * last, False)
    memory, errors, accuracies = {}, {}, {}
    for mode, implicit in modes.items():
        pairs = [batch_gradient(count, implicit) for count in config.counts]
        found, memory[mode] = zip(*pairs, strict=True)
        errors[mode] = [
            np.linalg.norm(each - exact) / np.linalg.norm(exact) for each in found
        ]
    # The same training with either gradient.
    for mode, implicit in modes.items():
        keras.utils.set_random_seed(run.seed)
        model = build_classifier(config.width, config.iterations, implicit)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        training.fit(model, x, y, epochs=config.epochs, callbacks=run.callbacks)
        accuracies[mode] = model.evaluate(x_test, y_test, verbose=0)[1]
    run.export(serving.classifier(model), example=x_test[:3])
    # Ridge regression: 30 patients to fit, the others choose the penalty.
    (table, target), _ = data.load_table("diabetes")
    order = np.random.default_rng(run.seed).permutation(len(table))
    table, target = (
        ((a - a.mean(0)) / a.std(0)).astype("float64")[order] for a in (table, target)
    )
    fit, held_out = (table[:30], target[:30]), (table[30:], target[30:])
    by_theorem = slope_by_theorem(*ridge(*fit, 1.0), *held_out)
    by_descent = slope_through_descent(1.0, *fit, *held_out, steps=2000)
    low, high = (
        validation_error(ridge(*fit, 1.0 + each)[0], *held_out)
        for each in (-1e-5, 1e-5)
    )
    penalties, penalty, path = np.logspace(-2, 3, 200), 1.0, []
    curve = [validation_error(ridge(*fit, each)[0], *held_out) for each in penalties]
    for _ in range(200):
        w, matrix = ridge(*fit, penalty)
        path.append((penalty, validation_error(w, *held_out)))
        penalty *= np.exp(-3 * penalty * slope_by_theorem(w, matrix, *held_out))
    path = np.array(path).T
    run.metric("test_accuracy", accuracies["implicit"])
    run.metric("kept_for_backward", memory["implicit"][-1] / 1024, unit="kB")
    run.figure("gradients", plot(config.counts, memory, errors, penalties, curve, path))
    run.claim(
        "The implicit gradient is the one that unrolling comes to",
        holds=errors["implicit"][-1] < 1e-6 and errors["unrolled"][-1] < 1e-6,
        measured=f"relative error after {last} iterations {errors['implicit'][-1]:.0e} implicit, "
        f"{errors['unrolled'][-1]:.0e} unrolled ({2 * last} unrolled iterations taken for exact)",
    )
    unrolled, kept = memory.values()
    run.claim(
        "It keeps as much for the backward pass however long the search was; unrolling keeps all",
        holds=kept[0] == kept[-1] and unrolled[-1] / unrolled[0] > 0.7 * last / first,
        measured=f"{first} to {last} iterations: {kept[0] / 1024:.0f} to {kept[-1] / 1024:.0f} kB "
        f"implicit, {unrolled[0] / 1024:.0f} to {unrolled[-1] / 1024:.0f} kB unrolled",
    )
    run.claim(
        "An equilibrium layer trains by it as by unrolling",
        holds=abs(np.diff(list(accuracies.values()))[0]) < 0.015,
        measured="test accuracy "
        + ", ".join(f"{k} {v:.4f}" for k, v in accuracies.items()),
    )
    run.claim(
        "By the optimum's own equation a hyper-parameter has a gradient, with no solver in it",
        holds=max(
            abs(by_descent / by_theorem - 1), abs((high - low) / 2e-5 / by_theorem - 1)
        )
        < 1e-5,
        measured=f"of the validation error by λ: {by_theorem:.8f} by theorem, {by_descent:.8f} "
        f"through 2,000 steps of descent, {(high - low) / 2e-5:.8f} by differences",
    )
    run.claim(
        "Going down that gradient finds the penalty that a grid finds",
        holds=path[1, -1] < min(curve) * 1.001 and path[1, -1] < path[1, 0] - 0.005,
        measured=f"validation error {path[1, 0]:.4f} at λ = 1, {path[1, -1]:.4f} at "
        f"{path[0, -1]:.2f}; best of 200 {min(curve):.4f} at {penalties[np.argmin(curve)]:.2f}",
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
