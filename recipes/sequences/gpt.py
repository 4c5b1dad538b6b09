"""A decoder-only transformer learns its tokens and then writes with them.

A text is cut into tokens, byte pairs that came up most often in training, so that no
text of any script is unknown. A stack of blocks reads them all at once: each token asks
those before it (attention under a causal mask), then thinks for itself (a dense
network). Attention hardly knows order; rotary positions turn queries and keys by an
angle that grows with their place, so that q·k depends on how far apart they stand.
To write, a token is drawn and read, and so on. The keys and values of what was read do
not change any more: kept in a cache, a token costs little more than the first one did.
Look at what the cache saves, at bits per character (n-grams are still ahead after so
brief a training), and at the rules of drawing: the likeliest token each time goes in
circles, and top-k and nucleus sampling cut off the tail in which nonsense is.
The export goes from strings to strings: its graph has the tokenizer.

Lectures: CS Char-level RNN; SEL RNNs for Language Modeling
Paper: Radford et al., Language models are unsupervised multitask learners, 2019; Su et
    al., RoFormer, 2021 (equation 34); Holtzman et al., The curious case of neural text
    degeneration, 2020
Tags: llm, transformer decoder, bpe, rope, kv cache, top-k, top-p, text generation
"""

import math
import re
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import (
    UsageError,
    architectures,
    as_metric,
    data,
    figures,
    training,
)
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "prose"
    """prose (embedded: the manual of Python), or your own text: a .txt or .md file, or
    a folder of them"""
    merges: Annotated[int, Interval(ge=1, le=60_000)] = 500
    """pairs of tokens that become a token, beside the 256 bytes"""
    context: Annotated[int, Interval(ge=4)] = 64
    """tokens that attention looks back at, and of a window that training reads"""
    width: int = 64
    """numbers that stand for a token; a multiple of twice the heads"""
    heads: int = 4
    """of attention"""
    depth: int = 2
    """blocks on top of each other"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    """share of what a block adds that training hides"""
    epochs: int = 4
    """passes over as many windows as the training text has"""
    batch_size: int = 8
    """windows a gradient is averaged over"""
    learning_rate: float = 1e-2
    """of Adam: rises to this in the first twentieth of the steps, then falls along a
    cosine"""
    lstm_learning_rate: float = 8e-3
    """of the rival"""
    lstm_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.3
    """of the rival, which sooner learns the text by heart"""
    networks: Annotated[int, Interval(ge=1, le=3)] = 3
    """how many to train: the GPT, an LSTM of the same cost, and a GPT that does not know
    where tokens stand"""
    rival_order: Annotated[int, Interval(ge=0, le=12)] = 7
    """characters that the n-grams look back; on validation text of the prose fewer are
    worse, and more no better"""
    prompt: str = "The class of "
    """what the exported model's example goes on from"""


QUICK = Config(
    merges=200,
    context=32,
    width=32,
    epochs=1,
    learning_rate=2e-2,
    lstm_learning_rate=2e-2,
    lstm_dropout=0.05,
    networks=2,
    rival_order=5,
)
FULL = Config(
    learning_rate=3e-3,
    lstm_learning_rate=3e-3,
    lstm_dropout=0.5,
    merges=1000,
    context=256,
    width=192,
    heads=6,
    depth=4,
    dropout=0.2,
    epochs=20,
)

VALIDATION = 0.1  # share of the training text that chooses among n-grams
FEW_EPOCHS = 6  # after more a network may have caught up with n-grams
AT_ONCE = 64  # windows that are read side by side
PROMPT = 16  # tokens of held-out text that samples go on from
LENGTH = 128  # tokens of a sample
TEXTS = 48  # samples by each rule
EXPORTED = 24  # tokens that the exported model writes


# --------------------------------------------------------------------------------------
# The idea: tokens out of bytes, attention that looks back, a cache, rules of drawing
# --------------------------------------------------------------------------------------

# A token is written as one character of a private area of Unicode. Then a text of
# tokens is a string, and to merge a pair is to replace two characters by one.
FIRST = 0xF0000
GAP = " "  # between words, which no merge crosses


def in_tokens(values: bytes) -> str:
    """Bytes as characters, one for each."""
    return "".join(chr(FIRST + value) for value in values)


