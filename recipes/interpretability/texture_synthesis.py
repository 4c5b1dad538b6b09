"""Texture synthesis: a picture painted anew from which features occur together.

The maps F of a layer, features i at places k, make the Gram matrix G_ij = (1/N) Σ_k
F_ik F_jk. The sum over all places forgets where anything was: what is left is the
texture. Gradient descent on the pixels of a picture of noise makes its Gram matrices
those of the texture, E = Σ ‖G − Ĝ‖² / ‖Ĝ‖² over the layers used, first for small
pictures, then for larger ones that start from these. The filters need not be trained:
random ones do, where the network pools between several layers.
Look at how much larger a structure is kept with each further layer.

Lectures: CS Visualizing & Understanding (Neural Texture Synthesis)
Paper: Gatys et al., Texture synthesis using convolutional neural networks, 2015
    (equations 2 to 4); Ustyuzhaninov et al., Texture synthesis using shallow
    convolutional networks with random filters, 2016
Tags: gram matrix, random filters, texture generation, neural texture, image
    optimization
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure
from scipy.stats import kurtosis

from deep_learning_recipes import classifiers, data, figures, painting
from deep_learning_recipes.lbfgs import LBFGS
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    textures: str = "brick, flower"
    """with commas between: brick, grass, gravel, painting, a photograph's name (such as
    retina), or picture files"""
    size: int = 256
    """side of the last pictures in pixels: 64 (at which the layers are compared), 128,
    256, ..."""
    filters: int = 48
    """in each layer"""
    steps: int = 100
    """of L-BFGS on pictures of 64 pixels"""
    last_steps: int = 40
    """on those of each larger size"""
    model: str = ""
    """EfficientNetLite0 (needs no download), a .keras file or a network of
    keras.applications (VGG19) in place of random filters"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""


QUICK = Config(size=128, filters=32, steps=60, last_steps=20)
FULL = Config(size=512, filters=128, steps=400, last_steps=200)

# --------------------------------------------------------------------------------------
# The idea: Gram matrices, and a picture that has the same ones
# --------------------------------------------------------------------------------------

KERNELS = (5, 3, 3, 3)


def build_network(filters: int) -> keras.Model:
    """Random filters. Input: (batch, height, width, 3). Outputs: the maps of each
    layer. Pixels of the four see 5, 10, 20 and 40 of the picture's."""
    picture = keras.Input((None, None, 3), name="picture")
    x = picture
    maps = []
    for kernel_size in KERNELS:
        # Averages pass on a gradient to every pixel, maxima to one in four.
        x = layers.AveragePooling2D(2)(x) if maps else x
        x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
        maps.append(x)

    network = keras.Model(picture, maps, name="random_filters")
    for kernel in network.weights[::2]:
        # Without a mean they answer to contrast, not to brightness, which would drown
        # all else.
        values = keras.random.normal(kernel.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        length = ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True))
        kernel.assign(values / length)
    return network


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the
    places."""
    _, height, width, _ = maps.shape
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / (height * width)


def distances(grams, targets):
    """‖G − Ĝ‖² / ‖Ĝ‖² of each picture and layer, (batch, layers); 0 where a layer is
    blind to the target."""
    by_layer = []
    for gram, target in zip(grams, targets, strict=True):
        apart = ops.sum((gram - target) ** 2, axis=(1, 2))
        size = ops.sum(target**2, axis=(1, 2))
        by_layer.append(ops.divide_no_nan(apart, size))
    return ops.stack(by_layer, axis=1)


def energy_by(network: keras.Model, textures: np.ndarray, weights: np.ndarray):
    """The function from pictures (n, height, width, 3) to E (n,): how far they are from
    textures (n, height, width, 3) in the layers with a weight above 0 in weights (n,
    layers)."""
    targets = [gram_matrix(maps) for maps in network(textures)]

    def energy(pictures):
        grams = [gram_matrix(maps) for maps in network(pictures)]
        texture = ops.sum(weights * distances(grams, targets), axis=1)
        beyond = pictures - ops.clip(pictures, 0, 1)  # what no screen can show
        return texture + 10 * ops.mean(beyond**2, axis=(1, 2, 3))

    return energy


def random_phase(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Noise with the picture's power spectrum (Galerne et al., Random phase textures,
    2011)."""
    noise = random.normal(size=picture.shape[:2])
    turned = np.angle(np.fft.rfft2(noise))[..., np.newaxis]
    mean = picture.mean(axis=(0, 1))
    spectrum = np.fft.rfft2(picture - mean, axes=(0, 1)) * np.exp(1j * turned)
    found = mean + np.fft.irfft2(spectrum, picture.shape[:2], axes=(0, 1))
    return np.clip(found, 0, 1).astype("float32")


