"""`python -m deep_learning_recipes.distribute launch`: a cluster of processes on this
machine."""

import argparse
import sys
from typing import NoReturn

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.launch import launch, most_processes

USAGE = (
    "python -m deep_learning_recipes.distribute launch --workers N [--parameter-servers N] "
    "[-m MODULE | FILE] ..."
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"launch: {message}; {USAGE}")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if all ended well, else the code of the one that did not; 2 for bad
    input; 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # What comes from -m or a file's name on belongs to the program.
    is_own = [each != "-m" and not each.endswith(".py") for each in arguments]
    own = arguments[: [*is_own, False].index(False)]
    program = arguments[len(own) :]
    parser = Parser(
        usage=USAGE,
        description="Start a program once for each worker, on this machine, with TF_CONFIG set so "
        "that they train together; with --parameter-servers also these, and a chief that writes. "
        "Each line of their output begins with the name of its process. When one fails, all are "
        "stopped; only a worker that is killed while parameter servers keep the weights is not "
        "missed, as long as another is left.",
        epilog="example: ... launch --workers 2 -m recipes.lenet --preset quick",
    )
    parser.add_argument("command", choices=["launch"])
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="default: 2"
    )
    parser.add_argument(
        "--parameter-servers", type=int, default=0, metavar="N", help="default: 0"
    )
    try:
        options = parser.parse_args(own)
        if not program:
            raise UsageError(f"launch: name the program to start; {USAGE}")
        most = most_processes()
        for flag, count, least in (
            ("--workers", options.workers, 1),
            ("--parameter-servers", options.parameter_servers, 0),
        ):
            if count < least:
                raise UsageError(f"{flag} {count}: it must be at least {least}")
            if count > most:
                raise UsageError(f"{flag} {count}: this machine takes at most {most}")
        return launch(program, options.workers, options.parameter_servers)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
