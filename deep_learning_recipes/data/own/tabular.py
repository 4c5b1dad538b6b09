"""A .csv or .parquet file with a column to predict."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.data.own import memory
from deep_learning_recipes.data.own.parts import encode, hold_out
from deep_learning_recipes.data.own.said import Tell, listed, quiet, say
from deep_learning_recipes.data.own.texts import decode, encoding_of
from deep_learning_recipes.data.pixels import Split

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")
DECIMAL_COMMA = re.compile(r"(?:^|[;\t|])\s*-?\d+,\d+\s*(?=[;\t|]|$)", re.MULTILINE)
MOST_CATEGORIES = 50
BYTES_A_FIELD = 8
ROWS_AT_ONCE = 100_000


@dataclass
class Columns:
    """What becomes of each column, decided on the rows to train on."""

    numbers: list[str]
    categories: list[str]


@dataclass
class Prepared:
    """A table, split, and how its columns become features."""

    features: "pd.DataFrame"
    y: np.ndarray
    train: np.ndarray
    """indices of rows"""
    test: np.ndarray
    columns: Columns
    dates: list[str]
    """columns that are numbers of days"""
    encoder: Any


def prepare(path: Path, target: str, most: int, tell: Tell) -> Prepared:
    frame = load(path, target, most, tell=tell)
    y, names = encode(target_values(frame, target), path, f"column {target}")
    train, test = hold_out(y, names, path, tell=tell)
    features = frame.drop(columns=target)
    columns = sort_columns(path, features, train, tell=tell)
    encoder = fitted_encoder(features.iloc[train], columns)
    dates = frame.attrs["dates"]
    return Prepared(features, y, train, test, columns, dates, encoder)


def read(path: Path, target: str, most: int) -> Split:
    """Rows of numbers and classes: `((x_train, y_train), (x_test, y_test))`, a fixed
    random 80/20 split within each class.

    x: float32 (n, features). Numbers and dates have mean 0 and deviation 1 over the
    rows to train on, what is missing is their median; each category is a feature of 0
    and 1. y: int64, (n,). Says which columns are left out, and what was missing.
    """
    table = prepare(path, target, most, tell=say)
    x = np.asarray(table.encoder.transform(table.features), "float32")
    say(path, f"{x.shape[1]} features of {len(table.features.columns)} columns")
    y = table.y
    train = table.train
    test = table.test
    return (x[train], y[train]), (x[test], y[test])


def described(path: Path, target: str, most: int) -> list[dict[str, Any]]:
    """What stands for each feature of x: a number of a column, (it − mean) / deviation
    after what is missing became the median; or a category, 1 where the column has it.
    """
    table = prepare(path, target, most, tell=quiet)
    columns = table.columns
    encoder = table.encoder
    found: list[dict[str, Any]] = []
    if columns.numbers:
        imputer, scaler = encoder.named_transformers_["numbers"]
        statistics = zip(imputer.statistics_, scaler.mean_, scaler.scale_, strict=True)
        for name, (median, mean, deviation) in zip(
            columns.numbers, statistics, strict=True
        ):
            found.append(
                {
                    "column": name,
                    "unit": "days since 1970" if name in table.dates else "",
                    "median": float(median),
                    "mean": float(mean),
                    "deviation": float(deviation),
                }
            )
    if columns.categories:
        _, one_hot = encoder.named_transformers_["categories"]
        for name, values in zip(columns.categories, one_hot.categories_, strict=True):
            found += [{"column": name, "category": str(value)} for value in values]
    return found


def class_names(path: Path, target: str, most: int) -> list[str]:
    frame = load(path, target, most, tell=quiet)
    _, names = encode(target_values(frame, target), path, f"column {target}")
    return names


def load(path: Path, target: str, most: int, tell: Tell) -> "pd.DataFrame":
    """The rows that have a target, at most so many of them, chosen at random."""
    frame = read_table(path, most)
    if not len(frame):
        raise UsageError(f"{path}: the table has no rows")
    names = list(frame.columns)
    if not target:
        raise UsageError(
            f"{path}: --target says which column to predict: {listed(names)}"
        )
    require_column(path, names, target)
    missing = int(frame[target].isna().sum())
    if missing:
        tell(path, f"{missing:,} rows without {target} are left out")
        frame = frame[frame[target].notna()].reset_index(drop=True)
    if most and len(frame) > most:
        frame = frame.sample(most, random_state=0).reset_index(drop=True)
    return convert_dates(path, frame, target, tell)


def require_column(path: Path, names: list[str], target: str) -> None:
    """Raises UsageError unless the target is one of several columns."""
    if target not in names:
        raise UsageError(
            f"--target {target}: {path} has no such column{did_you_mean(target, names)} "
            f"({listed(names)})"
        )
    if len(names) == 1:
        raise UsageError(f"{path}: no column but {target} to predict it from")


def target_values(frame: "pd.DataFrame", target: str) -> np.ndarray:
    """As NumPy knows them: numbers, truth values, or text."""
    column = frame[target]
    if column.dtype.kind in "biuf":
        return column.to_numpy()
    return column.astype(str).to_numpy("U")


def read_table(path: Path, most: int = 0, as_text: bool = False) -> "pd.DataFrame":
    """The whole file, the names of its columns without space around them.

    most, as_text: as of `read_csv`; a .parquet file has types of its own.
    """
    if path.suffix.lower() == ".parquet":
        frame = read_parquet(path)
    else:
        frame = read_csv(path, most, as_text)
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame


def read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise UsageError(
            f"{path}: reading .parquet takes a package more: pip install pyarrow"
        ) from error
    except Exception as error:  # pyarrow has a family of its own
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{path}: no .parquet file, or a damaged one ({reason})"
        ) from error


def read_csv(path: Path, most: int = 0, as_text: bool = False) -> "pd.DataFrame":
    """A file of any of the usual separators and encodings, with a decimal comma where
    commas do not separate.

    most: rows to keep at random, of a file that need not fit into the memory; 0: all.
    as_text: each field as it is written, and "" where there is none.
    """
    import pandas as pd

    sample = decode(path, limit=2**18)
    if not sample.strip():
        raise UsageError(f"{path}: the file is empty")
    header = sample.lstrip().splitlines()[0]
    separator = max(SEPARATORS, key=header.count)
    has_decimal_comma = separator != "," and DECIMAL_COMMA.search(sample)
    lines = sample.splitlines()
    rows = path.stat().st_size * len(lines) / max(1, len(sample.encode()))
    bytes_each = BYTES_A_FIELD * 2 * (header.count(separator) + 1)
    memory.require(path, min(int(rows), most or int(rows)), bytes_each, "rows")
    options: dict[str, Any] = {
        "sep": separator,
        "decimal": "," if has_decimal_comma else ".",
        "encoding": encoding_of(path),
        "skipinitialspace": True,
    }
    if as_text:
        options |= {"dtype": str, "keep_default_na": False}
    try:
        if not most:
            return pd.read_csv(path, **options)
        kept = pd.DataFrame()
        draws = np.random.default_rng(0)
        for chunk in pd.read_csv(path, chunksize=ROWS_AT_ONCE, **options):
            # Who keeps the smallest of random numbers keeps rows at random.
            chunk["drawn"] = draws.random(len(chunk))
            kept = pd.concat([kept, chunk]).nsmallest(most, "drawn")
        return kept.sort_index().drop(columns="drawn").reset_index(drop=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas's errors are ValueErrors
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path}: no table ({reason})") from error


def convert_dates(
    path: Path,
    frame: "pd.DataFrame",
    target: str,
    tell: Tell,
) -> "pd.DataFrame":
    """Dates as days since 1970; which columns these are stands in `attrs`."""
    found = []
    for name in frame.columns:
        if name == target:
            continue
        days = as_days(frame[name])
        if days is not None:
            frame[name] = days
            found.append(name)
    frame.attrs["dates"] = found
    if found:
        tell(path, f"dates are taken as numbers of days: {listed(found)}")
    return frame


def as_days(column: "pd.Series") -> "pd.Series | None":
    """Dates as days since 1970, NaN where one is missing; None for what is no date."""
    import pandas as pd

    if column.dtype.kind in "biuf":
        return None
    if column.dtype.kind != "M":
        text = column.dropna().astype(str)
        if not len(text) or not text.str.contains(r"\d[-/.:]\d").all():
            return None
        column = pd.to_datetime(column, errors="coerce", format="mixed", utc=True)
        if column.isna().sum() > frame_missing(text, column):
            return None
    naive = column.dt.tz_localize(None) if column.dt.tz is not None else column
    return (naive - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)


def frame_missing(text: "pd.Series", column: "pd.Series") -> int:
    """How many were missing before they were read as dates."""
    return len(column) - len(text)


def sort_columns(
    path: Path, frame: "pd.DataFrame", train: np.ndarray, tell: Tell
) -> Columns:
    """Which columns are numbers and which categories; says which are neither."""
    columns = Columns([], [])
    constant = []
    counting = []
    various = []
    missing = []
    seen = frame.iloc[train]
    for name in frame.columns:
        values = seen[name]
        is_number = values.dtype.kind in "biuf"
        if is_number and np.isinf(frame[name].to_numpy("float64")).any():
            raise UsageError(f"{path}: column {name} has values that are infinite")
        if values.nunique() < 2:
            constant.append(name)
            continue
        if is_number and counts_rows(frame[name]):
            counting.append(name)
            continue
        if not is_number and values.nunique() > MOST_CATEGORIES:
            various.append(f"{name} ({values.nunique():,})")
            continue
        lacking = int(frame[name].isna().sum())
        if lacking:
            missing.append(f"{name} ({lacking:,})")
        (columns.numbers if is_number else columns.categories).append(name)
    if constant:
        tell(path, f"left out, as they are the same in all rows: {listed(constant)}")
    if counting:
        tell(path, f"left out, as they count the rows: {listed(counting)}")
    if various:
        tell(
            path,
            f"left out, with more than {MOST_CATEGORIES} categories: {listed(various)}",
        )
    if missing:
        tell(
            path,
            "missing values become the median of a number and a category of their own: "
            f"{listed(missing)}",
        )
    if not columns.numbers and not columns.categories:
        raise UsageError(f"{path}: no column is left to predict from")
    return columns


def counts_rows(column: "pd.Series") -> bool:
    """Whether it is an identifier: whole numbers, each one more than the last."""
    values = column.to_numpy()
    return values.dtype.kind in "iu" and bool((np.diff(values) == 1).all())


def fitted_encoder(frame: "pd.DataFrame", columns: Columns) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = make_pipeline(
        FunctionTransformer(as_text, feature_names_out="one-to-one"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    encoder = ColumnTransformer(
        [
            ("numbers", numbers, columns.numbers),
            ("categories", categories, columns.categories),
        ]
    )
    return encoder.fit(frame)


def as_text(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.astype(object).where(frame.notna(), "missing").astype(str)
