"""Neighbors and outliers against scikit-learn's, the confident joint against a count
by hand."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.feature_selection import f_classif
from sklearn.metrics import log_loss
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from recipes import data_exploration as exploration


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    # Exact ties would be ranked by chance.
    return x[:400] / 16 + 1e-3 * np.random.default_rng(0).normal(size=(400, 64)), y[
        :400
    ]


def test_neighbors_are_scikit_learns(digits):
    x, _ = digits
    distances, rows = exploration.nearest(x[:50], x[50:], 7)
    theirs = NearestNeighbors(n_neighbors=7).fit(x[50:]).kneighbors(x[:50])
    np.testing.assert_allclose(distances, theirs[0])
    np.testing.assert_array_equal(rows, theirs[1])
    # Asked about its own rows without naming them, scikit-learn leaves each row itself
    # out.
    distances, rows = exploration.others(x, 7)
    theirs = NearestNeighbors(n_neighbors=7).fit(x).kneighbors()
    np.testing.assert_allclose(distances, theirs[0])
    np.testing.assert_array_equal(rows, theirs[1])


def test_separation_is_scikit_learns_analysis_of_variance(digits):
    x, y = digits
    x = np.concatenate(
        [x, np.full((400, 1), 3.0)], axis=1
    )  # and one that never changes
    found = exploration.separation(x, y)
    ratios, _ = f_classif(x[:, :-1], y)
    # F is the variance between classes over that within, each by its degrees of freedom.
    explained = ratios * 9 / (ratios * 9 + 390)
    np.testing.assert_allclose(found[:-1], explained, rtol=1e-9)
    assert found[-1] == 0


def test_a_shifted_feature_is_found_and_no_other():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 400, 6))
    assert not exploration.shift_of_features(a, b).is_found.any()
    found = exploration.shift_of_features(a, b + [0, 0, 0, 0.6, 0, 0])
    assert found.is_found.tolist() == [False, False, False, True, False, False]
    # The largest gap between two distribution functions, by hand.
    x = np.array([[1.0], [2], [3], [4]])
    far = exploration.shift_of_features(x, x + 2)
    np.testing.assert_allclose(far.distances, [0.5])


def test_dimmed_pixels_are_bright_ones_and_the_digits_stay_as_they_are():
    random = np.random.default_rng(0)
    x = random.random((200, 64))
    x[:, 32:] = 0  # never bright
    y = np.arange(200) % 10
    digits = exploration.Digits(x[:100], y[:100], x[100:], y[100:])
    before = digits.x_test.copy()
    features = exploration.dim(digits, digits, random)
    assert features.is_dimmed.sum() == exploration.DIMMED
    assert not features.is_dimmed[32:].any()
    np.testing.assert_array_equal(digits.x_test, before)


def test_a_copy_is_a_neighbor_at_distance_zero():
    x = np.array([[0.0, 0], [3, 4], [0, 0], [0, 0]])
    distances, rows = exploration.others(x, 2)
    assert not (rows == np.arange(4)[:, None]).any()
    np.testing.assert_array_equal(distances, [[0, 0], [5, 5], [0, 0], [0, 0]])


@pytest.mark.parametrize("count", [5, 20])
def test_the_local_outlier_factor_is_scikit_learns(digits, count):
    x, y = digits
    theirs = -LocalOutlierFactor(n_neighbors=count).fit(x).negative_outlier_factor_
    np.testing.assert_allclose(
        exploration.local_outlier_factor(x, count), theirs, rtol=1e-6
    )
    factors = exploration.outliers_of_classes(x, y, count)
    for label in range(10):
        alone = LocalOutlierFactor(n_neighbors=count).fit(x[y == label])
        np.testing.assert_allclose(
            factors[y == label], -alone.negative_outlier_factor_, rtol=1e-6
        )


def test_of_a_class_of_three_all_others_are_neighbors():
    x = np.random.default_rng(0).normal(size=(3, 4))
    expected = -LocalOutlierFactor(2).fit(x).negative_outlier_factor_
    np.testing.assert_allclose(
        exploration.local_outlier_factor(x, 20), expected, rtol=1e-6
    )


def test_the_confident_joint_as_counted_by_hand():
    probabilities = np.array(
        [
            [
                0.9,
                0.1,
            ],  # labeled 0; class 0 is possible from (0.9 + 0.8 + 0.1) / 3 = 0.6 on
            [0.8, 0.2],
            [0.1, 0.9],  # labeled 0, but 1: suspected
            [
                0.3,
                0.7,
            ],  # labeled 1; class 1 is possible from (0.7 + 0.5 + 0.9) / 3 = 0.7 on
            [0.5, 0.5],  # neither is possible: not counted
            [0.1, 0.9],
        ]
    )
    y = np.array([0, 0, 0, 1, 1, 1])
    suspected, share = exploration.confident_learning(probabilities, y)
    assert suspected.tolist() == [False, False, True, False, False, False]
    # Counts [[2, 1], [0, 2]], rows scaled to the 3 labels that each class was given.
    assert share == pytest.approx(1 / 6)


def test_sure_and_right_models_suspect_what_was_changed():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 1000)
    wrong = random.random(1000) < 0.1
    y = np.where(wrong, (truth + 1) % 4, truth)
    probabilities = np.full((1000, 4), 0.02)
    probabilities[np.arange(1000), truth] = 0.94
    suspected, share = exploration.confident_learning(probabilities, y)
    np.testing.assert_array_equal(suspected, wrong)
    assert share == pytest.approx(wrong.mean(), abs=1e-6)


def test_the_loss_is_scikit_learns_without_the_network_of_the_images_fold():
    random = np.random.default_rng(0)
    logits = random.normal(size=(30, 3, 10)).astype("float32")
    label, fold = random.integers(0, 10, 30), random.integers(0, 3, 30)
    losses = exploration.loss_of_shown(np.stack([label, fold], axis=1), logits)
    probabilities = np.asarray(keras.ops.softmax(logits), "float64")
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    for k, loss in enumerate(np.asarray(losses)):
        shown = [n for n in range(3) if n != fold[k]]
        expected = [
            log_loss([label[k]], probabilities[k, n][None], labels=np.arange(10))
            for n in shown
        ]
        assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_network_learns_nothing_from_the_fold_that_it_is_asked_about():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 6)).astype("float32")
    label, fold = random.integers(0, 10, 40), np.arange(40) % 2
    changed = np.where(fold == 1, (label + 3) % 10, label)
    answers = []
    for y in (label, changed):
        keras.utils.set_random_seed(0)
        model = exploration.build_folds(6, 2, 5)
        model.compile(keras.optimizers.SGD(0.5), exploration.loss_of_shown)
        model.fit(x, np.stack([y, fold], axis=1), epochs=3, shuffle=False, verbose=0)
        answers.append(np.asarray(model(x)))
    # Labels of the second fold reach the first network alone.
    np.testing.assert_allclose(answers[0][:, 1], answers[1][:, 1], atol=1e-6)
    assert np.abs(answers[0][:, 0] - answers[1][:, 0]).max() > 0.01


def test_parts_that_are_drawn_alike_are_not_told_apart():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 200, 5))
    assert abs(exploration.tell_apart(a, b, 0) - 0.5) < 0.1
    assert exploration.tell_apart(a, b + [0, 0, 3, 0, 0], 0) > 0.95
