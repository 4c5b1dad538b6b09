"""Attention in place of recurrence: dates of many languages in ISO 8601.

A recurrent network reads one character after the other. Here every character looks at
all others at once: its query is compared with the key of each, and the softmax of the
scores weighs their values,

    attention(Q, K, V) = softmax(Q Kᵀ / √d) V.

Several heads do so side by side. Attention knows no order, so each place gets a code of
its own, sines and cosines of many wavelengths. The encoder looks both ways. The decoder
looks at what is written so far (a causal mask hides the rest, so that training is one
pass over all steps) and at the source. When it writes, one character after the other,
it keeps the keys and values of those before (the cache).
Look at what is left without the codes, at where the heads look, and at a recurrent
network of as many parameters on the same pairs: with some thousands of them it learns
sooner. What the transformer saves are steps that wait for one another: a few layers,
however long the text, where recurrence has one for each character. Decoder-only: see
`gpt`.

Lectures: INFO Attention models, Neural machine translation; CS Sequence to sequence
Paper: Vaswani et al., Attention is all you need, 2017 (equation 1, section 3.5); Xiong
    et al., On layer normalization in the transformer architecture, 2020 (norm first)
Tags: self-attention, multi-head attention, positional encoding, causal mask,
    encoder-decoder, kv cache, machine translation, nlp
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import architectures, as_metric, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "dates"
    """dates (embedded: 38 languages to ISO 8601), number_words (embedded: English to
    French), or your own pairs: a .csv file with two columns, or a .tsv or .txt file of
    lines: text, tab, what it becomes"""
    heads: Annotated[int, Interval(ge=1)] = 4
    """attentions side by side"""
    head_size: Annotated[int, Interval(ge=1)] = 12
    """numbers in a query, a key and a value of one head; all heads together are as wide
    as the network"""
    depth: Annotated[int, Interval(ge=1)] = 1
    """blocks of the encoder, and of the decoder"""
    epochs: Annotated[int, Interval(ge=1)] = 8
    """passes over the training pairs"""
    batch_size: Annotated[int, Interval(ge=1)] = 32
    """pairs a gradient is averaged over"""
    learning_rate: float = 6e-3
    """of Adam: rises to this in the first tenth of the steps, then falls along a
    cosine"""
    rival_learning_rate: float = 1e-2
    """of the recurrent network"""
    longest: Annotated[int, Interval(ge=4)] = 24
    """characters of a source or target at most; longer pairs are left out"""
    networks: Annotated[int, Interval(ge=3, le=4)] = 3
    """how many to train: 3, or 4 with one of a single wide head"""


QUICK = Config(epochs=5, longest=16)
FULL = Config(
    head_size=16,
    depth=2,
    epochs=30,
    learning_rate=3e-3,
    rival_learning_rate=6e-3,
    longest=80,
    networks=4,
)

START = "\x02"  # a text begins; what the decoder is given first
END = "\x03"  # the text is at its end
PADDING_ID = 0  # stands after the end
UNKNOWN_ID = 1  # a character that training has not seen
START_ID = 2
END_ID = 3
HIDDEN = -3e4  # the score of what is not to be seen: e to its power is 0


# --------------------------------------------------------------------------------------
# The idea: attention, several heads of it, codes of the places, a decoder with a cache
# --------------------------------------------------------------------------------------


def attend(queries, keys, values, is_seen):
    """softmax(Q Kᵀ / √d) V.

    queries: (..., targets, d). keys, values: (..., sources, d). is_seen: which sources
    a target may look at, broadcast to (..., targets, sources).

    Returns what each target sees (..., targets, d), and the weights that made it (...,
    targets, sources).
    """
    # Products of d numbers each: without the root they grow with d, and softmax is 0/1.
    scores = ops.matmul(queries, ops.swapaxes(keys, -1, -2))
    scores = scores / math.sqrt(queries.shape[-1])
    weights = ops.softmax(ops.where(is_seen, scores, HIDDEN))
    return ops.matmul(weights, values), weights


class MultiHeadAttention(layers.Layer):
    """Attentions side by side, each on small projections of its own."""

    def __init__(self, heads: int, head_size: int):
        super().__init__()
        self.heads = heads
        self.head_size = head_size
        self.query = layers.Dense(heads * head_size)
        self.key = layers.Dense(heads * head_size)
        self.value = layers.Dense(heads * head_size)
        self.join = layers.Dense(heads * head_size)

    def call(self, x, memory, is_seen):
        """x: (batch, targets, width). memory: what to look at, (batch, sources, width).
        is_seen: broadcast to (batch, heads, targets, sources).

        Returns (batch, targets, width), and the weights (batch, heads, targets,
        sources).
        """
        return self.look(x, *self.remember(memory), is_seen)

    def remember(self, memory):
        """The keys and the values, (batch, heads, sources, head_size) each."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def look(self, x, keys, values, is_seen):
        seen, weights = attend(self.split(self.query(x)), keys, values, is_seen)
        seen = ops.swapaxes(seen, 1, 2)
        shape = (-1, ops.shape(x)[1], self.heads * self.head_size)
        return self.join(ops.reshape(seen, shape)), weights

    def split(self, x):
        """(batch, time, width) to (batch, heads, time, head_size)."""
        shape = (-1, ops.shape(x)[1], self.heads, self.head_size)
        return ops.swapaxes(ops.reshape(x, shape), 1, 2)


