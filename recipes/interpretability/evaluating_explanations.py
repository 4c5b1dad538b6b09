"""Do explanations explain? Seven methods and two impostors where the truth is known.

A heat map that looks right proves nothing: an edge detector's looks right too. So each
method is asked what can be measured. Localization: does it light the digit, whose
pixels are known? Deletion: does the class's probability fall when the pixels rated
highest are blackened first; insertion: does it rise when they are the first to come
into a blurred picture (mean over the way)? Randomization: a map that stays as it was
when random weights replace the layers', from the last one down, cannot have told what
the network learned. Shortcut: another network learns labels that only a small colored
mark in a corner gives away; what explains it has to light the mark.
Look at the table: no check alone unmasks both impostors but deletion and insertion.

Lectures: N18 7.3 Evaluating Methods; CS Visualizing & Understanding
Paper: Adebayo et al., Sanity checks for saliency maps, 2018; Petsiuk et al., RISE, 2018
    (deletion, insertion); Sundararajan et al., Axiomatic attribution for deep networks,
    2017 (equation 1)
Tags: xai, explainability, attribution, integrated gradients, sanity checks,
    faithfulness, insertion, deletion
"""

import timeit
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from scipy.ndimage import gaussian_filter

from deep_learning_recipes import classifiers, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: int = 32
    """side of the pictures in pixels"""
    train_scenes: int = 3000
    """pictures to learn from: a digit on a photograph"""
    epochs: int = 8
    """passes over them; the network that learns marks, which is easier, makes a third"""
    batch_size: int = 32
    """pictures a gradient is averaged over"""
    explained: int = 64
    """held-out pictures to explain, of those that the network reads rightly"""
    samples: int = 16
    """gradients that SmoothGrad averages; integrated gradients takes twice as many"""


# 1: the more, the better; -1: the less.
CHECKS = {
    "share on digit": 1,
    "points at digit": 1,
    "overlap with digit": 1,
    "deletion": -1,
}
CHECKS |= {"insertion": 1, "alike with 2 random": -1, "alike with all random": -1}
CHECKS |= {
    "points at learned mark": 1,
    "points at unlearned mark": -1,
    "ms an image": -1,
}
IMPOSTORS = ["edge detector", "random noise"]
QUICK = Config(
    size=24, train_scenes=1000, epochs=6, batch_size=16, explained=20, samples=8
)
FULL = Config(train_scenes=12_000, epochs=20, explained=256)


def build_model(classes=10) -> keras.Model:
    """Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes)
    logits."""
    x = images = keras.Input((None, None, 3), name="images")
    for number, filters in enumerate((16, 32, 64, 64), 1):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"layer{number}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu", name=f"relu{number}")(x)
        x = layers.MaxPooling2D(2)(x) if number < 3 else x
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="scenes")


def split(model: keras.Model, layer: str) -> keras.Model:
    """The model with a layer's output beside its logits; of `images`, the picture
    itself."""
    return keras.Model(model.input, [model.get_layer(layer).output, model.output])


