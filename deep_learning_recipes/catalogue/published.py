"""What the papers say of their networks on ImageNet, and the table of what the recipes
measured of them: results/architectures.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deep_learning_recipes import as_metric
from deep_learning_recipes.files import replacing

TABLE = "architectures.md"
HEADER = """# Convnets side by side

For one image. At a paper's own size nothing is trained here, and the error is the
paper's on ImageNet (ILSVRC, top 5). The small forms learn `recolored_photos` in few
epochs by the same optimizer; epochs and size of the pictures are each recipe's own, so
that accuracies are to be compared within a recipe. Milliseconds are medians on the
processor that the results were measured on. Written by `python -m recipes table` from
the files beside this one.

"""
COLUMNS = (
    "network",
    "recipe",
    "parameters",
    "multiply-adds",
    "activations",
    "ms, batch 1",
    "ms, batch 32",
    "accuracy here",
    "layers",
    "top-5 error, paper",
)


@dataclass(frozen=True)
class Published:
    """What a paper says of a network on ImageNet's 1000 classes (ILSVRC)."""

    year: int
    weight_layers: int
    """convolutional and dense, on the longest way"""
    top5_error: float | None
    """in percent; None: not in the paper"""
    source: str


# Errors of challenges are those of several networks together, on many crops: what the
# courses' table has. Those marked so are of one network and one crop, some points more.
PUBLISHED = {
    "AlexNet": Published(
        2012, 8, 16.4, "Krizhevsky et al., 2012, table 2: five networks, ten crops"
    ),
    "VGG-16": Published(
        2014, 16, 7.2, "Simonyan and Zisserman, 2014, table 5: one network, many crops"
    ),
    "VGG-19": Published(
        2014, 19, 7.3, "Simonyan and Zisserman, 2014, table 7: seven networks"
    ),
    "GoogLeNet": Published(
        2014, 22, 6.7, "Szegedy et al., 2014, table 2: seven networks, 144 crops"
    ),
    "ResNet-50": Published(
        2015, 50, 5.25, "He et al., 2015, table 4: one network, many crops"
    ),
    "ResNet-152": Published(
        2015, 152, 3.57, "He et al., 2015, table 5: six networks, many crops"
    ),
    "DenseNet-121": Published(
        2016, 121, 7.71, "Huang et al., 2016, table 3: one network, one crop"
    ),
    "DenseNet-201": Published(
        2016, 201, 6.34, "Huang et al., 2016, table 3: one network, one crop"
    ),
    "SqueezeNet": Published(
        2016, 18, 19.7, "Iandola et al., 2016, table 2: one network, one crop"
    ),
}


def short(count: int, unit: str = "") -> str:
    """60965224 as 61 M; with a unit, 3600 as 3.6 kB."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}{unit}"
    return f"{count} {unit}".strip()


def architectures_table(results: Path) -> str:
    """The networks of all recipes that called `architectures.report`, by parameters."""
    rows = []
    for path in sorted(results.glob("*.json")):
        metrics = json.loads(path.read_text())["metrics"]
        for name in metrics:
            network = name.removeprefix("activations_")
            if network != name:
                rows.append((path.stem, network, metrics))
    rows.sort(key=lambda row: row[2][f"parameters_{row[1]}"]["mean"])
    lines = [row_of(COLUMNS), row_of(["---"] * len(COLUMNS))]
    lines += [_line(*row) for row in rows]

    sources = [f"- {name}: {each.source}." for name, each in PUBLISHED.items()]
    text = HEADER + "\n".join(lines) + "\n\nErrors of the papers:\n\n"
    return text + "\n".join(sources) + "\n"


def _line(recipe: str, network: str, metrics: dict[str, Any]) -> str:
    def mean(name: str, form: str) -> str:
        return form.format(metrics[name]["mean"]) if name in metrics else ""

    names = {as_metric(name): name for name in PUBLISHED}
    title = names.get(network)
    published = PUBLISHED[title] if title else None
    error = published.top5_error if published else None
    cells = [
        title or network.replace("_", " "),
        f"`{recipe}`",
        short(round(metrics[f"parameters_{network}"]["mean"])),
        short(round(metrics[f"multiply_adds_{network}"]["mean"])),
        short(round(1e6 * metrics[f"activations_{network}"]["mean"]), "B"),
        mean(f"ms_per_image_{network}_batch_1", "{:.3g}"),
        mean(f"ms_per_image_{network}_batch_32", "{:.3g}"),
        mean(f"test_accuracy_{network}", "{:.3f}"),
        str(published.weight_layers) if published else "",
        f"{error} %" if error else "",
    ]
    return row_of(cells)


def row_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def update_architectures(results: Path, *, write: bool) -> bool:
    """Writes the table into `results`; True if it was stale."""
    path = results / TABLE
    text = architectures_table(results)
    stale = not path.exists() or path.read_text(encoding="utf-8") != text
    if stale and write:
        with replacing(path) as file:
            file.write(text.encode())
    return stale
