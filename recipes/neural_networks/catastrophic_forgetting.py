"""Catastrophic forgetting: what a network loses of task A while it learns task B.

Stochastic gradient descent sees the current task alone, so nothing holds the weights
that an earlier one needs. Rehearsal mixes a few kept examples of the earlier tasks into
each batch. Elastic weight consolidation (EWC) keeps no example: it ties each weight to
its old value by a spring as stiff as the old task is sensitive to it, L(θ) = L_B(θ) +
Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)², where F is the diagonal of the Fisher information, F = E_x E_{y ~
p(y|x)} [(∂ log p(y|x) / ∂θ)²]. Tasks are digits with their pixels in a new order each
time. Look at A's accuracy while B and C are learned, at the matrices, and at the new
digits, where EWC fails: a network that has never seen them is sure that they are not
meant, so F is small where it will have to change.

Lectures: N18 3.2 Intriguing Properties (catastrophic forgetting is a real issue with
    SGD)
Paper: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017
    (equation 3)
Tags: ewc, elastic weight consolidation, continual learning, lifelong learning,
    incremental learning, rehearsal, permuted mnist
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
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
    """width of the hidden layer"""
    epochs: int = 40
    """passes over the images of each task"""
    batch_size: int = 32
    """images of the new task in a step; rehearsal adds as many of each earlier one"""
    learning_rate: float = 0.05
    """of plain stochastic gradient descent, without momentum, which would remember
    too"""
    memory: int = 50
    """images that rehearsal keeps of each task"""
    strength: float = 30.0
    """λ of EWC; a step overshoots where learning rate · λ · F nears 2"""
    strengths: tuple[float, ...] = (3.0, 100.0)
    """other λ to compare, of EWC and of springs that are equally stiff for all
    weights"""


QUICK = Config(units=128, epochs=15, learning_rate=0.1, strengths=(3.0,))
FULL = Config(data="mnist", units=512, epochs=10)


# --------------------------------------------------------------------------------------
# The idea: springs as stiff as the old task is sensitive
# --------------------------------------------------------------------------------------


def build_network(pixels: int, units: int, classes: int = 10) -> keras.Model:
    """One hidden layer. Input: (batch, pixels) in [0, 1]. Output: (batch, classes)
    logits."""
    x = keras.Input((pixels,), name="x")
    hidden = layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)
    logits = layers.Dense(classes, dtype="float32", name="logits")(hidden)
    return keras.Model(x, logits)


@tf.function(reduce_retracing=True)
def expected_squares(network: keras.Model, images: tf.Tensor) -> list[tf.Tensor]:
    """Σ_y p(y|x) (∂ log p(y|x) / ∂θ)² of each image x: (batch, *shape) for each
    weight."""

    def of_one(image):
        with tf.GradientTape() as tape:
            log_p = ops.log_softmax(network(image[None]))[0]
        jacobians = tape.jacobian(log_p, network.trainable_variables)
        # (classes,) times (classes, *shape) of each weight.
        return [tf.tensordot(tf.exp(log_p), tf.square(each), 1) for each in jacobians]

    return tf.vectorized_map(of_one, images)


def fisher_information(
    network: keras.Model, x: np.ndarray, batch: int = 50
) -> list[np.ndarray]:
    """The Fisher information's diagonal, an array for each weight; y ~ p(y|x), not
    labels."""
    batches = [x[at : at + batch] for at in range(0, len(x), batch)]
    parts = [expected_squares(network, images) for images in batches]
    by_weight = zip(*parts, strict=True)
    return [np.concatenate(each).mean(axis=0) for each in by_weight]


class Learner(keras.Model):
    """A network that learns one task after the other, and the springs that hold its
    weights."""

    def __init__(self, network: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        weights = network.trainable_variables
        self.stiffness = [self.add_fixed(weight.shape) for weight in weights]
        self.rest = [self.add_fixed(weight.shape) for weight in weights]

    def add_fixed(self, shape):
        return self.add_weight(shape, "zeros", trainable=False)

    @property
    def springs(self):
        """Of each weight: its stiffness, where it rests, and the weight."""
        weights = self.network.trainable_variables
        return zip(self.stiffness, self.rest, weights, strict=True)

    def call(self, x):
        return self.network(x)

    def restart(self, weights: list[np.ndarray]) -> None:
        """Puts the network to these weights, free of springs."""
        self.network.set_weights(weights)
        for stiffness in self.stiffness:
            stiffness.assign(ops.zeros_like(stiffness))

    def consolidate(self, strength: float, importance: list[np.ndarray]) -> None:
        """Ties each weight to its value of now by a spring of stiffness λF. Earlier
        springs stay: two on one weight pull as one does, as stiff as both, at rest at
        their weighted mean."""
        pairs = zip(self.springs, importance, strict=True)
        for (stiffness, rest, weight), fisher in pairs:
            added = ops.convert_to_tensor(strength * fisher)
            share = ops.divide_no_nan(added, stiffness + added)
            rest.assign(rest + share * (weight - rest))
            stiffness.assign(stiffness + added)

    def compute_loss(self, *args, **kwargs):
        """Equation 3: the loss of the task, and Σᵢ λ/2 Fᵢ (θᵢ − θ*ᵢ)²."""
        penalty = sum(
            ops.sum(k * ops.square(weight - rest)) for k, rest, weight in self.springs
        )
        return super().compute_loss(*args, **kwargs) + penalty / 2


# --------------------------------------------------------------------------------------
# The experiment: two ways to bring something new, and what each method keeps
# --------------------------------------------------------------------------------------

NEW_PIXELS = "new order of pixels"
NEW_DIGITS = "new digits"
FISHER_IMAGES = 500  # more change little


@dataclass
class Task:
    """Something to learn, and held-out examples of it. Images are flat."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def with_pixels(self, order: np.ndarray) -> "Task":
        return Task(self.x[:, order], self.y, self.x_test[:, order], self.y_test)

    def with_classes(self, is_in) -> "Task":
        """is_in: of labels, which belong to it."""
        train = is_in(self.y)
        test = is_in(self.y_test)
        return Task(self.x[train], self.y[train], self.x_test[test], self.y_test[test])

    def first(self, count: int) -> "Task":
        return Task(self.x[:count], self.y[:count], self.x_test, self.y_test)


