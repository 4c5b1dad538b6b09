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


class Node:
    """A gate's value. pull_back: of the gradient by this value, those by its inputs'
    values."""

    made, gradient = 0, None
    __array_ufunc__ = (
        None  # so that `array * node` asks Node.__rmul__, not each element
    )

    def __init__(self, value, gate="", inputs=(), pull_back=None):
        self.value = np.array(value, dtype="float64")
        self.gate, self.inputs, self.pull_back = gate, inputs, pull_back
        self.number = Node.made = Node.made + 1

    def __add__(self, other):
        a, b = self, as_node(other)
        return Node(a.value + b.value, "+", (a, b), lambda g: (g, g))

    def __mul__(self, other):
        a, b = self, as_node(other)
        return Node(
            a.value * b.value, "×", (a, b), lambda g: (g * b.value, g * a.value)
        )

    def __matmul__(self, other):
        a, b = self, as_node(other)
        return Node(
            a.value @ b.value, "@", (a, b), lambda g: (g @ b.value.T, a.value.T @ g)
        )

    __radd__, __rmul__ = __add__, __mul__

    def graph(self) -> list["Node"]:
        """This node and all it was made of, each after its inputs: in the order of
        making."""
        found, waiting = {}, [self]
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
        for node in reversed(nodes):
            gradients = node.pull_back(node.gradient) if node.inputs else ()
            for each, gradient in zip(node.inputs, gradients, strict=True):
                each.gradient += summed_to(gradient, each.value.shape)


def as_node(value) -> Node:
    return value if isinstance(value, Node) else Node(value, str(value))


def summed_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Broadcasting used a value many times: its gradient is the sum over all of
    them."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(
        axis for axis, size in enumerate(shape) if size != gradient.shape[axis]
    )
    return gradient.sum(axis=stretched, keepdims=True)


def elementwise(gate: str, function, derivative):
    return lambda x: Node(
        function(x.value), gate, (x,), lambda g: (g * derivative(x.value),)
    )


exp = elementwise("exp", np.exp, np.exp)
reciprocal = elementwise("1/x", lambda x: 1 / x, lambda x: -1 / x**2)
relu = elementwise("ReLU", lambda x: np.maximum(0, x), lambda x: x > 0)
sigmoid = elementwise("σ", expit, lambda x: (1 - expit(x)) * expit(x))


def maximum(a: Node, b: Node) -> Node:
    """The larger of the two gets the gradient, the other nothing; in a tie the
    first."""
    first = a.value >= b.value
    return Node(
        np.maximum(a.value, b.value), "max", (a, b), lambda g: (g * first, g * ~first)
    )


def softmax_cross_entropy(logits: Node, y: np.ndarray) -> Node:
    """Mean of −log p(y). logits: (batch, ..., classes) for the labels y: (batch,)."""
    shifted = logits.value - logits.value.max(
        axis=-1, keepdims=True
    )  # exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    e_y = np.eye(log_p.shape[-1])[y].reshape(log_p.shape)
    loss = -(e_y * log_p).sum() / len(y)
    return Node(loss, "CE", (logits,), lambda g: (g * (np.exp(log_p) - e_y) / len(y),))


def conv(x: Node, kernel: Node) -> Node:
    """(batch, height, width, channels) by (rows, columns, channels, filters), without
    padding."""
    rows, columns = kernel.value.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(
        x.value, (rows, columns), axis=(1, 2)
    )

    def pull_back(g):
        by_x = np.zeros_like(x.value)
        for i, j in np.ndindex(
            rows, columns
        ):  # what a weight has read goes back to there
            by_x[:, i : i + g.shape[1], j : j + g.shape[2]] += g @ kernel.value[i, j].T
        return by_x, np.einsum("nhwcij,nhwf->ijcf", windows, g, optimize=True)

    value = np.einsum("nhwcij,ijcf->nhwf", windows, kernel.value, optimize=True)
    return Node(value, "conv", (x, kernel), pull_back)


