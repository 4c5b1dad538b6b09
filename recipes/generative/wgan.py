"""Wasserstein GANs: a critic that measures how far forgeries are from the truth.

Where samples and forgeries do not overlap, the Jensen-Shannon divergence is log 2 however
far apart they are: a perfect discriminator has no slope to offer. W₁, the least way to
carry one law's mass to the other, is the farther the larger, and it is also the most
that a critic f of slope at most 1 can make of E[f(x)] − E[f(G(z))]. So a network f is
trained for that difference, its slope held by clipping its weights or by a penalty on
‖∇f‖ between samples and forgeries, and the generator walks down it. R1 leaves the
classifier as it was and takes its slope away at the real samples. Of two numbers, the
Dirac-GAN, one sees why: without R1 they circle around the solution, with it they go in.
Look at both distances of two bumps, at the circles, at who draws all of 25 modes, and at
the critic's distance meanwhile.

Lectures: SEL Wasserstein GANs; SEL Convergence of GANs
Paper: Arjovsky et al., Wasserstein generative adversarial networks, 2017 (equation 2,
    example 1 and algorithm 1); Gulrajani et al., Improved training of Wasserstein GANs,
    2017 (equation 3); Mescheder et al., Which training methods for GANs do actually
    converge?, 2018 (equation 9, definition 2.1 and lemma 4.1)
Tags: wgan-gp, gradient penalty, lipschitz, earth mover, mode collapse,
    convergence, dirac-gan
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import special, stats

from deep_learning_recipes import UsageError, data, figures, modes, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    size: Annotated[int, Interval(ge=4, le=64)] = 28
    """side of the images in pixels"""
    components: int = 64
    """principal components that an image is written in"""
    noise_size: int = 64
    """random numbers that an image is made of"""
    units: int = 256
    """of each hidden layer of the networks for images"""
    epochs: Annotated[int, Interval(ge=6)] = 150
    """passes over the training images"""
    batch_size: Annotated[int, Interval(ge=2)] = 64
    """images a step of the critic sees, and forged ones beside them"""
    critic_steps: int = 3
    """of the critic for each of the generator, on images"""
    learning_rate: float = 1e-3
    """of Adam, at the first step; it falls to 0 along a cosine"""
    toy_units: int = 128
    """of each hidden layer of the critics of two bumps"""
    toy_steps: Annotated[int, Interval(ge=40)] = 1500
    """of these critics"""
    games: tuple[str, ...] = ("GAN", "gradient penalty")
    """that learn 25 Gaussians on a grid: of GAN, weight clipping, gradient penalty and
    GAN with R1"""
    grid_steps: Annotated[int, Interval(ge=40)] = 5000
    """of their generators, and three times as many of their critics"""


QUICK = Config(
    data="digits",
    size=8,
    components=32,
    units=64,
    epochs=60,
    toy_units=64,
    toy_steps=400,
    games=(),
)
FULL = Config(
    units=512,
    epochs=900,
    toy_steps=6000,
    games=("GAN", "weight clipping", "gradient penalty", "GAN with R1"),
    grid_steps=20_000,
)

# --------------------------------------------------------------------------------------
# The idea: a difference of means, under a slope that is held
# --------------------------------------------------------------------------------------


def wasserstein_critic_loss(real_scores, fake_scores):
    """E[f(G(z))] − E[f(x)]: the least that a critic of slope at most 1 makes of it is
    −W₁."""
    return ops.mean(fake_scores) - ops.mean(real_scores)


def wasserstein_generator_loss(fake_scores):
    """−E[f(G(z))]."""
    return -ops.mean(fake_scores)


def discriminator_loss(real_logits, fake_logits):
    """−E[log D(x)] − E[log(1 − D(G(z)))], the first GAN's: D = sigmoid."""
    return ops.mean(ops.softplus(-real_logits)) + ops.mean(ops.softplus(fake_logits))


