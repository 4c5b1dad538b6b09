"""LeNet-5 against the paper: parameters, shapes of the layers; and what a shift is."""

import keras
import numpy as np

from recipes import lenet


def test_parameters_of_the_modern_form():
    assert lenet.build_model().count_params() == 61_706


def test_layer_shapes_of_the_paper():
    model = lenet.build_model()
    shapes = {
        "C1": (None, 28, 28, 6),
        "S2": (None, 14, 14, 6),
        "C3": (None, 10, 10, 16),
        "S4": (None, 5, 5, 16),
        "C5": (None, 120),
        "F6": (None, 84),
        "logits": (None, 10),
    }
    assert {name: model.get_layer(name).output.shape for name in shapes} == shapes
    # Weights and biases of C1 (paper: 156), C5 (48,120) and F6 (10,164).
    counts = [model.get_layer(name).count_params() for name in ("C1", "C5", "F6")]
    assert counts == [156, 48_120, 10_164]


def test_the_dense_rival_has_about_as_many_weights():
    weights = lenet.build_dense(58).count_params()
    assert 0.95 * 61_706 < weights <= 61_706


def test_every_weight_gets_a_gradient():
    keras.utils.set_random_seed(0)
    model = lenet.compile_classifier(lenet.build_model(), 1e-3, steps=10)
    before = model.get_weights()
    x = np.random.default_rng(0).uniform(size=(64, 32, 32, 1)).astype("float32")
    model.fit(x, np.arange(64) % 10, verbose=0)
    assert all(
        np.abs(b - a).max() > 0
        for a, b in zip(before, model.get_weights(), strict=True)
    )


def test_shift_moves_right_and_down_and_fills_with_black():
    image = np.zeros((1, 4, 4, 1))
    image[0, 0, 1] = 1.0
    image[0, 3, 3] = 1.0  # leaves the image
    expected = np.zeros((1, 4, 4, 1))
    expected[0, 2, 3] = 1.0
    np.testing.assert_array_equal(lenet.shift(image, 2), expected)
