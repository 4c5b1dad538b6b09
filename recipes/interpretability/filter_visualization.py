"""Filters, activation maps, and the patches that excite a neuron most.

What has a network learned to look for? The first layer's filters are pictures
themselves: small patches of color that are laid over the image. Those of later layers
weigh other layers' maps, and cannot be looked at. But a neuron can be asked for what it
likes: go through many pictures, and cut out its receptive field, all that it can see,
where it answered the loudest.
Look at what neurons of a network that was trained on ImageNet find in photographs:
edges, grids, eyes; and at how the patches of one neuron are alike in a network that
learns digits here, by strokes in the first layers, by the digit in the last ones.

Lectures: CS Visualizing & Understanding (filter weights, maximally activating patches,
    activations)
Paper: Zeiler and Fergus, Visualizing and understanding convolutional networks, 2014
    (section 4)
Tags: feature maps, feature visualization, receptive field, cnn, convolution, imagenet,
    xai
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from matplotlib import pyplot as plt

from deep_learning_recipes import classifiers, data, serving, training
from deep_learning_recipes.run import Run, cli

IMAGENET = "EfficientNetLite0"


@dataclass
class Config:
    size: int = 48
    """side of the scenes in pixels"""
    scenes: int = 3000
    """pictures of a digit on a photograph to train on"""
    epochs: int = 8
    """passes over them"""
    batch_size: int = 64
    """pictures a gradient is averaged over"""
    patches: int = 9
    """of each neuron, from as many pictures"""
    model: str = IMAGENET
    """EfficientNetLite0, whose ImageNet weights need no download, and a network that
    learns digits; or another one to look into: of keras.applications, or a .keras
    file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own (PNG, JPEG), whose activation maps are drawn"""


QUICK = Config(size=24, scenes=1500, epochs=5, batch_size=32)
FULL = Config(scenes=10_000, epochs=20)

LAYERS = ("relu1", "relu2", "relu3", "relu4")
# Of EfficientNetLite0: its neurons see 11, 19, and 67 pixels.
IMAGENET_LAYERS = ("block2a_project_bn", "block2b_add", "block3b_add")


# --------------------------------------------------------------------------------------
# The idea: what a neuron can see, and where it answers the loudest
# --------------------------------------------------------------------------------------


def build_model(input_shape=(48, 48, 3), classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, *input_shape) in [0, 1]. Output: (batch, classes)
    logits.

    The maps of "relu1" to "relu4" have 16, 32, 64 and 64 channels: the neurons to look
    at.
    """
    images = keras.Input(input_shape, name="images")
    x = images
    sizes = ((16, 7), (32, 3), (64, 3), (64, 3))
    for number, (filters, size) in enumerate(sizes, start=1):
        # The first layer starts small, so that what is seen in its filters was learned;
        # batch norm sets the scale.
        start = "he_normal"
        if number == 1:
            start = keras.initializers.RandomNormal(stddev=0.01)
        x = layers.Conv2D(
            filters,
            size,
            padding="same",
            use_bias=False,
            kernel_initializer=start,
            name=f"conv{number}",
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        if number <= 2:
            x = layers.MaxPooling2D(name=f"pool{number}")(x)
    x = layers.GlobalMaxPooling2D(name="strongest")(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="reader")


# Layers that work on each place alone. A sum sees what its widest branch sees.
POINTWISE = (
    layers.InputLayer,
    layers.Rescaling,
    layers.BatchNormalization,
    layers.ReLU,
    layers.Add,
)
WINDOWED = (layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D)


def receptive_field(model: keras.Model, name: str) -> tuple[int, int, int]:
    """What a neuron of layer `name` can see of the picture, in pixels: (size, stride,
    start).

    Neuron i of a row sees the pixels from start + i·stride on, `size` of them; some may
    lie outside the picture, where padding is. The layers up to there are one chain of
    convolutions, pools and layers that work on each place alone, with sums that take up
    an earlier link of it; strides divide the sides of the maps. Raises ValueError for
    another layer.
    """
    size = 1
    stride = 1
    start = 0
    for layer in model.layers:
        if isinstance(layer, WINDOWED):
            window = getattr(layer, "kernel_size", None) or layer.pool_size
            step = layer.strides[0]
            before = (window[0] - step) // 2 if layer.padding == "same" else 0
            size += (window[0] - 1) * stride
            start -= before * stride
            stride *= step
        elif not is_pointwise(layer):
            raise ValueError(
                f"{layer.name}: the receptive field of such a layer is not known here"
            )
        if layer.name == name:
            return size, stride, start
    raise ValueError(f"{model.name} has no layer {name!r}")


def is_pointwise(layer) -> bool:
    """Arithmetic with numbers, too, such as of preprocessing, is done at each place."""
    arithmetic = "Add", "Subtract", "Multiply", "TrueDivide", "Divide"
    return isinstance(layer, POINTWISE) or type(layer).__name__ in arithmetic


def cut(
    images: np.ndarray, places: np.ndarray, field: tuple[int, int, int]
) -> np.ndarray:
    """The receptive fields of the neurons at `places` (n, 3): picture, row, column of
    the map. Outside the picture is black. Returns (n, size, size, 3)."""
    size, stride, start = field
    padded = np.pad(images[places[:, 0]], ((0, 0), (size, size), (size, size), (0, 0)))
    corners = size + start + stride * places[:, 1:]
    patches = []
    for image, (top, left) in zip(padded, corners, strict=True):
        patches.append(image[top : top + size, left : left + size])
    return np.stack(patches)


def strongest_places(maps: np.ndarray, channel: int, count: int) -> np.ndarray:
    """Where the maps (n, height, width, channels) of a channel are highest, one place
    in each of the `count` pictures that excite it most, (count, 3): picture, row,
    column."""
    flat = maps[..., channel].reshape(len(maps), -1)
    pictures = np.argsort(-flat.max(axis=1), kind="stable")[:count]
    rows, columns = np.divmod(flat[pictures].argmax(axis=1), maps.shape[2])
    return np.stack([pictures, rows, columns], axis=1)


# --------------------------------------------------------------------------------------
# The experiment: ImageNet's neurons on photographs, and neurons that learn digits
# --------------------------------------------------------------------------------------


def alikeness(patches: np.ndarray) -> float:
    """The mean correlation of all pairs of patches (n, size, size, 3), as gray
    pictures."""
    gray = patches.mean(axis=-1).reshape(len(patches), -1)
    # A flat patch has no correlation.
    slope = 1e-6 * np.arange(gray.shape[1])
    correlations = np.corrcoef(gray + slope)
    return float(correlations[np.triu_indices(len(patches), 1)].mean())


def roughness(kernel: np.ndarray) -> float:
    """How much filters (height, width, in, out) change from one pixel to the next,
    relative to their size: 2 for noise, less for what is smooth."""
    down = np.square(np.diff(kernel, axis=0)).mean()
    right = np.square(np.diff(kernel, axis=1)).mean()
    size = np.square(kernel - kernel.mean((0, 1))).mean()
    return float((down + right) / 2 / size)


def filters_of(layer) -> np.ndarray:
    """What a convolution lays over its input, (height, width, 1 or 3, filters): of more
    channels than a picture has the mean."""
    if isinstance(layer, layers.SeparableConv2D):
        each = np.asarray(layer.depthwise_kernel)
        weights = np.asarray(layer.pointwise_kernel).reshape(*each.shape[2:], -1)
        kernel = np.einsum("hwcm,cmf->hwcf", each, weights)
    else:
        kernel = np.asarray(layer.kernel)
    if isinstance(layer, layers.DepthwiseConv2D):  # each filter sees one channel
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    if isinstance(layer, layers.Conv2DTranspose):
        kernel = kernel.swapaxes(2, 3)
    if kernel.shape[2] not in (1, 3):
        kernel = kernel.mean(axis=2, keepdims=True)
    return kernel


def draw_maps(model: keras.Model, first: str, last: str, image: np.ndarray, title: str):
    """The filters of the convolution `first`, what each finds in an image (height,
    width, 1 or 3), and the maps of the layer `last` that answer most."""
    outputs = [model.get_layer(first).output, model.get_layer(last).output]
    both = keras.Model(model.input, outputs)(image[np.newaxis])
    early, late = [np.asarray(maps[0]) for maps in both]
    late = late[..., np.argsort(-late.max((0, 1)))]
    kernel = filters_of(model.get_layer(first))
    reach = np.abs(kernel).max((0, 1, 2)) + 1e-12

    figure, grid = plt.subplots(3, 9, figsize=(11, 4.2))
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=1)
    grid[0, 0].set_title(title, fontsize=9)
    names = (f"{first}\nfinds", f"{last},\nstrongest")
    for line, text in zip(grid[1:], names, strict=True):
        line[0].text(1, 0.5, text, ha="right", va="center", transform=line[0].transAxes)

    for number in range(min(8, kernel.shape[-1], late.shape[-1])):
        weights, found, strongest = grid[:, number + 1]
        picture = 0.5 + kernel[..., number] / (2 * reach[number])
        weights.imshow(np.squeeze(picture), cmap="gray")
        weights.set_title(f"filter {number}", fontsize=9)
        found.imshow(np.abs(early[..., number]), vmin=0, vmax=np.abs(early).max())
        shown = np.maximum(late[..., number], 0)
        heat = strongest.imshow(shown, vmin=0, vmax=late.max())
    figure.colorbar(heat, ax=grid[1:], shrink=0.5, label=f"activation in {last}")
    figure.suptitle(
        "Filters of the first layer, what they find, and what the last layer finds"
    )
    return figure


