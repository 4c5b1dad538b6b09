"""Automatic differentiation: exact derivatives of programs, forwards and backwards.

A program is a chain of primitives with known derivatives, so its Jacobian is a product
of theirs. Forward mode multiplies from the input's side, as the program runs: J v (a
jvp), a column of the Jacobian for each pass. Reverse mode runs the program first and
multiplies from the output's side: uᵀ J (a vjp), a row for each pass. A loss has one
output and many inputs, so it gets its whole gradient for the price of a few function
calls. Look at the two cost curves, and at what nesting gives without a new rule:
Hessian-vector products, n-th derivatives (each dearer than the one before), and forward
mode out of reverse mode.

Lectures: N18 2.1 Basic Autodiff, 2.2.1 Higher Order Ops; CS Autodifferentiation
Paper: Baydin et al., Automatic differentiation in machine learning: a survey, 2018
Tags: jacobian, hessian, jvp, vjp, forward mode, reverse mode, higher-order derivatives,
    gradienttape
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from matplotlib.figure import Figure

from deep_learning_recipes import figures
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """numbers of inputs, and of outputs, for which a Jacobian's cost is counted"""
    order: Annotated[int, Interval(ge=2)] = 6
    """derivatives of tanh to take by nesting"""


QUICK = Config(sizes=(1, 4, 16, 64), order=5)
FULL = Config(sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), order=8)


# --------------------------------------------------------------------------------------
# The idea: products of Jacobians, from the input's side and from the output's
# --------------------------------------------------------------------------------------


class Dual:
    """Forward mode in plain Python: value + slope · δ with δ² = 0."""

    def __init__(self, value: float, slope: float = 0.0):
        self.value = value
        self.slope = slope

    def __add__(self, other):
        other = as_dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other):
        other = as_dual(other)
        slope = self.slope * other.value + self.value * other.slope
        return Dual(self.value * other.value, slope)

    __radd__ = __add__
    __rmul__ = __mul__


def as_dual(x) -> Dual:
    """A constant has no slope."""
    return x if isinstance(x, Dual) else Dual(x)


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


def jacobian_forwards(f, x: tf.Tensor) -> tf.Tensor:
    """(outputs, inputs), column by column: a pass for each input."""
    directions = tf.unstack(tf.eye(x.shape[0], dtype=x.dtype))
    return tf.stack([jvp(f, x, v) for v in directions], axis=1)


def jacobian_backwards(f, x: tf.Tensor, outputs: int) -> tf.Tensor:
    """(outputs, inputs), row by row: a pass for each output."""
    directions = tf.unstack(tf.eye(outputs, dtype=x.dtype))
    return tf.stack([vjp(f, x, u) for u in directions])


def gradient(f, x: tf.Tensor) -> tf.Tensor:
    """∇f of a function with one output: its only row."""
    return vjp(f, x, tf.ones((), x.dtype))


def hessian_vector(f, x: tf.Tensor, v: tf.Tensor, push=jvp) -> tf.Tensor:
    """H v, forward over reverse: how the gradient changes along v. No Hessian is
    made."""
    return push(lambda x: gradient(f, x), x, v)


def nth_derivative(f, n: int):
    """The tape's own steps are traced by the tape around it."""
    if n == 0:
        return f
    return nth_derivative(lambda x: vjp(f, x, tf.ones_like(x)), n - 1)


def square_root(x: tf.Tensor) -> tf.Tensor:
    """Newton's method: how often the loop turns depends on x."""
    guess = x
    while tf.abs(guess * guess - x) > 1e-12 * x:
        guess = (guess + x / guess) / 2
    return (guess + x / guess) / 2  # the slope comes to its end a step after the value


