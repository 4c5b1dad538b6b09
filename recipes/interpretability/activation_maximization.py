"""Class images: gradient ascent draws what a network wants to see.

Hold the weights, and change the picture: x ← x + η ∇ₓ(S_c(x) − R(x)) climbs to where
the score S_c of class c is highest. Without R the network is sure and a stranger sees
noise: almost any picture can be bent a little in every pixel until the score is high. R
asks for a natural picture: an L2 norm or an α-norm (α = 6) keeps the pixels in range,
the total variation asks for flat areas, jitter moves the picture at each step so that
single pixels cannot matter, blur wipes out fine grain.
Look at the flamingo and the volcano of a network that was trained on ImageNet; at class
images of digits with each regularizer, read by a judge that the network has never met;
at those of a network trained in noise, which no single pixel can sway: its own
gradients are strokes; and at what single neurons of it want to see.

Lectures: CS Visualizing & Understanding (Synthesizing images); N18 4.3 Understanding
    CNNs
Paper: Simonyan et al., Deep inside convolutional networks, 2014 (section 2: L2);
    Mahendran and Vedaldi, Understanding deep image representations by inverting them,
    2015 (α-norm, total variation); Yosinski et al., Understanding neural networks
    through deep visualization, 2015 (blur); Mordvintsev et al., Inceptionism, 2015
    (jitter)
Tags: feature visualization, input optimization, class model, total variation, xai,
    explainability, imagenet
"""

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from sklearn.svm import SVC
from tf_keras_vis.activation_maximization import ActivationMaximization
from tf_keras_vis.activation_maximization.input_modifiers import Jitter
from tf_keras_vis.activation_maximization.regularizers import Norm, TotalVariation2D
from tf_keras_vis.utils.scores import CategoricalScore

from deep_learning_recipes import (
    UsageError,
    classifiers,
    data,
    did_you_mean,
    figures,
    serving,
    training,
)
from deep_learning_recipes.run import Run, cli

IMAGENET = "EfficientNetLite0"
REGULARIZERS = ("l2", "alpha_norm", "total_variation", "jitter", "blur")


@dataclass
class Config:
    model: str = IMAGENET
    """EfficientNetLite0, whose ImageNet weights need no download, and networks that
    learn digits; or another one, to draw its first ten classes: of keras.applications,
    or a .keras file"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    classes: str = "daisy, goldfish, pineapple, volcano, flamingo, zebra"
    """of ImageNet, to be drawn, with commas between"""
    image_size: int = 144
    """side of their pictures in pixels"""
    image_steps: int = 96
    """of gradient ascent on them"""
    size: int = 24
    """side of the digits in pixels"""
    epochs: int = 12
    """passes over the training digits, of each network"""
    noise: float = 0.5
    """standard deviation of the noise in which the robust network learns to read"""
    starts: int = 3
    """random pictures that each class begins from"""
    steps: int = 150
    """of gradient ascent"""
    step_size: float = 0.05
    """root mean square of a pixel's change in the first step; it falls to 0 along a
    line"""
    l2: float = 4.0
    """weight of the pixels' mean square"""
    alpha_norm: float = 1.0
    """weight of the mean of (2x − 1)⁶, which is below 1 for pixels in [0, 1]"""
    total_variation: float = 4.0
    """weight of the mean difference of neighboring pixels"""
    jitter: int = 2
    """the most pixels that a picture is moved by before a step"""
    blur: Annotated[float, Interval(ge=0, le=50)] = 0.35
    """standard deviation in pixels of the Gaussian that a picture is blurred with after
    a step"""


QUICK = Config(
    classes="pineapple, volcano, flamingo",
    image_size=80,
    image_steps=28,
    size=16,
    epochs=6,
    steps=40,
    step_size=0.15,
)
FULL = Config(image_size=224, image_steps=400, epochs=40, starts=10, steps=500)


# --------------------------------------------------------------------------------------
# The idea: hold the weights, and change the picture
# --------------------------------------------------------------------------------------


