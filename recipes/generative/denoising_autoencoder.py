"""Denoising autoencoder: what was there before the damage.

A picture x is damaged at random, x̃ = x + σ·ε or with pixels missing, and a network h
learns to restore it: the mean of ‖x − h(x̃)‖². To copy is no way out any more; it has to
know what pictures look like. The best possible answer is the mean of all pictures that
x̃ may come from, h(x̃) = E[x | x̃]. What it changes, h(x̃) − x̃ = σ²·∇log p(x̃), points to
where there is data. But where x̃ may come from different pictures their mean may be none
of them: between −1 and 1 it answers 0, and of half a digit it draws a blurred other half.
Look at restored digits beside an autoencoder that has seen none but whole ones, at the
arrows to the data, and at what it makes of half a digit.

Lectures: INFO Lecture 7; SEL Autoencoders
Paper: Vincent et al., Extracting and composing robust features with denoising
    autoencoders, 2008; Alain and Bengio, What regularized auto-encoders learn from the
    data-generating distribution, 2014 (theorem 1)
Tags: noise, masking, inpainting, score, posterior mean, robustness, restoration
"""

import math
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
from annotated_types import Interval
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy.ndimage import median_filter
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

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
    noise: Annotated[float, Interval(gt=0)] = 0.5
    """σ, of pixels in [0, 1]"""
    missing: Annotated[float, Interval(gt=0, lt=1)] = 0.7
    """share of the pixels that masking sets to 0"""
    filters: int = 16
    """of the first convolution; the second has twice as many"""
    code_size: int = 128
    """numbers that all of a picture goes through"""
    epochs: int = 25
    """passes over the training images, each with new damage"""
    batch_size: int = 64
    """images a gradient is averaged over"""


QUICK = Config(size=16, noise=0.6, missing=0.7, epochs=20)
FULL = Config(filters=32, code_size=256, epochs=200)

# --------------------------------------------------------------------------------------
# The idea: damage while it learns, and the whole picture as the target
# --------------------------------------------------------------------------------------


def add_noise(x, amount: float, seed=None):
    """x + σ·ε, with ε ~ N(0, 1) for each pixel."""
    return x + amount * keras.random.normal(ops.shape(x), seed=seed)


def mask_pixels(x, amount: float, seed=None):
    """Each pixel is 0 with this probability."""
    kept = keras.random.uniform(ops.shape(x), seed=seed) >= amount
    return x * ops.cast(kept, x.dtype)


def mask_half(x, amount: float, seed=None):
    """The lower half is 0, whatever the amount."""
    upper = ops.arange(x.shape[1]) < x.shape[1] // 2
    return x * ops.cast(ops.reshape(upper, (1, -1, 1, 1)), x.dtype)


DAMAGES = {"noise": add_noise, "masking": mask_pixels, "half": mask_half}


