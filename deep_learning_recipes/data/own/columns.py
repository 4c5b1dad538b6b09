"""Columns of text: pairs of strings, and texts with a class each."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own.parts import choose, encode, hold_out
from deep_learning_recipes.data.own.said import Tell, listed, quiet, say
from deep_learning_recipes.data.own.tabular import read_table, require_column
from deep_learning_recipes.data.own.texts import decode

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 0.1


def read_pairs(
    path: Path, target: str, most: int
) -> dict[str, tuple[list[str], list[str]]]:
    """(sources, targets) by part, "train" and "test": a tenth of the different sources,
    chosen at random, and the same ones each time.

    target: the column of targets in a .csv or .parquet file; "": the second of two.
    most: pairs to train on at most; 0: all.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        found = pairs_of_table(path, target)
    else:
        found = pairs_of_lines(path)
    whole = [pair for pair in found if all(pair)]
    kept = list(dict.fromkeys(whole))
    if len(found) > len(kept):
        say(
            path,
            f"left out: {len(found) - len(whole):,} pairs of which a half is empty, "
            f"{len(whole) - len(kept):,} that stand twice",
        )

    sources = list(dict.fromkeys(source for source, _ in kept))
    if len(sources) < 2:
        raise UsageError(f"{path}: fewer than two different pairs of texts in it")
    order = np.random.default_rng(0).permutation(len(sources))
    held_out = max(1, round(HELD_OUT * len(sources)))
    test_sources = {sources[i] for i in order[:held_out]}
    train = [pair for pair in kept if pair[0] not in test_sources][: most or None]
    test = [pair for pair in kept if pair[0] in test_sources]
    say(path, f"{len(train):,} pairs to train on, {len(test):,} held out at random")
    return {"train": unzip(train), "test": unzip(test)}


def unzip(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [source for source, _ in pairs], [target for _, target in pairs]


def pairs_of_table(path: Path, target: str) -> list[tuple[str, str]]:
    frame = read_frame(path)
    names = list(frame.columns)
    if not target and len(names) != 2:
        raise UsageError(
            f"{path}: of two columns the second is what the first becomes; of others "
            f"--target says which: {listed(names)}"
        )
    target = target or names[1]
    source = text_column(path, frame, target, tell=say)
    say(path, f"from column {source} to column {target}")
    return list(zip(frame[source], frame[target], strict=True))


def pairs_of_lines(path: Path) -> list[tuple[str, str]]:
    """Text, tab, text; what comes after a second tab is left out, as in the files of
    sentences that many sites offer."""
    rows = [line.split("\t") for line in decode(path).splitlines() if line.strip()]
    pairs = [(row[0].strip(), row[1].strip()) for row in rows if len(row) > 1]
    if not pairs:
        raise UsageError(
            f"{path}: no pairs in it; each line is a text, a tab, and what it becomes"
        )
    if len(pairs) < len(rows):
        say(path, f"left out: {len(rows) - len(pairs):,} lines without a tab")
    return pairs


def read_labeled(
    path: Path, target: str, most: int
) -> tuple[tuple[list[str], np.ndarray], tuple[list[str], np.ndarray]]:
    """Texts and their classes, (texts, labels) to train on and to test on: a fixed
    random 80/20 split within each class.

    target: the column of classes; the text is the other column, or of several that
        with the longest texts. labels: int64 (n,).
    """
    frame, text = labeled(path, target, tell=say)
    labels, names = encode(frame[target].to_numpy("U"), path, f"column {target}")
    chosen = choose(labels, most, path)
    texts = frame[text].to_numpy(object)[chosen]
    labels = labels[chosen]
    train, test = hold_out(labels, names, path)
    return (list(texts[train]), labels[train]), (list(texts[test]), labels[test])


def labeled_class_names(path: Path, target: str) -> list[str]:
    frame, _ = labeled(path, target, tell=quiet)
    return encode(frame[target].to_numpy("U"), path, f"column {target}")[1]


def labeled(path: Path, target: str, tell: Tell) -> tuple["pd.DataFrame", str]:
    """The rows that have both a text and a class, each text once, and the name of the
    column of texts."""
    frame = read_frame(path)
    if not target:
        raise UsageError(
            f"{path}: --target says which column holds the classes: "
            f"{listed(list(frame.columns))}"
        )
    text = text_column(path, frame, target, tell=tell)
    whole = frame[(frame[text] != "") & (frame[target] != "")]
    # A text that stands twice would be trained on and held out.
    kept = whole.drop_duplicates(text).reset_index(drop=True)
    if len(kept) < len(frame):
        tell(
            path,
            f"left out: {len(frame) - len(whole):,} rows without text or class, "
            f"{len(whole) - len(kept):,} whose text stands twice",
        )
    return kept, text


def read_frame(path: Path) -> "pd.DataFrame":
    """All columns as text without space around it; what is missing is ""."""
    frame = read_table(path, as_text=True)
    if not len(frame):
        raise UsageError(f"{path}: the table has no rows")
    # Of a .parquet file there are numbers, and what is missing.
    frame = frame.astype(object).where(frame.notna(), "").astype(str)
    return frame.apply(lambda column: column.str.strip())


def text_column(path: Path, frame: "pd.DataFrame", target: str, tell: Tell) -> str:
    """The column beside `target`; of several, that with the longest texts on average."""
    names = list(frame.columns)
    require_column(path, names, target)
    others = [name for name in names if name != target]
    lengths = [frame[name].str.len().mean() for name in others]
    longest = others[int(np.argmax(lengths))]
    if len(others) > 1:
        tell(path, f"column {longest} is the text: of {listed(others)} it is longest")
    return longest
