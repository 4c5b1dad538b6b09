"""Words as vectors, learned from the company that they keep.

A one-hot code says of two words only that they differ. Skip-gram gives each word w a
vector and each context c (a word nearby) another, and learns to tell the pairs of a
text from k pairs whose context n is noise, drawn from a distribution P:

    −log σ(w·c) − Σ log σ(−w·n)        optimum: w·c = PMI(w, c) − log k

PMI, the pointwise mutual information, is the logarithm of how many times more often
than by chance the two stand together. GloVe fits w·c and two biases to the logarithm of
a pair's count, and a singular value decomposition (SVD) factorizes the table of PMI.
All three draw words together whose contexts are alike.
Look at the ranking of pairs in a text held out: of contexts equally frequent, which one
was it? The table of counts knows that as well, but not for pairs that it never saw.

Lectures: SEL RNNs for Language Modeling; INFO Recurrent models and NLP
Paper: Mikolov et al., Distributed representations of words and phrases and their
    compositionality, 2013 (equations 4 and 5); Levy and Goldberg, Neural word embedding
    as implicit matrix factorization, 2014 (equation 7); Pennington et al., GloVe:
    global vectors for word representation, 2014 (equations 8 and 9)
Tags: word2vec, skip-gram, sgns, glove, negative sampling, pointwise mutual information,
    analogies, nlp
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy import sparse
from scipy.sparse.linalg import svds
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from deep_learning_recipes import UsageError, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "prose"
    """prose (embedded: the manual of Python), or your own text: a .txt or .md file, or
    a folder of them"""
    dimensions: Annotated[int, Interval(ge=2, le=1000)] = 64
    """numbers in a vector"""
    window: Annotated[int, Interval(ge=1, le=50)] = 5
    """how many words away a context may be"""
    negatives: Annotated[int, Interval(ge=1, le=100)] = 5
    """k, pairs of noise for each pair of the text"""
    least_count: int = 5
    """how often a word has to come to get a vector; others are taken out"""
    vocabulary: Annotated[int, Interval(ge=50, le=20_000)] = 5000
    """words that get a vector at most, the most frequent ones"""
    epochs: int = 6
    """passes over the training text of each skip-gram"""
    glove_epochs: int = 25
    """passes of GloVe over the pairs that it counted"""
    batch_size: int = 1024
    """pairs that a gradient is averaged over"""
    learning_rate: float = 0.01
    """of Adam, at the start; it falls along a line"""


QUICK = Config(
    dimensions=32,
    window=3,
    negatives=2,
    epochs=3,
    glove_epochs=5,
    batch_size=2048,
    learning_rate=0.02,
)
FULL = Config(dimensions=128, epochs=20, glove_epochs=50)

# --------------------------------------------------------------------------------------
# The idea: pairs of a text against pairs of noise, and the table behind them
# --------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words in lower case, numbers and names such as __init__ among them."""
    return re.findall(r"\w+", text.lower())


def keep_probability(counts: np.ndarray, threshold: float) -> np.ndarray:
    """How likely each word stays in the text, (words,): √(threshold / its share), at
    most 1. The most frequent words say least about their neighbors."""
    share = counts / counts.sum()
    return np.minimum(1, np.sqrt(threshold / np.maximum(share, 1e-12)))


def pairs_in_windows(ids: np.ndarray, paragraphs: np.ndarray, reach: np.ndarray):
    """Each word with each one that is at most its reach away, in the same paragraph.

    All (positions,): the word's number, its paragraph's number, and how far it looks.
    Returns (words, contexts), both (pairs,).
    """
    words = []
    contexts = []
    for distance in range(1, int(reach.max()) + 1):
        together = paragraphs[distance:] == paragraphs[:-distance]
        left = ids[:-distance]
        right = ids[distance:]

        left_sees = together & (reach[:-distance] >= distance)
        words.append(left[left_sees])
        contexts.append(right[left_sees])

        right_sees = together & (reach[distance:] >= distance)
        words.append(right[right_sees])
        contexts.append(left[right_sees])
    return np.concatenate(words), np.concatenate(contexts)


def noise_distribution(counts: np.ndarray, power: float) -> np.ndarray:
    """P(n) of a word as noise, (words,): its count to a power. Below 1 rare words are
    noise more often than they come."""
    raised = counts.astype("float64") ** power
    return raised / raised.sum()


def build_skip_gram(vocabulary_size: int, dimensions: int) -> keras.Model:
    """Inputs: word (batch,) and contexts (batch, n), as numbers. Output: the products
    w·c, (batch, n)."""
    word = keras.Input((), dtype="int32", name="word")
    contexts = keras.Input((None,), dtype="int32", name="contexts")
    start = keras.initializers.RandomUniform(-0.5, 0.5)
    # A row of this table is what a one-hot code times a weight matrix would give.
    w = layers.Embedding(vocabulary_size, dimensions, start, name="word_vectors")(word)
    c = layers.Embedding(vocabulary_size, dimensions, "zeros", name="context_vectors")(
        contexts
    )
    products = layers.Dot(axes=(2, 1), dtype="float32", name="products")([c, w])
    return keras.Model({"word": word, "contexts": contexts}, products)


