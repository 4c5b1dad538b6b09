"""What an optimization did to a model."""

import gzip
from dataclasses import dataclass, field

import keras
import numpy as np

from deep_learning_recipes.compression.kernels import kernels_of


@dataclass
class WeightsReport:
    """One kernel before and after."""

    name: str
    """of the layer and the variable, e.g. dense/kernel"""
    count: int
    sparsity: tuple[float, float]
    """share of zeros, before and after"""
    distinct: tuple[int, int]
    """different values, before and after"""


@dataclass
class Report:
    """What an optimization did to a model. `print(report)` shows a table."""

    weights: list[WeightsReport]
    bytes: int
    """of all weights as float32, before and after alike"""
    gzip_bytes: tuple[int, int]
    """of the same, compressed by gzip, before and after"""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """loss and metrics before and after, on validation_data or, without it, the
    training data"""

    @property
    def sparsity(self) -> float:
        """Share of zeros in all kernels after."""
        total = sum(each.count for each in self.weights)
        return sum(each.count * each.sparsity[1] for each in self.weights) / total

    def __str__(self) -> str:
        width = max([len(each.name) for each in self.weights] + [9])
        lines = [
            f"{'kernel':{width}}  {'weights':>10}  {'zeros':>15}  {'distinct values':>21}"
        ]
        for each in self.weights:
            zeros = f"{100 * each.sparsity[0]:.1f} → {100 * each.sparsity[1]:.1f} %"
            distinct = f"{each.distinct[0]:,} → {each.distinct[1]:,}"
            lines.append(
                f"{each.name:{width}}  {each.count:>10,}  {zeros:>15}  {distinct:>21}"
            )
        before, after = self.gzip_bytes
        lines.append(f"float32 {self.bytes:,} bytes; gzip'd {before:,} → {after:,}")
        lines += [
            f"{name} {old:.4f} → {new:.4f}" for name, (old, new) in self.metrics.items()
        ]
        return "\n".join(lines)


def compare(before: keras.Model, after: keras.Model) -> list[WeightsReport]:
    """Each kernel in two models of one structure."""
    new = kernels_of(after)
    return [
        WeightsReport(
            name,
            old.size,
            sparsity=(float(np.mean(old == 0)), float(np.mean(new[name] == 0))),
            distinct=(len(np.unique(old)), len(np.unique(new[name]))),
        )
        for name, old in kernels_of(before).items()
    ]


def gzip_bytes(model: keras.Model) -> int:
    """Size of all weights as float32, compressed."""
    arrays = (np.asarray(each, "float32").tobytes() for each in model.weights)
    return len(gzip.compress(b"".join(arrays), mtime=0))
