"""What every recipe promises. A new file in a theme folder comes under these tests by
itself."""

import ast
import json
import math
import symtable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, TWICE_TODAY, run_in_process
from fresh import Finished, assert_agree
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from deep_learning_recipes import catalogue

RECIPES = catalogue.find_recipes(ROOT / "recipes")


def each_recipe(test):
    """Parametrizes a test over all recipes; one worker runs all tests of a recipe
    (conftest)."""
    return pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)(
        test
    )


def test_names_are_unique_and_every_file_is_in_a_theme():
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names) > 0
    files = {path for path in (ROOT / "recipes").rglob("*.py") if path.name[0] != "_"}
    assert files == {recipe.path for recipe in RECIPES}
    packages = {path.parent.name for path in (ROOT / "recipes").rglob("__init__.py")}
    assert packages == {"recipes"}


EXPERIMENT = "# The experiment"


@each_recipe
def test_it_copies_clean(recipe):
    """What stands above the banner `# The experiment` needs third-party packages only.
    A file without banners is judged by all that stands outside of `main`."""
    source = recipe.path.read_text()
    tree = ast.parse(source)
    kitchen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module.split(".")[0] == "deep_learning_recipes":
                kitchen |= {alias.asname or alias.name for alias in node.names}
            assert node.module.split(".")[0] != "recipes", "a recipe imports a recipe"
        elif isinstance(node, ast.Import):
            packages = {alias.name.split(".")[0] for alias in node.names}
            assert not packages & {"recipes", "deep_learning_recipes"}
    assert {"Run", "cli"} <= kitchen

    banner = banner_of(source)
    used = set()
    for table in symtable.symtable(source, recipe.name, "exec").get_children():
        is_copied = (
            table.get_lineno() < banner if banner else table.get_name() != "main"
        )
        if is_copied:
            used |= global_names(table)
    for node in tree.body:
        is_program = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        is_copied = not is_program and (not banner or node.lineno < banner)
        if is_copied and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            used |= {
                each.id
                for each in ast.walk(node)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
            }
    assert not used & kitchen, "what is copied uses names of the kitchen"


def banner_of(source):
    """The line at which the experiment begins; 0 where a file has no banners yet. With
    them it has both, the idea first, and `main` stands below."""
    lines = source.splitlines()
    (experiment,) = [
        number
        for number, line in enumerate(lines, start=1)
        if line.startswith(EXPERIMENT)
    ] or [0]
    if experiment:
        above = [line for line in lines[:experiment] if line.startswith("# The idea")]
        assert len(above) == 1
        assert "\ndef main(" not in "\n".join(lines[:experiment])
    return experiment


@pytest.mark.parametrize(
    "misplaced",
    [
        "x = data.load",
        "def f():\n    return data.load",
        "class A:\n    def g(self):\n        return [data for _ in ()]",
    ],
)
def test_what_does_not_copy_clean_is_found(tmp_path, misplaced):
    source = f"""
from deep_learning_recipes import data
from deep_learning_recipes.run import Run, cli

# The idea
{misplaced}

# The experiment
def main(config, run):
    return data
"""
    path = tmp_path / "it.py"
    path.write_text(source)
    recipe = SimpleNamespace(path=path, name="it")
    with pytest.raises(AssertionError, match="names of the kitchen"):
        test_it_copies_clean(recipe)
    path.write_text(source.replace(misplaced, "pass"))
    test_it_copies_clean(recipe)


