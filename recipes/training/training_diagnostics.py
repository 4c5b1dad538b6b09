"""Training diagnostics: a doctor for networks that do not learn.

Most failed trainings fail in a few ways, and each leaves its marks: in the loss curve,
in the data, in the hidden units, in the size of the updates. `diagnose` looks for them
in that order and says what it found, by which evidence, and what to try. Three checks
come before any training: the first loss of K classes is −log(1/K); a network can learn
one batch by heart; an update is about a thousandth of the weights.
Look at the loss curves of ten planted faults, and at the table of which were named, on
data that the doctor was made for and on others.

Lectures: ICME Tips for training, Overfitting and underfitting; N18 1.2.8 Debug on Small
    Dataset; CS Optimization; SEL Activations
Paper: Karpathy, A recipe for training neural networks, 2019 (checks before training);
    Stanford CS231n, Notes on learning and evaluation (ratio of updates to weights)
Tags: debugging, learning curve, overfit one batch, dead units, saturation, loss curve,
    data leakage, underfitting
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from deep_learning_recipes import data, figures, serving
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.training import stacks


@dataclass
class Config:
    starts: int = 3
    """networks of each fault and data set"""
    epochs: Annotated[int, Interval(ge=20)] = 30
    """passes over the training data, more where there are few"""
    clinics: Annotated[int, Interval(ge=1, le=4)] = 4
    """data sets, each with a network of its own"""


QUICK = Config(starts=1, epochs=20, clinics=2)
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
    x, y = np.asarray(x, "float32"), np.asarray(y)
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
    if np.all(np.isfinite(predict(model, x))):
        findings += look_at_order(model, x, y)
        findings += look_at_loss(curves, model, x, y)
        findings += look_at_units(model, x)
        findings += look_at_curves(curves, model, x, y)
    else:
        findings.append(Finding(TOO_HIGH, "the outputs are no numbers any more"))
    return findings


def check_arguments(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"outputs of shape (batch, classes) are wanted, not {shape}")
    if y.shape != (len(x),) or not 0 <= y.min() <= y.max() < shape[1]:
        raise ValueError(f"one label from 0 to {shape[1] - 1} for each input is wanted")
    if not model.compiled:
        raise ValueError("the model has to be compiled as it was trained")


MOST = 1000  # examples are enough for most looks


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
    scale = np.where(deviation > 1e-6, deviation, 1)
    return (x.reshape(len(x), -1) - flat.mean(axis=0)) / scale


def neighbors_answers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the nearest other examples say of each, (examples,)."""
    columns = columns_of(x, x)
    count = min(NEIGHBORS + 1, len(x))
    found = NearestNeighbors(n_neighbors=count).fit(columns)
    _, rows = found.kneighbors(columns)
    votes = np.eye(y.max() + 1)[y[rows[:, 1:]]]
    return votes.sum(axis=1).argmax(axis=1)


def beyond_chance(answers: np.ndarray, y: np.ndarray) -> float:
    """The share of right answers, scaled so that chance is 0 and all is 1."""
    shares = np.bincount(y) / len(y)
    chance = np.sum(shares**2)
    return float((np.mean(answers == y) - chance) / max(1 - chance, 1e-6))


UNRELATED = 0.2  # of the way from chance to all


def look_at_labels(x: np.ndarray, y: np.ndarray, valid) -> list[Finding]:
    """Whether neighbors have the same label."""
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
    neighbors = KNeighborsClassifier(NEIGHBORS).fit(columns_of(some, some), labels)
    answers = neighbors.predict(columns_of(x_valid, some))
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
    columns = columns_of(x, x)
    nearest = NearestNeighbors(n_neighbors=2).fit(columns)
    among_themselves = nearest.kneighbors(columns[:MOST])[0][:, 1]
    to_training = nearest.kneighbors(columns_of(x_valid, x), n_neighbors=1)[0][:, 0]
    # Copies lie far nearer than examples lie to each other.
    near = 0.2 * np.median(among_themselves)
    usual = np.mean(among_themselves <= near)
    copies = np.mean(to_training <= near)
    if copies > usual + 0.02:
        evidence = f"{copies:.0%} of the validation examples are copies of training ones"
        return [Finding(LEAKAGE, evidence)]
    return []


