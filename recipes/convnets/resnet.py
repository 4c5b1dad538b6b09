"""Residual networks: blocks that add to what they are given.

A block of two or three convolutions F learns what to add to its input, y = ReLU(x + F(x)),
instead of the whole answer, y = ReLU(F(x)). A block with nothing to add has F = 0 and
gives x back. The gradient of a sum goes to both of its terms, so that it reaches the
first layers through the shortcuts as it is, whatever the layers between do to it.
A deeper plain network could copy a shallower one and let the other blocks be the
identity. Training does not find that: the *training* error rises with depth.
Look at the two curves of training error over depth, at gradient norms by layer, and at
the blocks that weight decay turns into the identity.

Lectures: SEL CNN architectures: ResNet; ICME ResNet; CS Residual Blocks and L2
    normalization, CNN Architectures
Paper: He et al., Deep residual learning for image recognition, 2016 (sections 3.1 to
    3.4, 4.2, table 1); He et al., Identity mappings in deep residual networks, 2016
Tags: skip connection, shortcut, degradation, bottleneck, preactivation, cnn, imagenet,
    vanishing gradient
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval, MinLen
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import UsageError, architectures, figures, serving, training
from deep_learning_recipes.run import Run, cli

Count = Annotated[int, Interval(ge=1, le=18)]


@dataclass
class Config:
    data: str = "recolored_photos"
    """recolored_photos, photos or textures (embedded), cifar10 where Keras can download
    or has cached it, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    blocks: Annotated[tuple[Count, ...], MinLen(2)] = (1, 3, 5)
    """n, blocks in each of three stages, of the networks to train: 6n + 2 layers"""
    filters: Annotated[int, Interval(ge=2)] = 8
    """of the first stage; the second has twice as many, the third four times"""
    epochs: int = 8
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    weight_decay: float = 20.0
    """of the blocks' weights, where decay is shown: share of a weight that is taken in
    a step, divided by the learning rate"""
    untrained_blocks: Count = 9
    """n of the networks whose gradients are shown before training"""
    imagenet: tuple[Literal[18, 34, 50, 101, 152], ...] = (18, 50, 152)
    """layers of the networks of ImageNet's size that are counted and timed"""
    batch_sizes: tuple[int, ...] = (1, 32)
    """with which milliseconds per image are measured"""


QUICK = Config(
    data="photos",
    blocks=(1, 4),
    epochs=2,
    weight_decay=30.0,
    untrained_blocks=5,
    imagenet=(50,),
    batch_sizes=(),
)
FULL = Config(blocks=(1, 3, 5, 9), filters=16, epochs=30, untrained_blocks=18)

