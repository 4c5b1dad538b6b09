"""What a recipe's `main` reports to: metrics, claims, curves, figures, an export."""

import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import UsageError, as_metric, data, serving
from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import asked
from deep_learning_recipes.run.display import Display
from deep_learning_recipes.run.evidence import between, beyond
from deep_learning_recipes.run.folder import read_record, write_json
from deep_learning_recipes.run.loop import Loop

LACKS_GLYPH = "missing from font"  # Matplotlib says so of each character


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
    export_formats: Sequence[str] = ()
    """besides the SavedModel"""
    resume: bool = False
    own_data: str = ""
    """path of the user's own data, on which the lecture's claims are not judged"""
    about: dict[str, Any] = field(default_factory=dict)
    display: Display = field(default_factory=Display)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        earlier = read_record(self.folder).get("seconds", 0) if self.resume else 0
        self.seconds_before = float(earlier)
        self.numbers: dict[str, dict[str, Any]] = {}
        self.claims: list[dict[str, Any]] = []
        self.curves: dict[str, dict[str, Any]] = {}
        self.figures: list[str] = []
        self.exports: list[str] = []
        self.export_error: UsageError | None = None
        self.loops = 0
        self.finished = False

    def plan(self, trainings: int) -> None:
        """Says how many trainings (fits and loops) there will be, so that the progress
        can tell which of how many it shows."""
        self.display.planned = trainings

    def metric(
        self, name: str, value: float, *, unit: str = "", timing: bool = False
    ) -> None:
        """Records a measured number. `timing=True` marks a duration or a speed: it
        differs from one run to the next, where all other metrics repeat with the same
        seed."""
        self._take(name, value, unit, timing)
        self.write()

    def _take(self, name: str, value: float, unit: str, timing: bool) -> None:
        self.numbers[name] = {"value": float(value), "unit": unit, "timing": timing}

    def metrics(
        self,
        prefix: str,
        values: Mapping[str, float],
        *,
        unit: str = "",
        timing: bool = False,
    ) -> None:
        """Records one number for each name: "late_return", {"no replay": 101.5} is the
        metric late_return_no_replay."""
        for name, value in values.items():
            self._take(f"{prefix}_{as_metric(name)}", value, unit, timing)
        self.write()

    def claim(
        self,
        text: str,
        *,
        holds: bool | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
        measured: str | Mapping[str, float],
        any_data: bool = False,
    ) -> None:
        """Records a statement of the lecture, whether it held, and the numbers that
        decided it. On the user's own data it is not judged: what holds for one data set
        may fail for another.

        holds: whether it held; `measured` then says in words what was found.
        at_least, at_most: bounds that every number of `measured`, by name, has to keep.
        any_data: it is true of any data, and so judged on the user's as well.
        """
        if isinstance(measured, Mapping):
            holds, measured = between(measured, at_least, at_most)
        is_judged = any_data or not self.own_data
        verdict = bool(holds) if is_judged else None
        self.claims.append({"text": text, "holds": verdict, "measured": measured})
        self.write()

    def has(self, flag: str, found: Container[Any], *needed: Any) -> bool:
        """Whether all that a claim needs is among what was measured; says what is not.
        `if run.has("--bits", losses, 1, 4): run.claim(...)`: a claim of a ladder's
        certain rungs leaves the user free to choose others."""
        missing = [str(each) for each in needed if each not in found]
        if missing:
            self.print(
                f"{flag} without {', '.join(missing)}: what needs it is left out"
            )
        return not missing

    def compare(
        self,
        text: str,
        values: Mapping[str, float],
        *,
        more: str,
        less: str,
        times: float | None = None,
        by: float | None = None,
        any_data: bool = False,
    ) -> None:
        """Records the claim that one number is larger than another, by a margin.

        values: the numbers by name.
        more, less: the names of the larger and of the smaller one.
        times, by: the margin. `more` has to be more than `times` times `less`, which
            must not be negative then, or more than `less` plus `by`.
        any_data: as of `claim`.
        """
        holds, measured = beyond(values, more, less, times, by)
        self.claim(text, holds=holds, measured=measured, any_data=any_data)

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
        not_kept: str = "",
    ) -> Loop:
        """`range(total)` for a training loop that is not a `fit`: `for step in
        run.loop(...)` shows progress and keeps `state`, which --resume restores. See
        `deep_learning_recipes.run.loop.Loop`.

        not_kept: what begins anew when the loop is resumed, so that it ends otherwise
            than an uninterrupted one: "the environments". It is said then.
        """
        self.loops += 1
        loop = Loop(
            self.folder / "checkpoints" / f"loop-{self.loops:02d}-{name}.npz",
            total,
            state,
            name=name,
            unit=unit,
            show=show,
            resume=self.resume,
            display=self.display,
            on_save=self.write,
        )
        if not_kept and 0 < loop.done < total:
            self.print(
                f"{name}: resumed at {loop.done} of {total} {unit}; {not_kept} begin "
                "anew, so it ends otherwise than without the interruption"
            )
        return loop

    def track(self, items: Sequence[Any], name: str, unit: str = "") -> Iterator[Any]:
        """The items one by one, with their progress shown: for what takes long and is
        no training."""
        line = self.display.progress(name, len(items), unit)
        try:
            for done, item in enumerate(items):
                line.update(done, {})
                yield item
            line.finish(len(items), {})
        finally:
            line.close()

    def figure(self, name: str, figure: Figure) -> None:
        """Saves a Matplotlib figure as NAME.png in the run's folder and closes it."""
        path = self.folder / f"{name}.png"
        with warnings.catch_warnings(record=True) as raised:
            figure.savefig(path)
        plt.close(figure)
        of_others = [each for each in raised if LACKS_GLYPH not in str(each.message)]
        for each in of_others:
            warnings.warn_explicit(
                each.message, each.category, each.filename, each.lineno
            )
        if len(of_others) < len(raised):
            self.print(f"{path.name}: characters that its font lacks are boxes")
        self.figures.append(path.name)
        self.write()

    def export(self, model: keras.Model, example: Any) -> None:
        """Writes the model as a SavedModel for TF Serving, if --export asked for it, and
        in the formats that --export-format names. `example` is an input on which what
        is written must agree with this model. What was measured is reported even if it
        cannot be written.

        A classifier of the user's own data answers with the names of their classes."""
        if self.export_folder is None:
            return
        if self.own_data and serving.is_classifier(model):
            model = self._with_own_names(model)
            self._write_features()
        failure = "no SavedModel was written"
        try:
            # A strategy's scope ends at the thread; what is traced within it answers
            # only there.
            with ThreadPoolExecutor(1) as outside:
                folder = self.export_folder / self.name
                writing = outside.submit(serving.export, model, folder, example)
                version = self._exported(writing)
                for name in self.export_formats:
                    failure = f"{version} was written, but not as {name}"
                    writing = outside.submit(
                        serving.write_as, model, version, name, example
                    )
                    self._exported(writing)
        except (UsageError, OSError) as error:
            self.export_error = UsageError(f"{failure}: {error}")

    def _exported(self, writing: Future[Path]) -> Path:
        path = writing.result()
        self.exports.append(str(path))
        self.write()
        return path

    def _with_own_names(self, model: keras.Model) -> keras.Model:
        """A classifier of the data's classes; one of others (odd or even, say) keeps
        its numbers."""
        names = data.class_names(self.own_data)
        if model.output["probabilities"].shape[-1] != len(names):
            return model
        return serving.with_class_names(model, names)

    def _write_features(self) -> None:
        """Of a table: what a client has to do to its columns before it asks."""
        features = reading.features(self.own_data, asked())
        if features:
            path = self.folder / "features.json"
            write_json(path, {"features": features})
            self.print(f"the exported network takes columns scaled as {path} says")

    def print(self, text: str = "") -> None:
        """Prints plain text, no line of it broken: samples, tables of a recipe's own."""
        self.display.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def seconds(self) -> float:
        """that the run has worked, also before it was interrupted and resumed"""
        return self.seconds_before + time.monotonic() - self.started

    def write(self) -> None:
        """Writes metrics.json as a whole: beside, then renamed."""
        record = {
            "recipe": self.name,
            "finished": self.finished,
            "seconds": round(self.seconds, 1),
            **self.about,
            "trainings": {"planned": self.display.planned, "begun": self.display.begun},
            "metrics": self.numbers,
            "claims": self.claims,
            "curves": self.curves,
            "figures": self.figures,
            "exports": self.exports,
        }
        write_json(self.folder / "metrics.json", record)

    def finish(self) -> bool:
        """Closes the record. True unless a claim that was judged failed."""
        self.finished = True
        self.write()
        return all(claim["holds"] is not False for claim in self.claims)
