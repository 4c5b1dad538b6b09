"""Read a name letter by letter, and say of which language it is.

Many to one: a gated recurrent network takes in one letter at a time, and its state is
all that it keeps of those before: h_t = GRU(x_t, h_{t−1}). A dense layer turns the state
into the probability of each language. It can be asked after the last letter only, or
taught to answer after every letter with what it has by then: the loss is the same
cross-entropy, at one step or at all of them.
Look at the guesses as the letters arrive, at how much sooner a name is known that is
read from its end, and at which languages are taken for each other. Whoever counts
letters in a row does better than the network on these few thousand names.

Lectures: ICME Many-to-one; SEL Recurrent nets; CS Many-to-one; INFO Recurrent models
Paper: Cho et al., Learning phrase representations using RNN encoder-decoder, 2014
    (equations 5 to 8: the gated recurrent unit)
Tags: gru, many-to-one, text classification, character-level, language identification,
    confusion matrix
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from deep_learning_recipes import UsageError, as_metric, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "names"
    """names (embedded: family names of 16 languages), or your own short texts: a .csv
    file, with --target for the column of classes"""
    units: int = 64
    """of the recurrent layer, and of the vector that stands for a letter"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.4
    """share of the state that training hides from the dense layer"""
    epochs: int = 12
    """passes over the training names"""
    batch_size: int = 128
    """names a gradient is averaged over"""
    learning_rate: float = 8e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    longest: Annotated[int, Interval(ge=3)] = 16
    """letters that are read of a name; what comes after them is not"""


QUICK = Config(units=48, epochs=6, longest=12, learning_rate=1.5e-2)
FULL = Config(units=256, epochs=30, longest=24, learning_rate=3e-3)

PADDING_ID = 0  # stands after the end; 1 is a letter that training has not seen
NOT_ASKED = -1  # stands for the label of a step at which no answer is wanted


# --------------------------------------------------------------------------------------
# The idea: one state takes in the letters, and answers at the end or at each of them
# --------------------------------------------------------------------------------------


def build_model(letters: int, classes: int, units: int, dropout: float) -> keras.Model:
    """Input: ids (batch, time), PADDING_ID after the end. Output: the logits after each
    letter, (batch, time, classes)."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    is_letter = ops.not_equal(ids, PADDING_ID)
    x = layers.Embedding(letters, units)(ids)
    x = layers.GRU(units, return_sequences=True)(x, mask=is_letter)
    x = layers.Dropout(dropout)(x)
    logits = layers.Dense(classes, dtype="float32")(x)
    return keras.Model(ids, logits, name="reader")


def asked_at_the_end(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label at the last letter of each name, NOT_ASKED elsewhere: (names, time)."""
    asked = np.full(ids.shape, NOT_ASKED, "int32")
    last = np.count_nonzero(ids, axis=1) - 1
    asked[np.arange(len(ids)), last] = labels
    return asked


