"""`compression` on a Keras 3 model against TF Model Optimization's own tutorials on
tf_keras, and against PyTorch: gzip'd bytes and accuracy, side by side.

    python benchmarks/compression.py [--seeds 3]

All train the network of TF Model Optimization's tutorials (a convolution of 12 filters,
pooling, a dense layer) on the same digits in 28x28 pixels, then make it small with the
same settings and the same number of epochs: 80 % of zeros, 16 shared values, 8 bits.
The table shows means over the seeds. PyTorch (the `bench` extra) prunes by
`torch.nn.utils.prune` and quantizes dense layers on the fly by `quantize_dynamic`,
which is what it offers without a graph of its own; it has no clustering. It is left out
where it is not installed.
"""

import argparse
import gzip
import io
import os
import statistics
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a checkout need not be installed

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf_keras  # noqa: E402

from deep_learning_recipes import compression, data, training  # noqa: E402

try:
    import torch
    from torch.nn.utils import prune as torch_prune
except ImportError:
    torch = None

EPOCHS, FINE_TUNING, BATCH_SIZE, LEARNING_RATE, FINE_RATE = 20, 8, 32, 1e-3, 5e-4
SPARSITY, CLUSTERS = 0.8, 16
OURS, TUTORIAL, TORCH = (
    "compression on Keras 3",
    "tfmot tutorial on tf_keras",
    "PyTorch",
)


def network(keras_or_tf_keras):
    """The tutorials' network, in either Keras."""
    kind = keras_or_tf_keras.layers
    return keras_or_tf_keras.Sequential(
        [
            kind.Input((28, 28, 1))
            if keras_or_tf_keras is keras
            else kind.InputLayer((28, 28, 1)),
            kind.Conv2D(12, 3, activation="relu"),
            kind.MaxPooling2D(),
            kind.Flatten(),
            kind.Dense(10),
        ]
    )


def measure_litert(file: bytes, x, y) -> tuple[int, float]:
    model = compression.LiteRTModel(file)
    return model.gzip_size, float(np.mean(model.predict(x).argmax(axis=1) == y))


def ours(x_train, y_train, x_test, y_test) -> dict[str, tuple[int, float]]:
    """A Keras 3 model, trained by `training.fit`, made small by `compression`."""
    model = network(keras)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    training.fit(
        model, x_train, y_train, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0
    )
    fine = {
        "epochs": FINE_TUNING,
        "batch_size": BATCH_SIZE,
        "learning_rate": FINE_RATE,
        "verbose": 0,
    }
    pruned = compression.prune(model, x_train, y_train, sparsity=SPARSITY, **fine)
    shared = compression.cluster(model, x_train, y_train, clusters=CLUSTERS, **fine)
    aware = compression.quantize_aware(model, x_train, y_train, **fine)
    files = {
        "float32": compression.to_litert(model),
        "80 % zeros": compression.to_litert(pruned.model),
        "16 values": compression.to_litert(shared.model),
        "80 % zeros, 8 bits after training": compression.to_litert(
            pruned.model, "dynamic"
        ),
        "8 bits in training": compression.to_litert(aware.tf_keras_model, "int8"),
    }
    return {name: measure_litert(file, x_test, y_test) for name, file in files.items()}


