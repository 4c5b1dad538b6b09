"""Training diagnostics: a doctor for networks that do not learn.

Most failed trainings fail in a few ways, and each leaves its marks: in the loss curve,
in the data, in the hidden units, in the size of the updates. `diagnose` looks for them
in that order and says what it found, by which evidence, and what to try. Three checks
come before any training: the first loss of K classes is −log(1/K); a network can learn
one batch by heart; an update is a thousandth to a hundredth of the weights.
Look at the loss curves of ten planted faults, and at the table of which were named, on
data that the doctor was made for and on others.

Lectures: ICME Tips for training, Overfitting and underfitting; N18 1.2.8 Debug on Small
    Dataset; CS Optimization; SEL Activations
Paper: Karpathy, A recipe for training neural networks, 2019 (checks before training);
    Stanford CS231n, Notes on learning and evaluation (ratio of updates to weights)
Tags: debugging, learning curve, overfit one batch, dead units, saturation, loss curve,
    data leakage, underfitting
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from sklearn.metrics import euclidean_distances

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    starts: int = 2
    """networks of each fault and data set"""
    epochs: Annotated[int, Interval(ge=20)] = 30
    """passes over the training data, more where there are few"""
    examples: Annotated[int, Interval(ge=300)] = 1000
    """of each data set, at most"""
    clinics: Annotated[int, Interval(ge=1, le=7)] = 7
    """data sets, each with a network of its own"""


QUICK = Config(starts=1, clinics=2)
FULL = Config(starts=10, epochs=60)

# --------------------------------------------------------------------------------------
# The idea: each fault leaves its marks
# --------------------------------------------------------------------------------------

NOT_SCALED = "inputs not scaled"
SHIFTED = "labels shifted"
LEAKAGE = "leakage"
NOT_SHUFFLED = "not shuffled"
WRONG_LOSS = "wrong loss scale"
DEAD = "dead units"
SATURATED = "saturated units"
TOO_HIGH = "rate too high"
TOO_LOW = "rate too low"
OVERFIT = "overfit"
UNDERFIT = "underfit"

ADVICE = {
    NOT_SCALED: "divide images by 255, or give each column mean 0 and deviation 1 by the "
    "training data's numbers (keras.layers.Normalization)",
    SHIFTED: "look at some inputs with their labels; see where the two are read, sorted "
    "or shuffled apart from each other",
    LEAKAGE: "split anew so that no example, and no near copy of one, is in both parts; "
    "remove duplicates first",
    NOT_SHUFFLED: "fit(shuffle=True), or Dataset.shuffle with a buffer as large as the "
    "data",
    WRONG_LOSS: "end in logits and pass from_logits=True, or in a softmax and pass "
    "False; average over the batch, do not sum",
    DEAD: "begin with biases of 0 and He's kernels, lower the learning rate, or take "
    "leaky ReLUs",
    SATURATED: "begin with Xavier's kernels, scale the inputs, or take ReLUs",
    TOO_HIGH: "a third to a tenth of the learning rate, a warm-up, clipnorm=1",
    TOO_LOW: "three to ten times the learning rate, or a range test of it",
    OVERFIT: "stop where validation was best, more data or augmentation, dropout or "
    "weight decay, a smaller network",
    UNDERFIT: "a larger network, less regularization, better features, more epochs",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a training."""

    name: str
    evidence: str

    @property
    def advice(self) -> str:
        """What to try next."""
        return ADVICE[self.name]

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. Try: {self.advice}."


def diagnose(
    history: Any,
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    x_valid: Any = None,
    y_valid: Any = None,
) -> list[Finding]:
    """Names what is wrong with a trained classifier, causes before consequences; an
    empty list if nothing seems to be.

    history: what `model.fit` returned, or a dict of lists with "loss" and, to find
        overfitting, "val_loss", one value an epoch.
    model: compiled as it was trained, its output (batch, classes) logits or
        probabilities. Its weights are the same afterwards.
    x: what it was trained on, (examples, ...), scaled as it was, in the order in which
        it was fed where that is not shuffled.
    y: (examples,) labels from 0 to classes − 1.
    x_valid, y_valid: as x and y, what it was validated on; without them neither leakage
        nor labels of the validation part are looked at.

    Raises ValueError for other outputs or labels, and for a model that was not
    compiled.
    """
    x = np.asarray(x, "float32")
    y = np.asarray(y)
    check_arguments(model, x, y)
    curves = dict(getattr(history, "history", history))
    valid = None
    if x_valid is not None:
        valid = np.asarray(x_valid, "float32"), np.asarray(y_valid)

    findings = [
        *look_at_inputs(x),
        *look_at_labels(x, y, valid),
        *look_for_leakage(x, valid),
    ]
    if not np.all(np.isfinite(predict(model, x))):
        evidence = "the outputs are no numbers any more"
        return [*findings, Finding(TOO_HIGH, evidence)]
    findings += look_at_order(curves, model, x, y)
    findings += look_at_loss(curves, model, x, y)
    findings += look_for_jumps(curves, model, x, y)
    findings += look_at_units(model, x)
    # Curves say little as long as something else explains them.
    return findings or look_at_curves(curves, model, x, y)


def check_arguments(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"outputs of shape (batch, classes) are wanted, not {shape}")
    if y.shape != (len(x),) or not 0 <= y.min() <= y.max() < shape[1]:
        raise ValueError(f"one label from 0 to {shape[1] - 1} for each input is wanted")
    if not model.compiled:
        raise ValueError("the model has to be compiled as it was trained")


MOST = 1000  # examples are enough for most looks
MOST_TO_SEARCH = 20_000  # of them for copies of others