def gradients_at(parts: keras.Model, images, classes):
    """A layer's output, and the gradients of the classes' logits with respect to it."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        output, logits = parts(images, training=False)
        scores = tf.gather(logits, classes, batch_dims=1)
    return output, tape.gradient(scores, output)


def smooth_gradients(parts: keras.Model, images, classes, samples: int, noise=0.15):
    """The gradients' mean over noisy copies of the pictures (Smilkov et al.,
    SmoothGrad, 2017)."""
    blurs = tf.random.stateless_normal((samples, *images.shape), (0, 0), stddev=noise)
    gradients = tf.map_fn(
        lambda blur: gradients_at(parts, images + blur, classes)[1], blurs
    )
    return tf.reduce_mean(gradients, axis=0)


def integrated_gradients(parts: keras.Model, images, classes, steps: int):
    """Each number's part, (n, height, width, 3), in the logit less that of a black
    picture."""
    points = (tf.range(steps, dtype=tf.float32) + 0.5) / steps
    gradients = tf.map_fn(
        lambda part: gradients_at(parts, part * images, classes)[1], points
    )
    return images * tf.reduce_mean(gradients, axis=0)


@tf.custom_gradient
def guided_relu(x):
    return tf.nn.relu(
        x
    ), lambda upstream: tf.nn.relu(upstream) * tf.cast(x > 0, x.dtype)


def guided(model: keras.Model) -> keras.Model:
    """The same layers and weights around ReLUs that let only positive gradients
    back."""
    x = model.input
    for layer in model.layers[1:]:
        x = (
            layers.Activation(guided_relu)(x)
            if layer.name.startswith("relu")
            else layer(x)
        )
    return keras.Model(model.input, x)


def grad_cam(parts: keras.Model, images, classes):
    """The maps of a layer, each weighed by the mean of its gradient."""
    maps, gradients = gradients_at(parts, images, classes)
    heat = maps * tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(heat, axis=-1, keepdims=True))
    return tf.image.resize(heat, images.shape[1:3])


def occlusion(parts: keras.Model, images, classes, cells=8):
    """How much of the logit is lost under a soft black patch around each of 8 x 8
    places."""
    patches = tf.reshape(tf.eye(cells**2), (-1, cells, cells, 1))

    def logit(patch):
        covered = images * (1 - tf.image.resize(patch, images.shape[1:3]))
        return tf.gather(parts(covered, training=False)[1], classes, batch_dims=1)

    lost = tf.nn.relu(logit(0 * patches[0]) - tf.map_fn(logit, patches))
    return tf.image.resize(
        tf.reshape(tf.transpose(lost), (-1, cells, cells, 1)), images.shape[1:3]
    )


def compile_methods(model: keras.Model, samples: int) -> dict:
    """By name a function of images (n, size, size, 3) and classes (n,): maps (n, size,
    size)."""
    pixels, last = split(model, "images"), split(model, "relu4")
    guided_pixels = split(guided(model), "images")
    methods = {
        "gradient": lambda x, y: gradients_at(pixels, x, y)[1],
        "gradient × input": lambda x, y: x * gradients_at(pixels, x, y)[1],
        "SmoothGrad": lambda x, y: smooth_gradients(pixels, x, y, samples),
        "integrated gradients": lambda x, y: integrated_gradients(
            pixels, x, y, 2 * samples
        ),
        "guided backpropagation": lambda x, y: gradients_at(guided_pixels, x, y)[1],
        "Grad-CAM": lambda x, y: grad_cam(last, x, y),
        "occlusion": lambda x, y: occlusion(pixels, x, y),
        "edge detector": lambda x, _: tf.norm(tf.image.sobel_edges(x), axis=-1),
        "random noise": lambda x, _: tf.random.uniform(tf.shape(x)),
    }

    def explain(method, images, classes):
        return tf.reduce_max(
            tf.abs(method(images, classes)), axis=-1
        )  # of the three colors

    return {
        name: tf.function(partial(explain, method)) for name, method in methods.items()
    }


@tf.function
def mean_probability(model, images, maps, classes, instead, steps=20):
    """The class's probability (n,), mean while pixels are replaced, those rated highest
    first."""
    n, height, width, _ = images.shape
    order = tf.argsort(tf.reshape(maps, (n, -1)), direction="DESCENDING", stable=True)
    ranks = tf.reshape(tf.argsort(order), (n, height, width, 1))

    def probability(step):
        pixels = tf.where(ranks < step * height * width // steps, instead, images)
        return tf.gather(
            tf.nn.softmax(model(pixels, training=False)), classes, batch_dims=1
        )

    found = tf.map_fn(probability, tf.range(steps + 1), fn_output_signature=tf.float32)
    return tf.reduce_mean((found[1:] + found[:-1]) / 2, axis=0)


def cascade(model: keras.Model):
    """Yields each layer's name once its weights are random ones, from the last layer
    down."""
    for layer, fresh in reversed(
        list(zip(model.layers, build_model().layers, strict=True))
    ):
        layer.set_weights(fresh.get_weights())
        if isinstance(layer, (layers.Dense, layers.Conv2D)):
            yield layer.name


def mark(images: np.ndarray, labels: np.ndarray, side=5) -> np.ndarray:
    """The images with a square in the label's color in the upper left corner."""
    colors = np.array(list(np.ndindex(2, 2, 3)), "float32")[1:11] / (1, 1, 2)
    marked = images.copy()
    marked[:, :side, :side] = colors[labels][:, np.newaxis, np.newaxis]
    return marked


