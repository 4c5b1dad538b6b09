"""A sentence for a picture: a convolutional network looks, an LSTM writes.

The network turns the picture into one vector for each place of a grid. How they reach the
LSTM, h_t = LSTM(x_t, h_{t−1}), differs: all places as one vector v, given once as the
first state (show and tell) or with every word; or by attention, where each step weighs
the places anew, e_ti = w·tanh(W a_i + U h_t), α_t = softmax(e_t). Soft attention sees
the weighted sum z_t = Σ α_ti a_i. Hard attention looks at one place, drawn by α_t. A
draw has no gradient, so REINFORCE moves α by (ln p(word) − b) ∇ ln α_ts: right on
average, whatever the baseline b, but noisy.
Look at BLEU, at the places that a word comes from, at pairs of color and shape that no
picture of training showed, and at what a baseline takes off the noise. Pictures are
drawn here, two objects each, and their captions are true by construction; photographs
are not tried.

Lectures: CS Image Captioning, Image Captioning with Attention; SEL Sequence output;
    INFO Applications (captioning)
Paper: Xu et al., Show, attend and tell, 2015 (sections 4.1 and 4.2); Vinyals et al.,
    Show and tell, 2015; Papineni et al., BLEU, 2002
Tags: show and tell, soft attention, hard attention, bleu, cnn, reinforce, vision
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from deep_learning_recipes import as_metric, figures, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    scenes: Annotated[int, Interval(ge=100)] = 3000
    """pictures to train on, one caption each"""
    units: int = 64
    """of the LSTM, of a word's vector, and of a place's"""
    epochs: int = 12
    """passes over the training pictures"""
    batch_size: int = 32
    """pictures a gradient is averaged over"""
    learning_rate: float = 6e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    entropy: float = 0.01
    """what hard attention is paid for each nat of α's entropy, lest it stop looking
    around"""


QUICK = Config(scenes=2000, units=48, epochs=10, learning_rate=1e-2)
FULL = Config(scenes=30_000, units=128, epochs=20, learning_rate=2e-3)

SIZE = 32  # pixels of a picture's side
GRID = 8  # places of a side
PADDING_ID = 0  # after the end
START_ID = 1
END_ID = 2
BASELINE_DECAY = 0.9


# --------------------------------------------------------------------------------------
# The idea: ways from a picture to the next word
# --------------------------------------------------------------------------------------


def build_encoder(units: int) -> keras.Model:
    """Input: images (batch, SIZE, SIZE, 3) in [0, 1]. Output: a vector for each place,
    (batch, GRID * GRID, units), the places row by row. A place sees 17 x 17 pixels."""
    images = keras.Input((SIZE, SIZE, 3), name="images")
    x = layers.Conv2D(24, 5, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(units, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(units, 3, padding="same", activation="relu")(x)
    return keras.Model(images, layers.Reshape((GRID * GRID, units))(x), name="encoder")


def build_classifier(encoder: keras.Model, colors: int, shapes: int) -> keras.Model:
    """What the encoder learns by: the color and the shape of one object, from the
    highest of each feature over all places. Output: logits by name."""
    highest = layers.GlobalMaxPooling1D()(encoder.output)
    outputs = {
        "color": layers.Dense(colors, name="color")(highest),
        "shape": layers.Dense(shapes, name="shape")(highest),
    }
    return keras.Model(encoder.input, outputs, name="classifier")


@keras.saving.register_keras_serializable("image_captioning")
class WhereItIs(layers.Layer):
    """Brings all places' vectors to one size, and adds to each one for the place: which
    is left, which above."""

    def __init__(self, **options):
        super().__init__(**options)
        self.normalize = layers.LayerNormalization()

    def build(self, shape):
        self.normalize.build(shape)
        self.vectors = self.add_weight(shape=shape[1:], initializer="normal")

    def call(self, places):
        return self.normalize(places) + self.vectors


@keras.saving.register_keras_serializable("image_captioning")
class Attention(layers.Layer):
    """Additive attention; soft, or hard: then one place is drawn in training, and the
    likeliest is taken else."""

    def __init__(self, units: int, hard: bool, **options):
        super().__init__(**options)
        self.units = units
        self.hard = hard
        self.query = layers.Dense(units, use_bias=False)
        self.key = layers.Dense(units)
        self.score = layers.Dense(1, use_bias=False)
        self.seeds = keras.random.SeedGenerator()

    def call(self, queries, places, training=False):
        """queries: (batch, steps, units). places: (batch, places, size).

        Returns the context of each step (batch, steps, size), the weights α (batch,
        steps, places), and what made the context: α itself, or a one for the place.
        """
        sums = self.query(queries)[:, :, np.newaxis] + self.key(places)[:, np.newaxis]
        scores = ops.squeeze(self.score(ops.tanh(sums)), axis=-1)
        weights = ops.softmax(scores)
        looked_at = weights
        if self.hard:
            looked_at = self.draw(scores, training)
        return ops.matmul(looked_at, places), weights, looked_at

    def draw(self, scores, training):
        if training:
            # The largest of scores with Gumbel noise is a draw by their softmax.
            uniform = keras.random.uniform(ops.shape(scores), 1e-7, 1, seed=self.seeds)
            scores = scores - ops.log(-ops.log(uniform))
        return ops.one_hot(ops.argmax(scores, axis=-1), scores.shape[-1])

    def get_config(self):
        return {**super().get_config(), "units": self.units, "hard": self.hard}


def build_decoder(kind: str, words: int, units: int, steps: int) -> keras.Model:
    """kind: "first state", "every step", "soft attention" or "hard attention".

    Inputs: `places` (batch, GRID * GRID, units) and `before`, the ids of the words before
    each step (batch, steps). Returns `logits` (batch, steps, words); with attention
    `weights` and `looked_at` (batch, steps, places) as well.
    """
    places = keras.Input((GRID * GRID, units), name="places")
    before = keras.Input((steps,), dtype="int32", name="before")
    has_attention = kind.endswith("attention")
    x = layers.Embedding(words, units)(before)
    # Unrolled, few steps are faster.
    write = layers.LSTM(units, return_sequences=True, unroll=True)

    if has_attention:
        written = write(x)
        located = WhereItIs(name="located")(places)
        attention = Attention(units, hard=kind == "hard attention", name="attention")
        context, weights, looked_at = attention(written, located)
        written = layers.Concatenate(name="written")([written, context])
    else:
        picture = layers.Dense(units, activation="tanh")(layers.Flatten()(places))
        if kind == "first state":
            written = write(x, initial_state=[picture, picture])
        else:
            at_each = picture[:, np.newaxis] + ops.zeros_like(x)
            written = write(layers.Concatenate()([x, at_each]))

    hidden = layers.Dense(2 * units, activation="relu", name="hidden")(written)
    outputs = {"logits": layers.Dense(words, dtype="float32", name="logits")(hidden)}
    if has_attention:
        outputs["weights"] = weights
        outputs["looked_at"] = looked_at
    return keras.Model({"places": places, "before": before}, outputs, name="decoder")


def log_probability(ids, logits):
    """ln p of each word, (batch, steps). ids: (batch, steps)."""
    return -ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)


def reinforce_loss(rewards, baseline, weights, looked_at, entropy: float):
    """Its gradient is REINFORCE's with respect to α: (batch, steps).

    rewards: (batch, steps), ln p of the right word. weights, looked_at: (batch, steps,
    places).
    """
    log_weights = ops.log(weights + 1e-9)
    log_drawn = ops.sum(looked_at * log_weights, axis=-1)
    advantage = ops.stop_gradient(rewards - baseline)
    spread = -ops.sum(weights * log_weights, axis=-1)
    return -advantage * log_drawn - entropy * spread


class Captioner(keras.Model):
    """A decoder, and the step that trains it. The encoder stays as it is, as in the
    papers."""

    def __init__(self, decoder: keras.Model, entropy: float):
        super().__init__()
        self.decoder = decoder
        self.entropy = entropy
        self.is_hard = any(getattr(layer, "hard", False) for layer in decoder.layers)
        self.baseline = self.add_weight(name="baseline", trainable=False)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs, training=False):
        return self.decoder(inputs, training=training)

    def train_step(self, data):
        """data: `places` and `before`, and the words to be written (batch, steps)."""
        inputs, ids = data
        is_word = ops.cast(ops.not_equal(ids, PADDING_ID), "float32")
        count = ops.sum(is_word)
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            log_p = log_probability(ids, outputs["logits"])
            losses = -log_p
            if self.is_hard:
                looked = (outputs["weights"], outputs["looked_at"])
                losses += reinforce_loss(log_p, self.baseline, *looked, self.entropy)
            loss = ops.sum(losses * is_word) / count
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)

        reward = ops.sum(log_p * is_word) / count
        moved = BASELINE_DECAY * self.baseline + (1 - BASELINE_DECAY) * reward
        self.baseline.assign(moved)
        self.loss_tracker.update_state(-reward)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


def greedy(encoder: keras.Model, decoder: keras.Model, images, steps: int):
    """The likeliest word at each step: ids (batch, steps), PADDING_ID after the end."""
    places = encoder(images)
    batch = tf.shape(images)[0]
    written = tf.zeros((batch, steps), tf.int32)
    has_ended = tf.fill((batch,), False)
    start = tf.fill((batch, 1), START_ID)
    for step in tf.range(steps):
        # All steps anew: what is not yet written changes nothing before it.
        before = tf.concat([start, written[:, :-1]], axis=1)
        logits = decoder({"places": places, "before": before})["logits"][:, step]
        word = tf.argmax(logits, axis=-1, output_type=tf.int32)
        word = tf.where(has_ended, PADDING_ID, word)
        has_ended |= word == END_ID
        here = tf.one_hot(step, steps, dtype=tf.int32)
        written += word[:, tf.newaxis] * here
    return written


def bleu(candidates: list[str], references: list[list[str]], longest: int = 4) -> float:
    """BLEU of a corpus, 0 to 1 (Papineni et al. 2002): the geometric mean of the shares
    of n-grams that a reference has, times a penalty for being short."""
    matched = np.zeros(longest)
    total = np.zeros(longest)
    length = 0
    reference_length = 0
    for candidate, of_candidate in zip(candidates, references, strict=True):
        words = candidate.split()
        others = [reference.split() for reference in of_candidate]
        length += len(words)
        nearest = min(
            others, key=lambda other: (abs(len(other) - len(words)), len(other))
        )
        reference_length += len(nearest)
        for n in range(1, longest + 1):
            most: Counter = Counter()
            for other in others:
                most |= n_grams(other, n)
            found = n_grams(words, n)
            matched[n - 1] += (found & most).total()
            total[n - 1] += found.total()
    if not matched.all():
        return 0.0
    brevity = min(0.0, 1 - reference_length / length)
    return float(np.exp(brevity + np.mean(np.log(matched / total))))


def n_grams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def rewards_of_places(decoder: keras.Model, inputs, ids):
    """ln p of each word, had hard attention looked at each place: (batch, steps, places).

    inputs: of the decoder. ids: the words to be written (batch, steps).
    """
    written, _ = decoder.get_layer("written").input
    located = decoder.get_layer("located").output
    states, places = keras.Model(decoder.input, [written, located])(inputs)
    shape = (states.shape[0], states.shape[1], places.shape[1], states.shape[2])
    states = ops.broadcast_to(states[:, :, np.newaxis], shape)
    places = ops.broadcast_to(places[:, np.newaxis], (*shape[:3], places.shape[2]))
    seen = ops.concatenate([states, places], axis=-1)
    logits = decoder.get_layer("logits")(decoder.get_layer("hidden")(seen))
    words = ops.repeat(ids[:, :, np.newaxis], shape[2], axis=2)
    return log_probability(words, logits)


class Captions(layers.Layer):
    """Images (batch, SIZE, SIZE, 3) to captions, strings (batch,)."""

    def __init__(self, encoder, decoder, words: list[str], steps: int):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.words = words
        self.write = tf.function(partial(greedy, encoder, decoder, steps=steps))

    def call(self, images):
        names = ["" if number <= END_ID else w for number, w in enumerate(self.words)]
        texts = tf.gather(tf.constant(names), self.write(images))
        return tf.strings.strip(tf.strings.reduce_join(texts, axis=-1, separator=" "))

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape[:1], dtype="string")


def gradient_moments(weights, rewards, baseline):
    """Mean and variance of REINFORCE's gradient with respect to the scores e of one
    step, exactly: by going through all places that may be drawn.

    weights: α (..., places). rewards: ln p of the right word, had that place been drawn
    (..., places). baseline: (..., 1) or a number. Returns the mean (..., places), and
    the variance summed over the scores (...,).
    """
    advantage = rewards - baseline
    # (advantage of s) * (one at s − α), for each place s that is drawn
    each = np.eye(weights.shape[-1]) - weights[..., np.newaxis, :]
    each = each * advantage[..., np.newaxis]
    mean = np.sum(weights[..., np.newaxis] * each, axis=-2)
    squares = np.sum(weights * np.sum(each**2, axis=-1), axis=-1)
    return mean, squares - np.sum(mean**2, axis=-1)


# --------------------------------------------------------------------------------------
# The experiment: pictures of two objects, four captioners, and where they look
# --------------------------------------------------------------------------------------

KINDS = ["first state", "every step", "soft attention", "hard attention"]
COLORS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.8, 0.2),
    "blue": (0.15, 0.3, 1.0),
}
SHAPES = ["square", "circle", "triangle"]
RADII = (5, 7)  # pixels, from and to
PAIRS = [(color, shape) for color in COLORS for shape in SHAPES]
# Each color and each shape is in training, but not these together.
NEW_PAIRS = list(zip(COLORS, SHAPES, strict=True))
SEEN_PAIRS = [pair for pair in PAIRS if pair not in NEW_PAIRS]
RELATIONS = {"left of": "right of", "above": "below"}
# Which object each reference names first.
ORDERS = np.array([(0, 1), (1, 0), (1, 0), (0, 1)])
ENCODER_RATE = 5e-3
ENCODER_EPOCHS = 6
TESTED = 400  # pictures of each part
LOOKED_AT = 64  # pictures on which the noise of the gradient is measured
SHOWN = 3  # pictures in the figure of attention


@dataclass
class Thing:
    radius: int
    color: str
    shape: str
    y: int
    x: int

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass
class Scenes:
    images: np.ndarray
    """(n, SIZE, SIZE, 3) float32 in [0, 1]"""
    masks: np.ndarray
    """(n, 2, GRID * GRID) bool: the places that each object touches"""
    references: list[list[str]]
    """four true captions of each picture"""
    chosen: np.ndarray
    """(n,) which of them is given in training"""

    @property
    def captions(self) -> list[str]:
        pairs = zip(self.references, self.chosen, strict=True)
        return [references[i] for references, i in pairs]


def mask_of(thing: Thing) -> np.ndarray:
    """The pixels of an object, (SIZE, SIZE) bool."""
    y, x = np.mgrid[:SIZE, :SIZE]
    down = y - thing.y
    aside = np.abs(x - thing.x)
    radius = thing.radius
    if thing.shape == "circle":
        return down**2 + aside**2 <= radius**2
    if thing.shape == "square":
        return np.maximum(np.abs(down), aside) <= 0.8 * radius
    return (np.abs(down) <= radius) & (2 * aside <= down + radius)


def describe(first: Thing, relation: str, second: Thing) -> list[str]:
    """All that the grammar has to say: `first` is `relation` (left of, above) `second`."""
    other = RELATIONS[relation]
    return [
        f"a {first.name} {relation} a {second.name}",
        f"a {second.name} {other} a {first.name}",
        f"{relation} a {second.name} is a {first.name}",
        f"{other} a {first.name} is a {second.name}",
    ]


def paint(things: list[list[Thing]], random: np.random.Generator) -> np.ndarray:
    """Objects on gray noise, (n, SIZE, SIZE, 3)."""
    count = len(things)
    gray = random.uniform(0.2, 0.6, (count, 1, 1, 1))
    images = gray + random.normal(0, 0.04, (count, SIZE, SIZE, 3))
    for image, of_image in zip(images, things, strict=True):
        for thing in of_image:
            image[mask_of(thing)] = COLORS[thing.color] + random.normal(0, 0.05, 3)
    return np.clip(images, 0, 1).astype("float32")


def draw_thing(pairs, y: int, x: int, random: np.random.Generator) -> Thing:
    color, shape = pairs[random.integers(len(pairs))]
    return Thing(int(random.integers(RADII[0], RADII[1] + 1)), color, shape, y, x)


def draw_two(pairs, relation: str, random: np.random.Generator) -> list[Thing]:
    """The first one left of the second one, or above it."""
    half = SIZE // 2
    across = random.integers(7, SIZE - 7)
    things = []
    for number in range(2):
        along = int(half * number + random.integers(7, half - 6))
        beside = int(np.clip(across + random.integers(-3, 4), 7, SIZE - 8))
        y, x = (beside, along) if relation == "left of" else (along, beside)
        things.append(draw_thing(pairs, y, x, random))
    return things


def draw_scenes(count: int, pairs, random: np.random.Generator) -> Scenes:
    """Two objects each, of these pairs of color and shape."""
    relations = [str(relation) for relation in random.choice(list(RELATIONS), count)]
    things = [draw_two(pairs, relation, random) for relation in relations]
    references = [
        describe(first, relation, second)
        for (first, second), relation in zip(things, relations, strict=True)
    ]
    masks = np.array([[places_of(thing) for thing in both] for both in things])
    chosen = random.integers(len(ORDERS), size=count)
    return Scenes(paint(things, random), masks, references, chosen)


def places_of(thing: Thing) -> np.ndarray:
    """The places that an object touches, (GRID * GRID,) bool."""
    step = SIZE // GRID
    cells = mask_of(thing).reshape(GRID, step, GRID, step)
    return cells.any(axis=(1, 3)).ravel()


class Words:
    """The numbers of the words."""

    def __init__(self, scenes: Scenes):
        texts = [text for references in scenes.references for text in references]
        known = sorted({word for text in texts for word in text.split()})
        self.names = ["", "<start>", "<end>", *known]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.steps = 1 + max(len(text.split()) for text in texts)

    def ids(self, texts: list[str]) -> np.ndarray:
        """(texts, steps), each with an end."""
        ids = np.full((len(texts), self.steps), PADDING_ID, "int32")
        for row, text in zip(ids, texts, strict=True):
            words = text.split()
            row[: len(words)] = [self.numbers[word] for word in words]
            row[len(words)] = END_ID
        return ids

    def texts(self, ids: np.ndarray) -> list[str]:
        return [" ".join(self.names[i] for i in row if i > END_ID) for row in ids]


def before_each(ids: np.ndarray) -> np.ndarray:
    """The words before each step: START, then all but the last."""
    return np.concatenate([np.full_like(ids[:, :1], START_ID), ids[:, :-1]], axis=1)


@dataclass
class Task:
    parts: dict[str, Scenes]
    words: Words
    encoder: keras.Model

    def ids(self, part: str) -> np.ndarray:
        return self.words.ids(self.parts[part].captions)

    def inputs(self, part: str) -> dict[str, np.ndarray]:
        places = self.encoder.predict(self.parts[part].images, verbose=0)
        return {"places": places, "before": before_each(self.ids(part))}


def train_encoder(config: Config, random: np.random.Generator, run: Run):
    """On pictures of one object."""
    middles = random.integers(7, SIZE - 7, size=(config.scenes, 2))
    things = [draw_thing(SEEN_PAIRS, int(y), int(x), random) for y, x in middles]
    labels = {
        "color": np.array([list(COLORS).index(thing.color) for thing in things]),
        "shape": np.array([SHAPES.index(thing.shape) for thing in things]),
    }
    encoder = build_encoder(config.units)
    classifier = build_classifier(encoder, len(COLORS), len(SHAPES))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(
        keras.optimizers.Adam(ENCODER_RATE), loss={"color": loss, "shape": loss}
    )
    training.fit(
        classifier,
        paint([[thing] for thing in things], random),
        labels,
        epochs=ENCODER_EPOCHS,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return encoder


def load_task(config: Config, run: Run) -> Task:
    random = np.random.default_rng(run.seed)
    parts = {
        "train": draw_scenes(config.scenes, SEEN_PAIRS, random),
        "test": draw_scenes(TESTED, SEEN_PAIRS, random),
        "new pairs": draw_scenes(TESTED, NEW_PAIRS, random),
    }
    return Task(parts, Words(parts["train"]), train_encoder(config, random, run))


def new_captioner(kind: str, task: Task, config: Config) -> Captioner:
    words = task.words
    decoder = build_decoder(kind, len(words.names), config.units, words.steps)
    captioner = Captioner(decoder, config.entropy)
    captioner.name = as_metric(kind)
    return captioner


def train(captioner: Captioner, task: Task, inputs, config: Config, run: Run) -> None:
    steps = config.epochs * math.ceil(config.scenes / config.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    captioner.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    training.fit(
        captioner,
        inputs,
        task.ids("train"),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )


def train_all(task: Task, config: Config, run: Run) -> dict[str, Captioner]:
    inputs = task.inputs("train")
    captioners = {kind: new_captioner(kind, task, config) for kind in KINDS}
    for kind, captioner in captioners.items():
        settings = config
        if kind == "hard attention":
            # From nothing its noise is too much for so few steps: it goes on from soft.
            soft = captioners["soft attention"].decoder
            captioner.decoder.set_weights(soft.get_weights())
            settings = replace(config, epochs=max(1, config.epochs // 2))
        train(captioner, task, inputs, settings, run)
    return captioners


@dataclass
class Written:
    captions: list[str]
    bleu: float
    true: float
    """share of the captions that are word for word one of the four references"""
    described: float
    """share of the objects whose color and shape stand together in the caption"""


def write(captioner: Captioner, task: Task) -> dict[str, Written]:
    """Captions of all parts but the training one."""
    steps = task.words.steps

    @tf.function(reduce_retracing=True)
    def caption(images):
        return greedy(task.encoder, captioner.decoder, images, steps)

    written = {}
    for name in ("test", "new pairs"):
        scenes = task.parts[name]
        ids = samples.in_parts(caption, scenes.images)
        written[name] = judge_captions(task.words.texts(ids), scenes.references)
    return written


def judge_captions(captions: list[str], references: list[list[str]]) -> Written:
    pairs = list(zip(captions, references, strict=True))
    true = [caption in of_scene for caption, of_scene in pairs]
    described = []
    for caption, of_scene in pairs:
        words = of_scene[0].split()
        names = [" ".join(words[1:3]), " ".join(words[-2:])]
        described += [name in caption for name in names]
    return Written(
        captions,
        bleu(captions, references),
        float(np.mean(true)),
        float(np.mean(described)),
    )


def judge_writing(written: dict[str, dict[str, Written]], run: Run) -> Figure:
    scores = {
        part: {kind: of_kind[part].bleu for kind, of_kind in written.items()}
        for part in ("test", "new pairs")
    }
    described = {kind: of_kind["test"].described for kind, of_kind in written.items()}
    true = {kind: of_kind["test"].true for kind, of_kind in written.items()}
    run.metrics("bleu4", scores["test"])
    run.metrics("true_captions", true)
    run.metrics("objects_described", described)
    run.compare(
        "With soft attention captions are better than with the whole picture as the first "
        "state (BLEU-4; as many epochs, at one learning rate)",
        scores["test"],
        more="soft attention",
        less="first state",
        by=0.05,
    )
    run.compare(
        "Captions by soft attention are also better than with the whole picture at every "
        "step (BLEU-4)",
        scores["test"],
        more="soft attention",
        less="every step",
        by=0.03,
    )
    soft = written["soft attention"]
    found = {part: soft[part].described for part in ("test", "new pairs")}
    run.metrics("described_by_soft_attention", found)
    run.compare(
        "Colors and shapes are not joined anew: objects whose pair training never showed "
        "are hardly described, though it showed each color and each shape",
        found,
        more="test",
        less="new pairs",
        by=0.3,
    )
    run.compare(
        "Hard attention, trained on from soft attention's weights by REINFORCE, gains "
        "nothing here: its one place is less than the sum of all (BLEU-4)",
        scores["test"],
        more="soft attention",
        less="hard attention",
        by=-0.01,
    )
    return figures.panels(
        *(
            figures.Panel(
                title=title, xlabel="BLEU-4", bars=scores[part], xlim=(0, 1.15)
            )
            for part, title in (
                ("test", "Held-out pictures"),
                ("new pairs", "Pairs of color and shape not in training"),
            )
        )
    )


@dataclass
class Looks:
    """Attention at the steps that write a noun, means."""

    named: float
    """weight on the places that the named object touches"""
    other: float
    """on those of the other one"""
    area: float
    """share of all places that the named object touches"""


def where_it_looks(captioner: Captioner, task: Task, inputs) -> Looks:
    """On held-out pictures, with their true captions written."""
    scenes = task.parts["test"]
    weights = captioner.decoder.predict(inputs, verbose=0)["weights"]
    nouns = [task.words.numbers[shape] for shape in SHAPES]
    pictures, steps = np.nonzero(np.isin(task.ids("test"), nouns))
    # Each caption has two nouns, in the order of its reference.
    named = ORDERS[scenes.chosen].ravel()
    weights = weights[pictures, steps]
    own = scenes.masks[pictures, named]
    other = scenes.masks[pictures, 1 - named] & ~own
    return Looks(
        float(np.mean(np.sum(weights * own, axis=1))),
        float(np.mean(np.sum(weights * other, axis=1))),
        float(np.mean(own)),
    )


def judge_looks(looks: Looks, untrained: Looks, run: Run) -> None:
    shares = {
        "named object": looks.named,
        "other object": looks.other,
        "area of the named": looks.area,
        "untrained": untrained.named,
    }
    run.metrics("attention", shares, unit="share of the weight")
    run.compare(
        "When a noun is written, soft attention looks at the object that it names, more "
        "than its area gives",
        shares,
        more="named object",
        less="area of the named",
        times=1.25,
    )
    run.compare(
        "When a noun is written, soft attention looks at its object more than at the "
        "other one",
        shares,
        more="named object",
        less="other object",
        times=1.3,
    )


def measure_noise(captioner: Captioner, task: Task, inputs) -> dict[str, float]:
    """Variance of REINFORCE's gradient by the scores of a step, mean over the words."""
    few = {name: values[:LOOKED_AT] for name, values in inputs.items()}
    ids = task.ids("test")[:LOOKED_AT]
    is_word = ids != PADDING_ID
    weights = np.asarray(captioner.decoder(few)["weights"], "float64")
    rewards = np.asarray(rewards_of_places(captioner.decoder, few, ids), "float64")
    expected = np.sum(weights * rewards, axis=-1, keepdims=True)
    baselines = {
        "no baseline": 0.0,
        "mean of all words": expected[is_word].mean(),
        "mean of the step": expected,
    }
    noise = {}
    for name, baseline in baselines.items():
        _, variance = gradient_moments(weights, rewards, baseline)
        noise[name] = float(variance[is_word].mean())
    return noise


