"""Whatever a network ends in, the class and the probability are the network's own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deep_learning_recipes import classifiers

SIZE = 12


def features():
    images = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, activation="relu")(images)
    return images, layers.GlobalAveragePooling2D()(x)


def saved(images, outputs, folder, seed=0):
    """Loads the model from a file again, with random weights; returns it and the
    classifier."""
    keras.utils.set_random_seed(seed)
    model = keras.Model(images, outputs)
    values = np.random.default_rng(seed)
    model.set_weights([values.normal(0, 1, w.shape) for w in model.get_weights()])
    model.save(folder / "net.keras")
    own = classifiers.load(str(folder / "net.keras"), pixel_range=(0, 1))
    return model, own


def pictures(n=5):
    return np.random.default_rng(3).random((n, SIZE, SIZE, 3), "float32")


SOFTMAXES = {
    "fused": lambda x: layers.Dense(4, "softmax")(x),
    "layer": lambda x: layers.Softmax()(layers.Dense(4)(x)),
    "ops": lambda x: ops.softmax(layers.Dense(4)(x)),
    "activations": lambda x: keras.activations.softmax(layers.Dense(4)(x)),
    "linear": lambda x: layers.Activation("linear")(layers.Dense(4, "softmax")(x)),
    "float32": lambda x: layers.Activation("softmax", dtype="float32")(
        layers.Dense(4)(x)
    ),
    "flatten": lambda x: layers.Flatten()(layers.Dense(4, "softmax")(x[:, None])),
    "reshape": lambda x: layers.Reshape((4,))(ops.softmax(layers.Dense(4)(x))),
    "ops.reshape": lambda x: ops.reshape(layers.Dense(4, "softmax")(x), (-1, 4)),
    "squeeze": lambda x: ops.squeeze(layers.Dense(4, "softmax")(x[:, None]), 1),
    "cast, dropout": lambda x: layers.Dropout(0.5)(
        ops.cast(ops.softmax(layers.Dense(4)(x)), "float32")
    ),
    "log": lambda x: ops.log_softmax(layers.Dense(4)(x)),
}


@pytest.mark.parametrize("head", SOFTMAXES)
def test_a_softmax_is_taken_off_however_it_is_written(head, tmp_path):
    images, x = features()
    model, own = saved(images, SOFTMAXES[head](x), tmp_path)
    expected = model.predict(pictures(), verbose=0)
    expected = np.exp(expected) if head == "log" else expected
    np.testing.assert_allclose(own.probabilities(pictures()), expected, atol=1e-6)
    np.testing.assert_allclose(
        own.opened_probabilities(pictures()), expected, atol=1e-5
    )
    logits = np.asarray(own.model(pictures(), training=False))
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3


SIGMOIDS = {
    "fused": lambda x, n: layers.Dense(n, "sigmoid")(x),
    "layer": lambda x, n: layers.Activation("sigmoid")(layers.Dense(n)(x)),
    "ops": lambda x, n: ops.sigmoid(layers.Dense(n)(x)),
    "reshape": lambda x, n: layers.Reshape((n,))(layers.Dense(n, "sigmoid")(x)),
    "hard": lambda x, n: layers.Dense(n, "hard_sigmoid")(x),
    "average": lambda x, n: layers.Average()(
        [layers.Dense(n, "sigmoid")(x), layers.Dense(n, "sigmoid")(x)]
    ),
}


@pytest.mark.parametrize("head", SIGMOIDS)
@pytest.mark.parametrize("count", [1, 3])
def test_sigmoids_are_two_classes_or_independent_ones(head, count, tmp_path):
    images, x = features()
    model, own = saved(images, SIGMOIDS[head](x, count), tmp_path)
    expected = model.predict(pictures(), verbose=0)
    if count == 1:
        expected = np.concatenate([1 - expected, expected], axis=1)
    assert len(own.class_names) == expected.shape[1]
    np.testing.assert_allclose(own.probabilities(pictures()), expected, atol=1e-6)
    np.testing.assert_allclose(
        own.opened_probabilities(pictures()), expected, atol=1e-5
    )
    if count == 1:
        logits = np.asarray(own.model(pictures(), training=False))
        np.testing.assert_allclose(logits[:, 0], -logits[:, 1])


def test_heads_side_by_side_stay_independent(tmp_path):
    images, x = features()
    heads = [layers.Dense(1, "sigmoid", name=name)(x) for name in ("cat", "dog")]
    model, own = saved(images, layers.Concatenate()(heads), tmp_path)
    np.testing.assert_allclose(
        own.opened_probabilities(pictures()), model(pictures()), atol=1e-6
    )


@pytest.mark.parametrize("mean", ["of networks", "of places", "weighted"])
def test_a_mean_of_probabilities_has_logits_as_well(mean, tmp_path):
    images, x = features()
    if mean == "of places":
        maps = layers.Conv2D(4, 3, activation="softmax")(images)
        outputs = layers.GlobalAveragePooling2D()(maps)
    else:
        both = [layers.Dense(4, "softmax")(x) for _ in range(2)]
        outputs = (
            layers.Average()(both)
            if mean == "of networks"
            else 0.3 * both[0] + 0.7 * both[1]
        )
    model, own = saved(images, outputs, tmp_path)
    np.testing.assert_allclose(
        own.opened_probabilities(pictures()), model(pictures()), atol=1e-5
    )
    assert not any("logits" in note for note in own.notes)


@pytest.mark.parametrize("count", [1, 4])
def test_bare_outputs_are_taken_for_logits_and_that_is_said(count, tmp_path):
    images, x = features()
    model, own = saved(images, layers.Dense(count)(x), tmp_path)
    logits = model.predict(pictures(), verbose=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if count == 1:
        expected = 1 / (1 + np.exp(np.concatenate([logits, -logits], axis=1)))
    np.testing.assert_allclose(own.probabilities(pictures()), expected, atol=1e-5)
    assert any("taken for logits" in note for note in own.notes)


LOSSES = {
    "binary_crossentropy": True,
    "categorical_crossentropy": False,
    keras.losses.BinaryCrossentropy(from_logits=True): True,
    keras.losses.BinaryFocalCrossentropy(from_logits=True): True,
    keras.losses.SparseCategoricalCrossentropy(from_logits=True): False,
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: getattr(loss, "name", loss))
def test_the_loss_says_whether_logits_exclude_each_other(loss, tmp_path):
    images, x = features()
    model = keras.Model(images, layers.Dense(4)(x))
    model.compile("sgd", loss)
    model.save(tmp_path / "net.keras")
    own = classifiers.load(str(tmp_path / "net.keras"))
    logits = model.predict(pictures(), verbose=0)
    expected = ops.sigmoid(logits) if LOSSES[loss] else ops.softmax(logits)
    np.testing.assert_allclose(own.probabilities(pictures()), expected, atol=1e-6)
    np.testing.assert_allclose(
        own.opened_probabilities(pictures()), expected, atol=1e-5
    )
    assert ("independent" in own.notes[-1]) == LOSSES[loss]


def test_the_head_of_a_nested_model_is_found(tmp_path):
    images, x = features()
    inner = keras.Model(images, layers.Dense(1, "sigmoid")(x))
    outer = keras.Input((SIZE, SIZE, 3))
    model, own = saved(outer, layers.Flatten()(inner(outer)), tmp_path)
    p = model.predict(pictures(), verbose=0)[:, 0]
    np.testing.assert_allclose(own.probabilities(pictures())[:, 1], p, atol=1e-6)
    logits = np.asarray(own.model(pictures(), training=False))[:, 1]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), p, atol=1e-5)


def by_hand(x):
    """A softmax of a sum, a difference, and a division."""
    exponentials = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)


FIRST = np.array([0, 30.0, 0, 0], "float32")
SURE = {
    "sigmoid": lambda x: ops.sigmoid(30 + layers.Dense(1)(x)),
    "softmax": lambda x: ops.softmax(layers.Dense(4)(x) + FIRST),
    "softmax, flattened": lambda x: layers.Flatten()(
        layers.Reshape((1, 4))(ops.softmax(layers.Dense(4)(x) + FIRST))
    ),
    "mean of two": lambda x: layers.Average()(
        [ops.softmax(layers.Dense(4)(x) + FIRST) for _ in range(2)]
    ),
    "by hand": lambda x: by_hand(layers.Dense(4)(x) + FIRST),
}


@pytest.mark.parametrize("head", SURE)
def test_a_logit_keeps_its_slope_where_the_probability_has_none(head, tmp_path):
    """At P = 1 - 1e-9 a float32 probability no longer moves."""
    import tensorflow as tf

    images, x = features()
    model, own = saved(images, SURE[head](x), tmp_path)
    shown = tf.constant(pictures(1))
    with tf.GradientTape() as tape:
        tape.watch(shown)
        logit = own.model(shown, training=False)[:, 1]
    assert own.probabilities(pictures(1))[0, 1] > 0.9999
    assert np.abs(tape.gradient(logit, shown)).max() > 1e-3
    with tf.GradientTape() as tape:
        tape.watch(shown)
        probability = model(shown)[:, -1 if head == "sigmoid" else 1]
    assert np.abs(tape.gradient(probability, shown)).max() < 1e-4


def test_the_answer_of_a_model_and_of_its_copy_are_printed_where_they_differ():
    images, x = features()
    model = keras.Model(images, layers.Dense(2)(x))
    own = classifiers.Classifier(
        model, ["cat", "dog"], ask=lambda images: np.array([[0.1, 0.9]] * len(images))
    )

    class Run:
        def __init__(self):
            self.printed, self.metrics = [], {}

        def print(self, line):
            self.printed.append(line)

        def metric(self, name, value):
            self.metrics[name] = value

    run = Run()
    classes, _ = classifiers.predict(run, own, np.zeros((1, SIZE, SIZE, 3), "float32"))
    assert classes.tolist() == [1]
    assert run.metrics == {"picture_0_class": 1, "picture_0_probability": 0.9}
    assert "dog 0.90" in run.printed[0]
    assert "0.50" in run.printed[0]