# --------------------------------------------------------------------------------------
# The experiment: textures by one layer and by more, beside noise that is cheaper
# --------------------------------------------------------------------------------------

SMALLEST = 64  # the last layer's pixels see 40
# Pixels around a picture that fewer windows cover than the others: cut off at the end.
MARGIN = 8

Pictures = dict[str, np.ndarray]
"""by name (textures, side, side, 3)"""


def highest_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the two pictures' brightness, over all shifts of one against the other: 1 for
    a copy."""
    first = a.mean(axis=-1) - a.mean()
    second = b.mean(axis=-1) - b.mean()
    spectrum = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    products = np.fft.irfft2(spectrum, first.shape)
    return float(products.max() / (first.size * first.std() * second.std()))


def peakedness(picture: np.ndarray) -> float:
    """Excess kurtosis of the differences of neighbors' brightness: 0 for Gaussian
    noise, high where there are few, strong edges on even ground."""
    gray = picture.mean(axis=-1)
    down = kurtosis(np.diff(gray, axis=0), axis=None)
    right = kurtosis(np.diff(gray, axis=1), axis=None)
    return float((down + right) / 2)


def names_of(config: Config) -> list[str]:
    return [name.strip() for name in config.textures.split(",")]


def load_textures(names: list[str], size: int) -> np.ndarray:
    """(textures, size, size, 3)."""
    return np.stack([data.load_picture(name, size) for name in names])


def sizes_of(config: Config) -> list[int]:
    """From the smallest, each twice the one before."""
    sizes = [SMALLEST]
    while 2 * sizes[-1] <= config.size:
        sizes.append(2 * sizes[-1])
    return sizes


def noise_for(targets: np.ndarray, margin: int, random: np.random.Generator):
    """Nearly even pictures of the targets' mean colors."""
    count, height, width, _ = targets.shape
    shape = (count, height + 2 * margin, width + 2 * margin, 3)
    noise = 0.02 * random.normal(size=shape)
    return targets.mean(axis=(1, 2), keepdims=True) + noise


def paint(
    title: str,
    network: keras.Model,
    targets: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    steps: int,
    run: Run,
    margin: int = MARGIN,
) -> np.ndarray:
    """Pictures with the targets' Gram matrices, from others of any size, (n, height + 2
    margins, width + 2 margins, 3)."""
    height, width = targets.shape[1:3]
    sides = (height + 2 * margin, width + 2 * margin)
    start = tf.image.resize(start, sides, "bicubic")
    solver = LBFGS(energy_by(network, targets, weights), start)
    calls = run.loop(
        title,
        math.ceil(steps / solver.steps_per_call),
        {"solver": solver.state},
        unit=f"times {solver.steps_per_call} steps",
        show=lambda: {"energy": float(np.mean(solver.value))},
    )
    solver.minimize(calls)
    return np.clip(solver.x, 0, 1)


