"""The pictures beside the results."""

from pathlib import Path

import numpy as np
from PIL import Image

from deep_learning_recipes.catalogue import pictures


def kept(picture, name="figure.png"):
    """What is kept of a picture: its pixels, and the file."""
    Image.fromarray(picture).save(name)
    path = Path("out", pictures.keep_picture(Path(name), Path("out"), "toy"))
    assert path.suffix == ".webp"
    return np.asarray(Image.open(path).convert("RGB")), path


def psnr(first, second):
    error = np.mean((first.astype("float64") - second) ** 2)
    return 10 * np.log10(255**2 / error)


def test_a_plot_loses_nothing():
    """Lines in 300 colors, of which none may move."""
    plot = np.full((500, 1105, 3), 255, "uint8")
    colors = np.random.default_rng(0).integers(0, 256, (300, 3), "uint8")
    for i, color in enumerate(colors):
        plot[i + 100, 3 * i : 3 * i + 200] = color
    found, path = kept(plot)
    np.testing.assert_array_equal(found, plot)
    assert path.name == "toy-figure.webp"
    assert path.stat().st_size < 50_000


def test_a_photograph_stays_small_and_looks_the_same(monkeypatch):
    monkeypatch.setattr(pictures, "FEW_BYTES", 40_000)
    photograph = smooth_noise(450, 650)
    found, path = kept(photograph)
    assert found.shape == photograph.shape
    assert path.stat().st_size <= pictures.FEW_BYTES
    assert psnr(found, photograph) > 35


def test_a_wide_picture_is_narrowed():
    wide = np.full((200, 2000, 3), 255, "uint8")
    wide[:, :1000] = 0
    found, _ = kept(wide)
    assert found.shape == (140, 1400, 3)


def test_no_picture_has_more_bytes_than_allowed(monkeypatch):
    monkeypatch.setattr(pictures, "FEW_BYTES", 2_000)
    monkeypatch.setattr(pictures, "MOST_BYTES", 4_000)
    noise = np.random.default_rng(0).integers(0, 255, (100, 150, 3), "uint8")
    found, path = kept(noise)
    assert path.stat().st_size <= 4_000
    assert 50 < found.shape[1] < 150


def smooth_noise(height, width):
    """Clouds with some grain: what a photograph is to an encoder."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (9, 13, 3)).astype("uint8")
    clouds = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.normal(0, 1.5, (height, width, 3))
    return np.clip(np.asarray(clouds) + grain, 0, 255).astype("uint8")


def test_stale_pictures_of_the_recipe_go():
    names = ("vae-a.png", "vae-b.webp", "vae-c.webp", "vae.json", "cvae-a.png")
    for name in names:
        Path(name).touch()
    pictures.remove_stale(Path(), "vae", ["vae-c.webp"])
    assert {path.name for path in Path().iterdir()} == {*names} - {*names[:2]}


def test_a_curve_is_drawn_with_its_spread_over_seeds():
    """The lines of two runs of unequal length; what was not finite is left out."""
    runs = [
        {"recipe": "toy", "curves": {"mean return": {"xlabel": "step", "x": x, "y": y}}}
        for x, y in (([1, 2, 3], [None, 4, 6]), ([1, 2], [0, 2]))
    ]
    name = pictures.draw_curve("mean return", runs, Path("out"))
    assert name == "toy-seeds_mean_return.webp"
    assert Image.open(Path("out") / name).width > 500
