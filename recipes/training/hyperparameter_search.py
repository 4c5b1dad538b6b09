"""Hyperparameter search: finding settings under one budget.

A grid tries every combination of a few values each. Random search draws each variable
anew for every trial: of 27 trials it tries 27 learning rates where a grid of three
variables tries 3, and one variable usually matters most. Rates are drawn in log space,
10ᵘ with u uniform, as it is factors that count. Bayesian optimization draws next where
a model of the trials so far expects a low loss, or knows little; Hyperband begins many
trials, and goes on with the best third. And one may watch one training after the other,
and turn one knob at a time.
Look at the best loss by epochs spent, and at which variable it depends on.

Lectures: CS Hyperparameter optimization; N18 1.2.5 Model Selection; INFO 5 Searching
    over hyperparameters; ICME Hyperparameters
Paper: Bergstra and Bengio, Random search for hyper-parameter optimization, 2012; Li et
    al., Hyperband: a novel bandit-based approach to hyperparameter optimization, 2018
Tags: hpo, tuning, grid, random, bayesian optimization, hyperband, keras tuner,
    successive halving
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf
from annotated_types import Interval, Len
from keras import layers
from keras_tuner import oracles
from keras_tuner.engine import base_tuner
from matplotlib import pyplot as plt
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from threadpoolctl import threadpool_limits

from deep_learning_recipes import UsageError, data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    values: Annotated[int, Interval(ge=2, le=6)] = 3
    """of each of the three variables in the grid; its cube is the number of trials"""
    epochs: Annotated[int, Interval(ge=1, le=100)] = 9
    """of each trial, but for those that Hyperband stops"""
    searches: Annotated[int, Interval(ge=2, le=100)] = 6
    """by each strategy, each in another range of learning rates"""
    strategies: Annotated[tuple[str, ...], Len(min_length=1)] = (
        "grid",
        "grid of rates alone",
        "random",
        "random, not in log space",
        "Bayesian",
        "Hyperband",
        "by hand",
    )
    """to compare"""


QUICK = Config(
    epochs=4,
    searches=6,
    strategies=(
        "grid",
        "grid of rates alone",
        "random",
        "random, not in log space",
        "Hyperband",
        "by hand",
    ),
)
FULL = Config(epochs=27, searches=30)

# --------------------------------------------------------------------------------------
# The idea: what to try next
# --------------------------------------------------------------------------------------


@dataclass
class Range:
    """Values of a variable. logarithmic: as many between 0.01 and 0.1 as between 0.1
    and 1."""

    low: float
    high: float
    logarithmic: bool = True

    def at(self, share: Any) -> Any:
        """The value at a share of the way from low to high; drawn, if that is."""
        if self.logarithmic:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)

    def grid(self, values: int) -> list[float]:
        """The middles of equal parts."""
        shares = (np.arange(values) + 0.5) / values
        return [float(value) for value in self.at(shares)]


def ranges(shift: float) -> dict[str, Range]:
    """shift: of the learning rates, in decades. Nobody knows where they should lie."""
    return {
        "learning_rate": Range(1e-4 * 10**shift, 10.0 * 10**shift),
        "momentum": Range(0.0, 0.95, logarithmic=False),
        "weight_decay": Range(1e-6, 1e-2),
    }


def build_space(
    of_variables: dict[str, Range],
    values: dict[str, int] | None = None,
    *,
    linear: bool = False,
) -> keras_tuner.HyperParameters:
    """What KerasTuner draws from.

    values: how many of each variable for a grid; None: all between low and high.
    linear: draws the learning rate as if it were no logarithmic variable.
    """
    space = keras_tuner.HyperParameters()
    for name, each in of_variables.items():
        if values:
            space.Choice(name, each.grid(values[name]))
        else:
            is_log = each.logarithmic and not linear
            sampling = "log" if is_log else "linear"
            space.Float(name, each.low, each.high, sampling=sampling)
    return space


class ByHand:
    """Watches one training after the other, and turns one knob at a time, from the
    middle of all: farther the same way if that was better, back if not, then the next
    one; smaller steps after each round. Positions are shares of the variables'
    ranges."""

    def __init__(self, of_variables: dict[str, Range]) -> None:
        self.ranges = of_variables
        self.best = np.full(len(of_variables), 0.5)
        self.best_loss = np.inf
        self.knob = 0
        self.step = 0.25
        self.turned_back = False
        self.tried = self.best

    def ask(self) -> dict[str, float]:
        """The settings to try next."""
        if np.isfinite(self.best_loss):
            self.tried = self.best.copy()
            moved = self.best[self.knob] + self.step
            self.tried[self.knob] = np.clip(moved, 0, 1)
        pairs = zip(self.ranges.items(), self.tried, strict=True)
        return {name: float(each.at(share)) for (name, each), share in pairs}

    def tell(self, loss: float) -> None:
        """The validation loss of what was asked for last."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = self.tried
        elif not self.turned_back:
            self.turned_back = True
            self.step = -self.step
        else:
            self.turned_back = False
            self.knob = (self.knob + 1) % len(self.best)
            if self.knob == 0:
                self.step /= 2