def global_names(table):
    """The names of the module that a class or function uses, itself or within."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return own.union(*(global_names(child) for child in table.get_children()))


@each_recipe
def test_no_lambda_layers_no_pickle_no_eval(recipe):
    tree = ast.parse(recipe.path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    assert not {"Lambda", "pickle", "eval", "exec"} & names
    assert not {"Lambda", "pickle"} & attributes


@each_recipe
def test_every_hyperparameter_is_documented_and_in_the_help(recipe, capsys):
    tree = ast.parse(recipe.path.read_text())
    (config,) = [
        n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config"
    ]
    fields = [node.target.id for node in config.body if isinstance(node, ast.AnnAssign)]
    texts = [node for node in config.body if isinstance(node, ast.Expr)]
    assert len(fields) == len(texts) > 0
    assert [type(node) for node in config.body] == [ast.AnnAssign, ast.Expr] * len(
        fields
    )

    assert run_in_process(recipe.name, Path("unused"), "--help").code == 0
    text = capsys.readouterr().out
    assert recipe.title in text
    for field in [
        *fields,
        "preset",
        "seed",
        "out",
        "resume",
        "strategy",
        "precision",
        "export",
    ]:
        flag = field.replace("_", "-")
        assert (
            f"--{flag}" in text or f"--no-{flag}" in text
        )  # what is on can be turned off
    assert not Path("unused").exists()


@pytest.fixture(scope="module")
def quick_runs(recipe_processes, tmp_path_factory):
    """The quick preset of a recipe, run once for all tests that look at what it left."""
    finished = {}

    def run(name):
        if name not in finished:
            folder = tmp_path_factory.mktemp(name)
            finished[name] = Quick(
                recipe_processes.run(
                    name,
                    "--preset",
                    "quick",
                    "--out",
                    str(folder / "run"),
                    "--export",
                    str(folder / "models"),
                ),
                folder / "run",
            )
        return finished[name]

    return run


@dataclass
class Quick:
    """A quick run and its folder."""

    finished: Finished
    folder: Path

    @property
    def record(self):
        path = self.folder / "metrics.json"
        assert path.exists(), self.finished.output[-3000:]
        return json.loads(path.read_text())


@each_recipe
def test_the_quick_preset_runs_and_all_claims_hold(recipe, quick_runs):
    quick = quick_runs(recipe.name)
    record = quick.record
    assert record["finished"], quick.finished.output[-3000:]
    assert len(record["claims"]) >= 2
    failed = [claim for claim in record["claims"] if not claim["holds"]]
    assert failed == []
    assert all(
        any(c.isdigit() for c in claim["measured"]) for claim in record["claims"]
    )
    assert quick.finished.code == 0
    assert record["metrics"]
    assert all(math.isfinite(metric["value"]) for metric in record["metrics"].values())
    assert quick.finished.gigabytes < 2


@each_recipe
def test_the_progress_says_which_of_how_many_trainings(recipe, quick_runs):
    trainings = quick_runs(recipe.name).record["trainings"]
    if trainings["begun"] > 1:
        assert trainings["planned"] == trainings["begun"]


@each_recipe
def test_the_figures_show_something(recipe, quick_runs):
    quick = quick_runs(recipe.name)
    assert quick.record["figures"]
    for name in quick.record["figures"]:
        picture = np.asarray(Image.open(quick.folder / name).convert("L"))
        assert min(picture.shape) >= 200
        # Text and axes alone cover less than this share of a figure.
        assert np.mean(picture < 250) > 0.02
        assert len(np.unique(picture)) > 16


@each_recipe
def test_the_export_is_read_without_keras_and_agrees(recipe, quick_runs, export_reader):
    quick = quick_runs(recipe.name)
    (path,) = quick.record["exports"]
    ((example, expected),) = quick.finished.exports
    assert Path(path).parent.name == recipe.name
    example = example if isinstance(example, dict) else {"input": example}
    found, outputs = export_reader.read(Path(path), example)
    assert found == []
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        assert_agree(outputs[name], value)


@each_recipe
def test_the_export_comes_with_what_a_server_needs(recipe, quick_runs):
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    version = Path(quick_runs(recipe.name).record["exports"][0])
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    records = [
        PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))
    ]
    requests = [record.predict_log.request for record in records]
    recorded = {
        request.model_spec.signature_name: set(request.inputs) for request in requests
    }
    (graph,) = SavedModel.FromString(
        (version / "saved_model.pb").read_bytes()
    ).meta_graphs
    assert set(recorded) == set(graph.signature_def) - {"__saved_model_init_op"}
    (instance,) = json.loads((version.parent / "request.json").read_text())["instances"]
    assert set(instance) == recorded["serving_default"]
    config = (version.parents[1] / "models.config").read_text()
    assert f'base_path: "/models/{recipe.name}"' in config


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            recipe, marks=() if recipe in RECIPES[TWICE_TODAY] else pytest.mark.long
        )
        for recipe in RECIPES
    ],
    ids=lambda recipe: recipe.name,
)
def test_the_same_seed_gives_the_same_metrics(
    recipe, quick_runs, recipe_processes, tmp_path
):
    first = quick_runs(recipe.name).record
    again = tmp_path / "again"
    recipe_processes.run(recipe.name, "--preset", "quick", "--out", str(again))
    second = json.loads((again / "metrics.json").read_text())
    for name, metric in first["metrics"].items():
        if not metric["timing"]:
            value = second["metrics"][name]["value"]
            assert value == pytest.approx(metric["value"], rel=1e-6), name
