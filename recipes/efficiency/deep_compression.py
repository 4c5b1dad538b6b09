"""Deep Compression: a network in a file forty times smaller, which is decoded and run.

Three stages, each on what the one before left. Pruning: the smallest weights become 0
and the rest learns again, round by round. Shared weights: k-means clusters what is left
of each kernel, a weight becomes the number of its cluster, and the centroids are
trained on, each by the sum of its weights' gradients. Huffman coding: frequent numbers
get short codes. Where a weight stands is written as the zeros skipped since the last
one, in a fixed number of bits before Huffman coding; a longer gap is bridged by filler
zeros. Codes are canonical: ordered by length, then by symbol, each is the one before
plus 1, so that the file holds their lengths only. `write_file` has the file byte by
byte; one that was cut off or altered is refused.
Look at what each stage contributes.

Lectures: CS Efficient Methods and Hardware (Pruning, Weight Sharing, Huffman Coding)
Paper: Han, Mao and Dally, Deep compression, 2016 (figures 2 and 3, equation 3, tables 1
    to 3)
Tags: model compression, huffman coding, pruning, weight sharing, quantization, sparsity
"""

import hashlib
import heapq
import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.cluster import KMeans

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k, digits, digits_by_writer (tested on other writers); mnist if available;
    or your own images: a folder with one subfolder a class, or an .npz file"""
    networks: tuple[Literal["lenet_300_100", "lenet_5"], ...] = (
        "lenet_300_100",
        "lenet_5",
    )
    """to compress: lenet_300_100 (dense layers), lenet_5 (convolutions; takes most of
    the time)"""
    restarts: int = 2
    """random starts of each network; all numbers are their means"""
    epochs: int = 5
    """passes over the training images in full"""
    epochs_of_a_round: int = 4
    """passes after each round of pruning"""
    centroid_epochs: int = 2
    """passes that train the shared weights"""
    bits: Annotated[int, Interval(ge=1, le=8)] = 4
    """of a cluster number: 2^bits values a kernel, one of them 0"""
    gap_bits: Annotated[int, Interval(ge=1, le=16)] = 5
    """of the number of zeros skipped"""
    learning_rate: float = 1e-3
    """of Adam; it falls to 0 along a cosine in each training and each round of
    pruning"""


QUICK = Config(
    data="digits_by_writer",
    networks=("lenet_300_100",),
    restarts=1,
    epochs=10,
    epochs_of_a_round=8,
    centroid_epochs=3,
)
# Never run here: it takes the 60,000 images from Keras's cache or the network.
FULL = Config(
    data="mnist", restarts=1, epochs=10, epochs_of_a_round=8, centroid_epochs=3, bits=5
)
# Shares of each kernel's weights that pruning leaves (paper: 8, 9, 26 % and 66, 12, 8,
# 19 %).
KEPT = {"lenet_300_100": [0.073, 0.147, 0.5], "lenet_5": [0.66, 0.12, 0.078, 0.3]}
ROUNDS = {"lenet_300_100": 5, "lenet_5": 3}  # of pruning some more and training again
# Ratios in tables 2 and 3, on MNIST (12: of numbers of weights); accuracy rose by 0.06
# points.
PAPER = {"lenet_300_100": [12, 32, 40], "lenet_5": [12, 33, 39]}


class PrunedModel(keras.Model):
    """A functional network whose kernels keep their zeros while it trains."""

    def train_step(self, batch):
        kernels = self.trainable_variables[::2]  # biases stand in between
        masks = [ops.cast(kernel != 0, kernel.dtype) for kernel in kernels]
        logs = super().train_step(batch)
        for kernel, mask in zip(kernels, masks, strict=True):
            kernel.assign(kernel * mask)
        return logs


def prune(model: keras.Model, kept: np.ndarray) -> None:
    """Sets the smallest weights of each kernel to 0, so that the share `kept` of them
    is left."""
    for kernel, share in zip(model.trainable_variables[::2], kept, strict=True):
        sizes = np.abs(kernel.numpy())
        kernel.assign(
            kernel * (sizes >= np.sort(sizes, axis=None)[-round(share * sizes.size)])
        )


def build_model(name: str, classes: int = 10) -> keras.Model:
    """lenet_300_100 (266,610 weights) or Caffe's lenet_5 (431,080), as in the paper.
    Input: (batch, 28, 28, 1) in [0, 1]. Output: (batch, classes) logits."""
    images = x = keras.Input((28, 28, 1), name="images")
    # Without this pull toward 0, magnitudes would tell where a weight started, not
    # what it does.
    decay = {"kernel_regularizer": keras.regularizers.L2(1e-4)}
    for filters in (20, 50) if name == "lenet_5" else ():
        x = layers.MaxPooling2D()(
            layers.Conv2D(filters, 5, activation="relu", **decay)(x)
        )
    x = layers.Flatten()(x)
    for units in (500,) if name == "lenet_5" else (300, 100):
        x = layers.Dense(units, activation="relu", **decay)(x)
    return PrunedModel(images, layers.Dense(classes, **decay)(x), name=name)


class SharedWeights(keras.Model):
    """Clusters the nonzero weights of each kernel and bias of a network, and trains the
    centroids.

    labels: integers in the weights' shapes, 0 for a weight of 0. centroids: (2^bits −
        1,) each."""

    def __init__(self, network: keras.Model, bits: int):
        super().__init__()
        self.network, self.labels, self.centroids = network, [], []
        for weights in network.get_weights():
            values = weights[weights != 0].reshape(-1, 1)
            # Evenly spread at first, so that the rare large weights get their own
            # (section 3.2).
            start = np.linspace(
                values.min(), values.max(), min(2**bits - 1, len(values))
            )
            found = KMeans(len(start), init=start.reshape(-1, 1), n_init=1).fit(values)
            self.labels.append(np.zeros(weights.shape, "int32"))
            self.labels[-1][weights != 0] = found.labels_ + 1
            self.centroids.append(
                keras.Variable(np.resize(found.cluster_centers_, 2**bits - 1))
            )
        self.share()

    def share(self) -> None:
        """Writes the centroids into the network."""
        variables = self.network.trainable_variables
        for weights, labels, centroids in zip(
            variables, self.labels, self.centroids, strict=True
        ):
            weights.assign(ops.take(ops.pad(centroids, (1, 0)), labels))

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self.network(x, training=True))
        gradients = tape.gradient(loss, self.network.trainable_variables)
        # A centroid's gradient is the sum of its weights' gradients (equation 3).
        sums = [
            ops.segment_sum(ops.ravel(each), labels.ravel(), centroids.shape[0] + 1)[1:]
            for each, labels, centroids in zip(
                gradients, self.labels, self.centroids, strict=True
            )
        ]
        self.optimizer.apply(sums, self.centroids)
        self.share()
        return {"batch_loss": loss}


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code; 0 for a symbol that does not occur."""
    heap = [
        (count, symbol, [symbol])
        for symbol, count in enumerate(counts.tolist())
        if count
    ]
    lengths = np.zeros(len(counts), "uint8")
    lengths[[symbol for _, symbol, _ in heap]] = (
        len(heap) == 1
    )  # even a lone symbol takes a bit
    heapq.heapify(heap)
    while len(heap) > 1:  # the two rarest become one, whose members lie a bit deeper
        (count, tie, symbols), (other, _, others) = (
            heapq.heappop(heap),
            heapq.heappop(heap),
        )
        lengths[symbols + others] += 1
        heapq.heappush(heap, (count + other, tie, symbols + others))
    return lengths