# --------------------------------------------------------------------------------------
# The idea: x + F(x)
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common."""

    bottleneck: bool = False
    """1×1, 3×3 and 1×1 convolutions, the last with four times the filters, instead of
    two 3×3"""
    residual: bool = True
    """with shortcuts; a plain network is without"""
    preactivation: bool = False
    """normalization and ReLU before each convolution, and none after the addition"""
    projection: bool = True
    """where the shape changes, a 1×1 convolution is the shortcut (the paper's option B),
    instead of zeros for the new channels (option A), which has no parameters"""
    normalized: bool = True
    """with batch normalization"""


# Blocks in each of the stages, conv2_x to conv5_x, and whether they are bottlenecks.
TABLE_1 = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def block(x, filters: int, stride: int, style: Style, name: str):
    """y = ReLU(x + F(x)); of a plain network, y = ReLU(F(x)).

    x: (batch, height, width, channels). Returns (batch, height / stride, width / stride,
    filters), of a bottleneck 4 · filters.
    """
    branch = convolve(x, filters, stride, style, name)
    if style.residual:
        skip = shortcut(x, branch.shape[-1], stride, style, name)
        branch = layers.Add(name=f"{name}_add")([skip, branch])
    return layers.ReLU(name=f"{name}_out")(branch)


def convolve(x, filters: int, stride: int, style: Style, name: str):
    """F(x), without the last ReLU."""
    if style.bottleneck:
        plan = [(1, filters, stride), (3, filters, 1), (1, 4 * filters, 1)]
    else:
        plan = [(3, filters, stride), (3, filters, 1)]

    for index, (kernel_size, outputs, strides) in enumerate(plan, start=1):
        if index > 1:
            x = layers.ReLU(name=f"{name}_{index - 1}_relu")(x)
        x = convolution(
            x,
            outputs,
            kernel_size,
            strides,
            use_bias=not style.normalized,
            name=f"{name}_{index}",
        )
        x = normalization(x, style, name=f"{name}_{index}")
    return x


def preactivation_block(x, filters: int, stride: int, style: Style, name: str):
    """y = x + F(ReLU(BN(x))): from the first block to the last nothing but additions is
    in the way of x, nor of its gradient. Shapes as of `block`."""
    if style.bottleneck:
        plan = [(1, filters, 1), (3, filters, stride), (1, 4 * filters, 1)]
    else:
        plan = [(3, filters, stride), (3, filters, 1)]

    activated = normalization(x, style, name=f"{name}_preact")
    activated = layers.ReLU(name=f"{name}_preact_relu")(activated)
    branch = activated
    for index, (kernel_size, outputs, strides) in enumerate(plan, start=1):
        if index > 1:
            branch = normalization(branch, style, name=f"{name}_{index - 1}")
            branch = layers.ReLU(name=f"{name}_{index - 1}_relu")(branch)
        branch = convolution(
            branch,
            outputs,
            kernel_size,
            strides,
            use_bias=not style.normalized,
            name=f"{name}_{index}",
        )

    if not style.residual:
        return branch
    channels = branch.shape[-1]
    if style.projection and channels != x.shape[-1]:
        skip = convolution(activated, channels, 1, stride, name=f"{name}_0")
    else:
        skip = shortcut(x, channels, stride, style, name)
    return layers.Add(name=f"{name}_out")([skip, branch])


def shortcut(x, channels: int, stride: int, style: Style, name: str):
    """x itself, where F(x) has its shape."""
    new = channels - x.shape[-1]
    if style.projection and new:
        x = convolution(x, channels, 1, stride, not style.normalized, name=f"{name}_0")
        return normalization(x, style, name=f"{name}_0")

    if stride > 1:
        x = layers.MaxPooling2D(1, stride, name=f"{name}_0_pool")(x)
    if new:
        x = ops.pad(x, [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)])
    return x


def convolution(
    x,
    filters: int,
    kernel_size: int,
    stride: int = 1,
    use_bias: bool = False,
    name: str = "",
):
    """Of a bias, the mean that normalization subtracts would leave nothing."""
    padding = "same"
    if stride > 1 and kernel_size > 1:
        # At a stride, "same" would pad even sizes at the right and below only.
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    layer = layers.Conv2D(
        filters,
        kernel_size,
        stride,
        padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    return layer(x)


def normalization(x, style: Style, name: str):
    if not style.normalized:
        return x
    layer = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")
    return layer(x)


def stack_blocks(x, strides: list[int], filters: int, style: Style, name: str):
    """A stage: blocks of one width, one for each of the strides."""
    build = preactivation_block if style.preactivation else block
    for index, stride in enumerate(strides, start=1):
        x = build(x, filters, stride, style, name=f"{name}_block{index}")
    return x


def stem(images, filters: int, kernel_size: int, stride: int, style: Style):
    """The first convolution. With preactivation the first block normalizes it."""
    use_bias = not style.normalized
    x = convolution(images, filters, kernel_size, stride, use_bias, name="conv1")
    if style.preactivation:
        return x
    x = normalization(x, style, name="conv1")
    return layers.ReLU(name="conv1_relu")(x)


def head(x, classes: int, style: Style):
    """Means over all places, then logits."""
    if style.preactivation:
        x = normalization(x, style, name="post")
        x = layers.ReLU(name="post_relu")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return layers.Dense(classes, name="predictions")(x)


def build_model(
    depth: int = 50,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    filters: int = 64,
    small_images: bool = False,
    residual: bool = True,
    preactivation: bool = False,
    projection: bool = True,
) -> keras.Model:
    """The networks of table 1, for ImageNet.

    Input: (batch, *image_shape). Output: (batch, classes) logits. Layers are named as
    in `keras.applications`.

    depth: 18, 34 (of basic blocks), 50, 101 or 152 (of bottlenecks).
    filters: of the first stage; each later one has twice as many.
    small_images: the first convolution is 3×3 at stride 1, and no pooling follows.
    residual, preactivation, projection: as of `Style`.
    """
    blocks, bottleneck = TABLE_1[depth]
    style = Style(bottleneck, residual, preactivation, projection)
    images = keras.Input(image_shape, name="images")
    if small_images:
        x = stem(images, filters, 3, 1, style)
    else:
        x = stem(images, filters, 7, 2, style)
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)

    for stage, count in enumerate(blocks):
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        x = stack_blocks(x, strides, filters * 2**stage, style, f"conv{stage + 2}")
    return keras.Model(images, head(x, classes, style), name=f"resnet_{depth}")


def build_small(
    depth: int = 20,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    filters: int = 16,
    residual: bool = True,
    preactivation: bool = False,
    projection: bool = False,
    normalized: bool = True,
) -> keras.Model:
    """The networks of section 4.2, for CIFAR: three stages of n basic blocks. Input and
    output as of `build_model`.

    depth: 6n + 2.
    projection: False as in the paper, so that a plain and a residual network have the
        same parameters, one by one.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2: 8, 14, 20, ..., not {depth}")
    count = depth // 6
    style = Style(
        residual=residual,
        preactivation=preactivation,
        projection=projection,
        normalized=normalized,
    )
    images = keras.Input(image_shape, name="images")
    x = stem(images, filters, 3, 1, style)
    for stage in range(3):
        strides = [1 if stage == 0 else 2] + [1] * (count - 1)
        x = stack_blocks(x, strides, filters * 2**stage, style, f"conv{stage + 2}")
    kind = "resnet" if residual else "plain"
    return keras.Model(images, head(x, classes, style), name=f"{kind}_{depth}")


def blocks_of(model: keras.Model) -> list[str]:
    """Names of the blocks, from the first to the last."""
    ends = [layer.name for layer in model.layers if layer.name.endswith("_out")]
    return [name.removesuffix("_out") for name in ends]


def last_normalization(model: keras.Model, name: str) -> layers.BatchNormalization:
    """That of a block: its γ and β at 0 make F = 0. Not for preactivation."""
    names = {layer.name for layer in model.layers}
    index = 3 if f"{name}_3_bn" in names else 2
    return model.get_layer(f"{name}_{index}_bn")


def silence(model: keras.Model, names: Sequence[str]) -> None:
    """F = 0 from now on: with a shortcut, a block is the identity, as x is no less than
    0 after the ReLU below."""
    for name in names:
        layer = last_normalization(model, name)
        layer.gamma.assign(ops.zeros_like(layer.gamma))
        layer.beta.assign(ops.zeros_like(layer.beta))


def pass_through(model: keras.Model, names: Sequence[str]) -> None:
    """The identity in a plain network: each filter takes the middle of its own channel,
    and the normalization undoes itself."""
    for name in names:
        for index in (1, 2):
            kernel = np.zeros(model.get_layer(f"{name}_{index}_conv").kernel.shape)
            kernel[1, 1] = np.eye(len(kernel[1, 1]))
            model.get_layer(f"{name}_{index}_conv").kernel.assign(kernel)

            layer = model.get_layer(f"{name}_{index}_bn")
            deviation = ops.sqrt(layer.moving_variance + layer.epsilon)
            layer.gamma.assign(deviation)
            layer.beta.assign(layer.moving_mean)


def copy_blocks(shallow: keras.Model, deep: keras.Model) -> list[str]:
    """Gives a deeper network all layers of a shallower one. Returns the names of the
    blocks that it has besides."""
    names = {layer.name for layer in shallow.layers}
    for layer in deep.layers:
        if layer.name in names:
            layer.set_weights(shallow.get_layer(layer.name).get_weights())
    return [name for name in blocks_of(deep) if f"{name}_out" not in names]


def branch_sizes(model: keras.Model, images) -> dict[str, float]:
    """|F(x)| / |x| of each block: how much it adds, relative to what it is given."""
    names = blocks_of(model)
    terms = [model.get_layer(f"{name}_add").input for name in names]
    found = keras.Model(model.input, terms)(images)
    sizes = {}
    for name, (given, added) in zip(names, found, strict=True):
        size = np.linalg.norm(given)
        sizes[name] = float(np.linalg.norm(added) / max(size, 1e-12))
    return sizes


def gradient_norms(model: keras.Model, images, labels) -> np.ndarray:
    """Of the mean loss of a batch, with respect to the weights of each convolution, from
    the first to the last: (convolutions,). Those of shortcuts are left out."""
    kernels = [
        layer.kernel
        for layer in model.layers
        if isinstance(layer, layers.Conv2D) and not layer.name.endswith("_0_conv")
    ]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(labels, model(images, training=True))
    gradients = tape.gradient(value, [kernel.value for kernel in kernels])
    return np.array([float(tf.norm(gradient)) for gradient in gradients])


def decay_blocks(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Weight decay for the blocks alone. If the first layer's weights and the logits'
    shrank as well, x would with F(x), and nothing would have become the identity."""
    others = [
        weight
        for layer in model.layers
        if "_block" not in layer.name
        for weight in layer.trainable_weights
    ]
    optimizer.exclude_from_weight_decay(var_list=others)


# --------------------------------------------------------------------------------------
# The experiment: depth with and without shortcuts, gradients, identities, decay
# --------------------------------------------------------------------------------------

SIZE = 16  # pixels across, of what is trained
LEARNING_RATE = 2e-3  # as of `architectures.train`
IMAGES = 300  # on which blocks are measured
BATCH = 64  # images, of whose mean loss the gradients are shown
REMOVED = 1 / 3  # share of the blocks, the smallest, that a claim is about

KINDS = {"plain": False, "residual": True}
Networks = dict[str, dict[int, architectures.Trained]]  # by kind and n


def build(blocks: int, residual: bool, task: architectures.Task, config: Config):
    return build_small(
        6 * blocks + 2, task.image_shape, task.classes, config.filters, residual
    )


def train_depths(task: architectures.Task, config: Config, run: Run) -> Networks:
    trained: Networks = {kind: {} for kind in KINDS}
    for blocks in sorted(set(config.blocks)):
        for kind, residual in KINDS.items():
            trained[kind][blocks] = architectures.train(
                build(blocks, residual, task, config),
                task,
                run,
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=LEARNING_RATE,
            )
    return trained


def training_errors(trained: Networks) -> dict[str, float]:
    """Shares of the training images, by the names of the networks."""
    return {
        found.model.name: 1 - found.train_accuracy
        for by_blocks in trained.values()
        for found in by_blocks.values()
    }


def judge_depth(trained: Networks, run: Run) -> None:
    errors = training_errors(trained)
    # The deepest residual network first.
    run.metrics("training_error", dict(reversed(errors.items())))
    plain = [found.model for found in trained["plain"].values()]
    residual = [found.model for found in trained["residual"].values()]
    run.compare(
        "A plain network can be too deep: the deepest has a higher error than the "
        "shallowest on the very images that they learn from",
        errors,
        more=plain[-1].name,
        less=plain[0].name,
        by=0.04,
    )

    counts = [model.count_params() for model in plain]
    alike = counts == [model.count_params() for model in residual]
    shallow = errors[residual[0].name]
    deep = errors[residual[-1].name]
    run.claim(
        "With shortcuts, of which none has a parameter, the deepest does not (by 2 "
        "points at most)",
        holds=alike and deep < shallow + 0.02,
        measured=f"training error {residual[0].name} {shallow:.1%}, {residual[-1].name} "
        f"{deep:.1%}; {counts[0]:,} and {counts[-1]:,} parameters, as many as of the "
        "plain networks",
    )
    run.compare(
        "So at the same depth and with the same parameters, shortcuts decide",
        errors,
        more=plain[-1].name,
        less=residual[-1].name,
        by=0.1,
    )


@dataclass
class Gradients:
    """Norms by layer, by name of the network."""

    shallow: dict[str, np.ndarray]
    """of networks of 8 layers, untrained"""
    deep: dict[str, np.ndarray]
    """of deep networks, untrained"""
    trained: dict[str, np.ndarray]
    """of the deepest that were trained"""


def untrained_norms(blocks: int, task: architectures.Task, config: Config):
    """Gradient norms, with and without shortcuts and batch normalization."""
    x, y = task.train
    norms = {}
    for normalized, ending in ((True, ""), (False, ", no batch norm")):
        for kind, residual in KINDS.items():
            model = build_small(
                6 * blocks + 2,
                task.image_shape,
                task.classes,
                config.filters,
                residual,
                normalized=normalized,
            )
            norms[kind + ending] = gradient_norms(model, x[:BATCH], y[:BATCH])
    return norms


def measure_gradients(
    trained: Networks, task: architectures.Task, config: Config
) -> Gradients:
    x, y = task.train
    after = {}
    for kind in KINDS:
        model = trained[kind][max(config.blocks)].model
        kept = model.get_weights()
        after[kind] = gradient_norms(model, x[:BATCH], y[:BATCH])
        model.set_weights(kept)  # its moving averages had taken in the batch
    return Gradients(
        shallow=untrained_norms(1, task, config),
        deep=untrained_norms(config.untrained_blocks, task, config),
        trained=after,
    )


def judge_gradients(gradients: Gradients, run: Run) -> None:
    layer_count = len(gradients.deep["plain"]) + 1
    spreads = {kind: ratio_of(gradients.deep[kind]) for kind in KINDS}
    run.metrics("gradient_spread", spreads)
    run.compare(
        "The gradient reaches the first layers as it is: before training, its norm "
        "differs far less from layer to layer with shortcuts, where a plain network with "
        "batch normalization has it explode toward the image (largest norm of "
        f"{layer_count} layers over the smallest)",
        spreads,
        more="plain",
        less="residual",
        times=4,
    )

    ending = ", no batch norm"
    changes = {
        kind: typical(gradients.deep[kind + ending])
        / typical(gradients.shallow[kind + ending])
        for kind in KINDS
    }
    run.claim(
        "Without batch normalization it vanishes as a plain network gets deeper; with "
        "shortcuts it does not, it grows, as each block adds to the variance: residual "
        "networks need the normalization as well",
        holds=changes["plain"] < 1 / 4 and changes["residual"] > 1,
        measured=f"geometric mean of the norms of {layer_count} layers over that of 8: "
        f"plain {changes['plain']:.2g}, residual {changes['residual']:.2g}",
    )


def ratio_of(norms: np.ndarray) -> float:
    return float(norms.max() / max(norms.min(), 1e-30))


def typical(norms: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(norms, 1e-30)))))


def judge_identity(
    trained: Networks, task: architectures.Task, config: Config, run: Run
) -> None:
    """Deeper networks that hold the shallowest trained ones, in three ways."""
    shallowest = min(config.blocks)
    deepest = max(config.blocks)
    images = task.test[0][:IMAGES]
    changes = {}
    for name, residual, identity in (
        ("residual, F = 0", True, silence),
        ("plain, F = 0", False, silence),
        ("plain, identity kernels", False, pass_through),
    ):
        kind = "residual" if residual else "plain"
        shallow = trained[kind][shallowest].model
        deep = build(deepest, residual, task, config)
        identity(deep, copy_blocks(shallow, deep))
        logits = np.asarray(shallow(images))
        away = np.abs(np.asarray(deep(images)) - logits).max()
        changes[name] = float(away / np.abs(logits).max())

    run.claim(
        "A deeper residual network holds the shallower one: with F = 0 in the added "
        "blocks it gives the same logits, bit for bit; a plain network forgets its "
        "images with those weights. It could pass them through as well, but only by "
        "kernels that are the identity themselves",
        holds=changes["residual, F = 0"] == 0
        and changes["plain, F = 0"] > 1e-2
        and changes["plain, identity kernels"] < 1e-4,
        measured=f"{6 * shallowest + 2} in {6 * deepest + 2} layers, largest change of a "
        "logit, of the largest logit: "
        + ", ".join(f"{name}: {change:.2g}" for name, change in changes.items()),
        any_data=True,
    )


@dataclass
class Removals:
    """A residual network without the 0, 1, 2, ... blocks that add least."""

    sizes: dict[str, float]
    """|F(x)| / |x| of all blocks"""
    kept: list[float]
    """share of the test images that it assigns to the same class as with all blocks"""
    accuracies: list[float]
    """on test images"""


def train_with_decay(task: architectures.Task, config: Config, run: Run) -> keras.Model:
    """A residual network, as `architectures.train` does, but that the blocks decay."""
    x, y = task.train
    model = build(middle(config), True, task, config)
    steps = config.epochs * -(-len(x) // config.batch_size)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps),
        weight_decay=config.weight_decay,
    )
    decay_blocks(optimizer, model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    training.fit(
        model,
        x,
        y,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return model


def middle(config: Config) -> int:
    """n of the network that is shown in the table, and with decay."""
    ladder = sorted(set(config.blocks))
    return ladder[(len(ladder) - 1) // 2]


def remove_blocks(model: keras.Model, task: architectures.Task) -> Removals:
    """Half of them, the smallest first, as measured on training images. The model is
    left as it was."""
    sizes = branch_sizes(model, task.train[0][:IMAGES])
    smallest_first = sorted(sizes, key=sizes.get)
    x, y = task.test
    weights = model.get_weights()
    found = []
    for count in range(len(smallest_first) // 2 + 1):
        silence(model, smallest_first[:count])
        found.append(classes_of(model, x))
    model.set_weights(weights)
    return Removals(
        sizes=sizes,
        kept=[float(np.mean(each == found[0])) for each in found],
        accuracies=[float(np.mean(each == y)) for each in found],
    )


def classes_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    parts = np.array_split(images, -(-len(images) // IMAGES))
    # Eager calls: to trace a model that is asked a few times takes longer.
    return np.concatenate([np.argmax(model(part), axis=-1) for part in parts])


def judge_decay(removals: dict[str, Removals], classes: int, run: Run) -> None:
    sizes = {
        name: float(np.mean(list(found.sizes.values())))
        for name, found in removals.items()
    }
    run.metrics("mean_branch_size", sizes)
    run.compare(
        "Weight decay turns blocks into the identity: with it they add far less to what "
        "they are given, |F(x)| / |x|, mean of the blocks",
        sizes,
        more="no decay",
        less="decay",
        times=3,
    )

    blocks = len(removals["decay"].sizes)
    count = round(REMOVED * blocks)
    kept = {name: found.kept[count] for name, found in removals.items()}
    accuracies = ", ".join(
        f"{name} {found.accuracies[0]:.1%} → {found.accuracies[count]:.1%}"
        for name, found in removals.items()
    )
    run.metrics("class_kept", kept)
    run.claim(
        f"Then they can go: without the {count} smallest of {blocks} blocks far more "
        "test images keep their class than in a network that learned without decay (and "
        "it has learned, too: 5 points above chance)",
        holds=kept["decay"] > kept["no decay"] + 0.15
        and removals["decay"].accuracies[0] > 1 / classes + 0.05,
        measured=f"no decay {kept['no decay']:.1%} of the test images, decay "
        f"{kept['decay']:.1%} (+15 points wanted); test accuracy {accuracies}",
    )


def whole_numbers(last: int) -> list[int]:
    """Some from 1 to the last, for an axis."""
    return sorted({round(each) for each in np.linspace(1, last, 7)})


def draw_depth(trained: Networks, classes: int) -> plt.Figure:
    epochs = figures.Panel(
        title="While they learn",
        xlabel="epoch",
        ylabel="training loss (nats)",
        xticks=whole_numbers(len(trained["plain"][min(trained["plain"])].losses)),
        lines={
            f"{kind}, {6 * blocks + 2} layers": found.losses
            for kind, by_blocks in trained.items()
            for blocks, found in by_blocks.items()
        },
    )
    depths = [6 * blocks + 2 for blocks in trained["plain"]]
    ends = figures.Panel(
        title="Afterwards",
        xlabel="layers",
        ylabel="training error",
        lines={
            kind: (depths, [1 - found.train_accuracy for found in by_blocks.values()])
            for kind, by_blocks in trained.items()
        },
        levels={"chance": 1 - 1 / classes},
        xticks=depths,
        ylim=(0, 1),
    )
    return figures.panels(epochs, ends)


def draw_gradients(gradients: Gradients) -> plt.Figure:
    lowest = min(norms.min() for norms in gradients.deep.values())
    highest = max(norms.max() for norms in gradients.deep.values())
    shown = []
    for title, norms in (
        ("before training", gradients.deep),
        ("after training", gradients.trained),
    ):
        count = len(norms["plain"])
        panel = figures.Panel(
            title=f"{count + 1} layers, {title}",
            xlabel="convolution, from the image on",
            ylabel="norm of the gradient",
            lines=norms,
            yscale="log",
            xticks=whole_numbers(count),
            # One scale for both, with room for the names above.
            ylim=(lowest / 3, 1000 * highest),
        )
        shown.append(panel)
    return figures.panels(*shown)


def draw_decay(removals: dict[str, Removals]) -> plt.Figure:
    sizes = figures.Panel(
        title="What a residual block adds",
        xlabel="block, from the image on",
        ylabel="|F(x)| / |x|",
        lines={name: list(found.sizes.values()) for name, found in removals.items()},
        yscale="log",
        xticks=range(1, len(removals["decay"].sizes) + 1),
    )
    kept = figures.Panel(
        title="Without the smallest blocks",
        xlabel="blocks removed",
        ylabel="test images that keep their class",
        lines={
            name: (range(len(found.kept)), found.kept)
            for name, found in removals.items()
        },
        xticks=range(len(removals["decay"].kept)),
        ylim=(0, 1.02),
    )
    return figures.panels(sizes, kept)


def main(config: Config, run: Run) -> None:
    ladder = sorted(set(config.blocks))
    if len(ladder) < 2:
        raise UsageError("--blocks: two different depths or more are compared")
    run.plan(2 * len(ladder) + 2)
    task = architectures.load_task(config.data, run.seed, size=SIZE)
    trained = train_depths(task, config, run)
    judge_depth(trained, run)
    run.figure("depth", draw_depth(trained, task.classes))

    judge_identity(trained, task, config, run)
    gradients = measure_gradients(trained, task, config)
    judge_gradients(gradients, run)
    run.figure("gradients", draw_gradients(gradients))

    decayed = train_with_decay(task, config, run)
    chosen = trained["residual"][middle(config)].model
    removals = {
        "no decay": remove_blocks(chosen, task),
        "decay": remove_blocks(decayed, task),
    }
    judge_decay(removals, task.classes, run)
    run.figure("decay", draw_decay(removals))

    report(trained, task, config, run)
    run.export(serving.classifier(chosen), example=task.test[0][:3])


def report(
    trained: Networks, task: architectures.Task, config: Config, run: Run
) -> None:
    """The rows of the table of architectures."""
    linear = architectures.train(
        architectures.build_linear(task),
        task,
        run,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=LEARNING_RATE,
    )
    depth = 6 * middle(config) + 2
    architectures.report(
        run,
        trained={
            f"ResNet-{depth}": trained["residual"][middle(config)],
            f"plain-{depth}": trained["plain"][middle(config)],
            "linear": linear,
        },
        imagenet={f"ResNet-{size}": build_model(size) for size in config.imagenet},
        batch_sizes=config.batch_sizes,
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
