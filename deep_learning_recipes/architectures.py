"""Convnets side by side: what each costs, how it does on one task, and what its paper
measured on ImageNet.

A recipe of an architecture trains its small form by `train`, on the pictures of
`load_task`, and calls `report`, so that all have the same rows of one table.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from deep_learning_recipes import data, training
from deep_learning_recipes.catalogue.published import PUBLISHED, short
from deep_learning_recipes.private_keras import calls_in
from deep_learning_recipes.run import Run

SHARE_TO_CHOOSE_BY = 0.2  # of the training pictures
PICTURES_AT_ONCE = 300
BYTES = 4  # of a float32
SECONDS_TO_TIME = 0.5  # or one call, where that takes longer


@dataclass(frozen=True)
class Cost:
    """Of a network, for one picture."""

    parameters: int
    """numbers that training changes"""
    multiply_adds: int
    """multiplications by them, each with an addition"""
    activation_bytes: int
    """of all that its layers hand on, in float32: what training keeps for the gradient"""


def cost(model: keras.Model) -> Cost:
    """Counted from the graph, for one picture. Nested models and layers that are called
    twice count as often as they are called.

    Raises ValueError for a layer of a kind whose multiplications are not known.
    """
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    numbers = 0
    for node in calls_within(model):
        # These hand on what they get.
        if not isinstance(
            node.operation, layers.Flatten | layers.Reshape | layers.Dropout
        ):
            numbers += sum(math.prod(output.shape[1:]) for output in node.outputs)
    return Cost(parameters, multiply_adds(model), BYTES * numbers)


def multiply_adds(model: keras.Model) -> int:
    """Multiplications by weights for one picture: of a convolution each weight once at
    every place of its output (a transposed one: of its input), of a dense layer once.
    What normalizes or averages is not counted, as in the papers.

    Raises ValueError for a layer of another kind that has a matrix to multiply by.
    """
    return sum(_multiply_adds(node) for node in calls_within(model))


def calls_within(model: keras.Model) -> list[Any]:
    """The calls of a functional model's layers, those of nested models among them."""
    graph = keras.Model(model.inputs, model.outputs)
    found = []
    for node in calls_in(graph):
        nested = isinstance(node.operation, keras.Model)
        found += calls_within(node.operation) if nested else [node]
    return found


