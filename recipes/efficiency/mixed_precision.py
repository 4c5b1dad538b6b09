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
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving, training
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


def build_model(inputs: int, units: int, policy: str, classes: int = 10) -> keras.Model:
    """A dense classifier under a dtype policy. Input: (batch, inputs). Output: (batch,
    classes) logits, float32 under every mixed policy: a softmax over 16-bit logits
    would lose digits."""
    x = hidden = keras.Input((inputs,), name="x")
    for index in range(2):
        hidden = layers.Dense(units, "relu", dtype=policy, name=f"hidden_{index + 1}")(
            hidden
        )
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


def activation_bytes(model: keras.Model, x: np.ndarray) -> int:
    """Bytes that the hidden layers' outputs for a batch take until the backward
    pass."""
    outputs = [
        layer.output for layer in model.layers if layer.name.startswith("hidden")
    ]
    return sum(
        each.dtype.size * int(tf.size(each))
        for each in keras.Model(model.input, outputs)(x)
    )


def vanished_share(model: keras.Model, x, y, smallness: float, scale: float) -> float:
    """The share of gradients that came out as 0, of those that are not 0 in float32.

    smallness: a factor of the loss, for networks whose gradients are that much smaller.
    scale: what the loss is multiplied by for the backward pass (1: no loss scaling).
    """
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def gradients(network, factor):
        with tf.GradientTape() as tape:
            loss = loss_of(y, network(x)) * factor
        return [
            ops.cast(g, "float32")
            for g in tape.gradient(loss, network.trainable_variables)
        ]

    units = model.get_layer("hidden_1").units
    exact = build_model(x.shape[1], units, "float32", model.output_shape[-1])
    exact.set_weights(model.get_weights())
    rounded = (
        np.concatenate([np.ravel(g) for g in gradients(model, smallness * scale)])
        / scale
    )
    reference = np.concatenate([np.ravel(g) for g in gradients(exact, smallness)])
    there = reference != 0
    return float(np.mean(rounded[there] == 0))


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
    with the weights in 16 or in 32 bits. Returns the losses (steps,) and the weights
    that never moved.

    weights_in: float16, or float32 for the master weights of mixed precision.
    """
    keras.utils.set_random_seed(seed)
    policy = "float16" if weights_in == "float16" else "mixed_float16"
    model = build_model(x.shape[1], units, policy, classes)
    before = model.get_weights()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    scale = 1024.0

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(y, ops.cast(model(x), "float32"))
            scaled = loss * scale
        for weight, gradient in zip(
            model.trainable_variables,
            tape.gradient(scaled, model.trainable_variables),
            strict=True,
        ):
            change = learning_rate * ops.cast(gradient, "float32") / scale
            weight.assign_sub(ops.cast(change, weight.dtype))
        return loss

    losses = [float(step()) for _ in range(steps)]
    kernels = [
        (a, b) for a, b in zip(before, model.get_weights(), strict=True) if a.ndim == 2
    ]
    return losses, float(
        np.mean(np.concatenate([(a == b).ravel() for a, b in kernels]))
    )


def plot_findings(
    vanished: dict[str, list[float]], powers, descents: dict
) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    for name, shares in vanished.items():
        left.plot(powers, [100 * share for share in shares], marker="o", label=name)
    left.set(
        xlabel="loss scale, as a power of 2", ylabel="% of gradients that became 0"
    )
    left.set_title("Small gradients need a scale in float16")
    left.legend()
    for name, (losses, _) in descents.items():
        right.plot(losses, label=name)
    right.set(
        xlabel="step",
        ylabel="training loss",
        title="Small steps need weights in 32 bits",
    )
    right.legend()
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(len(POLICIES) * config.restarts)
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    inputs = x_train.shape[1]

    # The same trainings in each precision: the same starts, the same batches.
    starts = np.random.default_rng(run.seed).integers(2**31, size=config.restarts)
    accuracy, bytes_of, models = {}, {}, {}
    for policy in POLICIES:
        accuracies = []
        for start in starts:
            keras.utils.set_random_seed(int(start))
            model = build_model(inputs, config.units, policy, classes)
            compile_classifier(model, policy, config.learning_rate)
            started = time.perf_counter()
            history = training.fit(
                model,
                x_train,
                y_train,
                epochs=config.epochs,
                batch_size=config.batch_size,
                validation_data=(x_test, y_test),
                callbacks=run.callbacks,
            ).history
            accuracies.append(history["val_accuracy"][-1])
        models[policy] = model
        accuracy[policy] = float(np.mean(accuracies))
        bytes_of[policy] = activation_bytes(model, x_train[: config.batch_size])
        rate = config.epochs * len(x_train) / (time.perf_counter() - started)
        run.metric(f"{policy}_test_accuracy", accuracy[policy])
        run.metric(f"{policy}_activation_bytes", bytes_of[policy], unit="bytes a batch")
        run.metric(f"{policy}_images_a_second", rate, unit="1/s", timing=True)

    # What rounds to nothing: gradients without a scale, steps without 32-bit weights.
    powers, batch = range(0, 17, 4), slice(config.batch_size)
    vanished = {
        policy.removeprefix("mixed_"): [
            vanished_share(
                models[policy], x_train[batch], y_train[batch], 1e-4, 2.0**power
            )
            for power in powers
        ]
        for policy in POLICIES[1:]
    }
    descents = {
        f"weights in {dtype}": descend(
            dtype,
            x_train[:256],
            y_train[:256],
            config.units,
            config.small_steps,
            3e-3,
            run.seed,
            classes,
        )
        for dtype in ("float32", "float16")
    }
    run.figure("findings", plot_findings(vanished, powers, descents))

    run.claim(
        "Many operations can be performed in 16 bits with little change in accuracy",
        holds=all(
            abs(accuracy[policy] - accuracy["float32"]) < 0.01 for policy in POLICIES
        ),
        measured=", ".join(f"{policy} {accuracy[policy]:.4f}" for policy in POLICIES),
    )
    halves = {bytes_of[policy] / bytes_of["float32"] for policy in POLICIES[1:]}
    kinds = {weight.dtype for policy in POLICIES for weight in models[policy].weights}
    run.claim(
        "Activations take half the memory, while every variable stays in 32 bits",
        any_data=True,
        holds=halves == {0.5} and kinds == {"float32"},
        measured=f"{bytes_of['float32']:,} bytes a batch in 32 bits, "
        f"{bytes_of['mixed_float16']:,} in 16; variables: {', '.join(sorted(kinds))}",
    )
    without, with_scale = vanished["float16"][0], vanished["float16"][-1]
    run.claim(
        "Small gradients vanish in float16 and come back with a scaled loss; bfloat16 needs none",
        holds=without > 0.2
        and with_scale < without / 4
        and vanished["bfloat16"][0] < 0.01,
        measured=f"gradients of a 10,000th of the loss that are 0: float16 {without:.1%}, with a "
        f"scale of 2^{powers[-1]} {with_scale:.1%}, bfloat16 {vanished['bfloat16'][0]:.1%}",
    )
    (master, _), (rounded, still) = descents.values()
    learned = [losses[0] - losses[-1] for losses in (master, rounded)]
    run.claim(
        "Weights must be kept in 32 bits: in 16, small steps round to none",
        holds=still > 0.3 and learned[1] < 0.8 * learned[0],
        measured=f"{still:.0%} of the 16-bit weights never moved; the loss fell by "
        f"{learned[1]:.3f}, with 32-bit weights by {learned[0]:.3f}",
    )
    # The weights serve in any precision.
    served = build_model(inputs, config.units, "float32", classes)
    served.set_weights(models["mixed_float16"].get_weights())
    run.export(serving.classifier(served), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
