"""A language model of words: how surprised it is by the next one.

A model gives each word of its vocabulary a probability to come next. Its perplexity on
a text held out is the number of words among which a fair draw would be as unsure:

    perplexity = exp(−mean of log p(word | the words before it))

A Markov chain looks back n − 1 words and counts what followed (n-grams). By counts
alone, a pair never seen has probability 0, and one of them makes the perplexity
infinite. Kneser-Ney smoothing takes a discount off each count and gives it to shorter
contexts, where a word counts by how many different words it came after. An LSTM
learns vectors of words instead, and what it learns of one it knows of those alike.
Look at who wins on a short text, and at both together; at what dropout does, and one
table of word vectors that is both input and output layer (tied).

Lectures: INFO Language models; SEL RNNs for Language Modeling; ICME Recurrent Neural
    Networks
Paper: Chen and Goodman, An empirical study of smoothing techniques for language
    modeling, 1999 (section 3); Kneser and Ney, Improved backing-off for m-gram language
    modeling, 1995; Press and Wolf, Using the output embedding to improve language
    models, 2017; Zaremba et al., Recurrent neural network regularization, 2014
Tags: perplexity, n-gram, markov chain, kneser-ney, smoothing, lstm, weight tying, nlp
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "prose"
    """prose (embedded: the manual of Python), or your own text: a .txt or .md file, or
    a folder of them"""
    least_count: int = 5
    """how often a word has to come in the training text; all others are <unk>"""
    vocabulary: Annotated[int, Interval(ge=2, le=20_000)] = 5000
    """words that are told apart at most, the most frequent ones"""
    units: int = 64
    """of the LSTM, and numbers in a word's vector"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.3
    """share of the word vectors' numbers, and of the LSTM's outputs, that training
    hides"""
    streams: Annotated[int, Interval(ge=2)] = 16
    """equal parts into which a text is cut, to be read side by side as one batch"""
    chunk: int = 16
    """words between two updates: how far back a gradient reaches"""
    epochs: int = 6
    """passes over the training text; the best one by validation counts"""
    learning_rate: float = 8e-3
    """of Adam: rises to this in the first tenth of the steps, then falls along a
    cosine"""
    models: Annotated[int, Interval(ge=1, le=3)] = 3
    """how many to train: the LSTM, then those of MODELS, with one thing changed"""


QUICK = Config(
    least_count=8,
    units=32,
    dropout=0.2,
    epochs=3,
    learning_rate=0.01,
    models=1,
)
FULL = Config(units=256, dropout=0.6, epochs=30, learning_rate=3e-3)

UNKNOWN = "<unk>"  # stands for every word that is not in the vocabulary, as number 0
PARAGRAPH = "<p>"  # the end of a paragraph
LIKELIEST = 5  # next words that the exported model names
ORDERS = (1, 2, 3, 4, 5)  # n of the n-grams: n − 1 words are looked back

