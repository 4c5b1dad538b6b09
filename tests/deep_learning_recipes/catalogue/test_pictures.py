"""The pictures beside the results."""

from pathlib import Path

import numpy as np
from PIL import Image

from deep_learning_recipes.catalogue import pictures


def test_pictures_are_kept_small():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1300, 3), "uint8")
    Image.fromarray(noise).save("noise.png")
    name = pictures.keep_picture(Path("noise.png"), Path("out"), "toy")
    assert name == "toy-noise.png"
    assert Path("out", name).stat().st_size < 150_000


def test_a_curve_is_drawn_with_its_spread_over_seeds():
    """The lines of two runs of unequal length; what was not finite is left out."""
    runs = [
        {"recipe": "toy", "curves": {"mean return": {"xlabel": "step", "x": x, "y": y}}}
        for x, y in (([1, 2, 3], [None, 4, 6]), ([1, 2], [0, 2]))
    ]
    name = pictures.draw_curve("mean return", runs, Path("out"))
    assert name == "toy-seeds_mean_return.png"
    assert Image.open(Path("out") / name).width > 500
