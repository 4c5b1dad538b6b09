"""A character RNN reads a manual and goes on writing it.

A language model gives each possible next character a probability, from all that it has
read so far. Here two LSTM layers read a text one character at a time. The measure is
bits per character, the mean of −log₂ p(the character that came), over a text that
training never saw; the rival counts what followed the last few characters (n-grams).
A gradient through the whole text is out of reach. Truncated backpropagation through
time goes forward and backward over one short chunk of it after another: the state is
carried over from chunk to chunk, but no gradient leaves its chunk.
Look at what the temperature does to the samples, at the guesses under a text, and at
the cell that has learned to follow something that a person can read: quotes. A cell
that knows the place in the line is not to be seen in a network this small: the best one
follows it hardly better than that of a network which has learned nothing, or worse.

Lectures: SEL Use case: Character-Level RNN; CS Char-level RNN, Truncated BPTT
Paper: Karpathy et al., Visualizing and understanding recurrent networks, 2015
Tags: lstm, language model, text generation, char-level, truncated bptt, temperature
    sampling
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from deep_learning_recipes import UsageError, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "prose"
    """prose (embedded: the manual of Python), or your own text: a .txt or .md file, or
    a folder of them"""
    units: int = 128
    """of each LSTM layer"""
    depth: int = 2
    """LSTM layers on top of each other"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """share of each layer's outputs that training hides from the next layer"""
    streams: Annotated[int, Interval(ge=2)] = 32
    """equal parts into which the text is cut, to be read side by side as one batch"""
    chunk: int = 32
    """characters between two updates: how far back a gradient reaches"""
    epochs: int = 8
    """passes over the training text"""
    learning_rate: float = 8e-3
    """of Adam: rises to this in the first twentieth of the steps, then falls along a
    cosine"""
    rival_order: int = 4
    """the n-gram model to beat: how many characters it looks back"""
    prompt: str = "The class of "
    """what the samples go on from"""


QUICK = Config(
    units=64,
    depth=1,
    streams=64,
    chunk=16,
    epochs=2,
    learning_rate=1.2e-2,
    rival_order=2,
)
# Thirteen minutes on two cores, and 1.74 bits per character.
FULL = Config(units=384, dropout=0.5, epochs=15, learning_rate=4e-3)

TEMPERATURES = (0.0, 0.2, 0.5, 1.0)  # 0 takes the likeliest character
GUESSES = 5  # next characters shown under each of a text
COLUMNS = 60  # characters of a line there
EXCERPT = slice(400, 400 + 3 * COLUMNS)  # of the held-out text
SAMPLES = 16
SAMPLE_LENGTH = 400
QUOTES_SOUGHT = 10_000  # characters on which the cell that follows quotes is chosen
UNKNOWN = "\ufffd"  # stands for characters that the training text does not have


# --------------------------------------------------------------------------------------
# The idea: predict the next character, draw one, read on from where you were
# --------------------------------------------------------------------------------------


def bits_per_character(ids, logits):
    """−log₂ p of the characters that came, (batch, time).

    ids: (batch, time). logits: (batch, time, vocabulary), of what would come.
    """
    nats = ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
    return nats / math.log(2)


def sample(logits, temperature: float):
    """Characters drawn from softmax(logits / temperature), (batch,).

    logits: (batch, vocabulary). At temperature 0 the likeliest one is taken.
    """
    if temperature == 0:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.random.categorical(logits / temperature, 1, dtype=tf.int32)[:, 0]


def in_chunks(ids: np.ndarray, streams: int, chunk: int):
    """Cuts a text into equal streams, to be read side by side, and these into chunks.

    Returns (inputs, targets), both (chunks * streams, chunk): batch k is the k-th chunk
    of every stream, and a target is what comes after its input. What is left over is
    dropped.
    """
    chunks = (len(ids) - 1) // (streams * chunk)
    used = streams * chunks * chunk

    def cut(part):
        by_stream = part.reshape(streams, chunks, chunk)
        return by_stream.swapaxes(0, 1).reshape(chunks * streams, chunk)

    return cut(ids[:used]), cut(ids[1 : used + 1])