def _multiply_adds(node: Any) -> int:
    layer = node.operation
    output = node.outputs[0].shape
    if isinstance(layer, layers.Dense):
        return math.prod(output[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D):
        return math.prod(output[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.DepthwiseConv2D):
        return math.prod(output[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        of_one_place = math.prod(layer.depthwise_kernel.shape)
        of_one_place += math.prod(layer.pointwise_kernel.shape)
        return math.prod(output[1:-1]) * of_one_place
    if isinstance(layer, layers.Conv2DTranspose):
        places = math.prod(node.input_tensors[0].shape[1:-1])
        return places * math.prod(layer.kernel.shape)
    if any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ())):
        raise ValueError(
            f"no rule for the multiplications of {layer.name!r}, a "
            f"{type(layer).__name__}: convolutions and dense layers have one"
        )
    return 0


# The attribute that says of a product whether its first matrix is turned.
TURNED = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}


def multiply_adds_of_call(call: Callable[..., Any], *inputs: Any) -> int:
    """Of all products of matrices in the graph of a call, those of attention among them;
    convolutions are not counted.

    inputs: tensors or tf.TensorSpec, of fixed shapes.
    """
    graph = tf.function(call).get_concrete_function(*inputs).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type in TURNED:
            first = operation.inputs[0].shape
            is_turned = operation.get_attr(TURNED[operation.type])
            inner = first[-2] if is_turned else first[-1]
            total += inner * operation.outputs[0].shape.num_elements()
    return total


def milliseconds(model: keras.Model, batch_size: int) -> float:
    """For one picture of a batch, in a compiled call: the median over half a second of
    calls, or that of one call where it takes longer."""
    shape = (batch_size, *model.inputs[0].shape[1:])
    call = tf.function(
        lambda images: model(images, training=False), [tf.TensorSpec(shape)]
    )
    images = tf.random.stateless_uniform(shape, seed=(0, 0))
    np.asarray(call(images))  # compiles, and fills the caches

    seconds: list[float] = []
    while sum(seconds) < SECONDS_TO_TIME:
        begin = time.perf_counter()
        np.asarray(call(images))
        seconds.append(time.perf_counter() - begin)
    return 1000 * float(np.median(seconds)) / batch_size


@dataclass
class Task:
    """Pictures in [0, 1], (n, side, side, 3), and their classes, (n,)."""

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    """to choose by"""
    test: tuple[np.ndarray, np.ndarray]
    """to report"""
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train[0].shape[1:]


def load_task(name: str, seed: int, *, size: int = 32) -> Task:
    """A data set of `data.load`, or the user's own, in color; a fifth of the training
    pictures, other ones for another seed, is put aside to choose by.

    size: side of the pictures in pixels.
    """
    (x, y), test = data.load(name, size=size, channels=3, seed=seed)
    order = np.random.default_rng(seed).permutation(len(x))
    held_out = max(1, round(SHARE_TO_CHOOSE_BY * len(x)))
    valid, rest = order[:held_out], order[held_out:]
    classes = len(data.class_names(name))
    return Task((x[rest], y[rest]), (x[valid], y[valid]), test, classes)


@dataclass
class Trained:
    """A network after training, and what was measured of it."""

    model: keras.Model
    losses: list[float]
    """means over the training pictures, by epoch, while it learned"""
    train_accuracy: float
    """afterwards, without dropout and with moving averages"""
    validation: float
    """accuracy on pictures to choose by"""
    test: float
    """accuracy on pictures to report"""
    seconds: float


def train(
    model: keras.Model,
    task: Task,
    run: Run,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.0,
) -> Trained:
    """Trains a classifier that gives logits, by AdamW (without decay: Adam), whose
    learning rate falls to 0 along a cosine: the same for every architecture."""
    x, y = task.train
    steps = epochs * math.ceil(len(x) / batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(schedule, weight_decay=weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    begin = time.perf_counter()
    history = training.fit(
        model, x, y, epochs=epochs, batch_size=batch_size, callbacks=run.callbacks
    )
    return Trained(
        model=model,
        losses=history.history["loss"],
        train_accuracy=accuracy(model, *task.train),
        validation=accuracy(model, *task.valid),
        test=accuracy(model, *task.test),
        seconds=time.perf_counter() - begin,
    )


def train_starts(
    build: Callable[[], keras.Model], starts: int, task: Task, run: Run, **options: Any
) -> list[Trained]:
    """Trains a network from several random starts. options: as of `train`."""
    return [train(build(), task, run, **options) for _ in range(starts)]


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the pictures whose highest output is their class's."""
    # Eager calls: to trace a model that is asked a few times takes longer.
    right = 0
    for first in range(0, len(x), PICTURES_AT_ONCE):
        part = slice(first, first + PICTURES_AT_ONCE)
        outputs = np.asarray(model(x[part], training=False))
        right += int(np.sum(outputs.argmax(axis=-1) == y[part]))
    return right / len(x)


def build_linear(task: Task) -> keras.Model:
    """The rival of all: a linear classifier of the pixels."""
    images = keras.Input(task.image_shape, name="images")
    logits = layers.Dense(task.classes, name="logits")(layers.Flatten()(images))
    return keras.Model(images, logits, name="linear")


@dataclass
class Row:
    """Of the table: a network, as it was measured here."""

    cost: Cost
    milliseconds: dict[int, float]
    """for a picture, by the size of its batch"""
    test_accuracy: float | None = None
    """on this run's task; None: not trained here"""


def report(
    run: Run,
    trained: Mapping[str, Trained],
    imagenet: Mapping[str, keras.Model],
    *,
    batch_sizes: Sequence[int] = (1, 32),
) -> dict[str, Row]:
    """Measures every network, records its row as metrics, and draws the table.

    trained: those that learned this run's task. imagenet: those of a paper's own size,
        untrained, by the names of `PUBLISHED` where it has them.
    """
    rows = {}
    for name, found in trained.items():
        rows[name] = measure(found.model, batch_sizes, found.test)
    for name in run.track(list(imagenet), "networks of ImageNet's size"):
        rows[name] = measure(imagenet[name], batch_sizes)

    for name, row in rows.items():
        # One network after the other, so that the rows stand together.
        run.metrics("parameters", {name: row.cost.parameters})
        run.metrics("multiply_adds", {name: row.cost.multiply_adds})
        megabytes = row.cost.activation_bytes / 1e6
        run.metrics("activations", {name: megabytes}, unit="MB")
        for batch_size, found_ms in row.milliseconds.items():
            measured = {f"{name} batch {batch_size}": found_ms}
            run.metrics("ms_per_image", measured, unit="ms", timing=True)
        if row.test_accuracy is not None:
            run.metrics("test_accuracy", {name: row.test_accuracy})
    run.figure("architectures", draw(rows))
    return rows


def measure(
    model: keras.Model, batch_sizes: Sequence[int], test_accuracy: float | None = None
) -> Row:
    found = {size: milliseconds(model, size) for size in batch_sizes}
    return Row(cost(model), found, test_accuracy)


def draw(rows: Mapping[str, Row]) -> Figure:
    """The table of the courses, with what was measured here."""
    batch_sizes = list(next(iter(rows.values())).milliseconds)
    columns = ["", "year", "layers", "parameters", "multiply-adds", "activations"]
    columns += [f"ms, batch {size}" for size in batch_sizes]
    columns += ["accuracy here", "top-5 error, paper"]
    cells = [_cells(name, row) for name, row in rows.items()]

    width = 11 + 0.09 * max(len(name) for name in rows)
    figure, axes = plt.subplots(figsize=(width, 0.3 * len(rows) + 1))
    axes.axis("off")
    table = axes.table(cells, colLabels=columns, cellLoc="right", bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    table.auto_set_column_width(range(len(columns)))
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.85")
        if row == 0:
            cell.set_text_props(weight="bold")
        if column == 0:
            cell.set_text_props(ha="left")
    axes.set_title("Of one image; milliseconds of one image on this processor")
    return figure


def _cells(name: str, row: Row) -> list[str]:
    published = PUBLISHED.get(name)
    error = published.top5_error if published else None
    accuracy_here = row.test_accuracy
    return [
        name,
        str(published.year) if published else "",
        str(published.weight_layers) if published else "",
        short(row.cost.parameters),
        short(row.cost.multiply_adds),
        short(row.cost.activation_bytes, "B"),
        *(f"{found:.3g}" for found in row.milliseconds.values()),
        "" if accuracy_here is None else f"{accuracy_here:.1%}",
        "" if error is None else f"{error:.3g} %",
    ]
