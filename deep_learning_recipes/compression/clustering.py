"""Clustering: the weights of each kernel share a few values."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tf_keras

from deep_learning_recipes.compression.bridge import bridge
from deep_learning_recipes.compression.fine_tuning import PREFIX, FineTuning, Optimized
from deep_learning_recipes.compression.kernels import (
    SUPPORTED,
    choose_layers,
    kernel_of,
)
from deep_learning_recipes.compression.private_keras import masking_as_within
from deep_learning_recipes.compression.tfmot import load_cluster_weights, load_tfmot


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
        no more weights that are not 0 stays as it is.
    preserve_sparsity: keep the zeros of a model from `prune`; one of the values is 0.
    layers, training: as for `prune`.
    """
    tfmot = load_tfmot()
    cluster_weights = load_cluster_weights()
    if clusters < 2:
        raise ValueError(f"clusters={clusters}: must be at least 2")
    tuning = FineTuning(model, x, y, **training)
    chosen = choose_layers(model, layers, SUPPORTED, "cluster")
    twin = bridge(model, prefix=PREFIX, inline=True)
    wrapped = set()
    for path, layer in chosen.items():
        if np.count_nonzero(kernel_of(layer)) <= clusters:
            twin.layers[path].trainable = False
        else:
            wrapped.add(id(twin.layers[path]))

    def wrap(layer: Any) -> Any:
        if id(layer) not in wrapped:
            return layer
        wrapper = cluster_weights(
            layer,
            number_of_clusters=clusters,
            cluster_centroids_init=(
                tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
            ),
            preserve_sparsity=preserve_sparsity,
        )
        return masking_as_within(wrapper)

    trained = tf_keras.models.clone_model(twin.model, clone_function=wrap)
    tuning.fit(trained)
    stripped = tfmot.clustering.keras.strip_clustering(trained)
    return tuning.result(stripped, twin)
