"""`check` for the models of strangers: each is examined in a child process, with limits
of time and memory."""

import contextlib
import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from deep_learning_recipes.serving import findings
from deep_learning_recipes.serving.findings import FAULT, Findings

SECONDS = 60.0
"""for a version, and one more for each BYTES_A_SECOND of its files"""
BYTES_A_SECOND = 2**25
BYTES = 2**31
"""of memory beside what TensorFlow takes by itself, and four times that of the files"""
SECONDS_TO_START = 300.0
SECONDS_TO_END = 5.0


def check(folder: Path) -> bool:
    """Checks all versions in `folder` and prints one line for each finding; graphs that
    reach for files, the network or Python are not run. True if there is no fault.
    Raises UsageError if there is no version.
    """
    with Examiner() as examiner:
        return findings.show(folder, examiner.examine)


class Examiner(contextlib.ExitStack):
    """A child process that examines one path after the other. It is started anew after
    one that ended it."""

    process: multiprocessing.process.BaseProcess | None = None
    connection: Connection

    def examine(self, path: Path) -> Findings:
        if self.process is None:
            self.process = self.start()
        size = bytes_of(path)
        seconds = SECONDS + size / BYTES_A_SECOND
        try:
            self.connection.send((str(path), BYTES + 4 * size))
            if self.connection.poll(seconds):
                return json.loads(self.connection.recv_bytes())
            why = f"took longer than {seconds:.0f} seconds"
        except (EOFError, OSError):
            why = "ended the process that ran it"
            self.process.join(SECONDS_TO_END)
            if (code := self.process.exitcode) and code < 0:
                why += f" by {signal.Signals(-code).name}"
        self.stop()
        return [(FAULT, f"{why}, in {BYTES + 4 * size:,} bytes of memory; see --trust")]

    def start(self) -> multiprocessing.process.BaseProcess:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        process = context.Process(target=answer, args=[other], daemon=True)
        process.start()
        other.close()
        self.callback(self.stop)
        # The time that TensorFlow takes to start is not the model's. Should it not
        # start, the first path tells.
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll(SECONDS_TO_START):
                self.connection.recv_bytes()
        return process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def bytes_of(path: Path) -> int:
    """What a folder or a file takes on the disk: a file of holes says it is larger."""
    total = 0
    for each in [path, *path.rglob("*")]:
        with contextlib.suppress(OSError):  # it may be gone by now
            status = each.lstat()
            total += min(status.st_size, 512 * getattr(status, "st_blocks", 2**60))
    return total


def answer(connection: Connection) -> None:
    """What the child does: examines each path that comes, in as much memory as comes
    with it."""
    # oneDNN's allocator waits ten seconds for each piece of memory that it cannot have.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    from deep_learning_recipes.serving import check as unconfined

    # A graph may print without end.
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    connection.send_bytes(b"ready")
    while True:
        try:
            path, allowed = connection.recv()
        except EOFError:
            return
        limit_memory(allowed)
        try:
            found = unconfined.examine(Path(path), trust=False)
        except Exception as error:  # whatever lies in the folder
            found = [(FAULT, f"cannot be checked: {type(error).__name__}: {error}")]
        connection.send_bytes(json.dumps(found).encode())


def limit_memory(allowed: int) -> None:
    """Lets this process take `allowed` bytes more than it has. Only Linux can."""
    try:
        import resource

        status = Path("/proc/self/status").read_text()
    except (ImportError, OSError):
        return
    kilobytes = int(status.partition("VmData:")[2].split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * kilobytes + allowed, hard))
