"""`python -m deep_learning_recipes.serving check DIR` and `... serve DIR`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from deep_learning_recipes import UsageError
from deep_learning_recipes.serving import layout

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)
# What runs here must run without Keras: from here on importing it fails. TensorFlow
# also starts sooner.
sys.modules["keras"] = None  # type: ignore[assignment]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deep_learning_recipes.serving",
        description="Check SavedModels for TF Serving, or try them out on this machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check_parser = commands.add_parser(
        "check",
        help="find what TF Serving would stumble over",
        description="Find what TF Serving would stumble over. The graphs are run in a "
        "child process with limits of time and memory; those with operations that reach "
        "for files, the network or Python are not run.",
    )
    check_parser.add_argument(
        "--trust",
        action="store_true",
        help="run all graphs, whatever they do, and without limits",
    )
    serve_parser = commands.add_parser(
        "serve",
        help="answer TF Serving's gRPC and REST requests; for trying out, it is not TF Serving",
        description="Answer TF Serving's gRPC and REST requests. For trying out: it is "
        "not TF Serving. Like that one it runs whatever stands in the folder.",
    )
    for each in (check_parser, serve_parser):
        each.add_argument(
            "folder", type=Path, metavar="DIR", help="such as saved_models"
        )
    serve_parser.add_argument(
        "--port", type=int, default=8500, help="of gRPC (default: 8500)"
    )
    serve_parser.add_argument(
        "--rest-port", type=int, default=8501, help="default: 8501"
    )
    serve_parser.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone"
    )
    options = parser.parse_args()
    # Names of files may hold what no encoding has.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    try:
        if options.command == "check":
            # Bad input is told before TensorFlow starts.
            layout.find_versions(options.folder)
            if options.trust:
                from deep_learning_recipes.serving import check

                return 0 if check.check(options.folder, trust=True) else 1
            from deep_learning_recipes.serving import confined

            return 0 if confined.check(options.folder) else 1
        layout.require_models(options.folder)
        from deep_learning_recipes.serving import server

        return server.serve(
            options.folder, options.host, options.port, options.rest_port
        )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
