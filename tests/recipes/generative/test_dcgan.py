"""The losses against SciPy, one update of each network against gradients taken by
TensorFlow's own loss, ways and sums of latents by hand, and a training that was killed."""

import math
from itertools import combinations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from deep_learning_recipes import training
from deep_learning_recipes.run.recorder import Recorder
from recipes import dcgan

pytestmark = pytest.mark.usefixtures("seeded")
SHAPE = (8, 12, 3)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def small_gan(**options):
    generator = dcgan.build_generator(SHAPE, latent_size=4, filters=2, units=6)
    discriminator = dcgan.build_discriminator(SHAPE, filters=2, units=6)
    model = dcgan.DCGAN(generator, discriminator, name="small")
    model.compile(
        generator_optimizer=keras.optimizers.SGD(0.5),
        discriminator_optimizer=keras.optimizers.SGD(0.5),
        **options,
    )
    return model


def pictures(random, count=6):
    return random.random((count, *SHAPE)).astype("float32")


def values(variables):
    return [variable.numpy() for variable in variables]


def test_losses_equal_scipy(random):
    real, fake = random.normal(scale=3, size=(2, 7, 1)).astype("float32")
    expected = -special.log_expit(real).mean() - special.log_expit(-fake).mean()
    found = float(dcgan.discriminator_loss(real, fake))
    assert found == pytest.approx(expected, rel=1e-5)
    expected = -special.log_expit(fake).mean()
    assert float(dcgan.generator_loss(fake)) == pytest.approx(expected, rel=1e-5)


def test_a_discriminator_that_knows_nothing_loses_the_logarithm_of_four():
    """Goodfellow et al., theorem 1."""
    zeros = np.zeros((5, 1), "float32")
    loss = float(dcgan.discriminator_loss(zeros, zeros))
    assert loss == pytest.approx(math.log(4))


def test_the_generators_loss_is_steep_where_the_discriminator_is_sure():
    logits = tf.Variable([[-8.0]])
    with tf.GradientTape(persistent=True) as tape:
        loss = dcgan.generator_loss(logits)
        minimax = tf.math.log(1 - tf.sigmoid(logits))
    assert float(tape.gradient(loss, logits)[0, 0]) == pytest.approx(-1, abs=1e-3)
    assert float(tape.gradient(minimax, logits)[0, 0]) == pytest.approx(0, abs=1e-3)


def test_shapes_and_range(random):
    model = small_gan()
    images = model(random.normal(scale=5, size=(5, 4)).astype("float32"))
    assert images.shape == (5, *SHAPE)
    assert float(np.min(images)) >= 0
    assert float(np.max(images)) <= 1
    assert model.discriminator(images).shape == (5, 1)


def cross_entropy(logits, label):
    labels = tf.fill(tf.shape(logits), label)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


def forged_before(model, count):
    """What the model forges next, without moving its random state; batch normalization
    counts it, which no gradient sees."""
    state = model.seed_generator.state.numpy()
    latents = keras.random.normal((count, 4), seed=model.seed_generator)
    model.seed_generator.state.assign(state)
    return latents


def check_moved(before, after, gradients):
    for old, new, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(old - new, 0.5 * gradient, rtol=1e-3, atol=1e-6)


def norm_of(gradients):
    return np.linalg.norm(np.concatenate([np.ravel(each) for each in gradients]))


