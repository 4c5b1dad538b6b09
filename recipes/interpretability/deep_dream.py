"""Deep dream: a picture in which a layer sees more and more of what it knows.

Show a network a photograph, ask one layer what it has found, and change the picture so
that it finds more: x ← x + η·g/σ(g), with g the gradient of the layer's mean squared
activity. Two habits make pictures of it: the picture is moved a few pixels at random
before each step and back after it (jitter), so that no pixel counts by itself; and the
climb begins on a small copy and goes on with larger ones (octaves), so that patterns of
every size appear. Early layers of a network that was trained on ImageNet draw hatching
and curves, later ones eyes and the faces of animals.
Look at what each layer adds, at a dream without each of the two habits, and at the
dream of the same network with random weights: its activity rises as well, but what it
adds is grain.

Lectures: CS Visualizing & Understanding (Deep Dream); N18 4.3 Understanding CNNs
Paper: Mordvintsev et al., Inceptionism: going deeper into neural networks, 2015
Tags: deepdream, inceptionism, gradient ascent, feature visualization, octaves, imagenet
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from scipy.ndimage import gaussian_filter

from deep_learning_recipes import classifiers, data, figures
from deep_learning_recipes.run import Run, cli

IMAGENET = "EfficientNetLite0"


@dataclass
class Config:
    model: str = IMAGENET
    """EfficientNetLite0, whose ImageNet weights need no download, or another network to
    dream with: one of keras.applications, or a .keras file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own to dream on, PNG or JPEG"""
    size: int = 320
    """side of the pictures in pixels"""
    photos: tuple[Annotated[int, Interval(ge=0, le=8)], ...] = (1, 7, 3)
    """numbers of the photographs to dream on, from 0 to 8"""
    octaves: int = 4
    """sizes of the picture that are dreamt on, from small to large"""
    octave_scale: Annotated[float, Interval(gt=1, le=4)] = 1.4
    """how much larger each is than the one before"""
    steps: int = 14
    """of gradient ascent in each octave"""
    step_size: float = 0.012
    """root mean square of a pixel's change in a step"""
    jitter: int = 16
    """the most pixels that the picture is moved by before a step"""


QUICK = Config(
    size=112,
    photos=(1, 7),
    octaves=3,
    steps=8,
    step_size=0.02,
)
FULL = Config(size=768, octaves=6, steps=20, photos=tuple(range(9)))

# The sums at the end of three of the network's seven stages.
LAYERS = {
    "early": "block3b_add",
    "middle": "block4c_add",
    "late": "block5c_add",
}


# --------------------------------------------------------------------------------------
# The idea: climb to where the layer sees more
# --------------------------------------------------------------------------------------


def activity(features: keras.Model, images):
    """The mean squared activity of the layer in each picture, (n,)."""
    return tf.reduce_mean(features(images, training=False) ** 2, axis=(1, 2, 3))


def build_climb(features: keras.Model, step_size: float):
    """A compiled function of (pictures (n, height, width, channels) in [0, 1], steps,
    jitter, seed) that raises the layer's activity; traced once for pictures of all
    sizes."""
    number = tf.TensorSpec((), tf.int32)
    pictures = tf.TensorSpec((None, None, None, features.inputs[0].shape[-1]))

    @tf.function(input_signature=[pictures, number, number, number])
    def climb(images, steps, jitter, seed):
        for step in tf.range(steps):
            # No pixel may count by itself: the layer sees the picture moved.
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


def features_of(model: keras.Model, layer: str) -> keras.Model:
    """The network up to a layer, for pictures of any size."""
    part = keras.Model(model.inputs[0], model.get_layer(layer).output)
    images = keras.Input((None, None, part.inputs[0].shape[-1]), name="images")
    free = keras.models.clone_model(part, input_tensors=images)
    free.set_weights(part.get_weights())
    return free


def forget(model: keras.Model, photos) -> keras.Model:
    """The network with random weights. Its batch norm takes the statistics of the
    photos, so that signals neither die out nor explode in it."""
    random = keras.models.clone_model(model)
    for layer in random.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    random(photos, training=True)
    return random


