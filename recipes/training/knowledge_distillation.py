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
from matplotlib.figure import Figure

from deep_learning_recipes import data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer or digits (embedded), mnist where Keras can download or has
    cached it, or your own images: a folder with one subfolder a class, or an .npz file"""
    size: int = 8
    """side of the images in pixels"""
    members: int = 3
    """convolutional networks in the ensemble that teaches, of three architectures in
    turn"""
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
    learning_rates: tuple[Annotated[float, Gt(0)], ...] = (2e-3, 6e-3, 2e-2)
    """of a student's Adam at the start, from where it falls to 0 along a cosine; each
    student has the one that is best on a fifth of the training images"""


QUICK = Config(
    members=2,
    teacher_epochs=4,
    temperatures=(),
    epochs=60,
    learning_rates=(6e-3, 2e-2),
)
FULL = Config(
    data="mnist",
    size=28,
    copies=3,
    units=800,
    epochs=20,
    learning_rates=(3e-4, 1e-3, 3e-3),
)

# --------------------------------------------------------------------------------------
# The idea: soft targets
# --------------------------------------------------------------------------------------


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
        self.temperature = temperature
        self.label_weight = label_weight
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, images):
        return self.student(images)

    def losses_of(self, batch, training: bool):
        """One for each image, (batch,)."""
        images, (labels, teacher_logits) = batch
        logits = self.student(images, training=training)
        hard = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        soft = distillation_loss(teacher_logits, logits, self.temperature)
        return self.label_weight * hard + (1 - self.label_weight) * soft

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            losses = self.losses_of(batch, training=True)
            # Scales in float16 alone.
            loss = self.optimizer.scale_loss(ops.mean(losses))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(losses)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, batch):
        self.loss_tracker.update_state(self.losses_of(batch, training=False))
        return {"loss": self.loss_tracker.result()}


def ensemble(members: list[keras.Model]) -> keras.Model:
    """The geometric ensemble: mean logits are the normalized geometric mean of
    probabilities."""
    images = keras.Input(members[0].input_shape[1:], name="images")
    logits = [member(images) for member in members]
    if len(logits) == 1:
        return keras.Model(images, logits[0])
    return keras.Model(images, layers.Average(dtype="float32")(logits))


def convolve(x, filters: int, kernel_size: int = 3):
    return layers.Conv2D(filters, kernel_size, padding="same", activation="relu")(x)


def vgg_block(x, filters: int):
    """One convolution after the other."""
    return convolve(convolve(x, filters), filters)


def residual_block(x, filters: int):
    """A convolution, and what another adds to it."""
    first = convolve(x, filters)
    return layers.Add()([first, convolve(first, filters)])


def inception_block(x, filters: int):
    """Kernels of three sizes beside each other."""
    branches = [convolve(x, filters // 2, size) for size in (1, 3)]
    branches.append(convolve(x, filters // 2, 5))
    return layers.Concatenate()(branches)


BLOCKS = {"vgg": vgg_block, "resnet": residual_block, "inception": inception_block}


def build_teacher(size: int, kind: str, name: str, classes: int = 10) -> keras.Model:
    """A convolutional network with dropout. kind: of `BLOCKS`. Input: (batch, size,
    size, 1) in [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input((size, size, 1), name="images")
    hidden = images
    for filters in (32, 64):
        hidden = BLOCKS[kind](hidden, filters)
        hidden = layers.MaxPooling2D(2)(hidden)
    hidden = layers.Dropout(0.5)(layers.Flatten()(hidden))
    hidden = layers.Dense(128, activation="relu")(hidden)
    hidden = layers.Dropout(0.5)(hidden)
    logits = layers.Dense(classes, dtype="float32")(hidden)
    return keras.Model(images, logits, name=name)


def build_student(size: int, units: int, classes: int = 10) -> keras.Model:
    """One hidden layer, no dropout. Output: (batch, classes) logits."""
    images = keras.Input((size, size, 1), name="images")
    hidden = layers.Dense(units, activation="relu")(layers.Flatten()(images))
    logits = layers.Dense(classes, dtype="float32")(hidden)
    return keras.Model(images, logits, name="student")


def shifted(images: np.ndarray, copies: int, random: np.random.Generator) -> np.ndarray:
    """Copies of all images, one after the other, each moved by up to an eighth of its
    side."""
    size = images.shape[1]
    reach = size // 8
    around = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
    padded = np.pad(np.tile(images, (copies, 1, 1, 1)), around)
    corners = random.integers(0, 2 * reach + 1, (len(padded), 2))
    moved = [
        image[top : top + size, left : left + size]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return np.stack(moved)


def correct_bias(logits, labels: np.ndarray, digit: int) -> np.ndarray:
    """What to add to the logits (classes,): to that of `digit`, whatever makes most
    labels come out right (section 3, which chose it on test images)."""
    of_digit = np.eye(logits.shape[1])[digit]
    candidates = np.arange(0, 40, 0.25)[:, np.newaxis] * of_digit
    return max(candidates, key=lambda bias: accuracy(logits + bias, labels))


def accuracy(logits, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=1) == labels))


