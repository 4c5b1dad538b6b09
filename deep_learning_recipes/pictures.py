"""What recipes that paint pictures share: a measure of their texture."""

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
