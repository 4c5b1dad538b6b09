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
BITS_PER_SAMPLE, SAMPLE_FORMAT, SIGNED = 258, 339, 2  # of TIFF


def read_picture(
    file: str | Path,
    size: tuple[int, int] | None,
    channels: int = 3,
    *,
    whole: bool = False,
) -> np.ndarray:
    """A PNG, JPEG, TIFF or other picture file as (height, width, channels) float32 in
    [0, 1]: turned upright, on white where it is transparent, its middle cut out in the
    proportions of `size` (height, width), and resized; None: all of it, as large as it
    is.

    whole: nothing is cut off; other proportions are stretched.

    Numbers of more than 8 bits are divided by the largest value of the fewest bits, of
    8, 12, 16, 31 and 32, that hold them all; fractions by 1, or as bytes if they go
    beyond 2.

    Raises UsageError for a file that is missing or no picture, one with negative pixels
    or such as are no numbers, and one that is too large for Pillow (179 megapixels).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, before it refuses or reads
            return _read(file, size, channels, whole)
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
        message = f"{file}: Pillow cannot read it as a picture"
        if not isinstance(error, Image.UnidentifiedImageError):
            message = f"{message}: {error}".partition("\n")[0]
        raise UsageError(message) from error


def _read(
    file: str | Path, size: tuple[int, int] | None, channels: int, whole: bool
) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            tags = dict(getattr(opened, "tag_v2", {}))
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            upright: Image.Image = opened
    except Image.UnidentifiedImageError:
        if not is_tiff(file):
            raise
        return fit(read_deep_colors(file), size, channels, whole)

    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    is_signed = tags.get(SAMPLE_FORMAT, (0,))[0] == SIGNED
    if upright.mode == "F" or upright.mode.startswith("I"):
        values = np.asarray(upright)
        if values.dtype == np.int32 and not is_signed:
            values = values.view(np.uint32)  # Pillow knows signed ones only
        numbers = to_unit_range(values, file, bits, is_signed)
        return fit(numbers, size, channels, whole)
    if is_tiff(file) and bits > 8:
        try:
            return fit(read_deep_colors(file), size, channels, whole)
        except UsageError:
            raise
        except ValueError:  # packed in a way that only Pillow knows
            pass  # which takes the highest 8 bits

    return pixels_of(upright, size, channels, whole)


def pixels_of(
    picture: Any, size: tuple[int, int] | None, channels: int, whole: bool = True
) -> np.ndarray:
    """A picture of Pillow's of 8 bits a color, as `read_picture` returns one."""
    from PIL import Image

    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    picture = picture.convert("L" if channels == 1 else "RGB")
    fitted = resized(picture, size, whole)
    pixels = np.asarray(fitted, "float32") / 255
    return pixels.reshape(*pixels.shape[:2], channels)


def resized(picture: Any, size: tuple[int, int] | None, whole: bool) -> Any:
    """A picture of Pillow's in another size (height, width): all of it stretched, or
    its middle. None: as it is."""
    from PIL import Image, ImageOps

    if size is None:
        return picture
    if whole:
        return picture.resize(size[::-1], Image.Resampling.BICUBIC)
    return ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)


def is_tiff(file: str | Path) -> bool:
    with Path(file).open("rb") as opened:
        return opened.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_deep_colors(file: str | Path) -> np.ndarray:
    """The first picture of a TIFF file of more than 8 bits a color, or of fractions
    that Pillow does not know, (height, width, colors) float32 in [0, 1]."""
    from PIL import Image
    from tifffile import TiffFile  # scikit-image's own reader

    with TiffFile(file) as opened:
        page = opened.pages[0]
        if page.size > 6 * (Image.MAX_IMAGE_PIXELS or 0):
            raise Image.DecompressionBombError
        values = page.asarray()
        if page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
    is_signed = values.dtype.kind == "i"
    numbers = to_unit_range(values, file, 8 * values.dtype.itemsize, is_signed)
    if numbers.ndim == 3 and numbers.shape[-1] in (2, 4):  # the last is the opacity
        opacity = numbers[..., -1:]
        return numbers[..., :-1] * opacity + 1 - opacity
    return numbers


def fit(
    numbers: np.ndarray, size: tuple[int, int] | None, channels: int, whole: bool
) -> np.ndarray:
    """Brightness (height, width) or colors (height, width, 1 or 3), float32 in [0, 1],
    cut and resized, or stretched as a whole."""
    from PIL import Image

    colors = np.atleast_3d(numbers)
    fitted = [
        resized(Image.fromarray(each), size, whole)
        for each in np.moveaxis(colors, -1, 0)
    ]
    # A cubic curve swings beyond what it goes through.
    pixels = np.clip(np.stack([np.asarray(each) for each in fitted], axis=-1), 0, 1)
    return set_channels(pixels, channels)


def to_unit_range(
    values: np.ndarray, file: str | Path, bits: int, is_signed: bool
) -> np.ndarray:
    """Numbers of any scale as float32 in [0, 1].

    bits: of each number, as the file has it. Raises UsageError for negative values and
    such as are no numbers.
    """
    if not np.isfinite(values).all():
        raise UsageError(f"{file}: some of its pixels are no numbers")
    lowest, highest = float(values.min()), float(values.max())
    if lowest < -0.1 * max(highest, 1):
        raise UsageError(
            f"{file}: its pixels go from {lowest:g} to {highest:g}, and what is below 0 "
            "says no brightness; save it in bytes, or from 0 to 1"
        )
    if values.dtype.kind == "f" and highest <= 2:
        scale = 1.0
    elif values.dtype.kind != "f" and bits not in (16, 32, 64):
        scale = 2**bits - 1
    else:
        scale = next((each for each in FULL_SCALES if highest <= each), highest)
        if is_signed and scale == 2**16 - 1 and bits == 16:
            scale = 2**15 - 1
    return np.clip(values.astype("float64") / scale, 0, 1).astype("float32")
