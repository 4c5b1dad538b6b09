"""How numbers decide a claim, and the sentence that says so."""

from collections.abc import Mapping


def between(
    values: Mapping[str, float], at_least: float | None, at_most: float | None
) -> tuple[bool, str]:
    """Whether every value keeps the bounds; NaN keeps none.

    Raises ValueError if there are no values or no bound.
    """
    if not values or (at_least is None and at_most is None):
        raise ValueError(
            "a claim needs numbers, and at_least or at_most to hold them to"
        )
    low = float("-inf") if at_least is None else at_least
    high = float("inf") if at_most is None else at_most
    holds = all(low <= value <= high for value in values.values())

    bounds = []
    if at_least is not None:
        bounds.append(f"at least {number(at_least)}")
    if at_most is not None:
        bounds.append(f"at most {number(at_most)}")
    return holds, f"{listed(values)} ({', '.join(bounds)})"


def beyond(
    values: Mapping[str, float],
    more: str,
    less: str,
    times: float | None,
    by: float | None,
) -> tuple[bool, str]:
    """Whether values[more] > times · values[less], or values[less] + by; NaN is not.

    Raises ValueError unless one of `times` and `by` is given, and for a negative value
    with `times`.
    """
    if (times is None) == (by is None):
        raise ValueError("a comparison needs one margin: times or by")
    large = float(values[more])
    small = float(values[less])
    pair = listed({more: large, less: small})

    if by is not None:
        found = f"{large - small:+.4g}, at least {by:+.4g} wanted"
        return large > small + by, f"{pair} ({found})"

    assert times is not None
    if small < 0:
        raise ValueError(f"{less} is {small}: compare negative numbers with by=")
    found = f"{large / small:.3g} times" if small else "against none"
    return large > times * small, f"{pair} ({found}, at least {times:g} wanted)"


def listed(values: Mapping[str, float]) -> str:
    """'as set 433.1, no replay 201.7'."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """Four significant digits; whole numbers, such as counts of weights, in full."""
    value = float(value)
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
