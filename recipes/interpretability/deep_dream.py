"""Deep dream: a picture in which a layer sees more and more of what it knows.

Show a network a photograph, ask one layer what it has found, and change the picture so
that it finds more: x ← x + η·g/σ(g), with g the gradient of the layer's mean squared
activity. Bare, that gives grain as fine as the pixels. Two habits make pictures of it:
the picture is moved a few pixels at random before each step and back after it (jitter),
so that no pixel counts by itself; and the climb begins on a small copy and goes on with
larger ones (octaves), so that patterns of every size appear. Look at what each layer
adds, and at a dream without each of the two habits.

Lectures: CS Visualizing & Understanding (Deep Dream); N18 4.3 Understanding CNNs
Paper: Mordvintsev et al., Inceptionism: going deeper into neural networks, 2015
Tags: deepdream, inceptionism, gradient ascent, feature visualization, octaves
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import classifiers, data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    model: str = ""
    """a .keras file or a network of keras.applications, to dream in place of our own"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own to dream on, PNG or JPEG"""
    size: int = 256
    """side of the pictures in pixels"""
    photos: tuple[Annotated[int, Interval(ge=0, le=8)], ...] = (1, 7, 3)
    """numbers of the photographs to dream on, from 0 to 8"""
    epochs: int = 5
    """passes over the 3,600 crops of photographs that the network learns to tell
    apart"""
    batch_size: int = 32
    """crops a gradient is averaged over"""
    octaves: int = 4
    """sizes of the picture that are dreamt on, from small to large"""
    octave_scale: Annotated[float, Interval(gt=1, le=4)] = 1.4
    """how much larger each is than the one before"""
    steps: int = 12
    """of gradient ascent in each octave"""
    step_size: float = 0.008
    """root mean square of a pixel's change in a step"""
    jitter: int = 8
    """the most pixels that the picture is moved by before a step"""


QUICK = Config(
    size=80,
    photos=(1, 7),
    epochs=2,
    batch_size=16,
    octaves=3,
    steps=8,
    step_size=0.012,
)
FULL = Config(size=768, epochs=30, octaves=6, steps=20, photos=tuple(range(9)))
LAYERS = ("layer_2", "layer_3", "layer_4")


def build_model(classes: int = 9) -> keras.Model:
    """Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes)
    logits.

    It sees each pixel's difference from its surroundings alone, so that it must tell
    photographs by what is drawn in them, and its dreams leave the colors of large
    areas as they are.
    """
    images = keras.Input((None, None, 3), name="images")
    surroundings = layers.AveragePooling2D(9, 1, padding="same")(images)
    x = layers.Subtract()([images, surroundings])
    for depth, (filters, width) in enumerate(
        ((24, 5), (48, 3), (96, 3), (128, 3)), start=1
    ):
        if depth > 1:
            x = layers.AveragePooling2D(2)(x)
        x = layers.Conv2D(filters, width, padding="same", use_bias=False)(x)
        x = layers.ReLU(name=f"layer_{depth}")(
            layers.BatchNormalization(momentum=0.9)(x)
        )
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="crops")


def features_of(model: keras.Model, layer: str) -> keras.Model:
    """The network up to a layer, for pictures of any size."""
    part = keras.Model(model.inputs[0], model.get_layer(layer).output)
    images = keras.Input((None, None, part.inputs[0].shape[-1]), name="images")
    free = keras.models.clone_model(part, input_tensors=images)
    free.set_weights(part.get_weights())
    return free


def activity(features: keras.Model, images):
    """The mean squared activity of the layer in each picture, (n,)."""
    return tf.reduce_mean(features(images, training=False) ** 2, axis=(1, 2, 3))


def build_climb(features: keras.Model, step_size: float):
    """A compiled function of (pictures (n, height, width, channels) in [0, 1], steps,
    jitter, seed) that raises the layer's activity; traced once for pictures of all
    sizes."""
    number = tf.TensorSpec((), tf.int32)
    images = tf.TensorSpec((None, None, None, features.inputs[0].shape[-1]))

    @tf.function(input_signature=[images, number, number, number])
    def climb(images, steps, jitter, seed):
        for step in tf.range(steps):
            shift = tf.random.stateless_uniform(
                (2,), (seed, step), -jitter, jitter + 1, tf.int32
            )
            moved = tf.roll(images, shift, axis=(1, 2))
            with tf.GradientTape() as tape:
                tape.watch(moved)
                total = tf.reduce_sum(activity(features, moved))
            gradient = tape.gradient(total, moved)
            size = tf.math.reduce_std(gradient, axis=(1, 2, 3), keepdims=True) + 1e-12
            moved = tf.clip_by_value(moved + step_size * gradient / size, 0, 1)
            images = tf.roll(moved, -shift, axis=(1, 2))
        return images

    return climb


