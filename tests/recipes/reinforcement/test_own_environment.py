"""An environment of one's own: actions that count from -1, no threshold, no pictures."""

import json
import sys
from pathlib import Path

import gymnasium
import pytest
from conftest import run_in_process

OWN = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env):
    """Pays 1 for action 0, which goes right, and -1 for action -1."""

    observation_space = spaces.Box(-9, 9, (1,), np.float64)
    action_space = spaces.Discrete(2, start=-1)

    def reset(self, *, seed=None, options=None):
        self.place = 0.0
        return np.array([self.place]), {}

    def step(self, action):
        paid = 1.0 if action == 0 else -1.0
        self.place += paid
        return np.array([self.place]), paid, abs(self.place) >= 5, False, {}


gymnasium.register("Corridor-v0", entry_point=Corridor, max_episode_steps=30)
'''


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("dqn", ["--steps", "3000", "--agents", "1"]),
        ("reinforce", ["--updates", "8", "--rivals"]),
        ("actor_critic", ["--steps", "4000", "--rivals"]),
    ],
)
def test_it_learns_in_it_and_leaves_out_what_there_is_not(name, flags, monkeypatch):
    Path("my_corridor.py").write_text(OWN)
    own = ["--env", "my_corridor:Corridor-v0", "--preset", "quick"]
    finished = run_in_process(name, Path("out"), *own, *flags, "--export", "models")
    sys.modules.pop("my_corridor")
    gymnasium.registry.pop("Corridor-v0")
    assert finished.code in (0, 4)
    record = json.loads(Path("out/metrics.json").read_text())
    assert record["finished"]
    assert record["metrics"]["return"]["value"] > 0
    assert "film.png" not in record["figures"]
    assert not any("solves" in claim["text"] for claim in record["claims"])
    assert Path("models", name, "1", "saved_model.pb").exists()