@keras.saving.register_keras_serializable(package="denoising_autoencoder")
class Damage(layers.Layer):
    """Damages what it is given while the network learns, and nothing afterwards.

    kind: of `DAMAGES`. amount: its strength.
    """

    def __init__(self, kind: str, amount: float, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.amount = amount
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        if not training:
            return x
        return DAMAGES[self.kind](x, self.amount, self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "amount": self.amount}


def build_autoencoder(
    image_shape: tuple[int, int, int],
    damage: Damage | None = None,
    filters: int = 16,
    code_size: int = 128,
    name: str = "autoencoder",
) -> keras.Model:
    """h = g ∘ f. Input and output: (batch, height, width, channels). Without damage it
    is a plain autoencoder."""
    height, width, channels = image_shape
    images = keras.Input(image_shape, name="images")
    hidden = damage(images) if damage else images
    for outputs in (filters, 2 * filters):
        hidden = layers.Conv2D(outputs, 3, strides=2, padding="same")(hidden)
        hidden = layers.ReLU()(hidden)
    code = layers.Dense(code_size, name="code")(layers.Flatten()(hidden))

    maps = (height // 4, width // 4, 2 * filters)
    hidden = layers.Dense(math.prod(maps), "relu")(code)
    hidden = layers.Reshape(maps)(hidden)
    hidden = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(hidden)
    hidden = layers.ReLU()(hidden)
    restored = layers.Conv2DTranspose(
        channels, 4, strides=2, padding="same", activation="sigmoid", name="restored"
    )(hidden)
    return keras.Model(images, restored, name=name)


def build_dense(size: int, damage: Damage, units: int = 64, name: str = "dense"):
    """The same of points, (batch, size)."""
    points = keras.Input((size,), name="points")
    hidden = damage(points)
    for _ in range(3):
        hidden = layers.Dense(units, "silu")(hidden)
    return keras.Model(points, layers.Dense(size)(hidden), name=name)


def compile_autoencoder(model: keras.Model, learning_rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mean_squared_error")


def posterior_mean(damaged, deviation: float):
    """E[x | x̃] where x is −1 or 1, as likely, and x̃ = x + σ·ε: tanh(x̃/σ²)."""
    return np.tanh(damaged / deviation**2)


# --------------------------------------------------------------------------------------
# The experiment: digits by damage, a point that may be two, half a digit
# --------------------------------------------------------------------------------------

LEARNING_RATES = {"images": 2e-3, "toys": 3e-3}
PENALTY = 1.0  # of the linear rival
POINTS = 4096  # of the toys
TOY_EPOCHS = 150
TOY_DEVIATION = 0.7  # of the noise on −1 and 1
SPIRAL_DEVIATION = 0.1


def train(model: keras.Model, x, epochs: int, batch_size: int, run: Run):
    # Dense layers gain by XLA, convolutions lose.
    is_toy = x.ndim == 2
    steps = epochs * math.ceil(len(x) / batch_size)
    rate = LEARNING_RATES["toys" if is_toy else "images"]
    compile_autoencoder(model, rate, steps)
    training.fit(
        model,
        x,
        x,
        epochs=epochs,
        batch_size=batch_size,
        jit_compile=is_toy,
        callbacks=run.callbacks,
    )
    return model


def train_all(x, config: Config, run: Run) -> dict[str, keras.Model]:
    """A plain autoencoder, and one for each damage, of the same layers."""
    amounts = {"plain": 0.0, **amounts_of(config)}
    models = {}
    for name, amount in amounts.items():
        damage = None if name == "plain" else Damage(name, amount)
        model = build_autoencoder(
            x.shape[1:], damage, config.filters, config.code_size, name
        )
        models[name] = train(model, x, config.epochs, config.batch_size, run)
    return models


def amounts_of(config: Config) -> dict[str, float]:
    return {"noise": config.noise, "masking": config.missing, "half": 0.5}


def damage_all(x: np.ndarray, config: Config, seed: int) -> dict[str, np.ndarray]:
    """The same images after each damage."""
    return {
        kind: np.asarray(DAMAGES[kind](ops.convert_to_tensor(x), amount, seed))
        for kind, amount in amounts_of(config).items()
    }


def fit_linear(x: np.ndarray, damaged: np.ndarray) -> Ridge:
    """The best linear map from damaged to whole pictures."""
    flat = damaged.reshape(len(x), -1)
    return Ridge(PENALTY).fit(flat, x.reshape(len(x), -1))


def restore(models, linear, damaged: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """By name of the way: damaged pictures, as they were restored."""
    flat = damaged.reshape(len(damaged), -1)
    of_linear = linear[kind].predict(flat).reshape(damaged.shape)
    return {
        "as it is": np.clip(damaged, 0, 1),
        "median of 3×3": median_filter(np.clip(damaged, 0, 1), (1, 3, 3, 1)),
        "linear": np.clip(of_linear, 0, 1),
        "plain": np.asarray(models["plain"](damaged)),
        "denoising": np.asarray(models[kind](damaged)),
    }


def errors_of(restored: dict[str, np.ndarray], x: np.ndarray) -> dict[str, float]:
    return {name: float(np.mean((y - x) ** 2)) for name, y in restored.items()}


def judge_restoring(errors: dict[str, dict[str, float]], run: Run) -> None:
    for kind in ("noise", "masking"):
        run.metrics(f"mean_squared_error_{kind}", errors[kind])
    run.claim(
        "What has learned to restore loses far less on damaged pictures than an "
        "autoencoder of the same layers that has seen none, and less than the best "
        "linear map (mean squared error on held-out images)",
        holds=all(
            errors[kind]["denoising"] < 0.6 * errors[kind]["plain"]
            and errors[kind]["denoising"] < 0.9 * errors[kind]["linear"]
            for kind in ("noise", "masking")
        ),
        measured="; ".join(
            f"{kind}: "
            + ", ".join(f"{name} {error:.4f}" for name, error in errors[kind].items())
            for kind in ("noise", "masking")
        ),
    )


def judge_own_damage(models, damaged, x: np.ndarray, run: Run) -> None:
    """Each network on its own damage and on the other."""
    kinds = ("noise", "masking")
    errors = {
        (learned, met): float(
            np.mean((np.asarray(models[learned](damaged[met])) - x) ** 2)
        )
        for learned in kinds
        for met in kinds
    }
    run.claim(
        "Each restores the damage best that it has learned with",
        holds=all(
            errors[met, met] < 0.9 * errors[other, met]
            for met, other in (kinds, kinds[::-1])
        ),
        measured=", ".join(
            f"{met} by the one of {learned} {error:.4f}"
            for (learned, met), error in errors.items()
        ),
    )


def learn_two_points(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Points x̃ on a line, and what a network that has learned from −1 and 1 says."""
    random = np.random.default_rng(run.seed)
    x = random.choice([-1.0, 1.0], size=(POINTS, 1)).astype("float32")
    model = build_dense(1, Damage("noise", TOY_DEVIATION), name="two-points")
    train(model, x, TOY_EPOCHS, 64, run)
    damaged = np.linspace(-2, 2, 81, dtype="float32")[:, np.newaxis]
    return damaged[:, 0], np.asarray(model(damaged))[:, 0]


def judge_two_points(damaged: np.ndarray, answers: np.ndarray, run: Run) -> None:
    expected = posterior_mean(damaged, TOY_DEVIATION)
    away = float(np.abs(answers - expected).max())
    middle = float(answers[len(answers) // 2])
    run.metric("distance_from_posterior_mean", away)
    run.claim(
        "It learns the mean of what there may have been: tanh(x̃/σ²) where x is −1 or 1; "
        "halfway it answers 0, which x never is",
        holds=away < 0.15 and abs(middle) < 0.15,
        measured=f"at most {away:.3f} away; at 0 it answers {middle:.3f}",
        any_data=True,
    )


def draw_spiral(count: int, random: np.random.Generator) -> np.ndarray:
    """Points on a spiral, (count, 2)."""
    angle = np.sqrt(random.uniform(size=count)) * 3 * np.pi
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    return (points / (3 * np.pi)).astype("float32")


def learn_spiral(run: Run) -> keras.Model:
    x = draw_spiral(POINTS, np.random.default_rng(run.seed))
    model = build_dense(2, Damage("noise", SPIRAL_DEVIATION), units=128, name="spiral")
    return train(model, x, TOY_EPOCHS, 64, run)


def judge_spiral(model: keras.Model, run: Run) -> None:
    random = np.random.default_rng(run.seed + 1000)
    line = draw_spiral(20_000, random)
    damaged = draw_spiral(1000, random)
    damaged += SPIRAL_DEVIATION * random.standard_normal(damaged.shape)
    restored = np.asarray(model(damaged.astype("float32")))
    neighbors = NearestNeighbors(n_neighbors=1).fit(line)
    distances = {
        name: float(neighbors.kneighbors(points)[0].mean())
        for name, points in (("damaged", damaged), ("restored", restored))
    }
    run.metrics("distance_from_spiral", distances)
    run.compare(
        "What it changes points to where there is data: restored points lie nearer to "
        "the spiral that the others came from",
        distances,
        more="damaged",
        less="restored",
        times=1.5,
        any_data=True,
    )


@dataclass
class Halves:
    """Lower halves of held-out images."""

    true: np.ndarray
    mean: np.ndarray
    """by the network: the mean of what they may have been"""
    one_of_them: np.ndarray
    """that of the training image whose upper half is nearest"""


def complete(model, x_train: np.ndarray, x: np.ndarray, damaged: np.ndarray) -> Halves:
    half = x.shape[1] // 2
    upper = x_train[:, :half].reshape(len(x_train), -1)
    neighbors = NearestNeighbors(n_neighbors=1).fit(upper)
    _, nearest = neighbors.kneighbors(x[:, :half].reshape(len(x), -1))
    restored = np.asarray(model(damaged))
    return Halves(x[:, half:], restored[:, half:], x_train[nearest[:, 0], half:])


def judge_halves(halves: Halves, run: Run) -> None:
    errors = {
        "the mean": float(np.mean((halves.mean - halves.true) ** 2)),
        "one of them": float(np.mean((halves.one_of_them - halves.true) ** 2)),
    }
    grays = {
        "the mean": samples.grayness(halves.mean),
        "one of them": samples.grayness(halves.one_of_them),
        "true": samples.grayness(halves.true),
    }
    run.metrics("mean_squared_error_half", errors)
    run.metrics("grayness_half", grays)
    run.claim(
        "Half a digit may be the half of several: in squared error the mean of their "
        "lower halves is better than one that is a true lower half, but it is blurred, "
        "as none of them is",
        holds=errors["the mean"] < 0.8 * errors["one of them"]
        and grays["the mean"] > 1.15 * grays["true"],
        measured=f"mean squared error {errors['the mean']:.4f}, of the nearest "
        f"neighbor's half {errors['one of them']:.4f}; grayness {grays['the mean']:.3f}, "
        f"{grays['one of them']:.3f}, of true halves {grays['true']:.3f}",
    )


def draw_restored(restored: dict[str, np.ndarray], x: np.ndarray, kind: str):
    rows = {"true": x, **restored}
    return figures.image_rows(rows, title=f"Held-out images after {kind}")


def draw_toys(damaged, answers, model: keras.Model, seed: int) -> plt.Figure:
    figure, (line, plane) = plt.subplots(1, 2, figsize=(10.5, 4.8))
    line.plot(damaged, answers, label="h(x̃), learned")
    mean = posterior_mean(damaged, TOY_DEVIATION)
    line.plot(damaged, mean, "--", label="E[x | x̃] = tanh(x̃/σ²)")
    line.plot([-1, 1], [-1, 1], "k*", markersize=10, label="x")
    line.set(title="x is −1 or 1", xlabel="x̃, with noise", ylabel="restored")

    points = draw_spiral(600, np.random.default_rng(seed))
    grid = np.linspace(-1.2, 1.2, 19, dtype="float32")
    places = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    change = np.asarray(model(places)) - places
    plane.scatter(*points.T, s=6, color=figures.COLORS[1])
    plane.quiver(*places.T, *change.T, angles="xy", color="0.35", width=0.004)
    plane.set(
        title="Points x on a spiral, and what changes, h(x̃) − x̃",
        xlabel="$x_1$",
        ylabel="$x_2$",
    )
    plane.set(aspect="equal")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_halves(halves: Halves, damaged: np.ndarray) -> plt.Figure:
    half = damaged.shape[1] // 2
    rows = {"given": damaged}
    for name, lower in (
        ("the mean", halves.mean),
        ("one of them", halves.one_of_them),
        ("true", halves.true),
    ):
        whole = damaged.copy()
        whole[:, half:] = lower
        rows[name] = whole
    return figures.image_rows(rows, title="Half a digit, and lower halves for it")


def main(config: Config, run: Run) -> None:
    if config.size % 4:
        raise UsageError(f"--size must be a multiple of 4, not {config.size}")
    run.plan(6)
    (x, _), (x_test, _) = data.load(
        config.data, size=config.size, channels=1, seed=run.seed
    )
    models = train_all(x, config, run)
    damaged_train = damage_all(x, config, run.seed)
    damaged = damage_all(x_test, config, run.seed + 1)
    linear = {kind: fit_linear(x, damaged_train[kind]) for kind in DAMAGES}

    restored = {
        kind: restore(models, linear, damaged[kind], kind)
        for kind in ("noise", "masking")
    }
    errors = {kind: errors_of(found, x_test) for kind, found in restored.items()}
    run.metric("mean_squared_error", errors["noise"]["denoising"])
    judge_restoring(errors, run)
    judge_own_damage(models, damaged, x_test, run)
    for kind, found in restored.items():
        run.figure(kind, draw_restored(found, x_test, kind))

    halves = complete(models["half"], x, x_test, damaged["half"])
    judge_halves(halves, run)
    run.figure("halves", draw_halves(halves, damaged["half"]))

    on_line, answers = learn_two_points(run)
    judge_two_points(on_line, answers, run)
    spiral = learn_spiral(run)
    judge_spiral(spiral, run)
    run.figure("toys", draw_toys(on_line, answers, spiral, run.seed))

    model = models["noise"]
    outputs = {"image": model.output}
    run.export(keras.Model(model.inputs, outputs), example=damaged["noise"][:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
