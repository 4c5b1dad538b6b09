"""Trees against scikit-learn's classifier, and the network that is a tree against the
tree."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.tree import DecisionTreeClassifier

from recipes import model_distillation_to_tree as distillation


@pytest.fixture(scope="module")
def wine():
    x, y = load_wine(return_X_y=True)
    return x.astype("float32"), y, np.eye(3)[y]


@pytest.fixture(scope="module")
def deep(wine):
    x, _, one_hot = wine
    noisy = one_hot[np.random.default_rng(0).permutation(len(x))]
    return distillation.grow(x, 0.7 * one_hot + 0.3 * noisy, 9)


def test_squared_error_on_labels_is_the_gini_impurity():
    x, y = load_breast_cancer(return_X_y=True)
    ours = distillation.grow(x, np.eye(2)[y], 4).tree_
    gini = DecisionTreeClassifier(max_depth=4, random_state=0).fit(x, y).tree_
    np.testing.assert_array_equal(ours.feature, gini.feature)
    np.testing.assert_allclose(ours.threshold, gini.threshold)
    # Σ p(1 − p) over two classes, and the mean of both columns' variances.
    np.testing.assert_allclose(2 * ours.impurity, gini.impurity, atol=1e-12)


def test_a_deep_tree_cut_short_says_what_its_first_questions_lead_to(wine, deep):
    found = distillation.classes_by_depth(deep, wine[0], 9)
    nodes = deep.tree_
    for k, row in enumerate(wine[0]):
        node = 0
        for depth in range(9):
            if nodes.feature[node] >= 0:
                is_left = row[nodes.feature[node]] <= nodes.threshold[node]
                node = (nodes.children_left if is_left else nodes.children_right)[node]
            assert found[depth, k] == nodes.value[node, :, 0].argmax()
    np.testing.assert_array_equal(found[-1], deep.predict(wine[0]).argmax(axis=1))


def test_a_deep_tree_cut_short_is_the_tree_grown_short():
    x, y = load_breast_cancer(return_X_y=True)
    found = distillation.classes_by_depth(distillation.grow(x, np.eye(2)[y], 6), x, 3)
    for depth in (1, 2, 3):  # deeper down, scikit-learn breaks ties at random
        tree = distillation.grow(x, np.eye(2)[y], depth)
        np.testing.assert_array_equal(found[depth - 1], tree.predict(x).argmax(axis=1))


def test_depths_are_those_that_scikit_learn_counts(wine, deep):
    depths = distillation.depths_of(deep)
    assert depths.max() == deep.get_depth()
    # As many questions as a row's path has nodes, but for the leaf.
    path = deep.decision_path(wine[0])
    np.testing.assert_array_equal(depths[deep.apply(wine[0])], path.sum(axis=1).A1 - 1)


def test_the_network_is_the_tree(wine, deep):
    x = wine[0]
    random = np.random.default_rng(1)
    rows = x[random.integers(0, len(x), 500)]
    rows = (rows + random.normal(size=rows.shape) * x.std(axis=0)).astype("float32")
    # Rows that lie on thresholds, and the next numbers on both sides.
    nodes = deep.tree_
    inner = np.flatnonzero(nodes.feature >= 0)
    for node in inner:
        on = nodes.threshold[node].astype("float32")
        for value in (
            on,
            np.nextafter(on, np.float32(0)),
            np.nextafter(on, np.float32(1e9)),
        ):
            rows = np.concatenate([rows, x[:3]])
            rows[-3:, nodes.feature[node]] = value
    outputs = distillation.as_network(deep)(rows)
    np.testing.assert_array_equal(outputs["leaf"], deep.apply(rows))
    np.testing.assert_allclose(outputs["probabilities"], deep.predict(rows), atol=1e-6)


def test_a_threshold_between_two_floats_is_rounded_down():
    first = np.float32(1e6)
    second = np.nextafter(first, np.float32(1e9))
    third = np.nextafter(second, np.float32(1e9))
    for pair in (
        (first, second),
        (second, third),
    ):  # to nearest, one of them would go up
        x = np.array(pair)[:, None]
        tree = distillation.grow(x, np.eye(2), 1)
        outputs = distillation.as_network(tree)(x)
        np.testing.assert_array_equal(outputs["leaf"], tree.apply(x))
        np.testing.assert_array_equal(outputs["probabilities"], np.eye(2))


def test_rows_are_drawn_around_their_origins():
    random = np.random.default_rng(0)
    x = np.array([[0.0, 5, 1], [10, 5, 3], [1000, 5, 2]])
    drawn, origins = distillation.draw_around(x, 3000, 0.1, random)
    assert drawn.dtype == "float32"
    away = drawn - x[origins]
    np.testing.assert_allclose(away.std(axis=0), 0.1 * x.std(axis=0), rtol=0.05)
    assert (drawn[:, 1] == 5).all()
    np.testing.assert_allclose(np.bincount(origins) / 3000, 1 / 3, atol=0.05)


def test_the_network_sees_columns_of_one_scale():
    x = np.random.default_rng(0).normal((5.0, -300, 7), (1, 40, 0), (100, 3))
    model = distillation.build_network(x, 8, 2)
    scaled = np.asarray(model.layers[1](x.astype("float32")))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0], atol=1e-4)
    assert model.output_shape == (None, 2)
