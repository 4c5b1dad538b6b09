"""A runner for LiteRT (TensorFlow Lite) files.

Integers stand for real numbers by an affine map, x ≈ s·(q − z), with a scale s and a
zero point z for each tensor (for weights: for each output channel, with z = 0). See
Jacob et al., Quantization and training of neural networks for efficient
integer-arithmetic-only inference, 2018, equation 1.
"""

import contextlib
import gzip
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """An input or output of a LiteRT model."""

    shape: tuple[int | None, ...]
    """None where any length will do"""
    dtype: np.dtype
    scale: float
    """what one step of the integer stands for; 0 if the tensor is not quantized"""
    zero_point: int
    """the integer that stands for 0"""

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """q = round(x/s) + z, held within the range of the integers; as it is without a
        scale."""
        if not self.scale:
            return x.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        integers = np.round(x / np.float64(self.scale)) + self.zero_point
        return np.clip(integers, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """x = s·(q − z), float32; as it is without a scale."""
        if not self.scale:
            return q
        return (self.scale * (q.astype(np.float64) - self.zero_point)).astype("float32")


class LiteRTModel:
    """Runs a LiteRT file, such as `to_litert` makes.

        model = LiteRTModel(content)          # or LiteRTModel("digits.tflite", num_threads=2)
        model.predict(x)                      # real numbers in, real numbers out

    `inputs` and `outputs` describe the tensors by name. Not for several threads at
    once.
    """

    def __init__(
        self, model: bytes | str | os.PathLike[str], num_threads: int = 1
    ) -> None:
        """Raises ValueError if this is no LiteRT model or has no signature; OSError for
        a file that cannot be read."""
        from ai_edge_litert.interpreter import Interpreter

        if num_threads < 1:
            raise ValueError(f"num_threads={num_threads}: must be at least 1")
        self.content = model if isinstance(model, bytes) else Path(model).read_bytes()
        self.num_threads = num_threads
        source = "the bytes given" if isinstance(model, bytes) else str(model)
        if self.content[4:8] != b"TFL3":
            raise ValueError(f"{source}: not a LiteRT (TensorFlow Lite) model")
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=self.content, num_threads=num_threads
                )
                self._interpreter.allocate_tensors()
                signatures = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{source}: a damaged LiteRT model: {error}") from error
        if not signatures:
            raise ValueError(
                f"{source}: has no signature, so no names; convert it by to_litert"
            )
        self._run = self._interpreter.get_signature_runner(next(iter(signatures)))
        self.inputs = {n: _tensor(d) for n, d in self._run.get_input_details().items()}
        self.outputs = {
            n: _tensor(d) for n, d in self._run.get_output_details().items()
        }

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    @property
    def gzip_size(self) -> int:
        """Bytes of the file after gzip: what a download costs."""
        return len(gzip.compress(self.content, mtime=0))

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Outputs for the inputs `x`, as real numbers.

        x: (examples, ...) for a model with one input, or a dict of such arrays by input
            name.
        Returns float arrays (integers where the model's output is not quantized but an
        integer): one, or a dict by output name if the model has several outputs. Raises
        ValueError for a wrong name, shape or dtype, and for NaN.
        """
        inputs = self.prepare(x)
        count = len(next(iter(inputs.values())))
        fixed = max(tensor.shape[0] or 0 for tensor in self.inputs.values())
        step = fixed or batch_size
        if count % (fixed or 1):
            raise ValueError(
                f"{count} examples: the model takes batches of {fixed} only"
            )
        parts = [
            self.invoke(
                {name: value[start : start + step] for name, value in inputs.items()}
            )
            for start in range(0, count, step)
        ]
        outputs = {
            name: tensor.dequantize(np.concatenate([part[name] for part in parts]))
            for name, tensor in self.outputs.items()
        }
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def prepare(self, x: Any) -> dict[str, np.ndarray]:
        """Checks inputs and quantizes them to the integers that `invoke` takes."""
        if not isinstance(x, Mapping):
            if len(self.inputs) > 1:
                raise ValueError(f"give the inputs as a dict: {self._wanted()}")
            x = {next(iter(self.inputs)): x}
        if set(x) != set(self.inputs):
            raise ValueError(
                f"inputs {', '.join(map(repr, x))}: the model takes {self._wanted()}"
            )
        values = {
            name: check(name, x[name], tensor) for name, tensor in self.inputs.items()
        }
        if len({len(value) for value in values.values()}) > 1:
            counts = ", ".join(
                f"{name!r} {len(value)}" for name, value in values.items()
            )
            raise ValueError(f"the inputs differ in their number of examples: {counts}")
        return {
            name: self.inputs[name].quantize(value) for name, value in values.items()
        }

    def invoke(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model itself: arrays of its own dtypes in and out, for one batch."""
        return self._run(**inputs)

    def _wanted(self) -> str:
        return ", ".join(
            f"{name!r} {tensor.shape}" for name, tensor in self.inputs.items()
        )


def _tensor(details: dict[str, Any]) -> Tensor:
    shape = details.get("shape_signature", details["shape"])
    scale, zero_point = details["quantization"]
    return Tensor(
        tuple(None if length < 0 else int(length) for length in shape),
        np.dtype(details["dtype"]),
        float(scale),
        int(zero_point),
    )


def check(name: str, value: Any, tensor: Tensor) -> np.ndarray:
    """The value as an array that fits the tensor. Raises ValueError with what is
    wrong."""
    array = np.asarray(value)
    real = tensor.scale or np.issubdtype(tensor.dtype, np.floating)
    kinds = (
        "biuf" if real else "biu" if np.issubdtype(tensor.dtype, np.integer) else "b"
    )
    if array.dtype.kind not in kinds:
        wanted = "real numbers" if real else str(tensor.dtype)
        raise ValueError(f"input {name!r} is {array.dtype}: the model takes {wanted}")
    fits = array.ndim == len(tensor.shape) and all(
        wanted in (None, length)
        for length, wanted in zip(array.shape[1:], tensor.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"input {name!r} has shape {array.shape}: the model takes {tensor.shape}, where None "
            "is any length"
        )
    if not len(array):
        raise ValueError(f"input {name!r} holds no example")
    if tensor.scale and not np.isfinite(array).all():
        raise ValueError(
            f"input {name!r} holds NaN or infinity, which no integer stands for"
        )
    return array


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the screen what the converter and the interpreter write to standard
    error from C++; their errors come as exceptions."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
