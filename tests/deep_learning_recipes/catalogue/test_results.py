"""Results over seeds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.catalogue import pictures, results
from deep_learning_recipes.startup import CLAIM_FAILED

RECORDS = [
    {
        "recipe": "toy",
        "seed": seed,
        "seconds": 10.0 + seed,
        "metrics": {"accuracy": {"value": value, "unit": "", "timing": False}},
        "claims": [
            {"text": "It wins", "holds": holds, "measured": f"{value} against 0.5"}
        ],
        "figures": ["curve.png"],
        "config": {"epochs": 3},
        "hardware": {"cores": 2},
        "versions": {"keras": "3"},
    }
    for seed, value, holds in [(0, 0.5, True), (1, 0.6, False), (2, 0.7, True)]
]


def test_a_summary_has_mean_standard_deviation_and_how_often_claims_held():
    summary = results.summarize(RECORDS, "default")
    accuracy = summary["metrics"]["accuracy"]
    assert accuracy["values"] == [0.5, 0.6, 0.7]
    assert accuracy["mean"] == pytest.approx(0.6)
    assert accuracy["std"] == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    (claim,) = summary["claims"]
    assert (claim["held"], claim["of"]) == (2, 3)
    assert claim["measured"] == [
        "0.5 against 0.5",
        "0.6 against 0.5",
        "0.7 against 0.5",
    ]
    assert summary["seeds"] == [0, 1, 2]
    assert summary["seconds"] == [10.0, 11.0, 12.0]


def test_measuring_goes_on_where_it_was_interrupted(monkeypatch, capsys):
    recipe = catalogue.find_recipe("lenet")
    ran = []

    def run(command, **options):
        arguments = dict(zip(command[3::2], command[4::2], strict=True))
        seed, folder = int(arguments["--seed"]), Path(arguments["--out"])
        ran.append(seed)
        if seed == 1 and len(ran) == 2:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        Image.new("RGB", (50, 50)).save(folder / "curve.png")
        record = {**RECORDS[seed], "finished": True}
        (folder / "metrics.json").write_text(json.dumps(record))
        return type("Finished", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(results.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        results.measure([recipe], seeds=3, preset="default", out=Path("results"))
    assert ran == [0, 1]
    Path("results").mkdir()
    Path("results/lenet-curve.png").touch()  # of an earlier measurement
    code = results.measure([recipe], seeds=3, preset="default", out=Path("results"))
    assert ran == [0, 1, 1, 2]
    assert code == 1  # the claim of seed 1 failed
    assert "FAILS: It wins" in capsys.readouterr().out
    kept = json.loads(Path("results/lenet.json").read_text())
    assert kept["metrics"]["accuracy"]["values"] == [0.5, 0.6, 0.7]
    assert kept["figures"] == ["lenet-curve.webp"]
    assert Path("results/lenet-curve.webp").exists()
    assert not Path("results/lenet-curve.png").exists()
    # What is in the results is measured anew when asked for again.
    ran.clear()
    results.measure([recipe], seeds=1, preset="default", out=Path("results"))
    assert ran == [0]


def test_runs_of_other_code_do_not_count(monkeypatch):
    package = Path("kitchen")
    (package / "run").mkdir(parents=True)
    (package / "run" / "loop.py").write_text("before")
    monkeypatch.setattr(results, "PACKAGE", package)
    recipe = catalogue.find_recipe("lenet")
    before = results._digest(recipe)

    another = dataclasses.replace(recipe, path=catalogue.find_recipe("mlp").path)
    assert results._digest(another) != before
    (package / "run" / "loop.py").write_text("after")
    assert results._digest(recipe) != before


def test_the_whole_package_counts_as_code():
    assert (results.PACKAGE / "training").is_dir()


def test_a_run_that_fails_is_shown_and_writes_no_results(monkeypatch, capsys):
    failed = type("Finished", (), {"returncode": 2, "stderr": "error: no such thing"})
    monkeypatch.setattr(results.subprocess, "run", lambda *a, **k: failed)
    recipe = catalogue.find_recipe("lenet")
    assert (
        results.measure([recipe], seeds=1, preset="default", out=Path("results")) == 1
    )
    assert "error: no such thing" in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_metric_that_is_no_number_is_named(monkeypatch, capsys):
    def run(command, **options):
        folder = Path(command[-1])
        folder.mkdir(parents=True)
        metrics = {"accuracy": {"value": None, "unit": "", "timing": False}}
        record = {**RECORDS[0], "metrics": metrics, "finished": True}
        (folder / "metrics.json").write_text(json.dumps(record))
        return type("Finished", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(results.subprocess, "run", run)
    recipe = catalogue.find_recipe("lenet")
    assert (
        results.measure([recipe], seeds=1, preset="default", out=Path("results")) == 1
    )
    assert "lenet, seed 0: not a number: accuracy" in capsys.readouterr().err
    assert not Path("results").exists()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_committed_results_fit_the_recipes(path):
    result = json.loads(path.read_text())
    recipe = catalogue.find_recipe(path.stem)
    assert result["recipe"] == recipe.name
    assert len(result["seeds"]) >= 3
    assert all(claim["held"] == claim["of"] for claim in result["claims"])
    source = recipe.path.read_text()
    for name in result["config"]:
        assert f"    {name}: " in source, "the recipe has changed: measure it again"
    for picture in result["figures"]:
        assert (path.parent / picture).stat().st_size <= pictures.MOST_BYTES


def test_a_recipe_is_measured_by_one_call_at_a_time(monkeypatch):
    recipe = catalogue.find_recipe("lenet")

    def run(command, **options):
        with pytest.raises(UsageError, match="lenet is being measured already"):
            results.measure([recipe], seeds=1, preset="default", out=Path("other"))
        return type("Finished", (), {"returncode": 2, "stderr": ""})

    monkeypatch.setattr(results.subprocess, "run", run)
    assert results.measure([recipe], seeds=1, preset="default", out=Path("it")) == 1
    assert not Path("other").exists()


def test_a_failed_claim_is_a_result_and_a_crash_is_none(monkeypatch):
    recipe = catalogue.find_recipe("lenet")

    def run(command, **options):
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir(parents=True)
        Image.new("RGB", (50, 50)).save(folder / "curve.png")
        (folder / "metrics.json").write_text(
            json.dumps({**RECORDS[1], "finished": True})
        )
        return type("Finished", (), {"returncode": codes.pop(), "stderr": "it crashed"})

    monkeypatch.setattr(results.subprocess, "run", run)
    codes = [CLAIM_FAILED, 1]
    results.measure([recipe], seeds=1, preset="default", out=Path("results"))
    assert not Path("results").exists()
    results.measure([recipe], seeds=1, preset="default", out=Path("results"))
    assert Path("results/lenet.json").exists()