def old_classes(classes: int) -> int:
    """How many of them come first, where the others are new: half, 0 to 4 of digits."""
    return math.ceil(classes / 2)


def scenarios(
    task: Task, classes: int, random: np.random.Generator
) -> dict[str, list[Task]]:
    """Two ways to bring something new: lists of tasks."""
    pixels = task.x.shape[1]
    half = old_classes(classes)
    order_of_b = random.permutation(pixels)
    order_of_c = random.permutation(pixels)
    return {
        NEW_DIGITS: [
            task.with_classes(lambda y: y < half),
            task.with_classes(lambda y: y >= half),
        ],
        NEW_PIXELS: [
            task,
            task.with_pixels(order_of_b),
            task.with_pixels(order_of_c),
        ],
    }


def mix(task: Task, kept: list[Task]) -> tuple[np.ndarray, np.ndarray]:
    """The task's images and labels, and as many of what was kept of each earlier one,
    repeated."""
    count = len(task.x)
    images = [np.resize(each.x, (count, *each.x.shape[1:])) for each in kept]
    labels = [np.resize(each.y, count) for each in kept]
    return np.concatenate([task.x, *images]), np.concatenate([task.y, *labels])


@dataclass
class Method:
    """What is done against forgetting; by default nothing."""

    name: str
    memory: int = 0
    """images that rehearsal keeps of each task"""
    strength: float = 0.0
    """λ of the springs"""
    even: bool = False
    """all springs are equally stiff, as stiff as the Fisher information's mean"""


