"""A recipe's command line: its `Config` and the common options as flags, bad input in
one line."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import re
import sys
import typing
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Interval

from deep_learning_recipes import UsageError
from deep_learning_recipes.run.folder import newest_unfinished, read_settings
from deep_learning_recipes.run.ranges import check_values, flag_of, kind, stated

ESCAPE_CODE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Options:
    """What every recipe can be asked besides its hyper-parameters."""

    preset: Literal["quick", "default", "full"] = "default"
    """quick: seconds; default: a minute or two on two CPU cores; full: the paper's
    scale, which was run only where the recipe's file says so"""
    seed: Annotated[int, Interval(ge=0, lt=2**31)] = 0
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
    export_format: tuple[Literal["onnx", "litert"], ...] = ()
    """other formats to write into the SavedModel's folder, of the signature
    serving_default: onnx (needs pip install onnx onnxruntime tf2onnx), litert"""
    deterministic: bool = False
    """the same weights to the last bit each time, a little slower"""
    verbose: bool = False
    """let through what TensorFlow says while it loads"""


@dataclass
class DataOptions(Options):
    """What a recipe with --data can be asked as well."""

    target: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = ""
    """to predict, where --data is a table (of the recipes that take tables)"""
    max_examples: int = 0
    """of --data to use at most, for each part; of a text, characters; 0: all"""


def options_of(config: Any) -> Options:
    """The common options of a recipe: more of them where it takes data."""
    return DataOptions() if hasattr(config, "data") else Options()


def parse(
    name: str, presets: dict[str, Any], arguments: list[str]
) -> tuple[Any, Options]:
    """Reads the command line into a recipe's `Config` and the common options.

    Flags fall back to the preset's values, and with --resume, which needs `out`, to what
    the run was started with. Raises UsageError for bad input.
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
    if options.resume:
        options.out = options.out or newest_unfinished(name)
        started_config, started_options = started_with(options.out, config)
        config = keep_settings(config, presets[asked.preset], started_config, options)
        options = keep_settings(options, options_of(config), started_options, options)
    check_values(config, presets)
    check_values(options, {"default": options_of(config)})
    if options.export_format and not options.export:
        formats = " ".join(options.export_format)
        raise UsageError(f"--export-format {formats}: add --export [DIR], the folder")
    return config, options


def parse_flags(name: str, config: Any, arguments: list[str]) -> tuple[Any, Options]:
    """Lets tyro read all flags; its framed error messages become one line."""
    recipe = with_ranges(type(config))
    options = options_of(config)
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("hyperparameters", Annotated[recipe, tyro.conf.arg(name="")]),
            ("common", Annotated[type(options), tyro.conf.arg(name="")]),
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
                default=both(recipe(**vars(config)), options),
            )
    except SystemExit as exit_request:
        if exit_request.code in (0, None):  # --help
            raise
        raise UsageError(first_paragraph(errors.getvalue())) from None
    return type(config)(**vars(parsed.hyperparameters)), parsed.common


def with_ranges(config_type: type) -> type:
    """A recipe's `Config` whose help also tells the ranges that fields state."""
    told = []
    for name, hint in typing.get_type_hints(config_type, include_extras=True).items():
        if words := stated(hint):
            shown = tyro.conf.arg(metavar=f"{kind(hint)} ({words})")
            default = dataclasses.field(default=getattr(config_type, name))
            told.append((name, Annotated[hint, shown], default))
    return dataclasses.make_dataclass(config_type.__name__, told, bases=(config_type,))


def first_paragraph(framed: str) -> str:
    """The first part of tyro's framed message in one line, with the flag it takes for
    meant. On a terminal the frame is colored."""
    plain = ESCAPE_CODE.sub("", framed).splitlines()
    lines = [line.strip(" │╭╮╰╯") for line in plain][1:]  # without the title
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


def started_with(folder: Path, config: Any) -> tuple[Any, Options]:
    """The settings that the run in `folder` was started with."""
    settings = read_settings(folder)
    saved = {**settings["options"], "out": None, "resume": False}
    export = saved.get("export")
    saved["export"] = Path(export) if isinstance(export, str) else None
    try:
        options = from_json(options_of(config), saved)
        return from_json(config, settings["config"]), options
    except TypeError as error:
        raise UsageError(
            f"--resume: {folder} was started by another version of the recipe; start anew"
        ) from error


def from_json(like: Any, values: dict[str, Any]) -> Any:
    """Settings as JSON keeps them, with the types that those of `like` have.

    Raises TypeError for a name that it has not, and for a value of another type.
    """
    found = type(like)(**values)
    for field in dataclasses.fields(like):
        value, usual = getattr(found, field.name), getattr(like, field.name)
        if isinstance(value, list):
            value = tuple(value)
            setattr(found, field.name, value)
        kinds = (int, float) if isinstance(usual, float) else type(usual)
        if usual is not None and not isinstance(value, kinds):
            raise TypeError(f"{field.name}: {value!r}")
    return found


def keep_settings(wanted: Any, usual: Any, started: Any, options: Options) -> Any:
    """The settings that a resumed run was started with. Raises UsageError if a flag
    that was given now says otherwise; where and how to export may change."""
    for each in dataclasses.fields(wanted):
        now = getattr(wanted, each.name)
        was = getattr(started, each.name)
        if each.name in ("out", "resume", "export", "export_format", "verbose"):
            continue
        if now not in (getattr(usual, each.name), was):
            raise UsageError(
                f"{flag_of(each.name)} {now}: the run in {options.out} was started with "
                f"{was}; leave the flag out, or start anew without --resume"
            )
    if isinstance(wanted, Options):
        return dataclasses.replace(
            started,
            out=wanted.out,
            resume=True,
            export=wanted.export or started.export,
            export_format=wanted.export_format or started.export_format,
        )
    return started
