import keras
import numpy as np
import pytest
import tensorflow as tf
from recipes.name_classification import (
    FAMILIES,
    NOT_ASKED,
    Answers,
    Config,
    Names,
    Reader,
    answers_after,
    asked_at_every_letter,
    asked_at_the_end,
    build_lookup,
    build_model,
    confuse,
    encode,
)
from sklearn.metrics import confusion_matrix

from deep_learning_recipes import UsageError
from recipes import name_classification

IDS = np.array([[3, 4, 5, 0], [2, 0, 0, 0], [5, 5, 4, 3]], "int32")
LABELS = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build_model(letters=6, classes=3, units=4, dropout=0.5)


def test_who_is_asked_when():
    end = asked_at_the_end(IDS, LABELS)
    no = NOT_ASKED
    assert end.tolist() == [[no, no, 2, no], [0, no, no, no], [no, no, no, 1]]
    every = asked_at_every_letter(IDS, LABELS)
    assert every.tolist() == [[2, 2, 2, no], [0, no, no, no], [1, 1, 1, 1]]


def test_the_loss_is_the_cross_entropy_of_the_steps_that_are_asked(model):
    name_classification.compile_model(model, 1e-3, 10)
    log_p = keras.ops.log_softmax(model(IDS)).numpy()
    for ask in (asked_at_the_end, asked_at_every_letter):
        asked = ask(IDS, LABELS)
        rows, steps = np.nonzero(asked != NOT_ASKED)
        expected = -log_p[rows, steps, asked[rows, steps]].mean()
        loss = model.evaluate(IDS, asked, batch_size=3, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_the_gru_is_the_papers_equations(model):
    """Cho et al. 2014, equations 5 to 8, with Keras's two biases."""
    dense = model.layers[-1]
    embedding = next(x for x in model.layers if isinstance(x, keras.layers.Embedding))
    gru = next(x for x in model.layers if isinstance(x, keras.layers.GRU))
    kernel, recurrent, biases = (w.numpy() for w in gru.weights)
    table = embedding.embeddings.numpy()
    h = np.zeros(4)
    for step, letter in enumerate(IDS[2]):
        x = table[letter] @ kernel + biases[0]
        u = h @ recurrent + biases[1]
        z = 1 / (1 + np.exp(-(x[:4] + u[:4])))
        r = 1 / (1 + np.exp(-(x[4:8] + u[4:8])))
        h = z * h + (1 - z) * np.tanh(x[8:] + r * u[8:])
        expected = h @ dense.kernel.numpy() + dense.bias.numpy()
        np.testing.assert_allclose(model(IDS)[2, step], expected, rtol=1e-4, atol=1e-5)


def test_what_comes_later_changes_no_answer(model):
    other = IDS.copy()
    other[2, 2] = 2
    one, two = model(IDS).numpy(), model(other).numpy()
    np.testing.assert_allclose(one[2, :2], two[2, :2], atol=1e-6)
    assert np.abs(one[2, 2:] - two[2, 2:]).max() > 1e-4


def test_answers_of_a_short_name_stay():
    logits = np.zeros((3, 4, 3), "float32")
    logits[0, 2, 1] = logits[1, 0, 2] = logits[2, 1, 1] = logits[2, 3, 2] = 1
    assert answers_after(IDS, logits, 1).tolist() == [0, 2, 0]
    assert answers_after(IDS, logits, 2).tolist() == [0, 2, 1]
    assert answers_after(IDS, logits, 9).tolist() == [1, 2, 2]


def test_letters_as_numbers():
    lookup = build_lookup(["Łoś", "ab"])
    assert lookup.get_vocabulary()[:2] == ["", "[UNK]"]
    ids = encode(["aŁx", "", "abababab"], lookup, longest=4).numpy()
    assert ids.shape == (3, 4)
    assert (ids[0, 2], ids[0, 3]) == (1, 0)
    assert ids[1].tolist() == [0] * 4
    assert ids[2, 0] == ids[2, 2]


def test_the_export_reads_strings_as_the_network_reads_ids(model):
    lookup = build_lookup(["abcd"])
    reader = Reader(model, lookup, longest=4)
    texts = tf.constant(["abc", "d", "dcbadcba", ""])
    logits = reader(texts).numpy()
    ids = encode(texts, lookup, 4).numpy()
    for i, last in enumerate([2, 0, 3, 0]):
        np.testing.assert_allclose(logits[i], model(ids)[i, last], atol=1e-6)


def test_backward_is_from_the_last_letter():
    names = Names(Config(longest=30))
    forward, backward = (names.ids(["Nowak"], back)[0] for back in (False, True))
    assert forward[:5].tolist() == backward[:5][::-1].tolist()
    assert not backward[5:].any()


def test_confusion_is_scikit_learns():
    random = np.random.default_rng(0)
    names = Names(Config())
    ids = names.ids(names.test, backward=False)
    logits = random.normal(size=(*ids.shape, 16)).astype("float32")
    answers = Answers(None, ids, logits)
    answered = answers_after(ids, logits, names.longest)
    expected = confusion_matrix(names.y_test, answered, labels=range(16))
    np.testing.assert_array_equal(confuse(names, answers), expected)
    accuracy = answers.accuracy(names.y_test, names.longest)
    assert accuracy == pytest.approx(np.trace(expected) / len(ids))


def test_every_language_has_a_family():
    names = Names(Config())
    listed = [name for of in FAMILIES.values() for name in of]
    assert sorted(listed) == sorted(names.classes)


class Recorded:
    def metrics(self, name, values):
        self.values = values

    def compare(self, *_, **__):
        pass


def test_errors_at_random_are_within_families_as_often_as_chance():
    """The zero of the measure, and what it says if all errors are among relatives."""
    names = Names(Config())
    run = Recorded()
    random = np.random.default_rng(0)
    confusion = np.zeros((16, 16), int)
    np.add.at(confusion, tuple(random.integers(16, size=(2, 50_000))), 1)
    name_classification.judge_families(names, confusion, run)
    assert run.values["errors"] == pytest.approx(run.values["by chance"], abs=0.01)

    czech, slovak = (names.classes.index(name) for name in ("Czech", "Slovak"))
    confusion = np.diag(np.full(16, 5))
    confusion[czech, slovak] = confusion[slovak, czech] = 3
    name_classification.judge_families(names, confusion, run)
    assert run.values["errors"] == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [("text,kind\nab,1\ncd,2\nef,1\ngh,2\nij,1\nkl,2\n", "no text has 3 letters")],
)
def test_texts_too_short_get_one_line(tmp_path, monkeypatch, content, line):
    from deep_learning_recipes.data.own.asked import asking

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(content)
    run = type("Run", (), {"plan": lambda *_: None})()
    with asking(target="kind"), pytest.raises(UsageError, match=line):
        name_classification.main(Config(data="a.csv"), run)
