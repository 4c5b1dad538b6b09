"""Which data sets there are, what is a path instead, and the one line that answers a
name that is neither."""

from collections.abc import Iterable

from deep_learning_recipes import UsageError, did_you_mean
from deep_learning_recipes.data.own.source import exists, is_own, no_such


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError unless `name` is one of `known`, naming the nearest ones.

    `kind` is how the message calls it: "data set", "text", "table".
    """
    known = list(known)
    if name not in known:
        raise UsageError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)} ({', '.join(known)})"
        )


def is_path(kind: str, name: str, known: Iterable[str]) -> bool:
    """Whether `name` is the path to the user's own data, and none of `known`.

    Raises UsageError where it is neither, as `check_name` does.
    """
    known = list(known)
    if name in known:
        if exists(name):
            print(f"{name}: the data set of that name; ./{name} is what lies here")
        return False
    if not is_own(name, known):
        raise no_such(kind, name, known)
    return True
