"""Text files, and folders of them."""

from pathlib import Path

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own import memory
from deep_learning_recipes.data.own.said import listed, say
from deep_learning_recipes.data.own.source import TEXTS, files_below

TRAIN = 0.9
BYTES_A_CHARACTER = 8
WESTERN = "cp1252"
BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def read(path: Path, most: int) -> tuple[str, str]:
    """Text to train on and text held out: of a folder whole files, the last ones by
    name; of a single file the last tenth, cut at the end of a paragraph or line.

    most: characters at most; 0: all.
    """
    files = [path]
    if path.is_dir():
        files = [each for each in files_below(path) if each.suffix.lower() in TEXTS]
    total = sum(each.stat().st_size for each in files)
    memory.require(path, min(total, most or total), BYTES_A_CHARACTER, "characters")
    texts = {str(file): decode(file, limit=4 * most) for file in files}
    empty = [Path(name).name for name, text in texts.items() if not plain(text).strip()]
    if empty and len(empty) < len(texts):
        say(path, f"{len(empty):,} files hold no text: {listed(empty)}")
    return split(path, list(texts.values()), most)


def split(path: Path, documents: list[str], most: int) -> tuple[str, str]:
    """The same of texts, one for each file."""
    texts = [plain(each).strip("\n") for each in documents]
    texts = [each for each in texts if each.strip()]
    if not texts:
        raise UsageError(f"{path}: there is no text in it")
    if len(texts) == 1:
        train, test = cut(texts[0][: most or None])
    else:
        train, test = by_documents(texts, most)
    if not train.strip() or not test.strip():
        raise UsageError(f"{path}: the text is too short to hold a part of it out")
    say(path, f"{len(train):,} characters to train on, {len(test):,} held out")
    return train, test


def plain(text: str) -> str:
    """Printable characters and newlines; tabs as spaces."""
    lines = [line.rstrip() for line in text.expandtabs(4).splitlines()]
    joined = "\n".join(lines)
    return "".join(c for c in joined if c == "\n" or c.isprintable())


def cut(text: str) -> tuple[str, str]:
    """At the end of a paragraph near nine tenths, else of a line, else there."""
    boundary = int(TRAIN * len(text))
    nearest = len(text) // 20
    for end in ("\n\n", "\n", " "):
        place = text.rfind(end, boundary - nearest, boundary)
        if place > 0:
            return text[:place] + "\n", text[place:].lstrip("\n") + "\n"
    return text[:boundary], text[boundary:]


def by_documents(texts: list[str], most: int) -> tuple[str, str]:
    """Whole texts are train or test, in their order."""
    kept: list[str] = []
    left = most or sum(map(len, texts))
    for text in texts:
        if left > 0:
            kept.append(text[:left])
        left -= len(text)
    ends = np.cumsum([len(text) for text in kept])
    boundary = int(np.argmin(np.abs(ends - TRAIN * ends[-1]))) + 1
    if boundary == len(kept):
        boundary -= 1  # the last one is held out, be it long
    if boundary == 0:
        return cut(kept[0])
    return "\n\n".join(kept[:boundary]) + "\n", "\n\n".join(kept[boundary:]) + "\n"


def encoding_of(path: Path) -> str:
    """By its first bytes, else UTF-8 if it is that, else Windows's western one.

    Raises UsageError for a binary file.
    """
    with path.open("rb") as file:
        start = file.read(2**16)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise UsageError(f"{path}: a binary file, no text")
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start) - 3:  # not just a character that was cut in two
            return WESTERN
    return "utf-8"


def decode(path: Path, limit: int = 0) -> str:
    """The text of a file.

    limit: how many bytes to read of it at most, about; 0: all.
    Raises UsageError for a file that is no text.
    """
    encoding = encoding_of(path)
    with path.open("rb") as file:
        content = file.read(limit or -1)
    is_whole = len(content) == path.stat().st_size
    errors = "strict" if is_whole else "ignore"
    try:
        if encoding != WESTERN:
            return content.decode(encoding, errors)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise UsageError(f"{path}: damaged text, not {encoding}") from None
    say(path, f"not UTF-8; read as Windows's western encoding ({WESTERN})")
    return content.decode(WESTERN, "replace")
