"""SqueezeNet: the accuracy of AlexNet from fifty times fewer weights.

Three strategies: most filters are 1×1 in place of 3×3, the 3×3 filters see few maps,
and pooling comes late. A fire module is all three: s 1×1 filters squeeze the maps, and
e/2 filters of 1×1 beside e/2 of 3×3 expand them again, side by side:

    fire(x) = [ReLU(E₁ * q), ReLU(E₃ * q)]    q = ReLU(S * x)    s = SR·e, SR = 1/8

There is no dense layer: the last convolution has a map for each class, and its mean is
the logit. With simple bypass, fire(x) + x where both have as many maps.
Then pruning, shared weights and Huffman coding make the file small. Look at what
accuracy is left as weights are taken away, fifty times by the architecture and ten more
by the file, and at what a network that has seen ImageNet reaches on the same pictures.

Lectures: CS Efficient Methods and Hardware (SqueezeNet); CS CNN Architectures
Paper: Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
    <0.5MB model size, 2016 (tables 1 to 3, figures 1 to 3)
Tags: fire module, model compression, 1x1 convolution, efficient, mobile, cnn,
    bypass
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval, Len
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import (
    architectures,
    classifiers,
    compression,
    figures,
    serving,
)
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos, textures (embedded, in color) or any other name of
    images; or your own: a folder with one subfolder a class, or an .npz file"""
    squeeze_ratios: Annotated[
        tuple[Annotated[float, Interval(gt=0, le=1)], ...], Len(min_length=1)
    ] = (0.125, 0.25)
    """SR, squeeze filters for each expand filter; the first is the network's that is
    compared and compressed"""
    epochs: int = 12
    """passes over the training images"""
    sparsity: Annotated[float, Interval(ge=0, le=0.95)] = 0.67
    """share of each kernel's weights that pruning sets to 0"""
    bits: Annotated[int, Interval(ge=2, le=8)] = 5
    """of a shared weight: a kernel has 2^bits values, one of them 0"""
    compression_epochs: Annotated[int, Interval(ge=0)] = 3
    """passes while pruning, and as many again while sharing weights, both by TF Model
    Optimization; 0: the weights do not learn again"""
    pretrained_images: Annotated[int, Interval(ge=0)] = 900
    """training images, at most, that a head on EfficientNet-Lite0 learns from; 0: the
    network that has seen ImageNet is left out"""
    without_bypass: bool = True
    """train SqueezeNet without bypass as well"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """at which the milliseconds of the table are measured"""


QUICK = Config(
    data="textures",
    squeeze_ratios=(0.125,),
    epochs=3,
    sparsity=0.1,
    bits=6,
    compression_epochs=0,
    pretrained_images=0,
    without_bypass=False,
    batch_sizes=(),
)
FULL = Config(
    squeeze_ratios=(0.125, 0.25, 0.5, 0.75, 1.0),
    epochs=40,
    compression_epochs=10,
    pretrained_images=100_000,
)

# --------------------------------------------------------------------------------------
# The idea: squeeze to few maps, expand to many
# --------------------------------------------------------------------------------------


def convolution(x, filters: int, kernel_size: int, name: str, **options):
    """Conv → ReLU."""
    layer = layers.Conv2D(
        filters,
        kernel_size,
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
        **options,
    )
    return layer(x)


def fire(x, squeeze: int, expand: int, share_3x3: float = 0.5, name: str = "fire"):
    """Maps (batch, height, width, any) to (batch, height, width, expand).

    squeeze: s, 1×1 filters, all that the expensive 3×3 filters get to see.
    share_3x3: of the expand filters; the others are 1×1.
    """
    filters_3x3 = round(share_3x3 * expand)
    squeezed = convolution(x, squeeze, 1, f"{name}_squeeze")
    one = convolution(squeezed, expand - filters_3x3, 1, f"{name}_expand_1x1")
    three = convolution(squeezed, filters_3x3, 3, f"{name}_expand_3x3", padding="same")
    return layers.Concatenate(name=name)([one, three])


MODULES = range(2, 10)  # fire2 to fire9: conv1 and conv10 stand around them
POOLED = (4, 8)  # those that a pooling follows


def expand_filters(module: int, unit: int = 128) -> int:
    """e of a fire module: so many more after each two of them."""
    return unit * (module // 2)


def build_model(
    image_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    *,
    small: bool = False,
    bypass: bool = False,
    squeeze_ratio: float = 0.125,
    share_3x3: float = 0.5,
    dropout: float = 0.5,
    name: str = "squeezenet",
) -> keras.Model:
    """SqueezeNet 1.0, table 1; with simple bypass figure 2, in the middle.

    small: a quarter of the filters, and a finer start for pictures of some 32 pixels.

    Input: (batch, *image_shape) in [0, 1]. Output: (batch, classes) logits.
    """
    images = keras.Input(image_shape, name="images")
    # Pixels around 0: none of these layers would bring them there.
    x = layers.Rescaling(4.0, -2.0, name="centered")(images)
    if small:
        unit = 32
        padding = "same"
        x = convolution(x, 24, 3, "conv1", strides=2, padding=padding)
    else:
        unit = 128
        padding = "valid"
        # The table's 111 places across take 227 pixels.
        x = layers.ZeroPadding2D(((1, 2), (1, 2)), name="pad")(x)
        x = convolution(x, 96, 7, "conv1", strides=2)
        x = layers.MaxPooling2D(3, 2, name="maxpool1")(x)

    for module in MODULES:
        expand = expand_filters(module, unit)
        squeeze = max(1, round(squeeze_ratio * expand))
        expanded = fire(x, squeeze, expand, share_3x3, f"fire{module}")
        if bypass and x.shape[-1] == expand:
            x = layers.Add(name=f"bypass{module}")([x, expanded])
        else:
            x = expanded
        if module in POOLED:
            x = layers.MaxPooling2D(3, 2, padding, name=f"maxpool{module}")(x)

    if dropout:
        x = layers.Dropout(dropout, name="dropout9")(x)
    x = layers.Conv2D(classes, 1, name="conv10")(x)
    logits = layers.GlobalAveragePooling2D(name="logits")(x)
    return keras.Model(images, logits, name=name)


# A file of a network whose kernels have few values: for each weight the number of its
# value, Huffman coded.


def huffman_coded(numbers: bytes) -> bytes:
    """By zlib, which is told to look for nothing but frequent bytes."""
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(numbers) + coder.flush()


def write_weights(arrays: Sequence[np.ndarray]) -> bytes:
    """The arrays of a network, in order, in one file.

    Of a kernel with at most 255 values but 0: a byte with their count, these in
    float16, and the number of each weight's, 0 for the value 0. Of anything else (a
    bias, a kernel of more values): a byte 0, and all in float16.
    """
    head = b""
    numbers = b""
    for array in arrays:
        values = np.unique(array[array != 0]).astype("<f2")
        if array.ndim > 1 and 0 < len(values) < 256:
            codebook = np.unique(values)
            places = np.searchsorted(codebook, array.astype("<f2"))
            labels = np.where(array == 0, 0, places + 1)
            head += bytes([len(codebook)]) + codebook.tobytes()
            numbers += labels.astype("uint8").tobytes()
        else:
            head += bytes([0]) + array.astype("<f2").tobytes()
    return head + huffman_coded(numbers)


def read_weights(file: bytes, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays (float32) of what `write_weights` wrote; their shapes are those of the
    network that they go into."""
    codebooks = []
    begin = 0
    for shape in shapes:
        count = file[begin] or math.prod(shape)
        stored = np.frombuffer(file, "<f2", count, offset=begin + 1)
        codebooks.append((file[begin] > 0, stored.astype("float32")))
        begin += 1 + stored.nbytes

    numbers = np.frombuffer(zlib.decompress(file[begin:]), "uint8")
    arrays = []
    for shape, (is_coded, values) in zip(shapes, codebooks, strict=True):
        if is_coded:
            labels = numbers[: math.prod(shape)]
            numbers = numbers[len(labels) :]
            values = np.concatenate([[0], values])[labels]
        arrays.append(values.reshape(shape).astype("float32"))
    return arrays