def negative_sampling_loss(products):
    """−log σ(w·c) − Σ log σ(−w·n), the mean over the batch.

    products: (batch, 1 + k), the first with the context that came, then k of noise.
    """
    came = ops.softplus(-products[:, 0])
    noise = ops.sum(ops.softplus(products[:, 1:]), axis=1)
    return ops.mean(came + noise)


def update(model: keras.Model, optimizer, word, contexts):
    """One step on a batch: word (batch,), contexts (batch, 1 + k). Returns the loss."""
    with tf.GradientTape() as tape:
        products = model({"word": word, "contexts": contexts})
        loss = negative_sampling_loss(products)
        scaled = optimizer.scale_loss(loss)  # does nothing but in float16
    gradients = tape.gradient(scaled, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


def train_epoch(model: keras.Model, optimizer, words, contexts):
    """A step on each batch: words (steps, batch), contexts (steps, batch, 1 + k).
    Returns the mean loss."""
    total = tf.constant(0.0)
    for step in tf.range(tf.shape(words)[0]):
        total += update(model, optimizer, words[step], contexts[step])
    return total / tf.cast(tf.shape(words)[0], "float32")


def count_pairs(
    ids: np.ndarray, paragraphs: np.ndarray, weights: np.ndarray, vocabulary_size: int
) -> sparse.csr_matrix:
    """How often each two words stand together, (words, words), symmetric.

    weights: (window,), what a pair counts at distance 1, 2, ...
    """
    shape = (vocabulary_size, vocabulary_size)
    counts = sparse.csr_matrix(shape)
    for distance, weight in enumerate(weights, start=1):
        together = paragraphs[distance:] == paragraphs[:-distance]
        left = ids[:-distance][together]
        right = ids[distance:][together]
        found = np.full(len(left), weight)
        counts += sparse.coo_matrix((found, (left, right)), shape=shape)
    return (counts + counts.T).tocsr()


def pmi_table(counts: sparse.csr_matrix, power: float = 1.0) -> sparse.csr_matrix:
    """log #(w, c) / (#(w) · P(c)) of the pairs that were seen, (words, words).

    The others, whose logarithm would be −∞, are left out. power: of the counts in P; at
    1 this is the PMI.
    """
    table = counts.tocoo()
    of_words = np.asarray(counts.sum(axis=1)).ravel()
    noise = noise_distribution(np.asarray(counts.sum(axis=0)).ravel(), power)
    values = np.log(table.data / (of_words[table.row] * noise[table.col]))
    return sparse.csr_matrix((values, (table.row, table.col)), shape=counts.shape)


def factorize(table: sparse.csr_matrix, dimensions: int):
    """The best product of two matrices of so many columns (SVD). Returns the words'
    vectors U·S and the contexts' V, (words, dimensions) each."""
    u, s, vt = svds(table, k=dimensions, random_state=0)
    return u * s, vt.T


def expected_loss(products, counts, noise, negatives: int):
    """What negative sampling minimizes on average if it meets each pair as often as it
    was counted (Levy and Goldberg 2014, equation 3), per pair.

    products, counts: (words, words). noise: P(n), (words,).
    """
    of_words = ops.sum(counts, axis=1, keepdims=True)
    came = counts * ops.softplus(-products)
    drawn = negatives * of_words * noise * ops.softplus(products)
    return ops.sum(came + drawn) / ops.sum(counts)


@tf.function
def minimize_expected_loss(
    model: keras.Model, optimizer, counts, noise, negatives: int, steps
):
    """So many steps of skip-gram on all pairs at once. counts: (words, words)."""
    words = tf.range(tf.shape(counts)[0])
    contexts = tf.repeat(words[tf.newaxis], tf.shape(counts)[0], axis=0)
    for _ in tf.range(steps):
        with tf.GradientTape() as tape:
            products = model({"word": words, "contexts": contexts})
            loss = expected_loss(products, counts, noise, negatives)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)


def glove_weights(counts: np.ndarray, largest: float = 10, power: float = 0.75):
    """f of equation 9: rare pairs weigh less, frequent ones no more than 1. `largest`
    is 100 for the paper's billions of words."""
    return np.minimum(1, (counts / largest) ** power)