def sinusoids(places, width: int):
    """The code of each place, (places, width): sines, then cosines of wavelengths from
    2π up to almost 10,000 · 2π.

    places: (places,), counted from 0.
    """
    count = (width + 1) // 2
    wavelengths = 10_000 ** (np.arange(count) / count)
    angles = ops.cast(places, "float32")[:, np.newaxis] / wavelengths.astype("float32")
    codes = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    return codes[:, :width]


def feed_forward(width: int) -> keras.Model:
    """Two layers that each place goes through by itself."""
    return keras.Sequential([layers.Dense(2 * width, "relu"), layers.Dense(width)])


class EncoderBlock(layers.Layer):
    """All places look at each other; then each goes through two layers."""

    def __init__(self, heads: int, head_size: int):
        super().__init__()
        self.attention = MultiHeadAttention(heads, head_size)
        self.feed = feed_forward(heads * head_size)
        self.norm_attention = layers.LayerNormalization()
        self.norm_feed = layers.LayerNormalization()

    def call(self, x, is_text):
        """x: (batch, time, width). is_text: (batch, 1, 1, time)."""
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, is_text)[0]
        return x + self.feed(self.norm_feed(x))


class DecoderBlock(layers.Layer):
    """A place looks at itself and those before, then at the source; then it goes
    through two layers."""

    def __init__(self, heads: int, head_size: int):
        super().__init__()
        self.past = MultiHeadAttention(heads, head_size)
        self.source = MultiHeadAttention(heads, head_size)
        self.feed = feed_forward(heads * head_size)
        self.norm_past = layers.LayerNormalization()
        self.norm_source = layers.LayerNormalization()
        self.norm_feed = layers.LayerNormalization()

    def call(self, x, memory, is_past, is_text):
        """All steps at once. x: (batch, targets, width). memory: (batch, sources,
        width). is_past: (targets, targets). is_text: (batch, 1, 1, sources).

        Returns x after the block, and the weights on the source (batch, heads, targets,
        sources).
        """
        normed = self.norm_past(x)
        x = x + self.past(normed, normed, is_past)[0]
        seen, weights = self.source(self.norm_source(x), memory, is_text)
        x = x + seen
        return x + self.feed(self.norm_feed(x)), weights

    def step(self, x, place, cache, memory, is_text):
        """One step. x: (batch, 1, width), of the character at `place`. cache: the keys
        and values of the places so far, (batch, heads, targets, head_size) each.
        memory: the keys and values of the source.

        Returns x after the block, the cache with this place in it, and the weights on
        the source (batch, heads, 1, sources).
        """
        normed = self.norm_past(x)
        places = tf.range(tf.shape(cache[0])[2])
        is_here = (places == place)[:, tf.newaxis]
        new_key, new_value = self.past.remember(normed)
        keys = tf.where(is_here, new_key, cache[0])
        values = tf.where(is_here, new_value, cache[1])
        x = x + self.past.look(normed, keys, values, places <= place)[0]

        seen, weights = self.source.look(self.norm_source(x), *memory, is_text)
        x = x + seen
        return x + self.feed(self.norm_feed(x)), (keys, values), weights


