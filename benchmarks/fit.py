"""`training.fit` against `keras.Model.fit` and a plain PyTorch loop: time per epoch,
side by side.

    python benchmarks/fit.py [--rounds 5]

Every contestant trains the same network on the same arrays. They take turns within each
round, so that whatever else the machine does hits all of them; the table shows medians
over the rounds. PyTorch (the `bench` extra) is left out where it is not installed.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a checkout need not be installed

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, tree  # noqa: E402

from deep_learning_recipes import training  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

OURS, XLA, DEFAULTS, TF_DATA, TORCH, COMPILED = (
    "training.fit",
    "training.fit, jit_compile=True",
    "keras fit, defaults",
    "keras fit, tf.data, steps_per_execution=16",
    "PyTorch loop",
    "PyTorch loop, torch.compile",
)


class Task:
    """What is trained: by default a chain of layers that tells ten classes apart."""

    with_xla = False
    """whether XLA is asked for as well, for long trainings, which repay its compiling"""

    def data(self):
        """Inputs, or a dict of them, and labels."""
        generator = np.random.default_rng(0)
        x = generator.normal(size=(self.examples, *self.shape)).astype("float32")
        return x, generator.integers(0, 10, self.examples)

    def model(self):
        return keras.Sequential([keras.Input(self.shape), *self.keras()])


class Dense(Task):
    name = "MLP 64-128-10, batch 32"
    shape, examples, batch_size, epochs = (64,), 1797, 32, 40  # long enough for XLA
    with_xla = True
    targets = {DEFAULTS: 15, TORCH: 3}

    def keras(self):
        return [layers.Dense(128, activation="relu"), layers.Dense(10)]

    def torch(self):
        return torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
        )


class Convolutional(Task):
    name = "CNN 28x28, batch 64"
    shape, examples, batch_size, epochs = (28, 28, 1), 2560, 64, 1
    targets = {DEFAULTS: 1.4, TORCH: 1}

    def keras(self):
        return [
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]

    def torch(self):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(16, 32, 3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * 5 * 5, 10),
        )


class Recurrent(Task):
    name = "LSTM 128, batch 64x64"
    shape, examples, batch_size, epochs = (64, 32), 1280, 64, 1
    targets = {DEFAULTS: 1.2, TORCH: 0.5}

    def keras(self):
        return [layers.LSTM(128), layers.Dense(10)]

    def torch(self):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = torch.nn.LSTM(32, 128, batch_first=True)
                self.head = torch.nn.Linear(128, 10)

            def forward(self, inputs):
                return self.head(self.lstm(inputs)[0][:, -1])

        return Network()


def channels_first(x: np.ndarray) -> np.ndarray:
    """Pictures, as PyTorch wants them; all else as it is."""
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def contestants(task) -> dict[str, Callable[[], Callable[[int], None]]]:
    """For each name a function that builds a fresh network and returns
    `train(epochs)`."""
    x, y = task.data()

    def compiled(**arguments):
        model = task.model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, **arguments)
        return model

    def ours(jit_compile=None):
        model = compiled()
        options = {
            "batch_size": task.batch_size,
            "verbose": 0,
            "jit_compile": jit_compile,
        }
        return lambda epochs: training.fit(model, x, y, epochs=epochs, **options)

    def defaults():
        model = compiled()
        return lambda epochs: model.fit(
            x, y, epochs=epochs, batch_size=task.batch_size, verbose=0
        )

    def tf_data():
        model = compiled(steps_per_execution=16)
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).cache().shuffle(len(y))
        dataset = dataset.batch(task.batch_size).prefetch(tf.data.AUTOTUNE)
        return lambda epochs: model.fit(
            dataset, epochs=epochs, shuffle=False, verbose=0
        )

    def pytorch(threads, compiles=False):
        network = task.torch()
        optimizer = torch.optim.Adam(network.parameters())
        call = torch.compile(network) if compiles else network
        loss_function = torch.nn.CrossEntropyLoss()
        inputs = [torch.tensor(channels_first(each)) for each in tree.flatten(x)]
        labels = torch.tensor(y)

        def train(epochs):
            torch.set_num_threads(threads)
            for _ in range(epochs):
                total = torch.zeros(())
                for indices in torch.randperm(len(y)).split(task.batch_size):
                    optimizer.zero_grad()
                    logits = call(*[each[indices] for each in inputs])
                    loss = loss_function(
                        logits.flatten(0, -2), labels[indices].flatten()
                    )
                    loss.backward()
                    optimizer.step()
                    total += loss.detach() * len(indices)
                (total / len(y)).item()

        return train

    entries = {OURS: ours, DEFAULTS: defaults, TF_DATA: tf_data}
    if task.with_xla:
        entries[XLA] = lambda: ours(jit_compile=True)
    if torch is not None:
        # Its best: one thread for small networks, all of them for larger ones.
        choices = (1, os.cpu_count() or 1)
        threads = min(choices, key=lambda count: seconds(lambda: pytorch(count)(2)))
        entries[TORCH] = lambda: pytorch(threads)
        if COMPILED in task.targets:
            entries[COMPILED] = lambda: pytorch(threads, compiles=True)
    return entries


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(task, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of the first epoch of a fresh network, and of a later epoch, by
    name."""
    entries = contestants(task)
    first: dict[str, list[float]] = {name: [] for name in entries}
    later: dict[str, list[float]] = {name: [] for name in entries}
    train = {}
    for _ in range(3):
        for name, build in entries.items():
            train[name] = build()
            first[name].append(seconds(lambda name=name: train[name](1)))
    for _ in range(rounds):
        for name in entries:
            elapsed = seconds(lambda name=name: train[name](task.epochs))
            later[name].append(elapsed / task.epochs)
    return {
        name: (statistics.median(first[name]), statistics.median(later[name]))
        for name in entries
    }


def report(tasks, rounds: int) -> None:
    """Prints a table for each task."""
    if torch is None:
        print(
            'PyTorch is not installed (pip install "torch==2.13.0"): going on without it.\n'
        )
    for task in tasks:
        results = measure(task, rounds)
        base_first, base_later = results[DEFAULTS]
        print(f"{task.name:45}{'first epoch':>20}{'later epochs':>20}")
        for name, (first, later) in results.items():
            print(
                f"  {name:43}{first * 1e3:8.0f} ms {base_first / first:6.1f}x"
                f"{later * 1e3:11.1f} ms {base_later / later:6.1f}x"
            )
        best = min({OURS, XLA} & set(results), key=lambda name: results[name][1])
        for rival, target in task.targets.items():
            if rival in results:
                ratio = results[rival][1] / results[best][1]
                verdict = "reached" if ratio >= target else "MISSED"
                print(
                    f"  {best} over {rival}: {ratio:.1f}x, target {target}x: {verdict}"
                )
        print(flush=True)
        keras.utils.clear_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    report((Dense(), Convolutional(), Recurrent()), rounds)


if __name__ == "__main__":
    main()
