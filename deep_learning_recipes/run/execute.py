"""Prepares the machine (seed, devices, precision), runs a recipe's `main`, and ends with
an exit code."""

import dataclasses
import errno
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from deep_learning_recipes import UsageError, __version__, figures, startup
from deep_learning_recipes.data import own
from deep_learning_recipes.distribute import parameter_server, strategies
from deep_learning_recipes.distribute.replicas import Workers
from deep_learning_recipes.run import own_data
from deep_learning_recipes.run.command_line import Options, parse
from deep_learning_recipes.run.display import Display
from deep_learning_recipes.run.folder import (
    open_folder,
    require_writable,
    write_settings,
)
from deep_learning_recipes.run.record import Run
from deep_learning_recipes.run.recorder import Recorder
from deep_learning_recipes.run.report import report
from deep_learning_recipes.serving import formats
from deep_learning_recipes.startup import (
    BAD_INPUT,
    CLAIM_FAILED,
    INTERRUPTED,
    WORKER_GONE,
)

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

Main = Callable[[Any, Run], None]


def cli(main: Main, *, quick: Any, full: Any) -> None:
    """Runs a recipe from the command line and exits: 0 if it finished and all its
    claims held, 4 if one failed, 2 for bad input (with one line that says what to do), 3
    when another worker of --strategy multi_worker or a parameter server is gone, 130
    when interrupted. A crash leaves a traceback and Python's 1.

    main: the recipe's function of (config, run).
    quick, full: its presets, instances of its `Config`; `Config()` is the default
        preset.
    """
    startup.end()
    name = Path(main.__code__.co_filename).stem
    presets = {"quick": quick, "default": type(quick)(), "full": full}
    out = None
    try:
        config, options = parse(name, presets, sys.argv[1:])
        out = options.out
        held = execute(main, name, config, options)
    except UsageError as error:
        stop(BAD_INPUT, f"error: {error}")
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        if strategies.worker_number() is None:
            raise
        servers = strategies.has_parameter_servers()
        who = "a parameter server" if servers else "another worker"
        stop(
            WORKER_GONE, f"error: {who} is gone; start all of them again with --resume"
        )
    except (MemoryError, tf.errors.ResourceExhaustedError):
        stop(BAD_INPUT, "error: the memory is full; choose smaller numbers")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        stop(BAD_INPUT, f"error: the disk is full; free some, then {to_resume(out)}")
    except KeyboardInterrupt:
        kept = (out or Path("runs", name)).exists()
        how = to_resume(out) if kept else "nothing was kept yet"
        stop(INTERRUPTED, f"interrupted; {how}")
    sys.exit(0 if held else CLAIM_FAILED)


def stop(code: int, line: str) -> NoReturn:
    """Ends the program with a line in place of a traceback."""
    print(line, file=sys.stderr)
    sys.exit(code)


def to_resume(out: Path | None) -> str:
    """How an interrupted run goes on: 'go on: python -m recipes.lenet --resume'."""
    where = f"--out {shlex.quote(str(out))} " if out else ""
    return f"go on: {shlex.join(own_command())} {where}--resume"


def own_command() -> list[str]:
    """How this program was started, without its flags: by a module's name, or by the
    file of a recipe that was copied."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    if specification is None:
        return ["python", sys.argv[0]]
    return ["python", "-m", specification.name]


def execute(main: Main, name: str, config: Any, options: Options) -> bool:
    """Prepares the machine, runs the recipe in its folder, and says whether all claims
    held."""
    if options.export:
        require_writable(options.export / name, "--export")
        formats.require_converters(options.export_format)
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
    with open_folder(name, options.out, options.resume) as folder:
        return record(main, name, config, options, strategy, place, folder)


def record(
    main: Main,
    name: str,
    config: Any,
    options: Options,
    strategy: Any,
    place: str,
    folder: Path,
) -> bool:
    """The run itself, and what it leaves in its folder."""
    display = Display(recipe=Path(main.__code__.co_filename))
    path = own_data.path_of(config)
    if options.resume:
        own_data.check_unchanged(folder, path)
    run = Run(
        name=name,
        folder=folder,
        seed=options.seed,
        export_folder=options.export,
        export_formats=options.export_format,
        resume=options.resume,
        own_data=path,
        about={**describe(options, place), "config": dataclasses.asdict(config)},
        display=display,
    )
    # What a cluster loses when one of it is lost has cost many machines' time.
    is_cluster = isinstance(strategy, (Workers, parameter_server.Strategy))
    recorder = Recorder(
        folder,
        resume=options.resume,
        display=display,
        seconds_between_saves=0.0 if is_cluster else 1.0,
        on_save=run.write,
    )
    run.callbacks.append(recorder)
    run.print(f"{first_line(name, options, place)}\n")
    write_settings(folder, config, options, own.fingerprint(path) if path else {})
    display.start()
    try:
        with strategy.scope(), own_data.asking(options):
            main(config, run)
    except (UsageError, OSError, MemoryError, tf.errors.OpError):
        raise
    except Exception as error:
        if display.diverged is None:
            raise
        raise UsageError(
            f"{display.diverged.says_of_divergence()}: the training diverged, and what "
            f"came after it failed ({type(error).__name__}: {first_sentence(error)}); "
            "try a lower learning rate"
        ) from error
    finally:
        recorder.close()
        display.stop()
    held = run.finish()
    report(run)
    if run.export_error is not None:
        raise run.export_error
    return held


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without its end."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else "no message"


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
    with (
        tempfile.TemporaryDirectory() as folder,
        workers.scope(),
        own_data.asking(options),
    ):
        main(config, Run(name, Path(folder), options.seed, display=quiet))
    return True


def first_line(name: str, options: Options, place: str) -> str:
    """'lenet · default preset · seed 0 · CPU (2 cores)'."""
    return f"{name} · {options.preset} preset · seed {options.seed} · {place}"


def describe(options: Options, place: str) -> dict[str, Any]:
    """What a reader needs to know to judge or to repeat the measurement."""
    return {
        "preset": options.preset,
        "seed": options.seed,
        "precision": options.precision,
        "command": shlex.join([*own_command(), *sys.argv[1:]]),
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
