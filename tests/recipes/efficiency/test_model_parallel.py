"""Model parallelism: the time line by hand and by the paper's formula; stages against
Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import UsageError
from recipes import model_parallel

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 5)).astype("float32")
Y = RANDOM.integers(0, 10, 24).astype("int32")


def test_the_time_line_of_two_stages_and_two_micro_batches_by_hand():
    forward, backward = model_parallel.time_line(2, 2)
    np.testing.assert_array_equal(forward, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(backward, [[5, 4], [4, 3]])


@pytest.mark.parametrize(
    ("stages", "micro_batches"), [(1, 1), (1, 4), (4, 1), (4, 8), (3, 32)]
)
def test_the_idle_share_is_the_papers(stages, micro_batches):
    expected = (stages - 1) / (micro_batches + stages - 1)
    assert model_parallel.idle_share(stages, micro_batches) == pytest.approx(expected)


def test_no_stage_does_two_things_at_once_and_none_before_its_input():
    forward, backward = model_parallel.time_line(4, 6)
    for stage in range(4):
        times = [*forward[stage], *backward[stage]]
        assert len(set(times)) == len(times)
    assert np.all(np.diff(forward, axis=0) > 0)
    assert np.all(np.diff(backward, axis=0) < 0)
    assert np.all(backward > forward)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_step_through_stages_equals_keras(micro_batches):
    devices = ["CPU:0"] * 3
    stages = model_parallel.build_stages(5, 8, 4, devices)
    assert [len(stage.weights) for stage in stages] == [4, 2, 4]
    (whole,) = model_parallel.build_stages(5, 8, 4, devices[:1])
    for ours, expected in zip(
        [w for stage in stages for w in stage.weights], whole.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
    whole.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    whole.train_on_batch(X, Y)
    optimizers = [keras.optimizers.SGD(0.1) for _ in stages]
    for stage, optimizer in zip(stages, optimizers, strict=True):
        optimizer.build(stage.trainable_variables)
    pipeline = model_parallel.Pipeline(stages, devices, optimizers, micro_batches)
    pipeline.step(tf.constant(X), tf.constant(Y))
    for ours, expected in zip(
        [w for stage in stages for w in stage.weights], whole.weights, strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"batch_size": 200}, "examples"),
        ({"batch_size": 100}, "micro-batches"),
        ({"stages": 9}, "hidden layers"),
    ],
)
def test_what_does_not_fit_is_refused(setting, word):
    config = model_parallel.Config(**setting)
    with pytest.raises(UsageError, match=word):
        model_parallel.check(config, 150)
    model_parallel.check(model_parallel.Config(), 150)
