"""Deep Compression: a network in a file forty times smaller, which is decoded and run.

Three stages, each on what the one before left. Pruning: the smallest weights become 0 and the rest
learns again, round by round. Shared weights: what is left of a layer is clustered by k-means, each
weight becomes the number of its cluster, and the centroids are trained on, by the sum of their
weights' gradients. Huffman coding: frequent numbers get short codes. A weight's place is written as
the zeros skipped since the last one, in few bits; a longer gap is bridged by filler zeros.
Look at what each stage contributes, and at which layers hardly need any weights.

The file (little-endian): "DCF1", SHA-256 of all that follows, length of the network's name (1 byte),
name; then layer by layer (kernel and bias as one array): its number of weights and of entries (4
bytes each), bits of a cluster number b and of a gap g (1 byte each), centroids (2ᵇ − 1 float32; the
number 0 is the filler's zero), lengths of the Huffman codes of the 2ᵇ numbers and the 2ᵍ gaps
(1 byte each; 0: not used), and, each after its number of bytes (4 bytes), the codes of the entries'
numbers and of their gaps. Codes are canonical: ordered by length, then by symbol.

Lectures: CS Efficient Methods and Hardware (Pruning, Weight Sharing, Huffman Coding)
Paper: Han, Mao and Dally, Deep compression, 2016 (figures 2 and 3, equation 3, tables 1 to 3)
"""

