"""Binary and ternary networks: weights of one or two bits, learned at full precision.

The network computes with Wᵇ = sign(W), or with α·Wᵗ, where Wᵗ is 0 for |W| ≤
0.7·mean|W|, else sign(W), and α the mean of |W| over the rest. Their derivative is 0
nearly everywhere, so the gradient goes straight through to the latent W as if nothing
had been rounded: small steps add up in float32 until a weight flips. BinaryConnect
keeps W within [−H, H], as what lies beyond moves nothing; its stochastic form draws +1
with probability (W/H + 1)/2 at each training step. All matrices are rounded, the first
and the last too; batch normalization stays in float32.
Look at what rounding a finished network does instead, at the bytes of the files, which
are packed, read back and run, and at the latent weights before and after.

Lectures: CS Efficient Methods and Hardware (Binary/Ternary Net)
Paper: Courbariaux, Bengio and David, BinaryConnect: training deep neural networks with
    binary weights during propagations, 2015; Li, Zhang and Liu, Ternary weight
    networks, 2016
Tags: binaryconnect, 1-bit, straight-through estimator, ste, quantization, model
    compression
"""

import io
import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops
from matplotlib import pyplot as plt

from deep_learning_recipes import data, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    data: str = "digits_by_writer"
    """digits_by_writer, digits (embedded), mnist where Keras can download or has cached
    it, or your own: a folder of images by class, an .npz file, or a table (.csv,
    .parquet) with --target"""
    units: tuple[int, ...] = (256, 256)
    """of the hidden layers"""
    restarts: int = 3
    """random starts of each network; accuracies are their means"""
    epochs: int = 30
    """passes over the training images"""
    learning_rate: float = 3e-3
    """of Adam at the start; it falls to 0 along a cosine"""


QUICK = Config(restarts=2, epochs=12)
FULL = Config(data="mnist", units=(1024, 1024, 1024), epochs=100)
BATCH_SIZE = 64


def binarize(weights):
    """sign(W), where 0 counts as +1 (BinaryConnect, eq. 1)."""
    return ops.where(weights >= 0, 1.0, -1.0)


def reach(shape: tuple[int, int]) -> float:
    """H, which bounds a matrix's latent weights: Glorot's coefficient (BinaryConnect,
    2.5)."""
    return math.sqrt(1.5 / sum(shape))


def binarise_at_random(weights, seed):
    """+1 with probability (W/H + 1)/2 cut to [0, 1], else −1 (BinaryConnect, eq. 2 and
    3)."""
    chance = ops.clip((weights / reach(weights.shape) + 1) / 2, 0, 1)
    return ops.where(
        keras.random.uniform(ops.shape(weights), seed=seed) < chance, 1.0, -1.0
    )


def ternarize(weights):
    """α·Wᵗ with the threshold 0.7·mean|W| (Ternary weight networks, section 2)."""
    size = ops.abs(weights)
    kept = ops.cast(size > 0.7 * ops.mean(size), weights.dtype)
    return ops.sum(size * kept) / ops.sum(kept) * kept * ops.sign(weights)


BITS = {"binary": 1, "stochastic": 1, "ternary": 2, "float": 32}
RULES = {
    "binary": binarize,
    "stochastic": binarize,
    "ternary": ternarize,
    "float": ops.copy,
}


@keras.saving.register_keras_serializable("binary_networks")
class Clip(keras.constraints.Constraint):
    """Keeps latent weights within [−H, H] after each step."""

    def __call__(self, weights):
        return ops.clip(weights, -reach(weights.shape), reach(weights.shape))


@keras.saving.register_keras_serializable("binary_networks")
class RoundedDense(layers.Dense):
    """A dense layer whose latent kernel, in float32, is rounded before each use of it.
    scheme: binary, stochastic (binary once it is trained), ternary, or float (not
    rounded)."""

    def __init__(self, units, scheme="float", **options):
        super().__init__(units, **options)
        self.scheme = scheme
        if scheme == "stochastic":
            self.draws = keras.random.SeedGenerator()

    def get_config(self):
        return {**super().get_config(), "scheme": self.scheme}

    def call(self, x, training=False):
        rounded = RULES[self.scheme](self.kernel)
        if self.scheme == "stochastic" and training:
            rounded = binarise_at_random(self.kernel, self.draws)
        # Forward this is exactly `rounded`; backward the gradient goes straight to the
        # kernel.
        straight = ops.stop_gradient(rounded) + (
            self.kernel - ops.stop_gradient(self.kernel)
        )
        return ops.matmul(x, straight)