def canonical_codes(lengths: np.ndarray) -> dict[int, str]:
    """The code of each symbol that occurs, as 0s and 1s; the lengths alone decide
    it."""
    codes, code, before = {}, 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths.tolist()) if n):
        code <<= length - before
        codes[symbol] = f"{code:0{length}b}"
        code, before = code + 1, length
    return codes


def huffman_encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """The codes' lengths, a byte each, then the codes of `symbols`, (n,) in [0,
    alphabet)."""
    lengths = huffman_lengths(np.bincount(symbols, minlength=alphabet))
    codes = canonical_codes(lengths)
    bits = "".join(codes[symbol] for symbol in symbols.tolist())
    return lengths.tobytes() + np.packbits(np.array(list(bits), int)).tobytes()


def huffman_decode(coded: bytes, alphabet: int, count: int) -> np.ndarray:
    """The `count` symbols that `huffman_encode` wrote."""
    coded = np.frombuffer(coded, "uint8")
    symbol_of = {
        code: symbol for symbol, code in canonical_codes(coded[:alphabet]).items()
    }
    symbols, code = [], ""
    for bit in np.unpackbits(coded[alphabet:]).tolist():
        code += "01"[bit]
        if code in symbol_of:
            symbols.append(symbol_of[code])
            code = ""
    return np.array(symbols[:count], int)  # the last byte's rest may look like more


# One file for a network whose weights are few values and mostly 0.

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
    entries[last] = labels[places]
    gaps[last] = rest
    return entries, gaps