def test_an_update_of_the_discriminator_goes_down_its_loss_and_leaves_the_other(random):
    model = small_gan()
    x = pictures(random)
    variables = model.discriminator.trainable_variables
    latents = forged_before(model, len(x))
    with tf.GradientTape() as tape:
        fake = model.generator(latents, training=True)
        loss = cross_entropy(model.discriminator(x, training=True), 1.0)
        loss += cross_entropy(model.discriminator(fake, training=True), 0.0)
    gradients = tape.gradient(loss, variables)
    before = values(variables)
    generator = values(model.generator.trainable_variables)

    model.update_discriminator(tf.constant(x))

    check_moved(before, values(variables), gradients)
    for old, new in zip(
        generator, values(model.generator.trainable_variables), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert float(model.d_loss.result()) == pytest.approx(float(loss), rel=1e-5)
    assert float(model.d_gradient.result()) == pytest.approx(
        norm_of(gradients), rel=1e-4
    )


def test_an_update_of_the_generator_goes_down_its_loss_and_leaves_the_other(random):
    model = small_gan()
    variables = model.generator.trainable_variables
    latents = forged_before(model, 6)
    with tf.GradientTape() as tape:
        fake = model.generator(latents, training=True)
        loss = cross_entropy(model.discriminator(fake, training=True), 1.0)
    gradients = tape.gradient(loss, variables)
    before = values(variables)
    discriminator = values(model.discriminator.trainable_variables)

    model.update_generator(6)

    check_moved(before, values(variables), gradients)
    for old, new in zip(
        discriminator, values(model.discriminator.trainable_variables), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert float(model.g_loss.result()) == pytest.approx(float(loss), rel=1e-5)
    assert float(model.g_gradient.result()) == pytest.approx(
        norm_of(gradients), rel=1e-4
    )


def test_every_update_forges_anew(random, monkeypatch):
    model = small_gan()
    seen = []
    draw = keras.random.normal

    def watch(shape, seed):
        seen.append(np.asarray(draw(shape, seed=seed)))
        return seen[-1]

    monkeypatch.setattr(keras.random, "normal", watch)
    model.train_step(tf.constant(pictures(random)))
    model.train_step(tf.constant(pictures(random)))
    assert [each.shape for each in seen] == 4 * [(6, 4)]
    for one, other in combinations(seen, 2):
        assert not np.allclose(one, other)


def test_batches_real_and_forged_are_normalized_apart(random):
    """In one batch the forged pictures would change what is made of the real ones."""
    model = small_gan()
    x = pictures(random)
    alone = model.discriminator(x, training=True)
    together = model.discriminator(np.concatenate([x, 0 * x]), training=True)[:6]
    assert not np.allclose(alone, together, atol=1e-3)
    with tf.GradientTape() as tape:
        fake = model.generator(forged_before(model, 6), training=True)
        logits = model.discriminator(fake, training=True)
    assert tape is not None
    expected = float(dcgan.discriminator_loss(alone, logits))
    model.update_discriminator(tf.constant(x))
    assert float(model.d_loss.result()) == pytest.approx(expected, rel=1e-4)


def dense_gan():
    """Networks that are compiled in no time."""
    latent = keras.Input((4,))
    image = keras.layers.Reshape(SHAPE)(keras.layers.Dense(math.prod(SHAPE))(latent))
    generator = keras.Model(latent, image)
    image = keras.Input(SHAPE)
    logits = keras.layers.Dense(1)(keras.layers.Flatten()(image))
    return dcgan.DCGAN(generator, keras.Model(image, logits))


class Killed(Exception):
    pass


class KillAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            raise Killed


def test_a_killed_training_goes_on_with_both_optimizers(random, tmp_path):
    x = pictures(random, 20)

    def train(*callbacks):
        keras.utils.set_random_seed(3)
        model = dense_gan()
        dcgan.compile_dcgan(model, 1e-2, 1e-2, steps=12)
        training.fit(
            model, x, epochs=4, batch_size=8, seed=1, verbose=0, callbacks=callbacks
        )
        return model

    def recorder(**options):
        return Recorder(tmp_path, seconds_between_saves=-1.0, **options)

    whole = train()
    with pytest.raises(Killed):
        train(recorder(), KillAfter(2))
    resumed = train(recorder(resume=True))
    assert len(resumed.history.history["g_loss"]) == 4
    for one, other in zip(whole.variables, resumed.variables, strict=True):
        if "loss" not in one.path and "gradient" not in one.path:
            np.testing.assert_array_equal(one.numpy(), other.numpy(), one.path)
    for name in ("generator_optimizer", "discriminator_optimizer"):
        moments = values(getattr(whole, name).variables)
        again = values(getattr(resumed, name).variables)
        assert max(np.abs(each).max() for each in moments[2:]) > 0
        for one, other in zip(moments, again, strict=True):
            np.testing.assert_array_equal(one, other)


def test_half_precision_scales_the_losses_of_both():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_gan()
    finally:
        keras.config.set_dtype_policy(policy)
    optimizers = (model.generator_optimizer, model.discriminator_optimizer)
    for optimizer in optimizers:
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        assert float(optimizer.scale_loss(1.0)) > 1


def test_interpolation_goes_along_the_arc():
    one = np.array([[1.0, 0.0], [0.0, 2.0]])
    other = np.array([[0.0, 1.0], [2.0, 0.0]])
    np.testing.assert_allclose(dcgan.interpolate(one, other, 0.0), one, atol=1e-12)
    np.testing.assert_allclose(dcgan.interpolate(one, other, 1.0), other, atol=1e-12)
    third = dcgan.interpolate(one, other, 1 / 3)
    angle = math.pi / 6
    np.testing.assert_allclose(third[0], [math.cos(angle), math.sin(angle)])
    np.testing.assert_allclose(third[1], [2 * math.sin(angle), 2 * math.cos(angle)])


def test_halfway_is_as_long_as_what_the_generator_has_seen(random):
    one, other = random.standard_normal((2, 2000, 64))
    between = dcgan.interpolate(one, other, 0.5)
    assert np.square(between).mean() == pytest.approx(1, abs=0.03)
    assert np.square((one + other) / 2).mean() == pytest.approx(0.5, abs=0.03)


def test_mean_difference_by_hand():
    latents = np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]])
    has = np.array([True, True, False])
    lacks = np.array([False, False, True])
    np.testing.assert_allclose(dcgan.mean_difference(latents, has, lacks), [-4.0, -3.0])


def test_brightness_is_found_within_classes(random):
    """Pictures as bright as the first number of their latents, and brighter by class,
    which goes by the second."""
    latents = random.standard_normal((4000, 3))
    labels = (latents[:, 1] > 0).astype(int)
    bright = 0.1 * latents[:, 0] + labels
    images = np.tile(bright[:, np.newaxis, np.newaxis, np.newaxis], (1, 2, 2, 1))
    direction = dcgan.brighter(dcgan.Drawn(latents, images, labels), [0, 1])
    # The half-normal distribution's mean, twice.
    expected = [2 * math.sqrt(2 / math.pi), 0, 0]
    np.testing.assert_allclose(direction, expected, atol=0.1)


def test_random_directions_are_as_long(random):
    like = random.normal(size=(7, 5))
    found = dcgan.of_length(like, 0)
    assert found.shape == like.shape
    lengths = np.linalg.norm(found, axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(like, axis=-1))