def importance(x: np.ndarray, losses: np.ndarray, seed: int) -> np.ndarray:
    """How much worse a random forest predicts the loss once a variable is shuffled, in
    units of the variance: of trials that the forest has not seen, (variables,).

    x: settings, (trials, variables). losses: (trials,).
    """
    half = len(x) // 2
    forest = RandomForestRegressor(200, random_state=seed).fit(x[:half], losses[:half])
    found = permutation_importance(
        forest, x[half:], losses[half:], n_repeats=10, random_state=seed
    )
    return found.importances_mean


def build_model() -> keras.Model:
    """A small network for digits. Input: (batch, 64). Output: (batch, 10) logits."""
    x = keras.Input((64,), name="x")
    hidden = layers.Dense(32, "relu", kernel_initializer="he_normal")(x)
    return keras.Model(x, layers.Dense(10, name="logits")(hidden), name="digits")


# --------------------------------------------------------------------------------------
# The experiment: seven strategies, epoch for epoch
# --------------------------------------------------------------------------------------

GRID = "grid"
RATES = "grid of rates alone"
RANDOM = "random"
LINEAR = "random, not in log space"
BAYESIAN = "Bayesian"
HYPERBAND = "Hyperband"
BY_HAND = "by hand"
STRATEGIES = (GRID, RATES, RANDOM, LINEAR, BAYESIAN, HYPERBAND, BY_HAND)
VARIABLES = ("learning_rate", "momentum", "weight_decay")
BATCH_SIZE = 32
TRAINING, VALIDATION = 640, 400  # digits; few, as the searches are many
WORST = 10.0  # nats; what is worse, or no number, counts as this


@dataclass
class Trial:
    """One setting, and how far it has come."""

    settings: dict[str, float]
    epochs: int
    """that are still to be trained"""
    told: Callable[[float, np.ndarray], None]
    """takes the validation loss and the state at the end"""
    state: np.ndarray | None = None
    """to go on from: weights and velocity, (2, weights); None: from the start"""


class Tuner:
    """A search by one of KerasTuner's oracles."""

    def __init__(self, oracle: keras_tuner.Oracle, epochs: int, folder: str) -> None:
        # It gives the oracle a folder for its trials, without which none works.
        base_tuner.BaseTuner(oracle, directory=folder, project_name=str(id(self)))
        oracle.verbose = 0
        self.oracle = oracle
        self.epochs = epochs
        self.states: dict[str, np.ndarray] = {}

    def next_trial(self) -> Trial | None:
        """None where the oracle has nothing more to try."""
        trial = self.oracle.create_trial("one")
        if trial.status != "RUNNING":
            return None
        values = trial.hyperparameters.values

        def told(loss: float, state: np.ndarray) -> None:
            self.oracle.update_trial(trial.trial_id, {"loss": loss})
            trial.status = "COMPLETED"
            self.oracle.end_trial(trial)
            self.states[trial.trial_id] = state

        return Trial(
            {name: values[name] for name in VARIABLES},
            values.get("tuner/epochs", self.epochs)
            - values.get("tuner/initial_epoch", 0),
            told,
            self.states.get(values.get("tuner/trial_id", "")),
        )


class Watcher:
    """A search by hand."""

    def __init__(self, of_variables: dict[str, Range], epochs: int) -> None:
        self.hand = ByHand(of_variables)
        self.epochs = epochs

    def next_trial(self) -> Trial:
        return Trial(
            self.hand.ask(), self.epochs, lambda loss, state: self.hand.tell(loss)
        )


