"""Distillation against SciPy, closed-form gradients, and Keras's own distiller."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import rel_entr, softmax

from recipes import knowledge_distillation as distillation

RANDOM = np.random.default_rng(0)
TEACHER = RANDOM.normal(scale=6, size=(20, 10)).astype("float32")
STUDENT = RANDOM.normal(scale=2, size=(20, 10)).astype("float32")
IMAGES = RANDOM.uniform(size=(20, 8, 8, 1)).astype("float32")
LABELS = RANDOM.integers(0, 10, 20)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 10.0])
def test_the_loss_is_the_divergence_of_softened_probabilities_times_the_squared_temperature(
    temperature,
):
    p, q = (softmax(each / temperature, axis=1) for each in (TEACHER, STUDENT))
    expected = temperature**2 * rel_entr(p, q).sum(axis=1)
    loss = distillation.distillation_loss(TEACHER, STUDENT, temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 8.0])
def test_the_loss_is_that_of_keras(temperature):
    """Given by name, "kl_divergence" would be taken of logits there, not of
    probabilities."""
    theirs = keras.distillation.LogitsDistillation(
        temperature, loss=keras.losses.KLDivergence()
    )
    ours = np.mean(distillation.distillation_loss(TEACHER, STUDENT, temperature))
    assert float(theirs.compute_loss(TEACHER, STUDENT)) == pytest.approx(ours, rel=1e-4)


def gradient(temperature, teacher=TEACHER, student=STUDENT):
    z = tf.constant(student, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = distillation.distillation_loss(
            tf.constant(teacher, tf.float64), z, temperature
        )
    return tape.gradient(loss, z).numpy()


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_the_gradient_is_that_of_equation_2_times_the_squared_temperature(temperature):
    p, q = (
        softmax(each.astype(float) / temperature, axis=1) for each in (TEACHER, STUDENT)
    )
    np.testing.assert_allclose(gradient(temperature), temperature * (q - p), atol=1e-6)


def test_at_a_high_temperature_it_matches_logits():
    """Equation 4 for logits of mean 0, times T²: (z − v) / N. So T² keeps the
    gradient's size."""
    centered = [each - each.mean(axis=1, keepdims=True) for each in (TEACHER, STUDENT)]
    limit = (centered[1] - centered[0]) / 10
    np.testing.assert_allclose(gradient(1e4, *centered), limit, atol=0.01)
    sizes = [
        np.linalg.norm(gradient(temperature)) for temperature in (20.0, 40.0, 80.0)
    ]
    np.testing.assert_allclose(sizes, sizes[0], rtol=0.2)


def test_the_ensemble_is_the_geometric_mean_of_its_members():
    members = [
        distillation.build_teacher(8, kind, f"member-{kind}")
        for kind in distillation.BLOCKS
    ]
    product = np.prod(
        [softmax(np.asarray(each(IMAGES)), axis=1) for each in members], axis=0
    )
    expected = product ** (1 / 3) / (product ** (1 / 3)).sum(axis=1, keepdims=True)
    teacher = distillation.ensemble(members)
    np.testing.assert_allclose(
        softmax(np.asarray(teacher(IMAGES)), axis=1), expected, rtol=1e-4
    )


def twins(**arguments):
    """Two students with the same weights, the first in a Distiller."""
    keras.utils.set_random_seed(1)
    ours, theirs = distillation.build_student(8, 16), distillation.build_student(8, 16)
    theirs.set_weights(ours.get_weights())
    distiller = distillation.Distiller(ours, **arguments)
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return distiller, theirs


@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_it_trains_to_the_weights_of_keras_distiller(label_weight):
    distiller, theirs = twins(temperature=4.0, label_weight=label_weight)
    before = distiller.student.get_weights()
    teacher = distillation.build_student(8, 32)
    teacher.set_weights([3 * each for each in teacher.get_weights()])
    logits = np.asarray(teacher(IMAGES))
    order = {"epochs": 5, "batch_size": 10, "shuffle": False, "verbose": 0}
    losses = distiller.fit(IMAGES, (LABELS, logits), **order).history["loss"]

    loss = keras.distillation.LogitsDistillation(4.0, loss=keras.losses.KLDivergence())
    rival = keras.distillation.Distiller(
        teacher, theirs, loss, student_loss_weight=label_weight
    )
    rival.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    history = rival.fit(IMAGES, LABELS, **order).history
    np.testing.assert_allclose(losses, history["total_loss"], rtol=1e-3)
    trained = distiller.student.get_weights()
    for start, weights, expected in zip(
        before, trained, theirs.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weights, expected, atol=2e-5)
        assert np.abs(weights - start).max() > 0.01


def test_it_evaluates_by_the_loss_that_it_trains_by():
    distiller, _ = twins(temperature=4.0, label_weight=0.3)
    found = distiller.evaluate(IMAGES, (LABELS, TEACHER), verbose=0, return_dict=True)[
        "loss"
    ]
    logits = distiller.student(IMAGES)
    hard = keras.losses.sparse_categorical_crossentropy(
        LABELS, logits, from_logits=True
    )
    soft = distillation.distillation_loss(TEACHER, logits, 4.0)
    expected = float(np.mean(0.3 * hard + 0.7 * soft))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", distillation.BLOCKS)
def test_teachers_of_every_kind_have_logits(kind):
    teacher = distillation.build_teacher(8, kind, "one", classes=7)
    assert teacher(IMAGES).shape == (20, 7)


def test_on_labels_alone_it_trains_as_any_classifier():
    distiller, plain = twins(temperature=7.0, label_weight=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    order = {"epochs": 5, "batch_size": 8, "shuffle": False, "verbose": 0}
    ours = distiller.fit(IMAGES, (LABELS, TEACHER), **order).history["loss"]
    np.testing.assert_allclose(
        ours, plain.fit(IMAGES, LABELS, **order).history["loss"], rtol=1e-4
    )
    for weights, expected in zip(
        distiller.student.get_weights(), plain.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_shifts_by_up_to_an_eighth_fill_with_black():
    image = np.zeros((1, 8, 8, 1))
    image[0, 3, 0] = 1
    moved = distillation.shifted(np.concatenate([image, 2 * image]), 200, RANDOM)
    assert moved.shape == (400, 8, 8, 1)
    there = moved.max(axis=(1, 2, 3))
    assert (there[0::2] < 2).all()
    assert (there[1::2] != 1).all()
    seen = {
        tuple(place[0]) for each in moved if len(place := np.argwhere(each[..., 0]))
    }
    assert seen == {(row, column) for row in (2, 3, 4) for column in (0, 1)}
    assert 0.2 < np.mean(there == 0) < 0.5  # a third is moved out on the left


def test_the_bias_is_what_the_labels_of_the_missing_class_need():
    """Class 1 lies 2 too low for its images and 7 below the others'."""
    logits = np.array(
        [[5.0, 3.0, 0.0], [4.0, 2.0, 0.0], [9.0, 2.0, 0.0], [0.0, 2.0, 9.0]]
    )
    labels = np.array([1, 1, 0, 2])
    bias = distillation.correct_bias(logits, labels, 1)
    assert bias[0] == bias[2] == 0
    assert 2 < bias[1] < 7
    assert distillation.accuracy(logits, labels) == 0.5
    assert distillation.accuracy(logits + bias, labels) == 1.0