def in_one_square(patches: np.ndarray) -> np.ndarray:
    """Patches (n, size, size, 3) side by side, with white between them."""
    side = math.isqrt(len(patches))
    framed = np.pad(patches, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    size = framed.shape[1]
    rows = framed[: side**2].reshape(side, side, size, size, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(side * size, side * size, 3)


def draw_patches(
    patches: dict[str, list[np.ndarray]], captions: dict[str, list[str]], title: str
):
    """For each layer a row of neurons: the patches (n, size, size, 3) of each in one
    square."""
    height = 1.75 * len(patches) + 0.4
    figure, grid = plt.subplots(len(patches), 6, figsize=(10, height))
    for (name, neurons), line in zip(patches.items(), grid, strict=True):
        for axes, neuron, caption in zip(line, neurons, captions[name], strict=True):
            axes.imshow(in_one_square(neuron))
            axes.set(xticks=[], yticks=[], title=caption)
        line[0].set_ylabel(f"{name}\n{neurons[0].shape[1]} pixels")
    figure.suptitle(title)
    return figure


def tiles_of(photos: np.ndarray, size: int) -> np.ndarray:
    """Squares that photos (n, side, side, 3) are cut into, (tiles, size, size, 3)."""
    count = photos.shape[1] // size
    shape = len(photos), count, size, count, size, 3
    parts = photos[:, : count * size, : count * size].reshape(shape)
    return parts.swapaxes(2, 3).reshape(-1, size, size, 3)


def within(maps: np.ndarray, field: tuple[int, int, int], side: int) -> np.ndarray:
    """The maps (n, places, places, channels) of pictures with `side` rows and columns,
    lowest at the neurons whose receptive field reaches beyond the edge."""
    size, stride, start = field
    first = start + stride * np.arange(maps.shape[1])
    is_within = (first >= 0) & (first + size <= side)
    both = is_within[:, None] & is_within
    return np.where(both[..., None], maps, maps.min())


def look_at_photographs(run: Run, config: Config) -> None:
    """What ImageNet's network looks for in the nine photographs."""
    own = classifiers.load(IMAGENET, pixel_range=config.pixel_range)
    side = own.model.inputs[0].shape[1]
    tiles = tiles_of(data.load_photos(3 * side), side)
    shown = {}
    captions = {}
    for name in IMAGENET_LAYERS:
        field = receptive_field(own.model, name)
        part = keras.Model(own.model.input, own.model.get_layer(name).output)
        maps = np.concatenate([part(each) for each in np.split(tiles, 9)])
        maps = within(maps, field, side)
        patches = []
        for neuron in range(maps.shape[-1]):
            places = strongest_places(maps, neuron, config.patches)
            patches.append(cut(tiles, places, field))
        best = np.argsort([-alikeness(each) for each in patches])[:6]
        shown[name] = [patches[neuron] for neuron in best]
        captions[name] = [f"neuron {neuron}" for neuron in best]
    title = (
        "ImageNet's neurons: what excites six of a layer most (those whose patches are "
        "most alike)"
    )
    run.figure("imagenet", draw_patches(shown, captions, title))

    cat = data.load_photos(side)[1]
    drawn = draw_maps(own.model, "stem_conv", "block5c_add", cat, "photograph")
    run.figure("cat", drawn)


def look_into(own: classifiers.Classifier, pictures: np.ndarray, run: Run) -> None:
    """Filters and maps of a network, on the user's pictures or the photographs."""
    _, captions = classifiers.predict(run, own, pictures)
    for number, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        first = own.first_convolution
        drawn = draw_maps(own.model, first, own.last_convolution, image, caption)
        run.figure(f"own-{number}", drawn)


def train(model: keras.Model, scenes: data.Scenes, config: Config, run: Run) -> None:
    steps = config.epochs * config.scenes // config.batch_size
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    training.fit(
        model,
        scenes.images,
        scenes.labels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


@dataclass
class Patches:
    """What excites the neurons of a layer most, in pictures that were not trained on."""

    neurons: list[np.ndarray]
    """patches (n, size, size, 3) of each that ever answers"""
    digits: list[np.ndarray]
    """how often each digit is among them, (10,)"""

    @property
    def alike(self) -> float:
        return float(np.mean([alikeness(each) for each in self.neurons]))

    @property
    def pure(self) -> float:
        """The share of patches that show their neuron's commonest digit."""
        return float(np.mean([each.max() / each.sum() for each in self.digits]))


def find_patches(
    maps: np.ndarray, field: tuple[int, int, int], scenes: data.Scenes, count: int
) -> Patches:
    neurons = []
    digits = []
    for channel in range(maps.shape[-1]):
        if not maps[..., channel].any():
            continue
        places = strongest_places(maps, channel, count)
        neurons.append(cut(scenes.images, places, field))
        digits.append(np.bincount(scenes.labels[places[:, 0]]))
    return Patches(neurons, digits)


def alike_anywhere(
    patches: Patches, maps: np.ndarray, field, images: np.ndarray, count: int, random
) -> float:
    """Of as many patches from anywhere."""
    shape = (len(patches.neurons), count, 3)
    places = random.integers(maps.shape[:3], size=shape)
    return float(np.mean([alikeness(cut(images, each, field)) for each in places]))


@dataclass
class Layer:
    """One layer's neurons, before and after training."""

    untrained: Patches
    trained: Patches
    anywhere: float
    """how alike patches are that no neuron chose"""


def best_on_object(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The share of each channel's activation that is on the digit, (channels,)."""
    enlarged = maps.repeat(4, axis=1).repeat(4, axis=2)
    shares = []
    for channel in range(maps.shape[-1]):
        on_object = classifiers.share_on_object(enlarged[..., channel], masks)
        shares.append(on_object.mean())
    return np.array(shares)


def judge_patches(found: dict[str, Layer], run: Run) -> None:
    evidence = []
    is_alike = []
    for name, layer in found.items():
        run.metric(f"same_digit_{name}", layer.trained.pure)
        is_alike.append(layer.trained.alike > layer.anywhere + 0.3)
        evidence.append(
            f"{name} {layer.trained.alike:.2f} ({layer.untrained.alike:.2f}; "
            f"{layer.anywhere:.2f})"
        )
    last = found["relu4"]
    first = found["relu1"]
    run.claim(
        "What excites a neuron most looks alike, in every layer, and in the last more "
        "than before training: a random filter has its favorites too",
        holds=all(is_alike) and last.trained.alike - last.untrained.alike > 0.04,
        measured="mean correlation of its patches (before training; random ones): "
        + ", ".join(evidence),
    )
    rivals = max(first.trained.pure, last.untrained.pure)
    run.claim(
        "Late neurons look for digits, early ones for strokes that many digits have",
        holds=last.trained.pure > rivals + 0.08,
        measured=f"patches that show the neuron's commonest digit: relu4 "
        f"{last.trained.pure:.2f}, relu1 {first.trained.pure:.2f}, relu4 before training "
        f"{last.untrained.pure:.2f}",
    )


@dataclass
class Finder:
    """The neuron of the last layer that lights up on digits most: chosen by training
    pictures, judged by others."""

    neuron: int
    share: float
    """of its activation that is on the digit"""


def choose_finder(of_train, of_test, train: data.Scenes, test: data.Scenes) -> Finder:
    """of_train, of_test: maps (n, height, width, channels) of as many pictures."""
    chosen_by = best_on_object(of_train, train.masks[: len(of_train)])
    neuron = int(np.argmax(chosen_by))
    return Finder(neuron, best_on_object(of_test, test.masks)[neuron])


def judge_finder(trained: Finder, untrained: Finder, brightness: float, run: Run):
    run.metric("activation_on_digit", trained.share)
    run.claim(
        "A late neuron lights up on the object, though no one told the network where it "
        "is: the best one does so more than the best before training",
        holds=trained.share > untrained.share + 0.05,
        measured=f"{trained.share:.0%} of neuron {trained.neuron}'s activation is on the "
        f"digit, before training {untrained.share:.0%} of neuron {untrained.neuron}'s; "
        f"of the brightness {brightness:.0%}",
    )


def judge_filters(before: np.ndarray, after: np.ndarray, run: Run) -> None:
    rough = roughness(before)
    smooth = roughness(after)
    run.claim(
        "First-layer filters start as noise and become pictures that can be looked at",
        holds=smooth < rough - 0.4,
        measured=f"change from pixel to pixel {rough:.2f} (noise: 2), after training "
        f"{smooth:.2f}",
    )


def draw_neurons(found: dict[str, Layer]):
    """Six of each layer, those whose patches show one digit most often."""
    shown = {}
    captions = {}
    for name, layer in found.items():
        digits = layer.trained.digits
        best = np.argsort([-each.max() for each in digits], kind="stable")[:6]
        shown[name] = [layer.trained.neurons[number] for number in best]
        captions[name] = [
            f"{digits[number].max()} of {digits[number].sum()}: "
            f"{digits[number].argmax()}"
            for number in best
        ]
    title = "What excites a neuron most, from pictures that were not trained on"
    return draw_patches(shown, captions, title)


def main(config: Config, run: Run) -> None:
    if config.model != IMAGENET:
        own = classifiers.from_flags(config, run)
        look_into(own, own.pictures(config.image), run)
        return
    size = (config.size, config.size)
    picture = classifiers.read_image(config.image, size) if config.image else None
    train_set, test = data.load_scenes(
        config.scenes, 500, size=config.size, seed=run.seed
    )
    model = build_model((*size, 3))
    eyes = keras.Model(model.input, [model.get_layer(name).output for name in LAYERS])
    some = train_set.images[:500]
    before = eyes.predict(test.images, verbose=0)
    before_of_train = eyes.predict(some, verbose=0)[-1]
    first_filters = model.get_layer("conv1").kernel.numpy()

    train(model, train_set, config, run)
    run.metric("test_accuracy", model.evaluate(test.images, test.labels, verbose=0)[1])
    after = eyes.predict(test.images, verbose=0)
    if picture is not None:
        own = classifiers.Classifier(model, list("0123456789"))
        look_into(own, picture[np.newaxis], run)

    random = np.random.default_rng(run.seed)
    found = {}
    for name, early, late in zip(LAYERS, before, after, strict=True):
        field = receptive_field(model, name)
        untrained = find_patches(early, field, test, config.patches)
        trained = find_patches(late, field, test, config.patches)
        anywhere = alike_anywhere(
            trained, late, field, test.images, config.patches, random
        )
        found[name] = Layer(untrained, trained, anywhere)
    judge_patches(found, run)

    after_of_train = eyes.predict(some, verbose=0)[-1]
    finder = choose_finder(after_of_train, after[-1], train_set, test)
    untrained = choose_finder(before_of_train, before[-1], train_set, test)
    brightness = classifiers.share_on_object(test.images.mean(axis=-1), test.masks)
    judge_finder(finder, untrained, brightness.mean(), run)
    judge_filters(first_filters, model.get_layer("conv1").kernel.numpy(), run)

    run.figure("patches", draw_neurons(found))
    strongest = after[-1][..., finder.neuron].max((1, 2))
    example = test.images[int(np.argmax(strongest))]
    run.figure("maps", draw_maps(model, "conv1", "relu4", example, "held out"))
    look_at_photographs(run, config)
    run.export(serving.classifier(model), example=test.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