def prune(kernel: np.ndarray, sparsity: float) -> np.ndarray:
    """Without the share `sparsity` of its weights that are nearest 0."""
    removed = round(sparsity * kernel.size)
    ranks = np.abs(kernel).argsort(axis=None).argsort().reshape(kernel.shape)
    return np.where(ranks < removed, 0, kernel)


def share(kernel: np.ndarray, bits: int) -> np.ndarray:
    """With at most 2^bits values, one of them 0: the range of the others is cut evenly,
    and a weight becomes the mean of those in its part."""
    is_kept = kernel != 0
    weights = kernel[is_kept]
    shared = np.zeros_like(kernel)
    if len(weights):
        edges = np.linspace(weights.min(), weights.max(), 2**bits)
        parts = np.digitize(weights, edges[1:-1])
        sums = np.bincount(parts, weights)
        counts = np.bincount(parts)
        shared[is_kept] = (sums / np.maximum(counts, 1))[parts]
    return shared


# --------------------------------------------------------------------------------------
# The experiment: AlexNet's task, bypass and squeeze ratio, and the file in the end
# --------------------------------------------------------------------------------------

PARAMETERS = 1_248_424  # counted by table 1
ALEXNET_PARAMETERS = 60_965_224  # of the original, in two groups
# Table 1: places across and maps.
TABLE = {
    "conv1": (111, 96),
    "maxpool1": (55, 96),
    "fire2": (55, 128),
    "fire3": (55, 128),
    "fire4": (55, 256),
    "maxpool4": (27, 256),
    "fire5": (27, 256),
    "fire6": (27, 384),
    "fire7": (27, 384),
    "fire8": (27, 512),
    "maxpool8": (13, 512),
    "fire9": (13, 512),
    "conv10": (13, 1000),
}
PAPER_FACTOR = 510  # 240 MB of AlexNet to 0.47 MB: pruned, 6 bits, Huffman coded

