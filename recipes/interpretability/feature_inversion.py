"""Feature inversion: what a layer still knows of a picture, drawn as a picture.

Keep the features Φ(x₀) that a layer gives for a picture x₀, forget the picture, and
look for one with the same features: x* = argmin ‖Φ(x) − Φ(x₀)‖² / ‖Φ(x₀)‖² + λ·TV(x),
from noise, by gradients of the pixels. The total variation TV chooses among the many
pictures that fit: the smoothest. What x* does not share with x₀ the layer has thrown
away. Look at the picture fading from layer to layer, first the grain, then the colors
and places, while the class that the network reads stays; and at two inversions of the
same features, which differ more the deeper the layer.

Lectures: CS Visualizing & Understanding (Feature inversion); N18 4.3 Understanding CNNs
Paper: Mahendran and Vedaldi, Understanding deep image representations by inverting
    them, 2015 (section 2)
Tags: inverting representations, image reconstruction, total variation, feature
    visualization, xai
"""

import itertools
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deep_learning_recipes import classifiers, data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    model: str = ""
    """a .keras file or a network of keras.applications, to invert in place of the one
    trained here"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""
    size: int = 128
    """side in pixels of the photographs whose features are inverted"""
    photos: int = 3
    """how many of the nine photographs"""
    epochs: int = 6
    """passes over the 3,600 crops that the network learns to tell apart"""
    steps: int = 120
    """of Adam on the pixels, for each layer"""
    learning_rate: float = 0.05
    """of Adam on the pixels, at the start; it falls to 0 along a cosine"""
    total_variation: float = 1.0
    """weight λ of the mean difference of neighboring pixels"""


QUICK = Config(size=48, epochs=1, steps=40, learning_rate=0.12)
FULL = Config(size=256, epochs=30, steps=1000)

LAYERS = ("layer_1", "layer_2", "layer_3", "layer_4", "mean")


def build_model(classes: int = 9) -> keras.Model:
    """Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes)
    logits."""
    x = images = keras.Input((None, None, 3), name="images")
    for depth, (filters, width) in enumerate(
        ((16, 5), (32, 3), (64, 3), (128, 3)), start=1
    ):
        if depth > 1:
            x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2D(filters, width, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"layer_{depth}")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="crops")


def total_variation(images):
    """The mean length √(Δ²vertical + Δ²horizontal) of the step to the next pixels,
    (n,). Section 2 of the paper, with β = 1."""
    down = images[:, 1:, :-1] - images[:, :-1, :-1]
    right = images[:, :-1, 1:] - images[:, :-1, :-1]
    # A root has no slope at 0.
    return tf.reduce_mean(tf.sqrt(down**2 + right**2 + 1e-8), axis=(1, 2, 3))


def feature_error(found, wanted):
    """‖Φ(x) − Φ(x₀)‖² / ‖Φ(x₀)‖², (n,): 0 if the features are the same, about 1 if
    unrelated."""
    axes = list(range(1, len(found.shape)))
    return tf.reduce_sum((found - wanted) ** 2, axes) / (
        tf.reduce_sum(wanted**2, axes) + 1e-8
    )


def build_inversion(features, wanted, images, weights, optimizer):
    """A compiled function that takes so many steps toward the features `wanted` (n,
    ...), for all pictures at once. features: of (n, height, width, channels). images:
    their variable, in [0, 1], which the function changes. weights: (n,), of the total
    variation."""
    optimizer.build([images])

    @tf.function
    def invert(steps):
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                error = feature_error(features(images.value), wanted)
                loss = tf.reduce_sum(error + weights * total_variation(images.value))
            optimizer.apply([tape.gradient(loss, images.value)], [images])
            images.assign(tf.clip_by_value(images.value, 0, 1))

    return invert


def compare(images: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean peak signal-to-noise ratio in decibels and mean structural similarity in
    [-1, 1]."""
    pairs = list(zip(truth, images, strict=True))
    psnr = [peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs]
    options = {
        "channel_axis": -1,
        "gaussian_weights": True,
        "use_sample_covariance": False,
    }
    ssim = [structural_similarity(*pair, data_range=1, **options) for pair in pairs]
    return np.mean(psnr), np.mean(ssim)