# --------------------------------------------------------------------------------------
# The experiment: layers, habits, and a network that knows nothing
# --------------------------------------------------------------------------------------


def wavelength(changes: np.ndarray) -> np.ndarray:
    """The typical size of the pattern in each of (n, side, side, channels), in pixels:
    the geometric mean of the wavelengths, weighted by their energy, (n,)."""
    energy = np.sum(np.abs(np.fft.fft2(changes, axes=(1, 2))) ** 2, axis=-1)
    rows = np.fft.fftfreq(changes.shape[1])
    columns = np.fft.fftfreq(changes.shape[2])
    frequencies = np.hypot(rows[:, None], columns)

    waves = frequencies > 0
    logs = -np.log(frequencies[waves])
    return np.exp(energy[:, waves] @ logs / energy[:, waves].sum(axis=1))


def coherence(changes: np.ndarray) -> np.ndarray:
    """How far each of (n, height, width, channels) consists of lines, (n,): 0 if every
    direction is as frequent near each pixel, 1 if there is one alone.

    (λ₁ − λ₂) / (λ₁ + λ₂) of the structure tensor, the mean of slope times slope within
    three pixels, weighted by its trace (Bigün and Granlund, Optimal orientation
    detection of linear symmetry, 1987).
    """
    gray = gaussian_filter(changes.mean(axis=-1), 1, axes=(1, 2))
    down, right = np.gradient(gray, axis=(1, 2))

    def nearby(products):
        return gaussian_filter(products, 3, axes=(1, 2))

    unlike = np.hypot(nearby(down**2) - nearby(right**2), 2 * nearby(down * right))
    trace = nearby(down**2) + nearby(right**2)
    return unlike.sum(axis=(1, 2)) / trace.sum(axis=(1, 2))


