"""`training.fit` against `keras.Model.fit`: same batches, same weights, same
History."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    IMAGES,
    LABELS,
    TARGETS,
    Adversarial,
    Ridge,
    X,
    assert_same_training,
    convolutional,
    dense,
    recurrent,
    two_inputs_two_outputs,
)

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_dense_with_validation(optimizer):
    history = assert_same_training(
        lambda: dense(optimizer),
        X,
        LABELS,
        jit_compile=(False, True),
        validation_data=(X[:20], LABELS[:20]),
    )
    assert list(history.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]


def test_convolution_and_batch_normalization():
    assert_same_training(convolutional, IMAGES, LABELS, jit_compile=(False, True))


def test_recurrent():
    assert_same_training(recurrent, IMAGES[..., 0], LABELS)


def test_nested_inputs_several_outputs_and_learning_rate_schedule():
    assert_same_training(
        two_inputs_two_outputs,
        {"left": X, "right": -X},
        {"label": LABELS, "target": TARGETS},
        sample_weight=np.linspace(0, 2, 45),
    )


def test_sample_weights_also_in_validation():
    weights = np.linspace(0, 3, 45)
    assert_same_training(
        lambda: dense(weighted_metrics=["accuracy"]),
        X,
        LABELS,
        sample_weight=weights,
        validation_data=(X, LABELS, weights[::-1].copy()),
    )


def test_validation_on_a_dataset():
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(10)
    assert_same_training(dense, X, LABELS, validation_data=dataset)


def test_custom_train_step_of_an_unbuilt_model():
    def make():
        keras.utils.set_random_seed(0)
        model = Ridge()
        model.compile("adam")
        return model

    assert_same_training(make, X, TARGETS.astype("float64"))


def test_two_optimizers():
    def make():
        keras.utils.set_random_seed(0)
        model = Adversarial()
        model.compile()
        return model

    assert_same_training(make, X, TARGETS)


def test_moving_average_of_weights_ends_in_the_weights():
    assert_same_training(
        lambda: dense(keras.optimizers.SGD(0.5, use_ema=True)), X, LABELS
    )


def test_callbacks_of_epochs(tmp_path):
    def callbacks():
        return [
            keras.callbacks.LearningRateScheduler(
                lambda epoch, rate: 0.1 / (epoch + 1)
            ),
            keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=10.0),
            keras.callbacks.EarlyStopping(
                "loss", restore_best_weights=True, min_delta=10.0
            ),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "{epoch}.weights.h5", save_weights_only=True
            ),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
        ]

    history = assert_same_training(dense, X, LABELS, callbacks=callbacks)
    assert history.epoch == [0, 1]  # stopped early
    assert (tmp_path / "2.weights.h5").exists()