def build_model(size: int, noise: float, classes: int = 10) -> keras.Model:
    """Input: (batch, size, size, 1) in [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input((size, size, 1), name="images")
    x = layers.GaussianNoise(noise)(images)
    for filters, width in ((16, 5), (32, 3), (64, 3)):
        x = layers.Conv2D(filters, width, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(64, name="neurons")(layers.Flatten()(x))
    x = layers.ReLU()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="reader")


def total_variation(images):
    """The mean length √(Δ²vertical + Δ²horizontal) of the step to the next pixels,
    (n,). Mahendran and Vedaldi, section 2, with β = 1."""
    down = images[:, 1:, :-1] - images[:, :-1, :-1]
    right = images[:, :-1, 1:] - images[:, :-1, :-1]
    # A root has no slope at 0.
    return tf.reduce_mean(tf.sqrt(down**2 + right**2 + 1e-8), axis=(1, 2, 3))


def gaussian_blur(images, deviation: float):
    """Blurs (n, height, width, channels) by a Gaussian; the picture is mirrored beyond
    its edge."""
    reach = math.ceil(3 * deviation)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = (np.outer(weights, weights) / weights.sum() ** 2)[:, :, None, None]
    kernel = tf.constant(np.repeat(kernel, images.shape[-1], axis=2), images.dtype)
    images = tf.pad(
        images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "SYMMETRIC"
    )
    return tf.nn.depthwise_conv2d(images, kernel, (1, 1, 1, 1), "VALID")


def penalty(images, strengths):
    """R(x) of each picture, (n,). strengths: {regularizer: (n,)}."""
    return (
        strengths["l2"] * tf.reduce_mean(images**2, axis=(1, 2, 3))
        + strengths["alpha_norm"]
        * tf.reduce_mean((2 * images - 1) ** 6, axis=(1, 2, 3))
        + strengths["total_variation"] * total_variation(images)
    )


def build_ascent(model, classes, strengths, config: Config, *, unit: float, seed: int):
    """A compiled function of (pictures, first step, last step): all pictures climb at
    once.

    classes: (n,), what each shall show. strengths: {regularizer: (n,)}. unit: what
    logits are divided by, such as their spread on data, so that the same weights suit
    any network.
    """
    reach = -config.jitter, config.jitter + 1
    strengths = {
        name: tf.constant(each, tf.float32) for name, each in strengths.items()
    }
    is_moved = strengths["jitter"][:, None, None, None] > 0
    is_blurred = strengths["blur"][:, None, None, None] > 0

    @tf.function
    def ascend(images, first, last):
        for step in tf.range(first, last):
            shift = tf.random.stateless_uniform((2,), (seed, step), *reach, tf.int32)
            with tf.GradientTape() as tape:
                tape.watch(images)
                seen = tf.where(is_moved, tf.roll(images, shift, axis=(1, 2)), images)
                logits = tf.cast(model(seen, training=False), tf.float32)
                score = tf.gather(logits, classes, axis=1, batch_dims=1) / unit
                objective = score - penalty(images, strengths)
            gradient = tape.gradient(objective, images)
            size = (
                tf.sqrt(tf.reduce_mean(gradient**2, axis=(1, 2, 3), keepdims=True))
                + 1e-12
            )
            falling = 1 - tf.cast(step, tf.float32) / config.steps
            images += config.step_size * falling * gradient / size
            if config.blur:
                images = tf.where(
                    is_blurred, gaussian_blur(images, config.blur), images
                )
        return images

    return ascend


# --------------------------------------------------------------------------------------
# The experiment: flamingos by ImageNet's network, digits by small ones
# --------------------------------------------------------------------------------------


def with_tf_keras_vis(model, start, config: Config, unit: float) -> np.ndarray:
    """A picture of each class by the package's own jitter, total variation and norm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's, about a list of one input
        images = ActivationMaximization(model)(
            CategoricalScore(list(range(len(start)))),
            seed_input=start,
            input_range=(None, None),
            input_modifiers=[Jitter(config.jitter)],
            regularizers=[
                TotalVariation2D(config.total_variation * unit),
                Norm(config.l2 * unit),
            ],
            steps=config.steps,
            optimizer=keras.optimizers.RMSprop(config.step_size, 0.999),
        )
    return np.asarray(images)


