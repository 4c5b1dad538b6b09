"""A character RNN reads a manual and goes on writing it.

A language model gives each possible next character a probability, from all that it has
read so far. Here two LSTM layers read the text one character at a time. They train by
truncated backpropagation through time: forward and backward over one short chunk of the
text after another, with the state carried over from chunk to chunk, while no gradient
leaves its chunk. The measure is bits per character, -log2 p(the character that came),
averaged over a text that training never saw; the rival
counts: Witten-Bell n-grams. In the output, see what the temperature does to the
samples, and which cell has learned to follow something that a person can read.

Lectures: SEL Use case: Character-Level RNN; CS Char-level RNN, Truncated BPTT
Paper: Karpathy et al., Visualizing and understanding recurrent networks, 2015
Tags: lstm, language model, text generation, char-level, truncated bptt, temperature
    sampling
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.optimizers.schedules import CosineDecay
from matplotlib import pyplot as plt
from sklearn.metrics import roc_auc_score

from deep_learning_recipes import UsageError, data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    units: int = 128
    """of each LSTM layer"""
    depth: int = 2
    """LSTM layers on top of each other"""
    dropout: float = 0.1
    """share of each layer's outputs that training hides from the next layer"""
    streams: int = 32
    """equal parts into which the text is cut, to be read side by side as one batch"""
    chunk: int = 32
    """characters between two updates: how far back a gradient reaches"""
    epochs: int = 8
    """passes over the training text"""
    learning_rate: float = 8e-3
    """of Adam: rises to this in the first twentieth of the steps, then falls along a
    cosine"""
    rival_order: int = 4
    """the n-gram model to beat: how many characters it looks back; 4 is the best on
    this text"""
    prompt: str = "The class of "
    """what the samples go on from"""


QUICK = Config(
    units=64, streams=64, chunk=16, epochs=2, learning_rate=1.2e-2, rival_order=2
)
FULL = Config(
    units=384, dropout=0.5, epochs=15, learning_rate=4e-3
)  # 13 minutes, 1.74 bits