# Keys of what is trained here; the plain names are those of ImageNet's size.
ALEXNET = "small AlexNet"
SQUEEZENET = "small SqueezeNet"
PLAIN = "small, no bypass"
SIZE = 32
IMAGENET_SIZE = 64  # the same pictures as EfficientNet-Lite0 gets them
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
# AlexNet, with a thousand inputs to each unit, takes smaller steps.
LEARNING_RATES = {ALEXNET: 1e-3}
HEAD_EPOCHS = 30
HEAD_DECAY = 1e-2


def build_alexnet(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """AlexNet with a quarter of its filters and units: five convolutions, overlapping
    pools and two dense layers, which hold nine of ten weights."""
    images = keras.Input(image_shape, name="images")
    x = layers.Rescaling(4.0, -2.0, name="centered")(images)
    x = convolution(x, 24, 5, "conv1", strides=2, padding="same")
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    x = convolution(x, 64, 5, "conv2", padding="same")
    x = layers.MaxPooling2D(3, 2, "same", name="pool2")(x)
    for index, filters in enumerate((96, 96, 64), start=3):
        x = convolution(x, filters, 3, f"conv{index}", padding="same")

    x = layers.Flatten(name="flat")(x)
    for index in (6, 7):
        x = layers.Dense(
            1024, "relu", kernel_initializer="he_normal", name=f"fc{index}"
        )(x)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name="alexnet")


def judge_size(run: Run) -> keras.Model:
    """Returns the network of the paper."""
    model = build_model()
    found = {
        name: (
            model.get_layer(name).output.shape[1],
            model.get_layer(name).output.shape[3],
        )
        for name in TABLE
    }
    counted = model.count_params()
    run.metric("parameters_imagenet", counted)
    run.claim(
        "At ImageNet's size it has the shapes and the weights of the paper's table, 49 "
        "times fewer than AlexNet, 4.8 mebibytes in float32",
        holds=found == TABLE and counted == PARAMETERS,
        measured=f"{counted:,} weights, {4 * counted / 2**20:.2f} MiB; AlexNet's "
        f"{ALEXNET_PARAMETERS:,} / {counted:,} = {ALEXNET_PARAMETERS / counted:.1f}",
        any_data=True,
    )
    return model