def tutorial(x_train, y_train, x_test, y_test) -> dict[str, tuple[int, float]]:
    """The flow of TF Model Optimization's tutorials, on tf_keras throughout."""
    # sets a variable that the rest must not see
    import tensorflow_model_optimization as tfmot

    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = -(-len(x_train) // BATCH_SIZE)

    def fit(model, rate, epochs, callbacks=()):
        model.compile(tf_keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        model.fit(
            x_train,
            y_train,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=list(callbacks),
            verbose=0,
        )
        return model

    def copy(model):
        clone = tf_keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        return clone

    def convert(model, *, small=False):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if small:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of statistics that the model has learned
            return converter.convert()

    base = fit(network(tf_keras), LEARNING_RATE, EPOCHS)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.5, SPARSITY, 0, steps * FINE_TUNING
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(
        copy(base), pruning_schedule=schedule
    )
    fit(pruned, FINE_RATE, FINE_TUNING, [tfmot.sparsity.keras.UpdatePruningStep()])
    pruned = tfmot.sparsity.keras.strip_pruning(pruned)
    shared = tfmot.clustering.keras.cluster_weights(
        copy(base),
        number_of_clusters=CLUSTERS,
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
    )
    shared = tfmot.clustering.keras.strip_clustering(
        fit(shared, FINE_RATE, FINE_TUNING)
    )
    aware = tfmot.quantization.keras.quantize_model(copy(base))
    fit(aware, FINE_RATE, FINE_TUNING)
    files = {
        "float32": convert(base),
        "80 % zeros": convert(pruned),
        "16 values": convert(shared),
        "80 % zeros, 8 bits after training": convert(pruned, small=True),
        "8 bits in training": convert(aware, small=True),
    }
    return {name: measure_litert(file, x_test, y_test) for name, file in files.items()}


def pytorch(x_train, y_train, x_test, y_test) -> dict[str, tuple[int, float]]:
    """The same network, pruned with retraining, and its dense layer in 8 bits."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(13 * 13 * 12, 10),
    )
    x, y = (
        torch.tensor(part) for part in (np.moveaxis(x_train, -1, 1).copy(), y_train)
    )
    x_held_out = torch.tensor(np.moveaxis(x_test, -1, 1).copy())

    def fit(rate, epochs):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(epochs):
            for chosen in torch.randperm(len(x)).split(BATCH_SIZE):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(
                    model(x[chosen]), y[chosen]
                ).backward()
                optimizer.step()

    def measure(model):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        with torch.no_grad():
            classes = model(x_held_out).argmax(1).numpy()
        return len(gzip.compress(file.getvalue(), mtime=0)), float(
            np.mean(classes == y_test)
        )

    fit(LEARNING_RATE, EPOCHS)
    rows = {"float32": measure(model)}
    kernels = [model[0], model[4]]
    for layer in kernels:
        torch_prune.l1_unstructured(layer, "weight", SPARSITY)
    fit(FINE_RATE, FINE_TUNING)
    for layer in kernels:
        torch_prune.remove(layer, "weight")
    rows["80 % zeros"] = measure(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantize_dynamic moves to another package
        small = torch.ao.quantization.quantize_dynamic(
            model, {torch.nn.Linear}, torch.qint8
        )
        rows["80 % zeros, 8 bits after training"] = measure(small)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = data.load("digits", size=28)
    digits = x_train, y_train.astype("int64"), x_test, y_test
    contestants = {OURS: ours, TUTORIAL: tutorial}
    if torch is not None:
        contestants[TORCH] = pytorch
    else:
        print("PyTorch is not installed: pip install '.[bench]'")

    found: dict[str, list[dict]] = {name: [] for name in contestants}
    for seed in range(arguments.seeds):
        for name, contestant in contestants.items():
            print(f"seed {seed}: {name} ...", flush=True)
            keras.utils.set_random_seed(seed)
            if torch is not None:
                torch.manual_seed(seed)
            found[name].append(contestant(*digits))

    methods = found[OURS][0]
    print(f"\nMeans over {arguments.seeds} seeds; {len(x_test)} held-out digits")
    print(
        f"{'':36}{'':28}{'gzip bytes':>12}{'accuracy':>10}{'smaller than float32':>22}"
    )
    for method in methods:
        for name, runs in found.items():
            if method not in runs[0]:
                continue
            size = statistics.mean(run[method][0] for run in runs)
            accuracy = statistics.mean(run[method][1] for run in runs)
            whole = statistics.mean(run["float32"][0] for run in runs)
            print(
                f"{method:36}{name:28}{size:12,.0f}{accuracy:10.4f}{whole / size:21.1f}x"
            )


if __name__ == "__main__":
    main()
