"""Feature inversion: what a layer still knows of a picture, drawn as a picture.

Keep the features Φ(x₀) that a layer gives for a picture x₀, forget the picture, and
look for one with the same features: x* = argmin ‖Φ(x) − Φ(x₀)‖² / ‖Φ(x₀)‖² + λ·TV(x),
from noise, by gradients of the pixels. The total variation TV chooses among the many
pictures that fit: the smoothest. What x* does not share with x₀ the layer has thrown
away. The layers are those of a network that was trained on ImageNet.
Look at the picture fading from layer to layer, first the grain, then the colors and
places, until by its pixels it is no nearer than an even gray; and at two inversions of
the same features, which differ more the deeper the layer.

Lectures: CS Visualizing & Understanding (Feature inversion); N18 4.3 Understanding CNNs
Paper: Mahendran and Vedaldi, Understanding deep image representations by inverting
    them, 2015 (section 2)
Tags: inverting representations, image reconstruction, total variation, feature
    visualization, imagenet, xai
"""

import itertools
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deep_learning_recipes import classifiers, data, figures, serving
from deep_learning_recipes.figures import Panel
from deep_learning_recipes.run import Run, cli

IMAGENET = "EfficientNetLite0"


@dataclass
class Config:
    model: str = IMAGENET
    """EfficientNetLite0, whose ImageNet weights need no download, or another network to
    invert: one of keras.applications, or a .keras file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""
    size: int = 112
    """side in pixels of the photographs whose features EfficientNetLite0 gives"""
    photos: int = 3
    """how many of the nine photographs"""
    steps: int = 100
    """of Adam on the pixels, for each layer"""
    learning_rate: float = 0.05
    """of Adam on the pixels, at the start; it falls to 0 along a cosine"""
    total_variation: float = 5.0
    """weight λ of the mean difference of neighboring pixels"""


QUICK = Config(size=64, photos=2, steps=70)
FULL = Config(size=224, photos=9, steps=1000)

# The ends of three of the network's seven stages, and the mean over all places.
LAYERS = {
    "stage_1": "block1a_project_bn",
    "stage_2": "block2b_add",
    "stage_4": "block4c_add",
    "mean": "avg_pool",
}


# --------------------------------------------------------------------------------------
# The idea: a picture with the same features
# --------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------
# The experiment: the same photographs out of layer after layer
# --------------------------------------------------------------------------------------


def compare(images: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean peak signal-to-noise ratio in decibels and mean structural similarity in
    [-1, 1]."""
    psnr = []
    ssim = []
    for image, true in zip(images, truth, strict=True):
        psnr.append(peak_signal_noise_ratio(true, image, data_range=1))
        similarity = structural_similarity(
            true,
            image,
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        ssim.append(similarity)
    return np.mean(psnr), np.mean(ssim)


def choose(names: list[str], count: int = 5) -> list[str]:
    """At most `count` of the names, evenly spaced from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(count, len(names)))
    return [names[round(place)] for place in places]


def features_of(model: keras.Model, layer: str) -> keras.Model:
    return keras.Model(model.input, model.get_layer(layer).output)


def invert(run: Run, title: str, features, pictures, weights, config: Config):
    """What the features of the pictures (n, height, width, channels) turn into.
    weights: (n,), of the total variation."""
    random = np.random.default_rng(run.seed)
    start = random.normal(0.5, 0.1, pictures.shape).astype("float32").clip(0, 1)
    images = keras.Variable(start, name="images")
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    adam = keras.optimizers.Adam(rate, beta_2=0.99)
    wanted = features(pictures)
    step = build_inversion(features, wanted, images, tf.constant(weights), adam)

    state = {"images": images, "adam": adam}
    for _ in run.loop(title, config.steps // 10, state, unit="tens"):
        step(tf.constant(10))
    return images.numpy()


def invert_layers(run: Run, model, inverted, pictures, weights, config: Config):
    """{name: what the features that a layer gives turn into}. inverted: {name: of a
    layer}."""
    inversions = {}
    for name, layer in inverted.items():
        features = features_of(model, layer)
        title = f"inverting {name}"
        inversions[name] = invert(run, title, features, pictures, weights, config)
    return inversions


def draw(run: Run, name: str, title: str, pictures: dict, inversions: dict) -> None:
    """A row for each picture, by its name, a column for what each layer gives back."""
    rows = {}
    for number, (called, picture) in enumerate(pictures.items()):
        line = [picture, *(images[number] for images in inversions.values())]
        # Gray pictures, too, have three channels to show.
        shape = *picture.shape[:2], 3
        rows[called] = [np.broadcast_to(each, shape) for each in line]
    captions = ["as it is", *(each.replace("_", " ") for each in inversions)]
    run.figure(name, figures.picture_table(rows, title=title, captions=captions))


def invert_with(run: Run, own: classifiers.Classifier, config: Config) -> None:
    """What layers of another network give back."""
    height, width, channels = own.model.inputs[0].shape[1:]
    if config.image:
        pictures = own.read([config.image])
    else:
        photos = data.load_photos(256)[: config.photos]
        pictures = np.asarray(ops.image.resize(photos, (height, width)))
        if channels == 1:
            pictures = pictures.mean(axis=-1, keepdims=True)
    layers = {name: name for name in choose(own.map_names)}
    run.plan(len(layers))
    weights = np.full(len(pictures), config.total_variation, "float32")
    inversions = invert_layers(run, own.model, layers, pictures, weights, config)
    for name, images in inversions.items():
        run.metric(f"psnr_{name}", compare(images, pictures)[0], unit="dB")
    names = ["picture"] if config.image else data.class_names("photos")
    called = dict(zip(names, pictures, strict=False))
    draw(run, "inversions", own.model.name, called, inversions)


@dataclass
class Findings:
    """What was measured, each by layer."""

    psnr: dict[str, float]
    psnr_without_prior: dict[str, float]
    ssim: dict[str, float]
    feature_error: dict[str, float]
    """of the inversion"""
    another_photo: dict[str, float]
    """feature error of another photograph"""
    apart: dict[str, float]
    """root mean square difference of two inversions"""
    psnr_of_even: float
    """of the photographs' mean colors, which keep nothing of the picture"""
    psnr_of_another: float
    """of another photograph"""


def measure(model, photos, first, second, bare) -> Findings:
    """first, second: {layer: inversions (n, height, width, 3)} from two starts. bare:
    without the prior."""
    even = np.broadcast_to(photos.mean(axis=(1, 2), keepdims=True), photos.shape)
    psnr_of_even, _ = compare(even, photos)
    psnr_of_another, _ = compare(np.roll(photos, 1, axis=0), photos)
    found = Findings({}, {}, {}, {}, {}, {}, psnr_of_even, psnr_of_another)
    for name, layer in LAYERS.items():
        images = first[name]
        found.psnr[name], found.ssim[name] = compare(images, photos)
        found.psnr_without_prior[name], _ = compare(bare[name], photos)

        features = features_of(model, layer)
        wanted = features(photos)
        errors = feature_error(features(images), wanted)
        found.feature_error[name] = np.mean(errors)
        others = feature_error(features(np.roll(photos, 1, axis=0)), wanted)
        found.another_photo[name] = np.mean(others)

        found.apart[name] = np.sqrt(np.mean((images - second[name]) ** 2))
    return found


def main(config: Config, run: Run) -> None:
    size = config.size, config.size
    picture = classifiers.read_image(config.image, size) if config.image else None
    if config.model != IMAGENET:
        invert_with(run, classifiers.from_flags(config, run), config)
        return
    run.plan(len(LAYERS) * (2 if config.image else 1))
    own = classifiers.load(IMAGENET, size=size, pixel_range=config.pixel_range)
    model = own.model
    photos = data.load_photos(config.size)[: config.photos]

    # Each photo three times: with the prior from two starts, and without it.
    n = len(photos)
    with_prior = [config.total_variation] * (2 * n)
    weights = np.array(with_prior + [0.0] * n, "float32")
    pictures = np.tile(photos, (3, 1, 1, 1))
    inversions = invert_layers(run, model, LAYERS, pictures, weights, config)
    first = {name: each[:n] for name, each in inversions.items()}
    second = {name: each[n : 2 * n] for name, each in inversions.items()}
    bare = {name: each[2 * n :] for name, each in inversions.items()}

    found = measure(model, photos, first, second, bare)
    run.metrics("psnr", found.psnr, unit="dB")
    run.metrics("ssim", found.ssim)
    run.metrics("feature_error", found.feature_error)
    run.metrics("two_inversions_apart", found.apart)
    run.metrics("psnr_without_prior", found.psnr_without_prior, unit="dB")
    run.metric("psnr_of_even_pictures", found.psnr_of_even, unit="dB")
    called = dict(zip(data.class_names("photos"), photos, strict=False))
    draw(run, "inversions", "What each layer still knows", called, first)
    run.figure("fading", draw_fading(found))
    if config.image:
        own_picture = invert_layers(
            run, model, LAYERS, picture[None], weights[:1], config
        )
        draw(run, "own", config.image, {"picture": picture}, own_picture)
    judge(run, found)
    run.export(serving.classifier(model), example=photos)


def draw_fading(found: Findings):
    depth = np.arange(1, len(LAYERS) + 1)
    by_prior = {
        "with total variation": (depth, list(found.psnr.values())),
        "without": (depth, list(found.psnr_without_prior.values())),
    }
    apart = {"with total variation": (depth, list(found.apart.values()))}
    figure = figures.panels(
        Panel(
            title="Likeness to the photograph",
            xlabel="layer",
            ylabel="PSNR in dB",
            lines=by_prior,
            levels={"an even picture": found.psnr_of_even},
        ),
        Panel(
            title="Two inversions apart",
            xlabel="layer",
            ylabel="root mean square of pixels in [0, 1]",
            lines=apart,
        ),
        title="The deeper the layer, the less of the picture is in it",
    )
    for axes in figure.axes:
        axes.set_xticks(depth, [name.replace("_", " ") for name in LAYERS])
    return figure


def judge(run: Run, found: Findings) -> None:
    first, *_, last = LAYERS
    falls = [a - b for a, b in itertools.pairwise(found.psnr.values())]
    levels = ", ".join(f"{each:.1f}" for each in found.psnr.values())
    even = found.psnr_of_even
    run.claim(
        "The error grows with depth: every layer gives back less than the one before; by "
        "its pixels, what the last two give is no nearer than an even picture",
        holds=min(falls) > 0
        and found.ssim[first] > found.ssim[last] + 0.3
        and found.psnr["stage_2"] > even > found.psnr["stage_4"],
        measured=f"PSNR {levels} dB, of the photographs' mean colors {even:.1f}, of "
        f"another photograph {found.psnr_of_another:.1f}; structural similarity "
        f"{found.ssim[first]:.2f} to {found.ssim[last]:.2f}",
    )
    ratios = [found.feature_error[k] / found.another_photo[k] for k in LAYERS]
    run.claim(
        "The layer has forgotten, the search has not failed: in all layers the features "
        "are far nearer to the photograph's than those of another photograph",
        holds=max(ratios) < 0.5,
        measured=f"squared error at most {max(ratios):.3f} of that of another photograph",
    )
    run.compare(
        "A deep code fits many pictures: inversions from two starts differ more than "
        "those of the first layer",
        {"first": found.apart[first], "last": found.apart[last]},
        more="last",
        less="first",
        times=2,
    )
    gains = [found.psnr[k] - found.psnr_without_prior[k] for k in LAYERS]
    run.claim(
        "The total variation chooses better among the pictures that fit: out of every "
        "layer, in as many steps, comes one that is nearer to the photograph",
        holds=min(gains) > 0.5,
        measured="PSNR higher by "
        + ", ".join(f"{gain:.1f}" for gain in gains)
        + " dB than without it",
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
