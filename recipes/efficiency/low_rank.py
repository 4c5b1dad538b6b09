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

BATCH_SIZE = 64
SCHEMES = {"responses": "#0072B2", "weights": "#D55E00", "tucker": "#009E73"}
KEPT_WHOLE = (
    "conv_1",
    "logits",
)  # few channels in, few classes out: there is no rank to save


def build_model(input_shape, widths: tuple[int, ...], classes: int) -> keras.Model:
    """Convolutions of 3 × 3 with pooling, one dense layer. Output: (batch, classes)
    logits."""
    x = images = keras.Input(input_shape, name="images")
    for index, width in enumerate(widths[:-1], start=1):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv_{index}")(x)
        x = layers.MaxPooling2D(2)(layers.ReLU()(x))
    x = layers.ReLU()(layers.Dense(widths[-1], name="dense")(layers.Flatten()(x)))
    return keras.Model(
        images, layers.Dense(classes, name="logits")(x), name=f"width-{widths[0]}"
    )


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
    return sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.Dense))
    )


def basis_of_weights(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The right singular vectors of a kernel (..., outputs) as columns (outputs, full
    rank) and the squared singular values: W V Vᵀ with the first r columns is the
    nearest matrix of rank r."""
    _, values, rows = np.linalg.svd(
        kernel.reshape(-1, kernel.shape[-1]), full_matrices=False
    )
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
    inward = basis_of_weights(np.swapaxes(kernel, 2, 3))[0][:, :rank_in]
    outward = basis_of_weights(kernel)[0][:, :rank_out]
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
        return [*tucker2(kernel, max(1, round(share * inputs)), rank), bias]
    basis, mean = basis_of_weights(kernel)[0], bias
    if scheme == "responses":
        basis, _, mean = basis_of_responses(model, name, images)
    basis = basis[:, :rank]
    back = np.expand_dims(
        basis.T, tuple(range(kernel.ndim - 2))
    )  # 1 × 1 after a convolution
    # Responses y = Wx + b are projected about their mean: V Vᵀ(y − ȳ) + ȳ.
    return [kernel @ basis, back, basis @ (basis.T @ (bias - mean)) + mean]


def compress(
    model: keras.Model, scheme: str, share: float, images: np.ndarray
) -> keras.Model:
    """A chain of layers rebuilt with each layer between the first and the last at a
    lower rank.

    scheme: "responses" (to `images`), "weights", or "tucker" (dense layers: as
        "weights").
    share: of the full rank, min(k²c, d), that is kept; 1 changes nothing but rounding.
    """
    x = inputs = keras.Input(model.input_shape[1:], name="images")
    for layer in model.layers[1:]:
        if not layer.weights:
            x = type(layer).from_config(layer.get_config())(x)
            continue
        *kernels, bias = factorize(model, layer.name, scheme, share, images)
        for index, kernel in enumerate(kernels, start=1):
            changes = {
                "name": f"{layer.name}_{index}",
                "use_bias": index == len(kernels),
            }
            if kernel.ndim == 4:
                changes |= {"filters": kernel.shape[3], "kernel_size": kernel.shape[:2]}
            else:
                changes["units"] = kernel.shape[1]
            part = type(layer).from_config({**layer.get_config(), **changes})
            x = part(x)
            part.set_weights([kernel, bias][: len(part.weights)])
    return keras.Model(inputs, x, name=f"{scheme}-{share}")


def plot_tradeoff(found: dict, whole: tuple, rivals: dict) -> plt.Figure:
    """found: by scheme and share (multiply-adds, accuracy when cut off, when
    fine-tuned)."""
    figure, axes = plt.subplots(figsize=(9, 4.6))
    for scheme, points in found.items():
        cost, cut_off, tuned = zip(*points.values(), strict=True)
        axes.plot(
            cost, tuned, "o-", color=SCHEMES[scheme], label=f"{scheme}, fine-tuned"
        )
        axes.plot(
            cost, cut_off, "o:", color=SCHEMES[scheme], label=f"{scheme}, cut off"
        )
    axes.plot(
        list(rivals),
        list(rivals.values()),
        "s--",
        c="#777",
        label="smaller, from scratch",
    )
    axes.plot(*whole, "k*", markersize=14, label="whole network")
    axes.set(
        xscale="log",
        xlabel="thousands of multiply-adds per image",
        ylabel="test accuracy",
    )
    axes.set_title("What a lower rank saves and costs")
    axes.set_xticks(
        [10**5, 2 * 10**5, 5 * 10**5, 10**6, 2 * 10**6], [100, 200, 500, 1000, 2000]
    )
    axes.minorticks_off()
    figure.legend(loc="outside right center", fontsize=10)
    return figure


def main(config: Config, run: Run) -> None:
    ranks = sorted({config.share, *config.other_shares})
    run.plan(2 + (len(SCHEMES) + 1) * len(ranks))
    (x_train, y_train), (x_test, y_test) = data.load(config.data, size=config.size)
    shape = x_train.shape[1:]
    classes = len(data.class_names(config.data))
    images = x_train[:500]

    def accuracy(model: keras.Model) -> float:
        parts = [
            model(x_test[start : start + 500]) for start in range(0, len(x_test), 500)
        ]
        return float(np.mean(np.concatenate(parts).argmax(axis=1) == y_test))

    def train(model: keras.Model, epochs: int) -> float:
        steps = epochs * math.ceil(len(x_train) / BATCH_SIZE)
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
        settings = {"batch_size": BATCH_SIZE, "callbacks": run.callbacks}
        training.fit(model, x_train, y_train, epochs=epochs, **settings)
        return accuracy(model)

    model = build_model(shape, config.widths, classes)
    untrained = keras.models.clone_model(model)
    train(model, config.epochs)
    layer = model.get_layer(f"conv_{len(config.widths) - 1}")
    energies = {
        "weights": basis_of_weights(layer.get_weights()[0])[1],
        "responses": basis_of_responses(model, layer.name, x_test[:500])[1],
        "responses, untrained": basis_of_responses(untrained, layer.name, x_test[:500])[
            1
        ],
    }
    curves = {source: values / values[0] for source, values in energies.items()}
    labels = {"xlabel": "direction", "ylabel": "squared singular value, of the largest"}
    title = f"Responses of {layer.name} fill few directions, its weights all"
    run.figure("spectra", figures.curves(curves, title=title, yscale="log", **labels))

    # Each scheme at each rank: cut off, then trained further; and the honest rival.
    found, rivals = {scheme: {} for scheme in SCHEMES}, {}
    for share in ranks:
        for scheme in SCHEMES:
            small = compress(model, scheme, share, images)
            cut_off = accuracy(small)
            tuned = train(small, config.fine_tune_epochs)
            found[scheme][share] = (multiply_adds(small), cut_off, tuned)
            if (scheme, share) == ("tucker", config.share):
                exported = small
        rival = build_smaller(multiply_adds(small), shape, config.widths, classes)
        rivals[multiply_adds(rival)] = train(
            rival, config.epochs + config.fine_tune_epochs
        )
    logits = np.asarray(model(images))
    full_rank = [compress(model, scheme, 1.0, images) for scheme in SCHEMES]
    difference = max(np.abs(each(images) - logits).max() for each in full_rank)
    # The whole network gets the further training, too.
    whole_cost, whole_accuracy = (
        multiply_adds(model),
        train(model, config.fine_tune_epochs),
    )
    run.figure("tradeoff", plot_tradeoff(found, (whole_cost, whole_accuracy), rivals))

    cost, _, tuned = found["tucker"][config.share]
    run.metric("test_accuracy", tuned)
    run.metric("whole_test_accuracy", whole_accuracy)
    run.metric("multiply_adds_saved", whole_cost / cost, unit="x")
    for scheme, points in found.items():
        for share, (_, _, accuracy_at) in points.items():
            run.metric(f"{scheme}_{share}_test_accuracy", accuracy_at)
    run.claim(
        "Tucker-2 saves three fourths of the multiply-adds or more and loses under two points",
        holds=tuned > whole_accuracy - 0.02 and 4 * cost < whole_cost,
        measured=f"test accuracy {tuned:.4f} with {cost:,} multiply-adds, whole, trained as long, "
        f"{whole_accuracy:.4f} with {whole_cost:,}: {whole_cost / cost:.1f} times as many",
    )
    needed = [sum(np.cumsum(each) < 0.99 * sum(each)) + 1 for each in energies.values()]
    weights, responses, at_first = needed
    run.claim(
        "A layer's responses lie in a low-rank subspace, narrower for training; its weights do not",
        holds=2 * responses < weights and responses < 0.75 * at_first,
        measured=f"99 % of the energy of {layer.name}: {weights} of {layer.filters} directions of "
        f"the weights, {responses} of the responses, {at_first} of the responses before training",
    )
    run.claim(
        "At full rank every scheme gives the network itself",
        any_data=True,
        holds=difference < 1e-5 * np.abs(logits).max(),
        measured=f"largest difference {difference:.1e} of logits up to {logits.max():.1f}",
    )
    lowest = min(found["tucker"])
    before, after = np.mean([points[lowest][1:] for points in found.values()], axis=0)
    run.claim(
        "Fine-tuning regains most of what a low rank lost",
        holds=after - before > 0.5 * (whole_accuracy - before),
        measured=f"mean of the schemes at {lowest} of the rank: {before:.4f} cut off, "
        f"{after:.4f} fine-tuned; whole {whole_accuracy:.4f}",
    )
    ours, theirs = (
        np.mean([p[2] for p in found["tucker"].values()]),
        np.mean([*rivals.values()]),
    )
    run.claim(
        "The honest rival does as well here: smaller networks trained from scratch, as long and "
        "with as many multiply-adds, are within four points of Tucker-2",
        holds=abs(ours - theirs) < 0.04,
        measured=f"mean over {len(rivals)} ranks: Tucker-2 {ours:.4f}, from scratch {theirs:.4f}",
    )
    run.export(serving.classifier(exported), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
