"""One run of a recipe: its command line, its folder, and what it measured.

`cli(main, quick=QUICK, full=FULL)` turns a recipe's `Config` into flags, prepares the
machine (seed, devices, precision), calls `main(config, run)` and ends with a table of
metrics and claims.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tyro
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from deep_learning_recipes import UsageError, __version__, figures, serving
from deep_learning_recipes.distribute import parameter_server, strategies
from deep_learning_recipes.distribute.replicas import Workers
from deep_learning_recipes.files import replacing
from deep_learning_recipes.run.loop import Loop
from deep_learning_recipes.run.recorder import Recorder

CLAIM_FELL, BAD_INPUT, WORKER_GONE, INTERRUPTED = 1, 2, 3, 130


@dataclass
class Options:
    """What every recipe can be asked besides its hyper-parameters."""

    preset: Literal["quick", "default", "full"] = "default"
    """quick: seconds; default: a minute or two on two CPU cores; full: the paper's
    scale"""
    seed: int = 0
    """of all random numbers"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = (
        None
    )
    """folder of this run (default: runs/NAME/TIME)"""
    resume: bool = False
    """go on with the run in --out, or with the newest one, after its last complete
    epoch"""
    strategy: str = "auto"
    """where to train: auto, cpu, gpu, mirrored (all GPUs), mirrored:N, multi_worker,
    parameter_server, tpu"""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """of the computation; weights stay float32 in all"""
    export: Annotated[
        Path | None, tyro.conf.arg(metavar="[DIR]", help_behavior_hint="")
    ] = None
    """write a SavedModel for TF Serving to DIR/NAME/VERSION (DIR: saved_models)"""
    deterministic: bool = False
    """the same weights to the last bit each time, a little slower"""