# --------------------------------------------------------------------------------------
# The experiment: students of labels and of soft targets, and a digit never shown
# --------------------------------------------------------------------------------------

LEFT_OUT = 3  # the digit that the paper's student never saw
COMPARED = (1.0, 5.0)  # temperatures
TEACHER_RATE = 2e-3
SHARE_TO_CHOOSE_BY = 0.2  # of the training images
STUDENTS_OF_THE_UNSEEN = 2

Targets = dict[str, float]  # arguments of Distiller


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    names: list[str]
    config: Config
    run: Run

    @property
    def left_out(self) -> int:
        return min(LEFT_OUT, len(self.names) - 1)


def load_task(config: Config, run: Run) -> Task:
    (x, y), (x_test, y_test) = data.load(config.data, size=config.size, channels=1)
    names = data.class_names(config.data)
    return Task(x, y, x_test, y_test, names, config, run)


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The logits (images, classes), computed eagerly: to trace a model that is asked
    once takes longer."""
    batches = np.array_split(images, math.ceil(len(images) / 500))
    return np.concatenate([model(batch) for batch in batches])


def train_teacher(task: Task) -> keras.Model:
    config = task.config
    random = np.random.default_rng(task.run.seed)
    kinds = list(BLOCKS)
    members = [
        build_teacher(
            config.size,
            kinds[number % len(kinds)],
            f"teacher-{number + 1}",
            len(task.names),
        )
        for number in range(config.members)
    ]
    for member in members:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        member.compile(keras.optimizers.Adam(TEACHER_RATE), loss)
        training.fit(
            member,
            shifted(task.x, config.copies, random),
            np.tile(task.y, config.copies),
            epochs=config.teacher_epochs,
            batch_size=config.batch_size,
            callbacks=task.run.callbacks,
        )
    return ensemble(members)


class School:
    """Students that learn from the same kind of targets, one after the other. One
    distiller starts anew each time: to trace another takes longer than to train it."""

    def __init__(
        self, name: str, task: Task, teacher_logits: np.ndarray, targets: Targets
    ):
        """teacher_logits: of the training images."""
        self.task = task
        self.teacher_logits = teacher_logits
        self.distiller = Distiller(self.new_student(), **targets, name=name)
        self.distiller.compile(keras.optimizers.Adam())
        self.distiller.optimizer.build(self.distiller.trainable_variables)

    def new_student(self) -> keras.Model:
        config = self.task.config
        return build_student(config.size, config.units, len(self.task.names))

    def train(self, shown: np.ndarray, learning_rate: float) -> keras.Model:
        """A new student of the training images `shown`, which are their numbers."""
        config = self.task.config
        student = self.new_student()
        self.distiller.student.set_weights(student.get_weights())
        steps = config.epochs * math.ceil(len(shown) / config.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self.distiller.compile(keras.optimizers.Adam(schedule))
        training.fit(
            self.distiller,
            self.task.x[shown],
            (self.task.y[shown], self.teacher_logits[shown]),
            epochs=config.epochs,
            batch_size=config.batch_size,
            callbacks=self.task.run.callbacks,
        )
        student.set_weights(self.distiller.student.get_weights())
        return student

    def choose_rate(self) -> float:
        """That of the student which is best on training images that it did not see."""
        x = self.task.x
        order = np.random.default_rng(self.task.run.seed).permutation(len(x))
        to_choose_by, shown = np.split(order, [round(SHARE_TO_CHOOSE_BY * len(x))])
        found = {}
        for rate in self.task.config.learning_rates:
            logits = predict(self.train(shown, rate), x[to_choose_by])
            found[rate] = accuracy(logits, self.task.y[to_choose_by])
        return max(found, key=found.__getitem__)


@dataclass
class Taught:
    """The students of one kind of targets."""

    students: list[keras.Model]
    accuracies: list[float]
    """on held-out images"""
    learning_rate: float
    """that was chosen"""

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))


def sources_of(temperatures) -> dict[str, Targets]:
    """What a student may learn from, by name."""
    sources: dict[str, Targets] = {"labels": {"label_weight": 1.0}}
    for temperature in temperatures:
        sources[name_of(temperature)] = {"temperature": temperature}
    return sources


def name_of(temperature: float) -> str:
    return f"T = {temperature:g}"


def teach(task: Task, school: School) -> Taught:
    everything = np.arange(len(task.x))
    rate = school.choose_rate()
    students = [school.train(everything, rate) for _ in range(task.config.restarts)]
    accuracies = [accuracy(student(task.x_test), task.y_test) for student in students]
    return Taught(students, accuracies, rate)


def teach_without_a_digit(task: Task, school: School, rate: float) -> tuple:
    """Recall of the held-out images of the digit that the students never saw: as they
    are, and with a bias."""
    shown = np.flatnonzero(task.y != task.left_out)
    digit = task.y_test == task.left_out
    recalls = []
    for _ in range(STUDENTS_OF_THE_UNSEEN):
        student = school.train(shown, rate)
        bias = correct_bias(student(task.x), task.y, task.left_out)
        logits = np.asarray(student(task.x_test[digit]))
        plain = accuracy(logits, task.y_test[digit])
        recalls.append((plain, accuracy(logits + bias, task.y_test[digit])))
    return tuple(np.mean(recalls, axis=0))


def judge_gain(taught: dict[str, Taught], of_teacher: float, task: Task) -> None:
    soft = taught[name_of(5)]
    labels = taught["labels"]
    task.run.claim(
        "A student of an ensemble is more accurate than the same network trained on "
        "labels, each at its own best learning rate",
        holds=labels.accuracy + 0.004 < soft.accuracy < of_teacher,
        measured=f"{soft.accuracy:.4f} at T = 5 (rate {soft.learning_rate:g}), "
        f"{labels.accuracy:.4f} on labels ({labels.learning_rate:g}), means of "
        f"{task.config.restarts} restarts; the ensemble {of_teacher:.4f}",
    )


def judge_softness(taught: dict[str, Taught], teacher_logits, run: Run) -> None:
    confidence = {
        temperature: float(np.mean(ops.max(ops.softmax(scaled), axis=1)))
        for temperature in COMPARED
        for scaled in [teacher_logits / temperature]
    }
    hard, soft = [taught[name_of(temperature)].accuracy for temperature in COMPARED]
    run.claim(
        "Softness teaches: of a confident teacher a student learns less at T = 1 than at "
        "T = 5",
        holds=hard < soft - 0.003,
        measured=f"at T = 1 {hard:.4f} (the teacher's highest probability is "
        f"{confidence[1.0]:.4f} on average), at T = 5 {soft:.4f} "
        f"({confidence[5.0]:.4f})",
    )


def judge_unseen(unseen: dict[str, tuple], task: Task) -> None:
    _, by_labels = unseen["labels"]
    (by_teacher,) = [recall for name, (_, recall) in unseen.items() if name != "labels"]
    task.run.metric("test_recall_of_the_unseen_digit", by_teacher)
    name = task.names[task.left_out]
    task.run.claim(
        f"A student that never saw a {name} learns it from what others have of it",
        holds=by_teacher > by_labels + 0.2 and by_teacher > 0.5,
        measured=f"recall of held-out {name}s, with a bias fitted on training images: "
        f"{by_teacher:.1%} taught, {by_labels:.1%} by labels",
    )


def draw_errors(taught: dict[str, Taught], of_teacher: float, unseen, name: str):
    by_source = figures.Panel(
        title="The same small network, by what it learned from",
        xlabel="error on held-out images",
        bars={
            source: [1 - accuracy for accuracy in each.accuracies]
            for source, each in taught.items()
        },
        levels={"the teacher, an ensemble": 1 - of_teacher},
    )
    bars = {}
    for source, (plain, with_bias) in unseen.items():
        bars[f"{source}, as trained"] = plain
        bars[f"{source}, with a bias"] = with_bias
    of_unseen = figures.Panel(
        title=f"Students that never saw a {name}",
        xlabel=f"recall of held-out {name}s",
        bars=bars,
        number="{:.2f}",
    )
    return figures.panels(by_source, of_unseen)


def most_telling(logits: np.ndarray, labels: np.ndarray, count: int = 3) -> np.ndarray:
    """Images that the teacher is sure of, until softened targets show another class in
    them."""
    probabilities = np.asarray(ops.softmax(logits))
    softened = np.sort(np.asarray(ops.softmax(logits / 5)), axis=1)
    is_right = logits.argmax(axis=1) == labels
    is_clear = is_right & (probabilities.max(axis=1) > 0.99)
    second = np.where(is_clear, softened[:, -2], 0)
    return np.argsort(-second)[:count]


def draw_dark_knowledge(images, logits: np.ndarray, temperatures) -> Figure:
    """The teacher's softened probabilities of each image, by temperature."""
    shape = len(images), len(temperatures) + 1
    figure, grid = plt.subplots(*shape, figsize=(11, 5), sharey="col", squeeze=False)
    for row, image, scores in zip(grid, images, logits, strict=True):
        row[0].imshow(image[..., 0], cmap="gray")
        row[0].set_axis_off()
        for axes, temperature in zip(row[1:], temperatures, strict=True):
            classes = range(len(scores))
            axes.bar(classes, ops.softmax(scores / temperature))
            axes.set(ylim=(0, 1), xticks=classes, title=name_of(temperature))
        row[1].set_ylabel("probability")
    figure.suptitle(
        "What the teacher says of held-out images: softer, it tells what they are like"
    )
    return figure


