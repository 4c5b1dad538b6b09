"""Every recipe that takes --data trains on what lies at a path."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_in_process
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from deep_learning_recipes import catalogue, data
from deep_learning_recipes.serving.bundle import Bundle

TEXT = {"char_rnn", "gpt", "language_model", "word_embeddings"}
# Texts with a class each, and pairs of texts: a table, and the flags that it takes.
TABLE_OF_TEXTS = {
    "name_classification": ("--target", "kind"),
    "sentiment_analysis": ("--target", "kind"),
    "seq2seq": (),
    "transformer": (),
}
SERIES = {"temporal_convolution"}
NO_PICTURES = TEXT | set(TABLE_OF_TEXTS) | SERIES
TAKING = [
    recipe
    for recipe in catalogue.find_recipes(ROOT / "recipes")
    if re.search(r"^    data: str = ", recipe.path.read_text(), re.MULTILINE)
]
TABLES = [r for r in TAKING if "data.load_vectors(" in r.path.read_text()]
# Images, text and a table; the others run in `make test-all`.
ALWAYS = {"lenet", "char_rnn"}
ALWAYS_ON_A_TABLE = {"mlp"}
# What makes a run as short as it gets, where the recipe has the flag.
SHORT = {
    "restarts": "1",
    "epochs": "2",
    "epochs_of_a_round": "1",
    "retraining_epochs": "1",
    "teacher_epochs": "1",
    "pictures": "300",
    "batch_size": "16",
}
# Three stages share these.
LONGER = {"learning_settings": ("--epochs", "3")}


def parameters(recipes, always=ALWAYS):
    return [
        pytest.param(
            recipe,
            id=recipe.name,
            marks=() if recipe.name in always else pytest.mark.long,
        )
        for recipe in recipes
    ]


def short(recipe):
    source = recipe.path.read_text()
    arguments = []
    for field, value in SHORT.items():
        if re.search(rf"^    {field}: ", source, re.MULTILINE):
            arguments += [f"--{field.replace('_', '-')}", value]
    return (*arguments, *LONGER.get(recipe.name, ()))


def paint(classes, count=16):
    """Color pictures of 40 × 56 pixels: noise, brighter in another color for each
    class."""
    random = np.random.default_rng(0)
    for index, name in enumerate(classes):
        Path("own", name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 120, (40, 56, 3), "uint8")
            pixels[..., index % 3] += 100
            Image.fromarray(pixels).save(f"own/{name}/{i}.png")


def run(recipe, *arguments):
    flags = ("--preset", "quick", *short(recipe), *arguments)
    return run_in_process(recipe.name, Path("run"), *flags)


def check(finished):
    assert finished.code == 0
    record = finished.metrics
    assert record["finished"]
    verdicts = [claim["holds"] for claim in record["claims"]]
    assert None in verdicts
    assert False not in verdicts
    assert record["figures"]


@pytest.mark.parametrize("recipe", parameters(TAKING))
def test_a_recipe_trains_on_own_data(recipe, capsys):
    if recipe.name in TEXT:
        some_words = " ".join(f"w{n} and" for n in range(70))
        repeated = "It reads this, and that too.\n\n" * 600
        text = repeated if recipe.name == "char_rnn" else f"{some_words}\n\n" * 80
        Path("own.txt").write_text(text)
        check(run(recipe, "--data", "own.txt"))
        return
    if recipe.name in TABLE_OF_TEXTS:
        rows = [f"{word}{n},{word}" for n in range(60) for word in ("left", "right")]
        Path("own.csv").write_text("text,kind\n" + "\n".join(rows))
        check(run(recipe, "--data", "own.csv", *TABLE_OF_TEXTS[recipe.name]))
        return
    if recipe.name in SERIES:
        days = pd.date_range("2020-01-01", periods=300)
        height = np.sin(np.arange(300) / 2) + np.arange(300) / 100
        table = pd.DataFrame({"day": days, "height": height, "other": 1.0})
        table.to_csv("own.csv", index=False)
        check(run(recipe, "--data", "own.csv", "--target", "height", "--steps", "20"))
        return
    paint(("ant", "große Biene", "cat"))
    finished = run(recipe, "--data", "own/", "--export", "models")
    check(finished)
    ((_, outputs),) = finished.exports
    if "classes" in outputs:
        assert outputs["probabilities"].shape[-1] == 3
        (version,) = finished.metrics["exports"]
        names = set(data.class_names("own"))
        for answer in answers(Path(version)):
            assert {name.decode() for name in answer.tolist()} <= names


def answers(version):
    """Of each signature to the request that was recorded with it."""
    (graph,) = SavedModel.FromString(
        (version / "saved_model.pb").read_bytes()
    ).meta_graphs
    assert "serving_default" in graph.signature_def
    bundle = Bundle(version)
    return [bundle.replay(each)["classes"] for each in bundle.warm_up_records()]


@pytest.mark.long
@pytest.mark.parametrize("recipe", TAKING, ids=lambda recipe: recipe.name)
def test_a_recipe_trains_on_two_classes(recipe):
    if recipe.name not in NO_PICTURES:
        paint(("no", "yes"))
        check(run(recipe, "--data", "own"))


@pytest.mark.parametrize("recipe", parameters(TABLES, ALWAYS_ON_A_TABLE))
def test_a_recipe_trains_on_a_table(recipe):
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(90, 5)), columns=list("abcde"))
    table["kind"] = np.where(table.a + table.b > 0, "high", "low")
    table.to_csv("own.csv", index=False)
    check(run(recipe, "--data", "own.csv", "--target", "kind"))


@pytest.mark.parametrize("recipe", parameters(TAKING))
def test_another_kind_gets_one_line(recipe, capsys):
    Path("own.txt").write_text("words")
    Path("own.npz").write_text("no zip")
    name = "own.npz" if recipe.name in NO_PICTURES else "own.txt"
    finished = run_in_process(recipe.name, Path("run"), "--data", name)
    assert finished.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}: ")
    assert ", and this takes " in line


@pytest.mark.parametrize("recipe", TAKING, ids=lambda recipe: recipe.name)
def test_the_help_of_data_says_what_it_takes(recipe):
    pattern = r'^    data: str = [^\n]*\n    """(.*?)"""'
    source = recipe.path.read_text()
    (told,) = re.findall(pattern, source, re.MULTILINE | re.DOTALL)
    assert "your own" in told
    assert ("--target" in told) == (
        recipe in TABLES
        or recipe.name in SERIES
        or bool(TABLE_OF_TEXTS.get(recipe.name))
    )


def test_the_flags_of_data_are_there_where_data_is(capsys):
    for name, is_there in (("lenet", True), ("dqn", False)):
        assert run_in_process(name, Path("unused"), "--help").code == 0
        text = capsys.readouterr().out
        assert ("--max-examples" in text) == is_there
        assert ("--target COLUMN" in text) == is_there
