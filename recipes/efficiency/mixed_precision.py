"""Mixed precision: compute in 16 bits, keep the weights in 32.

Most of a network's arithmetic stands 16 bits well, which halves the memory of
activations and, on hardware with 16-bit units, multiplies the speed. Two things do not.
A step of η·g is often less than half the distance between neighboring float16 numbers,
so w − η·g rounds back to w: the weights stay in float32. And gradients below 6·10⁻⁸ are
0 in float16: the loss is multiplied by a large scale, whose gradients are divided by it
in float32 before the step. bfloat16 has float32's exponents, so it needs no scale, and
three decimal digits less one.
Look at the gradients that vanish without the scale, and at weights that 16 bits stop
from learning.

Lectures: CS Efficient Methods and Hardware (Mixed Precision Training)
Paper: Micikevicius et al., Mixed precision training, 2018 (sections 3.1 and 3.2)
Tags: fp16, float16, bfloat16, half precision, amp, loss scaling
"""

import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), mnist / fashion_mnist where Keras can download or has cached
    them, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    units: int = 256
    """width of the two hidden layers"""
    restarts: int = 3
    """random starts with each precision; accuracies are their means"""
    epochs: int = 40
    """passes over the training images"""
    batch_size: int = 64
    """examples a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""
    small_steps: int = 400
    """steps of plain gradient descent with weights in 16 and in 32 bits"""


QUICK = Config(restarts=2, epochs=12, small_steps=150)
FULL = Config(data="mnist", units=1024, epochs=10)

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
LOSS_SCALE = 1024.0  # of the descent in small steps

# --------------------------------------------------------------------------------------
# The idea: 16 bits to compute with, a scaled loss, weights in 32 bits
# --------------------------------------------------------------------------------------


def build_model(inputs: int, units: int, policy: str, classes: int = 10) -> keras.Model:
    """A dense classifier under a dtype policy. Input: (batch, inputs). Output: (batch,
    classes) logits, float32 under every mixed policy: a softmax over 16-bit logits
    would lose digits."""
    x = keras.Input((inputs,), name="x")
    hidden = x
    for name in ("hidden_1", "hidden_2"):
        hidden = layers.Dense(units, "relu", dtype=policy, name=name)(hidden)
    output_type = policy if policy in ("float16", "bfloat16") else "float32"
    logits = layers.Dense(classes, dtype=output_type, name="logits")(hidden)
    return keras.Model(x, logits, name=policy.replace("_", "-"))


def compile_classifier(
    model: keras.Model, policy: str, learning_rate: float
) -> keras.Model:
    optimizer = keras.optimizers.Adam(learning_rate)
    if policy == "mixed_float16":
        # `compile` does so by itself where the whole model has this policy.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def cross_entropy(y, logits):
    """Mean over the batch, in float32."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss_of(y, ops.cast(logits, "float32"))


def scaled_gradients(model: keras.Model, x, y, scale: float):
    """The loss, and the gradients of `scale` times the loss, in float32. What lay below
    the smallest number of 16 bits on the way back has become 0."""
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x))
        scaled = loss * scale
    gradients = tape.gradient(scaled, model.trainable_variables)
    return loss, [ops.cast(gradient, "float32") for gradient in gradients]


def vanished_share(model: keras.Model, x, y, smallness: float, scale: float) -> float:
    """The share of gradients that came out as 0, of those that are not 0 in float32.

    smallness: a factor of the loss, for networks whose gradients are that much smaller.
    scale: what the loss is multiplied by for the backward pass (1: no loss scaling).
    """
    units = model.get_layer("hidden_1").units
    exact = build_model(x.shape[1], units, "float32", model.output_shape[-1])
    exact.set_weights(model.get_weights())
    _, rounded = scaled_gradients(model, x, y, smallness * scale)
    _, reference = scaled_gradients(exact, x, y, smallness)
    there = flat(reference) != 0
    unscaled = flat(rounded) / scale
    return float(np.mean(unscaled[there] == 0))


def flat(arrays: list) -> np.ndarray:
    return np.concatenate([np.ravel(each) for each in arrays])


