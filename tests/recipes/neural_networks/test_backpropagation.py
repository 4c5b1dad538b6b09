"""The graph of gates against TensorFlow's tape and the numbers of the CS231n notes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.backpropagation import Node

from recipes import backpropagation as bp


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def conv_in_tensorflow(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "VALID")


GATES = {
    "add": (lambda a, b: a + b, None, (3, 4), (3, 4)),
    "add, a row to each row": (lambda a, b: a + b, None, (3, 4), (4,)),
    "add, a column to a row": (lambda a, b: a + b, None, (3, 1), (1, 4)),
    "multiply": (lambda a, b: a * b, None, (3, 4), (3, 4)),
    "multiply by a number": (lambda a, b: a * b, None, (2, 3, 4), ()),
    "multiply, both stretched": (lambda a, b: a * b, None, (2, 1, 4), (3, 1)),
    "matmul": (lambda a, b: a @ b, None, (3, 4), (4, 5)),
    "max": (bp.maximum, tf.maximum, (3, 4), (3, 4)),
    "max, stretched": (bp.maximum, tf.maximum, (3, 4), (1, 4)),
    "exp": (bp.exp, tf.exp, (3, 4)),
    "1/x": (bp.reciprocal, lambda x: 1 / x, (3, 4)),
    "ReLU": (bp.relu, tf.nn.relu, (3, 4)),
    "sigmoid": (bp.sigmoid, tf.sigmoid, (3, 4)),
    "conv": (bp.conv, conv_in_tensorflow, (2, 6, 5, 3), (3, 2, 3, 4)),
    "max-pool": (
        bp.max_pool,
        lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
        (2, 6, 4, 3),
    ),
    "max-pool of 3": (
        lambda x: bp.max_pool(x, 3),
        lambda x: tf.nn.max_pool2d(x, 3, 3, "VALID"),
        (2, 6, 9, 2),
    ),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_has_the_value_and_gradients_of_tensorflow(gate):
    ours, theirs, *shapes = GATES[gate]
    values = [random(*shape) for shape in shapes]
    nodes = [Node(value) for value in values]
    out = ours(*nodes)
    weights = random(
        *out.value.shape
    )  # all entries of the gradient that comes back differ
    (out * weights).backward()
    with tf.GradientTape() as tape:
        tensors = [tf.Variable(value) for value in values]
        result = (theirs or ours)(*tensors)
        total = tf.reduce_sum(result * weights)
    np.testing.assert_allclose(out.value, result, atol=1e-12)
    for node, gradient in zip(nodes, tape.gradient(total, tensors), strict=True):
        np.testing.assert_allclose(node.gradient, gradient, atol=1e-12)


def test_softmax_cross_entropy_equals_keras_and_survives_large_logits():
    z, y = Node(random(5, 3)), np.array([0, 2, 1, 1, 0])
    loss = bp.softmax_cross_entropy(z, y)
    loss.backward()
    with tf.GradientTape() as tape:
        logits = tf.Variable(z.value)
        expected = keras.losses.SparseCategoricalCrossentropy(True, dtype="float64")(
            y, logits
        )
    assert float(loss.value) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(z.gradient, tape.gradient(expected, logits), atol=1e-12)

    z = Node([[1000.0, 0.0]])
    loss = bp.softmax_cross_entropy(z, np.array([1]))
    loss.backward()
    assert float(loss.value) == 1000
    np.testing.assert_allclose(z.gradient, [[1, -1]])


def test_the_neuron_of_the_cs231n_notes():
    """Their circuit for w = (2, −3, −3), x = (−1, −2), with gradients to two digits."""
    w0, x0, w1, x1, w2 = leaves = [Node(value) for value in (2, -1, -3, -2, -3)]
    out = bp.sigmoid(w0 * x0 + w1 * x1 + w2)
    out.backward()
    assert float(out.value) == pytest.approx(0.73, abs=0.005)
    found = [float(leaf.gradient) for leaf in leaves]
    assert found == pytest.approx([-0.20, 0.39, -0.39, -0.59, 0.20], abs=0.005)


def test_gradients_add_up_where_a_node_is_used_twice():
    x = Node(3.0)
    y = x * x
    (y * x + y).backward()  # x³ + x²
    assert float(x.gradient) == 3 * 9 + 2 * 3


def test_backward_starts_anew_each_time():
    x = Node(3.0)
    y = x * x
    y.backward()
    y.backward()
    assert float(x.gradient) == 6


def test_a_chain_of_gates_longer_than_the_recursion_limit():
    x = end = Node(1.0)
    for _ in range(5000):
        end = end + 1
    end.backward()
    assert (float(end.value), float(x.gradient)) == (5001, 1)


def test_numbers_and_arrays_on_either_side():
    x = Node(np.ones(3))
    row = np.array([1.0, 2.0, 3.0])
    out = row * x + 1 + (2 * x + row)
    assert isinstance(out, Node)
    out.backward()
    np.testing.assert_allclose(out.value, [5, 7, 9])
    np.testing.assert_allclose(x.gradient, row + 2)


def test_max_pool_gives_a_tie_to_the_first_and_nothing_to_the_rest():
    x = Node(np.ones((1, 2, 2, 1)))
    bp.max_pool(x).backward()
    np.testing.assert_array_equal(x.gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_the_mlp_and_its_gradients_equal_those_of_keras():
    model = bp.mlp_in_keras(6)
    model.set_weights([random(*weight.shape) for weight in model.get_weights()])
    x, y = random(9, 6), np.arange(9)
    weights = [Node(value) for value in model.get_weights()]
    logits = bp.mlp(weights, x)
    np.testing.assert_allclose(logits.value, model(x), atol=1e-10)
    bp.softmax_cross_entropy(logits, y).backward()
    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x))
    theirs = tape.gradient(loss, model.trainable_weights)
    for node, gradient in zip(weights, theirs, strict=True):
        np.testing.assert_allclose(node.gradient, gradient, atol=1e-5)
        assert np.abs(node.gradient).max() > 1e-3


def test_the_graph_draws_every_value_and_gradient():
    x, w = Node(-2, "x"), Node(3, "w")
    out = w * x + 0.5
    out.backward()
    figure = bp.draw_graph(out)
    texts = [text.get_text() for text in figure.axes[0].texts]
    for expected in ("x", "w", "×", "+", "0.5", "-6.00", "-5.50", "-2.00", "3.00"):
        assert expected in texts
    arrows = [
        text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)
    ]
    assert len(arrows) == 4  # x and w into ×, × and 0.5 into +