def in_chunks(
    ids: np.ndarray, streams: int, chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into equal streams, to be read side by side, and these into chunks.

    Returns (inputs, targets), both (chunks * streams, chunk): batch k is the k-th chunk
    of every stream, and a target is what comes after its input. What is left over is
    dropped.
    """
    chunks = (len(ids) - 1) // (streams * chunk)
    used = streams * chunks * chunk
    pair = np.stack([ids[:used], ids[1 : used + 1]]).reshape(2, streams, chunks, chunk)
    return tuple(pair.swapaxes(1, 2).reshape(2, chunks * streams, chunk))


def build_model(vocabulary_size, units, depth, dropout, streams=None) -> keras.Model:
    """Stacked LSTMs: ids (batch, time) to logits (batch, time, vocabulary_size) of what
    comes next.

    With `streams`, the batch has that size, and each call goes on from the state the
    last one left.
    """
    ids = keras.Input((None,), batch_size=streams, dtype="int32", name="ids")
    x = layers.Embedding(vocabulary_size, units)(ids)
    for _ in range(depth):
        # A stateful layer keeps its state in variables, as mere numbers: no gradient
        # passes them.
        x = layers.LSTM(units, return_sequences=True, stateful=streams is not None)(x)
        # A new LSTM's outputs are far below 1. At unit scale the next layer learns much
        # faster.
        x = layers.Dropout(dropout)(layers.LayerNormalization()(x))
    return keras.Model(
        ids, layers.Dense(vocabulary_size, dtype="float32")(x), name="char_rnn"
    )


def forget(model: keras.Model) -> None:
    """Empties the state of a stateful model."""
    for layer in model.layers:
        if isinstance(layer, layers.LSTM):
            layer.reset_state()


@tf.function
def generate(
    model: keras.Model, prompts: tf.Tensor, length: int, temperature: float
) -> tf.Tensor:
    """Reads prompts (streams, time), then goes on, feeding back what it writes:
    (streams, length).

    Characters are drawn from softmax(logits / temperature); at 0, the likeliest one is
    taken.
    """
    forget(model)
    logits = model(prompts)[:, -1]
    written = tf.TensorArray(tf.int32, length)
    for place in tf.range(length):
        if temperature == 0:
            ids = tf.argmax(logits, axis=-1, output_type=tf.int32)
        else:
            ids = tf.random.categorical(logits / temperature, 1, dtype=tf.int32)[:, 0]
        written = written.write(place, ids)
        logits = model(ids[:, None])[:, 0]
    return tf.transpose(written.stack())


class WittenBell:
    """Character n-grams, each order interpolated with the one below it (Witten and
    Bell, 1991)."""

    def __init__(self, text: str, order: int, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size
        self.followers = defaultdict(Counter)
        for place, character in enumerate(text):
            for length in range(min(order, place) + 1):
                self.followers[text[place - length : place]][character] += 1

    def probability(self, character: str, context: str) -> float:
        """p(character | context), from what came after the context in the training
        text."""
        probability = 1 / self.vocabulary_size
        for start in range(len(context), -1, -1):
            if seen := self.followers.get(context[start:]):
                # The more kinds of characters came after it, the likelier is yet
                # another kind.
                kinds = len(seen)
                probability = (seen[character] + kinds * probability) / (
                    seen.total() + kinds
                )
        return probability

    def bits_per_character(self, text: str, order: int) -> float:
        """The mean of -log2 p(character | `order` characters before it) from the second
        on."""
        contexts = [text[max(0, end - order) : end] for end in range(1, len(text))]
        return -np.mean(np.log2(list(map(self.probability, text[1:], contexts))))


def read_cells(model: keras.Model, ids: np.ndarray) -> np.ndarray:
    """The output of each LSTM cell after each character of a text: (characters,
    cells)."""
    inputs, _ = in_chunks(ids, streams=16, chunk=(len(ids) - 1) // 16)
    outputs = [layer.output for layer in model.layers if isinstance(layer, layers.LSTM)]
    cells = keras.Model(model.input, outputs).predict(inputs, verbose=0)
    return np.concatenate(cells, axis=-1).reshape(inputs.size, -1).astype("float32")


def inside_quotes(text: str) -> np.ndarray:
    """For each character, whether a quotation is open after it; each paragraph starts
    anew."""
    paragraphs = re.split("(\n\n)", text)
    return np.concatenate(
        [np.cumsum([c == '"' for c in part]) % 2 == 1 for part in paragraphs]
    )


def draw_cell(text: str, values: np.ndarray) -> plt.Figure:
    """A text, each character on the color of a cell's value in [-1, 1] after it."""
    lines = text.split("\n")
    places = [
        (row, column)
        for row, line in enumerate(lines)
        for column in range(len(line) + 1)
    ]
    colors = np.zeros((len(lines), max(map(len, lines)) + 1))
    figure, axes = plt.subplots(figsize=(9, 0.25 * len(lines)))
    for (row, column), character, value in zip(places, text, values, strict=False):
        colors[row, column] = value
        axes.text(
            column, row, character, size=8, family="monospace", ha="center", va="center"
        )
    axes.imshow(
        colors, cmap="PuOr", vmin=-1.6, vmax=1.6, aspect="auto"
    )  # pale enough to read on
    axes.set_title("A cell that follows quotes: purple up to 1, orange down to -1")
    axes.axis("off")
    return figure


def main(config: Config, run: Run) -> None:
    train_text, test_text = data.load_text("prose")
    if config.streams * config.chunk >= len(test_text):
        raise UsageError("--streams times --chunk must be less than the text held out")
    characters = "\ufffd" + "".join(
        sorted(set(train_text))
    )  # the first stands for unknown ones

    def encode(text):
        return np.array(
            [max(0, characters.find(character)) for character in text], "int32"
        )

    train = in_chunks(encode(train_text), config.streams, config.chunk)
    test = in_chunks(encode(test_text), config.streams, config.chunk)
    size = len(characters), config.units, config.depth, config.dropout
    model = build_model(*size, streams=config.streams)
    steps = config.epochs * len(train[0]) // config.streams
    schedule = CosineDecay(
        0.0, steps, warmup_target=config.learning_rate, warmup_steps=steps // 20
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), loss)
    # Each text is read from its start, with an empty state.
    start_empty = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: forget(model), on_test_begin=lambda *_: forget(model)
    )
    history = training.fit(
        model,
        *train,
        batch_size=config.streams,
        epochs=config.epochs,
        shuffle=False,
        validation_data=test,
        callbacks=[start_empty, *run.callbacks],
    ).history
    curves = {"training": history["loss"], "held out": history["val_loss"]}
    curves = {name: np.array(nats) / np.log(2) for name, nats in curves.items()}
    bits = curves["held out"][-1]
    run.metric("bits_per_character", bits)

    rival = WittenBell(train_text, config.rival_order, len(characters))
    for order in range(config.rival_order + 1):
        rival_bits = rival.bits_per_character(test_text[: test[0].size + 1], order)
        run.metric(f"bits_per_character_order_{order}", rival_bits)
        curves[f"n-gram, order {order}"] = [rival_bits] * config.epochs
    run.claim(
        f"An LSTM predicts better than counting what came after the last {order} characters",
        holds=bits < rival_bits - 0.1,
        measured=f"{bits:.3f} bits per character, Witten-Bell of order {order} {rival_bits:.3f}",
    )
    run.figure(
        "learning", figures.curves(curves, title="Bits per character", ylabel="bits")
    )

    reader = build_model(*size)  # begins each call in an empty state
    reader.set_weights(model.get_weights())
    emptied_bits = float(loss(test[1], reader.predict(test[0], verbose=0))) / np.log(2)
    run.claim(
        f"The carried state counts: emptied every {config.chunk} characters, it predicts worse",
        holds=bits < emptied_bits - 0.1,
        measured=f"{bits:.3f} bits per character carried, {emptied_bits:.3f} emptied",
    )

    aucs = []
    for network in (build_model(*size), reader):  # before and after training
        # The cell is chosen on training text and judged on held-out text.
        cells = read_cells(network, encode(train_text[:10_000]))
        inside = inside_quotes(train_text)[: len(cells)]
        scores = np.array([roc_auc_score(inside, cell) for cell in cells.T]) - 0.5
        best = np.abs(scores).argmax()
        values = read_cells(network, encode(test_text))[:, best] * np.sign(scores[best])
        aucs.append(roc_auc_score(inside_quotes(test_text)[: len(values)], values))
    run.metric("quote_cell_auc", aucs[1])
    run.claim(
        "A cell has learned to follow the inside of quotes, though nothing said what a quote is",
        holds=aucs[1] > max(0.8, aucs[0] + 0.05),
        measured=f"area under the ROC curve {aucs[1]:.3f}, best cell before training {aucs[0]:.3f}",
    )
    run.figure("quotes", draw_cell(test_text[:1000], values[:1000]))

    writer = build_model(*size, streams=16)
    writer.set_weights(model.get_weights())
    prompts = tf.constant([encode("\n" + config.prompt)] * 16)
    vocabulary = set(re.findall(r"\w{3,}", train_text))
    distinct, known, measured = [], [], []
    for temperature in (0.0, 0.2, 0.5, 1.0):  # 0 is arg-max
        ids = generate(writer, prompts, 400, temperature).numpy()
        samples = ["".join(characters[place] for place in row) for row in ids]
        run.print(f"\nTemperature {temperature}: {config.prompt}{samples[0]}")
        words = re.findall(r"\w{3,}", " ".join(samples))
        distinct.append(len(set(words)))
        known.append(np.mean([word in vocabulary for word in words]))
        measured.append(
            f"{temperature}: {known[-1]:.0%} known, {distinct[-1]} different"
        )
    run.claim(
        "The lower the temperature, the fewer invented words, and the less variety",
        holds=known[2] > known[3] + 0.05 and all(np.diff(distinct) > 0),
        measured="words at temperature " + "; ".join(measured),
    )
    outputs = {"probabilities": keras.ops.softmax(reader.output)}
    run.export(keras.Model(reader.input, outputs), example=test[0][:2])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
