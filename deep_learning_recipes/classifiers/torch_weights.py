"""Weights that PyTorch saved, read without PyTorch and without running what a file says.

`torch.save` writes a pickle, which is a program: `pickle.load` imports and calls
whatever it names. Here a machine reads it that knows the few instructions of a state
dict, and calls nothing.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from ml_dtypes import bfloat16

from deep_learning_recipes import UsageError

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What a file that holds billions of weights keeps far away from.
LONGEST_PICKLE = 2**26  # bytes
MOST_INSTRUCTIONS = 2**20
MOST_VALUES = 2**17
LONGEST_NAME = 256
DEEPEST = 16

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


# All that a pickle may name. None of it is imported.
KNOWN = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *[("torch", name) for name in DTYPES],
    *[("torch.cuda", name) for name in DTYPES],
}


class Global(NamedTuple):
    """A name in a pickle."""

    module: str
    name: str


class Storage(NamedTuple):
    """Numbers without a shape, which several tensors may share."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def load_state_dict(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays that `torch.save` wrote, by name; read-only.

    Names of nested dictionaries are joined by dots ("state_dict.conv.weight"); values
    that are no tensors are left out. Both formats: zip archives, and what came before
    PyTorch 1.6. Arrays of tied weights share their memory.

    Raises UsageError for what is no such file, and for one that names anything but
    tensors, parameters and dictionaries. Nothing in a file is ever run.
    """
    path = Path(file)
    try:
        with path.open("rb") as opened:
            return _read(opened, path.stat().st_size)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file") from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    except Refused as error:
        raise UsageError(f"{file}: {error}") from error
    except Exception as error:  # a foreign file can fail in every way there is
        raise UsageError(
            f"{file}: it is damaged, or no weights that torch.save wrote"
        ) from error


class Refused(ValueError):
    """Why a file is not read."""


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    start = file.read(9)
    file.seek(0)
    if start.endswith(b"{"):
        raise Refused(
            "it is a safetensors file; torch.save what safetensors.torch.load_file "
            "gives of it"
        )
    read = _read_archive if start.startswith(b"PK") else _read_stream
    tree, numbers = read(file, size)
    found = {}
    for name, tensor in _tensors_in(tree):
        found[name] = _view(numbers[tensor.storage.key], tensor)
    if not found:
        raise Refused("it holds no tensors")
    return found


def _read_archive(file: BinaryIO, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """What is pickled, and the numbers of each storage, from a zip file with the members
    `NAME/data.pkl` and `NAME/data/KEY`."""
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    pickles = [each for each in members if each.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("it is a zip file, but none that torch.save wrote")
    # torch.save packs nothing: what is packed, or lies over another, is a bomb.
    if sum(each.file_size for each in members) > size:
        raise Refused("unpacked it would be larger than the file")
    folder = pickles[0].filename.removesuffix("data.pkl")
    names = archive.namelist()
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
        raise Refused("its numbers are big-endian")

    machine = _Machine()
    tree = machine.run(BytesIO(archive.read(pickles[0])))
    numbers = {}
    for key, storage in machine.storages.items():
        name = f"{folder}data/{key}"
        if name not in names:
            raise Refused(f"it is damaged: {name} is missing")
        numbers[key] = _numbers(archive.read(name), storage)
    return tree, numbers


def _read_stream(file: BinaryIO, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """The same from five pickles in a row (magic number, protocol, system, what is
    saved, keys of the storages), then of each storage its size and its numbers."""
    pickles = BytesIO(file.read(LONGEST_PICKLE))
    machine = _Machine()
    for expected in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        if machine.run(pickles) != expected:
            raise Refused("it is no file of torch.save")
    if not machine.run(pickles)["little_endian"]:
        raise Refused("its numbers are big-endian")
    tree = machine.run(pickles)
    keys = machine.run(pickles)
    file.seek(pickles.tell())
    numbers = {}
    for key in keys:
        storage = machine.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.size:
            raise Refused("it is damaged: a storage differs in size from its tensors'")
        length = count * storage.dtype.itemsize
        if length > size - file.tell():
            raise Refused("it is cut off")
        numbers[key] = _numbers(file.read(length), storage)
    return tree, numbers


def _numbers(raw: bytes, storage: Storage) -> np.ndarray:
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise Refused("it is damaged: a storage differs in size from its tensors'")
    return np.frombuffer(raw, storage.dtype)


MARK = object()


class _Machine:
    """Runs pickles of the few instructions that torch.save writes for a state dict.

    None of them calls or imports anything: names stay names, and what would be called
    is one of the three that are known here, or refused.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, pickled: BytesIO) -> Any:
        """The value of the next pickle in a file."""
        self.stack.clear()
        self.memo.clear()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > MOST_INSTRUCTIONS:
                raise Refused("its pickle is too long for a state dict")
            self.step(opcode.name, argument)
        return self.stack.pop()

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(MARK)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" if len(argument) <= LONGEST_NAME:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(named(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack.append(named(*self.pop(2)))
            case "REDUCE":
                function, arguments = self.pop(2)
                stack.append(call(function, arguments))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "BUILD":
                # A state dict's attributes: versions of layers, which nobody needs.
                self.pop(1)
            case _:
                raise Refused(f"its pickle has {name}, which no state dict needs")

    def pop(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) < count or any(each is MARK for each in taken):
            raise Refused("its pickle is damaged")
        del self.stack[-count:]
        return taken

    def pop_to_mark(self) -> list[Any]:
        taken = []
        while (value := self.stack.pop()) is not MARK:
            taken.append(value)
        return taken[::-1]

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("its pickle is damaged")
        self.stack[-1].extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        keys, values = pairs[::2], pairs[1::2]
        if type(target) is not dict or any(type(key) not in (str, int) for key in keys):
            raise Refused("its pickle is damaged")
        target.update(zip(keys, values, strict=True))

    def storage(self, identity: Any) -> Storage:
        """identity: ("storage", type, key, device, elements), and in old files None,
        where they have no views of storages."""
        if type(identity) is not tuple or identity[:1] != ("storage",):
            raise Refused("it holds more than tensors; save model.state_dict()")
        _, kind, key, _, size, *rest = identity
        is_known = isinstance(kind, Global) and kind.module in ("torch", "torch.cuda")
        if not is_known or kind.name not in DTYPES or rest not in ([], [None]):
            raise Refused("it has a kind of storage that is not known")
        if type(key) is not str or not _are_counts((size,)):
            raise Refused("it has a storage of no size")
        storage = Storage(key, DTYPES[kind.name], size)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("it has two storages of one name")
        return storage


