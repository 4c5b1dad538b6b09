"""Concept activation vectors: whether a network goes by what a person has a word for.

Give the network pictures of a concept, such as stripes, and pictures of anything. The
normal v of the plane that separates their activations in a layer is the concept's
direction there (CAV). A class k is sensitive to it where its logit rises along v, S =
∇h_k(activations)·v > 0, and TCAV's score is the share of the class's pictures where
that is so. But any direction has some score: so the CAVs of many draws are held, by a
t-test, to those of random pictures against random pictures. The score counts signs
alone; the slope times the way from random pictures to the concept's says how many
logits the concept is worth. Look at which of ImageNet's thousand classes stripes are
worth most to, in a network that learned them; and at two networks whose truth is known:
one learned from pictures where stripes go with the digit 3, the other from pictures
where they go with none. No training picture of either has dots: they are the negative
control, which a high score and a small p do not pass.

Lectures: N18 7.2 Interpretability Methods (concept activation vector)
Paper: Kim et al., Interpretability beyond feature attribution: quantitative testing
    with concept activation vectors (TCAV), 2018 (equations 1 and 2, section 3.4)
Tags: tcav, cav, concept-based explanations, probing, xai, explainability
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from scipy.stats import ttest_ind
from sklearn.linear_model import LogisticRegression

from deep_learning_recipes import classifiers, data, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    size: int = 32
    """side of the pictures in pixels"""
    scenes: Annotated[int, Interval(ge=100)] = 3000
    """pictures of a digit on a photograph to train on"""
    epochs: int = 8
    """passes over them, of each of the two networks"""
    examples: Annotated[int, Interval(ge=2)] = 100
    """pictures of a concept for a CAV, and as many others: half of them plain, half with
    the other concept"""
    draws: int = 30
    """CAVs of each concept, each from other pictures; three times as many of random
    ones, whose scores differ most"""


QUICK = Config(size=24, scenes=800, epochs=5, examples=60, draws=15)
FULL = Config(scenes=10_000, epochs=20, examples=200, draws=100)

# Where the concepts are looked for, and the digit that has stripes.
LAYER = "relu3"
STRIPED = 3
CONCEPTS = ("stripes", "dots")
TIED = "stripes go with 3"
FREE = "stripes go with none"
# By network and concept: what the network goes by, and what none does.
GONE_BY = (TIED, "stripes")
CONTROLS = ((TIED, "dots"), (FREE, "stripes"), (FREE, "dots"))


# --------------------------------------------------------------------------------------
# The idea: a concept is a direction in a layer, and a class has a slope along it
# --------------------------------------------------------------------------------------


@dataclass
class Concept:
    """Where a concept lies among a layer's activations."""

    vector: np.ndarray
    """(channels,): the unit normal, toward the concept, of the plane that separates it"""
    distance: float
    """along the vector, from the mean of the other pictures to the concept's"""
    accuracy: float
    """of the plane, on the third of the pictures that it was not fitted to"""


def find_concept(with_it: np.ndarray, others: np.ndarray) -> Concept:
    """with_it, others: activations of pictures with the concept and of others, (n,
    channels)."""
    x = np.concatenate([with_it, others])
    y = np.repeat([1, 0], [len(with_it), len(others)])
    scale = x.std(axis=0) + 1e-6
    x = (x - x.mean(axis=0)) / scale

    is_held_out = np.arange(len(x)) % 3 == 0
    plane = LogisticRegression(C=0.1, max_iter=1000)
    plane.fit(x[~is_held_out], y[~is_held_out])

    # The plane's normal in the units of the activations.
    normal = plane.coef_[0] / scale
    vector = normal / np.linalg.norm(normal)
    return Concept(
        vector,
        distance=float((with_it.mean(axis=0) - others.mean(axis=0)) @ vector),
        accuracy=plane.score(x[is_held_out], y[is_held_out]),
    )


def sensitivities(model: keras.Model, images: np.ndarray, digit: int) -> np.ndarray:
    """The slope of a digit's logit along each channel of the layer, the channel raised
    at all places alike: (n, channels)."""
    parts = keras.Model(model.input, [model.get_layer(LAYER).output, model.output])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        inputs = tf.convert_to_tensor(images)
        tape.watch(inputs)
        maps, logits = parts(inputs, training=False)
        score = tf.reduce_sum(logits[:, digit])
    return tf.reduce_sum(tape.gradient(score, maps), axis=(1, 2)).numpy()


