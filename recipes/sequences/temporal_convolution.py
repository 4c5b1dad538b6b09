"""A temporal convolution forecasts a series: what came before, and nothing after.

A convolution over time is causal if its output at t sees inputs up to t alone, and
dilated if its taps stand apart:

    y_t = b + Σ_k W_k x_{t − k·d}

Blocks with dilations 1, 2, 4, ... on top of each other double their reach with each
block, at the same cost. All times of a series are computed at once, where a recurrent
network takes one after the other. To write a series forward value by value, each block
keeps the few inputs that it will look back to.
Here each network states quantiles of the next twelve values, by the pinball loss.
Look at the forecasts with their intervals, at how often the truth lies within, at how
far each network looks back, and at who forecasts best: on series of a few hundred
values a linear regression does as well as any network.

Lectures: INFO Lecture 6 (Temporal convolutions)
Paper: van den Oord et al., WaveNet: a generative model for raw audio, 2016 (gated block);
    Bai et al., An empirical evaluation of generic convolutional and recurrent networks
    for sequence modeling, 2018; Paine et al., Fast WaveNet generation algorithm, 2016
Tags: tcn, wavenet, causal convolution, time series, forecasting, quantile regression,
    pinball loss, prediction interval
"""

import math
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.linear_model import Ridge

from deep_learning_recipes import UsageError, data, figures
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    data: str = "all"
    """co2, elnino, sunspots, all three of them, or your own: a .csv file with a column
    of times, and --target for the column of values where there are several"""
    channels: int = 8
    """of each block"""
    kernel_size: Annotated[int, Interval(ge=2, le=8)] = 2
    """taps of each convolution"""
    blocks: Annotated[int, Interval(ge=1, le=8)] = 5
    """convolutions on top of each other; each one doubles the dilation"""
    horizon: Annotated[int, Interval(ge=1, le=100)] = 12
    """values to forecast, from each time on"""
    steps: Annotated[int, Interval(ge=20)] = 300
    """of Adam, 20 in one call; a network is kept as it was after the call that made it
    validate best"""
    batch_size: int = 4
    """windows of a series that a gradient is averaged over"""
    starts: int = 3
    """networks of each kind, series and learning rate"""


QUICK = Config(data="co2", steps=160)
FULL = Config(channels=32, steps=2000, starts=8)

QUANTILES = (0.1, 0.5, 0.9)

# --------------------------------------------------------------------------------------
# The idea: a convolution that looks back only, ever further, and can go on step by step
# --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("temporal_convolution")
class CausalConvolution(layers.Layer):
    """What `keras.layers.Conv1D(padding="causal")` does. x: (batch, time, channels).
    Returns (batch, time, filters)."""

    def __init__(self, filters: int, kernel_size: int, dilation: int, **options):
        super().__init__(**options)
        self.filters = filters
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.reach = (kernel_size - 1) * dilation

    def build(self, shape):
        self.kernel = self.add_weight(
            (self.kernel_size, shape[-1], self.filters), "glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, x):
        y = self.bias
        for tap in range(self.kernel_size):
            steps = self.reach - tap * self.dilation
            y = y + ops.matmul(delayed(x, steps), self.kernel[tap])
        return y

    def step(self, latest):
        """The output at the newest time alone, (batch, filters). latest: the inputs
        from `reach` steps ago until now, (batch, reach + 1, channels)."""
        y = self.bias
        for tap in range(self.kernel_size):
            y = y + ops.matmul(latest[:, tap * self.dilation], self.kernel[tap])
        return y

    def get_config(self):
        own = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dilation": self.dilation,
        }
        return {**super().get_config(), **own}


def delayed(x, steps: int):
    """x_{t − steps} in the place of x_t, zeros before the start. (batch, time,
    channels)."""
    if steps == 0:
        return x
    return ops.pad(x, [[0, 0], [steps, 0], [0, 0]])[:, :-steps]


@keras.saving.register_keras_serializable("temporal_convolution")
class Block(layers.Layer):
    """WaveNet's: z = tanh(W x) ⊙ σ(V x), both causal convolutions. One product of z is
    added to x for the next block, another one goes to the output."""

    def __init__(self, channels: int, kernel_size: int, dilation: int, **options):
        super().__init__(**options)
        self.channels = channels
        self.convolution = CausalConvolution(2 * channels, kernel_size, dilation)
        self.residual = layers.Dense(channels)
        self.skip = layers.Dense(channels)

    def build(self, shape):
        self.convolution.build(shape)
        self.residual.build((*shape[:-1], self.channels))
        self.skip.build((*shape[:-1], self.channels))

    def call(self, x):
        return self.finish(x, self.convolution(x))

    def step(self, x, queue):
        """The newest outputs, and the queue for the next step.

        x: the newest input, (batch, channels). queue: those of the `reach` steps before,
        (batch, reach, channels).
        """
        latest = ops.concatenate([queue, x[:, np.newaxis]], axis=1)
        x, skip = self.finish(x, self.convolution.step(latest))
        return x, skip, latest[:, 1:]

    def finish(self, x, convolved):
        signal, gate = ops.split(convolved, 2, axis=-1)
        z = ops.tanh(signal) * ops.sigmoid(gate)
        return x + self.residual(z), self.skip(z)

    def get_config(self):
        own = {
            "channels": self.channels,
            "kernel_size": self.convolution.kernel_size,
            "dilation": self.convolution.dilation,
        }
        return {**super().get_config(), **own}


