"""Claims that decide by themselves, against comparisons by hand."""

import math

import pytest

from deep_learning_recipes.run.evidence import between, beyond, number

VALUES = {"as set": 433.125, "no replay": 201.0}


@pytest.mark.parametrize(
    ("times", "by", "holds"),
    [
        (2.0, None, True),  # 433.125 > 402
        (2.2, None, False),  # 433.125 < 442.2
        (None, 232.0, True),  # 433.125 > 433
        (None, 232.125, False),  # equal is not more
        (None, -1000.0, True),
    ],
)
def test_more_than_by_a_margin(times, by, holds):
    found, measured = beyond(VALUES, "as set", "no replay", times, by)
    assert found is holds
    assert measured.startswith("as set 433.1, no replay 201 (")


def test_the_evidence_names_the_margin_found_and_the_one_wanted():
    _, measured = beyond(VALUES, "as set", "no replay", 1.33, None)
    assert measured == "as set 433.1, no replay 201 (2.15 times, at least 1.33 wanted)"
    _, measured = beyond({"a": -3.0, "b": -5.5}, "a", "b", None, 1.0)
    assert measured == "a -3, b -5.5 (+2.5, at least +1 wanted)"


@pytest.mark.parametrize("margin", [{"times": 1.1}, {"by": 0.0}, {"by": -9.0}])
@pytest.mark.parametrize("broken", ["a", "b"])
def test_nan_is_no_more_and_no_less(margin, broken):
    values = {"a": 2.0, "b": 1.0, broken: math.nan}
    holds, _ = beyond(values, "a", "b", margin.get("times"), margin.get("by"))
    assert not holds


def test_against_nothing_any_number_is_more_times_and_none_is_not():
    assert beyond({"a": 0.1, "b": 0.0}, "a", "b", 3.0, None)[0]
    assert not beyond({"a": 0.0, "b": 0.0}, "a", "b", 3.0, None)[0]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="times or by"):
        beyond(VALUES, "as set", "no replay", None, None)
    with pytest.raises(ValueError, match="times or by"):
        beyond(VALUES, "as set", "no replay", 2.0, 2.0)
    with pytest.raises(
        ValueError, match="b is -1.0: compare negative numbers with by="
    ):
        beyond({"a": 1.0, "b": -1.0}, "a", "b", 2.0, None)
    with pytest.raises(KeyError, match="as sett"):
        beyond(VALUES, "as sett", "no replay", 2.0, None)
    with pytest.raises(ValueError, match="numbers"):
        between({}, 1.0, None)
    with pytest.raises(ValueError, match="at_least or at_most"):
        between({"a": 1.0}, None, None)


@pytest.mark.parametrize(
    ("value", "low", "high", "holds"),
    [
        (0.98, 0.98, None, True),
        (0.9799, 0.98, None, False),
        (0.98, None, 0.98, True),
        (0.9801, None, 0.98, False),
        (math.nan, 0.0, None, False),
        (math.nan, None, 1.0, False),
        (math.inf, 0.0, 1.0, False),
    ],
)
def test_bounds(value, low, high, holds):
    assert between({"a": value}, low, high)[0] is holds
    assert between({"b": 0.98, "a": value}, low, high)[0] is holds


def test_the_evidence_of_bounds():
    _, measured = between({"mean return": 499.25, "worst": 480.0}, 475, None)
    assert measured == "mean return 499.2, worst 480 (at least 475)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(61706.0, "61,706"), (0.98765, "0.9877"), (1e-7, "1e-07"), (math.nan, "nan")],
)
def test_numbers_have_four_digits_and_counts_all(value, text):
    assert number(value) == text
