from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.transformer import (
    END,
    END_ID,
    PADDING_ID,
    START_ID,
    DecoderBlock,
    EncoderBlock,
    MultiHeadAttention,
    Transformer,
    attend,
    build_lookup,
    encode,
    exact_match,
    greedy,
    is_text_of,
    sinusoids,
    with_teacher,
)
from scipy.special import softmax

from deep_learning_recipes import UsageError, data
from recipes import transformer

CHARACTERS = 6  # padding, unknown, START, END, and two letters
HEADS = 2
SIZE = 3
WIDTH = HEADS * SIZE
ALL = tf.constant(True)  # everything is seen
SOURCE = tf.constant([[4, 5, 5, 4], [5, 4, 0, 0], [4, 0, 0, 0]])


def random_weights(layer, seed=0):
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(random.normal(0, 0.7, weight.shape))


def build(has_positions=True, depth=2):
    network = Transformer(CHARACTERS, CHARACTERS, HEADS, SIZE, depth, has_positions)
    network(SOURCE, tf.fill((3, 2), START_ID))
    random_weights(network)
    return network


@pytest.fixture(scope="module")
def network():
    return build()


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_attention_by_hand():
    queries, keys, values = draw(2, 3), draw(4, 3, seed=2), draw(4, 5, seed=3)
    is_seen = np.array([[True, True, False, True], [True, False, False, False]])
    seen, weights = attend(queries, keys, values, is_seen)
    scores = queries @ keys.T / np.sqrt(3)
    expected = softmax(np.where(is_seen, scores, -np.inf), axis=-1)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    np.testing.assert_allclose(seen, expected @ values, rtol=1e-4, atol=1e-6)
    assert (np.asarray(weights)[~is_seen] == 0).all()


def test_it_is_keras_multi_head_attention():
    ours = MultiHeadAttention(HEADS, SIZE)
    theirs = keras.layers.MultiHeadAttention(HEADS, SIZE)
    x, memory = draw(2, 4, WIDTH), draw(2, 5, WIDTH, seed=2)
    is_text = np.arange(5) < np.array([[5], [2]])
    ours(x, memory, ALL)
    random_weights(ours)
    theirs.build(x.shape, memory.shape)
    kernels = [
        weight.numpy().reshape(theirs_.shape)
        for weight, theirs_ in zip(ours.weights, theirs.weights, strict=True)
    ]
    # Keras lists query, key, value and output as we do, kernels before biases.
    theirs.set_weights(kernels)
    expected, weights = theirs(
        x,
        memory,
        attention_mask=np.repeat(is_text[:, np.newaxis], 4, axis=1),
        return_attention_scores=True,
    )
    found = ours(x, memory, is_text[:, np.newaxis, np.newaxis])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], weights, rtol=1e-5, atol=1e-6)


def test_codes_by_the_formula_of_the_paper():
    codes = np.asarray(sinusoids(np.arange(50), 8))
    for place in (0, 1, 7, 49):
        for i in range(4):
            angle = place / 10_000 ** (2 * i / 8)
            np.testing.assert_allclose(codes[place, i], np.sin(angle), atol=1e-5)
            np.testing.assert_allclose(codes[place, 4 + i], np.cos(angle), atol=1e-5)
    assert sinusoids(np.arange(3), 5).shape == (3, 5)


def test_the_product_of_two_codes_depends_on_their_distance_alone():
    codes = np.asarray(sinusoids(np.arange(40), 16), "float64")
    products = codes @ codes.T
    for distance in (0, 1, 5, 20):
        along = np.diag(products, distance)
        np.testing.assert_allclose(along, products[0, distance], atol=1e-4)