def cut(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def paint_with(config: Config, random: np.random.Generator, run: Run) -> None:
    """By a network of the user's."""
    network = classifiers.from_flags(config, run).convolutions
    names = names_of(config)
    targets = load_textures(names, network.input.shape[1])
    painted = paint(
        config.model,
        network,
        targets,
        np.ones((len(names), len(network.outputs)), "float32"),
        noise_for(targets, 0, random),
        2 * config.steps,
        run,
        margin=0,
    )
    for name, picture, target in zip(names, painted, targets, strict=True):
        distance = painting.texture_distance(picture, target)
        run.metric(f"texture_distance {name}", distance)
    rows = {"texture": targets, "painted": painted}
    title = f"Painted from the Gram matrices of {config.model}"
    run.figure("textures", figures.picture_table(rows, title=title, captions=names))


def paint_by_layers(network, textures: np.ndarray, config, random, run) -> np.ndarray:
    """Each texture by the first layer, by the first two, ... and by all, at once.
    Returns (textures, layers, side, side, 3), with margins."""
    depths = len(KERNELS)
    weights = np.tile(np.tri(depths, dtype="float32"), (len(textures), 1))
    targets = np.repeat(textures, depths, axis=0)
    start = noise_for(targets, MARGIN, random)
    title = f"{SMALLEST} pixels"
    painted = paint(title, network, targets, weights, start, config.steps, run)
    return painted.reshape(len(textures), depths, *painted.shape[1:])


def enlarge(network, painted: np.ndarray, sizes: list[int], config, run) -> np.ndarray:
    """Goes on with pictures (textures, side, side, 3) at the larger sizes."""
    names = names_of(config)
    weights = np.ones((len(names), len(KERNELS)), "float32")
    for size in sizes:
        targets = load_textures(names, size)
        painted = paint(
            f"{size} pixels",
            network,
            targets,
            weights,
            painted,
            config.last_steps,
            run,
        )
    return cut(painted)


def shuffle_pixels(textures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    order = random.permutation(textures[0, ..., 0].size)
    shuffled = textures.reshape(len(textures), -1, 3)[:, order]
    return shuffled.reshape(textures.shape)


def make_rivals(textures: np.ndarray, random: np.random.Generator) -> Pictures:
    """Two that need no network: the same colors, and the same power spectrum."""
    return {
        "pixels shuffled": shuffle_pixels(textures, random),
        "random phase": np.stack([random_phase(each, random) for each in textures]),
    }


def layer_name(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


ALL_LAYERS = layer_name(len(KERNELS))


def distances_to(textures: np.ndarray, shown: Pictures) -> dict[str, float]:
    """Of filter responses, means over the textures."""
    found = {}
    for name, pictures in shown.items():
        pairs = zip(pictures, textures, strict=True)
        found[name] = np.mean([painting.texture_distance(*pair) for pair in pairs])
    return found


def judge_layers(distance: dict[str, float], run: Run) -> None:
    by_layers = {}
    for count in range(1, len(KERNELS) + 1):
        by_layers[layer_name(count)] = distance[layer_name(count)]
    one, *more = by_layers.values()
    listed = ", ".join(f"{value:.3f} by {name}" for name, value in by_layers.items())
    run.metric("texture_distance", distance[ALL_LAYERS])
    run.metric("texture_distance_with_one_layer", one)
    run.metric("texture_distance_of_random_phase", distance["random phase"])
    run.claim(
        "Gram matrices of several layers come nearer to the texture than those of one",
        holds=np.mean(more) < 0.95 * one,
        measured=f"distance of filter responses {listed}",
    )
    run.claim(
        "Colors alone do not make a texture: Gram matrices hold more",
        holds=distance[ALL_LAYERS] < 0.8 * distance["pixels shuffled"],
        measured=f"distance of filter responses {distance[ALL_LAYERS]:.3f} by Gram "
        f"matrices, {distance['pixels shuffled']:.3f} with the pixels shuffled",
    )


def judge_edges(textures, shown: Pictures, distance: dict[str, float], run: Run):
    peaks = {}
    for name, pictures in {**shown, "texture": textures}.items():
        peaks[name] = np.mean([peakedness(each) for each in pictures])
    run.claim(
        "Edges are not in the power spectrum: random phases lose them, though they come "
        "near by other statistics; Gram matrices keep some",
        holds=peaks[ALL_LAYERS] > peaks["random phase"] + 0.6
        and distance["random phase"] < 0.8 * distance["pixels shuffled"],
        measured=f"excess kurtosis of the slopes of brightness {peaks['texture']:.1f} in "
        f"the textures, {peaks[ALL_LAYERS]:.1f} by Gram matrices, "
        f"{peaks['random phase']:.1f} by random phases, whose distance of filter "
        f"responses is {distance['random phase']:.3f}, by Gram matrices "
        f"{distance[ALL_LAYERS]:.3f}",
    )


def judge_places(network: keras.Model, textures: np.ndarray, random, run: Run) -> None:
    """Moved by half their sides, textures have everything in another place; what is new
    are two seams."""
    half = textures.shape[1] // 2
    changed = {
        "moved": np.roll(textures, (half, half), axis=(1, 2)),
        "shuffled": shuffle_pixels(textures, random),
    }
    wanted = [gram_matrix(maps) for maps in network(textures)]
    apart = {}
    of_pixels = {}
    for name, pictures in changed.items():
        grams = [gram_matrix(maps) for maps in network(pictures)]
        apart[name] = np.mean(distances(grams, wanted))
        of_pixels[name] = np.mean((pictures - textures) ** 2)
    ratio = of_pixels["moved"] / of_pixels["shuffled"]
    run.claim(
        "A Gram matrix does not know where: it changes far less if a texture is moved by "
        "half its side than if its pixels are shuffled, though the pixels change as much",
        holds=apart["moved"] < 0.5 * apart["shuffled"] and ratio > 0.6,
        measured=f"distance of the Gram matrices {apart['moved']:.3f} moved, "
        f"{apart['shuffled']:.3f} shuffled; squared change of the pixels {ratio:.2f} "
        f"times as much",
    )


def judge_copies(painted, textures, names: list[str], run: Run) -> None:
    copies = []
    for picture, texture in zip(painted, textures, strict=True):
        copies.append(highest_correlation(picture, texture))
    listed = [f"{copy:.2f} ({name})" for name, copy in zip(names, copies, strict=True)]
    run.metric("highest_correlation_with_the_texture", max(copies))
    run.claim(
        "The picture is a new one, not a copy: no shift brings it to cover the texture",
        holds=max(copies) < 0.7,
        measured=f"correlation of brightness at the best shift {', '.join(listed)}; 1 "
        f"for a copy",
    )


def draw_whole(textures, painted, names: list[str]) -> Figure:
    return figures.picture_table(
        {"texture": textures, "painted": painted},
        title=f"Painted from the Gram matrices of {ALL_LAYERS} of random filters",
        captions=names,
    )


def draw_layers(textures, shown: Pictures, names: list[str]) -> Figure:
    columns = {"texture": textures, **shown}
    rows = {}
    for number, name in enumerate(names):
        rows[name] = [pictures[number] for pictures in columns.values()]
    return figures.picture_table(
        rows, title="What each statistic keeps", captions=list(columns), width=14
    )


def as_service(network: keras.Model, shape) -> keras.Model:
    """Describes textures of this shape."""
    picture = keras.Input(shape, name="picture")
    outputs = {}
    for number, maps in enumerate(network(picture), start=1):
        outputs[f"gram_{number}"] = gram_matrix(maps)
    return keras.Model(picture, outputs, name="texture_descriptor")


def main(config: Config, run: Run) -> None:
    sizes = sizes_of(config)
    run.plan(1 if config.model else len(sizes))
    random = np.random.default_rng(run.seed)
    if config.model:
        paint_with(config, random, run)
        return

    names = names_of(config)
    textures = load_textures(names, SMALLEST)
    whole = load_textures(names, sizes[-1])
    network = build_network(config.filters)
    by_layers = paint_by_layers(network, textures, config, random, run)
    painted = enlarge(network, by_layers[:, -1], sizes[1:], config, run)

    shown = make_rivals(textures, random)
    for number in range(len(KERNELS)):
        shown[layer_name(number + 1)] = cut(by_layers[:, number])
    distance = distances_to(textures, shown)
    judge_layers(distance, run)
    judge_edges(textures, shown, distance, run)
    judge_places(network, whole, random, run)
    judge_copies(painted, whole, names, run)

    run.figure("whole", draw_whole(whole, painted, names))
    run.figure("layers", draw_layers(textures, shown, names))
    run.export(as_service(network, whole.shape[1:]), example=whole[:2])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