def main(config: Config, run: Run) -> None:
    temperatures = sorted({*COMPARED, *config.temperatures})
    sources = sources_of(temperatures)
    students = config.restarts + len(config.learning_rates)
    run.plan(config.members + len(sources) * students + 2 * STUDENTS_OF_THE_UNSEEN)

    task = load_task(config, run)
    teacher = train_teacher(task)
    teacher_logits = predict(teacher, task.x)
    logits_test = predict(teacher, task.x_test)
    of_teacher = accuracy(logits_test, task.y_test)

    schools = {
        name: School(name, task, teacher_logits, targets)
        for name, targets in sources.items()
    }
    taught = {name: teach(task, school) for name, school in schools.items()}
    run.metric("test_accuracy_distilled", taught[name_of(5)].accuracy)
    run.metric("test_accuracy_teacher", of_teacher)
    for name, each in taught.items():
        run.metric(f"test_accuracy_{name.replace(' = ', '_')}", each.accuracy)
    judge_gain(taught, of_teacher, task)
    judge_softness(taught, teacher_logits, run)

    unseen = {
        name: teach_without_a_digit(task, schools[name], taught[name].learning_rate)
        for name in ("labels", name_of(temperatures[-1]))
    }
    judge_unseen(unseen, task)

    name = task.names[task.left_out]
    run.figure("errors", draw_errors(taught, of_teacher, unseen, name))
    shown = most_telling(logits_test, task.y_test)
    run.figure(
        "dark_knowledge",
        draw_dark_knowledge(task.x_test[shown], logits_test[shown], temperatures),
    )
    (student, *_) = taught[name_of(5)].students
    run.export(serving.classifier(student), example=task.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
