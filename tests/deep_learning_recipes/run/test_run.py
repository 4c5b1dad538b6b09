"""A run from the command line: flags, bad input, what it leaves, going on after a
kill."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pytest
import tensorflow as tf
from annotated_types import Interval
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, serving, training
from deep_learning_recipes.run import Run, cli, command_line
from deep_learning_recipes.serving import formats, saved_model

TOY = '''
"""A toy.

Learns a sum
of numbers.

Lectures: SEL DL basics
Paper: None, 2000
"""
from dataclasses import dataclass

import keras
import numpy as np

from deep_learning_recipes import training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    epochs: int = 100
    """passes over the data"""


def main(config, run):
    x = np.random.default_rng(0).normal(size=(4_000, 8)).astype("float32")
    for name in ("first", "second"):
        inputs = hidden = keras.Input((8,))
        for _ in range(2):
            hidden = keras.layers.Dense(64, activation="relu")(hidden)
            hidden = keras.layers.Dropout(0.2)(hidden)
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden), name=name)
        model.compile("adam", "mse")
        history = training.fit(
            model, x, x.sum(axis=1), epochs=config.epochs, callbacks=run.callbacks
        ).history
        run.metric(f"{name}_epochs", len(history["loss"]))
    run.metric("loss", history["loss"][-1])
    run.claim("It learns", holds=history["loss"][-1] < 100, measured=str(history["loss"][-1]))


if __name__ == "__main__":
    cli(main, quick=Config(epochs=1), full=Config(epochs=100))
'''


@dataclass
class Config:
    epochs: int = 20
    """passes over the training data"""
    learning_rate: float = 1e-3
    """of Adam"""
    warm_up: int = 0
    """steps; may be none"""
    data: str = "digits"
    """the data"""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.9
    """of later rewards"""
    widths: tuple[int, ...] = (8, 8)
    """of layers"""


def run_cli(monkeypatch, *arguments, main=lambda config, run: None):
    """The exit code of a recipe's command line whose `main` is given."""
    monkeypatch.setattr(sys, "argv", ["toy", *arguments])
    with pytest.raises(SystemExit) as exit_request:
        cli(main, quick=Config(epochs=2), full=Config(epochs=50))
    return exit_request.value.code


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--preset", "big"], "--preset big: choose one of quick, default, full"),
        (["--epochs", "0"], "--epochs 0: it must be at least 1, such as 20"),
        (["--epochs", "-3"], "--epochs -3: it must be at least 1, such as 20"),
        (["--epochs", "ten"], "Error parsing --epochs: invalid literal"),
        (["--warm-up", "-1"], "--warm-up -1: it must be at least 0, such as 0"),
        (["--learning-rate", "nan"], "--learning-rate nan: it must be a finite number"),
        (["--learning-rate", "inf"], "--learning-rate inf: it must be a finite number"),
        (
            ["--learning-rate", "-1"],
            "--learning-rate -1.0: it must be above 0, such as 0.001",
        ),
        (
            ["--learningrate", "1"],
            "Unrecognized options: --learningrate, 1; did you mean --learn",
        ),
        (
            ["--precision", "float8"],
            "invalid choice 'float8' for argument '--precision'",
        ),
        (
            ["--strategy", "gpu"],
            "--strategy gpu: TensorFlow sees no GPU here; use --strategy cpu",
        ),
        (
            ["--strategy", "mirrored"],
            "--strategy mirrored: TensorFlow sees no GPU here; mirrored:2",
        ),
        (
            ["--strategy", "mirrored:x"],
            "--strategy mirrored:x: N must be a whole number",
        ),
        (
            ["--strategy", "tpu"],
            "--strategy tpu: no TPU is attached and TPU_NAME is not set",
        ),
        (["--strategy", "abacus"], "--strategy abacus: choose one of auto, cpu"),
        (["--gamma", "1.5"], "--gamma 1.5: it must be at most 1, such as 0.9"),
        (["--widths", "4", "0"], "--widths 4 0: it must be at least 1, such as 8 8"),
        (["--widths"], "--widths: it must not be empty, such as 8 8"),
        (["--epochs", "9" * 20], f"--epochs {'9' * 20}: it must be at most 1000000000"),
        (["--seed", "-1"], "--seed -1: it must be at least 0, such as 0"),
        (["--seed", "4294967296"], "--seed 4294967296: it must be below 2147483648"),
        (["--out", "/proc/nothing"], "--out /proc/nothing: cannot be written"),
        (["--out", 300 * "o"], f"--out {300 * 'o'}: cannot be written (File name too"),
        (["--out", "taken/file"], "--out taken/file: cannot be written"),
        (["--export", "taken/file"], "--export taken/file/test_run: "),
        (["--export-format", "litert"], "--export-format litert: add --export [DIR]"),
        (["--export-format", "onx"], "invalid choice 'onx' for argument '--export-f"),
        (["--out", "taken"], "--out taken: not empty; name a new folder"),
        (["--resume"], "--resume: no interrupted run in runs/"),
        (["--resume", "--out", "missing"], "--resume: missing holds no run"),
        (["--out"], "Missing value"),
    ],
)
def test_bad_input_gets_one_line_and_code_2(monkeypatch, capsys, arguments, line):
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert run_cli(monkeypatch, *arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {line}")
    assert text.count("\n") == 1
    assert not Path("runs").exists(), "nothing half-made is left behind"


def test_bad_input_found_while_running_leaves_nothing_behind(monkeypatch, capsys):
    from deep_learning_recipes import data

    def main(config, run):
        data.load(config.data)

    assert run_cli(monkeypatch, "--data", "digit", "--out", "here", main=main) == 2
    assert "error: unknown data set 'digit'; did you mean" in capsys.readouterr().err
    assert not Path("here").exists()


def test_bad_input_found_late_takes_nothing_away(monkeypatch, capsys):
    def main(config, run):
        run.metric("accuracy", 0.5)
        raise UsageError("--image none.png: it is not there")

    for out in (["--out", "here"], []):
        assert run_cli(monkeypatch, *out, main=main) == 2
        assert "error: --image none.png" in capsys.readouterr().err
    assert Path("here/metrics.json").exists()
    assert len(list(Path("runs/test_run").glob("*/metrics.json"))) == 1


def test_a_bug_is_a_traceback_not_bad_input_and_leaves_no_folder(monkeypatch):
    def main(config, run):
        raise ValueError("a bug")

    for out in (["--out", "here"], []):
        monkeypatch.setattr(sys, "argv", ["toy", *out])
        with pytest.raises(ValueError, match="a bug"):
            cli(main, quick=Config(), full=Config())
    assert not Path("here").exists()
    assert not Path("runs").exists()


def test_what_fails_after_a_training_diverged_is_one_line(monkeypatch, capsys):
    def main(config, run):
        losses = iter([1.0, float("nan"), float("nan")])
        shown = {}
        for _ in run.loop("small", 3, {}, show=lambda: shown):
            shown["loss"] = next(losses)
        raise TypeError("what comes after needs numbers.\nIt has none.")

    assert run_cli(monkeypatch, "--out", "here", main=main) == 2
    assert capsys.readouterr().err == (
        "error: small: loss is nan after 3 steps: the training diverged, and what came "
        "after it failed (TypeError: what comes after needs numbers); try a lower "
        "learning rate\n"
    )


def test_a_mean_over_nothing_yet_is_no_divergence(monkeypatch):
    def main(config, run):
        returns = iter([float("nan"), 1.0, 2.0])
        shown = {}
        for _ in run.loop("small", 3, {}, show=lambda: shown):
            shown["return"] = next(returns)
            time.sleep(0.11)  # as often as a line is looked at
        raise TypeError("a bug")

    monkeypatch.setattr(sys, "argv", ["toy"])
    with pytest.raises(TypeError, match="a bug"):
        cli(main, quick=Config(), full=Config())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "error: the memory is full; choose smaller numbers"),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM"),
            "error: the memory is full; choose smaller numbers",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "error: the disk is full; free some, then go on: ",
        ),
    ],
)
def test_a_full_machine_gets_one_line(monkeypatch, capsys, error, line):
    def main(config, run):
        run.metric("accuracy", 0.5)
        raise error

    assert run_cli(monkeypatch, "--out", "here", main=main) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1
    assert Path("here/metrics.json").exists()


