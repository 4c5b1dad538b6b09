"""The checks of indices that XLA drops, made by the step itself.

Compiled with XLA, a word beyond an embedding's last row reads that row, and a label
beyond the last class gives nan, where TensorFlow otherwise fails and names the index.
So a step looks for such indices in its own graph, whoever wrote it.
"""

from collections.abc import Callable

import tensorflow as tf


def check(graph: tf.Graph, found: tf.Tensor) -> None:
    """Raises tf.errors.InvalidArgumentError, as TensorFlow does without XLA, for the
    first index out of bounds in what `out_of_bounds(graph)` gave."""
    for operation, (index, bound) in zip(
        checked_operations(graph), found.numpy().tolist(), strict=True
    ):
        if bound > 0:
            # in TensorFlow's words
            said = (
                f"Received a label value of {index} which is outside the valid range of "
                f"[0, {bound})"
                if "CrossEntropy" in operation.type
                else f"indices[...] = {index} is not in [0, {bound})"
            )
            message = f"{said}: {operation.name}"
            raise tf.errors.InvalidArgumentError(None, None, message)


def out_of_bounds(graph: tf.Graph) -> tf.Tensor:
    """A row for each checked operation of the graph that is being traced: an index out
    of bounds and the bound that it should be below; without any the bound is not
    positive."""

    def row(operation: tf.Operation) -> tf.Tensor:
        indices, bounds = (
            tf.cast(each, tf.int64) for each in CHECKED[operation.type](operation)
        )
        bounds = tf.broadcast_to(bounds, tf.shape(indices))
        is_wrong = tf.logical_or(indices < 0, indices >= bounds)
        index = tf.reduce_max(tf.where(is_wrong, indices, tf.int64.min))
        bound = tf.reduce_max(tf.where(is_wrong, bounds, 0))
        return tf.stack([index, bound])

    rows = [row(operation) for operation in checked_operations(graph)]
    return tf.stack(rows) if rows else tf.zeros((0, 2), tf.int64)


def checked_operations(graph: tf.Graph) -> list[tf.Operation]:
    return [each for each in graph.get_operations() if each.type in CHECKED]


IndicesAndBounds = tuple[tf.Tensor, tf.Tensor]
"""The bounds: one number, or one for each element of the indices' last axis."""


def _gather(operation: tf.Operation) -> IndicesAndBounds:
    parameters, indices, axis = operation.inputs
    return indices, tf.shape(parameters)[axis]


def _gather_of_variable(operation: tf.Operation) -> IndicesAndBounds:
    return operation.inputs[1], _shape(operation)[operation.get_attr("batch_dims")]


def _rows(operation: tf.Operation) -> IndicesAndBounds:
    return operation.inputs[1], _shape(operation)[0]


def _places(operation: tf.Operation) -> IndicesAndBounds:
    indices = operation.inputs[1]
    return indices, _shape(operation)[: tf.shape(indices)[-1]]


def _places_of_shape(operation: tf.Operation) -> IndicesAndBounds:
    indices, _, shape = operation.inputs
    return indices, shape[: tf.shape(indices)[-1]]


def _segments(operation: tf.Operation) -> IndicesAndBounds:
    # What belongs to a negative segment is left out, with and without XLA.
    return tf.maximum(operation.inputs[1], 0), operation.inputs[2]


def _labels(operation: tf.Operation) -> IndicesAndBounds:
    logits, labels = operation.inputs
    return labels, tf.shape(logits)[1]


def _shape(operation: tf.Operation) -> tf.Tensor:
    array = operation.inputs[0]
    if array.dtype == tf.resource:
        return tf.raw_ops.VariableShape(input=array)
    return tf.shape(array)


CHANGES = ("Update", "Add", "Sub", "Min", "Max")
CHECKED: dict[str, Callable[[tf.Operation], IndicesAndBounds]] = {
    "SparseSoftmaxCrossEntropyWithLogits": _labels,
    "GatherV2": _gather,
    "ResourceGather": _gather_of_variable,
    "GatherNd": _places,
    "ScatterNd": _places_of_shape,
    **{f"TensorScatter{each}": _places for each in CHANGES},
    **{f"ResourceScatterNd{each}": _places for each in CHANGES},
    **{f"ResourceScatter{each}": _rows for each in (*CHANGES, "Mul", "Div")},
    **{f"UnsortedSegment{each}": _segments for each in ("Sum", "Prod", "Min", "Max")},
}
"""What each operation takes for indices, and what they must stay below."""
