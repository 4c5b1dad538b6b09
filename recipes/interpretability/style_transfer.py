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
EfficientNet-Lite0, keep shapes and take on less. The papers' pictures are VGG's
(--model VGG19, where Keras can download it).

Lectures: CS Visualizing & Understanding (Neural Style Transfer); N18 4.3
Paper: Gatys et al., Image style transfer using convolutional neural networks, 2016
    (equations 1, 4, 5 and 7); Gatys et al., Controlling perceptual factors in neural
    style transfer, 2017 (colours, coarse to fine); Johnson et al., Perceptual losses
    for real-time style transfer and super-resolution, 2016 (total variation)
Tags: neural style, imagenet, image stylization, gram matrix, artistic, perceptual loss
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_gradient_magnitude
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
KERNELS = 5, 3, 3, 3
CONTENT_LAYER = 2  # the third
# pixels around a picture that less windows cover than the others: cut off at the end
MARGIN = 8
INNER = np.s_[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
PADDING = (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)


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


def shape_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the histograms of oriented gradients of two pictures, in cells of 8 pixels:
    which way edges run, however strong they are."""
    cells = [hog(each.mean(axis=-1), pixels_per_cell=(8, 8)) for each in (a, b)]
    return float(np.corrcoef(*cells)[0, 1])


def compare_networks(run: Run, by_random, by_trained, contents, styles, names) -> None:
    """What either network's pictures keep of the content and take of the style, by
    measures that no network has a part in. All pictures: (n, size, size, 3)."""
    painted = {"random": by_random, "imagenet": by_trained}
    shapes = {}
    textures = {}
    for name, pictures in painted.items():
        shapes[name] = np.mean(
            [shape_correlation(*pair) for pair in zip(pictures, contents, strict=True)]
        )
        textures[name] = np.mean(
            [
                painting.texture_distance(*pair)
                for pair in zip(pictures, styles, strict=True)
            ]
        )
    run.metrics("shape_correlation_by_filters", shapes)
    run.metrics("texture_distance_by_filters", textures)
    run.claim(
        "Filters that learned on ImageNet keep more of the content's shapes than random "
        "ones; of the style's texture they do not take on much more",
        holds=shapes["imagenet"] > shapes["random"] + 0.04
        and textures["imagenet"] > 0.8 * textures["random"],
        measured=f"correlation of shapes with the content {shapes['imagenet']:.2f}, by "
        f"random filters {shapes['random']:.2f}; distance of textures to the style "
        f"{textures['imagenet']:.2f}, by random filters {textures['random']:.2f}",
    )
    table = {
        "style": styles,
        "random filters": by_random,
        "ImageNet's": by_trained,
    }
    title = "By random filters, and by those of EfficientNet-Lite0"
    run.figure("networks", figures.picture_table(table, title=title, captions=names))


def main(config: Config, run: Run) -> None:
    # Three sizes, one scale, and two sizes by ImageNet's network.
    run.plan(1 if config.model else 6)
    names = [name.strip() for name in config.styles.split(",")]
    n = len(names)

    def load(size, rows):
        """Contents in the styles' colors, and the styles, whose numbers are in
        rows."""
        styles = np.stack([data.load_picture(name, size) for name in names])
        content = data.load_picture(config.content, size)[None]
        contents = [painting.Recolor.like(style)(content) for style in styles]
        return np.concatenate(contents)[rows], styles[rows]

    # Each style at the weight asked for; the first with less, with more, and
    # unsmoothed.
    rows = [*range(n), 0, 0, 0]
    all_weights = config.style_weight * np.array([1] * n + [0.1, 10, 1], "float32")
    all_smoothness = config.smoothness * np.array([1] * n + [1, 1, 0], "float32")

    def transfer(title, network, contents, styles, steps, start=None):
        """The pictures of the first rows, and their energies. start: if not contents,
        any size."""
        energies = energies_by(network, contents, styles)
        count = len(contents)
        energy = build_energy(energies, all_weights[:count], all_smoothness[:count])
        start = contents if start is None else start
        start = tf.image.resize(start, contents.shape[1:3], "bicubic")
        solver = LBFGS(energy, start, steps_per_call=5)
        show = lambda: {"energy": float(np.mean(solver.value))}  # noqa: E731
        calls = -(-steps // solver.steps_per_call)
        unit = f"times {solver.steps_per_call} steps"
        state = {"solver": solver.state}
        solver.minimize(run.loop(title, calls, state, unit=unit, show=show))
        painted = np.clip(solver.x, 0, 1)
        return painted, *(np.asarray(each) for each in energies(painted))

    if config.model:
        network = classifiers.from_flags(config, run).convolutions
        contents, styles = load(network.input.shape[1], rows[:n])
        steps = 2 * config.steps
        painted, content, style = transfer(
            config.model, network, contents, styles, steps
        )
        run.metric("content_energy", content.mean())
        run.metric("style_energy", style.mean())
        table = {"style": styles, "content": contents, "painted": painted}
        run.figure(
            "pictures", figures.picture_table(table, title=config.model, captions=names)
        )
        return

    if config.size < 160:
        raise UsageError(
            f"--size {config.size}: at least 160, as the last layer sees a quarter"
        )
    network = build_network(config.filters)
    painted = None
    for size in (config.size // 4, config.size // 2):
        contents, styles = load(size, rows)
        settings = network, np.pad(contents, PADDING, "reflect"), styles
        painted, content, style = transfer(
            f"{size} pixels", *settings, config.steps, painted
        )
    _, style_before = energies_by(*settings)(settings[1])
    style_left = style[:n] / style_before[:n]
    cut = painted[INNER]

    # The same again, with the filters of a network that was trained.
    trained = maps_of(classifiers.load(IMAGENET).model, IMAGENET_LAYERS)
    by_trained = None
    for size in (config.size // 4, config.size // 2):
        contents, styles = load(size, rows[:n])
        settings = trained, np.pad(contents, PADDING, "reflect"), styles
        by_trained, _, _ = transfer(
            f"{IMAGENET}, {size} pixels", *settings, config.steps, by_trained
        )
    by_trained = by_trained[INNER]
    by_random = cut[:n]
    compare_networks(run, by_random, by_trained, contents, styles, names)

    whole_contents, whole_styles = load(config.size, rows[:n])
    settings = network, np.pad(whole_contents, PADDING, "reflect"), whole_styles
    last, _, _ = transfer(
        f"{config.size} pixels", *settings, config.last_steps, painted[:n]
    )
    # With the steps on the smaller pictures exchanged for as much work on the whole
    # ones.
    steps = config.last_steps + config.steps * 5 // 16
    one_scale, _, _ = transfer("one scale", *settings, steps)

    far_before, far = (
        np.mean(
            [
                painting.texture_distance(*pair)
                for pair in zip(each[:n], styles, strict=False)
            ]
        )
        for each in (contents, cut)
    )
    kept = [edge_correlation(*pair) for pair in zip(cut[:n], contents, strict=False)]
    by_chance = edge_correlation(cut[0], contents[0, :, ::-1])
    run.metric("edge_correlation_with_content", np.mean(kept))
    run.metric("texture_distance_to_style", far)
    run.claim(
        "The picture takes on the style: also by a statistic that no network has a part in",
        holds=max(style_left) < 0.5 and far < 0.8 * far_before,
        measured=f"style energy down to {max(style_left):.1%} of the content's or less; distance "
        f"of local patterns to the style from {far_before:.3f} to {far:.3f}",
    )
    run.claim(
        "The content stays: edges are where they were",
        holds=min(kept) > by_chance + 0.2,
        measured="correlation of edges with the content's "
        + ", ".join(
            f"{value:.2f} ({name})" for name, value in zip(names, kept, strict=True)
        )
        + f"; {by_chance:.2f} with the content mirrored",
    )
    curve = [n, 0, n + 1]
    run.claim(
        "Content and style pull against each other: a heavier style costs content",
        holds=np.all(np.diff(content[curve]) > 0) and np.all(np.diff(style[curve]) < 0),
        measured="energies of content and style "
        + ", ".join(
            f"{content[k]:.3f} and {style[k]:.4f} (w = {all_weights[k]:g})"
            for k in curve
        ),
    )

    four = cut[-1], cut[0], styles[0], contents[0]
    rough, smooth, of_style, of_content = (
        np.abs(np.diff(each, axis=0)).mean() + np.abs(np.diff(each, axis=1)).mean()
        for each in four
    )
    run.claim(
        "The Gram matrices of a style do not forbid speckles that it has not; total variation does",
        holds=rough > 1.1 * max(of_style, of_content) and smooth < 0.9 * rough,
        measured=f"neighbors differ by {rough:.3f} without it, {smooth:.3f} with it, "
        f"{of_style:.3f} in the style, {of_content:.3f} in the content",
    )

    # What the layers see of the pictures at a quarter of their size: wide strokes.
    contents, styles = load(config.size // 4, rows[:n])
    wide = energies_by(network, contents, styles)
    pyramid, single = (
        np.asarray(wide(tf.image.resize(each[INNER], contents.shape[1:3], "area"))[1])
        for each in (last, one_scale)
    )
    each_style = zip(names, pyramid, single, strict=True)
    run.claim(
        "Several scales carry over wider strokes than as much work on the whole picture",
        holds=np.exp(np.mean(np.log(pyramid / single))) < 0.9,
        measured="style energy of the pictures shrunk to a quarter by three scales and by one: "
        + ", ".join(
            f"{several:.2f} and {one:.2f} ({name})" for name, several, one in each_style
        ),
    )

    table = {
        "style": whole_styles,
        "recolored": whole_contents,
        "painted": last[INNER],
    }
    drawn = {"title": "A content in the texture of others", "captions": names}
    run.figure("pictures", figures.picture_table(table, **drawn))
    captions = [*(f"w = {w:g}" for w in all_weights[curve]), "no total variation"]
    drawn = plot_trade_off(cut[[*curve, n + 2]], content[curve], style[curve], captions)
    run.figure("trade_off", drawn)

    # A service that measures how near a picture is to this content and style.
    picture = keras.Input((config.size, config.size, 3), name="picture")
    content, style = energies_by(network, whole_contents[:1], whole_styles[:1])(picture)
    scorer = keras.Model(
        picture, {"content": content, "style": style}, name="style_scorer"
    )
    run.export(scorer, example=whole_contents)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
