"""Style transfer: the content of one picture in the texture of another.

Feature inversion and texture synthesis at once. The content is in the maps of a deeper
layer, each feature at its place, E_content = ‖F − F̂‖² / ‖F̂ − mean‖²; the style is in
the Gram matrices of all layers, E_style = mean of ‖G − Ĝ‖² / ‖Ĝ‖². A picture is changed
until E_content + w · E_style is small. Speckles are the cheapest way to a Gram matrix:
a little total variation forbids them. First the picture is small, and the layers see
wide strokes in it; then larger ones start from that. The content's colors are moved to
the style's beforehand, so that the two do not fight over them.
Look at the curve of what one term costs the other as their weight changes, and at what
the filters have to do with it: random ones, which need no training, take on the texture
and break up the shapes; those of a network that learned on ImageNet, here
EfficientNet-Lite0, keep more of the shapes. The papers' pictures are VGG's (--model
VGG19, where Keras can download it).

Lectures: CS Visualizing & Understanding (Neural Style Transfer); N18 4.3
Paper: Gatys et al., Image style transfer using convolutional neural networks, 2016
    (equations 1, 4, 5 and 7); Gatys et al., Controlling perceptual factors in neural
    style transfer, 2017 (colours, coarse to fine); Johnson et al., Perceptual losses
    for real-time style transfer and super-resolution, 2016 (total variation)
Tags: neural style, imagenet, image stylization, gram matrix, artistic, perceptual loss
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.stats import gmean
from skimage.feature import hog

from deep_learning_recipes import UsageError, classifiers, data, figures, painting
from deep_learning_recipes.lbfgs import LBFGS
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    content: str = "cat"
    """a photograph's name (cat, temple, astronaut, coffee, flower, ...) or a picture
    file"""
    styles: str = "painting, flower, brick"
    """with commas between: painting, brick, grass, gravel, a photograph's name, or
    picture files"""
    style_weight: float = 60.0
    """of the style's energy against the content's"""
    smoothness: float = 3.0
    """weight of the total variation: neighbors' mean difference in brightness, 0 to
    1"""
    size: int = 256
    """side of the last pictures in pixels; weights and starts are compared at half of
    it"""
    filters: int = 48
    """in each layer"""
    steps: int = 80
    """of L-BFGS on pictures of a quarter and of half the size"""
    last_steps: int = 60
    """on those of the whole size"""
    model: str = ""
    """a network in place of random filters: EfficientNetLite0, which needs no download;
    one of keras.applications, such as VGG19, whose pictures are the papers'; or a
    .keras file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""


QUICK = Config(styles="painting, brick", size=160, filters=16, steps=20, last_steps=10)
FULL = Config(size=512, filters=128, steps=300, last_steps=200)

IMAGENET = "EfficientNetLite0"
# As many maps of ImageNet's network, at a half to an eighth of the resolution.
IMAGENET_LAYERS = (
    "stem_activation",
    "block2a_expand_activation",
    "block3a_expand_activation",
    "block4a_expand_activation",
)
KERNELS = (5, 3, 3, 3)
CONTENT_LAYER = 2  # the third
# The first style's paintings with less and more of its weight, and without smoothing.
LIGHT = "a tenth of the weight"
HEAVY = "ten times the weight"
ROUGH = "no total variation"
# Pixels around a picture that fewer windows cover than the others: cut off at the end.
MARGIN = 8