def build_tcn(
    horizon: int, channels: int, kernel_size: int, dilations: tuple[int, ...]
) -> keras.Model:
    """Input: scaled changes of a series, (batch, time, 1). Output: from each time on,
    quantiles of the next values, (batch, time, horizon, 3)."""
    changes = keras.Input((None, 1), name="changes")
    x = layers.Dense(channels, name="entry")(changes)
    total = 0
    for number, dilation in enumerate(dilations, start=1):
        x, skip = Block(channels, kernel_size, dilation, name=f"block_{number}")(x)
        total = total + skip
    return keras.Model(changes, quantile_head(ops.relu(total), horizon), name="tcn")


def quantile_head(features, horizon: int):
    """(batch, time, channels) to (batch, time, horizon, 3)."""
    flat = layers.Dense(horizon * len(QUANTILES), dtype="float32", name="flat")(
        features
    )
    return layers.Reshape((-1, horizon, len(QUANTILES)), name="quantiles")(flat)


def receptive_field(kernel_size: int, dilations: tuple[int, ...]) -> int:
    """How many inputs an output sees, the newest one among them."""
    return 1 + (kernel_size - 1) * sum(dilations)


def pinball_loss(y, quantiles):
    """q·e where the truth lies above by e, (1 − q)·|e| where below; its mean over many
    is least for the q-th quantile. y: (...). quantiles and result: (..., 3)."""
    errors = y[..., np.newaxis] - quantiles
    shares = np.array(QUANTILES, "float32")
    return ops.maximum(shares * errors, (shares - 1) * errors)


class Stepper:
    """A TCN that reads one value at a time. Each block has a queue of its last inputs,
    so nothing is computed twice."""

    def __init__(self, model: keras.Model, batch: int):
        self.model = model
        self.blocks = [each for each in model.layers if isinstance(each, Block)]
        self.queues = [
            tf.zeros((batch, block.convolution.reach, block.channels))
            for block in self.blocks
        ]

    def step(self, changes):
        """Reads (batch,). Returns quantiles of what comes, (batch, horizon, 3)."""
        x = self.model.get_layer("entry")(changes[:, np.newaxis])
        total = 0
        for number, block in enumerate(self.blocks):
            x, skip, queue = block.step(x, self.queues[number])
            self.queues[number] = queue
            total = total + skip
        flat = self.model.get_layer("flat")(ops.relu(total))
        return ops.reshape(flat, (len(changes), -1, len(QUANTILES)))

    def repeat(self, times: int) -> None:
        """Each series becomes so many, which go on from the same past."""
        self.queues = [tf.repeat(queue, times, axis=0) for queue in self.queues]


def draw(quantiles, normal):
    """A value with these quantiles, (batch,): two halves of normal distributions, one on
    each side of the median. quantiles: (batch, 3). normal: standard normal, (batch,)."""
    low, middle, high = ops.unstack(quantiles, axis=-1)
    far = NormalDist().inv_cdf(QUANTILES[-1])
    deviation = ops.where(normal < 0, middle - low, high - middle) / far
    return middle + deviation * normal


def sample_paths(model: keras.Model, past, steps: int, paths: int, seed: int):
    """Changes drawn one after another, each fed back: (batch, paths, steps).

    past: scaled changes, (batch, time), at least as many as the receptive field.
    """
    stepper = Stepper(model, len(past))
    for changes in tf.unstack(past, axis=1):
        quantiles = stepper.step(changes)
    stepper.repeat(paths)
    quantiles = tf.repeat(quantiles, paths, axis=0)

    drawn = []
    normal = tf.random.stateless_normal((steps, len(quantiles)), (seed, 0))
    for values in normal:
        changes = draw(tf.sort(quantiles[:, 0], axis=-1), values)
        drawn.append(changes)
        quantiles = stepper.step(changes)
    return tf.reshape(tf.stack(drawn, axis=1), (len(past), paths, steps))


def standalone(epochs: int = 100) -> None:
    """Sea temperature off Peru, the next 12 months: the main of a standalone copy."""
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data.drop(columns="YEAR")
    values = table.to_numpy("float32").ravel()
    changes = np.diff(values, prepend=values[0])
    ahead = np.arange(1, 13)
    origins = np.arange(len(values) - 12)
    rises = values[origins[:, np.newaxis] + ahead] - values[origins, np.newaxis]

    # The whole series is one example: from each time the next year is forecast.
    x = changes[np.newaxis, :-12, np.newaxis]
    y = rises[np.newaxis]
    cut = int(0.8 * len(origins))
    model = build_tcn(12, channels=8, kernel_size=2, dilations=(1, 2, 4, 8, 16))
    model.get_layer(
        "block_5"
    ).residual.trainable = False  # no block reads what it gives
    model.compile(keras.optimizers.Adam(0.01), loss=pinball_loss)
    model.fit(x[:, :cut], y[:, :cut], epochs=epochs, verbose=0)

    later = slice(cut + 12, None)  # what follows all that was to be forecast
    quantiles = model.predict(x, verbose=0)[:, later]
    is_above = y[:, later] > quantiles[..., 0]
    is_below = y[:, later] < quantiles[..., 2]
    print(
        f"80 % intervals cover {np.mean(is_above & is_below):.0%} of the later values"
    )


# --------------------------------------------------------------------------------------
# The experiment: three series, two kinds of networks, and a regression on the same
# --------------------------------------------------------------------------------------