def test_an_export_that_fails_does_not_cost_the_report(monkeypatch, capsys):
    def main(config, run):
        run.metric("accuracy", 0.5)
        Path("models").write_text("a file where there was none before")
        inputs = keras.Input((2,))
        model = keras.Model(inputs, {"value": keras.layers.Dense(1)(inputs)})
        run.export(model, np.zeros((1, 2), "float32"))

    arguments = ("--out", "here", "--export", "models")
    assert run_cli(monkeypatch, *arguments, main=main) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: no SavedModel was written: ")
    assert "accuracy" in printed.out
    assert json.loads(Path("here/metrics.json").read_text())["finished"]


def export_a_dense_layer(config, run):
    run.metric("accuracy", 0.5)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {"value": keras.layers.Dense(1)(inputs)})
    run.export(model, np.zeros((1, 2), "float32"))


@pytest.fixture
def unchecked(monkeypatch):
    """Spares the seconds of the fresh process that reads an export."""
    monkeypatch.setattr(saved_model, "check_in_a_fresh_process", lambda path: None)


@pytest.mark.usefixtures("unchecked")
def test_an_export_in_another_format_stands_beside_the_saved_model(monkeypatch, capsys):
    arguments = ["--out", "here", "--export", "--export-format", "litert"]
    assert run_cli(monkeypatch, *arguments, main=export_a_dense_layer) == 0
    version = Path("saved_models/test_run/1")
    assert (version / "saved_model.pb").exists()
    assert (version / "model.tflite").read_bytes()[4:8] == b"TFL3"
    printed = capsys.readouterr().out
    assert f"SavedModel  {version}\n" in printed
    assert f"LiteRT      {version}/model.tflite\n" in printed
    record = json.loads(Path("here/metrics.json").read_text())
    assert record["exports"] == [str(version), f"{version}/model.tflite"]


