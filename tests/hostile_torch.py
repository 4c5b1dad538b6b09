"""Files as torch.save writes them, assembled instruction by instruction, and hostile
ones. For the tests of whatever reads them."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np

GENUINE = Path(__file__).parent / "torch_files"
"""written by PyTorch 2.13: `strided` and `checkpoint` in one format or the other, and a
whole `module`"""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    encoded = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def numbers(*values):
    return tuple_of(*map(number, values))


def dictionary(**entries):
    pairs = [text(key) + value for key, value in entries.items()]
    return b"}(" + b"".join(pairs) + b"u"


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def identity(*parts):
    return tuple_of(*parts) + b"Q"


def storage(size=6, key="0", kind="FloatStorage"):
    parts = text("storage"), name("torch", kind), text(key), text("cpu"), number(size)
    return identity(*parts)


REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def tensor(stored=None, offset=0, shape=(2, 3), stride=(3, 1)):
    stored = storage() if stored is None else stored
    geometry = number(offset), numbers(*shape), numbers(*stride)
    return call(REBUILD, stored, *geometry, b"\x89", b"}")


def program(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + b"."


SIX = np.arange(6, dtype="<f4").tobytes()
COUNTED_SIX = struct.pack("<q", 6) + SIX


def archive(pickled, storages=None, **options):
    """The bytes of a zip file."""
    storages = {"0": SIX} if storages is None else storages
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as opened:
        opened.writestr("saved/data.pkl", pickled)
        for key, raw in storages.items():
            opened.writestr(f"saved/data/{key}", raw)
    return file.getvalue()


def stream(pickled, keys=("0",), raw=COUNTED_SIX, little=b"\x88"):
    """The bytes of a file from before PyTorch 1.6."""
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    head = [number(LEGACY_MAGIC), number(1001), dictionary(little_endian=little)]
    programs = [*map(program, head), pickled, program(listed)]
    return b"".join(programs) + raw


def billion_laughs(levels=60):
    """A dictionary of two that hold the same one, of two that hold the same one, ..."""
    body = dictionary(weight=tensor()) + b"q\x00"
    for level in range(1, levels):
        before, after = bytes([level - 1]), bytes([level])
        body += b"}(" + text("a") + b"h" + before + text("b") + b"h" + before
        body += b"uq" + after
    return body


COMMAND = "touch it_ran"
SYSTEM = call(name("os", "system"), text(COMMAND))
# What pickle.loads runs, or would: what a file may not name, by what is said of it.
NAMING = {
    "os.system": SYSTEM,
    "builtins.eval": call(name("builtins", "eval"), text("open('it_ran', 'w')")),
    "builtins.getattr": call(
        call(name("builtins", "getattr"), REBUILD, text("__globals__")), text("x")
    ),
    "an instance": b"(" + text(COMMAND) + b"isubprocess\nPopen\n",
    "posix.system": text("posix") + text("system") + b"\x93" + text(COMMAND) + b"\x85R",
    "torch._utils._rebuild_tensor_v2.__globals__": text("torch._utils")
    + text("_rebuild_tensor_v2.__globals__")
    + b"\x93",
    "a class": name("shutil", "rmtree") + b")\x81",
    "in a dictionary": dictionary(weight=tensor(), other=SYSTEM),
    "after an end": dictionary(weight=tensor()) + SYSTEM + b"\x86",
    "in a storage": identity(
        text("storage"), SYSTEM, text("0"), text("cpu"), number(6)
    ),
    "as a state": dictionary(weight=tensor()) + SYSTEM + b"b",
    "an extension": b"\x82\x01",
}
DAMAGED = {
    "outside": tensor(shape=(2, 4), stride=(4, 1)),
    "far outside": tensor(shape=(2,), stride=(2**40,)),
    "behind the end": tensor(offset=6, shape=(1,), stride=(1,)),
    "before the start": tensor(offset=-1),
    "backward": tensor(offset=5, stride=(-3, -1)),
    "negative shape": tensor(shape=(-2, -3)),
    "repeated": tensor(shape=(10**6, 10**6), stride=(0, 0)),
    "other ranks": tensor(stride=(1,)),
    "65 axes": tensor(shape=(1,) * 65, stride=(1,) * 65),
    "no storage": tensor(stored=b"N"),
    "a shape of text": call(REBUILD, storage(), number(0), text("23"), numbers(3, 1)),
    "too few arguments": call(REBUILD, storage()),
    "a huge storage": tensor(stored=storage(size=10**12)),
    "a negative storage": tensor(stored=storage(size=-6)),
    "a smaller storage": tensor(stored=storage(size=5), shape=(5,), stride=(1,)),
    "two storages of one name": dictionary(
        a=tensor(), b=tensor(stored=storage(kind="LongStorage"))
    ),
    "a storage of no kind": tensor(stored=storage(kind="_rebuild_tensor_v2")),
    "no identity": number(5) + b"Q",
    "a short identity": identity(text("storage")),
    "an identity of a module": identity(text("module"), name("torch", "FloatStorage")),
    "a memo of gigabytes": dictionary(weight=tensor()) + b"r\xff\xff\xff\x7f" + b"2",
    "laughs": billion_laughs(),
    "itself": b"}q\x00" + text("a") + b"h\x00s",
    "a tuple in a tuple": b"})" + b"\x85" * 50_000 + b"Ns",
    "a list in a list": b"]" * 50_000 + b"a" * 49_999,
    "a long name": b"}" + text("x" * 10**6) + tensor() + b"s",
    "a long text": b"\x8e" + struct.pack("<Q", 2**40) + b"x",
    "an endless number": b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x",
    "nothing on the stack": b"R",
    "nothing to append to": b"Na",
    "a mark": b"(",
    "no tensors": b"}",
    "junk": b"\xff\xfe\xfd",
}


def files():
    """Files that are no state dicts, or spoilt ones, by name their bytes."""
    good = program(dictionary(weight=tensor()))
    zeros = bytes(2**24)
    big = program(
        dictionary(weight=tensor(storage(2**22), shape=(2**22,), stride=(1,)))
    )
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    two = io.BytesIO(archive(good))
    with zipfile.ZipFile(two, "a") as opened:
        opened.writestr("other/data.pkl", good)
    swapped = io.BytesIO(archive(good))
    with zipfile.ZipFile(swapped, "a") as opened:
        opened.writestr("saved/byteorder", b"big")
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.zeros(3))
    return {
        "empty": b"",
        "text": b"weights",
        "a zip bomb": archive(big, {"0": zeros}, compression=zipfile.ZIP_DEFLATED),
        "a storage missing": archive(good, {}),
        "a storage cut": archive(good, {"0": SIX[:-1]}),
        "a storage too long": archive(good, {"0": SIX * 2}),
        "an archive cut": archive(good)[:-30],
        "the middle cut": archive(good)[:60] + archive(good)[90:],
        "an empty archive": archive(b"", {}),
        "two pickles": two.getvalue(),
        "big-endian": swapped.getvalue(),
        "arrays of NumPy": arrays.getvalue(),
        "safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "a stream cut": stream(good)[:-5],
        "a stream without storages": stream(good, raw=b""),
        "a stream of other sizes": stream(good, raw=struct.pack("<q", 10**12) + SIX),
        "a stream of negative sizes": stream(good, raw=struct.pack("<q", -1) + SIX),
        "a stream of other keys": stream(good, keys=("1",)),
        "a stream without keys": stream(good, keys=()),
        "a big-endian stream": stream(good, little=b"\x89"),
        "another magic number": program(number(7)) + stream(good),
        "half a pickle": stream(good)[:40],
        "a million instructions": archive(program(b"N" * 2**20)),
    }


def whole_module():
    return (GENUINE / "module.pt").read_bytes()