def build_search(strategy: str, shift: float, seed: int, config: Config, folder: str):
    of_variables = ranges(shift)
    trials = config.values**3
    if strategy == BY_HAND:
        return Watcher(of_variables, config.epochs)
    objective = keras_tuner.Objective("loss", "min")
    # The rates alone: of the other two variables the middle.
    grids = {
        GRID: dict.fromkeys(VARIABLES, config.values),
        RATES: {**dict.fromkeys(VARIABLES, 1), "learning_rate": trials},
    }
    space = build_space(of_variables, grids.get(strategy), linear=strategy == LINEAR)
    common = {"objective": objective, "hyperparameters": space, "seed": seed}
    if strategy in grids:
        oracle = oracles.GridSearchOracle(max_trials=trials, **common)
    elif strategy == BAYESIAN:
        oracle = oracles.BayesianOptimizationOracle(max_trials=trials, **common)
    elif strategy == HYPERBAND:
        oracle = oracles.HyperbandOracle(
            max_epochs=config.epochs, factor=3, hyperband_iterations=None, **common
        )
    else:
        oracle = oracles.RandomSearchOracle(max_trials=trials, **common)
    return Tuner(oracle, config.epochs, folder)


@tf.function(jit_compile=True)
def train_epoch(model, states, settings, batches, x, y):
    """A step of all networks on each batch, each with its own settings.

    states: weights and velocity, (networks, 2, weights). settings: (networks, 3), as in
    VARIABLES. batches: (steps, batch size) rows of x and y. Returns the states after
    the steps.
    """
    rows, velocity = tf.unstack(states, axis=1)
    rates, momenta, decays = tf.split(settings, 3, axis=1)
    for index in tf.range(batches.shape[0]):
        batch = tf.gather(x, batches[index]), tf.gather(y, batches[index])
        gradients = stacks.gradients(model, rows, *batch) + decays * rows
        velocity = momenta * velocity + gradients
        rows = rows - rates * velocity
    return tf.stack([rows, velocity], axis=1)


@tf.function(jit_compile=True)
def losses_of(model, rows, x, y):
    return stacks.losses(model, rows, x, y)


@dataclass
class Searched:
    """What one search has tried and found."""

    settings: list[list[float]] = field(default_factory=list)
    """in the order of VARIABLES, of each trial that ended"""
    losses: list[float] = field(default_factory=list)
    """on validation digits, of the same trials"""
    weights: np.ndarray | None = None
    """of the best of them"""
    course: list[float] = field(default_factory=list)
    """the lowest loss so far, after each epoch"""

    def take(self, trial: Trial, loss: float, weights: np.ndarray) -> None:
        if loss < min(self.losses, default=np.inf):
            self.weights = weights
        self.settings.append(list(trial.settings.values()))
        self.losses.append(loss)


def search_all(searches, starts: np.ndarray, parts, config: Config, run: Run):
    """All searches at once, an epoch of each in every round, so that all have spent as
    much at any time. starts: (searches, weights), where each trial begins. Returns a
    `Searched` for each."""
    (x, y), valid, _ = parts
    model = build_model()
    random = np.random.default_rng(run.seed)
    found = [Searched() for _ in searches]
    trials = [search.next_trial() for search in searches]
    left = np.array([trial.epochs for trial in trials])
    states = np.stack([state_of(*each) for each in zip(trials, starts, strict=True)])
    settings = np.array([list(trial.settings.values()) for trial in trials])

    budget = config.values**3 * config.epochs
    for _ in run.track(range(budget), f"{len(searches)} searches", "epochs"):
        order = random.permutation(len(x)).reshape(-1, BATCH_SIZE)
        trained = train_epoch(
            model,
            tf.constant(states),
            tf.constant(settings, "float32"),
            tf.constant(order),
            x,
            y,
        )
        states = trained.numpy().copy()
        losses = stacks.bounded(losses_of(model, trained[:, 0], *valid), WORST)
        left -= 1
        for index in np.flatnonzero(left == 0):
            loss = float(losses[index])
            state = states[index].copy()
            found[index].take(trials[index], loss, state[0])
            trials[index].told(loss, state)
            trial = searches[index].next_trial()
            if trial is None:  # nothing more to try: it waits for the others
                continue
            trials[index] = trial
            left[index] = trial.epochs
            states[index] = state_of(trial, starts[index])
            settings[index] = list(trial.settings.values())
        for each in found:
            each.course.append(min(each.losses, default=WORST))
    return found


