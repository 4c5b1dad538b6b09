"""What a hyper-parameter may be: read from its type, checked before anything else runs.

A field says it by `annotated_types`, which type checkers and hypothesis read as well:

    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.99
    units: tuple[Annotated[int, Ge(8)], ...] = (256, 256)

What a field does not say follows from its default: a count is at least 1 (0 where the
default is 0), a number is not negative unless the default is, a learning rate is above
0, a tuple is not empty unless one of the presets leaves it so. A MinLen says how many
values a tuple has at least.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import annotated_types as at

from deep_learning_recipes import UsageError

LARGEST_COUNT = 10**9

Bounds = list[at.Ge | at.Gt | at.Le | at.Lt]


def check_values(config: Any, presets: dict[str, Any]) -> None:
    """Raises UsageError, in one line, for the first value out of its range."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        usual = [getattr(preset, field.name) for preset in presets.values()]
        value = getattr(config, field.name)
        for fault in faults(field.name, value, hints[field.name], usual):
            flag = f"{flag_of(field.name)} {in_words(value)}".rstrip()
            default = getattr(presets["default"], field.name)
            raise UsageError(f"{flag}: {fault}, such as {in_words(default)}")


def faults(name: str, value: Any, hint: Any, usual: list[Any]) -> Iterator[str]:
    """What is wrong with a field's value.

    usual: its values in the presets.
    """
    if isinstance(value, tuple):
        least = max(
            (e.min_length for e in expand(hint) if isinstance(e, at.MinLen)), default=0
        )
        if not value and () not in usual:
            yield "it must not be empty"
        elif len(value) < least:
            yield f"it must be at least {least} values"
        (part, *_) = typing.get_args(plain(hint)) or (Any,)
        known = [each for preset in usual for each in preset or ()]
        for each in value:
            yield from faults(name, each, part, known)
    elif isinstance(value, float) and not math.isfinite(value):
        yield "it must be a finite number"
    elif type(value) in (int, float):
        for bound in bounds(name, hint, usual):
            if not keeps(value, bound):
                yield f"it must be {phrase(bound)}"


def bounds(name: str, hint: Any, usual: list[Any]) -> Bounds:
    """The bounds of a number: those that the field states, else what its default says."""
    lower: Bounds = []
    upper: Bounds = []
    for each in expand(hint):
        if isinstance(each, (at.Ge, at.Gt)):
            lower.append(each)
        elif isinstance(each, (at.Le, at.Lt)):
            upper.append(each)
    if not usual or None in usual or min(usual) < 0:  # then nothing follows from it
        return lower + upper
    least = min(usual)
    if not lower and "learning_rate" in name:
        lower = [at.Gt(0)]
    elif not lower and plain(hint) is int:
        lower = [at.Ge(min(1, least))]
    elif not lower:
        lower = [at.Ge(0)]
    if not upper and plain(hint) is int:
        upper = [at.Le(LARGEST_COUNT)]
    return lower + upper


def expand(hint: Any) -> Iterator[Any]:
    """The single constraints of a type: an Interval is up to four."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, at.GroupedMetadata):
            yield from each
        else:
            yield each


def plain(hint: Any) -> Any:
    """The type without what Annotated says of it, and without `| None`."""
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def keeps(value: Any, bound: Any) -> bool:
    match bound:
        case at.Ge(least):
            return value >= least
        case at.Gt(below):
            return value > below
        case at.Le(most):
            return value <= most
        case at.Lt(above):
            return value < above
    raise TypeError(f"{bound} is no bound")


def phrase(bound: Any) -> str:
    """'at least 0'."""
    words = {at.Ge: "at least", at.Gt: "above", at.Le: "at most", at.Lt: "below"}
    (limit,) = dataclasses.astuple(bound)
    return f"{words[type(bound)]} {limit}"


def in_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def stated(hint: Any) -> str:
    """What a field states of its range, for the help: 'at least 0, at most 1'."""
    if typing.get_origin(plain(hint)) is tuple:
        return stated(typing.get_args(plain(hint))[0])
    found = [
        each for each in expand(hint) if isinstance(each, (at.Ge, at.Gt, at.Le, at.Lt))
    ]
    return ", ".join(map(phrase, found))


def kind(hint: Any) -> str:
    """'FLOAT', and '[FLOAT ...]' for a tuple of them."""
    if typing.get_origin(plain(hint)) is tuple:
        return f"[{kind(typing.get_args(plain(hint))[0])} ...]"
    return plain(hint).__name__.upper()


def flag_of(field: str) -> str:
    """A field's flag: --learning-rate."""
    return f"--{field.replace('_', '-')}"
