"""The seconds before a recipe runs, while TensorFlow loads: a first line at once, no noise,
and a Ctrl-C that ends it with one line.

Importing this costs nothing. `recipes/__init__.py` calls `begin`, `run.cli` calls `end`.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

# Exit codes. Python itself ends with 1 where a program crashes.
BAD_INPUT = 2
WORKER_GONE = 3
CLAIM_FAILED = 4
INTERRUPTED = 130

_own_handler = False
_loaded = threading.Event()
_counter: threading.Thread | None = None


def begin(name: str, *, verbose: bool) -> None:
    """Says that the recipe `name` is on its way, and imports TensorFlow.

    verbose: let TensorFlow's own start-up lines through. Otherwise they are shown only if
        the import fails.
    """
    global _own_handler, _counter
    screen = os.dup(2)
    line = f"{name}: loading TensorFlow ..."
    if sys.stderr.isatty():
        _counter = threading.Thread(
            target=_count_seconds, args=(screen, line), daemon=True
        )
        _counter.start()
    else:
        print(line, file=sys.stderr, flush=True)

    def interrupted(*_: Any) -> None:
        # Nothing is open yet that could be lost, and an exception might be swallowed
        # by whatever import it falls into.
        os.write(screen, f"\n{name}: interrupted while it was loading\n".encode())
        os._exit(INTERRUPTED)

    # A job in the background is started deaf to Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
        _own_handler = True

    with contextlib.nullcontext() if verbose else _errors_kept_aside(screen):
        import tensorflow  # noqa: F401


def end() -> None:
    """Takes the line away again, and gives Ctrl-C back to Python."""
    global _own_handler
    if _counter is not None:
        _loaded.set()
        _counter.join()
    if _own_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _own_handler = False


def _count_seconds(screen: int, line: str) -> None:
    """Shows on a terminal that something goes on, until `end` is called."""
    started = time.monotonic()
    while True:
        seconds = time.monotonic() - started
        text = f"\r{line} {seconds:.0f} s" if seconds >= 1 else line
        os.write(screen, text.encode())
        if _loaded.wait(timeout=1):
            break
    os.write(screen, b"\r\033[2K")


@contextlib.contextmanager
def _errors_kept_aside(screen: int) -> Iterator[None]:
    """Nothing reaches standard error meanwhile, not even from C++ (tensorflow#100442);
    what was written is shown if it ends in an error."""
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            end()
            aside.seek(0)
            os.write(screen, aside.read())
            raise
        finally:
            os.dup2(screen, 2)