@pytest.mark.usefixtures("unchecked")
def test_a_format_that_fails_does_not_cost_the_saved_model(monkeypatch, capsys):
    def refuse(model, version, name, example):
        raise UsageError("model.tflite answers otherwise: value differs by 1")

    monkeypatch.setattr(serving, "write_as", refuse)
    arguments = ["--out", "here", "--export", "models", "--export-format", "litert"]
    assert run_cli(monkeypatch, *arguments, main=export_a_dense_layer) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "error: models/test_run/1 was written, but not as litert: model.tflite answers "
        "otherwise: value differs by 1\n"
    )
    assert "SavedModel  models/test_run/1" in printed.out


def test_a_missing_converter_is_said_before_anything_is_trained(monkeypatch, capsys):
    def train(config, run):
        raise AssertionError("it must not train")

    monkeypatch.setitem(formats.PACKAGES, "onnx", ["a_package_that_is_nowhere"])
    arguments = ["--out", "here", "--export", "models", "--export-format", "onnx"]
    assert run_cli(monkeypatch, *arguments, main=train) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: --export-format onnx: a_package_that_is_nowhere can")
    assert line.endswith("pip install a_package_that_is_nowhere\n")
    assert not Path("here").exists()


def test_a_resumed_run_keeps_its_formats_or_takes_new_ones():
    started = command_line.Options(export=Path("a"), export_format=("litert",))
    again = command_line.Options(resume=True)
    kept = command_line.keep_settings(again, command_line.Options(), started, again)
    assert kept.export_format == ("litert",)
    again = command_line.Options(resume=True, export_format=("onnx",))
    kept = command_line.keep_settings(again, command_line.Options(), started, again)
    assert kept.export_format == ("onnx",)


def test_two_runs_that_start_in_one_second_have_folders_of_their_own(monkeypatch):
    for _ in range(3):
        assert run_cli(monkeypatch) == 0
    assert len(list(Path("runs/test_run").iterdir())) == 3


