from itertools import product

import keras
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import log_softmax
from scipy.stats import chisquare, entropy

from recipes.generative import pixelcnn as recipe

BUILDS = {"masked": recipe.build_masked, "gated": recipe.build_gated}


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(params=BUILDS)
def network(request):
    keras.utils.set_random_seed(0)
    return BUILDS[request.param](levels=3, filters=6, blocks=2)


@pytest.fixture
def gated():
    keras.utils.set_random_seed(0)
    return recipe.build_gated(levels=3, filters=6, blocks=1)


def test_masks_are_those_of_the_paper():
    a = [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    b = [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(recipe.causal_mask(3, include_self=False), a)
    np.testing.assert_array_equal(recipe.causal_mask(3, include_self=True), b)
    assert recipe.causal_mask(7, include_self=False).sum() == 3 * 7 + 3


def test_masked_convolution_is_that_of_the_masked_kernel(random):
    mask = recipe.causal_mask(3, include_self=True)
    layer = recipe.MaskedConv2D(2, mask)
    x = random.random((1, 6, 5, 3)).astype("float32")
    found = np.asarray(layer(x))[0]
    kernel = np.asarray(layer.kernel)
    layer.bias.assign([0.5, -1.0])
    found = np.asarray(layer(x))[0]
    for output, bias in enumerate((0.5, -1.0)):
        expected = bias + sum(
            correlate2d(x[0, ..., i], kernel[..., i, output] * mask, "same")
            for i in range(3)
        )
        np.testing.assert_allclose(found[..., output], expected, atol=1e-5)


def test_gate_is_that_of_the_paper(random):
    x = random.normal(size=(2, 3, 3, 4)).astype("float32")
    expected = np.tanh(x[..., :2]) / (1 + np.exp(-x[..., 2:]))
    np.testing.assert_allclose(recipe.gate(x), expected, atol=1e-6)


def test_no_pixel_changes_itself_or_what_comes_before(network, random):
    """By brute force: each pixel of a picture is changed, and the logits compared."""
    image = random.random((5, 4, 1)).astype("float32")
    before = np.asarray(network(image[None]))[0].reshape(20, -1)
    changed = np.zeros((20, 20), bool)
    for j in range(20):
        other = image.copy()
        other.reshape(-1)[j] += 0.5
        after = np.asarray(network(other[None]))[0].reshape(20, -1)
        changed[:, j] = np.any(np.abs(after - before) > 0, axis=1)
    assert not np.triu(changed).any()
    assert changed[1:, 0].all()
    slopes = recipe.dependence(network, image, np.arange(20))
    np.testing.assert_array_equal(slopes > 0, changed)


def test_dependence_is_the_slope(network, random):
    image = random.random((4, 5, 1)).astype("float32")
    pixels = np.array([7, 13, 19])
    slopes = recipe.dependence(network, image, pixels)
    step = 1e-2
    for j in (0, 6, 12):
        ends = []
        for change in (-step, step):
            other = image.copy()
            other.reshape(-1)[j] += change
            ends.append(np.asarray(network(other[None])).sum(axis=-1).reshape(-1))
        expected = np.abs(ends[1] - ends[0])[pixels] / (2 * step)
        np.testing.assert_allclose(slopes[:, j], expected, rtol=0.05, atol=2e-3)


def grow(seen, mask):
    """The pixels from which one step of a filter leads to those that are seen."""
    return correlate2d(seen, mask[::-1, ::-1], "same") > 0


def test_blind_spot_is_what_no_path_through_the_masks_reaches():
    blocks = 4
    reach = recipe.FIRST + blocks
    keras.utils.set_random_seed(1)
    networks = {
        name: build(levels=2, filters=8, blocks=blocks)
        for name, build in BUILDS.items()
    }
    views = recipe.find_views(networks, reach, seed=0)

    seen = np.zeros((2 * reach + 1, 2 * reach + 1), bool)
    seen[reach, reach] = True
    for _ in range(blocks):
        seen = grow(seen, recipe.causal_mask(3, include_self=True))
    seen = grow(seen, recipe.causal_mask(2 * recipe.FIRST + 1, include_self=False))
    np.testing.assert_array_equal(views["masked"], seen)
    before = recipe.causal_mask(2 * reach + 1, include_self=False) > 0
    np.testing.assert_array_equal(views["gated"], before)
    assert np.sum(before & ~seen) == blocks * (blocks + 1) // 2


def all_pictures(height, width, levels):
    pictures = product(range(levels), repeat=height * width)
    return np.array(list(pictures)).reshape(-1, height, width)


def probabilities(network, level, levels):
    gray = np.asarray(recipe.to_gray(level, levels))[..., None]
    found = np.asarray(recipe.bits(network(gray), level))
    return 2.0 ** -found.astype("float64").sum(axis=(1, 2))


def test_probabilities_of_all_pictures_sum_to_1(network):
    level = all_pictures(2, 3, levels=3)
    found = probabilities(network, level, levels=3)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found.std() > 0


def test_painted_pictures_have_the_networks_distribution(random):
    keras.utils.set_random_seed(0)
    network = recipe.build_gated(levels=2, filters=8, blocks=1)
    for weight in network.weights:
        weight.assign(3 * weight)  # far from all the same
    level = all_pictures(2, 2, levels=2)
    expected = probabilities(network, level, levels=2)
    count = 4000
    painter = recipe.Painter(network, blocks=1)
    uniform = random.random((count, 2, 2), "float32")
    painted = painter.paint(np.zeros((count, 2, 2, 1), "float32"), uniform, 0)
    numbers = np.asarray(painted).reshape(count, 4).astype(int) @ [8, 4, 2, 1]
    counts = np.bincount(numbers, minlength=16)
    assert expected.max() > 2 * expected.min()
    assert chisquare(counts, count * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(9, 4), (3, 7)])
def test_painter_paints_what_the_whole_network_paints(gated, shape, random):
    """Also where there is more above and to the left than the network sees."""
    for weight in gated.weights:
        weight.assign(3 * weight)  # so that far pixels matter as well
    uniform = random.random((60, *shape), "float32")
    blank = np.zeros((60, *shape, 1), "float32")
    painter = recipe.Painter(gated, blocks=1)
    naive = recipe.paint_naively(gated, blank, uniform, shape[0] * shape[1])
    np.testing.assert_array_equal(painter.paint(blank, uniform, 0), naive)
    assert len(np.unique(naive)) == 3


def test_painter_keeps_the_rows_that_are_given(gated, random):
    given = np.round(2 * random.random((4, 6, 5, 1))).astype("float32") / 2
    uniform = random.random((2, 4, 6, 5), "float32")
    painter = recipe.Painter(gated, blocks=1)
    painted = [np.asarray(painter.paint(given, each, 3)) for each in uniform]
    np.testing.assert_array_equal(painted[0][:, :3], given[:, :3])
    assert np.any(painted[0][:, 3:] != painted[1][:, 3:])
    whole = recipe.paint_naively(gated, painted[0], uniform[0], 0)
    np.testing.assert_array_equal(whole, painted[0])


@pytest.mark.parametrize("uniform", [0.0, 0.19, 0.21, 0.69, 0.71, 0.999])
def test_level_is_where_the_sum_of_probabilities_passes(uniform):
    probabilities = np.array([0.2, 0.5, 0.3])
    found = recipe.draw_level(np.log(probabilities)[None], np.array([uniform]))
    assert int(found[0]) == np.searchsorted(probabilities.cumsum(), uniform, "right")


def test_levels_divide_the_grays_evenly_and_come_back():
    x = np.linspace(0, 1, 1000, endpoint=False)
    level = np.asarray(recipe.quantize(x, 4))
    np.testing.assert_array_equal(np.bincount(level), [250] * 4)
    assert int(recipe.quantize(np.array(1.0), 4)) == 3
    again = recipe.quantize(recipe.to_gray(np.arange(16), 16), 16)
    np.testing.assert_array_equal(again, np.arange(16))


def test_histogram_takes_the_entropy_of_each_pixel(random):
    level = random.choice(3, size=(5000, 2, 2), p=[0.7, 0.2, 0.1])
    histogram = recipe.Histogram(level, levels=3)
    expected = entropy([0.7, 0.2, 0.1], base=2)
    assert histogram.bits(level) == pytest.approx(expected, rel=0.02)
    drawn = histogram.draw(random.random((5000, 2, 2)))
    shares = np.bincount(drawn.ravel()) / drawn.size
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.02)


