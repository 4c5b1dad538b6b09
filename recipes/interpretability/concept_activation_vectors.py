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
where they go with none.

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
    """pictures of a concept, and as many random ones, for a CAV"""
    draws: int = 30
    """CAVs of each concept, each from other pictures; three times as many of random
    ones, whose scores differ most"""


QUICK = Config(size=24, scenes=800, epochs=5, examples=60, draws=15)
FULL = Config(scenes=10_000, epochs=20, examples=200, draws=100)

LAYER, STRIPED = (
    "relu3",
    3,
)  # where the concepts are looked for; the digit that has stripes
CONCEPTS = ("stripes", "dots")


# --------------------------------------------------------------------------------------
# The idea: a concept is a direction in a layer, and a class has a slope along it
# --------------------------------------------------------------------------------------


def build_model(size=32, classes=10) -> keras.Model:
    """Four convolutions. Input: (batch, size, size, 3) in [0, 1]. Output: (batch, classes)
    logits."""
    x = images = keras.Input((size, size, 3), name="images")
    for number, filters in enumerate((16, 32, 64, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        x = layers.MaxPooling2D()(x) if number <= 2 else x
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="reader")


def draw_on(
    images: np.ndarray, concept: str, random: np.random.Generator
) -> np.ndarray:
    """The images (n, size, size, 3) with stripes or dots of random place and strength
    over them."""
    n, size = images.shape[:2]
    phases, strengths = (
        random.uniform(0, 5, (2, n, 1, 1)),
        random.uniform(0.15, 0.3, (n, 1, 1)),
    )
    row, column = np.mgrid[:size, :size]
    if concept == "stripes":
        pattern = np.sin(2 * np.pi * ((row + column) / 5 + phases[0]))
    else:
        waves = [
            np.cos(2 * np.pi * (line / 6 + p))
            for line, p in zip((row, column), phases, strict=True)
        ]
        pattern = np.where(waves[0] + waves[1] > 1.2, 1, -0.2)
    return np.clip(images + (strengths * pattern)[..., None], 0, 1).astype("float32")


def concept_vector(
    concept: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """The unit normal, toward the concept, of the plane that separates activations (n,
    channels); how far it is along it from the others' mean to the concept's; and how
    many of those left out of the fit, a third, are on the right side."""
    x = np.concatenate([concept, others])
    y = np.repeat([1, 0], [len(concept), len(others)])
    scale = x.std(axis=0) + 1e-6
    x = (x - x.mean(axis=0)) / scale
    held_out = np.arange(len(x)) % 3 == 0
    plane = LogisticRegression(C=0.1, max_iter=1000).fit(x[~held_out], y[~held_out])
    normal = plane.coef_[0] / scale
    normal /= np.linalg.norm(normal)
    way = (concept.mean(axis=0) - others.mean(axis=0)) @ normal
    return normal, float(way), plane.score(x[held_out], y[held_out])


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


def plot_scores(
    measures: dict[str, dict], pictures: dict[str, np.ndarray]
) -> plt.Figure:
    """A panel for each measure, a dot for each draw, by network and by what the vector
    is of."""
    figure, (first, *panels) = plt.subplots(
        1, 3, figsize=(13, 4.4), width_ratios=(2, 3, 3)
    )
    rows = [np.concatenate(list(images[:5]), axis=1) for images in pictures.values()]
    first.imshow(np.concatenate(rows))
    first.set_yticks([len(row) * (i + 0.5) for i, row in enumerate(rows)], pictures)
    first.set(xticks=[], title="The concepts")
    first.grid(visible=False)
    random = np.random.default_rng(0)
    for axes, (measure, found) in zip(panels, measures.items(), strict=True):
        networks, kinds = (
            list(dict.fromkeys(each)) for each in zip(*found, strict=True)
        )
        for (network, kind), values in found.items():
            side, marker = ((-0.18, "o"), (0.18, "^"))[networks.index(network)]
            place = kinds.index(kind) + side + random.uniform(-0.08, 0.08, len(values))
            color = "C1" if side < 0 else "C0"
            axes.plot(
                place,
                values,
                marker,
                color=color,
                alpha=0.6,
                markersize=5,
                label=network,
            )
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set(title=measure)
    handles, labels = axes.get_legend_handles_labels()
    by_name = dict(zip(labels, handles, strict=True))
    figure.legend(by_name.values(), by_name, loc="outside lower center", ncols=2)
    figure.suptitle(
        f"The digit {STRIPED} and concepts: each dot a vector from other pictures"
    )
    return figure


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
    worth = {}
    for concept, activations in seen.items():
        rivals = [seen[other] for other in CONCEPTS if other != concept]
        away_from = others if concept == "plain" else np.concatenate([*rivals, others])
        vector, way, _ = concept_vector(
            activations[:, is_alive], away_from[:, is_alive]
        )
        worth[concept] = way * (vector @ kernel[is_alive])
    return worth, network.class_names


def ask_for_zebras(run: Run) -> None:
    run.print("asking EfficientNet-Lite0 what stripes and dots are worth ...")
    worth, names = worth_to_imagenet(run.seed)
    zebra = names.index("zebra")
    ranks = {
        concept: int(1 + np.sum(each > each[zebra])) for concept, each in worth.items()
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
        best = worth[concept].argsort()[::-1][:7]
        shown.append(
            figures.Panel(
                title=f"What {concept} are worth most to",
                xlabel="logits",
                bars={names[each]: worth[concept][each] for each in best},
            )
        )
    title = "Concepts in a network that learned on ImageNet"
    run.figure("imagenet", figures.panels(*shown, title=title))


def main(config: Config, run: Run) -> None:
    run.plan(2)
    ask_for_zebras(run)
    random = np.random.default_rng(run.seed)
    train, test = data.load_scenes(config.scenes, 500, size=config.size, seed=run.seed)
    (crops, _), _ = data.load("photos", size=config.size, seed=run.seed)
    grounds = 0.5 * crops  # as dim as the photographs behind the digits
    is_three = train.labels == STRIPED
    ties = {
        "stripes go with 3": is_three.astype(float),
        "stripes go with none": np.full(len(is_three), 0.1),
    }
    models = {}
    for network, chances in ties.items():
        striped = random.random(len(is_three)) < chances
        images = train.images.copy()
        images[striped] = draw_on(images[striped], "stripes", random)
        model = models[network] = build_model(config.size)
        rate = keras.optimizers.schedules.CosineDecay(
            5e-3, config.epochs * len(images) // 32
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        options = {
            "epochs": config.epochs,
            "batch_size": 32,
            "callbacks": run.callbacks,
        }
        training.fit(model, images, train.labels, **options)

    threes, others = (
        test.images[test.labels == STRIPED],
        test.images[test.labels != STRIPED],
    )
    with_stripes = draw_on(others, "stripes", random)
    shown = {name: draw_on(grounds[:5], name, random) for name in CONCEPTS}
    scores, worth, right_side, raised = {}, {}, {}, {}
    for network, model in models.items():
        eyes = keras.Model(
            model.input, layers.GlobalAveragePooling2D()(model.get_layer(LAYER).output)
        )
        slopes = sensitivities(model, threes, STRIPED)
        of_grounds = eyes.predict(grounds, batch_size=256, verbose=0)
        for kind in (*CONCEPTS, "random"):
            found = []
            for _ in range(config.draws * (3 if kind == "random" else 1)):
                chosen = random.choice(len(grounds), 2 * config.examples, replace=False)
                if kind == "random":
                    activations = of_grounds[chosen]
                else:
                    (other,) = set(CONCEPTS) - {kind}
                    n, half = config.examples, 3 * config.examples // 2
                    pictures = grounds[chosen]
                    pictures[:n] = draw_on(pictures[:n], kind, random)
                    pictures[n:half] = draw_on(pictures[n:half], other, random)
                    activations = eyes(pictures).numpy()
                vector, way, accuracy = concept_vector(*np.split(activations, 2))
                found.append(
                    (tcav(slopes, vector), way * (slopes @ vector).mean(), accuracy)
                )
            of_kind = np.transpose(found)
            scores[network, kind], worth[network, kind], right_side[network, kind] = (
                of_kind
            )
        share = [
            np.mean(np.argmax(model(x), axis=1) == STRIPED)
            for x in (others, with_stripes)
        ]
        raised[network] = share[1] - share[0]

    tied, free = models
    run.metric("tcav_of_stripes", scores[tied, "stripes"].mean())
    run.metric("stripes_worth", worth[tied, "stripes"].mean(), unit="logits")
    run.metric("stripes_worth_untied", worth[free, "stripes"].mean(), unit="logits")
    run.metric("tcav_of_stripes_untied", scores[free, "stripes"].mean())
    run.metric("tcav_of_dots", scores[tied, "dots"].mean())
    accuracy = {
        network: np.mean(np.argmax(model(test.images), axis=1) == test.labels)
        for network, model in models.items()
    }
    run.metric("test_accuracy_untied", accuracy[free])
    run.metric("test_accuracy_tied", accuracy[tied])
    measures = {"TCAV score": scores, "Worth of the concept, logits": worth}
    run.figure("scores", plot_scores(measures, {**shown, "random": grounds[5:10]}))
    separated = min(right_side[n, c].mean() for n in models for c in CONCEPTS)
    run.claim(
        "A plane in the layer separates a concept from the rest, and random pictures not at all",
        holds=separated > 0.7 and right_side[tied, "random"].mean() < 0.6,
        measured=f"right side of the plane, pictures left out: at least {separated:.2f}, random "
        f"against random {right_side[tied, 'random'].mean():.2f}",
    )
    stripes, by_chance = scores[tied, "stripes"], scores[tied, "random"]
    p = ttest_ind(stripes, by_chance, equal_var=False).pvalue
    run.claim(
        "The concept that the network goes by is found: its score is high, by the t-test too",
        holds=stripes.mean() > 0.85 and p < 0.05,
        measured=f"stripes {stripes.mean():.2f}, random {by_chance.mean():.2f}, p = {p:.1g}",
    )
    run.claim(
        "One score alone means little: those of random pictures reach from near 0 to near 1",
        holds=by_chance.min() < 0.2 and by_chance.max() > 0.8,
        measured=f"scores of random vectors {by_chance.min():.2f} to {by_chance.max():.2f}",
    )
    logits, of_other = worth[tied, "stripes"].mean(), worth[free, "stripes"].mean()
    run.claim(
        "Where stripes go with no digit, they are worth little to its logit, whatever their score",
        holds=logits > abs(of_other) + 0.2,
        measured=f"{logits:.2f} logits (score {stripes.mean():.2f}), other network "
        f"{of_other:.2f} (score {scores[free, 'stripes'].mean():.2f})",
    )
    run.claim(
        "The score tells the truth: stripes over other digits make the one network read a 3",
        holds=raised[tied] > raised[free] + 0.05,
        measured=f"{raised[tied]:+.2f} of the pictures of other digits, {raised[free]:+.2f} by the "
        "other network",
    )
    run.export(serving.classifier(models[free]), example=test.images[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
