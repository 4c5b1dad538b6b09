"""The few plots that many recipes draw, and one style for all figures."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind people can tell apart; yellow is left out:
# it is too pale for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# So can these, without any color.
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^Dvx*"
POINTS_WITH_MARKERS = 25
CAPTION_WIDTH = 14  # characters above a small image


def use_style() -> None:
    """Sets the style of all figures drawn from now on; they go to files, never to a
    window."""
    matplotlib.use("Agg")
    plt.rcParams.update(
        {
            "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLORS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "image.cmap": "cividis",
            "font.size": 11,
            "axes.titlesize": 12,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "figure.max_open_warning": 0,
            "savefig.dpi": 130,
        }
    )


@dataclass
class Panel:
    """One pair of axes of `panels`: lines, points, bars and levels, by name."""

    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    lines: Mapping[str, Any] = field(default_factory=dict)
    """y over 1, 2, 3, ..., or a tuple (x, y). y is (points,), or (points, runs): then
    the line is the mean of the runs and the shade reaches from the lowest to the
    highest"""
    points: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """(x, y), both (points,)"""
    bars: Mapping[str, Any] = field(default_factory=dict)
    """a value, or one for each run: then the bar is their mean and each is a dot"""
    levels: Mapping[str, float] = field(default_factory=dict)
    """values to compare with: dashed lines across"""
    xscale: str = "linear"
    yscale: str = "linear"
    xlim: tuple[float | None, float | None] | None = None
    ylim: tuple[float | None, float | None] | None = None
    xticks: Sequence[float] | None = None
    number: str = "{:.3g}"
    """the format of what is written beside a bar"""


def panels(*shown: Panel, title: str = "") -> Figure:
    """One to three pairs of axes side by side. What has the same name in all of them
    has one legend for all, below. Names differ in color and in dashes or markers."""
    figure, grid = plt.subplots(
        1, len(shown), figsize=(max(8.5, 5 * len(shown)), 4), squeeze=False
    )
    for axes, panel in zip(grid[0], shown, strict=True):
        _draw(axes, panel)
    if title:
        figure.suptitle(title)

    legends = [axes.get_legend_handles_labels() for axes in grid[0]]
    if len(shown) > 1 and all(labels == legends[0][1] for _, labels in legends):
        figure.legend(*legends[0], loc="outside lower center", ncols=4)
    else:
        for axes, panel, (_, labels) in zip(grid[0], shown, legends, strict=True):
            if labels and panel.bars:  # no room among them
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
            elif labels:
                axes.legend(fontsize="small")
    return figure


def curves(
    lines: Mapping[str, Sequence[float]],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "epoch",
    yscale: str = "linear",
) -> Figure:
    """One line for each name over 1, 2, 3, ...: losses or accuracies by epoch."""
    figure, axes = plt.subplots(figsize=(8.5, 4))
    _draw(axes, Panel(title, xlabel, ylabel, lines, yscale=yscale))
    figure.legend(loc="outside right upper")
    return figure


def _draw(axes: plt.Axes, panel: Panel) -> None:
    for i, (name, values) in enumerate(panel.lines.items()):
        _draw_line(axes, i, name, values)
    for i, (name, (x, y)) in enumerate(panel.points.items(), start=len(panel.lines)):
        marker = MARKERS[i % len(MARKERS)]
        axes.scatter(x, y, s=25, marker=marker, color=_color(i), label=name, alpha=0.7)
    if panel.bars:
        _draw_bars(axes, panel.bars, panel.number)

    across = axes.axvline if panel.bars else axes.axhline
    for i, (name, level) in enumerate(panel.levels.items()):
        across(level, color="0.35", linestyle=DASHES[1 + i % 3], label=name)

    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.xscale != "linear":  # set anew it would lose its whole numbers
        axes.set_xscale(panel.xscale)
    if not panel.bars:
        axes.set_yscale(panel.yscale)
    if panel.xlim:
        axes.set(xlim=panel.xlim)
    if panel.ylim:
        axes.set(ylim=panel.ylim)
    if panel.xticks is not None:
        axes.set_xticks(panel.xticks, [f"{tick:g}" for tick in panel.xticks])
        axes.minorticks_off()


def _draw_line(axes: plt.Axes, i: int, name: str, values: Any) -> None:
    """A tuple is x and y; else x counts from 1. Few points get markers, many dashes."""
    if isinstance(values, tuple):
        x, y = (np.asarray(each, "float64") for each in values)
    else:
        y = np.asarray(values, "float64")
        x = np.arange(1, len(y) + 1)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    mean = y.mean(axis=1) if y.ndim == 2 else y
    few = len(x) <= POINTS_WITH_MARKERS
    axes.plot(
        x,
        mean,
        color=_color(i),
        marker=MARKERS[i % len(MARKERS)] if few else None,
        linestyle="-" if few else DASHES[i % len(DASHES)],
        label=name,
    )
    if y.ndim == 2:
        axes.fill_between(
            x, y.min(axis=1), y.max(axis=1), color=_color(i), alpha=0.2, linewidth=0
        )


def _draw_bars(axes: plt.Axes, bars: Mapping[str, Any], number: str) -> None:
    """Lying bars, the first one on top, each with its value."""
    for row, values in enumerate(map(np.atleast_1d, bars.values())):
        mean = float(np.mean(values))
        axes.barh(row, mean, color=_color(0))
        if len(values) > 1:
            axes.plot(values, np.full(len(values), row), "k.", markersize=4)
        axes.annotate(
            number.format(mean),
            (max(mean, *values), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def image_grid(
    images: np.ndarray,
    *,
    title: str,
    captions: Sequence[object] = (),
    columns: int = 10,
) -> Figure:
    """Images in [0, 1] of shape (n, height, width, 1 or 3), row by row, each with its
    caption."""
    rows = math.ceil(len(images) / columns)
    height = 1.2 if len(captions) else 1.0
    figure, grid = plt.subplots(
        rows, columns, figsize=(columns, rows * height + 0.5), squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, image in zip(grid.flat, images, strict=False):
        axes.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
    for axes, caption in zip(grid.flat, captions, strict=False):
        text = textwrap.fill(str(caption), CAPTION_WIDTH)
        axes.set_title(text, fontsize=9, pad=3)
    figure.suptitle(title)
    return figure


def image_rows(
    rows: Mapping[str, np.ndarray],
    *,
    title: str,
    columns: int = 10,
    captions: Sequence[object] = (),
) -> Figure:
    """A named row of images in [0, 1] for each entry, which may be (n, height, width, 1
    or 3) or flat (n, pixels) of square gray images; the first `columns` of each are
    shown. captions: above the columns."""
    longest = max(len(line) for name in rows for line in name.splitlines())
    figure, grid = plt.subplots(
        len(rows),
        1,
        figsize=(columns + max(1.2, 0.12 * longest), len(rows) + 0.6),
        squeeze=False,
    )
    for (name, images), axes in zip(rows.items(), grid[:, 0], strict=True):
        # One picture for the whole row: many small axes take seconds to lay out.
        axes.imshow(
            _side_by_side(np.asarray(images)[:columns], columns),
            cmap="gray",
            vmin=0,
            vmax=1,
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_anchor("W")  # the layout would cut names off otherwise
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    places = (np.arange(len(captions)) + 0.47) / columns
    for place, caption in zip(places, captions, strict=True):
        grid[0, 0].annotate(
            str(caption),
            (place, 1.04),
            xycoords="axes fraction",
            ha="center",
            va="bottom",
        )
    figure.suptitle(title)
    return figure


def _side_by_side(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, height, width, 1 or 3), or flat ones, in one picture with room for
    `columns` of them. Gray lies between them, so that white ones have an edge; beyond
    them it is white."""
    if images.ndim == 2:
        side = math.isqrt(images.shape[1])
        images = images.reshape(-1, side, side)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    count, _, width = images.shape[:3]
    gap = max(1, round(0.06 * width))
    step = width + gap
    shape = (images.shape[1], columns * step - gap, *images.shape[3:])
    picture = np.ones(shape, "float32")
    picture[:, : count * step] = 0.85
    for number in range(count):
        picture[:, number * step : number * step + width] = images[number]
    return picture