def test_a_folder_belongs_to_one_run(monkeypatch, capsys):
    """Nobody else writes into it or resumes it while a run is at work there."""

    def main(config, run):
        arguments = ["toy", "--resume"]
        if run.folder == Path("here"):
            arguments += ["--out", "here"]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments)
            with pytest.raises(SystemExit) as exit_request:
                cli(never, quick=Config(), full=Config())
        assert exit_request.value.code == 2

    def never(config, run):
        raise AssertionError("it must not run")

    assert run_cli(monkeypatch, "--out", "here", main=main) == 0
    assert "error: --out here: another run is at work in it" in capsys.readouterr().err
    assert run_cli(monkeypatch, main=main) == 0
    assert "error: --resume: no interrupted run" in capsys.readouterr().err


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (np.True_, 0), (False, 4)])
def test_metrics_claims_and_exit_code(monkeypatch, capsys, holds, code):
    def main(config, run):
        run.metric("accuracy", np.float32(0.5), unit="points")
        run.metric("speed", float("nan"), timing=True)
        # Written at once, so that an interrupted run keeps its evidence.
        assert json.loads((run.folder / "metrics.json").read_text())["metrics"][
            "accuracy"
        ]
        run.claim("One beats the other", holds=holds, measured="1 against 2")
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        run.figure("line", figure)
        assert not plt.get_fignums()
        run.curve("return", np.arange(1000), 2.0 * np.arange(1000), xlabel="step")
        run.print("[a] " + 40 * "wide ")  # no markup, and not broken into two lines

    arguments = (
        "--preset",
        "quick",
        "--seed",
        "3",
        "--learning-rate",
        "0.1",
        "--out",
        "here",
    )
    assert run_cli(monkeypatch, *arguments, main=main) == code
    record = json.loads(Path("here/metrics.json").read_text())
    assert record["metrics"]["accuracy"] == {
        "value": 0.5,
        "unit": "points",
        "timing": False,
    }
    assert record["metrics"]["speed"]["value"] is None
    assert record["claims"] == [
        {"text": "One beats the other", "holds": bool(holds), "measured": "1 against 2"}
    ]
    assert record["figures"] == ["line.png"]
    curve = record["curves"]["return"]
    assert (curve["xlabel"], len(curve["x"])) == ("step", 200)
    assert (curve["x"][0], curve["x"][-1], curve["y"][-1]) == (0, 999, 1998)
    assert record["finished"]
    assert (record["preset"], record["seed"]) == ("quick", 3)
    assert record["config"]["epochs"] == 2
    assert record["config"]["learning_rate"] == 0.1
    assert {"python", "tensorflow", "keras", "deep_learning_recipes"} <= set(
        record["versions"]
    )
    assert Path("here/line.png").exists()
    assert sorted(p.name for p in Path("here").iterdir() if p.name != ".lock") == [
        "config.json",
        "line.png",
        "metrics.json",
    ]
    text = capsys.readouterr().out
    assert ("holds" if holds else "FAILS") in text
    assert "1 against 2" in text
    assert "[a] " + 40 * "wide " in text
    assert "here" in text


def test_characters_that_no_font_has_are_one_line(monkeypatch, capsys, recwarn):
    def main(config, run):
        figure, axes = plt.subplots()
        axes.set_title("\u4e00\u4e8c\U0001f389")
        run.figure("boxes", figure)

    run_cli(monkeypatch, "--out", "out", main=main)
    assert capsys.readouterr().out.count("boxes.png: characters that its font") == 1
    assert not [each for each in recwarn if "font" in str(each.message)]


def test_the_seed_and_the_precision_are_set(monkeypatch):
    drawn = []

    def main(config, run):
        drawn.append(float(keras.random.normal(())))
        drawn.append(float(np.random.default_rng(run.seed).normal()))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"

    for seed in (1, 1, 2):
        run_cli(monkeypatch, "--precision", "mixed_bfloat16", "--seed", str(seed),
                "--out", f"out-{len(drawn)}", main=main)  # fmt: skip
    keras.config.set_dtype_policy("float32")
    assert drawn[0:2] == drawn[2:4]
    assert drawn[0] != drawn[4]
    assert drawn[1] != drawn[5]


def test_export_alone_means_saved_models():
    assert command_line.fill_in_export(["--export"]) == ["--export", "saved_models"]
    assert command_line.fill_in_export(["--export", "--seed", "1"]) == [
        "--export", "saved_models", "--seed", "1",
    ]  # fmt: skip
    assert command_line.fill_in_export(["--export", "there"]) == ["--export", "there"]
    assert command_line.fill_in_export([]) == []