def non_saturating_loss(fake_logits):
    """−E[log D(G(z))]."""
    return ops.mean(ops.softplus(-fake_logits))


def squared_slopes(critic: keras.Model, x):
    """‖∇ₓ f(x)‖² of each example, (batch,). critic: without batch normalization, by which
    an example's score would hang on the others."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = ops.sum(critic(x, training=True))
    slopes = tape.gradient(scores, x)
    return ops.sum(ops.square(slopes), axis=tuple(range(1, len(x.shape))))


def gradient_penalty(critic, real, fake, share):
    """E[(‖∇f(x̂)‖ − 1)²], x̂ somewhere between a sample and a forgery. share: how far,
    uniform in [0, 1], one for each example. It does not quite hold the slope: with the
    weight λ the best one is 1 + W₁/2λ."""
    between = share * real + (1 - share) * fake
    # The root has no slope at 0.
    slopes = ops.sqrt(squared_slopes(critic, between) + 1e-12)
    return ops.mean(ops.square(slopes - 1))


def r1_penalty(critic, real, fake, share):
    """½·E‖∇f(x)‖² at the samples."""
    return 0.5 * ops.mean(squared_slopes(critic, real))


@dataclass(frozen=True)
class Game:
    """What a critic and a generator play."""

    critic_loss: Callable = wasserstein_critic_loss
    generator_loss: Callable = wasserstein_generator_loss
    penalty: Callable | None = None
    weight: float = 0.0
    """of the penalty in the critic's loss"""
    clip: float | None = None
    """the largest that a weight of the critic may be"""


def critic_objective(game: Game, critic: keras.Model, real, fake, share):
    """The loss without the penalty, and with it."""
    real_scores = critic(real, training=True)
    fake_scores = critic(fake, training=True)
    loss = game.critic_loss(real_scores, fake_scores)
    if game.penalty is None:
        return loss, loss
    return loss, loss + game.weight * game.penalty(critic, real, fake, share)


