"""How well a map of what matters agrees with where the object is, or with another map.

maps: (n, height, width), larger where a pixel matters more. masks: bool of the same
    shape.
"""

import numpy as np


def share_on_object(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The part of each map's sum that lies on the object, (n,) in [0, 1]; negative
    values count as none. A map that is the same everywhere gets the object's share of
    the picture, one that is zero everywhere gets 0."""
    positive = np.maximum(maps, 0).astype("float64")
    total = positive.sum((1, 2))
    return (positive * masks).sum((1, 2)) / np.where(total > 0, total, 1)


def own_over_others(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How many times as much of each map lies on its own object as of any other map
    does, (n,), for n maps of one picture that were each asked for another object: near
    1 where a map does not depend on what it was asked for."""
    shares = np.stack([share_on_object(maps, each) for each in masks])
    own = np.diag(shares)
    others = np.where(np.eye(len(maps), dtype=bool), 0, shares).max(axis=1)
    return own / np.maximum(others, 1e-3)


def pointing_game(
    maps: np.ndarray, masks: np.ndarray, tolerance: int = 0
) -> np.ndarray:
    """Whether each map's highest point is on the object or at most `tolerance` pixels
    from it (rows and columns apart), (n,) bool. Zhang et al., Top-down neural attention
    by excitation backprop, 2016, section 4.2 (tolerance: 15 pixels of a photograph)."""
    n, height, width = maps.shape
    rows, columns = np.divmod(maps.reshape(n, -1).argmax(axis=1), width)
    hits = np.zeros(n, bool)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        near = masks[
            i,
            max(row - tolerance, 0) : row + tolerance + 1,
            max(column - tolerance, 0) : column + tolerance + 1,
        ]
        hits[i] = near.any()
    return hits


def overlap(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Intersection over union, (n,) in [0, 1], of the object and of as many pixels, the
    highest of the map: a threshold that no method has to be tuned for."""
    n = len(maps)
    order = np.argsort(-maps.reshape(n, -1), axis=1, kind="stable")
    flat = masks.reshape(n, -1)
    ious = np.empty(n)
    for i in range(n):
        size = flat[i].sum()
        shared = flat[i, order[i, :size]].sum()
        ious[i] = shared / (2 * size - shared)
    return ious


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of n pairs of maps, (n,) in [-1, 1]: whether they call the
    same places important. 0 where one of the two is the same all over."""
    from scipy.stats import rankdata

    a, b = (rankdata(each.reshape(len(each), -1), axis=1) for each in (a, b))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)