class Transformer(layers.Layer):
    """An encoder and a decoder, normalized before each part."""

    def __init__(
        self,
        source_characters: int,
        target_characters: int,
        heads: int,
        head_size: int,
        depth: int,
        has_positions: bool = True,
    ):
        super().__init__()
        self.width = heads * head_size
        self.has_positions = has_positions
        # At the scale of the codes: Keras's own start, up to 0.05, would drown in them.
        scale = keras.initializers.RandomNormal(stddev=1)
        self.embed_source = layers.Embedding(source_characters, self.width, scale)
        self.embed_target = layers.Embedding(target_characters, self.width, scale)
        self.encoder = [EncoderBlock(heads, head_size) for _ in range(depth)]
        self.decoder = [DecoderBlock(heads, head_size) for _ in range(depth)]
        self.norm_read = layers.LayerNormalization()
        self.norm_written = layers.LayerNormalization()
        self.logits = layers.Dense(target_characters, dtype="float32")

    def call(self, source, before):
        """source: ids (batch, sources), PADDING_ID after the end. before: ids of the
        characters before each step (batch, targets).

        Returns the `logits` of the characters (batch, targets, characters), and the
        `weights` on the source of all heads, block by block (batch, heads, targets,
        sources).
        """
        return self.write(before, self.read(source), is_text_of(source))

    def read(self, source):
        """The encoder. Returns (batch, sources, width)."""
        is_text = is_text_of(source)
        x = self.with_places(self.embed_source(source), tf.range(tf.shape(source)[1]))
        for block in self.encoder:
            x = block(x, is_text)
        return self.norm_read(x)

    def write(self, before, memory, is_text):
        """The decoder, all steps at once. Returns what `call` does."""
        places = tf.range(tf.shape(before)[1])
        is_past = places <= places[:, tf.newaxis]
        x = self.with_places(self.embed_target(before), places)
        all_weights = []
        for block in self.decoder:
            x, weights = block(x, memory, is_past, is_text)
            all_weights.append(weights)
        logits = self.logits(self.norm_written(x))
        return {"logits": logits, "weights": ops.concatenate(all_weights, axis=1)}

    def with_places(self, x, places):
        """x: (batch, time, width). places: (time,)."""
        if not self.has_positions:
            return x
        return x + ops.cast(sinusoids(places, self.width), x.dtype)

    def step(self, before, place, caches, memories, is_text):
        """One step, the same as `write` gives it. before: ids (batch, 1) of the one
        character before it. caches, memories: keys and values for each block, of the
        text so far and of the source.

        Returns logits (batch, characters), the caches with this place in them, and the
        weights (batch, heads, sources).
        """
        x = self.with_places(self.embed_target(before), place[tf.newaxis])
        after = []
        all_weights = []
        for block, cache, memory in zip(self.decoder, caches, memories, strict=True):
            x, cache, weights = block.step(x, place, cache, memory, is_text)
            after.append(cache)
            all_weights.append(weights[:, :, 0])
        logits = self.logits(self.norm_written(x))[:, 0]
        return logits, after, tf.concat(all_weights, axis=1)

    def memories(self, source):
        """The keys and values of the source for each block: they stay the same."""
        memory = self.read(source)
        return [block.source.remember(memory) for block in self.decoder]

    def empty_caches(self, memories, length: int):
        """Room for the keys and values of `length` characters."""
        caches = []
        for keys, _ in memories:
            shape = (tf.shape(keys)[0], keys.shape[1], length, keys.shape[3])
            caches.append((tf.zeros(shape, keys.dtype), tf.zeros(shape, keys.dtype)))
        return caches


def is_text_of(source):
    """Where a source is text and no padding, (batch, 1, 1, sources)."""
    return ops.not_equal(source, PADDING_ID)[:, np.newaxis, np.newaxis]


