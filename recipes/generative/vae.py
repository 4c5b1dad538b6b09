"""A variational autoencoder: a picture from a few Gaussian numbers, and back.

The decoder says how likely an image is given a code, p(x|z) with z ~ N(0, I); the
encoder guesses the code's distribution, q(z|x) = N(μ(x), σ²(x)). The likelihood p(x) =
∫ p(x|z) p(z) dz is out of reach, so training raises a bound below it, log p(x) ≥ ELBO =
E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)). Writing z = μ + σ·ε with ε ~ N(0, I) lets the
gradient pass through the random draw.
Look at the two terms pulling against each other, at the map of codes, and at the
samples.

Lectures: INFO Lecture 7; CS Variational Autoencoders; SEL Generative Models
Paper: Kingma and Welling, Auto-encoding variational Bayes, 2014 (equations 3 and 7,
    appendix B)
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
from scipy.special import ndtri
from sklearn.neighbors import NearestNeighbors

from deep_learning_recipes import data, figures, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits"
    """digits (embedded), or mnist / fashion_mnist where Keras can download or has
    cached them"""
    size: int = 16
    """side of the images in pixels"""
    latent_size: int = 8
    """numbers in a code"""
    hidden_units: int = 256
    """width of the two hidden layers, of the encoder as of the decoder"""
    beta: float = 4.0
    """weight of the KL term in the network that is compared with the bound itself
    (weight 1)"""
    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    learning_rate: float = 1e-3
    """of Adam"""


QUICK = Config(epochs=40, learning_rate=2e-3)
FULL = Config(data="mnist", size=28, hidden_units=512, latent_size=32)


def build_encoder(pixels: int, latent_size: int, hidden_units: int) -> keras.Model:
    """q(z|x). Input: (batch, pixels) in [0, 1]. Outputs: μ and log σ², each (batch,
    latent)."""
    x = hidden = keras.Input((pixels,), name="x")
    hidden = layers.Dense(hidden_units, activation="relu")(hidden)
    hidden = layers.Dense(hidden_units, activation="relu")(hidden)
    # What likelihoods are made of stays in 32 bits, whatever --precision says.
    mean = layers.Dense(latent_size, dtype="float32", name="mean")(hidden)
    log_variance = layers.Dense(latent_size, dtype="float32", name="log_variance")(
        hidden
    )
    return keras.Model(x, [mean, log_variance], name="encoder")


def build_decoder(
    pixels: int, latent_size: int, hidden_units: int, likelihood: str
) -> keras.Model:
    """p(x|z). Input: (batch, latent). Outputs: the logits of the pixels' means (batch,
    pixels) and, of a Gaussian likelihood, the log σ² of all pixels (batch, 1)."""
    z = hidden = keras.Input((latent_size,), name="latent")
    hidden = layers.Dense(hidden_units, activation="relu")(hidden)
    hidden = layers.Dense(hidden_units, activation="relu")(hidden)
    outputs = {"logits": layers.Dense(pixels, dtype="float32", name="logits")(hidden)}
    if likelihood == "gaussian":
        outputs["log_variance"] = layers.Dense(1, dtype="float32", name="log_variance")(
            hidden
        )
    return keras.Model(z, outputs, name="decoder")


def sample(mean, log_variance, noise):
    """The reparameterization z = μ + σ·ε, differentiable in μ and σ."""
    return mean + ops.exp(0.5 * log_variance) * noise


def kl_divergence(mean, log_variance):
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, (batch,): appendix B of the paper."""
    return 0.5 * ops.sum(
        ops.square(mean) + ops.exp(log_variance) - 1 - log_variance, axis=-1
    )


def log_normal(x, mean, log_variance):
    """log N(x; μ, σ²), summed over the last axis."""
    distances = ops.square(x - mean) / ops.exp(log_variance)
    return -0.5 * ops.sum(distances + log_variance + math.log(2 * math.pi), axis=-1)


