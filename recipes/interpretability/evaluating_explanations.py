"""Do explanations explain? Nine methods and two impostors against checks with a known answer.

A heat map that looks right proves nothing: an edge detector's looks right too. So each method is
asked what can be measured. Localisation: is the digit lit, whose pixels are known? Deletion: does
the class's probability fall when the pixels rated highest are blackened first; insertion: does it
rise when they are put first into a blurred picture (area under the curve, AUC)? Randomisation: a
map that stays as it was when the layers' weights are replaced by random ones, from the last layer
down to the first, cannot have told what the network learned. Shortcut: a second network learns from
pictures whose class a small coloured mark betrays; an explanation of it has to light the mark.
Look at the table: no check alone unmasks both impostors.

Lectures: N18 7.3 Evaluating Methods; CS Visualizing & Understanding
Paper: Adebayo et al., Sanity checks for saliency maps, 2018; Petsiuk et al., RISE, 2018 (section
4.3); Sundararajan et al., Axiomatic attribution for deep networks, 2017 (equation 1); Smilkov et
al., SmoothGrad, 2017; Springenberg et al., Striving for simplicity, 2015
"""

import time
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib import pyplot as plt
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

from deep_learning_recipes import data, explanations, figures, serving, training
from deep_learning_recipes.run import Run, cli


@dataclass
class Config:
    train_scenes: int = 3000
    """pictures to learn from: a digit on a photograph, 48 pixels"""
    epochs: int = 6
    """passes over them, of each of the two networks"""
    learning_rate: float = 5e-3
    """of Adam at the start; it falls to 0 along a cosine"""
    explained: int = 96
    """held-out pictures to explain"""


QUICK = Config(train_scenes=2000, explained=32)
FULL = Config(train_scenes=12_000, epochs=20, explained=500)
BATCH = 32  # pictures explained by one compiled call
STEPS = 20  # parts of a picture that deletion takes away one by one


def build_model(classes=10) -> keras.Model:
    """Input: (batch, height, width, 3) in [0, 1], of any size. Output: (batch, classes) logits."""
    x = images = keras.Input((None, None, 3), name="images")
    for number, filters in enumerate((16, 32, 64, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"layer{number}")(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu", name=f"relu{number}")(x)
        if number < 3:
            x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="logits")(x), name="scenes")


def class_gradients(model: keras.Model, images, classes):
    """∂ logit of the class / ∂ images, of the images' shape."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = tf.gather(model(images, training=False), classes, batch_dims=1)
    return tape.gradient(scores, images)


def gradient(model, images, classes):
    return tf.reduce_max(tf.abs(class_gradients(model, images, classes)), axis=-1)


def gradient_times_input(model, images, classes):
    return tf.abs(tf.reduce_sum(images * class_gradients(model, images, classes), axis=-1))


def smooth_grad(model, images, classes, samples=16, noise=0.15):
    """The gradient's mean over noisy copies of the picture."""

    def one(number):
        blur = tf.random.stateless_normal(tf.shape(images), (0, number), stddev=noise)
        return class_gradients(model, images + blur, classes)

    gradients = tf.map_fn(one, tf.range(samples), fn_output_signature=tf.float32)
    return tf.reduce_max(tf.abs(tf.reduce_mean(gradients, axis=0)), axis=-1)


def path_integral(model, images, classes, steps=32):
    """The gradient's mean along the way from a black picture, times the picture: what each pixel
    adds to the logit, (n, height, width, 3). The sum is the logit less the black picture's."""
    points = (tf.range(steps, dtype=tf.float32) + 0.5) / steps
    gradients = tf.map_fn(lambda part: class_gradients(model, part * images, classes), points)
    return images * tf.reduce_mean(gradients, axis=0)


def integrated_gradients(model, images, classes):
    return tf.abs(tf.reduce_sum(path_integral(model, images, classes), axis=-1))


@tf.custom_gradient
def guided_relu(x):
    """A ReLU that lets only positive gradients back."""
    return tf.nn.relu(x), lambda upstream: tf.nn.relu(upstream) * tf.cast(x > 0, x.dtype)


def guided(model: keras.Model) -> keras.Model:
    """The same layers, with the same weights, around guided ReLUs."""
    x = model.input
    for layer in model.layers[1:]:
        x = guided_relu_layer(x) if isinstance(layer, layers.Activation) else layer(x)
    return keras.Model(model.input, x)


def guided_relu_layer(x):
    return layers.Activation(guided_relu)(x)