def build_glove(vocabulary_size: int, dimensions: int) -> keras.Model:
    """Inputs: word and context, numbers (batch,). Output: w·c + b + b', (batch, 1),
    which is trained to be the logarithm of the pair's count."""
    word = keras.Input((), dtype="int32", name="word")
    context = keras.Input((), dtype="int32", name="context")
    start = keras.initializers.RandomUniform(-0.5 / dimensions, 0.5 / dimensions)

    w = layers.Embedding(vocabulary_size, dimensions, start, name="word_vectors")(word)
    c = layers.Embedding(vocabulary_size, dimensions, start, name="context_vectors")(
        context
    )
    product = layers.Dot(axes=1, dtype="float32")([w, c])
    bias_w = layers.Embedding(vocabulary_size, 1, "zeros", name="word_biases")(word)
    bias_c = layers.Embedding(vocabulary_size, 1, "zeros", name="context_biases")(
        context
    )
    logarithm = layers.Add(dtype="float32")([product, bias_w, bias_c])
    return keras.Model({"word": word, "context": context}, logarithm)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each vector at length 1, so that products are cosines."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def analogy_rank(vectors: np.ndarray, a: int, b: int, c: int, d: int) -> int:
    """The place of d, from 1 on, among all words but a, b and c by their cosine with
    b − a + c: "a is to b as c is to d". vectors: (words, dimensions), of length 1."""
    cosines = vectors @ (vectors[b] - vectors[a] + vectors[c])
    return rank_without(cosines, d, [a, b, c])


def neighbor_rank(vectors: np.ndarray, a: int, b: int, c: int, d: int) -> int:
    """The same by the cosine with c alone: what an analogy is worth if a and b say
    nothing."""
    return rank_without(vectors @ vectors[c], d, [a, b, c])


def rank_without(scores: np.ndarray, wanted: int, left_out: list[int]) -> int:
    better = scores > scores[wanted]
    better[left_out] = False
    return 1 + int(better.sum())


def build_finder(words: list[str], vectors: np.ndarray, neighbors: int) -> keras.Model:
    """A dictionary of likeness. Input: words (batch,), strings. Outputs: `vector`
    (batch, dimensions), and `neighbors` (batch, neighbors) with their `cosines`. An
    unknown word has the vector 0.

    vectors: (words, dimensions), of length 1.
    """
    word = keras.Input((), dtype="string", name="word")
    number = layers.StringLookup(vocabulary=words)(word)  # 0: unknown
    table = layers.Embedding(len(words) + 1, vectors.shape[1], name="table")
    vector = table(number)
    all_words = layers.Dense(len(words), use_bias=False, name="all_words")
    cosines = all_words(vector)
    table.set_weights([np.concatenate([np.zeros_like(vectors[:1]), vectors])])
    all_words.set_weights([vectors.T])

    # A word is not its own neighbor.
    itself = ops.one_hot(number - 1, len(words), dtype=cosines.dtype)
    nearest, places = ops.top_k(cosines - 4 * itself, neighbors)
    names = layers.StringLookup(vocabulary=words, invert=True)(places + 1)
    outputs = {"vector": vector, "neighbors": names, "cosines": nearest}
    return keras.Model(word, outputs, name="word_embeddings")


# --------------------------------------------------------------------------------------
# The experiment: four ways to vectors, and what each choice is worth
# --------------------------------------------------------------------------------------

LEAST_WORDS = 50  # different ones, without which there is nothing to compare
FREQUENT_WORDS = 40  # on which the optimum is sought exactly
OPTIMUM_STEPS = 1200
FREQUENT_PAIRS = 2000  # whose PMI is known well
NEIGHBORS = 6
SVD = "PMI + SVD"
TABLE = "table of PMI"
FREQUENCY = "frequency alone"

# Words of Python's manual, singular and plural.
PLURALS = """
class classes object objects method methods value values function functions name
names string strings type types statement statements expression expressions argument
arguments attribute attributes number numbers module modules list lists character
characters pattern patterns clause clauses target targets variable variables
exception exceptions operator operators parameter parameters sequence sequences
instance instances item items rule rules literal literals operand operands tuple
tuples index indices key keys keyword keywords block blocks context contexts
"""

KINDS = {
    "exceptions": """valueerror typeerror attributeerror syntaxerror runtimeerror
        zerodivisionerror""",
    "statements": "import while for try with return raise del assert",
    "formats": "width precision alignment padding fill decimal digits",
    "special methods": "__getattr__ __setattr__ __get__ __set__ __del__ __getitem__",
    "debugging": "breakpoint pdb command debugger stack debugging",
}
LOOKED_UP = "raised list integer false two while __getattr__ breakpoint"


@dataclass
class Setting:
    """What is changed of skip-gram."""

    subsample: float = 1.0
    """words more frequent than this share of the text are thinned out"""
    power: float = 0.75
    """of the counts, in the distribution of the noise"""
    shuffled: bool = False
    """the words of the text in a random order: their company says nothing"""


SETTINGS = {
    "skip-gram": Setting(),
    "subsampled": Setting(subsample=1e-3),
    "power 0": Setting(power=0.0),
    "power 1": Setting(power=1.0),
    "shuffled text": Setting(shuffled=True),
}


@dataclass
class Text:
    """The known words of a text as numbers."""

    ids: np.ndarray
    """(positions,)"""
    paragraphs: np.ndarray
    """to which each belongs, (positions,)"""


