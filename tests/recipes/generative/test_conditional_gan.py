"""Who is told which class: by networks whose answers are known, and one update of each
against gradients taken by TensorFlow's own loss."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from scipy import special

from deep_learning_recipes.training.state import state_variables
from recipes import conditional_gan

pytestmark = pytest.mark.usefixtures("seeded")
SHAPE = (8, 8, 1)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def small_gan(tell_discriminator=True):
    generator = conditional_gan.build_generator(
        SHAPE, classes=3, noise_size=4, filters=2, units=6
    )
    discriminator = conditional_gan.build_discriminator(
        SHAPE, classes=3, filters=2, units=6
    )
    return with_sgd(generator, discriminator, tell_discriminator)


def with_sgd(generator, discriminator, tell_discriminator=True):
    model = conditional_gan.ConditionalGAN(generator, discriminator, tell_discriminator)
    model.compile(
        generator_optimizer=keras.optimizers.SGD(0.5),
        discriminator_optimizer=keras.optimizers.SGD(0.5),
    )
    return model


def values(variables):
    return [variable.numpy() for variable in variables]


def test_losses_equal_scipy(random):
    real, fake = random.normal(scale=3, size=(2, 7, 1)).astype("float32")
    expected = -special.log_expit(real).mean() - special.log_expit(-fake).mean()
    found = float(conditional_gan.discriminator_loss(real, fake))
    assert found == pytest.approx(expected, rel=1e-5)
    expected = -special.log_expit(fake).mean()
    found = float(conditional_gan.generator_loss(fake))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_class_reaches_both_networks(random):
    model = small_gan()
    noise = random.normal(size=(5, 4)).astype("float32")
    image = random.random((5, *SHAPE)).astype("float32")
    drawn = []
    judged = []
    for label in range(3):
        label = np.full(5, label, "int32")
        drawn.append(np.asarray(model.generator({"noise": noise, "label": label})))
        judged.append(np.asarray(model.discriminator({"image": image, "label": label})))
    assert drawn[0].shape == (5, *SHAPE)
    assert judged[0].shape == (5, 1)
    assert np.min(drawn) >= 0
    assert np.max(drawn) <= 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(drawn[one], drawn[other], atol=1e-4)
        assert not np.allclose(judged[one], judged[other], atol=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_a_discriminator_that_is_not_told_judges_all_classes_alike(told, random):
    model = small_gan(tell_discriminator=told)
    image = tf.constant(random.random((4, *SHAPE)).astype("float32"))
    one = model.judge(image, tf.constant([0, 0, 0, 0]))
    other = model.judge(image, tf.constant([0, 1, 2, 1]))
    assert np.allclose(one, other, atol=1e-5) != told


def exact_gan():
    """G paints its label; D answers 1 where a picture's gray is its label, −4 where it
    is one off."""
    noise = keras.Input((4,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    nothing = 0.0 * layers.Dense(1, use_bias=False)(noise)
    gray = ops.expand_dims(ops.cast(label, "float32"), axis=-1) + nothing
    image = ops.reshape(ops.tile(gray, (1, 4)), (-1, 2, 2, 1))
    generator = keras.Model({"noise": noise, "label": label}, image)

    image = keras.Input((2, 2, 1), name="image")
    label = keras.Input((), dtype="int32", name="label")
    seen = ops.mean(image, axis=(1, 2, 3))
    fits = 1.0 - 5.0 * ops.square(seen - ops.cast(label, "float32"))
    layer = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    logits = layer(ops.expand_dims(fits, axis=-1))
    discriminator = keras.Model({"image": image, "label": label}, logits)
    return with_sgd(generator, discriminator)


def test_pictures_are_judged_as_of_the_class_they_were_made_for():
    """Were labels mixed up, D would find pictures that do not fit."""
    y = np.array([0, 1, 2, 3, 2])
    x = np.tile(y[:, np.newaxis, np.newaxis, np.newaxis], (1, 2, 2, 1))
    x = tf.constant(x.astype("float32"))
    model = exact_gan()
    model.update_discriminator(x, tf.constant(y))
    expected = -math.log(special.expit(1.0)) - math.log(special.expit(-1.0))
    assert float(model.d_loss.result()) == pytest.approx(expected, rel=1e-5)
    model = exact_gan()
    model.update_generator(tf.constant(y))
    expected = -math.log(special.expit(1.0))
    assert float(model.g_loss.result()) == pytest.approx(expected, rel=1e-5)


def cross_entropy(logits, label):
    labels = tf.fill(tf.shape(logits), label)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_an_update_goes_down_the_loss_and_leaves_the_other_network(part, random):
    model = small_gan()
    x = tf.constant(random.random((6, *SHAPE)).astype("float32"))
    y = tf.constant([0, 1, 2, 0, 1, 1])
    state = model.seed_generator.state.numpy()
    noise = keras.random.normal((6, 4), seed=model.seed_generator)
    model.seed_generator.state.assign(state)
    network = getattr(model, part)
    other = model.generator if part == "discriminator" else model.discriminator
    with tf.GradientTape() as tape:
        fake = model.generator({"noise": noise, "label": y}, training=True)
        told = {"image": fake, "label": y}
        fake_logits = model.discriminator(told, training=True)
        if part == "generator":
            loss = cross_entropy(fake_logits, 1.0)
        else:
            told = {"image": x, "label": y}
            loss = cross_entropy(fake_logits, 0.0)
            loss += cross_entropy(model.discriminator(told, training=True), 1.0)
    gradients = tape.gradient(loss, network.trainable_variables)
    before = values(network.trainable_variables)
    left = values(other.trainable_variables)

    if part == "generator":
        model.update_generator(y)
        found_loss, found_norm = model.g_loss, model.g_gradient
    else:
        model.update_discriminator(x, y)
        found_loss, found_norm = model.d_loss, model.d_gradient

    after = values(network.trainable_variables)
    for old, new, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(old - new, 0.5 * gradient, rtol=1e-3, atol=1e-6)
    for old, new in zip(left, values(other.trainable_variables), strict=True):
        np.testing.assert_array_equal(old, new)
    norm = np.linalg.norm(np.concatenate([np.ravel(each) for each in gradients]))
    assert float(found_loss.result()) == pytest.approx(float(loss), rel=1e-5)
    assert float(found_norm.result()) == pytest.approx(norm, rel=1e-4)


def test_both_optimizers_are_what_a_checkpoint_keeps():
    model = small_gan()
    conditional_gan.compile_gan(model, 1e-3, 1e-3, steps=5)
    y = tf.constant([0, 1, 2])
    model.train_step((tf.zeros((3, *SHAPE)), y))
    kept = {id(variable) for variable in state_variables(model)}
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        moments = optimizer.variables[2:]
        assert len(moments) > 4
        assert {id(variable) for variable in moments} <= kept


def test_pictures_of_a_noise_stand_in_one_column():
    model = exact_gan()
    noise = np.zeros((5, 4), "float32")
    hands = conditional_gan.draw_hands(model.generator, noise, classes=3)
    assert hands.shape == (3, 5, 2, 2, 1)
    for label in range(3):
        np.testing.assert_allclose(hands[label], label)


def test_drawing_in_parts_is_drawing_at_once(monkeypatch, random):
    model = small_gan()
    noise = random.normal(size=(7, 4)).astype("float32")
    labels = random.integers(3, size=7).astype("int32")
    expected = model.generator({"noise": noise, "label": labels})
    monkeypatch.setattr(conditional_gan.samples, "AT_ONCE", 3)
    found = conditional_gan.draw(model.generator, noise, labels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_spread_in_classes_by_brute_force(random):
    seen = random.normal(size=(30, 4))
    labels = random.integers(3, size=30)
    squares = []
    for features, label in zip(seen, labels, strict=True):
        mean = np.mean([seen[i] for i in range(30) if labels[i] == label], axis=0)
        squares.append(np.linalg.norm(features - mean) ** 2)
    found = conditional_gan.spread_in_classes(seen, labels)
    assert found == pytest.approx(math.sqrt(np.mean(squares)))
    assert conditional_gan.spread_in_classes(np.eye(3)[labels], labels) == 0
