"""One file for a network whose weights are few values and mostly 0 (Han et al., Deep
compression, 2016): codebooks, cluster numbers, and relative indices in place of the
zeros.

The entropy coder is the caller's: `write` and `read` take its two functions.

    file = weight_file.write(name, labels, codebooks, 4, huffman_encode)
    name, weights = weight_file.read(file, huffman_decode)

Format (little-endian):

    4 bytes             "DCF1"
    4                   number of bytes of the content
    32                  SHA-256 of the content
    content:
    1, then as many     length of the network's name, the name in UTF-8
    2                   number of arrays (kernels and biases, in the network's order)
    1                   b, bits of a cluster number
    1                   g, bits of a gap
    4                   number of entries
    for each array:     number of axes (1), their lengths (4 each), 2^b − 1 centroids (float32 each)
    4, then as many     number of bytes, the entries' cluster numbers as the caller coded them
    4, then as many     number of bytes, the entries' gaps as the caller coded them

All arrays, flat and one after the other, make one sequence. Cluster number k > 0 stands
for the k-th centroid of the weight's array, 0 for the value 0. An entry is a nonzero
weight, or a filler.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

MAGIC = b"DCF1"
PREAMBLE = struct.Struct("<4sI32s")
COUNTS = struct.Struct("<HBBI")

Encode = Callable[[np.ndarray, int], bytes]
"""Of integers (n,) and the size of their alphabet; n may be 0."""
Decode = Callable[[bytes, int, int], np.ndarray]
"""Of what `Encode` returned, the size of the alphabet and n. Returns integers (n,)."""


def relative_indices(labels: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero ones of `labels` (n,), and how many zeros each skips since the one
    before.

    A gap of more than 2^bits − 1 zeros does not fit: after every 2^bits − 1 zeros
    another zero is written out as an entry, a filler (figure 2 of the paper). Returns
    entries and gaps, both (entries,); gaps in [0, 2^bits).
    """
    places = np.flatnonzero(labels)
    fillers, rest = np.divmod(np.diff(places, prepend=-1) - 1, 2**bits)
    last = np.cumsum(fillers + 1) - 1
    entries = np.zeros(np.sum(fillers + 1), int)
    gaps = np.full(entries.size, 2**bits - 1)
    entries[last], gaps[last] = labels[places], rest
    return entries, gaps


def write(
    name: str,
    labels: Sequence[np.ndarray],
    codebooks: Sequence[np.ndarray],
    gap_bits: int,
    encode: Encode,
) -> bytes:
    """The file of a network.

    name: whose network it is; up to 255 bytes.
    labels: integers in each array's shape; 0 for the value 0, k for the k-th centroid.
    codebooks: the centroids of each array, (2^bits − 1,) floats, all of one length.
    gap_bits: of the zeros skipped, 1 to 8.
    encode: the entropy coder.

    Raises ValueError if these do not fit each other.
    """
    sizes = {len(each) for each in codebooks}
    bits = max(sizes, default=0).bit_length()
    if len(labels) != len(codebooks) or sizes != {2**bits - 1} or not 1 <= bits <= 8:
        raise ValueError(
            f"{len(labels)} arrays of labels and codebooks of {sorted(sizes)} centroids: each "
            "array needs one, all of the same 2^bits - 1 with bits from 1 to 8"
        )
    if not 1 <= gap_bits <= 8:
        raise ValueError(f"gap_bits={gap_bits}: must be from 1 to 8")
    sequence = np.concatenate([np.ravel(each) for each in labels]).astype(int)
    if sequence.size and not 0 <= sequence.min() <= sequence.max() < 2**bits:
        raise ValueError(
            f"labels from {sequence.min()} to {sequence.max()}: must be from 0 to {2**bits - 1}"
        )
    entries, gaps = relative_indices(sequence, gap_bits)
    title = name.encode()
    content = bytes([len(title)]) + title
    content += COUNTS.pack(len(labels), bits, gap_bits, len(entries))
    for array, centroids in zip(labels, codebooks, strict=True):
        content += struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += np.asarray(centroids, "<f4").tobytes()
    for symbols, alphabet in ((entries, 2**bits), (gaps, 2**gap_bits)):
        coded = encode(symbols, alphabet)
        content += struct.pack("<I", len(coded)) + coded
    return (
        PREAMBLE.pack(MAGIC, len(content), hashlib.sha256(content).digest()) + content
    )


def read(file: bytes, decode: Decode) -> tuple[str, list[np.ndarray]]:
    """The network's name and its arrays (float32) from what `write` made. `decode` is
    the other half of the coder it was made with.

    Raises ValueError, before anything is decoded, if the file is of another kind, was
    cut off, or was altered in any bit.
    """
    stream, title, counts = _open(file)
    arrays, bits, gap_bits, entry_count = counts
    shapes, codebooks = [], np.zeros((arrays, 2**bits), "float32")
    for codebook in codebooks:
        axes = stream.read(1)[0]
        shapes.append(struct.unpack(f"<{axes}I", stream.read(4 * axes)))
        codebook[1:] = np.frombuffer(stream.read(4 * (2**bits - 1)), "<f4")
    entries, gaps = (
        decode(stream.read(*struct.unpack("<I", stream.read(4))), alphabet, entry_count)
        for alphabet in (2**bits, 2**gap_bits)
    )
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    places = np.cumsum(gaps + 1) - 1
    sequence = np.zeros(ends[-1], "float32")
    sequence[places] = codebooks[np.searchsorted(ends, places, side="right"), entries]
    parts = np.split(sequence, ends[:-1])
    return title, [
        part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
    ]


def stage_bytes(file: bytes) -> dict[str, float]:
    """What the network takes after each stage: `float32`, `pruned` (values in float32,
    relative indices), `shared` (cluster numbers, relative indices, codebooks), and
    `file`.

    Raises ValueError as `read` does.
    """
    stream, _, (arrays, bits, gap_bits, entries) = _open(file)
    weights = 0
    for _ in range(arrays):
        axes = stream.read(1)[0]
        weights += math.prod(struct.unpack(f"<{axes}I", stream.read(4 * axes)))
        stream.seek(4 * (2**bits - 1), io.SEEK_CUR)
    return {
        "float32": 4 * weights,
        "pruned": entries * (32 + gap_bits) / 8,
        "shared": entries * (bits + gap_bits) / 8 + 4 * arrays * (2**bits - 1),
        "file": len(file),
    }


def _open(file: bytes) -> tuple[io.BytesIO, str, tuple[int, int, int, int]]:
    """Checks the file and reads its content up to the arrays."""
    if file[:4] != MAGIC:
        raise ValueError(
            "not a file of compressed weights: it does not start with DCF1"
        )
    content = file[PREAMBLE.size :]
    if len(file) >= PREAMBLE.size:
        _, length, checksum = PREAMBLE.unpack_from(file)
    if len(file) < PREAMBLE.size or len(content) < length:
        raise ValueError(
            f"the file of compressed weights was cut off after {len(file)} bytes"
        )
    if len(content) > length or hashlib.sha256(content).digest() != checksum:
        raise ValueError(
            "the file of compressed weights was altered: its checksum differs"
        )
    stream = io.BytesIO(content)
    title = stream.read(stream.read(1)[0]).decode()
    return stream, title, COUNTS.unpack(stream.read(COUNTS.size))
