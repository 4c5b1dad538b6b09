"""Series in time, to forecast."""

import numpy as np

from deep_learning_recipes.data.own import reading
from deep_learning_recipes.data.own.asked import asked
from deep_learning_recipes.data.registry import is_path


def load_series(name: str, target: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A whole series as (times, values), both float64 (n,); times are years, 1958.24 in
    March 1958.

    name: co2: ppm at Mauna Loa, 2284 weeks 1958-2001; the 59 weeks without a
        measurement are NaN. elnino: sea surface temperature off Peru in degrees
        Celsius, 732 months 1950-2010. sunspots: yearly number, 309 years 1700-2008.
        Or the path of a .csv file with a column of dates, or one that is called year or
        time, whose numbers are returned as they are.
    target: the column of values; needed where there are several of numbers.

    The custom is to train on the first 80 % and test on the rest, and never to shuffle:
    `boundary = int(0.8 * len(values)); train, test = values[:boundary],
    values[boundary:]`. License: public domain (statsmodels). Measured: root mean
    squared error one step ahead on the last 20 %, by linear autoregression on 24 values
    (and by repeating the last value): co2 0.45 (0.51), elnino 0.50 (1.16), sunspots
    20.3 (33.3).
    """
    if is_path("series", name, SERIES):
        return reading.series(name, asked(target))
    return SERIES[name]()


def co2() -> tuple[np.ndarray, np.ndarray]:
    from statsmodels.datasets import co2

    table = co2.load_pandas().data
    days = table.index.to_numpy("datetime64[D]")
    years = days.astype("datetime64[Y]")
    lengths = (years + 1).astype("datetime64[D]") - years.astype("datetime64[D]")
    times = years.astype("int64") + 1970 + (days - years) / lengths
    return times, table["co2"].to_numpy("float64")


def elnino() -> tuple[np.ndarray, np.ndarray]:
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data  # a row a year, a column a month
    times = table["YEAR"].to_numpy("float64")[:, np.newaxis] + np.arange(12) / 12
    return times.ravel(), table.drop(columns="YEAR").to_numpy("float64").ravel()


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    from statsmodels.datasets import sunspots

    table = sunspots.load_pandas().data
    return table["YEAR"].to_numpy("float64"), table["SUNACTIVITY"].to_numpy("float64")


SERIES = {"co2": co2, "elnino": elnino, "sunspots": sunspots}
