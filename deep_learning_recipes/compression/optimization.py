"""TF Model Optimization on Keras 3 models: pruning, shared weights, quantization-aware
training.

Each function takes a trained Keras 3 model and data, fine-tunes a tf_keras twin of it,
and returns a new Keras 3 model with the weights that came out. The source model is
never touched.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from deep_learning_recipes import did_you_mean
from deep_learning_recipes.compression import bridge

PREFIX = "optimized_"
"""before the names of the layers that TF Model Optimization sees: it expands some into
others, whose automatic names would be taken"""
STEPS_PER_EXECUTION = 16
RAMP = 0.6
"""Share of the steps in which a polynomial schedule reaches its sparsity; the rest
retrains."""
MASK_UPDATES = 50
"""of a polynomial schedule: each sorts all weights, which costs more than a step"""

SUPPORTED = (
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "Embedding",
    "SeparableConv1D",
    "SeparableConv2D",
)
"""Layers whose kernels TF Model Optimization prunes and clusters (of separable ones,
the pointwise kernel)."""


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


@dataclass
class Optimized:
    """A fine-tuned model."""

    model: keras.Model
    """with the structure of the source; compiled if the source is"""
    tf_keras_model: tf_keras.Model
    """what was trained; after `quantize_aware` it holds the learned ranges, and
    `tf.lite.TFLiteConverter.from_keras_model` makes an int8 model of it"""
    report: Report


def prune(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    sparsity: float | Mapping[str, float] = 0.8,
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
    tfmot = _tfmot()
    if schedule not in ("polynomial", "constant"):
        raise ValueError(f"schedule={schedule!r}: must be 'polynomial' or 'constant'")
    shares = sparsity if isinstance(sparsity, Mapping) else None
    share = 0.0 if isinstance(sparsity, Mapping) else sparsity
    if any(not 0 <= each < 1 for each in (shares or {"": share}).values()):
        raise ValueError(f"sparsity={sparsity}: must be at least 0 and less than 1")
    if pattern is not None and not 0 < pattern[0] < pattern[1]:
        raise ValueError(
            f"pattern={pattern}: (n, m) means n zeros in each m, with 0 < n < m"
        )
    settings = _Training(model, x, y, **training)
    if pattern is None:
        chosen = _choose(
            model, layers or (list(shares) if shares else None), SUPPORTED, "prune"
        )
    else:
        chosen = _choose(
            model, layers, ("Conv2D", "Dense"), f"prune {pattern[0]}:{pattern[1]}"
        )
        if layers is None:
            chosen = {
                path: each
                for path, each in chosen.items()
                if _inputs(each) >= pattern[1]
            }
    twin = bridge.bridge(model, prefix=PREFIX, inline=True)
    options: dict[int, dict[str, Any]] = {}
    for path, layer in chosen.items():
        if pattern is not None:
            wanted = pattern[0] / pattern[1]
        else:
            wanted = share if shares is None else shares["/".join(path)]
        constant = schedule == "constant" or pattern is not None
        start = wanted if constant else min(wanted, float(np.mean(_kernel(layer) == 0)))
        options[id(twin.layers[path])] = {
            "pruning_schedule": _schedule(
                start, wanted, settings.steps * settings.epochs
            ),
            "sparsity_m_by_n": pattern,
        }

    def wrap(layer: Any) -> Any:
        if id(layer) not in options:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, **options[id(layer)])

    trained = tf_keras.models.clone_model(twin.model, clone_function=wrap)
    settings.fit(trained, [tfmot.sparsity.keras.UpdatePruningStep()])
    stripped = tfmot.sparsity.keras.strip_pruning(trained)
    return settings.result(stripped, twin)


def cluster(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    clusters: int = 16,
    preserve_sparsity: bool = False,
    layers: Sequence[str] | None = None,
    **training: Any,
) -> Optimized:
    """Lets the weights of each kernel share a few values, and trains these.

    clusters: values in each kernel, at least 2; 16 take 4 bits a weight. A layer with
        fewer weights that are not 0 stays as it is.
    preserve_sparsity: keep the zeros of a model from `prune`; one of the values is 0.
    layers, training: as for `prune`.
    """
    tfmot = _tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
        cluster as experimental,
    )

    if clusters < 2:
        raise ValueError(f"clusters={clusters}: must be at least 2")
    settings = _Training(model, x, y, **training)
    chosen = _choose(model, layers, SUPPORTED, "cluster")
    twin = bridge.bridge(model, prefix=PREFIX, inline=True)
    wrapped = set()
    for path, layer in chosen.items():
        if np.count_nonzero(_kernel(layer)) < clusters:
            twin.layers[path].trainable = False
        else:
            wrapped.add(id(twin.layers[path]))

    def wrap(layer: Any) -> Any:
        if id(layer) not in wrapped:
            return layer
        return experimental.cluster_weights(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=(
                tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
            ),
            preserve_sparsity=preserve_sparsity,
        )

    trained = tf_keras.models.clone_model(twin.model, clone_function=wrap)
    settings.fit(trained)
    stripped = tfmot.clustering.keras.strip_clustering(trained)
    return settings.result(stripped, twin)


def quantize_aware(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
    **training: Any,
) -> Optimized:
    """Fine-tunes under 8-bit quantization of weights and activations, whose ranges are
    learned.

    preserve_sparsity: keep zeros (PQAT), for a model from `prune`.
    preserve_clusters: keep shared weights (CQAT), for one from `cluster`; both: PCQAT.
    training: as for `prune`.

    The result's `tf_keras_model` converts to an int8 model with the learned ranges; its
    metrics in the report are those of the quantized model. `model` holds the fine-tuned
    weights as floats. BatchNormalization with few steps: its moving statistics must
    follow; give it momentum=0.9.

    Raises ValueError for layers that TF Model Optimization cannot quantize. Fold
    Rescaling and lone BatchNormalization into their neighbors first; recurrent and 1-D
    layers, Embedding and LayerNormalization want quantization after training.
    """
    tfmot = _tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )

    settings = _Training(model, x, y, **training)
    twin = bridge.bridge(model, prefix=PREFIX, inline=True, split=True)
    known = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    _check_quantizable(twin, known)

    def annotate(layer: Any) -> Any:
        config = None
        if isinstance(layer, bridge.KerasOperation):
            config = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig()
        return tfmot.quantization.keras.quantize_annotate_layer(layer, config)

    combine = tfmot.experimental.combine
    if preserve_clusters:
        scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity)
    elif preserve_sparsity:
        scheme = combine.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = default_8bit_quantize_scheme.Default8BitQuantizeScheme()
    with tfmot.quantization.keras.quantize_scope():
        annotated = tf_keras.models.clone_model(twin.model, clone_function=annotate)
        trained = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    settings.fit(trained)
    metrics = settings.evaluate(trained)
    if preserve_clusters:
        trained = combine.strip_clustering_cqat(trained)
    return settings.result(trained, twin, metrics)


class _Training:
    """How all three functions fine-tune and report."""

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        optimizer: Any = None,
        loss: Any = None,
        validation_data: Any = None,
        verbose: int | str = "auto",
    ) -> None:
        if epochs < 1 or batch_size < 1:
            raise ValueError(
                f"epochs={epochs}, batch_size={batch_size}: must be at least 1"
            )
        if isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "optimizer: tf_keras trains here and takes none of Keras 3; give "
                f"tf_keras.optimizers.{type(optimizer).__name__}(...)"
            )
        if loss is None and not model.compiled:
            raise ValueError(
                "loss: the model is not compiled; give loss=... or compile it"
            )
        self.source, self.x, self.y = model, x, y
        self.epochs, self.batch_size, self.verbose = epochs, batch_size, verbose
        examples = len(keras.tree.flatten(x)[0])
        if examples == 0:
            raise ValueError(
                "there is nothing to train on: the arrays hold no examples"
            )
        self.steps = math.ceil(examples / batch_size)
        if optimizer is None:
            # At a constant rate: one that falls leaves little to mend the last zeros
            # with.
            optimizer = tf_keras.optimizers.Adam(learning_rate)
        self.optimizer = optimizer
        self.loss = loss if loss is not None else model.loss
        self.validation_data = validation_data
        # Objects stay with the model they were compiled into; names can be used again.
        config = (model.get_compile_config() or {}) if model.compiled else {}
        metrics = config.get("metrics") or []
        self.metrics = [each for each in metrics if isinstance(each, str)]

    def compile(self, model: tf_keras.Model, optimizer: Any) -> None:
        model.compile(
            optimizer=optimizer,
            loss=keras.tree.map_structure(_tf_keras_loss, self.loss),
            metrics=self.metrics,
            steps_per_execution=min(STEPS_PER_EXECUTION, self.steps),
        )

    def fit(self, model: tf_keras.Model, callbacks: Sequence[Any] = ()) -> None:
        self.compile(model, self.optimizer)
        model.fit(
            self.x,
            self.y,
            batch_size=self.batch_size,
            epochs=self.epochs,
            validation_data=self.validation_data,
            callbacks=list(callbacks),
            verbose=self.verbose,
        )

    def evaluate(self, model: Any) -> dict[str, float]:
        data = (
            self.validation_data
            if self.validation_data is not None
            else (self.x, self.y)
        )
        found = model.evaluate(*data, batch_size=256, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def result(
        self,
        trained: tf_keras.Model,
        twin: bridge.Bridge,
        metrics: dict[str, float] | None = None,
    ) -> Optimized:
        """Brings the weights home.

        trained: without the wrappers of pruning and clustering; with those of
            quantization.
        metrics: of the trained model, if they differ from those of the weights alone.
        """
        before, after = bridge.copy_of(self.source), bridge.copy_of(self.source)
        for path, layer in bridge.weighted_layers(after).items():
            if type(layer).__name__ not in bridge.MADE_WITH_STATE:
                bridge.assign(layer, _weights_in(trained, layer, twin.names[path]))
        if not after.compiled:
            for model in (before, after):
                model.compile(loss=self.loss)
        old = self.evaluate(before)
        new = metrics or self.evaluate(after)
        report = Report(
            weights=_compare(before, after),
            bytes=sum(4 * int(np.prod(each.shape)) for each in after.weights),
            gzip_bytes=(_gzip_bytes(before), _gzip_bytes(after)),
            metrics={name: (old[name], new[name]) for name in old if name in new},
        )
        return Optimized(after, trained, report)


def _tfmot() -> Any:
    """TF Model Optimization. Its import turns Keras 3 off in the environment, for this
    process's `tf.keras` and all child processes; that is undone."""
    tf.keras.version()  # decides what tf.keras is
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    import tensorflow_model_optimization

    os.environ.pop(name, None)
    if before is not None:
        os.environ[name] = before
    return tensorflow_model_optimization


