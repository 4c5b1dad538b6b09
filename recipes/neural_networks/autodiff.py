"""Automatic differentiation: exact derivatives of programs, forwards and backwards.

A program is a chain of primitives with known derivatives, so its Jacobian is a product
of theirs. Forward mode multiplies from the input's side, as the program runs: J v (a
jvp), a column of the Jacobian for each pass. Reverse mode runs the program first and
multiplies from the output's side: uᵀ J (a vjp), a row for each pass. A loss has one
output and many inputs, so it gets its whole gradient for the price of a few function
calls. Look at the two cost curves, and at what nesting gives for free: Hessian-vector
products, n-th derivatives, and forward mode out of reverse mode.

Lectures: N18 2.1 Basic Autodiff, 2.2.1 Higher Order Ops; CS Autodifferentiation
Paper: Baydin et al., Automatic differentiation in machine learning: a survey, 2018
Tags: jacobian, hessian, jvp, vjp, forward mode, reverse mode, higher-order derivatives,
    gradienttape
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from matplotlib import pyplot as plt

from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """numbers of inputs, and of outputs, for which a Jacobian's cost is counted"""
    order: int = 6
    """derivatives of tanh to take by nesting"""


QUICK = Config(sizes=(1, 4, 16, 64), order=5)
FULL = Config(sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), order=8)


class Dual:
    """Forward mode in plain Python: value + slope · δ with δ² = 0."""

    def __init__(self, value: float, slope: float = 0.0):
        self.value, self.slope = value, slope

    def __add__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(
            self.value * other.value,
            self.slope * other.value + self.value * other.slope,
        )

    __radd__, __rmul__ = __add__, __mul__


def dual_tanh(x: Dual) -> Dual:
    value = np.tanh(x.value)
    return Dual(value, (1 - value**2) * x.slope)