SPACE = in_tokens(b" ")
BLANKS = in_tokens(b" \n\r\t\v\f")
DIGITS = in_tokens(b"0123456789")
# Bytes above 127 are parts of letters.
LETTERS = in_tokens(bytes(b for b in range(256) if b > 127 or chr(b).isalpha()))
OTHERS = f"^{LETTERS}{DIGITS}{BLANKS}{GAP}"
# A word brings the space before it along. Where a script has no spaces, words end after
# 32 bytes.
WORD = f"{SPACE}?(?:[{LETTERS}]{{1,32}}|[{DIGITS}]{{1,32}}|[{OTHERS}]{{1,32}})"
WORD += f"|[{BLANKS}]{{1,32}}"


def words_of(text: str) -> list[str]:
    """A text cut into words, in which each byte is a token. What UTF-8 cannot write
    becomes a question mark."""
    return re.findall(WORD, in_tokens(text.encode("utf-8", "replace")))


def as_ids(symbols: str) -> np.ndarray:
    """The tokens' numbers, (tokens,)."""
    codes = np.frombuffer(symbols.encode("utf-32-le"), "uint32")
    return (codes - FIRST).astype("int32")


class BytePairs:
    """Tokens: the 256 bytes, and pairs of tokens that were merged."""

    def __init__(self, merges: list[str]):
        """merges: pairs of characters that stand for tokens, in their order."""
        self.merges = {
            pair: chr(FIRST + 256 + number) for number, pair in enumerate(merges)
        }
        self.spellings = [bytes([value]) for value in range(256)]
        for pair in merges:
            first, second = as_ids(pair)
            self.spellings.append(self.spellings[first] + self.spellings[second])

    def __len__(self) -> int:
        return len(self.spellings)

    def encode(self, text: str) -> np.ndarray:
        """Ids (tokens,): within each word the pairs are merged in the order in which
        they were learned."""
        symbols = GAP.join(words_of(text))
        for pair, token in self.merges.items():
            symbols = symbols.replace(pair, token)
        return as_ids(symbols.replace(GAP, ""))

    def decode(self, ids) -> str:
        """Where ids end within a character, it becomes the sign of replacement."""
        spelled = b"".join(self.spellings[number] for number in ids)
        return spelled.decode("utf-8", "replace")


def pairs_of(word: str) -> list[str]:
    return [word[place : place + 2] for place in range(len(word) - 1)]


def learn_byte_pairs(text: str, count: int) -> BytePairs:
    """Merges the pair of tokens that comes up most often, again and again (Sennrich et
    al., 2016). Stops early where no pair comes up twice."""
    frequencies = Counter(words_of(text))
    words = list(frequencies)
    times = list(frequencies.values())
    counts: Counter[str] = Counter()
    where = defaultdict(set)  # the words that have a pair
    for number, word in enumerate(words):
        for pair in pairs_of(word):
            counts[pair] += times[number]
            where[pair].add(number)

    merges: list[str] = []
    while counts and len(merges) < count:
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if counts[best] < 2:
            break
        token = chr(FIRST + 256 + len(merges))
        merges.append(best)
        # Only the words that have the pair change, and so do only their pairs.
        for number in where.pop(best):
            for pair in pairs_of(words[number]):
                counts[pair] -= times[number]
            words[number] = words[number].replace(best, token)
            for pair in pairs_of(words[number]):
                counts[pair] += times[number]
                where[pair].add(number)
        del counts[best]

    return BytePairs(merges)