@dataclass
class Corpus:
    """A text to learn from, one held out, and their words."""

    words: list[str]
    """by their numbers, the most frequent one first"""
    counts: np.ndarray
    """in the training text, (words,)"""
    train: Text
    test: Text

    def numbers(self, words: list[str]) -> list[int]:
        """Of those among them that the text knows."""
        return [self.words.index(word) for word in words if word in self.words]


def load_corpus(config: Config) -> Corpus:
    train, test = data.load_text(config.data)
    frequent = Counter(words_of(train)).most_common(config.vocabulary)
    words = [word for word, count in frequent if count >= config.least_count]
    least = max(LEAST_WORDS, config.dimensions + 1)
    if len(words) < least:
        raise UsageError(
            f"{config.data}: {len(words):,} words come {config.least_count:,} times or "
            f"more in the training text, and {least:,} are needed: more text, or a "
            "smaller --least-count or --dimensions"
        )
    learned = encode(train, words)
    held_out = encode(test, words)
    for part, text in (("training", learned), ("held-out", held_out)):
        if len(every_pair(text, window=1)[0]) < LEAST_WORDS:
            raise UsageError(
                f"{config.data}: too few of its frequent words stand side by side in "
                f"the {part} text"
            )
    counts = np.bincount(learned.ids, minlength=len(words))
    return Corpus(words, counts, learned, held_out)


def encode(text: str, words: list[str]) -> Text:
    """Words without a number are taken out, before any window is laid."""
    number = {word: i for i, word in enumerate(words)}
    ids = []
    paragraphs = []
    for paragraph, part in enumerate(text.split("\n\n")):
        known = [number[word] for word in words_of(part) if word in number]
        ids += known
        paragraphs += [paragraph] * len(known)
    return Text(np.array(ids, "int32"), np.array(paragraphs, "int32"))


def every_pair(text: Text, window: int):
    """All words that stand at most `window` apart: (words, contexts), (pairs,) each."""
    reach = np.full(len(text.ids), window)
    return pairs_in_windows(text.ids, text.paragraphs, reach)


@dataclass
class Counts:
    """How often words of the training text stand together, (words, words) each."""

    seen: sparse.csr_matrix
    """within the window"""
    by_reach: sparse.csr_matrix
    """as skip-gram meets them, whose reach is random: near ones more often"""
    by_distance: sparse.csr_matrix
    """as GloVe counts them: 1 / distance"""


def count(corpus: Corpus, window: int) -> Counts:
    distances = np.arange(1, window + 1)
    size = len(corpus.words)
    text = corpus.train
    return Counts(
        count_pairs(text.ids, text.paragraphs, np.ones(window), size),
        count_pairs(text.ids, text.paragraphs, 1 - (distances - 1) / window, size),
        count_pairs(text.ids, text.paragraphs, 1 / distances, size),
    )


@dataclass
class HeldOut:
    """Pairs of the held-out text, then each of their words with the context of another
    one: both kinds have the same words and the same contexts, equally often."""

    words: np.ndarray
    """(pairs,)"""
    contexts: np.ndarray
    """(pairs,)"""
    came: np.ndarray
    """whether they stand together in the text, (pairs,)"""
    is_new: np.ndarray
    """whether they never do in the training text, (pairs,)"""

    def rank(self, scores: np.ndarray) -> float:
        """How well scores (pairs,) tell what came: the area under the ROC curve."""
        return area(self.came, scores)

    def rank_new(self, scores: np.ndarray) -> float:
        """The same among the pairs that training never saw."""
        return area(self.came[self.is_new], scores[self.is_new])


def area(truth: np.ndarray, scores: np.ndarray) -> float:
    """Under the ROC curve; a half where there is nothing to tell apart."""
    if truth.all() or not truth.any():
        return 0.5
    return float(roc_auc_score(truth, scores))


def hold_out(corpus: Corpus, counts: Counts, config: Config, seed: int) -> HeldOut:
    words, contexts = every_pair(corpus.test, config.window)
    others = np.random.default_rng(seed).permutation(contexts)
    both = np.concatenate([words, words])
    contexts = np.concatenate([contexts, others])
    came = np.arange(len(both)) < len(words)
    seen = np.asarray(counts.seen[both, contexts]).ravel()
    return HeldOut(both, contexts, came, seen == 0)


