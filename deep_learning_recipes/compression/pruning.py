"""Pruning: the smallest weights become 0, the others are trained on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tf_keras

from deep_learning_recipes.compression.bridge import bridge
from deep_learning_recipes.compression.fine_tuning import PREFIX, FineTuning, Optimized
from deep_learning_recipes.compression.kernels import (
    SUPPORTED,
    choose_layers,
    input_channels,
    kernel_of,
)
from deep_learning_recipes.compression.private_keras import masking_as_within
from deep_learning_recipes.compression.tfmot import load_tfmot

Sparsity = float | Mapping[str, float]

RAMP = 0.6
"""Share of the steps in which a polynomial schedule reaches its sparsity; the rest
retrains."""
MASK_UPDATES = 50
"""of a polynomial schedule: each sorts all weights, which costs more than a step"""


def prune(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    sparsity: Sparsity = 0.8,
    schedule: str = "polynomial",
    pattern: tuple[int, int] | None = None,
    layers: Sequence[str] | None = None,
    **training: Any,
) -> Optimized:
    """Sets the smallest weights to 0 and retrains the others.

    sparsity: share of zeros in each kernel, in [0, 1); or a share for each layer's
        name, where layers that are not named stay dense.
    schedule: "polynomial" raises the sparsity, from what the kernel has, in the first
        60 % of the steps (Zhu and Gupta, To prune or not to prune, 2017); "constant"
        prunes at the first step.
    pattern: (n, m) makes n zeros in each m weights along the input channels (2:4 is
        what GPUs use), in place of `sparsity`.
    layers: names of the layers to prune ("block/dense" within a nested model). None:
        all that TF Model Optimization can prune: Dense, Conv, Embedding, and of
        SeparableConv the pointwise kernel. With a pattern, Dense and Conv2D with at
        least m input channels.
    training: epochs=10, batch_size=32, learning_rate=1e-3 (of Adam), optimizer (a
        tf_keras one, in place of Adam), loss (None: the model's own), validation_data,
        verbose.
    """
    tfmot = load_tfmot()
    _check_arguments(sparsity, schedule, pattern)
    tuning = FineTuning(model, x, y, **training)
    chosen = _choose(model, sparsity, pattern, layers)
    twin = bridge(model, prefix=PREFIX, inline=True)
    options: dict[int, dict[str, Any]] = {}
    for path, layer in chosen.items():
        share = _share_of(path, sparsity, pattern)
        if schedule == "constant" or pattern is not None:
            start = share
        else:
            start = min(share, float(np.mean(kernel_of(layer) == 0)))
        options[id(twin.layers[path])] = {
            "pruning_schedule": _schedule(start, share, tuning.steps * tuning.epochs),
            "sparsity_m_by_n": pattern,
        }

    def wrap(layer: Any) -> Any:
        if id(layer) not in options:
            return layer
        prune_layer = tfmot.sparsity.keras.prune_low_magnitude
        return masking_as_within(prune_layer(layer, **options[id(layer)]))

    trained = tf_keras.models.clone_model(twin.model, clone_function=wrap)
    step = tfmot.sparsity.keras.UpdatePruningStep()
    step.set_model(trained)
    hooks = {name: getattr(step, name) for name in ("on_train_begin", "on_epoch_end")}
    tuning.fit(trained, [keras.callbacks.LambdaCallback(**hooks)])
    stripped = tfmot.sparsity.keras.strip_pruning(trained)
    return tuning.result(stripped, twin)


def _check_arguments(
    sparsity: Sparsity, schedule: str, pattern: tuple[int, int] | None
) -> None:
    if schedule not in ("polynomial", "constant"):
        raise ValueError(f"schedule={schedule!r}: must be 'polynomial' or 'constant'")
    shares = sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]
    if any(not 0 <= each < 1 for each in shares):
        raise ValueError(f"sparsity={sparsity}: must be at least 0 and less than 1")
    if pattern is not None and not 0 < pattern[0] < pattern[1]:
        raise ValueError(
            f"pattern={pattern}: (n, m) means n zeros in each m, with 0 < n < m"
        )


def _choose(
    model: keras.Model,
    sparsity: Sparsity,
    pattern: tuple[int, int] | None,
    names: Sequence[str] | None,
) -> dict[tuple[str, ...], Any]:
    """The layers to prune, by path."""
    if pattern is None:
        with_share = list(sparsity) if isinstance(sparsity, Mapping) else []
        return choose_layers(model, names or with_share or None, SUPPORTED, "prune")
    zeros, among = pattern
    chosen = choose_layers(model, names, ("Conv2D", "Dense"), f"prune {zeros}:{among}")
    if names is not None:
        return chosen
    return {
        path: layer for path, layer in chosen.items() if input_channels(layer) >= among
    }


def _share_of(
    path: tuple[str, ...], sparsity: Sparsity, pattern: tuple[int, int] | None
) -> float:
    """The share of zeros that a layer is to have in the end."""
    if pattern is not None:
        return pattern[0] / pattern[1]
    if isinstance(sparsity, Mapping):
        return sparsity["/".join(path)]
    return sparsity


def _schedule(start: float, share: float, steps: int) -> Any:
    """Sparsity by step: `share` from the first step on, or rising to it from
    `start`."""
    schedules = load_tfmot().sparsity.keras
    if start == share:
        return schedules.ConstantSparsity(share, begin_step=1, end_step=1, frequency=1)
    end = max(1, int(RAMP * steps))
    frequency = math.ceil(end / MASK_UPDATES)
    end -= end % frequency  # the last update is the one that reaches the share
    return schedules.PolynomialDecay(
        start, share, begin_step=0, end_step=end, frequency=frequency
    )
