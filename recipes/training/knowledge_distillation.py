"""Knowledge distillation: what an ensemble knows, in a small network.

A teacher's mistakes tell more than its answers: a 2 that is a little like a 7 gets a
probability of 7 that no label holds. Of a confident teacher it is too small to matter,
so its logits v and the student's z are divided by a temperature first, p = softmax(v /
T), q = softmax(z / T), and the student lowers T²·KL(p ‖ q). T² makes up for gradients
that shrink as 1/T². At T = 1 the softened targets are all but labels; in the limit of
high T the student simply matches logits.
Look at what a higher temperature adds, at the softened probabilities of single images,
and at the digit that a student has never been shown and still reads.

Lectures: CS Efficient Methods and Hardware (Model Distillation); N18 3 Neural Networks
    II
Paper: Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015
    (sections 2, 3)
Tags: teacher-student, soft targets, dark knowledge, temperature, model compression
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Gt
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer or digits (embedded), mnist where Keras can download or has
    cached it, or your own images: a folder with one subfolder a class, or an .npz file"""
    size: int = 8
    """side of the images in pixels"""
    members: int = 3
    """convolutional networks in the ensemble that teaches"""
    copies: int = 9
    """of each training image, shifted at random, for the teacher alone"""
    teacher_epochs: int = 6
    """passes of each member over these copies"""
    units: int = 128
    """width of the student's hidden layer"""
    temperatures: tuple[Annotated[float, Gt(0)], ...] = (2.0, 10.0)
    """of the soft targets, beside 1 and 5, which are compared"""
    restarts: int = 3
    """random starts of each student; accuracies are their means"""
    epochs: int = 100
    """passes of a student over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 2e-2
    """of a student's Adam at the start; it falls to 0 along a cosine"""


QUICK = Config(members=2, teacher_epochs=4, temperatures=(), epochs=60)
FULL = Config(data="mnist", size=28, copies=3, units=800, epochs=20, learning_rate=1e-3)

LEFT_OUT = 3  # the digit that the paper's student never saw


def shifted(images: np.ndarray, copies: int, random: np.random.Generator) -> np.ndarray:
    """Copies of all images, one after the other, each moved by up to an eighth of its
    side."""
    size, reach = images.shape[1], images.shape[1] // 8
    padded = np.pad(
        np.tile(images, (copies, 1, 1, 1)), ((0, 0), *[(reach, reach)] * 2, (0, 0))
    )
    corners = random.integers(0, 2 * reach + 1, (len(padded), 2))
    pairs = zip(padded, corners, strict=True)
    return np.stack(
        [image[top : top + size, left : left + size] for image, (top, left) in pairs]
    )


def build_teacher(size: int, name: str, classes: int = 10) -> keras.Model:
    """A convolutional network with dropout. Input: (batch, size, size, 1) in [0, 1].
    Output: (batch, classes) logits."""
    x = images = keras.Input((size, size, 1), name="images")
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    x = layers.Dropout(0.5)(layers.Dense(128, activation="relu")(x))
    return keras.Model(images, layers.Dense(classes, dtype="float32")(x), name=name)


def ensemble(members: list[keras.Model]) -> keras.Model:
    """The geometric ensemble: mean logits are the normalized geometric mean of
    probabilities."""
    images = keras.Input(members[0].input_shape[1:], name="images")
    logits = layers.Average(dtype="float32")([member(images) for member in members])
    return keras.Model(images, logits)


def build_student(size: int, units: int, classes: int = 10) -> keras.Model:
    """One hidden layer, no dropout. Output: (batch, classes) logits."""
    images = keras.Input((size, size, 1), name="images")
    hidden = layers.Dense(units, activation="relu")(layers.Flatten()(images))
    return keras.Model(
        images, layers.Dense(classes, dtype="float32")(hidden), name="student"
    )


def distillation_loss(teacher_logits, student_logits, temperature: float):
    """T²·KL(softmax(v / T) ‖ softmax(z / T)) in nats, (batch,): equation 1, and the
    factor that section 2 asks for."""
    log_p = ops.log_softmax(teacher_logits / temperature)
    log_q = ops.log_softmax(student_logits / temperature)
    return temperature**2 * ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


