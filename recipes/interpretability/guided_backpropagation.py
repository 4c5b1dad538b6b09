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

# What a ReLU hands down, given its input x and the gradient that comes from above.
RULES = {
    "guided": lambda x, above: tf.where((x > 0) & (above > 0), above, 0),
    "deconvnet": lambda x, above: tf.where(above > 0, above, 0),
    "gradient": lambda x, above: tf.where(x > 0, above, 0),
}
REACH = 28  # pixels that a neuron of the last convolution sees in a row
STRIDE = 4  # pixels from one neuron to the next


def build_model(size=48, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch,
    classes)."""
    images = keras.Input((size, size, 3), name="images")
    x = images
    sizes = ((16, 5), (32, 3), (64, 3), (64, 3))
    for number, (filters, width) in enumerate(sizes, start=1):
        x = layers.Conv2D(
            filters, width, padding="same", use_bias=False, name=f"conv{number}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.Activation("relu", name=f"relu{number}")(x)
        if number <= 2:
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


def explain(model: keras.Model, images, indices):
    """max over the channels of |∂S/∂x|, (batch, height, width), of one output S of each
    image: a class's logit, a neuron's activation. The rule is that of the model's
    ReLUs."""
    images = tf.convert_to_tensor(images)
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


def randomize_from_top(model: keras.Model, fresh: keras.Model, images, indices):
    """Yields the maps after one layer more, from the logits down, has got the weights
    of `fresh` (the cascading randomization of Adebayo et al.). Leaves the model without
    what it had learned."""
    pairs = [(f"conv{number}", f"norm{number}") for number in (4, 3, 2, 1)]
    for names in [("logits",), *pairs]:
        for name in names:
            model.get_layer(name).set_weights(fresh.get_layer(name).get_weights())
        yield explain(model, images, indices).numpy()


def kept_without(model: keras.Model, images, indices, maps, part=0.02) -> float:
    """The share of the outputs' sum that is left when the highest `part` of each map's
    pixels is painted over with the picture's mean color."""
    limits = np.quantile(maps, 1 - part, axis=(1, 2), keepdims=True)
    is_highest = (maps >= limits)[..., np.newaxis]
    painted = np.where(is_highest, images.mean((1, 2), keepdims=True), images)
    each = np.arange(len(images))
    before = model.predict(images, verbose=0)[each, indices].sum()
    after = model.predict(painted, verbose=0)[each, indices].sum()
    return after / before