def asked_at_every_letter(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label at each letter of each name, NOT_ASKED after its end: (names, time)."""
    return np.where(ids != PADDING_ID, labels[:, np.newaxis], NOT_ASKED).astype("int32")


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps),
            global_clipnorm=1.0,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=NOT_ASKED
        ),
    )


def answers_after(ids: np.ndarray, logits: np.ndarray, letters: int) -> np.ndarray:
    """Classes (names,) after so many letters, or after all of a shorter name.

    ids: (names, time). logits: (names, time, classes).
    """
    read = np.minimum(np.count_nonzero(ids, axis=1), letters)
    return logits[np.arange(len(ids)), read - 1].argmax(axis=-1)


def build_lookup(texts: list[str]) -> layers.StringLookup:
    """The number of each letter: 0 padding, 1 unknown, then those of the texts."""
    return layers.StringLookup(vocabulary=sorted(set("".join(texts))), mask_token="")


def encode(texts, lookup: layers.StringLookup, longest: int):
    """Strings (batch,) to ids (batch, longest)."""
    letters = tf.strings.unicode_split(texts, "UTF-8")[:, :longest]
    return lookup(letters.to_tensor("", shape=(None, longest)))


class Reader(layers.Layer):
    """Strings (batch,) to the logits after their last letter (batch, classes)."""

    def __init__(self, model: keras.Model, lookup: layers.StringLookup, longest: int):
        super().__init__()
        self.model = model
        self.lookup = lookup
        self.longest = longest

    def call(self, texts):
        ids = encode(texts, self.lookup, self.longest)
        letters = tf.math.count_nonzero(ids, axis=1)
        # An empty text is answered by what the network says after one padding.
        last = tf.maximum(letters - 1, 0)
        return tf.gather(self.model(ids), last, batch_dims=1)

    def compute_output_spec(self, texts):
        return keras.KerasTensor((*texts.shape, self.model.output.shape[-1]))


# --------------------------------------------------------------------------------------
# The experiment: beside n-grams, forward and backward, and as the letters arrive
# --------------------------------------------------------------------------------------

READERS = {
    "asked at the end": (asked_at_the_end, False),
    "asked at every letter": (asked_at_every_letter, False),
    "read backward": (asked_at_every_letter, True),
}
FEW = 3  # letters after which the readers are compared
SHOWN = 4  # names in the figure of guesses
FAMILIES = {
    "Slavic": ["Croatian", "Czech", "Polish", "Slovak"],
    "Germanic": ["Dutch", "English", "German", "Swedish"],
    "Romance": ["French", "Italian", "Spanish"],
    "Finnic": ["Estonian", "Finnish"],
    "others": ["Azerbaijani", "Irish", "Zulu"],
}


class Names:
    """Texts, their letters as ids, and their classes."""

    def __init__(self, config: Config):
        (self.train, self.y), (self.test, self.y_test) = data.load_labeled_texts(
            config.data
        )
        self.classes = data.labeled_class_names(config.data)
        self.lookup = build_lookup(self.train)
        self.longest = min(config.longest, max(map(len, self.train)))

    def ids(self, texts: list[str], backward: bool) -> np.ndarray:
        """(texts, longest), the last letter first if they are read backward."""
        read = [text[::-1] for text in texts] if backward else texts
        return encode(read, self.lookup, self.longest).numpy().astype("int32")


@dataclass
class Answers:
    """What a reader says of the test names."""

    model: keras.Model
    ids: np.ndarray
    logits: np.ndarray

    def accuracy(self, labels: np.ndarray, letters: int) -> float:
        answers = answers_after(self.ids, self.logits, letters)
        return float(np.mean(answers == labels))


def train(name: str, names: Names, config: Config, run: Run) -> Answers:
    ask, backward = READERS[name]
    ids = names.ids(names.train, backward)
    model = build_model(
        names.lookup.vocabulary_size(),
        len(names.classes),
        config.units,
        config.dropout,
    )
    model.name = as_metric(name)
    steps = config.epochs * math.ceil(len(ids) / config.batch_size)
    compile_model(model, config.learning_rate, steps)
    training.fit(
        model,
        ids,
        ask(ids, names.y),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    test = names.ids(names.test, backward)
    return Answers(model, test, np.asarray(tf.function(model)(test)))


def count_n_grams(names: Names, longest: int) -> float:
    """Test accuracy of a linear support vector machine on the letters, or on up to so
    many in a row; how much it is regularized is chosen by cross-validation on the
    training names."""
    n_grams = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, longest), sublinear_tf=True
    )
    model = make_pipeline(n_grams, LinearSVC())
    search = GridSearchCV(model, {"linearsvc__C": [0.1, 0.3, 1.0]}, cv=3)
    return float(search.fit(names.train, names.y).score(names.test, names.y_test))


def judge_accuracy(names: Names, read: dict[str, Answers], run: Run) -> None:
    accuracies = {
        name: answers.accuracy(names.y_test, names.longest)
        for name, answers in read.items()
    }
    accuracies["bag of letters"] = count_n_grams(names, 1)
    accuracies["n-grams"] = count_n_grams(names, 3)
    run.metrics("accuracy", accuracies)
    run.compare(
        "The order of the letters matters: the network beats a linear classifier that knows which "
        "letters there are, and how many",
        accuracies,
        more="asked at the end",
        less="bag of letters",
        by=0.05,
    )
    run.compare(
        "At a few thousand names, counting one, two and three letters in a row does "
        "better than the network (a linear support vector machine on n-grams)",
        accuracies,
        more="n-grams",
        less="asked at the end",
        by=0.01,
    )
    run.compare(
        "To be asked at every letter costs something: at the end it knows less than the "
        "network that was trained to answer there alone",
        accuracies,
        more="asked at the end",
        less="asked at every letter",
        by=0.03,
    )


def judge_letters(names: Names, read: dict[str, Answers], run: Run) -> Figure:
    """Accuracy by the number of letters read."""
    counts = range(1, min(names.longest, 12) + 1)
    lines = {
        name: [answers.accuracy(names.y_test, count) for count in counts]
        for name, answers in read.items()
    }
    few = {name: line[min(FEW, len(line)) - 1] for name, line in lines.items()}
    run.metrics(f"accuracy_after_{FEW}_letters", few)
    run.compare(
        f"Asked at every letter in training, it knows more after {FEW} of them",
        few,
        more="asked at every letter",
        less="asked at the end",
        by=0.03,
    )
    run.compare(
        f"The end of a name tells more than its beginning: after the last {FEW} letters "
        f"more are known than after the first {FEW}",
        few,
        more="read backward",
        less="asked at every letter",
        by=0.05,
    )
    return figures.panels(
        figures.Panel(
            title="As the letters arrive",
            xlabel="letters read",
            ylabel="accuracy on held-out names",
            lines=lines,
            levels={"chance": 1 / len(names.classes)},
            ylim=(0, 1),
        )
    )


def confuse(names: Names, answers: Answers) -> np.ndarray:
    """How often each class is answered (columns) where another is right (rows)."""
    confusion = np.zeros((len(names.classes),) * 2, int)
    answered = answers_after(answers.ids, answers.logits, names.longest)
    np.add.at(confusion, (names.y_test, answered), 1)
    return confusion


def judge_families(names: Names, confusion: np.ndarray, run: Run) -> None:
    """Whether languages are taken for their relatives more often than for others."""
    family_of = {name: family for family, of in FAMILIES.items() for name in of}
    family = np.array([family_of[name] for name in names.classes])
    are_kin = (family[:, None] == family) & (family != "others")
    np.fill_diagonal(are_kin, False)
    errors = confusion * (1 - np.eye(len(family), dtype=int))
    # As many errors of each language and as many answers, joined at random.
    by_chance = np.outer(errors.sum(axis=1), errors.sum(axis=0)) / errors.sum()
    np.fill_diagonal(by_chance, 0)
    shares = {
        "errors": errors[are_kin].sum() / errors.sum(),
        "by chance": by_chance[are_kin].sum() / by_chance.sum(),
    }
    run.metrics("within_a_family", shares)
    run.compare(
        "Languages are taken for their relatives (share of the errors within Slavic, "
        "Germanic, Romance and Finnic)",
        shares,
        more="errors",
        less="by chance",
        times=1.4,
    )


def draw_confusion(names: Names, confusion: np.ndarray) -> Figure:
    """Rows add up to 1. The languages stand by family, classes of one's own as they
    come."""
    order = np.arange(len(names.classes))
    if set(names.classes) == {name for of in FAMILIES.values() for name in of}:
        by_family = [name for of in FAMILIES.values() for name in of]
        order = np.array([names.classes.index(name) for name in by_family])
    shown = confusion[np.ix_(order, order)]
    shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    labels = [names.classes[i] for i in order]

    figure, axes = plt.subplots(figsize=(9, 8))
    drawn = axes.imshow(shares, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.05:
            color = "black" if share > 0.5 else "white"
            axes.text(
                column,
                row,
                f"{share:.2f}".lstrip("0"),
                ha="center",
                va="center",
                color=color,
                fontsize="small",
            )
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(title="Held-out names", xlabel="answered", ylabel="right")
    axes.grid(visible=False)
    figure.colorbar(drawn, label="share of the row", shrink=0.8)
    return figure


def draw_guesses(names: Names, answers: Answers) -> Figure:
    """The probability of each language after each letter of a few names."""
    lengths = np.char.str_len(names.test)
    # Of short texts, as some of one's own are, the longest.
    long_enough = np.flatnonzero(lengths >= min(5, lengths.max()))
    chosen = np.random.default_rng(0).permutation(long_enough)[:SHOWN]
    figure, grid = plt.subplots(1, len(chosen), figsize=(13, 5), sharey=True)
    for axes, i in zip(np.atleast_1d(grid), chosen, strict=True):
        name = names.test[i][: names.longest]
        logits = answers.logits[i, : len(name)]
        drawn = axes.imshow(
            ops.softmax(logits).numpy().T, vmin=0, vmax=1, aspect="auto"
        )
        axes.set_xticks(range(len(name)), list(name))
        axes.set_yticks(range(len(names.classes)), names.classes)
        axes.set(title=f"{name}\n({names.classes[names.y_test[i]]})")
        axes.grid(visible=False)
    figure.colorbar(drawn, ax=grid, label="probability", shrink=0.8)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(READERS))
    names = Names(config)
    if names.longest < FEW:
        raise UsageError(f"{config.data}: no text has {FEW} letters or more")
    read = {name: train(name, names, config, run) for name in READERS}
    judge_accuracy(names, read, run)
    run.figure("letters", judge_letters(names, read, run))

    at_the_end = read["asked at the end"]
    confusion = confuse(names, at_the_end)
    if config.data == "names":
        judge_families(names, confusion, run)
    run.figure("confusion", draw_confusion(names, confusion))
    run.figure("guesses", draw_guesses(names, read["asked at every letter"]))

    text = keras.Input((), dtype="string", name="text")
    logits = Reader(at_the_end.model, names.lookup, names.longest)(text)
    exported = keras.Model(text, {"probabilities": ops.softmax(logits)}, name="reader")
    run.export(exported, example=np.array(names.test[:2]))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