class Distiller(keras.Model):
    """Trains a student on labels, on a teacher's logits, or on both.

    label_weight: a in a·cross-entropy(labels) + (1 − a)·distillation loss; 1: no
        teacher.
    Fit on images and (labels, the teacher's logits): a fixed teacher needs to look only
    once.
    """

    def __init__(self, student, temperature=1.0, label_weight=0.0, **kwargs):
        super().__init__(**kwargs)
        self.student = student
        self.temperature, self.label_weight = temperature, label_weight
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, images):
        return self.student(images)

    def train_step(self, batch):
        images, (labels, teacher_logits) = batch
        with tf.GradientTape() as tape:
            logits = self.student(images, training=True)
            hard = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            soft = distillation_loss(teacher_logits, logits, self.temperature)
            losses = self.label_weight * hard + (1 - self.label_weight) * soft
            loss = self.optimizer.scale_loss(
                ops.mean(losses)
            )  # scales in float16 alone
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        self.loss_tracker.update_state(losses)
        return {"loss": self.loss_tracker.result()}


def correct_bias(logits, labels: np.ndarray, digit: int) -> np.ndarray:
    """What to add to the logits (classes,): to that of `digit`, whatever makes most
    labels come out right (section 3, which chose it on test images)."""
    candidates = np.arange(0, 40, 0.25)[:, None] * np.eye(logits.shape[1])[digit]
    return max(candidates, key=lambda bias: accuracy(logits + bias, labels))


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits (images, classes), computed eagerly: to trace a model that is asked
    once takes longer."""
    batches = np.array_split(images, math.ceil(len(images) / 500))
    return np.concatenate([model(batch) for batch in batches])


def accuracy(logits, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def plot_accuracies(
    by_source: dict[str, list[float]], teacher: float, unseen: dict, left_out: str
):
    """Accuracies of all restarts by what they learned from; reading a class never
    shown."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
    for index, values in enumerate(100 * np.array(list(by_source.values()))):
        color = f"C{min(index, 1)}"
        left.scatter([index] * len(values), values, color=color, alpha=0.5)
        left.errorbar(
            index,
            values.mean(),
            values.std(),
            color=color,
            capsize=8,
            marker="_",
            ms=20,
        )
    left.axhline(
        100 * teacher, color="black", linestyle=":", label="the teacher, an ensemble"
    )
    left.set_xticks(range(len(by_source)), by_source)
    left.set(xlabel="what the student learned from", ylabel="held-out accuracy, %")
    left.set(title="The same small network: restarts, mean ± deviation")
    left.legend(loc="center left")
    for index, (name, shares) in enumerate(unseen.items()):
        bars = right.bar(
            np.arange(2) + 0.4 * index, 100 * np.array(shares), 0.35, label=name
        )
        right.bar_label(bars, fmt="%.0f")
    right.set_xticks(np.arange(2) + 0.2, ["as trained", "with a bias"])
    right.set(
        ylabel=f"held-out {left_out}s read, %",
        title=f"Students that never saw a {left_out}",
    )
    right.legend(loc="upper left")
    return figure


def plot_dark_knowledge(images, logits: np.ndarray, temperatures) -> plt.Figure:
    """The teacher's softened probabilities of each image, by temperature."""
    shape = len(images), len(temperatures) + 1
    figure, grid = plt.subplots(*shape, figsize=(11, 5), sharey="col", squeeze=False)
    for row, image, scores in zip(grid, images, logits, strict=True):
        row[0].imshow(image[..., 0], cmap="gray")
        row[0].set_axis_off()
        for axes, temperature in zip(row[1:], temperatures, strict=True):
            classes = range(len(scores))
            axes.bar(classes, ops.softmax(scores / temperature))
            axes.set(ylim=(0, 1), xticks=classes, title=f"T = {temperature:g}")
        row[1].set_ylabel("probability")
    figure.suptitle(
        "What the teacher says of held-out images: softer, it tells what they are like"
    )
    return figure