# --------------------------------------------------------------------------------------
# The idea: the content's maps at their places, the style's Gram matrices
# --------------------------------------------------------------------------------------


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
    for weight in network.weights:
        if weight.name != "kernel":
            continue
        # Without a mean they answer to contrast, not to brightness, which would drown
        # all else.
        values = keras.random.normal(weight.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        lengths = ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True))
        weight.assign(values / lengths)
    return network


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the
    places."""
    _, height, width, _ = maps.shape
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / (height * width)


def relative(values, targets):
    """‖values − targets‖² / ‖targets‖² of each picture, (batch,); 0 where the targets
    are."""
    axes = tuple(range(1, len(values.shape)))
    apart = ops.sum((values - targets) ** 2, axis=axes)
    return ops.divide_no_nan(apart, ops.sum(targets**2, axis=axes))


def energies_by(network: keras.Model, contents: np.ndarray, styles: np.ndarray):
    """The function from pictures like contents (n, height, width, 3) to E_content and
    E_style, each (n,). styles: (n, any height, any width, 3)."""
    layer = min(CONTENT_LAYER, len(network.outputs) - 1)
    content_maps = network(contents)[layer]
    mean = ops.mean(content_maps, axis=(1, 2), keepdims=True)
    grams = [gram_matrix(maps) for maps in network(styles)]

    def energies(pictures):
        all_maps = network(pictures)
        pairs = zip(all_maps, grams, strict=True)
        style = [relative(gram_matrix(maps), gram) for maps, gram in pairs]
        content = relative(all_maps[layer] - mean, content_maps - mean)
        return content, ops.mean(ops.stack(style), axis=0)

    return energies


def build_energy(energies, weights, smoothness):
    """E_content + w · E_style + v · total variation of pictures (n, height, width, 3),
    (n,). energies: of `energies_by`. weights, smoothness: (n,)."""

    def energy(painted):
        content, style = energies(painted)
        pixels = painted[0].shape.num_elements()
        variation = tf.image.total_variation(painted) / pixels
        beyond = ops.mean((painted - ops.clip(painted, 0, 1)) ** 2, axis=(1, 2, 3))
        return content + weights * (style + 10 * beyond) + smoothness * variation

    return energy


def maps_of(model: keras.Model, names) -> keras.Model:
    """The maps of some layers, of pictures of any size."""
    outputs = [model.get_layer(name).output for name in names]
    part = keras.Model(model.inputs[0], outputs)
    pictures = keras.Input((None, None, 3), name="picture")
    free = keras.models.clone_model(part, input_tensors=pictures)
    free.set_weights(part.get_weights())
    return free


# --------------------------------------------------------------------------------------
# The experiment: weights, scales, smoothness, and two networks
# --------------------------------------------------------------------------------------


def edge_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the strength of the edges, wider than a hundredth of the picture, at each
    pixel."""
    edges = [
        gaussian_gradient_magnitude(each.mean(axis=-1), len(each) / 64)
        for each in (a, b)
    ]
    return float(np.corrcoef(edges[0].ravel(), edges[1].ravel())[0, 1])


def shape_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the histograms of oriented gradients of two pictures, in cells of 8 pixels:
    which way edges run, however strong they are."""
    cells = [hog(each.mean(axis=-1), pixels_per_cell=(8, 8)) for each in (a, b)]
    return float(np.corrcoef(*cells)[0, 1])


def mean_of_pairs(measure: Callable, pictures: np.ndarray, others: np.ndarray) -> float:
    """The mean of a measure of two pictures over pairs."""
    pairs = zip(pictures, others, strict=True)
    return float(np.mean([measure(picture, other) for picture, other in pairs]))


@dataclass
class Order:
    """A picture to be painted."""

    style: str
    style_weight: float
    smoothness: float


def order_styles(config: Config) -> dict[str, Order]:
    """A picture for each style, by its name."""
    names = [name.strip() for name in config.styles.split(",")]
    return {name: Order(name, config.style_weight, config.smoothness) for name in names}


def vary(order: Order) -> dict[str, Order]:
    """The same with a tenth of the style's weight, with ten times as much, and without
    total variation."""
    return {
        LIGHT: replace(order, style_weight=order.style_weight / 10),
        HEAVY: replace(order, style_weight=order.style_weight * 10),
        ROUGH: replace(order, smoothness=0.0),
    }


def energy_of_orders(energies: Callable, orders: dict[str, Order]) -> Callable:
    """What is to be small, for all of them at once. energies: of `energies_by`."""
    weights = [order.style_weight for order in orders.values()]
    smoothness = [order.smoothness for order in orders.values()]
    return build_energy(
        energies, np.array(weights, "float32"), np.array(smoothness, "float32")
    )


@dataclass
class Painted:
    """What came of some orders, by their names."""

    orders: dict[str, Order]
    contents: np.ndarray
    """(n, size, size, 3) in [0, 1], in their style's colors"""
    styles: np.ndarray
    """(n, size, size, 3) in [0, 1]"""
    padded: np.ndarray
    """the paintings with a margin around them"""
    content_energies: np.ndarray
    """(n,)"""
    style_energies: np.ndarray
    """(n,)"""
    style_energies_before: np.ndarray
    """(n,): of the contents"""

    @property
    def pictures(self) -> np.ndarray:
        return self.padded[:, MARGIN:-MARGIN, MARGIN:-MARGIN]

    def picture(self, name: str) -> np.ndarray:
        return self.pictures[self.number(name)]

    def number(self, name: str) -> int:
        return list(self.orders).index(name)


