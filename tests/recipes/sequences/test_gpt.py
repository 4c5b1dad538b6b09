"""Merges, masks and n-grams by hand; the cache against one full pass; attention against
Keras's own layer; causality by the Jacobian; the tokenizer of the graph against
Python's."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from deep_learning_recipes import UsageError, architectures
from recipes import gpt

TEXT = "a low lower lowest newer newest wide widest 12 1234 日本語, naïve 😀😀\n    x == y\n"
TOKENS = gpt.learn_byte_pairs(3 * TEXT, 40)
RANDOM = np.random.default_rng(0)
VOCABULARY = 11


@pytest.fixture(scope="module")
def model():
    """Its weights are large enough that no two logits are about the same."""
    keras.utils.set_random_seed(0)
    model = gpt.build_model(
        VOCABULARY, width=8, heads=2, depth=2, context=6, dropout=0.5
    )
    for weight in model.trainable_variables:
        if len(weight.shape) == 2:
            weight.assign(RANDOM.normal(size=weight.shape) / 2)
    return model


@pytest.fixture(scope="module")
def reader(model):
    return gpt.build_reader(model)


def some_ids(*shape):
    return tf.constant(RANDOM.integers(VOCABULARY, size=shape), tf.int32)


def spell(tokens, text):
    return [tokens.spellings[number] for number in tokens.encode(text)]


def test_merges_by_hand():
    # ab comes up five times; then abc three times; of those that come up twice the last
    # one by its bytes is taken.
    tokens = gpt.learn_byte_pairs("abc abc abc xab xab", 3)
    assert tokens.spellings[256:] == [b"ab", b"abc", b"xab"]
    assert spell(tokens, "abcab cab") == [b"abc", b"ab", b" ", b"c", b"ab"]


def test_merging_stops_where_no_pair_comes_up_twice():
    assert gpt.learn_byte_pairs("abab", 99).spellings[256:] == [b"ab"]
    assert len(gpt.learn_byte_pairs("", 99)) == len(gpt.learn_byte_pairs("x", 9)) == 256


def test_counts_are_kept_while_words_change():
    """Counted anew for each merge, over all of the text, it finds the same."""
    text = 3 * TEXT
    words = gpt.words_of(text)
    for expected in TOKENS.merges:
        counts = {}
        for word in words:
            for pair in gpt.pairs_of(word):
                counts[pair] = counts.get(pair, 0) + 1
        assert max(counts, key=lambda pair: (counts[pair], pair)) == expected
        words = [word.replace(expected, TOKENS.merges[expected]) for word in words]


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_comes_back(text):
    text = text.encode("utf-8", "replace").decode()
    assert TOKENS.decode(TOKENS.encode(text)) == text


@given(st.lists(st.sampled_from(["low", "est", " ", "\n", "12", "語", "😀", "=", "ï"])))
@settings(deadline=None)
def test_the_pair_learned_first_is_merged_first(parts):
    """Within a word: the earliest merge of all pairs that are there, again and again."""
    text = "".join(parts)
    ranks = {
        tuple(gpt.as_ids(pair).tolist()): rank
        for rank, pair in enumerate(TOKENS.merges)
    }
    expected = []
    for word in gpt.words_of(text):
        ids = gpt.as_ids(word).tolist()
        while True:
            pairs = list(zip(ids[:-1], ids[1:], strict=True))
            best = min(pairs, key=lambda pair: ranks.get(pair, math.inf), default=None)
            if best not in ranks:
                break
            place = pairs.index(best)
            ids[place : place + 2] = [256 + ranks[best]]
        expected += ids
    assert TOKENS.encode(text).tolist() == expected


def test_no_token_crosses_a_word_and_long_words_are_cut():
    words = [
        "".join(TOKENS.decode(gpt.as_ids(w))) for w in gpt.words_of("a b12, c\n  d")
    ]
    assert words == ["a", " b", "12", ",", " c", "\n  ", "d"]
    assert [len(word) for word in gpt.words_of(70 * "x")] == [32, 32, 6]


def test_half_a_character_is_shown_as_the_sign_of_replacement():
    assert TOKENS.decode("é".encode()[:1]) == "\ufffd"


def test_rotation_multiplies_complex_numbers():
    x = RANDOM.normal(size=(2, 3, 5, 8)).astype("float32")
    positions = np.array([0, 1, 5, 70, 900])
    angles = positions[:, None] / 10_000 ** (2 * np.arange(4) / 8)
    expected = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    found = gpt.rotate(x, positions)
    np.testing.assert_allclose(found[..., :4], expected.real, atol=1e-4)
    np.testing.assert_allclose(found[..., 4:], expected.imag, atol=1e-4)


def test_rotated_products_depend_on_the_distance_only():
    query, key = RANDOM.normal(size=(2, 1, 1, 1, 8)).astype("float32")

    def product(at_query, at_key):
        return float(np.sum(gpt.rotate(query, [at_query]) * gpt.rotate(key, [at_key])))

    assert product(3, 1) == pytest.approx(product(103, 101), abs=1e-4)
    assert abs(product(3, 1) - product(3, 2)) > 1e-2


def test_attention_equals_that_of_keras():
    ours = gpt.CausalAttention(heads=2, context=99, rotary=False)
    keras_s = layers.MultiHeadAttention(num_heads=2, key_dim=4, use_bias=False)
    x = RANDOM.normal(size=(3, 7, 8)).astype("float32")
    found, _ = ours(x)
    keras_s.build(x.shape, x.shape)
    names = ("queries", "keys", "values", "outputs")
    kernels = [getattr(ours, name).kernel for name in names]
    shapes = [weight.shape for weight in keras_s.weights]
    # Keras keeps them in the order query, key, value, output, split by heads.
    keras_s.set_weights(
        [np.reshape(k, s) for k, s in zip(kernels, shapes, strict=True)]
    )
    expected = keras_s(x, x, use_causal_mask=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_depends_on_what_is_to_come(model):
    embed = model.get_layer("tokens")
    blocks = [layer for layer in model.layers if isinstance(layer, gpt.Block)]
    x = tf.convert_to_tensor(embed(some_ids(1, 5)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x
        for block in blocks:
            y, _ = block(y)
    jacobian = tape.jacobian(y, x)[0, :, :, 0]  # (place, width, place, width)
    size = np.abs(jacobian).max(axis=(1, 3))
    assert np.all(size[np.triu_indices(5, k=1)] == 0)
    assert np.all(size[np.tril_indices(5)] > 1e-6)


def test_attention_looks_back_so_far_and_no_further():
    attention = gpt.CausalAttention(heads=2, context=3)
    x = tf.constant(RANDOM.normal(size=(1, 6, 8)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, _ = attention(x)
    size = np.abs(tape.jacobian(y, x)[0, :, :, 0]).max(axis=(1, 3))
    distance = np.arange(6)[:, None] - np.arange(6)
    np.testing.assert_array_equal(size > 0, (distance >= 0) & (distance < 3))


@pytest.mark.parametrize("step", [1, 3, 12])
def test_cached_logits_equal_the_full_pass(model, reader, step):
    """Beyond the context as well."""
    ids = some_ids(2, 12)
    full_pass = model(ids)
    past = gpt.empty_past(reader, 2)
    for start in range(0, 12, step):
        read = reader({"ids": ids[:, start : start + step], "past": past})
        past = read["past"]
        expected = full_pass[:, start + step - 1]
        np.testing.assert_allclose(read["logits"], expected, atol=1e-4)
    assert past.shape[4] == 12


@pytest.mark.parametrize("cached", [True, False])
def test_the_likeliest_text_is_that_of_reading_all_again(model, reader, cached):
    text = prompts = some_ids(3, 4)
    for _ in range(8):
        likeliest = tf.argmax(model(text)[:, -1], axis=-1, output_type=tf.int32)
        text = tf.concat([text, likeliest[:, None]], axis=1)
    rule = gpt.Rule(top_k=1).tensors()
    written = gpt.generate(reader, prompts, 8, rule, cached)
    np.testing.assert_array_equal(written, text[:, 4:])


def test_in_half_precision_the_cache_has_half_precision_too():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = gpt.build_model(9, width=8, heads=2, depth=1, context=6, dropout=0.0)
        reader = gpt.build_reader(model)
        ids = tf.constant([[1, 2, 3]])
        written = gpt.generate(reader, ids, 4, gpt.Rule().tensors())
        assert gpt.empty_past(reader, 1).dtype == "float16"
        assert written.shape == (1, 4)
        assert model(ids).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


PROBABILITIES = np.array([[0.1, 0.5, 0.05, 0.3, 0.05]])


@pytest.mark.parametrize(
    ("k", "kept"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (10**6, [0, 1, 2, 3, 4])]
)
def test_top_k_by_hand(k, kept):
    found = gpt.keep_top_k(tf.constant(np.log(PROBABILITIES)), k)
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == kept


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0.0, [1]), (0.49, [1]), (0.6, [1, 3]), (0.85, [0, 1, 3]), (1.0, [0, 1, 2, 3, 4])],
)
def test_nucleus_by_hand(share, kept):
    found = gpt.keep_nucleus(tf.constant(np.log(PROBABILITIES)), share)
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == kept


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (gpt.Rule(), [0.1, 0.5, 0.05, 0.3, 0.05]),
        (gpt.Rule(temperature=0.5), np.square([0.1, 0.5, 0.05, 0.3, 0.05]) / 0.355),
        (gpt.Rule(top_k=2), [0, 0.625, 0, 0.375, 0]),
        (gpt.Rule(nucleus=0.85), np.array([1, 5, 0, 3, 0]) / 9),
    ],
)
def test_tokens_are_drawn_by_the_rule(rule, expected):
    keras.utils.set_random_seed(1)
    logits = tf.constant(np.repeat(np.log(PROBABILITIES), 20_000, axis=0), tf.float32)
    drawn = gpt.draw(logits, rule.tensors())
    frequencies = np.bincount(drawn, minlength=5) / 20_000
    np.testing.assert_allclose(frequencies, expected, atol=0.015)


def test_the_graph_cuts_texts_as_python_does_and_goes_on_as_generate_does():
    keras.utils.set_random_seed(0)
    model = gpt.build_model(len(TOKENS), 8, heads=2, depth=1, context=8, dropout=0.0)
    reader = gpt.build_reader(model)
    writer = gpt.Writer(reader, TOKENS, length=5)
    texts = ["a lowest", "", "日本語 😀\t x==y", "\\1 (.*) [ ] \\"]
    for text in texts:
        encoded = TOKENS.encode("\n" + text)
        np.testing.assert_array_equal(writer.encode(tf.constant(text)), encoded)
    expected = []
    for text in texts:
        ids = tf.constant(TOKENS.encode("\n" + text)[None])
        written = gpt.generate(reader, ids, 5, gpt.Rule(top_k=1).tensors())
        expected.append(TOKENS.decode(written[0].numpy()))
    found = [each.decode() for each in tf.function(writer)(tf.constant(texts)).numpy()]
    assert found == expected


@pytest.mark.parametrize("length", [2, 5, 6, 7, 9, 20])
@pytest.mark.parametrize("context", [6, 7])
def test_each_token_is_scored_once_after_half_a_window(length, context):
    """By a network that gives a token the logit of its number, whatever it has read."""
    ids = keras.Input((None,), dtype="int32")
    table = np.tile(np.arange(32.0), (32, 1))
    embedding = layers.Embedding(32, 32, weights=[table])
    network = keras.Model(ids, embedding(ids))
    text = RANDOM.integers(32, size=length).astype("int32")
    nats = gpt.nats_in_windows(network, text, context)
    expected = np.log(np.exp(np.arange(32.0)).sum()) - text[1:]
    bits = gpt.bits_per_character(nats, characters=10)
    assert bits == pytest.approx(expected.sum() / 10 / np.log(2), rel=1e-5)


def test_windows_are_of_the_text_and_targets_one_later():
    inputs, targets = gpt.draw_windows(np.arange(20), count=500, context=5, seed=0)
    assert inputs.shape == targets.shape == (500, 5)
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(5))
    assert inputs.min() == 0 and targets.max() == 19  # to the last one
    np.testing.assert_array_equal(
        gpt.in_windows(np.arange(11), 5)[1][1], np.arange(6, 11)
    )


def test_multiply_adds_by_hand(model, reader):
    window = tf.TensorSpec((1, 4), tf.int32)
    of_weights = 2 * (4 * 8 * 8 + 2 * 8 * 32) + VOCABULARY * 8
    of_attention = 2 * 2 * 4 * 8  # q·k and the mixing, 4 places
    assert architectures.multiply_adds_of_call(model, window) == 4 * (
        of_weights + of_attention
    )
    # One more token after three: only its own row.
    assert gpt.cost_of(reader, new=1, past=3) == of_weights + of_attention


def test_the_lstm_costs_as_much():
    units = gpt.units_of_equal_cost(50_000.0, vocabulary=300)
    model = gpt.build_lstm(300, units, dropout=0.0)
    kernels = [w for w in model.trainable_variables if "kernel" in w.path]
    multiply_adds = sum(math.prod(kernel.shape) for kernel in kernels)
    assert multiply_adds == pytest.approx(50_000, rel=0.02)


def test_kneser_ney_sums_to_one():
    text = "she sells sea shells by the sea shore"
    model = gpt.KneserNey(text, order=3)
    alphabet = [*sorted(set(text)), "?"]
    for context in ("", "s", "se", "sea", "ell", "zzz", "zse"):
        total = sum(model.probability(character, context) for character in alphabet)
        assert total == pytest.approx(1), context


def test_kneser_ney_by_hand():
    # Pairs: ab 2, bc 1, ca 1, bd 1; n1 = 3, n2 = 1: discount 0.6. Before b and c and d
    # and a stands one kind each: continuation counts of 1, so all discounts are 1.
    model = gpt.KneserNey("abcabd", order=1)
    lower = 1 / 5  # all given away to 1 / (4 characters and the unknown)
    assert model.tables[0].discount == 1
    assert model.probability("a", "") == pytest.approx(lower)
    assert model.probability("b", "a") == pytest.approx((2 - 0.6 + 0.6 * lower) / 2)
    assert model.probability("c", "b") == pytest.approx((1 - 0.6 + 1.2 * lower) / 2)
    assert model.probability("x", "z") == pytest.approx(lower)
    bits = -np.log2([lower, model.probability("b", "a")]).mean()
    assert model.bits_per_character("ab") == pytest.approx(bits)


def test_repetitions_and_inventions_by_hand():
    assert gpt.share_repeated(np.arange(9)) == 0
    assert gpt.share_repeated(np.zeros(9)) == pytest.approx(5 / 6)
    assert gpt.share_repeated([1, 2, 3, 4, 9, 1, 2, 3, 4]) == pytest.approx(1 / 6)
    text = SimpleNamespace(train="known words here", tokens=TOKENS)
    ids = TOKENS.encode("xxx known words unheard here yyy")
    assert gpt.look_at(ids[None], text).invented == pytest.approx(1 / 4)


def test_what_does_not_fit_is_said():
    with pytest.raises(UsageError, match="--width 30 must be a multiple of 8"):
        gpt.check_width(gpt.Config(width=30))
    with pytest.raises(UsageError, match="--context 99999 must be less than"):
        gpt.Text(gpt.Config(context=99_999, merges=1))


def test_a_text_that_is_too_short_is_said(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(20 * "a few words\n")
    with pytest.raises(UsageError, match="the text is too short"):
        gpt.Text(gpt.Config(data=str(path)))