def main(config: Config, run: Run) -> None:
    temperatures = sorted({1.0, 5.0, *config.temperatures})
    run.plan(config.members + (1 + len(temperatures)) * config.restarts + 4)
    (x_train, y_train), (x_test, y_test) = data.load(
        config.data, size=config.size, channels=1
    )
    names = data.class_names(config.data)
    left_out = min(LEFT_OUT, len(names) - 1)
    sizes = {"batch_size": config.batch_size, "callbacks": run.callbacks}
    random = np.random.default_rng(run.seed)
    members = [
        build_teacher(config.size, f"teacher-{n + 1}", len(names))
        for n in range(config.members)
    ]
    for member in members:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        member.compile(keras.optimizers.Adam(2e-3), loss)
        copies = (
            shifted(x_train, config.copies, random),
            np.tile(y_train, config.copies),
        )
        training.fit(member, *copies, epochs=config.teacher_epochs, **sizes)
    teacher = ensemble(members)
    soft_train, soft_test = (predict(teacher, x) for x in (x_train, x_test))

    def train(restarts, shown=slice(None), **targets):
        """Students that learned from the images `shown`."""
        steps = config.epochs * math.ceil(len(x_train[shown]) / config.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        # One distiller starts anew each time: to trace another takes longer than to
        # train it.
        student = build_student(config.size, config.units, len(names))
        distiller = Distiller(student, **targets)
        distiller.compile(keras.optimizers.Adam(schedule))
        distiller.optimizer.build(distiller.trainable_variables)
        targets_shown = y_train[shown], soft_train[shown]
        for _ in range(restarts):
            student = build_student(config.size, config.units, len(names))
            distiller.student.set_weights(student.get_weights())
            for variable in distiller.optimizer.variables:
                variable.assign(ops.zeros_like(variable))
            training.fit(
                distiller, x_train[shown], targets_shown, epochs=config.epochs, **sizes
            )
            student.set_weights(distiller.student.get_weights())
            yield student

    sources = {"labels": {"label_weight": 1.0}}
    sources |= {f"T = {t:g}": {"temperature": t} for t in temperatures}
    accuracies = {}
    for name, source in sources.items():
        students = list(train(config.restarts, **source))
        accuracies[name] = [accuracy(student(x_test), y_test) for student in students]
    mean = {name: float(np.mean(values)) for name, values in accuracies.items()}
    of_teacher = accuracy(soft_test, y_test)
    run.metric("test_accuracy_distilled", mean["T = 5"])
    run.metric("test_accuracy_teacher", of_teacher)
    for name, value in mean.items():
        run.metric(f"test_accuracy_{name.replace(' = ', '_')}", value)

    digit = y_test == left_out
    unseen = {}
    for name in ("labels", f"T = {temperatures[-1]:g}"):
        shares = []
        for student in train(2, y_train != left_out, **sources[name]):
            bias = correct_bias(student(x_train), y_train, left_out)
            logits = np.asarray(student(x_test[digit]))
            shares.append(
                [accuracy(each, y_test[digit]) for each in (logits, logits + bias)]
            )
        unseen[name] = np.mean(shares, axis=0)
    (_, by_labels), (_, by_teacher) = unseen.values()
    run.metric("test_recall_of_the_unseen_digit", by_teacher)

    run.figure(
        "accuracies", plot_accuracies(accuracies, of_teacher, unseen, names[left_out])
    )
    # Digits that the teacher reads surely, until softened targets show another one in
    # them.
    sure, second = (
        np.sort(np.asarray(ops.softmax(soft_test / t)), axis=1) for t in (1, 5)
    )
    clear = (soft_test.argmax(axis=1) == y_test) & (sure[:, -1] > 0.99)
    shown = np.argsort(np.where(clear, -second[:, -2], 0))[:3]
    figure = plot_dark_knowledge(x_test[shown], soft_test[shown], temperatures)
    run.figure("dark_knowledge", figure)

    run.claim(
        "A student of an ensemble reads better than the same network trained on labels",
        holds=mean["labels"] + 0.004 < mean["T = 5"] < of_teacher,
        measured=f"{mean['T = 5']:.4f} at T = 5, {mean['labels']:.4f} on labels, means of "
        f"{config.restarts} restarts; the ensemble {of_teacher:.4f}",
    )
    confidence = {
        t: np.mean(ops.max(ops.softmax(soft_train / t), axis=1)) for t in (1, 5)
    }
    run.claim(
        "Softness teaches: of a confident teacher a student learns less at T = 1 than at T = 5",
        holds=mean["T = 1"] < mean["T = 5"] - 0.003,
        measured=f"at T = 1 {mean['T = 1']:.4f} (the teacher's highest probability is "
        f"{confidence[1]:.4f} on average), at T = 5 {mean['T = 5']:.4f} ({confidence[5]:.4f})",
    )
    run.claim(
        f"A student that never saw a {names[left_out]} learns it from what others have of it",
        holds=by_teacher > by_labels + 0.2 and by_teacher > 0.5,
        measured=f"held-out {names[left_out]}s read, with a bias fitted on training images: "
        f"{by_teacher:.1%} taught, {by_labels:.1%} by labels",
    )
    run.export(serving.classifier(students[0]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