def max_pool(x: Node, size: int = 2) -> Node:
    """The largest of each size × size window; the gradient goes back to where that one
    stood."""
    views = [x.value[:, i::size, j::size] for i, j in np.ndindex(size, size)]
    winner = np.argmax(views, axis=0)

    def pull_back(g):
        routed = np.zeros_like(x.value)
        for view, (i, j) in enumerate(np.ndindex(size, size)):
            routed[:, i::size, j::size] = g * (winner == view)
        return (routed,)

    return Node(np.max(views, axis=0), "max-pool", (x,), pull_back)


def mlp(weights: list[Node], x: np.ndarray) -> Node:
    return relu(Node(x) @ weights[0] + weights[1]) @ weights[2] + weights[3]


def mlp_in_keras(inputs: int, classes: int = 10) -> keras.Model:
    """The same network. Input: (batch, inputs) float64. Output: (batch, classes)
    logits."""
    x = keras.Input((inputs,), name="x", dtype="float64")
    hidden = keras.layers.Dense(128, "relu", dtype="float64")(x)
    logits = keras.layers.Dense(classes, dtype="float64")(hidden)
    model = keras.Model(x, logits, name="mlp")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(keras.optimizers.SGD(0.2), loss)
    return model


def plot_graph(output: Node) -> plt.Figure:
    """The graph of a number from left to right: values above the nodes, gradients
    below."""
    column, row, middle = {}, {}, {"ha": "center", "va": "center"}
    for node in output.graph():
        column[node] = max((column[each] + 1 for each in node.inputs), default=0)
        leaves = sum(not each.inputs for each in row)
        row[node] = (
            np.mean([row[each] for each in node.inputs]) if node.inputs else -leaves
        )
    figure, axes = plt.subplots(figsize=(12, 6.5))
    for node in output.graph():
        for each in node.inputs:
            column[each] = column[each] if each.inputs else column[node] - 1
            ends = (column[node] - 0.2, row[node]), (column[each] + 0.2, row[each])
            axes.annotate(
                "", *ends, arrowprops={"arrowstyle": "->", "color": "#999999"}
            )
    for node, x in column.items():
        axes.text(
            x,
            row[node],
            node.gate,
            bbox={"boxstyle": "circle", "fc": "white"},
            **middle,
        )
        axes.text(x, row[node] + 0.36, f"{node.value:.2f}", color="#0072B2", **middle)
        axes.text(
            x, row[node] - 0.36, f"{node.gradient:.2f}", color="#D55E00", **middle
        )
    axes.axis("off")
    axes.axis((-0.3, column[output] + 0.3, 0.3 - leaves, 0.7))
    axes.set_title(
        "σ(w0 x0 + w1 x1 + w2) of gates: values above (blue), gradients below (orange)"
    )
    return figure


