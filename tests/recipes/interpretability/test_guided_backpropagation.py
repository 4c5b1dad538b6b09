"""Three rules of a ReLU: by hand, by NumPy, by tf-keras-vis; and what is measured of
the maps."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from conftest import run_in_process
from keras import layers
from PIL import Image

from recipes import guided_backpropagation as gb


@pytest.fixture(scope="module")
def scene():
    return small.scene(gb.build_model)


def dense_net(*kernels):
    """Pixels in one row, to dense layers without biases, with a ReLU after each but the
    last."""
    images = keras.Input((1, len(kernels[0]), 1))
    x = layers.Flatten()(images)
    for i, kernel in enumerate(kernels):
        activation = "relu" if i < len(kernels) - 1 else None
        x = layers.Dense(np.shape(kernel)[1], activation=activation, use_bias=False)(x)
    model = keras.Model(images, x)
    model.set_weights([np.array(kernel, "float32") for kernel in kernels])
    return model


def test_two_layers_worked_by_hand():
    # x = (1, 2): hidden units see 1, -3, 5 and 2; the score is 2, 3, -1 and 1 times
    # what they pass.
    first = [[1, 1, 1, 0], [0, -2, 2, 1]]
    model = dense_net(first, [[2], [3], [-1], [1]])
    x = np.array([[[[1.0], [2.0]]]], "float32")
    expected = {
        "gradient": (2 - 1, -2 + 1),  # units 1, 3 and 4 are on
        "deconvnet": (2 + 3, -6 + 1),  # units 1, 2 and 4 speak for the score
        "guided": (2, 1),  # units 1 and 4 do both
    }
    for name, rule in gb.RULES.items():
        found = gb.explain(gb.with_rule(model, rule), x, np.array([0]))
        np.testing.assert_allclose(
            found[0, 0], np.abs(expected[name]), atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("name", gb.RULES)
def test_three_layers_by_numpy(name):
    rng = np.random.default_rng(1)
    kernels = [rng.normal(size=size) for size in ((6, 9), (9, 8), (8, 3))]
    x = rng.normal(size=6)
    inputs, values = [], x
    for kernel in kernels[:2]:
        inputs.append(values @ kernel)
        values = np.maximum(inputs[-1], 0)
    above = kernels[2][:, 1]
    for before, kernel in zip(inputs[::-1], kernels[1::-1], strict=True):
        passes = np.ones(len(above), bool)
        if name != "deconvnet":
            passes &= before > 0
        if name != "gradient":
            passes &= above > 0
        above = kernel @ (above * passes)
    twin = gb.with_rule(dense_net(*kernels), gb.RULES[name])
    found = gb.explain(twin, x.reshape(1, 1, 6, 1).astype("float32"), np.array([1]))
    np.testing.assert_allclose(found[0, 0], np.abs(above), rtol=1e-4)


def test_guided_maps_are_those_of_tf_keras_vis(scene):
    found = gb.explain(gb.with_rule(scene[0], gb.RULES["guided"]), *scene[1:])
    np.testing.assert_allclose(
        found, gb.tf_keras_vis_guided(*scene), rtol=1e-4, atol=1e-6
    )


def test_the_rule_of_the_gradient_is_the_gradient_and_the_model_stays_as_it_was(scene):
    model, pictures, classes = scene
    plain = gb.explain(model, pictures, classes)
    for rule in gb.RULES.values():
        twin = gb.with_rule(model, rule)
        np.testing.assert_allclose(twin(pictures), model(pictures), atol=1e-5)
    twin = gb.with_rule(model, gb.RULES["gradient"])
    np.testing.assert_allclose(
        gb.explain(twin, pictures, classes), plain, rtol=1e-4, atol=1e-6
    )
    guided = gb.explain(gb.with_rule(model, gb.RULES["guided"]), pictures, classes)
    assert np.abs(guided - plain).max() > 0.1 * np.abs(plain).max()


def test_a_relu_with_a_ceiling_is_flat_beyond_it():
    images = keras.Input((1, 3, 1))
    bent = layers.ReLU(max_value=6.0)(layers.Flatten()(images))
    dense = layers.Dense(1, use_bias=False)
    model = keras.Model(images, dense(bent))
    dense.set_weights([np.array([[1.0], [2.0], [-3.0]], "float32")])
    x = np.array([[[[7.0], [2.0], [1.0]]]], "float32")
    for name, expected in {"gradient": (0, 2, 3), "guided": (0, 2, 0)}.items():
        ruled = gb.with_rule(model, gb.RULES[name])
        found = gb.explain(ruled, x, np.array([0]))
        np.testing.assert_array_equal(found[0, 0], expected)
        np.testing.assert_array_equal(ruled(x), model(x))


def test_relu_layers_and_operations_between_layers():
    # As in MobileNet: ReLU is a layer with a highest value, arithmetic stands between
    # the layers.
    images = keras.Input((1, 2, 1))
    x = layers.Flatten()(2 * images)
    x = layers.ReLU(max_value=6)(layers.Dense(3, use_bias=False)(x))
    model = keras.Model(images, layers.Dense(1, use_bias=False)(x))
    model.set_weights(
        [np.array([[1, 4, 1], [0, 4, 1.0]]), np.array([[1], [1], [-5.0]])]
    )
    pictures = np.array([[[[0.5], [1.0]]]], "float32")
    twin = gb.with_rule(model, gb.RULES["guided"])
    assert model(pictures).numpy() == pytest.approx(twin(pictures).numpy())
    assert model(pictures).numpy() == pytest.approx(1 + 6 - 15)
    found = gb.explain(twin, pictures, np.array([0]))
    # The hidden units see 1, 12 and 3: the second is cut off at 6, and flat there.
    np.testing.assert_allclose(found, [[[2 * 1, 0]]])


def test_layers_are_drawn_anew_from_the_logits_down(scene):
    model, pictures, classes = scene
    keras.utils.set_random_seed(9)
    fresh = gb.build_model(16)
    twin = gb.with_rule(model, gb.RULES["gradient"])
    changed = []
    for _ in gb.randomize_from_top(twin, fresh, pictures, classes):
        same = {
            name: all(
                np.array_equal(a, b)
                for a, b in zip(
                    twin.get_layer(name).get_weights(),
                    model.get_layer(name).get_weights(),
                    strict=True,
                )
            )
            for name in (
                "logits",
                "conv4",
                "norm4",
                "conv3",
                "norm3",
                "conv2",
                "conv1",
                "norm1",
            )
        }
        changed.append({name for name in same if not same[name]})
    assert changed[0] == {"logits"}
    assert changed[1] == {"logits", "conv4", "norm4"}
    assert changed[2] == {"logits", "conv4", "norm4", "conv3", "norm3"}
    assert len(changed) == 5 and len(changed[4]) == 8
    np.testing.assert_allclose(twin(pictures), fresh(pictures), atol=1e-5)


def test_what_is_kept_without_the_highest_pixels():
    # Two outputs: the sum of all pixels, and nine times the first one.
    images = keras.Input((10, 10, 1))
    model = keras.Model(
        images, layers.Dense(2, use_bias=False)(layers.Flatten()(images))
    )
    weights = np.ones((100, 2))
    weights[:, 1] = 9 * (np.arange(100) == 0)
    model.set_weights([weights])
    pictures = np.full((2, 10, 10, 1), 0.5, "float32")
    pictures[:, 0, :5] = 1.0
    maps = np.random.default_rng(0).uniform(0, 0.9, size=(2, 10, 10))
    maps[:, 0, :5] = 1.0  # five of a hundred, painted over with 0.525
    kept = gb.kept_without(model, pictures, np.array([0, 0]), maps, part=0.05)
    assert kept == pytest.approx((95 * 0.5 + 5 * 0.525) / (95 * 0.5 + 5))
    kept = gb.kept_without(model, pictures, np.array([0, 1]), maps, part=0.05)
    assert kept == pytest.approx((47.5 + 2.625 + 9 * 0.525) / (52.5 + 9))


def test_a_patch_holds_all_that_its_neuron_sees():
    keras.utils.set_random_seed(0)
    model = gb.build_model(64)
    last = keras.Model(model.input, model.get_layer("norm4").output)
    pictures = tf.random.uniform((1, 64, 64, 3))
    for row, column in ((8, 8), (5, 10)):
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            value = tf.reduce_sum(last(pictures)[0, row, column])
        gradient = np.abs(tape.gradient(value, pictures)).sum(axis=-1)
        patch = gb.crop(gradient[..., None], np.array([row]), np.array([column]))
        assert patch.shape == (1, gb.REACH, gb.REACH, 1)
        assert patch.sum() == pytest.approx(gradient.sum())
        rows, columns = np.nonzero(gradient[0])
        assert np.ptp(rows) <= gb.REACH - 1 and np.ptp(rows) >= gb.REACH - 4
    corner = gb.crop(np.ones((1, 64, 64, 3)), np.array([0]), np.array([15]))
    assert corner.shape == (1, gb.REACH, gb.REACH, 3)
    assert corner[0, 0].sum() == corner[0, :, -1].sum() == 0


def test_a_network_and_a_picture_of_ones_own(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype="uint8")
    Image.fromarray(pixels).save("own.png")
    for activation in ("relu", "gelu"):
        images = keras.Input((24, 20, 3))
        x = layers.Conv2D(4, 3, activation=activation)(images)
        x = layers.Dense(8, activation=activation)(layers.GlobalAveragePooling2D()(x))
        keras.Model(images, layers.Dense(3)(x)).save(f"{activation}.keras")
    own = ("--model", "relu.keras", "--image", "own.png")
    finished = run_in_process("guided_backpropagation", tmp_path / "one", *own)
    assert finished.code == 0 and finished.metrics["figures"] == ["own.png"]
    assert {*finished.metrics["metrics"]} == {
        "picture_0_class",
        "picture_0_probability",
    }
    own = ("--model", "gelu.keras")
    assert run_in_process("guided_backpropagation", tmp_path / "none", *own).code == 2
    assert "no ReLU" in capsys.readouterr().err
    bad = ("--image", "none.png")
    assert run_in_process("guided_backpropagation", tmp_path / "bad", *bad).code == 2
    assert "none.png: there is no such file" in capsys.readouterr().err
