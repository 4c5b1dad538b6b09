"""Class images: gradient ascent draws what a network wants to see.

Hold the weights, and change the picture: x ← x + η ∇ₓ(S_c(x) − R(x)) climbs to where
the score S_c of class c is highest. Without R the network is sure and a stranger sees
noise: almost any picture can be bent a little in every pixel until the score is high. R
asks for a natural picture: an L2 norm or an α-norm (α = 6) keeps the pixels in range,
the total variation asks for flat areas, jitter moves the picture at each step so that
single pixels cannot matter, blur wipes out fine grain.
Look at the class images with each of them, read by a judge that the network has never
met, and at those of a network trained in noise, which no single pixel can sway: its own
gradients are strokes.

Lectures: CS Visualizing & Understanding (Synthesizing images); N18 4.3 Understanding
    CNNs
Paper: Simonyan et al., Deep inside convolutional networks, 2014 (section 2: L2);
    Mahendran and Vedaldi, Understanding deep image representations by inverting them,
    2015 (α-norm, total variation); Yosinski et al., Understanding neural networks
    through deep visualization, 2015 (blur); Mordvintsev et al., Inceptionism, 2015
    (jitter)
Tags: feature visualization, input optimization, class model, total variation, xai,
    explainability
"""

import math
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.svm import SVC
from tf_keras_vis.activation_maximization import ActivationMaximization
from tf_keras_vis.activation_maximization.input_modifiers import Jitter
from tf_keras_vis.activation_maximization.regularizers import Norm, TotalVariation2D
from tf_keras_vis.utils.scores import CategoricalScore

from deep_learning_recipes import classifiers, data, figures, serving, training
from deep_learning_recipes.run import Run, cli

REGULARIZERS = ("l2", "alpha_norm", "total_variation", "jitter", "blur")


