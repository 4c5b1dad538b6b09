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

# Of a neuron of the last convolution, in pixels: what it sees, and how far its neighbor
# is.
REACH = 28
STRIDE = 4
BEST = 9  # scenes that excite a neuron most


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


def guided_rule(x, above):
    """What a ReLU hands down, given its input and the gradient from above."""
    return tf.where((x > 0) & (above > 0), above, 0)


def deconvnet_rule(x, above):
    return tf.where(above > 0, above, 0)


def gradient_rule(x, above):
    return tf.where(x > 0, above, 0)


RULES = {
    "guided": guided_rule,
    "deconvnet": deconvnet_rule,
    "gradient": gradient_rule,
}


def build_model(size=48, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch,
    classes)."""
    x = images = keras.Input((size, size, 3), name="images")
    for i, filters in enumerate((16, 32, 64, 64), start=1):
        width = 5 if i == 1 else 3
        x = layers.Conv2D(
            filters, width, padding="same", use_bias=False, name=f"conv{i}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
        x = layers.Activation("relu", name=f"relu{i}")(x)
        if i <= 2:
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
    is_painted = (maps >= limits)[..., None]
    painted = np.where(is_painted, images.mean((1, 2), keepdims=True), images)

    rows = np.arange(len(images))
    before = model.predict(images, verbose=0)[rows, indices].sum()
    after = model.predict(painted, verbose=0)[rows, indices].sum()
    return after / before


def crop(pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What neurons at these places of the last map see, (n, REACH, REACH, channels); 0
    outside."""
    margin = (REACH // 2, REACH // 2)
    padded = np.pad(pictures, ((0, 0), margin, margin, (0, 0)))
    # Where the middle of what a neuron sees begins.
    tops = STRIDE * rows + STRIDE // 2
    lefts = STRIDE * columns + STRIDE // 2
    patches = [
        picture[top : top + REACH, left : left + REACH]
        for picture, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return np.stack(patches)


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


def train(config: Config, run: Run, model: keras.Model, scenes: data.Scenes) -> None:
    steps = config.epochs * math.ceil(len(scenes.images) / config.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    training.fit(
        model,
        scenes.images,
        scenes.labels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


def explain_own(
    config: Config, run: Run, own: classifiers.Classifier, images: np.ndarray
) -> None:
    if not any(map(is_relu, own.model.layers)):
        raise UsageError(
            f"--model {config.model}: there is no ReLU in it that could be guided"
        )
    methods = {
        name: functools.partial(explain, with_rule(own.model, rule))
        for name, rule in RULES.items()
    }
    classifiers.explain_own(run, own, images, methods, overlay=False)


def judge_maps(
    run: Run, maps: dict[str, np.ndarray], masks: np.ndarray, library: np.ndarray
) -> None:
    """maps: by rule. library: tf-keras-vis's guided maps of the first scenes."""
    shares = {}
    spreads = {}
    for name, heat in maps.items():
        pixels = heat.reshape(len(heat), -1)
        on_digit = (heat * masks).sum((1, 2)) / heat.sum((1, 2))
        shares[name] = on_digit.mean()
        spreads[name] = np.exp(entropy(pixels, axis=1)).mean() / pixels.shape[1]
        run.metric(f"{name}_share_on_digit", shares[name])
        run.metric(f"{name}_spread", spreads[name])
    run.claim(
        "Guided maps are cleaner: more of them lies on the digit than of the deconvnet's, "
        "and more of the deconvnet's than of the plain gradient's",
        holds=shares["guided"] - 0.03 > shares["deconvnet"] > shares["gradient"] + 0.03,
        measured=f"{in_words(shares)}; spread over {in_words(spreads)} of the picture",
    )
    difference = np.abs(maps["guided"][: len(library)] - library).max() / library.max()
    run.claim(
        "One more condition in the ReLU is all: tf-keras-vis's modifier gives the same "
        "maps",
        holds=difference < 1e-4,
        measured=f"largest difference {difference:.1e} of the highest value over "
        f"{len(library)} scenes",
    )


def in_words(by_rule: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in by_rule.items())


def judge_faithfulness(
    run: Run,
    nets: dict[str, keras.Model],
    fresh: keras.Model,
    images: np.ndarray,
    classes: np.ndarray,
    maps: dict[str, np.ndarray],
) -> None:
    """How much of each rule's maps outlives what the network has learned. The networks
    are without it afterwards. fresh: a network that has not learned."""
    kept = {}
    for name, net in nets.items():
        drawn_anew = randomise_from_top(net, fresh, images, classes)
        kept[name] = [
            classifiers.rank_correlation(maps[name], each).mean() for each in drawn_anew
        ]
    # The logits and the last convolution are drawn anew.
    upper = {name: each[1] for name, each in kept.items()}
    for name, value in upper.items():
        run.metric(f"{name}_correlation_upper_layers_anew", value)
    run.claim(
        "Clean is not faithful: with the logits and the last convolution drawn anew the "
        "network reads nothing, yet the guided map stays much as it was, and more so than "
        "the gradient",
        holds=upper["guided"] > max(0.6, upper["gradient"] + 0.02),
        measured=f"rank correlation with the map before: {in_words(upper)}",
    )
    run.figure(
        "randomized",
        figures.curves(
            kept,
            title="Correlation with the original map",
            xlabel="layers drawn anew, from the logits down",
            ylabel="rank correlation",
        ),
    )


def ask_neurons(run: Run, model: keras.Model, images: np.ndarray) -> None:
    """Each neuron of the last convolution, about the nine scenes that excite it most."""
    last = keras.Model(model.input, model.get_layer("relu4").output)
    neurons = keras.Model(model.input, model.get_layer("neurons").output)
    activations = last.predict(images, verbose=0)
    best = np.argsort(-activations.max((1, 2)), axis=0)[:BEST].T  # (neurons, BEST)
    scenes = images[best.ravel()]
    asked = np.repeat(np.arange(len(best)), BEST)

    maps = {}
    kept = {}
    for name, rule in RULES.items():
        maps[name] = explain(with_rule(neurons, rule), scenes, asked).numpy()
        kept[name] = kept_without(neurons, scenes, asked, maps[name])
        run.metric(f"{name}_neurons_keep_when_erased", kept[name])
    noise = np.random.default_rng(run.seed).random(maps["guided"].shape)
    of_noise = kept_without(neurons, scenes, asked, noise)
    run.metric("neurons_keep_when_erased_at_random", of_noise)
    run.claim(
        "Run back from one neuron, it finds the pixels that excite it: the neuron loses "
        "far more without the highest 2 % than without as many others",
        holds=kept["guided"] < of_noise - 0.2,
        measured=f"activation kept: {in_words(kept)}, random {of_noise:.3f}",
    )
    guided = maps["guided"].reshape(*best.shape, *images.shape[1:3], 1)
    draw_patches(run, images, activations, best, guided)


def draw_patches(run: Run, images, activations, best, guided) -> None:
    """What the four most excited neurons see. best: (neurons, BEST) scenes; guided:
    their maps, (neurons, BEST, height, width, 1)."""
    count, _, width, neurons = activations.shape
    places = activations.reshape(count, -1, neurons).argmax(axis=1)
    patches = {}
    for neuron in np.argsort(-activations.max((0, 1, 2)))[:4]:
        scenes = best[neuron]
        rows, columns = np.divmod(places[scenes, neuron], width)
        heat = guided[neuron]
        heat = heat / heat.max((1, 2), keepdims=True)
        patches[f"excite neuron {neuron}"] = crop(images[scenes], rows, columns)
        patches[f"guided {neuron}"] = crop(heat, rows, columns)
    drawn = figures.image_rows(patches, title="What excites a neuron", columns=BEST)
    run.figure("patches", drawn)


def main(config: Config, run: Run) -> None:
    if config.model:
        own = classifiers.from_flags(config, run)
        explain_own(config, run, own, own.pictures(config.image))
        return
    # A bad picture is said before the training, not after it.
    shape = (config.size, config.size)
    picture = classifiers.read_image(config.image, shape) if config.image else None

    explain_objects(run)
    scenes, test = data.load_scenes(config.scenes, 500, size=config.size, seed=run.seed)
    model = build_model(config.size)
    fresh = build_model(config.size)
    train(config, run, model, scenes)
    if picture is not None:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        explain_own(config, run, own, picture[None])
    accuracy = model.evaluate(test.images, test.labels, verbose=0)[1]

    images = test.images[: config.explained]
    masks = test.masks[: config.explained]
    seen = np.asarray(model(images, training=False)).argmax(axis=1)
    nets = {name: with_rule(model, rule) for name, rule in RULES.items()}
    maps = {name: explain(net, images, seen).numpy() for name, net in nets.items()}
    judge_maps(run, maps, masks, tf_keras_vis_guided(model, images[:32], seen[:32]))
    run.metric("test_accuracy", accuracy)
    judge_faithfulness(run, nets, fresh, images, seen, maps)
    ask_neurons(run, model, test.images)

    run.figure(
        "rules",
        figures.heat_maps(
            images[:5],
            maps,
            title="One gradient, three rules",
            captions=[f"read as {digit}" for digit in seen[:5]],
            overlay=False,
        ),
    )
    run.export(serving.classifier(model), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