UNITS = {"co2": "ppm", "elnino": "°C", "sunspots": "sunspots"}
TRAIN_SHARE = 0.6
VALIDATION_SHARE = 0.2
LONGEST = 20_000  # values of a series
LEARNING_RATES = (0.003, 0.01, 0.03)
CALL = 20  # steps of a compiled call
PENALTIES = 10.0 ** np.arange(-2, 4.5, 0.5)
PATHS = 100  # drawn from each origin
RIVALS = ("TCN", "LSTM")
LOW = QUANTILES.index(0.1)
MEDIAN = QUANTILES.index(0.5)
HIGH = QUANTILES.index(0.9)


class Series:
    """A series, scaled, and where forecasts begin.

    Origins are the times from which the next values are forecast. The series is cut into
    a part to train on, one to choose by and one to report; a forecast of one part ends
    before the next part begins.
    """

    def __init__(self, name: str, times, values, horizon: int, reach: int):
        self.name = name if name in UNITS else "own"
        self.unit = UNITS.get(name, "units of the series")
        self.times = times
        self.values = values
        self.reach = reach  # values that a forecast may look back to
        count = len(values)
        validation = int(TRAIN_SHARE * count)
        test = int((TRAIN_SHARE + VALIDATION_SHARE) * count)
        self.train = np.arange(reach, validation - horizon)
        self.validation = np.arange(validation - 1, test - horizon)
        self.test = np.arange(test - 1, count - horizon)
        if len(self.train) < reach or not len(self.validation):
            to_train = int((2 * reach + horizon) / TRAIN_SHARE) + 1
            to_choose = math.ceil(horizon / VALIDATION_SHARE)
            raise UsageError(
                f"{name} has {count} values, and this takes "
                f"{max(to_train, to_choose)} or more: they are "
                f"read {reach} at a time (see --blocks), to forecast {horizon}"
            )
        if np.ptp(values[:validation]) == 0:
            raise UsageError(f"{name} is the same at all times that are trained on")

        padded = np.append(values, np.full(horizon, np.nan))
        ahead = np.arange(1, horizon + 1)
        self.future = padded[np.arange(count)[:, np.newaxis] + ahead]
        """the next values, (time, horizon); NaN after the end"""
        rises = self.future - values[:, np.newaxis]
        smallest = 1e-6 * values[:validation].std()
        self.mean = rises[self.train].mean(axis=0)
        self.deviation = np.maximum(rises[self.train].std(axis=0), smallest)
        self.y = (rises - self.mean) / self.deviation
        """scaled rises until each of the next values, (time, horizon)"""
        changes = np.diff(values, prepend=values[0])
        self.x = (changes - self.mean[0]) / self.deviation[0]
        """scaled changes since the value before, (time,)"""
        level = values[:validation].mean()
        self.levels = (values - level) / values[:validation].std()

    def in_units(self, scaled, origins) -> np.ndarray:
        """Scaled rises (..., origins, horizon, 3) as values."""
        rises = scaled * self.deviation[:, np.newaxis] + self.mean[:, np.newaxis]
        return rises + self.values[origins][:, np.newaxis, np.newaxis]

    def windows(self, origins, count: int) -> np.ndarray:
        """Places in time of so many windows, one after another: (count, 2 · reach − 1).
        Their last `reach` times see as much as an output can see; those of all windows
        end with the origins."""
        ends = origins[-1] - self.reach * np.arange(count)[::-1]
        return np.maximum(self.places(ends), 0)

    def places(self, ends) -> np.ndarray:
        """Of the windows that end there, (..., 2 · reach − 1)."""
        return ends[..., np.newaxis] + np.arange(2 - 2 * self.reach, 1)


@dataclass
class Forecast:
    """Quantiles of the next values from each test origin."""

    series: Series
    quantiles: np.ndarray
    """(networks, origins, horizon, 3)"""

    @property
    def truth(self) -> np.ndarray:
        return self.series.future[self.series.test]

    def rmse_by_step(self) -> np.ndarray:
        """Of the median, mean over the networks: (horizon,)."""
        errors = self.quantiles[..., MEDIAN] - self.truth
        return np.sqrt(np.mean(errors**2, axis=1)).mean(axis=0)

    def rmse(self) -> float:
        return float(self.rmse_by_step().mean())

    def coverage(self) -> float:
        """How often the truth lies within the interval of 80 %."""
        return self.share_within(self.quantiles)

    def coverage_of_one_step(self) -> float:
        """The same if the interval stayed as wide as it is one step ahead."""
        medians = self.quantiles[..., MEDIAN : MEDIAN + 1]
        return self.share_within(medians + self.around_median()[:, :, :1])

    def around_median(self) -> np.ndarray:
        return self.quantiles - self.quantiles[..., MEDIAN : MEDIAN + 1]

    def share_within(self, quantiles) -> float:
        is_above = self.truth >= quantiles[..., LOW]
        is_below = self.truth <= quantiles[..., HIGH]
        return float(np.mean(is_above & is_below))

    def loss(self) -> float:
        """Pinball loss in units of the series."""
        return float(np.mean(pinball_loss(self.truth, self.quantiles)))


def by_month(times: np.ndarray, values: np.ndarray):
    """Means of months; NaN where none was measured."""
    months = np.floor(12 * times + 1e-6).astype(int)
    first = months[0]
    is_known = np.isfinite(values)
    sums = np.bincount(months[is_known] - first, values[is_known])
    counts = np.bincount(months[is_known] - first)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return (first + np.arange(len(means))) / 12, means


def without_gaps(values: np.ndarray) -> np.ndarray:
    """What is missing becomes the last value before it: what comes later would tell of
    the future."""
    places = np.where(np.isfinite(values), np.arange(len(values)), 0)
    return values[np.maximum.accumulate(places)]


