"""The training of a tf_keras twin, and the way of its weights back to Keras 3."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import keras
import numpy as np
import tf_keras

from deep_learning_recipes.compression.bridge import copy_of
from deep_learning_recipes.compression.counterparts import MADE_WITH_STATE
from deep_learning_recipes.compression.graph import Bridge
from deep_learning_recipes.compression.report import Report, compare, gzip_bytes
from deep_learning_recipes.compression.weights import (
    assign,
    variables_of,
    weighted_layers,
)

PREFIX = "optimized_"
"""before the names of the layers that TF Model Optimization sees: it expands some into
others, whose automatic names would be taken"""
STEPS_PER_EXECUTION = 16


@dataclass
class Optimized:
    """A fine-tuned model."""

    model: keras.Model
    """with the structure of the source; compiled if the source is"""
    tf_keras_model: tf_keras.Model
    """what was trained; after `quantize_aware` it holds the learned ranges, and
    `tf.lite.TFLiteConverter.from_keras_model` makes an int8 model of it"""
    report: Report


@dataclass
class FineTuning:
    """How all three optimizations train a twin of a model, and report."""

    source: keras.Model
    x: Any
    y: Any
    _: KW_ONLY
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    """of Adam"""
    optimizer: Any = None
    """of tf_keras, in place of Adam"""
    loss: Any = None
    """None: the model's own"""
    validation_data: Any = None
    verbose: int | str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}: must be at least 1"
            )
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "optimizer: tf_keras trains here and takes none of Keras 3; give "
                f"tf_keras.optimizers.{type(self.optimizer).__name__}(...)"
            )
        if self.loss is None:
            if not self.source.compiled:
                raise ValueError(
                    "loss: the model is not compiled; give loss=... or compile it"
                )
            self.loss = self.source.loss
        if self.steps == 0:
            raise ValueError(
                "there is nothing to train on: the arrays hold no examples"
            )
        if self.optimizer is None:
            # At a constant rate: one that falls leaves little to mend the last zeros
            # with.
            self.optimizer = tf_keras.optimizers.Adam(self.learning_rate)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(len(keras.tree.flatten(self.x)[0]) / self.batch_size)

    @property
    def metrics(self) -> list[str]:
        """Those of the source that are names. Objects stay with the model they were
        compiled into; names can be used again."""
        config = self.source.get_compile_config() if self.source.compiled else None
        metrics = (config or {}).get("metrics") or []
        return [each for each in metrics if isinstance(each, str)]

    def fit(self, model: tf_keras.Model, callbacks: Sequence[Any] = ()) -> None:
        model.compile(
            optimizer=self.optimizer,
            loss=keras.tree.map_structure(_tf_keras_loss, self.loss),
            metrics=self.metrics,
            steps_per_execution=min(STEPS_PER_EXECUTION, self.steps),
        )
        # A step that makes variables is traced twice, so the optimizer and the metrics
        # get theirs before.
        if isinstance(model.optimizer, tf_keras.optimizers.Optimizer):
            model.optimizer.build(model.trainable_variables)
        first = keras.tree.map_structure(lambda array: array[:1], (self.x, self.y))
        model.evaluate(*first, verbose=0)
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
        data = self.validation_data
        if data is None:
            data = (self.x, self.y)
        found = model.evaluate(*data, batch_size=256, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def result(
        self,
        trained: tf_keras.Model,
        twin: Bridge,
        metrics: dict[str, float] | None = None,
    ) -> Optimized:
        """Brings the weights home.

        trained: without the wrappers of pruning and clustering; with those of
            quantization.
        metrics: of the trained model, if they differ from those of the weights alone.
        """
        before = copy_of(self.source)
        after = copy_of(self.source)
        for path, layer in weighted_layers(after).items():
            if type(layer).__name__ not in MADE_WITH_STATE:
                assign(layer, _weights_in(trained, layer, twin.names[path]))
        if not after.compiled:
            for model in (before, after):
                model.compile(loss=self.loss)
        old = self.evaluate(before)
        new = metrics or self.evaluate(after)
        report = Report(
            weights=compare(before, after),
            bytes=sum(4 * int(np.prod(each.shape)) for each in after.weights),
            gzip_bytes=(gzip_bytes(before), gzip_bytes(after)),
            metrics={name: (old[name], new[name]) for name in old if name in new},
        )
        return Optimized(after, trained, report)


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
    `weights.variables_of`."""
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
    return [found[variable.name] for variable in variables_of(layer)]
