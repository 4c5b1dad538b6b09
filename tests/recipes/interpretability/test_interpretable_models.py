"""What each model promises, held to NumPy and to counts by hand."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from recipes import interpretable_models as im


def randomize(model, seed=0):
    """Weights without zeros, where a forgotten one would go unnoticed."""
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=each.shape) for each in model.get_weights()])


def test_the_additive_model_is_a_network_for_each_column():
    logits, shapes = im.build_additive(3, 4)
    randomize(logits)
    x = np.random.default_rng(1).normal(size=(20, 3)).astype("float32")
    (w1, b1, w2, b2, w3, b3) = logits.get_weights()
    parts = np.zeros((20, 3))
    for c in range(3):
        hidden = np.maximum(0, x[:, [c]] @ w1[c] + b1[c])
        hidden = np.maximum(0, hidden @ w2[c] + b2[c])
        parts[:, c] = (hidden @ w3[c] + b3[c])[:, 0]
    np.testing.assert_allclose(shapes(x), parts, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits(x)[:, 0], parts.sum(axis=1), rtol=1e-4, atol=1e-4)


def test_the_additive_model_finds_the_shapes_of_an_additive_function():
    random = np.random.default_rng(0)
    x = random.uniform(-2, 2, (1500, 3)).astype("float32")
    truth = np.stack(
        [np.sin(2 * x[:, 0]), x[:, 1] ** 2 - 4 / 3, np.zeros(1500)], axis=1
    )
    keras.utils.set_random_seed(0)
    logits, shapes = im.build_additive(3, 16)
    logits.compile(keras.optimizers.Adam(1e-2), "mse")
    logits.fit(x, truth.sum(axis=1), epochs=30, batch_size=100, verbose=0)
    found = np.asarray(shapes(x))
    found = found - found.mean(axis=0)
    assert np.sqrt(np.mean((found - truth) ** 2, axis=0)).max() < 0.15


def test_a_monotonic_network_keeps_its_signs_whatever_it_is_taught():
    random = np.random.default_rng(0)
    signs = np.array([1.0, -1, 1])
    keras.utils.set_random_seed(0)
    model = im.build_monotonic(signs, 8)
    x = random.normal(size=(200, 3)).astype("float32")
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, -(x @ signs), epochs=3, verbose=0)  # the opposite
    assert all(each.min() >= 0 for each in model.get_weights()[::2])
    assert im.wrong_steps(model, x[:50], signs) == 0
    model.fit(x, x @ signs, epochs=20, verbose=0)
    assert np.corrcoef(model(x)[:, 0], x @ signs)[0, 1] > 0.98
    assert im.wrong_steps(model, x[:50], signs) == 0
    slopes = [np.corrcoef(model(x)[:, 0], x[:, j])[0, 1] for j in range(3)]
    assert np.sign(slopes).tolist() == signs.tolist()


def test_wrong_steps_are_counted():
    inputs = keras.Input((2,))
    # Falls over the first half of the first column's range, rises over the second; the
    # other's sign is wrong everywhere.
    bowl = keras.Model(inputs, (inputs[:, :1]) ** 2 + inputs[:, 1:])
    x = np.array([[-1.0, -1], [1, 1], [0, 0]])
    assert im.wrong_steps(bowl, x, np.array([1, -1]), points=5) == (0.5 + 1) / 2
    assert im.wrong_steps(bowl, x, np.array([1, 1]), points=5) == 0.25


def test_gates_have_a_price_that_larger_weights_cannot_pay():
    model = im.build_dense(5, 4, price=0.1)
    gates = model.get_layer("gates")
    gates.kernel.assign([1, -2, 0, 0.5, 0])
    assert float(sum(model.losses)) == pytest.approx(0.35)
    x = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    moved = x + np.array([0, 0, 9, 0, 9], "float32")  # behind closed gates
    np.testing.assert_allclose(model(x), model(moved))
    assert np.abs(model(x) - model(x + 1)).max() > 1e-3
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, 50 * x[:, 0], epochs=2, verbose=0)
    kernel = model.layers[2].get_weights()[0]
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    assert not im.build_dense(5, 4).losses


def test_the_first_rule_is_the_surest_as_counted_by_hand():
    # Column 0 above the middle takes 10 rows of class 1; column 1 splits nothing.
    x = np.stack([np.arange(20.0), np.arange(20) % 2], axis=1)
    y = (np.arange(20) >= 10).astype(int)
    (rule, shares), *_ = im.grow_rules(x, y, rules=1, conditions=2, fewest=10)
    ((column, is_above, threshold),) = rule
    assert column == 0
    assert shares.max() == 1
    taken = (x[:, 0] > threshold) == is_above
    assert taken.sum() == 10
    assert len(set(y[taken])) == 1


def test_each_rule_takes_what_is_left_and_its_shares_are_those_of_its_rows():
    x, y = load_breast_cancer(return_X_y=True)
    rules = im.grow_rules(x, y, 6, fewest=10)
    assert len(rules) == 7
    assert rules[-1][0] == []
    left = np.ones(len(x), bool)
    expected = np.zeros(len(x), int)
    for rule, shares in rules:
        taken = left.copy()
        for column, is_above, threshold in rule:
            taken &= x[:, column] > threshold if is_above else x[:, column] <= threshold
        assert taken.sum() >= 10 or rule == []
        np.testing.assert_allclose(
            shares, np.bincount(y[taken], minlength=2) / taken.sum()
        )
        expected[taken] = np.bincount(y[taken]).argmax()
        left &= ~taken
    np.testing.assert_array_equal(im.apply_rules(rules, x), expected)
    # Each rule is as sure as any single condition on the rows that were left to it.
    single = im.grow_rules(x, y, 6, conditions=1)
    assert len(single[0][0]) == 1
    assert np.mean(im.apply_rules(rules, x) == y) > 0.9


def test_prototypes_are_squared_distances_with_a_price():
    layer = im.Prototypes(3, price=2.0)
    layer.build((None, 2))
    layer.codes.assign([[0, 0], [3, 4], [1, 1]])
    codes = np.array([[0.0, 0], [3, 3]], "float32")
    expected = [[0, 25, 2], [18, 1, 8]]
    np.testing.assert_allclose(layer(codes), expected)
    # Prototypes to the nearest code: 0, 1, 2; codes to the nearest prototype: 0, 1.
    assert float(sum(layer.losses)) == pytest.approx(2 * (1 + 0.5))


def test_the_prototype_network_votes_by_distances_alone():
    model, decoder = im.build_prototype_network(8, count=5)
    randomize(model)
    random = np.random.default_rng(0)
    images = random.random((6, 64)).astype("float32")
    outputs = model(images)
    encoder = keras.Model(model.input, model.get_layer("prototypes").input)
    codes = np.asarray(encoder(images))
    prototypes = model.get_layer("prototypes").get_weights()[0]
    distances = ((codes[:, None] - prototypes) ** 2).sum(axis=2)
    votes = model.get_layer("votes").get_weights()[0]
    np.testing.assert_allclose(outputs["logits"], distances @ votes, rtol=1e-4)
    np.testing.assert_allclose(outputs["image"], decoder(codes), atol=1e-6)


def test_the_monotonic_start_does_not_saturate():
    keras.utils.set_random_seed(0)
    x = StandardScaler().fit_transform(load_breast_cancer().data)
    model = im.build_monotonic(np.ones(30), 32)
    hidden = keras.Model(model.input, model.layers[2].output)(x)
    assert np.mean(np.abs(hidden) > 0.99) < 0.1