def _choose(
    model: keras.Model, names: Sequence[str] | None, kinds: Sequence[str], verb: str
) -> dict[tuple[str, ...], Any]:
    """The layers to change, by path; without names all that can be."""
    holding = bridge.weighted_layers(model)
    able = {
        path: each for path, each in holding.items() if type(each).__name__ in kinds
    }
    if names is None:
        if not able:
            raise ValueError(
                f"{model.name!r} has no layer to {verb}: none of {', '.join(kinds)}"
            )
        return able
    chosen = {}
    for name in names:
        path = tuple(name.split("/"))
        if path not in holding:
            known = ["/".join(each) for each in able]
            raise ValueError(
                f"{model.name!r} has no layer {name!r} with weights{did_you_mean(name, known)}"
            )
        if path not in able:
            kind = type(holding[path]).__name__
            raise ValueError(
                f"layer {name!r} ({kind}): can {verb} only {', '.join(kinds)}"
            )
        chosen[path] = able[path]
    return chosen


def _schedule(start: float, share: float, steps: int) -> Any:
    """Sparsity by step: `share` from the first step on, or rising to it from
    `start`."""
    schedules = _tfmot().sparsity.keras
    if start == share:
        return schedules.ConstantSparsity(share, begin_step=1, end_step=1, frequency=1)
    end = max(1, int(RAMP * steps))
    frequency = math.ceil(end / MASK_UPDATES)
    end -= end % frequency  # the last update is the one that reaches the share
    return schedules.PolynomialDecay(
        start, share, begin_step=0, end_step=end, frequency=frequency
    )


