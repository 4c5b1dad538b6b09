"""Kneser-Ney by hand and by its sums, perplexity by enumeration, reading in chunks
against one long pass."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import UsageError
from recipes import language_model

RANDOM = np.random.default_rng(0)
VOCABULARY = 6


def some_ids(*shape):
    return RANDOM.integers(VOCABULARY, size=shape).astype("int32")


@pytest.fixture(scope="module")
def model():
    """A function of the number of streams; all its models have the same weights."""
    keras.utils.set_random_seed(0)
    weights = language_model.build_model(VOCABULARY, 8, 0.4).get_weights()

    def build(streams=None):
        model = language_model.build_model(VOCABULARY, 8, 0.4, streams=streams)
        model.set_weights([20 * weights[0], *weights[1:]])
        return model

    return build


def chain_of(kind, ids, order, vocabulary_size):
    ids = np.asarray(ids)
    plain = [language_model.count_followers(ids, length) for length in range(order)]
    return getattr(language_model, kind)(plain, vocabulary_size)


def test_words_marks_and_paragraphs():
    found = language_model.words_of('The class,\nof "__init__".\n\nEnd')
    expected = ["the", "class", ",", "of", '"', "__init__", '"', ".", "<p>", "end"]
    assert found == expected
    assert language_model.words_of("2**3 == 8\n*****\n...") == [
        "2",
        "**",
        "3",
        "==",
        "8",
        "***",
        "...",
    ]


def test_perplexity_of_a_fair_draw_is_the_number_of_words():
    assert language_model.perplexity(np.full(5, 1 / 7)) == pytest.approx(7)
    assert language_model.perplexity(np.array([0.5, 0.125])) == pytest.approx(4)
    assert language_model.perplexity(np.array([0.5, 0.0])) == math.inf


def test_followers_are_counted():
    found = language_model.count_followers(np.array([1, 2, 1, 2, 3]), 1)
    assert found == {(1,): {2: 2}, (2,): {1: 1, 3: 1}}
    assert language_model.count_followers(np.array([1, 2, 1]), 0) == {(): {1: 2, 2: 1}}


def test_the_chain_is_the_share_of_the_counts():
    chain = chain_of("MarkovChain", [1, 2, 1, 2, 3], 2, 4)
    assert chain.probability(3, (2,)) == 0.5
    assert chain.probability(2, (2,)) == 0
    assert chain.probability(2, (0,)) == 0
    one_more = chain_of("AddOne", [1, 2, 1, 2, 3], 2, 4)
    assert one_more.probability(3, (2,)) == pytest.approx(2 / 6)
    assert one_more.probability(3, (0,)) == pytest.approx(1 / 4)


def test_kneser_ney_by_hand():
    # Pairs: ab 3, ba 2, bc 1, ca 1. Of these counts two are 1 and one is 2.
    ids = [0, 1, 0, 1, 2, 0, 1, 0]
    chain = chain_of("KneserNey", ids, order=2, vocabulary_size=4)
    # a came after b and c, b after a alone, c after b alone: of four kinds of pairs.
    of_words = 2 / (2 + 2 * 1)  # b and c have 1, a has 2
    a = (2 - of_words) / 4 + of_words * 3 / 4 * (1 / 4)
    c = (1 - of_words) / 4 + of_words * 3 / 4 * (1 / 4)
    of_pairs = 2 / (2 + 2 * 1)  # bc and ca have 1, ba has 2
    after_b = {0: (2 - of_pairs) / 3, 2: (1 - of_pairs) / 3}
    left_over = of_pairs * 2 / 3
    assert chain.probability(0, (1,)) == pytest.approx(after_b[0] + left_over * a)
    assert chain.probability(2, (1,)) == pytest.approx(after_b[2] + left_over * c)
    assert chain.probability(2, (3,)) == pytest.approx(c)  # after what was never seen


@pytest.mark.parametrize("kind", ["AddOne", "KneserNey"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_every_context(kind, order):
    chain = chain_of(kind, some_ids(60), order, VOCABULARY + 1)
    for context in itertools.product(range(VOCABULARY + 1), repeat=order - 1):
        total = sum(chain.probability(word, context) for word in range(VOCABULARY + 1))
        assert total == pytest.approx(1), context
        unknown = chain.probability(VOCABULARY, context)
        assert unknown > 0


def test_a_lower_order_counts_contexts_and_not_words():
    """San Francisco: frequent, but after one word alone."""
    ids = [1, 2] * 20 + [3, 4, 5, 4, 0, 4, 3, 4]
    chain = chain_of("KneserNey", ids, order=2, vocabulary_size=7)
    assert chain.probability(4, (6,)) > chain.probability(2, (6,))


def test_a_chain_is_scored_at_places_of_any_shape():
    train = some_ids(50)
    ids = some_ids(20)
    chain = chain_of("KneserNey", train, 3, VOCABULARY)
    places = np.array([[0, 1], [2, 19]])
    found = language_model.score_chain(chain, ids, places)
    expected = chain.probability(int(ids[19]), (int(ids[17]), int(ids[18])))
    assert found.shape == (2, 2)
    assert found[1, 1] == pytest.approx(expected)
    assert found[0, 0] == pytest.approx(chain.probability(int(ids[0]), ()))


def test_perplexity_of_the_model_by_its_softmax(model):
    ids = some_ids(62)
    inputs, targets = language_model.in_chunks(ids, streams=3, chunk=5)
    found = language_model.score_model(model(3), inputs, targets, 3)
    # One long pass over each of the three streams of 20 words.
    long_inputs, long_targets = language_model.in_chunks(ids, streams=3, chunk=20)
    softmax = tf.nn.softmax(model()(long_inputs)).numpy()
    expected = np.take_along_axis(softmax, long_targets[..., np.newaxis], -1)[..., 0]
    order = language_model.in_chunks(np.arange(62), 3, 20)[1]
    places = language_model.in_chunks(np.arange(62), 3, 5)[1]
    by_place = dict(zip(order.ravel(), expected.ravel(), strict=True))
    wanted = [by_place[place] for place in places.ravel()]
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-3)
    assert np.ptp(expected) > 0.1
    loss = -np.log(expected).mean()
    assert language_model.perplexity(found) == pytest.approx(np.exp(loss), rel=1e-3)


def test_the_likelihood_of_all_texts_sums_to_one(model):
    """By enumeration: every text of three words after a first one."""
    texts = np.array(list(itertools.product(range(VOCABULARY), repeat=3)), "int32")
    first = np.full((len(texts), 1), 2, "int32")
    read = np.concatenate([first, texts], axis=1)
    streams = len(texts)
    found = language_model.score_model(
        model(streams), read[:, :-1], read[:, 1:], streams
    )
    assert np.prod(found, axis=1).sum() == pytest.approx(1, rel=1e-4)


def test_tied_logits_are_products_with_the_word_vectors(model):
    reader = model()
    ids = some_ids(2, 7)
    table = reader.get_layer("word_vectors").get_weights()[0]
    tied = language_model.build_model(VOCABULARY, 8, 0.0)
    untied = language_model.build_model(VOCABULARY, 8, 0.0, tied=False)
    weights = reader.get_weights()
    tied.set_weights(weights)
    untied.set_weights([*weights, table.T])
    np.testing.assert_allclose(untied(ids), tied(ids), atol=1e-4)
    assert untied.count_params() - tied.count_params() == table.size


def test_a_mixture_sums_to_one():
    first = RANDOM.dirichlet(np.ones(5), size=3)
    second = RANDOM.dirichlet(np.ones(5), size=3)
    mixed = language_model.mix(first, second, 0.3)
    np.testing.assert_allclose(mixed.sum(axis=1), 1)
    np.testing.assert_allclose(language_model.mix(first, second, 1.0), first)


def test_the_predictor_looks_words_up(model):
    words = ["<unk>", "the", "value", "of", "a", "<p>"]
    predictor = language_model.build_predictor(words, model())
    found = predictor(tf.constant([["the", "missing", "of"]]))
    logits = model()(np.array([[1, 0, 3]]))[0, -1]
    expected = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(found["probabilities"][0], expected, rtol=1e-4)
    order = np.argsort(-expected)[: language_model.LIKELIEST]
    names = [name.decode() for name in found["likeliest"].numpy()[0]]
    assert names == [words[i] for i in order]


def test_the_vocabulary_is_that_of_the_training_part():
    config = language_model.Config(least_count=5, vocabulary=300)
    text = language_model.load_words(config)
    assert len(text.words) == 301
    assert text.words[0] == language_model.UNKNOWN
    counts = np.bincount(text.train, minlength=301)[1:]
    assert counts.min() >= 5
    assert all(np.diff(counts) <= 0)
    assert np.any(text.test == 0)
    found = language_model.encode(["the", "nowhere_to_be_found"], text.words)
    np.testing.assert_array_equal(found, [text.words.index("the"), 0])


def test_the_share_of_a_mixture_is_picked_on_validation_data():
    good = np.full(10, 0.5)
    bad = np.full(10, 0.1)
    first = language_model.Scores(validation=good, test=bad)
    second = language_model.Scores(validation=bad, test=good)
    assert language_model.pick_share(first, second) == 1


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("one two three four five six", {}, "no word comes 5 times or more"),
        ("word and word\n" * 400, {"streams": 1000}, "must be less than"),
    ],
)
def test_a_text_too_short_is_refused(tmp_path, text, change, message):
    path = tmp_path / "own.txt"
    path.write_text(text)
    config = language_model.Config(data=str(path), **change)
    with pytest.raises(UsageError, match=message):
        language_model.load_words(config)


def test_excerpts_are_the_starts_of_the_streams():
    ids = np.arange(3 * 40 + 1)
    _, targets = language_model.in_chunks(ids, streams=3, chunk=5)
    found = language_model.start_of(targets, 3)
    expected = np.arange(1, 1 + language_model.EXCERPT) + np.array([[0], [40], [80]])
    np.testing.assert_array_equal(found, expected)
