"""One line of progress: a bar on a terminal, elsewhere a plain line now and then."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
    """Shows how much of something is done, with a few values beside.

    name, unit: what is done, and what is counted.
    total: how many there are.
    done: how many of them need not be done any more.
    """

    def __init__(
        self, name: str, total: int, unit: str, console: Console, done: int = 0
    ):
        self.name, self.total, self.unit, self.console = name, total, unit, console
        self.done, self.values = done, ""
        self.started = self.printed = time.monotonic()
        self.progress = Progress(
            TextColumn(f"{name:<14}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(
            "", total=total, completed=done, values="compiling"
        )
        self.progress.start()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        self._set(done, values)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = now
            self._print()

    def finish(self, done: int, values: Mapping[str, float]) -> None:
        """Shows the last values; they stay."""
        self._set(done, values)
        self.close()
        if not self.console.is_terminal:
            self._print()

    def close(self) -> None:
        """Gives the terminal back."""
        self.progress.stop()

    def _set(self, done: int, values: Mapping[str, float]) -> None:
        self.done = done
        self.values = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.update(self.task, completed=done, values=self.values)

    def _print(self) -> None:
        seconds = time.monotonic() - self.started
        done = f"{self.done:,}/{self.total:,} {self.unit}"
        line = f"{self.name:<14} {done}  {seconds:.1f} s  {self.values}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
