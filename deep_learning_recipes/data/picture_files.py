"""Picture files: of any depth, transparent, turned on their side, or no pictures at
all."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.pixels import set_channels

# The largest value of 8, 12, 16, 31 and 32 bits. A file says how wide its numbers are,
# not how much of that the camera used: 12 bits come in 16, and bytes in 32.
FULL_SCALES = (2**8 - 1, 2**12 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
BITS_PER_SAMPLE, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # of TIFF


def read_picture(
    file: str | Path, size: tuple[int, int], channels: int = 3
) -> np.ndarray:
    """A PNG, JPEG, TIFF or other picture file as (height, width, channels) float32 in
    [0, 1]: turned upright, on white where it is transparent, its middle cut out in the
    proportions of `size` (height, width), and resized.

    Numbers of more than 8 bits are divided by the largest value of the fewest bits, of
    8, 12, 16, 31 and 32, that hold them all; fractions by 1, or as bytes if they go
    beyond 2.

    Raises UsageError for a file that is missing or no picture, one with negative pixels
    or such as are no numbers, and one that is too large for Pillow (179 megapixels).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns at half of what it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _read(file, size, channels)
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UsageError(
            f"{file}: more than {limit} megapixels; make it smaller first"
        ) from error
    except Exception as error:  # a foreign file can fail in every way there is
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f": {error}"
        raise UsageError(
            f"{file}: Pillow cannot read it as a picture{reason}"
        ) from error


def _read(file: str | Path, size: tuple[int, int], channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            numbers = to_unit_range(np.asarray(upright), file, tags_of(image))
            upright = Image.fromarray(numbers)
        else:
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            upright = upright.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(fitted, "float32").reshape(*size, -1)
    if upright.mode == "F":  # a cubic curve swings beyond what it goes through
        return set_channels(np.clip(pixels, 0, 1), channels)
    return pixels / 255


def tags_of(image: Any) -> dict[int, Any]:
    """What a TIFF file says of itself, by number; nothing of another file."""
    return dict(getattr(image, "tag_v2", {}))


def to_unit_range(
    values: np.ndarray, file: str | Path, tags: dict[int, Any]
) -> np.ndarray:
    """Brightness (height, width) of any scale as float32 in [0, 1].

    Raises UsageError for negative values and such as are no numbers.
    """
    if values.dtype == np.int32 and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        values = values.view(np.uint32)  # Pillow knows signed ones only
    if not np.isfinite(values).all():
        raise UsageError(f"{file}: some of its pixels are no numbers")
    lowest, highest = float(values.min()), float(values.max())
    if lowest < -0.1 * max(highest, 1):
        raise UsageError(
            f"{file}: its pixels go from {lowest:g} to {highest:g}, and what is below 0 "
            "says no brightness; save it in bytes, or from 0 to 1"
        )
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    if values.dtype.kind == "f" and highest <= 2:
        scale = 1
    elif bits not in (16, 32, 64):
        scale = 2**bits - 1
    else:
        scale = next((top for top in FULL_SCALES if highest <= top), highest)
    return np.clip(values.astype("float64") / scale, 0, 1).astype("float32")
