"""The methods on networks whose answer is known by hand, and by tf-keras-vis; the
checks' sums."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tf_keras_vis.saliency import Saliency
from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation
from tf_keras_vis.utils.scores import CategoricalScore

from recipes import evaluating_explanations as ee


@pytest.fixture(scope="module")
def scene():
    """A network with random weights and statistics, four pictures and classes."""
    keras.utils.set_random_seed(0)
    model = ee.build_model()
    values = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [values.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
    x = values.uniform(size=(4, 16, 16, 3)).astype("float32")
    return model, tf.constant(x), tf.constant([3, 0, 9, 3])


@pytest.fixture(scope="module")
def linear():
    """Logits are the pictures' pixels times a kernel: (4 · 4 · 3, 2)."""
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3), name="images")
    model = keras.Model(
        images, layers.Dense(2, name="logits")(layers.Flatten()(images))
    )
    return model, model.get_layer("logits").get_weights()[0].reshape(4, 4, 3, 2)


def theirs(model, images, classes, modifier=None):
    """tf-keras-vis's saliency, signed and before the channels are put together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        saliency = Saliency(model, model_modifier=modifier)
        score = CategoricalScore([int(each) for each in classes])
        as_they_are = {
            "keepdims": True,
            "normalize_map": False,
            "gradient_modifier": None,
        }
        return saliency(score, images, **as_they_are)


def test_gradients_and_guided_backpropagation_are_those_of_tf_keras_vis(scene):
    model, x, classes = scene
    gradients = ee.gradients_at(ee.split(model, "images"), x, classes)[1]
    np.testing.assert_allclose(
        gradients, theirs(model, x, classes), rtol=1e-3, atol=1e-7
    )
    guided = ee.gradients_at(ee.split(ee.guided(model), "images"), x, classes)[1]
    expected = theirs(model, x, classes, modifier=GuidedBackpropagation())
    np.testing.assert_allclose(guided, expected, rtol=1e-3, atol=1e-7)
    assert np.abs(guided - gradients).max() > 0.1 * np.abs(gradients).max()


def test_a_guided_relu_by_hand():
    x = tf.constant([1.0, 1.0, -1.0, -1.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ee.guided_relu(x) * tf.constant([2.0, -2.0, 2.0, -2.0])
    np.testing.assert_array_equal(tape.gradient(y, x), [2, 0, 0, 0])


def test_integrated_gradients_add_up_to_the_logit_less_that_of_black(scene):
    model, x, classes = scene
    found = ee.integrated_gradients(ee.split(model, "images"), x, classes, steps=50)
    logits = tf.gather(model(x) - model(0 * x), classes, batch_dims=1)
    np.testing.assert_allclose(
        tf.reduce_sum(found, axis=(1, 2, 3)), logits, rtol=0.01, atol=2e-3
    )


def test_of_a_linear_model_all_is_known_by_hand(linear):
    model, kernel = linear
    parts, classes = ee.split(model, "images"), tf.constant([0, 1, 1])
    x = tf.constant(np.random.default_rng(0).uniform(size=(3, 4, 4, 3)), tf.float32)
    weights = np.moveaxis(kernel, -1, 0)[classes]
    gradients = ee.gradients_at(parts, x, classes)[1]
    np.testing.assert_allclose(gradients, weights, rtol=1e-5)
    # Noise moves the picture, not the gradient.
    np.testing.assert_allclose(
        ee.smooth_gradients(parts, x, classes, samples=4), weights, rtol=1e-5
    )
    integrated = ee.integrated_gradients(parts, x, classes, steps=8)
    np.testing.assert_allclose(integrated, x * weights, rtol=1e-4, atol=1e-7)
    # A black patch on a pixel takes away what the pixel adds.
    lost = ee.occlusion(parts, x, classes, cells=4)[..., 0]
    np.testing.assert_allclose(
        lost, np.maximum((x * weights).numpy().sum(-1), 0), atol=1e-5
    )


def test_smooth_gradients_are_a_mean_over_noise(scene):
    model, x, classes = scene
    parts = ee.split(model, "images")
    without = ee.smooth_gradients(parts, x, classes, samples=4, noise=0.0)
    np.testing.assert_allclose(
        without, ee.gradients_at(parts, x, classes)[1], rtol=1e-4, atol=1e-7
    )
    noisy = [
        ee.smooth_gradients(parts, x, classes, samples=n).numpy() for n in (1, 16, 32)
    ]
    apart = [np.abs(noisy[i] - noisy[2]).mean() for i in (0, 1)]
    assert apart[1] < 0.5 * apart[0]


def test_grad_cam_before_a_mean_and_a_dense_layer_is_cam(scene):
    model, x, classes = scene
    found = ee.grad_cam(ee.split(model, "relu4"), x, classes)
    features = keras.Model(model.input, model.get_layer("relu4").output)(x).numpy()
    kernel = model.get_layer("logits").get_weights()[0][:, classes]
    cam = np.maximum(np.einsum("nhwk,kn->nhw", features, kernel), 0) / 16
    expected = tf.image.resize(cam[..., None], (16, 16))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mean_probability_by_hand():
    """Two pixels that each add to the logit: the areas under four trapezoids."""
    images = keras.Input((1, 2, 1), name="images")
    logits = layers.Dense(2, use_bias=False)(layers.Flatten()(images))
    model = keras.Model(images, logits)
    model.layers[-1].set_weights([np.array([[3.0, 0.0], [1.0, 0.0]])])
    picture = tf.ones((1, 1, 2, 1))

    def area(first, second):
        maps = tf.constant([[[first, second]]])
        return float(ee.mean_probability(model, picture, maps, [0], 0 * picture, 2)[0])

    p = {logit: 1 / (1 + np.exp(-logit)) for logit in (0, 1, 3, 4)}
    assert area(2.0, 1.0) == pytest.approx((p[4] + 2 * p[1] + p[0]) / 4, abs=1e-6)
    assert area(1.0, 2.0) == pytest.approx((p[4] + 2 * p[3] + p[0]) / 4, abs=1e-6)


def test_the_cascade_replaces_one_layer_after_the_other_from_the_last(scene):
    keras.utils.set_random_seed(1)
    model = ee.build_model()
    before = {v.path: v.numpy() for v in model.weights}
    names, left = [], []
    for name in ee.cascade(model):
        names.append(name)
        left.append(
            sum(
                np.array_equal(before[v.path], v)
                for v in model.weights
                if "kernel" in v.path
            )
        )
    assert names == ["logits", "layer4", "layer3", "layer2", "layer1"]
    assert left == [4, 3, 2, 1, 0]


def test_an_edge_detector_asks_no_network_and_noise_is_new_each_time(scene):
    model, x, classes = scene
    methods = ee.compile_methods(model, samples=2)
    maps = {
        name: np.asarray(method(x.numpy(), classes.numpy()))
        for name, method in methods.items()
    }
    assert all(heat.shape == (4, 16, 16) and heat.min() >= 0 for heat in maps.values())
    other = (classes.numpy() + 1) % 10
    for name, method in methods.items():
        same = np.array_equal(maps[name], method(x.numpy(), other))
        assert same == (name == "edge detector")
    noise = [
        np.asarray(methods["random noise"](x.numpy(), classes.numpy()))
        for _ in range(2)
    ]
    assert not np.array_equal(*noise)


def test_a_mark_has_the_color_of_its_label_and_leaves_the_rest():
    images = np.full((3, 12, 12, 3), 0.5, "float32")
    marked = ee.mark(images, np.array([0, 5, 5]))
    np.testing.assert_allclose(marked[1], marked[2])
    ten = ee.mark(np.zeros((10, 8, 8, 3), "float32"), np.arange(10))[:, 0, 0]
    apart = np.abs(ten[:, None] - ten).max(axis=-1) + np.eye(10)
    assert apart.min() >= 0.5
    changed = (marked != images).any(axis=-1)
    assert (changed.sum(axis=(1, 2)) == 25).all()
    assert changed[:, :5, :5].all()
    assert (images == 0.5).all()
