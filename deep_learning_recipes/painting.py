"""What recipes that paint pictures share: a measure of their texture, and their
colors."""

import keras
import numpy as np

SCALES = (1, 2, 4, 8)
VARIANCE = 1e-3


def texture_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How much the textures of two pictures (height, width, 3) differ: 0 if not at all.

    The Wasserstein distance between the distributions of a band-pass filter's responses
    to their brightness, in standard deviations of the responses to `b`; the mean over
    slopes to the right and downwards, their product (corners), and a difference of
    Gaussians (spots), each at widths of 1, 2, 4 and 8 pixels. Much like the histograms
    of Heeger and Bergen, Pyramid-based texture analysis/synthesis, 1995: no network has
    a part in it.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.stats import wasserstein_distance

    distances = []
    for scale in SCALES:
        responses = []
        for picture in (a, b):
            gray = picture.mean(axis=-1)
            slopes = [
                gaussian_filter(gray, scale, order)
                for order in ((0, 1), (1, 0), (1, 1))
            ]
            spots = gaussian_filter(gray, scale) - gaussian_filter(gray, 2 * scale)
            responses.append([each.ravel() for each in (*slopes, spots)])
        for found, wanted in zip(*responses, strict=True):
            distances.append(
                wasserstein_distance(found, wanted) / max(wanted.std(), 1e-6)
            )
    return float(np.mean(distances))


@keras.saving.register_keras_serializable("deep_learning_recipes")
class Recolor(keras.layers.Layer):
    """Moves each picture's colors, (n, height, width, 3), to a mean (3,) and
    covariance `root` · `root`, (3, 3), as far as they stay in [0, 1] (Gatys et al.,
    Controlling perceptual factors in neural style transfer, 2017, section 5.2)."""

    def __init__(self, mean, root, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.root = np.asarray(mean, "float32"), np.asarray(root, "float32")

    @classmethod
    def like(cls, picture: np.ndarray, **kwargs) -> "Recolor":
        """To the colors of a picture (height, width, 3)."""
        pixels = picture.reshape(-1, 3)
        variances, axes = np.linalg.eigh(np.cov(pixels.T))
        root = axes * np.sqrt(np.maximum(variances, 0)) @ axes.T
        return cls(pixels.mean(axis=0), root, **kwargs)

    def call(self, pictures):
        shape = keras.ops.shape(pictures)
        pixels = keras.ops.reshape(pictures, (shape[0], -1, 3))
        pixels -= keras.ops.mean(pixels, axis=1, keepdims=True)
        covariance = keras.ops.mean(pixels[..., :, None] * pixels[..., None, :], axis=1)
        # A little more than it is: a clear sky must not be stretched until its grain
        # shows.
        variances, axes = keras.ops.eigh(covariance + VARIANCE * keras.ops.eye(3))
        whitening = keras.ops.matmul(
            axes / keras.ops.sqrt(variances)[:, None],
            keras.ops.transpose(axes, (0, 2, 1)),
        )
        moved = self.mean + keras.ops.matmul(
            keras.ops.matmul(pixels, whitening), self.root
        )
        return keras.ops.clip(keras.ops.reshape(moved, shape), 0, 1)

    def get_config(self):
        config = super().get_config()
        return config | {"mean": self.mean.tolist(), "root": self.root.tolist()}
