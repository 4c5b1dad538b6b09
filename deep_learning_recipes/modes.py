"""25 Gaussians on a grid: a law of points by which it shows how many modes a generator
has found, and how many it has lost."""

import numpy as np
from sklearn.metrics import euclidean_distances

GRID = np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3)], "float32")
GRID_DEVIATION = 0.05
WITHIN = 4  # standard deviations around a mode


def draw_grid(count: int, random: np.random.Generator) -> np.ndarray:
    """Points (count, 2) of 25 Gaussians."""
    centers = GRID[random.integers(len(GRID), size=count)]
    noise = GRID_DEVIATION * random.standard_normal((count, 2))
    return (centers + noise).astype("float32")


def nearest_modes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of points (n, 2): the numbers of the modes that are nearest, and whether they are
    within four standard deviations, (n,) each."""
    distances = euclidean_distances(points, GRID)
    return distances.argmin(axis=1), distances.min(axis=1) < WITHIN * GRID_DEVIATION


def count_modes(points: np.ndarray) -> int:
    """Of the 25: those that have at least a quarter of their share of the points (n, 2)
    within four standard deviations. Points spread evenly over the square have an eighth
    there: they find none."""
    nearest, is_near = nearest_modes(points)
    counts = np.bincount(nearest[is_near], minlength=len(GRID))
    return int(np.sum(counts >= 0.25 * len(points) / len(GRID)))
