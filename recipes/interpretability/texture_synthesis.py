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

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
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

KERNELS = 5, 3, 3, 3
SMALLEST = 64  # the last layer's pixels see 40
# pixels around a picture that less windows cover than the others: cut off at the end
MARGIN = 8


def build_network(filters: int) -> keras.Model:
    """Random filters. Input: (batch, height, width, 3). Outputs: the maps of each
    layer. Pixels of the four see 5, 10, 20 and 40 of the picture's."""
    picture = x = keras.Input((None, None, 3), name="picture")
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
        kernel.assign(
            values / ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True))
        )
    return network


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the
    places."""
    _, height, width, _ = maps.shape
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / (height * width)


def distances(grams, targets):
    """‖G − Ĝ‖² / ‖Ĝ‖² of each picture and layer, (batch, layers); 0 where a layer is
    blind to the target."""
    by_layer = [
        ops.divide_no_nan(
            ops.sum((gram - target) ** 2, axis=(1, 2)), ops.sum(target**2, axis=(1, 2))
        )
        for gram, target in zip(grams, targets, strict=True)
    ]
    return ops.stack(by_layer, axis=1)


def energy_by(network: keras.Model, textures: np.ndarray, weights: np.ndarray):
    """The function from pictures (n, height, width, 3) to E (n,): how far they are from
    textures (n, height, width, 3) in the layers with a weight above 0 in weights (n,
    layers)."""
    targets = [gram_matrix(maps) for maps in network(textures)]

    def energy(pictures):
        grams = [gram_matrix(maps) for maps in network(pictures)]
        beyond = pictures - ops.clip(pictures, 0, 1)  # what no screen can show
        texture = ops.sum(weights * distances(grams, targets), axis=1)
        return texture + 10 * ops.mean(beyond**2, axis=(1, 2, 3))

    return energy


def random_phase(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Noise with the picture's power spectrum (Galerne et al., Random phase textures,
    2011)."""
    turned = np.angle(np.fft.rfft2(random.normal(size=picture.shape[:2])))[..., None]
    mean = picture.mean(axis=(0, 1))
    spectrum = np.fft.rfft2(picture - mean, axes=(0, 1)) * np.exp(1j * turned)
    noise = mean + np.fft.irfft2(spectrum, picture.shape[:2], axes=(0, 1))
    return np.clip(noise, 0, 1).astype("float32")


