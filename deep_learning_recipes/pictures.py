"""What recipes that paint pictures share: measures of their texture, and their colours."""

import numpy as np

SCALES = (1, 2, 4, 8)


def texture_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How much the textures of two pictures (height, width, 3) differ: 0 if not at all.

    The Wasserstein distance between the distributions of a band-pass filter's responses to their
    brightness, in standard deviations of the responses to `b`; the mean over slopes to the right
    and downwards, their product (corners), and a difference of Gaussians (spots), each at widths of
    1, 2, 4 and 8 pixels. Much like the histograms of Heeger and Bergen, Pyramid-based texture
    analysis/synthesis, 1995: no network has a part in it.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.stats import wasserstein_distance

    distances = []
    for scale in SCALES:
        responses = []
        for picture in (a, b):
            grey = picture.mean(axis=-1)
            slopes = [gaussian_filter(grey, scale, order) for order in ((0, 1), (1, 0), (1, 1))]
            spots = gaussian_filter(grey, scale) - gaussian_filter(grey, 2 * scale)
            responses.append([each.ravel() for each in (*slopes, spots)])
        for found, wanted in zip(*responses, strict=True):
            distances.append(wasserstein_distance(found, wanted) / max(wanted.std(), 1e-6))
    return float(np.mean(distances))


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