def grad_cam(parts, images, classes):
    """The last maps, each weighed by its mean gradient, as in the recipe of that name."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        maps, logits = parts(images, training=False)
        scores = tf.gather(logits, classes, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(scores, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    return tf.image.resize(heat, tf.shape(images)[1:3])[..., 0]


def occlusion(model, images, classes, patch=8, stride=5):
    """How much of the logit is lost when a black patch hides a place; the mean over the patches
    that hide it."""
    size = images.shape[1]
    starts = np.arange(0, size - patch + 1, stride)
    covers = np.zeros((len(starts) ** 2, size, size), "float32")
    for number, (top, left) in enumerate((a, b) for a in starts for b in starts):
        covers[number, top : top + patch, left : left + patch] = 1
    whole = tf.gather(model(images, training=False), classes, batch_dims=1)

    def lost(cover):
        logits = model(images * (1 - cover[..., tf.newaxis]), training=False)
        return whole - tf.gather(logits, classes, batch_dims=1)

    losses = tf.map_fn(lost, tf.constant(covers))  # (patches, n)
    return tf.nn.relu(tf.einsum("pn,phw->nhw", losses, covers) / covers.sum(axis=0).clip(1))


def edges(images, classes):
    """An impostor: it asks no network."""
    slopes = tf.image.sobel_edges(tf.reduce_mean(images, axis=-1, keepdims=True))
    return tf.norm(slopes, axis=-1)[..., 0]


def noise(images, classes):
    """An impostor: another map each time."""
    return tf.random.uniform(tf.shape(images)[:3])


def compile_methods(model: keras.Model) -> dict:
    """By name a function of images (n, size, size, 3) and classes (n,): maps (n, size, size)."""
    parts = keras.Model(model.input, [model.get_layer("relu4").output, model.output])
    methods = {
        "gradient": partial(gradient, model),
        "gradient × input": partial(gradient_times_input, model),
        "SmoothGrad": partial(smooth_grad, model),
        "integrated gradients": partial(integrated_gradients, model),
        "guided backpropagation": partial(gradient, guided(model)),
        "Grad-CAM": partial(grad_cam, parts),
        "occlusion": partial(occlusion, model),
        "edge detector": edges,
        "random noise": noise,
    }
    return {name: tf.function(method) for name, method in methods.items()}


def in_batches(function, *arrays) -> np.ndarray:
    """The function's answers for slices of 32, so that it is traced once; the rest is left out."""
    slices = [slice(start, start + BATCH) for start in range(0, len(arrays[0]), BATCH)]
    return np.concatenate([function(*(a[each] for a in arrays)) for each in slices])


def curve_areas(model: keras.Model, steps=STEPS):
    """A function of images, maps, classes and what to put in place of the pixels: the mean of the
    class's probability, from all of the picture to none, the pixels rated highest taken first."""

    @tf.function
    def areas(images, maps, classes, instead):
        n, height, width, _ = images.shape
        order = tf.argsort(tf.reshape(maps, (n, -1)), direction="DESCENDING", stable=True)
        ranks = tf.reshape(tf.argsort(order), (n, height, width, 1))

        def probability(step):
            kept = ranks >= step * height * width // steps
            logits = model(tf.where(kept, images, instead), training=False)
            return tf.gather(tf.nn.softmax(logits), classes, batch_dims=1)

        found = tf.map_fn(probability, tf.range(steps + 1), fn_output_signature=tf.float32)
        return tf.reduce_mean((found[1:] + found[:-1]) / 2, axis=0)  # trapezoids

    return areas


def cascade(model: keras.Model):
    """Replaces the weights by random ones in place, from the last layer down: yields the name of
    each layer that has just lost its own."""
    fresh = dict(zip(model.layers, build_model().layers, strict=True))
    for layer in reversed(model.layers):
        layer.set_weights(fresh[layer].get_weights())
        if isinstance(layer, (layers.Dense, layers.Conv2D)):
            yield layer.name


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each of n pairs of maps; 0 where a map is the same all over."""
    a, b = (rankdata(each.reshape(len(each), -1), axis=1) for each in (a, b))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of n pairs of maps, each divided by its highest value."""
    a, b = (m / np.maximum(m.max(axis=(1, 2), keepdims=True), 1e-12) for m in (a, b))
    return float(np.mean([structural_similarity(*m, data_range=1.0) for m in zip(a, b, strict=True)]))