@dataclass
class Methods:
    plain: Method
    few: Method
    """rehearsal of a few images"""
    everything: Method
    """rehearsal of all of them"""
    ewc: list[Method]
    """by λ, the lowest first"""
    even: list[Method]
    chosen: Method
    """EWC at the λ of `Config.strength`"""

    @property
    def all(self) -> list[Method]:
        """The chosen one last: it is what is exported."""
        others = [each for each in self.ewc if each is not self.chosen]
        rehearsing = [self.few, self.everything]
        return [self.plain, *rehearsing, *self.even, *others, self.chosen]

    @property
    def shown(self) -> list[Method]:
        return [self.plain, self.few, self.chosen, self.everything]


def methods_of(config: Config, images: int) -> Methods:
    strengths = sorted({*config.strengths, config.strength})
    ewc = [Method(f"EWC, λ = {each:g}", strength=each) for each in strengths]
    even = [
        Method(f"even springs, λ = {each:g}", strength=each, even=True)
        for each in strengths
    ]
    return Methods(
        plain=Method("plain SGD"),
        few=Method(f"rehearsal of {config.memory}", memory=config.memory),
        everything=Method("rehearsal of all", memory=images),
        ewc=ewc,
        even=even,
        chosen=ewc[strengths.index(config.strength)],
    )


@dataclass
class Lesson:
    """What a method leaves of tasks that were learned one after the other."""

    matrix: np.ndarray
    """held-out accuracies (after which task, on which)"""
    curve: np.ndarray
    """on the first task, (epochs of all tasks,)"""

    @property
    def end(self) -> np.ndarray:
        """Of each task, after all of them, (tasks,)."""
        return self.matrix[-1]


