"""Praise or blame: a network reads a sentence both ways, and minds the word "not".

Each word is a vector. A gated recurrent network reads the vectors forward, another one
backward, h_t = GRU(x_t, h_{t−1}); a second pair reads what the first pair says of each
word, and its two last states decide. Sentences differ in length, so the short ones of a
batch are filled up with padding, and a mask tells the network where: at a padded step
the state stays as it was, h_t = h_{t−1}.
A bag of words adds up a weight for each word, whatever stands around it. Look at where
that is enough, at "not" with more and more words behind it, at "but", and at what
padding does to a network without a mask. What people rated are single words (means of
ten ratings, −4 to 4). The sentences are composed of them here, their classes follow a
rule: "not" and "never" turn a rating around, "very" and "slightly" scale it,
"and" adds up, and after "but" only the second clause counts. Real reviews are harder.

Lectures: INFO Recurrent models (sentiment analysis: stacked, bidirectional and gated
    networks); SEL Sequence input
Paper: Tang et al., Document modeling with gated recurrent neural network for sentiment
    classification, 2015 (section 2.3); Hutto, Gilbert, VADER: a parsimonious rule-based
    model for sentiment analysis, 2014 (the ratings)
Tags: text classification, bidirectional gru, bag of words, n-grams, negation, masking,
    imdb, nlp
"""

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from deep_learning_recipes import (
    UsageError,
    as_metric,
    data,
    figures,
    samples,
    training,
)
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "rated_words"
    """rated_words (embedded: sentences composed of words that people rated), imdb (if
    Keras's cache has it), or your own texts: a .csv file, with --target for the column
    of classes"""
    sentences: Annotated[int, Interval(ge=100)] = 8000
    """composed sentences to train on; of imdb, reviews"""
    words: Annotated[int, Interval(ge=20)] = 200
    """rated words that the sentences are composed of"""
    units: int = 32
    """of each recurrent layer and direction, and of a word's vector"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """share of the words' vectors' and states' entries that training hides"""
    epochs: int = 6
    """passes over the training sentences"""
    batch_size: int = 64
    """sentences a gradient is averaged over"""
    learning_rate: float = 5e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    longest: Annotated[int, Interval(ge=3)] = 60
    """words that are read of a text; what comes after them is not"""


QUICK = Config(
    sentences=3000,
    words=100,
    units=24,
    epochs=4,
    batch_size=128,
    learning_rate=1.5e-2,
)
FULL = Config(sentences=40_000, units=96, epochs=10, learning_rate=2e-3, longest=300)

PADDING_ID = 0  # stands after the end; 1 is a word that training has not seen


# --------------------------------------------------------------------------------------
# The idea: two layers that read both ways, and a mask for what is no word
# --------------------------------------------------------------------------------------


def build_model(words: int, classes: int, units: int, dropout: float) -> keras.Model:
    """Input: ids (batch, time), PADDING_ID after the end. Output: logits (batch,
    classes)."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    is_word = ops.not_equal(ids, PADDING_ID)
    x = layers.Embedding(words, units)(ids)
    x = layers.Dropout(dropout)(x)

    # Each word, in view of those before it and those after it.
    read = layers.GRU(units, return_sequences=True)
    x = layers.Bidirectional(read)(x, mask=is_word)

    # The last state forward, and the last one backward, which is at the first word.
    x = layers.Bidirectional(layers.GRU(units))(x, mask=is_word)
    x = layers.Dropout(dropout)(x)
    logits = layers.Dense(classes, dtype="float32")(x)
    return keras.Model(ids, logits, name="reader")


def build_average(words: int, classes: int, units: int, dropout: float) -> keras.Model:
    """A bag of words that is not linear: the mean of the words' vectors, and a hidden
    layer. Takes and gives what `build_model`'s network does."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(words, units)(ids)
    is_word = ops.cast(ops.not_equal(ids, PADDING_ID), x.dtype)[..., np.newaxis]
    count = ops.maximum(ops.sum(is_word, axis=1), 1)
    mean = ops.sum(x * is_word, axis=1) / count
    hidden = layers.Dense(4 * units, activation="relu")(mean)
    hidden = layers.Dropout(dropout)(hidden)
    logits = layers.Dense(classes, dtype="float32")(hidden)
    return keras.Model(ids, logits, name="average")