def main(config: Config, run: Run) -> None:
    (images, y), (test_images, y_test) = data.load(config.data)
    classes = len(data.class_names(config.data))
    x, x_test = (
        each.reshape(len(each), -1).astype("float64") for each in (images, test_images)
    )
    model = mlp_in_keras(x.shape[1], classes)
    weights = [Node(value) for value in model.get_weights()]
    random = np.random.default_rng(run.seed)
    batches = random.integers(len(x), size=(config.epochs * len(x) // 32, 32))
    apart = np.zeros(
        len(batches)
    )  # both start alike and see the same; nothing passes between
    kept = {
        "graph": [weight.value for weight in weights],
        "keras": model,
        "apart": apart,
    }
    for step in run.loop("graph beside Keras", len(batches), kept):
        batch = batches[step]
        softmax_cross_entropy(mlp(weights, x[batch]), y[batch]).backward()
        for weight in weights:
            weight.value -= 0.2 * weight.gradient
        model.train_on_batch(x[batch], y[batch])
        pairs = zip(weights, model.get_weights(), strict=True)
        apart[step] = max(np.abs(ours.value - theirs).max() for ours, theirs in pairs)
    run.metric(
        "test_accuracy", np.mean(mlp(weights, x_test).value.argmax(axis=1) == y_test)
    )
    run.claim(
        "The graph of NumPy gates trains a network to the weights that Keras trains it to",
        any_data=True,
        holds=apart.max() < 1e-5,
        measured=f"in {len(batches):,} steps no weight differs by more than {apart.max():.1e}",
    )
    # A filter a class; its largest response, anywhere, is the logit.
    kernel, pixels, labels = (
        Node(random.normal(size=(3, 3, images.shape[-1], classes))),
        Node(images[:64]),
        y[:64],
    )
    maps = conv(pixels, kernel)
    logits = max_pool(maps, size=maps.value.shape[1])
    softmax_cross_entropy(logits, labels).backward()
    with tf.GradientTape() as tape:
        k = tf.Variable(kernel.value)
        z = tf.reduce_max(tf.nn.conv2d(pixels.value, k, 1, "VALID"), axis=(1, 2))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)
    by_k = tape.gradient(loss, k).numpy() / len(labels)
    p_minus_e = (tf.nn.softmax(z).numpy() - np.eye(classes)[labels]) / len(labels)
    off = (
        np.abs(logits.gradient[:, 0, 0] - p_minus_e).max(),
        np.abs(kernel.gradient - by_k).max(),
    )
    run.claim(
        "The gradient of −log softmax is p − e(y); a max-pool sends it to each window's largest",
        any_data=True,
        holds=max(off) < 1e-9 and np.count_nonzero(maps.gradient) == logits.value.size,
        measured=f"{off[0]:.0e} from p − e(y); {np.count_nonzero(maps.gradient)} of the pool's "
        f"{maps.value.size:,} inputs get any; by the filters {off[1]:.0e} from TensorFlow's tape",
    )
    # The neuron of the CS231n notes; then its sigmoid where exp overflows.
    w0, x0, w1, x1, w2 = map(Node, (2, -1, -3, -2, -3), ("w0", "x0", "w1", "x1", "w2"))
    neuron = reciprocal(exp((w0 * x0 + w1 * x1 + w2) * -1) + 1)
    neuron.backward()
    run.figure("graph", plot_graph(neuron))
    one, many = Node([1, -1000]), Node([1, -1000])
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid(one).backward()
        reciprocal(exp(many * -1) + 1).backward()
    run.claim(
        "The sigmoid as one gate has the slope of the gates it is made of, and outlives them",
        any_data=True,
        holds=np.isclose(one.gradient, many.gradient, rtol=1e-9).tolist()
        == [True, False],
        measured=f"at 1 and −1000: one gate {one.gradient}, many gates {many.gradient}",
    )
    # Pixels 1000 times as large, with a learning rate 1000 and 1000² times as small.
    losses, gradients = [], []
    for scale, rate in ((1, 0.2), (1000, 0.2 / 1000), (1000, 0.2 / 1000**2)):
        w = Node(np.zeros((x.shape[1], classes)))
        for batch in batches[:400]:
            softmax_cross_entropy(Node(scale * x[batch]) @ w, y[batch]).backward()
            w.value -= rate * w.gradient
        losses.append(softmax_cross_entropy(Node(scale * x_test) @ w, y_test).value)
        gradients.append(np.abs(w.gradient).max())
    run.claim(
        "A multiply gate swaps its inputs: 1000 times larger data make the weights' gradient 1000 "
        "times larger; not that factor but its square has to come off the learning rate",
        holds=abs(gradients[2] / gradients[0] - 1000) < 1 and losses[1] > 2 * losses[2],
        measured=f"gradient {gradients[2] / gradients[0]:.1f} times larger; test loss "
        f"{losses[0]:.3f}, with the rate 1000 times smaller {losses[1]:.3f}, 1000² {losses[2]:.3f}",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
