import keras
import numpy as np
import pytest
import small
from conftest import run_in_process
from PIL import Image

from recipes import fast_style_transfer as fst


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return fst.build_network(8)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_energy_is_the_sum_of_the_two_by_numpy(network, random):
    painted, contents = random.uniform(size=(2, 2, 48, 48, 3)).astype("float32")
    style = random.uniform(size=(56, 40, 3)).astype("float32")
    energy = fst.Energy(network, style, 3.0, 0.0)
    found = np.asarray(energy(painted, network(contents)[energy.layer]))
    for n in range(2):
        own, goal = (
            [np.asarray(m)[n].reshape(-1, 8) for m in network(p)]
            for p in (painted, contents)
        )
        example = [np.asarray(maps).reshape(-1, 8) for maps in network(style[None])]
        content = ((own[2] - goal[2]) ** 2).sum() / (
            (goal[2] - goal[2].mean(axis=0)) ** 2
        ).sum()
        grams = [
            (f.T @ f / len(f), g.T @ g / len(g))
            for f, g in zip(own, example, strict=True)
        ]
        of_style = np.mean([((f - g) ** 2).sum() / (g**2).sum() for f, g in grams])
        assert found[n] == pytest.approx(content + 3 * of_style, rel=1e-3)
    assert np.asarray(
        energy(style[None], network(style[None])[energy.layer])
    ) == pytest.approx(0)


def test_energy_counts_the_total_variation_by_numpy(network, random):
    painted, contents = random.uniform(size=(2, 2, 48, 40, 3)).astype("float32")
    energies = [fst.Energy(network, painted[0], 3.0, weight) for weight in (0.0, 2.0)]
    goal = network(contents)[energies[0].layer]
    without, with_it = (np.asarray(energy(painted, goal)) for energy in energies)
    variation = [
        (np.abs(np.diff(each, axis=0)).sum() + np.abs(np.diff(each, axis=1)).sum())
        / each.size
        for each in painted
    ]
    np.testing.assert_allclose(with_it - without, 2 * np.array(variation), rtol=1e-3)


def test_the_loss_is_the_mean_logarithm(network, random):
    style, *photos = random.uniform(size=(3, 48, 48, 3)).astype("float32")
    energy = fst.Energy(network, style, 2.0, 1.0)
    apprentice = fst.Apprentice(fst.build_painter(4), energy)
    x, painted = np.stack(photos), random.uniform(size=(2, 48, 48, 3)).astype("float32")
    loss = apprentice.compute_loss(x=x, y_pred=painted)
    energies = np.asarray(energy(painted, network(x)[energy.layer]))
    assert float(loss) == pytest.approx(np.log(energies).mean(), rel=1e-5)


def test_only_the_painter_learns_and_all_of_it_does(network, random):
    painter = fst.build_painter(4)
    style, *photos = random.uniform(size=(3, 48, 48, 3)).astype("float32")
    apprentice = fst.Apprentice(painter, fst.Energy(network, style, 1.0, 1.0))
    apprentice.compile(optimizer=keras.optimizers.Adam(1e-2), run_eagerly=True)
    before = [np.array(each) for each in painter.weights]
    features = [np.array(each) for each in network.weights]
    apprentice.fit(np.stack(photos), np.zeros(2), verbose=0)
    assert len(apprentice.trainable_variables) == len(painter.trainable_variables)
    for old, new in zip(before, painter.weights, strict=True):
        assert not np.array_equal(old, new), new.path
    for old, new in zip(features, network.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_painter_takes_pictures_of_any_size(random):
    painter = fst.build_painter(4)
    for shape in ((1, 32, 48, 3), (2, 20, 20, 3)):
        painted = np.asarray(painter(random.uniform(size=shape)))
        assert painted.shape == shape
        assert 0 <= painted.min() <= painted.max() <= 1


def test_the_painter_has_the_weights_counted_by_hand():
    """Kernels of ten convolutions, a bias, and a scale and shift where a map is
    normalized."""
    kernels = (
        25 * 3 * 4 + 9 * 4 * 8 + 9 * 8 * 12 + 6 * 9 * 12 * 12 + 9 * 12 * 8 + 9 * 8 * 4
    )
    maps = 4 + 8 + 12 + 6 * 12 + 8 + 4
    last = 25 * 4 * 3 + 3
    assert fst.build_painter(4).count_params() == kernels + 3 * maps + last


def test_instance_normalisation_forgets_contrast_and_brightness(random):
    painter = fst.build_painter(4)
    photo = random.uniform(size=(1, 64, 64, 3)).astype("float32")
    first = keras.Model(
        painter.input, painter.layers[2].output
    )  # after the first normalization
    bright, dull = np.asarray(first(photo)), np.asarray(first(0.4 * photo + 0.3))
    # Not at the border, where zeros stand beside the picture.
    np.testing.assert_allclose(bright.mean(axis=(1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(bright.std(axis=(1, 2)), 1, atol=2e-2)
    np.testing.assert_allclose(dull.std(axis=(1, 2)), 1, atol=2e-2)
    together = np.asarray(first(np.concatenate([photo, 0 * photo])))
    np.testing.assert_allclose(together[:1], bright, atol=1e-4)


def test_crops_are_squares_of_the_photographs_half_of_them_flipped(random):
    photos = random.uniform(size=(3, 12, 12, 3))
    crops = fst.random_crops(photos, 8, 6, random)
    assert crops.shape == (6, 8, 8, 3)
    for number, crop in enumerate(crops):
        upright = crop[:, ::-1] if number % 2 else crop
        windows = np.lib.stride_tricks.sliding_window_view(photos, (8, 8), axis=(1, 2))
        distances = np.abs(np.moveaxis(windows, 3, -1) - upright).max(axis=(3, 4, 5))
        assert distances.min() == 0


def test_a_picture_of_ones_own_and_a_bad_one(tmp_path, random, capsys):
    Image.fromarray(random.integers(256, size=(50, 60, 3)).astype("uint8")).save(
        tmp_path / "a.png"
    )
    sizes = {
        "size": 40,
        "test-size": 48,
        "style-size": 48,
        "filters": 4,
        "width": 2,
        "crops": 4,
        "epochs": 1,
    }
    small = [
        part
        for name, value in (sizes | {"steps": 2}).items()
        for part in (f"--{name}", str(value))
    ]
    own = [*small, "--image", str(tmp_path / "a.png")]
    finished = run_in_process("fast_style_transfer", tmp_path / "run", *own)
    assert finished.metrics["finished"]
    assert finished.metrics["figures"][0] == "own.png"
    bad = run_in_process("fast_style_transfer", tmp_path / "bad", "--image", "none.png")
    assert bad.code == 2
    assert "--image none.png: there is no such file" in capsys.readouterr().err
    bad = run_in_process("fast_style_transfer", tmp_path / "size", "--test-size", "250")
    assert bad.code == 2
    assert "--size 128 --test-size 250 --style-size 128: " in capsys.readouterr().err


def test_a_network_of_ones_own(tmp_path):
    model = small.save_two_convolutions(tmp_path / "own.keras", 40)
    own = ["--model", model, "--width", "2", "--crops", "4", "--epochs", "1"]
    finished = run_in_process("fast_style_transfer", tmp_path / "run", *own)
    assert finished.metrics["finished"]
    assert set(finished.metrics["metrics"]) == {"energy_left"}
    assert finished.metrics["figures"] == ["pictures.png"]
    assert finished.metrics["trainings"] == {"planned": 1, "begun": 1}