def first_of(painted: Painted, count: int) -> Painted:
    """The first few alone."""
    return Painted(
        dict(list(painted.orders.items())[:count]),
        painted.contents[:count],
        painted.styles[:count],
        painted.padded[:count],
        painted.content_energies[:count],
        painted.style_energies[:count],
        painted.style_energies_before[:count],
    )


def load_pictures(
    config: Config, size: int, orders: dict[str, Order]
) -> tuple[np.ndarray, np.ndarray]:
    """Contents, moved to their styles' colors, and the styles, (n, size, size, 3)."""
    plain = data.load_picture(config.content, size)
    styles = [data.load_picture(order.style, size) for order in orders.values()]
    contents = [painting.Recolor.like(style)(plain[None])[0] for style in styles]
    return np.stack(contents), np.stack(styles)


def transfer(
    run: Run, title: str, energy: Callable, start: np.ndarray, steps: int
) -> np.ndarray:
    """Pictures (n, height, width, 3) that were changed until their energy, (n,), is
    small."""
    solver = LBFGS(energy, start, steps_per_call=5)
    progress = run.loop(
        title,
        math.ceil(steps / solver.steps_per_call),
        {"solver": solver.state},
        unit=f"times {solver.steps_per_call} steps",
        show=lambda: {"energy": float(np.mean(solver.value))},
    )
    solver.minimize(progress)
    return np.clip(solver.x, 0, 1)


def paint(
    config: Config,
    run: Run,
    network: keras.Model,
    orders: dict[str, Order],
    size: int,
    steps: int,
    title: str,
    start: np.ndarray | None = None,
) -> Painted:
    """start: paintings of any size to go on from; the contents by default."""
    contents, styles = load_pictures(config, size, orders)
    margins = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    padded = np.pad(contents, margins, "reflect")
    energies = energies_by(network, padded, styles)
    energy = energy_of_orders(energies, orders)
    start = padded if start is None else start
    start = tf.image.resize(start, padded.shape[1:3], "bicubic")
    painted = transfer(run, title, energy, start, steps)

    content, style = energies(painted)
    _, style_before = energies(padded)
    return Painted(
        orders,
        contents,
        styles,
        painted,
        content_energies=np.asarray(content),
        style_energies=np.asarray(style),
        style_energies_before=np.asarray(style_before),
    )


def paint_coarse_to_fine(
    config: Config, run: Run, network: keras.Model, orders: dict[str, Order], name: str
) -> Painted:
    """Pictures of a quarter of the size, then of half of it."""
    small = config.size // 4
    half = config.size // 2
    begun = paint(
        config, run, network, orders, small, config.steps, f"{name}, {small} pixels"
    )
    return paint(
        config,
        run,
        network,
        orders,
        half,
        config.steps,
        f"{name}, {half} pixels",
        start=begun.padded,
    )


def paint_by_own(config: Config, run: Run) -> None:
    """By a network of the user's, whose claims are not ours."""
    network = classifiers.from_flags(config, run).convolutions
    orders = order_styles(config)
    size = network.input.shape[1]
    contents, styles = load_pictures(config, size, orders)
    energies = energies_by(network, contents, styles)
    energy = energy_of_orders(energies, orders)
    painted = transfer(run, config.model, energy, contents, 2 * config.steps)

    content, style = energies(painted)
    run.metric("content_energy", np.mean(content))
    run.metric("style_energy", np.mean(style))
    table = {"style": styles, "content": contents, "painted": painted}
    drawn = figures.picture_table(table, title=config.model, captions=list(orders))
    run.figure("pictures", drawn)