def look_at_order(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[Finding]:
    """Whether labels come in blocks, and the last ones are known best."""
    shares = np.bincount(y) / len(y)
    chance = np.sum(shares**2)
    in_blocks = (np.mean(y[1:] == y[:-1]) - chance) / max(1 - chance, 1e-6)
    if in_blocks < 0.5:
        return []
    losses = cross_entropies(model, x, y)
    quarter = max(len(losses) // 4, 1)
    first, last = losses[:quarter].mean(), losses[-quarter:].mean()
    if first < 2 * last or first < 0.1 * chance_loss(y):
        return []
    evidence = (
        f"labels come in blocks, and the loss is {first:.2g} on the first quarter, "
        f"{last:.2g} on the last"
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
    is_steady = np.all(losses[1:] < 1.2 * losses[:-1])
    if is_steady and losses[-1] > 5 * max(own, 0.01 * chance_loss(y)):
        evidence = f"{losses[-1]:.3g} was recorded last, the mean is {own:.3g}"
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
            if share > 0.5:
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
STEPS_TO_TRY = 20


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


def look_at_curves(
    curves: Mapping[str, Sequence[float]],
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
) -> list[Finding]:
    """Learning rate, overfit, underfit."""
    losses = np.asarray(curves["loss"])
    chance = chance_loss(y)
    own = float(cross_entropies(model, x, y).mean())
    has_learned = own < 0.1 * chance
    if not has_learned:
        if not np.all(np.isfinite(losses)) or losses[1:].max(initial=0) > 1.5 * chance:
            evidence = f"the loss was {losses.max():.3g}, knowing nothing is {chance:.3g}"
            return [Finding(TOO_HIGH, evidence)]
        after = what_if(model, x, y)
        best = min(after, key=after.get)
        if after[best] < 0.9 * after[1.0] - 0.03 * chance:
            evidence = (
                f"some steps at {best:g} times the rate give {after[best]:.3g}, at the "
                f"same {after[1.0]:.3g}"
            )
            return [Finding(TOO_HIGH if best < 1 else TOO_LOW, evidence)]

        answers = predict(model, x).argmax(axis=1)
        rivals = neighbors_answers(*some_of(x, y))
        rival = np.mean(rivals == some_of(x, y)[1])
        accuracy = np.mean(answers == y)
        if rival > accuracy + 0.03:
            evidence = (
                f"{accuracy:.0%} right on the training data, {NEIGHBORS} neighbors "
                f"would be {rival:.0%}"
            )
            return [Finding(UNDERFIT, evidence)]

    validation = np.asarray(curves.get("val_loss", []))
    if len(validation) > 2:
        lowest = validation.min()
        has_risen = validation[-3:].min() > 1.2 * lowest
        if has_risen and validation[-3:].min() > 3 * own:
            evidence = (
                f"validation loss {lowest:.3g} in epoch {validation.argmin() + 1}, "
                f"{validation[-1]:.3g} at the end, training loss {own:.3g}"
            )
            return [Finding(OVERFIT, evidence)]
    return []


def overfit_one_batch(
    model: keras.Model, x: np.ndarray, y: np.ndarray, steps: int = 100
) -> float:
    """The last loss of a training on the same few examples: near 0, or something keeps
    the network from learning. The model's weights are the same afterwards."""
    everything = np.arange(len(x))
    return losses_of_steps(model, x, y, [everything] * steps)[-1]


def update_ratios(
    model: keras.Model, x: np.ndarray, y: np.ndarray, learning_rate: float
) -> dict[str, float]:
    """How long a step of plain gradient descent is, of the length of the weights, by
    kernel: about 1/1000 is usual."""
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
    logits = layers.Dense(
        classes, output, kernel_regularizer=penalty, name="logits"
    )(hidden)
    return keras.Model(x, logits, name="network")
