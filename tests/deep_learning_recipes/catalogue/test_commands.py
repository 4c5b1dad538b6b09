"""`python -m recipes`: list, search, copy."""

from pathlib import Path

import pytest
from conftest import ROOT, command

from deep_learning_recipes import catalogue
from deep_learning_recipes.catalogue.planned import PLANNED, Planned


def test_the_list_imports_neither_tensorflow_nor_recipes():
    program = (
        "import sys; sys.argv = ['recipes']; import recipes.__main__ as m; m.main([]);"
        "heavy = {'tensorflow', 'keras', 'numpy', 'matplotlib', 'recipes.lenet'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    finished = command("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert "lenet" in finished.stdout


def recipes_main(*arguments):
    import recipes.__main__

    return recipes.__main__.main(list(arguments))


def test_the_list(capsys):
    assert recipes_main() == 0
    text = capsys.readouterr().out
    assert "convnets — convolution" in text
    assert "lenet" in text
    assert "vae" in text

    assert recipes_main("--theme", "generative") == 0
    text = capsys.readouterr().out
    assert "vae" in text
    assert "lenet" not in text


def test_search_lists_names_before_mentions_and_what_is_planned(capsys, monkeypatch):
    planned = Planned("generative", "a pot for tea", "elbo, reinforce, kettle")
    monkeypatch.setitem(PLANNED, "teapot", planned)
    assert recipes_main("elbo") == 0
    text = capsys.readouterr().out
    assert text.startswith("\n  vae ")
    assert "\nteapot: a pot for tea. It is not covered yet\n" in text
    assert text.endswith("\n1 recipe. Run one: python -m recipes.vae\n")

    assert recipes_main("reinforce") == 0
    named, mentioned = capsys.readouterr().out.split("\nMentioned by:")
    assert "\n  reinforce " in named
    assert "\n  recurrent_attention " in mentioned
    assert "\nteapot: " in mentioned

    for arguments in (["kettle"], ["teapot"], ["copy", "teapot", "a.py"]):
        assert recipes_main(*arguments) == 2
        line = "error: teapot: a pot for tea. It is not covered yet; nearest: "
        assert capsys.readouterr().err.startswith(line)


def test_themes_without_a_recipe_are_not_offered(capsys, monkeypatch):
    planned = Planned("generative", "a pot for tea", "elbo, reinforce, kettle")
    monkeypatch.setitem(PLANNED, "teapot", planned)
    some = [r for r in catalogue.find_recipes() if r.theme != "generative"]
    monkeypatch.setattr(catalogue, "find_recipes", lambda: some)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        recipes_main("--help")
    assert recipes_main("--theme", "xyz") == 2
    shown = "".join(capsys.readouterr())
    for theme in catalogue.THEMES:
        has_recipes = any(recipe.theme == theme for recipe in some)
        assert shown.count(theme) == (2 if has_recipes else 0)

    assert recipes_main("--theme", "generative") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: theme generative has no recipe yet; the themes are")
    assert recipes_main("--theme", "generative", "kettle") == 2
    assert capsys.readouterr().err.startswith("error: teapot: a pot for tea. It is")


def test_what_is_not_there_gets_one_line_and_code_2(capsys):
    for arguments, line in [
        (
            ["lenett"],
            "error: no recipe matches 'lenett'; did you mean lenet or alexnet or resnet?",
        ),
        (
            ["--theme", "generativ"],
            "error: there is no theme 'generativ'; did you mean generative",
        ),
        (
            ["copy", "lenett", "a.py"],
            "error: there is no recipe 'lenett'; did you mean lenet or alexnet or resnet?",
        ),
        (
            ["results", "lenett"],
            "error: there is no recipe 'lenett'; did you mean lenet or alexnet or resnet?",
        ),
        (["results", "lenet", "--seeds", "0"], "error: --seeds 0: at least one"),
        (
            ["copy", "lenet", "no/such/folder/a.py"],
            "error: no/such/folder/a.py cannot be written",
        ),
        (["table"], "error: README.md is not here"),
    ]:
        assert recipes_main(*arguments) == 2
        text = capsys.readouterr().err
        assert text.startswith(line)
        assert text.count("\n") == 1


def test_copy_writes_the_file_once_and_it_runs(capsys):
    assert recipes_main("copy", "lenet", "my_lenet.py") == 0
    copied = Path("my_lenet.py")
    assert copied.read_bytes() == (ROOT / "recipes/convnets/lenet.py").read_bytes()
    copied.write_text("mine")
    assert recipes_main("copy", "lenet", "my_lenet.py") == 2
    assert "exists already" in capsys.readouterr().err
    assert copied.read_text() == "mine"

    Path("project").mkdir()
    assert recipes_main("copy", "lenet", "project") == 0
    finished = command("project/lenet.py", "--epochs", "0")
    assert finished.returncode == 2
    assert "error: --epochs 0: it must be at least 1" in finished.stderr


def test_what_cannot_be_copied_leaves_no_file(monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert recipes_main("copy", "lenet", "my_lenet.py") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(Path().iterdir()) == []