def judge_style(run: Run, painted: Painted) -> None:
    """painted: one picture of each style."""
    left = painted.style_energies / painted.style_energies_before
    distance = painting.texture_distance
    of_contents = mean_of_pairs(distance, painted.contents, painted.styles)
    of_paintings = mean_of_pairs(distance, painted.pictures, painted.styles)
    # Each painting beside the style that another one took on.
    others = np.roll(painted.styles, 1, axis=0)
    of_others = mean_of_pairs(distance, painted.pictures, others)
    run.metric("texture_distance_to_style", of_paintings)
    run.metric("texture_distance_to_another_style", of_others)
    run.claim(
        "The picture takes on the style: by a statistic that no network has a part in it "
        "is nearer to it than the content, and than what was painted in another style",
        holds=max(left) < 0.5 and of_paintings < 0.8 * min(of_contents, of_others),
        measured=f"style energy down to {max(left):.1%} of the content's or less; "
        f"distance of local patterns to the style {of_paintings:.3f}, of the content "
        f"{of_contents:.3f}, of another painting {of_others:.3f}",
    )


def judge_content(run: Run, painted: Painted) -> None:
    """painted: one picture of each style."""
    kept = [
        edge_correlation(picture, content)
        for picture, content in zip(painted.pictures, painted.contents, strict=True)
    ]
    mirrored = painted.contents[0, :, ::-1]
    by_chance = edge_correlation(painted.pictures[0], mirrored)
    run.metric("edge_correlation_with_content", np.mean(kept))
    by_style = ", ".join(
        f"{value:.2f} ({name})"
        for name, value in zip(painted.orders, kept, strict=True)
    )
    run.claim(
        "The content stays: edges are where they were",
        holds=min(kept) > by_chance + 0.2,
        measured=f"correlation of edges with the content's {by_style}; {by_chance:.2f} "
        "with the content mirrored",
    )


def judge_trade_off(run: Run, painted: Painted) -> None:
    """A tenth of the style's weight, the weight, and ten times as much."""
    names = [LIGHT, next(iter(painted.orders)), HEAVY]
    numbers = [painted.number(name) for name in names]
    content = painted.content_energies[numbers]
    style = painted.style_energies[numbers]
    weights = [painted.orders[name].style_weight for name in names]
    measured = [
        f"{costs:.3f} and {left:.4f} (w = {weight:g})"
        for costs, left, weight in zip(content, style, weights, strict=True)
    ]
    run.claim(
        "Content and style pull against each other: a heavier style costs content",
        holds=np.all(np.diff(content) > 0) and np.all(np.diff(style) < 0),
        measured=f"energies of content and style {', '.join(measured)}",
    )
    captions = [*(f"w = {weight:g}" for weight in weights), "no total variation"]
    pictures = [painted.picture(name) for name in (*names, ROUGH)]
    run.figure("trade_off", plot_trade_off(pictures, content, style, captions))


def plot_trade_off(pictures, content, style, captions) -> plt.Figure:
    """The two energies as their weight changes, and the pictures, of which there may be
    more."""
    figure, grid = plt.subplots(
        1, len(pictures) + 1, figsize=(3 * len(pictures) + 3.6, 3.6)
    )
    grid[0].plot(content, style, "o-")
    labels = {"xlabel": "content energy", "ylabel": "style energy"}
    grid[0].set(title="What one costs the other", yscale="log", **labels)
    for axes, picture, caption in zip(grid[1:], pictures, captions, strict=True):
        axes.imshow(picture)
        axes.set(title=caption, xticks=[], yticks=[])
    return figure


def roughness(picture: np.ndarray) -> float:
    """How much neighbors differ in brightness, in [0, 2]."""
    down = np.abs(np.diff(picture, axis=0)).mean()
    across = np.abs(np.diff(picture, axis=1)).mean()
    return float(down + across)


def judge_speckles(run: Run, painted: Painted) -> None:
    first = next(iter(painted.orders))
    rough = roughness(painted.picture(ROUGH))
    smooth = roughness(painted.picture(first))
    of_style = roughness(painted.styles[painted.number(first)])
    of_content = roughness(painted.contents[painted.number(first)])
    run.claim(
        "The Gram matrices of a style do not forbid speckles that it has not; total "
        "variation does",
        holds=rough > 1.1 * max(of_style, of_content) and smooth < 0.9 * rough,
        measured=f"neighbors differ by {rough:.3f} without it, {smooth:.3f} with it, "
        f"{of_style:.3f} in the style, {of_content:.3f} in the content",
    )


