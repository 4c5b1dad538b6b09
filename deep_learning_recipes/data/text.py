"""Embedded text: prose to model character by character, and family names to
classify."""

import importlib
from collections.abc import Sequence

import numpy as np

from deep_learning_recipes.data.labels import CLASS_NAMES
from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import asked
from deep_learning_recipes.data.registry import is_path

PROSE_TRAIN = 0.9
NAMES_TRAIN = 0.8
MOST_NAMES = 500  # of one language, so that none is most of the data

# One locale of Faker for each language that is written in Latin script and has 150
# names or more that no other language has.
LOCALES = {
    "Azerbaijani": "az_AZ",
    "Croatian": "hr_HR",
    "Czech": "cs_CZ",
    "Dutch": "nl_NL",
    "English": "en_GB",
    "Estonian": "et_EE",
    "Finnish": "fi_FI",
    "French": "fr_FR",
    "German": "de_DE",
    "Irish": "ga_IE",
    "Italian": "it_IT",
    "Polish": "pl_PL",
    "Slovak": "sk_SK",
    "Spanish": "es_ES",
    "Swedish": "sv_SE",
    "Zulu": "zu_ZA",
}


def load_text(name: str = "prose", max_examples: int | None = None) -> tuple[str, str]:
    """A text as (train, test), two strings of printable characters and newlines.

    name: prose: the manual of the Python language (CPython's `pydoc_data.topics`):
        English sentences, tables, and code. In Python 3.11 it is 333,688 + 40,237
        characters, 103 different ones; other versions of Python have other text, so
        results compare within one. Or a path: a .txt or .md file, of which the last
        tenth is test, or a folder of them, of which the last files are.
    max_examples: characters at most; 0: all; None: what the command line asks.

    Whole topics are either train or test, in the order of their names: the first 90 %
    or so are train. License: PSF. Measured: Witten-Bell models of order 0, 2, 4 need
    4.70, 2.65, 2.12 bits per test character. Raises UsageError for an unknown name and
    for a path without text.
    """
    wanted = asked(max_examples=max_examples)
    if is_path("text", name, ["prose"]):
        return reading.text(name, wanted)
    topics = prose_topics()
    total = sum(map(len, topics))
    boundary, taken = 0, 0
    while taken + len(topics[boundary]) / 2 < PROSE_TRAIN * total:
        taken += len(topics[boundary])
        boundary += 1
    train = "\n\n".join(topics[:boundary]) + "\n"
    test = "\n\n".join(topics[boundary:]) + "\n"
    most = wanted.max_examples or total
    return train[:most], test[:most]


def prose_topics() -> list[str]:
    """The topics in the order of their names, every paragraph only where it first
    appears.

    The manual repeats whole topics inside others ("while" is part of "compound"): kept
    twice, a paragraph of the test part would stand word for word in the train part.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = []
    for _, topic in sorted(topics.items()):
        text = "\n".join(line.rstrip() for line in topic.expandtabs().splitlines())
        text = "".join(c for c in text if c == "\n" or c.isprintable())
        paragraphs = [p for p in text.strip("\n").split("\n\n") if p not in seen]
        seen.update(paragraphs)
        if paragraphs:
            texts.append("\n\n".join(paragraphs))
    return texts


def load_labeled_texts(
    name: str,
    target: str | None = None,
    max_examples: int | None = None,
    *,
    embedded: Sequence[str] = ("names",),
) -> tuple[tuple[list[str], np.ndarray], tuple[list[str], np.ndarray]]:
    """Short texts and their classes: ((texts, labels), (texts, labels)), train and test.

    name: names: see `load_names`. Or the path of your own .csv or .parquet file.
    target: its column of classes; None: what the command line asks, as for the rest.
    max_examples: of your own file at most; 0: all.
    embedded: the names that a recipe has beside paths, some perhaps of its own.

    labels: int64; `labeled_class_names` has what they stand for. Of your own file a
    fifth is test, chosen at random within each class, no text of which is in both.
    """
    if is_path("texts", name, embedded):
        wanted = asked(target=target, max_examples=max_examples)
        return reading.labeled_texts(name, wanted)
    return load_names()


def labeled_class_names(
    name: str, target: str | None = None, *, embedded: Sequence[str] = ("names",)
) -> list[str]:
    """The classes of `load_labeled_texts`, in the order of their labels."""
    if is_path("texts", name, embedded):
        return reading.labeled_class_names(name, asked(target=target))
    return CLASS_NAMES[name]


def load_names() -> tuple[tuple[list[str], np.ndarray], tuple[list[str], np.ndarray]]:
    """Family names and their languages: ((names, languages), (names, languages)), train
    and test.

    names: 5445 and 1361 strings (with Faker 40.54) of up to 40 characters. languages:
        int64, 16
    classes; `class_names("names")` has them. A fixed random 80/20 split within each
    language. Names are compared without regard to case; a name that stands twice in a
    language is kept once, a name of two languages is in neither. At most 500 names a
    language. License: MIT (Faker). Measured: logistic regression on 1- to 3-grams 0.75,
    the most frequent language 0.07. Feminine forms stand beside masculine ones (Novák,
    Nováková), at times across the split.
    """
    languages_of: dict[str, set[int]] = {}
    spelling: dict[str, str] = {}
    for label, language in enumerate(CLASS_NAMES["names"]):
        for name in last_names(LOCALES[language]):
            languages_of.setdefault(name.casefold(), set()).add(label)
            spelling[name.casefold()] = name

    rng = np.random.default_rng(0)
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    for label in range(len(LOCALES)):
        own = sorted(
            name for name, languages in languages_of.items() if languages == {label}
        )
        chosen = [
            (spelling[own[i]], label) for i in rng.permutation(len(own))[:MOST_NAMES]
        ]
        boundary = round(NAMES_TRAIN * len(chosen))
        train += chosen[:boundary]
        test += chosen[boundary:]

    def shuffle(pairs: list[tuple[str, int]]) -> tuple[list[str], np.ndarray]:
        order = rng.permutation(len(pairs))
        return [pairs[i][0] for i in order], np.array([pairs[i][1] for i in order])

    return shuffle(train), shuffle(test)


def last_names(locale: str) -> list[str]:
    """All family names of a locale: Faker keeps feminine, masculine, and common ones
    apart."""
    provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
    return [
        name
        for attribute, names in sorted(vars(provider).items())
        if "last_names" in attribute
        for name in names
        if ","
        not in name  # three Dutch ones are entries of an index: "Bourgondië, van"
    ]
