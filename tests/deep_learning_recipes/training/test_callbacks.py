"""Callbacks: called once an epoch, and a training resumes where they say."""

import keras
import numpy as np
import pytest
from small_models import BATCH_SIZE, LABELS, X, dense

from deep_learning_recipes import training

pytestmark = pytest.mark.usefixtures("seeded")


def test_callback_for_batches_draws_a_warning():
    class Counter(keras.callbacks.Callback):
        batches = ()

        def on_train_batch_end(self, batch, logs=None):
            self.batches += (batch,)

    counter = Counter()
    with pytest.warns(UserWarning, match="Counter has a hook for batches"):
        training.fit(
            dense(), X, LABELS, batch_size=16, epochs=2, verbose=0, callbacks=[counter]
        )
    assert counter.batches == (2, 2)


def test_progress_bar_counts_steps(capsys):
    training.fit(dense(), X, LABELS, batch_size=BATCH_SIZE, epochs=2)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed
    assert "3/3" in printed


class Resume(keras.callbacks.Callback):
    def __init__(self, weights, optimizer_weights, history):
        super().__init__()
        self.saved = weights, optimizer_weights, history

    def restore(self, model):
        weights, optimizer_weights, history = self.saved
        model.set_weights(weights)
        for variable, value in zip(
            model.optimizer.variables, optimizer_weights, strict=True
        ):
            variable.assign(value)
        model.history.history = {name: list(values) for name, values in history.items()}
        return len(history["loss"])


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["own loop", "keras fit"])
def test_resumed_training_equals_uninterrupted(run_eagerly):
    def make():
        keras.utils.set_random_seed(0)
        return dense(run_eagerly=run_eagerly)

    def train(model, epochs, *callbacks):
        return training.fit(
            model,
            X,
            LABELS,
            epochs=epochs,
            seed=7,
            verbose=0,
            callbacks=list(callbacks),
        )

    whole, half = make(), make()
    expected = train(whole, 4)
    history = train(half, 2)
    saved = Resume(
        half.get_weights(),
        [variable.numpy() for variable in half.optimizer.variables],
        history.history,
    )
    resumed = make()
    history = train(resumed, 4, saved)
    assert history.epoch == [2, 3]
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-5)
    for weight, expected_weight in zip(
        resumed.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weight, expected_weight, atol=1e-6)

    done = make()
    history = train(done, 2, saved)  # nothing left to do
    assert history.history == saved.saved[2]
    np.testing.assert_array_equal(done.get_weights()[0], half.get_weights()[0])


def test_backup_and_restore_resumes(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return training.fit(
            model,
            X,
            LABELS,
            epochs=4,
            seed=7,
            verbose=0,
            callbacks=[backup, *callbacks],
        )

    interrupted, resumed = dense(), dense()
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, Stop())
    assert train(resumed).epoch == [2, 3]