def load_series(config: Config) -> list[Series]:
    names = list(UNITS) if config.data == "all" else [config.data]
    return [load(name, config) for name in names]


def load(name: str, config: Config) -> Series:
    times, values = data.load_series(name)
    if name == "co2":
        times, values = by_month(times, values)
    is_known = np.isfinite(values)
    if not is_known.any():
        raise UsageError(f"{name}: none of the values is known")
    first = max(int(is_known.argmax()), len(values) - LONGEST)
    values = without_gaps(values)[first:]
    reach = receptive_field(config.kernel_size, dilations_of(config))
    return Series(name, times[first:], values, config.horizon, reach)


def dilations_of(config: Config) -> tuple[int, ...]:
    return tuple(2**number for number in range(config.blocks))


class Convolutional:
    """TCNs, many as one."""

    def __init__(self, name: str, config: Config, dilations: tuple[int, ...]):
        self.name = name
        self.shape = config.horizon, config.channels, config.kernel_size, dilations
        self.model = self.build()
        self.in_a_row = len(dilations)

    def build(self) -> keras.Model:
        return build_tcn(*self.shape)

    def call(self, rows, x):
        """rows: (networks, weights). x: (networks, windows, time, 1). Returns (networks,
        windows, time, horizon, 3)."""
        return stacks.call_each(self.model, rows, x)


class Recurrent:
    """LSTMs, many as one, of about as many weights as another network has."""

    def __init__(self, config: Config, like: keras.Model):
        self.name = "LSTM"
        self.horizon = config.horizon
        units = 1
        while lstm_weights(units + 1, config.horizon) <= like.count_params():
            units += 1
        self.units = units
        self.model = self.build()

    def build(self) -> keras.Model:
        changes = keras.Input((None, 1), name="changes")
        h = layers.LSTM(self.units, return_sequences=True)(changes)
        return keras.Model(changes, quantile_head(h, self.horizon), name="lstm")

    def call(self, rows, x):
        """As of `Convolutional`."""
        weights = stacks.weights_of(self.model, rows)
        kernel, recurrent, bias, output, output_bias = weights
        h = lstm_outputs(kernel, recurrent, bias, x)
        flat = tf.einsum("nbti,nij->nbtj", h, output)
        flat += output_bias[:, tf.newaxis, tf.newaxis]
        return tf.reshape(flat, (*h.shape[:3], self.horizon, len(QUANTILES)))


def lstm_weights(units: int, horizon: int) -> int:
    """Of a layer that reads one number at a time, and of what reads it."""
    return 4 * units * (units + 2) + (units + 1) * horizon * len(QUANTILES)