def jvp(f, x: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """J v in one pass: each primitive hands on its value and its slope along v."""
    with tf.autodiff.ForwardAccumulator(x, v) as accumulator:
        y = f(x)
    return accumulator.jvp(y, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def vjp(f, x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """uᵀ J: the tape notes what runs, then composes the primitives' vjps backwards."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x, u, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def jvp_by_two_vjps(f, x: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """J v by reverse mode alone: u ↦ Jᵀ u is linear, and the vjp of that is v ↦ J v."""
    u = tf.ones_like(f(x))  # any will do
    return vjp(lambda u: vjp(f, x, u), u, v)


def jacobian_forwards(f, x: tf.Tensor, push=jvp) -> tf.Tensor:
    """(outputs, inputs), column by column: a pass for each input."""
    return tf.stack(
        [push(f, x, v) for v in tf.unstack(tf.eye(x.shape[0], dtype=x.dtype))], axis=1
    )


def jacobian_backwards(f, x: tf.Tensor, outputs: int) -> tf.Tensor:
    """(outputs, inputs), row by row: a pass for each output."""
    return tf.stack([vjp(f, x, u) for u in tf.unstack(tf.eye(outputs, dtype=x.dtype))])


def gradient(f, x: tf.Tensor) -> tf.Tensor:
    """∇f of a function with one output: its only row."""
    return vjp(f, x, tf.ones((), x.dtype))


def hessian_vector(f, x: tf.Tensor, v: tf.Tensor, push=jvp) -> tf.Tensor:
    """H v, forward over reverse: how the gradient changes along v. No Hessian is
    made."""
    return push(lambda x: gradient(f, x), x, v)


def nth_derivative(f, n: int):
    """The tape's own steps are traced by the tape around it."""
    return f if n == 0 else nth_derivative(lambda x: vjp(f, x, tf.ones_like(x)), n - 1)


def tanh_derivatives(x: np.ndarray, n: int) -> np.ndarray:
    """The n-th derivative of t = tanh(x) on paper: t′ = 1 − t², so each is a polynomial
    in t."""
    polynomial = np.polynomial.Polynomial([0, 1])
    for _ in range(n):
        polynomial = polynomial.deriv() * np.polynomial.Polynomial([1, 0, -1])
    return polynomial(np.tanh(x))


def square_root(x: tf.Tensor) -> tf.Tensor:
    """Newton's method: how often the loop turns depends on x."""
    guess = x
    while tf.abs(guess * guess - x) > 1e-12 * x:
        guess = (guess + x / guess) / 2
    return (guess + x / guess) / 2  # the slope comes to its end a step after the value


def count_operations(function, *tensors: tf.Tensor) -> int:
    """Operations on numbers in the traced graph, as far as its results need them:
    products and sums in matrix products, elsewhere 1 for each number that comes out;
    moving numbers is free."""
    free = {
        "Const",
        "Placeholder",
        "Identity",
        "Reshape",
        "ExpandDims",
        "Squeeze",
        "Pack",
        "Fill",
    }
    graph = tf.function(function, autograph=False).get_concrete_function(*tensors).graph
    count, seen, waiting = 0, set(), [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        waiting += [tensor.op for tensor in operation.inputs]
        if operation.type not in free:
            out = operation.outputs[0].shape.num_elements()
            count += out
            if operation.type == "MatMul":
                a, b = (tensor.shape.num_elements() for tensor in operation.inputs)
                count += out * (2 * round((a * b / out) ** 0.5) - 1)
    return count


def network(inputs: int, hidden: int, outputs: int, seed: int):
    """y = W₂ tanh(W₁ x) as a function of x (inputs,), and its weights."""
    random = np.random.default_rng(seed)
    w1 = tf.constant(random.normal(size=(hidden, inputs)) / inputs**0.5)
    w2 = tf.constant(random.normal(size=(outputs, hidden)) / hidden**0.5)
    return lambda x: tf.linalg.matvec(w2, tf.tanh(tf.linalg.matvec(w1, x))), w1, w2


def jacobian_costs(inputs: int, outputs: int) -> tuple[float, float]:
    """Operations for a whole Jacobian by forward and by reverse mode, in calls of the
    function."""
    f, x = network(inputs, 64, outputs, seed=0)[0], tf.ones(inputs, tf.float64)
    forwards = count_operations(lambda x: jacobian_forwards(f, x, jvp_by_two_vjps), x)
    backwards = count_operations(lambda x: jacobian_backwards(f, x, outputs), x)
    return forwards / count_operations(f, x), backwards / count_operations(f, x)


def gradient_costs(inputs: int) -> tuple[float, float]:
    """Operations for a gradient, and for a Hessian-vector product, in calls of the
    function."""
    f, x = network(inputs, 64, 1, seed=0)[0], tf.ones(inputs, tf.float64)
    loss = lambda x: f(x)[0]  # noqa: E731
    slopes = count_operations(lambda x: gradient(loss, x), x)
    product = count_operations(lambda x: hessian_vector(loss, x, x, jvp_by_two_vjps), x)
    return slopes / count_operations(loss, x), product / count_operations(loss, x)


def network_of_duals(
    w1: np.ndarray, w2: np.ndarray, x: np.ndarray, v: np.ndarray
) -> list[Dual]:
    """The same function in plain Python, of the numbers x + v δ."""
    numbers = [Dual(*each) for each in zip(x.tolist(), v.tolist(), strict=True)]
    dot = lambda row, values: sum(w * each for w, each in zip(row, values, strict=True))  # noqa: E731
    hidden = [dual_tanh(dot(row, numbers)) for row in w1.tolist()]
    return [dot(row, hidden) for row in w2.tolist()]


class TanhAndDerivatives(keras.layers.Layer):
    """(batch, 1) to tanh and its first three derivatives, each (batch, 1)."""

    def call(self, x):
        return {f"derivative_{n}": nth_derivative(tf.tanh, n)(x) for n in range(4)}


def plot_costs(sizes, costs: dict[str, np.ndarray]) -> plt.Figure:
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axes, (varied, by_mode) in zip(panels, costs.items(), strict=True):
        axes.loglog(
            sizes, by_mode, "o-", base=2, label=["forward mode", "reverse mode"]
        )
        axes.set(
            xlabel=f"number of {varied} (the other: 16)",
            title=f"Jacobian, more {varied}",
        )
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("operations, in calls of the function")
    panels[0].legend()
    return figure


def main(config: Config, run: Run) -> None:
    # One Jacobian-vector product in four ways, and on paper.
    f, w1, w2 = network(12, 64, 8, run.seed)
    x, v = (
        tf.constant(each)
        for each in np.random.default_rng(run.seed).normal(size=(2, 12))
    )
    on_paper = (w2 * (1 - tf.tanh(tf.linalg.matvec(w1, x)) ** 2)) @ w1
    exact = tf.linalg.matvec(on_paper, v)
    duals = network_of_duals(w1.numpy(), w2.numpy(), x.numpy(), v.numpy())
    ways = {
        "ForwardAccumulator": jvp(f, x, v),
        "two vjps": jvp_by_two_vjps(f, x, v),
        "dual numbers": tf.stack([each.slope for each in duals]),
        "differences": (f(x + 1e-5 * v) - f(x - 1e-5 * v)) / 2e-5,
    }
    off = {name: float(tf.reduce_max(abs(way - exact))) for name, way in ways.items()}
    both = jacobian_forwards(f, x), jacobian_backwards(f, x, 8)
    apart = max(float(tf.reduce_max(abs(each - on_paper))) for each in both)
    near = off.pop("differences")
    # What whole Jacobians cost, and what one vjp and Hessian-vector product of a single
    # output.
    costs = {
        "inputs": np.array([jacobian_costs(n, 16) for n in config.sizes]),
        "outputs": np.array([jacobian_costs(16, m) for m in config.sizes]),
    }
    vjps, products = np.array([gradient_costs(n) for n in config.sizes]).T
    run.metric("vjp_cost", vjps.max(), unit="function calls")
    run.metric("largest_error", max(apart, *off.values()))
    run.figure("costs", plot_costs(config.sizes, costs))
    run.claim(
        "By slopes, by dual numbers or out of two vjps, forward mode is exact; differences are not",
        holds=max(apart, *off.values()) < 1e-12 < near,
        measured=f"off by {', '.join(f'{error:.0e} ({way})' for way, error in off.items())}, "
        f"{near:.0e} (differences); Jacobian by columns, by rows {apart:.0e}",
    )
    more = config.sizes[-1] / config.sizes[0]
    by_inputs, by_outputs = (each[-1] / each[0] for each in costs.values())
    run.claim(
        "A Jacobian by forward mode costs a pass for each input, by reverse mode for each output",
        holds=min(by_inputs[0], by_outputs[1]) > more / 2
        and max(by_inputs[1], by_outputs[0]) < 2,
        measured=f"{more:.0f} times the inputs cost forward {by_inputs[0]:.1f}, reverse "
        f"{by_inputs[1]:.1f} times the calls, the outputs {by_outputs[0]:.1f}, {by_outputs[1]:.1f}",
    )
    run.claim(
        "A gradient costs a small constant of function calls, a Hessian-vector product another",
        holds=vjps.max() < 4 and products.max() < 8,
        measured=f"from {config.sizes[0]} to {config.sizes[-1]} inputs {vjps.min():.2f} to "
        f"{vjps.max():.2f}, and {products.min():.2f} to {products.max():.2f}",
    )
    points = np.linspace(-3, 3, 61)
    nested = [
        nth_derivative(tf.tanh, n)(tf.constant(points)) for n in range(config.order + 1)
    ]
    error = max(
        np.abs(d - tanh_derivatives(points, n)).max() for n, d in enumerate(nested)
    )
    run.claim(
        "Nested tapes differentiate the derivative: higher orders come for free",
        holds=error < 1e-8,
        measured=f"derivatives of tanh up to the {config.order}th within {error:.0e}",
    )
    written = tf.function(
        square_root
    )  # reads the source and writes a graph with a loop
    x = points[31:]
    slopes = [
        [gradient(f, tf.constant(each)) for each in x] for f in (square_root, written)
    ]
    off_by = np.abs(np.array(slopes) * 2 * np.sqrt(x) - 1).max(axis=1)
    run.claim(
        "Traced as it runs, or rewritten from its source: a loop is differentiated either way",
        holds=off_by.max() < 1e-9,
        measured=f"slope of Newton's square root within {off_by[0]:.0e} and {off_by[1]:.0e}",
    )
    x = keras.Input((1,), name="x")
    model = keras.Model(x, TanhAndDerivatives()(x), name="tanh")
    run.export(model, example=np.array([[-1.0], [0.0], [0.5]], "float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