def _check_quantizable(twin: bridge.Bridge, known: Any) -> None:
    """Raises ValueError for a layer that TF Model Optimization cannot quantize."""
    names = {layer.name: "/".join(path) for path, layer in twin.layers.items()}
    for layer in twin.model.layers:
        kind = type(layer).__name__
        if isinstance(layer, (tf_keras.layers.InputLayer, bridge.KerasOperation)):
            continue
        where = f"layer {names.get(layer.name, layer.name)!r} ({kind})"
        if kind == "BatchNormalization":
            before = type(layer.inbound_nodes[0].inbound_layers).__name__
            if before in FOLDED_INTO:
                continue
            raise ValueError(
                f"{where}: stands alone; put it after {' or '.join(FOLDED_INTO)}, or fold it"
            )
        if kind == "Rescaling":
            raise ValueError(
                f"{where}: cannot be quantized; fold it into the next layer's weights"
            )
        if not known.supports(layer):
            raise ValueError(
                f"{where}: TF Model Optimization cannot quantize it in training; quantize the "
                "model after training instead (to_litert(model, 'int8'))"
            )


FOLDED_INTO = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")
"""Layers that take in the BatchNormalization behind them."""


def _tf_keras_loss(loss: Any) -> Any:
    """A loss as tf_keras takes it. Keras 3's are functions of tensors, so they can
    stay."""
    if not isinstance(loss, keras.losses.Loss):
        return loss

    def compute(y_true: Any, y_pred: Any) -> Any:
        return loss(y_true, y_pred)

    return compute


