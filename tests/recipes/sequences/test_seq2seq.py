from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.seq2seq import (
    END,
    END_ID,
    PADDING_ID,
    START_ID,
    AdditiveAttention,
    EqualAttention,
    beam_search,
    build_decoder,
    build_encoder,
    build_lookup,
    decode,
    encode,
    exact_match,
    greedy,
    with_teacher,
)
from scipy.special import log_softmax

from deep_learning_recipes import UsageError
from recipes import seq2seq

CHARACTERS = 6  # padding, unknown, START, END, and two letters
UNITS = 5


@pytest.fixture(scope="module", params=[AdditiveAttention, EqualAttention])
def networks(request):
    keras.utils.set_random_seed(3)
    encoder = build_encoder(CHARACTERS, UNITS)
    decoder = build_decoder(CHARACTERS, UNITS, request.param(UNITS))
    random = np.random.default_rng(0)
    for weight in [*encoder.weights, *decoder.weights]:
        weight.assign(random.normal(0, 1.0, weight.shape))
    return encoder, decoder


SOURCE = tf.constant([[4, 5, 5, 4], [5, 4, 0, 0], [4, 0, 0, 0]])


def test_additive_attention_by_hand():
    keras.utils.set_random_seed(0)
    attention = AdditiveAttention(4)
    random = np.random.default_rng(1)
    queries = random.normal(size=(2, 3, 5)).astype("float32")
    keys = random.normal(size=(2, 4, 6)).astype("float32")
    is_text = np.array([[True] * 4, [True, True, False, False]])
    context, weights = attention(queries, keys, is_text)
    query, key, score = (w.numpy() for w in attention.weights)
    for example, step in product(range(2), range(3)):
        e = [
            np.tanh(queries[example, step] @ query + keys[example, j] @ key)
            @ score[:, 0]
            for j in range(is_text[example].sum())
        ]
        alpha = np.exp(e) / np.exp(e).sum()
        np.testing.assert_allclose(weights[example, step, : len(e)], alpha, rtol=1e-5)
        np.testing.assert_allclose(
            context[example, step],
            alpha @ keys[example, : len(e)],
            rtol=1e-4,
            atol=1e-6,
        )


def test_it_is_keras_additive_attention_where_nothing_is_projected():
    attention = AdditiveAttention(4)
    queries = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")
    keys = np.random.default_rng(2).normal(size=(2, 5, 4)).astype("float32")
    is_text = np.arange(5) < np.array([[5], [2]])
    attention(queries, keys, is_text)
    scale = np.arange(1, 5, dtype="float32")
    attention.query.kernel.assign(np.eye(4))
    attention.key.kernel.assign(np.eye(4))
    attention.score.kernel.assign(scale[:, np.newaxis])
    keras_attention = keras.layers.AdditiveAttention()
    keras_attention.build([queries.shape, keys.shape])
    keras_attention.scale.assign(scale)
    expected, weights = keras_attention(
        [queries, keys], mask=[None, tf.constant(is_text)], return_attention_scores=True
    )
    ours = attention(queries, keys, is_text)
    np.testing.assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[1], weights, rtol=1e-4, atol=1e-6)


def test_weights_sum_to_one_and_leave_the_padding_out(networks):
    ids, weights = greedy(*networks, SOURCE, 6)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1, rtol=1e-5)
    assert np.max(np.where(SOURCE[:, tf.newaxis] == PADDING_ID, weights, 0)) == 0


def test_equal_attention_is_the_mean():
    keys = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    is_text = np.array([[True, True, True, False]])
    context, _ = EqualAttention(2)(np.zeros((1, 2, 2), "float32"), keys, is_text)
    np.testing.assert_allclose(context[0, 1], keys[0, :3].mean(axis=0), rtol=1e-5)


def test_padding_changes_nothing(networks):
    ids, _ = greedy(*networks, SOURCE[1:2, :2], 6)
    padded, _ = greedy(*networks, tf.pad(SOURCE[1:2], ((0, 0), (0, 3))), 6)
    np.testing.assert_array_equal(ids, padded)


def log_probabilities(encoder, decoder, source, ids):
    """ln p of texts (texts, length) up to their ends, under teacher forcing."""
    first = np.full((len(ids), 1), START_ID)
    before = np.concatenate([first, ids[:, :-1]], axis=1).astype("int32")
    sources = np.repeat(source[np.newaxis], len(ids), axis=0)
    logits = with_teacher(encoder, decoder)({"source": sources, "before": before})
    log_p = np.take_along_axis(log_softmax(logits, axis=-1), ids[..., None], -1)[..., 0]
    has_ended = np.cumsum(ids == END_ID, axis=1) - (ids == END_ID) > 0
    return np.where(has_ended, 0, log_p).sum(axis=1)


