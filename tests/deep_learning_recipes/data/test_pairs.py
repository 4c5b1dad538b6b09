import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from num2words import num2words

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data.pairs import LANGUAGES, NEW_LANGUAGES


@pytest.fixture(scope="module")
def dates():
    return data.load_pairs("dates")


def test_a_date_is_what_it_says(dates):
    train = dates["train"]
    numbers = [
        sorted(map(int, re.findall(r"\d+", source)), reverse=True)
        for source in train.sources
    ]
    for found, target in zip(numbers, train.targets, strict=True):
        year, month, day = map(int, target.split("-"))
        assert found[0] == year
        assert day in found
        # Two numbers: the month is a word. Else it is the third.
        assert len(found) == 2 or month in found


def test_english_dates_agree_with_the_standard_library(dates):
    written = [
        (source, target)
        for source, target, kind in zip(
            *(
                getattr(dates["train"], name)
                for name in ("sources", "targets", "kinds")
            ),
            strict=True,
        )
        if kind == "English"
    ]
    assert len(written) > 100
    for source, target in written:
        for style in ("%b %d, %Y", "%B %d, %Y", "%A, %B %d, %Y"):
            try:
                read = datetime.datetime.strptime(source, style)
            except ValueError:
                continue
            assert read.date().isoformat() == target
            break
        else:
            pytest.fail(f"no English date: {source}")


def test_years_and_languages_are_held_out(dates):
    years = {part: {t[:4] for t in pairs.targets} for part, pairs in dates.items()}
    assert not years["train"] & (years["test"] | years["new languages"])
    assert len(years["train"] | years["test"]) == 150
    assert set(dates["train"].kinds) == set(dates["test"].kinds) == set(LANGUAGES)
    assert set(dates["new languages"].kinds) == set(NEW_LANGUAGES)
    assert len(dates["train"]) > 7_800
    assert min(len(dates["test"]), len(dates["new languages"])) > 950


def test_no_source_stands_for_two_dates(dates):
    meanings = {}
    for pairs in dates.values():
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            assert meanings.setdefault(source, target) == target


NAMED = {num2words(n): n for n in [*range(20), *range(20, 100, 10)]}


def in_digits(words):
    """From English words, up to 999,999."""
    total = 0
    group = 0
    for word in re.findall("[a-z]+", words):
        if word == "thousand":
            total += 1000 * group
            group = 0
        elif word == "hundred":
            group *= 100
        elif word != "and":
            group += NAMED[word]
    return total + group


def test_number_words_and_what_is_held_out():
    parts = data.load_pairs("number_words", max_examples=500)
    assert {part: len(pairs) for part, pairs in parts.items()} == {
        "train": 500,
        "test": 1000,
        "longer numbers": 1000,
    }
    train = [in_digits(source) for source in parts["train"].sources]
    test = [in_digits(source) for source in parts["test"].sources]
    longer = [in_digits(source) for source in parts["longer numbers"].sources]
    assert not {n // 100 for n in train} & {n // 100 for n in test}
    assert len(set(train)) == len(train)
    assert 0.4 < np.mean(np.array(train) < 10_000) < 0.6
    assert min(longer) >= 100_000 > max(train + test)
    for n, target in zip(train, parts["train"].targets, strict=True):
        assert num2words(n, lang="fr") == target


def test_the_same_pairs_each_time():
    assert data.load_pairs("number_words", 50) == data.load_pairs("number_words", 50)
    small = data.load_pairs("dates", 50)
    assert small == data.load_pairs("dates", 50)
    assert len(small["train"]) == 50


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINES = "".join(f"go {n}\tva {n}\tCC-BY\n" for n in range(40))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", LINES.encode()),
        ("a.txt", LINES.replace("\n", "\r\n").encode()),
        ("a.txt", b"\xef\xbb\xbf" + LINES.encode()),
        ("a.txt", LINES.encode("utf-16")),
        (
            "a.csv",
            ("en,fr\n" + LINES).replace("\tCC-BY", "").replace("\t", ",").encode(),
        ),
    ],
    ids=["tsv", "crlf", "mark", "utf-16", "csv"],
)
def test_pairs_of_ones_own(here, name, content, capsys):
    (here / name).write_bytes(content)
    parts = data.load_pairs(name)
    assert {part: len(pairs) for part, pairs in parts.items()} == {
        "train": 36,
        "test": 4,
    }
    both = parts["train"].sources + parts["test"].sources
    assert sorted(both) == sorted(f"go {n}" for n in range(40))
    for pairs in parts.values():
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            assert target == source.replace("go", "va")
    assert "36 pairs to train on, 4 held out" in capsys.readouterr().out


