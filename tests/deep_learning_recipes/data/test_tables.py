import numpy as np
import pytest

from deep_learning_recipes import UsageError, data

TABLES = {
    "breast_cancer": (569, 30, np.int64),
    "wine": (178, 13, np.int64),
    "diabetes": (442, 10, np.float32),
    "randhie": (20190, 9, np.float32),
}
SERIES = {"co2": (2284, 59), "elnino": (732, 0), "sunspots": (309, 0)}


@pytest.mark.parametrize("name", TABLES)
def test_table(name):
    rows, columns, label_type = TABLES[name]
    (x_train, y_train), (x_test, y_test) = data.load_table(name)
    assert len(x_train) + len(x_test) == rows
    assert len(x_test) / rows == pytest.approx(0.2, abs=0.06)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.dtype == np.float32
        assert x.shape == (len(y), columns)
        assert y.dtype == label_type
        assert y.ndim == 1
        assert np.isfinite(x).all()
    names = data.feature_names(name)
    assert len(set(names)) == columns
    assert all(type(feature) is str for feature in names)
    if label_type is np.int64:
        assert set(y_train) == set(y_test) == set(range(len(data.class_names(name))))


@pytest.mark.parametrize("name", TABLES)
def test_table_is_the_same_at_every_call_whatever_a_caller_does(name):
    first = data.load_table(name)
    kept = [array.copy() for part in first for array in part]
    for part in first:
        for array in part:
            array[:] = 0
    again = [array for part in data.load_table(name) for array in part]
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_no_row_is_in_both_parts(name):
    (x_train, _), (x_test, _) = data.load_table(name)
    assert not {row.tobytes() for row in x_train} & {row.tobytes() for row in x_test}


def test_no_person_of_randhie_is_in_both_parts():
    (x_train, _), (x_test, _) = data.load_table("randhie")
    person = data.feature_names("randhie").index("disea")
    assert not set(x_train[:, person]) & set(x_test[:, person])


def test_tables_are_in_raw_units():
    (x_train, y_train), _ = data.load_table("diabetes")
    age = x_train[:, data.feature_names("diabetes").index("age")]
    assert 18 < age.min() < age.max() < 80
    assert y_train.max() > 200


def test_breast_cancer_labels():
    (x_train, y_train), _ = data.load_table("breast_cancer")
    radius = x_train[:, data.feature_names("breast_cancer").index("mean radius")]
    malignant = data.class_names("breast_cancer").index("malignant")
    assert radius[y_train == malignant].mean() > radius[y_train != malignant].mean() + 3


@pytest.mark.parametrize("name", SERIES)
def test_series(name):
    count, gaps = SERIES[name]
    times, values = data.load_series(name)
    assert times.dtype == values.dtype == np.float64
    assert times.shape == values.shape == (count,)
    assert np.isnan(values).sum() == gaps
    steps = np.diff(times)
    assert steps.min() > 0
    assert steps.max() == pytest.approx(steps.min(), rel=0.01)


def test_series_values_stand_at_their_times():
    times, values = data.load_series("co2")
    assert values[0] == pytest.approx(316.1)  # 29 March 1958
    assert times[0] == pytest.approx(1958 + 87 / 365)
    assert times[-1] == pytest.approx(2001 + 362 / 365)
    times, values = data.load_series("elnino")
    assert list(values[:2]) == [23.11, 24.20]  # January and February 1950
    assert (values[-1], times[-1]) == (22.07, pytest.approx(2010 + 11 / 12))
    times, values = data.load_series("sunspots")
    assert values[times == 1957].item() > 180  # the greatest maximum on record


def test_unknown_names():
    with pytest.raises(
        UsageError, match=r"^unknown table 'wines'; did you mean wine\? \(breast"
    ):
        data.load_table("wines")
    with pytest.raises(UsageError, match="^unknown table 'wines'"):
        data.feature_names("wines")
    with pytest.raises(
        UsageError,
        match=r"'co'; did you mean co2\? \(co2, elnino, sunspots\), and there is no such path$",
    ):
        data.load_series("co")
