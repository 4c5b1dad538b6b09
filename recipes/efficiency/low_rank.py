"""Low-rank approximation: fewer multiply-adds where responses fill a subspace.

A layer of d filters of k × k × c answers each patch with d numbers. Where these answers
lie near a subspace of d' dimensions, with basis V, d' filters of k × k × c can find the
place in it and a 1 × 1 convolution put the d answers together, W ≈ (W V) Vᵀ: k²c·d' +
d'·d multiply-adds instead of k²c·d. V may come from the weights (the SVD of W as a k²c
× d matrix: the nearest of its rank) or from responses to training images (their
principal components). Tucker-2 narrows the input channels
too: 1 × 1 to r channels, k × k to s, 1 × 1 to d. All are exact at full rank.
Look at both spectra of a layer, at what truncation costs and what fine-tuning brings
back, and at the honest rival: a smaller network trained from scratch with as many
multiply-adds.

Lectures: CS Efficient Methods and Hardware (Low Rank Approximation)
Paper: Zhang et al., Accelerating very deep convolutional networks for classification
    and detection, 2015 (linear case); Kim et al., Compression of deep convolutional
    neural networks for fast and low power mobile applications, 2016 (Tucker-2)
Tags: svd, tucker decomposition, matrix factorization, pca, model compression
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval, MinLen
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits, photos (embedded), mnist / cifar10 where Keras can download or has cached
    them, or your own images: a folder with one subfolder a class, or an .npz file"""
    size: int = 16
    """side of the images in pixels"""
    widths: Annotated[tuple[int, ...], MinLen(2)] = (32, 64, 64, 128)
    """filters of each convolution, then units of the dense layer"""
    share: Annotated[float, Interval(gt=0, le=1)] = 0.25
    """rank of the network that is exported, as a share of each layer's full rank"""
    other_shares: tuple[Annotated[float, Interval(gt=0, le=1)], ...] = (0.0625, 0.125)
    """further ranks to compare"""
    epochs: int = 15
    """passes over the training images of the whole network"""
    fine_tune_epochs: int = 8
    """passes of each compressed network; the rivals from scratch get both numbers
    together"""
    learning_rate: float = 3e-3
    """of Adam at the start of each training; it falls to 0 along a cosine"""


QUICK = Config(size=8, share=0.25, other_shares=(), epochs=15, fine_tune_epochs=8)
FULL = Config(data="cifar10", size=32, widths=(64, 128, 256, 256), epochs=30)

# Few channels in, few classes out: there is no rank to save.
KEPT_WHOLE = ("conv_1", "logits")
SCHEMES = ("responses", "weights", "tucker")


# --------------------------------------------------------------------------------------
# The idea: one layer becomes a chain of narrow ones
# --------------------------------------------------------------------------------------


def build_model(input_shape, widths: tuple[int, ...], classes: int) -> keras.Model:
    """Convolutions of 3 × 3 with pooling, one dense layer. Output: (batch, classes)
    logits."""
    images = keras.Input(input_shape, name="images")
    x = images
    for index, width in enumerate(widths[:-1], start=1):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv_{index}")(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(widths[-1], name="dense")(x)
    x = layers.ReLU()(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=f"width-{widths[0]}")


def build_smaller(
    budget: int, input_shape, widths: tuple[int, ...], classes: int
) -> keras.Model:
    """The narrowest network, all widths shrunk alike, with at least `budget`
    multiply-adds; of these very widths if none has as many."""
    for first in range(1, widths[0] + 1):
        share = first / widths[0]
        shrunk = tuple(max(1, round(width * share)) for width in widths)
        model = build_model(input_shape, shrunk, classes)
        if multiply_adds(model) >= budget:
            break
    return model


