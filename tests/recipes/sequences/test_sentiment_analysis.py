import importlib.resources
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.sentiment_analysis import (
    BETWEEN,
    DEGREES,
    FAR,
    NEAR,
    NEGATORS,
    SUBJECTS,
    VERBS,
    Classifier,
    Clause,
    Composer,
    Config,
    Reader,
    Task,
    Texts,
    build_average,
    build_lookup,
    build_model,
    encode,
    fit_linear,
    join,
    load_imdb,
    load_task,
    normalize,
    pad,
    rated_words,
    without_mask,
)

from deep_learning_recipes import UsageError
from recipes import sentiment_analysis

IDS = np.array([[3, 4, 5, 2], [2, 0, 0, 0], [5, 5, 0, 0]], "int32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build_model(words=7, classes=2, units=4, dropout=0.5)


@pytest.fixture
def composer():
    return Composer(60, np.random.default_rng(0))


def test_padding_changes_nothing(model):
    for network in (model, build_average(7, 2, 4, 0.5)):
        padded = network(pad(IDS, 1))
        np.testing.assert_allclose(network(IDS), padded, rtol=1e-5, atol=1e-6)
        assert np.abs(network(IDS) - network(without_mask(IDS, 7))).max() > 1e-3


def test_the_mask_leaves_the_text_alone(model):
    """Each padded text is answered as if it were by itself, without padding."""
    among = model(IDS)
    for row, length in ((1, 1), (2, 2)):
        alone = model(IDS[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], among[row], rtol=1e-5, atol=1e-6)


def test_the_network_is_two_layers_of_gru_both_ways(model):
    """In NumPy: Cho et al. 2014, equations 5 to 8, with Keras's two biases."""
    first, second = [
        layer for layer in model.layers if isinstance(layer, keras.layers.Bidirectional)
    ]
    embedding = next(x for x in model.layers if isinstance(x, keras.layers.Embedding))
    x = embedding.embeddings.numpy()[IDS[0]]
    forward = states(first.forward_layer, x)
    backward = states(first.backward_layer, x[::-1])[::-1]
    x = np.concatenate([forward, backward], axis=1)
    last = [
        states(second.forward_layer, x)[-1],
        states(second.backward_layer, x[::-1])[-1],
    ]
    dense = model.layers[-1]
    expected = np.concatenate(last) @ dense.kernel.numpy() + dense.bias.numpy()
    np.testing.assert_allclose(model(IDS)[0], expected, rtol=1e-4, atol=1e-5)


def states(gru, x):
    kernel, recurrent, biases = (weight.numpy() for weight in gru.weights)
    units = len(recurrent)
    h = np.zeros(units)
    found = []
    for each in x:
        a = each @ kernel + biases[0]
        b = h @ recurrent + biases[1]
        z, r = np.split(1 / (1 + np.exp(-(a + b)[: 2 * units])), 2)
        h = z * h + (1 - z) * np.tanh(a[2 * units :] + r * b[2 * units :])
        found.append(h)
    return np.array(found)


def test_the_mean_of_vectors_knows_no_order():
    network = build_average(7, 2, 4, 0.5)
    one = network(np.array([[3, 4, 5, 0]], "int32"))
    other = network(np.array([[5, 3, 4, 0]], "int32"))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.isfinite(network(np.zeros((1, 3), "int32"))).all()


def test_the_ratings_are_the_means_of_ten():
    ratings = rated_words()
    assert len(ratings) > 400
    assert 0.3 < np.mean(np.array(list(ratings.values())) > 0) < 0.7
    lexicon = importlib.resources.files("vaderSentiment") / "vader_lexicon.txt"
    ten = {
        word: json.loads(raters)
        for line in lexicon.read_text(encoding="utf-8").splitlines()
        for word, _, _, raters in [line.split("\t")]
    }
    for word, rating in ratings.items():
        assert len(ten[word]) == 10
        assert np.mean(ten[word]) == pytest.approx(rating, abs=0.051)


def test_no_other_word_is_rated():
    lexicon = importlib.resources.files("vaderSentiment") / "vader_lexicon.txt"
    rated = {line.split("\t")[0] for line in lexicon.read_text("utf-8").splitlines()}
    others = {*SUBJECTS, *VERBS, *NEGATORS, *DEGREES, *sum(BETWEEN, []), "and", "but"}
    assert not others & rated


def score_by_hand(text, ratings):
    """The rule of the docstring, on the text alone."""
    scores = []
    for clause in re.split(" (?:and|but) ", text):
        words = clause.split()
        (rated,) = [word for word in words if word in ratings]
        score = ratings[rated]
        for word in words:
            score *= DEGREES.get(word, 1) * (-1 if word in NEGATORS else 1)
        scores.append(score)
    return scores[-1] if " but " in text else sum(scores)


def test_labels_follow_the_rule(composer):
    for compose in (composer.any_sentence, composer.contrast, composer.plain):
        part = composer.many(150, compose)
        for text, label in zip(part.texts, part.labels, strict=True):
            assert (score_by_hand(text, composer.ratings) > 0) == label


def test_examples_of_the_rule(composer):
    composer.ratings = {"awful": -2.0, "joyful": 3.0}
    clause = composer.clause("awful", True, 0)
    assert clause.score == 2 * np.prod(
        [DEGREES.get(word, 1) for word in clause.text.split()]
    )
    praise, blame = Clause("a", 1.0), Clause("b", -3.0)
    assert join(praise, "and", blame) == Clause("a and b", -2.0)
    assert join(blame, "but", praise) == Clause("b but a", 1.0)


@pytest.mark.parametrize("distance", NEAR + FAR)
def test_so_many_words_stand_between(composer, distance):
    word = composer.negated[0]
    words = composer.clause(word, True, distance).text.split()
    start = next(i for i, each in enumerate(words) if each in NEGATORS)
    between = [each for each in words[start + 1 : -1] if each not in DEGREES]
    assert len(between) == distance


def test_what_is_held_out_is_in_no_training_sentence():
    parts = load_task(Config(sentences=500, words=60), 0).parts
    texts = {name: set(part.texts) for name, part in parts.items()}
    shown = texts.pop("train")
    assert len(texts) > 5
    assert all(not shown & of_part for of_part in texts.values())
    negated = re.compile(rf"(?:{'|'.join(NEGATORS)}) .*?(\w+)(?: and | but |$)")
    in_training = {word for text in shown for word in negated.findall(text)}
    new = {word for text in texts["newly negated"] for word in negated.findall(text)}
    assert new
    assert not new & in_training
    words = {word for text in shown for word in text.split()}
    assert new < words


def test_normalized_texts():
    texts = ["Don’t,  PANIC!!", "Größe—ÉTÉ", "好看的电影", "", "?!"]
    found = [text.decode() for text in normalize(tf.constant(texts)).numpy()]
    assert found[:2] == ["don't panic", "größe été"]
    assert found[2].split() == list("好看的电影")
    assert found[3:] == ["", ""]


def test_words_as_numbers():
    lookup = build_lookup(["b a a", "a b c"])
    assert lookup.get_vocabulary() == ["", "[UNK]", "a", "b"]
    ids = encode(tf.constant(["a c", "b b b b", ""]), lookup, longest=3).numpy()
    assert ids.tolist() == [[2, 1, 0], [3, 3, 3], [0, 0, 0]]
    assert build_lookup(["x y"]).vocabulary_size() == 4


def test_the_export_reads_strings_as_the_network_reads_ids():
    lookup = build_lookup(["a b c a b c"])
    network = build_model(lookup.vocabulary_size(), 2, 4, 0.5)
    reader = Reader(network, lookup, longest=3)
    texts = ["A, b!", "c", "", "a b c a b"]
    logits = reader(tf.constant(texts)).numpy()
    first, second, third = (lookup(word).numpy() for word in "abc")
    ids = np.array([[first, second, 0], [third, 0, 0], [0] * 3, [first, second, third]])
    np.testing.assert_allclose(network(ids), logits, rtol=1e-5, atol=1e-6)
    assert np.isfinite(logits).all()


def test_begun_anew_it_learns_the_same():
    part = Texts(["good film", "bad film"] * 8, [1, 0] * 8)
    task = Task({"train": part, "test": part}, ["no", "yes"], 5)
    network = build_average(task.words, 2, 4, 0.0)
    start = network.get_weights()
    learner = Classifier(network, task, Config(epochs=2, batch_size=4))
    ends = []
    for _ in range(2):
        learner.forget(start)
        for _ in range(3):
            network.train_on_batch(task.ids("train")[:5], task.labels("train")[:5])
        ends.append(network.get_weights())
    for one, other, before in zip(*ends, start, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        assert np.abs(one - before).max() > 1e-4


def test_who_counts_words_cannot_turn_one_around():
    """Two classes as an exclusive or of "not" and the word: pairs know it."""
    texts = ["good", "not good", "bad", "not bad"] * 20
    part = Texts(texts, [1, 0, 0, 1] * 20)
    assert fit_linear(2, part, 0).score(texts, part.labels) == 1
    assert fit_linear(1, part, 0).score(texts, part.labels) <= 0.75


def test_imdb_is_taken_from_the_cache_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"imdb.npz is not in .*rated_words"):
        load_imdb(10)
    (tmp_path / "datasets").mkdir()
    for name in ("imdb.npz", "imdb_word_index.json"):
        (tmp_path / "datasets" / name).write_text("")
    x = np.array([[1, 4, 5], [1, 2, 5]], object)
    split = (x, np.array([1, 0]))
    imdb = keras.datasets.imdb
    monkeypatch.setattr(imdb, "load_data", lambda: (split, split))
    monkeypatch.setattr(imdb, "get_word_index", lambda: {"good": 1, "film": 2})
    parts = load_imdb(1)
    assert parts["train"].labels == [1]
    assert parts["test"].texts[0].split() == ["good", "film"]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([f"it is w{i},{'xy'[i % 2]}" for i in range(40)], None),
        ([f"{'?' * (i + 1)},{'xy'[i % 2]}" for i in range(20)], "no words"),
    ],
)
def test_own_texts(tmp_path, rows, line):
    path = tmp_path / "own.csv"
    path.write_text("text,kind\n" + "\n".join(rows))
    sentiment = sentiment_analysis.data
    load = sentiment.load_labeled_texts
    names = sentiment.labeled_class_names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sentiment, "load_labeled_texts", lambda p, **o: load(p, "kind", **o)
        )
        patch.setattr(
            sentiment, "labeled_class_names", lambda p, **o: names(p, "kind", **o)
        )
        config = Config(data=str(path))
        if line:
            with pytest.raises(UsageError, match=line):
                load_task(config, 0)
        else:
            assert load_task(config, 0).classes == ["x", "y"]


def test_an_unknown_name_gets_the_names_that_there_are():
    with pytest.raises(UsageError, match="rated_words"):
        load_task(Config(data="rated_wrods"), 0)
