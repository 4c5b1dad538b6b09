"""A recipe as one file that needs no package of ours: its idea, and a short `main`.

A recipe that has this form ends its idea with a function `standalone`, which loads the
data by the library that holds them and trains by `model.fit`, or by the recipe's own
loop where the loop is the idea.
"""

import ast
import re

IDEA = "# The idea"
EXPERIMENT = "# The experiment"
PACKAGE = "deep_learning_recipes"
CALL = '\n\nif __name__ == "__main__":\n    standalone()\n'


def has_standalone(source: str) -> bool:
    """Whether a recipe's source has the function."""
    return "\ndef standalone(" in source


def standalone_source(source: str) -> str:
    """The text of the file: what stands above the experiment, less the imports and
    settings that only the experiment uses, and a call of `standalone`."""
    lines = source.splitlines(keepends=True)
    experiment = line_of(EXPERIMENT, lines) - 1  # a rule stands above the banner
    idea = line_of(IDEA, lines) - 1
    used = names_used("".join(lines[idea:experiment]))

    header, *above = ast.parse("".join(lines[:idea])).body
    begins = [header.end_lineno, *(node.end_lineno for node in above)]
    imports = ""
    settings = ""
    # From below, as each may use what stands above it.
    for node, begin in reversed(list(zip(above, begins, strict=False))):
        text = "".join(lines[begin : node.end_lineno])  # with the comments above it
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports = import_of(node, text, used) + imports
        elif names_defined(node) & used:
            settings = text.strip("\n") + "\n\n\n" + settings
            used |= names_used(text)

    head = "".join(lines[: header.end_lineno])
    imports = re.sub("\n{3,}", "\n\n", imports).strip("\n") + "\n"
    if settings:
        settings = "\n" + settings
    body = "".join(lines[idea:experiment]).rstrip() + "\n"
    return "\n".join([head, imports, settings + body + CALL])


def line_of(banner: str, lines: list[str]) -> int:
    """The index of the line that begins with the banner's words."""
    return next(i for i, line in enumerate(lines) if line.startswith(banner))


def import_of(node: ast.Import | ast.ImportFrom, text: str, used: set[str]) -> str:
    """The text of an import with those of its names that are used; blank lines alone
    without any. Of this package none is."""
    blank_lines = text[: len(text) - len(text.lstrip("\n"))]
    needed = [
        alias
        for alias in node.names
        if (alias.asname or alias.name).split(".")[0] in used
    ]
    package = node.module if isinstance(node, ast.ImportFrom) else ""
    if not needed or (package or "").startswith(PACKAGE):
        return blank_lines
    if len(needed) == len(node.names):
        return text
    node.names = needed
    return blank_lines + ast.unparse(node) + "\n"


def names_used(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def names_defined(node: ast.stmt) -> set[str]:
    """The names that a class, a function or an assignment gives to the module."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    return {
        each.id
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
