"""The kitchen: what every recipe shares, and nothing that a lecture teaches."""

import difflib
import re

__version__ = "0.1.0"


class UsageError(ValueError):
    """Bad input from the user: one clear line that names the value and the way out.

    The command line prints it and exits with code 2; in a notebook it is an ordinary
    ValueError.
    """


def did_you_mean(word: str, choices: list[str]) -> str:
    """'; did you mean a or b?', or nothing when no choice is near the word."""
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    near = near or [choice for choice in choices if word in choice][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def as_metric(name: str) -> str:
    """A name as metrics have it: "ResNet-50" is resnet_50."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")
