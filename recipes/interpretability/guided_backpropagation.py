"""Guided backpropagation: only what speaks for the class flows back through a ReLU.

A ReLU passes a gradient back where its input was positive. The deconvnet passes it
where the gradient itself is positive; guided backpropagation where both are, so that
the map collects paths on which every step raises the score. The pictures come out nicer
than the plain gradient's. One neuron can be asked in the same way: collect the pictures
that excite it most, and run back from its activation to find the pixels that did it.
But a nice picture need not explain the network: look at what is left of each map when
the upper layers' weights are drawn anew.

Lectures: CS Visualizing & Understanding (Guided Backpropagation, Maximally activating
    patches)
Paper: Springenberg et al., Striving for simplicity: the all convolutional net, 2015
    (section 3.4);
Zeiler and Fergus, Visualizing and understanding convolutional networks, 2014 (the
deconvnet); Adebayo et al., Sanity checks for saliency maps, 2018 (section 3, randomised
layers)
Tags: guided backprop, deconvnet, deconvolution, saliency map, heatmap, xai,
    explainability
"""

import functools
import math
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.stats import entropy
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation
from tf_keras_vis.utils.scores import CategoricalScore

from deep_learning_recipes import (
    UsageError,
    classifiers,
    data,
    figures,
    serving,
    training,
)
from deep_learning_recipes.run import Run, cli

# What a ReLU hands down, given its input x and the gradient that comes from above.
RULES = {
    "guided": lambda x, above: tf.where((x > 0) & (above > 0), above, 0),
    "deconvnet": lambda x, above: tf.where(above > 0, above, 0),
    "gradient": lambda x, above: tf.where(x > 0, above, 0),
}
REACH, STRIDE = (
    28,
    4,
)  # of a neuron of the last convolution, and to its neighbor, in pixels


@dataclass
class Config:
    size: int = 48
    """side of the scenes in pixels"""
    scenes: int = 3000
    """scenes to train on"""
    epochs: int = 8
    """passes over them"""
    batch_size: int = 64
    """scenes a gradient is averaged over"""
    learning_rate: float = 5e-3
    """of Adam at the start; it falls to 0 along a cosine"""
    explained: int = 200
    """held-out scenes that are explained and measured"""
    model: str = ""
    """EfficientNetLite0 (needs no download), a .keras file or a network of
    keras.applications, to explain in place of one trained here"""
    pixel_range: tuple[float, float] | None = None
    """of the pixels that a .keras file takes, such as 0 255 (None: as its graph says)"""
    image: str = ""
    """a picture of your own, PNG or JPEG"""


QUICK = Config(size=24, scenes=1000, epochs=6, batch_size=32, explained=100)
FULL = Config(size=64, scenes=20_000, epochs=20, explained=500)


# --------------------------------------------------------------------------------------
# The idea: three rules for the way back through a ReLU
# --------------------------------------------------------------------------------------


def build_model(size=48, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch,
    classes)."""
    x = images = keras.Input((size, size, 3), name="images")
    sizes = (16, 5, True), (32, 3, True), (64, 3, False), (64, 3, False)
    for i, (filters, width, pools) in enumerate(sizes, start=1):
        x = layers.Conv2D(
            filters, width, padding="same", use_bias=False, name=f"conv{i}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
        x = layers.Activation("relu", name=f"relu{i}")(x)
        if pools:
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalMaxPooling2D(name="neurons")(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="scenes")


def relu_with(rule, activation=tf.nn.relu, ceiling=None):
    """A ReLU, or what bends like one, whose gradient is `rule`'s. Where it is cut off at
    a ceiling, as ReLU6 is, it is as flat as below 0."""

    @tf.custom_gradient
    def bent(x):
        bends = x if ceiling is None else tf.where(x < ceiling, x, 0)
        return activation(x), lambda above: rule(bends, above)

    return bent


def is_relu(layer) -> bool:
    """Whether a layer is or ends in a ReLU."""
    activation = getattr(layer, "activation", None)
    return isinstance(layer, layers.ReLU) or activation is keras.activations.relu


def with_rule(model: keras.Model, rule) -> keras.Model:
    """A copy of the network whose ReLUs run back by `rule`."""

    def copy(layer):
        if isinstance(layer, layers.ReLU):
            bent = relu_with(rule, layer.call, layer.max_value)
            return layers.Activation(bent, name=layer.name)
        twin = type(layer).from_config(layer.get_config())
        if is_relu(layer):
            twin.activation = relu_with(rule)
        return twin

    twin = keras.models.clone_model(model, clone_function=copy)
    twin.set_weights(model.get_weights())
    return twin


@tf.function
def explain(model: keras.Model, images, indices):
    """max over the channels of |∂S/∂x|, (batch, height, width), of one output S of each
    image: a class's logit, a neuron's activation. The rule is that of the model's
    ReLUs."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = tf.gather(model(images, training=False), indices, batch_dims=1)
    return tf.reduce_max(tf.abs(tape.gradient(scores, images)), axis=-1)


