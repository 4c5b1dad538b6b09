"""Tensors as a graph's config writes them: among the arguments of its calls, and as
its inputs and outputs."""

from collections.abc import Callable, Iterator
from typing import Any

import keras


def tensors_in(value: Any) -> Iterator[dict]:
    """The tensors among a call's arguments."""
    if _is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


def arguments(call: dict, tensor_of: Callable[[dict], Any]) -> tuple[Any, dict]:
    """A call's positional and keyword arguments, with `tensor_of` each tensor in its
    place."""
    revived = _replace_tensors(call, tensor_of, revive=True)
    return revived["args"], revived["kwargs"]


def numbered(call: dict) -> dict:
    """The call with the number of an input in the place of each tensor."""
    count = iter(range(sum(1 for _ in tensors_in(call))))
    return _replace_tensors(
        call,
        lambda _: {"class_name": "__keras_tensor__", "config": next(count)},
        revive=False,
    )


def map_histories(
    structure: Any, function: Callable[[tuple[str, int, int]], Any]
) -> Any:
    """Maps each [layer, call, index] in the structure of a graph's inputs or
    outputs."""
    if isinstance(structure, dict):
        return {key: map_histories(each, function) for key, each in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(tuple(structure))
    return type(structure)(map_histories(each, function) for each in structure)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _replace_tensors(value: Any, replace: Callable[[dict], Any], revive: bool) -> Any:
    if _is_tensor(value):
        return replace(value)
    if isinstance(value, dict):
        if revive and "class_name" in value:
            return keras.saving.deserialize_keras_object(value)
        return {
            key: _replace_tensors(each, replace, revive) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_replace_tensors(each, replace, revive) for each in value)
    return value
