"""Transfer learning: what was learned on one task, used for another.

A network that has seen ImageNet's million pictures has features that other tasks can
use. Frozen: its layers stay as they are, each picture goes through them once, and only
a new head learns. Fine-tuned: the last layers go on learning as well, slowly, from
where they are. From scratch: a small network learns all from the few pictures there
are. The first two are ahead of it, also where labels are few.
Look at the accuracy by number of labels, at the same network with random weights, at
what the colors of a picture alone tell, and at three tasks of which one has pictures
that ImageNet has never seen the like of.

Lectures: INFO Transfer learning; ICME Transfer learning; N18 1.3.1 Fine-tuning
Paper: Yosinski et al., How transferable are features in deep neural networks?, 2014;
    Tan and Le, EfficientNet, 2019
Tags: pretrained, frozen features, imagenet, efficientnet, few labels, feature
    extraction, backbone
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval, Len
from keras import layers
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from deep_learning_recipes import UsageError, classifiers, data, figures, serving
from deep_learning_recipes.run import Run, cli

IMAGENET = "EfficientNetLite0"


@dataclass
class Config:
    data: str = "photos"
    """the task that all ways are compared on: embedded (photos, textures, mnist_5k,
    ...), or a path of your own: a folder with one subfolder of pictures a class, or an
    .npz file"""
    others: tuple[str, ...] = ("textures", "mnist_5k")
    """tasks that the same frozen features serve as well"""
    model: str = IMAGENET
    """EfficientNetLite0, whose ImageNet weights need no download, or one of
    keras.applications"""
    labels: Annotated[
        tuple[Annotated[int, Interval(ge=1, le=1000)], ...], Len(min_length=1)
    ] = (1, 4, 16)
    """of each class to learn from"""
    draws: Annotated[int, Interval(ge=1, le=100)] = 2
    """of the labeled pictures, of which the mean is reported"""
    size: Annotated[int, Interval(ge=32, le=512)] = 96
    """side of the pictures in pixels, where the network takes any"""
    held_out: Annotated[int, Interval(ge=10)] = 200
    """pictures to report on, at most, and as many to choose by"""
    steps: Annotated[int, Interval(ge=5)] = 30
    """of fine-tuning; from scratch there are twenty times as many"""


QUICK = Config(others=(), labels=(4,), draws=2, size=96, held_out=100, steps=8)
FULL = Config(labels=(1, 2, 4, 8, 16, 32), draws=5, size=160, held_out=800, steps=100)

# --------------------------------------------------------------------------------------
# The idea: a backbone that stays, and what learns on top of it
# --------------------------------------------------------------------------------------


def build_backbone(network: keras.Model, last_convolution: str) -> keras.Model:
    """A classifier up to its last maps, and their mean: (batch, height, width, 3) to
    (batch, features).

    keras.applications.EfficientNetV2B0(include_top=False, pooling="avg") is such a one.
    """
    maps = network.get_layer(last_convolution).output
    features = layers.GlobalAveragePooling2D(name="features")(maps)
    return keras.Model(network.inputs[0], features, name="backbone")


def split(backbone: keras.Model, share: float) -> tuple[keras.Model, keras.Model]:
    """The backbone as a lower part, which stays frozen, and an upper one, which may
    learn: cut at the first place after `share` of its layers through which all must go.

    The parts have the backbone's own layers, so that what one learns, it knows.
    """
    first = round(share * len(backbone.layers))
    for layer in backbone.layers[first:-1]:
        try:
            upper = keras.Model(layer.output, backbone.output, name="upper")
        except ValueError:  # a branch goes round this layer
            continue
        return keras.Model(backbone.inputs[0], layer.output, name="lower"), upper
    raise ValueError(f"{backbone.name} has no place to be cut at")


def freeze(model: keras.Model) -> None:
    """No weight of it will move, nor do the statistics of its batch normalization, which
    Keras lets frozen layers keep even where they are called with training=True."""
    model.trainable = False


def unfreeze(part: keras.Model) -> None:
    """All of a part learns again but its batch normalization: statistics of a few
    pictures would be rough, and frozen it keeps ImageNet's."""
    # Layer by layer: `part.trainable = True` alone does not reach layers that the part
    # shares with the whole network.
    for layer in part.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)


