"""Damaged files: a resumed run says what is wrong, or goes on from what is whole."""

import json
import os
import stat
from pathlib import Path

import keras
import numpy as np
import pytest
from test_run import Config, run_cli

from deep_learning_recipes import UsageError, files, training
from deep_learning_recipes.files import previous, replacing
from deep_learning_recipes.run import checkpoint
from deep_learning_recipes.run.loop import Loop
from deep_learning_recipes.run.recorder import Recorder


def interrupted(config, run):
    run.metric("accuracy", 0.5)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "{}",
        "[]",
        "7",
        "null",
        '{"config": 1, "options": {}}',
        '{"config": {"epochs": 20}}',
        '{"config": {"epoch": 20}, "options": {}}',
        '{"config": {"epochs": "many"}, "options": {}}',
        '{"config": {"widths": 3}, "options": {}}',
        '{"config": {}, "options": {"speed": 3}}',
        '{"config": {}, "options": {"seed": "x"}}',
        b"\xff\xfe\x00",
    ],
)
def test_damaged_settings_get_one_line(monkeypatch, capsys, settings):
    assert run_cli(monkeypatch, "--out", "here", main=interrupted) == 130
    capsys.readouterr()
    raw = settings if isinstance(settings, bytes) else settings.encode()
    Path("here/config.json").write_bytes(raw)
    assert run_cli(monkeypatch, "--out", "here", "--resume") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --resume: here ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("record", ["", "[]", "{", '{"finished"', "{}", b"\xff"])
def test_a_damaged_record_is_written_anew(monkeypatch, record):
    assert run_cli(monkeypatch, "--out", "here", main=interrupted) == 130
    raw = record if isinstance(record, bytes) else record.encode()
    Path("here/metrics.json").write_bytes(raw)
    assert run_cli(monkeypatch, "--out", "here", "--resume") == 0
    assert json.loads(Path("here/metrics.json").read_text())["finished"]


def test_tuples_are_tuples_again(monkeypatch):
    seen = []

    def main(config, run):
        seen.append(config)

    arguments = ("--widths", "3", "5", "--out", "here")
    assert run_cli(monkeypatch, *arguments, main=interrupted) == 130
    assert run_cli(monkeypatch, *arguments, "--resume", main=main) == 0
    assert seen == [Config(widths=(3, 5))]


DAMAGE = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "end lost": lambda whole: whole[:-30],
    "junk": lambda whole: bytes(range(256)) * 20,
    "zeros": lambda whole: bytes(len(whole)),
    "one byte": lambda whole: whole[:100] + bytes([whole[100] ^ 255]) + whole[101:],
}


def count_to(total, path, stop_at=None, resume=True):
    """A loop that counts, and where it began."""
    seen = np.zeros(1, int)
    loop = Loop(path, total, {"seen": seen}, name="count", resume=resume)
    begun = loop.done
    assert int(seen[0]) == begun
    for step in loop:
        if step == stop_at:
            break
        seen[0] += 1
        loop.save() if step < total - 1 else None
    return begun


@pytest.fixture
def two_checkpoints(monkeypatch):
    monkeypatch.setattr("deep_learning_recipes.run.loop.SECONDS_BETWEEN_SAVES", 99)
    path = Path("loop.npz")
    for done in (3, 4):
        arrays = {"state.seen": np.array([done]), "done": np.array(done)}
        checkpoint.save(path, arrays)
    return path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_loop_goes_on_from_the_checkpoint_before(two_checkpoints, capsys, damage):
    path = two_checkpoints
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert count_to(6, path) == 3
    assert f"{path} is damaged: going on from the one before" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_none_is_whole_one_line_says_what_to_do(two_checkpoints, damage):
    for path in (two_checkpoints, previous(two_checkpoints)):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(UsageError, match=r"loop\.npz is damaged; delete it"):
        count_to(6, two_checkpoints)


def test_a_crash_between_the_two_renames_loses_one_checkpoint(two_checkpoints):
    two_checkpoints.unlink()
    assert count_to(6, two_checkpoints) == 3


def test_pickles_in_a_checkpoint_are_not_opened(two_checkpoints):
    hostile = {"state.seen": np.array([print], object), "done": np.array(4)}
    with two_checkpoints.open("wb") as file:
        np.savez(file, **hostile)
    assert count_to(6, two_checkpoints) == 3


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_fit_goes_on_from_the_checkpoint_before(damage, capsys):
    def fit(epochs, resume):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="it")
        model.compile("adam", "mse")
        x = np.ones((8, 2), "float32")
        recorder = Recorder(Path("here"), resume=resume, seconds_between_saves=0)
        history = training.fit(
            model, x, x[:, :1], epochs=epochs, seed=0, callbacks=[recorder]
        ).history
        return history["loss"], model.get_weights()

    losses, weights = fit(4, resume=False)
    path = Path("here/checkpoints/01-it.npz")
    whole = path.read_bytes()
    previous(path).write_bytes(whole)
    path.write_bytes(DAMAGE[damage](whole))
    again, found = fit(4, resume=True)
    assert again == losses
    np.testing.assert_array_equal(found[0], weights[0])
    assert "going on from the one before" in capsys.readouterr().err


def test_a_file_and_its_name_are_on_the_disk_before_the_old_one_goes(monkeypatch):
    """In the order: contents, rename, folder."""
    calls = []
    path = Path("it.npz")
    path.write_bytes(b"old")
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("folder" if is_folder else "contents")
        fsync(descriptor)

    def watched_replace(self, target):
        calls.append(f"{self.name} -> {target.name}")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with replacing(path, keep_the_last=True) as file:
        file.write(b"new")
    assert calls == [
        "contents",
        "it.npz -> it.npz.previous",
        "it.npz.tmp -> it.npz",
        "folder",
    ]
    assert (path.read_bytes(), previous(path).read_bytes()) == (b"new", b"old")


def test_what_fails_while_it_is_written_leaves_the_old_file_alone():
    path = Path("it.json")
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), replacing(path) as file:
        file.write(b"ne")
        raise OSError("full")
    assert [each.name for each in Path().iterdir()] == ["it.json"]
    assert path.read_bytes() == b"old"


def test_seconds_count_what_was_before_the_interruption(monkeypatch):
    assert run_cli(monkeypatch, "--out", "here", main=interrupted) == 130
    record = json.loads(Path("here/metrics.json").read_text())
    Path("here/metrics.json").write_text(json.dumps({**record, "seconds": 100.0}))
    assert run_cli(monkeypatch, "--out", "here", "--resume") == 0
    assert 100 <= json.loads(Path("here/metrics.json").read_text())["seconds"] < 110


def test_what_a_checkpoint_does_not_keep_is_said(monkeypatch, capsys):
    def main(config, run):
        loop = run.loop("play", 4, {"n": np.zeros(1)}, not_kept="the environments")
        for step in loop:
            loop.save()
            if step == 2 and not run.resume:
                raise KeyboardInterrupt

    assert run_cli(monkeypatch, "--out", "here", main=main) == 130
    assert "begin anew" not in capsys.readouterr().out
    assert run_cli(monkeypatch, "--out", "here", "--resume", main=main) == 0
    assert "the environments begin anew" in capsys.readouterr().out