import hashlib
import heapq
import io
import struct
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.cluster import KMeans

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer (the ordered split: tested on other writers), digits; mnist if available"""
    kept_of_lenet_300_100: tuple[float, ...] = (0.02, 0.06, 0.4)
    """share of each layer's weights that pruning leaves"""
    kept_of_lenet_5: tuple[float, ...] = (0.4, 0.06, 0.01, 0.2)
    """the same of LeNet-5: two convolutions, two dense layers"""
    bits: int = 4
    """of a cluster number: 2^bits values a layer, one of them 0"""
    restarts: int = 5
    """random starts of each network; all numbers are their means"""
    rounds: int = 3
    """of pruning and training again"""
    epochs: int = 15
    """passes over the training images of the network in full"""
    epochs_of_a_round: int = 8
    """passes after each pruning, and with shared weights"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rate: float = 2e-3
    """of Adam; it falls to 0 along a cosine, in each of the three kinds of training"""


QUICK = Config(restarts=1)
FULL = Config(data="mnist", kept_of_lenet_300_100=(0.08, 0.09, 0.26), bits=6)

PAPER = {"lenet_300_100": (12, 32, 40, 1.64, 1.58), "lenet_5": (12, 33, 39, 0.80, 0.74)}
"""Ratios after each stage; error in % before and after (tables 1 to 3, MNIST)."""


def build_model(name: str) -> keras.Model:
    """Caffe's lenet_5 (431,080 weights) or lenet_300_100 (266,610). Input: (batch, 28, 28, 1) in
    [0, 1]. Output: (batch, 10) logits."""
    images = x = keras.Input((28, 28, 1), name="images")
    for filters in (20, 50) if name == "lenet_5" else ():
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 5, activation="relu")(x))
    x = layers.Flatten()(x)
    for units in (500,) if name == "lenet_5" else (300, 100):
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(images, layers.Dense(10)(x), name=name)


class Mask(keras.constraints.Constraint):
    """Keeps pruned weights at 0: the optimizer applies it after each step."""

    def __init__(self, shape):
        self.kept = keras.Variable(ops.ones(shape), trainable=False)

    def __call__(self, weights):
        return weights * self.kept


def prune(kernel: keras.Variable, share: float) -> None:
    """Sets all but the given share of weights, the largest, to 0; its Mask keeps them there."""
    sizes = np.abs(kernel.numpy())
    threshold = np.sort(sizes, axis=None)[-round(share * sizes.size)]
    kernel.constraint.kept.assign(sizes >= threshold)
    kernel.assign(kernel.constraint(kernel))


class SharedWeights(keras.Model):
    """Clusters the nonzero weights of each kernel and bias of a network, and trains the centroids.

    labels: integers like each weight, 0 for those that are 0. centroids: (2^bits − 1,) of each."""

    def __init__(self, network: keras.Model, bits: int):
        super().__init__()
        self.network, self.labels, self.centroids = network, [], []
        for weights in network.get_weights():
            labels, centroids = np.zeros(weights.shape, "int32"), np.zeros(2**bits - 1, "float32")
            values = weights[weights != 0][:, None]
            if (clusters := min(len(np.unique(values)), 2**bits - 1)) > 0:
                # From centroids spread evenly, the rare large weights get their own (section 3.2).
                start = np.linspace(values.min(), values.max(), clusters)[:, None]
                found = KMeans(clusters, init=start, n_init=1).fit(values)
                labels[weights != 0] = found.labels_ + 1
                centroids[:clusters] = found.cluster_centers_[:, 0]
            self.labels.append(labels)
            self.centroids.append(keras.Variable(centroids))
        self.share()

    def share(self) -> None:
        """Writes the centroids into the network."""
        variables = self.network.trainable_variables
        for weights, labels, centroids in zip(variables, self.labels, self.centroids, strict=True):
            weights.assign(ops.take(ops.pad(centroids, (1, 0)), labels))

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self.network(x, training=True))
        gradients = tape.gradient(loss, self.network.trainable_variables)
        # A centroid's gradient is the sum of its weights' gradients (equation 3).
        sums = [
            ops.segment_sum(ops.ravel(each), labels.ravel(), centroids.shape[0] + 1)[1:]
            for each, labels, centroids in zip(gradients, self.labels, self.centroids, strict=True)
        ]
        self.optimizer.apply(sums, self.centroids)
        self.share()
        return {"loss": loss}


def relative_indices(labels: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero `labels` and the zeros skipped before each. More than 2^bits − 1 zeros do not
    fit: an entry of value 0 stands in after every 2^bits − 1 (figure 2)."""
    places = np.flatnonzero(labels)
    fillers, rest = np.divmod(np.diff(places, prepend=-1) - 1, 2**bits)
    last = np.cumsum(fillers + 1) - 1
    entries = np.zeros(np.sum(fillers + 1), int)
    gaps = np.full(entries.size, 2**bits - 1)
    entries[last], gaps[last] = labels.ravel()[places], rest
    return entries, gaps


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code; 0 for a symbol that does not occur."""
    heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    lengths = np.zeros(len(counts), "uint8")
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:  # the two rarest become one, whose members lie a bit deeper
        (count, tie, symbols), (other, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[symbols + others] += 1
        heapq.heappush(heap, (count + other, tie, symbols + others))
    return lengths


def canonical_codes(lengths: np.ndarray) -> dict[int, str]:
    """The code of each symbol, which follows from the lengths alone: in order of length, then of
    the symbol, each code is the one before plus 1."""
    codes, code, before = {}, 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths.tolist()) if n):
        code <<= length - before
        codes[symbol] = f"{code:0{length}b}"
        code, before = code + 1, length
    return codes


def huffman_encode(symbols: np.ndarray, alphabet: int) -> bytes:
    """Code lengths, number of bytes that follow, codes."""
    lengths = huffman_lengths(np.bincount(symbols, minlength=alphabet))
    codes = canonical_codes(lengths)
    bits = "".join(codes[symbol] for symbol in symbols.tolist()).encode()
    packed = np.packbits(np.frombuffer(bits, "uint8") - ord("0")).tobytes()
    return lengths.tobytes() + struct.pack("<I", len(packed)) + packed


def huffman_decode(stream: io.BytesIO, alphabet: int, count: int) -> np.ndarray:
    """Reads the `count` symbols that `huffman_encode` wrote."""
    codes = canonical_codes(np.frombuffer(stream.read(alphabet), "uint8"))
    symbol_of = {code: symbol for symbol, code in codes.items()}
    (size,) = struct.unpack("<I", stream.read(4))
    bits = np.unpackbits(np.frombuffer(stream.read(size), "uint8"))
    symbols, code = [], ""
    for bit in (bits + ord("0")).tobytes().decode():
        code += bit
        if code in symbol_of and len(symbols) < count:
            symbols.append(symbol_of[code])
            code = ""
    return np.array(symbols, int)


def encode(name: str, all_labels: list[np.ndarray], codebooks: list[np.ndarray]) -> bytes:
    """The file of a network: see the header."""
    content = bytes([len(name)]) + name.encode()
    for labels, centroids in zip(all_labels, codebooks, strict=True):
        bits = len(centroids).bit_length()
        gap_bits = best_gap_bits(labels, bits)
        entries, gaps = relative_indices(labels, gap_bits)
        content += struct.pack("<IIBB", labels.size, entries.size, bits, gap_bits)
        content += centroids.astype("<f4").tobytes()
        content += huffman_encode(entries, 2**bits) + huffman_encode(gaps, 2**gap_bits)
    return MAGIC + hashlib.sha256(content).digest() + content


def decode(file: bytes) -> tuple[str, list[np.ndarray]]:
    """The network's name and its weights, flat. Raises ValueError for anything but a whole file."""
    if file[:4] != MAGIC or hashlib.sha256(file[36:]).digest() != file[4:36]:
        raise ValueError("not a whole Deep Compression file: it was cut off or altered")
    stream, arrays = io.BytesIO(file[36:]), []
    name = stream.read(stream.read(1)[0]).decode()
    while header := stream.read(10):
        size, count, bits, gap_bits = struct.unpack("<IIBB", header)
        centroids = np.frombuffer(stream.read(4 * (2**bits - 1)), "<f4")
        entries = huffman_decode(stream, 2**bits, count)
        gaps = huffman_decode(stream, 2**gap_bits, count)
        arrays.append(np.zeros(size, "float32"))
        arrays[-1][np.cumsum(gaps + 1) - 1] = np.append(np.float32(0), centroids)[entries]
    return name, arrays
