"""A cluster on this machine: its output, and how it ends when a worker does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command

from deep_learning_recipes.distribute.launch import warn_of_open_ports

LAUNCH = ["-m", "deep_learning_recipes.distribute", "launch"]

TOY = '''
"""A toy.

Learns a sum.

Lectures: SEL DL basics
Paper: None, 2000
"""
from dataclasses import dataclass

import keras
import numpy as np

from deep_learning_recipes import training
from deep_learning_recipes.run import cli


@dataclass
class Config:
    epochs: int = 40
    """passes over the data"""


def main(config, run):
    x = np.random.default_rng(0).normal(size=(2_001, 8)).astype("float32")
    for name in ("first", "second"):
        inputs = hidden = keras.Input((8,))
        hidden = keras.layers.Dense(64, activation="relu")(hidden)
        hidden = keras.layers.Dropout(0.2)(hidden)
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden), name=name)
        model.compile("adam", "mse")
        history = training.fit(
            model, x, x.sum(axis=1), epochs=config.epochs, callbacks=run.callbacks
        ).history
        run.metric(f"{name}_epochs", len(history["loss"]))
    run.metric("loss", history["loss"][-1])
    run.claim("It learns", holds=history["loss"][-1] < 10, measured=str(history["loss"][-1]))


if __name__ == "__main__":
    cli(main, quick=Config(), full=Config())
'''


def write(program):
    Path("program.py").write_text(program)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, *LAUNCH, "--workers", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process_id):
    status = Path(f"/proc/{process_id}/stat")
    return (
        not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    )


def test_each_worker_is_told_its_place_and_its_lines_begin_with_its_name():
    write("import os, sys; print(os.environ['TF_CONFIG'], sys.argv[1:])")
    finished = command(*LAUNCH, "--workers", "3", "program.py", "--epochs", "2")
    assert finished.returncode == 0, finished.stderr
    lines = sorted(finished.stdout.splitlines())
    assert len(lines) == 3
    clusters = []
    for index, line in enumerate(lines):
        prefix = f"[worker {index}] "
        assert line.startswith(prefix)
        config, _, arguments = line.removeprefix(prefix).rpartition(" [")
        assert arguments == "'--epochs', '2']"
        config = json.loads(config)
        assert config["task"] == {"type": "worker", "index": index}
        clusters.append(config["cluster"]["worker"])
    assert clusters[0] == clusters[1] == clusters[2]
    assert len(set(clusters[0])) == 3
    assert all(address.startswith("127.0.0.1:") for address in clusters[0])


FAILS_AT_ONE = """
import json, os, sys, time
print("process", os.getpid())
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    print("all is lost")
    {end}
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("end", "code", "how"),
    [
        ("sys.exit(5)", 5, "with code 5"),
        ("os.kill(os.getpid(), 9)", 137, "by SIGKILL"),
    ],
)
def test_when_one_dies_all_are_stopped_and_its_last_lines_shown(end, code, how):
    write(FAILS_AT_ONE.format(end=end))
    started = time.monotonic()
    finished = command(*LAUNCH, "program.py")
    assert time.monotonic() - started < 30
    assert finished.returncode == code
    assert (
        f"worker 1 ended {how}; all 2 are stopped. Its last lines:" in finished.stderr
    )
    assert "    all is lost\n" in finished.stderr
    processes = [
        line.split()[-1] for line in finished.stdout.splitlines() if "process" in line
    ]
    assert len(processes) >= 1
    assert all(is_gone(each) for each in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_termination_stop_all(number):
    write(
        "import os, pathlib, time; pathlib.Path(str(os.getpid())).touch(); time.sleep(600)"
    )
    process = start("program.py")
    wait_for(
        lambda: len([p for p in Path().iterdir() if p.name.isdecimal()]) == 2, process
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted: all workers are stopped"
    assert all(is_gone(path.name) for path in Path().iterdir() if path.name.isdecimal())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "launch: name the program to start"),
        (["--workers", "0", "program.py"], "--workers 0: it must be at least 1"),
        (["--workers", "100000", "program.py"], "--workers 100000: this machine takes"),
        (
            ["--parameter-servers", "9" * 30, "program.py"],
            f"--parameter-servers {'9' * 30}: this machine takes",
        ),
        (["--workers", "x", "program.py"], "launch: argument --workers: invalid int"),
        (["--workers"], "launch: argument --workers: expected one argument"),
        (["--hosts", "a", "program.py"], "launch: unrecognized arguments: --hosts a"),
    ],
)
def test_bad_input_gets_one_line(arguments, message):
    finished = command(*LAUNCH, *arguments)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {message}")
    assert finished.stderr.count("\n") == 1


CLUSTER = {"worker": ["127.0.0.1:40000", "127.0.0.1:30000"], "ps": ["127.0.0.1:35000"]}


def test_open_ports_are_told_with_the_rule_that_closes_them(monkeypatch, capsys):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    warn_of_open_ports(CLUSTER)
    told = capsys.readouterr().err
    assert told.startswith("warning: ")
    assert told.count("\n") == 1
    assert "! -i lo -p tcp --syn --dport 30000:40000 -j DROP" in told


def test_where_nobody_gets_there_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo")])
    warn_of_open_ports(CLUSTER)
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_after_kill_9_of_a_worker_resume_ends_with_the_same_weights():
    write(TOY.strip())
    whole = command(*LAUNCH, "program.py", "--out", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert (
        "[worker 0] program · default preset · seed 0 · worker 1 of 2 (TF_CONFIG)"
        in whole.stdout
    )
    assert "second_epochs" in whole.stdout
    assert not [
        line
        for line in whole.stdout.splitlines()
        if "[worker 1]" in line and "loss" in line
    ]

    process = start("program.py", "--out", "killed")
    wait_for(Path("killed/checkpoints/02-second.npz").exists, process)
    workers = (
        Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    )
    os.kill(int(workers[1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 137
    assert not json.loads(Path("killed/metrics.json").read_text())["finished"]

    resumed = command(*LAUNCH, "program.py", "--out", "killed", "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for name in ("01-first", "02-second"):
        expected, found = (
            np.load(f"{f}/checkpoints/{name}.npz") for f in ("whole", "killed")
        )
        assert set(expected.files) == set(found.files)
        for key in expected.files:
            np.testing.assert_array_equal(expected[key], found[key])
    records = [
        json.loads(Path(f, "metrics.json").read_text()) for f in ("whole", "killed")
    ]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[1]["metrics"]["second_epochs"]["value"] == 40


def test_a_worker_whose_peer_is_gone_says_so():
    write(TOY.strip())
    process = start("program.py", "--out", "here", "--epochs", "5000")
    wait_for(Path("here/checkpoints/01-first.npz").exists, process)
    workers = (
        Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    )
    process.send_signal(
        signal.SIGSTOP
    )  # so that the launcher does not stop the other first
    os.kill(int(workers[1]), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not is_gone(workers[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGCONT)
    printed, _ = process.communicate(timeout=60)
    assert (
        "[worker 0] error: another worker is gone; start all of them again" in printed
    )
