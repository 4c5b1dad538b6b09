"""Style transfer: the content of one picture in the texture of another.

Feature inversion and texture synthesis at once. The content is in the maps of a deeper layer, each
feature at its place, E_content = ‖F − F̂‖² / ‖F̂ − mean‖²; the style is in the Gram matrices of all
layers, E_style = mean of ‖G − Ĝ‖² / ‖Ĝ‖². A picture is changed until E_content + w · E_style is
small, first at low resolution, where the large strokes are laid, then at higher ones. The content's
colours are moved to the style's beforehand, so that the two do not fight over them.
Look at the curve of what one term costs the other as their weight changes.

Lectures: CS Visualizing & Understanding (Neural Style Transfer); N18 4.3
Paper: Gatys et al., Image style transfer using convolutional neural networks, 2016 (equations 1, 4,
    5 and 7); Gatys et al., Controlling perceptual factors in neural style transfer, 2017 (colours,
    coarse to fine)
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_gradient_magnitude

from deep_learning_recipes import classifiers, data, figures, pictures
from deep_learning_recipes.lbfgs import LBFGS
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    content: str = "temple"
    """a photograph's name (temple, cat, astronaut, coffee, flower, ...) or a picture file"""
    styles: str = "painting, stained tissue, gravel"
    """with commas between: painting, brick, grass, gravel, a photograph's name, or picture files"""
    style_weight: float = 20.0
    """of the style's energy against the content's"""
    size: int = 256
    """side of the last pictures in pixels; weights and starts are compared at half of it"""
    filters: int = 64
    """in each layer"""
    steps: int = 80
    """of L-BFGS on pictures of a quarter and of half the size"""
    last_steps: int = 40
    """on those of the whole size"""
    model: str = ""
    """a .keras file or a network of keras.applications (VGG19) in place of random filters"""


QUICK = Config(styles="painting", size=128, filters=32, steps=60, last_steps=20)
FULL = Config(size=512, filters=128, steps=300, last_steps=200)

KERNELS = 5, 3, 3, 3
CONTENT_LAYER = 2  # the third
WEIGHTS = 0.1, 1.0, 10.0  # times style_weight: the curve
MARGIN = 8  # pixels around a picture that less windows cover than the others: cut off at the end


def build_network(filters: int) -> keras.Model:
    """Random filters. Input: (batch, height, width, 3). Outputs: the maps of each layer. Pixels of
    the four see 5, 10, 20 and 40 of the picture's."""
    picture = x = keras.Input((None, None, 3), name="picture")
    maps = []
    for kernel_size in KERNELS:
        # Averages pass on a gradient to every pixel, maxima to one in four.
        x = layers.AveragePooling2D(2)(x) if maps else x
        x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
        maps.append(x)
    network = keras.Model(picture, maps, name="random_filters")
    for kernel in network.weights[::2]:
        # Without a mean they answer to contrast, not to brightness, which would drown all else.
        values = keras.random.normal(kernel.shape)
        values -= ops.mean(values, axis=(0, 1, 2), keepdims=True)
        kernel.assign(values / ops.sqrt(ops.sum(values**2, axis=(0, 1, 2), keepdims=True)))
    return network


def gram_matrix(maps):
    """(batch, height, width, features) -> (batch, features, features), means over the places."""
    _, height, width, _ = maps.shape
    return ops.einsum("bhwi,bhwj->bij", maps, maps) / (height * width)


def relative(values, targets):
    """‖values − targets‖² / ‖targets‖² of each picture, (batch,)."""
    axes = tuple(range(1, len(values.shape)))
    return ops.sum((values - targets) ** 2, axis=axes) / ops.sum(targets**2, axis=axes)


