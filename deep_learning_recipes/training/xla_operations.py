"""What XLA compiles otherwise than TensorFlow computes it: types that it lacks, checks
that it drops."""

import re
from typing import Any

import tensorflow as tf

# The one way to learn what an operation of a function's body takes and makes.
from tensorflow.python.framework import op_def_registry

from deep_learning_recipes.training import bounds

NO_NUMBERS = {tf.string.as_datatype_enum, tf.variant.as_datatype_enum}
RESOURCE = tf.resource.as_datatype_enum
DIVISIONS = ("Div", "FloorDiv", "TruncateDiv", "Mod", "FloorMod", "TruncateMod", "Pow")
CHECKED_INPUTS = {
    **dict.fromkeys(DIVISIONS, (1,)),
    **dict.fromkeys(("Bincount", "DenseBincount", "InvertPermutation"), (0,)),
    **dict.fromkeys(("DynamicPartition", "ReverseSequence"), (1,)),
    "DynamicStitch": (0,),
    "MatrixBandPart": (1, 2),
}
"""Inputs in which TensorFlow looks for wrong integers, such as a divisor of 0."""
SHAPES = {"Shape", "ShapeN", "Size", "Rank", "VariableShape"}


def nodes_of(step: Any) -> list[Any]:
    """The operations of a traced step and of all functions that it calls."""
    graph = step.graph.as_graph_def()
    bodies = (node for body in graph.library.function for node in body.node_def)
    return [*graph.node, *bodies]


def are_numbers(step: Any) -> bool:
    """Whether a traced step takes and makes numbers alone and looks up in variables
    alone: no strings, no lists, no tables, no iterators."""
    return all(map(_are_numbers, nodes_of(step)))


def _are_numbers(node: Any) -> bool:
    definition = op_def_registry.get(node.op)
    if definition is None:  # calls a function, whose body is looked at as well
        return True
    if node.op in ("Const", "Assert"):  # XLA leaves out assertions and their texts
        return True
    takes = {each.type for each in definition.input_arg}
    makes = {each.type for each in definition.output_arg}
    types = takes | makes
    for value in node.attr.values():
        types.update([value.type, *value.list.type])
    if RESOURCE in takes and not re.match("Resource|Rng|.*Variable", node.op):
        return False
    return RESOURCE not in makes and types.isdisjoint(NO_NUMBERS)


def keeps_its_checks(step: Any) -> bool:
    """Whether a traced step makes all checks of integers itself that XLA drops: those
    of `bounds`, and no others of numbers that come from data."""
    for body in step.graph.as_graph_def().library.function:
        for node in body.node_def:
            is_of_floats = (
                node.op in DIVISIONS and tf.as_dtype(node.attr["T"].type).is_floating
            )
            is_checked = node.op in bounds.CHECKED or node.op in CHECKED_INPUTS
            if is_checked and not is_of_floats:
                return False
    return not any(
        operation.inputs[number].dtype.is_integer
        and _comes_from_data(operation.inputs[number])
        for operation in step.graph.get_operations()
        for number in CHECKED_INPUTS.get(operation.type, ())
    )


def _comes_from_data(tensor: tf.Tensor) -> bool:
    """Whether a tensor depends on more than constants and shapes."""
    operations, seen = [tensor.op], set()
    while operations:
        operation = operations.pop()
        if operation.name in seen or operation.type in SHAPES:
            continue
        seen.add(operation.name)
        if not operation.inputs and operation.type != "Const":
            return True
        operations.extend(each.op for each in operation.inputs)
    return False