def highest_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the two pictures' brightness, over all shifts of one against the other: 1 for
    a copy."""
    a, b = (each.mean(axis=-1) - each.mean() for each in (a, b))
    products = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(b)), a.shape)
    return float(products.max() / (a.size * a.std() * b.std()))


def peakedness(picture: np.ndarray) -> float:
    """Excess kurtosis of the differences of neighbors' brightness: 0 for Gaussian
    noise, high where there are few, strong edges on even ground."""
    gray = picture.mean(axis=-1)
    return float(
        np.mean([kurtosis(np.diff(gray, axis=axis), axis=None) for axis in (0, 1)])
    )


def main(config: Config, run: Run) -> None:
    sizes = [SMALLEST]
    while 2 * sizes[-1] <= config.size:
        sizes.append(2 * sizes[-1])
    run.plan(1 if config.model else len(sizes))
    names = [name.strip() for name in config.textures.split(",")]
    random = np.random.default_rng(run.seed)

    def textures(size):
        return np.stack([data.load_picture(name, size) for name in names])

    def synthesize(title, network, targets, weights, start, steps, margin=MARGIN):
        """Pictures like targets, from smaller ones, or where start is None from
        noise."""
        shape = len(targets), *(side + 2 * margin for side in targets.shape[1:3]), 3
        if start is None:
            start = targets.mean(axis=(1, 2), keepdims=True) + 0.02 * random.normal(
                size=shape
            )
        start = tf.image.resize(start, shape[1:3], "bicubic")
        solver = LBFGS(energy_by(network, targets, weights), start)
        calls = -(-steps // solver.steps_per_call)
        show = lambda: {"energy": float(np.mean(solver.value))}  # noqa: E731
        unit = f"times {solver.steps_per_call} steps"
        solver.minimize(
            run.loop(title, calls, {"solver": solver.state}, unit=unit, show=show)
        )
        return np.clip(solver.x, 0, 1)

    def cut(pictures):
        return pictures[:, MARGIN:-MARGIN, MARGIN:-MARGIN]

    if config.model:
        network = classifiers.from_flags(config, run).convolutions
        targets = textures(network.input.shape[1])
        weights = np.ones((len(names), len(network.outputs)), "float32")
        painted = synthesize(
            config.model, network, targets, weights, None, 2 * config.steps, margin=0
        )
        for name, picture, target in zip(names, painted, targets, strict=True):
            run.metric(
                f"texture_distance {name}", painting.texture_distance(picture, target)
            )
        rows = {"texture": targets, "painted": painted}
        title = f"Painted from the Gram matrices of {config.model}"
        run.figure("textures", figures.picture_table(rows, title=title, captions=names))
        return

    network = build_network(config.filters)
    depths = len(KERNELS)
    # The first row of each texture uses one layer, the last all of them.
    weights = np.tile(np.tri(depths, dtype="float32"), (len(names), 1))
    targets = np.repeat(textures(SMALLEST), depths, axis=0)
    painted = synthesize(
        f"{SMALLEST} pixels", network, targets, weights, None, config.steps
    )
    targets = targets[::depths]
    by_depth = cut(painted).reshape(len(names), depths, *targets.shape[1:])

    whole, last = targets, painted[depths - 1 :: depths]
    all_weights = weights[depths - 1 :: depths]
    for size in sizes[1:]:
        whole = textures(size)
        settings = all_weights, last, config.last_steps
        last = synthesize(f"{size} pixels", network, whole, *settings)
    last = cut(last)

    order = random.permutation(targets[0, ..., 0].size)
    rivals = {
        "pixels shuffled": targets.reshape(len(names), -1, 3)[:, order].reshape(
            targets.shape
        ),
        "random phase": np.stack([random_phase(each, random) for each in targets]),
    }
    rivals |= {f"{n + 1} layer{'s' * (n > 0)}": by_depth[:, n] for n in range(depths)}
    found = {
        name: np.array(
            [
                painting.texture_distance(*pair)
                for pair in zip(each, targets, strict=True)
            ]
        )
        for name, each in rivals.items()
    }
    one, all_layers = found["1 layer"].mean(), found[f"{depths} layers"].mean()
    several = np.mean([found[f"{n} layers"].mean() for n in range(2, depths + 1)])
    phase, shuffle = found["random phase"].mean(), found["pixels shuffled"].mean()
    run.metric("texture_distance", all_layers)
    run.metric("texture_distance_with_one_layer", one)
    run.metric("texture_distance_of_random_phase", phase)
    run.claim(
        "Gram matrices of several layers come nearer to the texture than those of one",
        holds=several < 0.95 * one,
        measured="distance of filter responses "
        + ", ".join(f"{found[name].mean():.3f} by {name}" for name in list(rivals)[2:]),
    )
    run.claim(
        "Colors alone do not make a texture: Gram matrices hold more",
        holds=all_layers < 0.8 * shuffle,
        measured=f"distance of filter responses {all_layers:.3f} by Gram matrices, {shuffle:.3f} "
        f"with the pixels shuffled",
    )
    peaks = {
        name: np.mean([peakedness(each) for each in shown])
        for name, shown in (rivals | {"texture": targets}).items()
    }
    run.claim(
        "Edges are not in the power spectrum: random phases lose them, Gram matrices keep them",
        holds=peaks[f"{depths} layers"] > peaks["random phase"] + 0.6,
        measured=f"excess kurtosis of the slopes of brightness {peaks['texture']:.1f} in the "
        f"textures, {peaks[f'{depths} layers']:.1f} by Gram matrices, "
        f"{peaks['random phase']:.1f} by random phases (whose distance of filter responses is "
        f"{phase:.3f})",
    )

    maps = network(targets[:1])[0]
    places = random.permutation(maps.shape[1] * maps.shape[2])
    moved = ops.reshape(
        ops.take(ops.reshape(maps, (1, -1, maps.shape[-1])), places, 1), maps.shape
    )
    same = float(distances([gram_matrix(moved)], [gram_matrix(maps)])[0, 0])
    change = float(ops.sum((moved - maps) ** 2) / ops.sum(maps**2))
    run.claim(
        "A Gram matrix does not know where: with all places of a map exchanged it is the same",
        holds=same < 1e-8 < 0.01 < change,
        measured=f"the map changes by {change:.2f} of its square, its Gram matrix by {same:.0e}",
    )
    copies = [highest_correlation(*pair) for pair in zip(last, whole, strict=True)]
    run.metric("highest_correlation_with_the_texture", max(copies))
    run.claim(
        "The picture is a new one, not a copy: no shift brings it to cover the texture",
        holds=max(copies) < 0.7,
        measured="correlation of brightness at the best shift "
        + ", ".join(
            f"{copy:.2f} ({name})" for name, copy in zip(names, copies, strict=True)
        ),
    )

    title = f"Painted from the Gram matrices of {depths} layers of random filters"
    rows = {"texture": whole, "painted": last}
    run.figure("whole", figures.picture_table(rows, title=title, captions=names))
    columns = {"texture": targets} | rivals
    rows = {
        name: [column[n] for column in columns.values()] for n, name in enumerate(names)
    }
    title = "What each statistic keeps"
    run.figure(
        "layers",
        figures.picture_table(rows, title=title, captions=list(columns), width=14),
    )

    # A service that describes textures.
    picture = keras.Input(whole.shape[1:], name="picture")
    outputs = {
        f"gram_{n}": gram_matrix(maps)
        for n, maps in enumerate(network(picture), start=1)
    }
    run.export(
        keras.Model(picture, outputs, name="texture_descriptor"), example=whole[:2]
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