def main(config: Config, run: Run) -> None:
    run.plan(2)

    def fit(images, labels, epochs) -> keras.Model:
        model = build_model()
        steps = epochs * len(labels) // config.batch_size
        rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        options = {
            "epochs": epochs,
            "batch_size": config.batch_size,
            "callbacks": run.callbacks,
        }
        training.fit(model, images, labels, **options)
        return model

    def explain(images, classes) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(method(images, classes))
            for name, method in methods.items()
        }

    rng = np.random.default_rng(run.seed)
    train, test = data.load_scenes(
        config.train_scenes, 500, size=config.size, seed=run.seed
    )
    told, asked = np.split(
        rng.integers(0, 10, config.train_scenes + 500), [config.train_scenes]
    )
    model = fit(train.images, train.labels, config.epochs)
    of_marks = fit(mark(train.images, told), told, -(-config.epochs // 3))
    read = np.argmax(model(test.images, training=False), axis=1)
    chosen = np.flatnonzero(read == test.labels)[: config.explained]
    n = len(chosen)
    x, y, masks = test.images[chosen], test.labels[chosen], test.masks[chosen]
    marked = mark(x, asked[:n])
    corner, blurred = (marked != x).any(axis=-1), gaussian_filter(x, (0, 4, 4, 0))
    methods, learned, rows = (
        compile_methods(model, config.samples),
        model.get_weights(),
        {},
    )
    unlearned, random = (
        explain(marked, asked[:n]),
        {
            name: explain(x, y)
            for name in cascade(model)
            if name in ("layer4", "layer1")
        },
    )
    model.set_weights(of_marks.get_weights())
    seeing = explain(marked, asked[:n])
    model.set_weights(learned)
    maps = explain(x, y)
    for name, heat in maps.items():
        rows[name] = [
            classifiers.share_on_object(heat, masks).mean(),
            classifiers.pointing_game(heat, masks, tolerance=2).mean(),
            classifiers.overlap(heat, masks).mean(),
            np.mean(mean_probability(model, x, heat, y, 0 * x)),
            np.mean(mean_probability(model, blurred, heat, y, x)),
            classifiers.rank_correlation(heat, random["layer4"][name]).mean(),
            classifiers.rank_correlation(heat, random["layer1"][name]).mean(),
            classifiers.pointing_game(seeing[name], corner, tolerance=6).mean(),
            classifiers.pointing_game(unlearned[name], corner, tolerance=6).mean(),
            1e3 * timeit.timeit(partial(methods[name], x, y), number=1) / n,
        ]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(CHECKS))
    honest, impostors = table.drop(IMPOSTORS), table.loc[IMPOSTORS]
    # Of the curve of insertion above that of deletion.
    area = table["insertion"] - table["deletion"]
    margin = area.drop(IMPOSTORS).min() - area[IMPOSTORS].max()
    run.metric("margin_over_impostors", margin)
    run.metric("test_accuracy", np.mean(read == test.labels))
    by_mark = np.argmax(of_marks(marked, training=False), axis=1)
    run.metric("accuracy_by_mark", np.mean(by_mark == asked[:n]))
    for (name, check), value in table.stack().items():
        run.metric(f"{name}, {check}", value, timing=check == "ms an image")
    title = "Seven explanations and two impostors, checked: the brighter, the better"
    run.figure(
        "table", figures.score_table(table.to_dict("index"), CHECKS, title=title)
    )
    kinds = {
        "trained": maps,
        "2 layers random": random["layer4"],
        "all random": random["layer1"],
    }
    kinds["learned marks"] = seeing
    shown = {name: [kind[name][0] for kind in kinds.values()] for name in methods}
    pictures = np.stack([x[0], x[0], x[0], marked[0]])
    options = {
        "title": "One picture, four networks",
        "captions": [*kinds],
        "overlay": False,
    }
    run.figure("maps", figures.heat_maps(pictures, shown, **options))
    said = {c: ", ".join(f"{n} {v:.2f}" for n, v in table[c].items()) for c in CHECKS}
    pointing, leak = impostors["points at digit"].max(), table["alike with all random"]
    run.claim(
        "Each impostor passes a check; deletion and insertion together unmask both: of the seven "
        "methods each has more area between the two curves",
        holds=margin > 0.05 and pointing > 0.8 and leak["random noise"] < 0.1,
        measured=f"area larger by {margin:.3f}; deletion: {said['deletion']}; insertion: "
        f"{said['insertion']}; edges point at {pointing:.2f} of the digits, noise correlates by "
        f"{leak['random noise']:.2f}",
    )
    alike = honest["alike with 2 random"].sort_values()
    run.claim(
        "With random weights in the last two layers guided backpropagation's map changes least",
        holds=alike.index[-1] == "guided backpropagation"
        and alike.iloc[-1] > alike.iloc[-2] + 0.05,
        measured=f"rank correlation {said['alike with 2 random']}",
    )
    run.claim(
        "What multiplies by the picture shows the picture, even with random weights in all layers",
        holds=leak[["gradient × input", "integrated gradients"]].min()
        > leak["gradient"] + 0.1,
        measured=f"rank correlation {said['alike with all random']}",
    )
    gain = table["points at learned mark"] - table["points at unlearned mark"]
    run.claim(
        "Each of the seven methods finds the mark that the network goes by, no impostor does",
        holds=gain.drop(IMPOSTORS).min() > max(0.3, gain[IMPOSTORS].max() + 0.15),
        measured=f"learned {said['points at learned mark']}; "
        f"unlearned {said['points at unlearned mark']}",
    )
    run.export(serving.classifier(model), example=x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
