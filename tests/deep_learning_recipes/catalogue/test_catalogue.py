"""The catalogue: headers, `python -m recipes`, search, copy."""

import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command

from deep_learning_recipes import UsageError, catalogue, did_you_mean

HEADER = '''"""LeNet-5 reads digits.

Two lines
of description: with a colon in it.

Lectures: SEL CNN architectures; CS CNN
 Architectures
Paper: LeCun et al., Gradient-based learning, 1998
"""
'''


def write(text, name="convnets/example.py"):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_header_is_read():
    recipe = catalogue.read_header(write(HEADER))
    assert recipe.name == "example"
    assert recipe.theme == "convnets"
    assert recipe.title == "LeNet-5 reads digits."
    assert recipe.description == "Two lines\nof description: with a colon in it."
    assert recipe.lectures == ("SEL CNN architectures", "CS CNN Architectures")
    assert recipe.paper == "LeCun et al., Gradient-based learning, 1998"


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("reads digits.", "reads digits", "'title' must be one line"),
        (
            "Two lines\nof description: with a colon in it.",
            "One line.",
            "'description' must take",
        ),
        ("Lectures: SEL", "Lectures: MIT", "'Lectures' must name N18"),
        ("Paper: ", "Papers: ", "'Paper' is missing"),
        ("Paper: LeCun", "Year: 1998\nPaper: LeCun", "'Year' is unknown"),
        ('"""', "'''", None),
        ('"""', "#", "'title' is missing: the file has no docstring"),
    ],
)
def test_a_malformed_header_names_file_and_field(before, after, field):
    text = HEADER.replace(before, after)
    if after == "#":
        text = "import os\n"
    path = write(text)
    if field is None:
        assert catalogue.read_header(path).name == "example"
        return
    with pytest.raises(ValueError, match=f"example.py: header field {field}"):
        catalogue.read_header(path)


def test_recipes_come_theme_by_theme():
    write(HEADER, "generative/vae.py")
    write(HEADER, "convnets/lenet.py")
    write("", "convnets/_private.py")
    assert [recipe.name for recipe in catalogue.find_recipes(Path())] == [
        "lenet",
        "vae",
    ]


def test_did_you_mean():
    assert did_you_mean("lenett", ["lenet", "vae"]) == "; did you mean lenet?"
    assert did_you_mean("rnn", ["lenet", "char_rnn"]) == "; did you mean char_rnn?"
    assert did_you_mean("zebra", ["lenet"]) == ""
    with pytest.raises(UsageError, match="no recipe 'lenett'; did you mean lenet"):
        catalogue.find_recipe("lenett")


def test_the_list_imports_neither_tensorflow_nor_recipes():
    program = (
        "import sys; sys.argv = ['recipes']; import recipes.__main__ as m; m.main([]);"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'recipes.lenet'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    finished = command("-c", program)
    assert finished.returncode == 0, finished.stderr
    assert "lenet" in finished.stdout


def recipes_main(*arguments):
    import recipes.__main__

    return recipes.__main__.main(list(arguments))


def test_list_and_search(capsys):
    assert recipes_main() == 0
    text = capsys.readouterr().out
    assert "convnets — convolution" in text
    assert "lenet" in text
    assert "vae" in text

    assert recipes_main("lecun") == 0  # an author
    text = capsys.readouterr().out
    assert "lenet" in text
    assert "vae" not in text

    assert recipes_main("char", "RNN") == 0
    assert "char_rnn" in capsys.readouterr().out

    assert recipes_main("--theme", "generative") == 0
    text = capsys.readouterr().out
    assert "vae" in text
    assert "lenet" not in text


def test_what_is_not_there_gets_one_line_and_code_2(capsys):
    for arguments, line in [
        (
            ["lenett"],
            "error: no recipe matches 'lenett'; did you mean lenet or learning_settings?",
        ),
        (
            ["--theme", "generativ"],
            "error: there is no theme 'generativ'; did you mean generative",
        ),
        (
            ["copy", "lenett", "a.py"],
            "error: there is no recipe 'lenett'; did you mean lenet or learning_settings?",
        ),
        (
            ["results", "lenett"],
            "error: there is no recipe 'lenett'; did you mean lenet or learning_settings?",
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


def test_an_installed_wheel_runs_outside_the_checkout():
    source = Path("source")
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("recipes", "deep_learning_recipes"):
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = command(*pip[1:], "wheel", "--no-deps", "--wheel-dir", "wheels", "./source")
    assert built.returncode == 0, built.stderr
    (wheel,) = Path("wheels").glob("*.whl")
    installed = command(
        *pip[1:], "install", "--no-deps", "--target", "site", str(wheel)
    )
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(source)

    # -P and the path: this very installation, not the checkout's.
    import os

    environment = {**os.environ, "PYTHONPATH": str(Path("site").resolve())}
    where = command(
        "-c", "import deep_learning_recipes as d; print(d.__file__)", env=environment
    ).stdout
    assert str(Path("site").resolve()) in where
    finished = command(
        "-m",
        "recipes.lenet",
        "--preset",
        "quick",
        "--export",
        "models",
        env=environment,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert Path("models/lenet/1/saved_model.pb").exists()
    listed = command("-m", "recipes", env=environment).stdout
    for recipe in catalogue.find_recipes(ROOT / "recipes"):
        assert f"  {recipe.name} " in listed