@dataclass
class Config:
    model: str = ""
    """a .keras file or a network of keras.applications, to draw the first ten classes
    of, in place of the networks trained here"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
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
    blur: float = 0.35
    """standard deviation in pixels of the Gaussian that a picture is blurred with after
    a step"""


QUICK = Config(size=16, epochs=6, starts=3, steps=40, step_size=0.15)
FULL = Config(epochs=40, starts=10, steps=500)


def build_model(size: int, noise: float, classes: int = 10) -> keras.Model:
    """Input: (batch, size, size, 1) in [0, 1]. Output: (batch, classes) logits."""
    images = keras.Input((size, size, 1), name="images")
    x = layers.GaussianNoise(noise)(images)
    for filters, width in ((16, 5), (32, 3), (64, 3)):
        x = layers.Conv2D(filters, width, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
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
    is_moved, is_blurred = (
        strengths[name][:, None, None, None] > 0 for name in REGULARIZERS[3:]
    )

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
    flat, real = images.reshape(len(images), -1), x.reshape(len(x), -1)
    correlations = np.corrcoef(flat, real)[: len(flat), len(flat) :]
    return np.where(y == classes[:, None], correlations, -1).max(axis=1)


def main(config: Config, run: Run) -> None:
    run.plan(1 if config.model else 4)  # two networks, and a climb of each

    def climb(name, model, classes, start, settings, unit):
        """{setting: what a copy of `start` climbs to, with one regularizer, all, or
        none}."""
        is_on = {each: np.isin(settings, [each, "all"]) for each in REGULARIZERS}
        count = len(start)
        strengths = {
            k: np.repeat(getattr(config, k) * on, count) for k, on in is_on.items()
        }
        classes = np.tile(classes, len(settings))
        ascend = build_ascent(
            model, classes, strengths, config, unit=unit, seed=run.seed
        )
        images = tf.Variable(np.tile(start, (len(settings), 1, 1, 1)))
        for tenth in run.loop(name, 10, {"images": images}, unit="tenths"):
            first, last = (
                tf.constant(config.steps * each // 10) for each in (tenth, tenth + 1)
            )
            images.assign(ascend(images, first, last))
        return dict(zip(settings, np.split(images.numpy(), len(settings)), strict=True))

    random = np.random.default_rng(run.seed)
    if config.model:
        own = classifiers.from_flags(config, run)
        names = own.class_names[:10]
        shape = len(names), *own.model.inputs[0].shape[1:]
        start = 0.5 + 0.2 * random.standard_normal(shape, "float32")
        # A network that says the same of every picture has no spread to divide by.
        unit = np.std(own.model(start, training=False)) or 1.0
        images = climb("climbing", own.model, range(len(names)), start, ["all"], unit)[
            "all"
        ]
        for name, each in zip(names, np.diag(own.probabilities(images)), strict=True):
            run.metric(f"confidence_{name}", each)
        options = {
            "title": f"What {own.model.name} wants to see",
            "captions": names,
            "columns": 5,
        }
        run.figure("class_images", figures.image_grid(images.clip(0, 1), **options))
        return

    (x_train, y_train), (x_test, y_test) = data.load("digits", size=config.size)
    judge = SVC().fit(x_train.reshape(len(x_train), -1), y_train)
    classes = np.tile(np.arange(10), config.starts)
    start = 0.5 + 0.2 * random.standard_normal(
        (len(classes), *x_train.shape[1:]), "float32"
    )

    def measure(model, images):
        shown, probabilities = images.clip(0, 1), np.asarray(ops.softmax(model(images)))
        return {
            "read": np.mean(judge.predict(shown.reshape(len(shown), -1)) == classes),
            "likeness": np.mean(likeness(shown, classes, x_test, y_test)),
            "confidence": np.mean(probabilities[np.arange(len(classes)), classes]),
            "l2": np.mean(images**2),
            "alpha_norm": np.mean((2 * images - 1) ** 6),
            "total_variation": np.mean(total_variation(images)),
        }

    table = {}
    for name, noise in {"plain": 0.0, "robust": config.noise}.items():
        model = build_model(config.size, noise)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        training.fit(
            model, x_train, y_train, epochs=config.epochs, callbacks=run.callbacks
        )
        unit = np.std(model.predict(x_train, verbose=0))
        images = climb(
            name, model, classes, start, ["all", "none", *REGULARIZERS], unit
        )
        table[name] = {each: measure(model, made) for each, made in images.items()}
        rows = {}
        for each, row in table[name].items():
            run.metric(f"{name}_{each}_read", row["read"])
            run.metric(f"{name}_{each}_likeness", row["likeness"])
            rows[f"{each.replace('_', ' ')}\n{row['read']:.0%} read"] = images[
                each
            ].clip(0, 1)
        run.metric(
            f"{name}_test_accuracy", model.evaluate(x_test, y_test, verbose=0)[1]
        )
        title = f"What the {name} network wants to see, by regularizer"
        run.figure(name, figures.image_rows(rows, title=title))

    packaged = (
        with_tf_keras_vis(model, start[:10], config, unit).clip(0, 1).reshape(10, -1)
    )
    run.metric(
        "tf_keras_vis_robust_read", np.mean(judge.predict(packaged) == np.arange(10))
    )

    plain, bare = table["plain"], table["robust"]["none"]
    none, every = plain["none"], plain["all"]
    run.claim(
        "Without a natural-image regularizer a network is sure of pictures that a judge cannot "
        "read; with them both agree",
        holds=min(none["confidence"], every["confidence"]) > 0.8
        and every["read"] > none["read"] + 0.3,
        measured=f"confidence {none['confidence']:.3f} without, {every['confidence']:.3f}; the "
        f"judge reads {none['read']:.0%} and {every['read']:.0%} of the pictures",
    )
    aims = dict(
        zip(REGULARIZERS, REGULARIZERS[:3] + REGULARIZERS[2:3] * 2, strict=True)
    )
    left = {each: plain[each][aim] / none[aim] for each, aim in aims.items()}
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
    run.export(serving.classifier(model), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