def test_a_source_with_several_targets_is_in_one_part(here):
    rows = [f"go {n}\t{word}" for n in range(30) for word in ("va", "vas", "allez")]
    (here / "a.tsv").write_text("\n".join(rows))
    parts = data.load_pairs("a.tsv")
    assert not set(parts["train"].sources) & set(parts["test"].sources)
    assert len(parts["train"]) == 81


def test_what_is_left_out_is_said(here, capsys):
    (here / "a.tsv").write_text("a\tb\nno tab\na\tb\nc\t\nd\te\nNA\tnull\n")
    parts = data.load_pairs("a.tsv")
    sources = parts["train"].sources + parts["test"].sources
    assert sorted(sources) == ["NA", "a", "d"]
    said = capsys.readouterr().out
    assert "1 lines without a tab" in said
    assert "1 pairs of which a half is empty, 1 that stand twice" in said


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.tsv", b"", "no pairs in it"),
        ("a.txt", b"one\ntwo\n", "no pairs in it"),
        ("a.tsv", b"a\tb\n", "fewer than two different pairs"),
        ("a.csv", b"a,b,c\n1,2,3\n", "--target says which: a, b, c"),
        ("a.csv", b"a,b\n", "the table has no rows"),
        ("a.csv", b"", "the file is empty"),
        ("a.tsv", b"\x7fELF\0\0", "a binary file"),
    ],
    ids=["empty", "no_tab", "one", "three", "no_rows", "empty_table", "binary"],
)
def test_what_holds_no_pairs_gets_one_line(here, name, content, line):
    (here / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"^{name}: .*{line}|^{name}: {line}"):
        data.load_pairs(name)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'dates'|dates"):
        data.load_pairs("date")


REVIEWS = "id,review,stars\n" + "".join(
    f'{n},"a {word} film, number {n}",{stars}\n'
    for n in range(50)
    for word, stars in (("good", 5), ("bad", 1))
)


def test_labeled_texts_of_ones_own(here, capsys):
    (here / "r.csv").write_text(REVIEWS + "9,,5\n9,no stars,\n")
    parts = data.load_labeled_texts("r.csv", target="stars")
    names = data.labeled_class_names("r.csv", target="stars")
    assert names == ["1", "5"]
    (texts, labels), (texts_test, labels_test) = parts
    assert (len(texts), len(texts_test)) == (80, 20)
    assert np.bincount(labels_test).tolist() == [10, 10]
    for text, label in zip(texts + texts_test, [*labels, *labels_test], strict=True):
        assert ("good" in text) == (names[label] == "5")
    said = capsys.readouterr().out
    assert "2 rows without text or class" in said
    assert "column review is the text" in said


def test_a_text_that_stands_twice_is_in_one_part(here):
    (here / "r.csv").write_text(REVIEWS + REVIEWS.partition("\n")[2])
    (texts, _), (texts_test, _) = data.load_labeled_texts("r.csv", target="stars")
    assert len(texts) + len(texts_test) == 100
    assert not set(texts) & set(texts_test)


@pytest.mark.parametrize(
    ("content", "target", "line"),
    [
        (REVIEWS, "", "--target says which column holds the classes"),
        (REVIEWS, "star", "no such column"),
        ("stars\n1\n2\n", "stars", "no column but stars"),
        ("a,b\nx,1\ny,1\n", "b", "one class only"),
    ],
    ids=["no_target", "misspelt", "alone", "one_class"],
)
def test_what_cannot_be_learned_gets_one_line(here, content, target, line):
    (here / "r.csv").write_text(content)
    with pytest.raises(UsageError, match=line):
        data.load_labeled_texts("r.csv", target=target)


def test_names_are_labeled_texts():
    (names, _), _ = data.load_labeled_texts("names")
    assert len(names) > 5000
    assert data.labeled_class_names("names") == data.class_names("names")


def test_long_pairs_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"word {i}\t{i}" for i in range(100)] + ["a word too long\t1"]
    Path("a.tsv").write_text("\n".join(lines))
    parts = data.load_pairs("a.tsv", longest=7)
    assert set(parts) == {"train", "test"}
    assert len(parts["train"]) + len(parts["test"]) == 100

    numbers = data.load_pairs("number_words", 500, longest=40)
    texts = [
        *numbers["train"].sources,
        *numbers["train"].targets,
        *numbers["test"].sources,
    ]
    assert max(map(len, texts)) <= 40

    with pytest.raises(UsageError, match="0 pairs to train on and 0 to test on are 4"):
        data.load_pairs("a.tsv", longest=4)