def without_mask(ids: np.ndarray, words: int) -> np.ndarray:
    """The same ids, with the last of all `words` in place of the padding: the network
    reads it as it reads any other."""
    return np.where(ids == PADDING_ID, words - 1, ids).astype("int32")


def linear_classifier(longest: int, regularization: float) -> Pipeline:
    """Logistic regression on the words, or on up to `longest` words in a row. Fits
    texts as `normalize` leaves them. regularization: C of scikit-learn."""
    n_grams = TfidfVectorizer(
        tokenizer=str.split,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, longest),
        sublinear_tf=True,
    )
    return make_pipeline(n_grams, LogisticRegression(C=regularization, max_iter=1000))


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps),
            global_clipnorm=1.0,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def normalize(texts):
    """Strings (batch,) to strings of words in lower case with a space between. A sign
    of a script without spaces (Chinese, Japanese, Thai) is a word of its own."""
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, "’", "'")
    no_spaces = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"
    texts = tf.strings.regex_replace(texts, no_spaces, r" \1 ")
    texts = tf.strings.regex_replace(texts, r"[^\p{L}\p{M}\p{N}']+", " ")
    return tf.strings.strip(texts)


def build_lookup(texts: list[str], most: int = 20_000) -> layers.StringLookup:
    """The number of each word: 0 padding, 1 unknown, then those that stand in the
    normalized texts twice or more, the most frequent first."""
    counts = Counter(word for text in texts for word in text.split())
    frequent = [word for word, count in counts.most_common(most) if count > 1]
    known = frequent or list(counts)  # where no word stands twice
    return layers.StringLookup(vocabulary=known, mask_token="")


def encode(texts, lookup: layers.StringLookup, longest: int):
    """Normalized strings (batch,) to ids (batch, longest)."""
    words = tf.strings.split(texts)[:, :longest]
    return lookup(words.to_tensor("", shape=(None, longest)))


class Reader(layers.Layer):
    """Strings (batch,) as anyone writes them, to logits (batch, classes)."""

    def __init__(self, model: keras.Model, lookup: layers.StringLookup, longest: int):
        super().__init__()
        self.model = model
        self.lookup = lookup
        self.longest = longest

    def call(self, texts):
        return self.model(encode(normalize(texts), self.lookup, self.longest))

    def compute_output_spec(self, texts):
        return keras.KerasTensor((*texts.shape, self.model.output.shape[-1]))


# --------------------------------------------------------------------------------------
# The experiment: sentences composed of rated words, for networks and for bags of words
# --------------------------------------------------------------------------------------

# Endings of adjectives: "the plot is ..." takes them.
ENDINGS = ("ful", "less", "ous", "able", "ible", "ive", "ic", "ant", "al")
SUBJECTS = ["plot", "cast", "music", "script", "story", "photography", "pace", "ending"]
VERBS = ["is", "was", "seems", "felt"]
NEGATORS = ["not", "never"]
DEGREES = {"very": 1.5, "extremely": 2.0, "slightly": 0.5}
SCALED = 0.4  # share of the clauses that have one
BETWEEN = [
    ["perhaps"],
    ["somehow"],
    ["to", "me"],
    ["so", "far"],
    ["i", "think"],
    ["in", "my", "view"],
    ["all", "in", "all"],
    ["on", "the", "whole"],
]
JOINED_BY = [".", "and", "but"]
NEAR = [0, 1, 2, 3]  # words between "not" and what it turns around, in training
FAR = [6, 12, 24]  # and beyond
NEGATED = 0.35  # share of the clauses
LEAST = 0.5  # size of a sentence's score; what is nearer to 0 is neither class
CLASSES = ["negative", "positive"]
NEW_PAIR = "newly negated"
TESTED = 600  # sentences of each part that is composed to test one thing
LENGTHENED = [0, 1, 2, 4]  # padding added for the test, in lengths of the longest text
VALIDATED_ON = 0.1  # of the training texts, to choose how a linear classifier is set
REGULARIZATIONS = [0.3, 3.0, 30.0, 300.0]
N_GRAMS = {"words": 1, "words and pairs": 2, "up to 3 words": 3}
SHOWN = 4  # texts in the figure of reading
SHOWN_WORDS = 24