def tf_keras_vis_guided(model: keras.Model, images, classes) -> np.ndarray:
    """Guided backpropagation by tf-keras-vis, whose modifier is a rule of the same
    kind."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        method = Saliency(model, model_modifier=GuidedBackpropagation())
        return method(CategoricalScore(list(classes)), images, normalize_map=False)


def randomise_from_top(model: keras.Model, fresh: keras.Model, images, indices):
    """Yields the maps after one layer more, from the logits down, has got the weights
    of `fresh` (the cascading randomization of Adebayo et al.). Leaves the model without
    what it had learned."""
    for names in [("logits",)] + [(f"conv{i}", f"norm{i}") for i in (4, 3, 2, 1)]:
        for name in names:
            model.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
        yield explain(model, images, indices).numpy()


def kept_without(model: keras.Model, images, indices, maps, part=0.02) -> float:
    """The share of the outputs' sum that is left when the highest `part` of each map's
    pixels is painted over with the picture's mean color."""
    limits = np.quantile(maps, 1 - part, axis=(1, 2), keepdims=True)
    painted = np.where(
        (maps >= limits)[..., None], images.mean((1, 2), keepdims=True), images
    )
    outputs = np.stack([model.predict(each, verbose=0) for each in (images, painted)])
    before, after = outputs[:, np.arange(len(images)), indices].sum(axis=1)
    return after / before