def dream(climb, photos, scales, *, steps: int, jitter: int, seed: int) -> np.ndarray:
    """Climbs on copies of the photos (n, height, width, channels) of each of the
    `scales` in turn, and carries what the climb has added over to the next; the last
    scale is 1."""
    added = tf.zeros_like(photos)
    for octave, scale in enumerate(scales):
        sides = [round(side * scale) for side in photos.shape[1:3]]
        base = tf.image.resize(photos, sides, antialias=True)
        start = tf.clip_by_value(base + tf.image.resize(added, sides, "bicubic"), 0, 1)
        added = climb(start, steps, jitter, seed + octave) - base
    return (photos + added).numpy()


def wavelength(changes: np.ndarray) -> np.ndarray:
    """The typical size of the pattern in each of (n, side, side, channels), in pixels:
    the geometric mean of the wavelengths, weighted by their energy, (n,)."""
    energy = np.sum(np.abs(np.fft.fft2(changes, axes=(1, 2))) ** 2, axis=-1)
    rows, columns = (np.fft.fftfreq(side) for side in changes.shape[1:3])
    frequencies = np.hypot(rows[:, None], columns)
    waves = frequencies > 0
    logs = -np.log(frequencies[waves])
    return np.exp(energy[:, waves] @ logs / energy[:, waves].sum(axis=1))