def tcav(slopes: np.ndarray, vector: np.ndarray) -> float:
    """The share of pictures whose logit rises along the vector (equation 2)."""
    return float(np.mean(slopes @ vector > 0))


def worth(slopes: np.ndarray, concept: Concept) -> float:
    """By how much the logit rises, to first order, from the other pictures to the
    concept's."""
    return float(concept.distance * (slopes @ concept.vector).mean())


def build_model(size=32, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch, classes)
    logits."""
    x = images = keras.Input((size, size, 3), name="images")
    for number, filters in enumerate((16, 32, 64, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        if number <= 2:
            x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="reader")


# --------------------------------------------------------------------------------------
# The experiment: stripes in a network that learned on ImageNet, then on digits
# --------------------------------------------------------------------------------------


def print_on(
    images: np.ndarray, concept: str, random: np.random.Generator
) -> np.ndarray:
    """The images (n, size, size, 3) with black and white stripes, which bend as on a
    coat, or dots over them, of random direction, width and strength. (Straight stripes
    are worth most to radiators and window shades.)"""
    n, size = images.shape[:2]
    angle, period, phase, strength = random.uniform(
        [0, 8, 0, 0.5], [np.pi, 24, 2 * np.pi, 0.9], (n, 4)
    ).T[..., np.newaxis, np.newaxis]
    row, column = np.mgrid[:size, :size]
    along = np.cos(angle) * row + np.sin(angle) * column
    across = np.cos(angle) * column - np.sin(angle) * row
    if concept == "stripes":
        bend = random.uniform(0, 5, (n, 1, 1)) * np.sin(2 * np.pi * across / 60)
        pattern = np.cos(2 * np.pi * (along + bend) / period + phase) > 0
    else:
        waves = np.cos(2 * np.pi * along / period + phase)
        pattern = waves + np.cos(2 * np.pi * across / period) > 0.8
    weight = strength[..., np.newaxis]
    return ((1 - weight) * images + weight * pattern[..., np.newaxis]).astype("float32")


def crop_photos(n: int, size: int, random: np.random.Generator) -> np.ndarray:
    """(n, size, size, 3), from anywhere in the nine photographs."""
    photos = data.load_photos(256)
    crops = []
    for _ in range(n):
        photo = photos[random.integers(len(photos))]
        top, left = random.integers(0, 256 - size, 2)
        crops.append(photo[top : top + size, left : left + size])
    return np.stack(crops)


def worth_to_imagenet(seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """How many logits a concept is worth to each of ImageNet's classes, (1000,), and
    the classes' names. In the layer before the logits a class's slope is its column of
    the dense kernel, the same for all pictures.

    Each concept's vector points away from the other one and from plain crops; that of
    "plain" from other plain crops.
    """
    n, size = 40, 112
    random = np.random.default_rng(seed)
    network = classifiers.load("EfficientNetLite0", size=(size, size))
    eyes = keras.Model(network.model.input, network.model.get_layer("avg_pool").output)
    kernel = np.asarray(network.model.layers[-1].kernel)
    crops = crop_photos(4 * n, size, random)
    seen = {
        "stripes": eyes(print_on(crops[:n], "stripes", random)).numpy(),
        "dots": eyes(print_on(crops[n : 2 * n], "dots", random)).numpy(),
        "plain": eyes(crops[2 * n : 3 * n]).numpy(),
    }
    others = eyes(crops[3 * n :]).numpy()
    # A channel that hardly ever lights up has a scale that one picture decides.
    is_alive = np.concatenate([*seen.values(), others]).std(axis=0) > 0.1
    logits = {}
    for concept, activations in seen.items():
        rivals = [seen[other] for other in CONCEPTS if other != concept]
        away_from = others if concept == "plain" else np.concatenate([*rivals, others])
        found = find_concept(activations[:, is_alive], away_from[:, is_alive])
        logits[concept] = found.distance * (found.vector @ kernel[is_alive])
    return logits, network.class_names


def ask_for_zebras(run: Run) -> None:
    run.print("asking EfficientNet-Lite0 what stripes and dots are worth ...")
    logits, names = worth_to_imagenet(run.seed)
    zebra = names.index("zebra")
    ranks = {
        concept: int(1 + np.sum(each > each[zebra])) for concept, each in logits.items()
    }
    run.claim(
        "A network that learned on ImageNet goes by stripes where it reads zebra: of a "
        "thousand classes it is among the three that bent stripes are worth most to, and "
        "far from those of dots",
        holds=ranks["stripes"] <= 3 and min(ranks["dots"], ranks["plain"]) > 50,
        measured="rank of zebra by stripes {stripes}, by dots {dots}, by plain crops "
        "against others {plain}, of 1,000".format(**ranks),
    )
    shown = []
    for concept in CONCEPTS:
        best = logits[concept].argsort()[::-1][:7]
        shown.append(
            figures.Panel(
                title=f"What {concept} are worth most to",
                xlabel="logits",
                bars={names[each]: logits[concept][each] for each in best},
            )
        )
    title = "Concepts in a network that learned on ImageNet"
    run.figure("imagenet", figures.panels(*shown, title=title))


def draw_on(
    images: np.ndarray, concept: str, random: np.random.Generator
) -> np.ndarray:
    """The images (n, size, size, 3) with stripes or dots of random place and strength
    over them."""
    n, size = images.shape[:2]
    phases = random.uniform(0, 5, (2, n, 1, 1))
    strengths = random.uniform(0.15, 0.3, (n, 1, 1))
    row, column = np.mgrid[:size, :size]
    if concept == "stripes":
        pattern = np.sin(2 * np.pi * ((row + column) / 5 + phases[0]))
    else:
        waves = np.cos(2 * np.pi * (row / 6 + phases[0]))
        waves += np.cos(2 * np.pi * (column / 6 + phases[1]))
        pattern = np.where(waves > 1.2, 1, -0.2)
    return np.clip(images + (strengths * pattern)[..., None], 0, 1).astype("float32")


def train(
    config: Config,
    run: Run,
    scenes: data.Scenes,
    chances: np.ndarray,
    random: np.random.Generator,
) -> keras.Model:
    """A network that learned digits, some of which had stripes. chances: that a scene
    has them, (n,)."""
    images = scenes.images.copy()
    is_striped = random.random(len(images)) < chances
    images[is_striped] = draw_on(images[is_striped], "stripes", random)

    model = build_model(config.size)
    steps = config.epochs * len(images) // 32
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    training.fit(
        model,
        images,
        scenes.labels,
        epochs=config.epochs,
        batch_size=32,
        callbacks=run.callbacks,
    )
    return model


def draw_examples(
    grounds: np.ndarray, concept: str, examples: int, random: np.random.Generator
) -> np.ndarray:
    """(2 · examples, size, size, 3): first those with the concept, then the others, of
    which half have the other concept: a plane between drawn and plain pictures would be
    one of anything drawn. "random": plain ones only."""
    chosen = random.choice(len(grounds), 2 * examples, replace=False)
    pictures = grounds[chosen]
    if concept in CONCEPTS:
        (other,) = set(CONCEPTS) - {concept}
        half = 3 * examples // 2
        pictures[:examples] = draw_on(pictures[:examples], concept, random)
        pictures[examples:half] = draw_on(pictures[examples:half], other, random)
    return pictures


@dataclass
class Measured:
    """What a network's vectors of one kind say of the digit 3, one value a draw."""

    scores: np.ndarray
    """TCAV's"""
    worth: np.ndarray
    """in logits"""
    accuracy: np.ndarray
    """of the plane, on pictures left out of its fit"""