def build_model(
    inputs: int, units: tuple[int, ...], classes: int, scheme: str
) -> keras.Model:
    """Dense layers, each with batch normalization. Output: (batch, classes) logits."""
    options = {"scheme": scheme, "use_bias": False}
    if scheme in ("binary", "stochastic"):
        uniform = keras.initializers.VarianceScaling(
            0.25, "fan_avg", "uniform"
        )  # in [−H, H]
        options |= {"kernel_constraint": Clip(), "kernel_initializer": uniform}
    x = images = keras.Input((inputs,), name="x")
    for index, width in enumerate(units, start=1):
        x = RoundedDense(width, name=f"dense_{index}", **options)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.BatchNormalization(momentum=0.9)(RoundedDense(classes, **options)(x))
    return keras.Model(images, x, name=f"{scheme}-{units[0]}")


def run_rounded(
    network: keras.Model, weights: list[np.ndarray], rule, images
) -> keras.Model:
    """Gives a float network weights, its matrices put through `rule`, and takes the
    means and variances of batch normalization anew: those in `weights` may belong to
    other matrices."""
    network.set_weights(
        [np.asarray(rule(each)) if each.ndim > 1 else each for each in weights]
    )
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    network(images, training=True)
    return network


def pack(weights: list[np.ndarray], bits: int) -> bytes:
    """A model's weights as a file holds them: vectors as float32; of each matrix one
    float32 scale, then a bit for each weight: is it positive? With two bits also: is it
    negative?"""
    parts = []
    for array in weights:
        if array.ndim > 1 and bits < 32:
            parts.append(np.abs(array).max().astype("<f4"))
            array = np.packbits([array > 0, array < 0][:bits])
        parts.append(array)
    return b"".join(part.tobytes() for part in parts)


def unpack(packed: bytes, shapes: list[tuple[int, ...]], bits: int) -> list[np.ndarray]:
    """What `pack` has put away, for a model whose weights have these shapes."""
    weights, file = [], io.BytesIO(packed)
    for shape in shapes:
        size = math.prod(shape)
        if len(shape) == 1 or bits == 32:
            array = np.frombuffer(file.read(4 * size), "<f4")
        else:
            scale = np.frombuffer(file.read(4), "<f4")
            octets = np.frombuffer(file.read(math.ceil(bits * size / 8)), "u1")
            planes = (
                np.unpackbits(octets, count=bits * size)
                .reshape(bits, size)
                .astype("<f4")
            )
            array = scale * (planes[0] - (planes[1] if bits == 2 else 1 - planes[0]))
        weights.append(array.reshape(shape))
    return weights