def rated_words() -> dict[str, float]:
    """Adjectives and the mean of ten people's ratings, −4 to 4, from VADER's lexicon
    (MIT license): those of a clear rating, on which the ten agree."""
    lexicon = resources.files("vaderSentiment") / "vader_lexicon.txt"
    ratings = {}
    for line in lexicon.read_text(encoding="utf-8").splitlines():
        word, mean, deviation, _ = line.split("\t")
        is_word = word.isalpha() and word.isascii() and word.endswith(ENDINGS)
        if is_word and abs(float(mean)) >= 1 and float(deviation) <= 1.2:
            ratings[word] = float(mean)
    return ratings


@dataclass
class Texts:
    """Texts and their classes."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass
class Clause:
    text: str
    score: float


class Composer:
    """Composes sentences of rated words. The words of `never_negated` are negated in
    none of them but where they are asked for."""

    def __init__(self, words: int, random: np.random.Generator):
        ratings = rated_words()
        chosen = random.permutation(sorted(ratings))[:words]
        self.ratings = {str(word): ratings[word] for word in chosen}
        self.never_negated = [str(word) for word in chosen[: len(chosen) // 5]]
        self.negated = [str(word) for word in chosen[len(chosen) // 5 :]]
        self.random = random
        self.used: set[str] = set()

    def pick(self, among):
        return among[self.random.integers(len(among))]

    def words_between(self, count: int) -> list[str]:
        words: list[str] = []
        while len(words) < count:
            words += self.pick([p for p in BETWEEN if len(p) <= count - len(words)])
        return words

    def clause(self, word: str, is_negated: bool, distance: int) -> Clause:
        """distance: words between the verb, or its negation, and what is said."""
        negation = [self.pick(NEGATORS)] if is_negated else []
        degree = []
        score = self.ratings[word]
        if is_negated:
            score = -score
        if self.random.random() < SCALED:
            degree = [self.pick(list(DEGREES))]
            score *= DEGREES[degree[0]]
        words = [
            "the",
            self.pick(SUBJECTS),
            self.pick(VERBS),
            *negation,
            *self.words_between(distance),
            *degree,
            word,
        ]
        return Clause(" ".join(words), score)

    def distance(self) -> int:
        """None half of the time, else any that is near."""
        return self.pick(NEAR) if self.random.random() < 0.5 else 0

    def any_clause(self) -> Clause:
        is_negated = self.random.random() < NEGATED
        words = self.negated if is_negated else list(self.ratings)
        return self.clause(self.pick(words), is_negated, self.distance())

    def any_sentence(self) -> Clause:
        first = self.any_clause()
        joined_by = self.pick(JOINED_BY)
        if joined_by == ".":
            return first
        return join(first, joined_by, self.any_clause())

    def contrast(self) -> Clause:
        """Two clauses that disagree, and "but" between them."""
        first = self.any_clause()
        second = self.any_clause()
        while first.score * second.score > 0:
            second = self.any_clause()
        return join(first, "but", second)

    def plain(self) -> Clause:
        """One clause, and no negation."""
        return self.clause(self.pick(list(self.ratings)), False, self.distance())

    def negation(self, words: list[str], distance: int) -> Clause:
        """One clause, negated."""
        return self.clause(self.pick(words), True, distance)

    def shuffled(self, text: str) -> str:
        return " ".join(self.random.permutation(text.split()))

    def many(self, count: int, compose: Callable[[], Clause]) -> Texts:
        """Sentences that are in none of the parts made so far."""
        part = Texts()
        made: set[str] = set()
        while len(part.texts) < count:
            sentence = compose()
            if sentence.text not in self.used and abs(sentence.score) >= LEAST:
                made.add(sentence.text)
                part.texts.append(sentence.text)
                part.labels.append(int(sentence.score > 0))
        self.used |= made
        return part


def join(first: Clause, word: str, second: Clause) -> Clause:
    """After "but" the first clause does not count."""
    score = second.score if word == "but" else first.score + second.score
    return Clause(f"{first.text} {word} {second.text}", score)


@dataclass
class Task:
    """Parts of a data set: `train`, `test`, and others that are composed to test one
    thing each. All texts are normalized."""

    parts: dict[str, Texts]
    classes: list[str]
    longest: int
    """words that are read of a text"""
    lookup: layers.StringLookup = field(init=False)

    def __post_init__(self):
        self.lookup = build_lookup(self.parts["train"].texts)

    def ids(self, part: str) -> np.ndarray:
        """(texts, words of the longest)."""
        texts = self.parts[part].texts
        longest = max(len(text.split()) for text in texts)
        steps = max(1, min(longest, self.longest))
        return encode(tf.constant(texts), self.lookup, steps).numpy().astype("int32")

    @property
    def words(self) -> int:
        """That the networks know: the lookup's, and padding as a word."""
        return self.lookup.vocabulary_size() + 1

    def labels(self, part: str) -> np.ndarray:
        return np.array(self.parts[part].labels, "int32")