def build_model(
    vocabulary_size: int,
    units: int,
    depth: int,
    dropout: float,
    streams: int | None = None,
) -> keras.Model:
    """Stacked LSTMs. Input: ids (batch, time). Output: the logits of what comes next,
    (batch, time, vocabulary_size).

    streams: the size of each batch, of a model whose calls go on from the state that
        the last one left; None begins each call in an empty state.
    """
    ids = keras.Input((None,), batch_size=streams, dtype="int32", name="ids")
    x = layers.Embedding(vocabulary_size, units)(ids)

    for _ in range(depth):
        # A stateful layer keeps its state in variables, as mere numbers: no gradient
        # passes them. That is what truncates backpropagation.
        x = layers.LSTM(units, return_sequences=True, stateful=streams is not None)(x)
        # A new LSTM's outputs are far below 1. At unit scale the next layer learns much
        # faster.
        x = layers.LayerNormalization()(x)
        x = layers.Dropout(dropout)(x)

    logits = layers.Dense(vocabulary_size, dtype="float32", name="logits")(x)
    return keras.Model(ids, logits, name="char_rnn")


def forget(model: keras.Model) -> None:
    """Empties the state of a stateful model."""
    for layer in model.layers:
        if isinstance(layer, layers.LSTM):
            layer.reset_state()