def picture_table(
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    title: str,
    captions: Sequence[str] = (),
    width: float = 10.5,
) -> Figure:
    """Large pictures in [0, 1], (height, width, 3) each, of any sizes: a named row for
    each entry, captions above the columns. A row may be shorter than the others. width:
    of all, in inches."""
    columns = max(len(row) for row in rows.values())
    side = width / columns
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(width + 0.4, side * len(rows) + 0.8), squeeze=False
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    for axes, caption in zip(grid[0], captions, strict=False):
        axes.set_title(caption, fontsize=11)
    for (name, row), line in zip(rows.items(), grid, strict=True):
        line[0].set_ylabel(name)
        for axes, picture in zip(line, row, strict=False):
            axes.imshow(picture, vmin=0, vmax=1)
    figure.suptitle(title)
    return figure


def heat_maps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    title: str,
    captions: Sequence[str] = (),
    overlay: bool = False,
) -> Figure:
    """One row for each image (n, height, width, 1 or 3) in [0, 1]: the image with its
    caption, then for each named method its map (n, height, width). overlay: beside each
    map, headed "over the picture", the map laid over the image.

    Maps are non-negative or clipped to that; each is divided by its highest value, so
    that the color bar on the right reads "of the map's highest".
    """
    columns = 1 + len(maps) * (2 if overlay else 1)
    width = images.shape[2] / images.shape[1]
    step = width + 0.06
    drop = 1.2 if captions else 1.06
    figure, axes = plt.subplots(
        figsize=(1.6 * step * columns + 0.8, 1.6 * drop * len(images) + 0.7)
    )
    axes.axis("off")

    # All in one pair of axes: a grid of them takes seconds to lay out.
    def show(picture: np.ndarray, row: int, column: int, **how: Any) -> Any:
        left, top = column * step, -row * drop
        return axes.imshow(
            picture, vmin=0, vmax=1, extent=(left, left + width, top - 1, top), **how
        )

    def write(text: str, row: int, column: int, size: int) -> None:
        place = column * step + width / 2, 0.03 - row * drop
        axes.text(*place, text, fontsize=size, ha="center", va="bottom")

    for i, image in enumerate(images):
        picture = np.squeeze(image)
        show(picture, i, 0, cmap="gray")
        if captions:
            write(captions[i], i, 0, 9)
        places = iter(range(1, columns))
        for name, values in maps.items():
            heat = np.maximum(values[i], 0)
            heat = heat / (heat.max() or 1)
            place = next(places)
            drawn = show(heat, i, place)
            if i == 0:
                write(textwrap.fill(name, int(16 * width)), 0, place, 10)
            if overlay:
                place = next(places)
                if i == 0:
                    write("over the\npicture", 0, place, 10)
                show(picture, i, place, cmap="gray")
                show(heat, i, place, alpha=0.65)
    axes.set(xlim=(0, columns * step), ylim=(-drop * len(images), 0), aspect="equal")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="of the map's highest")
    figure.suptitle(title)
    return figure


