"""One network reads a text, another writes it anew: dates of many languages in ISO 8601.

An encoder turns the source into one vector per character, and a last state; a decoder
begins in that state and writes the target one character at a time, each given those
before it. In training it is given the right ones (teacher forcing), so that all steps
are one pass. With attention each step looks back at the source: its query q is compared
with the key k of each source character, e = v·tanh(W q + U k), and the softmax of e
weighs the keys: their sum is what the step sees of the source. Without, all steps see
the same mean. To write, take the likeliest character each time (greedy), or keep the
few likeliest beginnings (beam search).
Look at the alignments, at the accuracy by length, and at languages never trained on.

Lectures: CS Sequence to sequence; INFO Attention models, Neural machine translation;
    ICME Types of outputs
Paper: Sutskever et al., Sequence to sequence learning, 2014; Bahdanau et al., Neural
    machine translation by jointly learning to align and translate, 2015 (equation 6)
Tags: encoder-decoder, additive attention, teacher forcing, beam search, gru, machine
    translation, sequence to sequence
"""

import math
import string
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

from deep_learning_recipes import as_metric, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "dates"
    """dates (embedded: 38 languages to ISO 8601), number_words (embedded: English to
    French), or your own pairs: a .csv file with two columns, or a .tsv or .txt file of
    lines: text, tab, what it becomes"""
    units: int = 64
    """of each GRU, and of the attention"""
    epochs: int = 6
    """passes over the training pairs"""
    batch_size: int = 128
    """pairs a gradient is averaged over"""
    learning_rate: float = 6e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    beams: Annotated[int, Interval(ge=1, le=100)] = 4
    """beginnings that beam search keeps"""
    longest: Annotated[int, Interval(ge=4)] = 80
    """characters of a source or target at most; longer pairs are left out"""


QUICK = Config(units=48, epochs=3, batch_size=64, learning_rate=1e-2, longest=16)
FULL = Config(units=192, epochs=20, learning_rate=2e-3)

START = "\x02"  # a text begins; what the decoder is given first
END = "\x03"  # the text is at its end
PADDING_ID = 0  # stands after the end
UNKNOWN_ID = 1  # a character that training has not seen
START_ID = 2
END_ID = 3


# --------------------------------------------------------------------------------------
# The idea: a decoder that looks back at what the encoder read
# --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("seq2seq")
class AdditiveAttention(layers.Layer):
    """Bahdanau's: e = v·tanh(W q + U k), its softmax over the source weighs the keys."""

    def __init__(self, units: int, **options):
        super().__init__(**options)
        self.units = units
        self.query = layers.Dense(units, use_bias=False)
        self.key = layers.Dense(units, use_bias=False)
        self.score = layers.Dense(1, use_bias=False)

    def call(self, queries, keys, is_text):
        """queries: (batch, targets, units). keys: (batch, sources, size). is_text:
        (batch, sources), False at the padding.

        Returns the context of each step (batch, targets, size), and the weights that
        made it (batch, targets, sources).
        """
        sums = self.query(queries)[:, :, np.newaxis] + self.key(keys)[:, np.newaxis]
        scores = ops.squeeze(self.score(ops.tanh(sums)), axis=-1)
        scores = ops.where(is_text[:, np.newaxis], scores, -1e9)
        weights = ops.softmax(scores)
        return ops.matmul(weights, keys), weights

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("seq2seq")
class EqualAttention(layers.Layer):
    """Every character of the source weighs the same: all steps see one context, their
    mean. Takes what AdditiveAttention takes; `units` say nothing here."""

    def __init__(self, units: int, **options):
        super().__init__(**options)
        self.units = units

    def call(self, queries, keys, is_text):
        weights = ops.cast(is_text, keys.dtype)[:, np.newaxis]
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        weights = ops.repeat(weights, ops.shape(queries)[1], axis=1)
        return ops.matmul(weights, keys), weights

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def build_encoder(characters: int, units: int) -> keras.Model:
    """source: ids (batch, sources), PADDING_ID after the end. Returns `keys` (batch,
    sources, 2 * units) and the decoder's first `state` (batch, units)."""
    source = keras.Input((None,), dtype="int32", name="source")
    x = layers.Embedding(characters, units)(source)
    read = layers.GRU(units, return_sequences=True, return_state=True)
    is_text = ops.not_equal(source, PADDING_ID)
    keys, forward, backward = layers.Bidirectional(read)(x, mask=is_text)
    keys = keys * ops.cast(is_text, keys.dtype)[..., np.newaxis]
    last = layers.Concatenate()([forward, backward])
    state = layers.Dense(units, activation="tanh")(last)
    return keras.Model(source, {"keys": keys, "state": state}, name="encoder")


