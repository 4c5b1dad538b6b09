"""Starts the workers of a cluster as processes of this machine, and stops them together."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator

LAST_LINES = 15
SECONDS_TO_STOP = 10.0
INTERRUPTED = 130


class Worker:
    """One process of the cluster, its output passed on line by line."""

    def __init__(self, program: list[str], cluster: dict[str, list[str]], kind: str, index: int):
        self.name = f"{kind} {index}"
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        config = {"cluster": cluster, "task": {"type": kind, "index": index}}
        self.process = subprocess.Popen(
            [sys.executable, *program],
            env={**os.environ, "TF_CONFIG": json.dumps(config), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on
        )

    def follow(self, ended: "queue.Queue[Worker]") -> None:
        """Passes the output on until the process ends, then reports it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last_lines.append(line)
            print(f"[{self.name}] {line}", end="", flush=True)
        self.process.wait()
        ended.put(self)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process and those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def launch(program: list[str], workers: int) -> int:
    """Runs `python PROGRAM` in `workers` processes that find each other by TF_CONFIG.

    Returns 0 if all ended well. When one fails all are stopped, its last lines are printed, and its
    code is returned (128 + N where signal N ended it); 130 after Ctrl-C.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(workers)]}
    started: list[Worker] = []
    ended: queue.Queue[Worker] = queue.Queue()
    # SIGTERM, as from a batch system, stops all just as Ctrl-C does.
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stopping(started):
            for index in range(workers):
                worker = Worker(program, cluster, "worker", index)
                started.append(worker)
                threading.Thread(target=worker.follow, args=(ended,), daemon=True).start()
            for _ in range(workers):
                worker = ended.get()
                if worker.process.returncode != 0:
                    break
    except KeyboardInterrupt:
        print("interrupted: all workers are stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, usual)
    return report(worker, of=workers)


@contextlib.contextmanager
def stopping(workers: list[Worker]) -> Iterator[None]:
    """At the end interrupts all that still run, and kills what has not stopped soon after."""
    try:
        yield
    finally:
        running = [worker for worker in workers if worker.process.poll() is None]
        for worker in running:
            worker.send(signal.SIGINT)
        for worker in running:
            try:
                worker.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                worker.send(signal.SIGKILL)
                worker.process.wait()


def report(worker: Worker, of: int) -> int:
    """Says how the worker ended that ended first with an error, if any, and gives the exit code."""
    code = worker.process.returncode
    if code == 0:
        return 0
    how = f"with code {code}" if code > 0 else f"by {signal.Signals(-code).name}"
    print(f"\n{worker.name} ended {how}; all {of} are stopped. Its last lines:", file=sys.stderr)
    sys.stderr.writelines(f"    {line}" for line in worker.last_lines)
    return code if code > 0 else 128 - code


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