def greedy(network: Transformer, source, length: int):
    """The likeliest character at each step: ids (batch, length), PADDING_ID after the
    end, and the weights on the source (batch, heads, length, sources)."""
    is_text = is_text_of(source)
    memories = network.memories(source)
    caches = network.empty_caches(memories, length)
    before = tf.fill((tf.shape(source)[0], 1), START_ID)
    has_ended = tf.fill(tf.shape(before), False)
    written = tf.TensorArray(tf.int32, length)
    looked_at = tf.TensorArray(memories[0][0].dtype, length)

    for place in tf.range(length):
        logits, caches, weights = network.step(before, place, caches, memories, is_text)
        likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)[:, tf.newaxis]
        before = tf.where(has_ended, PADDING_ID, likeliest)
        has_ended |= before == END_ID
        written = written.write(place, before[:, 0])
        looked_at = looked_at.write(place, weights)

    return tf.transpose(written.stack()), tf.transpose(looked_at.stack(), (1, 2, 0, 3))


def with_teacher(network: layers.Layer) -> keras.Model:
    """Inputs: `source` and `before`, the target moved by one step behind a START. Output:
    the logits of the target, all steps in one pass."""
    source = keras.Input((None,), dtype="int32", name="source")
    before = keras.Input((None,), dtype="int32", name="before")
    logits = network(source, before)["logits"]
    return keras.Model({"source": source, "before": before}, logits)


def exact_match(ids, logits):
    """Whether all characters of a target are the likeliest ones, (batch,).

    Greedy decoding then writes the same text: each time it is given what the teacher
    would have given.
    """
    right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(ids, "int64"))
    return ops.all(ops.logical_or(right, ops.equal(ids, PADDING_ID)), axis=-1)


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    warmup = max(steps // 10, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(steps - warmup, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=PADDING_ID
        ),
        metrics=[exact_match],
    )


def build_lookup(texts: list[str]) -> layers.StringLookup:
    """The number of each character: 0 padding, 1 unknown, then START, END and those of
    the texts."""
    characters = sorted(set("".join(texts)) - {START, END})
    return layers.StringLookup(vocabulary=[START, END, *characters], mask_token="")


def encode(texts, lookup: layers.StringLookup):
    """Strings (batch,) to ids (batch, characters of the longest)."""
    return lookup(tf.strings.unicode_split(texts, "UTF-8").to_tensor(""))


def decode(ids, vocabulary: list[str]):
    """Ids (batch, length) to strings (batch,), without START, END and padding.

    vocabulary: of the lookup that made the ids.
    """
    characters = ["" if number <= END_ID else c for number, c in enumerate(vocabulary)]
    return tf.strings.reduce_join(tf.gather(tf.constant(characters), ids), axis=-1)


class Translator(layers.Layer):
    """Strings (batch,) to strings (batch,), by greedy decoding."""

    def __init__(self, network, source_lookup, target_lookup, length: int):
        super().__init__()
        self.network = network
        self.source_lookup = source_lookup
        self.target_vocabulary = target_lookup.get_vocabulary()
        self.write = tf.function(partial(greedy, network, length=length))

    def call(self, texts):
        source = encode(texts, self.source_lookup)
        ids, _ = self.write(source)
        return decode(ids, self.target_vocabulary)

    def compute_output_spec(self, texts):
        return keras.KerasTensor(texts.shape, dtype="string")


# --------------------------------------------------------------------------------------
# The experiment: beside recurrence, without codes, with one head, with and without cache
# --------------------------------------------------------------------------------------

NETWORKS = ("transformer", "recurrent", "without positions", "one head")
LENGTHS = 4  # groups of as many pairs each, from short sources to long ones
AT_ONCE = 500  # texts that are written side by side
WRITTEN = (4, 16, 64, 256)  # characters that stand there when the next is counted
HEADS_SHOWN = 4
LOOKED_AT = 300  # texts of a part in which the heads are looked at


@dataclass
class Part:
    """Pairs, and their ids."""

    pairs: data.Pairs
    source: np.ndarray
    """(pairs, characters of the longest)"""
    before: np.ndarray
    """the target one step later, behind START"""
    target: np.ndarray
    """(pairs, characters of the longest), with END"""

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return {"source": self.source, "before": self.before}


