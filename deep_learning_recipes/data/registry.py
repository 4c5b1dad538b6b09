"""Which data sets there are, and the one line that answers a name that is none of
them."""

from collections.abc import Iterable

from deep_learning_recipes import UsageError, did_you_mean


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError unless `name` is one of `known`, naming the nearest ones.

    `kind` is how the message calls it: "data set", "text", "table".
    """
    known = list(known)
    if name not in known:
        raise UsageError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)} ({', '.join(known)})"
        )