class School:
    """One learner, put back to the same start for each method."""

    def __init__(self, pixels: int, classes: int, config: Config, run: Run):
        self.config = config
        self.run = run
        self.network = build_network(pixels, config.units, classes)
        self.learner = Learner(self.network, name="learner")
        self.learner.compile(
            optimizer=keras.optimizers.SGD(config.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self.start = self.network.get_weights()

    def teach(self, tasks: list[Task], method: Method) -> Lesson:
        """Task after task."""
        self.learner.restart(self.start)
        kept: list[Task] = []
        curve: list[float] = []
        matrix = []
        for task in tasks:
            curve += self.fit(task, kept, watched=tasks[0])
            matrix.append([self.accuracy(each) for each in tasks])
            if method.memory:
                kept.append(task.first(method.memory))
            if method.strength and task is not tasks[-1]:
                self.tie(task, method)
        return Lesson(np.array(matrix), np.array(curve))

    def fit(self, task: Task, kept: list[Task], watched: Task) -> list[float]:
        """Returns the held-out accuracies on the task that is watched, by epoch."""
        x, y = mix(task, kept)
        history = training.fit(
            self.learner,
            x,
            y,
            epochs=self.config.epochs,
            batch_size=self.config.batch_size * (1 + len(kept)),
            validation_data=(watched.x_test, watched.y_test),
            seed=self.run.seed,
            callbacks=self.run.callbacks,
        )
        return history.history["val_accuracy"]

    def accuracy(self, task: Task) -> float:
        answers = np.argmax(self.network(task.x_test), axis=1)
        return float(np.mean(answers == task.y_test))

    def tie(self, task: Task, method: Method) -> None:
        importance = fisher_information(self.network, task.x[:FISHER_IMAGES])
        if method.even:
            mean = np.concatenate([each.ravel() for each in importance]).mean()
            importance = [np.full_like(each, mean) for each in importance]
        self.learner.consolidate(method.strength, importance)


Lessons = dict[str, Lesson]  # by the method's name


def judge_forgetting(lessons: Lessons, methods: Methods, run: Run) -> None:
    plain = lessons[methods.plain.name]
    everything = lessons[methods.everything.name]
    before, after_b, after_c = plain.matrix[:, 0]
    run.claim(
        "SGD forgets: accuracy on A falls apart as it learns B and C, though the network "
        "holds all",
        holds=before - after_c > 0.2 and everything.end.min() > before - 0.08,
        measured=f"on A {before:.3f}, after B {after_b:.3f}, after C {after_c:.3f}; the "
        f"worst of the three, all images rehearsed: {everything.end.min():.3f}",
    )


def judge_remedy(text: str, remedy: Lesson, plain: Lesson, run: Run) -> None:
    lost = plain.matrix[0, 0] - plain.end[0]
    saved = (remedy.end[0] - plain.end[0]) / lost if lost else 0.0
    run.claim(
        text,
        holds=saved > 0.5 and remedy.end[-1] > plain.end[-1] - 0.1,
        measured=f"{saved:.0%} saved: on A {remedy.end[0]:.3f}; the cost: on C "
        f"{remedy.end[-1]:.3f}, {plain.end[-1]:.3f} by plain SGD",
    )


def judge_stiffness(lessons: Lessons, methods: Methods, run: Run) -> None:
    means = {method.name: lessons[method.name].end.mean() for method in methods.even}
    best = max(means, key=means.__getitem__)
    ewc = lessons[methods.chosen.name].end.mean()
    run.claim(
        "What counts is which weights are held: springs of even stiffness do worse at "
        f"any of {len(means)} λ",
        holds=ewc > means[best] + 0.05,
        measured=f"mean of the three tasks {ewc:.3f}, {means[best]:.3f} at best ({best})",
    )


def judge_new_digits(lessons: Lessons, methods: Methods, parts, run: Run) -> None:
    on_old = {name: lesson.end[0] for name, lesson in lessons.items()}
    ewc = max(on_old[method.name] for method in methods.ewc)
    few = on_old[methods.few.name]
    run.claim(
        f"New digits in the same outputs defeat EWC at any of {len(methods.ewc)} λ; "
        "rehearsal still holds",
        holds=ewc < 0.6 < 0.8 < few,
        measured=f"on {parts[0]} after {parts[1]}: plain SGD "
        f"{on_old[methods.plain.name]:.3f}, EWC {ewc:.3f} at its best λ, rehearsal "
        f"{few:.3f}",
    )


def draw_forgetting(lessons: Lessons, methods: Methods, epochs: int) -> Figure:
    figure = figures.curves(
        {method.name: lessons[method.name].curve for method in methods.shown},
        title="What is left of task A while B and C, its pixels in other orders, are "
        "learned",
        ylabel="held-out accuracy on A",
    )
    (axes,) = figure.axes
    for task, name in enumerate("ABC"):
        axes.axvline(epochs * (task + 1), color="gray", linestyle=":")
        axes.text(epochs * (task + 0.5), 1.03, f"learns {name}", ha="center")
    axes.set_ylim(0, 1.1)
    return figure


def draw_matrices(
    found: dict[str, Lessons], methods: Methods, parts: list[str]
) -> Figure:
    """Accuracies on all tasks after each but the first, where no method differs yet."""
    names_of = {NEW_PIXELS: list("ABC"), NEW_DIGITS: parts}
    shown = methods.shown
    figure, grid = plt.subplots(
        2, len(shown), figsize=(2.6 * len(shown), 4.4), height_ratios=(2, 1)
    )
    for row, (way, names) in zip(grid, names_of.items(), strict=True):
        for axes, method in zip(row, shown, strict=True):
            percent = 100 * found[way][method.name].matrix[1:]
            picture = axes.imshow(percent, vmin=0, vmax=100, aspect="auto")
            for (after, on), value in np.ndenumerate(percent):
                color = "black" if value > 50 else "white"
                axes.text(
                    on, after, f"{value:.0f}", ha="center", va="center", color=color
                )
            axes.set(title=method.name, xlabel="accuracy on")
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(percent)), names[1:])
            axes.grid(visible=False)
        row[0].set_ylabel(f"{way}\nafter learning")
    figure.colorbar(picture, ax=grid, label="held-out accuracy, %")
    return figure


def path_of(ways: list[Method], lessons: Lessons):
    """The accuracies on the new task and the mean on the old ones, (methods,) each."""
    ends = np.array([lessons[method.name].end for method in ways])
    return ends[:, -1], ends[:, :-1].mean(axis=1)


