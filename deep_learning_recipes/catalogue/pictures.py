"""The pictures beside the results: figures made small, and curves over seeds."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from deep_learning_recipes import figures

WIDTH = 1400
FEW_BYTES = 150_000
MOST_BYTES = 250_000
# Plots are smallest without any loss, photographs with some that nobody sees.
ENCODINGS: tuple[dict[str, Any], ...] = (
    {"lossless": True},
    {"quality": 95},
    {"quality": 90},
    {"quality": 85},
    {"quality": 80},
)


def keep_picture(source: Path, out: Path, recipe: str) -> str:
    """Saves a figure beside the results as RECIPE-NAME.webp, in full color and at most
    1400 pixels wide; returns its name.

    It takes the best quality that stays below 150 kB, else the lowest that shows no harm;
    if even that has more than 250 kB, it gets narrower.
    """
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{recipe}-{source.stem}.webp"
    picture = Image.open(source).convert("RGB")
    width = min(WIDTH, picture.width)
    encoded = _encode(_narrowed(picture, width))
    while len(encoded) > MOST_BYTES:
        width = round(0.85 * width)
        encoded = _encode(_narrowed(picture, width))
    target.write_bytes(encoded)
    return target.name


def _narrowed(picture: Image.Image, width: int) -> Image.Image:
    if picture.width == width:
        return picture
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _encode(picture: Image.Image) -> bytes:
    """The first of ENCODINGS with few bytes, or the last one with however many."""
    for encoding in ENCODINGS:
        file = io.BytesIO()
        picture.save(file, format="WEBP", method=6, **encoding)
        if len(file.getvalue()) <= FEW_BYTES:
            break
    return file.getvalue()


def remove_stale(out: Path, recipe: str, names: list[str]) -> None:
    """Removes the recipe's pictures beside the results that are not named."""
    for path in out.glob(f"{recipe}-*"):
        if path.suffix in (".png", ".webp") and path.name not in names:
            path.unlink()


def draw_curve(name: str, records: list[dict[str, Any]], out: Path) -> str:
    """Draws what `run.curve` recorded under a name, as mean and spread over the runs;
    returns the picture's name."""
    recipe = records[0]["recipe"]
    curves = [record["curves"][name] for record in records]
    length = min(len(curve["x"]) for curve in curves)
    x = curves[0]["x"][:length]
    # What was not finite is None in the record; here it becomes NaN.
    values = np.array([curve["y"][:length] for curve in curves], "float64")
    mean = values.mean(axis=0)
    spread = values.std(axis=0, ddof=min(1, len(curves) - 1))

    figures.use_style()
    figure, axes = plt.subplots(figsize=(8.5, 4))
    axes.plot(x, mean, label="mean")
    axes.fill_between(
        x, mean - spread, mean + spread, alpha=0.25, label="standard deviation"
    )
    axes.plot(x, values.T, color="black", alpha=0.25, linewidth=0.7)
    axes.set(xlabel=curves[0]["xlabel"], ylabel=name)
    axes.set_title(f"{recipe}: {len(records)} seeds")
    axes.legend()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seeds_{name.replace(' ', '_')}.png"
        figure.savefig(path)
        plt.close(figure)
        return keep_picture(path, out, recipe)
