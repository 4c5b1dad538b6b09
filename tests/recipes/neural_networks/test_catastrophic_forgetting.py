"""The Fisher information against its definition, springs against sums by hand."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from recipes import catastrophic_forgetting as cf


def toy(inputs=3, units=4, classes=3):
    """A small network with weights and biases that are not zero."""
    keras.utils.set_random_seed(0)
    network = cf.build_network(inputs, units, classes)
    random = np.random.default_rng(0)
    network.set_weights([random.normal(size=w.shape) for w in network.get_weights()])
    return network


def log_probabilities(weights, x):
    hidden = np.maximum(0, x @ weights[0] + weights[1])
    return log_softmax(hidden @ weights[2] + weights[3], axis=1)


def test_the_fisher_information_is_its_definition():
    """Enumerated in NumPy: each image, each answer, each weight, by central
    differences."""
    network = toy()
    weights = [w.astype("float64") for w in network.get_weights()]
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    p = np.exp(log_probabilities(weights, x))
    found = cf.fisher_information(network, x, batch=2)  # the last batch is smaller
    for weight, fisher in zip(weights, found, strict=True):
        assert fisher.shape == weight.shape
        for index in np.ndindex(*weight.shape):
            value = weight[index]
            weight[index] = value + 1e-6
            above = log_probabilities(weights, x)
            weight[index] = value - 1e-6
            below = log_probabilities(weights, x)
            weight[index] = value
            expected = np.mean(np.sum(p * ((above - below) / 2e-6) ** 2, axis=1))
            assert fisher[index] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_fisher_information_of_logistic_regression_in_closed_form():
    """Of softmax(xW + b): E[xᵢ² pⱼ (1 − pⱼ)] and E[pⱼ (1 − pⱼ)]."""
    x = keras.Input((4,))
    network = keras.Model(x, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    p = softmax(network(images), axis=1)
    kernel, bias = cf.fisher_information(network, images)
    np.testing.assert_allclose(kernel, (images**2).T @ (p * (1 - p)) / 7, rtol=1e-4)
    np.testing.assert_allclose(bias, np.mean(p * (1 - p), axis=0), rtol=1e-4)


@pytest.fixture
def learner():
    learner = cf.Learner(toy())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return learner


def penalty(learner):
    x, y = np.zeros((2, 3), "float32"), np.array([0, 1])
    logits = learner(x)
    cross_entropy = -log_softmax(logits, axis=1)[[0, 1], y].mean()
    return float(learner.compute_loss(x, y, logits)) - cross_entropy


def test_the_penalty_is_equation_3_also_of_two_earlier_tasks(learner):
    random = np.random.default_rng(2)
    shapes = [w.shape for w in learner.network.get_weights()]
    of_a, of_b, fisher_a, fisher_b, now = (
        [random.uniform(size=shape).astype("float32") for shape in shapes]
        for _ in range(5)
    )
    fisher_a[0][0] = fisher_b[0][0] = 0  # a weight that no task needs

    def energy(fisher, weights, rest):
        terms = zip(fisher, weights, rest, strict=True)
        return sum(np.sum(0.5 * 7.0 * f * (w - r) ** 2) for f, w, r in terms)

    learner.restart(of_a)
    assert penalty(learner) == pytest.approx(0, abs=1e-5)
    learner.consolidate(7.0, fisher_a)
    assert penalty(learner) == pytest.approx(0, abs=1e-5)
    learner.network.set_weights(of_b)
    assert penalty(learner) == pytest.approx(energy(fisher_a, of_b, of_a), rel=1e-4)

    # Two springs make one up to a constant, which no gradient sees.
    learner.consolidate(7.0, fisher_b)
    at_b = penalty(learner)
    learner.network.set_weights(now)
    expected = energy(fisher_a, now, of_a) + energy(fisher_b, now, of_b)
    assert penalty(learner) - at_b == pytest.approx(
        expected - energy(fisher_a, of_b, of_a), rel=1e-3
    )

    learner.restart(now)
    learner.network.set_weights(of_a)
    assert penalty(learner) == pytest.approx(0, abs=1e-5)


def test_one_step_goes_down_equation_3(learner):
    """Logits' bias after one step: its gradient is p − y, and λF(θ − θ*)."""
    assert len(learner.trainable_variables) == 4
    learner.restart(learner.network.get_weights())
    importance = [np.ones_like(w) for w in learner.network.get_weights()]
    learner.consolidate(3.0, importance)
    bias = learner.network.get_layer("logits").bias
    rest = np.array(bias)
    bias.assign(rest + 0.5)
    x, y = (
        np.random.default_rng(0).normal(size=(4, 3)).astype("float32"),
        np.array([0, 1, 2, 1]),
    )
    p = softmax(learner(x), axis=1)
    learner.train_on_batch(x, y)
    gradient = np.mean(p - np.eye(3)[y], axis=0) + 3.0 * 0.5
    np.testing.assert_allclose(bias, rest + 0.5 - 0.1 * gradient, rtol=1e-4)


def test_a_batch_holds_as_many_images_of_each_earlier_task():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    kept = [
        cf.Task(x[:2] + 100, y[:2] + 100, None, None),
        cf.Task(x[:4] + 200, y[:4] + 200, None, None),
    ]
    images, labels = cf.mix(cf.Task(x, y, None, None), kept)
    assert images.shape == (18, 2)
    np.testing.assert_array_equal(labels[:6], y)
    np.testing.assert_array_equal(labels[6:12], [100, 101] * 3)
    np.testing.assert_array_equal(labels[12:], [200, 201, 202, 203, 200, 201])
    # Each with its label.
    np.testing.assert_array_equal(images[:, 0] // 2 % 50, labels % 50)
    np.testing.assert_array_equal(cf.mix(cf.Task(x, y, None, None), [])[0], x)


def test_the_tasks_are_what_they_say():
    random = np.random.default_rng(0)
    x, y = random.uniform(size=(40, 9)), np.arange(40) % 10
    tasks = cf.scenarios(cf.Task(x, y, x[:20] + 1, y[:20]), 10, random)
    a, b, c = tasks[cf.NEW_PIXELS]
    np.testing.assert_array_equal(a.x, x)
    for task in (b, c):
        # The same pixels, moved; those held out are moved alike.
        np.testing.assert_array_equal(np.sort(task.x), np.sort(x))
        assert not np.array_equal(task.x, x)
        order = [int(np.flatnonzero(x[0] == value)[0]) for value in task.x[0]]
        np.testing.assert_array_equal(task.x_test, x[:20, order] + 1)
    assert not np.array_equal(b.x, c.x)
    low, high = tasks[cf.NEW_DIGITS]
    assert set(low.y) == set(low.y_test) == set(range(5))
    assert set(high.y) == set(high.y_test) == set(range(5, 10))
    np.testing.assert_array_equal(high.x_test, x[:20][y[:20] > 4] + 1)


def test_methods_are_as_the_config_says():
    config = cf.Config(strength=30.0, strengths=(100.0, 3.0), memory=7)
    methods = cf.methods_of(config, 99)
    assert [each.strength for each in methods.ewc] == [3, 30, 100]
    assert methods.chosen.strength == 30
    assert methods.all[-1] is methods.chosen
    assert not methods.chosen.even
    assert all(each.even for each in methods.even)
    assert (methods.plain.memory, methods.few.memory) == (0, 7)
    assert methods.everything.memory == 99
    assert len({each.name for each in methods.all}) == len(methods.all) == 9