def count_operations(function, *tensors: tf.Tensor) -> int:
    """Operations on numbers in the traced graph, as far as its results need them."""
    traced = tf.function(lambda *inputs: function(*inputs), autograph=False)
    graph = traced.get_concrete_function(*tensors).graph
    waiting = [tensor.op for tensor in graph.outputs]
    seen = set()
    count = 0
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            count += operations_of(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return count


# What only moves numbers.
FREE = {
    "Const",
    "ExpandDims",
    "Fill",
    "Identity",
    "Pack",
    "Placeholder",
    "Reshape",
    "Squeeze",
}


def operations_of(operation: tf.Operation) -> int:
    """Products and sums of a matrix product; else 1 for each number that comes out."""
    if operation.type in FREE:
        return 0
    numbers = operation.outputs[0].shape.num_elements()
    if operation.type != "MatMul":
        return numbers
    # (m, k) times (k, n) has m·n sums of k products: k² is all that goes in by m·n.
    left, right = [tensor.shape.num_elements() for tensor in operation.inputs]
    terms = round((left * right / numbers) ** 0.5)
    return 2 * numbers * terms


class TanhAndDerivatives(keras.layers.Layer):
    """(batch, 1) to tanh and its first three derivatives, each (batch, 1)."""

    def call(self, x):
        return {f"derivative_{n}": nth_derivative(tf.tanh, n)(x) for n in range(4)}


# --------------------------------------------------------------------------------------
# The experiment: the same Jacobian in many ways, and what each costs
# --------------------------------------------------------------------------------------

OTHER_SIZE = 16  # outputs while the inputs get more, and inputs while the outputs do
HIDDEN = 64
STEPS = 10.0 ** np.arange(-9, 0)  # of difference quotients, of which the best counts


@dataclass
class Network:
    """y = W₂ tanh(W₁ x), of x (inputs,)."""

    w1: tf.Tensor
    """(hidden, inputs)"""
    w2: tf.Tensor
    """(outputs, hidden)"""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(self.w2, tf.tanh(tf.linalg.matvec(self.w1, x)))

    def jacobian(self, x: tf.Tensor) -> tf.Tensor:
        """On paper: W₂ diag(1 − tanh²(W₁ x)) W₁, (outputs, inputs)."""
        slopes = 1 - tf.tanh(tf.linalg.matvec(self.w1, x)) ** 2
        return (self.w2 * slopes) @ self.w1

    def of_duals(self, x: np.ndarray, v: np.ndarray) -> list[Dual]:
        """The same function in plain Python, of the numbers x + v δ."""
        numbers = [Dual(*pair) for pair in zip(x.tolist(), v.tolist(), strict=True)]
        hidden = [dual_tanh(each) for each in dual_products(self.w1, numbers)]
        return dual_products(self.w2, hidden)


def dual_products(matrix: tf.Tensor, numbers: list[Dual]) -> list[Dual]:
    """A matrix times a vector of dual numbers."""
    return [
        sum(weight * number for weight, number in zip(row, numbers, strict=True))
        for row in matrix.numpy().tolist()
    ]


def draw_network(inputs: int, outputs: int, seed: int) -> Network:
    random = np.random.default_rng(seed)
    w1 = random.normal(size=(HIDDEN, inputs)) / inputs**0.5
    w2 = random.normal(size=(outputs, HIDDEN)) / HIDDEN**0.5
    return Network(tf.constant(w1), tf.constant(w2))


def error_of(found, exact) -> float:
    return float(np.max(np.abs(found - exact)))


def judge_exactness(run: Run) -> None:
    """One Jacobian-vector product in four ways, and the whole Jacobian in two."""
    f = draw_network(12, 8, run.seed)
    drawn = np.random.default_rng(run.seed).normal(size=(2, 12))
    x, v = tf.unstack(tf.constant(drawn))
    jacobian = f.jacobian(x)
    exact = tf.linalg.matvec(jacobian, v)

    duals = f.of_duals(x.numpy(), v.numpy())
    errors = {
        "slopes": error_of(jvp(f, x, v), exact),
        "two vjps": error_of(jvp_by_two_vjps(f, x, v), exact),
        "dual numbers": error_of([each.slope for each in duals], exact),
        "Jacobian by columns": error_of(jacobian_forwards(f, x), jacobian),
        "Jacobian by rows": error_of(jacobian_backwards(f, x, 8), jacobian),
    }
    differences = [
        error_of((f(x + step * v) - f(x - step * v)) / (2 * step), exact)
        for step in STEPS
    ]
    largest = max(errors.values())
    smallest = min(differences)
    run.metric("largest_error", largest)
    run.claim(
        "By slopes, by dual numbers or out of two vjps, forward mode is exact to the "
        "last digits; central differences are not, even at their best step",
        holds=largest < 1e-13 and smallest > 1000 * largest,
        measured="off by "
        + ", ".join(f"{error:.0e} ({way})" for way, error in errors.items())
        + f"; differences {smallest:.0e} at the best of {len(STEPS)} steps",
    )


@dataclass
class Costs:
    """Of a whole Jacobian in calls of the function, (sizes,) each."""

    forwards: np.ndarray
    backwards: np.ndarray

    @property
    def growth(self) -> tuple[float, float]:
        """Of the cost from the first to the last size, forwards and backwards."""
        return (
            self.forwards[-1] / self.forwards[0],
            self.backwards[-1] / self.backwards[0],
        )


def jacobian_costs(sizes: list[tuple[int, int]]) -> Costs:
    """sizes: numbers of inputs and outputs."""
    forwards = []
    backwards = []
    for inputs, outputs in sizes:
        f = draw_network(inputs, outputs, seed=0)
        x = tf.ones(inputs, tf.float64)
        call = count_operations(f, x)
        by_columns = count_operations(partial(jacobian_forwards, f), x)
        by_rows = count_operations(partial(jacobian_backwards, f, outputs=outputs), x)
        forwards.append(by_columns / call)
        backwards.append(by_rows / call)
    return Costs(np.array(forwards), np.array(backwards))


def judge_jacobians(costs: dict[str, Costs], sizes, run: Run) -> None:
    more = sizes[-1] / sizes[0]
    forwards_in, backwards_in = costs["inputs"].growth
    forwards_out, backwards_out = costs["outputs"].growth
    run.claim(
        "A Jacobian by forward mode costs a pass for each input, by reverse mode for "
        "each output",
        holds=min(forwards_in, backwards_out) > more / 2
        and max(backwards_in, forwards_out) < 2,
        measured=f"{more:.0f} times the inputs cost forward {forwards_in:.1f}, reverse "
        f"{backwards_in:.1f} times the calls, the outputs {forwards_out:.1f}, "
        f"{backwards_out:.1f}",
    )


def first_output(f):
    return lambda x: f(x)[0]


def judge_gradients(sizes, run: Run) -> None:
    """Of a function with one output, in calls of it."""
    slopes = []
    products = []
    for inputs in sizes:
        loss = first_output(draw_network(inputs, 1, seed=0))
        x = tf.ones(inputs, tf.float64)
        call = count_operations(loss, x)
        by_tape = count_operations(partial(gradient, loss), x)
        of_hessian = count_operations(partial(hessian_vector, loss, v=x), x)
        slopes.append(by_tape / call)
        products.append(of_hessian / call)
    run.metric("vjp_cost", max(slopes), unit="function calls")
    run.metric("hessian_vector_cost", max(products), unit="function calls")
    run.claim(
        "A gradient costs a small constant of function calls, a Hessian-vector product "
        "another",
        holds=max(slopes) < 3 and max(products) < 6,
        measured=f"from {sizes[0]} to {sizes[-1]} inputs {min(slopes):.2f} to "
        f"{max(slopes):.2f}, and {min(products):.2f} to {max(products):.2f}",
    )


def tanh_derivatives(x: np.ndarray, n: int) -> np.ndarray:
    """The n-th derivative of t = tanh(x) on paper: t′ = 1 − t², so each is a polynomial
    in t."""
    polynomial = np.polynomial.Polynomial([0, 1])
    for _ in range(n):
        polynomial = polynomial.deriv() * np.polynomial.Polynomial([1, 0, -1])
    return polynomial(np.tanh(x))


def judge_nesting(order: int, run: Run) -> None:
    points = np.linspace(-3, 3, 61)
    x = tf.constant(points)
    errors = []
    operations = []
    for n in range(order + 1):
        derivative = nth_derivative(tf.tanh, n)
        errors.append(error_of(derivative(x), tanh_derivatives(points, n)))
        operations.append(count_operations(derivative, x) / len(points))
    growth = np.divide(operations[2:], operations[1:-1])
    run.claim(
        "Nested tapes differentiate the derivative, each order at two to three times "
        "the operations of the one before",
        holds=max(errors) < 1e-8 and growth.min() > 2 and growth.max() < 3,
        measured=f"derivatives of tanh up to the {order}th within {max(errors):.0e}; "
        f"operations for each: {', '.join(f'{each:.0f}' for each in operations)}",
    )


def judge_loops(run: Run) -> None:
    points = np.linspace(0.1, 3, 30)
    # Reads the source and writes a graph with a loop.
    written = tf.function(square_root)
    errors = []
    for f in (square_root, written):
        slopes = [gradient(f, tf.constant(x)) for x in points]
        errors.append(error_of(np.array(slopes) * 2 * np.sqrt(points), 1))
    run.claim(
        "Traced as it runs, or rewritten from its source: a loop is differentiated "
        "either way",
        holds=max(errors) < 1e-9,
        measured=f"slope of Newton's square root within {errors[0]:.0e} and "
        f"{errors[1]:.0e}",
    )


def draw_costs(costs: dict[str, Costs], sizes) -> Figure:
    top = max(max(*each.forwards, *each.backwards) for each in costs.values())
    shown = [
        figures.Panel(
            title=f"A Jacobian of more {varied}",
            xlabel=f"number of {varied} (the other: {OTHER_SIZE})",
            ylabel="operations, in calls of the function",
            lines={
                "forward mode": (sizes, each.forwards),
                "reverse mode": (sizes, each.backwards),
            },
            xscale="log",
            yscale="log",
            xticks=sizes,
            ylim=(0.8, 1.5 * top),
        )
        for varied, each in costs.items()
    ]
    return figures.panels(*shown)


def main(config: Config, run: Run) -> None:
    sizes = config.sizes
    judge_gradients(sizes, run)
    judge_exactness(run)

    costs = {
        "inputs": jacobian_costs([(size, OTHER_SIZE) for size in sizes]),
        "outputs": jacobian_costs([(OTHER_SIZE, size) for size in sizes]),
    }
    judge_jacobians(costs, sizes, run)
    judge_nesting(config.order, run)
    judge_loops(run)
    run.figure("costs", draw_costs(costs, sizes))

    x = keras.Input((1,), name="x")
    model = keras.Model(x, TanhAndDerivatives()(x), name="tanh")
    run.export(model, example=np.array([[-1.0], [0.0], [0.5]], "float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
