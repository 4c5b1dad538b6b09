"""An environment whose returns can be counted by hand."""

import gymnasium
import numpy as np


class Walk(gymnasium.vector.VectorEnv):
    """Two copies of a walk 0, 1, 2, ... that pays 1 a step. The first one ends at 3,
    the second is cut by a time limit at 5. An end is followed by a reset, which is no
    transition."""

    num_envs = 2

    def reset(self, seed=None, options=None):
        self.place, self.over = np.zeros(2), np.zeros(2, bool)
        return self.place[:, None].copy(), {}

    def step(self, actions):
        self.place = np.where(self.over, 0, self.place + 1)
        reward = np.where(self.over, 50.0, 1.0)  # of a reset: must not be counted
        terminated = ~self.over & (self.place == 3) & np.array([True, False])
        truncated = ~self.over & (self.place == 5) & np.array([False, True])
        self.over = terminated | truncated
        return self.place[:, None].copy(), reward, terminated, truncated, {}