def test_table_counts_what_came_after_four_neighbors(random):
    level = random.integers(0, 2, size=(40, 4, 5))
    table = recipe.Table(level, levels=2)

    def neighbors(picture, r, c):
        places = [(r, c - 1), (r - 1, c - 1), (r - 1, c), (r - 1, c + 1)]
        return tuple(
            picture[i, j] if 0 <= i < 4 and 0 <= j < 5 else 0 for i, j in places
        )

    counts = {}
    for picture in level:
        for r, c in np.ndindex(4, 5):
            known = counts.setdefault(neighbors(picture, r, c), np.zeros(2))
            known[picture[r, c]] += 1
    shares = (np.bincount(level.ravel()) + 1) / (level.size + 2)
    total = 0
    for picture in level:
        for r, c in np.ndindex(4, 5):
            known = counts[neighbors(picture, r, c)] + shares
            total -= np.log2(known[picture[r, c]] / known.sum())
    assert table.bits(level) == pytest.approx(total / level.size)


def test_table_paints_by_its_probabilities(random):
    """Pictures that repeat the pixel above: a table knows it, and paints columns."""
    level = np.repeat(random.integers(0, 2, size=(200, 1, 6)), 5, axis=1)
    table = recipe.Table(level, levels=2)
    drawn = table.draw(random.random((300, 5, 6)))
    same = drawn[:, 1:] == drawn[:, :-1]
    assert same.mean() > 0.85
    assert 0.3 < drawn.mean() < 0.7


