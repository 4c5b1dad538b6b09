"""The check finds what is wrong, passes what is right, and covers the catalogue's
layers."""

import ast

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from keras import layers
from recipes.gradient_checking import IMAGE, SEQUENCE, VECTOR

from recipes import gradient_checking as gc

MORE_LAYERS = {
    "Activation": (layers.Activation("gelu"), VECTOR),
    "LeakyReLU": (layers.LeakyReLU(), VECTOR),
    "PReLU": (layers.PReLU("uniform"), VECTOR),
    "ELU": (layers.ELU(), VECTOR),
    "Softmax": (layers.Softmax(), VECTOR),
    "Rescaling": (layers.Rescaling(2.0), VECTOR),
    "EinsumDense": (layers.EinsumDense("bi,io->bo", (3,)), VECTOR),
    "GaussianNoise": (layers.GaussianNoise(0.1, seed=0), VECTOR),
    "Reshape": (layers.Reshape((3, 2)), VECTOR),
    "Permute": (layers.Permute((2, 1)), SEQUENCE),
    "RepeatVector": (layers.RepeatVector(3), VECTOR),
    "Flatten": (layers.Flatten(), IMAGE),
    "DepthwiseConv2D": (layers.DepthwiseConv2D(3), IMAGE),
    "SeparableConv2D": (layers.SeparableConv2D(3, 3), IMAGE),
    "Conv2DTranspose": (layers.Conv2DTranspose(3, 3, strides=2), IMAGE),
    "AveragePooling2D": (layers.AveragePooling2D(2), IMAGE),
    "GlobalAveragePooling2D": (layers.GlobalAveragePooling2D(), IMAGE),
    "GlobalMaxPooling2D": (layers.GlobalMaxPooling2D(), IMAGE),
    "UpSampling2D": (layers.UpSampling2D(2), IMAGE),
    "ZeroPadding2D": (layers.ZeroPadding2D(1), IMAGE),
    "Cropping2D": (layers.Cropping2D(1), IMAGE),
    "GroupNormalization": (layers.GroupNormalization(1), IMAGE),
    "GRU": (layers.GRU(3), SEQUENCE),
    "RNN": (layers.RNN(layers.SimpleRNNCell(3)), SEQUENCE),
    "SimpleRNN": (layers.SimpleRNN(3), SEQUENCE),
    "Bidirectional": (layers.Bidirectional(layers.LSTM(2)), SEQUENCE),
    "TimeDistributed": (layers.TimeDistributed(layers.Dense(2)), SEQUENCE),
    "Conv1D": (layers.Conv1D(3, 2), SEQUENCE),
    "MaxPooling1D": (layers.MaxPooling1D(2), SEQUENCE),
    "GlobalAveragePooling1D": (layers.GlobalAveragePooling1D(), SEQUENCE),
    "GlobalMaxPooling1D": (layers.GlobalMaxPooling1D(), SEQUENCE),
}
# Of several inputs or of whole numbers: each has a test of its own below.
MERGING = {"Add", "Average", "Concatenate", "Maximum", "Multiply", "Subtract"}
OTHERS = {
    "AdditiveAttention",
    "Dot",
    "Embedding",
    "ReversibleEmbedding",
    "Layer",
    "Wrapper",
    "Input",
    "InputLayer",
    "StringLookup",  # from strings to numbers: nothing has a gradient
    *MERGING,
}


@pytest.mark.parametrize("name", [*gc.LAYERS, *MORE_LAYERS])
def test_every_layer_passes(name):
    assert gc.check_layer(*{**gc.LAYERS, **MORE_LAYERS}[name], entries=8) < 1e-5


def test_no_layer_of_the_catalogue_is_forgotten():
    used = set()
    for path in (ROOT / "recipes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "layers",
                "keras.layers",
            ):
                used.add(node.attr)
    # What draws anew in each call (RandomFlip, MixUp, ...) has no gradient to check.
    drawing = {name for name in used if name.startswith("Random")} | {"MixUp"}
    assert used - {*gc.LAYERS, *MORE_LAYERS, *OTHERS} - drawing == set()


def error_of_merging(layer):
    x = keras.Input((5,))
    out = layer([layers.Dense(3)(x), layers.Dense(3)(x)])
    random = np.random.default_rng(0)
    x_4, y = random.normal(size=(4, 5)), random.normal(size=(4, *out.shape[1:]))
    rows = gc.check_gradients(
        keras.Model(x, out), x_4, y, keras.losses.MeanSquaredError()
    )
    return max(row.error for row in rows.values())


@pytest.mark.parametrize("name", sorted(MERGING))
def test_merging_layers_pass(name):
    assert error_of_merging(getattr(layers, name)()) < 1e-6


def test_dot_products_pass():
    assert error_of_merging(layers.Dot(axes=-1)) < 1e-6


