"""Strategies by name, in processes of their own: devices are laid out once a
process."""

import json
import os
import time
from pathlib import Path

import pytest
from conftest import command

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute import parameter_server, strategies

CLUSTER = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}


def test_without_anything_auto_takes_the_cpu():
    program = "from deep_learning_recipes.distribute import strategies as s; print(s.strategy()[1])"
    assert command("-c", program).stdout.startswith(f"CPU ({os.cpu_count()} cores)")


@pytest.mark.parametrize("name", ["", "local", "grpc://127.0.0.1:1", "nowhere"])
def test_without_a_tpu_one_line_within_five_seconds(monkeypatch, name):
    monkeypatch.setenv("TPU_NAME", name)
    started = time.monotonic()
    with pytest.raises(UsageError, match="--strategy tpu: ") as error:
        strategies.strategy("tpu")
    assert time.monotonic() - started < 5
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["grpc://h:x", "grpc://h:", "grpc://h:0", "grpc://h:70000"]
)
def test_an_address_of_a_tpu_without_a_port(monkeypatch, name):
    monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(
        UsageError, match=f"^--strategy tpu: TPU_NAME is {name}, .* grpc://HOST:PORT"
    ):
        strategies.strategy("tpu")


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "2.0", "99999", "9" * 5000])
def test_a_count_of_mirrored_devices_that_this_machine_has_not(count):
    name = f"mirrored:{count}"
    started = time.monotonic()
    with pytest.raises(UsageError, match=f"^--strategy {name}: N must be a whole numb"):
        strategies.strategy(name)
    assert time.monotonic() - started < 1


def test_auto_goes_by_the_environment(monkeypatch):
    monkeypatch.setenv("TPU_NAME", "local")
    with pytest.raises(UsageError, match="--strategy tpu"):
        strategies.strategy("auto")
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    with pytest.raises(UsageError, match="TF_CONFIG"):
        strategies.strategy("auto")


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"cluster": {}}',
        json.dumps({**CLUSTER, "task": {"type": "worker", "index": 2}}),
        json.dumps({**CLUSTER, "task": {"type": "worker", "index": -1}}),
        json.dumps({**CLUSTER, "task": {"type": "worker", "index": -2}}),
        json.dumps({**CLUSTER, "task": {"type": "chief", "index": 0}}),
        json.dumps({**CLUSTER, "task": {"type": "worker", "index": "0"}}),
        '{"cluster": {"worker": ["127.0.0.1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:70000"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:-1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_tf_config_that_makes_no_sense(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="^TF_CONFIG: it must be "):
        strategies.worker_number()


@pytest.mark.parametrize(
    ("cluster", "found"),
    [
        ({"worker": ["a:1"]}, "0 chief, 1 worker, 0 ps"),
        ({"worker": ["a:1"], "ps": ["a:2"]}, "0 chief, 1 worker, 1 ps"),
        (
            {"worker": ["a:1"], "ps": ["a:2"], "chief": ["a:3", "a:4"]},
            "2 chief, 1 worker, 1 ps",
        ),
    ],
)
def test_parameter_servers_need_a_cluster_of_their_kind(monkeypatch, cluster, found):
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(
        UsageError, match=f"^TF_CONFIG: parameter_server needs .* not {found}$"
    ):
        strategies.strategy("parameter_server")


def test_a_cluster_with_parameter_servers_is_taken_for_that(monkeypatch):
    cluster = {
        "chief": ["127.0.0.1:1"],
        "worker": ["127.0.0.1:2"],
        "ps": ["127.0.0.1:3"],
    }
    for kind in ("worker", "ps"):
        config = {"cluster": cluster, "task": {"type": kind, "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        server, place = strategies.strategy("auto")
        assert isinstance(server, parameter_server.Server)
        assert place == f"{kind} 0 of 1 workers, 1 ps (TF_CONFIG)"
        with pytest.raises(
            UsageError, match="names parameter servers; use parameter_server$"
        ):
            strategies.strategy("multi_worker")
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(
        UsageError, match="not set; try .* launch --workers 2 --parameter-servers"
    ):
        strategies.strategy("parameter_server")


def test_who_never_starts_is_named(monkeypatch):
    monkeypatch.setattr(parameter_server, "SECONDS_TO_START", 0.3)
    cluster = {
        "chief": ["127.0.0.1:1"],
        "worker": ["127.0.0.1:1"],
        "ps": ["127.0.0.1:1"],
    }
    with pytest.raises(
        UsageError, match="^TF_CONFIG: ps 0 does not answer at 127.0.0.1:1$"
    ):
        parameter_server.connect(cluster)


def test_an_unknown_name_gets_a_near_one():
    with pytest.raises(
        UsageError, match="--strategy parameter-server: .*mean parameter_server"
    ):
        strategies.strategy("parameter-server")


def test_the_chief_comes_before_the_workers(monkeypatch):
    cluster = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2", "127.0.0.1:3"]}
    numbers = []
    for kind, index in (("chief", 0), ("worker", 0), ("worker", 1)):
        config = {"cluster": cluster, "task": {"type": kind, "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        numbers.append(strategies.worker_number())
    assert numbers == [0, 1, 2]
    monkeypatch.delenv("TF_CONFIG")
    assert strategies.worker_number() is None
    with pytest.raises(
        UsageError, match="multi_worker: TF_CONFIG is not set; try .* launch"
    ):
        strategies.strategy("multi_worker")


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("mlp", ("--shapes", "linear", "128", "--restarts", "1")),
        pytest.param("lenet", (), marks=pytest.mark.long),
        pytest.param("vae", (), marks=pytest.mark.long),
    ],
)
def test_the_quick_preset_under_two_replicas(recipe, flags):
    arguments = ("--preset", "quick", "--strategy", "mirrored:2", "--export", "models")
    finished = command("-m", f"recipes.{recipe}", *arguments, *flags, "--out", "here")
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    assert "2 logical CPUs, mirrored" in finished.stdout.splitlines()[0]
    assert "FAILS" not in finished.stdout


def test_a_state_that_lives_on_one_device_is_said_in_one_line():
    arguments = ("--preset", "quick", "--strategy", "mirrored:2", "--out", "here")
    finished = command("-m", "recipes.char_rnn", *arguments)
    assert finished.returncode == 2
    message = "error: --strategy: 'char_rnn' takes batches of one size only"
    assert finished.stderr.splitlines()[-1].startswith(message)


@pytest.mark.long
def test_the_quick_preset_of_two_workers():
    launch = ("-m", "deep_learning_recipes.distribute", "launch", "--workers", "2")
    arguments = (
        "-m",
        "recipes.lenet",
        "--preset",
        "quick",
        "--out",
        "here",
        "--export",
        "models",
    )
    finished = command(*launch, *arguments)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    versions = [path.name for path in Path("models/lenet").iterdir() if path.is_dir()]
    assert versions == ["1"]