def judge_noise(noise: dict[str, dict[str, float]], run: Run) -> Figure:
    for when, of_baseline in noise.items():
        run.metrics(f"variance_{as_metric(when)}", of_baseline)
    run.compare(
        "A baseline takes most of the noise off hard attention's gradient where words are "
        "still unlikely: at the start of training",
        noise["untrained"],
        more="no baseline",
        less="mean of all words",
        times=3,
    )
    return figures.panels(
        *(
            figures.Panel(
                title=f"REINFORCE, {when}",
                xlabel="variance of the gradient by the scores",
                bars=of_baseline,
            )
            for when, of_baseline in noise.items()
        )
    )


def draw_attention(captioner: Captioner, task: Task, inputs) -> Figure:
    """Pictures of two colors with a true caption, bright where its words look."""
    scenes = task.parts["test"]
    colors = [sum(color in text for color in COLORS) for text in scenes.captions]
    chosen = np.flatnonzero(np.array(colors) == 2)[:SHOWN]
    few = {name: values[chosen] for name, values in inputs.items()}
    weights = np.asarray(captioner.decoder(few)["weights"])
    columns = task.words.steps
    figure, grid = plt.subplots(SHOWN, columns, figsize=(1.35 * columns, 1.7 * SHOWN))
    for axes in grid.flat:
        axes.set_axis_off()
    step = SIZE // GRID
    for row, picture, maps in zip(grid, chosen, weights, strict=False):
        image = scenes.images[picture]
        row[0].imshow(image)
        words = scenes.captions[picture].split()
        for axes, word, places in zip(row[1:], words, maps, strict=False):
            heat = places.reshape(GRID, GRID) / places.max()
            light = np.kron(0.25 + 0.75 * heat, np.ones((step, step)))
            axes.imshow(image * light[..., np.newaxis])
            axes.set_title(word, fontsize="medium")
    figure.suptitle("Where soft attention looks as each word is written (bright: most)")
    return figure


def main(config: Config, run: Run) -> None:
    run.plan(1 + len(KINDS))
    task = load_task(config, run)
    inputs = task.inputs("test")
    untrained = new_captioner("hard attention", task, config)
    noise = {"untrained": measure_noise(untrained, task, inputs)}

    captioners = train_all(task, config, run)
    written = {kind: write(captioner, task) for kind, captioner in captioners.items()}
    run.figure("bleu", judge_writing(written, run))

    soft = captioners["soft attention"]
    looks = where_it_looks(soft, task, inputs)
    judge_looks(looks, where_it_looks(untrained, task, inputs), run)
    run.figure("attention", draw_attention(soft, task, inputs))

    noise["trained"] = measure_noise(captioners["hard attention"], task, inputs)
    run.figure("noise", judge_noise(noise, run))
    for i in range(SHOWN):
        text = written["soft attention"]["test"].captions[i]
        run.print(f"{text} (true: {task.parts['test'].captions[i]})")

    images = keras.Input((SIZE, SIZE, 3), name="images")
    captions = Captions(task.encoder, soft.decoder, task.words.names, task.words.steps)
    exported = keras.Model(images, {"caption": captions(images)}, name="captioner")
    run.export(exported, example=task.parts["test"].images[:2])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
