"""Measures recipes over seeds and keeps what was found: results/NAME.json and small
pictures."""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock

from deep_learning_recipes import UsageError
from deep_learning_recipes.catalogue.headers import Recipe
from deep_learning_recipes.catalogue.pictures import (
    draw_curve,
    keep_picture,
    remove_stale,
)
from deep_learning_recipes.files import replacing
from deep_learning_recipes.startup import CLAIM_FAILED

PACKAGE = Path(__file__).parents[1]
# In the folder of a run that is finished, but not yet in the results.
STAMP = "code.sha256"


def measure(recipes: list[Recipe], *, seeds: int, preset: str, out: Path) -> int:
    """Runs each recipe once for each seed 0, 1, ... and writes `out`/NAME.json with
    pictures.

    A seed that an interrupted call finished is not run again by the next one, unless
    the recipe's file, the package or the preset has changed. Returns 0, or 1 if a run
    or a claim failed. Raises UsageError where another call measures the same recipe.
    """
    code = 0
    for recipe in recipes:
        runs = _folder(recipe, 0, preset).parent
        runs.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(runs / ".lock", timeout=0):
                records = _measure(recipe, seeds, preset, out)
        except filelock.Timeout as error:
            raise UsageError(
                f"{recipe.name} is being measured already, in {runs}; wait for it"
            ) from error
        if records is None:
            return 1
        if any(failed(claim) for record in records for claim in record["claims"]):
            code = 1
    return code


def _measure(
    recipe: Recipe, seeds: int, preset: str, out: Path
) -> list[dict[str, Any]] | None:
    """The records of all seeds; None if a run failed."""
    records = []
    for seed in range(seeds):
        print(f"{recipe.name}: seed {seed} ({seed + 1} of {seeds})", flush=True)
        record = _run(recipe, seed, preset)
        if record is None:
            return None
        records.append(record)
        for claim in record["claims"]:
            if failed(claim):
                print(f"  FAILS: {claim['text']}")

    pictures = _keep_pictures(recipe, records, preset, out)
    summary = {**summarize(records, preset), "figures": pictures}
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    with replacing(out / f"{recipe.name}.json") as file:
        file.write(text.encode())
    remove_stale(out, recipe.name, pictures)
    print(f"{recipe.name}: {out / recipe.name}.json")

    for seed in range(seeds):
        (_folder(recipe, seed, preset) / STAMP).unlink()
    return records


def failed(claim: dict[str, Any]) -> bool:
    """Whether it was judged, and did not hold."""
    return claim["holds"] is False


def judged(claim: dict[str, Any]) -> bool:
    return claim["holds"] is not None


def _keep_pictures(
    recipe: Recipe, records: list[dict[str, Any]], preset: str, out: Path
) -> list[str]:
    """Writes the first seed's figures and the curves of all seeds; returns their
    names."""
    out.mkdir(parents=True, exist_ok=True)
    first, folder = records[0], _folder(recipe, 0, preset)
    names = [keep_picture(folder / name, out, recipe.name) for name in first["figures"]]
    return names + [draw_curve(name, records, out) for name in first.get("curves", ())]


def _folder(recipe: Recipe, seed: int, preset: str) -> Path:
    return Path("runs", "results", recipe.name, f"{preset}-{seed}")


def _run(recipe: Recipe, seed: int, preset: str) -> dict[str, Any] | None:
    """The record of one finished run; None if it failed or a metric of it is no
    number."""
    folder = _folder(recipe, seed, preset)
    stamp = folder / STAMP
    code = _digest(recipe)
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
    if (
        finished.returncode not in (0, CLAIM_FAILED)
        or not (folder / "metrics.json").exists()
    ):
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
    files = (recipe.path, *sorted(PACKAGE.rglob("*.py")))
    texts = [path.read_bytes() for path in files]
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
    # One that was not judged neither held nor failed.
    verdicts = [
        [
            record["claims"][i]["holds"]
            for record in records
            if judged(record["claims"][i])
        ]
        for i in range(len(first["claims"]))
    ]
    claims = [
        {
            "text": claim["text"],
            "held": sum(verdicts[index]),
            "of": len(verdicts[index]),
            "measured": [record["claims"][index]["measured"] for record in records],
        }
        for index, claim in enumerate(first["claims"])
    ]
    command = f"python -m recipes results {first['recipe']} --seeds {len(records)}"
    return {
        "recipe": first["recipe"],
        "preset": preset,
        "seeds": [record["seed"] for record in records],
        "command": command + ("" if preset == "default" else f" --preset {preset}"),
        "seconds": [record["seconds"] for record in records],
        "config": first["config"],
        "metrics": metrics,
        "claims": claims,
        "hardware": first["hardware"],
        "versions": first["versions"],
    }