def some_of(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).permutation(len(x))[:MOST]
    return x[rows], y[rows]


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """(examples, classes), in parts that fit into memory."""
    parts = [model(x[first : first + MOST]) for first in range(0, len(x), MOST)]
    return np.concatenate(parts)


def are_probabilities(outputs: np.ndarray) -> bool:
    sums = outputs.sum(axis=1)
    return bool(np.all(outputs >= 0) and np.allclose(sums, 1, atol=1e-3))


def cross_entropies(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In nats, (examples,), whatever the loss was that the model trained on."""
    outputs = predict(model, x)
    loss = keras.losses.sparse_categorical_crossentropy
    return loss(y, outputs, from_logits=not are_probabilities(outputs)).numpy()


def chance_loss(y: np.ndarray) -> float:
    """Of a network that knows how frequent the labels are and no more, in nats: log K
    where they are equally frequent."""
    shares = np.bincount(y) / len(y)
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log(shares)))


def look_at_inputs(x: np.ndarray) -> list[Finding]:
    size = np.sqrt(np.mean(np.square(x, dtype="float64")))
    if not 0.02 < size < 5:
        evidence = f"the inputs' root mean square is {size:.3g}, about 1 is wanted"
        return [Finding(NOT_SCALED, evidence)]
    spreads = x.reshape(len(x), -1).std(axis=0)
    spreads = spreads[spreads > 0]
    if len(spreads) and spreads.max() > 30 * np.median(spreads):
        times = spreads.max() / np.median(spreads)
        evidence = f"one column's deviation is {times:.0f} times the median one's"
        return [Finding(NOT_SCALED, evidence)]
    return []


NEIGHBORS = 5


def columns_of(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Flat, and standardized by other examples, so that distances mean something."""
    flat = like.reshape(len(like), -1)
    deviation = flat.std(axis=0)
    # Not that a pixel which is nearly always empty decides.
    floor = 0.3 * deviation.max()
    scale = np.maximum(deviation, floor if floor > 0 else 1)
    return (x.reshape(len(x), -1) - flat.mean(axis=0)) / scale


def nearest(
    x: np.ndarray, others: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the nearest others, (examples, count) each."""
    distances = euclidean_distances(x, others)
    rows = np.argsort(distances, axis=1)[:, :count]
    return np.take_along_axis(distances, rows, axis=1), rows


def majority(y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The most frequent label among rows (examples, neighbors)."""
    votes = np.eye(y.max() + 1)[y[rows]]
    return votes.sum(axis=1).argmax(axis=1)


def neighbors_answers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the nearest other examples say of each, (examples,)."""
    columns = columns_of(x, x)
    _, rows = nearest(columns, columns, NEIGHBORS + 1)
    return majority(y, rows[:, 1:])  # the nearest is itself


def beyond_chance(answers: np.ndarray, y: np.ndarray) -> float:
    """The share of right answers, scaled so that chance is 0 and all is 1."""
    shares = np.bincount(y) / len(y)
    chance = np.sum(shares**2)
    return float((np.mean(answers == y) - chance) / max(1 - chance, 1e-6))


FEWEST = 30  # examples that have neighbors worth the name
UNRELATED = 0.2  # of the way from chance to all


def look_at_labels(x: np.ndarray, y: np.ndarray, valid) -> list[Finding]:
    """Whether neighbors have the same label."""
    if len(x) < FEWEST:
        return []
    some, labels = some_of(x, y)
    agreement = beyond_chance(neighbors_answers(some, labels), labels)
    if agreement < UNRELATED:
        evidence = (
            f"neighbors share a label {agreement:.0%} of the way from chance to always"
        )
        for by in (-3, -2, -1, 1, 2, 3):
            some, labels = some_of(x, np.roll(y, by))
            rolled = beyond_chance(neighbors_answers(some, labels), labels)
            if rolled > agreement + 0.3:
                evidence += f", but {rolled:.0%} if labels move by {by} rows"
        return [Finding(SHIFTED, evidence)]
    if valid is None:
        return []

    x_valid, y_valid = some_of(*valid)
    _, rows = nearest(columns_of(x_valid, some), columns_of(some, some), NEIGHBORS)
    answers = majority(labels, rows)
    of_valid = beyond_chance(answers, y_valid)
    if of_valid < UNRELATED and of_valid < agreement - 0.3:
        evidence = (
            f"neighbors give training labels {agreement:.0%}, validation labels "
            f"{of_valid:.0%} of the way from chance to all"
        )
        return [Finding(SHIFTED, evidence)]
    return []


def look_for_leakage(x: np.ndarray, valid) -> list[Finding]:
    """Whether validation examples are (nearly) training examples."""
    if valid is None:
        return []
    x_valid, _ = some_of(*valid)
    columns = columns_of(x, x)[:MOST_TO_SEARCH]
    distances, rows = nearest(columns_of(x_valid, x), columns, 1)
    among_themselves, _ = nearest(columns[rows[:, 0]], columns, 2)
    # A copy is far nearer to its original than that is to any other example.
    copies = np.mean(distances[:, 0] < 0.3 * among_themselves[:, 1])
    if copies > 0.03:
        evidence = (
            f"{copies:.0%} of the validation examples are copies of training ones"
        )
        return [Finding(LEAKAGE, evidence)]
    return []


def look_at_order(
    curves: Mapping[str, Sequence[float]],
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
) -> list[Finding]:
    """Whether labels come in blocks, and each is known while it lasts."""
    shares = np.bincount(y) / len(y)
    chance = np.sum(shares**2)
    in_blocks = (np.mean(y[1:] == y[:-1]) - chance) / max(1 - chance, 1e-6)
    if in_blocks < 0.5:
        return []
    own = float(cross_entropies(model, x, y).mean())
    recorded = curves["loss"][-1]
    if own < max(1.4 * recorded, 0.05 * chance_loss(y)):
        return []
    evidence = (
        f"labels come in blocks, and the loss after the last epoch is {own:.2g}, within "
        f"it it was {recorded:.2g}"
    )
    return [Finding(NOT_SHUFFLED, evidence)]


def takes_logits(loss: Any) -> bool:
    """Whether a loss that a model was compiled with takes logits."""
    if isinstance(loss, keras.losses.Loss):
        return bool(loss.get_config().get("from_logits", False))
    return False  # a name or a function: Keras's take probabilities


def look_at_loss(
    curves: Mapping[str, Sequence[float]],
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
) -> list[Finding]:
    """Whether the loss fits the outputs, and what was recorded the loss."""
    if takes_logits(model.loss) == are_probabilities(predict(model, x[:MOST])):
        outputs, wanted = "logits", "probabilities"
        if takes_logits(model.loss):
            outputs, wanted = wanted, outputs
        return [Finding(WRONG_LOSS, f"outputs are {outputs}, the loss takes {wanted}")]
    losses = np.asarray(curves["loss"])
    penalty = float(sum(model.losses)) if model.losses else 0.0
    own = float(cross_entropies(model, x, y).mean()) + penalty
    last = losses[-3:].mean()
    is_steady = np.all(losses[1:] < 2 * losses[:-1])
    if is_steady and last > 5 * max(own, 0.01 * chance_loss(y)):
        evidence = f"about {last:.3g} was recorded last, the mean is {own:.3g}"
        return [Finding(WRONG_LOSS, evidence)]
    return []


def hidden_outputs(model: keras.Model, x: np.ndarray) -> dict[str, tuple]:
    """By layer the name of its activation function and what it gives, (values, units);
    of layers that have one, but for the last."""
    found = {}
    for layer in model.layers[:-1]:
        if isinstance(layer, layers.ReLU):
            found[layer] = "relu"
        elif hasattr(layer, "activation"):
            found[layer] = layer.activation.__name__
    if not found:
        return {}
    opened = keras.Model(model.input, [layer.output for layer in found])
    outputs = opened(x[:MOST])
    if len(found) == 1:
        outputs = keras.tree.flatten(outputs)
    return {
        layer.name: (activation, np.reshape(output, (-1, output.shape[-1])))
        for (layer, activation), output in zip(found.items(), outputs, strict=True)
    }


def dead_share(outputs: np.ndarray) -> float:
    """Units of a ReLU layer that give 0 for all examples. outputs: (values, units)."""
    return float(np.mean(np.all(outputs <= 0, axis=0)))


def saturated_share(outputs: np.ndarray, activation: str) -> float:
    """Outputs of tanh or sigmoid where these have almost no slope."""
    middle = 0.5 if activation == "sigmoid" else 0.0
    reach = 0.5 if activation == "sigmoid" else 1.0
    return float(np.mean(np.abs(outputs - middle) > 0.98 * reach))


def look_at_units(model: keras.Model, x: np.ndarray) -> list[Finding]:
    for name, (activation, outputs) in hidden_outputs(model, x).items():
        if activation in ("relu", "relu6"):
            share = dead_share(outputs)
            if share > 0.4:
                evidence = f"{share:.0%} of {name} give 0 for every example"
                return [Finding(DEAD, evidence)]
        if activation in ("tanh", "sigmoid"):
            share = saturated_share(outputs, activation)
            if share > 0.4:
                evidence = f"{share:.0%} of what {name} gives has almost no slope"
                return [Finding(SATURATED, evidence)]
    return []


@tf.function(reduce_retracing=True)
def loss_and_gradients(model: keras.Model, x, y, from_logits: bool):
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            y, model(x), from_logits=from_logits
        )
        loss = tf.reduce_mean(losses) + sum(model.losses)
    return loss, tape.gradient(loss, model.trainable_variables)


def losses_of_steps(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    batches: Sequence[np.ndarray],
    factor: float = 1.0,
) -> list[float]:
    """What a training would do that goes on, at a multiple of its learning rate: the
    loss before each step. The model's weights are the same afterwards.

    batches: rows of x and y, one array a step.
    """
    kept = model.get_weights()
    settings = model.optimizer.get_config()
    settings["learning_rate"] = factor * float(model.optimizer.learning_rate)
    optimizer = type(model.optimizer).from_config(settings)
    from_logits = not are_probabilities(predict(model, x[:MOST]))
    found = []
    for batch in batches:
        loss, gradients = loss_and_gradients(
            model, tf.constant(x[batch]), tf.constant(y[batch]), from_logits
        )
        optimizer.apply(gradients, model.trainable_variables)
        found.append(float(loss))
    model.set_weights(kept)
    return found


FACTORS = (0.1, 1.0, 10.0, 100.0, 1000.0)
STEPS_TO_TRY = 8


def what_if(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[float, float]:
    """The loss soon after going on at multiples of the learning rate: by factor the
    mean over the last of a few steps."""
    random = np.random.default_rng(0)
    size = min(32, len(x))
    batches = [
        random.choice(len(x), size, replace=False) for _ in range(2 * STEPS_TO_TRY)
    ]
    found = {}
    for factor in FACTORS:
        losses = losses_of_steps(model, x, y, batches, factor)
        late = np.nan_to_num(losses[STEPS_TO_TRY:], nan=1e3, posinf=1e3)
        found[factor] = float(np.mean(late))
    return found


def has_learned(model: keras.Model, x: np.ndarray, y: np.ndarray) -> bool:
    return bool(cross_entropies(model, x, y).mean() < 0.1 * chance_loss(y))


def look_for_jumps(
    curves: Mapping[str, Sequence[float]],
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
) -> list[Finding]:
    """Whether the loss has been far above that of knowing nothing, or stays above and
    jumps about there."""
    losses = np.asarray(curves["loss"])
    chance = chance_loss(y)
    # A penalty belongs to the loss, and falls from any height.
    excess = losses - float(sum(model.losses)) if model.losses else losses
    limit = 3 * chance if has_learned(model, x, y) else 1.2 * chance
    falls = excess[:-1] > np.maximum(1.1 * excess[1:], limit)
    rises = excess[1:] > np.maximum(1.1 * excess[:-1], limit)
    has_jumped = rises.any() or (falls.any() and not model.losses)

    late = excess[len(losses) // 2 :]
    is_above = late.mean() > 1.02 * chance and late[-3:].mean() > 0.99 * late[:3].mean()
    jumps = len(late) > 2 and np.std(np.diff(late)) > 0.003 * chance
    is_finite = np.all(np.isfinite(losses))
    if is_finite and not has_jumped and not (is_above and jumps):
        return []
    evidence = f"the loss was {losses.max():.3g}, knowing nothing is {chance:.3g}"
    return [Finding(TOO_HIGH, evidence)]


def look_at_curves(
    curves: Mapping[str, Sequence[float]],
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
) -> list[Finding]:
    """Learning rate, underfit, overfit."""
    chance = chance_loss(y)
    own = float(cross_entropies(model, x, y).mean())
    if not has_learned(model, x, y):
        after = what_if(model, x, y)
        best = min(after, key=after.get)
        if after[best] < 0.95 * after[1.0] - 0.02 * chance:
            evidence = (
                f"some steps at {best:g} times the rate give {after[best]:.3g}, at the "
                f"same {after[1.0]:.3g}"
            )
            return [Finding(TOO_HIGH if best < 1 else TOO_LOW, evidence)]

        some, labels = some_of(x, y)
        agreement = beyond_chance(neighbors_answers(some, labels), labels)
        # A network that is as often wrong has about this share of the loss.
        if own > (0.15 + 2 * (1 - agreement)) * chance:
            evidence = (
                f"training loss {own:.3g}, knowing nothing is {chance:.3g}, where "
                f"neighbors are right {agreement:.0%} of the way from chance to all"
            )
            return [Finding(UNDERFIT, evidence)]

    validation = np.asarray(curves.get("val_loss", []))
    if len(validation) > 2:
        lowest = validation.min()
        late = validation[-3:].min()
        times = 2 if late < 0.25 * chance else 1.3
        has_risen = late > times * lowest and late > 0.1 * chance
        is_far_off = late > 0.4 * chance
        if late > 3 * own and (has_risen or is_far_off):
            evidence = (
                f"validation loss {lowest:.3g} in epoch {validation.argmin() + 1}, "
                f"{validation[-1]:.3g} at the end, training loss {own:.3g}"
            )
            return [Finding(OVERFIT, evidence)]
    return []


STEPS_ON_ONE = 60


def overfit_one_batch(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """The last loss of a training on the same few examples: near 0, or something keeps
    the network from learning. The model's weights are the same afterwards."""
    everything = np.arange(len(x))
    return losses_of_steps(model, x, y, [everything] * STEPS_ON_ONE)[-1]


def update_ratios(
    model: keras.Model, x: np.ndarray, y: np.ndarray, learning_rate: float
) -> dict[str, float]:
    """How long a step of plain gradient descent is, of the length of the weights, by
    kernel: 1/1000 to 1/100 is usual."""
    _, gradients = loss_and_gradients(model, tf.constant(x), tf.constant(y), True)
    pairs = zip(model.trainable_variables, gradients, strict=True)
    return {
        variable.path: float(
            learning_rate * tf.norm(gradient) / tf.norm(variable.value)
        )
        for variable, gradient in pairs
        if len(variable.shape) > 1
    }


def build_network(
    inputs: int,
    classes: int,
    activation: str = "relu",
    units: Sequence[int] = (64, 64),
    output: str | None = None,
    decay: float = 0.0,
) -> keras.Model:
    """A dense classifier. Input: (batch, inputs). Output: (batch, classes) logits, or
    probabilities of output="softmax"."""
    kernels = "he_normal" if activation == "relu" else "glorot_normal"
    penalty = keras.regularizers.L2(decay) if decay else None
    x = hidden = keras.Input((inputs,), name="x")
    for size in units:
        hidden = layers.Dense(
            size,
            activation,
            kernel_initializer=kernels,
            kernel_regularizer=penalty,
        )(hidden)
    logits = layers.Dense(classes, output, kernel_regularizer=penalty, name="logits")(
        hidden
    )
    return keras.Model(x, logits, name="network")


# --------------------------------------------------------------------------------------
# The experiment: planted faults, and whether the doctor names them
# --------------------------------------------------------------------------------------

HEALTHY = "healthy"
BATCH_SIZE = 16


@dataclass(frozen=True)
class Clinic:
    """A data set, a network for it, and how strong each fault is planted."""

    activation: str
    units: tuple[int, ...]
    learning_rate: float
    too_high: float
    """times the learning rate"""
    too_low: float
    bias: float = 0.0
    """first one of the ReLUs that are to be dead"""
    gain: float = 1.0
    """of first kernels whose tanh is to saturate"""
    rows_moved: int = 0
    """labels against inputs"""
    labels_shuffled: float = 0.0
    """share of them"""
    leaked: float = 0.5
    """share of the validation examples that are taken from the training data"""
    leak_noise: float = 0.0
    rate_in_order: float = 1.0
    """times the learning rate, where examples come label by label; 0: not planted, as
    few examples are not forgotten before they come again"""
    few: int = 40
    """examples that are learned by heart"""
    few_wrong: float = 0.0
    """share of them that have any label"""
    decay: float = 0.05
    """penalty on weights that keeps them from learning"""
    loss_is_sum: bool = False
    """over the batch, in place of a softmax that is taken twice"""
    is_new: bool = False
    """whether the doctor's limits were set without it"""


CLINICS = {
    "digits": Clinic(
        activation="relu",
        units=(64, 64),
        learning_rate=0.1,
        too_high=50,
        too_low=1e-3,
        bias=-8,
        rows_moved=1,
        few=25,
    ),
    "printed_digits": Clinic(
        activation="tanh",
        units=(40, 40, 20),
        learning_rate=0.05,
        too_high=150,
        too_low=1e-3,
        gain=20,
        labels_shuffled=1.0,
        rate_in_order=0,
        leaked=0.2,
        leak_noise=0.01,
        few=20,
        decay=0.05,
        loss_is_sum=True,
        is_new=True,
    ),
    "faces": Clinic(
        activation="relu",
        units=(24, 24),
        learning_rate=0.05,
        too_high=200,
        too_low=1e-3,
        bias=-8,
        rows_moved=5,
        labels_shuffled=0.9,
        rate_in_order=0,
        leaked=0.25,
        few=20,
        few_wrong=0.5,
        decay=0.1,
        loss_is_sum=True,
        is_new=True,
    ),
    "mnist_5k": Clinic(
        activation="tanh",
        units=(48, 32, 32),
        learning_rate=0.05,
        too_high=60,
        too_low=2e-3,
        gain=12,
        labels_shuffled=0.9,
        leaked=0.15,
        leak_noise=0.02,
        few=80,
        decay=0.03,
        loss_is_sum=True,
    ),
    "wine": Clinic(
        activation="tanh",
        units=(32,),
        learning_rate=0.1,
        too_high=300,
        too_low=1e-3,
        gain=30,
        rows_moved=-2,
        rate_in_order=0,
        few=16,
        few_wrong=0.6,
        decay=0.3,
    ),
    "breast_cancer": Clinic(
        activation="relu",
        units=(32, 16, 16),
        learning_rate=0.03,
        too_high=300,
        too_low=1e-2,
        bias=-8,
        labels_shuffled=1.0,
        rate_in_order=0,
        leaked=0.15,
        few=20,
        few_wrong=0.4,
        decay=0.05,
        loss_is_sum=True,
    ),
    "photos": Clinic(
        activation="tanh",
        units=(96, 48),
        learning_rate=0.03,
        too_high=100,
        too_low=3e-3,
        gain=15,
        labels_shuffled=0.9,
        leaked=0.3,
        leak_noise=0.01,
        few=60,
        decay=0.1,
        loss_is_sum=True,
    ),
}


@dataclass
class Patient:
    """One training: what it is fed, and what is wrong with it."""

    fault: str
    x: np.ndarray
    y: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    row: np.ndarray
    """first weights"""
    learning_rate: float
    decay: float = 0.0
    is_softmax_twice: bool = False
    loss_scale: float = 1.0
    is_shuffled: bool = True
    few: int = 0
    """examples that are trained on, from the first; 0: all"""
    curves: dict[str, list[float]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def trained_on(self) -> tuple[np.ndarray, np.ndarray]:
        count = self.few or len(self.x)
        return self.x[:count], self.y[:count]

    @property
    def named(self) -> str:
        """The cause that comes first."""
        return self.findings[0].name if self.findings else HEALTHY


TABLES = ("wine", "breast_cancer")


def load_clinic(name: str, examples: int, seed: int):
    """x, y, x_valid, y_valid, and what x and x_valid are without scaling. The parts are
    the set's own, as parts of one photograph would overlap."""
    if name in TABLES:
        (x, y), (x_valid, y_valid) = data.load_table(name)
    else:
        (x, y), (x_valid, y_valid) = data.load(name, size=8)
    random = np.random.default_rng(seed)
    rows = random.permutation(len(x))[:examples]
    held_out = random.permutation(len(x_valid))[: examples // 3]
    x = x.reshape(len(x), -1)[rows]
    x_valid = x_valid.reshape(len(x_valid), -1)[held_out]
    y = y[rows]
    y_valid = y_valid[held_out]
    if name in TABLES:
        mean = x.mean(axis=0)
        deviation = x.std(axis=0)
        scaled = (x - mean) / deviation, (x_valid - mean) / deviation
        return scaled[0], y, scaled[1], y_valid, x, x_valid
    return x, y, x_valid, y_valid, 255 * x, 255 * x_valid


def plant(clinic: Clinic, parts, random: np.random.Generator) -> list[Patient]:
    """A patient of each fault, and healthy ones at three learning rates."""
    x, y, x_valid, y_valid, raw, raw_valid = parts
    classes = int(y.max()) + 1
    network = build_network(x.shape[1], classes, clinic.activation, clinic.units)
    rate = clinic.learning_rate
    healthy = Patient(
        HEALTHY, x, y, x_valid, y_valid, stacks.row_of(network), learning_rate=rate
    )
    patients = [
        replace(healthy, learning_rate=times * rate) for times in (1, 0.75, 0.5)
    ]
    partly_wrong = shuffle_some(y, clinic.few_wrong, random)
    patients += [
        replace(healthy, fault=TOO_HIGH, learning_rate=clinic.too_high * rate),
        replace(healthy, fault=TOO_LOW, learning_rate=clinic.too_low * rate),
        replace(healthy, fault=OVERFIT, few=clinic.few, y=partly_wrong),
        replace(healthy, fault=UNDERFIT, decay=clinic.decay),
        replace(healthy, fault=NOT_SCALED, x=raw, x_valid=raw_valid),
    ]
    if clinic.rate_in_order:
        by_label = np.argsort(y, kind="stable")
        in_order = replace(healthy, x=x[by_label], y=y[by_label], is_shuffled=False)
        in_order.learning_rate *= clinic.rate_in_order
        patients.append(replace(in_order, fault=NOT_SHUFFLED))
    moved = np.roll(y, clinic.rows_moved)
    moved = shuffle_some(moved, clinic.labels_shuffled, random)
    patients.append(replace(healthy, fault=SHIFTED, y=moved))

    leaked = random.random(len(x_valid)) < clinic.leaked
    taken = random.choice(len(x), leaked.sum())
    x_leaked = x_valid.copy()
    y_leaked = y_valid.copy()
    noise = random.normal(scale=clinic.leak_noise, size=x[taken].shape)
    x_leaked[leaked] = x[taken] + noise
    y_leaked[leaked] = y[taken]
    patients.append(replace(healthy, fault=LEAKAGE, x_valid=x_leaked, y_valid=y_leaked))
    if clinic.loss_is_sum:
        scaled = replace(healthy, loss_scale=BATCH_SIZE, learning_rate=rate / 10)
        patients.append(replace(scaled, fault=WRONG_LOSS))
    else:
        patients.append(replace(healthy, fault=WRONG_LOSS, is_softmax_twice=True))

    first = network.layers[1]
    kernel, bias = first.get_weights()
    if clinic.activation == "relu":
        first.set_weights([kernel, bias + clinic.bias])
        patients.append(replace(healthy, fault=DEAD, row=stacks.row_of(network)))
    else:
        first.set_weights([clinic.gain * kernel, bias])
        patients.append(replace(healthy, fault=SATURATED, row=stacks.row_of(network)))
    return patients


def shuffle_some(
    y: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    changed = y.copy()
    chosen = random.random(len(y)) < share
    changed[chosen] = random.permutation(y[chosen])
    return changed


class Ward:
    """Patients of one clinic, which train at once."""

    def __init__(self, clinic: Clinic, patients: list[Patient]) -> None:
        features = patients[0].x.shape[1]
        classes = int(patients[0].y.max()) + 1
        self.model = build_network(features, classes, clinic.activation, clinic.units)
        self.patients = patients
        self.rows = tf.Variable(np.stack([each.row for each in patients]))
        self.x = tf.constant(np.stack([each.x for each in patients]), "float32")
        self.y = tf.constant(np.stack([each.y for each in patients]))
        valid = np.stack([each.x_valid for each in patients])
        self.x_valid = tf.constant(valid, "float32")
        self.y_valid = tf.constant(np.stack([each.y_valid for each in patients]))
        self.rates = self.column([each.learning_rate for each in patients])
        self.decay = self.column([each.decay for each in patients])
        self.scale = tf.constant([each.loss_scale for each in patients], "float32")
        twice = [each.is_softmax_twice for each in patients]
        self.is_twice = tf.constant(twice)[:, tf.newaxis, tf.newaxis]
        kernels = [np.full(w.shape, len(w.shape) > 1) for w in self.model.weights]
        flat = np.concatenate([kernel.ravel() for kernel in kernels])
        self.is_kernel = tf.constant(flat, "float32")

    @staticmethod
    def column(values: list[float]) -> tf.Tensor:
        return tf.constant(values, "float32")[:, tf.newaxis]

    def losses(self, rows, x, y):
        """As each was told to compute it, (networks,)."""
        logits = stacks.call_each(self.model, rows, x)
        logits = tf.where(self.is_twice, tf.nn.softmax(logits), logits)
        found = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        penalties = tf.reduce_sum(self.is_kernel * rows**2, axis=1)
        means = tf.reduce_mean(found, axis=1)
        return self.scale * means + self.decay[:, 0] * penalties

    @tf.function(jit_compile=True)
    def train_epoch(self, batches):
        """batches: (steps, networks, batch size) rows. Returns the mean losses of the
        batches before their steps, and the validation losses after all, (networks,)."""
        total = tf.zeros(len(self.patients))
        for batch in batches:
            x = tf.gather(self.x, batch, batch_dims=1)
            y = tf.gather(self.y, batch, batch_dims=1)
            with tf.GradientTape() as tape:
                values = tf.identity(self.rows)
                tape.watch(values)
                losses = self.losses(values, x, y)
            total += losses
            self.rows.assign_sub(self.rates * tape.gradient(losses, values))
        steps = tf.cast(tf.shape(batches)[0], "float32")
        return total / steps, self.losses(self.rows, self.x_valid, self.y_valid)

    def train(self, name: str, config: Config, random, run: Run) -> None:
        examples = self.x.shape[1]
        steps = examples // BATCH_SIZE
        epochs = max(config.epochs, 20 * config.epochs // steps)
        recorded = np.zeros((epochs, 2, len(self.patients)), "float32")
        state = {"all": [self.rows, recorded, random]}
        title = f"{len(self.patients)} networks, {name}"
        for epoch in run.loop(title, epochs, state, unit="epochs"):
            orders = [
                self.order(each, steps * BATCH_SIZE, random) for each in self.patients
            ]
            shape = len(self.patients), steps, BATCH_SIZE
            batches = np.reshape(orders, shape).swapaxes(0, 1)
            recorded[epoch] = self.train_epoch(tf.constant(batches))
        for index, patient in enumerate(self.patients):
            patient.curves = {
                "loss": recorded[:, 0, index].tolist(),
                "val_loss": recorded[:, 1, index].tolist(),
            }
            patient.row = self.rows[index].numpy()

    @staticmethod
    def order(patient: Patient, count: int, random) -> np.ndarray:
        """Rows in the order in which a patient is fed them."""
        if not patient.is_shuffled:
            return np.arange(count)
        if patient.few:
            return random.integers(patient.few, size=count)
        return random.permutation(len(patient.x))[:count]


@functools.cache
def network_of(
    features: int, classes: int, clinic: Clinic, output: str | None, decay: float
) -> keras.Model:
    """The same one for all patients that differ in weights only: traced once."""
    activation, units = clinic.activation, clinic.units
    return build_network(features, classes, activation, units, output, decay)


def model_of(patient: Patient, clinic: Clinic) -> keras.Model:
    """As its owner would have written it."""
    classes = int(patient.y.max()) + 1
    output = "softmax" if patient.is_softmax_twice else None
    model = network_of(patient.x.shape[1], classes, clinic, output, patient.decay)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(patient.learning_rate * patient.loss_scale)
    model.compile(optimizer, loss)
    stacks.set_weights(model, patient.row)
    return model


def diagnose_all(name: str, config: Config, run: Run) -> list[Patient]:
    """Trains the patients of a clinic, and asks the doctor."""
    clinic = CLINICS[name]
    random = np.random.default_rng(run.seed)
    patients: list[Patient] = []
    for start in range(config.starts):
        seed = 100 * run.seed + start
        patients += plant(clinic, load_clinic(name, config.examples, seed), random)
    Ward(clinic, patients).train(name, config, random, run)
    for patient in run.track(patients, f"diagnoses, {name}"):
        x, y = patient.trained_on
        patient.findings = diagnose(
            patient.curves,
            model_of(patient, clinic),
            x,
            y,
            x_valid=patient.x_valid,
            y_valid=patient.y_valid,
        )
    return patients


def judge_diagnoses(
    patients: list[Patient], where: str, wanted: float, allowed: float, run: Run
) -> None:
    """wanted: the share of faults to be named. allowed: of the healthy to alarm."""
    ill = [each for each in patients if each.fault != HEALTHY]
    healthy = [each for each in patients if each.fault == HEALTHY]
    named = sum(each.named == each.fault for each in ill)
    alarms = sum(each.named != HEALTHY for each in healthy)
    words = where.replace(" ", "_")
    run.metric(f"faults_named_{words}", named / len(ill))
    run.metric(f"false_alarms_{words}", alarms / len(healthy))
    run.claim(
        f"The doctor names at least {wanted:.0%} of the planted faults, on {where}, and "
        "leaves the healthy alone",
        holds=named >= wanted * len(ill) and alarms <= allowed * len(healthy),
        measured=f"{named} of {len(ill)} faults named first ({wanted:.0%} wanted), "
        f"{alarms} of {len(healthy)} healthy trainings alarmed ({allowed:.0%} "
        "allowed)",
    )


def show_misses(patients: dict[str, list[Patient]], run: Run) -> None:
    for name, of_clinic in patients.items():
        for each in of_clinic:
            if each.named != each.fault:
                run.print(f"{name}, {each.fault}: named {each.named}")


def judge_before_training(patients: list[Patient], run: Run) -> None:
    """The three checks, on untrained patients of the first clinic."""
    clinic = next(iter(CLINICS.values()))
    batch_losses: dict[str, float] = {}
    ratios: dict[str, float] = {}
    initial: dict[str, float] = {}
    blind = (SHIFTED, NOT_SHUFFLED)
    seen = (TOO_LOW, TOO_HIGH, DEAD, NOT_SCALED)
    kinds = {each.fault: each for each in patients[::-1]}
    for fault in (HEALTHY, *blind, *seen):
        patient = kinds[fault]
        model = model_of(patient, clinic)
        x, y = patient.x, patient.y
        rows = np.random.default_rng(run.seed).choice(len(x), BATCH_SIZE)
        batch_losses[fault] = overfit_one_batch(model, x[rows], y[rows])
        ratio = update_ratios(model, x[rows], y[rows], patient.learning_rate)
        ratios[fault] = float(np.median(list(ratio.values())))
        initial[fault] = float(cross_entropies(model, x, y).mean())
    log_of_classes = np.log(int(patients[0].y.max()) + 1)
    run.metric("first_loss", initial[HEALTHY], unit="nats")
    run.metric("log_of_classes", log_of_classes, unit="nats")
    run.metrics("update_ratio", {name: ratios[name] for name in (HEALTHY, TOO_LOW)})
    run.claim(
        "The first loss of K classes is -log(1/K); it tells that inputs are not scaled",
        holds=abs(initial[HEALTHY] / log_of_classes - 1) < 0.3
        and initial[NOT_SCALED] > 3 * log_of_classes,
        measured=f"-log(1/K) is {log_of_classes:.2f}; healthy {initial[HEALTHY]:.2f}, "
        f"{NOT_SCALED} {initial[NOT_SCALED]:.3g}",
    )
    learned = [batch_losses[name] for name in (HEALTHY, *blind)]
    stuck = [batch_losses[name] for name in seen]
    run.claim(
        "A healthy network learns one batch by heart, a broken one does not; but wrong "
        "labels are learned as well",
        holds=max(learned) < 0.4 and not min(stuck) < 0.8,
        measured=f"loss after {STEPS_ON_ONE} steps on {BATCH_SIZE} digits: "
        + ", ".join(f"{name} {loss:.2g}" for name, loss in batch_losses.items()),
    )
    run.claim(
        "Where the rate is good a first update is about a hundredth of the weights, more "
        "than the often quoted thousandth; far less where the rate is too low",
        holds=2e-3 < ratios[HEALTHY] < 5e-2 and ratios[TOO_LOW] < 1e-4,
        measured=f"healthy {ratios[HEALTHY]:.2g}, {TOO_LOW} {ratios[TOO_LOW]:.2g}",
    )


WIDTHS = (4, 64)
ROUGH_RATE = 0.3  # at which few neurons do not learn smoothly


def try_widths(config: Config, run: Run) -> dict[int, np.ndarray]:
    """Training losses by epoch, (epochs, starts), of networks of one hidden layer, by
    its width."""
    parts = load_clinic("digits", config.examples, run.seed)
    x, y, x_valid, y_valid, _, _ = parts
    found = {}
    for width in WIDTHS:
        clinic = replace(CLINICS["digits"], units=(width,))
        patients = []
        for _ in range(4 * config.starts):
            row = stacks.row_of(build_network(x.shape[1], 10, "relu", (width,)))
            patients.append(
                Patient(HEALTHY, x, y, x_valid, y_valid, row, learning_rate=ROUGH_RATE)
            )
        random = np.random.default_rng(run.seed)
        Ward(clinic, patients).train(f"{width} hidden", config, random, run)
        found[width] = np.transpose([each.curves["loss"] for each in patients])
    return found


def roughness(losses: np.ndarray) -> float:
    """By how much the loss rises in all epochs in which it does, in nats. losses:
    (epochs, starts)."""
    rises = np.maximum(np.diff(losses, axis=0), 0)
    return float(rises.sum(axis=0).mean())


def judge_widths(losses: dict[int, np.ndarray], run: Run) -> None:
    rough = {f"{width} hidden": roughness(each) for width, each in losses.items()}
    run.metrics("rises_of_the_loss", rough, unit="nats")
    run.compare(
        "A loss that does not fall smoothly is helped by more hidden neurons, at the same "
        f"learning rate of {ROUGH_RATE}: its rises are smaller",
        rough,
        more=f"{WIDTHS[0]} hidden",
        less=f"{WIDTHS[-1]} hidden",
        times=3,
    )


def draw_table(patients: dict[str, list[Patient]]) -> plt.Figure:
    """Planted faults by the ones named, known clinics beside new ones."""
    names = [*ADVICE, HEALTHY]
    figure, grid = plt.subplots(1, 2, figsize=(15, 6.5))
    for axes, is_new in zip(grid, (False, True), strict=True):
        shown = [
            each
            for clinic, of_clinic in patients.items()
            if CLINICS[clinic].is_new == is_new
            for each in of_clinic
        ]
        counts = np.zeros((len(names), len(names)))
        for each in shown:
            counts[names.index(each.fault), names.index(each.named)] += 1
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1.3)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(column, row, f"{count:.0f}", ha="center", va="center")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        title = "Data the doctor had never seen" if is_new else "Data it was made for"
        axes.set(title=title, xlabel="named first", ylabel="planted")
    return figure


def draw_curves(patients: list[Patient]) -> plt.Figure:
    """A picture of each kind."""
    kinds = {each.fault: each for each in patients[::-1]}
    figure, grid = plt.subplots(3, 4, figsize=(13, 8), sharex=True, sharey=True)
    for axes, (fault, patient) in zip(grid.flat, kinds.items(), strict=False):
        for name, label, style in (
            ("loss", "training", "-"),
            ("val_loss", "validation", "--"),
        ):
            losses = np.nan_to_num(patient.curves[name], nan=1e6, posinf=1e6)
            epochs = np.arange(1, len(losses) + 1)
            axes.plot(epochs, np.clip(losses, 1e-3, 1e6), style, label=label)
        axes.set(title=fault, yscale="log", ylim=(5e-3, 50))
    for axes in grid.flat[len(kinds) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss (nats)")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def main(config: Config, run: Run) -> None:
    names = list(CLINICS)[: config.clinics]
    run.plan(len(names) + len(WIDTHS))
    keras.utils.set_random_seed(run.seed)
    first_clinic = names[0]
    patients = {name: diagnose_all(name, config, run) for name in names}
    for is_new, where, wanted, allowed in (
        (False, "data it was made for", 0.85, 0.15),
        (True, "new data", 0.6, 0.25),
    ):
        of_kind = [
            each
            for name, of_clinic in patients.items()
            if CLINICS[name].is_new == is_new
            for each in of_clinic
        ]
        if of_kind:
            judge_diagnoses(of_kind, where, wanted, allowed, run)
    show_misses(patients, run)
    run.figure("table", draw_table(patients))
    run.figure("loss_curves", draw_curves(patients[first_clinic]))

    parts = load_clinic(first_clinic, config.examples, run.seed)
    random = np.random.default_rng(run.seed)
    judge_before_training(plant(CLINICS[first_clinic], parts, random), run)
    losses = try_widths(config, run)
    judge_widths(losses, run)
    lines = {f"{width} hidden": each for width, each in losses.items()}
    run.figure(
        "widths",
        figures.panels(
            figures.Panel(
                title="Training loss by hidden neurons",
                xlabel="epoch",
                ylabel="nats",
                lines=lines,
                yscale="log",
            )
        ),
    )

    healthy = patients[first_clinic][0]
    model = model_of(healthy, CLINICS[first_clinic])
    answers = predict(model, healthy.x_valid).argmax(axis=1)
    run.metric("validation_accuracy", np.mean(answers == healthy.y_valid))
    run.export(serving.classifier(model), example=healthy.x_valid[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