def object_maps(
    images: np.ndarray,
    masks: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    names: Sequence[str],
    title: str,
) -> Figure:
    """A row for each of the objects `names`, a column for each named method: its map (n,
    height, width) laid over the image (n, height, width, 3) in [0, 1], and the outline
    of the object's mask (n, height, width)."""
    figure, grid = plt.subplots(
        len(images), len(maps), figsize=(5.5 * len(maps), 6), squeeze=False
    )
    for (method, of_objects), column in zip(maps.items(), grid.T, strict=True):
        column[0].set_title(method)
        for image, mask, values, axes in zip(
            images, masks, of_objects, column, strict=True
        ):
            heat = np.maximum(values, 0)
            heat = heat / (heat.max() or 1)
            axes.imshow(image)
            drawn = axes.imshow(heat, alpha=0.6, vmin=0, vmax=1)
            axes.contour(mask, levels=[0.5], colors="white")
            axes.set(xticks=[], yticks=[])
    for name, axes in zip(names, grid[:, 0], strict=True):
        axes.set_ylabel(name)
    figure.colorbar(drawn, ax=grid, label="of the map's highest", shrink=0.8)
    figure.suptitle(title)
    return figure


def score_table(
    scores: Mapping[str, Mapping[str, float]],
    measures: Mapping[str, int],
    *,
    title: str,
) -> Figure:
    """A row for each named entry, a column for each measure, the numbers written in.

    measures: by name 1 where higher is better, -1 where lower is, 0 where neither is.
        The brighter a cell, the better it is among those of its column; the words of a
        measure's name stand below each other.
    """
    values = np.array(
        [[row[measure] for measure in measures] for row in scores.values()]
    )
    better = values * list(measures.values())
    spread = np.ptp(better, axis=0)
    shades = (better - better.min(axis=0)) / np.where(spread > 0, spread, 1)
    figure, axes = plt.subplots(
        figsize=(1.0 * len(measures) + 2.5, 0.4 * len(scores) + 1.6)
    )
    axes.imshow(shades, aspect="auto", vmin=0, vmax=1)
    for (row, column), shade in np.ndenumerate(shades):
        color = "black" if shade > 0.5 else "white"
        axes.text(
            column,
            row,
            f"{values[row, column]:.2f}",
            ha="center",
            va="center",
            color=color,
        )
    axes.set_xticks(
        range(len(measures)), [name.replace(" ", "\n") for name in measures]
    )
    axes.set_yticks(range(len(scores)), list(scores))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_title(title)
    return figure