def mark(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, side=5):
    """Paints a square in the colour of its label into one corner of each; returns them and masks."""
    hues = plt.get_cmap("hsv")(np.arange(10) / 10)[:, :3].astype("float32")
    size = images.shape[1]
    marked, masks = images.copy(), np.zeros(images.shape[:3], bool)
    for i, (bottom, right) in enumerate(rng.integers(2, size=(len(images), 2))):
        rows, columns = (slice(size - side - 1, -1) if far else slice(1, 1 + side) for far in (bottom, right))
        marked[i, rows, columns] = hues[labels[i]]
        masks[i, rows, columns] = True
    return marked, masks


def main(config: Config, run: Run) -> None:
    train, test = data.load_scenes(config.train_scenes, 500, seed=run.seed)
    rng = np.random.default_rng(run.seed)
    model = build_model()
    def fit(images):
        model = build_model()
        steps = config.epochs * -(-len(train.labels) // 32)
        rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        training.fit(model, images, train.labels, epochs=config.epochs, batch_size=32, callbacks=run.callbacks)
        return model
    T=time.perf_counter
    t=T()
    model = fit(train.images)
    honest = model.get_weights()
    print("acc", model.evaluate(test.images, test.labels, verbose=0)[1], T()-t)
    t=T()
    cheat = fit(mark(train.images, train.labels, rng)[0])
    n = config.explained
    x, y, masks = test.images[:n], test.labels[:n], test.masks[:n]
    wrong = (test.labels + rng.integers(1, 10, len(test.labels))) % 10
    x_marked, marks = mark(test.images, wrong, rng)
    print("cheat: on clean", cheat.evaluate(test.images, test.labels, verbose=0)[1], "follows the mark", cheat.evaluate(x_marked, wrong, verbose=0)[1], "honest follows digit", model.evaluate(x_marked, test.labels, verbose=0)[1], T()-t)
    x_marked, marks, wrong = x_marked[:n], marks[:n], wrong[:n]
    t=T()
    methods = compile_methods(model)
    maps, scores = {}, {}
    for name, method in methods.items():
        maps[name] = in_batches(method, x, y)
        start=T(); method(x[:32], y[:32]); ms=(T()-start)*1e3/32
        m=maps[name]
        scores[name]={"share": explanations.share_on_object(m,masks).mean(), "point": explanations.pointing_game(m,masks,tolerance=2).mean(), "iou":explanations.overlap(m,masks).mean(), "ms":ms}
    print("maps",T()-t); t=T()
    areas = curve_areas(model)
    from scipy.ndimage import gaussian_filter
    black, blurred = np.zeros_like(x), gaussian_filter(x, (0, 5, 5, 0))
    print("p blurred", np.mean(tf.gather(tf.nn.softmax(model(blurred)), y, batch_dims=1)), "black", np.mean(tf.gather(tf.nn.softmax(model(black)), y, batch_dims=1)))
    for name in methods:
        scores[name]["deletion"] = in_batches(areas, x, maps[name], y, black).mean()
        scores[name]["insertion"] = in_batches(areas, blurred, -maps[name], y, x).mean()
        scores[name]["ins2"] = in_batches(areas, blurred, maps[name], y, x).mean()
    print("areas",T()-t); t=T()
    some = slice(0, 32)
    for layer in cascade(model):
        for name, method in methods.items():
            again = np.asarray(method(x[some], y[some]))
            scores[name]["rho "+layer] = spearman(maps[name][some], again).mean()
            scores[name]["ssim"] = similarity(maps[name][some], again)
    print("cascade",T()-t); t=T()
    for who, weights in (("honest", honest), ("cheat", cheat.get_weights())):
        model.set_weights(weights)
        for name, method in methods.items():
            target = wrong if who == "cheat" else y
            m = in_batches(method, x_marked, target)
            scores[name]["mark "+who] = explanations.share_on_object(m, marks).mean()
            scores[name]["point mark "+who] = explanations.pointing_game(m, marks,tolerance=2).mean()
    print("shortcut",T()-t)
    keys=list(scores["gradient"])
    print(f"{'':24}"+"".join(f"{k[-9:]:>10}" for k in keys))
    for name,s in scores.items(): print(f"{name:24}"+"".join(f"{s[k]:10.3f}" for k in keys))
    model.set_weights(honest)
    p = path_integral(model, tf.constant(x[:32]), tf.constant(y[:32])).numpy().sum((1,2,3))
    l = tf.gather(model(x[:32]), y[:32], batch_dims=1).numpy() - tf.gather(model(0*x[:32]), y[:32], batch_dims=1).numpy()
    print("complete", np.abs(p-l).max(), np.abs(l).mean())
    run.metric("x", 1)


if __name__ == "__main__":
    cli(main, quick=QUICK, full=FULL)
