import numpy as np
import pytest

from deep_learning_recipes import explanations

MASK = np.array([[[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], bool)


def maps(*values):
    return np.array(values, "float64").reshape(1, 3, 4)


def test_share_on_object_by_hand():
    found = explanations.share_on_object(maps(0, 3, 1, 0, 4, 0, 0, 0, 0, 0, 0, -9), MASK)
    assert found == pytest.approx([0.5])
    assert explanations.share_on_object(np.ones((1, 3, 4)), MASK) == pytest.approx([2 / 12])
    assert explanations.share_on_object(np.zeros((1, 3, 4)), MASK) == [0]


@pytest.mark.parametrize(
    ("at", "tolerance", "hit"), [(1, 0, True), (5, 0, False), (4, 1, True), (8, 1, False)]
)
def test_pointing_game_by_hand(at, tolerance, hit):
    values = np.zeros(12)
    values[at] = 1
    assert explanations.pointing_game(maps(*values), MASK, tolerance) == [hit]


def test_overlap_by_hand():
    assert explanations.overlap(maps(0, 5, 4, 0, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [1]
    assert explanations.overlap(maps(6, 5, 4, 0, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [1 / 3]
    assert explanations.overlap(maps(6, 0, 0, 5, 1, 1, 1, 1, 1, 1, 1, 1), MASK) == [0]


def test_each_picture_is_measured_with_its_own_mask():
    rng = np.random.default_rng(0)
    many, masks = rng.random((5, 6, 7)), rng.random((5, 6, 7)) < 0.3
    for measure in (
        explanations.share_on_object,
        explanations.pointing_game,
        explanations.overlap,
    ):
        alone = [measure(many[i : i + 1], masks[i : i + 1])[0] for i in range(5)]
        np.testing.assert_allclose(measure(many, masks).astype(float), np.array(alone, float))
