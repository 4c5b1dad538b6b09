"""A .csv file with a column of times: a series."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.data.own.said import listed, say
from deep_learning_recipes.data.own.tabular import as_days, read_table

if TYPE_CHECKING:
    import pandas as pd

DAYS_A_YEAR = 365.2425
TIME_NAMES = ("date", "time", "datetime", "timestamp", "year", "month", "day")


def read(path: Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    """(times, values), both float64 (n,), in the order of time. Times are years where
    the column holds dates or years, else its numbers as they are.

    target: the column of values; "" where there is only one of numbers.
    """
    frame = read_table(path)
    name, times = time_column(path, frame)
    values = frame[value_column(path, frame, name, target)].to_numpy("float64")
    if np.isinf(values).any():
        raise UsageError(f"{path}: the series has values that are infinite")
    missing = int(np.isnan(values).sum())
    if missing:
        say(path, f"{missing:,} of {len(values):,} values are missing (NaN)")
    if not np.isfinite(times).all():
        raise UsageError(f"{path}: column {name} has times that are missing")
    if len(np.unique(times)) < len(times):
        raise UsageError(
            f"{path}: column {name} has the same time twice; a series has one value each"
        )
    order = np.argsort(times)
    if (np.diff(order) != 1).any():
        say(path, f"put in the order of {name}")
    return times[order], values[order]


def time_column(path: Path, frame: "pd.DataFrame") -> tuple[str, np.ndarray]:
    """The first column of dates, else the first that is called like a time."""
    for name in frame.columns:
        days = as_days(frame[name])
        if days is not None:
            return name, 1970 + days.to_numpy("float64") / DAYS_A_YEAR
    for name in frame.columns:
        if name.lower() in TIME_NAMES and frame[name].dtype.kind in "iuf":
            return name, frame[name].to_numpy("float64")
    raise UsageError(
        f"{path}: no column holds dates, and none is called {', '.join(TIME_NAMES)}; "
        f"there are {listed(list(frame.columns))}"
    )


def value_column(path: Path, frame: "pd.DataFrame", time: str, target: str) -> str:
    numbers = [
        name
        for name in frame.columns
        if name != time and frame[name].dtype.kind in "iuf"
    ]
    if target and target not in numbers:
        raise UsageError(
            f"{path}: no column {target} of numbers{did_you_mean(target, numbers)} "
            f"({listed(numbers)})"
        )
    if target:
        return target
    if len(numbers) != 1:
        raise UsageError(
            f"{path}: target= says which column is the series: {listed(numbers) or 'none'}"
        )
    return numbers[0]
