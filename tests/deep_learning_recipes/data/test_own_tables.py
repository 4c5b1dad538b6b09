"""Tables and series of one's own: what becomes of columns, beside pandas and
scikit-learn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_iris

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data import own
from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import Asked


@pytest.fixture
def iris():
    bunch = load_iris(as_frame=True)
    frame = bunch.data
    frame.columns = ["sepal length", "sepal width", "petal length", "petal width"]
    frame["species"] = bunch.target_names[bunch.target]
    return frame


def test_numbers_are_standardized_on_the_training_part(iris, capsys):
    iris.to_csv("iris.csv", index=False)
    (x, y), (x_test, y_test) = data.load_vectors("iris.csv", target="species")
    assert (x.shape, x_test.shape) == ((120, 4), (30, 4))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)
    assert abs(x_test.mean(axis=0)).max() > 1e-3
    assert np.bincount(y_test).tolist() == [10, 10, 10]
    names = data.class_names("iris.csv", "species")
    assert names == ["setosa", "versicolor", "virginica"]
    # Petals tell setosa from the others: the rows are still with their labels.
    assert x[y == 0, 2].max() < x[y != 0, 2].min()
    assert "4 features of 4 columns" in capsys.readouterr().out


def test_target_as_the_command_line_asks(iris):
    iris.to_csv("iris.csv", index=False)
    with own.asking(target="species", max_examples=60):
        (x, _), (x_test, _) = data.load_vectors("iris.csv")
        assert data.class_names("iris.csv")[0] == "setosa"
    assert len(x) + len(x_test) == 60


def test_breast_cancer_is_learned():
    from sklearn.linear_model import LogisticRegression

    bunch = load_breast_cancer(as_frame=True)
    bunch.frame.to_csv("cancer.csv", index=False)
    train, test = data.load_vectors("cancer.csv", target="target")
    assert LogisticRegression(max_iter=500).fit(*train).score(*test) > 0.95


def odd_table():
    """30 rows with a column of every kind."""
    rows = np.arange(30)
    return pd.DataFrame(
        {
            "id": rows,
            "when": pd.date_range("2024-01-30", periods=30).strftime("%Y-%m-%d"),
            "size": np.where(rows % 7 == 0, np.nan, rows % 5),
            "color": np.array(["red", "green", None])[rows % 3],
            "same": 1.5,
            "none": np.nan,
            "is_old": rows % 4 == 0,
            "kind": np.array(["ant", "bee"])[rows % 2],
        }
    )


def test_columns_of_every_kind(capsys):
    odd_table().to_csv("odd.csv", index=False)
    (x, _), (x_test, _) = data.load_vectors("odd.csv", target="kind")
    # when, size, is_old; red, green and missing
    assert (x.shape, x_test.shape) == ((24, 6), (6, 6))
    text = capsys.readouterr().out
    assert "dates are taken as numbers of days: when" in text
    assert "as they are the same in all rows: same, none" in text
    assert "as they count the rows: id" in text
    assert "size (5), color (10)" in text
    both = np.concatenate([x, x_test])
    np.testing.assert_array_equal(both[:, 3:].sum(axis=1), 1)
    assert np.isfinite(both).all()


def test_text_of_too_many_kinds_is_left_out(capsys):
    table = pd.DataFrame({"name": [f"n{i}" for i in range(200)], "a": [0.5, 1] * 100})
    table["y"] = ["u", "v"] * 100
    table.to_csv("names.csv", index=False)
    (x, _), _ = data.load_vectors("names.csv", target="y")
    assert x.shape[1] == 1
    assert "with more than 50 categories: name (160)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [
        (",", ".", "utf-8"),
        (",", ".", "utf-8-sig"),
        (";", ",", "utf-8"),
        (";", ".", "cp1252"),
        ("\t", ".", "utf-16"),
        ("\t", ",", "utf-8"),
    ],
)
def test_separators_decimal_commas_and_encodings(separator, decimal, encoding):
    table = pd.DataFrame({"länge": np.linspace(0.5, 20.25, 20), "größe": range(20, 40)})
    table["größe"] = table["größe"] ** 2
    table["art"] = ["grün", "weiß"] * 10
    table.to_csv(
        "t.csv", index=False, sep=separator, decimal=decimal, encoding=encoding
    )
    (x, _), _ = data.load_vectors("t.csv", target="art")
    assert x.shape == (16, 2)
    assert data.class_names("t.csv", "art") == ["grün", "weiß"]


def test_rows_without_a_target_are_left_out(capsys):
    table = pd.DataFrame({"a": np.arange(20) % 7, "y": ["u", "v"] * 10})
    table.loc[[3, 8], "y"] = None
    table.to_csv("t.csv", index=False)
    (x, _), (x_test, _) = data.load_vectors("t.csv", target="y")
    assert len(x) + len(x_test) == 18
    assert "2 rows without y are left out" in capsys.readouterr().out


def table(**columns):
    usual = {"a": np.arange(20) % 7, "y": ["u", "v"] * 10}
    pd.DataFrame(usual | columns).to_csv("t.csv", index=False)


LINES = {
    "no target": ({}, "", "^t.csv: --target says which column to predict: a, y$"),
    "missing target": ({}, "Y", r"^--target Y: t.csv has no such column.*\(a, y\)"),
    "one class": ({"y": "u"}, "y", r"column y has one class only \(u\)"),
    "fractions": ({"y": np.linspace(0, 1, 20)}, "y", "column y holds fractions"),
    "many": ({"y": range(20)}, "y", "has 20 different values in 20 examples"),
    "one row": ({"y": [1] + 19 * [0]}, "y", r"fewer than two .* 1 \(1\)"),
    "infinite": ({"a": [np.inf] + 19 * [1]}, "y", "column a has values that are inf"),
    "constant": ({"a": 1}, "y", "no column is left to predict from"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_wrong_gets_one_line(name):
    columns, target, line = LINES[name]
    table(**columns)
    with pytest.raises(UsageError, match=line) as error:
        data.load_vectors("t.csv", target=target)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "the file is empty"),
        (b"a,y\n", "the table has no rows"),
        (b"PK\x03\x04\0\0\0\0", "a binary file, no text"),
        (b'a,y\n"1,u\n2,v\n', "no table"),
        (b"y\nu\nv\n", "no column but y to predict it from"),
    ],
    ids=["empty", "header alone", "binary", "open quote", "one column"],
)
def test_files_that_are_no_tables(content, line):
    Path("t.csv").write_bytes(content)
    with pytest.raises(UsageError, match=f"^t.csv: {line}"):
        data.load_vectors("t.csv", target="y")


def test_a_parquet_file_without_its_reader_gets_one_line():
    Path("t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="pip install pyarrow|no .parquet file"):
        data.load_vectors("t.parquet", target="y")


def test_a_table_where_images_are_taken():
    table()
    with pytest.raises(UsageError, match="^t.csv: a table, and this takes images"):
        data.load("t.csv")


def test_a_series_by_its_dates(capsys):
    days = pd.date_range("2000-01-01", periods=400)
    series = pd.DataFrame({"day": days, "level": np.sin(np.arange(400) / 9)})
    series.loc[5, "level"] = np.nan
    series.iloc[::-1].to_csv("s.csv", index=False)
    times, values = data.load_series("s.csv")
    assert times[0] == pytest.approx(2000, abs=0.01)
    assert times[366] == pytest.approx(2001, abs=0.01)
    assert np.isnan(values[5])
    np.testing.assert_allclose(values[6:], series["level"][6:])
    text = capsys.readouterr().out
    assert "1 of 400 values are missing" in text
    assert "put in the order of day" in text


def test_a_series_by_years_and_the_column_asked():
    pd.DataFrame({"year": [1, 2, 3], "a": 1.0, "b": [4.0, 5, 6]}).to_csv("s.csv")
    with pytest.raises(UsageError, match="target= says which column is the series"):
        data.load_series("s.csv")
    times, values = data.load_series("s.csv", "b")
    assert (times.tolist(), values.tolist()) == ([1, 2, 3], [4, 5, 6])
    with pytest.raises(UsageError, match="no column c of numbers"):
        data.load_series("s.csv", "c")


def test_series_that_are_none():
    pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2]}).to_csv("s.csv", index=False)
    with pytest.raises(UsageError, match="no column holds dates, and none is called"):
        data.load_series("s.csv")
    pd.DataFrame({"year": [1, 1], "b": [1.0, 2]}).to_csv("s.csv", index=False)
    with pytest.raises(UsageError, match="column year has the same time twice"):
        data.load_series("s.csv")
    Path("s.txt").write_text("words")
    with pytest.raises(UsageError, match="^s.txt: text, and this takes a series"):
        data.load_series("s.txt")


def test_features_are_described_as_they_are_made():
    odd = odd_table()
    odd.to_csv("odd.csv", index=False)
    (x, _), _ = data.load_vectors("odd.csv", target="kind")
    features = reading.features("odd.csv", Asked("kind"))
    assert len(features) == x.shape[1]
    when, size, is_old, *colors = features
    assert when["unit"] == "days since 1970"
    assert is_old["column"] == "is_old"
    assert [each["category"] for each in colors] == ["green", "missing", "red"]
    filled = odd["size"].fillna(size["median"])
    scaled = (filled - size["mean"]) / size["deviation"]
    assert set(x[:, 1]) <= set(scaled.astype("float32"))
