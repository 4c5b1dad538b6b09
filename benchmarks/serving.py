"""The compiled signature of an export against `model.predict`: latency and requests per
second.

    python benchmarks/serving.py [--rounds 5] [--requests 200]

One client sends one request after the other. The contestants take turns within each
round, so that whatever else the machine does hits all of them; the table shows the
median over the rounds of each round's p50, p99 and rate. The last two rows are what a
client of `python -m deep_learning_recipes.serving serve` sees.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a checkout need not be installed

import grpc  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

from deep_learning_recipes import serving  # noqa: E402
from deep_learning_recipes.serving import server  # noqa: E402
from deep_learning_recipes.serving.bundle import Bundle  # noqa: E402
from deep_learning_recipes.serving.library import Library  # noqa: E402

SIGNATURE, PREDICT = "compiled signature", "model.predict"
GRPC, REST = "serve, gRPC", "serve, REST"


def build_models() -> dict[str, tuple[keras.Model, np.ndarray]]:
    """Two classifiers, each with an example of one row."""
    x = keras.Input((64,), name="x")
    hidden = layers.Dense(128, activation="relu")(x)
    dense = keras.Model(x, layers.Dense(10)(hidden), name="mlp")

    images = keras.Input((32, 32, 1), name="images")
    hidden = layers.Conv2D(6, 5, activation="relu")(images)
    hidden = layers.Conv2D(16, 5, activation="relu")(layers.MaxPooling2D()(hidden))
    hidden = layers.Flatten()(layers.MaxPooling2D()(hidden))
    hidden = layers.Dense(84, activation="relu")(
        layers.Dense(120, activation="relu")(hidden)
    )
    lenet = keras.Model(images, layers.Dense(10)(hidden), name="lenet")
    random = np.random.default_rng(0)
    return {
        model.name: (
            serving.classifier(model),
            random.random((1, *model.input.shape[1:])).astype("float32"),
        )
        for model in (dense, lenet)
    }


def contestants(
    bundle: Bundle,
    model: keras.Model,
    row: np.ndarray,
    channel: grpc.Channel,
    rest_port: int,
) -> dict[str, Callable[[], object]]:
    """For each contestant a function that answers one request of one row."""
    (key,) = bundle.signatures["serving_default"].inputs
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model.name
    request.inputs[key].CopyFrom(tf.make_tensor_proto(row))
    url = f"http://127.0.0.1:{rest_port}/v1/models/{model.name}:predict"
    body = json.dumps({"instances": row.tolist()}).encode()
    return {
        PREDICT: lambda: model.predict(row, verbose=0),
        SIGNATURE: lambda: bundle.predict("", {key: row}),
        GRPC: lambda: stub.Predict(request, 60),
        REST: lambda: urllib.request.urlopen(url, body, 60).read(),
    }


def measure(
    entries: dict[str, Callable[[], object]], rounds: int, requests: int
) -> dict[str, tuple[float, float, float]]:
    """Milliseconds at p50 and p99 and requests a second of each, as medians over the
    rounds."""
    for ask in entries.values():
        for _ in range(20):
            ask()
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, ask in entries.items():
            seconds = []
            for _ in range(requests):
                start = time.perf_counter()
                ask()
                seconds.append(time.perf_counter() - start)
            p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
            found[name].append((p50, p99, requests / sum(seconds)))
    return {
        name: tuple(statistics.median(column) for column in zip(*several, strict=True))
        for name, several in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--requests", type=int, default=200, help="of each contestant in a round"
    )
    options = parser.parse_args()

    models = build_models()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (model, row) in models.items():
            serving.export(model, folder / name, row)
        library = Library(folder, lambda text: None)
        grpc_server, grpc_port = server.bind_grpc("127.0.0.1", 0)
        server.add_services(grpc_server, library)
        grpc_server.start()
        with (
            server.listen("127.0.0.1", 0, "--rest-port") as listener,
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
        ):
            rest_server = server.RestServer("127.0.0.1", listener, library)
            threading.Thread(target=rest_server.serve_forever, daemon=True).start()
            rest_port = listener.getsockname()[1]
            for name, (model, row) in models.items():
                _, bundle = library.get(name, None)
                entries = contestants(bundle, model, row, channel, rest_port)
                report(name, measure(entries, options.rounds, options.requests))
            rest_server.stop()
        grpc_server.stop(None).wait()


def report(name: str, results: dict[str, tuple[float, float, float]]) -> None:
    """Prints the table of a model, and the ratios to `model.predict`."""
    base_p50, base_p99, base_rate = results[PREDICT]
    heading = f"{name}, one row a request"
    print(f"{heading:30}{'p50':>19}{'p99':>19}{'requests a second':>24}")
    for entry, (p50, p99, rate) in results.items():
        print(
            f"  {entry:28}{p50:8.2f} ms {base_p50 / p50:6.1f}x{p99:9.2f} ms {base_p99 / p99:5.1f}x"
            f"{rate:15,.0f} {rate / base_rate:7.1f}x"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
