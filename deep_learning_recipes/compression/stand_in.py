"""Keras 3's training and evaluation of a tf_keras model."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras


class StandIn(keras.Model):
    """A Keras 3 model that another one, of tf_keras, computes.

    Data, losses, metrics and their names are in Keras 3's hands, as when the source
    was trained: tf_keras knows other names of the outputs, and none of Keras 3's
    objects. Gradients and weights are tf_keras's.

    graph: a Keras 3 model with the structure of inputs and outputs; its weights are
        not used.
    network: of tf_keras, compiled with its optimizer.
    """

    def __init__(self, graph: keras.Model, network: tf_keras.Model) -> None:
        super().__init__(graph.input, graph.output, name=graph.name)
        self.network = network

    def call(self, inputs: Any, training: Any = None) -> Any:
        outputs = tf.nest.flatten(self.network(inputs, training=training))
        return keras.tree.pack_sequence_as(self.output, outputs)

    @property
    def losses(self) -> list[Any]:
        """What regularizers of tf_keras's layers add."""
        return self.network.losses

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        if variables := trained_variables(self.network):
            self.network.optimizer.minimize(loss, variables, tape=tape)
        (mean,) = (each for each in self.metrics if each.name == "loss")
        mean.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, y_pred, sample_weight)


def trained_variables(network: tf_keras.Model) -> list[tf.Variable]:
    """Those of layers that are not frozen: wrappers of quantization count what they
    wrap as trainable all the same."""
    layers = (layer for layer in network.layers if layer.trainable)
    return [variable for layer in layers for variable in layer.trainable_variables]
