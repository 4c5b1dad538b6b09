"""`python -m deep_learning_recipes.distribute launch`: a cluster of processes on this
machine."""

import argparse
import sys

from deep_learning_recipes import UsageError
from deep_learning_recipes.distribute.launch import launch

USAGE = (
    "python -m deep_learning_recipes.distribute launch --workers N [--parameter-servers N] "
    "[-m MODULE | FILE] ..."
)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if all ended well, else the code of the one that did not; 2 for bad
    input; 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # What comes from -m or a file's name on belongs to the program.
    is_own = [each != "-m" and not each.endswith(".py") for each in arguments]
    own = arguments[: [*is_own, False].index(False)]
    program = arguments[len(own) :]
    parser = argparse.ArgumentParser(
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
    options = parser.parse_args(own)
    try:
        if not program:
            raise UsageError(f"launch: name the program to start; {USAGE}")
        if options.workers < 1:
            raise UsageError(f"--workers {options.workers}: it must be at least 1")
        if options.parameter_servers < 0:
            raise UsageError(
                f"--parameter-servers {options.parameter_servers}: it must be at least 0"
            )
        return launch(program, options.workers, options.parameter_servers)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