class Task:
    """The parts of a data set, and the numbers of their characters."""

    def __init__(self, config: Config):
        pairs = data.load_pairs(config.data, longest=config.longest)
        self.source_lookup = build_lookup(pairs["train"].sources)
        self.target_lookup = build_lookup(pairs["train"].targets)
        self.parts = {part: self.in_ids(each) for part, each in pairs.items()}
        self.length = max(part.target.shape[1] for part in self.parts.values())

    def in_ids(self, pairs: data.Pairs) -> Part:
        ended = [target + END for target in pairs.targets]
        source = encode(pairs.sources, self.source_lookup).numpy().astype("int32")
        target = encode(ended, self.target_lookup).numpy().astype("int32")
        first = np.full((len(target), 1), START_ID, "int32")
        before = np.concatenate([first, target[:, :-1]], axis=1)
        return Part(pairs, source, before, target)

    @property
    def characters(self) -> tuple[int, int]:
        """How many there are, of the sources and of the targets."""
        return (
            self.source_lookup.vocabulary_size(),
            self.target_lookup.vocabulary_size(),
        )


def build_recurrent(
    source_characters: int, target_characters: int, units: int
) -> keras.Model:
    """The network of the recipe `seq2seq`, out of Keras's layers. Inputs and output of
    `with_teacher`."""
    source = keras.Input((None,), dtype="int32", name="source")
    before = keras.Input((None,), dtype="int32", name="before")
    is_text = ops.not_equal(source, PADDING_ID)

    x = layers.Embedding(source_characters, units)(source)
    read = layers.GRU(units, return_sequences=True, return_state=True)
    values, forward, backward = layers.Bidirectional(read)(x, mask=is_text)
    last = layers.Concatenate()([forward, backward])
    state = layers.Dense(units, activation="tanh")(last)

    x = layers.Embedding(target_characters, units)(before)
    written = layers.GRU(units, return_sequences=True)(x, initial_state=state)
    query = layers.Dense(units, use_bias=False)(written)
    key = layers.Dense(units, use_bias=False)(values)
    context = layers.AdditiveAttention()([query, values, key], mask=[None, is_text])
    seen = layers.Concatenate()([written, context])
    x = layers.Dense(units, activation="tanh")(seen)
    logits = layers.Dense(target_characters, dtype="float32")(x)
    return keras.Model({"source": source, "before": before}, logits)


def as_large(parameters: int, task: Task) -> keras.Model:
    """A recurrent network of about as many parameters."""
    units = 64
    for _ in range(2):
        # They grow a little slower than the square of the units.
        model = build_recurrent(*task.characters, units)
        units = round(units * math.sqrt(parameters / model.count_params()))
    return build_recurrent(*task.characters, units)


@dataclass
class Network:
    layer: Transformer | None
    """None: the recurrent one"""
    model: keras.Model
    """gives logits under teacher forcing"""
    history: dict[str, list[float]]


def train(name: str, task: Task, config: Config, run: Run) -> Network:
    heads = 1 if name == "one head" else config.heads
    layer = Transformer(
        *task.characters,
        heads=heads,
        head_size=config.heads * config.head_size // heads,
        depth=config.depth,
        has_positions=name != "without positions",
    )
    model = with_teacher(layer)
    learning_rate = config.learning_rate
    if name == "recurrent":
        layer = None
        model = as_large(model.count_params(), task)
        learning_rate = config.rival_learning_rate
    model.name = as_metric(name)

    part = task.parts["train"]
    steps = config.epochs * math.ceil(len(part.target) / config.batch_size)
    compile_model(model, learning_rate, steps)
    test = task.parts["test"]
    history = training.fit(
        model,
        part.inputs,
        part.target,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation_data=(test.inputs, test.target),
        callbacks=run.callbacks,
    )
    return Network(layer, model, history.history)


def by_parts(call, source: np.ndarray) -> list[np.ndarray]:
    """What `call`, compiled, answers to sources (texts, ...), AT_ONCE texts at a
    time."""
    compiled = tf.function(call, reduce_retracing=True)
    parts = np.split(source, range(AT_ONCE, len(source), AT_ONCE))
    answers = [compiled(tf.constant(part)) for part in parts]
    return [np.concatenate(each) for each in zip(*answers, strict=True)]