def energies_by(network: keras.Model, contents: np.ndarray, styles: np.ndarray):
    """The function from pictures like contents (n, height, width, 3) to E_content and E_style, each
    (n,). styles: (n, any height, any width, 3)."""
    layer = min(CONTENT_LAYER, len(network.outputs) - 1)
    content_maps = network(contents)[layer]
    mean = ops.mean(content_maps, axis=(1, 2), keepdims=True)
    grams = [gram_matrix(maps) for maps in network(styles)]

    def energies(pictures):
        all_maps = network(pictures)
        style = [
            relative(gram_matrix(maps), gram) for maps, gram in zip(all_maps, grams, strict=True)
        ]
        content = relative(all_maps[layer] - mean, content_maps - mean)
        return content, ops.mean(ops.stack(style), axis=0)

    return energies


def edge_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the strength of the edges, wider than a hundredth of the picture, at each pixel."""
    edges = [gaussian_gradient_magnitude(each.mean(axis=-1), len(each) / 64) for each in (a, b)]
    return float(np.corrcoef(edges[0].ravel(), edges[1].ravel())[0, 1])


def plot_trade_off(pictures, content, style, captions) -> plt.Figure:
    """The two energies as their weight changes, and the pictures."""
    figure, grid = plt.subplots(1, len(pictures) + 1, figsize=(3 * len(pictures) + 3.6, 3.6))
    grid[0].plot(content, style, "o-")
    grid[0].set(xlabel="content energy", ylabel="style energy", xscale="log", yscale="log")
    grid[0].set_title("What one costs the other")
    for axes, picture, caption in zip(grid[1:], pictures, captions, strict=True):
        axes.imshow(picture)
        axes.set_title(caption)
        axes.axis("off")
    return figure


def main(config: Config, run: Run) -> None:
    names = [name.strip() for name in config.styles.split(",")]
    n, random = len(names), np.random.default_rng(run.seed)

    def load(size, rows):
        """Contents in the styles' colours, and the styles, whose numbers are in rows."""
        styles = np.stack([data.load_picture(name, size) for name in names])
        content = data.load_picture(config.content, size)
        return pictures.recolour([content] * n, styles)[rows], styles[rows]

    def with_margin(contents):
        return np.pad(contents, ((0, 0), (MARGIN,) * 2, (MARGIN,) * 2, (0, 0)), "reflect")

    def without(painted):
        return painted[:, MARGIN:-MARGIN, MARGIN:-MARGIN]

    def transfer(title, network, contents, styles, weights, steps, start):
        """The pictures, and their two energies. start: as contents, or smaller."""
        energies = energies_by(network, contents, styles)

        def energy(painted):
            content, style = energies(painted)
            beyond = painted - ops.clip(painted, 0, 1)  # what no screen can show
            return content + weights * (style + 10 * ops.mean(beyond**2, axis=(1, 2, 3)))

        solver = LBFGS(energy, tf.image.resize(start, contents.shape[1:3], "bicubic"))
        calls = -(-steps // solver.steps_per_call)
        show = lambda: {"energy": float(np.mean(solver.value))}  # noqa: E731
        unit = f"times {solver.steps_per_call} steps"
        solver.minimize(run.loop(title, calls, {"solver": solver.state}, unit=unit, show=show))
        painted = np.clip(solver.x, 0, 1)
        return painted, *(np.asarray(each) for each in energies(painted))

    each_style = list(range(n))
    if config.model:
        network = classifiers.load(config.model).convolutions
        contents, styles = load(network.input.shape[1], each_style)
        weights = np.full(n, config.style_weight, "float32")
        settings = network, contents, styles, weights, 2 * config.steps
        painted, content, style = transfer(config.model, *settings, start=contents)
        run.metric("content_energy", content.mean())
        run.metric("style_energy", style.mean())
        rows = {"style": styles, "content": contents, "painted": painted}
        run.figure("pictures", figures.picture_table(rows, title=config.model, captions=names))
        return

    network = build_network(config.filters)
    # Each style at the weight asked for; the first with other weights; and the first from noise.
    rows = each_style + [0] * (len(WEIGHTS) + 1)
    weights = config.style_weight * np.array([1.0] * n + [*WEIGHTS, 1.0], "float32")
    painted = None
    for size in (config.size // 4, config.size // 2):
        contents, styles = load(size, rows)
        goals = with_margin(contents)
        if painted is None:
            painted = goals.copy()
            noise = random.normal(size=painted[-1].shape)
            painted[-1] = contents[-1].mean(axis=(0, 1)) + 0.02 * noise
        settings = network, goals, styles, weights, config.steps
        painted, content, style = transfer(f"{size} pixels", *settings, start=painted)

    # One at this scale alone, with a quarter more steps: what those on smaller pictures cost.
    settings = network, goals[:1], styles[:1], weights[:1], config.steps * 5 // 4
    _, single_content, single_style = transfer("one scale", *settings, start=goals[:1])
    single = (single_content + weights[0] * single_style)[0]

    _, style_before = energies_by(network, goals, styles)(goals)
    style_left = style[:n] / style_before[:n]
    cut = without(painted)
    far_before, far = (
        [pictures.texture_distance(*pair) for pair in zip(each[:n], styles, strict=False)]
        for each in (contents, cut)
    )
    kept = [edge_correlation(*pair) for pair in zip(cut[:n], contents, strict=False)]
    by_chance = np.mean([edge_correlation(cut[0], np.flip(contents[0], axis)) for axis in (0, 1)])
    run.metric("style_energy_left", np.mean(style_left), unit="of the content's own")
    run.metric("edge_correlation_with_content", np.mean(kept))
    run.metric("texture_distance_to_style", np.mean(far))
    run.claim(
        "The picture takes on the style: also by a statistic that no network has a part in",
        holds=max(style_left) < 0.5 and np.mean(far) < 0.8 * np.mean(far_before),
        measured=f"style energy down to {max(style_left):.1%} of the content's or less; distance "
        f"of local patterns to the style from {np.mean(far_before):.3f} to {np.mean(far):.3f}",
    )
    run.claim(
        "The content stays: edges are where they were",
        holds=min(kept) > by_chance + 0.3,
        measured="correlation of edges with the content's "
        + ", ".join(f"{value:.2f} ({name})" for name, value in zip(names, kept, strict=True))
        + f"; {by_chance:.2f} with the content mirrored",
    )
    curve = slice(n, n + len(WEIGHTS))
    run.claim(
        "Content and style pull against each other: a heavier style costs content",
        holds=np.all(np.diff(content[curve]) > 0) and np.all(np.diff(style[curve]) < 0),
        measured=f"for weights {', '.join(f'{w:g}' for w in weights[curve])} a content energy of "
        f"{', '.join(f'{value:.3f}' for value in content[curve])}, and a style energy of "
        f"{', '.join(f'{value:.4f}' for value in style[curve])}",
    )
    pyramid, from_noise = (content + weights * style)[[0, -1]]
    run.claim(
        "Coarse to fine gets lower than as much work at one scale",
        holds=pyramid < 0.95 * single,
        measured=f"energy {pyramid:.3f} by two scales, {single:.3f} by one",
    )
    run.claim(
        "Noise is as good a start as the content: the picture is in the energy",
        holds=from_noise < 1.3 * pyramid,
        measured=f"energy {from_noise:.3f} from noise, {pyramid:.3f} from the content",
    )

    whole_contents, whole_styles = load(config.size, each_style)
    settings = network, with_margin(whole_contents), whole_styles, weights[:n], config.last_steps
    last, _, _ = transfer(f"{config.size} pixels", *settings, start=painted[:n])
    rows = {"style": whole_styles, "content, in its colours": whole_contents}
    rows["painted"] = without(last)
    title = "A content in the texture of others"
    run.figure("pictures", figures.picture_table(rows, title=title, captions=names))
    captions = [*(f"w = {w:g}" for w in weights[curve]), f"w = {weights[-1]:g}, from noise"]
    run.figure("trade_off", plot_trade_off(cut[n:], content[curve], style[curve], captions))

    # A service that measures a picture's energies against this content and style.
    picture = keras.Input((config.size, config.size, 3), name="picture")
    outputs = energies_by(network, whole_contents[:1], whole_styles[:1])(picture)
    scorer = keras.Model(picture, dict(zip(("content", "style"), outputs, strict=True)))
    run.export(scorer, example=whole_contents)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
