"""The pictures beside the results: figures made small, and curves over seeds."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from deep_learning_recipes import figures

PICTURE_BYTES = 150_000


def keep_picture(source: Path, out: Path, recipe: str) -> str:
    """Saves a figure as a small picture (under 150 kB) beside the results; returns its
    name."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{recipe}-{source.stem}.png"
    picture = Image.open(source).convert("RGB")
    width = 1000
    while True:
        height = round(picture.height * width / picture.width)
        small = picture if picture.width <= width else picture.resize((width, height))
        small.quantize(colors=128).save(target, optimize=True)
        if target.stat().st_size < PICTURE_BYTES:
            return target.name
        width = round(min(width, picture.width) * 0.85)


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
