"""Keras 3 models as tf_keras models and back: TF Model Optimization works on tf_keras
alone.

Each layer is made anew by the tf_keras class of the same name, bare `keras.ops` by a
layer that calls the same operation, and the weights are copied. The source model is
never touched.
"""

from typing import Any

import keras
import tf_keras

from deep_learning_recipes import UsageError
from deep_learning_recipes.compression import private_keras
from deep_learning_recipes.compression.counterparts import MADE_WITH_STATE
from deep_learning_recipes.compression.functional import as_functional
from deep_learning_recipes.compression.graph import Bridge, Builder, twin_of
from deep_learning_recipes.compression.precision import in_float32
from deep_learning_recipes.compression.weights import assign, weighted_layers


def to_tf_keras(model: keras.Model) -> tf_keras.Model:
    """Returns a tf_keras model that computes exactly what `model` does, with its
    weights.

    model: a built Keras 3 model, Sequential or functional, with any structure of inputs
        and outputs, nested models and shared layers. Layers keep their names. It is not
        touched.

    The new model is not compiled. Raises ValueError, naming the layer and what to use
    in its place, for a layer or an option that tf_keras does not know.
    """
    return twin_of(model)


def to_keras(tf_model: tf_keras.Model, like: keras.Model) -> keras.Model:
    """Returns a Keras 3 model with the structure of `like` and the weights of
    `tf_model`.

    tf_model: made from `like` by `to_tf_keras` and trained since, or stripped of the
        wrappers of TF Model Optimization. Layers are found by name.
    like: the Keras 3 model; it is not touched. If it is compiled, the new model is as
        well, with an optimizer that starts anew.

    Raises ValueError if a layer of `like` is missing in `tf_model` or its weights do
    not fit.
    """
    _check_is_tf_keras(tf_model)
    copy = copy_of(like)
    for path, layer in weighted_layers(copy).items():
        if type(layer).__name__ in MADE_WITH_STATE:
            continue
        try:
            found = tf_model
            for name in path:
                found = found.get_layer(name)
        except ValueError as error:
            raise ValueError(
                f"tf_model has no layer {'/'.join(path)!r}: it was not made from `like`, or still "
                "has the wrappers of TF Model Optimization (strip them first)"
            ) from error
        assign(layer, found.get_weights())
    return copy


def copy_of(model: keras.Model) -> keras.Model:
    """A Keras 3 model of the same graph and weights, which shares no layer with
    `model`. It is compiled with the same losses and metrics, one's own as the objects
    they are, and an optimizer that starts anew."""
    graph = as_functional(model)
    if isinstance(model, keras.Sequential):
        copy = keras.Sequential.from_config(model.get_config())
    else:
        copy = keras.Model.from_config(graph.get_config())
    copy.set_weights(graph.get_weights())
    copied = weighted_layers(copy)
    for path, layer in weighted_layers(model).items():
        copied[path].trainable = layer.trainable
        if isinstance(layer, keras.layers.Normalization):
            copied[path].finalize_state()
    compilation = private_keras.compile_arguments(model)
    if compilation:
        compilation["optimizer"] = _new_optimizer(compilation["optimizer"])
        copy.compile(**with_new_metrics(compilation))
    return copy


def bridge(
    model: keras.Model, *, prefix: str = "", inline: bool = False, split: bool = False
) -> Bridge:
    """`to_tf_keras` for TF Model Optimization, in 32-bit floats, with the correspondence
    of layers.

    prefix: goes before the name of each layer but the inputs. TF Model Optimization
        expands layers into others with automatic names, which may be taken otherwise.
    inline: put nested models' layers into the one graph (TF Model Optimization's
        quantization takes no nested models).
    split: make two layers of each SeparableConv2D, NAME_depthwise and NAME_pointwise,
        as its quantization would do under names of its own.
    """
    with in_float32(model):
        return Builder(prefix, inline, split, shared={}).build(model)


def _new_optimizer(optimizer: Any) -> Any:
    """An optimizer with the same options, which has seen no step."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer  # a name
    parts = [optimizer, getattr(optimizer, "inner_optimizer", optimizer)]
    parts.append(private_keras.schedule_of(parts[-1]))
    own = {type(part).__name__: type(part) for part in parts}
    try:
        with keras.saving.custom_object_scope(own):
            return type(optimizer).from_config(optimizer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        kinds = " or ".join(own)
        raise UsageError(
            f"the model's optimizer cannot be copied: {kinds} needs a get_config with "
            f"what it is made of ({str(error).splitlines()[0]})"
        ) from error


def with_new_metrics(compilation: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `compile` with metrics that have seen nothing, where Keras knows how
    to make them."""
    names = {"metrics", "weighted_metrics"} & compilation.keys()
    return compilation | {
        name: keras.tree.map_structure(_new_metric, compilation[name]) for name in names
    }


def _new_metric(metric: Any) -> Any:
    kind = type(metric)
    known = kind is getattr(keras.metrics, kind.__name__, None)
    if not known or kind is keras.metrics.MeanMetricWrapper:
        return metric
    return kind.from_config(metric.get_config())


def _check_is_tf_keras(model: Any) -> None:
    if not isinstance(model, tf_keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise ValueError(f"a tf_keras.Model is needed, not a {kind}")
