"""CycleGAN: one kind of picture into another, learned without pairs.

There are printed digits x and handwritten digits y, and nothing says which belong
together. G translates x into handwriting, F translates y into print, and a
discriminator for each kind compares what comes out with real ones, by least squares:
(D(G(x)) − 1)². Any mapping onto the other kind would do for them, also one that makes a
3 of each 7. So the way there and back has to lead home: |F(G(x)) − x| + |G(F(y)) − y|,
the cycle loss. Where x can be told from G(x), the conditional entropy H(x | G(x)) is
small: who minimizes the cycle loss minimizes it. That still allows classes to be
exchanged, one for one; but networks tend to simple maps (the simplicity hypothesis), and
most digits keep their class. An identity loss, |G(y) − y| + |F(x) − x|, asks that what
is handwritten already stays as it is.
Look at digits there and back, at classes kept and bits lost with each loss and without,
and at what a little noise on G(x) does to the way back.

Lectures: N18 6.2 Domain Mapping; INFO Lecture 7
Paper: Zhu et al., Unpaired image-to-image translation using cycle-consistent
    adversarial networks, 2017 (equations 1 to 3, section 5.2); Mao et al., Least
    squares generative adversarial networks, 2017; Li et al., ALICE: Towards
    understanding adversarial learning for joint distribution matching, 2017; Chu et
    al., CycleGAN, a master of steganography, 2017
Tags: gan, cycle consistency, unpaired, image translation, domain mapping, conditional
    entropy, lsgan
"""

from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib.figure import Figure
from scipy.special import log_softmax
from sklearn.linear_model import Ridge
from sklearn.metrics import euclidean_distances

from deep_learning_recipes import UsageError, data, figures, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """what printed digits are translated into: digits or mnist_5k (embedded,
    handwritten), mnist where Keras can download or has cached it, or your own images: a
    folder with one subfolder a class, or an .npz file"""
    size: Annotated[int, Interval(ge=8, le=64)] = 16
    """side of the images in pixels, a multiple of 4"""
    filters: int = 16
    """of the first convolution; the deeper ones have twice as many"""
    blocks: int = 2
    """residual blocks of a generator"""
    epochs: int = 10
    """passes over the images"""
    batch_size: int = 16
    """images of each kind that a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam, falling to a tenth"""
    cycle_weight: float = 10.0
    """of the cycle loss, beside translators without it"""
    identity_weight: float = 5.0
    """of the identity loss, where there is one"""


QUICK = Config(size=8, filters=8, blocks=1, epochs=3, learning_rate=2e-3)
FULL = Config(data="mnist_5k", size=28, filters=64, blocks=6, epochs=200)

# --------------------------------------------------------------------------------------
# The idea: two translators, two discriminators, and the way home
# --------------------------------------------------------------------------------------


def convolve(x, filters: int, kernel_size: int = 3, strides: int = 1):
    """Convolution, instance normalization and ReLU."""
    x = layers.Conv2D(filters, kernel_size, strides=strides, padding="same")(x)
    x = layers.GroupNormalization(groups=-1, epsilon=1e-3)(x)
    return layers.ReLU()(x)


def residual_block(x):
    filters = x.shape[-1]
    change = convolve(x, filters)
    change = layers.Conv2D(filters, 3, padding="same")(change)
    return layers.Add()([x, change])


def build_generator(
    size: int,
    filters: int = 16,
    blocks: int = 2,
    name: str = "generator",
) -> keras.Model:
    """Images (batch, size, size, 1) in [0, 1] to the same, by convolutions once down and
    up again."""
    images = keras.Input((size, size, 1), name="images")
    hidden = convolve(images, filters)
    hidden = convolve(hidden, 2 * filters, kernel_size=4, strides=2)
    for _ in range(blocks):
        hidden = residual_block(hidden)
    hidden = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(hidden)
    hidden = layers.ReLU()(hidden)
    logits = layers.Conv2D(1, 3, padding="same")(hidden)
    translated = layers.Activation("sigmoid", dtype="float32")(logits)
    return keras.Model(images, translated, name=name)


