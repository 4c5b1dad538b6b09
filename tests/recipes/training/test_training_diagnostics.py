"""The doctor on trainings by Keras's own fit, with architectures and data that the
recipe does not plant faults in; its measures by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deep_learning_recipes import data
from deep_learning_recipes.training import stacks
from recipes import training_diagnostics as recipe

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def blobs():
    """Three clusters, which anything learns: x, y, x_valid, y_valid."""
    random = np.random.default_rng(0)
    y = random.integers(3, size=400)
    centers = random.normal(scale=2, size=(3, 6))
    x = (centers[y] + random.normal(size=(400, 6))).astype("float32") / 2
    return x[:300], y[:300], x[300:], y[300:]


def network(activation="elu", output=None, loss=LOGITS, rate=0.1):
    keras.utils.set_random_seed(0)
    model = recipe.build_network(6, 3, activation, (12,), output)
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def names(history, model, parts, **changed):
    x, y, x_valid, y_valid = parts
    arguments = {"x_valid": x_valid, "y_valid": y_valid, **changed}
    return [each.name for each in recipe.diagnose(history, model, x, y, **arguments)]


@pytest.fixture(scope="module")
def trained(blobs):
    x, y, x_valid, y_valid = blobs
    model = network()
    history = model.fit(
        x, y, validation_data=(x_valid, y_valid), epochs=8, batch_size=10, verbose=0
    )
    return history, model


def test_a_healthy_training_is_left_alone_and_so_are_its_weights(trained, blobs):
    history, model = trained
    before = model.get_weights()
    assert names(history, model, blobs) == []
    assert names(history.history, model, blobs, x_valid=None) == []
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_faults_of_the_data_are_found_whatever_was_learned(trained, blobs):
    history, model = trained
    x, y, x_valid, y_valid = blobs
    copied = x_valid.copy()
    copied[:10] = x[:10] + 1e-4
    assert names(history, model, blobs, x_valid=copied) == [recipe.LEAKAGE]
    moved = x, np.roll(y, 1), x_valid, y_valid
    assert names(history, model, moved)[0] == recipe.SHIFTED
    wrong = (y_valid + 1) % 3
    assert names(history, model, blobs, y_valid=wrong)[0] == recipe.SHIFTED
    bytes_of = x * 100, y, x_valid * 100, y_valid
    assert names(history, model, bytes_of)[0] == recipe.NOT_SCALED
    one_column = x.copy()
    one_column[:, 0] *= 400
    assert recipe.look_at_inputs(one_column / 200)[0].name == recipe.NOT_SCALED


def test_the_evidence_says_by_how_many_rows_labels_moved(blobs):
    x, y, _, _ = blobs
    (finding,) = recipe.look_at_labels(x, np.roll(y, 2), None)
    assert "labels move by -2 rows" in finding.evidence
    assert finding.advice in str(finding)


def test_a_convnet_that_crawls_is_told_to_go_faster():
    """With momentum, on pictures."""
    (x, y), (x_valid, y_valid) = data.load("faces", size=12)
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:])
    hidden = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    hidden = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(hidden))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model.compile(keras.optimizers.SGD(1e-5, momentum=0.9), LOGITS)
    history = model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    assert names(history, model, (x, y, x_valid, y_valid)) == [recipe.TOO_LOW]


@pytest.mark.parametrize(
    ("output", "loss", "is_wrong"),
    [
        (None, LOGITS, False),
        (None, "sparse_categorical_crossentropy", True),
        ("softmax", "sparse_categorical_crossentropy", False),
        ("softmax", LOGITS, True),
        (None, keras.losses.sparse_categorical_crossentropy, True),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(), False),
    ],
)
def test_losses_that_do_not_fit_the_outputs(output, loss, is_wrong, blobs):
    x, y, _, _ = blobs
    model = network(output=output, loss=loss)
    curves = {"loss": [1.1]}
    found = recipe.look_at_loss(curves, model, x, y)
    assert [each.name for each in found] == [recipe.WRONG_LOSS] * is_wrong


def test_a_loss_that_was_summed_is_found(blobs):
    x, y, _, _ = blobs
    model = network()
    own = recipe.cross_entropies(model, x, y).mean()
    steady = np.linspace(1.2, 1.0, 5)
    assert recipe.look_at_loss({"loss": own * steady}, model, x, y) == []
    (finding,) = recipe.look_at_loss({"loss": 10 * own * steady}, model, x, y)
    assert finding.name == recipe.WRONG_LOSS


@pytest.mark.parametrize(
    ("losses", "is_too_high"),
    [
        ([1.0, 0.9, 0.8, 0.7], False),
        ([1.0, np.nan, np.nan, np.nan], True),
        ([1.0, 0.9, 7.0, 0.9], True),
        ([1.3, 1.28, 1.26, 1.24, 1.22, 1.2, 1.18, 1.16], False),  # begins badly
        ([1.3, 1.2, 1.18, 1.25, 1.16, 1.26, 1.17, 1.24], True),
    ],
)
def test_jumps(losses, is_too_high, blobs):
    x, y, _, _ = blobs  # knowing nothing is a loss of 1.1
    found = recipe.look_for_jumps({"loss": losses}, network(), x, y)
    assert [each.name for each in found] == [recipe.TOO_HIGH] * is_too_high


def test_units_that_are_dead_or_saturated(blobs):
    x, _, _, _ = blobs
    for activation, name in (("relu", recipe.DEAD), ("tanh", recipe.SATURATED)):
        model = network(activation)
        assert recipe.look_at_units(model, x) == []
        hidden = model.layers[1]
        kernel, bias = hidden.get_weights()
        bias[:6] -= 100
        hidden.set_weights([kernel, bias])
        (finding,) = recipe.look_at_units(model, x)
        assert finding.name == name
        assert "50%" in finding.evidence or "51%" in finding.evidence


def test_shares_by_hand():
    outputs = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert recipe.dead_share(outputs) == pytest.approx(1 / 3)
    assert recipe.saturated_share(np.array([[-0.99, 0.5]]), "tanh") == 0.5
    assert recipe.saturated_share(np.array([[0.001, 0.9]]), "sigmoid") == 0.5


def test_the_first_loss_is_the_logarithm_of_the_number_of_classes():
    y = np.arange(30) % 10
    model = recipe.build_network(6, 10)
    last = model.layers[-1]
    last.set_weights([np.zeros_like(each) for each in last.get_weights()])
    losses = recipe.cross_entropies(model, np.ones((30, 6), "float32"), y)
    np.testing.assert_allclose(losses, -np.log(1 / 10), rtol=1e-5)
    assert recipe.chance_loss(y) == pytest.approx(np.log(10))
    assert recipe.chance_loss(np.array([0, 0, 0, 1])) == pytest.approx(0.5623, abs=1e-4)


def test_one_batch_and_the_size_of_updates(blobs):
    x, y, _, _ = blobs
    model = network(rate=0.5)
    before = model.get_weights()
    first = recipe.cross_entropies(model, x[:8], y[:8]).mean()
    assert recipe.overfit_one_batch(model, x[:8], y[:8]) < 0.2 * first
    ratios = recipe.update_ratios(model, x[:8], y[:8], 0.5)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    model.train_on_batch(x[:8], y[:8])
    moved = model.get_weights()[0] - before[0]
    expected = np.linalg.norm(moved) / np.linalg.norm(before[0])
    assert list(ratios.values())[0] == pytest.approx(expected, rel=1e-3)


def test_what_is_no_classifier_is_refused(blobs):
    x, y, _, _ = blobs
    with pytest.raises(ValueError, match="label from 0 to 2"):
        recipe.diagnose({"loss": [1]}, network(), x, y + 1)
    with pytest.raises(ValueError, match="compiled"):
        recipe.diagnose({"loss": [1]}, recipe.build_network(6, 3), x, y)
    inputs = keras.Input((6,))
    regression = keras.Model(inputs, layers.Dense(1)(inputs))
    with pytest.raises(ValueError, match="classes"):
        recipe.diagnose({"loss": [1]}, regression, x, y)


def test_patients_train_as_keras_does(blobs):
    """With a penalty, and a loss that is summed over the batch."""
    x, y, x_valid, y_valid = blobs
    clinic = recipe.Clinic("tanh", (12,), 0.01, 1, 1)
    row = stacks.row_of(network("tanh"))
    healthy = recipe.Patient(recipe.HEALTHY, x, y, x_valid, y_valid, row, 0.01)
    decayed = recipe.replace(healthy, decay=0.05)
    summed = recipe.replace(healthy, loss_scale=16.0)
    ward = recipe.Ward(clinic, [decayed, summed])
    batches = np.random.default_rng(0).integers(300, size=(4, 2, 16))
    ward.train_epoch(tf.constant(batches))
    for index, patient in enumerate([decayed, summed]):
        model = recipe.model_of(patient, clinic)
        if index == 0:
            model.optimizer.learning_rate = 0.01
        for batch in batches[:, index]:
            model.train_on_batch(x[batch], y[batch])
        found = stacks.row_of(model)
        np.testing.assert_allclose(found, ward.rows[index], atol=1e-4)
