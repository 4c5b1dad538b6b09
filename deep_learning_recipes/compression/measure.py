"""Size, speed and accuracy of exported models, side by side."""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deep_learning_recipes.compression.litert import LiteRTModel


class SavedModel:
    """Runs the default signature of an exported SavedModel: one input, one output."""

    def __init__(self, folder: str | Path) -> None:
        import tensorflow as tf

        self.folder = Path(folder)
        self._loaded = tf.saved_model.load(str(folder))
        self._serve = self._loaded.signatures["serving_default"]
        ((self._input, specification),) = self._serve.structured_input_signature[
            1
        ].items()
        self._dtype = specification.dtype.as_numpy_dtype

    def _files(self) -> list[bytes]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return [path.read_bytes() for path in files]

    @property
    def size(self) -> int:
        """Bytes of all files. Keras 3 writes every weight twice (as `variables` and as
        `_all_variables`), and the graph less tersely than LiteRT does."""
        return sum(map(len, self._files()))

    @property
    def gzip_size(self) -> int:
        """Bytes of all files, each gzip'd."""
        return sum(len(gzip.compress(content, mtime=0)) for content in self._files())

    def prepare(self, x: Any) -> dict[str, np.ndarray]:
        return {self._input: np.asarray(x, self._dtype)}

    def invoke(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self._serve(**tensors).items()}

    def predict(self, x: Any) -> np.ndarray:
        """The output for a batch of inputs."""
        (output,) = self.invoke(self.prepare(x)).values()
        return output


@dataclass(frozen=True)
class Measurement:
    """One model's row."""

    name: str
    size: int
    """bytes"""
    gzip_size: int
    """bytes"""
    accuracy: float
    """share of right classes, in [0, 1]"""
    milliseconds: float
    """median latency of one example, on one thread (a SavedModel: on TensorFlow's
    threads)"""
    milliseconds_two_threads: float | None
    """the same on two threads (a SavedModel: None)"""


def benchmark(
    models: Mapping[str, bytes | LiteRTModel | SavedModel],
    x: np.ndarray,
    y: np.ndarray,
    repeats: int = 100,
) -> list[Measurement]:
    """Measures classifiers, which give one score for each class.

    x, y: held-out inputs (examples, ...) and class numbers (examples,), for the
    accuracy; the latency is that of x[:1], the median of `repeats` runs after as many
    tenths to warm up, without the time that quantizing the input takes. Raises
    ValueError for outputs that are no scores.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: must be at least 1")
    rows = []
    for name, given in models.items():
        model = LiteRTModel(given) if isinstance(given, bytes) else given
        scores = model.predict(x)
        if (
            not isinstance(scores, np.ndarray)
            or scores.ndim != 2
            or len(scores) != len(y)
        ):
            raise ValueError(
                f"{name}: a classifier gives one (examples, classes) array"
            )
        two = None
        if isinstance(model, LiteRTModel):
            model, pair = (LiteRTModel(model.content, num_threads=n) for n in (1, 2))
            two = latency(pair, x[:1], repeats)
        rows.append(
            Measurement(
                name=name,
                size=model.size,
                gzip_size=model.gzip_size,
                accuracy=float(np.mean(scores.argmax(axis=1) == y)),
                milliseconds=latency(model, x[:1], repeats),
                milliseconds_two_threads=two,
            )
        )
    return rows


def latency(model: LiteRTModel | SavedModel, x: np.ndarray, repeats: int) -> float:
    """Median milliseconds of one call."""
    inputs = model.prepare(x)
    seconds = []
    for _ in range(repeats + repeats // 10 + 1):
        started = time.perf_counter()
        model.invoke(inputs)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[-repeats:])


def table(rows: list[Measurement]) -> str:
    """The measurements as lines of text."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}    bytes  gzip'd  accuracy  ms, 1 thread  ms, 2 threads"]
    for row in rows:
        pair = row.milliseconds_two_threads
        lines.append(
            f"{row.name:{width}}  {row.size:7,}  {row.gzip_size:6,}  {row.accuracy:8.4f}  "
            f"{row.milliseconds:12.4f}  {'' if pair is None else f'{pair:13.4f}'}".rstrip()
        )
    return "\n".join(lines)
