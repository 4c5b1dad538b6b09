"""Losses, metrics and data in every form: what is trained is what Keras's own fit
trains, to the last bits of a float."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops

from deep_learning_recipes import compression
from deep_learning_recipes.compression.bridge import copy_of

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 5)).astype("float32")
A = RANDOM.normal(size=(12, 3)).astype("float32")
B = RANDOM.integers(0, 4, 12)
WEIGHTS = RANDOM.uniform(size=12).astype("float32")
WHOLE = {"epochs": 3, "batch_size": 12, "verbose": 0}
"""one batch is all, so no order of the examples counts"""


def cubic(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) ** 3, axis=-1)


class Power(keras.losses.Loss):
    """Its config does not say the power."""

    def __init__(self, power):
        super().__init__()
        self.power = power

    def call(self, y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred) ** self.power, axis=-1)


class Total(keras.metrics.Metric):
    """Its config does not say the factor."""

    def __init__(self, factor):
        super().__init__(name="total")
        self.factor = factor
        self.sum = self.add_variable((), initializer="zeros", name="sum")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.sum.assign_add(self.factor * ops.sum(ops.abs(y_true - y_pred)))

    def result(self):
        return self.sum.value + 0.0


def one_output():
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(6, "tanh", kernel_regularizer="l2"), layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *stack])


def two_outputs(structure):
    """structure: makes the outputs of the layers named a and b."""
    keras.utils.set_random_seed(1)
    x = keras.Input((5,), name="x")
    h = layers.Dense(6, "tanh", name="h")(x)
    a = layers.Dense(3, name="a")(h)
    return keras.Model(x, structure(a, layers.Dense(4, "softmax", name="b")(h)))


def as_list(a, b):
    return [a, b]


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy()


CASES = {
    "a function, with metrics": lambda: (
        one_output(),
        A,
        {"loss": cubic, "metrics": [cubic, "mae", Total(2.0)]},
    ),
    "a lambda, with weighted metrics": lambda: (
        one_output(),
        A,
        {
            "loss": lambda y, p: ops.mean((y - p) ** 2),
            "metrics": [lambda y, p: ops.max(p)],
            "weighted_metrics": ["mse"],
            "loss_weights": 0.25,
        },
    ),
    "lists by position": lambda: (
        two_outputs(as_list),
        [A, B],
        {
            "loss": ["mse", cross_entropy()],
            "loss_weights": [1.0, 0.0],
            "metrics": [["mae"], ["accuracy"]],
        },
    ),
    "dicts over outputs in a list": lambda: (
        two_outputs(as_list),
        {"a": A, "b": B},
        {
            "loss": {"a": Power(3), "b": "sparse_categorical_crossentropy"},
            "loss_weights": {"a": 0.3, "b": 2.0},
            "metrics": {"a": ["mae", Total(1.0)]},
            "weighted_metrics": {"b": "accuracy"},
        },
    ),
    "a tuple of outputs": lambda: (
        two_outputs(lambda a, b: (a, b)),
        (A, B),
        {"loss": [cubic, None], "metrics": ["mae", ["accuracy"]]},
    ),
    "outputs by the layers' names": lambda: (
        two_outputs(lambda a, b: {"b": b, "a": a}),
        {"a": A, "b": B},
        {
            "loss": {"a": "mse", "b": cross_entropy()},
            "loss_weights": {"a": 0.0, "b": 3.0},
            "metrics": {"a": [lambda y, p: ops.min(p)], "b": ["accuracy"]},
        },
    ),
    "outputs by other names": lambda: (
        two_outputs(lambda a, b: {"u": b, "v": a}),
        {"v": A, "u": B},
        {
            "loss": {"u": cross_entropy(), "v": Power(2)},
            "loss_weights": {"u": 0.5, "v": 0.0},
            "metrics": {"u": ["accuracy"]},
        },
    ),
    "eagerly": lambda: (
        one_output(),
        A,
        {"loss": lambda y, p: float(p.numpy().size) * (y - p), "run_eagerly": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_objective_is_the_models_own(name):
    """With nothing pruned, what is left is plain training."""
    model, y, objective = CASES[name]()
    model.compile(keras.optimizers.SGD(0.1), **objective)
    result = compression.prune(
        model, X, y, sparsity=0.0, optimizer=tf_keras.optimizers.SGD(0.1), **WHOLE
    )
    # A metric of one's own is the same object in both: it begins at 0 all the same.
    before = model.evaluate(X, y, verbose=0, return_dict=True)
    found = result.model.evaluate(X, y, verbose=0, return_dict=True)

    model.fit(X, y, **WHOLE)
    after = model.evaluate(X, y, verbose=0, return_dict=True)
    assert found == pytest.approx(after, abs=1e-5)
    old, new = zip(*result.report.metrics.values(), strict=True)
    assert dict(zip(result.report.metrics, old, strict=True)) == pytest.approx(before)
    assert dict(zip(result.report.metrics, new, strict=True)) == pytest.approx(found)
    for one, other in zip(model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def masked(return_sequences):
    keras.utils.set_random_seed(1)
    words = keras.Input((7,), dtype="int32")
    h = layers.Embedding(5, 4, mask_zero=True)(words)
    h = layers.SimpleRNN(4, return_sequences=return_sequences)(h)
    return keras.Model(words, layers.Dense(3, "softmax", name="dense")(h))


WORDS = np.where(np.arange(7) < 4, RANDOM.integers(1, 5, (12, 7)), 0)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_masks_reach_the_layers_behind_and_the_loss(return_sequences):
    labels = RANDOM.integers(0, 3, (12, 7) if return_sequences else 12)
    model = masked(return_sequences)
    model.compile(keras.optimizers.SGD(0.1), cross_entropy())
    sgd = tf_keras.optimizers.SGD(0.1)
    result = compression.prune(
        model, WORDS, labels, sparsity=0.0, optimizer=sgd, **WHOLE
    )
    shared = compression.cluster(
        model, WORDS, labels, layers=["dense"], clusters=6, **WHOLE
    )
    model.fit(WORDS, labels, **WHOLE)
    for one, other in zip(model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    found = shared.tf_keras_model(WORDS)
    np.testing.assert_allclose(found, shared.model(WORDS), atol=1e-6)


@pytest.mark.parametrize(
    ("optimize", "options"),
    [
        (compression.cluster, {"clusters": 2, "layers": ["h", "a"]}),
        (compression.quantize_aware, {}),
    ],
)
@pytest.mark.parametrize("structure", [as_list, lambda a, b: {"a": a, "b": b}])
def test_an_output_of_weight_0_learns_nothing(optimize, options, structure):
    model = two_outputs(structure)
    model.compile(
        loss={"a": Power(2), "b": cross_entropy()},
        loss_weights={"a": 0.5, "b": 0.0},
        metrics={"a": ["mae"]},
    )
    result = optimize(model, X, structure(A, B), **options, **WHOLE)
    for name in "ab":
        old, new = (m.get_layer(name).kernel for m in (model, result.model))
        assert np.array_equal(old, new) == (name == "b")
    a, _ = tf.nest.flatten(result.tf_keras_model(X))
    metrics = result.report.metrics
    assert metrics["a_loss"][1] == pytest.approx(np.mean((a - A) ** 2), rel=1e-5)
    assert metrics["loss"][1] == pytest.approx(metrics["a_loss"][1] / 2, rel=1e-5)
    assert metrics["a_mae"][1] == pytest.approx(np.mean(np.abs(a - A)), rel=1e-5)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(6 * index, 6 * index + 6)
        return X[part], A[part], WEIGHTS[part]


def test_validation_data_in_every_form():
    model = one_output()
    model.compile("sgd", Power(3), weighted_metrics=[cubic])
    rows = tf.data.Dataset.from_tensor_slices((X, A, WEIGHTS)).batch(5)
    forms = [[X, A, WEIGHTS], rows, Batches()]
    found = []
    for data in forms:
        keras.utils.set_random_seed(0)
        result = compression.prune(
            model, X, A, epochs=1, verbose=0, validation_data=data
        )
        found.append(result.report.metrics)
    errors = np.abs(np.asarray(result.model(X)) - A) ** 3
    by_hand = np.mean(errors, axis=1) @ WEIGHTS / WEIGHTS.sum()
    for metrics in found:
        assert metrics["cubic"][1] == pytest.approx(by_hand, rel=1e-5)
        assert metrics.keys() == {"loss", "cubic"}
        assert metrics["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)


def test_a_given_loss_takes_the_place_of_the_models_own():
    model = two_outputs(as_list)
    model.compile("sgd", ["mse", cross_entropy()], loss_weights=[0.0, 1.0])
    y = [A, np.eye(4, dtype="float32")[B]]
    report = compression.quantize_aware(model, X, y, loss="mae", **WHOLE).report
    expected = np.abs(np.asarray(model(X)[1]) - y[1]).mean()
    assert report.metrics["loss"][0] == pytest.approx(expected, rel=1e-5)

    plain = one_output()
    result = compression.prune(plain, X, A, loss=cubic, epochs=1, verbose=0)
    assert "loss" in result.report.metrics and not result.model.compiled


def test_a_metric_of_several_numbers_is_reported_by_number():
    model = two_outputs(lambda a, b: b)
    model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    labels = np.eye(4, dtype="float32")[B]
    report = compression.prune(model, X, labels, epochs=1, verbose=0).report
    found = model.evaluate(X, labels, verbose=0, return_dict=True)["f1_score"]
    names = [f"f1_score[{index}]" for index in range(4)]
    assert [report.metrics[name][0] for name in names] == pytest.approx(found)
    assert "f1_score[3]" in str(report)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5 ** ops.cast(step, "float32")


class HalvingInConfig(Halving):
    def get_config(self):
        return {"start": self.start}


def test_copies_are_compiled_with_optimizers_of_ones_own():
    class Own(keras.optimizers.SGD):
        pass

    model = one_output()
    model.compile(Own(HalvingInConfig(0.25)), cubic)
    model.fit(X, A, verbose=0)
    optimizer = copy_of(model).optimizer
    assert type(optimizer) is Own and optimizer is not model.optimizer
    assert int(optimizer.iterations) == 0
    assert float(optimizer.learning_rate) == 0.25
    model.compile(Own(Halving(0.25)), cubic)
    with pytest.raises(ValueError, match="Own or Halving needs a get_config"):
        copy_of(model)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_what_cannot_be_followed_is_said_before_the_training():
    compiled = one_output()
    compiled.compile("sgd", "mse")
    without = one_output()
    without.compile("sgd")
    own = OwnStep(compiled.inputs, compiled.outputs)
    own.compile("sgd", "mse")
    active = keras.Sequential([keras.Input((5,)), layers.Dense(3, name="active")])
    active.layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    active.compile("sgd", "mse")
    rows = tf.data.Dataset.from_tensor_slices((X, A)).batch(4)
    for words, model, x, y, data in [
        ("generator can be read but once", compiled, X, A, (each for each in rows)),
        ("without an end; take", compiled, X, A, rows.repeat()),
        ("x: arrays of examples are needed, not a _Batch", compiled, rows, A, None),
        ("y: arrays of examples are needed, not a int", compiled, X, [0] * 12, None),
        ("hold no examples", compiled, X[:0], A, None),
        ("compiled without one; give loss", without, X, A, None),
        ("OwnStep has a train_step of its own", own, X, A, None),
        ("'active': its activity_regularizer is not followed", active, X, A, None),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            compression.prune(model, x, y, validation_data=data)
        assert "\n" not in str(error.value)


IMAGES = RANDOM.normal(size=(12, 6, 6, 2)).astype("float32")


def convolutions(policy="float32", frozen=(), activation=None, optimizer="sgd"):
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(4, 3, activation=activation, dtype=policy, name="first")(x)
    h = layers.BatchNormalization(dtype=policy, name="normalize")(h)
    h = layers.SeparableConv2D(4, 3, dtype=policy, name="second")(ops.relu(h))
    h = layers.Flatten(dtype=policy)(h)
    model = keras.Model(x, layers.Dense(4, dtype="float32", name="logits")(h))
    for name in frozen:
        model.get_layer(name).trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


OPTIMIZATIONS = {
    "prune": lambda *a, **k: compression.prune(*a, sparsity=0.5, **k),
    "cluster": lambda *a, **k: compression.cluster(*a, clusters=3, **k),
    "quantize_aware": compression.quantize_aware,
}


@pytest.mark.parametrize("name", OPTIMIZATIONS)
def test_frozen_layers_stay_as_they_are(name):
    frozen = ("first", "second", "normalize")
    model = convolutions(frozen=frozen)
    result = OPTIMIZATIONS[name](model, IMAGES, B, **WHOLE)
    for layer in model.layers:
        for old, new in zip(
            layer.weights, result.model.get_layer(layer.name).weights, strict=True
        ):
            assert np.array_equal(old, new) == (layer.name != "logits"), old.path
    assert not result.model.get_layer("first").trainable


def test_frozen_layers_that_are_named_or_all_there_are_get_one_line():
    model = convolutions(frozen=["first", "second", "logits"])
    for words, options in [
        ("all layers to prune are frozen", {}),
        ("'first' is frozen: set its trainable=True", {"layers": ["first"]}),
        ("'first' is frozen", {"sparsity": {"first": 0.5}}),
    ]:
        with pytest.raises(ValueError, match=words):
            compression.prune(model, IMAGES, B, **options)


@pytest.mark.parametrize("name", OPTIMIZATIONS)
def test_half_precision_is_trained_in_32_bits(name):
    """Gradients of 1e-9 vanish in 16 bits, and count in 32."""
    model = convolutions("mixed_float16")
    tiny = tf_keras.optimizers.SGD(1e9)
    logits = np.asarray(model(IMAGES))
    result = OPTIMIZATIONS[name](
        model,
        IMAGES,
        logits + 1,
        loss=lambda y, p: 1e-9 * ops.mean((y - p) ** 2),
        optimizer=tiny,
        **WHOLE,
    )
    old, new = (m.get_layer("second").bias for m in (model, result.model))
    assert np.abs(np.asarray(new) - np.asarray(old)).max() > 1e-3
    assert model.get_layer("first").dtype_policy.name == "mixed_float16"
    assert result.model.get_layer("first").dtype_policy.name == "mixed_float16"
    policies = {layer.compute_dtype for layer in result.tf_keras_model.layers}
    assert policies == {"float32"}


def branched():
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(4, 3, name="first")(x)
    h = layers.Add()([layers.BatchNormalization(name="normalize")(h), h])
    model = keras.Model(x, layers.Dense(4, name="logits")(layers.Flatten()(h)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: convolutions(activation="relu"), "an activation stands before it"),
        (branched, "what it takes is used elsewhere, too"),
    ],
    ids=["activation", "branch"],
)
def test_batch_normalization_that_cannot_be_quantized_is_folded_first(make, why):
    model = make()
    words = rf"'normalize'.*{why}.*quantize_aware\(fold\(model\)"
    with pytest.raises(ValueError, match=words):
        compression.quantize_aware(model, IMAGES, B, **WHOLE)
    folded = compression.fold(model)
    result = compression.quantize_aware(folded, IMAGES, B, loss=model.loss, **WHOLE)
    logits = [np.asarray(m(IMAGES)) for m in (result.model, result.tf_keras_model)]
    assert np.abs(logits[0] - logits[1]).max() < 0.1 * np.ptp(logits[0])


@pytest.mark.parametrize("structure", [dict, tuple])
def test_quantization_keeps_the_structure_of_outputs(structure):
    """One of them is used further on, so nothing may be fused past it."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(4, 3, name="inner")(x)
    y = layers.Dense(3, name="outer")(layers.Flatten()(layers.ReLU()(h)))
    outputs = {"z": y, "a": h} if structure is dict else (y, h)
    model = keras.Model({"x": x}, outputs)
    targets = keras.tree.map_structure(np.asarray, model({"x": IMAGES}))
    network = compression.quantize_aware(
        model, {"x": IMAGES}, targets, loss="mse", **WHOLE
    ).tf_keras_model
    found = network({"x": IMAGES})
    keras.tree.assert_same_structure(found, targets)
    for one, other in zip(
        keras.tree.flatten(found), keras.tree.flatten(targets), strict=True
    ):
        assert np.abs(one - other).max() < 0.1 * np.ptp(other)
        assert len(np.unique(one)) <= 256
