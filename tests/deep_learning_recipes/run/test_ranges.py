"""Ranges of hyper-parameters: every field of every recipe refuses what makes no sense, in
one line."""

import dataclasses
import importlib
import math
import typing
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, MinLen
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deep_learning_recipes import UsageError, catalogue
from deep_learning_recipes.run.ranges import check_values, kind, plain, stated

RECIPES = catalogue.find_recipes(ROOT / "recipes")
ODD = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 10**12, 10**30]),
    st.integers(),
)
ODD_FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, -1.0, 1.0, 1e300, -1e300, 5e-324]),
    st.floats(),
)


def odd_values(hint):
    """Values of a field's type, whatever its range."""
    hint = plain(hint)
    if typing.get_origin(hint) is tuple:
        return st.lists(odd_values(typing.get_args(hint)[0]), max_size=5).map(tuple)
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if hint is int:
        return ODD
    if hint is float:
        return ODD_FLOATS
    return st.from_type(hint)


def presets_of(recipe):
    module = importlib.import_module(f"recipes.{recipe.name}")
    usual = {"default": module.Config(), "quick": module.QUICK, "full": module.FULL}
    return module.Config, usual


def numbers(value):
    """The numbers in a field's value."""
    parts = value if isinstance(value, tuple) else (value,)
    return [each for each in parts if type(each) in (int, float)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_each_field_is_sensible_or_refused_in_one_line(recipe, data):
    config, presets = presets_of(recipe)
    hints = typing.get_type_hints(config, include_extras=True)
    field = data.draw(st.sampled_from(dataclasses.fields(config)))
    value = data.draw(odd_values(hints[field.name]))
    tried = dataclasses.replace(presets["default"], **{field.name: value})
    try:
        check_values(tried, presets)
    except UsageError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(f"--{field.name.replace('_', '-')}")
        assert "must" in str(error)
        return
    for number in numbers(value):
        assert math.isfinite(number)
        usual = [getattr(preset, field.name) for preset in presets.values()]
        known = [number for each in usual for number in numbers(each) if each]
        assert number >= 0 or None in usual or min(known, default=-1) < 0
        assert not isinstance(number, int) or not known or number <= 10**9


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_presets_keep_to_the_ranges(recipe):
    _, presets = presets_of(recipe)
    for preset in presets.values():
        check_values(preset, presets)


@dataclasses.dataclass
class Config:
    count: int = 3
    warm_up: int = 0
    rate: float = 0.5
    learning_rate: float = 0.1
    offset: float = -1.0
    goal: float | None = None
    share: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    folds: Annotated[int, Ge(2)] = 5
    shares: tuple[Annotated[float, Gt(0), Le(1)], ...] = (0.5,)
    sizes: tuple[int, ...] = (4, 8)
    pair: Annotated[tuple[int, ...], MinLen(2)] = (4, 8)
    rivals: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    span: tuple[float, float] | None = None


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("count", 0, "--count 0: it must be at least 1, such as 3"),
        ("count", -2, "--count -2: it must be at least 1, such as 3"),
        ("count", 2**40, "must be at most 1000000000"),
        ("warm_up", -1, "--warm-up -1: it must be at least 0"),
        ("rate", -0.1, "must be at least 0"),
        ("rate", math.nan, "must be a finite number"),
        ("rate", -math.inf, "must be a finite number"),
        ("learning_rate", 0.0, "must be above 0"),
        ("goal", math.nan, "must be a finite number"),
        ("share", 1.0, "must be below 1"),
        ("share", 0.0, "must be above 0"),
        ("folds", 1, "must be at least 2"),
        ("shares", (0.2, 1.1), "--shares 0.2 1.1: it must be at most 1"),
        ("shares", (), "--shares: it must not be empty, such as 0.5"),
        ("sizes", (4, -1), "--sizes 4 -1: it must be at least 1"),
        ("sizes", (), "must not be empty"),
        ("pair", (3,), "--pair 3: it must be at least 2 values, such as 4 8"),
        ("count", 1, None),
        ("warm_up", 0, None),
        ("rate", 0.0, None),
        ("offset", -9.0, None),
        ("goal", -200.0, None),
        ("goal", None, None),
        ("shares", (1.0,), None),
        ("sizes", (1, 2, 3), None),
        ("rivals", (), None),
        ("limits", (-1.0, 1.0), None),
        ("limits", (math.nan,), "must be a finite number"),
        ("span", (-1.0, 1.0), None),
        ("span", (0.0, math.inf), "must be a finite number"),
    ],
)
def test_ranges_stated_and_those_that_follow_from_the_default(field, value, fault):
    tried = Config(**{field: value})
    if fault is None:
        check_values(tried, {"default": Config()})
        return
    with pytest.raises(UsageError) as caught:
        check_values(tried, {"default": Config()})
    assert fault in str(caught.value)


def test_a_tuple_may_be_empty_where_a_preset_leaves_it_so():
    presets = {"default": Config(), "quick": Config(sizes=())}
    check_values(Config(sizes=()), presets)


def test_the_help_tells_what_a_field_states():
    hints = typing.get_type_hints(Config, include_extras=True)
    assert stated(hints["share"]) == "above 0, below 1"
    assert stated(hints["shares"]) == "above 0, at most 1"
    assert stated(hints["count"]) == ""
    assert kind(hints["share"]) == "FLOAT"
    assert kind(hints["shares"]) == "[FLOAT ...]"
