"""Headers, and the recipes found by them."""

from pathlib import Path

import pytest

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