def plot_findings(
    found: dict, sizes: dict, first: np.ndarray, last: np.ndarray
) -> plt.Figure:
    """Accuracies by start, with the bytes of the files; a matrix's latent weights over
    H."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(3, 2))
    for row, (name, values) in enumerate(found.items()):
        color = (
            "#777777"
            if "float" in name
            else "#D55E00"
            if "later" in name
            else "#0072B2"
        )
        left.barh(row, np.mean(values), color=color)
        left.plot(values, [row] * len(values), "k.", markersize=5)
        left.text(
            0.02,
            row,
            f"{np.mean(values):.1%}, {sizes[name]:,} bytes",
            va="center",
            c="w",
        )
    left.set(
        yticks=range(len(found)), yticklabels=found, xlim=(0, 1), xlabel="test accuracy"
    )
    left.set_title("Rounded in training (blue), later (red), float (gray)")
    left.invert_yaxis()
    for kernel, label in ((first, "at first"), (last, "trained")):
        right.hist(kernel.ravel() / reach(kernel.shape), 40, alpha=0.6, label=label)
    right.set(
        title="Latent weights, binary, layer 2", xlabel="weight / H", ylabel="weights"
    )
    right.legend()
    return figure


def main(config: Config, run: Run) -> None:
    run.plan((len(RULES) + 1) * config.restarts)
    (x_train, y_train), (x_test, y_test) = data.load_vectors(config.data)
    classes = len(data.class_names(config.data))

    def build(scheme: str, shrink: float = 1.0) -> keras.Model:
        units = tuple(max(1, round(shrink * each)) for each in config.units)
        return build_model(x_train.shape[1], units, classes, scheme)

    def compile_classifier(model: keras.Model) -> keras.Model:
        steps = config.epochs * math.ceil(len(x_train) / BATCH_SIZE)
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)
        return model

    def train(model: keras.Model, start: list[np.ndarray]) -> list[np.ndarray]:
        """The weights after a training from `start`, with an optimizer as if new."""
        model.set_weights(start)
        for variable in model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        settings = {"batch_size": BATCH_SIZE, "callbacks": run.callbacks}
        training.fit(model, x_train, y_train, epochs=config.epochs, **settings)
        return model.get_weights()

    # One model of each kind starts anew each time: to trace another takes longer than
    # to train it.
    models = {scheme: compile_classifier(build(scheme)) for scheme in RULES}
    packed = pack(build("binary").get_weights(), 1)
    narrow = (build("float", share) for share in np.linspace(0.02, 1, 99))
    small = next(each for each in narrow if 4 * each.count_params() >= len(packed))
    compile_classifier(small)

    found, networks, latent = {}, {}, {}
    for _ in range(config.restarts):
        for scheme, rule in RULES.items():
            first = build(scheme).get_weights()
            last = train(models[scheme], first)
            networks[scheme] = run_rounded(build("float"), last, rule, x_train)
            latent[scheme] = first[5], last[5]  # the second matrix
        for name in ("binary", "ternary"):  # of the float network, the last one trained
            networks[f"{name}_later"] = run_rounded(
                build("float"), last, RULES[name], x_train
            )
        fresh = keras.models.clone_model(small)
        last_small = train(small, fresh.get_weights())
        networks["float_small"] = run_rounded(
            fresh, last_small, RULES["float"], x_train
        )
        for name, network in networks.items():
            right = np.argmax(network(x_test), axis=1) == y_test
            found.setdefault(name, []).append(float(right.mean()))

    # To files and back: what is exported is what the bits say.
    sizes, read_back, same = {}, {}, []
    for name, network in networks.items():
        bits, weights = BITS[name.split("_")[0]], network.get_weights()
        path = run.folder / f"{name}.weights"
        path.write_bytes(pack(weights, bits))
        sizes[name] = path.stat().st_size
        read_back[name] = keras.models.clone_model(network)
        read_back[name].set_weights(
            unpack(path.read_bytes(), [w.shape for w in weights], bits)
        )
        same.append(np.array_equal(read_back[name](x_test), network(x_test)))
    vectors = sum(each.nbytes for each in last if each.ndim == 1)
    one, two, whole = (sizes[name] - vectors for name in ("binary", "ternary", "float"))

    mean = {name: float(np.mean(values)) for name, values in found.items()}
    for name, accuracy in mean.items():
        run.metric(f"{name}_test_accuracy", accuracy)
        run.metric(f"{name}_file", sizes[name], unit="bytes")
    run.figure("findings", plot_findings(found, sizes, *latent["binary"]))
    run.claim(
        "Trained through rounding, one or two bits a weight lose less than two points",
        holds=min(mean["binary"], mean["ternary"]) > mean["float"] - 0.02,
        measured=f"test accuracy float {mean['float']:.4f}, binary {mean['binary']:.4f}, signs "
        f"drawn at random {mean['stochastic']:.4f}, ternary {mean['ternary']:.4f}",
    )
    run.claim(
        "Rounding only after training loses more, to signs; -1, 0 and 1 spare most of that",
        holds=mean["binary_later"] < mean["binary"] - 0.02
        and mean["ternary_later"] > mean["binary_later"] + 0.02,
        measured=f"binary {mean['binary_later']:.4f} (trained so {mean['binary']:.4f}), ternary "
        f"{mean['ternary_later']:.4f} ({mean['ternary']:.4f}), batch statistics taken anew",
    )
    run.claim(
        "Matrices take 32 and 16 times fewer bytes; the packed files, read back, run the same",
        holds=all(same) and abs(whole / one - 32) < 0.1 and abs(whole / two - 16) < 0.1,
        measured=f"matrices {whole / one:.2f} and {whole / two:.2f} times; files "
        f"{sizes['float']:,}, {sizes['binary']:,}, {sizes['ternary']:,} bytes, {vectors:,} vectors",
    )
    run.claim(
        "A float network in as few bytes reads worse",
        holds=mean["binary"] > mean["float_small"] + 0.005,
        measured=f"binary {mean['binary']:.4f} in {sizes['binary']:,} bytes, float "
        f"{mean['float_small']:.4f} in {sizes['float_small']:,}",
    )
    ends = [
        np.mean(np.abs(each) > 0.95 * reach(each.shape)) for each in latent["binary"]
    ]
    run.claim(
        "Latent weights are driven to the ends, where no small step flips them",
        holds=ends[1] > 2 * ends[0],
        measured=f"within 5 % of ±H: {ends[0]:.1%} at first, {ends[1]:.1%} trained",
    )
    run.export(serving.classifier(read_back["binary"]), example=x_test[:3])


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