def crop(pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What neurons at these places of the last map see, (n, REACH, REACH, channels); 0
    outside."""
    edge = (REACH // 2, REACH // 2)
    padded = np.pad(pictures, ((0, 0), edge, edge, (0, 0)))
    corners = STRIDE * np.stack([rows, columns], axis=1) + STRIDE // 2
    patches = []
    for picture, (top, left) in zip(padded, corners, strict=True):
        patches.append(picture[top : top + REACH, left : left + REACH])
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
        "Guided maps of photographs say little of the class: asked for a cat, a cup or a "
        "rocket, they are much alike; gradients are not",
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
        ),
    )


def explain_own(
    own: classifiers.Classifier, images: np.ndarray, config: Config, run: Run
) -> None:
    if not any(map(is_relu, own.model.layers)):
        raise UsageError(
            f"--model {config.model}: there is no ReLU in it that could be guided"
        )
    methods = {}
    for name, rule in RULES.items():
        methods[name] = functools.partial(explain, with_rule(own.model, rule))
    classifiers.explain_own(run, own, images, methods, overlay=False)


@dataclass
class Neurons:
    """Those of the last convolution, and the nine scenes that excite each most."""

    model: keras.Model
    """its outputs are their highest activations in a scene"""
    activations: np.ndarray
    """(scenes, rows, columns, neurons)"""
    best: np.ndarray
    """numbers of scenes, (neurons, 9)"""

    @property
    def asked(self) -> np.ndarray:
        """The neuron of each of the scenes best.ravel()."""
        return np.repeat(np.arange(len(self.best)), self.best.shape[1])


def find_neurons(model: keras.Model, images: np.ndarray) -> Neurons:
    last = keras.Model(model.input, model.get_layer("relu4").output)
    activations = last.predict(images, verbose=0)
    best = np.argsort(-activations.max((1, 2)), axis=0)[:9].T
    strongest = keras.Model(model.input, model.get_layer("neurons").output)
    return Neurons(strongest, activations, best)


@dataclass
class Maps:
    """What one rule draws."""

    of_classes: np.ndarray
    """of the explained scenes, (n, height, width)"""
    of_neurons: np.ndarray
    """of the scenes that excite each neuron, (9 * neurons, height, width)"""
    anew: list[float]
    """rank correlation with of_classes when the upper layers are drawn anew, by the
    number of layers"""


def draw_by_rule(
    rule, model, fresh: keras.Model, images, seen, neurons: Neurons, scenes
) -> Maps:
    ruled = with_rule(model, rule)
    of_classes = explain(ruled, images, seen).numpy()
    asked = with_rule(neurons.model, rule)
    of_neurons = explain(asked, scenes[neurons.best.ravel()], neurons.asked).numpy()
    anew = []
    for changed in randomize_from_top(ruled, fresh, images, seen):
        anew.append(classifiers.rank_correlation(of_classes, changed).mean())
    return Maps(of_classes, of_neurons, anew)


def measure(
    maps: Maps, masks: np.ndarray, neurons: Neurons, scenes
) -> dict[str, float]:
    heat = maps.of_classes
    on_digit = (heat * masks).sum((1, 2)) / heat.sum((1, 2))
    # As many pixels as an even map would need for this entropy.
    pixels = np.exp(entropy(heat.reshape(len(heat), -1), axis=1))
    excited = scenes[neurons.best.ravel()]
    kept = kept_without(neurons.model, excited, neurons.asked, maps.of_neurons)
    return {
        "share_on_digit": np.mean(on_digit),
        "spread": pixels.mean() / heat[0].size,
        "correlation_upper_layers_anew": maps.anew[1],
        "neurons_keep_when_erased": kept,
    }


def keep_at_random(neurons: Neurons, gradient: Maps, scenes, seed: int) -> float:
    """What neurons keep if as many pixels are erased anywhere in what they look at.
    gradient: 0 where a pixel does not count at all."""
    noise = np.random.default_rng(seed).random(gradient.of_neurons.shape)
    maps = np.where(gradient.of_neurons > 0, 1 + noise, noise)
    return kept_without(
        neurons.model, scenes[neurons.best.ravel()], neurons.asked, maps
    )


def list_by_rule(found: dict[str, dict[str, float]], measured: str) -> str:
    return ", ".join(f"{name} {each[measured]:.3f}" for name, each in found.items())


def judge(
    found: dict[str, dict[str, float]],
    maps: dict[str, Maps],
    at_random: float,
    run: Run,
) -> None:
    guided = found["guided"]
    deconvnet = found["deconvnet"]
    plain = found["gradient"]
    shares = list_by_rule(found, "share_on_digit")
    run.claim(
        "Guided maps are cleaner: more of them lies on the digit than of the deconvnet's, "
        "and more of the deconvnet's than of the plain gradient's",
        holds=guided["share_on_digit"] - 0.03
        > deconvnet["share_on_digit"]
        > plain["share_on_digit"] + 0.03,
        measured=f"{shares}; spread over {list_by_rule(found, 'spread')} of the picture",
    )
    upper = "correlation_upper_layers_anew"
    run.claim(
        "Clean is not faithful: with the logits and the last convolution drawn anew the "
        "guided map stays much as it was, and more so than the gradient",
        holds=guided[upper] > max(0.6, plain[upper] + 0.02),
        measured=f"rank correlation with the map before: {list_by_rule(found, upper)}; "
        f"with all layers drawn anew guided {maps['guided'].anew[-1]:.3f}",
    )
    run.claim(
        "Run back from one neuron, it finds the pixels that excite it: the neuron loses "
        "far more without the highest 2 % than without as many others that it sees",
        holds=guided["neurons_keep_when_erased"] < at_random - 0.2,
        measured=f"activation kept: {list_by_rule(found, 'neurons_keep_when_erased')}, "
        f"random {at_random:.3f}",
    )


def compare_with_library(
    model: keras.Model, maps: Maps, images, seen, run: Run
) -> None:
    library = tf_keras_vis_guided(model, images[:32], seen[:32])
    difference = np.abs(maps.of_classes[:32] - library).max() / library.max()
    run.claim(
        "One more condition in the ReLU is all: tf-keras-vis's modifier gives the same "
        "maps",
        holds=difference < 1e-4,
        measured=f"largest difference {difference:.1e} of the highest value over 32 "
        "scenes",
    )


def draw_patches(neurons: Neurons, guided: Maps, scenes: np.ndarray, size: int):
    """What excites the four strongest neurons, and the pixels that did it."""
    count = len(neurons.best)
    flat = neurons.activations.reshape(len(scenes), -1, count)
    rows, columns = np.divmod(flat.argmax(axis=1), size // STRIDE)
    by_neuron = guided.of_neurons.reshape(count, -1, size, size, 1)
    patches = {}
    for neuron in np.argsort(-neurons.activations.max((0, 1, 2)))[:4]:
        best = neurons.best[neuron]
        places = (rows[best, neuron], columns[best, neuron])
        heat = by_neuron[neuron]
        heat = heat / heat.max((1, 2), keepdims=True)
        patches[f"excite neuron {neuron}"] = crop(scenes[best], *places)
        patches[f"guided {neuron}"] = crop(heat, *places)
    return figures.image_rows(patches, title="What excites a neuron", columns=9)


def draw_figures(
    maps: dict[str, Maps], neurons: Neurons, test, seen, config: Config, run: Run
) -> None:
    rules = figures.heat_maps(
        test.images[:5],
        {name: each.of_classes for name, each in maps.items()},
        title="One gradient, three rules",
        captions=[f"read as {digit}" for digit in seen[:5]],
    )
    run.figure("rules", rules)
    patches = draw_patches(neurons, maps["guided"], test.images, config.size)
    run.figure("patches", patches)
    randomized = figures.curves(
        {name: each.anew for name, each in maps.items()},
        title="Correlation with the original map",
        xlabel="layers drawn anew, from the logits down",
        ylabel="rank correlation",
    )
    run.figure("randomized", randomized)


def main(config: Config, run: Run) -> None:
    if config.model:
        own = classifiers.from_flags(config, run)
        explain_own(own, own.pictures(config.image), config, run)
        return
    size = config.size
    if config.image:  # a bad one is said before anything is trained
        picture = classifiers.read_image(config.image, (size, size))

    explain_objects(run)
    train_set, test = data.load_scenes(config.scenes, 500, size=size, seed=run.seed)
    model = build_model(size)
    fresh = build_model(size)
    training.fit_classifier(
        model,
        train_set.images,
        train_set.labels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        callbacks=run.callbacks,
    )
    if config.image:
        own = classifiers.Classifier(model, [str(digit) for digit in range(10)])
        explain_own(own, picture[np.newaxis], config, run)

    images = test.images[: config.explained]
    masks = test.masks[: config.explained]
    seen = np.asarray(model(images, training=False)).argmax(axis=1)
    neurons = find_neurons(model, test.images)
    maps = {}
    found = {}
    for name, rule in RULES.items():
        maps[name] = draw_by_rule(
            rule, model, fresh, images, seen, neurons, test.images
        )
        found[name] = measure(maps[name], masks, neurons, test.images)
        run.metrics(name, found[name])
    at_random = keep_at_random(neurons, maps["gradient"], test.images, run.seed)
    run.metric("neurons_keep_when_erased_at_random", at_random)
    run.metric("test_accuracy", model.evaluate(test.images, test.labels, verbose=0)[1])

    judge(found, maps, at_random, run)
    compare_with_library(model, maps["guided"], images, seen, run)
    draw_figures(maps, neurons, test, seen, config, run)
    run.export(serving.classifier(model), example=images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
