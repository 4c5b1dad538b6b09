"""The end of a run: what was measured, in words and in the order of interest."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deep_learning_recipes.run.evidence import number
from deep_learning_recipes.run.record import Run

VERDICTS = {True: "holds", False: "FAILS", None: "not judged"}
STYLES = {True: "green", False: "bold red", None: "dim"}
EXPORTED = {"": "SavedModel", ".onnx": "ONNX", ".tflite": "LiteRT"}


def report(run: Run) -> None:
    """Prints metrics, claims and what was written."""
    console = run.display.console
    run.print()
    print_metrics(run, console)
    run.print()
    print_claims(run, console)
    run.print(f"\n{run.seconds:.0f} s")
    for path in [run.folder / name for name in run.figures]:
        run.print(f"figure      {shown(path)}")
    run.print(f"record      {shown(run.folder / 'metrics.json')}")
    for export in map(Path, run.exports):
        run.print(f"{EXPORTED[export.suffix]:12}{shown(export)}")


def print_metrics(run: Run, console: Console) -> None:
    """A line for each number, the values below each other."""
    table = Table.grid(padding=(0, 2))
    for name, metric in run.numbers.items():
        value = f"{number(metric['value'])} {metric['unit']}".rstrip()
        table.add_row(Text(name), Text(value))
    console.print(table)


def print_claims(run: Run, console: Console) -> None:
    """Verdict, statement, and below it the numbers that decided."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for claim in run.claims:
        verdict = Text(VERDICTS[claim["holds"]], style=STYLES[claim["holds"]])
        table.add_row(verdict, Text(claim["text"]))
        table.add_row("", Text(claim["measured"], style="dim"))
    console.print(table)
    if any(claim["holds"] is None for claim in run.claims):
        run.print(
            "\nnot judged on your data: these claims were made of the lecture's data set"
        )


def shown(path: Path) -> Path:
    """From here, if it is below: terminals open such a path by a click."""
    absolute = path.resolve()
    here = Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