def multiply_adds(model: keras.Model) -> int:
    """Multiplications for one image: a kernel is used once at each place of its layer's
    output."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            places = math.prod(layer.output.shape[1:-1])
            total += places * math.prod(layer.kernel.shape)
    return total


def basis_of_weights(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The right singular vectors of a kernel (..., outputs) as columns (outputs, full
    rank) and the squared singular values: W V Vᵀ with the first r columns is the
    nearest matrix of rank r."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return rows.T, values**2


def basis_of_responses(model: keras.Model, name: str, images: np.ndarray):
    """The principal components of a layer's answers to images as columns (outputs,
    outputs), their variances, largest first, and the mean answer."""
    responses = keras.Model(model.input, model.get_layer(name).output)(images)
    flat = np.reshape(responses, (-1, responses.shape[-1])).astype("float64")
    variances, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    return vectors[:, ::-1], variances[::-1], flat.mean(axis=0)


def tucker2(kernel: np.ndarray, rank_in: int, rank_out: int) -> list[np.ndarray]:
    """Tucker-2 of a kernel (k, k, c, d) by the singular vectors of its two unfoldings
    (HOSVD): kernels (1, 1, c, rank_in), (k, k, rank_in, rank_out) and (1, 1, rank_out,
    d)."""
    inward, _ = basis_of_weights(np.swapaxes(kernel, 2, 3))
    inward = inward[:, :rank_in]
    outward, _ = basis_of_weights(kernel)
    outward = outward[:, :rank_out]
    core = np.einsum("klcd,cr,ds->klrs", kernel, inward, outward)
    return [inward[np.newaxis, np.newaxis], core, outward.T[np.newaxis, np.newaxis]]


def factorize(
    model: keras.Model, name: str, scheme: str, share: float, images: np.ndarray
) -> list[np.ndarray]:
    """The kernels of the layers that stand for one, then the bias of the last of
    them."""
    kernel, bias = model.get_layer(name).get_weights()
    if name in KEPT_WHOLE:
        return [kernel, bias]
    inputs, outputs = kernel.shape[-2:]
    rank = max(1, round(share * min(kernel.size // outputs, outputs)))
    if scheme == "tucker" and kernel.ndim == 4:
        rank_in = max(1, round(share * inputs))
        return [*tucker2(kernel, rank_in, rank), bias]

    if scheme == "responses":
        basis, _, mean = basis_of_responses(model, name, images)
    else:
        basis, _ = basis_of_weights(kernel)
        mean = bias
    basis = basis[:, :rank]
    # After a convolution the way back is 1 × 1.
    back = basis.T.reshape((1,) * (kernel.ndim - 2) + basis.T.shape)
    # Responses y = Wx + b are projected about their mean: V Vᵀ(y − ȳ) + ȳ.
    bias_back = basis @ (basis.T @ (bias - mean)) + mean
    return [kernel @ basis, back, bias_back]


def compress(
    model: keras.Model, scheme: str, share: float, images: np.ndarray
) -> keras.Model:
    """A chain of layers rebuilt with each layer between the first and the last at a
    lower rank.

    scheme: "responses" (to `images`), "weights", or "tucker" (dense layers: as
        "weights").
    share: of the full rank, min(k²c, d), that is kept; 1 changes nothing but rounding.
    """
    inputs = keras.Input(model.input_shape[1:], name="images")
    x = inputs
    for layer in model.layers[1:]:
        if layer.weights:
            *kernels, bias = factorize(model, layer.name, scheme, share, images)
            x = chain(layer, kernels, bias, x)
        else:
            x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(inputs, x, name=f"{scheme}-{share}")


def chain(layer: layers.Layer, kernels: list[np.ndarray], bias: np.ndarray, x):
    """Applies to `x` layers of the same kind with these kernels; the last one has the
    bias."""
    for index, kernel in enumerate(kernels, start=1):
        is_last = index == len(kernels)
        settings = layer.get_config()
        settings["name"] = f"{layer.name}_{index}"
        settings["use_bias"] = is_last
        if kernel.ndim == 4:
            settings["filters"] = kernel.shape[3]
            settings["kernel_size"] = kernel.shape[:2]
        else:
            settings["units"] = kernel.shape[1]
        part = type(layer).from_config(settings)
        x = part(x)
        part.set_weights([kernel, bias] if is_last else [kernel])
    return x


# --------------------------------------------------------------------------------------
# The experiment: each scheme cut off and fine-tuned, and smaller networks from scratch
# --------------------------------------------------------------------------------------

BATCH_SIZE = 64
ENERGY = 0.99  # share of it that a subspace has to hold


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    @property
    def images(self) -> np.ndarray:
        """Training images whose responses give the principal components."""
        return self.x[:500]

    @property
    def ranks(self) -> list[float]:
        return sorted({self.config.share, *self.config.other_shares})

    def train(self, model: keras.Model, epochs: int) -> float:
        """Returns the test accuracy."""
        training.fit_classifier(
            model,
            self.x,
            self.y,
            epochs=epochs,
            batch_size=BATCH_SIZE,
            learning_rate=self.config.learning_rate,
            callbacks=self.run.callbacks,
        )
        return self.accuracy(model)

    def accuracy(self, model: keras.Model) -> float:
        starts = range(0, len(self.x_test), 500)
        logits = [model(self.x_test[start : start + 500]) for start in starts]
        return float(np.mean(np.concatenate(logits).argmax(axis=1) == self.y_test))


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load(config.data, size=config.size)
    classes = len(data.class_names(config.data))
    return Task(x, y, x_test, y_test, classes, config, run)


@dataclass
class Spectra:
    """Energies of a layer's directions, largest first, of weights or of responses."""

    layer: str
    weights: np.ndarray
    responses: np.ndarray
    untrained: np.ndarray
    """of the responses before training"""