def judge_fire(model: keras.Model, run: Run) -> None:
    """A fire module beside one 3×3 convolution from as many maps to as many."""
    in_fire = 0
    in_convolution = 0
    for module in MODULES:
        maps = model.get_layer(f"fire{module}_squeeze").input.shape[-1]
        for part in ("squeeze", "expand_1x1", "expand_3x3"):
            in_fire += model.get_layer(f"fire{module}_{part}").count_params()
        in_convolution += (9 * maps + 1) * expand_filters(module)
    run.compare(
        "A fire module needs ten times fewer weights than a 3×3 convolution from as "
        "many maps to as many: in all eight",
        {"3×3 convolutions": in_convolution, "fire modules": in_fire},
        more="3×3 convolutions",
        less="fire modules",
        times=10,
        any_data=True,
    )


def name_of(ratio: float) -> str:
    return f"small, SR {ratio:g}"


def train_networks(task, config: Config, run: Run) -> dict[str, architectures.Trained]:
    """The small ones, by name. The first ratio's have no name of their own."""
    small = partial(build_model, task.image_shape, task.classes, small=True, dropout=0)
    first, *others = config.squeeze_ratios
    networks = {
        "linear": architectures.build_linear(task),
        ALEXNET: build_alexnet(task.image_shape, task.classes),
        SQUEEZENET: small(squeeze_ratio=first, bypass=True),
    }
    if config.without_bypass:
        networks[PLAIN] = small(squeeze_ratio=first, name="without_bypass")
    for ratio in others:
        networks[name_of(ratio)] = small(
            squeeze_ratio=ratio, bypass=True, name=f"squeeze_ratio_{ratio:g}"
        )
    trained = {}
    for name, network in networks.items():
        trained[name] = architectures.train(
            network,
            task,
            run,
            epochs=config.epochs,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATES.get(name, LEARNING_RATE),
        )
    return trained


def judge_networks(trained, run: Run) -> None:
    tests = {name: found.test for name, found in trained.items()}
    weights = {name: found.model.count_params() for name, found in trained.items()}
    factor = weights[ALEXNET] / weights[SQUEEZENET]
    run.metric("compression_factor", factor)
    run.claim(
        "AlexNet's task at about fifty times fewer weights: SqueezeNet with simple "
        "bypass keeps more than 80 % of its accuracy, both after the same few epochs "
        "(paper: all of it)",
        holds=factor > 48 and tests[SQUEEZENET] > 0.8 * tests[ALEXNET],
        measured=f"{weights[ALEXNET]:,} / {weights[SQUEEZENET]:,} = {factor:.1f}; "
        f"test accuracy AlexNet {tests[ALEXNET]:.3f}, SqueezeNet "
        f"{tests[SQUEEZENET]:.3f}",
    )
    run.compare(
        "It learns far more than a linear classifier of the pixels",
        {name: tests[name] for name in ("linear", SQUEEZENET)},
        more=SQUEEZENET,
        less="linear",
        by=0.1,
    )


