"""The README's table of recipes, with what was measured of each."""

import json
import statistics
from pathlib import Path

from deep_learning_recipes import UsageError
from deep_learning_recipes.catalogue.headers import (
    THEMES,
    by_theme,
    find_recipes,
    package_folder,
)
from deep_learning_recipes.files import replacing

TABLE_BEGINS = "<!-- table of recipes: written by `python -m recipes table` -->"
TABLE_ENDS = "<!-- end of the table of recipes -->"


def recipes_table(results: Path) -> str:
    """The table of all recipes by theme, with what `results` holds for each."""
    project = package_folder().parent
    lines = []
    for theme, shelf in by_theme(find_recipes()).items():
        lines += [f"**{theme}**: {THEMES[theme]}", ""]
        lines += [
            "| recipe | | measured (mean ± std over seeds) | claims held | seconds |"
        ]
        lines += ["| --- | --- | --- | --- | --- |"]
        for recipe in shelf:
            path = recipe.path.relative_to(project).as_posix()
            cells = _result_cells(results / f"{recipe.name}.json")
            lines.append(f"| [`{recipe.name}`]({path}) | {recipe.title} | {cells} |")
        lines.append("")
    return "\n".join(lines).strip()


def _result_cells(path: Path) -> str:
    if not path.exists():
        return " | | "
    result = json.loads(path.read_text())
    name, metric = next(iter(result["metrics"].items()))
    value = f"{metric['mean']:.4g} ± {metric['std']:.2g} {metric['unit']}".strip()
    held = sum(claim["held"] for claim in result["claims"])
    of = sum(claim["of"] for claim in result["claims"])
    seconds = statistics.fmean(result["seconds"])
    return f"{name.replace('_', ' ')} {value} | {held} of {of} | {seconds:.0f}"


def update_readme(readme: Path, results: Path, *, write: bool) -> bool:
    """Puts the table of recipes between its marks in the README; True if it was
    stale."""
    if not readme.exists():
        raise UsageError(f"{readme} is not here; run this in the project's folder")
    text = readme.read_text(encoding="utf-8")
    if TABLE_BEGINS not in text or TABLE_ENDS not in text:
        raise UsageError(
            f"{readme}: the marks {TABLE_BEGINS!r} and {TABLE_ENDS!r} are not in it"
        )
    before, _, rest = text.partition(TABLE_BEGINS)
    _, _, after = rest.partition(TABLE_ENDS)
    fresh = f"{before}{TABLE_BEGINS}\n\n{recipes_table(results)}\n\n{TABLE_ENDS}{after}"
    if write and fresh != text:
        with replacing(readme) as file:
            file.write(fresh.encode())
    return fresh != text
