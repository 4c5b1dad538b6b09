"""What every image set needs: another size, another number of channels."""

import numpy as np

Part = tuple[np.ndarray, np.ndarray]
Split = tuple[Part, Part]
"""((x_train, y_train), (x_test, y_test))"""

LUMINANCE = np.array(
    [0.299, 0.587, 0.114], "float32"
)  # ITU-R BT.601, as Pillow's mode "L"


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic (n, height, width, channels) -> (n, size, size, channels), clipped to [0,
    1].

    Resizing is linear along rows and along columns, so a batch takes two matrix
    products. Pillow itself gives the matrices: it resizes the identity, with its filter
    and its antialiasing.
    """
    from PIL import Image

    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images

    def weights(length: int) -> np.ndarray:
        identity = Image.fromarray(np.eye(length, dtype="float32"))
        return np.asarray(identity.resize((length, size), Image.Resampling.BICUBIC))

    resized = np.einsum(
        "ih,nhwc,jw->nijc", weights(height), images, weights(width), optimize="greedy"
    )
    return np.clip(resized, 0, 1)


def set_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Gray from color by luminance (1 channel), color from gray by repeating (3
    channels)."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return (images @ LUMINANCE)[..., np.newaxis]
    return np.repeat(images, 3, axis=-1)