def measure(
    model: keras.Model,
    kind: str,
    threes: np.ndarray,
    grounds: np.ndarray,
    config: Config,
    random: np.random.Generator,
) -> Measured:
    """kind: a concept, or "random", of which there are three times as many draws."""
    activations = layers.GlobalAveragePooling2D()(model.get_layer(LAYER).output)
    eyes = keras.Model(model.input, activations)
    slopes = sensitivities(model, threes, STRIPED)
    scores = []
    logits = []
    accuracy = []
    for _ in range(config.draws * (3 if kind == "random" else 1)):
        pictures = draw_examples(grounds, kind, config.examples, random)
        concept = find_concept(*np.split(eyes(pictures).numpy(), 2))
        scores.append(tcav(slopes, concept.vector))
        logits.append(worth(slopes, concept))
        accuracy.append(concept.accuracy)
    return Measured(np.array(scores), np.array(logits), np.array(accuracy))


@dataclass
class Effect:
    """What a concept does that is drawn over pictures of other digits."""

    logit: float
    """mean change of the logit of 3"""
    readings: float
    """change of the share that the network takes for a 3"""


def draw_over(
    model: keras.Model,
    concept: str,
    pictures: np.ndarray,
    random: np.random.Generator,
) -> Effect:
    before = np.asarray(model(pictures, training=False))
    after = np.asarray(model(draw_on(pictures, concept, random), training=False))
    is_three = after.argmax(axis=1) == STRIPED
    was_three = before.argmax(axis=1) == STRIPED
    return Effect(
        logit=float(np.mean(after[:, STRIPED] - before[:, STRIPED])),
        readings=float(is_three.mean() - was_three.mean()),
    )