def test_sheet_has_the_images_side_by_side():
    level = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    sheet = recipe.lay_out(level, 2)
    assert sheet.shape == (4, 6)
    np.testing.assert_array_equal(sheet[:2, 3:], level[1])
    np.testing.assert_array_equal(sheet[2:, :3], level[2])
    np.testing.assert_array_equal(recipe.lay_out(level, 1), level.reshape(10, 3))


def test_files_of_random_levels_take_their_entropy(random):
    """No format can do with less than 2 bits of a pixel that has one of 4 levels."""
    level = random.integers(0, 4, size=(200, 8, 8))
    found = recipe.file_bits(level)
    assert set(found) == {"PNG", "gzip", "WebP"}
    assert all(1.99 < each < 2.7 for each in found.values())
    assert max(recipe.file_bits(np.zeros_like(level)).values()) < 0.1


def test_scorer_has_the_bits_of_each_pixel(gated, random):
    images = random.random((2, 4, 4, 1)).astype("float32")
    found = recipe.build_scorer(gated, size=4, levels=3)(images)
    level = np.minimum(np.floor(3 * images[..., 0]), 2).astype(int)
    logits = np.asarray(gated(level[..., None].astype("float32") / 2))
    chosen = np.take_along_axis(log_softmax(logits, axis=-1), level[..., None], -1)
    expected = -chosen[..., 0] / np.log(2)
    np.testing.assert_allclose(found["bits_by_pixel"], expected, atol=1e-4)
    np.testing.assert_allclose(found["bits"], expected.sum(axis=(1, 2)), rtol=1e-5)