# --------------------------------------------------------------------------------------
# The idea: count what followed, or learn it
# --------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Words in lower case, marks, and where paragraphs end. Of a mark repeated, as a
    line of asterisks, no more than three are one word."""
    short = re.sub(r"([^\w\s])\1{3,}", r"\1\1\1", text.lower())
    found = re.finditer(r"\n\n|\w+|([^\w\s])\1*", short)
    return [PARAGRAPH if word[0] == "\n\n" else word[0] for word in found]


def perplexity(probabilities: np.ndarray) -> float:
    """Of what the words that came were given, (words,). One that was held impossible
    makes it infinite."""
    if np.any(probabilities == 0):
        return math.inf
    return float(np.exp(-np.mean(np.log(probabilities))))


def count_followers(ids: np.ndarray, length: int) -> dict[tuple, Counter]:
    """How often each word came after each `length` words."""
    followers = defaultdict(Counter)
    words = ids.tolist()
    for end in range(length, len(words)):
        followers[tuple(words[end - length : end])][words[end]] += 1
    return dict(followers)


def count_continuations(longer: dict[tuple, Counter]) -> dict[tuple, Counter]:
    """The same with contexts one word shorter, and not how often a word came but after
    how many different first words: "Francisco" comes often, but after "San" alone."""
    followers = defaultdict(Counter)
    for context, words in longer.items():
        for word in words:
            followers[context[1:]][word] += 1
    return dict(followers)


class MarkovChain:
    """p(word | the words before it), its share of the counts: n-grams of maximum
    likelihood.

    plain: how often each word came after each 0, 1, ... words, the longest last.
    """

    def __init__(self, plain: list[dict[tuple, Counter]], vocabulary_size: int):
        self.back = len(plain) - 1
        self.vocabulary_size = vocabulary_size
        self.followers = plain[-1]
        self.totals = totals_of(plain[-1])

    def probability(self, word: int, context: tuple) -> float:
        """context: the words before it, at most so many as the longest. After one never
        seen, 0."""
        if context not in self.followers:
            return 0.0
        return self.followers[context][word] / self.totals[context]


class AddOne(MarkovChain):
    """As if each word of the vocabulary had come once more after each context
    (Laplace)."""

    def probability(self, word: int, context: tuple) -> float:
        total = self.totals.get(context, 0)
        count = self.followers[context][word] if total else 0
        return (count + 1) / (total + self.vocabulary_size)


class KneserNey(MarkovChain):
    """A discount off each count is given to the context one word shorter (interpolated
    Kneser-Ney; Chen and Goodman 1999, equation 25)."""

    def __init__(self, plain: list[dict[tuple, Counter]], vocabulary_size: int):
        super().__init__(plain, vocabulary_size)
        # The longest context has plain counts, a shorter one those of different words
        # before it.
        shorter = [count_continuations(longer) for longer in plain[1:]]
        self.tables = [*shorter, plain[-1]]
        self.totals_by_length = [totals_of(table) for table in self.tables]
        self.discounts = [discount_of(table) for table in self.tables]

    def probability(self, word: int, context: tuple) -> float:
        probability = 1 / self.vocabulary_size
        for length in range(len(context) + 1):
            nearest = context[len(context) - length :]
            seen = self.tables[length].get(nearest)
            if seen is None:
                break  # nor was any longer one
            discount = self.discounts[length]
            kept = max(seen[word] - discount, 0)
            given_away = discount * len(seen)
            total = self.totals_by_length[length][nearest]
            probability = (kept + given_away * probability) / total
        return probability


def totals_of(followers: dict[tuple, Counter]) -> dict[tuple, int]:
    return {context: words.total() for context, words in followers.items()}


def discount_of(followers: dict[tuple, Counter]) -> float:
    """What to take off each count: n₁ / (n₁ + 2·n₂), where n₁ and n₂ pairs have the
    counts 1 and 2 (Ney, Essen and Kneser, 1994)."""
    counts = [count for words in followers.values() for count in words.values()]
    once = counts.count(1)
    twice = counts.count(2)
    return once / (once + 2 * twice) if once else 0.5


def score_chain(chain: MarkovChain, ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """p of the word at each place after those before it, of any shape."""
    words = ids.tolist()
    found = [
        chain.probability(
            words[place], tuple(words[max(0, place - chain.back) : place])
        )
        for place in places.ravel().tolist()
    ]
    return np.reshape(found, places.shape)


@keras.saving.register_keras_serializable("language_model")
class WordVectors(layers.Embedding):
    """A table of word vectors, that can be read both ways."""

    def call(self, inputs, reverse: bool = False):
        """Vectors of words (batch, time); or `reverse`: the product of each vector
        (batch, time, units) with each word's, (batch, time, words)."""
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))
        return super().call(inputs)

    def compute_output_spec(self, inputs, reverse: bool = False):
        if not reverse:
            return super().compute_output_spec(inputs)
        shape = (*inputs.shape[:-1], self.input_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


def build_model(
    vocabulary_size: int,
    units: int,
    dropout: float,
    tied: bool = True,
    streams: int | None = None,
    name: str = "language_model",
) -> keras.Model:
    """Input: words as numbers (batch, time). Output: the logits of what comes next,
    (batch, time, vocabulary_size).

    tied: the table of word vectors is the output layer's as well.
    streams: the size of each batch, of a model whose calls go on from the state that
        the last one left; None begins each call in an empty state.
    """
    ids = keras.Input((None,), batch_size=streams, dtype="int32", name="ids")
    table = WordVectors(vocabulary_size, units, name="word_vectors")
    # Long vectors at the LSTM's gates, short ones in the logits, of one table.
    x = layers.Rescaling(math.sqrt(units))(table(ids))
    x = layers.Dropout(dropout)(x)
    x = layers.LSTM(units, return_sequences=True, stateful=streams is not None)(x)
    # A new LSTM's outputs are far below 1. At unit scale the logits learn faster.
    x = layers.LayerNormalization()(x)
    x = layers.Dropout(dropout)(x)
    if tied:
        logits = table(x, reverse=True)
    else:
        logits = layers.Dense(vocabulary_size, use_bias=False, name="logits")(x)
    logits = layers.Activation("linear", dtype="float32")(logits)
    return keras.Model(ids, logits, name=name)


def in_chunks(ids: np.ndarray, streams: int, chunk: int):
    """Cuts a text into equal streams, to be read side by side, and these into chunks.

    Returns (inputs, targets), both (chunks * streams, chunk): batch k is the k-th chunk
    of every stream, and a target is what comes after its input. What is left over is
    dropped.
    """
    chunks = (len(ids) - 1) // (streams * chunk)
    used = streams * chunks * chunk

    def cut(part):
        by_stream = part.reshape(streams, chunks, chunk)
        return by_stream.swapaxes(0, 1).reshape(chunks * streams, chunk)

    return cut(ids[:used]), cut(ids[1 : used + 1])


def forget(model: keras.Model) -> None:
    """Empties the state of a stateful model."""
    for layer in model.layers:
        if isinstance(layer, layers.LSTM):
            layer.reset_state()


@tf.function
def score_batch(model: keras.Model, inputs, targets):
    """p of each target after all that was read, (batch, time)."""
    logits = model(inputs, training=False)
    return tf.exp(-tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))


