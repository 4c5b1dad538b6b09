"""The endpoint that takes encoded image files in place of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deep_learning_recipes.serving.endpoint import Endpoint, as_numpy

if TYPE_CHECKING:
    import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)
"""how much red, green and blue give to gray (ITU-R BT.601, as JPEG and Pillow do)"""


def classify_bytes(images: Endpoint) -> Endpoint:
    """The endpoint `images`, of pixels in [0, 1], for files in their place.

    Input: `image_bytes` (batch,) strings, each a PNG, JPEG, GIF (its first picture) or
    BMP file of any size, in color or gray. It is decoded to the model's channels,
    resized to its size and scaled to [0, 1].
    """
    import tensorflow as tf

    (specification,) = images.specifications
    _, height, width, channels = specification.shape

    def decode(encoded):
        pixels = tf.cast(decoded(encoded), tf.float32)
        if channels == 1:
            pixels = tf.tensordot(pixels, tf.constant(LUMA), 1)[..., None]
        resized = tf.image.resize(pixels, (height, width), antialias=True)
        return tf.cast(resized / 255, specification.dtype)

    def call(encoded):
        element = tf.TensorSpec((height, width, channels), specification.dtype)
        return images.function(tf.map_fn(decode, encoded, fn_output_signature=element))

    (example,) = images.inputs.values()
    pixels = np.round(255 * example).astype("uint8")
    encoded = np.array([tf.io.encode_png(each).numpy() for each in pixels], object)
    # What must come out is found by another way: from the pixels, without decoding.
    expected = images.function(
        (pixels / 255).astype(specification.dtype.as_numpy_dtype)
    )
    return Endpoint(
        call,
        [tf.TensorSpec((None,), tf.string, name="image_bytes")],
        {"image_bytes": encoded},
        as_numpy(expected),
    )


def decoded(encoded: tf.Tensor) -> tf.Tensor:
    """The pixels (height, width, 3) uint8 of an encoded file.

    Three channels are what decode_image takes from every format. Of a BMP file with a
    palette it gives the indices, so here they are looked up.
    """
    import tensorflow as tf

    def number(start, size, dtype):
        return tf.io.decode_raw(tf.strings.substr(encoded, start, size), dtype)[0]

    def from_palette():
        start = 14 + number(14, 4, tf.int32)
        entries = tf.strings.substr(encoded, start, number(10, 4, tf.int32) - start)
        colors = tf.reshape(tf.io.decode_raw(entries, tf.uint8), (-1, 4))[:, 2::-1]
        return tf.gather(colors, tf.cast(pixels[..., 0], tf.int32))

    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    pixels.set_shape((None, None, 3))
    bits = tf.strings.substr(tf.strings.join([encoded, "\0" * 29]), 28, 1)
    has_palette = (tf.strings.substr(encoded, 0, 2) == "BM") & (bits == "\b")
    return tf.cond(has_palette, from_palette, lambda: pixels)