def named(module: Any, name: Any) -> Global:
    """What a pickle names, if it is known."""
    if (module, name) in KNOWN:
        return Global(module, name)
    what = f"it names {module}.{name}"[: 2 * LONGEST_NAME]
    if str(module).startswith("torch.nn."):
        what = "it holds a whole module"
    raise Refused(f"{what}, and nothing of it is run; save model.state_dict() alone")


def call(function: Any, arguments: Any) -> Any:
    """What torch.save needs called: an empty dictionary, a tensor, a parameter."""
    if not isinstance(function, Global) or type(arguments) is not tuple:
        raise Refused("its pickle is damaged")
    match function:
        case ("collections", "OrderedDict") if not arguments:
            return {}
        case ("torch._utils", "_rebuild_tensor_v2"):
            storage, offset, shape, stride, *_ = arguments
            return _tensor(storage, offset, shape, stride)
        case ("torch._utils", "_rebuild_parameter") if arguments:
            return arguments[0]
    raise Refused("its pickle is damaged")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
    """A view that stays in its storage, and is no larger. Checked here, as NumPy's
    as_strided checks nothing."""
    if not isinstance(storage, Storage) or not _are_counts((offset,)):
        raise Refused("it has a tensor of no storage")
    if not _are_counts(shape) or not _are_counts(stride) or len(shape) != len(stride):
        raise Refused("it has a tensor of no shape")
    if 0 not in shape:
        steps = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if offset + steps >= storage.size or math.prod(shape) > storage.size:
            raise Refused("it has a tensor that reaches outside its storage")
    return Tensor(storage, offset, shape, stride)


def _are_counts(numbers: Any) -> bool:
    return type(numbers) is tuple and all(
        type(each) is int and each >= 0 for each in numbers
    )


def _view(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, numbers.dtype)
    stride = [step * numbers.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, stride, writeable=False
    )


def _tensors_in(tree: Any) -> list[tuple[str, Tensor]]:
    """The tensors in nested dictionaries and lists, by their way there."""
    found = []
    pending = [("", tree, 0)]
    seen = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, Tensor):
            found.append((name, value))
        elif type(value) in (dict, list):
            seen += len(value)
            if seen > MOST_VALUES or depth > DEEPEST:
                raise Refused("it holds too much for a state dict")
            items = value.items() if type(value) is dict else enumerate(value)
            inside = [(f"{name}.{key}", each, depth + 1) for key, each in items]
            pending.extend(reversed(inside))
    return [(name.removeprefix(".") or "tensor", tensor) for name, tensor in found]
