"""What training needs beyond dense layers: an epoch of a batch-normalized convnet and of
a transformer block by `training.fit`, Keras `fit` and a PyTorch loop; and eight small
networks stacked (`training.stacks`) against eight fits.

    python benchmarks/training.py [--rounds 5]

All take turns within each round, so that whatever else the machine does hits all of
them; the tables show medians over the rounds. PyTorch (the `bench` extra) is left out
where it is not installed.
"""

import argparse
import statistics

import fit
import keras
import numpy as np
import tensorflow as tf
from fit import DEFAULTS, OURS, TORCH, torch
from keras import layers

from deep_learning_recipes import data, training
from deep_learning_recipes.training import stacks


class BatchNormalized(fit.Task):
    name = "CNN with batch norm, 28x28, batch 64"
    shape, examples, batch_size, epochs = (28, 28, 1), 2560, 64, 1
    targets = {DEFAULTS: 1.1, TORCH: 0.8}

    def keras(self):
        blocks = []
        for filters in (16, 32, 64):
            blocks += [
                layers.Conv2D(filters, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
            ]
        return [*blocks, layers.GlobalAveragePooling2D(), layers.Dense(10)]

    def torch(self):
        blocks = []
        channels = 1
        for filters in (16, 32, 64):
            blocks += [
                torch.nn.Conv2d(channels, filters, 3, padding="same", bias=False),
                torch.nn.BatchNorm2d(filters),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
            ]
            channels = filters
        head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        return torch.nn.Sequential(*blocks, *head, torch.nn.Linear(64, 10))


WIDTH = 64
HEADS = 4


class Block(layers.Layer):
    """Attention and a dense network of two layers, each behind a layer norm and beside
    a shortcut."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.attention_norm = layers.LayerNormalization(epsilon=1e-5)
        self.hidden = layers.Dense(4 * WIDTH, "gelu")
        self.outputs = layers.Dense(WIDTH)
        self.dense_norm = layers.LayerNormalization(epsilon=1e-5)

    def call(self, x):
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed)
        return x + self.outputs(self.hidden(self.dense_norm(x)))


class Transformer(fit.Task):
    name = "Transformer block, 64 tokens of 64, batch 32"
    shape, examples, batch_size, epochs = (64, WIDTH), 1280, 32, 1
    targets = {DEFAULTS: 1.1, TORCH: 0.8}

    def keras(self):
        return [Block(), layers.GlobalAveragePooling1D(), layers.Dense(10)]

    def torch(self):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.block = torch.nn.TransformerEncoderLayer(
                    WIDTH,
                    HEADS,
                    4 * WIDTH,
                    dropout=0.0,
                    activation="gelu",
                    batch_first=True,
                    norm_first=True,
                )
                self.head = torch.nn.Linear(WIDTH, 10)

            def forward(self, inputs):
                return self.head(self.block(inputs).mean(dim=1))

        return Network()


NETWORKS = 8
EPOCHS = 30
BATCH_SIZE = 32
STACKED = "stacked"


def build_model() -> keras.Model:
    x = keras.Input((64,))
    hidden = layers.Dense(32, "relu")(x)
    return keras.Model(x, layers.Dense(10)(hidden))


def train_stacked(x, y) -> float:
    """Trains eight at once, each epoch in a compiled call; returns their accuracy."""
    model = build_model()
    rows = tf.Variable(
        np.stack([stacks.row_of(build_model()) for _ in range(NETWORKS)])
    )
    adam = keras.optimizers.Adam()
    adam.build([rows])

    @tf.function(jit_compile=True)
    def epoch(batches):
        for index in tf.range(batches.shape[0]):
            images = tf.gather(x, batches[index])
            labels = tf.gather(y, batches[index])
            gradients = stacks.gradients(model, rows, images, labels)
            adam.apply([gradients], [rows])

    random = np.random.default_rng(0)
    steps = len(x) // BATCH_SIZE
    for _ in range(EPOCHS):
        order = random.permutation(len(x))[: steps * BATCH_SIZE]
        epoch(tf.constant(order.reshape(steps, BATCH_SIZE)))
    logits = stacks.call(model, rows, x)
    return float(np.mean(np.argmax(logits, axis=-1) == y.numpy()))


def train_one_by_one(fit_model, x, y) -> float:
    """Trains eight one after the other; returns their accuracy."""
    accuracies = []
    for _ in range(NETWORKS):
        model = build_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        fit_model(model, x, y, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
        accuracies.append(np.mean(np.argmax(model(x), axis=-1) == y))
    return float(np.mean(accuracies))


def compare_stacked(rounds: int) -> None:
    """All from the first line to the trained networks, compiling included."""
    (x, y), _ = data.load_vectors("digits")
    on_device = tf.constant(x), tf.constant(y)
    entries = {
        STACKED: lambda: train_stacked(*on_device),
        OURS: lambda: train_one_by_one(training.fit, x, y),
        DEFAULTS: lambda: train_one_by_one(keras.Model.fit, x, y),
    }
    durations = {name: [] for name in entries}
    accuracies = {}
    for _ in range(rounds):
        for name, train in entries.items():

            def trains(name=name, train=train):
                accuracies[name] = train()

            durations[name].append(fit.seconds(trains))
            keras.utils.clear_session()

    title = f"{NETWORKS} networks 64-32-10, {EPOCHS} epochs of digits"
    print(f"{title:49}{'seconds':>10}{'of stacked':>12}{'accuracy':>10}")
    medians = {name: statistics.median(each) for name, each in durations.items()}
    for name, median in medians.items():
        ratio = median / medians[STACKED]
        print(f"  {name:47}{median:10.1f}{ratio:11.1f}x{accuracies[name]:10.3f}")
    for rival in (OURS, DEFAULTS):
        ratio = medians[rival] / medians[STACKED]
        verdict = "reached" if ratio >= 5 else "MISSED"
        print(f"  {STACKED} over eight of {rival}: {ratio:.1f}x, target 5x: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    fit.report((BatchNormalized(), Transformer()), rounds)
    compare_stacked(min(rounds, 3))


if __name__ == "__main__":
    main()