def judge_scales(
    config: Config,
    run: Run,
    network: keras.Model,
    by_three_scales: Painted,
    by_one: Painted,
) -> None:
    """By what the layers see of the pictures at a quarter of their size: wide
    strokes."""
    small = config.size // 4
    contents, styles = load_pictures(config, small, by_one.orders)
    energies = energies_by(network, contents, styles)

    def wide_strokes(painted: Painted) -> np.ndarray:
        _, style = energies(tf.image.resize(painted.pictures, (small, small), "area"))
        return np.asarray(style)

    several = wide_strokes(by_three_scales)
    one = wide_strokes(by_one)
    measured = [
        f"{first:.2f} and {second:.2f} ({name})"
        for name, first, second in zip(by_one.orders, several, one, strict=True)
    ]
    run.claim(
        "Several scales carry over wider strokes than as much work on the whole picture",
        holds=gmean(several / one) < 0.9,
        measured="style energy of the pictures shrunk to a quarter by three scales and "
        f"by one: {', '.join(measured)}",
    )


def compare_networks(run: Run, by_random: Painted, by_trained: Painted) -> None:
    """What either network's pictures keep of the content and take of the style, by
    measures that no network has a part in."""
    shapes = {}
    textures = {}
    for name, painted in (("random", by_random), ("imagenet", by_trained)):
        shapes[name] = mean_of_pairs(
            shape_correlation, painted.pictures, painted.contents
        )
        textures[name] = mean_of_pairs(
            painting.texture_distance, painted.pictures, painted.styles
        )
    run.metrics("shape_correlation_by_filters", shapes)
    run.metrics("texture_distance_by_filters", textures)
    run.claim(
        "Filters that learned on ImageNet keep more of the content's shapes than random "
        "ones",
        holds=shapes["imagenet"] > shapes["random"] + 0.04,
        measured=f"correlation of shapes with the content {shapes['imagenet']:.2f}, by "
        f"random filters {shapes['random']:.2f}; distance of textures to the style "
        f"{textures['imagenet']:.2f}, by random filters {textures['random']:.2f}",
    )
    table = {
        "style": by_random.styles,
        "random filters": by_random.pictures,
        "ImageNet's": by_trained.pictures,
    }
    title = "By random filters, and by those of EfficientNet-Lite0"
    captions = list(by_random.orders)
    run.figure("networks", figures.picture_table(table, title=title, captions=captions))


def draw_pictures(run: Run, painted: Painted) -> None:
    table = {
        "style": painted.styles,
        "recolored": painted.contents,
        "painted": painted.pictures,
    }
    title = "A content in the texture of others"
    captions = list(painted.orders)
    run.figure("pictures", figures.picture_table(table, title=title, captions=captions))


def export_scorer(
    config: Config, run: Run, network: keras.Model, painted: Painted
) -> None:
    """A service that measures how near a picture is to the first content and style."""
    picture = keras.Input((config.size, config.size, 3), name="picture")
    energies = energies_by(network, painted.contents[:1], painted.styles[:1])
    content, style = energies(picture)
    outputs = {"content": content, "style": style}
    scorer = keras.Model(picture, outputs, name="style_scorer")
    run.export(scorer, example=painted.contents)


def main(config: Config, run: Run) -> None:
    # Three sizes, one scale, and two sizes by ImageNet's network.
    run.plan(1 if config.model else 6)
    if config.model:
        paint_by_own(config, run)
        return
    if config.size < 160:
        raise UsageError(
            f"--size {config.size}: at least 160, as the last layer sees a quarter"
        )
    styles = order_styles(config)
    orders = {**styles, **vary(next(iter(styles.values())))}

    network = build_network(config.filters)
    half = paint_coarse_to_fine(config, run, network, orders, "random filters")
    trained = maps_of(classifiers.load(IMAGENET).model, IMAGENET_LAYERS)
    by_trained = paint_coarse_to_fine(config, run, trained, styles, IMAGENET)
    steps = config.last_steps
    title = f"{config.size} pixels"
    whole = paint(
        config,
        run,
        network,
        styles,
        config.size,
        steps,
        title,
        half.padded[: len(styles)],
    )
    # The steps on the smaller pictures exchanged for as much work on the whole ones.
    steps += config.steps * 5 // 16
    one_scale = paint(config, run, network, styles, config.size, steps, "one scale")

    by_random = first_of(half, len(styles))
    compare_networks(run, by_random, by_trained)
    judge_style(run, by_random)
    judge_content(run, by_random)
    judge_trade_off(run, half)
    judge_speckles(run, half)
    judge_scales(config, run, network, whole, one_scale)
    draw_pictures(run, whole)
    export_scorer(config, run, network, whole)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