@dataclass
class Vectors:
    """What one method has learned."""

    words: np.ndarray
    """whose cosines say how alike two words are, (words, dimensions)"""
    left: np.ndarray
    right: np.ndarray
    """of words and of contexts, (words, dimensions): their product says how well a pair
    fits"""

    def products(self, words: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """Of each pair, (pairs,)."""
        return np.sum(self.left[words] * self.right[contexts], axis=1)


def vectors_of(model: keras.Model) -> Vectors:
    words = model.get_layer("word_vectors").get_weights()[0]
    contexts = model.get_layer("context_vectors").get_weights()[0]
    return Vectors(words, words, contexts)


def draw_batches(corpus: Corpus, setting: Setting, config: Config, random):
    """An epoch's pairs in a random order, each with its noise: words (steps, batch) and
    contexts (steps, batch, 1 + negatives)."""
    ids = corpus.train.ids
    if setting.shuffled:
        ids = random.permutation(ids)
    stays = keep_probability(corpus.counts, setting.subsample)[ids]
    kept = random.random(len(ids)) < stays
    # Each word looks 1 to `window` far, so near contexts come more often than far ones.
    reach = random.integers(1, config.window + 1, size=kept.sum())
    paragraphs = corpus.train.paragraphs[kept]
    words, contexts = pairs_in_windows(ids[kept], paragraphs, reach)

    batch = min(config.batch_size, len(words))
    steps = len(words) // batch
    order = random.permutation(len(words))[: steps * batch]
    noise = random.choice(
        len(corpus.words),
        size=(len(order), config.negatives),
        p=noise_distribution(corpus.counts, setting.power),
    )
    contexts = np.concatenate([contexts[order, np.newaxis], noise], axis=1)
    words = words[order].reshape(steps, batch)
    return words, contexts.reshape(steps, batch, -1).astype("int32")


def train_skip_gram(name: str, corpus: Corpus, config: Config, run: Run) -> Vectors:
    random = np.random.default_rng(run.seed)
    model = build_skip_gram(len(corpus.words), config.dimensions)
    optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(model.trainable_variables)
    compiled_epoch = tf.function(
        partial(train_epoch, model, optimizer), reduce_retracing=True
    )
    state = {"model": model, "optimizer": optimizer, "random": random}
    for epoch in run.loop(name, config.epochs, state, unit="epochs"):
        words, contexts = draw_batches(corpus, SETTINGS[name], config, random)
        optimizer.learning_rate = config.learning_rate * (1 - epoch / config.epochs)
        compiled_epoch(tf.constant(words), tf.constant(contexts))
    return vectors_of(model)


def train_glove(corpus: Corpus, counts: Counts, config: Config, run: Run) -> Vectors:
    table = counts.by_distance.tocoo()
    model = build_glove(len(corpus.words), config.dimensions)
    steps = config.glove_epochs * math.ceil(table.nnz / config.batch_size)
    rates = keras.optimizers.schedules.PolynomialDecay(config.learning_rate, steps, 0.0)
    model.compile(keras.optimizers.Adam(rates), loss="mean_squared_error")
    training.fit(
        model,
        {"word": table.row.astype("int32"), "context": table.col.astype("int32")},
        np.log(table.data).astype("float32")[:, np.newaxis],
        sample_weight=glove_weights(table.data).astype("float32"),
        batch_size=config.batch_size,
        epochs=config.glove_epochs,
        callbacks=run.callbacks,
    )
    found = vectors_of(model)
    # The two are alike by symmetry, and their sum does better (section 4.2).
    return Vectors(found.left + found.right, found.left, found.right)


def decompose(counts: Counts, config: Config) -> Vectors:
    """The rival without any training: SVD of the PMI, what is below 0 taken as 0."""
    positive = pmi_table(counts.by_reach).maximum(0)
    words, contexts = factorize(positive, config.dimensions)
    return Vectors(words, words, contexts)


def find_optimum(counts: Counts, config: Config, run: Run):
    """The products that minimize the expected loss on the most frequent words, in as
    many dimensions as words, beside PMI − log k: (pairs,) each."""
    size = FREQUENT_WORDS
    table = counts.by_reach[:size, :size]
    noise = noise_distribution(np.asarray(table.sum(axis=0)).ravel(), power=1.0)
    model = build_skip_gram(size, size)
    rates = keras.optimizers.schedules.CosineDecay(0.1, OPTIMUM_STEPS)
    optimizer = keras.optimizers.Adam(rates)
    optimizer.build(model.trainable_variables)
    minimize_expected_loss(
        model,
        optimizer,
        tf.constant(table.toarray(), "float32"),
        tf.constant(noise, "float32"),
        config.negatives,
        tf.constant(OPTIMUM_STEPS),
    )
    expected = pmi_table(table).tocoo()
    products = vectors_of(model).products(expected.row, expected.col)
    shifted = expected.data - math.log(config.negatives)
    away = np.abs(products - shifted).max()
    run.claim(
        f"In enough dimensions the optimum of skip-gram is the PMI less log k: of the "
        f"{size} most frequent words, the largest distance of w·c from it (nats)",
        at_most=0.05,
        measured={f"over {len(products):,} pairs": away},
        any_data=True,
    )
    return shifted, products


@dataclass
class FrequentPairs:
    """Those that stand together most often, so that their PMI is known well."""

    words: np.ndarray
    contexts: np.ndarray
    pmi: np.ndarray
    log_frequency: np.ndarray
    """of the contexts"""


def frequent_pairs(corpus: Corpus, counts: Counts) -> FrequentPairs:
    table = counts.seen.tocoo()
    chosen = np.argsort(-table.data, kind="stable")[:FREQUENT_PAIRS]
    words = table.row[chosen]
    contexts = table.col[chosen]
    pmi = np.asarray(pmi_table(counts.by_reach)[words, contexts]).ravel()
    return FrequentPairs(words, contexts, pmi, np.log(corpus.counts[contexts]))


def judge_power(methods: dict[str, Vectors], pairs: FrequentPairs, run: Run) -> None:
    """The noise at power p is rarer than a context by its count to the power 1 − p, so
    the optimum is PMI + (1 − p) · log count, and a constant."""
    powers = {"power 0": 0.0, "skip-gram": 0.75, "power 1": 1.0}
    slopes = {}
    for name in powers:
        beyond_pmi = methods[name].products(pairs.words, pairs.contexts) - pairs.pmi
        slopes[name] = np.polyfit(pairs.log_frequency, beyond_pmi, 1)[0]
    run.metrics("slope", slopes, unit="of w·c − PMI over the context's log count")
    away = [abs(slopes[name] - (1 - power)) for name, power in powers.items()]
    found = ", ".join(
        f"{slopes[name]:.2f} at {power:g}" for name, power in powers.items()
    )
    run.claim(
        "The power of the noise decides how much of a context's frequency w·c holds: "
        "beyond the PMI it grows by 1 − power for each unit of the log count",
        holds=max(away) < 0.2,
        measured=f"slopes {found} (at most 0.2 from 1, 0.25 and 0 wanted)",
    )


@dataclass
class Ranks:
    """Areas under the ROC curve by method."""

    every: dict[str, float]
    new: dict[str, float]
    """on pairs that training never saw"""


def rank_pairs(
    methods: dict[str, Vectors], held_out: HeldOut, corpus: Corpus, counts: Counts
) -> Ranks:
    words = held_out.words
    contexts = held_out.contexts
    scores = {name: each.products(words, contexts) for name, each in methods.items()}
    table = np.asarray(pmi_table(counts.by_reach)[words, contexts]).ravel()
    # A pair that was never seen has a PMI of −∞, which stands below all others.
    scores[TABLE] = np.where(held_out.is_new, table.min() - 1, table)
    scores[FREQUENCY] = corpus.counts[contexts]
    return Ranks(
        {name: held_out.rank(each) for name, each in scores.items()},
        {name: held_out.rank_new(each) for name, each in scores.items()},
    )


def judge_ranks(ranks: Ranks, run: Run) -> None:
    run.metric("held_out_auc", ranks.every["skip-gram"])
    run.metrics("held_out_auc", ranks.every)
    run.metrics("new_pairs_auc", ranks.new)
    run.compare(
        "Words are known by their company: w·c tells the pairs of a held-out text from "
        "others of the same words and contexts; learned from shuffled words, it does "
        "not",
        ranks.every,
        more="skip-gram",
        less="shuffled text",
        by=0.05,
    )
    run.compare(
        "Vectors generalize: they tell pairs that training never saw as well, of which "
        "the table knows nothing; by how frequent the context is, it cannot be told",
        ranks.new,
        more="skip-gram",
        less=FREQUENCY,
        by=0.04,
    )
    alike = {name: ranks.every[name] for name in ("skip-gram", SVD, TABLE)}
    apart = max(alike.values()) - min(alike.values())
    listed = ", ".join(f"{name} {value:.3f}" for name, value in alike.items())
    run.claim(
        "Over all held-out pairs skip-gram, SVD of the PMI and the table itself are "
        "about as good: of so short a text, training learns no more than counting",
        holds=apart < 0.04,
        measured=f"{listed} ({apart:.3f} apart, less than 0.04 wanted)",
    )
    run.compare(
        "Pairs that do not come teach something: GloVe, fitted only to pairs that were "
        "seen, is worse at what it never saw",
        ranks.new,
        more="skip-gram",
        less="GloVe",
        by=0.02,
    )


def judge_subsampling(ranks: Ranks, corpus: Corpus, config: Config, run: Run) -> None:
    pairs = {}
    for name in ("skip-gram", "subsampled"):
        random = np.random.default_rng(run.seed)
        pairs[name] = draw_batches(corpus, SETTINGS[name], config, random)[0].size
    share = pairs["subsampled"] / pairs["skip-gram"]
    gain = ranks.every["subsampled"] - ranks.every["skip-gram"]
    run.metric("subsampled_pairs", share, unit="of all pairs of an epoch")
    run.claim(
        "Thinning out frequent words saves a third of the pairs or more; better "
        "vectors it does not give here, as it does from billions of words",
        holds=share < 0.67 and gain < 0.015,
        measured=f"{pairs['subsampled']:,} of {pairs['skip-gram']:,} pairs "
        f"({share:.0%}); AUC {ranks.every['subsampled']:.3f} with, "
        f"{ranks.every['skip-gram']:.3f} without",
    )


@dataclass
class Analogies:
    """Mean reciprocal ranks of the fourth word, by method."""

    by_offset: dict[str, float]
    by_neighbor: dict[str, float]
    """near the third word, whatever the first two are"""


def analogies_of(corpus: Corpus) -> list[tuple[int, int, int, int]]:
    """Each two pairs of singular and plural that the text knows."""
    words = PLURALS.split()
    pairs = []
    for one, many in zip(words[::2], words[1::2], strict=True):
        known = corpus.numbers([one, many])
        if len(known) == 2:
            pairs.append(known)
    return [(*p, *q) for p in pairs for q in pairs if p != q]


def solve_analogies(methods: dict[str, Vectors], questions) -> Analogies:
    found = Analogies({}, {})
    for name, each in methods.items():
        vectors = unit(each.words)
        by_offset = [1 / analogy_rank(vectors, *each) for each in questions]
        by_neighbor = [1 / neighbor_rank(vectors, *each) for each in questions]
        found.by_offset[name] = float(np.mean(by_offset))
        found.by_neighbor[name] = float(np.mean(by_neighbor))
    return found


def judge_analogies(found: Analogies, run: Run) -> None:
    run.metrics("analogy_mrr", found.by_offset, unit="mean reciprocal rank")
    run.metrics("neighbor_mrr", found.by_neighbor, unit="mean reciprocal rank")
    run.compare(
        "Plurals are found by analogy (class is to classes as list is to lists), "
        "though no letter of a word was seen",
        found.by_offset,
        more="skip-gram",
        less="shuffled text",
        by=0.05,
    )
    run.compare(
        "The offset b − a helps: near c alone less is found",
        {
            "c + b − a": found.by_offset["skip-gram"],
            "c alone": found.by_neighbor["skip-gram"],
        },
        more="c + b − a",
        less="c alone",
        by=0.01,
    )
    run.compare(
        "SVD of the PMI, which trains nothing, solves them no worse than skip-gram",
        found.by_offset,
        more=SVD,
        less="skip-gram",
        by=-0.02,
    )


def tell_kinds(vectors: Vectors, kinds: dict[str, list[int]]) -> float:
    """How well the cosine of two words tells whether they are of one kind: the area
    under the ROC curve, over all pairs of the kinds' words."""
    numbers = np.concatenate(list(kinds.values()))
    labels = np.repeat(np.arange(len(kinds)), [len(each) for each in kinds.values()])
    chosen = unit(vectors.words[numbers])
    one, other = np.triu_indices(len(numbers), k=1)
    cosines = np.sum(chosen[one] * chosen[other], axis=1)
    return area(labels[one] == labels[other], cosines)


def judge_kinds(
    methods: dict[str, Vectors], kinds: dict[str, list[int]], run: Run
) -> None:
    found = {name: tell_kinds(each, kinds) for name, each in methods.items()}
    run.metrics("kinds_auc", found, unit="of cosines, for pairs of one kind")
    run.compare(
        "Words of a kind lie together: exceptions, keywords, special methods; their "
        "cosines tell them from pairs of two kinds, those of shuffled words do not",
        found,
        more="skip-gram",
        less="shuffled text",
        by=0.15,
    )


def draw_ranks(ranks: Ranks) -> plt.Figure:
    titles = {"All held-out pairs": ranks.every, "Pairs never seen": ranks.new}
    shown = [
        figures.Panel(
            title=title,
            xlabel="area under the ROC curve (chance: 0.5)",
            bars=bars,
            xlim=(0.4, 0.7),
            xticks=(0.4, 0.5, 0.6, 0.7),
        )
        for title, bars in titles.items()
    ]
    return figures.panels(*shown)


def draw_analogies(found: Analogies) -> plt.Figure:
    titles = {
        "Singular : plural, by c + b − a": found.by_offset,
        "By nearness to c alone": found.by_neighbor,
    }
    longest = 1.25 * max(found.by_offset.values())
    shown = [
        figures.Panel(
            title=title, xlabel="mean reciprocal rank", bars=bars, xlim=(0, longest)
        )
        for title, bars in titles.items()
    ]
    return figures.panels(*shown)


def draw_optimum(
    exact: tuple[np.ndarray, np.ndarray], trained: tuple[np.ndarray, np.ndarray]
) -> plt.Figure:
    """Both: PMI − log k and w·c, (pairs,) each."""
    titles = {
        f"Expected loss, {FREQUENT_WORDS} words and dimensions": exact,
        "Sampled noise (power 1), frequent pairs": trained,
    }
    shown = [
        figures.Panel(
            title=title,
            xlabel="PMI − log k (nats)",
            ylabel="w·c",
            points={"a pair of words": points},
            lines={"equal": (np.sort(points[0]), np.sort(points[0]))},
        )
        for title, points in titles.items()
    ]
    return figures.panels(*shown)


def draw_plane(
    corpus: Corpus, vectors: Vectors, kinds: dict[str, list[int]]
) -> plt.Figure:
    """The words' directions on the plane of their largest spread."""
    numbers = np.concatenate(list(kinds.values()))
    places = PCA(2, random_state=0).fit_transform(unit(vectors.words[numbers]))
    figure, axes = plt.subplots(figsize=(10, 7.5))
    starts = np.cumsum([len(members) for members in kinds.values()])[:-1]
    for index, (kind, own) in enumerate(
        zip(kinds, np.split(places, starts), strict=True)
    ):
        marker = figures.MARKERS[index]
        axes.scatter(*own.T, marker=marker, s=45, label=kind, zorder=3)
    axes.margins(x=0.12)

    taken = list(places)
    for number, place in zip(numbers, places, strict=True):
        middle = free_place(place, np.array(taken), np.ptp(places, axis=0))
        taken.append(middle)
        word = corpus.words[number]
        axes.text(*middle, word, ha="center", va="center", fontsize=10)
    axes.set(
        title="Vectors of skip-gram on the plane of their first principal components",
        xlabel="first component",
        ylabel="second component",
    )
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def free_place(place, taken, spread) -> np.ndarray:
    """Where a label's middle is best: above, below or beside its point (2,), far from
    what is taken, (places, 2). spread: of the whole picture, (2,)."""
    steps = np.array([[0, 0.03], [0, -0.03], [0.07, 0.005], [-0.07, 0.005]])
    candidates = place + steps * spread
    # A label is about five times as wide as it is high.
    apart = (candidates[:, np.newaxis] - taken) / (spread * [0.12, 0.028])
    nearest = np.abs(apart).max(axis=-1).min(axis=1)
    return candidates[np.minimum(nearest, 1).argmax()]


def draw_neighbors(corpus: Corpus, finder: keras.Model) -> plt.Figure:
    """A table: a word, and its nearest ones with their cosines."""
    known = [word for word in LOOKED_UP.split() if word in corpus.words]
    words = known or corpus.words[LEAST_WORDS // 2 : LEAST_WORDS // 2 + 8]
    found = finder(tf.constant(words))
    names = found["neighbors"].numpy()
    cosines = found["cosines"].numpy()
    cells = [
        [f"{name.decode()}\n{cosine:.2f}" for name, cosine in zip(*row, strict=True)]
        for row in zip(names, cosines, strict=True)
    ]
    figure, axes = plt.subplots(figsize=(10.5, 0.5 * len(words) + 0.8))
    axes.axis("off")
    shades = plt.get_cmap("Blues")(0.7 * np.clip(cosines, 0, 1))
    table = axes.table(
        cells, rowLabels=words, cellColours=shades, cellLoc="center", loc="center"
    )
    table.auto_set_font_size(value=False)
    table.set_fontsize(10)
    table.scale(1, 2.4)
    figure.suptitle("The nearest words and their cosines (skip-gram)")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(SETTINGS) + 1)
    corpus = load_corpus(config)
    counts = count(corpus, config.window)
    held_out = hold_out(corpus, counts, config, run.seed)
    exact = find_optimum(counts, config, run)

    methods = {name: train_skip_gram(name, corpus, config, run) for name in SETTINGS}
    methods["GloVe"] = train_glove(corpus, counts, config, run)
    methods[SVD] = decompose(counts, config)

    ranks = rank_pairs(methods, held_out, corpus, counts)
    judge_ranks(ranks, run)
    run.metric("words", len(corpus.words))
    judge_subsampling(ranks, corpus, config, run)
    run.figure("ranks", draw_ranks(ranks))

    pairs = frequent_pairs(corpus, counts)
    judge_power(methods, pairs, run)
    trained = methods["power 1"].products(pairs.words, pairs.contexts)
    shifted = pairs.pmi - math.log(config.negatives)
    run.figure("optimum", draw_optimum(exact, (shifted, trained)))

    if questions := analogies_of(corpus):
        analogies = solve_analogies(methods, questions)
        judge_analogies(analogies, run)
        run.figure("analogies", draw_analogies(analogies))
    else:
        run.print("no two of the pairs of singular and plural: no analogies are asked")

    kinds = {kind: corpus.numbers(words.split()) for kind, words in KINDS.items()}
    if all(len(members) > 1 for members in kinds.values()):
        judge_kinds(methods, kinds, run)
    else:
        start = min(FREQUENT_WORDS, len(corpus.words) - LEAST_WORDS // 2)
        kinds = {"frequent words": list(range(start, start + LEAST_WORDS // 2))}
    run.figure("plane", draw_plane(corpus, methods["skip-gram"], kinds))

    vectors = unit(methods["skip-gram"].words)
    finder = build_finder(corpus.words, vectors, NEIGHBORS)
    run.figure("neighbors", draw_neighbors(corpus, finder))
    run.export(finder, example=np.array(corpus.words[:3], object))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
