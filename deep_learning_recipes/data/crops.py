"""Crops of photographs: the class is the photograph, train and test come from different
tiles.

All of the photographs may be used freely: public domain or CC0 (scikit-image), and CC
BY 2.0 (scikit-learn's china by danielbuechele and flower by vultilion).
"""

import functools

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.pixels import Split, resize

CROP = 64  # side of a crop in pixels of the photograph, whatever size it is returned in
GRID = (
    4  # a photograph is cut into 4 x 4 tiles; those on the diagonal are the test part
)
PHOTO_HEIGHT = 384
TRAIN_CROPS, TEST_CROPS = 400, 100  # of each photograph
RECOLORED_SIDES = (40, 96)  # of recolored crops; a tile is as large as the largest


def photos(size: int | None, seed: int) -> Split:
    """Color crops of nine photographs: (3600, 32, 32, 3) and (900, 32, 32, 3).

    Each shows a sixth of the photograph's height, at another place for another seed.
    License: public domain, CC0, and CC BY 2.0 (china, flower).
    Measured: SVC 0.70, 3-NN 0.59. The class is "which photo", by its colors above all;
    it is no object recognition.
    """
    return crop_parts(scaled_photos(), size, seed)


def recolored_photos(size: int | None, seed: int) -> Split:
    """Crops of the same photographs and regions whose color says nothing: (3600, 32, 32,
    3) and (900, 32, 32, 3).

    Each has a scale, an orientation, axes of color, brightness and contrast of its own,
    drawn at random. License: as of `photos`.
    Measured: logistic regression 0.10, SVC 0.25, 0.21 from the mean and deviation of each
    channel, a convnet of six layers 0.66 to 0.68 after 12 epochs.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)

    def part(count: int, test: bool) -> tuple[np.ndarray, np.ndarray]:
        crops = []
        for _ in range(count):
            for photo in scaled_photos():
                side = int(rng.integers(*RECOLORED_SIDES, endpoint=True))
                ((top, left),) = draw_corners(photo.shape, 1, test, rng, side)
                cut = Image.fromarray(photo[top : top + side, left : left + side])
                cut = cut.resize((size or 32,) * 2, Image.Resampling.BICUBIC)
                crop = np.rot90(np.asarray(cut), int(rng.integers(4)))
                if rng.integers(2):
                    crop = crop[:, ::-1]
                crops.append(crop)
        x = np.array(crops, "float32") / 255
        return recolor(x, rng), np.tile(range(len(scaled_photos())), count)

    return part(TRAIN_CROPS, test=False), part(TEST_CROPS, test=True)


def recolor(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns each crop's space of colors about its mean, and sets how bright and how
    contrasted the crop is."""
    from scipy.stats import ortho_group

    axes = ortho_group.rvs(3, size=len(x), random_state=rng).astype("float32")
    turned = (x - x.mean(axis=(1, 2), keepdims=True)) @ axes[:, np.newaxis]
    deviation = turned.std(axis=(1, 2, 3), keepdims=True)
    one = (len(x), 1, 1, 1)
    contrast = rng.uniform(0.1, 0.3, one) / np.maximum(
        deviation, 0.02
    )  # flat sky stays
    brightness = rng.uniform(0.35, 0.65, (len(x), 1, 1, 3))
    return np.clip(brightness + contrast * turned, 0, 1).astype("float32")


def load_photos(size: int = 256) -> np.ndarray:
    """The nine photographs themselves, (9, size, size, 3) float32 in [0, 1], 16 to 1024
    pixels
    high: the middle square of each, in the order of `class_names("photos")`.

    License: as of `photos`. Raises UsageError for a size out of range.
    """
    if not 16 <= size <= 1024:
        raise UsageError(f"size must be from 16 to 1024 pixels, not {size}")
    squares = []
    for photo in scaled_photos():
        height, width = photo.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = photo[top : top + side, left : left + side].astype("float32") / 255
        squares.append(resize(square[np.newaxis], size))
    return np.concatenate(squares)


def textures(size: int | None, seed: int) -> Split:
    """Gray crops of brick, grass, and gravel: (1200, 32, 32, 1) and (300, 32, 32, 1).

    License: CC0.
    Measured: 3-NN 0.33, logistic regression 0.62 to 0.74 (the longer it trains), SVC
    0.85. But 0.79 from a crop's mean and standard deviation alone: print that beside a
    net.
    """
    from skimage import data

    pictures = [
        picture[..., np.newaxis]
        for picture in (data.brick(), data.grass(), data.gravel())
    ]
    return crop_parts(pictures, size, seed)


@functools.cache
def scaled_photos() -> list[np.ndarray]:
    """The photographs in the order of their class names, each 384 pixels high."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    retina = data.retina()
    rim = (
        len(retina) // 6
    )  # of the round picture, the largest square without black corners
    originals = [
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        data.rocket(),
        data.hubble_deep_field(),
        retina[rim:-rim, rim:-rim],
        data.immunohistochemistry(),
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg"),
    ]
    scaled = []
    for original in originals:
        height, width = original.shape[:2]
        size = (round(width * PHOTO_HEIGHT / height), PHOTO_HEIGHT)
        scaled.append(
            np.asarray(Image.fromarray(original).resize(size, Image.Resampling.BICUBIC))
        )
    return scaled


def crop_parts(pictures: list[np.ndarray], size: int | None, seed: int) -> Split:
    """Train and test crops of uint8 pictures; labels go round, 0 1 2 0 1 2 ..."""
    rng = np.random.default_rng(seed)

    def part(count: int, test: bool) -> tuple[np.ndarray, np.ndarray]:
        x = np.empty(
            (count, len(pictures), CROP, CROP, pictures[0].shape[-1]), "float32"
        )
        for label, picture in enumerate(pictures):
            corners = draw_corners(picture.shape, count, test, rng)
            for i, (top, left) in enumerate(corners):
                x[i, label] = picture[top : top + CROP, left : left + CROP]
        x /= 255
        return resize(x.reshape(-1, *x.shape[2:]), size or 32), np.tile(
            range(len(pictures)), count
        )

    return part(TRAIN_CROPS, test=False), part(TEST_CROPS, test=True)


def draw_corners(
    shape: tuple[int, ...],
    count: int,
    test: bool,
    rng: np.random.Generator,
    side: int = CROP,
) -> np.ndarray:
    """Random (top, left) of `count` crops; each crop lies within one tile of its
    part."""
    tile = np.array(shape[:2]) // GRID
    tiles = np.argwhere(np.eye(GRID, dtype=bool) == test)
    return rng.choice(tiles, count) * tile + rng.integers(
        0, tile - side + 1, (count, 2)
    )
