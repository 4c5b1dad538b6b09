"""A run on the user's own data: flags, verdicts, and going on after the data changed."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from test_run import run_cli

from deep_learning_recipes import UsageError, data, serving
from deep_learning_recipes.catalogue import results
from deep_learning_recipes.run import Run, own_data
from deep_learning_recipes.serving.bundle import Bundle


@pytest.fixture
def pets():
    """Four pictures each of cats (dark) and dogs (light)."""
    for name, shade in (("cats", 30), ("dogs", 220)):
        Path("pets", name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), shade + i).save(f"pets/{name}/{i}.png")
    return "pets"


def judge(config, run):
    data.load(config.data)
    run.claim("It reads nearly all", at_least=0.98, measured={"accuracy": 0.4})
    run.compare("More is more", {"a": 2.0, "b": 1.0}, more="a", less="b", by=0.5)
    run.claim("Sums add up", holds=True, measured="1 + 1 = 2", any_data=True)


def verdicts(folder="here"):
    record = json.loads(Path(folder, "metrics.json").read_text())
    return [claim["holds"] for claim in record["claims"]]


def test_the_lectures_claims_are_not_judged(monkeypatch, capsys, pets):
    arguments = ("--out", "here", "--data", pets)
    assert run_cli(monkeypatch, *arguments, main=judge) == 0
    assert verdicts() == [None, None, True]
    text = capsys.readouterr().out
    assert text.count("not judged  ") == 2
    assert "accuracy 0.4 (at least 0.98)" in text
    assert "not judged on your data" in text
    assert "holds       Sums add up" in text


def test_they_are_of_a_named_set(monkeypatch, capsys):
    assert run_cli(monkeypatch, "--out", "here", main=judge) == 4
    assert verdicts() == [False, True, True]
    assert "not judged" not in capsys.readouterr().out


def test_what_is_true_of_any_data_can_fail(monkeypatch, pets):
    def main(config, run):
        run.claim("Sums add up", holds=False, measured="1 + 1 = 3", any_data=True)

    assert run_cli(monkeypatch, "--out", "here", "--data", pets, main=main) == 4


def test_summaries_count_what_was_judged():
    claim = {"text": "t", "measured": "1"}
    record = {
        "recipe": "toy",
        "metrics": {},
        "seed": 0,
        "seconds": 1.0,
        "config": {},
        "hardware": {},
        "versions": {},
    }
    records = [
        {**record, "claims": [{**claim, "holds": holds}, {**claim, "holds": True}]}
        for holds in (None, True)
    ]
    found = results.summarize(records, "default")["claims"]
    assert [(each["held"], each["of"]) for each in found] == [(1, 1), (2, 2)]


def test_flags_reach_the_loaders(monkeypatch, pets):
    seen = []

    def main(config, run):
        (x, _), (x_test, _) = data.load(config.data)
        seen.append(len(x) + len(x_test))

    arguments = ("--out", "here", "--data", pets, "--max-examples", "6")
    assert run_cli(monkeypatch, *arguments, main=main) == 0
    assert seen == [6]
    assert len(data.load(pets)[0][0]) == 6  # of eight, as nobody asks any more
    options = json.loads(Path("here/config.json").read_text())["options"]
    assert options["max_examples"] == 6


def test_bad_data_get_one_line_and_code_2(monkeypatch, capsys):
    Path("empty").mkdir()
    assert run_cli(monkeypatch, "--data", "./empty", "--out", "here", main=judge) == 2
    error = capsys.readouterr().err
    assert error == "error: empty: the folder is empty\n"
    assert not Path("here").exists()


def interrupted(config, run):
    data.load(config.data)
    run.metric("accuracy", 0.5)
    raise KeyboardInterrupt


def test_a_resumed_run_wants_the_same_data(monkeypatch, capsys, pets):
    arguments = ("--out", "here", "--data", pets)
    assert run_cli(monkeypatch, *arguments, main=interrupted) == 130
    assert run_cli(monkeypatch, "--out", "here", "--resume", main=interrupted) == 130
    Image.new("L", (8, 8)).save("pets/cats/new.png")
    capsys.readouterr()
    assert run_cli(monkeypatch, "--out", "here", "--resume", main=judge) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --resume: pets has changed since the run in here")
    assert "8 files of" in error
    assert "9 of" in error
    assert verdicts() == []  # what was measured is still there


def test_a_run_of_an_older_version_is_resumed(monkeypatch, pets):
    assert run_cli(monkeypatch, "--out", "here", main=interrupted) == 130
    settings = json.loads(Path("here/config.json").read_text())
    del settings["data"]
    Path("here/config.json").write_text(json.dumps(settings))
    assert run_cli(monkeypatch, "--out", "here", "--resume", main=judge) == 4


@pytest.mark.parametrize(
    ("name", "path"),
    [("digits", ""), ("./pets", "./pets"), ("none", ""), ("prose", "")],
)
def test_which_path_it_is(pets, name, path):
    class Config:
        data = name

    assert own_data.path_of(Config()) == path
    assert own_data.path_of(object()) == ""


def network(classes):
    images = keras.Input((8, 8, 1), name="images")
    dense = keras.layers.Dense(classes, kernel_initializer="ones")
    return keras.Model(images, dense(keras.layers.Flatten()(images)), name="net")


def test_exports_answer_with_the_users_names(pets):
    model = network(2)
    # Light pictures are dogs: the sum of pixels against a half of all.
    kernel = np.stack([np.zeros(64), np.ones(64)], axis=1)
    model.layers[-1].set_weights([kernel, np.array([32.0, 0.0])])
    folder = Path("run")
    folder.mkdir()
    run = Run("net", folder, export_folder=Path("models"), own_data=pets)
    example = np.zeros((2, 8, 8, 1), "float32")
    run.export(serving.classifier(model), example)
    bundle = Bundle(Path(run.exports[0]))
    answer = bundle.predict("", {"images": example})
    assert answer["classes"].tolist() == [b"cats", b"cats"]
    assert answer["probabilities"].shape == (2, 2)
    names = ("pets/cats/0.png", "pets/dogs/1.png")
    encoded = np.array([Path(name).read_bytes() for name in names], object)
    answer = bundle.predict("classify_bytes", {"image_bytes": encoded})
    assert answer["classes"].tolist() == [b"cats", b"dogs"]


def test_a_classifier_of_other_classes_keeps_its_numbers(pets):
    run = Run("net", Path(), export_folder=Path("models"), own_data=pets)
    example = np.zeros((2, 8, 8, 1), "float32")
    run.export(serving.classifier(network(3)), example)
    answer = Bundle(Path(run.exports[0])).predict("", {"images": example})
    assert answer["classes"].dtype == np.int32


def test_names_are_as_many_as_classes(pets):
    model = serving.classifier(network(3), class_names=["a", "b", "ö"])
    answer = model(np.ones((1, 8, 8, 1), "float32"))["classes"]
    assert answer.numpy()[0].decode() in ("a", "b", "ö")
    with pytest.raises(UsageError, match="tells 3 classes, and there are 2 names"):
        serving.classifier(network(3), class_names=["a", "b"])


def test_a_named_classifier_is_saved_and_loaded():
    model = serving.classifier(network(2), class_names=["a", "b"])
    model.save("named.keras")
    image = np.ones((1, 8, 8, 1), "float32")
    loaded = keras.saving.load_model("named.keras")
    assert loaded(image)["classes"].numpy() == model(image)["classes"].numpy()