def draw_trade_off(
    found: dict[str, Lessons], methods: Methods, parts: list[str]
) -> Figure:
    """Old tasks against the new one; springs get stiffer along a line, from none on."""
    names_of = {
        NEW_PIXELS: ("C", "mean of A and B"),
        NEW_DIGITS: (parts[1], parts[0]),
    }
    panels = []
    for way, (new, old) in names_of.items():
        lessons = found[way]
        lines = {
            method.name: path_of([method], lessons)
            for method in (methods.few, methods.everything)
        }
        lines["EWC, by λ"] = path_of([methods.plain, *methods.ewc], lessons)
        if methods.even[0].name in lessons:
            even = path_of([methods.plain, *methods.even], lessons)
            lines["even springs, by λ"] = even
        panels.append(
            figures.Panel(
                title=f"Keep the old, learn the new: {way}",
                xlabel=f"held-out accuracy on the new task ({new})",
                ylabel=f"on the old ({old})",
                lines=lines,
                ylim=(-0.12, 1.05),
            )
        )

    figure = figures.panels(*panels)
    new_pixels, new_digits = figure.axes
    left, _ = new_pixels.get_xlim()
    for axes, panel in zip((new_pixels, new_digits), panels, strict=True):
        axes.set_xlim(min(left, 0.8), 1.02)
        name_stiffness(axes, panel, methods)
    return figure


def name_stiffness(axes: plt.Axes, panel: figures.Panel, methods: Methods) -> None:
    """Writes λ beside the marks, and plain SGD where there is none."""
    strengths = [method.strength for method in methods.ewc]
    for name, (new, old) in panel.lines.items():
        if name.endswith("by λ"):
            before = (new[0], old[0])
            for strength, x, y in zip(strengths, new[1:], old[1:], strict=True):
                if np.hypot(x - before[0], y - before[1]) < 0.05:
                    continue  # the names would lie over each other
                before = (x, y)
                place = {"xytext": (-8, 5), "textcoords": "offset points"}
                axes.annotate(f"{strength:g}", (x, y), ha="right", **place)
    new, old = panel.lines["EWC, by λ"]
    place = {"xytext": (-2, -15), "textcoords": "offset points"}
    axes.annotate("plain SGD", (new[0], old[0]), ha="right", **place)


def main(config: Config, run: Run) -> None:
    train, test = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))
    half = old_classes(classes)
    parts = [f"0-{half - 1}", f"{half}-{classes - 1}"]
    methods = methods_of(config, len(train[0]))
    # Three tasks by all methods, two by all but even springs.
    run.plan(5 * len(methods.all) - 2 * len(methods.even))

    school = School(train[0].shape[1], classes, config, run)
    ways = scenarios(Task(*train, *test), classes, np.random.default_rng(run.seed))
    found: dict[str, Lessons] = {}
    for way, tasks in ways.items():
        found[way] = {}
        for method in methods.all:
            if way == NEW_PIXELS or not method.even:
                found[way][method.name] = school.teach(tasks, method)

    lessons = found[NEW_PIXELS]
    plain = lessons[methods.plain.name]
    few = lessons[methods.few.name]
    ewc = lessons[methods.chosen.name]
    everything = lessons[methods.everything.name]
    named = {"ewc": ewc, "sgd": plain, "rehearsal": few, "joint": everything}
    for name, lesson in named.items():
        run.metric(f"mean_test_accuracy_{name}", lesson.end.mean())
        run.metric(f"test_accuracy_on_first_task_{name}", lesson.end[0])
    judge_forgetting(lessons, methods, run)
    kept = f"Rehearsal of {config.memory} images a task saves more than half of what A "
    judge_remedy(kept + "loses", few, plain, run)
    text = "EWC saves more than half of it too, without keeping an image"
    judge_remedy(text, ewc, plain, run)
    judge_stiffness(lessons, methods, run)
    judge_new_digits(found[NEW_DIGITS], methods, parts, run)

    run.figure("forgetting", draw_forgetting(lessons, methods, config.epochs))
    run.figure("matrices", draw_matrices(found, methods, parts))
    run.figure("trade_off", draw_trade_off(found, methods, parts))
    # It has learned A, B and C by EWC.
    run.export(serving.classifier(school.network), example=test[0][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
