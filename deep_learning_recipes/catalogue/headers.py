"""A recipe's header: what its docstring says, read without importing the recipe.

A recipe is a file in a theme folder of the `recipes` package. Its docstring is its
header:

    \"\"\"A title in one sentence.

    Two to fourteen lines: the idea, its equation, what to look at in the output.

    Lectures: SEL CNN architectures; CS CNN Architectures
    Paper: Author et al., Title, year
    Tags: cnn, image classification, mnist
    \"\"\"

Tags, which a header may leave out, are what else people search for: abbreviations and
synonyms that neither the name nor the title has.
"""

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from deep_learning_recipes import UsageError

THEMES = {
    "neural_networks": "the neuron, the loss, the gradient",
    "training": "making deep nets learn",
    "convnets": "convolution and its architectures",
    "vision": "beyond one label",
    "sequences": "recurrence and attention",
    "generative": "autoencoders, likelihood, adversaries",
    "interpretability": "seeing what a network knows",
    "reinforcement": "learning from reward",
    "efficiency": "smaller, faster, distributed",
    "adversarial": "where networks break",
}
"""The theme folders in the order of the courses, each with what it is about."""

LECTURES = {
    "N18": "Deep Learning Summer School 2018",
    "SEL": "A Selective Introduction to Deep Learning",
    "ICME": "ICME Summer Workshop 2021, Introduction to Deep Learning",
    "CS": "CS231n course notes",
    "INFO": "Notes on INFO8010",
}
"""The courses by the short names that headers use."""

FIELDS = ("Lectures", "Paper", "Tags")
"""The lines that end a header, in this order; Tags may be left out."""


@dataclass(frozen=True)
class Recipe:
    """One recipe's header: what stands in its docstring and where the file is."""

    name: str
    theme: str
    path: Path
    title: str
    description: str
    lectures: tuple[str, ...]
    paper: str
    tags: tuple[str, ...] = ()


def find_recipes(root: Path | None = None) -> list[Recipe]:
    """Every recipe below `root` (default: the installed `recipes` package), theme by
    theme.

    Raises ValueError, naming the file and the field, if a header is malformed.
    """
    return [read_header(path) for path in recipe_files(root or package_folder())]


def recipe_files(root: Path) -> list[Path]:
    """The files of the recipes below `root`, theme by theme."""
    return [
        path
        for theme in THEMES
        for path in sorted((root / theme).glob("*.py"))
        if not path.name.startswith("_")
    ]


def by_theme(recipes: list[Recipe]) -> dict[str, list[Recipe]]:
    """The recipes of each theme that has any, in the order of THEMES."""
    shelves: dict[str, list[Recipe]] = {theme: [] for theme in THEMES}
    for recipe in recipes:
        shelves[recipe.theme].append(recipe)
    return {theme: shelf for theme, shelf in shelves.items() if shelf}


def package_folder() -> Path:
    """The folder of the `recipes` package, found without importing it."""
    spec = importlib.util.find_spec("recipes")
    if spec is None or spec.origin is None:
        raise UsageError(
            "`recipes` is not installed; pip install deep-learning-recipes"
        )
    return Path(spec.origin).parent


def read_header(path: Path) -> Recipe:
    """Reads a recipe's docstring by its syntax tree. Raises ValueError naming file and
    field."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    try:
        return _parse(docstring, path)
    except _Malformed as error:
        raise ValueError(f"{path}: header field {error}") from None


class _Malformed(ValueError):
    """A field of a header and what is wrong with it."""

    def __init__(self, field: str, what: str):
        super().__init__(f"{field!r} {what}")


def _parse(docstring: str, path: Path) -> Recipe:
    if not docstring:
        raise _Malformed("title", "is missing: the file has no docstring")
    title, *blocks = [block.strip() for block in docstring.split("\n\n")]
    if "\n" in title or not title.endswith("."):
        raise _Malformed(
            "title", "must be one line, a sentence that ends with a full stop"
        )
    fields = _read_fields(blocks[-1] if blocks else "")
    description = "\n\n".join(blocks[:-1])
    lines = [line for line in description.splitlines() if line.strip()]
    if not 2 <= len(lines) <= 14:
        raise _Malformed(
            "description", f"must take two to fourteen lines, not {len(lines)}"
        )
    return Recipe(
        name=path.stem,
        theme=path.parent.name,
        path=path,
        title=title,
        description=description,
        lectures=_read_lectures(fields["Lectures"]),
        paper=fields["Paper"],
        tags=_read_tags(fields["Tags"]) if "Tags" in fields else (),
    )


def _read_fields(block: str) -> dict[str, str]:
    """Reads 'Field: text' lines; a line without a field's name goes on with the one
    before."""
    fields: dict[str, str] = {}
    field = ""
    for line in block.splitlines():
        head, colon, tail = (line + " ").partition(": ")
        if colon and head.isalpha():
            if head in fields:
                raise _Malformed(head, "stands there twice")
            field = head
            fields[field] = tail.strip()
        elif field:
            fields[field] += " " + line.strip()

    for field in ("Lectures", "Paper"):
        if not fields.get(field):
            raise _Malformed(
                field, f"is missing: the header ends with a line '{field}: ...'"
            )
    for field in fields:
        if field not in FIELDS:
            raise _Malformed(field, f"is unknown: the fields are {', '.join(FIELDS)}")
    ordered = [field for field in FIELDS if field in fields]
    for field, expected in zip(fields, ordered, strict=True):
        if field != expected:
            raise _Malformed(field, f"is out of order: it is {', '.join(FIELDS)}")
    return fields


def _read_lectures(text: str) -> tuple[str, ...]:
    lectures = tuple(part.strip() for part in text.split(";"))
    for lecture in lectures:
        if lecture.split(" ")[0] not in LECTURES:
            raise _Malformed(
                "Lectures", f"must name {', '.join(LECTURES)} first, not {lecture!r}"
            )
    return lectures


def _read_tags(text: str) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in text.split(","))
    if not 3 <= len(tags) <= 8 or "" in tags:
        raise _Malformed("Tags", "must be three to eight, with commas between them")
    for tag in tags:
        if tag != tag.lower():
            raise _Malformed("Tags", f"must be lower case, not {tag!r}")
        if tags.count(tag) > 1:
            raise _Malformed("Tags", f"must be named once each, not {tag!r} twice")
    return tags