def choose(names: list[str], count: int = 5) -> list[str]:
    """At most `count` of the names, evenly spaced from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(count, len(names)))
    return [names[round(place)] for place in places]


def plot_inversions(photos, inversions, title) -> plt.Figure:
    """A row for each photo (n, height, width, channels): itself, then what {layer:
    images} give back."""
    columns = len(inversions) + 1
    figure, grid = plt.subplots(
        len(photos),
        columns,
        figsize=(1.9 * columns, 1.95 * len(photos) + 0.6),
        squeeze=False,
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, (photo, line) in enumerate(zip(photos, grid, strict=True)):
        line[0].imshow(np.squeeze(photo), cmap="gray", vmin=0, vmax=1)
        for (name, images), axes in zip(inversions.items(), line[1:], strict=True):
            axes.imshow(np.squeeze(images[row]), cmap="gray", vmin=0, vmax=1)
            if row == 0:
                axes.set_title(name.replace("_", " "))
    grid[0, 0].set_title("photograph")
    figure.suptitle(title)
    return figure


def plot_fading(table: dict[str, dict[str, list[float]]]) -> plt.Figure:
    """table: {measure: {line: value at each layer}}."""
    figure, panels = plt.subplots(1, len(table), figsize=(4.4 * len(table), 3.8))
    for (measure, lines), axes in zip(table.items(), panels, strict=True):
        for name, values in lines.items():
            places = [layer.replace("_", " ") for layer in values]
            axes.plot(places, [*values.values()], marker="o", label=name)
        axes.set(title=measure)
        axes.legend()
    return figure


def main(config: Config, run: Run) -> None:
    def invert(model, names, pictures, weights):
        """{layer: what its features of the pictures (n, height, width, channels) turn
        into}."""
        inversions = {}
        for name in names:
            features = keras.Model(model.input, model.get_layer(name).output)
            random = np.random.default_rng(run.seed)
            start = random.normal(0.5, 0.1, pictures.shape).astype("float32").clip(0, 1)
            images = keras.Variable(start, name="images")
            rate = keras.optimizers.schedules.CosineDecay(
                config.learning_rate, config.steps
            )
            adam = keras.optimizers.Adam(rate, beta_2=0.99)
            step = build_inversion(
                features, features(pictures), images, tf.constant(weights), adam
            )
            state = {"images": images, "adam": adam}
            for _ in run.loop(
                f"inverting {name}", config.steps // 10, state, unit="tens"
            ):
                step(tf.constant(10))
            inversions[name] = images.numpy()
        return inversions

    if config.model:
        own = classifiers.from_flags(config, run)
        height, width, channels = own.model.inputs[0].shape[1:]
        pictures = np.asarray(
            ops.image.resize(data.load_photos(256)[: config.photos], (height, width))
        )
        if config.image:
            pictures = own.read([config.image])
        elif channels == 1:
            pictures = pictures.mean(axis=-1, keepdims=True)
        layer_names = choose(own.map_names)
        run.plan(len(layer_names))
        weights = np.full(len(pictures), config.total_variation, "float32")
        inversions = invert(own.model, layer_names, pictures, weights)
        for name, images in inversions.items():
            run.metric(f"psnr_{name}", compare(images, pictures)[0], unit="dB")
        run.figure("inversions", plot_inversions(pictures, inversions, own.model.name))
        return
    run.plan(1 + len(LAYERS) * (2 if config.image else 1))
    own_picture = (
        classifiers.read_image(config.image, (config.size,) * 2)
        if config.image
        else None
    )

    (x_train, y_train), (x_test, y_test) = data.load("photos", size=32)
    model = build_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    training.fit(model, x_train, y_train, epochs=config.epochs, callbacks=run.callbacks)

    photos = data.load_photos(config.size)[: config.photos]
    n = len(photos)
    # Each photo three times: with the prior from two starts, and without it.
    weights = np.repeat([config.total_variation, config.total_variation, 0], n).astype(
        "float32"
    )
    inversions = invert(model, LAYERS, np.tile(photos, (3, 1, 1, 1)), weights)
    first, second, bare = (
        {name: each[i : i + n] for name, each in inversions.items()}
        for i in (0, n, 2 * n)
    )
    quality = {name: compare(images, photos) for name, images in first.items()}
    psnr, ssim = ({name: each[i] for name, each in quality.items()} for i in (0, 1))
    bare_psnr = {name: compare(images, photos)[0] for name, images in bare.items()}
    apart = {
        name: np.sqrt(np.mean((first[name] - second[name]) ** 2)) for name in LAYERS
    }
    missed, unrelated = {}, {}
    for name in LAYERS:
        features = keras.Model(model.input, model.get_layer(name).output)
        errors = feature_error(features(first[name]), features(photos))
        others = feature_error(features(np.roll(photos, 1, axis=0)), features(photos))
        missed[name], unrelated[name] = np.mean(errors), np.mean(others)

    for name in LAYERS:
        run.metric(f"psnr_{name}", psnr[name], unit="dB")
        run.metric(f"ssim_{name}", ssim[name])
        run.metric(f"feature_error_{name}", missed[name])
        run.metric(f"two_inversions_apart_{name}", apart[name])
        run.metric(f"psnr_without_prior_{name}", bare_psnr[name], unit="dB")
    run.metric("network_test_accuracy", model.evaluate(x_test, y_test, verbose=0)[1])
    fading = {
        "PSNR in dB": {"with total variation": psnr, "without": bare_psnr},
        "structural similarity": {"with total variation": ssim},
        "two inversions apart (RMS)": {"with total variation": apart},
    }
    run.figure("fading", plot_fading(fading))
    run.figure(
        "inversions", plot_inversions(photos, first, "What each layer still knows")
    )
    if own_picture is not None:
        own_inversions = invert(model, LAYERS, own_picture[None], weights[:1])
        run.figure(
            "own", plot_inversions(own_picture[None], own_inversions, config.image)
        )

    first_layer, last_layer = LAYERS[0], LAYERS[-1]
    falls = [a - b for a, b in itertools.pairwise(psnr.values())]
    run.claim(
        "The error grows with depth: every layer gives back less than the one before",
        holds=min(falls) > 0 and ssim[first_layer] > ssim[last_layer] + 0.3,
        measured="PSNR "
        + ", ".join(f"{each:.1f}" for each in psnr.values())
        + " dB, structural "
        f"similarity {ssim[first_layer]:.2f} to {ssim[last_layer]:.2f}",
    )
    worst = max(missed[name] / unrelated[name] for name in LAYERS)
    run.claim(
        "The layer has forgotten, the search has not failed: in all layers the features are far "
        "nearer to the photograph's than those of another photograph",
        holds=worst < 0.35,
        measured=f"squared error at most {worst:.3f} of that of another photograph",
    )
    run.claim(
        "A deep code fits many pictures: inversions from two starts differ more than those of "
        "the first layer",
        holds=apart[last_layer] > 2 * apart[first_layer],
        measured=f"root mean square {apart[first_layer]:.3f} at first, {apart[last_layer]:.3f}",
    )
    run.claim(
        "The total variation makes up for what a deep layer does not say, and costs where the "
        "layer says all",
        holds=psnr["layer_4"] > bare_psnr["layer_4"] + 0.3
        and psnr["layer_1"] < bare_psnr["layer_1"],
        measured=f"PSNR of layer 4 {psnr['layer_4']:.1f} dB with it, {bare_psnr['layer_4']:.1f} "
        f"without; of layer 1 {psnr['layer_1']:.1f} and {bare_psnr['layer_1']:.1f}",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