def build_decoder(characters: int, units: int, attention: layers.Layer) -> keras.Model:
    """Any number of steps. Inputs: `before`, ids of the characters before each step
    (batch, targets); `state` (batch, units); `keys` and `source` of the encoder.

    Returns `logits` of the characters (batch, targets, characters), the `state` after
    them, and the attention's `weights` (batch, targets, sources).
    """
    before = keras.Input((None,), dtype="int32", name="before")
    state = keras.Input((units,), name="state")
    keys = keras.Input((None, 2 * units), name="keys")
    source = keras.Input((None,), dtype="int32", name="source")

    x = layers.Embedding(characters, units)(before)
    write = layers.GRU(units, return_sequences=True, return_state=True)
    written, after = write(x, initial_state=state)
    context, weights = attention(written, keys, ops.not_equal(source, PADDING_ID))
    seen = layers.Concatenate()([written, context])
    x = layers.Dense(units, activation="tanh")(seen)
    logits = layers.Dense(characters, dtype="float32")(x)
    return keras.Model(
        {"before": before, "state": state, "keys": keys, "source": source},
        {"logits": logits, "state": after, "weights": weights},
        name="decoder",
    )


def with_teacher(encoder: keras.Model, decoder: keras.Model) -> keras.Model:
    """Inputs: `source` and `before`, the target moved by one step behind a START. Output:
    the logits of the target, all steps in one pass."""
    source = keras.Input((None,), dtype="int32", name="source")
    before = keras.Input((None,), dtype="int32", name="before")
    read = encoder(source)
    written = decoder(
        {
            "before": before,
            "state": read["state"],
            "keys": read["keys"],
            "source": source,
        }
    )
    return keras.Model({"source": source, "before": before}, written["logits"])


def exact_match(ids, logits):
    """Whether all characters of a target are the likeliest ones, (batch,).

    Greedy decoding then writes the same text: each time it is given what the teacher
    would have given.
    """
    right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(ids, "int64"))
    return ops.all(ops.logical_or(right, ops.equal(ids, PADDING_ID)), axis=-1)


def greedy(encoder: keras.Model, decoder: keras.Model, source, length: int):
    """The likeliest character at each step: ids (batch, length), PADDING_ID after the
    end, and the attention's weights (batch, length, sources)."""
    read = encoder(source)
    state = read["state"]
    before = tf.fill((tf.shape(source)[0], 1), START_ID)
    has_ended = tf.fill(tf.shape(before), False)
    written = tf.TensorArray(tf.int32, length)
    looked_at = tf.TensorArray(tf.float32, length)

    for step in tf.range(length):
        out = decoder(
            {"before": before, "state": state, "keys": read["keys"], "source": source}
        )
        state = out["state"]
        likeliest = tf.argmax(out["logits"], axis=-1, output_type=tf.int32)
        before = tf.where(has_ended, PADDING_ID, likeliest)
        has_ended |= before == END_ID
        written = written.write(step, before[:, 0])
        looked_at = looked_at.write(step, out["weights"][:, 0])

    return tf.transpose(written.stack()), tf.transpose(looked_at.stack(), (1, 0, 2))