def rotate(x, positions):
    """Rotary positions: turns each pair of numbers (i, i + size/2) by the angle position
    / 10000^(2i / size). x: (batch, heads, time, size). positions: (time,)."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-np.arange(half, dtype="float32") / half)
    angles = ops.cast(positions, "float32")[:, np.newaxis] * frequencies
    cosines = ops.cast(ops.cos(angles), x.dtype)
    sines = ops.cast(ops.sin(angles), x.dtype)
    first = x[..., :half]
    second = x[..., half:]
    return ops.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )


@keras.saving.register_keras_serializable("gpt")
class CausalAttention(layers.Layer):
    """Each token looks back at itself and the `context` - 1 before it."""

    def __init__(self, heads: int, context: int, rotary: bool = True, **options):
        super().__init__(**options)
        self.heads = heads
        self.context = context
        self.rotary = rotary

    def build(self, shape):
        width = shape[-1]
        self.queries = layers.Dense(width, use_bias=False)
        self.keys = layers.Dense(width, use_bias=False)
        self.values = layers.Dense(width, use_bias=False)
        self.outputs = layers.Dense(width, use_bias=False)
        for layer in (self.queries, self.keys, self.values, self.outputs):
            layer.build(shape)

    def call(self, x, past=None):
        """x: (batch, time, width). past: keys and values of all that was read before,
        (batch, 2, heads, past time, size); None: nothing was.

        Returns (batch, time, width), and keys and values with those of x.
        """
        start = 0 if past is None else ops.shape(past)[3]
        positions = start + ops.arange(ops.shape(x)[1])
        queries = self.by_head(self.queries(x))
        keys = self.by_head(self.keys(x))
        if self.rotary:
            queries = rotate(queries, positions)
            keys = rotate(keys, positions)
        seen = ops.stack([keys, self.by_head(self.values(x))], axis=1)
        if past is not None:
            seen = ops.concatenate([past, seen], axis=3)

        weights = self.weigh(queries, seen[:, 0], positions)
        mixed = ops.transpose(ops.matmul(weights, seen[:, 1]), (0, 2, 1, 3))
        return self.outputs(ops.reshape(mixed, ops.shape(x))), seen

    def by_head(self, x):
        """(batch, time, width) to (batch, heads, time, width / heads)."""
        size = x.shape[-1] // self.heads
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.heads, size))
        return ops.transpose(x, (0, 2, 1, 3))

    def weigh(self, queries, keys, positions):
        """How much each token looks at each one read so far: softmax(q·k / √size) over
        what is not to come, (batch, heads, time, past time + time)."""
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))
        scores = ops.cast(scores, "float32") / math.sqrt(queries.shape[-1])
        distance = positions[:, np.newaxis] - ops.arange(ops.shape(keys)[2])
        is_seen = (distance >= 0) & (distance < self.context)
        scores = ops.where(is_seen, scores, -1e9)
        return ops.cast(ops.softmax(scores), queries.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "context": self.context,
            "rotary": self.rotary,
        }


@keras.saving.register_keras_serializable("gpt")
class Block(layers.Layer):
    """Attention, then a dense network for each token. What they find is added, and they
    look at a normalized input (pre-norm)."""

    def __init__(
        self,
        heads: int,
        context: int,
        dropout: float,
        rotary: bool = True,
        **options,
    ):
        super().__init__(**options)
        self.attention_norm = layers.LayerNormalization()
        self.attention = CausalAttention(heads, context, rotary)
        self.dense_norm = layers.LayerNormalization()
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        width = shape[-1]
        self.hidden = layers.Dense(4 * width, activation="gelu")
        self.outputs = layers.Dense(width)
        self.attention_norm.build(shape)
        self.attention.build(shape)
        self.dense_norm.build(shape)
        self.hidden.build(shape)
        self.outputs.build((*shape[:-1], 4 * width))

    def call(self, x, past=None):
        """As of CausalAttention."""
        mixed, seen = self.attention(self.attention_norm(x), past)
        x = x + self.dropout(mixed)
        thought = self.outputs(self.hidden(self.dense_norm(x)))
        return x + self.dropout(thought), seen

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.attention.heads,
            "context": self.attention.context,
            "dropout": self.dropout.rate,
            "rotary": self.attention.rotary,
        }


def build_model(
    vocabulary: int,
    width: int,
    heads: int,
    depth: int,
    context: int,
    dropout: float,
    rotary: bool = True,
) -> keras.Model:
    """Input: ids (batch, time). Output: the logits of what comes next, (batch, time,
    vocabulary). rotary: whether attention knows how far apart tokens stand."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    # One table serves both ends: what a token is, and how likely it comes next.
    tokens = layers.ReversibleEmbedding(
        vocabulary,
        width,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=width**-0.5),
        reverse_dtype="float32",
        name="tokens",
    )
    # What a token is should not drown in what the first block adds to it.
    x = layers.Rescaling(math.sqrt(width), name="rescaling")(tokens(ids))
    for number in range(depth):
        x, _ = Block(heads, context, dropout, rotary, name=f"block_{number}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(ids, tokens(x, reverse=True), name="gpt")


def build_reader(model: keras.Model) -> keras.Model:
    """The same network, to read on from where it was, with the same weights.

    Inputs: `ids` (batch, time), and `past`, the keys and values of all blocks for what
    was read before (batch, depth, 2, heads, past time, size). Outputs: the `logits` of
    the next token (batch, vocabulary), and the `past` with what was read now.
    """
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    tokens = model.get_layer("tokens")
    heads = blocks[0].attention.heads
    size = tokens.output_dim // heads

    ids = keras.Input((None,), dtype="int32", name="ids")
    past = keras.Input(
        (len(blocks), 2, heads, None, size), dtype=tokens.compute_dtype, name="past"
    )
    seen = []
    x = model.get_layer("rescaling")(tokens(ids))
    for number, block in enumerate(blocks):
        x, of_block = block(x, past[:, number])
        seen.append(of_block)
    x = model.get_layer("norm")(x[:, -1])
    return keras.Model(
        {"ids": ids, "past": past},
        {"logits": tokens(x, reverse=True), "past": ops.stack(seen, axis=1)},
        name="reader",
    )


def empty_past(reader: keras.Model, batch: int):
    """The cache before anything was read."""
    past = reader.input["past"]
    _, depth, two, heads, _, size = past.shape
    return tf.zeros((batch, depth, two, heads, 0, size), past.dtype)


def keep_top_k(logits, k):
    """All but the k likeliest tokens become impossible. logits: (batch, vocabulary)."""
    descending = tf.sort(logits, direction="DESCENDING")
    least = descending[:, tf.minimum(k, logits.shape[-1]) - 1]
    return tf.where(logits >= least[:, tf.newaxis], logits, -np.inf)


def keep_nucleus(logits, share):
    """All but the fewest tokens that together have at least so much of the probability
    become impossible. logits: (batch, vocabulary)."""
    descending = tf.sort(logits, direction="DESCENDING")
    of_likelier = tf.cumsum(tf.nn.softmax(descending), axis=-1, exclusive=True)
    kept = tf.maximum(tf.math.count_nonzero(of_likelier < share, axis=-1), 1)
    least = tf.gather(descending, kept - 1, batch_dims=1)
    return tf.where(logits >= least[:, tf.newaxis], logits, -np.inf)


@dataclass
class Rule:
    """How the next token is drawn."""

    temperature: float = 1.0
    """the logits are divided by it"""
    top_k: int = 10**6
    """of the likeliest so many; 1 takes the likeliest"""
    nucleus: float = 1.0
    """of the likeliest that together have this probability"""

    def tensors(self) -> dict[str, tf.Tensor]:
        """One compiled loop serves all rules, where they are tensors."""
        return {name: tf.constant(value) for name, value in asdict(self).items()}


def draw(logits, rule: dict[str, tf.Tensor]):
    """Tokens to come next, (batch,). logits: (batch, vocabulary)."""
    logits = logits / rule["temperature"]
    logits = keep_top_k(logits, rule["top_k"])
    logits = keep_nucleus(logits, rule["nucleus"])
    return tf.random.categorical(logits, 1, dtype=tf.int32)[:, 0]


@tf.function
def generate(reader: keras.Model, prompts, length: int, rule, cached: bool = True):
    """Goes on from prompts, ids (batch, time): ids (batch, length).

    rule: the tensors of a `Rule`. cached: read each token once; else read the whole
    text again for each new token.
    """
    past = empty_past(reader, prompts.shape[0])
    grows = tf.TensorShape((*past.shape[:4], None, past.shape[5]))
    any_length = tf.TensorShape((prompts.shape[0], None))
    new = prompts
    written = tf.TensorArray(tf.int32, length)

    for place in tf.range(length):
        tf.autograph.experimental.set_loop_options(
            shape_invariants=[(past, grows), (new, any_length)]
        )
        read = reader({"ids": new, "past": past}, training=False)
        ids = draw(read["logits"], rule)
        written = written.write(place, ids)
        if cached:
            new = ids[:, tf.newaxis]
            past = tf.ensure_shape(read["past"], grows)
        else:
            new = tf.concat([new, ids[:, tf.newaxis]], axis=1)

    return tf.transpose(written.stack())


class Writer(layers.Layer):
    """Strings (batch,) to the strings that go on from them, the likeliest token each
    time. All of it is one graph: it needs no tokenizer beside it."""

    def __init__(self, reader: keras.Model, tokens: BytePairs, length: int):
        super().__init__()
        self.reader = reader
        self.merges = tokens.merges
        self.spellings = tokens.spellings
        self.length = length

    def call(self, texts):
        return tf.map_fn(self.go_on, texts)

    def compute_output_spec(self, texts):
        return keras.KerasTensor(texts.shape, dtype="string")

    def go_on(self, text):
        ids = self.encode(text)[tf.newaxis]
        rule = Rule(top_k=1).tensors()
        ids = generate(self.reader, ids, self.length, rule)[0]
        spelled = tf.strings.reduce_join(tf.gather(tf.constant(self.spellings), ids))
        return tf.strings.unicode_transcode(spelled, "UTF-8", "UTF-8")

    def encode(self, text):
        """What BytePairs.encode does, by TensorFlow's regular expressions; a new line
        before the text, for there has to be a token to go on from."""
        values = tf.io.decode_raw("\n" + text, tf.uint8)
        symbols = tf.strings.unicode_encode(tf.cast(values, tf.int32) + FIRST, "UTF-8")
        symbols = tf.strings.regex_replace(symbols, WORD, GAP + r"\0")
        for pair, token in self.merges.items():
            symbols = tf.strings.regex_replace(symbols, pair, token)
        symbols = tf.strings.regex_replace(symbols, GAP, "")
        return tf.strings.unicode_decode(symbols, "UTF-8") - FIRST


def nats_in_windows(model: keras.Model, ids: np.ndarray, context: int) -> np.ndarray:
    """−ln p of tokens, by windows that overlap by half, (windows, context).

    Column i is of tokens before which i + 1 were read. Beyond the text's end it is NaN.
    """
    starts = np.arange(0, max(len(ids) - 1 - context // 2, 1), context // 2)
    places = starts[:, np.newaxis] + np.arange(context + 1)
    windows = np.pad(ids, (0, context))[places]
    nats = [
        ops.sparse_categorical_crossentropy(
            each[:, 1:], read_windows(model, each[:, :-1]), from_logits=True
        )
        for each in np.array_split(windows, math.ceil(len(windows) / AT_ONCE))
    ]
    return np.where(places[:, 1:] < len(ids), np.concatenate(nats), np.nan)


@tf.function(reduce_retracing=True)
def read_windows(model: keras.Model, windows):
    return model(windows, training=False)


def bits_per_character(nats: np.ndarray, characters: int) -> float:
    """Of a text, all of whose tokens are scored after at least half a window of it.

    nats: of `nats_in_windows`.
    """
    half = nats.shape[1] // 2
    total = np.nansum(nats[0, :half]) + np.nansum(nats[:, half : 2 * half])
    return float(total / characters / math.log(2))


def learning_rates(peak: float, steps: int):
    """A schedule that rises for a twentieth of the steps, then falls along a cosine."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=steps,
        warmup_target=peak,
        warmup_steps=steps // 20,
    )


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    model.compile(
        keras.optimizers.Adam(
            learning_rates(learning_rate, steps), global_clipnorm=1.0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def draw_windows(ids: np.ndarray, count: int, context: int, seed: int):
    """Windows that begin anywhere in a text: (inputs, targets), both (count, context);
    a target is what comes after its input."""
    random = np.random.default_rng(seed)
    starts = random.integers(len(ids) - context, size=(count, 1))
    windows = ids[starts + np.arange(context + 1)]
    return windows[:, :-1], windows[:, 1:]


# --------------------------------------------------------------------------------------
# The experiment: beside an LSTM and n-grams, the cache's worth, the rules of drawing
# --------------------------------------------------------------------------------------


RULES = {
    "the likeliest": Rule(top_k=1),
    "temperature 0.7": Rule(temperature=0.7),
    "temperature 1": Rule(),
    "top-k, k = 10": Rule(top_k=10),
    "nucleus, p = 0.8": Rule(nucleus=0.8),
}
CUT = ("top-k, k = 10", "nucleus, p = 0.8")  # those without the tail


class KneserNey:
    """Character n-grams: a discount off each count is given to the context one
    character shorter (interpolated Kneser-Ney; Chen and Goodman 1999, equation 25)."""

    def __init__(self, text: str, order: int):
        """order: characters that it looks back."""
        self.characters = len(set(text)) + 1  # one for all that are unknown
        plain = [
            Counter(text[end - length : end] for end in range(length, len(text) + 1))
            for length in range(1, order + 2)
        ]
        # Below the longest context counts are those of different characters before.
        shorter = [Counter(gram[1:] for gram in longer) for longer in plain[1:]]
        self.tables = [Followers(counts) for counts in [*shorter, plain[-1]]]

    def probability(self, character: str, context: str) -> float:
        probability = 1 / self.characters
        for length, table in enumerate(self.tables[: len(context) + 1]):
            nearest = context[len(context) - length :]
            total = table.totals[nearest]
            if not total:
                break  # nor was any longer one seen
            kept = max(table.counts[nearest + character] - table.discount, 0)
            given_away = table.discount * table.kinds[nearest]
            probability = (kept + given_away * probability) / total
        return probability

    def bits_per_character(self, text: str) -> float:
        order = len(self.tables) - 1
        bits = [
            -math.log2(self.probability(text[end], text[max(0, end - order) : end]))
            for end in range(len(text))
        ]
        return float(np.mean(bits))


class Followers:
    """What came after contexts of one length."""

    def __init__(self, counts: Counter):
        """counts: of contexts, each with the character after it."""
        self.counts = counts
        self.totals: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        for gram, count in counts.items():
            self.totals[gram[:-1]] += count
            self.kinds[gram[:-1]] += 1
        by_count = Counter(counts.values())
        once = by_count[1]
        self.discount = once / (once + 2 * by_count[2]) if once else 0.5


class Text:
    """A text to learn, one to choose by, one held out, and their tokens."""

    def __init__(self, config: Config):
        everything, self.test = data.load_text(config.data)
        cut = round(VALIDATION * len(everything))
        self.train = everything[:-cut] if cut else ""
        self.validation = everything[len(self.train) :]
        self.tokens = learn_byte_pairs(self.train, config.merges)
        self.train_ids = self.tokens.encode(self.train)
        self.validation_ids = self.tokens.encode(self.validation)
        self.test_ids = self.tokens.encode(self.test)
        shortest = min(map(len, (self.train_ids, self.validation_ids, self.test_ids)))
        if shortest < PROMPT + LENGTH:
            raise UsageError(
                f"--data {config.data}: the text is too short: a part of it has "
                f"{shortest:,} tokens, {PROMPT + LENGTH} are needed"
            )
        if shortest <= config.context:
            raise UsageError(
                f"--context {config.context} must be less than the {shortest:,} tokens of "
                "the shortest part of the text"
            )


def build_lstm(vocabulary: int, units: int, dropout: float) -> keras.Model:
    """The rival on the same tokens. Inputs and outputs as of `build_model`."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(vocabulary, units)(ids)
    x = layers.LSTM(units, return_sequences=True)(x)
    x = layers.LayerNormalization()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(ids, layers.Dense(vocabulary, dtype="float32")(x), name="lstm")


def units_of_equal_cost(per_token: float, vocabulary: int) -> int:
    """Of an LSTM with so many multiply-adds per token: 8·units² + vocabulary·units."""
    root = math.sqrt(vocabulary**2 + 32 * per_token)
    return max(1, round((root - vocabulary) / 16))


def build_networks(config: Config, vocabulary: int) -> dict[str, keras.Model]:
    """Of equal cost for each token."""
    size = {
        "vocabulary": vocabulary,
        "width": config.width,
        "heads": config.heads,
        "depth": config.depth,
        "context": config.context,
        "dropout": config.dropout,
    }
    gpt = build_model(**size)
    window = tf.TensorSpec((1, config.context), tf.int32)
    per_token = architectures.multiply_adds_of_call(gpt, window) / config.context
    units = units_of_equal_cost(per_token, vocabulary)
    networks = {
        "GPT": gpt,
        "LSTM": build_lstm(vocabulary, units, config.lstm_dropout),
        "without positions": build_model(**size, rotary=False),
    }
    return dict(list(networks.items())[: config.networks])


def train(name: str, model: keras.Model, text: Text, config: Config, run: Run):
    """Bits per character of the validation text after each epoch."""
    model.name = as_metric(name)
    count = len(text.train_ids) // config.context
    windows = draw_windows(text.train_ids, count, config.context, run.seed)
    rate = config.lstm_learning_rate if name == "LSTM" else config.learning_rate
    steps = config.epochs * math.ceil(count / config.batch_size)
    compile_model(model, rate, steps)
    history = training.fit(
        model,
        *windows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        validation_data=in_windows(text.validation_ids, config.context),
        callbacks=run.callbacks,
    ).history
    tokens_per_character = len(text.validation_ids) / len(text.validation)
    return np.array(history["val_loss"]) * tokens_per_character / math.log(2)


def in_windows(ids: np.ndarray, context: int):
    """A text cut into windows, (inputs, targets); what is left over is dropped."""
    count = (len(ids) - 1) // context
    used = count * context
    return ids[:used].reshape(-1, context), ids[1 : used + 1].reshape(-1, context)


@dataclass
class Costs:
    """Multiply-adds of one more token, by the tokens that it stands behind."""

    lengths: np.ndarray
    cached: np.ndarray
    anew: np.ndarray
    """reading the whole text again"""


def count_costs(reader: keras.Model) -> Costs:
    lengths = 4 ** np.arange(1, 5)  # 4, 16, 64, 256
    return Costs(
        lengths=lengths,
        cached=np.array([cost_of(reader, 1, past=n - 1) for n in lengths]),
        anew=np.array([cost_of(reader, n, past=0) for n in lengths]),
    )


def cost_of(reader: keras.Model, new: int, past: int) -> int:
    """Multiply-adds of reading so many new tokens after those of the past."""
    cache = reader.input["past"]
    _, depth, two, heads, _, size = cache.shape
    shape = (1, depth, two, heads, int(past), size)
    return architectures.multiply_adds_of_call(
        reader,
        {
            "ids": tf.TensorSpec((1, int(new)), tf.int32),
            "past": tf.TensorSpec(shape, cache.dtype),
        },
    )


def judge_cache(reader: keras.Model, costs: Costs, text: Text, run: Run) -> None:
    """By counts, which do not depend on the machine; seconds are told."""
    prompts = tf.constant(text.test_ids[np.newaxis, :PROMPT])
    rule = Rule(top_k=1).tensors()
    length = int(costs.lengths[-1])
    written = {}
    for name, cached in {"cached": True, "anew": False}.items():
        generate(reader, prompts, length, rule, cached)  # compiles
        started = time.perf_counter()
        written[name] = generate(reader, prompts, length, rule, cached).numpy()
        seconds = time.perf_counter() - started
        run.metric(f"tokens_a_second_{name}", length / seconds, timing=True)

    spared = costs.anew[-1] / costs.cached[-1]
    growth = costs.cached[-1] / costs.cached[0]
    same = np.mean(written["cached"] == written["anew"])
    run.metric("cache_spares_times", spared, unit=f"multiply-adds of token {length}")
    run.metric("same_text_with_cache", same, unit="of tokens; rounding may turn a tie")
    run.claim(
        f"With the cache, token {length} costs less than 2.5 times as much as token "
        f"{costs.lengths[0]}, and {length // 2} times less than to read all again",
        holds=growth < 2.5 and spared > length / 2,
        measured=f"multiply-adds: {costs.cached[-1]:,} for token {length}, {growth:.2f} "
        f"times as many as for token {costs.lengths[0]}, {spared:.0f} times less than "
        f"{costs.anew[-1]:,}",
        any_data=True,
    )


@dataclass
class Written:
    """Texts by one rule, or held-out text."""

    first: str
    repeated: float
    """share of 4-grams of tokens that stood in the same text before"""
    invented: float
    """share of words that the training text does not have"""


def look_at(ids: np.ndarray, text: Text) -> Written:
    """ids: (texts, tokens)."""
    texts = [text.tokens.decode(row) for row in ids]
    known = set(re.findall(r"\w{3,}", text.train))
    # Words at the ends may be cut.
    words = [word for each in texts for word in re.findall(r"\w{3,}", each)[1:-1]]
    return Written(
        first=texts[0],
        repeated=float(np.mean([share_repeated(row) for row in ids])),
        invented=float(np.mean([word not in known for word in words] or [0.0])),
    )


def share_repeated(ids: np.ndarray, length: int = 4) -> float:
    """Of all n-grams of a text, those that stood in it before."""
    grams = [tuple(ids[end - length : end]) for end in range(length, len(ids) + 1)]
    return 1 - len(set(grams)) / len(grams)


def write_by_rules(reader: keras.Model, text: Text, run: Run) -> dict[str, Written]:
    """All rules go on from the same places of the held-out text, beside what stands
    there."""
    starts = np.linspace(0, len(text.test_ids) - PROMPT - LENGTH, TEXTS).astype(int)
    real = text.test_ids[starts[:, np.newaxis] + np.arange(PROMPT + LENGTH)]
    prompts = tf.constant(real[:, :PROMPT])
    found = {}
    for name in run.track(list(RULES), "writing", "rules"):
        ids = generate(reader, prompts, LENGTH, RULES[name].tensors())
        found[name] = look_at(ids.numpy(), text)
    return {**found, "held-out text": look_at(real[:, PROMPT:], text)}


def judge_networks(
    networks: dict[str, keras.Model],
    n_grams: KneserNey,
    text: Text,
    config: Config,
    run: Run,
) -> dict[str, float]:
    """Bits per character of the held-out text."""
    bits = {}
    for name, model in networks.items():
        nats = nats_in_windows(model, text.test_ids, config.context)
        bits[name] = bits_per_character(nats, len(text.test))
    bits["n-grams"] = n_grams.bits_per_character(text.test)
    run.metric("bits_per_character", bits["GPT"])
    rivals = {name: value for name, value in bits.items() if name != "GPT"}
    run.metrics("bits_per_character", rivals)
    run.metric(
        "characters_a_token",
        len(text.test) / len(text.test_ids),
        unit="of the held-out text",
    )
    return bits


def judge_bits(bits: dict[str, float], config: Config, run: Run) -> None:
    if config.epochs <= FEW_EPOCHS and "LSTM" in bits:
        run.claim(
            "Trained so briefly on so little text, GPT and LSTM stay behind n-grams, which "
            "take seconds to count (bits per character)",
            holds=min(bits["GPT"], bits["LSTM"]) > bits["n-grams"] + 0.05,
            measured=", ".join(f"{name} {value:.3f}" for name, value in bits.items()),
        )
    if "without positions" in bits:
        run.compare(
            "Attention that does not know how far apart tokens stand predicts worse (bits "
            "per character)",
            {name: bits[name] for name in ("GPT", "without positions")},
            more="without positions",
            less="GPT",
            by=0.03,
        )


def judge_rules(by_rule: dict[str, Written], run: Run) -> None:
    repeated = {name: each.repeated for name, each in by_rule.items()}
    invented = {name: each.invented for name, each in by_rule.items()}
    run.metrics("repeated", repeated, unit="of 4-grams of tokens")
    run.metrics("invented", invented, unit="of words")
    run.compare(
        "To take the likeliest token each time goes in circles: far more 4-grams have "
        "stood in the same text before than of held-out text",
        {name: repeated[name] for name in ("the likeliest", "held-out text")},
        more="the likeliest",
        less="held-out text",
        by=0.2,
    )
    drawn = {name: repeated[name] for name in RULES if name != "the likeliest"}
    run.claim(
        "Drawn tokens do not: by no rule of the others is half as much repeated",
        at_most=repeated["the likeliest"] / 2,
        measured=drawn,
    )
    run.claim(
        "Nonsense is in the tail: without it, by top-k or nucleus, fewer words are "
        "invented than by drawing from all tokens, yet more than held-out text has",
        holds=max(invented[name] for name in CUT) < invented["temperature 1"] - 0.02
        and min(invented[name] for name in CUT) > invented["held-out text"],
        measured=", ".join(f"{name} {value:.3f}" for name, value in invented.items()),
    )


def draw_learning(curves: dict[str, np.ndarray], n_grams: float) -> plt.Figure:
    """n_grams: their bits per character of the validation text."""
    epochs = len(curves["GPT"])
    return figures.panels(
        figures.Panel(
            title="Networks of equal cost for each token, on validation text in windows",
            xlabel="epoch",
            ylabel="bits per character",
            lines=curves,
            levels={"n-grams": n_grams},
            xticks=range(1, epochs + 1) if epochs <= 12 else None,
        )
    )


def draw_costs(costs: Costs) -> plt.Figure:
    return figures.panels(
        figures.Panel(
            title="What one more token costs",
            xlabel="tokens of the text",
            ylabel="multiply-adds",
            lines={
                "reading all again": (costs.lengths, costs.anew),
                "with the cache": (costs.lengths, costs.cached),
            },
            xscale="log",
            yscale="log",
            xticks=costs.lengths,
        )
    )


def draw_rules(by_rule: dict[str, Written]) -> plt.Figure:
    return figures.panels(
        figures.Panel(
            title="Texts by the rule that draws their tokens",
            xlabel="share of 4-grams that stood in the text before",
            ylabel="share of invented words",
            points={
                name: ([each.repeated], [each.invented])
                for name, each in by_rule.items()
            },
        )
    )


def check_width(config: Config) -> None:
    if config.width % (2 * config.heads):
        raise UsageError(
            f"--width {config.width} must be a multiple of {2 * config.heads}, twice the "
            f"--heads {config.heads}"
        )


def main(config: Config, run: Run) -> None:
    check_width(config)
    text = Text(config)
    networks = build_networks(config, len(text.tokens))
    run.plan(len(networks))
    curves = {
        name: train(name, model, text, config, run) for name, model in networks.items()
    }
    n_grams = KneserNey(text.train, config.rival_order)
    bits = judge_networks(networks, n_grams, text, config, run)
    judge_bits(bits, config, run)

    reader = build_reader(networks["GPT"])
    costs = count_costs(reader)
    judge_cache(reader, costs, text, run)
    by_rule = write_by_rules(reader, text, run)
    judge_rules(by_rule, run)

    of_n_grams = n_grams.bits_per_character(text.validation)
    run.figure("learning", draw_learning(curves, of_n_grams))
    run.figure("costs", draw_costs(costs))
    run.figure("rules", draw_rules(by_rule))
    for name, each in by_rule.items():
        run.print(f"\n{name}: {each.first}")

    writer = Writer(reader, text.tokens, EXPORTED)
    prompt = keras.Input((), dtype="string", name="prompt")
    exported = keras.Model(prompt, {"continuation": writer(prompt)}, name="gpt")
    run.export(exported, example=np.array([config.prompt], object))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
