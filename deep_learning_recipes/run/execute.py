"""Prepares the machine (seed, devices, precision), runs a recipe's `main`, and ends with
an exit code."""

import dataclasses
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from deep_learning_recipes import UsageError, __version__, figures, startup
from deep_learning_recipes.distribute import parameter_server, strategies
from deep_learning_recipes.distribute.replicas import Workers
from deep_learning_recipes.run.command_line import Options, parse
from deep_learning_recipes.run.display import Display
from deep_learning_recipes.run.folder import open_folder, write_settings
from deep_learning_recipes.run.record import Run
from deep_learning_recipes.run.recorder import Recorder
from deep_learning_recipes.run.report import report

CLAIM_FAILED, BAD_INPUT, WORKER_GONE, INTERRUPTED = 1, 2, 3, startup.INTERRUPTED

Main = Callable[[Any, Run], None]


def cli(main: Main, *, quick: Any, full: Any) -> None:
    """Runs a recipe from the command line and exits: 0 if it finished and all its
    claims held, 1 if one failed, 2 for bad input (with one line that says what to do), 3
    when another worker of --strategy multi_worker or a parameter server is gone, 130
    when interrupted.

    main: the recipe's function of (config, run).
    quick, full: its presets, instances of its `Config`; `Config()` is the default
        preset.
    """
    startup.end()
    name = Path(main.__code__.co_filename).stem
    presets = {"quick": quick, "default": type(quick)(), "full": full}
    try:
        config, options, folder = parse(name, presets, sys.argv[1:])
        held = execute(main, name, config, options, folder)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        if strategies.worker_number() is None:
            raise
        servers = strategies.has_parameter_servers()
        who = "a parameter server" if servers else "another worker"
        message = f"error: {who} is gone; start all of them again with --resume"
        print(message, file=sys.stderr)
        sys.exit(WORKER_GONE)
    except KeyboardInterrupt:
        print(f"interrupted; go on: python -m recipes.{name} --resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0 if held else CLAIM_FAILED)


def execute(main: Main, name: str, config: Any, options: Options, folder: Path) -> bool:
    """Prepares the machine, runs the recipe in `folder`, and says whether all claims
    held."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy(options.precision)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy, place = strategies.strategy(options.strategy)
    if isinstance(strategy, parameter_server.Server):
        print(first_line(name, options, place), flush=True)
        strategy.serve()
        return True
    figures.use_style()
    if isinstance(strategy, Workers) and not strategy.is_chief:
        return assist(main, name, config, options, strategy, place)

    new = open_folder(folder, options.resume)
    display = Display(recipe=Path(main.__code__.co_filename))
    # What a cluster loses when one of it is lost has cost many machines' time.
    is_cluster = isinstance(strategy, (Workers, parameter_server.Strategy))
    recorder = Recorder(
        folder,
        resume=options.resume,
        display=display,
        seconds_between_saves=0.0 if is_cluster else 1.0,
    )
    run = Run(
        name=name,
        folder=folder,
        seed=options.seed,
        callbacks=[recorder],
        export_folder=options.export,
        resume=options.resume,
        about={**describe(options, place), "config": dataclasses.asdict(config)},
        display=display,
    )
    run.print(f"{first_line(name, options, place)}\n")
    write_settings(folder, config, options)
    display.start()
    try:
        with strategy.scope():
            main(config, run)
    except UsageError:
        if new:
            shutil.rmtree(folder)
        raise
    finally:
        recorder.close()
        display.stop()
    held = run.finish()
    report(run)
    return held


def assist(
    main: Main,
    name: str,
    config: Any,
    options: Options,
    workers: Workers,
    place: str,
) -> bool:
    """A worker's part in a run that the chief records: it computes the same, and keeps
    nothing."""
    print(first_line(name, options, place), flush=True)
    quiet = Display(Console(quiet=True))
    with tempfile.TemporaryDirectory() as folder, workers.scope():
        main(config, Run(name, Path(folder), options.seed, display=quiet))
    return True


def first_line(name: str, options: Options, place: str) -> str:
    """'lenet · default preset · seed 0 · CPU (2 cores)'."""
    return f"{name} · {options.preset} preset · seed {options.seed} · {place}"


def describe(options: Options, place: str) -> dict[str, Any]:
    """What a reader needs to know to judge or to repeat the measurement."""
    module = f"recipes.{Path(sys.argv[0]).stem}"
    return {
        "preset": options.preset,
        "seed": options.seed,
        "precision": options.precision,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "hardware": {
            "devices": place,
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            "deep_learning_recipes": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
    }