def _weights_in(trained: tf_keras.Model, layer: Any, name: str) -> list[np.ndarray]:
    """The weights of what stands for a Keras 3 layer, in the order of
    `bridge.variables_of`."""
    layers = {each.name.removeprefix("quant_"): each for each in trained.layers}
    if name in layers and not hasattr(layers[name], "quantize_config"):
        return layers[name].get_weights()
    parts = [name] if name in layers else [f"{name}_depthwise", f"{name}_pointwise"]
    found = {}
    for part in parts:
        for variable in layers[part].weights:
            key = variable.name.split(":")[0].rsplit("/", 1)[-1]
            if part == f"{name}_pointwise" and key == "kernel":
                key = "pointwise_kernel"
            found[key] = variable.numpy()
    if type(layer).__name__ == "DepthwiseConv2D":
        found["kernel"] = found["depthwise_kernel"]
    return [found[variable.name] for variable in bridge.variables_of(layer)]


def _kernel(layer: Any) -> Any:
    """The largest of a layer's variables."""
    return max((np.asarray(each) for each in layer.weights), key=np.size)


def _inputs(layer: Any) -> int:
    return _kernel(layer).shape[-2]


def _kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        "/".join((*path, variable.name)): np.asarray(variable)
        for path, layer in bridge.weighted_layers(model).items()
        for variable in layer.weights
        if len(variable.shape) > 1
    }


def _compare(before: keras.Model, after: keras.Model) -> list[WeightsReport]:
    new = _kernels(after)
    return [
        WeightsReport(
            name,
            old.size,
            sparsity=(float(np.mean(old == 0)), float(np.mean(new[name] == 0))),
            distinct=(len(np.unique(old)), len(np.unique(new[name]))),
        )
        for name, old in _kernels(before).items()
    ]


def _gzip_bytes(model: keras.Model) -> int:
    arrays = (np.asarray(each, "float32").tobytes() for each in model.weights)
    return len(gzip.compress(b"".join(arrays), mtime=0))
