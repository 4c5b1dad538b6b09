"""Backpropagation: the chain rule on a graph of gates, in a hundred lines of NumPy.

Split a function into gates whose derivatives are known. On the way forward each gate
works out its value; on the way back it gets the gradient of the loss by its value,
multiplies it by its own derivative and hands the products to its inputs, where
gradients from several gates add up. Nobody writes the derivative of the whole down, and
it needs no graph of its own: it is computed directly.
Look at the graph that draws itself (values above, gradients below), and at the same
network in Keras, which takes the same steps to the last digits.

Lectures: N18 1.2.3 Backpropagation; CS Autodifferentiation; SEL DL basics; ICME Pooling
    layers
Paper: Rumelhart, Hinton and Williams, Learning representations by back-propagating
    errors, 1986
Tags: backprop, computational graph, reverse mode, autograd, micrograd, from scratch
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.special import expit

from deep_learning_recipes import data, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own images: a folder with one subfolder a class, or an .npz file"""
    epochs: int = 25
    """batches of 32 random images, in times the training images"""


QUICK = Config(epochs=10)
FULL = Config(data="mnist", epochs=10)


# --------------------------------------------------------------------------------------
# The idea: gates that know their own derivatives
# --------------------------------------------------------------------------------------

LEARNING_RATE = 0.2


class Node:
    """A gate's value, and how a gradient by it is pulled back to the gate's inputs.

    pull_back: of the gradient by this value, a tuple of those by the inputs' values.
    `number` counts the nodes in the order of their making, `gradient` is set by
    `backward`.
    """

    made = 0
    # So that `array * node` asks Node.__rmul__, not each element.
    __array_ufunc__ = None

    def __init__(self, value, gate="", inputs=(), pull_back=None):
        self.value = np.array(value, dtype="float64")
        self.gradient = None
        self.gate = gate
        self.inputs = inputs
        self.pull_back = pull_back
        Node.made += 1
        self.number = Node.made

    def __add__(self, other):
        other = as_node(other)
        value = self.value + other.value
        return Node(value, "+", (self, other), lambda g: (g, g))

    def __mul__(self, other):
        other = as_node(other)
        value = self.value * other.value

        def pull_back(g):
            return g * other.value, g * self.value

        return Node(value, "×", (self, other), pull_back)

    def __matmul__(self, other):
        other = as_node(other)
        value = self.value @ other.value

        def pull_back(g):
            return g @ other.value.T, self.value.T @ g

        return Node(value, "@", (self, other), pull_back)

    __radd__ = __add__
    __rmul__ = __mul__

    def graph(self) -> list["Node"]:
        """This node and all it was made of, each after its inputs: in the order of
        making."""
        found = {}
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.number not in found:
                found[node.number] = node
                waiting += node.inputs
        return [found[number] for number in sorted(found)]

    def backward(self) -> None:
        """Sets `gradient` of every node in the graph to d(this value) / d(its
        value)."""
        nodes = self.graph()
        for node in nodes:
            node.gradient = np.zeros_like(node.value)
        self.gradient += 1

        # A gate's turn comes when all that it feeds has handed its gradient on.
        for node in reversed(nodes):
            if node.inputs:
                node.hand_on()

    def hand_on(self) -> None:
        """Adds to the inputs' gradients what of this one's comes from them."""
        gradients = self.pull_back(self.gradient)
        for each, gradient in zip(self.inputs, gradients, strict=True):
            each.gradient += summed_to(gradient, each.value.shape)


def as_node(value) -> Node:
    return value if isinstance(value, Node) else Node(value, str(value))