@tf.function
def small_step(model: keras.Model, x, y, learning_rate: float, scale: float):
    """Plain gradient descent; the weights are as exact as they are stored. Returns the
    loss before."""
    loss, gradients = scaled_gradients(model, x, y, scale)
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        change = learning_rate * gradient / scale
        weight.assign_sub(ops.cast(change, weight.dtype))
    return loss


def descend(
    weights_in: str,
    x,
    y,
    units: int,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    classes: int = 10,
):
    """Full-batch gradient descent in small steps, forward and backward pass in 16 bits,
    with the weights in 16 or in 32 bits. Returns the losses (steps,) and the share of
    weights that never moved.

    weights_in: float16, or float32 for the master weights of mixed precision. Both
        start from the same weights, which 16 bits hold exactly.
    """
    keras.utils.set_random_seed(seed)
    start = build_model(x.shape[1], units, "float32", classes).get_weights()
    start = [weight.astype("float16") for weight in start]

    policy = "float16" if weights_in == "float16" else "mixed_float16"
    model = build_model(x.shape[1], units, policy, classes)
    model.set_weights(start)
    losses = []
    for _ in range(steps):
        losses.append(float(small_step(model, x, y, learning_rate, LOSS_SCALE)))

    kernels = [weight for weight in model.get_weights() if weight.ndim == 2]
    kernels_before = [weight for weight in start if weight.ndim == 2]
    still = flat(kernels) == flat(kernels_before)
    return losses, float(np.mean(still))


# --------------------------------------------------------------------------------------
# The experiment: three precisions, vanishing gradients, and steps that round to nothing
# --------------------------------------------------------------------------------------

POWERS = range(0, 17, 4)  # of 2, the loss scales that are tried
SMALLNESS = 1e-4  # of the loss whose gradients are looked at
SMALL_RATE = 3e-3


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    config: Config
    run: Run

    def build(self, policy: str) -> keras.Model:
        return build_model(self.x.shape[1], self.config.units, policy, self.classes)


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    return Task(x, y, x_test, y_test, classes, config, run)


def activation_bytes(model: keras.Model, x: np.ndarray) -> int:
    """Bytes that the hidden layers' outputs for a batch take until the backward
    pass."""
    outputs = [
        layer.output for layer in model.layers if layer.name.startswith("hidden")
    ]
    total = 0
    for each in keras.Model(model.input, outputs)(x):
        total += each.dtype.size * int(tf.size(each))
    return total


@dataclass
class Trained:
    """What one precision came to."""

    accuracy: float
    """on held-out data, the mean of the restarts"""
    bytes: int
    """of the hidden layers' outputs for a batch"""
    images_a_second: float
    model: keras.Model
    """of the last restart"""


def train(policy: str, starts: list[int], task: Task) -> Trained:
    """starts: seeds, the same for each precision, of weights and batches."""
    config = task.config
    accuracies = []
    for start in starts:
        keras.utils.set_random_seed(start)
        model = compile_classifier(task.build(policy), policy, config.learning_rate)
        started = time.perf_counter()
        history = training.fit(
            model,
            task.x,
            task.y,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_data=(task.x_test, task.y_test),
            callbacks=task.run.callbacks,
        ).history
        seconds = time.perf_counter() - started
        accuracies.append(history["val_accuracy"][-1])
    return Trained(
        float(np.mean(accuracies)),
        activation_bytes(model, task.x[: config.batch_size]),
        config.epochs * len(task.x) / seconds,
        model,
    )


def vanished_by_scale(trained: dict[str, Trained], task: Task) -> dict[str, list]:
    """Shares of gradients that became 0, by precision, for each of `POWERS`."""
    x = task.x[: task.config.batch_size]
    y = task.y[: task.config.batch_size]
    shares = {}
    for policy in POLICIES[1:]:
        model = trained[policy].model
        shares[policy.removeprefix("mixed_")] = [
            vanished_share(model, x, y, SMALLNESS, 2.0**power) for power in POWERS
        ]
    return shares


@dataclass
class Descent:
    losses: list[float]
    still: float
    """share of the weights that never moved"""

    @property
    def learned(self) -> float:
        return self.losses[0] - self.losses[-1]


def descend_in_both(task: Task) -> dict[str, Descent]:
    """Small steps with weights in 32 and in 16 bits."""
    found = {}
    for dtype in ("float32", "float16"):
        losses, still = descend(
            dtype,
            task.x[:256],
            task.y[:256],
            task.config.units,
            task.config.small_steps,
            SMALL_RATE,
            task.run.seed,
            task.classes,
        )
        found[dtype] = Descent(losses, still)
    return found


