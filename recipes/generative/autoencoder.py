"""Autoencoder: a picture through a narrow code, and back.

An encoder f gives a picture x a code of few numbers, a decoder g draws the picture from
it, and both are trained together to lose little: the mean of ‖x − g(f(x))‖². With one
linear layer each, the best they can do is PCA's subspace. With more layers the codes
lie on a curved surface that is nearer to the pictures.
Between the codes of two pictures there are more pictures: not one fading into the
other, but shapes on the way. To draw new ones, codes have to come from somewhere: a
Gaussian with the codes' mean and covariance is too simple, and often hits what is no
code of any picture.
Look at what each gives back at the same size of code, at the way from picture to
picture, and at what random codes draw.

Lectures: INFO Lecture 7; SEL Autoencoders; CS Variational Autoencoders; ICME Autoencoders
Paper: Bourlard and Kamp, Auto-association by multilayer perceptrons and singular value
    decomposition, 1988; Hinton and Salakhutdinov, Reducing the dimensionality of data
    with neural networks, 2006
Tags: latent space, dimensionality reduction, pca, compression, reconstruction,
    interpolation, unsupervised
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers
from matplotlib import pyplot as plt
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from deep_learning_recipes import UsageError, data, figures, samples, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "mnist_5k"
    """mnist_5k or digits (embedded), mnist / fashion_mnist where Keras can download or
    has cached them, or your own images: a folder with one subfolder a class, or an .npz
    file"""
    size: Annotated[int, Interval(ge=8, le=64)] = 28
    """side of the images in pixels, a multiple of 4"""
    code_size: int = 16
    """numbers in a code"""
    units: int = 256
    """of the hidden layers of the deep autoencoder"""
    filters: int = 16
    """of the first convolution; the second has twice as many"""
    epochs: int = 30
    """passes over the training images"""
    batch_size: int = 64
    """images a gradient is averaged over"""
    components: int = 40
    """of the mixture of Gaussians that codes are drawn from, beside one Gaussian"""


QUICK = Config(
    data="digits",
    size=8,
    code_size=10,
    units=128,
    filters=8,
    epochs=40,
    batch_size=32,
    components=20,
)
FULL = Config(units=512, filters=32, epochs=200, components=80)

# --------------------------------------------------------------------------------------
# The idea: f makes a code, g makes a picture of it
# --------------------------------------------------------------------------------------


def build_linear(image_shape: tuple[int, int, int], code_size: int):
    """One layer each, without a nonlinearity: PCA's autoencoder."""
    images = keras.Input(image_shape, name="images")
    codes = layers.Dense(code_size, name="code")(layers.Flatten()(images))
    encoder = keras.Model(images, codes, name="linear_encoder")

    codes = keras.Input((code_size,), name="codes")
    flat = layers.Dense(math.prod(image_shape), name="pixels")(codes)
    pictures = layers.Reshape(image_shape)(flat)
    return encoder, keras.Model(codes, pictures, name="linear_decoder")


def build_deep(image_shape: tuple[int, int, int], code_size: int, units: int = 256):
    """Two hidden layers each."""
    images = keras.Input(image_shape, name="images")
    hidden = layers.Flatten()(images)
    for _ in range(2):
        hidden = layers.Dense(units, "relu", kernel_initializer="he_normal")(hidden)
    codes = layers.Dense(code_size, name="code")(hidden)
    encoder = keras.Model(images, codes, name="deep_encoder")

    codes = hidden = keras.Input((code_size,), name="codes")
    for _ in range(2):
        hidden = layers.Dense(units, "relu", kernel_initializer="he_normal")(hidden)
    flat = layers.Dense(math.prod(image_shape), "sigmoid", name="pixels")(hidden)
    pictures = layers.Reshape(image_shape)(flat)
    return encoder, keras.Model(codes, pictures, name="deep_decoder")


