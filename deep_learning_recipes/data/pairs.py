"""Pairs of strings, to turn the one into the other: dates of many languages and what
they are in ISO 8601, numbers in English and French words."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import asked
from deep_learning_recipes.data.registry import is_path

# Languages that write dates in Latin script, by the names that Babel has for them.
LANGUAGES = {
    "Albanian": "sq",
    "Azerbaijani": "az",
    "Basque": "eu",
    "Croatian": "hr",
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "English": "en",
    "Esperanto": "eo",
    "Estonian": "et",
    "Faroese": "fo",
    "Filipino": "fil",
    "Finnish": "fi",
    "French": "fr",
    "Friulian": "fur",
    "German": "de",
    "Hungarian": "hu",
    "Icelandic": "is",
    "Indonesian": "id",
    "Irish": "ga",
    "Italian": "it",
    "Latvian": "lv",
    "Lithuanian": "lt",
    "Luxembourgish": "lb",
    "Maltese": "mt",
    "Occitan": "oc",
    "Polish": "pl",
    "Portuguese": "pt",
    "Romanian": "ro",
    "Romansh": "rm",
    "Slovenian": "sl",
    "Spanish": "es",
    "Swahili": "sw",
    "Swedish": "sv",
    "Turkish": "tr",
    "Vietnamese": "vi",
    "Welsh": "cy",
    "Zulu": "zu",
}
# Each has a near relative among the others.
NEW_LANGUAGES = {
    "Afrikaans": "af",
    "Catalan": "ca",
    "Galician": "gl",
    "Norwegian": "nb",
    "Slovak": "sk",
}
STYLES = ("medium", "long", "full")
YEARS = np.arange(1900, 2050)
TRAINING_DATES = 8_000
TEST_DATES = 1_000

TRAINING_NUMBERS = 8_000
TEST_NUMBERS = 1_000
LARGEST_NUMBER = 100_000
LONGER_NUMBERS = 1_000_000

FEWEST = 4  # pairs of a part
HELD_OUT = 0.1  # of years, and of hundreds


@dataclass(frozen=True)
class Pairs:
    """Strings, and what each is to become."""

    sources: list[str]
    targets: list[str]
    kinds: list[str]
    """the language of a date; "" elsewhere"""

    def __len__(self) -> int:
        return len(self.sources)

    def select(self, places: Iterable[int]) -> "Pairs":
        """Those at some places."""
        places = list(places)
        return Pairs(
            [self.sources[i] for i in places],
            [self.targets[i] for i in places],
            [self.kinds[i] for i in places],
        )


def load_pairs(
    name: str, max_examples: int | None = None, *, longest: int | None = None
) -> dict[str, Pairs]:
    """Pairs by part: "train", "test", and of the embedded sets a third that is of
    another kind than all that is trained on.

    name: dates: "vendredi 9 mai 2003" to "2003-05-09", in 38 languages and three styles
            each, 8,000 to train on. test: 1,000 of 15 years that training does not
            have. new languages: 1,000 of those years in five languages that training
            does not have. What could be two dates is left out.
        number_words: "three hundred and one" to "trois cent un", 0 to 99,999, 8,000 to
            train on. test: 1,000 of hundreds that training does not have. longer
            numbers: 1,000 of 100,000 to 999,999.
        Or the path of your own: a .csv or .parquet file with a line of names and two
        columns of text, or lines of text, tab, text (.tsv, .txt) without a line of
        names. A tenth is test, and no source is in both parts.
    max_examples: pairs to train on at most; 0: all; None: what the command line asks.
    longest: characters of a text at most; pairs with a longer one are left out.

    Rules make every pair, so both are easier than what people write. Licenses: Babel is
    BSD, its CLDR data Unicode's; num2words LGPL. Raises UsageError for an unknown name,
    for a file without pairs, and where fewer than FEWEST to train on or to test on are
    short enough.
    """
    wanted = asked(max_examples=max_examples)
    if is_path("pairs", name, PAIRS):
        parts = {
            part: Pairs(sources, targets, [""] * len(sources))
            for part, (sources, targets) in reading.pairs(name, wanted).items()
        }
    else:
        parts = PAIRS[name](wanted.max_examples)
    if longest is None:
        return parts
    return leave_out_long(name, parts, longest)


def leave_out_long(
    name: str, parts: dict[str, Pairs], longest: int
) -> dict[str, Pairs]:
    short = {
        part: pairs.select(
            i
            for i, texts in enumerate(zip(pairs.sources, pairs.targets, strict=True))
            if max(map(len, texts)) <= longest
        )
        for part, pairs in parts.items()
    }
    counts = {part: len(short[part]) for part in ("train", "test")}
    if min(counts.values()) < FEWEST:
        raise UsageError(
            f"{name}: {counts['train']} pairs to train on and {counts['test']} to test on "
            f"are {longest} characters or shorter (--longest). {FEWEST} of each are "
            "needed"
        )
    return {part: pairs for part, pairs in short.items() if len(pairs) >= FEWEST}


def dates(most: int) -> dict[str, Pairs]:
    random = np.random.default_rng(0)
    years = random.permutation(YEARS)
    held_out = round(HELD_OUT * len(years))
    new_years = years[:held_out]
    known_years = years[held_out:]
    drawn = {
        "test": draw_dates(LANGUAGES, new_years, TEST_DATES, random),
        "new languages": draw_dates(NEW_LANGUAGES, new_years, TEST_DATES, random),
        "train": draw_dates(LANGUAGES, known_years, most or TRAINING_DATES, random),
    }
    ambiguous = ambiguous_sources(drawn)
    return {part: without(pairs, ambiguous) for part, pairs in drawn.items()}


def draw_dates(
    languages: dict[str, str],
    years: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> Pairs:
    from babel import Locale
    from babel.dates import format_date

    names = list(languages)
    locales = {name: Locale.parse(code) for name, code in languages.items()}
    sources = []
    targets = []
    kinds = []
    for _ in range(count):
        start = datetime.date(int(random.choice(years)), 1, 1)
        date = start + datetime.timedelta(days=int(random.integers(365)))
        language = names[random.integers(len(names))]
        style = STYLES[random.integers(len(STYLES))]
        sources.append(format_date(date, style, locale=locales[language]))
        targets.append(date.isoformat())
        kinds.append(language)
    return Pairs(sources, targets, kinds)


def ambiguous_sources(parts: dict[str, Pairs]) -> set[str]:
    """What stands for two different dates, such as 05.09.2003 may."""
    meanings: dict[str, set[str]] = {}
    for pairs in parts.values():
        for source, target in zip(pairs.sources, pairs.targets, strict=True):
            meanings.setdefault(source, set()).add(target)
    return {source for source, targets in meanings.items() if len(targets) > 1}


def without(pairs: Pairs, left_out: set[str]) -> Pairs:
    return pairs.select(
        i for i, source in enumerate(pairs.sources) if source not in left_out
    )


def number_words(most: int) -> dict[str, Pairs]:
    random = np.random.default_rng(0)
    hundreds = random.permutation(LARGEST_NUMBER // 100)
    held_out = round(HELD_OUT * len(hundreds))
    is_new = np.isin(np.arange(LARGEST_NUMBER) // 100, hundreds[:held_out])
    test = draw_by_length(np.flatnonzero(is_new), TEST_NUMBERS, random)
    longer = random.choice(
        np.arange(LARGEST_NUMBER, LONGER_NUMBERS), TEST_NUMBERS, replace=False
    )
    train = draw_by_length(np.flatnonzero(~is_new), most or TRAINING_NUMBERS, random)
    return {
        "test": in_words(test),
        "longer numbers": in_words(longer),
        "train": in_words(train),
    }


def draw_by_length(
    numbers: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """Different numbers in random order, half of them of the most digits if there are
    enough others: of all numbers, nine tenths have the most."""
    longest = numbers >= LARGEST_NUMBER // 10
    shorter = random.permutation(numbers[~longest])[: count // 2]
    rest = random.permutation(numbers[longest])[: count - len(shorter)]
    return random.permutation(np.concatenate([shorter, rest]))


def in_words(numbers: np.ndarray) -> Pairs:
    from num2words import num2words

    english = [num2words(int(number), lang="en") for number in numbers]
    french = [num2words(int(number), lang="fr") for number in numbers]
    return Pairs(english, french, [""] * len(numbers))


PAIRS = {"dates": dates, "number_words": number_words}