def judge_accuracy(trained: dict[str, Trained], run: Run) -> None:
    full = trained["float32"].accuracy
    differences = [abs(each.accuracy - full) for each in trained.values()]
    found = [f"{policy} {each.accuracy:.4f}" for policy, each in trained.items()]
    run.claim(
        "Many operations can be performed in 16 bits with little change in accuracy",
        holds=max(differences) < 0.01,
        measured=", ".join(found),
    )


def judge_memory(trained: dict[str, Trained], run: Run) -> None:
    whole = trained["float32"].bytes
    shares = {trained[policy].bytes / whole for policy in POLICIES[1:]}
    kinds = set()
    for each in trained.values():
        kinds.update(weight.dtype for weight in each.model.weights)
    run.claim(
        "Activations take half the memory, while every variable stays in 32 bits",
        any_data=True,
        holds=shares == {0.5} and kinds == {"float32"},
        measured=f"{whole:,} bytes a batch in 32 bits, "
        f"{trained['mixed_float16'].bytes:,} in 16; variables: "
        f"{', '.join(sorted(kinds))}",
    )


def judge_scale(vanished: dict[str, list], run: Run) -> None:
    without = vanished["float16"][0]
    scaled = vanished["float16"][-1]
    brain = vanished["bfloat16"][0]
    run.claim(
        "Small gradients vanish in float16 and come back with a scaled loss; bfloat16 "
        "needs none",
        holds=without > 0.2 and scaled < without / 4 and brain < 0.01,
        measured="gradients of a 10,000th of the loss that are 0: float16 "
        f"{without:.1%}, with a scale of 2^{POWERS[-1]} {scaled:.1%}, bfloat16 "
        f"{brain:.1%}",
    )


def judge_weights(descents: dict[str, Descent], run: Run) -> None:
    master = descents["float32"]
    rounded = descents["float16"]
    run.claim(
        "Weights must be kept in 32 bits: in 16, small steps round to none",
        holds=rounded.still > 0.3 and rounded.learned < 0.8 * master.learned,
        measured=f"{rounded.still:.0%} of the 16-bit weights never moved; the loss "
        f"fell by {rounded.learned:.3f}, with 32-bit weights by {master.learned:.3f}",
    )


def draw_findings(vanished: dict[str, list], descents: dict[str, Descent]) -> Figure:
    gradients = figures.Panel(
        title="Small gradients need a scale in float16",
        xlabel="loss scale, as a power of 2",
        ylabel="% of gradients that became 0",
        lines={
            name: (POWERS, 100 * np.array(shares)) for name, shares in vanished.items()
        },
        xticks=POWERS,
    )
    steps = figures.Panel(
        title="Small steps need weights in 32 bits",
        xlabel="step",
        ylabel="training loss in nats",
        lines={f"weights in {dtype}": each.losses for dtype, each in descents.items()},
    )
    return figures.panels(gradients, steps)


def main(config: Config, run: Run) -> None:
    run.plan(len(POLICIES) * config.restarts)
    task = load_task(config, run)

    # The same trainings in each precision: the same starts, the same batches.
    random = np.random.default_rng(run.seed)
    starts = random.integers(2**31, size=config.restarts).tolist()
    trained = {policy: train(policy, starts, task) for policy in POLICIES}
    for policy, each in trained.items():
        run.metric(f"{policy}_test_accuracy", each.accuracy)
        run.metric(f"{policy}_activation_bytes", each.bytes, unit="bytes a batch")
        rate = each.images_a_second
        run.metric(f"{policy}_images_a_second", rate, unit="1/s", timing=True)

    # What rounds to nothing: gradients without a scale, steps without 32-bit weights.
    vanished = vanished_by_scale(trained, task)
    descents = descend_in_both(task)

    judge_accuracy(trained, run)
    judge_memory(trained, run)
    judge_scale(vanished, run)
    judge_weights(descents, run)
    run.figure("findings", draw_findings(vanished, descents))

    # The weights serve in any precision.
    served = task.build("float32")
    served.set_weights(trained["mixed_float16"].model.get_weights())
    run.export(serving.classifier(served), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
