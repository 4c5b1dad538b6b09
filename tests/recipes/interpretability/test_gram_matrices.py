"""What texture_synthesis and both style transfers say, each for itself: the features
and their Gram matrices."""

import importlib

import keras
import numpy as np
import pytest

each_recipe = pytest.mark.parametrize(
    "recipe",
    [
        importlib.import_module(f"recipes.{name}")
        for name in ("texture_synthesis", "style_transfer", "fast_style_transfer")
    ],
    ids=lambda recipe: recipe.__name__.split(".")[-1],
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def build_network(recipe):
    keras.utils.set_random_seed(0)
    return recipe.build_network(8)


@each_recipe
def test_filters_have_no_mean_and_unit_length(recipe):
    kernels = [np.asarray(each) for each in build_network(recipe).weights[::2]]
    assert [kernel.shape for kernel in kernels] == [(5, 5, 3, 8)] + 3 * [(3, 3, 8, 8)]
    for kernel in kernels:
        np.testing.assert_allclose(kernel.mean(axis=(0, 1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(
            np.linalg.norm(kernel.reshape(-1, 8), axis=0), 1, rtol=1e-5
        )


@each_recipe
def test_pixels_of_the_layers_see_5_10_20_and_40_of_the_picture(recipe, random):
    """By hand: which of the picture's rows change a pixel in the middle of a map."""
    network = build_network(recipe)
    picture = random.uniform(size=(1, 80, 80, 3)).astype("float32")
    plain = network(picture)
    seen = np.zeros(4, int)
    middle = [maps.shape[1] // 2 for maps in plain]
    for row in range(80):
        changed = picture.copy()
        changed[:, row] = random.uniform(size=(80, 3)) * 20
        for n, (before, after) in enumerate(zip(plain, network(changed), strict=True)):
            seen[n] += not np.allclose(
                before[0, middle[n]], after[0, middle[n]], atol=1e-6
            )
    assert seen.tolist() == [5, 10, 20, 40]


@each_recipe
def test_gram_matrix_is_numpys(recipe, random):
    maps = random.normal(size=(2, 4, 5, 3)).astype("float32")
    for gram, each in zip(np.asarray(recipe.gram_matrix(maps)), maps, strict=True):
        rows = each.reshape(20, 3)
        np.testing.assert_allclose(gram, rows.T @ rows / 20, rtol=1e-5, atol=1e-6)


@each_recipe
def test_gram_of_a_permuted_map_is_equal(recipe, random):
    maps = random.normal(size=(1, 6, 6, 4)).astype("float32")
    moved = random.permutation(maps.reshape(36, 4)).reshape(maps.shape)
    np.testing.assert_allclose(
        recipe.gram_matrix(moved), recipe.gram_matrix(maps), atol=1e-6
    )
