"""Texts of one's own, in files and folders, of any encoding."""

from pathlib import Path

import pytest

from deep_learning_recipes import UsageError, data
from deep_learning_recipes.data.own import texts

PARAGRAPHS = "\n\n".join(
    f"This is paragraph {i}, of äöü.\nIt goes on." for i in range(50)
)


def test_the_last_tenth_of_a_file_is_held_out():
    Path("a.txt").write_text(PARAGRAPHS, "utf-8")
    train, test = data.load_text("a.txt")
    assert train + "\n" + test == PARAGRAPHS + "\n"
    assert 0.1 <= len(test) / len(PARAGRAPHS) < 0.15
    assert test.startswith("This is paragraph 4")


def test_files_of_a_folder_stay_whole():
    Path("books/more").mkdir(parents=True)
    for i in range(9):
        Path(f"books/{i}.md").write_text(f"Book {i}. " + 100 * f"{i}")
    Path("books/more/last.txt").write_text("The last. " + 100 * "x")
    Path("books/.hidden.txt").write_text("never")
    Path("books/empty.txt").write_text(" \n")
    train, test = data.load_text("books/")
    assert test == "The last. " + 100 * "x" + "\n"
    assert train.count("Book") == 9
    assert "never" not in train


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]
)
def test_encodings(encoding):
    Path("a.txt").write_text(PARAGRAPHS, encoding)
    train, test = data.load_text("a.txt")
    assert train + "\n" + test == PARAGRAPHS + "\n"


def test_lines_end_alike_and_what_cannot_be_printed_goes():
    Path("a.md").write_bytes(b"o\x07ne\r\ntwo\tthree\rfour \n" + 40 * b"word ")
    train, _ = data.load_text("a.md")
    assert train.startswith("one\ntwo three\nfour\nword")


def test_at_most_so_many_characters():
    Path("a.txt").write_text(PARAGRAPHS)
    train, test = data.load_text("a.txt", max_examples=500)
    assert 480 < len(train) + len(test) <= 502
    train, _ = data.load_text("prose", max_examples=1000)
    assert len(train) == 1000


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", b"", "there is no text in it"),
        ("a.txt", b" \n\n ", "there is no text in it"),
        ("a.txt", b"x", "too short to hold a part of it out"),
        ("a.txt", b"\x7fELF\0\0\1", "a binary file, no text"),
        ("a.csv", b"a,b\n1,2", "a table, and this takes text"),
        ("a.doc", b"words", "no file of a kind that is read"),
    ],
    ids=["empty", "blank", "short", "binary", "table", "other"],
)
def test_what_is_wrong_gets_one_line(name, content, line):
    Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=f"^{name}: .*{line}|^{name}: {line}"):
        data.load_text(name)


def test_a_cut_is_made_where_words_end():
    train, test = texts.cut("word " * 100)
    assert train.endswith("word\n")
    assert test.strip().startswith("word")
