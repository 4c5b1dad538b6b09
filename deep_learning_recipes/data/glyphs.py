"""Printed characters, drawn from the type faces that come with matplotlib.

All three families may be used and redistributed freely: DejaVu (Bitstream Vera
license), STIX (STIX Font License), Computer Modern (BaKoMa fonts license).
"""

import functools
import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deep_learning_recipes.data.labels import CLASS_NAMES
from deep_learning_recipes.data.pixels import Split, resize

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

# The faces with letters and digits, by family: siblings share their designs, so a
# family is whole in one part. Left out of matplotlib's 41: symbols, sizes of brackets,
# mathematical italics, and DejaVu's two display faces, which hold neither letters nor
# digits.
TRAIN_FACES = [
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
]
TEST_FACES = ["cmr10", "cmb10", "cmss10", "cmtt10"]

CHARACTERS = "".join(CLASS_NAMES["glyphs"])
COPIES = 10  # of each printed digit in each face


def glyphs(size: int | None, seed: int) -> Split:
    """Letters and digits, 62 classes, each once in a face: (992, 28, 28, 1) and (248,
    28, 28, 1).

    White on black; 16 train faces (DejaVu, STIX) and 4 test faces (Computer Modern).
    Nothing is drawn at random. License: of the faces, free (see the module). Measured:
    SVC 0.94, 1-NN 0.92, logistic regression 0.96. Upper and lower case of c, o, s, v,
    w, x, z differ by size alone, and some faces hardly tell l from I.
    """
    # Sized by their 0, all faces look equally large, and small letters stay smaller
    # than capitals.
    train, test = (
        draw(size, [(c, face, "0") for face in faces for c in CHARACTERS], height=0.52)
        for faces in (TRAIN_FACES, TEST_FACES)
    )
    return train, test


def printed_digits(size: int | None, seed: int) -> Split:
    """Digits, turned, scaled, and shifted a little: (1600, 28, 28, 1) and (400, 28, 28,
    1).

    White on black, ten copies of each digit in each face, other ones for another seed;
    train and test faces as in `glyphs`. Each digit fills the height, as handwritten
    ones in `digits` do. License: of the faces, free (see the module). Measured: SVC
    0.97, 3-NN 0.92, logistic regression 0.97. At 8 x 8 pixels an SVC that learned
    printed digits reads 0.59 of handwritten ones (`digits`), the other way round 0.60;
    within, 0.98 and 0.99.
    """
    rng = np.random.default_rng(seed)
    train, test = (
        draw(
            size,
            [
                (c, face, c)
                for _ in range(COPIES)
                for face in faces
                for c in string.digits
            ],
            height=0.88,
            change=lambda image: jitter(image, rng),
        )
        for faces in (TRAIN_FACES, TEST_FACES)
    )
    return train, test


def draw(
    size: int | None,
    items: list[tuple[str, str, str]],
    height: float,
    change: Callable[["Image"], "Image"] = lambda image: image,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of (character, face, sized_by), as `draw_character` wants
    them."""
    size = size or 28
    side = max(size, 64)  # drawn large and scaled down, so that thin strokes stay
    images = [change(draw_character(*item, side, height)) for item in items]
    x = (
        np.stack([np.asarray(image, "float32") for image in images])[..., np.newaxis]
        / 255
    )
    return resize(x, size), np.array(
        [CHARACTERS.index(character) for character, _, _ in items]
    )


@functools.lru_cache(maxsize=2048)
def draw_character(
    character: str, face: str, sized_by: str, side: int, height: float
) -> "Image":
    """White on black, centered by its ink; the font size makes `sized_by` `height` sides
    high."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(canvas).text(
        (side / 2, side / 2),
        character,
        fill=255,
        font=load_face(face, sized_by, round(height * side)),
    )
    box = canvas.getbbox()
    assert box is not None, f"{face} has no {character}"
    left, top = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
    return canvas.crop((left, top, left + side, top + side))


@functools.cache
def load_face(face: str, sized_by: str, height: int) -> "FreeTypeFont":
    """The face in the size that makes the character `sized_by` `height` pixels high."""
    from PIL import ImageFont

    path = face_path(face)
    em = 1000
    _, top, _, bottom = ImageFont.truetype(path, em).getbbox(sized_by)
    return ImageFont.truetype(path, round(height * em / (bottom - top)))


def face_path(face: str) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf"))


def jitter(image: "Image", rng: np.random.Generator) -> "Image":
    """Turn by up to 10 degrees, scale by 0.85 to 1, shift by up to 2 % of the side."""
    from PIL import Image

    side = image.width
    angle = np.deg2rad(rng.uniform(-10, 10))
    scale = rng.uniform(0.85, 1)
    shift = rng.uniform(-0.02, 0.02, 2) * side
    # Pillow wants the way back: from a place in the result to its place in the image.
    turn = (
        np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        / scale
    )
    center = np.full(2, side / 2)
    offset = center - turn @ (center + shift)
    coefficients = (*turn[0], offset[0], *turn[1], offset[1])
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
