"""The seconds before a recipe runs, in a real terminal: TensorFlow is played by a module
that does what the test needs."""

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command

NOISE = "import os; os.write(2, b'oneDNN custom operations are on\\n')\n"


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *arguments, tensorflow=None):
        environment = dict(os.environ, TERM="xterm-256color")
        path = [str(ROOT)]
        if tensorflow is not None:
            Path("fake").mkdir()
            Path("fake/tensorflow.py").write_text(tensorflow)
            path = [str(Path("fake").resolve()), *path]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        self.process, self.screen = pty.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.execve(sys.executable, [sys.executable, *arguments], environment)
        self.text = ""

    def read_until(self, words, timeout=60):
        """Waits until the words were shown, or the program ended."""
        deadline = time.monotonic() + timeout
        while words is None or words not in self.text:
            assert time.monotonic() < deadline, self.text
            ready, _, _ = select.select([self.screen], [], [], 1)
            try:
                part = os.read(self.screen, 65536) if ready else b" "
            except OSError:  # it ended
                part = b""
            if not part:
                break
            if ready:
                self.text += part.decode(errors="replace")
        return self

    def finish(self):
        """Its exit code; what it showed is in `text`."""
        self.read_until(None)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def test_the_first_line_stands_before_tensorflow_is_asked_for():
    terminal = Terminal(
        "-m", "recipes.mlp", tensorflow="import time; time.sleep(60)"
    ).read_until("...")
    assert terminal.text == "mlp: loading TensorFlow ..."
    os.kill(terminal.process, signal.SIGKILL)
    terminal.finish()


def test_ctrl_c_while_it_loads_ends_with_one_line():
    terminal = Terminal(
        "-m", "recipes.mlp", tensorflow="import time; time.sleep(60)"
    ).read_until("...")
    time.sleep(0.3)  # it is in the import now
    os.kill(terminal.process, signal.SIGINT)
    assert terminal.finish() == 130
    assert "Traceback" not in terminal.text
    assert terminal.text.endswith("mlp: interrupted while it was loading\r\n")


def test_seconds_are_counted_while_it_takes_long():
    terminal = Terminal(
        "-m", "recipes.mlp", tensorflow="import time; time.sleep(60)"
    ).read_until("2 s")
    os.kill(terminal.process, signal.SIGKILL)
    terminal.finish()


def test_what_tensorflow_says_is_shown_if_it_fails():
    terminal = Terminal(
        "-m", "recipes.mlp", tensorflow=NOISE + "raise ImportError('no AVX here')"
    )
    assert terminal.finish() == 1
    assert "oneDNN custom operations are on" in terminal.text
    assert "no AVX here" in terminal.text


@pytest.mark.parametrize(("flags", "shown"), [((), False), (("--verbose",), True)])
def test_what_tensorflow_says_is_kept_aside_unless_asked_for(flags, shown):
    # After the import this TensorFlow has nothing that the recipe could use.
    terminal = Terminal("-m", "recipes.mlp", *flags, tensorflow=NOISE)
    assert terminal.finish() == 1
    assert ("oneDNN" in terminal.text) is shown


@pytest.mark.parametrize("name", ["mlpp", "lennet", "recipes"])
def test_a_mistyped_recipe_is_one_line_with_the_nearest_name(name):
    finished = command("-m", f"recipes.{name}", cwd=ROOT)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: there is no recipe '{name}'")
    if name != "recipes":
        assert "did you mean " in line


BAD_FLAGS = """
import fcntl, struct, sys, termios
from recipes import mlp
from deep_learning_recipes import UsageError
from deep_learning_recipes.run.command_line import parse_flags

for width in (60, 80, 120):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    for flags in (["--presett", "quick"], ["--epochs", "ten"], ["--precision", "8"], ["--x"]):
        try:
            parse_flags("mlp", mlp.QUICK, flags)
        except UsageError as error:
            print(f"{width}: {error}", flush=True)
"""


def test_a_mistyped_flag_is_one_clean_line_at_any_width():
    terminal = Terminal("-c", BAD_FLAGS)
    assert terminal.finish() == 0, terminal.text
    lines = [line for line in terminal.text.splitlines() if re.match(r"\d+: ", line)]
    for width in (60, 80, 120):
        assert [line for line in lines if line.startswith(f"{width}:")] == [
            f"{width}: Unrecognized options: --presett, quick; did you mean --preset?",
            f"{width}: Error parsing --epochs: invalid literal for int() with base 10: "
            "'ten'; see --help",
            f"{width}: invalid choice '8' for argument '--precision'. Expected one of "
            "('float32', 'mixed_float16', 'mixed_bfloat16').; see --help",
            f"{width}: Unrecognized options: --x; see --help",
        ]