def record(
    run: Run,
    models: dict[str, keras.Model],
    measured: dict[tuple[str, str], Measured],
    test: data.Scenes,
) -> None:
    run.metric("tcav_of_stripes", measured[TIED, "stripes"].scores.mean())
    run.metric("tcav_of_stripes_untied", measured[FREE, "stripes"].scores.mean())
    run.metric("tcav_of_dots", measured[TIED, "dots"].scores.mean())
    for network, suffix in ((TIED, ""), (FREE, "_untied")):
        for concept in CONCEPTS:
            logits = measured[network, concept].worth.mean()
            run.metric(f"{concept}_worth{suffix}", logits, unit="logits")
    for network, name in ((FREE, "untied"), (TIED, "tied")):
        digits = np.argmax(models[network](test.images), axis=1)
        run.metric(f"test_accuracy_{name}", np.mean(digits == test.labels))


def draw_values(axes: plt.Axes, values: dict[tuple[str, str], np.ndarray]) -> None:
    """A dot for each draw, the networks side by side above each kind of vector."""
    kinds = (*CONCEPTS, "random")
    random = np.random.default_rng(0)
    for network, side, marker, color in (
        (TIED, -0.18, "o", "C1"),
        (FREE, 0.18, "^", "C0"),
    ):
        for place, kind in enumerate(kinds):
            of_kind = values[network, kind]
            axes.plot(
                place + side + random.uniform(-0.08, 0.08, len(of_kind)),
                of_kind,
                marker,
                color=color,
                alpha=0.6,
                markersize=5,
                label=network if place == 0 else None,
            )
    axes.set_xticks(range(len(kinds)), kinds)