def write_file(
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
        of each array:      number of axes (1), their lengths (4 each),
                            2^b − 1 centroids (float32 each)
        4, then as many     number of bytes, the entries' cluster numbers, coded
        4, then as many     number of bytes, the entries' gaps, coded

    All arrays, flat and one after the other, make one sequence. Cluster number k > 0
    stands for the k-th centroid of the weight's array, 0 for the value 0. An entry is a
    nonzero weight, or a filler.

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


def read_file(file: bytes, decode: Decode) -> tuple[str, list[np.ndarray]]:
    """The network's name and its arrays (float32) from what `write_file` made. `decode`
    is the other half of the coder it was made with.

    Raises ValueError, before anything is decoded, if the file is of another kind, was
    cut off, or was altered in any bit.
    """
    stream, title, counts = open_file(file)
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

    Raises ValueError as `read_file` does.
    """
    stream, _, (arrays, bits, gap_bits, entries) = open_file(file)
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


def open_file(file: bytes) -> tuple[io.BytesIO, str, tuple[int, int, int, int]]:
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


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits (images, classes), computed eagerly: to trace a model that is asked once
    takes longer."""
    batches = np.array_split(images, math.ceil(len(images) / 500))
    return np.concatenate([model(batch) for batch in batches])


def plot(ratios: dict[str, list[float]]) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 4.4))
    for index, (label, heights) in enumerate(ratios.items()):
        drawn = axes.bar(np.arange(3) + 0.2 * index, heights, 0.18, label=label)
        axes.bar_label(drawn, fmt="%.0f")
    axes.set_xticks(
        np.arange(3) + 0.1 * (len(ratios) - 1), ["pruned", "shared", "Huffman coded"]
    )
    axes.set(
        title="Times smaller than float32 (paper's 12: without indices)", ylabel="ratio"
    )
    axes.legend(loc="upper left")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(4 * len(config.networks) * config.restarts)
    (x, y), (x_test, y_test) = data.load(config.data, size=28, channels=1)
    classes = len(data.class_names(config.data))

    def fit(model, epochs, rounds=1, callbacks=()):
        steps = epochs * math.ceil(len(x) / 32)
        # What a round cut off needs steps as large as the first ones to be made up for.
        rate = keras.optimizers.schedules.CosineDecayRestarts(
            config.learning_rate, steps, t_mul=1
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)
        training.fit(
            model, x, y, epochs=epochs * rounds, callbacks=[*run.callbacks, *callbacks]
        )

    def accuracy(model):
        return np.mean(np.argmax(predict(model, x_test), axis=1) == y_test)

    def compress(name):
        """The file, the network in it, and the accuracy of one in full that trained as
        long."""
        network = build_model(name, classes)
        fit(network, config.epochs)
        start = network.get_weights()
        fit(network, ROUNDS[name] * config.epochs_of_a_round + config.centroid_epochs)
        in_full = accuracy(network)
        network.set_weights(start)

        def prune_more(epoch, logs):  # within a round it finds nothing left to cut off
            done = epoch // config.epochs_of_a_round
            prune(network, np.power(KEPT[name], (done + 1) / ROUNDS[name]))

        pruning = keras.callbacks.LambdaCallback(on_epoch_begin=prune_more)
        fit(network, config.epochs_of_a_round, ROUNDS[name], [pruning])
        shared = SharedWeights(network, config.bits)
        fit(shared, config.centroid_epochs)
        content = (
            name,
            shared.labels,
            [c.numpy() for c in shared.centroids],
            config.gap_bits,
        )
        return write_file(*content, huffman_encode), network, in_full

    ratios, exact = {}, []
    for name in config.networks:
        measured = []
        for _ in range(config.restarts):
            file, network, in_full = compress(name)
            (run.folder / f"{name}.dcf").write_bytes(file)
            decoded = build_model(name, classes)
            decoded.set_weights(read_file(file, huffman_decode)[1])
            logits = [predict(model, x_test) for model in (network, decoded)]
            exact.append(np.array_equal(*logits))
            sizes = stage_bytes(file)
            measured.append([in_full, accuracy(decoded), *sizes.values()])
        full, compressed, *sizes = np.mean(measured, axis=0)
        ratio = sizes[0] / sizes[-1]
        run.metric(f"compression_ratio_{name}", ratio)
        run.metric(f"test_accuracy_{name}", compressed)
        run.metric(f"points_lost_{name}", round(100 * (full - compressed), 4))
        run.claim(
            f"{name} takes at least 40 times less and loses less than a point (the margin of one "
            "run, as trainings in full differ by half a point; results/ has the mean of 5 seeds)",
            holds=ratio >= 40 and compressed > full - 0.01,
            measured=f"{sizes[0]:,.0f} bytes / {sizes[-1]:,.0f} = {ratio:.1f} (paper "
            f"{PAPER[name][-1]}); test accuracy {full:.4f} in full, {compressed:.4f} from the file",
        )
        ratios |= {
            f"{name}, here": sizes[0] / np.array(sizes[1:]),
            f"{name}, paper": PAPER[name],
        }
        stages = -np.diff(np.log(sizes)) / np.log(ratio)
        run.claim(
            f"{name}: pruning saves most, shared weights follow, Huffman coding saves a bit more",
            holds=stages[0] > stages[1] + 0.05 > stages[2] + 0.1 and stages[2] > 0.01,
            measured=f"shares of the ratio's logarithm: {', '.join(f'{s:.0%}' for s in stages)}",
        )
    run.claim(
        "What is read from the files gives, to the last bit, the logits of the networks written",
        any_data=True,
        holds=all(exact),
        measured=f"{sum(exact)} of {len(exact)} networks, on {len(x_test):,} test images",
    )
    run.figure("stages", plot(ratios))
    run.export(serving.classifier(decoded), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