def build_extractor(part: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives what a frozen part says of pictures or maps, (n, ...). As
    the part never changes, once is enough for each: what learns on top of it reads
    these in every epoch."""
    signature = tf.TensorSpec((None, *part.inputs[0].shape[1:]))
    compute = tf.function(lambda x: part(x, training=False), [signature])

    def extract(x: np.ndarray) -> np.ndarray:
        batches = range(0, len(x), 32)
        return np.concatenate([compute(x[first : first + 32]) for first in batches])

    return extract


def fit_head(features: np.ndarray, y: np.ndarray, strength: float):
    """The new head of a frozen network: logistic regression on its features. The same
    as layers.Dense(classes) with an L2 penalty, to the end."""
    return LogisticRegression(C=1 / strength, max_iter=500).fit(features, y)


def add_head(part: keras.Model, head: LogisticRegression) -> keras.Model:
    """A part of a network with a head that has learned already, before the part goes on
    learning: a random one would send large gradients into features that are good.
    Output: (batch, classes) logits."""
    inputs = keras.Input(part.inputs[0].shape[1:], name="x")
    dense = layers.Dense(len(head.classes_), name="logits")
    model = keras.Model(inputs, dense(part(inputs)), name=f"{part.name}_with_head")
    dense.set_weights(head_weights(head))
    return model


def head_weights(head: LogisticRegression) -> list[np.ndarray]:
    """Kernel (features, classes) and bias (classes,) of a dense layer."""
    kernel, bias = head.coef_.T, head.intercept_
    if len(head.classes_) == 2:  # scikit-learn has one logit for both
        kernel = np.concatenate([-kernel, kernel], axis=1) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return [kernel, bias]


def build_small(shape: Sequence[int], classes: int) -> keras.Model:
    """A network to learn from scratch. Input: pictures. Output: logits."""
    x = hidden = keras.Input(shape, name="images")
    for filters in (16, 32, 64):
        hidden = layers.Conv2D(filters, 3, strides=2, padding="same")(hidden)
        hidden = layers.ReLU()(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(x, layers.Dense(classes, name="logits")(hidden), name="small")


def build_step(model: keras.Model, optimizer: keras.optimizers.Optimizer):
    """A compiled step of gradient descent on a batch of any size."""
    optimizer.build(model.trainable_variables)

    pictures = tf.TensorSpec((None, *model.inputs[0].shape[1:]))
    labels = tf.TensorSpec((None,), tf.int64)

    @tf.function(input_signature=[pictures, labels])
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


# --------------------------------------------------------------------------------------
# The experiment: by labels, and across tasks
# --------------------------------------------------------------------------------------

SIDES = {"photos": 64, "textures": 64, "mnist_5k": 28}  # of the pictures themselves
FLAT_SIDE = 16  # of those whose pixels are features
SHADES = 6  # of red, green and blue, in histograms of colors
CUT = 0.7  # of the layers stay frozen while the others are fine-tuned
BATCH_SIZE = 16
LOOKS = 4  # at validation, in each training
# Of the heads' penalties, to choose from.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
RATES = {"fine-tuned": (1e-4, 5e-4), "from scratch": (1e-3, 4e-3)}  # Adam's


@dataclass
class Features:
    """Something of each picture of a task, (n, ...)."""

    pool: np.ndarray
    """of those that the labeled ones are drawn from"""
    valid: np.ndarray
    """of those to choose by"""
    test: np.ndarray
    """of those to report"""


@dataclass
class Task:
    """Pictures (n, height, width, 3) in [0, 1] and their labels."""

    pictures: Features
    labels: Features
    classes: int
    draws: dict[int, list[np.ndarray]]
    """by labels a class: places in the pool, (pictures,) for each draw"""


def load_task(name: str, backbone: keras.Model, config: Config, run: Run) -> Task:
    *side, channels = backbone.inputs[0].shape[1:]
    size = SIDES.get(name, max(side))
    (x, y), (x_test, y_test) = data.load(
        name, size=size, channels=channels, seed=run.seed
    )
    random = np.random.default_rng(run.seed)
    order = random.permutation(len(x))
    count = min(config.held_out, len(x) // 3)
    valid, rest = np.split(order, [count])
    if any(np.sum(y[rest] == label) == 0 for label in range(y.max() + 1)):
        raise UsageError(
            f"--data {name}: a class has no picture left to learn from, as {count} of "
            f"{len(x)} are held out to choose by; take fewer by --held-out N"
        )
    reported = random.permutation(len(x_test))[: config.held_out]

    most = max(config.labels)
    draws: dict[int, list[np.ndarray]] = {labels: [] for labels in config.labels}
    for _ in range(config.draws):
        mixed = random.permutation(rest)
        of_classes = [mixed[y[mixed] == label][:most] for label in range(y.max() + 1)]
        for labels in config.labels:
            draws[labels].append(np.concatenate([each[:labels] for each in of_classes]))
    # Only what is drawn is made larger.
    drawn = np.unique(np.concatenate(draws[most]))
    parts = x[drawn], x[valid], x_test[reported]
    return Task(
        pictures=Features(*(enlarge(part, side) for part in parts)),
        labels=Features(y[drawn], y[valid], y_test[reported]),
        classes=int(y.max()) + 1,
        draws={
            labels: [np.searchsorted(drawn, each) for each in of_labels]
            for labels, of_labels in draws.items()
        },
    )


def enlarge(images: np.ndarray, side: Sequence[int]) -> np.ndarray:
    return np.clip(tf.image.resize(images, side, "bicubic"), 0, 1)


def forget(backbone: keras.Model, images: np.ndarray, seed: int) -> None:
    """Brings the weights within each kernel into random order. Batch norm takes the
    statistics of the images, so that signals neither die out nor explode."""
    classifiers.shuffle_weights(backbone, seed)
    normalizations = [
        layer
        for layer in backbone.layers
        if isinstance(layer, layers.BatchNormalization)
    ]
    backbone.trainable = True
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    backbone(tf.constant(images), training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
    freeze(backbone)


def flat_pixels(images: np.ndarray) -> np.ndarray:
    small = tf.image.resize(images, (FLAT_SIDE, FLAT_SIDE), antialias=True)
    return small.numpy().reshape(len(images), -1)


def color_histograms(images: np.ndarray) -> np.ndarray:
    """How frequent each color is, wherever it is: a rival that sees no shapes."""
    levels = np.minimum(np.floor(images * SHADES), SHADES - 1)
    colors = (levels @ [SHADES**2, SHADES, 1]).astype(int)
    counts = [np.bincount(each.ravel(), minlength=SHADES**3) for each in colors]
    shares = np.array(counts) / colors[0].size
    # The fourth root lets rare colors count as well.
    return shares**0.25


def best_head(features: Features, task: Task, places: np.ndarray) -> LogisticRegression:
    """Of the strengths the one that validates best."""
    x = features.pool[places]
    y = task.labels.pool[places]
    # These matrices are so small that threads only wait for each other.
    with threadpool_limits(1, "blas"):
        heads = [fit_head(x, y, strength) for strength in STRENGTHS]
    return max(heads, key=lambda head: head.score(features.valid, task.labels.valid))


def judge_heads(features: Features, task: Task) -> dict[int, np.ndarray]:
    """Test accuracy by labels a class, (draws,)."""
    return {
        labels: np.array(
            [
                best_head(features, task, places).score(features.test, task.labels.test)
                for places in draws
            ]
        )
        for labels, draws in task.draws.items()
    }


def learn(
    kind: str,
    model: keras.Model,
    begin: Callable[[np.ndarray], list[np.ndarray]],
    features: Features,
    task: Task,
    steps: int,
    run: Run,
) -> dict[int, np.ndarray]:
    """Trains the whole model on each draw; rate and steps are those that validate best.

    begin: the first weights for a draw. Returns test accuracy by labels a class,
    (draws,).
    """
    optimizer = keras.optimizers.Adam()
    step = build_step(model, optimizer)
    extract = build_extractor(model)
    random = np.random.default_rng(run.seed)
    jobs = [(labels, places) for labels in task.draws for places in task.draws[labels]]
    found = np.zeros(len(jobs))

    for job in run.loop(kind, len(jobs), {"all": [found, random]}, unit="draws"):
        _, places = jobs[job]
        first = begin(places)
        best = -1.0
        best_weights = first
        for rate in RATES[kind]:
            model.set_weights(first)
            for variable in optimizer.variables:
                variable.assign(tf.zeros_like(variable))
            optimizer.learning_rate = rate
            for number in range(steps + 1):
                # With the first weights as well: it may be best not to learn.
                if number % (steps // LOOKS) == 0:
                    score = accuracy(extract(features.valid), task.labels.valid)
                    if score > best:
                        best, best_weights = score, model.get_weights()
                batch = random.permutation(places)[:BATCH_SIZE]
                step(tf.constant(features.pool[batch]), task.labels.pool[batch])
        model.set_weights(best_weights)
        found[job] = accuracy(extract(features.test), task.labels.test)
    by_labels = found.reshape(len(task.draws), -1)
    return dict(zip(task.draws, by_labels, strict=True))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(axis=-1) == labels))


FROZEN = "frozen"
FINE_TUNED = "fine-tuned"
SCRATCH = "from scratch"
SHUFFLED = "frozen, shuffled weights"
PIXELS = "pixels alone"
COLORS = "colors alone"


class Parts:
    """A frozen backbone in two parts, whose weights may be changed for others."""

    def __init__(self, backbone: keras.Model) -> None:
        freeze(backbone)
        self.backbone = backbone
        self.pretrained = backbone.get_weights()
        try:
            self.lower, self.upper = split(backbone, CUT)
        except ValueError as error:
            raise UsageError(f"--model: {error}; take a larger network") from error
        self.maps = build_extractor(self.lower)
        self.features = build_extractor(self.upper)

    def shuffled(self, images: np.ndarray, seed: int) -> list[np.ndarray]:
        """Weights of a backbone that knows nothing."""
        forget(self.backbone, images, seed)
        weights = self.backbone.get_weights()
        self.backbone.set_weights(self.pretrained)
        return weights


def each(compute: Callable[[np.ndarray], np.ndarray], pictures: Features) -> Features:
    return Features(
        compute(pictures.pool), compute(pictures.valid), compute(pictures.test)
    )


def compare_heads(task: Task, parts: Parts, shuffled) -> dict[str, dict]:
    """Test accuracies of heads on frozen features and on pixels, by way and labels."""
    frozen = each(parts.features, each(parts.maps, task.pictures))
    parts.backbone.set_weights(shuffled)
    random = each(parts.features, each(parts.maps, task.pictures))
    parts.backbone.set_weights(parts.pretrained)
    return {
        FROZEN: judge_heads(frozen, task),
        SHUFFLED: judge_heads(random, task),
        PIXELS: judge_heads(each(flat_pixels, task.pictures), task),
        COLORS: judge_heads(each(color_histograms, task.pictures), task),
    }


def fine_tune(task: Task, parts: Parts, config: Config, run: Run):
    maps = each(parts.maps, task.pictures)
    features = each(parts.features, maps)
    pretrained = parts.upper.get_weights()
    unfreeze(parts.upper)
    (some, *_) = task.draws[min(task.draws)]
    model = add_head(parts.upper, best_head(features, task, some))

    def begin(places: np.ndarray) -> list[np.ndarray]:
        return [*pretrained, *head_weights(best_head(features, task, places))]

    found = learn(FINE_TUNED, model, begin, maps, task, config.steps, run)
    # They are the whole network's layers, which is to be as it was.
    parts.backbone.set_weights(parts.pretrained)
    freeze(parts.backbone)
    return found


def from_scratch(task: Task, config: Config, run: Run):
    # More steps than of fine-tuning, which begins near its end.
    steps = 20 * config.steps
    images = each(shrink, task.pictures)
    model = build_small(images.pool.shape[1:], task.classes)
    first = model.get_weights()
    return learn(SCRATCH, model, lambda _: first, images, task, steps, run)


def shrink(images: np.ndarray) -> np.ndarray:
    """At most 48 pixels high, which a small network learns as much from."""
    side = min(48, images.shape[1])
    return tf.image.resize(images, (side, side), antialias=True).numpy()


def mean_accuracies(found: dict[str, dict], labels: int) -> dict[str, float]:
    """Of all ways that were tried on a task."""
    return {way: float(by_labels[labels].mean()) for way, by_labels in found.items()}


def judge_task(found: dict[str, dict], config: Config, run: Run) -> None:
    """Four labels a class: frozen, fine-tuned, from scratch."""
    if not run.has("--labels", config.labels, 4):
        return
    of_four = mean_accuracies(found, 4)
    rival = max((SCRATCH, PIXELS, COLORS), key=of_four.get)
    run.compare(
        "With four labels a class a frozen network that knows ImageNet is ahead of all "
        "that do not: a network from scratch, pixels, a histogram of colors",
        {way: of_four[way] for way in (FROZEN, rival)},
        more=FROZEN,
        less=rival,
        by=0.01,
    )
    run.compare(
        "It is ahead by what it has learned: with its weights in random order it is not",
        {way: of_four[way] for way in (FROZEN, SHUFFLED)},
        more=FROZEN,
        less=SHUFFLED,
        by=0.2,
    )
    of_all = {
        way: float(np.mean(list(found[way].values()))) for way in (FROZEN, FINE_TUNED)
    }
    run.claim(
        "Fine-tuning the last layers changes little where the head on frozen features "
        "has the penalty that validates best",
        holds=abs(of_all[FINE_TUNED] - of_all[FROZEN]) < 0.08,
        measured=f"test accuracy over all numbers of labels: fine-tuned "
        f"{of_all[FINE_TUNED]:.3f}, frozen {of_all[FROZEN]:.3f} (less than 0.08 apart "
        "wanted)",
    )
    if 16 in config.labels:
        run.compare(
            "Four labels and frozen features are worth more than sixteen for a network "
            "from scratch",
            {
                "frozen, 4": of_four[FROZEN],
                "from scratch, 16": mean_accuracies(found, 16)[SCRATCH],
            },
            more="frozen, 4",
            less="from scratch, 16",
            by=0.02,
        )


def judge_across(found: dict[str, dict], config: Config, run: Run) -> None:
    """The same frozen features on several tasks."""
    if len(found) == 1 or not run.has("--labels", config.labels, 4):
        return
    of_four = {task: mean_accuracies(ways, 4) for task, ways in found.items()}
    gains = {task: ways[FROZEN] - ways[SHUFFLED] for task, ways in of_four.items()}
    run.claim(
        "The same features serve several tasks: on each they are ahead of shuffled "
        "weights",
        holds=min(gains.values()) > 0.1,
        measured="test accuracy ahead by "
        + ", ".join(f"{task} {gain:.2f}" for task, gain in gains.items()),
    )
    if run.has("--others", found, "photos", "mnist_5k"):
        over_pixels = {
            task: of_four[task][FROZEN] - of_four[task][PIXELS]
            for task in ("photos", "mnist_5k")
        }
        run.compare(
            "Over pixels photographs, which are like ImageNet's pictures, gain more by "
            "them than handwritten digits do",
            over_pixels,
            more="photos",
            less="mnist_5k",
            by=0.03,
        )


def draw_accuracies(found: dict[str, dict]) -> plt.Figure:
    """By labels a class, a panel for each of at most three tasks."""
    shown = []
    for task, ways in list(found.items())[:3]:
        labels = list(ways[FROZEN])
        order = np.argsort(labels)
        ticks = np.array(labels)[order]
        lines = {
            way: (ticks, np.array(list(by_labels.values()))[order])
            for way, by_labels in ways.items()
        }
        panel = figures.Panel(
            title=Path(task).name,
            xlabel="labels a class",
            ylabel="accuracy on held-out pictures" if not shown else "",
            lines=lines,
            xscale="log",
            xticks=ticks,
            ylim=(0, 1.03),
        )
        shown.append(panel)
    figure = figures.panels(*shown)
    for axes in figure.axes:
        axes.get_legend().remove()
    # The first task has all ways, the others some of them in the same colors.
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def show_accuracies(found: dict[str, dict], run: Run) -> None:
    for task, ways in found.items():
        labels = list(ways[FROZEN])
        head = "".join(f"{number:>8}" for number in labels)
        run.print(f"{Path(task).name + ', labels a class':34}{head}")
        for way, by_labels in ways.items():
            row = "".join(f"{by_labels[number].mean():8.3f}" for number in labels)
            run.print(f"  {way:32}{row}")
            values = {number: by_labels[number].mean() for number in labels}
            name = f"{Path(task).stem} {way}"
            run.metrics(
                "test_accuracy",
                {f"{name} {number} labels": each for number, each in values.items()},
            )


def open_network(config: Config) -> keras.Model:
    """The backbone that --model names."""
    takes_any = config.model.lower() == IMAGENET.lower()
    size = (config.size, config.size) if takes_any else None
    own = classifiers.load(config.model, size=size)
    return build_backbone(own.model, own.last_convolution)


def main(config: Config, run: Run) -> None:
    run.plan(2)
    backbone = open_network(config)
    parts = Parts(backbone)
    task = load_task(config.data, backbone, config, run)
    shuffled = parts.shuffled(task.pictures.pool[:64], run.seed)

    found = {config.data: compare_heads(task, parts, shuffled)}
    found[config.data][FINE_TUNED] = fine_tune(task, parts, config, run)
    found[config.data][SCRATCH] = from_scratch(task, config, run)
    pictures = {config.data: task.pictures.pool[:10]}
    for name in config.others:
        if name not in found:
            other = load_task(name, backbone, config, run)
            found[name] = compare_heads(other, parts, shuffled)
            pictures[name] = other.pictures.pool[:10]
    show_accuracies(found, run)
    judge_task(found[config.data], config, run)
    judge_across(found, config, run)
    run.figure("accuracies", draw_accuracies(found))
    rows = {Path(name).name: some for name, some in pictures.items()}
    run.figure("tasks", figures.image_rows(rows, title="Pictures to learn from"))

    most = task.draws[max(task.draws)][0]
    features = each(parts.features, each(parts.maps, task.pictures))
    model = add_head(backbone, best_head(features, task, most))
    run.export(serving.classifier(model), example=task.pictures.test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