def same_spectrum(changes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Noise with the power spectrum of each of (n, height, width, channels): its
    patterns have the same sizes and directions, but what made lines of them is lost."""
    noise = random.normal(size=changes.shape[:3])
    turned = np.angle(np.fft.fft2(noise))[..., np.newaxis]
    spectra = np.fft.fft2(changes, axes=(1, 2)) * np.exp(1j * turned)
    return np.fft.ifft2(spectra, axes=(1, 2)).real


def choose_from_middle(names: list[str], count: int = 3) -> list[str]:
    """At most `count` of the names, from the middle of them."""
    places = np.linspace(len(names) // 4, 2 * len(names) // 3, min(count, len(names)))
    return list(dict.fromkeys(names[round(place)] for place in places))


@dataclass
class Way:
    """One way to dream."""

    layer: str
    octaves: bool = True
    """False: all steps are made on the whole picture"""
    jitter: bool = True
    trained: bool = True
    """False: the network has random weights"""


WAYS = {
    "early": Way(LAYERS["early"]),
    "middle": Way(LAYERS["middle"]),
    "late": Way(LAYERS["late"]),
    "early_without_octaves": Way(LAYERS["early"], octaves=False),
    "early_without_either": Way(LAYERS["early"], octaves=False, jitter=False),
    "early_random": Way(LAYERS["early"], trained=False),
    "late_random": Way(LAYERS["late"], trained=False),
}


def build_climbs(ways: dict[str, Way], model, random, config: Config) -> dict:
    """{(layer, trained): the climb}. random: the model with random weights, where a way
    asks for it."""
    climbs = {}
    for way in ways.values():
        key = way.layer, way.trained
        if key not in climbs:
            features = features_of(model if way.trained else random, way.layer)
            climbs[key] = build_climb(features, config.step_size)
    return climbs


def dream_all(run: Run, ways: dict[str, Way], climbs: dict, photos, config: Config):
    """{name: what a way makes of the photos (n, height, width, channels)}."""
    scales = [config.octave_scale**-k for k in reversed(range(config.octaves))]
    names = list(ways)
    dreams = np.zeros((len(names), *photos.shape), "float32")
    for number in run.loop("dreaming", len(names), {"dreams": dreams}, unit="dreams"):
        way = ways[names[number]]
        dreams[number] = dream(
            climbs[way.layer, way.trained],
            tf.constant(photos),
            scales if way.octaves else [1.0],
            # As many steps where there are no octaves.
            steps=config.steps if way.octaves else config.steps * config.octaves,
            jitter=config.jitter if way.jitter else 0,
            seed=run.seed,
        )
    return dict(zip(names, dreams, strict=True))


def measure_gains(model, dreams: dict[str, np.ndarray], photos) -> np.ndarray:
    """How many times as active as in the photos each of LAYERS (rows) is in the dream
    of each (columns)."""
    gains = []
    for layer in LAYERS.values():
        features = features_of(model, layer)
        before = np.mean(activity(features, photos))
        gains.append([np.mean(activity(features, dreams[k])) / before for k in LAYERS])
    return np.array(gains)


def photo_names(config: Config) -> list[str]:
    names = data.class_names("photos")
    return [names[number] for number in config.photos]


def draw(run: Run, name: str, title: str, rows, columns: dict[str, np.ndarray]):
    """A row for each picture, a column for the images (n, height, width, channels) of
    each name."""
    # Gray pictures, too, have three channels to show.
    shown = [np.broadcast_to(each, (*each.shape[:3], 3)) for each in columns.values()]
    table = dict(zip(rows, zip(*shown, strict=True), strict=True))
    run.figure(name, figures.picture_table(table, title=title, captions=list(columns)))


def dream_with(run: Run, own: classifiers.Classifier, config: Config) -> None:
    """What three layers of another network dream."""
    channels = own.model.inputs[0].shape[-1]
    if config.image:
        size = config.size, config.size
        photos = classifiers.read_image(config.image, size, channels)[None]
        rows = ["picture"]
    else:
        photos = data.load_photos(config.size)[list(config.photos)]
        rows = photo_names(config)
        if channels == 1:
            photos = photos.mean(axis=-1, keepdims=True)
    ways = {name: Way(name) for name in choose_from_middle(own.map_names)}
    climbs = build_climbs(ways, own.model, None, config)
    dreams = dream_all(run, ways, climbs, photos, config)
    for name, images in dreams.items():
        run.metric(f"coherence_{name}", coherence(images - photos).mean())
    title = f"What {own.model.name} dreams"
    draw(run, "dreams", title, rows, {"as it is": photos, **dreams})


def build_meter(model: keras.Model) -> keras.Model:
    """A service that tells how active the layers are in pictures."""
    maps = [model.get_layer(layer).output for layer in LAYERS.values()]
    means = [ops.mean(each**2, axis=(1, 2, 3)) for each in maps]
    outputs = dict(zip(LAYERS, means, strict=True))
    return keras.Model(model.input, outputs, name="activity_meter")


@dataclass
class Findings:
    """What the dreams add to the photographs, by way."""

    coherence: dict[str, float]
    coherence_of_noise: dict[str, float]
    """with the same power spectrum"""
    wavelength: dict[str, float]
    gains: np.ndarray
    """of each of LAYERS (rows) in the dream of each (columns)"""
    random_gain: float
    """of the late layer with random weights in its own dream"""

    def lines(self, name: str) -> float:
        """How much more coherent than noise."""
        return self.coherence[name] - self.coherence_of_noise[name]


def measure(model, random, dreams: dict[str, np.ndarray], photos, seed: int):
    coherences = {}
    of_noise = {}
    waves = {}
    for name, images in dreams.items():
        added = images - photos
        noise = same_spectrum(added, np.random.default_rng(seed))
        coherences[name] = coherence(added).mean()
        of_noise[name] = coherence(noise).mean()
        waves[name] = np.exp(np.log(wavelength(added)).mean())

    features = features_of(random, LAYERS["late"])
    before = np.mean(activity(features, photos))
    random_gain = np.mean(activity(features, dreams["late_random"])) / before
    gains = measure_gains(model, dreams, photos)
    return Findings(coherences, of_noise, waves, gains, random_gain)


def record(run: Run, found: Findings) -> None:
    run.metrics("coherence", found.coherence)
    run.metrics("wavelength", found.wavelength, unit="pixels")
    own_gains = np.diag(found.gains)
    run.metrics("activity_gain", dict(zip(LAYERS, own_gains, strict=True)))
    run.metrics("coherence_of_noise", found.coherence_of_noise)


def draw_dreams(run: Run, dreams, photos, config: Config) -> None:
    names = photo_names(config)
    columns = {"photograph": photos}
    for layer in LAYERS:
        columns[layer] = dreams[layer]
    title = "What early, middle, and late layers see in photographs"
    draw(run, "dreams", title, names, columns)

    parts = {
        "octaves and jitter": dreams["early"][:2],
        "without octaves": dreams["early_without_octaves"][:2],
        "without either": dreams["early_without_either"][:2],
        "random weights": dreams["early_random"][:2],
    }
    title = "The early layer's dream, and what it owes to the habits and to the weights"
    draw(run, "parts", title, names[:2], parts)


def judge_layers(run: Run, found: Findings) -> None:
    own = np.diag(found.gains)
    others = np.max(found.gains - np.diag(own), axis=1)
    evidence = []
    for name, gain, other in zip(LAYERS, own, others, strict=True):
        evidence.append(f"{name} {gain:.1f} ({other:.1f})")
    run.claim(
        "Each layer finds most in its own dream: more than in the photographs, and more "
        "than in what another layer dreams",
        holds=np.all(own > 1.4) and np.all(own > 1.05 * others),
        measured="mean squared activity in its own dream over that in the photographs "
        f"(in the best of the other two dreams): {', '.join(evidence)}",
    )


def judge_weights(run: Run, found: Findings) -> None:
    evidence = []
    for name in ("early", "early_random", "late", "late_random"):
        evidence.append(
            f"{name.replace('_', ' ')} {found.coherence[name]:.2f} "
            f"({found.coherence_of_noise[name]:.2f})"
        )
    run.claim(
        "What a network dreams of it has learned: with random weights the activity "
        "rises too, but no lines appear, only grain",
        holds=found.random_gain > 1.4
        and found.lines("early") > found.lines("early_random") + 0.05
        and found.lines("late") > found.lines("late_random") + 0.02,
        measured="coherence of what is added (of noise with its power spectrum): "
        f"{', '.join(evidence)}, whose activity rises {found.random_gain:.1f} times",
    )


def judge_habits(run: Run, found: Findings) -> None:
    waves = found.wavelength
    run.compare(
        "Octaves add larger patterns than as many steps on the whole picture",
        {"with": waves["early"], "without": waves["early_without_octaves"]},
        more="with",
        less="without",
        times=1.3,
    )
    moved = "early_without_octaves"
    still = "early_without_either"
    run.claim(
        "Moving the picture before each step makes the finest patterns coarser and more "
        "like lines: no pixel counts by itself",
        holds=waves[moved] > 1.04 * waves[still]
        and found.coherence[moved] > found.coherence[still],
        measured=f"without octaves {waves[moved]:.2f} pixels, coherence "
        f"{found.coherence[moved]:.2f}; without jitter either {waves[still]:.2f}, "
        f"{found.coherence[still]:.2f}",
    )


def main(config: Config, run: Run) -> None:
    is_usual = config.model == IMAGENET
    run.plan(2 if is_usual and config.image else 1)
    size = config.size, config.size
    picture = classifiers.read_image(config.image, size) if config.image else None
    own = classifiers.from_flags(config, run)
    if not is_usual:
        dream_with(run, own, config)
        return

    photos = data.load_photos(config.size)[list(config.photos)]
    model = own.model
    random = forget(model, data.load_photos(own.model.inputs[0].shape[1]))
    climbs = build_climbs(WAYS, model, random, config)
    dreams = dream_all(run, WAYS, climbs, photos, config)
    found = measure(model, random, dreams, photos, run.seed)
    record(run, found)
    draw_dreams(run, dreams, photos, config)
    if config.image:
        ways = {name: WAYS[name] for name in LAYERS}
        shown = dream_all(run, ways, climbs, picture[np.newaxis], config)
        columns = {"as it is": picture[np.newaxis], **shown}
        draw(run, "own", config.image, ["picture"], columns)

    judge_layers(run, found)
    judge_weights(run, found)
    judge_habits(run, found)
    run.export(build_meter(model), example=data.load_photos(224)[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
