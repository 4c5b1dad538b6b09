"""Bad input gets one clear line, and what goes to `model.fit` is the same training."""

import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import BATCH_SIZE, LABELS, X, dense

from deep_learning_recipes import training
from deep_learning_recipes.training import hand_over, prepare

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X, "y": LABELS[:-1]}, r"same number of examples.*\(45, 6\), \(44,\)"),
        ({"x": X, "y": LABELS, "sample_weight": 1.0}, "same number of examples"),
        ({"x": X[:0], "y": LABELS[:0]}, "no examples"),
        ({"x": X, "y": LABELS, "batch_size": 0}, "batch_size=0"),
        ({"x": X, "y": LABELS, "epochs": -1}, "epochs=-1"),
        ({"x": X, "sample_weight": X[:, 0]}, "without y"),
        (
            {"x": X, "y": LABELS, "validation_data": (X, LABELS[:3])},
            "same number of examples",
        ),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        training.fit(dense(), **arguments)


def test_model_that_is_not_compiled():
    with pytest.raises(ValueError, match=r"call model.compile\(\.\.\.\) before fit"):
        training.fit(keras.Sequential([layers.Dense(3)]), X, LABELS)


def test_dataset_goes_to_keras():
    reference, model = dense(), dense()
    model.set_weights(reference.get_weights())
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(BATCH_SIZE)
    expected = reference.fit(
        dataset, epochs=2, verbose=0, shuffle=False, validation_data=dataset
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = training.fit(
            model, dataset, epochs=2, verbose=0, validation_data=dataset
        )
    np.testing.assert_allclose(
        model.get_weights()[0], reference.get_weights()[0], atol=1e-6
    )
    np.testing.assert_allclose(
        history.history["val_loss"], expected.history["val_loss"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("replicas_of_keras", "sizes"), [(1, [16, 16, 13]), (2, [16, 16])]
)
def test_batches_handed_to_keras(replicas_of_keras, sizes):
    strategy = SimpleNamespace(num_replicas_in_sync=replicas_of_keras)
    settings = prepare.Training(
        model=SimpleNamespace(distribute_strategy=strategy),
        replicas=None,
        data=prepare.on_device(X),
        validation_data=None,
        batch_size=BATCH_SIZE,
        epochs=2,
        initial_epoch=0,
        shuffle=False,
        seed=0,
        jit_compile=None,
    )
    assert settings.steps == len(sizes)
    batches = hand_over.batches(settings, range(2))
    assert [len(batch) for batch in batches] == 2 * sizes
