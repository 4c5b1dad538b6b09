"""Glimpses against slices of the picture, the estimator against quadrature."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import recurrent_attention as ram

RANDOM = np.random.default_rng(0)
SMALL = ram.Config(side=12, patch=4, scales=2, glimpses=3, units=8)


def sliced(picture, location, patch, scale):
    """The patch by slicing and averaging a picture with a wide black edge."""
    side, edge = len(picture), 50
    row, column = (
        round(float((x + 1) / 2 * side) - patch * scale / 2) + edge for x in location
    )
    wide = np.pad(picture, edge)
    cut = wide[row : row + patch * scale, column : column + patch * scale]
    return cut.reshape(patch, scale, patch, scale).mean(axis=(1, 3))


def test_a_glimpse_is_what_slicing_gives_even_beyond_the_edge():
    pictures = RANDOM.random((6, 13, 13)).astype("float32")
    location = RANDOM.uniform(-1, 1, (6, 2)).astype("float32")
    location[:2] = [[-1, 1], [1, -1]]
    found = np.asarray(ram.glimpse(pictures, location, patch=3, scales=3)).reshape(
        6, 3, 3, 3
    )
    for picture, place, seen in zip(pictures, location, found, strict=True):
        for scale, patch in zip((1, 2, 4), seen, strict=True):
            np.testing.assert_allclose(
                patch, sliced(picture, place, 3, scale), atol=1e-6
            )


def test_what_was_seen_is_sharp_inside_coarse_around_and_grey_elsewhere():
    picture = RANDOM.random((16, 16)).astype("float32")
    seen = ram.seen_by(picture, np.zeros((1, 2), "float32"), patch=4, scales=2)
    np.testing.assert_allclose(seen[6:10, 6:10], picture[6:10, 6:10], atol=1e-6)
    np.testing.assert_allclose(seen[4:6, 4:6], picture[4:6, 4:6].mean(), atol=1e-6)
    assert (seen[:4] == 0.5).all() and (seen[:, 12:] == 0.5).all()


def test_pictures_hold_their_digit_whole_and_the_right_amount_of_clutter():
    labels = np.arange(10)
    digits = labels[:, None, None] / 10 * np.ones((6, 6))
    pictures, found = ram.clutter(
        digits, labels, 50, 20, np.random.default_rng(0), pieces=0
    )
    for picture, label in zip(pictures, found, strict=True):
        assert picture.sum() == pytest.approx(digits[label].sum(), abs=1e-4)
    full = np.ones((3, 6, 6))
    pictures, _ = ram.clutter(full, np.zeros(3), 400, 20, np.random.default_rng(0))
    share = (
        1 - (1 - (36 / 400)) * (1 - 4 / 400) ** 4
    )  # were places drawn over the edges too
    assert pictures.mean() == pytest.approx(share, abs=0.01)
    assert set(np.unique(pictures)) == {0, 1}
    assert pictures.sum(axis=(1, 2)).min() >= 36
    black_and_white = np.arange(2)[:, None, None] * np.ones((6, 6))
    pictures, label = ram.clutter(
        black_and_white, np.arange(2), 50, 6, np.random.default_rng(0)
    )
    assert (
        pictures[label == 0].max() == 1
    )  # a digit as large as the picture wipes nothing away


def test_returns_are_means_of_the_rewards_after_the_choice():
    rewards = np.array([[9.0, 1, 2, 6]], "float32")
    np.testing.assert_allclose(ram.mean_of_later(rewards), [[3, 4, 6]])


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_the_estimator_is_right_on_average_whatever_the_baseline(value):
    """d/dμ E[f(l)], l ~ N(μ, σ²), for f(l) = sin 3l₁ + l₁ l₂², by Gauss and Hermite's
    rule."""
    sigma, mean = 0.3, np.array([0.2, -0.5])
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    noise = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    weight = np.outer(weights, weights).ravel() / weights.sum() ** 2

    def f(location):
        return np.sin(3 * location[..., 0]) + location[..., 0] * location[..., 1] ** 2

    def expectation(mean):
        return weight @ f(mean + sigma * noise)

    step = 1e-5 * np.eye(2)
    exact = [
        (expectation(mean + each) - expectation(mean - each)) / 2e-5 for each in step
    ]

    means = tf.Variable(np.tile(mean, (len(noise), 1)), dtype="float64")
    chosen = mean + sigma * noise
    values = tf.fill([len(noise)], tf.constant(value, "float64"))
    with tf.GradientTape() as tape:
        choices = ram.Choices(chosen, means, values)
        loss = ram.reinforce_loss(f(chosen), choices, sigma)
    each = -np.asarray(tape.gradient(loss, means)) * len(noise)  # the loss is a mean
    np.testing.assert_allclose(weight @ each, exact, rtol=1e-6)


def test_the_baseline_goes_towards_the_return():
    value = tf.Variable([0.0, 2.0])
    zeros, ones = np.zeros((2, 2), "float32"), np.ones((2, 2), "float32")
    with tf.GradientTape() as tape:
        choices = ram.Choices(ones, zeros, value)
        loss = ram.reinforce_loss(np.ones(2, "float32"), choices, 0.1)
    np.testing.assert_allclose(
        tape.gradient(loss, value), [-1, 1]
    )  # of the mean square error


def test_the_locations_are_those_of_the_policy():
    keras.utils.set_random_seed(0)
    pictures = RANDOM.random((16, 12, 12)).astype("float32")
    for policy in ram.POLICIES:
        agent = ram.Attention(SMALL, policy)
        reading = agent.read(pictures, exploring=True)
        locations = np.asarray(reading.locations)
        assert reading.logits.shape == (16, 3, 10) and locations.shape == (16, 3, 2)
        assert (locations[:, 0] == 0).all()
        if policy == "learned":
            choices = reading.choices
            assert choices.value.shape == (16, 2)
            chosen = np.asarray(choices.chosen)
            np.testing.assert_allclose(locations[:, 1:], np.clip(chosen, -1, 1))
            noise = np.std(chosen - choices.mean)
            assert noise == pytest.approx(SMALL.sigma, rel=0.4)
            # No chance when it is not learning.
            still = agent.read(pictures)
            means = still.choices.mean
            np.testing.assert_allclose(still.locations[:, 1:], means, atol=1e-6)
            found = agent(pictures)["locations"]
            np.testing.assert_allclose(found, still.locations, atol=1e-6)
        elif policy == "random":
            assert reading.choices is None
            assert locations.min() < -0.5 and locations.max() > 0.5
        else:
            expected = np.broadcast_to(ram.ROUND[:3], (16, 3, 2))
            np.testing.assert_array_equal(locations, expected)


def test_a_long_round_begins_anew():
    config = dataclasses.replace(SMALL, glimpses=len(ram.ROUND) + 2)
    agent = ram.Attention(config, "round")
    locations = np.asarray(agent(np.zeros((1, 12, 12), "float32"))["locations"])
    np.testing.assert_array_equal(locations[0, -2:], ram.ROUND[:2])


def test_locations_are_kept_in_the_picture():
    pictures = RANDOM.random((16, 12, 12)).astype("float32")
    agent = ram.Attention(dataclasses.replace(SMALL, sigma=2.0), "learned")
    reading = agent.read(pictures, exploring=True)
    assert np.abs(reading.choices.chosen).max() > 1.5
    assert np.abs(reading.locations).max() == 1


def test_the_next_place_is_a_step_from_the_last():
    chooser = ram.build_chooser(8)
    state = RANDOM.normal(size=(3, 8)).astype("float32")
    places = np.array([[0.5, -0.5], [0.0, 0.2], [1.0, -1.0]], "float32")
    steps = np.asarray(chooser([state, np.zeros((3, 2), "float32")])[0])
    found = np.asarray(chooser([state, places])[0])
    np.testing.assert_allclose(found, np.clip(places + steps, -1, 1), atol=1e-6)


def test_the_loss_is_that_of_reading_and_that_of_choosing_by_what_was_read_later():
    keras.utils.set_random_seed(0)
    agent = ram.Attention(SMALL, "learned")
    agent.compile(keras.optimizers.SGD(1.0))
    pictures = RANDOM.random((16, 12, 12)).astype("float32")
    labels = RANDOM.integers(10, size=16).astype("int32")
    drawn = np.array(agent.seeds.state)
    before = np.array(agent.core.weights[-1])
    reading = agent.read(pictures, exploring=True)
    logits = np.asarray(reading.logits)
    value = np.asarray(reading.choices.value)
    away = np.asarray(reading.choices.chosen - reading.choices.mean)
    agent.seeds.state.assign(drawn)
    found = float(agent.train_step((pictures, labels))["loss"])

    right = np.exp(logits)[np.arange(16), :, labels] / np.exp(logits).sum(axis=-1)
    later = np.stack([right[:, 1:].mean(axis=1), right[:, 2]], axis=1)
    log_density = -(away**2).sum(axis=-1) / (2 * SMALL.sigma**2)
    choosing = np.mean((later - value) ** 2) - np.mean((later - value) * log_density)
    assert found == pytest.approx(choosing - np.log(right).mean(), rel=1e-5)
    # The bias of the logits goes along what it is to read alone: p − 1 where it is
    # right, else p.
    slope = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    slope[np.arange(16), :, labels] -= 1
    moved = np.array(agent.core.weights[-1]) - before
    np.testing.assert_allclose(moved, -slope.mean(axis=(0, 1)), atol=1e-5)


def test_all_weights_learn():
    keras.utils.set_random_seed(0)
    pictures = RANDOM.random((16, 12, 12)).astype("float32")
    agent = ram.Attention(SMALL, "learned")
    agent.compile("adam")
    before = [np.array(weight) for weight in agent.trainable_variables]
    labels = RANDOM.integers(10, size=16).astype("int32")
    agent.fit(pictures, labels, batch_size=16, epochs=2, verbose=0)
    for weight, old in zip(agent.trainable_variables, before, strict=True):
        assert np.abs(np.array(weight) - old).max() > 0, weight.path


def test_the_choice_alone_is_learned_from_rewards():
    keras.utils.set_random_seed(0)
    agent = ram.Attention(SMALL, "learned")
    pictures = RANDOM.random((4, 12, 12)).astype("float32")
    with tf.GradientTape() as tape:
        choices = agent.read(pictures, exploring=True).choices
        loss = ram.reinforce_loss(np.ones((4, 2), "float32"), choices, SMALL.sigma)
    # What the core remembers is learned by reading. The chooser's first layer leads to
    # the mean.
    weights = [agent.chooser.trainable_variables[0], *agent.core.trainable_variables]
    first, *of_core = tape.gradient(loss, weights)
    assert np.abs(first).max() > 0
    assert all(gradient is None for gradient in of_core)
