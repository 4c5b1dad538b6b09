"""Pruning: masks by hand and by TF Model Optimization, zeros that stay."""

import keras
import numpy as np

from deep_learning_recipes import compression
from recipes import pruning

random = np.random.default_rng(0)


def small_model():
    keras.utils.set_random_seed(0)
    model = pruning.Prunable(pruning.build_network((8, 8, 1)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    x = random.uniform(size=(64, 8, 8, 1)).astype("float32")
    return model, x, np.arange(64) % 10


def test_the_network_of_the_paper():
    assert pruning.build_network().count_params() == 266_610


def test_the_smallest_weights_go():
    kernel = np.array([[0.1, -3.0], [-0.2, 0.5], [4.0, 0.3]])
    np.testing.assert_array_equal(
        pruning.magnitude_mask(kernel, 0.5), [[0, 1], [0, 1], [1, 0]]
    )
    kernel = random.normal(size=(30, 40))
    mask = pruning.magnitude_mask(kernel, 0.9)
    assert mask.sum() == 120
    assert np.abs(kernel[mask == 1]).min() > np.abs(kernel[mask == 0]).max()


def test_the_last_layer_keeps_three_times_the_share():
    np.testing.assert_allclose(pruning.shares_to_remove(0.9), [0.9, 0.9, 0.7])
    np.testing.assert_allclose(pruning.shares_to_remove(0.5), [0.5, 0.5, 0.0])


def test_two_of_four_along_the_inputs():
    kernel = np.array([[1.0, 9.0], [-4.0, 2.0], [3.0, -7.0], [2.0, 1.0]])
    expected = [[0, 1], [1, 0], [1, 1], [0, 0]]
    np.testing.assert_array_equal(pruning.two_of_four_mask(kernel), expected)
    mask = pruning.two_of_four_mask(random.normal(size=(12, 5)))
    np.testing.assert_array_equal(mask.T.reshape(-1, 4).sum(axis=1), 2)


def test_the_weakest_neurons_go_with_all_their_weights():
    kernels = [random.normal(size=size) for size in ((30, 20), (20, 10), (10, 4))]
    kernels[0][:, 3] = 1e-3
    kernels[1][7] = 1e-3  # neuron 7 says little, whatever it hears
    masks = pruning.neuron_masks(kernels, 0.15)
    for neuron in (3, 7):
        assert not masks[0][:, neuron].any()
        assert not masks[1][neuron].any()
    for mask, following in zip(masks[:-1], masks[1:], strict=True):
        np.testing.assert_array_equal(mask.any(axis=0), following.any(axis=1))
        assert set(mask.sum(axis=0)) <= {0, mask.sum(axis=0).max()}


def test_neurons_leave_as_many_weights_and_hardly_more():
    kernels = [random.normal(size=size) for size in ((784, 300), (300, 100), (100, 10))]
    for sparsity in (0.5, 0.8, 0.925, 0.98):
        wanted = sum(mask.sum() for mask in pruning.magnitude_masks(kernels, sparsity))
        left = sum(mask.sum() for mask in pruning.neuron_masks(kernels, sparsity))
        assert wanted <= left < wanted + 2 * 784


def test_all_neurons_stay_where_nothing_is_to_be_removed():
    kernels = [random.normal(size=size) for size in ((12, 9), (9, 8), (8, 3))]
    assert all(mask.all() for mask in pruning.neuron_masks(kernels, 0.0))


def test_each_step_leaves_the_same_share_of_what_was_left():
    left = [1 - pruning.removed_by(0.936, step, 3) for step in range(4)]
    np.testing.assert_allclose(left, [1, 0.4, 0.16, 0.064])


def test_random_masks_leave_as_many_weights_of_each_kernel():
    kernels = [random.normal(size=size) for size in ((40, 30), (30, 20), (20, 10))]
    found = pruning.random_masks(kernels, 0.9)
    expected = pruning.magnitude_masks(kernels, 0.9)
    assert [m.sum() for m in found] == [m.sum() for m in expected]
    assert np.mean(found[0] == expected[0]) < 0.9


def test_masked_weights_stay_zero_and_the_others_learn():
    model, x, y = small_model()
    masks = pruning.magnitude_masks(model.get_kernels(), 0.8)
    model.set_masks(masks)
    before = model.get_kernels()
    model.fit(x, y, epochs=3, verbose=0)
    for kernel, mask, old in zip(model.kernels, masks, before, strict=True):
        np.testing.assert_array_equal(kernel.numpy()[mask == 0], 0)
        assert np.mean(kernel.numpy()[mask == 1] != old[mask == 1]) > 0.5


def test_the_state_brings_everything_back():
    model, x, y = small_model()
    model.fit(x, y, verbose=0)
    values = [variable.numpy() for variable in model.state()]
    results = []
    for _ in range(2):
        for variable, value in zip(model.state(), values, strict=True):
            variable.assign(value)
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
        results.append(model.network.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tfmot_removes_the_same_weights_and_the_same_patterns():
    model, x, y = small_model()
    network = model.network
    kernels = model.get_kernels()
    how = {"epochs": 1, "loss": model.loss, "verbose": 0, "learning_rate": 1e-6}
    shares = dict(
        zip(
            ("hidden_1", "hidden_2", "logits"),
            pruning.shares_to_remove(0.9),
            strict=True,
        )
    )
    found = compression.prune(
        network, x, y, sparsity=shares, schedule="constant", **how
    ).model
    for mask, kernel in zip(
        pruning.magnitude_masks(kernels, 0.9), found.get_weights()[::2], strict=True
    ):
        assert np.mean((kernel != 0) == (mask == 1)) > 0.998

    found = compression.prune(network, x, y, pattern=(2, 4), **how).model
    for kernel, pruned in zip(kernels, found.get_weights()[::2], strict=True):
        assert np.mean((pruned != 0) == (pruning.two_of_four_mask(kernel) == 1)) > 0.998
