"""One run of a recipe: its command line, its folder, and what it measured.

`cli(main, quick=QUICK, full=FULL)` turns a recipe's `Config` into flags, prepares the
machine (seed, devices, precision), calls `main(config, run)` and ends with a table of
metrics and claims.
"""

from deep_learning_recipes.run.execute import cli
from deep_learning_recipes.run.record import Run

__all__ = ["Run", "cli"]