class VAE(keras.Model):
    """Encoder and decoder, trained together to raise the ELBO (reconstruction −
    β·KL)."""

    def __init__(self, encoder, decoder, likelihood="bernoulli", beta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.likelihood, self.beta = likelihood, beta
        self.seed_generator = keras.random.SeedGenerator()
        self.trackers = [keras.metrics.Mean("reconstruction"), keras.metrics.Mean("kl")]

    def call(self, x):
        """The mean of the reconstruction through the code's mean."""
        return ops.sigmoid(self.decoder(self.encoder(x)[0])["logits"])

    def log_likelihood(self, x, z):
        """log p(x|z) in nats, (batch,)."""
        pixels = self.decoder(z)
        if self.likelihood == "gaussian":
            return log_normal(x, ops.sigmoid(pixels["logits"]), pixels["log_variance"])
        return -ops.sum(
            ops.binary_crossentropy(x, pixels["logits"], from_logits=True), axis=-1
        )

    def terms(self, x):
        """E_q[log p(x|z)] by one sample, and the KL in closed form, each (batch,)."""
        mean, log_variance = self.encoder(x)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        z = sample(mean, log_variance, noise)
        return self.log_likelihood(x, z), kl_divergence(mean, log_variance)

    def track(self, *terms):
        for tracker, term in zip(self.trackers, terms, strict=True):
            tracker.update_state(term)
        return {tracker.name: tracker.result() for tracker in self.trackers}

    def train_step(self, x):
        with tf.GradientTape() as tape:
            reconstruction, kl = self.terms(x)
            loss = -ops.mean(reconstruction - self.beta * kl)
            loss = self.optimizer.scale_loss(loss)  # does nothing but in float16
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return self.track(reconstruction, kl)

    def test_step(self, x):
        return self.track(*self.terms(x))

    def importance_weighted_bound(self, x, samples):
        """log (1/K) Σ p(x|z_k) p(z_k) / q(z_k|x), (batch,): nearer to log p(x) as K
        grows (Burda et al., Importance weighted autoencoders, 2016, equation 8)."""
        mean, log_variance = self.encoder(x)
        log_weights = []
        for _ in range(samples):
            z = sample(mean, log_variance, keras.random.normal(ops.shape(mean)))
            log_ratio = log_normal(z, 0.0, ops.zeros_like(z)) - log_normal(
                z, mean, log_variance
            )
            log_weights.append(self.log_likelihood(x, z) + log_ratio)
        return ops.logsumexp(ops.stack(log_weights), axis=0) - math.log(samples)


def told_apart(drawn: np.ndarray, real: np.ndarray) -> float:
    """Share of all images whose nearest other image is of their own kind: 0.5 if no
    difference is seen, 1 if all are told apart (Lopez-Paz and Oquab, Classifier
    two-sample tests, 2017)."""
    images = np.concatenate([drawn, real]).astype("float32")
    is_real = np.arange(len(images)) >= len(drawn)
    _, nearest = NearestNeighbors(n_neighbors=1).fit(images).kneighbors()  # not itself
    return float(np.mean(is_real == is_real[nearest[:, 0]]))


def plot_plane(model: VAE, x: np.ndarray, y: np.ndarray, size: int) -> plt.Figure:
    """Where a two-number code puts each digit, and what the decoder draws all over the
    plane."""
    # Equal shares of the prior's probability lie between neighboring rows and columns.
    quantiles = ndtri(np.linspace(0.02, 0.98, 16))
    plane = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    drawn = np.asarray(ops.sigmoid(model.decoder(plane.astype("float32"))["logits"]))
    tiles = np.pad(drawn.reshape(16, 16, size, size), ((0, 0), (0, 0), (1, 1), (1, 1)))
    picture = tiles.transpose(0, 2, 1, 3).reshape(16 * (size + 2), -1)

    figure, (codes, decoded) = plt.subplots(1, 2, figsize=(10.5, 5.2))
    for (first, second), digit in zip(np.asarray(model.encoder(x)[0]), y, strict=True):
        codes.text(
            first, second, str(digit), color=plt.cm.cividis(digit / 11), clip_on=True
        )
    codes.set(
        title="Codes of held-out digits", xlim=(-3, 3), ylim=(-3, 3), aspect="equal"
    )
    codes.set(xlabel="$z_1$", ylabel="$z_2$")
    decoded.imshow(picture, cmap="gray")
    decoded.set(title="What the decoder draws there", xticks=[], yticks=[])
    return figure


def main(config: Config, run: Run) -> None:
    (x_train, _), (x_test, y_test) = data.load(config.data, size=config.size)
    x_train, x_test = (x.reshape(len(x), -1) for x in (x_train, x_test))
    black_and_white = [(x > 0.5).astype("float32") for x in (x_train, x_test)]

    def train(name, latent_size, likelihood="bernoulli", beta=1.0):
        """The trained network, and the terms of its bound on held-out images by
        epoch."""
        sizes = config.size**2, latent_size, config.hidden_units
        model = VAE(
            build_encoder(*sizes),
            build_decoder(*sizes, likelihood),
            likelihood,
            beta,
            name=name,
        )
        model.compile(optimizer=keras.optimizers.Adam(config.learning_rate))
        x, held_out = (
            black_and_white if likelihood == "bernoulli" else (x_train, x_test)
        )
        history = training.fit(
            model,
            x,
            epochs=config.epochs,
            batch_size=config.batch_size,
            validation_data=(held_out,),
            callbacks=run.callbacks,
        ).history
        return (
            model,
            np.array(history["val_reconstruction"]),
            np.array(history["val_kl"]),
        )

    vae, reconstruction, kl = train("vae", config.latent_size)
    _, strong_reconstruction, strong_kl = train(
        "strong-kl", config.latent_size, beta=config.beta
    )
    plane, plane_reconstruction, plane_kl = train("plane", 2)
    gaussian, _, _ = train("gaussian", config.latent_size, likelihood="gaussian")

    held_out = black_and_white[1]
    elbo, plane_elbo = (
        reconstruction[-1] - kl[-1],
        plane_reconstruction[-1] - plane_kl[-1],
    )
    bound = np.mean(vae.importance_weighted_bound(held_out, samples=64))
    run.metric("test_elbo", elbo, unit="nats an image")
    run.metric("test_importance_weighted_bound", bound, unit="nats an image")
    run.metric("test_elbo_of_two_number_codes", plane_elbo, unit="nats an image")
    run.claim(
        "The ELBO is a lower bound: averaging more codes before the logarithm raises it",
        holds=bound > elbo + 0.5,
        measured=f"ELBO {elbo:.2f}, with 64 codes {bound:.2f} nats",
    )
    run.claim(
        "The two terms pull against each other: a heavier KL costs reconstruction",
        holds=strong_kl[-1] < 0.8 * kl[-1]
        and strong_reconstruction[-1] < reconstruction[-1] - 1,
        measured=f"KL {kl[-1]:.1f} and log likelihood {reconstruction[-1]:.1f} nats at weight 1, "
        f"{strong_kl[-1]:.1f} and {strong_reconstruction[-1]:.1f} at weight {config.beta:g}",
    )

    # The Gaussian decoder's own noise level should be the size of its errors.
    pixels = gaussian.decoder(gaussian.encoder(x_train)[0])
    error = np.sqrt(np.mean((ops.sigmoid(pixels["logits"]) - x_train) ** 2))
    sigma = np.sqrt(np.mean(ops.exp(pixels["log_variance"])))
    run.claim(
        "A Gaussian decoder learns its noise: σ comes out as the error of its reconstructions",
        holds=abs(sigma / error - 1) < 0.25,
        measured=f"σ {sigma:.3f}, root mean square error {error:.3f} of a pixel in [0, 1]",
    )

    # Samples against the simplest density with the right means and covariances.
    draws = 5 * len(
        x_test
    )  # five rounds against the held-out digits, to even out chance
    codes = keras.random.normal((draws, config.latent_size))
    drawn = np.asarray(ops.sigmoid(vae.decoder(codes)["logits"]))
    random = np.random.default_rng(run.seed)
    simple = random.multivariate_normal(x_train.mean(axis=0), np.cov(x_train.T), draws)
    told, told_simple = (
        np.mean([told_apart(part, held_out) for part in np.split(x > 0.5, 5)])
        for x in (drawn, simple)
    )
    run.claim(
        "Samples are harder to tell from held-out digits than those of a Gaussian over the pixels",
        holds=told < told_simple - 0.03,
        measured=f"told apart by their nearest neighbor: {told:.1%} of the decoder's, "
        f"{told_simple:.1%} of the Gaussian's (50 % is chance)",
    )

    rows = {"held out": held_out, "reconstructed": vae(held_out[:10])}
    rows |= {"sampled": drawn, "pixel Gaussian": simple}
    run.figure(
        "samples",
        figures.image_rows(rows, title="What it makes of digits and of noise"),
    )
    run.figure("plane", plot_plane(plane, held_out, y_test, config.size))
    lines = {
        "−log p(x|z)": -reconstruction,
        "KL": kl,
        "their sum, −ELBO": kl - reconstruction,
    }
    run.figure(
        "terms", figures.curves(lines, title="Held-out terms", ylabel="nats an image")
    )
    outputs = {"image": ops.sigmoid(vae.decoder.output["logits"])}
    example = np.zeros((2, config.latent_size), "float32")
    run.export(keras.Model(vae.decoder.input, outputs), example=example)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