def state_of(trial: Trial, start: np.ndarray) -> np.ndarray:
    """Weights and velocity to begin a trial with, (2, weights)."""
    if trial.state is not None:
        return trial.state
    return np.stack([start, np.zeros_like(start)])


def load_parts(run: Run):
    """Digits to train on, to choose by and to report."""
    (x, y), (x_test, y_test) = data.load("digits")
    x = x.reshape(len(x), -1)
    x_test = x_test.reshape(len(x_test), -1)
    order = np.random.default_rng(run.seed).permutation(len(x))
    held_out, rest = np.split(order, [VALIDATION])
    rest = rest[:TRAINING]
    return [
        (tf.constant(a), tf.constant(b))
        for a, b in ((x[rest], y[rest]), (x[held_out], y[held_out]), (x_test, y_test))
    ]


@dataclass
class Strategy:
    """All searches by one strategy."""

    searches: list[Searched]
    test: np.ndarray
    """loss of what validated best, on the digits to report, (searches,)"""

    def courses(self) -> np.ndarray:
        """(epochs, searches)"""
        return np.array([each.course for each in self.searches]).T

    def trials(self) -> float:
        return float(np.mean([len(each.losses) for each in self.searches]))

    def rates(self) -> float:
        """Different learning rates that a search has tried, on average."""
        tried = [{row[0] for row in each.settings} for each in self.searches]
        return float(np.mean([len(each) for each in tried]))


def run_searches(parts, config: Config, run: Run) -> dict[str, Strategy]:
    unknown = [each for each in config.strategies if each not in STRATEGIES]
    if unknown or len(set(config.strategies)) < len(config.strategies):
        raise UsageError(
            f"--strategies {' '.join(map(repr, config.strategies))}: each once, of "
            + ", ".join(map(repr, STRATEGIES))
        )
    random = np.random.default_rng(run.seed)
    shifts = random.uniform(-0.5, 0.5, size=config.searches)
    keras.utils.set_random_seed(run.seed)
    starts = np.stack([stacks.row_of(build_model()) for _ in shifts])
    # Threads that wait for each other take ten times as long for such small matrices.
    with (
        tempfile.TemporaryDirectory() as folder,
        threadpool_limits(1, "blas"),
        warnings.catch_warnings(),
    ):
        # Of the Bayesian model's own length scales, one for each variable.
        warnings.simplefilter("ignore", ConvergenceWarning)
        searches = [
            build_search(strategy, shift, 100 * run.seed + number, config, folder)
            for strategy in config.strategies
            for number, shift in enumerate(shifts)
        ]
        of_each = np.tile(starts, (len(config.strategies), 1))
        found = search_all(searches, of_each, parts, config, run)

    weights = tf.constant(np.stack([each.weights for each in found]))
    test = stacks.bounded(losses_of(build_model(), weights, *parts[2]), WORST)
    by_strategy = {}
    for index, strategy in enumerate(config.strategies):
        places = slice(index * config.searches, (index + 1) * config.searches)
        by_strategy[strategy] = Strategy(found[places], test[places])
    return by_strategy


def random_trials(found: Strategy) -> tuple[np.ndarray, np.ndarray]:
    """Settings (trials, variables), rates and decays as logarithms, and losses of all
    trials of random searches."""
    settings = np.concatenate([each.settings for each in found.searches])
    columns = [np.log10(settings[:, 0]), settings[:, 1], np.log10(settings[:, 2])]
    losses = np.concatenate([each.losses for each in found.searches])
    return np.stack(columns, axis=1), losses


def claim_no_worse_than_random(
    text: str, tests: dict[str, float], name: str, times: float, run: Run
) -> None:
    """tests: losses by strategy. times: how much higher than random search's may be."""
    run.claim(
        text,
        holds=tests[name] < times * tests[RANDOM],
        measured=f"test loss: {name} {tests[name]:.3f}, random {tests[RANDOM]:.3f} "
        f"(less than {times:g} times that wanted)",
    )


