"""What a person sees while a run works.

On a terminal one live line at the bottom says what is going on: a training's progress,
or the step of the recipe's `main` that is being worked on. What ended stays above it.
Elsewhere plain lines come now and then.
"""

import math
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
REFRESHES_A_SECOND = 4
NARROW = 110  # columns; below it the line keeps what matters most
PACKAGE = Path(__file__).parent.parent


class Display:
    """The live line of a run, and the lines that it leaves behind.

    console: where to.
    recipe: the recipe's file, whose `main` is watched; None: nothing is said between two
        trainings.
    """

    def __init__(self, console: Console | None = None, recipe: Path | None = None):
        self.console = console or Console()
        self.recipe = recipe
        self.planned = 0
        """how many trainings there will be; 0: not known"""
        self.begun = 0
        """how many have begun"""
        self.line: ProgressLine | None = None
        self.diverged: ProgressLine | None = None
        """the first training of which a value is no finite number any more"""
        self.thread = threading.get_ident()
        self.spinner = Spinner("dots")
        self.step = ""
        self.since = time.monotonic()
        self.live = Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=REFRESHES_A_SECOND,
            transient=True,
        )

    def start(self) -> None:
        """Takes the bottom line of the terminal."""
        if self.console.is_terminal:
            self.live.start()

    def stop(self) -> None:
        """Gives the terminal back."""
        self.live.stop()

    def training(
        self, name: str, total: int, unit: str, done: int = 0
    ) -> "ProgressLine":
        """The progress of one training or loop. See `ProgressLine`."""
        self.begun += 1
        if self.planned > 1:
            name = f"{self.begun} of {self.planned}: {name}"
        return self.progress(name, total, unit, done)

    def progress(
        self, name: str, total: int, unit: str, done: int = 0
    ) -> "ProgressLine":
        """The progress of something that is no training."""
        self.line = ProgressLine(self, name, total, unit, done)
        return self.line

    def _render(self) -> Table | Text | Spinner:
        if self.line is not None:
            return self.line.render(self.console.width)
        step = step_of_main(self.thread, self.recipe) if self.recipe else ""
        if step != self.step:
            self.step = step
            self.since = time.monotonic()
        if not step:
            return Text("")
        seconds = time.monotonic() - self.since
        self.spinner.update(text=f"{step} ... {seconds:.0f} s")
        return self.spinner


class ProgressLine:
    """How much of a training is done, with a few values beside.

    name, unit: what is done, and what is counted.
    total: how many there are.
    done: how many of them need not be done any more.
    """

    def __init__(self, display: Display, name: str, total: int, unit: str, done: int):
        self.display = display
        self.name = name
        self.total = total
        self.unit = unit
        self.first = done
        self.done = done
        self.values: dict[str, float] = {}
        self.started = self.printed = time.monotonic()

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """So many are done, with these values."""
        self._take(done, values)
        now = time.monotonic()
        is_due = now - self.printed > SECONDS_BETWEEN_LINES and done < self.total
        if is_due and not self.display.console.is_terminal:
            self.printed = now
            self._print()

    def finish(self, done: int, values: Mapping[str, float]) -> None:
        """Leaves the last values behind, as a plain line."""
        self._take(done, values)
        self.close()
        self._print()

    def _take(self, done: int, values: Mapping[str, float]) -> None:
        self.done = done
        self.values = dict(values)
        is_finite = all(map(math.isfinite, self.values.values()))
        if not is_finite and self.display.diverged is None:
            self.display.diverged = self
        elif is_finite and self.display.diverged is self:
            self.display.diverged = None  # a mean over nothing yet, at the start

    def says_of_divergence(self) -> str:
        """'lenet: loss is nan after 3 epochs'."""
        name = next(
            each for each, value in self.values.items() if not math.isfinite(value)
        )
        value = self.values[name]
        return f"{self.name}: {name} is {value} after {self.done:,} {self.unit}"

    def close(self) -> None:
        """Takes the line away."""
        self.display.line = None

    def render(self, width: int) -> Table:
        """The live line: name, bar, count, time left, values as far as there is room."""
        is_narrow = width < NARROW
        count = f"{self.done:,}/{self.total:,}"
        if not is_narrow:
            count += f" {self.unit}"

        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=width // 3)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True)
        row.add_row(
            Text(self.name),
            ProgressBar(self.total, self.done, width=None),
            Text(count),
            Text(self._time_left()),
            Text(self._some_values(1 if is_narrow else 3)),
        )
        return row

    def _time_left(self) -> str:
        seconds = time.monotonic() - self.started
        if self.done == self.first:
            return f"{seconds:.0f} s"  # it compiles
        left = seconds / (self.done - self.first) * (self.total - self.done)
        return f"{left // 60:.0f}:{left % 60:02.0f} left"

    def _some_values(self, count: int) -> str:
        if not self.values:
            return "compiling" if self.done == self.first else ""
        # Of a training's logs, what was measured on held-out data tells most.
        names = sorted(self.values, key=lambda name: not name.startswith("val_"))
        return "  ".join(f"{name} {self.values[name]:.4g}" for name in names[:count])

    def _print(self) -> None:
        seconds = time.monotonic() - self.started
        done = f"{self.done:,}/{self.total:,} {self.unit}"
        line = f"{self.name}  {done}  {seconds:.1f} s"
        for name, value in self.values.items():
            longer = f"{line}  {name} {value:.4g}"
            if (
                self.display.console.is_terminal
                and len(longer) > self.display.console.width
            ):
                break
            line = longer
        self.display.console.print(line, markup=False, highlight=False, soft_wrap=True)


def step_of_main(thread: int, recipe: Path) -> str:
    """What the recipe's `main` has called and waits for, in words: "draw plane". Empty
    before `main` began and after it ended.

    thread: the identifier of the thread that runs it.
    """
    frame = sys._current_frames().get(thread)
    called = ""
    while frame is not None:
        code = frame.f_code
        is_ours = PACKAGE in Path(code.co_filename).parents
        if Path(code.co_filename) == recipe:
            if code.co_name == "main":
                return called or "measuring"
            is_ours = True
        if is_ours and code.co_name[0].isalpha():
            called = code.co_name.replace("_", " ")
        frame = frame.f_back
    return ""