def test_one_beam_is_greedy(networks):
    ids, _ = greedy(*networks, SOURCE, 6)
    found, _ = beam_search(*networks, SOURCE, 6, 1)
    np.testing.assert_array_equal(found[:, 0], ids)


def test_the_score_of_a_beam_is_its_probability(networks):
    found, scores = beam_search(*networks, SOURCE, 5, 3)
    for source, ids, score in zip(SOURCE, found, scores, strict=True):
        expected = log_probabilities(*networks, source.numpy(), ids.numpy())
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)


def test_enough_beams_find_the_likeliest_text_of_all(networks):
    """All 6 ** 3 texts of three characters, by enumeration."""
    found, scores = beam_search(*networks, SOURCE[:1], 3, CHARACTERS**2)
    texts = np.array(list(product(range(CHARACTERS), repeat=3)))
    after_end = np.cumsum(texts == END_ID, axis=1) - (texts == END_ID) > 0
    texts[after_end] = PADDING_ID
    expected = log_probabilities(*networks, SOURCE[0].numpy(), texts)
    assert found[0, 0].numpy().tolist() == texts[expected.argmax()].tolist()
    np.testing.assert_allclose(scores[0, 0], expected.max(), rtol=1e-4)
    assert (np.diff(scores[0]) <= 0).all()


def test_teacher_forced_and_greedy_exact_matches_are_the_same(networks):
    """What makes one pass enough to know what greedy decoding gets right."""
    written, _ = greedy(*networks, SOURCE, 5)
    targets = written.numpy()
    targets[1, 0] = 4 if targets[1, 0] != 4 else 5
    before = np.concatenate([np.full((3, 1), START_ID), targets[:, :-1]], axis=1)
    inputs = {"source": SOURCE.numpy(), "before": before.astype("int32")}
    logits = with_teacher(*networks)(inputs)
    assert exact_match(targets, logits).numpy().tolist() == [True, False, True]


def test_what_comes_later_is_not_seen(networks):
    model = with_teacher(*networks)
    before = np.full((1, 5), START_ID, "int32")
    other = before.copy()
    other[0, 3] = 5
    source = SOURCE[:1].numpy()
    one = model({"source": source, "before": before}).numpy()
    two = model({"source": source, "before": other}).numpy()
    np.testing.assert_allclose(one[0, :3], two[0, :3], atol=1e-6)
    assert np.abs(one[0, 3:] - two[0, 3:]).max() > 1e-3


def test_texts_and_ids_there_and_back():
    lookup = build_lookup(["abc", "çà", "日"])
    texts = ["ab", "çà日", ""]
    ids = encode([text + END for text in texts], lookup)
    assert (ids.numpy()[:, 0] >= END_ID).all()
    vocabulary = lookup.get_vocabulary()
    assert [text.decode() for text in decode(ids, vocabulary).numpy()] == texts
    assert encode(["x"], lookup).numpy().tolist() == [[1]]


def test_the_translator_takes_and_gives_strings(networks):
    encoder, decoder = networks
    lookup = build_lookup(["ab"])
    translator = seq2seq.Translator(encoder, decoder, lookup, lookup, 6)
    texts = tf.constant(["abba", "b", "x"])
    ids, _ = greedy(encoder, decoder, encode(texts, lookup), 6)
    expected = [
        "".join(" ?  ab"[i] for i in row if i != 2).strip() for row in ids.numpy()
    ]
    found = [text.decode() for text in translator(texts).numpy()]
    assert [text.replace("?", "") for text in expected] == found


def test_blotting_out_leaves_the_rest():
    task = seq2seq.Task(seq2seq.Config(longest=12))
    part = task.parts["test"]
    weights = np.random.default_rng(0).random(
        (*part.target.shape, part.source.shape[1])
    )
    weights *= (part.source != PADDING_ID)[:, np.newaxis]
    steps, one, another = seq2seq.blot_out(part, weights, seed=0)
    for source in (one, another):
        assert (np.count_nonzero(source != part.source, axis=1) == 1).all()
    assert (
        np.argmax(one != part.source, 1) != np.argmax(another != part.source, 1)
    ).all()
    rows = np.arange(len(steps))
    looked_at = weights[rows, steps].argmax(axis=1)
    np.testing.assert_array_equal(np.argmax(one != part.source, axis=1), looked_at)


def test_a_limit_that_leaves_nothing_gets_one_line():
    with pytest.raises(UsageError, match="are 4 characters or shorter"):
        seq2seq.Task(seq2seq.Config(longest=4))
