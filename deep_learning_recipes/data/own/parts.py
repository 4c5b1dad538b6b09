"""Labels as numbers, and which examples are held out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own.said import Tell, listed, say

HELD_OUT = 0.2
MOST_CLASSES = 200


def encode(values: np.ndarray, path: Path, what: str) -> tuple[np.ndarray, list[str]]:
    """Labels of any type as int64 in [0, classes), (n,), and what they stand for.

    values: (n,) or (n, 1) whole numbers, strings or truth values; or (n, classes) rows
        with one 1 each.
    what: how a message calls them: 'y_train', 'column diagnosis'.
    Raises UsageError for fractions, for what is missing, for a single class, and for so
    many that they look like numbers to predict.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and is_one_hot(values):
        values = values.argmax(axis=1)
    if values.ndim != 1:
        raise UsageError(
            f"{path}: {what} has the shape {values.shape}; labels are (examples,), or "
            "one-hot (examples, classes)"
        )
    if values.dtype.kind == "f":
        values = as_whole_numbers(values, path, what)
    elif values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    elif values.dtype.kind not in "iubU":
        values = values.astype(str)
    found, numbers = np.unique(values, return_inverse=True)
    if len(found) < 2:
        name = f"{found[0]}" if len(found) else "none"
        raise UsageError(f"{path}: {what} has one class only ({name}); two are needed")
    if (
        len(found) > max(MOST_CLASSES, len(values) // 10)
        or len(found) > len(values) / 2
    ):
        raise UsageError(
            f"{path}: {what} has {len(found):,} different values in {len(values):,} "
            "examples; this takes classes, not numbers or names"
        )
    return numbers.astype("int64"), [str(each) for each in found]


def is_one_hot(values: np.ndarray) -> bool:
    if values.dtype.kind not in "iufb" or values.shape[1] < 2:
        return False
    return bool(np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all())


def as_whole_numbers(values: np.ndarray, path: Path, what: str) -> np.ndarray:
    missing = np.count_nonzero(~np.isfinite(values))
    if missing:
        raise UsageError(f"{path}: {what} has {missing:,} values that are no numbers")
    if not np.array_equal(values, np.round(values)):
        raise UsageError(
            f"{path}: {what} holds fractions, such as {values[values % 1 != 0][0]:g}; "
            "this takes classes, not numbers to predict"
        )
    return values.astype("int64")


def hold_out(
    labels: np.ndarray, names: Sequence[str], path: Path, tell: Tell = say
) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to test on: a fixed random 80/20 split, within each
    class as within all.

    labels: (n,) in [0, classes). Raises UsageError for a class of fewer than two.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels, minlength=len(names))
    if counts.min() < 2:
        few = [
            f"{name} ({count})"
            for name, count in zip(names, counts, strict=True)
            if count < 2
        ]
        raise UsageError(
            f"{path}: fewer than two examples in a class: {listed(few)}; one is to "
            "train on, one to test"
        )
    test_size = max(len(names), round(HELD_OUT * len(labels)))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_size, random_state=0, stratify=labels
    )
    tell(path, f"{len(train):,} examples to train on, {len(test):,} held out at random")
    warn_of_absent(labels[test], names, path, tell)
    return np.sort(train), np.sort(test)


def warn_of_absent(
    labels: np.ndarray, names: Sequence[str], path: Path, tell: Tell = say
) -> None:
    """Says which classes have no held-out example."""
    counts = np.bincount(labels, minlength=len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    if absent:
        tell(path, f"no held-out example of {listed(absent)}")


def choose(labels: np.ndarray, count: int, path: Path | str) -> np.ndarray:
    """Indices of `count` examples at random, fixed, within each class as within all;
    0, or more than there are: all."""
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    if not 0 < count < len(labels):
        return every
    classes = len(np.unique(labels))
    if count < 2 * classes:
        raise UsageError(
            f"--max-examples {count}: {path} has {classes} classes, and each takes two "
            f"or more; at least {2 * classes}"
        )
    if len(labels) - count < classes:  # too few are left for a stratified choice
        chosen = np.random.default_rng(0).permutation(len(labels))[:count]
        return np.sort(chosen)
    counts = np.bincount(labels)
    stratify = labels if counts[counts > 0].min() >= 2 else None
    chosen, _ = train_test_split(
        every, train_size=count, random_state=0, stratify=stratify
    )
    return np.sort(chosen)