def summed_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Broadcasting used a value many times: its gradient is the sum over all of
    them."""
    added = tuple(range(gradient.ndim - len(shape)))
    gradient = gradient.sum(axis=added)
    sizes = zip(shape, gradient.shape, strict=True)
    stretched = tuple(axis for axis, (own, other) in enumerate(sizes) if own != other)
    return gradient.sum(axis=stretched, keepdims=True)


def exp(x: Node) -> Node:
    value = np.exp(x.value)
    return Node(value, "exp", (x,), lambda g: (g * value,))


def reciprocal(x: Node) -> Node:
    return Node(1 / x.value, "1/x", (x,), lambda g: (-g / x.value**2,))


def relu(x: Node) -> Node:
    return Node(np.maximum(0, x.value), "ReLU", (x,), lambda g: (g * (x.value > 0),))


def sigmoid(x: Node) -> Node:
    value = expit(x.value)
    return Node(value, "σ", (x,), lambda g: (g * (1 - value) * value,))


def maximum(a: Node, b: Node) -> Node:
    """The larger of the two gets the gradient, the other nothing; in a tie the
    first."""
    is_first = a.value >= b.value
    value = np.maximum(a.value, b.value)
    return Node(value, "max", (a, b), lambda g: (g * is_first, g * ~is_first))


def softmax_cross_entropy(logits: Node, y: np.ndarray) -> Node:
    """Mean of −log p(y). logits: (batch, ..., classes) for the labels y: (batch,)."""
    # The largest logit becomes 0: exp cannot overflow.
    shifted = logits.value - logits.value.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    e_y = np.eye(log_p.shape[-1])[y].reshape(log_p.shape)
    loss = -(e_y * log_p).sum() / len(y)

    def pull_back(g):
        return (g * (np.exp(log_p) - e_y) / len(y),)

    return Node(loss, "CE", (logits,), pull_back)


def conv(x: Node, kernel: Node) -> Node:
    """(batch, height, width, channels) by (rows, columns, channels, filters), without
    padding."""
    rows, columns = kernel.value.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(
        x.value, (rows, columns), axis=(1, 2)
    )
    value = np.einsum("nhwcij,ijcf->nhwf", windows, kernel.value, optimize=True)

    def pull_back(g):
        height, width = g.shape[1:3]
        by_x = np.zeros_like(x.value)
        for i, j in np.ndindex(rows, columns):
            # What a weight has read goes back to there.
            by_x[:, i : i + height, j : j + width] += g @ kernel.value[i, j].T
        by_kernel = np.einsum("nhwcij,nhwf->ijcf", windows, g, optimize=True)
        return by_x, by_kernel

    return Node(value, "conv", (x, kernel), pull_back)


def max_pool(x: Node, size: int = 2) -> Node:
    """The largest of each size × size window; the gradient goes back to where that one
    stood."""
    places = list(np.ndindex(size, size))
    views = [x.value[:, i::size, j::size] for i, j in places]
    winner = np.argmax(views, axis=0)

    def pull_back(g):
        routed = np.zeros_like(x.value)
        for view, (i, j) in enumerate(places):
            routed[:, i::size, j::size] = g * (winner == view)
        return (routed,)

    return Node(np.max(views, axis=0), "max-pool", (x,), pull_back)


def mlp(weights: list[Node], x: np.ndarray) -> Node:
    """Logits (batch, classes) of x (batch, inputs). weights: W¹, b¹, W², b²."""
    hidden = relu(Node(x) @ weights[0] + weights[1])
    return hidden @ weights[2] + weights[3]


def descend(weights: list[Node], loss: Node, learning_rate: float) -> None:
    """One step of gradient descent."""
    loss.backward()
    for weight in weights:
        weight.value -= learning_rate * weight.gradient


def mlp_in_keras(inputs: int, classes: int = 10) -> keras.Model:
    """The same network. Input: (batch, inputs) float64. Output: (batch, classes)
    logits."""
    x = keras.Input((inputs,), name="x", dtype="float64")
    hidden = keras.layers.Dense(128, "relu", dtype="float64")(x)
    logits = keras.layers.Dense(classes, dtype="float64")(hidden)
    model = keras.Model(x, logits, name="mlp")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss)
    return model


# --------------------------------------------------------------------------------------
# The experiment: the graph beside Keras, and what single gates do
# --------------------------------------------------------------------------------------

BATCH = 32
SCALE = 1000  # of the pixels, where a multiply gate is looked at
STEPS_SCALED = 400


@dataclass
class Task:
    images: np.ndarray
    """(images, height, width, channels)"""
    x: np.ndarray
    """the same, (images, pixels)"""
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    batches: np.ndarray
    """rows of x, (steps, batch)"""
    random: np.random.Generator


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype("float64")


def load_task(config: Config, run: Run) -> Task:
    (images, y), (images_test, y_test) = data.load(config.data)
    random = np.random.default_rng(run.seed)
    steps = config.epochs * len(y) // BATCH
    return Task(
        images=images,
        x=flat(images),
        y=y,
        x_test=flat(images_test),
        y_test=y_test,
        classes=len(data.class_names(config.data)),
        batches=random.integers(len(y), size=(steps, BATCH)),
        random=random,
    )


def largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max())


def train_beside_keras(
    weights: list[Node], model: keras.Model, task: Task, run: Run
) -> np.ndarray:
    """Both start alike and see the same; nothing passes between them. Returns the
    largest difference of their weights after each step, (steps,)."""
    apart = np.zeros(len(task.batches))
    values = [weight.value for weight in weights]
    state = {"graph": values, "keras": model, "apart": apart}
    for step in run.loop("graph beside Keras", len(task.batches), state):
        batch = task.batches[step]
        loss = softmax_cross_entropy(mlp(weights, task.x[batch]), task.y[batch])
        descend(weights, loss, LEARNING_RATE)
        model.train_on_batch(task.x[batch], task.y[batch])

        pairs = zip(weights, model.get_weights(), strict=True)
        apart[step] = max(largest(ours.value - theirs) for ours, theirs in pairs)
    return apart


def judge_training(weights: list[Node], apart: np.ndarray, task: Task, run: Run):
    answers = mlp(weights, task.x_test).value.argmax(axis=1)
    run.metric("test_accuracy", np.mean(answers == task.y_test))
    run.claim(
        "The graph of NumPy gates trains a network to the weights that Keras trains it "
        "to",
        any_data=True,
        holds=apart.max() < 1e-5,
        measured=f"in {len(apart):,} steps no weight differs by more than "
        f"{apart.max():.1e}",
    )


def judge_routing(task: Task, run: Run) -> None:
    """A filter for each class, whose largest response, anywhere, is the logit; beside
    TensorFlow's tape."""
    shape = (3, 3, task.images.shape[-1], task.classes)
    kernel = Node(task.random.normal(size=shape))
    labels = task.y[:64]
    maps = conv(Node(task.images[:64]), kernel)
    logits = max_pool(maps, size=maps.value.shape[1])
    softmax_cross_entropy(logits, labels).backward()

    with tf.GradientTape() as tape:
        k = tf.Variable(kernel.value)
        responses = tf.nn.conv2d(task.images[:64].astype("float64"), k, 1, "VALID")
        z = tf.reduce_max(responses, axis=(1, 2))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)
        loss = tf.reduce_mean(losses)
    by_kernel = tape.gradient(loss, k).numpy()
    p = tf.nn.softmax(z).numpy()
    p_minus_e = (p - np.eye(task.classes)[labels]) / len(labels)

    off = largest(logits.gradient[:, 0, 0] - p_minus_e)
    off_by_kernel = largest(kernel.gradient - by_kernel)
    reached = np.count_nonzero(maps.gradient)
    run.claim(
        "The gradient of −log softmax is p − e(y); a max-pool sends it to each window's "
        "largest",
        any_data=True,
        holds=max(off, off_by_kernel) < 1e-9 and reached == logits.value.size,
        measured=f"{off:.0e} from p − e(y); {reached} of the pool's "
        f"{maps.value.size:,} inputs get any; by the filters {off_by_kernel:.0e} from "
        "TensorFlow's tape",
    )