def learning_rates(peak: float, steps: int):
    """A schedule that rises for a twentieth of the steps, then falls along a cosine."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=steps,
        warmup_target=peak,
        warmup_steps=steps // 20,
    )


@tf.function
def generate(model: keras.Model, prompts, length: int, temperature: float):
    """Reads prompts, then goes on, feeding back what it writes: (streams, length).

    model: stateful. prompts: ids (streams, time).
    """
    forget(model)
    logits = model(prompts)[:, -1]
    written = tf.TensorArray(tf.int32, length)

    for place in tf.range(length):
        ids = sample(logits, temperature)
        written = written.write(place, ids)
        logits = model(ids[:, None])[:, 0]

    return tf.transpose(written.stack())


def compile_model(model: keras.Model, learning_rate: float, steps: int) -> None:
    model.compile(
        keras.optimizers.Adam(
            learning_rates(learning_rate, steps), global_clipnorm=1.0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[bits_per_character],
    )


def start_empty(model: keras.Model) -> keras.callbacks.Callback:
    """Lets each text be read from its start, with an empty state."""
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: forget(model),
        on_test_begin=lambda *_: forget(model),
    )


def standalone(epochs: int = 8) -> None:
    """The LSTM alone, on Python's manual: the main of a standalone copy."""
    manual = "\n\n".join(topics[name] for name in sorted(topics))
    # The manual repeats itself: a paragraph twice would be held out and trained on.
    text = "\n\n".join(dict.fromkeys(manual.split("\n\n")))
    characters = sorted(set(text))
    ids = np.array([characters.index(character) for character in text], "int32")
    held_out = len(ids) // 10
    x, y = in_chunks(ids[:-held_out], streams=32, chunk=32)

    model = build_model(len(characters), units=128, depth=2, dropout=0.1, streams=32)
    compile_model(model, 8e-3, steps=epochs * len(x) // 32)
    # The chunks of a stream follow one another, so they are not shuffled.
    model.fit(
        x,
        y,
        batch_size=32,
        epochs=epochs,
        shuffle=False,
        validation_data=in_chunks(ids[-held_out:], streams=32, chunk=32),
        validation_batch_size=32,
        callbacks=[start_empty(model)],
    )
    prompts = tf.constant([ids[:100]] * 32)
    written = generate(model, prompts, 400, tf.constant(0.5))[0]
    print("".join(characters[number] for number in written))


# --------------------------------------------------------------------------------------
# The experiment: against counting, without the carried state, and inside the cells
# --------------------------------------------------------------------------------------


class WittenBell:
    """Character n-grams, each order interpolated with the one below it (Witten and
    Bell, 1991)."""

    def __init__(self, text: str, order: int, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size
        self.followers: dict[str, Counter] = defaultdict(Counter)
        for place, character in enumerate(text):
            for length in range(min(order, place) + 1):
                self.followers[text[place - length : place]][character] += 1

    def probability(self, character: str, context: str) -> float:
        """p(character | context), from what came after the context in the training
        text."""
        probability = 1 / self.vocabulary_size
        for start in range(len(context), -1, -1):
            seen = self.followers.get(context[start:])
            if not seen:
                continue
            # The more kinds of characters came after it, the likelier is yet another.
            kinds = len(seen)
            counted = seen[character] + kinds * probability
            probability = counted / (seen.total() + kinds)
        return probability

    def bits_per_character(self, text: str, order: int) -> float:
        """The mean of −log₂ p(character | `order` characters before it) from the second
        on."""
        bits = [
            -math.log2(self.probability(text[end], text[max(0, end - order) : end]))
            for end in range(1, len(text))
        ]
        return float(np.mean(bits))


class Text:
    """A text to learn, one held out, and the numbers of their characters."""

    def __init__(self, config: Config):
        self.train, self.test = data.load_text(config.data)
        if config.streams * config.chunk >= len(self.test):
            raise UsageError(
                f"--streams {config.streams} times --chunk {config.chunk} must be less "
                f"than the {len(self.test):,} characters held out"
            )
        self.characters = UNKNOWN + "".join(sorted(set(self.train)))
        self.train_ids = self.encode(self.train)
        self.test_ids = self.encode(self.test)

    def encode(self, text: str) -> np.ndarray:
        """The number of each character."""
        numbers = {character: i for i, character in enumerate(self.characters)}
        return np.array([numbers.get(each, 0) for each in text], "int32")

    def decode(self, ids) -> str:
        return "".join(self.characters[number] for number in ids)


def train(config: Config, text: Text, run: Run):
    """The model, and bits per character by epoch on both texts."""
    inputs, targets = in_chunks(text.train_ids, config.streams, config.chunk)
    model = build_model(
        len(text.characters),
        config.units,
        config.depth,
        config.dropout,
        streams=config.streams,
    )
    steps = config.epochs * len(inputs) // config.streams
    compile_model(model, config.learning_rate, steps)
    history = training.fit(
        model,
        inputs,
        targets,
        batch_size=config.streams,
        epochs=config.epochs,
        shuffle=False,
        validation_data=in_chunks(text.test_ids, config.streams, config.chunk),
        callbacks=[start_empty(model), *run.callbacks],
    ).history
    curves = {
        "training": history["bits_per_character"],
        "held out": history["val_bits_per_character"],
    }
    return model, curves


def count_n_grams(config: Config, text: Text) -> dict[str, float]:
    """Bits per character of n-grams on the held-out text, by order."""
    rival = WittenBell(text.train, config.rival_order, len(text.characters))
    read = in_chunks(text.test_ids, config.streams, config.chunk)[0].size
    return {
        f"order {order}": rival.bits_per_character(text.test[: read + 1], order)
        for order in range(config.rival_order + 1)
    }


@dataclass
class Memory:
    """Bits per character by place in a chunk of the held-out text, (chunk,)."""

    carried: np.ndarray
    """the state goes on from chunk to chunk"""
    emptied: np.ndarray
    """each chunk begins in an empty state"""


def read_with_and_without_carrying(
    config: Config, text: Text, reader: keras.Model
) -> Memory:
    """reader: begins each call in an empty state."""
    inputs, targets = in_chunks(text.test_ids, config.streams, config.chunk)
    emptied = bits_per_character(targets, reader(inputs, training=False))

    chunks = len(inputs) // config.streams
    inputs, targets = in_chunks(text.test_ids, config.streams, chunks * config.chunk)
    carried = bits_per_character(targets, reader(inputs, training=False))
    carried = ops.reshape(carried, (-1, config.chunk))
    return Memory(np.mean(carried, axis=0), np.mean(emptied, axis=0))


def read_cells(model: keras.Model, ids: np.ndarray) -> np.ndarray:
    """The output of each LSTM cell after each character of a text: (characters,
    cells)."""
    inputs, _ = in_chunks(ids, streams=16, chunk=(len(ids) - 1) // 16)
    outputs = [layer.output for layer in model.layers if isinstance(layer, layers.LSTM)]
    read = tf.function(keras.Model(model.input, ops.concatenate(outputs, axis=-1)))
    return read(inputs).numpy().reshape(inputs.size, -1).astype("float32")


def inside_quotes(text: str) -> np.ndarray:
    """For each character, whether a quotation is open after it; each paragraph starts
    anew."""
    inside = []
    for paragraph in re.split("(\n\n)", text):
        quotes_so_far = np.cumsum([character == '"' for character in paragraph])
        inside.append(quotes_so_far % 2 == 1)
    return np.concatenate(inside)


def has_quotes(text: str, characters: int) -> bool:
    """Whether they begin and end within the first so many characters."""
    return 0 < inside_quotes(text)[:characters].mean() < 1


def place_in_line(text: str) -> np.ndarray:
    """For each character, how many of its line have been read after it; 0 after the
    line's end."""
    places = []
    place = 0
    for character in text:
        place = 0 if character == "\n" else place + 1
        places.append(place)
    return np.array(places)


def correlations(cells: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Of each cell with a signal, (cells,). cells: (characters, cells)."""
    deviations = cells - cells.mean(axis=0)
    of_signal = signal - signal.mean()
    lengths = np.linalg.norm(deviations, axis=0) * np.linalg.norm(of_signal)
    return of_signal @ deviations / np.maximum(lengths, 1e-9)


def find_line_cell(model: keras.Model, text: Text) -> float:
    """The correlation of the best cell with the place in the line.

    The cell and its sign are chosen on the first half of the held-out text, and judged
    on the second.
    """
    cells = read_cells(model, text.test_ids)
    places = place_in_line(text.test)[: len(cells)]
    half = len(cells) // 2
    chosen_by = correlations(cells[:half], places[:half])
    best = np.abs(chosen_by).argmax()
    found = correlations(cells[half:], places[half:])[best]
    return float(found * np.sign(chosen_by[best]))


def find_quote_cell(model: keras.Model, text: Text) -> tuple[float, np.ndarray]:
    """How well the best cell tells inside from outside of quotes on held-out text (area
    under the ROC curve), and its values there, (characters,).

    The cell and its sign are chosen on training text.
    """
    cells = read_cells(model, text.train_ids[:QUOTES_SOUGHT])
    inside = inside_quotes(text.train)[: len(cells)]
    scores = np.array([roc_auc_score(inside, cell) for cell in cells.T]) - 0.5
    best = np.abs(scores).argmax()

    values = read_cells(model, text.test_ids)[:, best] * np.sign(scores[best])
    inside = inside_quotes(text.test)[: len(values)]
    return roc_auc_score(inside, values), values


def draw_cell(text: str, values: np.ndarray) -> plt.Figure:
    """A text, each character on the color of a cell's value in [-1, 1] after it."""
    lines = text.split("\n")
    colors = np.zeros((len(lines), max(map(len, lines)) + 1))
    figure, axes = plt.subplots(figsize=(9, 0.25 * len(lines)))
    write = {"size": 8, "family": "monospace", "ha": "center", "va": "center"}

    place = 0
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            axes.text(column, row, character, **write)
        after = values[place : place + len(line) + 1]  # the line's end too
        colors[row, : len(after)] = after
        place += len(line) + 1

    # Limits beyond the values keep the colors pale enough to read on.
    axes.imshow(colors, cmap="PuOr", vmin=-1.6, vmax=1.6, aspect="auto")
    axes.set_title("A cell that follows quotes: purple up to 1, orange down to -1")
    axes.axis("off")
    return figure


@dataclass
class Guesses:
    """What a model expects after each character of a text."""

    read: str
    likeliest: list[str]
    """the most probable next characters, GUESSES for each"""
    probabilities: np.ndarray
    """of these, (characters, GUESSES)"""


def guess(text: Text, reader: keras.Model) -> Guesses:
    """In an excerpt of the held-out text, after all that stands before it."""
    ids = text.test_ids[: EXCERPT.stop]
    probabilities = np.asarray(ops.softmax(reader(ids[np.newaxis])))[0, EXCERPT]
    order = np.argsort(-probabilities, axis=1)[:, :GUESSES]
    return Guesses(
        read=text.test[EXCERPT],
        likeliest=[text.decode(row) for row in order],
        probabilities=np.take_along_axis(probabilities, order, axis=1),
    )


def draw_guesses(guesses: Guesses) -> plt.Figure:
    """Characters, beneath each the most probable next ones, the likeliest on top; their
    color is their probability, and a frame is around what came."""
    columns = min(COLUMNS, len(guesses.read))
    bands = math.ceil(len(guesses.read) / columns)
    height = GUESSES + 2  # the text above, a gap below
    colors = np.full((bands * height, columns), np.nan)
    figure, axes = plt.subplots(figsize=(12.5, 0.28 * len(colors) + 0.8))
    write = {"size": 9, "family": "monospace", "ha": "center", "va": "center"}

    for place, character in enumerate(guesses.read):
        band, column = divmod(place, columns)
        top = band * height
        axes.text(column, top, visible(character), weight="bold", **write)
        came = guesses.read[place + 1 : place + 2]
        for rank, likely in enumerate(guesses.likeliest[place], start=1):
            probability = guesses.probabilities[place, rank - 1]
            colors[top + rank, column] = probability
            ink = "white" if probability > 0.5 else "black"
            axes.text(column, top + rank, visible(likely), color=ink, **write)
            if likely == came:
                corner = (column - 0.5, top + rank - 0.5)
                axes.add_patch(plt.Rectangle(corner, 1, 1, fill=False, linewidth=1.5))

    shown = axes.imshow(colors, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_title(
        "Held-out text (bold), beneath each character the likeliest next ones; framed: "
        "what came"
    )
    axes.axis("off")
    figure.colorbar(shown, label="probability", shrink=0.6, pad=0.01)
    return figure


def visible(character: str) -> str:
    return {" ": "␣", "\n": "↵"}.get(character, character)


def draw_memory(memory: Memory) -> plt.Figure:
    return figures.panels(
        figures.Panel(
            title="Held-out bits by how much was read since the state was emptied",
            xlabel="characters read",
            ylabel="bits per character",
            lines={"emptied": memory.emptied, "carried from before": memory.carried},
        )
    )


@dataclass
class Writing:
    """What a model wrote at one temperature."""

    first: str
    different: int
    """words in all samples"""
    known: float
    """share of the words that the training text has too"""


def write_samples(
    config: Config, text: Text, model: keras.Model
) -> dict[float, Writing]:
    """Samples by temperature, all from the same prompt."""
    writer = build_model(
        len(text.characters),
        config.units,
        config.depth,
        config.dropout,
        streams=SAMPLES,
    )
    writer.set_weights(model.get_weights())
    prompts = tf.constant([text.encode("\n" + config.prompt)] * SAMPLES)
    vocabulary = set(re.findall(r"\w{3,}", text.train))

    written = {}
    for temperature in TEMPERATURES:
        # As a tensor, or each temperature would be compiled anew.
        ids = generate(writer, prompts, SAMPLE_LENGTH, tf.constant(temperature)).numpy()
        samples = [text.decode(row) for row in ids]
        words = re.findall(r"\w{3,}", " ".join(samples))
        written[temperature] = Writing(
            first=samples[0],
            different=len(set(words)),
            known=float(np.mean([word in vocabulary for word in words])),
        )
    return written


def claim_temperature(written: dict[float, Writing], run: Run) -> None:
    different = [each.different for each in written.values()]
    measured = [
        f"{temperature:g}: {each.known:.0%} known, {each.different} different"
        for temperature, each in written.items()
    ]
    fewer_invented = written[0.5].known > written[1.0].known + 0.05
    run.claim(
        "At a temperature of 0.5 fewer words are invented than at 1; from each "
        "temperature to the next higher one the words are more varied",
        holds=fewer_invented and all(np.diff(different) > 0),
        measured="words at temperature " + "; ".join(measured),
    )


def follow_quotes(
    run: Run, text: Text, reader: keras.Model, size: tuple[int, int, int, float]
) -> None:
    """The cell that follows quotes best, beside those of networks of the same size that
    have learned nothing."""
    auc, values = find_quote_cell(reader, text)
    # Among many random cells one happens to do well, now more, now less.
    untrained = [find_quote_cell(build_model(*size), text)[0] for _ in range(3)]
    auc_before = np.mean(untrained)
    run.metric("quote_cell_auc", auc)
    run.compare(
        "A cell has learned to follow the inside of quotes, though nothing said what a "
        "quote is: area under its ROC curve",
        {"best cell": auc, "best cell of untrained networks, mean of 3": auc_before},
        more="best cell",
        less="best cell of untrained networks, mean of 3",
        by=0.05,
    )
    run.figure("quotes", draw_cell(text.test[:1000], values[:1000]))


def follow_lines(
    run: Run, text: Text, reader: keras.Model, size: tuple[int, int, int, float]
) -> None:
    """Records how well a cell follows the place in the line, beside networks that have
    learned nothing: nothing is claimed, as the two hardly differ."""
    untrained = [find_line_cell(build_model(*size), text) for _ in range(3)]
    run.metric(
        "line_cell_correlation",
        find_line_cell(reader, text),
        unit="of the best cell with the place in the line",
    )
    run.metric(
        "line_cell_correlation_untrained",
        np.mean(untrained),
        unit="of the best cells of 3 networks that have learned nothing",
    )


def judge_memory(config: Config, memory: Memory, run: Run) -> None:
    """Scored where more has been read since than n-grams look back: these lose nothing
    there, and a longer memory is what is left."""
    half = config.chunk // 2
    run.compare(
        f"The LSTM remembers more than {half} characters: emptied every {config.chunk} "
        "of them, it predicts the second half of each chunk worse, if little",
        {
            "carried": memory.carried[half:].mean(),
            "emptied": memory.emptied[half:].mean(),
        },
        more="emptied",
        less="carried",
        by=0.003,
    )


def main(config: Config, run: Run) -> None:
    text = Text(config)
    model, curves = train(config, text, run)
    bits = curves["held out"][-1]
    run.metric("bits_per_character", bits)

    n_grams = count_n_grams(config, text)
    run.metrics("bits_per_character", n_grams)
    last = f"order {config.rival_order}"
    run.compare(
        f"An LSTM predicts better than counting what followed the last "
        f"{config.rival_order} characters",
        {"LSTM": bits, f"n-grams of {last}": n_grams[last]},
        more=f"n-grams of {last}",
        less="LSTM",
        by=0.1,
    )
    for order, value in n_grams.items():
        curves[f"n-grams, {order}"] = [value] * config.epochs
    title = "Bits per character"
    run.figure("learning", figures.curves(curves, title=title, ylabel="bits"))

    # The same weights in a model that begins each call in an empty state.
    size = (len(text.characters), config.units, config.depth, config.dropout)
    reader = build_model(*size)
    reader.set_weights(model.get_weights())
    memory = read_with_and_without_carrying(config, text, reader)
    judge_memory(config, memory, run)
    run.figure("memory", draw_memory(memory))
    run.figure("guesses", draw_guesses(guess(text, reader)))

    if has_quotes(text.train, QUOTES_SOUGHT - 16) and has_quotes(text.test, -16):
        follow_quotes(run, text, reader, size)
    else:
        run.print("no quotes in the text: what needs them is left out")
    follow_lines(run, text, reader, size)

    written = write_samples(config, text, model)
    for temperature, each in written.items():
        run.print(f"\nTemperature {temperature:g}: {config.prompt}{each.first}")
    claim_temperature(written, run)

    outputs = {"probabilities": ops.softmax(reader.output)}
    run.export(keras.Model(reader.input, outputs), example=text.test_ids[None, :64])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
