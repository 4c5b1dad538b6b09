import numpy as np
import pytest

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data import text


def test_prose_is_printable_and_split_nine_to_one():
    train, test = data.load_text("prose")
    assert 0.85 < len(train) / len(train + test) < 0.95
    assert len(train + test) > 300_000
    assert all(c == "\n" or c.isprintable() for c in train + test)
    assert set(test) <= set(train)
    assert (train, test) == data.load_text()


def test_prose_parts_hold_whole_topics_and_all_of_them():
    topics = text.prose_topics()
    train, test = data.load_text()
    assert train + "\n" + test == "\n\n".join(topics) + "\n"
    assert [(topic in train) != (topic in test) for topic in topics] == [True] * len(
        topics
    )
    assert "assert" in topics[0]


def test_no_paragraph_of_prose_is_in_both_parts():
    train, test = (set(part.strip().split("\n\n")) for part in data.load_text())
    assert not train & test
    # CPython's manual does repeat itself: without our care this would not hold.
    from pydoc_data.topics import topics

    assert topics["while"].split("\n\n")[1] in topics["compound"]


def test_names_convention():
    (names_train, languages_train), (names_test, languages_test) = data.load_names()
    classes = len(data.class_names("names"))
    assert data.class_names("names") == list(text.LOCALES)
    for names, languages in (
        (names_train, languages_train),
        (names_test, languages_test),
    ):
        assert languages.dtype == np.int64
        assert languages.shape == (len(names),)
        assert set(languages) == set(range(classes))
        assert all(
            type(name) is str and name.strip() == name and name for name in names
        )
        assert all(c.isalpha() or c in " -'’" for name in names for c in name)
        # shuffled: no language has a run of its own
        assert len(set(languages[:100])) > classes / 2
    assert 4 * len(names_test) == pytest.approx(len(names_train), rel=0.01)


def test_a_name_is_there_once():
    (names_train, _), (names_test, _) = data.load_names()
    folded = [name.casefold() for name in names_train + names_test]
    assert len(set(folded)) == len(folded)


def test_no_language_has_a_handful_or_most():
    (_, train), (_, test) = data.load_names()
    counts = np.bincount(np.concatenate([train, test]))
    assert counts.min() >= 150
    assert counts.max() == text.MOST_NAMES


def test_names_have_their_language_and_no_other():
    (names, languages), (names_test, _) = data.load_names()
    language = dict(zip(names, languages, strict=True))
    names_of = {
        name: set(text.last_names(locale)) for name, locale in text.LOCALES.items()
    }
    for name, label in list(language.items())[::20]:
        owners = [owner for owner, theirs in names_of.items() if name in theirs]
        assert owners == [data.class_names("names")[label]]
    shared = names_of["Czech"] & names_of["Slovak"]
    assert len(shared) > 20
    assert shared.isdisjoint(names + names_test)


def test_names_are_the_same_at_every_call():
    for one, other in zip(data.load_names(), data.load_names(), strict=True):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


def test_names_can_be_told_apart_by_their_letters():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    (names_train, languages_train), (names_test, languages_test) = data.load_names()
    grams = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3)).fit(names_train)
    model = MultinomialNB(alpha=0.1).fit(grams.transform(names_train), languages_train)
    assert 0.65 < model.score(grams.transform(names_test), languages_test) < 0.85


def test_unknown_text():
    with pytest.raises(
        UsageError,
        match=r"^unknown text 'pros'; did you mean prose\? \(prose\), and there is no such path$",
    ):
        data.load_text("pros")


def test_prose_topics_are_cleaned_sorted_and_each_paragraph_kept_once(monkeypatch):
    import pydoc_data.topics

    raw = {
        "while": "Loops\r\n\r\nwhile:\r\n\tpass  ",
        "bell": "\x07Ring\x00\n\nLoops\n",
        "wend": "Loops",
    }
    monkeypatch.setattr(pydoc_data.topics, "topics", raw)
    assert text.prose_topics() == ["Ring\n\nLoops", "while:\n        pass"]
