"""The convolution against Keras's, the reach by the Jacobian, queues against the whole
pass, the losses and the regression by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deep_learning_recipes import UsageError
from recipes import temporal_convolution as recipe

RANDOM = np.random.default_rng(0)
DILATIONS = (1, 2, 4)
CONFIG = recipe.Config(
    data="co2", channels=4, blocks=3, horizon=3, steps=20, batch_size=2, starts=2
)


def some(*shape):
    return RANDOM.normal(size=shape).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    built = recipe.build_tcn(3, channels=4, kernel_size=3, dilations=DILATIONS)
    # Small enough that no tanh is flat, where a gradient would be rounded to 0.
    weights = [0.3 * some(*weight.shape) for weight in built.get_weights()]
    built.set_weights(weights)
    return built


def make_series(count=200, horizon=3, reach=8):
    values = np.cumsum(RANDOM.normal(size=count)) + np.sin(np.arange(count))
    return recipe.Series("made", np.arange(count), values, horizon, reach)


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "time"), [(2, 1, 9), (3, 4, 20), (2, 8, 5), (4, 2, 11)]
)
def test_the_convolution_is_that_of_keras(kernel_size, dilation, time):
    x = some(2, time, 3)
    own = recipe.CausalConvolution(5, kernel_size, dilation)
    keras_own = keras.layers.Conv1D(
        5, kernel_size, dilation_rate=dilation, padding="causal"
    )
    own.build(x.shape)
    keras_own.build(x.shape)
    weights = [some(kernel_size, 3, 5), some(5)]
    own.set_weights(weights)
    keras_own.set_weights(weights)
    np.testing.assert_allclose(own(x), keras_own(x), atol=1e-5)


def test_a_block_is_tanh_times_sigmoid_and_a_residual():
    x = some(2, 6, 4)
    block = recipe.Block(4, kernel_size=2, dilation=2)
    block.build(x.shape)
    kernel = some(2, 4, 8)
    residual = some(4, 4)
    skip = some(4, 4)
    biases = some(3, 8)
    block.convolution.set_weights([kernel, biases[0]])
    block.residual.set_weights([residual, biases[1, :4]])
    block.skip.set_weights([skip, biases[2, :4]])

    past = np.concatenate([np.zeros((2, 2, 4)), x[:, :-2]], axis=1)
    both = past @ kernel[0] + x @ kernel[1] + biases[0]
    z = np.tanh(both[..., :4]) / (1 + np.exp(-both[..., 4:]))
    found = block(x)
    np.testing.assert_allclose(found[0], x + z @ residual + biases[1, :4], atol=1e-5)
    np.testing.assert_allclose(found[1], z @ skip + biases[2, :4], atol=1e-5)


def test_the_jacobian_is_0_outside_of_the_receptive_field_and_not_within(model):
    reach = recipe.receptive_field(3, DILATIONS)
    assert reach == 15
    x = tf.constant(some(1, 24, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.reduce_sum(tf.abs(model(x)[0]), axis=(1, 2))
    jacobian = tape.jacobian(outputs, x)[:, 0, :, 0].numpy()
    ago = np.arange(24)[:, np.newaxis] - np.arange(24)
    np.testing.assert_array_equal(jacobian != 0, (ago >= 0) & (ago < reach))


def test_the_reach_is_found_and_a_look_into_the_future_is_too(model):
    assert recipe.reach_of(model, 20) == 15
    same = keras.Sequential(
        [keras.Input((None, 1)), keras.layers.Conv1D(1, 3, padding="same")]
    )
    assert recipe.reach_of(same, 5) == 0


def test_pinball_loss_by_hand():
    y = np.array([3.0], "float32")
    quantiles = np.array([[1.0, 5.0, 2.0]], "float32")
    found = recipe.pinball_loss(y, quantiles)
    np.testing.assert_allclose(found, [[0.1 * 2, 0.5 * 2, 0.9 * 1]], rtol=1e-6)


def test_the_quantiles_have_the_least_pinball_loss():
    y = RANDOM.gamma(2.0, size=2001).astype("float32")
    candidates = np.linspace(0, 8, 1601, dtype="float32")
    losses = np.mean(
        recipe.pinball_loss(y[:, np.newaxis], np.stack([candidates] * 3, -1)), axis=0
    )
    best = candidates[losses.argmin(axis=0)]
    np.testing.assert_allclose(best, np.quantile(y, recipe.QUANTILES), atol=0.011)


def test_queues_give_what_the_whole_pass_gives(model):
    x = some(3, 22)
    whole = model(x[..., np.newaxis]).numpy()
    stepper = recipe.Stepper(model, 3)
    steps = [stepper.step(tf.constant(x[:, t])) for t in range(22)]
    np.testing.assert_allclose(np.stack(steps, axis=1), whole, atol=1e-3, rtol=1e-4)


def test_paths_drawn_with_queues_are_those_of_whole_passes(model):
    past = some(2, 15)
    found = recipe.sample_paths(model, tf.constant(past), 4, paths=3, seed=5)
    assert found.shape == (2, 3, 4)
    normal = tf.random.stateless_normal((4, 6), (5, 0))
    read = np.repeat(past, 3, axis=0)
    for t in range(4):
        one_step = np.sort(model(read[..., np.newaxis])[:, -1, 0], axis=-1)
        drawn = recipe.draw(tf.constant(one_step), normal[t]).numpy()
        expected = found.numpy().reshape(6, 4)[:, t]
        np.testing.assert_allclose(drawn, expected, atol=1e-2, rtol=1e-3)
        read = np.concatenate([read, expected[:, np.newaxis]], axis=1)


def test_what_is_drawn_has_the_quantiles():
    quantiles = np.tile(np.array([[-1.0, 0.5, 4.0]], "float32"), (20_001, 1))
    drawn = recipe.draw(tf.constant(quantiles), tf.constant(some(20_001)))
    found = np.quantile(drawn, recipe.QUANTILES)
    np.testing.assert_allclose(found, quantiles[0], atol=0.15)


def test_multiply_adds_by_hand():
    built = recipe.build_tcn(3, channels=4, kernel_size=2, dilations=(1, 2))
    of_a_block = 2 * 4 * 8 + 4 * 4 + 4 * 4
    assert recipe.multiply_adds(built) == 4 + 2 * of_a_block + 4 * 9


def test_a_stack_of_lstms_is_that_of_keras():
    tcn = recipe.Convolutional("TCN", CONFIG, (1, 2, 4))
    lstm = recipe.Recurrent(CONFIG, like=tcn.model)
    assert lstm.model.count_params() == recipe.lstm_weights(lstm.units, 3)
    less = lstm.model.count_params() <= tcn.model.count_params()
    assert less and recipe.lstm_weights(lstm.units + 1, 3) > tcn.model.count_params()
    x = some(2, 3, 9, 1)
    rows = []
    expected = []
    for network in range(2):
        weights = [some(*weight.shape) for weight in lstm.model.get_weights()]
        rows.append(np.concatenate([weight.ravel() for weight in weights]))
        lstm.model.set_weights(weights)
        expected.append(lstm.model(x[network]))
    found = lstm.call(tf.constant(np.stack(rows)), tf.constant(x))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_windows_forecast_what_a_pass_over_the_whole_series_does():
    series = make_series()
    kind = recipe.Convolutional("TCN", CONFIG, (1, 2, 4))
    assert recipe.receptive_field(2, (1, 2, 4)) == series.reach
    training = recipe.Training(kind, [series], CONFIG, seed=0)
    for part in ("validation", "test"):
        found = training.predict(tf.constant(training.rows), part)
        whole = kind.call(
            tf.constant(training.rows),
            tf.constant(np.tile(series.x[:, np.newaxis], (6, 1, 1, 1)), tf.float32),
        )
        origins = getattr(series, part)
        expected = whole.numpy()[:, 0][:, origins]
        np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)


def test_a_batch_pairs_windows_with_what_follows_and_stays_in_its_part():
    series = make_series()
    kind = recipe.Convolutional("TCN", CONFIG, (1, 2, 4))
    training = recipe.Training(kind, [series], CONFIG, seed=0)
    x, y = training.draw_batches()
    assert x.shape == (20, 6, 2, 15, 1)
    assert y.shape == (20, 6, 2, 8, 3)
    for window, targets in zip(x.reshape(-1, 15), y.reshape(-1, 8, 3), strict=True):
        (end,) = np.flatnonzero(np.isclose(series.x, window[-1], atol=1e-6))
        assert end in series.train
        np.testing.assert_allclose(window, series.x[end - 14 : end + 1], atol=1e-5)
        for place, rises in zip(range(end - 7, end + 1), targets, strict=True):
            np.testing.assert_allclose(rises, series.y[place], atol=1e-5)


def test_nothing_to_train_on_knows_what_comes_later():
    values = np.cumsum(RANDOM.normal(size=200))
    changed = values.copy()
    changed[120:] += 50
    one = recipe.Series("a", np.arange(200), values, 3, 8)
    other = recipe.Series("a", np.arange(200), changed, 3, 8)
    np.testing.assert_array_equal(one.y[one.train], other.y[other.train])
    np.testing.assert_array_equal(one.x[:120], other.x[:120])
    np.testing.assert_array_equal(one.levels[:120], other.levels[:120])
    assert one.train[-1] + 3 < one.validation[0] + 1
    assert one.validation[-1] + 3 < one.test[0] + 1
    assert one.test[-1] + 3 == 199


def test_scaled_rises_come_back_as_values():
    series = make_series()
    scaled = series.y[series.test][..., np.newaxis].repeat(3, axis=-1)
    found = series.in_units(scaled, series.test)
    expected = [series.values[t + 1 : t + 4] for t in series.test]
    np.testing.assert_allclose(found[..., 1], expected, atol=1e-9)


def test_the_regression_solves_the_normal_equations():
    series = make_series()
    penalty = 3.0
    rule = recipe.Linear(series, series.x, penalty)
    inputs = np.stack([series.x[t - 7 : t + 1] for t in series.train])
    centered = inputs - inputs.mean(axis=0)
    y = series.y[series.train]
    weights = np.linalg.solve(
        centered.T @ centered + penalty * np.eye(8), centered.T @ (y - y.mean(axis=0))
    )
    asked = np.stack([series.x[t - 7 : t + 1] for t in series.test])
    scaled = (asked - inputs.mean(axis=0)) @ weights + y.mean(axis=0)
    rises = scaled * series.deviation + series.mean
    expected = rises + series.values[series.test, np.newaxis]
    np.testing.assert_allclose(rule.predict(series.test), expected, atol=1e-8)


def test_repeating_takes_the_newest_whole_period():
    series = recipe.Series("a", np.arange(200), np.arange(200.0), 5, 8)
    found = recipe.Repeating(series, 2).predict(np.array([100]))
    np.testing.assert_array_equal(found, [[99, 100, 99, 100, 99]])
    found = recipe.Repeating(series, 1).predict(np.array([100]))
    np.testing.assert_array_equal(found, [[100] * 5])


def test_the_rule_is_chosen_before_the_test_part():
    values = np.tile([0.0, 4.0, 1.0, 7.0], 50)
    series = recipe.Series("a", np.arange(200), values, 3, 8)
    forecast = recipe.seasonal_forecast(series)
    assert forecast.rmse() == 0
    assert forecast.coverage() == 1


def test_coverage_and_errors_by_hand():
    series = make_series()
    truth = series.future[series.test]
    quantiles = np.stack([truth - 1, truth + 2, truth + 3], axis=-1)[np.newaxis]
    quantiles[0, :10, :, 0] += 1.5  # these begin above the truth
    found = recipe.Forecast(series, quantiles)
    assert found.coverage() == pytest.approx(1 - 10 / len(truth))
    np.testing.assert_allclose(found.rmse_by_step(), [2, 2, 2])
    assert found.loss() == pytest.approx(
        np.mean(recipe.pinball_loss(truth, quantiles[0]))
    )


def test_months_and_gaps():
    times = np.array([1958.01, 1958.02, 1958.10, 1958.26])
    values = np.array([1.0, 3.0, 5.0, 7.0])
    months, means = recipe.by_month(times, values)
    np.testing.assert_allclose(months, 1958 + np.arange(4) / 12)
    np.testing.assert_array_equal(means, [2, 5, np.nan, 7])
    np.testing.assert_array_equal(recipe.without_gaps(means), [2, 5, 5, 7])


def test_a_series_too_short_or_constant_gets_one_line():
    with pytest.raises(UsageError, match=r"a has 30 values, and this takes 32 or more"):
        recipe.Series("a", np.arange(30), RANDOM.normal(size=30), 3, 8)
    recipe.Series("a", np.arange(32), RANDOM.normal(size=32), 3, 8)
    with pytest.raises(UsageError, match="takes 100 or more"):
        recipe.Series("a", np.arange(90), RANDOM.normal(size=90), 20, 8)
    recipe.Series("a", np.arange(100), RANDOM.normal(size=100), 20, 8)
    with pytest.raises(UsageError, match="the same at all times"):
        recipe.Series("a", np.arange(99), np.ones(99), 3, 8)