def likeness(
    images: np.ndarray, classes: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """The correlation of each picture's pixels with those of the most alike of the real
    pictures x of its class y, (n,) in [-1, 1]."""
    flat = images.reshape(len(images), -1)
    real = x.reshape(len(x), -1)
    correlations = np.corrcoef(flat, real)[: len(flat), len(flat) :]
    return np.where(y == classes[:, None], correlations, -1).max(axis=1)


def climb(run: Run, title: str, model, classes, start, settings, config, unit: float):
    """{setting: what a copy of `start` climbs to}. settings: a regularizer's name,
    "all", or "none"."""
    strengths = {}
    for name in REGULARIZERS:
        is_on = np.isin(settings, [name, "all"])
        strengths[name] = np.repeat(getattr(config, name) * is_on, len(start))
    classes = np.tile(classes, len(settings))
    ascend = build_ascent(model, classes, strengths, config, unit=unit, seed=run.seed)

    images = tf.Variable(np.tile(start, (len(settings), 1, 1, 1)))
    for tenth in run.loop(title, 10, {"images": images}, unit="tenths"):
        first = tf.constant(config.steps * tenth // 10)
        last = tf.constant(config.steps * (tenth + 1) // 10)
        images.assign(ascend(images, first, last))
    return dict(zip(settings, np.split(images.numpy(), len(settings)), strict=True))


def noise_around_gray(run: Run, shape) -> np.ndarray:
    random = np.random.default_rng(run.seed)
    return 0.5 + 0.2 * random.standard_normal(shape, "float32")


def draw_own_classes(run: Run, config: Config) -> None:
    """The first ten classes of a user's own network."""
    own = classifiers.from_flags(config, run)
    names = own.class_names[:10]
    classes = range(len(names))
    start = noise_around_gray(run, (len(names), *own.model.inputs[0].shape[1:]))
    # A network that says the same of every picture has no spread to divide by.
    unit = np.std(own.model(start, training=False)) or 1.0
    found = climb(run, "climbing", own.model, classes, start, ["all"], config, unit)
    images = found["all"]
    confidence = np.diag(own.probabilities(images))
    for name, each in zip(names, confidence, strict=True):
        run.metric(f"confidence_{name}", each)
    title = f"What {own.model.name} wants to see"
    images = images.clip(0, 1)
    grid = figures.image_grid(images, title=title, captions=names, columns=5)
    run.figure("class_images", grid)


def numbers_of(classes: str, known: list[str]) -> np.ndarray:
    """Of the classes that a user named. Raises UsageError for an unknown one."""
    numbers = []
    for name in classes.split(","):
        name = name.strip()
        if name not in known:
            raise UsageError(
                f"--classes {name}: no class of ImageNet{did_you_mean(name, known)}"
            )
        numbers.append(known.index(name))
    return np.array(numbers)


def seen_coarsely(images: np.ndarray) -> np.ndarray:
    """Shrunk to half of their size and enlarged again, (n, size, size, 3): what is in a
    picture stays, grain goes."""
    size = images.shape[1]
    small = tf.image.resize(images, (size // 2, size // 2), antialias=True)
    return np.asarray(tf.image.resize(small, (size, size), "bicubic"))


def with_more_contrast(images: np.ndarray) -> np.ndarray:
    """Each picture's mean and deviation made those of a photograph, as they are shown."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    deviation = images.std(axis=(1, 2, 3), keepdims=True)
    return (0.5 + 0.17 * (images - mean) / deviation).clip(0, 1)


def draw_imagenet_classes(run: Run, config: Config) -> None:
    """Class images with and without the priors, and whether they are still read when
    seen coarsely."""
    size = config.image_size
    own = classifiers.load(IMAGENET, size=(size, size), pixel_range=config.pixel_range)
    classes = numbers_of(config.classes, own.class_names)
    start = noise_around_gray(run, (len(classes), size, size, 3))
    photos = data.load_photos(size)
    unit = np.std(own.model(photos, training=False))
    priors = dataclasses.replace(
        config,
        steps=config.image_steps,
        step_size=0.1,
        l2=0.0,
        alpha_norm=0.0,
        total_variation=0.5,
        jitter=8,
        blur=0.6,
    )
    made = climb(
        run, "ImageNet", own.model, classes, start, ["none", "all"], priors, unit
    )

    confidence, read = {}, {}
    for name, images in made.items():
        images = images.clip(0, 1)
        said = own.probabilities(images)
        confidence[name] = np.mean(said[np.arange(len(classes)), classes])
        again = own.probabilities(seen_coarsely(images)).argmax(axis=1)
        read[name] = np.mean(again == classes)
    seen = own.probabilities(photos).argmax(axis=1)
    again = own.probabilities(seen_coarsely(photos)).argmax(axis=1)
    of_photos = np.mean(again == seen)

    run.metrics("imagenet_confidence", confidence)
    run.metrics("imagenet_read_coarsely", read)
    run.metric("photographs_read_coarsely", of_photos)
    rows = {
        "without priors": list(made["none"].clip(0, 1)),
        "jitter, blur, TV": list(with_more_contrast(made["all"])),
    }
    title = f"What {IMAGENET} wants to see (below: contrast raised)"
    names = [own.class_names[number] for number in classes]
    run.figure("imagenet", figures.picture_table(rows, title=title, captions=names))
    run.claim(
        "ImageNet's classes: without priors the network is sure of pictures that it no "
        "longer knows when they are seen coarsely; most of those with priors it knows",
        holds=confidence["none"] > 0.8 and read["all"] > read["none"] + 0.4,
        measured=f"confidence {confidence['none']:.2f} without, {confidence['all']:.2f}; "
        f"at half the resolution {read['none']:.0%} and {read['all']:.0%} are read, and "
        f"of nine photographs {of_photos:.0%} as before",
    )


def measure(model, images, classes, judge, x_test, y_test) -> dict[str, float]:
    """Class images of digits (n, size, size, 1) by a judge's eye and by their pixels."""
    shown = images.clip(0, 1)
    probabilities = np.asarray(ops.softmax(model(images)))
    return {
        "read": np.mean(judge.predict(shown.reshape(len(shown), -1)) == classes),
        "likeness": np.mean(likeness(shown, classes, x_test, y_test)),
        "confidence": np.mean(probabilities[np.arange(len(classes)), classes]),
        "l2": np.mean(images**2),
        "alpha_norm": np.mean((2 * images - 1) ** 6),
        "total_variation": np.mean(total_variation(images)),
    }


def train(run: Run, noise: float, digits, config: Config) -> keras.Model:
    (x_train, y_train), (x_test, y_test) = digits
    model = build_model(config.size, noise)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    training.fit(model, x_train, y_train, epochs=config.epochs, callbacks=run.callbacks)
    return model


def draw_digits(run: Run, name: str, table: dict, images: dict) -> None:
    """The class images of a network, a row for each regularizer."""
    rows = {}
    for each, row in table.items():
        run.metric(f"{name}_{each}_read", row["read"])
        run.metric(f"{name}_{each}_likeness", row["likeness"])
        label = f"{each.replace('_', ' ')}\n{row['read']:.0%} read"
        rows[label] = images[each].clip(0, 1)
    title = f"What the {name} network wants to see of each digit, by regularizer"
    digits = figures.image_rows(rows, title=title, captions=range(10))
    run.figure(name, digits)


def draw_neurons(run: Run, model: keras.Model, start, x_test, config: Config) -> None:
    """What ten neurons of the hidden layer want to see, those that differ most from
    picture to picture, and the held-out digits that excite them most."""
    # Before the rectifier: a silent neuron has a slope there.
    layer = keras.Model(model.input, model.get_layer("neurons").output)
    answers = layer.predict(x_test, verbose=0)
    neurons = np.sort(np.argsort(answers.std(axis=0))[-len(start) :])
    unit = np.std(answers)
    made = climb(run, "neurons", layer, neurons, start, ["all"], config, unit)
    images = made["all"].clip(0, 1)

    excited = np.asarray(layer(images))[:, neurons]
    by_own = np.diag(excited)
    by_digits = answers.max(axis=0)[neurons]
    by_others = (excited - np.diag(np.full(len(neurons), np.inf))).max(axis=0)
    beyond_others = np.mean(by_own > by_others)
    run.metric("neurons_excited_most_by_their_own", beyond_others)
    run.claim(
        "A neuron has its own picture: it excites most neurons more than what was drawn "
        "for any other, and on average about as much as the strongest of the held-out "
        "digits, or more",
        holds=beyond_others >= 0.6 and by_own.mean() > 0.8 * by_digits.mean(),
        measured=f"{beyond_others:.0%} of {len(neurons)} neurons more than by the others' "
        f"pictures; {by_own.mean():.1f} by their own, {by_digits.mean():.1f} by the "
        f"strongest of {len(x_test)} digits",
    )
    strongest = np.argsort(-answers[:, neurons], axis=0)
    rows = {"drawn for\nthe neuron": images}
    for place in range(3):
        rows[f"digit that excites\nit most, {place + 1}"] = x_test[strongest[place]]
    title = "What single neurons of the robust network want to see"
    captions = [f"neuron {number}" for number in neurons]
    run.figure("neurons", figures.image_rows(rows, title=title, captions=captions))


def main(config: Config, run: Run) -> None:
    if config.model != IMAGENET:
        run.plan(1)
        draw_own_classes(run, config)
        return
    # ImageNet's classes, two networks of digits, a climb of each, and neurons.
    run.plan(6)
    draw_imagenet_classes(run, config)

    digits = data.load("digits", size=config.size)
    (x_train, y_train), (x_test, y_test) = digits
    judge = SVC().fit(x_train.reshape(len(x_train), -1), y_train)
    classes = np.tile(np.arange(10), config.starts)
    start = noise_around_gray(run, (len(classes), *x_train.shape[1:]))
    settings = ["all", "none", *REGULARIZERS]
    tables = {}
    for name, noise in {"plain": 0.0, "robust": config.noise}.items():
        model = train(run, noise, digits, config)
        unit = np.std(model.predict(x_train, verbose=0))
        images = climb(run, name, model, classes, start, settings, config, unit)
        tables[name] = {
            each: measure(model, made, classes, judge, x_test, y_test)
            for each, made in images.items()
        }
        draw_digits(run, name, tables[name], images)
        accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
        run.metric(f"{name}_test_accuracy", accuracy)

    draw_neurons(run, model, start[:10], x_test, config)
    packaged = with_tf_keras_vis(model, start[:10], config, unit).clip(0, 1)
    read = judge.predict(packaged.reshape(10, -1)) == np.arange(10)
    run.metric("tf_keras_vis_robust_read", np.mean(read))
    judge_digits(run, tables["plain"], tables["robust"])
    run.export(serving.classifier(model), example=x_test[:3])


def judge_digits(run: Run, plain: dict, robust: dict) -> None:
    """The claims. plain, robust: {setting: what was measured} of each network."""
    none = plain["none"]
    every = plain["all"]
    bare = robust["none"]
    run.claim(
        "Without a natural-image regularizer a network is sure of pictures that a judge cannot "
        "read; with them both agree",
        holds=min(none["confidence"], every["confidence"]) > 0.8
        and every["read"] > none["read"] + 0.3,
        measured=f"confidence {none['confidence']:.3f} without, {every['confidence']:.3f}; the "
        f"judge reads {none['read']:.0%} and {every['read']:.0%} of the pictures",
    )
    left = {
        "l2": plain["l2"]["l2"] / none["l2"],
        "alpha_norm": plain["alpha_norm"]["alpha_norm"] / none["alpha_norm"],
    }
    for each in ("total_variation", "jitter", "blur"):
        left[each] = plain[each]["total_variation"] / none["total_variation"]
    run.claim(
        "Each alone cuts what it is for: the norms the pixels' range, the others the differences "
        "of neighboring pixels",
        holds=max(left.values()) < 0.9,
        measured="left of it: "
        + ", ".join(f"{each} {part:.2g}" for each, part in left.items()),
    )
    best = max(plain[each]["likeness"] for each in REGULARIZERS)
    run.claim(
        "Together they draw more natural pictures than the best of them alone",
        holds=every["likeness"] > best + 0.03,
        measured=f"correlation with the nearest held-out digit {every['likeness']:.2f}, {best:.2f}",
    )
    run.claim(
        "A network trained in noise draws strokes where the plain one draws grain, before any "
        "regularizer",
        holds=bare["likeness"] > none["likeness"] + 0.05
        and bare["read"] >= none["read"],
        measured=f"likeness {bare['likeness']:.2f} against {none['likeness']:.2f}, read "
        f"{bare['read']:.0%} against {none['read']:.0%}",
    )


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