@dataclass
class Run:
    """What a recipe's `main` reports to. It writes metrics.json anew at each report, so
    that an interrupted run keeps its evidence."""

    name: str
    folder: Path
    seed: int = 0
    """for random numbers that the recipe draws by NumPy; Keras is seeded already"""
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    """for every `fit` of the recipe: checkpoints, TensorBoard logs, progress"""
    export_folder: Path | None = None
    resume: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.metrics: dict[str, dict[str, Any]] = {}
        self.claims: list[dict[str, Any]] = []
        self.curves: dict[str, dict[str, Any]] = {}
        self.figures: list[str] = []
        self.exports: list[str] = []
        self.loops = 0
        self.finished = False

    def metric(
        self, name: str, value: float, *, unit: str = "", timing: bool = False
    ) -> None:
        """Records a measured number. `timing=True` marks a duration or a speed: it
        differs from one run to the next, where all other metrics repeat with the same
        seed."""
        self.metrics[name] = {"value": float(value), "unit": unit, "timing": timing}
        self.write()

    def claim(self, text: str, *, holds: bool, measured: str) -> None:
        """Records a statement of the lecture, whether it held, and the numbers that
        decided it."""
        self.claims.append({"text": text, "holds": bool(holds), "measured": measured})
        self.write()

    def curve(self, name: str, x: Any, y: Any, *, xlabel: str) -> None:
        """Records how a number went while it trained, y over x (points,), so that
        `python -m recipes results` can draw its mean and spread over seeds. At most 200
        points are kept."""
        chosen = np.unique(np.linspace(0, len(x) - 1, 200).round().astype(int))
        points = {
            "x": np.asarray(x)[chosen].tolist(),
            "y": np.asarray(y)[chosen].tolist(),
        }
        self.curves[name] = {"xlabel": xlabel, **points}
        self.write()

    def loop(
        self,
        name: str,
        total: int,
        state: Mapping[str, Any],
        *,
        unit: str = "steps",
        show: Callable[[], Mapping[str, float]] = dict,
    ) -> Loop:
        """`range(total)` for a training loop that is not a `fit`: `for step in
        run.loop(...)` shows progress and keeps `state`, which --resume restores. See
        `deep_learning_recipes.loop.Loop`.
        """
        self.loops += 1
        path = self.folder / "checkpoints" / f"loop-{self.loops:02d}-{name}.npz"
        return Loop(
            path,
            total,
            state,
            name=name,
            unit=unit,
            show=show,
            resume=self.resume,
            console=self.console,
        )

    def figure(self, name: str, figure: Figure) -> None:
        """Saves a Matplotlib figure as NAME.png in the run's folder and closes it."""
        path = self.folder / f"{name}.png"
        figure.savefig(path)
        plt.close(figure)
        self.figures.append(path.name)
        self.write()

    def export(self, model: keras.Model, example: Any) -> None:
        """Writes the model as a SavedModel for TF Serving, if --export asked for it.
        `example` is an input on which the written model must agree with this one."""
        if self.export_folder is not None:
            # A strategy's scope ends at the thread; what is traced within it answers
            # only there.
            with ThreadPoolExecutor(1) as outside:
                folder = self.export_folder / self.name
                path = outside.submit(serving.export, model, folder, example).result()
            self.exports.append(str(path))
            self.write()

    def print(self, text: str = "") -> None:
        """Prints plain text, no line of it broken: samples, tables of a recipe's
        own."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def write(self) -> None:
        """Writes metrics.json as a whole: beside, then renamed."""
        record = {
            "recipe": self.name,
            "finished": self.finished,
            "seconds": round(time.monotonic() - self.started, 1),
            **self.about,
            "metrics": self.metrics,
            "claims": self.claims,
            "curves": self.curves,
            "figures": self.figures,
            "exports": self.exports,
        }
        write_json(self.folder / "metrics.json", record)

    def finish(self) -> bool:
        """Prints what was measured. True if every claim held."""
        self.finished = True
        self.write()
        if self.console.is_terminal:
            self._print_tables()
        else:
            self._print_lines()
        seconds = time.monotonic() - self.started
        self.print(f"\n{seconds:.0f} s. Figures and metrics.json: {self.folder}")
        for path in self.exports:
            self.print(f"SavedModel: {path}")
        return all(claim["holds"] for claim in self.claims)

    def _print_tables(self) -> None:
        table = Table("metric", "value", box=None, header_style="bold")
        for name, metric in self.metrics.items():
            table.add_row(name, f"{number(metric['value'])} {metric['unit']}")
        self.console.print("", table)
        table = Table(
            "", "claim", "measured", box=None, header_style="bold", padding=(0, 2, 1, 0)
        )
        for claim in self.claims:
            mark = "[green]holds[/]" if claim["holds"] else "[red]FELL[/]"
            table.add_row(mark, claim["text"], claim["measured"])
        self.console.print(table)

    def _print_lines(self) -> None:
        width = max((len(name) for name in self.metrics), default=0)
        print()
        for name, metric in self.metrics.items():
            print(
                f"{name:{width}}  {number(metric['value'])} {metric['unit']}".rstrip()
            )
        print()
        for claim in self.claims:
            print(f"{'holds' if claim['holds'] else 'FELL '}  {claim['text']}")
            print(f"       {claim['measured']}")


def number(value: float) -> str:
    """Four significant digits; whole numbers, such as counts of weights, in full."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def cli(main: Callable[[Any, Run], None], *, quick: Any, full: Any) -> None:
    """Runs a recipe from the command line and exits: 0 if it finished and all its
    claims held, 1 if one fell, 2 for bad input (with one line that says what to do), 3
    when another worker of --strategy multi_worker or a parameter server is gone, 130
    when interrupted.

    main: the recipe's function of (config, run).
    quick, full: its presets, instances of its `Config`; `Config()` is the default
        preset.
    """
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
        who = (
            "a parameter server"
            if strategies.has_parameter_servers()
            else "another worker"
        )
        message = f"error: {who} is gone; start all of them again with --resume"
        print(message, file=sys.stderr)
        sys.exit(WORKER_GONE)
    except KeyboardInterrupt:
        print(f"interrupted; go on: python -m recipes.{name} --resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0 if held else CLAIM_FELL)


def execute(
    main: Callable[[Any, Run], None],
    name: str,
    config: Any,
    options: Options,
    folder: Path,
) -> bool:
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
    console = Console()
    # What a cluster loses when one of it is lost has cost many machines' time.
    is_cluster = isinstance(strategy, (Workers, parameter_server.Strategy))
    recorder = Recorder(
        folder,
        resume=options.resume,
        console=console,
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
        console=console,
    )
    run.print(f"{first_line(name, options, place)}\n")
    settings = {
        "options": dataclasses.asdict(options),
        "config": dataclasses.asdict(config),
    }
    write_json(folder / "config.json", settings)
    try:
        with strategy.scope():
            main(config, run)
    except UsageError:
        if new:
            shutil.rmtree(folder)
        raise
    finally:
        recorder.close()
    return run.finish()


def assist(
    main: Callable[[Any, Run], None],
    name: str,
    config: Any,
    options: Options,
    workers: Workers,
    place: str,
) -> bool:
    """A worker's part in a run that the chief records: it computes the same, and keeps
    nothing."""
    print(first_line(name, options, place), flush=True)
    with tempfile.TemporaryDirectory() as folder, workers.scope():
        main(config, Run(name, Path(folder), options.seed, console=Console(quiet=True)))
    return True


def first_line(name: str, options: Options, place: str) -> str:
    return f"{name} · {options.preset} preset · seed {options.seed} · {place}"


def parse(
    name: str, presets: dict[str, Any], arguments: list[str]
) -> tuple[Any, Options, Path]:
    """Reads the command line into a recipe's `Config`, the common options and the run's
    folder.

    Flags fall back to the preset's values, and with --resume to what the run was
    started with. Raises UsageError for bad input.
    """
    arguments = fill_in_export(arguments)
    first = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    first.add_argument("--preset", default="default")
    try:
        asked, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see --help") from error
    if asked.preset not in presets:
        raise UsageError(f"--preset {asked.preset}: choose one of {', '.join(presets)}")

    config, options = parse_flags(name, presets[asked.preset], arguments)
    folder = options.out or Path("runs", name, time.strftime("%Y-%m-%dT%H-%M-%S"))
    if options.resume:
        folder = options.out or newest_unfinished(name)
        started_config, started_options = started_with(folder, type(config))
        config = keep_settings(config, presets[asked.preset], started_config, folder)
        options = keep_settings(options, Options(), started_options, folder)
    check_values(config, presets["default"])
    return config, options, folder


def keep_settings(wanted: Any, usual: Any, started: Any, folder: Path) -> Any:
    """The settings that a resumed run was started with. Raises UsageError if a flag
    that was given now says otherwise; where to export may change."""
    for each in dataclasses.fields(wanted):
        now, was = getattr(wanted, each.name), getattr(started, each.name)
        if each.name in ("out", "resume", "export"):
            continue
        if now not in (getattr(usual, each.name), was):
            raise UsageError(
                f"--{each.name.replace('_', '-')} {now}: the run in {folder} was started with "
                f"{was}; leave the flag out, or start anew without --resume"
            )
    if isinstance(wanted, Options):
        export = wanted.export or started.export
        return dataclasses.replace(started, out=wanted.out, resume=True, export=export)
    return started


def parse_flags(name: str, config: Any, arguments: list[str]) -> tuple[Any, Options]:
    """Lets tyro read all flags; its framed error messages become one line."""
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("hyperparameters", Annotated[type(config), tyro.conf.arg(name="")]),
            ("common", Annotated[Options, tyro.conf.arg(name="")]),
        ],
    )
    header = sys.modules[type(config).__module__].__doc__ or ""
    for line in ("\nPaper:", "\nTags:"):
        header = header.replace(line, "\n" + line)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would stand among the errors
            parsed = tyro.cli(
                both,
                prog=f"python -m recipes.{name}",
                description=header,
                config=(tyro.conf.FlagCreatePairsOff,),
                args=arguments,
                default=both(config, Options()),
            )
    except SystemExit as exit_request:
        if exit_request.code in (0, None):  # --help
            raise
        raise UsageError(first_paragraph(errors.getvalue())) from None
    return parsed.hyperparameters, parsed.common


