"""The training of a tf_keras twin, and the way of its weights back to Keras 3."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from deep_learning_recipes import UsageError
from deep_learning_recipes.compression import private_keras
from deep_learning_recipes.compression.bridge import copy_of, with_new_metrics
from deep_learning_recipes.compression.counterparts import MADE_WITH_STATE
from deep_learning_recipes.compression.functional import as_functional
from deep_learning_recipes.compression.graph import Bridge
from deep_learning_recipes.compression.report import Report, compare, gzip_bytes
from deep_learning_recipes.compression.stand_in import StandIn, trained_variables
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
    """in any form that `compile` takes; None: the model's own"""
    validation_data: Any = None
    """(x, y), (x, y, sample weights), or what `evaluate` reads more than once: a
    tf.data.Dataset or a keras.utils.PyDataset"""
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
        check_activity_regularizers(self.source)
        check_arrays("x", self.x)
        check_arrays("y", self.y)
        check_validation_data(self.validation_data)
        self.objective = self.find_objective()
        if self.optimizer is None:
            # At a constant rate: one that falls leaves little to mend the last zeros
            # with.
            self.optimizer = tf_keras.optimizers.Adam(self.learning_rate)

    def find_objective(self) -> dict[str, Any]:
        """Losses, their weights and metrics as `compile` takes them: the source's, but
        for a loss that was given."""
        source = private_keras.compile_arguments(self.source)
        names = ("loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly")
        found = with_new_metrics({name: source[name] for name in names if source})
        if self.loss is None:
            if not self.source.compiled:
                raise ValueError(
                    "loss: the model is not compiled; give loss=... or compile it"
                )
            if found["loss"] is None:
                raise UsageError(
                    "loss: the model was compiled without one; give loss=..."
                )
            for name in ("train_step", "compute_loss"):
                if getattr(type(self.source), name) is not getattr(keras.Model, name):
                    raise UsageError(
                        f"loss: {type(self.source).__name__} has a {name} of its own, "
                        "which is not followed here; give loss=..."
                    )
            return found
        weights = found.get("loss_weights")
        if keras.tree.is_nested(weights) and not keras.tree.is_nested(self.loss):
            # Keras wants a loss for each weight.
            self.loss = keras.tree.map_structure(lambda _: self.loss, weights)
        return found | {"loss": self.loss}

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(len(keras.tree.flatten(self.x)[0]) / self.batch_size)

    def fit(self, network: tf_keras.Model, callbacks: Sequence[Any] = ()) -> None:
        """Trains what stands for the source. What can fail afterwards is done once
        before: the copy that the weights come home to, and its evaluation."""
        self.copy = copy_of(self.source)
        self.judge = as_functional(self.copy)
        self.judge.compile(None, **self.objective)
        self.stand_in = StandIn(self.judge, network)
        self.stand_in.compile(
            None,
            **self.objective,
            steps_per_execution=min(STEPS_PER_EXECUTION, self.steps),
            jit_compile=False,
        )
        for model in (self.copy, self.judge, self.stand_in):
            self.build_metrics(model)
        self.before = self.evaluate(self.judge)
        network.compile(self.optimizer)
        if isinstance(network.optimizer, tf_keras.optimizers.Optimizer):
            # A step that makes variables is traced twice.
            network.optimizer.build(trained_variables(network))
        self.stand_in.fit(
            self.x,
            self.y,
            batch_size=self.batch_size,
            epochs=self.epochs,
            # After each epoch it is for the eyes alone.
            validation_data=self.validation_data if self.verbose else None,
            callbacks=list(callbacks),
            verbose=self.verbose,
        )

    def build_metrics(self, model: keras.Model) -> None:
        """Keras sets metrics back once they are built. Until then, one's own, which
        several models share, would go on from what another model left in them."""
        x, y = keras.tree.map_structure(
            lambda array: np.asarray(array[:1]), (self.x, self.y)
        )
        if model.compiled:
            model.compute_metrics(x, y, self.judge(x, training=False))
            model.reset_metrics()

    def evaluate(self, model: keras.Model) -> dict[str, float]:
        data = self.validation_data
        if data is None:
            data = (self.x, self.y)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        found = model.evaluate(
            x,
            y,
            batch_size=256,
            sample_weight=sample_weight,
            verbose=0,
            return_dict=True,
        )
        # Some metrics are one number for each class.
        return {
            name + "".join(f"[{place}]" for place in index): float(value)
            for name, values in found.items()
            for index, value in np.ndenumerate(values)
        }

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
        for path, layer in weighted_layers(self.copy).items():
            if type(layer).__name__ not in MADE_WITH_STATE:
                assign(layer, _weights_in(trained, layer, twin.names[path]))
        new = metrics or self.evaluate(self.judge)
        self.judge.reset_metrics()  # which the source may share
        report = Report(
            weights=compare(self.source, self.copy),
            bytes=sum(4 * int(np.prod(each.shape)) for each in self.copy.weights),
            gzip_bytes=(gzip_bytes(self.source), gzip_bytes(self.copy)),
            metrics={name: (old, new[name]) for name, old in self.before.items()},
        )
        return Optimized(self.copy, trained, report)


def check_activity_regularizers(model: keras.Model) -> None:
    """Raises UsageError for what the wrappers of TF Model Optimization lose."""
    for path, layer in weighted_layers(model).items():
        if getattr(layer, "activity_regularizer", None) is not None:
            raise UsageError(
                f"layer {'/'.join(path)!r}: its activity_regularizer is not followed here; "
                "leave it out, or prune and cluster with keras.layers."
                "ActivityRegularization behind the layer"
            )


def check_arrays(name: str, values: Any) -> None:
    """Raises UsageError unless these are one or several arrays that hold examples."""
    arrays = keras.tree.flatten(values)
    for each in arrays:
        if not len(getattr(each, "shape", ())):
            raise UsageError(
                f"{name}: arrays of examples are needed, not a {type(each).__name__}"
            )
    if not arrays or not len(arrays[0]):
        raise ValueError("there is nothing to train on: the arrays hold no examples")


def check_validation_data(data: Any) -> None:
    """Raises UsageError for what has no end, or can be read but once: it is evaluated
    before, while and after the weights are trained."""
    if hasattr(data, "__next__"):
        raise UsageError(
            f"validation_data: a {type(data).__name__} can be read but once; give arrays, "
            "a tf.data.Dataset or a keras.utils.PyDataset"
        )
    endless = (
        int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
        if isinstance(data, tf.data.Dataset)
        else isinstance(data, keras.utils.PyDataset) and data.num_batches is None
    )
    if endless:
        raise UsageError(
            f"validation_data: a {type(data).__name__} without an end; take(n) of it"
        )


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
