import keras
import numpy as np
import pytest
import small
from conftest import run_in_process

from recipes import texture_synthesis as ts


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return ts.build_network(8)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_distance_is_relative_for_each_picture_and_layer(random):
    target = random.normal(size=(2, 3, 3)).astype("float32")
    grams = [target, 3 * target, 0 * target]
    found = np.asarray(ts.distances(grams, [target] * 3))
    np.testing.assert_allclose(found, [[0, 4, 1]] * 2, atol=1e-6)


def test_energy_counts_the_layers_asked_for_and_colors_that_no_screen_shows(
    network, random
):
    textures = random.uniform(size=(2, 50, 50, 3)).astype("float32")
    pictures = random.uniform(size=(2, 60, 60, 3)).astype("float32")
    weights = np.array([[1, 0, 0, 0], [0, 0, 2, 0]], "float32")
    found = ts.energy_by(network, textures, weights)(pictures)
    grams = [
        [
            np.einsum("hwi,hwj->ij", maps[n], maps[n]) / maps[n][..., 0].size
            for n in range(2)
        ]
        for each in (textures, pictures)
        for maps in [np.asarray(m) for m in network(each)]
    ]
    targets, own = grams[:4], grams[4:]
    relative = [
        [
            ((own[k][n] - targets[k][n]) ** 2).sum() / (targets[k][n] ** 2).sum()
            for k in range(4)
        ]
        for n in range(2)
    ]
    np.testing.assert_allclose(found, [relative[0][0], 2 * relative[1][2]], rtol=1e-3)
    nothing = ts.energy_by(network, textures, 0 * weights)
    np.testing.assert_allclose(
        nothing(np.full((2, 50, 50, 3), 1.2, "float32")), 0.4, rtol=1e-4
    )
    np.testing.assert_allclose(
        nothing(np.full((2, 50, 50, 3), -0.1, "float32")), 0.1, rtol=1e-4
    )
    np.testing.assert_allclose(
        ts.energy_by(network, textures, weights)(textures), 0, atol=1e-9
    )


def test_random_phase_keeps_the_power_spectrum(random):
    picture = (0.5 + 0.02 * random.normal(size=(32, 32, 3))).astype("float32")
    noise = ts.random_phase(picture, random)
    power, other = (np.abs(np.fft.fft2(each, axes=(0, 1))) for each in (picture, noise))
    np.testing.assert_allclose(other, power, atol=1e-3)
    assert abs(np.corrcoef(picture.ravel(), noise.ravel())[0, 1]) < 0.2


def test_highest_correlation_finds_a_shifted_copy_and_none_in_noise(random):
    a, b = random.uniform(size=(2, 32, 32, 3))
    assert ts.highest_correlation(np.roll(a, (5, 9), axis=(0, 1)), a) == pytest.approx(
        1
    )
    assert ts.highest_correlation(a, b) < 0.25
    by_numpy = max(
        np.corrcoef(
            np.roll(a, (i, j), axis=(0, 1)).mean(-1).ravel(), b.mean(-1).ravel()
        )[0, 1]
        for i in range(32)
        for j in range(32)
    )
    assert ts.highest_correlation(a, b) == pytest.approx(by_numpy)


def test_peakedness_is_none_for_gaussian_noise_and_high_for_few_lines(random):
    assert abs(ts.peakedness(random.normal(size=(128, 128, 3)))) < 0.2
    lines = np.zeros((128, 128, 3))
    lines[::16] = lines[:, ::16] = 1
    # By hand: a sixteenth of the steps along an axis go up, and as many down, save on
    # the lines.
    share = np.mean(np.abs(np.diff(lines[..., 0], axis=0)))
    assert ts.peakedness(lines) == pytest.approx(1 / share - 3, rel=0.01)


def test_a_network_of_ones_own(tmp_path):
    model = small.save_two_convolutions(tmp_path / "own.keras", 48)
    own = ["--model", model, "--steps", "20", "--textures", "flower, grass"]
    finished = run_in_process("texture_synthesis", tmp_path / "run", *own)
    assert finished.code == 0
    assert set(finished.metrics["metrics"]) == {
        "texture_distance flower",
        "texture_distance grass",
    }
    assert finished.metrics["claims"] == []
    assert finished.metrics["figures"] == ["textures.png"]
    assert finished.metrics["trainings"] == {"planned": 1, "begun": 1}


def test_an_unknown_texture_gets_one_clear_line(tmp_path, capsys):
    finished = run_in_process(
        "texture_synthesis", tmp_path / "run", "--textures", "brick, bric"
    )
    assert finished.code == 2
    assert "bric: neither a picture file nor one of" in capsys.readouterr().err
