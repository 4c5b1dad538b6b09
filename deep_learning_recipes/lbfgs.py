"""L-BFGS in TensorFlow: minimizes many functions at once, such as one for each
picture."""

from collections.abc import Callable, Iterable

import tensorflow as tf

ENOUGH = 1e-4  # of the decrease that the slope promises: Armijo's condition
HALVINGS = 10


class LBFGS:
    """The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno (Nocedal and
    Wright, Numerical optimization, 2006, algorithms 7.4 and 3.1), for each row of `x`
    by itself.

    For smooth functions of many variables, such as a picture's pixels: it learns the
    curvature from the last steps, and gets far lower than gradient descent in as many
    of them.

    function: of a tensor like `x` (n, ...), gives n values; each depends on its own row
        alone.
    x: where to start. `self.x`, a `tf.Variable`, is where it is.
    first_step: length of the first step, root mean square over a row.
    memory: how many steps it looks back on.
    steps_per_call: steps in a call of the compiled loop.

    A row without a lower point along its direction stays where it is and forgets what
    it learned.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], tf.Tensor],
        x: tf.Tensor,
        *,
        first_step: float = 0.01,
        memory: int = 8,
        steps_per_call: int = 20,
    ):
        self.function, self.memory, self.steps_per_call = (
            function,
            memory,
            steps_per_call,
        )
        self.x = tf.Variable(x, dtype="float32")
        rows, columns = len(x), self.x.shape.num_elements() // len(x)
        self.first_step = first_step * columns**0.5
        self.value = tf.Variable(tf.zeros(rows))
        # The newest first: steps, changes of the gradient by them, 1 / products of the
        # two.
        self.steps = tf.Variable(tf.zeros((memory, rows, columns)))
        self.changes = tf.Variable(tf.zeros((memory, rows, columns)))
        self.inverses = tf.Variable(tf.zeros((memory, rows)))

    @property
    def state(self) -> list[tf.Variable]:
        """All that a checkpoint must keep."""
        return [self.x, self.value, self.steps, self.changes, self.inverses]

    def minimize(self, calls: Iterable[int]) -> None:
        """calls: the numbers of the calls, such as range(10), or what `run.loop` gives.

        Raises ValueError where the function is no number at the start: no step could be
        told good.
        """
        for _ in calls:
            self.advance()
            if tf.reduce_any(tf.math.is_nan(self.value)):
                raise ValueError(
                    "the function to minimize is no number where it starts"
                )

    @tf.function
    def advance(self) -> None:
        """`steps_per_call` steps."""
        x = tf.reshape(self.x, (len(self.value), -1))
        value, gradient = self.slope(x)
        steps, changes, inverses = (each.value() for each in self.state[2:])
        for _ in tf.range(self.steps_per_call):
            step = self.direction(gradient, steps, changes, inverses)
            promise = dot(gradient, step)
            new_value, new_gradient = self.slope(x + step)
            high = too_high(new_value, value + ENOUGH * promise)
            for _ in tf.range(HALVINGS):
                if not tf.reduce_any(high):
                    break
                half = tf.where(high, 0.5, 1.0)
                step, promise = half[:, None] * step, half * promise
                new_value, new_gradient = self.slope(x + step)
                high = too_high(new_value, value + ENOUGH * promise)
            step = tf.where(high[:, None], 0.0, step)
            new_value = tf.where(high, value, new_value)
            new_gradient = tf.where(high[:, None], gradient, new_gradient)
            change = new_gradient - gradient
            product = dot(step, change)
            # The curvature must be upwards, or the next direction would not lead down.
            upwards = product > 1e-10 * dot(change, change)
            learned = (step, change, tf.where(upwards, 1 / product, 0.0))
            steps, changes, inverses = (
                tf.concat([new[None], old[:-1]], axis=0)
                for new, old in zip(learned, (steps, changes, inverses), strict=True)
            )
            inverses = tf.where(high, 0.0, inverses)
            x, value, gradient = x + step, new_value, new_gradient
        new = tf.reshape(x, self.x.shape), value, steps, changes, inverses
        for variable, tensor in zip(self.state, new, strict=True):
            variable.assign(tensor)

    @tf.function  # so that `advance`, which asks three times, traces it once
    def slope(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The functions' values (n,), and their gradients (n, columns)."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = self.function(tf.reshape(x, self.x.shape))
        return value, tape.gradient(value, x)

    def direction(
        self,
        gradient: tf.Tensor,
        steps: tf.Tensor,
        changes: tf.Tensor,
        inverses: tf.Tensor,
    ) -> tf.Tensor:
        """−(inverse Hessian as far as it is known) · gradient, by the two loops."""
        factors = []
        length = tf.maximum(tf.norm(gradient, axis=1), 1e-30)
        for k in range(self.memory):
            factors.append(inverses[k] * dot(steps[k], gradient))
            gradient -= factors[k][:, None] * changes[k]
        known = inverses > 0
        newest = tf.argmax(known, axis=0)  # the first step that taught something
        rows = tf.range(len(self.value), dtype=newest.dtype)
        at = tf.stack([newest, rows], axis=1)
        last_change = tf.gather_nd(changes, at)
        curvature = tf.gather_nd(inverses, at) * dot(last_change, last_change)
        scale = tf.where(
            tf.reduce_any(known, axis=0), 1 / curvature, self.first_step / length
        )
        gradient *= scale[:, None]
        for k in reversed(range(self.memory)):
            factor = factors[k] - inverses[k] * dot(changes[k], gradient)
            gradient += factor[:, None] * steps[k]
        return -gradient


def too_high(value: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Above the bound, or no number. (TensorFlow simplifies ~(a <= b) to a > b, which
    lets nan pass.)"""
    return (value > bound) | tf.math.is_nan(value)


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Row by row, (n,)."""
    return tf.reduce_sum(a * b, axis=1)