def at_distance(distance: int) -> str:
    """The name of the part with so many words between "not" and the rated word."""
    return f"negated, {distance} between"


def compose(config: Config, seed: int) -> Task:
    composer = Composer(config.words, np.random.default_rng(seed))
    new = composer.never_negated
    parts = {
        "train": composer.many(config.sentences, composer.any_sentence),
        "test": composer.many(TESTED, composer.any_sentence),
        "plain": composer.many(TESTED, composer.plain),
        "contrast": composer.many(TESTED, composer.contrast),
        NEW_PAIR: composer.many(TESTED, partial(composer.negation, new, 0)),
    }
    shuffled = [composer.shuffled(text) for text in parts["contrast"].texts]
    parts["contrast, shuffled"] = Texts(shuffled, parts["contrast"].labels)
    for distance in NEAR + FAR:
        one = partial(composer.negation, composer.negated, distance)
        parts[at_distance(distance)] = composer.many(TESTED, one)
    return Task(parts, CLASSES, config.longest)


def load_imdb(reviews: int) -> dict[str, Texts]:
    """Reviews of films, if both files lie in Keras's cache: nothing is downloaded."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    for name in ("imdb.npz", "imdb_word_index.json"):
        if not (home / "datasets" / name).exists():
            raise UsageError(
                f"imdb: {name} is not in {home / 'datasets'}. With a network, "
                "keras.datasets.imdb.load_data() and get_word_index() bring it there; "
                "--data rated_words is embedded."
            )
    train, test = keras.datasets.imdb.load_data()
    # 0, 1 and 2 stand for padding, the start, and words left out.
    word_of = {i + 3: word for word, i in keras.datasets.imdb.get_word_index().items()}
    return {
        name: Texts(
            [" ".join(word_of.get(i, "") for i in ids) for ids in x[:reviews]],
            list(map(int, y[:reviews])),
        )
        for name, (x, y) in {"train": train, "test": test}.items()
    }


def load_task(config: Config, seed: int) -> Task:
    if config.data == "rated_words":
        return compose(config, seed)
    if config.data == "imdb":
        parts = load_imdb(config.sentences)
        classes = CLASSES
    else:
        embedded = ["rated_words", "imdb"]
        (texts, y), (texts_test, y_test) = data.load_labeled_texts(
            config.data, embedded=embedded
        )
        classes = data.labeled_class_names(config.data, embedded=embedded)
        parts = {"train": Texts(texts, y), "test": Texts(texts_test, y_test)}
    for part in parts.values():
        part.texts = [text.decode() for text in normalize(part.texts).numpy()]
    if not any(parts["train"].texts):
        raise UsageError(f"{config.data}: there are no words in its training texts")
    return Task(parts, classes, config.longest)


class Classifier:
    """A network to be trained, again and again if wanted, and asked about any number of
    texts of any length. To trace it takes longer than to train it: that is done once."""

    def __init__(self, model: keras.Model, task: Task, config: Config):
        self.model = model
        self.config = config
        self.labels = task.labels("train")
        steps = config.epochs * math.ceil(len(self.labels) / config.batch_size)
        compile_model(model, config.learning_rate, steps)
        any_ids = tf.TensorSpec((None, None), tf.int32)
        self.read = tf.function(model, input_signature=[any_ids])

    def train(self, name: str, ids: np.ndarray, run: Run) -> None:
        self.model.name = as_metric(name)
        training.fit(
            self.model,
            ids,
            self.labels,
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            callbacks=run.callbacks,
        )

    def forget(self, weights: list[np.ndarray]) -> None:
        """Begin anew with these weights, the optimizer as well."""
        self.model.set_weights(weights)
        for variable in self.model.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(ops.zeros_like(variable))

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """(texts, classes)."""
        return samples.in_parts(self.read, ids)

    def accuracy(self, ids: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean(self.logits(ids).argmax(axis=1) == labels))


def fit_linear(longest: int, part: Texts, seed: int) -> Pipeline:
    """Of up to `longest` words in a row, with the regularization that is best on a part
    of the training texts."""
    order = np.random.default_rng(seed).permutation(len(part.texts))
    held_out, shown = np.split(order, [max(1, round(VALIDATED_ON * len(order)))])
    texts = np.array(part.texts, object)
    labels = np.array(part.labels)
    scores = {}
    for regularization in REGULARIZATIONS:
        model = linear_classifier(longest, regularization)
        model.fit(texts[shown], labels[shown])
        scores[regularization] = model.score(texts[held_out], labels[held_out])
    best = max(scores, key=scores.__getitem__)
    return linear_classifier(longest, best).fit(texts, labels)


Scores = dict[str, dict[str, float]]  # accuracy by classifier and part


def score_all(task: Task, networks: dict[str, Classifier], seed: int) -> Scores:
    tested = [part for part in task.parts if part != "train"]
    scores: Scores = {}
    for name, network in networks.items():
        scores[name] = {
            part: network.accuracy(task.ids(part), task.labels(part)) for part in tested
        }
    for name, longest in N_GRAMS.items():
        linear = fit_linear(longest, task.parts["train"], seed)
        scores[name] = {
            part: linear.score(task.parts[part].texts, task.labels(part))
            for part in tested
        }
    return scores


def pad(ids: np.ndarray, lengths: int) -> np.ndarray:
    """Padding for so many times the length of the longest text, behind all texts."""
    return np.pad(ids, [(0, 0), (0, lengths * ids.shape[1])])


@dataclass
class Padded:
    """What a network says of the test texts by how much padding is behind them."""

    accuracies: list[float]
    """by LENGTHENED"""
    drift: float
    """the most that a logit moves by the most padding"""


def lengthen(network: Classifier, task: Task, masked: bool) -> Padded:
    ids = task.ids("test")
    labels = task.labels("test")
    accuracies = []
    logits = []
    for lengths in LENGTHENED:
        padded = pad(ids, lengths)
        if not masked:
            padded = without_mask(padded, task.words)
        logits.append(network.logits(padded))
        accuracies.append(float(np.mean(logits[-1].argmax(axis=1) == labels)))
    return Padded(accuracies, float(np.abs(logits[-1] - logits[0]).max()))


def train_networks(task: Task, config: Config, run: Run):
    """The network, the mean of vectors, and the network trained without a mask, of which
    only its answers are kept."""
    sizes = (task.words, len(task.classes), config.units, config.dropout)
    ids = task.ids("train")
    fresh = build_model(*sizes).get_weights()
    network = Classifier(build_model(*sizes), task, config)
    network.train("without mask", without_mask(ids, task.words), run)
    unmasked = lengthen(network, task, masked=False)

    network.forget(fresh)
    network.train("network", ids, run)
    average = Classifier(build_average(*sizes), task, config)
    average.train("mean of vectors", ids, run)
    return {"network": network, "mean of vectors": average}, unmasked


def judge_mask(network: Classifier, unmasked: Padded, task: Task, run: Run) -> Figure:
    masked = lengthen(network, task, masked=True)
    taken_away = lengthen(network, task, masked=False)
    drifts = {
        "with mask": masked.drift,
        "trained without mask": unmasked.drift,
        "mask taken away": taken_away.drift,
    }
    run.metrics("drift", drifts, unit="the most that a logit moves by padding")
    run.claim(
        f"With a mask, padding of {LENGTHENED[-1]} times the longest text changes no "
        "answer (the most that a logit moves, to rounding)",
        at_most=1e-4,
        measured={"with mask": masked.drift},
        any_data=True,
    )
    run.claim(
        "Without it padding does, whether the network was trained without or the mask is "
        "taken away afterwards (the most that a logit moves)",
        at_least=0.05,
        measured={name: each for name, each in drifts.items() if name != "with mask"},
    )
    lines = {
        "with mask": masked.accuracies,
        "trained without mask": unmasked.accuracies,
        "mask taken away": taken_away.accuracies,
    }
    longest = {name: accuracies[-1] for name, accuracies in lines.items()}
    run.metrics("accuracy_padded", longest)
    return figures.panels(
        figures.Panel(
            title="Padding behind the test texts",
            xlabel="padding added, in lengths of the longest text",
            ylabel="accuracy on held-out texts",
            lines={name: (LENGTHENED, values) for name, values in lines.items()},
            levels={"chance": 1 / len(task.classes)},
            ylim=(0, 1.03),
        )
    )


def judge_negation(scores: Scores, run: Run) -> None:
    plain = of_part(scores, "plain")
    near = of_part(scores, at_distance(0))
    new = of_part(scores, NEW_PAIR)
    run.metrics("accuracy_plain", plain)
    run.metrics("accuracy_negated", near)
    run.metrics("accuracy_newly_negated", new)
    run.claim(
        "What is said without a negation, a bag of words knows mostly: the mean of the "
        "words' vectors as well as the network, a linear one nearly",
        holds=plain["mean of vectors"] > plain["network"] - 0.03
        and plain["words"] > 0.75,
        measured=", ".join(f"{name} {value:.3f}" for name, value in plain.items()),
    )
    run.compare(
        'With "not" before it, a linear bag of words fails, which has one weight for '
        "each word",
        near,
        more="network",
        less="words",
        by=0.5,
    )
    pairs = {
        name: scores["words and pairs"][at_distance(distance)]
        for name, distance in {"adjacent": 0, f"{NEAR[-1]} between": NEAR[-1]}.items()
    }
    run.metrics("accuracy_of_pairs", pairs)
    run.compare(
        'Pairs of words catch a "not" that stands next to the word, not one that stands '
        "apart",
        pairs,
        more="adjacent",
        less=f"{NEAR[-1]} between",
        by=0.1,
    )
    run.compare(
        "The network turns around words too that training never negated; to pairs of "
        "words each is new",
        new,
        more="network",
        less="words and pairs",
        by=0.5,
    )


def judge_order(scores: Scores, run: Run) -> None:
    contrast = of_part(scores, "contrast")
    contrast["network, words shuffled"] = scores["network"]["contrast, shuffled"]
    run.metrics("accuracy_contrast", contrast)
    run.compare(
        'Which of two clauses stands after "but" is told by the order: the network knows, '
        "no bag of words does, linear or not",
        contrast,
        more="network",
        less="mean of vectors",
        by=0.25,
    )
    run.compare(
        "Order is what it knows it by: with the words shuffled it is lost",
        contrast,
        more="network",
        less="network, words shuffled",
        by=0.25,
    )
    reach = {
        f"{distance} words": scores["network"][at_distance(distance)]
        for distance in (NEAR[-1], FAR[-1])
    }
    run.metrics("accuracy_at_a_distance", reach)
    run.compare(
        f'It has not learned what "not" means, but how far it reaches: trained with up to '
        f"{NEAR[-1]} words between, it errs with {FAR[-1]}",
        reach,
        more=f"{NEAR[-1]} words",
        less=f"{FAR[-1]} words",
        by=0.1,
    )


def of_part(scores: Scores, part: str) -> dict[str, float]:
    return {name: of_name[part] for name, of_name in scores.items()}


def draw_distances(scores: Scores) -> Figure:
    distances = NEAR + FAR
    lines = {
        name: (distances, [of_name[at_distance(each)] for each in distances])
        for name, of_name in scores.items()
    }
    return figures.panels(
        figures.Panel(
            title=f'One clause with "not" or "never" (training: up to {NEAR[-1]} between)',
            xlabel="words between the negation and the rated word",
            ylabel="accuracy on held-out sentences",
            lines=lines,
            levels={"chance": 0.5},
            ylim=(-0.03, 1.03),
        )
    )


def draw_scores(scores: Scores) -> Figure:
    few = ["test", "plain", at_distance(0), at_distance(3), NEW_PAIR, "contrast"]
    parts = [part for part in few if part in scores["network"]]
    return figures.score_table(
        scores, dict.fromkeys(parts, 1), title="Accuracy on held-out texts"
    )


def draw_reading(network: Classifier, task: Task) -> Figure:
    """The probability of the right class after each word of some texts."""
    part = "contrast" if "contrast" in task.parts else "test"
    long_ones = [
        i
        for i, text in enumerate(task.parts[part].texts)
        if 3 <= len(text.split()) <= SHOWN_WORDS
    ]
    chosen = long_ones[:SHOWN] or [0]
    figure, grid = plt.subplots(
        len(chosen), figsize=(11, 2.1 * len(chosen) + 0.6), squeeze=False
    )
    for axes, i in zip(grid[:, 0], chosen, strict=True):
        ids = task.ids(part)[i]
        words = task.parts[part].texts[i].split()[:SHOWN_WORDS]
        label = task.parts[part].labels[i]
        beginnings = np.tril(np.tile(ids[: len(words)], (len(words), 1)))
        probability = ops.softmax(network.logits(beginnings)).numpy()[:, label]
        places = range(len(words))
        axes.axhline(0.5, color="0.35", linestyle="--")
        axes.plot(places, probability, marker="o")
        axes.set_xticks(places, words, rotation=30, ha="right")
        axes.set(ylim=(-0.05, 1.05), ylabel=f"p({task.classes[label]})")
    figure.suptitle(
        "Held-out texts, cut off behind each word: probability of the right class"
    )
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(3)
    task = load_task(config, run.seed)
    networks, unmasked = train_networks(task, config, run)
    network = networks["network"]

    scores = score_all(task, networks, run.seed)
    accuracies = of_part(scores, "test")
    run.metrics("test_accuracy", accuracies)
    if config.data != "imdb":  # where counting words is nearly as good
        run.compare(
            "The network knows more than who counts words, and up to three in a row "
            "(logistic regression)",
            accuracies,
            more="network",
            less="up to 3 words",
            by=0.08,
        )
    if "contrast" in task.parts:
        judge_negation(scores, run)
        judge_order(scores, run)
        run.figure("distances", draw_distances(scores))
    run.figure("padding", judge_mask(network, unmasked, task, run))
    run.figure("accuracy", draw_scores(scores))
    run.figure("reading", draw_reading(network, task))

    text = keras.Input((), dtype="string", name="text")
    logits = Reader(network.model, task.lookup, task.longest)(text)
    exported = keras.Model(text, {"probabilities": ops.softmax(logits)}, name="reader")
    run.export(exported, example=np.array(task.parts["test"].texts[:2]))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