def beam_search(
    encoder: keras.Model, decoder: keras.Model, source, length: int, beams: int
):
    """The likeliest of the texts that grow out of the `beams` likeliest beginnings at
    each step.

    Returns ids (batch, beams, length), PADDING_ID after the end, and ln p of each
    (batch, beams), the likeliest first.
    """
    read = encoder(source)
    batch = tf.shape(source)[0]
    # A row for each beam: those of an example follow one another.
    keys = tf.repeat(read["keys"], beams, axis=0)
    sources = tf.repeat(source, beams, axis=0)
    state = tf.repeat(read["state"], beams, axis=0)
    ids = tf.zeros((batch, beams, length), tf.int32)
    before = tf.fill((batch, beams), START_ID)
    has_ended = tf.fill((batch, beams), False)
    # At first all beams are the same: only one of them may go on.
    first = tf.one_hot(0, beams, on_value=0.0, off_value=-1e9)
    log_probability = tf.repeat(first[tf.newaxis], batch, axis=0)

    for step in tf.range(length):
        out = decoder(
            {
                "before": tf.reshape(before, (-1, 1)),
                "state": state,
                "keys": keys,
                "source": sources,
            }
        )
        characters = out["logits"].shape[-1]
        next_one = tf.nn.log_softmax(out["logits"][:, 0])
        next_one = tf.reshape(next_one, (batch, beams, characters))
        # What has ended goes on in one way, at no cost.
        only_padding = tf.one_hot(PADDING_ID, characters, on_value=0.0, off_value=-1e9)
        next_one = tf.where(has_ended[..., tf.newaxis], only_padding, next_one)
        candidates = log_probability[..., tf.newaxis] + next_one
        candidates = tf.reshape(candidates, (batch, beams * characters))

        log_probability, chosen = tf.math.top_k(candidates, beams)
        parent = chosen // characters
        before = chosen % characters
        ids = tf.gather(ids, parent, batch_dims=1)
        ids = tf.where(tf.range(length) == step, before[..., tf.newaxis], ids)
        has_ended = tf.gather(has_ended, parent, batch_dims=1) | (before == END_ID)
        rows = tf.range(batch)[:, tf.newaxis] * beams + parent
        kept = tf.gather(out["state"], tf.reshape(rows, (-1,)))
        # The loop is compiled for a shape that gather does not know.
        state = tf.ensure_shape(kept, state.shape)

    return ids, log_probability


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

    def __init__(self, encoder, decoder, source_lookup, target_lookup, length: int):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.source_lookup = source_lookup
        self.target_vocabulary = target_lookup.get_vocabulary()
        self.write = tf.function(partial(greedy, encoder, decoder, length=length))

    def call(self, texts):
        source = encode(texts, self.source_lookup)
        ids, _ = self.write(source)
        return decode(ids, self.target_vocabulary)

    def compute_output_spec(self, texts):
        return keras.KerasTensor(texts.shape, dtype="string")


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps),
            global_clipnorm=1.0,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=PADDING_ID
        ),
        metrics=[exact_match],
    )


# --------------------------------------------------------------------------------------
# The experiment: with and without attention, by length, on what training never saw
# --------------------------------------------------------------------------------------

ATTENTION = {"attention": AdditiveAttention, "equal weights": EqualAttention}
LENGTHS = 4  # groups of as many pairs each, from short sources to long ones
AT_ONCE = 500  # texts that are written side by side


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


@dataclass
class Network:
    encoder: keras.Model
    decoder: keras.Model
    history: dict[str, list[float]]


def train(name: str, task: Task, config: Config, run: Run) -> Network:
    layer = ATTENTION[name]
    encoder = build_encoder(task.source_lookup.vocabulary_size(), config.units)
    decoder = build_decoder(
        task.target_lookup.vocabulary_size(), config.units, layer(config.units)
    )
    model = with_teacher(encoder, decoder)
    model.name = as_metric(name)
    part = task.parts["train"]
    steps = config.epochs * math.ceil(len(part.target) / config.batch_size)
    compile_model(model, config.learning_rate, steps)
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
    return Network(encoder, decoder, history.history)


def by_parts(call, source: np.ndarray) -> list[np.ndarray]:
    """What `call`, compiled, answers to sources (texts, ...), AT_ONCE texts at a
    time."""
    compiled = tf.function(call, reduce_retracing=True)
    parts = np.split(source, range(AT_ONCE, len(source), AT_ONCE))
    answers = [compiled(tf.constant(part)) for part in parts]
    return [np.concatenate(each) for each in zip(*answers, strict=True)]


def write(network: Network, source: np.ndarray, length: int) -> list[np.ndarray]:
    """Greedy texts as ids (texts, length), and the weights of the attention (texts,
    length, sources)."""
    call = partial(greedy, network.encoder, network.decoder, length=length)
    return by_parts(call, source)


def search(network: Network, source: np.ndarray, length: int, beams: int):
    """The likeliest texts that beam search finds, ids (texts, length), and ln p of each
    (texts,)."""
    call = partial(
        beam_search, network.encoder, network.decoder, length=length, beams=beams
    )
    ids, log_probability = by_parts(call, source)
    return ids[:, 0], log_probability[:, 0]


def are_right(ids: np.ndarray, part: Part) -> np.ndarray:
    """Which texts are the targets, (texts,). ids: (texts, length)."""
    target = np.zeros_like(ids)
    target[:, : part.target.shape[1]] = part.target
    return (ids == target).all(axis=1)


