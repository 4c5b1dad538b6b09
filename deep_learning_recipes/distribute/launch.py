"""Starts the tasks of a cluster as processes of this machine, and stops them
together."""

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


LEAST_MOST_PROCESSES = 16


def most_processes() -> int:
    """How many processes of a cluster, or logical CPUs, this machine may be asked for:
    one for each core, but 16 to try things out on a small one."""
    return max(LEAST_MOST_PROCESSES, os.cpu_count() or 1)


class Task:
    """One process of the cluster, its output passed on line by line."""

    def __init__(
        self, program: list[str], cluster: dict[str, list[str]], kind: str, index: int
    ):
        self.kind = kind
        self.name = f"{kind} {index}"
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        config = {"cluster": cluster, "task": {"type": kind, "index": index}}
        self.process = subprocess.Popen(
            [sys.executable, *program],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(config),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C reaches the launcher alone, which passes it on
            start_new_session=True,
        )

    def follow(self, ended: "queue.Queue[Task]") -> None:
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


def launch(program: list[str], workers: int, parameter_servers: int = 0) -> int:
    """Runs `python PROGRAM` in `workers` processes that find each other by TF_CONFIG;
    with parameter servers in one for each of these and one for the chief besides.

    Returns 0 if all ended well. When one fails all are stopped, its last lines are
    printed, and its code is returned (128 + N where signal N ended it); 130 after
    Ctrl-C. Next to parameter servers a worker that a signal ended is not missed as long
    as another is left.
    """
    counts = {"worker": workers}
    if parameter_servers:
        counts = {"ps": parameter_servers, "worker": workers, "chief": 1}
    ports = iter(free_ports(sum(counts.values())))
    cluster = {
        kind: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
        for kind, count in counts.items()
    }
    warn_of_open_ports(cluster)
    started: list[Task] = []
    ended: queue.Queue[Task] = queue.Queue()
    # SIGTERM, as from a batch system, stops all just as Ctrl-C does.
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stopping(started):
            for kind, count in counts.items():
                for index in range(count):
                    task = Task(program, cluster, kind, index)
                    started.append(task)
                    threading.Thread(
                        target=task.follow, args=(ended,), daemon=True
                    ).start()
            failed = wait(ended, counts)
    except KeyboardInterrupt:
        print("interrupted: all workers are stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, usual)
    return report(failed, of=len(started)) if failed else 0


def wait(ended: "queue.Queue[Task]", counts: dict[str, int]) -> Task | None:
    """Returns when all tasks have ended well, or the first that failed and is
    missed."""
    workers = counts["worker"]
    for _ in range(sum(counts.values())):
        task = ended.get()
        code = task.process.returncode
        if code == 0:
            continue
        workers -= task.kind == "worker"
        if "ps" not in counts or task.kind != "worker" or code > 0 or workers == 0:
            return task
        print(
            f"{task.name} ended {how(code)}; training goes on with {workers}",
            file=sys.stderr,
        )
    return None


@contextlib.contextmanager
def stopping(tasks: list[Task]) -> Iterator[None]:
    """At the end interrupts all that still run, and kills what has not stopped soon
    after."""
    try:
        yield
    finally:
        running = [task for task in tasks if task.process.poll() is None]
        for task in running:
            task.send(signal.SIGINT)
        for task in running:
            try:
                task.process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                task.send(signal.SIGKILL)
                task.process.wait()


def report(task: Task, of: int) -> int:
    """Says how the task ended that failed first, and gives the exit code."""
    code = task.process.returncode
    print(
        f"\n{task.name} ended {how(code)}; all {of} are stopped. Its last lines:",
        file=sys.stderr,
    )
    sys.stderr.writelines(f"    {line}" for line in task.last_lines)
    return code if code > 0 else 128 - code


def how(code: int) -> str:
    """In words, how a process ended that did not end well."""
    return f"with code {code}" if code > 0 else f"by {signal.Signals(-code).name}"


def warn_of_open_ports(cluster: dict[str, list[str]]) -> None:
    """TensorFlow binds its servers to all interfaces, whatever address TF_CONFIG says,
    and lets everybody in. Without an interface but loopback nobody gets there."""
    if len(socket.if_nameindex()) > 1:
        ports = [
            int(address.rpartition(":")[2])
            for addresses in cluster.values()
            for address in addresses
        ]
        print(
            "warning: TensorFlow's servers let in whoever reaches this machine, to read "
            "and write files; where others do, close the ports by iptables and ip6tables "
            f"-I INPUT ! -i lo -p tcp --syn --dport {min(ports)}:{max(ports)} -j DROP, "
            "or start all under unshare --user --map-root-user --net (see README)",
            file=sys.stderr,
        )


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nothing listens on."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
