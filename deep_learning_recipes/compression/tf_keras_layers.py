"""tf_keras layers that stand in for what tf_keras lacks or computes otherwise."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from deep_learning_recipes.compression.activations import tf_keras_activation
from deep_learning_recipes.compression.calls import arguments


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class KerasOperation(tf_keras.layers.Layer):
    """Calls a `keras.ops` operation of a Keras 3 graph within a tf_keras graph.

    operation: the operation, serialized by `keras.saving`.
    template: its arguments `{"args": [...], "kwargs": {...}}` as `get_config` writes
        them, with the number of an input in the place of each tensor.
    """

    def __init__(self, operation: dict, template: dict, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.operation = keras.saving.deserialize_keras_object(operation)
        # tf_keras would wrap dicts among its attributes into classes of its own.
        self.made_from = SimpleNamespace(operation=operation, template=template)

    def call(self, inputs: Any) -> Any:
        return self.compute(tf.nest.flatten(inputs))

    @tf.autograph.experimental.do_not_convert
    def compute(self, tensors: list[Any]) -> Any:
        args, kwargs = arguments(
            self.made_from.template, lambda tensor: tensors[tensor["config"]]
        )
        # Not __call__, which looks for Keras 3's symbolic tensors.
        return self.operation.call(*args, **kwargs)

    def get_config(self) -> dict:
        return {**super().get_config(), **vars(self.made_from)}


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class LayerNormalization(tf_keras.layers.LayerNormalization):
    """tf_keras's, rounding as Keras 3."""

    def call(self, inputs: Any) -> Any:
        return self.compute(inputs)

    @tf.autograph.experimental.do_not_convert
    def compute(self, inputs: Any) -> Any:
        outputs = keras.ops.layer_normalization(
            inputs, self.gamma, self.beta, axis=list(self.axis), epsilon=self.epsilon
        )
        return tf.cast(outputs, self.compute_dtype)


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class MultiHeadAttention(tf_keras.layers.MultiHeadAttention):
    """tf_keras's, rounding as Keras 3: it computes softmax(q·kᵀ/√d)·v in one go where
    nobody asks for the scores and nothing is dropped."""

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: Any = None,
        use_causal_mask: bool = False,
    ) -> Any:
        self.in_one_go = not (return_attention_scores or self._dropout)
        return super().call(
            query,
            value,
            key=key,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    @tf.autograph.experimental.do_not_convert
    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: Any = None,
    ) -> Any:
        if not self.in_one_go or len(query.shape) != 4:
            return super()._compute_attention(
                query, key, value, attention_mask, training
            )
        if attention_mask is not None:
            while len(attention_mask.shape) < 4:
                attention_mask = tf.expand_dims(attention_mask, -3)
            attention_mask = tf.cast(attention_mask, tf.bool)
        scale = 1 / math.sqrt(self._key_dim)
        return keras.ops.dot_product_attention(
            query, key, value, mask=attention_mask, scale=scale
        ), None


@tf_keras.saving.register_keras_serializable("deep_learning_recipes")
class SpectralNormalization(tf_keras.layers.SpectralNormalization):
    """tf_keras's, which cannot be built beside Keras 3: it takes its InputSpec from
    tf.keras."""

    def build(self, input_shape: Any) -> None:
        tf_keras.layers.Wrapper.build(self, input_shape)
        self.kernel = getattr(self.layer, "kernel", None)
        if self.kernel is None:
            self.kernel = self.layer.embeddings
        self.kernel_shape = self.kernel.shape.as_list()
        self.vector_u = self.add_weight(
            "vector_u", (1, self.kernel_shape[-1]), self.kernel.dtype, trainable=False
        )


OWN = {
    each.__name__: each
    for each in (LayerNormalization, MultiHeadAttention, SpectralNormalization)
}
"""Classes that take the place of tf_keras's own, by name."""


class SplitSeparable:
    """The two layers that a SeparableConv2D is made of."""

    def __init__(self, layer: Any, name: str) -> None:
        self.name = name
        self.depthwise = tf_keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{name}_depthwise",
        )
        self.pointwise = tf_keras.layers.Conv2D(
            layer.filters,
            1,
            activation=tf_keras_activation(
                keras.activations.serialize(layer.activation)
            ),
            use_bias=layer.use_bias,
            name=f"{name}_pointwise",
        )
        self.depthwise.trainable = self.pointwise.trainable = layer.trainable

    def __call__(self, inputs: Any) -> Any:
        return self.pointwise(self.depthwise(inputs))

    def get_weights(self) -> list[np.ndarray]:
        return self.depthwise.get_weights() + self.pointwise.get_weights()

    def set_weights(self, values: list[np.ndarray]) -> None:
        self.depthwise.set_weights(values[:1])
        self.pointwise.set_weights(values[1:])
