"""Single pictures by name: photographs, textures, a painting, or a file of the user's
own."""

from pathlib import Path

import numpy as np

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.data.crops import load_photos
from deep_learning_recipes.data.labels import class_names
from deep_learning_recipes.data.picture_files import read_picture
from deep_learning_recipes.data.pixels import resize

MATERIALS = ("brick", "grass", "gravel")
PAINTING = "painting"
# Night blue, blue, sky, cream, yellow, ochre.
PALETTE = (
    (0.05, 0.08, 0.30),
    (0.10, 0.25, 0.55),
    (0.35, 0.60, 0.80),
    (0.90, 0.90, 0.75),
    (0.97, 0.75, 0.20),
    (0.80, 0.40, 0.10),
)


def load_picture(name: str, size: int = 256) -> np.ndarray:
    """One picture, (size, size, 3) float32 in [0, 1], 16 to 1024 pixels high.

    name: a photograph (`class_names("photos")`); brick, grass or gravel, which are
        gray; painting, brush strokes along a whirling field (see `painting`); or a
        picture file, of which the middle square is taken.

    License: as of `photos` and `textures`; the painting is drawn here.
    Raises UsageError for an unknown name, a file that is none, and a size out of range.
    """
    if not 16 <= size <= 1024:
        raise UsageError(f"size must be from 16 to 1024 pixels, not {size}")
    photos = list(class_names("photos"))
    if name in photos:
        return load_photos(size)[photos.index(name)]
    if name in MATERIALS:
        from skimage import data

        gray = (
            getattr(data, name)()[np.newaxis, ..., np.newaxis].astype("float32") / 255
        )
        return np.repeat(resize(gray, size)[0], 3, axis=-1)
    if name == PAINTING:
        return painting(size)
    if Path(name).is_file():
        return read_picture(name, (size, size))
    known = [*photos, *MATERIALS, PAINTING]
    raise UsageError(
        f"{name}: neither a picture file nor one of {', '.join(known)}{did_you_mean(name, known)}"
    )


def painting(size: int, seed: int = 0) -> np.ndarray:
    """Brush strokes in six colors along a whirling field, (size, size, 3) float32 in
    [0, 1].

    Blotches of color are smeared along the field's lines (Cabral and Leedom, Imaging
    vector fields using line integral convolution, 1993). The picture goes on at the
    opposite edge.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    random = np.random.default_rng(seed)

    def noise(width: float) -> np.ndarray:
        smooth = gaussian_filter(random.normal(size=(256, 256)), width, mode="wrap")
        return smooth / smooth.std()

    # Along the level lines of a smooth landscape: the field whirls, and has no sources.
    down, right = np.gradient(noise(21))
    steepness = np.hypot(down, right) + 1e-9
    field = np.stack([right, -down]) / steepness

    blotches = np.clip(2.2 + 1.3 * noise(6) + 0.8 * noise(1), 0, len(PALETTE) - 1)
    colors = [
        np.interp(blotches, range(len(PALETTE)), part) for part in np.transpose(PALETTE)
    ]
    total, steps = np.array(colors), 10
    for direction in (1, -1):
        place = np.indices((256, 256)).astype(float)
        for _ in range(steps):
            row, column = place.astype(int) % 256
            place += direction * field[:, row, column]
            total += [
                map_coordinates(each, place, order=1, mode="grid-wrap")
                for each in colors
            ]
    mean = total.mean(axis=(1, 2), keepdims=True)
    strokes = (mean + 1.5 * (total - mean)) / (
        2 * steps + 1
    )  # the contrast that smearing took
    picture = np.clip(strokes, 0, 1).astype("float32").transpose(1, 2, 0)
    return resize(picture[np.newaxis], size)[0]