def measure_spectra(
    model: keras.Model, untrained: keras.Model, x: np.ndarray
) -> Spectra:
    """Of the last convolution, answering images that it was not trained on."""
    layer = [each for each in model.layers if isinstance(each, layers.Conv2D)][-1]
    kernel, _ = layer.get_weights()
    _, of_weights = basis_of_weights(kernel)
    _, of_responses, _ = basis_of_responses(model, layer.name, x)
    _, of_untrained, _ = basis_of_responses(untrained, layer.name, x)
    return Spectra(layer.name, of_weights, of_responses, of_untrained)


@dataclass
class Compressed:
    """A network of lower rank."""

    model: keras.Model
    multiply_adds: int
    cut_off: float
    """test accuracy before fine-tuning"""
    accuracy: float
    """and after it"""


def try_schemes(model: keras.Model, share: float, task: Task) -> dict[str, Compressed]:
    found = {}
    for scheme in SCHEMES:
        small = compress(model, scheme, share, task.images)
        cut_off = task.accuracy(small)
        tuned = task.train(small, task.config.fine_tune_epochs)
        found[scheme] = Compressed(small, multiply_adds(small), cut_off, tuned)
    return found


@dataclass
class Plain:
    """A network that is not factorized."""

    multiply_adds: int
    accuracy: float


def train_rival(budget: int, task: Task) -> Plain:
    """A smaller network with at least as many multiply-adds, from scratch, for as many
    epochs."""
    config = task.config
    shape = task.x.shape[1:]
    rival = build_smaller(budget, shape, config.widths, task.classes)
    accuracy = task.train(rival, config.epochs + config.fine_tune_epochs)
    return Plain(multiply_adds(rival), accuracy)


def largest_difference(model: keras.Model, task: Task) -> tuple[float, float]:
    """Of any scheme's logits at full rank from the network's own; and the largest of
    these."""
    logits = np.asarray(model(task.images))
    differences = []
    for scheme in SCHEMES:
        exact = compress(model, scheme, 1.0, task.images)
        differences.append(np.abs(exact(task.images) - logits).max())
    return float(max(differences)), float(np.abs(logits).max())


Found = dict[float, dict[str, Compressed]]
"""By share of the rank and scheme."""


def judge_tucker(tucker: Compressed, whole: Plain, share: float, run: Run) -> None:
    times = whole.multiply_adds / tucker.multiply_adds
    run.claim(
        f"At {share:g} of the rank Tucker-2 saves three fourths of the multiply-adds or "
        "more and loses under two points",
        holds=tucker.accuracy > whole.accuracy - 0.02 and times > 4,
        measured=f"test accuracy {tucker.accuracy:.4f} with {tucker.multiply_adds:,} "
        f"multiply-adds, whole, trained as long, {whole.accuracy:.4f} with "
        f"{whole.multiply_adds:,}: {times:.1f} times as many",
    )


def directions(energies: np.ndarray) -> int:
    """How many hold the share `ENERGY` of all energy."""
    return int(np.sum(np.cumsum(energies) < ENERGY * np.sum(energies))) + 1


def judge_spectra(spectra: Spectra, run: Run) -> None:
    weights = directions(spectra.weights)
    responses = directions(spectra.responses)
    untrained = directions(spectra.untrained)
    run.claim(
        "A layer's responses lie in a low-rank subspace, narrower for training; its "
        "weights do not",
        holds=2 * responses < weights and responses < 0.75 * untrained,
        measured=f"{100 * ENERGY:g} % of the energy of {spectra.layer}: {weights} of "
        f"{len(spectra.weights)} directions of the weights, {responses} of the "
        f"responses, {untrained} of the responses before training",
    )


def judge_full_rank(difference: float, largest: float, run: Run) -> None:
    run.claim(
        "At full rank every scheme gives the network itself",
        any_data=True,
        holds=difference < 1e-5 * largest,
        measured=f"largest difference {difference:.1e} of logits up to {largest:.1f}",
    )