def lstm_outputs(kernel, recurrent, bias, x):
    """Of a stack of LSTMs, (networks, windows, time, units). x: (networks, windows,
    time, 1)."""
    totals = tf.einsum("nbti,nij->tnbj", x, kernel) + bias[:, tf.newaxis]
    h = tf.zeros((*x.shape[:2], recurrent.shape[1]))
    c = h
    outputs = tf.TensorArray(tf.float32, x.shape[2])
    for t in tf.range(x.shape[2]):
        i, f, g, o = tf.split(totals[t] + h @ recurrent, 4, axis=-1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        outputs = outputs.write(t, h)
    return tf.transpose(outputs.stack(), (1, 2, 0, 3))


class Training:
    """Networks of one kind: for each series so many starts at each learning rate."""

    def __init__(self, kind, series: list[Series], config: Config, seed: int):
        self.kind = kind
        self.series = series
        self.config = config
        self.random = np.random.default_rng(seed)
        self.shape = len(series), len(LEARNING_RATES), config.starts
        self.of_series = np.repeat(
            np.arange(len(series)), self.shape[1] * self.shape[2]
        )
        starts = [self.row_of(kind.build()) for _ in range(config.starts)]
        self.rows = tf.Variable(np.tile(starts, (self.shape[0] * self.shape[1], 1)))
        self.mean = tf.Variable(tf.zeros_like(self.rows))
        self.square = tf.Variable(tf.zeros_like(self.rows))
        rates = np.tile(np.repeat(LEARNING_RATES, config.starts), len(series))
        self.rates = tf.constant(rates[:, np.newaxis], tf.float32)

        self.best_rows = self.rows.numpy().copy()
        self.best_losses = np.full(len(rates), np.inf)
        self.tiles = max(
            math.ceil(len(origins) / each.reach)
            for each in series
            for origins in (each.validation, each.test)
        )
        self.forward = tf.function(self.outputs)

    def row_of(self, model: keras.Model) -> np.ndarray:
        """Of the weights alone: what an LSTM holds besides is the seed of a dropout that
        it does not have."""
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    def outputs(self, rows, x):
        """At the last times of windows, which see all they can: (networks, windows,
        reach, horizon, 3)."""
        return self.kind.call(rows, x)[:, :, -self.series[0].reach :]

    @tf.function
    def update_many(self, step, x, y):
        """Adam, a step of all networks on each batch. step: those before, a float. x:
        (steps, networks, windows, time, 1). y: (steps, networks, windows, reach,
        horizon)."""
        for number in tf.range(len(x)):
            with tf.GradientTape() as tape:
                losses = pinball_loss(y[number], self.outputs(self.rows, x[number]))
                # No network's loss depends on another's weights.
                total = tf.reduce_sum(tf.reduce_mean(losses, axis=(1, 2, 3, 4)))
            gradients = tape.gradient(total, self.rows)
            step += 1
            self.mean.assign(0.9 * self.mean + 0.1 * gradients)
            self.square.assign(0.999 * self.square + 0.001 * gradients**2)
            mean = self.mean / (1 - 0.9**step)
            deviation = tf.sqrt(self.square / (1 - 0.999**step))
            self.rows.assign_sub(self.rates * mean / (deviation + 1e-7))

    def draw_batches(self):
        """Windows at random places of the part to train on."""
        shape = CALL, self.config.batch_size
        x = []
        y = []
        for number in self.of_series:
            series = self.series[number]
            first = 2 * series.reach - 2
            ends = self.random.integers(first, series.train[-1] + 1, shape)
            places = series.places(ends)
            x.append(series.x[places][..., np.newaxis])
            y.append(series.y[places[..., -series.reach :]])
        x = np.stack(x, axis=1).astype("float32")
        return x, np.stack(y, axis=1).astype("float32")

    def predict(self, rows, part: str) -> list[np.ndarray]:
        """Scaled quantiles of each network from all origins of a part of its series:
        (origins, horizon, 3) each."""
        x = []
        for number in self.of_series:
            series = self.series[number]
            places = series.windows(getattr(series, part), self.tiles)
            x.append(series.x[places][..., np.newaxis])
        outputs = self.forward(rows, np.array(x, "float32")).numpy()
        flat = outputs.reshape(len(x), -1, *outputs.shape[3:])
        found = []
        for number, quantiles in zip(self.of_series, flat, strict=True):
            origins = getattr(self.series[number], part)
            found.append(quantiles[-len(origins) :])
        return found

    def keep_best(self) -> None:
        """Each network as it was when it validated best."""
        for place, quantiles in enumerate(
            self.predict(tf.constant(self.rows), "validation")
        ):
            series = self.series[self.of_series[place]]
            y = series.y[series.validation].astype("float32")
            loss = np.mean(pinball_loss(y, quantiles))
            if loss < self.best_losses[place]:
                self.best_losses[place] = loss
                self.best_rows[place] = self.rows[place]


@dataclass
class Learned:
    """Networks of one kind, at the learning rate that validates best."""

    forecasts: list[Forecast]
    """of each series"""
    models: list[keras.Model]
    """of each series, the first start"""
    milliseconds: float
    """of a step of all networks at once"""


def train(kind, series: list[Series], config: Config, run: Run) -> Learned:
    training = Training(kind, series, config, run.seed)
    calls = config.steps // CALL
    seconds = np.zeros(calls)
    state = {
        "variables": [training.rows, training.mean, training.square],
        "best": [training.best_rows, training.best_losses, seconds],
        "random": training.random,
    }
    name = f"{len(training.of_series)} × {kind.name}"
    for call in run.loop(name, calls, state, unit="calls"):
        x, y = training.draw_batches()
        started = time.perf_counter()
        training.update_many(tf.constant(float(CALL * call)), x, y)
        seconds[call] = time.perf_counter() - started
        training.keep_best()

    # The first call compiles.
    milliseconds = 1000 * np.median(seconds[-calls // 2 :]) / CALL
    losses = training.best_losses.reshape(training.shape).mean(axis=-1)
    quantiles = training.predict(tf.constant(training.best_rows), "test")
    forecasts = []
    models = []
    for number, each in enumerate(series):
        numbers = np.arange(len(quantiles)).reshape(training.shape)
        chosen = numbers[number, losses[number].argmin()]
        scaled = np.stack([quantiles[place] for place in chosen])
        # Nothing keeps the outputs in the order of the quantiles; sorted they are better.
        in_order = np.sort(each.in_units(scaled, each.test), axis=-1)
        forecasts.append(Forecast(each, in_order))
        model = kind.build()
        stacks.set_weights(model, training.best_rows[chosen[0]])
        models.append(model)
    return Learned(forecasts, models, milliseconds)


@dataclass
class Linear:
    """Ridge regression of each next value on the last ones, or on their changes."""

    series: Series
    signal: np.ndarray
    """(time,)"""
    penalty: float

    def __post_init__(self):
        self.ridge = Ridge(alpha=self.penalty)
        origins = self.series.train
        self.ridge.fit(self.inputs(origins), self.series.y[origins])

    def inputs(self, origins) -> np.ndarray:
        """As many as a network sees, (origins, reach)."""
        ago = np.arange(1 - self.series.reach, 1)
        return self.signal[origins[:, np.newaxis] + ago]

    def predict(self, origins) -> np.ndarray:
        """The next values, (origins, horizon)."""
        scaled = self.ridge.predict(self.inputs(origins))
        scaled = scaled.reshape(len(origins), -1)
        rises = scaled * self.series.deviation + self.series.mean
        return rises + self.series.values[origins, np.newaxis]


@dataclass
class Repeating:
    """The values of one period ago come again; a period of 1 repeats the last value."""

    series: Series
    period: int

    def predict(self, origins) -> np.ndarray:
        ahead = np.arange(1, self.series.future.shape[1] + 1)
        periods = np.ceil(ahead / self.period).astype(int)
        return self.series.values[
            origins[:, np.newaxis] + ahead - self.period * periods
        ]


def best_of(rules: list, series: Series):
    """The rule that forecasts the validation part with the least squared error."""
    errors = []
    truth = series.future[series.validation]
    for rule in rules:
        scaled = (rule.predict(series.validation) - truth) / series.deviation
        errors.append(np.mean(scaled**2))
    return rules[int(np.argmin(errors))]


def with_interval(rule) -> Forecast:
    """An interval of constant width: the quantiles of the errors in training."""
    series = rule.series
    errors = series.future[series.train] - rule.predict(series.train)
    around = np.quantile(errors, QUANTILES, axis=0).T
    around[:, MEDIAN] = 0  # the rule's own value is its best guess
    quantiles = rule.predict(series.test)[..., np.newaxis] + around
    return Forecast(series, np.sort(quantiles, axis=-1)[np.newaxis])


def linear_forecast(series: Series) -> Forecast:
    rules = [
        Linear(series, signal, penalty)
        for signal in (series.x, series.levels)
        for penalty in PENALTIES
    ]
    return with_interval(best_of(rules, series))


def seasonal_forecast(series: Series) -> Forecast:
    rules = [Repeating(series, period) for period in range(1, series.reach + 1)]
    return with_interval(best_of(rules, series))


def sensitivity(model: keras.Model, time: int) -> np.ndarray:
    """The gradient of the output in the middle of a window by each of its inputs,
    (2 · time + 1,): the middle one is now, those after it are the future."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(1, 2 * time + 1, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = tf.reduce_sum(model(x)[0, time])
    return tape.gradient(output, x)[0, :, 0].numpy()


def reach_of(model: keras.Model, time: int) -> int:
    """Inputs from the oldest one that an output depends on until now; 0 if any lies in
    the future."""
    depends = sensitivity(model, time) != 0
    if depends[time + 1 :].any():
        return 0
    return int(time + 1 - depends.argmax())


def reaches(kernel_size: int, dilations: tuple[int, ...]) -> list[int]:
    """Of the outputs of each block of a network."""
    model = build_tcn(1, 4, kernel_size, dilations)
    longest = receptive_field(kernel_size, dilations)
    found = []
    for block in model.layers:
        if isinstance(block, Block):
            output, _ = block.output
            found.append(reach_of(keras.Model(model.input, output), longest + 3))
    return found


def judge_reach(config: Config, run: Run) -> None:
    """By the gradient, of networks that have learned nothing."""
    counts = range(1, config.blocks + 1)
    dilated = reaches(config.kernel_size, dilations_of(config))
    plain = reaches(config.kernel_size, (1,) * config.blocks)

    same = keras.Sequential(
        [keras.Input((None, 1)), layers.Conv1D(1, 3, padding="same")]
    )
    sees_the_future = reach_of(same, 5) == 0
    run.metric("receptive_field", dilated[-1], unit="values")
    run.metric("receptive_field_without_dilation", plain[-1], unit="values")
    taps = config.kernel_size - 1
    run.claim(
        "No output depends on a later input, and with doubling dilations the reach into "
        "the past doubles with each block: the gradient is 0 beyond, and not within",
        holds=sees_the_future
        and dilated == [1 + taps * (2**blocks - 1) for blocks in counts]
        and plain == [1 + taps * blocks for blocks in counts],
        measured=f"values that 1 to {config.blocks} blocks see: {dilated}, without "
        f"dilation {plain}; an ordinary convolution sees the future",
        any_data=True,
    )


def judge_errors(found: dict[str, list[Forecast]], run: Run) -> None:
    series = [forecast.series for forecast in found["TCN"]]
    for number, each in enumerate(series):
        errors = {name: forecasts[number].rmse() for name, forecasts in found.items()}
        run.metrics(f"{each.name}_rmse", errors, unit=each.unit)
        one_step = {
            name: forecasts[number].rmse_by_step()[0]
            for name, forecasts in found.items()
        }
        run.metrics(f"{each.name}_rmse_one_step", one_step, unit=each.unit)
        losses = {name: forecasts[number].loss() for name, forecasts in found.items()}
        run.metrics(f"{each.name}_pinball_loss", losses, unit=each.unit)


def ratios(found: dict[str, list[Forecast]], name: str, rival: str) -> dict[str, float]:
    """By series, the error of one divided by that of another."""
    pairs = zip(found[name], found[rival], strict=True)
    return {own.series.name: own.rmse() / other.rmse() for own, other in pairs}


def in_words(numbers: dict[str, float], form: str = "{:.2f}") -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in numbers.items())


def judge_networks(
    found: dict[str, list[Forecast]], learned: dict[str, Learned], run: Run
) -> None:
    by_lstm = ratios(found, "TCN", "LSTM")
    run.claim(
        "A TCN forecasts no worse than an LSTM of as many weights: error divided by its "
        "error",
        holds=np.exp(np.mean(np.log(list(by_lstm.values())))) < 1.15,
        measured=f"{in_words(by_lstm)} (a geometric mean below 1.15 wanted)",
    )
    training_ms = {name: each.milliseconds for name, each in learned.items()}
    run.metrics("training_step_ms", training_ms, timing=True)
    series = found["TCN"][0].series
    x = tf.constant(series.x[np.newaxis, :, np.newaxis], tf.float32)
    reading_ms = {name: milliseconds_of(learned[name].models[0], x) for name in RIVALS}
    run.metrics("reading_ms", reading_ms, timing=True)
    run.compare(
        f"It reads the {len(series.x)} values of {series.name} faster: block by block, "
        "where an LSTM takes one after the other (ms of one network)",
        reading_ms,
        more="LSTM",
        less="TCN",
        times=2,
    )


def milliseconds_of(model: keras.Model, x) -> float:
    """Of the fastest of some calls."""
    compiled = tf.function(model)
    compiled(x)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        compiled(x)
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def dilations_in(learned: Learned) -> list[int]:
    blocks = [each for each in learned.models[0].layers if isinstance(each, Block)]
    return [block.convolution.dilation for block in blocks]


def judge_dilation(found: dict[str, list[Forecast]], run: Run) -> None:
    by_plain = ratios(found, "without dilation", "TCN")
    if not run.has("--data", by_plain, "co2"):
        return
    reach = found["TCN"][0].series.reach
    run.claim(
        f"Reach pays on co2, where a year is to be remembered: {reach} months by "
        "dilation against as many weights without",
        holds=by_plain["co2"] > 1.03,
        measured="error without dilation, divided by that with it: "
        + in_words(by_plain),
    )


def judge_rules(found: dict[str, list[Forecast]], run: Run) -> None:
    by_linear = ratios(found, "TCN", "linear")
    lstm = ratios(found, "LSTM", "linear")
    run.claim(
        "A linear regression on the same values is as good on series as short as these: "
        "no network beats it by more than a seventh",
        holds=min(*by_linear.values(), *lstm.values()) > 1 - 1 / 7,
        measured=f"error divided by that of the regression: TCN {in_words(by_linear)}; "
        f"LSTM {in_words(lstm)}",
    )


def judge_intervals(found: dict[str, list[Forecast]], run: Run) -> None:
    coverages = {each.series.name: each.coverage() for each in found["TCN"]}
    narrow = {each.series.name: each.coverage_of_one_step() for each in found["TCN"]}
    linear = {each.series.name: each.coverage() for each in found["linear"]}
    run.metrics("coverage", coverages, unit="of intervals of 80 %")
    run.metrics("coverage_linear", linear, unit="of intervals of 80 %")
    gaps = [coverages[name] - narrow[name] for name in coverages]
    run.claim(
        "Intervals meant for 80 % of the values ahead cover roughly that, mostly less: "
        "they widen with the distance; if they stayed as wide as one step ahead, they "
        "would cover far less",
        holds=0.45 < min(coverages.values()) <= max(coverages.values()) < 0.92
        and min(gaps) > 0.1,
        measured=f"{in_words(coverages, '{:.0%}')}; as wide as one step ahead "
        f"{in_words(narrow, '{:.0%}')}; linear, of constant width "
        f"{in_words(linear, '{:.0%}')}",
    )


def draw_future(model: keras.Model, series: Series, seed: int) -> np.ndarray:
    """The next values from each test origin, drawn one after another: (origins, paths,
    horizon)."""
    places = series.test[:, np.newaxis] + np.arange(1 - series.reach, 1)
    past = tf.constant(series.x[places], tf.float32)
    steps = series.future.shape[1]
    changes = sample_paths(model, past, steps, PATHS, seed).numpy()
    rises = np.cumsum(changes * series.deviation[0] + series.mean[0], axis=-1)
    return series.values[series.test, np.newaxis, np.newaxis] + rises


def draw_each_alone(forecast: Forecast, seed: int) -> np.ndarray:
    """The same shape: each value from its own stated quantiles, whatever the others
    are."""
    shape = len(forecast.series.test), PATHS, forecast.quantiles.shape[2]
    normal = np.random.default_rng(seed).normal(size=shape)
    return np.array(draw(forecast.quantiles[0][:, np.newaxis], normal))


@dataclass
class Means:
    """The 80 % in the middle of the means of paths, from each test origin."""

    low: np.ndarray
    """(origins,)"""
    high: np.ndarray
    """(origins,)"""

    def width(self) -> float:
        return float(np.mean(self.high - self.low))

    def coverage(self, series: Series) -> float:
        """How often the mean of the next values lies within."""
        truth = series.future[series.test].mean(axis=-1)
        return float(np.mean((truth >= self.low) & (truth <= self.high)))


def means_of(drawn: np.ndarray) -> Means:
    """drawn: (origins, paths, horizon)."""
    means = drawn.mean(axis=-1)
    return Means(
        np.quantile(means, QUANTILES[LOW], axis=1),
        np.quantile(means, QUANTILES[HIGH], axis=1),
    )


def multiply_adds(model: keras.Model) -> int:
    """Of one output: each entry of each matrix is used once."""
    return sum(int(np.prod(w.shape)) for w in model.weights if len(w.shape) > 1)


def judge_sampling(learned: Learned, run: Run) -> None:
    model = learned.models[0]
    reach = learned.forecasts[0].series.reach
    once = multiply_adds(model)
    run.metric("multiply_adds_of_a_drawn_value", once)
    run.metric("multiply_adds_of_a_drawn_value_without_queues", once * reach)

    in_paths = {}
    alone = {}
    times_wider = {}
    pairs = list(zip(learned.models, learned.forecasts, strict=True))
    for model, forecast in run.track(pairs, "drawing paths", "series"):
        series = forecast.series
        paths = means_of(draw_future(model, series, run.seed))
        each = means_of(draw_each_alone(forecast, run.seed))
        in_paths[series.name] = paths.coverage(series)
        alone[series.name] = each.coverage(series)
        times_wider[series.name] = paths.width() / each.width()
    run.metrics("coverage_of_means_drawn_in_paths", in_paths)
    run.metrics("coverage_of_means_drawn_alone", alone)
    run.claim(
        "Values drawn one after another, each fed back, go astray together: of the mean "
        "of all steps, 80 % intervals are wider than if each value is drawn alone from "
        "its own quantiles",
        holds=min(times_wider.values()) > 1.2,
        measured=f"times as wide: {in_words(times_wider)} (1.2 wanted); they cover "
        f"{in_words(in_paths, '{:.0%}')}, alone {in_words(alone, '{:.0%}')}",
    )


def draw_forecasts(found: dict[str, list[Forecast]]) -> Figure:
    """The test values, forecast anew whenever the last forecast ends."""
    own = found["TCN"]
    figure, grid = plt.subplots(
        len(own), 1, figsize=(11, 1.2 + 2.6 * len(own)), squeeze=False
    )
    for axes, forecast, linear in zip(grid[:, 0], own, found["linear"], strict=True):
        series = forecast.series
        horizon = series.future.shape[1]
        shown = slice(series.test[0], None)
        axes.plot(series.times[shown], series.values[shown], "k-", label="measured")
        # The last forecast ends with the series.
        for number in range(
            (len(series.test) - 1) % horizon, len(series.test), horizon
        ):
            origin = series.test[number]
            ahead = series.times[origin + 1 : origin + 1 + horizon]
            quantiles = forecast.quantiles[0, number]
            axes.fill_between(
                ahead,
                quantiles[:, LOW],
                quantiles[:, HIGH],
                color=figures.COLORS[0],
                alpha=0.3,
                linewidth=0,
                label="TCN, 80 %",
            )
            axes.plot(
                ahead,
                quantiles[:, MEDIAN],
                color=figures.COLORS[0],
                label="TCN, median",
            )
            axes.plot(
                ahead,
                linear.quantiles[0, number, :, MEDIAN],
                "--",
                color=figures.COLORS[1],
                label="linear",
            )
        axes.set_title(f"{series.name}, test values: forecasts of {horizon} steps")
        axes.set_ylabel(series.unit)
    grid[-1, 0].set_xlabel("year" if own[0].series.name in UNITS else "time")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    figure.legend(by_label.values(), by_label, loc="outside lower center", ncols=4)
    return figure


def draw_errors(found: dict[str, list[Forecast]]) -> Figure:
    panels = []
    for number, forecast in enumerate(found["TCN"]):
        series = forecast.series
        panel = figures.Panel(
            title=series.name,
            xlabel="steps ahead",
            ylabel=f"RMSE on test values ({series.unit})",
            lines={name: each[number].rmse_by_step() for name, each in found.items()},
        )
        panels.append(panel)
    return figures.panels(*panels)


def draw_reach(learned: dict[str, Learned]) -> Figure:
    """What the output of a network sees, through its blocks; and by how much."""
    dilations = dilations_in(learned["TCN"])
    taps = learned["TCN"].models[0].get_layer("block_1").convolution.kernel_size
    reach = receptive_field(taps, tuple(dilations))
    figure, (tree, lags) = plt.subplots(1, 2, figsize=(13, 4.4))

    seen = {0}
    for level in range(len(dilations), 0, -1):
        dilation = dilations[level - 1]
        for tap in range(taps):
            for place in seen:
                from_ = place - tap * dilation
                tree.plot(
                    [from_, place], [level - 1, level], color="0.6", linewidth=0.8
                )
        tree.plot(list(seen), [level] * len(seen), "o", color=figures.COLORS[0])
        seen = {place - tap * dilation for place in seen for tap in range(taps)}
    tree.plot(list(seen), [0] * len(seen), "s", color=figures.COLORS[1])
    names = [f"block of dilation {dilation}" for dilation in dilations]
    tree.set_yticks(range(len(dilations) + 1), ["inputs", *names])
    tree.set_title(f"The newest output sees {reach} inputs")
    tree.set_xlabel("steps from now")
    tree.grid(visible=False)

    time = 2 * reach
    for number, (name, each) in enumerate(learned.items()):
        sizes = np.abs(sensitivity(each.models[0], time))[time::-1]
        sizes[sizes == 0] = np.nan
        lags.plot(
            range(len(sizes)),
            sizes,
            color=figures.COLORS[number],
            linestyle=figures.DASHES[number],
            label=name,
        )
    lags.set_yscale("log")
    lags.set_title(f"Trained on {learned['TCN'].forecasts[0].series.name}")
    lags.set_xlabel("steps into the past")
    lags.set_ylabel("|gradient of an output by an input|")
    lags.legend()
    return figure


def main(config: Config, run: Run) -> None:
    series = load_series(config)
    run.plan(3)
    keras.utils.set_random_seed(run.seed)

    dilations = dilations_of(config)
    tcn = Convolutional("TCN", config, dilations)
    kinds = [
        tcn,
        Convolutional("without dilation", config, (1,) * len(dilations)),
        Recurrent(config, like=tcn.model),
    ]
    learned = {kind.name: train(kind, series, config, run) for kind in kinds}
    found = {name: each.forecasts for name, each in learned.items()}
    found["linear"] = [linear_forecast(each) for each in series]
    found["last period"] = [seasonal_forecast(each) for each in series]

    judge_errors(found, run)
    judge_reach(config, run)
    judge_networks(found, learned, run)
    judge_dilation(found, run)
    judge_rules(found, run)
    judge_intervals(found, run)
    judge_sampling(learned["TCN"], run)

    run.figure("forecasts", draw_forecasts(found))
    run.figure("errors", draw_errors(found))
    run.figure("reach", draw_reach(learned))
    model = learned["TCN"].models[0]
    window = series[0].x[-series[0].reach :]
    outputs = {"quantiles": ops.sort(model.output, axis=-1)}
    run.export(
        keras.Model(model.input, outputs),
        example=window[np.newaxis, :, np.newaxis].astype("float32"),
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