def learn_on_imagenet(task, config: Config, run: Run) -> architectures.Trained:
    """EfficientNet-Lite0, which stays as it is but for a new last layer, that learns
    from its features of the same pictures."""
    side = (IMAGENET_SIZE, IMAGENET_SIZE)
    network = classifiers.load("EfficientNetLite0", size=side).model
    backbone = keras.Model(network.inputs[0], network.get_layer("avg_pool").output)
    describe = tf.function(partial(backbone, training=False), reduce_retracing=True)

    def features(images: np.ndarray) -> np.ndarray:
        large = tf.image.resize(images, side, "bicubic")
        parts = np.array_split(large, math.ceil(len(images) / 100))
        return np.concatenate([describe(np.clip(part, 0, 1)) for part in parts])

    count = config.pretrained_images
    parts = []
    for (x, y), most in (
        (task.train, count),
        (task.valid, 1 + count // 3),
        (task.test, None),
    ):
        parts.append((features(x[:most]), y[:most]))
    head = layers.Dense(task.classes, name="logits")
    inputs = keras.Input(parts[0][0].shape[1:], name="features")
    found = architectures.train(
        keras.Model(inputs, head(inputs), name="head"),
        architectures.Task(*parts, task.classes),
        run,
        epochs=HEAD_EPOCHS,
        weight_decay=HEAD_DECAY,
    )
    whole = keras.Model(network.inputs[0], head(backbone.output), name="efficientnet")
    return replace(found, model=whole)


def judge_bypass(trained, run: Run) -> None:
    plain = trained[PLAIN]
    bypass = trained[SQUEEZENET]
    run.claim(
        "Simple bypass costs no weight and does no harm: the training loss ends at "
        "most 5 % higher, accuracy at most five points lower; in most runs it helps "
        "(paper: by 2.9 points of top-1 accuracy)",
        holds=plain.model.count_params() == bypass.model.count_params()
        and bypass.losses[-1] < 1.05 * plain.losses[-1]
        and bypass.test > plain.test - 0.05,
        measured=f"training loss {plain.losses[-1]:.3f} without, "
        f"{bypass.losses[-1]:.3f} with; test accuracy {plain.test:.3f}, "
        f"{bypass.test:.3f}",
    )


def judge_ratios(by_ratio, run: Run) -> None:
    """by_ratio: networks by squeeze ratio."""
    first = min(by_ratio)
    last = max(by_ratio)
    factor = by_ratio[last].model.count_params() / by_ratio[first].model.count_params()
    gain = by_ratio[last].test - by_ratio[first].test
    run.claim(
        "More squeeze filters buy little: less than 15 points of accuracy for nearly "
        "twice the weights or more (paper: 5.7 points of top-5 from 4.8 MB to 19 MB)",
        holds=gain < 0.15 and factor > 1.8,
        measured="; ".join(
            f"SR {ratio:g}: {found.model.count_params():,} weights, test accuracy "
            f"{found.test:.3f}"
            for ratio, found in sorted(by_ratio.items())
        ),
    )


def judge_imagenet(trained, run: Run) -> None:
    tests = {name: found.test for name, found in trained.items()}
    pretrained = tests.pop("EfficientNet-Lite0")
    best = max(tests, key=tests.get)
    run.compare(
        "What ImageNet's million pictures add is more than what any architecture does "
        "from scratch: frozen features and a linear head",
        {"EfficientNet-Lite0": pretrained, best: tests[best]},
        more="EfficientNet-Lite0",
        less=best,
        by=0.1,
    )


@dataclass
class Stage:
    """What is left of a network's size and accuracy."""

    size: float
    """bytes"""
    accuracy: float
    """on test images"""


def sparse_bytes(model: keras.Model, bits: float) -> float:
    """Of so many bits for each weight that is not 0, and one for each that says whether
    it is; codebooks, where there are any, and biases in float16."""
    total = 0.0
    for array in model.get_weights():
        if array.ndim > 1:
            total += (array.size + bits * np.count_nonzero(array)) / 8
            if bits <= 8:
                total += 2 * len(np.unique(array[array != 0]))
        else:
            total += 2 * array.size
    return total


def compress(trained, task, config: Config, run: Run) -> dict[str, Stage]:
    """Pruned, with shared weights, Huffman coded. Returns the stages by name; what is
    written is read again, and this is what the last accuracy is of."""
    network = trained[SQUEEZENET].model
    stages = {
        ALEXNET: Stage(
            4 * trained[ALEXNET].model.count_params(), trained[ALEXNET].test
        ),
        SQUEEZENET: Stage(4 * network.count_params(), trained[SQUEEZENET].test),
    }
    if config.compression_epochs:
        run.print("TF Model Optimization prunes and shares weights ...")
        how = {
            "epochs": config.compression_epochs,
            "batch_size": BATCH_SIZE,
            "verbose": 0,
        }
        pruned = compression.prune(
            network, *task.train, sparsity=config.sparsity, **how
        ).model
        shared = compression.cluster(
            pruned,
            *task.train,
            clusters=2**config.bits,
            preserve_sparsity=True,
            **how,
        ).model
    else:
        pruned = with_kernels(network, partial(prune, sparsity=config.sparsity))
        shared = with_kernels(pruned, partial(share, bits=config.bits))

    stages["pruned"] = Stage(
        sparse_bytes(pruned, 32), architectures.accuracy(pruned, *task.test)
    )
    stages["shared weights"] = Stage(
        sparse_bytes(shared, config.bits), architectures.accuracy(shared, *task.test)
    )
    arrays = shared.get_weights()
    file = write_weights(arrays)
    (run.folder / "squeezenet.bin").write_bytes(file)
    shared.set_weights(read_weights(file, [array.shape for array in arrays]))
    stages["Huffman coded"] = Stage(
        len(file), architectures.accuracy(shared, *task.test)
    )
    return stages


def with_kernels(model: keras.Model, change) -> keras.Model:
    """A copy, whose kernels were changed."""
    copy = keras.models.clone_model(model)
    copy.set_weights(
        [change(array) if array.ndim > 1 else array for array in model.get_weights()]
    )
    return copy


def judge_compression(stages: dict[str, Stage], config: Config, run: Run) -> None:
    size = stages["Huffman coded"].size
    factor = stages[ALEXNET].size / size
    run.metric("compression_factor", factor)
    run.metric("compressed", size / 1000, unit="kB")
    run.metric("test_accuracy_compressed", stages["Huffman coded"].accuracy)
    wanted = 400 if config.compression_epochs else 200
    run.claim(
        f"With pruning, shared weights and Huffman coding on top, the file is {wanted} "
        f"times smaller than AlexNet's weights in float32 (paper: {PAPER_FACTOR}), and "
        "read again it keeps more than 75 % of SqueezeNet's accuracy (paper: all)",
        holds=factor > wanted
        and stages["Huffman coded"].accuracy > 0.75 * stages[SQUEEZENET].accuracy,
        measured=f"{factor:.0f} times in all; "
        + "; ".join(
            f"{name} {stage.size:,.0f} bytes, test accuracy {stage.accuracy:.3f}"
            for name, stage in stages.items()
        ),
    )


def draw_networks(trained, stages: dict[str, Stage]) -> plt.Figure:
    accuracies = figures.Panel(
        title="Accuracy and weights",
        xlabel="weights",
        ylabel="test accuracy",
        points={
            name: ([found.model.count_params()], [found.test])
            for name, found in trained.items()
        },
        xscale="log",
    )
    sizes = figures.Panel(
        title="From AlexNet to a file",
        xlabel="kilobytes",
        bars={
            f"{name}\naccuracy {stage.accuracy:.3f}": stage.size / 1000
            for name, stage in stages.items()
        },
        xscale="log",
        number="{:,.0f}",
    )
    return figures.panels(accuracies, sizes)


def draw_training(trained) -> plt.Figure:
    losses = {name: found.losses for name, found in trained.items()}
    return figures.curves(
        losses, title="Training, epoch by epoch", ylabel="cross entropy (nats)"
    )


def main(config: Config, run: Run) -> None:
    others = config.squeeze_ratios[1:]
    rivals = 2 + config.without_bypass + (config.pretrained_images > 0)
    run.plan(rivals + 1 + len(others))
    imagenet_model = judge_size(run)
    judge_fire(imagenet_model, run)

    task = architectures.load_task(config.data, run.seed, size=SIZE)
    trained = train_networks(task, config, run)
    judge_networks(trained, run)
    if config.without_bypass:
        judge_bypass(trained, run)
    if others:
        by_ratio = {config.squeeze_ratios[0]: trained[SQUEEZENET]}
        by_ratio |= {ratio: trained[name_of(ratio)] for ratio in others}
        judge_ratios(by_ratio, run)
    run.figure("training", draw_training(trained))

    stages = compress(trained, task, config, run)
    judge_compression(stages, config, run)
    if config.pretrained_images:
        trained["EfficientNet-Lite0"] = learn_on_imagenet(task, config, run)
        judge_imagenet(trained, run)
    run.figure("networks", draw_networks(trained, stages))
    architectures.report(
        run, trained, {"SqueezeNet": imagenet_model}, batch_sizes=config.batch_sizes
    )
    network = trained[SQUEEZENET].model
    run.export(serving.classifier(network), example=task.test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
