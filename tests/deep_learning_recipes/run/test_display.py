"""What a person sees, at several widths, and what the live line says of `main`."""

import io
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from deep_learning_recipes.run.display import Display, step_of_main


def screen(width):
    """A terminal of that width, and what was written to it."""
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    return console, text


def shown(line, width):
    console, text = screen(width)
    console.print(line.render(width))
    return text.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [60, 80, 109, 110, 140])
def test_the_line_fits_and_keeps_bar_count_time_left_and_a_value(width):
    display = Display(screen(width)[0])
    display.planned = 10
    display.begun = 2
    line = display.training("lenet", 1200, "epochs")
    line.started -= 30
    line.update(400, {"accuracy": 0.98, "loss": 0.0213, "val_loss": 0.0351})
    text = shown(line, width)
    assert "\n" not in text
    assert len(text) <= width
    assert text.startswith("3 of 10: lenet")
    assert "━━━" in text
    assert "400/1,200" in text
    assert "1:00 left" in text  # thirty seconds for a third of them
    assert "val_loss 0.0351" in text
    assert ("accuracy 0.98" in text) is (width >= 110)
    assert ("epochs" in text) is (width >= 110)


def test_a_training_alone_is_not_numbered_and_other_progress_is_not_counted():
    display = Display(screen(80)[0])
    display.progress("grid search", 3, "rates")
    assert display.begun == 0
    assert display.training("mlp", 3, "epochs").name == "mlp"
    display.planned = 2
    assert display.training("mlp", 3, "epochs").name == "2 of 2: mlp"


def test_before_the_first_epoch_it_compiles():
    line = Display(screen(80)[0]).training("mlp", 3, "epochs", done=1)
    assert "compiling" in shown(line, 80)
    line.update(2, {"loss": 1.0})
    assert "compiling" not in shown(line, 80)


def test_what_ended_stays_with_as_many_values_as_fit():
    console, text = screen(60)
    line = Display(console).training("mlp", 3, "epochs")
    line.finish(3, {f"value_{i}": i / 7 for i in range(9)})
    (left,) = text.getvalue().splitlines()
    assert left.startswith("mlp  3/3 epochs  0.0 s  value_0 0")
    assert len(left) <= 60


def test_elsewhere_a_plain_line_has_all_values():
    text = io.StringIO()
    line = Display(Console(file=text, width=60)).training("mlp", 3, "epochs")
    line.finish(3, {f"value_{i}": i / 7 for i in range(9)})
    assert "value_8 1.143" in text.getvalue()


RECIPE = """
def main():
    draw_plane()

def draw_plane():
    _helper()

def _helper():
    [inner() for _ in range(1)]

def inner():
    started.set()
    wait.wait(10)
"""


def test_the_step_of_main_is_what_it_called_in_words():
    started, wait = threading.Event(), threading.Event()
    names = {"started": started, "wait": wait}
    exec(compile(RECIPE, "/somewhere/toy.py", "exec"), names)
    thread = threading.Thread(target=names["main"], daemon=True)
    thread.start()
    started.wait(10)
    assert step_of_main(thread.ident, Path("/somewhere/toy.py")) == "draw plane"
    assert step_of_main(thread.ident, Path("/somewhere/else.py")) == ""
    wait.set()


def test_between_trainings_the_live_line_says_what_goes_on():
    console, text = screen(80)
    started, wait = threading.Event(), threading.Event()
    names = {"started": started, "wait": wait}
    exec(compile(RECIPE, "/somewhere/toy.py", "exec"), names)
    thread = threading.Thread(target=names["main"], daemon=True)
    thread.start()
    started.wait(10)
    display = Display(console, recipe=Path("/somewhere/toy.py"))
    display.thread = thread.ident
    display.start()
    time.sleep(0.6)
    display.stop()
    assert re.search(r"draw plane \.\.\. \d+ s", text.getvalue())
    wait.set()