def first_paragraph(framed: str) -> str:
    """The first part of tyro's framed message in one line, with the flag it takes for
    meant."""
    lines = [line.strip(" │╭╮╰╯") for line in framed.splitlines()][
        1:
    ]  # without the title
    parts = [
        list(part)
        for is_text, part in itertools.groupby(
            lines, key=lambda line: not set(line) <= set("─-")
        )
        if is_text
    ]
    message = " ".join(parts[0])
    near = [
        line.split()[0] for part in parts[1:] for line in part if line.startswith("--")
    ]
    if near and message.startswith("Unrecognized"):
        return f"{message}; did you mean {near[0]}?"
    return f"{message}; see --help"


def fill_in_export(arguments: list[str]) -> list[str]:
    """`--export` alone means `--export saved_models`."""
    filled = []
    for index, argument in enumerate(arguments):
        filled.append(argument)
        following = arguments[index + 1 : index + 2]
        if argument == "--export" and (not following or following[0].startswith("--")):
            filled.append("saved_models")
    return filled


def check_values(config: Any, default: Any) -> None:
    """Raises UsageError for a count below one and for a number that is not finite.

    A count may be zero where the default is zero; a learning rate must be above zero.
    What else a recipe needs it checks in `Config.__post_init__` or where it uses the
    value.
    """
    for each in dataclasses.fields(config):
        value, usual = getattr(config, each.name), getattr(default, each.name)
        flag = f"--{each.name.replace('_', '-')} {value}"
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{flag}: it must be a finite number, such as {usual}")
        if "learning_rate" in each.name and value <= 0:
            raise UsageError(
                f"{flag}: a learning rate must be above 0, such as {usual}"
            )
        if type(value) is int and value < min(1, usual):
            raise UsageError(
                f"{flag}: it must be at least {min(1, usual)}, such as {usual}"
            )


