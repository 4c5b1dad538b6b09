"""Measures recipes over seeds and keeps what was found: results/NAME.json and small
pictures."""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.catalogue import Recipe
from deep_learning_recipes.files import replacing

PICTURE_BYTES = 150_000
STAMP = (
    "code.sha256"  # in the folder of a run that is finished, but not yet in the results
)
TABLE_BEGINS = "<!-- table of recipes: written by `python -m recipes table` -->"
TABLE_ENDS = "<!-- end of the table of recipes -->"


def measure(recipes: list[Recipe], *, seeds: int, preset: str, out: Path) -> int:
    """Runs each recipe once for each seed 0, 1, ... and writes `out`/NAME.json with
    pictures.

    A seed that an interrupted call finished is not run again by the next one, unless
    the recipe's file, the package or the preset has changed. Returns 0, or 1 if a run
    failed or a claim fell.
    """
    code = 0
    for recipe in recipes:
        records = []
        for seed in range(seeds):
            print(f"{recipe.name}: seed {seed} ({seed + 1} of {seeds})", flush=True)
            record = _run(recipe, seed, preset)
            if record is None:
                return 1
            records.append(record)
            fell = [claim["text"] for claim in record["claims"] if not claim["holds"]]
            code = 1 if fell else code
            for text in fell:
                print(f"  FELL: {text}")
        folder = _folder(recipe, 0, preset)
        pictures = [
            keep_picture(folder / name, out, recipe.name)
            for name in records[0]["figures"]
        ]
        pictures += [
            draw_curve(name, records, out) for name in records[0].get("curves", ())
        ]
        summary = {**summarize(records, preset), "figures": pictures}
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        with replacing(out / f"{recipe.name}.json") as file:
            file.write(text.encode())
        print(f"{recipe.name}: {out / recipe.name}.json")
        for seed in range(seeds):
            (_folder(recipe, seed, preset) / STAMP).unlink()
    return code


def _folder(recipe: Recipe, seed: int, preset: str) -> Path:
    return Path("runs", "results", recipe.name, f"{preset}-{seed}")


def _run(recipe: Recipe, seed: int, preset: str) -> dict[str, Any] | None:
    """The record of one finished run; None if it failed or a metric of it is no
    number."""
    folder = _folder(recipe, seed, preset)
    stamp, code = folder / STAMP, _digest(recipe)
    if stamp.exists() and stamp.read_text() == code:
        return json.loads((folder / "metrics.json").read_text())
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", f"recipes.{recipe.name}", "--preset", preset]
    command += ["--seed", str(seed), "--out", str(folder)]
    started = time.monotonic()
    # Its output goes to the terminal: that is the progress. Its errors are shown if it
    # fails.
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    print(f"  {time.monotonic() - started:.0f} s", flush=True)
    if finished.returncode not in (0, 1) or not (folder / "metrics.json").exists():
        print(finished.stderr[-4000:], file=sys.stderr)
        return None
    record = json.loads((folder / "metrics.json").read_text())
    if not record["finished"]:
        print(finished.stderr[-2000:], file=sys.stderr)
        return None
    missing = [
        name for name, metric in record["metrics"].items() if metric["value"] is None
    ]
    if missing:
        print(
            f"{recipe.name}, seed {seed}: not a number: {', '.join(missing)}",
            file=sys.stderr,
        )
        return None
    stamp.write_text(code)
    return record


