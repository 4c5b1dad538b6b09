"""What several rooms know of Keras beyond its documentation, in one place; what one alone
needs stands in a file of the same name there.

Tried on Keras 3.15.1 and tf_keras 2.21 alone. Each function says what it takes for
granted.
"""

from typing import Any

import keras


def calls_in(graph: keras.Model) -> list[Any]:
    """The calls (`Node`s) of a functional model, each after those whose outputs it
    takes; the inputs are none. A call has `operation`, `input_tensors`, `outputs` and
    `arguments.fill_in`.

    `graph._nodes_by_depth`, `node.is_input`: by other names, `compression.fold` would
    fail on every model, and no user's classifier could be opened.
    """
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]


def all_layers(model: Any) -> list[Any]:
    """A model of either Keras and the layers in it, at any depth: of nested models, of
    wrappers like Bidirectional, and of layers of one's own. `model.layers` ends at the
    first depth.

    `model._flatten_layers`: by another name, no model could be converted to LiteRT or
    tried on replicas.
    """
    return list(model._flatten_layers())