def judge_fine_tuning(found: Found, whole: Plain, run: Run) -> None:
    lowest = min(found)
    before = np.mean([each.cut_off for each in found[lowest].values()])
    after = np.mean([each.accuracy for each in found[lowest].values()])
    run.claim(
        "Fine-tuning regains most of what a low rank lost",
        holds=after - before > 0.5 * (whole.accuracy - before),
        measured=f"mean of the schemes at {lowest} of the rank: {before:.4f} cut off, "
        f"{after:.4f} fine-tuned; whole {whole.accuracy:.4f}",
    )


def judge_rivals(found: Found, rivals: list[Plain], run: Run) -> None:
    tucker = np.mean([schemes["tucker"].accuracy for schemes in found.values()])
    scratch = np.mean([rival.accuracy for rival in rivals])
    run.claim(
        "The honest rival does as well here: smaller networks trained from scratch, as "
        "long and with as many multiply-adds, are within four points of Tucker-2",
        holds=abs(tucker - scratch) < 0.04,
        measured=f"mean over {len(rivals)} ranks: Tucker-2 {tucker:.4f}, from scratch "
        f"{scratch:.4f}",
    )


def draw_spectra(spectra: Spectra) -> Figure:
    curves = {
        "weights": spectra.weights,
        "responses": spectra.responses,
        "responses, untrained": spectra.untrained,
    }
    return figures.curves(
        {name: energies / energies[0] for name, energies in curves.items()},
        title=f"Responses of {spectra.layer} fill few directions, its weights all",
        xlabel="direction",
        ylabel="squared singular value, of the largest",
        yscale="log",
    )


def draw_tradeoff(found: Found, whole: Plain, rivals: list[Plain]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.6))
    for scheme, color, marker in zip(SCHEMES, figures.COLORS, "o^D", strict=False):
        points = [schemes[scheme] for schemes in found.values()]
        costs = [point.multiply_adds / 1000 for point in points]
        tuned = [point.accuracy for point in points]
        cut_off = [point.cut_off for point in points]
        axes.plot(costs, tuned, f"{marker}-", c=color, label=f"{scheme}, fine-tuned")
        axes.plot(
            costs,
            cut_off,
            f"{marker}:",
            c=color,
            mfc="white",
            label=f"{scheme}, cut off",
        )
    axes.plot(
        [rival.multiply_adds / 1000 for rival in rivals],
        [rival.accuracy for rival in rivals],
        "s--",
        color="#777777",
        label="smaller, from scratch",
    )
    axes.plot(
        whole.multiply_adds / 1000,
        whole.accuracy,
        "k*",
        markersize=14,
        label="whole network",
    )
    axes.set(
        title="What a lower rank saves and costs",
        xlabel="thousands of multiply-adds per image (logarithmic)",
        ylabel="test accuracy",
        xscale="log",
    )
    ticks = [50, 100, 200, 500, 1000, 2000]
    ticks = [tick for tick in ticks if tick < 1.1 * whole.multiply_adds / 1000]
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    figure.legend(loc="outside right center", fontsize=10)
    return figure


def main(config: Config, run: Run) -> None:
    task = load_task(config, run)
    run.plan(2 + (len(SCHEMES) + 1) * len(task.ranks))

    model = build_model(task.x.shape[1:], config.widths, task.classes)
    untrained = keras.models.clone_model(model)
    task.train(model, config.epochs)
    spectra = measure_spectra(model, untrained, task.x_test[:500])

    # Each scheme at each rank, and the honest rival.
    found: Found = {}
    rivals = []
    for share in task.ranks:
        found[share] = try_schemes(model, share, task)
        rivals.append(train_rival(found[share]["tucker"].multiply_adds, task))
    difference, largest = largest_difference(model, task)

    # The whole network gets the further training, too.
    accuracy = task.train(model, config.fine_tune_epochs)
    whole = Plain(multiply_adds(model), accuracy)

    tucker = found[config.share]["tucker"]
    run.metric("test_accuracy", tucker.accuracy)
    run.metric("whole_test_accuracy", whole.accuracy)
    saved = whole.multiply_adds / tucker.multiply_adds
    run.metric("multiply_adds_saved", saved, unit="x")
    for scheme in SCHEMES:
        for share in task.ranks:
            name = f"{scheme}_{share}_test_accuracy"
            run.metric(name, found[share][scheme].accuracy)

    judge_tucker(tucker, whole, config.share, run)
    judge_spectra(spectra, run)
    judge_full_rank(difference, largest, run)
    judge_fine_tuning(found, whole, run)
    judge_rivals(found, rivals, run)
    run.figure("spectra", draw_spectra(spectra))
    run.figure("tradeoff", draw_tradeoff(found, whole, rivals))
    run.export(serving.classifier(tucker.model), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