def judge_sigmoid(run: Run) -> None:
    one = Node([1, -1000])
    many = Node([1, -1000])
    # exp overflows at −1000.
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid(one).backward()
        reciprocal(exp(many * -1) + 1).backward()
    agree = np.isclose(one.gradient, many.gradient, rtol=1e-9)
    run.claim(
        "The sigmoid as one gate has the slope of the gates it is made of, and outlives "
        "them",
        any_data=True,
        holds=agree.tolist() == [True, False],
        measured=f"at 1 and −1000: one gate {one.gradient}, many gates {many.gradient}",
    )


@dataclass
class Scaled:
    """A linear classifier of pixels times a number, trained at some rate."""

    loss: float
    """on held-out images, in nats"""
    accuracy: float
    gradient: float
    """largest by a weight, in the last step"""


def train_scaled(task: Task, scale: float, learning_rate: float) -> Scaled:
    w = Node(np.zeros((task.x.shape[1], task.classes)))
    for batch in task.batches[:STEPS_SCALED]:
        logits = Node(scale * task.x[batch]) @ w
        loss = softmax_cross_entropy(logits, task.y[batch])
        descend([w], loss, learning_rate)

    logits = Node(scale * task.x_test) @ w
    return Scaled(
        loss=float(softmax_cross_entropy(logits, task.y_test).value),
        accuracy=np.mean(logits.value.argmax(axis=1) == task.y_test),
        gradient=largest(w.gradient),
    )