def plot_scores(
    measured: dict[tuple[str, str], Measured], pictures: dict[str, np.ndarray]
) -> plt.Figure:
    """The concepts, and their scores and worth by network."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), width_ratios=(2, 3, 3))
    rows = [np.concatenate(list(images[:5]), axis=1) for images in pictures.values()]
    axes[0].imshow(np.concatenate(rows))
    axes[0].set_yticks([len(row) * (i + 0.5) for i, row in enumerate(rows)], pictures)
    axes[0].set(xticks=[], title="The concepts")
    axes[0].grid(visible=False)

    draw_values(axes[1], {key: each.scores for key, each in measured.items()})
    axes[1].set(title="TCAV score", ylabel="share of pictures whose logit rises")
    draw_values(axes[2], {key: each.worth for key, each in measured.items()})
    axes[2].set(title="Worth of the concept", ylabel="logits")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(
        f"The digit {STRIPED} and concepts: each dot a vector from other pictures"
    )
    return figure


def claim_scores(run: Run, measured: dict[tuple[str, str], Measured]) -> None:
    concepts = [
        measured[each, concept] for each in (TIED, FREE) for concept in CONCEPTS
    ]
    separated = min(each.accuracy.mean() for each in concepts)
    by_chance = measured[TIED, "random"]
    run.claim(
        "A plane in the layer separates a concept from the rest, and random pictures not "
        "at all",
        holds=separated > 0.7 and by_chance.accuracy.mean() < 0.6,
        measured=f"accuracy on pictures left out at least {separated:.2f}, random "
        f"against random {by_chance.accuracy.mean():.2f}",
    )
    run.claim(
        "One score alone means little: those of random pictures reach from near 0 to near "
        "1",
        holds=by_chance.scores.min() < 0.2 and by_chance.scores.max() > 0.8,
        measured=f"scores of random vectors {by_chance.scores.min():.2f} to "
        f"{by_chance.scores.max():.2f}",
    )
    p = {
        key: ttest_ind(
            each.scores, measured[key[0], "random"].scores, equal_var=False
        ).pvalue
        for key, each in measured.items()
    }
    run.claim(
        "The concept that the network goes by is found: its score is high, by the t-test "
        "too",
        holds=measured[GONE_BY].scores.mean() > 0.85 and p[GONE_BY] < 0.05,
        measured=f"stripes {measured[GONE_BY].scores.mean():.2f}, random "
        f"{by_chance.scores.mean():.2f}, p = {p[GONE_BY]:.1g}",
    )
    surest = min(CONTROLS, key=p.get)
    run.claim(
        "But the t-test finds as well what no network goes by: of three controls (dots, "
        "which no training picture has, and stripes that go with no digit) one differs "
        "from random vectors at least",
        holds=p[surest] < 0.05,
        measured=", ".join(
            f"{name_of(key)} {measured[key].scores.mean():.2f} (p = {p[key]:.1g})"
            for key in CONTROLS
        ),
    )


def claim_worth(
    run: Run,
    measured: dict[tuple[str, str], Measured],
    effects: dict[tuple[str, str], Effect],
) -> None:
    logits = {key: measured[key].worth.mean() for key in (GONE_BY, *CONTROLS)}
    of_controls = max(abs(logits[key]) for key in CONTROLS)
    run.claim(
        "The worth says more than the score: what the network goes by is worth most "
        "logits, and the same stripes hardly any where they go with no digit",
        holds=logits[GONE_BY] > 1.2 * of_controls
        and abs(logits[FREE, "stripes"]) < 0.3 * logits[GONE_BY],
        measured=", ".join(
            f"{name_of(key)} {each:.2f} logits" for key, each in logits.items()
        ),
    )
    run.claim(
        "What is drawn over pictures of other digits tells for sure: what the network "
        "goes by makes it read a 3; controls hardly do",
        holds=effects[GONE_BY].readings
        > max(effects[key].readings for key in CONTROLS) + 0.5,
        measured="share that turns into a 3: "
        + ", ".join(
            f"{name_of(key)} {each.readings:+.2f} (logit {each.logit:+.1f})"
            for key, each in effects.items()
        ),
    )


def name_of(key: tuple[str, str]) -> str:
    network, concept = key
    return concept if network == TIED else f"{concept} (untied)"


def main(config: Config, run: Run) -> None:
    run.plan(2)
    ask_for_zebras(run)

    random = np.random.default_rng(run.seed)
    scenes, test = data.load_scenes(config.scenes, 500, size=config.size, seed=run.seed)
    (crops, _), _ = data.load("photos", size=config.size, seed=run.seed)
    grounds = 0.5 * crops  # as dim as the photographs behind the digits
    models = {
        TIED: train(config, run, scenes, scenes.labels == STRIPED, random),
        FREE: train(config, run, scenes, np.full(len(scenes.labels), 0.1), random),
    }

    is_three = test.labels == STRIPED
    shown = {name: draw_on(grounds[:5], name, random) for name in CONCEPTS}
    measured = {}
    effects = {}
    for network, model in models.items():
        for kind in (*CONCEPTS, "random"):
            measured[network, kind] = measure(
                model, kind, test.images[is_three], grounds, config, random
            )
        for concept in CONCEPTS:
            effects[network, concept] = draw_over(
                model, concept, test.images[~is_three], random
            )
    record(run, models, measured, test)
    claim_scores(run, measured)
    claim_worth(run, measured, effects)
    run.figure("scores", plot_scores(measured, {**shown, "random": grounds[5:10]}))
    run.export(serving.classifier(models[FREE]), example=test.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