def _digest(recipe: Recipe) -> str:
    """Of the code that a run depends on: the recipe's and the package's."""
    package = Path(__file__).parent.rglob("*.py")
    texts = [path.read_bytes() for path in (recipe.path, *sorted(package))]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def summarize(records: list[dict[str, Any]], preset: str) -> dict[str, Any]:
    """One record from those of all seeds: each metric's values, mean and sample
    standard deviation; each claim with how often it held."""
    first = records[0]
    metrics = {}
    for name, metric in first["metrics"].items():
        values = [record["metrics"][name]["value"] for record in records]
        metrics[name] = {
            "values": values,
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "unit": metric["unit"],
        }
    claims = [
        {
            "text": claim["text"],
            "held": sum(record["claims"][index]["holds"] for record in records),
            "of": len(records),
            "measured": [record["claims"][index]["measured"] for record in records],
        }
        for index, claim in enumerate(first["claims"])
    ]
    return {
        "recipe": first["recipe"],
        "preset": preset,
        "seeds": [record["seed"] for record in records],
        "command": f"python -m recipes results {first['recipe']} --seeds {len(records)}"
        + ("" if preset == "default" else f" --preset {preset}"),
        "seconds": [record["seconds"] for record in records],
        "config": first["config"],
        "metrics": metrics,
        "claims": claims,
        "hardware": first["hardware"],
        "versions": first["versions"],
    }


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
    from matplotlib import pyplot as plt

    from deep_learning_recipes import figures

    figures.use_style()
    curves = [record["curves"][name] for record in records]
    first, length = curves[0], min(len(curve["x"]) for curve in curves)
    values = np.array(
        [curve["y"][:length] for curve in curves], "float64"
    )  # None becomes NaN
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(curves) - 1))
    figure, axes = plt.subplots(figsize=(8.5, 4))
    x = first["x"][:length]
    axes.plot(x, mean, label="mean")
    axes.fill_between(
        x, mean - spread, mean + spread, alpha=0.25, label="standard deviation"
    )
    axes.plot(x, values.T, color="black", alpha=0.25, linewidth=0.7)
    axes.set(xlabel=first["xlabel"], ylabel=name)
    axes.set_title(f"{records[0]['recipe']}: {len(records)} seeds")
    axes.legend()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seeds_{name.replace(' ', '_')}.png"
        figure.savefig(path)
        plt.close(figure)
        return keep_picture(path, out, records[0]["recipe"])


def recipes_table(results: Path) -> str:
    """The table of all recipes by theme, with what `results` holds for each."""
    recipes = catalogue.find_recipes()
    lines = []
    for theme, about in catalogue.THEMES.items():
        shelf = [recipe for recipe in recipes if recipe.theme == theme]
        if not shelf:
            continue
        lines += [f"**{theme}**: {about}", ""]
        lines += [
            "| recipe | | measured (mean ± std over seeds) | claims held | seconds |"
        ]
        lines += ["| --- | --- | --- | --- | --- |"]
        for recipe in shelf:
            path = recipe.path.relative_to(catalogue.package_folder().parent).as_posix()
            cells = _result_cells(results / f"{recipe.name}.json")
            lines.append(f"| [`{recipe.name}`]({path}) | {recipe.title} | {cells} |")
        lines.append("")
    return "\n".join(lines).strip()


def _result_cells(path: Path) -> str:
    if not path.exists():
        return " | | "
    result = json.loads(path.read_text())
    name, metric = next(iter(result["metrics"].items()))
    value = f"{metric['mean']:.4g} ± {metric['std']:.2g} {metric['unit']}".strip()
    held = sum(claim["held"] for claim in result["claims"])
    of = sum(claim["of"] for claim in result["claims"])
    seconds = statistics.fmean(result["seconds"])
    return f"{name.replace('_', ' ')} {value} | {held} of {of} | {seconds:.0f}"


def update_readme(readme: Path, results: Path, *, write: bool) -> bool:
    """Puts the table of recipes between its marks in the README; True if it was
    stale."""
    if not readme.exists():
        raise UsageError(f"{readme} is not here; run this in the project's folder")
    text = readme.read_text(encoding="utf-8")
    if TABLE_BEGINS not in text or TABLE_ENDS not in text:
        raise UsageError(
            f"{readme}: the marks {TABLE_BEGINS!r} and {TABLE_ENDS!r} are not in it"
        )
    before, _, rest = text.partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    fresh = f"{before}{TABLE_BEGINS}\n\n{recipes_table(results)}\n\n{TABLE_ENDS}{after}"
    if write and fresh != text:
        readme.write_text(fresh, encoding="utf-8")
    return fresh != text