def score_model(model: keras.Model, inputs, targets, streams: int) -> np.ndarray:
    """p of the words that came, (chunks * streams, chunk), in the order of `in_chunks`.
    model: stateful."""
    forget(model)
    found = []
    for start in range(0, len(inputs), streams):
        batch = slice(start, start + streams)
        found.append(score_batch(model, inputs[batch], targets[batch]))
    return np.concatenate(found).astype("float64")


def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """A mixture of two models is a model: its probabilities sum to 1 as theirs do."""
    return share * first + (1 - share) * second


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    rates = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=steps,
        warmup_target=learning_rate,
        warmup_steps=steps // 10,
    )
    model.compile(
        keras.optimizers.Adam(rates, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def start_empty(model: keras.Model) -> keras.callbacks.Callback:
    """Lets each text be read from its start, with an empty state."""
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: forget(model),
        on_test_begin=lambda *_: forget(model),
    )


def build_predictor(words: list[str], model: keras.Model) -> keras.Model:
    """Input: words (batch, time), strings in lower case. Outputs: `probabilities` of
    each of the vocabulary to come next, (batch, words), and the `likeliest` of them.

    model: of `build_model`, without a state.
    """
    text = keras.Input((None,), dtype="string", name="words")
    known = words[1:]  # number 0 is what a lookup gives to all others
    ids = layers.StringLookup(vocabulary=known, oov_token=UNKNOWN)(text)
    probabilities = ops.softmax(model(ids)[:, -1])
    _, numbers = ops.top_k(probabilities, min(LIKELIEST, len(words)))
    names = layers.StringLookup(vocabulary=known, oov_token=UNKNOWN, invert=True)
    outputs = {"probabilities": probabilities, "likeliest": names(numbers)}
    return keras.Model(text, outputs, name="language_model")


# --------------------------------------------------------------------------------------
# The experiment: chains by order and smoothing, the LSTM, and both together
# --------------------------------------------------------------------------------------

CHAINS = {
    "maximum likelihood": MarkovChain,
    "add-one": AddOne,
    "Kneser-Ney": KneserNey,
}
SHARES = np.linspace(0, 1, 21)  # of the LSTM in a mixture
PROMPT = "the value of"
WRITTEN = 50  # words of a sample
ENOUGH_EPOCHS = 6  # after fewer the LSTM is far from what it can learn
EXCERPT = 32  # words of the held-out text that are drawn one by one


@dataclass
class Setting:
    """What is changed of the LSTM."""

    tied: bool = True
    dropout: bool = True


MODELS = {
    "LSTM": Setting(),
    "without dropout": Setting(dropout=False),
    "untied": Setting(tied=False),
}


@dataclass
class Text:
    """Words as numbers."""

    words: list[str]
    """by their numbers"""
    train: np.ndarray
    validation: np.ndarray
    """the end of the training text: what is picked is picked here"""
    test: np.ndarray


def load_words(config: Config) -> Text:
    learned, test = data.load_text(config.data)
    learned_words = words_of(learned)
    boundary = len(learned_words) * 9 // 10
    train = learned_words[:boundary]
    frequent = Counter(train).most_common(config.vocabulary)
    known = [word for word, count in frequent if count >= config.least_count]
    if not known:
        raise UsageError(
            f"{config.data}: no word comes {config.least_count:,} times or more in the "
            "training text: more text, or a smaller --least-count"
        )
    words = [UNKNOWN, *known]
    text = Text(
        words,
        encode(train, words),
        encode(learned_words[boundary:], words),
        encode(words_of(test), words),
    )
    shortest = min(len(text.validation), len(text.test))
    if config.streams * config.chunk >= shortest:
        raise UsageError(
            f"--streams {config.streams} times --chunk {config.chunk} must be less "
            f"than the {shortest:,} words held out"
        )
    return text


def encode(words: list[str], known: list[str]) -> np.ndarray:
    number = {word: i for i, word in enumerate(known)}
    return np.array([number.get(word, 0) for word in words], "int32")


@dataclass
class Scores:
    """What a model gave the words that came, in the order of `in_chunks`."""

    validation: np.ndarray
    test: np.ndarray

    @property
    def perplexity(self) -> float:
        return perplexity(self.test)


def score_chains(text: Text, config: Config, run: Run) -> dict[str, dict[int, Scores]]:
    """By the kind of chain and its order."""
    size = config.streams, config.chunk
    validation = in_chunks(np.arange(len(text.validation)), *size)[1]
    test = in_chunks(np.arange(len(text.test)), *size)[1]
    plain = [count_followers(text.train, length) for length in range(max(ORDERS))]
    scores = {kind: {} for kind in CHAINS}
    for order in run.track(ORDERS, "n-grams", "orders"):
        for kind, chain_class in CHAINS.items():
            chain = chain_class(plain[:order], len(text.words))
            scores[kind][order] = Scores(
                score_chain(chain, text.validation, validation),
                score_chain(chain, text.test, test),
            )
    return scores


def train_model(name: str, text: Text, config: Config, run: Run):
    """The model as it was after its best epoch, and its perplexity on validation data
    by epoch."""
    setting = MODELS[name]
    dropout = config.dropout if setting.dropout else 0.0
    model = build_model(
        len(text.words),
        config.units,
        dropout,
        setting.tied,
        config.streams,
        name.replace(" ", "_"),
    )
    inputs, targets = in_chunks(text.train, config.streams, config.chunk)
    steps = config.epochs * len(inputs) // config.streams
    compile_model(model, config.learning_rate, steps)
    keep_best = keras.callbacks.EarlyStopping(
        patience=config.epochs, restore_best_weights=True
    )
    history = training.fit(
        model,
        inputs,
        targets,
        batch_size=config.streams,
        epochs=config.epochs,
        shuffle=False,
        validation_data=in_chunks(text.validation, config.streams, config.chunk),
        callbacks=[start_empty(model), keep_best, *run.callbacks],
    ).history
    return model, np.exp(history["val_loss"])


def score_text(model: keras.Model, text: Text, config: Config) -> Scores:
    size = config.streams, config.chunk
    return Scores(
        score_model(model, *in_chunks(text.validation, *size), config.streams),
        score_model(model, *in_chunks(text.test, *size), config.streams),
    )


def pick_share(model: Scores, chain: Scores) -> float:
    """Of the model in its mixture with the chain, by validation."""
    found = [
        perplexity(mix(model.validation, chain.validation, share)) for share in SHARES
    ]
    return float(SHARES[np.argmin(found)])


def judge_chains(
    chains: dict[str, dict[int, Scores]], run: Run
) -> tuple[dict[int, float], dict[str, dict[int, float]]]:
    """Returns the share of words never seen by order, and perplexities by kind and
    order."""
    unseen = {
        order: float(np.mean(scores.test == 0))
        for order, scores in chains["maximum likelihood"].items()
    }
    perplexities = {
        kind: {order: scores.perplexity for order, scores in chains[kind].items()}
        for kind in ("add-one", "Kneser-Ney")
    }
    run.metrics(
        "unseen_order",
        {str(n): each for n, each in unseen.items()},
        unit="share of words never seen after their context",
    )
    for kind, by_order in perplexities.items():
        named = {f"{kind} order {order}": each for order, each in by_order.items()}
        run.metrics("perplexity", named)

    shares = ", ".join(f"{share:.0%} at order {n}" for n, share in unseen.items())
    run.claim(
        "By counts alone a Markov chain holds words that come impossible, the more the "
        "longer it looks back: its perplexity is infinite",
        holds=unseen[2] > 0.05 and unseen[4] > 0.4,
        measured=f"held-out words never seen after their context: {shares} (more than "
        "5% at order 2 and 40% at order 4 wanted)",
    )
    add_one = perplexities["add-one"]
    kneser_ney = perplexities["Kneser-Ney"]
    run.claim(
        "A third word of context helps Kneser-Ney; add-one, which gives nearly all to "
        "what was never seen, it harms",
        holds=1.1 * kneser_ney[3] < kneser_ney[2] and add_one[3] > 1.3 * add_one[2],
        measured=f"perplexity at orders 2 and 3: Kneser-Ney {kneser_ney[2]:.1f} and "
        f"{kneser_ney[3]:.1f} (1.1 times less wanted), add-one {add_one[2]:.1f} and "
        f"{add_one[3]:.1f} (1.3 times more wanted)",
    )
    run.compare(
        "Kneser-Ney beats add-one, each at the order that is best for it",
        {"add-one": min(add_one.values()), "Kneser-Ney": min(kneser_ney.values())},
        more="add-one",
        less="Kneser-Ney",
        times=1.5,
    )
    return unseen, perplexities


def draw_orders(
    unseen: dict[int, float], perplexities: dict[str, dict[int, float]]
) -> plt.Figure:
    orders = np.array(ORDERS)
    return figures.panels(
        figures.Panel(
            title="Words that never came after their context",
            xlabel="n of the n-grams",
            ylabel="share of the held-out text",
            lines={"maximum likelihood": (orders, list(unseen.values()))},
            xticks=ORDERS,
            ylim=(0, 1),
        ),
        figures.Panel(
            title="Perplexity on the held-out text",
            xlabel="n of the n-grams",
            ylabel="perplexity",
            lines={
                kind: (orders, list(by_order.values()))
                for kind, by_order in perplexities.items()
            },
            xticks=ORDERS,
            ylim=(0, None),
        ),
    )


def draw_learning(curves: dict[str, np.ndarray], chain: float) -> plt.Figure:
    epochs = len(curves["LSTM"])
    return figures.panels(
        figures.Panel(
            title="Perplexity on the validation text",
            xlabel="epoch",
            ylabel="perplexity",
            lines=curves,
            levels={"Kneser-Ney": chain},
            xticks=range(1, epochs + 1) if epochs <= 12 else None,
        )
    )


def start_of(values: np.ndarray, streams: int) -> np.ndarray:
    """What belongs to the first words of each stream, (streams, EXCERPT) or less.
    values: (chunks * streams, chunk), in the order of `in_chunks`."""
    by_stream = values.reshape(-1, streams, values.shape[1]).swapaxes(0, 1)
    return by_stream.reshape(streams, -1)[:, :EXCERPT]


def draw_surprise(
    text: Text, model: Scores, chain: Scores, config: Config
) -> plt.Figure:
    """Bits of each word of an excerpt, by both."""
    _, targets = in_chunks(text.test, config.streams, config.chunk)
    came = start_of(targets, config.streams)
    # Of the streams the one that begins with the most different words.
    stream = int(np.argmax([len(set(words)) for words in came]))
    bits = {
        "LSTM": -np.log2(start_of(model.test, config.streams)[stream]),
        "Kneser-Ney": -np.log2(start_of(chain.test, config.streams)[stream]),
    }
    words = [text.words[word] for word in came[stream]]
    figure, axes = plt.subplots(figsize=(11, 4.5))
    for marker, (name, values) in zip("os", bits.items(), strict=True):
        axes.plot(values, marker=marker, label=name)
    axes.set_xticks(range(len(words)), words, rotation=60, ha="right")
    axes.set(
        title="How surprised both are by each word of the held-out text",
        ylabel="−log₂ p (bits)",
        ylim=(0, None),
    )
    axes.legend()
    return figure


def judge_models(
    models: dict[str, Scores],
    chain: Scores,
    known: np.ndarray,
    sizes: dict[str, int],
    config: Config,
    run: Run,
) -> dict[str, float]:
    """chain: the best of the n-grams. known: which words of the held-out text are in
    the vocabulary. sizes: weights of each model. Returns perplexities on that text."""
    lstm = models["LSTM"]
    share = pick_share(lstm, chain)
    both = mix(lstm.test, chain.test, share)
    found = {name: scores.perplexity for name, scores in models.items()}
    found["Kneser-Ney"] = chain.perplexity
    found["both"] = perplexity(both)
    run.metric("perplexity", found["both"], unit="of LSTM and Kneser-Ney together")
    run.metrics("perplexity", found)
    of_known = {
        "LSTM": perplexity(lstm.test[known]),
        "Kneser-Ney": perplexity(chain.test[known]),
        "both": perplexity(both[known]),
    }
    run.metrics("perplexity_without_unknown", of_known)
    run.metric("share_of_lstm", share, unit="in the mixture, picked on validation data")

    if config.epochs >= ENOUGH_EPOCHS:
        run.compare(
            "The LSTM beats Kneser-Ney at the order that is best by validation, even on "
            "so short a text",
            found,
            more="Kneser-Ney",
            less="LSTM",
            times=1.05,
        )
    else:
        run.print("so few epochs: the LSTM is not held against Kneser-Ney")
    better = min(found["LSTM"], found["Kneser-Ney"])
    run.claim(
        "They know different things: LSTM and Kneser-Ney mixed are better than either",
        holds=found["both"] < better / 1.05,
        measured=f"perplexity: both {found['both']:.2f}, LSTM {found['LSTM']:.2f}, "
        f"Kneser-Ney {found['Kneser-Ney']:.2f} (1.05 times less than the better one "
        "wanted)",
    )
    judge_settings(found, sizes, run)
    return found


def judge_settings(
    perplexities: dict[str, float], sizes: dict[str, int], run: Run
) -> None:
    if "without dropout" in perplexities:
        run.compare(
            "Dropout lowers the perplexity, though each stops at its best epoch",
            {name: perplexities[name] for name in ("LSTM", "without dropout")},
            more="without dropout",
            less="LSTM",
            times=1.03,
        )
    if "untied" in perplexities:
        run.metrics("weights", sizes)
        run.claim(
            "One table of word vectors for input and output saves a quarter of the "
            "weights or more; a lower perplexity, as of larger models, it does not bring "
            "here, nor a much higher one",
            holds=sizes["LSTM"] < 0.75 * sizes["untied"]
            and perplexities["LSTM"] < 1.2 * perplexities["untied"],
            measured=f"weights: tied {sizes['LSTM']:,}, untied {sizes['untied']:,}; "
            f"perplexity: tied {perplexities['LSTM']:.2f}, untied "
            f"{perplexities['untied']:.2f} (less than 1.2 times wanted)",
        )


def write(model: keras.Model, text: Text, random: np.random.Generator) -> str:
    """Goes on from the prompt, each word drawn as the model expects it, never <unk>.
    model: stateful, of one stream."""
    read = tf.function(lambda ids: tf.nn.softmax(model(ids)[0, -1]))
    forget(model)
    ids = encode(words_of(PROMPT), text.words)
    written = words_of(PROMPT)
    for _ in range(WRITTEN):
        expected = read(tf.constant(ids[np.newaxis])).numpy().astype("float64")
        expected[0] = 0
        word = random.choice(len(expected), p=expected / expected.sum())
        ids = np.array([word], "int32")
        written.append(text.words[word])
    return " ".join(written)


def write_by_counts(text: Text, random: np.random.Generator) -> str:
    """The same by a Markov chain that looks back two words."""
    followers = count_followers(text.train, 2)
    written = encode(words_of(PROMPT), text.words).tolist()
    for _ in range(WRITTEN):
        seen = followers.get(tuple(written[-2:]))
        if not seen:
            break
        counts = np.array(list(seen.values()))
        written.append(int(random.choice(list(seen), p=counts / counts.sum())))
    return " ".join(text.words[word] for word in written)


def main(config: Config, run: Run) -> None:
    chosen = list(MODELS)[: config.models]
    run.plan(len(chosen))
    text = load_words(config)
    chains = score_chains(text, config, run)
    of_validation = {
        order: perplexity(scores.validation)
        for order, scores in chains["Kneser-Ney"].items()
    }
    best = min(of_validation, key=of_validation.get)
    chain = chains["Kneser-Ney"][best]

    networks = {}
    curves = {}
    for name in chosen:
        networks[name], curves[name] = train_model(name, text, config, run)
    models = {name: score_text(each, text, config) for name, each in networks.items()}
    targets = in_chunks(text.test, config.streams, config.chunk)[1]
    sizes = {name: each.count_params() for name, each in networks.items()}
    perplexities = judge_models(models, chain, targets != 0, sizes, config, run)
    run.metric("vocabulary", len(text.words))
    run.metric("unknown_words", np.mean(text.test == 0), unit="of the held-out text")
    unseen, by_order = judge_chains(chains, run)

    run.figure("orders", draw_orders(unseen, by_order))
    run.figure("learning", draw_learning(curves, of_validation[best]))
    bars = figures.Panel(
        title=f"The held-out text, {len(text.words):,} words told apart",
        xlabel="perplexity",
        bars=perplexities,
        number="{:.1f}",
    )
    run.figure("perplexities", figures.panels(bars))
    run.figure("surprise", draw_surprise(text, models["LSTM"], chain, config))

    weights = networks["LSTM"].get_weights()
    writer = build_model(len(text.words), config.units, config.dropout, streams=1)
    writer.set_weights(weights)
    random = np.random.default_rng(run.seed)
    run.print(f"\nBy counts: {write_by_counts(text, random)}")
    run.print(f"\nLSTM: {write(writer, text, random)}\n")

    reader = build_model(len(text.words), config.units, config.dropout)
    reader.set_weights(weights)
    predictor = build_predictor(text.words, reader)
    run.export(predictor, example=np.array([words_of(PROMPT)], object))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