def build_discriminator(
    size: int, filters: int = 16, name: str = "discriminator"
) -> keras.Model:
    """Images (batch, size, size, 1) to scores (batch, size / 4, size / 4, 1) of patches:
    1 for real ones, 0 for translated ones."""
    images = keras.Input((size, size, 1), name="images")
    hidden = images
    for multiple in (1, 2):
        hidden = layers.Conv2D(multiple * filters, 4, strides=2, padding="same")(hidden)
        hidden = layers.LeakyReLU(0.2)(hidden)
    scores = layers.Conv2D(1, 3, padding="same", dtype="float32")(hidden)
    return keras.Model(images, scores, name=name)


def squared_error(scores, target: float):
    return ops.mean(ops.square(scores - target))


def absolute_error(one, other):
    return ops.mean(ops.abs(one - other))


class CycleGAN(keras.Model):
    """Trains G: x → y and F: y → x. `fit(x, y)`, both (n, size, size, 1) in [0, 1]; it
    does not matter which x stands beside which y."""

    def __init__(
        self,
        generators: tuple[keras.Model, keras.Model],
        discriminators: tuple[keras.Model, keras.Model],
        cycle_weight: float = 10.0,
        identity_weight: float = 0.0,
        **kwargs,
    ):
        """generators: G and F. discriminators: of y, which G is to deceive, and of x."""
        super().__init__(**kwargs)
        self.to_y, self.to_x = generators
        self.discriminator_y, self.discriminator_x = discriminators
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        names = ("adversarial", "cycle", "discriminator")
        self.trackers = {name: keras.metrics.Mean(name) for name in names}

    def compile(self, generator_optimizer, discriminator_optimizer):
        super().compile(generator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer

    def call(self, x):
        return self.to_y(x)

    def adversarial_loss(self, fake_y, fake_x):
        """What the generators lose where they are found out: equation 1, by squares."""
        of_y = squared_error(self.discriminator_y(fake_y), 1.0)
        return of_y + squared_error(self.discriminator_x(fake_x), 1.0)

    def cycle_loss(self, x, y, fake_y, fake_x):
        """|F(G(x)) − x| + |G(F(y)) − y|: equation 2."""
        home_x = absolute_error(self.to_x(fake_y), x)
        return home_x + absolute_error(self.to_y(fake_x), y)

    def identity_loss(self, x, y):
        """|G(y) − y| + |F(x) − x|: what is of the kind already stays as it is."""
        return absolute_error(self.to_y(y), y) + absolute_error(self.to_x(x), x)

    def discriminator_loss(self, x, y, fake_y, fake_x):
        of_y = squared_error(self.discriminator_y(y), 1.0)
        of_y += squared_error(self.discriminator_y(fake_y), 0.0)
        of_x = squared_error(self.discriminator_x(x), 1.0)
        of_x += squared_error(self.discriminator_x(fake_x), 0.0)
        return 0.5 * (of_y + of_x)

    def generator_step(self, x, y):
        """Equation 3. Returns the adversarial and the cycle loss, G(x) and F(y)."""
        variables = self.to_y.trainable_variables + self.to_x.trainable_variables
        with tf.GradientTape() as tape:
            fake_y = self.to_y(x)
            fake_x = self.to_x(y)
            adversarial = self.adversarial_loss(fake_y, fake_x)
            cycle = self.cycle_loss(x, y, fake_y, fake_x)
            loss = adversarial + self.cycle_weight * cycle
            if self.identity_weight > 0:
                loss += self.identity_weight * self.identity_loss(x, y)
            scaled = self.optimizer.scale_loss(loss)  # does nothing but in float16
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return adversarial, cycle, fake_y, fake_x

    def discriminator_step(self, x, y, fake_y, fake_x):
        variables = (
            self.discriminator_y.trainable_variables
            + self.discriminator_x.trainable_variables
        )
        optimizer = self.discriminator_optimizer
        with tf.GradientTape() as tape:
            loss = self.discriminator_loss(x, y, fake_y, fake_x)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss

    def train_step(self, batch):
        x, y = batch
        adversarial, cycle, fake_y, fake_x = self.generator_step(x, y)
        discriminator = self.discriminator_step(x, y, fake_y, fake_x)
        self.trackers["adversarial"].update_state(adversarial)
        self.trackers["cycle"].update_state(cycle)
        self.trackers["discriminator"].update_state(discriminator)
        return {name: each.result() for name, each in self.trackers.items()}


def conditional_entropy(before: np.ndarray, after: np.ndarray) -> float:
    """H(before | after) in bits of labels (n,) both, from their joint shares: 0 where
    what was before can be told from what came after."""
    joint = np.zeros((before.max() + 1, after.max() + 1))
    np.add.at(joint, (before, after), 1 / len(before))
    of_after = np.broadcast_to(joint.sum(axis=0), joint.shape)
    there = joint > 0
    return float(-np.sum(joint[there] * np.log2(joint[there] / of_after[there])))


def entropy_bound(guesses: np.ndarray, images: np.ndarray) -> float:
    """A bound from above of H(x | G(x)) in bits, over the n images (n, pixels) that x may
    be, as likely each; guesses: of x from G(x), (n, pixels).

    Whatever q is, −E[log q(x | G(x))] is no less than the entropy. Here q falls with the
    squared distance of an image from the guess, as steeply as makes the bound lowest.
    0 where each image is told from G(x), log₂ n where none is.
    """
    distances = euclidean_distances(guesses, images, squared=True)
    bounds = []
    for steepness in np.geomspace(1e-3, 1e3, 61):
        log_q = log_softmax(-steepness * distances, axis=1)
        bounds.append(-np.mean(np.diag(log_q)) / np.log(2))
    return float(min(bounds))


# --------------------------------------------------------------------------------------
# The experiment: printed and handwritten digits, with the cycle loss and without
# --------------------------------------------------------------------------------------

PRINTED = "printed_digits"
WITHOUT = "no cycle loss"
WITH = "cycle loss"
IDENTITY = "cycle and identity loss"
ENOUGH = 5  # epochs: before, translations are no digits yet that could be judged
PENALTY = 1.0  # of the linear map that guesses images from their translations
NOISE = 0.1  # deviation of what is added to a translation, of pixels in [0, 1]


@dataclass
class Domain:
    """Images of a kind (n, size, size, 1), and their classes."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass
class Digits:
    """Both domains, and who reads them."""

    printed: Domain
    written: Domain
    judge: samples.Judge
    """has learned from both, with labels, which the translators never see"""
    has_same_classes: bool


def load_domains(config: Config, run: Run) -> Digits:
    train, test = data.load(PRINTED, size=config.size, channels=1, seed=run.seed)
    printed = Domain(*train, *test)
    train, test = data.load(config.data, size=config.size, channels=1, seed=run.seed)
    written = Domain(*train, *test)

    names = data.class_names(config.data)
    has_same_classes = len(names) == 10
    if not has_same_classes:
        run.print(
            f"{config.data} has {len(names)} classes, printed digits 10: whether the class "
            "is kept is left out"
        )
        written.y += 10
        written.y_test += 10
    judge = samples.train_judge(
        (
            np.concatenate([printed.x, written.x]),
            np.concatenate([printed.y, written.y]),
        ),
        (
            np.concatenate([printed.x_test, written.x_test]),
            np.concatenate([printed.y_test, written.y_test]),
        ),
        classes=10 if has_same_classes else 10 + len(names),
        run=run,
    )
    return Digits(printed, written, judge, has_same_classes)


def train(digits: Digits, way: str, config: Config, run: Run) -> CycleGAN:
    """way: WITHOUT, WITH or IDENTITY, the same but for that."""
    # As many of both; labels are left behind, and the order says nothing.
    count = max(len(digits.printed.x), len(digits.written.x))
    random = np.random.default_rng(run.seed)
    x = digits.printed.x[random.permutation(count) % len(digits.printed.x)]
    y = digits.written.x[random.permutation(count) % len(digits.written.x)]

    model = CycleGAN(
        (
            build_generator(config.size, config.filters, config.blocks, "to-written"),
            build_generator(config.size, config.filters, config.blocks, "to-printed"),
        ),
        (
            build_discriminator(config.size, config.filters, "written"),
            build_discriminator(config.size, config.filters, "printed"),
        ),
        0.0 if way == WITHOUT else config.cycle_weight,
        config.identity_weight if way == IDENTITY else 0.0,
        name=way.replace(",", "").replace(" ", "-"),
    )
    steps = config.epochs * -(-count // config.batch_size)
    rate = keras.optimizers.schedules.PolynomialDecay(
        config.learning_rate, steps, config.learning_rate / 10
    )
    model.compile(
        keras.optimizers.Adam(rate, beta_1=0.5),
        keras.optimizers.Adam(rate, beta_1=0.5),
    )
    training.fit(
        model,
        x,
        y,
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=run.callbacks,
    )
    return model


@dataclass
class Translation:
    """Held-out images of a domain, there and back."""

    images: np.ndarray
    translated: np.ndarray
    back: np.ndarray
    back_from_noise: np.ndarray
    """from the translation with a little noise"""
    kept: float
    """share whose class the judge still reads"""
    class_entropy: float
    """H(class before | class after), bits"""
    entropy: float
    """bound of H(image before | image after), bits"""
    frechet: float
    """of the translations to real images of the other domain"""

    @property
    def cycle_error(self) -> float:
        return float(np.abs(self.back - self.images).mean())

    @property
    def cycle_error_from_noise(self) -> float:
        return float(np.abs(self.back_from_noise - self.images).mean())


def translate(there, home, source: Domain, target: Domain, judge, seed: int):
    """there, home: generators."""
    translated = samples.in_parts(there, source.x_test)
    random = np.random.default_rng(seed)
    noise = NOISE * random.standard_normal(translated.shape)
    noisy = np.clip(translated + noise, 0, 1).astype("float32")
    read = judge.classify(translated)
    return Translation(
        images=source.x_test,
        translated=translated,
        back=samples.in_parts(home, translated),
        back_from_noise=samples.in_parts(home, noisy),
        kept=float(np.mean(read == source.y_test)),
        class_entropy=conditional_entropy(source.y_test, read),
        entropy=bits_lost(there, source, translated),
        frechet=frechet(translated, target, judge),
    )


def bits_lost(there, source: Domain, translated: np.ndarray) -> float:
    """Of held-out images by their translations, from which a linear map guesses them: the
    same for all generators, whether their way home was learned or not."""
    known = samples.in_parts(there, source.x).reshape(len(source.x), -1)
    decoder = Ridge(PENALTY).fit(known, source.x.reshape(len(source.x), -1))
    guesses = decoder.predict(translated.reshape(len(translated), -1))
    return entropy_bound(guesses, source.x_test.reshape(len(guesses), -1))


def frechet(images: np.ndarray, domain: Domain, judge: samples.Judge) -> float:
    """Distance to the domain's held-out images, in the judge's features."""
    real = judge.features(domain.x_test)
    return samples.frechet_distance(judge.features(images), real)


@dataclass
class Both:
    """What a pair of generators does, in both directions."""

    to_written: Translation
    to_printed: Translation

    def mean(self, measure: str) -> float:
        there = getattr(self.to_written, measure)
        return 0.5 * (there + getattr(self.to_printed, measure))


def translate_both(model: CycleGAN, digits: Digits, seed: int) -> Both:
    printed = digits.printed
    written = digits.written
    judge = digits.judge
    return Both(
        translate(model.to_y, model.to_x, printed, written, judge, seed),
        translate(model.to_x, model.to_y, written, printed, judge, seed),
    )


def judge_cycle(found: dict[str, Both], run: Run) -> None:
    errors = {way: each.mean("cycle_error") for way, each in found.items()}
    run.metrics("cycle_error", errors)
    run.compare(
        "The cycle loss brings held-out digits home (mean absolute difference of pixels)",
        errors,
        more=WITHOUT,
        less=WITH,
        times=1.6,
    )


def judge_entropy(found: dict[str, Both], run: Run) -> None:
    entropies = {way: each.mean("entropy") for way, each in found.items()}
    run.metrics("entropy", entropies, unit="bits")
    run.compare(
        "To minimize the cycle loss minimizes the conditional entropy: bits about a "
        "held-out image that its translation does not tell",
        entropies,
        more=WITHOUT,
        less=WITH,
        times=1.5,
    )


def measure_classes(found: dict[str, Both], run: Run) -> None:
    kept = {way: each.mean("kept") for way, each in found.items()}
    lost = {way: each.mean("class_entropy") for way, each in found.items()}
    run.metrics("class_kept", kept)
    run.metrics("class_entropy", lost, unit="bits")


def judge_translation(found: dict[str, Both], digits: Digits, run: Run) -> None:
    untranslated = frechet(digits.printed.x_test, digits.written, digits.judge)
    distances = {"untranslated": untranslated}
    distances |= {way: each.mean("frechet") for way, each in found.items()}
    run.metrics("frechet", distances)
    run.compare(
        "Without a single pair it learns to make each kind look more like the other "
        "(Fréchet distance to real ones in features of a classifier, mean over both)",
        distances,
        more="untranslated",
        less=WITH,
        times=1.1,
    )


def judge_classes(found: dict[str, Both], run: Run) -> None:
    kept = {way: each.mean("kept") for way, each in found.items()}
    run.claim(
        "With the cycle loss most digits keep their class, which nobody told, and more "
        "than without",
        holds=kept[WITH] > 0.55 and kept[WITH] > kept[WITHOUT] + 0.08,
        measured=", ".join(f"{way} {each:.2f}" for way, each in kept.items())
        + "; chance 0.1",
    )


def judge_noise(found: dict[str, Both], run: Run) -> None:
    growth = {
        way: each.mean("cycle_error_from_noise") / each.mean("cycle_error")
        for way, each in found.items()
    }
    run.metrics("growth_by_noise", growth)
    run.compare(
        "Part of the way home is written into the translation in faint signals: a little "
        f"noise on it (σ = {NOISE:g}) makes the cycle error grow, but hardly where no way "
        "home was learned",
        growth,
        more=WITH,
        less=WITHOUT,
        by=0.15,
    )


def draw_translations(found: Both) -> Figure:
    there = found.to_written
    home = found.to_printed
    rows = {
        "printed": there.images,
        "in handwriting": there.translated,
        "and back": there.back,
        "handwritten": home.images,
        "in print": home.translated,
        "back again": home.back,
    }
    return figures.image_rows(rows, title="Held-out digits, translated and back")


def draw_ways(found: dict[str, Both]) -> Figure:
    rows = {"printed": next(iter(found.values())).to_written.images}
    for way, each in found.items():
        rows[way] = each.to_written.translated
    title = "Printed digits in handwriting, by way to learn it"
    return figures.image_rows(rows, title=title)


def draw_losses(found: dict[str, Both]) -> Figure:
    cycle = figures.Panel(
        title="There and back",
        xlabel="mean absolute difference of pixels",
        bars={way: each.mean("cycle_error") for way, each in found.items()},
    )
    lost = figures.Panel(
        title="Lost on the way",
        xlabel="H(x | G(x)), bits at most",
        bars={way: each.mean("entropy") for way, each in found.items()},
        number="{:.2f}",
    )
    kept = figures.Panel(
        title="Class kept",
        xlabel="share of held-out digits",
        bars={way: each.mean("kept") for way, each in found.items()},
        number="{:.2f}",
    )
    return figures.panels(cycle, lost, kept)


def main(config: Config, run: Run) -> None:
    if config.size % 4:
        raise UsageError(f"--size must be a multiple of 4, not {config.size}")
    ways = [WITHOUT, WITH]
    if config.epochs >= ENOUGH:
        ways.append(IDENTITY)
    run.plan(1 + len(ways))
    digits = load_domains(config, run)
    models = {way: train(digits, way, config, run) for way in ways}
    found = {
        way: translate_both(model, digits, run.seed) for way, model in models.items()
    }

    best = ways[-1]
    run.metric("cycle_error", found[best].mean("cycle_error"))
    run.metric("judge_accuracy", digits.judge.accuracy)
    judge_cycle(found, run)
    judge_entropy(found, run)
    if digits.has_same_classes:
        measure_classes(found, run)
    if IDENTITY in found:
        judge_translation(found, digits, run)
        judge_noise(found, run)
    if IDENTITY in found and digits.has_same_classes:
        judge_classes(found, run)
    run.figure("translations", draw_translations(found[best]))
    run.figure("ways", draw_ways(found))
    run.figure("losses", draw_losses(found))

    model = models[best]
    outputs = {"handwritten": model.to_y.output}
    translator = keras.Model(model.to_y.inputs, outputs)
    run.export(translator, example=digits.printed.x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
