"""What opening a network knows of Keras beyond its documentation, in one place.

Tried on Keras 3.15.1 alone. Each function says what it takes for granted.
"""

import copy
from typing import Any


def calls_of(operation: Any) -> list[Any]:
    """All calls of a layer or a bare operation.

    `operation._inbound_nodes`: by another name, no network could be opened.
    """
    return list(operation._inbound_nodes)


def origin(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation that a graph's tensor comes from, and the tensors that it took.

    `tensor._keras_history`: by another name, no head could be found.
    """
    history = tensor._keras_history
    node = calls_of(history.operation)[history.node_index]
    return history.operation, node.input_tensors


def copy_of_bare(operation: Any, name: str) -> Any:
    """A bare operation of keras.ops by another name that has not been called yet.

    `_inbound_nodes`, `_outbound_nodes`: by other names, the original would be changed.
    """
    bare = copy.copy(operation)
    bare.name = name
    bare._inbound_nodes, bare._outbound_nodes = [], []
    return bare
