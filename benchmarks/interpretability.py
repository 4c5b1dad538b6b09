"""The recipes' explanations against tf-keras-vis: heat maps a second, side by side.

    python benchmarks/interpretability.py [--rounds 5] [--images 32]

All explain the same pictures of 48 pixels by the same network (four convolutions, that
of the recipe `grad_cam`) with the same settings. tf-keras-vis is asked picture by
picture, as in its tutorial, and for all pictures in one call; the recipes' lines are
one compiled call. The contestants take turns within each round, so that whatever else
the machine does hits all of them; the table shows medians over the rounds.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a checkout need not be installed

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_keras_vis.gradcam import Gradcam  # noqa: E402
from tf_keras_vis.saliency import Saliency  # noqa: E402
from tf_keras_vis.scorecam import Scorecam  # noqa: E402
from tf_keras_vis.utils.scores import CategoricalScore  # noqa: E402

from recipes import evaluating_explanations, grad_cam  # noqa: E402

OURS, ALL_AT_ONCE, ONE_BY_ONE = (
    "one compiled call",
    "tf-keras-vis, one call",
    "picture by picture",
)
SAMPLES, NOISE = 16, 0.15  # of SmoothGrad


def contestants(model: keras.Model) -> dict[str, tuple[Callable, Callable]]:
    """For each method the recipes' function and tf-keras-vis's, both of pictures and
    classes."""

    parts = evaluating_explanations.split(model, "images")

    def saliency(images, classes):
        _, gradients = evaluating_explanations.gradients_at(parts, images, classes)
        return tf.reduce_max(tf.abs(gradients), axis=-1)

    def smooth_grad(images, classes):
        gradients = evaluating_explanations.smooth_gradients(
            parts, images, classes, SAMPLES, NOISE
        )
        return tf.reduce_max(tf.abs(gradients), axis=-1)

    def library(method, **options):
        explain = method(model)
        return lambda images, classes: explain(
            CategoricalScore(list(classes)), images, **options
        )

    cams = grad_cam.explainers(model, "layer4", channels=64)
    smooth = {"smooth_samples": SAMPLES, "smooth_noise": NOISE}
    last = {"penultimate_layer": "layer4", "seek_penultimate_conv_layer": False}
    return {
        "saliency": (tf.function(saliency), library(Saliency)),
        f"SmoothGrad, {SAMPLES} samples": (
            tf.function(smooth_grad),
            library(Saliency, **smooth),
        ),
        "Grad-CAM": (tf.function(cams["Grad-CAM"]), library(Gradcam, **last)),
        "Score-CAM, 64 channels": (
            tf.function(cams["Score-CAM"]),
            library(Scorecam, **last),
        ),
    }


def measure(
    ours: Callable,
    theirs: Callable,
    images: np.ndarray,
    classes: np.ndarray,
    rounds: int,
) -> dict[str, float]:
    """Pictures explained a second, the median over the rounds, by contestant."""

    def one_by_one():
        for i in range(len(images)):
            theirs(images[i : i + 1], classes[i : i + 1])

    entries = {
        OURS: lambda: np.asarray(ours(images, classes)),
        ALL_AT_ONCE: lambda: theirs(images, classes),
        ONE_BY_ONE: one_by_one,
    }
    found: dict[str, list[float]] = {name: [] for name in entries}
    for explain in entries.values():
        explain()  # what is compiled is compiled now
    for _ in range(rounds):
        for name, explain in entries.items():
            start = time.perf_counter()
            explain()
            found[name].append(len(images) / (time.perf_counter() - start))
    return {name: statistics.median(rates) for name, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = grad_cam.build_model()
    generator = np.random.default_rng(0)
    images = generator.random((options.images, 48, 48, 3), "float32")
    classes = generator.integers(0, 10, options.images)

    heading = "".join(f"{name:>24}" for name in (OURS, ALL_AT_ONCE, ONE_BY_ONE))
    print(
        f"Pictures a second, {options.images} pictures of 48 pixels\n{'':26}{heading}"
    )
    for name, (ours, theirs) in contestants(model).items():
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message="The structure of `inputs`")
            rates = measure(ours, theirs, images, classes, options.rounds)
        cells = "".join(
            f"{rate:13,.0f}{'' if who == OURS else f' ({rates[OURS] / rate:,.1f}x slower)':>11}"
            for who, rate in rates.items()
        )
        print(f"{name:26}{cells}", flush=True)


if __name__ == "__main__":
    main()