def build_convolutional(
    image_shape: tuple[int, int, int], code_size: int, filters: int = 16
):
    """Convolutions at stride 2 make the maps smaller, transposed ones larger again."""
    height, width, channels = image_shape
    images = hidden = keras.Input(image_shape, name="images")
    for outputs in (filters, 2 * filters):
        hidden = layers.Conv2D(outputs, 3, strides=2, padding="same")(hidden)
        hidden = layers.ReLU()(hidden)
    codes = layers.Dense(code_size, name="code")(layers.Flatten()(hidden))
    encoder = keras.Model(images, codes, name="convolutional_encoder")

    codes = keras.Input((code_size,), name="codes")
    maps = (height // 4, width // 4, 2 * filters)
    hidden = layers.Dense(math.prod(maps), "relu")(codes)
    hidden = layers.Reshape(maps)(hidden)
    hidden = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(hidden)
    hidden = layers.ReLU()(hidden)
    pictures = layers.Conv2DTranspose(
        channels, 4, strides=2, padding="same", activation="sigmoid", name="pixels"
    )(hidden)
    return encoder, keras.Model(codes, pictures, name="convolutional_decoder")


def join(encoder: keras.Model, decoder: keras.Model, name: str) -> keras.Model:
    """g ∘ f. Input and output: (batch, height, width, channels)."""
    images = encoder.inputs[0]
    return keras.Model(images, decoder(encoder(images)), name=name)


def compile_autoencoder(model: keras.Model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mean_squared_error")


def interpolate(one: np.ndarray, other: np.ndarray, steps: int) -> np.ndarray:
    """On the straight line from one to the other, both (n, ...): (steps, n, ...)."""
    shares = np.linspace(0, 1, steps).reshape(-1, *[1] * one.ndim)
    return (1 - shares) * one + shares * other


def subspace_angle(decoder: keras.Model, pca: PCA) -> float:
    """The largest angle in degrees between the subspace that a linear decoder draws in
    and that of the principal components: 0 if they are one."""
    kernel = decoder.get_layer("pixels").kernel
    angles = subspace_angles(np.asarray(kernel).T, pca.components_.T)
    return float(np.degrees(angles.max()))


# --------------------------------------------------------------------------------------
# The experiment: what each gives back, ways between pictures, and random codes
# --------------------------------------------------------------------------------------

LEARNING_RATES = {"linear": 3e-3, "deep": 2e-3, "convolutional": 3e-3}
WAYS = 300  # pairs of images to go between
STEPS = 9  # on each way that is shown


@dataclass
class Trained:
    encoder: keras.Model
    decoder: keras.Model
    losses: list[float]
    """on held-out images, by epoch"""

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.encoder(images))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images in [0, 1]; those of a linear decoder may lie beyond it a little."""
        return np.clip(np.asarray(self.decoder(codes)), 0, 1)


def train(name: str, parts, x, held_out, config: Config, run: Run) -> Trained:
    encoder, decoder = parts
    model = join(encoder, decoder, name)
    # The last directions of a linear one are found slowly, but its epochs are short.
    is_linear = name == "linear"
    epochs = config.epochs * (4 if is_linear else 1)
    steps = epochs * math.ceil(len(x) / config.batch_size)
    compile_autoencoder(model, LEARNING_RATES[name], steps)
    history = training.fit(
        model,
        x,
        x,
        epochs=epochs,
        batch_size=config.batch_size,
        jit_compile=is_linear,
        validation_data=(held_out, held_out),
        callbacks=run.callbacks,
    )
    return Trained(encoder, decoder, history.history["val_loss"])


def train_all(x, held_out, config: Config, run: Run) -> dict[str, Trained]:
    shape = x.shape[1:]
    size = config.code_size
    built = {
        "linear": build_linear(shape, size),
        "deep": build_deep(shape, size, config.units),
        "convolutional": build_convolutional(shape, size, config.filters),
    }
    return {
        name: train(name, parts, x, held_out, config, run)
        for name, parts in built.items()
    }


def fit_pca(x: np.ndarray, code_size: int) -> PCA:
    return PCA(code_size).fit(x.reshape(len(x), -1))


def through_pca(pca: PCA, x: np.ndarray) -> np.ndarray:
    codes = pca.transform(x.reshape(len(x), -1))
    return pca.inverse_transform(codes).reshape(x.shape)


def judge_reconstruction(
    trained: dict[str, Trained], pca: PCA, held_out: np.ndarray, run: Run
) -> dict[str, float]:
    errors = {name: each.losses[-1] for name, each in trained.items()}
    errors["PCA"] = float(np.mean((through_pca(pca, held_out) - held_out) ** 2))
    run.metric("mean_squared_error", errors["deep"])
    run.metrics("mean_squared_error", errors)

    angle = subspace_angle(trained["linear"].decoder, pca)
    run.metric("subspace_angle", angle, unit="degrees")
    run.claim(
        "A linear autoencoder finds PCA's subspace: the largest angle between them is "
        "under 10 degrees, and its error on held-out images is within 2 % of PCA's",
        holds=angle < 10 and abs(errors["linear"] / errors["PCA"] - 1) < 0.02,
        measured=f"{angle:.1f} degrees; mean squared error {errors['linear']:.5f}, PCA "
        f"{errors['PCA']:.5f}",
    )
    run.compare(
        "At the same size of code a deep autoencoder loses far less (mean squared error "
        "on held-out images)",
        errors,
        more="PCA",
        less="deep",
        times=1.25,
    )
    return errors


def judge_ways(
    autoencoder: Trained, x: np.ndarray, y: np.ndarray, judge: samples.Judge, run: Run
) -> None:
    """Halfway between held-out images of two classes, by code and by pixels."""
    random = np.random.default_rng(run.seed)
    first = random.integers(len(x), size=4 * WAYS)
    second = random.integers(len(x), size=4 * WAYS)
    of_two_classes = np.flatnonzero(y[first] != y[second])[:WAYS]
    one = x[first[of_two_classes]]
    other = x[second[of_two_classes]]

    codes = interpolate(autoencoder.encode(one), autoencoder.encode(other), 3)[1]
    halfway = {
        "by code": autoencoder.decode(codes),
        "by pixels": interpolate(one, other, 3)[1],
    }
    grays = {name: samples.grayness(images) for name, images in halfway.items()}
    run.metrics("grayness_halfway", grays)
    precisions = {
        name: samples.precision(judge.directions(images), judge.directions(x))
        for name, images in halfway.items()
    }
    run.metrics("precision_halfway", precisions)
    run.claim(
        "Halfway between two codes lies a shape of its own, in black and white; halfway "
        "between two pictures' pixels both of them, in gray (that more of the former lie "
        "among the real ones does not show)",
        holds=grays["by code"] < grays["by pixels"] - 0.03,
        measured=", ".join(
            f"{name}: grayness {grays[name]:.3f}, precision {precisions[name]:.2f}"
            for name in halfway
        )
        + f"; real ones: grayness {samples.grayness(x):.3f}",
    )


def draw_codes(
    autoencoder: Trained, x: np.ndarray, count: int, config: Config, seed: int
) -> dict[str, np.ndarray]:
    """Pictures of random codes, (count, height, width, channels), by the density that
    the codes were drawn from."""
    codes = autoencoder.encode(x).astype("float64")
    found = {}
    for name, components in (("one Gaussian", 1), ("mixture", config.components)):
        mixture = GaussianMixture(
            min(components, len(codes) // 20 or 1), reg_covar=1e-3, random_state=seed
        )
        drawn, _ = mixture.fit(codes).sample(count)
        order = np.random.default_rng(seed).permutation(count)
        found[name] = autoencoder.decode(drawn[order].astype("float32"))
    return found


def judge_samples(scores: dict[str, samples.Scores], run: Run) -> None:
    run.compare(
        "Codes from one Gaussian draw poor pictures: it is too simple for the codes, of "
        "which a mixture of Gaussians draws better ones (Fréchet distance)",
        {name: each.frechet for name, each in scores.items()},
        more="one Gaussian",
        less="mixture",
        times=1.3,
    )


def draw_reconstructions(
    trained: dict[str, Trained], pca: PCA, x: np.ndarray
) -> plt.Figure:
    rows = {"held-out": x, "PCA": np.clip(through_pca(pca, x), 0, 1)}
    rows |= {name: each.decode(each.encode(x)) for name, each in trained.items()}
    return figures.image_rows(rows, title="Through a code, and back")


def draw_losses(
    trained: dict[str, Trained], errors: dict[str, float], code_size: int
) -> plt.Figure:
    epochs = len(trained["deep"].losses)
    shown = figures.Panel(
        title=f"Codes of {code_size} numbers",
        xlabel="epoch",
        ylabel="mean squared error, held-out images",
        lines={name: each.losses[:epochs] for name, each in trained.items()},
        levels={"PCA": errors["PCA"]},
        yscale="log",
    )
    return figures.panels(shown)


def draw_ways(autoencoder: Trained, x: np.ndarray, y: np.ndarray) -> plt.Figure:
    """Three ways from one class to another, by code and by pixels."""
    labels, first = np.unique(y, return_index=True)
    rows = {}
    for way in range(min(3, len(labels) // 2)):
        one = x[first[2 * way]][np.newaxis]
        other = x[first[2 * way + 1]][np.newaxis]
        codes = interpolate(autoencoder.encode(one), autoencoder.encode(other), STEPS)
        rows[f"{way + 1}: by code"] = autoencoder.decode(codes[:, 0])
        rows[f"{way + 1}: by pixels"] = interpolate(one, other, STEPS)[:, 0]
    return figures.image_rows(rows, title="From picture to picture", columns=STEPS)


def main(config: Config, run: Run) -> None:
    if config.size % 4:
        raise UsageError(f"--size must be a multiple of 4, not {config.size}")
    run.plan(4)
    (x, y), (x_test, y_test) = data.load(
        config.data, size=config.size, channels=1, seed=run.seed
    )
    if config.code_size > min(len(x), config.size**2):
        raise UsageError(
            f"--code-size must be at most {min(len(x), config.size**2)}, the number of "
            f"pixels or of images, not {config.code_size}"
        )
    pca = fit_pca(x, config.code_size)
    trained = train_all(x, x_test, config, run)
    errors = judge_reconstruction(trained, pca, x_test, run)
    run.figure("reconstructions", draw_reconstructions(trained, pca, x_test[:10]))
    run.figure("losses", draw_losses(trained, errors, config.code_size))

    classes = len(data.class_names(config.data))
    judge = samples.train_judge((x, y), (x_test, y_test), classes=classes, run=run)
    deep = trained["deep"]
    judge_ways(deep, x_test, y_test, judge, run)
    run.figure("ways", draw_ways(deep, x_test, y_test))

    drawn = draw_codes(deep, x, len(x_test), config, run.seed)
    scores = samples.report(run, drawn, judge)
    judge_samples(scores, run)
    rows = {**drawn, "held-out": x_test}
    run.figure(
        "random_codes", figures.image_rows(rows, title="Pictures of random codes")
    )

    codes = deep.encoder.output
    outputs = {"code": codes, "image": deep.decoder(codes)}
    run.export(keras.Model(deep.encoder.inputs, outputs), example=x[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