def test_additive_attention_passes():
    x = keras.Input((4, 3))
    query = layers.Dense(2)(x)
    key = layers.Dense(2)(x)
    seen = layers.AdditiveAttention()([query, x, key])
    random = np.random.default_rng(0)
    texts = random.normal(size=(3, 4, 3))
    targets = random.normal(size=(3, 4, 3))
    rows = gc.check_gradients(
        keras.Model(x, seen), texts, targets, keras.losses.MeanSquaredError()
    )
    assert max(row.error for row in rows.values()) < 1e-6


def test_embedding_passes_within_a_sequential_model():
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(6, 3)])
    x, y = np.array([[0, 1, 1, 5]]), np.ones((1, 4, 3))
    rows = gc.check_gradients(model, x, y, keras.losses.MeanSquaredError())
    assert rows[model.weights[0].path].error < 1e-6


def test_one_table_at_both_ends_passes():
    ids = keras.Input((4,), dtype="int32")
    table = layers.ReversibleEmbedding(6, 3)
    model = keras.Model(ids, table(table(ids), reverse=True))
    x, y = np.array([[0, 1, 1, 5]]), np.ones((1, 4, 6))
    rows = gc.check_gradients(model, x, y, keras.losses.MeanSquaredError())
    assert rows[model.weights[0].path].error < 1e-6


class Scaled(layers.Layer):
    """x · w, with a gradient by w that is `factor` times the right one."""

    def __init__(self, factor=1.0, **options):
        super().__init__(**options)
        self.factor = factor

    def build(self, shape):
        self.scale = self.add_weight((shape[-1],), "ones", name="scale")

    def call(self, x):
        right = tf.convert_to_tensor(self.scale)
        return x * (self.factor * right + (1 - self.factor) * tf.stop_gradient(right))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def check_scaled(factor, **options):
    x = keras.Input((4,))
    model = keras.Model(x, Scaled(factor, name="own")(layers.Dense(4, name="dense")(x)))
    data = np.random.default_rng(0).normal(size=(2, 5, 4))
    return gc.check_gradients(model, *data, keras.losses.MeanSquaredError(), **options)


@pytest.mark.parametrize(
    ("factor", "error"), [(1.01, 0.01), (0.99, 0.01), (1.0, 0), (-1.0, 2.0), (0.0, 1.0)]
)
def test_the_size_of_a_mistake_is_found_and_only_there(factor, error, capsys):
    rows = check_scaled(factor)
    assert rows["own/scale"].error == pytest.approx(error, abs=1e-6)
    assert rows["dense/kernel"].error < 1e-6
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if "own/scale" in line
    ]
    assert line.endswith("WRONG") == (error > 0)


def test_as_many_entries_as_asked_for_and_the_model_stays_as_it_was(capsys):
    model = gc.build_mlp(layers.Dense)
    before = model.get_weights()
    x, y = np.random.default_rng(0).normal(size=(3, 64)), np.array([0, 1, 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows = gc.check_gradients(model, x, y, loss, entries=20, show=False)
    assert [row.entries for row in rows.values()] == [20, 16, 20, 10]
    assert capsys.readouterr().out == ""
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_error_that_shrinks_as_a_power():
    assert gc.power_of(3 * gc.EPSILONS**1.5) == pytest.approx(1.5)


def test_quotients_are_exact_where_they_can_be():
    """Of w²: from the left 2w − ε, from the right 2w + ε, central exactly 2w."""
    left, right = gc.difference_quotients(
        lambda v: tf.reduce_sum(v**2), tf.constant([1.0, 3.0], tf.float64), [1, 0], 0.25
    )
    np.testing.assert_allclose(left, [5.75, 1.75])
    np.testing.assert_allclose(right, [6.25, 2.25])


def test_an_entry_at_a_kink_is_told_from_a_mistake():
    x = keras.Input((1,))
    model = keras.Model(x, layers.ReLU()(layers.Dense(1, name="dense")(x)))
    model.set_weights(
        [np.array([[1e-6]]), np.zeros(1)]
    )  # ReLU's input is within ε of 0
    rows = gc.check_gradients(
        model, np.ones((1, 1)), np.ones((1, 1)), lambda y, out: y - out
    )
    assert (rows["dense/kernel"].kinks, rows["dense/kernel"].error) == (1, 0)
    assert rows["dense/kernel"].error_with_kinks > 0.5


def test_the_planted_layer_computes_what_dense_does():
    right, wrong = gc.build_mlp(layers.Dense), gc.build_mlp(gc.SlightlyWrongDense)
    wrong.set_weights(right.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 64)).astype("float32")
    np.testing.assert_allclose(right(x), wrong(x), atol=1e-6)


def test_dropout_drops_in_training_alone_and_the_same_each_time():
    x = keras.Input((8,))
    model = keras.Model(x, layers.Dropout(0.5, seed=0)(layers.Dense(8)(x)))
    batch = np.ones((4, 8)), np.zeros((4, 8)), keras.losses.MeanSquaredError()
    trained, vector = gc.loss_of_all_weights(model, *batch, training=True)
    tested, _ = gc.loss_of_all_weights(model, *batch)
    assert float(trained(vector)) == float(trained(vector)) != float(tested(vector))
