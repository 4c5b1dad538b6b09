"""Headers, and the recipes found by them."""

import re
from pathlib import Path

import pytest

from deep_learning_recipes import catalogue

HEADER = '''"""LeNet-5 reads digits.

Two lines
of description: with a colon in it.

Lectures: SEL CNN architectures; CS CNN
 Architectures
Paper: LeCun et al., Gradient-based learning, 1998
Tags: cnn, image
    classification, mnist
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
    assert recipe.tags == ("cnn", "image classification", "mnist")


def test_a_header_may_go_without_tags():
    text = HEADER[: HEADER.index("Tags:")] + '"""\n'
    recipe = catalogue.read_header(write(text))
    assert recipe.tags == ()
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
        ("Paper: LeCun", "Paper: A\nPaper: LeCun", "'Paper' stands there twice"),
        (
            "Lectures: SEL",
            "Tags: a, b, c\nLectures: SEL",
            "'Tags' stands there twice",
        ),
        ("1998\nTags: cnn,", "1998\nTags: CNN,", "'Tags' must be lower case"),
        ("1998\nTags: cnn,", "1998\nTags: mnist,", "'Tags' must be named once"),
        ("Tags: cnn,", "Tags:", "'Tags' must be three to eight"),
        ("Tags: cnn,", "Tags: cnn,,", "'Tags' must be three to eight"),
        ("Tags: cnn,", "Tags: a, b, c, d, e, f, g,", "'Tags' must be three to eight"),
        ("Tags: cnn", "Tag: cnn", "'Tag' is unknown"),
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


def test_the_lines_that_end_a_header_keep_their_order():
    tags, paper = "Tags: a, b, c", "Paper: LeCun et al., 1998"
    text = HEADER[: HEADER.index("Paper:")] + f'{tags}\n{paper}\n"""\n'
    with pytest.raises(ValueError, match="field 'Tags' is out of order: it is Lect"):
        catalogue.read_header(write(text))


def test_tags_add_to_the_name_and_the_title():
    for recipe in catalogue.find_recipes():
        assert len(recipe.tags) >= 3, recipe.name
        said = words(f"{recipe.name} {recipe.title}")
        for tag in recipe.tags:
            assert f" {words(tag)} " not in f" {said} ", (recipe.name, tag)


def words(text):
    return " ".join(re.findall(r"[^\s_:,.-]+", text.lower()))


def test_recipes_come_theme_by_theme():
    write(HEADER, "generative/vae.py")
    write(HEADER, "convnets/lenet.py")
    write("", "convnets/_private.py")
    assert [recipe.name for recipe in catalogue.find_recipes(Path())] == [
        "lenet",
        "vae",
    ]