def said_by(network: Network, part: Part) -> np.ndarray:
    """The likeliest characters under teacher forcing, ids (texts, length)."""
    answers = []
    for start in range(0, len(part.source), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        inputs = {"source": part.source[rows], "before": part.before[rows]}
        logits = network.model(inputs)
        answers.append(np.argmax(logits, axis=-1))
    return np.concatenate(answers)


def are_right(ids: np.ndarray, part: Part) -> np.ndarray:
    """Which texts are the targets, (texts,). ids: (texts, length)."""
    return ((ids == part.target) | (part.target == PADDING_ID)).all(axis=1)


def by_length(part: Part, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean length of the source, and share of the texts that are right, in LENGTHS
    groups from short to long, both (groups,)."""
    lengths = np.count_nonzero(part.source, axis=1)
    groups = np.array_split(np.argsort(lengths, kind="stable"), LENGTHS)
    return (
        np.array([lengths[group].mean() for group in groups]),
        np.array([is_right[group].mean() for group in groups]),
    )


def draw_lengths(part: Part, right: dict[str, np.ndarray]) -> Figure:
    return figures.panels(
        figures.Panel(
            title="Held-out texts without a fault, by length",
            xlabel="characters of the source, mean of a quarter of the texts",
            ylabel="exact match",
            lines={name: by_length(part, is_right) for name, is_right in right.items()},
            ylim=(-0.02, 1.02),
        )
    )


def compare_with_recurrence(
    networks: dict[str, Network], task: Task, config: Config, run: Run
) -> None:
    """Exact match as they learn and on the part of another kind, and what each costs."""
    rivals = ("transformer", "recurrent")
    while_learning = {
        name: np.mean(networks[name].history["val_exact_match"]) for name in rivals
    }
    run.metrics("mean_exact_match_while_learning", while_learning)
    run.compare(
        "On so few pairs recurrence learns sooner: a network of GRUs with attention, of "
        "about as many parameters, writes more texts without a fault on its way (exact "
        "match after each pass, mean of all passes)",
        while_learning,
        more="recurrent",
        less="transformer",
        by=0.03,
    )
    for part, pairs in task.parts.items():
        if part not in ("train", "test"):
            exact = {
                name: are_right(said_by(networks[name], pairs), pairs).mean()
                for name in rivals
            }
            run.metrics(f"exact_match_in_{as_metric(part)}", exact)
    parameters = {name: networks[name].model.count_params() for name in rivals}
    run.metrics("parameters", parameters)
    # Each waits for the one before. The two directions of reading run side by side.
    train_part = task.parts["train"]
    in_a_row = {
        "transformer": 5 * config.depth,
        "recurrent": train_part.source.shape[1] + train_part.target.shape[1],
    }
    run.metrics("steps_in_a_row", in_a_row, unit="layers or characters, in training")


def judge_positions(exact: dict[str, float], run: Run) -> None:
    run.compare(
        "Attention knows no order: without the codes of the places far fewer texts are "
        "written without a fault (exact match)",
        exact,
        more="transformer",
        less="without positions",
        by=0.3,
    )


def some_weights(network: Network, part: Part) -> np.ndarray:
    """Of all heads on the source, under teacher forcing, for the first texts of a part:
    (texts, heads, targets, sources)."""
    answer = network.layer(
        tf.constant(part.source[:LOOKED_AT]), tf.constant(part.before[:LOOKED_AT])
    )
    return answer["weights"].numpy()


def same_characters(part: Part, task: Task) -> np.ndarray:
    """Where a character of the target is that of the source, for the first texts of a
    part: (texts, targets, sources)."""
    source = np.array(task.source_lookup.get_vocabulary())[part.source[:LOOKED_AT]]
    target_ids = part.target[:LOOKED_AT]
    target = np.array(task.target_lookup.get_vocabulary())[target_ids]
    is_character = target_ids > END_ID
    is_same = target[:, :, np.newaxis] == source[:, np.newaxis]
    return is_same & is_character[:, :, np.newaxis]


def pointing(weights: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    """How often the character that a head weighs most is the one to be written, of the
    steps whose character stands in the source, (heads,); 0 where there are none."""
    most = weights.argmax(axis=-1)[..., np.newaxis]
    points = np.take_along_axis(is_same[:, np.newaxis], most, axis=-1)[..., 0]
    can_point = is_same.any(axis=-1)
    steps = max(np.count_nonzero(can_point), 1)
    return points.swapaxes(1, 2)[can_point].sum(axis=0) / steps


def judge_heads(network: Network, task: Task, run: Run) -> Figure:
    """Which head copies is found on training texts, and judged on the others."""
    train_part = task.parts["train"]
    test = task.parts["test"]
    chosen_by = pointing(
        some_weights(network, train_part), same_characters(train_part, task)
    )
    best = np.argsort(-chosen_by)[:HEADS_SHOWN]

    weights = some_weights(network, test)
    is_same = same_characters(test, task)
    # Weights that belong to another text: what a head's habits alone would find.
    of_another = np.roll(weights, 1, axis=0)
    points = {
        "a head": pointing(weights, is_same)[best[0]],
        "weights of another text": pointing(of_another, is_same)[best[0]],
    }
    run.metrics("points_at_what_is_written", points)
    if "new languages" in task.parts:  # a date's digits are copied, words are not
        run.compare(
            "A head has learned to point at what is copied: of the characters that stand "
            "in the source as well, it weighs that very one most (share of the steps)",
            points,
            more="a head",
            less="weights of another text",
            by=0.2,
        )
    return draw_heads(test, weights[0], best, task)


def draw_heads(part: Part, weights: np.ndarray, heads, task: Task) -> Figure:
    """Of the first text: a row for each character written, a column for each one of the
    source. weights: (heads, targets, sources)."""
    source = characters(part.source[0], task.source_lookup)
    written = characters(part.target[0], task.target_lookup)
    figure, grid = plt.subplots(2, 2, figsize=(13, 8))
    for axes, head in zip(grid.flat, heads, strict=False):
        drawn = axes.imshow(
            weights[head, : len(written), : len(source)],
            vmin=0,
            vmax=1,
            aspect="auto",
        )
        axes.set_xticks(range(len(source)), source)
        axes.set_yticks(range(len(written)), written)
        axes.grid(visible=False)
        axes.set(title=f"head {head + 1}", xlabel="source", ylabel="written")
    for axes in grid.flat[len(heads) :]:
        axes.set_visible(False)
    figure.colorbar(drawn, ax=grid, label="weight of the attention", shrink=0.8)
    figure.suptitle("Where the heads of the decoder look in the source")
    return figure


def characters(ids: np.ndarray, lookup: layers.StringLookup) -> list[str]:
    vocabulary = np.array(lookup.get_vocabulary())
    return list(vocabulary[ids[ids > END_ID]])


def greedy_anew(network: Transformer, source, length: int):
    """What `greedy` writes, without a cache: all steps again for each character. Ids
    (batch, length), as a tuple of one."""
    is_text = is_text_of(source)
    memory = network.read(source)
    places = tf.range(length + 1)
    texts = tf.shape(source)[0]
    ids = tf.where(places == 0, START_ID, tf.zeros((texts, 1), tf.int32))
    has_ended = tf.fill((texts,), False)
    for place in tf.range(length):
        logits = network.write(ids[:, :-1], memory, is_text)["logits"][:, place]
        likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
        likeliest = tf.where(has_ended, PADDING_ID, likeliest)
        has_ended |= likeliest == END_ID
        ids = tf.where(places == place + 1, likeliest[:, tf.newaxis], ids)
    return (ids[:, 1:],)


def costs_of_next(network: Transformer, source: np.ndarray) -> dict[str, list[int]]:
    """Multiply-adds of the decoder for the next character of one text, by how many are
    written, with the keys and values of those before kept and without."""
    source = tf.constant(source)
    is_text = is_text_of(source)
    memory = network.read(source)
    memories = network.memories(source)
    costs: dict[str, list[int]] = {"without cache": [], "with cache": []}
    for count in WRITTEN:
        before = tf.fill((1, count), START_ID)
        caches = network.empty_caches(memories, count)
        anew = architectures.multiply_adds_of_call(
            network.write, before, memory, is_text
        )
        one = architectures.multiply_adds_of_call(
            network.step, before[:, -1:], tf.constant(0), caches, memories, is_text
        )
        costs["without cache"].append(anew)
        costs["with cache"].append(one)
    return costs


def judge_cache(network: Transformer, ids: np.ndarray, part: Part, run: Run) -> Figure:
    """ids: what was written with the cache, (texts, length)."""
    anew = partial(greedy_anew, network, length=ids.shape[1])
    same = (by_parts(anew, part.source)[0] == ids).all(axis=1).mean()
    run.claim(
        "With the cache it writes the same texts as without (share of the texts)",
        at_least=0.99,
        measured={"same": same},
        any_data=True,
    )
    costs = costs_of_next(network, part.source[:1])
    last = {name: counts[-1] for name, counts in costs.items()}
    run.metrics("multiply_adds_of_next", last, unit=f"after {WRITTEN[-1]} characters")
    run.compare(
        f"After {WRITTEN[-1]} characters the next one costs a small part of the work "
        "where the keys and values of those before are kept (multiply-adds)",
        last,
        more="without cache",
        less="with cache",
        times=20,
        any_data=True,
    )
    thousands = {
        name: (WRITTEN, [count / 1000 for count in counts])
        for name, counts in costs.items()
    }
    return figures.panels(
        figures.Panel(
            title="The decoder's work for the next character",
            xlabel="characters written so far",
            ylabel="thousands of multiply-adds",
            lines=thousands,
            xscale="log",
            yscale="log",
            xticks=WRITTEN,
        )
    )


def draw_codes(width: int) -> Figure:
    """The codes of places, and how alike those of two places are."""
    codes = sinusoids(np.arange(64), width).numpy()
    alike = codes @ codes.T / np.square(codes[0]).sum()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    drawn = left.imshow(codes, aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
    left.set(title="Codes of places", xlabel="number of the code", ylabel="place")
    figure.colorbar(drawn, ax=left, label="sine or cosine")
    for place, dash in zip((8, 32), figures.DASHES, strict=False):
        right.plot(alike[place], dash, label=f"place {place}")
    right.set(title="How alike they are", xlabel="place", ylabel="cosine of the angle")
    right.legend()
    left.grid(visible=False)
    return figure


def show_some(part: Part, written: np.ndarray, task: Task, run: Run) -> None:
    """The first texts that are wrong, then the first ones."""
    texts = decode(written, task.target_lookup.get_vocabulary()).numpy()
    is_right = are_right(written[:, : part.target.shape[1]], part)
    for i in [*np.flatnonzero(~is_right)[:3], *np.flatnonzero(is_right)[:3]]:
        text = texts[i].decode()
        fault = "" if is_right[i] else f"  (wrong: it is {part.pairs.targets[i]})"
        run.print(f"{part.pairs.sources[i]} -> {text}{fault}")


def export(network: Transformer, task: Task, run: Run) -> None:
    text = keras.Input((), dtype="string", name="text")
    translator = Translator(
        network, task.source_lookup, task.target_lookup, task.length
    )
    exported = keras.Model(text, {"text": translator(text)}, name="translator")
    run.export(exported, example=np.array(task.parts["test"].pairs.sources[:2]))


def main(config: Config, run: Run) -> None:
    run.plan(config.networks)
    task = Task(config)
    names = NETWORKS[: config.networks]
    networks = {name: train(name, task, config, run) for name in names}
    curves = {
        name: network.history["val_exact_match"] for name, network in networks.items()
    }
    title = "Held-out texts without a fault"
    run.figure("learning", figures.curves(curves, title=title, ylabel="exact match"))

    test = task.parts["test"]
    right = {
        name: are_right(said_by(network, test), test)
        for name, network in networks.items()
    }
    exact = {name: is_right.mean() for name, is_right in right.items()}
    run.metrics("exact_match", exact)
    run.figure("lengths", draw_lengths(test, right))
    compare_with_recurrence(networks, task, config, run)

    judge_positions(exact, run)
    run.figure("positions", draw_codes(config.heads * config.head_size))
    network = networks["transformer"]
    run.figure("heads", judge_heads(network, task, run))

    written, _ = by_parts(
        partial(greedy, network.layer, length=task.length), test.source
    )
    run.figure("cost", judge_cache(network.layer, written, test, run))
    show_some(test, written, task, run)
    export(network.layer, task, run)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