def total_variation(images: np.ndarray) -> np.ndarray:
    """The mean absolute difference of neighboring pixels, (n,)."""
    down, right = (
        np.abs(np.diff(images, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)
    )
    return (down + right) / 2


def choose_from_middle(names: list[str], count: int = 3) -> list[str]:
    """At most `count` of the names, from the middle of them."""
    places = np.linspace(len(names) // 4, 2 * len(names) // 3, min(count, len(names)))
    return list(dict.fromkeys(names[round(place)] for place in places))


def plot_dreams(
    photos: np.ndarray, dreams: dict[str, np.ndarray], title: str
) -> plt.Figure:
    """A row for each photo (n, side, side, channels): itself, then its dreams by
    name."""
    columns = {"photograph": photos} | dreams
    shape = len(photos), len(columns)
    size = 2.7 * len(columns), 2.75 * len(photos) + 0.6
    figure, grid = plt.subplots(*shape, figsize=size, squeeze=False)
    for (name, images), line in zip(columns.items(), grid.T, strict=True):
        line[0].set_title(name.replace("_", " "))
        for image, axes in zip(images, line, strict=True):
            axes.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
    figure.suptitle(title)
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(1 if config.model else 3 if config.image else 2)
    scales = [
        config.octave_scale**-octave for octave in reversed(range(config.octaves))
    ]
    # As many steps where there are no octaves.
    ways = {
        "with both": (scales, config.steps, config.jitter),
        "without jitter": (scales, config.steps, 0),
        "without octaves": ([1.0], config.steps * config.octaves, config.jitter),
        "without either": ([1.0], config.steps * config.octaves, 0),
    }

    def dream_all(model, photos, wanted):
        """The dreams of each of the (layer, way) wanted, (wanted, n, height, width,
        channels)."""
        climbs = {
            layer: build_climb(features_of(model, layer), config.step_size)
            for layer in dict.fromkeys(layer for layer, _ in wanted)
        }
        dreams = np.zeros((len(wanted), *photos.shape), "float32")
        for number in run.loop(
            "dreaming", len(wanted), {"dreams": dreams}, unit="dreams"
        ):
            layer, way = wanted[number]
            octaves, steps, jitter = ways[way]
            options = {"steps": steps, "jitter": jitter, "seed": run.seed}
            dreams[number] = dream(
                climbs[layer], tf.constant(photos), octaves, **options
            )
        return dreams

    size = (config.size,) * 2
    photos = data.load_photos(config.size)[list(config.photos)]
    if config.model:
        own = classifiers.from_flags(config, run)
        channels = own.model.inputs[0].shape[-1]
        if config.image:
            photos = classifiers.read_image(config.image, size, channels)[None]
        elif channels == 1:
            photos = photos.mean(axis=-1, keepdims=True)
        names = choose_from_middle(own.map_names)
        dreams = dream_all(own.model, photos, [(name, "with both") for name in names])
        dreams = dict(zip(names, dreams, strict=True))
        for name, images in dreams.items():
            run.metric(f"total_variation_{name}", total_variation(images).mean())
        run.figure(
            "dreams", plot_dreams(photos, dreams, f"What {own.model.name} dreams")
        )
        return
    picture = classifiers.read_image(config.image, size)[None] if config.image else None

    (x_train, y_train), (x_test, y_test) = data.load("photos", size=32)
    model = build_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    options = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(model, x_train, y_train, callbacks=run.callbacks, **options)

    both, still, flat, bare = ((LAYERS[1], way) for way in ways)
    wanted = [*((layer, "with both") for layer in LAYERS), still, flat, bare]
    dreams = dict(zip(wanted, dream_all(model, photos, wanted), strict=True))
    added = {key: images - photos for key, images in dreams.items()}
    rough = {
        key: total_variation(each).mean() / each.std() for key, each in added.items()
    }
    waves = {
        key: np.exp(np.log(wavelength(dreams[key] - photos)).mean()) for key in dreams
    }
    gains = {}
    for layer in LAYERS:
        features = features_of(model, layer)
        after = np.mean(activity(features, dreams[layer, "with both"]))
        gains[layer] = after / np.mean(activity(features, photos))

    for key in (both, still, flat, bare):
        run.metric(f"roughness_{key[1].replace(' ', '_')}", rough[key])
        run.metric(f"wavelength_{key[1].replace(' ', '_')}", waves[key], unit="pixels")
    for layer in LAYERS:
        run.metric(f"activity_gain_{layer}", gains[layer])
    run.metric("network_test_accuracy", model.evaluate(x_test, y_test, verbose=0)[1])
    shown = {layer: dreams[layer, "with both"] for layer in LAYERS}
    run.figure(
        "dreams", plot_dreams(photos, shown, "What each layer sees in photographs")
    )
    if picture is not None:
        shown = dict(zip(LAYERS, dream_all(model, picture, wanted[:3]), strict=True))
        run.figure("own", plot_dreams(picture, shown, config.image))
    middle = slice(config.size // 4, -(config.size // 4))
    close = {
        key[1]: dreams[key][:2, middle, middle] for key in (both, still, flat, bare)
    }
    run.figure(
        "ways", plot_dreams(photos[:2, middle, middle], close, "Layer 3 from nearby")
    )

    run.claim(
        "The dream is what the layer looks for: its mean squared activity multiplies",
        holds=min(gains.values()) > 2,
        measured=", ".join(f"{layer} ×{gain:.1f}" for layer, gain in gains.items()),
    )
    run.claim(
        "Octaves make a dream smooth; jiggling, said to, hardly shows where averages pool",
        holds=rough[both] < 0.85 * rough[flat]
        and abs(rough[flat] / rough[bare] - 1) < 0.15,
        measured=f"total variation over size of what is added {rough[both]:.3f}, without octaves "
        f"{rough[flat]:.3f}, without jitter either {rough[bare]:.3f}",
    )
    run.claim(
        "Octaves add larger patterns",
        holds=waves[both] > 1.2 * waves[flat],
        measured=f"typical wavelength of what is added {waves[both]:.1f} pixels, "
        f"{waves[flat]:.1f} without octaves",
    )
    first, _, last = (added[key].ravel() for key in wanted[:3])
    apart = np.corrcoef(first, last)[0, 1]
    same = np.corrcoef(added[both].ravel(), added[still].ravel())[0, 1]
    # Of one layer, too, jitter changes much: `same` wanders between 0.4 and 0.9.
    run.claim(
        "Layers far apart draw patterns of their own, but so different are those of one "
        "layer with and without jitter in some networks",
        holds=apart < 0.75,
        measured=f"what layers 2 and 4 add correlates by {apart:.2f} (at most 0.75), what "
        f"layer 3 adds with jitter and without by {same:.2f}",
    )
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