def judge_strategies(found: dict[str, Strategy], config: Config, run: Run) -> None:
    tests = {name: float(each.test.mean()) for name, each in found.items()}
    run.metrics("test_loss", tests)
    run.metrics("rates_tried", {name: each.rates() for name, each in found.items()})
    if run.has("--strategies", found, GRID, RANDOM):
        run.compare(
            "Random search finds better settings than a grid of as many trials (log "
            "loss)",
            {name: tests[name] for name in (GRID, RANDOM)},
            more=GRID,
            less=RANDOM,
            times=1.02,
        )
    if run.has("--strategies", found, RANDOM, RATES):
        claim_no_worse_than_random(
            "What helps is the number of learning rates that are tried, not chance: a "
            "grid of as many rates, which leaves the other two variables in the middle, "
            "does as well as random search",
            tests,
            RATES,
            times=1.1,
            run=run,
        )
    if run.has("--strategies", found, RANDOM, LINEAR):
        run.compare(
            "Learning rates that are drawn in log space are better than as many drawn "
            "evenly from the same five decades (log loss)",
            {name: tests[name] for name in (RANDOM, LINEAR)},
            more=LINEAR,
            less=RANDOM,
            times=1.05,
        )
    if run.has("--strategies", found, RANDOM, BY_HAND):
        claim_no_worse_than_random(
            "Watching one training after the other and turning one knob, from the middle "
            "of the ranges, is a strong rival here, where one knob is most of it: it does "
            "as well as random search (that it is better does not show in every run)",
            tests,
            BY_HAND,
            times=1.1,
            run=run,
        )
    for name in (BAYESIAN, HYPERBAND):
        if run.has("--strategies", found, RANDOM, name):
            claim_no_worse_than_random(
                f"{name} does about as well as random search, or better (that it is "
                "better does not show in every run)",
                tests,
                name,
                times=1.2,
                run=run,
            )


def judge_importance(found: Strategy, run: Run) -> np.ndarray:
    shares = importance(*random_trials(found), run.seed)
    by_name = dict(zip(VARIABLES, shares, strict=True))
    run.metrics("importance", by_name)
    second = max(VARIABLES[1:], key=by_name.get)
    run.compare(
        "Over these ranges one variable matters far more than the others: the learning "
        "rate",
        by_name,
        more=VARIABLES[0],
        less=second,
        by=0.5,
    )
    return shares


def show(found: dict[str, Strategy], run: Run) -> None:
    run.print(f"{'':26}{'trials':>8}{'rates':>8}{'validation':>12}{'test':>8}")
    for name, each in found.items():
        best = np.mean([min(search.losses) for search in each.searches])
        run.print(
            f"{name:26}{each.trials():8.1f}{each.rates():8.1f}{best:12.3f}"
            f"{each.test.mean():8.3f}"
        )


def draw_courses(found: dict[str, Strategy]) -> plt.Figure:
    courses = figures.Panel(
        title="Best settings so far (mean of all searches)",
        xlabel="epochs spent",
        ylabel="validation loss (nats)",
        lines={name: each.courses().mean(axis=1) for name, each in found.items()},
        yscale="log",
    )
    tests = figures.Panel(
        title="What was found",
        xlabel="test loss (nats)",
        bars={name: each.test for name, each in found.items()},
    )
    figure = figures.panels(courses, tests)
    figure.set_size_inches(13, 4.5)
    return figure


def draw_trials(found: Strategy, shares: np.ndarray) -> plt.Figure:
    """The losses of random trials over each variable, and its importance."""
    settings, losses = random_trials(found)
    units = ("10 to the power of this", "linear", "10 to the power of this")
    shown = [
        figures.Panel(
            title=f"{name.replace('_', ' ')}: importance {share:.2f}",
            xlabel=unit,
            ylabel="validation loss (nats)" if index == 0 else "",
            points={"random trials": (settings[:, index], losses)},
            yscale="log",
        )
        for index, (name, share, unit) in enumerate(
            zip(VARIABLES, shares, units, strict=True)
        )
    ]
    return figures.panels(*shown)


def main(config: Config, run: Run) -> None:
    parts = load_parts(run)
    found = run_searches(parts, config, run)
    show(found, run)
    judge_strategies(found, config, run)
    run.figure("searches", draw_courses(found))
    if run.has("--strategies", found, RANDOM):
        shares = judge_importance(found[RANDOM], run)
        run.figure("importance", draw_trials(found[RANDOM], shares))

    tried = [each for strategy in found.values() for each in strategy.searches]
    best = min(tried, key=lambda each: min(each.losses))
    model = build_model()
    stacks.set_weights(model, best.weights)
    x_test, y_test = parts[2]
    answers = np.argmax(model(x_test), axis=1)
    run.metric("test_accuracy", np.mean(answers == y_test))
    run.export(serving.classifier(model), example=x_test[:3].numpy())


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