def test_tensorboard_logs_and_checkpoints_are_written(monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def main(config, run):
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(1)], name="small"
        )
        model.compile("adam", "mse")
        x = np.ones((8, 2), "float32")
        losses.extend(
            training.fit(model, x, x[:, :1], epochs=3, callbacks=run.callbacks).history[
                "loss"
            ]
        )

    losses = []
    assert run_cli(monkeypatch, "--out", "here", main=main) == 0
    events = EventAccumulator("here/logs/01-small")
    events.Reload()
    assert events.Tags()["tensors"] == ["loss"]
    assert [event.step for event in events.Tensors("loss")] == [1, 2, 3]
    assert Path("here/checkpoints/01-small.npz").exists()


def start_toy(*arguments):
    Path("toy.py").write_text(TOY.strip() + "\n")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "toy.py", "--deterministic", "--seed", "5", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_after_each_kill_9_resume_ends_with_the_same_weights():
    whole = start_toy("--out", "whole")
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, out + err

    resume = []
    for checkpoint in ("01-first", "02-second"):
        killed = start_toy("--out", "killed", *resume)
        wait_for(
            lambda name=checkpoint: Path(f"killed/checkpoints/{name}.npz").exists(),
            killed,
        )
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        resume = ["--resume"]
    resumed = start_toy("--out", "killed", *resume)
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out + err
    for name in ("01-first", "02-second"):
        expected = np.load(f"whole/checkpoints/{name}.npz")
        found = np.load(f"killed/checkpoints/{name}.npz")
        assert set(expected.files) == set(found.files)
        for key in expected.files:
            np.testing.assert_array_equal(expected[key], found[key])
    records = [
        json.loads(Path(f, "metrics.json").read_text()) for f in ("whole", "killed")
    ]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[1]["metrics"]["second_epochs"]["value"] == 100
    # The time before the kills counts as well; what each lost is below a second.
    assert records[1]["seconds"] > 0.5 * records[0]["seconds"]


def test_a_finished_run_cannot_be_resumed(monkeypatch, capsys):
    assert run_cli(monkeypatch, "--out", "here") == 0
    assert run_cli(monkeypatch, "--out", "here", "--resume") == 2
    assert "error: --resume: the run in here is finished" in capsys.readouterr().err


def test_ctrl_c_before_anything_is_kept(monkeypatch, capsys):
    def main(config, run):
        raise KeyboardInterrupt

    assert run_cli(monkeypatch, main=main) == 130
    assert capsys.readouterr().err == "interrupted; nothing was kept yet\n"
    assert not Path("runs").exists()


def test_ctrl_c_says_how_to_go_on():
    process = start_toy("--epochs", "100000")  # it would not end by itself
    wait_for(lambda: list(Path("runs").glob("toy/*/checkpoints/*.npz")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "interrupted; go on: python toy.py --resume"


def test_flags_may_not_change_when_a_run_is_resumed(monkeypatch, capsys):
    def main(config, run):
        run.metric("accuracy", 0.5)
        raise KeyboardInterrupt

    assert run_cli(monkeypatch, main=main) == 130
    assert run_cli(monkeypatch, "--resume", "--epochs", "21") == 2
    error = capsys.readouterr().err
    assert "--epochs 21: the run in runs/test_run/" in error
    assert "was started with 20" in error


def test_a_changed_network_cannot_take_up_a_checkpoint():
    from deep_learning_recipes.run.recorder import Recorder

    def fit(units, resume):
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(units)], name="small"
        )
        model.compile("adam", "mse")
        x = np.ones((8, 2), "float32")
        recorder = Recorder(Path("here"), resume=resume)
        training.fit(model, x, np.ones((8, units)), epochs=1, callbacks=[recorder])

    fit(3, resume=False)
    fit(3, resume=True)
    with pytest.raises(UsageError, match="holds another network than 'small'"):
        fit(4, resume=True)


def test_run_knows_its_defaults():
    assert Run("toy", Path("here")).seed == 0
