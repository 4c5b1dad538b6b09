import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from deep_learning_recipes import architectures, classifiers


@pytest.fixture(scope="module")
def small():
    images = keras.Input((8, 6, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(images)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(5, use_bias=False)(x))


def test_cost_by_hand(small):
    found = architectures.cost(small)
    # A kernel and a bias, gamma and beta, a matrix. Moving averages are not trained.
    assert found.parameters == (3 * 3 * 3 * 4 + 4) + (4 + 4) + 48 * 5
    assert found.multiply_adds == 4 * 3 * (3 * 3 * 3 * 4) + 48 * 5
    # Three layers of maps, then the logits.
    assert found.activation_bytes == 4 * (3 * 4 * 3 * 4 + 5)


def no_bias(layer, *arguments, **options):
    return layer(*arguments, use_bias=False, **options)


KINDS = {
    "grouped": no_bias(layers.Conv2D, 6, 3, groups=3, padding="same"),
    "depthwise": no_bias(layers.DepthwiseConv2D, 3, depth_multiplier=2),
    "separable": no_bias(layers.SeparableConv2D, 5, 3),
    "dense": no_bias(layers.Dense, 7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_multiply_adds_are_half_of_tensorflows_count(kind):
    images = keras.Input((9, 9, 6))
    model = keras.Model(images, KINDS[kind](images))
    assert 2 * architectures.multiply_adds(model) == operations_of(model)


def operations_of(model):
    """Multiplications and additions, by TensorFlow's own profiler."""
    function = tf.function(lambda x: model(x))
    graph = function.get_concrete_function(tf.TensorSpec((1, 9, 9, 6))).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return sum(
        tf.compat.v1.profiler.profile(each, options=options).total_float_ops
        for each in all_graphs(graph)
    )


def all_graphs(graph):
    """A graph, and those of the functions that it calls."""
    found = [graph]
    for name in graph._functions:
        found += all_graphs(graph._functions[name].graph)
    return found


def test_dilated_convolution_multiplies_by_its_weights_alone():
    images = keras.Input((9, 9, 6))
    model = keras.Model(images, layers.Conv2D(6, 3, dilation_rate=2)(images))
    assert architectures.multiply_adds(model) == 5 * 5 * (3 * 3 * 6 * 6)


def test_transposed_convolution_multiplies_at_the_places_of_its_input():
    images = keras.Input((5, 5, 2))
    model = keras.Model(images, layers.Conv2DTranspose(3, 4, strides=2)(images))
    assert architectures.multiply_adds(model) == 5 * 5 * (4 * 4 * 2 * 3)


def test_nested_models_and_layers_called_twice(small):
    images = keras.Input((8, 6, 3))
    twice = layers.Conv2D(3, 1)
    nested = keras.Model(images, small(twice(twice(images))))
    once = 8 * 6 * 3 * 3
    expected = 2 * once + architectures.multiply_adds(small)
    assert architectures.multiply_adds(nested) == expected


def test_layer_without_a_rule_is_named():
    sequence = keras.Input((4, 2))
    model = keras.Model(sequence, layers.LSTM(3, name="memory")(sequence))
    with pytest.raises(ValueError, match="'memory', a LSTM"):
        architectures.multiply_adds(model)


# Millions of parameters and of multiply-adds, as their papers and Keras's page say.
KNOWN = {
    "MobileNet": (4.2, 569),
    "MobileNetV2": (3.5, 300),
    "EfficientNetLite0": (4.7, 407),
}


@pytest.mark.parametrize("name", KNOWN)
def test_cost_is_what_papers_say(name):
    if name == "EfficientNetLite0":
        model = classifiers.load(name).model
    else:
        model = getattr(keras.applications, name)(weights=None)
    found = architectures.cost(model)
    parameters, multiply_adds = KNOWN[name]
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.03)
    assert found.multiply_adds / 1e6 == pytest.approx(multiply_adds, rel=0.06)


def test_milliseconds_are_for_one_picture_of_a_batch(monkeypatch):
    images = keras.Input((1,))
    model = keras.Model(images, layers.Dense(1)(images))
    clock = iter(range(1000))
    monkeypatch.setattr(architectures.time, "perf_counter", lambda: next(clock))
    # Each call takes a second by this clock.
    assert architectures.milliseconds(model, 1) == 1000
    assert architectures.milliseconds(model, 8) == 125


def test_task_has_three_parts_without_a_common_picture():
    task = architectures.load_task("recolored_photos", seed=3, size=16)
    assert task.image_shape == (16, 16, 3)
    assert task.classes == 9
    parts = [task.train, task.valid, task.test]
    assert [len(x) for x, _ in parts] == [2880, 720, 900]
    found = [{picture.tobytes() for picture in x} for x, _ in parts]
    assert len(set.union(*found)) == 4500


def test_task_of_the_users_own_pictures(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = random.integers(0, 256, (20, 30), dtype="uint8")
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    task = architectures.load_task(str(tmp_path), seed=0)
    assert task.classes == 2
    assert task.image_shape == (32, 32, 3)


def test_accuracy_counts_every_picture():
    images = keras.Input((1, 1, 3))
    model = keras.Model(images, layers.Flatten()(images))
    random = np.random.default_rng(0)
    x = random.random((701, 1, 1, 3)).astype("float32")
    y = random.integers(0, 3, 701)
    expected = np.mean(x[:, 0, 0].argmax(axis=1) == y)
    assert math.isclose(architectures.accuracy(model, x, y), expected)


class Notes:
    """What a run keeps of a report."""

    callbacks = ()

    def __init__(self):
        self.numbers = {}
        self.figures = {}

    def metrics(self, prefix, values, **_):
        self.numbers |= {f"{prefix} {name}": value for name, value in values.items()}

    def figure(self, name, figure):
        self.figures[name] = figure

    def track(self, items, name):
        return items


def test_report_measures_what_was_trained_and_what_is_imagenets(small):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 300)
    x = random.random((300, 4, 4, 3)).astype("float32") + y[:, None, None, None]
    task = architectures.Task(
        (x[:200], y[:200]), (x[200:250], y[200:250]), (x[250:], y[250:]), 2
    )
    notes = Notes()
    linear = architectures.train(
        architectures.build_linear(task), task, notes, epochs=30, learning_rate=0.05
    )
    assert linear.test > 0.9
    assert linear.losses[-1] < linear.losses[0]

    rows = architectures.report(
        notes, {"linear": linear}, {"AlexNet": small}, batch_sizes=(1,)
    )
    assert list(rows) == ["linear", "AlexNet"]
    assert notes.numbers["parameters linear"] == 4 * 4 * 3 * 2 + 2
    assert notes.numbers["test_accuracy linear"] == linear.test
    assert "test_accuracy AlexNet" not in notes.numbers
    assert notes.numbers["ms_per_image AlexNet batch 1"] > 0
    written = [text.get_text() for text in cells_of(notes.figures["architectures"])]
    assert "2012" in written
    assert "16.4 %" in written


def cells_of(figure):
    (table,) = figure.axes[0].tables
    return [cell.get_text() for cell in table.get_celld().values()]