def judge_scale(task: Task, run: Run) -> None:
    plain = train_scaled(task, 1, LEARNING_RATE)
    by_factor = train_scaled(task, SCALE, LEARNING_RATE / SCALE)
    by_square = train_scaled(task, SCALE, LEARNING_RATE / SCALE**2)
    larger = by_square.gradient / plain.gradient
    run.claim(
        f"A multiply gate swaps its inputs: {SCALE} times larger data make the weights' "
        f"gradient {SCALE} times larger; for the same training not that factor but its "
        "square has to come off the learning rate",
        holds=abs(larger - SCALE) < 1
        and abs(by_square.loss - plain.loss) < 1e-6
        and by_factor.loss > 2 * plain.loss,
        measured=f"gradient {larger:.1f} times larger; test loss {plain.loss:.3f} nats, "
        f"with the rate {SCALE} times smaller {by_factor.loss:.3f}, {SCALE}² times "
        f"{by_square.loss:.3f} (accuracy {plain.accuracy:.3f}, {by_factor.accuracy:.3f}, "
        f"{by_square.accuracy:.3f})",
    )


def neuron_of_the_notes() -> Node:
    """σ(w0 x0 + w1 x1 + w2) of gates, at the numbers of the CS231n notes."""
    w0 = Node(2, "w0")
    x0 = Node(-1, "x0")
    w1 = Node(-3, "w1")
    x1 = Node(-2, "x1")
    w2 = Node(-3, "w2")
    neuron = reciprocal(exp((w0 * x0 + w1 * x1 + w2) * -1) + 1)
    neuron.backward()
    return neuron


def lay_out(output: Node) -> dict[Node, tuple[float, float]]:
    """Where each node is drawn: leaves below one another, a gate in the middle of its
    inputs and right of them."""
    nodes = output.graph()
    column = {}
    row = {}
    leaves = 0
    for node in nodes:
        if node.inputs:
            column[node] = 1 + max(column[each] for each in node.inputs)
            row[node] = np.mean([row[each] for each in node.inputs])
        else:
            column[node] = 0
            row[node] = -leaves
            leaves += 1

    # A leaf stands right before the gate that it goes into.
    for node in nodes:
        for each in node.inputs:
            if not each.inputs:
                column[each] = column[node] - 1
    return {node: (column[node], row[node]) for node in nodes}


def draw_graph(output: Node) -> Figure:
    """The graph of a number from left to right: values above the nodes, gradients
    below."""
    places = lay_out(output)
    figure, axes = plt.subplots(figsize=(12, 6.5))
    for node, (x, y) in places.items():
        for each in node.inputs:
            from_x, from_y = places[each]
            axes.annotate(
                "",
                (x - 0.2, y),
                (from_x + 0.2, from_y),
                arrowprops={"arrowstyle": "->", "color": "#999999"},
            )
        middle = {"ha": "center", "va": "center"}
        circle = {"boxstyle": "circle", "fc": "white"}
        axes.text(x, y, node.gate, bbox=circle, **middle)
        axes.text(x, y + 0.36, f"{node.value:.2f}", color="#0072B2", **middle)
        axes.text(x, y - 0.36, f"{node.gradient:.2f}", color="#D55E00", **middle)

    columns, rows = np.transpose(list(places.values()))
    axes.axis("off")
    axes.axis((-0.3, columns.max() + 0.3, rows.min() - 0.7, 0.7))
    axes.set_title(
        "σ(w0 x0 + w1 x1 + w2) of gates: values above (blue), gradients below (orange)"
    )
    return figure


def main(config: Config, run: Run) -> None:
    task = load_task(config, run)
    model = mlp_in_keras(task.x.shape[1], task.classes)
    weights = [Node(value) for value in model.get_weights()]
    apart = train_beside_keras(weights, model, task, run)

    judge_training(weights, apart, task, run)
    judge_routing(task, run)
    judge_sigmoid(run)
    judge_scale(task, run)

    run.figure("graph", draw_graph(neuron_of_the_notes()))
    run.export(serving.classifier(model), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
