"""Windows and noise counted, losses by hand, the optimum against the PMI, SVD against
NumPy's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse
from scipy.special import expit

from deep_learning_recipes import UsageError
from recipes import word_embeddings

RANDOM = np.random.default_rng(0)


def test_words_are_in_lower_case_with_numbers_and_names():
    found = word_embeddings.words_of("The 2nd __init__(self), don't.")
    assert found == ["the", "2nd", "__init__", "self", "don", "t"]


def test_pairs_by_enumeration():
    ids = RANDOM.integers(5, size=30)
    paragraphs = np.repeat([0, 1, 2], [12, 1, 17])
    reach = RANDOM.integers(1, 4, size=30)
    expected = sorted(
        (ids[i], ids[j])
        for i in range(30)
        for j in range(30)
        if i != j and abs(i - j) <= reach[i] and paragraphs[i] == paragraphs[j]
    )
    words, contexts = word_embeddings.pairs_in_windows(ids, paragraphs, reach)
    assert sorted(zip(words, contexts, strict=True)) == expected


def test_windows_longer_than_the_text_end_with_it():
    ids = np.array([3, 1])
    words, contexts = word_embeddings.pairs_in_windows(
        ids, np.zeros(2), np.array([9, 9])
    )
    assert sorted(zip(words, contexts, strict=True)) == [(1, 3), (3, 1)]


def test_counts_weigh_pairs_by_their_distance():
    ids = np.array([0, 1, 2, 0, 1])
    paragraphs = np.array([0, 0, 0, 0, 1])
    counts = word_embeddings.count_pairs(ids, paragraphs, np.array([1, 0.5]), 3)
    # At distance 1: 0-1, 1-2, 2-0; at distance 2: 0-2, 1-0. The last word is alone.
    expected = [[0, 1.5, 1.5], [1.5, 0, 1], [1.5, 1, 0]]
    np.testing.assert_allclose(counts.toarray(), expected)


def test_skip_gram_meets_pairs_as_often_as_they_are_counted():
    window = 4
    text = word_embeddings.Text(RANDOM.integers(6, size=400), np.zeros(400, int))
    corpus = word_embeddings.Corpus(list("abcdef"), np.bincount(text.ids), text, text)
    met = np.zeros((6, 6))
    for _ in range(200):
        reach = RANDOM.integers(1, window + 1, size=400)
        pairs = word_embeddings.pairs_in_windows(text.ids, text.paragraphs, reach)
        np.add.at(met, pairs, 1 / 200)
    counts = word_embeddings.count(corpus, window).by_reach.toarray()
    np.testing.assert_allclose(counts, met, rtol=0.06)


def test_frequent_words_are_thinned_out_by_the_root_of_their_share():
    counts = np.array([900, 90, 10])
    found = word_embeddings.keep_probability(counts, 0.01)
    np.testing.assert_allclose(found, [np.sqrt(1 / 90), 1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(word_embeddings.keep_probability(counts, 1.0), 1)


def test_noise_is_drawn_from_the_counts_to_the_power():
    counts = np.array([64, 27, 8, 1] * 3)
    text = word_embeddings.Text(np.repeat(np.arange(12), counts), np.zeros(300, int))
    corpus = word_embeddings.Corpus(list("abcdefghijkl"), counts, text, text)
    config = word_embeddings.Config(negatives=20, window=2, batch_size=64)
    setting = word_embeddings.Setting(power=0.75)
    words, contexts = word_embeddings.draw_batches(corpus, setting, config, RANDOM)
    assert words.shape[1] == 64
    assert contexts.shape == (*words.shape, 21)
    drawn = [
        word_embeddings.draw_batches(corpus, setting, config, RANDOM)[1][..., 1:]
        for _ in range(20)
    ]
    drawn = np.concatenate([each.ravel() for each in drawn])
    shares = np.bincount(drawn, minlength=12) / len(drawn)
    expected = counts**0.75 / np.sum(counts**0.75)
    np.testing.assert_allclose(shares, expected, rtol=0.06)


def test_the_first_context_came_with_its_word():
    ids = np.arange(200) % 50
    text = word_embeddings.Text(ids, np.zeros(200, int))
    corpus = word_embeddings.Corpus(
        list(map(str, range(50))), np.full(50, 4), text, text
    )
    config = word_embeddings.Config(window=1, batch_size=16)
    words, contexts = word_embeddings.draw_batches(
        corpus, word_embeddings.Setting(), config, RANDOM
    )
    apart = (words - contexts[..., 0]) % 50
    assert set(np.ravel(apart)) == {1, 49}


def test_products_are_those_of_the_two_tables():
    model = word_embeddings.build_skip_gram(9, 4)
    tables = RANDOM.normal(size=(2, 9, 4)).astype("float32")
    model.get_layer("word_vectors").set_weights([tables[0]])
    model.get_layer("context_vectors").set_weights([tables[1]])
    word = np.array([2, 7])
    contexts = np.array([[1, 2, 3], [0, 8, 8]])
    found = model({"word": word, "contexts": contexts})
    expected = [
        [tables[0][w] @ tables[1][c] for c in row]
        for w, row in zip(word, contexts, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_negative_sampling_loss_by_hand():
    products = RANDOM.normal(size=(5, 4)).astype("float32")
    came = -np.log(expit(products[:, 0]))
    noise = -np.log(expit(-products[:, 1:])).sum(axis=1)
    found = word_embeddings.negative_sampling_loss(products)
    np.testing.assert_allclose(found, np.mean(came + noise), rtol=1e-5)


def toy_counts():
    """Of six words, no pair of them without a count."""
    half = RANDOM.integers(1, 30, size=(6, 6)).astype("float64")
    return half + half.T


def by_definition(counts):
    joint = counts / counts.sum()
    return np.log(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0)))


def test_pmi_by_its_definition():
    counts = toy_counts()
    counts[2, 3] = counts[3, 2] = 0
    found = word_embeddings.pmi_table(sparse.csr_matrix(counts)).toarray()
    seen = counts > 0
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found[seen], by_definition(counts)[seen], rtol=1e-9)
    assert found[2, 3] == 0


@pytest.mark.parametrize("negatives", [1, 5])
def test_the_optimum_of_skip_gram_is_the_shifted_pmi(negatives):
    keras.utils.set_random_seed(0)
    counts = toy_counts()
    model = word_embeddings.build_skip_gram(6, 6)
    optimizer = keras.optimizers.Adam(0.05)
    optimizer.build(model.trainable_variables)
    noise = counts.sum(axis=0) / counts.sum()
    word_embeddings.minimize_expected_loss(
        model,
        optimizer,
        tf.constant(counts, "float32"),
        tf.constant(noise, "float32"),
        negatives,
        tf.constant(1500),
    )
    vectors = word_embeddings.vectors_of(model)
    expected = by_definition(counts) - np.log(negatives)
    np.testing.assert_allclose(vectors.left @ vectors.right.T, expected, atol=0.01)


def test_the_expected_loss_is_the_mean_of_the_sampled_one():
    counts = np.array([[0, 3.0], [3.0, 2.0]])
    noise = np.array([0.4, 0.6])
    products = RANDOM.normal(size=(2, 2))
    total = 0
    for word in range(2):
        for context in range(2):
            of_noise = sum(
                noise[n] * -np.log(expit(-products[word, n])) for n in range(2)
            )
            loss = -np.log(expit(products[word, context])) + 3 * of_noise
            total += counts[word, context] * loss
    found = word_embeddings.expected_loss(products, counts, noise, negatives=3)
    np.testing.assert_allclose(found, total / counts.sum(), rtol=1e-6)


def test_glove_by_hand():
    model = word_embeddings.build_glove(5, 3)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Embedding):
            shape = layer.get_weights()[0].shape
            layer.set_weights([RANDOM.normal(size=shape)])
    w, c, b, d = (
        model.get_layer(name).get_weights()[0]
        for name in ("word_vectors", "context_vectors", "word_biases", "context_biases")
    )
    word = np.array([0, 4, 2])
    context = np.array([1, 1, 3])
    counts = np.array([0.5, 4.0, 200.0])
    weights = word_embeddings.glove_weights(counts)
    np.testing.assert_allclose(weights, [0.05**0.75, 0.4**0.75, 1])
    model.compile("sgd", loss="mean_squared_error")
    found = model.evaluate(
        {"word": word, "context": context},
        np.log(counts)[:, np.newaxis],
        sample_weight=weights,
        verbose=0,
    )
    logarithm = np.sum(w[word] * c[context], axis=1) + b[word, 0] + d[context, 0]
    expected = np.mean(weights * (logarithm - np.log(counts)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_factors_are_the_best_of_their_rank():
    table = np.maximum(RANDOM.normal(size=(20, 20)), 0)
    words, contexts = word_embeddings.factorize(sparse.csr_matrix(table), 5)
    u, s, vt = np.linalg.svd(table)
    np.testing.assert_allclose(words @ contexts.T, u[:, :5] * s[:5] @ vt[:5], atol=1e-8)
    # The words' products are those of the rows of that matrix.
    rows = u[:, :5] * s[:5] @ vt[:5]
    np.testing.assert_allclose(words @ words.T, rows @ rows.T, atol=1e-8)


def test_analogies_on_a_grid():
    """Words on a grid of two directions: the offset leads to the right one, nearness
    alone to others first."""
    kinds = np.eye(4)[:, :3] * 5
    number = np.array([0, 0, 0, 3.0])
    rows = [np.append(kind, 0.0) for kind in kinds[:3]]
    rows += [row + number for row in rows]
    rows.append(np.array([1, 1, 1, 0.2]))
    vectors = word_embeddings.unit(np.array(rows))
    assert word_embeddings.analogy_rank(vectors, 0, 3, 1, 4) == 1
    assert word_embeddings.analogy_rank(vectors, 0, 3, 1, 6) > 1
    cosines = vectors @ vectors[1]
    order = [i for i in np.argsort(-cosines) if i not in (0, 3, 1)]
    assert word_embeddings.neighbor_rank(vectors, 0, 3, 1, 6) == 1 + order.index(6)


def test_held_out_pairs_have_the_same_words_and_contexts():
    ids = RANDOM.integers(8, size=300)
    text = word_embeddings.Text(ids, np.zeros(300, int))
    short = word_embeddings.Text(ids[:40], np.zeros(40, int))
    corpus = word_embeddings.Corpus(list("abcdefgh"), np.bincount(ids), short, text)
    config = word_embeddings.Config(window=2)
    counts = word_embeddings.count(corpus, 2)
    held_out = word_embeddings.hold_out(corpus, counts, config, seed=0)
    came = held_out.came
    for numbers in (held_out.words, held_out.contexts):
        np.testing.assert_array_equal(np.sort(numbers[came]), np.sort(numbers[~came]))
    assert held_out.rank(corpus.counts[held_out.contexts]) == pytest.approx(0.5)
    seen = set(zip(*word_embeddings.every_pair(short, 2), strict=True))
    pairs = zip(held_out.words, held_out.contexts, strict=True)
    assert list(held_out.is_new) == [pair not in seen for pair in pairs]


def test_the_finder_knows_neighbors_and_unknown_words():
    words = ["one", "two", "three", "four"]
    vectors = word_embeddings.unit(RANDOM.normal(size=(4, 3)).astype("float32"))
    finder = word_embeddings.build_finder(words, vectors, 2)
    found = finder(tf.constant(["three", "missing"]))
    np.testing.assert_allclose(found["vector"], [vectors[2], [0, 0, 0]], atol=1e-6)
    cosines = vectors @ vectors[2]
    cosines[2] = -2
    order = np.argsort(-cosines)[:2]
    names = [name.decode() for name in found["neighbors"].numpy()[0]]
    assert names == [words[i] for i in order]
    np.testing.assert_allclose(found["cosines"][0], cosines[order], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a few words of no use\n" * 3, "come 5 times or more"),
        ("\n\n".join(["word" + str(i % 60) for i in range(3000)]), "side by side"),
    ],
)
def test_a_text_that_says_too_little_is_refused(tmp_path, text, message):
    path = tmp_path / "own.txt"
    path.write_text(text)
    config = word_embeddings.Config(data=str(path), dimensions=8)
    with pytest.raises(UsageError, match=message):
        word_embeddings.load_corpus(config)


def test_more_dimensions_than_words_are_refused():
    with pytest.raises(UsageError, match="--dimensions"):
        word_embeddings.load_corpus(
            word_embeddings.Config(dimensions=1000, vocabulary=500)
        )
