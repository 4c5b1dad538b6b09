"""A recipe's header: what its docstring says, read without importing the recipe.

A recipe is a file in a theme folder of the `recipes` package. Its docstring is its
header:

    \"\"\"A title in one sentence.

    Two to fourteen lines: the idea, its equation, what to look at in the output.

    Lectures: SEL CNN architectures; CS CNN Architectures
    Paper: Author et al., Title, year
    \"\"\"
"""

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from deep_learning_recipes import UsageError, did_you_mean

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

FIELDS = ("Lectures", "Paper")


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

    def matches(self, words: list[str]) -> bool:
        """Whether every word occurs in the name, theme, title, lectures or paper (any
        case)."""
        text = " ".join(
            (self.name, self.theme, self.title, *self.lectures, self.paper)
        ).lower()
        return all(
            word.lower() in text or word.lower() in text.replace("_", " ")
            for word in words
        )


def find_recipes(root: Path | None = None) -> list[Recipe]:
    """Every recipe below `root` (default: the installed `recipes` package), theme by
    theme.

    Raises ValueError, naming the file and the field, if a header is malformed.
    """
    return [read_header(path) for path in _find_files(root or package_folder())]


def _find_files(root: Path) -> list[Path]:
    return [
        path
        for theme in THEMES
        for path in sorted((root / theme).glob("*.py"))
        if not path.name.startswith("_")
    ]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with the nearest names if there is
    none."""
    files = {path.stem: path for path in _find_files(package_folder())}
    if name not in files:
        raise UsageError(
            f"there is no recipe {name!r}{did_you_mean(name, list(files))}; "
            "`python -m recipes` lists them all"
        )
    return read_header(files[name])


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

    def malformed(field: str, what: str) -> ValueError:
        return ValueError(f"{path}: header field {field!r} {what}")

    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise malformed("title", "is missing: the file has no docstring")
    title, *blocks = [block.strip() for block in docstring.split("\n\n")]
    if "\n" in title or not title.endswith("."):
        raise malformed(
            "title", "must be one line, a sentence that ends with a full stop"
        )
    fields = _read_fields(blocks[-1]) if blocks else {}
    for field in FIELDS:
        if not fields.get(field):
            raise malformed(
                field, f"is missing: the header ends with a line '{field}: ...'"
            )
    for field in fields:
        if field not in FIELDS:
            raise malformed(field, f"is unknown: the fields are {', '.join(FIELDS)}")
    description = "\n\n".join(blocks[:-1])
    lines = [line for line in description.splitlines() if line.strip()]
    if not 2 <= len(lines) <= 14:
        raise malformed(
            "description", f"must take two to fourteen lines, not {len(lines)}"
        )
    lectures = tuple(part.strip() for part in fields["Lectures"].split(";"))
    for lecture in lectures:
        if lecture.split(" ")[0] not in LECTURES:
            raise malformed(
                "Lectures", f"must name {', '.join(LECTURES)} first, not {lecture!r}"
            )
    return Recipe(
        name=path.stem,
        theme=path.parent.name,
        path=path,
        title=title,
        description=description,
        lectures=lectures,
        paper=fields["Paper"],
    )


def _read_fields(block: str) -> dict[str, str]:
    """Reads 'Field: text' lines; a line without a field's name goes on with the one
    before."""
    fields: dict[str, str] = {}
    field = ""
    for line in block.splitlines():
        head, colon, tail = line.partition(": ")
        if colon and head.isalpha() and not line.startswith(" "):
            field, fields[head] = head, tail.strip()
        elif field:
            fields[field] += " " + line.strip()
    return fields