class Adversaries(keras.Model):
    """Trains a generator against a critic. `fit(x)`, x: real samples.

    critic_steps: of the critic for each of the generator; a batch is shared out among
        them, so that each sees samples of its own.
    """

    def __init__(self, generator, critic, game: Game, critic_steps: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.generator = generator
        self.critic = critic
        self.game = game
        self.critic_steps = critic_steps
        self.seed_generator = keras.random.SeedGenerator()
        self.critic_loss_tracker = keras.metrics.Mean("critic_loss")

    def compile(self, generator_optimizer, critic_optimizer):
        super().compile(optimizer=generator_optimizer)
        self.critic_optimizer = critic_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        critic_optimizer.build(self.critic.trainable_variables)

    def call(self, noise):
        return self.generator(noise)

    def draw_noise(self, count: int):
        """z ~ N(0, I), (count, noise_size), anew at each call."""
        shape = (count, self.generator.input_shape[-1])
        return keras.random.normal(shape, seed=self.seed_generator)

    def draw_shares(self, x):
        """One for each example of x, (batch, 1, ...)."""
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        return keras.random.uniform(shape, seed=self.seed_generator)

    def train_step(self, x):
        for start in range(self.critic_steps):
            self.critic_step(x[start :: self.critic_steps])
        self.generator_step(ops.shape(x)[0] // self.critic_steps)
        return {"critic_loss": self.critic_loss_tracker.result()}

    def critic_step(self, x):
        fake = self.generator(self.draw_noise(ops.shape(x)[0]), training=True)
        share = self.draw_shares(x)
        variables = self.critic.trainable_variables
        with tf.GradientTape() as tape:
            loss, total = critic_objective(self.game, self.critic, x, fake, share)
            scaled = self.critic_optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, variables)
        self.critic_optimizer.apply(gradients, variables)
        if self.game.clip is not None:
            for weight in variables:
                weight.assign(ops.clip(weight, -self.game.clip, self.game.clip))
        self.critic_loss_tracker.update_state(loss)

    def generator_step(self, count: int):
        noise = self.draw_noise(count)
        variables = self.generator.trainable_variables
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            loss = self.game.generator_loss(self.critic(fake, training=True))
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply(gradients, variables)


def adam(learning_rate: float, steps: int) -> keras.optimizers.Adam:
    rates = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.Adam(rates, beta_1=0.5, beta_2=0.9)


def compile_adversaries(model: Adversaries, learning_rate: float, steps: int) -> None:
    """steps: of the generator."""
    model.compile(
        adam(learning_rate, steps), adam(learning_rate, steps * model.critic_steps)
    )


def build_generator(
    noise_size: int,
    size: int,
    units: int = 128,
    depth: int = 3,
    batch_normalization: bool = False,
) -> keras.Model:
    """Input: noise (batch, noise_size). Output: samples (batch, size)."""
    noise = keras.Input((noise_size,), name="noise")
    hidden = noise
    for _ in range(depth):
        hidden = layers.Dense(units)(hidden)
        if batch_normalization:
            hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.ReLU()(hidden)
    sample = layers.Dense(size, name="sample")(hidden)
    return keras.Model(noise, sample, name="generator")


def build_critic(size: int, units: int = 128, depth: int = 3) -> keras.Model:
    """Input: samples (batch, size). Output: scores, or logits, (batch, 1)."""
    sample = keras.Input((size,), name="sample")
    hidden = sample
    for _ in range(depth):
        hidden = layers.Dense(units)(hidden)
        hidden = layers.LeakyReLU(0.2)(hidden)
    return keras.Model(sample, layers.Dense(1, name="score")(hidden), name="critic")


def slope_of_gan(score):
    """Of the discriminator's loss in the score of a forgery: D = sigmoid(score)."""
    return special.expit(score)


def slope_of_wgan(score):
    """Of the critic's loss: 1 everywhere."""
    return np.ones_like(score)


def dirac_field(theta, psi, slope, gamma: float = 0.0):
    """Where generator and critic want to go in the game of two numbers: all samples are
    0, all forgeries θ, and the critic says ψ·x. Each goes down its own gradient of the
    same game, the generator uphill. gamma: the weight of R1 (Mescheder et al., lemma 2.2
    and section 4.1, where the critic's sign is the other)."""
    of_generator = psi * slope(theta * psi)
    of_critic = -theta * slope(theta * psi) - gamma * psi
    return of_generator, of_critic


def play_dirac(start, steps: int, rate: float, slope, gamma=0.0, alternate=False):
    """The path of (θ, ψ), (steps + 1, 2), by gradient steps at once or in turn."""
    theta, psi = start
    path = [(theta, psi)]
    for _ in range(steps):
        of_generator, of_critic = dirac_field(theta, psi, slope, gamma)
        theta = theta + rate * of_generator
        if alternate:
            _, of_critic = dirac_field(theta, psi, slope, gamma)
        psi = psi + rate * of_critic
        path.append((theta, psi))
    return np.array(path)


def dirac_eigenvalues(slope_at_0: float, gamma: float):
    """Of the field's Jacobian at the solution (0, 0): without a real part below 0 none
    pulls inwards (Mescheder et al., lemmas 2.3 and 4.1)."""
    root = np.emath.sqrt(gamma**2 / 4 - slope_at_0**2)
    return -gamma / 2 + root, -gamma / 2 - root


# --------------------------------------------------------------------------------------
# The experiment: two bumps, two numbers, 25 modes, digits and their distance
# --------------------------------------------------------------------------------------

GAMES = {
    "GAN": Game(discriminator_loss, non_saturating_loss),
    "weight clipping": Game(clip=0.1),
    "gradient penalty": Game(penalty=gradient_penalty, weight=0.1),
    "GAN with R1": Game(
        discriminator_loss, non_saturating_loss, penalty=r1_penalty, weight=0.1
    ),
}
OF_IMAGES = Game(penalty=gradient_penalty, weight=1.0)
OF_BUMPS = Game(penalty=gradient_penalty, weight=10.0)

POINTS_BATCH = 128
BUMPS_RATE = 1e-3
EXAMPLES = 25_600  # of a law of points
DRAWN = 10_000  # points, to be measured
CRITIC_STEPS = 3  # of points

BUMP_DEVIATION = 0.1
FARTHEST = 3.0  # between two bumps
XLA_STEPS = 2000  # that repay the seconds that it takes to compile

GRID_UNITS = 128
GRID_RATE = 2e-3

DIRAC_START = 1.0  # distance from the solution
DIRAC_STEPS = 500
DIRAC_RATE = 0.1
DIRAC_GAMMA = 0.3

STAGES = 4  # of the training on images, each as long as all before
IMAGES = 1000  # to draw


def whole_batches(x: np.ndarray, size: int) -> np.ndarray:
    """x without the last, smaller batch; repeated where there is not even one."""
    if len(x) < size:
        return np.resize(x, (size, *x.shape[1:]))
    return x[: len(x) // size * size]


class Measuring(keras.Model):
    """Trains a critic alone. `fit(real, fake)`: samples and forgeries, which stay as they
    are."""

    def __init__(self, critic: keras.Model, game: Game, **kwargs):
        super().__init__(**kwargs)
        self.critic = critic
        self.game = game
        self.seed_generator = keras.random.SeedGenerator()
        self.loss_tracker = keras.metrics.Mean("loss")

    def call(self, x):
        return self.critic(x)

    def train_step(self, batch):
        real, fake = batch
        shape = (ops.shape(real)[0], 1)
        share = keras.random.uniform(shape, seed=self.seed_generator)
        variables = self.critic.trainable_variables
        with tf.GradientTape() as tape:
            loss, total = critic_objective(self.game, self.critic, real, fake, share)
            scaled = self.optimizer.scale_loss(total)
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def draw_bumps(distances, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples around 0 and forgeries around each distance: (x, distance) of each, so that
    one network learns of all distances."""
    noise = BUMP_DEVIATION * random.standard_normal((2, len(distances)))
    real = np.stack([noise[0], distances], axis=1)
    fake = np.stack([distances + noise[1], distances], axis=1)
    return real.astype("float32"), fake.astype("float32")


def learn_bumps(game: Game, name: str, config: Config, run: Run) -> keras.Model:
    """A critic of pairs of bumps at random distances."""
    random = np.random.default_rng(run.seed)
    distances = random.uniform(0, FARTHEST, EXAMPLES)
    real, fake = draw_bumps(distances, random)
    model = Measuring(build_critic(2, config.toy_units), game, name=name)
    steps_of_epoch = EXAMPLES // POINTS_BATCH
    epochs = math.ceil(config.toy_steps / steps_of_epoch)
    model.compile(optimizer=adam(BUMPS_RATE, epochs * steps_of_epoch))
    training.fit(
        model,
        real,
        fake,
        epochs=epochs,
        batch_size=POINTS_BATCH,
        jit_compile=epochs * steps_of_epoch > XLA_STEPS,
        callbacks=run.callbacks,
    )
    return model.critic


@dataclass
class Bumps:
    """By distance of two bumps, (distances,) each."""

    distance: np.ndarray
    divergence: np.ndarray
    """Jensen-Shannon in nats, true"""
    divergence_learned: np.ndarray
    """by a discriminator"""
    wasserstein: np.ndarray
    """W₁ by SciPy"""
    wasserstein_learned: np.ndarray
    """by a critic with gradient penalty"""
    slope: float
    """the critic's mean slope between samples and forgeries"""


def jensen_shannon(distance: float) -> float:
    """Of two bumps, in nats, by a sum over a fine grid."""
    x = np.linspace(-1, FARTHEST + 1, 8001)
    p = stats.norm.pdf(x, 0, BUMP_DEVIATION) + 1e-300
    q = stats.norm.pdf(x, distance, BUMP_DEVIATION) + 1e-300
    middle = (p + q) / 2
    terms = p * np.log(p / middle) + q * np.log(q / middle)
    return float(0.5 * np.sum(terms) * (x[1] - x[0]))


def measure_bumps(config: Config, run: Run) -> Bumps:
    discriminator = learn_bumps(GAMES["GAN"], "bumps-discriminator", config, run)
    critic = learn_bumps(OF_BUMPS, "bumps-critic", config, run)
    random = np.random.default_rng(run.seed + 1000)
    distances = np.linspace(0, FARTHEST, 25)
    of_discriminator = []
    of_critic = []
    of_scipy = []
    slopes = []
    for distance in distances:
        real, fake = draw_bumps(np.full(2000, distance), random)
        loss = float(discriminator_loss(discriminator(real), discriminator(fake)))
        of_discriminator.append((math.log(4) - loss) / 2)
        of_critic.append(-float(wasserstein_critic_loss(critic(real), critic(fake))))
        of_scipy.append(stats.wasserstein_distance(real[:, 0], fake[:, 0]))

        between = real + random.uniform(size=(2000, 1)) * (fake - real)
        squares = squared_slopes(critic, tf.constant(between, tf.float32))
        slopes.append(np.sqrt(squares).mean())
    return Bumps(
        distance=distances,
        divergence=np.array([jensen_shannon(distance) for distance in distances]),
        divergence_learned=np.array(of_discriminator),
        wasserstein=np.array(of_scipy),
        wasserstein_learned=np.array(of_critic),
        slope=float(np.mean(slopes)),
    )


def judge_bumps(bumps: Bumps, run: Run) -> None:
    near = int(np.argmin(np.abs(bumps.distance - 1)))
    told = {
        "discriminator": bumps.divergence_learned[-1] / bumps.divergence_learned[near],
        "critic": bumps.wasserstein_learned[-1] / bumps.wasserstein_learned[near],
    }
    run.claim(
        "A discriminator does not see how far apart two bumps are, a critic does: what "
        f"they say at a distance of {FARTHEST:g}, of that at 1",
        holds=abs(told["discriminator"] - 1) < 0.1 and told["critic"] > 2,
        measured=", ".join(f"{name} {value:.2f}" for name, value in told.items()),
        any_data=True,
    )
    away = float(np.abs(bumps.wasserstein_learned - bumps.wasserstein).mean())
    run.metric("distance_from_scipy", away)
    run.metric("critic_slope", bumps.slope)
    run.claim(
        "With the gradient penalty the critic's slope is near 1, and what it makes of the "
        "difference of means is W₁ as SciPy finds it",
        holds=away < 0.25 and abs(bumps.slope - 1) < 0.2,
        measured=f"slope {bumps.slope:.3f}; on average {away:.3f} from W₁, which goes up "
        f"to {bumps.wasserstein.max():.2f}",
        any_data=True,
    )


def unevenness(points: np.ndarray) -> float:
    """Total variation between the modes' shares of the points (n, 2), each counted to the
    nearest, and equal ones: 0 where all are drawn alike."""
    nearest, _ = modes.nearest_modes(points)
    shares = np.bincount(nearest, minlength=len(modes.GRID)) / len(points)
    return float(0.5 * np.abs(shares - 1 / len(modes.GRID)).sum())


class ShareNearModes(keras.callbacks.Callback):
    """Adds to each epoch's logs the share of the generator's points that lie within four
    standard deviations of a mode. Listed before what keeps the logs."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def on_epoch_end(self, epoch, logs=None):
        _, is_near = modes.nearest_modes(np.asarray(self.model.generator(self.noise)))
        logs["near_modes"] = float(is_near.mean())


@dataclass
class Played:
    """What a generator learned of 25 Gaussians."""

    points: np.ndarray
    """that it draws, (DRAWN, 2)"""
    distance: np.ndarray
    """by the critic, by epoch"""
    near_modes: np.ndarray
    """share of its points, by epoch"""


def learn_grid(config: Config, run: Run) -> dict[str, Played]:
    """By name of the game. All have the same networks, steps, batches and rates."""
    random = np.random.default_rng(run.seed)
    size = POINTS_BATCH * CRITIC_STEPS
    x = whole_batches(modes.draw_grid(EXAMPLES, random), size)
    epochs = max(1, config.grid_steps * size // len(x))
    steps = epochs * len(x) // size
    noise = random.standard_normal((2000, 2)).astype("float32")
    found = {}
    for name in config.games:
        generator = build_generator(2, 2, GRID_UNITS)
        critic = build_critic(2, GRID_UNITS)
        label = name.lower().replace(" ", "-")
        model = Adversaries(generator, critic, GAMES[name], CRITIC_STEPS, name=label)
        compile_adversaries(model, GRID_RATE, steps)
        history = training.fit(
            model,
            x,
            epochs=epochs,
            batch_size=size,
            jit_compile=steps * CRITIC_STEPS > XLA_STEPS,
            callbacks=[ShareNearModes(noise), *run.callbacks],
        ).history
        found[name] = Played(
            points=np.asarray(generator(model.draw_noise(DRAWN))),
            distance=-np.array(history["critic_loss"]),
            near_modes=np.array(history["near_modes"]),
        )
    return found


def judge_grid(found: dict[str, Played], run: Run) -> None:
    counts = {name: modes.count_modes(played.points) for name, played in found.items()}
    uneven = {name: unevenness(played.points) for name, played in found.items()}
    run.metrics("modes", counts)
    run.metrics("unevenness", uneven)
    if run.has("--games", counts, "GAN", "gradient penalty"):
        run.claim(
            "With the gradient penalty no mode is lost where a GAN of the same networks, "
            "steps and rates loses some: of 25 Gaussians on a grid (and total variation of "
            "their shares from equal ones)",
            holds=counts["gradient penalty"] >= 24
            and 3 <= counts["GAN"] < 20
            and uneven["GAN"] > 3 * uneven["gradient penalty"],
            measured=", ".join(
                f"{name}: {counts[name]} modes ({uneven[name]:.2f})" for name in found
            ),
            any_data=True,
        )


def judge_distance(found: dict[str, Played], run: Run) -> None:
    if "gradient penalty" not in found:
        return
    played = found["gradient penalty"]
    agreement = float(stats.spearmanr(played.distance, played.near_modes).statistic)
    run.metric("agreement", agreement)
    run.claim(
        "The critic's distance tells how good the points are: it falls as more of them lie "
        "near a mode (rank correlation over the epochs)",
        holds=agreement < -0.7 and played.near_modes[-1] > played.near_modes[0] + 0.3,
        measured=f"{agreement:.2f}; distance {played.distance[0]:.2f} after the first "
        f"epoch, {played.distance[-1]:.2f} after the last, share near a mode "
        f"{played.near_modes[0]:.2f} and {played.near_modes[-1]:.2f}",
        any_data=True,
    )


def play_all(seed: int) -> dict[str, np.ndarray]:
    """Paths of the Dirac-GAN from a random place at distance DIRAC_START."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    start = (DIRAC_START * np.cos(angle), DIRAC_START * np.sin(angle))

    def play(slope, gamma=0.0, alternate=False):
        return play_dirac(start, DIRAC_STEPS, DIRAC_RATE, slope, gamma, alternate)

    return {
        "GAN, at once": play(slope_of_gan),
        "GAN, in turn": play(slope_of_gan, alternate=True),
        "WGAN, in turn": play(slope_of_wgan, alternate=True),
        "GAN with R1": play(slope_of_gan, DIRAC_GAMMA, alternate=True),
    }


def judge_dirac(paths: dict[str, np.ndarray], run: Run) -> None:
    late = DIRAC_STEPS // 5
    distances = {
        name: float(np.linalg.norm(path[-late:], axis=1).mean())
        for name, path in paths.items()
    }
    run.metrics("dirac_distance", distances)
    without = min(each for name, each in distances.items() if name != "GAN with R1")
    run.claim(
        "The Dirac-GAN goes to the solution with R1, and circles around it without, "
        "whether the players step at once or in turn",
        holds=distances["GAN with R1"] < 0.01 and without > 0.5 * DIRAC_START,
        measured=f"distance from {DIRAC_START:g} to "
        + ", ".join(f"{each:.2g} ({name})" for name, each in distances.items()),
        any_data=True,
    )


@dataclass
class Stage:
    """What a generator of images can do after some epochs."""

    epochs: int
    images: np.ndarray
    frechet: float


def ends_of_stages(epochs: int) -> list[int]:
    """The epochs after which to look: 12, 25, 50 and 100 of 100."""
    return sorted({max(1, epochs >> stage) for stage in range(STAGES)})


def learn_images(codes: samples.Codes, judge, config: Config, run: Run):
    """The trained model, and what it could do on the way."""
    size = config.batch_size * config.critic_steps
    x = whole_batches(codes.encode(judge.train), size)
    generator = build_generator(
        config.noise_size, x.shape[1], config.units, depth=2, batch_normalization=True
    )
    critic = build_critic(x.shape[1], config.units, depth=2)
    model = Adversaries(
        generator, critic, OF_IMAGES, config.critic_steps, name="images"
    )
    steps = config.epochs * len(x) // size
    compile_adversaries(model, config.learning_rate, steps)
    noise = keras.random.normal((IMAGES, config.noise_size), seed=run.seed)

    stages = []
    done = 0
    for end in ends_of_stages(config.epochs):
        training.fit(
            model,
            x,
            epochs=end - done,
            batch_size=size,
            jit_compile=steps * config.critic_steps > XLA_STEPS,
            callbacks=run.callbacks,
        )
        done = end
        images = np.asarray(codes.decode(generator(noise)))
        stages.append(Stage(end, images, samples.measure(images, judge).frechet))
    return model, stages


def judge_images(scores: dict[str, samples.Scores], run: Run) -> None:
    run.compare(
        "Near more of the held-out pictures there is one of its own than among draws of a "
        "Gaussian with the same principal components (coverage)",
        {name: each.coverage for name, each in scores.items()},
        more="WGAN",
        less="Gaussian",
        times=1.4,
    )


def draw_distances(bumps: Bumps) -> Figure:
    divergence = figures.Panel(
        title="Jensen-Shannon: all are as far",
        xlabel="distance of the bumps",
        ylabel="nats",
        lines={
            "true": (bumps.distance, bumps.divergence),
            "learned": (bumps.distance, bumps.divergence_learned),
        },
        levels={"log 2": math.log(2)},
        ylim=(0, 0.8),
    )
    wasserstein = figures.Panel(
        title="W₁: the farther the larger",
        xlabel="distance of the bumps",
        ylabel="W₁",
        lines={
            "true": (bumps.distance, bumps.wasserstein),
            "learned": (bumps.distance, bumps.wasserstein_learned),
        },
    )
    return figures.panels(divergence, wasserstein)


def draw_dirac(paths: dict[str, np.ndarray]) -> Figure:
    """Each path over the field that it follows."""
    figure, grid = plt.subplots(
        1, len(paths), figsize=(3 * len(paths), 3.6), sharex=True, sharey=True
    )
    places = np.linspace(-2.4, 2.4, 13)
    theta, psi = np.meshgrid(places, places)
    for axes, (name, path) in zip(grid, paths.items(), strict=True):
        slope = slope_of_wgan if name.startswith("WGAN") else slope_of_gan
        gamma = DIRAC_GAMMA if name.endswith("R1") else 0.0
        of_generator, of_critic = dirac_field(theta, psi, slope, gamma)
        axes.quiver(theta, psi, of_generator, of_critic, color="0.6", width=0.005)
        axes.plot(*path.T, color=figures.COLORS[0], linewidth=1)
        axes.plot(*path[0], "o", color=figures.COLORS[1], label="start")
        axes.plot(0, 0, "k*", markersize=10, label="solution")
        axes.set(title=name, xlabel="forgery θ", aspect="equal")
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    grid[0].set_ylabel("critic ψ")
    figure.suptitle("Two numbers play")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def draw_modes(samples_of_law: np.ndarray, found: dict[str, Played]) -> Figure:
    shown = {"samples": samples_of_law}
    shown |= {name: played.points for name, played in found.items()}
    figure, grid = plt.subplots(
        1, len(shown), figsize=(3.3 * len(shown), 4.3), sharex=True, sharey=True
    )
    for axes, (name, points) in zip(grid, shown.items(), strict=True):
        axes.scatter(*points[:2500].T, s=3, alpha=0.4, linewidths=0)
        axes.set(title=f"{name}\n{modes.count_modes(points)} modes", aspect="equal")
        axes.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xlabel="$x_1$")
    grid[0].set_ylabel("$x_2$")
    figure.suptitle("25 Gaussians, and what generators draw")
    return figure


def draw_agreement(played: Played) -> Figure:
    distance = figures.Panel(
        title="What the critic says",
        xlabel="epoch",
        ylabel="distance",
        lines={"critic": played.distance},
        ylim=(0, None),
    )
    quality = figures.Panel(
        title="How good the points are",
        xlabel="epoch",
        ylabel="share within four deviations of a mode",
        lines={"generator": played.near_modes},
        ylim=(0, 1),
    )
    return figures.panels(distance, quality)


def draw_stages(stages: list[Stage]) -> Figure:
    rows = {
        f"{stage.epochs} epochs\nFréchet {stage.frechet:.1f}": stage.images
        for stage in stages
    }
    title = "The same noise as training goes on, and the Fréchet distance"
    return figures.image_rows(rows, title=title, columns=12)


def main(config: Config, run: Run) -> None:
    unknown = [name for name in config.games if name not in GAMES]
    if unknown:
        raise UsageError(f"--games: {unknown[0]!r} is none of {', '.join(GAMES)}")
    run.plan(2 + len(config.games) + 1 + len(ends_of_stages(config.epochs)))
    bumps = measure_bumps(config, run)
    judge_bumps(bumps, run)
    run.figure("distances", draw_distances(bumps))

    paths = play_all(run.seed)
    judge_dirac(paths, run)
    run.figure("dirac", draw_dirac(paths))

    if config.games:
        grid = learn_grid(config, run)
        judge_grid(grid, run)
        judge_distance(grid, run)
        law = modes.draw_grid(DRAWN, np.random.default_rng(run.seed + 1000))
        run.figure("modes", draw_modes(law, grid))
        if "gradient penalty" in grid:
            run.figure("agreement", draw_agreement(grid["gradient penalty"]))

    train, test = data.load(config.data, size=config.size, channels=1, seed=run.seed)
    names = data.class_names(config.data)
    judge = samples.train_judge(train, test, classes=len(names), run=run)
    codes = samples.Codes(judge.train, config.components)
    model, stages = learn_images(codes, judge, config, run)
    run.figure("stages", draw_stages(stages))

    drawn = stages[-1].images
    labels = judge.classify(drawn)
    title = "Forged, by the class that a classifier sees"
    run.figure("digits", samples.draw_by_class(drawn, labels, names, title))
    judge_images(samples.report(run, {"WGAN": drawn}, judge), run)

    generator = model.generator
    served = keras.Model(generator.input, {"image": codes.decode(generator.output)})
    run.export(served, example=np.zeros((2, config.noise_size), "float32"))


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