def by_length(part: Part, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean length of the source, and share of the texts that are right, in LENGTHS
    groups from short to long, both (groups,)."""
    lengths = np.count_nonzero(part.source, axis=1)
    groups = np.array_split(np.argsort(lengths, kind="stable"), LENGTHS)
    return (
        np.array([lengths[group].mean() for group in groups]),
        np.array([is_right[group].mean() for group in groups]),
    )


def judge_length(part: Part, right: dict[str, np.ndarray], run: Run) -> Figure:
    """right: which texts of the part each network wrote without a fault."""
    exact = {name: is_right.mean() for name, is_right in right.items()}
    run.metrics("exact_match", exact)
    run.compare(
        "One vector does not hold a text: where all steps see the same mean of the "
        "source, far fewer are written without a fault than where each looks back (exact "
        "match)",
        exact,
        more="attention",
        less="equal weights",
        by=0.3,
    )
    lines = {name: by_length(part, is_right) for name, is_right in right.items()}
    falls = {name: scores[0] - scores[-1] for name, (_, scores) in lines.items()}
    run.metrics("fall_with_length", falls)
    run.claim(
        "With attention, long texts are written about as well as short ones (exact match "
        "in the shortest quarter of the sources less that in the longest)",
        at_most=0.2,
        measured={"attention": falls["attention"]},
    )
    return figures.panels(
        figures.Panel(
            title="Held-out texts without a fault, by length",
            xlabel="characters of the source, mean of a quarter of the texts",
            ylabel="exact match",
            lines=lines,
            ylim=(-0.02, 1.02),
        )
    )


def blot_out(part: Part, weights: np.ndarray, seed: int):
    """For one random step of each text: the source with the character unknown that the
    attention looked at most, and the source with another one unknown.

    weights: (texts, steps, sources). Returns the steps (texts,), and two sources.
    """
    random = np.random.default_rng(seed)
    rows = np.arange(len(part.target))
    steps = random.integers(np.count_nonzero(part.target, axis=1))
    lengths = np.count_nonzero(part.source, axis=1)
    looked_at = weights[rows, steps].argmax(axis=1)
    another = (looked_at + random.integers(1, np.maximum(lengths, 2))) % lengths

    without_it = part.source.copy()
    without_it[rows, looked_at] = UNKNOWN_ID
    without_another = part.source.copy()
    without_another[rows, another] = UNKNOWN_ID
    return steps, without_it, without_another


def judge_attention(network: Network, part: Part, weights, run: Run) -> None:
    """Whether what a step looks at is what it depends on."""
    model = tf.function(with_teacher(network.encoder, network.decoder))
    steps, without_it, without_another = blot_out(part, weights, run.seed)
    said = {
        name: step_logits(model, source, part.before, steps).argmax(axis=-1)
        for name, source in {
            "all": part.source,
            "without the one looked at": without_it,
            "without another": without_another,
        }.items()
    }
    changed = {
        name: np.mean(characters != said["all"])
        for name, characters in said.items()
        if name != "all"
    }
    run.metrics("changed", changed)
    run.compare(
        "What a step looks at is what it writes of: with that character of the source "
        "made unknown it writes another one more often than with another made unknown "
        "(share of the steps)",
        changed,
        more="without the one looked at",
        less="without another",
        times=4,
    )


def step_logits(model, source, before, steps: np.ndarray) -> np.ndarray:
    """The logits of one step of each text, (texts, characters)."""
    logits = model({"source": tf.constant(source), "before": tf.constant(before)})
    return tf.gather(logits, steps, batch_dims=1).numpy()


@dataclass
class Search:
    """What was found for each text of a part."""

    log_probability: float
    """mean ln p of the texts"""
    exact_match: float


def search_with(beams: int, network: Network, part: Part, length: int) -> Search:
    ids, log_probability = search(network, part.source, length, beams)
    return Search(float(log_probability.mean()), float(are_right(ids, part).mean()))


def judge_beams(
    networks: dict[str, Network], part: Part, length: int, beams: int, run: Run
) -> None:
    found = {
        name: {
            "greedy": search_with(1, network, part, length),
            "beams": search_with(beams, network, part, length),
        }
        for name, network in networks.items()
    }
    unsure = found["equal weights"]
    run.compare(
        f"Where a network is unsure, {beams} beams find what it holds to be likelier than "
        "the greedy text (mean ln p of a text)",
        {name: each.log_probability for name, each in unsure.items()},
        more="beams",
        less="greedy",
        by=0.02,
    )
    gains = {
        name: each["beams"].exact_match - each["greedy"].exact_match
        for name, each in found.items()
    }
    run.metrics("gain_of_beams", gains)
    run.claim(
        "Where it is sure, beams gain nothing (exact match above the greedy texts')",
        at_most=0.02,
        measured={"attention": gains["attention"]},
    )


def scramble(part: Part, task: Task, seed: int) -> Part:
    """The same pairs, every letter of the sources replaced by a random one."""
    random = np.random.default_rng(seed)
    letters = list(string.ascii_lowercase)
    sources = [
        "".join(random.choice(letters) if c.isalpha() else c for c in source)
        for source in part.pairs.sources
    ]
    return task.in_ids(data.Pairs(sources, part.pairs.targets, part.pairs.kinds))


def judge_new_languages(network: Network, task: Task, run: Run) -> None:
    part = task.parts["new languages"]
    scrambled = scramble(part, task, run.seed)
    exact = {}
    for name, each in {"as written": part, "letters at random": scrambled}.items():
        ids, _ = write(network, each.source, task.length)
        exact[name] = are_right(ids, each).mean()
    run.metrics("exact_match_in_new_languages", exact)
    run.compare(
        "Languages that training never saw are read by their likeness to those it did: "
        "with random letters in place of theirs, what is left are months in digits (exact "
        "match)",
        exact,
        more="as written",
        less="letters at random",
        by=0.4,
    )


def judge_longer_numbers(network: Network, task: Task, right, run: Run) -> None:
    part = task.parts["longer numbers"]
    ids, _ = write(network, part.source, task.length)
    exact = {
        "as long as trained on": right.mean(),
        "longer": are_right(ids, part).mean(),
    }
    run.metrics("exact_match_by_size", exact)
    run.compare(
        "It has not learned how numbers are built: those with one digit more than all of "
        "training are mostly wrong (exact match)",
        exact,
        more="as long as trained on",
        less="longer",
        by=0.3,
    )


def draw_alignments(part: Part, ids, weights, task: Task) -> Figure:
    """A row for each character written, a column for each one of the source."""
    figure, grid = plt.subplots(2, 2, figsize=(13, 8))
    for i, axes in enumerate(grid.flat):
        source = characters(part.source[i], task.source_lookup)
        written = characters(ids[i], task.target_lookup)
        drawn = axes.imshow(
            weights[i, : len(written), : len(source)], vmin=0, vmax=1, aspect="auto"
        )
        axes.set_xticks(range(len(source)), source)
        axes.set_yticks(range(len(written)), written)
        axes.grid(visible=False)
        axes.set(title=part.pairs.kinds[i], xlabel="source", ylabel="written")
    figure.colorbar(drawn, ax=grid, label="weight of the attention", shrink=0.8)
    figure.suptitle("Where each step looks")
    return figure


def characters(ids: np.ndarray, lookup: layers.StringLookup) -> list[str]:
    vocabulary = np.array(lookup.get_vocabulary())
    return list(vocabulary[ids[ids > END_ID]])


def show_some(part: Part, written: np.ndarray, task: Task, run: Run) -> None:
    """The first texts that are wrong, then the first ones."""
    texts = decode(written, task.target_lookup.get_vocabulary()).numpy()
    is_right = are_right(written, part)
    for i in [*np.flatnonzero(~is_right)[:3], *np.flatnonzero(is_right)[:3]]:
        text = texts[i].decode()
        fault = "" if is_right[i] else f"  (wrong: it is {part.pairs.targets[i]})"
        run.print(f"{part.pairs.sources[i]} -> {text}{fault}")


def main(config: Config, run: Run) -> None:
    run.plan(len(ATTENTION))
    task = Task(config)
    networks = {name: train(name, task, config, run) for name in ATTENTION}
    curves = {
        name: network.history["val_exact_match"] for name, network in networks.items()
    }
    title = "Held-out texts without a fault"
    run.figure("learning", figures.curves(curves, title=title, ylabel="exact match"))

    test = task.parts["test"]
    written = {
        name: write(network, test.source, task.length)
        for name, network in networks.items()
    }
    right = {name: are_right(ids, test) for name, (ids, _) in written.items()}
    run.figure("lengths", judge_length(test, right, run))

    attending = networks["attention"]
    ids, weights = written["attention"]
    judge_attention(attending, test, weights, run)
    run.figure("alignments", draw_alignments(test, ids, weights, task))
    if config.beams > 1:
        judge_beams(networks, test, task.length, config.beams, run)
    if "new languages" in task.parts:
        judge_new_languages(attending, task, run)
    if "longer numbers" in task.parts:
        judge_longer_numbers(attending, task, right["attention"], run)
    show_some(test, ids, task, run)

    text = keras.Input((), dtype="string", name="text")
    translator = Translator(
        attending.encoder,
        attending.decoder,
        task.source_lookup,
        task.target_lookup,
        task.length,
    )
    exported = keras.Model(text, {"text": translator(text)}, name="translator")
    run.export(exported, example=np.array(test.pairs.sources[:2]))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
