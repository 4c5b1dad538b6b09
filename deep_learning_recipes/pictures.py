"""What recipes that paint pictures share: measures of their texture, and their colours."""

import numpy as np

RADII = (1, 2, 4, 8)


def pattern_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How much the local patterns of two pictures (height, width, 3) in [0, 1] differ, from 0 to 1.

    The total variation between histograms of local binary patterns at radius 1 to 8, which compare
    each pixel's brightness with eight around it and keep their direction (Ojala et al.,
    Multiresolution gray-scale and rotation invariant texture classification with local binary
    patterns, 2002). No network has a part in it.
    """
    from skimage.feature import local_binary_pattern

    parts = []
    for radius in RADII:
        shares = []
        for picture in (a, b):
            grey = np.round(255 * picture.mean(axis=-1)).astype("uint8")
            codes = local_binary_pattern(grey, 8, radius, "nri_uniform").astype(int)
            inside = codes[radius:-radius, radius:-radius]
            shares.append(np.bincount(inside.ravel(), minlength=59) / inside.size)
        parts.append(np.abs(shares[0] - shares[1]).sum() / 2)
    return float(np.mean(parts))


def recolour(pictures: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Each picture (n, height, width, 3) with the mean and covariance of the colours of its like
    (n, any height, any width, 3), as far as they are in [0, 1] (Gatys et al., Controlling
    perceptual factors in neural style transfer, 2017, section 5.2)."""

    def mean_and_root(picture):
        pixels = picture.reshape(-1, 3)
        # A little more than the covariance: of grey pictures it has no inverse.
        variances, axes = np.linalg.eigh(np.cov(pixels.T) + 1e-5 * np.eye(3))
        return pixels.mean(axis=0), axes * np.sqrt(variances) @ axes.T

    moved = []
    for picture, other in zip(pictures, like, strict=True):
        (mean, root), (new_mean, new_root) = mean_and_root(picture), mean_and_root(other)
        moved.append(new_mean + (picture - mean) @ np.linalg.solve(root, new_root))
    return np.clip(moved, 0, 1).astype("float32")