def newest_unfinished(name: str) -> Path:
    """The newest run of the recipe below runs/ that was interrupted."""
    for settings in sorted(Path("runs", name).glob("*/config.json"), reverse=True):
        if not is_finished(settings.parent):
            return settings.parent
    raise UsageError(
        f"--resume: no interrupted run in runs/{name}; start without --resume"
    )


def started_with(folder: Path, config_type: type) -> tuple[Any, Options]:
    """The settings that the run in `folder` was started with."""
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume: {folder} holds no run; start without --resume"
        ) from error
    if is_finished(folder):
        raise UsageError(
            f"--resume: the run in {folder} is finished; start without --resume"
        )
    options = Options(**settings["options"])
    options.export = Path(options.export) if options.export else None
    try:
        return config_type(**settings["config"]), options
    except TypeError as error:
        raise UsageError(
            f"--resume: {folder} was started by another version of the recipe; start anew"
        ) from error


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` went through to its end."""
    try:
        return bool(json.loads((folder / "metrics.json").read_text())["finished"])
    except FileNotFoundError:
        return False


def open_folder(folder: Path, resume: bool) -> bool:
    """Makes the run's folder; True if it is new. Raises UsageError if it can't be
    written or holds something else already."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and any(folder.iterdir()):
            raise UsageError(
                f"--out {folder}: not empty; name a new folder, or --resume"
            )
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror})"
        ) from error
    return new


def describe(options: Options, place: str) -> dict[str, Any]:
    """What a reader needs to know to judge or to repeat the measurement."""
    return {
        "preset": options.preset,
        "seed": options.seed,
        "precision": options.precision,
        "command": shlex.join(
            ["python", "-m", f"recipes.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
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


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON file as a whole: beside, then renamed. What is not finite becomes
    null."""
    text = json.dumps(_plain(record), indent=1) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