def crop(pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What neurons at these places of the last map see, (n, REACH, REACH, channels); 0
    outside."""
    padded = np.pad(pictures, ((0, 0), (REACH // 2,) * 2, (REACH // 2,) * 2, (0, 0)))
    corners = zip(
        padded, STRIDE * rows + STRIDE // 2, STRIDE * columns + STRIDE // 2, strict=True
    )
    return np.stack(
        [each[row : row + REACH, left : left + REACH] for each, row, left in corners]
    )


# --------------------------------------------------------------------------------------
# The experiment: three photographs in one picture, then digits on photographs
# --------------------------------------------------------------------------------------


def explain_objects(run: Run) -> None:
    """What each rule draws of three classes of ImageNet in one picture."""
    run.print("asking EfficientNet-Lite0 for a cat, a cup and a rocket ...")
    objects = data.load_objects()
    size = objects.images.shape[1:3]
    network = classifiers.load("EfficientNetLite0", size=size).model
    guided = with_rule(network, RULES["guided"])
    maps = {}
    alike = {}
    for name, model in {"gradient": network, "guided": guided}.items():
        maps[name] = explain(model, objects.images, objects.labels).numpy()
        correlations = np.corrcoef(maps[name].reshape(len(objects.names), -1))
        alike[name] = correlations[np.triu_indices(len(objects.names), 1)]
    run.compare(
        "Guided maps of photographs are sharp and say little of the class: asked for a "
        "cat, a cup or a rocket, they are much alike; gradients are not",
        {
            "guided, lowest correlation": alike["guided"].min(),
            "gradient, highest": alike["gradient"].max(),
        },
        more="guided, lowest correlation",
        less="gradient, highest",
        by=0.3,
    )
    shown = {
        name: np.minimum(each, np.quantile(each, 0.99, axis=(1, 2), keepdims=True))
        for name, each in maps.items()
    }
    run.figure(
        "objects",
        figures.heat_maps(
            objects.images,
            shown,
            title="One picture, asked for three classes (1 % of the pixels cut off)",
            captions=objects.names,
            overlay=False,
        ),
    )


def main(config: Config, run: Run) -> None:
    def explain_own(own: classifiers.Classifier, images: np.ndarray) -> None:
        methods = {
            name: functools.partial(explain, with_rule(own.model, rule))
            for name, rule in RULES.items()
        }
        if not any(map(is_relu, own.model.layers)):
            raise UsageError(
                f"--model {config.model}: there is no ReLU in it that could be guided"
            )
        classifiers.explain_own(run, own, images, methods, overlay=False)

    if config.model:
        own = classifiers.from_flags(config, run)
        explain_own(own, own.pictures(config.image))
        return
    size = config.size
    picture = (
        classifiers.read_image(config.image, (size, size)) if config.image else None
    )

    explain_objects(run)
    train, test = data.load_scenes(config.scenes, 500, size=size, seed=run.seed)
    model, fresh = build_model(size), build_model(size)
    steps = config.epochs * math.ceil(config.scenes / config.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    options = {"epochs": config.epochs, "batch_size": config.batch_size}
    training.fit(model, train.images, train.labels, callbacks=run.callbacks, **options)
    if picture is not None:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        explain_own(own, picture[None])

    images, masks = (each[: config.explained] for each in (test.images, test.masks))
    seen = np.asarray(model(images, training=False)).argmax(axis=1)

    # The nine scenes that excite each neuron of the last convolution most.
    last = keras.Model(model.input, model.get_layer("relu4").output)
    neurons = keras.Model(model.input, model.get_layer("neurons").output)
    activations = last.predict(test.images, verbose=0)
    best = np.argsort(-activations.max((1, 2)), axis=0)[:9].T  # (neurons, 9)
    asked = test.images[best.ravel()], np.repeat(np.arange(len(best)), 9)

    found, maps, parts, kept = {}, {}, {}, {}
    for name, rule in RULES.items():
        net = with_rule(model, rule)
        heat = maps[name] = explain(net, images, seen).numpy()
        parts[name] = explain(with_rule(neurons, rule), *asked).numpy()
        drawn_anew = randomise_from_top(net, fresh, images, seen)
        kept[name] = [
            classifiers.rank_correlation(heat, each).mean() for each in drawn_anew
        ]
        measures = {
            "share_on_digit": np.mean((heat * masks).sum((1, 2)) / heat.sum((1, 2))),
            "spread": np.exp(entropy(heat.reshape(len(heat), -1), axis=1)).mean()
            / heat[0].size,
            "correlation_upper_layers_anew": kept[name][1],
            "neurons_keep_when_erased": kept_without(neurons, *asked, parts[name]),
        }
        for measure, value in measures.items():
            run.metric(f"{name}_{measure}", value)
            found.setdefault(measure, {})[name] = value
    noise = np.random.default_rng(run.seed).random(parts["guided"].shape)
    of_noise = kept_without(neurons, *asked, noise)
    run.metric("neurons_keep_when_erased_at_random", of_noise)
    run.metric("test_accuracy", model.evaluate(test.images, test.labels, verbose=0)[1])
    library = tf_keras_vis_guided(model, images[:32], seen[:32])
    difference = np.abs(maps["guided"][:32] - library).max() / library.max()

    def said(measure):
        return ", ".join(
            f"{name} {value:.3f}" for name, value in found[measure].items()
        )

    guided, deconvnet, plain = found["share_on_digit"].values()
    run.claim(
        "Guided maps are cleaner: more of them lies on the digit than of the deconvnet's, and more "
        "of the deconvnet's than of the plain gradient's",
        holds=guided - 0.03 > deconvnet > plain + 0.03,
        measured=f"{said('share_on_digit')}; spread over {said('spread')} of the picture",
    )
    guided, _, plain = found["correlation_upper_layers_anew"].values()
    run.claim(
        "Clean is not faithful: with the logits and the last convolution drawn anew the network "
        "reads nothing, yet the guided map stays much as it was, and more so than the gradient",
        holds=guided > max(0.6, plain + 0.02),
        measured=f"rank correlation with the map before: {said('correlation_upper_layers_anew')}",
    )
    run.claim(
        "Run back from one neuron, it finds the pixels that excite it: the neuron loses far more "
        "without the highest 2 % than without as many others",
        holds=found["neurons_keep_when_erased"]["guided"] < of_noise - 0.2,
        measured=f"activation kept: {said('neurons_keep_when_erased')}, random {of_noise:.3f}",
    )
    run.claim(
        "One more condition in the ReLU is all: tf-keras-vis's modifier gives the same maps",
        holds=difference < 1e-4,
        measured=f"largest difference {difference:.1e} of the highest value over 32 scenes",
    )

    drawn = {
        "title": "One gradient, three rules",
        "captions": [f"read as {k}" for k in seen[:5]],
    }
    run.figure("rules", figures.heat_maps(images[:5], maps, overlay=False, **drawn))
    rows, columns = np.divmod(
        activations.reshape(500, -1, 64).argmax(axis=1), size // STRIDE
    )
    patches = {}
    for neuron in np.argsort(-activations.max((0, 1, 2)))[:4]:
        scenes, heat = (
            best[neuron],
            parts["guided"][9 * neuron : 9 * neuron + 9, ..., None],
        )
        places = rows[scenes, neuron], columns[scenes, neuron]
        patches[f"excite neuron {neuron}"] = crop(test.images[scenes], *places)
        patches[f"guided {neuron}"] = crop(
            heat / heat.max((1, 2), keepdims=True), *places
        )
    run.figure(
        "patches", figures.image_rows(patches, title="What excites a neuron", columns=9)
    )
    axes = {
        "xlabel": "layers drawn anew, from the logits down",
        "ylabel": "rank correlation",
    }
    run.figure(
        "randomized",
        figures.curves(kept, title="Correlation with the original map", **axes),
    )
    run.export(serving.classifier(model), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