def test_an_encoder_block_is_keras_layers_normalized_first():
    block = EncoderBlock(HEADS, SIZE)
    x = draw(2, 4, WIDTH)
    block(x, ALL)
    random_weights(block)
    attention = keras.layers.MultiHeadAttention(HEADS, SIZE)
    attention.build(x.shape, x.shape)
    attention.set_weights(
        [
            weight.numpy().reshape(theirs.shape)
            for weight, theirs in zip(
                block.attention.weights, attention.weights, strict=True
            )
        ]
    )
    normed = block.norm_attention(x)
    between = x + attention(normed, normed)
    first, second = block.feed.layers
    expected = between + second(first(block.norm_feed(between)))
    np.testing.assert_allclose(block(x, ALL), expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_comes_from_later_steps():
    """The Jacobian of a decoder block, exactly 0 above its diagonal."""
    block = DecoderBlock(HEADS, SIZE)
    x, memory = tf.constant(draw(1, 5, WIDTH)), draw(1, 4, WIDTH, seed=2)
    is_past = np.tril(np.ones((5, 5), bool))
    block(x, memory, is_past, ALL)
    random_weights(block)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        after, _ = block(x, memory, is_past, ALL)
    jacobian = tape.jacobian(after, x, experimental_use_pfor=False)[0, :, :, 0]
    size = np.abs(jacobian).max(axis=(1, 3))
    assert (size[~is_past] == 0).all()
    assert (size[is_past] > 0).all()


def test_what_comes_later_is_not_seen(network):
    before = np.full((1, 5), START_ID, "int32")
    other = before.copy()
    other[0, 3] = 5
    one = network(SOURCE[:1], before)["logits"].numpy()
    two = network(SOURCE[:1], other)["logits"].numpy()
    np.testing.assert_array_equal(one[0, :3], two[0, :3])
    assert (np.abs(one[0, 3:] - two[0, 3:]).max(axis=-1) > 1e-4).all()


def test_steps_with_a_cache_are_the_full_pass(network):
    before = np.random.default_rng(0).integers(2, CHARACTERS, (3, 6)).astype("int32")
    whole = network(SOURCE, before)
    is_text = is_text_of(SOURCE)
    memories = network.memories(SOURCE)
    caches = network.empty_caches(memories, 6)
    for place in range(6):
        logits, caches, weights = network.step(
            before[:, place : place + 1],
            tf.constant(place),
            caches,
            memories,
            is_text,
        )
        expected = whole["logits"][:, place]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        expected = whole["weights"][:, :, place]
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


def test_with_and_without_the_cache_the_same_is_written(network):
    ids, weights = greedy(network, SOURCE, 7)
    (anew,) = transformer.greedy_anew(network, SOURCE, 7)
    np.testing.assert_array_equal(ids, anew)
    assert weights.shape == (3, 2 * HEADS, 7, 4)
    for row in ids.numpy().tolist():
        if END_ID in row:
            assert not any(row[row.index(END_ID) + 1 :])


def test_without_codes_the_order_of_the_source_is_not_seen():
    order = np.array([2, 0, 3, 1])
    source = tf.constant([[4, 4, 5, 1]])
    shuffled = tf.gather(source, order, axis=1)

    unordered = build(has_positions=False, depth=1)
    memory = tf.gather(unordered.read(source), order, axis=1)
    np.testing.assert_allclose(unordered.read(shuffled), memory, rtol=1e-4, atol=1e-5)
    ids, _ = greedy(unordered, source, 4)
    np.testing.assert_array_equal(greedy(unordered, shuffled, 4)[0], ids)

    ordered = build(depth=1)
    memory = tf.gather(ordered.read(source), order, axis=1)
    assert np.abs(ordered.read(shuffled) - memory).max() > 0.1


def test_weights_sum_to_one_and_leave_the_padding_out(network):
    before = tf.fill((3, 4), START_ID)
    weights = network(SOURCE, before)["weights"].numpy()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    is_padding = (SOURCE == PADDING_ID)[:, tf.newaxis, tf.newaxis]
    assert np.max(np.where(is_padding, weights, 0)) == 0


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_padding_changes_nothing(network, kind):
    models = {
        "transformer": with_teacher(network),
        "recurrent": transformer.build_recurrent(CHARACTERS, CHARACTERS, 4),
    }
    before = tf.constant([[START_ID, 4, 5]])
    inputs = {"source": SOURCE[1:2, :2], "before": before}
    padded = {"source": tf.pad(SOURCE[1:2], ((0, 0), (0, 3))), "before": before}
    model = models[kind]
    np.testing.assert_allclose(model(inputs), model(padded), rtol=1e-4, atol=1e-5)


def test_teacher_forced_and_greedy_exact_matches_are_the_same(network):
    written, _ = greedy(network, SOURCE, 5)
    targets = written.numpy()
    targets[1, 0] = 4 if targets[1, 0] != 4 else 5
    before = np.concatenate([np.full((3, 1), START_ID), targets[:, :-1]], axis=1)
    inputs = {"source": SOURCE.numpy(), "before": before.astype("int32")}
    logits = with_teacher(network)(inputs)
    assert exact_match(targets, logits).numpy().tolist() == [True, False, True]


def test_multiply_adds_by_their_formula():
    network = build(depth=1)
    source = SOURCE[:1].numpy()
    costs = transformer.costs_of_next(network, source)
    sources = source.shape[1]
    logits = WIDTH * CHARACTERS
    for i, count in enumerate(transformer.WRITTEN):
        # Query, key, value and join of the past; query and join of the source.
        one = 6 * WIDTH**2 + 4 * WIDTH**2 + logits
        with_cache = one + 2 * WIDTH * (count + sources)
        keys_of_source = 2 * WIDTH**2 * sources
        assert costs["with cache"][i] == with_cache
        assert costs["without cache"][i] == count * with_cache + keys_of_source


def test_the_rival_has_about_as_many_parameters():
    task = SimpleNamespace(characters=(40, 20))
    for wanted in (20_000, 200_000):
        found = transformer.as_large(wanted, task).count_params()
        assert found == pytest.approx(wanted, rel=0.05)


def part_of(target):
    return transformer.Part(None, None, None, np.array(target))


def test_faults_by_hand():
    part = part_of([[4, 5, END_ID, 0]] * 3)
    ids = np.array([[4, 5, END_ID, 4], [5, 4, END_ID, 5], [5, 5, END_ID, 0]])
    assert transformer.are_right(ids, part).tolist() == [True, False, False]


def test_pointing_by_hand():
    is_same = np.array([[[True, False], [False, False], [False, True]]])
    weights = np.array([[[[0.9, 0.1]] * 3, [[0.2, 0.8]] * 3, [[1, 0], [1, 0], [0, 1]]]])
    assert transformer.pointing(weights, is_same).tolist() == [0.5, 0.5, 1]
    nowhere = np.zeros_like(is_same)
    assert transformer.pointing(weights, nowhere).tolist() == [0, 0, 0]


def test_the_characters_of_a_target_are_found_in_the_source():
    pairs = data.Pairs(["ab1", "xé"], ["1b", "éz"], ["", ""])
    task = transformer.Task.__new__(transformer.Task)
    task.source_lookup = build_lookup(pairs.sources)
    task.target_lookup = build_lookup(pairs.targets)
    part = task.in_ids(pairs)
    found = transformer.same_characters(part, task).astype(int).tolist()
    assert found[0] == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found[1] == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_the_translator_takes_and_gives_strings(network):
    lookup = build_lookup(["ab"])
    translator = transformer.Translator(network, lookup, lookup, 6)
    texts = tf.constant(["abba", "b", "x"])
    ids, _ = greedy(network, encode(texts, lookup), 6)
    expected = ["".join(["", "", "", "", "a", "b"][i] for i in row) for row in ids]
    found = [text.decode() for text in translator(texts).numpy()]
    assert [text.replace("[UNK]", "") for text in found] == expected
    assert END not in "".join(found)


def test_a_limit_that_leaves_nothing_gets_one_line():
    with pytest.raises(UsageError, match="are 4 characters or shorter"):
        transformer.Task(transformer.Config(longest=4))
