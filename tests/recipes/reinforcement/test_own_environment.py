"""An environment of one's own: actions that count from -1, no threshold."""

import json
from pathlib import Path

import pytest
from conftest import run_in_process


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("dqn", ["--steps", "3000", "--agents", "1"]),
        ("reinforce", ["--updates", "8", "--rivals"]),
        ("actor_critic", ["--steps", "4000", "--rivals"]),
    ],
)
def test_it_learns_in_it_and_leaves_out_what_there_is_not(name, flags, own_module):
    own = ["--env", f"{own_module}:Corridor-v0", "--preset", "quick"]
    finished = run_in_process(name, Path("out"), *own, *flags, "--export", "models")
    assert finished.code in (0, 4)
    record = json.loads(Path("out/metrics.json").read_text())
    assert record["finished"]
    assert record["metrics"]["return"]["value"] > 0
    assert "motion.png" in record["figures"]
    assert not any("solves" in claim["text"] for claim in record["claims"])
    assert Path("models", name, "1", "saved_model.pb").exists()
