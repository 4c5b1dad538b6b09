import numpy as np
import pytest

from deep_learning_recipes import modes


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_modes_are_counted(random):
    points = modes.draw_grid(5000, random)
    assert modes.count_modes(points) == 25
    nearest = np.abs(points[:, np.newaxis] - modes.GRID).sum(axis=-1).argmin(axis=1)
    assert modes.count_modes(points[nearest < 16]) == 16
    assert modes.count_modes(points + 0.4) == 0
    spread = random.uniform(-2.5, 2.5, size=(20_000, 2))
    assert modes.count_modes(spread) == 0
    few = np.concatenate([points[nearest == 3][:10], points[nearest == 4]])
    assert modes.count_modes(few) == 2
    many = np.concatenate([few, *[points[nearest == 4]] * 20])
    assert modes.count_modes(many) == 1
